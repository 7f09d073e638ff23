"""How often masks of new and of base classes get the right class, from views whose frozen part is kept."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from operator import add

import torch
from torch import Tensor

from fisa_ros.networks.segmentation_network import SegmentationNetwork
from fisa_ros.training.frozen_views import FrozenView, Guard, ViewBatch, collate_views
from fisa_ros.training.mask_accuracy import IGNORED
from fisa_ros.training.vocabulary_sampler import SampledVocabulary

_AT_ONCE = 8


@dataclass(frozen=True, slots=True)
class Hits:
    """Masks whose best class is right, of so many.

    Attributes:
        right: How many are right.
        masks: Of how many.
        views: In how many views these are.
    """

    right: int = 0
    masks: int = 0
    views: int = 0

    @property
    def share(self) -> float | None:
        """Share of the masks that are right; None where there is no mask."""
        return self.right / self.masks if self.masks else None

    def __add__(self, other: 'Hits') -> 'Hits':
        return Hits(self.right + other.right, self.masks + other.masks, self.views + other.views)


@dataclass(frozen=True, slots=True)
class MaskScores:
    """What is right on some views; the sum of two of them is that on the views of both.

    Attributes:
        new: Masks of new classes, asked for together with all base classes.
        base: Masks of base classes, asked for without the new ones.
        base_asked_together: Masks of base classes, asked for together with the new ones.
        per_class: By number of a new class, the same as `new`.
    """

    new: Hits = field(default_factory=Hits)
    base: Hits = field(default_factory=Hits)
    base_asked_together: Hits = field(default_factory=Hits)
    per_class: Mapping[int, Hits] = field(default_factory=dict)

    def __add__(self, other: 'MaskScores') -> 'MaskScores':
        numbers = sorted({*self.per_class, *other.per_class})
        return MaskScores(
            self.new + other.new,
            self.base + other.base,
            self.base_asked_together + other.base_asked_together,
            {number: self.per_class.get(number, Hits()) + other.per_class.get(number, Hits()) for number in numbers},
        )

    def with_base_of(self, other: 'MaskScores') -> 'MaskScores':
        """Return these scores of new classes, with those of base classes on other images."""
        return replace(self, base=other.base, base_asked_together=other.base_asked_together)

    def base_drop(self, before: 'MaskScores') -> float:
        """Return by how much the base classes are worse than before, in [-1, 1], in whichever way they lost more.

        It is 1 where nothing was measured.
        """
        pairs = (
            (before.base.share, self.base.share),
            (before.base_asked_together.share, self.base_asked_together.share),
        )
        return max((old - new for old, new in pairs if old is not None and new is not None), default=1.0)

    def gain(self, before: 'MaskScores') -> float:
        """Return by how much the new classes are better than before, in [-1, 1]; 0 where nothing was measured."""
        return (self.new.share or 0.0) - (before.new.share or 0.0)


def total(scores: Sequence[MaskScores]) -> MaskScores:
    """Return the scores on all views of several."""
    return reduce(add, scores, MaskScores())


@torch.inference_mode()
def score_views(network: SegmentationNetwork, views: Sequence[FrozenView], guard: Guard) -> MaskScores:
    """Measure a network on the true masks of views."""
    right: list[list[Tensor]] = [[], []]
    truth: list[Tensor] = []
    places: list[Tensor] = []
    for start in range(0, len(views), _AT_ONCE):
        batch = collate_views(views[start : start + _AT_ONCE])
        known = batch.is_true & (batch.labels > 0)
        truth.append(batch.labels[known])
        places.append(start + known.nonzero()[:, 0])
        for hits, vocabulary in zip(right, (guard.together, guard.base), strict=True):
            rows = vocabulary.rows_of(batch.labels, (), IGNORED)
            hits.append((_best_rows(network, batch, vocabulary) == rows)[known])
    if not truth:
        return MaskScores()
    numbers, place = torch.cat(truth), torch.cat(places)
    together, alone = (torch.cat(hits) for hits in right)

    def hits_of(chosen: Tensor, answers: Tensor) -> Hits:
        return Hits(int(answers[chosen].sum()), int(chosen.sum()), len(place[chosen].unique()))

    is_new = torch.isin(numbers, torch.tensor(sorted(guard.new), dtype=torch.int64))
    return MaskScores(
        new=hits_of(is_new, together),
        base=hits_of(~is_new, alone),
        base_asked_together=hits_of(~is_new, together),
        per_class={number: hits_of(numbers == number, together) for number in sorted(guard.new)},
    )


def count_base_masks(views: Sequence[FrozenView], new: Collection[int]) -> int:
    """Return how many true masks of base classes views have: on so many `score_views` measures these."""
    return sum(number > 0 and number not in new for view in views for number in view.labels[view.is_true].tolist())


def sure_views(views: Sequence[FrozenView], numbers: Sequence[int], min_probability: float = 0.6) -> list[FrozenView]:
    """Return views in which what the model was sure of before is the truth about base classes.

    Args:
        views: True masks of new classes in them stay.
        numbers: Number of each row of the base vocabulary.
        min_probability: Of the best class of a predicted mask that counts; the mask must show nothing new.
    """
    table = torch.tensor([*numbers, IGNORED], dtype=torch.int64)
    changed = []
    for view in views:
        best, row = view.base_logits.softmax(-1).max(-1)
        is_sure = view.is_guarded & ~view.is_true & (best > min_probability) & (row < len(numbers))
        is_new = view.is_true & ~view.is_guarded & (view.labels > 0)
        labels = torch.where(is_sure, table[row], torch.where(is_new, view.labels, IGNORED))
        changed.append(replace(view, labels=labels, is_true=is_sure | is_new))
    return changed


def _best_rows(network: SegmentationNetwork, batch: ViewBatch, vocabulary: SampledVocabulary) -> Tensor:
    """Return the row `(B, N)` of the best class of each mask, void left out."""
    device = network.head.logit_scale.device
    embeddings = network.trainable_tower.embed_inputs(
        batch.tokens.to(device), batch.bias.to(device), vocabulary.semantic_tokens, vocabulary.token_mask
    )
    scores = network.head.class_logits(embeddings, vocabulary.text_embeddings, vocabulary.synonym_mask)
    return scores[..., :-1].argmax(-1).cpu()
