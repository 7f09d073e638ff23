"""Smaller maps by nearest neighbour, for consumers that look at every pixel."""

from dataclasses import replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from fisa_ros.core.results import PanopticResult


def reduced_size(size_hw: tuple[int, int], width: int) -> tuple[int, int]:
    """Return the size (height, width) that keeps the aspect at a width; never more than `size_hw`.

    Args:
        size_hw: Size of the full map.
        width: Wanted width in pixels, at least 1.
    """
    if width < 1:
        raise ValueError(f'width must be at least 1, got {width}')
    full_height, full_width = size_hw
    if width >= full_width:
        return size_hw
    return max(1, (2 * full_height * width + full_width) // (2 * full_width)), width


def reduce_map[T: np.generic](full_map: NDArray[T], size_hw: tuple[int, int]) -> NDArray[T]:
    """Return the pixels nearest to the centres of the pixels of a smaller map.

    Which pixels these are depends on nothing but the two sizes: mask, confidence and points of one image stay aligned,
    and no value is mixed from two. A centre halfway between two pixels takes the right or lower one.

    Args:
        full_map: `(H, W)` or `(H, W, C)` of any type, records too.
        size_hw: Size (h, w) of the result, at most (H, W).

    Returns:
        `(h, w)` or `(h, w, C)`; `full_map` itself if that is its size.
    """
    full_hw = full_map.shape[:2]
    if not (1 <= size_hw[0] <= full_hw[0] and 1 <= size_hw[1] <= full_hw[1]):
        raise ValueError(f'size_hw must be from (1, 1) to {full_hw}, got {size_hw}')
    if size_hw == full_hw:
        return full_map
    flat = full_map.reshape(full_hw[0] * full_hw[1], *full_map.shape[2:])
    reduced: NDArray[T] = flat.take(_pixels(full_hw, size_hw), axis=0)
    return reduced


def reduce_result(result: PanopticResult, width: int) -> PanopticResult:
    """Return a result with smaller maps; see `reduce_map`.

    Args:
        result: Of the whole image.
        width: Wanted width in pixels, at least 1; more than that of the image changes nothing.

    Returns:
        A result whose segments are those of the whole image, in its pixels; small ones may have none in the maps.
    """
    full_hw = (result.panoptic_map.shape[0], result.panoptic_map.shape[1])
    return replace(result, panoptic_map=reduce_map(result.panoptic_map, reduced_size(full_hw, width)))


@lru_cache(maxsize=16)
def _pixels(full_hw: tuple[int, int], size_hw: tuple[int, int]) -> NDArray[np.intp]:
    rows, columns = (
        (2 * np.arange(size, dtype=np.intp) + 1) * full // (2 * size)
        for full, size in zip(full_hw, size_hw, strict=True)
    )
    pixels: NDArray[np.intp] = rows[:, None] * full_hw[1] + columns
    pixels.flags.writeable = False
    return pixels
