"""Where the things of a frame are in space: a box around each, from the depth of its pixels."""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from fisa_ros.core.results import PanopticResult, Segment
from fisa_ros.pipeline.camera_model import Rays
from fisa_ros.pipeline.solid_fit import Solid, fit_solids

MIN_POINTS = 12
_MAX_SAMPLED = 800
_POINTS_PER_THING = 256
# Of each segment the same number of points, evenly spread, so that all are fitted at once.
_SAMPLES = (np.arange(_POINTS_PER_THING) + 0.5) / _POINTS_PER_THING
_MIN_INNER_SHARE = 0.4
_NEIGHBOURHOOD = np.ones((5, 5), np.uint8)
_MAX_STEP_SHARE = 0.04
_GAP_SHARE = 0.5
_MIN_GAP_M = 0.08
_FEW_SHARE = 0.03
_INNER = (0.2, 0.8)
_NOISE_M, _NOISE_PER_M = 0.004, 0.003
_MAX_NOISE_SHARE = 0.08


@dataclass(frozen=True, slots=True)
class Box3d:
    """A thing in space, in the camera's optical frame (x right, y down, z forward).

    Attributes:
        segment: The thing.
        solid: Its box.
        num_points: Number of its pixels that the box was made of; large segments are sampled.
    """

    segment: Segment
    solid: Solid
    num_points: int


def find_boxes(depth: NDArray[np.float32], rays: Rays, result: PanopticResult) -> tuple[Box3d, ...]:
    """Return a box for each thing that has depth, in order of the segments.

    A pixel at an edge, of the mask or of the depth, may show what lies behind the thing or a place between both (a
    flying pixel), so those are left out as long as most of the segment remains. Of groups of points with a gap in depth
    between them the largest is the thing. See `solid_fit` for what is then taken as its centre and size. A thing with
    fewer than `MIN_POINTS` points left has no box.

    Args:
        depth: `(H, W)` float32 m, NaN where there is none.
        rays: See `CameraModel.rays`.
        result: The segments of the image.
    """
    things: list[Segment] = []
    counts: list[int] = []
    margins_px: list[float] = []
    samples: list[NDArray[np.float64]] = []
    for segment in result.segments:
        if segment.is_thing:
            seen, margin_px = _segment_points(depth, rays, result.panoptic_map, segment)
            points = _largest_group(seen)
            if len(points) >= MIN_POINTS:
                margins_px.append(margin_px)
                things.append(segment)
                counts.append(len(points))
                samples.append(points[(_SAMPLES * len(points)).astype(np.intp)])
    if not things:
        return ()
    stacked = np.stack(samples)
    margins_m = np.array(margins_px) * _radians_per_px(rays) * stacked[..., 2].mean(axis=1)
    solids = fit_solids(stacked, _tolerances_m(stacked), margins_m)
    return tuple(map(Box3d, things, solids, counts))


