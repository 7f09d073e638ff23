"""Mean intersection over union of semantic maps."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from fisa_ros.evaluation.id_map import count_pairs
from fisa_ros.evaluation.means import mean_or_nan


@dataclass(frozen=True, slots=True)
class MeanIouResult:
    """What `MeanIou` measured, as fractions.

    Attributes:
        mean_iou: Mean over the classes of `per_class`; NaN where there is none.
        pixel_accuracy: Share of the counted pixels that got their true class; NaN where none was counted.
        per_class: IoU by class id; a class that neither truth nor prediction had is left out.
        per_true_class: The same of those classes that the truth has.
    """

    mean_iou: float
    pixel_accuracy: float
    per_class: dict[int, float]
    per_true_class: dict[int, float]

    @property
    def mean_iou_of_truth(self) -> float:
        """Mean over the classes of `per_true_class`, as detectron2 tells it and most published tables with it."""
        return mean_or_nan(list(self.per_true_class.values()))


class MeanIou:
    """Collects semantic maps and tells their mean IoU.

    Pixels whose truth is 0 (void) are not counted at all. Pixels predicted 0 (unlabelled) are misses of their true
    class and false alarms of none. Maps made of panoptic segments have passed the thresholds, so their mean IoU is not
    comparable with that of semantic segmentation, where each pixel gets its best class (see `scored_masks`).
    """

    def __init__(self, class_ids: Collection[int]) -> None:
        """Count these classes, ids 1..65535; the maps may hold no others."""
        self._class_ids = tuple(sorted(set(class_ids)))
        if not self._class_ids or self._class_ids[0] < 1:
            raise ValueError(f'class ids must be 1 or more and at least one, got {list(self._class_ids)}')
        self.reset()

    def reset(self) -> None:
        """Forget all maps."""
        size = len(self._class_ids) + 1
        self._pixels = np.zeros((size, size), np.int64)

    def update(self, predicted: NDArray[np.integer], truth: NDArray[np.integer]) -> Self:
        """Add one frame.

        Args:
            predicted: `(H, W)` class ids, 0 where unlabelled.
            truth: `(H, W)` class ids, 0 where void.

        Raises:
            DataError: If the sizes differ or a map holds an id that is not counted here.
        """
        self._pixels += count_pairs(truth, self._class_ids, predicted, self._class_ids)
        return self

    def merge(self, other: Self) -> Self:
        """Add the frames of another metric over the same classes."""
        if self._class_ids != other._class_ids:
            raise ValueError(f'cannot merge classes {self._class_ids} with {other._class_ids}')
        self._pixels += other._pixels
        return self

    @property
    def confusion(self) -> NDArray[np.int64]:
        """`(C, C + 1)` pixels of each true class (row, in the order of the ids) by prediction, the first unlabelled."""
        return self._pixels[1:].copy()

    def compute(self) -> MeanIouResult:
        """Return the numbers over all frames so far."""
        counted = self._pixels[1:]
        hits = np.diagonal(counted, offset=1)
        union = counted.sum(axis=1) + counted[:, 1:].sum(axis=0) - hits
        per_class = {
            class_id: float(hit / total)
            for class_id, hit, total in zip(self._class_ids, hits, union, strict=True)
            if total
        }
        pixels = int(counted.sum())
        is_true = dict(zip(self._class_ids, counted.any(axis=1), strict=True))
        return MeanIouResult(
            mean_iou=mean_or_nan(list(per_class.values())),
            pixel_accuracy=float(hits.sum() / pixels) if pixels else float('nan'),
            per_class=per_class,
            per_true_class={class_id: iou for class_id, iou in per_class.items() if is_true[class_id]},
        )
