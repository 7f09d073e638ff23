"""Reading and writing weights as safetensors."""

from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
import torch
from torch import Tensor, nn

from fisa_ros.core.errors import WeightsError
from fisa_ros.core.unfinished_file import written_aside
from fisa_ros.networks.text_encoder import TextEncoder

# Begins the names of the text encoder's tensors, where it does not bring its own weights.
_TEXT_ENCODER = 'text_encoder.'
_SHOWN = 5
# How many parts of a name stand for the place it belongs to, where there are too many to name.
_PREFIX_PARTS = 2


def load_weights(module: nn.Module, path: Path) -> None:
    """Load a file, but for the text encoder's tensors, into a module; nothing is changed unless every tensor fits.

    Raises:
        WeightsError: The file is missing or corrupt, or a tensor does not fit, see `require_fit`.
    """
    expected = module.state_dict()
    tensors = _read(path, is_text=False)
    require_fit(path, 'network', tensors, expected)
    module.load_state_dict(tensors)


def load_text_weights(encoder: TextEncoder, path: Path) -> None:
    """Load the text encoder's tensors of a file; there must be none where the encoder brings its own.

    Raises:
        WeightsError: As `load_weights`.
    """
    expected = {} if encoder.has_own_weights else encoder.state_dict(prefix=_TEXT_ENCODER)
    tensors = _read(path, is_text=True)
    require_fit(path, 'text encoder', tensors, expected)
    if expected:
        encoder.load_state_dict({name.removeprefix(_TEXT_ENCODER): tensor for name, tensor in tensors.items()})


def save_weights(module: nn.Module, path: Path, text_encoder: TextEncoder | None = None) -> None:
    """Write a module's weights, matrices in half precision, and those of a text encoder that does not bring its own.

    Raises:
        WeightsError: The disk is full or the folder cannot be written; the old file stays.
    """
    tensors = {
        name: (tensor.half() if tensor.is_floating_point() and tensor.ndim > 1 else tensor).contiguous().clone()
        for name, tensor in weights_of(module, text_encoder).items()
    }
    write_tensors(tensors, path)


def weights_of(module: nn.Module, text_encoder: TextEncoder | None) -> dict[str, Tensor]:
    """Return the tensors, under the names they have in a file, of a module and of an encoder without its own."""
    state: dict[str, Tensor] = dict(module.state_dict())
    if text_encoder is not None and not text_encoder.has_own_weights:
        state |= text_encoder.state_dict(prefix=_TEXT_ENCODER)
    return state


def write_tensors(tensors: Mapping[str, Tensor], path: Path, keep: Callable[[Path], object] | None = None) -> None:
    """Write tensors as they are; an interrupted write leaves the old file.

    Args:
        tensors: By name.
        path: Where they go.
        keep: See `written_aside`.

    Raises:
        WeightsError: The disk is full or the folder cannot be written; the old file stays.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with written_aside(path, keep) as aside:
            save_file({name: tensor.to(torch.device('cpu')).contiguous() for name, tensor in tensors.items()}, aside)
            # safetensors makes files that nobody but their owner can read.
            aside.chmod(0o644)
    except (OSError, SafetensorError) as error:
        raise WeightsError(f'weights {path} cannot be written: {error}') from error


def _read(path: Path, *, is_text: bool) -> dict[str, Tensor]:
    try:
        with safe_open(path, 'pt') as file:
            names = [name for name in file.keys() if name.startswith(_TEXT_ENCODER) == is_text]  # noqa: SIM118
            return {name: file.get_tensor(name) for name in names}
    except (OSError, SafetensorError) as error:
        raise WeightsError(f'weights {path} cannot be read: {error}') from error


def require_fit(path: Path, part: str, tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Check that tensors can be loaded into a part of a model.

    Args:
        path: Where the tensors are from.
        part: What they are for.
        tensors: The tensors by name.
        expected: Tensors of the names and shapes that the part has; of the device meta, too.

    Raises:
        WeightsError: A tensor is missing, surplus, misshapen, of whole or complex numbers where it should not be, or
            not finite. The first few of each are named, and counted by the place they belong to where there are more.
    """
    both = sorted(set(expected) & set(tensors))
    misshapen = [
        f'{name} {tuple(tensors[name].shape)} instead of {tuple(expected[name].shape)}'
        for name in both
        if tensors[name].shape != expected[name].shape
    ]
    kinds = [
        f'{name} {_plain_name(tensors[name])} instead of {_plain_name(expected[name])}'
        for name in both
        if _kind(tensors[name]) != _kind(expected[name])
    ]
    # As they will be: what is finite in double precision need not be in single.
    broken = [
        name
        for name in both
        if tensors[name].is_floating_point() and not tensors[name].to(expected[name].dtype).isfinite().all()
    ]
    problems = [
        f'{problem}: {_listed(names)}'
        for problem, names in (
            ('missing', sorted(set(expected) - set(tensors))),
            ('surplus', sorted(set(tensors) - set(expected))),
            ('misshapen', misshapen),
            ('of another kind', kinds),
            ('not finite', broken),
        )
        if names
    ]
    if problems:
        raise WeightsError(f'weights {path} do not fit the {part}: ' + '; '.join(problems))


def _kind(tensor: Tensor) -> tuple[bool, bool, bool]:
    return tensor.is_floating_point(), tensor.is_complex(), tensor.dtype == torch.bool


def _plain_name(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix('torch.')


def _listed(names: list[str]) -> str:
    if len(names) <= _SHOWN:
        return ', '.join(names)
    counts = Counter('.'.join(name.split('.')[:_PREFIX_PARTS]) for name in names)
    places = ', '.join(f'{count} in {prefix}' for prefix, count in counts.most_common())
    return f'{", ".join(names[:_SHOWN])} and {len(names) - _SHOWN} more (of all, {places})'
