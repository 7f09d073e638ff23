"""What a real depth camera does to depth: noise, holes, and pixels that fly between front and back at edges."""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

_EDGE_STEP = 0.05
_BLOB_PX = 9.0


@dataclass(frozen=True, slots=True)
class DepthNoise:
    """How bad a depth camera is.

    Attributes:
        noise_per_m2: Standard deviation of the noise at 1 m, in m; it grows with the square of the depth, as that of
            stereo does. 0.0025 is 1 cm at 2 m.
        hole_share: Share of the image, in [0, 1], that is in holes of about 20 px.
        flying_px: Width of the band along edges, in pixels, where depth lies anywhere between front and back.
    """

    noise_per_m2: float = 0.0
    hole_share: float = 0.0
    flying_px: int = 0

    def apply(self, depth: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
        """Return spoilt depth, NaN in holes; `depth` is `(H, W)` float32 m without holes."""
        spoilt = depth.copy()
        if self.flying_px:
            window = np.ones((2 * self.flying_px + 1,) * 2, np.uint8)
            front = np.asarray(cv2.erode(depth, window), np.float32)
            back = np.asarray(cv2.dilate(depth, window), np.float32)
            flown = front + rng.random(depth.shape, np.float32) * (back - front)
            np.copyto(spoilt, flown, where=back - front > _EDGE_STEP * front)
        spoilt += np.float32(self.noise_per_m2) * rng.standard_normal(depth.shape, np.float32) * spoilt * spoilt
        if self.hole_share:
            blobs = cv2.GaussianBlur(rng.standard_normal(depth.shape, np.float32), (0, 0), _BLOB_PX)
            spoilt[blobs < np.quantile(blobs, self.hole_share)] = np.nan
        return spoilt
