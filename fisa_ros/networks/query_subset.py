"""Models with fewer masks: the learned queries of a generator that most often find an object."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
import yaml

from fisa_ros.core.errors import ManifestError, WeightsError
from fisa_ros.core.manifest import ModelManifest, file_sha256, verify_weights
from fisa_ros.core.unfinished_file import written_aside


@dataclass(frozen=True, slots=True)
class _Queries:
    """Where a type of generator keeps its queries, and where its manifest says how many."""

    tensors: tuple[str, ...]
    number: tuple[str, ...]


_TRANSFORMER = 'generator.model.model.transformer_module'
_QUERIES = {
    'tiny': _Queries(('generator.queries',), ('num_queries',)),
    'eomt': _Queries(('generator.model.query.weight',), ('config', 'num_queries')),
    'mask2former': _Queries(
        (f'{_TRANSFORMER}.queries_features.weight', f'{_TRANSFORMER}.queries_embedder.weight'),
        ('config', 'num_queries'),
    ),
}


def count_queries(manifest: ModelManifest) -> int:
    """Return the number N of masks that a model proposes, as its weights have it.

    Raises:
        ManifestError: Queries of this type of generator are not known.
        WeightsError: The weights are missing, damaged or have no queries.
    """
    queries, path = _queries_of(manifest), manifest.weights.path
    verify_weights(manifest)
    try:
        with safe_open(path, 'np') as file:
            return int(file.get_slice(queries.tensors[0]).get_shape()[0])
    except (OSError, SafetensorError) as error:
        raise WeightsError(f'weights {path} cannot be read: {error}') from error


def write_query_subset(
    manifest: ModelManifest, folder: Path, num_masks: int, frames: Sequence[NDArray[np.uint8]]
) -> Path:
    """Write weights and manifest of a model with fewer queries into `folder` and return the path of the manifest.

    The queries with the highest mean objectness over the frames stay, in their order; nothing is trained again. Weights
    that are already there are kept, the manifest is always written.

    Args:
        manifest: The model; it must have been read from a file.
        folder: Where the files go; another one for each model and number.
        num_masks: Number of queries that stay, at least 1.
        frames: Images `(H, W, 3)` uint8 rgb of the size that the model takes.

    Raises:
        ManifestError: The model has fewer queries, they are not known of its generator, or the manifest was not read
            from a file.
        WeightsError: The weights are missing or do not fit, or the new ones cannot be written.
    """
    queries = _queries_of(manifest)
    count = count_queries(manifest)
    if not 1 <= num_masks <= count:
        raise ManifestError(f'masks must be in 1..{count} for model {manifest.name!r}, got {num_masks}')
    if manifest.path is None:
        raise ManifestError(f'model manifest {manifest.name!r} was not read from a file')
    folder.mkdir(parents=True, exist_ok=True)
    weights = folder / f'{manifest.name}.safetensors'
    if not weights.is_file():
        _write_weights(manifest, weights, queries.tensors, num_masks, frames)
    document = yaml.safe_load(manifest.path.read_text(encoding='utf-8'))
    document.pop('sources', None)
    document |= {
        'description': f'{manifest.name} with the {num_masks} of its {count} queries that find most; for measurements.',
        'weights': {'file': weights.name, 'sha256': file_sha256(weights)},
        'generator': _with_number(manifest.generator, queries.number, num_masks),
    }
    path = folder / f'{manifest.name}.yaml'
    with written_aside(path) as aside:
        aside.write_text(yaml.safe_dump(document, sort_keys=False), encoding='utf-8')
    return path


def _queries_of(manifest: ModelManifest) -> _Queries:
    kind = str(manifest.generator['type'])
    if kind not in _QUERIES:
        raise ManifestError(
            f'the number of masks of a generator of type {kind!r} cannot be changed, only of {", ".join(_QUERIES)}'
        )
    return _QUERIES[kind]


def _write_weights(
    manifest: ModelManifest, path: Path, names: Sequence[str], count: int, frames: Sequence[NDArray[np.uint8]]
) -> None:
    # Here, for a variant that is there is found without them.
    from safetensors.torch import load_file
    import torch

    from fisa_ros.networks.load import load_network
    from fisa_ros.networks.weights import write_tensors

    generator = load_network(manifest).eval().generator
    images = (torch.from_numpy(frame).permute(2, 0, 1)[None].float() / 255 for frame in frames)
    with torch.inference_mode():
        objectness = torch.stack([generator(image).objectness[0] for image in images]).mean(0)
    kept = sorted(objectness.argsort(descending=True, stable=True)[:count].tolist())
    tensors = load_file(manifest.weights.path)
    tensors |= {name: tensors[name][kept] for name in names}
    write_tensors(tensors, path)


def _with_number(entry: Mapping[str, Any], keys: Sequence[str], number: int) -> dict[str, Any]:
    """Return a copy of nested mappings with another number at the end of `keys`."""
    key, *rest = keys
    return {**entry, key: _with_number(entry.get(key, {}), rest, number) if rest else number}
