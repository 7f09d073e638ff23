"""Sums of files, and that of weights that are too large to be read each time a manifest is."""

import hashlib
import json
from pathlib import Path

from fisa_ros.core.unfinished_file import written_aside


def sha256_of(path: Path) -> str:
    """Return the sum of a file, 64 hexadecimal digits.

    Raises:
        OSError: It cannot be read.
    """
    with path.open('rb') as file:
        return hashlib.file_digest(file, 'sha256').hexdigest()


def file_identity(path: Path) -> list[int]:
    """Return what tells a file from a changed, copied or replaced one: length, times of change in ns, and inode.

    Raises:
        OSError: It is not there.
    """
    stat = path.stat()
    return [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]


def note_sum(path: Path, sha256: str) -> None:
    """Note the sum of a file beside it; it holds until the file is changed, copied or replaced."""
    with written_aside(_note(path)) as part:
        part.write_text(json.dumps({'sha256': sha256, 'is': file_identity(path)}) + '\n', encoding='utf-8')


def forget_sum(path: Path) -> None:
    """Remove the note of a file's sum, if there is one.

    Raises:
        OSError: It cannot be removed.
    """
    _note(path).unlink(missing_ok=True)


def noted_sum(path: Path, *, may_be_copy: bool = False) -> str | None:
    """Return the sum that was noted for exactly this file; None if there is none.

    Args:
        path: The file.
        may_be_copy: Whether it is enough that the file is as long as the one whose sum was noted.
    """
    try:
        document = json.loads(_note(path).read_text(encoding='utf-8'))
        there, noted = file_identity(path), document['is']
        if noted == there or (may_be_copy and noted[0] == there[0]):
            return str(document['sha256'])
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return None


def _note(path: Path) -> Path:
    return path.with_name(f'.{path.name}.sum.json')
