"""Losses of a class-agnostic mask generator: bipartite matching, cross-entropy, Dice and objectness."""

from scipy.optimize import linear_sum_assignment
import torch
from torch import Tensor
import torch.nn.functional as F

from fisa_ros.training.terms import Term

BCE_WEIGHT = 5.0
DICE_WEIGHT = 5.0
OBJECTNESS_WEIGHT = 2.0
NO_OBJECT_WEIGHT = 0.4


def match(mask_logits: Tensor, objectness_logits: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
    """Assign each ground-truth mask to one query at the lowest cost (Carion et al., DETR, 2020).

    Args:
        mask_logits: `(N, P)` float32.
        objectness_logits: `(N,)` float32.
        masks: `(T, P)` float32 shares in [0, 1].

    Returns:
        Indices of queries and of masks, both `(min(N, T),)` int64.
    """
    with torch.no_grad():
        positive, negative = F.softplus(-mask_logits), F.softplus(mask_logits)
        bce = (positive @ masks.T + negative @ (1 - masks).T) / masks.shape[1]
        probability = mask_logits.sigmoid()
        dice = 1 - (2 * probability @ masks.T + 1) / (probability.sum(1)[:, None] + masks.sum(1) + 1)
        cost = BCE_WEIGHT * bce + DICE_WEIGHT * dice - OBJECTNESS_WEIGHT * objectness_logits.sigmoid()[:, None]
        queries, targets = linear_sum_assignment(torch.nan_to_num(cost, 1e6, 1e6, 1e6).cpu().numpy())
    return torch.from_numpy(queries), torch.from_numpy(targets)


def mask_loss(predictions: list[tuple[Tensor, Tensor]], masks: list[Tensor]) -> dict[str, Term]:
    """Return the losses of the masks and of objectness, each summed over all prediction layers.

    Args:
        predictions: Per layer `(B, N, h, w)` mask logits and `(B, N)` objectness logits.
        masks: Per image `(T, h, w)` float32 shares in [0, 1].
    """
    zero = predictions[0][0].new_zeros((), dtype=torch.float32)
    bce = dice = objectness = zero
    for mask_logits, objectness_logits in predictions:
        flat_logits, scores = mask_logits.flatten(2).float(), objectness_logits.float()
        objects = torch.zeros_like(scores)
        for image, target in enumerate(masks):
            if not len(target):
                continue
            flat = target.flatten(1)
            queries, targets = match(flat_logits[image], scores[image], flat)
            logits, truth = flat_logits[image, queries], flat[targets]
            objects[image, queries] = 1.0
            bce = bce + F.binary_cross_entropy_with_logits(logits, truth, reduction='none').mean(1).sum()
            probability = logits.sigmoid()
            overlap = 2 * (probability * truth).sum(1) + 1
            dice = dice + (1 - overlap / (probability.sum(1) + truth.sum(1) + 1)).sum()
        weights = torch.where(objects > 0, 1.0, NO_OBJECT_WEIGHT)
        objectness = objectness + F.binary_cross_entropy_with_logits(scores, objects, weights, reduction='sum')
    count = sum(len(target) for target in masks)
    return {
        'bce': Term(bce, count, BCE_WEIGHT),
        'dice': Term(dice, count, DICE_WEIGHT),
        'objectness': Term(objectness, predictions[0][1].numel(), OBJECTNESS_WEIGHT),
    }
