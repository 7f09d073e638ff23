"""Augmented training batches of simulated views."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
import torch.nn.functional as F

from fisa_ros.simulation.views import ViewSet

MASK_STRIDE = 4
_MIN_MASK_CELLS = 0.5


@dataclass(frozen=True)
class Batch:
    """Images with their instances.

    Attributes:
        images: `(B, 3, S, S)` float32 rgb in [0, 1].
        masks: Per image `(T, S/4, S/4)` float32, the share of each cell that an instance covers.
        categories: Per image `(T,)` int64 category ids.
    """

    images: Tensor
    masks: list[Tensor]
    categories: list[Tensor]


def instance_masks(instance_map: Tensor, categories: list[int]) -> tuple[Tensor, Tensor]:
    """Split an `(S, S)` uint8 instance map into `(T, S/4, S/4)` shares and `(T,)` category ids; specks are left out."""
    numbers = torch.arange(1, len(categories) + 1, dtype=torch.uint8)
    full = (instance_map == numbers[:, None, None]).float()
    masks = F.avg_pool2d(full[:, None], MASK_STRIDE)[:, 0] if len(categories) else full[:, ::MASK_STRIDE, ::MASK_STRIDE]
    keep = masks.sum((1, 2)) >= _MIN_MASK_CELLS
    return masks[keep], torch.tensor(categories, dtype=torch.int64)[keep]


def _crop(image: Tensor, instance_map: Tensor, size: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    full = image.shape[-1]
    height, width = (int(full * rng.uniform(0.6, 1.0)) for _ in range(2)) if rng.random() < 0.6 else (full, full)
    top, left = int(rng.integers(full - height + 1)), int(rng.integers(full - width + 1))
    image = image[:, top : top + height, left : left + width]
    instance_map = instance_map[top : top + height, left : left + width]
    if (height, width) != (size, size):
        image = F.interpolate(image[None], (size, size), mode='bilinear', antialias=True, align_corners=False)[0]
        instance_map = F.interpolate(instance_map[None, None].float(), (size, size), mode='nearest-exact')[0, 0].byte()
    if rng.random() < 0.5:
        image, instance_map = image.flip(-1), instance_map.flip(-1)
    return image, instance_map


def _jitter(image: Tensor, rng: np.random.Generator) -> Tensor:
    gain = torch.tensor(rng.uniform(0.7, 1.35) * rng.uniform(0.92, 1.08, 3), dtype=torch.float32)
    gamma = float(rng.uniform(0.8, 1.25))
    image = (image.clamp(0, 1) ** gamma) * gain[:, None, None]
    if rng.random() < 0.3:
        image = image + torch.from_numpy(rng.normal(0, 0.02, image.shape).astype(np.float32))
    return image.clamp(0, 1)


def training_batches(views: ViewSet, size: int, batch_size: int, seed: int, first_step: int = 0) -> Iterator[Batch]:
    """Yield augmented batches for ever; batch number n depends on `seed` and n alone, so that training can resume."""
    step = first_step
    while True:
        rng = np.random.default_rng([seed, step])
        images, masks, categories = [], [], []
        for index in sorted(rng.integers(len(views), size=batch_size)):
            image = torch.from_numpy(views.images[index].copy()).permute(2, 0, 1).float() / 255
            instance_map = torch.from_numpy(views.instance_maps[index].copy())
            image, instance_map = _crop(image, instance_map, size, rng)
            image_masks, image_categories = instance_masks(instance_map, views.categories[index])
            images.append(_jitter(image, rng))
            masks.append(image_masks)
            categories.append(image_categories)
        yield Batch(torch.stack(images), masks, categories)
        step += 1


def validation_batches(views: ViewSet, batch_size: int) -> Iterator[Batch]:
    """Yield each view once, as it is."""
    for start in range(0, len(views), batch_size):
        indices = range(start, min(start + batch_size, len(views)))
        pairs = [instance_masks(torch.from_numpy(views.instance_maps[i].copy()), views.categories[i]) for i in indices]
        images = torch.from_numpy(views.images[start : start + batch_size].copy()).permute(0, 3, 1, 2).float() / 255
        yield Batch(images, [masks for masks, _ in pairs], [categories for _, categories in pairs])
