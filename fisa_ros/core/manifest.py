"""Model manifests: one YAML file describes a model whole."""

from collections.abc import Mapping
from dataclasses import dataclass
import hashlib
from pathlib import Path
import shlex
from typing import Any

import yaml

from fisa_ros.core.errors import ManifestError, WeightsError
from fisa_ros.core.resources import share_dir
from fisa_ros.core.thresholds import Thresholds

_MAX_SIDE = 4096
_KEYS = (
    'name',
    'description',
    'licence',
    'image_size_hw',
    'weights',
    'generator',
    'classifier',
    'text_encoder',
    'prompt_templates',
    'thresholds',
)


@dataclass(frozen=True, slots=True)
class WeightsFile:
    """A file of weights and the sum that tells whether it is the right one.

    Attributes:
        path: Where the file is.
        sha256: Its sum; None where no weights are shipped and none are there.
    """

    path: Path
    sha256: str | None


@dataclass(frozen=True, slots=True)
class ModelManifest:
    """A model: what it is made of and how it is used.

    Attributes:
        name: Name of the model, the same as its file's.
        description: One sentence.
        licence: Licence of the weights.
        image_size_hw: Size to which images are scaled.
        weights: Where the weights are.
        generator: `type` and arguments of the mask generator.
        classifier: `type` and arguments of the mask classifier.
        text_encoder: `type` and arguments of the text encoder.
        prompt_templates: Sentences with one `{}` each, into which a name is put.
        thresholds: Defaults that fit the model.
        path: The manifest's own file; None where it has none.
    """

    name: str
    description: str
    licence: str
    image_size_hw: tuple[int, int]
    weights: WeightsFile
    generator: Mapping[str, Any]
    classifier: Mapping[str, Any]
    text_encoder: Mapping[str, Any]
    prompt_templates: tuple[str, ...]
    thresholds: Thresholds
    path: Path | None = None

    @property
    def argument(self) -> str:
        """What names the model on a command line: its name if it is shipped, or else the path of its manifest."""
        is_shipped = self.path is None or self.path.parent == share_dir() / 'models'
        return self.name if is_shipped else str(self.path)


def shipped_models() -> tuple[str, ...]:
    """Return the names of the models that have a manifest in the package."""
    return tuple(sorted(path.stem for path in (share_dir() / 'models').glob('*.yaml')))


def load_manifest(name_or_path: str | Path) -> ModelManifest:
    """Read the manifest of a shipped model, by its name, or any manifest, by the path of its YAML file.

    Raises:
        ManifestError: The manifest is missing, cannot be read or breaks its form; the text says where.
    """
    path = Path(name_or_path).expanduser()
    if path.suffix not in ('.yaml', '.yml'):
        names = shipped_models()
        if str(name_or_path) not in names:
            known = f'shipped are {", ".join(names)}' if names else 'none is shipped'
            raise ManifestError(f'unknown model {str(name_or_path)!r}: {known}; or give the path of a manifest (.yaml)')
        path = share_dir() / 'models' / f'{name_or_path}.yaml'
    try:
        document = yaml.safe_load(path.read_text(encoding='utf-8'))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ManifestError(f'model manifest {path} cannot be read: {error}') from error
    return _build(_Reader(path, document))


def verify_weights(manifest: ModelManifest) -> None:
    """Check that the weights of a model are there and are the right ones.

    Raises:
        WeightsError: They are missing or damaged; the text says so too if none are shipped for the model.
    """
    weights = manifest.weights
    if weights.sha256 is None and not weights.path.is_file():
        raise WeightsError(f'{unshipped_weights(manifest)} (looked for {weights.path})')
    verify_file(weights.path, weights.sha256)


def unshipped_weights(manifest: ModelManifest) -> str:
    """Return what to say of a model that comes without weights."""
    return (
        f'no weights are shipped for model {manifest.name!r}; to try its size and speed with random ones: '
        f'python -m fisa_ros.tools.export --model {shlex.quote(manifest.argument)} --random-weights'
    )


def file_sha256(path: Path) -> str:
    """Return the sum of a file as hexadecimal digits.

    Raises:
        WeightsError: It cannot be read.
    """
    try:
        with path.open('rb') as file:
            return hashlib.file_digest(file, 'sha256').hexdigest()
    except OSError as error:
        raise WeightsError(f'weights {path} cannot be read: {error}') from error


