"""What is there of a model on this machine, and what is still to do."""

from dataclasses import dataclass
from enum import StrEnum
import json
import math
from pathlib import Path

from fisa_ros.core.manifest import ModelManifest, are_assembled, download_command
from fisa_ros.core.model_sources import source_files
from fisa_ros.runtime.graph_files import export_command
from fisa_ros.runtime.model_store import (
    ModelRecord,
    are_sources_there,
    are_weights_of_sources,
    record_key,
    source_folder,
)

_MAX_HEADER_BYTES = 100 << 20


class State(StrEnum):
    """How far a model is."""

    SHIPPED = 'shipped'
    ASSEMBLED = 'assembled'
    OUTDATED = 'outdated'
    DOWNLOADED = 'downloaded'
    MISSING = 'missing'


@dataclass(frozen=True, slots=True)
class ModelState:
    """What is there of a model.

    Attributes:
        state: `shipped` or put there by hand, `assembled` from its sources, `outdated` where the sources or the
            manifest have changed since, only `downloaded`, or `missing`.
        bytes_present: Length of all its files that are there, parts of files among them.
        bytes_to_download: Length of the source files that are not there; None where that of one is not known.
        parameters: How many numbers its weights have; None without weights.
        next_command: What to run next.
    """

    state: State
    bytes_present: int
    bytes_to_download: int | None
    parameters: int | None
    next_command: str


def model_state(manifest: ModelManifest, record: ModelRecord) -> ModelState:
    """Look at the files of a model; none is read whole."""
    weights = manifest.weights.path
    state = _state(manifest, record)
    present, missing = 0, []
    for source, file in source_files(manifest.sources):
        path = source_folder(manifest, source) / file.name
        if path.is_file() and record_key(source, file) in record.files:
            present += path.stat().st_size
        else:
            missing.append(file.size)
            present += sum(part.stat().st_size for part in path.parent.glob(f'.{path.name}.*.part'))
    sizes = [size for size in missing if size is not None]
    has_weights = state in (State.SHIPPED, State.ASSEMBLED, State.OUTDATED)
    is_done = state in (State.SHIPPED, State.ASSEMBLED)
    return ModelState(
        state,
        present + (weights.stat().st_size if has_weights else 0),
        0 if is_done else sum(sizes) if len(sizes) == len(missing) else None,
        count_numbers(weights) if has_weights else None,
        _next_command(manifest, is_done=is_done),
    )


def count_numbers(path: Path) -> int | None:
    """Return how many numbers a file of safetensors has, from its header; None if it is no such file."""
    try:
        with path.open('rb') as file:
            length = int.from_bytes(file.read(8), 'little')
            if length > _MAX_HEADER_BYTES:
                return None
            header = json.loads(file.read(length))
        return int(sum(math.prod(entry['shape']) for name, entry in header.items() if name != '__metadata__'))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _state(manifest: ModelManifest, record: ModelRecord) -> State:
    if manifest.weights.path.is_file():
        if not are_assembled(manifest):
            return State.SHIPPED
        # What somebody else put there has no record.
        is_current = record.weights is None or are_weights_of_sources(manifest, record)
        return State.ASSEMBLED if is_current else State.OUTDATED
    return State.DOWNLOADED if are_sources_there(manifest, record) else State.MISSING


def _next_command(manifest: ModelManifest, *, is_done: bool) -> str:
    if is_done:
        return export_command(manifest)
    if manifest.sources:
        return download_command(manifest)
    return f'{export_command(manifest)} --random-weights'
