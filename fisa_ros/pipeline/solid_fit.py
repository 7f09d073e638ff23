"""Fits a ball, a round column or a box to the visible surface of each of several objects at once.

A depth camera sees only the side of an object that faces it, so the middle of its points lies in front of the middle of
the object. A ball and a column are completed by their curvature. A box is completed by its faces: where two or three of
them are seen, they show its full extent along all three edges. Of an object of which one flat face is all that is
seen, nobody knows the depth, and its box is flat. Everything else (chairs, plants) gets the box of what is seen of it,
along the directions of its largest faces.

All objects have the same number of points, so that each step is one operation on arrays, whatever their number.
"""

from dataclasses import dataclass
from itertools import permutations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
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


@dataclass(frozen=True, slots=True)
class _Candidates:
    """One shape for each object: centre and size `(S, 3)`, axes `(S, 3, 3)`, share of the points explained `(S,)`."""

    shape: str
    center: Array
    size: Array
    axes: Array
    support: Array


def fit_solids(points: Array, tolerance_m: Array, margin_m: Array) -> list[Solid]:
    """Fit to each object the shape that explains most of its points.

    Args:
        points: `(S, N, 3)` float64, m, as seen from the origin, without outliers; any may be there twice.
        tolerance_m: `(S,)` float64; a point nearer than this to a surface lies on it.
        margin_m: `(S,)` float64, how much of the object lies between its outermost points and its outline, as seen.
    """
    middle = points.mean(axis=1)
    local = points - middle[:, None]
    axes, strip, box_support = _face_axes(local, tolerance_m)
    candidates = [
        _boxes(local, axes, box_support + _BOX_ADVANTAGE, middle, margin_m),
        _balls(local, tolerance_m),
        _columns(local, axes, strip, middle, tolerance_m, margin_m),
    ]
    best = np.argmax([candidate.support for candidate in candidates], axis=0)
    solids = []
    for row, number in enumerate(best.tolist()):
        chosen = candidates[number]
        rotation, order = _nearest_axes(chosen.axes[row])
        solids.append(Solid(chosen.center[row] + middle[row], chosen.size[row][order], rotation, chosen.shape))
    return solids


def _boxes(points: Array, axes: Array, support: Array, middle: Array, margin_m: Array) -> _Candidates:
    low, high = _ends(points @ axes, axes, middle, margin_m)
    return _Candidates(BOX, np.einsum('sij,sj->si', axes, (low + high) / 2), high - low, axes, support)


def _balls(points: Array, tolerance_m: Array) -> _Candidates:
    center, radius, off = _fit_curves(points, np.ones(points.shape[:2]), tolerance_m)
    half_width = np.ptp(points[..., :2], axis=1).max(axis=1) / 2
    is_near = np.abs(off) < tolerance_m[:, None]
    support = np.where(_is_plausible(radius, half_width), is_near.mean(axis=1) + _BALL_ADVANTAGE, 0.0)
    axes = np.broadcast_to(np.eye(3), (len(points), 3, 3))
    return _Candidates(BALL, center, np.repeat(2 * radius[:, None], 3, axis=1), axes, support)


def _columns(
    points: Array, face_axes: Array, strip: Array, middle: Array, tolerance_m: Array, margin_m: Array
) -> _Candidates:
    """Fit columns, of which the side and one end may be seen, along the best of three directions.

    From its end, the largest or second face of a column is that end; from the side, the largest is a strip along it.
    """
    first, second, third = np.moveaxis(face_axes, 2, 0)
    tries = [(second, third, first), (third, first, second), (np.cross(strip, first), first, strip)]
    axes = np.concatenate([np.stack(directions, axis=2) for directions in tries])
    middle, tolerance_m, margin_m = np.tile(middle, (3, 1)), np.tile(tolerance_m, 3), np.tile(margin_m, 3)
    along = (points @ axes.reshape(3, *face_axes.shape)).reshape(-1, *points.shape[1:])
    sight = np.einsum('sij,si->sj', axes, middle)
    low, high = _ends(along, axes, middle, margin_m)
    # The end that may be seen is the one that faces the camera.
    depth_of_end = np.where(sight[:, 2:] > 0, along[..., 2] - low[:, 2:], high[:, 2:] - along[..., 2])
    is_side = depth_of_end > 2 * tolerance_m[:, None]
    center, radius, off = _fit_curves(along[..., :2], is_side.astype(float), tolerance_m)
    # Across the line of sight; along it only the front half is seen.
    across = np.stack([-sight[:, 1], sight[:, 0]], axis=1)
    across /= np.maximum(np.linalg.norm(across, axis=1, keepdims=True), _TINY)
    half_width = np.ptp((along[..., :2] @ across[..., None])[..., 0], axis=1) / 2
    # What lies on the end has to be inside the circle, what lies on the side on it.
    is_explained = np.where(is_side, np.abs(off), off) < tolerance_m[:, None]
    is_column = _is_plausible(radius, half_width) & (is_side.mean(axis=1) > _MIN_SIDE_SHARE)
    support = np.where(is_column, is_explained.mean(axis=1), 0.0)
    center = np.column_stack([center, (low[:, 2] + high[:, 2]) / 2])
    size = np.column_stack([2 * radius, 2 * radius, high[:, 2] - low[:, 2]])
    best = support.reshape(3, -1).argmax(axis=0) * len(points) + np.arange(len(points))
    axes = axes[best]
    return _Candidates(COLUMN, np.einsum('sij,sj->si', axes, center[best]), size[best], axes, support[best])


