from dataclasses import replace

import cv2
import numpy as np
import pytest

from fisa_ros.core.placement import STRETCH
from fisa_ros.core.vocabulary import Vocabulary, VocabularyClass
from fisa_ros.pipeline.segments import list_segments
from fisa_ros.pipeline.tracking import Tracker, TrackerOptions
from fisa_ros.runtime.backend import RawSegmentation

WALL, FLOOR, CHAIR, STOOL, TABLE = 'wall', 'floor', 'chair', 'stool', 'table'
NAMES = (WALL, FLOOR, CHAIR, STOOL, TABLE)
SIZE_HW = (96, 128)


def vocabulary(version=1, names=NAMES):
    return Vocabulary(
        version, tuple(VocabularyClass(10 + NAMES.index(name), (name,), name not in (WALL, FLOOR)) for name in names)
    )


VOCABULARY = vocabulary()


def frame(*objects, vocabulary=VOCABULARY, size_hw=SIZE_HW, score=0.8):
    """Return a result with (name, x0, y0, x1, y1) painted one over the other; stuff of one name is one segment."""
    names = [entry.name for entry in vocabulary.classes]
    query_map = np.zeros(size_hw, np.int32)
    stuff = {}
    for number, (name, x0, y0, x1, y1) in enumerate(objects, start=1):
        value = stuff.setdefault(name, number) if name in (WALL, FLOOR) else number
        query_map[max(y0, 0) : max(y1, 0), max(x0, 0) : max(x1, 0)] = value
    index = np.array([names.index(entry[0]) for entry in objects], np.int64)
    return list_segments(
        RawSegmentation(query_map, index, np.broadcast_to(np.float32(score), len(objects))),
        vocabulary,
        STRETCH.place(size_hw, size_hw),
    )


def track(tracker, results, step_s=0.1, start_s=0.0, vocabulary=VOCABULARY, images=None):
    return [
        tracker.update(result, start_s + number * step_s, vocabulary, None if images is None else images[number])
        for number, result in enumerate(results)
    ]


def ids(result, name):
    return [segment.id for segment in result.segments if segment.class_name == name]


def id_at(result, x, y):
    return int(result.panoptic_map[y, x])


def test_the_first_frame_keeps_its_content():
    plain = frame((WALL, 0, 0, 128, 96), (CHAIR, 10, 10, 40, 50), (STOOL, 60, 60, 90, 90))
    tracked = Tracker().update(plain, 0.0, VOCABULARY)
    assert tracked.segments == plain.segments
    np.testing.assert_array_equal(tracked.panoptic_map, plain.panoptic_map)
    assert tracked.vocabulary_version == 1


def test_ids_persist_where_the_order_of_areas_changes():
    results = [
        frame((WALL, 0, 0, 128, 96), (CHAIR, 5, 5, 30 + n, 50), (CHAIR, 70, 5, 120 - n, 50)) for n in range(0, 30, 3)
    ]
    assert [id_at(result, 10, 10) for result in results] != [id_at(results[0], 10, 10)] * 10
    tracked = track(Tracker(), results)
    for x, y in ((10, 10), (75, 10), (64, 90)):
        assert len({id_at(result, x, y) for result in tracked}) == 1


def test_objects_that_cross():
    results = [
        frame((TABLE, 10 + 6 * n, 20, 50 + 6 * n, 40), (CHAIR, 80 - 6 * n, 25, 100 - 6 * n, 60)) for n in range(10)
    ]
    tracked = track(Tracker(), results)
    assert len({tuple(ids(result, TABLE)) for result in tracked}) == 1
    assert len({tuple(ids(result, CHAIR)) for result in tracked}) == 1


def test_alike_objects_that_cross():
    # The upper ends show which is which.
    results = [
        frame((CHAIR, 10 + 6 * n, 10, 40 + 6 * n, 60), (CHAIR, 80 - 6 * n, 40, 110 - 6 * n, 90)) for n in range(12)
    ]
    tracked = track(Tracker(), results)
    assert len({id_at(result, 12 + 6 * n, 15) for n, result in enumerate(tracked)}) == 1
    assert len({id_at(result, 90 - 6 * n, 85) for n, result in enumerate(tracked)}) == 1


