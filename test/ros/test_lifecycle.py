"""Transitions, what survives them, and a clean end."""

import signal
import time

import pytest
from sensor_msgs.msg import Image
from std_srvs.srv import SetBool

from fisa_ros.srv import SetVocabulary

# What keeps the node from its end, for much longer than that may take.
AT_WORK = {
    'configuring': ['--load-s', '30'],
    'encoding': ['--encode-s', '30'],
    'segmenting': ['--segment-s', '30'],
    'segmenting and encoding': ['--segment-s', '30', '--encode-s', '30'],
    'deactivating': ['--segment-s', '30'],
}


def test_words_and_parameters_survive_every_round_trip(client, start_node, colours) -> None:
    start_node(vocabulary=colours)
    masks = client.listen('segmentation/mask', Image)
    client.connect()
    client.set_vocabulary('red', 'mauve, violet')
    assert client.set_parameter('score_threshold', 0.25).successful
    for steps in [('deactivate', 'activate'), ('deactivate', 'cleanup', 'configure', 'activate')] * 2:
        for step in steps:
            assert client.change_state(step), step
        assert client.state() == 'active'
        assert client.get_parameter('score_threshold') == 0.25
        current = client.get_vocabulary()
        assert (current.version, current.classes) == (2, ['red', 'mauve, violet'])
        masks.clear()
        client.publish_until(lambda: masks)
        assert set(masks[-1].data) == {0, 1, 4} or set(masks[-1].data) == {1, 4}
    assert client.set_vocabulary('violet', 'blue').class_ids.tolist() == [5, 3]


def test_a_node_that_waits_for_its_manager(client, start_node, colours) -> None:
    start_node(vocabulary=colours, autostart='false')
    assert client.state() == 'unconfigured'
    assert client.change_state('configure')
    assert client.state() == 'inactive'
    assert client.set_vocabulary('red', 'teal').version == 2
    assert client.change_state('activate')
    client.connect()


def test_nothing_is_published_while_inactive(client, start_node, colours) -> None:
    start_node(vocabulary=colours)
    masks = client.listen('segmentation/mask', Image)
    client.connect()
    client.publish_until(lambda: masks)
    assert client.change_state('deactivate')
    masks.clear()
    for _ in range(5):
        client.publish()
        client.spin_for(0.05)
    assert masks == []
    # Not even a mask that waited for a new listener's labels comes out later.
    assert client.change_state('activate')
    client.connect()
    late = client.listen('segmentation/mask', Image)
    client.publish()
    client.spin_for(0.03)
    assert client.change_state('deactivate')
    client.spin_for(0.5)
    masks.clear()
    late.clear()
    assert client.change_state('activate')
    client.spin_for(1.0)
    assert masks == []
    assert late == []


def test_pause_and_resume(client, start_node, colours) -> None:
    start_node(vocabulary=colours)
    masks = client.listen('segmentation/mask', Image)
    client.connect()
    client.publish_until(lambda: masks)
    assert client.call('set_enabled', SetBool.Request(data=False)).message == 'paused'
    client.spin_for(0.2)
    masks.clear()
    for _ in range(5):
        client.publish()
        client.spin_for(0.05)
    assert masks == []
    assert client.set_vocabulary('red', 'cyan').success
    assert client.call('set_enabled', SetBool.Request(data=True)).success
    client.publish_until(lambda: masks)


def test_a_configuration_that_fails_can_be_tried_again(client, start_node, tmp_path) -> None:
    words = tmp_path / 'words.yaml'
    node = start_node(vocabulary=str(words), autostart='false')
    assert not client.change_state('configure')
    assert client.state() == 'unconfigured'
    assert f'cannot configure: vocabulary file {words} does not exist' in node.log
    words.write_text('classes: [red, green]')
    assert client.change_state('configure')
    assert client.get_vocabulary().classes == ['red', 'green']


def test_an_unexpected_error_is_logged_with_its_traceback(client, start_node, colours) -> None:
    node = start_node('--fail-to-load', vocabulary=colours, autostart='false')
    assert not client.change_state('configure')
    assert 'configure failed' in node.log
    assert 'ZeroDivisionError' in node.log
    assert client.state() == 'unconfigured'


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize('moment', ['unconfigured', 'inactive', 'active', *AT_WORK])
def test_a_signal_ends_the_node_cleanly(client, start_node, colours, moment, number) -> None:
    is_managed = moment in ('unconfigured', 'inactive')
    node = start_node(*AT_WORK.get(moment, []), vocabulary=colours, autostart=str(not is_managed).lower())
    if is_managed:
        assert client.state() == 'unconfigured'
        assert moment == 'unconfigured' or client.change_state('configure')
    elif moment == 'configuring':
        node.wait_for_log('loading fisa-tiny')
    else:
        node.wait_for_log('waiting')
        client.spin_until(lambda: client.images.get_subscription_count() > 0)
        for _ in range(5):
            client.publish()
            client.spin_for(0.1)
    answer = None
    if 'encoding' in moment:
        answer = client.start_call('set_vocabulary', SetVocabulary.Request(classes=['teal']))
    elif moment == 'deactivating':
        answer = client.start_transition('deactivate')
    client.spin_for(0.3)
    assert answer is None or not answer.done()
    shared_memory = node.shared_memory()
    assert shared_memory
    assert node.interrupt(number) == 0
    assert not [path for path in shared_memory if path.exists()]
    assert 'Traceback' not in node.log
    assert 'terminate called' not in node.log


def test_a_second_signal_does_not_disturb_the_end(client, start_node, colours) -> None:
    node = start_node('--segment-s', '0.3', vocabulary=colours)
    client.connect()
    client.publish()
    node.process.send_signal(signal.SIGINT)
    time.sleep(0.1)
    node.process.send_signal(signal.SIGINT)
    assert node.interrupt(signal.SIGTERM) == 0
    assert 'Traceback' not in node.log
