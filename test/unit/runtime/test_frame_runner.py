from contextlib import contextmanager
from dataclasses import replace
import logging

import numpy as np
import pytest
import torch

from fisa_ros.core.thresholds import Thresholds
from fisa_ros.networks.build import build_network
from fisa_ros.networks.conv_stem import fold_batch_norms
from fisa_ros.networks.weights import load_weights
from fisa_ros.runtime.frame_runner import FrameRunner, first_that_passes
from fisa_ros.runtime.graph_files import REFERENCE_FILE
from fisa_ros.runtime.half_precision import HalfNetwork
from fisa_ros.runtime.parity_gate import ParityGate

from .conftest import toy_frames
from .test_onnxruntime_backend import vocabulary_of

THRESHOLDS = Thresholds(score=0.0, mask=0.3, overlap=0.2)


class HostQueue:
    """A queue on the CPU that repeats work into the same tensors, as a CUDA graph does."""

    device = torch.device('cpu')

    def __init__(self, error=None):
        self.error = error
        self.depth = self.waits = self.replays = self.records = 0

    @contextmanager
    def active(self):
        self.depth += 1
        try:
            yield
        finally:
            self.depth -= 1

    def host_tensor(self, shape, dtype):
        return torch.empty(tuple(shape), dtype=dtype)

    def record(self, work):
        assert self.depth == 1
        if self.error:
            raise self.error
        self.records += 1
        static = tuple(tensor.clone() for tensor in work())

        def replay():
            assert self.depth == 1
            self.replays += 1
            for target, tensor in zip(static, work(), strict=True):
                target.copy_(tensor)
            return static

        return replay

    def wait(self):
        self.waits += 1


@pytest.fixture(scope='module')
def network(toy_manifest):
    network = build_network(toy_manifest.generator, toy_manifest.classifier)
    load_weights(network, toy_manifest.weights.path)
    fold_batch_norms(network.eval())
    return network.requires_grad_(False)


@pytest.fixture
def queue():
    return HostQueue()


@pytest.fixture
def runner(network, toy_manifest, queue):
    return FrameRunner(network, network.head, toy_manifest.image_size_hw, queue)


@pytest.fixture(scope='module')
def gate(toy_graphs):
    return ParityGate.open(toy_graphs / REFERENCE_FILE)


def assert_same(ours, theirs):
    np.testing.assert_array_equal(ours.query_map, theirs.query_map)
    np.testing.assert_array_equal(ours.class_index, theirs.class_index)
    np.testing.assert_allclose(ours.score, theirs.score, atol=1e-5)


def test_every_frame_and_vocabulary_gives_what_the_network_gives(runner, queue, toy_segmenter):
    labelled = 0
    for classes, synonyms in [(1, 1), (40, 1), (7, 3), (1000, 1), (2, 8), (1, 1)]:
        state = vocabulary_of(classes, synonyms)
        for frame in toy_frames(2):
            ours = runner.segment(frame, state, THRESHOLDS)
            assert_same(ours, toy_segmenter.backend.segment(frame, state, THRESHOLDS))
            labelled += np.count_nonzero(ours.query_map)
    assert labelled
    assert runner.is_recorded
    # The encoder of 12 frames, and once more for what the head is recorded behind; the head of each second frame.
    assert queue.replays == 19
    assert queue.records == 7
    assert queue.depth == 0


def test_thresholds_are_those_of_the_frame(runner, toy_segmenter, toy_state):
    frame = toy_frames(1)[0]
    parts = [THRESHOLDS.placed((0.5, 1.0)), THRESHOLDS.placed((1.0, 0.3))]
    for changed in ({'score': 1.0}, {'mask': 1.0}, {'overlap': 1.0}, {'objectness_trust': 1.0}, {}):
        parts.append(replace(THRESHOLDS, **changed))
    for thresholds in parts:
        expected = toy_segmenter.backend.segment(frame, toy_state, thresholds)
        assert_same(runner.segment(frame, toy_state, thresholds), expected)


