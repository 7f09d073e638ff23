"""Where the making of engines stands, for diagnostics: a state, seconds since it began, and how long it took before.

There is no percentage: the builder's own callbacks are silent for nearly all of a build.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
import threading
import time


class BuildState(StrEnum):
    """What is being done."""

    ABSENT = 'absent'
    BUILDING = 'building'
    VERIFYING = 'verifying'
    READY = 'ready'
    FAILED = 'failed'
    CANCELLED = 'cancelled'
    LOST = 'lost'


_ENDS = frozenset({BuildState.READY, BuildState.FAILED, BuildState.CANCELLED, BuildState.LOST})
_NEXT = {
    BuildState.ABSENT: {BuildState.BUILDING, BuildState.VERIFYING, BuildState.FAILED, BuildState.CANCELLED},
    BuildState.BUILDING: {BuildState.BUILDING, BuildState.VERIFYING, BuildState.FAILED, BuildState.CANCELLED},
    BuildState.VERIFYING: {BuildState.BUILDING, BuildState.READY, BuildState.FAILED, BuildState.CANCELLED},
    **{state: set[BuildState]() for state in _ENDS},
    BuildState.READY: {BuildState.LOST},
    BuildState.LOST: {BuildState.LOST},
}


@dataclass(frozen=True, slots=True)
class BuildStatus:
    """A moment of `BuildProgress`.

    Attributes:
        state: What is being done.
        what: Of which engine, or why it failed; may be empty.
        elapsed_s: Seconds in this state, or that all of it took once it has ended.
        last_duration_s: How long the same build took the last time; None if that is not known.
    """

    state: BuildState
    what: str
    elapsed_s: float
    last_duration_s: float | None

    def describe(self) -> str:
        """Say it in one line: "building fp16 encoder, 00:01:35 elapsed (last time 00:04:12)"."""
        what = f' {self.what}' if self.what and self.state not in _ENDS else ''
        text = f'{self.state}{what}, {_clock(self.elapsed_s)} elapsed'
        if self.state is BuildState.BUILDING and self.last_duration_s is not None:
            text += f' (last time {_clock(self.last_duration_s)})'
        return f'{text}: {self.what}' if self.what and self.state in _ENDS else text


class BuildProgress:
    """Told by the thread that builds, read by any other.

    Args:
        clock: Seconds that never go back.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._begun_s = self._entered_s = clock()
        self._state = BuildState.ABSENT
        self._what = ''
        self._ended_after_s = 0.0
        self._last_duration_s: float | None = None

    def enter(self, state: BuildState, what: str = '', last_duration_s: float | None = None) -> None:
        """Say what is being done from now on.

        Args:
            state: What.
            what: Of which engine, or why it failed.
            last_duration_s: How long the same took the last time.

        Raises:
            ValueError: That cannot follow what was being done.
        """
        with self._lock:
            if state not in _NEXT[self._state]:
                raise ValueError(f'a build that is {self._state} cannot become {state}')
            self._state, self._what, self._last_duration_s = state, what, last_duration_s
            self._entered_s = self._clock()
            self._ended_after_s = self._entered_s - self._begun_s

    @property
    def status(self) -> BuildStatus:
        """Where it stands now."""
        with self._lock:
            is_over = self._state in _ENDS
            elapsed_s = self._ended_after_s if is_over else self._clock() - self._entered_s
            return BuildStatus(self._state, self._what, elapsed_s, self._last_duration_s)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    return f'{minutes // 60:02}:{minutes % 60:02}:{rest:02}'
