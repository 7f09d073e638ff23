from dataclasses import replace
import json

import numpy as np
import pytest

from fisa_ros.core.results import PanopticResult
from fisa_ros.core.vocabulary import VocabularyRequest
from fisa_ros.datasets.coco_panoptic import DatasetCategory
from fisa_ros.evaluation.category_map import CategoryMap
from fisa_ros.evaluation.dataset_scorer import DatasetScorer, numbered_segments
from fisa_ros.evaluation.predictor import Prediction, Predictor

SURE = float(np.exp(10) / (np.exp(10) + 2 + np.exp(5)))


def scored(meadow, oracle=None, parts=None):
    segmenter = meadow.segmenter
    predictor = Predictor(segmenter, meadow.categories, segmenter.default_thresholds, oracle)
    states = [segmenter.prepare(meadow.categories.vocabulary)]
    scorer = DatasetScorer(meadow.categories, meadow.categories.vocabulary)
    scorer.add(predictor.predict(meadow.image, meadow.truth, states)[0], meadow.truth)
    return scorer.summary(parts)


def test_every_metric_by_hand(meadow):
    summary = scored(meadow)
    # Cat: IoU 3/4, and the dog is a false alarm. The dog is missed. The grass is right.
    assert {name: row['pq'] for name, row in summary['per_class'].items()} == pytest.approx(
        {'cat': 3 / 4 / 1.5, 'dog': 0, 'grass': 1}
    )
    assert summary['pq'] == pytest.approx((1 / 2 + 0 + 1) / 3)
    assert summary['pq_things'] == pytest.approx(1 / 4)
    assert summary['pq_stuff'] == 1
    assert summary['sq'] == pytest.approx((3 / 4 + 0 + 1) / 3)
    assert summary['rq'] == pytest.approx((1 / 1.5 + 0 + 1) / 3)
    assert summary['pq_class_agnostic'] == pytest.approx((3 / 4 + 1 + 1) / 3)
    # 3 right cells of 4 true and 7 predicted ones.
    assert {name: row['iou'] for name, row in summary['per_class'].items()} == {'cat': 3 / 8, 'dog': 0, 'grass': 1}
    assert summary['miou'] == pytest.approx((3 / 8 + 0 + 1) / 3)
    assert summary['pixel_accuracy'] == pytest.approx(11 / 16)
    assert (summary['ap'], summary['ap50']) == pytest.approx((0.6 / 2, 1 / 2))
    assert summary['mask_accuracy'] == pytest.approx(2 / 3)
    assert [row['mask_accuracy'] for row in summary['per_class'].values()] == [1, 0, 1]
    assert summary['ece_masks'] == pytest.approx(abs(SURE - 2 / 3), rel=1e-5)
    # Two right segments as sure as can be, one wrong one with objectness 0.8.
    assert summary['ece_segments'] == pytest.approx((2 * (1 - SURE) + 0.8 * SURE) / 3, rel=1e-5)


def test_oracles_by_hand(meadow):
    masks, classes = scored(meadow, 'masks'), scored(meadow, 'classes')
    assert masks['pq'] == pytest.approx((1 / 1.5 + 0 + 1) / 3)
    assert masks['pq_class_agnostic'] == 1
    assert classes['pq'] == pytest.approx((3 / 4 + 1 + 1) / 3)
    assert classes['miou'] == pytest.approx((3 / 4 + 1 + 1) / 3)
    assert classes['rq'] == 1


def test_masks_before_they_are_merged_by_hand(meadow):
    summary = scored(meadow, 'masks')
    # All of the dog is called a cat, and the best class of each pixel is that of its true mask.
    assert [row['iou_semantic'] for row in summary['per_class'].values()] == [1 / 2, 0, 1]
    assert summary['miou_semantic'] == pytest.approx(1 / 2)
    assert summary['pixel_accuracy_semantic'] == pytest.approx(3 / 4)
    # Every mask is ranked in every class. Among dogs, the dog is second to the cat, which looks the same.
    assert summary['per_class']['cat']['ap_instances'] == pytest.approx(1)
    assert summary['per_class']['dog']['ap_instances'] == pytest.approx(1 / 2, abs=0.01)
    assert summary['ap_instances'] == pytest.approx(3 / 4, abs=0.01)
    classes = scored(meadow, 'classes')
    assert classes['per_class']['dog']['iou_semantic'] == pytest.approx(1, abs=0.1)
    assert classes['per_class']['dog']['ap_instances'] > 0.9


def test_classes_that_the_truth_lacks_are_not_in_the_semantic_mean(meadow):
    truth = meadow.truth.of(meadow.truth.panoptic_map, [(1, 1, False), (3, 3, False)], meadow.categories)
    summary = scored(meadow._replace(truth=truth), 'masks')
    assert summary['per_class']['dog']['iou_semantic'] is None
    assert summary['miou_semantic'] == 1


def test_truth_without_instances_measures_classes_alone(meadow):
    segmenter, categories = meadow.segmenter, meadow.categories
    predictor = Predictor(segmenter, categories, segmenter.default_thresholds, has_instances=False)
    scorer = DatasetScorer(categories, categories.vocabulary, has_instances=False)
    states = [segmenter.prepare(categories.vocabulary)]
    scorer.add(predictor.predict(meadow.image, meadow.truth, states)[0], meadow.truth)
    summary, with_instances = scorer.summary(), scored(meadow)
    measured = {key for key, value in summary.items() if value is not None and key != 'per_class'}
    assert measured == {
        'miou', 'pixel_accuracy', 'miou_semantic', 'pixel_accuracy_semantic', 'mask_accuracy', 'ece_masks',
    }  # fmt: skip
    for key in measured:
        assert summary[key] == with_instances[key]
    row = summary['per_class']['cat']
    assert (row['pq'], row['ap'], row['ap_instances'], row['iou']) == (None, None, None, 3 / 8)


