"""Means of what may be nothing."""

from collections.abc import Sequence
from statistics import fmean


def mean_or_nan(values: Sequence[float]) -> float:
    """Return the unweighted mean, NaN where there are no values."""
    return fmean(values) if values else float('nan')
