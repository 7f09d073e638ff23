from dataclasses import replace
import logging

import numpy as np
import pytest

from fisa_ros.core.errors import BackendUnavailableError
from fisa_ros.core.thresholds import Thresholds
from fisa_ros.evaluation.image_truth import ImageTruth
from fisa_ros.evaluation.predictor import Predictor, best_matches, embed_together, segments_below
from fisa_ros.pipeline.segmenter import Segmenter
from fisa_ros.runtime.backend import RawSegmentation, sure_mask_logits

CAT, DOG, GRASS = 1, 2, 3


def labels(prediction, meadow):
    """Return one category number for each cell."""
    numbers = meadow.categories.class_numbers
    table = np.array([0, *(numbers[class_id] for class_id in sorted(numbers))])
    return table[prediction.result.semantic_map[::4, ::4]]


def predicted(meadow, oracle=None, vocabulary=None, **thresholds):
    segmenter = meadow.segmenter
    chosen = replace(segmenter.default_thresholds, **thresholds)
    states = [segmenter.prepare(vocabulary or meadow.categories.vocabulary)]
    (prediction,) = Predictor(segmenter, meadow.categories, chosen, oracle).predict(meadow.image, meadow.truth, states)
    return prediction


def test_the_model_itself(meadow):
    prediction = predicted(meadow)
    np.testing.assert_array_equal(
        labels(prediction, meadow),
        [[CAT, CAT, CAT, CAT], [CAT, 0, CAT, CAT], [GRASS] * 4, [GRASS] * 4],
    )
    assert prediction.mask_categories.tolist() == [CAT, DOG, GRASS]
    assert prediction.mask_probabilities.argmax(axis=1).tolist() == [0, 0, 2]
    np.testing.assert_allclose(prediction.mask_probabilities.sum(axis=1), 1, rtol=1e-6)


def test_by_stages_the_result_is_that_of_segment(meadow):
    state = meadow.segmenter.prepare(meadow.categories.vocabulary)
    whole = meadow.segmenter.segment(meadow.image, state)
    staged = predicted(meadow).result
    assert staged.segments == whole.segments
    np.testing.assert_array_equal(staged.panoptic_map, whole.panoptic_map)


def test_a_back_end_of_another_precision_segments_by_itself(meadow, monkeypatch):
    backend = meadow.segmenter.backend
    expected = predicted(meadow).mask_probabilities
    # As the half network of a GPU: it sees nothing but grass, its stages are those of float32.
    grass = RawSegmentation(np.ones((16, 16), np.int32), np.array([2]), np.array([0.75], np.float32))
    monkeypatch.setattr(backend, 'segment', lambda image, state, thresholds: grass)
    assert len(predicted(meadow).result.segments) == 3
    monkeypatch.setattr(backend, 'precision', 'fp16', raising=False)
    prediction = predicted(meadow)
    assert [segment.class_name for segment in prediction.result.segments] == ['grass']
    np.testing.assert_array_equal(prediction.mask_probabilities, expected)
    assert prediction.mask_categories.tolist() == [CAT, DOG, GRASS]
    assert len(predicted(meadow, 'masks').result.segments) == 3


def test_true_masks_keep_predicted_classes(meadow):
    prediction = predicted(meadow, 'masks')
    np.testing.assert_array_equal(labels(prediction, meadow), [[CAT] * 4, [CAT] * 4, [GRASS] * 4, [GRASS] * 4])
    assert len(prediction.result.segments) == 3
    assert meadow.segmenter.backend.proposed_images == 0


def test_true_classes_keep_predicted_masks(meadow):
    # The single cell lies on the grass and is fused with it.
    prediction = predicted(meadow, 'classes')
    np.testing.assert_array_equal(
        labels(prediction, meadow),
        [[CAT, CAT, DOG, DOG], [CAT, 0, DOG, DOG], [GRASS] * 4, [GRASS] * 4],
    )
    scores = {segment.class_name: segment.score for segment in prediction.result.segments}
    # A sure classifier overrules half of the doubt: 1 - 0.2 x 0.5.
    assert scores == pytest.approx({'cat': 1, 'dog': 0.9, 'grass': 1})


