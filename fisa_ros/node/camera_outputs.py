"""Everything that is published about the images of one camera."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from builtin_interfaces.msg import Time
import numpy as np
from numpy.typing import NDArray
from rclpy.lifecycle import LifecycleNode
from rclpy.publisher import Publisher
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CompressedImage, Image, PointCloud2
from std_msgs.msg import Header
from vision_msgs.msg import Detection3DArray, LabelInfo, VisionInfo
from visualization_msgs.msg import MarkerArray

from fisa_ros.core.results import PanopticResult
from fisa_ros.node import conversions, depth_messages
from fisa_ros.node.frame_messages import OUTPUT_TYPES, OVERLAY, output_makers
from fisa_ros.node.label_gate import LabelGate
from fisa_ros.node.qos_overrides import overriding_options
from fisa_ros.node.segment_parameters import CameraParameters
from fisa_ros.node.vocabulary_holder import VocabularyInUse
from fisa_ros.pipeline.boxes_3d import find_boxes
from fisa_ros.pipeline.camera_model import Rays
from fisa_ros.pipeline.depth_points import labelled_points
from fisa_ros.pipeline.overlay import draw_overlay
from fisa_ros.pipeline.reduced import reduce_map, reduce_result, reduced_size

_QOS = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE)
_LATCHED_QOS = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL)
# Those that waited for labels are sent at once, as many as the queue of a publisher holds.
_MASK_QOS = QoSProfile(depth=10, reliability=ReliabilityPolicy.RELIABLE)
_MASKS = ('mask', 'reduced/mask')
_OUTPUTS: dict[str, tuple[type, QoSProfile]] = {
    **{name: (msg_type, _MASK_QOS if name in _MASKS else _QOS) for name, msg_type in OUTPUT_TYPES.items()},
    'overlay/compressed': (CompressedImage, _QOS),
    'label_info': (LabelInfo, _LATCHED_QOS),
    'vision_info': (VisionInfo, _LATCHED_QOS),
}
_DEPTH_OUTPUTS: dict[str, tuple[type, QoSProfile]] = {
    'points': (PointCloud2, _QOS),
    'detections_3d': (Detection3DArray, _QOS),
    'markers': (MarkerArray, _QOS),
}
_REDUCED_OUTPUTS: dict[str, tuple[type, QoSProfile]] = {
    'reduced/mask': (Image, _MASK_QOS),
    'reduced/confidence': (Image, _QOS),
}
_REDUCED_DEPTH_OUTPUTS: dict[str, tuple[type, QoSProfile]] = {'reduced/points': (PointCloud2, _QOS)}


@dataclass(frozen=True, slots=True)
class Segmented:
    """An image and what it shows.

    Attributes:
        image: `(H, W, 3)` uint8 rgb.
        result: Its segmentation.
        header: Of the image; every message about it has the same.
    """

    image: NDArray[np.uint8]
    result: PanopticResult
    header: Header


class CameraOutputs:
    """The publishers of one camera; each message is made only while somebody listens.

    `open` and `close` are called from the executor's thread while nothing is published, the rest from one other thread.
    """

    def __init__(self, node: LifecycleNode, name: str, parameters: CameraParameters) -> None:
        """Prepare outputs without publishers.

        Args:
            node: Owns the topics.
            name: Of the camera, put in front of every topic; may be empty.
            parameters: Of the camera.
        """
        self._node = node
        self._name = name
        self._reduced_width = parameters.reduced_width
        self._outputs = _OUTPUTS | (_DEPTH_OUTPUTS if parameters.depth else {})
        if parameters.reduced_width:
            self._outputs |= _REDUCED_OUTPUTS | (_REDUCED_DEPTH_OUTPUTS if parameters.depth else {})
        self._publishers: dict[str, Publisher] = {}
        self._gate = LabelGate()
        # Masks that wait for their labels to arrive, oldest first.
        self._held: dict[str, deque[Any]] = {name: deque(maxlen=_MASK_QOS.depth) for name in _MASKS}
        self._announced_version = 0
        self._announced_method = ''

    def open(self) -> None:
        """Create the publishers.

        Raises:
            FisaError: An override of the quality of service has a value that does not exist.
        """
        prefix = f'{self._name}/' if self._name else ''
        for name, (msg_type, qos) in self._outputs.items():
            topic = f'{prefix}segmentation/{name}'
            options = overriding_options(self._node, self._node.resolve_topic_name(topic), 'publisher')
            # rclpy writes the overrides into the profile that it is given.
            own_qos = QoSProfile(depth=qos.depth, reliability=qos.reliability, durability=qos.durability)
            events = {'label_info': self._gate.label_events, **dict.fromkeys(_MASKS, self._gate.mask_events)}.get(name)
            self._publishers[name] = self._node.create_publisher(
                msg_type, topic, own_qos, event_callbacks=events, qos_overriding_options=options
            )
        self._announced_version, self._announced_method = 0, ''

    def close(self) -> None:
        """Destroy the publishers."""
        self.forget_waiting()
        while self._publishers:
            self._node.destroy_publisher(self._publishers.popitem()[1])

    def announce(self, in_use: VocabularyInUse, score_threshold: float, stamp: Time) -> None:
        """Publish the names of the class ids, and by what they are found, unless they were published before."""
        header = Header(stamp=stamp)
        vocabulary, method = in_use.vocabulary, in_use.segmenter.method
        is_same = self._announced_version == vocabulary.version
        if not is_same:
            self._publishers['label_info'].publish(conversions.label_info_to_msg(vocabulary, score_threshold, header))
            # What waits has ids of the old words, and would come after the new ones.
            self.forget_waiting()
            self._gate.note_labels()
        if not is_same or self._announced_method != method:
            label_topic = self._publishers['label_info'].topic_name
            message = conversions.vision_info_to_msg(vocabulary, method, label_topic, header)
            self._publishers['vision_info'].publish(message)
        self._announced_version, self._announced_method = vocabulary.version, method

    def publish(self, segmented: Segmented, mask_encoding: str) -> None:
        """Publish what an image shows; `mask_encoding` is mono8 or mono16."""
        image, result, header = segmented.image, segmented.result, segmented.header
        makers = output_makers(image, result, mask_encoding, header)
        self._send(*((name, make) for name, make in makers.items() if name != OVERLAY))
        if self._is_wanted(*_REDUCED_OUTPUTS):
            reduced = reduce_result(result, self._reduced_width)
            self._send(
                ('reduced/mask', lambda: conversions.mask_to_msg(reduced, mask_encoding, header)),
                ('reduced/confidence', lambda: conversions.image_to_msg(reduced.confidence_map, 'mono8', header)),
            )
        if self._is_wanted(OVERLAY, 'overlay/compressed'):
            overlay = draw_overlay(image, result)
            self._send(
                (OVERLAY, lambda: conversions.image_to_msg(overlay, 'rgb8', header)),
                ('overlay/compressed', lambda: conversions.image_to_jpeg_msg(overlay, header)),
            )

    def wants_depth(self) -> bool:
        """Return True if somebody listens to what takes depth."""
        return self._is_wanted(*_DEPTH_OUTPUTS, *_REDUCED_DEPTH_OUTPUTS)

    def publish_depth(self, segmented: Segmented, depth: NDArray[np.float32], rays: Rays) -> None:
        """Publish points and things in space.

        Args:
            segmented: An image and what it shows.
            depth: `(H, W)` float32 m, NaN where there is none.
            rays: Of the camera, see `CameraModel.rays`.
        """
        image, result, header = segmented.image, segmented.result, segmented.header
        if self._is_wanted('points', 'reduced/points'):
            cloud = labelled_points(depth, rays, image, result)
            self._send(
                ('points', lambda: depth_messages.points_to_msg(cloud, header)),
                ('reduced/points', lambda: depth_messages.points_to_msg(self._reduce_cloud(cloud), header)),
            )
        if self._is_wanted('detections_3d', 'markers'):
            boxes = find_boxes(depth, rays, result)
            self._send(
                ('detections_3d', lambda: depth_messages.detections_3d_to_msg(boxes, header)),
                ('markers', lambda: depth_messages.markers_to_msg(boxes, header, namespace=self._name)),
            )

    @property
    def is_holding(self) -> bool:
        """True while masks wait for their labels to arrive; `release` must be called soon."""
        return any(self._held.values())

    def release(self) -> None:
        """Publish the masks that waited, if they need not wait any longer."""
        if self.is_holding and self._is_gate_open():
            for name, messages in self._held.items():
                while messages:
                    self._publishers[name].publish(messages.popleft())

    def forget_waiting(self) -> None:
        """Give up the masks that wait."""
        for messages in self._held.values():
            messages.clear()

    def _reduce_cloud(self, cloud: NDArray[np.void]) -> NDArray[np.void]:
        return reduce_map(cloud, reduced_size((cloud.shape[0], cloud.shape[1]), self._reduced_width))

    def _is_wanted(self, *names: str) -> bool:
        return any(name in self._publishers and self._publishers[name].get_subscription_count() for name in names)

    def _is_gate_open(self) -> bool:
        masks = [self._publishers[name] for name in _MASKS if name in self._publishers]
        return self._gate.is_open(self._publishers['label_info'], masks)

    def _send(self, *messages: tuple[str, Callable[[], Any]]) -> None:
        for name, make in messages:
            if not self._is_wanted(name):
                continue
            if name in _MASKS and (self.is_holding or not self._is_gate_open()):
                self._held[name].append(make())
            else:
                self._publishers[name].publish(make())
