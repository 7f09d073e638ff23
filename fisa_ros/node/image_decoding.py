"""Pixels of raw and compressed image messages as rgb, without copying where the layout allows it."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from difflib import get_close_matches
import io

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile

from fisa_ros.core.errors import ImageError
from fisa_ros.core.image_files import is_cut_off

Pixels = NDArray[np.uint8]

MAX_COMPRESSED_PIXELS = 1 << 26


@dataclass(frozen=True, slots=True)
class Encoding:
    """How one encoding lays out its pixels.

    Attributes:
        channels: Values per pixel.
        depth_bits: 8 or 16; of 16 bits the upper 8 are used.
        to_rgb: Makes `(H, W, 3)` rgb of `(H, W)` or `(H, W, channels)`, both uint8.
        columns_per_group: The width must be a multiple of this.
    """

    channels: int
    depth_bits: int
    to_rgb: Callable[[Pixels], Pixels]
    columns_per_group: int = 1

    @property
    def bytes_per_pixel(self) -> int:
        """Bytes of one pixel in a row."""
        return self.channels * self.depth_bits // 8


def _as_is(pixels: Pixels) -> Pixels:
    return pixels


def _cv2_conversion(code: int) -> Callable[[Pixels], Pixels]:
    def convert(pixels: Pixels) -> Pixels:
        return cv2.cvtColor(pixels, code).astype(np.uint8, copy=False)

    return convert


_GRAY = _cv2_conversion(cv2.COLOR_GRAY2RGB)
_BGR = _cv2_conversion(cv2.COLOR_BGR2RGB)
_BGRA = _cv2_conversion(cv2.COLOR_BGRA2RGB)
_UYVY = Encoding(2, 8, _cv2_conversion(cv2.COLOR_YUV2RGB_UYVY), columns_per_group=2)
_YUYV = Encoding(2, 8, _cv2_conversion(cv2.COLOR_YUV2RGB_YUY2), columns_per_group=2)

# OpenCV names a Bayer pattern by its second row and column, ROS by its first.
_BAYER = {
    'rggb': _cv2_conversion(cv2.COLOR_BayerBG2RGB),
    'bggr': _cv2_conversion(cv2.COLOR_BayerRG2RGB),
    'gbrg': _cv2_conversion(cv2.COLOR_BayerGR2RGB),
    'grbg': _cv2_conversion(cv2.COLOR_BayerGB2RGB),
}

# 8UC1, 8UC3 and 8UC4 say nothing about colours; read as rviz2 and cv_bridge read them.
ENCODINGS: dict[str, Encoding] = {
    'rgb8': Encoding(3, 8, _as_is),
    'bgr8': Encoding(3, 8, _BGR),
    'rgba8': Encoding(4, 8, _cv2_conversion(cv2.COLOR_RGBA2RGB)),
    'bgra8': Encoding(4, 8, _BGRA),
    'mono8': Encoding(1, 8, _GRAY),
    'mono16': Encoding(1, 16, _GRAY),
    'rgb16': Encoding(3, 16, _as_is),
    'bgr16': Encoding(3, 16, _BGR),
    '8UC1': Encoding(1, 8, _GRAY),
    '8UC3': Encoding(3, 8, _BGR),
    '8UC4': Encoding(4, 8, _BGRA),
    'yuv422': _UYVY,
    'uyvy': _UYVY,
    'yuv422_yuy2': _YUYV,
    'yuyv': _YUYV,
} | {
    f'bayer_{pattern}{depth_bits}': Encoding(1, depth_bits, to_rgb)
    for pattern, to_rgb in _BAYER.items()
    for depth_bits in (8, 16)
}


def decode_image(
    data: bytes | bytearray | memoryview, *, encoding: str, size_wh: tuple[int, int], step: int, is_bigendian: bool
) -> Pixels:
    """Return the image as `(H, W, 3)` uint8 rgb, C-contiguous.

    Args:
        data: The rows one after the other. The result of rgb8 without padding is a view of it.
        encoding: Name from `sensor_msgs/image_encodings`.
        size_wh: Width and height in pixels.
        step: Bytes from one row to the next, at least the width times the bytes per pixel.
        is_bigendian: Byte order of 16-bit values.

    Raises:
        ImageError: The encoding is not supported, or size, step and amount of data contradict each other.
    """
    layout = ENCODINGS.get(encoding)
    if layout is None:
        similar = get_close_matches(encoding, ENCODINGS, n=1)
        advice = f', did you mean {similar[0]!r}?' if similar else f'; supported are {", ".join(ENCODINGS)}'
        raise ImageError(f'encoding {encoding!r} is not supported{advice}')
    width, height = size_wh
    name = f'{encoding} image of {width}x{height}'
    if width < 1 or height < 1:
        raise ImageError(f'{name} pixels has no pixels')
    if width % layout.columns_per_group:
        raise ImageError(f'{name} pixels: the width must be a multiple of {layout.columns_per_group}')
    if step < width * layout.bytes_per_pixel:
        raise ImageError(f'{name} pixels: step is {step} bytes, a row needs {width * layout.bytes_per_pixel}')
    size = memoryview(data).nbytes
    if size != height * step:
        raise ImageError(f'{name} pixels: {size} bytes of data, {height} rows of step {step} are {height * step}')
    return np.ascontiguousarray(layout.to_rgb(_view_pixels(data, layout, size_wh, step, is_bigendian)))


def decode_compressed(data: bytes | bytearray | memoryview, *, format_text: str) -> Pixels:
    """Return a jpeg or png image as `(H, W, 3)` uint8 rgb, C-contiguous.

    Args:
        data: The file.
        format_text: As in `sensor_msgs/CompressedImage`; what counts is what the file says of itself.

    Raises:
        ImageError: The file is of another kind, incomplete, too large or damaged.
    """
    content = bytes(data)
    if 'compressedDepth' in format_text:
        raise ImageError(f'format {format_text!r} holds depth, not colours')
    kind, (width, height) = _read_head(content, format_text)
    name = f'{kind.lower()} image of {width}x{height} pixels in {len(content)} bytes'
    if width * height > MAX_COMPRESSED_PIXELS:
        raise ImageError(f'{name} is too large: at most {MAX_COMPRESSED_PIXELS} pixels')
    if is_cut_off(content):
        raise ImageError(f'{name} is incomplete')
    # Labels must lie on the pixels as they came, whatever the file says of turning them.
    flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        pixels = cv2.imdecode(np.frombuffer(content, np.uint8), flags)
    except cv2.error as error:
        raise ImageError(f'{name} cannot be decoded: {error.err}') from None
    if pixels is None:
        raise ImageError(f'{name} cannot be decoded')
    return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB, dst=pixels), np.uint8)


def _read_head(content: bytes, format_text: str) -> tuple[str, tuple[int, int]]:
    """Return the kind of a file and the width and height that it states."""
    # Not through Image.open, which knows a limit of its own and only warns of what is a little above it.
    for reader in (JpegImageFile, PngImageFile):
        with suppress(OSError, ValueError, SyntaxError), reader(io.BytesIO(content)) as head:
            return str(head.format), head.size
    raise ImageError(f'{len(content)} bytes of format {format_text!r:.100} are neither jpeg nor png')


def _view_pixels(
    data: bytes | bytearray | memoryview, layout: Encoding, size_wh: tuple[int, int], step: int, is_bigendian: bool
) -> Pixels:
    """View the upper (or only) byte of every value as `(H, W)` or `(H, W, channels)`, strides as in the data."""
    width, height = size_wh
    value_bytes = layout.depth_bits // 8
    pixels: Pixels = np.ndarray(
        shape=(height, width, layout.channels),
        dtype=np.uint8,
        buffer=data,
        offset=0 if is_bigendian else value_bytes - 1,
        strides=(step, layout.bytes_per_pixel, value_bytes),
    )
    return pixels[:, :, 0] if layout.channels == 1 else pixels
