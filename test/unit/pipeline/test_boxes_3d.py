import numpy as np
import pytest

from fisa_ros.core.results import PanopticResult, Segment
from fisa_ros.pipeline.boxes_3d import MIN_POINTS, find_boxes
from fisa_ros.pipeline.camera_model import CameraModel
from fisa_ros.pipeline.solid_fit import BALL, BOX, COLUMN

WIDTH, HEIGHT = 320, 240
RAYS = CameraModel((WIDTH, HEIGHT), (280.0, 280.0), (159.5, 119.5)).rays
DIRECTIONS = np.stack([*RAYS, np.ones_like(RAYS[0])], axis=-1).astype(float)
WALL_M = 4.0


def turn(yaw, pitch):
    """Rotate about y by yaw, then tilt as a camera that looks down by pitch sees it."""
    c, s = np.cos(yaw), np.sin(yaw)
    about_y = np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])
    c, s = np.cos(pitch), np.sin(pitch)
    return np.array([[1, 0, 0], [0, c, -s], [0, s, c]]) @ about_y


def box_depth(center, size, rotation):
    """Depth of a box, inf beside it: where a ray is inside all three pairs of planes."""
    origin, ways = -np.asarray(center) @ rotation, DIRECTIONS @ rotation
    with np.errstate(divide='ignore'):
        ends = (np.array([-1, 1])[:, None, None, None] * np.asarray(size) / 2 - origin) / ways
    near, far = ends.min(axis=0).max(axis=-1), ends.max(axis=0).min(axis=-1)
    return np.where(near < far, near, np.inf)


def ball_depth(center, radius):
    a, b = (DIRECTIONS**2).sum(axis=-1), DIRECTIONS @ np.asarray(center)
    root = b * b - a * (np.dot(center, center) - radius**2)
    return np.where(root > 0, (b - np.sqrt(np.maximum(root, 0))) / a, np.inf)


def column_depth(center, radius, height, rotation):
    """Depth of a column along the second axis of `rotation`."""
    origin, ways = -np.asarray(center) @ rotation, DIRECTIONS @ rotation
    a = ways[..., 0] ** 2 + ways[..., 2] ** 2
    b = origin[0] * ways[..., 0] + origin[2] * ways[..., 2]
    root = b * b - a * (origin[0] ** 2 + origin[2] ** 2 - radius**2)
    side = np.where(root > 0, (-b - np.sqrt(np.maximum(root, 0))) / a, np.inf)
    side = np.where(np.abs(origin[1] + np.where(root > 0, side, 0) * ways[..., 1]) < height / 2, side, np.inf)
    end = (-height / 2 - origin[1]) / ways[..., 1]
    reached = origin + end[..., None] * ways
    end = np.where((end > 0) & (np.hypot(reached[..., 0], reached[..., 2]) < radius), end, np.inf)
    return np.minimum(side, end)


def view_of(*depths, is_thing=True):
    """A frame of objects before a wall, each with a segment of its own."""
    depth = np.full((HEIGHT, WIDTH), WALL_M)
    panoptic_map = np.zeros((HEIGHT, WIDTH), np.uint16)
    for number, surface in enumerate(depths, start=1):
        panoptic_map[surface < depth] = number
        depth = np.minimum(depth, surface)
    return depth.astype(np.float32), result_of(panoptic_map, is_thing)


def result_of(panoptic_map, is_thing=True):
    segments = []
    for number in np.unique(panoptic_map[panoptic_map > 0]).tolist():
        rows, columns = np.nonzero(panoptic_map == number)
        box_xyxy = (int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1)
        segments.append(Segment(number, 5, 'thing', is_thing, 0.9, len(rows), box_xyxy))
    return PanopticResult(panoptic_map, tuple(segments), 1)


def spoil(depth, seed=0):
    """Noise of 1 cm at 2 m, a fifth of the pixels without depth, and edges that fly."""
    rng = np.random.default_rng(seed)
    step = np.abs(np.diff(depth, axis=1, append=depth[:, -1:])) > 0.2
    spoilt = np.where(step, depth + rng.random(depth.shape) * (WALL_M - depth), depth)
    spoilt = spoilt + 0.0025 * spoilt**2 * rng.standard_normal(depth.shape)
    spoilt[rng.random(depth.shape) < 0.2] = np.nan
    return spoilt.astype(np.float32)


POSES = [(0.5, 0.5), (0.8, 0.3), (-0.4, 0.9), (0.2, 0.35)]


