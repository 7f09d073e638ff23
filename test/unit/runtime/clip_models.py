"""Small models of the kinds that the real sizes are of, from a manifest to files of random weights."""

import open_clip
import yaml

from fisa_ros.core.manifest import load_manifest
from fisa_ros.core.resources import share_dir
from fisa_ros.networks.random_model import write_random_model

SIZE = 64
_TEXT = {'context_length': 77, 'vocab_size': 49408, 'width': 32, 'heads': 2, 'layers': 2}
_CONVNEXT = {'timm_model_name': 'convnext_atto', 'timm_pool': '', 'timm_proj': 'mlp', 'image_size': SIZE}
CONFIGS = {
    'small-vit': {
        'embed_dim': 32,
        'quick_gelu': True,
        'vision_cfg': {'image_size': 32, 'layers': 3, 'width': 64, 'head_width': 32, 'patch_size': 8},
        'text_cfg': _TEXT,
    },
    'small-convnext': {'embed_dim': 32, 'vision_cfg': _CONVNEXT, 'text_cfg': _TEXT},
}
_CLASSIFIERS = {
    'small-vit': {'type': 'open_clip', 'image_size': 48, 'seve_blocks': 2, 'seve_width': 16},
    'small-convnext': {'type': 'pooled', 'image_size': SIZE},
}
_GENERATOR = {
    'type': 'eomt',
    'config': {
        'image_size': SIZE, 'patch_size': 16, 'hidden_size': 64, 'num_hidden_layers': 3, 'num_attention_heads': 2,
        'num_blocks': 2, 'num_queries': 12, 'num_labels': 5,
    },
}  # fmt: skip


def register_configs(monkeypatch):
    """Make the small CLIP models known to open_clip."""
    for name, config in CONFIGS.items():
        monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, name, config)


def manifest_without_weights(folder, clip, generator=_GENERATOR):
    """Write a manifest whose weights are not shipped and return it."""
    document = yaml.safe_load((share_dir() / 'models' / 'fisa-s.yaml').read_text())
    document |= {
        'name': clip,
        'image_size_hw': [SIZE, SIZE],
        'weights': {'file': f'{clip}.safetensors', 'sha256': None},
        'generator': generator,
        'classifier': {**_CLASSIFIERS[clip], 'model': clip, 'merge_size': 32},
        'text_encoder': {'type': 'clip', 'model': clip},
        'prompt_templates': ['{}', 'a photo of a {}.'],
    }
    path = folder / f'{clip}.yaml'
    path.write_text(yaml.safe_dump(document))
    return load_manifest(path)


def random_model(folder, clip, seed=4, generator=_GENERATOR):
    """Write a model of random weights and return its manifest."""
    manifest = manifest_without_weights(folder, clip, generator)
    return load_manifest(write_random_model(manifest, folder / 'random', seed))
