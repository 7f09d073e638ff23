import numpy as np
import pytest

from fisa_ros.core.results import Segment
from fisa_ros.core.vocabulary import Vocabulary, VocabularyClass
from fisa_ros.pipeline.segments import list_segments
from fisa_ros.runtime.backend import RawSegmentation

VOCABULARY = Vocabulary(6, (VocabularyClass(9, ('cat',), True), VocabularyClass(4, ('sky', 'air'), False)))


def raw(query_map, class_index=(0, 1, 0), score=(0.5, 0.75, 1.0)):
    return RawSegmentation(np.array(query_map, np.int32), np.array(class_index), np.array(score, np.float32))


def test_segments_at_the_same_size():
    result = list_segments(raw([[2, 2, 0], [2, 3, 0]]), VOCABULARY, (2, 3))
    assert result.panoptic_map.tolist() == [[1, 1, 0], [1, 2, 0]]
    assert result.panoptic_map.dtype == np.uint16
    assert result.vocabulary_version == 6
    assert result.segments == (
        Segment(1, 4, 'sky', False, 0.75, 3, (0, 0, 2, 2)),
        Segment(2, 9, 'cat', True, 1.0, 1, (1, 1, 2, 2)),
    )


def test_enlarged():
    result = list_segments(raw([[1, 0], [0, 3]]), VOCABULARY, (4, 6))
    assert result.panoptic_map.tolist() == [[1, 1, 1, 0, 0, 0]] * 2 + [[0, 0, 0, 2, 2, 2]] * 2
    assert [(segment.area, segment.box_xyxy) for segment in result.segments] == [(6, (0, 0, 3, 2)), (6, (3, 2, 6, 4))]


def test_shrunk_segments_may_vanish():
    result = list_segments(raw([[1, 2, 2, 2]]), VOCABULARY, (1, 2))
    assert result.panoptic_map.tolist() == [[1, 1]]
    assert [segment.class_name for segment in result.segments] == ['sky']


def test_equal_areas_keep_the_order_of_the_queries():
    result = list_segments(raw([[3, 1, 2]]), VOCABULARY, (1, 3))
    assert result.panoptic_map.tolist() == [[3, 1, 2]]
    assert [segment.score for segment in result.segments] == [0.5, 0.75, 1.0]


@pytest.mark.parametrize('shape', [(0,), (3,)])
def test_nothing_found(shape):
    empty = RawSegmentation(np.zeros((2, 2), np.int16), np.zeros(shape, np.int64), np.zeros(shape, np.float32))
    result = list_segments(empty, VOCABULARY, (3, 5))
    assert result.segments == ()
    assert not result.panoptic_map.any()
    assert result.panoptic_map.shape == (3, 5)


def test_values_of_queries_without_pixels_do_not_matter():
    result = list_segments(raw([[1]], class_index=(0, -7, 99), score=(0.5, np.nan, np.inf)), VOCABULARY, (1, 1))
    assert len(result.segments) == 1


def test_rounding_errors_of_scores_are_cut():
    result = list_segments(raw([[1, 2]], score=(1.0000001, -1e-9, 0)), VOCABULARY, (1, 2))
    assert [segment.score for segment in result.segments] == [1.0, 0.0]
