"""Fits a ball, a round column or a box to the visible surface of each of several objects at once.

A depth camera sees only the side of an object that faces it, so the middle of its points lies in front of the middle of
the object. A ball and a column are completed by their curvature. A box is completed by its faces: where two or three of
them are seen, they show its full extent along all three edges. Of an object of which one flat face is all that is
seen, nobody knows the depth, and its box is flat. Everything else (chairs, plants) gets the box of what is seen of it,
along the directions of its largest faces.

All objects have the same number of points, so that each step is one operation on arrays, whatever their number. What
has a value for each point is in single precision and has the points along its last axis.
"""

from dataclasses import dataclass
from itertools import permutations
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Values = NDArray[np.float32]
Mask = NDArray[np.bool_]

BALL, COLUMN, BOX = 'ball', 'column', 'box'
_TRIPLES, _PAIRS, _VOTERS = 64, 32, 128
# Evenly spread numbers in [0, 1): the same points are tried each time, so the same frame gives the same boxes.
_SPREAD = (np.arange(1, _TRIPLES + 1)[:, None] * (0.8191725134, 0.6710436067, 0.5497004779)) % 1.0
# Points are in order of image rows. Of every two triples one lies in a band of rows, so that small faces are met too.
_BAND = 0.15
_SPREAD[::2, 1:] = _SPREAD[::2, :1] * (1 - _BAND) + _SPREAD[::2, 1:] * _BAND
_SPREAD[::2, 0] = _SPREAD[::2, 0] * (1 - _BAND) + _BAND / 2
_EXTREME_SHARE = 0.005
_MIN_FACE_SHARE = 0.05
_MIN_SIDE_SHARE = 0.3
_ACROSS, _MIN_FORESHORTENED = 0.15, 0.4
_MAX_MARGIN_SHARE = 0.15
_RADIUS_OF_HALF_WIDTH = (0.75, 1.6)
_BOX_ADVANTAGE, _BALL_ADVANTAGE = 0.03, 0.02
_CURVE_FITS = 2
# Against fits that have no solution, relative to the sums of squares and on its own.
_RIDGE, _MIN_RIDGE = 1e-6, 1e-9
# Which of the directions of `_find_faces` a column may be along, and the two around it.
_ALONG, _AROUND = np.array([0, 1, 3]), np.array([[1, 2], [2, 0], [4, 0]])
_ORDERS = np.array(list(permutations(range(3))))
_TINY = 1e-12


@dataclass(frozen=True, slots=True)
class Solid:
    """A box in space.

    Attributes:
        center: `(3,)` float64, m.
        size: `(3,)` float64, full extents along the columns of `rotation`, m.
        rotation: `(3, 3)` float64, columns are its axes; of all ways to name the axes the one nearest to the identity.
        shape: What it was fitted as: `BALL`, `COLUMN` or `BOX`.
    """

    center: Array
    size: Array
    rotation: Array
    shape: str


class _Candidates(NamedTuple):
    """One shape for each object: centre and size `(S, 3)`, axes as rows `(S, 3, 3)`, share explained `(S,)`."""

    center: Array
    size: Array
    axes: Array
    support: Array


def fit_solids(points: Values, distances_m: Array, tolerances: Array, margins: Array) -> list[Solid]:
    """Fit to each object the shape that explains most of its points.

    Args:
        points: `(S, 3, N)` float32, as seen from the origin, in multiples of the object's distance and without
            outliers; any may be there twice.
        distances_m: `(S,)` float64.
        tolerances: `(S,)` float64; a point nearer than this to a surface lies on it. In multiples of the distance.
        margins: `(S,)` float64, how much of the object lies between its outermost points and its outline, as seen.
            Likewise.
    """
    middle = points.mean(axis=2)
    local = points - middle[..., None]
    tolerance = tolerances.astype(np.float32)
    directions, face_support = _find_faces(local, tolerance)
    sight = np.einsum('skj,sj->sk', directions, middle)
    along = directions.astype(np.float32) @ local
    low, high = _ends(along, sight / np.linalg.norm(middle, axis=1, keepdims=True), margins)
    candidates = {
        BOX: _boxes(directions, low, high, face_support + _BOX_ADVANTAGE),
        BALL: _balls(local, tolerance),
        COLUMN: _columns(directions, along, low, high, sight, tolerance),
    }
    best = np.argmax([candidate.support for candidate in candidates.values()], axis=0)
    each = np.arange(len(points))
    center, size, axes, _ = (np.stack(options)[best, each] for options in zip(*candidates.values(), strict=True))
    rotations, sizes = _name_axes(axes, size * distances_m[:, None])
    centers = (center + middle) * distances_m[:, None]
    shapes = [tuple(candidates)[number] for number in best.tolist()]
    return list(map(Solid, centers, sizes, rotations, shapes))


