"""A real node process on one side, this process on the other, and DDS between them."""

from collections.abc import Callable, Iterator
from contextlib import suppress
import fcntl
import itertools
import os
from pathlib import Path
import re
import signal
import subprocess
import sys
import time
from typing import Any

from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticArray
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
from fisa_ros.tools.ros_domain import profiles_variable, reserved_domain

ROOT = Path(__file__).absolute().parents[2]
TIMEOUT_S = 60.0
END_TIMEOUT_S = 10.0
# A node is to end within two seconds, of which it waits for its threads for one at most. Here it may be one process of
# many on a busy machine, and what it must not wait for takes 30 s in the tests.
SIGNAL_LIMIT_S = 5.0
LATCHED = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL)
RELIABLE = QoSProfile(depth=100, reliability=ReliabilityPolicy.RELIABLE)
SHARED_MEMORY = re.compile(r'/dev/shm/fast(?:rtps|dds)_[0-9a-f]+$', re.MULTILINE)
COLORS = {'red': (255, 0, 0), 'green': (0, 255, 0), 'blue': (0, 0, 255)}


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

    def shared_memory(self) -> set[Path]:
        """What Fast DDS has allocated for this process and shows to no other.

        Its ports are those of the whole machine: a process of another domain may have sent something here.
        """
        found: dict[str, set[str]] = {}
        for maps in Path('/proc').glob('[0-9]*/maps'):
            # Processes end at any moment.
            with suppress(OSError):
                found[maps.parent.name] = set(SHARED_MEMORY.findall(maps.read_text()))
        own = found.pop(str(self.process.pid))
        return {Path(path) for path in own.difference(*found.values())}

    def wait_for_log(self, text: str, timeout_s: float = TIMEOUT_S) -> None:
        end_s = time.monotonic() + timeout_s
        while text not in self.log:
            assert time.monotonic() < end_s, f'{text!r} not in the log:\n{self.log}'
            assert self.process.poll() is None or text in self.log, f'the node ended:\n{self.log}'
            time.sleep(0.02)

    def wait(self, timeout_s: float = TIMEOUT_S) -> int:
        return self.process.wait(timeout_s)

    def interrupt(self, number: int = signal.SIGINT) -> int:
        self.process.send_signal(number)
        return self.wait(SIGNAL_LIMIT_S)

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

    def start_transition(self, transition: str) -> Any:
        ids = {name: getattr(Transition, f'TRANSITION_{name.upper()}') for name in STEPS}
        request = ChangeState.Request(transition=Transition(id=ids[transition]))
        return self.start_call('segment/change_state', request)

    def change_state(self, transition: str) -> bool:
        answer = self.start_transition(transition)
        self.spin_until(answer.done)
        return bool(answer.result().success)

    def state(self) -> str:
        end_s = time.monotonic() + TIMEOUT_S
        while True:
            # An answer is lost if the node has not yet found who asks: it does not see its client when that sees it.
            answer = self.start_call('segment/get_state', GetState.Request())
            again_s = time.monotonic() + 10.0
            self.spin_until(lambda done=answer.done, end_s=again_s: done() or time.monotonic() > end_s)
            if answer.done():
                return str(answer.result().current_state.label)
            assert time.monotonic() < end_s, 'waited too long'

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


