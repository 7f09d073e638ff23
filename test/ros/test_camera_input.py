"""Cameras of every kind, cameras that stop, and no camera at all."""

import pytest
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CompressedImage, Image

from fisa_ros.msg import SegmentArray


@pytest.mark.parametrize('reliability', [ReliabilityPolicy.RELIABLE, ReliabilityPolicy.BEST_EFFORT])
@pytest.mark.parametrize('is_first', [True, False])
def test_the_input_follows_the_camera(client, start_node, colours, reliability, is_first) -> None:
    client.node.destroy_publisher(client.images)
    qos = QoSProfile(depth=5, reliability=reliability)
    if is_first:
        client.images = client.node.create_publisher(Image, 'image', qos)
        start_node('--load-s', '1.0', vocabulary=colours)
    else:
        start_node(vocabulary=colours).wait_for_log('active')
        client.images = client.node.create_publisher(Image, 'image', qos)
    client.connect()
    client.spin_until(
        lambda: (
            [i.qos_profile.reliability for i in client.node.get_subscriptions_info_by_topic('/image')] == [reliability]
        )
    )
    client.connect()


def test_a_camera_that_stops_and_comes_back_with_another_quality_of_service(client, start_node, colours) -> None:
    start_node(vocabulary=colours)
    answers = client.listen('segmentation/segments', SegmentArray)
    client.publish_until(lambda: answers)
    for reliability in (ReliabilityPolicy.BEST_EFFORT, ReliabilityPolicy.RELIABLE):
        client.node.destroy_publisher(client.images)
        client.spin_for(1.0)
        answers.clear()
        client.images = client.node.create_publisher(Image, 'image', QoSProfile(depth=5, reliability=reliability))
        client.publish_until(lambda: answers)


def test_silence_is_explained(client, start_node, colours) -> None:
    node = start_node(vocabulary=colours)
    node.wait_for_log('no image on /image for')
    line = next(line for line in node.log.splitlines() if 'no image on' in line)
    assert '[WARN]' in line
    assert '/test_client offers RELIABLE, VOLATILE; this node asks for RELIABLE, VOLATILE of sensor_msgs' in line


def test_silence_without_a_camera_is_explained(client, start_node, colours) -> None:
    client.node.destroy_publisher(client.images)
    node = start_node(vocabulary=colours)
    node.wait_for_log('s: no publisher')


def test_a_topic_of_another_type_is_explained(client, start_node, colours) -> None:
    client.node.destroy_publisher(client.images)
    client.node.create_publisher(CompressedImage, 'image', 10)
    node = start_node(vocabulary=colours)
    node.wait_for_log('of another type, sensor_msgs/msg/CompressedImage')


def test_every_image_arrives_in_the_other_process(client, start_node, colours, stripes) -> None:
    start_node(vocabulary=colours)
    answers = client.listen('segmentation/segments', SegmentArray)
    masks = client.listen('segmentation/mask', Image)
    client.connect()
    client.publish_until(lambda: masks)
    client.spin_for(0.5)
    answers.clear()
    masks.clear()
    image = stripes((480, 640))
    sent = set()
    for _ in range(60):
        sent.add(client.publish(image))
        count = len(sent)
        client.spin_until(lambda count=count: len(masks) == count and len(answers) == count)
    assert {(m.header.stamp.sec, m.header.stamp.nanosec) for m in masks} == sent
