"""The node `camera`: a folder, a video, a recording or a USB camera as topics."""

from contextlib import suppress
from dataclasses import dataclass
import gc
import logging
import math
import os
from pathlib import Path
import sys
import time

from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
import rclpy
from rclpy._rclpy_pybind11 import RCLError
from rclpy.clock import Clock
from rclpy.clock_type import ClockType
from rclpy.duration import Duration
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.signals import SignalHandlerOptions, install_signal_handlers
from rclpy.utilities import try_shutdown
from rosgraph_msgs.msg import Clock as ClockMsg
from std_msgs.msg import Header

from fisa_ros.core.errors import FisaError, SourceError
from fisa_ros.node.logging_bridge import attach_package_log, detach_package_log
from fisa_ros.node.pace import RecordedPace
from fisa_ros.node.parameters import Parameters, ParameterStore, param
from fisa_ros.node.replay_streams import FrameStream, ImagePublisher, LiveStream, ReplayStream
from fisa_ros.sources.bag_paths import is_bag
from fisa_ros.sources.calibration_file import read_calibration
from fisa_ros.sources.image_folder import IMAGE_SUFFIXES, ImageFolder
from fisa_ros.sources.usb_camera import UsbCamera, device_path
from fisa_ros.sources.video_file import VideoFile

_log = logging.getLogger(__name__)

_REPORT_PERIOD_S = 1.0
# As `ros2 bag play --clock` has it.
_CLOCK_PERIOD_S = 1 / 40
_CLOCK_QOS = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
_FLUSH_S = 1.0
_LISTENERS_PERIOD_S = 0.05
_SINGLE_RATE_HZ = 10.0


@dataclass(frozen=True)
class ReplayCameraParameters(Parameters):
    """What a user can set at start."""

    source: str = param(
        '',
        'Folder of images, video, recording (rosbag2 folder, .mcap, .db3), or camera (/dev/video0).',
        read_only=True,
    )
    rate_hz: float = param(
        0.0,
        'Images per second of a folder or video; 0 takes the times of the video, or those in the names of the images. '
        'A camera is asked for that rate, 0 asks for none; if it gives another one, a warning tells both.',
        low=0.0,
        high=240.0,
        read_only=True,
    )
    loop: bool = param(False, 'Begin anew at the end; otherwise the node ends.', read_only=True)
    frame_id: str = param('camera_optical_frame', 'Frame of the images; a recording has its own.', read_only=True)
    camera_info_file: str = param(
        '',
        'Calibration as camera_calibration writes it, published as camera_info; a recording has its own.',
        read_only=True,
    )
    stamps: str = param(
        'now',
        'now: the recorded stamps, all moved by as much as it takes to begin now. '
        'recorded: as they are, and the time that belongs to them is published on /clock (set use_sim_time elsewhere).',
        choices=('now', 'recorded'),
        read_only=True,
    )
    topics: tuple[str, ...] = param(
        ('',),
        'Topics of a recording; by default all images, with depth and camera_info.',
        read_only=True,
    )
    tf: bool = param(False, 'Replay the transforms of a recording too.', read_only=True)
    wait_for_listeners: bool = param(
        False, 'Begin when every topic has a listener, so that none misses anything.', read_only=True
    )
    delay_s: float = param(
        0.5, 'Time for listeners to find the topics before the first message.', low=0.0, high=60.0, read_only=True
    )


