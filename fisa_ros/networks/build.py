"""Builds networks from the `type` and arguments that a manifest or recipe names."""

from collections.abc import Callable, Mapping
import math
from typing import Any

import open_clip
from open_clip.model import _build_vision_tower
from open_clip.transformer import VisionTransformer
import torch
from torch import nn

from fisa_ros.core.errors import ManifestError
from fisa_ros.networks.conv_stem import ConvStem, StemPatchEmbedding
from fisa_ros.networks.eomt_generator import EomtMaskGenerator
from fisa_ros.networks.image_tower import FisaImageTower, Regions
from fisa_ros.networks.mask2former_generator import Mask2FormerMaskGenerator
from fisa_ros.networks.panoptic_head import PanopticHead
from fisa_ros.networks.pooled_tower import CLIP_LOGIT_SCALE, PooledImageTower
from fisa_ros.networks.segmentation_network import SegmentationNetwork
from fisa_ros.networks.text_encoder import ClipTextEncoder, SentenceEncoder, TextEncoder
from fisa_ros.networks.tiny_generator import TinyMaskGenerator

_Builder = Callable[..., nn.Module]


def tiny_tower(
    *,
    image_size: int,
    text_dim: int,
    width: int,
    layers: int,
    heads: int,
    stem_channels: tuple[int, int, int],
    stem_blocks: tuple[int, int, int],
    seve_blocks: int,
    seve_width: int,
    tuned_queries: bool = True,
    regions: Regions = 'mask_tokens',
) -> FisaImageTower:
    """Build an open_clip ViT of any size, with a convolutional stem as its patch embedding, and FISA around it."""
    visual = VisionTransformer(image_size, 16, width, layers, heads, mlp_ratio=4.0, output_dim=text_dim)
    visual.conv1 = StemPatchEmbedding(ConvStem(stem_channels, stem_blocks), stem_channels[-1], width)
    half = (0.5, 0.5, 0.5)
    quarter = (0.25, 0.25, 0.25)
    return FisaImageTower(
        visual, text_dim, seve_blocks=seve_blocks, seve_width=seve_width, tuned_queries=tuned_queries, regions=regions,
        mean=half, std=quarter,
    )  # fmt: skip


def open_clip_tower(
    *,
    model: str,
    image_size: int,
    seve_blocks: int = 4,
    seve_width: int = 256,
    seve_heads: int = 4,
    tuned_queries: bool = True,
    regions: Regions = 'mask_tokens',
) -> FisaImageTower:
    """Build FISA around the image tower of an open_clip model, at any image size, with random weights.

    Raises:
        ManifestError: open_clip has no such model, or FISA does not fit it.
    """
    config = _open_clip_config(model)
    # The text tower is not built: it is as large as the rest, and some are downloaded.
    visual = _build_vision_tower(
        config['embed_dim'], {**config['vision_cfg'], 'image_size': image_size}, config.get('quick_gelu', False)
    )
    return FisaImageTower(
        visual, config['embed_dim'], seve_blocks=seve_blocks, seve_width=seve_width, seve_heads=seve_heads,
        tuned_queries=tuned_queries, regions=regions,
    )  # fmt: skip


def pooled_tower(*, model: str, image_size: int) -> PooledImageTower:
    """Build mask pooling around the ConvNeXt of an open_clip model, with random weights.

    Raises:
        ManifestError: open_clip has no such model, or it is no ConvNeXt.
    """
    config = _open_clip_config(model)
    visual = _build_vision_tower(config['embed_dim'], {**config['vision_cfg'], 'image_size': image_size})
    return PooledImageTower(visual, config['embed_dim'])


def _open_clip_config(model: str) -> dict[str, Any]:
    config: dict[str, Any] | None = open_clip.get_model_config(model)
    if config is None:
        raise ManifestError(f'open_clip has no model {model!r}; open_clip.list_models() names them')
    return config


_GENERATORS: dict[str, _Builder] = {
    'tiny': TinyMaskGenerator,
    'eomt': EomtMaskGenerator,
    'mask2former': Mask2FormerMaskGenerator,
}
_TOWERS: dict[str, _Builder] = {'tiny': tiny_tower, 'open_clip': open_clip_tower, 'pooled': pooled_tower}
_TEXT_ENCODERS: dict[str, _Builder] = {'clip': ClipTextEncoder, 'sentence': SentenceEncoder}


def _build(kind: str, table: Mapping[str, _Builder], entry: Mapping[str, Any]) -> Any:
    arguments = {
        key: tuple(value) if isinstance(value, list) else value for key, value in entry.items() if key != 'type'
    }
    name = str(entry.get('type'))
    if name not in table:
        raise ManifestError(f'{kind} type must be one of {", ".join(table)}, got {name!r}')
    try:
        return table[name](**arguments)
    except (AssertionError, TypeError, ValueError) as error:
        raise ManifestError(f'{kind} {name}: {error}') from error


def build_generator(entry: Mapping[str, Any]) -> nn.Module:
    """Build a mask generator with random weights.

    Raises:
        ManifestError: Unknown type or arguments.
    """
    generator: nn.Module = _build('generator', _GENERATORS, entry)
    return generator


def build_text_encoder(entry: Mapping[str, Any]) -> TextEncoder:
    """Build a text encoder, with random weights unless it brings its own.

    Raises:
        ManifestError: Unknown type or arguments.
        WeightsError: The files that it brings are missing.
    """
    encoder: TextEncoder = _build('text_encoder', _TEXT_ENCODERS, entry)
    return encoder


def build_network(generator: Mapping[str, Any], classifier: Mapping[str, Any]) -> SegmentationNetwork:
    """Build a whole network with random weights.

    Args:
        generator: `type` and arguments of the mask generator.
        classifier: Those of the classifier; besides, `merge_size` of the head, and it may name `temperature` of the
            head and `pretrained`, the tag of the weights in open_clip, which matters only where they are loaded.

    Raises:
        ManifestError: Unknown types or arguments.
    """
    arguments = {key: value for key, value in classifier.items() if key != 'pretrained'}
    merge_size = arguments.pop('merge_size', None)
    if not isinstance(merge_size, int) or merge_size < 1:
        raise ManifestError(f'classifier merge_size must be a positive number of pixels, got {merge_size!r}')
    temperature = arguments.pop('temperature', 1.0)
    if not isinstance(temperature, int | float) or not (math.isfinite(temperature) and temperature > 0):
        raise ManifestError(f'classifier temperature must be a number > 0, got {temperature!r}')
    tower: FisaImageTower | PooledImageTower = _build('classifier', _TOWERS, arguments)
    head = PanopticHead(tower.embedding_dim, merge_size, temperature=temperature)
    if isinstance(tower, PooledImageTower):
        torch.nn.init.constant_(head.logit_scale, math.log(CLIP_LOGIT_SCALE))
        # Nothing was trained that could tell void from words: its logit stays 0, below that of any word that fits, and
        # the objectness of the generator alone says what is none of them, as in FC-CLIP.
        torch.nn.init.zeros_(head.void_embedding)
    return SegmentationNetwork(build_generator(generator), tower, head)
