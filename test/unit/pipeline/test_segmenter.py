from concurrent.futures import ThreadPoolExecutor
import re

import numpy as np
import pytest

from fisa_ros.core.errors import BackendUnavailableError, ImageError, ManifestError, VocabularyError
from fisa_ros.core.thresholds import Thresholds
from fisa_ros.core.vocabulary import VocabularyRegistry, VocabularyRequest
from fisa_ros.pipeline.segmenter import MAX_IMAGE_SIDE, Segmenter, check_image


@pytest.fixture
def segmenter(color_backend, color_manifest):
    return Segmenter(color_backend, color_manifest)


def test_segments_of_an_image(segmenter, flags, color_vocabulary):
    result = segmenter.segment(flags, segmenter.prepare(color_vocabulary))
    assert [segment.class_name for segment in result.segments] == ['green', 'blue flag', 'red flag', 'red flag']
    assert [segment.is_thing for segment in result.segments] == [False, True, True, True]
    assert [segment.id for segment in result.segments] == [1, 2, 3, 4]
    assert result.panoptic_map.shape == (120, 160)
    blue = result.segments[1]
    np.testing.assert_allclose(blue.box_xyxy, (100, 40, 140, 100), atol=2)
    assert blue.area == np.count_nonzero(result.panoptic_map == 2)
    assert np.mean(result.panoptic_map[flags[..., 2] == 255] == 2) > 0.95
    assert result.vocabulary_version == color_vocabulary.version


def test_thresholds(segmenter, flags, color_vocabulary):
    assert segmenter.default_thresholds.score == 0.9
    state = segmenter.prepare(color_vocabulary)
    image = np.full_like(flags, (200, 140, 60))
    assert segmenter.segment(image, state).segments == ()
    lenient = Thresholds(score=0.5, mask=0.5, overlap=0.8)
    assert [segment.class_name for segment in segmenter.segment(image, state, lenient).segments] == ['red flag']


@pytest.mark.parametrize('size_hw', [(1, 1), (1, 300), (300, 1), (48, 64), (24, 200), (7, 5), (480, 640)])
def test_any_size(segmenter, color_vocabulary, size_hw):
    result = segmenter.segment(np.full((*size_hw, 3), 255, np.uint8), segmenter.prepare(color_vocabulary))
    assert result.panoptic_map.shape == size_hw


def test_views_with_strides(segmenter, flags, color_vocabulary):
    state = segmenter.prepare(color_vocabulary)
    bgr = np.ascontiguousarray(flags[..., ::-1])
    expected = segmenter.segment(flags, state).panoptic_map
    np.testing.assert_array_equal(segmenter.segment(bgr[..., ::-1], state).panoptic_map, expected)
    padded = np.zeros((120, 200, 3), np.uint8)
    padded[:, :160] = flags
    np.testing.assert_array_equal(segmenter.segment(padded[:, :160], state).panoptic_map, expected)


def test_the_image_is_not_changed(segmenter, flags, color_vocabulary):
    before = flags.copy()
    flags.setflags(write=False)
    segmenter.segment(flags, segmenter.prepare(color_vocabulary))
    np.testing.assert_array_equal(flags, before)


@pytest.mark.parametrize(
    ('image', 'message'),
    [
        (np.zeros((4, 4), np.uint8), 'must be (H, W, 3) uint8 rgb, got (4, 4) uint8'),
        (np.zeros((4, 4, 4), np.uint8), 'got (4, 4, 4) uint8'),
        (np.zeros((4, 4, 3), np.float32), 'got (4, 4, 3) float32'),
        (np.zeros((0, 4, 3), np.uint8), 'image is 4x0: sides must be in 1..16384'),
        (np.zeros((1, MAX_IMAGE_SIDE + 1, 3), np.uint8), 'image is 16385x1'),
        (np.broadcast_to(np.uint8(0), (9000, 9000, 3)), 'with at most 67108864 pixels'),
    ],
)
def test_images_refused(image, message):
    with pytest.raises(ImageError, match=re.escape(message)):
        check_image(image)


