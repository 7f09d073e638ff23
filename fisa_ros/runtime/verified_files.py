"""Sums of files that are checked once, and again only where a file is no longer the one that was checked."""

from collections.abc import Mapping
import contextlib
import json
from pathlib import Path
import tempfile
import time
from typing import Any

from fisa_ros.core.weights_sum import file_identity, sha256_of

NOTES_FILE = '.verified.json'
# A file that changes twice within a tick of the file system's clock looks the same after both.
_SETTLED_NS = 2 * 10**9


def find_damaged(folder: Path, sums: Mapping[str, str]) -> dict[str, str]:
    """Return the files whose sum is another than it should be, each with its sum.

    A file is read unless its size, times and place on the disk are those of the last time when its sum was right, as
    `NOTES_FILE` beside it says; graphs of large models have gigabytes. Copies are read: their place is another.

    Args:
        folder: Where the files are.
        sums: What the sum of each should be, by name.

    Raises:
        OSError: A file is missing or cannot be read.
    """
    noted, right, damaged = _read_notes(folder), {}, {}
    newest_ns = time.time_ns() - _SETTLED_NS
    for name, expected in sums.items():
        path = folder / name
        note = _note(path, expected)
        if noted.get(name) != note:
            found = sha256_of(path)
            if found != expected:
                damaged[name] = found
                continue
        if note[1] < newest_ns and note == _note(path, expected):
            right[name] = note
    if right != noted:
        _write_notes(folder, right)
    return damaged


def _note(path: Path, sha256: str) -> list[Any]:
    return [*file_identity(path), sha256]


def _read_notes(folder: Path) -> dict[str, Any]:
    try:
        document = json.loads((folder / NOTES_FILE).read_text(encoding='utf-8'))
    except (OSError, ValueError):
        return {}
    return document if isinstance(document, dict) else {}


def _write_notes(folder: Path, notes: Mapping[str, Any]) -> None:
    """Write the notes, where the folder can be written; elsewhere all files are read each time."""
    with contextlib.suppress(OSError), tempfile.TemporaryDirectory(prefix='.', dir=folder) as temporary:
        part = Path(temporary) / NOTES_FILE
        part.write_text(json.dumps(notes, indent=1) + '\n', encoding='utf-8')
        part.replace(folder / NOTES_FILE)
