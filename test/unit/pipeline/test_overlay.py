from itertools import combinations
import re

import cv2
import numpy as np
import pytest

from fisa_ros.core.colors import class_color
from fisa_ros.core.results import PanopticResult, Segment
from fisa_ros.pipeline import lettering
from fisa_ros.pipeline.label_layout import LabelLayout
from fisa_ros.pipeline.lettering import TextStyle, draw_text, text_width
from fisa_ros.pipeline.overlay import draw_overlay


def result_of(panoptic_map, names, things=()):
    segments = []
    for segment_id, name in enumerate(names, start=1):
        ys, xs = np.nonzero(panoptic_map == segment_id)
        box = (int(xs.min()), int(ys.min()), int(xs.max()) + 1, int(ys.max()) + 1)
        segments.append(Segment(segment_id, segment_id, name, name in things, 0.875, len(xs), box))
    return PanopticResult(panoptic_map, tuple(segments), 1)


@pytest.fixture
def room():
    panoptic_map = np.zeros((240, 320), np.uint16)
    panoptic_map[:, 40:] = 1
    panoptic_map[150:, 40:] = 2
    panoptic_map[100:200, 180:280] = 3
    return result_of(panoptic_map, ['wall', 'floor', 'chair'], things=('chair',))


def close_to(pixel, color, tolerance=60):
    return np.abs(pixel.astype(int) - color).max() <= tolerance


@pytest.fixture(params=['truetype', 'line font'])
def font(request, monkeypatch):
    if request.param == 'line font':
        monkeypatch.setattr(lettering, '_FONT', None)


def test_a_new_picture_of_the_same_size(room):
    image = np.full((240, 320, 3), 127, np.uint8)
    overlay = draw_overlay(image, room)
    assert overlay.shape == image.shape
    assert overlay.dtype == np.uint8
    assert (image == 127).all()
    np.testing.assert_array_equal(overlay, draw_overlay(image, room))


def test_regions_are_tinted(room):
    overlay = draw_overlay(np.full((240, 320, 3), 127, np.uint8), room, alpha=1.0)
    assert close_to(overlay[20, 60], class_color('wall'), 2)
    assert close_to(overlay[230, 60], class_color('floor'), 2)
    assert close_to(overlay[110, 190], class_color('chair'), 2)


def test_unlabelled_regions_are_darkened(room):
    overlay = draw_overlay(np.full((240, 320, 3), 127, np.uint8), room)
    assert overlay[:, :30].max() < 127


def test_borders_are_drawn(room):
    overlay = draw_overlay(np.full((240, 320, 3), 127, np.uint8), room)
    inside, border = overlay[20, 60].astype(int), overlay[149, 60].astype(int)
    assert np.abs(inside - border).max() > 10


def test_names_are_written_on_their_segments(room, font):
    is_drawn = (draw_overlay(np.full((240, 320, 3), 127, np.uint8), room, alpha=0.0) != 127).any(axis=-1)
    for segment in room.segments:
        inside = cv2.erode((room.panoptic_map == segment.id).astype(np.uint8), np.ones((9, 9)))
        assert np.count_nonzero(is_drawn & (inside == 1)) > 300
    assert not is_drawn[:, :30].any()


@pytest.mark.parametrize('size_hw', [(1, 1), (2, 50), (50, 2), (13, 17), (1080, 1920)])
def test_any_size(size_hw, font):
    result = result_of(np.ones(size_hw, np.uint16), ['a name much longer than the picture is wide'])
    assert draw_overlay(np.zeros((*size_hw, 3), np.uint8), result).shape == (*size_hw, 3)


def test_no_segments():
    image = np.full((20, 30, 3), 200, np.uint8)
    overlay = draw_overlay(image, PanopticResult.empty((20, 30), 1))
    assert (overlay == overlay[0, 0]).all()


def test_the_legend_lists_classes_without_room():
    panoptic_map = np.ones((240, 320), np.uint16)
    panoptic_map[5:8, 5:8] = 2
    result = result_of(panoptic_map, ['wall', 'fly'], things=('fly',))
    image = np.full((240, 320, 3), 127, np.uint8)
    differs = (draw_overlay(image, result) != draw_overlay(image, result, legend=False)).any(axis=(1, 2))
    assert not differs[:180].any()
    assert differs[200:].any()


