"""Writes an adapted model: weights and a manifest that every tool and the node take."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from safetensors import safe_open
from torch import Tensor
import yaml

from fisa_ros.core.errors import ManifestError
from fisa_ros.core.manifest import ModelManifest, file_sha256
from fisa_ros.networks.segmentation_network import SegmentationNetwork
from fisa_ros.networks.text_encoder import TextEncoder
from fisa_ros.networks.weights import weights_of, write_tensors
from fisa_ros.training.checkpoint import write_atomically


def write_adapted_model(
    folder: Path,
    name: str,
    network: SegmentationNetwork,
    encoder: TextEncoder,
    manifest: ModelManifest,
    images: int,
    classes: Sequence[str],
) -> Path:
    """Write weights and manifest and return the manifest; thresholds, temperature and licence are those of `manifest`.

    Args:
        folder: Where they go.
        name: Name of the adapted model.
        network: It.
        encoder: Its text encoder, the same as before.
        manifest: The model that it was made from, read from a file.
        images: How many images it was adapted with.
        classes: Names of the new classes.

    Raises:
        DataError: The manifest cannot be written.
        ManifestError: `manifest` was not read from a file.
        WeightsError: The weights cannot be written.
    """
    if manifest.path is None:
        raise ManifestError(f'model manifest {manifest.name!r} was not read from a file')
    document = yaml.safe_load(manifest.path.read_text(encoding='utf-8'))
    weights = folder / f'{name}.safetensors'
    write_tensors(_stored_as(weights_of(network, encoder), manifest.weights.path), weights)
    # Where the weights of the first model came from says nothing about these.
    document.pop('sources', None)
    document |= {
        'name': name,
        'description': f'{manifest.name} (sha256 {manifest.weights.sha256}) adapted with {images} images to '
        f'{", ".join(classes)}.',
        'weights': {'file': weights.name, 'sha256': file_sha256(weights)},
    }
    path = folder / f'{name}.yaml'
    text = yaml.safe_dump(document, sort_keys=False, allow_unicode=True).encode()
    write_atomically(path, lambda file: file.write(text))
    return path


def _stored_as(tensors: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Return each tensor in the type that it has in a file, where that changes no value: what was measured is kept."""
    stored = {}
    with safe_open(path, 'pt') as file:
        names = set(file.keys())
        for name, tensor in tensors.items():
            if name in names:
                # Nothing but the type is read of what has rows.
                before = file.get_slice(name)[:0] if tensor.ndim else file.get_tensor(name)
                narrow = tensor.to(before.dtype)
                tensor = narrow if narrow.to(tensor.dtype).equal(tensor) else tensor
            stored[name] = tensor.clone()
    return stored
