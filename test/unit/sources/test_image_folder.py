import cv2
import numpy as np
from PIL import Image
import pytest

from fisa_ros.core.errors import SourceError
from fisa_ros.sources.image_folder import ImageFolder


@pytest.fixture
def write(tmp_path, flags):
    def write_image(name, brightness=0):
        image = np.clip(flags.astype(int) + brightness, 0, 255).astype(np.uint8)
        assert cv2.imwrite(str(tmp_path / name), image[..., ::-1])
        return image

    return write_image


def test_numbers_sort_as_numbers(tmp_path, write):
    for name in ('b2.png', 'b10.png', 'a.png', 'B1.png', '3.png', '20.png'):
        write(name)
    (tmp_path / 'notes.txt').write_text('no image')
    frames = list(ImageFolder(tmp_path, 4.0).frames())
    assert [frame.name for frame in frames] == ['3.png', '20.png', 'a.png', 'B1.png', 'b2.png', 'b10.png']
    assert [frame.time_ns for frame in frames] == [250_000_000 * number for number in range(6)]


def test_names_can_be_times(tmp_path, write):
    for name in ('1305031102.2.png', '1305031102.175304.png', 'left_1305031102211000001.png'):
        write(name)
    frames = list(ImageFolder(tmp_path).frames())
    assert [frame.time_ns for frame in frames] == [1305031102_175304000, 1305031102_200000000, 1305031102_211000001]


@pytest.mark.parametrize('suffix', ['bmp', 'gif', 'jpg', 'JPEG', 'png', 'ppm', 'tiff', 'webp'])
def test_formats(tmp_path, flags, suffix):
    Image.fromarray(flags).save(tmp_path / f'image.{suffix}')
    [frame] = ImageFolder(tmp_path, 1.0).frames()
    assert np.abs(frame.image.astype(int) - flags).mean() < 6
    assert (frame.image.dtype, frame.image.shape) == (np.uint8, flags.shape)


def test_one_file_is_a_folder_of_one(tmp_path, write):
    image = write('one.png', 40)
    [frame] = ImageFolder(tmp_path / 'one.png', 1.0).frames()
    np.testing.assert_array_equal(frame.image, image)


def test_what_cannot_be_read_is_left_out_and_counted(tmp_path, write, caplog):
    for number in range(3):
        write(f'{number}.png')
    (tmp_path / '1.png').write_bytes((tmp_path / '0.png').read_bytes()[:40])
    folder = ImageFolder(tmp_path, 2.0)
    for passes in (1, 2):
        assert [frame.time_ns for frame in folder.frames()] == [0, 1_000_000_000]
        assert folder.skipped == passes
    assert '1.png cannot be read as an image' in caplog.text
    for number in (0, 2):
        (tmp_path / f'{number}.png').write_bytes(b'')
    with pytest.raises(SourceError, match=r'none of the 3 images in .* can be read'):
        list(folder.frames())


@pytest.mark.parametrize('suffix', ['jpg', 'png'])
@pytest.mark.parametrize('share', [0.5, 0.99])
def test_a_file_that_was_half_written_is_left_out(tmp_path, flags, caplog, suffix, share):
    noise = np.random.default_rng(5).integers(0, 256, flags.shape, np.uint8)
    whole = tmp_path / f'0.{suffix}'
    thumbnail = Image.fromarray(flags[:60, :80])
    thumbnail.save(tmp_path / 'small.jpeg')
    # Cameras put a small picture, whole and with its own end, before the pixels.
    exif = b'Exif\0\0' + (tmp_path / 'small.jpeg').read_bytes()
    Image.fromarray(noise).save(whole, **({'exif': exif} if suffix == 'jpg' else {}))
    (tmp_path / 'small.jpeg').unlink()
    content = whole.read_bytes()
    (tmp_path / f'1.{suffix}').write_bytes(content[: int(len(content) * share)])
    (tmp_path / f'2.{suffix}').write_bytes(content[:-1])
    (tmp_path / f'3.{suffix}').write_bytes(content + b'\0\0film')
    folder = ImageFolder(tmp_path, 1.0)
    assert [frame.name for frame in folder.frames()] == [f'0.{suffix}', f'3.{suffix}']
    assert f'1.{suffix} cannot be read as an image: its end is missing' in caplog.text


@pytest.mark.parametrize(
    'name',
    ['2024112614305512', '20241126143055123', '202411261430551234', '9223372036854775807', '130503110221100000012'],
)
def test_a_long_number_is_not_always_a_time(tmp_path, write, name):
    write(f'{name}.png')
    with pytest.raises(SourceError, match='give the rate of the images, rate_hz'):
        ImageFolder(tmp_path)


def test_errors(tmp_path, write):
    with pytest.raises(SourceError, match='no image in'):
        ImageFolder(tmp_path, 1.0)
    write('image_1.png')
    with pytest.raises(SourceError, match=r'name of .*image_1.png is no time .* give the rate of the images, rate_hz'):
        ImageFolder(tmp_path)
