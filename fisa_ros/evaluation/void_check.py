"""Whether a model leaves unlabelled what no word is for."""

from collections.abc import Collection
from dataclasses import replace

import numpy as np

from fisa_ros.core.errors import DataError
from fisa_ros.core.results import PanopticResult
from fisa_ros.core.vocabulary import Vocabulary
from fisa_ros.evaluation.category_map import CategoryMap
from fisa_ros.evaluation.image_truth import ImageTruth


def halves(vocabulary: Vocabulary, seed: int = 0) -> tuple[Vocabulary, Vocabulary]:
    """Return a vocabulary of half of the classes, drawn at random, and one of the others; ids stay.

    Raises:
        DataError: There is but one class.
    """
    count = len(vocabulary.classes)
    if count < 2:
        raise DataError('removing half of the words needs a vocabulary of at least 2 classes, this one has 1')
    kept = set(np.random.default_rng(seed).permutation(count)[: count // 2].tolist())
    first, second = (
        replace(
            vocabulary,
            classes=tuple(entry for row, entry in enumerate(vocabulary.classes) if (row in kept) is chosen),
        )
        for chosen in (True, False)
    )
    return first, second


class VoidCheck:
    """Counts the pixels whose class the vocabulary lacks, and those of them that got a label all the same.

    Args:
        categories: What the data set holds.
    """

    def __init__(self, categories: CategoryMap) -> None:
        self._class_of = {number: class_id for class_id, number in categories.class_numbers.items()}
        self.pixels = 0
        self.mislabelled_pixels = 0

    def add(self, result: PanopticResult, truth: ImageTruth, class_ids: Collection[int]) -> None:
        """Add one image that was segmented with these classes alone."""
        is_removed = np.array([self._class_of[int(number)] not in class_ids for number in truth.categories], np.bool_)
        removed = np.concatenate([[False], is_removed])[truth.panoptic_map]
        self.pixels += int(removed.sum())
        self.mislabelled_pixels += int((removed & (result.panoptic_map > 0)).sum())

    def compute(self) -> float:
        """Return the share of those pixels that carry a label; NaN where there are none."""
        return self.mislabelled_pixels / self.pixels if self.pixels else float('nan')
