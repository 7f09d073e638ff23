"""How often masks of new and of base classes get the right class, from views whose frozen part is kept."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from fisa_ros.networks.segmentation_network import SegmentationNetwork
from fisa_ros.training.frozen_views import FrozenView, Guard, ViewBatch, collate_views
from fisa_ros.training.mask_accuracy import IGNORED
from fisa_ros.training.vocabulary_sampler import SampledVocabulary

_AT_ONCE = 8


@dataclass(frozen=True, slots=True)
class MaskScores:
    """Shares of masks whose best class is right.

    Attributes:
        new: Of new classes, asked for together with all base classes; None where there is no mask of them.
        new_masks: How many masks that are.
        base: Of base classes, asked for without the new ones.
        base_asked_together: Of base classes, asked for together with the new ones.
        base_masks: How many masks that are.
        per_class: By number of a new class, the same as `new`.
    """

    new: float | None
    new_masks: int
    base: float | None
    base_asked_together: float | None
    base_masks: int
    per_class: Mapping[int, float] = field(default_factory=dict)

    def with_base_of(self, other: 'MaskScores') -> 'MaskScores':
        """Return these scores of new classes, with those of base classes on other images."""
        return replace(
            self, base=other.base, base_asked_together=other.base_asked_together, base_masks=other.base_masks
        )

    def base_drop(self, before: 'MaskScores') -> float:
        """Return by how much the base classes are worse than before, in [-1, 1], in whichever way they lost more.

        It is 1 where nothing was measured.
        """
        pairs = ((before.base, self.base), (before.base_asked_together, self.base_asked_together))
        return max((old - new for old, new in pairs if old is not None and new is not None), default=1.0)


@torch.inference_mode()
def score_views(network: SegmentationNetwork, views: Sequence[FrozenView], guard: Guard) -> MaskScores:
    """Measure a network on the true masks of views."""
    right: list[list[Tensor]] = [[], []]
    truth: list[Tensor] = []
    for start in range(0, len(views), _AT_ONCE):
        batch = collate_views(views[start : start + _AT_ONCE])
        known = batch.is_true & (batch.labels > 0)
        truth.append(batch.labels[known])
        for hits, vocabulary in zip(right, (guard.together, guard.base), strict=True):
            rows = vocabulary.rows_of(batch.labels, (), IGNORED)
            hits.append((_best_rows(network, batch, vocabulary) == rows)[known])
    numbers = torch.cat(truth)
    together, alone = (torch.cat(hits).float() for hits in right)
    is_new = torch.isin(numbers, torch.tensor(sorted(guard.new), dtype=torch.int64))
    per_class = {number: _mean(together[numbers == number]) for number in sorted(guard.new)}
    return MaskScores(
        new=_mean(together[is_new]),
        new_masks=int(is_new.sum()),
        base=_mean(alone[~is_new]),
        base_asked_together=_mean(together[~is_new]),
        base_masks=int((~is_new).sum()),
        per_class={number: value for number, value in per_class.items() if value is not None},
    )


def count_base_masks(views: Sequence[FrozenView], new: frozenset[int]) -> int:
    """Return how many true masks of base classes views have: on so many `score_views` measures these."""
    return sum(number > 0 and number not in new for view in views for number in view.labels[view.is_true].tolist())


def sure_views(views: Sequence[FrozenView], numbers: Sequence[int], min_probability: float = 0.6) -> list[FrozenView]:
    """Return views in which what the model was sure of before is the truth about base classes.

    Args:
        views: True masks of new classes in them stay.
        numbers: Number of each row of the base vocabulary.
        min_probability: Of the best class of a predicted mask that counts.
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


def _mean(hits: Tensor) -> float | None:
    return float(hits.mean()) if len(hits) else None
