"""Opens published data sets by name."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from fisa_ros.core.errors import DataError
from fisa_ros.datasets.category_table import CategoryTable
from fisa_ros.datasets.coco_panoptic import DatasetCategory, PanopticDataset
from fisa_ros.datasets.layouts import FoundLayout, find_layout
from fisa_ros.datasets.self_described_maps import CityscapesCoding, MapCoding, MapRecords, SemanticCoding, pair_files

_VOCABULARIES = {
    'coco-panoptic': 'coco-133',
    'ade20k-150': 'ade20k-150',
    'ade20k-847': 'ade20k-847',
    'cityscapes': 'cityscapes-19',
    'mapillary-vistas': 'mapillary-vistas',
    'pascal-context-59': 'pascal-context-59',
    'pascal-context-459': 'pascal-context-459',
}
DATASETS = tuple(_VOCABULARIES)
"""Names of the data sets."""

SPLITS = ('train', 'val')


def vocabulary_of(name: str) -> str:
    """Return the shipped vocabulary of a data set: its classes are the categories, in the same order.

    Raises:
        DataError: There is no such data set.
    """
    _check_name(name)
    return _VOCABULARIES[name]


def open_dataset(name: str, root: Path, split: str = 'val', *, semantic: bool = False) -> PanopticDataset:
    """Open a published data set in one of the layouts in which it is distributed or usually prepared.

    Categories have the names of the classes of `vocabulary_of(name)`, in the same order, and not the names that the
    data set gives them, as some of those are no words ("sky-other-merged") or not unique.

    Args:
        name: One of `DATASETS`.
        root: Folder that holds the data set, or that holds its folder under its usual name.
        split: 'train' or 'val'.
        semantic: Whether to read the classes alone where a data set has them besides its instances.

    Raises:
        DataError: There is no such data set or split, files are missing, or the annotations break the format or have
            other categories.
    """
    _check_name(name)
    if split not in SPLITS:
        raise DataError(f'data set {name} has no split {split!r}, choose from {", ".join(SPLITS)}')
    found = find_layout(name, root, split, semantic=semantic)
    table = CategoryTable.shipped(name)
    dataset = _open_maps(found, table.spoken) if found.panoptic_json is None else _open_json(name, found, table)
    if not len(dataset):
        raise DataError(f'{dataset.path} has no images')
    return dataset


def _open_json(name: str, found: FoundLayout, table: CategoryTable) -> PanopticDataset:
    assert found.panoptic_json is not None
    find_image = _cityscapes_image if name == 'cityscapes' else Path.joinpath
    dataset = PanopticDataset.open(
        found.images, found.panoptic_json, found.maps, find_image,
        may_hide_segments=found.layout.may_hide_segments, may_swap_size=found.layout.may_swap_size,
    )  # fmt: skip
    used_ids = {segment.category_id for record in dataset.records for segment in record.segments}
    table.check(dataset.categories.values(), used_ids, found.panoptic_json)
    return replace(dataset, categories=table.spoken)


def _open_maps(found: FoundLayout, categories: Mapping[int, DatasetCategory]) -> PanopticDataset:
    layout = found.layout
    coding: MapCoding
    if layout.first_value is None:
        coding = CityscapesCoding(categories)
    else:
        coding = SemanticCoding(tuple(categories), layout.first_value, layout.void_value)
    paths = pair_files(
        found.images, layout.image_suffix, found.maps, layout.map_suffix, has_other_images=layout.has_other_images
    )
    records = MapRecords(paths, coding)
    return PanopticDataset(found.maps, categories, records, records.read_ids, has_instances=layout.has_instances)


def _cityscapes_image(images_dir: Path, name: str) -> Path:
    """Return the image that `createPanopticImgs.py` of cityscapesScripts means: it leaves the city's folder out."""
    stem = name.removesuffix('_leftImg8bit.png').removesuffix('_gtFine')
    return images_dir / stem.split('_', 1)[0] / f'{stem}_leftImg8bit.png'


def _check_name(name: str) -> None:
    if name not in _VOCABULARIES:
        raise DataError(f'there is no data set {name!r}, choose from {", ".join(DATASETS)}')
