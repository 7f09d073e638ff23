"""Tunes FISA: SIMO's few parameters learn to name masks, with generator and CLIP frozen."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
import torch.nn.functional as F

from fisa_ros.core.errors import DataError
from fisa_ros.core.placement import Resize
from fisa_ros.datasets.coco_panoptic import PanopticDataset
from fisa_ros.networks.segmentation_network import SegmentationNetwork
from fisa_ros.runtime.backend import SURE_LOGIT
from fisa_ros.training.batches import Batch, training_batches
from fisa_ros.training.fiser import (
    NOTHING_HIDDEN,
    HiddenWordCycle,
    SemanticReconstruction,
    hide_tokens,
    reconstruction_loss,
)
from fisa_ros.training.loop import train
from fisa_ros.training.mask_accuracy import IGNORED, VALIDATION_IMAGES, mask_accuracy, pad_masks
from fisa_ros.training.mask_cache import open_mask_cache
from fisa_ros.training.memory_errors import images_beside_steps, images_of_step, memory_advice, told_of_memory
from fisa_ros.training.processes import Processes
from fisa_ros.training.settings import Phase, RunSettings, phase_seed
from fisa_ros.training.simo import DEFAULT_SIMO_SETS, apply_simo
from fisa_ros.training.terms import Term
from fisa_ros.training.vocabulary_sampler import SampledVocabulary, VocabularySampler

_MIN_IOU = 0.5
_MAX_FOREIGN_IOU = 0.15
_MAX_SHARE = 0.5
_MIN_LABELED = 0.5
ON_NOTHING = -1
_FISER_WIDTH = 128
_FISER_HEADS = 4
_HIDING_SHARE = 0.5


@dataclass(frozen=True, slots=True)
class FisaOptions:
    """Settings of the stage.

    Attributes:
        simo: Parts of the network that learn.
        class_split: File with the lists `base` and `novel` of category names, a shipped name or a path; masks of novel
            categories are left out. Empty: all categories are base.
        synonyms: File with other words for the categories, a shipped name or a path; empty for none.
        predicted_share: Share of the steps that use predicted masks instead of true ones.
        fiser_weight: Weight of FiSeR's loss; 0 for none.
        kept_masks: Masks of an image that a cache keeps, those of highest objectness.
        ema: Decay of an average of the weights, which then is the result; 0 for none.
        is_augmented: Whether images are cut, flipped and coloured.
    """

    simo: tuple[str, ...] = DEFAULT_SIMO_SETS
    class_split: str = ''
    synonyms: str = ''
    predicted_share: float = 0.5
    fiser_weight: float = 0.0
    kept_masks: int = 100
    ema: float = 0.0
    is_augmented: bool = True

    def __post_init__(self) -> None:
        if not 0.0 <= self.predicted_share <= 1.0:
            raise DataError(f'predicted_share must be in [0, 1], got {self.predicted_share}')
        if not self.simo:
            raise DataError('simo must name at least one set')
        if not 0.0 <= self.fiser_weight <= 100.0:
            raise DataError(f'fiser_weight must be in [0, 100], got {self.fiser_weight}')
        if self.kept_masks < 1:
            raise DataError(f'kept_masks must be 1 or more, got {self.kept_masks}')
        if not 0.0 <= self.ema < 1.0:
            raise DataError(f'ema must be in [0, 1), got {self.ema}')


def roughen(masks: Tensor, rng: np.random.Generator) -> Tensor:
    """Grow, shrink or blur masks `(B, T, h, w)` in [0, 1] as a generator's mistakes would."""
    kind = rng.random()
    if kind < 0.25:
        return F.max_pool2d(masks, 3, 1, 1)
    if kind < 0.5:
        shrunk = -F.max_pool2d(-masks, 3, 1, 1)
        # What is too thin to shrink would be gone, and its name with it.
        return torch.where(shrunk.amax((2, 3), keepdim=True) > 0.5, shrunk, masks)
    if kind < 0.7:
        return F.avg_pool2d(masks, 3, 1, 1)
    return masks


