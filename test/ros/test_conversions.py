from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import pytest
from std_msgs.msg import Header

from fisa_ros.core.results import PanopticResult, Segment
from fisa_ros.core.vocabulary import Vocabulary, VocabularyClass, VocabularyRequest
from fisa_ros.node import conversions
from fisa_ros.srv import GetVocabulary, SetVocabulary

sides = st.integers(1, 12)


@given(sides, sides, st.sampled_from(['rgb8', 'mono8']), st.integers(0, 2**32))
def test_an_image_survives_the_message(height, width, encoding, seed) -> None:
    shape = (height, width, 3) if encoding == 'rgb8' else (height, width)
    pixels = np.random.default_rng(seed).integers(0, 256, shape, np.uint8)
    msg = conversions.image_to_msg(pixels, encoding, Header(frame_id='camera'))
    assert (msg.height, msg.width, msg.encoding, msg.header.frame_id) == (height, width, encoding, 'camera')
    decoded = conversions.image_from_msg(msg)
    np.testing.assert_array_equal(decoded, pixels if encoding == 'rgb8' else np.repeat(pixels[..., None], 3, axis=2))


@pytest.mark.parametrize(('encoding', 'dtype'), [('mono16', np.uint16), ('16UC1', np.uint16), ('32FC1', np.float32)])
def test_wide_values_are_written_byte_for_byte(encoding, dtype) -> None:
    pixels = (np.arange(12).reshape(3, 4) * 1000).astype(dtype)
    msg = conversions.image_to_msg(pixels[:, ::2], encoding, Header())
    assert msg.step == 2 * dtype().nbytes
    np.testing.assert_array_equal(np.frombuffer(msg.data, dtype).reshape(3, 2), pixels[:, ::2])


def test_values_of_another_type_are_a_mistake_of_ours() -> None:
    with pytest.raises(ValueError, match='mono8 takes uint8, got uint16'):
        conversions.image_to_msg(np.zeros((2, 2), np.uint16), 'mono8', Header())


def test_segments_survive_the_message() -> None:
    segments = (
        Segment(1, 7, 'cat', True, 0.5, 3, (0, 0, 3, 1)),
        Segment(2, 60000, 'grass', False, 0.25, 3, (1, 1, 3, 3)),
    )
    result = PanopticResult(np.array([[1, 1, 1], [0, 2, 2], [0, 0, 2]], np.uint16), segments, 12)
    msg = conversions.segments_to_msg(result, Header(frame_id='camera'))
    assert (msg.vocabulary_version, msg.header.frame_id) == (12, 'camera')
    assert tuple(map(conversions.segment_from_msg, msg.segments)) == segments
    assert [d.id for d in conversions.detections_to_msg(result, Header()).detections] == ['1']
    mask = conversions.mask_to_msg(result, 'mono16', Header())
    assert np.frombuffer(mask.data, np.uint16).tolist() == [7, 7, 7, 0, 60000, 60000, 0, 0, 60000]


def test_numbers_of_numpy_can_be_sent() -> None:
    segment = Segment(np.int64(1), np.uint16(2), 'cat', np.bool_(True), np.float32(0.5), np.int32(1), (0, 0, 1, 1))
    result = PanopticResult(np.ones((1, 1), np.uint16), (segment,), 1)
    msg = conversions.segments_to_msg(result, Header()).segments[0]
    assert [type(v) for v in (msg.id, msg.class_id, msg.is_thing, msg.score, msg.area)] == [int, int, bool, float, int]


def test_vocabularies_in_services() -> None:
    request = VocabularyRequest(('sofa, couch', 'lawn', 'sky'), ('lawn',), (None, 9, None), thing_classes=('sky',))
    message = conversions.request_to_srv(request)
    assert (message.classes, message.class_ids.tolist()) == (['sofa, couch', 'lawn', 'sky'], [0, 9, 0])
    assert (message.stuff_classes, message.thing_classes) == (['lawn'], ['sky'])
    assert conversions.request_from_srv(message) == request
    assert conversions.request_from_srv(SetVocabulary.Request(classes=['cat'])) == VocabularyRequest(('cat',))

    vocabulary = Vocabulary(3, (VocabularyClass(1, ('sofa', 'couch'), True), VocabularyClass(9, ('lawn',), False)))
    response = conversions.vocabulary_to_srv(vocabulary, GetVocabulary.Response())
    assert (response.version, list(response.class_ids)) == (3, [1, 9])
    assert (response.classes, response.stuff_classes) == (['sofa, couch', 'lawn'], ['lawn'])
    assert response.thing_classes == ['sofa']
    assert conversions.vocabulary_to_srv(None, GetVocabulary.Response()).version == 0


@pytest.mark.parametrize(
    ('count', 'text'), [(1, 'w0'), (5, 'w0, w1, w2, w3, w4'), (7, 'w0, w1, w2, w3, w4 and 2 more')]
)
def test_many_names_are_cut(count, text) -> None:
    assert conversions.names_to_text([f'w{number}' for number in range(count)]) == text
