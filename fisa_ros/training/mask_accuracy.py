"""How often the class of a ground-truth mask is the right one, among all classes."""

from collections.abc import Collection

import torch
from torch import Tensor

from fisa_ros.core.placement import Resize
from fisa_ros.datasets.coco_panoptic import PanopticDataset
from fisa_ros.networks.segmentation_network import SegmentationNetwork
from fisa_ros.runtime.backend import SURE_LOGIT
from fisa_ros.training.batches import Batch, validation_batches
from fisa_ros.training.vocabulary_sampler import SampledVocabulary

IGNORED = -100
VALIDATION_IMAGES = 160


def pad_masks(batch: Batch) -> tuple[Tensor, Tensor]:
    """Stack the masks of a batch to `(B, T, h, w)` and its categories to `(B, T)`, padded with `IGNORED`."""
    length = max(1, *(len(entry) for entry in batch.masks))
    device = batch.images.device
    stacked = torch.zeros(len(batch.masks), length, *batch.masks[0].shape[1:], device=device)
    labels = torch.full((len(batch.masks), length), IGNORED, device=device)
    for image, (entry, categories) in enumerate(zip(batch.masks, batch.categories, strict=True)):
        stacked[image, : len(entry)] = entry
        labels[image, : len(entry)] = categories
    return stacked, labels


def mask_accuracy(
    network: SegmentationNetwork,
    vocabulary: SampledVocabulary,
    dataset: PanopticDataset,
    size: int,
    resize: Resize,
    novel: Collection[int] = (),
    limit: int | None = None,
    batch_size: int = 8,
) -> dict[str, float]:
    """Return the share of ground-truth masks whose best class is right, over all, base and novel categories.

    Args:
        network: Its tower and head are measured; images are scaled to what the tower takes.
        vocabulary: All categories.
        dataset: Images with truth.
        size: Size of the images in pixels.
        resize: How they come to that size.
        novel: Categories that training did not name.
        limit: At most so many images.
        batch_size: Images at once; the scores do not depend on it.
    """
    was_training = network.tower.training
    network.tower.eval()
    device = network.head.logit_scale.device
    vocabulary = vocabulary.to(device)
    right, truth = [], []
    with torch.inference_mode():
        for batch in validation_batches(dataset, size, batch_size, limit, resize):
            masks, categories = pad_masks(batch)
            images, masks, categories = batch.images.to(device), masks.to(device), categories.to(device)
            logits = (2 * masks - 1) * SURE_LOGIT
            images = network.at_tower_size(images)
            embeddings = network.tower(images, logits, vocabulary.semantic_tokens, vocabulary.token_mask)
            scores = network.head.class_logits(embeddings, vocabulary.text_embeddings, vocabulary.synonym_mask)
            known = categories != IGNORED
            rows = vocabulary.rows_of(categories, (), IGNORED)[known]
            right.append((scores[..., :-1].argmax(-1)[known] == rows).cpu())
            truth.append(categories[known].cpu())
    network.tower.train(was_training)
    hits, categories = torch.cat(right).float(), torch.cat(truth)
    is_novel = torch.isin(categories, torch.tensor(sorted(novel), dtype=torch.int64))
    parts = {'mask_accuracy': hits}
    if novel:
        parts |= {'mask_accuracy_base': hits[~is_novel], 'mask_accuracy_novel': hits[is_novel]}
    return {name: part.mean().item() for name, part in parts.items() if len(part)}
