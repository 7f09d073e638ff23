"""Mask2Former of the `transformers` library as a class-agnostic mask generator.

Cheng et al., "Masked-attention Mask Transformer for Universal Image Segmentation", 2022. The modules, and so the names
of the weights, are those of the library. Backbone aside, what they compute is written anew for inference: fixed sizes,
deformable attention without GridSample, attention masks that are added, and no masks at full size but the last.
"""

from typing import Any, cast

import torch
from torch import Tensor, nn
import torch.nn.functional as F
from transformers import Mask2FormerConfig, Mask2FormerForUniversalSegmentation

from fisa_ros.networks.deformable_sampling import LevelSampler
from fisa_ros.networks.mask_coverage import HIDDEN
from fisa_ros.networks.mask_generator import IMAGENET_MEAN, IMAGENET_STD, MaskProposals

# Levels that attention sees, from coarse to fine; the finest of the backbone is that of the masks.
_STRIDES = (32, 16, 8)


class Mask2FormerMaskGenerator(nn.Module):
    """Drops the closed-vocabulary classes of Mask2Former and keeps its masks and P(no object).

    Args:
        config: Fields of `Mask2FormerConfig`, of which `backbone_config` is those of a Swin.
        image_size: Edge of the square input in pixels, a multiple of 32.

    Raises:
        ValueError: The network or the size is none of those that are known.
    """

    mean: Tensor
    std: Tensor
    positions: Tensor

    def __init__(self, config: dict[str, Any], image_size: int) -> None:
        super().__init__()
        settings = Mask2FormerConfig(**config)
        _require_known(settings, image_size)
        self.model = Mask2FormerForUniversalSegmentation(settings)
        # Its loss takes no part, nor does a normalisation of the Swin that published weights do not have.
        del self.model.criterion
        self.model.model.pixel_level_module.encoder.swin.layernorm = nn.Identity()
        self.sizes = [image_size // stride for stride in _STRIDES]
        self.sampler = LevelSampler(self.sizes)
        positions = torch.cat([position_encoding(size, settings.feature_size) for size in self.sizes])
        self.register_buffer('positions', positions, persistent=False)
        self.register_buffer('mean', torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer('std', torch.tensor(IMAGENET_STD).view(1, 3, 1, 1), persistent=False)

    def forward(self, image: Tensor) -> MaskProposals:
        """Propose masks at 1/4 of the resolution for `(B, 3, H, W)` float rgb in [0, 1]."""
        features = self.model.model.pixel_level_module.encoder((image - self.mean) / self.std).feature_maps
        memory, pixels = self._decode_pixels(features)
        queries = self._decode_queries(memory, pixels)
        masks = self._embed_masks(queries) @ pixels.flatten(2)
        # A slice, see the lint of exported graphs.
        no_object = self.model.class_predictor(queries).softmax(-1)[..., -1:].squeeze(-1)
        return MaskProposals(masks.unflatten(-1, pixels.shape[-2:]), 1 - no_object)

    def _decode_pixels(self, features: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        """Return the cells of all levels `(B, S, C)` and the features of the masks `(B, C, H/4, W/4)`."""
        decoder = self.model.model.pixel_level_module.decoder
        coarse_to_fine = features[:0:-1]
        levels = [project(level) for project, level in zip(decoder.input_projections, coarse_to_fine, strict=True)]
        memory = torch.cat([level.flatten(2) for level in levels], -1).transpose(1, 2)
        positions = self._positions(memory, decoder.level_embed)
        for layer in decoder.encoder.layers:
            memory = self._deformable_layer(layer, memory, positions)
        finest = self._levels(memory)[-1].transpose(1, 2).unflatten(-1, (self.sizes[-1], self.sizes[-1]))
        lateral = decoder.lateral_convolutions[0](features[0])
        fine = lateral + F.interpolate(finest, lateral.shape[-2:], mode='bilinear', align_corners=False)
        return memory, decoder.mask_projection(decoder.output_convolutions[0](fine))

    def _deformable_layer(self, layer: Any, memory: Tensor, positions: Tensor) -> Tensor:
        attention = layer.self_attn
        shape = (attention.n_heads, attention.n_levels, attention.n_points)
        query = memory + positions
        offsets = attention.sampling_offsets(query).unflatten(-1, (*shape, 2))
        weights = attention.attention_weights(query).unflatten(-1, (shape[0], -1)).softmax(-1).unflatten(-1, shape[1:])
        # The centres are float32 whatever the offsets are: half precision has no place for a fine one.
        points = self.sampler.centers[:, None, :, None] + offsets
        value = attention.value_proj(memory).unflatten(-1, (attention.n_heads, -1))
        attended = attention.output_proj(self.sampler(value, points, weights))
        memory = layer.self_attn_layer_norm(memory + attended)
        updated: Tensor = layer.final_layer_norm(memory + layer.fc2(layer.activation_fn(layer.fc1(memory))))
        return updated

    def _decode_queries(self, memory: Tensor, pixels: Tensor) -> Tensor:
        """Return `(B, N, C)` normalised queries after the last layer."""
        transformer = self.model.model.transformer_module
        decoder = transformer.decoder
        values, keys, small = [], [], []
        levels = zip(self._levels(memory), transformer.input_projections, self.sizes, strict=True)
        for number, (cells, project, size) in enumerate(levels):
            grid = cells.transpose(1, 2).unflatten(-1, (size, size))
            values.append(project(grid).flatten(2).transpose(1, 2) + transformer.level_embed.weight[number])
            # Scaling the features instead of each mask gives the same masks.
            small.append(F.interpolate(pixels, (size, size), mode='bilinear', align_corners=False).flatten(2))
        for value, position in zip(values, self._levels(self.positions[None]), strict=True):
            keys.append(value + position.to(value.dtype))
        place = transformer.queries_embedder.weight
        queries = transformer.queries_features.weight.expand(memory.shape[0], -1, -1)
        for number, layer in enumerate(decoder.layers):
            level = number % len(self.sizes)
            mask_logits = self._embed_masks(decoder.layernorm(queries)) @ small[level]
            queries = _query_layer(layer, queries, place, keys[level], values[level], _mask_bias(mask_logits))
        normed: Tensor = decoder.layernorm(queries)
        return normed

    def _embed_masks(self, queries: Tensor) -> Tensor:
        embedded: Tensor = self.model.model.transformer_module.decoder.mask_predictor.mask_embedder(queries)
        return embedded

    def _levels(self, cells: Tensor) -> tuple[Tensor, ...]:
        """Split `(B, S, C)` into the levels."""
        levels: tuple[Tensor, ...] = cells.split([size * size for size in self.sizes], 1)
        return levels

    def _positions(self, memory: Tensor, level_embed: Tensor) -> Tensor:
        """Return `(1, S, C)`: where each cell is and which level it is of."""
        levels = self._levels(self.positions[None])
        placed = [level.to(memory.dtype) + level_embed[number] for number, level in enumerate(levels)]
        return torch.cat(placed, 1)


def position_encoding(size: int, channels: int) -> Tensor:
    """Return `(size * size, channels)` float32: sines and cosines of the row, then of the column, of each cell.

    As in DETR (Carion et al., 2020), on positions that are scaled to 2 pi.
    """
    half = channels // 2
    place = 2 * torch.pi * torch.arange(1, size + 1, dtype=torch.float64) / (size + 1e-6)
    period = 10000 ** (2 * (torch.arange(half, dtype=torch.float64) // 2) / half)
    angle = place[:, None] / period
    axis = torch.where(torch.arange(half) % 2 == 0, angle.sin(), angle.cos()).float()
    rows, columns = axis.repeat_interleave(size, 0), axis.repeat(size, 1)
    return torch.cat([rows, columns], -1)


def _require_known(config: Mask2FormerConfig, image_size: int) -> None:
    backbone = cast('Any', config.backbone_config)
    if backbone.model_type != 'swin' or len(backbone.out_features) != len(_STRIDES) + 1:
        raise ValueError(
            f'backbone must be a swin with {len(_STRIDES) + 1} out_features, '
            f'got {backbone.model_type} with {len(backbone.out_features)}'
        )
    found = [backbone.patch_size, *config.feature_strides, config.common_stride]
    if found != [4, 4, *_STRIDES[::-1], 4]:
        raise ValueError(
            f'patch_size must be 4, feature_strides {[4, *_STRIDES[::-1]]} and common_stride 4, got {found}'
        )
    if config.pre_norm:
        raise ValueError('pre_norm must be false')
    if config.feature_size != config.hidden_dim:
        raise ValueError(f'feature_size must be hidden_dim, got {config.feature_size} and {config.hidden_dim}')
    if image_size < _STRIDES[0] or image_size % _STRIDES[0]:
        raise ValueError(f'image_size must be a multiple of {_STRIDES[0]}, got {image_size}')


def _mask_bias(mask_logits: Tensor) -> Tensor:
    """Return `(B, 1, N, P)`: 0 where a mask is, `HIDDEN` where not; all 0 for an empty mask, as the library has it."""
    is_empty = mask_logits.amax(-1, keepdim=True) < 0
    return torch.where((mask_logits >= 0) | is_empty, 0.0, HIDDEN).unsqueeze(1)


def _query_layer(layer: Any, queries: Tensor, place: Tensor, keys: Tensor, values: Tensor, bias: Tensor) -> Tensor:
    """Let `(B, N, C)` queries look at the cells under their masks and then at each other."""
    cross, own = layer.cross_attn, layer.self_attn
    query, key, value = (
        F.linear(tensor, weight, offset)
        for tensor, weight, offset in zip(
            (queries + place, keys, values), cross.in_proj_weight.chunk(3), cross.in_proj_bias.chunk(3), strict=True
        )
    )
    attended = cross.out_proj(_attend(query, key, value, cross.num_heads, bias))
    queries = layer.cross_attn_layer_norm(queries + attended)
    placed = queries + place
    attended = _attend(own.q_proj(placed), own.k_proj(placed), own.v_proj(queries), own.num_heads)
    queries = layer.self_attn_layer_norm(queries + own.out_proj(attended))
    updated: Tensor = layer.final_layer_norm(queries + layer.fc2(layer.activation_fn(layer.fc1(queries))))
    return updated


def _attend(query: Tensor, key: Tensor, value: Tensor, heads: int, bias: Tensor | None = None) -> Tensor:
    query, key, value = (tensor.unflatten(-1, (heads, -1)).transpose(1, 2) for tensor in (query, key, value))
    bias = None if bias is None else bias.to(query.dtype)
    return F.scaled_dot_product_attention(query, key, value, attn_mask=bias).transpose(1, 2).flatten(2)
