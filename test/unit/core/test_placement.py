from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import pytest

from fisa_ros.core.placement import STRETCH, Placement, Resize

PAD = Resize('pad')
SIDES = st.integers(1, 5000)


@pytest.mark.parametrize(
    ('image_hw', 'content_hw'),
    [
        ((480, 640), (480, 640)),
        ((1080, 1920), (360, 640)),
        ((640, 480), (640, 480)),
        ((77, 333), (148, 640)),
        ((1, 1), (640, 640)),
        ((2, 16384), (1, 640)),
        ((16384, 2), (640, 1)),
        # 426.5 is rounded up, where round() takes the even one.
        ((853, 1280), (427, 640)),
    ],
)
def test_the_longest_side_fills_the_input(image_hw, content_hw):
    placement = PAD.place(image_hw, (640, 640))
    assert placement == Placement(image_hw, content_hw, (640, 640))
    assert placement.transposed == PAD.place(image_hw[::-1], (640, 640))
    assert placement.is_whole == (content_hw == (640, 640))
    assert STRETCH.place(image_hw, (640, 640)).is_whole


def test_an_input_that_is_no_square():
    assert PAD.place((100, 100), (48, 64)).content_hw == (48, 48)
    assert PAD.place((100, 200), (48, 64)).content_hw == (32, 64)
    assert PAD.place((48, 64), (48, 64)).is_whole
    assert Resize('pad', (1, 2, 3)).place((100, 200), (48, 64)).pad_rgb == (1, 2, 3)


@given(SIDES, SIDES, st.integers(1, 700), st.integers(1, 700))
def test_proportions_are_kept_to_half_a_pixel(height, width, rows, columns):
    content = PAD.place((height, width), (rows, columns)).content_hw
    assert 1 <= content[0] <= rows
    assert 1 <= content[1] <= columns
    assert content[0] == rows or content[1] == columns
    scale = min(rows / height, columns / width)
    for side, whole in zip(content, (height, width), strict=True):
        assert side == 1 or abs(side - whole * scale) <= 0.5 + 1e-6


@given(SIDES, SIDES, st.integers(1, 200))
def test_a_pixel_takes_the_cell_in_which_its_centre_lies(height, width, cells):
    placement = PAD.place((height, width), (640, 640))
    for axis, size in enumerate((height, width)):
        nearest = placement.nearest_cells(axis, cells)
        centres = (np.arange(size) + 0.5) * placement.content_cells(axis, cells) / size
        assert nearest.shape == (size,)
        assert (np.abs(nearest + 0.5 - centres) <= 0.5 + 1e-6).all()
        assert nearest.max() < placement.shown_cells(axis, cells) <= cells


@given(SIDES, SIDES)
def test_the_share_of_the_input_tells_the_content(height, width):
    placement = PAD.place((height, width), (480, 640))
    alone = Placement.shown_of(placement.shown_hw, (480, 640))
    assert (alone.content_hw, alone.input_hw, alone.image_hw) == (placement.content_hw, (480, 640), alone.content_hw)


def test_the_mirror_image_keeps_its_padding_at_the_right():
    placement = PAD.place((40, 20), (32, 32))
    assert placement.content_hw == (32, 16)
    assert placement.mirrored_cells(8).tolist() == [3, 2, 1, 0, 4, 5, 6, 7]
    # The image takes 3.5 cells, whose centres meet borders.
    assert PAD.place((64, 28), (64, 64)).mirrored_cells(8).tolist() == [3, 2, 1, 0, 4, 5, 6, 7]
    assert STRETCH.place((40, 20), (32, 32)).mirrored_cells(4).tolist() == [3, 2, 1, 0]


def test_what_is_shown_is_a_view_of_the_cells_with_content():
    placement = PAD.place((21, 40), (40, 40))
    maps = np.zeros((3, 10, 10))
    # 5.25 of 10 rows.
    assert placement.shown(maps).shape == (3, 6, 10)
    assert np.shares_memory(placement.shown(maps), maps)
    assert STRETCH.place((21, 40), (40, 40)).shown(maps).shape == maps.shape
