"""The replaying camera as a process of its own."""

from pathlib import Path
import signal
import sys
import time
import types

import cv2
from diagnostic_msgs.msg import DiagnosticArray
import numpy as np
import pytest
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.serialization import deserialize_message, serialize_message
from rosbags.interfaces import QosDurability, QosHistory, QosReliability
from rosbags.rosbag2 import StoragePlugin, Writer
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from fisa_ros.node.raw_messages import StampShift, find_type
from fisa_ros.node.recorded_qos import recorded_qos
from fisa_ros.node.replay_bag import BagStream
from fisa_ros.node.replay_camera_node import ReplayCameraParameters, open_stream
from fisa_ros.sources.bag import Bag, reliable_qos

EXECUTABLE = Path(__file__).absolute().parents[2] / 'scripts' / 'camera_node'
RELIABLE = QoSProfile(depth=100, reliability=ReliabilityPolicy.RELIABLE)
BEST_EFFORT = QoSProfile(depth=100, reliability=ReliabilityPolicy.BEST_EFFORT)
PATIENT = {'wait_for_listeners': 'true'}
CALIBRATION = """
image_width: 160
image_height: 120
camera_name: front
camera_matrix: {rows: 3, cols: 3, data: [100.0, 0, 80, 0, 101.0, 60, 0, 0, 1]}
distortion_model: plumb_bob
distortion_coefficients: {rows: 1, cols: 5, data: [0.1, -0.2, 0, 0, 0]}
rectification_matrix: {rows: 3, cols: 3, data: [1, 0, 0, 0, 1, 0, 0, 0, 1]}
projection_matrix: {rows: 3, cols: 4, data: [100.0, 0, 80, 0, 0, 101.0, 60, 0, 0, 0, 1, 0]}
"""


def stamp_ns(msg):
    return msg.header.stamp.sec * 1_000_000_000 + msg.header.stamp.nanosec


def pixels(msg):
    return np.frombuffer(msg.data, np.uint8).reshape(msg.height, msg.width, 3)


@pytest.fixture
def start_camera(start_node):
    def start(source, **parameters):
        return start_node(executable=EXECUTABLE, source=str(source), **parameters)

    return start


@pytest.fixture
def listen(client):
    """Listens before there is anything to hear, so that nothing is missed."""

    def listen(topic, kind, qos=RELIABLE):
        return client.listen(topic, kind, qos, is_matched=False)

    return listen


@pytest.fixture
def photos(tmp_path, flags):
    """Images 1 to 12 in which the flags wander, and one that is none."""
    folder = tmp_path / 'photos'
    folder.mkdir()
    for number in range(1, 13):
        cv2.imwrite(str(folder / f'image_{number}.png'), np.roll(flags, number, axis=1)[..., ::-1])
    (folder / 'image_5.png').write_bytes(b'no image')
    return folder


def recorded(path, topic):
    with Bag(path) as bag:
        entries = [entry for entry in bag.connections if entry.topic == topic]
        return [(time_ns, data) for _, time_ns, data in bag.messages(entries)]


def test_a_folder_is_replayed_in_its_order_and_at_the_rate(start_camera, client, listen, photos, tmp_path, flags):
    (tmp_path / 'front.yaml').write_text(CALIBRATION)
    before_ns = time.time_ns()
    images, infos = listen('image', Image), listen('camera_info', CameraInfo)
    process = start_camera(
        photos, rate_hz='20.0', camera_info_file=str(tmp_path / 'front.yaml'), frame_id='front', **PATIENT
    )
    client.spin_until(lambda: len(images) == len(infos) == 11)
    assert process.wait() == 0
    assert 'image_5.png cannot be read as an image' in process.log
    for msg, number in zip(images, [1, 2, 3, 4, 6, 7, 8, 9, 10, 11, 12], strict=True):
        np.testing.assert_array_equal(pixels(msg), np.roll(flags, number, axis=1))
    # The grid of the rate, with a hole where an image is missing.
    assert np.diff([stamp_ns(msg) for msg in images]).tolist() == [50_000_000] * 3 + [100_000_000] + [50_000_000] * 6
    assert before_ns < stamp_ns(images[0]) < time.time_ns()
    for image, info in zip(images, infos, strict=True):
        assert image.header == info.header
        assert info.header.frame_id == 'front'
        assert (info.width, info.height, info.k[4], info.d[1]) == (160, 120, 101.0, -0.2)