def test_true_classes_of_parts_of_stuff_are_fused(meadow):
    # Two half masks of the grass: 4 of its 8 cells, and 4 others with 3 of the dog. A half of the cat is no cat.
    masks = np.zeros((4, 4, 4), np.float32)
    masks[0, 2], masks[1, 3], masks[1, 1, 2:], masks[1, 0, 3], masks[2, 0, :2] = 1, 1, 1, 1, 1
    meadow.segmenter.backend.masks = masks
    prediction = predicted(meadow, 'classes')
    np.testing.assert_array_equal(
        labels(prediction, meadow),
        [[0, 0, 0, GRASS], [0, 0, GRASS, GRASS], [GRASS] * 4, [GRASS] * 4],
    )
    assert [segment.class_name for segment in prediction.result.segments] == ['grass']


def test_where_the_truth_tells_no_things_apart_they_are_as_stuff(meadow):
    # The cat that is found is a part of a region of cats, too small to be that object.
    pixels = meadow.truth.panoptic_map.copy()
    pixels[pixels != 3] = 1
    truth = ImageTruth.of(pixels, [(1, CAT, False), (3, GRASS, False)], meadow.categories)
    state = meadow.segmenter.prepare(meadow.categories.vocabulary)
    rows = []
    for has_instances in (True, False):
        predictor = Predictor(
            meadow.segmenter, meadow.categories, meadow.segmenter.default_thresholds, 'classes',
            has_instances=has_instances,
        )  # fmt: skip
        (prediction,) = predictor.predict(meadow.image, truth, [state])
        rows.append(labels(prediction, meadow)[0].tolist())
    assert rows == [[0] * 4, [CAT] * 4]


def test_true_classes_still_meet_the_threshold(meadow):
    found = predicted(meadow, 'classes', score=0.95, objectness_trust=0.0).result.segments
    assert [segment.class_name for segment in found] == ['grass', 'cat']


def test_true_classes_hold_in_a_vocabulary_of_other_order(meadow):
    vocabulary = meadow.categories.vocabulary
    shuffled = replace(vocabulary, classes=vocabulary.classes[::-1])
    prediction = predicted(meadow, 'classes', shuffled)
    np.testing.assert_array_equal(labels(prediction, meadow)[0], [CAT, CAT, DOG, DOG])
    assert predicted(meadow, None, shuffled).mask_probabilities.argmax(axis=1).tolist() == [2, 2, 0]


def test_true_classes_that_the_vocabulary_lacks_are_no_objects(meadow):
    vocabulary = meadow.categories.vocabulary
    prediction = predicted(meadow, 'classes', replace(vocabulary, classes=vocabulary.classes[:1]))
    assert [segment.class_name for segment in prediction.result.segments] == ['cat']


@pytest.mark.parametrize('oracle', [None, 'masks', 'classes'])
def test_an_image_without_segments(meadow, oracle):
    empty = ImageTruth.of(np.zeros((16, 16), int), [], meadow.categories)
    prediction = predicted(meadow._replace(truth=empty), oracle)
    assert prediction.mask_probabilities.shape == (0, 4)
    assert bool(prediction.result.segments) is (oracle is None)


def test_masks_are_proposed_once_for_all_vocabularies(meadow):
    segmenter, classes = meadow.segmenter, meadow.categories.vocabulary.classes
    states = [
        segmenter.prepare(replace(meadow.categories.vocabulary, classes=part)) for part in (classes[:1], classes[2:])
    ]
    predictor = Predictor(segmenter, meadow.categories, segmenter.default_thresholds)
    first, second = predictor.predict(meadow.image, meadow.truth, states)
    assert segmenter.backend.proposed_images == 1
    assert {segment.class_name for segment in first.result.segments} == {'cat'}
    assert {segment.class_name for segment in second.result.segments} == {'grass'}


