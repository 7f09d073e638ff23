import math

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
import pytest

from fisa_ros.evaluation.mask_ap import Instance, MaskAp, encode_mask, instances_of

CAT, DOG = 4, 9
TRUTH = np.array([[1, 1, 2, 2], [1, 1, 2, 2], [3, 3, 3, 3], [0, 0, 0, 0]], np.uint16)


def found(id_map, instances):
    return instances_of(np.array(id_map, np.uint16), [(*entry, False) for entry in instances])


def true(truth):
    return instances_of(TRUTH, [(key, class_id, 1.0, is_crowd) for key, class_id, is_crowd in truth])


def measured(predicted, instances, truth=((1, CAT, False), (2, DOG, False))):
    return MaskAp([CAT, DOG]).update(found(predicted, instances), true(truth)).compute()


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
    metric.update(found(TRUTH, [(1, CAT, 0.9)]), true([(1, CAT, False)]))
    metric.update(found(TRUTH, [(2, CAT, 0.8)]), true([(1, CAT, False)]))
    # Of two cats the surer answer is right: recall 1/2 at precision 1, which is 51 of 101 points.
    assert metric.compute().ap == pytest.approx(51 / 101)


def test_nothing_predicted_or_nothing_there(capsys):
    assert measured(TRUTH, []).ap == 0
    empty = measured(TRUTH, [(1, CAT, 0.5)], truth=())
    assert math.isnan(empty.ap)
    assert empty.per_class == {}
    assert math.isnan(MaskAp([]).compute().ap)
    assert capsys.readouterr().out == ''


def test_masks_may_overlap_and_the_surest_hundred_of_a_class_count():
    masks = [TRUTH == 1, TRUTH > 0, TRUTH == 2]
    scores = [0.9, 0.8, 0.7]
    instances = [Instance(CAT, encode_mask(mask), score) for mask, score in zip(masks, scores, strict=True)]
    truth = true([(1, CAT, False), (2, CAT, False)])
    # Right, wrong, right: precision is 1 up to half of the recall, and 2/3 after it.
    ap = (51 * 1 + 50 * 2 / 3) / 101
    assert MaskAp([CAT]).update(instances, truth).compute().ap == pytest.approx(ap)
    wrong = [Instance(CAT, encode_mask(TRUTH == 3), 0.95)] * 100
    assert MaskAp([CAT]).update([*instances, *wrong], truth).compute().ap == 0


def test_agrees_with_the_library_over_all_images_at_once(capsys):
    generator = np.random.default_rng(8)
    metric, truths, answers, class_ids = MaskAp([1, 2, 3]), [], [], [1, 2, 3]
    for image_id in range(1, 13):
        true_map = np.kron(generator.integers(0, 6, (4, 4)), np.ones((5, 5), int))
        moved = np.where(generator.random(true_map.shape) < 0.2, generator.integers(0, 6, true_map.shape), true_map)
        true_classes = [(key, 1 + key % 3, 1.0, key == 5) for key in range(1, 6) if (true_map == key).any()]
        classes = [(key, 1 + (key + (key == 2)) % 3, float(generator.random()), False) for key in range(1, 6)]
        for entries, id_map, listed in ((true_classes, true_map, truths), (classes, moved, answers)):
            for key, class_id, score, is_crowd in entries:
                code = encode_mask(id_map == key)
                listed.append({
                    'id': len(listed) + 1, 'image_id': image_id, 'category_id': class_id, 'segmentation': code,
                    'score': score, 'iscrowd': int(is_crowd), 'area': int((id_map == key).sum()),
                })  # fmt: skip
        metric.update(instances_of(moved, classes), instances_of(true_map, true_classes))
    indices = []
    for annotations in (truths, answers):
        index = COCO()
        images = [{'id': image_id, 'height': 20, 'width': 20} for image_id in range(1, 13)]
        index.dataset = {
            'images': images, 'categories': [{'id': key} for key in class_ids], 'annotations': annotations,
        }  # fmt: skip
        index.createIndex()
        indices.append(index)
    theirs = COCOeval(*indices, 'segm')
    theirs.evaluate()
    theirs.accumulate()
    theirs.summarize()
    result = metric.compute()
    assert (result.ap, result.ap50) == pytest.approx(tuple(theirs.stats[:2]))
    assert 0.1 < result.ap < 0.9
