"""Opens the images that a model is adapted with, and parts them into those to tune with and those to measure on."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fisa_ros.core.errors import DataError, VocabularyError
from fisa_ros.core.placement import Resize
from fisa_ros.core.vocabulary import VocabularyRequest
from fisa_ros.datasets.coco_panoptic import PanopticDataset
from fisa_ros.datasets.site_classes import (
    SiteClasses,
    extend_vocabulary,
    number_categories,
    read_image_names,
    site_classes,
)
from fisa_ros.datasets.site_images import Draw, SiteDataset, find_annotations, names_beside, open_folder, open_site
from fisa_ros.networks.segmentation_network import SegmentationNetwork
from fisa_ros.training.pseudo_masks import SureRule, name_masks
from fisa_ros.training.vocabulary_sampler import SampledVocabulary

MAX_REHEARSAL = 200
_HELD_OUT_SHARE = 0.2
_MIN_IMAGES_TO_HOLD_OUT = 3


@dataclass(frozen=True, slots=True)
class MaskedSite:
    """Images with masks.

    Attributes:
        dataset: The images; categories are the numbers of `classes`.
        classes: Base classes and new ones.
        source: Where the masks came from, in words.
        counts: Masks of each new class, by name.
        is_guessed: Whether the model itself made the masks, so that scores on them cannot show a gain.
    """

    dataset: PanopticDataset
    classes: SiteClasses
    source: str
    counts: Mapping[str, int]
    is_guessed: bool = False

    def __len__(self) -> int:
        return len(self.dataset)


@dataclass(frozen=True, slots=True)
class NamedSite:
    """Images of which only names are known.

    Attributes:
        folder: The images.
        classes: Base classes and new ones.
        allowed: Per image the numbers of the new classes that may be in it.
    """

    folder: SiteDataset
    classes: SiteClasses
    allowed: tuple[frozenset[int], ...]

    def __len__(self) -> int:
        return len(self.folder)

    def look(
        self,
        network: SegmentationNetwork,
        together: SampledVocabulary,
        size_hw: tuple[int, int],
        rule: SureRule,
        resize: Resize,
    ) -> MaskedSite:
        """Take the masks in which the model itself is sure of a new class.

        Raises:
            DataError: It is sure of none.
        """
        found = name_masks(network, self.folder, self.classes, together, self.allowed, size_hw, rule, resize)
        counts = {entry.name: found.taken[entry.id] for entry in self.classes.new}
        if not any(counts.values()):
            best = ', '.join(f'{entry.name} {found.best[entry.id]:.2f}' for entry in self.classes.new)
            raise DataError(
                f'no mask is sure enough of a new class: a score of {rule.min_score:g} is needed, the best are {best}. '
                'Draw masks for some images, or try other words'
            )
        return MaskedSite(found.dataset, self.classes, 'the model itself, where it was sure', counts, is_guessed=True)


def open_for_adapting(
    images: Path, annotations: Path | None, names: Sequence[str], base: VocabularyRequest
) -> MaskedSite | NamedSite:
    """Open the images of a site.

    Args:
        images: Their folder.
        annotations: Their masks; None looks for them, see `find_annotations`.
        names: New classes, each "forklift, lift truck"; may be empty where masks or files beside images say it.
        base: The base vocabulary.

    Raises:
        DataError: Images or masks are missing or broken, or there is nothing new.
        ImageError: An image cannot be read.
        VocabularyError: A new name breaks the rules or is in the base vocabulary.
    """
    annotations = annotations or find_annotations(images)
    if annotations is not None:
        dataset = open_site(images, annotations)
        classes = site_classes(base, dataset, names)
        dataset = number_categories(dataset, classes)
        listed = [segment.category_id for record in dataset.records for segment in record.segments]
        counts = {entry.name: listed.count(entry.id) for entry in classes.new}
        return MaskedSite(dataset, classes, str(annotations), counts)
    folder = open_folder(images)
    named = [read_image_names(record.image_path) for record in folder.records]
    if not names and not any(named):
        raise DataError(
            f'{images} has neither masks (a COCO JSON in or beside it, or --annotations) nor names of what is new: '
            'give --names "forklift, lift truck; tire", or a file NAME.txt beside each image'
        )
    classes = _named_classes(base, names, named, folder)
    new = classes.new_numbers
    allowed = tuple(new if found is None else new & {classes.number_of(name) for name in found} for found in named)
    return NamedSite(folder, classes, allowed)


def open_rehearsal(images: Path, annotations: Path | None, classes: SiteClasses, seed: int) -> PanopticDataset:
    """Open images that show base classes, with masks or without; of more than `MAX_REHEARSAL`, so many are drawn.

    Raises:
        DataError: Images or masks are missing or broken.
        ImageError: An image cannot be read.
    """
    annotations, drawn = annotations or find_annotations(images), Draw(MAX_REHEARSAL, seed)
    if annotations is None:
        return open_folder(images, drawn)
    return number_categories(open_site(images, annotations, drawn), classes)


def hold_out(dataset: PanopticDataset, new: frozenset[int], seed: int) -> tuple[list[int], list[int]]:
    """Return the images to tune with, and a fifth of them to measure on: none where there are fewer than three.

    Each new class stays in at least one image to tune with.
    """
    shown = [{segment.category_id for segment in record.segments} & new for record in dataset.records]
    wanted = max(1, round(len(dataset) * _HELD_OUT_SHARE)) if len(dataset) >= _MIN_IMAGES_TO_HOLD_OUT else 0
    left = Counter(number for numbers in shown for number in numbers)
    held: set[int] = set()
    for index in np.random.default_rng([seed, 9]).permutation(len(dataset)).tolist():
        if len(held) == wanted:
            break
        if shown[index] and all(left[number] > 1 for number in shown[index]):
            held.add(index)
            left.subtract(shown[index])
    return [index for index in range(len(dataset)) if index not in held], sorted(held)


def _named_classes(
    base: VocabularyRequest, names: Sequence[str], named: Sequence[Sequence[str] | None], folder: SiteDataset
) -> SiteClasses:
    """Return the given classes and those of the files beside images; base classes among the latter are nothing new."""
    known = extend_vocabulary(base, names)
    texts = list(names)
    for record, found in zip(folder.records, named, strict=True):
        for name in found or ():
            if known.number_of(name):
                continue
            texts.append(name)
            try:
                known = extend_vocabulary(base, texts)
            except VocabularyError as error:
                raise DataError(f'{names_beside(record.image_path)}: {error}') from error
    if not known.new:
        raise DataError(f'{folder.path}: the files beside the images name base classes alone, nothing new')
    return known
