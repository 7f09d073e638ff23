"""TensorRT engines on disk: one folder for each, whole or absent, built once for all processes.

A plan is code that TensorRT runs. Plans are loaded from this folder only, and only if this user or root wrote them.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
import json
import logging
import os
from pathlib import Path
import re
import shutil
import tempfile
import time
from typing import Any

from fisa_ros.core.errors import BuildCancelledError, EngineCacheError, EngineRefusedError
from fisa_ros.core.resources import cache_dir
from fisa_ros.core.unfinished_file import sync
from fisa_ros.core.weights_sum import sha256_of
from fisa_ros.runtime.engine_key import EngineKey, Machine
from fisa_ros.runtime.engine_storage import (
    MIB,
    STAGING_MARK,
    check_owner,
    remove_folder,
    storage_errors,
    try_lock,
    write_json,
)

SIDECAR_FORMAT = 1
PLAN_FILE = 'engine.plan'
SIDECAR_FILE = 'meta.json'
_REFUSAL_SUFFIX = '.failed.json'
_DURATIONS_FILE = 'durations.json'
_DURATIONS_LOCK = 'durations'
_LOCKS_FOLDER = '.locks'
_DEFAULT_LIMIT_BYTES = 8 << 30
_LOCK_POLL_S = 0.1
_LEFTOVER_AGE_S = 86400.0
_LOG = logging.getLogger('fisa_ros.engine_cache')


@dataclass(frozen=True, slots=True)
class BuildRecord:
    """How an engine came to be.

    Attributes:
        build_seconds: How long it took.
        half_layer_share: Share of the layers in [0, 1] that give half precision; None if nobody looked.
        notes: What else the builder said.
    """

    build_seconds: float
    half_layer_share: float | None = None
    notes: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class CachedEngine:
    """An engine in the cache.

    Attributes:
        digest: Sum of its key.
        plan_path: The plan.
        plan_sha256: Sum of the plan.
        record: How it came to be.
        parity: What the parity gate said of it, as `record_verdict` got it; None before it was asked.
        is_new: Whether it was built just now.
    """

    digest: str
    plan_path: Path
    plan_sha256: str
    record: BuildRecord
    parity: Mapping[str, Any] | None
    is_new: bool


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why an engine is not to be had, remembered so that nobody waits for it again.

    Attributes:
        reason: In one line.
        conditions: Names and values of all that it depends on besides the key of the engine.
        refused_at: When, in the form of ISO 8601.
    """

    reason: str
    conditions: Mapping[str, str]
    refused_at: str

    def describe(self) -> str:
        """Say it in one line."""
        return f'{self.reason} (since {self.refused_at}; build_engines --retry tries it again)'


