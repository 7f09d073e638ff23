"""Asks a segment node for things from outside, as any other node of a robot could."""

from collections.abc import Callable
from dataclasses import dataclass
import threading
import time
from typing import Any

from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticArray
from lifecycle_msgs.msg import State
from lifecycle_msgs.srv import GetState
from rcl_interfaces.srv import SetParameters
from rclpy.client import Client
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile, ReliabilityPolicy

from fisa_ros.core.class_names import parse_names
from fisa_ros.core.errors import FisaError
from fisa_ros.core.vocabulary import Vocabulary, VocabularyClass, VocabularyRequest
from fisa_ros.node.conversions import request_to_srv
from fisa_ros.node.spinning_node import SpinningNode
from fisa_ros.srv import GetVocabulary, SetVocabulary

_WATCH_PERIOD_S = 0.1
# Fast DDS gives every caller of a service the answers to all callers: a short queue could lose its own among them.
_SERVICE_QOS = QoSProfile(depth=128, reliability=ReliabilityPolicy.RELIABLE)
_DIAGNOSTICS_QOS = QoSProfile(depth=20, reliability=ReliabilityPolicy.RELIABLE)


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


class SegmentClient(SpinningNode):
    """A node in a thread of its own with clients of the segment node's services; use it in a `with` block.

    Attributes:
        diagnostics: What nodes say about themselves: the latest, by name of the status.
        watch: Called now and then while a call waits for its answer; what it raises ends the wait.
    """

    def __init__(self, name: str) -> None:
        """Create the node and its clients."""
        super().__init__(name)
        self.diagnostics: dict[str, Status] = {}
        self.watch: Callable[[], None] = lambda: None
        self._clients: dict[str, Client] = {
            name: self._node.create_client(kind, name, qos_profile=_SERVICE_QOS)
            for name, kind in (
                ('set_vocabulary', SetVocabulary),
                ('get_vocabulary', GetVocabulary),
                ('segment/get_state', GetState),
                ('segment/set_parameters', SetParameters),
            )
        }
        self._node.create_subscription(DiagnosticArray, '/diagnostics', self._read_diagnostics, _DIAGNOSTICS_QOS)

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
            request_to_srv(request),
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
                VocabularyClass(class_id, names, is_thing=names[0] in response.thing_classes)
                for class_id, names in zip(response.class_ids, map(parse_names, response.classes), strict=True)
            ),
        )

    def set_parameter(self, name: str, value: object, timeout_s: float = 10.0) -> str:
        """Set a parameter of the segment node; return the reason if it refuses, else nothing.

        Raises:
            ServiceError: There was no answer in this time.
        """
        request = SetParameters.Request(parameters=[Parameter(name, value=value).to_parameter_msg()])
        result = self._call(self._clients['segment/set_parameters'], request, timeout_s).results[0]
        return '' if result.successful else result.reason or 'refused'

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

    def _read_diagnostics(self, msg: DiagnosticArray) -> None:
        for status in msg.status:
            values = {pair.key: pair.value for pair in status.values}
            self.diagnostics[status.name] = Status(stamp_ns(msg), values)


def stamp_ns(msg: Any) -> int:
    """Return the stamp in the header of a message in nanoseconds."""
    stamp: Time = msg.header.stamp
    return int(stamp.sec) * 1_000_000_000 + int(stamp.nanosec)
