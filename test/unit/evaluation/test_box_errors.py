import numpy as np
import pytest

from fisa_ros.core.results import PanopticResult, Segment
from fisa_ros.evaluation.box_errors import BoxError, compare_boxes, summarize_errors
from fisa_ros.pipeline.boxes_3d import Box3d, find_boxes
from fisa_ros.pipeline.camera_model import CameraModel
from fisa_ros.pipeline.solid_fit import Solid
from fisa_ros.simulation.camera import pixel_intrinsics
from fisa_ros.simulation.depth_noise import DepthNoise
from fisa_ros.simulation.frames import view_frames
from fisa_ros.simulation.object_box import ObjectBox

SIZE_WH = (640, 480)
# Room and number of views in which boxes or balls stand whole at 1.5 to 2.5 m.
VIEWS = [
    (3_000_001, 2), (3_000_004, 1), (3_000_008, 1), (3_000_010, 1), (3_000_010, 2),
    (3_000_021, 0), (3_000_024, 2), (3_000_029, 0), (3_000_031, 1), (3_000_031, 3),
]  # fmt: skip


def truth(number, name, center, visible_share=1.0):
    return ObjectBox(number, name, np.array(center), np.array([0.1, 0.2, 0.3]), np.eye(3), visible_share)


def found(number, name, center):
    segment = Segment(number, 3, name, True, 0.5, 50, (0, 0, 10, 10))
    return Box3d(segment, Solid(np.array(center), np.array([0.3, 0.1, 0.25]), np.eye(3), 'box'), 50)


@pytest.fixture
def maps():
    true_map = np.zeros((20, 40), np.uint16)
    true_map[5:15, 5:15] = 7
    true_map[5:15, 25:40] = 9
    predicted = np.zeros((20, 40), np.uint16)
    predicted[5:15, 5:14] = 1
    predicted[5:15, 32:40] = 2
    return true_map, PanopticResult(
        predicted, (found(1, 'cup', (0, 0, 1)).segment, found(2, 'cup', (0, 0, 1)).segment), 1
    )


def test_things_are_found_by_overlap_and_name(maps):
    true_map, result = maps
    boxes = [found(1, 'Cup', (0.0, 0.03, 2.04)), found(2, 'cup', (1.0, 0.0, 2.0))]
    errors = compare_boxes(
        boxes, result, true_map, [truth(7, 'cup', (0.0, 0.0, 2.0)), truth(9, 'cup', (1.0, 0.0, 2.0))]
    )
    assert errors[0].center_error_m == pytest.approx(0.05)
    # In order of length: 0.1 0.2 0.3 and 0.1 0.25 0.3.
    assert errors[0].size_error_m == pytest.approx(0.05 / 3)
    assert errors[0].distance_m == pytest.approx(2.0)
    # The second segment covers 80 of 150 pixels.
    assert errors[1].center_error_m == pytest.approx(0.0)
    other_name = compare_boxes(boxes, result, true_map, [truth(7, 'bottle', (0.0, 0.0, 2.0))])
    assert other_name[0].center_error_m is None
    result.panoptic_map[5:15, 32:34] = 0
    assert compare_boxes(boxes, result, true_map, [truth(9, 'cup', (1.0, 0.0, 2.0))])[0].center_error_m is None


def test_things_that_are_cut_or_hidden_are_not_whole(maps):
    true_map, result = maps
    things = [truth(7, 'cup', (0, 0, 2)), truth(7, 'cup', (0, 0, 2), 0.7), truth(9, 'cup', (0, 0, 2))]
    assert [error.is_whole for error in compare_boxes([], result, true_map, things)] == [True, False, False]


def test_summaries_count_what_was_not_found():
    errors = [
        BoxError('cup', 2.0, True, 0.01, 0.1),
        BoxError('cup', 2.0, True, 0.03, 0.3),
        BoxError('cup', 2.0, True, None, None),
    ]
    assert summarize_errors(errors) == {
        'n': 3, 'found': 2, 'center_median_m': 0.02, 'center_p90_m': 0.028, 'size_median_m': 0.2
    }  # fmt: skip
    assert summarize_errors([])['center_median_m'] is None


@pytest.fixture(scope='module')
def frames():
    """Views with boxes and balls at 1.5 to 2.5 m."""
    return [
        frame
        for seed, number in VIEWS
        for frame in view_frames(seed, [number], SIZE_WH, shadow_share=0.0, with_depth=True, with_boxes=True)
    ]


@pytest.mark.parametrize('noise', [DepthNoise(), DepthNoise(0.0025, 0.1, 1)], ids=['clean', 'spoilt'])
def test_centres_of_boxes_and_balls_at_two_metres_are_within_5_cm(frames, noise):
    fx, fy, cx, cy = pixel_intrinsics(SIZE_WH)
    rays = CameraModel(SIZE_WH, (fx, fy), (cx, cy)).rays
    rng = np.random.default_rng(0)
    errors = []
    for frame in frames:
        result = PanopticResult(frame.instance_map, frame.segments, 0)
        boxes = find_boxes(noise.apply(frame.depth, rng), rays, result)
        errors += compare_boxes(boxes, result, frame.instance_map, frame.boxes)
    for name in ('box', 'ball'):
        near = [
            error for error in errors if error.class_name == name and 1.5 <= error.distance_m <= 2.5 and error.is_whole
        ]
        assert len(near) >= 4
        assert all(error.center_error_m is not None for error in near)
        assert summarize_errors(near)['center_median_m'] < 0.05
