import cv2
import numpy as np
import pytest

from fisa_ros.core.errors import CalibrationError
from fisa_ros.pipeline.camera_model import CameraModel

SIZE_WH = (64, 48)
FOCAL = (60.0, 62.0)
CENTER = (31.0, 24.5)
LENSES = [
    ('plumb_bob', (-0.3, 0.1, 0.001, -0.002, 0.0)),
    ('plumb_bob', (0.1, -0.2, 0.001, -0.002)),
    ('rational_polynomial', (0.5, -0.6, 0.0008, -0.0003, 0.1, 0.4, -0.5, 0.1)),
    ('equidistant', (0.05, -0.01, 0.001, 0.0)),
]


def pixels_of(camera):
    """Project the rays back with OpenCV."""
    points = np.stack([*camera.rays, np.ones_like(camera.rays[0])], axis=-1).reshape(-1, 1, 3).astype(float)
    still = np.zeros(3)
    project = cv2.fisheye.projectPoints if camera.distortion_model == 'equidistant' else cv2.projectPoints
    pixels = project(points, still, still, camera.matrix, np.array(camera.distortion))[0]
    return pixels.reshape(camera.size_wh[1], camera.size_wh[0], 2)


def test_rays_of_a_camera_without_distortion():
    x, y = CameraModel(SIZE_WH, FOCAL, CENTER).rays
    assert x.shape == y.shape == (48, 64)
    assert x.dtype == y.dtype == np.float32
    np.testing.assert_allclose(x[7], (np.arange(64) - 31.0) / 60.0, rtol=1e-6)
    np.testing.assert_allclose(y[:, 9], (np.arange(48) - 24.5) / 62.0, rtol=1e-6)


@pytest.mark.parametrize(('model', 'coefficients'), LENSES)
def test_rays_meet_their_pixels(model, coefficients):
    camera = CameraModel(SIZE_WH, FOCAL, CENTER, model, coefficients)
    expected = np.stack(np.meshgrid(np.arange(64.0), np.arange(48.0)), axis=-1)
    assert np.isfinite(camera.rays).all()
    np.testing.assert_allclose(pixels_of(camera), expected, atol=0.01)


@pytest.mark.parametrize(
    ('size_wh', 'focal', 'model', 'coefficients'),
    [
        ((1280, 800), 570.0, 'rational_polynomial', (10.0, 5.5, 0.0, 0.0, 0.2, 10.3, 8.7, 1.2)),
        ((1280, 800), 570.0, 'rational_polynomial', (10.0, 5.5, 4e-4, -3e-4, 0.2, 10.3, 8.7, 1.2)),
        ((640, 480), 320.0, 'plumb_bob', (0.35, 0.0, 0.0, 0.0, 0.0)),
        ((640, 480), 320.0, 'plumb_bob', (0.35, 0.0, 0.003, -0.002, 0.0)),
    ],
)
def test_a_lens_that_bends_much_has_all_its_rays(size_wh, focal, model, coefficients):
    width, height = size_wh
    camera = CameraModel(size_wh, (focal, focal), (width / 2, height / 2), model, coefficients)
    assert np.isfinite(camera.rays).all()
    expected = np.stack(np.meshgrid(np.arange(float(width)), np.arange(float(height))), axis=-1)
    np.testing.assert_allclose(pixels_of(camera), expected, atol=0.01)


def test_there_is_no_ray_where_a_lens_shows_nothing():
    camera = CameraModel((640, 480), (150.0, 150.0), (320.0, 240.0), 'equidistant', (0.0,) * 4)
    x, y = camera.rays
    off_axis = np.hypot(*np.meshgrid(np.arange(640) - 320.0, np.arange(480) - 240.0)) / 150.0
    assert np.isnan(x[off_axis >= np.pi / 2]).all()
    assert np.isfinite(x[off_axis < 1.56]).all()
    inner = (off_axis > 0) & (off_axis < 1.4)
    np.testing.assert_allclose(np.hypot(x, y)[inner], np.tan(off_axis[inner]), rtol=1e-4)
    # k1 bends so far back that the corners are beyond every ray; those on the other side that meet them do not count.
    for tangential in (0.0, 0.01):
        camera = CameraModel((640, 480), (400.0, 400.0), (320.0, 240.0), 'plumb_bob', (-0.8, 0.0, tangential, 0.0))
        x, y = camera.rays
        assert np.isnan(x[0, 0])
        assert np.isfinite(x[240, 320])
        assert np.nanmax(np.hypot(x, y)) <= (1 / 2.4) ** 0.5


def test_rays_are_computed_once_and_cannot_be_changed():
    first = CameraModel(SIZE_WH, FOCAL, CENTER, *LENSES[0]).rays
    for other in range(20):
        assert CameraModel(SIZE_WH, FOCAL, (float(other), 20.0), *LENSES[0]).rays[0] is not first[0]
    second = CameraModel(SIZE_WH, FOCAL, CENTER, *LENSES[0]).rays
    assert first[0] is second[0]
    with pytest.raises(ValueError, match='read-only'):
        first[0][0, 0] = 1.0


def test_zero_coefficients_need_no_known_model():
    plain = CameraModel(SIZE_WH, FOCAL, CENTER)
    other = CameraModel(SIZE_WH, FOCAL, CENTER, 'inverse_brown_conrady', (0.0,) * 5)
    np.testing.assert_array_equal(plain.rays, other.rays)


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (dict(focal_xy=(0.0, 0.0)), 'focal lengths are 0 and 0 px, must be above 0: the camera is not calibrated'),
        (dict(focal_xy=(-1.0, 5.0)), 'focal lengths are -1 and 5 px'),
        (dict(center_xy=(float('nan'), 5.0)), 'calibration has a value that is not finite: 60.0, 62.0, nan'),
        (dict(size_wh=(0, 48)), 'calibration is of an image of 0x48 pixels'),
        (
            dict(distortion_model='thin_prism', distortion=(0.1,)),
            "distortion model 'thin_prism' is not supported; supported are plumb_bob, rational_polynomial, equidistant",
        ),
        (dict(distortion=(0.1,) * 8), 'plumb_bob has 8 coefficients, must have 0 or 4 or 5'),
        (dict(distortion_model='equidistant', distortion=()), 'equidistant has 0 coefficients, must have 4'),
    ],
)
def test_what_is_no_calibration_is_refused(change, message):
    with pytest.raises(CalibrationError) as error:
        CameraModel(**dict(size_wh=SIZE_WH, focal_xy=FOCAL, center_xy=CENTER) | change)
    assert message in str(error.value)
