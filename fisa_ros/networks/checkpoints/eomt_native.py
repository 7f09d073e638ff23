"""EoMT as its authors save it: a Lightning module around a ViT of timm (github.com/tue-mps/eomt)."""

from collections.abc import Mapping
from pathlib import Path
import re
from typing import Any

import torch
from torch import Tensor

from fisa_ros.core.errors import WeightsError
from fisa_ros.networks.checkpoints.eomt import LEFT_OUT, MASKED, block_differences, tell_of_masking
from fisa_ros.networks.checkpoints.read import read_checkpoint
from fisa_ros.networks.checkpoints.settings import read_json, require_same
from fisa_ros.networks.eomt_generator import EomtMaskGenerator

_PREFIX = 'network.'
# A part that torch.compile wrapped.
_COMPILED = '_orig_mod.'
# What the `config.json` beside a checkpoint says, as far as it changes what the network computes.
_FIELDS = ('image_size', 'patch_size', 'num_queries', 'num_blocks', 'num_labels')
_NORMALISATION = {'encoder.pixel_mean': 'mean', 'encoder.pixel_std': 'std'}
# In a DINOv3 they stand for the learnt positions, which a DINOv2 has.
_DINOV3 = ('encoder.backbone.layer.', 'encoder.backbone.rope_embeddings.', 'encoder.backbone.patch_embed.cls_token')
_NAMES = (
    (r'q\.', 'query.'),
    (r'class_head\.', 'class_predictor.'),
    (r'mask_head\.0\.', 'mask_head.fc1.'),
    (r'mask_head\.2\.', 'mask_head.fc2.'),
    (r'mask_head\.4\.', 'mask_head.fc3.'),
    (r'upscale\.(\d+)\.norm\.', r'upscale_block.block.\1.layernorm2d.'),
    (r'upscale\.(\d+)\.', r'upscale_block.block.\1.'),
    (r'encoder\.backbone\.cls_token', 'embeddings.cls_token'),
    (r'encoder\.backbone\.reg_token', 'embeddings.register_tokens'),
    (r'encoder\.backbone\.pos_embed', 'embeddings.position_embeddings.weight'),
    (r'encoder\.backbone\.patch_embed\.proj\.', 'embeddings.patch_embeddings.projection.'),
    (r'encoder\.backbone\.norm\.', 'layernorm.'),
    (r'encoder\.backbone\.blocks\.(\d+)\.attn\.proj\.', r'layers.\1.attention.out_proj.'),
    (r'encoder\.backbone\.blocks\.(\d+)\.attn\.', r'layers.\1.attention.'),
    (r'encoder\.backbone\.blocks\.(\d+)\.ls([12])\.gamma', r'layers.\1.layer_scale\2.lambda1'),
    (r'encoder\.backbone\.blocks\.(\d+)\.', r'layers.\1.'),
)
_QKV = re.compile(r'(.*\.attention\.)qkv\.(weight|bias)')
_TOLERANCE = 1e-4


def eomt_native_tensors(path: Path, generator: EomtMaskGenerator) -> dict[str, Tensor]:
    """Read what the generator needs of a checkpoint, under the generator's names.

    Args:
        path: The file, or the folder with it.
        generator: The generator that the manifest names; it may be on the device meta.

    Raises:
        WeightsError: The checkpoint cannot be read, is the difference to a DINOv3, normalises images in another way,
            or takes in its queries at another block.
    """
    tensors = {
        name.replace(_COMPILED, '').removeprefix(_PREFIX): tensor for name, tensor in read_checkpoint(path).items()
    }
    if any(name.startswith(_DINOV3) for name in tensors):
        raise WeightsError(
            f'weights {path} are an EoMT on DINOv3, which its authors publish as the difference to weights that have '
            'a licence of their own: use one on DINOv2'
        )
    require_same(path, _differences(path, tensors, generator))
    tell_of_masking(path, tensors)
    kept = {
        name: tensor for name, tensor in tensors.items() if name not in _NORMALISATION and not name.startswith(LEFT_OUT)
    }
    found: dict[str, Tensor] = {}
    for name, tensor in kept.items():
        found |= _renamed(name, tensor)
    return {f'model.{name}': tensor for name, tensor in found.items()}


def _differences(path: Path, tensors: Mapping[str, Tensor], generator: EomtMaskGenerator) -> list[str]:
    """Return a text for each difference to the generator that no shape of a weight shows."""
    config, document = generator.model.config, read_json(path, 'config.json') or {}
    found: dict[str, Any] = {field: document[field] for field in _FIELDS if field in document}
    if MASKED in tensors:
        # The weights themselves tell it.
        found.pop('num_blocks', None)
    differences = [
        f'{field} is {value}, the manifest says {getattr(config, field)}'
        for field, value in found.items()
        if value != getattr(config, field)
    ]
    differences += block_differences(tensors, config.num_blocks)
    for name, attribute in _NORMALISATION.items():
        wanted = generator.get_buffer(attribute).flatten()
        there = tensors[name].flatten() if name in tensors else wanted
        if there.shape != wanted.shape or not torch.allclose(there, wanted, atol=_TOLERANCE):
            differences.append(f'{name} is {there.tolist()}, the network has {wanted.tolist()}')
    return differences


def _renamed(name: str, tensor: Tensor) -> dict[str, Tensor]:
    """Return a tensor under its name in `transformers`; queries, keys and values one by one."""
    for pattern, replacement in _NAMES:
        renamed, count = re.subn(f'^{pattern}', replacement, name)
        if count:
            break
    else:
        return {name: tensor}
    if renamed == 'embeddings.position_embeddings.weight' and tensor.ndim == 3 and len(tensor) == 1:
        return {renamed: tensor[0]}
    fused = _QKV.fullmatch(renamed)
    if fused is None or tensor.ndim == 0 or len(tensor) % 3:
        return {renamed: tensor}
    parts = zip('qkv', tensor.chunk(3), strict=True)
    return {f'{fused[1]}{part}_proj.{fused[2]}': chunk for part, chunk in parts}
