"""One camera: its input, its outputs and what was counted."""

from collections.abc import Callable
from dataclasses import dataclass
import logging
import time

from builtin_interfaces.msg import Time
from rclpy.lifecycle import LifecycleNode
from sensor_msgs.msg import CompressedImage, Image

from fisa_ros.core.errors import FisaError
from fisa_ros.node import conversions
from fisa_ros.node.camera_outputs import CameraOutputs
from fisa_ros.node.segment_parameters import CameraParameters, SegmentParameters
from fisa_ros.node.stream_counters import StreamCounters, StreamReport
from fisa_ros.node.throttle import Throttle
from fisa_ros.node.topic_input import TopicInput
from fisa_ros.node.vocabulary_holder import VocabularyInUse

_log = logging.getLogger(__name__)

_REPEAT_S = 10.0


@dataclass(frozen=True, slots=True)
class Frame:
    """An image message and the moment it arrived, on the monotonic clock."""

    msg: Image | CompressedImage
    received_s: float


class CameraStream:
    """Receives the images of one camera and publishes what they show.

    The input lives while the node is active, the outputs while it is configured. `announce`, `serve` and `serve_depth`
    are called from the inference thread, everything else from the executor's.
    """

    def __init__(
        self,
        node: LifecycleNode,
        name: str,
        parameters: Callable[[], CameraParameters],
        on_frame: Callable[['CameraStream', Frame], None],
    ) -> None:
        """Prepare a stream without input and outputs.

        Args:
            node: Owns the topics.
            name: Put in front of every topic; empty for a single camera.
            parameters: Tells the camera's parameters of this moment.
            on_frame: Called for each image that arrives.
        """
        prefix = f'{name}/' if name else ''
        self._node = node
        self._parameters = parameters
        self._on_frame = on_frame
        self._outputs = CameraOutputs(node, prefix)
        topic, msg_type = f'{prefix}image', Image
        if parameters().image_transport == 'compressed':
            # As image_transport has it: what is remapped is the name without the transport.
            topic, msg_type = f'{node.resolve_topic_name(topic)}/compressed', CompressedImage
        self._input = TopicInput(node, topic, msg_type, self._receive)
        self._refusal_throttle = Throttle(_REPEAT_S)
        self.counters = StreamCounters()

    @property
    def topic(self) -> str:
        """Full name of the input topic."""
        return self._input.topic

    def open_outputs(self) -> None:
        """Create the publishers."""
        self._outputs.open()

    def close_outputs(self) -> None:
        """Destroy the publishers."""
        self._outputs.close()

    def open_input(self) -> None:
        """Begin to receive images."""
        self._input.open()

    def close_input(self) -> None:
        """Stop receiving images."""
        self._input.close()

    def check_input(self) -> None:
        """Warn if nothing arrives."""
        self._input.check_silence()

    def report(self) -> StreamReport:
        """Return what happened since the last report."""
        return self.counters.report(self._input.silent_s, self._input.is_mismatched())

    def announce(self, in_use: VocabularyInUse, score_threshold: float, stamp: Time) -> None:
        """Publish the names of the class ids, and by what they are found, unless they were published before."""
        self._outputs.announce(in_use, score_threshold, stamp)

    def serve(self, frame: Frame, in_use: VocabularyInUse, parameters: SegmentParameters) -> None:
        """Segment one frame and publish the result; a frame that cannot be used is counted and logged."""
        started_s = time.monotonic()
        header = frame.msg.header
        try:
            image = conversions.image_from_msg(frame.msg)
            result = in_use.segmenter.segment(image, in_use.state, parameters.thresholds)
        except FisaError as error:
            kind = frame.msg.encoding if isinstance(frame.msg, Image) else 'compressed'
            self.count_refusal(f'{kind} image on {self.topic} refused: {error}')
            return
        segmented_s = time.monotonic()
        self._outputs.publish(image, result, parameters.mask_encoding, header)
        self.counters.add_answer(
            latency_s=time.monotonic() - frame.received_s,
            inference_s=segmented_s - started_s,
            age_s=self._age_s(header.stamp),
        )

    def serve_depth(self) -> None:
        """Publish what has become complete with its depth."""

    def count_refusal(self, text: str) -> None:
        """Count a frame that could not be used, and log why unless that happened a moment ago."""
        self.counters.add_refusal(text)
        if self._refusal_throttle.is_due():
            _log.error(f'{text} ({self.counters.refused} so far)')

    def _receive(self, msg: Image | CompressedImage) -> None:
        self._on_frame(self, Frame(msg, time.monotonic()))

    def _age_s(self, stamp: Time) -> float:
        now = self._node.get_clock().now().to_msg()
        return float(now.sec - stamp.sec + (now.nanosec - stamp.nanosec) * 1e-9)
