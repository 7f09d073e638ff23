"""Level and message of a camera's line in the diagnostics."""

from dataclasses import replace

from diagnostic_msgs.msg import DiagnosticStatus
import pytest
from std_msgs.msg import Header

from fisa_ros.node.camera_depth import DepthReport
from fisa_ros.node.diagnostics import build_diagnostics
from fisa_ros.node.stream_counters import StreamCounters

GOOD = replace(
    StreamCounters().report(), received=30, answered=10, dropped=20, recently_answered=10, output_rate_hz=10.0
)
GOOD_DEPTH = DepthReport(
    received=30,
    published=10,
    unpaired=0,
    refused=0,
    recently_published=10,
    recently_unpaired=0,
    recently_refused=0,
    nearest_s=None,
    silent_s=0.0,
    last_error='',
)


def status_of(state='active', depth=None, **changes):
    report = replace(GOOD, **changes)
    return build_diagnostics('/segment', state, True, None, [('/image', report, depth)], Header()).status[1]


@pytest.mark.parametrize(
    ('changes', 'level', 'message'),
    [
        ({}, DiagnosticStatus.OK, '10.0 frames/s'),
        ({'received': 0, 'silent_s': 2.0}, DiagnosticStatus.WARN, 'no image'),
        ({'silent_s': 6.0}, DiagnosticStatus.STALE, 'no image for 6 s'),
        ({'stuck_s': 7.0}, DiagnosticStatus.ERROR, 'stuck: no answer for 7 s while images wait'),
        ({'recently_refused': 1, 'last_error': 'bad'}, DiagnosticStatus.WARN, 'bad'),
        (
            {'recently_refused': 1, 'recently_answered': 0, 'last_error': 'bad'},
            DiagnosticStatus.ERROR,
            'bad',
        ),
        (
            {'is_mismatched': True, 'silent_s': 9.0},
            DiagnosticStatus.ERROR,
            'no publisher can reach this node: their quality of service does not match',
        ),
        # Slower than the reports come.
        ({'input_rate_hz': 0.0, 'silent_s': 1.5}, DiagnosticStatus.OK, '10.0 frames/s'),
    ],
)
def test_a_camera_is_judged(changes, level, message) -> None:
    status = status_of(**changes)
    assert (status.level, status.message) == (level, message)
    assert status_of('inactive', **changes).level == DiagnosticStatus.OK


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'silent_s': 6.0}, 'no depth for 6 s'),
        ({'recently_refused': 1, 'last_error': 'bad'}, 'bad'),
        (
            {'recently_published': 0, 'recently_unpaired': 5, 'nearest_s': 0.034},
            'no depth within depth_tolerance_s of the images; the nearest was 0.034 s away',
        ),
        ({'recently_published': 0, 'recently_unpaired': 5}, 'no depth comes while its images are remembered'),
    ],
)
def test_trouble_with_depth_is_a_warning(changes, message) -> None:
    status = status_of(depth=replace(GOOD_DEPTH, **changes))
    assert (status.level, status.message) == (DiagnosticStatus.WARN, message)
    assert status_of(depth=GOOD_DEPTH).level == DiagnosticStatus.OK
