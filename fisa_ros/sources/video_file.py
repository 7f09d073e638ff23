"""A video file as a recording."""

from collections.abc import Iterator
import logging
from pathlib import Path

import cv2
import numpy as np

from fisa_ros.core.errors import SourceError
from fisa_ros.sources.frames import SourceFrame

_FALLBACK_RATE_HZ = 30.0

_log = logging.getLogger(__name__)


class VideoFile:
    """The images of a video, at the times that its container gives them.

    Attributes:
        skipped: Number of images that the container announces but that could not be read.
    """

    def __init__(self, path: Path, rate_hz: float = 0.0) -> None:
        """Look into the file.

        Args:
            path: Anything that OpenCV's FFmpeg reads.
            rate_hz: Images per second; 0 takes the times of the container.

        Raises:
            SourceError: It is no video.
        """
        self.skipped = 0
        self._path = path
        self._rate_hz = rate_hz
        self._open().release()

    def frames(self) -> Iterator[SourceFrame]:
        """See `FrameSource.frames`."""
        capture = self._open()
        try:
            announced = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
            period_ns = 1e9 / (self._rate_hz or capture.get(cv2.CAP_PROP_FPS) or _FALLBACK_RATE_HZ)
            count, time_ns = 0, -1
            while True:
                is_read, image = capture.read()
                if not is_read:
                    break
                container_ns = round(capture.get(cv2.CAP_PROP_POS_MSEC) * 1e6)
                if self._rate_hz or (count and container_ns <= time_ns):
                    # A stream without times says 0 for every image.
                    container_ns = round(count * period_ns) if self._rate_hz else time_ns + round(period_ns)
                time_ns = container_ns
                yield SourceFrame(
                    np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), np.uint8), time_ns, f'{self._path.name}#{count}'
                )
                count += 1
        finally:
            capture.release()
        if not count:
            raise SourceError(f'no image of the video {self._path} can be read')
        if count < announced:
            self.skipped += announced - count
            _log.warning(f'{self._path}: {count} of {announced} images could be read; the file may be damaged')

    def _open(self) -> cv2.VideoCapture:
        capture = cv2.VideoCapture(str(self._path), cv2.CAP_FFMPEG)
        if not capture.isOpened():
            raise SourceError(f'{self._path} is no video that OpenCV {cv2.__version__} can read')
        return capture
