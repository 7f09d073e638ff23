"""Keeps training, validation and test apart: rooms by seed, shapes and colours by the numbers they are drawn from."""

from typing import Any

import numpy as np

FIRST_SEED = {'train': 1_000_000, 'validation': 2_000_000, 'test': 3_000_000}
"""First of the 1,000,000 rooms of each split; all other seeds, as those of a simulated camera, count as test."""
SPLITS = tuple(FIRST_SEED)
_ROOMS = 1_000_000
_BANDS = 40
_BANDS_PER_PERIOD = 10
_HELD_OUT = {'validation': 3, 'test': 7}


def split_of(seed: int) -> str:
    """Return the split that the room of `seed` belongs to: test for those outside of all splits."""
    return next((split for split, first in FIRST_SEED.items() if first <= seed < first + _ROOMS), 'test')


class SplitGenerator(np.random.Generator):
    """Draws every continuous number from slices of its range that the other splits never draw from.

    A range is cut into 40 slices; every tenth is for validation only, another for test only. Every single draw is from
    other slices in each split; sums of draws, as the shades of colours are, may coincide. Other methods than `uniform`
    draw alike in all splits.

    Args:
        seed: What numpy's generators take.
        split: One of `SPLITS`.
    """

    def __init__(self, seed: Any, split: str) -> None:
        super().__init__(np.random.PCG64(seed))
        held_out = set(_HELD_OUT.values())
        phases = [_HELD_OUT[split]] if split in _HELD_OUT else sorted(set(range(_BANDS_PER_PERIOD)) - held_out)
        self._bands = np.array([band for band in range(_BANDS) if band % _BANDS_PER_PERIOD in phases])

    def uniform(self, low: Any = 0.0, high: Any = 1.0, size: Any = None) -> Any:
        """Draw from [low, high) as numpy does, but only from the slices of the split."""
        # The position among the allowed slices is stretched over the whole range.
        shape = size if size is not None else np.broadcast(low, high).shape or None
        position = super().uniform(0.0, len(self._bands), shape)
        band = np.floor(position).astype(np.int64)
        fraction = (self._bands[band] + position - band) / _BANDS
        drawn = low + (np.asarray(high) - low) * fraction
        return float(drawn) if shape is None else drawn