def _boxes(directions: Array, low: Array, high: Array, support: Array) -> _Candidates:
    axes, middle, size = directions[:, :3], (low + high)[:, :3] / 2, (high - low)[:, :3]
    return _Candidates(np.einsum('sij,si->sj', axes, middle), size, axes, support)


def _balls(points: Values, tolerance: Values) -> _Candidates:
    center, radius, off = _fit_curves(points, np.ones_like(points[:, 0]), tolerance)
    half_width = np.ptp(points[:, :2], axis=2).max(axis=1) / 2
    is_near = np.abs(off) < tolerance[:, None]
    support = np.where(_is_plausible(radius, half_width), is_near.mean(axis=1) + _BALL_ADVANTAGE, 0.0)
    axes = np.broadcast_to(np.eye(3), (len(points), 3, 3))
    return _Candidates(center, np.repeat(2 * radius[:, None], 3, axis=1), axes, support)


def _columns(directions: Array, along: Values, low: Array, high: Array, sight: Array, tolerance: Values) -> _Candidates:
    """Fit columns, of which the side and one end may be seen, along the best of three directions.

    From its end, the largest or second face of a column is that end; from the side, the largest is a strip along it.
    """
    around, tolerance = along[:, _AROUND], tolerance[:, None]
    # The end that may be seen is the one that faces the camera.
    facing = np.where(sight[:, _ALONG] > 0, 1, -1).astype(np.float32)
    end = np.where(facing > 0, low[:, _ALONG], -high[:, _ALONG]).astype(np.float32)
    is_side = along[:, _ALONG] * facing[..., None] > (end + 2 * tolerance)[..., None]
    center, radius, off = _fit_curves(around, is_side.astype(np.float32), tolerance)
    # Across the line of sight; along it only the front half is seen.
    across = sight[:, _AROUND[:, ::-1]] * (-1, 1)
    across /= np.maximum(np.linalg.norm(across, axis=2, keepdims=True), _TINY)
    half_width = np.ptp(across[:, :, None].astype(np.float32) @ around, axis=3)[..., 0] / 2
    # What lies on the end has to be inside the circle, what lies on the side on it.
    is_explained = np.where(is_side, np.abs(off), off) < tolerance[..., None]
    is_column = _is_plausible(radius, half_width) & (is_side.mean(axis=2) > _MIN_SIDE_SHARE)
    support = np.where(is_column, is_explained.mean(axis=2), 0.0)
    best = support.argmax(axis=1)
    each = np.arange(len(best))
    lowest, highest = low[each, _ALONG[best]], high[each, _ALONG[best]]
    axes = directions[each[:, None], np.column_stack([_AROUND[best], _ALONG[best]])]
    center = np.column_stack([center[each, best], (lowest + highest) / 2])
    width = 2 * radius[each, best]
    size = np.column_stack([width, width, highest - lowest])
    return _Candidates(np.einsum('sij,si->sj', axes, center), size, axes, support[each, best])


def _is_plausible(radius: Array, half_width: Values | Array) -> Mask:
    low, high = _RADIUS_OF_HALF_WIDTH
    return (low * half_width <= radius) & (radius <= high * half_width)


