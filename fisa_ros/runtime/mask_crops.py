"""Cuts the part of an image that each mask covers, at the size that a CLIP takes."""

import math

import cv2
import numpy as np
from numpy.typing import NDArray

from fisa_ros.core.errors import ImageError
from fisa_ros.core.placement import Placement

Box = tuple[int, int, int, int]


def mask_crops(
    image: NDArray[np.uint8],
    mask_logits: NDArray[np.float32],
    *,
    size_hw: tuple[int, int],
    mask_threshold: float,
    context: float,
    placement: Placement,
) -> tuple[NDArray[np.uint8], NDArray[np.intp]]:
    """Cut one crop for each mask that is not empty, and one of the whole image for all that are.

    A crop is the box of its mask, enlarged, cut off at the borders of the image and stretched to `size_hw`. A mask in
    the padding alone counts as empty.

    Args:
        image: `(H, W, 3)` uint8 rgb, with its padding.
        mask_logits: `(N, h, w)` float32 over all of that, before the sigmoid; of any resolution.
        size_hw: Size of the crops in pixels.
        mask_threshold: Probability in [0, 1] above which a cell belongs to its mask.
        context: Edge of the crop by the edge of the box, at least 1.
        placement: Where the padding begins.

    Returns:
        `(C, h, w, 3)` uint8 rgb crops, and `(N,)` which of them belongs to each mask.

    Raises:
        ImageError: `context` is below 1.
    """
    if not context >= 1:
        raise ImageError(f'context of a crop must be at least 1, got {context}')
    logit = threshold_logit(mask_threshold)
    boxes = [mask_box(mask) for mask in placement.shown(mask_logits) > logit]
    num_full = sum(box is not None for box in boxes)
    crops = np.empty((num_full + (num_full < len(boxes)), *size_hw, 3), np.uint8)
    crop_of_mask = np.full(len(boxes), num_full, np.intp)
    row = 0
    for mask, box in enumerate(boxes):
        if box is None:
            continue
        window = enlarged_window(box, mask_logits.shape[1:], placement, context)
        _stretch(image, window, crops[row])
        crop_of_mask[mask] = row
        row += 1
    if row < len(crops):
        _stretch(image, (0, 0, placement.content_hw[1], placement.content_hw[0]), crops[row])
    return crops, crop_of_mask


def threshold_logit(probability: float) -> float:
    """Return the logit of a probability in [0, 1]."""
    if 0 < probability < 1:
        return math.log(probability / (1 - probability))
    return math.copysign(math.inf, probability - 0.5)


def mask_box(mask: NDArray[np.bool_]) -> Box | None:
    """Return the box (x0, y0, x1, y1) of an `(h, w)` mask in cells, the ends excluded; None of an empty one."""
    columns = np.flatnonzero(mask.any(axis=0))
    if not len(columns):
        return None
    rows = np.flatnonzero(mask.any(axis=1))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def enlarged_window(box: Box, mask_size_hw: tuple[int, ...], placement: Placement, context: float) -> Box:
    """Return a box of mask cells as pixels of the image, enlarged about its centre and cut off at the borders.

    Args:
        box: (x0, y0, x1, y1) in cells, the ends excluded.
        mask_size_hw: Number of cells.
        placement: Size of the image with its padding, and where that begins.
        context: Edge of the result by the edge of the box.

    Returns:
        (x0, y0, x1, y1) in pixels, the ends excluded; whole pixels, at least one each way.
    """
    ends = []
    sizes = zip(mask_size_hw[::-1], placement.input_hw[::-1], placement.content_hw[::-1], strict=True)
    for low, high, (cells, pixels, border) in zip(box[:2], box[2:], sizes, strict=True):
        centre, half = (low + high) / 2 * pixels / cells, (high - low) / 2 * pixels / cells * context
        # So that fractions which are whole but for rounding do not gain a pixel.
        ends.append((max(0, math.floor(centre - half + 1e-6)), min(border, math.ceil(centre + half - 1e-6))))
    (x0, x1), (y0, y1) = ends
    return x0, y0, x1, y1


def _stretch(image: NDArray[np.uint8], window: Box, out: NDArray[np.uint8]) -> None:
    x0, y0, x1, y1 = window
    height, width = out.shape[:2]
    # Antialiased only where it shrinks; INTER_AREA enlarges into blocks.
    is_shrunk = y1 - y0 > height or x1 - x0 > width
    cv2.resize(
        image[y0:y1, x0:x1], (width, height), dst=out, interpolation=cv2.INTER_AREA if is_shrunk else cv2.INTER_LINEAR
    )