@pytest.mark.parametrize(('hidden_s', 'is_same'), [(1.0, True), (1.9, True), (2.2, False)])
def test_occlusion(hidden_s, is_same):
    seen = frame((WALL, 0, 0, 128, 96), (CHAIR, 50, 40, 80, 80))
    hidden = frame((WALL, 0, 0, 128, 96), (TABLE, 20, 10, 110, 90))
    tracker = Tracker(TrackerOptions(max_missed_s=2.0))
    first = tracker.update(seen, 0.0, VOCABULARY)
    for number in range(1, round(hidden_s * 10)):
        assert ids(tracker.update(hidden, number / 10, VOCABULARY), CHAIR) == []
    again = tracker.update(seen, hidden_s, VOCABULARY)
    assert (ids(again, CHAIR) == ids(first, CHAIR)) is is_same


def test_a_hidden_object_moves_with_the_camera():
    noise = np.random.default_rng(0).integers(0, 256, (24, 64, 3), np.uint8)
    scene = cv2.resize(noise, (256, 96), interpolation=cv2.INTER_CUBIC)
    positions = range(0, 80, 8)
    images = [scene[:, x : x + 128] for x in positions]
    # Two alike objects, 24 wide and 40 apart, slide through the image; the left one is missed in between.
    results = [
        frame((CHAIR, 90 - x, 30, 114 - x, 54), *([(CHAIR, 50 - x, 30, 74 - x, 54)] if not 24 <= x <= 40 else []))
        for x in positions
    ]
    tracked = track(Tracker(), results, images=images)
    right = {id_at(result, 95 - x, 40) for x, result in zip(positions, tracked, strict=True)}
    left = [id_at(result, 70 - x, 40) for x, result in zip(positions, tracked, strict=True) if 70 - x >= 0]
    assert len(right) == 1
    assert set(left) - {0} == {left[0]}
    assert left.count(0) == 3


def test_a_fast_pan_needs_the_image():
    noise = np.random.default_rng(1).integers(0, 256, (24, 96, 3), np.uint8)
    scene = cv2.resize(noise, (384, 96), interpolation=cv2.INTER_CUBIC)
    positions = [0, 30, 60, 90, 120]
    images = [scene[:, x : x + 128] for x in positions]
    # A row of posts; each step takes every post to where its neighbour was.
    posts = range(5, 250, 30)
    results = [
        frame((WALL, 0, 0, 128, 96), *((CHAIR, p - x, 20, p - x + 10, 80) for p in posts if 0 <= p - x < 118))
        for x in positions
    ]
    seen = {}
    for x, result in zip(positions, track(Tracker(), results, images=images), strict=True):
        for post in posts:
            if 0 <= post - x < 118:
                seen.setdefault(post, set()).add(id_at(result, post - x + 5, 50))
    assert [len(found) for found in seen.values()] == [1] * len(seen)
    assert len(set.union(*seen.values())) == len(seen)


def test_a_flip_of_the_label_is_smoothed():
    names = [CHAIR] * 5 + [STOOL] + [CHAIR] * 3
    tracked = track(Tracker(), [frame((WALL, 0, 0, 128, 96), (name, 40, 40, 80, 80)) for name in names])
    assert {id_at(result, 60, 60) for result in tracked} == {id_at(tracked[0], 60, 60)}
    assert [ids(result, CHAIR) for result in tracked] == [ids(tracked[0], CHAIR)] * 9
    scores = [next(s.score for s in result.segments if s.class_name == CHAIR) for result in tracked]
    assert scores[4] == pytest.approx(0.8)
    assert scores[5] < scores[6] < scores[7] < 0.8


