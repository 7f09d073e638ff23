"""The thread that segments: one frame at a time, each with exactly one vocabulary."""

from collections.abc import Callable, Sequence
from concurrent import futures
import logging
import threading
from typing import Any

from builtin_interfaces.msg import Time

from fisa_ros.core.errors import FisaError
from fisa_ros.node.camera_stream import CameraStream, Frame
from fisa_ros.node.latest import LatestFrames, Taken
from fisa_ros.node.segment_parameters import SegmentParameters
from fisa_ros.node.throttle import Throttle
from fisa_ros.node.vocabulary_holder import VocabularyInUse

_log = logging.getLogger(__name__)

_MAX_REQUESTS = 16
_REPEAT_S = 10.0
_HOLD_POLL_S = 0.005
_STOP_POLL_S = 0.1


class FrameWorker:
    """Serves the camera that waited longest, and requests in turn with the cameras, as long as it runs.

    Before a frame made with a new vocabulary, and at once when idle, it announces the vocabulary.
    """

    def __init__(
        self,
        streams: Sequence[CameraStream],
        in_use: Callable[[], VocabularyInUse | None],
        parameters: Callable[[], SegmentParameters],
        stamp: Callable[[], Time],
        is_shut_down: Callable[[], bool],
    ) -> None:
        """Prepare a worker that does not run.

        Args:
            streams: All cameras.
            in_use: Tells the model and the vocabulary of this moment.
            parameters: Tells the parameters of this moment.
            stamp: Tells the node's time.
            is_shut_down: Tells whether the process is about to end: publishing fails then, and nothing is waited for.
        """
        self._streams = streams
        self._in_use = in_use
        self._parameters = parameters
        self._stamp = stamp
        self._is_shut_down = is_shut_down
        self._waiting: LatestFrames[CameraStream, Frame | _Request[Any]] = LatestFrames()
        self._is_stopping = False
        self._thread: threading.Thread | None = None
        self._failure_throttle = Throttle(_REPEAT_S)

    @property
    def is_running(self) -> bool:
        """True from `start` until the thread has stopped."""
        return self._thread is not None

    def put(self, stream: CameraStream, frame: Frame) -> None:
        """Leave a frame to be served, in place of one of the same camera that still waits."""
        stream.counters.add_received(is_drop=self._waiting.put(stream, frame))

    def submit[T](self, work: Callable[[VocabularyInUse, SegmentParameters], T]) -> futures.Future[T]:
        """Leave work to be done between two frames; the future tells how it ended.

        Raises:
            FisaError: The worker does not run, or too much waits already.
        """
        request = _Request(work)
        if not self.is_running:
            raise FisaError('the node is not active')
        if not self._waiting.put_request(request, _MAX_REQUESTS):
            raise FisaError(f'busy: {_MAX_REQUESTS} requests wait already')
        return request.answer

    def clear(self) -> None:
        """Forget the frames that wait; they count as dropped."""
        for stream in self._waiting.clear():
            stream.counters.add_dropped()

    def wake(self) -> None:
        """Look for a new vocabulary, and for depth that has come, without waiting for a frame."""
        self._waiting.wake()

    def start(self) -> None:
        """Begin to serve."""
        self._is_stopping = False
        self._waiting.wake()
        self._thread = threading.Thread(target=self._run, name='inference', daemon=True)
        self._thread.start()

    def stop(self, timeout_s: float | None = None) -> None:
        """End after the frame at work.

        Args:
            timeout_s: Give up waiting after this time; None waits as long as it takes, or until the process is to end.

        Raises:
            KeyboardInterrupt: The process is to end; the frame is still at work.
        """
        if self._thread is None:
            return
        self._is_stopping = True
        self.clear()
        self._waiting.wake()
        self._thread.join(_STOP_POLL_S if timeout_s is None else timeout_s)
        while timeout_s is None and self._thread.is_alive():
            if self._is_shut_down():
                raise KeyboardInterrupt
            self._thread.join(_STOP_POLL_S)
        self._thread = None
        for request in self._waiting.clear_requests():
            _fail(request, FisaError('the node has been deactivated'))

    def _run(self) -> None:
        while not self._is_stopping:
            is_holding = any(stream.is_holding for stream in self._streams)
            taken = self._waiting.take(_HOLD_POLL_S if is_holding else None)
            in_use = self._in_use()
            if self._is_stopping or in_use is None:
                if taken is not None:
                    _fail(taken.frame, FisaError('the node has been deactivated'))
                    self._count_dropped(taken)
                continue
            self._serve(in_use, taken)

    def _serve(self, in_use: VocabularyInUse, taken: 'Taken[CameraStream, Frame | _Request[Any]] | None') -> None:
        parameters = self._parameters()
        unannounced = {
            stream
            for stream in self._streams
            if not self._try(stream, lambda one: one.announce(in_use, parameters.score_threshold, self._stamp()))
        }
        if taken is not None:
            if isinstance(taken.frame, _Request):
                taken.frame.do(in_use, parameters)
            elif taken.key is None or taken.key in unannounced:
                self._count_dropped(taken)
            else:
                frame = taken.frame
                self._try(taken.key, lambda one: one.serve(frame, in_use, parameters))
        for stream in self._streams:
            self._try(stream, lambda one: one.serve_waiting())

    def _try(self, stream: CameraStream, action: Callable[[CameraStream], None]) -> bool:
        """Return False after an unexpected error, which is charged to the camera and stops nothing else."""
        try:
            action(stream)
        except Exception as error:
            if self._is_shut_down():
                self._is_stopping = True
                return False
            if self._failure_throttle.is_due():
                _log.exception(f'frame of {stream.topic} failed')
            stream.counters.add_refusal(repr(error))
            return False
        return True

    def _count_dropped(self, taken: 'Taken[CameraStream, Frame | _Request[Any]]') -> None:
        if taken.key is not None:
            taken.key.counters.add_dropped()


def _fail(frame: 'Frame | _Request[Any]', error: FisaError) -> None:
    if isinstance(frame, _Request):
        frame.answer.set_exception(error)


class _Request[T]:
    """Work for the thread, and the place for its answer."""

    def __init__(self, work: Callable[[VocabularyInUse, SegmentParameters], T]) -> None:
        self._work = work
        self.answer: futures.Future[T] = futures.Future()

    def do(self, in_use: VocabularyInUse, parameters: SegmentParameters) -> None:
        try:
            result = self._work(in_use, parameters)
        except Exception as error:
            self.answer.set_exception(error)
        else:
            self.answer.set_result(result)
