"""Finds the thresholds with the best score, one threshold at a time."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from fisa_ros.core.thresholds import Thresholds

GRID = {
    'score': tuple(round(0.05 * step, 2) for step in range(1, 15)),
    'mask': (0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6),
    'overlap': (0.3, 0.4, 0.5, 0.6, 0.7, 0.8),
    'objectness_trust': (0.0, 0.25, 0.5, 0.75, 1.0),
}
"""What each threshold is tried at, besides where it starts."""
MAX_ROUNDS = 2
MAX_TRIALS = 1 + MAX_ROUNDS * sum(map(len, GRID.values()))


@dataclass(frozen=True, slots=True)
class Trial:
    """Thresholds and their score, larger is better."""

    thresholds: Thresholds
    score: float


def search_thresholds(measure: Callable[[Thresholds], float], start: Thresholds) -> list[Trial]:
    """Return all trials of a coordinate search; the first is the start, of equal ones the earlier wins.

    Args:
        measure: Score of thresholds; called once for each.
        start: Where the search begins.
    """
    trials = {start: measure(start)}
    best = start
    for _ in range(MAX_ROUNDS):
        before = best
        for name, values in GRID.items():
            for value in values:
                candidate = replace(best, **{name: value})
                if candidate not in trials:
                    trials[candidate] = measure(candidate)
            line = [candidate for candidate in trials if replace(candidate, **{name: getattr(best, name)}) == best]
            best = max(line, key=trials.__getitem__)
        if best == before:
            break
    return [Trial(thresholds, score) for thresholds, score in trials.items()]


def best_trial(trials: list[Trial]) -> Trial:
    """Return the trial with the largest score, of equal ones the earliest."""
    return max(trials, key=lambda trial: trial.score)
