"""Reads a whole data set once, to find what is broken before hours of work depend on it."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from fisa_ros.datasets.coco_panoptic import PanopticDataset


@dataclass(frozen=True, slots=True)
class DatasetCounts:
    """What a data set holds.

    Attributes:
        images: Images read.
        segments: Segments in them.
        images_with: By name of each category, the images that have it, 0 for those that no image has.
    """

    images: int
    segments: int
    images_with: Mapping[str, int]


def check_dataset(dataset: PanopticDataset, limit: int | None = None) -> DatasetCounts:
    """Read every image and every map, and count what is in them.

    Args:
        dataset: The data set.
        limit: At most so many images.

    Raises:
        DataError: An image or a map cannot be read, or contradicts the annotations.
    """
    images = len(dataset) if limit is None else min(limit, len(dataset))
    segments = 0
    images_with = Counter(dict.fromkeys((entry.name for entry in dataset.categories.values()), 0))
    for index in range(images):
        dataset.image(index)
        dataset.panoptic_map(index)
        found = dataset.records[index].segments
        segments += len(found)
        images_with.update({dataset.categories[segment.category_id].name for segment in found})
    return DatasetCounts(images, segments, images_with)
