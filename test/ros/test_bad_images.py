"""Images that no camera should send: each is refused with a reason, and the next good one is served."""

from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticArray
import pytest
from sensor_msgs.msg import Image
from std_msgs.msg import Header

BAD_IMAGES = {
    'truncated': (dict(encoding='rgb8', width=64, height=48, step=192), 48 * 192 - 1, '9215 bytes of data'),
    'oversized': (dict(encoding='rgb8', width=64, height=48, step=192), 48 * 192 + 5, '9221 bytes of data'),
    'empty': (dict(encoding='rgb8', width=64, height=48, step=192), 0, '0 bytes of data'),
    'zero size': (dict(encoding='rgb8', width=0, height=0, step=0), 0, 'rgb8 image of 0x0 pixels has no pixels'),
    'zero height': (dict(encoding='rgb8', width=64, height=0, step=192), 0, '64x0 pixels has no pixels'),
    'short step': (dict(encoding='rgb8', width=64, height=48, step=64), 48 * 64, 'step is 64 bytes, a row needs 192'),
    'long step': (dict(encoding='rgb8', width=64, height=48, step=200), 48 * 192, '48 rows of step 200 are 9600'),
    'huge': (dict(encoding='rgb8', width=2**32 - 1, height=2**32 - 1, step=192), 9216, 'a row needs 12884901885'),
    'depth': (dict(encoding='32FC1', width=64, height=48, step=256), 48 * 256, "encoding '32FC1' is not supported"),
    'no encoding': (dict(encoding='', width=64, height=48, step=192), 48 * 192, "encoding '' is not supported"),
    'odd yuv': (dict(encoding='yuv422', width=63, height=48, step=126), 48 * 126, 'must be a multiple of 2'),
}


def bad_image(fields: dict, num_bytes: int) -> Image:
    msg = Image(header=Header(stamp=Time(sec=9)), **fields)
    msg.data.frombytes(bytes(num_bytes))
    return msg


@pytest.mark.parametrize('kind', ['truncated', 'huge', 'depth'])
def test_a_bad_image_is_logged_with_topic_and_encoding(client, start_node, colours, kind) -> None:
    fields, num_bytes, text = BAD_IMAGES[kind]
    node = start_node('--ros-args', '-r', '__ns:=/robot', '-r', '/robot/image:=/image', '--', vocabulary=colours)
    node.wait_for_log('active')
    client.spin_until(lambda: client.images.get_subscription_count() > 0)
    while text not in node.log:
        client.images.publish(bad_image(fields, num_bytes))
        client.spin_for(0.05)
    line = next(line for line in node.log.splitlines() if text in line)
    assert '[ERROR] ' in line
    assert f'{fields["encoding"]} image on /image refused' in line


def test_the_node_goes_on_after_each_and_counts_them(client, start_node, colours) -> None:
    node = start_node(vocabulary=colours)
    masks = client.listen('segmentation/mask', Image)
    reports = client.listen('/diagnostics', DiagnosticArray)
    client.connect()
    client.publish_until(lambda: masks)
    for fields, num_bytes, _ in BAD_IMAGES.values():
        client.images.publish(bad_image(fields, num_bytes))
        client.spin_for(0.05)
        stamp = client.publish()
        client.spin_until(lambda stamp=stamp: (masks[-1].header.stamp.sec, masks[-1].header.stamp.nanosec) == stamp)

    def refused() -> int:
        status = next(s for s in reports[-1].status if s.name.endswith('/image'))
        return next(int(pair.value) for pair in status.values if pair.key == 'refused')

    client.spin_until(lambda: reports and refused() == len(BAD_IMAGES))
    assert all(m.header.stamp.sec == 0 for m in masks)
    assert node.log.count('refused') == 1, 'the errors were not throttled'


def test_a_model_that_fails_on_a_frame_is_logged_with_its_traceback(client, start_node, colours) -> None:
    node = start_node('--fail-on-width', '100', vocabulary=colours)
    masks = client.listen('segmentation/mask', Image)
    client.connect()
    client.publish_until(lambda: masks)
    from numpy import uint8, zeros

    client.publish(zeros((50, 100, 3), uint8))
    client.spin_until(lambda: 'Traceback' in node.log)
    assert 'this width is broken' in node.log
    stamp = client.publish()
    client.spin_until(lambda: (masks[-1].header.stamp.sec, masks[-1].header.stamp.nanosec) == stamp)