@pytest.mark.parametrize(('limit', 'is_refused'), [(None, False), (3, False), (2, True)])
def test_more_classes_than_the_backend_takes_are_refused_before_a_word_is_encoded(
    segmenter, color_backend, color_vocabulary, limit, is_refused
):
    color_backend.max_classes = limit
    if is_refused:
        with pytest.raises(VocabularyError, match='the vocabulary has 3 classes, the back-end takes at most 2'):
            segmenter.prepare(color_vocabulary)
        assert color_backend.sentences == []
    else:
        segmenter.prepare(color_vocabulary)


def test_names_are_put_into_every_template(segmenter, color_backend, color_vocabulary):
    segmenter.prepare(color_vocabulary)
    assert color_backend.sentences[:4] == [
        'a photo of red flag.',
        'red flag in a room.',
        'a photo of blue flag.',
        'blue flag in a room.',
    ]
    assert len(color_backend.sentences) == 2 * 5


def test_braces_in_a_name_are_taken_as_they_are(segmenter, color_backend):
    segmenter.prepare(VocabularyRegistry(stuff_words=()).propose(VocabularyRequest(('set {} of {0}',))))
    assert color_backend.sentences == ['a photo of set {} of {0}.', 'set {} of {0} in a room.']


def test_the_state(segmenter, color_vocabulary):
    state = segmenter.prepare(color_vocabulary)
    assert state.text_embeddings.shape == (3, 2, 3)
    np.testing.assert_allclose(np.linalg.norm(state.text_embeddings[state.synonym_mask], axis=-1), 1, atol=1e-5)
    assert state.semantic_tokens.shape == (4, 3)
    assert state.token_mask.tolist() == [True, True, True, False]


def test_known_names_are_not_encoded_again(tmp_path, color_backend, color_manifest, color_vocabulary):
    segmenter = Segmenter(color_backend, color_manifest, tmp_path)
    first = segmenter.prepare(color_vocabulary)
    color_backend.sentences.clear()
    second = segmenter.prepare(color_vocabulary)
    third = Segmenter(color_backend, color_manifest, tmp_path).prepare(color_vocabulary)
    assert color_backend.sentences == []
    np.testing.assert_array_equal(first.text_embeddings, second.text_embeddings)
    np.testing.assert_array_equal(first.text_embeddings, third.text_embeddings)


def test_many_words(segmenter):
    words = tuple(f'word {number}' for number in range(1000))
    vocabulary = VocabularyRegistry(max_id=65535, stuff_words=()).propose(VocabularyRequest(words))
    state = segmenter.prepare(vocabulary)
    assert state.text_embeddings.shape == (1000, 1, 3)
    assert state.token_mask.all()


def test_preparing_beside_segmenting(segmenter, flags, color_vocabulary):
    state = segmenter.prepare(color_vocabulary)
    expected = segmenter.segment(flags, state).panoptic_map

    def prepare(number):
        request = VocabularyRequest((f'red {number}', f'word {number}'))
        return segmenter.prepare(VocabularyRegistry(stuff_words=()).propose(request))

    with ThreadPoolExecutor(1) as text_thread:
        states = text_thread.map(prepare, range(50))
        for _ in range(20):
            np.testing.assert_array_equal(segmenter.segment(flags, state).panoptic_map, expected)
        assert len(list(states)) == 50


def test_close(segmenter, color_backend):
    segmenter.close()
    assert color_backend.is_closed


def test_load_names_what_is_wrong():
    with pytest.raises(ManifestError, match="unknown model 'nothing'"):
        Segmenter.load('nothing')
    with pytest.raises(BackendUnavailableError, match="unknown back-end 'caffe'"):
        Segmenter.load('fisa-tiny', backend='caffe')
