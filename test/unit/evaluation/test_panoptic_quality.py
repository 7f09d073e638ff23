import math

import numpy as np
import pytest

from fisa_ros.core.errors import DataError
from fisa_ros.evaluation.panoptic_quality import PanopticQuality, match_segments

CAT, DOG, GRASS = 1, 2, 3
IS_THING = {CAT: True, DOG: True, GRASS: False}

TRUTH = np.array(
    [
        [1, 1, 2, 2],
        [1, 1, 2, 2],
        [3, 3, 3, 3],
        [3, 3, 3, 3],
    ],
    np.uint16,
)
TRUTH_CLASSES = {1: CAT, 2: DOG, 3: GRASS}


def measured(predicted, predicted_classes, truth=TRUTH, truth_classes=TRUTH_CLASSES, **options):
    metric = PanopticQuality(IS_THING)
    metric.update(np.array(predicted, np.uint16), predicted_classes, truth, truth_classes, **options)
    return metric.compute()


def test_perfect_prediction_scores_one():
    result = measured(TRUTH, TRUTH_CLASSES)
    assert (result.all.pq, result.all.sq, result.all.rq, result.all.num_classes) == (1, 1, 1, 3)
    assert (result.things.num_classes, result.stuff.num_classes) == (2, 1)


def test_one_match_one_swapped_class():
    # The cat has 4 true pixels, 3 of them found: IoU 3/4. The dog is called a cat: a miss and a false alarm.
    # The grass got one pixel of the cat: IoU 8/9.
    predicted = [[1, 1, 2, 2], [1, 3, 2, 2], [3, 3, 3, 3], [3, 3, 3, 3]]
    result = measured(predicted, {1: CAT, 2: CAT, 3: GRASS})
    cat, dog, grass = (result.per_class[key] for key in (CAT, DOG, GRASS))
    assert (cat.true_positives, cat.false_positives, cat.false_negatives) == (1, 1, 0)
    assert cat.sq == pytest.approx(3 / 4)
    assert cat.rq == pytest.approx(1 / 1.5)
    assert cat.pq == pytest.approx(1 / 2)
    assert (dog.true_positives, dog.false_positives, dog.false_negatives, dog.pq) == (0, 0, 1, 0)
    assert grass.pq == pytest.approx(8 / 9)
    assert result.all.pq == pytest.approx((1 / 2 + 0 + 8 / 9) / 3)
    assert result.things.pq == pytest.approx(1 / 4)
    assert result.stuff.pq == pytest.approx(8 / 9)


@pytest.mark.parametrize(('found', 'matches'), [(1, 0), (2, 0), (3, 1)])
def test_match_needs_more_than_half(found, matches):
    truth = np.array([[1, 1, 1, 1]], np.uint16)
    predicted = np.zeros((1, 4), np.uint16)
    predicted[0, :found] = 9
    result = measured(predicted, {9: CAT}, truth, {1: CAT})
    assert result.per_class[CAT].true_positives == matches
    assert result.per_class[CAT].false_positives == result.per_class[CAT].false_negatives == 1 - matches


def test_true_void_is_taken_out_of_the_union():
    truth = np.array([[1, 1, 0, 0]], np.uint16)
    result = measured([[1, 1, 1, 1]], {1: CAT}, truth, {1: CAT})
    assert result.per_class[CAT].pq == 1


@pytest.mark.parametrize(('on_void', 'false_positives'), [(1, 1), (2, 1), (3, 0), (4, 0)])
def test_segment_mostly_on_void_is_no_false_positive(on_void, false_positives):
    truth = np.array([[2, 2, 2, 2]], np.uint16)
    truth[0, :on_void] = 0
    result = measured([[1, 1, 1, 1]], {1: CAT}, truth, {2: GRASS})
    assert (result.per_class[CAT].false_positives if CAT in result.per_class else 0) == false_positives


def test_unlabelled_prediction_stays_in_the_union():
    result = measured([[1, 1, 1, 0]], {1: CAT}, np.array([[1, 1, 1, 1]], np.uint16), {1: CAT})
    assert result.per_class[CAT].sq == pytest.approx(3 / 4)


def test_crowd_is_neither_missed_nor_a_false_alarm():
    truth = np.array([[1, 1, 1, 1], [2, 2, 2, 2]], np.uint16)
    kept = measured([[1, 1, 1, 1], [2, 2, 3, 3]], {1: CAT, 2: DOG, 3: DOG}, truth, {1: CAT, 2: DOG}, crowd_ids=[2])
    assert set(kept.per_class) == {CAT}
    other = measured([[1, 1, 1, 1], [2, 2, 2, 2]], {1: CAT, 2: CAT}, truth, {1: CAT, 2: DOG}, crowd_ids={2})
    assert other.per_class[CAT].false_positives == 1


def test_a_crowd_stays_in_the_union_of_a_match():
    # 2 pixels of the cat, 1 of a crowd of cats or of void: the IoU is 2/3 or 2/2.
    predicted, truth = [[1, 1, 1, 0]], np.array([[1, 1, 2, 2]], np.uint16)
    crowd = measured(predicted, {1: CAT}, truth, {1: CAT, 2: CAT}, crowd_ids=[2]).per_class[CAT]
    void = measured(predicted, {1: CAT}, truth * (truth < 2), {1: CAT}).per_class[CAT]
    for quality, iou in ((crowd, 2 / 3), (void, 1)):
        assert (quality.true_positives, quality.false_positives, quality.false_negatives) == (1, 0, 0)
        assert quality.sq == pytest.approx(iou)


def test_listed_segment_without_pixels_counts_nowhere():
    result = measured(TRUTH, TRUTH_CLASSES | {7: DOG}, TRUTH, TRUTH_CLASSES | {8: CAT})
    assert result.all.pq == 1


