"""One camera: its input, its outputs and what was counted."""

from collections.abc import Callable
from dataclasses import dataclass
import logging
import time
from typing import Any

from builtin_interfaces.msg import Time
import numpy as np
from numpy.typing import NDArray
from rclpy.event_handler import SubscriptionEventCallbacks
from rclpy.lifecycle import LifecycleNode
from rclpy.publisher import Publisher
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.subscription import Subscription
from sensor_msgs.msg import Image
from std_msgs.msg import Header
from vision_msgs.msg import Detection2DArray, LabelInfo, VisionInfo

from fisa_ros.core.errors import FisaError
from fisa_ros.core.results import PanopticResult
from fisa_ros.core.thresholds import Thresholds
from fisa_ros.msg import SegmentArray
from fisa_ros.node import conversions
from fisa_ros.node.input_qos import choose_input_qos, explain_silence
from fisa_ros.node.stream_counters import StreamCounters
from fisa_ros.node.throttle import Throttle
from fisa_ros.node.vocabulary_holder import VocabularyInUse
from fisa_ros.pipeline.overlay import draw_overlay

_log = logging.getLogger(__name__)

_OUTPUT_QOS = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE)
_LATCHED_QOS = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL)
_IMAGE_TYPE = 'sensor_msgs/msg/Image'
_SILENCE_S = 5.0
_REPEAT_S = 10.0


@dataclass(frozen=True, slots=True)
class Frame:
    """An image message and the moment it arrived, on the monotonic clock."""

    msg: Image
    received_s: float


