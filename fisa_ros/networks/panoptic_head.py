"""The head: mask embeddings and words to classes, classes and masks to one panoptic map."""

from typing import NamedTuple

import torch
from torch import Tensor, nn
import torch.nn.functional as F

from fisa_ros.networks.mask_coverage import HIDDEN

# Far above any mask logit that a network can mean.
_MAX_LOGIT = 1e4
# Part of a cell: more than float32 is off by, less than a pixel of the input; true to 1024 cells and 2048 pixels.
_CELL_ROUNDING = 2.0**-12


class PanopticOutput(NamedTuple):
    """What the head returns for one image.

    Attributes:
        query_map: `(hm, wm)` int32, 0 = void, q + 1 = query; all parts of a stuff class carry one query.
        class_index: `(N,)` int64, row of the vocabulary.
        score: `(N,)` float32 in [0, 1].
    """

    query_map: Tensor
    class_index: Tensor
    score: Tensor


class ThresholdTensors(NamedTuple):
    """Scalar float32 tensors with the meaning of `core.thresholds.PlacedThresholds`."""

    score: Tensor
    mask: Tensor
    overlap: Tensor
    objectness_trust: Tensor
    shown_rows: Tensor
    shown_columns: Tensor

    @classmethod
    def of(cls, values: Tensor) -> 'ThresholdTensors':
        """Take apart the `(6,)` of `Thresholds.array`."""
        return cls(*(values[index] for index in range(6)))


