import threading
import time

import numpy as np
import pytest

from fisa_ros.core.errors import BuildCancelledError, EngineError
from fisa_ros.runtime.backend import RawSegmentation
from fisa_ros.runtime.build_progress import BuildProgress, BuildState
from fisa_ros.runtime.switching_backend import SwitchingBackend

IMAGE = np.zeros((4, 4, 3), np.uint8)


class Backend:
    """Counts calls, and fails when one meets a closed one."""

    precision, image_size_hw, embedding_dim, num_semantic_tokens = 'fp32', (4, 4), 8, 32

    def __init__(self, name, device, number):
        self.name, self.device, self.number = name, device, number
        self.closed, self.frames = 0, 0
        self.entered, self.go_on = threading.Event(), threading.Event()
        self.go_on.set()

    def segment(self, image, state, thresholds):
        self.entered.set()
        self.go_on.wait(20)
        assert not self.closed, f'{self.name} was closed within a frame'
        self.frames += 1
        return RawSegmentation(np.full((2, 2), self.number), np.zeros(1, np.int64), np.zeros(1, np.float32))

    def encode_text(self, sentences):
        assert not self.closed
        return np.full((len(sentences), 8), self.number, np.float32)

    def close(self):
        self.closed += 1


class Rig:
    def __init__(self):
        self.slow, self.fast = Backend('onnxruntime', 'cpu', 1), Backend('tensorrt', 'cuda:0', 2)
        self.progress, self.go = BuildProgress(), threading.Event()
        self.error, self.was_cancelled = None, False

    def prepare(self, is_cancelled):
        self.progress.enter(BuildState.BUILDING, 'fp16 encoder', 252.0)
        while not self.go.wait(0.01):
            if is_cancelled():
                self.was_cancelled = True
                raise BuildCancelledError('the build was cancelled')
        if self.error:
            raise self.error
        self.progress.enter(BuildState.VERIFYING, 'fp16')
        return self.fast, 'fp16 passed: cosine 0.9999'

    def start(self):
        self.backend = SwitchingBackend(self.slow, self.prepare, self.progress)
        return self.backend


@pytest.fixture
def rig():
    rig = Rig()
    yield rig
    rig.go.set()
    rig.backend.close()
    assert rig.slow.closed == 1


def number_of(backend):
    return int(backend.segment(IMAGE, None, None).query_map[0, 0])


def test_the_fallback_serves_until_the_better_one_is_ready(rig):
    backend = rig.start()
    assert number_of(backend) == 1
    assert (backend.name, backend.device, backend.image_size_hw) == ('onnxruntime', 'cpu', (4, 4))
    assert (backend.embedding_dim, backend.num_semantic_tokens) == (8, 32)
    assert not backend.wait(0.05)
    status = backend.status
    assert status.is_degraded
    assert status.describe() == (
        'onnxruntime on cpu serves; building fp16 encoder, 00:00:00 elapsed (last time 00:04:12)'
    )
    rig.go.set()
    assert backend.wait(20)
    assert (backend.name, backend.device) == ('tensorrt', 'cuda:0')
    assert number_of(backend) == 2
    assert backend.encode_text(['a'])[0, 0] == 2
    assert (rig.slow.closed, rig.fast.closed) == (1, 0)
    assert not backend.status.is_degraded
    assert backend.status.build.state is BuildState.READY
    assert backend.status.describe().endswith('fp16 passed: cosine 0.9999')


def test_the_switch_is_between_frames_while_frames_flow(rig):
    backend, seen, stop = rig.start(), [], threading.Event()
    errors = []

    def frames():
        try:
            while not stop.is_set():
                seen.append(number_of(backend))
        except AssertionError as error:
            errors.append(error)

    def words():
        try:
            while not stop.is_set():
                backend.encode_text(['a'])
        except AssertionError as error:
            errors.append(error)

    threads = [threading.Thread(target=frames), threading.Thread(target=words)]
    for thread in threads:
        thread.start()
    time.sleep(0.05)
    rig.go.set()
    assert backend.wait(20)
    time.sleep(0.05)
    stop.set()
    for thread in threads:
        thread.join()
    assert not errors
    assert set(seen) == {1, 2}
    assert seen == sorted(seen), 'it switched back'
    assert rig.slow.frames + rig.fast.frames == len(seen)


