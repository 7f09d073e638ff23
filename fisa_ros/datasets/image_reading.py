"""Reads the image files of data sets, and refuses those that are cut off."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fisa_ros.core.errors import DataError
from fisa_ros.core.image_files import is_cut_off


def read_rgb(path: Path) -> NDArray[np.uint8]:
    """Return an image as `(H, W, 3)` uint8 rgb, grey ones too.

    Raises:
        DataError: It cannot be read or is cut off.
    """
    return np.asarray(cv2.cvtColor(_decoded(path, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB), np.uint8)


def read_values(path: Path) -> NDArray[np.uint8 | np.uint16]:
    """Return the values of an image of one channel as they are stored, `(H, W)` uint8 or uint16.

    Raises:
        DataError: It cannot be read, is cut off, or has several channels or another depth.
    """
    values = _decoded(path, cv2.IMREAD_UNCHANGED)
    if values.ndim != 2 or values.dtype not in (np.uint8, np.uint16):
        channels = 1 if values.ndim == 2 else values.shape[2]
        raise DataError(f'{path} has {channels} channels of {values.dtype}, expected 1 of uint8 or uint16')
    return values


def read_size(path: Path) -> tuple[int, int]:
    """Return the height and width of an image from its header, as it is stored.

    Raises:
        DataError: It cannot be read.
    """
    try:
        with Image.open(path) as image:
            return image.height, image.width
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f'{path} cannot be read: {error}') from error


def size_text(size_hw: tuple[int, ...]) -> str:
    """Return the width and height of a shape as text: "640x480"."""
    return f'{size_hw[1]}x{size_hw[0]}'


def _decoded(path: Path, flags: int) -> NDArray[Any]:
    try:
        content = path.read_bytes()
        image = cv2.imdecode(np.frombuffer(content, np.uint8), flags) if content else None
    except (OSError, cv2.error) as error:
        raise DataError(f'{path} cannot be read: {error}') from error
    # OpenCV makes up the missing rows of a file that was cut off.
    if is_cut_off(content):
        raise DataError(f'{path} is cut off: its {len(content)} bytes lack the end of the image')
    if image is None:
        raise DataError(f'{path} is not an image that can be read')
    return image
