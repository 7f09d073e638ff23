"""A small mask generator after EoMT, with a convolutional stem.

Queries join the patch tokens in the last blocks of a plain transformer and masks are dot products with pixel
features (Kerssies et al., "Your ViT is Secretly an Image Segmentation Model", 2025). From scratch on little data
a plain ViT learns far slower than convolutions, hence the stem and the skips from it into the pixel features.
"""

import torch
from torch import Tensor, nn
import torch.nn.functional as F

from fisa_ros.networks.conv_stem import ConvBlock, ConvStem
from fisa_ros.networks.mask_generator import MaskProposals


class TransformerBlock(nn.Module):
    """Pre-norm self-attention and MLP."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        """Map tokens `(B, T, width)` to the same shape."""
        batch, tokens, width = x.shape
        qkv = self.qkv(self.norm1(x)).view(batch, tokens, 3, self.heads, width // self.heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        attended = F.scaled_dot_product_attention(query, key, value)
        x = x + self.out(attended.transpose(1, 2).reshape(batch, tokens, width))
        updated: Tensor = x + self.mlp(self.norm2(x))
        return updated


class TinyMaskGenerator(nn.Module):
    """Class-agnostic mask generator of a few million parameters.

    Args:
        image_size: Edge of the square input in pixels, a multiple of 16.
        num_queries: Number N of masks.
        channels: Channels of the stem at strides 4, 8 and 16; the last is the width of the transformer.
        blocks: Residual blocks of the stem at these strides.
        encoder_blocks: Transformer blocks before the queries join.
        query_blocks: Transformer blocks with queries.
        heads: Attention heads.
        mask_channels: Channels of the pixel features.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        image_size: int,
        num_queries: int = 48,
        channels: tuple[int, int, int] = (48, 96, 192),
        blocks: tuple[int, int, int] = (1, 2, 2),
        encoder_blocks: int = 2,
        query_blocks: int = 3,
        heads: int = 6,
        mask_channels: int = 64,
    ) -> None:
        super().__init__()
        width = channels[-1]
        self.register_buffer('mean', torch.tensor([0.5, 0.5, 0.5]).view(1, 3, 1, 1), persistent=False)
        self.register_buffer('std', torch.tensor([0.25, 0.25, 0.25]).view(1, 3, 1, 1), persistent=False)
        self.stem = ConvStem(channels, blocks)
        grid = image_size // 16
        self.position = nn.Parameter(torch.randn(1, width, grid, grid) * 0.02)
        self.encoder = nn.ModuleList(TransformerBlock(width, heads) for _ in range(encoder_blocks))
        self.queries = nn.Parameter(torch.randn(num_queries, width) * 0.02)
        self.query_blocks = nn.ModuleList(TransformerBlock(width, heads) for _ in range(query_blocks))
        self.norm = nn.LayerNorm(width)
        self.mask_head = nn.Sequential(
            nn.Linear(width, width), nn.GELU(), nn.Linear(width, width), nn.GELU(), nn.Linear(width, mask_channels)
        )
        self.objectness_head = nn.Linear(width, 1)
        self.lateral16 = nn.Conv2d(width, channels[1], 1)
        self.lateral8 = nn.Conv2d(channels[1], channels[1], 1)
        self.lateral4 = nn.Conv2d(channels[0], mask_channels, 1)
        self.smooth8 = ConvBlock(channels[1], mask_channels)
        self.smooth4 = nn.Sequential(
            ConvBlock(mask_channels, mask_channels), nn.Conv2d(mask_channels, mask_channels, 1)
        )

    @property
    def num_queries(self) -> int:
        """Number N of masks."""
        return self.queries.shape[0]

    def forward(self, image: Tensor) -> MaskProposals:
        """Propose masks at 1/4 of the resolution for `(B, 3, H, W)` float rgb in [0, 1]."""
        mask_logits, objectness_logits = self.all_predictions(image, last_only=True)[-1]
        return MaskProposals(mask_logits, objectness_logits.sigmoid())

    def all_predictions(self, image: Tensor, *, last_only: bool = False) -> list[tuple[Tensor, Tensor]]:
        """Return `(B, N, h, w)` mask logits and `(B, N)` objectness logits after each query block."""
        features = self.stem((image - self.mean) / self.std)
        batch, width, rows, columns = features.sixteenth.shape
        position: Tensor = self.position
        if position.shape[2:] != (rows, columns):
            position = F.interpolate(position, (rows, columns), mode='bicubic', align_corners=False)
        x = (features.sixteenth + position).flatten(2).transpose(1, 2)  # (B, P, width)
        for block in self.encoder:
            x = block(x)
        x = torch.cat([self.queries.expand(batch, -1, -1), x], 1)  # (B, N + P, width)
        states = []
        for block in self.query_blocks:
            x = block(x)
            states.append(x[:, : self.num_queries])
        patches = x[:, self.num_queries :].transpose(1, 2).reshape(batch, width, rows, columns)
        pixels = F.interpolate(self.lateral16(patches), scale_factor=2.0, mode='nearest')
        pixels = self.smooth8(pixels + self.lateral8(features.eighth))
        pixels = F.interpolate(pixels, scale_factor=2.0, mode='nearest')
        pixels = self.smooth4(pixels + self.lateral4(features.quarter))  # (B, C, H/4, W/4)
        if last_only:
            states = states[-1:]
        return [self._predict(self.norm(state), pixels) for state in states]

    def _predict(self, queries: Tensor, pixels: Tensor) -> tuple[Tensor, Tensor]:
        batch, channels, rows, columns = pixels.shape
        mask_logits = self.mask_head(queries) @ pixels.reshape(batch, channels, rows * columns)
        return mask_logits.view(batch, -1, rows, columns), self.objectness_head(queries).squeeze(-1)
