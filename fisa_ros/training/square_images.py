"""Images, truth and kept masks at the square size of a network's input."""

import cv2
import numpy as np
from numpy.typing import NDArray
import torch
from torch import Tensor

from fisa_ros.core.placement import Placement
from fisa_ros.pipeline.image_scaling import place_image


def square_image(image: NDArray[np.uint8], placement: Placement) -> Tensor:
    """Put an image into a square; one that is padded comes there as in the pipeline.

    One that is stretched is antialiased only where both sides shrink: what was trained, and masks that are kept, are of
    such images.

    Args:
        image: `(H, W, 3)` uint8 rgb.
        placement: Where it goes; made for its size.

    Returns:
        `(3, S, S)` float32 rgb in [0, 1].
    """
    if placement.is_whole:
        height, width = placement.input_hw
        shrinks = image.shape[0] >= height and image.shape[1] >= width
        resized = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
        placed = np.asarray(resized, np.uint8)
    else:
        placed = place_image(image, placement)
    return torch.from_numpy(np.ascontiguousarray(placed.transpose(2, 0, 1))).float() / 255


def cut_masks(
    masks: NDArray[np.uint8],
    window_tlhw: tuple[float, float, float, float],
    is_flipped: bool,
    whole: Placement,
    part: Placement,
) -> Tensor:
    """Cut a window out of masks, resize it to their size and flip it; each cell takes the nearest one.

    Args:
        masks: `(N, h, w)` uint8 of the whole image.
        window_tlhw: Top, left, height and width as shares of the image.
        is_flipped: Whether left becomes right.
        whole: Where the image is in the masks.
        part: Where the window goes.

    Returns:
        `(N, h, w)` uint8, 0 in the padding.
    """
    top, left, height, width = window_tlhw
    count, rows, columns = masks.shape
    y = _cut_cells(0, rows, top, height, whole, part)
    x = _cut_cells(1, columns, left, width, whole, part)
    if is_flipped:
        x = x[part.mirrored_cells(columns)[: len(x)]]
    cut = np.zeros_like(masks)
    flat = masks.reshape(count, rows * columns).take((y[:, None] * columns + x).ravel(), 1)
    cut[:, : len(y), : len(x)] = flat.reshape(count, len(y), len(x))
    return torch.from_numpy(cut)


def _cut_cells(
    axis: int, cells: int, start: float, share: float, whole: Placement, part: Placement
) -> NDArray[np.intp]:
    """Return, for each cell along an axis that shows anything of a window, the cell of the whole image it shows."""
    from_cells, to_cells = whole.content_cells(axis, cells), part.content_cells(axis, cells)
    centres = np.arange(part.shown_cells(axis, cells)) + 0.5
    nearest = np.floor(start * from_cells + centres * (share * (from_cells / to_cells))).astype(np.intp)
    return nearest.clip(0, whole.shown_cells(axis, cells) - 1)


def scaled_map(panoptic_map: NDArray[np.int32], placement: Placement) -> NDArray[np.int32]:
    """Scale an `(H, W)` int32 map to the size of the content by nearest neighbour."""
    size_wh = placement.content_hw[::-1]
    return np.asarray(cv2.resize(panoptic_map, size_wh, interpolation=cv2.INTER_NEAREST_EXACT), np.int32)


def padded_map(panoptic_map: NDArray[np.int32], placement: Placement) -> NDArray[np.int32]:
    """Add the padding, in which nothing is, to a map of the size of the content."""
    (height, width), (rows, columns) = placement.content_hw, placement.input_hw
    return np.pad(panoptic_map, ((0, rows - height), (0, columns - width)))
