"""What many measured times say: percentiles, and ratios with how sure they are."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_RESAMPLES = 2000
_LEVEL = 0.95


@dataclass(frozen=True, slots=True)
class Ratio:
    """A ratio of times and its bootstrap interval (Efron, 1979) of 95 %.

    Attributes:
        value: The ratio.
        low: Lower end of the interval.
        high: Upper end of the interval.
    """

    value: float
    low: float
    high: float


def summarize_times(times_ms: Sequence[float]) -> dict[str, float]:
    """Return `n`, `mean`, `p50`, `p95` and `p99` of at least one time, all but `n` in milliseconds."""
    values = np.asarray(times_ms, np.float64)
    percentiles = dict(zip(('p50', 'p95', 'p99'), np.percentile(values, (50, 95, 99)).tolist(), strict=True))
    return {'n': len(values), 'mean': float(values.mean()), **percentiles}


def median_of_ratios(times: Sequence[float], base: Sequence[float]) -> Ratio:
    """Return the median over the rounds of time / base time of the same round; both have one time for each round."""
    ratios = np.asarray(times, np.float64) / np.asarray(base, np.float64)
    medians = np.median(ratios[_resamples(len(ratios))], axis=1)
    return Ratio(float(np.median(ratios)), *_interval(medians))


def ratio_of_medians(times: Sequence[float], base: Sequence[float], *, is_paired: bool = True) -> Ratio:
    """Return median(times) / median(base).

    Args:
        times: The times.
        base: What they are compared with.
        is_paired: Whether time n of both was measured in the same round; then rounds are drawn, else times.
    """
    values, others = np.asarray(times, np.float64), np.asarray(base, np.float64)
    drawn = _resamples(len(values))
    drawn_of_base = drawn if is_paired else _resamples(len(others), seed=1)
    medians = np.median(values[drawn], axis=1) / np.median(others[drawn_of_base], axis=1)
    return Ratio(float(np.median(values) / np.median(others)), *_interval(medians))


def _resamples(count: int, seed: int = 0) -> NDArray[np.int64]:
    """Return `(_RESAMPLES, count)` indices drawn with replacement; the same for each call."""
    return np.random.default_rng(seed).integers(0, count, (_RESAMPLES, count))


def _interval(values: NDArray[np.float64]) -> tuple[float, float]:
    low, high = np.percentile(values, (50 * (1 - _LEVEL), 50 * (1 + _LEVEL))).tolist()
    return low, high
