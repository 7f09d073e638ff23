"""FISA's image tower: a CLIP ViT whose mask tokens look at the image under their masks.

Reconstruction from the published description (arXiv 2409.16278): mask tokens with query projections of their own (SIMO)
and an early look of the image tokens at the words that are asked for (SEVE).
"""

from typing import cast

from open_clip.transformer import ResidualAttentionBlock, VisionTransformer
import torch
from torch import Tensor, nn
import torch.nn.functional as F

# Finite, so that no row of an attention can become NaN and half precision can hold it.
HIDDEN = -1e4
_MIN_COVERAGE = 1 / 64
_CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
_CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


def area_matrix(size_in: int, size_out: int) -> Tensor:
    """Return the `(size_out, size_in)` matrix that averages an axis over the area of each new cell."""
    edges = torch.arange(size_out + 1, dtype=torch.float64) * size_in / size_out
    cells = torch.arange(size_in, dtype=torch.float64)
    overlap = torch.minimum(edges[1:, None], cells + 1) - torch.maximum(edges[:-1, None], cells)
    return (overlap.clamp(min=0) * size_out / size_in).float()


class SemanticEncoding(nn.Module):
    """SEVE: a narrow cross-attention from image tokens to semantic tokens behind a gate that starts closed.

    Args:
        width: Width of the image tokens.
        text_dim: Length D of the semantic tokens.
        inner: Width of the attention.
        heads: Attention heads.
    """

    def __init__(self, width: int, text_dim: int, inner: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width)
        self.query = nn.Linear(width, inner)
        self.key_value = nn.Linear(text_dim, 2 * inner)
        self.out = nn.Linear(inner, width)
        self.gate = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor, semantic_tokens: Tensor, token_bias: Tensor) -> Tensor:
        """Return what is added to image tokens.

        Args:
            x: `(B, P, width)` image tokens.
            semantic_tokens: `(M, D)` unit rows.
            token_bias: `(M,)` 0 for tokens in use, `HIDDEN` for padding.
        """
        query = self.query(self.norm(x)).unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (B, h, P, d)
        key, value = self.key_value(semantic_tokens).unflatten(-1, (2, self.heads, -1)).permute(1, 2, 0, 3)
        scores = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5 + token_bias  # (B, h, P, M)
        attended = (scores.softmax(-1) @ value).transpose(1, 2).flatten(2)
        added: Tensor = torch.tanh(self.gate) * self.out(attended)
        return added


