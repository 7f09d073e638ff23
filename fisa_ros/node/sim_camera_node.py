"""The node `sim_camera`: a simulated camera that also publishes what it really sees."""

from dataclasses import dataclass
import logging
import os
import sys

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
import rclpy
from rclpy._rclpy_pybind11 import RCLError
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.signals import SignalHandlerOptions, install_signal_handlers
from rclpy.utilities import try_shutdown
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Header

from fisa_ros.core.errors import FisaError
from fisa_ros.core.results import PanopticResult
from fisa_ros.msg import SegmentArray
from fisa_ros.node.conversions import image_to_msg, segments_to_msg
from fisa_ros.node.logging_bridge import attach_package_log, detach_package_log
from fisa_ros.node.pace import Pace
from fisa_ros.node.parameters import Parameters, ParameterStore, param
from fisa_ros.simulation.camera import SCENES, SceneCamera

_log = logging.getLogger(__name__)

FRAME_ID = 'camera_optical_frame'

_IMAGE_QOS = QoSProfile(depth=2, reliability=ReliabilityPolicy.RELIABLE)
_REPORT_PERIOD_S = 1.0


@dataclass(frozen=True)
class SimCameraParameters(Parameters):
    """What a user can set at start."""

    rate_hz: float = param(
        10.0, 'Images per second; an image that comes too late is skipped.', low=0.1, high=120.0, read_only=True
    )
    width: int = param(640, 'Width of the images.', low=16, high=4096, read_only=True)
    height: int = param(480, 'Height of the images.', low=16, high=4096, read_only=True)
    seed: int = param(1, 'Number of the room and of the way through it.', low=0, high=999_999, read_only=True)
    scene: str = param('room', 'Style of the room; "room" takes any.', choices=SCENES, read_only=True)


class SimCameraNode(Node):
    """Walks a camera through a simulated room in real time; depth and truth are rendered only for listeners."""

    def __init__(self) -> None:
        """Build the scene and create the topics.

        Raises:
            FisaError: A parameter has a value that it cannot have, or this machine cannot render.
        """
        super().__init__('sim_camera')
        self._log_handler = attach_package_log(self)
        self._settings = ParameterStore(self, SimCameraParameters())
        parameters = self._settings.current
        self._camera = SceneCamera(parameters.seed, (parameters.width, parameters.height), parameters.scene)
        self._image = self.create_publisher(Image, 'image', _IMAGE_QOS)
        self._depth = self.create_publisher(Image, 'depth', _IMAGE_QOS)
        self._info = self.create_publisher(CameraInfo, 'camera_info', 10)
        self._true_map = self.create_publisher(Image, 'truth/panoptic', 10)
        self._true_segments = self.create_publisher(SegmentArray, 'truth/segments', 10)
        self._diagnostics = self.create_publisher(DiagnosticArray, '/diagnostics', 1)
        self._sent = 0
        self.create_timer(_REPORT_PERIOD_S, self._report)
        _log.info(
            f'{parameters.width}x{parameters.height} at {parameters.rate_hz:g} Hz, '
            f'scene {parameters.scene!r}, seed {parameters.seed}'
        )
        self.pace = Pace(parameters.rate_hz)

    def capture(self, dt_s: float) -> None:
        """Move on for `dt_s` seconds, then publish what is seen."""
        self._camera.step(dt_s)
        wants_depth = _has_listener(self._depth)
        wants_truth = _has_listener(self._true_map) or _has_listener(self._true_segments)
        image = self._camera.color()
        header = Header(stamp=self.get_clock().now().to_msg(), frame_id=FRAME_ID)
        self._image.publish(image_to_msg(image, 'rgb8', header))
        self._info.publish(camera_info_to_msg(self._camera, header))
        self._sent += 1
        # After the image, so that it is on its way while these are rendered.
        if wants_depth:
            self._depth.publish(image_to_msg(self._camera.depth(), '32FC1', header))
        if wants_truth:
            panoptic_map, segments = self._camera.truth()
            truth = PanopticResult(panoptic_map, segments, vocabulary_version=0)
            self._true_map.publish(image_to_msg(truth.panoptic_map, 'mono16', header))
            self._true_segments.publish(segments_to_msg(truth, header))

    def end(self) -> None:
        """Free the renderer."""
        self._camera.close()
        detach_package_log(self._log_handler)

    def _report(self) -> None:
        values = {
            'sent': self._sent,
            'skipped': self.pace.skipped,
            'rate_hz': self._settings.current.rate_hz,
            'seed': self._settings.current.seed,
            'renderer': os.environ.get('MUJOCO_GL', ''),
        }
        status = DiagnosticStatus(
            level=DiagnosticStatus.OK,
            name=f'{self.get_fully_qualified_name()}: camera',
            message=f'{self._sent} images, {self.pace.skipped} skipped',
            values=[KeyValue(key=key, value=str(value)) for key, value in values.items()],
        )
        self._diagnostics.publish(
            DiagnosticArray(header=Header(stamp=self.get_clock().now().to_msg()), status=[status])
        )


def camera_info_to_msg(camera: SceneCamera, header: Header) -> CameraInfo:
    """Return the calibration of a camera without distortion."""
    fx, fy, cx, cy = camera.intrinsics
    msg = CameraInfo(header=header, distortion_model='plumb_bob', d=[0.0] * 5)
    msg.width, msg.height = camera.size_wh
    msg.k = [fx, 0.0, cx, 0.0, fy, cy, 0.0, 0.0, 1.0]
    msg.r = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0]
    msg.p = [fx, 0.0, cx, 0.0, 0.0, fy, cy, 0.0, 0.0, 0.0, 1.0, 0.0]
    return msg


def _has_listener(publisher: Publisher) -> bool:
    return bool(publisher.get_subscription_count())


def run(args: list[str] | None = None) -> int:
    """Run the node until it is interrupted; return the exit code of the process."""
    # A signal in the midst of creating the node would leave it with half a context: until then it ends the process.
    rclpy.init(args=args, signal_handler_options=SignalHandlerOptions.NO)
    try:
        node = SimCameraNode()
        install_signal_handlers(SignalHandlerOptions.ALL)
        _film(node)
    except FisaError as error:
        rclpy.logging.get_logger('sim_camera').error(f'cannot start: {error}')
        return 1
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    finally:
        try_shutdown()
    return 0


def _film(node: SimCameraNode) -> None:
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    try:
        while node.context.ok():
            # Without a pause at least once per image, a camera that is always late would never answer anybody.
            executor.spin_once(timeout_sec=max(0.0, node.pace.wait_s()))
            if node.pace.wait_s() <= 0.0:
                node.capture(node.pace.advance())
    except RCLError:
        # A signal may end the context while an image is being made.
        if node.context.ok():
            raise
    finally:
        executor.shutdown()
        node.end()


def main() -> None:
    """Entry point of `sim_camera_node`."""
    sys.exit(run())
