"""Fetching the sources of a model from the hub or from a folder, and checking that they are what they should be."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
import logging
import os
from pathlib import Path
import shutil

from fisa_ros.core.errors import DownloadError
from fisa_ros.core.manifest import ModelManifest, file_sha256
from fisa_ros.core.model_sources import ModelSource, SourceFile, file_url, source_files
from fisa_ros.runtime.hub_files import Hub, RemoteFile
from fisa_ros.runtime.model_store import (
    FileRecord,
    ModelRecord,
    are_weights_of_sources,
    read_record,
    record_key,
    source_folder,
    utc_time,
    write_record,
)
from fisa_ros.runtime.resumed_download import fetch, part_path, told_of_disk

# Beyond what is needed, so that the disk is not filled to the last byte.
_SPARE_BYTES = 64 << 20
_LOG = logging.getLogger('fisa_ros.models')


@dataclass(frozen=True, slots=True)
class _Wanted:
    """A file of a source, where it goes, and what it was when it was first fetched from there."""

    source: ModelSource
    file: SourceFile
    target: Path
    known: FileRecord | None

    @property
    def origin(self) -> str:
        return f'{self.source.repo}@{self.source.revision}/{self.file.name}'

    @property
    def is_there(self) -> bool:
        expected = self.file.sha256 or (self.known and self.known.sha256)
        return bool(expected) and self.target.is_file() and file_sha256(self.target) == expected


def fetch_sources(manifest: ModelManifest, hub: Hub, *, mirror: Path | None = None, force: bool = False) -> ModelRecord:
    """Fetch every file of the sources of a model that is not there yet; call it within `locked`.

    A file must have the sum that the manifest tells and that which the hub tells; where the manifest tells none, that
    of the first time it was fetched. Those that are there stay until all that replace them are here.

    Args:
        manifest: The model; it must have sources.
        hub: Where they are.
        mirror: Folder to take them from instead: `<owner>/<name>/<file>` in it, or `<file>`.
        force: Fetch all anew and accept other files than at the first time.

    Returns:
        The record of all that is there now.

    Raises:
        DownloadError: A file cannot be fetched or is the wrong one; what was fetched before is not fetched again.
    """
    if mirror is not None and not mirror.is_dir():
        raise DownloadError(f'--from {mirror} is not a folder')
    record = read_record(manifest)
    files = [_wanted(manifest, record, source, file) for source, file in source_files(manifest.sources)]
    missing = [entry for entry in files if force or not entry.is_there]
    for entry in files:
        if entry not in missing and entry.known is None:
            # It has the sum that the manifest tells, wherever it came from.
            url, size = file_url(hub.endpoint, entry.source, entry.file), entry.target.stat().st_size
            _note(
                manifest,
                record,
                entry,
                FileRecord(entry.origin, url, None, size, str(entry.file.sha256), utc_time(), is_told=True),
            )
    for entry in files:
        # Copies that were begun are not continued, and take space.
        with told_of_disk(entry.target):
            _copied_path(entry).unlink(missing_ok=True)
    # Old weights stay until the new ones are whole.
    is_to_assemble = bool(missing) or not are_weights_of_sources(manifest, record)
    if mirror is not None:
        found = _find_in_mirror(mirror, missing, [entry.file.name for entry in files])
        sizes = {entry.target: path.stat().st_size for entry, path in zip(missing, found, strict=True)}
        copied = sum(path.stat().st_size for path in found if not _is_same_disk(path, manifest))
        _check_space(manifest, copied, _bytes_of(files, sizes) if is_to_assemble else 0)
        arriving = (_copy(entry, path, force=force) for entry, path in zip(missing, found, strict=True))
    else:
        remotes = [hub.describe(entry.source, entry.file) for entry in missing]
        for entry, remote in zip(missing, remotes, strict=True):
            _check(entry, remote.size, remote.sha256, force=force)
        sizes = {entry.target: remote.size or 0 for entry, remote in zip(missing, remotes, strict=True)}
        begun = sum(_bytes_begun(entry, remote) for entry, remote in zip(missing, remotes, strict=True))
        _check_space(manifest, sum(sizes.values()) - begun, _bytes_of(files, sizes) if is_to_assemble else 0)
        arriving = (_fetch(hub, entry, remote, force=force) for entry, remote in zip(missing, remotes, strict=True))
    replacements = []
    for entry, (part, file) in zip(missing, arriving, strict=True):
        if entry.target.exists():
            replacements.append((entry, part, file))
        else:
            _keep(manifest, record, entry, part, file)
    for entry, part, file in replacements:
        _keep(manifest, record, entry, part, file)
    _remove_unlisted(manifest, record)
    return record


def _wanted(manifest: ModelManifest, record: ModelRecord, source: ModelSource, file: SourceFile) -> _Wanted:
    entry = _Wanted(source, file, source_folder(manifest, source) / file.name, None)
    known = record.files.get(record_key(source, file))
    # Another repository or revision may well have another file.
    return _Wanted(source, file, entry.target, known if known and known.origin == entry.origin else None)


def _fetch(hub: Hub, entry: _Wanted, remote: RemoteFile, *, force: bool) -> tuple[Path, FileRecord]:
    _LOG.info('fetching %s', remote.url)
    part, sha256 = fetch(hub, remote, entry.target)
    size = part.stat().st_size
    try:
        if remote.sha256 not in (None, sha256):
            raise DownloadError(
                f'{remote.name} came damaged and was removed: its sha256 is {sha256}, {hub.endpoint} told '
                f'{remote.sha256}; try again'
            )
        _check(entry, size, sha256, force=force)
    except DownloadError:
        part.unlink()
        raise
    is_told = entry.file.sha256 is not None or remote.sha256 is not None
    return part, FileRecord(entry.origin, remote.url, remote.revision, size, sha256, utc_time(), is_told=is_told)


def _copy(entry: _Wanted, path: Path, *, force: bool) -> tuple[Path, FileRecord]:
    _LOG.info('taking %s', path)
    part = _copied_path(entry)
    with told_of_disk(part):
        part.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(path, part)
        except OSError:
            shutil.copyfile(path, part)
    sha256, size = file_sha256(part), part.stat().st_size
    try:
        _check(entry, size, sha256, force=force)
    except DownloadError:
        part.unlink()
        raise
    is_told = entry.file.sha256 is not None
    return part, FileRecord(entry.origin, path.as_uri(), None, size, sha256, utc_time(), is_told=is_told)


def _copied_path(entry: _Wanted) -> Path:
    return entry.target.with_name(f'.{entry.target.name}.copy.part')


def _keep(manifest: ModelManifest, record: ModelRecord, entry: _Wanted, part: Path, found: FileRecord) -> None:
    """Give a file its name and note where it came from."""
    with told_of_disk(entry.target):
        part.replace(entry.target)
        # A link to the same file is not renamed.
        part.unlink(missing_ok=True)
    _note(manifest, record, entry, found)


def _note(manifest: ModelManifest, record: ModelRecord, entry: _Wanted, found: FileRecord) -> None:
    record.files[record_key(entry.source, entry.file)] = found
    with told_of_disk(entry.target):
        write_record(manifest, record)


def _remove_unlisted(manifest: ModelManifest, record: ModelRecord) -> None:
    """Remove what an earlier manifest listed and this one does not: it could be taken for the checkpoint."""
    listed = source_files(manifest.sources)
    targets = {source_folder(manifest, source) / file.name for source, file in listed}
    for source in manifest.sources.values():
        for path in sorted(source_folder(manifest, source).rglob('*')):
            if path.is_file() and path not in targets:
                _LOG.info('removing %s, which the manifest does not list', path)
                with told_of_disk(path):
                    path.unlink()
    keys = {record_key(source, file) for source, file in listed}
    if surplus := set(record.files) - keys:
        for key in surplus:
            del record.files[key]
        with told_of_disk(manifest.folder):
            write_record(manifest, record)


def _check(entry: _Wanted, size: int | None, sha256: str | None, *, force: bool) -> None:
    """Refuse a file of the wrong size or sum; what is not known yet is None."""
    file, known = entry.file, entry.known
    name = f'{entry.source.repo}/{file.name}'
    if size is not None and file.size not in (None, size):
        raise DownloadError(f'{name} is not what the manifest names: it has {size} bytes instead of {file.size}')
    if sha256 is not None and file.sha256 not in (None, sha256):
        raise DownloadError(f'{name} is not what the manifest names: its sha256 is {sha256} instead of {file.sha256}')
    if sha256 is not None and file.sha256 is None and known and known.sha256 != sha256 and not force:
        raise DownloadError(
            f'{name} is another file than on {known.date}: its sha256 is {sha256}, it was {known.sha256}; if that is '
            'as it should be, add --force'
        )


def _find_in_mirror(mirror: Path, missing: Sequence[_Wanted], names: Sequence[str]) -> list[Path]:
    found, lost = [], []
    for entry in missing:
        name = entry.file.name
        places = [mirror / entry.source.repo / name]
        # Without the repository, a name says which file is meant only if it is the only one.
        if names.count(name) == 1:
            places.append(mirror / name)
        path = next((place for place in places if place.is_file()), None)
        if path is None:
            lost.append(' or '.join(map(str, places)))
        else:
            found.append(path.resolve())
    if lost:
        raise DownloadError(f'missing in the folder of --from: {"; ".join(lost)}')
    return found


def _is_same_disk(path: Path, manifest: ModelManifest) -> bool:
    return path.stat().st_dev == manifest.folder.stat().st_dev


def _bytes_begun(entry: _Wanted, remote: RemoteFile) -> int:
    part = part_path(entry.target, remote)
    return part.stat().st_size if part.is_file() else 0


def _bytes_of(files: Sequence[_Wanted], sizes: Mapping[Path, int]) -> int:
    """Return how long all files of a model are together; `sizes` are those of the missing ones."""
    return sum(sizes[entry.target] if entry.target in sizes else entry.target.stat().st_size for entry in files)


def _check_space(manifest: ModelManifest, fetched_bytes: int, weights_bytes: int) -> None:
    """Refuse to begin what the disk has no space for; weights are about as long as what they are made of.

    Raises:
        DownloadError: There is too little space.
    """
    folder = manifest.folder
    needed = fetched_bytes + weights_bytes
    free = shutil.disk_usage(folder).free
    if needed and needed + _SPARE_BYTES > free:
        raise DownloadError(
            f'{manifest.name} needs {needed / 1e9:.2f} GB in {folder}, {fetched_bytes / 1e9:.2f} GB of them to fetch, '
            f'and {free / 1e9:.2f} GB are free: make space, or name another folder in FISA_ROS_MODELS'
        )
