"""A node that spins in a thread of its own, beside whatever else its process does."""

from contextlib import suppress
import threading
from types import TracebackType
from typing import Self

from rclpy.context import Context
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node


class SpinningNode:
    """Base of nodes that watch others; use it in a `with` block, before which nothing is received.

    Args:
        name: Name of the node.
    """

    def __init__(self, name: str) -> None:
        self._context = Context()
        self._context.init(args=[])
        self._node = Node(name, context=self._context)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self._node)
        self._thread = threading.Thread(target=self._spin, name=name, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._context.try_shutdown()
        self._thread.join()
        self._node.destroy_node()

    def now_ns(self) -> int:
        """Return the time on the clock that makes the stamps."""
        return int(self._node.get_clock().now().nanoseconds)

    def _spin(self) -> None:
        with suppress(ExternalShutdownException):
            self._executor.spin()
