"""What a camera can replay, and how it publishes images; recordings are in `replay_bag`."""

from collections.abc import Callable, Iterator
from functools import partial
import logging
from typing import NamedTuple, Protocol

from builtin_interfaces.msg import Time
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Header

from fisa_ros.node.conversions import image_to_msg
from fisa_ros.sources.calibration_file import CameraCalibration
from fisa_ros.sources.frames import FrameSource, SourceFrame
from fisa_ros.sources.usb_camera import UsbCamera

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
    publishers: list[Publisher]

    @property
    def skipped(self) -> int:
        """Number of images or messages so far that could not be read."""

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
            yield Moment(frame.time_ns, partial(self._output.publish, frame))

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
            yield Moment(frame.time_ns, partial(self._output.publish, frame)) if frame else None

    def close(self) -> None:
        """See `ReplayStream.close`."""
        self._camera.close()


def calibration_to_msg(calibration: CameraCalibration, header: Header) -> CameraInfo:
    """Return a calibration as a message."""
    msg = CameraInfo(header=header, distortion_model=calibration.distortion_model, d=calibration.d)
    msg.width, msg.height = calibration.size_wh
    msg.k, msg.r, msg.p = calibration.k, calibration.r, calibration.p
    return msg
