"""Files that a training run leaves behind: written whole or not at all, and checked when read."""

from collections.abc import Callable, Mapping
import json
from pathlib import Path
from pickle import UnpicklingError
from typing import IO, Any
import zipfile

import torch

from fisa_ros.core.errors import DataError
from fisa_ros.core.unfinished_file import written_aside

_SHOWN = 4


def write_atomically(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Replace `path` by what `write` puts into a file; a crash at any moment leaves the old one or the new one.

    Raises:
        DataError: The disk is full or the folder cannot be written; the old one stays.
    """
    try:
        with written_aside(path) as aside, aside.open('wb') as file:
            write(file)
    except (OSError, RuntimeError) as error:
        # torch.save turns a full disk into a RuntimeError.
        raise DataError(f'{path} cannot be written: {error}') from error


def save_tensors(path: Path, content: Mapping[str, Any]) -> None:
    """Write tensors, numbers, texts and containers of them to `path`."""
    write_atomically(path, lambda file: torch.save(dict(content), file))


def load_tensors(path: Path) -> dict[str, Any]:
    """Read what `save_tensors` wrote, onto the CPU.

    Raises:
        DataError: The file is missing, truncated or corrupt.
    """
    try:
        # torch.load does not look at the checksums that torch.save writes.
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        content = None if damaged is not None else torch.load(path, map_location='cpu', weights_only=True)
    except FileNotFoundError as error:
        raise DataError(f'{path} is missing') from error
    except (OSError, EOFError, RuntimeError, LookupError, ValueError, UnpicklingError, zipfile.BadZipFile) as error:
        raise DataError(f'{path} is truncated or corrupt: {error}') from error
    if not isinstance(content, dict):
        raise DataError(f'{path} is truncated or corrupt: {damaged or "it holds no mapping"}')
    return content


def fingerprint(settings: object, name: str = '') -> dict[str, str]:
    """Flatten nested mappings and sequences to dotted names and JSON values."""
    if isinstance(settings, Mapping):
        pairs = [(str(key), value) for key, value in settings.items()]
    elif isinstance(settings, list | tuple):
        pairs = [(str(index), value) for index, value in enumerate(settings)]
    else:
        return {name: json.dumps(settings)}
    flat: dict[str, str] = {}
    for key, value in pairs:
        flat |= fingerprint(value, f'{name}.{key}' if name else key)
    return flat


def differences(saved: Mapping[str, str], wanted: Mapping[str, str]) -> str:
    """Name what two fingerprints do not share, empty if nothing."""
    names = sorted(name for name in saved.keys() | wanted.keys() if saved.get(name) != wanted.get(name))
    texts = [f'{name} was {saved.get(name, "not set")}, is {wanted.get(name, "not set")}' for name in names[:_SHOWN]]
    return '; '.join(texts + [f'{len(names) - _SHOWN} more'] * (len(names) > _SHOWN))
