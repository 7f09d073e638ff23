"""Maps whose values say what is in them, without a file of annotations beside them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
import os
from pathlib import Path
from typing import Protocol, overload

import numpy as np
from numpy.typing import NDArray

from fisa_ros.core.errors import DataError
from fisa_ros.datasets.coco_panoptic import DatasetCategory, ImageId, ImageRecord, SegmentInfo, listed
from fisa_ros.datasets.image_reading import read_values

_CITYSCAPES_LABELS = 34
_CITYSCAPES_INSTANCES = 1000


class MapCoding(Protocol):
    """How the values of a map code its segments."""

    def read_ids(self, path: Path) -> NDArray[np.int32]:
        """Return the segment ids, `(H, W)` int32, 0 where void.

        Raises:
            DataError: The file cannot be read, or has a value that means nothing.
        """
        ...

    def segment(self, segment_id: int) -> SegmentInfo:
        """Return what a segment id other than 0 stands for."""
        ...


@dataclass(frozen=True, slots=True)
class SemanticCoding:
    """Each value is a category: all its pixels are one segment, whose id is 1 more than its row.

    Attributes:
        category_ids: In the order of the values.
        first_value: Value of the first category.
        void_value: Value of what has no category.
    """

    category_ids: tuple[int, ...]
    first_value: int
    void_value: int

    def read_ids(self, path: Path) -> NDArray[np.int32]:
        """See `MapCoding.read_ids`."""
        values = read_values(path)
        ids = values.astype(np.int32) - np.int32(self.first_value - 1)
        ids[values == self.void_value] = 0
        is_wrong = (ids < 0) | (ids > len(self.category_ids)) | ((ids == 0) & (values != self.void_value))
        if is_wrong.any():
            last_value = self.first_value + len(self.category_ids) - 1
            raise DataError(
                f'{path} has the values {listed(np.unique(values[is_wrong]).tolist())}, expected '
                f'{self.first_value}..{last_value}, or {self.void_value} where void'
            )
        return ids

    def segment(self, segment_id: int) -> SegmentInfo:
        """See `MapCoding.segment`."""
        return SegmentInfo(segment_id, self.category_ids[segment_id - 1], is_crowd=False)


@dataclass(frozen=True, slots=True)
class CityscapesCoding:
    """A value below 1000 is a label, a larger one 1000 times a label and the number of an object of it.

    A thing without a number is a group that is not told apart. Labels that are not evaluated are void. As in
    `createPanopticImgs.py` of cityscapesScripts.

    Attributes:
        categories: The evaluated labels by their ids.
    """

    categories: Mapping[int, DatasetCategory]

    def read_ids(self, path: Path) -> NDArray[np.int32]:
        """See `MapCoding.read_ids`."""
        values = read_values(path)
        labels = np.where(values < _CITYSCAPES_INSTANCES, values, values // _CITYSCAPES_INSTANCES)
        is_wrong = labels >= _CITYSCAPES_LABELS
        if is_wrong.any():
            raise DataError(
                f'{path} has the values {listed(np.unique(values[is_wrong]).tolist())}, whose labels are not below '
                f'{_CITYSCAPES_LABELS}'
            )
        is_evaluated = np.zeros(_CITYSCAPES_LABELS, np.bool_)
        is_evaluated[list(self.categories)] = True
        return np.where(is_evaluated[labels], values, 0).astype(np.int32)

    def segment(self, segment_id: int) -> SegmentInfo:
        """See `MapCoding.segment`."""
        has_number = segment_id >= _CITYSCAPES_INSTANCES
        category = self.categories[segment_id // _CITYSCAPES_INSTANCES if has_number else segment_id]
        return SegmentInfo(segment_id, category.id, is_crowd=category.is_thing and not has_number)


class MapRecords(Sequence[ImageRecord]):
    """Records of images whose maps describe themselves; the first use of a record reads its map.

    That map is kept until `read_ids` asks for it or another is read, so that it is decoded once for both.
    """

    def __init__(self, paths: Sequence[tuple[str, Path, Path]], coding: MapCoding) -> None:
        """Read nothing yet.

        Args:
            paths: Id, image and map of each.
            coding: Of the maps.
        """
        self._paths = paths
        self._coding = coding
        self._records: dict[int, ImageRecord] = {}
        self._last: tuple[Path, NDArray[np.int32]] | None = None

    @property
    def image_ids(self) -> list[ImageId]:
        """Ids of all images, without reading a map."""
        return [image_id for image_id, _, _ in self._paths]

    def read_ids(self, path: Path) -> NDArray[np.int32]:
        """See `MapCoding.read_ids`."""
        last = self._last
        if last is not None and last[0] == path:
            self._last = None
            return last[1]
        return self._coding.read_ids(path)

    def __len__(self) -> int:
        return len(self._paths)

    @overload
    def __getitem__(self, index: int) -> ImageRecord: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[ImageRecord]: ...

    def __getitem__(self, index: int | slice) -> ImageRecord | Sequence[ImageRecord]:
        """Return a record, or those of a slice unread.

        Raises:
            DataError: The map cannot be read.
        """
        if isinstance(index, slice):
            return MapRecords(self._paths[index], self._coding)
        row = range(len(self._paths))[index]
        if row not in self._records:
            image_id, image_path, map_path = self._paths[row]
            ids = self._coding.read_ids(map_path)
            self._last = map_path, ids
            self._records[row] = ImageRecord(
                image_id=image_id,
                image_path=image_path,
                map_path=map_path,
                size_hw=(ids.shape[0], ids.shape[1]),
                segments=tuple(self._coding.segment(value) for value in np.unique(ids).tolist() if value),
            )
        return self._records[row]


def pair_files(
    images_dir: Path, image_suffix: str, maps_dir: Path, map_suffix: str, *, has_other_images: bool = False
) -> list[tuple[str, Path, Path]]:
    """Find the image of each map: the file that has the same name up to the suffix, in the same subfolder.

    Args:
        images_dir: Folder of images, or of one level of subfolders with them.
        image_suffix: End of an image's name: ".jpg", "_leftImg8bit.png".
        maps_dir: Folder of maps, or of one level of subfolders with them.
        map_suffix: End of a map's name.
        has_other_images: Whether images without a map belong there.

    Returns:
        Id, image and map of each, sorted by id; the id is the name up to the suffix.

    Raises:
        DataError: There is no map, or files are without their counterparts.
    """
    images, maps = _files(images_dir, image_suffix), _files(maps_dir, map_suffix)
    if not maps:
        raise DataError(f'{maps_dir} has no files *{map_suffix}')
    missing = [f'{images_dir / stem}{image_suffix}' for stem in sorted(maps.keys() - images.keys())]
    if missing:
        raise DataError(f'{maps_dir}: {len(missing)} of {len(maps)} images missing: {listed(missing)}')
    without = [str(images[stem]) for stem in sorted(images.keys() - maps.keys())]
    if without and not has_other_images:
        raise DataError(f'{maps_dir}: {len(without)} of {len(images)} images without a map: {listed(without)}')
    return [(stem.rsplit('/', 1)[-1], images[stem], maps[stem]) for stem in sorted(maps)]


def _files(folder: Path, suffix: str) -> dict[str, Path]:
    """Return the files with this suffix by their path below the folder, less the suffix."""
    found: dict[str, Path] = {}
    try:
        with os.scandir(folder) as entries:
            names = {entry.name: not entry.name.endswith(suffix) and entry.is_dir() for entry in entries}
        for name, is_folder in names.items():
            if is_folder:
                with os.scandir(folder / name) as entries:
                    paths = [f'{name}/{entry.name}' for entry in entries if not entry.name.startswith('.')]
            else:
                paths = [] if name.startswith('.') else [name]
            found |= {path.removesuffix(suffix): folder / path for path in paths if path.endswith(suffix)}
    except OSError as error:
        raise DataError(f'{folder} cannot be listed: {error}') from error
    return found
