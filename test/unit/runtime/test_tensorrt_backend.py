"""The back-end on simulated CUDA and engines: order, addresses, sizes and life of memory. No GPU is involved."""

from dataclasses import replace
import sys
import threading
import types

import numpy as np
import pytest

from fisa_ros.core.errors import EngineError, GpuFailedError, GpuMemoryError
from fisa_ros.core.thresholds import Thresholds
from fisa_ros.core.vocabulary import VocabularyRegistry, VocabularyRequest
from fisa_ros.core.vocabulary_state import build_state, unit_rows
from fisa_ros.runtime.build_progress import BuildProgress, BuildState
from fisa_ros.runtime.cuda_memory import CudaStream, HostBuffer, count_gpus
from fisa_ros.runtime.engine_inputs import ENCODER_OUTPUT_SPECS, HEAD_OUTPUT_SPECS, encoder_inputs, head_inputs
from fisa_ros.runtime.graph_files import GraphsDescription
from fisa_ros.runtime.switching_backend import MAX_FAILED_FRAMES, SwitchingBackend
from fisa_ros.runtime.tensorrt_backend import TensorRtBackend
from fisa_ros.runtime.tensorrt_engine import TensorInfo

from .simulated_cuda import Code, Copy, SimulatedCuda, SimulatedEngine

N, D, M, MASK, MERGE = 5, 6, 4, (3, 4), (7, 8)
DESCRIPTION = GraphsDescription('toy', 's', (10, 12), N, MASK, D, M, True, {}, {})
THRESHOLDS = Thresholds(score=0.25, mask=0.5, overlap=0.5)
FRAME_OUTPUT_BYTES = 4 * MERGE[0] * MERGE[1] + 8 * N + 4 * N


def encode(image, semantic_tokens, token_mask):
    mean = image.astype(np.float32).mean((0, 1)) / 255
    tokens = (semantic_tokens * token_mask[:, None]).sum(0)
    rows = np.arange(1, N + 1, dtype=np.float32)[:, None]
    return {
        'mask_logits': rows[:, :, None] * image[: MASK[0], : MASK[1], 0] / 255 - 1,
        'mask_embeddings': rows * mean.sum() + tokens,
        'objectness': rows[:, 0] / 10 * mean[0],
    }


def segment(mask_logits, mask_embeddings, objectness, text_embeddings, synonym_mask, is_thing, thresholds):
    similarity = np.einsum('nd,ksd->nks', mask_embeddings, text_embeddings)
    similarity = np.where(synonym_mask, similarity, -1e4).max(-1) + is_thing
    query_map = np.zeros(MERGE, np.int32)
    query_map[:3, :4] = mask_logits.argmax(0) + 1
    return {
        'query_map': query_map,
        'class_index': similarity.argmax(-1),
        'score': objectness * thresholds.sum(),
    }


def tensors_of(inputs, outputs, shapes):
    found = {
        entry.name: TensorInfo(
            entry.name,
            np.dtype(entry.dtype),
            tuple(size if size == most else -1 for size, most in zip(entry.smallest, entry.largest, strict=True)),
            is_input=True,
        )
        for entry in inputs
    }
    return found | {entry.name: TensorInfo(entry.name, np.dtype(entry.dtype), shapes[entry.name], False) for entry in outputs}  # fmt: skip # noqa: E501


def encoder_tensors():
    shapes = {'mask_logits': (N, *MASK), 'mask_embeddings': (N, D), 'objectness': (N,)}
    return tensors_of(encoder_inputs(DESCRIPTION), ENCODER_OUTPUT_SPECS, shapes)


def head_tensors():
    return tensors_of(
        head_inputs(DESCRIPTION), HEAD_OUTPUT_SPECS, {'query_map': MERGE, 'class_index': (N,), 'score': (N,)}
    )


class Fallback:
    name, device, precision, image_size_hw = 'onnxruntime', 'cpu', 'fp32', (10, 12)
    embedding_dim, num_semantic_tokens, max_classes = D, M, None

    def segment(self, image, state, thresholds):
        return 'by the fallback'

    def close(self):
        pass


