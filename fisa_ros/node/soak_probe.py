"""Cameras and listeners around a running segment node that check everything it answers, for as long as wanted."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
import threading
import time
from types import TracebackType
from typing import Any, Self

from builtin_interfaces.msg import Time
import numpy as np
from numpy.typing import NDArray
from rclpy.publisher import Publisher
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.subscription import Subscription
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, PointCloud2
from std_msgs.msg import Header
from vision_msgs.msg import Detection2DArray, LabelInfo, VisionInfo

from fisa_ros.core.vocabulary import Vocabulary, VocabularyRequest
from fisa_ros.evaluation.answer_check import AnswerCheck
from fisa_ros.msg import SegmentArray
from fisa_ros.node.conversions import image_to_msg
from fisa_ros.node.pace import Pace
from fisa_ros.node.segment_client import SegmentClient, VocabularyAnswer, stamp_ns
from fisa_ros.node.sim_camera_node import camera_info_to_msg
from fisa_ros.node.spinning_node import SpinningNode
from fisa_ros.simulation.camera import SceneCamera

_SEND_QOS = QoSProfile(depth=5, reliability=ReliabilityPolicy.RELIABLE)
_LISTEN_QOS = QoSProfile(depth=20, reliability=ReliabilityPolicy.RELIABLE)
_LATCHED_QOS = QoSProfile(depth=20, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL)
_BEST_EFFORT_QOS = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
_SECOND_NS = 1_000_000_000
# Made only while somebody listens, so that listening changes what the node does.
_PASSING_OUTPUTS: tuple[tuple[str, type], ...] = (
    ('overlay', Image),
    ('overlay/compressed', CompressedImage),
    ('confidence', Image),
    ('detections', Detection2DArray),
)


@dataclass(frozen=True, slots=True)
class SoakViews:
    """What a camera shows over and over.

    Attributes:
        camera: Tells the calibration; may be closed.
        colors: Images `(H, W, 3)` uint8 rgb.
        depths: `(H, W)` float32 in m, one for each image, or none.
    """

    camera: SceneCamera
    colors: Sequence[NDArray[np.uint8]]
    depths: Sequence[NDArray[np.float32]]


class _Camera:
    """The publishers of one camera, and the check of what is answered."""

    def __init__(self, name: str, publish: Callable[[type, str], Publisher], views: SoakViews) -> None:
        self.prefix = f'{name}/' if name else ''
        self.frame_id = f'{name or "camera"}_optical_frame'
        self.images = publish(Image, f'{self.prefix}image')
        self.sent = 0
        self._has_depth = bool(views.depths)
        self._colors = [image_to_msg(color, 'rgb8', Header()) for color in views.colors]
        self._depths = [image_to_msg(depth, '32FC1', Header()) for depth in views.depths]
        if self._has_depth:
            self._depth = publish(Image, f'{self.prefix}depth')
            self._info = publish(CameraInfo, f'{self.prefix}camera_info')
            self._calibration = camera_info_to_msg(views.camera, Header())

    def send(self, sent_ns: int) -> None:
        number = self.sent % len(self._colors)
        header = Header(stamp=Time(sec=sent_ns // _SECOND_NS, nanosec=sent_ns % _SECOND_NS), frame_id=self.frame_id)
        messages = [(self.images, self._colors[number])]
        if self._has_depth:
            messages += [(self._info, self._calibration), (self._depth, self._depths[number])]
        for publisher, msg in messages:
            msg.header = header
            publisher.publish(msg)
        self.sent += 1


class SoakProbe(SegmentClient):
    """Sends images, changes words and thresholds, and checks the answers; use it in a `with` block.

    Attributes:
        checks: One for each camera, in order.
        ages_ms: From the stamp of each image to the arrival of its mask, in order of arrival.
        skipped: Images that could not be sent in time.
    """

    def __init__(self, cameras: Sequence[str], views: Sequence[SoakViews], rate_hz: float) -> None:
        """Create the topics; nothing is sent before `start`.

        Args:
            cameras: Names of the cameras; one empty name for a single one.
            views: What each camera shows.
            rate_hz: Images per second of each camera.
        """
        super().__init__('soak_probe')
        self.ages_ms: list[float] = []
        self._names_of_version: dict[int, dict[int, str]] = {}
        self._cameras = [
            _Camera(name, lambda kind, topic: self._node.create_publisher(kind, topic, _SEND_QOS), shown)
            for name, shown in zip(cameras, views, strict=True)
        ]
        self.checks = [AnswerCheck(camera.frame_id, self._names_of_version) for camera in self._cameras]
        self._pace_hz = rate_hz * len(self._cameras)
        self.skipped = 0
        self._is_sending = threading.Event()
        self._is_ended = threading.Event()
        self._sender = threading.Thread(target=self._send, name='soak_cameras', daemon=True)
        self._passing: list[Subscription] = []
        for camera, check in zip(self._cameras, self.checks, strict=True):
            self._listen(camera, check, has_points=bool(views[0].depths))

    def __enter__(self) -> Self:
        self._sender.start()
        return super().__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._is_ended.set()
        self._is_sending.set()
        self._sender.join()
        super().__exit__(kind, error, traceback)

    @property
    def sent(self) -> int:
        """Images sent, of all cameras."""
        return sum(camera.sent for camera in self._cameras)

    @property
    def topics(self) -> list[str]:
        """Full names of the topics of the images."""
        return [camera.images.topic_name for camera in self._cameras]

    def is_matched(self) -> bool:
        """Return True if every camera has somebody who listens."""
        return all(camera.images.get_subscription_count() for camera in self._cameras)

    def start(self) -> None:
        """Begin to send."""
        self._is_sending.set()

    def stop(self) -> None:
        """Send no more."""
        self._is_sending.clear()

    def learn(self, vocabulary: Vocabulary) -> None:
        """Note the vocabulary that the node begins with."""
        self._names_of_version[vocabulary.version] = {entry.id: entry.name for entry in vocabulary.classes}

    def change_vocabulary(self, request: VocabularyRequest, timeout_s: float = 60.0) -> VocabularyAnswer:
        """Ask for another vocabulary and note what it was answered.

        Raises:
            ServiceError: There was no answer in this time.
        """
        answer = self.set_vocabulary(request, timeout_s)
        if answer.success:
            labels = [text.partition(',')[0].strip() for text in request.classes]
            self._names_of_version[answer.version] = dict(zip(answer.class_ids, labels, strict=True))
        return answer

    def change_passing_listener(self, number: int) -> None:
        """Replace the subscription that comes and goes by the one of this number, which also chooses its quality."""
        self._executor.create_task(self._listen_in_passing, number)

    def _listen_in_passing(self, number: int) -> None:
        while self._passing:
            self._node.destroy_subscription(self._passing.pop())
        output, kind = _PASSING_OUTPUTS[number % len(_PASSING_OUTPUTS)]
        qos = _BEST_EFFORT_QOS if number // len(_PASSING_OUTPUTS) % 2 else _LISTEN_QOS
        camera, check = self._cameras[number % len(self._cameras)], self.checks[number % len(self.checks)]
        # Order counts within one subscription.
        name = f'passing {number}'

        def read(msg: Any) -> None:
            check.add_message(name, stamp_ns(msg), msg.header.frame_id)

        self._passing.append(self._node.create_subscription(kind, f'{camera.prefix}segmentation/{output}', read, qos))

    def _listen(self, camera: _Camera, check: AnswerCheck, *, has_points: bool) -> None:
        def read_mask(msg: Image, info: dict[str, int]) -> None:
            stamp = stamp_ns(msg)
            if check.add_message('mask', stamp, msg.header.frame_id):
                self.ages_ms.append((info['received_timestamp'] - stamp) * 1e-6)
                check.add_class_ids(stamp, _values(msg))
                check.add_mask_size(stamp, (msg.height, msg.width))

        def read_instances(msg: Image) -> None:
            if check.add_message('instances', stamp_ns(msg), msg.header.frame_id):
                check.add_segment_ids(stamp_ns(msg), _values(msg))

        def read_segments(msg: SegmentArray) -> None:
            if check.add_message('segments', stamp_ns(msg), msg.header.frame_id):
                segments = [(segment.id, segment.class_id, segment.class_name) for segment in msg.segments]
                check.add_segments(stamp_ns(msg), msg.vocabulary_version, segments)

        def read_points(msg: PointCloud2) -> None:
            if check.add_message('points', stamp_ns(msg), msg.header.frame_id):
                check.add_points(stamp_ns(msg), _cloud_size_hw(msg))

        def read_labels(msg: LabelInfo) -> None:
            check.add_labels({entry.class_id: entry.class_name for entry in msg.class_map})

        def read_info(msg: VisionInfo) -> None:
            check.add_announcement(msg.database_version)

        outputs: list[tuple[str, type, Any, QoSProfile]] = [
            ('mask', Image, read_mask, _LISTEN_QOS),
            ('instances', Image, read_instances, _LISTEN_QOS),
            ('segments', SegmentArray, read_segments, _LISTEN_QOS),
            ('label_info', LabelInfo, read_labels, _LATCHED_QOS),
            ('vision_info', VisionInfo, read_info, _LATCHED_QOS),
        ]
        if has_points:
            outputs.append(('points', PointCloud2, read_points, _LISTEN_QOS))
        for output, kind, read, qos in outputs:
            self._node.create_subscription(kind, f'{camera.prefix}segmentation/{output}', read, qos)

    def _send(self) -> None:
        while self._is_sending.wait() and not self._is_ended.is_set():
            pace, turn = Pace(self._pace_hz), 0
            while self._is_sending.is_set() and not self._is_ended.is_set():
                time.sleep(max(0.0, pace.wait_s()))
                pace.advance()
                number = turn % len(self._cameras)
                sent_ns = self.now_ns()
                self.checks[number].add_sent(sent_ns)
                self._cameras[number].send(sent_ns)
                turn += 1
            self.skipped += pace.skipped


class PassingNode(SpinningNode):
    """A node that listens to one mask for a while and goes, with its whole share of the middleware."""

    def __init__(self, camera: str) -> None:
        """Create the node; `camera` stands in front of the topic."""
        super().__init__('soak_passer_by')
        self.received = 0
        topic = f'{camera}/segmentation/mask' if camera else 'segmentation/mask'
        self._node.create_subscription(Image, topic, self._count, _BEST_EFFORT_QOS)

    def _count(self, _: Image) -> None:
        self.received += 1


def _values(msg: Image) -> list[int]:
    dtype = np.uint8 if msg.encoding == 'mono8' else np.uint16
    return np.flatnonzero(np.bincount(np.frombuffer(msg.data, dtype))).tolist()


def _cloud_size_hw(msg: PointCloud2) -> tuple[int, int]:
    """Return the rows and columns of an organised cloud, (0, 0) if its data does not fill them."""
    is_filled = msg.row_step == msg.width * msg.point_step and len(msg.data) == msg.height * msg.row_step > 0
    return (msg.height, msg.width) if is_filled else (0, 0)
