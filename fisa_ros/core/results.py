"""What one frame yields: a map of segment ids and the list of segments."""

from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np
from numpy.typing import NDArray

UNLABELED_ID = 0
MAX_SEGMENT_ID = 65535
_BYTE_VALUES = 256


@dataclass(frozen=True, slots=True)
class Segment:
    """One segment of a frame.

    Attributes:
        id: 1..65535, the value of its pixels in the panoptic map.
        class_id: 1..65535, the value of its pixels in the semantic map.
        class_name: First name of the class.
        is_thing: True for countable objects, False for stuff (one segment per class and frame).
        score: Probability of the class in [0, 1].
        area: Number of pixels, at least 1.
        box_xyxy: Smallest box (x0, y0, x1, y1) in pixels, x1 and y1 exclusive.
    """

    id: int
    class_id: int
    class_name: str
    is_thing: bool
    score: float
    area: int
    box_xyxy: tuple[int, int, int, int]

    def __post_init__(self) -> None:
        for name in ('id', 'class_id'):
            value = getattr(self, name)
            if not 1 <= value <= MAX_SEGMENT_ID:
                raise ValueError(f'{name} must be in 1..{MAX_SEGMENT_ID}, got {value}')
        if not 0.0 <= self.score <= 1.0:
            raise ValueError(f'score must be in [0, 1], got {self.score}')
        if self.area < 1:
            raise ValueError(f'area must be at least 1, got {self.area}')


@dataclass(frozen=True)
class PanopticResult:
    """The panoptic segmentation of one frame, made with one vocabulary.

    Attributes:
        panoptic_map: `(H, W)` uint16, the id of the segment each pixel belongs to, 0 where unlabelled.
        segments: The segments, in order of id; each id occurs in the map and each value of the map is listed.
        vocabulary_version: Version of the vocabulary that made every label of this frame.
    """

    panoptic_map: NDArray[np.uint16]
    segments: tuple[Segment, ...]
    vocabulary_version: int

    def __post_init__(self) -> None:
        if self.panoptic_map.ndim != 2 or self.panoptic_map.dtype != np.uint16:
            raise ValueError(
                f'panoptic_map must be (H, W) uint16, got {self.panoptic_map.shape} {self.panoptic_map.dtype}'
            )
        ids = [segment.id for segment in self.segments]
        if ids != sorted(set(ids)):
            raise ValueError(f'segment ids must be unique and ascending, got {ids}')

    @classmethod
    def empty(cls, size_hw: tuple[int, int], vocabulary_version: int) -> Self:
        """Return a result without segments for an image of `size_hw` = (height, width)."""
        return cls(np.zeros(size_hw, np.uint16), (), vocabulary_version)

    @cached_property
    def semantic_map(self) -> NDArray[np.uint16]:
        """`(H, W)` uint16 class ids, 0 where unlabelled."""
        return self._table([segment.class_id for segment in self.segments], np.uint16)

    @cached_property
    def confidence_map(self) -> NDArray[np.uint8]:
        """`(H, W)` uint8, score x 255 rounded and at least 1, 0 where unlabelled."""
        return self._table([max(1, round(segment.score * 255)) for segment in self.segments], np.uint8)

    def _table[T: np.generic](self, values: list[int], dtype: type[T]) -> NDArray[T]:
        ids = [segment.id for segment in self.segments]
        table: NDArray[T] = np.zeros(max(ids, default=0) + 1, dtype)
        table[ids] = values
        if len(table) > _BYTE_VALUES or max(values, default=0) >= _BYTE_VALUES:
            return table.take(self.panoptic_map)
        # Takes half the time of numpy, which makes an index of 8 bytes for each pixel first.
        bytewise = bytes(table.astype(np.uint8)).ljust(_BYTE_VALUES, b'\0')
        pixels = bytearray(self.panoptic_map.astype(np.uint8)).translate(bytewise)
        return np.frombuffer(pixels, np.uint8).reshape(self.panoptic_map.shape).astype(dtype, copy=False)
