"""The calibration of a camera, and the ray of each of its pixels."""

from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fisa_ros.core.errors import CalibrationError

# Coefficients that each model may have; names from sensor_msgs/distortion_models.
_NUM_COEFFICIENTS = {'plumb_bob': (0, 4, 5), 'rational_polynomial': (0, 8), 'equidistant': (4,)}
_MAX_REPROJECTION_PX = 0.5
_STEPS = 6
_SMALLEST_RESIDUAL_PX = 1e-3
# Off the optical axis, up to the side of the camera.
_ANGLES = np.linspace(0.0, np.pi / 2, 20_000, endpoint=False)
_CACHED_CAMERAS = 32

Rays = tuple[NDArray[np.float32], NDArray[np.float32]]
Plane = NDArray[np.float64]


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
        undistort = _undistort_fisheye if camera.distortion_model == 'equidistant' else _undistort
        seen_x, seen_y = np.broadcast_arrays(columns, rows)
        x, y = (axis.astype(np.float32) for axis in undistort(seen_x, seen_y, camera))
    x.flags.writeable = y.flags.writeable = False
    return x, y


def _undistort(seen_x: Plane, seen_y: Plane, camera: CameraModel) -> tuple[Plane, Plane]:
    """Invert the distortion by Newton's method, from the rays that the radial coefficients alone would give."""
    lens = _Lens(*camera.distortion)
    radii = np.tan(_ANGLES)
    angle, end = _find_angle(seen_x, seen_y, radii * lens.stretch(radii * radii))
    x, y = _scale_to(np.tan(angle), seen_x, seen_y)
    fx, fy = camera.focal_xy
    for step in range(_STEPS + 1):
        bent_x, bent_y = lens.bend(x, y)
        off_x, off_y = seen_x - bent_x, seen_y - bent_y
        off_px = _length(off_x * fx, off_y * fy)
        if step == _STEPS or not (off_px > _SMALLEST_RESIDUAL_PX).any():
            break
        xx, xy, yx, yy = lens.slopes(x, y)
        determinant = xx * yy - xy * yx
        x = x + (yy * off_x - xy * off_y) / determinant
        y = y + (xx * off_y - yx * off_x) / determinant
    # Beyond the radius where the image bends back there are rays that meet the same pixels and that no lens shows.
    is_none = ~((off_px <= _MAX_REPROJECTION_PX) & (_length(x, y) <= radii[end]))
    x[is_none] = y[is_none] = np.nan
    return x, y


class _Lens(NamedTuple):
    """Radial and tangential coefficients, used as OpenCV and image_geometry do."""

    k1: float = 0.0
    k2: float = 0.0
    p1: float = 0.0
    p2: float = 0.0
    k3: float = 0.0
    k4: float = 0.0
    k5: float = 0.0
    k6: float = 0.0

    def stretch(self, squared: Plane) -> Plane:
        above = 1 + squared * (self.k1 + squared * (self.k2 + squared * self.k3))
        return above / self._below(squared)

    def _below(self, squared: Plane) -> Plane:
        return 1 + squared * (self.k4 + squared * (self.k5 + squared * self.k6))

    def bend(self, x: Plane, y: Plane) -> tuple[Plane, Plane]:
        squared = x * x + y * y
        stretch = self.stretch(squared)
        twice_xy = 2 * x * y
        return (
            x * stretch + self.p1 * twice_xy + self.p2 * (squared + 2 * x * x),
            y * stretch + self.p2 * twice_xy + self.p1 * (squared + 2 * y * y),
        )

    def slopes(self, x: Plane, y: Plane) -> tuple[Plane, Plane, Plane, Plane]:
        """Return by how much bent x grows with x and with y, and bent y with x and with y."""
        squared = x * x + y * y
        stretch = self.stretch(squared)
        above_slope = self.k1 + squared * (2 * self.k2 + squared * 3 * self.k3)
        below_slope = self.k4 + squared * (2 * self.k5 + squared * 3 * self.k6)
        twice_slope = 2 * (above_slope - stretch * below_slope) / self._below(squared)
        mixed = x * y * twice_slope + 2 * (self.p1 * x + self.p2 * y)
        return (
            stretch + x * x * twice_slope + 2 * self.p1 * y + 6 * self.p2 * x,
            mixed,
            mixed,
            stretch + y * y * twice_slope + 2 * self.p2 * x + 6 * self.p1 * y,
        )


def _undistort_fisheye(seen_x: Plane, seen_y: Plane, camera: CameraModel) -> tuple[Plane, Plane]:
    """Invert the polynomial that gives the distance from the centre by the angle (Kannala and Brandt, 2006)."""
    k1, k2, k3, k4 = camera.distortion
    squared = _ANGLES * _ANGLES
    distances = _ANGLES * (1 + squared * (k1 + squared * (k2 + squared * (k3 + squared * k4))))
    angle, _ = _find_angle(seen_x, seen_y, distances)
    return _scale_to(np.tan(angle), seen_x, seen_y)


def _find_angle(seen_x: Plane, seen_y: Plane, distances: Plane) -> tuple[Plane, int]:
    """Return the angle of each pixel by the distance from the centre at each of `_ANGLES`, NaN where there is none.

    The number is that of the last angle before the image bends back: what is beyond, the lens cannot show.
    """
    growing = np.append(np.diff(distances) > 0, False)
    end = int(growing.argmin())
    angle = np.interp(_length(seen_x, seen_y), distances[: end + 1], _ANGLES[: end + 1], right=np.nan)
    return angle, end


def _length(x: Plane, y: Plane) -> Plane:
    # Several times faster than numpy's hypot.
    return np.sqrt(x * x + y * y)


def _scale_to(length: Plane, x: Plane, y: Plane) -> tuple[Plane, Plane]:
    own = _length(x, y)
    scale = np.divide(length, own, out=np.ones_like(own), where=own > 0)
    return x * scale, y * scale
