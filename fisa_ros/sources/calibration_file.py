"""Camera calibrations as `camera_calibration` and `camera_info_manager` write them."""

from dataclasses import dataclass
import math
from pathlib import Path
from typing import Any

import yaml

from fisa_ros.core.errors import SourceError

_MATRICES = {'camera_matrix': 9, 'rectification_matrix': 9, 'projection_matrix': 12}
_IDENTITY = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)


@dataclass(frozen=True, slots=True)
class CameraCalibration:
    """How a camera projects; names and order as in `sensor_msgs/CameraInfo`.

    Attributes:
        size_wh: Width and height of the images in pixels.
        distortion_model: Such as plumb_bob.
        d: Distortion coefficients.
        k: Camera matrix, 9 values by row.
        r: Rectification, 9 values by row.
        p: Projection, 12 values by row.
    """

    size_wh: tuple[int, int]
    distortion_model: str
    d: tuple[float, ...]
    k: tuple[float, ...]
    r: tuple[float, ...]
    p: tuple[float, ...]


def read_calibration(path: Path) -> CameraCalibration:
    """Read a calibration.

    Raises:
        SourceError: The file is missing, is no YAML, or lacks an entry.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding='utf-8'))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise SourceError(f'camera_info_file {path} cannot be read: {error}') from error
    if not isinstance(content, dict):
        raise SourceError(f'camera_info_file {path} holds no calibration')
    width, height = (_size(path, content, name) for name in ('image_width', 'image_height'))
    values = {name: _values(path, content, name, count) for name, count in _MATRICES.items()}
    k, r, p = values.values()
    return CameraCalibration(
        size_wh=(width, height),
        distortion_model=str(content.get('distortion_model', 'plumb_bob')),
        d=_values(path, content, 'distortion_coefficients', None),
        k=k,
        r=r if any(r) else _IDENTITY,
        p=p,
    )


def _size(path: Path, content: dict[str, Any], name: str) -> int:
    value = content.get(name)
    if type(value) is not int or value < 1:
        raise SourceError(f'camera_info_file {path}: {name} must be a number of pixels, got {value!r}')
    return value


def _values(path: Path, content: dict[str, Any], name: str, count: int | None) -> tuple[float, ...]:
    entry = content.get(name)
    data = entry.get('data') if isinstance(entry, dict) else None
    is_list = isinstance(data, list) and (count is None or len(data) == count)
    if not is_list or not all(isinstance(value, int | float) and math.isfinite(value) for value in data or ()):
        wanted = 'numbers' if count is None else f'{count} numbers'
        raise SourceError(f'camera_info_file {path}: {name} must have data of {wanted}, got {data!r}')
    return tuple(map(float, data or ()))
