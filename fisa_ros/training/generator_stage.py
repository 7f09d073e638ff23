"""Trains the tiny mask generator on simulated views, without any class."""

from pathlib import Path

import torch
from torch import Tensor

from fisa_ros.networks.tiny_generator import TinyMaskGenerator
from fisa_ros.simulation.views import ViewSet
from fisa_ros.training.batches import Batch, training_batches, validation_batches
from fisa_ros.training.loop import Phase, train
from fisa_ros.training.mask_loss import mask_loss


def mean_best_iou(generator: TinyMaskGenerator, views: ViewSet, limit: int = 120) -> dict[str, float]:
    """Return the mean over ground-truth masks of the best IoU of any proposal with objectness above 0.5."""
    generator.eval()
    best: list[Tensor] = []
    seen = 0
    with torch.inference_mode():
        for batch in validation_batches(views, 8):
            proposals = generator(batch.images)
            for image, masks in enumerate(batch.masks):
                kept = proposals.mask_logits[image][proposals.objectness[image] > 0.5].flatten(1) > 0
                truth = masks.flatten(1) > 0.5
                inter = truth.float() @ kept.float().T
                union = truth.sum(1, keepdim=True) + kept.sum(1) - inter
                best.append((inter / union.clamp(min=1)).max(1).values if kept.shape[0] else torch.zeros(len(truth)))
            seen += len(batch.masks)
            if seen >= limit:
                break
    generator.train()
    ious = torch.cat(best)
    return {'best_iou': ious.mean().item(), 'recall': (ious > 0.5).float().mean().item()}


def train_generator(
    generator: TinyMaskGenerator, views: ViewSet, validation: ViewSet, phases: list[Phase], folder: Path, seed: int
) -> None:
    """Train `generator` in place through `phases`."""
    generator.train().to(memory_format=torch.channels_last)

    def loss(batch: Batch, _: int) -> dict[str, Tensor]:
        with torch.autocast('cpu', torch.bfloat16):
            predictions = generator.all_predictions(batch.images.contiguous(memory_format=torch.channels_last))
        return mask_loss(predictions, batch.masks)

    train(
        generator,
        list(generator.parameters()),
        phases,
        lambda phase, step: training_batches(views, phase.size, phase.batch_size, seed + phase.size, step),
        loss,
        folder,
        validate=lambda: mean_best_iou(generator, validation),
    )
