"""EoMT as the `transformers` library saves it."""

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
    tell_of_scaling,
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
_MASKED = 'attn_mask_probs'
_LEFT_OUT = (_MASKED, 'criterion.')
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
    blocks = generator.model.config.num_blocks
    if _MASKED in tensors:
        # It has one number for each block that sees the queries, and says so where no settings do.
        if (found := tensors[_MASKED].numel()) != blocks:
            require_same(path, [f'num_blocks is {found}, the manifest says {blocks}'])
        require_same(path, masked_attention_differences(tensors[_MASKED]))
    tell_of_scaling(path)
    return {f'model.{name}': tensor for name, tensor in tensors.items() if not name.startswith(_LEFT_OUT)}


def masked_attention_differences(probabilities: Tensor) -> list[str]:
    """Return a text if blocks still mask their attention, as during training, which the network does not."""
    most = probabilities.max().item() if probabilities.numel() else 0.0
    if most <= _MAX_MASKED:
        return []
    return [f'masked attention is still on, with a probability of up to {most:g}, as in a training that has not ended']
