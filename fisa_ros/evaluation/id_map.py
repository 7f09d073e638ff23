"""How often the ids of two maps lie on each other."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fisa_ros.core.errors import DataError


def count_pairs(
    first: NDArray[np.integer], first_ids: Sequence[int], second: NDArray[np.integer], second_ids: Sequence[int]
) -> NDArray[np.int64]:
    """Return `(len(first_ids) + 1, len(second_ids) + 1)` pixel counts of each pair; row and column 0 are id 0.

    Args:
        first: `(H, W)` ids, 0 or more.
        first_ids: Every id that the map may hold besides 0.
        second: `(H, W)`.
        second_ids: Likewise.

    Raises:
        DataError: If the sizes differ or a map holds an id that is not listed.
    """
    if first.shape != second.shape:
        raise DataError(f'maps of different size: {first.shape} and {second.shape}')
    flat_first, flat_second = first.ravel(), second.ravel()
    # Maps have few borders: the runs between them are many times fewer than the pixels.
    borders = (flat_first[1:] != flat_first[:-1]) | (flat_second[1:] != flat_second[:-1])
    starts = np.concatenate([[0], np.flatnonzero(borders) + 1])[: first.size]
    lengths = np.diff(starts, append=first.size)
    shape = len(first_ids) + 1, len(second_ids) + 1
    pairs = _rows(flat_first[starts], first_ids) * shape[1] + _rows(flat_second[starts], second_ids)
    counts = np.bincount(pairs, weights=lengths, minlength=shape[0] * shape[1])
    return counts.astype(np.int64).reshape(shape)


def _rows(values: NDArray[np.integer], ids: Sequence[int]) -> NDArray[np.intp]:
    """Return 0 where a value is 0, i + 1 where it is `ids[i]`."""
    if min(ids, default=1) < 1:
        raise DataError(f'ids must be 1 or more, got {sorted(ids)}')
    table = np.full(max(int(values.max(initial=0)), max(ids, default=0)) + 1, -1, np.intp)
    table[0] = 0
    table[list(ids)] = np.arange(1, len(ids) + 1)
    rows: NDArray[np.intp] = table[values]
    if (rows < 0).any():
        raise DataError(f'a map holds ids that are not listed: {np.unique(values[rows < 0]).tolist()}')
    return rows
