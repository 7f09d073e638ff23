"""Images at the size of a network's input, and maps of the network at the size of the image."""

import cv2
import numpy as np
from numpy.typing import NDArray

from fisa_ros.core.placement import Placement


def scale_image(image: NDArray[np.uint8], size_hw: tuple[int, int]) -> NDArray[np.uint8]:
    """Stretch an `(H, W, 3)` uint8 image to `size_hw`, antialiased along each side that shrinks.

    What is returned is contiguous and writable, as torch wants it, and the image itself where nothing is to be done.
    """
    height, width = size_hw
    shrunk_wh = (min(width, image.shape[1]), min(height, image.shape[0]))
    if shrunk_wh != (image.shape[1], image.shape[0]):
        image = _resize(image, shrunk_wh, cv2.INTER_AREA)
    if shrunk_wh != (width, height):
        image = _resize(image, (width, height), cv2.INTER_LINEAR)
    return np.require(image, np.uint8, ['C', 'W'])


def place_image(image: NDArray[np.uint8], placement: Placement) -> NDArray[np.uint8]:
    """Put an image into the input of a network, scaled as `scale_image` does it.

    Args:
        image: `(H, W, 3)` uint8 rgb.
        placement: Where it goes; made for its size.

    Returns:
        `(h, w, 3)` uint8 rgb of the size of the input, contiguous and writable; the image itself where nothing is to be
        done.
    """
    if placement.is_whole:
        return scale_image(image, placement.input_hw)
    height, width = placement.content_hw
    placed = np.empty((*placement.input_hw, 3), np.uint8)
    # Whole rows are copied many times faster than single colours.
    row = np.full(placed.shape[1:], placement.pad_rgb, np.uint8)
    placed[:height, width:] = row[width:]
    placed[height:] = row
    # Both sides grow or both shrink.
    is_shrunk = height <= image.shape[0] and width <= image.shape[1]
    cv2.resize(
        np.ascontiguousarray(image), (width, height), dst=placed[:height, :width],
        interpolation=cv2.INTER_AREA if is_shrunk else cv2.INTER_LINEAR,
    )  # fmt: skip
    return placed


def image_values(values: NDArray[np.float32], placement: Placement) -> NDArray[np.float32]:
    """Scale values of cells to the pixels of the image, by bilinear interpolation.

    Where there is padding, it is cut off at the size of the input, as EoMT does it
    (`revert_resize_and_pad_logits_instance_panoptic` of tue-mps/eomt).

    Args:
        values: `(h, w)` float32 over the whole input.
        placement: Where the image is in it.

    Returns:
        `(H, W)` float32.
    """
    if not placement.is_whole:
        height, width = placement.content_hw
        values = _bilinear(values, placement.input_hw)[:height, :width]
    return _bilinear(np.ascontiguousarray(values), placement.image_hw)


def _bilinear(values: NDArray[np.float32], size_hw: tuple[int, int]) -> NDArray[np.float32]:
    return np.asarray(cv2.resize(values, size_hw[::-1], interpolation=cv2.INTER_LINEAR), np.float32)


def _resize(image: NDArray[np.uint8], size_wh: tuple[int, int], interpolation: int) -> NDArray[np.uint8]:
    return np.asarray(cv2.resize(np.ascontiguousarray(image), size_wh, interpolation=interpolation), np.uint8)
