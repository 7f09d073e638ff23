from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
import re

import numpy as np
import pytest

from fisa_ros.core.errors import BackendUnavailableError, ImageError, ManifestError, VocabularyError
from fisa_ros.core.placement import Resize
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


def padded(segmenter):
    return Segmenter(segmenter.backend, replace(segmenter.manifest, resize=Resize('pad')))


@pytest.mark.parametrize('size_hw', [(480, 640), (1080, 1920), (640, 480), (77, 333), (1, 1), (2, 16384)])
@pytest.mark.parametrize('kind', ['pad', 'stretch'])
def test_a_pattern_comes_back_to_its_place(segmenter, color_vocabulary, size_hw, kind):
    segmenter = Segmenter(segmenter.backend, replace(segmenter.manifest, resize=Resize(kind)))
    image = np.full((*size_hw, 3), (0, 255, 0), np.uint8)
    right, bottom = (round(0.55 * side) for side in size_hw[::-1])
    image[:bottom, :right] = (255, 0, 0)
    result = segmenter.segment(image, segmenter.prepare(color_vocabulary))
    names = np.array(['', *(segment.class_name for segment in result.segments)])[result.panoptic_map]
    # A cell is a pixel of the input. One on the line mixes both colours; the nearest pixels of a whole cell do not.
    cell_h, cell_w = (
        side / placed for side, placed in zip(size_hw, segmenter.placement(size_hw).content_hw, strict=True)
    )
    y, x = np.arange(size_hw[0])[:, None] + 0.5, np.arange(size_hw[1])[None] + 0.5
    is_sure = (np.abs(x - right) > cell_w) & (np.abs(y - bottom) > cell_h)
    expected = np.where((x < right) & (y < bottom), 'red flag', 'green')
    np.testing.assert_array_equal(names[is_sure], expected[is_sure])
    assert result.panoptic_map.shape == size_hw


def test_padding_is_no_segment(segmenter, color_vocabulary):
    # Black is closest to none of the words; the lenient threshold makes it one in the padding alone.
    image = np.full((60, 160, 3), (0, 0, 255), np.uint8)
    lenient = Thresholds(score=0.0, mask=0.5, overlap=0.8)
    state = segmenter.prepare(color_vocabulary)
    (segment,) = padded(segmenter).segment(image, state, lenient).segments
    assert segment.class_name == 'blue flag'
    assert (segment.area, segment.box_xyxy) == (60 * 160, (0, 0, 160, 60))


def test_padded_is_the_square_that_is_made_by_hand(segmenter, color_vocabulary, flags):
    image = np.ascontiguousarray(flags[:, :60])
    state = segmenter.prepare(color_vocabulary)
    found = padded(segmenter).segment(image, state)
    # 48 of 64 columns are black: 120 x 60 becomes 48 x 24.
    square = np.zeros((120, 160, 3), np.uint8)
    square[:, :60] = image
    expected = segmenter.segment(square, state)
    names = [np.array(['', *(segment.class_name for segment in result.segments)]) for result in (found, expected)]
    np.testing.assert_array_equal(names[0][found.panoptic_map], names[1][expected.panoptic_map[:, :60]])
    assert {segment.class_name for segment in found.segments} == {'green', 'red flag'}
