from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
import numpy as np
import pytest

from fisa_ros.evaluation.mean_iou import MeanIou
from fisa_ros.evaluation.panoptic_quality import PanopticQuality

NUM_CLASSES, NUM_SEGMENTS = 4, 6
IS_THING = {class_id: class_id % 2 == 0 for class_id in range(1, NUM_CLASSES + 1)}

id_maps = arrays(np.uint16, (5, 7), elements=st.integers(0, NUM_SEGMENTS), fill=st.nothing())
classes = st.lists(st.integers(1, NUM_CLASSES), min_size=NUM_SEGMENTS, max_size=NUM_SEGMENTS).map(
    lambda values: dict(enumerate(values, start=1))
)
frames = st.tuples(id_maps, classes, id_maps, classes)


def quality(*frame):
    return PanopticQuality(IS_THING).update(*frame).compute()


@given(id_maps, classes)
def test_a_map_against_itself_is_perfect(id_map, class_of):
    result = quality(id_map, class_of, id_map, class_of)
    assert all(entry.pq == 1.0 for entry in result.per_class.values())
    assert not id_map.any() or result.all.pq == 1.0


@given(frames)
def test_numbers_are_fractions_and_pq_is_sq_times_rq(frame):
    result = quality(*frame)
    for entry in result.per_class.values():
        assert entry.pq == pytest.approx(entry.sq * entry.rq)
        assert 0.0 <= entry.pq <= 1.0
        assert entry.true_positives == 0 or 0.5 < entry.sq <= 1.0
    for mean in (result.all, result.things, result.stuff):
        assert mean.num_classes == 0 or 0.0 <= mean.pq <= min(mean.sq, mean.rq) <= 1.0
    assert result.all.num_classes == result.things.num_classes + result.stuff.num_classes == len(result.per_class)


@given(frames, st.permutations(range(1, 40)), st.permutations(range(1, 40)))
def test_renumbering_changes_nothing(frame, predicted_order, truth_order):
    predicted, predicted_classes, truth, truth_classes = frame

    def renumbered(id_map, class_of, order):
        table = np.array([0, *order], np.uint16)
        return table[id_map], {int(table[key]): value for key, value in class_of.items()}

    other = (*renumbered(predicted, predicted_classes, predicted_order), *renumbered(truth, truth_classes, truth_order))
    before, after = quality(*frame).per_class, quality(*other).per_class
    assert before.keys() == after.keys()
    for key, entry in before.items():
        assert after[key].iou_sum == pytest.approx(entry.iou_sum)
        assert (after[key].true_positives, after[key].false_positives, after[key].false_negatives) == (
            entry.true_positives,
            entry.false_positives,
            entry.false_negatives,
        )


@given(frames, frames)
def test_order_of_frames_does_not_matter(first, second):
    one = PanopticQuality(IS_THING).update(*first).update(*second).compute()
    two = PanopticQuality(IS_THING).update(*second).update(*first).compute()
    assert one.all.num_classes == two.all.num_classes
    assert one.all.pq == pytest.approx(two.all.pq, nan_ok=True)


@given(frames)
def test_exchanging_truth_and_prediction_exchanges_the_errors(frame):
    # True of maps without void only: void is forgiven on the side of the truth alone.
    predicted, predicted_classes, truth, truth_classes = frame
    predicted, truth = np.maximum(predicted, 1), np.maximum(truth, 1)
    there = quality(predicted, predicted_classes, truth, truth_classes).per_class
    back = quality(truth, truth_classes, predicted, predicted_classes).per_class
    assert there.keys() == back.keys()
    for key, entry in there.items():
        assert entry.pq == pytest.approx(back[key].pq)
        assert entry.false_positives == back[key].false_negatives


class_maps = arrays(np.uint8, (5, 7), elements=st.integers(0, NUM_CLASSES), fill=st.nothing())


@given(class_maps, class_maps)
def test_mean_iou_is_a_fraction_and_one_only_for_equal_maps(predicted, truth):
    result = MeanIou(range(1, NUM_CLASSES + 1)).update(predicted, truth).compute()
    counted = truth != 0
    if not counted.any():
        assert result.per_class == {}
        return
    assert 0.0 <= result.mean_iou <= 1.0
    assert (result.mean_iou == 1.0) == bool((predicted == truth)[counted].all())
    assert result.pixel_accuracy == pytest.approx((predicted == truth)[counted].mean())
