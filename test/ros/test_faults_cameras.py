"""Cameras and listeners that die, flood, change their minds or stand still, and clocks that jump."""

from pathlib import Path
import select
import signal
import subprocess
import sys

from builtin_interfaces.msg import Time
import pytest
import rclpy
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header, String
from vision_msgs.msg import Detection2DArray

from fisa_ros.msg import SegmentArray
from fisa_ros.node import conversions

SCRIPT = Path(__file__).with_name('fault_process.py')
QUICK, FULL = 3, 50
EITHER = pytest.mark.parametrize('repetitions', [QUICK, pytest.param(FULL, marks=pytest.mark.slow)])
OUTPUTS = {
    'mask': Image,
    'instances': Image,
    'confidence': Image,
    'overlay': Image,
    'overlay/compressed': CompressedImage,
    'segments': SegmentArray,
    'detections': Detection2DArray,
}


class Doomed:
    """A process that is killed once it works."""

    def __init__(self, *arguments: str) -> None:
        self._process = subprocess.Popen([sys.executable, str(SCRIPT), *arguments], stdout=subprocess.PIPE)

    def is_working(self) -> bool:
        return bool(select.select([self._process.stdout], [], [], 0)[0])

    def kill(self) -> None:
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()
        self._process.stdout.close()


@pytest.mark.parametrize('kind', ['camera', 'listener'])
@pytest.mark.parametrize(
    'repetitions', [2, *[pytest.param(10, marks=pytest.mark.slow, id=f'10-{n}') for n in range(5)]]
)
def test_a_process_beside_the_node_is_killed_and_comes_back(client, stream_of, kind, repetitions) -> None:
    stream = stream_of()
    for _ in range(repetitions):
        process = Doomed(kind, 'big')
        try:
            client.spin_until(process.is_working)
            client.spin_for(0.1)
        finally:
            process.kill()
        stream.serve()
    if kind == 'camera':
        assert any(msg.header.frame_id == 'other' for msg in stream.answers)
    assert stream.counts()['refused'] == 0


@EITHER
def test_a_camera_that_comes_back_with_another_quality_of_service(client, stream_of, repetitions) -> None:
    stream = stream_of()
    for number in range(repetitions):
        stream.is_on = False
        client.node.destroy_publisher(client.images)
        client.spin_for(0.1)
        reliability = (ReliabilityPolicy.BEST_EFFORT, ReliabilityPolicy.RELIABLE)[number % 2]
        client.images = client.node.create_publisher(Image, 'image', QoSProfile(depth=5, reliability=reliability))
        stream.serve()


@EITHER
def test_bursts_of_images(client, stream_of, stripes, repetitions) -> None:
    stream = stream_of('--segment-s', '0.02')
    for _ in range(repetitions):
        for _ in range(100):
            header = client.next_header('burst')
            client.images.publish(conversions.image_to_msg(stripes(), 'rgb8', header))
        stream.serve()
    counts = stream.counts()
    assert counts['received'] - counts['answered'] - counts['dropped'] - counts['refused'] in (0, 1)
    # What waited is not served later: only the newest counts.
    assert len(stream.answers) - len(stream.good_answers()) < 20 * repetitions


@EITHER
def test_publishers_of_another_type_on_the_topic(client, stream_of, repetitions) -> None:
    stream = stream_of()
    for _ in range(repetitions):
        for message in (String(data='x' * 10_000), CompressedImage(data=bytes(10_000))):
            # One participant cannot have two types on a topic.
            context = rclpy.Context()
            context.init()
            other = rclpy.create_node('other', context=context)
            publisher = other.create_publisher(type(message), 'image', 5)
            client.spin_for(0.1)
            publisher.publish(message)
            stream.serve(1)
            other.destroy_node()
            context.shutdown()
    assert stream.counts()['refused'] == 0


@EITHER
def test_stamps_that_jump_back(client, stream_of, stripes, repetitions) -> None:
    stream = stream_of()
    stamps = [Time(sec=sec, nanosec=number) for number in range(repetitions) for sec in (9_000, 2_000, 8_000, 1_000)]
    for stamp in stamps:
        count = len(stream.masks)
        while not any(msg.header.stamp == stamp for msg in stream.masks[count:]):
            header = Header(stamp=stamp, frame_id='jumping')
            client.images.publish(conversions.image_to_msg(stripes(), 'rgb8', header))
            client.spin_for(0.05)


@EITHER
def test_subscribers_that_never_take(client, stream_of, repetitions) -> None:
    stream = stream_of()
    idle = rclpy.create_node('idle')
    qos = QoSProfile(history=HistoryPolicy.KEEP_ALL, reliability=ReliabilityPolicy.RELIABLE)
    try:
        for number in range(repetitions):
            for output, kind in OUTPUTS.items():
                if number < QUICK:
                    idle.create_subscription(kind, f'segmentation/{output}', lambda _: None, qos)
            stream.serve(5)
    finally:
        idle.destroy_node()


@EITHER
def test_subscribers_that_come_and_go(client, stream_of, repetitions) -> None:
    stream_of()
    qualities = [
        QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT),
        QoSProfile(depth=10, reliability=ReliabilityPolicy.RELIABLE),
        # No output but the names is kept for those who come late: these two never connect, which is no harm.
        QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL, reliability=ReliabilityPolicy.RELIABLE),
    ]
    received = dict.fromkeys(OUTPUTS, 0)

    def count(output):
        received[output] += 1

    for number in range(repetitions):
        subscriptions = [
            client.node.create_subscription(
                kind, f'segmentation/{output}', lambda _, output=output: count(output), qualities[number % 3]
            )
            for output, kind in OUTPUTS.items()
        ]
        client.spin_for(0.15)
        for subscription in subscriptions:
            client.node.destroy_subscription(subscription)
    if repetitions == FULL:
        assert all(received.values()), received


@EITHER
def test_a_clock_that_jumps_back_and_stands_still(client, stream_of, repetitions) -> None:
    stream = stream_of('--ros-args', '-p', 'use_sim_time:=true', '--')
    clock = client.node.create_publisher(Clock, '/clock', 10)
    client.spin_until(clock.get_subscription_count)
    for number in range(repetitions):
        for sec in (1000 + number, 1000 + number, 10, 0, 2**31 - 1, 500):
            clock.publish(Clock(clock=Time(sec=sec)))
            client.spin_for(0.02)
        stream.serve()
    assert client.set_vocabulary('red', 'green', 'navy').version == 2
    stream.ids_of_version[2] = {1, 2, 4}
    # With the clock on zero or standing still the node still tells how it is.
    assert stream.counts()['refused'] == 0
