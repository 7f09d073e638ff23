from dataclasses import replace

import numpy as np
import pytest

from fisa_ros.core.errors import BackendUnavailableError, DataError
from fisa_ros.datasets.coco_panoptic import PanopticDataset
from fisa_ros.evaluation.calibrate_model import ModelCalibration
from fisa_ros.evaluation.evaluate_dataset import evaluate_dataset
from fisa_ros.evaluation.threshold_search import best_trial
from fisa_ros.pipeline.segmenter import Segmenter


def calibration_of(meadow, files, max_mislabelled=None):
    segmenter = meadow.segmenter
    return ModelCalibration(
        segmenter, PanopticDataset.open(*files), meadow.categories, meadow.categories.vocabulary,
        segmenter.default_thresholds, max_mislabelled=max_mislabelled,
    )  # fmt: skip


def test_the_temperature_makes_scores_as_sure_as_they_are_right(meadow, meadow_files):
    calibration = calibration_of(meadow, meadow_files)
    before, after = calibration.fit_temperature()
    assert calibration.images == 2
    assert before.temperature == 1
    # 2 of 3 true masks are right, and as many of the 3 predicted masks on an object; probabilities say 0.993.
    assert before.ece_masks == pytest.approx(0.9930 - 2 / 3, abs=1e-3)
    assert before.ece_predicted_masks == pytest.approx(before.ece_masks)
    assert after.temperature > 2
    assert after.nll < before.nll
    assert after.ece_masks < 0.6 * before.ece_masks
    assert meadow.segmenter.backend.temperature == after.temperature
    # A second fit starts from what was found and stays there.
    again = calibration_of(meadow, meadow_files).fit_temperature()
    assert again[0].temperature == after.temperature
    assert again[1].temperature == pytest.approx(after.temperature, rel=0.01)
    assert again[0].nll == pytest.approx(after.nll, rel=1e-3)


def test_quality_is_that_of_an_evaluation(meadow, meadow_files):
    calibration = calibration_of(meadow, meadow_files)
    thresholds = replace(meadow.segmenter.default_thresholds, score=0.85)
    evaluation = evaluate_dataset(
        meadow.segmenter, PanopticDataset.open(*meadow_files), meadow.categories,
        {'names': meadow.categories.vocabulary}, thresholds,
    )  # fmt: skip
    pq = evaluation.scorers['names'].summary()['pq']
    # Above 0.79 the false cat is gone: the cat's PQ rises from 1/2 to 3/4.
    assert calibration.measure(thresholds).pq == pytest.approx(pq) == pytest.approx((3 / 4 + 0 + 1) / 3)


def test_the_quality_of_a_model_that_is_right_about_a_padded_image_is_full(wide_meadow):
    meadow, files = wide_meadow
    calibration = calibration_of(meadow, files)
    assert calibration.measure(meadow.segmenter.default_thresholds).pq == pytest.approx(1.0)
    assert calibration.fit_temperature()[0].ece_predicted_masks < 0.02


def test_thresholds_are_chosen_for_the_best_quality(meadow, meadow_files):
    meadow.segmenter.backend.objectness[1] = 0.5
    trials = calibration_of(meadow, meadow_files).search_thresholds()
    assert trials[0].score == pytest.approx((1 / 2 + 0 + 1) / 3)
    best = best_trial(trials)
    assert best.thresholds.score == 0.5
    assert best.score == pytest.approx((3 / 4 + 0 + 1) / 3)


def test_labels_on_removed_classes_can_be_limited(meadow, meadow_files, monkeypatch):
    # The dog is surely a cat: with the dog removed and the cat kept it is mislabelled at any score below 0.99.
    classes = meadow.categories.vocabulary.classes
    parts = [replace(meadow.categories.vocabulary, classes=part) for part in (classes[::2], classes[1:2])]
    monkeypatch.setattr('fisa_ros.evaluation.calibrate_model.halves', lambda vocabulary: parts)
    meadow.segmenter.backend.objectness[:] = (0.9, 0.6, 0.9, 0.9)
    free = calibration_of(meadow, meadow_files)
    limited = calibration_of(meadow, meadow_files, max_mislabelled=0.1)
    start = meadow.segmenter.default_thresholds
    assert free.measure(start).removed_mislabelled is None
    # 4 of 16 cells, with the other half removed none of 12.
    assert limited.measure(start).removed_mislabelled == pytest.approx(4 / 16)
    assert limited.measure(start).pq == free.measure(start).pq
    trials = limited.search_thresholds()
    assert trials[0].score == pytest.approx(-4 / 16)
    assert best_trial(trials).thresholds.score == 0.6
    assert limited.measure(best_trial(trials).thresholds).removed_mislabelled == 0


def test_a_limit_that_no_thresholds_reach(meadow, meadow_files, monkeypatch):
    # The dog is called a cat, as surely as the cat and with all objectness.
    classes = meadow.categories.vocabulary.classes
    parts = [replace(meadow.categories.vocabulary, classes=part) for part in (classes[::2], classes[1:2])]
    monkeypatch.setattr('fisa_ros.evaluation.calibrate_model.halves', lambda vocabulary: parts)
    meadow.segmenter.backend.objectness[:] = 1.0
    with pytest.raises(DataError, match=r'--max-mislabelled 0\.1 cannot be reached: the least that was found is 0\.25'):
        calibration_of(meadow, meadow_files, max_mislabelled=0.1).search_thresholds()
    assert calibration_of(meadow, meadow_files, max_mislabelled=0.25).search_thresholds()


def test_the_temperature_stays_above_zero(meadow, meadow_files, monkeypatch):
    monkeypatch.setattr('fisa_ros.evaluation.calibrate_model.fit_temperature', lambda log_probabilities, rows: 1e-5)
    _, after = calibration_of(meadow, meadow_files).fit_temperature()
    assert after.temperature == meadow.segmenter.backend.temperature == 0.01


def test_a_backend_that_cannot_classify_masks(meadow, meadow_files, color_backend, color_manifest):
    segmenter = Segmenter(color_backend, color_manifest)
    with pytest.raises(BackendUnavailableError, match="'color' cannot classify given masks"):
        calibration_of(meadow._replace(segmenter=segmenter), meadow_files)


def test_nothing_to_calibrate_on(meadow, write_panoptic):
    files = write_panoptic([(10, 'cat', True)], [(np.zeros((16, 16, 3), np.uint8), np.zeros((16, 16), int), {})])
    with pytest.raises(DataError, match='no segment that is large enough'):
        calibration_of(meadow, files)
