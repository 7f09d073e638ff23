from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pytest

from fisa_ros.core.vocabulary import VocabularyRegistry, VocabularyRequest
from fisa_ros.pipeline.segmenter import Segmenter
from fisa_ros.simulation.camera import SceneCamera


class View(NamedTuple):
    image: np.ndarray
    instance_map: np.ndarray
    segments: tuple


SEEDS = (990001, 990002, 990003)


@pytest.fixture(scope='module')
def segmenter():
    segmenter = Segmenter.load('fisa-tiny', device='cpu', cache=False)
    yield segmenter
    segmenter.close()


@pytest.fixture(scope='module')
def views():
    """Frames of rooms that training never saw."""
    frames = []
    for seed in SEEDS:
        camera = SceneCamera(seed)
        camera.step(2.0)
        frames.append(View(camera.color(), *camera.truth()))
        camera.close()
    return frames


@pytest.fixture(scope='module')
def state(segmenter):
    return segmenter.prepare(vocabulary_of(VocabularyRequest.parse('indoor')))


def vocabulary_of(request):
    return VocabularyRegistry().propose(request)


def class_map(frame):
    table = np.zeros(int(frame.instance_map.max()) + 1, np.uint16)
    for segment in frame.segments:
        table[segment.id] = segment.class_id
    return table[frame.instance_map]


def test_most_pixels_are_labelled_right(segmenter, state, views):
    hits = labelled = 0
    for frame in views:
        truth = class_map(frame)
        found = segmenter.segment(frame.image, state).semantic_map
        hits += np.count_nonzero((found == truth) & (truth > 0))
        labelled += np.count_nonzero(truth)
    assert hits / labelled > 0.5


def test_the_same_image_gives_the_same_result(segmenter, state, views):
    first, second = (segmenter.segment(views[0].image, state) for _ in range(2))
    assert first.segments == second.segments
    np.testing.assert_array_equal(first.panoptic_map, second.panoptic_map)


def test_only_words_of_the_vocabulary_are_answered(segmenter, views):
    state = segmenter.prepare(vocabulary_of(VocabularyRequest(('floor', 'couch, sofa'))))
    for frame in views:
        names = {segment.class_name for segment in segmenter.segment(frame.image, state).segments}
        assert names <= {'floor', 'couch'}


def test_the_order_of_classes_does_not_matter(segmenter, state, views):
    classes = state.vocabulary.classes
    shuffled = segmenter.prepare(replace(state.vocabulary, classes=classes[::-1]))
    for frame in views:
        one, other = (segmenter.segment(frame.image, each).semantic_map for each in (state, shuffled))
        assert np.mean(one == other) > 0.98


def test_stuff_is_one_segment_per_class(segmenter, state, views):
    for frame in views:
        stuff = [s.class_name for s in segmenter.segment(frame.image, state).segments if not s.is_thing]
        assert len(stuff) == len(set(stuff))


def test_more_words_than_semantic_tokens(segmenter, state, views):
    names = [entry.text for entry in state.vocabulary.classes]
    many = VocabularyRequest((*names, *(f'word number {number}' for number in range(100))))
    result = segmenter.segment(views[0].image, segmenter.prepare(vocabulary_of(many)))
    assert result.panoptic_map.shape == views[0].image.shape[:2]


@pytest.mark.parametrize('score', [0.0, 0.5, 0.9, 1.0])
def test_no_segment_scores_below_the_threshold(segmenter, state, views, score):
    thresholds = replace(segmenter.default_thresholds, score=score)
    for frame in views:
        assert all(s.score >= score for s in segmenter.segment(frame.image, state, thresholds).segments)
