"""Where the files of models that are not shipped lie, and the record of where each came from."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
import fcntl
import hashlib
import json
import logging
from pathlib import Path
from typing import Any

from fisa_ros.core.errors import DownloadError
from fisa_ros.core.manifest import ModelManifest, file_sha256, weights_recipe
from fisa_ros.core.model_sources import ModelSource, SourceFile, source_files
from fisa_ros.core.weights_sum import forget_sum, note_sum
from fisa_ros.runtime.engine_storage import try_lock, write_json

RECORD_FILE = 'sources.json'
_LOCK_FILE = '.lock'
_FORMAT = 1
# To be raised whenever the same sources give other weights than before.
_ASSEMBLY = 1
_LOG = logging.getLogger('fisa_ros.models')


@dataclass(frozen=True, slots=True)
class FileRecord:
    """Where a file came from and what it was.

    Attributes:
        origin: What the manifest asked for, `owner/name@revision/file`.
        url: Where it was.
        revision: The commit, where the server told it.
        size: Its length in bytes.
        sha256: Its sum.
        date: When it was fetched, as ISO 8601 in UTC.
        is_told: Whether the manifest or the hub told its sum; if not, it may have come damaged.
    """

    origin: str
    url: str
    revision: str | None
    size: int
    sha256: str
    date: str
    is_told: bool = False


@dataclass(frozen=True, slots=True)
class WeightsRecord:
    """What weights were put together from.

    Attributes:
        made_of: Sum of each file of the sources, by `record_key`, and of the manifest's `weights_recipe`.
        sha256: Sum of the weights.
        date: When, as ISO 8601 in UTC.
    """

    made_of: Mapping[str, str]
    sha256: str
    date: str


@dataclass
class ModelRecord:
    """What `sources.json` of one model says.

    Attributes:
        files: The files of its sources, by `record_key`.
        weights: The weights; None before they are put together.
    """

    files: dict[str, FileRecord]
    weights: WeightsRecord | None


def assembled_path(manifest: ModelManifest) -> Path:
    """Return where the weights of a model go that are put together from its sources."""
    return manifest.folder / manifest.weights.path.name


def source_folder(manifest: ModelManifest, source: ModelSource) -> Path:
    """Return the folder of the files of one source."""
    return manifest.folder / 'sources' / source.part


def record_key(source: ModelSource, file: SourceFile) -> str:
    """Return what a file is called in the record."""
    return f'{source.part}/{file.name}'


def read_record(manifest: ModelManifest) -> ModelRecord:
    """Read the record of a model; what cannot be read counts as nothing, with a warning."""
    path = manifest.folder / RECORD_FILE
    try:
        document = json.loads(path.read_text(encoding='utf-8'))
        if document['format'] != _FORMAT:
            raise ValueError(f'format {document["format"]!r}, this version reads {_FORMAT}')
        files = {key: FileRecord(**entry) for key, entry in document['files'].items()}
        weights = WeightsRecord(**document['weights']) if document['weights'] else None
    except FileNotFoundError:
        return ModelRecord({}, None)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        _LOG.warning('%s cannot be read, so what was fetched before is unknown: %s', path, error)
        return ModelRecord({}, None)
    return ModelRecord(files, weights)


def write_record(manifest: ModelManifest, record: ModelRecord) -> None:
    """Write the record of a model.

    Raises:
        OSError: It cannot be written; the earlier one stays.
    """
    path = manifest.folder / RECORD_FILE
    document: dict[str, Any] = {'format': _FORMAT, 'model': manifest.name, **asdict(record)}
    write_json(path, document)


def are_sources_there(manifest: ModelManifest, record: ModelRecord) -> bool:
    """Tell whether every file of the sources is there, as long as it was when it was recorded."""
    for source, file in source_files(manifest.sources):
        path = source_folder(manifest, source) / file.name
        known = record.files.get(record_key(source, file))
        if known is None or not path.is_file() or path.stat().st_size != known.size:
            return False
    return bool(manifest.sources)


def are_weights_of_sources(manifest: ModelManifest, record: ModelRecord) -> bool:
    """Tell whether weights are there that were made of the recorded sources, as they would be now; reads no file."""
    weights = record.weights
    return weights is not None and weights.made_of == _sums(manifest, record) and assembled_path(manifest).is_file()


def are_weights_current(manifest: ModelManifest, record: ModelRecord) -> bool:
    """Tell whether the weights are there, undamaged, that were made of the sources that are there now."""
    if record.weights is None or not are_weights_of_sources(manifest, record):
        return False
    return file_sha256(assembled_path(manifest)) == record.weights.sha256


def keep_weights(manifest: ModelManifest, record: ModelRecord, made: Path) -> None:
    """Put weights in place that were made of the sources that are there, and note that; the old ones stay until then.

    Args:
        manifest: The model.
        record: Its record.
        made: The weights, on the disk of the model's folder; moved.

    Raises:
        OSError: They cannot be moved, or the note cannot be written.
    """
    path = assembled_path(manifest)
    # It takes seconds, in which the note of the old weights must still be that of the weights that are there.
    sha256 = file_sha256(made)
    # Without one, new weights are summed when they are looked at; that of the old ones would call them damaged.
    forget_sum(path)
    made.replace(path)
    note_sum(path, sha256)
    record.weights = WeightsRecord(_sums(manifest, record), sha256, utc_time())
    write_record(manifest, record)


def forget_untold(manifest: ModelManifest, record: ModelRecord) -> list[str]:
    """Forget the files whose sum nobody told, so that they are fetched again; return their keys."""
    keys = [key for key, file in record.files.items() if not file.is_told]
    for key in keys:
        del record.files[key]
    # They come again with --force in any case.
    with suppress(OSError):
        write_record(manifest, record)
    return keys


def utc_time() -> str:
    """Return the time as ISO 8601 in UTC."""
    return datetime.now(UTC).isoformat(timespec='seconds')


def _sums(manifest: ModelManifest, record: ModelRecord) -> dict[str, str]:
    """Return the sum of all that decides what the weights are."""
    keys = [record_key(source, file) for source, file in source_files(manifest.sources)]
    recipe = weights_recipe(manifest.generator, manifest.classifier, manifest.text_encoder, manifest.sources)
    sum_of_recipe = hashlib.sha256(json.dumps([_ASSEMBLY, recipe]).encode()).hexdigest()
    return {'recipe': sum_of_recipe} | {key: record.files[key].sha256 for key in keys if key in record.files}


@contextmanager
def locked(manifest: ModelManifest) -> Iterator[None]:
    """Keep other processes from changing the files of a model; waits for those that do.

    Raises:
        DownloadError: The folder of the model cannot be written.
    """
    folder = manifest.folder
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / _LOCK_FILE).open('w')
    except OSError as error:
        raise DownloadError(
            f'{folder} cannot be made or written: {error.strerror}; FISA_ROS_MODELS names another folder for models'
        ) from error
    with file:
        if not try_lock(file.fileno()):
            _LOG.info('another process is fetching %s: waiting for it', manifest.name)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
