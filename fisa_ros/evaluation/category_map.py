"""The categories of a data set as classes of a vocabulary."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
import re
from typing import Self

from fisa_ros.core.class_names import MAX_NAMES, clean_name, name_key
from fisa_ros.core.errors import DataError, VocabularyError
from fisa_ros.core.vocabulary import MONO16_MAX_ID, Vocabulary, VocabularyRegistry, VocabularyRequest
from fisa_ros.datasets.coco_panoptic import DatasetCategory
from fisa_ros.datasets.synonyms import read_synonyms

WORD_KINDS = ('vocabulary', 'names', 'training', 'held_out')
"""Which words stand for a class: all of the vocabulary's, its first name, or one list of a file of synonyms."""

# How COCO marks what is left of a group of categories, or a stuff category whose name a thing has too.
_COCO_SUFFIX = re.compile(r'(-(other|merged|stuff))+$')
_COCO_MATERIAL = re.compile(r'^(wall|floor)-(\w+)$')


@dataclass(frozen=True)
class CategoryMap:
    """Categories, numbered 1..C in the order of the data set, and the classes that they are looked for as.

    Attributes:
        names: Name of each category in the data set; number c is at c - 1.
        is_thing: By number.
        numbers: Number by the data set's category id; what is not here is void.
        vocabulary: The classes with all their words; a class that no category maps to may be among them.
        class_numbers: Number by class id of the vocabulary, for those classes that a category maps to.
    """

    names: tuple[str, ...]
    is_thing: Mapping[int, bool]
    numbers: Mapping[int, int]
    vocabulary: Vocabulary
    class_numbers: Mapping[int, int]

    @classmethod
    def from_names(cls, categories: Collection[DatasetCategory]) -> Self:
        """Make the vocabulary from the names of the data set.

        Raises:
            DataError: A name cannot be a word, or two categories have one name.
        """
        _check_names(categories)
        words = {entry.id: _usable_words(entry) for entry in categories}
        first: dict[str, DatasetCategory] = {}
        for entry in categories:
            other = first.setdefault(name_key(words[entry.id][0]), entry)
            if other is not entry:
                raise DataError(
                    f'categories {other.name!r} and {entry.name!r} have the same name {words[entry.id][0]!r}: '
                    'give each its own words in a vocabulary'
                )
        taken = set(first)
        texts = []
        for entry in categories:
            synonyms = [word for word in words[entry.id][1:] if name_key(word) not in taken]
            taken.update(map(name_key, synonyms))
            texts.append(', '.join([words[entry.id][0], *synonyms][:MAX_NAMES]))
        return cls._build(categories, VocabularyRequest(tuple(texts)), range(len(texts)))

    @classmethod
    def from_vocabulary(
        cls, categories: Collection[DatasetCategory], request: VocabularyRequest, *, ignore_unmapped: bool = False
    ) -> Self:
        """Find the class of each category: the one that has its name, or a synonym of it, in any case of letters.

        Args:
            categories: Of the data set.
            request: The words to use; ids in it are not used.
            ignore_unmapped: Whether the segments of categories without a class are void; otherwise they are an error.

        Raises:
            DataError: A category has no class, no category has one, or two categories have the same class or name.
            VocabularyError: The request breaks a rule.
        """
        _check_names(categories)
        classes = _propose(replace(request, class_ids=())).classes
        row_of = {name_key(name): row for row, entry in enumerate(classes) for name in entry.names}
        rows = [
            next((row_of[name_key(word)] for word in category_words(entry.name) if name_key(word) in row_of), None)
            for entry in categories
        ]
        unmapped = [entry.name for entry, row in zip(categories, rows, strict=True) if row is None]
        if len(unmapped) == len(rows) or (unmapped and not ignore_unmapped):
            raise DataError(
                f'{len(unmapped)} of {len(rows)} categories are in no class of the vocabulary: {", ".join(unmapped)}'
            )
        owner: dict[int, str] = {}
        for entry, row in zip(categories, rows, strict=True):
            if row is not None and owner.setdefault(row, entry.name) != entry.name:
                raise DataError(
                    f'categories {owner[row]!r} and {entry.name!r} are both class {classes[row].name!r} of the '
                    'vocabulary: give each a class of its own'
                )
        mapped = [entry for entry, row in zip(categories, rows, strict=True) if row is not None]
        return cls._build(mapped, replace(request, class_ids=()), [row for row in rows if row is not None])

    @classmethod
    def _build(cls, categories: Collection[DatasetCategory], request: VocabularyRequest, rows: Sequence[int]) -> Self:
        """Number the categories; `rows` has the class of each."""
        vocabulary = _propose(request)
        is_thing = {row: entry.is_thing for row, entry in zip(rows, categories, strict=True)}
        classes = tuple(
            replace(entry, is_thing=is_thing.get(row, entry.is_thing)) for row, entry in enumerate(vocabulary.classes)
        )
        return cls(
            names=tuple(entry.name for entry in categories),
            is_thing={number: entry.is_thing for number, entry in enumerate(categories, start=1)},
            numbers={entry.id: number for number, entry in enumerate(categories, start=1)},
            vocabulary=replace(vocabulary, classes=classes),
            class_numbers={classes[row].id: number for number, row in enumerate(rows, start=1)},
        )

    def rows_in(self, vocabulary: Vocabulary) -> dict[int, int]:
        """Return the row of each category's class by the number of the category, of those classes that are there."""
        return {
            self.class_numbers[entry.id]: row
            for row, entry in enumerate(vocabulary.classes)
            if entry.id in self.class_numbers
        }

    def words(self, kind: str, synonyms: Path) -> Vocabulary:
        """Return the same classes, with the same ids, by other words.

        Args:
            kind: One of `WORD_KINDS`.
            synonyms: See `read_synonyms`; read for the kinds 'training' and 'held_out'.

        Raises:
            DataError: The file cannot be read, or lacks synonyms of a class.
            VocabularyError: A synonym cannot be a word or belongs to two classes.
        """
        if kind == 'vocabulary':
            return self.vocabulary
        if kind == 'names':
            return self._renamed([entry.names[:1] for entry in self.vocabulary.classes])
        lists: dict[str, tuple[str, ...]] = {
            name_key(name): getattr(entry, kind) for name, entry in read_synonyms(synonyms).items()
        }
        found = [
            next((lists[key] for key in map(name_key, entry.names) if key in lists), ())
            for entry in self.vocabulary.classes
        ]
        missing = [entry.name for entry, words in zip(self.vocabulary.classes, found, strict=True) if not words]
        if missing:
            raise DataError(f'{synonyms} has no {kind} synonyms of: {", ".join(missing)}')
        return self._renamed(found)

    def numbered(self, names: Collection[str], where: str) -> frozenset[int]:
        """Return the numbers of the categories with these names, in any case of letters.

        Raises:
            DataError: There is no such category; the text names `where`.
        """
        number_of = {name_key(name): number for number, name in enumerate(self.names, start=1)}
        for entry in self.vocabulary.classes:
            if entry.id in self.class_numbers:
                number_of.setdefault(name_key(entry.name), self.class_numbers[entry.id])
        unknown = [name for name in names if name_key(name) not in number_of]
        if unknown:
            raise DataError(f'{where} names categories that the data set does not have: {", ".join(unknown)}')
        return frozenset(number_of[name_key(name)] for name in names)

    def _renamed(self, names: Sequence[tuple[str, ...]]) -> Vocabulary:
        checked = _propose(VocabularyRequest(tuple(', '.join(words) for words in names)))
        classes = tuple(
            replace(entry, names=other.names)
            for entry, other in zip(self.vocabulary.classes, checked.classes, strict=True)
        )
        return replace(self.vocabulary, classes=classes)


