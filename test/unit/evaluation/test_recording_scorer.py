import numpy as np
import pytest

from fisa_ros.core.results import Segment
from fisa_ros.core.vocabulary import Vocabulary, VocabularyClass
from fisa_ros.evaluation.recording import AnsweredFrame, PanopticTruth, RunLengthMap
from fisa_ros.evaluation.recording_scorer import RecordingScorer

FLOOR, CHAIR, LAMP = 1, 2, 3
CATEGORY_OF = {'floor': FLOOR, 'ground': FLOOR, 'chair': CHAIR, 'seat': CHAIR, 'lamp': LAMP}
IS_THING = {FLOOR: False, CHAIR: True, LAMP: True}
NAMES = {FLOOR: 'floor', CHAIR: 'chair', LAMP: 'lamp'}
VOCABULARIES = {
    1: Vocabulary(
        1,
        (
            VocabularyClass(10, ('Floor',), False),
            VocabularyClass(11, ('chair',), True),
            VocabularyClass(12, ('lamp',), True),
        ),
    ),
    2: Vocabulary(2, (VocabularyClass(20, ('ground',), False), VocabularyClass(21, ('seat',), True))),
}

TRUTH_MAP = np.array([[1, 1, 2, 2], [1, 1, 2, 2], [3, 3, 3, 3], [0, 0, 0, 0]], np.uint16)
TRUE_CATEGORIES = {1: CHAIR, 2: LAMP, 3: FLOOR}


def segments_of(panoptic_map, labels):
    return tuple(
        Segment(key, class_id, name, True, 0.9, max(1, int((panoptic_map == key).sum())), (0, 0, 1, 1))
        for key, (class_id, name) in labels.items()
    )


def make_frame(panoptic_map, labels, version, *, semantic_map=None, truth_map=TRUTH_MAP):
    panoptic_map = np.array(panoptic_map, np.uint16)
    if semantic_map is None:
        semantic_map = np.zeros(panoptic_map.shape, np.uint8)
        for key, (class_id, _) in labels.items():
            semantic_map[panoptic_map == key] = class_id
    truth = None
    if truth_map is not None:
        true_labels = {key: (category, NAMES[category]) for key, category in TRUE_CATEGORIES.items()}
        truth = PanopticTruth(RunLengthMap.encode(truth_map), segments_of(truth_map, true_labels))
    return AnsweredFrame(
        stamp_ns=1,
        latency_ms=1.0,
        vocabulary_version=version,
        segments=segments_of(panoptic_map, labels),
        semantic_map=RunLengthMap.encode(np.asarray(semantic_map)),
        panoptic_map=RunLengthMap.encode(panoptic_map),
        truth=truth,
    )


def scorer_of(*frames):
    scorer = RecordingScorer(CATEGORY_OF, IS_THING, VOCABULARIES)
    for frame in frames:
        scorer.add(frame)
    return scorer


RIGHT = {7: (11, 'chair'), 8: (12, 'lamp'), 9: (10, 'Floor')}
RIGHT_MAP = np.array([0, 7, 8, 9], np.uint16)[TRUTH_MAP]


@pytest.mark.parametrize(
    'id_map',
    [TRUTH_MAP, np.zeros((3, 5), np.uint8), np.arange(6, dtype=np.uint16).reshape(2, 3), np.ones((1, 1), np.uint16)],
)
def test_run_lengths_are_lossless(id_map):
    decoded = RunLengthMap.encode(id_map).decode()
    assert decoded.dtype == id_map.dtype
    np.testing.assert_array_equal(decoded, id_map)


def test_the_truth_as_answer_scores_one():
    scorer = scorer_of(make_frame(RIGHT_MAP, RIGHT, 1))
    assert scorer.total.quality.compute().all.pq == 1
    assert scorer.total.mean_iou.compute().mean_iou == 1
    assert scorer.faults == type(scorer.faults)()


def test_other_names_of_a_category_score_the_same():
    labels = {1: (21, 'seat'), 2: (20, 'ground')}
    panoptic_map = np.array([0, 1, 0, 2], np.uint16)[TRUTH_MAP]
    assert scorer_of(make_frame(panoptic_map, labels, 2)).total.quality.compute().all.pq == 1


@pytest.mark.parametrize(('answer_on_lamp', 'unlabeled'), [(0, 4), (1, 0)])
def test_categories_without_a_word_are_void(answer_on_lamp, unlabeled):
    # What is said about the lamp changes no metric; whether it was left alone is counted.
    panoptic_map = np.array([0, 1, answer_on_lamp, 2], np.uint16)[TRUTH_MAP]
    scores = scorer_of(make_frame(panoptic_map, {1: (21, 'seat'), 2: (20, 'ground')}, 2)).by_version[2]
    result = scores.quality.compute()
    assert result.all.pq == 1
    assert result.all.num_classes == 2
    assert scores.mean_iou.compute().mean_iou == 1
    assert (scores.absent_pixels, scores.absent_unlabeled_pixels) == (4, unlabeled)


def test_versions_are_scored_apart_and_together():
    scorer = scorer_of(make_frame(RIGHT_MAP, RIGHT, 1), make_frame(np.zeros_like(RIGHT_MAP), {}, 2))
    assert scorer.by_version[1].quality.compute().all.pq == 1
    assert scorer.by_version[2].quality.compute().all.pq == 0
    assert scorer.total.frames == 2
    # The lamp was asked for once and found once; the others twice, and found once.
    assert scorer.total.quality.compute().all.pq == pytest.approx((1 + 2 / 3 + 2 / 3) / 3)


@pytest.mark.parametrize(
    ('frame', 'fault'),
    [
        (make_frame(RIGHT_MAP, RIGHT, 3), 'unknown_versions'),
        (make_frame(RIGHT_MAP, RIGHT, 2), 'mixed_vocabularies'),
        (make_frame(RIGHT_MAP, RIGHT | {8: (12, 'seat')}, 1), 'mixed_vocabularies'),
        (make_frame(RIGHT_MAP, {}, 1, semantic_map=np.full((4, 4), 21, np.uint8)), 'mixed_vocabularies'),
        (make_frame(RIGHT_MAP, RIGHT, 1, semantic_map=np.full((4, 4), 11, np.uint8)), 'contradictions'),
        (make_frame(RIGHT_MAP, RIGHT | {5: (11, 'chair')}, 1), 'contradictions'),
        (make_frame(RIGHT_MAP, RIGHT, 1, truth_map=np.ones((2, 2), np.uint16)), 'contradictions'),
        (make_frame(RIGHT_MAP, RIGHT, 1, truth_map=None), 'without_truth'),
    ],
)
def test_frames_that_contradict_the_interface_are_counted_and_not_scored(frame, fault):
    scorer = scorer_of(frame)
    assert scorer.total.frames == 0
    counted = {name: value for name, value in vars(scorer.faults).items() if value}
    assert counted == {fault: 1}
