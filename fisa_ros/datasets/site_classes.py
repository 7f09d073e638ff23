"""Which classes a site has: those of the base vocabulary, and new ones."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import yaml

from fisa_ros.core.class_names import name_key, parse_names
from fisa_ros.core.errors import DataError, VocabularyError
from fisa_ros.core.vocabulary import Vocabulary, VocabularyClass, VocabularyRegistry, VocabularyRequest
from fisa_ros.datasets.coco_panoptic import DatasetCategory, PanopticDataset, SegmentInfo
from fisa_ros.datasets.site_images import names_beside
from fisa_ros.evaluation.category_map import category_words

UNKNOWN = 0
"""Category of segments whose class is in neither vocabulary, and of groups of base classes."""
NEW_CROWD = -2
"""Category of groups of a new class that are not told apart."""


@dataclass(frozen=True, slots=True)
class SiteClasses:
    """The classes of a site; each has a number: its position, from 1, the base classes first.

    Attributes:
        vocabulary: All of them; their ids are their numbers.
        num_base: How many of them are base classes.
    """

    vocabulary: Vocabulary
    num_base: int

    @property
    def base(self) -> Vocabulary:
        """The base classes alone."""
        return replace(self.vocabulary, classes=self.vocabulary.classes[: self.num_base])

    @property
    def new(self) -> tuple[VocabularyClass, ...]:
        """The new classes."""
        return self.vocabulary.classes[self.num_base :]

    @property
    def new_numbers(self) -> frozenset[int]:
        """Numbers of the new classes."""
        return frozenset(entry.id for entry in self.new)

    def number_of(self, name: str) -> int:
        """Return the number of the class that a category's name stands for; `UNKNOWN` where there is none."""
        number_of = {name_key(word): entry.id for entry in self.vocabulary.classes for word in entry.names}
        keys = map(name_key, category_words(name))
        return next((number_of[key] for key in keys if key in number_of), UNKNOWN)


def extend_vocabulary(base: VocabularyRequest, new: Sequence[str], stuff: Sequence[str] = ()) -> SiteClasses:
    """Return a base vocabulary with new classes, each given as "forklift, lift truck".

    Args:
        base: The classes that a model must go on knowing.
        new: The new ones.
        stuff: Those of them that are stuff, by their whole text.

    Raises:
        VocabularyError: A new name is in the base vocabulary, or breaks the rules of names.
    """
    plain = replace(base, class_ids=())
    known = VocabularyRegistry(max_id=65535).propose(plain)
    owner = {name_key(name): entry.name for entry in known.classes for name in entry.names}
    for text in new:
        for name in parse_names(text):
            if name_key(name) in owner:
                raise VocabularyError(
                    f'{name!r} is in the base vocabulary already, in class {owner[name_key(name)]!r}: '
                    'leave it out, or take it out of --vocabulary'
                )
    request = replace(
        plain, classes=(*plain.classes, *new), stuff_classes=(*plain.stuff_classes, *stuff),
        thing_classes=(*plain.thing_classes, *(text for text in new if text not in stuff)),
    )  # fmt: skip
    vocabulary = VocabularyRegistry(max_id=65535).propose(request)
    classes = tuple(replace(entry, id=number) for number, entry in enumerate(vocabulary.classes, start=1))
    return SiteClasses(replace(vocabulary, classes=classes), len(known.classes))