def _segment_points(
    depth: NDArray[np.float32], rays: Rays, panoptic_map: NDArray[np.uint16], segment: Segment
) -> tuple[NDArray[np.float64], float]:
    """Look at a segment from inside where it has enough inner pixels.

    Returns:
        `(n, 3)` float64 points; and how many pixels, on average, the outermost are away from the outline.
    """
    height, width = depth.shape
    x0, y0, x1, y1 = segment.box_xyxy
    stride = max(1, int(np.ceil(np.sqrt(segment.area / _MAX_SAMPLED))))
    rows = slice(max(y0 + (stride - 1) // 2, 1), min(y1, height - 1), stride)
    columns = slice(max(x0 + (stride - 1) // 2, 1), min(x1, width - 1), stride)
    z = depth[rows, columns]
    if not z.size:
        return np.empty((0, 3)), 0.0
    is_valid = (
        (panoptic_map[rows, columns] == segment.id) & (z == z) & (rays[0][rows, columns] == rays[0][rows, columns])
    )
    is_inner = is_valid.copy()
    max_step = _MAX_STEP_SHARE * z
    for dy, dx in ((0, 1), (0, -1), (1, 0), (-1, 0)):
        near = slice(rows.start + dy, rows.stop + dy, stride), slice(columns.start + dx, columns.stop + dx, stride)
        # A hole beside a pixel is an edge too.
        is_inner &= (panoptic_map[near] == segment.id) & (np.abs(depth[near] - z) < max_step)
    margin_px = stride / 2 + 1
    # What no inner pixel is near to is no edge but a thin part, such as the leg of a table.
    near_inner = cv2.dilate(is_inner.view(np.uint8), _NEIGHBOURHOOD)
    is_kept = is_inner | (is_valid & (near_inner == 0))
    if np.count_nonzero(is_inner) < max(MIN_POINTS, _MIN_INNER_SHARE * np.count_nonzero(is_valid)):
        is_kept = is_valid
        margin_px = stride / 2
    chosen_z = z[is_kept]
    points = np.empty((len(chosen_z), 3))
    points[:, 0] = rays[0][rows, columns][is_kept] * chosen_z
    points[:, 1] = rays[1][rows, columns][is_kept] * chosen_z
    points[:, 2] = chosen_z
    return points, margin_px


def _radians_per_px(rays: Rays) -> float:
    """Return the angle between two pixels side by side, in the middle row of the image."""
    steps = np.diff(rays[0][rays[0].shape[0] // 2])
    steps = steps[np.isfinite(steps)]
    return float(np.median(steps)) if len(steps) else 0.0


def _largest_group(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Drop what is separated in depth by a stretch that is wide for an object of this width and all but empty.

    It need not be empty: the floor behind an object, and flying pixels, lead from one depth to another.
    """
    count = len(points)
    few = max(1, int(_FEW_SHARE * count))
    if count < MIN_POINTS:
        return points
    depths = np.sort(points[:, 2])
    stretches = depths[few:] - depths[:-few]
    if stretches.max() <= _MIN_GAP_M:
        return points
    is_sparse = stretches > max(_MIN_GAP_M, _GAP_SHARE * float(_widths_m(points[None])[0]))
    if not is_sparse.any():
        return points
    # Step j leads from depth j to j + 1. It is in the stretches that start at most `few` - 1 steps before.
    num_sparse = np.concatenate([[0], np.cumsum(is_sparse)])
    steps = np.arange(count - 1)
    is_cut = num_sparse[np.minimum(steps, count - few - 1) + 1] > num_sparse[np.maximum(steps - few + 1, 0)]
    bounds = [0, *(np.flatnonzero(is_cut) + 1).tolist(), count]
    largest = int(np.diff(bounds).argmax())
    first, last = bounds[largest], bounds[largest + 1] - 1
    # The stretches reach into the group by `few` points; that is how far these would go on at the density of its ends.
    low = depths[first] - (depths[min(first + few, last)] - depths[first])
    high = depths[last] + (depths[last] - depths[max(last - few, first)])
    group: NDArray[np.float64] = points[(points[:, 2] >= low) & (points[:, 2] <= high)]
    return group


def _widths_m(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return `(S,)`, for `(S, N, 3)` points, the smaller of width and height as seen, of the inner points of each."""
    first, last = (int(share * (points.shape[1] - 1)) for share in _INNER)
    seen = np.partition(points[..., :2] / points[..., 2:], (first, last), axis=1)
    inner = (seen[:, last] - seen[:, first]).min(axis=1) / (_INNER[1] - _INNER[0])
    return np.asarray(inner * np.median(points[..., 2], axis=1))


def _tolerances_m(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return how far from a surface its points may be: the noise of stereo grows with the square of the distance."""
    noise_m = _NOISE_M + _NOISE_PER_M * points[..., 2].mean(axis=1) ** 2
    return np.minimum(noise_m, np.maximum(_MAX_NOISE_SHARE * _widths_m(points), 1e-3))