def test_a_listed_segment_that_others_hide_is_missed(meadow):
    entries = [(1, 1, False), (2, 2, False), (3, 3, False), (9, 1, False)]
    truth = meadow.truth.of(meadow.truth.panoptic_map, entries, meadow.categories, {9: 5})
    summary = scored(meadow._replace(truth=truth), 'classes')
    # One of two cats is found.
    assert summary['per_class']['cat']['pq'] == pytest.approx(3 / 4 / 1.5)
    assert summary['per_class']['cat']['ap'] == scored(meadow, 'classes')['per_class']['cat']['ap']
    assert summary['per_class']['cat']['masks'] == 1


def test_parts_are_averaged_apart(meadow):
    summary = scored(meadow, parts={'base': {1, 3}, 'novel': {2}, 'none': set()})
    assert summary['pq_base'] == pytest.approx((1 / 2 + 1) / 2)
    assert summary['miou_base'] == pytest.approx((3 / 8 + 1) / 2)
    assert (summary['mask_accuracy_base'], summary['mask_accuracy_novel']) == (1, 0)
    assert (summary['pq_novel'], summary['miou_novel']) == (0, 0)
    assert summary['pq_none'] is None


def test_nothing_is_none_and_the_summary_is_json(meadow):
    summary = DatasetScorer(meadow.categories, meadow.categories.vocabulary).summary({'base': {1}})
    assert {value for key, value in summary.items() if key != 'per_class'} == {None}
    row = summary['per_class']['cat']
    assert [row[key] for key in ('pq', 'iou', 'ap', 'mask_accuracy')] == [None] * 4
    json.dumps(summary, allow_nan=False)
    json.dumps(scored(meadow), allow_nan=False)


def test_true_masks_are_none_where_they_were_not_classified(meadow):
    scorer = DatasetScorer(meadow.categories, meadow.categories.vocabulary)
    result = PanopticResult.empty((16, 16), 1)
    summary = scorer.add(Prediction(result, None, np.zeros(0, np.int64)), meadow.truth) or scorer.summary()
    assert summary['mask_accuracy'] is None
    assert summary['ece_masks'] is None
    assert (summary['miou_semantic'], summary['ap_instances']) == (None, None)
    assert summary['miou'] == 0
    assert summary['pq'] == 0


def test_covered_pixels_are_not_found(meadow):
    predictor = Predictor(meadow.segmenter, meadow.categories, meadow.segmenter.default_thresholds)
    states = [meadow.segmenter.prepare(meadow.categories.vocabulary)]
    grass = int((meadow.truth.panoptic_map == 3).sum())
    truth = replace(meadow.truth, listed_areas=np.array([0, 0, grass * 5 // 4]))
    scorer = DatasetScorer(meadow.categories, meadow.categories.vocabulary)
    scorer.add(predictor.predict(meadow.image, truth, states)[0], truth)
    per_class = scorer.summary()['per_class']
    assert {name: row['pq'] for name, row in per_class.items()} == pytest.approx({'cat': 1 / 2, 'dog': 0, 'grass': 0.8})
    # That is panoptic quality alone.
    assert per_class['grass']['iou'] == 1


def test_crowds_are_forgiven(meadow):
    crowd = meadow.truth.is_crowd.copy()
    crowd[0] = True
    truth = replace(meadow.truth, is_crowd=crowd)
    summary = scored(meadow._replace(truth=truth))
    cat = summary['per_class']['cat']
    assert (cat['pq'], cat['masks']) == (0, 0)
    # Only the false alarm on the dog is judged, and the grass.
    assert summary['ece_segments'] == pytest.approx(((1 - SURE) + 0.8 * SURE) / 2, rel=1e-5)
    assert summary['mask_accuracy'] == pytest.approx(1 / 2)


def test_classes_without_a_category_count_as_unlabelled(meadow):
    request = VocabularyRequest(('dog', 'cat', 'grass'))
    categories = CategoryMap.from_vocabulary(
        [DatasetCategory(7, 'dog', True), DatasetCategory(9, 'grass', False)], request
    )
    segmenter = meadow.segmenter
    state = segmenter.prepare(categories.vocabulary)
    result = segmenter.segment(meadow.image, state)
    id_map, numbers = numbered_segments(result, categories)
    assert list(numbers.values()) == [2]
    assert set(np.unique(id_map)) == {0, *numbers}
    scorer = DatasetScorer(categories, categories.vocabulary)
    truth = meadow.truth.of(meadow.truth.panoptic_map, [(2, 1, False), (3, 2, False)], categories)
    probabilities = np.array([[0.1, 0.6, 0.2, 0.1], [0.0, 0.0, 1.0, 0.0]], np.float32)
    scorer.add(Prediction(result, probabilities, np.array([1, 2])), truth)
    summary = scorer.summary()
    assert summary['per_class']['dog']['pq'] == 0
    assert summary['per_class']['grass']['pq'] == 1
    assert summary['mask_accuracy'] == pytest.approx(1 / 2)