def test_a_video_keeps_the_times_of_its_container(start_camera, client, listen, tmp_path, flags):
    path = tmp_path / 'flags.avi'
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*'MJPG'), 12.5, (160, 120))
    for number in range(10):
        writer.write(np.roll(flags, 8 * number, axis=1)[..., ::-1])
    writer.release()
    images, clocks = listen('image', Image), listen('/clock', Clock, BEST_EFFORT)
    process = start_camera(path, stamps='recorded', **PATIENT)
    client.spin_until(lambda: len(images) == 10)
    assert [stamp_ns(msg) for msg in images] == [80_000_000 * number for number in range(10)]
    assert process.wait() == 0
    for number, msg in enumerate(images):
        assert np.abs(pixels(msg).astype(int) - np.roll(flags, 8 * number, axis=1)).mean() < 8
    moments = [clock.clock.sec * 1_000_000_000 + clock.clock.nanosec for clock in clocks]
    assert moments == sorted(moments)
    assert len(moments) > 10
    assert 600_000_000 < moments[-1] < 800_000_000


@pytest.mark.parametrize('storage', ['mcap', 'sqlite3'])
def test_a_recording_is_replayed_byte_for_byte(start_camera, client, listen, write_bag, storage):
    path = write_bag(storage=storage)
    kinds = {
        '/front/image_raw': Image,
        '/front/camera_info': CameraInfo,
        '/front/depth': Image,
        '/rear/image/compressed': CompressedImage,
    }
    heard = {topic: listen(topic, kind, BEST_EFFORT) for topic, kind in kinds.items()}
    clocks = listen('/clock', Clock, BEST_EFFORT)
    process = start_camera(path, stamps='recorded', **PATIENT)
    client.spin_until(lambda: all(len(messages) == 6 for messages in heard.values()))
    assert process.wait() == 0
    for topic, messages in heard.items():
        expected = [deserialize_message(data, kinds[topic]) for _, data in recorded(path, topic)]
        assert messages == expected
    first_ns = recorded(path, '/front/image_raw')[0][0]
    moments = [clock.clock.sec * 1_000_000_000 + clock.clock.nanosec for clock in clocks]
    assert first_ns - 1_000_000_000 < moments[0] < moments[-1] < first_ns + 1_000_000_000


def test_a_recording_of_the_past_is_moved_to_now(start_camera, client, listen, write_bag):
    images, infos = listen('/front/image_raw', Image), listen('/front/camera_info', CameraInfo)
    depths = listen('/front/depth', Image, BEST_EFFORT)
    start_camera(write_bag(), loop='true', topics='[/front/image_raw, /front/camera_info, /front/depth]', **PATIENT)
    client.spin_until(lambda: min(map(len, (images, infos, depths))) >= 14)
    assert [stamp_ns(msg) for msg in images[:14]] == [stamp_ns(msg) for msg in infos[:14]]
    assert {stamp_ns(msg) for msg in depths[:14]} <= {stamp_ns(msg) for msg in images}
    assert abs(time.time_ns() - stamp_ns(images[-1])) < 5_000_000_000
    steps = np.diff([stamp_ns(msg) for msg in images])
    # Within a pass the distances are the recorded ones; a new pass begins one distance after the end, or late.
    assert (np.delete(steps, np.arange(5, len(steps), 6)) == 100_000_000).all()
    assert (steps >= 99_000_000).all()


def test_messages_come_when_they_are_due(start_camera, client, listen, write_bag):
    arrivals = []
    infos = listen('/front/camera_info', CameraInfo)
    start_camera(write_bag(images=15), topics='[/front/camera_info]', **PATIENT)
    while len(infos) < 15:
        count = len(infos)
        client.spin_until(lambda count=count: len(infos) > count)
        arrivals.append(time.monotonic())
    # A busy machine delays; it never sends early.
    assert arrivals[-1] - arrivals[0] > 1.3


def test_a_camera_of_the_machine_is_asked_for_the_rate(client, tmp_path, flags, monkeypatch, caplog):
    # A video stands in for a camera that has one rate only.
    path = tmp_path / 'camera.avi'
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*'MJPG'), 20.0, (160, 120))
    for _ in range(5):
        writer.write(flags[..., ::-1])
    writer.release()
    open_video = cv2.VideoCapture
    monkeypatch.setattr(cv2, 'VideoCapture', lambda *_: open_video(str(path)))
    stream = open_stream(client.node, ReplayCameraParameters(source='/dev/video0', rate_hz=7.0))
    try:
        assert next(moment for moment in stream.moments() if moment is not None).time_ns > 0
    finally:
        stream.close()
    assert 'the camera /dev/video0 gives 20 images per second; rate_hz is 7' in caplog.messages


