"""Cuts the part of an image that each mask covers, at the size that a CLIP takes."""

import math

import cv2
import numpy as np
from numpy.typing import NDArray

from fisa_ros.core.errors import ImageError

Box = tuple[int, int, int, int]


def mask_crops(
    image: NDArray[np.uint8],
    mask_logits: NDArray[np.float32],
    *,
    size_hw: tuple[int, int],
    mask_threshold: float,
    context: float,
    background_rgb: tuple[int, int, int] | None = None,
) -> tuple[NDArray[np.uint8], NDArray[np.intp]]:
    """Cut one crop for each mask that is not empty, and one of the whole image for all that are.

    A crop is the box of its mask, enlarged, cut off at the borders of the image and stretched to `size_hw`.

    Args:
        image: `(H, W, 3)` uint8 rgb.
        mask_logits: `(N, h, w)` float32 over the whole image, before the sigmoid; of any resolution.
        size_hw: Size of the crops in pixels.
        mask_threshold: Probability in [0, 1] above which a cell belongs to its mask.
        context: Edge of the crop by the edge of the box, at least 1.
        background_rgb: Colour of what is outside the mask; None leaves it as it is.

    Returns:
        `(C, h, w, 3)` uint8 rgb crops, and `(N,)` which of them belongs to each mask.

    Raises:
        ImageError: `context` is below 1.
    """
    if not context >= 1:
        raise ImageError(f'context of a crop must be at least 1, got {context}')
    logit = threshold_logit(mask_threshold)
    boxes = [mask_box(mask) for mask in mask_logits > logit]
    num_full = sum(box is not None for box in boxes)
    crops = np.empty((num_full + (num_full < len(boxes)), *size_hw, 3), np.uint8)
    crop_of_mask = np.full(len(boxes), num_full, np.intp)
    row = 0
    for mask, box in enumerate(boxes):
        if box is None:
            continue
        window = enlarged_window(box, mask_logits.shape[1:], image.shape[:2], context)
        _stretch(image, window, crops[row])
        if background_rgb is not None:
            is_outside = _logits_in(mask_logits[mask], image.shape[:2], window, size_hw) <= logit
            crops[row][is_outside] = background_rgb
        crop_of_mask[mask] = row
        row += 1
    if row < len(crops):
        _stretch(image, (0, 0, image.shape[1], image.shape[0]), crops[row])
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


def enlarged_window(box: Box, mask_size_hw: tuple[int, ...], image_size_hw: tuple[int, ...], context: float) -> Box:
    """Return a box of mask cells as pixels of the image, enlarged about its centre and cut off at the borders.

    Args:
        box: (x0, y0, x1, y1) in cells, the ends excluded.
        mask_size_hw: Number of cells.
        image_size_hw: Size of the image in pixels.
        context: Edge of the result by the edge of the box.

    Returns:
        (x0, y0, x1, y1) in pixels, the ends excluded; whole pixels, at least one each way.
    """
    ends = []
    for low, high, cells, pixels in zip(box[:2], box[2:], mask_size_hw[::-1], image_size_hw[::-1], strict=True):
        centre, half = (low + high) / 2 * pixels / cells, (high - low) / 2 * pixels / cells * context
        # So that fractions which are whole but for rounding do not gain a pixel.
        ends.append((max(0, math.floor(centre - half + 1e-6)), min(pixels, math.ceil(centre + half - 1e-6))))
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


def _logits_in(
    mask_logits: NDArray[np.float32], image_size_hw: tuple[int, ...], window: Box, size_hw: tuple[int, int]
) -> NDArray[np.float32]:
    """Return the logits at each pixel of a crop, between cells by linear interpolation."""
    x0, y0, x1, y1 = window
    cells_y, cells_x = mask_logits.shape[0] / image_size_hw[0], mask_logits.shape[1] / image_size_hw[1]
    scale_x, scale_y = (x1 - x0) * cells_x / size_hw[1], (y1 - y0) * cells_y / size_hw[0]
    # Centres of pixels on centres of cells.
    to_cells = np.array(
        [
            [scale_x, 0, x0 * cells_x + scale_x / 2 - 0.5],
            [0, scale_y, y0 * cells_y + scale_y / 2 - 0.5],
        ]
    )
    return np.asarray(
        cv2.warpAffine(
            mask_logits, to_cells, size_hw[::-1], flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_REPLICATE,
        )
    )  # fmt: skip
