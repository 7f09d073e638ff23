"""Mask2Former with a Swin backbone as the `transformers` library saves it."""

from pathlib import Path

from torch import Tensor
from transformers import Mask2FormerConfig

from fisa_ros.networks.checkpoints.read import read_checkpoint
from fisa_ros.networks.checkpoints.settings import require_same
from fisa_ros.networks.checkpoints.transformers_files import (
    config_differences,
    current_names,
    normalisation_differences,
    read_config,
)
from fisa_ros.networks.mask2former_generator import Mask2FormerMaskGenerator

# All that changes what the network computes; the others are of training.
_FIELDS = (
    'feature_size',
    'mask_feature_size',
    'hidden_dim',
    'encoder_layers',
    'encoder_feedforward_dim',
    'decoder_layers',
    'dim_feedforward',
    'num_attention_heads',
    'activation_function',
    'pre_norm',
    'enforce_input_projection',
    'common_stride',
    'feature_strides',
    'num_queries',
    'num_labels',
)
_BACKBONE_FIELDS = (
    'model_type',
    'patch_size',
    'num_channels',
    'embed_dim',
    'depths',
    'num_heads',
    'window_size',
    'mlp_ratio',
    'qkv_bias',
    'hidden_act',
    'layer_norm_eps',
    'use_absolute_embeddings',
    'out_features',
)
# The loss; tables that older versions kept with the weights; and a normalisation that newer versions write, unused.
_LEFT_OUT = ('criterion.',)
_LEFT_OUT_ENDS = ('.relative_position_index', '.swin.layernorm.weight', '.swin.layernorm.bias')


def mask2former_tensors(path: Path, generator: Mask2FormerMaskGenerator) -> dict[str, Tensor]:
    """Read what the generator needs of a checkpoint, under the generator's names.

    Args:
        path: The folder that `save_pretrained` wrote, or the file of weights in it.
        generator: The generator that the manifest names; it may be on the device meta.

    Raises:
        WeightsError: The checkpoint cannot be read, or its settings are not those of the manifest.
    """
    model = generator.model
    config = read_config(path, Mask2FormerConfig)
    differences = []
    if config is not None:
        differences = config_differences(config, model.config, _FIELDS)
        backbones = config.backbone_config, model.config.backbone_config
        differences += config_differences(*backbones, _BACKBONE_FIELDS, 'backbone_config.')
    require_same(path, differences + normalisation_differences(path, generator.mean, generator.std))
    tensors = current_names(read_checkpoint(path), model)
    return {
        f'model.{name}': tensor
        for name, tensor in tensors.items()
        if not name.startswith(_LEFT_OUT) and not name.endswith(_LEFT_OUT_ENDS)
    }