def name_predicted_masks(mask_logits: Tensor, batch: Batch) -> Tensor:
    """Return the categories `(B, N)` int64 of the objects that predicted masks lie on.

    Masks across several objects carry `ON_NOTHING`. Parts of one object, masks on unlabelled pixels and those in
    between carry `IGNORED`: nobody knows what they are. So do masks in the padding; it counts for none.

    Args:
        mask_logits: `(B, N, h, w)`.
        batch: The truth.
    """
    labels = torch.full(mask_logits.shape[:2], IGNORED, device=mask_logits.device)
    predicted = batch.shown(mask_logits > 0)
    for image, (masks, categories) in enumerate(zip(batch.masks, batch.categories, strict=True)):
        if not len(masks):
            continue
        proposed = predicted[image].flatten(1).float()
        truth = (masks > 0.5).flatten(1).float()
        inter = proposed @ truth.T
        area = proposed.sum(1, keepdim=True)
        best, index = (inter / (area + truth.sum(1) - inter).clamp(min=1)).max(1)
        share = inter / area.clamp(min=1)
        is_mixed = (best < _MAX_FOREIGN_IOU) & (share.amax(1) < _MAX_SHARE) & (share.sum(1) > _MIN_LABELED)
        labels[image] = torch.where(best > _MIN_IOU, categories[index], IGNORED)
        labels[image][is_mixed] = ON_NOTHING
    return labels


@torch.no_grad()
def _predicted_logits(network: SegmentationNetwork, batch: Batch) -> Tensor:
    """Return `(B, N, h, w)` mask logits of the generator, kept ones where the batch has them."""
    if batch.proposals is not None:
        return (2 * batch.proposals.float() - 1) * SURE_LOGIT
    logits: Tensor = network.generator(batch.images).mask_logits
    return logits.float()


class _HiddenWords(nn.Module):
    """FiSeR's parts: what predicts hidden words, and which word of each image is hidden next."""

    def __init__(self, network: SegmentationNetwork, categories: Sequence[int]) -> None:
        super().__init__()
        width = network.trainable_tower.visual.class_embedding.shape[0]
        text_dim = network.head.void_embedding.shape[0]
        self.reconstruction = SemanticReconstruction(width, text_dim, inner=_FISER_WIDTH, heads=_FISER_HEADS)
        self.cycle = HiddenWordCycle(len(categories))
        self.categories = list(categories)
        self.processes = Processes()

    def choose(self, categories: list[Tensor], vocabulary: SampledVocabulary) -> Tensor:
        """Return `(B,)` int64 rows of the words to hide, `NOTHING_HIDDEN` where an image shows none of them."""
        named = [category if category in vocabulary.category_ids else NOTHING_HIDDEN for category in self.categories]
        shown = [[category in entry.tolist() for category in named] for entry in categories]
        # Every process chooses for the whole batch, else their counts would drift apart.
        everyones = [row for part in self.processes.gather(shown) for row in part]
        chosen = self.cycle.choose(torch.tensor(everyones))[self.processes.rank * len(shown) :][: len(shown)]
        rows = [vocabulary.category_ids.index(named[word]) if word >= 0 else NOTHING_HIDDEN for word in chosen.tolist()]
        return torch.tensor(rows, device=categories[0].device)