def verify_file(path: Path, sha256: str | None) -> None:
    """Check that a file is there and, if its sum is given, that it is the right one.

    Raises:
        WeightsError: It is missing or its sum is another; the text names both sums.
    """
    found = file_sha256(path)
    if sha256 is not None and found != sha256:
        size = path.stat().st_size
        raise WeightsError(f'weights {path} ({size} bytes) are damaged: sha256 is {found}, expected {sha256}')


class _Reader:
    """Takes values out of a mapping and refuses what does not fit, with the file and the key in the text."""

    def __init__(self, path: Path, mapping: Any, prefix: str = '') -> None:
        self.path = path
        self.prefix = prefix
        if not isinstance(mapping, dict):
            raise ManifestError(f'model manifest {path}: {prefix.rstrip(".") or "the file"} must be a mapping')
        self.mapping = mapping

    def refuse_unknown(self, known: tuple[str, ...]) -> None:
        for key in self.mapping:
            if key not in known:
                raise self.error(str(key), f'is unknown, known are {", ".join(known)}')

    def error(self, key: str, text: str) -> ManifestError:
        return ManifestError(f'model manifest {self.path}: {self.prefix}{key} {text}')

    def get(self, key: str) -> Any:
        if key not in self.mapping:
            raise self.error(key, 'is missing')
        return self.mapping[key]

    def text(self, key: str) -> str:
        value = self.get(key)
        if not isinstance(value, str) or not value.strip():
            raise self.error(key, f'must be text, got {value!r}')
        return value.strip()

    def component(self, key: str) -> Mapping[str, Any]:
        reader = _Reader(self.path, self.get(key), f'{self.prefix}{key}.')
        reader.text('type')
        return dict(reader.mapping)

    def fraction(self, key: str) -> float:
        value = self.get(key)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0.0 <= value <= 1.0:
            raise self.error(key, f'must be a number in [0, 1], got {value!r}')
        return float(value)


def _build(reader: _Reader) -> ModelManifest:
    reader.refuse_unknown(_KEYS)
    name = reader.text('name')
    if name != reader.path.stem:
        raise reader.error('name', f'is {name!r}, but the file is {reader.path.name}')
    return ModelManifest(
        name=name,
        description=reader.text('description'),
        licence=reader.text('licence'),
        image_size_hw=_size(reader),
        weights=_weights(_Reader(reader.path, reader.get('weights'), 'weights.')),
        generator=reader.component('generator'),
        classifier=reader.component('classifier'),
        text_encoder=reader.component('text_encoder'),
        prompt_templates=_templates(reader),
        thresholds=_thresholds(_Reader(reader.path, reader.get('thresholds'), 'thresholds.')),
        path=reader.path,
    )


def _size(reader: _Reader) -> tuple[int, int]:
    size = reader.get('image_size_hw')
    if not isinstance(size, list) or len(size) != 2 or not all(type(v) is int and 1 <= v <= _MAX_SIDE for v in size):
        raise reader.error('image_size_hw', f'must be [height, width], each in 1..{_MAX_SIDE}, got {size!r}')
    return size[0], size[1]


def _weights(reader: _Reader) -> WeightsFile:
    reader.refuse_unknown(('file', 'sha256'))
    path = reader.path.parent / reader.text('file')
    if reader.get('sha256') is None:
        # The sum of what a user put there: graphs and embeddings of other weights must not pass for those of these.
        return WeightsFile(path, file_sha256(path) if path.is_file() else None)
    sha256 = reader.text('sha256').lower()
    if len(sha256) != 64 or not set(sha256) <= set('0123456789abcdef'):
        raise reader.error('sha256', f'must be 64 hexadecimal digits, got {sha256!r}')
    return WeightsFile(path, sha256)


def _templates(reader: _Reader) -> tuple[str, ...]:
    templates = reader.get('prompt_templates')
    if not isinstance(templates, list) or not templates:
        raise reader.error('prompt_templates', f'must be a list of sentences, got {templates!r}')
    for template in templates:
        if not isinstance(template, str) or template.count('{}') != 1:
            raise reader.error('prompt_templates', f'must have one {{}} in each sentence, got {template!r}')
    return tuple(templates)


def _thresholds(reader: _Reader) -> Thresholds:
    reader.refuse_unknown(('score', 'mask', 'overlap', 'objectness_trust'))
    trust = {'objectness_trust': reader.fraction('objectness_trust')} if 'objectness_trust' in reader.mapping else {}
    return Thresholds(reader.fraction('score'), reader.fraction('mask'), reader.fraction('overlap'), **trust)
