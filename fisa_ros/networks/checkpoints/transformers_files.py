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
from fisa_ros.core.placement import Resize
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


def tell_of_scaling(path: Path, resize: Resize) -> None:
    """Warn if `preprocessor_config.json` brings images to their size in another way than the manifest.

    With `do_split_image`, or where the shorter side alone is scaled and nothing is padded, the network was made for
    windows cut out of an image, as EoMT for semantic segmentation is; here a network sees each image whole.
    """
    document = read_json(path, 'preprocessor_config.json') or {}
    size = document.get('size')
    sides = {name: value for name, value in size.items() if value is not None} if isinstance(size, dict) else {}
    told = [f'size.{name} {value}' for name, value in sides.items()]
    is_stretched = sides.keys() >= {'height', 'width'}
    keeps = not is_stretched and ('shortest_edge' in sides or 'longest_edge' in sides or document.get('do_pad') is True)
    takes_windows = document.get('do_split_image') is True or (
        sides.keys() == {'shortest_edge'} and document.get('do_pad') is not True
    )
    told += [name for name in ('do_split_image', 'do_pad') if document.get(name) is True]
    if takes_windows:
        _LOG.warning(
            '%s was made for windows cut out of an image (%s), which this package does not cut: it will do worse than '
            'published',
            path, ', '.join(told),
        )  # fmt: skip
    elif keeps and resize.kind == 'stretch':
        _LOG.warning(
            '%s was made for images that keep their proportions (%s), the manifest stretches them: set resize: pad',
            path, ', '.join(told),
        )  # fmt: skip
    elif is_stretched and resize.kind == 'pad':
        _LOG.warning(
            '%s was made for images that are stretched (%s), the manifest keeps their proportions: set resize: stretch',
            path, ', '.join(told),
        )  # fmt: skip


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
