import cv2
import numpy as np
import pytest

from fisa_ros.core.placement import STRETCH, Resize
from fisa_ros.pipeline.image_scaling import image_values, place_image, scale_image

PAD = Resize('pad')


def noise(height, width):
    return np.random.default_rng(0).integers(1, 256, (height, width, 3), np.uint8)


def test_shrinking_is_antialiased():
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    means = noise.reshape(16, 4, 16, 4, 3).mean(axis=(1, 3))
    np.testing.assert_allclose(scale_image(noise, (16, 16)), means, atol=1)


def test_shrinking_one_side_and_enlarging_the_other():
    noise = np.broadcast_to(np.random.default_rng(0).integers(0, 256, (1, 64, 3), np.uint8), (4, 64, 3))
    means = np.broadcast_to(noise[0].reshape(16, 4, 3).mean(axis=1), (16, 16, 3))
    np.testing.assert_allclose(scale_image(noise, (16, 16)), means, atol=1)


def test_an_image_of_the_right_size_is_copied_only_where_it_must_be():
    image = np.zeros((16, 16, 3), np.uint8)
    assert scale_image(image, (16, 16)) is image
    for view in (image[:, ::-1], np.frombuffer(image.tobytes(), np.uint8).reshape(16, 16, 3)):
        scaled = scale_image(view, (16, 16))
        assert scaled.flags.c_contiguous
        assert scaled.flags.writeable


def test_a_stretched_image_is_a_scaled_one():
    for image in (noise(40, 30), noise(16, 16)):
        placed = place_image(image, STRETCH.place(image.shape[:2], (16, 16)))
        np.testing.assert_array_equal(placed, scale_image(image, (16, 16)))
    assert place_image(image, STRETCH.place((16, 16), (16, 16))) is image


@pytest.mark.parametrize('size_hw', [(48, 64), (30, 90), (90, 30), (20, 10), (1, 7), (700, 2), (32, 16), (32, 32)])
@pytest.mark.parametrize('pad_rgb', [(0, 0, 0), (124, 116, 104)])
def test_a_padded_image_lies_at_the_top_left(size_hw, pad_rgb):
    image = noise(*size_hw)
    # A view, as a camera with another order of colours gives it.
    for given in (image, image[:, :, ::-1]):
        placement = Resize('pad', pad_rgb).place(size_hw, (32, 32))
        placed = place_image(given, placement)
        height, width = placement.content_hw
        np.testing.assert_array_equal(placed[:height, :width], scale_image(given, placement.content_hw))
        assert placed.shape == (32, 32, 3)
        assert (placed[height:] == pad_rgb).all()
        assert (placed[:, width:] == pad_rgb).all()
        assert placed.flags.c_contiguous
        assert placed.flags.writeable


def test_values_of_cells_come_back_to_the_pixels_they_are_of():
    # A plane, which bilinear interpolation keeps but for the borders.
    placement = PAD.place((60, 120), (64, 64))
    values = np.add.outer(3 * np.arange(16, dtype=np.float32), np.arange(16, dtype=np.float32))
    found = image_values(values, placement)
    assert found.shape == (60, 120)
    rows, columns = ((np.arange(size) + 0.5) * 16 / 120 - 0.5 for size in (60, 120))
    expected = np.add.outer(3 * rows, columns)
    np.testing.assert_allclose(found[8:52, 8:-8], expected[8:52, 8:-8], atol=0.05)
    stretched = image_values(values, STRETCH.place((60, 120), (64, 64)))
    np.testing.assert_array_equal(stretched, cv2.resize(values, (120, 60), interpolation=cv2.INTER_LINEAR))