def test_a_backend_that_cannot_classify_masks(meadow, color_backend, color_manifest, caplog):
    segmenter = Segmenter(color_backend, color_manifest)
    thresholds = Thresholds(score=0.1, mask=0.5, overlap=0.5)
    with caplog.at_level(logging.WARNING):
        predictor = Predictor(segmenter, meadow.categories, thresholds)
    assert "'color' cannot classify given masks" in caplog.text
    states = [segmenter.prepare(meadow.categories.vocabulary)]
    (prediction,) = predictor.predict(meadow.image, meadow.truth, states)
    assert prediction.mask_probabilities is None
    assert prediction.result.panoptic_map.shape == (16, 16)
    with pytest.raises(BackendUnavailableError, match=r"'color' cannot .* --oracle masks needs: choose torch"):
        Predictor(segmenter, meadow.categories, thresholds, 'masks')


def test_matches_by_hand():
    true = np.array([[[1, 1], [0, 0]], [[0, 0], [0.5, 1]]], np.float32)
    logits = np.array([[[2, 2], [2, -2]], [[-2, -2], [-2, 2]], [[-2, -2], [-2, -2]]], np.float32)
    best, index = best_matches(logits, true, 0.5)
    # 2 of 3 cells; 1 of 1.5; nothing.
    np.testing.assert_allclose(best, [2 / 3, 2 / 3, 0])
    assert index[:2].tolist() == [0, 1]
    np.testing.assert_allclose(best_matches(logits, true, 0.0)[0], [2 / 4, 2 / 4, 2 / 4])
    np.testing.assert_allclose(best_matches(logits, true, 1.0)[0], [0, 0, 0])
    np.testing.assert_allclose(best_matches(logits, true[:0], 0.5)[0], [0, 0, 0])


def test_segments_below_masks_by_hand():
    true = np.zeros((2, 1, 8), np.float32)
    true[0, 0, :4], true[1, 0, 4:] = 1, 1
    logits = np.full((6, 1, 8), -2.0, np.float32)
    for row, cells in enumerate(([0, 1, 2], [0, 1], [4], [3, 4], [2, 3, 4], [])):
        logits[row, 0, cells] = 2
    # IoU 3/4, 2/4; share on the second 1/1, 1/2, 1/3; nothing.
    assert segments_below(logits, true, np.array([False, True]), 0.5).tolist() == [0, -1, 1, 1, -1, -1]
    assert segments_below(logits, true, np.array([False, False]), 0.5).tolist() == [0, -1, -1, -1, -1, -1]
    assert segments_below(logits, true[:0], np.zeros(0, bool), 0.5).tolist() == [-1] * 6


@pytest.mark.parametrize('split', [1, 3, 4])
def test_embeddings_do_not_depend_on_the_company(meadow, split):
    backend = meadow.segmenter.backend
    state = meadow.segmenter.prepare(meadow.categories.vocabulary)
    masks = sure_mask_logits(backend.masks)
    parts = embed_together(backend, meadow.image, masks[:split], masks[split:], state)
    assert [len(part) for part in parts] == [split, 4 - split]
    np.testing.assert_array_equal(np.concatenate(parts), backend.embed_masks(meadow.image, masks, state))


def test_masks_of_two_resolutions_are_embedded_apart(meadow, monkeypatch):
    backend = meadow.segmenter.backend
    monkeypatch.setattr(backend, 'embed_masks', lambda image, mask_logits, state: mask_logits)
    coarse, fine = np.zeros((2, 4, 4), np.float32), np.zeros((3, 8, 8), np.float32)
    found = embed_together(backend, meadow.image, coarse, fine, None)
    assert [part.shape for part in found] == [coarse.shape, fine.shape]
