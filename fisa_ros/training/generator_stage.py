"""Trains the tiny mask generator without any class."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from fisa_ros.core.placement import Resize
from fisa_ros.datasets.coco_panoptic import PanopticDataset
from fisa_ros.networks.tiny_generator import TinyMaskGenerator
from fisa_ros.training.batches import Batch, training_batches, validation_batches
from fisa_ros.training.loop import train
from fisa_ros.training.mask_accuracy import VALIDATION_IMAGES
from fisa_ros.training.mask_loss import mask_loss
from fisa_ros.training.memory_errors import images_beside_steps
from fisa_ros.training.processes import Processes
from fisa_ros.training.settings import Phase, RunSettings, phase_seed
from fisa_ros.training.terms import Term


@dataclass(frozen=True, slots=True)
class GeneratorOptions:
    """Settings of the stage.

    Attributes:
        frozen_norms: Keep the statistics of batch normalisations, for a start from trained weights.
    """

    frozen_norms: bool = False


def mean_best_iou(
    generator: TinyMaskGenerator, dataset: PanopticDataset, size: int, limit: int, resize: Resize, batch_size: int
) -> dict[str, float]:
    """Return the mean over ground-truth masks of the best IoU of any proposal with objectness above 0.5."""
    was_training = generator.training
    generator.eval()
    best: list[Tensor] = []
    device = next(generator.parameters()).device
    with torch.inference_mode():
        for batch in validation_batches(dataset, size, batch_size, limit, resize):
            proposals = generator(batch.images.to(device))
            predicted = batch.shown(proposals.mask_logits > 0)
            for image, masks in enumerate(batch.masks):
                kept = predicted[image][proposals.objectness[image] > 0.5].flatten(1)
                truth = masks.to(device).flatten(1) > 0.5
                inter = truth.float() @ kept.float().T
                union = truth.sum(1, keepdim=True) + kept.sum(1) - inter
                best.append(
                    (inter / union.clamp(min=1)).max(1).values if kept.shape[0] else union.new_zeros(len(truth)).float()
                )
    generator.train(was_training)
    ious = torch.cat(best)
    if not len(ious):
        return {}
    return {'best_iou': ious.mean().item(), 'recall': (ious > 0.5).float().mean().item()}


def train_generator(
    generator: TinyMaskGenerator,
    dataset: PanopticDataset,
    validation: PanopticDataset,
    phases: list[Phase],
    folder: Path,
    seed: int,
    options: GeneratorOptions,
    run: RunSettings,
    resize: Resize,
) -> None:
    """Train `generator` in place through `phases`."""
    validation_batch = images_beside_steps(phases, run, Processes().world_size)
    generator.requires_grad_(True).train(not options.frozen_norms).to(memory_format=torch.channels_last)

    def loss(batch: Batch, _: int) -> dict[str, Term]:
        predictions = generator.all_predictions(batch.images.contiguous(memory_format=torch.channels_last))
        with torch.autocast(batch.images.device.type, enabled=False):
            return mask_loss(predictions, batch.masks)

    train(
        generator,
        list(generator.parameters()),
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
            resize=resize,
        ),
        loss,
        folder,
        validate=lambda: mean_best_iou(
            generator, validation, phases[-1].size, VALIDATION_IMAGES, resize, validation_batch
        ),
        run=run,
    )
