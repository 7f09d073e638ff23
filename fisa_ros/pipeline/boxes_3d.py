"""Where the things of a frame are in space: a box around each, from the depth of its pixels."""

from collections.abc import Sequence
from dataclasses import dataclass
import math
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from fisa_ros.core.results import PanopticResult, Segment
from fisa_ros.pipeline.camera_model import Rays
from fisa_ros.pipeline.solid_fit import Solid, fit_solids

MIN_POINTS = 12
_MAX_SAMPLED = 800
_POINTS_PER_THING = 256
# Of each segment the same number of points, evenly spread, so that all are worked on at once.
_SAMPLES = (np.arange(_POINTS_PER_THING) + 0.5) / _POINTS_PER_THING
# Of a ray; of one that is nearly across the optical axis, or of a wild calibration, depth tells nothing.
_MAX_SLOPE = 1e3
_MIN_INNER_SHARE = 0.4
_NEIGHBOURHOOD = np.ones((5, 5), np.uint8)
_MAX_STEP_SHARE = 0.04
_GAP_SHARE = 0.5
_MIN_GAP_M = 0.08
_FEW = int(0.03 * _POINTS_PER_THING)
_INNER = (0.2, 0.8)
_NOISE_M, _NOISE_PER_M = 0.004, 0.003
_MAX_NOISE_SHARE, _MIN_NOISE_M = 0.08, 1e-3
# In multiples of the distance: from what single precision can tell apart.
_TOLERANCES = (1e-6, 1.0)


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


class _Pixels(NamedTuple):
    """Pixels of several things, those of each side by side and in order of image rows.

    Attributes:
        owner: `(P,)` intp, the position of each one's thing in the list of things.
        x: `(P,)` float32, of the ray at 1 m depth.
        y: `(P,)` float32, likewise.
        z: `(P,)` float32, depth in m.
    """

    owner: NDArray[np.intp]
    x: NDArray[np.float32]
    y: NDArray[np.float32]
    z: NDArray[np.float32]

    def at(self, index: NDArray[np.intp]) -> '_Pixels':
        """Return the pixels at these positions, in arrays of the shape of `index`."""
        return _Pixels(self.owner.take(index), self.x.take(index), self.y.take(index), self.z.take(index))


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
    things = [segment for segment in result.segments if segment.is_thing]
    if not things:
        return ()
    pixels, margins_px = _seen_pixels(depth, rays, result.panoptic_map, things)
    pixels = _largest_groups(pixels, len(things))
    rows, counts, sample = _even_sample(pixels, len(things))
    if not len(rows):
        return ()
    distances_m = sample.z.mean(axis=1, dtype=np.float64)
    # In multiples of the distance nothing is too large or too small for single precision.
    z = sample.z / distances_m.astype(np.float32)[:, None]
    points = np.stack([sample.x * z, sample.y * z, z], axis=1)
    noises_m = _NOISE_M + _NOISE_PER_M * distances_m**2
    tolerances_m = np.minimum(noises_m, np.maximum(_MAX_NOISE_SHARE * _widths(sample) * distances_m, _MIN_NOISE_M))
    tolerances = np.clip(tolerances_m / distances_m, *_TOLERANCES)
    solids = fit_solids(points, distances_m, tolerances, margins_px[rows] * _radians_per_px(rays))
    return tuple(map(Box3d, [things[row] for row in rows.tolist()], solids, counts.tolist()))


