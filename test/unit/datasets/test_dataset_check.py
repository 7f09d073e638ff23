import pytest

from fisa_ros.core.errors import DataError
from fisa_ros.datasets.dataset_check import check_dataset
from fisa_ros.datasets.registry import open_dataset

from . import published


def test_images_and_classes_are_counted(tmp_path):
    published.coco(tmp_path)
    counts = check_dataset(open_dataset('coco-panoptic', tmp_path))
    assert (counts.images, counts.segments) == (2, 4)
    assert len(counts.images_with) == 133
    assert {name: count for name, count in counts.images_with.items() if count} == {
        'person': 1, 'sky': 1, 'brick wall': 1,
    }  # fmt: skip


def test_a_class_of_two_images_counts_twice(tmp_path):
    published.cityscapes_instances(tmp_path)
    counts = check_dataset(open_dataset('cityscapes', tmp_path))
    assert counts.images_with['car'] == 1
    assert counts.images == 2
    limited = check_dataset(open_dataset('cityscapes', tmp_path), limit=1)
    assert (limited.images, limited.segments, limited.images_with['sky']) == (1, 4, 0)


def test_a_broken_image_is_found(tmp_path):
    published.ade_semantic(tmp_path)
    path = next(tmp_path.glob('*/images/validation/*2.jpg'))
    path.write_bytes(path.read_bytes()[:300])
    dataset = open_dataset('ade20k-150', tmp_path)
    assert check_dataset(dataset, limit=1).images == 1
    with pytest.raises(DataError, match=path.name):
        check_dataset(dataset)