def test_one_wait_a_frame_and_results_that_stay(runner, queue, toy_state):
    frames = toy_frames(2)
    # The second one records.
    first = [runner.segment(frames[0], toy_state, THRESHOLDS) for _ in range(2)][-1]
    kept = first.query_map.copy(), first.score.copy()
    before = queue.waits
    second = runner.segment(frames[1], toy_state, THRESHOLDS)
    assert queue.waits == before + 1
    np.testing.assert_array_equal(first.query_map, kept[0])
    np.testing.assert_array_equal(first.score, kept[1])
    assert not np.array_equal(second.score, kept[1])


def test_words_go_up_only_when_they_change(runner, toy_state, monkeypatch):
    sets = []
    set_words = runner._set_words
    monkeypatch.setattr(runner, '_set_words', lambda arrays: (sets.append(arrays), set_words(arrays)))
    other = vocabulary_of(3, 1)
    for state in (toy_state, toy_state, other, other, toy_state):
        runner.segment(toy_frames(1)[0], state, THRESHOLDS)
    assert len(sets) == 3


def test_words_that_alternate_are_not_recorded(runner, queue, toy_state, toy_segmenter):
    frame, other = toy_frames(1)[0], vocabulary_of(3, 1)
    for state in (toy_state, other) * 3:
        assert_same(runner.segment(frame, state, THRESHOLDS), toy_segmenter.backend.segment(frame, state, THRESHOLDS))
    assert queue.records == 1


def test_a_new_temperature_counts_at_once(runner, queue, toy_state, toy_segmenter, monkeypatch):
    frame = toy_frames(1)[0]
    before = [runner.segment(frame, toy_state, THRESHOLDS) for _ in range(3)][-1]
    assert queue.records == 2
    for head in (runner._head.head, toy_segmenter.backend._network.head):
        monkeypatch.setattr(head, 'temperature', 0.3)
    after = [runner.segment(frame, toy_state, THRESHOLDS) for _ in range(2)][-1]
    # Once: the record before has the other temperature in it.
    assert queue.records == 3
    assert_same(after, toy_segmenter.backend.segment(frame, toy_state, THRESHOLDS))
    assert np.abs(after.score - before.score).max() > 0.01


def test_another_merge_size_counts_at_once(runner, queue, toy_state, toy_segmenter, monkeypatch):
    frame = toy_frames(1)[0]
    before = [runner.segment(frame, toy_state, THRESHOLDS) for _ in range(2)][-1]
    assert queue.records == 2
    for head in (runner._head.head, toy_segmenter.backend._network.head):
        monkeypatch.setattr(head, 'merge_size', 2 * head.merge_size)
    after = runner.segment(frame, toy_state, THRESHOLDS)
    assert after.query_map.shape == tuple(2 * side for side in before.query_map.shape)
    assert_same(after, toy_segmenter.backend.segment(frame, toy_state, THRESHOLDS))


def test_words_that_went_up_in_part_are_sent_again(runner, toy_state, toy_segmenter, monkeypatch):
    frame, other = toy_frames(1)[0], vocabulary_of(9, 2)
    for _ in range(2):
        runner.segment(frame, toy_state, THRESHOLDS)
    upload, calls = torch.from_numpy, []

    def fail(array):
        calls.append(array)
        if len(calls) == 2:
            raise torch.OutOfMemoryError('full')
        return upload(array)

    with monkeypatch.context() as patch:
        patch.setattr(torch, 'from_numpy', fail)
        with pytest.raises(torch.OutOfMemoryError):
            runner.segment(frame, other, THRESHOLDS)
    for state in (toy_state, other):
        assert_same(runner.segment(frame, state, THRESHOLDS), toy_segmenter.backend.segment(frame, state, THRESHOLDS))


class HeadlessQueue(HostQueue):
    """Records the first work alone, which is the encoder."""

    def record(self, work):
        if self.records:
            raise RuntimeError('operation not permitted')
        return super().record(work)


