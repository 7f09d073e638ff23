"""Images as jpeg and png."""

import cv2
import numpy as np
import pytest
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header

from fisa_ros.msg import SegmentArray


@pytest.fixture
def camera(client):
    return client.node.create_publisher(CompressedImage, 'image/compressed', 5)


def compress(pixels: np.ndarray, extension: str, header: Header) -> CompressedImage:
    data = cv2.imencode(extension, cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))[1].tobytes()
    return CompressedImage(header=header, format=extension.removeprefix('.'), data=data)


@pytest.mark.parametrize('extension', ['.jpg', '.png'])
def test_compressed_images_are_answered(client, start_node, colours, camera, stripes, extension) -> None:
    start_node(vocabulary=colours, image_transport='compressed')
    answers = client.listen('segmentation/segments', SegmentArray)
    masks = client.listen('segmentation/mask', Image)
    client.spin_until(camera.get_subscription_count)
    sent = client.next_header()

    def is_answered():
        camera.publish(compress(stripes((96, 128)), extension, sent))
        client.spin_for(0.1)
        return answers and masks

    client.spin_until(is_answered)
    assert answers[-1].header == sent
    assert (masks[-1].height, masks[-1].width) == (96, 128)
    middle = np.frombuffer(masks[-1].data, np.uint8).reshape(96, 128)[48]
    assert middle[[10, 64, 118]].tolist() == [1, 2, 3]


def test_the_remapped_name_is_that_without_the_transport(client, start_node, colours, stripes) -> None:
    images = client.node.create_publisher(CompressedImage, '/head/image_raw/compressed', 5)
    start_node('--ros-args', '-r', 'image:=/head/image_raw', vocabulary=colours, image_transport='compressed')
    answers = client.listen('segmentation/segments', SegmentArray)
    client.spin_until(images.get_subscription_count)

    def is_answered():
        images.publish(compress(stripes(), '.png', client.next_header()))
        client.spin_for(0.05)
        return answers

    client.spin_until(is_answered)


def test_damaged_images_are_refused_and_the_next_one_is_answered(client, start_node, colours, camera, stripes) -> None:
    node = start_node(vocabulary=colours, image_transport='compressed')
    answers = client.listen('segmentation/segments', SegmentArray)
    client.spin_until(camera.get_subscription_count)
    good = compress(stripes((96, 128)), '.jpg', client.next_header())

    def is_connected():
        camera.publish(good)
        client.spin_for(0.1)
        return answers

    client.spin_until(is_connected)
    client.spin_for(0.3)
    answers.clear()
    damaged = {
        'neither jpeg nor png': CompressedImage(format='jpeg', data=b'not an image'),
        'is incomplete': CompressedImage(format='jpeg', data=bytes(good.data)[:-40]),
        'holds depth, not colours': CompressedImage(format='16UC1; compressedDepth', data=good.data),
    }
    for count, msg in enumerate(damaged.values(), start=1):
        camera.publish(msg)
        client.spin_for(0.3)
        good.header = client.next_header()
        camera.publish(good)
        client.spin_until(lambda count=count: len(answers) == count)
        assert answers[-1].header == good.header
    # Only the first refusal of a while is logged.
    assert 'compressed image on /image/compressed refused: 12 bytes of format' in node.log
    assert 'Traceback' not in node.log