def site_classes(base: VocabularyRequest, dataset: PanopticDataset, named: Sequence[str]) -> SiteClasses:
    """Find the classes of a data set with masks.

    Args:
        base: The base vocabulary.
        dataset: Categories that occur in it and are not in the base vocabulary are new; underscores of their names
            stand for spaces.
        named: If there are any, only these classes are new; each may have synonyms.

    Raises:
        DataError: There is nothing new in it, or a name of it breaks the rules of names.
        VocabularyError: One of `named` does so or is in the base vocabulary.
    """
    known = extend_vocabulary(base, named)
    segments = [segment for record in dataset.records for segment in record.segments]
    if not segments:
        raise DataError(f'{dataset.path} has no mask of anything')
    used = {segment.category_id for segment in segments}
    told_apart = {segment.category_id for segment in segments if not segment.is_crowd}
    occurring = [entry for key, entry in dataset.categories.items() if key in used]
    found = [entry for entry in occurring if known.number_of(entry.name) == UNKNOWN and entry.id in told_apart]
    if not named:
        texts = {entry.id: entry.name.replace('_', ' ') for entry in found}
        try:
            known = extend_vocabulary(
                base, list(texts.values()), [texts[entry.id] for entry in found if not entry.is_thing]
            )
        except VocabularyError as error:
            raise DataError(f'{dataset.path}: {error}') from error
    numbers = {known.number_of(entry.name) for entry in occurring if entry.id in told_apart}
    crowds = [entry for entry in occurring if entry.id not in told_apart]
    hint = f'; {_listed(crowds)} are groups alone (iscrowd 1), which teach nothing: mark each object' if crowds else ''
    if missing := [entry.text for entry in known.new if entry.id not in numbers]:
        raise DataError(f'{dataset.path} has no mask of {"; ".join(missing)}: it has {_listed(occurring)}{hint}')
    if not known.new:
        raise DataError(
            f'{dataset.path} has masks of base classes alone, nothing new to learn: {_listed(occurring)}{hint}'
        )
    return known


def number_categories(dataset: PanopticDataset, classes: SiteClasses) -> PanopticDataset:
    """Return the same images with the numbers of `classes` as categories, `UNKNOWN` for what is none of them.

    A group that is not told apart becomes one segment of the category `NEW_CROWD` or `UNKNOWN`: its area counts, and
    nothing is learnt from it.
    """
    numbers = {key: classes.number_of(entry.name) for key, entry in dataset.categories.items()}

    def renumbered(segment: SegmentInfo) -> SegmentInfo:
        number = numbers[segment.category_id]
        if segment.is_crowd:
            number = NEW_CROWD if number in classes.new_numbers else UNKNOWN
        return replace(segment, category_id=number, is_crowd=False)

    records = tuple(
        replace(record, segments=tuple(renumbered(segment) for segment in record.segments))
        for record in dataset.records
    )
    return replace(dataset, categories=category_table(classes), records=records)


def category_table(classes: SiteClasses) -> Mapping[int, DatasetCategory]:
    """Return the classes as the categories of a data set."""
    return {entry.id: DatasetCategory(entry.id, entry.name, entry.is_thing) for entry in classes.vocabulary.classes}


def read_image_names(image: Path) -> list[str] | None:
    """Return what the file beside an image (NAME.txt, NAME.yaml or NAME.json) names; None without such a file.

    Raises:
        DataError: It cannot be read or is no list of names.
    """
    path = names_beside(image)
    if path is None:
        return None
    try:
        text = path.read_text(encoding='utf-8')
        lines = text.replace(';', '\n').splitlines() if path.suffix == '.txt' else yaml.safe_load(text)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise DataError(f'{path} cannot be read: {error}') from error
    if not isinstance(lines, list) or not all(isinstance(line, str) for line in lines):
        raise DataError(f'{path} must be a list of names, got {str(lines)[:60]}')
    return [line.strip() for line in lines if line.strip()]


def vocabulary_text(classes: SiteClasses, description: str) -> str:
    """Return the classes as the text of a vocabulary file."""
    entries = [
        {
            'name': entry.name,
            **({'synonyms': list(entry.names[1:])} if len(entry.names) > 1 else {}),
            'stuff': not entry.is_thing,
        }
        for entry in classes.vocabulary.classes
    ]
    return yaml.safe_dump({'description': description, 'classes': entries}, sort_keys=False, allow_unicode=True)


def _listed(categories: Sequence[DatasetCategory]) -> str:
    return ', '.join(entry.name for entry in categories) or 'none'
