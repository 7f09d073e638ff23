"""Vocabularies in YAML files: the user's own and the shipped ones."""

from functools import cache
from pathlib import Path
from typing import Any

import yaml

from fisa_ros.core.class_names import clean_name, name_key
from fisa_ros.core.errors import VocabularyError
from fisa_ros.core.resources import share_dir

_CLASS_KEYS = ('name', 'synonyms', 'stuff', 'id')
_FILE_KEYS = ('description', 'classes')


def shipped_vocabulary(name: str) -> Path | None:
    """Return the file of the shipped vocabulary `name`, None where there is none."""
    if not name.replace('_', '').replace('-', '').isalnum():
        return None
    path = share_dir() / 'config' / 'vocabularies' / f'{name}.yaml'
    return path if path.is_file() else None


@cache
def shipped_stuff_words() -> frozenset[str]:
    """Return the keys of the shipped list of words that name stuff unless a request says otherwise."""
    document = _read(share_dir() / 'config' / 'vocabularies' / 'stuff_words.yaml')
    return frozenset(name_key(clean_name(word)) for word in document['stuff_words'])


def read_entries(path: Path) -> list[dict[str, Any]]:
    """Return the classes of a vocabulary file as mappings with `text` and perhaps `stuff` and `id`.

    Raises:
        VocabularyError: The file cannot be read or does not have the form of a vocabulary.
    """
    document = _read(path)
    if not isinstance(document, dict) or not isinstance(document.get('classes'), list):
        raise VocabularyError(f'{path} is not a vocabulary: it needs a list `classes:`')
    _refuse_unknown(document, _FILE_KEYS, str(path))
    return [_entry(value, f'{path}, class {number}') for number, value in enumerate(document['classes'], start=1)]


def _entry(value: Any, where: str) -> dict[str, Any]:
    if isinstance(value, str):
        return {'text': value}
    if not isinstance(value, dict):
        raise VocabularyError(f'{where}: {value!r} is neither text nor a mapping; put words such as "no" in quotes')
    _refuse_unknown(value, _CLASS_KEYS, where)
    synonyms = value.get('synonyms', [])
    if not isinstance(synonyms, list):
        raise VocabularyError(f'{where}: `synonyms` must be a list, got {synonyms!r}')
    names = [value.get('name'), *synonyms]
    for name in names:
        if not isinstance(name, str):
            raise VocabularyError(f'{where}: name {name!r} is not text; put words such as "no" in quotes')
    entry: dict[str, Any] = {'text': ', '.join(names)}
    for key, kind in (('stuff', bool), ('id', int)):
        if key in value:
            if type(value[key]) is not kind:
                raise VocabularyError(f'{where}: `{key}` must be {kind.__name__}, got {value[key]!r}')
            entry[key] = value[key]
    return entry


def _refuse_unknown(mapping: dict[Any, Any], known: tuple[str, ...], where: str) -> None:
    for key in mapping:
        if key not in known:
            raise VocabularyError(f'{where}: unknown key {key!r}, known are {", ".join(known)}')


def _read(path: Path) -> Any:
    try:
        return yaml.safe_load(path.read_text(encoding='utf-8'))
    except FileNotFoundError:
        raise VocabularyError(f'vocabulary file {path} does not exist') from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise VocabularyError(f'vocabulary file {path} cannot be read: {error}') from error