class Sentences:
    is_closed = False

    def encode(self, sentences):
        return np.ones((len(sentences), D), np.float32)

    def close(self):
        self.is_closed = True


@pytest.fixture
def use(monkeypatch):
    """Put a simulated CUDA in place of the real one."""

    def use(**options):
        cuda = SimulatedCuda(**options)
        bindings = types.ModuleType('cuda.bindings')
        bindings.runtime = cuda
        monkeypatch.setitem(sys.modules, 'cuda.bindings', bindings)
        monkeypatch.setitem(sys.modules, 'cuda.bindings.runtime', cuda)
        return cuda

    return use


class Rig:
    def __init__(self, cuda, encoder=encode, head=segment):
        self.cuda = cuda
        self.encoder = SimulatedEngine(cuda, encoder_tensors(), encoder)
        self.head = SimulatedEngine(cuda, head_tensors(), head)
        self.text = Sentences()

    def open(self):
        self.backend = TensorRtBackend(DESCRIPTION, self.encoder, self.head, self.text)
        self.cuda.copied.clear()
        return self.backend


@pytest.fixture(params=[False, True], ids=['own memory', 'shared memory'])
def rig(use, request):
    rig = Rig(use(is_integrated=request.param))
    yield rig
    if hasattr(rig, 'backend'):
        rig.backend.close()
    assert rig.cuda.is_clean
    assert rig.encoder.is_closed
    assert rig.head.is_closed
    assert rig.text.is_closed


def vocabulary_of(classes, synonyms=1):
    names = [tuple(f'word{row} {column}' for column in range(1 + row % synonyms)) for row in range(classes)]
    request = VocabularyRequest.parse('; '.join(', '.join(entry) for entry in names))
    rows = unit_rows(np.random.default_rng(classes).normal(size=(sum(map(len, names)), D)).astype(np.float32))
    flat = [name for entry in names for name in entry]
    vocabulary = VocabularyRegistry(max_id=65535).propose(request)
    return build_state(vocabulary, dict(zip(flat, rows, strict=True)), M)


def frame(seed):
    return np.random.default_rng(seed).integers(0, 256, (10, 12, 3)).astype(np.uint8)


def inputs_of(image, state, thresholds):
    names = ('semantic_tokens', 'token_mask', 'text_embeddings', 'synonym_mask', 'is_thing')
    return {'image': image, **{name: getattr(state, name) for name in names}, 'thresholds': thresholds.array()}


def expected_of(image, state, thresholds):
    inputs = inputs_of(image, state, thresholds)
    encoded = encode(*(inputs.pop(name) for name in ('image', 'semantic_tokens', 'token_mask')))
    return {**encoded, **segment(**{name: np.asarray(array, np.float32) for name, array in encoded.items()}, **inputs)}


def check(raw, image, state, thresholds=THRESHOLDS):
    expected = expected_of(image, state, thresholds)
    np.testing.assert_array_equal(raw.query_map, expected['query_map'])
    np.testing.assert_array_equal(raw.class_index, expected['class_index'])
    np.testing.assert_allclose(raw.score, expected['score'], rtol=1e-5)
    assert (raw.query_map.dtype, raw.class_index.dtype, raw.score.dtype) == (np.int32, np.int64, np.float32)


def test_frames_and_vocabularies_of_any_size(rig):
    backend = rig.open()
    for number, (classes, synonyms) in enumerate([(3, 1), (1, 1), (40, 4), (2, 8), (300, 2), (3, 1)]):
        state = vocabulary_of(classes, synonyms)
        for image in (frame(number), frame(100 + number)):
            check(backend.segment(image, state, THRESHOLDS), image, state)


def test_thresholds_may_change_between_frames(rig):
    backend, state, image = rig.open(), vocabulary_of(3), frame(0)
    for score in (0.1, 0.9):
        thresholds = replace(THRESHOLDS, score=score)
        check(backend.segment(image, state, thresholds), image, state, thresholds)


