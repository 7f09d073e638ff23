"""Topics of a recording, published again as they are."""

from collections.abc import Iterator, Sequence
from functools import partial
import logging
from pathlib import Path

from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import QoSProfile
from rosbags.interfaces import Connection, ConnectionExtRosbag2

from fisa_ros.core.errors import BagError
from fisa_ros.node.bag_topics import IMAGE_TYPES, OUTPUT_NAMESPACE
from fisa_ros.node.raw_messages import TF_TYPE, StampShift, find_type
from fisa_ros.node.recorded_qos import recorded_qos
from fisa_ros.node.replay_streams import Moment
from fisa_ros.sources.bag import Bag

CAMERA_INFO_TYPE = 'sensor_msgs/msg/CameraInfo'

_log = logging.getLogger(__name__)


class BagStream:
    """Topics of a recording, published without decoding them; see `ReplayStream`.

    Attributes:
        skipped: Number of messages so far that are damaged, as far as that is noticed: of those of transforms.
    """

    is_live = False

    def __init__(self, node: Node, path: Path, topics: Sequence[str], with_tf: bool) -> None:
        """Open the recording and create the topics.

        Args:
            node: Owns them.
            path: Folder or file of the recording.
            topics: Names; empty for all images, with depth and calibrations, but those that a segment node published.
            with_tf: The transforms too.

        Raises:
            BagError: The recording cannot be read, has no such topic, or a topic's type is not installed.
        """
        self.skipped = 0
        self._bag = Bag(path)
        try:
            self._connections = _choose(self._bag, topics, with_tf)
            self._publishers: dict[tuple[str, str], Publisher] = {}
            self._shifts: dict[str, StampShift] = {}
            for entry in self._connections:
                self._publishers[entry.topic, entry.msgtype] = self._publishers.get(
                    (entry.topic, entry.msgtype)
                ) or node.create_publisher(find_type(entry.msgtype), entry.topic, self._qos(entry))
                self._shifts[entry.msgtype] = StampShift(entry.msgtype)
        except BaseException:
            self._bag.close()
            raise
        self.publishers = list(self._publishers.values())

    def moments(self) -> Iterator[Moment | None]:
        """See `ReplayStream.moments`."""
        for connection, time_ns, data in self._bag.messages(self._connections):
            publisher = self._publishers[connection.topic, connection.msgtype]
            shift = self._shifts[connection.msgtype]
            try:
                shift.check(data)
            except BagError as error:
                self.skipped += 1
                _log.warning(f'skipped: {connection.topic} at {time_ns}: {error}')
                continue
            yield Moment(time_ns, partial(_publish, publisher, shift, data))

    def close(self) -> None:
        """See `ReplayStream.close`."""
        self._bag.close()

    def _qos(self, connection: Connection) -> QoSProfile:
        same = [entry for entry in self._connections if entry[1:3] == connection[1:3]]
        offers = [
            offer
            for entry in same
            if isinstance(entry.ext, ConnectionExtRosbag2)
            for offer in entry.ext.offered_qos_profiles
        ]
        return recorded_qos(offers, sum(entry.msgcount for entry in same))


def _publish(publisher: Publisher, shift: StampShift, data: bytes, shift_ns: int) -> None:
    publisher.publish(shift.apply(data, shift_ns))


def _choose(bag: Bag, topics: Sequence[str], with_tf: bool) -> list[Connection]:
    found = [entry for entry in bag.connections if entry.msgcount]
    if topics:
        names = sorted({entry.topic for entry in found})
        if missing := [topic for topic in topics if topic not in names]:
            raise BagError(f'{bag.path} has no messages on {", ".join(missing)}; topics are: {", ".join(names)}')
        chosen = [entry for entry in found if entry.topic in topics]
    else:
        wanted = (*IMAGE_TYPES, CAMERA_INFO_TYPE)
        chosen = [e for e in found if e.msgtype in wanted and f'/{OUTPUT_NAMESPACE}/' not in e.topic]
        if not any(entry.msgtype in IMAGE_TYPES for entry in chosen):
            raise BagError(f'{bag.path} has no topic of images; name what to replay with the parameter topics')
    if with_tf:
        transforms = [entry for entry in found if entry.msgtype == TF_TYPE and entry not in chosen]
        if not transforms and not any(entry.msgtype == TF_TYPE for entry in chosen):
            raise BagError(f'{bag.path} has no transforms ({TF_TYPE})')
        chosen += transforms
    for entry in chosen:
        if find_type(entry.msgtype) is None:
            raise BagError(f'the type {entry.msgtype} of {entry.topic} is not installed here: it cannot be published')
    return chosen
