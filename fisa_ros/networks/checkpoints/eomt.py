"""EoMT as the `transformers` library saves it."""

from collections.abc import Mapping
import logging
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
_LOG = logging.getLogger('fisa_ros.networks')


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
    require_same(path, block_differences(tensors, generator.model.config.num_blocks))
    tell_of_masking(path, tensors)
    return {f'model.{name}': tensor for name, tensor in tensors.items() if not name.startswith(LEFT_OUT)}


def block_differences(tensors: Mapping[str, Tensor], num_blocks: int) -> list[str]:
    """Return a text if another number of blocks sees the queries than in the network.

    Args:
        tensors: Those of the checkpoint. `MASKED`, if it is there, has a probability for each of these blocks.
        num_blocks: How many blocks of the network see them.
    """
    found = tensors[MASKED].numel() if MASKED in tensors else num_blocks
    return [] if found == num_blocks else [f'num_blocks is {found}, the manifest says {num_blocks}']


def tell_of_masking(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Warn if a checkpoint says that attention is masked, which the network never does.

    Its authors anneal the masking to nothing and evaluate their models without it, whatever the checkpoint says
    (`masked_attn_enabled False`, github.com/tue-mps/eomt). `transformers` masks with these probabilities. A model that
    it made of a checkpoint without them has ones, so they do not show that a training has not ended.
    """
    probabilities = tensors[MASKED].flatten().tolist() if MASKED in tensors else []
    # One that is no number, too.
    if any(probability != 0 for probability in probabilities):
        _LOG.warning(
            '%s says to mask attention with the probabilities %s, which is ignored: published EoMT models are '
            'evaluated without masking',
            path,
            ', '.join(f'{probability:g}' for probability in probabilities),
        )
