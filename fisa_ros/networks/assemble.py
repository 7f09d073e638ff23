"""Puts a model together from the published checkpoints of its parts."""

from collections.abc import Callable, Mapping
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fisa_ros.core.errors import ManifestError, WeightsError
from fisa_ros.core.manifest import ModelManifest
from fisa_ros.networks.build import build_network, build_text_encoder
from fisa_ros.networks.checkpoints.clip import ClipTensors, at_size_of, download_open_clip, open_clip_tensors
from fisa_ros.networks.checkpoints.detectron2_clip import detectron2_clip_tensors
from fisa_ros.networks.checkpoints.eomt import eomt_tensors
from fisa_ros.networks.checkpoints.eomt_native import eomt_native_tensors
from fisa_ros.networks.checkpoints.mask2former import mask2former_tensors
from fisa_ros.networks.checkpoints.transformers_files import tell_of_scaling
from fisa_ros.networks.image_tower import FisaImageTower
from fisa_ros.networks.pooled_tower import CLIP_LOGIT_SCALE
from fisa_ros.networks.segmentation_network import SegmentationNetwork
from fisa_ros.networks.text_encoder import ClipTextEncoder, TextEncoder
from fisa_ros.networks.weights import require_fit, weights_of

# Layouts of a checkpoint of a generator: which type reads it, and how.
_GENERATORS: Mapping[str, tuple[str, Callable[[Path, Any], dict[str, Tensor]]]] = {
    'eomt': ('eomt', eomt_tensors),
    'eomt_native': ('eomt', eomt_native_tensors),
    'mask2former': ('mask2former', mask2former_tensors),
}
_CLASSIFIERS: Mapping[str, Callable[[Path, str], ClipTensors]] = {
    'open_clip': open_clip_tensors,
    'detectron2': detectron2_clip_tensors,
}
# Types of classifiers that are built around a CLIP of open_clip.
_CLIP_TYPES = ('open_clip', 'pooled')
_SEED = 0


def assemble_model(manifest: ModelManifest, files: Mapping[str, Path]) -> dict[str, Tensor]:
    """Return the weights of a model, by name, made of the checkpoints that its manifest names as sources.

    Published tensors become float32, so that they are those of the authors bit for bit; to round matrices to
    halves, as `save_weights` does to keep a repository small, would only save disk. What nothing was published for
    starts as a pass-through: FISA's query projections and the factor on similarities are CLIP's, and its gates are
    closed. The same files give the same numbers.

    Args:
        manifest: The model.
        files: The checkpoint of each source, `generator` and `classifier`: a file or the folder with it. A classifier
            that names `pretrained`, a tag of open_clip, needs none.

    Raises:
        ManifestError: The manifest cannot be built, or names no source or one of no known layout.
        WeightsError: A checkpoint is missing, cannot be read or does not fit. Every tensor that is missing, surplus or
            misshapen is named or counted.
    """
    generator_layout = _layout(manifest, 'generator', tuple(_GENERATORS))
    classifier_layout = _layout(manifest, 'classifier', tuple(_CLASSIFIERS))
    _check_types(manifest, generator_layout)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_SEED)
        network = build_network(manifest.generator, manifest.classifier)
        encoder = build_text_encoder(manifest.text_encoder)
    generator_path = _path(manifest, files, 'generator')
    classifier_path = _path(manifest, files, 'classifier')
    _, read_generator = _GENERATORS[generator_layout]
    _take(network.generator, 'generator', generator_path, read_generator(generator_path, network.generator))
    tell_of_scaling(generator_path, manifest.resize)
    clip = _CLASSIFIERS[classifier_layout](classifier_path, manifest.classifier['model'])
    _take_clip(network, encoder, clip, classifier_path)
    return weights_of(network, encoder)


def _layout(manifest: ModelManifest, part: str, known: tuple[str, ...]) -> str:
    source = manifest.sources.get(part)
    if source is None:
        if part == 'classifier' and 'pretrained' in manifest.classifier:
            return 'open_clip'
        raise ManifestError(f'model manifest {manifest.name!r} names no source of its {part}')
    if source.layout not in known:
        raise ManifestError(f'sources.{part}.layout must be one of {", ".join(known)}, got {source.layout!r}')
    return source.layout


def _check_types(manifest: ModelManifest, generator_layout: str) -> None:
    """Refuse checkpoints of another type than the manifest's.

    Raises:
        ManifestError: They do not go together.
    """
    wanted, _ = _GENERATORS[generator_layout]
    if manifest.generator['type'] != wanted:
        raise ManifestError(
            f'a generator of type {manifest.generator["type"]!r} takes no weights of layout {generator_layout!r}, '
            f'which are of type {wanted!r}'
        )
    if manifest.classifier['type'] not in _CLIP_TYPES:
        raise ManifestError(
            f'the classifier must be of type {" or ".join(_CLIP_TYPES)} to take the weights of a CLIP, '
            f'got {manifest.classifier["type"]!r}'
        )
    model = manifest.classifier.get('model')
    if manifest.text_encoder['type'] == 'clip' and manifest.text_encoder.get('model') != model:
        raise ManifestError(
            f'image and text tower must be of one CLIP, got {model!r} and {manifest.text_encoder.get("model")!r}'
        )


def _path(manifest: ModelManifest, files: Mapping[str, Path], part: str) -> Path:
    if part in files:
        if not files[part].exists():
            raise WeightsError(f'weights of the {part} of {manifest.name} are missing: {files[part]}')
        return files[part]
    if part == 'classifier' and 'pretrained' in manifest.classifier:
        return download_open_clip(manifest.classifier['model'], manifest.classifier['pretrained'])
    raise WeightsError(f'weights of the {part} of {manifest.name} are missing: no file was given')


def _take(module: nn.Module, part: str, path: Path, tensors: Mapping[str, Tensor], prefix: str = '') -> None:
    """Load tensors into a module, names without the prefix that errors show."""
    found = {f'{prefix}{name}': tensor for name, tensor in tensors.items()}
    require_fit(path, part, found, module.state_dict(prefix=prefix))
    module.load_state_dict(tensors)


def _take_clip(network: SegmentationNetwork, encoder: TextEncoder, clip: ClipTensors, path: Path) -> None:
    tower, head = network.tower, network.head
    _take(tower.visual, 'image tower', path, at_size_of(tower, clip.visual, path), 'visual.')
    if isinstance(encoder, ClipTextEncoder):
        _take(encoder.model, 'text tower', path, clip.text)
    if isinstance(tower, FisaImageTower):
        tower.start_from_clip()
    with torch.no_grad():
        head.logit_scale.copy_(clip.logit_scale.clamp(max=math.log(CLIP_LOGIT_SCALE)))
