import cv2
import numpy as np
import pytest

from fisa_ros.core.errors import SourceError
from fisa_ros.sources.video_file import VideoFile


@pytest.fixture(params=['avi', 'mp4'])
def video(request, write_video):
    return write_video(request.param)


@pytest.fixture
def write_video(tmp_path, flags):
    return lambda suffix: write(tmp_path / f'flags.{suffix}', {'avi': 'MJPG', 'mp4': 'mp4v'}[suffix], flags)


def write(path, codec, flags):
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*codec), 20.0, (160, 120))
    assert writer.isOpened()
    for number in range(12):
        writer.write(np.roll(flags, 8 * number, axis=1)[..., ::-1])
    writer.release()
    return path


def test_images_come_at_the_times_of_the_container(video, flags):
    source = VideoFile(video)
    for _ in range(2):
        frames = list(source.frames())
        assert [frame.time_ns for frame in frames] == [50_000_000 * number for number in range(12)]
        for number, frame in enumerate(frames):
            assert np.abs(frame.image.astype(int) - np.roll(flags, 8 * number, axis=1)).mean() < 10
    assert source.skipped == 0


def test_a_rate_replaces_the_times(video):
    assert [frame.time_ns for frame in VideoFile(video, 5.0).frames()][:3] == [0, 200_000_000, 400_000_000]


def test_a_video_that_is_cut_off_gives_what_is_there(write_video, caplog):
    video = write_video('avi')
    content = video.read_bytes()
    video.write_bytes(content[: len(content) * 2 // 3])
    source = VideoFile(video)
    count = len(list(source.frames()))
    assert 0 < count < 12
    assert source.skipped in (0, 12 - count)
    assert (f'{count} of 12 images could be read' in caplog.text) == bool(source.skipped)


def test_noise_is_no_video(tmp_path):
    (tmp_path / 'noise.mp4').write_bytes(bytes(range(256)) * 8)
    with pytest.raises(SourceError, match=r'noise.mp4 is no video that OpenCV'):
        VideoFile(tmp_path / 'noise.mp4')
