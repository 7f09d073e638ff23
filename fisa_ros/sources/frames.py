"""Images with the time each was taken at."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class SourceFrame:
    """One image.

    Attributes:
        image: `(H, W, 3)` uint8 rgb.
        time_ns: When it was taken: since 1970 where that is known, else since the first image.
        name: What to call it in a message.
    """

    image: NDArray[np.uint8]
    time_ns: int
    name: str


class FrameSource(Protocol):
    """Images that were recorded."""

    @property
    def skipped(self) -> int:
        """Number of images so far that could not be read."""

    def frames(self) -> Iterator[SourceFrame]:
        """Yield all images once, in the order of their times.

        Raises:
            SourceError: Not one of them can be read.
        """
