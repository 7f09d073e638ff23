import numpy as np
import pytest

from fisa_ros.core.errors import ImageError
from fisa_ros.core.results import PanopticResult, Segment
from fisa_ros.pipeline.camera_model import CameraModel
from fisa_ros.pipeline.depth_points import POINT_DTYPE, check_registered, decode_depth, labelled_points

NAN = float('nan')


def padded(values, row_bytes):
    """Rows with rubbish behind them."""
    rows = values.view(np.uint8).reshape(len(values), -1)
    data = np.full((len(values), row_bytes), 0xAB, np.uint8)
    data[:, : rows.shape[1]] = rows
    return data.tobytes()


@pytest.mark.parametrize('is_bigendian', [False, True])
@pytest.mark.parametrize('encoding', ['16UC1', 'mono16'])
def test_millimetres_become_metres_and_zero_is_a_hole(encoding, is_bigendian):
    values = np.array([[0, 1, 2500], [65535, 0, 300]], '>u2' if is_bigendian else '<u2')
    depth = decode_depth(padded(values, 10), encoding=encoding, size_wh=(3, 2), step=10, is_bigendian=is_bigendian)
    assert depth.dtype == np.float32
    np.testing.assert_allclose(depth, [[NAN, 0.001, 2.5], [65.535, NAN, 0.3]], rtol=1e-6)


@pytest.mark.parametrize('is_bigendian', [False, True])
def test_metres_stay_and_what_is_no_depth_is_a_hole(is_bigendian):
    values = np.array([[0.0, -1.0, 1.5], [np.inf, NAN, -np.inf]], '>f4' if is_bigendian else '<f4')
    data = padded(values, 16)
    depth = decode_depth(data, encoding='32FC1', size_wh=(3, 2), step=16, is_bigendian=is_bigendian)
    np.testing.assert_array_equal(depth, [[NAN, NAN, 1.5], [NAN, NAN, NAN]])
    assert data == padded(values, 16)


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (dict(encoding='rgb8'), "depth encoding 'rgb8' is not supported; supported are 16UC1, mono16, 32FC1"),
        (dict(size_wh=(0, 2)), '16UC1 depth image of 0x2 pixels has no pixels'),
        (dict(step=5), '16UC1 depth image of 3x2 pixels: step is 5 bytes, a row needs 6'),
        (dict(data=bytes(11)), '16UC1 depth image of 3x2 pixels: 11 bytes of data, 2 rows of step 6 are 12'),
    ],
)
def test_what_is_no_depth_image_is_refused(change, message):
    good = dict(data=bytes(12), encoding='16UC1', size_wh=(3, 2), step=6, is_bigendian=False)
    assert decode_depth(**good).shape == (2, 3)
    with pytest.raises(ImageError) as error:
        decode_depth(**good | change)
    assert message in str(error.value)


def test_depth_of_another_camera_is_refused():
    check_registered((48, 64), (64, 48), (48, 64))
    with pytest.raises(
        ImageError, match=r"depth image is 32x24, colour image 64x48: .* depth_image_proc's RegisterNode"
    ):
        check_registered((24, 32), (64, 48), (48, 64))
    with pytest.raises(ImageError, match='camera_info describes an image of 128x96, the colour image is 64x48'):
        check_registered((48, 64), (128, 96), (48, 64))


@pytest.fixture
def frame():
    rng = np.random.default_rng(1)
    depth = rng.uniform(0.5, 4.0, (48, 64)).astype(np.float32)
    depth[5:9, 7:20] = np.nan
    panoptic_map = np.zeros((48, 64), np.uint16)
    panoptic_map[10:, :30] = 1
    panoptic_map[10:, 30:] = 40000
    segments = (
        Segment(1, 300, 'cat', True, 0.5, 1140, (0, 10, 30, 48)),
        Segment(40000, 7, 'lawn', False, 1.0, 1292, (30, 10, 64, 48)),
    )
    image = rng.integers(0, 256, (48, 64, 3), np.uint8)
    return depth, image, PanopticResult(panoptic_map, segments, 1)


def test_points_are_where_their_pixels_are(frame):
    depth, image, result = frame
    camera = CameraModel((64, 48), (40.0, 42.0), (31.0, 24.5))
    cloud = labelled_points(depth, camera.rays, image, result)
    assert cloud.shape == (48, 64)
    assert cloud.dtype == POINT_DTYPE
    has_depth = np.isfinite(depth)
    for name in 'xyz':
        np.testing.assert_array_equal(np.isfinite(cloud[name]), has_depth)
    rows, columns = np.nonzero(has_depth)
    points = cloud[has_depth]
    np.testing.assert_allclose(points['x'] / points['z'] * 40.0 + 31.0, columns, atol=1e-3)
    np.testing.assert_allclose(points['y'] / points['z'] * 42.0 + 24.5, rows, atol=1e-3)
    np.testing.assert_array_equal(points['z'], depth[has_depth])


def test_points_carry_colour_and_labels_of_every_pixel(frame):
    depth, image, result = frame
    cloud = labelled_points(depth, CameraModel((64, 48), (40.0, 42.0), (31.0, 24.5)).rays, image, result)
    red, green, blue = image.astype(np.uint32).transpose(2, 0, 1)
    np.testing.assert_array_equal(cloud['rgb'], red << 16 | green << 8 | blue)
    np.testing.assert_array_equal(cloud['class_id'], result.semantic_map)
    np.testing.assert_array_equal(cloud['instance_id'], result.panoptic_map)


def test_a_pixel_without_a_ray_has_no_point(frame):
    depth, image, result = frame
    camera = CameraModel((64, 48), (15.0, 15.0), (31.5, 23.5), 'equidistant', (0.0,) * 4)
    cloud = labelled_points(depth, camera.rays, image, result)
    no_ray = np.isnan(camera.rays[0])
    assert no_ray.any()
    assert all(np.isnan(cloud[name][no_ray]).all() for name in 'xyz')


def test_a_frame_without_segments_still_has_points(frame):
    depth, image, _ = frame
    rays = CameraModel((64, 48), (40.0, 42.0), (31.0, 24.5)).rays
    cloud = labelled_points(depth, rays, image, PanopticResult.empty((48, 64), 1))
    assert not cloud['class_id'].any()
    assert np.isfinite(cloud['z']).any()
