"""The numbers that decide which segments are kept; they may change between two frames."""

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Thresholds:
    """What a segment must reach, each in [0, 1].

    Attributes:
        score: Smallest probability of the class.
        mask: Smallest probability of a pixel to belong to its segment.
        overlap: Smallest share of a mask that must remain after the masks in front of it are taken away.
        objectness_trust: How far a sure classifier overrules the generator's doubt about an object; 0 is never.
    """

    score: float
    mask: float
    overlap: float
    objectness_trust: float = 0.5

    def __post_init__(self) -> None:
        for field in fields(Thresholds):
            value = getattr(self, field.name)
            if not 0.0 <= value <= 1.0:
                raise ValueError(f'threshold {field.name} must be in [0, 1], got {value}')

    @property
    def shown_hw(self) -> tuple[float, float]:
        """See `PlacedThresholds`; the whole input here."""
        return 1.0, 1.0

    def placed(self, shown_hw: tuple[float, float]) -> 'PlacedThresholds':
        """Return the same for an image that takes this share of an input."""
        return PlacedThresholds(self.score, self.mask, self.overlap, self.objectness_trust, shown_hw)

    def array(self) -> NDArray[np.float32]:
        """Return `(6,)` float32: score, mask, overlap, objectness_trust, shown rows, shown columns."""
        return np.array((self.score, self.mask, self.overlap, self.objectness_trust, *self.shown_hw), np.float32)


@dataclass(frozen=True, slots=True)
class PlacedThresholds(Thresholds):
    """Thresholds for one image in an input that is larger; users set and files hold only those of any image.

    Attributes:
        shown_hw: Share of the rows and of the columns of the input, from the top left, that hold the image, each above
            0 and at most 1. No pixel elsewhere belongs to a segment.
    """

    shown_hw: tuple[float, float] = (1.0, 1.0)

    def __post_init__(self) -> None:
        Thresholds.__post_init__(self)
        if not all(0.0 < share <= 1.0 for share in self.shown_hw):
            raise ValueError(f'shown_hw must be above 0 and at most 1, got {self.shown_hw}')
