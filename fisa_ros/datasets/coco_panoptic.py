"""Reads data sets in the COCO panoptic format (Kirillov et al., "Panoptic Segmentation", 2019)."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
import json
import os
from pathlib import Path
from typing import Any, Protocol, Self, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from fisa_ros.core.errors import DataError
from fisa_ros.datasets.image_reading import read_rgb, read_size, size_text

_SHOWN = 5

type ImageId = int | str
"""COCO numbers its images, others name them."""


@dataclass(frozen=True, slots=True)
class DatasetCategory:
    """One category of a data set: its id there, its name, whether it is countable."""

    id: int
    name: str
    is_thing: bool


@dataclass(frozen=True, slots=True)
class SegmentInfo:
    """One segment of an image.

    Attributes:
        id: Its value in the panoptic map, 1 or more.
        category_id: An id of the data set's categories.
        is_crowd: Whether it is a group that is not told apart.
        area: Number of its pixels, those that others cover too; None where all of them are in the map.
    """

    id: int
    category_id: int
    is_crowd: bool
    area: int | None = None


@dataclass(frozen=True, slots=True)
class ImageRecord:
    """One image and its annotation.

    Attributes:
        image_id: Id in the data set.
        image_path: The image.
        map_path: The image file of its segments.
        size_hw: Height and width in pixels, as the annotations say; see `PanopticDataset.size_hw`.
        segments: What is in it; may be empty.
    """

    image_id: ImageId
    image_path: Path
    map_path: Path
    size_hw: tuple[int, int]
    segments: tuple[SegmentInfo, ...]


@runtime_checkable
class UnreadRecords(Protocol):
    """Records that are read from the maps when they are asked for."""

    @property
    def image_ids(self) -> Sequence[ImageId]:
        """Ids of all images, without reading a map."""
        ...


def read_coco_ids(path: Path) -> NDArray[np.int32]:
    """Return the segment ids of a PNG of the COCO panoptic format, `(H, W)` int32: id = R + 256 G + 65536 B.

    Raises:
        DataError: It cannot be read.
    """
    rgb = read_rgb(path).astype(np.int32)
    ids: NDArray[np.int32] = rgb[..., 0] + 256 * rgb[..., 1] + 65536 * rgb[..., 2]
    return ids


@dataclass(frozen=True)
class PanopticDataset:
    """Images with panoptic truth.

    Attributes:
        path: What the truth was read from: the JSON file, or the folder of the maps.
        categories: By id, in the order of the data set.
        records: One per image, in the order of the data set.
        read_ids: Returns the segment ids in a file of segments, `(H, W)` int32, 0 where void.
        has_instances: False where the truth has classes alone: each class of an image is one segment, and panoptic
            quality and AP are not defined.
        may_hide_segments: Whether others may cover segments of an image or parts of them, so that its map does not show
            them.
        may_swap_size: Whether the annotations may say the height where they mean the width.
    """

    path: Path
    categories: Mapping[int, DatasetCategory]
    records: Sequence[ImageRecord]
    read_ids: Callable[[Path], NDArray[np.int32]] = read_coco_ids
    has_instances: bool = True
    may_hide_segments: bool = False
    may_swap_size: bool = False

    def __len__(self) -> int:
        return len(self.records)

    @property
    def image_ids(self) -> Sequence[ImageId]:
        """Ids of all images; no map is read for them."""
        if isinstance(self.records, UnreadRecords):
            return self.records.image_ids
        return [record.image_id for record in self.records]

    @classmethod
    def open(
        cls,
        images_dir: Path,
        panoptic_json: Path,
        maps_dir: Path | None = None,
        find_image: Callable[[Path, str], Path] = Path.joinpath,
        *,
        may_hide_segments: bool = False,
        may_swap_size: bool = False,
    ) -> Self:
        """Read the annotations.

        Args:
            images_dir: Folder of the images.
            panoptic_json: The annotations.
            maps_dir: Folder of the PNGs; by default that of the JSON's name without `.json`.
            find_image: Returns the path of an image from `images_dir` and its name in the JSON.
            may_hide_segments: See the attribute.
            may_swap_size: See the attribute.

        Raises:
            DataError: The file cannot be read or breaks the format, names an unknown category, or images are missing.
        """
        document = read_json(panoptic_json)
        maps_dir = maps_dir or panoptic_json.with_suffix('')
        try:
            categories = {entry.id: entry for entry in map(read_category, document['categories'])}
            annotations = {entry['image_id']: entry for entry in document['annotations']}
            records = tuple(
                _record(
                    image,
                    annotations[image['id']],
                    find_image(images_dir, image['file_name']),
                    maps_dir,
                    has_areas=may_hide_segments,
                )
                for image in document['images']
                if image['id'] in annotations
            )
            without = [image['id'] for image in document['images'] if image['id'] not in annotations]
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DataError(
                f'{panoptic_json} is not in the COCO panoptic format: {type(error).__name__} {error}'
            ) from error
        if without:
            raise DataError(f'{panoptic_json}: images without an annotation: {listed(without)}')
        if len(annotations) != len(document['annotations']):
            counts = Counter(entry['image_id'] for entry in document['annotations'])
            twice = [image for image, count in counts.items() if count > 1]
            raise DataError(f'{panoptic_json}: two annotations of image {listed(twice)}')
        if len(categories) != len(document['categories']):
            raise DataError(f'{panoptic_json}: category ids are not unique')
        if len({record.image_id for record in records}) != len(records):
            raise DataError(f'{panoptic_json}: image ids are not unique')
        for record in records:
            _check_segments(record, categories, panoptic_json)
        for paths in ([record.image_path for record in records], [record.map_path for record in records]):
            if missing := _missing(paths):
                raise DataError(f'{panoptic_json}: {len(missing)} of {len(paths)} files missing: {listed(missing)}')
        return cls(panoptic_json, categories, records, may_hide_segments=may_hide_segments, may_swap_size=may_swap_size)

    def size_hw(self, index: int) -> tuple[int, int]:
        """Return the height and width of image `index` in pixels.

        Raises:
            DataError: The size may be swapped, and the map, which tells, cannot be read or has another size.
        """
        record = self.records[index]
        if not self.may_swap_size:
            return record.size_hw
        size_hw = read_size(record.map_path)
        if size_hw not in (record.size_hw, record.size_hw[::-1]):
            raise DataError(f'{record.map_path} is {size_text(size_hw)}, {self.path} says {size_text(record.size_hw)}')
        return size_hw

    def image(self, index: int) -> NDArray[np.uint8]:
        """Return image `index` as `(H, W, 3)` uint8 rgb.

        Raises:
            DataError: It cannot be read or has another size than the annotations say.
        """
        record, size_hw = self.records[index], self.size_hw(index)
        image = read_rgb(record.image_path)
        if image.shape[:2] != size_hw:
            told = record.map_path if self.may_swap_size else self.path
            raise DataError(f'{record.image_path} is {size_text(image.shape)}, {told} says {size_text(size_hw)}')
        return image

    def panoptic_map(self, index: int) -> NDArray[np.int32]:
        """Return the segment ids of image `index`, `(H, W)` int32, 0 where void.

        Raises:
            DataError: The map cannot be read, has another size, or its ids are not those of the annotations.
        """
        record, size_hw = self.records[index], self.size_hw(index)
        panoptic_map = self.read_ids(record.map_path)
        if panoptic_map.shape != size_hw:
            raise DataError(
                f'{record.map_path} is {size_text(panoptic_map.shape)}, {self.path} says {size_text(size_hw)}'
            )
        shown = set(np.unique(panoptic_map).tolist()) - {0}
        known = {segment.id for segment in record.segments}
        unknown, hidden = shown - known, set() if self.may_hide_segments else known - shown
        if unknown or hidden:
            parts = [
                f'{text} {listed(sorted(ids))}'
                for text, ids in (('only in the PNG:', unknown), ('only in the JSON:', hidden))
                if ids
            ]
            raise DataError(f'{record.map_path} and {self.path} disagree on the segments of it: ' + '; '.join(parts))
        return panoptic_map


def encode_ids(panoptic_map: NDArray[np.integer]) -> NDArray[np.uint8]:
    """Return `(H, W, 3)` uint8 bgr as OpenCV writes it: id = R + 256 G + 65536 B."""
    ids = panoptic_map.astype(np.int64)
    return np.stack([ids >> 16 & 255, ids >> 8 & 255, ids & 255], -1).astype(np.uint8)


def read_json(path: Path) -> Any:
    """Parse a JSON file whose top level is a mapping.

    Raises:
        DataError: It is missing or no such file.
    """
    try:
        document = json.loads(path.read_text(encoding='utf-8'))
    except (OSError, ValueError) as error:
        raise DataError(f'{path} cannot be read: {error}') from error
    if not isinstance(document, dict):
        raise DataError(f'{path} must hold a mapping, not {type(document).__name__}')
    return document


def read_category(entry: Mapping[str, Any]) -> DatasetCategory:
    """Return a category of the COCO panoptic format.

    Raises:
        KeyError, TypeError, ValueError: It is none.
    """
    return DatasetCategory(int(entry['id']), str(entry['name']), bool(entry['isthing']))


def listed(values: Sequence[object]) -> str:
    """Return the first few values as text, and how many more there are."""
    more = f' and {len(values) - _SHOWN} more' if len(values) > _SHOWN else ''
    return ', '.join(str(value) for value in values[:_SHOWN]) + more


def _record(
    image: Mapping[str, Any], annotation: Mapping[str, Any], image_path: Path, maps_dir: Path, *, has_areas: bool
) -> ImageRecord:
    segments = tuple(
        SegmentInfo(
            int(entry['id']),
            int(entry['category_id']),
            bool(entry.get('iscrowd', 0)),
            int(entry['area']) if has_areas else None,
        )
        for entry in annotation['segments_info']
    )
    if not isinstance(image['id'], int | str):
        raise TypeError(f'image id {image["id"]!r} is neither a number nor text')
    return ImageRecord(
        image_id=image['id'],
        image_path=image_path,
        map_path=maps_dir / annotation['file_name'],
        size_hw=(int(image['height']), int(image['width'])),
        segments=segments,
    )


def _check_segments(record: ImageRecord, categories: Mapping[int, DatasetCategory], path: Path) -> None:
    where = f'{path}: image {record.image_id}'
    ids = [segment.id for segment in record.segments]
    if len(set(ids)) != len(ids) or min(ids, default=1) < 1:
        raise DataError(f'{where}: segment ids must be unique and 1 or more, got {listed(ids)}')
    unknown = {segment.category_id for segment in record.segments} - categories.keys()
    if unknown:
        raise DataError(f'{where}: unknown categories {listed(sorted(unknown))}, known are {listed(list(categories))}')


def _missing(paths: Sequence[Path]) -> list[Path]:
    """Return the paths that are not there; to ask for each file is slow on a network."""
    names: dict[str, set[str]] = {}
    missing = []
    for path in paths:
        folder, name = os.path.split(path)
        if folder not in names:
            try:
                with os.scandir(folder or '.') as entries:
                    names[folder] = {entry.name for entry in entries}
            except OSError:
                names[folder] = set()
        if name not in names[folder]:
            missing.append(path)
    return missing