class CameraStream:
    """Receives the images of one camera and publishes what they show.

    The input lives while the node is active, the outputs while it is configured. `serve` and `announce` are called from
    the inference thread, everything else from the executor's.
    """

    def __init__(self, node: LifecycleNode, name: str, on_frame: Callable[['CameraStream', Frame], None]) -> None:
        """Prepare a stream without input and outputs.

        Args:
            node: Owns the topics.
            name: Put in front of every topic; empty for a single camera.
            on_frame: Called for each image that arrives.
        """
        self._node = node
        self._prefix = f'{name}/' if name else ''
        self._on_frame = on_frame
        self._outputs: dict[str, Publisher] = {}
        self._input: Subscription | None = None
        self._input_qos = choose_input_qos([])
        self._announced_version = 0
        self._announced_method = ''
        self._last_heard_s = 0.0
        self._silence_throttle = Throttle(_REPEAT_S)
        self._refusal_throttle = Throttle(_REPEAT_S)
        self.counters = StreamCounters()

    @property
    def topic(self) -> str:
        """Full name of the input topic."""
        return str(self._node.resolve_topic_name(f'{self._prefix}image'))

    def open_outputs(self) -> None:
        """Create the publishers."""
        for name, msg_type, qos in (
            ('mask', Image, _OUTPUT_QOS),
            ('instances', Image, _OUTPUT_QOS),
            ('confidence', Image, _OUTPUT_QOS),
            ('overlay', Image, _OUTPUT_QOS),
            ('segments', SegmentArray, _OUTPUT_QOS),
            ('detections', Detection2DArray, _OUTPUT_QOS),
            ('label_info', LabelInfo, _LATCHED_QOS),
            ('vision_info', VisionInfo, _LATCHED_QOS),
        ):
            self._outputs[name] = self._node.create_publisher(msg_type, f'{self._prefix}segmentation/{name}', qos)
        self._announced_version, self._announced_method = 0, ''

    def close_outputs(self) -> None:
        """Destroy the publishers."""
        while self._outputs:
            self._node.destroy_publisher(self._outputs.popitem()[1])

    def open_input(self) -> None:
        """Begin to receive images."""
        self._last_heard_s = time.monotonic()
        self._subscribe(choose_input_qos(self._find_publishers()))

    def close_input(self) -> None:
        """Stop receiving images."""
        if self._input is not None:
            self._node.destroy_subscription(self._input)
            self._input = None

    def check_input(self) -> None:
        """Warn if nothing arrives."""
        silent_s = time.monotonic() - self._last_heard_s
        if self._input is not None and silent_s >= _SILENCE_S and self._silence_throttle.is_due():
            publishers = self._find_publishers()
            _log.warning(explain_silence(self.topic, _IMAGE_TYPE, self._input_qos, publishers, silent_s))

    def announce(self, in_use: VocabularyInUse, score_threshold: float, stamp: Time) -> None:
        """Publish the names of the class ids, and by what they are found, unless they were published before."""
        header = Header(stamp=stamp)
        vocabulary, backend = in_use.vocabulary, in_use.segmenter.backend
        method = f'{in_use.segmenter.manifest.name} ({backend.name} on {backend.device})'
        is_same = self._announced_version == vocabulary.version
        if not is_same:
            self._outputs['label_info'].publish(conversions.label_info_to_msg(vocabulary, score_threshold, header))
        if not is_same or self._announced_method != method:
            label_topic = self._outputs['label_info'].topic_name
            message = conversions.vision_info_to_msg(vocabulary, method, label_topic, header)
            self._outputs['vision_info'].publish(message)
        self._announced_version, self._announced_method = vocabulary.version, method

    def serve(self, frame: Frame, in_use: VocabularyInUse, thresholds: Thresholds, mask_encoding: str) -> None:
        """Segment one frame and publish the result; a frame that cannot be used is counted and logged."""
        started_s = time.monotonic()
        try:
            image = conversions.image_from_msg(frame.msg)
            result = in_use.segmenter.segment(image, in_use.state, thresholds)
        except FisaError as error:
            self.count_refusal(f'{frame.msg.encoding} image on {self.topic} refused: {error}')
            return
        segmented_s = time.monotonic()
        self._publish(frame.msg.header, image, result, mask_encoding)
        self.counters.add_answer(
            latency_s=time.monotonic() - frame.received_s,
            inference_s=segmented_s - started_s,
            age_s=self._age_s(frame.msg.header.stamp),
        )

    def count_refusal(self, text: str) -> None:
        """Count a frame that could not be used, and log why unless that happened a moment ago."""
        self.counters.add_refusal(text)
        if self._refusal_throttle.is_due():
            _log.error(f'{text} ({self.counters.refused} so far)')

    def _publish(self, header: Header, image: NDArray[np.uint8], result: PanopticResult, mask_encoding: str) -> None:
        makers: dict[str, Callable[[], Any]] = {
            'mask': lambda: conversions.mask_to_msg(result, mask_encoding, header),
            'instances': lambda: conversions.image_to_msg(result.panoptic_map, 'mono16', header),
            'confidence': lambda: conversions.image_to_msg(result.confidence_map, 'mono8', header),
            'segments': lambda: conversions.segments_to_msg(result, header),
            'detections': lambda: conversions.detections_to_msg(result, header),
            'overlay': lambda: conversions.image_to_msg(draw_overlay(image, result), 'rgb8', header),
        }
        for name, make in makers.items():
            publisher = self._outputs[name]
            if publisher.get_subscription_count():
                publisher.publish(make())

    def _subscribe(self, qos: QoSProfile) -> None:
        self.close_input()
        self._input_qos = qos
        events = SubscriptionEventCallbacks(matched=self._follow_publishers, incompatible_qos=self._follow_publishers)
        self._input = self._node.create_subscription(
            Image, f'{self._prefix}image', self._receive, qos, event_callbacks=events
        )

    def _follow_publishers(self, _: object) -> None:
        publishers = self._find_publishers()
        qos = choose_input_qos(publishers)
        if self._input is not None and publishers and qos.reliability != self._input_qos.reliability:
            self._subscribe(qos)

    def _receive(self, msg: Image) -> None:
        self._last_heard_s = time.monotonic()
        self._on_frame(self, Frame(msg, self._last_heard_s))

    def _find_publishers(self) -> list[Any]:
        return list(self._node.get_publishers_info_by_topic(self.topic))

    def _age_s(self, stamp: Time) -> float:
        now = self._node.get_clock().now().to_msg()
        return float(now.sec - stamp.sec + (now.nanosec - stamp.nanosec) * 1e-9)
