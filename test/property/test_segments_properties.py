from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
import numpy as np

from fisa_ros.core.placement import STRETCH
from fisa_ros.core.vocabulary import Vocabulary, VocabularyClass
from fisa_ros.pipeline.segments import list_segments
from fisa_ros.runtime.backend import RawSegmentation

NUM_QUERIES = 6
SIZES = st.integers(1, 40)
QUERY_MAPS = hnp.arrays(
    st.sampled_from([np.int16, np.int32]),
    st.tuples(st.integers(1, 12), st.integers(1, 12)),
    elements=st.integers(0, NUM_QUERIES),
)
VOCABULARY = Vocabulary(1, tuple(VocabularyClass(10 + i, (f'w{i}',), i % 2 == 0) for i in range(4)))


def stretched(height, width):
    return STRETCH.place((height, width), (1, 1))


def raw(query_map):
    score = np.linspace(0, 1, NUM_QUERIES, dtype=np.float32)
    return RawSegmentation(query_map, np.arange(NUM_QUERIES) % 4, score)


@given(QUERY_MAPS, SIZES, SIZES)
def test_the_list_describes_the_map(query_map, height, width):
    result = list_segments(raw(query_map), VOCABULARY, stretched(height, width))
    assert result.panoptic_map.shape == (height, width)
    assert set(np.unique(result.panoptic_map)) - {0} == {segment.id for segment in result.segments}
    assert [segment.id for segment in result.segments] == list(range(1, len(result.segments) + 1))
    areas = [segment.area for segment in result.segments]
    assert areas == sorted(areas, reverse=True)
    assert sum(areas) + np.count_nonzero(result.panoptic_map == 0) == height * width
    for segment in result.segments:
        ys, xs = np.nonzero(result.panoptic_map == segment.id)
        assert segment.area == len(xs)
        assert segment.box_xyxy == (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1)


@given(QUERY_MAPS, SIZES, SIZES)
def test_each_pixel_has_the_query_under_its_centre(query_map, height, width):
    result = list_segments(raw(query_map), VOCABULARY, stretched(height, width))
    rows = np.floor((np.arange(height) + 0.5) * query_map.shape[0] / height + 1e-9).astype(int)
    columns = np.floor((np.arange(width) + 0.5) * query_map.shape[1] / width + 1e-9).astype(int)
    expected = query_map[np.ix_(rows, columns)]
    class_of = np.array([0, *(VOCABULARY.classes[i % 4].id for i in range(NUM_QUERIES))])
    np.testing.assert_array_equal(result.semantic_map, class_of[expected])


@given(QUERY_MAPS, st.permutations(range(NUM_QUERIES)))
def test_the_order_of_queries_changes_at_most_the_ids(query_map, order):
    plain = raw(query_map)
    place = np.argsort(order)
    permuted = RawSegmentation(
        np.concatenate([[0], place + 1])[query_map], plain.class_index[list(order)], plain.score[list(order)]
    )
    one, other = (list_segments(each, VOCABULARY, stretched(20, 20)) for each in (plain, permuted))
    np.testing.assert_array_equal(one.semantic_map, other.semantic_map)
    np.testing.assert_array_equal(one.confidence_map, other.confidence_map)


@given(QUERY_MAPS, st.permutations(range(4)))
def test_the_order_of_classes_does_not_matter(query_map, order):
    plain = raw(query_map)
    shuffled = Vocabulary(1, tuple(VOCABULARY.classes[row] for row in order))
    permuted = RawSegmentation(query_map, np.argsort(order)[plain.class_index], plain.score)
    one = list_segments(plain, VOCABULARY, stretched(20, 20))
    other = list_segments(permuted, shuffled, stretched(20, 20))
    assert one.segments == other.segments
    np.testing.assert_array_equal(one.panoptic_map, other.panoptic_map)
