"""Vocabularies of a wanted size, for measuring what words cost."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
import hashlib
from itertools import count, islice
from typing import Any

import numpy as np

from fisa_ros.core.class_names import MAX_SYNONYMS, name_key
from fisa_ros.core.errors import VocabularyError
from fisa_ros.core.vocabulary import MONO16_MAX_ID, Vocabulary, VocabularyRegistry, VocabularyRequest
from fisa_ros.core.vocabulary_state import VocabularyState, build_state, unit_rows
from fisa_ros.pipeline.segmenter import Segmenter

_CONSONANTS, _VOWELS = 'bdfgklmnprstvz', 'aeiou'
_SYLLABLES = [consonant + vowel for consonant in _CONSONANTS for vowel in _VOWELS]


@dataclass(frozen=True, slots=True)
class SizedVocabulary:
    """A vocabulary and which of its names mean nothing.

    Attributes:
        vocabulary: The classes; the real ones come first.
        made_up: Names that were invented to fill it up.
    """

    vocabulary: Vocabulary
    made_up: frozenset[str]

    @classmethod
    def make(cls, text: str, words: int | None = None, synonyms: int | None = None) -> 'SizedVocabulary':
        """Take the first words of a vocabulary, and invent what is missing.

        Args:
            text: A vocabulary as `VocabularyRequest.parse` takes it.
            words: Number of classes, by default as many as it has.
            synonyms: Names of each class besides its first, by default those that it has.

        Raises:
            VocabularyError: A number is out of range, or the vocabulary cannot be read.
        """
        if words is not None and not 1 <= words <= MONO16_MAX_ID:
            raise VocabularyError(f'words must be in 1..{MONO16_MAX_ID}, got {words}')
        if synonyms is not None and not 0 <= synonyms <= MAX_SYNONYMS:
            raise VocabularyError(f'synonyms must be in 0..{MAX_SYNONYMS}, got {synonyms}')
        registry = VocabularyRegistry(max_id=MONO16_MAX_ID)
        real = registry.propose(VocabularyRequest.parse(text)).classes
        inventor = _invent({name_key(name) for entry in real for name in entry.names})
        made_up: set[str] = set()

        def more(number: int) -> tuple[str, ...]:
            names = tuple(islice(inventor, max(0, number)))
            made_up.update(names)
            return names

        classes = []
        for row in range(len(real) if words is None else words):
            names = real[row].names if row < len(real) else more(1)
            if synonyms is not None:
                names = names[: synonyms + 1] + more(synonyms + 1 - len(names))
            classes.append(names)
        kinds = zip(classes, real, strict=False)
        stuff = tuple(names[0] for names, entry in kinds if not entry.is_thing)
        things = tuple(names[0] for names in classes if names[0] not in stuff)
        request = VocabularyRequest(tuple(map(', '.join, classes)), stuff, thing_classes=things)
        return cls(registry.propose(request), frozenset(made_up))

    @property
    def num_names(self) -> int:
        """Largest number of names of a class."""
        return max(len(entry.names) for entry in self.vocabulary.classes)

    def prepare(self, segmenter: Segmenter) -> VocabularyState:
        """Encode the real names; the others get random embeddings, for which time does not depend on values."""
        if not self.made_up:
            return segmenter.prepare(self.vocabulary)
        real = [
            replace(entry, names=names)
            for entry in self.vocabulary.classes
            if (names := tuple(name for name in entry.names if name not in self.made_up))
        ]
        encoded = segmenter.prepare(Vocabulary(self.vocabulary.version, tuple(real))).text_embeddings
        embeddings = {
            name: encoded[row, column] for row, entry in enumerate(real) for column, name in enumerate(entry.names)
        }
        for name in self.made_up:
            seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8])
            values = np.random.default_rng(seed).standard_normal((encoded.shape[-1],), np.float32)
            embeddings[name] = unit_rows(values)
        return build_state(self.vocabulary, embeddings, segmenter.backend.num_semantic_tokens)

    def document(self) -> dict[str, Any]:
        """Return the content of a vocabulary file."""
        return {
            'classes': [
                {'name': entry.name, 'synonyms': list(entry.names[1:]), 'stuff': not entry.is_thing}
                for entry in self.vocabulary.classes
            ]
        }


def _invent(known: set[str]) -> Iterator[str]:
    """Yield distinct words of at least three syllables that are not among `known`."""
    base = len(_SYLLABLES)
    for number in count(base * base):
        syllables = []
        while number:
            number, digit = divmod(number, base)
            syllables.append(_SYLLABLES[digit])
        word = ''.join(syllables)
        if name_key(word) not in known:
            yield word
