"""Floods, nonsense and callers that do not wait for the answer."""

from concurrent.futures import ThreadPoolExecutor
import itertools

import pytest
from rcl_interfaces.msg import Parameter, ParameterType, ParameterValue
from rcl_interfaces.srv import SetParameters
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CompressedImage, Image
from std_srvs.srv import SetBool

from fisa_ros.node import conversions
from fisa_ros.srv import GetVocabulary, SegmentImage, SetVocabulary

QUICK, FULL = 3, 50
EITHER = pytest.mark.parametrize('repetitions', [QUICK, pytest.param(FULL, marks=pytest.mark.slow)])
CALLERS = 20
SERVICES = {
    'set_vocabulary': SetVocabulary,
    'get_vocabulary': GetVocabulary,
    'segment_image': SegmentImage,
    'set_enabled': SetBool,
}
NONSENSE = [
    dict(classes=[]),
    dict(classes=['']),
    dict(classes=['cat', '\x00']),
    dict(classes=['x' * 1_000_000]),
    dict(classes=['cat'] * 5000),
    dict(classes=[f'word {number}' for number in range(5000)]),
    dict(classes=[', '.join(f'name {number}' for number in range(5000))]),
    dict(classes=['cat'], class_ids=[65535]),
    dict(classes=['cat'], class_ids=list(range(1000))),
    dict(classes=['cat', 'dog'], class_ids=[9, 9]),
    dict(classes=['cat'], stuff_classes=['\U0001f408'] * 100),
    dict(classes=['\u202ecat']),
    dict(classes=[';']),
    dict(classes=['red'], class_ids=[77]),
]


def add_clients(client, service, count):
    # Fast DDS gives every caller the answers to all callers; from a queue of ten its own may be pushed out.
    qos = QoSProfile(depth=10 * CALLERS, reliability=ReliabilityPolicy.RELIABLE)
    clients = [client.node.create_client(SERVICES[service], service, qos_profile=qos) for _ in range(count)]
    client.spin_until(lambda: all(caller.service_is_ready() for caller in clients))
    return clients


def flood(client, clients, requests):
    """Let every client call again as soon as it is answered, until the requests are used up; return the answers."""
    requests, answers, under_way = iter(requests), [], {}
    idle = list(clients)

    def is_done():
        for caller, future in list(under_way.items()):
            if future.done():
                answers.append(future.result())
                del under_way[caller]
                idle.append(caller)
        while idle and (request := next(requests, None)) is not None:
            caller = idle.pop()
            under_way[caller] = caller.call_async(request)
        return not under_way

    client.spin_until(is_done)
    return answers


@EITHER
def test_vocabulary_requests_from_twenty_callers(client, stream_of, repetitions) -> None:
    stream = stream_of()
    old, new = ['red', 'green', 'blue'], ['crimson', 'lime', 'navy']
    count = CALLERS * repetitions
    requests = [SetVocabulary.Request(classes=(new, old, [])[number % 3]) for number in range(count)]
    clients = add_clients(client, 'set_vocabulary', CALLERS)
    answers = flood(client, clients, requests)
    assert len(answers) == count
    assert sum(not answer.success for answer in answers) == len(requests[2::3])
    changes = [answer for answer in answers if answer.success and answer.message != 'nothing changed']
    assert sorted(answer.version for answer in changes) == list(range(2, len(changes) + 2))
    stream.ids_of_version |= {answer.version: set(answer.class_ids) for answer in changes}
    assert client.get_vocabulary().version == len(changes) + 1


@EITHER
def test_images_and_questions_from_twenty_callers(client, stream_of, stripes, repetitions) -> None:
    stream = stream_of('--segment-s', '0.005')
    half = CALLERS // 2
    count = half * repetitions
    image = conversions.image_to_msg(stripes(), 'rgb8', client.next_header('asked'))
    questions = flood(client, add_clients(client, 'get_vocabulary', half), [GetVocabulary.Request()] * count)
    assert {answer.version for answer in questions} == {1}
    answers = flood(client, add_clients(client, 'segment_image', half), [SegmentImage.Request(image=image)] * count)
    assert len(questions) == len(answers) == count
    assert all(answer.success and set(answer.mask.data) == {1, 2, 3} for answer in answers)
    stream.serve()


@EITHER
def test_more_images_at_once_than_may_wait(client, stream_of, stripes, repetitions) -> None:
    stream = stream_of('--segment-s', '0.02')
    image = conversions.image_to_msg(stripes(), 'rgb8', client.next_header('asked'))
    clients = add_clients(client, 'segment_image', 2 * CALLERS)
    answers = flood(client, clients, [SegmentImage.Request(image=image)] * (2 * CALLERS * min(repetitions, 10)))
    refused = [answer.message for answer in answers if not answer.success]
    assert refused
    assert all(message == 'busy: 16 requests wait already' for message in refused)
    assert len(refused) < len(answers)
    stream.serve()