def category_words(name: str) -> tuple[str, ...]:
    """Return the words that a category's name may stand for, the most literal one first.

    Names of ADE20K hold synonyms ("door, double door"), those of LVIS underscores, those of Mapillary a path
    ("object--vehicle--car"), those of COCO suffixes ("sky-other-merged") and the material last ("wall-brick").
    """
    words = [name.strip()]
    for part in _parts(name):
        plain = _without_marks(part)
        words += [_as_spoken(plain), plain.replace('-', ' '), plain, part]
    return tuple(dict.fromkeys(word for word in words if word))


def _parts(name: str) -> list[str]:
    return [part.strip() for part in re.split(r'[,;]', name)]


def _without_marks(part: str) -> str:
    return _COCO_SUFFIX.sub('', part.replace('_', ' ').rsplit('--', 1)[-1])


def _as_spoken(plain: str) -> str:
    return _COCO_MATERIAL.sub(r'\2 \1', plain).replace('-', ' ')


def _usable_words(category: DatasetCategory) -> list[str]:
    """Return the words of a category as a vocabulary takes them, the one that labels it first."""
    try:
        words = [clean_name(_as_spoken(_without_marks(part))) for part in _parts(category.name)]
    except VocabularyError as error:
        raise DataError(
            f'category {category.id}, {category.name!r}, cannot be a word: {error}; give it words in a vocabulary'
        ) from error
    return list(dict.fromkeys(words))


def _check_names(categories: Collection[DatasetCategory]) -> None:
    first: dict[str, DatasetCategory] = {}
    for entry in categories:
        other = first.setdefault(entry.name, entry)
        if other is not entry:
            raise DataError(f'categories {other.id} and {entry.id} of the data set are both named {entry.name!r}')


def _propose(request: VocabularyRequest) -> Vocabulary:
    return VocabularyRegistry(max_id=MONO16_MAX_ID).propose(request)
