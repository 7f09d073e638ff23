"""Mask average precision (AP) of things, by the rules and the library of COCO.

It is the AP of panoptic segments, which are merged, do not overlap and have passed the thresholds; it is not comparable
with the AP of instance segmentation, where all scored masks count.
"""

from collections.abc import Collection, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
import io
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as mask_coding
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

_IOU_50 = 0


@dataclass(frozen=True, slots=True)
class MaskApResult:
    """What `MaskAp` measured, as fractions; NaN where there is no true instance.

    Attributes:
        ap: Mean over the classes and the IoU thresholds 0.5, 0.55, ... 0.95.
        ap50: Mean over the classes at IoU 0.5.
        per_class: AP by class id; a class without true instances is left out.
    """

    ap: float
    ap50: float
    per_class: Mapping[int, float]


class MaskAp:
    """Collects instances and tells their AP; masks are kept as run lengths."""

    def __init__(self, class_ids: Collection[int]) -> None:
        """Count these classes."""
        self._class_ids = sorted(set(class_ids))
        self._truth: list[dict[str, Any]] = []
        self._predicted: list[dict[str, Any]] = []
        self._images: list[dict[str, int]] = []

    def update(
        self,
        predicted_map: NDArray[np.integer],
        predicted: Sequence[tuple[int, int, float]],
        truth_map: NDArray[np.integer],
        truth: Sequence[tuple[int, int, bool]],
    ) -> Self:
        """Add one image.

        Args:
            predicted_map: `(H, W)` segment ids, 1 or more.
            predicted: Id, class and score of each predicted instance; other values of the map are not counted.
            truth_map: `(H, W)`.
            truth: Id, class and whether it is a crowd, likewise.
        """
        height, width = truth_map.shape
        self._images.append({'id': len(self._images) + 1, 'height': height, 'width': width})
        for (_, class_id, score), code in zip(
            predicted, _encode(predicted_map, [p[0] for p in predicted]), strict=True
        ):
            self._predicted.append(self._annotation(self._predicted, class_id, code) | {'score': score, 'iscrowd': 0})
        for (_, class_id, is_crowd), code in zip(truth, _encode(truth_map, [t[0] for t in truth]), strict=True):
            self._truth.append(self._annotation(self._truth, class_id, code) | {'iscrowd': int(is_crowd)})
        return self

    def compute(self) -> MaskApResult:
        """Return the numbers over all images so far."""
        # The library tells its progress on stdout.
        with redirect_stdout(io.StringIO()):
            evaluation = COCOeval(self._index(self._truth), self._index(self._predicted), 'segm')
            evaluation.evaluate()
            evaluation.accumulate()
        # (IoU, recall, class, area, number of detections); -1 where a class has no true instance.
        precision = evaluation.eval['precision'][:, :, :, 0, -1]
        per_class = {
            class_id: float(precision[:, :, column].mean())
            for column, class_id in enumerate(self._class_ids)
            if (precision[:, :, column] >= 0).all()
        }
        at_50 = [float(precision[_IOU_50, :, column].mean()) for column, class_id in enumerate(self._class_ids)
                 if class_id in per_class]  # fmt: skip
        return MaskApResult(_mean(list(per_class.values())), _mean(at_50), per_class)

    def _annotation(self, earlier: Sequence[object], class_id: int, code: Any) -> dict[str, Any]:
        return {
            'id': len(earlier) + 1,
            'image_id': len(self._images),
            'category_id': class_id,
            'segmentation': code,
            'area': float(mask_coding.area(code)),
            'bbox': mask_coding.toBbox(code).tolist(),
        }

    def _index(self, annotations: list[dict[str, Any]]) -> Any:
        index: Any = COCO()
        index.dataset = {
            'images': self._images,
            'categories': [{'id': class_id} for class_id in self._class_ids],
            'annotations': annotations,
        }
        index.createIndex()
        return index


def _encode(id_map: NDArray[np.integer], ids: Sequence[int]) -> list[Any]:
    if not ids:
        return []
    stacked = id_map[..., None] == np.array(ids, id_map.dtype)
    # The library's types know of one mask only.
    codes: Any = mask_coding.encode(np.asfortranarray(stacked.view(np.uint8)))
    return list(codes)


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else float('nan')
