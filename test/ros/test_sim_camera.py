"""The simulated camera as a process of its own."""

from pathlib import Path
import signal

from diagnostic_msgs.msg import DiagnosticArray
import numpy as np
import pytest
from sensor_msgs.msg import CameraInfo, Image

from fisa_ros.msg import SegmentArray

EXECUTABLE = Path(__file__).absolute().parents[2] / 'scripts' / 'sim_camera_node'
TOPICS = {
    'image': Image,
    'depth': Image,
    'camera_info': CameraInfo,
    'truth/panoptic': Image,
    'truth/segments': SegmentArray,
}
DTYPES = {'rgb8': (np.uint8, 3), '32FC1': (np.float32, 1), 'mono16': (np.uint16, 1)}


def by_stamp(messages):
    return {(msg.header.stamp.sec, msg.header.stamp.nanosec): msg for msg in messages}


def pixels(msg):
    dtype, channels = DTYPES[msg.encoding]
    assert msg.step == msg.width * channels * np.dtype(dtype).itemsize
    return np.frombuffer(msg.data, dtype).reshape(msg.height, msg.width, channels).squeeze()


@pytest.fixture
def start_camera(start_node):
    def start(**parameters):
        return start_node(executable=EXECUTABLE, **{'width': '320', 'height': '240', 'rate_hz': '10.0'} | parameters)

    return start


@pytest.fixture
def sets(start_camera, client):
    """At least five complete sets of messages with one stamp."""
    start_camera(seed='3')
    heard = {topic: client.listen(topic, kind) for topic, kind in TOPICS.items()}

    def complete():
        stamps = set.intersection(*(set(by_stamp(messages)) for messages in heard.values()))
        return [{topic: by_stamp(messages)[stamp] for topic, messages in heard.items()} for stamp in sorted(stamps)]

    client.spin_until(lambda: len(complete()) >= 5)
    return complete()


def test_messages_of_one_moment_belong_together(sets):
    for messages in sets:
        headers = {(msg.header.frame_id, msg.header.stamp.sec, msg.header.stamp.nanosec) for msg in messages.values()}
        assert len(headers) == 1
        assert headers.pop()[0] == 'camera_optical_frame'
        assert {topic: messages[topic].encoding for topic in ('image', 'depth', 'truth/panoptic')} == {
            'image': 'rgb8',
            'depth': '32FC1',
            'truth/panoptic': 'mono16',
        }
        assert {(msg.width, msg.height) for topic, msg in messages.items() if topic != 'truth/segments'} == {(320, 240)}


def test_truth_lists_what_its_map_shows(sets):
    for messages in sets:
        panoptic_map = pixels(messages['truth/panoptic'])
        segments = messages['truth/segments'].segments
        assert {segment.id for segment in segments} == set(np.unique(panoptic_map).tolist()) - {0}
        assert len({segment.class_name for segment in segments if not segment.is_thing}) == sum(
            not segment.is_thing for segment in segments
        )
        for segment in segments:
            ys, xs = np.nonzero(panoptic_map == segment.id)
            assert segment.area == len(xs)
            assert (segment.roi.x_offset, segment.roi.y_offset) == (xs.min(), ys.min())
            assert (segment.roi.width, segment.roi.height) == (np.ptp(xs) + 1, np.ptp(ys) + 1)


def test_pictures_show_a_room_and_move(sets):
    first, last = pixels(sets[0]['image']), pixels(sets[-1]['image'])
    assert first.std() > 5
    assert (first != last).any()
    for messages in sets:
        depth = pixels(messages['depth'])
        assert depth.min() > 0.0
        # Between two walls a single pixel may see through.
        assert (depth > 30.0).mean() < 1e-4


def test_calibration_is_that_of_the_simulated_camera(sets):
    info = sets[0]['camera_info']
    # 60 degrees from top to bottom, square pixels, pixel centres at whole numbers.
    focal = 120 / np.tan(np.radians(30))
    assert info.k.reshape(3, 3) == pytest.approx(np.array([[focal, 0, 159.5], [0, focal, 119.5], [0, 0, 1]]))
    assert info.p.reshape(3, 4)[:, :3] == pytest.approx(info.k.reshape(3, 3))
    assert info.p.reshape(3, 4)[:, 3] == pytest.approx(0)
    assert info.r.reshape(3, 3) == pytest.approx(np.eye(3))
    assert (info.distortion_model, list(info.d)) == ('plumb_bob', [0.0] * 5)


def test_only_what_somebody_listens_to_is_sent(start_camera, client):
    start_camera()
    images = client.listen('image', Image)
    statuses = client.listen('/diagnostics', DiagnosticArray)
    client.spin_until(lambda: len(images) >= 5 and statuses)
    status = statuses[-1].status[0]
    assert status.name == '/sim_camera: camera'
    values = {pair.key: pair.value for pair in status.values}
    assert int(values['sent']) > 0
    assert int(values['skipped']) >= 0
    depths = client.listen('depth', Image)
    client.spin_until(lambda: len(depths) >= 2)


def test_interval_keeps_to_the_rate(start_camera, client):
    start_camera(rate_hz='5.0')
    infos = client.listen('camera_info', CameraInfo)
    client.spin_until(lambda: len(infos) >= 15)
    stamps_s = np.array([msg.header.stamp.sec + msg.header.stamp.nanosec * 1e-9 for msg in infos])
    # Images may be late or left out on a busy machine, but each belongs to a tick: never two in one.
    ticks = np.floor((stamps_s - stamps_s.min()) / 0.2 + 0.05)
    assert np.diff(stamps_s).min() > 0
    assert len(stamps_s) <= ticks.max() + 2


@pytest.mark.parametrize(
    ('parameters', 'reason'),
    [
        ({'scene': 'moon'}, 'parameter scene must be one of room'),
        ({'rate_hz': '0.0'}, 'rate_hz'),
        ({'width': '1'}, 'width'),
    ],
)
def test_bad_parameter_ends_the_node_with_the_reason(start_camera, parameters, reason):
    process = start_camera(**parameters)
    assert process.wait() == 1
    assert 'cannot start' in process.log
    assert reason in process.log


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_signal_ends_the_node_cleanly(start_camera, client, number):
    process = start_camera(rate_hz='60.0')
    images = client.listen('image', Image)
    client.spin_until(lambda: len(images) >= 2)
    assert process.interrupt(number) == 0
    assert 'Traceback' not in process.log
