"""How much the memory of a process grows, whatever it does from moment to moment."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

MIN_SPAN_S = 60.0
_WINDOW = 0.1


@dataclass(frozen=True, slots=True)
class MemoryGrowth:
    """Memory at both ends of a time.

    Attributes:
        start_mb: Memory in use at the beginning.
        end_mb: Memory in use at the end.
    """

    start_mb: float
    end_mb: float

    @property
    def percent(self) -> float:
        """Growth as a part of the beginning."""
        return 100.0 * (self.end_mb - self.start_mb) / self.start_mb


def measure_growth(samples: Sequence[tuple[float, float]], skip_s: float = 60.0) -> MemoryGrowth | None:
    """Compare the medians of the first and of the last tenth of the time, which peaks do not move.

    The middles of both lie nine tenths of the time apart; what lies between them is extended to the whole. Unlike a
    fitted slope, this sees a single step too.

    Args:
        samples: Time in s and memory in MB, in order of time.
        skip_s: Samples of this time from the first one on are left out.

    Returns:
        None if less than `MIN_SPAN_S` remains, which says nothing.
    """
    kept = [sample for sample in samples if sample[0] >= samples[0][0] + skip_s]
    if not kept or kept[-1][0] - kept[0][0] < MIN_SPAN_S:
        return None
    times_s, memory_mb = np.array(kept).T
    window_s = _WINDOW * (times_s[-1] - times_s[0])
    first = float(np.median(memory_mb[times_s <= times_s[0] + window_s]))
    last = float(np.median(memory_mb[times_s >= times_s[-1] - window_s]))
    beyond = (last - first) * _WINDOW / 2 / (1.0 - _WINDOW)
    return MemoryGrowth(first - beyond, last + beyond)