def test_late_listeners_get_what_is_latched(start_node, client, write_bag):
    # Transforms need tf2_msgs, which is not everywhere; the type does not matter here.
    source = write_bag(images=60)
    path = source.with_name('latched')
    with Bag(source) as bag, Writer(path, version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        info = next(entry for entry in bag.connections if entry.topic == '/front/camera_info')
        image = next(entry for entry in bag.connections if entry.topic == '/front/image_raw')
        latched = next(entry for entry in bag.connections if entry.topic == '/tf_static').ext.offered_qos_profiles
        topics = {
            entry.topic: writer.add_connection(
                entry.topic, entry.msgtype, msgdef=entry.msgdef.data, rihs01=entry.digest, offered_qos_profiles=qos
            )
            for entry, qos in ((info, [latched[0]._replace(depth=1)]), (image, ()))
        }
        for entry, time_ns, data in bag.messages([info, image]):
            # Two infos at the beginning, then none for seconds.
            if entry.topic == info.topic and time_ns > 1_700_000_000_150_000_000:
                continue
            writer.write(topics[entry.topic], time_ns, data)
    images = client.listen('/front/image_raw', Image, is_matched=False)
    start_node(executable=EXECUTABLE, source=str(path), delay_s='0.0')
    client.spin_until(lambda: len(images) >= 2)
    late = client.listen('/front/camera_info', CameraInfo, QoSProfile(depth=10, durability=1))
    client.spin_until(lambda: len(late) == 2)


def test_topics_can_be_remapped(start_node, client, listen, write_bag):
    images = listen('/camera/image', Image)
    process = start_node(
        '--ros-args', '-r', '/front/image_raw:=/camera/image', '--',
        executable=EXECUTABLE, source=str(write_bag()), topics='[/front/image_raw]', **PATIENT,
    )  # fmt: skip
    client.spin_until(lambda: len(images) == 6)
    assert process.wait() == 0


def test_what_cannot_be_read_is_in_the_diagnostics(start_camera, client, photos):
    start_camera(photos, rate_hz='20.0', loop='true')
    statuses = client.listen('/diagnostics', DiagnosticArray)
    client.spin_until(lambda: len(statuses) >= 2)
    status = statuses[-1].status[0]
    assert status.name == '/camera: replay'
    values = {pair.key: pair.value for pair in status.values}
    assert int(values['sent']) > 0
    assert int(values['skipped']) >= 1


@pytest.mark.parametrize(
    ('source', 'parameters', 'reason'),
    [
        ("''", {}, 'parameter source is missing'),
        ('missing', {}, 'missing does not exist'),
        ('/dev/video97', {}, 'no camera at /dev/video97; '),
        ('empty', {}, 'no image in '),
        (
            'photos',
            {},
            'is no time (nanoseconds, or seconds with decimals): give the rate of the images, rate_hz',
        ),
        ('photos', {'rate_hz': '500.0'}, 'rate_hz'),
        ('photos', {'rate_hz': '5.0', 'topics': '[/image]'}, 'is no recording: it has no topics'),
        ('photos', {'rate_hz': '5.0', 'camera_info_file': 'none.yaml'}, 'camera_info_file none.yaml cannot be read'),
        ('noise.avi', {}, 'is no video that OpenCV'),
        ('cut.mcap', {}, 'cannot be read as a recording'),
        ('bag', {'rate_hz': '5.0'}, 'bag is a recording, with times and calibrations of its own: leave rate_hz out'),
        ('bag', {'camera_info_file': 'front.yaml'}, 'of its own: leave camera_info_file out'),
        ('photos', {'rate_hz': '5.0', 'camera_info_file': '~/none.yaml'}, f'{Path.home()}/none.yaml cannot be read'),
        ('~no_such_user/photos', {}, '~no_such_user/photos does not exist'),
        ('bag', {'topics': '[/front/images]'}, 'has no messages on /front/images; topics are: /front/camera_info, '),
        ('bag', {'topics': '[/robot/state]'}, 'the type robot_msgs/msg/State of /robot/state is not installed here'),
    ],
)
def test_bad_sources_end_the_node_with_the_reason(
    start_camera, write_bag, photos, tmp_path, source, parameters, reason
):
    (tmp_path / 'empty').mkdir()
    (tmp_path / 'noise.avi').write_bytes(bytes(range(256)) * 20)
    (tmp_path / 'cut.mcap').write_bytes((write_bag(images=1) / 'bag.mcap').read_bytes()[:-1000])
    process = start_camera(tmp_path / source if source[0] not in "/'~" else source, **parameters)
    assert process.wait() == 1
    assert 'cannot start' in process.log
    assert reason in process.log
    assert 'Traceback' not in process.log


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_node_cleanly(start_camera, client, write_bag, number):
    process = start_camera(write_bag(images=200), stamps='recorded')
    images = client.listen('/front/image_raw', Image)
    client.spin_until(lambda: len(images) >= 2)
    assert process.interrupt(number) == 0
    assert 'Traceback' not in process.log


def test_transforms_come_along_where_their_type_is_installed(start_camera, write_bag):
    process = start_camera(write_bag(), tf='true', delay_s='0.0')
    if find_type('tf2_msgs/msg/TFMessage') is None:
        assert process.wait() == 1
        assert 'the type tf2_msgs/msg/TFMessage of /tf is not installed here' in process.log
    else:
        assert process.wait() == 0
        assert 'finished: 31 messages' in process.log


def test_damaged_transforms_are_skipped_and_counted(client, write_bag, monkeypatch, caplog):
    # Where transforms have no type, that of images stands in: to it the recorded bytes are as damaged as can be.
    package = types.ModuleType('tf2_msgs.msg')
    package.TFMessage = Image
    monkeypatch.setitem(sys.modules, 'tf2_msgs', types.ModuleType('tf2_msgs'))
    monkeypatch.setitem(sys.modules, 'tf2_msgs.msg', package)
    stream = BagStream(client.node, write_bag(), ['/front/camera_info'], with_tf=True)
    try:
        moments = list(stream.moments())
        assert (len(moments), stream.skipped) == (6, 7)
        for moment in moments:
            moment.send(1_000_000_000)
    finally:
        stream.close()
    assert 'skipped: /tf at 1700000000020000000: ' in caplog.text


def test_quality_of_service_serves_whom_the_recorded_one_served():
    def of(*offers, count=100):
        chosen = recorded_qos([reliable_qos(False)._replace(**offer) for offer in offers], count)
        return chosen.reliability.name, chosen.durability.name, chosen.history.name, chosen.depth

    reliable, best_effort = QosReliability.RELIABLE, QosReliability.BEST_EFFORT
    latched = QosDurability.TRANSIENT_LOCAL
    assert of() == ('RELIABLE', 'VOLATILE', 'KEEP_LAST', 10)
    assert of({'reliability': best_effort, 'depth': 5}) == ('BEST_EFFORT', 'VOLATILE', 'KEEP_LAST', 5)
    assert of({'reliability': best_effort}, {'reliability': reliable})[0] == 'RELIABLE'
    assert of({'durability': latched}, count=7)[1:] == ('TRANSIENT_LOCAL', 'KEEP_LAST', 7)
    assert of({'durability': latched}, {}, count=7)[1:] == ('VOLATILE', 'KEEP_LAST', 1)
    assert of({'durability': latched}, count=10**6)[3] == 1000
    assert of({'history': QosHistory.KEEP_ALL, 'depth': 0})[2] == 'KEEP_ALL'


def test_stamps_are_moved_in_messages_of_both_byte_orders():
    msg = Image(encoding='mono8')
    msg.header.stamp.sec, msg.header.stamp.nanosec = 100, 999_999_999
    data = bytes(serialize_message(msg))
    moved = deserialize_message(StampShift('sensor_msgs/msg/Image').apply(data, 3), Image)
    assert (moved.header.stamp.sec, moved.header.stamp.nanosec) == (101, 2)
    assert moved.encoding == 'mono8'
    big = b'\x00\x00\x00\x00' + (100).to_bytes(4, 'big') + (5).to_bytes(4, 'big') + b'rest'
    assert StampShift('sensor_msgs/msg/Image').apply(big, -10)[4:12] == (99).to_bytes(4, 'big') + (
        999_999_995
    ).to_bytes(4, 'big')
    for kind, raw in (('std_msgs/msg/String', data), ('none_msgs/msg/None', data), ('sensor_msgs/msg/Image', b'\0\1')):
        assert StampShift(kind).apply(raw, 1) == raw
