"""Augmented training batches of a panoptic data set."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
import torch
from torch import Tensor

from fisa_ros.core.errors import DataError
from fisa_ros.datasets.coco_panoptic import PanopticDataset, SegmentInfo

MASK_STRIDE = 4
_MIN_MASK_CELLS = 0.5
_PIXELS_PER_CELL = MASK_STRIDE**2
_CROP_SHARE = 0.6
_NOISE_SHARE = 0.3
_NOISE_SIGMA = 0.02


@dataclass(frozen=True, slots=True)
class Sample:
    """One image with its instances.

    Attributes:
        image: `(3, S, S)` float32 rgb in [0, 1].
        masks: `(T, S/4, S/4)` float32, the share of each cell that an instance covers.
        categories: `(T,)` int64 category ids of the data set.
        index: Which record of the data set it is.
    """

    image: Tensor
    masks: Tensor
    categories: Tensor
    index: int


@dataclass(frozen=True, slots=True)
class Batch:
    """Images with their instances.

    Attributes:
        images: `(B, 3, S, S)` float32 rgb in [0, 1].
        masks: Per image `(T, S/4, S/4)` float32, the share of each cell that an instance covers.
        categories: Per image `(T,)` int64 category ids of the data set.
        indices: Per image the record of the data set.
    """

    images: Tensor
    masks: list[Tensor]
    categories: list[Tensor]
    indices: list[int]


def instance_masks(panoptic_map: NDArray[np.int32], segments: Sequence[SegmentInfo]) -> tuple[Tensor, Tensor]:
    """Split a map of segment ids into masks; crowds and specks below half a cell are left out.

    Args:
        panoptic_map: `(S, S)` int32, S a multiple of 4.
        segments: What may be in it.

    Returns:
        `(T, S/4, S/4)` float32 shares of cells and `(T,)` int64 category ids.
    """
    rows, columns = panoptic_map.shape[0] // MASK_STRIDE, panoptic_map.shape[1] // MASK_STRIDE
    masks, categories = [], []
    for segment in segments:
        if segment.is_crowd:
            continue
        pixels = (panoptic_map == segment.id).view(np.uint8) * np.uint8(_PIXELS_PER_CELL)
        # The mean of a cell is then the number of its pixels, a whole number that uint8 holds exactly.
        count = cv2.resize(pixels, (columns, rows), interpolation=cv2.INTER_AREA)
        if int(count.sum()) >= _MIN_MASK_CELLS * _PIXELS_PER_CELL:
            masks.append(count)
            categories.append(segment.category_id)
    stacked = np.stack(masks) if masks else np.zeros((0, rows, columns), np.uint8)
    return torch.from_numpy(stacked).float() / _PIXELS_PER_CELL, torch.tensor(categories, dtype=torch.int64)


def jitter_colors(image: Tensor, rng: np.random.Generator) -> Tensor:
    """Change gain, white balance and gamma of `(3, S, S)` float32 rgb in [0, 1], sometimes add noise; new tensor."""
    gain = torch.tensor(rng.uniform(0.7, 1.35) * rng.uniform(0.92, 1.08, 3), dtype=torch.float32)
    jittered = image ** float(rng.uniform(0.8, 1.25)) * gain[:, None, None]
    if rng.random() < _NOISE_SHARE:
        jittered += torch.from_numpy(rng.standard_normal(tuple(image.shape), np.float32)) * _NOISE_SIGMA
    return jittered.clamp_(0, 1)


def training_batches(
    dataset: PanopticDataset,
    size: int,
    batch_size: int,
    seed: int,
    first_step: int = 0,
    *,
    rank: int = 0,
    world_size: int = 1,
    min_scale: float = 0.6,
) -> Iterator[Batch]:
    """Yield augmented batches for ever; the next one is made while one is used.

    Batch n depends on `seed` and n alone, and so does each position of it: training can resume anywhere, and several
    processes make together the batch that one would make.

    Args:
        dataset: Images with truth, drawn with replacement.
        size: Edge of the square images in pixels, a multiple of 4.
        batch_size: Images of a batch over all processes.
        seed: Of everything random.
        first_step: Number of the first batch.
        rank: Which process this is; it makes only its share of each batch.
        world_size: Number of processes.
        min_scale: Shortest side of a crop as a share of the image's.

    Raises:
        DataError: The data set is empty or an image of it is broken, `size` or `batch_size` cannot be divided.
    """
    _check(dataset, size)
    if batch_size % world_size:
        raise DataError(f'batch_size must be divisible by {world_size} processes, got {batch_size}')
    share = batch_size // world_size

    def make(step: int) -> Batch:
        positions = range(rank * share, (rank + 1) * share)
        return _collate(
            [_augmented(dataset, size, np.random.default_rng([seed, step, n]), min_scale) for n in positions]
        )

    return _prefetched(make, first_step)


def validation_batches(
    dataset: PanopticDataset, size: int, batch_size: int, limit: int | None = None
) -> Iterator[Batch]:
    """Yield the first `limit` images (all by default) once each, stretched to `size` and otherwise as they are.

    Raises:
        DataError: The data set is empty or an image of it is broken, or `size` is no multiple of 4.
    """
    _check(dataset, size)
    count = len(dataset) if limit is None else min(limit, len(dataset))
    for start in range(0, count, batch_size):
        samples = []
        for index in range(start, min(start + batch_size, count)):
            image, panoptic_map = _scaled(dataset.image(index), dataset.panoptic_map(index), size)
            masks, categories = instance_masks(panoptic_map, dataset.records[index].segments)
            samples.append(Sample(_as_tensor(image), masks, categories, index))
        yield _collate(samples)


def _check(dataset: PanopticDataset, size: int) -> None:
    if not len(dataset):
        raise DataError(f'{dataset.path} has no images')
    if size < MASK_STRIDE or size % MASK_STRIDE:
        raise DataError(f'size must be a positive multiple of {MASK_STRIDE} pixels, got {size}')


def _prefetched(make: Callable[[int], Batch], first_step: int) -> Iterator[Batch]:
    step = first_step
    with ThreadPoolExecutor(1, thread_name_prefix='batches') as worker:
        waiting = worker.submit(make, step)
        while True:
            batch = waiting.result()
            step += 1
            waiting = worker.submit(make, step)
            yield batch


def _augmented(dataset: PanopticDataset, size: int, rng: np.random.Generator, min_scale: float) -> Sample:
    index = int(rng.integers(len(dataset)))
    image, panoptic_map = dataset.image(index), dataset.panoptic_map(index)
    full_h, full_w = image.shape[:2]
    scales = rng.uniform(min_scale, 1.0, 2) if rng.random() < _CROP_SHARE else np.ones(2)
    height, width = max(1, int(full_h * scales[0])), max(1, int(full_w * scales[1]))
    top, left = int(rng.integers(full_h - height + 1)), int(rng.integers(full_w - width + 1))
    window = slice(top, top + height), slice(left, left + width)
    image, panoptic_map = _scaled(image[window], panoptic_map[window], size)
    if rng.random() < 0.5:
        image, panoptic_map = image[:, ::-1], np.ascontiguousarray(panoptic_map[:, ::-1])
    masks, categories = instance_masks(panoptic_map, dataset.records[index].segments)
    return Sample(jitter_colors(_as_tensor(image), rng), masks, categories, index)


def _scaled(
    image: NDArray[np.uint8], panoptic_map: NDArray[np.int32], size: int
) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
    shrinks = min(image.shape[:2]) >= size
    resized = cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    ids = cv2.resize(panoptic_map, (size, size), interpolation=cv2.INTER_NEAREST_EXACT)
    return np.asarray(resized, np.uint8), np.asarray(ids, np.int32)


def _as_tensor(image: NDArray[np.uint8]) -> Tensor:
    """Turn `(S, S, 3)` uint8 into `(3, S, S)` float32 in [0, 1]."""
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))).float() / 255


def _collate(samples: Sequence[Sample]) -> Batch:
    return Batch(
        images=torch.stack([sample.image for sample in samples]),
        masks=[sample.masks for sample in samples],
        categories=[sample.categories for sample in samples],
        indices=[sample.index for sample in samples],
    )
