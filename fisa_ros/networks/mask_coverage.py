"""How far masks cover the cells of a coarser grid, by operations that every runtime has."""

import torch
from torch import Tensor

# Finite, so that no row of an attention can become NaN and half precision can hold it.
HIDDEN = -1e4
# A cell that a mask covers less is none of its own.
MIN_COVERAGE = 1 / 64
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
# Weight of every cell in a pooled embedding: an empty mask pools the whole image instead of nothing.
_BASE_WEIGHT = 1e-6


def area_matrix(size_in: int, size_out: int, device: torch.device | None = None) -> Tensor:
    """Return the `(size_out, size_in)` matrix that averages an axis over the area of each new cell.

    It is made on the device, as a copy from the host cannot be part of a CUDA graph.
    """
    edges = torch.arange(size_out + 1, dtype=torch.float64, device=device) * size_in / size_out
    cells = torch.arange(size_in, dtype=torch.float64, device=device)
    overlap = torch.minimum(edges[1:, None], cells + 1) - torch.maximum(edges[:-1, None], cells)
    return (overlap.clamp(min=0) * size_out / size_in).float()


def mask_coverage(mask_logits: Tensor, rows: int, columns: int) -> Tensor:
    """Return `(B, N, rows * columns)` in [0, 1]: the share of each cell that masks `(B, N, h, w)` cover."""
    height, width = mask_logits.shape[-2:]
    probability = mask_logits.sigmoid()
    vertical = area_matrix(height, rows, probability.device).to(probability.dtype)
    horizontal = area_matrix(width, columns, probability.device).to(probability.dtype)
    return (vertical @ probability @ horizontal.T).flatten(2)


def pooling_weights(coverage: Tensor) -> Tensor:
    """Return weights `(B, N, P)` that sum to 1 over the cells, for the average under each mask."""
    weights = torch.where(coverage > MIN_COVERAGE, coverage, 0.0) + _BASE_WEIGHT
    return weights / weights.sum(-1, keepdim=True)
