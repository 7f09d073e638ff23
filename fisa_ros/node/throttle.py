"""Lets something happen only now and then."""

import time


class Throttle:
    """Says yes at most once per period."""

    def __init__(self, period_s: float) -> None:
        self._period_s = period_s
        self._last_s = float('-inf')

    def is_due(self) -> bool:
        """Return True if the last time this returned True is at least a period ago."""
        now_s = time.monotonic()
        if now_s - self._last_s < self._period_s:
            return False
        self._last_s = now_s
        return True
