"""The benchmark through ROS, with a segment node that calls everything floor, and messages without a node."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from std_msgs.msg import Header

from fisa_ros.core.results import PanopticResult, Segment
from fisa_ros.node import conversions, message_timing
from fisa_ros.node.frame_messages import OUTPUT_TYPES, ImageMessages, output_makers
from fisa_ros.node.message_timing import INPUT_KINDS, MessageTimer, TransportError
from fisa_ros.tools.benchmark import main

ROOT = Path(__file__).absolute().parents[2]
SHORT = ['--ros', '--frames', '5', '--warm-up', '2', '--size', '64x48']


@pytest.fixture
def segment_node(tmp_path, monkeypatch):
    """Let a node that calls everything floor be the segment node; it takes 50 ms for a frame."""
    node = tmp_path / 'prefix' / 'lib' / 'fisa_ros' / 'segment_node'
    node.parent.mkdir(parents=True)
    node.symlink_to(ROOT / 'test' / 'ros' / 'faulty_segment_node.py')
    prefixes = f'{tmp_path / "prefix"}{os.pathsep}{os.environ.get("AMENT_PREFIX_PATH", "")}'
    monkeypatch.setenv('AMENT_PREFIX_PATH', prefixes)
    return monkeypatch.setenv


def run(capsys, *arguments):
    status = main([*arguments, '--json'])
    printed, errors = capsys.readouterr()
    assert status == 0, errors
    return json.loads(printed)


def check(report):
    latency = report['latency_ms']
    assert latency['n'] >= 5
    assert 50 <= latency['p50'] <= latency['p95'] <= latency['p99']
    assert 50 <= report['inference_ms'] <= latency['mean']
    assert report['overhead_ms'] == pytest.approx(latency['mean'] - report['inference_ms'], abs=0.01)
    assert report['frames_per_s'] == pytest.approx(latency['n'] / report['seconds'], rel=1e-3)
    assert report['node_rss_mb'] <= report['node_peak_mb']
    assert report['node_cpu_percent'] > 0
    assert (report['model'], report['backend'], report['device']) == ('nearest-colour', 'nearest-colour', 'cpu')


@pytest.mark.usefixtures('segment_node')
def test_each_image_is_sent_when_the_last_is_answered(capsys):
    domain = os.environ['ROS_DOMAIN_ID']
    report = run(capsys, *SHORT, '--words', '40')
    check(report)
    assert (report['words'], report['names_per_word'], report['made_up_names']) == (40, 3, 10)
    assert (report['size'], report['cameras'], report['rate_hz'], report['dropped']) == ('64x48', 1, 0.0, 0)
    assert report['frames_per_s'] < 20
    assert os.environ['ROS_DOMAIN_ID'] == domain


@pytest.mark.usefixtures('segment_node')
def test_images_come_faster_than_answers(capsys):
    report = run(capsys, *SHORT, '--rate', '40')
    check(report)
    # With 20 answers a second at most, half of the images or more are replaced.
    assert report['dropped'] >= report['latency_ms']['n'] / 2


@pytest.mark.usefixtures('segment_node')
def test_a_sweep_starts_a_node_for_each_point(capsys):
    assert main([*SHORT, '--sweep', 'size=64x48,128x96']) == 0
    printed = capsys.readouterr().out
    assert 'one after the other; ratio of medians to the first' in printed
    assert [line.split()[0] for line in printed.splitlines() if line[:2] in ('64', '12')] == ['64x48', '128x96']


def test_a_node_that_ends_is_reported_with_its_log(capsys, segment_node):
    segment_node('FAULT', 'nothing such')
    assert main(SHORT) == 2
    errors = capsys.readouterr().err
    assert 'error: the segment node ended with exit code 1; its last lines:' in errors
    assert "KeyError: 'nothing such'" in errors


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['--threads', '2'], 'threads=2 cannot be chosen through ROS'),
        (['--sweep', 'threads=1,2'], 'threads=1 cannot be chosen through ROS'),
        (['--cameras', '0'], 'cameras must be in 1..16, got 0'),
        (['--words', '0'], 'words must be in 1..65535, got 0'),
    ],
)
def test_what_the_node_cannot_is_refused_at_once(capsys, monkeypatch, arguments, message):
    monkeypatch.setattr('fisa_ros.tools.benchmark_ros.NodeProcess', lambda *_: pytest.fail('a node was started'))
    assert main([*SHORT, *arguments]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.usefixtures('segment_node')
def test_two_cameras_share_a_node(capsys):
    report = run(capsys, *SHORT, '--cameras', '2')
    check(report)
    assert report['cameras'] == 2


@pytest.mark.parametrize('mask_encoding', ['mono8', 'mono16'])
def test_messages_without_a_node_are_those_of_the_node(monkeypatch, stripes, mask_encoding):
    frames = [stripes((48, 64)), stripes((48, 64))[:, ::-1]]
    messages = ImageMessages(frames, mask_encoding)
    for number, frame in enumerate(frames):
        np.testing.assert_array_equal(messages.decode(number), frame)
    made = []
    for name in ('mask_to_msg', 'image_to_msg', 'segments_to_msg', 'detections_to_msg'):
        make = getattr(conversions, name)
        monkeypatch.setattr(conversions, name, lambda *args, make=make: made.append(make(*args)) or made[-1])
    messages.write(1, PanopticResult.empty((48, 64), 3))
    kinds = [getattr(msg, 'encoding', type(msg).__name__) for msg in made]
    assert kinds == [mask_encoding, mask_encoding, 'mono16', 'mono8', 'SegmentArray', 'Detection2DArray']
    assert all(msg.header.frame_id == 'camera' for msg in made)


def test_outputs_have_the_types_they_are_announced_with(stripes):
    makers = output_makers(stripes((48, 64)), PanopticResult.empty((48, 64), 3), 'mono8', Header())
    assert {name: type(make()) for name, make in makers.items()} == OUTPUT_TYPES


@pytest.mark.parametrize('kind', INPUT_KINDS)
def test_each_kind_of_image_is_decoded_to_what_was_sent(stripes, kind):
    frame = stripes((48, 64))
    msg = INPUT_KINDS[kind].encode(frame, Header(frame_id='camera'))
    assert type(msg) is INPUT_KINDS[kind].msg_type
    assert kind in (msg.format if kind == 'jpeg' else msg.encoding)
    assert msg.header.frame_id == 'camera'
    # jpeg loses something at the edges of colours.
    assert np.median(np.abs(INPUT_KINDS[kind].decode(msg).astype(int) - frame)) <= (8 if kind == 'jpeg' else 0)


def test_messages_go_through_the_middleware_one_by_one(stripes):
    frames = [stripes((48, 64)), stripes((48, 64))[:, ::-1]]
    segment = Segment(1, 2, 'cat', True, 0.5, 48 * 64, (0, 0, 64, 48))
    result = PanopticResult(np.ones((48, 64), np.uint16), (segment,), 3)
    decoded = []

    def decode(msg):
        decoded.append(INPUT_KINDS['bgr8'].decode(msg))
        return decoded[-1]

    kind = message_timing.InputKind(INPUT_KINDS['bgr8'].msg_type, INPUT_KINDS['bgr8'].encode, decode)
    with MessageTimer(kind, frames, [result] * 2, 'mono8') as timer:
        timings = [timer.run(number) for number in range(3)]
    for image, frame in zip(decoded, [*frames, frames[0]], strict=True):
        np.testing.assert_array_equal(image, frame)
    for timing in timings:
        assert list(timing.make_ms) == list(timing.publish_ms) == list(OUTPUT_TYPES)
        assert min(timing.receive_ms, timing.decode_ms, *timing.make_ms.values(), *timing.publish_ms.values()) > 0
        made = timing.decode_ms + sum(timing.make_ms.values()) - timing.make_ms['overlay']
        assert timing.conversion_ms == pytest.approx(made)
        published = timing.receive_ms + sum(timing.publish_ms.values()) - timing.publish_ms['overlay']
        assert timing.total_ms == pytest.approx(made + published)
    # The maps of a frame are made anew each time, or they would cost nothing from the second on.
    assert 'semantic_map' not in vars(result)


def test_messages_that_reach_nobody_are_reported(monkeypatch, stripes):
    monkeypatch.setattr(message_timing, '_TIMEOUT_S', 0.05)
    timer = MessageTimer(INPUT_KINDS['rgb8'], [stripes((48, 64))], [PanopticResult.empty((48, 64), 1)], 'mono8')
    try:
        for subscription in list(timer._listener.subscriptions):
            timer._listener.destroy_subscription(subscription)
        with pytest.raises(TransportError, match=r'a node did not find its listeners within 0\.05 s'):
            timer.__enter__()
    finally:
        timer.__exit__(None, None, None)


def test_what_messages_cost_is_shown_by_kind_and_output(capsys):
    arguments = ['--messages', '--frames', '3', '--warm-up', '1', '--size', '64x48', '--device', 'cpu']
    domain = os.environ['ROS_DOMAIN_ID']
    report = run(capsys, *arguments)
    assert os.environ['ROS_DOMAIN_ID'] == domain
    assert (report['model'], report['size'], report['mask_encoding'], report['words']) == (
        'fisa-tiny', '64x48', 'mono8', 30,
    )  # fmt: skip
    assert report['segments'] > 1
    assert list(report['messages']) == list(INPUT_KINDS)
    for entry in report['messages'].values():
        assert entry['total_ms']['n'] == 3
        assert entry['conversion_ms']['mean'] < entry['total_ms']['mean']
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    assert all(text in printed for text in ('rgb8', 'bgr8', 'overlay (not in the sums)', 'sum with receiving'))