def test_stages_are_timed_between_events(rig):
    backend, state = rig.open(), vocabulary_of(3)
    raw, stages_ms = backend.segment_timed(frame(0), state, THRESHOLDS)
    check(raw, frame(0), state)
    assert list(stages_ms) == ['words', 'upload', 'encoder', 'head', 'download']
    raw, stages_ms = backend.segment_timed(frame(1), state, THRESHOLDS)
    check(raw, frame(1), state)
    assert list(stages_ms) == ['upload', 'encoder', 'head', 'download']
    # The simulated GPU takes a microsecond from one event to the next.
    assert [stages_ms[name] for name in ('upload', 'encoder', 'head')] == pytest.approx([1e-3] * 3)
    assert stages_ms['download'] > 0
    check(backend.segment(frame(2), state, THRESHOLDS), frame(2), state)


def test_results_are_copies(rig):
    backend, state = rig.open(), vocabulary_of(3)
    first = backend.segment(frame(0), state, THRESHOLDS)
    backend.segment(frame(1), state, THRESHOLDS)
    check(first, frame(0), state)


def test_only_labels_come_back_and_words_go_up_once(use):
    rig = Rig(use())
    backend, state = rig.open(), vocabulary_of(9, 3)
    backend.segment(frame(0), state, THRESHOLDS)
    first_frame = sum(count for kind, count in rig.cuda.copied if kind == Copy.cudaMemcpyHostToDevice)
    assert first_frame == 10 * 12 * 3 + 24 + M * D * 4 + M + 9 * 3 * D * 4 + 9 * 3 + 9
    for number in range(3):
        rig.cuda.copied.clear()
        backend.segment(frame(number), state, THRESHOLDS)
        up = [count for kind, count in rig.cuda.copied if kind == Copy.cudaMemcpyHostToDevice]
        down = [count for kind, count in rig.cuda.copied if kind == Copy.cudaMemcpyDeviceToHost]
        assert sorted(up) == [24, 10 * 12 * 3]
        assert sum(down) == FRAME_OUTPUT_BYTES
    backend.close()


def test_nothing_is_copied_where_memory_is_shared(use):
    rig = Rig(use(is_integrated=True))
    backend, state = rig.open(), vocabulary_of(3)
    backend.segment(frame(0), state, THRESHOLDS)
    rig.cuda.copied.clear()
    check(backend.segment(frame(1), state, THRESHOLDS), frame(1), state)
    assert rig.cuda.copied == []
    backend.close()


def test_the_encoder_is_one_cuda_graph(rig):
    backend, state = rig.open(), vocabulary_of(3)
    warm_up_and_capture = rig.encoder.runs
    assert warm_up_and_capture == 2
    for number in range(4):
        check(backend.segment(frame(number), state, THRESHOLDS), frame(number), state)
    assert rig.encoder.runs == warm_up_and_capture
    assert rig.cuda.launches == 4


def test_where_cuda_refuses_a_graph_the_encoder_is_started_each_time(rig, caplog):
    rig.cuda.can_capture = False
    backend, state = rig.open(), vocabulary_of(3)
    assert 'runs without a CUDA graph' in caplog.text
    check(backend.segment(frame(0), state, THRESHOLDS), frame(0), state)
    assert (rig.cuda.launches, rig.encoder.runs) == (0, 3)


@pytest.mark.parametrize('value', [np.nan, np.inf])
def test_a_frame_with_scores_that_are_no_numbers_is_dropped(rig, value):
    def head(**inputs):
        outputs = segment(**inputs)
        if inputs['thresholds'][0] == 1:
            outputs['score'][2] = value
        return outputs

    rig.head.function = head
    backend, state = rig.open(), vocabulary_of(3)
    with pytest.raises(EngineError, match='1 of 5 scores of the TensorRT engine are NaN or infinite: frame dropped'):
        backend.segment(frame(0), state, replace(THRESHOLDS, score=1.0))
    check(backend.segment(frame(1), state, THRESHOLDS), frame(1), state)


