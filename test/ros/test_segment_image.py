"""One image on demand."""

import cv2
import numpy as np
import pytest
from sensor_msgs.msg import CompressedImage, Image
from std_srvs.srv import SetBool

from fisa_ros.msg import SegmentArray
from fisa_ros.node import conversions
from fisa_ros.srv import SegmentImage


@pytest.fixture
def ask(client, stripes):
    def ask_once(**fields):
        if not fields:
            fields = {'image': conversions.image_to_msg(stripes(), 'rgb8', client.next_header())}
        return client.call('segment_image', SegmentImage.Request(**fields))

    return ask_once


def test_an_image_is_answered_with_its_maps_and_segments(client, start_node, colours, ask, stripes) -> None:
    start_node(vocabulary=colours)
    header = client.next_header('gripper')
    answer = ask(image=conversions.image_to_msg(stripes((96, 128)), 'rgb8', header))
    assert answer.success, answer.message
    mask = np.frombuffer(answer.mask.data, np.uint8).reshape(96, 128)
    assert mask[48, [10, 64, 118]].tolist() == [1, 2, 3]
    assert (answer.mask.encoding, answer.instances.encoding, answer.confidence.encoding) == ('mono8', 'mono16', 'mono8')
    assert {part.header.frame_id for part in (answer.mask, answer.instances, answer.confidence, answer.segments)} == {
        'gripper'
    }
    assert {segment.class_name for segment in answer.segments.segments} == {'red', 'green', 'blue'}
    assert answer.segments.vocabulary_version == 1
    client.set_vocabulary('navy')
    assert [segment.class_name for segment in ask().segments.segments] == ['navy']


def test_a_compressed_image_is_answered(client, start_node, colours, ask, stripes) -> None:
    start_node(vocabulary=colours)
    data = cv2.imencode('.png', stripes()[..., ::-1])[1].tobytes()
    assert len(ask(compressed_image=CompressedImage(format='png', data=data)).segments.segments) == 3


def test_what_cannot_be_segmented_is_refused_with_the_reason(client, start_node, colours, ask) -> None:
    start_node(vocabulary=colours)
    assert 'neither does' in ask(image=Image()).message
    strange = ask(image=Image(encoding='strange', width=1, height=1, step=1, data=[0]))
    assert not strange.success
    assert "encoding 'strange' is not supported" in strange.message
    both = ask(
        image=Image(encoding='mono8', width=1, height=1, step=1, data=[0]),
        compressed_image=CompressedImage(format='png', data=b'x'),
    )
    assert 'both does' not in both.message
    assert 'both do' in both.message
    assert ask().success


def test_an_inactive_node_refuses_and_a_paused_one_answers(client, start_node, colours, ask) -> None:
    start_node(vocabulary=colours, autostart='false')
    assert ask().message == 'the node is not active'
    assert client.change_state('configure')
    assert client.change_state('activate')
    client.call('set_enabled', SetBool.Request(data=False))
    assert ask().success


def test_cameras_and_requests_take_turns(client, start_node, colours, ask, stripes) -> None:
    start_node('--segment-s', '0.1', vocabulary=colours)
    answers = client.listen('segmentation/segments', SegmentArray)
    client.connect()
    request = SegmentImage.Request(image=conversions.image_to_msg(stripes(), 'rgb8', client.next_header()))
    waiting = [client.start_call('segment_image', request) for _ in range(10)]
    answers.clear()

    def all_done():
        client.publish()
        client.spin_for(0.02)
        return all(call.done() for call in waiting)

    client.spin_until(all_done)
    assert all(call.result().success for call in waiting)
    assert len(answers) >= 7


def test_too_many_requests_are_refused_and_the_rest_is_answered(client, start_node, colours, stripes) -> None:
    start_node('--segment-s', '0.1', vocabulary=colours)
    client.connect()
    request = SegmentImage.Request(image=conversions.image_to_msg(stripes(), 'rgb8', client.next_header()))
    waiting = [client.start_call('segment_image', request) for _ in range(40)]
    client.spin_until(lambda: all(call.done() for call in waiting))
    refused = [call.result().message for call in waiting if not call.result().success]
    assert set(refused) == {'busy: 16 requests wait already'}
    assert 16 <= len(waiting) - len(refused) < 40


def test_a_request_at_work_when_the_node_is_deactivated_is_answered(client, start_node, colours, stripes) -> None:
    start_node('--segment-s', '0.5', vocabulary=colours)
    client.connect()
    request = SegmentImage.Request(image=conversions.image_to_msg(stripes(), 'rgb8', client.next_header()))
    waiting = [client.start_call('segment_image', request) for _ in range(4)]
    client.spin_for(0.2)
    assert client.change_state('deactivate')
    client.spin_until(lambda: all(call.done() for call in waiting))
    assert {call.result().message for call in waiting} <= {
        '',
        'the node has been deactivated',
        'the node is not active',
    }
