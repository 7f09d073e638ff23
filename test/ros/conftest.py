"""A real node process on one side, this process on the other, and DDS between them."""

from collections.abc import Callable, Iterator
from contextlib import suppress
import itertools
import os
from pathlib import Path
import random
import signal
import socket
import subprocess
import sys
import time
from typing import Any

from builtin_interfaces.msg import Time
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState
import numpy as np
import pytest
from rcl_interfaces.srv import GetParameters, SetParameters
import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image
from std_msgs.msg import Header
from std_srvs.srv import SetBool

from fisa_ros.core.resources import cache_dir
from fisa_ros.msg import SegmentArray
from fisa_ros.node import conversions
from fisa_ros.srv import GetVocabulary, SegmentImage, SetVocabulary

ROOT = Path(__file__).absolute().parents[2]
TIMEOUT_S = 60.0
END_TIMEOUT_S = 10.0
LATCHED = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL)
RELIABLE = QoSProfile(depth=100, reliability=ReliabilityPolicy.RELIABLE)
COLORS = {'red': (255, 0, 0), 'green': (0, 255, 0), 'blue': (0, 0, 255)}


def find_free_domain() -> int:
    """Return a domain id whose discovery port nobody uses."""
    for domain in random.sample(range(1, 102), 101):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            try:
                probe.bind(('', 7400 + 250 * domain))
            except OSError:
                continue
            return domain
    raise RuntimeError('all ROS domains are in use')


def stripes_image(size_hw: tuple[int, int] = (48, 64)) -> np.ndarray:
    """Three vertical stripes, red, green and blue."""
    columns = np.arange(size_hw[1]) * 3 // size_hw[1]
    return np.ascontiguousarray(np.broadcast_to(np.array(list(COLORS.values()), np.uint8)[columns], (*size_hw, 3)))


def stamp_key(stamp: Time) -> tuple[int, int]:
    """Something that can be compared and put into sets."""
    return stamp.sec, stamp.nanosec


class NodeProcess:
    """The node under test, with all it prints."""

    def __init__(self, command: list[str], log_path: Path, environment: dict[str, str]) -> None:
        self._log = log_path.open('w')
        self.log_path = log_path
        self.process = subprocess.Popen(
            command, stdout=self._log, stderr=subprocess.STDOUT, env=os.environ | environment, cwd=log_path.parent
        )

    @property
    def log(self) -> str:
        return self.log_path.read_text()

    def wait_for_log(self, text: str, timeout_s: float = TIMEOUT_S) -> None:
        end_s = time.monotonic() + timeout_s
        while text not in self.log:
            assert time.monotonic() < end_s, f'{text!r} not in the log:\n{self.log}'
            assert self.process.poll() is None or text in self.log, f'the node ended:\n{self.log}'
            time.sleep(0.02)

    def wait(self, timeout_s: float = TIMEOUT_S) -> int:
        return self.process.wait(timeout_s)

    def interrupt(self, number: int = signal.SIGINT, timeout_s: float = TIMEOUT_S) -> int:
        self.process.send_signal(number)
        return self.wait(timeout_s)

    def close(self) -> None:
        # A killed node would leave its shared memory behind, 64 MB of it.
        for number in (signal.SIGINT, signal.SIGKILL):
            if self.process.poll() is None:
                self.process.send_signal(number)
                with suppress(subprocess.TimeoutExpired):
                    self.process.wait(END_TIMEOUT_S)
        self._log.close()


