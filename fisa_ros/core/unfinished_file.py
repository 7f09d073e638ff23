"""Where a file is written before it takes the place of another one."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from glob import escape
import os
from pathlib import Path
import socket


def unfinished_path(path: Path) -> Path:
    """Return a path beside `path` that no other process has, on this machine or on one that shares the folder."""
    return path.with_name(f'{path.name}.{socket.gethostname()}.{os.getpid()}.tmp')


@contextmanager
def written_aside(path: Path, keep: Callable[[Path], object] | None = None) -> Iterator[Path]:
    """Give a path to write to; what is there at the end of the block replaces `path`, and is on the disk.

    After an error in the block `path` is as it was. What processes that are gone left of it is removed first.

    Args:
        path: The file.
        keep: What puts the written file in the place of `path`, instead of a mere renaming.

    Raises:
        OSError: The folder or the disk cannot be written.
    """
    aside = unfinished_path(path)
    remove_unfinished(path.parent, path.name)
    try:
        yield aside
        sync(aside)
        if keep is None:
            aside.replace(path)
        else:
            keep(aside)
        # The new name is on the disk only once its folder is.
        sync(path.parent)
    finally:
        with suppress(OSError):
            aside.unlink(missing_ok=True)


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


def sync(path: Path) -> None:
    """Wait until a file or folder is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True