def test_a_head_that_cannot_be_recorded_is_called(network, toy_manifest, toy_state, toy_segmenter, caplog):
    with caplog.at_level(logging.WARNING, 'fisa_ros.torch'):
        runner = FrameRunner(network, network.head, toy_manifest.image_size_hw, HeadlessQueue())
        for frame in toy_frames(2):
            expected = toy_segmenter.backend.segment(frame, toy_state, THRESHOLDS)
            assert_same(runner.segment(frame, toy_state, THRESHOLDS), expected)
    assert runner.is_recorded
    assert [record.getMessage() for record in caplog.records] == [
        'the head cannot be recorded and is called for each frame, which is slower: operation not permitted'
    ]


def test_the_gate_leaves_no_words_behind(runner, gate, toy_state, toy_segmenter):
    frame = toy_frames(1)[0]
    state = vocabulary_of(5, 1)
    runner.segment(frame, state, THRESHOLDS)
    assert gate.judge(runner.run_graphs).passed
    assert_same(runner.segment(frame, state, THRESHOLDS), toy_segmenter.backend.segment(frame, state, THRESHOLDS))


def test_an_encoder_that_cannot_be_recorded_is_called(network, toy_manifest, toy_state, toy_segmenter, caplog):
    queue = HostQueue(RuntimeError('operation not permitted when stream is capturing\nmore'))
    with caplog.at_level(logging.WARNING, 'fisa_ros.torch'):
        runner = FrameRunner(network, network.head, toy_manifest.image_size_hw, queue)
        for frame in toy_frames(2):
            expected = toy_segmenter.backend.segment(frame, toy_state, THRESHOLDS)
            assert_same(runner.segment(frame, toy_state, THRESHOLDS), expected)
    assert not runner.is_recorded
    assert [record.getMessage() for record in caplog.records] == [
        'the encoder cannot be recorded and is called for each frame, which is slower: '
        'operation not permitted when stream is capturing'
    ]


@pytest.mark.parametrize(
    ('image', 'error', 'message'),
    [
        (np.zeros((32, 64, 3), np.uint8), ValueError, r'image must be \(64, 64, 3\), got \(32, 64, 3\)'),
        (np.zeros((64, 64, 3), np.float32), TypeError, 'Cannot cast'),
    ],
)
def test_images_of_another_size_or_type_are_refused(runner, toy_state, image, error, message):
    with pytest.raises(error, match=message):
        runner.segment(image, toy_state, THRESHOLDS)


@pytest.mark.parametrize('is_safe', [False, True])
def test_half_precision_passes_the_gate(network, toy_manifest, queue, gate, is_safe):
    runner = FrameRunner(HalfNetwork(network, is_safe=is_safe), network.head, toy_manifest.image_size_hw, queue)
    verdict = gate.judge(runner.run_graphs)
    assert verdict.passed, verdict.describe()


class WrongRunner:
    """Gives the outputs of a runner, with every embedding turned round."""

    def __init__(self, runner):
        self.runner = runner

    def run_graphs(self, inputs):
        outputs = self.runner.run_graphs(inputs)
        return {**outputs, 'mask_embeddings': -outputs['mask_embeddings']}


@pytest.mark.parametrize(
    ('num_wrong', 'chosen', 'opened'), [(0, 'a', ['a']), (1, 'b', ['a', 'b']), (2, 'c', ['a', 'b', 'c'])]
)
def test_the_first_precision_that_passes_is_taken(runner, gate, caplog, num_wrong, chosen, opened):
    calls = []

    def opener(name, is_wrong):
        return lambda: (calls.append(name), WrongRunner(runner) if is_wrong else runner)[1]

    with caplog.at_level(logging.WARNING, 'fisa_ros.torch'):
        found = first_that_passes([(name, opener(name, row < num_wrong)) for row, name in enumerate('abc')], gate)
    assert found == (chosen, runner)
    assert calls == opened
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == num_wrong
    for name, message in zip('abc', messages, strict=False):
        assert message.startswith(f'precision {name} is not used: parity failed: cosine -1 (at least 0.999)')


def test_without_a_gate_the_first_precision_is_taken(runner):
    assert first_that_passes([('a', lambda: runner), ('b', lambda: None)], None) == ('a', runner)
