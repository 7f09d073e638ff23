import logging
import time

import numpy as np
import pytest
import torch

from fisa_ros.core.errors import GpuMemoryError
from fisa_ros.core.thresholds import Thresholds
from fisa_ros.runtime import torch_backend
from fisa_ros.runtime.frame_runner import FrameRunner
from fisa_ros.runtime.graph_files import ENCODER_FILE, REFERENCE_FILE
from fisa_ros.runtime.half_precision import HalfNetwork
from fisa_ros.runtime.parity_gate import ParityGate
from fisa_ros.runtime.torch_backend import TorchBackend
from fisa_ros.runtime.torch_cuda import CudaQueue, find_gate, gpu_memory_errors, open_on_gpu

from .conftest import toy_frames
from .test_onnxruntime_backend import vocabulary_of

THRESHOLDS = Thresholds(score=0.0, mask=0.3, overlap=0.2)
FULL = (
    'CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total capacity of 7.44 GiB of which 812.00 MiB is '
    'free. Including non-PyTorch memory, this process has 6.10 GiB memory in use.'
)


@pytest.mark.parametrize(
    ('error', 'message'),
    [
        (torch.OutOfMemoryError(FULL), r'too little memory: 2\.50 GiB are needed, 812\.00 MiB are free; close other'),
        (RuntimeError('CUDA error: out of memory\nCompile with'), 'the GPU has too little memory; close other'),
        (RuntimeError('CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling'), 'the GPU has too little memory; close'),
    ],
)
def test_used_up_memory_is_named(error, message):
    @gpu_memory_errors()
    def fail():
        raise error

    for _ in range(2):
        with pytest.raises(GpuMemoryError, match=message) as caught:
            fail()
        assert caught.value.__cause__ is error


def test_other_errors_stay_what_they_are():
    with pytest.raises(RuntimeError, match='device-side assert') as caught, gpu_memory_errors():
        raise RuntimeError('CUDA error: device-side assert triggered')
    assert not isinstance(caught.value, GpuMemoryError)


def test_the_gate_is_that_of_the_exported_graphs(toy_graphs, tmp_path, caplog):
    caplog.set_level(logging.INFO, 'fisa_ros.torch')
    gate = find_gate(toy_graphs, 'export it')
    assert isinstance(gate, ParityGate)
    assert gate.num_frames == 8
    assert not caplog.records
    assert find_gate(tmp_path, 'export it') is None
    assert caplog.records[-1].getMessage() == (
        'half precision is not checked, the reference outputs are made by: export it'
    )
    (tmp_path / REFERENCE_FILE).write_bytes(b'no archive')
    assert find_gate(tmp_path, 'export it') is None
    assert caplog.records[-1].levelname == 'WARNING'
    assert 'half precision is not checked' in caplog.records[-1].getMessage()
    assert (toy_graphs / ENCODER_FILE).exists()


def test_a_cpu_stays_float32_and_needs_no_runner(toy_manifest, monkeypatch):
    monkeypatch.setattr(torch_backend, 'open_on_gpu', lambda *_: pytest.fail('there is no GPU'))
    backend = TorchBackend(toy_manifest, 'cpu')
    assert backend.precision == 'fp32'
    assert backend.device == 'cpu'
    backend.close()


@pytest.fixture(scope='module')
def gpu_backend(toy_manifest, toy_graphs):
    if not torch.cuda.is_available():
        pytest.skip('PyTorch sees no GPU')
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr('fisa_ros.runtime.torch_cuda.graphs_folder', lambda manifest: toy_graphs)
        backend = TorchBackend(toy_manifest, 'cuda:0')
    yield backend
    backend.close()


def agreement(left, right):
    return np.mean(left == right)


@pytest.mark.gpu
@pytest.mark.parametrize('name', ['fp16', 'fp16-safe', 'fp32'])
def test_every_precision_passes_the_gate_on_a_gpu(gpu_backend, toy_manifest, toy_graphs, name):
    network = gpu_backend._network
    encoder = network if name == 'fp32' else HalfNetwork(network, is_safe=name == 'fp16-safe')
    runner = FrameRunner(encoder, network.head, toy_manifest.image_size_hw, CudaQueue(torch.device('cuda:0')))
    assert runner.is_recorded
    verdict = ParityGate.open(toy_graphs / REFERENCE_FILE).judge(runner.run_graphs)
    assert verdict.passed, verdict.describe()


@pytest.mark.gpu
def test_half_precision_is_the_default_on_a_gpu(gpu_backend):
    assert gpu_backend.precision == 'fp16'
    assert gpu_backend._runner.is_recorded


@pytest.mark.gpu
def test_words_may_change_after_the_recording(gpu_backend, toy_segmenter):
    labelled = 0
    for classes, synonyms in [(1, 1), (40, 1), (1000, 1), (7, 3), (255, 4), (2, 8), (1, 1)]:
        state = vocabulary_of(classes, synonyms)
        # Called for the first, recorded from then on.
        for frame in toy_frames(4):
            ours = gpu_backend.segment(frame, state, THRESHOLDS)
            theirs = toy_segmenter.backend.segment(frame, state, THRESHOLDS)
            assert ours.query_map.shape == theirs.query_map.shape
            assert ours.query_map.max() <= len(ours.score)
            assert agreement(ours.query_map > 0, theirs.query_map > 0) > 0.98
            np.testing.assert_allclose(ours.score, theirs.score, atol=0.02)
            labelled += np.count_nonzero(ours.query_map)
    assert labelled