class PanopticHead(nn.Module):
    """Open-vocabulary classification with a learnt void class, and panoptic merging.

    Args:
        text_dim: Length D of the embeddings.
        merge_size: Edge (pixels) of the square map in which masks compete.
        logit_scale: Start of the learnt factor on cosine similarities.
        temperature: What class logits are divided by before the softmax; calibrates scores.
    """

    def __init__(self, text_dim: int, merge_size: int, logit_scale: float = 20.0, *, temperature: float = 1.0) -> None:
        super().__init__()
        self.merge_size = merge_size
        self.temperature = temperature
        self.logit_scale = nn.Parameter(torch.tensor(logit_scale).log())
        self.void_embedding = nn.Parameter(F.normalize(torch.randn(text_dim), dim=0))

    def class_logits(self, mask_embeddings: Tensor, text_embeddings: Tensor, synonym_mask: Tensor) -> Tensor:
        """Return `(..., N, K + 1)` logits, the last for void: the best synonym of each class counts.

        Args:
            mask_embeddings: `(..., N, D)` unit rows.
            text_embeddings: `(K, S, D)` unit rows, padded.
            synonym_mask: `(K, S)` bool, True where a synonym is.
        """
        classes, synonyms, dim = text_embeddings.shape
        scale = self.logit_scale.exp()
        similarity = mask_embeddings @ text_embeddings.reshape(classes * synonyms, dim).T
        similarity = similarity.unflatten(-1, (classes, synonyms)) * scale
        best = torch.where(synonym_mask, similarity, HIDDEN).amax(-1)
        void = scale * (mask_embeddings @ F.normalize(self.void_embedding, dim=0))
        return torch.cat([best, void.unsqueeze(-1)], -1)

    def classify(
        self,
        mask_embeddings: Tensor,
        objectness: Tensor,
        text_embeddings: Tensor,
        synonym_mask: Tensor,
        objectness_trust: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Return `(N,)` class index and score of each mask.

        Objectness was learnt on a closed set and hides unseen things, so a sure classifier overrules it (after
        OVRCOAT, 2026): score = p x (1 - P(no object) x (1 - trust x p)).
        """
        class_logits = self.class_logits(mask_embeddings, text_embeddings, synonym_mask)
        probability = (class_logits / self.temperature).softmax(-1)
        best, class_index = probability[..., :-1].max(-1)
        score = best * (1 - (1 - objectness) * (1 - objectness_trust * best))
        # A mask that is more likely void than anything in the vocabulary is void, however low the threshold. A slice,
        # as TensorRT may gather anything by a negative index. A NaN stays one, and is no void.
        void = probability[..., -1:].squeeze(-1)
        return class_index, torch.where(best <= void, 0.0, score)

    def forward(
        self,
        mask_logits: Tensor,
        mask_embeddings: Tensor,
        objectness: Tensor,
        text_embeddings: Tensor,
        synonym_mask: Tensor,
        is_thing: Tensor,
        thresholds: ThresholdTensors,
    ) -> PanopticOutput:
        """Segment one image.

        Args:
            mask_logits: `(N, h, w)`.
            mask_embeddings: `(N, D)` unit rows.
            objectness: `(N,)` in [0, 1].
            text_embeddings: `(K, S, D)` unit rows, padded.
            synonym_mask: `(K, S)` bool.
            is_thing: `(K,)` bool.
            thresholds: What a segment must reach.
        """
        class_index, score = self.classify(
            mask_embeddings, objectness, text_embeddings, synonym_mask, thresholds.objectness_trust
        )
        # Masks that half precision spoiled must not look like an empty room: such a mean becomes the score.
        mean = mask_logits.flatten(1).mean(1)
        score = torch.where(mean.abs() <= _MAX_LOGIT, score, mean)
        size = (self.merge_size, self.merge_size)
        mask_logits = F.interpolate(mask_logits[None], size, mode='bilinear', align_corners=False)[0]
        # Of numbers, as TensorRT gathers no booleans.
        is_thing = is_thing.to(torch.int32).index_select(0, class_index) > 0
        return merge(mask_logits.sigmoid(), class_index, score, is_thing, thresholds)


def merge(
    probability: Tensor, class_index: Tensor, score: Tensor, is_thing: Tensor, thresholds: ThresholdTensors
) -> PanopticOutput:
    """Merge masks into one map (Cheng et al., MaskFormer, 2021) with thresholds on the raw mask probability.

    Masks compete by score x probability for the pixels that they hold. One that keeps too little of its own area is
    refused, and its pixels go to the best of the rest. Accepted masks of one stuff class become one segment. Only cells
    that show anything of the image count, those of `Placement.shown`.

    Args:
        probability: `(N, hm, wm)` mask probabilities.
        class_index: `(N,)` int64.
        score: `(N,)` float32.
        is_thing: `(N,)` bool.
        thresholds: What a segment must reach.
    """
    claim = torch.where((score >= thresholds.score)[:, None, None], probability * score[:, None, None], 0.0)
    claim = torch.where(probability > _limits(probability, thresholds), claim, 0.0)
    own = _area(claim > 0)
    won = _area(_won(claim))
    accepted = (won > 0) & (won >= thresholds.overlap * own)
    # The pixels of refused masks are free again.
    final = _won(claim * accepted[:, None, None])
    area = _area(final)
    queries = torch.arange(len(score), device=score.device)
    same_stuff = (class_index[:, None] == class_index) & ~is_thing[:, None] & (area > 0) & (area > 0)[:, None]
    group = same_stuff | (queries[:, None] == queries)
    front = torch.where(group, queries, len(score)).amin(1)
    weight = group * area.clamp(min=1)
    fused_score = (weight * score).sum(1) / weight.sum(1)
    query_map = (final * (front + 1).to(torch.int32)[:, None, None]).amax(0)
    return PanopticOutput(query_map, class_index, fused_score)


def _limits(probability: Tensor, thresholds: ThresholdTensors) -> Tensor:
    """Return `(hm, wm)` float32: what probabilities must exceed, which none does where nothing of the image is."""
    rows, columns = (
        torch.arange(size, dtype=torch.float32, device=probability.device) < share * size - _CELL_ROUNDING
        for size, share in zip(probability.shape[1:], (thresholds.shown_rows, thresholds.shown_columns), strict=True)
    )
    return torch.where(rows[:, None] & columns, thresholds.mask, 2.0)


def _area(masks: Tensor) -> Tensor:
    """Return `(N,)` float32 numbers of pixels: exact below 2^24, and runtimes add floats several times faster."""
    return masks.float().flatten(1).sum(1)


def _won(claim: Tensor) -> Tensor:
    """Return `(N, hm, wm)` bool: where the claim of each mask is positive and the largest.

    Compared with the maximum, as an index of the maximum along the first axis takes several times longer on a CPU.
    """
    return (claim == claim.amax(0)) & (claim > 0)
