"""How far the whole image moved since the last one, as it does when the camera turns."""

import cv2
import numpy as np
from numpy.typing import NDArray

_SIZE_WH = (160, 120)
_MIN_RESPONSE = 0.15


class ImageMotion:
    """Measures shifts by phase correlation (Kuglin and Hines, 1975) of small grey images.

    One shift stands for the whole image. A turning camera moves all of it alike, and boxes of objects, the other
    source, are cut at the border and change with the masks.
    """

    def __init__(self) -> None:
        self._window = cv2.createHanningWindow(_SIZE_WH, cv2.CV_32F)
        self._last: NDArray[np.float32] | None = None

    def step(self, image: NDArray[np.uint8]) -> tuple[float, float]:
        """Return the shift (x, y) as fractions of the image's sides; (0, 0) where nothing can be said.

        Args:
            image: `(H, W, 3)` uint8 rgb.
        """
        large = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
        grey = np.asarray(cv2.resize(large, _SIZE_WH, interpolation=cv2.INTER_AREA), np.float32)
        last, self._last = self._last, grey
        if last is None:
            return 0.0, 0.0
        (x, y), response = cv2.phaseCorrelate(last, grey, self._window)
        if not response >= _MIN_RESPONSE:
            return 0.0, 0.0
        return x / _SIZE_WH[0], y / _SIZE_WH[1]

    def reset(self) -> None:
        """Forget the last image."""
        self._last = None
