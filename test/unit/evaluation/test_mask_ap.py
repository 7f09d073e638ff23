import math

import numpy as np
import pytest

from fisa_ros.evaluation.mask_ap import MaskAp

CAT, DOG = 4, 9
TRUTH = np.array([[1, 1, 2, 2], [1, 1, 2, 2], [3, 3, 3, 3], [0, 0, 0, 0]], np.uint16)


def measured(predicted, instances, truth=((1, CAT, False), (2, DOG, False))):
    return MaskAp([CAT, DOG]).update(np.array(predicted, np.uint16), instances, TRUTH, truth).compute()


def test_perfect_prediction_scores_one():
    result = measured(TRUTH, [(1, CAT, 0.9), (2, DOG, 0.4)])
    assert (result.ap, result.ap50) == pytest.approx((1, 1))
    assert result.per_class == pytest.approx({CAT: 1, DOG: 1})


def test_an_iou_of_three_quarters_passes_six_of_ten_thresholds():
    predicted = [[1, 1, 2, 2], [1, 0, 2, 2], [0] * 4, [0] * 4]
    result = measured(predicted, [(1, CAT, 0.9), (2, CAT, 0.5)])
    # The wrong cat is less sure, so precision is 1 where recall is reached. The dog is missed.
    assert result.per_class == pytest.approx({CAT: 6 / 10, DOG: 0})
    assert (result.ap, result.ap50) == pytest.approx((0.3, 0.5))


def test_a_surer_false_alarm_halves_precision():
    predicted = [[1, 1, 2, 2], [1, 0, 2, 2], [0] * 4, [0] * 4]
    assert measured(predicted, [(1, CAT, 0.5), (2, CAT, 0.9)]).per_class[CAT] == pytest.approx(3 / 10)


def test_crowds_are_neither_missed_nor_false_alarms():
    truth = ((1, CAT, False), (3, CAT, True))
    result = measured([[1, 1, 0, 0], [1, 1, 0, 0], [2, 2, 0, 0], [0] * 4], [(1, CAT, 0.5), (2, CAT, 0.9)], truth)
    assert result.ap == pytest.approx(1)


def test_images_add_up():
    metric = MaskAp([CAT])
    metric.update(TRUTH, [(1, CAT, 0.9)], TRUTH, [(1, CAT, False)])
    metric.update(TRUTH, [(2, CAT, 0.8)], TRUTH, [(1, CAT, False)])
    # Of two cats the surer answer is right: recall 1/2 at precision 1, which is 51 of 101 points.
    assert metric.compute().ap == pytest.approx(51 / 101)


def test_nothing_predicted_or_nothing_there(capsys):
    assert measured(TRUTH, []).ap == 0
    empty = measured(TRUTH, [(1, CAT, 0.5)], truth=())
    assert math.isnan(empty.ap)
    assert empty.per_class == {}
    assert math.isnan(MaskAp([]).compute().ap)
    assert capsys.readouterr().out == ''
