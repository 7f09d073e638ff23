"""Masks of the frozen generator, computed once for each image instead of in every step.

Kept are the masks with the highest objectness as bits, compressed. They are of the image as it is: training cuts and
flips them with it, where the generator itself would see the cut and recoloured image; and they are hard, where its own
logits are soft. What they have in the padding of an image is kept, but no batch has it.
"""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
import functools
import hashlib
import json
import logging
from pathlib import Path
import shutil
from typing import IO, Any
import zlib

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save
import torch
from torch import Tensor, nn
from tqdm import tqdm

from fisa_ros.core.errors import DataError
from fisa_ros.core.manifest import file_sha256
from fisa_ros.core.placement import STRETCH, Resize
from fisa_ros.datasets.coco_panoptic import ImageId, PanopticDataset
from fisa_ros.training.batches import MASK_STRIDE
from fisa_ros.training.checkpoint import write_atomically
from fisa_ros.training.processes import Processes
from fisa_ros.training.settings import Precision
from fisa_ros.training.square_images import square_image

_FORMAT = 3
_SHARD_IMAGES = 256
_COMPRESSION = 6
_KEY_NAME = 'key'
_LOG = logging.getLogger('fisa_ros.training')


@dataclass(frozen=True, slots=True)
class CacheKey:
    """What the masks of an image depend on.

    Attributes:
        generator: Sum of the generator's weights.
        size: Edge of the square images in pixels.
        resize: How images come to that size.
        kept: Masks of each image.
        precision: Type in which the generator multiplies.
        truth: Sum of the data set's file of annotations, or the path of its folder.
        images: Sum of ids, names and sizes in bytes of the images, in their order.
        shard_images: Images of one file.
        format: Number of the form of the files.
    """

    generator: str
    size: int
    resize: Resize
    kept: int
    precision: str
    truth: str
    images: str
    shard_images: int
    format: int = _FORMAT

    @property
    def digest(self) -> str:
        """What tells the files of two keys apart."""
        parts = asdict(self)
        if self.resize == STRETCH:
            # Masks that were kept before there was another way are of such images.
            del parts['resize']
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


