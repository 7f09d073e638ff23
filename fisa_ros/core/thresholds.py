"""The numbers that decide which segments are kept; they may change between two frames."""

from dataclasses import astuple, dataclass, fields

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
        for field in fields(self):
            value = getattr(self, field.name)
            if not 0.0 <= value <= 1.0:
                raise ValueError(f'threshold {field.name} must be in [0, 1], got {value}')

    def array(self) -> NDArray[np.float32]:
        """Return `(4,)` float32: score, mask, overlap, objectness_trust."""
        return np.array(astuple(self), np.float32)
