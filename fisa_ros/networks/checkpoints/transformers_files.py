"""What checkpoints of the `transformers` library have in common: their settings and their names."""

from collections.abc import Mapping, Sequence
import logging
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightRenaming, apply_renamings

from fisa_ros.core.errors import WeightsError
from fisa_ros.networks.checkpoints.settings import read_json

_TOLERANCE = 1e-4
_LOG = logging.getLogger('fisa_ros.networks')


def read_config(path: Path, kind: type[PreTrainedConfig]) -> PreTrainedConfig | None:
    """Return the `config.json` of a checkpoint, None if it has none.

    Raises:
        WeightsError: It cannot be read or is of another kind of model.
    """
    document = read_json(path, 'config.json')
    if document is None:
        return None
    if document.get('model_type') != kind.model_type:
        raise WeightsError(
            f'weights {path} are of the wrong kind of model: {document.get("model_type")!r} instead of '
            f'{kind.model_type!r}'
        )
    try:
        config: PreTrainedConfig = kind.from_dict(document)
    except Exception as error:
        # The library raises whatever its validation raises.
        raise WeightsError(f'config.json of {path} cannot be read: {error}') from error
    return config


def config_differences(found: object, wanted: object, fields: Sequence[str], prefix: str = '') -> list[str]:
    """Return a text for each field in which settings differ; sequences of equal items are equal."""
    pairs = [(field, _plain(getattr(found, field, None)), _plain(getattr(wanted, field, None))) for field in fields]
    return [f'{prefix}{field} is {there}, the manifest says {here}' for field, there, here in pairs if there != here]


def normalisation_differences(path: Path, mean: Tensor, std: Tensor) -> list[str]:
    """Return a text for mean and standard deviation if `preprocessor_config.json` has others than the network."""
    document = read_json(path, 'preprocessor_config.json') or {}
    found = {key: document[key] for key in ('image_mean', 'image_std') if key in document}
    wanted = {'image_mean': mean.flatten().tolist(), 'image_std': std.flatten().tolist()}
    return [
        f'{key} is {value}, the network has {[round(number, 4) for number in wanted[key]]}'
        for key, value in found.items()
        if not _are_close(value, wanted[key])
    ]


def tell_of_scaling(path: Path) -> None:
    """Log if `preprocessor_config.json` keeps the proportions of images, which this project stretches."""
    document = read_json(path, 'preprocessor_config.json') or {}
    size = document.get('size')
    edges = {edge: size.get(edge) for edge in ('shortest_edge', 'longest_edge')} if isinstance(size, dict) else {}
    found = [f'size.{edge} {value}' for edge, value in edges.items() if value is not None]
    if document.get('do_pad') is True:
        found.append('do_pad')
    if found:
        _LOG.info(
            '%s was made for images that keep their proportions (%s); here they are stretched to the size of the input',
            path,
            ', '.join(found),
        )


def current_names(tensors: Mapping[str, Tensor], model: PreTrainedModel) -> dict[str, Tensor]:
    """Return tensors under the names of this version of the library: files keep those of the version that came first.

    Args:
        tensors: The tensors of a checkpoint.
        model: A model of the same class; it may be on the device meta.
    """
    renamings = [entry for entry in get_model_conversion_mapping(model) if isinstance(entry, WeightRenaming)]
    return {apply_renamings(name, renamings): tensor for name, tensor in tensors.items()}


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _are_close(found: Any, wanted: Sequence[float]) -> bool:
    return (
        isinstance(found, list)
        and len(found) == len(wanted)
        and all(
            isinstance(one, int | float) and abs(one - two) <= _TOLERANCE
            for one, two in zip(found, wanted, strict=True)
        )
    )