def test_a_lasting_change_of_the_label_keeps_the_id():
    results = [frame((CHAIR if n < 10 else STOOL, 40, 40, 80, 80)) for n in range(30)]
    tracked = track(Tracker(), results)
    assert {id_at(result, 60, 60) for result in tracked} == {1}
    names = [result.segments[0].class_name for result in tracked]
    assert names == sorted(names)
    assert names[-1] == STOOL


def test_without_smoothing_only_the_id_is_kept():
    tracker = Tracker(TrackerOptions(label_time_s=0.0))
    tracked = track(tracker, [frame((name, 40, 40, 80, 80)) for name in (CHAIR, STOOL, CHAIR)])
    assert [result.segments[0].class_name for result in tracked] == [CHAIR, STOOL, CHAIR]
    assert [result.segments[0].id for result in tracked] == [1, 1, 1]


def test_stuff_that_becomes_alike_is_one_segment():
    results = [frame((CHAIR, 0, 0, 60, 96), (WALL, 60, 0, 128, 96), score=(0.1, 0.9))] * 5
    # The left region becomes a wall at once, for it was hardly a chair; the right one still is one.
    results += [frame((WALL, 0, 0, 60, 96), (FLOOR, 60, 0, 128, 96), score=(0.9, 0.9))] * 20
    tracked = track(Tracker(), results)
    assert [s.class_name for s in tracked[4].segments] == [WALL, CHAIR]
    joined = tracked[5]
    assert [(s.class_name, s.area, s.box_xyxy) for s in joined.segments] == [(WALL, 96 * 128, (0, 0, 128, 96))]
    assert ids(joined, WALL) == ids(tracked[4], WALL)
    assert 0.4 < joined.segments[0].score < 0.9
    assert (joined.panoptic_map == joined.segments[0].id).all()
    assert [(s.id, s.class_name) for s in tracked[-1].segments] == [(1, FLOOR), (2, WALL)]


def test_stuff_keeps_its_id_wherever_it_is():
    results = [frame((FLOOR, 0, 0, 40, 40)), frame((FLOOR, 90, 60, 128, 96)), frame((FLOOR, 0, 0, 128, 5))]
    assert [ids(result, FLOOR) for result in track(Tracker(), results)] == [[1]] * 3


def test_what_ended_leaves_its_id_to_rest():
    options = TrackerOptions(max_missed_s=1.0, id_quarantine_s=5.0)
    tracker = Tracker(options)
    chair, table = frame((CHAIR, 0, 0, 30, 30)), frame((TABLE, 60, 60, 100, 96))
    assert ids(tracker.update(chair, 0.0, VOCABULARY), CHAIR) == [1]
    assert ids(tracker.update(table, 2.0, VOCABULARY), TABLE) == [2]
    assert ids(tracker.update(chair, 4.0, VOCABULARY), CHAIR) == [3]
    assert ids(tracker.update(table, 6.0, VOCABULARY), TABLE) == [1]


@pytest.mark.parametrize('jump_s', [-100.0, -1.5, 30.0])
def test_a_jump_of_the_clock(jump_s):
    chair = frame((CHAIR, 40, 40, 80, 80))
    stool = frame((STOOL, 40, 40, 80, 80))
    tracker = Tracker()
    before = track(tracker, [chair] * 5, start_s=1000.0)
    after = track(tracker, [stool] * 5, start_s=1000.4 + jump_s)
    assert {result.segments[0].id for result in before} == {1}
    assert [(s.id, s.class_name, s.score) for r in after for s in r.segments] == [(2, STOOL, pytest.approx(0.8))] * 5


def test_frames_in_the_wrong_order_keep_their_tracks():
    chair = frame((CHAIR, 40, 40, 80, 80))
    tracker = Tracker(TrackerOptions(max_missed_s=0.5))
    times_s = [5.0, 5.1, 5.05, 5.2, 4.3, 5.3]
    assert [ids(tracker.update(chair, time_s, VOCABULARY), CHAIR) for time_s in times_s] == [[1]] * 6
    # A clock that runs backwards by little at a time is one that was set back.
    backwards_s = [4.7, 4.5, 4.29, 4.1]
    assert [ids(tracker.update(chair, time_s, VOCABULARY), CHAIR) for time_s in backwards_s] == [[1], [1], [2], [2]]