class ReplayCameraNode(Node):
    """Publishes what was recorded, at the pace it was recorded."""

    def __init__(self) -> None:
        """Open the source and create the topics.

        Raises:
            FisaError: There is no such source, or a parameter has a value that it cannot have.
        """
        super().__init__('camera')
        self._log_handler = attach_package_log(self)
        self._settings = ParameterStore(self, ReplayCameraParameters()).current
        self._stream = open_stream(self, self._settings)
        is_recorded = self._settings.stamps == 'recorded'
        self._time_output = self.create_publisher(ClockMsg, '/clock', _CLOCK_QOS) if is_recorded else None
        self._time_due_s = 0.0
        self._diagnostics = self.create_publisher(DiagnosticArray, '/diagnostics', 1)
        # The node's own clock may be the one that this node makes.
        self.create_timer(_REPORT_PERIOD_S, self._report, clock=Clock(clock_type=ClockType.STEADY_TIME))
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self)
        self._pace = RecordedPace()
        self._sent = 0
        self._passes = 0
        self._worst_late_s = 0.0
        _log.info(f'replaying {self._settings.source} as {", ".join(p.topic_name for p in self._stream.publishers)}')

    def play(self) -> None:
        """Publish everything; return at the end, or when the context is shut down.

        Raises:
            FisaError: The source cannot be read any further.
        """
        while self.context.ok() and self._settings.wait_for_listeners and not self._is_heard():
            self._executor.spin_once(timeout_sec=_LISTENERS_PERIOD_S)
        in_s = self._settings.delay_s
        while self.context.ok():
            in_s = self._play_once(in_s)
            self._passes += 1
            if not self._settings.loop:
                break
        if self.context.ok():
            _log.info(f'finished: {self._sent} messages')
            self._flush()

    def end(self) -> None:
        """Free the source."""
        self._executor.shutdown()
        self._stream.close()
        detach_package_log(self._log_handler)

    def _is_heard(self) -> bool:
        return all(publisher.get_subscription_count() for publisher in self._stream.publishers)

    def _play_once(self, in_s: float) -> float:
        """Publish everything once, the first in `in_s` seconds; return how long to wait before a second time."""
        shift_ns = first_ns = last_ns = None
        interval_s = 0.0
        for moment in self._stream.moments():
            if moment is not None:
                if first_ns is None:
                    first_ns = moment.time_ns
                    self._pace.start(first_ns, in_s)
                    shift_ns = 0 if self._time_output or self._stream.is_live else self._shift_ns(first_ns, in_s)
                if last_ns is not None and moment.time_ns > last_ns:
                    interval_s = (moment.time_ns - last_ns) * 1e-9
                last_ns = moment.time_ns
            if not self._wait(None if moment is None or self._stream.is_live else moment.time_ns):
                break
            if moment is not None:
                moment.send(shift_ns or 0)
                self._sent += 1
        # A single image has no distance to the next one.
        return interval_s or 1.0 / (self._settings.rate_hz or _SINGLE_RATE_HZ)

    @staticmethod
    def _shift_ns(first_ns: int, in_s: float) -> int:
        return time.time_ns() + round(in_s * 1e9) - first_ns

    def _wait(self, time_ns: int | None) -> bool:
        """Serve this node's callbacks, at least once, until a moment of the recording is due.

        Args:
            time_ns: The moment; None for now.

        Returns:
            False if the node is to end.
        """
        wait_s = math.inf
        while self.context.ok() and wait_s > 0.0:
            wait_s = 0.0 if time_ns is None else self._pace.wait_s(time_ns)
            timeout_s = min(wait_s, self._tick()) if self._time_output else wait_s
            self._executor.spin_once(timeout_sec=max(0.0, timeout_s))
            wait_s = 0.0 if time_ns is None else self._pace.wait_s(time_ns)
        self._worst_late_s = max(self._worst_late_s, -wait_s)
        return bool(self.context.ok())

    def _tick(self) -> float:
        """Publish the time if that is due; return the time until it is due again."""
        now_s = time.monotonic()
        if self._time_output is not None and now_s >= self._time_due_s and self._pace.now_ns() >= 0:
            sec, nanosec = divmod(self._pace.now_ns(), 1_000_000_000)
            self._time_output.publish(ClockMsg(clock=Time(sec=sec, nanosec=nanosec)))
            self._time_due_s = now_s + _CLOCK_PERIOD_S
        return self._time_due_s - now_s

    def _flush(self) -> None:
        """Let the last messages reach reliable listeners."""
        end_s = time.monotonic() + _FLUSH_S
        for publisher in self._stream.publishers:
            left_s = end_s - time.monotonic()
            if left_s > 0.0:
                publisher.wait_for_all_acked(Duration(seconds=left_s))

    def _report(self) -> None:
        values = {
            'source': self._settings.source,
            'sent': self._sent,
            'skipped': self._stream.skipped,
            'passes': self._passes,
            'worst_late_ms': round(self._worst_late_s * 1e3, 1),
        }
        self._worst_late_s = 0.0
        status = DiagnosticStatus(
            level=DiagnosticStatus.WARN if self._stream.skipped else DiagnosticStatus.OK,
            name=f'{self.get_fully_qualified_name()}: replay',
            message=f'{self._sent} messages, {self._stream.skipped} skipped',
            values=[KeyValue(key=key, value=str(value)) for key, value in values.items()],
        )
        stamp = self.get_clock().now().to_msg()
        self._diagnostics.publish(DiagnosticArray(header=Header(stamp=stamp), status=[status]))


