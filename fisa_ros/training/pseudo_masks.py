"""Masks for images that come with names alone: the generator's masks, where the model itself is sure of a new class."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
import torch
from torch import Tensor

from fisa_ros.core.errors import DataError
from fisa_ros.core.placement import Placement, Resize
from fisa_ros.datasets.coco_panoptic import SegmentInfo
from fisa_ros.datasets.site_classes import SiteClasses, category_table
from fisa_ros.datasets.site_images import PackedMask, SiteDataset
from fisa_ros.networks.mask_coverage import HIDDEN
from fisa_ros.networks.segmentation_network import SegmentationNetwork
from fisa_ros.pipeline.image_scaling import image_values, place_image
from fisa_ros.training.vocabulary_sampler import SampledVocabulary

_SAME_OBJECT_IOU = 0.5


@dataclass(frozen=True, slots=True)
class SureRule:
    """When a mask is taken for an object of a new class.

    Attributes:
        min_score: Least probability of the class, which must be the best one, in the image and in its mirror image.
        min_margin: Least distance to the next best class or void.
        min_objectness: Least probability that the mask is an object at all.
    """

    min_score: float = 0.5
    min_margin: float = 0.2
    min_objectness: float = 0.3

    def __post_init__(self) -> None:
        if not 0.0 < self.min_score < 1.0:
            raise DataError(f'the score of a sure mask must be in (0, 1), got {self.min_score}')


@dataclass(frozen=True, slots=True)
class NamedMasks:
    """What was found.

    Attributes:
        dataset: The images with the masks that were taken.
        taken: By number of a new class, how many masks of it were taken.
        best: By number of a new class, the best probability that any mask had.
    """

    dataset: SiteDataset
    taken: Mapping[int, int]
    best: Mapping[int, float]


@torch.inference_mode()
def name_masks(
    network: SegmentationNetwork,
    dataset: SiteDataset,
    classes: SiteClasses,
    together: SampledVocabulary,
    allowed: Sequence[frozenset[int]],
    size_hw: tuple[int, int],
    rule: SureRule,
    resize: Resize,
) -> NamedMasks:
    """Look for masks of new classes.

    Args:
        network: The model, in evaluation mode.
        dataset: Images without masks.
        classes: The classes.
        together: All of them.
        allowed: Per image the numbers of the new classes that may be in it.
        size_hw: Size of the model's input.
        rule: When a mask is taken.
        resize: How images come to that size.
    """
    device = network.head.logit_scale.device
    together = together.to(device)
    new = classes.new_numbers
    taken, best = dict.fromkeys(sorted(new), 0), dict.fromkeys(sorted(new), 0.0)
    records, masks = [], []
    for index, record in enumerate(dataset.records):
        placement = resize.place(record.size_hw, size_hw)
        placed = place_image(dataset.image(index), placement)
        image = torch.from_numpy(placed).permute(2, 0, 1)[None].float().to(device)
        proposals = network.generator(image / 255)
        logits, objectness = proposals.mask_logits.float(), proposals.objectness[0].cpu()
        barred = [number not in allowed[index] for number in together.category_ids if number in new]
        both = [
            _probabilities(network, image / 255, logits, together, barred),
            _probabilities(network, _mirrored(image / 255, placement), _mirrored(logits, placement), together, barred),
        ]
        score, row, is_agreed = agreement(both[0].cpu(), both[1].cpu())
        number = torch.tensor(together.category_ids)[row]
        margin = torch.stack([entry.cpu().topk(2, -1).values.diff(dim=-1)[:, 0].neg() for entry in both]).amin(0)
        found: list[tuple[SegmentInfo, PackedMask]] = []
        pixels: list[NDArray[np.bool_]] = []
        for query in score.argsort(descending=True).tolist():
            kind, certainty = int(number[query]), float(score[query])
            if kind not in new:
                continue
            best[kind] = max(best[kind], certainty)
            if not is_agreed[query] or certainty < rule.min_score or margin[query] < rule.min_margin:
                continue
            mask = _scaled(logits[0, query], placement)
            if objectness[query] < rule.min_objectness or not mask.any():
                continue
            if all(_iou(mask, other) < _SAME_OBJECT_IOU for other in pixels):
                found.append((SegmentInfo(len(found) + 1, kind, False), PackedMask.of(mask)))
                pixels.append(mask)
                taken[kind] += 1
        records.append(replace(record, segments=tuple(info for info, _ in found)))
        masks.append(tuple(mask for _, mask in found))
    named = replace(dataset, categories=category_table(classes), records=tuple(records), masks=tuple(masks))
    return NamedMasks(named, taken, best)


def agreement(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Compare two answers about the same masks, `(N, K + 1)` probabilities whose last column is void.

    Returns:
        Of each mask: the best of the lower probabilities of the classes, its row, and whether both answers name it.
    """
    score, row = torch.minimum(first, second)[:, :-1].max(-1)
    return score, row, (first.argmax(-1) == row) & (second.argmax(-1) == row)


def _probabilities(
    network: SegmentationNetwork, image: Tensor, logits: Tensor, vocabulary: SampledVocabulary, barred: Sequence[bool]
) -> Tensor:
    """Return `(N, K + 1)` probabilities; the new classes, the last rows, that are barred have none."""
    embeddings = network.tower(network.at_tower_size(image), logits, vocabulary.semantic_tokens, vocabulary.token_mask)
    scores = network.head.class_logits(embeddings[0], vocabulary.text_embeddings, vocabulary.synonym_mask)
    hidden = torch.zeros(scores.shape[-1], dtype=torch.bool, device=scores.device)
    hidden[-1 - len(barred) : -1] = torch.tensor(barred, device=scores.device)
    return (scores.masked_fill(hidden, HIDDEN) / network.head.temperature).softmax(-1)


def _mirrored(pixels: Tensor, placement: Placement) -> Tensor:
    return pixels[..., torch.from_numpy(placement.mirrored_cells(pixels.shape[-1])).to(pixels.device)]


def _scaled(mask_logits: Tensor, placement: Placement) -> NDArray[np.bool_]:
    return image_values(mask_logits.sigmoid().cpu().numpy(), placement) > 0.5


def _iou(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> float:
    return float((first & second).sum() / max(1, int((first | second).sum())))
