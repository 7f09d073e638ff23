"""Images of a folder as frames of one camera."""

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from fisa_ros.core.errors import ImageError
from fisa_ros.core.placement import STRETCH, Resize
from fisa_ros.pipeline.image_scaling import place_image

_SUFFIXES = ('.jpg', '.jpeg', '.png')


def read_frames(
    folder: Path, size_wh: tuple[int, int], least: int = 1, resize: Resize = STRETCH
) -> list[NDArray[np.uint8]]:
    """Return the images of a folder by name, as `(H, W, 3)` uint8 rgb brought to one size.

    Args:
        folder: Where they are.
        size_wh: The size.
        least: How many there must be.
        resize: How they come to it.

    Raises:
        ImageError: There are fewer than `least`, or one cannot be read.
    """
    paths = sorted(path for path in folder.glob('*') if path.suffix.lower() in _SUFFIXES)
    if len(paths) < least:
        raise ImageError(f'{folder} has {len(paths)} images ({", ".join(_SUFFIXES)}), at least {least} are needed')
    frames = []
    for path in paths:
        image = cv2.imread(str(path), cv2.IMREAD_COLOR)
        if image is None:
            raise ImageError(f'{path} is not an image that can be read')
        rgb = np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), np.uint8)
        placement = resize.place((rgb.shape[0], rgb.shape[1]), (size_wh[1], size_wh[0]))
        frames.append(place_image(rgb, placement))
    return frames
