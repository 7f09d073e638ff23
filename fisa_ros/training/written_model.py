"""The model that a training ends in: weights and manifest."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from fisa_ros.core.manifest import ModelManifest, file_sha256, load_manifest
from fisa_ros.core.placement import STRETCH
from fisa_ros.core.thresholds import Thresholds
from fisa_ros.networks.segmentation_network import SegmentationNetwork
from fisa_ros.networks.text_encoder import TextEncoder
from fisa_ros.networks.weights import save_weights, weights_of, write_tensors
from fisa_ros.training.checkpoint import write_atomically
from fisa_ros.training.recipe import Recipe


def write_model(
    folder: Path,
    network: SegmentationNetwork,
    encoder: TextEncoder,
    recipe: Recipe,
    initial: ModelManifest | None = None,
) -> Path:
    """Write weights and manifest of a trained network into `folder` and return the manifest.

    The model has the name of the recipe's initial model, or else that of the recipe. Thresholds are those of the
    initial model, or middling ones; `tools.calibrate` finds better ones. A manifest that already describes these very
    weights stays, with what calibration wrote into it.

    Args:
        folder: Where the files go.
        network: The network.
        encoder: The text encoder; its weights are written too unless it brings them.
        recipe: The recipe, with all parts.
        initial: The model that all parts are from: its licence and sources are carried over.

    Raises:
        WeightsError: The disk is full or the folder cannot be written, for the weights.
        DataError: The same for the manifest.
    """
    name = load_manifest(recipe.initial).name if recipe.initial else Path(recipe.where).stem
    weights, manifest = folder / f'{name}.safetensors', folder / f'{name}.yaml'
    if initial is None:
        save_weights(network, weights, encoder)
    else:
        # What stayed frozen is as it was published, bit for bit.
        write_tensors(weights_of(network, encoder), weights)
    if manifest.is_file() and load_manifest(manifest).weights.sha256 == file_sha256(weights):
        return manifest
    document = {
        'name': name,
        **(_described(network, recipe) if initial is None else _carried(initial, recipe)),
        'weights': {'file': weights.name, 'sha256': file_sha256(weights)},
    }
    text = yaml.safe_dump(document, sort_keys=False).encode()
    write_atomically(manifest, lambda file: file.write(text))
    return manifest


def _carried(initial: ModelManifest, recipe: Recipe) -> dict[str, Any]:
    """Return what the manifest of the initial model says, but for name and weights."""
    assert initial.path is not None
    document: dict[str, Any] = yaml.safe_load(initial.path.read_text(encoding='utf-8'))
    start = f'{initial.name} of weights {initial.weights.sha256}'
    carried = {key: value for key, value in document.items() if key not in ('name', 'weights')}
    return {
        **carried,
        'description': f'{start}, tuned by {Path(recipe.where).name}.',
        'prompt_templates': list(recipe.prompt_templates),
    }


def _described(network: SegmentationNetwork, recipe: Recipe) -> dict[str, Any]:
    start = load_manifest(recipe.initial) if recipe.initial else None
    thresholds = start.thresholds if start else Thresholds(0.25, 0.4, 0.5)
    return {
        'description': f'Made from {Path(recipe.where).name}.',
        'licence': 'Apache-2.0',
        'image_size_hw': list(network.tower.visual.image_size),
        **({'resize': start.resize.kind} if start and start.resize != STRETCH else {}),
        'generator': dict(recipe.generator or {}),
        'classifier': dict(recipe.classifier or {}),
        'text_encoder': dict(recipe.text_encoder or {}),
        'prompt_templates': list(recipe.prompt_templates),
        'thresholds': asdict(thresholds),
    }
