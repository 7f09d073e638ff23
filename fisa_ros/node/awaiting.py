"""Lets coroutines of an rclpy executor await what other threads do."""

from concurrent import futures
import logging

from rclpy.callback_groups import CallbackGroup
from rclpy.node import Node
from rclpy.task import Future as RosFuture

from fisa_ros.core.errors import FisaError

_log = logging.getLogger(__name__)


class Awaiting:
    """Wakes the executor when an answer is there.

    An executor looks at an awaiting coroutine only when something wakes it up, which a future alone does not.
    """

    def __init__(self, node: Node, group: CallbackGroup) -> None:
        """Create the guard condition that wakes.

        Args:
            node: Its executor runs the coroutines.
            group: Callback group of those coroutines; it must let them overlap.
        """
        self._guard = node.create_guard_condition(lambda: None, group)
        self._is_closed = False

    async def result_of[T](self, answer: futures.Future[T]) -> T:
        """Await an answer from a coroutine that an rclpy executor runs; other callbacks go on meanwhile.

        Raises:
            FisaError: The answer is one; any other exception is logged and becomes one too.
        """
        done = RosFuture()

        def wake(_: object) -> None:
            done.set_result(None)
            if not self._is_closed:
                self._guard.trigger()

        answer.add_done_callback(wake)
        await done
        error = answer.exception()
        if error is not None and not isinstance(error, FisaError):
            _log.error('unexpected error', exc_info=error)
            raise FisaError(f'unexpected error, see the log of the node: {error!r}')
        return answer.result()

    def close(self) -> None:
        """Wake no more; the node is about to be destroyed."""
        self._is_closed = True
