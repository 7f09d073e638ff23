"""Trains the mask classifier of a tiny model on the names of single masks."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
import torch.nn.functional as F

from fisa_ros.networks.segmentation_network import SegmentationNetwork
from fisa_ros.simulation.views import ViewSet
from fisa_ros.training.batches import Batch, training_batches, validation_batches
from fisa_ros.training.loop import Phase, train
from fisa_ros.training.vocabulary_sampler import VocabularySampler

_SURE_LOGIT = 8.0
_PREDICTED_SHARE = 0.5
_MIN_IOU = 0.5
_MAX_FOREIGN_IOU = 0.15
_IGNORED = -100


def _pad(masks: list[Tensor], categories: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Stack masks to `(B, T, h, w)` and categories to `(B, T)`, padded with empty masks and `_IGNORED`."""
    length = max(1, *(len(entry) for entry in masks))
    stacked = torch.zeros(len(masks), length, *masks[0].shape[1:])
    labels = torch.full((len(masks), length), _IGNORED)
    for image, (entry, names) in enumerate(zip(masks, categories, strict=True)):
        stacked[image, : len(entry)] = entry
        labels[image, : len(entry)] = names
    return stacked, labels


def _roughen(masks: Tensor, rng: np.random.Generator) -> Tensor:
    """Grow, shrink or blur masks as a generator's mistakes would."""
    kind = rng.random()
    if kind < 0.25:
        return F.max_pool2d(masks, 3, 1, 1)
    if kind < 0.5:
        return -F.max_pool2d(-masks, 3, 1, 1)
    if kind < 0.7:
        return F.avg_pool2d(masks, 3, 1, 1)
    return masks


def _predicted_masks(network: SegmentationNetwork, batch: Batch) -> tuple[Tensor, Tensor]:
    """Return the generator's masks `(B, N, h, w)` and the categories `(B, N)` of the objects they lie on.

    Masks on nothing in particular carry 0, those in between `_IGNORED`.
    """
    network.generator.eval()
    with torch.no_grad():
        mask_logits = network.generator(batch.images).mask_logits.float()
    labels = torch.full(mask_logits.shape[:2], _IGNORED)
    for image, (masks, categories) in enumerate(zip(batch.masks, batch.categories, strict=True)):
        if not len(masks):
            continue
        proposed = (mask_logits[image] > 0).flatten(1).float()
        truth = (masks > 0.5).flatten(1).float()
        inter = proposed @ truth.T
        iou = inter / (proposed.sum(1, keepdim=True) + truth.sum(1) - inter).clamp(min=1)
        best, index = iou.max(1)
        labels[image] = torch.where(best > _MIN_IOU, categories[index], _IGNORED)
        labels[image][(best < _MAX_FOREIGN_IOU) & (proposed.sum(1) > 0)] = 0
    return mask_logits, labels


def mask_accuracy(network: SegmentationNetwork, sampler: VocabularySampler, views: ViewSet) -> dict[str, float]:
    """Return the share of ground-truth masks whose best class, among all, is the right one."""
    network.tower.eval()
    vocabulary = sampler.full()
    right = []
    with torch.inference_mode():
        for batch in validation_batches(views, 8):
            masks, categories = _pad(batch.masks, batch.categories)
            logits = (2 * masks - 1) * _SURE_LOGIT
            embeddings = network.tower(batch.images, logits, vocabulary.semantic_tokens, vocabulary.token_mask)
            scores = network.head.class_logits(embeddings, vocabulary.text_embeddings, vocabulary.synonym_mask)
            known = categories != _IGNORED
            truth = vocabulary.row_of_category[categories[known]]
            right.append(scores[..., :-1].argmax(-1)[known] == truth)
    network.tower.train()
    return {'mask_accuracy': torch.cat(right).float().mean().item()}


def train_classifier(
    network: SegmentationNetwork,
    sampler: VocabularySampler,
    views: ViewSet,
    validation: ViewSet,
    phases: list[Phase],
    folder: Path,
    seed: int,
) -> None:
    """Train tower and head of `network` in place; the generator stays as it is."""
    classifier = nn.ModuleDict({'tower': network.tower, 'head': network.head})
    classifier.train()
    network.to(memory_format=torch.channels_last)

    def loss(batch: Batch, step: int) -> dict[str, Tensor]:
        rng = np.random.default_rng([seed, step, 1])
        vocabulary = sampler.draw(rng)
        void = len(vocabulary.text_embeddings)
        if rng.random() < _PREDICTED_SHARE:
            logits, categories = _predicted_masks(network, batch)
        else:
            masks, categories = _pad(batch.masks, batch.categories)
            logits = (2 * _roughen(masks, rng) - 1) * _SURE_LOGIT
        row_of_category = vocabulary.row_of_category.clone()
        row_of_category[0] = void
        target = torch.where(categories == _IGNORED, _IGNORED, row_of_category[categories.clamp(min=0)])
        with torch.autocast('cpu', torch.bfloat16):
            images = batch.images.contiguous(memory_format=torch.channels_last)
            embeddings = network.tower(images, logits, vocabulary.semantic_tokens, vocabulary.token_mask)
        scores = network.head.class_logits(embeddings.float(), vocabulary.text_embeddings, vocabulary.synonym_mask)
        known = target != _IGNORED
        value = F.cross_entropy(scores[known], target[known], label_smoothing=0.02)
        accuracy = (scores[known].argmax(-1) == target[known]).float().mean()
        return {'loss': value, 'accuracy': accuracy}

    train(
        classifier,
        list(classifier.parameters()),
        phases,
        lambda phase, step: training_batches(views, phase.size, phase.batch_size, seed + phase.size, step),
        loss,
        folder,
        validate=lambda: mask_accuracy(network, sampler, validation),
        validate_every=500,
    )
