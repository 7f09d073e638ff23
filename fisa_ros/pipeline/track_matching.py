"""Which track each segment of a frame goes on with."""

from collections.abc import Sequence
import math

import numpy as np
from numpy.typing import NDArray

from fisa_ros.core.results import PanopticResult
from fisa_ros.pipeline.track_labels import Label, LabelVote

_LONG_SIDE_CELLS = 160
# Chosen on simulated sequences at 3, 5 and 10 Hz; around these values the results change little.
_MIN_IOU = 0.4
_MIN_IOU_SAME_CLASS = 0.05
_CLASS_WEIGHT = 0.3
_NEARNESS_WEIGHT = 0.3
_MIN_SIZE_RATIO = 0.5


class Cells:
    """The segments of a frame on a coarse grid, every n-th pixel of every n-th row.

    Attributes:
        index_map: `(h, w)` intp, 1 + the position in the list of segments, 0 where unlabelled.
        areas: `(S,)` float64 number of cells of each segment, perhaps 0.
        boxes: `(S, 4)` float64 boxes (x0, y0, x1, y1) in cells.
        labels: What the frame says of each segment.
    """

    def __init__(self, result: PanopticResult) -> None:
        segments = result.segments
        stride = max(1, math.ceil(max(result.panoptic_map.shape) / _LONG_SIDE_CELLS))
        rows = np.zeros(max((segment.id for segment in segments), default=0) + 1, np.intp)
        rows[[segment.id for segment in segments]] = np.arange(1, len(segments) + 1)
        self.index_map = rows.take(result.panoptic_map[stride // 2 :: stride, stride // 2 :: stride])
        self.areas = np.bincount(self.index_map.ravel(), minlength=len(segments) + 1)[1:].astype(np.float64)
        self.boxes = np.array([segment.box_xyxy for segment in segments], np.float64).reshape(-1, 4) / stride
        outer = np.concatenate([np.floor(self.boxes[:, :2]), np.ceil(self.boxes[:, 2:])], axis=1)
        self._outer_boxes: list[list[int]] = outer.astype(int).tolist()
        self.labels = [Label(segment.class_id, segment.class_name, segment.is_thing) for segment in segments]

    def cut_out(self, position: int) -> tuple[NDArray[np.bool_], tuple[int, int]]:
        """Return the mask of a segment as a copy without its surroundings, and the cell (x, y) where that begins."""
        x0, y0, x1, y1 = self._outer_boxes[position]
        return self.index_map[y0:y1, x0:x1] == position + 1, (x0, y0)


class Track:
    """One region that is followed.

    Attributes:
        id: The id of its segments.
        vote: What it is.
        started_s: Time of the first frame that had it.
        seen_s: Time of the last one.
        mask: `(h, w)` bool, its cells in that frame, cut out.
        corner_xy: Cell (x, y) of the upper left corner of `mask`.
        box: `(4,)` float64, the box (x0, y0, x1, y1) in that frame in cells.
        shift: `(2,)` float64, how far (x, y) the image has moved since, in cells.
    """

    def __init__(self, track_id: int, vote: LabelVote, time_s: float) -> None:
        self.id = track_id
        self.vote = vote
        self.started_s = time_s
        self.seen_s = time_s

    def see(self, cells: Cells, position: int, time_s: float) -> None:
        """Take the shape of a segment."""
        self.seen_s = time_s
        self.mask, self.corner_xy = cells.cut_out(position)
        self.box = cells.boxes[position]
        self.shift = np.zeros(2)


def match(tracks: Sequence[Track], cells: Cells) -> list[tuple[int, int]]:
    """Pair tracks with segments, each with one at most; positions in both lists.

    The affinity of a pair is the IoU of the masks, the track's moved with the image, and more for a class that the
    track was taken for, and for closeness if the class is one of these. The best pair goes first: on disjoint masks
    the optimal assignment changes as many ids.
    """
    if not tracks or not cells.labels:
        return []
    covered = np.stack([_covered(track, cells) for track in tracks])
    shared = covered[:, 1:]
    iou = shared / np.maximum(covered.sum(axis=1, keepdims=True) + cells.areas - shared, 1.0)
    share, is_same, is_always = _agreement(tracks, cells.labels)
    nearness = np.where(is_same, _nearness(tracks, cells.boxes), 0.0)
    is_possible = (iou >= _MIN_IOU) | (is_same & ((iou >= _MIN_IOU_SAME_CLASS) | (nearness > 0.0))) | is_always
    rows, columns = np.nonzero(is_possible)
    affinity = (iou + _CLASS_WEIGHT * share + _NEARNESS_WEIGHT * nearness)[rows, columns]
    pairs: list[tuple[int, int]] = []
    free_tracks, free_segments = set(range(len(tracks))), set(range(len(cells.labels)))
    for pair in np.argsort(-affinity, kind='stable').tolist():
        track, segment = int(rows[pair]), int(columns[pair])
        if track in free_tracks and segment in free_segments:
            free_tracks.remove(track)
            free_segments.remove(segment)
            pairs.append((track, segment))
    return pairs


def _covered(track: Track, cells: Cells) -> NDArray[np.intp]:
    """Return how many cells of each value of the map a track covers, `(1 + S,)`; what left the image does not count."""
    height, width = cells.index_map.shape
    x, y = (corner + round(shift) for corner, shift in zip(track.corner_xy, track.shift.tolist(), strict=True))
    mask_height, mask_width = track.mask.shape
    x0, y0, x1, y1 = max(x, 0), max(y, 0), min(x + mask_width, width), min(y + mask_height, height)
    num_values = 1 + len(cells.areas)
    if x0 >= x1 or y0 >= y1:
        return np.zeros(num_values, np.intp)
    below = cells.index_map[y0:y1, x0:x1][track.mask[y0 - y : y1 - y, x0 - x : x1 - x]]
    return np.bincount(below, minlength=num_values)


def _agreement(
    tracks: Sequence[Track], labels: Sequence[Label]
) -> tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_]]:
    """Return three `(T, S)` arrays.

    The share of the segment's label in the track's votes; whether it has any; whether both are the same stuff, of which
    a frame has one segment wherever it is.
    """
    number_of = {label: number for number, label in enumerate(dict.fromkeys(labels))}
    share = np.zeros((len(tracks), len(number_of)))
    is_same = np.zeros(share.shape, np.bool_)
    is_always = np.zeros(share.shape, np.bool_)
    for row, track in enumerate(tracks):
        for label in track.vote.labels:
            if (number := number_of.get(label)) is not None:
                share[row, number] = track.vote.share(label)
                is_same[row, number] = True
                is_always[row, number] = not label.is_thing and label == track.vote.label
    columns = [number_of[label] for label in labels]
    return share[:, columns], is_same[:, columns], is_always[:, columns]


def _nearness(tracks: Sequence[Track], boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return `(T, S)`: 1 where centres of boxes of like size coincide, 0 where they are one object's size apart."""
    track_boxes = np.stack([track.box for track in tracks])
    shifts = np.stack([track.shift for track in tracks])
    centers = (track_boxes[:, :2] + track_boxes[:, 2:]) / 2 + shifts
    distance = np.hypot(*np.moveaxis(centers[:, None] - (boxes[:, :2] + boxes[:, 2:])[None] / 2, -1, 0))
    size, other_size = _size(track_boxes)[:, None], _size(boxes)[None]
    nearness = np.maximum(1.0 - distance / ((size + other_size) / 2), 0.0)
    return np.where(np.minimum(size, other_size) > _MIN_SIZE_RATIO * np.maximum(size, other_size), nearness, 0.0)


def _size(boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the side of a square as large as each box."""
    return np.sqrt((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]))
