"""Where a file is written before it takes the place of another one."""

from contextlib import suppress
from glob import escape
import os
from pathlib import Path
import socket


def unfinished_path(path: Path) -> Path:
    """Return a path beside `path` that no other process has, on this machine or on one that shares the folder."""
    return path.with_name(f'{path.name}.{socket.gethostname()}.{os.getpid()}.tmp')


def remove_unfinished(folder: Path, name: str | None = None) -> None:
    """Remove what processes of this machine that are gone left at their `unfinished_path` in a folder.

    Call it where no two containers of one host name write the same at once: each sees its own processes alone.

    Args:
        folder: The folder.
        name: Name of the file that they wrote; None for any.
    """
    written = '*' if name is None else escape(name)
    for left in folder.glob(f'{written}.{escape(socket.gethostname())}.*.tmp'):
        number = left.name.split('.')[-2]
        if number.isdecimal() and not _is_running(int(number)):
            with suppress(OSError):
                left.unlink()


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True
