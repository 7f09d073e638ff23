"""One camera: its input, its outputs and what was counted."""

from collections.abc import Callable
from dataclasses import dataclass
import logging
import sys
import time

from builtin_interfaces.msg import Time
from rclpy.lifecycle import LifecycleNode
from sensor_msgs.msg import CompressedImage, Image

from fisa_ros.core.errors import FisaError
from fisa_ros.node import conversions
from fisa_ros.node.camera_depth import CameraDepth, DepthReport
from fisa_ros.node.camera_outputs import CameraOutputs, Segmented
from fisa_ros.node.segment_parameters import CameraParameters, SegmentParameters
from fisa_ros.node.stamp_pairing import seconds
from fisa_ros.node.stream_counters import StreamCounters, StreamReport
from fisa_ros.node.throttle import Throttle
from fisa_ros.node.topic_input import TopicInput
from fisa_ros.node.vocabulary_holder import VocabularyInUse
from fisa_ros.pipeline.tracking import Tracker, TrackerOptions

_log = logging.getLogger(__name__)

_REPEAT_S = 10.0


@dataclass(frozen=True, slots=True)
class Frame:
    """An image message and the moment it arrived, on the monotonic clock."""

    msg: Image | CompressedImage
    received_s: float


class CameraStream:
    """Receives the images of one camera and publishes what they show.

    The input lives while the node is active, the outputs while it is configured. `announce`, `serve`, `is_holding` and
    `serve_waiting` are called from the inference thread, everything else from the executor's.
    """

    def __init__(
        self,
        node: LifecycleNode,
        name: str,
        parameters: CameraParameters,
        id_quarantine_s: float,
        on_frame: Callable[['CameraStream', Frame], None],
        on_depth: Callable[[], None],
    ) -> None:
        """Prepare a stream without input and outputs.

        Args:
            node: Owns the topics.
            name: Put in front of every topic; empty for a single camera.
            parameters: Of the camera.
            id_quarantine_s: Time for which the id of a track that ended means nothing else.
            on_frame: Called for each image that arrives.
            on_depth: Called when `serve_waiting` may have something to do.
        """
        prefix = f'{name}/' if name else ''
        self._node = node
        self._name = name
        self._on_frame = on_frame
        self._outputs = CameraOutputs(node, name, parameters)
        self._depth = CameraDepth(node, prefix, self._outputs, parameters, on_depth) if parameters.depth else None
        self._tracker = (
            Tracker(TrackerOptions(id_quarantine_s=min(id_quarantine_s, sys.float_info.max)))
            if parameters.tracking
            else None
        )
        topic, msg_type = f'{prefix}image', Image
        if parameters.image_transport == 'compressed':
            # As image_transport has it: what is remapped is the name without the transport.
            topic, msg_type = f'{node.resolve_topic_name(topic)}/compressed', CompressedImage
        self._input = TopicInput(node, topic, msg_type, self._receive, advice='remap `image`')
        self._refusal_throttle = Throttle(_REPEAT_S)
        self.counters = StreamCounters()

    @property
    def topic(self) -> str:
        """Full name of the input topic."""
        return self._input.topic

    @property
    def label(self) -> str:
        """What tells this camera from all others: its topic, and its name where the topic is not made of it."""
        is_own = not self._name or f'/{self._name}/' in self.topic
        return self.topic if is_own else f'{self.topic} ({self._name})'

    def open_outputs(self) -> None:
        """Create the publishers."""
        self._outputs.open()

    def close_outputs(self) -> None:
        """Destroy the publishers."""
        self._outputs.close()

    def open_input(self) -> None:
        """Begin to receive images."""
        self._input.open()
        if self._depth:
            self._depth.open()

    def close_input(self) -> None:
        """Stop receiving images."""
        self._input.close()
        if self._depth:
            self._depth.close()

    def check_input(self) -> None:
        """Warn if nothing arrives."""
        self._input.check_silence()
        if self._depth:
            self._depth.check_inputs()

    def report(self) -> tuple[StreamReport, DepthReport | None]:
        """Return what happened since the last report, and to the depth if it is used."""
        images = self.counters.report(self._input.silent_s, self._input.is_mismatched())
        return images, self._depth.report() if self._depth else None

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
        if self._tracker:
            # Time must pass for a camera that does not stamp its images, too.
            time_s = seconds(header.stamp) or frame.received_s
            result = self._tracker.update(result, time_s, in_use.vocabulary, image)
        segmented_s = time.monotonic()
        segmented = Segmented(image, result, header)
        self._outputs.publish(segmented, parameters.mask_encoding)
        if self._depth:
            self._depth.add(segmented)
        self.counters.add_answer(
            latency_s=time.monotonic() - frame.received_s,
            inference_s=segmented_s - started_s,
            age_s=self._age_s(header.stamp) if seconds(header.stamp) else None,
        )

    @property
    def is_holding(self) -> bool:
        """True while masks wait for their labels to arrive; `serve_waiting` must be called soon."""
        return self._outputs.is_holding

    def serve_waiting(self) -> None:
        """Publish what has become complete with its depth, and masks whose labels have arrived."""
        self._outputs.release()
        if self._depth:
            self._depth.serve()

    def forget_waiting(self) -> None:
        """Give up what waits to be published; only while nothing is served."""
        self._outputs.forget_waiting()
        if self._depth:
            self._depth.forget_waiting()

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
