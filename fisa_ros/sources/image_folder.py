"""A folder of image files as a recording."""

from collections.abc import Iterator
import io
import logging
from pathlib import Path
import re

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from fisa_ros.core.errors import ImageError, SourceError
from fisa_ros.core.image_files import is_cut_off
from fisa_ros.sources.frames import SourceFrame

IMAGE_SUFFIXES = (
    '.avif', '.bmp', '.gif', '.jp2', '.jpeg', '.jpg', '.pbm', '.pgm', '.png', '.ppm', '.tif', '.tiff', '.webp',
)  # fmt: skip
_NANOSECONDS = re.compile(r'\D*(\d{18,19})')
# From 1990 to 2100; other numbers of as many digits are no times.
_PLAUSIBLE_NS = range(631_152_000_000_000_000, 4_102_444_800_000_000_000)
_SECONDS = re.compile(r'(\d{1,10})\.(\d{1,9})')

_log = logging.getLogger(__name__)


class ImageFolder:
    """The images of a folder, or one file; those that cannot be read are logged, counted and left out.

    Attributes:
        paths: The files in their order: by number and name, or by time.
        skipped: Number of files so far that could not be read.
    """

    def __init__(self, path: Path, rate_hz: float = 0.0) -> None:
        """List the files.

        Args:
            path: Folder, or a single file.
            rate_hz: Images per second; 0 takes the times from the names, as in `1403636579763555584.png`
                (nanoseconds) and `1305031102.175304.png` (seconds).

        Raises:
            SourceError: There is no image, or a name is no time.
        """
        self.skipped = 0
        found = [path] if path.is_file() else [entry for entry in path.iterdir() if entry.is_file()]
        paths = [entry for entry in found if entry.suffix.lower() in IMAGE_SUFFIXES]
        if not paths:
            raise SourceError(f'no image in {path}: looked for {", ".join(IMAGE_SUFFIXES)}')
        if rate_hz > 0.0:
            self.paths = sorted(paths, key=natural_key)
            self._times_ns = [round(index * 1e9 / rate_hz) for index in range(len(paths))]
        else:
            timed = sorted((_time_ns(entry), entry) for entry in paths)
            self.paths = [entry for _, entry in timed]
            self._times_ns = [time_ns for time_ns, _ in timed]

    def frames(self) -> Iterator[SourceFrame]:
        """See `FrameSource.frames`."""
        skipped_before = self.skipped
        for path, time_ns in zip(self.paths, self._times_ns, strict=True):
            try:
                image = read_image(path)
            except ImageError as error:
                self.skipped += 1
                _log.warning(f'skipped: {error}')
                continue
            yield SourceFrame(image, time_ns, path.name)
        if self.skipped - skipped_before == len(self.paths):
            raise SourceError(f'none of the {len(self.paths)} images in {self.paths[0].parent} can be read')


def read_image(path: Path) -> NDArray[np.uint8]:
    """Return an image file as `(H, W, 3)` uint8 rgb.

    Raises:
        ImageError: It is incomplete, or neither OpenCV nor Pillow can read it.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ImageError(f'{path} cannot be read as an image: {error}') from error
    if is_cut_off(content):
        raise ImageError(f'{path} cannot be read as an image: its end is missing')
    try:
        image = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error:
        image = None
    if image is not None:
        return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), np.uint8)
    try:
        with Image.open(io.BytesIO(content)) as opened:
            return np.asarray(opened.convert('RGB'), np.uint8)
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError, SyntaxError, ValueError) as error:
        raise ImageError(f'{path} cannot be read as an image: {error}') from error


def natural_key(path: Path) -> list[tuple[int, int, str]]:
    """Return what sorts `image_10` after `image_9`."""
    parts = re.split(r'(\d+)', path.name.casefold())
    return [(0, int(part), part) if part.isdecimal() else (1, 0, part) for part in parts if part]


def _time_ns(path: Path) -> int:
    if (match := _NANOSECONDS.fullmatch(path.stem)) and int(match[1]) in _PLAUSIBLE_NS:
        return int(match[1])
    if match := _SECONDS.fullmatch(path.stem):
        return int(match[1]) * 1_000_000_000 + int(match[2].ljust(9, '0'))
    raise SourceError(
        f'the name of {path} is no time (nanoseconds, or seconds with decimals): give the rate of the images, rate_hz'
    )
