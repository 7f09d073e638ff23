"""What one configuration of a benchmark is, and how its fields are given as text."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
import re
from typing import Any, Self

from fisa_ros.core.class_names import MAX_SYNONYMS
from fisa_ros.core.errors import FisaError
from fisa_ros.core.vocabulary import MONO16_MAX_ID
from fisa_ros.pipeline.segmenter import MAX_IMAGE_PIXELS, MAX_IMAGE_SIDE
from fisa_ros.runtime.factory import PRECISIONS
from fisa_ros.tools.benchmark_backends import BACKEND_FACTORIES

_MAX_THREADS = 1024
_MAX_CAMERAS = 16
_MAX_MASKS = 65535


class BenchmarkError(FisaError):
    """A benchmark that was asked for something it cannot do."""


@dataclass(frozen=True, slots=True)
class Configuration:
    """One way to segment frames; each field is a key of `--sweep` and `--against`.

    Attributes:
        model: Name or manifest of the model.
        backend: One of `BACKEND_FACTORIES`.
        device: auto, cpu or cuda:0.
        threads: Threads of an operator on a CPU; None is the back-end's own choice.
        precision: One of `PRECISIONS`.
        masks: Number of masks, those of the queries that find most; None is as many as the model has.
        size: Width and height of the images.
        vocabulary: As `VocabularyRequest.parse` takes it.
        words: Number of classes; None is as many as the vocabulary has.
        synonyms: Names of each class besides its first; None is those that it has.
        cameras: Cameras that send images, through ROS only.

    Raises:
        BenchmarkError: A value is out of range.
    """

    model: str = 'fisa-tiny'
    backend: str = 'auto'
    device: str = 'auto'
    threads: int | None = None
    precision: str = 'auto'
    masks: int | None = None
    size: tuple[int, int] = (640, 480)
    vocabulary: str = 'indoor'
    words: int | None = None
    synonyms: int | None = None
    cameras: int = 1

    def __post_init__(self) -> None:
        if self.backend not in BACKEND_FACTORIES:
            raise BenchmarkError(f'unknown back-end {self.backend!r}, choose one of {", ".join(BACKEND_FACTORIES)}')
        if not re.fullmatch(r'auto|cpu|cuda(:\d{1,3})?', self.device):
            raise BenchmarkError(f'unknown device {self.device!r}, choose auto, cpu, cuda or cuda:<number>')
        if self.precision not in PRECISIONS:
            raise BenchmarkError(f'unknown precision {self.precision!r}, choose one of {", ".join(PRECISIONS)}')
        width, height = self.size
        if not (min(self.size) >= 1 and max(self.size) <= MAX_IMAGE_SIDE and width * height <= MAX_IMAGE_PIXELS):
            raise BenchmarkError(
                f'size is {width}x{height}: sides must be in 1..{MAX_IMAGE_SIDE} with at most {MAX_IMAGE_PIXELS} pixels'
            )
        for name, low, high in (
            ('threads', 1, _MAX_THREADS),
            ('masks', 1, _MAX_MASKS),
            ('words', 1, MONO16_MAX_ID),
            ('synonyms', 0, MAX_SYNONYMS),
            ('cameras', 1, _MAX_CAMERAS),
        ):
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                raise BenchmarkError(f'{name} must be in {low}..{high}, got {value}')

    def changed(self, values: Mapping[str, str]) -> Self:
        """Return a configuration in which fields have other values, given as text.

        Raises:
            BenchmarkError: There is no such field, or its value cannot be read or is out of range.
        """
        unknown = next((key for key in values if key not in KEYS), None)
        if unknown is not None:
            raise BenchmarkError(f'unknown key {unknown!r}, choose one of {", ".join(KEYS)}')
        return replace(self, **{key: _PARSERS.get(key, _text)(key, text) for key, text in values.items()})

    def describe(self, key: str) -> Any:
        """Return the value of a field for people and JSON: "640x480" for a size."""
        value = asdict(self)[key]
        return '{}x{}'.format(*value) if key == 'size' else value


KEYS = tuple(field.name for field in fields(Configuration))


def parse_pairs(texts: Sequence[str]) -> dict[str, str]:
    """Read texts of the form key=value.

    Raises:
        BenchmarkError: One has another form, or a key comes twice.
    """
    pairs: dict[str, str] = {}
    for text in texts:
        key, separator, value = text.partition('=')
        if not separator or not value:
            raise BenchmarkError(f'{text!r} is not of the form key=value')
        if key in pairs:
            raise BenchmarkError(f'{key} is given twice, {pairs[key]!r} and {value!r}')
        pairs[key] = value
    return pairs


def parse_sweep(text: str) -> tuple[str, list[str]]:
    """Read the key and the values of a sweep, "words=1,10,100".

    Raises:
        BenchmarkError: The text has another form or fewer than two values.
    """
    ((key, listed),) = parse_pairs([text]).items()
    values = [value.strip() for value in listed.split(',')]
    if len(values) < 2 or not all(values):
        raise BenchmarkError(f'a sweep needs at least two values, got {text!r}')
    if len(set(values)) < len(values):
        raise BenchmarkError(f'a sweep needs different values, got {text!r}')
    return key, values


def _text(_: str, text: str) -> str:
    return text


def _number(key: str, text: str) -> int:
    if not re.fullmatch(r'-?\d{1,9}', text):
        raise BenchmarkError(f'{key} must be a whole number, got {text!r}')
    return int(text)


def _size(key: str, text: str) -> tuple[int, int]:
    match = re.fullmatch(r'(\d{1,9})x(\d{1,9})', text)
    if match is None:
        raise BenchmarkError(f'{key} must be of the form 640x480, got {text!r}')
    return int(match[1]), int(match[2])


_PARSERS: dict[str, Callable[[str, str], Any]] = {
    'size': _size,
    'threads': _number,
    'masks': _number,
    'words': _number,
    'synonyms': _number,
    'cameras': _number,
}
