"""EoMT as the `transformers` library saves it."""

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor
from transformers import EomtConfig

from fisa_ros.networks.checkpoints.read import read_checkpoint
from fisa_ros.networks.checkpoints.settings import require_same
from fisa_ros.networks.checkpoints.transformers_files import (
    config_differences,
    current_names,
    normalisation_differences,
    read_config,
)
from fisa_ros.networks.eomt_generator import EomtMaskGenerator

# All that changes what the network computes; the others are of training.
_FIELDS = (
    'hidden_size',
    'num_hidden_layers',
    'num_attention_heads',
    'hidden_act',
    'layer_norm_eps',
    'image_size',
    'patch_size',
    'num_channels',
    'mlp_ratio',
    'use_swiglu_ffn',
    'num_blocks',
    'num_queries',
    'num_register_tokens',
    'num_upscale_blocks',
    'num_labels',
)
# Of training: the masked attention is annealed to nothing, and the loss takes no part.
MASKED = 'attn_mask_probs'
LEFT_OUT = (MASKED, 'criterion.')
# What annealing leaves at its end, with room for rounding.
_MAX_MASKED = 0.05


def eomt_tensors(path: Path, generator: EomtMaskGenerator) -> dict[str, Tensor]:
    """Read what the generator needs of a checkpoint, under the generator's names.

    Args:
        path: The folder that `save_pretrained` wrote, or the file of weights in it.
        generator: The generator that the manifest names; it may be on the device meta.

    Raises:
        WeightsError: The checkpoint cannot be read, or its settings are not those of the manifest.
    """
    config = read_config(path, EomtConfig)
    differences = [] if config is None else config_differences(config, generator.model.config, _FIELDS)
    require_same(path, differences + normalisation_differences(path, generator.mean, generator.std))
    tensors = current_names(read_checkpoint(path), generator.model)
    require_same(path, masking_differences(tensors, generator.model.config.num_blocks))
    return {f'model.{name}': tensor for name, tensor in tensors.items() if not name.startswith(LEFT_OUT)}


def masking_differences(tensors: Mapping[str, Tensor], num_blocks: int) -> list[str]:
    """Return a text for each difference to the network that the masking of attention in training tells.

    Args:
        tensors: Those of the checkpoint. `MASKED`, if it is there, has a probability for each block that sees the
            queries.
        num_blocks: How many blocks of the network see them; none masks its attention.
    """
    if MASKED not in tensors:
        return []
    probabilities, differences = tensors[MASKED], []
    if (found := probabilities.numel()) != num_blocks:
        differences.append(f'num_blocks is {found}, the manifest says {num_blocks}')
    most = probabilities.max().item() if probabilities.numel() else 0.0
    # NaN is not below it either.
    if not most <= _MAX_MASKED:
        differences.append(
            f'masked attention is still on, with a probability of up to {most:g}, as in a training that has not ended'
        )
    return differences