class FisaImageTower(nn.Module):
    """An open_clip ViT with mask tokens.

    Image and CLS tokens flow as in CLIP and never see the mask tokens. Mask tokens start as CLS; in each block they
    attend to CLS and to the image tokens under their mask, with a query projection of their own and CLIP's keys and
    values.

    Args:
        visual: The image tower of an open_clip model, with learnt positions for the size of the input and a CLS token.
        text_dim: Length D of the semantic tokens.
        seve_blocks: In how many of the first blocks image tokens look at the semantic tokens.
        seve_width: Width of that attention.
        seve_heads: Its heads.
        mean: Mean of the input, per channel.
        std: Standard deviation of the input.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        visual: VisionTransformer,
        text_dim: int,
        *,
        seve_blocks: int = 4,
        seve_width: int = 256,
        seve_heads: int = 4,
        mean: tuple[float, float, float] = _CLIP_MEAN,
        std: tuple[float, float, float] = _CLIP_STD,
    ) -> None:
        super().__init__()
        self.visual = visual
        width = visual.class_embedding.shape[0]
        self.mask_queries = nn.ModuleList(nn.Linear(width, width) for _ in self.blocks)
        self.seve = nn.ModuleList(SemanticEncoding(width, text_dim, seve_width, seve_heads) for _ in range(seve_blocks))
        self.register_buffer('mean', torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer('std', torch.tensor(std).view(1, 3, 1, 1), persistent=False)
        self.start_from_clip()

    @property
    def blocks(self) -> list[ResidualAttentionBlock]:
        """CLIP's blocks."""
        return list(cast('nn.ModuleList', self.visual.transformer.resblocks))

    def start_from_clip(self) -> None:
        """Set the query projections of the mask tokens to CLIP's own."""
        for module, block in zip(self.mask_queries, self.blocks, strict=True):
            linear = cast('nn.Linear', module)
            width = linear.out_features
            with torch.no_grad():
                linear.weight.copy_(block.attn.in_proj_weight[:width])
                linear.bias.copy_(block.attn.in_proj_bias[:width])

    def forward(self, image: Tensor, mask_logits: Tensor, semantic_tokens: Tensor, token_mask: Tensor) -> Tensor:
        """Embed the regions under masks.

        Args:
            image: `(B, 3, S, S)` rgb in [0, 1] at the tower's size.
            mask_logits: `(B, N, h, w)`.
            semantic_tokens: `(M, D)` unit rows, padded.
            token_mask: `(M,)` bool, True where a token is.

        Returns:
            `(B, N, D)` mask embeddings of unit length.
        """
        x = self.visual._embeds((image - self.mean) / self.std)  # (B, 1 + P, width)
        bias = self.mask_bias(mask_logits).unsqueeze(1)  # (B, 1, N, 1 + P)
        token_bias = torch.where(token_mask, 0.0, HIDDEN).to(x.dtype)
        # Every mask token starts as CLS does.
        masked = x[:, :1].expand(-1, mask_logits.shape[1], -1)  # (B, N, width)
        for index, block in enumerate(self.blocks):
            if index < len(self.seve):
                guided = x[:, 1:] + self.seve[index](x[:, 1:], semantic_tokens, token_bias)
                x = torch.cat([x[:, :1], guided], 1)
            masked = self._mask_block(block, self.mask_queries[index], masked, x, bias)
            x = block(x)
        return F.normalize(self.visual.ln_post(masked) @ self.visual.proj, dim=-1)

    def mask_bias(self, mask_logits: Tensor) -> Tensor:
        """Return `(B, N, 1 + P)`: log of the share of a patch that a mask covers, `HIDDEN` for nearly none."""
        rows, columns = self.visual.grid_size
        height, width = mask_logits.shape[-2:]
        probability = mask_logits.sigmoid()
        vertical = area_matrix(height, rows).to(probability)
        horizontal = area_matrix(width, columns).to(probability)
        coverage = (vertical @ probability @ horizontal.T).flatten(2)  # (B, N, P)
        bias = torch.where(coverage > _MIN_COVERAGE, coverage.clamp(min=_MIN_COVERAGE).log(), HIDDEN)
        return F.pad(bias, (1, 0))

    @staticmethod
    def _mask_block(
        block: ResidualAttentionBlock, query_projection: nn.Module, masked: Tensor, x: Tensor, bias: Tensor
    ) -> Tensor:
        attention = block.attn
        width, heads = attention.embed_dim, attention.num_heads
        query = query_projection(block.ln_1(masked)).unflatten(-1, (heads, -1)).transpose(1, 2)
        key_value = F.linear(block.ln_1(x), attention.in_proj_weight[width:], attention.in_proj_bias[width:])
        key, value = key_value.unflatten(-1, (2, heads, -1)).permute(2, 0, 3, 1, 4)  # (B, h, 1 + P, d)
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=bias.to(query.dtype))
        masked = masked + block.ls_1(attention.out_proj(attended.transpose(1, 2).flatten(2)))
        updated: Tensor = masked + block.ls_2(block.mlp(block.ln_2(masked)))
        return updated


SIMO_SETS = ('queries', 'seve', 'void')


def simo_parameters(tower: FisaImageTower, sets: tuple[str, ...]) -> list[nn.Parameter]:
    """Return the tower's parameters that SIMO trains; 'void' lies in the head and adds none here.

    Raises:
        ValueError: A set is none of `SIMO_SETS`.
    """
    unknown = set(sets) - set(SIMO_SETS)
    if unknown:
        raise ValueError(f'SIMO sets must be among {", ".join(SIMO_SETS)}, got {", ".join(sorted(unknown))}')
    modules = [module for name, module in (('queries', tower.mask_queries), ('seve', tower.seve)) if name in sets]
    return [parameter for module in modules for parameter in module.parameters()]
