"""Files with other words for classes: some to train with, some kept out of training."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path

import yaml

from fisa_ros.core.class_names import name_key
from fisa_ros.core.errors import DataError
from fisa_ros.core.resources import share_dir


@dataclass(frozen=True, slots=True)
class Synonyms:
    """Other words for one class: those that training may use, and those that only tests use."""

    training: tuple[str, ...] = ()
    held_out: tuple[str, ...] = ()


_LISTS = tuple(field.name for field in fields(Synonyms))


def shipped_synonyms() -> Path:
    """Return the file of the simulated rooms' classes."""
    return share_dir() / 'config' / 'vocabularies' / 'indoor_synonyms.yaml'


def read_synonyms(path: Path) -> Mapping[str, Synonyms]:
    """Read a YAML file that maps names to `{training: [...], held_out: [...]}`; a list that is left out is empty.

    Returns:
        By name as it is written, in the order of the file.

    Raises:
        DataError: The file cannot be read, is no such file, or has a name twice in any case of letters.
    """
    try:
        document = yaml.safe_load(path.read_text(encoding='utf-8'))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise DataError(f'synonyms {path} cannot be read: {error}') from error
    if not isinstance(document, dict):
        raise DataError(f'{path} must map names to their synonyms')
    name_of: dict[str, str] = {}
    for name in document:
        if not isinstance(name, str):
            raise DataError(f'{path}: {name!r} is no text: put it in quotes')
        other = name_of.setdefault(name_key(name), name)
        if other != name:
            raise DataError(f'{path}: {other!r} and {name!r} are the same name')
    return {name: _synonyms(entry, f'{path}: {name}') for name, entry in document.items()}


def _synonyms(entry: object, where: str) -> Synonyms:
    if not isinstance(entry, dict) or not entry.keys() <= set(_LISTS):
        raise DataError(f'{where} must be a mapping of {" and ".join(_LISTS)}, got {entry!r}')
    for kind, words in entry.items():
        if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
            raise DataError(f'{where}: {kind} must be a list of words, got {words!r}')
    return Synonyms(**{kind: tuple(words) for kind, words in entry.items()})
