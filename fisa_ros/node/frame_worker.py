"""The thread that segments: one frame at a time, each with exactly one vocabulary."""

from collections.abc import Callable, Sequence
import logging
import threading

from builtin_interfaces.msg import Time

from fisa_ros.node.camera_stream import CameraStream, Frame
from fisa_ros.node.latest import LatestFrames
from fisa_ros.node.segment_parameters import SegmentParameters
from fisa_ros.node.vocabulary_holder import VocabularyInUse

_log = logging.getLogger(__name__)


class FrameWorker:
    """Serves the camera that waited longest, as long as it runs.

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
            is_shut_down: Tells whether publishing fails because the process is about to end.
        """
        self._streams = streams
        self._in_use = in_use
        self._parameters = parameters
        self._stamp = stamp
        self._is_shut_down = is_shut_down
        self._frames: LatestFrames[CameraStream, Frame] = LatestFrames()
        self._is_stopping = False
        self._thread: threading.Thread | None = None

    @property
    def is_running(self) -> bool:
        """True from `start` until the thread has stopped."""
        return self._thread is not None

    def put(self, stream: CameraStream, frame: Frame) -> None:
        """Leave a frame to be served, in place of one of the same camera that still waits."""
        stream.counters.add_received(is_drop=self._frames.put(stream, frame))

    def clear(self) -> None:
        """Forget the frames that wait."""
        self._frames.clear()

    def wake(self) -> None:
        """Look for a new vocabulary without waiting for a frame."""
        self._frames.wake()

    def start(self) -> None:
        """Begin to serve."""
        self._is_stopping = False
        self._frames.wake()
        self._thread = threading.Thread(target=self._run, name='inference', daemon=True)
        self._thread.start()

    def stop(self, timeout_s: float | None = None) -> None:
        """End after the frame at work; give up waiting for it after the timeout."""
        if self._thread is None:
            return
        self._is_stopping = True
        self._frames.clear()
        self._frames.wake()
        self._thread.join(timeout_s)
        self._thread = None

    def _run(self) -> None:
        while not self._is_stopping:
            taken = self._frames.take()
            in_use = self._in_use()
            if self._is_stopping or in_use is None:
                continue
            try:
                self._serve(in_use, taken)
            except Exception as error:
                if self._is_shut_down():
                    return
                _log.exception('frame failed')
                if taken is not None:
                    taken.key.counters.add_refusal(repr(error))

    def _serve(self, in_use: VocabularyInUse, taken: tuple[CameraStream, Frame] | None) -> None:
        parameters = self._parameters()
        for stream in self._streams:
            stream.announce(in_use, parameters.score_threshold, self._stamp())
        if taken is not None:
            stream, frame = taken
            stream.serve(frame, in_use, parameters.thresholds, parameters.mask_encoding)
