"""Depth images in metres, and labelled points in the frame of the camera."""

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from fisa_ros.core.errors import ImageError
from fisa_ros.core.results import PanopticResult, Segment
from fisa_ros.pipeline.camera_model import Rays

POINT_DTYPE = np.dtype(
    [('x', '<f4'), ('y', '<f4'), ('z', '<f4'), ('rgb', '<u4'), ('class_id', '<u2'), ('instance_id', '<u2')]
)
"""One point of a cloud; rgb is 0x00RRGGBB."""

_WORDS_PER_POINT = POINT_DTYPE.itemsize // 4
_RGB_BITS = np.uint32(0xFFFFFF)
_M_PER_MM = np.float32(1e-3)
_VALUE_TYPES: dict[str, np.dtype[np.generic]] = {
    '16UC1': np.dtype(np.uint16),
    'mono16': np.dtype(np.uint16),
    '32FC1': np.dtype(np.float32),
}


def decode_depth(
    data: bytes | bytearray | memoryview, *, encoding: str, size_wh: tuple[int, int], step: int, is_bigendian: bool
) -> NDArray[np.float32]:
    """Return the depth along the optical axis as `(H, W)` float32 m, NaN where there is none (REP 118).

    Args:
        data: The rows one after the other.
        encoding: 16UC1 (or mono16) holds mm with 0 for none; 32FC1 m, where only finite values above 0 are depths.
        size_wh: Width and height in pixels.
        step: Bytes from one row to the next.
        is_bigendian: Byte order of the values.

    Raises:
        ImageError: The encoding is not supported, or size, step and amount of data contradict each other.
    """
    value_type = _VALUE_TYPES.get(encoding)
    if value_type is None:
        raise ImageError(f'depth encoding {encoding!r} is not supported; supported are {", ".join(_VALUE_TYPES)}')
    width, height = size_wh
    name = f'{encoding} depth image of {width}x{height} pixels'
    if width < 1 or height < 1:
        raise ImageError(f'{name} has no pixels')
    if step < width * value_type.itemsize:
        raise ImageError(f'{name}: step is {step} bytes, a row needs {width * value_type.itemsize}')
    size = memoryview(data).nbytes
    if size != height * step:
        raise ImageError(f'{name}: {size} bytes of data, {height} rows of step {step} are {height * step}')
    value_type = value_type.newbyteorder('>' if is_bigendian else '<')
    values: NDArray[np.generic] = np.ndarray((height, width), value_type, data, strides=(step, value_type.itemsize))
    if value_type.kind == 'u':
        depth = values.astype(np.float32)
        depth *= _M_PER_MM
        depth[values == 0] = np.nan
        return depth
    depth = values.astype(np.float32)
    # Written so that it is true for NaN too.
    depth[~((depth > 0) & (depth < np.inf))] = np.nan
    return depth


def check_registered(depth_hw: Sequence[int], camera_wh: tuple[int, int], image_hw: tuple[int, int]) -> None:
    """Refuse a depth image or a calibration that does not belong, pixel by pixel, to the colour image.

    Raises:
        ImageError: Their sizes differ from the image's.
    """
    height, width = image_hw
    if tuple(depth_hw) != image_hw:
        raise ImageError(
            f'depth image is {depth_hw[1]}x{depth_hw[0]}, colour image {width}x{height}: depth must be registered to '
            "the colour camera, as depth_image_proc's RegisterNode does"
        )
    if camera_wh != (width, height):
        raise ImageError(
            f'camera_info describes an image of {camera_wh[0]}x{camera_wh[1]}, the colour image is {width}x{height}: '
            'it must be the calibration of the colour image as it is published'
        )


def labelled_points(
    depth: NDArray[np.float32], rays: Rays, image: NDArray[np.uint8], result: PanopticResult
) -> NDArray[np.void]:
    """Return an organised cloud that fits the mask pixel by pixel.

    Args:
        depth: `(H, W)` float32 m, NaN where there is none.
        rays: See `CameraModel.rays`.
        image: `(H, W, 3)` uint8 rgb.
        result: The segments of the image.

    Returns:
        `(H, W)` of `POINT_DTYPE` in the camera's optical frame, m; x, y and z are NaN where there is no depth. Class
        and instance are those of the mask there too.
    """
    cloud = np.empty(depth.shape, POINT_DTYPE)
    # Whole words, for writing field by field is slower, and each pixel's labels are one word.
    words = cloud.view('<f4').reshape(*depth.shape, _WORDS_PER_POINT)
    np.multiply(rays[0], depth, out=words[..., 0])
    np.multiply(rays[1], depth, out=words[..., 1])
    # A pixel without a ray has no point, however deep it is.
    words[..., 2] = np.where(np.isnan(rays[0]), np.float32(np.nan), depth)
    integers = words.view('<u4')
    bgrx = cv2.cvtColor(image, cv2.COLOR_RGB2BGRA).view('<u4')[..., 0]
    np.bitwise_and(bgrx, _RGB_BITS, out=integers[..., 3])
    integers[..., 4] = _label_words(result.segments).take(result.panoptic_map)
    return cloud


def _label_words(segments: Sequence[Segment]) -> NDArray[np.uint32]:
    """Return both labels of each segment id in one word, as they lie in `POINT_DTYPE`."""
    words = np.zeros(max((segment.id for segment in segments), default=0) + 1, np.uint32)
    for segment in segments:
        words[segment.id] = segment.class_id | segment.id << 16
    return words
