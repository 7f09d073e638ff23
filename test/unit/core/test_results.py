from dataclasses import replace
import re

import numpy as np
import pytest

from fisa_ros.core.results import PanopticResult, Segment

SEGMENT = Segment(1, 7, 'cat', True, 0.5, 2, (0, 0, 2, 1))


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'id': 0}, 'id must be in 1..65535, got 0'),
        ({'id': 65536}, 'id must be in 1..65535, got 65536'),
        ({'class_id': 0}, 'class_id must be in 1..65535, got 0'),
        ({'score': 1.01}, 'score must be in [0, 1], got 1.01'),
        ({'score': float('nan')}, 'score must be in [0, 1], got nan'),
        ({'area': 0}, 'area must be at least 1, got 0'),
    ],
)
def test_segment_refuses(changes, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        replace(SEGMENT, **changes)


@pytest.mark.parametrize(
    ('panoptic_map', 'segments', 'message'),
    [
        (np.zeros((2, 2, 1), np.uint16), (), 'must be (H, W) uint16, got (2, 2, 1) uint16'),
        (np.zeros((2, 2), np.int32), (), 'must be (H, W) uint16, got (2, 2) int32'),
        (np.zeros((2, 2), np.uint16), (SEGMENT, SEGMENT), 'must be unique and ascending, got [1, 1]'),
        (np.zeros((2, 2), np.uint16), (replace(SEGMENT, id=2), SEGMENT), 'must be unique and ascending, got [2, 1]'),
    ],
)
def test_result_refuses(panoptic_map, segments, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        PanopticResult(panoptic_map, segments, 1)


def test_maps_follow_from_the_segments():
    panoptic_map = np.array([[1, 1, 0], [9, 9, 9]], np.uint16)
    other = Segment(9, 300, 'sky', False, 0.001, 3, (0, 1, 3, 2))
    result = PanopticResult(panoptic_map, (SEGMENT, other), 4)
    assert result.semantic_map.tolist() == [[7, 7, 0], [300, 300, 300]]
    assert result.semantic_map.dtype == np.uint16
    assert result.confidence_map.tolist() == [[128, 128, 0], [1, 1, 1]]
    assert result.confidence_map.dtype == np.uint8


def test_empty_result():
    result = PanopticResult.empty((2, 3), 5)
    assert result.panoptic_map.tolist() == [[0, 0, 0], [0, 0, 0]]
    assert result.semantic_map.shape == (2, 3)
    assert not result.confidence_map.any()
    assert result.segments == ()
    assert result.vocabulary_version == 5


@pytest.mark.parametrize('num_segments', [1, 255, 256])
@pytest.mark.parametrize('first_class', [1, 255, 256, 65279])
def test_maps_of_many_segments_and_large_ids(num_segments, first_class):
    ids = np.arange(num_segments + 1, dtype=np.uint16)
    # Not in the order of memory.
    panoptic_map = np.stack([ids, ids[::-1], np.roll(ids, 7)]).T
    segments = tuple(
        replace(SEGMENT, id=number, class_id=first_class + number % 256, score=number / num_segments)
        for number in range(1, num_segments + 1)
    )
    result = PanopticResult(panoptic_map, segments, 1)
    classes = {0: 0, **{segment.id: segment.class_id for segment in segments}}
    scores = {0: 0, **{segment.id: max(1, round(255 * segment.score)) for segment in segments}}
    assert result.semantic_map.tolist() == [[classes[value] for value in row] for row in panoptic_map.tolist()]
    assert result.confidence_map.tolist() == [[scores[value] for value in row] for row in panoptic_map.tolist()]
    assert (result.semantic_map.dtype, result.confidence_map.dtype) == (np.uint16, np.uint8)
    assert result.semantic_map.flags.writeable
