"""Where the package's own files and caches lie, in a source tree and in an install space."""

import os
from pathlib import Path

_PACKAGE = Path(__file__).absolute().parents[1]


def share_dir() -> Path:
    """Return the folder that holds `config/` and `models/`.

    That is the root of the source tree, or `<prefix>/share/fisa_ros` of the install space the package runs from.
    """
    if (_PACKAGE.parent / 'package.xml').is_file():
        return _PACKAGE.parent
    for prefix in _PACKAGE.parents:
        if (prefix / 'share' / 'fisa_ros').is_dir():
            return prefix / 'share' / 'fisa_ros'
    raise FileNotFoundError(f'no share/fisa_ros above {_PACKAGE}: build the package or use its source tree')


def cache_dir() -> Path:
    """Return `$XDG_CACHE_HOME/fisa_ros` (by default `~/.cache/fisa_ros`); it need not exist."""
    base = os.environ.get('XDG_CACHE_HOME') or '~/.cache'
    return Path(base).expanduser() / 'fisa_ros'


def models_dir() -> Path:
    """Return where weights that are not shipped lie, a folder for each model; it need not exist.

    That is `$FISA_ROS_MODELS`, or `$XDG_DATA_HOME/fisa_ros/models` (by default `~/.local/share/fisa_ros/models`).
    """
    if chosen := os.environ.get('FISA_ROS_MODELS'):
        return Path(chosen).expanduser().absolute()
    base = os.environ.get('XDG_DATA_HOME') or '~/.local/share'
    return Path(base).expanduser() / 'fisa_ros' / 'models'
