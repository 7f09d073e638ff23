import numpy as np
import pytest
import yaml

from fisa_ros.core.resources import share_dir
from fisa_ros.core.vocabulary import VocabularyRegistry, VocabularyRequest
from fisa_ros.simulation.camera import SCENES, SceneCamera, free_positions
from fisa_ros.simulation.categories import CATEGORIES
from fisa_ros.simulation.room import make_room

SIZE_WH = (160, 120)


@pytest.fixture
def camera():
    camera = SceneCamera(11, SIZE_WH)
    yield camera
    camera.close()


def test_the_default_vocabulary_is_the_list_of_categories():
    vocabulary = VocabularyRegistry().propose(VocabularyRequest.parse('indoor'))
    assert [(c.name, c.is_thing) for c in vocabulary.classes] == [(c.name, c.is_thing) for c in CATEGORIES]
    assert len(CATEGORIES) >= 25
    assert {c.is_thing for c in CATEGORIES} == {True, False}


def test_no_held_out_synonym_is_a_training_word():
    document = yaml.safe_load((share_dir() / 'config/vocabularies/indoor_synonyms.yaml').read_text())
    shipped = VocabularyRegistry().propose(VocabularyRequest.parse('indoor'))
    training = {name for entry in shipped.classes for name in entry.names}
    assert list(document) == [category.name for category in CATEGORIES]
    assert training <= {word for name, entry in document.items() for word in (name, *entry['training'])}
    held_out = [word for entry in document.values() for word in entry['held_out']]
    assert len(held_out) == len(set(held_out)) >= len(CATEGORIES)
    assert not training & set(held_out)


def test_colour_depth_and_truth_fit_together(camera):
    image, depth, (instance_map, segments) = camera.color(), camera.depth(), camera.truth()
    assert image.shape == (120, 160, 3)
    assert image.dtype == np.uint8
    assert image.std() > 10
    assert depth.shape == instance_map.shape == (120, 160)
    assert 0.05 < depth.min() < depth.max() < 12
    assert {s.id for s in segments} == set(np.unique(instance_map)) - {0}
    for segment in segments:
        mask = instance_map == segment.id
        rows, columns = np.nonzero(mask)
        assert segment.area == np.count_nonzero(mask)
        assert segment.box_xyxy == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
        assert segment.class_name == CATEGORIES[segment.class_id - 1].name
    stuff = [s.class_name for s in segments if not s.is_thing]
    assert len(stuff) == len(set(stuff))
    assert np.mean(instance_map == 0) < 0.05


def test_truth_edges_are_colour_edges(camera):
    """Colour is not rendered from the truth, yet it changes where the truth does."""
    image, (instance_map, _) = camera.color().astype(int), camera.truth()
    change = np.abs(np.diff(image, axis=1)).sum(-1)
    edge = np.diff(instance_map.astype(int), axis=1) != 0
    assert change[edge].mean() > 3 * change[~edge].mean()


def test_intrinsics_project_the_depth_of_a_plane(camera):
    """Floor pixels, lifted by depth and intrinsics, lie on a plane."""
    fx, fy, cx, cy = camera.intrinsics
    depth, (instance_map, segments) = camera.depth(), camera.truth()
    floor = next(s.id for s in segments if s.class_name == 'floor')
    rows, columns = np.nonzero(instance_map == floor)
    z = depth[rows, columns].astype(float)
    points = np.stack([(columns - cx) / fx * z, (rows - cy) / fy * z, z], 1)
    centred = points - points.mean(0)
    distance = centred @ np.linalg.svd(centred, full_matrices=False)[2][-1]
    assert np.abs(distance).max() < 0.02


def test_the_camera_moves_smoothly_and_ids_stay(camera):
    first, (before, segments) = camera.color(), camera.truth()
    camera.step(0.02)
    after, later = camera.truth()
    assert (camera.color() != first).any()
    assert np.mean(before == after) > 0.85
    names = {s.id: s.class_name for s in segments}
    assert all(names.get(s.id, s.class_name) == s.class_name for s in later)


def test_a_seed_is_a_scene():
    images = []
    for seed in (3, 3, 4):
        camera = SceneCamera(seed, SIZE_WH)
        camera.step(0.5)
        images.append(camera.color())
        camera.close()
    assert np.array_equal(images[0], images[1])
    assert not np.array_equal(images[0], images[2])


@pytest.mark.parametrize('scene', SCENES)
def test_every_kind_of_scene_shows_objects(scene):
    camera = SceneCamera(21, SIZE_WH, scene)
    assert len(camera.truth()[1]) >= 3
    camera.close()


def test_unknown_scenes_are_refused():
    with pytest.raises(ValueError, match=r"scene must be one of room, home, office, workshop, warehouse, got 'moon'"):
        SceneCamera(0, SIZE_WH, 'moon')
    with pytest.raises(ValueError, match=r"style must be one of home, office, workshop, warehouse, got 'room'"):
        make_room(0, 'room')


def test_rooms_hold_every_category_and_nothing_overlaps_on_the_floor():
    seen = set()
    for seed in range(150):
        room = make_room(seed)
        seen |= {placement.item.category for placement in room.placements}
        assert len(free_positions(room)) >= 1
        for placement in room.placements:
            x, y, z = placement.position
            assert abs(x) <= room.size[0] / 2 + 0.05
            assert abs(y) <= room.size[1] / 2 + 0.05
            assert 0 <= z < room.size[2]
    assert seen == {category.name for category in CATEGORIES} - {'floor', 'wall', 'ceiling'}
