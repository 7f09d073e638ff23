"""The demo as a user starts it, with nodes that deserve trust and nodes that do not."""

import json
import os
from pathlib import Path
import signal
import subprocess
import sys
import time

import cv2
import numpy as np
import pytest

ROOT = Path(__file__).absolute().parents[2]
TIMEOUT_S = 150.0


@pytest.fixture
def start_demo(tmp_path):
    """Starts the demo with a segment node that calls everything floor, and perhaps has a fault."""
    node = tmp_path / 'prefix' / 'lib' / 'fisa_ros' / 'segment_node'
    node.parent.mkdir(parents=True)
    node.symlink_to(ROOT / 'test' / 'ros' / 'faulty_segment_node.py')
    prefixes = f'{tmp_path / "prefix"}{os.pathsep}{os.environ.get("AMENT_PREFIX_PATH", "")}'
    demos = []

    def start(fault=''):
        command = [sys.executable, '-m', 'fisa_ros.tools.demo', '--seconds', '6', '--size', '320x240']
        demos.append(
            subprocess.Popen(
                [*command, '--seed', '3', '--out', str(tmp_path / 'out')],
                cwd=ROOT,
                env=os.environ | {'AMENT_PREFIX_PATH': prefixes, 'FAULT': fault},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
        return demos[-1]

    yield start
    for demo in demos:
        demo.kill()
        demo.communicate()


def children_of(pid):
    tasks = Path(f'/proc/{pid}/task').glob('*/children')
    return [int(child) for task in tasks for child in task.read_text().split()]


def is_running(pid):
    try:
        return Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()[0] != 'Z'
    except FileNotFoundError:
        return False


def test_summary_tells_what_was_seen(start_demo, tmp_path):
    demo = start_demo()
    printed, errors = demo.communicate(timeout=TIMEOUT_S)
    assert demo.returncode == 0, errors
    out = tmp_path / 'out'
    summary = json.loads((out / 'summary.json').read_text())
    assert 0 < summary['frames_out'] <= summary['frames_in']
    # A frame is answered, dropped, or on its way while the node counts.
    assert summary['frames_in'] - summary['frames_out'] - summary['dropped'] in range(-5, 6)
    assert summary['fps'] == pytest.approx(summary['frames_out'] / summary['seconds'], rel=1e-2)
    assert 0 < summary['latency_ms']['p50'] <= summary['latency_ms']['p95'] <= summary['latency_ms']['p99']
    assert (summary['model'], summary['backend'], summary['device']) == ('nearest-colour', 'nearest-colour', 'cpu')
    changes = summary['vocabulary_changes']
    assert [change['version'] for change in changes] == [1, 2, 3]
    assert [len(change['classes']) for change in changes] == [30, 30, 8]
    assert all(change['ms_to_first_frame'] >= 0 for change in changes)
    phases = summary['phases']
    assert sum(phase['frames_scored'] for phase in phases) == summary['frames_scored'] == summary['frames_out']
    assert all(phase['frames_scored'] > 0 for phase in phases)
    # With everything called floor, one of the classes seen gets some IoU and the others none.
    assert 0 < summary['miou'] < 0.2
    assert summary['pq_things'] == 0
    assert phases[-1]['absent_unlabeled'] == 0
    assert [summary[key] for key in ('wrong_stamps', 'mixed_vocabularies', 'contradictions')] == [0, 0, 0]
    assert summary['failures'] == []
    assert 'unseen synonyms' in printed
    for number in (1, 2):
        for moment in ('before', 'after'):
            picture = cv2.imread(str(out / f'change_{number}_{moment}.png'))
            assert picture.shape == (240, 320, 3)
            assert np.ptp(picture) > 0
    assert 0 < (out / 'demo.gif').stat().st_size <= 3_000_000


def test_lies_are_noticed(start_demo, tmp_path):
    demo = start_demo('lie')
    _, errors = demo.communicate(timeout=TIMEOUT_S)
    assert demo.returncode == 1
    summary = json.loads((tmp_path / 'out' / 'summary.json').read_text())
    for key in ('wrong_stamps', 'mixed_vocabularies', 'contradictions'):
        assert summary[key] > 0
        assert f'{key}: {summary[key]}' in errors
    scored_or_faulty = summary['frames_scored'] + summary['mixed_vocabularies'] + summary['contradictions']
    assert scored_or_faulty == summary['frames_out']


@pytest.mark.parametrize(
    ('fault', 'reasons'),
    [
        ('die', ['segment_node ended with exit code 3', 'something terrible happened']),
        ('refuse', ["the vocabulary 'unseen synonyms' was refused: these words are too strange"]),
        pytest.param('mute', ['no frame was answered within 20 s', 'no answer today'], marks=pytest.mark.slow),
    ],
)
def test_failures_end_the_demo_with_the_reason(start_demo, tmp_path, fault, reasons):
    demo = start_demo(fault)
    _, errors = demo.communicate(timeout=TIMEOUT_S)
    assert demo.returncode == 1
    for reason in reasons:
        assert reason in errors
    assert 'Traceback' not in errors
    assert not (tmp_path / 'out' / 'summary.json').exists()


@pytest.mark.parametrize(('number', 'code'), [(signal.SIGINT, 130), (signal.SIGTERM, 130), (signal.SIGKILL, -9)])
def test_no_process_is_left_behind(start_demo, number, code):
    demo = start_demo()
    deadline_s = time.monotonic() + TIMEOUT_S
    while len(children := children_of(demo.pid)) < 2:
        assert time.monotonic() < deadline_s
        time.sleep(0.05)
    time.sleep(1.0)
    demo.send_signal(number)
    demo.communicate(timeout=TIMEOUT_S)
    assert demo.returncode == code
    while any(map(is_running, children)):
        assert time.monotonic() < deadline_s
        time.sleep(0.05)