def train_fisa(
    network: SegmentationNetwork,
    sampler: VocabularySampler,
    novel: Sequence[int],
    dataset: PanopticDataset,
    validation: PanopticDataset,
    phases: list[Phase],
    folder: Path,
    seed: int,
    options: FisaOptions,
    run: RunSettings,
    resize: Resize,
) -> None:
    """Train what `options.simo` names of tower and head, in place; all else stays as it is."""
    network.eval().requires_grad_(False)
    parameters = apply_simo(network, options.simo)
    trained = nn.ModuleDict({'network': network})
    hidden_words = _HiddenWords(network, sampler.tuned) if options.fiser_weight else None
    if hidden_words is not None:
        trained['fiser'] = hidden_words
        parameters += list(hidden_words.parameters())
    network.to(memory_format=torch.channels_last)
    size = phases[0].size
    processes, kept_masks = Processes(), None
    given = phases, run, processes.world_size
    batch_size, step_advice = images_beside_steps(*given), memory_advice(*given, images_of_step)
    if run.mask_cache is None and options.predicted_share:
        step_advice = f'keep the masks with --cache-masks, {step_advice}'
    if run.mask_cache is not None:
        with told_of_memory(processes.device, 'while masks are made', memory_advice(*given, images_beside_steps)):
            network.generator.to(processes.device)
            kept_masks = open_mask_cache(
                run.mask_cache,
                network.generator,
                dataset,
                size,
                resize,
                options.kept_masks,
                run.precision,
                run.loaders or 1,
                batch_size,
            )

    def loss(batch: Batch, step: int) -> dict[str, Term]:
        rng = np.random.default_rng([seed, step, 1])
        vocabulary = sampler.draw(rng).to(batch.images.device)
        if rng.random() < options.predicted_share:
            logits = _predicted_logits(network, batch)
            categories = name_predicted_masks(logits, batch)
        else:
            masks, categories = pad_masks(batch)
            logits = (2 * roughen(masks, rng) - 1) * SURE_LOGIT
        target = vocabulary.rows_of(categories, sampler.tuned, IGNORED)
        target = torch.where(categories == ON_NOTHING, len(vocabulary.text_embeddings), target)
        images = network.at_tower_size(batch.images).contiguous(memory_format=torch.channels_last)
        hidden, token_mask = None, vocabulary.token_mask
        # Not always: SEVE must also meet images all of whose words it sees, as at run time.
        if hidden_words is not None and vocabulary.tokens_are_classes and rng.random() < _HIDING_SHARE:
            hidden = hidden_words.choose(batch.categories, vocabulary)
            token_mask = hide_tokens(token_mask, hidden)
        encoded = network.trainable_tower.encode(images, logits, vocabulary.semantic_tokens, token_mask)
        with torch.autocast(images.device.type, enabled=False):
            scores = network.head.class_logits(
                encoded.mask_embeddings, vocabulary.text_embeddings, vocabulary.synonym_mask
            )
        known = target != IGNORED
        count = int(known.sum())
        value = F.cross_entropy(scores[known], target[known], reduction='sum', label_smoothing=0.02)
        right = (scores[known].argmax(-1) == target[known]).sum()
        terms = {'loss': Term(value, count, 1.0), 'accuracy': Term(right, count, 0.0)}
        if hidden_words is not None and hidden is not None:
            predicted = hidden_words.reconstruction(encoded.image_tokens, vocabulary.semantic_tokens, token_mask)
            with torch.autocast(images.device.type, enabled=False):
                words = network.head.class_logits(predicted, vocabulary.text_embeddings, vocabulary.synonym_mask)
            terms['fiser'] = Term(*reconstruction_loss(words[:, :-1], hidden), options.fiser_weight)
        return terms

    train(
        trained,
        parameters,
        phases,
        lambda phase, step, part, parts: training_batches(
            dataset,
            phase.size,
            phase.batch_size,
            phase_seed(seed, phases, phase),
            step,
            part=part,
            parts=parts,
            loaders=run.loaders or 1,
            kept_masks=kept_masks,
            is_augmented=options.is_augmented,
            resize=resize,
        ),
        loss,
        folder,
        validate=lambda: mask_accuracy(
            network, sampler.full(), validation, size, resize, novel, VALIDATION_IMAGES, batch_size
        ),
        run=run,
        ema=options.ema or None,
        saves_frozen=False,
        step_advice=step_advice,
    )
