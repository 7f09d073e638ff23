"""Where a file is written before it takes the place of another one."""

import os
from pathlib import Path
import socket


def unfinished_path(path: Path) -> Path:
    """Return a path beside `path` that no other process has, on this machine or on one that shares the folder."""
    return path.with_name(f'{path.name}.{socket.gethostname()}.{os.getpid()}.tmp')
