"""How far found boxes are from the true ones, by kind and distance."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fisa_ros.core.class_names import name_key
from fisa_ros.core.results import PanopticResult
from fisa_ros.pipeline.boxes_3d import Box3d
from fisa_ros.simulation.object_box import ObjectBox

DISTANCES_M = (0.0, 1.5, 2.5, 4.0, np.inf)
_MIN_OVERLAP = 0.5
_MIN_VISIBLE_SHARE = 0.8


@dataclass(frozen=True, slots=True)
class BoxError:
    """One true thing of one view.

    Attributes:
        class_name: Its kind.
        distance_m: From the camera to its true centre.
        is_whole: Whether it is neither cut off by the edge of the image nor more than a fifth hidden behind others.
        center_error_m: From its true centre to that of its box; None where it was not found.
        size_error_m: From its true size to that of its box, mean over the sides in order of length; None likewise.
    """

    class_name: str
    distance_m: float
    is_whole: bool
    center_error_m: float | None
    size_error_m: float | None


def compare_boxes(
    found: Sequence[Box3d], result: PanopticResult, true_map: NDArray[np.uint16], truth: Iterable[ObjectBox]
) -> list[BoxError]:
    """Compare the boxes of one view with the true ones.

    A thing is found where a segment with its name has an intersection over union of more than 0.5 with it, and a box.

    Args:
        found: The boxes of the things in `result`.
        result: The segmentation that they were made of.
        true_map: `(H, W)` uint16, the true instances.
        truth: Boxes of instances that are in `true_map`.
    """
    size = int(result.panoptic_map.max(initial=0)) + 1
    pairs = true_map.astype(np.int64) * size + result.panoptic_map
    overlaps = np.bincount(pairs.ravel(), minlength=(int(true_map.max(initial=0)) + 1) * size).reshape(-1, size)
    at_edge = {int(value) for line in (true_map[[0, -1]], true_map[:, [0, -1]]) for value in np.unique(line)}
    errors = []
    for true_box in truth:
        is_whole = true_box.visible_share >= _MIN_VISIBLE_SHARE and true_box.id not in at_edge
        distance_m = float(np.linalg.norm(true_box.center))
        for box in found:
            shared = int(overlaps[true_box.id, box.segment.id])
            union = int(overlaps[true_box.id].sum() + overlaps[:, box.segment.id].sum()) - shared
            if shared > _MIN_OVERLAP * union and name_key(box.segment.class_name) == name_key(true_box.class_name):
                center_error_m = float(np.linalg.norm(box.solid.center - true_box.center))
                size_error_m = float(np.abs(np.sort(box.solid.size) - np.sort(true_box.size)).mean())
                errors.append(BoxError(true_box.class_name, distance_m, is_whole, center_error_m, size_error_m))
                break
        else:
            errors.append(BoxError(true_box.class_name, distance_m, is_whole, None, None))
    return errors


def summarize_errors(errors: Sequence[BoxError]) -> dict[str, float | int | None]:
    """Return how many there are, how many were found, and median and 90th percentile of the errors in m."""
    centers = [error.center_error_m for error in errors if error.center_error_m is not None]
    sizes = [error.size_error_m for error in errors if error.size_error_m is not None]
    return {
        'n': len(errors),
        'found': len(centers),
        'center_median_m': round(float(np.median(centers)), 4) if centers else None,
        'center_p90_m': round(float(np.percentile(centers, 90)), 4) if centers else None,
        'size_median_m': round(float(np.median(sizes)), 4) if sizes else None,
    }