def _is_plausible(radius: Array, half_width: Array) -> Mask:
    low, high = _RADIUS_OF_HALF_WIDTH
    return (low * half_width <= radius) & (radius <= high * half_width)


def _ends(values: Array, axes: Array, middle: Array, margin_m: Array) -> tuple[Array, Array]:
    """Return `(S, 3)` lowest and highest of `(S, N, 3)` positions along axes, but for the few beyond, and the margins.

    An end that faces the camera is seen as a face, so nothing of it is missing. At the other end, and at both ends of
    an axis across the line of sight, the margin is, the more the axis is foreshortened.
    """
    last = values.shape[1] - 1
    skipped = int(_EXTREME_SHARE * values.shape[1])
    ordered = np.partition(values, (skipped, last - skipped), axis=1)
    sight = middle / np.linalg.norm(middle, axis=1, keepdims=True)
    # Of the unit axes; above 0 the higher end is the far one.
    toward = np.einsum('sij,si->sj', axes, sight)
    missing = margin_m[:, None] / np.sqrt(np.maximum(1.0 - toward * toward, _MIN_FORESHORTENED**2))
    is_across = np.abs(toward) < _ACROSS
    low, high = ordered[:, skipped], ordered[:, last - skipped]
    # Where next to nothing is seen along an axis, its sides are hidden: what is missing is unknown.
    missing = np.minimum(missing, _MAX_MARGIN_SHARE * (high - low))
    return (
        low - np.where((toward < 0) | is_across, missing, 0.0),
        high + np.where((toward > 0) | is_across, missing, 0.0),
    )


def _fit_curves(points: Array, weights: Array, tolerance_m: Array) -> tuple[Array, Array, Array]:
    """Fit circles or spheres by linear least squares (Kasa, 1976), and again to what is near to them.

    Args:
        points: `(S, N, D)`, D is 2 or 3.
        weights: `(S, N)`, 1 for those that count, 0 for others.
        tolerance_m: `(S,)`.

    Returns:
        Centres `(S, D)`, radii `(S,)`, and how far each point is outside `(S, N)`.
    """
    squares = np.einsum('sni,sni->sn', points, points)
    design = np.concatenate([points, np.ones((*points.shape[:2], 1))], axis=2)
    small = 1e-9 * np.eye(design.shape[2])
    chosen = weights
    for repetition in range(_CURVE_FITS):
        weighted = (design * chosen[..., None]).transpose(0, 2, 1)
        solution = np.linalg.solve(weighted @ design + small, weighted @ squares[..., None])[..., 0]
        center = solution[:, :-1] / 2
        radius = np.sqrt(np.maximum(solution[:, -1] + np.einsum('si,si->s', center, center), 0.0))
        local = points - center[:, None]
        off = np.sqrt(np.einsum('sni,sni->sn', local, local)) - radius[:, None]
        if repetition + 1 < _CURVE_FITS:
            distance = np.abs(off)
            mean = (distance * weights).sum(axis=1) / np.maximum(weights.sum(axis=1), 1.0)
            chosen = weights * (distance <= np.maximum(tolerance_m, mean)[:, None])
    return center, radius, off


