from contextlib import suppress
import os
from pathlib import Path
import signal
import subprocess
import sys
import threading
import time

import pytest

from fisa_ros.core.errors import (
    BuildCancelledError,
    EngineCacheError,
    EngineError,
    EngineRefusedError,
    GpuMemoryError,
)
from fisa_ros.runtime.build_progress import BuildProgress, BuildState
from fisa_ros.runtime.engine_build import build_in_child

HERE = Path(__file__).absolute().parent


@pytest.fixture
def build(tmp_path, monkeypatch):
    """Build with a builder of `engine_builders`."""
    monkeypatch.setenv('PYTHONPATH', str(HERE), prepend=os.pathsep)

    def run(builder, is_cancelled=lambda: False, **options):
        arguments = {name: options.pop(name) for name in ('plan', 'signal') if name in options}
        return build_in_child(
            arguments, tmp_path / 'engine.plan', is_cancelled, builder=f'engine_builders:{builder}', **options
        )

    return run


def is_running(pid):
    try:
        status = Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()[0]
    except FileNotFoundError:
        return False
    return status != 'Z'


def wait_for(condition, timeout_s=20):
    end_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end_s, 'it did not happen in time'
        time.sleep(0.02)


def test_another_process_builds(build, tmp_path):
    record = build('write', plan='ten bytes.')
    assert (tmp_path / 'engine.plan').read_bytes() == b'ten bytes.'
    assert record.half_layer_share == 0.75
    assert record.notes['workspace_bytes'] == 5
    assert record.notes['pid'] != os.getpid()
    assert record.notes['niceness'] >= os.nice(0)
    assert 0 < record.build_seconds < 60


@pytest.mark.parametrize(
    ('builder', 'error', 'message'),
    [
        ('nothing', EngineError, 'the builder gave no engine and no reason'),
        ('no_plan', EngineError, 'said that all went well, but wrote no plan'),
        ('empty_plan', EngineError, 'said that all went well, but wrote no plan'),
        ('refuse', EngineRefusedError, r'^node 7 \(GridSample\) is not supported$'),
        ('out_of_gpu_memory', GpuMemoryError, '12 MiB left, 300 MiB are needed'),
        ('bug', EngineError, r"unexpected error of the builder: KeyError\('words'\)"),
        ('full_disk', EngineCacheError, r'no space for a TensorRT engine in .*: \d+ MiB are free there'),
        ('leave', EngineError, 'ended with status 3 and without a result; its log ends: fatal: libnvinfer said so'),
        ('missing', EngineError, 'unexpected error of the builder: AttributeError'),
    ],
)
def test_what_goes_wrong_in_the_child_is_said(build, builder, error, message):
    with pytest.raises(error, match=message) as caught:
        build(builder)
    # Anything else that were taken for a refusal would not be tried again.
    assert caught.type is error


@pytest.mark.parametrize(
    ('name', 'error', 'message'),
    [
        ('SIGKILL', GpuMemoryError, 'was killed, as the system does when memory runs out'),
        ('SIGSEGV', EngineError, 'crashed with SIGSEGV'),
        ('SIGABRT', EngineError, 'crashed with SIGABRT'),
    ],
)
def test_a_crash_is_an_error_with_the_end_of_the_log(build, name, error, message):
    with pytest.raises(error, match=f'{message}.*its log ends: tactic 0x3f: about to fail') as caught:
        build('crash', signal=name)
    assert caught.type is error


@pytest.mark.usefixtures('build')
def test_a_plan_that_fills_the_disk_leaves_room_to_say_so(small_disk):
    with pytest.raises(EngineCacheError, match='no space for a TensorRT engine in'):
        build_in_child({}, small_disk / 'engine.plan', builder='engine_builders:too_large')
    assert not (small_disk / 'engine.plan').exists()


@pytest.mark.usefixtures('build')
def test_a_result_that_cannot_be_written_is_an_error_of_the_cache(small_disk):
    with pytest.raises(EngineCacheError, match=r'the builder of the engine cannot write to .*: is the disk full'):
        build_in_child({}, small_disk / 'engine.plan', builder='engine_builders:fill_up')


def test_an_unwritable_folder_is_named(tmp_path):
    with pytest.raises(EngineCacheError, match='TensorRT engines in /proc/nothing cannot be read or written'):
        build_in_child({}, Path('/proc/nothing/engine.plan'), builder='engine_builders:write')


def test_a_build_that_is_cancelled_stops_by_itself(build, tmp_path):
    started = tmp_path / 'started'
    with pytest.raises(BuildCancelledError, match='was cancelled'):
        build('until_cancelled', started.exists, grace_s=30)
    assert (tmp_path / 'stopped').exists()
    assert not is_running(int(started.read_text()))