def _ends(along: Values, toward: Array, margins: Array) -> tuple[Array, Array]:
    """Return `(S, K)` lowest and highest of `(S, K, N)` positions along axes, but for the few beyond, and the margins.

    An end that faces the camera is seen as a face, so nothing of it is missing. At the other end, and at both ends of
    an axis across the line of sight, the margin is, the more the axis is foreshortened.

    Args:
        along: The positions.
        toward: `(S, K)` cosines between axes and line of sight; above 0 the higher end is the far one.
        margins: `(S,)`.
    """
    ordered = np.sort(along, axis=2)
    skipped = int(_EXTREME_SHARE * along.shape[2])
    low, high = ordered[..., skipped].astype(np.float64), ordered[..., -1 - skipped].astype(np.float64)
    missing = margins[:, None] / np.sqrt(np.maximum(1.0 - toward * toward, _MIN_FORESHORTENED**2))
    # Where next to nothing is seen along an axis, its sides are hidden: what is missing is unknown.
    missing = np.minimum(missing, _MAX_MARGIN_SHARE * (high - low))
    is_across = np.abs(toward) < _ACROSS
    return (
        low - np.where((toward < 0) | is_across, missing, 0.0),
        high + np.where((toward > 0) | is_across, missing, 0.0),
    )


def _fit_curves(points: Values, weights: Values, tolerance: Values) -> tuple[Array, Array, Values]:
    """Fit circles or spheres by linear least squares (Kasa, 1976), and again to what is near to them.

    Args:
        points: `(..., D, N)`, D is 2 or 3.
        weights: `(..., N)`, 1 for those that count, 0 for others.
        tolerance: `(...)`.

    Returns:
        Centres `(..., D)`, radii `(...)`, and how far each point is outside `(..., N)`.
    """
    squares = np.einsum('...in,...in->...n', points, points)[..., None, :]
    design = np.concatenate([points, np.ones_like(squares), squares], axis=-2)
    transposed = design.swapaxes(-1, -2)
    diagonal = np.eye(design.shape[-2] - 1)
    chosen = weights
    for repetition in range(_CURVE_FITS):
        sums = ((design[..., :-1, :] * chosen[..., None, :]) @ transposed).astype(np.float64)
        normal = sums[..., :-1] * (1 + _RIDGE * diagonal) + _MIN_RIDGE * diagonal
        solution = np.linalg.solve(normal, sums[..., -1:])[..., 0]
        center = solution[..., :-1] / 2
        radius = np.sqrt(np.maximum(solution[..., -1] + np.einsum('...i,...i->...', center, center), 0.0))
        local = points - center.astype(np.float32)[..., None]
        off = np.sqrt(np.einsum('...in,...in->...n', local, local)) - radius.astype(np.float32)[..., None]
        if repetition + 1 < _CURVE_FITS:
            distance = np.abs(off)
            mean = (distance * weights).sum(axis=-1) / np.maximum(weights.sum(axis=-1), 1.0)
            chosen = weights * (distance <= np.maximum(tolerance, mean)[..., None])
    return center, radius, off


