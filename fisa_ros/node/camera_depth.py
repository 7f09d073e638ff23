"""The depth of one camera: brought together with what the images show."""

from collections.abc import Callable
from dataclasses import dataclass
import logging
import threading

from rclpy.lifecycle import LifecycleNode
from sensor_msgs.msg import CameraInfo, Image

from fisa_ros.core.errors import FisaError, ImageError
from fisa_ros.node.camera_outputs import CameraOutputs, Segmented
from fisa_ros.node.depth_messages import camera_model_from_msg, depth_from_msg
from fisa_ros.node.segment_parameters import CameraParameters
from fisa_ros.node.stamp_pairing import StampPairing
from fisa_ros.node.throttle import Throttle
from fisa_ros.node.topic_input import TopicInput
from fisa_ros.pipeline.depth_points import check_registered

_log = logging.getLogger(__name__)

_REPEAT_S = 10.0


@dataclass(frozen=True, slots=True)
class DepthReport:
    """What became of the depth images of one camera.

    Attributes:
        received: Depth images that arrived.
        published: Frames whose points were published.
        unpaired: Frames for which no depth of their moment came.
        refused: Frames whose depth could not be used.
        recently_published: Frames whose points were published since the last report.
        recently_unpaired: Frames without depth since the last report.
        recently_refused: Frames whose depth was refused since the last report.
        nearest_s: How far from the stamp of the last frame without depth the nearest depth was; None if none came.
        silent_s: Seconds since the last depth image.
        last_error: Why the last one was refused; empty if there was none.
    """

    received: int
    published: int
    unpaired: int
    refused: int
    recently_published: int
    recently_unpaired: int
    recently_refused: int
    nearest_s: float | None
    silent_s: float
    last_error: str


class CameraDepth:
    """Receives depth and calibration, and publishes points and things in space for the frames they belong to.

    The inputs are used from the executor's thread; `add` and `serve` from the thread that segments.
    """

    def __init__(
        self,
        node: LifecycleNode,
        prefix: str,
        outputs: CameraOutputs,
        parameters: CameraParameters,
        on_depth: Callable[[], None],
    ) -> None:
        """Prepare inputs that do not receive.

        Args:
            node: Owns the topics.
            prefix: Put in front of the topics.
            outputs: Publish what is found.
            parameters: Of the camera.
            on_depth: Called when `serve` may have something to do.
        """
        self._outputs = outputs
        self._is_rectified = parameters.rectified
        self._on_depth = on_depth
        self._depth = TopicInput(node, f'{prefix}depth', Image, self._receive_depth, advice='remap `depth`')
        self._info = TopicInput(
            node, f'{prefix}camera_info', CameraInfo, self._receive_info, advice='remap `camera_info`', is_stream=False
        )
        self._pairing: StampPairing[Segmented, Image] = StampPairing(parameters.depth_tolerance_s)
        self._newest_info: CameraInfo | None = None
        self._refusal_throttle = Throttle(_REPEAT_S)
        self._lock = threading.Lock()
        self._received = self._published = self._refused = 0
        self._reported = (0, 0, 0)
        self._last_error = ''

    def open(self) -> None:
        """Begin to receive."""
        self._depth.open()
        self._info.open()

    def close(self) -> None:
        """Stop receiving."""
        self._depth.close()
        self._info.close()

    def check_inputs(self) -> None:
        """Warn if nothing arrives."""
        self._depth.check_silence()
        self._info.check_silence()

    def add(self, segmented: Segmented) -> None:
        """Leave a frame that waits for its depth, if anybody wants to know."""
        if self._outputs.wants_depth():
            self._pairing.add_result(segmented.header.stamp, segmented)

    def serve(self) -> None:
        """Publish the frames whose depth is there."""
        for pair in self._pairing.take_pairs():
            try:
                self._publish(pair.result, pair.depth)
            except FisaError as error:
                self._refuse(f'depth on {self._depth.topic} refused: {error}')
            else:
                with self._lock:
                    self._published += 1

    def forget_waiting(self) -> None:
        """Give up the frames that wait for depth, and the depth that waits for frames."""
        self._pairing.clear()

    def report(self) -> DepthReport:
        """Return the totals and what happened since the last report."""
        with self._lock:
            unpaired = self._pairing.unpaired
            before, self._reported = self._reported, (self._published, unpaired, self._refused)
            return DepthReport(
                received=self._received,
                published=self._published,
                unpaired=unpaired,
                refused=self._refused,
                recently_published=self._published - before[0],
                recently_unpaired=unpaired - before[1],
                recently_refused=self._refused - before[2],
                nearest_s=self._pairing.nearest_s,
                silent_s=self._depth.silent_s,
                last_error=self._last_error,
            )

    def _publish(self, segmented: Segmented, msg: Image) -> None:
        info = self._newest_info
        if info is None:
            raise ImageError(f'no camera_info has come on {self._info.topic}')
        camera = camera_model_from_msg(info, is_rectified=self._is_rectified)
        depth = depth_from_msg(msg)
        height, width = segmented.result.panoptic_map.shape
        check_registered(depth.shape, camera.size_wh, (height, width))
        self._outputs.publish_depth(segmented, depth, camera.rays)

    def _refuse(self, text: str) -> None:
        with self._lock:
            self._refused += 1
            self._last_error = text
            count = self._refused
        if self._refusal_throttle.is_due():
            _log.error(f'{text} ({count} so far)')

    def _receive_depth(self, msg: Image) -> None:
        with self._lock:
            self._received += 1
        if self._pairing.add_depth(msg.header.stamp, msg):
            self._on_depth()

    def _receive_info(self, msg: CameraInfo) -> None:
        self._newest_info = msg
