"""Files that say which categories are base and which are novel."""

from dataclasses import dataclass
from pathlib import Path

import yaml

from fisa_ros.core.errors import DataError


@dataclass(frozen=True, slots=True)
class ClassSplit:
    """Names of categories: those that FISA is tuned on, and those that it is only tested on."""

    base: tuple[str, ...]
    novel: tuple[str, ...]


def read_class_split(path: Path) -> ClassSplit:
    """Read the lists `base` and `novel` of a YAML file.

    Raises:
        DataError: The file cannot be read, is no such file, or names a category twice.
    """
    try:
        document = yaml.safe_load(path.read_text(encoding='utf-8'))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise DataError(f'split file {path} cannot be read: {error}') from error
    if not isinstance(document, dict) or set(document) != {'base', 'novel'}:
        raise DataError(f'split file {path} must hold the lists base and novel, and nothing else')
    for part, names in document.items():
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise DataError(f'split file {path}: {part} must be a list of names of categories')
    listed = [*document['base'], *document['novel']]
    if twice := sorted({name for name in listed if listed.count(name) > 1}):
        raise DataError(f'split file {path} names twice: {", ".join(twice)}')
    return ClassSplit(tuple(document['base']), tuple(document['novel']))
