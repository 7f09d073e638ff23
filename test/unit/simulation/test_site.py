import hashlib
import json

import numpy as np
import pytest

from fisa_ros.core.errors import DataError
from fisa_ros.core.vocabulary import VocabularyRegistry, VocabularyRequest
from fisa_ros.datasets.coco_panoptic import PanopticDataset
from fisa_ros.simulation.categories import CATEGORIES, CATEGORY_BY_NAME, SITE_CATEGORIES
from fisa_ros.simulation.dataset_writer import SimulationSettings, write_dataset
from fisa_ros.simulation.frames import view_frames
from fisa_ros.simulation.room import make_room
from fisa_ros.simulation.site_items import SITE_ITEMS

SITE_NAMES = {category.name for category in SITE_CATEGORIES}
VIEWS = dict(shadow_share=0.0, with_depth=False)


def digest(seed):
    room = make_room(seed)
    total = hashlib.sha256()
    looks = [room.floor, room.wall, room.ceiling]
    for placement in room.placements:
        numbers = [round(value, 6) for value in (*placement.position, placement.yaw, placement.item.height)]
        total.update(repr((placement.item.category, numbers)).encode())
        looks += [part.material for part in placement.item.parts]
    for material in looks:
        total.update(material.rgb.tobytes())
    lamps = [round(value, 6) for light in room.lights for value in (*light.position, light.diffuse)]
    total.update(repr([*lamps, round(room.ambient, 6)]).encode())
    return total.hexdigest()[:16]


@pytest.mark.parametrize(
    ('seed', 'expected'),
    [
        (0, 'eff8715d3bcc64f9'),
        (11, 'c96f39162dc3451d'),
        (1_000_000, '34fd0dd01181058a'),
        (2_000_003, '31def711447ce4d9'),
        (3_000_007, 'c11fb6fdd546b699'),
    ],
)
def test_the_rooms_of_before_there_were_sites_are_the_same(seed, expected):
    assert digest(seed) == expected


def test_only_who_asks_for_a_site_gets_one():
    drawn = {placement.item.category for seed in range(80) for placement in make_room(seed).placements}
    assert not drawn & SITE_NAMES
    placed = [p.item.category for seed in range(40) for p in make_room(seed, 'warehouse').placements]
    assert set(placed) > SITE_NAMES
    assert all(placed.count(name) >= 5 for name in SITE_NAMES)
    assert set(placed) & {category.name for category in CATEGORIES}


def test_site_categories_follow_the_others_and_are_in_no_default_word():
    assert [category.id for category in (*CATEGORIES, *SITE_CATEGORIES)] == list(range(1, 36))
    assert list(SITE_ITEMS) == [category.name for category in SITE_CATEGORIES]
    words = {
        name
        for entry in VocabularyRegistry().propose(VocabularyRequest.parse('indoor')).classes
        for name in entry.names
    }
    assert not words & SITE_NAMES


@pytest.mark.parametrize('name', sorted(SITE_NAMES))
def test_items_stand_on_the_floor_within_their_footprint(name):
    for seed in range(20):
        item = SITE_ITEMS[name](np.random.default_rng(seed))
        assert item.category == name
        for part in item.parts:
            assert -0.01 <= part.position[2] <= item.height + 0.5
            assert all(abs(part.position[axis]) <= item.footprint[axis] / 2 + 0.02 for axis in (0, 1))


def test_views_of_a_site_show_its_objects():
    frames = [next(view_frames(seed, [0], (96, 72), style='warehouse', **VIEWS)) for seed in range(20)]
    shown = [{segment.class_name for segment in frame.segments} & SITE_NAMES for frame in frames]
    assert sum(map(bool, shown)) >= 15
    assert len(set.union(*shown)) >= 4
    for frame in frames:
        assert all(CATEGORY_BY_NAME[segment.class_name].id == segment.class_id for segment in frame.segments)
        assert frame.color.std() > 10


def test_a_data_set_of_a_site_lists_its_categories(tmp_path):
    write_dataset(tmp_path, SimulationSettings('train', (64, 48), 1, style='warehouse'), 2, processes=1)
    dataset = PanopticDataset.open(tmp_path / 'train', tmp_path / 'annotations/panoptic_train.json')
    assert [entry.name for entry in dataset.categories.values()] == [
        entry.name for entry in (*CATEGORIES, *SITE_CATEGORIES)
    ]
    captions = json.loads((tmp_path / 'annotations/captions_train.json').read_text())['annotations']
    assert captions
    # Another style cannot go on in it.
    with pytest.raises(DataError, match='style warehouse, not None'):
        write_dataset(tmp_path, SimulationSettings('train', (64, 48), 1), 2, processes=1)


def test_unknown_styles_are_refused():
    with pytest.raises(DataError, match="style must be one of home, office, workshop, warehouse, got 'moon'"):
        SimulationSettings('train', style='moon')
