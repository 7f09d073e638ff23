"""Fetching one large file so that nothing is fetched twice and no part of it passes for the whole."""

from collections.abc import Iterator
from contextlib import contextmanager
import errno
import hashlib
from http import HTTPStatus
import os
from pathlib import Path
import re
import sys
from typing import Any, BinaryIO

import requests
from tqdm import tqdm

from fisa_ros.core.errors import DownloadError
from fisa_ros.runtime.hub_files import Hub, PassingFailure, RemoteFile

# What is lost of a connection that breaks; larger ones are hardly faster.
CHUNK_BYTES = 1 << 16
_AGAIN = 'the same command goes on where this one stopped'


def part_path(target: Path, remote: RemoteFile) -> Path:
    """Return where the beginning of a file is kept; that of another version of it is kept elsewhere."""
    version = hashlib.sha256(f'{remote.name} {remote.version}'.encode()).hexdigest()[:16]
    return target.with_name(f'.{target.name}.{version}.part')


def fetch(hub: Hub, remote: RemoteFile, target: Path) -> tuple[Path, str]:
    """Fetch a file into its `part_path`, from where an earlier try stopped.

    Args:
        hub: Where it is.
        remote: The file.
        target: What it will be called; nothing is done to it.

    Returns:
        The part, which now is whole and on the disk, and its sum.

    Raises:
        DownloadError: It cannot be fetched; what is there of it stays for the next time, where that may help.
    """
    path = part_path(target, remote)
    with told_of_disk(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        for other in path.parent.glob(f'.{target.name}.*.part'):
            if other != path:
                other.unlink()
        with path.open('ab+') as file, _progress_bar(remote) as bar:
            part = _Part(file, bar)
            _fill(hub, remote, part)
            if remote.size is not None and part.size > remote.size:
                part.empty()
                raise DownloadError(f'{remote.name} is longer than the {remote.size} bytes that were told; try again')
            if part.size == 0:
                raise DownloadError(f'{remote.name} came empty from {hub.endpoint}; try again, or use --from DIR')
            file.flush()
            os.fsync(file.fileno())
            return path, part.digest.hexdigest()


@contextmanager
def told_of_disk(path: Path) -> Iterator[None]:
    """Turn errors of the file system into a `DownloadError` that says what to do."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DownloadError(f'no space is left for {path}: make some, and {_AGAIN}') from error
        raise DownloadError(
            f'{error.filename or path} cannot be written: {error.strerror or error}; FISA_ROS_MODELS names another '
            'folder for models'
        ) from error


class _Part:
    """The beginning of a file, with its sum."""

    def __init__(self, file: BinaryIO, bar: 'tqdm[Any]') -> None:
        self.digest = hashlib.sha256()
        self.size = 0
        self._file = file
        self._bar = bar
        file.seek(0)
        while chunk := file.read(CHUNK_BYTES):
            self._count(chunk)

    def append(self, chunk: bytes) -> None:
        self._file.write(chunk)
        self._count(chunk)

    def empty(self) -> None:
        self._file.truncate(0)
        self._bar.update(-self.size)
        self.digest = hashlib.sha256()
        self.size = 0

    def _count(self, chunk: bytes) -> None:
        self.digest.update(chunk)
        self.size += len(chunk)
        self._bar.update(len(chunk))


def _fill(hub: Hub, remote: RemoteFile, part: _Part) -> None:
    failures, is_whole = 0, False
    # What was there before counts as no progress when it comes again, or a server could keep this going for ever.
    best = part.size
    while not is_whole and (remote.size is None or part.size < remote.size):
        try:
            is_whole = _append(hub, remote, part)
        except PassingFailure as failure:
            failures = 1 if part.size > best else failures + 1
            best = max(best, part.size)
            hub.pause(failure, failures)


def _append(hub: Hub, remote: RemoteFile, part: _Part) -> bool:
    """Append what one answer brings; return whether it brought the end of the file."""
    start = part.size
    with hub.open(remote, start) as response:
        if start and not _continues(response, start):
            # It cannot be resumed there, or what is here is not its beginning.
            part.empty()
            if response.status_code != HTTPStatus.OK:
                return False
        try:
            for chunk in response.iter_content(CHUNK_BYTES):
                part.append(chunk)
                if remote.size is not None and part.size > remote.size:
                    break
        except requests.RequestException as error:
            raise PassingFailure(f'the connection for {remote.name} broke after {part.size} bytes', _AGAIN) from error
    if remote.size is not None and part.size < remote.size:
        raise PassingFailure(f'the connection for {remote.name} ended after {part.size} bytes', _AGAIN)
    return True


def _continues(response: requests.Response, start: int) -> bool:
    found = re.match(r'bytes (\d+)-', response.headers.get('Content-Range', ''))
    return response.status_code == HTTPStatus.PARTIAL_CONTENT and found is not None and int(found[1]) == start


def _progress_bar(remote: RemoteFile) -> 'tqdm[Any]':
    return tqdm(
        total=remote.size, desc=remote.name.rsplit('/', 1)[-1], unit='B', unit_scale=True, file=sys.stderr,
        disable=not sys.stderr.isatty(),
    )  # fmt: skip