def test_ids_rest_anew_when_the_clock_goes_back():
    tracker = Tracker(TrackerOptions(max_missed_s=1.0, id_quarantine_s=5.0))
    chair, table = frame((CHAIR, 0, 0, 30, 30)), frame((TABLE, 60, 60, 100, 96))
    assert ids(tracker.update(chair, 1000.0, VOCABULARY), CHAIR) == [1]
    assert ids(tracker.update(chair, 10.0, VOCABULARY), CHAIR) == [2]
    assert ids(tracker.update(table, 14.0, VOCABULARY), TABLE) == [3]
    assert ids(tracker.update(chair, 15.5, VOCABULARY), CHAIR) == [1]


def test_the_same_time_twice():
    chair = frame((CHAIR, 40, 40, 80, 80))
    tracker = Tracker()
    assert [tracker.update(chair, 3.0, VOCABULARY).segments[0].id for _ in range(3)] == [1, 1, 1]


def test_reset():
    chair = frame((CHAIR, 40, 40, 80, 80))
    tracker = Tracker()
    tracker.reset()
    assert tracker.update(chair, 0.0, VOCABULARY).segments[0].id == 1
    tracker.reset()
    assert tracker.update(chair, 0.1, VOCABULARY).segments[0].id == 2


def test_another_image_size():
    tracker = Tracker()
    track(tracker, [frame((CHAIR, 40, 40, 80, 80))] * 3)
    other = tracker.update(frame((STOOL, 40, 40, 80, 80), size_hw=(128, 96)), 0.3, VOCABULARY)
    assert [(s.id, s.class_name) for s in other.segments] == [(2, STOOL)]


def test_a_word_that_goes_labels_nothing_more():
    tracker = Tracker()
    track(tracker, [frame((WALL, 0, 0, 128, 96), (CHAIR, 40, 40, 80, 80))] * 9)
    fewer = vocabulary(2, (WALL, STOOL))
    now = tracker.update(frame((WALL, 0, 0, 128, 96), (STOOL, 40, 40, 80, 80), vocabulary=fewer, score=0.3), 0.9, fewer)
    assert [(s.id, s.class_name) for s in now.segments] == [(1, WALL), (2, STOOL)]
    assert now.segments[1].score == pytest.approx(0.3)
    assert now.vocabulary_version == 2


def test_a_word_that_stays_keeps_its_votes():
    tracker = Tracker()
    track(tracker, [frame((CHAIR, 40, 40, 80, 80))] * 9)
    fewer = vocabulary(2, (CHAIR, STOOL))
    now = tracker.update(frame((STOOL, 40, 40, 80, 80), vocabulary=fewer), 0.9, fewer)
    assert [(s.id, s.class_name) for s in now.segments] == [(1, CHAIR)]


def test_an_id_of_a_class_with_another_name_is_another_class():
    tracker = Tracker()
    track(tracker, [frame((CHAIR, 40, 40, 80, 80))] * 9)
    chair = VOCABULARY.classes[2]
    renamed = Vocabulary(2, (replace(chair, names=('armchair', 'chair')),))
    result = replace(frame((CHAIR, 40, 40, 80, 80)), vocabulary_version=2)
    result = replace(result, segments=(replace(result.segments[0], class_name='armchair'),))
    assert tracker.update(result, 0.9, renamed).segments[0].class_name == 'armchair'


def test_a_result_of_another_vocabulary_is_refused():
    with pytest.raises(ValueError, match='result of vocabulary 1 with vocabulary 2'):
        Tracker().update(frame((CHAIR, 0, 0, 9, 9)), 0.0, vocabulary(2))