@pytest.mark.parametrize(('yaw', 'pitch'), POSES)
@pytest.mark.parametrize('is_spoilt', [False, True])
def test_a_box_seen_at_a_corner_is_found_whole(yaw, pitch, is_spoilt):
    center, size, rotation = np.array([0.2, 0.1, 2.0]), np.array([0.5, 0.3, 0.4]), turn(yaw, pitch)
    depth, result = view_of(box_depth(center, size, rotation))
    (found,) = find_boxes(spoil(depth) if is_spoilt else depth, RAYS, result)
    assert found.solid.shape == BOX
    assert np.linalg.norm(found.solid.center - center) < (0.04 if is_spoilt else 0.015)
    # The axes of a box have no order: compared as directions, each with its size.
    match = np.abs(found.solid.rotation.T @ rotation)
    assert (match.max(axis=0) > (0.98 if is_spoilt else 0.999)).all()
    np.testing.assert_allclose(found.solid.size[match.argmax(axis=0)], size, atol=0.08 if is_spoilt else 0.03)


@pytest.mark.parametrize('radius', [0.06, 0.12, 0.25])
@pytest.mark.parametrize('is_spoilt', [False, True])
def test_a_ball_is_completed(radius, is_spoilt):
    center = np.array([-0.3, 0.2, 2.0])
    depth, result = view_of(ball_depth(center, radius))
    (found,) = find_boxes(spoil(depth) if is_spoilt else depth, RAYS, result)
    assert np.linalg.norm(found.solid.center - center) < (0.05 if is_spoilt else 0.005)
    if not is_spoilt:
        assert found.solid.shape == BALL
        np.testing.assert_allclose(found.solid.size, 2 * radius, rtol=0.02)
        np.testing.assert_array_equal(found.solid.rotation, np.eye(3))


@pytest.mark.parametrize('pitch', [0.1, 0.5, 0.9])
def test_a_column_is_completed(pitch):
    center, rotation = np.array([0.1, 0.1, 2.2]), turn(0.0, pitch)
    depth, result = view_of(column_depth(center, 0.2, 0.6, rotation))
    (found,) = find_boxes(depth, RAYS, result)
    assert found.solid.shape == COLUMN
    assert np.linalg.norm(found.solid.center - center) < 0.03
    np.testing.assert_allclose(np.sort(found.solid.size), [0.4, 0.4, 0.6], atol=0.05)


def test_rotations_are_rotations_near_to_none():
    depth, result = view_of(*(box_depth((x, 0.1, 2.0), (0.3, 0.2, 0.25), turn(x * 2, 0.6)) for x in (-0.6, 0.0, 0.6)))
    for found in find_boxes(depth, RAYS, result):
        rotation = found.solid.rotation
        np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-9)
        assert np.linalg.det(rotation) == pytest.approx(1.0)
        assert np.trace(rotation) > 1.0
        assert (found.solid.size > 0).all()


def test_a_flat_face_has_a_flat_box():
    depth, result = view_of(box_depth((0.0, 0.0, 2.0), (0.8, 0.5, 0.02), np.eye(3)))
    (found,) = find_boxes(depth, RAYS, result)
    np.testing.assert_allclose(found.solid.size, [0.8, 0.5, 0.0], atol=0.03)
    np.testing.assert_allclose(found.solid.center, [0.0, 0.0, 1.99], atol=0.015)


def test_background_in_the_mask_does_not_count():
    center = np.array([0.1, 0.0, 2.0])
    depth, result = view_of(ball_depth(center, 0.15))
    rows, columns = np.nonzero(result.panoptic_map)
    wide = np.zeros_like(result.panoptic_map)
    wide[rows.min() - 5 : rows.max() + 5, columns.min() - 5 : columns.max() + 5] = 1
    assert np.mean(depth[wide == 1] == WALL_M) > 0.3
    (found,) = find_boxes(depth, RAYS, result_of(wide))
    assert np.linalg.norm(found.solid.center - center) < 0.01


def test_the_leg_of_a_table_is_no_edge():
    top = box_depth((0.0, 0.0, 2.0), (0.8, 0.05, 0.5), turn(0.0, 0.4))
    legs = [box_depth((x, 0.4, 2.0), (0.015, 0.8, 0.015), np.eye(3)) for x in (-0.35, 0.35)]
    depth, result = view_of(np.minimum(top, np.minimum(*legs)))
    (found,) = find_boxes(depth, RAYS, result)
    assert np.abs(found.solid.rotation[1]) @ found.solid.size > 0.75


