"""Reading and writing weights as safetensors."""

from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
import torch
from torch import nn

from fisa_ros.core.errors import WeightsError

_SHOWN = 5


def _listed(names: list[str]) -> str:
    more = f' and {len(names) - _SHOWN} more' if len(names) > _SHOWN else ''
    return ', '.join(names[:_SHOWN]) + more


def load_weights(module: nn.Module, path: Path) -> None:
    """Load a file into a module; nothing is changed unless every tensor fits.

    Raises:
        WeightsError: The file is missing or corrupt, or a tensor is missing, surplus, misshapen or not finite.
    """
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise WeightsError(f'weights {path} cannot be read: {error}') from error
    expected = module.state_dict()
    missing = sorted(set(expected) - set(tensors))
    surplus = sorted(set(tensors) - set(expected))
    misshapen = [
        f'{name} {tuple(tensors[name].shape)} instead of {tuple(expected[name].shape)}'
        for name in sorted(set(expected) & set(tensors))
        if tensors[name].shape != expected[name].shape
    ]
    broken = [name for name, tensor in tensors.items() if tensor.is_floating_point() and not tensor.isfinite().all()]
    problems = [
        f'{problem}: {_listed(names)}'
        for problem, names in (
            ('missing', missing), ('surplus', surplus), ('misshapen', misshapen), ('not finite', broken),
        )
        if names
    ]  # fmt: skip
    if problems:
        raise WeightsError(f'weights {path} do not fit the network: ' + '; '.join(problems))
    module.load_state_dict(tensors)


def save_weights(module: nn.Module, path: Path) -> None:
    """Write a module's weights, matrices in half precision."""
    tensors = {
        name: (tensor.half() if tensor.is_floating_point() and tensor.ndim > 1 else tensor).contiguous().clone()
        for name, tensor in module.state_dict().items()
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    # Written aside first, so that an interrupted write leaves the old file.
    aside = path.with_name(path.name + '.tmp')
    save_file({name: tensor.to(torch.device('cpu')) for name, tensor in tensors.items()}, aside)
    aside.replace(path)
