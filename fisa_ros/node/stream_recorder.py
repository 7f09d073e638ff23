"""Watches a running segment node from outside, as any other node of a robot could."""

from collections.abc import Callable
from dataclasses import dataclass
import threading
import time
from typing import Any

from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticArray
from lifecycle_msgs.msg import State
from lifecycle_msgs.srv import GetState
import numpy as np
from numpy.typing import NDArray
from rclpy.client import Client
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.subscription import Subscription
from sensor_msgs.msg import CameraInfo, Image

from fisa_ros.core.class_names import parse_names
from fisa_ros.core.errors import FisaError
from fisa_ros.core.vocabulary import Vocabulary, VocabularyClass, VocabularyRequest
from fisa_ros.evaluation.frame_assembly import FrameAssembly
from fisa_ros.msg import SegmentArray
from fisa_ros.node.conversions import image_from_msg, segment_from_msg
from fisa_ros.node.spinning_node import SpinningNode
from fisa_ros.srv import GetVocabulary, SetVocabulary

_QOS = QoSProfile(depth=20, reliability=ReliabilityPolicy.RELIABLE)
_WATCH_PERIOD_S = 0.1
_MAP_DTYPES: dict[str, type[np.unsignedinteger]] = {'mono8': np.uint8, 'mono16': np.uint16}


class ServiceError(FisaError):
    """A service that did not answer."""


@dataclass(frozen=True, slots=True)
class Status:
    """What a node says about itself in its diagnostics, and when it said so."""

    stamp_ns: int
    values: dict[str, str]


@dataclass(frozen=True, slots=True)
class VocabularyAnswer:
    """What `set_vocabulary` answered, and when.

    Attributes:
        success: Whether the vocabulary is in use now.
        message: Reason of a refusal, or what changed.
        version: Version in use.
        class_ids: Ids in the order of the request.
        encode_ms: Time spent on the words, as the node says.
        called_ns: When the request was sent.
        answered_ns: When the answer was here.
    """

    success: bool
    message: str
    version: int
    class_ids: tuple[int, ...]
    encode_ms: float
    called_ns: int
    answered_ns: int


