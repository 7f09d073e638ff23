"""FISA's image tower: a CLIP ViT whose mask tokens look at the image under their masks.

Reconstruction from the published description (arXiv 2409.16278): mask tokens with query projections of their own (SIMO)
and an early look of the image tokens at the words that are asked for (SEVE).
"""

from typing import Literal, NamedTuple, cast, get_args

from open_clip.transformer import ResidualAttentionBlock, VisionTransformer
import torch
from torch import Tensor, nn
import torch.nn.functional as F

from fisa_ros.core.errors import ManifestError
from fisa_ros.networks.mask_coverage import (
    CLIP_MEAN,
    CLIP_STD,
    HIDDEN,
    MIN_COVERAGE,
    mask_coverage,
    pooling_weights,
)

Regions = Literal['mask_tokens', 'tokens', 'values']


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
            semantic_tokens: `(M, D)` or `(B, M, D)` unit rows.
            token_bias: `(..., 1, 1, M)` 0 for tokens in use, `HIDDEN` for padding.
        """
        query = self.query(self.norm(x)).unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (B, h, P, d)
        # Entries of unit rows are about D^-0.5; at that size all tokens look alike to an attention that starts afresh.
        spread = semantic_tokens * semantic_tokens.shape[-1] ** 0.5
        key_value = self.key_value(spread).unflatten(-1, (2, self.heads, -1))  # (..., M, 2, h, d)
        key, value = key_value.movedim(-3, 0).transpose(-3, -2)  # (..., h, M, d)
        scores = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5 + token_bias  # (B, h, P, M)
        attended = (scores.softmax(-1) @ value).transpose(1, 2).flatten(2)
        added: Tensor = torch.tanh(self.gate) * self.out(attended)
        return added


class TowerOutput(NamedTuple):
    """What the tower makes of a batch of images.

    Attributes:
        mask_embeddings: `(B, N, D)` float32 unit rows.
        image_tokens: `(B, P, width)` image tokens after the last block and CLIP's last normalisation.
    """

    mask_embeddings: Tensor
    image_tokens: Tensor


def _require_clip(visual: nn.Module) -> None:
    """Raise ManifestError unless the image embedding of `visual` is the class token of a plain ViT."""
    if not isinstance(visual, VisionTransformer):
        raise ManifestError(f'the classifier must be a ViT of open_clip itself, got {type(visual).__name__}')
    pooling = 'attention' if visual.attn_pool is not None else visual.pool_type
    if pooling != 'tok':
        raise ManifestError(f"the classifier must pool by its class token ('tok'), got {pooling!r}")
    if not isinstance(visual.patch_dropout, nn.Identity):
        raise ManifestError(f'patch_dropout of the classifier must be 0, got {visual.patch_dropout.prob}')
    for block in visual.transformer.resblocks:
        if not isinstance(block, ResidualAttentionBlock):
            raise ManifestError(f'blocks of the classifier must be ResidualAttentionBlock, got {type(block).__name__}')
    if any(size % patch for size, patch in zip(visual.image_size, visual.patch_size, strict=True)):
        raise ManifestError(
            f'image size of the classifier must be a multiple of its patch size {visual.patch_size}, '
            f'got {visual.image_size}'
        )


class FisaImageTower(nn.Module):
    """An open_clip ViT with mask tokens.

    Image and CLS tokens flow as in CLIP and never see the mask tokens. Mask tokens start as CLS; in each block they
    attend to CLS and to the image tokens under their mask, with a query projection of their own and CLIP's keys and
    values.

    Args:
        visual: The image tower of an open_clip model, with positions for the size of the input and a CLS token.
        text_dim: Length D of the semantic tokens.
        seve_blocks: In how many of the first blocks image tokens look at the semantic tokens; 0 switches SEVE off.
        seve_width: Width of that attention.
        seve_heads: Its heads.
        tuned_queries: Whether mask tokens have query projections of their own instead of CLIP's.
        regions: What embeds a region: 'mask_tokens' as in FISA, or, as frozen baselines, what `pooled_embeddings` makes
            of 'tokens' or of 'values'.
        mean: Mean of the input, per channel.
        std: Standard deviation of the input.

    Raises:
        ManifestError: The ViT is of a kind that FISA does not fit, or SEVE does not fit the ViT.
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
        tuned_queries: bool = True,
        regions: Regions = 'mask_tokens',
        mean: tuple[float, float, float] = CLIP_MEAN,
        std: tuple[float, float, float] = CLIP_STD,
    ) -> None:
        super().__init__()
        _require_clip(visual)
        self.visual = visual
        width = visual.class_embedding.shape[0]
        if not 0 <= seve_blocks <= len(self.blocks):
            raise ManifestError(f'seve_blocks must be 0..{len(self.blocks)}, got {seve_blocks}')
        if seve_width % seve_heads:
            raise ManifestError(f'seve_width must be a multiple of seve_heads {seve_heads}, got {seve_width}')
        if regions not in get_args(Regions):
            raise ManifestError(f'regions must be one of {", ".join(get_args(Regions))}, got {regions!r}')
        self.regions = regions
        tuned_blocks = self.blocks if tuned_queries else []
        self.mask_queries = nn.ModuleList(nn.Linear(width, width) for _ in tuned_blocks)
        self.seve = nn.ModuleList(SemanticEncoding(width, text_dim, seve_width, seve_heads) for _ in range(seve_blocks))
        self.register_buffer('mean', torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer('std', torch.tensor(std).view(1, 3, 1, 1), persistent=False)
        self.start_from_clip()

    @property
    def embedding_dim(self) -> int:
        """Length D of an embedding."""
        return int(self.visual.output_dim)

    @property
    def blocks(self) -> list[ResidualAttentionBlock]:
        """CLIP's blocks."""
        return list(cast('nn.ModuleList', self.visual.transformer.resblocks))

    def start_from_clip(self) -> None:
        """Set the query projections of the mask tokens to CLIP's own."""
        for module, block in zip(self.mask_queries, self.blocks, strict=False):
            linear = cast('nn.Linear', module)
            width = linear.out_features
            with torch.no_grad():
                linear.weight.copy_(block.attn.in_proj_weight[:width])
                linear.bias.copy_(block.attn.in_proj_bias[:width])

    def train(self, mode: bool = True) -> 'FisaImageTower':
        """Switch training on or off; batch normalisations that are frozen keep their statistics."""
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d) and not module.weight.requires_grad:
                module.eval()
        return self

    def forward(self, image: Tensor, mask_logits: Tensor, semantic_tokens: Tensor, token_mask: Tensor) -> Tensor:
        """Embed the regions under masks.

        Args:
            image: `(B, 3, S, S)` rgb in [0, 1] at the tower's size.
            mask_logits: `(B, N, h, w)`.
            semantic_tokens: `(M, D)` unit rows, padded; or `(B, M, D)`, other ones for each image.
            token_mask: `(M,)` or `(B, M)` bool, True where a token is.

        Returns:
            `(B, N, D)` float32 mask embeddings of unit length.
        """
        if self.regions != 'mask_tokens':
            return self.pooled_embeddings(image, mask_logits, self.regions)
        return self.embed_inputs(*self.frozen_inputs(image, mask_logits), semantic_tokens, token_mask)

    def frozen_inputs(self, image: Tensor, mask_logits: Tensor) -> tuple[Tensor, Tensor]:
        """Return what of an image and its masks comes before all that FISA trains, so that it can be kept.

        Args:
            image: `(B, 3, S, S)` rgb in [0, 1] at the tower's size.
            mask_logits: `(B, N, h, w)`.

        Returns:
            `(B, 1 + P, width)` tokens and `(B, N, 1 + P)` mask bias.
        """
        return self._tokens(image), self.mask_bias(mask_logits)

    def embed_inputs(self, tokens: Tensor, bias: Tensor, semantic_tokens: Tensor, token_mask: Tensor) -> Tensor:
        """Embed regions `(B, N, D)`, as `forward` does, from what `frozen_inputs` returned."""
        return self._embedded(self._until_last_block(tokens, bias, semantic_tokens, token_mask)[0])

    def encode(self, image: Tensor, mask_logits: Tensor, semantic_tokens: Tensor, token_mask: Tensor) -> TowerOutput:
        """Embed the regions under masks and return the image tokens too; arguments are those of `forward`."""
        inputs = self.frozen_inputs(image, mask_logits)
        masked, x = self._until_last_block(*inputs, semantic_tokens, token_mask)
        return TowerOutput(self._embedded(masked), self.visual.ln_post(clip_block(self.blocks[-1], x))[:, 1:])

    def image_embedding(self, image: Tensor) -> Tensor:
        """Return CLIP's own embedding `(B, D)`, float32 unit rows, of `(B, 3, S, S)` rgb in [0, 1]."""
        x = self._tokens(image)
        for block in self.blocks[:-1]:
            x = clip_block(block, x)
        # Of the last block the class token is all that counts.
        query, key, value = _project(self.blocks[-1], x)
        return self._embedded(_image_block(self.blocks[-1], x[:, :1], query[:, :, :1], key, value)[:, 0])

    def pooled_embeddings(
        self, image: Tensor, mask_logits: Tensor, dense: Literal['tokens', 'values'] = 'tokens'
    ) -> Tensor:
        """Embed regions without FISA: average CLIP's dense features, weighted by how far a mask covers each patch.

        Args:
            image: `(B, 3, S, S)` rgb in [0, 1] at the tower's size.
            mask_logits: `(B, N, h, w)`; an empty mask pools the whole image.
            dense: 'tokens' are the image tokens as they leave the last block. 'values' let each look only at itself in
                the last block, which keeps features in their place (Zhou et al., "Extract Free Dense Labels from
                CLIP", 2022).

        Returns:
            `(B, N, D)` float32 unit rows.
        """
        x = self._tokens(image)
        for block in self.blocks[:-1]:
            x = clip_block(block, x)
        last = self.blocks[-1]
        x = clip_block(last, x) if dense == 'tokens' else _value_block(last, x)
        features = self.visual.ln_post(x[:, 1:]) @ self.visual.proj  # (B, P, D)
        weights = pooling_weights(mask_coverage(mask_logits, *self.visual.grid_size))
        return F.normalize((weights @ features.to(weights.dtype)).float(), dim=-1)

    def mask_bias(self, mask_logits: Tensor) -> Tensor:
        """Return `(B, N, 1 + P)`: log of the share of a patch that a mask covers, `HIDDEN` for nearly none."""
        coverage = mask_coverage(mask_logits, *self.visual.grid_size)
        bias = torch.where(coverage > MIN_COVERAGE, coverage.clamp(min=MIN_COVERAGE).log(), HIDDEN)
        return F.pad(bias, (1, 0))

    def _tokens(self, image: Tensor) -> Tensor:
        """Return `(B, 1 + P, width)`: CLS and image tokens as they enter the first block."""
        tokens: Tensor = self.visual._embeds((image - self.mean) / self.std)
        return tokens

    def _embedded(self, tokens: Tensor) -> Tensor:
        # In float32 also under autocast: half precision loses the unit length.
        return F.normalize((self.visual.ln_post(tokens) @ self.visual.proj).float(), dim=-1)

    def _until_last_block(
        self, x: Tensor, bias: Tensor, semantic_tokens: Tensor, token_mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return `(B, N, width)` mask tokens after the last block and `(B, 1 + P, width)` image tokens before it."""
        count = bias.shape[1]
        bias = bias.unsqueeze(1)  # (B, 1, N, 1 + P)
        token_bias = torch.where(token_mask, 0.0, HIDDEN).to(x.dtype)[..., None, None, :]
        # Where every token is hidden, attention falls on all of them alike: none may show what it was.
        semantic_tokens = torch.where(token_mask[..., None], semantic_tokens, 0.0)
        # Every mask token starts as CLS does.
        masked = x[:, :1].expand(-1, count, -1)
        for index, block in enumerate(self.blocks):
            if index < len(self.seve):
                guided = x[:, 1:] + self.seve[index](x[:, 1:], semantic_tokens, token_bias)
                x = torch.cat([x[:, :1], guided], 1)
            query, key, value = _project(block, x)
            masked = self._mask_block(index, masked, key, value, bias)
            if index < len(self.blocks) - 1:
                x = _image_block(block, x, query, key, value)
        return masked, x

    def _mask_block(self, index: int, masked: Tensor, key: Tensor, value: Tensor, bias: Tensor) -> Tensor:
        block = self.blocks[index]
        attention = block.attn
        width, heads = attention.embed_dim, attention.num_heads
        query = block.ln_1(masked)
        if self.mask_queries:
            query = self.mask_queries[index](query)
        else:
            query = F.linear(query, attention.in_proj_weight[:width], attention.in_proj_bias[:width])
        query = query.unflatten(-1, (heads, -1)).transpose(1, 2)
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=bias.to(query.dtype))
        return _finish_block(block, masked, attended)


def clip_block(block: ResidualAttentionBlock, x: Tensor) -> Tensor:
    """Run a block of CLIP on `(B, T, width)`.

    The same numbers as `block(x)`, whose projection of batch-first tokens is several times slower in training.
    """
    return _image_block(block, x, *_project(block, x))


def _project(block: ResidualAttentionBlock, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return queries, keys and values `(B, heads, T, d)` of image tokens; the mask tokens use the last two as well."""
    attention = block.attn
    projected = F.linear(block.ln_1(x), attention.in_proj_weight, attention.in_proj_bias)
    query, key, value = projected.unflatten(-1, (3, attention.num_heads, -1)).permute(2, 0, 3, 1, 4)
    return query, key, value


def _image_block(block: ResidualAttentionBlock, x: Tensor, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    return _finish_block(block, x, F.scaled_dot_product_attention(query, key, value))


def _finish_block(block: ResidualAttentionBlock, x: Tensor, attended: Tensor) -> Tensor:
    x = x + block.ls_1(block.attn.out_proj(attended.transpose(1, 2).flatten(2)))
    updated: Tensor = x + block.ls_2(block.mlp(block.ln_2(x)))
    return updated


def _value_block(block: ResidualAttentionBlock, x: Tensor) -> Tensor:
    """Run a block in which each token attends to itself alone; `(B, T, width)` to the same shape."""
    attention = block.attn
    start = 2 * attention.embed_dim
    value = F.linear(block.ln_1(x), attention.in_proj_weight[start:], attention.in_proj_bias[start:])
    x = x + block.ls_1(attention.out_proj(value))
    updated: Tensor = x + block.ls_2(block.mlp(block.ln_2(x)))
    return updated
