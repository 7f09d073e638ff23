"""Answered frames kept in little memory, to be scored after the stream."""

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from fisa_ros.core.results import Segment


@dataclass(frozen=True, slots=True)
class RunLengthMap:
    """A map of ids as runs of equal values; coding one of 640x480 takes a fraction of a millisecond.

    Attributes:
        values: `(n,)` value of each run, row by row, of the type of the map.
        lengths: `(n,)` pixels of each run.
        size_hw: Height and width of the map.
    """

    values: NDArray[np.integer]
    lengths: NDArray[np.intp]
    size_hw: tuple[int, int]

    @classmethod
    def encode(cls, id_map: NDArray[np.integer]) -> Self:
        """Keep a `(H, W)` map."""
        flat = id_map.ravel()
        starts = np.concatenate([[0], np.flatnonzero(flat[1:] != flat[:-1]) + 1])
        height, width = id_map.shape
        return cls(flat[starts], np.diff(starts, append=flat.size), (height, width))

    def decode(self) -> NDArray[np.integer]:
        """Return the `(H, W)` map."""
        return np.repeat(self.values, self.lengths).reshape(self.size_hw)


@dataclass(frozen=True, slots=True)
class PanopticTruth:
    """What was really there: segment ids, 0 where void, and the segments."""

    panoptic_map: RunLengthMap
    segments: tuple[Segment, ...]


@dataclass(frozen=True, slots=True)
class AnsweredFrame:
    """One camera frame and everything that was answered to it.

    Attributes:
        stamp_ns: Time of the camera frame.
        latency_ms: From that time until the last part of the answer was here.
        vocabulary_version: As the answer says.
        segments: As answered.
        semantic_map: Class ids, 0 where unlabelled.
        panoptic_map: Segment ids, 0 where unlabelled.
        truth: None if it did not arrive.
    """

    stamp_ns: int
    latency_ms: float
    vocabulary_version: int
    segments: tuple[Segment, ...]
    semantic_map: RunLengthMap
    panoptic_map: RunLengthMap
    truth: PanopticTruth | None
