"""What waits for the inference thread: the newest frame of each camera, and requests."""

from collections import deque
import threading
from typing import NamedTuple


class Taken[K, T](NamedTuple):
    """A frame and the camera it came from, or a request and None."""

    key: K | None
    frame: T


class LatestFrames[K, T]:
    """Keeps the newest waiting frame of each camera, and every request, for the one thread that takes them.

    A frame that is still waiting when the next one comes is replaced. The camera that waited longest comes first;
    requests come in their order and take turns with the cameras, so that neither keeps the other waiting for long.
    """

    def __init__(self) -> None:
        self._condition = threading.Condition()
        # In order of the time since when a frame of the camera has been waiting.
        self._waiting: dict[K, T] = {}
        self._requests: deque[T] = deque()
        self._is_requests_turn = True
        self._is_woken = False

    def put(self, key: K, frame: T) -> bool:
        """Leave a frame; return True if it replaced one that nobody will see now."""
        with self._condition:
            is_replaced = key in self._waiting
            self._waiting[key] = frame
            self._condition.notify()
        return is_replaced

    def put_request(self, request: T, limit: int) -> bool:
        """Leave a request; return False if `limit` requests wait already."""
        with self._condition:
            if len(self._requests) >= limit:
                return False
            self._requests.append(request)
            self._condition.notify()
        return True

    def take(self, timeout_s: float | None = None) -> Taken[K, T] | None:
        """Wait for a frame or a request and take it; return None after `wake`, or when none came in time."""
        with self._condition:
            self._condition.wait_for(lambda: self._waiting or self._requests or self._is_woken, timeout_s)
            if self._is_woken or not (self._waiting or self._requests):
                self._is_woken = False
                return None
            if self._requests and (self._is_requests_turn or not self._waiting):
                self._is_requests_turn = False
                return Taken(None, self._requests.popleft())
            self._is_requests_turn = True
            key = next(iter(self._waiting))
            return Taken(key, self._waiting.pop(key))

    def wake(self) -> None:
        """Let the next or the waiting `take` return None."""
        with self._condition:
            self._is_woken = True
            self._condition.notify()

    def clear(self) -> list[K]:
        """Forget the waiting frames; return the cameras they came from."""
        with self._condition:
            keys = list(self._waiting)
            self._waiting.clear()
        return keys

    def clear_requests(self) -> list[T]:
        """Remove and return the waiting requests."""
        with self._condition:
            requests = list(self._requests)
            self._requests.clear()
        return requests
