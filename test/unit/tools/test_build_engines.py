"""The command line around engines that are built elsewhere: its report, its progress, its end."""

import json
import os
import signal
import threading

import pytest

from fisa_ros.core.errors import BuildCancelledError, EngineError
from fisa_ros.runtime.build_progress import BuildProgress, BuildState
from fisa_ros.runtime.precision_ladder import RUNGS, Attempt, Outcome
from fisa_ros.tools.build_engines import main


class Backend:
    is_closed = False

    def close(self):
        self.is_closed = True


class Supply:
    """Builds in two steps, as the real one tells it."""

    def __init__(self, progress, error=None):
        self.progress, self.error = progress, error
        self.attempts = (
            Attempt(RUNGS[0], Outcome.WRONG, 'cosine 0.5'),
            Attempt(RUNGS[1], Outcome.PASSED, 'parity passed'),
        )
        self.backend = Backend()
        self.forgotten = 0

    def forget_refusals(self):
        self.forgotten += 1

    def get(self, is_cancelled):
        self.progress.enter(BuildState.BUILDING, 'fp16 engine of encoder.onnx', 252.0)
        if self.error is not None:
            raise self.error
        self.progress.enter(BuildState.VERIFYING, 'fp16 engines')
        return self.backend, 'parity passed'


@pytest.fixture
def supply(monkeypatch):
    progress = BuildProgress()
    made = Supply(progress)
    asked = []

    def make(manifest, folder, device, precision, cache):
        asked.append((manifest.name, folder.name, device, precision))
        return made, progress

    monkeypatch.setattr('fisa_ros.runtime.tensorrt_start._supply', make)
    made.asked = asked
    return made


@pytest.fixture(autouse=True)
def handlers():
    before = [(number, signal.getsignal(number)) for number in (signal.SIGINT, signal.SIGTERM)]
    yield
    for number, handler in before:
        signal.signal(number, handler)


def test_reports_what_was_tried(supply, capsys, tmp_path):
    assert main(['--model', 'fisa-tiny', '--graphs', str(tmp_path), '--gpu', '1', '--json']) == 0
    summary = json.loads(capsys.readouterr().out)
    assert supply.asked == [('fisa-tiny', tmp_path.name, 1, 'auto')]
    assert supply.backend.is_closed
    assert summary['model'] == 'fisa-tiny'
    assert summary['verdict'] == 'parity passed'
    assert [(entry['precision'], entry['outcome']) for entry in summary['attempts']] == [
        ('fp16', 'wrong'),
        ('fp16-safe', 'passed'),
    ]


@pytest.mark.parametrize(('arguments', 'forgotten'), [([], 0), (['--retry'], 1)])
@pytest.mark.usefixtures('capsys')
def test_refusals_are_forgotten_where_that_is_asked_for(supply, arguments, forgotten):
    assert main(arguments) == 0
    assert supply.forgotten == forgotten


def test_prints_a_table(supply, capsys):
    assert main([]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ['fp16', 'wrong', 'cosine', '0.5']
    assert lines[-1].startswith('engines of fisa-tiny ready after')


def test_says_what_it_does_and_why_it_failed(supply, capsys):
    told = threading.Event()

    def wait_and_fail(is_cancelled):
        supply.progress.enter(BuildState.BUILDING, 'fp16 engine of encoder.onnx', 252.0)
        told.wait(0.5)
        raise EngineError('no precision gives the reference outputs')

    supply.get = wait_and_fail
    assert main(['--json']) == 2
    out, err = capsys.readouterr()
    assert out == ''
    assert 'building fp16 engine of encoder.onnx' in err
    assert err.splitlines()[-1] == 'error: no precision gives the reference outputs'


def test_an_interrupt_cancels_the_build(supply, capsys):
    def get(is_cancelled):
        assert not is_cancelled()
        os.kill(os.getpid(), signal.SIGINT)
        assert is_cancelled()
        raise BuildCancelledError('the build of the TensorRT engine was cancelled')

    supply.get = get
    assert main([]) == 2
    assert 'cancelled' in capsys.readouterr().err


def test_refuses_a_negative_gpu(supply, capsys):
    assert main(['--gpu', '-1']) == 2
    assert '--gpu must be 0 or more, got -1' in capsys.readouterr().err


def test_says_what_to_install_where_tensorrt_is_missing(capsys, monkeypatch):
    monkeypatch.setitem(__import__('sys').modules, 'tensorrt', None)
    assert main([]) == 2
    assert 'pip install tensorrt-cu13' in capsys.readouterr().err
