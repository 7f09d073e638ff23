import array

import numpy as np
import pytest

from fisa_ros.core.errors import ImageError
from fisa_ros.node.image_decoding import decode_image


def test_tight_rgb_is_a_view_of_the_message() -> None:
    data = array.array('B', bytes(range(24)))
    decoded = decode_image(data, encoding='rgb8', size_wh=(4, 2), step=12, is_bigendian=False)
    assert np.shares_memory(decoded, np.frombuffer(data, np.uint8))
    assert decoded[1, 0].tolist() == [12, 13, 14]


def test_the_same_red_in_uyvy_and_yuyv() -> None:
    # BT.601: Y 82, U 90, V 240.
    uyvy = decode_image(bytes([90, 82, 240, 82]), encoding='yuv422', size_wh=(2, 1), step=4, is_bigendian=False)
    yuyv = decode_image(bytes([82, 90, 82, 240]), encoding='yuv422_yuy2', size_wh=(2, 1), step=4, is_bigendian=False)
    np.testing.assert_array_equal(uyvy, yuyv)
    assert np.abs(uyvy.astype(int) - [255, 0, 0]).max() <= 2


@pytest.mark.parametrize(
    ('encoding', 'size_wh', 'step', 'num_bytes', 'text'),
    [
        ('rgb8', (0, 4), 0, 0, 'rgb8 image of 0x4 pixels has no pixels'),
        ('rgb8', (4, 0), 12, 0, 'rgb8 image of 4x0 pixels has no pixels'),
        ('rgb8', (4, 2), 11, 22, 'rgb8 image of 4x2 pixels: step is 11 bytes, a row needs 12'),
        ('rgb8', (4, 2), 0, 24, 'rgb8 image of 4x2 pixels: step is 0 bytes, a row needs 12'),
        ('rgb8', (4, 2), 12, 23, 'rgb8 image of 4x2 pixels: 23 bytes of data, 2 rows of step 12 are 24'),
        ('rgb8', (4, 2), 12, 25, 'rgb8 image of 4x2 pixels: 25 bytes of data, 2 rows of step 12 are 24'),
        ('rgb8', (4, 2), 12, 0, 'rgb8 image of 4x2 pixels: 0 bytes of data, 2 rows of step 12 are 24'),
        ('mono16', (4, 2), 4, 8, 'mono16 image of 4x2 pixels: step is 4 bytes, a row needs 8'),
        ('yuv422', (3, 2), 6, 12, 'yuv422 image of 3x2 pixels: the width must be a multiple of 2'),
        ('rgb8', (2**31, 2**31), 3 * 2**31, 24, f'24 bytes of data, {2**31} rows'),
        ('32FC1', (4, 2), 16, 32, "encoding '32FC1' is not supported"),
        ('16UC1', (4, 2), 8, 16, "encoding '16UC1' is not supported"),
        ('RGB8', (4, 2), 12, 24, "encoding 'RGB8' is not supported"),
        ('', (4, 2), 12, 24, "encoding '' is not supported; supported are rgb8, bgr8"),
        ('rgb-8', (4, 2), 12, 24, "encoding 'rgb-8' is not supported, did you mean 'rgb8'"),
    ],
)
def test_what_contradicts_itself_is_refused(encoding, size_wh, step, num_bytes, text) -> None:
    with pytest.raises(ImageError, match=text):
        decode_image(bytes(num_bytes), encoding=encoding, size_wh=size_wh, step=step, is_bigendian=False)
