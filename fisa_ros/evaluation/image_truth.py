"""What is really in one image of a data set, in the numbers of a `CategoryMap`."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import cv2
import numpy as np
from numpy.typing import NDArray

from fisa_ros.core.errors import DataError
from fisa_ros.core.placement import Placement
from fisa_ros.datasets.coco_panoptic import PanopticDataset
from fisa_ros.evaluation.category_map import CategoryMap

MASK_STRIDE = 4
_MIN_MASK_CELLS = 0.5


@dataclass(frozen=True)
class ImageTruth:
    """The true segments of one image; all parts of a stuff category are one segment.

    Attributes:
        panoptic_map: `(H, W)` uint16 segment numbers 1..T, 0 where void.
        categories: `(T,)` int64 category numbers.
        is_crowd: `(T,)` bool, True for groups that are not told apart.
        listed_areas: `(T,)` int64 pixels that the data set lists for the segment, covered ones too; 0 where it lists
            none.
    """

    panoptic_map: NDArray[np.uint16]
    categories: NDArray[np.int64]
    is_crowd: NDArray[np.bool_]
    listed_areas: NDArray[np.int64]

    @classmethod
    def read(cls, dataset: PanopticDataset, index: int, categories: CategoryMap) -> Self:
        """Read the truth of image `index`.

        Raises:
            DataError: It cannot be read or contradicts the annotations.
        """
        segments = [segment for segment in dataset.records[index].segments if segment.category_id in categories.numbers]
        return cls.of(
            dataset.panoptic_map(index),
            [(segment.id, categories.numbers[segment.category_id], segment.is_crowd) for segment in segments],
            categories,
            {segment.id: segment.area for segment in segments if segment.area is not None},
        )

    @classmethod
    def of(
        cls,
        panoptic_map: NDArray[np.integer],
        segments: list[tuple[int, int, bool]],
        categories: CategoryMap,
        listed_areas: Mapping[int, int] | None = None,
    ) -> Self:
        """Number the segments of a map.

        Args:
            panoptic_map: `(H, W)` segment ids of 0 or more; those that are not listed become void.
            segments: Id, category number and whether it is a crowd.
            categories: Tells which categories are stuff.
            listed_areas: Pixels by segment id, covered ones too, where the data set lists them.
        """
        listed_areas = listed_areas or {}
        table = np.zeros(max([int(panoptic_map.max(initial=0)), *(entry[0] for entry in segments)]) + 1, np.uint16)
        number_of_stuff: dict[tuple[int, bool], int] = {}
        kept: list[tuple[int, bool]] = []
        areas: list[int] = []
        for segment_id, category, is_crowd in segments:
            number = len(kept) + 1
            if not categories.is_thing[category]:
                number = number_of_stuff.setdefault((category, is_crowd), number)
            table[segment_id] = number
            if number > len(kept):
                kept.append((category, is_crowd))
                areas.append(0)
            areas[number - 1] += listed_areas.get(segment_id, 0)
        return cls(
            table[panoptic_map],
            np.array([category for category, _ in kept], np.int64),
            np.array([is_crowd for _, is_crowd in kept], np.bool_),
            np.array(areas, np.int64),
        )

    @property
    def size_hw(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.panoptic_map.shape[0], self.panoptic_map.shape[1]

    @property
    def category_of(self) -> dict[int, int]:
        """Category number by segment number."""
        return dict(enumerate(self.categories.tolist(), start=1))

    @property
    def crowds(self) -> list[int]:
        """Numbers of the segments that are crowds."""
        return [int(row) + 1 for row in np.flatnonzero(self.is_crowd)]

    @property
    def semantic_map(self) -> NDArray[np.int64]:
        """`(H, W)` int64 category numbers, 0 where void."""
        return np.concatenate([[0], self.categories])[self.panoptic_map]

    def masks(self, placement: Placement) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Return masks as a classifier takes them; crowds and specks below half a cell are left out.

        Args:
            placement: Where the image is in the network's input; the masks have a quarter of its size.

        Returns:
            `(N, h, w)` float32 in [0, 1], the share of each cell that a segment covers; `(N,)` int64 categories.

        Raises:
            DataError: The size of the input cannot be divided by 4.
        """
        size_hw = placement.input_hw
        rows, columns = size_hw[0] // MASK_STRIDE, size_hw[1] // MASK_STRIDE
        if (rows * MASK_STRIDE, columns * MASK_STRIDE) != size_hw:
            raise DataError(f'the size of the network must be a multiple of {MASK_STRIDE} pixels, got {size_hw}')
        height, width = placement.content_hw
        scaled = np.zeros(size_hw, np.int64)
        scaled[:height, :width] = cv2.resize(self.panoptic_map, (width, height), interpolation=cv2.INTER_NEAREST_EXACT)
        cells = np.arange(rows * columns).reshape(rows, columns)
        position = scaled * (rows * columns) + cells.repeat(MASK_STRIDE, 0).repeat(MASK_STRIDE, 1)
        counts = np.bincount(position.ravel(), minlength=(len(self.categories) + 1) * rows * columns)
        shares = counts.reshape(-1, rows, columns)[1:].astype(np.float32) / np.float32(MASK_STRIDE**2)
        kept = ~self.is_crowd & (shares.sum(axis=(1, 2)) >= _MIN_MASK_CELLS)
        return shares[kept], self.categories[kept]
