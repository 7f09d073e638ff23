from dataclasses import replace
import math

import numpy as np
import pytest

from fisa_ros.core.errors import DataError
from fisa_ros.core.results import PanopticResult, Segment
from fisa_ros.core.vocabulary import VocabularyRegistry, VocabularyRequest
from fisa_ros.evaluation.void_check import VoidCheck, halves


def test_halves_are_complements_and_keep_ids():
    vocabulary = VocabularyRegistry().propose(VocabularyRequest(tuple(f'word {n}' for n in range(7))))
    first, second = halves(vocabulary)
    assert (len(first.classes), len(second.classes)) == (3, 4)
    assert sorted(first.classes + second.classes, key=lambda entry: entry.id) == list(vocabulary.classes)
    assert halves(vocabulary) == (first, second)
    assert halves(vocabulary, seed=1) != (first, second)
    with pytest.raises(DataError, match='at least 2 classes'):
        halves(replace(vocabulary, classes=vocabulary.classes[:1]))


def test_labels_on_removed_classes_are_counted(meadow):
    check = VoidCheck(meadow.categories)
    assert math.isnan(check.compute())
    panoptic_map = np.zeros((16, 16), np.uint16)
    panoptic_map[:, 6:] = 1
    result = PanopticResult(panoptic_map, (Segment(1, 1, 'cat', True, 0.5, 160, (6, 0, 16, 16)),), 1)
    cat, dog, grass = (entry.id for entry in meadow.categories.vocabulary.classes)
    # Removed are the dog, 8x8 pixels all of them labelled, and the grass, 10 of 16 columns.
    check.add(result, meadow.truth, (cat,))
    assert (check.pixels, check.mislabelled_pixels) == (64 + 128, 64 + 80)
    # With all words nothing is removed; without the grass its part comes in again.
    check.add(result, meadow.truth, (cat, dog, grass))
    check.add(result, meadow.truth, (cat, dog))
    assert check.compute() == pytest.approx((64 + 80 + 80) / (64 + 128 + 128))


def test_void_pixels_are_nobody_s(meadow):
    check = VoidCheck(meadow.categories)
    truth = meadow.truth.of(np.zeros((16, 16), int), [], meadow.categories)
    check.add(PanopticResult.empty((16, 16), 1), truth, ())
    assert check.pixels == 0
