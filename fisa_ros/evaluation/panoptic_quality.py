"""Panoptic quality (PQ), segmentation quality (SQ) and recognition quality (RQ)."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from fisa_ros.core.errors import DataError
from fisa_ros.evaluation.id_map import count_pairs

MATCH_IOU = 0.5
"""A predicted and a true segment of one class match above this IoU, so a segment has one match at most."""


@dataclass(slots=True)
class ClassQuality:
    """Matches of one class, and the fractions that follow from them."""

    true_positives: int = 0
    false_positives: int = 0
    false_negatives: int = 0
    iou_sum: float = 0.0

    def add(self, other: 'ClassQuality') -> None:
        """Add matches and errors of other frames."""
        self.true_positives += other.true_positives
        self.false_positives += other.false_positives
        self.false_negatives += other.false_negatives
        self.iou_sum += other.iou_sum

    @property
    def seen(self) -> bool:
        """Whether truth or prediction had a segment of this class."""
        return bool(self.true_positives or self.false_positives or self.false_negatives)

    @property
    def sq(self) -> float:
        """Mean IoU of the matches, 0 without one."""
        return self.iou_sum / self.true_positives if self.true_positives else 0.0

    @property
    def rq(self) -> float:
        """F1 score of the matching, 0 without a segment."""
        errors = (self.false_positives + self.false_negatives) / 2
        return self.true_positives / (self.true_positives + errors) if self.seen else 0.0

    @property
    def pq(self) -> float:
        """SQ x RQ."""
        return self.sq * self.rq


@dataclass(frozen=True, slots=True)
class MeanQuality:
    """Unweighted mean over classes, as fractions; NaN where `num_classes` is 0."""

    pq: float
    sq: float
    rq: float
    num_classes: int

    @classmethod
    def of(cls, classes: Iterable[ClassQuality]) -> Self:
        """Average those classes that were seen."""
        seen = [quality for quality in classes if quality.seen]
        if not seen:
            return cls(float('nan'), float('nan'), float('nan'), 0)
        table = np.array([(quality.pq, quality.sq, quality.rq) for quality in seen])
        pq, sq, rq = (float(value) for value in table.mean(axis=0))
        return cls(pq, sq, rq, len(seen))


@dataclass(frozen=True, slots=True)
class PanopticQualityResult:
    """What `PanopticQuality` measured.

    Attributes:
        all: Mean over all classes seen.
        things: Mean over the things seen.
        stuff: Mean over the stuff seen.
        per_class: By class id; a class that neither truth nor prediction had is left out.
    """

    all: MeanQuality
    things: MeanQuality
    stuff: MeanQuality
    per_class: dict[int, ClassQuality]


class PanopticQuality:
    """Collects panoptic maps and tells their panoptic quality, by the rules of the COCO panoptic task.

    True pixels with id 0 (void) are taken out of the union of a match; those of crowd segments stay in it. A predicted
    segment that lies mostly on void or on crowds of its class is no false positive. Crowds are no false negatives.
    """

    def __init__(self, is_thing: Mapping[int, bool]) -> None:
        """Count these classes: `is_thing` by class id; the segments may have no others."""
        self._is_thing = dict(is_thing)
        if not self._is_thing:
            raise ValueError('at least one class is needed to measure panoptic quality')
        self.reset()

    def reset(self) -> None:
        """Forget all maps."""
        self._classes = {class_id: ClassQuality() for class_id in self._is_thing}

    def update(
        self,
        predicted_map: NDArray[np.integer],
        predicted_classes: Mapping[int, int],
        truth_map: NDArray[np.integer],
        truth_classes: Mapping[int, int],
        crowd_ids: Collection[int] = (),
    ) -> Self:
        """Add one frame.

        Args:
            predicted_map: `(H, W)` segment ids, 0 where unlabelled.
            predicted_classes: Class id by predicted segment id.
            truth_map: `(H, W)` segment ids, 0 where void.
            truth_classes: Class id by true segment id.
            crowd_ids: True segments that are groups of unseparated objects.

        Raises:
            DataError: If the sizes differ, a map holds an id without class, or a class is not counted here.
        """
        return self.add(match_segments(predicted_map, predicted_classes, truth_map, truth_classes, crowd_ids))

    def add(self, matches: 'SegmentMatches') -> Self:
        """Add one frame whose segments are matched.

        Raises:
            DataError: A class is not counted here.
        """
        predicted_class = self._counted(matches.predicted_class, 'prediction')
        truth_class = self._counted(matches.truth_class, 'truth')
        for class_id, iou in zip(predicted_class[matches.is_right], matches.iou[matches.is_right], strict=True):
            quality = self._classes[int(class_id)]
            quality.true_positives += 1
            quality.iou_sum += float(iou)
        for class_id in truth_class[matches.is_missed]:
            self._classes[int(class_id)].false_negatives += 1
        for class_id in predicted_class[matches.is_wrong]:
            self._classes[int(class_id)].false_positives += 1
        return self

    def merge(self, other: Self) -> Self:
        """Add the frames of another metric over the same classes."""
        if self._is_thing != other._is_thing:
            raise ValueError(f'cannot merge classes {sorted(self._is_thing)} with {sorted(other._is_thing)}')
        for class_id, quality in self._classes.items():
            quality.add(other._classes[class_id])
        return self

    def compute(self) -> PanopticQualityResult:
        """Return the numbers over all frames so far."""
        return PanopticQualityResult(
            all=MeanQuality.of(self._classes.values()),
            things=MeanQuality.of(quality for key, quality in self._classes.items() if self._is_thing[key]),
            stuff=MeanQuality.of(quality for key, quality in self._classes.items() if not self._is_thing[key]),
            per_class={key: quality for key, quality in self._classes.items() if quality.seen},
        )

    def _counted(self, class_ids: NDArray[np.int64], name: str) -> NDArray[np.int64]:
        if unknown := sorted(set(class_ids.tolist()) - self._is_thing.keys()):
            raise DataError(f'{name} has segments of the classes {unknown}, which are not counted')
        return class_ids


@dataclass(frozen=True, slots=True)
class SegmentMatches:
    """Which segments of one frame match; P predicted and T true ones, in the order in which they were given.

    Attributes:
        predicted_class: `(P,)` int64 class ids.
        truth_class: `(T,)` int64 class ids.
        is_right: `(P,)` bool, a true segment of the class matches.
        is_wrong: `(P,)` bool, none does, and the segment does not lie mostly on void or on a crowd of its class.
        iou: `(P,)` float64 IoU of the match, 0 without one.
        is_missed: `(T,)` bool, no predicted segment matches.
    """

    predicted_class: NDArray[np.int64]
    truth_class: NDArray[np.int64]
    is_right: NDArray[np.bool_]
    is_wrong: NDArray[np.bool_]
    iou: NDArray[np.float64]
    is_missed: NDArray[np.bool_]


def match_segments(
    predicted_map: NDArray[np.integer],
    predicted_classes: Mapping[int, int],
    truth_map: NDArray[np.integer],
    truth_classes: Mapping[int, int],
    crowd_ids: Collection[int] = (),
    *,
    listed_areas: NDArray[np.integer] | None = None,
) -> SegmentMatches:
    """Match the segments of one frame; other arguments and errors are those of `PanopticQuality.update`.

    ADE20K has true segments that others cover, as its things are pasted over its stuff. In panopticapi these are
    missed, and pixels of a segment that are covered count in the union of its match.

    Args:
        predicted_map: See there.
        predicted_classes: See there.
        truth_map: See there.
        truth_classes: See there.
        crowd_ids: See there.
        listed_areas: `(T,)` pixels of the true segments, covered ones too; fewer than the map has mean nothing.
            A segment that has a pixel in neither is not missed.
    """
    overlap = count_pairs(predicted_map, list(predicted_classes), truth_map, list(truth_classes))
    predicted_class = np.array(list(predicted_classes.values()), np.int64)
    truth_class = np.array(list(truth_classes.values()), np.int64)
    crowd = np.array([segment_id in crowd_ids for segment_id in truth_classes], bool)

    shared = overlap[1:, 1:]
    predicted_area, truth_area = overlap[1:].sum(axis=1), overlap[:, 1:].sum(axis=0)
    whole_area = truth_area if listed_areas is None else np.maximum(truth_area, listed_areas)
    union = predicted_area[:, None] + whole_area[None, :] - shared - overlap[1:, :1]
    same_class = predicted_class[:, None] == truth_class[None, :]
    iou = np.divide(shared, union, out=np.zeros(shared.shape), where=union > 0)
    match = same_class & ~crowd[None, :] & (iou > MATCH_IOU)
    is_right = match.any(axis=1)
    forgiven = overlap[1:, 0] + (shared * (same_class & crowd[None, :])).sum(axis=1)
    return SegmentMatches(
        predicted_class=predicted_class,
        truth_class=truth_class,
        is_right=is_right,
        is_wrong=~is_right & (2 * forgiven <= predicted_area) & (predicted_area > 0),
        iou=np.where(match, iou, 0.0).sum(axis=1),
        is_missed=~match.any(axis=0) & ~crowd & (whole_area > 0),
    )
