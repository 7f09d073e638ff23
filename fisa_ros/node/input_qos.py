"""Quality of service of an image input: chosen to fit the publishers found, explained when nothing arrives."""

from collections.abc import Sequence

from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from rclpy.topic_endpoint_info import TopicEndpointInfo

_DEPTH = 2


def choose_input_qos(publishers: Sequence[TopicEndpointInfo], *, takes_latched: bool = False) -> QoSProfile:
    """Return a profile that receives from all publishers: reliable if all of them are, else best effort.

    Args:
        publishers: Those found.
        takes_latched: Ask for what was published before, too, if all of them keep it.
    """
    is_reliable = bool(publishers) and all(
        publisher.qos_profile.reliability == ReliabilityPolicy.RELIABLE for publisher in publishers
    )
    is_latched = (
        takes_latched
        and is_reliable
        and all(publisher.qos_profile.durability == DurabilityPolicy.TRANSIENT_LOCAL for publisher in publishers)
    )
    return QoSProfile(
        history=HistoryPolicy.KEEP_LAST,
        # The node itself drops what it cannot serve, and counts it. The queue only bridges a busy executor, and what
        # it held at the worst moment stays with the process as memory.
        depth=_DEPTH,
        reliability=ReliabilityPolicy.RELIABLE if is_reliable else ReliabilityPolicy.BEST_EFFORT,
        durability=DurabilityPolicy.TRANSIENT_LOCAL if is_latched else DurabilityPolicy.VOLATILE,
    )


def explain_silence(
    topic: str, topic_type: str, qos: QoSProfile, publishers: Sequence[TopicEndpointInfo], silent_s: float, advice: str
) -> str:
    """Return why no message may arrive, naming the topic and both sides' quality of service."""
    kind = 'image' if 'Image' in topic_type else 'message'
    text = f'no {kind} on {topic} for {silent_s:.0f} s: '
    if not publishers:
        return text + f'no publisher (is the camera running? is the name right? {advice})'
    offers = [
        f'{_full_name(publisher)} offers {describe_qos(publisher.qos_profile)}'
        + ('' if publisher.topic_type == topic_type else f' of another type, {publisher.topic_type}')
        for publisher in publishers
    ]
    return text + f'{"; ".join(offers)}; this node asks for {describe_qos(qos)} of {topic_type}'


def describe_qos(qos: QoSProfile) -> str:
    """Return what decides whether two sides connect, as `ros2 topic info -v` names it."""
    return f'{qos.reliability.name}, {qos.durability.name}'


def _full_name(publisher: TopicEndpointInfo) -> str:
    return f'{publisher.node_namespace.rstrip("/")}/{publisher.node_name}'
