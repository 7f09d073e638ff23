from itertools import pairwise

import numpy as np
import pytest

from fisa_ros.simulation.frames import sequence_frames, view_frames
from fisa_ros.simulation.room import make_room
from fisa_ros.simulation.scene import build_scene

SEED = 2_000_004
SIZE_WH = (96, 72)
VIEWS = dict(shadow_share=0.0, with_depth=False)
SEQUENCE = dict(rate_hz=5.0, shadow_share=0.0, with_depth=False)


@pytest.fixture(scope='module')
def views():
    return list(view_frames(SEED, range(3), SIZE_WH, **VIEWS))


@pytest.fixture(scope='module')
def sequence():
    return list(sequence_frames(SEED, range(8), SIZE_WH, **SEQUENCE))


def test_views_of_a_room_differ(views):
    assert [frame.number for frame in views] == [0, 1, 2]
    assert all(frame.color.shape == (72, 96, 3) and frame.depth is None for frame in views)
    assert len({frame.color.tobytes() for frame in views}) == 3


@pytest.mark.parametrize('kind', ['views', 'sequence'])
def test_an_image_does_not_depend_on_which_others_are_rendered(kind, views, sequence):
    if kind == 'views':
        (alone,), among = view_frames(SEED, [2], SIZE_WH, **VIEWS), views[2]
    else:
        (alone,), among = sequence_frames(SEED, [5], SIZE_WH, **SEQUENCE), sequence[5]
    assert np.array_equal(alone.color, among.color)
    assert np.array_equal(alone.instance_map, among.instance_map)
    assert (alone.number, alone.segments, alone.attributes) == (among.number, among.segments, among.attributes)


def test_a_sequence_moves_and_keeps_its_ids(sequence):
    assert len({frame.color.tobytes() for frame in sequence}) == 8
    names = {}
    for earlier, later in pairwise(sequence):
        assert np.mean(earlier.instance_map == later.instance_map) > 0.5
    for frame in sequence:
        for segment in frame.segments:
            assert names.setdefault(segment.id, segment.class_name) == segment.class_name
    assert any(sum(s.id == number for f in sequence for s in f.segments) == 8 for number in names)


def test_the_rate_is_the_speed_of_the_camera(sequence):
    (half_rate,) = sequence_frames(SEED, [1], SIZE_WH, **{**SEQUENCE, 'rate_hz': 2.5})
    same = [np.mean(half_rate.instance_map == frame.instance_map) for frame in sequence[:4]]
    assert np.argmax(same) == 2
    assert same[2] > 0.9


def test_segments_have_the_adjectives_of_their_items(views):
    room = make_room(SEED)
    by_category = {}
    for placement in room.placements:
        by_category.setdefault(placement.item.category, set()).add(placement.item.attributes)
    seen = 0
    for frame in views:
        for segment, attributes in zip(frame.segments, frame.attributes, strict=True):
            if segment.is_thing:
                assert attributes in by_category[segment.class_name]
                seen += bool(attributes)
            elif segment.class_name in ('floor', 'wall', 'ceiling'):
                assert attributes == ()
            else:
                assert all(set(attributes) <= set(of_item) for of_item in by_category[segment.class_name])
    assert seen > 3


def test_fused_stuff_keeps_only_what_is_true_of_all_of_it():
    mixed = 0
    for seed in range(SEED, SEED + 12):
        scene = build_scene(make_room(seed), SIZE_WH)
        for category, attributes in zip(scene.categories, scene.attributes, strict=True):
            looks = {p.item.attributes for p in scene.room.placements if p.item.category == category.name}
            if not category.is_thing and len(looks) > 1:
                mixed += 1
                assert set(attributes) == set.intersection(*map(set, looks))
    assert mixed > 0


def test_shadows_and_depth():
    lit = list(view_frames(SEED, [0], SIZE_WH, shadow_share=0.0, with_depth=True))
    shaded = list(view_frames(SEED, [0], SIZE_WH, shadow_share=1.0, with_depth=False))
    assert np.mean(lit[0].color != shaded[0].color) > 0.01
    assert np.array_equal(lit[0].instance_map, shaded[0].instance_map)
    assert lit[0].depth.shape == (72, 96)
    assert 0.01 < lit[0].depth.min() < lit[0].depth.max() < 15
