"""The rules for class names: how they are cleaned, compared and refused."""

import string
import unicodedata

from fisa_ros.core.errors import VocabularyError

MAX_NAME_LENGTH = 100
MAX_SYNONYMS = 8
MAX_NAMES = MAX_SYNONYMS + 1

# Persian and Indic spelling needs them, and joined emoji contain them.
_ALLOWED_FORMAT_CHARACTERS = '\u200c\u200d'


def name_key(name: str) -> str:
    """Return the form in which two spellings of one name are equal."""
    return unicodedata.normalize('NFKC', unicodedata.normalize('NFKC', name).casefold())


def clean_name(text: str) -> str:
    """Return `text` trimmed, with single spaces inside.

    Raises:
        VocabularyError: The name is empty, too long, has control characters or neither a letter nor a digit.
    """
    name = text.strip(string.whitespace)
    for character in name:
        category = unicodedata.category(character)
        if category in ('Cc', 'Cs') or (category == 'Cf' and character not in _ALLOWED_FORMAT_CHARACTERS):
            raise VocabularyError(f'name {text!r} contains the control character U+{ord(character):04X}')
    name = unicodedata.normalize('NFC', ' '.join(name.split()))
    if not name:
        raise VocabularyError(f'empty name in {text!r}: give each name at least one letter or digit')
    if len(name) > MAX_NAME_LENGTH:
        raise VocabularyError(
            f'name {name[:30]!r}... has {len(name)} characters, at most {MAX_NAME_LENGTH} are allowed'
        )
    if ';' in name:
        raise VocabularyError(f'name {name!r} contains a semicolon: give each class as an entry of its own')
    if not any(unicodedata.category(character)[0] in 'LN' for character in name):
        raise VocabularyError(f'name {name!r} has no letter or digit')
    return name


def parse_names(text: str) -> tuple[str, ...]:
    """Return the names of one class, given as "sofa, couch": the first one labels, the others are synonyms.

    A name that occurs twice is kept once.

    Raises:
        VocabularyError: A name breaks a rule, or there are too many.
    """
    names: dict[str, str] = {}
    for part in text.split(','):
        if not part.strip():
            raise VocabularyError(f'empty name in class {text!r}: separate its names by single commas')
        name = clean_name(part)
        names.setdefault(name_key(name), name)
    if len(names) > MAX_NAMES:
        label = next(iter(names.values()))
        raise VocabularyError(f'class {label!r} has {len(names) - 1} synonyms, at most {MAX_SYNONYMS} are allowed')
    return tuple(names.values())
