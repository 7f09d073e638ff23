import numpy as np
import pytest

from fisa_ros.core.errors import DataError
from fisa_ros.core.placement import STRETCH, Resize
from fisa_ros.datasets.coco_panoptic import DatasetCategory, PanopticDataset, SegmentInfo
from fisa_ros.evaluation.category_map import CategoryMap
from fisa_ros.evaluation.image_truth import ImageTruth
from fisa_ros.training.batches import instance_masks

CATEGORIES = CategoryMap.from_names([DatasetCategory(50, 'cat', True), DatasetCategory(60, 'grass', False)])
CAT, GRASS = 1, 2
MAP = np.array([[70000, 70000, 5, 5], [70000, 70000, 5, 5], [9, 9, 9, 0], [8, 8, 8, 3]])


def masks_of(truth, height, width):
    return truth.masks(STRETCH.place(truth.size_hw, (height, width)))


def test_segments_are_numbered_and_stuff_is_one_segment():
    truth = ImageTruth.of(MAP, [(70000, CAT, False), (5, CAT, False), (9, GRASS, False), (8, GRASS, False)], CATEGORIES)
    np.testing.assert_array_equal(truth.panoptic_map, [[1, 1, 2, 2], [1, 1, 2, 2], [3, 3, 3, 0], [3, 3, 3, 0]])
    assert truth.categories.tolist() == [CAT, CAT, GRASS]
    np.testing.assert_array_equal(truth.semantic_map[2:], [[2, 2, 2, 0], [2, 2, 2, 0]])
    assert truth.size_hw == (4, 4)


def test_listed_areas_follow_the_numbers():
    segments = [(70000, CAT, False), (9, GRASS, False), (8, GRASS, False)]
    truth = ImageTruth.of(MAP, segments, CATEGORIES, {70000: 4, 9: 7, 8: 5})
    assert truth.listed_areas.tolist() == [4, 12]
    assert ImageTruth.of(MAP, segments, CATEGORIES).listed_areas.tolist() == [0, 0]


def test_a_crowd_of_stuff_stays_apart():
    truth = ImageTruth.of(MAP, [(9, GRASS, False), (8, GRASS, True)], CATEGORIES)
    assert truth.is_crowd.tolist() == [False, True]
    np.testing.assert_array_equal(np.unique(truth.panoptic_map), [0, 1, 2])


def test_masks_are_shares_of_cells():
    # 8x8 pixels, 2x2 cells; the cat has a whole cell and 4 of 16 pixels of the next.
    panoptic_map = np.full((8, 8), 2)
    panoptic_map[:4, :5] = 1
    truth = ImageTruth.of(panoptic_map, [(1, CAT, False), (2, GRASS, False)], CATEGORIES)
    masks, categories = masks_of(truth, 8, 8)
    np.testing.assert_allclose(masks, [[[1, 0.25], [0, 0]], [[0, 0.75], [1, 1]]])
    assert masks.dtype == np.float32
    assert categories.tolist() == [CAT, GRASS]


def test_masks_follow_the_size_of_the_network():
    panoptic_map = np.repeat([[1, 2]], 3, axis=0).repeat(5, axis=1)
    truth = ImageTruth.of(panoptic_map, [(1, CAT, False), (2, GRASS, False)], CATEGORIES)
    np.testing.assert_allclose(masks_of(truth, 16, 16)[0][0], [[1, 1, 0, 0]] * 4)


def test_crowds_and_specks_are_no_masks():
    panoptic_map = np.zeros((8, 8), int)
    panoptic_map[:2, :4] = 1
    panoptic_map[4, 4:] = 2
    panoptic_map[4, :3] = 2
    panoptic_map[6:, :] = 3
    segments = [(1, CAT, False), (2, CAT, False), (3, CAT, True)]
    masks, categories = masks_of(ImageTruth.of(panoptic_map, segments, CATEGORIES), 8, 8)
    assert len(masks) == len(categories) == 1
    assert masks.sum() == 0.5
    assert masks_of(ImageTruth.of(panoptic_map, [], CATEGORIES), 8, 8)[0].shape == (0, 2, 2)


def test_the_size_must_have_whole_cells():
    with pytest.raises(DataError, match=r'multiple of 4 pixels, got \(8, 10\)'):
        masks_of(ImageTruth.of(MAP, [], CATEGORIES), 8, 10)


def test_masks_are_those_of_training():
    rng = np.random.default_rng(3)
    panoptic_map = np.kron(rng.integers(0, 6, (8, 8)), np.ones((7, 5), int)).astype(np.int32)[:48, :40]
    truth = ImageTruth.of(panoptic_map, [(number, CAT, False) for number in range(1, 6)], CATEGORIES)
    infos = [SegmentInfo(number, 50, False) for number in range(1, 6)]
    expected, _ = instance_masks(panoptic_map, infos)
    np.testing.assert_allclose(masks_of(truth, 48, 40)[0], expected.numpy())


def test_a_data_set_is_read_in_numbers(write_panoptic):
    image = np.zeros((4, 4, 3), np.uint8)
    categories = [(50, 'cat', True), (60, 'grass', False), (61, 'sky', False)]
    images, path = write_panoptic(categories, [(image, MAP, {70000: 50, 5: 50, 9: 60, 8: 60, 3: 61})], crowds=[5])
    dataset = PanopticDataset.open(images, path)
    truth = ImageTruth.read(dataset, 0, CATEGORIES)
    # The sky is in no class, so it is void.
    np.testing.assert_array_equal(truth.panoptic_map, [[1, 1, 2, 2], [1, 1, 2, 2], [3, 3, 3, 0], [3, 3, 3, 0]])
    assert truth.is_crowd.tolist() == [False, True, False]
    assert truth.crowds == [2]
    assert truth.category_of == {1: 1, 2: 1, 3: 2}


def test_masks_of_a_padded_image_have_nothing_in_the_padding():
    panoptic_map = np.ones((12, 24), np.int32)
    panoptic_map[:, 12:] = 2
    truth = ImageTruth.of(panoptic_map, [(1, CAT, False), (2, GRASS, False)], CATEGORIES)
    masks, categories = truth.masks(Resize('pad').place((12, 24), (16, 16)))
    left = [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
    assert masks.tolist() == [left, [row[::-1] for row in left]]
    assert categories.tolist() == [CAT, GRASS]
