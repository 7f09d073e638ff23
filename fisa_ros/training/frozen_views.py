"""What the frozen parts of a model make of augmented images, kept so that tuning does not compute it again."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
import torch.nn.functional as F

from fisa_ros.core.vocabulary import Vocabulary
from fisa_ros.core.vocabulary_state import NUM_SEMANTIC_TOKENS, build_state
from fisa_ros.datasets.site_classes import NEW_CROWD
from fisa_ros.networks.mask_coverage import HIDDEN
from fisa_ros.networks.segmentation_network import SegmentationNetwork
from fisa_ros.networks.text_encoder import TextEncoder
from fisa_ros.runtime.backend import SURE_LOGIT
from fisa_ros.training.batches import Batch
from fisa_ros.training.fisa_stage import name_predicted_masks, roughen
from fisa_ros.training.mask_accuracy import IGNORED, pad_masks
from fisa_ros.training.vocabulary_sampler import SampledVocabulary, embed_names

_MIN_OBJECTNESS = 0.1
_MAX_NEW_SHARE = 0.3
_SURE_SCORE = 0.9
_MAX_CLAIM = 0.1


@dataclass(frozen=True, slots=True)
class Guard:
    """What is new and what must be kept.

    Attributes:
        together: Base and new classes, as a vocabulary whose categories are the numbers of the classes.
        base: The base classes alone.
        new: Numbers of the new classes.
    """

    together: SampledVocabulary
    base: SampledVocabulary
    new: frozenset[int]


@dataclass(frozen=True, slots=True)
class FrozenView:
    """One view of an image: what tower and generator make of it before anything that is tuned.

    Attributes:
        tokens: `(1 + P, width)` float16, what enters the tower's first block.
        bias: `(N, 1 + P)` float16, mask bias of the true masks, then of the predicted ones.
        labels: `(N,)` int64 class numbers, `ON_NOTHING` or `IGNORED`.
        is_true: `(N,)` bool, True for true masks.
        base_logits: `(N, K + 1)` float32, what the model said before of the base classes and void.
        is_guarded: `(N,)` bool, True for masks on nothing new: there that must not change, nor may new words count.
        may_be_new: `(N,)` bool, True for masks of which nobody knows whether they show something new: there that must
            not change either, but new words may count.
        image: Which image of its data set it shows.
    """

    tokens: Tensor
    bias: Tensor
    labels: Tensor
    is_true: Tensor
    base_logits: Tensor
    is_guarded: Tensor
    may_be_new: Tensor
    image: int

    def numbers(self) -> set[int]:
        """Return the numbers of the classes that masks of it have."""
        return {number for number in self.labels.tolist() if number > 0}


@dataclass(frozen=True, slots=True)
class ViewBatch:
    """Views of the same model side by side; masks are padded with `IGNORED`.

    Attributes:
        tokens: `(B, 1 + P, width)` float32.
        bias: `(B, N, 1 + P)` float32.
        labels: `(B, N)` int64.
        is_true: `(B, N)` bool.
        base_logits: `(B, N, K + 1)` float32.
        is_guarded: `(B, N)` bool.
        may_be_new: `(B, N)` bool.
    """

    tokens: Tensor
    bias: Tensor
    labels: Tensor
    is_true: Tensor
    base_logits: Tensor
    is_guarded: Tensor
    may_be_new: Tensor


def vocabulary_tensors(vocabulary: Vocabulary, encoder: TextEncoder, templates: Sequence[str]) -> SampledVocabulary:
    """Lay out a vocabulary as a running model does, all names of each class; categories are the ids of the classes."""
    names = [name for entry in vocabulary.classes for name in entry.names]
    rows = dict(zip(names, embed_names(encoder, templates, names).numpy(), strict=True))
    state = build_state(vocabulary, rows, NUM_SEMANTIC_TOKENS)
    return SampledVocabulary(
        text_embeddings=torch.from_numpy(state.text_embeddings),
        synonym_mask=torch.from_numpy(state.synonym_mask),
        semantic_tokens=torch.from_numpy(state.semantic_tokens),
        token_mask=torch.from_numpy(state.token_mask),
        category_ids=vocabulary.class_ids,
        tokens_are_classes=len(vocabulary.classes) <= NUM_SEMANTIC_TOKENS,
    )


@torch.no_grad()
def freeze_views(
    network: SegmentationNetwork,
    batches: Iterable[Batch],
    guard: Guard,
    rng: np.random.Generator | None = None,
) -> list[FrozenView]:
    """Compute what stays the same while a model is tuned.

    A predicted mask is guarded where truth accounts for it by objects that are not new. Where truth says nothing of it,
    it may show an object that nobody labelled: it is guarded only if the model, asked for all words, is sure of a base
    class and hardly thinks of a new one.

    Args:
        network: The model before tuning, in evaluation mode.
        batches: Images of the generator's size, their categories numbered as classes; `NEW_CROWD` is an area of new
            objects that are not told apart, of which nothing is learnt or kept.
        guard: What is new, and the vocabulary of which the answers are kept.
        rng: Roughens true masks as a generator's mistakes would; None leaves them as they are.
    """
    views: list[FrozenView] = []
    tower, device = network.trainable_tower, network.head.logit_scale.device
    base, together = guard.base.to(device), guard.together.to(device)
    for batch in batches:
        images = batch.images.to(device).contiguous(memory_format=torch.channels_last)
        proposals = network.generator(images)
        predicted = proposals.mask_logits.float().cpu()
        true, true_labels = pad_masks(batch)
        rough = true if rng is None else roughen(true, rng)
        logits = torch.cat([(2 * rough - 1) * SURE_LOGIT, predicted], 1)
        labels = torch.cat([true_labels, name_predicted_masks(predicted, batch)], 1)
        labels = torch.where(labels == NEW_CROWD, IGNORED, labels)
        is_true = torch.zeros_like(labels, dtype=torch.bool)
        is_true[:, : true.shape[1]] = True
        is_new = torch.isin(labels, torch.tensor(sorted(guard.new), dtype=torch.int64))
        tokens, bias = tower.frozen_inputs(network.at_tower_size(images), logits.to(device))

        def answers(vocabulary: SampledVocabulary, tokens: Tensor = tokens, bias: Tensor = bias) -> Tensor:
            embeddings = tower.embed_inputs(tokens, bias, vocabulary.semantic_tokens, vocabulary.token_mask)
            scores = network.head.class_logits(embeddings, vocabulary.text_embeddings, vocabulary.synonym_mask)
            return scores.float().cpu()

        shows_new = is_new[:, : true.shape[1]] | (true_labels == NEW_CROWD)
        pixels = batch.shown(predicted > 0)
        on_new = _share_on(pixels, true, shows_new)
        on_known = _share_on(pixels, true, ~shows_new & (true_labels != IGNORED))
        is_mask = pixels.flatten(2).any(-1) & (proposals.objectness.cpu() > _MIN_OBJECTNESS)
        is_other = is_mask & ~is_new[:, true.shape[1] :] & (on_new < _MAX_NEW_SHARE)
        is_guarded = ~is_new & (labels != IGNORED)
        may_be_new = torch.zeros_like(is_guarded)
        is_open = is_other & (on_known <= 1 - _MAX_NEW_SHARE)
        if is_open.any():
            is_open &= ~_is_surely_base(answers(together), together, guard.new)[:, true.shape[1] :]
        is_guarded[:, true.shape[1] :], may_be_new[:, true.shape[1] :] = is_other & ~is_open, is_open
        base_logits = answers(base)
        for row, image in enumerate(batch.indices):
            # The rows that fill `pad_masks` up are neither labelled nor guarded, and take memory.
            kept = (labels[row] != IGNORED) | is_guarded[row] | ~is_true[row]
            views.append(
                FrozenView(
                    tokens[row].half().cpu(), bias[row].half().cpu()[kept], labels[row][kept], is_true[row][kept],
                    base_logits[row][kept], is_guarded[row][kept], may_be_new[row][kept], image,
                )
            )  # fmt: skip
    return views


def collate_views(views: Sequence[FrozenView]) -> ViewBatch:
    """Put views into one batch."""
    count = max(len(view.labels) for view in views)

    def padded(tensors: Sequence[Tensor], value: float) -> Tensor:
        return torch.stack(
            [F.pad(entry, (0, 0) * (entry.ndim - 1) + (0, count - len(entry)), value=value) for entry in tensors]
        )

    return ViewBatch(
        tokens=torch.stack([view.tokens for view in views]).float(),
        bias=padded([view.bias.float() for view in views], HIDDEN),
        labels=padded([view.labels for view in views], IGNORED),
        is_true=padded([view.is_true for view in views], False),
        base_logits=padded([view.base_logits for view in views], 0.0),
        is_guarded=padded([view.is_guarded for view in views], False),
        may_be_new=padded([view.may_be_new for view in views], False),
    )


def _share_on(predicted: Tensor, true: Tensor, chosen: Tensor) -> Tensor:
    """Return the share `(B, N)` of each predicted bool mask that lies on the chosen ones `(B, T)` of the true ones."""
    masks = predicted.flatten(2).float()
    covered = (true * chosen[..., None, None]).sum(1).clamp(max=1).flatten(1)
    return torch.einsum('bnp,bp->bn', masks, covered) / masks.sum(-1).clamp(min=1)


def _is_surely_base(scores: Tensor, together: SampledVocabulary, new: frozenset[int]) -> Tensor:
    """Tell of which masks `(B, N)` the answer is surely a base class, from `(B, N, K + 1)` scores of all classes."""
    shares = scores.softmax(-1)[..., : len(together.category_ids)]
    is_new = torch.tensor([number in new for number in together.category_ids])
    return (shares[..., ~is_new].amax(-1) > _SURE_SCORE) & (shares[..., is_new].sum(-1) < _MAX_CLAIM)
