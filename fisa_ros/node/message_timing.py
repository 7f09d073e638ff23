"""Takes the time of what the segment node does around the segmentation: an image comes in, answers go out."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
import time
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header

from fisa_ros.core.errors import FisaError
from fisa_ros.core.results import PanopticResult
from fisa_ros.node import conversions
from fisa_ros.node.frame_messages import OUTPUT_TYPES, OVERLAY, output_makers

_QOS = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE)
_TIMEOUT_S = 10.0
_POLL_S = 1e-3


class TransportError(FisaError):
    """A message that did not arrive within its process."""


@dataclass(frozen=True, slots=True)
class InputKind:
    """How a camera sends its images.

    Attributes:
        msg_type: Type of its messages.
        encode: Makes a message of `(H, W, 3)` uint8 rgb.
        decode: Returns `(H, W, 3)` uint8 rgb of a message, as the segment node does.
    """

    msg_type: type
    encode: Callable[[NDArray[np.uint8], Header], Any]
    decode: Callable[[Any], NDArray[np.uint8]]


def _bgr_to_msg(frame: NDArray[np.uint8], header: Header) -> Image:
    msg = conversions.image_to_msg(frame[..., ::-1], 'rgb8', header)
    msg.encoding = 'bgr8'
    return msg


INPUT_KINDS = {
    'rgb8': InputKind(
        Image, lambda frame, header: conversions.image_to_msg(frame, 'rgb8', header), conversions.image_from_msg
    ),
    'bgr8': InputKind(Image, _bgr_to_msg, conversions.image_from_msg),
    'jpeg': InputKind(CompressedImage, conversions.image_to_jpeg_msg, conversions.image_from_msg),
}


@dataclass(frozen=True, slots=True)
class MessageTiming:
    """Times of one frame in milliseconds.

    Attributes:
        receive_ms: One pass of the executor that takes the image.
        decode_ms: From the message to rgb.
        make_ms: By output, from the result to the message.
        publish_ms: By output, until `publish` returns.
    """

    receive_ms: float
    decode_ms: float
    make_ms: dict[str, float]
    publish_ms: dict[str, float]

    @property
    def conversion_ms(self) -> float:
        """Decoding and making all outputs but the overlay."""
        return self.decode_ms + _without_overlay(self.make_ms)

    @property
    def total_ms(self) -> float:
        """That, receiving and publishing."""
        return self.conversion_ms + self.receive_ms + _without_overlay(self.publish_ms)


class MessageTimer:
    """Sends frames and their answers to listeners in this process; use it in a `with` block.

    Nothing spins while something is measured: what is published is taken by the listeners afterwards.

    Args:
        kind: How the images come in.
        frames: Images `(H, W, 3)` uint8 rgb.
        results: What each of them shows.
        mask_encoding: Encoding of the mask, mono8 or mono16.
        name: Name of the node, which also stands in front of its topics.
    """

    def __init__(
        self,
        kind: InputKind,
        frames: Sequence[NDArray[np.uint8]],
        results: Sequence[PanopticResult],
        mask_encoding: str,
        name: str = 'message_timer',
    ) -> None:
        self._kind, self._results, self._mask_encoding = kind, results, mask_encoding
        self._images = [kind.encode(frame, Header(frame_id='camera')) for frame in frames]
        self._context = Context()
        self._context.init(args=[])
        self._node, self._listener = (Node(f'{name}_{part}', context=self._context) for part in ('node', 'listener'))
        self._executors = [SingleThreadedExecutor(context=self._context) for _ in range(2)]
        for executor, node in zip(self._executors, (self._node, self._listener), strict=True):
            executor.add_node(node)
        self._received: list[Any] = []
        self._heard: list[str] = []
        self._camera = self._listener.create_publisher(kind.msg_type, f'{name}/image', _QOS)
        self._node.create_subscription(kind.msg_type, f'{name}/image', self._received.append, _QOS)
        self._outputs = {}
        for output, msg_type in OUTPUT_TYPES.items():
            topic = f'{name}/segmentation/{output}'
            self._outputs[output] = self._node.create_publisher(msg_type, topic, _QOS)
            self._listener.create_subscription(msg_type, topic, self._hear(output), _QOS)

    def __enter__(self) -> Self:
        publishers = [self._camera, *self._outputs.values()]
        self._wait(lambda: all(entry.get_subscription_count() for entry in publishers), 'find its listeners')
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._context.try_shutdown()
        self._node.destroy_node()
        self._listener.destroy_node()

    def run(self, index: int) -> MessageTiming:
        """Measure frame `index`, counted on from the first one after the last.

        Raises:
            TransportError: A message did not arrive.
        """
        number = index % len(self._images)
        receive_ms = self._receive(self._images[number])
        msg = self._received.pop()
        started_ns = time.perf_counter_ns()
        image = self._kind.decode(msg)
        decode_ms = _since_ms(started_ns)
        # A copy, for a result keeps the maps that it has made once.
        result = replace(self._results[number])
        make_ms, publish_ms = {}, {}
        for output, make in output_makers(image, result, self._mask_encoding, msg.header).items():
            started_ns = time.perf_counter_ns()
            answer = make()
            make_ms[output] = _since_ms(started_ns)
            started_ns = time.perf_counter_ns()
            self._outputs[output].publish(answer)
            publish_ms[output] = _since_ms(started_ns)
        self._heard.clear()
        self._wait(self._is_all_heard, 'hear all answers')
        return MessageTiming(receive_ms, decode_ms, make_ms, publish_ms)

    def _receive(self, msg: Any) -> float:
        """Send an image and return the milliseconds of the executor's pass that takes it."""
        pass_ms = 0.0

        def is_received() -> bool:
            nonlocal pass_ms
            started_ns = time.perf_counter_ns()
            self._executors[0].spin_once(timeout_sec=0.0)
            pass_ms = _since_ms(started_ns)
            return bool(self._received)

        self._camera.publish(msg)
        self._wait(is_received, 'receive its image')
        return pass_ms

    def _hear(self, output: str) -> Callable[[Any], None]:
        return lambda _: self._heard.append(output)

    def _is_all_heard(self) -> bool:
        self._executors[1].spin_once(timeout_sec=0.0)
        return set(self._heard) == set(self._outputs)

    @staticmethod
    def _wait(condition: Callable[[], bool], what: str) -> None:
        deadline_s = time.monotonic() + _TIMEOUT_S
        while not condition():
            if time.monotonic() > deadline_s:
                raise TransportError(f'a node did not {what} within {_TIMEOUT_S:g} s: is the network set up?')
            time.sleep(_POLL_S)


def _since_ms(started_ns: int) -> float:
    return (time.perf_counter_ns() - started_ns) * 1e-6


def _without_overlay(times_ms: dict[str, float]) -> float:
    return sum(taken_ms for output, taken_ms in times_ms.items() if output != OVERLAY)
