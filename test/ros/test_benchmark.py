"""The benchmark through ROS, with a segment node that calls everything floor, and messages without a node."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from fisa_ros.core.results import PanopticResult
from fisa_ros.node import conversions
from fisa_ros.node.frame_messages import ImageMessages
from fisa_ros.node.segment_parameters import SegmentParameters
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


@pytest.mark.skipif('cameras' in SegmentParameters.__dataclass_fields__, reason='the node has several cameras')
@pytest.mark.parametrize('arguments', [['--cameras', '2'], ['--sweep', 'cameras=1,2,4']])
def test_more_cameras_than_the_node_has_are_refused(capsys, arguments):
    assert main([*SHORT, *arguments]) == 2
    assert 'cameras=2 cannot be measured: the segment node of this version has one camera' in capsys.readouterr().err


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
