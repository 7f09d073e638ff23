"""From a back-end's map of queries to the segments of an image."""

import numpy as np
from numpy.typing import NDArray

from fisa_ros.core.placement import Placement
from fisa_ros.core.results import MAX_SEGMENT_ID, PanopticResult, Segment
from fisa_ros.core.vocabulary import Vocabulary
from fisa_ros.runtime.backend import RawSegmentation


def list_segments(raw: RawSegmentation, vocabulary: Vocabulary, placement: Placement) -> PanopticResult:
    """Scale a segmentation to an image by nearest neighbour and list its segments.

    The largest segment has id 1. Segments that lose their last pixel by scaling are left out, as is the padding.

    Args:
        raw: The segmentation at the resolution of the merge.
        vocabulary: The classes it was made with.
        placement: Where the image is in what was segmented.
    """
    rows, columns = (
        _Axis(placement.nearest_cells(axis, num_cells)) for axis, num_cells in enumerate(raw.query_map.shape)
    )
    small_map = raw.query_map
    if len(rows.used) < len(small_map) or len(columns.used) < small_map.shape[1]:
        small_map = small_map[np.ix_(rows.used, columns.used)]
    num_values = len(raw.class_index) + 1
    # Each small pixel stands for a rectangle of the image, so areas and boxes need no pass over the large map.
    pixels = np.multiply.outer(rows.counts, columns.counts).astype(np.float64)
    areas = np.bincount(small_map.ravel(), pixels.ravel(), minlength=num_values).astype(np.int64)
    areas[0] = 0
    values = np.argsort(-areas, kind='stable')[: min(np.count_nonzero(areas), MAX_SEGMENT_ID)]
    boxes = _boxes(small_map, num_values, rows, columns)
    segments = []
    for number, value in enumerate(values.tolist(), start=1):
        entry = vocabulary.classes[int(raw.class_index[value - 1])]
        x0, y0, x1, y1 = boxes[value].tolist()
        segments.append(
            Segment(
                id=number,
                class_id=entry.id,
                class_name=entry.name,
                is_thing=entry.is_thing,
                score=float(min(max(raw.score[value - 1], 0.0), 1.0)),
                area=int(areas[value]),
                box_xyxy=(x0, y0, x1, y1),
            )
        )
    id_of = np.zeros(num_values, np.uint16)
    id_of[values] = np.arange(1, len(values) + 1)
    panoptic_map = id_of.take(small_map).take(columns.lookup, axis=1).take(rows.lookup, axis=0)
    return PanopticResult(panoptic_map, tuple(segments), vocabulary.version)


class _Axis:
    """Nearest-neighbour scaling of one axis: the pixel whose centre lies under the centre of the scaled one.

    Attributes:
        used: Indices of the small axis that the scaled one shows, ascending.
        counts: For each of them, the number of scaled pixels.
        edges: Where their runs of scaled pixels start, and one more for the end.
        lookup: For each scaled pixel, the position in `used`.
    """

    def __init__(self, source: NDArray[np.int64]) -> None:
        self.used, self.lookup, self.counts = np.unique(source, return_inverse=True, return_counts=True)
        self.edges = np.concatenate([[0], np.cumsum(self.counts)])


def _boxes(small_map: NDArray[np.signedinteger], num_values: int, rows: _Axis, columns: _Axis) -> NDArray[np.int64]:
    """Return `(num_values, 4)` boxes (x0, y0, x1, y1) of the scaled map, undefined for values that do not occur."""
    in_row = np.zeros((num_values, small_map.shape[0]), np.bool_)
    in_row[small_map, np.arange(small_map.shape[0])[:, None]] = True
    in_column = np.zeros((num_values, small_map.shape[1]), np.bool_)
    in_column[small_map, np.arange(small_map.shape[1])] = True
    boxes = []
    for presence, axis in ((in_column, columns), (in_row, rows)):
        first = presence.argmax(axis=1)
        last = presence.shape[1] - 1 - presence[:, ::-1].argmax(axis=1)
        boxes.append((axis.edges[first], axis.edges[last + 1]))
    (x0, x1), (y0, y1) = boxes
    return np.stack([x0, y0, x1, y1], axis=1)
