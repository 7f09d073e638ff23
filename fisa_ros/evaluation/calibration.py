"""How far probabilities can be believed (Guo et al., "On Calibration of Modern Neural Networks", 2017)."""

from collections.abc import Callable
import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

NUM_BINS = 15
_TEMPERATURES = (0.05, 20.0)
_GOLDEN = (math.sqrt(5) - 1) / 2
_PRECISION = 1e-4


class CalibrationError:
    """Collects confidences and whether they were right, and tells the expected calibration error (ECE).

    The ECE is the mean distance between confidence and share of right answers over bins of equal width, weighted by
    the number of answers in them.
    """

    def __init__(self, num_bins: int = NUM_BINS) -> None:
        """Use so many bins."""
        self._sums = np.zeros((3, num_bins))

    def update(self, confidence: ArrayLike, is_right: ArrayLike) -> None:
        """Add answers: `(n,)` confidences in [0, 1] and `(n,)` bool."""
        confidences, right = np.asarray(confidence, np.float64), np.asarray(is_right, np.float64)
        num_bins = self._sums.shape[1]
        # Bins are closed on the right, as (0, 1/15], (1/15, 2/15], ...
        bins = np.clip(np.ceil(confidences * num_bins).astype(np.int64) - 1, 0, num_bins - 1)
        for row, weights in enumerate((np.ones(len(bins)), confidences, right)):
            self._sums[row] += np.bincount(bins, weights, num_bins)

    def compute(self) -> float:
        """Return the ECE in [0, 1]; NaN where nothing was added."""
        count, confidence, right = self._sums
        return float(np.abs(confidence - right).sum() / count.sum()) if count.any() else float('nan')


def negative_log_likelihood(
    log_probabilities: NDArray[np.floating], targets: NDArray[np.integer], temperature: float = 1.0
) -> float:
    """Return the mean negative log-likelihood of the targets.

    Args:
        log_probabilities: `(n, K)` logits or logarithms of probabilities; rows may be padded with -inf.
        targets: `(n,)` columns.
        temperature: What the logits are divided by.
    """
    scaled = log_probabilities.astype(np.float64) / temperature
    largest = scaled.max(axis=1, keepdims=True)
    normaliser = largest[:, 0] + np.log(np.exp(scaled - largest).sum(axis=1))
    return float((normaliser - scaled[np.arange(len(targets)), targets]).mean())


def fit_temperature(log_probabilities: NDArray[np.floating], targets: NDArray[np.integer]) -> float:
    """Return the temperature in [0.05, 20] with the smallest negative log-likelihood, which has one minimum.

    Args:
        log_probabilities: `(n, K)`, as `negative_log_likelihood` takes them.
        targets: `(n,)` columns.
    """
    lower, upper = map(math.log, _TEMPERATURES)
    return math.exp(
        _golden_section(
            lambda log_t: negative_log_likelihood(log_probabilities, targets, math.exp(log_t)), lower, upper
        )
    )


def _golden_section(function: Callable[[float], float], lower: float, upper: float) -> float:
    """Return where a function with one minimum has it."""
    left, right = upper - _GOLDEN * (upper - lower), lower + _GOLDEN * (upper - lower)
    at_left, at_right = function(left), function(right)
    while upper - lower > _PRECISION:
        if at_left < at_right:
            upper, right, at_right = right, left, at_left
            left = upper - _GOLDEN * (upper - lower)
            at_left = function(left)
        else:
            lower, left, at_left = left, right, at_right
            right = lower + _GOLDEN * (upper - lower)
            at_right = function(right)
    return (lower + upper) / 2
