"""Messages of several topics put together by their stamps, as ROS's message_filters does.

Queues, the order of decisions and so the outputs are those of its policies ExactTime and ApproximateTime in Jazzy, with
the age penalty of 0.1 and no lower bounds of rates.
"""

from collections.abc import Callable
from typing import Any, Protocol

_AGE_PENALTY = 0.1


class TimeSync(Protocol):
    """Calls back with one message of each topic."""

    def add(self, topic: int, stamp_ns: int, msg: Any) -> None: ...


class ExactTime:
    """Puts messages with the very same stamp together."""

    def __init__(self, num_topics: int, queue_size: int, on_set: Callable[..., None]) -> None:
        self._num_topics = num_topics
        self._queue_size = queue_size
        self._on_set = on_set
        self._waiting: dict[int, dict[int, Any]] = {}

    def add(self, topic: int, stamp_ns: int, msg: Any) -> None:
        found = self._waiting.setdefault(stamp_ns, {})
        found[topic] = msg
        if len(found) == self._num_topics:
            # What is older will never be complete.
            self._waiting = {stamp: msgs for stamp, msgs in self._waiting.items() if stamp > stamp_ns}
            self._on_set(*(found[number] for number in range(self._num_topics)))
        while len(self._waiting) > self._queue_size:
            del self._waiting[min(self._waiting)]


class ApproximateTime:
    """Puts messages together so that their stamps spread least; each message is used once.

    A queue holds what came since the last set. Its cursor parts what was looked at during the search from what is next.
    The pivot is the topic whose message was last when the search began: every better set has that message in it.
    """

    def __init__(
        self, num_topics: int, queue_size: int, on_set: Callable[..., None], max_interval_ns: float = float('inf')
    ) -> None:
        self._queue_size = queue_size
        self._on_set = on_set
        self._max_interval_ns = max_interval_ns
        self._queues: list[list[tuple[int, Any]]] = [[] for _ in range(num_topics)]
        self._cursors = [0] * num_topics
        self._has_dropped = [False] * num_topics
        self._pivot: int | None = None
        self._pivot_ns = 0
        self._candidate: list[Any] = []
        self._interval_ns = (0, 0)

    def add(self, topic: int, stamp_ns: int, msg: Any) -> None:
        queue = self._queues[topic]
        queue.append((stamp_ns, msg))
        if len(queue) - self._cursors[topic] == 1:
            self._search()
        if len(queue) > self._queue_size:
            self._cursors = [0] * len(self._queues)
            del queue[0]
            self._has_dropped[topic] = True
            if self._pivot is not None:
                self._pivot = None
                self._search()

    def _heads(self) -> list[tuple[int, Any]] | None:
        pairs = list(zip(self._queues, self._cursors, strict=True))
        return [queue[cursor] for queue, cursor in pairs] if all(len(q) > c for q, c in pairs) else None

    def _search(self) -> None:
        while heads := self._heads():
            first, last, interval_ns = _ends([stamp for stamp, _ in heads])
            for topic in range(len(heads)):
                if topic != last:
                    self._has_dropped[topic] = False
            if self._pivot is None:
                if interval_ns[1] - interval_ns[0] > self._max_interval_ns or self._has_dropped[last]:
                    del self._queues[first][0]
                    continue
                self._take(heads, interval_ns)
                self._pivot, self._pivot_ns = last, interval_ns[1]
            elif self._excess_ns(interval_ns) < interval_ns[0] - self._interval_ns[0]:
                self._take(heads, interval_ns)
            self._cursors[first] += 1
            if first == self._pivot or self._is_best(interval_ns) or self._is_best_whatever_comes():
                self._give()

    def _take(self, heads: list[tuple[int, Any]], interval_ns: tuple[int, int]) -> None:
        """Prefer these messages; what was looked at before is of no more use."""
        self._candidate = [msg for _, msg in heads]
        self._interval_ns = interval_ns
        for queue, cursor in zip(self._queues, self._cursors, strict=True):
            del queue[:cursor]
        self._cursors = [0] * len(self._queues)

    def _give(self) -> None:
        candidate, self._candidate, self._pivot = self._candidate, [], None
        for queue in self._queues:
            del queue[0]
        self._cursors = [0] * len(self._queues)
        self._on_set(*candidate)

    def _excess_ns(self, interval_ns: tuple[int, int]) -> float:
        return (interval_ns[1] - self._interval_ns[1]) * (1 + _AGE_PENALTY)

    def _is_best(self, interval_ns: tuple[int, int]) -> bool:
        """Tell whether every later set, which holds the pivot and this end, spreads more than the candidate."""
        return self._excess_ns(interval_ns) >= self._pivot_ns - self._interval_ns[0]

    def _is_best_whatever_comes(self) -> bool:
        """Tell the same where topics have run dry and their next messages may come as early as the pivot's."""
        if self._heads():
            return False
        cursors = list(self._cursors)
        try:
            while True:
                first, _, interval_ns = _ends(
                    [
                        queue[cursor][0] if cursor < len(queue) else max(queue[-1][0], self._pivot_ns)
                        for queue, cursor in zip(self._queues, self._cursors, strict=True)
                    ]
                )
                if self._is_best(interval_ns):
                    return True
                if self._excess_ns(interval_ns) < interval_ns[0] - self._interval_ns[0]:
                    return False
                self._cursors[first] += 1
        finally:
            self._cursors = cursors


def _ends(stamps_ns: list[int]) -> tuple[int, int, tuple[int, int]]:
    """Return the topics of the first stamp and of the last one (of equals the last topic), and these stamps."""
    topics = range(len(stamps_ns))
    first = min(topics, key=lambda topic: stamps_ns[topic])
    last = max(topics, key=lambda topic: (stamps_ns[topic], topic))
    return first, last, (stamps_ns[first], stamps_ns[last])
