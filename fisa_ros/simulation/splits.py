"""Keeps training, validation and test apart: rooms by seed, shapes and colours by the numbers they are drawn from."""

from typing import Any

import numpy as np

FIRST_SEED = {'train': 1_000_000, 'validation': 2_000_000, 'test': 3_000_000}
"""First room of each split; rooms below the first, those of a simulated camera, count as test."""
SPLITS = tuple(FIRST_SEED)
_ROOMS = 1_000_000
_BANDS = 40
_BANDS_PER_PERIOD = 10
_HELD_OUT = {'validation': 3, 'test': 7}


def split_of(seed: int) -> str:
    """Return the split that the room of `seed` belongs to."""
    return next((split for split, first in FIRST_SEED.items() if first <= seed < first + _ROOMS), 'test')


class SplitGenerator(np.random.Generator):
    """Draws every continuous number from slices of its range that the other splits never draw from.

    A range is cut into 40 slices; every tenth is for validation only, another for test only. So no measure of a shape
    and no shade of a colour of a held-out object is ever that of a training object.

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
        position = super().uniform(0.0, len(self._bands), size)
        band = np.floor(position).astype(np.int64)
        fraction = (self._bands[band] + position - band) / _BANDS
        drawn = low + (np.asarray(high) - low) * fraction
        return float(drawn) if size is None and np.ndim(drawn) == 0 else drawn
