"""A thread for work that would keep the executor from its callbacks: loading a model, encoding words."""

from collections.abc import Callable
from concurrent import futures
import queue
import threading

_POLL_S = 0.1


class JobThread:
    """Does jobs one after the other, in the order they came."""

    def __init__(self) -> None:
        """Start the thread."""
        self._is_closed = False
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name='jobs', daemon=True)
        self._thread.start()

    def submit[T](self, job: Callable[[], T]) -> futures.Future[T]:
        """Leave a job; the future tells how it ended."""
        answer: futures.Future[T] = futures.Future()

        def work() -> None:
            try:
                result = job()
            except Exception as error:
                answer.set_exception(error)
            else:
                answer.set_result(result)

        self._jobs.put(work)
        return answer

    def run[T](self, job: Callable[[], T], is_shut_down: Callable[[], bool]) -> T:
        """Wait for a job; the calling thread goes on hearing signals.

        Raises:
            KeyboardInterrupt: The process is to end; the job goes on.
            Exception: From the job.
        """
        answer = self.submit(job)
        while not futures.wait([answer], timeout=_POLL_S).done:
            if is_shut_down():
                raise KeyboardInterrupt
        return answer.result()

    def close(self, timeout_s: float) -> None:
        """End after the job at work, dropping those that wait; give up waiting for it after the timeout."""
        self._is_closed = True
        self._jobs.put(None)
        self._thread.join(timeout_s)

    def _run(self) -> None:
        while (work := self._jobs.get()) is not None and not self._is_closed:
            work()
