"""No test machine has a camera; a video stands in for the device, which vanishes at its end."""

import time

import cv2
import numpy as np
import pytest

from fisa_ros.core.errors import SourceError
from fisa_ros.sources import usb_camera
from fisa_ros.sources.usb_camera import UsbCamera, device_path


@pytest.fixture
def video(tmp_path, flags):
    path = tmp_path / 'camera.avi'
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*'MJPG'), 20.0, (160, 120))
    for _ in range(5):
        writer.write(flags[..., ::-1])
    writer.release()
    return str(path)


def take(camera, timeout_s=10.0):
    end_s = time.monotonic() + timeout_s
    while time.monotonic() < end_s:
        if frame := camera.take(0.1):
            return frame
    raise AssertionError('no image')


def test_the_newest_image_is_taken_and_a_camera_that_vanishes_comes_back(video, flags, caplog):
    camera = UsbCamera('/dev/video0', lambda _: cv2.VideoCapture(video))
    try:
        before_ns = time.time_ns()
        frame = take(camera)
        assert np.abs(frame.image.astype(int) - flags).mean() < 8
        assert abs(frame.time_ns - before_ns) < 10_000_000_000
        later = take(camera)
        while camera.reconnects == 0:
            later = take(camera)
        assert later.time_ns > frame.time_ns
    finally:
        camera.close()
    assert '/dev/video0 gives no more images: waiting for it to come back' in caplog.text


class BrokenCapture:
    """A camera whose images are broken: they have two channels, or OpenCV raises. No file that it reads does that."""

    def __init__(self, is_raising):
        self._is_raising = is_raising

    def isOpened(self):  # noqa: N802
        return True

    def read(self):
        if self._is_raising:
            raise cv2.error('broken')
        return True, np.zeros((4, 4, 2), np.uint8)

    def release(self):
        pass


@pytest.mark.parametrize('is_raising', [False, True])
def test_an_error_of_opencv_does_not_end_the_reading(video, caplog, is_raising):
    captures = [BrokenCapture(is_raising)]
    camera = UsbCamera('/dev/video0', lambda _: captures.pop() if captures else cv2.VideoCapture(video))
    try:
        assert take(camera).image.shape == (120, 160, 3)
    finally:
        camera.close()
    assert '/dev/video0 gave an image that OpenCV cannot read' in caplog.text


class ObedientCapture:
    """A camera that takes the nearest of its rates, as Video4Linux does; OpenCV's reader of videos takes none."""

    def __init__(self, video, rates_hz):
        self._capture = cv2.VideoCapture(video)
        self._rates_hz = rates_hz
        self._rate_hz = 30.0

    def __getattr__(self, name):
        return getattr(self._capture, name)

    def set(self, key, value):
        assert key == cv2.CAP_PROP_FPS
        self._rate_hz = min(self._rates_hz, key=lambda rate_hz: abs(rate_hz - value))
        return True

    def get(self, key):
        assert key == cv2.CAP_PROP_FPS
        return self._rate_hz


@pytest.mark.parametrize(
    ('rates_hz', 'given_hz', 'warnings'),
    [
        ([5.0, 15.0, 30.0], 15.0, []),
        ([30000 / 2002], 30000 / 2002, []),
        ([12.5, 25.0], 12.5, ['the camera /dev/video0 gives 12.5 images per second; rate_hz is 15']),
        ([-1.0], -1.0, ['the camera /dev/video0 does not tell its rate; rate_hz 15 may have no effect']),
        ([np.nan], np.nan, ['the camera /dev/video0 does not tell its rate; rate_hz 15 may have no effect']),
    ],
)
def test_a_camera_is_asked_for_a_rate_each_time_it_is_opened(video, caplog, monkeypatch, rates_hz, given_hz, warnings):
    monkeypatch.setattr(usb_camera, '_RETRY_S', 0.05)
    captures = [ObedientCapture(video, rates_hz) for _ in range(2)]
    waiting = captures.copy()
    camera = UsbCamera('/dev/video0', lambda _: waiting.pop(0) if waiting else cv2.VideoCapture(), rate_hz=15.0)
    try:
        while camera.reconnects == 0:
            take(camera)
    finally:
        camera.close()
    for capture in captures:
        assert capture.get(cv2.CAP_PROP_FPS) == pytest.approx(given_hz, nan_ok=True)
    assert [message for message in caplog.messages if 'rate_hz' in message] == 2 * warnings


def test_close_ends_the_wait_for_a_camera(video):
    captures = [cv2.VideoCapture(video)]
    camera = UsbCamera('/dev/video0', lambda _: captures.pop() if captures else cv2.VideoCapture())
    take(camera)
    time.sleep(0.3)
    start_s = time.monotonic()
    camera.close(timeout_s=5.0)
    assert time.monotonic() - start_s < 4.0
    assert camera.take(0.0) is None or camera.take(0.0) is None


def test_no_camera_is_an_error_that_lists_those_that_are_there():
    with pytest.raises(SourceError, match=r'no camera at /dev/video98; (there are /dev/video|this machine has no)'):
        UsbCamera('/dev/video98')


@pytest.mark.parametrize(
    ('source', 'device'),
    [
        ('0', '/dev/video0'),
        ('/dev/video3', '/dev/video3'),
        ('/dev/v4l/by-id/usb-x', '/dev/v4l/by-id/usb-x'),
        ('photos', None),
        ('video0', None),
    ],
)
def test_names_of_devices(source, device):
    assert device_path(source) == device
