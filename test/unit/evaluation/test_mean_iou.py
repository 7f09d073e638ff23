import math

import numpy as np
import pytest

from fisa_ros.core.errors import DataError
from fisa_ros.evaluation.mean_iou import MeanIou

TRUTH = np.array(
    [
        [5, 5, 9, 9],
        [5, 5, 9, 9],
        [7, 7, 7, 7],
        [0, 0, 0, 0],
    ],
    np.uint16,
)


def test_perfect_prediction_scores_one():
    result = MeanIou([5, 7, 9]).update(TRUTH, TRUTH).compute()
    assert (result.mean_iou, result.pixel_accuracy) == (1, 1)
    assert set(result.per_class) == {5, 7, 9}


def test_errors_by_hand():
    # One pixel of 5 is called 9, two of 7 are unlabelled, all void pixels are called 7 and count nowhere.
    predicted = np.array([[5, 5, 9, 9], [5, 9, 9, 9], [7, 7, 0, 0], [7, 7, 7, 7]], np.uint8)
    result = MeanIou([5, 7, 9]).update(predicted, TRUTH).compute()
    assert result.per_class == pytest.approx({5: 3 / 4, 7: 2 / 4, 9: 4 / 5})
    assert result.mean_iou == pytest.approx((3 / 4 + 2 / 4 + 4 / 5) / 3)
    assert result.pixel_accuracy == pytest.approx(9 / 12)


def test_class_in_neither_is_left_out_and_a_false_alarm_is_not():
    predicted = TRUTH.copy()
    predicted[0, 0] = 11
    result = MeanIou([5, 7, 9, 11, 12]).update(predicted, TRUTH).compute()
    assert result.per_class[11] == 0
    assert 12 not in result.per_class
    # Published tables leave out what the truth lacks, for it would count as much as any other class.
    assert result.per_true_class == {5: 3 / 4, 7: 1, 9: 1}
    assert result.mean_iou_of_truth == pytest.approx(11 / 12)
    assert result.mean_iou == pytest.approx(11 / 16)


def test_frames_add_up_and_reset_forgets():
    metric = MeanIou([5, 7, 9])
    metric.update(np.zeros_like(TRUTH), TRUTH).update(TRUTH, TRUTH)
    assert metric.compute().mean_iou == pytest.approx(1 / 2)
    metric.reset()
    assert math.isnan(metric.compute().mean_iou)
    assert math.isnan(metric.compute().mean_iou_of_truth)
    assert math.isnan(metric.compute().pixel_accuracy)


def test_merged_metrics_count_as_one():
    halves = [MeanIou([5, 7, 9]).update(TRUTH, TRUTH), MeanIou([5, 7, 9]).update(np.zeros_like(TRUTH), TRUTH)]
    assert halves[0].merge(halves[1]).compute().mean_iou == pytest.approx(1 / 2)
    with pytest.raises(ValueError, match='cannot merge'):
        halves[0].merge(MeanIou([5]))


@pytest.mark.parametrize(
    ('predicted', 'text'),
    [
        (np.zeros((2, 2), np.uint8), r'\(2, 2\)'),
        (np.full((4, 4), 6, np.uint8), r'not listed: \[6\]'),
    ],
)
def test_contradictions_are_refused(predicted, text):
    with pytest.raises(DataError, match=text):
        MeanIou([5, 7, 9]).update(predicted, TRUTH)


@pytest.mark.parametrize('class_ids', [[], [0, 1]])
def test_class_ids_start_at_one(class_ids):
    with pytest.raises(ValueError, match='must be 1 or more'):
        MeanIou(class_ids)


def test_confusion_by_hand():
    predicted = np.array([[5, 5, 9, 9], [5, 9, 9, 9], [7, 7, 0, 0], [7, 7, 7, 7]], np.uint8)
    confusion = MeanIou([5, 7, 9]).update(predicted, TRUTH).confusion
    np.testing.assert_array_equal(confusion, [[0, 3, 0, 1], [2, 0, 2, 0], [0, 0, 0, 4]])


def test_agrees_with_torchmetrics():
    torch = pytest.importorskip('torch')
    classification = pytest.importorskip('torchmetrics.classification', reason='torchmetrics is not installed')
    theirs = classification.MulticlassJaccardIndex(num_classes=5, ignore_index=0, average=None)
    ours = MeanIou([1, 2, 3, 4])
    generator = np.random.default_rng(2)
    for _ in range(5):
        truth, predicted = generator.integers(0, 5, (24, 24)), generator.integers(1, 5, (24, 24))
        predicted = np.where(generator.random(truth.shape) < 0.6, np.maximum(truth, 1), predicted)
        ours.update(predicted, truth)
        theirs.update(torch.from_numpy(predicted), torch.from_numpy(truth))
    result = ours.compute()
    np.testing.assert_allclose(list(result.per_class.values()), theirs.compute().numpy()[1:], rtol=1e-6)
    assert 0.2 < result.mean_iou < 0.9
