"""Brings results and depth images of the same moment together."""

from collections import deque
from dataclasses import dataclass
import threading

from builtin_interfaces.msg import Time

_JUMP_S = 1.0
# Long enough for slow models and slow depth; the numbers bound the memory, at any rate.
_KEPT_S = 2.0
_MAX_RESULTS = 32
_MAX_DEPTHS = 64


@dataclass(frozen=True, slots=True)
class Pair[R, D]:
    """A result and the depth image taken with it."""

    result: R
    depth: D


class StampPairing[R, D]:
    """Pairs each result with the depth image whose stamp is nearest; any thread may call.

    A result waits for its depth as long as a better one can still come: until one of its own stamp or of a later one is
    there.

    Attributes:
        unpaired: Results that were given up.
        nearest_s: How far from the last one of them the nearest depth was; None if none was there.
    """

    def __init__(self, tolerance_s: float) -> None:
        """Start empty.

        Args:
            tolerance_s: Largest difference between two stamps of a pair.
        """
        self._tolerance_s = tolerance_s
        self._lock = threading.Lock()
        self._results: deque[tuple[float, R]] = deque()
        self._depths: deque[tuple[float, D]] = deque(maxlen=_MAX_DEPTHS)
        self.unpaired = 0
        self.nearest_s: float | None = None

    def add_result(self, stamp: Time, result: R) -> None:
        """Leave a result; those that waited for too long are given up."""
        stamp_s = seconds(stamp)
        with self._lock:
            # A clock that jumped back leaves a future behind that never becomes the present.
            while self._results and self._results[-1][0] > stamp_s + _JUMP_S:
                self._results.pop()
                self.unpaired += 1
            self._results.append((stamp_s, result))
            while len(self._results) > _MAX_RESULTS or self._results[0][0] < stamp_s - _KEPT_S:
                self._results.popleft()
                self.unpaired += 1
                self.nearest_s = None

    def add_depth(self, stamp: Time, depth: D) -> bool:
        """Leave a depth image; return True if a result waits."""
        stamp_s = seconds(stamp)
        with self._lock:
            while self._depths and self._depths[-1][0] > stamp_s + _JUMP_S:
                self._depths.pop()
            self._depths.append((stamp_s, depth))
            while self._depths[0][0] < stamp_s - _KEPT_S:
                self._depths.popleft()
            return bool(self._results)

    def take_pairs(self) -> list[Pair[R, D]]:
        """Remove and return the pairs that are complete, oldest first; results without a partner are given up."""
        pairs = []
        with self._lock:
            while self._results and self._depths and self._depths[-1][0] >= self._results[0][0]:
                stamp_s, result = self._results.popleft()
                difference_s, depth = min(
                    # Of equal ones the newest, for a camera that does not stamp its images.
                    ((abs(depth_s - stamp_s), depth) for depth_s, depth in reversed(self._depths)),
                    key=lambda entry: entry[0],
                )
                if difference_s <= self._tolerance_s:
                    pairs.append(Pair(result, depth))
                else:
                    self.unpaired += 1
                    self.nearest_s = difference_s
        return pairs

    def clear(self) -> None:
        """Forget everything that waits."""
        with self._lock:
            self._results.clear()
            self._depths.clear()


def seconds(stamp: Time) -> float:
    """Return a stamp in seconds, exact to a microsecond for a century."""
    return float(stamp.sec + stamp.nanosec * 1e-9)
