"""The soak in short: it finds nothing wrong with a node that deserves trust, and the faults of one that does not."""

import json
import os
from pathlib import Path
import signal
import subprocess
import sys
import time

import pytest

ROOT = Path(__file__).absolute().parents[2]
TIMEOUT_S = 170.0
FAULTY_NODE = f'{sys.executable} {ROOT / "test" / "ros" / "faulty_segment_node.py"}'
NODE = f'{sys.executable} {ROOT / "scripts" / "segment_node"}'
# On a machine that does other things too, an answer may be late.
AGE = 'age_ms p95'


@pytest.fixture
def start_soak(tmp_path):
    soaks = []

    def start(*options, fault=''):
        command = [sys.executable, '-m', 'fisa_ros.tools.soak', '--json', '--out', str(tmp_path / 'out'), *options]
        soaks.append(
            subprocess.Popen(
                command,
                cwd=ROOT,
                env=os.environ | {'FAULT': fault},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
        return soaks[-1]

    yield start
    for soak in soaks:
        soak.kill()
        soak.communicate()


def violations(summary) -> list[str]:
    return [text for text in summary['violations'] if not text.startswith(AGE)]


def test_a_short_soak_of_fisa_tiny(start_soak) -> None:
    soak = start_soak('--minutes', '0.5', '--depth', '--executable', NODE)
    printed, errors = soak.communicate(timeout=TIMEOUT_S)
    summary = json.loads(printed)
    assert violations(summary) == [], errors
    assert soak.returncode == bool(summary['violations'])
    counted = sum(summary[key] for key in ('frames_out', 'frames_dropped', 'frames_refused', 'frames_waiting'))
    assert 0 < summary['frames_in'] == counted <= summary['frames_sent']
    assert 0 < summary['answers_checked'] <= summary['answers_received'] <= summary['frames_out']
    keys = ('wrong_stamps', 'mixed_vocabularies', 'contradictions', 'wrong_points')
    for key in (*keys, 'crashes', 'frames_refused', 'frames_waiting'):
        assert summary[key] == 0, key
    assert len(summary['points_checked']) == 2
    for points_in, points_checked in zip(summary['points_in'], summary['points_checked'], strict=True):
        assert 0 < points_checked <= points_in
    assert (summary['model'], summary['cameras']) == ('fisa-tiny', 2)
    assert summary['vocabulary_changes'] > 10
    assert summary['threshold_changes'] > 5
    assert summary['listeners'] > 3
    assert summary['memory_growth_percent'] is None, 'half a minute says nothing'
    assert summary['memory_mb']['last'] > 50.0
    assert 0 < summary['age_ms']['p50'] <= summary['age_ms']['p95']
    # Two cameras take turns.
    assert 0 < summary['inference_ms'] < summary['inference_period_ms']


@pytest.mark.slow
def test_lies_are_noticed(start_soak) -> None:
    soak = start_soak('--minutes', '0.1', '--cameras', '1', '--depth', '--executable', FAULTY_NODE, fault='lie')
    printed, errors = soak.communicate(timeout=TIMEOUT_S)
    assert soak.returncode == 1
    summary = json.loads(printed)
    for key in ('wrong_stamps', 'mixed_vocabularies', 'contradictions', 'wrong_points'):
        assert summary[key] > 0, key
        assert f'{key} is {summary[key]}, must be 0' in errors


def test_a_crash_ends_the_soak_with_what_is_known(start_soak) -> None:
    soak = start_soak('--minutes', '1', '--cameras', '1', '--executable', FAULTY_NODE, fault='die')
    printed, errors = soak.communicate(timeout=TIMEOUT_S)
    assert soak.returncode == 1
    summary = json.loads(printed)
    assert (summary['crashes'], summary['exit_code']) == (1, 3)
    assert summary['frames_sent'] > 0
    assert 'something terrible happened' in errors


@pytest.mark.slow
def test_an_interrupted_soak_prints_what_is_known(start_soak) -> None:
    soak = start_soak('--minutes', '30', '--cameras', '1', '--executable', FAULTY_NODE)
    for line in soak.stderr:
        if line.startswith('rendering'):
            break
    time.sleep(12.0)
    soak.send_signal(signal.SIGINT)
    printed, _ = soak.communicate(timeout=TIMEOUT_S)
    assert soak.returncode == 130
    summary = json.loads(printed)
    assert summary['interrupted'] is True
    assert summary['minutes'] < 1.0
    assert violations(summary) == []
