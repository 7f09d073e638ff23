import numpy as np
import pytest

from fisa_ros.simulation.camera import pixel_intrinsics
from fisa_ros.simulation.frames import view_frames

SIZE_WH = (320, 240)


@pytest.fixture(scope='module')
def frames():
    return list(view_frames(3_000_000, range(3), SIZE_WH, shadow_share=0.0, with_depth=True, with_boxes=True))


def test_every_thing_has_a_box_and_nothing_else(frames):
    for frame in frames:
        names = {segment.id: segment.class_name for segment in frame.segments if segment.is_thing}
        assert {box.id: box.class_name for box in frame.boxes} == names
        for box in frame.boxes:
            np.testing.assert_allclose(box.rotation @ box.rotation.T, np.eye(3), atol=1e-9)
            assert np.linalg.det(box.rotation) == pytest.approx(1.0)


def test_what_is_seen_of_an_object_lies_in_its_box_and_touches_it(frames):
    fx, fy, cx, cy = pixel_intrinsics(SIZE_WH)
    gaps = []
    for frame in frames:
        for box in frame.boxes:
            rows, columns = np.nonzero(frame.instance_map == box.id)
            z = frame.depth[rows, columns].astype(float)
            points = np.stack([(columns - cx) / fx * z, (rows - cy) / fy * z, z], axis=1)
            beyond = np.abs((points - box.center) @ box.rotation) - box.size / 2
            # At grazing angles half a pixel is some millimetres.
            assert beyond.max() < 0.02
            gaps.append(-beyond.max())
    assert np.median(gaps) < 0.005


def test_corners_project_around_the_segment(frames):
    fx, fy, cx, cy = pixel_intrinsics(SIZE_WH)
    for frame in frames:
        segments = {segment.id: segment for segment in frame.segments}
        for box in frame.boxes:
            if box.corners[:, 2].min() < 0.1:
                continue
            x, y = box.corners[:, 0] / box.corners[:, 2] * fx + cx, box.corners[:, 1] / box.corners[:, 2] * fy + cy
            x0, y0, x1, y1 = segments[box.id].box_xyxy
            assert x.min() - 1.5 < x0
            assert x.max() + 1.5 > x1 - 1
            assert y.min() - 1.5 < y0
            assert y.max() + 1.5 > y1 - 1


def test_hidden_objects_know_it(frames):
    boxes = [box for frame in frames for box in frame.boxes]
    shares = np.array([box.visible_share for box in boxes])
    assert ((shares > 0) & (shares <= 1)).all()
    assert (shares > 0.95).any()
    assert (shares < 0.9).any()


def test_boxes_change_nothing_that_is_rendered(frames):
    plain = list(view_frames(3_000_000, range(3), SIZE_WH, shadow_share=0.0, with_depth=True))
    for with_boxes, without in zip(frames, plain, strict=True):
        np.testing.assert_array_equal(with_boxes.color, without.color)
        np.testing.assert_array_equal(with_boxes.depth, without.depth)
        np.testing.assert_array_equal(with_boxes.instance_map, without.instance_map)
        assert without.boxes == ()
