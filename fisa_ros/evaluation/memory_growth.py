"""How much the memory of a process grows, whatever it does from moment to moment."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

MIN_SPAN_S = 60.0


@dataclass(frozen=True, slots=True)
class MemoryGrowth:
    """A straight line through the memory in use.

    Attributes:
        start_mb: Its value at the beginning.
        end_mb: Its value at the end.
        span_s: Time between both.
    """

    start_mb: float
    end_mb: float
    span_s: float

    @property
    def percent(self) -> float:
        """Growth as a part of the beginning."""
        return 100.0 * (self.end_mb - self.start_mb) / self.start_mb


def fit_growth(samples: Sequence[tuple[float, float]], skip_s: float = 60.0) -> MemoryGrowth | None:
    """Fit a line through samples by the method of Theil and Sen, which a few outliers do not move.

    The slope is the median of those between all pairs of samples, the line passes through the medians.

    Args:
        samples: Time in s and memory in MB, in order of time.
        skip_s: Samples of this time from the first one on are left out.

    Returns:
        None if less than `MIN_SPAN_S` remains, which says nothing.
    """
    if not samples:
        return None
    kept = [sample for sample in samples if sample[0] >= samples[0][0] + skip_s]
    times_s, memory_mb = np.array(kept).reshape(-1, 2).T
    if len(times_s) < 2 or times_s[-1] - times_s[0] < MIN_SPAN_S:
        return None
    earlier, later = np.triu_indices(len(times_s), 1)
    slope = np.median((memory_mb[later] - memory_mb[earlier]) / (times_s[later] - times_s[earlier]))
    intercept = np.median(memory_mb) - slope * np.median(times_s)
    start_mb, end_mb = (float(intercept + slope * time_s) for time_s in (times_s[0], times_s[-1]))
    return MemoryGrowth(start_mb, end_mb, float(times_s[-1] - times_s[0]))
