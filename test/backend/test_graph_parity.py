"""The shipped model on ONNX Runtime gives what it gives in PyTorch, both in float32.

`TOLERANCES` stands with its reasons in docs/deployment.md.
"""

import numpy as np
import pytest

from fisa_ros.core.manifest import load_manifest
from fisa_ros.core.vocabulary import VocabularyRegistry, VocabularyRequest
from fisa_ros.core.vocabulary_state import build_state
from fisa_ros.evaluation.panoptic_quality import PanopticQuality
from fisa_ros.pipeline.segmenter import Segmenter
from fisa_ros.runtime.graph_files import graphs_folder
from fisa_ros.runtime.onnxruntime_backend import OnnxRuntimeBackend
from fisa_ros.runtime.parity_gate import ParityGate
from fisa_ros.runtime.torch_backend import TorchBackend
from fisa_ros.simulation.camera import SceneCamera

TOLERANCES = {
    'mask_logits': 2e-3,
    'mask_embeddings': 1e-4,
    'objectness': 1e-4,
    'score': 2e-4,
    'text_embeddings': 1e-5,
}
MIN_PQ = 0.99
FRAMES_PER_ROOM = 5


@pytest.fixture(scope='module')
def manifest():
    return load_manifest('fisa-tiny')


@pytest.fixture(scope='module')
def ours(manifest):
    backend = OnnxRuntimeBackend(manifest, graphs_folder(manifest), precision='fp32')
    yield backend
    backend.close()


@pytest.fixture(scope='module')
def theirs(manifest):
    backend = TorchBackend(manifest, 'cpu')
    yield backend
    backend.close()


@pytest.fixture(scope='module')
def reference(manifest):
    return dict(np.load(graphs_folder(manifest) / 'reference.npz'))


@pytest.mark.parametrize('num_rooms', [4, pytest.param(40, marks=[pytest.mark.slow, pytest.mark.timeout(600)])])
def test_panoptic_quality_between_both(manifest, ours, theirs, num_rooms):
    vocabulary = VocabularyRegistry().propose(VocabularyRequest.parse('indoor'))
    segmenters = [Segmenter(backend, manifest) for backend in (ours, theirs)]
    states = [segmenter.prepare(vocabulary) for segmenter in segmenters]
    quality = PanopticQuality({entry.id: entry.is_thing for entry in vocabulary.classes})
    segments = 0
    for seed in range(990101, 990101 + num_rooms):
        camera = SceneCamera(seed)
        for _ in range(FRAMES_PER_ROOM):
            camera.step(2.0)
            image = camera.color()
            found, expected = (
                segmenter.segment(image, state) for segmenter, state in zip(segmenters, states, strict=True)
            )
            quality.update(*maps(found), *maps(expected))
            segments += len(expected.segments)
        camera.close()
    result = quality.compute().all
    print(f'{num_rooms * FRAMES_PER_ROOM} frames, {segments} segments, PQ {result.pq:.5f}, SQ {result.sq:.5f}')
    assert segments > 2 * num_rooms * FRAMES_PER_ROOM
    assert result.pq >= MIN_PQ


def maps(result):
    return result.panoptic_map, {segment.id: segment.class_id for segment in result.segments}


def test_tensors_of_both(ours, reference):
    gate = ParityGate(reference)
    for frame in range(gate.num_frames):
        inputs = gate.inputs(frame)
        encoded = ours._encoder.run(
            ['mask_logits', 'mask_embeddings', 'objectness'],
            {name: inputs[name] for name in ('image', 'semantic_tokens', 'token_mask')},
        )
        for name, found in zip(('mask_logits', 'mask_embeddings', 'objectness'), encoded, strict=True):
            np.testing.assert_allclose(found, reference[name][frame], rtol=0, atol=TOLERANCES[name], err_msg=name)


@pytest.mark.parametrize(('classes', 'synonyms'), [(1, 1), (2, 5), (7, 8), (40, 2), (255, 3), (1000, 1)])
def test_any_number_of_words(manifest, ours, theirs, reference, classes, synonyms):
    names = [[f'{row} {column}' for column in range(synonyms)] for row in range(classes)]
    request = VocabularyRequest.parse('; '.join(', '.join(entry) for entry in names))
    vocabulary = VocabularyRegistry(max_id=65535).propose(request)
    rng = np.random.default_rng(classes)
    # Words near to what the frames show, so that they are found.
    embeddings = reference['mask_embeddings'].reshape(-1, ours.embedding_dim)
    rows = embeddings[rng.integers(0, len(embeddings), classes * synonyms)] + rng.normal(
        0, 0.02, (classes * synonyms, ours.embedding_dim)
    )
    rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    flat = [name for entry in names for name in entry]
    state = build_state(vocabulary, dict(zip(flat, rows, strict=True)), ours.num_semantic_tokens)
    pixels = []
    for frame in reference['image'][:2]:
        found, expected = (backend.segment(frame, state, manifest.thresholds) for backend in (ours, theirs))
        visible = np.unique(expected.query_map[expected.query_map > 0]) - 1
        agreement = np.mean(labels(found) == labels(expected))
        assert agreement >= MIN_PQ
        np.testing.assert_allclose(found.score[visible], expected.score[visible], rtol=0, atol=TOLERANCES['score'] * 10)
        pixels.append(np.count_nonzero(expected.query_map))
    assert max(pixels) > 0, 'nothing was compared'


def labels(raw):
    return np.concatenate([[-1], raw.class_index])[raw.query_map]


def test_words_of_both(ours, theirs):
    sentences = ['a fire extinguisher', 'chair', 'Café crème', 'armchair, used', 'x' * 400]
    np.testing.assert_allclose(
        ours.encode_text(sentences), theirs.encode_text(sentences), rtol=0, atol=TOLERANCES['text_embeddings']
    )