def _face_axes(points: Array, tolerance_m: Array) -> tuple[Array, Array, Array]:
    """Find the largest face of each object and the largest other one at a right angle to it.

    Returns:
        `(S, 3, 3)` axes as columns, the first across the first face, the second across the second (where there is none,
        along the shorter side of the first); `(S, 3)` the direction of the longer side of the first face; and `(S,)`
        the share of points that lies on the two.
    """
    voters = points[:, :: max(1, points.shape[1] // _VOTERS)]
    num_voters = voters.shape[1]
    corners = voters[:, (_SPREAD * num_voters).astype(np.intp)]
    edges = corners[:, :, 1:] - corners[:, :, :1]
    normals = np.cross(edges[:, :, 0], edges[:, :, 1])
    on_first = _best_planes(voters, normals, corners[:, :, 0], tolerance_m)
    center, spread = _moments(voters, on_first)
    first = np.linalg.eigh(spread)[1][:, :, 0]
    on_first = np.abs(np.einsum('sni,si->sn', voters - center[:, None], first)) < tolerance_m[:, None]

    num_others = num_voters - np.count_nonzero(on_first, axis=1)
    others_first = np.argsort(on_first, axis=1, kind='stable')
    picked = (_SPREAD[1 : 2 * _PAIRS : 2, :2] * np.maximum(num_others, 1)[:, None, None]).astype(np.intp)
    rows = np.arange(len(points))[:, None, None]
    ends = voters[rows, others_first[rows, picked]]
    normals = np.cross(first[:, None], ends[:, :, 1] - ends[:, :, 0])
    on_second = _best_planes(voters, normals, ends[:, :, 0], tolerance_m) & ~on_first
    has_second = num_others > max(4, _MIN_FACE_SHARE * num_voters)
    across_first = _least_spread_across(_moments(voters, on_first)[1], first)
    across_second = _least_spread_across(_moments(voters, on_second)[1], first)
    second = np.where(has_second[:, None], across_second, across_first)
    support = (on_first | (on_second & has_second[:, None])).mean(axis=1)
    return np.stack([first, second, np.cross(first, second)], axis=2), np.cross(first, across_first), support


def _best_planes(points: Array, normals: Array, through: Array, tolerance_m: Array) -> Mask:
    """Return, of the candidate planes `(S, C, 3)` with most points near them, which points these are: `(S, N)`."""
    lengths = np.linalg.norm(normals, axis=2)
    normals = normals / np.maximum(lengths, _TINY)[..., None]
    offsets = np.einsum('sci,sci->sc', normals, through)
    is_near = np.abs(normals @ points.transpose(0, 2, 1) - offsets[..., None]) < tolerance_m[:, None, None]
    # Three points on a line are on no plane, though all points are near to what comes out.
    counts = np.where(lengths > _TINY, np.count_nonzero(is_near, axis=2), -1)
    best: Mask = is_near[np.arange(len(points)), counts.argmax(axis=1)]
    return best


def _moments(points: Array, is_chosen: Mask) -> tuple[Array, Array]:
    """Return mean `(S, 3)` and covariance `(S, 3, 3)` of the chosen points."""
    weights = is_chosen / np.maximum(np.count_nonzero(is_chosen, axis=1), 1)[:, None]
    center = np.einsum('sn,sni->si', weights, points)
    local = points - center[:, None]
    return center, (local * weights[..., None]).transpose(0, 2, 1) @ local


def _least_spread_across(spread: Array, axis: Array) -> Array:
    """Return the direction `(S, 3)` at a right angle to `axis` with the least variance of covariances `spread`."""
    along = axis[:, :, None] * axis[:, None]
    across = np.eye(3) - along
    # Along the axis the spread is made the largest, so that the least is never there.
    trace = np.trace(spread, axis1=1, axis2=2)[:, None, None]
    direction: Array = np.linalg.eigh(across @ spread @ across + along * (trace + 1.0))[1][:, :, 0]
    return direction


def _nearest_axes(axes: Array) -> tuple[Array, NDArray[np.intp]]:
    """Reorder and turn round axes so that they are as near to the identity as they can be; return the order too."""
    columns = np.arange(3)
    order = _ORDERS[np.abs(axes)[columns, _ORDERS].sum(axis=1).argmax()]
    rotation = axes[:, order]
    diagonal = rotation[columns, columns]
    rotation = rotation * np.where(diagonal < 0, -1.0, 1.0)
    if np.linalg.det(rotation) < 0:
        rotation[:, np.abs(diagonal).argmin()] *= -1.0
    return rotation, order
