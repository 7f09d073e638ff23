"""Multi-scale deformable attention (Zhu et al., "Deformable DETR", 2021) by gathering rows, without GridSample.

TensorRT computes GridSample wrongly in several versions, and without a word (NVIDIA/TensorRT #4646, #4813). Here each
sample is a weighted sum of four rows of a table: arithmetic that every runtime does alike.
"""

from collections.abc import Sequence
from functools import reduce

import torch
from torch import Tensor, nn


class LevelSampler(nn.Module):
    """Sums weighted samples of square grids of cells.

    A sample is that of `grid_sample` with `align_corners=False` and `padding_mode='zeros'`: bilinear, and zero outside.

    Args:
        sizes: Edge of each of L levels in cells; their S cells follow one another level by level, row by row.

    Attributes:
        centers: `(S, L, 2)` float32, the centre xy of each cell in the pixels of each level, where the centre of the
            first pixel is (0, 0).
    """

    centers: Tensor
    edges: Tensor
    starts: Tensor

    def __init__(self, sizes: Sequence[int]) -> None:
        super().__init__()
        starts = [sum(size * size for size in sizes[:level]) for level in range(len(sizes))]
        self.register_buffer('centers', _centers(sizes), persistent=False)
        self.register_buffer('edges', torch.tensor(sizes, dtype=torch.int32).view(-1, 1, 1, 1), persistent=False)
        self.register_buffer('starts', torch.tensor(starts, dtype=torch.int32).view(-1, 1, 1, 1), persistent=False)

    def forward(self, value: Tensor, points: Tensor, weights: Tensor) -> Tensor:
        """Sample.

        Args:
            value: `(B, S, heads, d)` all cells.
            points: `(B, Q, heads, L, P, 2)` xy in the pixels of each level; NaN samples zeros.
            weights: `(B, Q, heads, L, P)`.

        Returns:
            `(B, Q, heads * d)` in the type of the values.
        """
        batch, length, heads, dim = value.shape
        before = points.floor().unsqueeze(-1)
        cells = torch.cat([before, before + 1], -1)  # (B, Q, heads, L, P, xy, 2)
        shares = 1 - (points.unsqueeze(-1) - cells).abs()
        # A comparison with NaN is false: no index may leave the table, whatever half precision made of a point.
        inside = torch.where(cells > 0, torch.minimum(cells, self.edges - 1.0), 0.0)
        share_x, share_y = torch.where(inside == cells, shares, 0.0).unbind(-2)
        column, row = inside.to(torch.int32).unbind(-2)
        shares = (share_y.unsqueeze(-1) * share_x.unsqueeze(-2) * weights[..., None, None]).flatten(4)
        # The values as they lie: a row for each head of each cell of each image.
        cell = row.unsqueeze(-1) * self.edges + column.unsqueeze(-2) + self.starts
        image = torch.arange(batch, dtype=torch.int32, device=value.device).view(-1, 1, 1, 1, 1)
        head = torch.arange(heads, dtype=torch.int32, device=value.device).view(-1, 1, 1)
        index = (cell.flatten(4) + image * length) * heads + head  # (B, Q, heads, L, 4 P)
        table = value.reshape(-1, dim)
        # One level after the other, as the gathered rows of all of them would be hundreds of megabytes.
        levels = zip(index.unbind(3), shares.to(value.dtype).unsqueeze(-2).unbind(3), strict=True)
        return reduce(torch.add, (_weighted_rows(table, rows, weight) for rows, weight in levels)).flatten(2)


def _weighted_rows(table: Tensor, index: Tensor, weight: Tensor) -> Tensor:
    """Return `(..., d)`: sums of `(..., n)` rows of a table `(R, d)`, weighted by `(..., 1, n)`."""
    rows = table.index_select(0, index.flatten()).view(*index.shape, table.shape[-1])
    return (weight @ rows).squeeze(-2)


def _centers(sizes: Sequence[int]) -> Tensor:
    """Return what `LevelSampler.centers` says."""
    places = []
    for size in sizes:
        axis = (torch.arange(size, dtype=torch.float64) + 0.5) / size
        places.append(torch.stack([axis.repeat(size), axis.repeat_interleave(size)], -1))
    edges = torch.tensor(sizes, dtype=torch.float64)[:, None]
    return (torch.cat(places)[:, None] * edges - 0.5).float()
