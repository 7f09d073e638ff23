"""Files of the caches of engines and weights: whole or absent, locked, and errors that say what to do."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
import errno
import fcntl
import json
import os
from pathlib import Path
import shutil
import tempfile
from typing import Any

from fisa_ros.core.errors import EngineCacheError

# What is not whole yet, or about to go.
STAGING_MARK = '.part-'
MIB = 1 << 20


@contextmanager
def storage_errors(folder: Path) -> Iterator[None]:
    """Turn errors of the file system into ones that name the folder and the space.

    Raises:
        EngineCacheError: An `OSError` came out of the block.
    """
    try:
        yield
    except OSError as error:
        raise storage_error(folder, error) from error


def storage_error(folder: Path, error: OSError) -> EngineCacheError:
    """Return what to tell the user of an error of the file system below `folder`."""
    advice = 'set XDG_CACHE_HOME to another folder'
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return EngineCacheError(
            f'no space for a TensorRT engine in {folder}: {_free_mib(folder)} MiB are free there; make room or {advice}'
        )
    return EngineCacheError(
        f'the TensorRT engines in {folder} cannot be read or written: {error}; mend that or {advice}'
    )


def check_owner(plan: Path) -> None:
    """Refuse a file that neither this user nor root wrote.

    Raises:
        ValueError: It belongs to somebody else.
    """
    owner = plan.stat().st_uid
    if owner not in (os.geteuid(), 0):
        raise ValueError(f'it belongs to user {owner}, not to {os.geteuid()}')


def try_lock(file: int) -> bool:
    """Lock an open file for this process; return whether nobody else holds it."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def remove_folder(entry: Path) -> None:
    """Remove a folder so that it is never seen in part."""
    if entry.exists():
        trash = Path(tempfile.mkdtemp(prefix=f'{STAGING_MARK}{entry.name}-', dir=entry.parent))
        entry.rename(trash / 'entry')
        shutil.rmtree(trash)


def write_json(path: Path, document: Mapping[str, Any]) -> None:
    """Write a file so that it is never seen in part, not even after a power cut."""
    part = path.with_name(f'{STAGING_MARK}{path.name}')
    try:
        with part.open('w', encoding='utf-8') as file:
            file.write(json.dumps(document, indent=1) + '\n')
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError:
        part.unlink(missing_ok=True)
        raise


def _free_mib(folder: Path) -> int:
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    return shutil.disk_usage(existing).free // MIB