@pytest.mark.parametrize('time_s', [float('nan'), float('inf')])
def test_a_time_that_is_none_is_refused(time_s):
    tracker = Tracker()
    with pytest.raises(ValueError, match='time_s must be finite'):
        tracker.update(frame((CHAIR, 0, 0, 9, 9)), time_s, VOCABULARY)
    assert tracker.update(frame((CHAIR, 0, 0, 9, 9)), 0.0, VOCABULARY).segments[0].id == 1


@pytest.mark.parametrize(
    ('name', 'value'),
    [('max_missed_s', -1), ('id_quarantine_s', float('inf')), ('label_time_s', float('nan')), ('label_hysteresis', 0)],
)
def test_options_out_of_range(name, value):
    with pytest.raises(ValueError, match=f'{name} must be at least'):
        TrackerOptions(**{name: value})


def test_nothing_to_track():
    empty = frame()
    tracker = Tracker()
    assert [result.segments for result in track(tracker, [empty, empty])] == [(), ()]
    chair = frame((CHAIR, 40, 40, 80, 80))
    tracked = track(tracker, [chair, empty, chair], start_s=0.2)
    assert [ids(result, CHAIR) for result in tracked] == [[1], [], [1]]


def test_inputs_stay_as_they_are():
    results = [frame((WALL, 0, 0, 128, 96), (CHAIR, 30 + n, 10, 60 + n, 50), (CHAIR, 1, 1, 9, 9)) for n in range(5)]
    copies = [replace(result, panoptic_map=result.panoptic_map.copy()) for result in results]
    for result in results:
        result.panoptic_map.setflags(write=False)
    tracked = track(Tracker(), results)
    for result, copy in zip(results, copies, strict=True):
        np.testing.assert_array_equal(result.panoptic_map, copy.panoptic_map)
        assert result.segments == copy.segments
    # What was handed out does not change later either.
    again = track(Tracker(), results)
    for one, other in zip(tracked, again, strict=True):
        np.testing.assert_array_equal(one.panoptic_map, other.panoptic_map)


def test_more_tracks_than_ids():
    tracker = Tracker(TrackerOptions(max_missed_s=1.0, id_quarantine_s=1e6))
    grid = [(CHAIR, x, y, x + 4, y + 4) for y in range(0, 96, 4) for x in range(0, 128, 4)]
    full = frame(*grid)
    for number in range(90):
        result = tracker.update(full, 10.0 * number, VOCABULARY)
        assert len({segment.id for segment in result.segments}) == len(grid)
    # 90 x 768 ids are more than there are: those that rested longest come again.
    assert 90 * len(grid) > 65535
    assert min(segment.id for segment in result.segments) < 90 * len(grid) - 65535


def test_ids_that_are_larger_than_a_byte():
    tracker = Tracker()
    grid = [(CHAIR, x, y, x + 4, y + 4) for y in range(0, 96, 8) for x in range(0, 128, 4)]
    assert max(segment.id for segment in tracker.update(frame(*grid), 0.0, VOCABULARY).segments) == len(grid)
    tracker.reset()
    result = tracker.update(frame((WALL, 0, 0, 128, 96), (CHAIR, 10, 10, 40, 50)), 1.0, VOCABULARY)
    assert [segment.id for segment in result.segments] == [len(grid) + 1, len(grid) + 2]
    assert (id_at(result, 90, 90), id_at(result, 20, 20)) == (*ids(result, WALL), *ids(result, CHAIR))


def test_only_so_many_lost_tracks_are_looked_for():
    tracker = Tracker(TrackerOptions(max_missed_s=1000.0, id_quarantine_s=0.0))
    grid = [(CHAIR, x, y, x + 2, y + 2) for y in range(0, 96, 8) for x in range(0, 128, 8)]
    tracker.update(frame(*grid), 0.0, VOCABULARY)
    tracker.update(frame((TABLE, 3, 3, 5, 5)), 1.0, VOCABULARY)
    again = tracker.update(frame(*grid), 2.0, VOCABULARY)
    kept = sum(segment.id <= len(grid) for segment in again.segments)
    assert 100 <= kept < len(grid)
