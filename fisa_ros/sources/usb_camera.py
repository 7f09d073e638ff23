"""A camera of this machine, through Video4Linux."""

from collections.abc import Callable
import logging
from pathlib import Path
import threading
import time

import cv2
import numpy as np

from fisa_ros.core.errors import SourceError
from fisa_ros.sources.frames import SourceFrame

_RETRY_S = 1.0
# Cameras that count 30 frames in 1.001 s are right enough.
_RATE_TOLERANCE = 0.01

_log = logging.getLogger(__name__)


def device_path(source: str) -> str | None:
    """Return the device that `0`, `/dev/video0` or `/dev/v4l/by-id/…` names, None if it names none."""
    if source.isdecimal():
        return f'/dev/video{int(source)}'
    return source if source.startswith(('/dev/video', '/dev/v4l/')) else None


def open_device(device: str) -> cv2.VideoCapture:
    """Open a camera by its path."""
    return cv2.VideoCapture(device, cv2.CAP_V4L2)


class UsbCamera:
    """Reads a camera in a thread of its own and keeps the newest image; reconnects when the camera vanishes.

    A camera that is there and gives no image is waited for, and opened anew again and again; the log says so.

    Attributes:
        reconnects: How often the camera came back.
    """

    def __init__(
        self, device: str, open_capture: Callable[[str], cv2.VideoCapture] = open_device, *, rate_hz: float = 0.0
    ) -> None:
        """Open the camera and begin to read.

        Args:
            device: Path of the device.
            open_capture: Opens it.
            rate_hz: Images per second to ask the camera for; 0 asks for none. What it gives instead is logged.

        Raises:
            SourceError: There is no such camera.
        """
        self.reconnects = 0
        self._device = device
        self._open_capture = open_capture
        self._rate_hz = rate_hz
        self._condition = threading.Condition()
        self._newest: SourceFrame | None = None
        self._is_closed = threading.Event()
        capture = self._open()
        if capture is None:
            raise SourceError(f'no camera at {device}; {_describe_devices()}')
        # A daemon: a read that waits for a camera that says nothing more cannot be ended from outside.
        self._thread = threading.Thread(target=self._read, args=(capture,), name='usb_camera', daemon=True)
        self._thread.start()

    def take(self, timeout_s: float) -> SourceFrame | None:
        """Wait for an image that was not taken before; return None if none comes in time."""
        with self._condition:
            self._condition.wait_for(lambda: self._newest is not None, timeout_s)
            frame, self._newest = self._newest, None
        return frame

    def close(self, timeout_s: float = 0.5) -> None:
        """Stop reading, as far as that is possible in this time."""
        self._is_closed.set()
        self._thread.join(timeout_s)

    def _open(self) -> cv2.VideoCapture | None:
        capture = self._open_capture(self._device)
        if not capture.isOpened():
            capture.release()
            return None
        if self._rate_hz > 0.0:
            self._request_rate(capture)
        return capture

    def _request_rate(self, capture: cv2.VideoCapture) -> None:
        """Ask for the rate; a camera takes the nearest of those that it has."""
        capture.set(cv2.CAP_PROP_FPS, self._rate_hz)
        given_hz = capture.get(cv2.CAP_PROP_FPS)
        # What a driver does not know is -1 or no number.
        if not given_hz > 0.0:
            _log.warning(
                f'the camera {self._device} does not tell its rate; rate_hz {self._rate_hz:g} may have no effect'
            )
        elif abs(given_hz - self._rate_hz) > _RATE_TOLERANCE * self._rate_hz:
            _log.warning(
                f'the camera {self._device} gives {given_hz:g} images per second; rate_hz is {self._rate_hz:g}'
            )

    def _read(self, capture: cv2.VideoCapture) -> None:
        while not self._is_closed.is_set():
            frame = self._read_frame(capture)
            if frame is None:
                capture.release()
                capture = self._reconnect() or capture
                continue
            with self._condition:
                self._newest = frame
                self._condition.notify()
        capture.release()

    def _read_frame(self, capture: cv2.VideoCapture) -> SourceFrame | None:
        try:
            is_read, image = capture.read()
            # The moment after the exposure and the way through USB; drivers give no better one through OpenCV.
            time_ns = time.time_ns()
            pixels = cv2.cvtColor(image, cv2.COLOR_BGR2RGB) if is_read else None
        except cv2.error as error:
            _log.warning(f'the camera {self._device} gave an image that OpenCV cannot read: {error.err}')
            return None
        return None if pixels is None else SourceFrame(np.asarray(pixels, np.uint8), time_ns, self._device)

    def _reconnect(self) -> cv2.VideoCapture | None:
        _log.warning(f'the camera {self._device} gives no more images: waiting for it to come back')
        while not self._is_closed.wait(_RETRY_S):
            capture = self._open()
            if capture is not None:
                self.reconnects += 1
                _log.info(f'the camera {self._device} is back')
                return capture
        return None


def _describe_devices() -> str:
    found = sorted(str(path) for path in Path('/dev').glob('video*'))
    return f'there are {", ".join(found)}' if found else 'this machine has no /dev/video*'
