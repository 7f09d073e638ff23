from dataclasses import replace
import os
import shutil
import time

import numpy as np
import pytest
import torch

from fisa_ros.core.errors import GraphsError
from fisa_ros.core.thresholds import Thresholds
from fisa_ros.core.vocabulary import VocabularyRegistry, VocabularyRequest
from fisa_ros.core.vocabulary_state import build_state, unit_rows
from fisa_ros.pipeline.segmenter import Segmenter
from fisa_ros.runtime import graph_files
from fisa_ros.runtime.backend import TimedBackend, segment_timed
from fisa_ros.runtime.graph_export import export_graphs
from fisa_ros.runtime.onnxruntime_backend import OnnxRuntimeBackend
from fisa_ros.runtime.torch_backend import TorchBackend

from .conftest import toy_frames

THRESHOLDS = Thresholds(score=0.0, mask=0.3, overlap=0.2)


@pytest.fixture(scope='module')
def backend(toy_manifest, toy_graphs):
    backend = OnnxRuntimeBackend(toy_manifest, toy_graphs, precision='fp32')
    yield backend
    backend.close()


def vocabulary_of(classes, synonyms):
    """Words whose embeddings are random, so that no text has to be encoded."""
    names = [tuple(f'word{row} {column}' for column in range(1 + row % synonyms)) for row in range(classes)]
    request = VocabularyRequest.parse('; '.join(', '.join(entry) for entry in names))
    vocabulary = VocabularyRegistry(max_id=65535).propose(request)
    rng = np.random.default_rng(classes)
    flat = [name for entry in names for name in entry]
    rows = unit_rows(rng.normal(size=(len(flat), 384)).astype(np.float32))
    return build_state(vocabulary, dict(zip(flat, rows, strict=True)), 32)


@pytest.mark.parametrize(
    ('classes', 'synonyms'),
    [(1, 1), (2, 8), (2, 9), (7, 3), (7, 5), (7, 6), (7, 7), (32, 1), (33, 2), (40, 1), (255, 4), (1000, 1)],
)
def test_any_vocabulary_gives_what_torch_gives(backend, toy_segmenter, classes, synonyms):
    state = vocabulary_of(classes, synonyms)
    labelled = 0
    for frame in toy_frames(3):
        ours = backend.segment(frame, state, THRESHOLDS)
        theirs = toy_segmenter.backend.segment(frame, state, THRESHOLDS)
        np.testing.assert_array_equal(ours.query_map, theirs.query_map)
        np.testing.assert_array_equal(ours.class_index, theirs.class_index)
        np.testing.assert_allclose(ours.score, theirs.score, atol=2e-4)
        labelled += np.count_nonzero(ours.query_map)
    assert labelled, 'nothing was compared'