@pytest.mark.gpu
def test_a_new_temperature_counts_on_a_gpu(gpu_backend, toy_state):
    frame, before = toy_frames(1)[0], gpu_backend.temperature
    scores = []
    for temperature in (before, 5 * before, before):
        gpu_backend.temperature = temperature
        scores.append([gpu_backend.segment(frame, toy_state, THRESHOLDS).score for _ in range(4)])
    for first, *others in scores:
        for other in others:
            np.testing.assert_allclose(other, first, atol=1e-6)
    assert np.abs(scores[1][0] - scores[0][0]).max() > 0.01
    np.testing.assert_allclose(scores[2][0], scores[0][0], atol=1e-6)


@pytest.mark.gpu
def test_new_words_leave_no_memory_behind(gpu_backend):
    frame, free = toy_frames(1)[0], []
    for classes in [*range(300, 340), *range(300, 340)]:
        state = vocabulary_of(classes, 2)
        # The second one records the head.
        for _ in range(3):
            gpu_backend.segment(frame, state, THRESHOLDS)
        free.append(torch.cuda.mem_get_info()[0])
    # Other programs may use the GPU too; what is recorded anew for each vocabulary has tens of MiB.
    assert free[39] - free[-1] < 32 << 20


@pytest.mark.gpu
def test_a_frame_is_not_that_before_it(gpu_backend, toy_state):
    frames = toy_frames(3)
    alone = [gpu_backend.segment(frame, toy_state, THRESHOLDS).score for frame in frames]
    again = [gpu_backend.segment(frame, toy_state, THRESHOLDS).score for frame in reversed(frames)]
    for left, right in zip(alone, reversed(again), strict=True):
        np.testing.assert_array_equal(left, right)
    assert not np.array_equal(alone[0], alone[1])


@pytest.mark.gpu
def test_stages_and_text_are_float32_on_a_gpu(gpu_backend, toy_segmenter, toy_state):
    frame, cpu = toy_frames(1)[0], toy_segmenter.backend
    proposed, expected = gpu_backend.propose_masks(frame), cpu.propose_masks(frame)
    np.testing.assert_allclose(proposed.mask_logits, expected.mask_logits, rtol=1e-2, atol=1e-2)
    embeddings = gpu_backend.embed_masks(frame, expected.mask_logits, toy_state)
    assert (embeddings * cpu.embed_masks(frame, expected.mask_logits, toy_state)).sum(1).min() > 0.9999
    np.testing.assert_allclose(gpu_backend.encode_text(['a chair']), cpu.encode_text(['a chair']), atol=1e-3)


@pytest.mark.gpu
def test_a_precision_that_fails_the_gate_is_not_used(gpu_backend, toy_manifest, toy_graphs, monkeypatch, caplog):
    reference = dict(np.load(toy_graphs / REFERENCE_FILE))
    wrong = ParityGate({**reference, 'mask_embeddings': -reference['mask_embeddings']})
    monkeypatch.setattr('fisa_ros.runtime.torch_cuda.find_gate', lambda *_: wrong)
    with caplog.at_level(logging.WARNING, 'fisa_ros.torch'):
        precision, runner = open_on_gpu(gpu_backend._network, toy_manifest, 'cuda:0')
    assert precision == 'fp32'
    assert runner.is_recorded
    assert [record.getMessage().partition(':')[0] for record in caplog.records] == [
        'precision fp16 is not used', 'precision fp16-safe is not used',
    ]  # fmt: skip


@pytest.mark.gpu
def test_too_large_a_request_names_what_is_needed(gpu_backend):
    with pytest.raises(GpuMemoryError, match=r'too little memory: [\d.]+ GiB are needed'), gpu_memory_errors():
        torch.empty(1 << 43, dtype=torch.uint8, device='cuda:0')


class CallingQueue(CudaQueue):
    """Records nothing."""

    def record(self, work):
        raise RuntimeError('not wanted')


@pytest.mark.gpu
def test_how_fast_a_recorded_encoder_is(gpu_backend, toy_manifest, toy_state):
    network, place = gpu_backend._network, torch.device('cuda:0')
    frame, scores = toy_frames(1)[0], {}
    for name, queue in (('graph', CudaQueue(place)), ('calls', CallingQueue(place))):
        runner = FrameRunner(HalfNetwork(network), network.head, toy_manifest.image_size_hw, queue)
        assert runner.is_recorded is (name == 'graph')
        for _ in range(10):
            runner.segment(frame, toy_state, THRESHOLDS)
        started = time.perf_counter()
        for _ in range(100):
            scores[name] = runner.segment(frame, toy_state, THRESHOLDS).score
        print(f'{name}: {(time.perf_counter() - started) * 10:.2f} ms a frame')
    np.testing.assert_allclose(scores['graph'], scores['calls'], atol=5e-3)
