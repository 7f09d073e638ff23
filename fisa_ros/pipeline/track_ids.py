"""Hands out the ids of tracks; an id that was in use rests before it means something else."""

from collections import deque

from fisa_ros.core.results import MAX_SEGMENT_ID


class IdPool:
    """Ids 1..`max_id`: one that has rested comes first, so that ids stay small, then one that was never used.

    Args:
        quarantine_s: How long an id rests after use.
        max_id: Largest id.
    """

    def __init__(self, quarantine_s: float, max_id: int = MAX_SEGMENT_ID) -> None:
        if not quarantine_s >= 0.0:
            raise ValueError(f'quarantine_s must be at least 0, got {quarantine_s}')
        self._quarantine_s = quarantine_s
        self._max_id = max_id
        self._first_unused = 1
        self._resting: deque[tuple[float, int]] = deque()

    def take(self, now_s: float) -> int:
        """Return a free id; where all are in use or rest, the one that has rested longest, for a segment must have one.

        Raises:
            ValueError: All are in use.
        """
        has_rested = bool(self._resting) and now_s - self._resting[0][0] >= self._quarantine_s
        if self._first_unused <= self._max_id and not has_rested:
            self._first_unused += 1
            return self._first_unused - 1
        if not self._resting:
            raise ValueError(f'all ids 1..{self._max_id} are in use')
        return self._resting.popleft()[1]

    def release(self, track_id: int, now_s: float) -> None:
        """Let an id rest from now on."""
        self._resting.append((now_s, track_id))

    def restart_clock(self, now_s: float) -> None:
        """Let every resting id rest anew, because the clock jumped."""
        self._resting = deque((now_s, track_id) for _, track_id in self._resting)