@EITHER
def test_nonsense_changes_nothing(client, stream_of, repetitions) -> None:
    stream_of()
    before = client.get_vocabulary()
    for _, fields in itertools.product(range(repetitions), NONSENSE):
        answer = client.call('set_vocabulary', SetVocabulary.Request(**fields))
        assert not answer.success, fields
        assert answer.version == 1
        assert answer.message
        assert len(answer.message) < 20_000
    assert client.get_vocabulary() == before


@EITHER
def test_nonsense_images(client, stream_of, stripes, repetitions) -> None:
    stream_of()
    good = conversions.image_to_msg(stripes(), 'rgb8', client.next_header('asked'))
    requests = [
        SegmentImage.Request(),
        SegmentImage.Request(image=good, compressed_image=CompressedImage(data=b'x')),
        SegmentImage.Request(image=Image(encoding='rgb8', width=64, height=48, step=192, data=bytes(10))),
        SegmentImage.Request(image=Image(encoding='?', width=64, height=48, step=192, data=bytes(9216))),
        SegmentImage.Request(compressed_image=CompressedImage(data=bytes(100))),
    ]
    for request in requests * repetitions:
        answer = client.call('segment_image', request)
        assert not answer.success
        assert answer.message
    assert client.call('segment_image', SegmentImage.Request(image=good)).success


@EITHER
def test_callers_that_leave_before_the_answer(client, stream_of, stripes, repetitions) -> None:
    stream = stream_of('--encode-s', '0.01', '--segment-s', '0.01')
    image = conversions.image_to_msg(stripes(), 'rgb8', client.next_header('asked'))
    for number in range(repetitions):
        words = ['red', 'green', 'blue', f'word {number}']
        for service, request in (
            ('set_vocabulary', SetVocabulary.Request(classes=words)),
            ('segment_image', SegmentImage.Request(image=image)),
        ):
            (caller,) = add_clients(client, service, 1)
            caller.call_async(request)
            client.node.destroy_client(caller)
    # Whether such a request still counts is open; this one comes after all of them.
    last = client.set_vocabulary('red', 'green', 'blue')
    assert last.success
    stream.ids_of_version |= {number: {1, 2, 3} for number in range(1, last.version + 1)}


@EITHER
def test_pausing_from_all_sides(client, stream_of, repetitions) -> None:
    stream = stream_of()
    clients = add_clients(client, 'set_enabled', CALLERS)
    requests = [SetBool.Request(data=bool(number % 2)) for number in range(CALLERS * repetitions)]
    assert all(answer.success for answer in flood(client, clients, requests))
    assert client.call('set_enabled', SetBool.Request(data=True)).success
    stream.serve()


@EITHER
def test_parameters_of_every_kind(client, stream_of, repetitions) -> None:
    stream = stream_of()
    bad = [
        ParameterValue(type=ParameterType.PARAMETER_DOUBLE, double_value=value)
        for value in (-0.1, 1.1, float('nan'), float('inf'))
    ]
    bad += [ParameterValue(type=kind) for kind in range(10) if kind != ParameterType.PARAMETER_DOUBLE]
    before = client.get_parameter('score_threshold')
    for _, value in itertools.product(range(repetitions), bad):
        request = SetParameters.Request(parameters=[Parameter(name='score_threshold', value=value)])
        result = client.call('segment/set_parameters', request).results
        assert not result[0].successful, value
        assert client.set_parameter('model', 'other').successful is False
        assert client.set_parameter('no_such_parameter', 1).successful is False
    assert client.get_parameter('score_threshold') == before
    stream.serve()


@EITHER
def test_parameters_of_types_that_do_not_exist(client, stream_of, repetitions) -> None:
    stream = stream_of()
    parameter = Parameter(name='score_threshold', value=ParameterValue(type=200))
    for number in range(1, repetitions + 1):
        # rclpy answers this to nobody.
        client.start_call('segment/set_parameters', SetParameters.Request(parameters=[parameter]))
        client.spin_until(lambda number=number: stream.node.log.count('200 is not a valid') == number)
        assert client.set_parameter('score_threshold', 0.4).successful
    stream.known_tracebacks = repetitions


def test_calls_from_threads_of_many_processes_worth(client, stream_of) -> None:
    """Twenty nodes with contexts of their own, each asking on its own thread."""
    from fisa_ros.node.segment_client import SegmentClient

    stream = stream_of()

    def ask(number):
        with SegmentClient(f'caller_{number}') as caller:
            return [caller.vocabulary().version for _ in range(5)]

    with ThreadPoolExecutor(CALLERS) as pool:
        calls = [pool.submit(ask, number) for number in range(CALLERS)]
        client.spin_until(lambda: all(call.done() for call in calls))
    assert {version for call in calls for version in call.result()} == {1}
    stream.serve()