class StreamRecorder(SpinningNode):
    """A node in a thread of its own that collects answers, truth, pictures and diagnostics; use it in a `with` block.

    Attributes:
        frames: Everything received, by stamp.
        overlays: Pictures with their stamps, collected while `collect_overlays` says so.
        diagnostics: The latest by name of the status.
        watch: Called now and then while a call waits for its answer; what it raises ends the wait.
    """

    def __init__(self, name: str = 'stream_recorder') -> None:
        """Create the node and its subscriptions; nothing is received before the `with` block."""
        super().__init__(name)
        self.frames = FrameAssembly(self.now_ns)
        self.overlays: list[tuple[int, NDArray[np.uint8]]] = []
        self._overlay_input: Subscription | None = None
        self.diagnostics: dict[str, Status] = {}
        self.watch: Callable[[], None] = lambda: None
        self._clients: dict[str, Client] = {
            name: self._node.create_client(kind, name)
            for name, kind in (
                ('set_vocabulary', SetVocabulary),
                ('get_vocabulary', GetVocabulary),
                ('segment/get_state', GetState),
            )
        }
        for topic, kind, callback in (
            ('camera_info', CameraInfo, lambda msg: self.frames.add_camera_frame(_stamp_ns(msg))),
            ('truth/panoptic', Image, lambda msg: self.frames.add_true_map(_stamp_ns(msg), _id_map(msg))),
            ('truth/segments', SegmentArray, lambda msg: self.frames.add_true_segments(_stamp_ns(msg), _segments(msg))),
            ('segmentation/mask', Image, lambda msg: self.frames.add_semantic_map(_stamp_ns(msg), _id_map(msg))),
            ('segmentation/instances', Image, lambda msg: self.frames.add_panoptic_map(_stamp_ns(msg), _id_map(msg))),
            (
                'segmentation/segments',
                SegmentArray,
                lambda msg: self.frames.add_segments(_stamp_ns(msg), _segments(msg), msg.vocabulary_version),
            ),
            ('/diagnostics', DiagnosticArray, self._read_diagnostics),
        ):
            self._node.create_subscription(kind, topic, callback, _QOS)

    def collect_overlays(self, is_wanted: bool) -> None:
        """Listen to the pictures or not: the node draws them only for listeners, which costs it time."""
        self._executor.create_task(self._follow_overlays, is_wanted)

    def is_active(self, timeout_s: float = 1.0) -> bool:
        """Ask the segment node whether it is active; False also if it does not answer."""
        client = self._clients['segment/get_state']
        try:
            return client.service_is_ready() and bool(
                self._call(client, GetState.Request(), timeout_s).current_state.id == State.PRIMARY_STATE_ACTIVE
            )
        except ServiceError:
            return False

    def set_vocabulary(self, request: VocabularyRequest, timeout_s: float = 60.0) -> VocabularyAnswer:
        """Ask for another vocabulary and wait for the answer.

        Raises:
            ServiceError: There was no answer in this time.
        """
        called_ns = self.now_ns()
        answered_ns: list[int] = []
        response = self._call(
            self._clients['set_vocabulary'],
            SetVocabulary.Request(classes=request.classes, stuff_classes=request.stuff_classes),
            timeout_s,
            lambda: answered_ns.append(self.now_ns()),
        )
        return VocabularyAnswer(
            success=response.success,
            message=response.message,
            version=response.version,
            class_ids=tuple(response.class_ids),
            encode_ms=response.encode_ms,
            called_ns=called_ns,
            answered_ns=answered_ns[0],
        )

    def vocabulary(self, timeout_s: float = 10.0) -> Vocabulary:
        """Ask for the vocabulary in use.

        Raises:
            ServiceError: There was no answer in this time.
        """
        response = self._call(self._clients['get_vocabulary'], GetVocabulary.Request(), timeout_s)
        return Vocabulary(
            version=response.version,
            classes=tuple(
                VocabularyClass(class_id, names, is_thing=names[0] not in response.stuff_classes)
                for class_id, names in zip(response.class_ids, map(parse_names, response.classes), strict=True)
            ),
        )

    def _call(
        self, client: Client, request: Any, timeout_s: float, on_answer: Callable[[], None] = lambda: None
    ) -> Any:
        deadline_s = time.monotonic() + timeout_s
        done = threading.Event()
        if client.wait_for_service(timeout_sec=timeout_s):
            future = client.call_async(request)

            def finish(_: object) -> None:
                on_answer()
                done.set()

            future.add_done_callback(finish)
            while time.monotonic() < deadline_s:
                if done.wait(_WATCH_PERIOD_S):
                    return future.result()
                self.watch()
            client.remove_pending_request(future)
        raise ServiceError(f'service {client.srv_name} did not answer within {timeout_s:g} s')

    def _keep_overlay(self, msg: Image) -> None:
        self.overlays.append((_stamp_ns(msg), image_from_msg(msg)))

    def _follow_overlays(self, is_wanted: bool) -> None:
        if is_wanted and self._overlay_input is None:
            self._overlay_input = self._node.create_subscription(
                Image, 'segmentation/overlay', self._keep_overlay, _QOS
            )
        elif not is_wanted and self._overlay_input is not None:
            self._node.destroy_subscription(self._overlay_input)
            self._overlay_input = None

    def _read_diagnostics(self, msg: DiagnosticArray) -> None:
        for status in msg.status:
            values = {pair.key: pair.value for pair in status.values}
            self.diagnostics[status.name] = Status(_stamp_ns(msg), values)


def _stamp_ns(msg: Any) -> int:
    stamp: Time = msg.header.stamp
    return int(stamp.sec) * 1_000_000_000 + int(stamp.nanosec)


def _id_map(msg: Image) -> NDArray[np.unsignedinteger]:
    return np.frombuffer(msg.data, _MAP_DTYPES[msg.encoding]).reshape(msg.height, msg.width)


def _segments(msg: SegmentArray) -> tuple[Any, ...]:
    return tuple(segment_from_msg(segment) for segment in msg.segments)