def test_a_hidden_true_segment_is_missed_where_panopticapi_would():
    truth_classes = TRUTH_CLASSES | {8: CAT, 9: DOG}
    listed_areas = np.array([0, 0, 0, 5, 5])
    matches = match_segments(TRUTH, TRUTH_CLASSES, TRUTH, truth_classes, [9], listed_areas=listed_areas)
    quality = PanopticQuality(IS_THING).add(matches).compute()
    assert (quality.per_class[CAT].true_positives, quality.per_class[CAT].false_negatives) == (1, 1)
    # A crowd is not.
    assert quality.per_class[DOG].false_negatives == 0


def test_covered_pixels_count_in_the_union_as_in_panopticapi():
    # A dog is pasted over 60 of 200 pixels of the grass, and both are predicted as the map has them.
    truth = np.ones((10, 20), int)
    truth[:, :6] = 2
    classes = {1: GRASS, 2: DOG}
    matches = match_segments(truth, classes, truth, classes, listed_areas=np.array([200, 60]))
    assert matches.iou.tolist() == [0.7, 1]
    assert PanopticQuality(IS_THING).add(matches).compute().all.pq == pytest.approx(0.85)
    # A segment of which less than half is seen has no match.
    truth[:, :11] = 2
    matches = match_segments(truth, classes, truth, classes, listed_areas=np.array([200, 0]))
    assert matches.is_missed.tolist() == [True, False]
    assert matches.is_wrong.tolist() == [True, False]
    assert matches.iou.tolist() == [0, 1]


def test_nothing_seen_is_not_a_number():
    metric = PanopticQuality(IS_THING)
    result = metric.compute()
    assert math.isnan(result.all.pq)
    assert result.all.num_classes == 0
    assert result.per_class == {}


def test_frames_add_up_and_reset_forgets():
    metric = PanopticQuality(IS_THING)
    nothing = np.zeros_like(TRUTH)
    metric.update(TRUTH, TRUTH_CLASSES, TRUTH, TRUTH_CLASSES).update(nothing, {}, TRUTH, TRUTH_CLASSES)
    assert metric.compute().all.pq == pytest.approx(2 / 3)
    metric.reset()
    assert metric.update(TRUTH, TRUTH_CLASSES, TRUTH, TRUTH_CLASSES).compute().all.pq == 1


@pytest.mark.parametrize(
    ('predicted', 'predicted_classes', 'text'),
    [
        (np.zeros((2, 2), np.uint16), {}, r'\(2, 2\)'),
        (np.full((4, 4), 5, np.uint16), {1: CAT}, r'not listed: \[5\]'),
        (TRUTH, {1: CAT, 2: DOG, 3: 77}, r'classes \[77\]'),
        (TRUTH, {0: CAT, 1: CAT, 2: DOG, 3: DOG}, r'1 or more, got \[0'),
    ],
)
def test_contradictions_are_refused_and_change_nothing(predicted, predicted_classes, text):
    metric = PanopticQuality(IS_THING)
    with pytest.raises(DataError, match=text):
        metric.update(predicted, predicted_classes, TRUTH, TRUTH_CLASSES)
    assert metric.compute().all.num_classes == 0


def test_merged_metrics_count_as_one():
    halves = [PanopticQuality(IS_THING) for _ in range(2)]
    halves[0].update(TRUTH, TRUTH_CLASSES, TRUTH, TRUTH_CLASSES)
    halves[1].update(np.zeros_like(TRUTH), {}, TRUTH, TRUTH_CLASSES)
    assert halves[0].merge(halves[1]).compute().all.pq == pytest.approx(2 / 3)
    with pytest.raises(ValueError, match='cannot merge'):
        halves[0].merge(PanopticQuality({CAT: True}))


def test_no_class_is_refused():
    with pytest.raises(ValueError, match='at least one class'):
        PanopticQuality({})


def test_agrees_with_torchmetrics():
    # Every pixel is predicted here: torchmetrics also takes unlabelled predictions out of the union, COCO does not.
    torch = pytest.importorskip('torch')
    detection = pytest.importorskip('torchmetrics.detection', reason='torchmetrics is not installed')
    theirs = detection.PanopticQuality(things={CAT, DOG}, stuffs={GRASS}, return_sq_and_rq=True, return_per_class=True)
    ours, void = PanopticQuality(IS_THING), 99
    generator = np.random.default_rng(5)
    for _ in range(20):
        truth_classes = {1: CAT, 2: CAT, 3: DOG, 4: GRASS}
        predicted_classes = {1: DOG, 2: CAT, 3: CAT, 4: GRASS}
        truth = np.kron(generator.integers(0, 5, (4, 4)), np.ones((6, 6), int)).astype(np.uint16)
        order = np.array([0, 2, 3, 1, 4])
        predicted = np.maximum(order[truth], 1).astype(np.uint16)
        noise = generator.random(truth.shape) < 0.3
        predicted[noise] = generator.integers(1, 5, int(noise.sum()))
        ours.update(predicted, predicted_classes, truth, truth_classes)
        pairs = []
        for id_map, classes in ((predicted, predicted_classes), (truth, truth_classes)):
            table = np.array([void, *(classes[key] for key in range(1, 5))])
            pairs.append(torch.from_numpy(np.stack([table[id_map], id_map], axis=-1).astype(np.int64))[None])
        pairs[1][pairs[1][..., 0] == void] = torch.tensor(theirs.void_color)
        theirs.update(*pairs)
    expected = theirs.compute().numpy()
    result = ours.compute()
    numbers = [(quality.pq, quality.sq, quality.rq) for quality in result.per_class.values()]
    np.testing.assert_allclose(numbers, expected, rtol=1e-6)
    assert 0.1 < result.all.pq < 0.9
