import numpy as np
import pytest

from fisa_ros.core.vocabulary import VocabularyRegistry, VocabularyRequest
from fisa_ros.pipeline.image_scaling import scale_image
from fisa_ros.pipeline.segmenter import Segmenter
from fisa_ros.runtime.backend import MaskClassifier, ProposedMasks, sure_mask_logits


@pytest.fixture(scope='module')
def segmenter():
    segmenter = Segmenter.load('fisa-tiny', 'torch', 'cpu', cache=False)
    yield segmenter
    segmenter.close()


@pytest.fixture(scope='module')
def backend(segmenter):
    assert isinstance(segmenter.backend, MaskClassifier)
    return segmenter.backend


@pytest.fixture(scope='module')
def state(segmenter):
    request = VocabularyRequest.parse('floor; wall; chair, seat; table')
    return segmenter.prepare(VocabularyRegistry().propose(request))


@pytest.fixture(scope='module')
def image(backend):
    noise = np.random.default_rng(0).integers(0, 256, (12, 16, 3)).astype(np.uint8)
    return scale_image(noise, backend.image_size_hw)


@pytest.fixture(scope='module')
def masks():
    masks = np.zeros((3, 80, 80), np.float32)
    masks[0, :40], masks[1, 40:], masks[2, 20:60, 20:60] = 1, 1, 0.5
    return masks


def test_the_stages_give_what_segment_gives(segmenter, backend, state, image):
    thresholds = segmenter.default_thresholds
    whole = backend.segment(image, state, thresholds)
    proposed = backend.propose_masks(image)
    staged = backend.merge_masks(proposed, backend.embed_masks(image, proposed.mask_logits, state), state, thresholds)
    np.testing.assert_array_equal(staged.query_map, whole.query_map)
    np.testing.assert_array_equal(staged.class_index, whole.class_index)
    np.testing.assert_allclose(staged.score, whole.score, atol=1e-6)
    assert whole.query_map.any()


def test_probabilities_of_given_masks(backend, state, image, masks):
    probabilities = backend.classify_masks(image, masks, state)
    assert (probabilities.shape, probabilities.dtype) == ((3, 5), np.float32)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)
    alone = backend.classify_masks(image, masks[1:2], state)
    np.testing.assert_allclose(probabilities[1:2], alone, atol=1e-5)
    assert backend.classify_masks(image, masks[:0], state).shape == (0, 5)


def test_the_temperature_softens_and_keeps_the_order(segmenter, backend, state, image, masks):
    embeddings = backend.embed_masks(image, sure_mask_logits(masks), state)
    sharp = backend.class_probabilities(embeddings, state)
    former = backend.temperature
    try:
        backend.temperature = 3 * former
        soft = backend.class_probabilities(embeddings, state)
        proposed = ProposedMasks(sure_mask_logits(masks), np.ones(3, np.float32))
        merged = backend.merge_masks(proposed, embeddings, state, segmenter.default_thresholds)
    finally:
        backend.temperature = former
    expected = sharp ** (1 / 3) / (sharp ** (1 / 3)).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(soft, expected, atol=1e-5)
    front = np.unique(merged.query_map[merged.query_map > 0]) - 1
    for query in front:
        if state.is_thing[merged.class_index[query]]:
            assert merged.score[query] == pytest.approx(soft[query, :-1].max(), abs=1e-5)


def test_masks_of_known_class_are_merged(segmenter, backend, state, masks):
    logits = sure_mask_logits(masks[:2])
    raw = backend.merge_classified(
        logits, np.array([2, 3]), np.array([0.9, 0.1], np.float32), state, segmenter.default_thresholds
    )
    size = raw.query_map.shape[0]
    assert (raw.query_map[: size // 2 - 1] == 1).all()
    assert not raw.query_map[size // 2 + 1 :].any()
    assert raw.class_index[0] == 2
    assert raw.score[0] == pytest.approx(0.9)
