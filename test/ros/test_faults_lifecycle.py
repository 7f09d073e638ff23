"""Transitions in every order, possible and impossible, and a node that is killed and started again."""

import random
import signal

from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
import pytest
from std_srvs.srv import SetBool

from fisa_ros.node import conversions
from fisa_ros.srv import SegmentImage, SetVocabulary

NEXT = {
    ('unconfigured', Transition.TRANSITION_CONFIGURE): 'inactive',
    ('inactive', Transition.TRANSITION_ACTIVATE): 'active',
    ('inactive', Transition.TRANSITION_CLEANUP): 'unconfigured',
    ('active', Transition.TRANSITION_DEACTIVATE): 'inactive',
}
ENDS = {
    ('unconfigured', Transition.TRANSITION_UNCONFIGURED_SHUTDOWN),
    ('inactive', Transition.TRANSITION_INACTIVE_SHUTDOWN),
    ('active', Transition.TRANSITION_ACTIVE_SHUTDOWN),
}
IDS = [*range(9), 10, 30, 50, 60, 61, 200, 255]
LABELS = ['nonsense', 'x' * 1000, 'transition_success', 'on_configure_error', 'shut down']
WAY_TO_ACTIVE = {'unconfigured': ['configure', 'activate'], 'inactive': ['activate'], 'active': []}


@pytest.mark.parametrize('seed', [1, *[pytest.param(seed, marks=pytest.mark.slow) for seed in range(2, 6)]])
def test_two_hundred_transitions_while_images_and_calls_come(client, stream_of, stripes, seed) -> None:
    rng = random.Random(seed)
    stream = stream_of('--encode-s', '0.01')
    image = conversions.image_to_msg(stripes(), 'rgb8', client.next_header('asked'))
    state, refused, made, calls = 'active', 0, 0, []
    for number in range(200):
        calls.append(client.start_call('set_vocabulary', SetVocabulary.Request(classes=WORDS[number % 3])))
        calls.append(client.start_call('segment_image', SegmentImage.Request(image=image)))
        possible = [step for start, step in NEXT if start == state]
        step = rng.choice(possible) if rng.random() < 0.5 else rng.choice(IDS)
        if (state, step) in ENDS:
            continue
        is_label = rng.random() < 0.2
        transition = Transition(label=rng.choice(LABELS)) if is_label else Transition(id=step)
        expected = state if is_label else NEXT.get((state, step), state)
        success = client.call('segment/change_state', ChangeState.Request(transition=transition)).success
        assert success == (expected != state), (state, transition)
        refused, made = refused + (not success), made + success
        state = expected
        assert client.state() == state
        client.spin_for(0.01)
    for step in WAY_TO_ACTIVE[state]:
        assert client.change_state(step)
    client.spin_until(lambda: all(call.done() for call in calls))
    assert min(refused, made) > 50
    answers = [call.result() for call in calls[::2]]
    # Words are taken whenever a model is loaded.
    changes = {answer.version: set(answer.class_ids) for answer in answers if answer.success}
    stream.ids_of_version |= changes
    assert set(changes) == set(range(min(changes), max(changes) + 1))
    assert client.get_vocabulary().version == max(changes)


WORDS = [['crimson', 'lime', 'navy'], ['red', 'green', 'blue'], ['crimson', 'green', 'blue']]


@pytest.mark.parametrize('repetitions', [3, pytest.param(50, marks=pytest.mark.slow)])
def test_a_model_that_never_loads(client, start_node, colours, repetitions) -> None:
    node = start_node('--fail-to-load', vocabulary=colours, autostart='false')
    for _ in range(repetitions):
        assert not client.change_state('configure')
        assert client.state() == 'unconfigured'
        client.publish()
        answer = client.set_vocabulary('red')
        assert (answer.success, answer.message) == (False, 'no model is loaded: configure the node first')
        assert client.call('set_enabled', SetBool.Request(data=True)).success
    assert node.process.poll() is None
    assert node.log.count('configure failed') == repetitions


@pytest.mark.parametrize('state', ['unconfigured', 'inactive', 'active'])
def test_the_last_transition_leaves_a_node_that_answers_and_can_be_ended(client, start_node, colours, state) -> None:
    node = start_node(vocabulary=colours, autostart=str(state == 'active').lower())
    client.spin_until(lambda: client.state() == 'active' or state != 'active')
    if state == 'inactive':
        assert client.change_state('configure')
    step = next(step for start, step in ENDS if start == state)
    assert client.call('segment/change_state', ChangeState.Request(transition=Transition(id=step))).success
    assert client.state() == 'finalized'
    for step in IDS:
        request = ChangeState.Request(transition=Transition(id=step))
        assert not client.call('segment/change_state', request).success
    client.publish()
    assert not client.set_vocabulary('red').success
    assert node.interrupt() == 0
    assert 'Traceback' not in node.log


@pytest.mark.parametrize(
    'repetitions', [2, *[pytest.param(10, marks=pytest.mark.slow, id=f'10-{n}') for n in range(5)]]
)
@pytest.mark.parametrize(
    'moment', ['segmenting', *[pytest.param(m, marks=pytest.mark.slow) for m in ('idle', 'encoding')]]
)
def test_a_killed_node_comes_back_when_it_is_started_again(
    client, stream_of, start_node, colours, repetitions, moment
) -> None:
    options = {'idle': [], 'segmenting': ['--segment-s', '0.2'], 'encoding': ['--encode-s', '30']}[moment]
    stream = stream_of(*options)
    for _ in range(repetitions):
        if moment == 'encoding':
            client.start_call('set_vocabulary', SetVocabulary.Request(classes=['teal']))
            client.spin_for(0.1)
        stream.node.process.send_signal(signal.SIGKILL)
        assert stream.node.wait() == -signal.SIGKILL
        assert 'Traceback' not in stream.node.log
        stream.node = start_node(*options, vocabulary=colours)
        stream.serve()
        assert client.get_vocabulary().version == 1