def test_words_that_do_not_fit_in_memory_leave_the_others_in_use(use):
    rig = Rig(use(limit=60_000))
    backend, small = rig.open(), vocabulary_of(3)
    with pytest.raises(GpuMemoryError, match=r'taking 0\.\d MiB of GPU memory failed: as simulated .*choose a smaller'):
        backend.segment(frame(0), vocabulary_of(2400), THRESHOLDS)
    check(backend.segment(frame(1), small, THRESHOLDS), frame(1), small)
    backend.close()
    assert rig.cuda.is_clean


def test_more_words_than_the_engine_takes_are_refused(rig):
    backend, small = rig.open(), vocabulary_of(3)
    words = vocabulary_of(2)
    large = replace(words, synonym_mask=np.ones((9000, 2), np.bool_))
    with pytest.raises(EngineError, match='at most 8192 words of 9 names each, got 9000'):
        backend.segment(frame(0), large, THRESHOLDS)
    check(backend.segment(frame(1), small, THRESHOLDS), frame(1), small)


@pytest.mark.parametrize('image', [np.zeros((10, 12, 1), np.uint8), np.zeros((10, 12, 3), np.float32)])
def test_other_images_are_a_bug_of_the_caller(rig, image):
    backend = rig.open()
    with pytest.raises(ValueError, match=r'image must be \(10, 12, 3\) uint8, got'):
        backend.segment(image, vocabulary_of(3), THRESHOLDS)


def test_a_failure_on_the_gpu_is_said(rig):
    backend, state = rig.open(), vocabulary_of(3)
    backend.segment(frame(0), state, THRESHOLDS)
    rig.cuda.failure = Code.cudaErrorIllegalAddress
    with pytest.raises(GpuFailedError, match=r'running on the GPU failed: as simulated \(cudaErrorIllegalAddress\)'):
        backend.segment(frame(0), state, THRESHOLDS)


def test_a_gpu_that_fails_for_good_is_left_and_freed(rig, caplog):
    backend, state = rig.open(), vocabulary_of(3)
    fallbacks = []

    def open_fallback():
        fallbacks.append(Fallback())
        return fallbacks[-1]

    def prepare(_):
        progress.enter(BuildState.VERIFYING)
        return backend, 'passed'

    progress = BuildProgress()
    switching = SwitchingBackend(open_fallback, prepare, progress, max_classes=backend.max_classes)
    assert switching.wait(20)
    assert switching.max_classes == 8192
    check(switching.segment(frame(0), state, THRESHOLDS), frame(0), state)
    rig.cuda.failure, rig.cuda.is_failure_sticky = Code.cudaErrorIllegalAddress, True
    for _ in range(MAX_FAILED_FRAMES - 1):
        with pytest.raises(GpuFailedError, match='cudaErrorIllegalAddress'):
            switching.segment(frame(1), state, THRESHOLDS)
    assert switching.segment(frame(1), state, THRESHOLDS) == 'by the fallback'
    assert len(fallbacks) == 2
    for thread in threading.enumerate():
        if thread.name == 'close lost back-end':
            thread.join(20)
    assert rig.encoder.is_closed
    switching.close()
    assert 'could not be freed' not in caplog.text


def test_the_gate_sees_all_outputs(rig):
    backend, state, image = rig.open(), vocabulary_of(7, 2), frame(3)
    backend.segment(frame(0), vocabulary_of(3), THRESHOLDS)
    found = backend.run_graphs(inputs_of(image, state, THRESHOLDS))
    expected = expected_of(image, state, THRESHOLDS)
    assert set(found) == set(expected)
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-5, err_msg=name)
    other = vocabulary_of(3)
    check(backend.segment(image, other, THRESHOLDS), image, other)


def test_the_state_in_use_is_uploaded_again_after_the_gate(rig):
    backend, state, image = rig.open(), vocabulary_of(3), frame(3)
    backend.segment(image, state, THRESHOLDS)
    backend.run_graphs(inputs_of(image, vocabulary_of(7), THRESHOLDS))
    check(backend.segment(image, state, THRESHOLDS), image, state)


