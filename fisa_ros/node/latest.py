"""A place for the newest frame of each camera."""

import threading
from typing import NamedTuple


class Taken[K, T](NamedTuple):
    """A frame and the camera it came from."""

    key: K
    frame: T


class LatestFrames[K, T]:
    """Keeps the newest waiting frame of each camera for the one thread that takes them.

    A frame that is still waiting when the next one comes is replaced.
    """

    def __init__(self) -> None:
        self._condition = threading.Condition()
        # In order of the time since when a frame of the camera has been waiting.
        self._waiting: dict[K, T] = {}
        self._is_woken = False

    def put(self, key: K, frame: T) -> bool:
        """Leave a frame; return True if it replaced one that nobody will see now."""
        with self._condition:
            is_replaced = key in self._waiting
            self._waiting[key] = frame
            self._condition.notify()
        return is_replaced

    def take(self) -> Taken[K, T] | None:
        """Wait for a frame and take that of the camera that waited longest; return None after `wake`."""
        with self._condition:
            self._condition.wait_for(lambda: self._waiting or self._is_woken)
            if self._is_woken:
                self._is_woken = False
                return None
            key = next(iter(self._waiting))
            return Taken(key, self._waiting.pop(key))

    def wake(self) -> None:
        """Let the next or the waiting `take` return None."""
        with self._condition:
            self._is_woken = True
            self._condition.notify()

    def clear(self) -> None:
        """Forget the waiting frames."""
        with self._condition:
            self._waiting.clear()
