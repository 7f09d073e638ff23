"""Recipes: YAML files that say what is trained, on what and for how long."""

from collections.abc import Mapping
import dataclasses
from dataclasses import Field, dataclass, field
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, ClassVar, Literal, Protocol, Union, get_args, get_origin, get_type_hints

import yaml

from fisa_ros.core.errors import DataError
from fisa_ros.core.resources import share_dir
from fisa_ros.training.settings import Phase, Precision

_SPLITS = ('train', 'validation')
_NOT_IN_FILE = {'in_file': False}


class _Dataclass(Protocol):
    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]


@dataclass(frozen=True, slots=True)
class Recipe:
    """What one stage trains.

    Attributes:
        stage: Which one.
        seed: Of initial weights and batches.
        phases: Stretches of training, at least one.
        precision: Of the forward pass.
        dataset: A published data set, whose vocabulary names the categories; empty for a folder laid out as COCO's,
            whose own names they keep.
        splits: Which split of the data the stage takes for `train` and `validation`.
        initial: Shipped model or path of a manifest whose weights the stage starts from. A recipe of stage fisa that
            names no parts of its own takes them all from there, with their weights, text encoder and templates.
        generator: `type` and arguments of the mask generator.
        classifier: `type` and arguments of the classifier.
        text_encoder: `type` and arguments of the text encoder.
        prompt_templates: Sentences with one `{}`.
        options: Settings of this stage alone; the stage reads them with `parse_options`.
        where: Its file, for messages.
    """

    stage: Literal['clip', 'generator', 'fisa']
    seed: int
    phases: tuple[Phase, ...]
    precision: Precision = 'fp32'
    dataset: str = ''
    splits: Mapping[str, str] = field(default_factory=dict)
    initial: str | None = None
    generator: Mapping[str, Any] | None = None
    classifier: Mapping[str, Any] | None = None
    text_encoder: Mapping[str, Any] | None = None
    prompt_templates: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    where: str = field(default='', metadata=_NOT_IN_FILE)

    def __post_init__(self) -> None:
        if not self.phases:
            raise DataError('phases must name at least one')
        unknown = sorted(set(self.splits) - set(_SPLITS))
        if unknown:
            raise DataError(f'unknown entries {unknown} in splits, known are {", ".join(_SPLITS)}')
        object.__setattr__(self, 'splits', {name: self.splits.get(name, name) for name in _SPLITS})

    def settings(self) -> dict[str, Any]:
        """Return all that decides what comes out, as plain values."""
        return {name: value for name, value in dataclasses.asdict(self).items() if name != 'where'}

    @property
    def takes_initial_parts(self) -> bool:
        """Whether generator, classifier and text encoder are those of the initial model."""
        parts = (self.generator, self.classifier, self.text_encoder)
        return self.stage == 'fisa' and self.initial is not None and parts == (None, None, None)

    def scaled(self, factor: float) -> 'Recipe':
        """Return a recipe whose phases have `factor` times the steps, each at least one."""
        if not 0 < factor < float('inf'):
            raise DataError(f'the scale of the steps must be above 0, got {factor}')
        phases = tuple(dataclasses.replace(phase, steps=max(1, round(phase.steps * factor))) for phase in self.phases)
        return dataclasses.replace(self, phases=phases)


def load_recipe(name_or_path: str) -> Recipe:
    """Read a shipped recipe by name, or any by the path of its YAML file.

    Raises:
        DataError: It is missing or has unknown, missing or impossible entries.
    """
    folder = share_dir() / 'config' / 'recipes'
    path = Path(name_or_path) if name_or_path.endswith('.yaml') else folder / f'{name_or_path}.yaml'
    try:
        document = yaml.safe_load(path.read_text(encoding='utf-8'))
    except (OSError, ValueError, yaml.YAMLError) as error:
        shipped = ', '.join(sorted(entry.stem for entry in folder.glob('*.yaml')))
        raise DataError(f'recipe {name_or_path!r} cannot be read (shipped: {shipped}): {error}') from error
    return dataclasses.replace(parse_options(Recipe, document, str(path)), where=str(path))


def parse_options[T: _Dataclass](kind: type[T], options: object, where: str) -> T:
    """Build a dataclass from what a YAML file gives for its fields.

    Args:
        kind: Its annotations say what fits; whole numbers do for float.
        options: The mapping; fields with a default may be missing.
        where: File, and place in it, for messages.

    Raises:
        DataError: Entries are unknown, missing, of a wrong type or refused by the dataclass.
    """
    known = [entry for entry in dataclasses.fields(kind) if entry.metadata.get('in_file', True)]
    names = ', '.join(entry.name for entry in known) or 'none'
    if not isinstance(options, Mapping):
        raise DataError(f'{where}: must be a mapping with the entries {names}, got {options!r}')
    unknown = sorted(str(name) for name in options.keys() - {entry.name for entry in known})
    if unknown:
        raise DataError(f'{where}: unknown entries {unknown}, known are {names}')
    required = [
        entry.name
        for entry in known
        if entry.default is dataclasses.MISSING and entry.default_factory is dataclasses.MISSING
    ]
    missing = [name for name in required if name not in options]
    if missing:
        raise DataError(f'{where}: missing entries {missing}')
    hints = get_type_hints(kind)
    values = {name: _convert(value, hints[name], name, where) for name, value in options.items()}
    try:
        return kind(**values)
    except DataError as error:
        raise DataError(f'{where}: {error}') from error


def _convert(value: Any, wanted: Any, name: str, where: str) -> Any:
    origin, arguments = get_origin(wanted), get_args(wanted)
    if wanted is Any:
        return value
    if origin in (Union, UnionType):
        if value is None and NoneType in arguments:
            return None
        # Optional is the only union that options use.
        return _convert(value, next(entry for entry in arguments if entry is not NoneType), name, where)
    if origin is Literal and value in arguments:
        return value
    if dataclasses.is_dataclass(wanted):
        return parse_options(wanted, value, f'{where}: {name}')  # type: ignore[arg-type]
    if origin in (list, tuple) and isinstance(value, list):
        kinds = arguments if origin is tuple and Ellipsis not in arguments else arguments[:1] * len(value)
        if len(kinds) == len(value):
            numbered = enumerate(zip(value, kinds, strict=True))
            return origin(_convert(entry, kind, f'{name}[{n}]', where) for n, (entry, kind) in numbered)
    if isinstance(origin, type) and issubclass(origin, Mapping) and isinstance(value, Mapping):
        return {
            _convert(key, arguments[0], f'a name in {name}', where): _convert(
                entry, arguments[1], f'{name}.{key}', where
            )
            for key, entry in value.items()
        }
    if wanted is float and type(value) in (int, float):
        return float(value)
    if wanted in (int, bool, str) and type(value) is wanted:
        return value
    raise DataError(f'{where}: {name} must be {_text(wanted)}, got {value!r}')


def _text(wanted: Any) -> str:
    if get_origin(wanted) is Literal:
        return 'one of ' + ', '.join(str(entry) for entry in get_args(wanted))
    return str(wanted) if get_origin(wanted) is not None else str(wanted.__name__)
