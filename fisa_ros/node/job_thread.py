"""A thread for work that would keep the executor from its callbacks: loading a model, encoding words."""

from collections.abc import Callable
from concurrent import futures
import logging
import queue
import threading

from rclpy.callback_groups import CallbackGroup
from rclpy.node import Node
from rclpy.task import Future as RosFuture

from fisa_ros.core.errors import FisaError

_log = logging.getLogger(__name__)
_POLL_S = 0.1


class JobThread:
    """Does jobs one after the other, in the order they came."""

    def __init__(self, node: Node, group: CallbackGroup) -> None:
        """Start the thread.

        Args:
            node: Its executor runs the coroutines that await jobs.
            group: Callback group of those coroutines; it must let them overlap.
        """
        # An executor looks at an awaiting coroutine only when something wakes it up, which a future alone does not.
        self._guard = node.create_guard_condition(lambda: None, group)
        self._is_closed = False
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name='jobs', daemon=True)
        self._thread.start()

    async def result_of[T](self, job: Callable[[], T]) -> T:
        """Await a job from a coroutine that an rclpy executor runs; other callbacks go on meanwhile.

        Raises:
            FisaError: From the job; an unexpected error is logged and becomes one too.
        """
        done = RosFuture()
        answer = self._submit(job, lambda: done.set_result(None))
        await done
        error = answer.exception()
        if error is not None and not isinstance(error, FisaError):
            _log.error('unexpected error', exc_info=error)
            raise FisaError(f'unexpected error, see the log of the node: {error!r}')
        return answer.result()

    def run[T](self, job: Callable[[], T], is_shut_down: Callable[[], bool]) -> T:
        """Wait for a job; the calling thread goes on hearing signals.

        Raises:
            KeyboardInterrupt: The process is to end; the job goes on.
            Exception: From the job.
        """
        answer = self._submit(job, lambda: None)
        while not futures.wait([answer], timeout=_POLL_S).done:
            if is_shut_down():
                raise KeyboardInterrupt
        return answer.result()

    def close(self, timeout_s: float) -> None:
        """End after the job at work, dropping those that wait; give up waiting for it after the timeout."""
        self._is_closed = True
        self._jobs.put(None)
        self._thread.join(timeout_s)

    def _submit[T](self, job: Callable[[], T], on_done: Callable[[], None]) -> futures.Future[T]:
        answer: futures.Future[T] = futures.Future()

        def work() -> None:
            try:
                answer.set_result(job())
            except Exception as error:
                answer.set_exception(error)
            on_done()

        self._jobs.put(work)
        return answer

    def _run(self) -> None:
        while (work := self._jobs.get()) is not None and not self._is_closed:
            work()
            if not self._is_closed:
                self._guard.trigger()
