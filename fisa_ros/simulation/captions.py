"""Sentences about simulated images and the objects in them, in the words that training may use."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from fisa_ros.core.results import Segment
from fisa_ros.datasets.synonyms import read_synonyms, shipped_synonyms

_SHELL = ('floor', 'wall', 'ceiling')
_MAX_LISTED = 5
_ATTRIBUTE_SHARE = 0.5
_COUNTS = {2: 'two', 3: 'three', 4: 'four'}
_OBJECT_TEMPLATES = (
    '{bare}', '{phrase}', 'the {bare}', 'a photo of {phrase}', 'a photo of the {bare}', 'a picture of {phrase}',
    'a close-up of {phrase}', 'a cropped photo of {phrase}', 'an image of {phrase}', '{phrase} in a room',
    '{phrase} indoors',
)  # fmt: skip
_IMAGE_TEMPLATES = (
    'a room with {list}', '{list} in a room', 'a photo of {list}', 'a picture of a room with {list}', '{list}',
    'an indoor scene with {list}', 'an interior with {list}',
)  # fmt: skip
# Nouns that say by themselves what a thing is made of or which colour it has: such an adjective is not said twice.
_MATERIAL_WORDS = frozenset(('wooden', 'plastic', 'metal', 'fabric', 'glass', 'steel', 'cardboard', 'brick', 'plaster'))
_COLOR_WORDS = frozenset(
    ('white', 'black', 'grey', 'red', 'orange', 'yellow', 'green', 'blue', 'purple', 'brown', 'beige')
)


@dataclass(frozen=True, slots=True)
class CaptionWords:
    """Words for the categories.

    Attributes:
        nouns: Per category its name and the synonyms for training; others have their name alone.
        held_out: Synonyms of any category that no caption may contain.
    """

    nouns: dict[str, tuple[str, ...]]
    held_out: tuple[str, ...]


@cache
def shipped_words() -> CaptionWords:
    """Return the words of `config/vocabularies/indoor_synonyms.yaml`."""
    synonyms = read_synonyms(shipped_synonyms())
    return CaptionWords(
        {name: (name, *entry.training) for name, entry in synonyms.items()},
        tuple(word for entry in synonyms.values() for word in entry.held_out),
    )


def object_caption(rng: np.random.Generator, category: str, attributes: tuple[str, ...], words: CaptionWords) -> str:
    """Return a caption of one object, in about half the cases with adjectives of it.

    Args:
        rng: Draws words and form.
        category: Name of its category.
        attributes: Adjectives that are true of it.
        words: The words.
    """
    bare, noun = _described(rng, category, attributes, words)
    phrase = f'the {bare}' if category in _SHELL else _with_article(bare, noun)
    return str(rng.choice(_OBJECT_TEMPLATES)).format(bare=bare, phrase=phrase)


def image_caption(
    rng: np.random.Generator,
    segments: Sequence[Segment],
    attributes: Sequence[tuple[str, ...]],
    words: CaptionWords,
) -> str:
    """Return a caption that names some of what is in an image.

    Args:
        rng: Draws words, order and form.
        segments: What is in the image.
        attributes: Adjectives of each of `segments`.
        words: The words.
    """
    groups: dict[str, list[tuple[str, ...]]] = defaultdict(list)
    for segment, adjectives in zip(segments, attributes, strict=True):
        if segment.class_name not in _SHELL:
            groups[segment.class_name].append(adjectives)
    if not groups:
        return str(rng.choice(('an empty room', 'a part of a room', 'a photo of an empty room')))
    names = sorted(groups)
    count = int(rng.integers(1, min(_MAX_LISTED, len(names)) + 1))
    phrases = []
    for index in rng.permutation(len(names))[:count]:
        members = groups[names[index]]
        common = tuple(adjective for adjective in members[0] if all(adjective in other for other in members))
        bare, noun = _described(rng, names[index], common, words)
        if len(members) == 1 or is_plural(noun):
            phrases.append(_with_article(bare, noun))
        else:
            phrases.append(f'{_COUNTS.get(len(members), "several")} {bare.removesuffix(noun)}{plural(noun)}')
    listed = phrases[0] if count == 1 else f'{", ".join(phrases[:-1])} and {phrases[-1]}'
    return str(rng.choice(_IMAGE_TEMPLATES)).format(list=listed)


def _described(
    rng: np.random.Generator, category: str, attributes: tuple[str, ...], words: CaptionWords
) -> tuple[str, str]:
    """Draw a noun, and adjectives for it; returns the noun with its adjectives, and the noun."""
    nouns = words.nouns.get(category, (category,))
    noun = nouns[int(rng.integers(len(nouns)))]
    is_described = rng.random() < _ATTRIBUTE_SHARE
    said = set(noun.split())
    fitting = [
        attribute
        for attribute in attributes
        if not said & (_COLOR_WORDS if attribute in _COLOR_WORDS else {attribute, *_MATERIAL_WORDS})
    ]
    chosen = fitting
    if len(fitting) > 1 and rng.random() < 0.5:
        chosen = [fitting[int(rng.integers(len(fitting)))]]
    bare = ' '.join([*chosen, noun]) if is_described else noun
    # An adjective and a noun may add up to a word that is held out, 'wooden chair' for one.
    return (noun if any(word in bare for word in words.held_out) else bare), noun


def _with_article(bare: str, noun: str) -> str:
    if is_plural(noun):
        return bare
    return f'an {bare}' if bare[0] in 'aeiou' else f'a {bare}'


def _head(noun: str) -> tuple[str, str]:
    """Split a noun before its first preposition: ('shelves', ' with books')."""
    for preposition in (' of ', ' with ', ' in ', ' on '):
        head, found, rest = noun.partition(preposition)
        if found:
            return head, found + rest
    return noun, ''


def is_plural(noun: str) -> bool:
    """Tell whether an English noun such as 'shelves with books' is a plural."""
    head, _ = _head(noun)
    return head.endswith('s') and not head.endswith('ss')


def plural(noun: str) -> str:
    """Return the plural of an English noun such as 'stack of books'."""
    head, rest = _head(noun)
    if head.endswith(('s', 'x', 'ch', 'sh')):
        head += 'es'
    elif head.endswith('lf'):
        head = head.removesuffix('f') + 'ves'
    elif head.endswith('y') and head[-2] not in 'aeiou':
        head = head.removesuffix('y') + 'ies'
    else:
        head += 's'
    return head + rest
