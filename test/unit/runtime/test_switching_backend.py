import threading
import time

import numpy as np
import pytest

from fisa_ros.core.errors import BuildCancelledError, EngineError, GpuMemoryError, GraphsError
from fisa_ros.runtime.backend import RawSegmentation
from fisa_ros.runtime.build_progress import BuildProgress, BuildState
from fisa_ros.runtime.switching_backend import MAX_FAILED_FRAMES, SwitchingBackend

IMAGE = np.zeros((4, 4, 3), np.uint8)


class Backend:
    """Counts calls, and fails when one meets a closed one."""

    precision, image_size_hw, embedding_dim, num_semantic_tokens, max_classes = 'fp32', (4, 4), 8, 32, None

    def __init__(self, name, device, number):
        self.name, self.device, self.number = name, device, number
        self.closed, self.frames = 0, 0
        self.error = None
        self.entered, self.go_on = threading.Event(), threading.Event()
        self.go_on.set()

    def segment(self, image, state, thresholds):
        self.entered.set()
        self.go_on.wait(20)
        assert not self.closed, f'{self.name} was closed within a frame'
        self.frames += 1
        if self.error is not None:
            raise self.error
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
        self.opened, self.lost = [], []

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

    def open_fallback(self):
        self.opened.append(Backend('onnxruntime', 'cpu', 3) if self.opened else self.slow)
        return self.opened[-1]

    def start(self, **options):
        self.backend = SwitchingBackend(
            self.open_fallback, self.prepare, self.progress, on_lost=self.lost.append, **options
        )
        return self.backend

    def start_better(self):
        backend = self.start()
        self.go.set()
        assert backend.wait(20)
        assert backend.name == 'tensorrt'
        return backend

    def fail(self, frames, error=None):
        """Let frames fail that the better one gets."""
        self.fast.error = error or EngineError('running on the GPU failed')
        for _ in range(frames):
            with pytest.raises(type(self.fast.error), match='running on the GPU failed'):
                number_of(self.backend)


@pytest.fixture
def rig():
    rig = Rig()
    yield rig
    rig.go.set()
    rig.backend.close()
    assert all(backend.closed == 1 for backend in rig.opened)


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


def wait_until(is_so):
    end_s = time.monotonic() + 20
    while not is_so():
        assert time.monotonic() < end_s
        time.sleep(0.005)


def test_a_better_one_that_fails_for_good_is_given_up(rig, caplog):
    backend = rig.start_better()
    assert number_of(backend) == 2
    rig.fail(MAX_FAILED_FRAMES - 1)
    assert not backend.status.is_lost
    # Answered by the fallback, which is opened anew.
    assert number_of(backend) == 3
    assert (backend.name, backend.device) == ('onnxruntime', 'cpu')
    status = backend.status
    assert status.is_lost
    assert status.is_degraded
    assert status.build.state is BuildState.LOST
    reason = 'tensorrt failed 5 frames in a row, at last so: running on the GPU failed'
    assert status.build.what == reason
    assert rig.lost == [reason]
    assert [record.getMessage() for record in caplog.records if record.levelname == 'ERROR'] == [
        f'onnxruntime on cpu serves until the node is started again: {reason}'
    ]
    tried = rig.fast.frames
    assert [number_of(backend) for _ in range(20)] == [3] * 20
    assert backend.encode_text(['a'])[0, 0] == 3
    assert rig.fast.frames == tried, 'what failed was used again'
    wait_until(lambda: rig.fast.closed)
    assert rig.fast.closed == 1


def test_a_frame_that_succeeds_begins_the_count_anew(rig):
    backend = rig.start_better()
    for _ in range(3):
        rig.fail(MAX_FAILED_FRAMES - 1)
        rig.fast.error = None
        assert number_of(backend) == 2
    assert not backend.status.is_degraded
    assert len(rig.opened) == 1


@pytest.mark.parametrize(
    'error', [GpuMemoryError('running on the GPU failed: memory'), ValueError('running on the GPU failed: image')]
)
def test_other_errors_are_no_reason_to_give_up(rig, error):
    backend = rig.start_better()
    rig.fail(3 * MAX_FAILED_FRAMES, error)
    assert backend.name == 'tensorrt'
    assert len(rig.opened) == 1


def test_a_fallback_that_fails_is_not_replaced(rig):
    backend = rig.start()
    rig.slow.error = EngineError('bad frame')
    for _ in range(3 * MAX_FAILED_FRAMES):
        with pytest.raises(EngineError, match='bad frame'):
            number_of(backend)
    assert len(rig.opened) == 1


@pytest.mark.parametrize('how', ['raises', 'hangs'])
def test_what_failed_may_not_come_back_from_being_freed(rig, how, caplog):
    backend = rig.start_better()
    is_entered, may_end = threading.Event(), threading.Event()

    def close():
        rig.fast.closed += 1
        is_entered.set()
        if how == 'raises':
            raise RuntimeError('an illegal memory access was encountered')
        may_end.wait(60)

    rig.fast.close = close
    rig.fail(MAX_FAILED_FRAMES - 1)
    assert number_of(backend) == 3
    assert is_entered.wait(20)
    backend.close()
    assert not may_end.is_set()
    may_end.set()
    if how == 'raises':
        wait_until(lambda: 'tensorrt, which failed, could not be freed' in caplog.text)


def test_a_fallback_that_cannot_be_opened_is_tried_again(rig):
    backend, opens = rig.start_better(), rig.open_fallback

    def fail():
        raise GraphsError('head.onnx is damaged')

    backend._open_fallback = fail
    rig.fail(MAX_FAILED_FRAMES - 1)
    with pytest.raises(EngineError, match=r'failed 5 frames in a row.* cannot be opened: head.onnx is damaged'):
        number_of(backend)
    assert backend.status.is_lost
    assert 'head.onnx is damaged' in backend.status.describe()
    rig.fail(MAX_FAILED_FRAMES - 1)
    backend._open_fallback = opens
    assert number_of(backend) == 3
    assert backend.status.is_lost
    assert 'head.onnx' not in backend.status.describe()


def test_words_that_are_encoded_while_it_is_given_up_are_not_lost(rig):
    backend = rig.start_better()
    is_in, go_on, seen = threading.Event(), threading.Event(), []

    def encode(sentences):
        is_in.set()
        go_on.wait(20)
        assert not rig.fast.closed
        return np.zeros((len(sentences), 8), np.float32)

    rig.fast.encode_text = encode
    thread = threading.Thread(target=lambda: seen.append(backend.encode_text(['a']).shape))
    thread.start()
    assert is_in.wait(20)
    rig.fail(MAX_FAILED_FRAMES - 1)
    assert number_of(backend) == 3
    go_on.set()
    thread.join()
    assert seen == [(1, 8)]
    wait_until(lambda: rig.fast.closed)


def test_one_that_fails_while_it_is_closed_opens_nothing(rig):
    backend = rig.start_better()
    rig.fail(MAX_FAILED_FRAMES - 1)
    backend.close()

    def refuse(image, state, thresholds):
        raise EngineError('the back-end is closed')

    rig.fast.segment = refuse
    for _ in range(2):
        with pytest.raises(EngineError, match='is closed'):
            number_of(backend)
    assert len(rig.opened) == 1


@pytest.mark.parametrize(
    ('of_fallback', 'of_better', 'both'), [(None, None, None), (None, 8192, 8192), (100, 8192, 100), (100, None, 100)]
)
def test_the_limit_of_words_is_that_of_both(rig, of_fallback, of_better, both):
    rig.slow.max_classes = of_fallback
    assert rig.start(max_classes=of_better).max_classes == both