def test_only_things_with_enough_depth_have_boxes_in_order_of_the_segments():
    depth, result = view_of(*(ball_depth((x, 0.0, 2.0), 0.1) for x in (-0.5, 0.0, 0.5)))
    depth[result.panoptic_map == 2] = np.nan
    assert [box.segment.id for box in find_boxes(depth, RAYS, result)] == [1, 3]
    left = np.argwhere(result.panoptic_map == 2)[: MIN_POINTS - 1]
    depth[left[:, 0], left[:, 1]] = 2.0
    assert [box.segment.id for box in find_boxes(depth, RAYS, result)] == [1, 3]
    _, stuff = view_of(ball_depth((0.0, 0.0, 2.0), 0.1), is_thing=False)
    assert find_boxes(depth, RAYS, stuff) == ()
    assert find_boxes(depth, RAYS, PanopticResult.empty((HEIGHT, WIDTH), 1)) == ()


@pytest.mark.parametrize(
    'make',
    [
        lambda: np.full((HEIGHT, WIDTH), np.nan),
        lambda: np.full((HEIGHT, WIDTH), 2.0),
        lambda: np.full((HEIGHT, WIDTH), 0.001),
        lambda: np.full((HEIGHT, WIDTH), 60_000.0),
        lambda: np.full((HEIGHT, WIDTH), 1e-44),
        lambda: np.full((HEIGHT, WIDTH), 3e38),
        lambda: 10.0 ** np.random.default_rng(0).uniform(-40, 38, (HEIGHT, WIDTH)),
        lambda: np.random.default_rng(0).uniform(0.1, 9.0, (HEIGHT, WIDTH)),
        lambda: np.broadcast_to(np.arange(WIDTH) * 0.1 + 0.1, (HEIGHT, WIDTH)),
    ],
)
@pytest.mark.parametrize(
    'area', [(0, 0, 1, 1), (0, 0, WIDTH, 1), (0, 0, 1, HEIGHT), (0, 0, WIDTH, HEIGHT), (5, 5, 9, 9)]
)
def test_strange_depth_gives_finite_boxes_or_none(make, area):
    x0, y0, x1, y1 = area
    panoptic_map = np.zeros((HEIGHT, WIDTH), np.uint16)
    panoptic_map[y0:y1, x0:x1] = 1
    for box in find_boxes(make().astype(np.float32), RAYS, result_of(panoptic_map)):
        for values in (box.solid.center, box.solid.size, box.solid.rotation):
            assert np.isfinite(values).all()


@pytest.mark.parametrize('focal_px', [1e-300, 1e-3, 0.1, 1e300])
@pytest.mark.parametrize('depth_m', [1e-44, 2.0, 3e38])
def test_a_wild_calibration_gives_finite_boxes_or_none(focal_px, depth_m):
    rays = CameraModel((WIDTH, HEIGHT), (focal_px, focal_px), (159.5, 119.5)).rays
    panoptic_map = np.zeros((HEIGHT, WIDTH), np.uint16)
    panoptic_map[20:200, 30:250] = 1
    for box in find_boxes(np.full((HEIGHT, WIDTH), depth_m, np.float32), rays, result_of(panoptic_map)):
        for values in (box.solid.center, box.solid.size, box.solid.rotation):
            assert np.isfinite(values).all()


def test_what_else_is_in_the_frame_changes_no_box():
    depth, result = view_of(
        ball_depth((-0.7, 0.3, 2.0), 0.1),
        box_depth((0.0, 0.2, 2.2), (0.4, 0.3, 0.2), turn(0.5, 0.5)),
        column_depth((0.7, 0.1, 2.4), 0.1, 0.5, turn(0.0, 0.3)),
        box_depth((0.0, -0.6, 2.0), (0.05, 0.05, 0.05), np.eye(3)),
    )
    depth = spoil(depth)
    together = find_boxes(depth, RAYS, result)
    assert len(together) == 4
    for box in together:
        (alone,) = find_boxes(depth, RAYS, PanopticResult(result.panoptic_map, (box.segment,), 1))
        assert (alone.segment, alone.num_points, alone.solid.shape) == (box.segment, box.num_points, box.solid.shape)
        np.testing.assert_allclose(alone.solid.center, box.solid.center, atol=1e-4)
        np.testing.assert_allclose(alone.solid.size, box.solid.size, atol=1e-4)