@pytest.fixture
def torch_threads():
    """Threads are a matter of the whole process."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize('threads', [1, 2])
@pytest.mark.usefixtures('torch_threads')
def test_timed_frames_are_those_of_segment(toy_manifest, toy_graphs, toy_segmenter, toy_state, threads):
    ours = OnnxRuntimeBackend(toy_manifest, toy_graphs, threads, 'fp32')
    theirs = TorchBackend(toy_manifest, 'cpu', threads)
    frame = toy_frames(1)[0]
    expected = toy_segmenter.backend.segment(frame, toy_state, THRESHOLDS)
    for backend in (ours, theirs):
        assert backend.threads == threads
        assert isinstance(backend, TimedBackend)
        started_s = time.perf_counter()
        raw, stages_ms = segment_timed(backend, frame, toy_state, THRESHOLDS)
        total_ms = (time.perf_counter() - started_s) * 1e3
        np.testing.assert_array_equal(raw.query_map, expected.query_map)
        np.testing.assert_allclose(raw.score, expected.score, atol=2e-4)
        assert list(stages_ms) == ['upload', 'encoder', 'head', 'download']
        assert 0 < stages_ms['head'] + stages_ms['encoder'] <= sum(stages_ms.values()) <= total_ms
        backend.close()


@pytest.mark.parametrize('name', ['mask_logits', 'mask_embeddings', 'objectness'])
@pytest.mark.parametrize('value', [np.nan, np.inf])
def test_what_half_precision_may_spoil_reaches_the_score(backend, toy_graphs, name, value):
    reference = np.load(toy_graphs / 'reference.npz')
    inputs = {entry: reference[entry] for entry in ('text_embeddings', 'synonym_mask', 'is_thing', 'thresholds')}
    inputs |= {entry: reference[entry][0].copy() for entry in graph_files.ENCODER_OUTPUTS}
    assert np.isfinite(backend._head.run(['score'], inputs)[0]).all()
    inputs[name][2].fill(value) if inputs[name].ndim > 1 else inputs[name].__setitem__(2, value)
    assert not np.isfinite(backend._head.run(['score'], inputs)[0]).all()


@pytest.mark.parametrize(
    'changed',
    [{'score': 1.0}, {'mask': 1.0}, {'overlap': 1.0}, {'objectness_trust': 1.0}, {'shown_hw': (0.5, 1.0)},
     {'shown_hw': (1.0, 0.3)}],
)  # fmt: skip
def test_thresholds_are_inputs(backend, toy_segmenter, toy_state, changed):
    frame = toy_frames(1)[0]
    before = backend.segment(frame, toy_state, THRESHOLDS)
    thresholds = replace(THRESHOLDS.placed((1.0, 1.0)), **changed)
    after = backend.segment(frame, toy_state, thresholds)
    expected = toy_segmenter.backend.segment(frame, toy_state, thresholds)
    np.testing.assert_array_equal(after.query_map, expected.query_map)
    np.testing.assert_allclose(after.score, expected.score, atol=2e-4)
    assert not (np.array_equal(before.query_map, after.query_map) and np.allclose(before.score, after.score))


def test_text_is_what_torch_makes_of_it(backend, toy_segmenter):
    sentences = ['a chair', 'a photo of a fire extinguisher', 'Stühle & Tische', 'x', '消火器', 'word ' * 200]
    ours, theirs = backend.encode_text(sentences), toy_segmenter.backend.encode_text(sentences)
    np.testing.assert_allclose(ours, theirs, atol=1e-5)
    assert ours.dtype == np.float32
    np.testing.assert_allclose(backend.encode_text(sentences * 30)[-6:], theirs, atol=1e-5)
    assert backend.encode_text([]).shape == (0, 384)


def test_reference_outputs_are_met(backend, toy_graphs, toy_manifest):
    reference = np.load(toy_graphs / graph_files.REFERENCE_FILE)
    inputs = {name: reference[name] for name in ('semantic_tokens', 'token_mask')}
    assert len(reference['image']) == 8
    for row, image in enumerate(reference['image']):
        encoded = backend._encoder.run(graph_files.ENCODER_OUTPUTS, {'image': image, **inputs})
        for name, values in zip(graph_files.ENCODER_OUTPUTS, encoded, strict=True):
            np.testing.assert_allclose(values, reference[name][row], atol=2e-4, err_msg=name)
    np.testing.assert_allclose(reference['thresholds'], toy_manifest.thresholds.array())


def test_the_backend_says_what_it_is(backend):
    assert (backend.name, backend.device, backend.image_size_hw) == ('onnxruntime', 'cpu', (64, 64))
    assert (backend.embedding_dim, backend.num_semantic_tokens) == (384, 32)


def damaged(graphs, tmp_path, change):
    folder = tmp_path / 'graphs'
    shutil.copytree(graphs, folder)
    change(folder)
    return folder


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (lambda folder: shutil.rmtree(folder), "model 'toy' has no exported graphs in .*tools.export --model toy"),
        (lambda folder: (folder / 'encoder.onnx').unlink(), 'encoder.onnx cannot be read: .*; export anew'),
        (
            lambda folder: (folder / 'head.onnx').write_bytes((folder / 'head.onnx').read_bytes()[:-100]),
            r'head.onnx \(\d+ bytes\) is damaged: sha256 is',
        ),
        (lambda folder: (folder / 'graphs.json').write_text('{"format": 1}'), 'is of format 1, this version reads 2'),
        (lambda folder: (folder / 'graphs.json').write_text('[]'), r'is of format \[\]'),
        (lambda folder: (folder / 'graphs.json').write_text('{"format": 2}'), 'does not describe graphs'),
        (lambda folder: (folder / 'graphs.json').write_text('{'), 'graphs.json cannot be read'),
    ],
)
def test_damaged_graphs_are_refused(toy_manifest, toy_graphs, tmp_path, change, message):
    folder = damaged(toy_graphs, tmp_path, change)
    with pytest.raises(GraphsError, match=message):
        OnnxRuntimeBackend(toy_manifest, folder)


def test_graphs_are_read_once_and_a_truncated_one_is_found(toy_manifest, toy_graphs, tmp_path, monkeypatch):
    folder = tmp_path / 'graphs'
    shutil.copytree(toy_graphs, folder)
    for path in folder.iterdir():
        os.utime(path, (time.time() - 100,) * 2)
    description = graph_files.open_graphs(folder, toy_manifest)

    def read(path):
        raise AssertionError(f'{path} was read again')

    with monkeypatch.context() as patch:
        patch.setattr('fisa_ros.runtime.verified_files.sha256_of', read)
        assert graph_files.open_graphs(folder, toy_manifest) == description
    os.truncate(folder / 'encoder.onnx', 1000)
    with pytest.raises(GraphsError, match=r'encoder\.onnx \(1000 bytes\) is damaged'):
        graph_files.open_graphs(folder, toy_manifest)


def test_a_graph_that_cannot_be_loaded_is_named(toy_manifest, toy_graphs, tmp_path):
    def change(folder):
        (folder / 'head.onnx').write_bytes(b'no graph')
        description = graph_files.open_graphs(toy_graphs, toy_manifest)
        graph_files.write_description(folder, replace(description, files=graph_files.file_sums(folder)))

    folder = damaged(toy_graphs, tmp_path, change)
    with pytest.raises(GraphsError, match=r'head\.onnx cannot be loaded by ONNX Runtime'):
        OnnxRuntimeBackend(toy_manifest, folder)


def test_graphs_of_other_weights_are_refused(toy_manifest, toy_graphs):
    other = replace(toy_manifest, weights=replace(toy_manifest.weights, sha256='0' * 64))
    with pytest.raises(GraphsError, match="were exported from another 'toy'"):
        OnnxRuntimeBackend(other, toy_graphs)
    cooler = replace(toy_manifest, classifier={**toy_manifest.classifier, 'temperature': 1.0})
    with pytest.raises(GraphsError, match='were exported from another'):
        OnnxRuntimeBackend(cooler, toy_graphs)
    # Thresholds are inputs of the graphs.
    OnnxRuntimeBackend(replace(toy_manifest, thresholds=THRESHOLDS), toy_graphs).close()


def test_an_export_that_fails_leaves_what_was_there(toy_manifest, toy_graphs, toy_state, tmp_path, monkeypatch):
    folder = tmp_path / 'graphs'
    shutil.copytree(toy_graphs, folder)
    before = graph_files.file_sums(folder)
    monkeypatch.setattr('fisa_ros.runtime.graph_export.load_and_lint', lambda path: [f'{path.name} is bad'])
    monkeypatch.setattr('fisa_ros.runtime.graph_export._export_network', lambda *_: (6, 16, 16))
    monkeypatch.setattr('fisa_ros.runtime.graph_export._export_text', lambda *_: 64)
    with pytest.raises(GraphsError, match=r'do not fit TensorRT: encoder\.onnx: encoder\.onnx is bad'):
        export_graphs(toy_manifest, folder, toy_frames(1), toy_state)
    assert graph_files.file_sums(folder) == before
    assert list(tmp_path.iterdir()) == [folder]


def test_segmenters_of_both_agree_on_a_frame(backend, toy_manifest, toy_segmenter):
    ours = Segmenter(backend, toy_manifest)
    vocabulary = VocabularyRegistry().propose(VocabularyRequest.parse('floor; wall; chair'))
    frame = np.random.default_rng(2).integers(0, 256, (48, 80, 3)).astype(np.uint8)
    left = ours.segment(frame, ours.prepare(vocabulary), THRESHOLDS)
    right = toy_segmenter.segment(frame, toy_segmenter.prepare(vocabulary), THRESHOLDS)
    np.testing.assert_array_equal(left.panoptic_map, right.panoptic_map)
    assert [segment.class_name for segment in left.segments] == [segment.class_name for segment in right.segments]
    assert isinstance(toy_segmenter.backend, TorchBackend)
