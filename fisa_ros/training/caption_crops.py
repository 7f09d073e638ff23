"""Training batches of crops around single objects, with a caption for each: what images on the web are to CLIP."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
import torch
from torch import Tensor

from fisa_ros.core.errors import DataError
from fisa_ros.datasets.captions import Caption
from fisa_ros.datasets.coco_panoptic import ImageId, PanopticDataset
from fisa_ros.training.batches import jitter_colors

_MIN_SCALE = 0.6
_MIN_VISIBLE = 0.6
_MAX_GROWTH = 1.0
_MAX_SHIFT = 0.15


@dataclass(frozen=True)
class CropBatch:
    """Images, and the crops of them that captions speak of.

    Attributes:
        images: `(B, 3, S, S)` float32 rgb in [0, 1].
        image_index: `(n,)` int64, which image each crop is of.
        boxes: `(n, 4)` float32 crops (x0, y0, x1, y1), as fractions of the image.
        captions: `(n,)` int64 rows of the sentences.
        order: `(n, P)` float32 in [0, 1), random numbers by which patches of a crop are chosen.
    """

    images: Tensor
    image_index: Tensor
    boxes: Tensor
    captions: Tensor
    order: Tensor


class CaptionedCrops:
    """Draws crops of the images of a data set.

    Of the captions of an image, rare ones are drawn more often, by one over the root of how often their sentence occurs
    in the data set: else floors and walls, which every image has, crowd out all else (after Xu et al., MetaCLIP, 2024).

    Args:
        dataset: The images.
        captions: By image id.
        crops_per_image: At most so many crops of an image.
        patches: Number P of patches of an image.

    Images without captions are left out.

    Raises:
        DataError: No image has a caption.
    """

    def __init__(
        self,
        dataset: PanopticDataset,
        captions: Mapping[ImageId, Sequence[Caption]],
        crops_per_image: int,
        patches: int,
    ) -> None:
        self._dataset = dataset
        with_captions = [
            (index, captions[image_id]) for index, image_id in enumerate(dataset.image_ids) if captions.get(image_id)
        ]
        if not with_captions:
            raise DataError(f'{dataset.path}: no image has a caption')
        self._indices, self._captions = zip(*with_captions, strict=True)
        self._crops_per_image = crops_per_image
        self._patches = patches
        counts = Counter(caption.text for entries in self._captions for caption in entries)
        self.sentences = sorted(counts)
        self._weights = {sentence: count**-0.5 for sentence, count in counts.items()}
        self._row = {sentence: row for row, sentence in enumerate(self.sentences)}

    def batches(
        self, size: int, batch_size: int, seed: int, first_step: int = 0, *, part: int = 0, parts: int = 1
    ) -> Iterator[CropBatch]:
        """Yield batches for ever: of the images of step n, which depend on `seed` and n alone, one of so many parts."""
        if batch_size % parts:
            raise DataError(f'batch_size must be divisible by {parts} parts, got {batch_size}')
        share = batch_size // parts
        step = first_step
        while True:
            samples = [
                self._image(np.random.default_rng([seed, step, position]), size)
                for position in range(part * share, (part + 1) * share)
            ]
            counts = torch.tensor([len(boxes) for _, boxes, _, _ in samples])
            yield CropBatch(
                images=torch.stack([image for image, _, _, _ in samples]),
                image_index=torch.arange(share).repeat_interleave(counts),
                boxes=torch.from_numpy(np.concatenate([boxes for _, boxes, _, _ in samples])),
                captions=torch.tensor([row for _, _, rows, _ in samples for row in rows], dtype=torch.int64),
                order=torch.from_numpy(np.concatenate([order for _, _, _, order in samples])),
            )
            step += 1

    def _image(
        self, rng: np.random.Generator, size: int
    ) -> tuple[Tensor, NDArray[np.float32], list[int], NDArray[np.float32]]:
        chosen_image = int(rng.integers(len(self._indices)))
        image = self._dataset.image(self._indices[chosen_image])
        height, width = image.shape[:2]
        share = rng.uniform(_MIN_SCALE, 1.0, 2) if rng.random() < 0.6 else np.ones(2)
        window_h, window_w = max(1, int(height * share[0])), max(1, int(width * share[1]))
        top, left = int(rng.integers(height - window_h + 1)), int(rng.integers(width - window_w + 1))
        cut = np.ascontiguousarray(image[top : top + window_h, left : left + window_w])
        small = np.asarray(cv2.resize(cut, (size, size), interpolation=cv2.INTER_AREA), np.uint8)
        is_flipped = rng.random() < 0.5
        boxes, rows = [], []
        for caption in self._captions[chosen_image]:
            box = caption.box_xyxy or (left, top, left + window_w, top + window_h)
            visible = _visible_share(box, (left, top, left + window_w, top + window_h))
            if visible < _MIN_VISIBLE:
                continue
            grown = _grow(box, rng) if caption.box_xyxy is not None else np.asarray(box, np.float64)
            relative = (grown - np.array([left, top, left, top])) / np.array([window_w, window_h, window_w, window_h])
            if is_flipped:
                relative = np.array([1 - relative[2], relative[1], 1 - relative[0], relative[3]])
            boxes.append(relative.clip(0, 1))
            rows.append(self._row[caption.text])
        weights = np.array([self._weights[self.sentences[row]] for row in rows])
        count = min(self._crops_per_image, len(rows))
        chosen = rng.choice(len(rows), count, replace=False, p=weights / weights.sum()) if count else ()
        pixels = torch.from_numpy(small[:, ::-1].copy() if is_flipped else small).permute(2, 0, 1).float() / 255
        return (
            jitter_colors(pixels, rng),
            np.array([boxes[crop] for crop in chosen], np.float32).reshape(-1, 4),
            [rows[crop] for crop in chosen],
            rng.random((len(chosen), self._patches), np.float32),
        )


def _visible_share(box: tuple[float, float, float, float], window: tuple[int, int, int, int]) -> float:
    width = min(box[2], window[2]) - max(box[0], window[0])
    height = min(box[3], window[3]) - max(box[1], window[1])
    return max(0.0, width) * max(0.0, height) / max((box[2] - box[0]) * (box[3] - box[1]), 1e-6)


def _grow(box: tuple[float, float, float, float], rng: np.random.Generator) -> NDArray[np.float64]:
    """Enlarge a box by up to its own size and move it a little: nobody centres a photograph exactly."""
    extent = np.array([box[2] - box[0], box[3] - box[1]])
    centre = np.array([box[0] + box[2], box[1] + box[3]]) / 2 + extent * rng.uniform(-_MAX_SHIFT, _MAX_SHIFT, 2)
    half = extent * (1 + rng.uniform(0, _MAX_GROWTH)) / 2
    return np.concatenate([centre - half, centre + half])
