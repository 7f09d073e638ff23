"""Watches a running segment node from outside, as any other node of a robot could."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.subscription import Subscription
from sensor_msgs.msg import CameraInfo, Image

from fisa_ros.evaluation.frame_assembly import FrameAssembly
from fisa_ros.msg import SegmentArray
from fisa_ros.node.conversions import image_from_msg, segment_from_msg
from fisa_ros.node.segment_client import SegmentClient, stamp_ns

_QOS = QoSProfile(depth=20, reliability=ReliabilityPolicy.RELIABLE)
_MAP_DTYPES: dict[str, type[np.unsignedinteger]] = {'mono8': np.uint8, 'mono16': np.uint16}


class StreamRecorder(SegmentClient):
    """A node in a thread of its own that collects answers, truth, pictures and diagnostics; use it in a `with` block.

    Attributes:
        frames: Everything received, by stamp.
        overlays: Pictures with their stamps, collected while `collect_overlays` says so.
    """

    def __init__(self, name: str = 'stream_recorder') -> None:
        """Create the node and its subscriptions; nothing is received before the `with` block."""
        super().__init__(name)
        self.frames = FrameAssembly(self.now_ns)
        self.overlays: list[tuple[int, NDArray[np.uint8]]] = []
        self._overlay_input: Subscription | None = None
        for topic, kind, callback in (
            ('camera_info', CameraInfo, lambda msg: self.frames.add_camera_frame(stamp_ns(msg))),
            ('truth/panoptic', Image, lambda msg: self.frames.add_true_map(stamp_ns(msg), _id_map(msg))),
            ('truth/segments', SegmentArray, lambda msg: self.frames.add_true_segments(stamp_ns(msg), _segments(msg))),
            ('segmentation/mask', Image, lambda msg: self.frames.add_semantic_map(stamp_ns(msg), _id_map(msg))),
            ('segmentation/instances', Image, lambda msg: self.frames.add_panoptic_map(stamp_ns(msg), _id_map(msg))),
            (
                'segmentation/segments',
                SegmentArray,
                lambda msg: self.frames.add_segments(stamp_ns(msg), _segments(msg), msg.vocabulary_version),
            ),
        ):
            self._node.create_subscription(kind, topic, callback, _QOS)

    def collect_overlays(self, is_wanted: bool) -> None:
        """Listen to the pictures or not: the node draws them only for listeners, which costs it time."""
        self._executor.create_task(self._follow_overlays, is_wanted)

    def _keep_overlay(self, msg: Image) -> None:
        self.overlays.append((stamp_ns(msg), image_from_msg(msg)))

    def _follow_overlays(self, is_wanted: bool) -> None:
        if is_wanted and self._overlay_input is None:
            self._overlay_input = self._node.create_subscription(
                Image, 'segmentation/overlay', self._keep_overlay, _QOS
            )
        elif not is_wanted and self._overlay_input is not None:
            self._node.destroy_subscription(self._overlay_input)
            self._overlay_input = None


def _id_map(msg: Image) -> NDArray[np.unsignedinteger]:
    return np.frombuffer(msg.data, _MAP_DTYPES[msg.encoding]).reshape(msg.height, msg.width)


def _segments(msg: SegmentArray) -> tuple[Any, ...]:
    return tuple(segment_from_msg(segment) for segment in msg.segments)
