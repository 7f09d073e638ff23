"""Ticks at a fixed rate."""

from collections.abc import Callable
import time


class Pace:
    """Says when the next tick is due.

    The ticks lie on a grid from the first one on, so the rate does not drift. A tick that cannot be met is skipped and
    counted, never made up for.
    """

    def __init__(self, rate_hz: float, clock: Callable[[], float] = time.monotonic) -> None:
        """Let the first tick be due now.

        Args:
            rate_hz: Ticks per second.
            clock: Seconds that never go back.
        """
        self.period_s = 1.0 / rate_hz
        self.skipped = 0
        self._clock = clock
        self._start_s = clock()
        self._last = -1

    def wait_s(self) -> float:
        """Return the time until the next tick, 0 or less if it is due."""
        return self._start_s + (self._last + 1) * self.period_s - self._clock()

    def advance(self) -> float:
        """Take the tick that is due; return the time on the grid since the one taken before, 0 for the first."""
        due = max(self._last + 1, int((self._clock() - self._start_s) / self.period_s))
        steps = due - self._last
        is_first = self._last < 0
        self.skipped += 0 if is_first else steps - 1
        self._last = due
        return 0.0 if is_first else steps * self.period_s


class RecordedPace:
    """Says when what was recorded at some moment is due again.

    Nothing is left out: what is late is due at once, and delays do not add up.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Wait for `start`.

        Args:
            clock: Seconds that never go back.
        """
        self._clock = clock
        self._start_s = 0.0
        self._start_ns = 0

    def start(self, time_ns: int, in_s: float = 0.0) -> None:
        """Let the moment `time_ns` of the recording be due in `in_s` seconds."""
        self._start_s = self._clock() + in_s
        self._start_ns = time_ns

    def wait_s(self, time_ns: int) -> float:
        """Return the time until a moment of the recording is due, 0 or less if it is."""
        return self._start_s + (time_ns - self._start_ns) * 1e-9 - self._clock()

    def now_ns(self) -> int:
        """Return the moment of the recording that is due now."""
        return self._start_ns + round((self._clock() - self._start_s) * 1e9)
