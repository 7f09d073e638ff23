"""Augmented training batches of a panoptic data set."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import cv2
import numpy as np
from numpy.typing import NDArray
import torch
from torch import Tensor

from fisa_ros.core.errors import DataError
from fisa_ros.core.placement import STRETCH, Placement, Resize
from fisa_ros.datasets.coco_panoptic import PanopticDataset, SegmentInfo
from fisa_ros.training.square_images import cut_masks, padded_map, scaled_map, square_image

MASK_STRIDE = 4
_MIN_MASK_CELLS = 0.5
_PIXELS_PER_CELL = MASK_STRIDE**2
_CROP_SHARE = 0.6
_MIN_SCALE = 0.6
_NOISE_SHARE = 0.3
_NOISE_SIGMA = 0.02
_STEPS_AHEAD = 2
_WHOLE_TLHW = (0.0, 0.0, 1.0, 1.0)


@dataclass(frozen=True, slots=True)
class Sample:
    """One image with its instances.

    Attributes:
        image: `(3, S, S)` float32 rgb in [0, 1].
        masks: `(T, S/4, S/4)` float32, the share of each cell that an instance covers.
        categories: `(T,)` int64 category ids of the data set.
        index: Which record of the data set it is.
        placement: Where the image, or what was cut out of it, is in the square.
        proposals: `(N, S/4, S/4)` uint8, 1 where a kept mask of the generator is; `None` where none are kept.
    """

    image: Tensor
    masks: Tensor
    categories: Tensor
    index: int
    placement: Placement
    proposals: Tensor | None = None


@dataclass(frozen=True, slots=True)
class Batch:
    """Images with their instances.

    Attributes:
        images: `(B, 3, S, S)` float32 rgb in [0, 1].
        masks: Per image `(T, S/4, S/4)` float32, the share of each cell that an instance covers.
        categories: Per image `(T,)` int64 category ids of the data set.
        indices: Per image the record of the data set.
        proposals: `(B, N, S/4, S/4)` uint8, 1 where a kept mask of the generator is; `None` where none are kept.
        is_shown: `(B, S/4, S/4)` bool, cells that show anything of the image; `None` where all do.
    """

    images: Tensor
    masks: list[Tensor]
    categories: list[Tensor]
    indices: list[int]
    proposals: Tensor | None = None
    is_shown: Tensor | None = None

    def shown(self, masks: Tensor) -> Tensor:
        """Return bool masks `(B, N, S/4, S/4)` without what they have in the padding."""
        return masks if self.is_shown is None else masks & self.is_shown[:, None].to(masks.device)


class KeptMasks(Protocol):
    """Masks that a generator made of the images of a data set as they are."""

    def masks(self, index: int) -> NDArray[np.uint8]:
        """Return `(N, S/4, S/4)` uint8, 1 where a mask is, of one record at the size S."""
        ...


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
    part: int = 0,
    parts: int = 1,
    loaders: int = 1,
    kept_masks: KeptMasks | None = None,
    is_augmented: bool = True,
    resize: Resize = STRETCH,
) -> Iterator[Batch]:
    """Yield augmented batches for ever; the next ones are made while one is used.

    What step n sees depends on `seed` and n alone, and so does each image of it: training can resume anywhere, and
    several processes, or batches of one step, make together the batch that one would make.

    Args:
        dataset: Images with truth, drawn with replacement.
        size: Edge of the square images in pixels, a multiple of 4.
        batch_size: Images of a step in all parts.
        seed: Of everything random.
        first_step: Number of the first step.
        part: Which part of the images of each step is made here.
        parts: Number of parts.
        loaders: Threads that make images.
        kept_masks: Where the generator's masks come from; they are cut and flipped as the images are.
        is_augmented: Whether images are cut, flipped and coloured; else they are only resized.
        resize: How images come to their size; what is cut out of one does as an image of its shape would.

    Raises:
        DataError: The data set is empty or an image of it is broken, `size` or `batch_size` cannot be divided.
    """
    _check(dataset, size)
    if batch_size % parts:
        raise DataError(f'batch_size must be divisible by {parts} parts, got {batch_size}')
    share = batch_size // parts

    def sample(step: int, position: int) -> Sample:
        rng = np.random.default_rng([seed, step, position])
        index = int(rng.integers(len(dataset)))
        if is_augmented:
            return _augmented(dataset, index, size, resize, rng, kept_masks)
        return _plain(dataset, index, size, resize, kept_masks)

    return _prefetched(sample, range(part * share, (part + 1) * share), first_step, loaders)


def validation_batches(
    dataset: PanopticDataset, size: int, batch_size: int, limit: int | None = None, resize: Resize = STRETCH
) -> Iterator[Batch]:
    """Yield the first `limit` images (all by default) once each, resized to `size` and otherwise as they are.

    Raises:
        DataError: The data set is empty or an image of it is broken, or `size` is no multiple of 4.
    """
    _check(dataset, size)
    count = len(dataset) if limit is None else min(limit, len(dataset))
    for start in range(0, count, batch_size):
        indices = range(start, min(start + batch_size, count))
        yield _collate([_plain(dataset, index, size, resize, None) for index in indices])


def _check(dataset: PanopticDataset, size: int) -> None:
    if not len(dataset):
        raise DataError(f'{dataset.path} has no images')
    if size < MASK_STRIDE or size % MASK_STRIDE:
        raise DataError(f'size must be a positive multiple of {MASK_STRIDE} pixels, got {size}')


def _prefetched(make: Callable[[int, int], Sample], positions: range, first_step: int, loaders: int) -> Iterator[Batch]:
    with (
        ThreadPoolExecutor(loaders, thread_name_prefix='images') as readers,
        ThreadPoolExecutor(1, thread_name_prefix='batches') as collator,
    ):

        def batch(step: int) -> Batch:
            return _collate(list(readers.map(make, [step] * len(positions), positions)))

        waiting: deque[Future[Batch]] = deque()
        step = first_step
        try:
            while True:
                while len(waiting) < _STEPS_AHEAD:
                    waiting.append(collator.submit(batch, step))
                    step += 1
                yield waiting.popleft().result()
        finally:
            collator.shutdown(cancel_futures=True)


def _augmented(
    dataset: PanopticDataset,
    index: int,
    size: int,
    resize: Resize,
    rng: np.random.Generator,
    kept_masks: KeptMasks | None,
) -> Sample:
    image, panoptic_map = dataset.image(index), dataset.panoptic_map(index)
    full_h, full_w = image.shape[:2]
    scales = rng.uniform(_MIN_SCALE, 1.0, 2) if rng.random() < _CROP_SHARE else np.ones(2)
    height, width = max(1, int(full_h * scales[0])), max(1, int(full_w * scales[1]))
    top, left = int(rng.integers(full_h - height + 1)), int(rng.integers(full_w - width + 1))
    window = slice(top, top + height), slice(left, left + width)
    placement = resize.place((height, width), (size, size))
    square, panoptic_map = square_image(image[window], placement), scaled_map(panoptic_map[window], placement)
    rows, columns = placement.content_hw
    content = square[:, :rows, :columns]
    is_flipped = bool(rng.random() < 0.5)
    if is_flipped:
        content, panoptic_map = content.flip(2), np.ascontiguousarray(panoptic_map[:, ::-1])
    masks, categories = instance_masks(padded_map(panoptic_map, placement), dataset.records[index].segments)
    proposals = None
    if kept_masks is not None:
        proposals = cut_masks(
            kept_masks.masks(index),
            (top / full_h, left / full_w, height / full_h, width / full_w),
            is_flipped,
            resize.place((full_h, full_w), (size, size)),
            placement,
        )
    # The padding keeps its colour.
    square[:, :rows, :columns] = jitter_colors(content, rng)
    return Sample(square, masks, categories, index, placement, proposals)


def _plain(dataset: PanopticDataset, index: int, size: int, resize: Resize, kept_masks: KeptMasks | None) -> Sample:
    image = dataset.image(index)
    placement = resize.place((image.shape[0], image.shape[1]), (size, size))
    panoptic_map = padded_map(scaled_map(dataset.panoptic_map(index), placement), placement)
    masks, categories = instance_masks(panoptic_map, dataset.records[index].segments)
    proposals = None
    if kept_masks is not None:
        # Nothing is cut off but what they have in the padding.
        proposals = cut_masks(kept_masks.masks(index), _WHOLE_TLHW, False, placement, placement)
    return Sample(square_image(image, placement), masks, categories, index, placement, proposals)


def _collate(samples: Sequence[Sample]) -> Batch:
    proposals = [sample.proposals for sample in samples if sample.proposals is not None] or None
    is_shown = None
    if not all(sample.placement.is_whole for sample in samples):
        is_shown = torch.stack([_shown_cells(sample.placement) for sample in samples])
    return Batch(
        images=torch.stack([sample.image for sample in samples]),
        masks=[sample.masks for sample in samples],
        categories=[sample.categories for sample in samples],
        indices=[sample.index for sample in samples],
        proposals=None if proposals is None else torch.stack(proposals),
        is_shown=is_shown,
    )


def _shown_cells(placement: Placement) -> Tensor:
    is_shown = np.zeros([side // MASK_STRIDE for side in placement.input_hw], np.bool_)
    placement.shown(is_shown)[...] = True
    return torch.from_numpy(is_shown)
