"""Writes an adapted model: weights, words and a manifest that every tool and the node take."""

from collections.abc import Mapping
from dataclasses import dataclass
import os
from pathlib import Path
from tempfile import TemporaryDirectory

from safetensors import safe_open
from torch import Tensor
import yaml

from fisa_ros.core.errors import DataError, ManifestError
from fisa_ros.core.manifest import ModelManifest, file_sha256
from fisa_ros.datasets.site_classes import SiteClasses, vocabulary_text
from fisa_ros.networks.segmentation_network import SegmentationNetwork
from fisa_ros.networks.text_encoder import TextEncoder
from fisa_ros.networks.weights import weights_of, write_tensors
from fisa_ros.training.checkpoint import write_atomically


@dataclass(frozen=True, slots=True)
class AdaptedFiles:
    """Where an adapted model lies.

    Attributes:
        folder: Its folder.
        name: Its name.
    """

    folder: Path
    name: str

    @property
    def manifest(self) -> Path:
        """What tools and node take as their model."""
        return self.folder / f'{self.name}.yaml'

    @property
    def weights(self) -> Path:
        """Weights."""
        return self.folder / f'{self.name}.safetensors'

    @property
    def vocabulary(self) -> Path:
        """Base classes and new ones."""
        return self.folder / f'{self.name}_vocabulary.yaml'

    @property
    def report(self) -> Path:
        """All numbers."""
        return self.folder / f'{self.name}_report.json'

    @property
    def page(self) -> Path:
        """Pictures before and after."""
        return self.folder / f'{self.name}_before_after.png'

    def require_free(self, base: ModelManifest, *, may_replace: bool) -> None:
        """Check, before any work, that the files can be written.

        Args:
            base: The model that is adapted: none of its files is written over.
            may_replace: Whether an adapted model of that name may be replaced.

        Raises:
            DataError: They are those of `base`, there is a model of that name, or the folder cannot be written.
        """
        for own, file in ((self.manifest, base.path), (self.weights, base.weights.path)):
            if file is not None and own.resolve() == file.resolve():
                raise DataError(f'{own} belongs to the model that is adapted: choose another --out or --name')
        if not may_replace and self.manifest.exists():
            raise DataError(f'{self.manifest} exists already: choose another --name or --out, or give --replace')
        above = next(path for path in (self.folder, *self.folder.absolute().parents) if path.exists())
        if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
            raise DataError(f'{self.folder} cannot be written: {above} is no folder that may be written to')


def write_adapted_model(
    files: AdaptedFiles,
    network: SegmentationNetwork,
    encoder: TextEncoder,
    manifest: ModelManifest,
    images: int,
    classes: SiteClasses,
) -> None:
    """Write weights, vocabulary and, last, the manifest; thresholds, temperature and licence are those of `manifest`.

    A crash at any moment leaves the former model of that name or none, or the new one whole.

    Args:
        files: Where they go.
        network: The adapted network.
        encoder: Its text encoder, the same as before.
        manifest: The model that it was made from, read from a file.
        images: How many images it was adapted with.
        classes: Base classes and new ones.

    Raises:
        DataError: Vocabulary or manifest cannot be written.
        ManifestError: `manifest` was not read from a file.
        WeightsError: The weights cannot be written.
    """
    if manifest.path is None:
        raise ManifestError(f'model manifest {manifest.name!r} was not read from a file')
    document = yaml.safe_load(manifest.path.read_text(encoding='utf-8'))
    new = ', '.join(entry.name for entry in classes.new)
    try:
        files.folder.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=f'.{files.name}-', dir=files.folder) as unfinished:
            weights, vocabulary = (Path(unfinished, path.name) for path in (files.weights, files.vocabulary))
            write_tensors(_stored_as(weights_of(network, encoder), manifest.weights.path), weights)
            words = vocabulary_text(classes, f'Base classes and {new}.').encode()
            write_atomically(vocabulary, lambda file: file.write(words))
            sha256 = file_sha256(weights)
            # Weights and words of two models must never stand under one manifest.
            files.manifest.unlink(missing_ok=True)
            weights.replace(files.weights)
            vocabulary.replace(files.vocabulary)
    except OSError as error:
        raise DataError(f'{files.folder} cannot be written: {error}') from error
    # Where the weights of the first model came from says nothing about these.
    document.pop('sources', None)
    document |= {
        'name': files.name,
        'description': f'{manifest.name} (sha256 {manifest.weights.sha256}) adapted with {images} images to {new}.',
        'weights': {'file': files.weights.name, 'sha256': sha256},
    }
    text = yaml.safe_dump(document, sort_keys=False, allow_unicode=True).encode()
    write_atomically(files.manifest, lambda file: file.write(text))


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
