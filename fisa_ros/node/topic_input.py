"""One input topic: follows the quality of service of its publishers and explains silence."""

from collections.abc import Callable
import logging
import time
from typing import Any

from rclpy.event_handler import SubscriptionEventCallbacks
from rclpy.lifecycle import LifecycleNode
from rclpy.qos import QoSCompatibility, QoSPolicyKind, QoSProfile, qos_check_compatible
from rclpy.qos_overriding_options import QoSOverridingOptions
from rclpy.subscription import Subscription

from fisa_ros.node.input_qos import choose_input_qos, explain_silence
from fisa_ros.node.qos_overrides import overriding_options
from fisa_ros.node.throttle import Throttle

_log = logging.getLogger(__name__)

_SILENCE_S = 5.0
_REPEAT_S = 10.0


class TopicInput:
    """Receives the messages of one topic; all calls come from the executor's thread."""

    def __init__(
        self,
        node: LifecycleNode,
        name: str,
        msg_type: type,
        on_message: Callable[[Any], None],
        *,
        advice: str,
        is_stream: bool = True,
    ) -> None:
        """Prepare an input that does not receive.

        Args:
            node: Owns the topic.
            name: Of the topic, relative to the node's namespace, or absolute.
            msg_type: Type of its messages.
            on_message: Called with each message.
            advice: What may help if there is no publisher.
            is_stream: Whether messages must keep coming. Otherwise one is enough, and one that was published before
                this input came, too.
        """
        self._node = node
        self._name = name
        self._msg_type = msg_type
        self._on_message = on_message
        self._advice = advice
        self._is_stream = is_stream
        self._is_served = False
        package, _, _ = msg_type.__module__.partition('.')
        self._type_name = f'{package}/msg/{msg_type.__name__}'
        self._subscription: Subscription | None = None
        self._qos = choose_input_qos([])
        self._overrides = QoSOverridingOptions([])
        self._last_heard_s = 0.0
        self._silence_throttle = Throttle(_REPEAT_S)

    @property
    def topic(self) -> str:
        """Full name of the topic, remapped."""
        return str(self._node.resolve_topic_name(self._name))

    @property
    def silent_s(self) -> float:
        """Seconds since the last message, or since opening; 0 while closed."""
        return 0.0 if self._subscription is None else time.monotonic() - self._last_heard_s

    def open(self) -> None:
        """Begin to receive.

        Raises:
            FisaError: An override of the quality of service has a value that does not exist.
        """
        self._overrides = overriding_options(self._node, self.topic, 'subscription')
        self._subscribe(self._choose_qos(self._find_publishers()))
        self._last_heard_s = time.monotonic()

    def close(self) -> None:
        """Stop receiving."""
        if self._subscription is not None:
            self._node.destroy_subscription(self._subscription)
            self._subscription = None

    def is_mismatched(self) -> bool:
        """Return True if there are publishers and none of them can reach this input."""
        publishers = [info for info in self._find_publishers() if info.topic_type == self._type_name]
        return bool(publishers) and all(
            qos_check_compatible(info.qos_profile, self._qos)[0] == QoSCompatibility.ERROR for info in publishers
        )

    def check_silence(self) -> None:
        """Warn if nothing arrives, and say what may be the cause."""
        is_enough = self._is_served and not self._is_stream
        if self.silent_s >= _SILENCE_S and not is_enough and self._silence_throttle.is_due():
            publishers = self._find_publishers()
            _log.warning(
                explain_silence(self.topic, self._type_name, self._qos, publishers, self.silent_s, self._advice)
            )

    def _choose_qos(self, publishers: list[Any]) -> QoSProfile:
        return choose_input_qos(publishers, takes_latched=not self._is_stream)

    def _subscribe(self, qos: QoSProfile) -> None:
        self.close()
        events = SubscriptionEventCallbacks(matched=self._follow_publishers, incompatible_qos=self._follow_publishers)
        self._subscription = self._node.create_subscription(
            self._msg_type,
            self._name,
            self._receive,
            qos,
            event_callbacks=events,
            qos_overriding_options=self._overrides,
        )
        # rclpy has put the overrides into it.
        self._qos = qos

    def _follow_publishers(self, _: object) -> None:
        if self._subscription is None or QoSPolicyKind.RELIABILITY in self._overrides.policy_kinds:
            return
        publishers = self._find_publishers()
        qos = self._choose_qos(publishers)
        is_same = (qos.reliability, qos.durability) == (self._qos.reliability, self._qos.durability)
        if publishers and not is_same:
            self._subscribe(qos)

    def _receive(self, msg: Any) -> None:
        self._last_heard_s = time.monotonic()
        self._is_served = True
        self._on_message(msg)

    def _find_publishers(self) -> list[Any]:
        return list(self._node.get_publishers_info_by_topic(self.topic))
