"""A segment node that calls everything floor, and has the fault that the environment variable FAULT names."""

import itertools
import os
import sys

from nearest_colour import FailingSegmenter

from fisa_ros.core.errors import VocabularyError
from fisa_ros.node import conversions, depth_messages
from fisa_ros.node.segment_node import run

_make_segments = conversions.segments_to_msg
_make_points = depth_messages.points_to_msg
_read_request = conversions.request_from_srv
_requests = itertools.count(1)
_answers = itertools.count(1)
_clouds = itertools.count(1)


def refuse_second_request(request):
    if next(_requests) == 2:
        raise VocabularyError('these words are too strange')
    return _read_request(request)


def die_at_second_request(request):
    if next(_requests) == 2:
        sys.stderr.write('something terrible happened\n')
        os._exit(3)
    return _read_request(request)


def lie_now_and_then(result, header):
    msg = _make_segments(result, header)
    number = next(_answers)
    if number % 5 == 1:
        msg.header.stamp.nanosec ^= 1
    elif number % 5 == 2 and msg.segments:
        msg.segments[0].class_name = 'unicorn'
    elif number % 5 == 3:
        msg.segments = []
    return msg


def lose_a_row_now_and_then(cloud, header):
    return _make_points(cloud[next(_clouds) % 3 == 1 :], header)


def say_nothing(result, header):
    raise VocabularyError('no answer today')


FAULTS = {
    'refuse': [(conversions, 'request_from_srv', refuse_second_request)],
    'die': [(conversions, 'request_from_srv', die_at_second_request)],
    'lie': [
        (conversions, 'segments_to_msg', lie_now_and_then),
        (depth_messages, 'points_to_msg', lose_a_row_now_and_then),
    ],
    'mute': [(conversions, 'segments_to_msg', say_nothing)],
}

if __name__ == '__main__':
    if fault := os.environ.get('FAULT'):
        for module, name, function in FAULTS[fault]:
            setattr(module, name, function)
    sys.exit(run(sys.argv, lambda _: FailingSegmenter(segment_s=0.05, encode_s=0.0, broken_width=None)))
