"""Quality of service of a topic that is published again."""

from collections.abc import Sequence

from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from rosbags.interfaces import Qos, QosDurability, QosHistory, QosReliability

_DEFAULT_DEPTH = 10
_MAX_LATCHED = 1000


def recorded_qos(offers: Sequence[Qos], message_count: int) -> QoSProfile:
    """Return what serves everybody whom the recorded publishers served; reliable and volatile if nothing is known.

    Args:
        offers: What the publishers offered, from the recording's metadata.
        message_count: Number of recorded messages.
    """
    best_effort = bool(offers) and all(offer.reliability == QosReliability.BEST_EFFORT for offer in offers)
    is_latched = bool(offers) and all(offer.durability == QosDurability.TRANSIENT_LOCAL for offer in offers)
    keeps_all = any(offer.history == QosHistory.KEEP_ALL for offer in offers)
    depth = max([offer.depth for offer in offers if offer.history == QosHistory.KEEP_LAST] or [_DEFAULT_DEPTH])
    if is_latched:
        # Several publishers, each with its last message, are one publisher here: the transforms of a whole robot.
        depth = max(depth, min(message_count, _MAX_LATCHED))
    return QoSProfile(
        history=HistoryPolicy.KEEP_ALL if keeps_all else HistoryPolicy.KEEP_LAST,
        depth=max(depth, 1),
        reliability=ReliabilityPolicy.BEST_EFFORT if best_effort else ReliabilityPolicy.RELIABLE,
        durability=DurabilityPolicy.TRANSIENT_LOCAL if is_latched else DurabilityPolicy.VOLATILE,
    )