def test_a_legend_with_many_classes_stays_small(font):
    panoptic_map = np.ones((240, 320), np.uint16)
    for number in range(100):
        panoptic_map[2 + 20 * (number // 10), 2 + 30 * (number % 10)] = number + 2
    result = result_of(panoptic_map, ['wall', *(f'very small thing {number}' for number in range(100))])
    image = np.full((240, 320, 3), 127, np.uint8)
    differs = (draw_overlay(image, result) != draw_overlay(image, result, legend=False)).any(axis=(1, 2))
    assert 0 < np.count_nonzero(differs) <= 80


def test_ids_need_not_be_dense():
    panoptic_map = np.full((40, 40), 65535, np.uint16)
    result = PanopticResult(panoptic_map, (Segment(65535, 1, 'sky', False, 0.5, 1600, (0, 0, 40, 40)),), 1)
    overlay = draw_overlay(np.zeros((40, 40, 3), np.uint8), result, alpha=1.0)
    assert close_to(overlay[2, 2], class_color('sky'), 2)


@pytest.mark.parametrize('image', [np.zeros((4, 6, 3), np.uint8), np.zeros((4, 5), np.uint8), np.zeros((4, 5, 3))])
def test_refuses_an_image_of_another_size(image):
    with pytest.raises(ValueError, match=re.escape('does not fit result (4, 5)')):
        draw_overlay(image, PanopticResult.empty((4, 5), 1))


@pytest.mark.parametrize('text', ['chair', 'café', '椅子', 'cat 🐱', '{%s}'])
def test_lettering(font, text):
    image = np.zeros((60, 400, 3), np.uint8)
    draw_text(image, text, (10, 40), TextStyle(20), (255, 255, 255))
    columns = np.flatnonzero(image.any(axis=(0, 2)))
    assert columns.min() >= 8
    assert columns.max() <= 12 + text_width(text, TextStyle(20))


def test_lettering_is_cut_at_the_edge(font):
    image = np.zeros((30, 60, 3), np.uint8)
    draw_text(image, 'traffic cone', (10, 20), TextStyle(20), (255, 255, 255))
    assert image[:, 50:].any()
    assert not image[26:].any()


def overlap(one, other):
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def test_labels_lie_inside_segments_with_room():
    panoptic_map = np.ones((100, 100), np.uint16)
    panoptic_map[:, 50:] = 2
    result = result_of(panoptic_map, ['wall', 'door'], things=('door',))
    layout = LabelLayout(result, 10)
    assert [layout.place(segment, (30, 10)) for segment in result.segments] == layout.boxes
    for segment_id, (x0, y0, x1, y1) in enumerate(layout.boxes, start=1):
        assert (x1 - x0, y1 - y0) == (30, 10)
        assert (panoptic_map[y0:y1, x0:x1] == segment_id).all()


def test_labels_lie_beside_small_things():
    panoptic_map = np.ones((100, 100), np.uint16)
    panoptic_map[45:55, 45:55] = 2
    result = result_of(panoptic_map, ['wall', 'clock'], things=('clock',))
    x0, y0, x1, y1 = LabelLayout(result, 10).place(result.segments[1], (30, 10))
    assert (panoptic_map[y0:y1, x0:x1] == 1).all()
    assert min(abs(y1 - 45), abs(y0 - 55), abs(x1 - 45), abs(x0 - 55)) < 5


def test_labels_avoid_other_things():
    panoptic_map = np.ones((100, 100), np.uint16)
    panoptic_map[45:55, 45:55] = 2
    panoptic_map[30:45, 30:70] = 3
    result = result_of(panoptic_map, ['wall', 'clock', 'picture'], things=('clock', 'picture'))
    x0, y0, x1, y1 = LabelLayout(result, 10).place(result.segments[1], (30, 10))
    assert (panoptic_map[y0:y1, x0:x1] == 1).all()


def test_labels_lie_beside_the_part_that_they_name():
    panoptic_map = np.ones((120, 300), np.uint16)
    panoptic_map[80:92, 20:40] = 2
    panoptic_map[20:24, 280:290] = 2
    result = result_of(panoptic_map, ['wall', 'clock'], things=('clock',))
    x0, y0, x1, y1 = LabelLayout(result, 10).place(result.segments[1], (40, 14))
    assert (panoptic_map[y0:y1, x0:x1] == 1).all()
    assert max(20 - x1, x0 - 40, 80 - y1, y0 - 92) < 12


@pytest.mark.parametrize('size_wh', [(101, 10), (30, 101)])
def test_labels_larger_than_the_picture(size_wh):
    result = result_of(np.ones((100, 100), np.uint16), ['wall'])
    assert LabelLayout(result, 10).place(result.segments[0], size_wh) is None


def test_labels_do_not_cover_each_other():
    panoptic_map = np.zeros((60, 60), np.uint16)
    for number in range(16):
        panoptic_map[10 + 3 * number : 12 + 3 * number, 10:50] = number + 1
    result = result_of(panoptic_map, [f'line {number}' for number in range(16)], things=('line 3', 'line 4'))
    layout = LabelLayout(result, 10)
    boxes = [layout.place(segment, (30, 12)) for segment in result.segments]
    placed = [box for box in boxes if box is not None]
    assert placed == layout.boxes
    assert 2 <= len(placed) < 16
    assert not any(overlap(*pair) for pair in combinations(placed, 2))
    assert all(x0 >= 0 and y0 >= 0 and x1 <= 60 and y1 <= 60 for x0, y0, x1, y1 in placed)
