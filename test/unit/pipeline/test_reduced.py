import re

from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import pytest

from fisa_ros.core.results import PanopticResult, Segment
from fisa_ros.pipeline.reduced import reduce_map, reduce_result, reduced_size

sizes = st.tuples(st.integers(1, 60), st.integers(1, 60))


@pytest.mark.parametrize(
    ('size_hw', 'width', 'expected'),
    [
        ((480, 640), 320, (240, 320)),
        ((720, 1280), 400, (225, 400)),
        ((480, 640), 640, (480, 640)),
        ((480, 640), 10_000, (480, 640)),
        ((240, 424), 200, (113, 200)),
        ((3, 1000), 1, (1, 1)),
    ],
)
def test_the_size_keeps_the_aspect(size_hw, width, expected) -> None:
    assert reduced_size(size_hw, width) == expected


def test_a_width_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match='width must be at least 1, got 0'):
        reduced_size((480, 640), 0)


def test_pixels_are_those_at_the_centres() -> None:
    columns = np.arange(9, dtype=np.uint16)[None]
    np.testing.assert_array_equal(reduce_map(columns, (1, 3)), [[1, 4, 7]])
    # Halfway between two the later one is taken.
    np.testing.assert_array_equal(reduce_map(columns[:, :8], (1, 4)), [[1, 3, 5, 7]])
    np.testing.assert_array_equal(reduce_map(columns.T, (1, 1)), [[4]])


@given(sizes, st.data())
def test_every_pixel_is_a_nearest_one(full_hw, data) -> None:
    size_hw = tuple(data.draw(st.integers(1, full)) for full in full_hw)
    ys, xs = np.indices(full_hw, np.int32)
    for axis, coordinates in enumerate((ys, xs)):
        found = reduce_map(coordinates, size_hw) + 0.5
        centres = (np.arange(size_hw[axis]) + 0.5) * full_hw[axis] / size_hw[axis]
        offsets = found - (centres[:, None] if axis == 0 else centres)
        assert np.abs(offsets).max() <= 0.5 + 1e-9


def test_maps_of_one_image_stay_aligned() -> None:
    rng = np.random.default_rng(0)
    mask = rng.integers(0, 255, (37, 53)).astype(np.uint8)
    points = np.repeat(mask[..., None], 3, axis=2).astype(np.float32)
    points[mask == 0] = np.nan
    cloud = np.zeros(mask.shape, np.dtype([('x', '<f4'), ('class_id', '<u2')]))
    cloud['class_id'] = mask
    reduced = reduce_map(mask, (11, 20))
    assert (reduced.dtype, reduced.shape) == (np.uint8, (11, 20))
    np.testing.assert_array_equal(reduce_map(cloud, (11, 20))['class_id'], reduced)
    expected = np.where(reduced[..., None] == 0, np.nan, reduced[..., None] * np.ones(3))
    np.testing.assert_array_equal(reduce_map(points, (11, 20)), expected)


def test_the_full_size_costs_nothing() -> None:
    mask = np.zeros((4, 5), np.uint8)
    assert reduce_map(mask, (4, 5)) is mask


@pytest.mark.parametrize('size_hw', [(5, 5), (4, 6), (0, 5), (4, 0)])
def test_sizes_that_are_no_reduction_are_refused(size_hw) -> None:
    with pytest.raises(ValueError, match=re.escape(f'from (1, 1) to (4, 5), got {size_hw}')):
        reduce_map(np.zeros((4, 5), np.uint8), size_hw)


def test_the_maps_of_a_reduced_result_are_those_of_the_result_reduced() -> None:
    panoptic_map = np.random.default_rng(0).integers(0, 4, (48, 64)).astype(np.uint16)
    segments = tuple(Segment(number, 10 * number, 'box', True, 0.25 * number, 9, (0, 0, 3, 3)) for number in (1, 2, 3))
    result = PanopticResult(panoptic_map, segments, 7)
    reduced = reduce_result(result, 20)
    assert (reduced.segments, reduced.vocabulary_version) == (segments, 7)
    for name in ('panoptic_map', 'semantic_map', 'confidence_map'):
        np.testing.assert_array_equal(getattr(reduced, name), reduce_map(getattr(result, name), (15, 20)))
    np.testing.assert_array_equal(reduce_result(result, 1000).panoptic_map, panoptic_map)
