import numpy as np
import pytest

from fisa_ros.core.placement import STRETCH, Resize
from fisa_ros.core.results import Segment
from fisa_ros.core.vocabulary import Vocabulary, VocabularyClass
from fisa_ros.pipeline.segments import list_segments
from fisa_ros.runtime.backend import RawSegmentation

VOCABULARY = Vocabulary(6, (VocabularyClass(9, ('cat',), True), VocabularyClass(4, ('sky', 'air'), False)))


def stretched(height, width):
    return STRETCH.place((height, width), (1, 1))


def raw(query_map, class_index=(0, 1, 0), score=(0.5, 0.75, 1.0)):
    return RawSegmentation(np.array(query_map, np.int32), np.array(class_index), np.array(score, np.float32))


def test_segments_at_the_same_size():
    result = list_segments(raw([[2, 2, 0], [2, 3, 0]]), VOCABULARY, stretched(2, 3))
    assert result.panoptic_map.tolist() == [[1, 1, 0], [1, 2, 0]]
    assert result.panoptic_map.dtype == np.uint16
    assert result.vocabulary_version == 6
    assert result.segments == (
        Segment(1, 4, 'sky', False, 0.75, 3, (0, 0, 2, 2)),
        Segment(2, 9, 'cat', True, 1.0, 1, (1, 1, 2, 2)),
    )


def test_enlarged():
    result = list_segments(raw([[1, 0], [0, 3]]), VOCABULARY, stretched(4, 6))
    assert result.panoptic_map.tolist() == [[1, 1, 1, 0, 0, 0]] * 2 + [[0, 0, 0, 2, 2, 2]] * 2
    assert [(segment.area, segment.box_xyxy) for segment in result.segments] == [(6, (0, 0, 3, 2)), (6, (3, 2, 6, 4))]


def test_shrunk_segments_may_vanish():
    result = list_segments(raw([[1, 2, 2, 2]]), VOCABULARY, stretched(1, 2))
    assert result.panoptic_map.tolist() == [[1, 1]]
    assert [segment.class_name for segment in result.segments] == ['sky']


def test_equal_areas_keep_the_order_of_the_queries():
    result = list_segments(raw([[3, 1, 2]]), VOCABULARY, stretched(1, 3))
    assert result.panoptic_map.tolist() == [[3, 1, 2]]
    assert [segment.score for segment in result.segments] == [0.5, 0.75, 1.0]


@pytest.mark.parametrize('shape', [(0,), (3,)])
def test_nothing_found(shape):
    empty = RawSegmentation(np.zeros((2, 2), np.int16), np.zeros(shape, np.int64), np.zeros(shape, np.float32))
    result = list_segments(empty, VOCABULARY, stretched(3, 5))
    assert result.segments == ()
    assert not result.panoptic_map.any()
    assert result.panoptic_map.shape == (3, 5)


def test_values_of_queries_without_pixels_do_not_matter():
    result = list_segments(
        raw([[1]], class_index=(0, -7, 99), score=(0.5, np.nan, np.inf)), VOCABULARY, stretched(1, 1)
    )
    assert len(result.segments) == 1


def test_rounding_errors_of_scores_are_cut():
    result = list_segments(raw([[1, 2]], score=(1.0000001, -1e-9, 0)), VOCABULARY, stretched(1, 2))
    assert [segment.score for segment in result.segments] == [1.0, 0.0]


SIZES_HW = [(480, 640), (1080, 1920), (640, 480), (77, 333), (1, 1), (2, 16384)]


@pytest.mark.parametrize('size_hw', SIZES_HW)
@pytest.mark.parametrize('grid_hw', [(160, 160), (320, 320), (37, 41)])
@pytest.mark.parametrize('kind', ['pad', 'stretch'])
def test_what_is_known_comes_back_to_its_place(size_hw, grid_hw, kind):
    placement = Resize(kind).place(size_hw, (640, 640))
    # Part 1 is left of a line, part 2 below another, part 3 the rest; the padding is part 4.
    lines = [0.3 * side for side in size_hw]
    cell_hw = [side / placement.content_cells(axis, grid_hw[axis]) for axis, side in enumerate(size_hw)]
    cell_y, cell_x = ((np.arange(cells) + 0.5) * size for cells, size in zip(grid_hw, cell_hw, strict=True))
    query_map = np.full(grid_hw, 3, np.int32)
    query_map[cell_y > lines[0]] = 2
    query_map[:, cell_x < lines[1]] = 1
    query_map[cell_y > size_hw[0]] = 4
    query_map[:, cell_x > size_hw[1]] = 4
    result = list_segments(raw(query_map, (0, 0, 0, 0), (0.25, 0.5, 0.75, 1.0)), VOCABULARY, placement)
    part_of = np.array([0, *(round(4 * segment.score) for segment in result.segments)])
    found = part_of[result.panoptic_map]
    y, x = np.arange(size_hw[0])[:, None] + 0.5, np.arange(size_hw[1])[None] + 0.5
    expected = np.where(x < lines[1], 1, np.where(y > lines[0], 2, 3))
    is_near_line = (np.abs(x - lines[1]) <= cell_hw[1] / 2) | (np.abs(y - lines[0]) <= cell_hw[0] / 2)
    is_near_border = (x >= size_hw[1] - cell_hw[1] / 2) | (y >= size_hw[0] - cell_hw[0] / 2)
    assert (found == expected)[~is_near_line & ~is_near_border].all()
    assert (found != 4)[~is_near_border].all()
    for segment in result.segments:
        pixels = result.panoptic_map == segment.id
        rows, columns = np.flatnonzero(pixels.any(1)), np.flatnonzero(pixels.any(0))
        assert segment.area == pixels.sum() > 0
        assert segment.box_xyxy == (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)


def test_what_lies_in_the_padding_alone_vanishes():
    # The image is twice as wide as high: the lower half of the map is padding, with the most of part 1.
    query_map = [[2, 2, 2, 1], [2, 2, 2, 1], [1, 1, 1, 1], [3, 3, 1, 1]]
    result = list_segments(raw(query_map), VOCABULARY, Resize('pad').place((4, 8), (16, 16)))
    assert result.panoptic_map.tolist() == [[1, 1, 1, 1, 1, 1, 2, 2]] * 4
    assert result.segments == (
        Segment(1, 4, 'sky', False, 0.75, 24, (0, 0, 6, 4)),
        Segment(2, 9, 'cat', True, 0.5, 8, (6, 0, 8, 4)),
    )