class Client:
    """The rest of the robot: publishes images, listens, and calls services."""

    def __init__(self) -> None:
        rclpy.init()
        self.node = rclpy.create_node('test_client')
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self.node)
        self._stamps = itertools.count(1)
        self._clients: dict[str, Any] = {}
        self.images = self.node.create_publisher(Image, 'image', RELIABLE)

    def close(self) -> None:
        self._executor.shutdown()
        self.node.destroy_node()
        rclpy.shutdown()

    def spin_until(self, condition: Callable[[], Any], timeout_s: float = TIMEOUT_S) -> None:
        end_s = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < end_s, 'waited too long'
            self._executor.spin_once(timeout_sec=0.05)

    def spin_for(self, duration_s: float) -> None:
        end_s = time.monotonic() + duration_s
        while time.monotonic() < end_s:
            self._executor.spin_once(timeout_sec=0.02)

    def listen(self, topic: str, msg_type: Any, qos: QoSProfile = RELIABLE, is_matched: bool = True) -> list[Any]:
        """Return a list that grows with each message; wait for the publisher unless told otherwise."""
        messages: list[Any] = []
        subscription = self.node.create_subscription(msg_type, topic, messages.append, qos)
        if is_matched:
            self.spin_until(lambda: self.node.count_publishers(subscription.topic_name) > 0)
        return messages

    def start_call(self, service: str, request: Any) -> Any:
        if service not in self._clients:
            self._clients[service] = self.node.create_client(SERVICES[service], service, qos_profile=RELIABLE)
            self.spin_until(self._clients[service].service_is_ready)
        return self._clients[service].call_async(request)

    def call(self, service: str, request: Any) -> Any:
        answer = self.start_call(service, request)
        self.spin_until(answer.done)
        return answer.result()

    def set_vocabulary(self, *classes: str, **fields: Any) -> Any:
        return self.call('set_vocabulary', SetVocabulary.Request(classes=list(classes), **fields))

    def get_vocabulary(self) -> Any:
        return self.call('get_vocabulary', GetVocabulary.Request())

    def set_parameter(self, name: str, value: Any) -> Any:
        parameter = Parameter(name, value=value).to_parameter_msg()
        return self.call('segment/set_parameters', SetParameters.Request(parameters=[parameter])).results[0]

    def get_parameter(self, name: str) -> Any:
        values = self.call('segment/get_parameters', GetParameters.Request(names=[name])).values
        return rclpy.parameter.parameter_value_to_python(values[0])

    def change_state(self, transition: str) -> bool:
        ids = {name: getattr(Transition, f'TRANSITION_{name.upper()}') for name in STEPS}
        request = ChangeState.Request(transition=Transition(id=ids[transition]))
        return bool(self.call('segment/change_state', request).success)

    def state(self) -> str:
        return str(self.call('segment/get_state', GetState.Request()).current_state.label)

    def publish_until(self, condition: Callable[[], Any], image: np.ndarray | None = None) -> set[tuple[int, int]]:
        """Publish now and then until the condition holds; return the stamps."""
        stamps = set()
        end_s = time.monotonic() + TIMEOUT_S
        while not condition():
            assert time.monotonic() < end_s, 'waited too long'
            stamps.add(self.publish(image))
            self.spin_for(0.05)
        return stamps

    def connect(self) -> None:
        """Return when images reach the node and its answers come back."""
        answers = self.listen('segmentation/segments', SegmentArray)
        self.publish_until(lambda: answers)
        last = self.publish()
        self.spin_until(lambda: stamp_key(answers[-1].header.stamp) == last)

    def next_header(self, frame_id: str = 'camera') -> Header:
        """Return a header with a stamp that no other has."""
        number = next(self._stamps)
        return Header(stamp=Time(sec=number // 1000, nanosec=number % 1000), frame_id=frame_id)

    def publish(self, image: np.ndarray | None = None, frame_id: str = 'camera') -> tuple[int, int]:
        """Publish an image with a stamp of its own and return that."""
        header = self.next_header(frame_id)
        pixels = stripes_image() if image is None else image
        self.images.publish(conversions.image_to_msg(pixels, 'rgb8', header))
        return stamp_key(header.stamp)


STEPS = ('configure', 'activate', 'deactivate', 'cleanup')
SERVICES = {
    'set_vocabulary': SetVocabulary,
    'get_vocabulary': GetVocabulary,
    'segment_image': SegmentImage,
    'set_enabled': SetBool,
    'segment/set_parameters': SetParameters,
    'segment/get_parameters': GetParameters,
    'segment/change_state': ChangeState,
    'segment/get_state': GetState,
}


@pytest.fixture(scope='session', autouse=True)
def ros_environment(tmp_path_factory: pytest.TempPathFactory) -> None:
    if 'ROS_DOMAIN_ID' not in os.environ:
        os.environ['ROS_DOMAIN_ID'] = str(find_free_domain())
    os.environ['ROS_AUTOMATIC_DISCOVERY_RANGE'] = 'LOCALHOST'
    os.environ['FASTRTPS_DEFAULT_PROFILES_FILE'] = str(ROOT / 'config' / 'fastdds.xml')
    exported = cache_dir() / 'fisa-tiny'
    os.environ['XDG_CACHE_HOME'] = str(tmp_path_factory.mktemp('cache'))
    # What the set-up exported serves here too; texts are encoded anew.
    cache_dir().mkdir()
    (cache_dir() / 'fisa-tiny').symlink_to(exported)
    os.environ['ROS_LOG_DIR'] = str(tmp_path_factory.mktemp('log'))


@pytest.fixture
def client() -> Iterator[Client]:
    instance = Client()
    yield instance
    instance.close()


@pytest.fixture
def start_node(tmp_path: Path) -> Iterator[Callable[..., NodeProcess]]:
    """Starts the node, by default with the nearest-colour model; keyword arguments are parameters."""
    processes: list[NodeProcess] = []

    def start(
        *options: str,
        executable: Path = ROOT / 'test' / 'ros' / 'nearest_colour.py',
        environment: dict[str, str] | None = None,
        **parameters: str,
    ) -> NodeProcess:
        pairs = [argument for name, value in parameters.items() for argument in ('-p', f'{name}:={value}')]
        command = [sys.executable, str(executable), *options, '--ros-args', *pairs]
        processes.append(NodeProcess(command, tmp_path / f'node{len(processes)}.log', environment or {}))
        return processes[-1]

    yield start
    for process in processes:
        process.close()


@pytest.fixture
def colours() -> str:
    return '"red; green; blue"'


@pytest.fixture
def stripes() -> Callable[..., np.ndarray]:
    return stripes_image


@pytest.fixture
def latched() -> QoSProfile:
    return LATCHED
