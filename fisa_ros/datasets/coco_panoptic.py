"""Reads data sets in the COCO panoptic format (Kirillov et al., "Panoptic Segmentation", 2019)."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
import json
from pathlib import Path
from typing import Any, Self

import cv2
import numpy as np
from numpy.typing import NDArray

from fisa_ros.core.errors import DataError

_SHOWN = 5
_JPEG_START, _JPEG_END = b'\xff\xd8', b'\xff\xd9'
# Some cameras append a few bytes of their own.
_JPEG_TAIL = 4096


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
    """

    id: int
    category_id: int
    is_crowd: bool


@dataclass(frozen=True, slots=True)
class ImageRecord:
    """One image and its annotation.

    Attributes:
        image_id: Id in the data set.
        image_path: The image.
        map_path: The PNG of its segments.
        size_hw: Height and width in pixels.
        segments: What is in it; may be empty.
    """

    image_id: int
    image_path: Path
    map_path: Path
    size_hw: tuple[int, int]
    segments: tuple[SegmentInfo, ...]


@dataclass(frozen=True)
class PanopticDataset:
    """Images with panoptic truth.

    Attributes:
        path: The JSON file.
        categories: By id, in the order of the file.
        records: One per image, in the order of the file.
    """

    path: Path
    categories: Mapping[int, DatasetCategory]
    records: Sequence[ImageRecord]

    def __len__(self) -> int:
        return len(self.records)

    @classmethod
    def open(cls, images_dir: Path, panoptic_json: Path) -> Self:
        """Read the annotations; the PNGs lie in the folder of the JSON's name without `.json`.

        Raises:
            DataError: The file cannot be read or breaks the format, names an unknown category, or images are missing.
        """
        document = read_json(panoptic_json)
        try:
            categories = {
                entry['id']: DatasetCategory(int(entry['id']), str(entry['name']), bool(entry['isthing']))
                for entry in document['categories']
            }
            annotations = {entry['image_id']: entry for entry in document['annotations']}
            records = tuple(
                _record(image, annotations[image['id']], images_dir, panoptic_json.with_suffix(''))
                for image in document['images']
                if image['id'] in annotations
            )
            without = sorted(image['id'] for image in document['images'] if image['id'] not in annotations)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DataError(
                f'{panoptic_json} is not in the COCO panoptic format: {type(error).__name__} {error}'
            ) from error
        if without:
            raise DataError(f'{panoptic_json}: images without an annotation: {_listed(without)}')
        if len(annotations) != len(document['annotations']):
            counts = Counter(entry['image_id'] for entry in document['annotations'])
            twice = sorted(image for image, count in counts.items() if count > 1)
            raise DataError(f'{panoptic_json}: two annotations of image {_listed(twice)}')
        if len(categories) != len(document['categories']):
            raise DataError(f'{panoptic_json}: category ids are not unique')
        if len({record.image_id for record in records}) != len(records):
            raise DataError(f'{panoptic_json}: image ids are not unique')
        for record in records:
            _check_segments(record, categories, panoptic_json)
        for kind in ('image_path', 'map_path'):
            missing = [str(path) for path in (getattr(record, kind) for record in records) if not path.is_file()]
            if missing:
                raise DataError(f'{panoptic_json}: {len(missing)} of {len(records)} files missing: {_listed(missing)}')
        return cls(panoptic_json, categories, records)

    def image(self, index: int) -> NDArray[np.uint8]:
        """Return image `index` as `(H, W, 3)` uint8 rgb.

        Raises:
            DataError: It cannot be read or has another size than the annotations say.
        """
        record = self.records[index]
        image = _read(record.image_path, cv2.IMREAD_COLOR)
        if image.shape[:2] != record.size_hw:
            raise DataError(f'{record.image_path} is {_size(image)}, {self.path} says {_size_text(record.size_hw)}')
        return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), np.uint8)

    def panoptic_map(self, index: int) -> NDArray[np.int32]:
        """Return the segment ids of image `index`, `(H, W)` int32, 0 where void.

        Raises:
            DataError: The PNG cannot be read, has another size, or its ids are not those of the annotations.
        """
        record = self.records[index]
        coded = _read(record.map_path, cv2.IMREAD_COLOR).astype(np.int32)
        if coded.shape[:2] != record.size_hw:
            raise DataError(f'{record.map_path} is {_size(coded)}, {self.path} says {_size_text(record.size_hw)}')
        panoptic_map: NDArray[np.int32] = coded[..., 2] + 256 * coded[..., 1] + 65536 * coded[..., 0]
        found = set(np.unique(panoptic_map).tolist()) - {0}
        listed = {segment.id for segment in record.segments}
        if found != listed:
            parts = [
                f'{text} {_listed(sorted(ids))}'
                for text, ids in (('only in the PNG:', found - listed), ('only in the JSON:', listed - found))
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


def _record(image: Mapping[str, Any], annotation: Mapping[str, Any], images_dir: Path, maps_dir: Path) -> ImageRecord:
    segments = tuple(
        SegmentInfo(int(entry['id']), entry['category_id'], bool(entry.get('iscrowd', 0)))
        for entry in annotation['segments_info']
    )
    return ImageRecord(
        image_id=int(image['id']),
        image_path=images_dir / image['file_name'],
        map_path=maps_dir / annotation['file_name'],
        size_hw=(int(image['height']), int(image['width'])),
        segments=segments,
    )


def _check_segments(record: ImageRecord, categories: Mapping[int, DatasetCategory], path: Path) -> None:
    where = f'{path}: image {record.image_id}'
    ids = [segment.id for segment in record.segments]
    if len(set(ids)) != len(ids) or min(ids, default=1) < 1:
        raise DataError(f'{where}: segment ids must be unique and 1 or more, got {_listed(ids)}')
    unknown = {segment.category_id for segment in record.segments} - categories.keys()
    if unknown:
        raise DataError(
            f'{where}: unknown categories {_listed(sorted(unknown))}, known are {_listed(list(categories))}'
        )


def _read(path: Path, flags: int) -> NDArray[np.uint8]:
    try:
        coded = path.read_bytes()
        image = cv2.imdecode(np.frombuffer(coded, np.uint8), flags) if coded else None
    except (OSError, cv2.error) as error:
        raise DataError(f'{path} cannot be read: {error}') from error
    # OpenCV makes up the missing rows of a JPEG that was cut off.
    if coded.startswith(_JPEG_START) and _JPEG_END not in coded[-_JPEG_TAIL:]:
        raise DataError(f'{path} is truncated: its JPEG data has no end within its last {_JPEG_TAIL} bytes')
    if image is None:
        raise DataError(f'{path} is not an image that can be read')
    return np.asarray(image, np.uint8)


def _size(image: NDArray[np.generic]) -> str:
    return _size_text((image.shape[0], image.shape[1]))


def _size_text(size_hw: tuple[int, int]) -> str:
    return f'{size_hw[1]}x{size_hw[0]}'


def _listed(values: Sequence[object]) -> str:
    more = f' and {len(values) - _SHOWN} more' if len(values) > _SHOWN else ''
    return ', '.join(str(value) for value in values[:_SHOWN]) + more