def _seen_pixels(
    depth: NDArray[np.float32], rays: Rays, panoptic_map: NDArray[np.uint16], things: Sequence[Segment]
) -> tuple[_Pixels, NDArray[np.float64]]:
    """Look at each thing from inside where it has enough inner pixels.

    Returns:
        The pixels; and `(S,)` how many pixels, on average, the outermost of each thing are away from its outline.
    """
    height, width = depth.shape
    strides = [max(1, math.ceil(math.sqrt(segment.area / _MAX_SAMPLED))) for segment in things]
    grids = []
    for segment, stride in zip(things, strides, strict=True):
        x0, y0, x1, y1 = segment.box_xyxy
        rows = np.arange(max(y0 + (stride - 1) // 2, 1), min(y1, height - 1), stride)
        columns = np.arange(max(x0 + (stride - 1) // 2, 1), min(x1, width - 1), stride)
        grids.append(rows[:, None] * width + columns)
    sizes = [grid.size for grid in grids]
    positions = np.concatenate([grid.ravel() for grid in grids])
    ids = np.array([segment.id for segment in things], np.uint16)
    inside = np.flatnonzero(panoptic_map.take(positions) == ids.repeat(sizes))
    positions = positions.take(inside)
    owner = np.arange(len(things)).repeat(sizes).take(inside)

    z = depth.take(positions)
    row = positions // width
    x, y = (axis[row, positions - row * width] for axis in rays)
    is_valid = (z == z) & (np.abs(x) < _MAX_SLOPE) & (np.abs(y) < _MAX_SLOPE)
    is_inner = is_valid.copy()
    own_id, max_step = ids.take(owner), _MAX_STEP_SHARE * z
    for offset in (1, -1, width, -width):
        near = positions + offset
        # A hole beside a pixel is an edge too.
        is_inner &= (panoptic_map.take(near) == own_id) & (np.abs(depth.take(near) - z) < max_step)
    near_inner = _spread_in_grids(is_inner, inside, grids).take(inside)
    num_valid, num_inner = (np.bincount(owner[mask], minlength=len(things)) for mask in (is_valid, is_inner))
    is_inside = num_inner >= np.maximum(MIN_POINTS, _MIN_INNER_SHARE * num_valid)
    # What no inner pixel is near to is no edge but a thin part, such as the leg of a table.
    is_kept = is_valid & (is_inner | ~near_inner | ~is_inside.take(owner))
    return _Pixels(owner, x, y, z).at(np.flatnonzero(is_kept)), np.array(strides) / 2 + is_inside


def _spread_in_grids(
    is_set: NDArray[np.bool_], inside: NDArray[np.intp], grids: Sequence[NDArray[np.intp]]
) -> NDArray[np.bool_]:
    """Return, for each place of each grid, one grid after the other, whether a place that is set lies near to it.

    Args:
        is_set: `(P,)`.
        inside: `(P,)` the places it speaks of; others are not set.
        grids: Of their shapes.
    """
    sizes = [grid.size for grid in grids]
    places = np.zeros(sum(sizes), np.uint8)
    places[inside] = is_set
    for grid, part in zip(grids, np.split(places, np.cumsum(sizes[:-1])), strict=True):
        if grid.size:
            part[:] = cv2.dilate(part.reshape(grid.shape), _NEIGHBOURHOOD).ravel()
    return places.view(np.bool_)


def _even_sample(pixels: _Pixels, num_things: int) -> tuple[NDArray[np.intp], NDArray[np.intp], _Pixels]:
    """Choose the same number of pixels of each thing that has enough of them.

    Returns:
        `(S,)` the positions of these things in the list; `(S,)` how many pixels each has; and `(S, N)` the chosen ones.
    """
    counts = np.bincount(pixels.owner, minlength=num_things)
    starts = np.cumsum(counts) - counts
    rows = np.flatnonzero(counts >= MIN_POINTS)
    index = starts[rows, None] + (_SAMPLES * counts[rows, None]).astype(np.intp)
    return rows, counts[rows], pixels.at(index)


def _largest_groups(pixels: _Pixels, num_things: int) -> _Pixels:
    """Drop what is separated in depth by a stretch that is wide for an object of this width and all but empty.

    It need not be empty: the floor behind an object, and flying pixels, lead from one depth to another.
    """
    rows, _, sample = _even_sample(pixels, num_things)
    depths = np.sort(sample.z, axis=1).astype(np.float64)
    stretches = depths[:, _FEW:] - depths[:, :-_FEW]
    widths_m = _widths(sample) * depths[:, _POINTS_PER_THING // 2]
    is_sparse = stretches > np.maximum(_MIN_GAP_M, _GAP_SHARE * widths_m)[:, None]
    if not is_sparse.any():
        return pixels
    # Step j leads from depth j to j + 1. It is in the stretches that start at most `_FEW` - 1 steps before.
    num_sparse = np.pad(np.cumsum(is_sparse, axis=1), ((0, 0), (1, 0)))
    steps = np.arange(_POINTS_PER_THING - 1)
    is_cut = num_sparse[:, np.minimum(steps + 1, stretches.shape[1])] > num_sparse[:, np.maximum(steps - _FEW + 1, 0)]
    firsts = np.pad(np.maximum.accumulate(np.where(is_cut, steps + 1, 0), axis=1), ((0, 0), (1, 0)))
    last = (np.arange(_POINTS_PER_THING) - firsts).argmax(axis=1)
    each = np.arange(len(rows))
    first = firsts[each, last]
    # The stretches reach into the group by `_FEW` points; that is how far these would go on at the density of its ends.
    beyond_first = depths[each, first] * 2 - depths[each, np.minimum(first + _FEW, last)]
    beyond_last = depths[each, last] * 2 - depths[each, np.maximum(last - _FEW, first)]
    low, high = np.full((2, num_things), [[-np.inf], [np.inf]])
    low[rows] = np.where(first > 0, beyond_first, -np.inf)
    high[rows] = np.where(last < _POINTS_PER_THING - 1, beyond_last, np.inf)
    is_in_group = (pixels.z >= low.take(pixels.owner)) & (pixels.z <= high.take(pixels.owner))
    return pixels.at(np.flatnonzero(is_in_group))


def _widths(sample: _Pixels) -> NDArray[np.float32]:
    """Return `(S,)` the smaller of width and height as seen, at 1 m depth, of the inner points of each thing."""
    first, last = (int(share * (_POINTS_PER_THING - 1)) for share in _INNER)
    seen = np.sort(np.stack([sample.x, sample.y]), axis=2)
    widths: NDArray[np.float32] = (seen[..., last] - seen[..., first]).min(axis=0) / (_INNER[1] - _INNER[0])
    return widths


def _radians_per_px(rays: Rays) -> float:
    """Return the angle between two pixels side by side, in the middle row of the image."""
    steps = np.sort(np.diff(rays[0][rays[0].shape[0] // 2]))
    # Those beside a pixel without a ray are NaN, which comes last.
    num_steps = np.count_nonzero(steps == steps)
    return float(steps[num_steps // 2]) if num_steps else 0.0
