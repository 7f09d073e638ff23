"""Several cameras and one model: topics, turns, counters and parameters of each."""

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
import pytest
from sensor_msgs.msg import CompressedImage, Image
from vision_msgs.msg import LabelInfo

from fisa_ros.msg import SegmentArray
from fisa_ros.node import conversions

BOTH = '[front, rear]'


class Camera:
    """One camera of the robot, and what the node answers to it."""

    def __init__(self, client, name: str, image) -> None:
        self._client = client
        self._name = name
        self._image = image
        self._images = client.node.create_publisher(Image, f'{name}/image', 5)
        self.answers = client.listen(f'{name}/segmentation/segments', SegmentArray)

    def publish(self, encoding: str = 'rgb8') -> tuple[int, int]:
        header = self._client.next_header(self._name)
        msg = conversions.image_to_msg(self._image, 'rgb8', header)
        msg.encoding = encoding
        self._images.publish(msg)
        return header.stamp.sec, header.stamp.nanosec

    def connect(self) -> None:
        """Return when images reach the node and its answers come back."""
        while not self.answers:
            self.publish()
            self._client.spin_for(0.05)
        last = self.publish()
        self._client.spin_until(lambda: stamps(self.answers)[-1] == last)
        self.answers.clear()


@pytest.fixture
def add_camera(client, stripes):
    return lambda name: Camera(client, name, stripes())


def stamps(messages):
    return [(message.header.stamp.sec, message.header.stamp.nanosec) for message in messages]


def test_each_camera_is_answered_on_its_own_topics(client, start_node, colours, latched, add_camera) -> None:
    start_node(vocabulary=colours, cameras=BOTH)
    cameras = {name: add_camera(name) for name in ('front', 'rear')}
    labels = [client.listen(f'{name}/segmentation/label_info', LabelInfo, latched) for name in cameras]
    client.spin_until(lambda: all(labels))
    for camera in cameras.values():
        camera.connect()
    sent = {name: [] for name in cameras}
    for count in range(1, 11):
        for name, camera in cameras.items():
            sent[name].append(camera.publish())
            client.spin_until(lambda camera=camera, count=count: len(camera.answers) == count)
    for name, camera in cameras.items():
        assert stamps(camera.answers) == sent[name]
        assert {message.header.frame_id for message in camera.answers} == {name}
    assert client.node.count_publishers('segmentation/mask') == 0


def test_a_camera_that_floods_leaves_the_other_its_turns(client, start_node, colours, add_camera) -> None:
    start_node('--segment-s', '0.1', vocabulary=colours, cameras=BOTH)
    fast, slow = add_camera('front'), add_camera('rear')
    fast.connect()
    slow.connect()
    for count in range(1, 6):
        fast.publish()
        client.spin_for(0.05)
        fast.answers.clear()
        sent = slow.publish()

        def is_answered(count=count):
            fast.publish()
            client.spin_for(0.01)
            return len(slow.answers) == count

        client.spin_until(is_answered)
        assert stamps(slow.answers)[-1] == sent
        # The frame at work and the one that waited already; a third would have come after.
        assert len(fast.answers) <= 2


def test_a_dead_camera_and_a_broken_one_delay_nobody(client, start_node, colours, add_camera) -> None:
    start_node(vocabulary=colours, cameras='[front, rear, left]')
    good, broken = add_camera('front'), add_camera('rear')
    reports = client.listen('/diagnostics', DiagnosticArray, is_matched=False)
    latest = {}

    def all_judged():
        good.publish()
        broken.publish(encoding='strange')
        client.spin_for(0.05)
        for report in reports:
            latest.update({status.name: status for status in report.status})
        return (
            '/segment: /left/image' in latest
            and latest['/segment: /front/image'].level == DiagnosticStatus.OK
            and latest['/segment: /rear/image'].level == DiagnosticStatus.ERROR
            and latest['/segment: /left/image'].level == DiagnosticStatus.STALE
        )

    client.spin_until(all_judged)
    assert good.answers
    assert not broken.answers
    assert "encoding 'strange' is not supported" in latest['/segment: /rear/image'].message
    assert latest['/segment: /left/image'].message.startswith('no image for')


def test_a_camera_has_parameters_of_its_own(client, start_node, colours, stripes) -> None:
    start_node(**{'vocabulary': colours, 'cameras': BOTH, 'rear.image_transport': 'compressed'})
    answers = client.listen('rear/segmentation/segments', SegmentArray)
    images = client.node.create_publisher(CompressedImage, 'rear/image/compressed', 5)
    client.spin_until(images.get_subscription_count)

    def is_answered():
        images.publish(conversions.image_to_jpeg_msg(stripes(), client.next_header()))
        client.spin_for(0.05)
        return answers

    client.spin_until(is_answered)
    assert client.get_parameter('front.image_transport') == 'raw'
    assert client.get_parameter('rear.image_transport') == 'compressed'


def test_both_cameras_see_a_new_vocabulary(client, start_node, colours, latched, add_camera) -> None:
    start_node(vocabulary=colours, cameras=BOTH)
    cameras = [add_camera('front'), add_camera('rear')]
    topics = [f'{name}/segmentation/label_info' for name in ('front', 'rear')]
    labels = [client.listen(topic, LabelInfo, latched) for topic in topics]
    client.spin_until(lambda: all(labels))
    for camera in cameras:
        camera.connect()
    assert client.set_vocabulary('red', 'navy').version == 2
    client.spin_until(lambda: all(len(messages) == 2 for messages in labels))
    for camera in cameras:
        camera.publish()
        client.spin_until(lambda camera=camera: camera.answers)
        assert camera.answers[-1].vocabulary_version == 2


@pytest.mark.parametrize(
    ('parameters', 'text'),
    [
        ({'cameras': '[front, front]'}, "parameter cameras has 'front' more than once"),
        ({'cameras': "['front door']"}, "'front door' is no name for a camera"),
        ({'cameras': 'front'}, "parameter cameras must be a list of texts, got 'front'"),
        (
            {'cameras': BOTH, 'rear.image_transport': 'theora'},
            "parameter rear.image_transport must be one of raw, compressed, got 'theora'",
        ),
        (
            {'cameras': BOTH, 'rear.image_transprt': 'raw'},
            'there is no parameter rear.image_transprt, did you mean rear.image_transport?',
        ),
    ],
)
def test_cameras_that_cannot_be(start_node, parameters, text) -> None:
    node = start_node(**parameters)
    assert node.wait() == 1
    assert text in node.log
    assert 'Traceback' not in node.log


def test_a_parameter_of_a_camera_that_is_not_there_is_told(start_node, colours) -> None:
    node = start_node(**{'vocabulary': colours, 'cameras': BOTH, 'left.depth': 'true'})
    node.wait_for_log('parameter left.depth is not one of this node and is ignored')
