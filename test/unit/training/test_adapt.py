from pathlib import Path

import cv2
import numpy as np
import pytest

from fisa_ros.core.vocabulary import VocabularyRequest
from fisa_ros.datasets.coco_panoptic import ImageRecord, PanopticDataset, SegmentInfo
from fisa_ros.training.adapt import _best, _refusal
from fisa_ros.training.adapt_site import hold_out, open_for_adapting
from fisa_ros.training.mask_scores import MaskScores

BEFORE = MaskScores(0.1, 10, 0.9, 0.9, 50)


def scores(new, base):
    return MaskScores(new, 10, base, base, 50)


@pytest.mark.parametrize('seed', range(6))
def test_what_one_image_alone_shows_is_tuned_with(seed):
    shown = [(1, 5), (5,), (5, 6), (5,), (1,)]
    records = [
        ImageRecord(
            index, Path(f'{index}.png'), Path(f'{index}_map.png'), (8, 8),
            tuple(SegmentInfo(number, number, False) for number in numbers),
        )
        for index, numbers in enumerate(shown)
    ]  # fmt: skip
    tuned, held = hold_out(PanopticDataset(Path('site'), {}, records), frozenset({5, 6}), seed)
    assert len(held) == 1
    # Not the one with class 6, nor the one without a new class.
    assert held[0] in (0, 1, 3)
    assert sorted(tuned + held) == [0, 1, 2, 3, 4]


def test_the_best_step_keeps_the_base_classes():
    trials = {0.5: scores(0.6, 0.9), 0.7: scores(0.8, 0.895), 0.8: scores(0.8, 0.9), 1.0: scores(0.95, 0.7)}
    # The last loses too much; of two alike, the one closer to the weights before.
    assert _best(trials, BEFORE, 0.01) == 0.7
    assert _best(trials, BEFORE, 0.3) == 1.0
    # Where none is allowed, gains outweigh losses most.
    assert _best({0.5: scores(0.3, 0.8), 0.7: scores(0.8, 0.6), 1.0: scores(0.9, 0.3)}, BEFORE, 0.01) == 0.7


def test_no_gain_is_refused():
    assert 'no better than before (10.0 %, now 10.0 %)' in _refusal(BEFORE, BEFORE, 0.01)
    assert _refusal(BEFORE, scores(0.2, 0.9), 0.01) == ''


def test_a_file_beside_an_image_says_which_names_it_may_show(tmp_path):
    for name in 'ab':
        cv2.imwrite(str(tmp_path / f'{name}.png'), np.zeros((32, 32, 3), np.uint8))
    (tmp_path / 'a.txt').write_text('forklift\n')
    site = open_for_adapting(tmp_path, None, ('forklift, lift truck', 'tire'), VocabularyRequest.parse('floor; wall'))
    forklift, tire = (site.classes.number_of(name) for name in ('forklift', 'tire'))
    assert site.classes.new_numbers == {forklift, tire}
    assert site.allowed == ({forklift}, {forklift, tire})
