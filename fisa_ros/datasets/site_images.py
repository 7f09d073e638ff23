"""A handful of images of one's own site: with a COCO panoptic file, with one of COCO instances, or without masks."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from fisa_ros.core.errors import DataError
from fisa_ros.datasets.coco_panoptic import (
    DatasetCategory,
    ImageRecord,
    PanopticDataset,
    SegmentInfo,
    listed,
    read_json,
)
from fisa_ros.datasets.image_reading import read_size, size_text
from fisa_ros.sources.image_folder import IMAGE_SUFFIXES, natural_key, read_image

MAX_IMAGES = 2000
_MIN_POLYGON = 6
_NAMES_SUFFIXES = ('.txt', '.yaml', '.yml', '.json')


@dataclass(frozen=True, slots=True)
class Draw:
    """Which images are taken of many.

    Attributes:
        most: At most so many.
        seed: Decides which.
    """

    most: int
    seed: int


@dataclass(frozen=True, slots=True)
class PackedMask:
    """A mask of which each pixel takes one bit.

    Attributes:
        bits: uint8, the pixels row by row.
        size_hw: Height and width.
        area: Number of its pixels.
    """

    bits: NDArray[np.uint8]
    size_hw: tuple[int, int]
    area: int

    @classmethod
    def of(cls, mask: NDArray[np.bool_]) -> Self:
        """Pack a mask `(H, W)`."""
        return cls(np.packbits(mask), (mask.shape[0], mask.shape[1]), int(mask.sum()))

    def pixels(self) -> NDArray[np.bool_]:
        """Return it as `(H, W)` bool."""
        height, width = self.size_hw
        return np.unpackbits(self.bits, count=height * width).reshape(height, width).astype(np.bool_)


@dataclass(frozen=True)
class SiteDataset(PanopticDataset):
    """Images whose masks are kept one by one; what no mask covers is void.

    Attributes:
        masks: Per record one mask for each of its segments, in their order. Of masks that overlap, the smaller one is
            in front.
    """

    masks: tuple[tuple[PackedMask, ...], ...] = ()

    def image(self, index: int) -> NDArray[np.uint8]:
        """Return image `index` as `(H, W, 3)` uint8 rgb.

        Raises:
            ImageError: It cannot be read or is incomplete.
            DataError: It has another size than the annotations say.
        """
        record = self.records[index]
        image = read_image(record.image_path)
        if image.shape[:2] != record.size_hw:
            height, width = record.size_hw
            raise DataError(
                f'{record.image_path} is {image.shape[1]}x{image.shape[0]}, {self.path} says {width}x{height}'
            )
        return image

    def panoptic_map(self, index: int) -> NDArray[np.int32]:
        """Return the segment ids of image `index`, `(H, W)` int32, 0 where void."""
        record, masks = self.records[index], self.masks[index]
        panoptic_map = np.zeros(record.size_hw, np.int32)
        order = sorted(range(len(masks)), key=lambda number: masks[number].area)
        for number in reversed(order):
            panoptic_map[masks[number].pixels()] = record.segments[number].id
        return panoptic_map

    def part(self, indices: Sequence[int]) -> Self:
        """Return some of the images."""
        return replace(
            self,
            records=tuple(self.records[index] for index in indices),
            masks=tuple(self.masks[index] for index in indices),
        )


def part_of(dataset: PanopticDataset, indices: Sequence[int]) -> PanopticDataset:
    """Return some of the images of a data set of either kind."""
    if isinstance(dataset, SiteDataset):
        return dataset.part(indices)
    return replace(dataset, records=tuple(dataset.records[index] for index in indices))


def find_annotations(images: Path) -> Path | None:
    """Return the one file of annotations that belongs to a folder of images, None where there is none.

    Looked for are JSON files with annotations in the folder, beside it under its name, and, as COCO has them, in
    `annotations/` beside it.

    Raises:
        DataError: There are several.
    """
    if images.name in ('', '..'):
        images = images.resolve()
    stems = {path.stem for path in images.glob('*') if path.suffix.lower() in IMAGE_SUFFIXES}
    annotations = images.parent / 'annotations'
    candidates = [
        *(path for path in sorted(images.glob('*.json')) if path.stem not in stems),
        images.with_name(f'{images.name}.json'),
        *(annotations / f'{kind}_{images.name}.json' for kind in ('panoptic', 'instances')),
    ]
    found = [path for path in candidates if path.is_file()]
    if len(found) > 1:
        listed = ', '.join(map(str, found))
        raise DataError(f'{images} has several files of annotations, choose one by --annotations: {listed}')
    return found[0] if found else None


def open_site(images: Path, annotations: Path, drawn: Draw | None = None) -> PanopticDataset:
    """Open images with masks, in the COCO panoptic format or as COCO instances (polygons or run lengths).

    Args:
        images: Their folder.
        annotations: The file.
        drawn: Takes some of them; None takes all.

    Raises:
        DataError: The file cannot be read or breaks both formats, images are missing, or there are none or more than
            `MAX_IMAGES` to be taken, an image is listed twice, or a map has another size than the file says.
    """
    _require_folder(images)
    document = read_json(annotations)
    entries = document.get('annotations')
    first = entries[0] if isinstance(entries, list) and entries else {}
    if isinstance(first, Mapping) and 'segments_info' in first:
        dataset = PanopticDataset.open(images, annotations)
        dataset = part_of(dataset, _taken(len(dataset), annotations, drawn))
    else:
        dataset = _open_instances(images, annotations, document, drawn)
    if not len(dataset):
        raise DataError(f'{annotations} lists no images')
    counts = Counter(record.image_path for record in dataset.records)
    if twice := [path.name for path, count in counts.items() if count > 1]:
        raise DataError(f'{annotations} lists an image more than once: {listed(twice)}')
    if not isinstance(dataset, SiteDataset):
        _check_map_sizes(dataset)
    return dataset


def open_folder(images: Path, drawn: Draw | None = None) -> SiteDataset:
    """Open images without masks.

    Args:
        images: Their folder.
        drawn: Takes some of them; None takes all.

    Raises:
        DataError: There is no such folder, no image in it, or more than `MAX_IMAGES` to be taken.
        ImageError: An image cannot be read or is incomplete.
    """
    _require_folder(images)
    paths = sorted((path for path in images.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES), key=natural_key)
    if not paths:
        raise DataError(f'{images} holds 0 images, 1 to {MAX_IMAGES} are taken')
    records = []
    for number, path in enumerate((paths[index] for index in _taken(len(paths), images, drawn)), start=1):
        image = read_image(path)
        records.append(ImageRecord(number, path, path, (image.shape[0], image.shape[1]), ()))
    return SiteDataset(images, {}, tuple(records), masks=((),) * len(records))


def names_beside(image: Path) -> Path | None:
    """Return the file beside an image that names what is in it, None where there is none."""
    return next((path for path in map(image.with_suffix, _NAMES_SUFFIXES) if path.is_file()), None)


def _taken(count: int, where: Path, drawn: Draw | None) -> Sequence[int]:
    if drawn is not None:
        return sorted(np.random.default_rng(drawn.seed).permutation(count)[: drawn.most].tolist())
    if count > MAX_IMAGES:
        raise DataError(f'{where} holds {count} images, 1 to {MAX_IMAGES} are taken')
    return range(count)


def _require_folder(images: Path) -> None:
    if not images.is_dir():
        raise DataError(f'{images} is not a folder of images')


def _check_map_sizes(dataset: PanopticDataset) -> None:
    for record in dataset.records:
        size_hw = read_size(record.map_path)
        if size_hw != record.size_hw:
            raise DataError(
                f'{record.map_path} is {size_text(size_hw)}, {dataset.path} says {size_text(record.size_hw)}'
            )


def _open_instances(images: Path, path: Path, document: Mapping[str, Any], drawn: Draw | None) -> SiteDataset:
    try:
        categories = {
            int(entry['id']): DatasetCategory(int(entry['id']), str(entry['name']), bool(entry.get('isthing', True)))
            for entry in document['categories']
        }
        entries: dict[int, list[Mapping[str, Any]]] = {int(image['id']): [] for image in document['images']}
        for entry in document['annotations']:
            if entry['category_id'] not in categories:
                known = ', '.join(map(str, list(categories)[:8]))
                raise DataError(f'{path}: unknown category {entry["category_id"]}, known are {known}')
            if entry['image_id'] not in entries:
                raise DataError(f'{path}: annotation of image {entry["image_id"]}, which it does not list')
            entries[entry['image_id']].append(entry)
        if len(document['images']) != len(entries):
            raise DataError(f'{path}: image ids are not unique')
        records, masks = [], []
        for image in (document['images'][index] for index in _taken(len(entries), path, drawn)):
            size_hw = int(image['height']), int(image['width'])
            where = f'{path}: image {image["id"]}'
            found = list(_segments(entries[int(image['id'])], size_hw, where))
            file = images / image['file_name']
            records.append(ImageRecord(int(image['id']), file, file, size_hw, tuple(info for info, _ in found)))
            masks.append(tuple(mask for _, mask in found))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(
            f'{path} is neither in the COCO panoptic format nor of COCO instances: {type(error).__name__} {error}'
        ) from error
    if missing := [str(record.image_path) for record in records if not record.image_path.is_file()]:
        raise DataError(f'{path}: {len(missing)} of {len(records)} images are missing: {", ".join(missing[:5])}')
    return SiteDataset(path, categories, tuple(records), masks=tuple(masks))


def _segments(
    entries: Sequence[Mapping[str, Any]], size_hw: tuple[int, int], where: str
) -> Iterator[tuple[SegmentInfo, PackedMask]]:
    """Yield the segments of one image, numbered from 1, with their masks; those without a pixel are left out."""
    taken = np.zeros(size_hw, np.bool_)
    masks = [
        _pixels(entry['segmentation'], size_hw, f'{where}, annotation {entry.get("id", number)}')
        for number, entry in enumerate(entries)
    ]
    # The smaller ones are in front, so what they leave of the others is what can be seen.
    for number in sorted(range(len(masks)), key=lambda number: int(masks[number].sum())):
        if (masks[number] & ~taken).any():
            entry = entries[number]
            segment = SegmentInfo(number + 1, entry['category_id'], bool(entry.get('iscrowd', 0)))
            yield segment, PackedMask.of(masks[number])
        taken |= masks[number]


def _pixels(segmentation: Any, size_hw: tuple[int, int], where: str) -> NDArray[np.bool_]:
    """Return the pixels of polygons, or of run lengths as a list or as COCO's text."""
    height, width = size_hw
    parts: list[Any]
    if isinstance(segmentation, list):
        if not segmentation:
            raise DataError(f'{where}: it has no polygon: boxes alone are not enough, draw masks')
        for polygon in segmentation:
            numbers = isinstance(polygon, list) and all(isinstance(value, int | float) for value in polygon)
            if not numbers or len(polygon) < _MIN_POLYGON or len(polygon) % 2:
                raise DataError(f'{where}: a polygon needs 3 points or more, x and y each, got {str(polygon)[:60]}')
        counted = (entry['counts'] for entry in coco_mask.frPyObjects(segmentation, height, width))
        parts = [counts if isinstance(counts, str) else counts.decode() for counts in counted]
    else:
        parts = [segmentation['counts']]
        if list(segmentation['size']) != [height, width]:
            raise DataError(f'{where}: run lengths are of size {segmentation["size"]}, the image of {[height, width]}')
    pixels = np.zeros(size_hw, np.bool_)
    for part in parts:
        counts = part if isinstance(part, list) else _counts(part)
        if any(not isinstance(count, int) or count < 0 for count in counts) or sum(counts) != height * width:
            raise DataError(f'{where}: run lengths do not add up to the {height * width} pixels of the image')
        # Column by column, first what is outside.
        pixels |= np.repeat(np.arange(len(counts)) % 2 == 1, counts).reshape(width, height).T
    return pixels


def _counts(text: str) -> list[int]:
    """Read COCO's text of run lengths: six bits a character, from the third run on the change of the last but one."""
    counts: list[int] = []
    value = shift = 0
    for character in text:
        bits = ord(character) - 48
        value |= (bits & 0x1F) << shift
        shift += 5
        if bits & 0x20:
            continue
        if bits & 0x10:
            value -= 1 << shift
        counts.append(value + (counts[-2] if len(counts) > 2 else 0))
        value = shift = 0
    return counts