class MaskCache:
    """Reads kept masks; threads may share it.

    Args:
        folder: Where the files of this key are.
        key: What they were made of.
        image_ids: Ids of the data set's images, in their order.
    """

    def __init__(self, folder: Path, key: CacheKey, image_ids: Sequence[ImageId]) -> None:
        self._folder, self._key, self._image_ids = folder, key, image_ids
        self._open = functools.cache(lambda path: safe_open(path, 'np'))

    def masks(self, index: int) -> NDArray[np.uint8]:
        """Return `(N, S/4, S/4)` uint8, 1 where a mask is, of one record; those of highest objectness first.

        Raises:
            DataError: The file is damaged.
        """
        side = self._key.size // MASK_STRIDE
        path = _shard_path(self._folder, index // self._key.shard_images)
        try:
            file: Any = self._open(path)
            packed = file.get_tensor(str(self._image_ids[index])).tobytes()
            bits = np.frombuffer(zlib.decompress(packed), np.uint8)
            return np.unpackbits(bits, count=self._key.kept * side * side).reshape(self._key.kept, side, side)
        except (OSError, SafetensorError, zlib.error, ValueError) as error:
            raise DataError(
                f'{path} is damaged at image {self._image_ids[index]} ({error}): delete it, the next run makes it anew'
            ) from error


def open_mask_cache(
    folder: Path,
    generator: nn.Module,
    dataset: PanopticDataset,
    size: int,
    resize: Resize,
    kept: int,
    precision: Precision,
    loaders: int = 1,
    batch_size: int = 8,
) -> MaskCache:
    """Open the masks of a generator and a data set, and make those that are missing first.

    Each process makes its share of the missing files; what is there after an interruption stays. Size and free space
    are logged before the work starts.

    Args:
        folder: Holds one folder per generator, data set and setting.
        generator: The frozen generator, on the device.
        dataset: The images.
        size: Edge of the square images in pixels.
        resize: How images come to that size.
        kept: Masks kept of each image, at most as many as the generator makes.
        precision: Of the generator.
        loaders: Threads that read images and compress masks.
        batch_size: Images that the generator takes at once.

    Raises:
        DataError: An image cannot be read, its masks are not a number, the disk is too small, files cannot be written,
            or processes on several machines do not share the folder.
    """
    processes = Processes()
    maker = _Maker(generator, dataset, size, resize, processes.device, processes.autocast_type(precision), loaders)
    first_images = range(min(batch_size, len(dataset)))
    first_masks = maker.masks(first_images, kept)
    image_ids = dataset.image_ids
    key = CacheKey(
        generator=_weights_sum(generator),
        size=size,
        resize=resize,
        kept=first_masks.shape[1],
        precision=str(maker.autocast_type).removeprefix('torch.'),
        truth=file_sha256(dataset.path) if dataset.path.is_file() else str(dataset.path.resolve()),
        images=_images_sum(dataset),
        shard_images=_SHARD_IMAGES,
    )
    own = folder / key.digest
    own.mkdir(parents=True, exist_ok=True)
    shards = range(-(-len(dataset) // key.shard_images))
    missing = [number for number in shards if not _is_whole(own, number, key, image_ids)]
    # All must have looked before the first file is written, or their shares would differ.
    processes.wait()
    if missing:
        sample = maker.encode(first_images, first_masks)
        _check_space(own, key, sample, min(len(image_ids), len(missing) * key.shard_images), is_main=processes.is_main)
        share = missing[processes.rank :: processes.world_size]
        for number in tqdm(share, 'masks', unit=' files', disable=not processes.is_main):
            first = number * key.shard_images
            content: dict[str, NDArray[np.uint8]] = {}
            for start in range(first, min(first + key.shard_images, len(dataset)), batch_size):
                indices = range(start, min(start + batch_size, first + key.shard_images, len(dataset)))
                content |= maker.encode(indices, maker.masks(indices, kept))
            written = functools.partial(_write, save(content, {_KEY_NAME: key.digest}))
            write_atomically(_shard_path(own, number), written)
        processes.wait()
        if absent := [number for number in missing if not _is_whole(own, number, key, image_ids)]:
            raise DataError(f'{_shard_path(own, absent[0])} is missing: all machines must share {folder}')
    return MaskCache(own, key, image_ids)


@dataclass(frozen=True, slots=True)
class _Maker:
    generator: nn.Module
    dataset: PanopticDataset
    size: int
    resize: Resize
    device: torch.device
    autocast_type: torch.dtype
    loaders: int

    @torch.no_grad()
    def masks(self, indices: range, kept: int) -> NDArray[np.bool_]:
        """Return `(B, N, S/4, S/4)` masks of images, those of highest objectness first.

        Raises:
            DataError: They are not a number.
        """
        with ThreadPoolExecutor(self.loaders) as readers:
            images = torch.stack(list(readers.map(self._image, indices)))
        enabled = self.autocast_type != torch.float32
        with torch.autocast(self.device.type, self.autocast_type if enabled else None, enabled=enabled):
            proposals = self.generator(images.to(self.device))
        objectness = proposals.objectness.float()
        broken = (proposals.mask_logits.isnan().flatten(1).any(1) | objectness.isnan().any(1)).tolist()
        if any(broken):
            image_id = self.dataset.records[indices[broken.index(True)]].image_id
            raise DataError(
                f'the masks of image {image_id} are not a number in {self.autocast_type}: set precision fp32 in the '
                'recipe, or look for damaged weights'
            )
        best = objectness.sort(dim=1, descending=True, stable=True).indices[:, :kept]
        side = self.size // MASK_STRIDE
        chosen = proposals.mask_logits.gather(1, best[:, :, None, None].expand(-1, -1, side, side))
        masks: NDArray[np.bool_] = (chosen > 0).cpu().numpy()
        return masks

    def encode(self, indices: range, masks: NDArray[np.bool_]) -> dict[str, NDArray[np.uint8]]:
        """Return the compressed masks of images, by id."""
        with ThreadPoolExecutor(self.loaders) as packers:
            packed = list(packers.map(_packed, masks))
        return {str(self.dataset.records[index].image_id): bits for index, bits in zip(indices, packed, strict=True)}

    def _image(self, index: int) -> Tensor:
        image = self.dataset.image(index)
        return square_image(image, self.resize.place((image.shape[0], image.shape[1]), (self.size, self.size)))


def _packed(masks: NDArray[np.bool_]) -> NDArray[np.uint8]:
    return np.frombuffer(zlib.compress(np.packbits(masks).tobytes(), _COMPRESSION), np.uint8)


def _write(content: bytes, file: IO[bytes]) -> None:
    file.write(content)


def _weights_sum(module: nn.Module) -> str:
    total = hashlib.sha256()
    for name, tensor in module.state_dict().items():
        total.update(name.encode())
        total.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return total.hexdigest()


def _images_sum(dataset: PanopticDataset) -> str:
    try:
        images = [
            (record.image_id, record.image_path.name, record.image_path.stat().st_size) for record in dataset.records
        ]
    except OSError as error:
        raise DataError(f'{dataset.path}: an image cannot be read: {error}') from error
    return hashlib.sha256(json.dumps(images).encode()).hexdigest()


def _shard_path(folder: Path, number: int) -> Path:
    return folder / f'masks_{number:05d}.safetensors'


def _is_whole(folder: Path, number: int, key: CacheKey, image_ids: Sequence[ImageId]) -> bool:
    wanted = image_ids[number * key.shard_images : (number + 1) * key.shard_images]
    try:
        with safe_open(_shard_path(folder, number), 'np') as file:
            names = set(file.keys())
            return (file.metadata() or {}).get(_KEY_NAME) == key.digest and all(
                str(image_id) in names for image_id in wanted
            )
    except (OSError, SafetensorError):
        return False


def _check_space(
    folder: Path, key: CacheKey, sample: Mapping[str, NDArray[np.uint8]], images: int, *, is_main: bool
) -> None:
    """Log what will be written, from a few images.

    Raises:
        DataError: It is more than the disk has free.
    """
    per_image = sum(tensor.nbytes for tensor in sample.values()) / len(sample)
    wanted = per_image * images
    free = shutil.disk_usage(folder).free
    if is_main:
        _LOG.info(
            'masks of %d images go to %s: about %.1f MB of %.1f MB free (%d masks, %.1f kB per image)',
            images, folder, wanted / 1e6, free / 1e6, key.kept, per_image / 1e3,
        )  # fmt: skip
    if wanted > free:
        raise DataError(f'{folder} has {free / 1e6:.0f} MB free, the masks need about {wanted / 1e6:.0f} MB')