def _find_faces(points: Values, tolerance: Values) -> tuple[Array, Array]:
    """Find the largest face of each object and the largest other one at a right angle to it.

    Returns:
        `(S, 5, 3)` directions as rows: across the first face, across the second (where there is none, along the shorter
        side of the first), at right angles to both, and along the longer and the shorter side of the first; and `(S,)`
        the share of points that lies on the two faces.
    """
    voters = points[..., :: max(1, points.shape[2] // _VOTERS)]
    num_voters = voters.shape[2]
    corners = voters.take((_SPREAD * num_voters).astype(np.intp), axis=2)
    through = corners[..., 0]
    normals = np.cross(corners[..., 1] - through, corners[..., 2] - through, axis=1)
    center, spread = _moments(voters, _best_planes(voters, normals, through, tolerance))
    # The first axis is across the face, the others lie in it.
    face = np.linalg.eigh(spread)[1].swapaxes(1, 2)
    turned = face.astype(np.float32) @ (voters - center[..., None])
    on_first = np.abs(turned[:, 0]) < tolerance[:, None]

    # Seen from straight before the first face, one at a right angle to it is a line, through two of the other points.
    in_face = turned[:, 1:]
    num_others = num_voters - np.count_nonzero(on_first, axis=1)
    others_first = np.argsort(on_first, axis=1, kind='stable')
    picked = (_SPREAD[1 : 2 * _PAIRS : 2, :2] * np.maximum(num_others, 1)[:, None, None]).astype(np.intp)
    others = np.take_along_axis(others_first, picked.reshape(len(points), -1), axis=1)
    ends = np.take_along_axis(in_face, others[:, None], axis=2).reshape(len(points), 2, -1, 2)
    edges = ends[..., 1] - ends[..., 0]
    normals = np.stack([-edges[:, 1], edges[:, 0]], axis=1)
    on_second = _best_planes(in_face, normals, ends[..., 0], tolerance) & ~on_first
    has_second = num_others > max(4, _MIN_FACE_SHARE * num_voters)
    shorter, longer = _sides(in_face, on_first, face)
    across_second, along_second = _sides(in_face, on_second, face)
    second = np.where(has_second[:, None], across_second, shorter)
    third = np.where(has_second[:, None], along_second, longer)
    support = (on_first | (on_second & has_second[:, None])).mean(axis=1)
    return np.stack([face[:, 0], second, third, longer, shorter], axis=1), support


def _sides(in_face: Values, is_chosen: Mask, face: Array) -> tuple[Array, Array]:
    """Return the directions `(S, 3)` in a face of least and of largest spread of what is chosen of its plane.

    Args:
        in_face: `(S, 2, N)` positions along the last two axes of `face`.
        is_chosen: `(S, N)`.
        face: `(S, 3, 3)` axes as rows, the first across the face.
    """
    spread = _moments(in_face, is_chosen)[1]
    turn = np.arctan2(-2 * spread[:, 0, 1], spread[:, 1, 1] - spread[:, 0, 0])[:, None] / 2
    cos, sin = np.cos(turn), np.sin(turn)
    return cos * face[:, 1] + sin * face[:, 2], cos * face[:, 2] - sin * face[:, 1]


def _best_planes(points: Values, normals: Values, through: Values, tolerance: Values) -> Mask:
    """Return, of candidate planes or lines `(S, D, C)` with most of `(S, D, N)` points near them, which: `(S, N)`."""
    lengths = np.sqrt(np.einsum('sic,sic->sc', normals, normals))
    normals = normals / (np.maximum(lengths, _TINY) * tolerance[:, None])[:, None]
    distances = normals.swapaxes(1, 2) @ points
    distances -= np.einsum('sic,sic->sc', normals, through)[..., None]
    is_near = np.abs(distances, out=distances) < 1.0
    # Three points on a line are on no plane, though all points are near to what comes out.
    counts = np.where(lengths > _TINY, is_near.sum(axis=2, dtype=np.int16), -1)
    best: Mask = is_near[np.arange(len(points)), counts.argmax(axis=1)]
    return best


def _moments(points: Values, is_chosen: Mask) -> tuple[Values, Array]:
    """Return mean `(S, D)` and covariance `(S, D, D)` of the chosen ones of `(S, D, N)` points."""
    weights = is_chosen / np.maximum(np.count_nonzero(is_chosen, axis=1), 1)[:, None].astype(np.float32)
    center = np.einsum('sn,sin->si', weights, points)
    local = points - center[..., None]
    return center, ((local * weights[:, None]) @ local.swapaxes(1, 2)).astype(np.float64)


def _name_axes(axes: Array, size: Array) -> tuple[Array, Array]:
    """Reorder and turn round axes, rows of `(S, 3, 3)`, so that they are as near to the identity as they can be.

    Returns:
        They as columns of `(S, 3, 3)`, and their sizes `(S, 3)`.
    """
    columns = np.arange(3)
    order = _ORDERS[np.abs(axes)[:, _ORDERS, columns].sum(axis=2).argmax(axis=1)]
    axes = np.take_along_axis(axes, order[..., None], axis=1)
    diagonal = axes[:, columns, columns]
    axes = axes * np.where(diagonal < 0, -1.0, 1.0)[..., None]
    is_mirrored = np.linalg.det(axes) < 0
    axes[is_mirrored, np.abs(diagonal).argmin(axis=1)[is_mirrored]] *= -1.0
    return axes.swapaxes(1, 2), np.take_along_axis(size, order, axis=1)