class GoodStream:
    """Good images all the time, whatever else happens, and what the node answers to them."""

    FRAME_ID = 'good'

    def __init__(self, client: Client, node: NodeProcess, period_s: float = 0.03) -> None:
        self._client = client
        self.node = node
        self.is_on = True
        self.known_tracebacks = 0
        self.sent: list[tuple[int, int]] = []
        self.ids_of_version = {1: {1, 2, 3}}
        self.answers = client.listen('segmentation/segments', SegmentArray, is_matched=False)
        self.masks = client.listen('segmentation/mask', Image, is_matched=False)
        self._reports = client.listen('/diagnostics', DiagnosticArray, is_matched=False)
        client.node.create_timer(period_s, self._publish)

    def serve(self, count: int = 2) -> None:
        """Return when some of the images that are sent from now on are answered."""
        self.is_on = True
        since = self.sent[-1] if self.sent else (0, 0)
        self._client.spin_until(
            lambda: sum(stamp_key(msg.header.stamp) > since for msg in self.good_answers()) >= count
        )

    def good_answers(self) -> list[Any]:
        return [msg for msg in self.answers if msg.header.frame_id == self.FRAME_ID]

    def counts(self) -> dict[str, int]:
        """What the node counts, as it says from now on."""
        self._reports.clear()
        topic = self._client.images.topic_name
        self._client.spin_until(lambda: len(self._reports) >= 2)
        (status,) = (s for s in self._reports[-1].status if topic in s.name)
        return {pair.key: int(pair.value) for pair in status.values if pair.key in COUNTS}

    def check(self) -> None:
        """Every answer is to an image that was sent, in order, once, and made with the words of its version."""
        known = set(self.sent)
        version_of = {}
        for messages in (self.answers, self.masks):
            stamps = [stamp_key(msg.header.stamp) for msg in messages if msg.header.frame_id == self.FRAME_ID]
            assert known >= set(stamps)
            assert stamps == sorted(set(stamps))
        for msg in self.good_answers():
            version_of[stamp_key(msg.header.stamp)] = msg.vocabulary_version
        assert set(version_of.values()) <= set(self.ids_of_version), 'the version changed by itself'
        for msg in self.masks:
            version = version_of.get(stamp_key(msg.header.stamp))
            if msg.header.frame_id == self.FRAME_ID and version:
                assert set(msg.data) == self.ids_of_version[version]
        assert self.node.log.count('Traceback') == self.known_tracebacks, self.node.log

    def _publish(self) -> None:
        if self.is_on:
            self.sent.append(self._client.publish(frame_id=self.FRAME_ID))


COUNTS = ('received', 'answered', 'dropped', 'refused')
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


def remove_shared_memory_of_the_dead() -> None:
    """Remove what killed processes leave behind, 64 MB each; the living keep their file `_el` locked."""
    for lock in Path('/dev/shm').glob('fastrtps_*_el'):
        with suppress(OSError), lock.open('r+') as file:
            if time.time() - lock.stat().st_mtime > TIMEOUT_S:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                lock.with_name(lock.name.removesuffix('_el')).unlink(missing_ok=True)
                lock.unlink()


@pytest.fixture(scope='session', autouse=True)
def ros_environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    os.environ['ROS_AUTOMATIC_DISCOVERY_RANGE'] = 'LOCALHOST'
    os.environ[profiles_variable()] = str(ROOT / 'config' / 'fastdds.xml')
    exported = cache_dir() / 'fisa-tiny'
    os.environ['XDG_CACHE_HOME'] = str(tmp_path_factory.mktemp('cache'))
    # What the set-up exported serves here too; texts are encoded anew.
    cache_dir().mkdir()
    (cache_dir() / 'fisa-tiny').symlink_to(exported)
    os.environ['ROS_LOG_DIR'] = str(tmp_path_factory.mktemp('log'))
    if 'ROS_DOMAIN_ID' in os.environ:
        yield
    else:
        with reserved_domain() as domain_id:
            os.environ['ROS_DOMAIN_ID'] = str(domain_id)
            yield
    remove_shared_memory_of_the_dead()


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
def stream_of(client: Client, start_node: Callable[..., NodeProcess]) -> Iterator[Callable[..., GoodStream]]:
    """Starts a node with good images for it; after the test it must still serve, and must have answered rightly."""
    streams: list[GoodStream] = []

    def start(*options: str, **parameters: str) -> GoodStream:
        streams.append(GoodStream(client, start_node(*options, **{'vocabulary': '"red; green; blue"'} | parameters)))
        streams[-1].serve()
        return streams[-1]

    yield start
    for stream in streams:
        stream.serve()
        stream.check()


@pytest.fixture
def colours() -> str:
    return '"red; green; blue"'


@pytest.fixture
def stripes() -> Callable[..., np.ndarray]:
    return stripes_image


@pytest.fixture
def latched() -> QoSProfile:
    return LATCHED
