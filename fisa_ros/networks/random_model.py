"""Models with random weights: to measure size, speed and agreement of back-ends before there are real ones."""

from pathlib import Path

import torch
from torch import nn
import yaml

from fisa_ros.core.errors import ManifestError
from fisa_ros.core.manifest import ModelManifest, file_sha256
from fisa_ros.networks.build import build_network, build_text_encoder
from fisa_ros.networks.image_tower import SemanticEncoding
from fisa_ros.networks.segmentation_network import SegmentationNetwork
from fisa_ros.networks.weights import save_weights

# What is trained starts as no more than a pass-through: open, so that an error in it would show.
_GATE = 0.5
_LAYER_SCALE = 0.1
# Of Mask2Former: where attention samples and how much, and the distances in Swin's windows.
_ZEROS = ('sampling_offsets.weight', 'attention_weights.weight', 'relative_position_bias_table')
_SPREAD = 0.1
# Its masks: at first they are near zero everywhere, where rounding alone decides.
_MASKS = 'mask_embedder.2.0.weight'
_MASK_FACTOR = 100.0
_IMAGES = 2


def write_random_model(manifest: ModelManifest, folder: Path, seed: int) -> Path:
    """Write weights and manifest of a model of random numbers into `folder` and return the path of the manifest.

    Its thresholds let every mask through: random masks fit no word.

    Args:
        manifest: The model; it must have been read from a file.
        folder: Where the files go.
        seed: Other numbers for another one.

    Raises:
        ManifestError: The manifest names something that cannot be built, or was not read from a file.
    """
    if manifest.path is None:
        raise ManifestError(f'model manifest {manifest.name!r} was not read from a file')
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = build_network(manifest.generator, manifest.classifier)
        encoder = build_text_encoder(manifest.text_encoder)
        _open(network.eval())
    weights = folder / f'{manifest.name}.safetensors'
    save_weights(network, weights, encoder)
    document = yaml.safe_load(manifest.path.read_text(encoding='utf-8'))
    document.pop('sources', None)
    document |= {
        'name': manifest.name,
        'description': f'{manifest.name} with random weights of seed {seed}: for measurements, it knows nothing.',
        'licence': 'none, the weights are random numbers',
        'weights': {'file': weights.name, 'sha256': file_sha256(weights)},
        'thresholds': {'score': 0.0, 'mask': 0.5, 'overlap': 0.0, 'objectness_trust': 0.5},
    }
    path = folder / f'{manifest.name}.yaml'
    path.write_text(yaml.safe_dump(document, sort_keys=False), encoding='utf-8')
    return path


@torch.inference_mode()
def _open(network: SegmentationNetwork) -> None:
    for part in network.modules():
        if isinstance(part, SemanticEncoding):
            part.gate.fill_(_GATE)
        gamma = getattr(part, 'gamma', None)
        if isinstance(gamma, nn.Parameter):
            gamma.fill_(_LAYER_SCALE)
    for name, parameter in network.generator.named_parameters():
        if name.endswith(_ZEROS):
            parameter.normal_(0, _SPREAD)
        elif name.endswith(_MASKS):
            parameter.mul_(_MASK_FACTOR)
    # All embeddings of a random tower look alike; void must not be near them, or all masks would be void.
    images = torch.rand(_IMAGES, 3, *network.tower.visual.image_size)
    network.head.void_embedding.copy_(-network.tower.image_embedding(images).mean(0))