def open_stream(node: Node, parameters: ReplayCameraParameters) -> ReplayStream:
    """Open what the parameters name.

    Raises:
        FisaError: It is missing, cannot be read, or the parameters contradict each other.
    """
    if not parameters.source:
        raise SourceError('parameter source is missing: a folder of images, a video, a recording or /dev/video0')
    path = _expand_home(parameters.source)
    device = device_path(parameters.source)
    if device is None and not path.exists():
        raise SourceError(f'source {path} does not exist')
    if device is None and is_bag(path):
        if parameters.rate_hz or parameters.camera_info_file:
            given = 'rate_hz' if parameters.rate_hz else 'camera_info_file'
            raise SourceError(f'{path} is a recording, with times and calibrations of its own: leave {given} out')
        return _open_bag(node, path, [topic for topic in parameters.topics if topic], parameters.tf)
    if any(parameters.topics) or parameters.tf:
        raise SourceError(f'{parameters.source} is no recording: it has no topics and no tf')
    info_file = parameters.camera_info_file
    calibration = read_calibration(_expand_home(info_file)) if info_file else None
    if device is not None:
        if parameters.stamps == 'recorded':
            raise SourceError(f'{device} is a camera: it has no recorded stamps')
        return LiveStream(
            UsbCamera(device, rate_hz=parameters.rate_hz), ImagePublisher(node, parameters.frame_id, calibration)
        )
    is_image = path.is_dir() or path.suffix.lower() in IMAGE_SUFFIXES
    source = (ImageFolder if is_image else VideoFile)(path, parameters.rate_hz)
    return FrameStream(source, ImagePublisher(node, parameters.frame_id, calibration))


def _expand_home(path: str) -> Path:
    # There may be no such user.
    with suppress(RuntimeError):
        return Path(path).expanduser()
    return Path(path)


def _open_bag(node: Node, path: Path, topics: list[str], with_tf: bool) -> ReplayStream:
    # Videos and folders are replayed on robots that have no use for recordings.
    try:
        from fisa_ros.node.replay_bag import BagStream
    except ModuleNotFoundError as error:
        raise SourceError(f'to replay {path} a Python package is missing: pip install rosbags ({error})') from error
    return BagStream(node, path, topics, with_tf)


def run(args: list[str] | None = None) -> int:
    """Replay until the end or an interruption; return the exit code of the process."""
    # A signal in the midst of creating the node would leave it with half a context: until then it ends the process.
    rclpy.init(args=args, signal_handler_options=SignalHandlerOptions.NO)
    node: ReplayCameraNode | None = None
    code = 0
    try:
        node = ReplayCameraNode()
        install_signal_handlers(SignalHandlerOptions.ALL)
        node.play()
    except FisaError as error:
        reason = 'cannot start' if node is None else 'cannot go on'
        rclpy.logging.get_logger('camera').error(f'{reason}: {error}')
        code = 1
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    except RCLError:
        # A signal may end the context while something is being published.
        if node is None or node.context.ok():
            raise
    finally:
        if node is not None:
            node.end()
        try_shutdown()
    return code


def main() -> None:
    """Entry point of `camera_node`."""
    code = run()
    # The node is full of cycles; only without it the middleware gives its shared memory back.
    gc.collect()
    sys.stdout.flush()
    sys.stderr.flush()
    # A thread may still wait for a camera inside OpenCV, which Python could not end.
    os._exit(code)
