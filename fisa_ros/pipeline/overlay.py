"""The picture that people look at: colours, contours and names over the image."""

import math

import cv2
import numpy as np
from numpy.typing import NDArray

from fisa_ros.core.colors import Color, class_color, segment_colors
from fisa_ros.core.results import PanopticResult
from fisa_ros.pipeline.label_layout import LabelLayout
from fisa_ros.pipeline.lettering import TextStyle, draw_text, text_width

_UNLABELED_COLOR = (38, 40, 46)
_WHITE = (255, 255, 255)
_INK = (16, 18, 22)
# A segment smaller than this share of its label gets none.
_MIN_ROOM = 0.12


def draw_overlay(
    image: NDArray[np.uint8], result: PanopticResult, *, legend: bool = True, alpha: float = 0.45
) -> NDArray[np.uint8]:
    """Return a new `(H, W, 3)` uint8 rgb picture of a result.

    Each segment is tinted in the colour of its class and carries its name and score. What has no label is darkened.

    Args:
        image: `(H, W, 3)` uint8 rgb.
        result: Its segmentation.
        legend: List the classes whose names found no room in the picture, with their best scores.
        alpha: Strength of the tint in [0, 1].
    """
    if image.shape != (*result.panoptic_map.shape, 3) or image.dtype != np.uint8:
        raise ValueError(f'image {image.shape} {image.dtype} does not fit result {result.panoptic_map.shape}')
    ids = [segment.id for segment in result.segments]
    table = np.zeros((max(ids, default=0) + 1, 4), np.uint8)
    table[0, :3] = _UNLABELED_COLOR
    table[ids, :3] = segment_colors(result.segments)
    # One 32-bit number per pixel is looked up much faster than three bytes.
    tint = cv2.cvtColor(_look_up(table, result.panoptic_map), cv2.COLOR_RGBA2RGB)
    # Tints mix with the colours below them; half of those are taken away so that a class looks alike everywhere.
    gray = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    faded = cv2.addWeighted(image, 0.5, gray, 0.5, 0.0)
    canvas = np.asarray(cv2.addWeighted(faded, 1.0 - alpha, tint, alpha, 0.0), np.uint8)
    size_px = max(11, round(math.sqrt(image.shape[0] * image.shape[1]) / 37))
    _draw_contours(canvas, result.panoptic_map, table, max(1, round(size_px / 15)))
    layout = LabelLayout(result, size_px)
    unnamed = _draw_labels(canvas, result, table, size_px, layout)
    if legend and unnamed:
        _draw_legend(canvas, unnamed, size_px, layout)
    return canvas


def _look_up(table: NDArray[np.uint8], panoptic_map: NDArray[np.uint16]) -> NDArray[np.uint8]:
    return table.view(np.uint32)[:, 0].take(panoptic_map).view(np.uint8).reshape(*panoptic_map.shape, 4)


def _draw_contours(
    canvas: NDArray[np.uint8], panoptic_map: NDArray[np.uint16], table: NDArray[np.uint8], width_px: int
) -> None:
    kernel = np.ones((2 * width_px + 1, 2 * width_px + 1), np.uint8)
    edge = np.flatnonzero(cv2.erode(panoptic_map, kernel) != cv2.dilate(panoptic_map, kernel))
    canvas.reshape(-1, 3)[edge] = (table[:, :3] // 4 * 3 + 64).take(panoptic_map.take(edge), axis=0)


def _draw_labels(
    canvas: NDArray[np.uint8], result: PanopticResult, table: NDArray[np.uint8], size_px: int, layout: LabelLayout
) -> dict[str, float]:
    """Draw names and scores; return those of the classes whose name stands nowhere, with their best scores."""
    name_style, score_style = TextStyle(size_px, 650), TextStyle(round(size_px * 0.88), 450)
    height, padding = round(size_px * 1.45), round(size_px * 0.45)
    segments = sorted(result.segments, key=lambda segment: (not segment.is_thing, -segment.area))
    named = set()
    for segment in segments:
        score = f'{segment.score:.2f}'
        name_width = text_width(f'{segment.class_name} ', name_style)
        width = name_width + text_width(score, score_style) + 2 * padding
        box = layout.place(segment, (width, height)) if segment.area >= _MIN_ROOM * width * height else None
        if box is None:
            continue
        named.add(segment.class_name)
        red, green, blue, _ = table[segment.id].tolist()
        # Things stand out; the names of stuff lie back on their region.
        fill, opacity, ink = ((red, green, blue), 0.92, _INK) if segment.is_thing else (_INK, 0.65, _WHITE)
        _draw_pill(canvas, box[:2], (width, height), fill, opacity)
        baseline = box[1] + round(height * 0.5 + size_px * 0.36)
        draw_text(canvas, segment.class_name, (box[0] + padding, baseline), name_style, ink)
        draw_text(canvas, score, (box[0] + padding + name_width, baseline), score_style, ink)
    unnamed: dict[str, float] = {}
    for segment in segments:
        if segment.class_name not in named:
            unnamed[segment.class_name] = max(segment.score, unnamed.get(segment.class_name, 0.0))
    return unnamed


def _draw_pill(
    canvas: NDArray[np.uint8], corner_xy: tuple[int, int], size_wh: tuple[int, int], fill: Color, opacity: float
) -> None:
    (x, y), (width, height) = corner_xy, size_wh
    patch = canvas[y : y + height, x : x + width]
    shape = np.zeros((height, width), np.uint8)
    # A thick line has round ends; its coordinates are in 16ths of a pixel.
    radius = round(16 * (height / 2 - 0.5))
    cv2.line(shape, (radius, radius), (16 * (width - 1) - radius, radius), 255, max(1, height - 2), cv2.LINE_AA, 4)
    weight = shape[..., None].astype(np.float32) * (opacity / 255)
    patch[:] = (patch * (1 - weight) + np.array(fill, np.float32) * weight).astype(np.uint8)


def _draw_legend(canvas: NDArray[np.uint8], scores: dict[str, float], size_px: int, layout: LabelLayout) -> None:
    """Draw a panel in a corner that lists classes with their scores, as many as fit into a third of the height."""
    style = TextStyle(round(size_px * 0.9), 500)
    swatch, gap, row_height = round(size_px * 0.8), round(size_px * 0.5), round(size_px * 1.5)
    height, width = canvas.shape[:2]
    names = list(scores)[: max(0, height // 3 - gap) // row_height]
    lines = [f'{name} {scores[name]:.2f}' for name in names]
    panel_width = max((text_width(line, style) for line in lines), default=0) + swatch + 4 * gap
    panel_height = len(names) * row_height + gap
    if not names or panel_width > width:
        return
    corners = [
        (0, height - panel_height),
        (width - panel_width, height - panel_height),
        (0, 0),
        (width - panel_width, 0),
    ]
    boxes = [(x, y, x + panel_width, y + panel_height) for x, y in corners]
    x0, y0, x1, y1 = next((box for box in boxes if layout.is_free(box)), boxes[0])
    panel = canvas[y0:y1, x0:x1]
    panel[:] = panel // 8 + np.array(_INK, np.uint8)
    for row, (name, line) in enumerate(zip(names, lines, strict=True)):
        y = y0 + gap // 2 + row * row_height
        _draw_pill(canvas, (x0 + gap, y + (row_height - swatch) // 2), (swatch, swatch), class_color(name), 1.0)
        baseline = y + round(row_height / 2 + size_px * 0.33)
        draw_text(canvas, line, (x0 + 2 * gap + swatch, baseline), style, _WHITE)
