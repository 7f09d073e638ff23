"""The calibration of a camera, and the ray of each of its pixels."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from fisa_ros.core.errors import CalibrationError

# Coefficients that each model may have; names from sensor_msgs/distortion_models.
_NUM_COEFFICIENTS = {'plumb_bob': (0, 4, 5), 'rational_polynomial': (0, 8), 'equidistant': (4,)}
_MAX_REPROJECTION_PX = 0.5
_STEPS = 25
_SMALLEST_STEP = 1e-6
_ANGLES = 20_000
_CACHED_CAMERAS = 8

Rays = tuple[NDArray[np.float32], NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class CameraModel:
    """Where a camera of known calibration looks, with pixel centres at whole numbers.

    Attributes:
        size_wh: Size (width, height) of its images in pixels.
        focal_xy: Focal lengths (fx, fy) in pixels.
        center_xy: Principal point (cx, cy) in pixels.
        distortion_model: plumb_bob, rational_polynomial or equidistant; any name where all coefficients are 0.
        distortion: Its coefficients in the order of sensor_msgs/CameraInfo.

    Raises:
        CalibrationError: It is no calibration, or one of a model that is not known.
    """

    size_wh: tuple[int, int]
    focal_xy: tuple[float, float]
    center_xy: tuple[float, float]
    distortion_model: str = 'plumb_bob'
    distortion: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if min(self.focal_xy) <= 0.0:
            raise CalibrationError(
                f'focal lengths are {self.focal_xy[0]:g} and {self.focal_xy[1]:g} px, must be above 0: '
                'the camera is not calibrated'
            )
        values = (*self.focal_xy, *self.center_xy, *self.distortion)
        if not np.isfinite(values).all():
            raise CalibrationError(f'calibration has a value that is not finite: {", ".join(map(str, values))}')
        if min(self.size_wh) < 1:
            raise CalibrationError(f'calibration is of an image of {self.size_wh[0]}x{self.size_wh[1]} pixels')
        if not self._is_distorted:
            return
        counts = _NUM_COEFFICIENTS.get(self.distortion_model)
        if counts is None:
            raise CalibrationError(
                f'distortion model {self.distortion_model!r} is not supported; '
                f'supported are {", ".join(_NUM_COEFFICIENTS)}'
            )
        if len(self.distortion) not in counts:
            raise CalibrationError(
                f'{self.distortion_model} has {len(self.distortion)} coefficients, '
                f'must have {" or ".join(map(str, counts))}'
            )

    @property
    def _is_distorted(self) -> bool:
        # A fisheye lens without coefficients still bends: its angles, not their tangents, are even on the image.
        return any(self.distortion) or self.distortion_model == 'equidistant'

    @property
    def matrix(self) -> NDArray[np.float64]:
        """`(3, 3)` float64 camera matrix."""
        (fx, fy), (cx, cy) = self.focal_xy, self.center_xy
        return np.array([[fx, 0.0, cx], [0.0, fy, cy], [0.0, 0.0, 1.0]])

    @property
    def rays(self) -> Rays:
        """X and y at 1 m depth of each pixel, `(H, W)` float32 each, read-only; NaN where the model has no ray."""
        return _rays(self)


@lru_cache(maxsize=_CACHED_CAMERAS)
def _rays(camera: CameraModel) -> Rays:
    (width, height), (fx, fy), (cx, cy) = camera.size_wh, camera.focal_xy, camera.center_xy
    # A calibration may be wild: what does not fit into a number then becomes one that is not finite.
    with np.errstate(over='ignore', invalid='ignore', divide='ignore'):
        columns = (np.arange(width) - cx) / fx
        rows = (np.arange(height)[:, None] - cy) / fy
        if not camera._is_distorted:
            plain_x, plain_y = np.broadcast_arrays(columns.astype(np.float32), rows.astype(np.float32))
            return plain_x, plain_y
        seen = np.stack(np.broadcast_arrays(columns, rows), axis=-1)
        rays = (
            _undistort_fisheye(seen, camera) if camera.distortion_model == 'equidistant' else _undistort(seen, camera)
        )
        x, y = np.ascontiguousarray(rays.transpose(2, 0, 1), np.float32)
    x.flags.writeable = y.flags.writeable = False
    return x, y


def _undistort(seen: NDArray[np.float64], camera: CameraModel) -> NDArray[np.float64]:
    rays = seen.copy()
    for _ in range(_STEPS):
        step = seen - _distort(rays, camera.distortion)
        rays += step
        if np.abs(step).max() < _SMALLEST_STEP:
            break
    # Far from the centre a polynomial may have no inverse; there the search ends anywhere.
    off_px = np.linalg.norm((_distort(rays, camera.distortion) - seen) * camera.focal_xy, axis=-1)
    rays[~(off_px <= _MAX_REPROJECTION_PX)] = np.nan
    return rays


def _distort(rays: NDArray[np.float64], coefficients: tuple[float, ...]) -> NDArray[np.float64]:
    """Bend `(H, W, 2)` rays by radial and tangential coefficients k1 k2 p1 p2 k3 k4 k5 k6, as image_geometry does."""
    k1, k2, p1, p2, k3, k4, k5, k6 = (*coefficients, *[0.0] * (8 - len(coefficients)))
    x, y = rays[..., 0], rays[..., 1]
    squared = x * x + y * y
    stretch = 1 + squared * (k1 + squared * (k2 + squared * k3))
    stretch /= 1 + squared * (k4 + squared * (k5 + squared * k6))
    twice_xy = 2 * x * y
    return np.stack(
        [
            x * stretch + p1 * twice_xy + p2 * (squared + 2 * x * x),
            y * stretch + p2 * twice_xy + p1 * (squared + 2 * y * y),
        ],
        axis=-1,
    )


def _undistort_fisheye(seen: NDArray[np.float64], camera: CameraModel) -> NDArray[np.float64]:
    """Invert the polynomial that gives the distance from the centre by the angle (Kannala and Brandt, 2006)."""
    k1, k2, k3, k4 = camera.distortion
    # One angle after the other up to the side of the camera; what would bend back is beyond what the lens can show.
    angles = np.linspace(0.0, np.pi / 2, _ANGLES, endpoint=False)
    squared = angles * angles
    distances = angles * (1 + squared * (k1 + squared * (k2 + squared * (k3 + squared * k4))))
    growing = np.append(np.diff(distances) > 0, False)
    end = int(growing.argmin()) + 1
    distance = np.linalg.norm(seen, axis=-1)
    angle = np.interp(distance, distances[:end], angles[:end], right=np.nan)
    scale = np.divide(np.tan(angle), distance, out=np.ones_like(distance), where=distance > 0)
    return seen * scale[..., None]
