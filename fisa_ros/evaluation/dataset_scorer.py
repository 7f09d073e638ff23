"""All metrics of one model, one data set and one way of naming its categories.

AP and mIoU of panoptic segments, which are merged, do not overlap and have passed the thresholds, are not those of
published tables; these are `ap_instances` and `miou_semantic`, which are read from the masks before they are merged.
"""

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fisa_ros.core.results import PanopticResult
from fisa_ros.core.vocabulary import Vocabulary
from fisa_ros.evaluation.calibration import CalibrationError
from fisa_ros.evaluation.category_map import CategoryMap
from fisa_ros.evaluation.image_truth import ImageTruth
from fisa_ros.evaluation.mask_ap import Instance, MaskAp, instances_of
from fisa_ros.evaluation.mean_iou import MeanIou
from fisa_ros.evaluation.means import mean_or_nan
from fisa_ros.evaluation.panoptic_quality import MeanQuality, PanopticQuality, match_segments
from fisa_ros.evaluation.predictor import Prediction

_ANY_CLASS = 1


class DatasetScorer:
    """Collects predictions and tells every metric over the categories of a data set.

    A predicted segment whose class belongs to no category counts as unlabelled.

    Args:
        categories: What the data set holds.
        vocabulary: The classes of the predictions.
        has_instances: Whether the truth tells things of one class apart; if not, what is said of segments is None.
    """

    def __init__(self, categories: CategoryMap, vocabulary: Vocabulary, *, has_instances: bool = True) -> None:
        self._categories = categories
        self._has_instances = has_instances
        self._row_of = categories.rows_in(vocabulary)
        # The last one, which is also row -1, is for what no mask is on.
        self._number_of_row = np.zeros(len(vocabulary.classes) + 1, np.int64)
        for number, row in self._row_of.items():
            self._number_of_row[row] = number
        numbers = list(categories.is_thing)
        things = [number for number in numbers if has_instances and categories.is_thing[number]]
        self._thing_of_row = {self._row_of[number]: number for number in things if number in self._row_of}
        self.quality = PanopticQuality(categories.is_thing)
        self.class_agnostic = PanopticQuality({_ANY_CLASS: True})
        self.mean_iou = MeanIou(numbers)
        self.semantic_iou = MeanIou(numbers)
        self.mask_ap = MaskAp(things)
        self.instance_ap = MaskAp(things)
        self.segment_calibration = CalibrationError()
        self.mask_calibration = CalibrationError()
        self._masks = np.zeros((2, len(numbers) + 1), np.int64)

    def add(self, prediction: Prediction, truth: ImageTruth) -> None:
        """Score one image."""
        true_things = self._true_things(truth)
        self._add_segments(prediction.result, truth, true_things)
        if prediction.mask_probabilities is not None:
            self._add_masks(prediction.mask_probabilities, prediction.mask_categories)
        if prediction.scored_masks is not None:
            rows = prediction.scored_masks.class_map()
            self.semantic_iou.update(self._number_of_row[rows], truth.semantic_map)
            if self._has_instances:
                instances = prediction.scored_masks.instances(self._thing_of_row)
                self.instance_ap.update(instances, true_things)

    def _true_things(self, truth: ImageTruth) -> list[Instance]:
        if not self._has_instances:
            return []
        is_thing, crowds = self._categories.is_thing, truth.crowds
        shown = set(np.unique(truth.panoptic_map).tolist())
        entries = [
            (key, number, 1.0, key in crowds)
            for key, number in truth.category_of.items()
            if is_thing[number] and key in shown
        ]
        return instances_of(truth.panoptic_map, entries)

    def _add_segments(self, result: PanopticResult, truth: ImageTruth, true_things: list[Instance]) -> None:
        is_thing = self._categories.is_thing
        predicted_map, predicted = numbered_segments(result, self._categories)
        category_of = np.zeros(max(predicted, default=0) + 1, np.int64)
        category_of[list(predicted)] = list(predicted.values())
        self.mean_iou.update(category_of[predicted_map], truth.semantic_map)
        if not self._has_instances:
            return
        true, crowds = truth.category_of, truth.crowds
        matches = match_segments(
            predicted_map, predicted, truth.panoptic_map, true, crowds, listed_areas=truth.listed_areas
        )
        self.quality.add(matches)
        self.class_agnostic.update(
            predicted_map, dict.fromkeys(predicted, _ANY_CLASS), truth.panoptic_map, dict.fromkeys(true, _ANY_CLASS),
            crowds,
        )  # fmt: skip
        score_of = {segment.id: segment.score for segment in result.segments}
        is_judged = matches.is_right | matches.is_wrong
        scores = np.array([score_of[segment_id] for segment_id in predicted], np.float64)
        self.segment_calibration.update(scores[is_judged], matches.is_right[is_judged])
        things = [(key, number, score_of[key], False) for key, number in predicted.items() if is_thing[number]]
        self.mask_ap.update(instances_of(predicted_map, things), true_things)

    def _add_masks(self, probabilities: NDArray[np.float32], categories: NDArray[np.int64]) -> None:
        rows = np.array([self._row_of[number] for number in categories.tolist()], np.int64)
        is_right = probabilities[:, :-1].argmax(axis=1) == rows
        for part, weights in enumerate((is_right, np.ones(len(rows)))):
            self._masks[part] += np.bincount(categories, weights, self._masks.shape[1]).astype(np.int64)
        self.mask_calibration.update(probabilities.max(axis=1), probabilities.argmax(axis=1) == rows)

    def summary(self, parts: Mapping[str, Collection[int]] | None = None) -> dict[str, Any]:
        """Return the numbers as fractions; None where there is nothing to measure.

        Args:
            parts: Categories to average apart, by the name of the part ("base", "novel").
        """
        quality, iou, ap = self.quality.compute(), self.mean_iou.compute(), self.mask_ap.compute()
        agnostic, semantic = self.class_agnostic.compute().all, self.semantic_iou.compute()
        instances = self.instance_ap.compute()
        numbers: dict[str, Any] = {
            'pq': quality.all.pq, 'sq': quality.all.sq, 'rq': quality.all.rq,
            'pq_things': quality.things.pq, 'sq_things': quality.things.sq, 'rq_things': quality.things.rq,
            'pq_stuff': quality.stuff.pq, 'sq_stuff': quality.stuff.sq, 'rq_stuff': quality.stuff.rq,
            'pq_class_agnostic': agnostic.pq, 'sq_class_agnostic': agnostic.sq, 'rq_class_agnostic': agnostic.rq,
            'miou': iou.mean_iou, 'pixel_accuracy': iou.pixel_accuracy,
            'miou_semantic': semantic.mean_iou_of_truth, 'pixel_accuracy_semantic': semantic.pixel_accuracy,
            'ap': ap.ap, 'ap50': ap.ap50,
            'ap_instances': instances.ap, 'ap50_instances': instances.ap50,
            'mask_accuracy': self._mask_accuracy(self._categories.is_thing),
            'ece_masks': self.mask_calibration.compute(), 'ece_segments': self.segment_calibration.compute(),
        }  # fmt: skip
        for name, part in (parts or {}).items():
            numbers[f'pq_{name}'] = MeanQuality.of(quality.per_class[c] for c in part if c in quality.per_class).pq
            numbers[f'miou_{name}'] = mean_or_nan([iou.per_class[c] for c in part if c in iou.per_class])
            numbers[f'mask_accuracy_{name}'] = self._mask_accuracy(part)
        numbers['per_class'] = {
            name: {
                'is_thing': self._categories.is_thing[number],
                'pq': quality.per_class[number].pq if number in quality.per_class else None,
                'sq': quality.per_class[number].sq if number in quality.per_class else None,
                'rq': quality.per_class[number].rq if number in quality.per_class else None,
                'iou': iou.per_class.get(number),
                'iou_semantic': semantic.per_true_class.get(number),
                'ap': ap.per_class.get(number),
                'ap_instances': instances.per_class.get(number),
                'mask_accuracy': _defined(self._mask_accuracy([number])),
                'masks': int(self._masks[1, number]),
            }
            for number, name in enumerate(self._categories.names, start=1)
        }
        return {key: _defined(value) for key, value in numbers.items()}

    def _mask_accuracy(self, numbers: Collection[int]) -> float:
        right, count = self._masks[:, list(numbers)].sum(axis=1)
        return float(right / count) if count else float('nan')


def numbered_segments(result: PanopticResult, categories: CategoryMap) -> tuple[NDArray[np.uint16], dict[int, int]]:
    """Return the panoptic map and category numbers by segment id, of the segments whose class has a category.

    Returns:
        `(H, W)` uint16, 0 where unlabelled or of no category; number by segment id.
    """
    numbers = {
        segment.id: categories.class_numbers[segment.class_id]
        for segment in result.segments
        if segment.class_id in categories.class_numbers
    }
    if len(numbers) == len(result.segments):
        return result.panoptic_map, numbers
    table = np.zeros(max(segment.id for segment in result.segments) + 1, np.uint16)
    table[list(numbers)] = list(numbers)
    return table[result.panoptic_map], numbers


def _defined(value: Any) -> Any:
    return None if isinstance(value, float) and np.isnan(value) else value
