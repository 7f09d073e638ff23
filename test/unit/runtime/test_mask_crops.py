import numpy as np
import pytest

from fisa_ros.core.errors import ImageError
from fisa_ros.core.placement import STRETCH, Placement
from fisa_ros.runtime.mask_crops import enlarged_window, mask_box, mask_crops

INSIDE, OUTSIDE = 8.0, -8.0


def whole(size):
    return STRETCH.place((size, size), (size, size))


def position_image(size=64):
    """Red says the column, green the row of each pixel."""
    image = np.zeros((size, size, 3), np.uint8)
    image[..., 0], image[..., 1] = np.arange(size), np.arange(size)[:, None]
    return image


def logits_of(*boxes, cells=16):
    logits = np.full((len(boxes), cells, cells), OUTSIDE, np.float32)
    for mask, (x0, y0, x1, y1) in zip(logits, boxes, strict=True):
        mask[y0:y1, x0:x1] = INSIDE
    return logits


def cut(image, logits, size_hw, context=1.0, threshold=0.5):
    return mask_crops(image, logits, size_hw=size_hw, mask_threshold=threshold, context=context, placement=whole(64))


def test_a_crop_is_the_box_of_its_mask():
    image = position_image()
    # Cells of 4 pixels: columns 8..24, rows 12..28.
    crops, crop_of_mask = cut(image, logits_of((2, 3, 6, 7)), (16, 16))
    np.testing.assert_array_equal(crops, image[None, 12:28, 8:24])
    assert crop_of_mask.tolist() == [0]


def test_each_side_is_stretched_by_itself():
    crops, _ = cut(position_image(), logits_of((0, 4, 16, 6)), (32, 32))
    assert crops.shape == (1, 32, 32, 3)
    red, green = crops[0, 16, :, 0].astype(int), crops[0, :, 16, 1].astype(int)
    # 64 columns shrink to 32, 8 rows grow to 32.
    np.testing.assert_allclose(red, np.arange(32) * 2 + 0.5, atol=1)
    np.testing.assert_allclose(green, np.clip((np.arange(32) + 0.5) / 4 - 0.5, 0, 7) + 16, atol=1)


@pytest.mark.parametrize(
    ('box', 'context', 'window'),
    [
        ((4, 4, 8, 8), 1.0, (16, 16, 32, 32)),
        ((4, 4, 8, 8), 1.5, (12, 12, 36, 36)),
        ((4, 6, 8, 8), 2.0, (8, 20, 40, 36)),
        ((4, 4, 5, 5), 1.25, (15, 15, 21, 21)),
        ((0, 0, 4, 4), 1.5, (0, 0, 20, 20)),
        ((14, 12, 16, 16), 2.0, (52, 40, 64, 64)),
        ((0, 0, 16, 16), 3.0, (0, 0, 64, 64)),
    ],
)
def test_windows_grow_about_their_centre_and_end_at_the_borders(box, context, window):
    assert enlarged_window(box, (16, 16), whole(64), context) == window


def test_a_cell_thinner_than_a_pixel_has_a_window():
    x0, y0, x1, y1 = enlarged_window((3, 5, 4, 6), (100, 100), whole(10), 1.0)
    assert x1 - x0 == 1
    assert y1 - y0 == 1


def test_boxes_hold_every_part_of_a_mask():
    mask = np.zeros((8, 8), np.bool_)
    assert mask_box(mask) is None
    mask[1, 2] = mask[6, 5] = True
    assert mask_box(mask) == (2, 1, 6, 7)


def test_empty_masks_share_the_whole_image():
    image = position_image()
    crops, crop_of_mask = cut(image, logits_of((0, 0, 0, 0), (2, 3, 6, 7), (0, 0, 0, 0)), (64, 64))
    assert crop_of_mask.tolist() == [1, 0, 1]
    assert len(crops) == 2
    np.testing.assert_array_equal(crops[1], image)


def test_no_mask_is_no_crop():
    crops, crop_of_mask = cut(position_image(), logits_of(), (16, 16))
    assert crops.shape == (0, 16, 16, 3)
    assert crop_of_mask.shape == (0,)


def test_the_threshold_decides_what_is_in_the_box():
    logits = logits_of((2, 3, 6, 7))
    logits[0, 3:7, 6:10] = 1.0  # Probability 0.73.
    image = position_image()
    for threshold, right in ((0.5, 40), (0.8, 24)):
        crops, _ = cut(image, logits, (16, 32), threshold=threshold)
        assert abs(int(crops[0, 0, -1, 0]) - (right - 1)) <= 1
    crops, crop_of_mask = cut(image, logits, (64, 64), threshold=1.0)
    np.testing.assert_array_equal(crops[crop_of_mask[0]], image)


@pytest.mark.parametrize('context', [0.99, 0.0, float('nan')])
def test_contexts_that_cut_the_mask_are_refused(context):
    with pytest.raises(ImageError, match=f'must be at least 1, got {context}'):
        cut(position_image(), logits_of((2, 3, 6, 7)), (16, 16), context)


def test_crops_end_where_the_padding_begins():
    image = position_image()
    image[40:] = 0
    placement = Placement((40, 64), (40, 64), (64, 64))
    # A mask that reaches into the padding, one that is nowhere else, and an empty one.
    logits = logits_of((2, 8, 6, 12), (2, 11, 6, 16), (0, 0, 0, 0))
    arguments = {'size_hw': (8, 16), 'mask_threshold': 0.5, 'context': 1.0, 'placement': placement}
    crops, crop_of_mask = mask_crops(image, logits, **arguments)
    np.testing.assert_array_equal(crops[0], image[32:40, 8:24])
    assert crop_of_mask.tolist() == [0, 1, 1]
    assert crops[1, :, :, 1].max() > 35
    assert (crops[1, -1, :, 1] > 35).all()
    arguments['context'] = 2.0
    assert (mask_crops(image, logits, **arguments)[0][0, -1, :, 1] > 35).all()
