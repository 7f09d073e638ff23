"""Sends images to a running segment node and takes the time until each is answered."""

from collections.abc import Sequence
from dataclasses import dataclass, field
import time

from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticArray
import numpy as np
from numpy.typing import NDArray
from rclpy.publisher import Publisher
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from fisa_ros.node.conversions import image_to_msg
from fisa_ros.node.spinning_node import SpinningNode

_QOS = QoSProfile(depth=10, reliability=ReliabilityPolicy.RELIABLE)
_WATCH_PERIOD_S = 0.1
_LOST_AFTER_S = 2.0


@dataclass(frozen=True, slots=True)
class Answer:
    """One answered image.

    Attributes:
        camera: Name of the camera.
        stamp_ns: When the image was sent.
        arrived_ns: When its mask was here, on the same clock.
    """

    camera: str
    stamp_ns: int
    arrived_ns: int

    @property
    def latency_ms(self) -> float:
        """Time from one to the other."""
        return (self.arrived_ns - self.stamp_ns) * 1e-6


@dataclass(frozen=True, slots=True)
class NodeReport:
    """What the node said in its diagnostics.

    Attributes:
        stamp_ns: When it said so.
        values: By name of the status, then by key.
    """

    stamp_ns: int
    values: dict[str, dict[str, str]]


@dataclass
class _Camera:
    name: str
    publisher: Publisher
    frames: list[Image]
    sent: int = 0
    waiting_ns: int = 0
    sent_s: float = 0.0
    stamps: set[int] = field(default_factory=set)


class LatencyProbe(SpinningNode):
    """Cameras and a listener to their masks in one node with a thread of its own; use it in a `with` block.

    It listens to the masks alone, and the node makes only what somebody listens to.

    Attributes:
        answers: In the order of arrival; grows while the node answers.
        reports: The node's diagnostics, in order.

    Args:
        frames: Images `(H, W, 3)` uint8 rgb that are sent over and over.
        cameras: Names of the cameras, which stand in front of their topics; one without a name by default.
        rate_hz: Images per second of each camera; 0 sends the next one as soon as the last is answered.
        name: Name of the node.
    """

    def __init__(
        self,
        frames: Sequence[NDArray[np.uint8]],
        cameras: Sequence[str] = ('',),
        rate_hz: float = 0.0,
        name: str = 'latency_probe',
    ) -> None:
        super().__init__(name)
        self._is_closed_loop = rate_hz == 0.0
        self._is_sending = False
        self.answers: list[Answer] = []
        self.reports: list[NodeReport] = []
        self._cameras = [self._open_camera(camera, frames) for camera in cameras]
        self._node.create_subscription(DiagnosticArray, '/diagnostics', self._read_diagnostics, _QOS)
        self._node.create_timer(_WATCH_PERIOD_S if self._is_closed_loop else 1.0 / rate_hz, self._tick)

    def start(self) -> None:
        """Begin to send."""
        self._is_sending = True

    def stop(self) -> None:
        """Send no more."""
        self._is_sending = False

    def _open_camera(self, name: str, frames: Sequence[NDArray[np.uint8]]) -> _Camera:
        prefix = f'{name}/' if name else ''
        header = Header(frame_id=name or 'camera')
        images = [image_to_msg(frame, 'rgb8', Header(frame_id=header.frame_id)) for frame in frames]
        camera = _Camera(name, self._node.create_publisher(Image, f'{prefix}image', _QOS), images)
        self._node.create_subscription(
            Image, f'{prefix}segmentation/mask', lambda msg: self._receive(camera, msg), _QOS
        )
        return camera

    def _tick(self) -> None:
        for camera in self._cameras:
            is_lost = time.monotonic() > camera.sent_s + _LOST_AFTER_S
            # Images sent before the node has found the camera reach nobody.
            if self._is_sending and (not self._is_closed_loop or not camera.waiting_ns or is_lost):
                self._send(camera)

    def _send(self, camera: _Camera) -> None:
        message = camera.frames[camera.sent % len(camera.frames)]
        now_ns = self.now_ns()
        message.header.stamp = Time(sec=now_ns // 1_000_000_000, nanosec=now_ns % 1_000_000_000)
        camera.sent += 1
        camera.waiting_ns, camera.sent_s = now_ns, time.monotonic()
        camera.stamps.add(now_ns)
        camera.publisher.publish(message)

    def _receive(self, camera: _Camera, msg: Image) -> None:
        arrived_ns = self.now_ns()
        stamp_ns = _stamp_ns(msg.header.stamp)
        if stamp_ns not in camera.stamps:
            return
        camera.stamps.discard(stamp_ns)
        self.answers.append(Answer(camera.name, stamp_ns, arrived_ns))
        if self._is_closed_loop and stamp_ns == camera.waiting_ns:
            camera.waiting_ns = 0
            if self._is_sending:
                self._send(camera)

    def _read_diagnostics(self, msg: DiagnosticArray) -> None:
        values = {status.name: {pair.key: pair.value for pair in status.values} for status in msg.status}
        self.reports.append(NodeReport(_stamp_ns(msg.header.stamp), values))


def _stamp_ns(stamp: Time) -> int:
    return int(stamp.sec) * 1_000_000_000 + int(stamp.nanosec)
