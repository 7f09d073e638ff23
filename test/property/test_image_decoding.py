from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import pytest

from fisa_ros.core.errors import ImageError
from fisa_ros.node.image_decoding import ENCODINGS, decode_image

ORDER = {'rgb': [0, 1, 2], 'bgr': [2, 1, 0], 'rgba': [0, 1, 2, 3], 'bgra': [2, 1, 0, 3]}
LAYOUTS = [('rgb8', 'rgb', 1), ('bgr8', 'bgr', 1), ('rgba8', 'rgba', 1), ('bgra8', 'bgra', 1), ('8UC3', 'bgr', 1)]
LAYOUTS += [('rgb16', 'rgb', 2), ('bgr16', 'bgr', 2), ('8UC4', 'bgra', 1)]

sizes = st.integers(1, 9)
paddings = st.integers(0, 7)


def rows_with_padding(values: np.ndarray, padding: int, *, is_bigendian: bool) -> tuple[bytes, int]:
    """Lay out `(H, W, C)` as a camera would; the padding holds noise."""
    values = values.astype(values.dtype.newbyteorder('>' if is_bigendian else '<'))
    rows = np.frombuffer(values.tobytes(), np.uint8).reshape(len(values), -1)
    noise = np.full((len(rows), padding), 0xA5, np.uint8)
    padded = np.hstack([rows, noise])
    return padded.tobytes(), padded.shape[1]


def random_values(seed: int, shape: tuple[int, ...], value_bytes: int) -> np.ndarray:
    dtype = np.uint8 if value_bytes == 1 else np.uint16
    return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True)


def upper_byte(values: np.ndarray) -> np.ndarray:
    return values if values.dtype == np.uint8 else (values >> 8).astype(np.uint8)


@given(st.sampled_from(LAYOUTS), sizes, sizes, paddings, st.booleans(), st.integers(0, 2**32))
def test_colour_survives_any_layout(layout, height, width, padding, is_bigendian, seed) -> None:
    encoding, channels, value_bytes = layout
    rgba = random_values(seed, (height, width, 4), value_bytes)
    data, step = rows_with_padding(rgba[..., ORDER[channels]], padding, is_bigendian=is_bigendian)
    decoded = decode_image(data, encoding=encoding, size_wh=(width, height), step=step, is_bigendian=is_bigendian)
    assert decoded.flags.c_contiguous
    np.testing.assert_array_equal(decoded, upper_byte(rgba[..., :3]))


@given(st.sampled_from(['mono8', '8UC1', 'mono16']), sizes, sizes, paddings, st.booleans(), st.integers(0, 2**32))
def test_gray_becomes_three_equal_channels(encoding, height, width, padding, is_bigendian, seed) -> None:
    gray = random_values(seed, (height, width, 1), 2 if encoding == 'mono16' else 1)
    data, step = rows_with_padding(gray, padding, is_bigendian=is_bigendian)
    decoded = decode_image(data, encoding=encoding, size_wh=(width, height), step=step, is_bigendian=is_bigendian)
    np.testing.assert_array_equal(decoded, np.repeat(upper_byte(gray), 3, axis=2))


@given(
    st.sampled_from(['rggb', 'bggr', 'gbrg', 'grbg']),
    st.sampled_from([8, 16]),
    st.tuples(*[st.integers(0, 255)] * 3),
    st.integers(2, 4).map(lambda n: 2 * n),
    st.integers(2, 4).map(lambda n: 2 * n),
    paddings,
    st.booleans(),
)
def test_a_bayer_image_of_one_colour_has_that_colour(pattern, bits, rgb, height, width, padding, is_bigendian) -> None:
    tile = np.array([rgb['rgb'.index(letter)] for letter in pattern], np.uint8).reshape(2, 2)
    mosaic = np.tile(tile, (height // 2, width // 2))[..., None]
    values = mosaic if bits == 8 else mosaic.astype(np.uint16) * 256 + 17
    data, step = rows_with_padding(values, padding, is_bigendian=is_bigendian)
    decoded = decode_image(
        data, encoding=f'bayer_{pattern}{bits}', size_wh=(width, height), step=step, is_bigendian=is_bigendian
    )
    assert decoded.shape == (height, width, 3)
    np.testing.assert_array_equal(decoded, np.broadcast_to(np.array(rgb, np.uint8), decoded.shape))


@given(st.sampled_from(['yuv422', 'uyvy', 'yuv422_yuy2', 'yuyv']), sizes, sizes, paddings, st.integers(16, 235))
def test_gray_yuv_is_gray(encoding, height, half_width, padding, luma) -> None:
    pair = [128, luma] if encoding in ('yuv422', 'uyvy') else [luma, 128]
    values = np.broadcast_to(np.array(pair, np.uint8), (height, 2 * half_width, 2))
    data, step = rows_with_padding(values, padding, is_bigendian=False)
    decoded = decode_image(data, encoding=encoding, size_wh=(2 * half_width, height), step=step, is_bigendian=False)
    expected = round((luma - 16) * 255 / 219)
    assert decoded.shape == (height, 2 * half_width, 3)
    assert np.abs(decoded.astype(int) - expected).max() <= 1


@given(
    st.sampled_from(sorted(ENCODINGS)),
    st.integers(0, 6),
    st.integers(0, 6),
    st.integers(0, 64),
    st.integers(0, 400),
    st.booleans(),
)
def test_whatever_a_message_claims_is_decoded_or_refused(encoding, width, height, step, num_bytes, big) -> None:
    data = bytes(num_bytes)
    layout = ENCODINGS[encoding]
    fits = (
        min(width, height) >= 1
        and step >= width * layout.bytes_per_pixel
        and num_bytes == height * step
        and width % layout.columns_per_group == 0
    )
    if fits:
        decoded = decode_image(data, encoding=encoding, size_wh=(width, height), step=step, is_bigendian=big)
        assert decoded.shape == (height, width, 3)
        assert decoded.dtype == np.uint8
    else:
        with pytest.raises(ImageError, match=f'{encoding} image of {width}x{height}'):
            decode_image(data, encoding=encoding, size_wh=(width, height), step=step, is_bigendian=big)
