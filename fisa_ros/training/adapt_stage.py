"""Tunes FISA to new classes on a handful of images, and holds on to what the model knew before."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
import torch.nn.functional as F

from fisa_ros.core.errors import DataError
from fisa_ros.networks.segmentation_network import SegmentationNetwork
from fisa_ros.training.fisa_stage import ON_NOTHING
from fisa_ros.training.frozen_views import FrozenView, Guard, ViewBatch, collate_views
from fisa_ros.training.loop import TrainingStoppedError, train
from fisa_ros.training.mask_accuracy import IGNORED
from fisa_ros.training.memory_errors import ALL_ELSE
from fisa_ros.training.settings import Phase, RunSettings
from fisa_ros.training.simo import apply_simo, simo_parameters
from fisa_ros.training.terms import Term
from fisa_ros.training.vocabulary_sampler import VocabularySampler

TUNED_SETS = ('queries', 'seve', 'void', 'projection')
"""FISA's own parts, and CLIP's projection: queries alone hardly reach words that nothing was ever trained on."""
# Views lie in the memory of the machine: fewer of them need no less of the GPU's.
MEMORY_ADVICE = f'{ALL_ELSE}, or set CUDA_VISIBLE_DEVICES to nothing to adapt on the processor'
_WHOLE_SHARE = 0.6


@dataclass(frozen=True, slots=True)
class AdaptOptions:
    """How a model is tuned.

    Attributes:
        steps: Optimiser steps.
        learning_rate: Its peak.
        batch_size: Views in a step.
        rehearsal_share: Of these, the share that shows rehearsal images, where there are any.
        guard_weight: Weight of the divergence from what the model said of the base classes before.
    """

    steps: int = 200
    learning_rate: float = 4e-3
    batch_size: int = 6
    rehearsal_share: float = 0.5
    guard_weight: float = 4.0

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise DataError(f'steps must be 1 or more, got {self.steps}')


def tune(
    network: SegmentationNetwork,
    site: Sequence[FrozenView],
    rehearsal: Sequence[FrozenView],
    sampler: VocabularySampler,
    guard: Guard,
    options: AdaptOptions,
    folder: Path,
    seed: int,
    run: RunSettings,
) -> int:
    """Tune `TUNED_SETS` in place; all else stays as it is. Returns the steps that were taken.

    New classes are learnt by cross-entropy against all base classes. What the model said of the base classes before, on
    masks of nothing new, is kept by the divergence from it (Hinton et al., "Distilling the Knowledge in a Neural
    Network", 2015; Li and Hoiem, "Learning without Forgetting", 2016). On masks that may be new, it is the shares of
    the base classes among themselves that are kept.

    Args:
        network: The model.
        site: Views of the site.
        rehearsal: Views of other images with base classes; may be empty.
        sampler: Draws the vocabularies of the steps.
        guard: What is learnt and what is kept; most steps ask for all classes.
        options: How.
        folder: Where the loop writes its files: a new one, for they hold only what is tuned.
        seed: Of what is drawn.
        run: How the loop is run; its time limit ends the tuning early.

    Raises:
        DataError: No view shows a new class.
    """
    if not any(view.numbers() & guard.new for view in site):
        raise DataError('no view of the site shows a new class in a mask that is large enough')
    network.eval().requires_grad_(False)
    parameters = apply_simo(network, TUNED_SETS)
    phase = Phase(1, options.batch_size, options.steps, options.learning_rate)
    new_ids = torch.tensor(sorted(guard.new), dtype=torch.int64)

    def loss(batch: ViewBatch, step: int) -> dict[str, Term]:
        device = batch.tokens.device
        rng = np.random.default_rng([seed, step, 2])
        vocabulary = (guard.together if rng.random() < _WHOLE_SHARE else sampler.draw(rng)).to(device)
        words = guard.together.to(device)
        embeddings = network.trainable_tower.embed_inputs(
            batch.tokens, batch.bias, vocabulary.semantic_tokens, vocabulary.token_mask
        )
        with torch.autocast(device.type, enabled=False):
            scores = network.head.class_logits(embeddings, vocabulary.text_embeddings, vocabulary.synonym_mask)
            kept = network.head.class_logits(embeddings, words.text_embeddings, words.synonym_mask)
        target = vocabulary.rows_of(batch.labels, sampler.tuned, IGNORED)
        target = torch.where(batch.labels == ON_NOTHING, len(vocabulary.text_embeddings), target)
        is_new = torch.isin(batch.labels, new_ids.to(device))
        is_known = target != IGNORED
        terms = {}
        for name, part in (('new', is_new & is_known), ('base', ~is_new & is_known)):
            value = F.cross_entropy(scores[part], target[part], reduction='sum', label_smoothing=0.02)
            terms[name] = Term(value, int(part.sum()), 1.0)
        is_kept = batch.is_guarded | batch.may_be_new
        divergence = _divergence(kept[batch.is_guarded], batch.base_logits[batch.is_guarded], is_open=False)
        divergence += _divergence(kept[batch.may_be_new], batch.base_logits[batch.may_be_new], is_open=True)
        terms['guard'] = Term(divergence, int(is_kept.sum()), options.guard_weight)
        right = scores[is_new & is_known].argmax(-1) == target[is_new & is_known]
        terms['new_accuracy'] = Term(right.sum(), int((is_new & is_known).sum()), 0.0)
        return terms

    drawn = _Draw(site, rehearsal, sorted(guard.new), options, seed)
    try:
        train(
            network, parameters, [phase], lambda _phase, first, rank, world: drawn.batches(first), loss, folder,
            run=run, weight_decay=0.0, saves_frozen=False, step_advice=MEMORY_ADVICE,
        )  # fmt: skip
    except TrainingStoppedError as stopped:
        if stopped.summary.stopped_by != 'time limit':
            raise
        return stopped.summary.step
    return options.steps


def _divergence(scores: Tensor, base_logits: Tensor, *, is_open: bool) -> Tensor:
    """Return the sum of the divergences of answers from former ones.

    Args:
        scores: `(N, K + L + 1)` of base classes, new ones and void.
        base_logits: `(N, K + 1)` former answers, without new classes.
        is_open: Whether new classes may take what share they want; else they had none.
    """
    base = base_logits.shape[-1] - 1
    former = base_logits.softmax(-1)
    if is_open:
        scores = torch.cat([scores[:, :base], scores[:, -1:]], -1)
    else:
        former = torch.cat(
            [former[:, :-1], former.new_zeros(len(former), scores.shape[-1] - base - 1), former[:, -1:]], -1
        )
    return F.kl_div(scores.log_softmax(-1), former, reduction='sum')


class _Draw:
    """Draws views: each new class as often as any other, and rehearsal views beside them."""

    def __init__(
        self,
        site: Sequence[FrozenView],
        rehearsal: Sequence[FrozenView],
        new: Sequence[int],
        options: AdaptOptions,
        seed: int,
    ) -> None:
        self.site, self.rehearsal, self.seed = site, rehearsal, seed
        self.showing = [
            indices
            for indices in ([n for n, view in enumerate(site) if number in view.numbers()] for number in new)
            if indices
        ]
        self.num_rehearsal = round(options.batch_size * options.rehearsal_share) if rehearsal else 0
        self.num_site = max(1, options.batch_size - self.num_rehearsal)

    def batches(self, first: int) -> Iterator[ViewBatch]:
        step = first
        while True:
            rng = np.random.default_rng([self.seed, step, 3])
            kinds = rng.integers(len(self.showing), size=self.num_site)
            chosen = [self.site[int(rng.choice(self.showing[int(kind)]))] for kind in kinds]
            for number in rng.integers(max(1, len(self.rehearsal)), size=self.num_rehearsal):
                chosen.append(self.rehearsal[int(number)])
            yield collate_views(chosen)
            step += 1


def interpolate(
    network: SegmentationNetwork, start: Mapping[str, Tensor], end: Mapping[str, Tensor], alpha: float
) -> None:
    """Set the tuned weights between those before and after tuning (Wortsman et al., "Robust fine-tuning", 2022).

    What is set is rounded as it will be saved.
    """
    state = network.state_dict()
    with torch.no_grad():
        for name, first in start.items():
            mixed = torch.lerp(first, end[name], alpha)
            state[name].copy_(mixed.half().float() if mixed.ndim > 1 else mixed)


def tuned_state(network: SegmentationNetwork) -> dict[str, Tensor]:
    """Return a copy of the weights that tuning changes."""
    trained = {id(parameter) for parameter in simo_parameters(network, TUNED_SETS)}
    named = network.named_parameters()
    return {name: tensor.detach().clone() for name, tensor in named if id(tensor) in trained}
