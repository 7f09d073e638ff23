"""The settings that lie beside the weights of a checkpoint."""

from collections.abc import Sequence
import json
from pathlib import Path
from typing import Any

from fisa_ros.core.errors import WeightsError


def read_json(path: Path, name: str) -> dict[str, Any] | None:
    """Return what a settings file beside or in a checkpoint holds, None if there is no such file.

    Args:
        path: The checkpoint, a file or a folder.
        name: Name of the settings file.

    Raises:
        WeightsError: It cannot be read or holds no mapping.
    """
    file = (path if path.is_dir() else path.parent) / name
    if not file.is_file():
        return None
    try:
        document = json.loads(file.read_text(encoding='utf-8'))
    except (OSError, ValueError) as error:
        raise WeightsError(f'{file} cannot be read: {error}') from error
    if not isinstance(document, dict):
        raise WeightsError(f'{file} must hold a mapping, got a {type(document).__name__}')
    return document


def require_same(path: Path, differences: Sequence[str]) -> None:
    """Refuse a checkpoint whose settings are not those of the manifest.

    Raises:
        WeightsError: There are differences; all are named.
    """
    if differences:
        raise WeightsError(f'weights {path} are of another network than the manifest: {"; ".join(differences)}')