def test_an_encoder_without_semantic_tokens_is_taken(use):
    rig = Rig(use())
    for name in ('semantic_tokens', 'token_mask'):
        del rig.encoder.tensors[name]
        del rig.encoder.shapes[name]
    rig.encoder.function = lambda image: encode(image, np.zeros((M, D), np.float32), np.zeros(M, np.bool_))
    backend, state = rig.open(), vocabulary_of(3)
    raw = backend.segment(frame(0), state, THRESHOLDS)
    check(raw, frame(0), replace(state, token_mask=np.zeros(M, np.bool_)))
    backend.close()
    assert rig.cuda.is_clean


def altered(tensors, name, **changes):
    return {**tensors, name: replace(tensors[name], **changes)}


@pytest.mark.parametrize(
    ('encoder', 'head', 'message'),
    [
        (lambda t: altered(t, 'mask_logits', dtype=np.dtype(np.float16)), None, "output 'mask_logits' of the encoder engine is float16, expected float32"),  # noqa: E501
        (lambda t: altered(t, 'image', shape=(10, 10, 3)), None, r"input 'image' of the encoder engine is \(10, 10, 3\), not \(10, 12, 3\)"),  # noqa: E501
        (lambda t: {name: info for name, info in t.items() if name != 'objectness'}, None, 'the encoder engine has unknown or lacks known .*: objectness'),  # noqa: E501
        (None, lambda t: altered(t, 'is_thing', shape=(7,)), r"input 'is_thing' of the head engine is \(7,\), not \(-1,\)"),  # noqa: E501
        (None, lambda t: {**t, 'more': TensorInfo('more', np.dtype(np.int8), (1,), False)}, 'unknown .*: more'),
        (None, lambda t: altered(t, 'score', is_input=True), "input 'score' of the head engine is float32, expected"),
    ],
)  # fmt: skip
def test_engines_of_other_graphs_are_refused_and_freed(rig, encoder, head, message):
    rig.encoder.tensors = encoder(encoder_tensors()) if encoder else encoder_tensors()
    rig.head.tensors = head(head_tensors()) if head else head_tensors()
    with pytest.raises(EngineError, match=message):
        rig.open()


def test_everything_is_freed_when_memory_is_short_at_the_start(use):
    rig = Rig(use(limit=100))
    with pytest.raises(GpuMemoryError, match='of GPU memory failed'):
        rig.open()
    assert rig.cuda.is_clean
    assert rig.encoder.is_closed
    assert rig.text.is_closed


def test_a_gpu_that_is_not_there(use):
    rig = Rig(use(gpus=0))
    with pytest.raises(EngineError, match=r'choosing GPU 0 failed: as simulated \(cudaErrorNoDevice\)'):
        rig.open()
    assert count_gpus() == 0


def test_closing(rig):
    backend = rig.open()
    backend.close()
    backend.close()
    with pytest.raises(EngineError, match='the TensorRT back-end is closed'):
        backend.segment(frame(0), vocabulary_of(3), THRESHOLDS)


def test_it_says_what_it_is(rig):
    backend = rig.open()
    assert (backend.name, backend.device, backend.image_size_hw) == ('tensorrt', 'cuda:0', (10, 12))
    assert (backend.embedding_dim, backend.num_semantic_tokens) == (D, M)
    assert backend.encode_text(['a', 'b']).shape == (2, D)


def test_a_capture_that_fails_leaves_the_stream(use):
    cuda = use()

    def fail():
        raise EngineError('not started')

    with CudaStream(0) as stream:
        with pytest.raises(EngineError, match='not started'):
            stream.capture(fail)
        stream.wait()
    assert cuda.is_clean
    assert cuda.capturing == {}


def test_arrays_stay_within_their_buffer(use):
    use()
    buffer = HostBuffer(16)
    buffer.array((4,), np.float32)[:] = 1.5
    assert buffer.array((2, 2), np.float32).tolist() == [[1.5, 1.5], [1.5, 1.5]]
    with pytest.raises(ValueError, match=r'a buffer of 16 bytes cannot hold \(5,\) float32, 20 bytes'):
        buffer.array((5,), np.float32)
    buffer.close()
    buffer.close()
