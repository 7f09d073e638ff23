"""What a camera can replay: images, recordings, and cameras that are live."""

from collections.abc import Callable, Iterator, Sequence
import logging
from pathlib import Path
from typing import NamedTuple, Protocol

from builtin_interfaces.msg import Time
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rosbags.interfaces import Connection, ConnectionExtRosbag2
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Header

from fisa_ros.core.errors import BagError
from fisa_ros.node.bag_topics import IMAGE_TYPES, OUTPUT_NAMESPACE
from fisa_ros.node.conversions import image_to_msg
from fisa_ros.node.raw_messages import StampShift, find_type
from fisa_ros.node.recorded_qos import recorded_qos
from fisa_ros.sources.bag import Bag
from fisa_ros.sources.calibration_file import CameraCalibration
from fisa_ros.sources.frames import FrameSource, SourceFrame
from fisa_ros.sources.usb_camera import UsbCamera

CAMERA_INFO_TYPE = 'sensor_msgs/msg/CameraInfo'
TF_TYPE = 'tf2_msgs/msg/TFMessage'

_IMAGE_QOS = QoSProfile(depth=2, reliability=ReliabilityPolicy.RELIABLE)
_LIVE_WAIT_S = 0.02

_log = logging.getLogger(__name__)


class Moment(NamedTuple):
    """Something to publish.

    Attributes:
        time_ns: When it was recorded.
        send: Publishes it, with stamps that are later than the recorded ones by so many nanoseconds.
    """

    time_ns: int
    send: Callable[[int], None]


class ReplayStream(Protocol):
    """Something to replay.

    Attributes:
        is_live: True if it happens now: everything is due at once, and there is no second time.
        publishers: All that it publishes with.
    """

    is_live: bool
    publishers: Sequence[Publisher]

    @property
    def skipped(self) -> int:
        """Number of images so far that could not be read."""

    def moments(self) -> Iterator[Moment | None]:
        """Yield everything once; None where nothing has come yet.

        Raises:
            FisaError: It cannot be read.
        """

    def close(self) -> None:
        """Free the source."""


class ImagePublisher:
    """Publishes images as `image`, and with a calibration also `camera_info`."""

    def __init__(self, node: Node, frame_id: str, calibration: CameraCalibration | None) -> None:
        """Create the topics.

        Args:
            node: Owns them.
            frame_id: Of the headers.
            calibration: What `camera_info` says; None for no such topic.
        """
        self._frame_id = frame_id
        self._calibration = calibration
        self._image = node.create_publisher(Image, 'image', _IMAGE_QOS)
        self._info = node.create_publisher(CameraInfo, 'camera_info', _IMAGE_QOS) if calibration else None
        self._has_warned = False
        self.publishers = [publisher for publisher in (self._image, self._info) if publisher is not None]

    def publish(self, frame: SourceFrame, shift_ns: int) -> None:
        """Publish an image with the moment it was taken at, moved by `shift_ns`."""
        sec, nanosec = divmod(frame.time_ns + shift_ns, 1_000_000_000)
        header = Header(stamp=Time(sec=sec, nanosec=nanosec), frame_id=self._frame_id)
        self._image.publish(image_to_msg(frame.image, 'rgb8', header))
        if self._info is not None and self._calibration is not None:
            self._info.publish(calibration_to_msg(self._calibration, header))
            size_wh = (frame.image.shape[1], frame.image.shape[0])
            if size_wh != self._calibration.size_wh and not self._has_warned:
                self._has_warned = True
                _log.warning(
                    'camera_info_file is for {}x{}, the images are {}x{}'.format(*self._calibration.size_wh, *size_wh)
                )


class FrameStream:
    """A folder or a video; see `ReplayStream`."""

    is_live = False

    def __init__(self, source: FrameSource, output: ImagePublisher) -> None:
        self._source = source
        self._output = output
        self.publishers = output.publishers

    @property
    def skipped(self) -> int:
        """See `ReplayStream.skipped`."""
        return self._source.skipped

    def moments(self) -> Iterator[Moment | None]:
        """See `ReplayStream.moments`."""
        for frame in self._source.frames():
            yield Moment(frame.time_ns, lambda shift_ns, frame=frame: self._output.publish(frame, shift_ns))

    def close(self) -> None:
        """See `ReplayStream.close`."""


class LiveStream:
    """A camera of this machine; see `ReplayStream`."""

    is_live = True
    skipped = 0

    def __init__(self, camera: UsbCamera, output: ImagePublisher) -> None:
        self._camera = camera
        self._output = output
        self.publishers = output.publishers

    def moments(self) -> Iterator[Moment | None]:
        """See `ReplayStream.moments`; does not end."""
        while True:
            frame = self._camera.take(_LIVE_WAIT_S)
            yield frame and Moment(frame.time_ns, lambda shift_ns, frame=frame: self._output.publish(frame, shift_ns))

    def close(self) -> None:
        """See `ReplayStream.close`."""
        self._camera.close()


class BagStream:
    """Topics of a recording, published without decoding them; see `ReplayStream`."""

    is_live = False
    skipped = 0

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
            yield Moment(
                time_ns,
                lambda shift_ns, data=data, publisher=publisher, shift=shift: publisher.publish(
                    shift.apply(data, shift_ns)
                ),
            )

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


def calibration_to_msg(calibration: CameraCalibration, header: Header) -> CameraInfo:
    """Return a calibration as a message."""
    msg = CameraInfo(header=header, distortion_model=calibration.distortion_model, d=calibration.d)
    msg.width, msg.height = calibration.size_wh
    msg.k, msg.r, msg.p = calibration.k, calibration.r, calibration.p
    return msg


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