class EngineCache:
    """Engines below one folder.

    What a build that crashed left behind goes when the cache is opened, a day later.

    Args:
        folder: Where; `$XDG_CACHE_HOME/fisa_ros/trt` by default.
        limit_bytes: Plans that were not used for longest go when all together are larger.
    """

    def __init__(self, folder: Path | None = None, limit_bytes: int = _DEFAULT_LIMIT_BYTES) -> None:
        self.folder = folder or cache_dir() / 'trt'
        self.limit_bytes = limit_bytes
        self._sweep()

    def load_or_build(
        self,
        key: EngineKey,
        build: Callable[[Path], BuildRecord],
        is_cancelled: Callable[[], bool] = lambda: False,
    ) -> CachedEngine:
        """Return the engine of a key; where there is none, or a broken one, build it.

        While another process builds it, this one waits and then loads.

        Args:
            key: Of which engine.
            build: Called with the path of the plan to write; its folder is for this build alone.
            is_cancelled: Asked while waiting for another process.

        Raises:
            EngineRefusedError: The builder cannot make it, which is remembered, or could not the last time.
            EngineCacheError: The folder cannot be written, or the disk is full.
            BuildCancelledError: `is_cancelled` said so.
        """
        digest = key.digest()
        # Engines appear whole, so reading one takes no lock, nor a folder that can be written: root may have built it.
        found = self._load(digest, key, is_removed_if_damaged=False)
        if found is None:
            with self._locked(digest, is_cancelled):
                found = self._load(digest, key)
                if found is None:
                    # Of a process that this one waited for.
                    if refusal := self.refusal(key):
                        raise EngineRefusedError(refusal.describe())
                    try:
                        self._build(digest, key, build)
                    except EngineRefusedError as error:
                        self._write_refusal(key, str(error), {})
                        raise
                    found = self._load(digest, key, is_new=True)
        if found is None:
            raise EngineCacheError(f'the engine just written to {self.folder / digest} cannot be read back')
        try:
            os.utime(found.plan_path.parent / SIDECAR_FILE)
            self._evict(keep=digest)
        except (OSError, EngineCacheError) as error:
            _LOG.debug('engines that were not used for long stay: %s', error)
        return found

    def record_verdict(self, key: EngineKey, parity: Mapping[str, Any]) -> None:
        """Write into the sidecar what the parity gate said; nothing happens if the engine is gone.

        Raises:
            EngineCacheError: The folder cannot be written, or the disk is full.
        """
        digest = key.digest()
        with self._locked(digest), storage_errors(self.folder):
            path = self.folder / digest / SIDECAR_FILE
            try:
                sidecar = json.loads(path.read_text(encoding='utf-8'))
            except (FileNotFoundError, ValueError):
                return
            write_json(path, {**sidecar, 'parity': dict(parity)})

    def refusal(self, key: EngineKey, conditions: Mapping[str, str] | None = None) -> Refusal | None:
        """Return why an engine is not to be had; None if nothing of the kind is known.

        Args:
            key: Of which engine.
            conditions: What holds now; a refusal under others does not count.
        """
        try:
            document = json.loads(self._refusal_path(key).read_text(encoding='utf-8'))
            refusal = Refusal(*(document[name] for name in Refusal.__dataclass_fields__))
            is_of_key = document['key'] == key.digest()
        except (OSError, ValueError, KeyError, TypeError):
            return None
        is_valid = isinstance(refusal.reason, str) and isinstance(refusal.conditions, dict)
        return refusal if is_of_key and is_valid and refusal.conditions in ({}, conditions) else None

    def record_refusal(self, key: EngineKey, reason: str, conditions: Mapping[str, str]) -> None:
        """Remember why an engine that was built is of no use.

        Raises:
            EngineCacheError: The folder cannot be written, or the disk is full.
        """
        with self._locked(key.digest()), storage_errors(self.folder):
            self._write_refusal(key, reason, conditions)

    def forget_refusal(self, key: EngineKey) -> None:
        """Let an engine that was refused be made once more; nothing happens if it was not.

        Raises:
            EngineCacheError: The folder cannot be written.
        """
        path = self._refusal_path(key)
        if path.exists():
            with self._locked(key.digest()), storage_errors(self.folder):
                # Also where it was built: the same plan would be refused for the same reason.
                remove_folder(self.folder / key.digest())
                path.unlink(missing_ok=True)

    def discard(self, key: EngineKey) -> None:
        """Remove an engine, one that does not load for example.

        Raises:
            EngineCacheError: The folder cannot be written.
        """
        digest = key.digest()
        with self._locked(digest), storage_errors(self.folder):
            remove_folder(self.folder / digest)

    def timing_cache_path(self, machine: Machine) -> Path:
        """Return where the measurements of the builder are kept for a version of TensorRT and a GPU."""
        gpu = '-'.join([machine.gpu_name, '.'.join(map(str, machine.compute_capability)), machine.cpu_architecture])
        name = ''.join(character if character.isalnum() or character in '.-' else '_' for character in gpu)
        return self.folder / f'timing-{machine.tensorrt_version}-{name}.cache'

    def last_duration_s(self, label: str) -> float | None:
        """Return how long the last build of that label took; None if there was none."""
        duration = self._durations().get(label)
        return float(duration) if isinstance(duration, int | float) else None

    def record_duration(self, label: str, seconds: float) -> None:
        """Remember how long a build took.

        Args:
            label: What was built, and where; outlives the engine itself.
            seconds: How long.

        Raises:
            EngineCacheError: The folder cannot be written, or the disk is full.
        """
        with self._locked(_DURATIONS_LOCK), storage_errors(self.folder):
            write_json(self.folder / _DURATIONS_FILE, {**self._durations(), label: round(seconds, 1)})

    def _durations(self) -> dict[str, Any]:
        try:
            document = json.loads((self.folder / _DURATIONS_FILE).read_text(encoding='utf-8'))
        except (OSError, ValueError):
            return {}
        return document if isinstance(document, dict) else {}

    def _refusal_path(self, key: EngineKey) -> Path:
        return self.folder / f'{key.digest()}{_REFUSAL_SUFFIX}'

    def _write_refusal(self, key: EngineKey, reason: str, conditions: Mapping[str, str]) -> None:
        refusal = Refusal(reason, conditions, time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime()))
        document = {**asdict(refusal), 'key': key.digest(), 'fields': key.fields()}
        with storage_errors(self.folder):
            write_json(self._refusal_path(key), document)

    def _sweep(self) -> None:
        """Remove what crashed builds left behind, unless somebody may still be at work on it."""
        newest_s = time.time() - _LEFTOVER_AGE_S
        for left in self.folder.glob(f'{STAGING_MARK}*'):
            digest = re.search('[0-9a-f]{64}', left.name)
            try:
                with self._lock_file(digest[0] if digest else _DURATIONS_LOCK) as file:
                    if left.stat().st_mtime < newest_s and try_lock(file):
                        _LOG.info('removing what a build left behind: %s', left)
                        if left.is_dir():
                            shutil.rmtree(left)
                        else:
                            left.unlink()
            except (OSError, EngineCacheError) as error:
                _LOG.debug('%s stays: %s', left, error)

    def _build(self, digest: str, key: EngineKey, build: Callable[[Path], BuildRecord]) -> None:
        with storage_errors(self.folder):
            # What an interrupted build left behind: nobody else has this name while the lock is held.
            for left in self.folder.glob(f'{STAGING_MARK}{digest}-*'):
                shutil.rmtree(left)
            staging = Path(tempfile.mkdtemp(prefix=f'{STAGING_MARK}{digest}-', dir=self.folder))
        try:
            entry = staging / 'entry'
            with storage_errors(self.folder):
                entry.mkdir()
            record = build(entry / PLAN_FILE)
            with storage_errors(self.folder):
                self._complete(entry, digest, key, record)
                entry.rename(self.folder / digest)
                self._refusal_path(key).unlink(missing_ok=True)
                sync(self.folder)
        finally:
            shutil.rmtree(staging, ignore_errors=True)

    def _complete(self, entry: Path, digest: str, key: EngineKey, record: BuildRecord) -> None:
        plan = entry / PLAN_FILE
        sidecar = {
            'format': SIDECAR_FORMAT,
            'key': digest,
            'fields': key.fields(),
            'plan_sha256': sha256_of(plan),
            'plan_bytes': plan.stat().st_size,
            **asdict(record),
            'parity': None,
        }
        sync(plan)
        write_json(entry / SIDECAR_FILE, sidecar)
        for other in entry.iterdir():
            if other.name not in (PLAN_FILE, SIDECAR_FILE):
                other.unlink()
        sync(entry)

    def _load(
        self, digest: str, key: EngineKey, *, is_new: bool = False, is_removed_if_damaged: bool = True
    ) -> CachedEngine | None:
        entry = self.folder / digest
        if not entry.exists():
            return None
        with storage_errors(self.folder):
            plan = entry / PLAN_FILE
            try:
                check_owner(plan)
                sidecar = json.loads((entry / SIDECAR_FILE).read_text(encoding='utf-8'))
                fields = {name: sidecar[name] for name in BuildRecord.__dataclass_fields__}
                fields['build_seconds'] = float(fields['build_seconds'])
                expected = (SIDECAR_FORMAT, digest, key.fields(), plan.stat().st_size, sha256_of(plan))
                if tuple(sidecar[n] for n in ('format', 'key', 'fields', 'plan_bytes', 'plan_sha256')) == expected:
                    parity = sidecar['parity'] if isinstance(sidecar['parity'], dict) else None
                    return CachedEngine(digest, plan, expected[-1], BuildRecord(**fields), parity, is_new)
                problem = 'plan and sidecar do not fit each other'
            except (FileNotFoundError, KeyError, TypeError, ValueError) as error:
                problem = repr(error)
            if is_removed_if_damaged:
                _LOG.warning('the TensorRT engine in %s is damaged and is built anew: %s', entry, problem)
                remove_folder(entry)
        return None

    def _evict(self, keep: str) -> None:
        entries = []
        for sidecar in self.folder.glob(f'[!.]*/{SIDECAR_FILE}'):
            try:
                entries.append((sidecar.stat().st_mtime, (sidecar.parent / PLAN_FILE).stat().st_size, sidecar.parent))
            except OSError:
                # Another process removes it.
                continue
        total = sum(size for _, size, _ in entries)
        for _, size, entry in sorted(entries):
            if total <= self.limit_bytes:
                return
            if entry.name == keep:
                continue
            with storage_errors(self.folder), self._lock_file(entry.name) as file:
                if not try_lock(file):
                    continue
                _LOG.info('removing the TensorRT engine %s: all plans are larger than %d MiB', entry.name,
                          self.limit_bytes // MIB)  # fmt: skip
                remove_folder(entry)
            total -= size

    @contextmanager
    def _locked(self, name: str, is_cancelled: Callable[[], bool] = lambda: False) -> Iterator[None]:
        """Hold the lock of a name; the kernel frees it when the process ends, however it ends."""
        with self._lock_file(name) as file:
            is_waiting = False
            while not try_lock(file):
                if not is_waiting:
                    _LOG.info('another process builds the TensorRT engine %s: waiting for it', name)
                    is_waiting = True
                if is_cancelled():
                    raise BuildCancelledError('cancelled while another process builds the same TensorRT engine')
                time.sleep(_LOCK_POLL_S)
            yield

    @contextmanager
    def _lock_file(self, name: str) -> Iterator[int]:
        with storage_errors(self.folder):
            (self.folder / _LOCKS_FOLDER).mkdir(mode=0o700, parents=True, exist_ok=True)
            file = os.open(self.folder / _LOCKS_FOLDER / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            yield file
        finally:
            os.close(file)
