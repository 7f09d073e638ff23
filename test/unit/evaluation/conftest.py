from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
import pytest

from fisa_ros.core.placement import Resize
from fisa_ros.datasets.coco_panoptic import DatasetCategory
from fisa_ros.evaluation.category_map import CategoryMap
from fisa_ros.evaluation.image_truth import ImageTruth
from fisa_ros.pipeline.segmenter import Segmenter


class Meadow(NamedTuple):
    """Cells of 4x4 pixels: a cat, a dog and grass; the model takes the dog for a cat and misses a cell of the cat."""

    segmenter: Segmenter
    categories: CategoryMap
    truth: ImageTruth
    image: NDArray[np.uint8]


CELLS = np.array([[1, 1, 2, 2], [1, 1, 2, 2], [3, 3, 3, 3], [3, 3, 3, 3]])
SEGMENTS = {1: 10, 2: 20, 3: 30}
CATEGORIES = ((10, 'cat', True), (20, 'dog', True), (30, 'grass', False))
SEEN = [[0, 0, 0, 0], [0, 0, 0, 0], [2, 2, 2, 2], [2, 2, 2, 2]]
MASKS = [
    [[1, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]],
    [[0, 0, 1, 1], [0, 0, 1, 1], [0, 0, 0, 0], [0, 0, 0, 0]],
    [[0, 0, 0, 0], [0, 0, 0, 0], [1, 1, 1, 1], [1, 1, 1, 1]],
    [[0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 1]],
]


@pytest.fixture
def meadow(scripted_segmenter):
    categories = CategoryMap.from_names([DatasetCategory(*entry) for entry in CATEGORIES])
    pixels = CELLS.repeat(4, axis=0).repeat(4, axis=1)
    truth = ImageTruth.of(pixels, [(1, 1, False), (2, 2, False), (3, 3, False)], categories)
    segmenter = scripted_segmenter(('cat', 'dog', 'grass'), SEEN, MASKS)
    segmenter.backend.objectness[:] = (1.0, 0.8, 1.0, 1.0)
    return Meadow(segmenter, categories, truth, np.zeros((16, 16, 3), np.uint8))


@pytest.fixture
def wide_meadow(scripted_segmenter, write_panoptic):
    """A padded image twice as wide as high, of a cat, a dog and grass, and a model that is right; its data set.

    In the padding the model sees more grass, which both of its masks of grass have, and a dog of its own. One of both
    is in front there: it leaves the other one too little, if padding counts.
    """
    categories = CategoryMap.from_names([DatasetCategory(*entry) for entry in CATEGORIES])
    cells = np.array([[1, 1, 1, 2], [3, 3, 3, 3]])
    pixels = cells.repeat(8, axis=0).repeat(8, axis=1)
    truth = ImageTruth.of(pixels, [(1, 1, False), (2, 2, False), (3, 3, False)], categories)
    below = np.array([[3, 3, 3, 3], [2, 2, 2, 2]])
    seen = np.concatenate([cells, below])
    is_left = np.arange(4) < 2
    parts = [cells == 1, cells == 2, (cells == 3) & is_left, (cells == 3) & ~is_left, cells < 0]
    spills = [below < 0, below < 0, below == 3, below == 3, below == 2]
    masks = [np.concatenate(pair) for pair in zip(parts, spills, strict=True)]
    segmenter = scripted_segmenter(('cat', 'dog', 'grass'), (seen - 1).tolist(), np.array(masks, int).tolist())
    segmenter.backend.objectness[2] = 0.9
    segmenter.manifest = replace(segmenter.manifest, resize=Resize('pad'))
    image = np.zeros((16, 32, 3), np.uint8)
    return Meadow(segmenter, categories, truth, image), write_panoptic(list(CATEGORIES), [(image, pixels, SEGMENTS)])


@pytest.fixture
def meadow_files(write_panoptic):
    """Folder of images and JSON of two views of the meadow."""
    pixels = CELLS.repeat(4, axis=0).repeat(4, axis=1)
    frame = (np.zeros((16, 16, 3), np.uint8), pixels, SEGMENTS)
    return write_panoptic(list(CATEGORIES), [frame, frame])
