"""Where the names of segments go: inside where they fit, else beside, and never on each other."""

from collections.abc import Iterator
from itertools import product

import cv2
import numpy as np
from numpy.typing import NDArray

from fisa_ros.core.results import PanopticResult, Segment

Box = tuple[int, int, int, int]

# Text is about this much wider than high; so is the room that is looked for.
_TEXT_ASPECT = 3
_GAP_PX = 3
# A thing this many times as large as its label carries the label even where it is narrow.
_LARGE = 8
# Where to go from the best place when another label is there, in widths and heights of the label.
_SHIFTS = sorted(
    product((0.0, -0.6, 0.6), (0.0, -1.15, 1.15, -2.3, 2.3)), key=lambda shift: abs(shift[0]) + abs(shift[1])
)


class LabelLayout:
    """Finds places for the labels of one frame, one after the other; the most important one should come first."""

    def __init__(self, result: PanopticResult, line_height_px: int) -> None:
        """Look for the widest place of each segment.

        Args:
            result: The frame.
            line_height_px: Height of a usual label.
        """
        self.boxes: list[Box] = []
        self._map = result.panoptic_map
        self._is_thing = np.zeros(max((segment.id for segment in result.segments), default=0) + 1, np.bool_)
        self._is_thing[[segment.id for segment in result.segments]] = [segment.is_thing for segment in result.segments]
        self._step = max(1, line_height_px // 5)
        self._sampled = _sample(self._map, self._step)
        self._places = _widest_places(self._sampled, self._step)

    def place(self, segment: Segment, size_wh: tuple[int, int]) -> Box | None:
        """Return a place (x0, y0, x1, y1) and keep it; None where there is none without covering another label."""
        height, width = self._map.shape
        if segment.id not in self._places or size_wh[0] > width or size_wh[1] > height:
            return None
        centre_xy, room_px = self._places[segment.id]
        inside = self._inside(segment, centre_xy, size_wh)
        is_large = segment.area > _LARGE * size_wh[0] * size_wh[1]
        if room_px >= size_wh[1] / 2 or is_large or not segment.is_thing:
            box = next((box for box in inside if self.is_free(box)), None)
        else:
            beside = _beside(self._part_box(segment, centre_xy), size_wh)
            candidates = [box for box in (*beside, *inside) if self.is_free(box)]
            box = min(candidates, key=lambda box: self._covered(box, segment.id), default=None)
        if box is not None:
            self.boxes.append(box)
        return box

    def is_free(self, box: Box) -> bool:
        """Tell whether a box lies in the picture and covers no label."""
        x0, y0, x1, y1 = box
        if x0 < 0 or y0 < 0 or x1 > self._map.shape[1] or y1 > self._map.shape[0]:
            return False
        return not any(x0 < other[2] and x1 > other[0] and y0 < other[3] and y1 > other[1] for other in self.boxes)

    def _inside(self, segment: Segment, centre_xy: tuple[int, int], size_wh: tuple[int, int]) -> Iterator[Box]:
        height, width = self._map.shape
        for shift_x, shift_y in _SHIFTS:
            x = centre_xy[0] + round(shift_x * size_wh[0])
            y = centre_xy[1] + round(shift_y * size_wh[1])
            if 0 <= x < width and 0 <= y < height and self._map[y, x] == segment.id:
                x0 = min(max(x - size_wh[0] // 2, 0), width - size_wh[0])
                y0 = min(max(y - size_wh[1] // 2, 0), height - size_wh[1])
                yield x0, y0, x0 + size_wh[0], y0 + size_wh[1]

    def _part_box(self, segment: Segment, centre_xy: tuple[int, int]) -> Box:
        """Return about the box of the part that is named: between parts far from each other lies something else."""
        step_x, step_y = self._step * _TEXT_ASPECT, self._step
        x0, y0, x1, y1 = segment.box_xyxy
        left, top = x0 // step_x, y0 // step_y
        own = cv2.inRange(self._sampled[top : y1 // step_y + 1, left : x1 // step_x + 1], segment.id, segment.id)
        _, parts, stats, _ = cv2.connectedComponentsWithStats(own)
        x, y, width, height, _ = stats[parts[centre_xy[1] // step_y - top, centre_xy[0] // step_x - left]].tolist()
        return (
            max(x0, (left + x) * step_x),
            max(y0, (top + y) * step_y),
            min(x1, (left + x + width) * step_x),
            min(y1, (top + y + height) * step_y),
        )

    def _covered(self, box: Box, segment_id: int) -> float:
        """Return how much of the box lies on things; on other ones is worse than on the named one."""
        x0, y0, x1, y1 = box
        below = self._map[y0 : y1 : self._step, x0 : x1 : self._step]
        is_own = below == segment_id
        return float(np.mean(self._is_thing.take(below) & ~is_own) + 0.6 * np.mean(is_own))


def _beside(box_xyxy: Box, size_wh: tuple[int, int]) -> list[Box]:
    x0, y0, x1, y1 = box_xyxy
    width, height = size_wh
    left, top = (x0 + x1 - width) // 2, (y0 + y1 - height) // 2
    corners = [(left, y0 - height - _GAP_PX), (left, y1 + _GAP_PX), (x1 + _GAP_PX, top), (x0 - width - _GAP_PX, top)]
    return [(x, y, x + width, y + height) for x, y in corners]


def _sample(panoptic_map: NDArray[np.uint16], step: int) -> NDArray[np.uint16]:
    step_x = step * _TEXT_ASPECT
    return np.ascontiguousarray(panoptic_map[step // 2 :: step, step_x // 2 :: step_x])


def _widest_places(sampled: NDArray[np.uint16], step: int) -> dict[int, tuple[tuple[int, int], float]]:
    """Return for each segment the centre (x, y) and the half height of about the largest flat ellipse inside it."""
    step_x = step * _TEXT_ASPECT
    if sampled.size == 0:
        return {}
    framed = cv2.copyMakeBorder(sampled, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    cross = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))
    is_inner = (cv2.erode(framed, cross) == cv2.dilate(framed, cross)).astype(np.uint8)
    depth = cv2.distanceTransform(is_inner, cv2.DIST_L2, 3)[1:-1, 1:-1].ravel()
    order = depth.argsort(kind='stable')
    values = sampled.ravel()[order]
    deepest = np.zeros(int(values.max()) + 1, np.int64)
    # Of several values for one index numpy keeps the last: the deepest one.
    deepest[values] = order
    places = {}
    for value in np.unique(values).tolist():
        row, column = divmod(int(deepest[value]), sampled.shape[1])
        centre_xy = column * step_x + step_x // 2, row * step + step // 2
        places[value] = (centre_xy, (float(depth[deepest[value]]) + 0.5) * step)
    return places