def test_a_build_that_does_not_listen_is_killed(build, tmp_path):
    started = tmp_path / 'started'
    with pytest.raises(BuildCancelledError, match='was cancelled'):
        build('deaf', started.exists, grace_s=0.2)
    assert not is_running(int(started.read_text()))


def test_a_build_that_takes_too_long_fails(build, tmp_path):
    with pytest.raises(EngineError, match=r'took longer than 2 s and was stopped; its log (ends: measuring|is empty)'):
        build('deaf', timeout_s=2, grace_s=0.2)
    started = tmp_path / 'started'
    # A busy machine may not even have started it in that time.
    assert not started.exists() or not is_running(int(started.read_text()))


def test_no_child_survives_an_error_of_the_caller(build, tmp_path):
    started = tmp_path / 'started'

    def fail():
        if started.exists() and started.read_text():
            raise RuntimeError('bug of the caller')
        return False

    with pytest.raises(RuntimeError, match='bug of the caller'):
        build('deaf', fail)
    assert not is_running(int(started.read_text()))


def test_a_child_dies_with_its_parent(build, tmp_path):
    script = (
        'from pathlib import Path\nfrom fisa_ros.runtime.engine_build import build_in_child\n'
        f"build_in_child({{}}, Path({str(tmp_path)!r}) / 'engine.plan', builder='engine_builders:deaf')"
    )
    parent = subprocess.Popen([sys.executable, '-c', script])
    started = tmp_path / 'started'
    wait_for(lambda: started.exists() and started.read_text())
    child = int(started.read_text())
    assert is_running(child)
    parent.kill()
    parent.wait()
    try:
        wait_for(lambda: not is_running(child))
    finally:
        with suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)


class Clock:
    now_s = 100.0

    def __call__(self):
        return self.now_s


def test_progress_says_what_and_since_when():
    clock = Clock()
    progress = BuildProgress(clock)
    assert progress.status.describe() == 'absent, 00:00:00 elapsed'
    progress.enter(BuildState.BUILDING, 'fp16 encoder', 252.4)
    clock.now_s += 95
    assert progress.status.describe() == 'building fp16 encoder, 00:01:35 elapsed (last time 00:04:12)'
    progress.enter(BuildState.BUILDING, 'fp16 head')
    clock.now_s += 3
    assert progress.status.describe() == 'building fp16 head, 00:00:03 elapsed'
    progress.enter(BuildState.VERIFYING, 'fp16')
    clock.now_s += 2
    progress.enter(BuildState.READY, 'fp16 passed')
    clock.now_s += 5000
    assert progress.status.elapsed_s == 100
    assert progress.status.describe() == 'ready, 00:01:40 elapsed: fp16 passed'


ENDS = {BuildState.FAILED, BuildState.CANCELLED}


@pytest.mark.parametrize('end', sorted(ENDS))
def test_what_has_ended_does_not_go_on(end):
    progress = BuildProgress()
    progress.enter(BuildState.VERIFYING)
    progress.enter(end, 'reason')
    for state in BuildState:
        with pytest.raises(ValueError, match=f'a build that is {end} cannot become {state}'):
            progress.enter(state)
    assert progress.status.state is end


def test_what_is_ready_may_be_lost():
    progress = BuildProgress()
    progress.enter(BuildState.VERIFYING)
    progress.enter(BuildState.READY, 'passed')
    for state in set(BuildState) - {BuildState.LOST}:
        with pytest.raises(ValueError, match=f'a build that is ready cannot become {state}'):
            progress.enter(state)
    progress.enter(BuildState.LOST, 'the GPU failed')
    assert progress.status.describe().endswith('the GPU failed')
    with pytest.raises(ValueError, match='a build that is lost cannot become ready'):
        progress.enter(BuildState.READY)


def test_nothing_is_ready_that_was_not_verified():
    progress = BuildProgress()
    for state in (BuildState.ABSENT, BuildState.BUILDING):
        assert progress.status.state is state
        with pytest.raises(ValueError, match=f'a build that is {state} cannot become ready'):
            progress.enter(BuildState.READY)
        progress.enter(BuildState.BUILDING)
    # The next rung after a wrong engine.
    progress.enter(BuildState.VERIFYING)
    progress.enter(BuildState.BUILDING)
    assert progress.status.state is BuildState.BUILDING


def test_progress_is_read_from_other_threads():
    progress, seen = BuildProgress(), []
    progress.enter(BuildState.BUILDING, 'x')
    thread = threading.Thread(target=lambda: seen.append(progress.status.state))
    thread.start()
    thread.join()
    assert seen == [BuildState.BUILDING]