def test_a_frame_that_is_in_the_old_one_ends_there(rig):
    backend, seen = rig.start(), []
    rig.slow.go_on.clear()
    thread = threading.Thread(target=lambda: seen.append(number_of(backend)))
    thread.start()
    assert rig.slow.entered.wait(20)
    rig.go.set()
    assert backend.wait(20)
    assert backend.name == 'tensorrt'
    assert number_of(backend) == 2
    assert rig.slow.closed == 0
    rig.slow.go_on.set()
    thread.join()
    assert seen == [1]
    assert rig.slow.closed == 1


@pytest.mark.parametrize(
    ('error', 'reason'),
    [
        (EngineError('no precision gives the reference outputs'), 'no precision gives the reference outputs'),
        (RuntimeError('bug'), r"unexpected error, see the log: RuntimeError('bug')"),
    ],
)
def test_where_the_better_one_fails_the_fallback_goes_on(rig, error, reason, caplog):
    rig.error = error
    backend = rig.start()
    rig.go.set()
    assert backend.wait(20)
    assert number_of(backend) == 1
    assert backend.status.is_degraded
    assert backend.status.build.state is BuildState.FAILED
    assert backend.status.build.what == reason
    assert [record.levelname for record in caplog.records].count('WARNING') == 1
    assert f'onnxruntime on cpu goes on serving: {reason}' in caplog.text
    assert rig.slow.closed == 0


@pytest.mark.parametrize(
    ('name', 'value'), [('image_size_hw', (8, 8)), ('embedding_dim', 9), ('num_semantic_tokens', 16)]
)
def test_a_better_one_of_another_model_is_not_taken(rig, name, value):
    setattr(rig.fast, name, value)
    backend = rig.start()
    rig.go.set()
    assert backend.wait(20)
    assert backend.status.build.state is BuildState.FAILED
    assert backend.status.build.what.startswith(f"{name} of back-end 'tensorrt' is {value}, that of the other is")
    assert number_of(backend) == 1
    assert rig.fast.closed == 1


def test_closing_cancels_the_build(rig):
    backend = rig.start()
    backend.close()
    backend.close()
    assert rig.was_cancelled
    assert (rig.slow.closed, rig.fast.closed) == (1, 0)
    assert backend.status.build.state is BuildState.CANCELLED


def test_closing_after_the_switch_closes_both_once(rig):
    backend = rig.start()
    rig.go.set()
    assert backend.wait(20)
    backend.close()
    backend.close()
    assert (rig.slow.closed, rig.fast.closed) == (1, 1)


def test_one_that_becomes_ready_while_closing_is_closed(rig):
    may_end = threading.Event()
    ready = rig.prepare

    def prepare(is_cancelled):
        answer = ready(lambda: False)
        may_end.wait(20)
        return answer

    rig.prepare = prepare
    backend = rig.start()
    rig.go.set()
    closing = threading.Thread(target=backend.close)
    closing.start()
    while not backend._stop.is_set():
        time.sleep(0.005)
    may_end.set()
    closing.join()
    assert (rig.slow.closed, rig.fast.closed) == (1, 1)
    assert backend.name == 'onnxruntime'
    assert backend.status.build.state is BuildState.CANCELLED


def test_a_back_end_without_stages_is_timed_as_a_whole(rig):
    backend = rig.start()
    raw, stages_ms = backend.segment_timed(IMAGE, None, None)
    assert (raw.query_map == 1).all()
    assert list(stages_ms) == ['networks']
    assert rig.slow.frames == 1
