"""TensorRT engines on disk: one folder for each, whole or absent, built once for all processes.

A plan is code that TensorRT runs. Plans are loaded from this folder only, and only if this user or root wrote them.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
import errno
import fcntl
import hashlib
import json
import logging
import os
from pathlib import Path
import shutil
import tempfile
import time
from typing import Any

from fisa_ros.core.errors import BuildCancelledError, EngineCacheError
from fisa_ros.core.resources import cache_dir
from fisa_ros.runtime.engine_key import EngineKey, Machine

SIDECAR_FORMAT = 1
PLAN_FILE = 'engine.plan'
SIDECAR_FILE = 'meta.json'
_DURATIONS_FILE = 'durations.json'
_LOCKS_FOLDER = '.locks'
_STAGING_MARK = '.part-'
_DEFAULT_LIMIT_BYTES = 8 << 30
_LOCK_POLL_S = 0.1
_MIB = 1 << 20
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


class EngineCache:
    """Engines below one folder.

    Args:
        folder: Where; `$XDG_CACHE_HOME/fisa_ros/trt` by default.
        limit_bytes: Plans that were not used for longest go when all together are larger.
    """

    def __init__(self, folder: Path | None = None, limit_bytes: int = _DEFAULT_LIMIT_BYTES) -> None:
        self.folder = folder or cache_dir() / 'trt'
        self.limit_bytes = limit_bytes

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
                    self._build(digest, key, build)
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
            _write_whole(path, _json({**sidecar, 'parity': dict(parity)}))

    def discard(self, key: EngineKey) -> None:
        """Remove an engine, one that does not load for example.

        Raises:
            EngineCacheError: The folder cannot be written.
        """
        digest = key.digest()
        with self._locked(digest), storage_errors(self.folder):
            _remove(self.folder / digest)

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
        with self._locked('durations'), storage_errors(self.folder):
            _write_whole(self.folder / _DURATIONS_FILE, _json({**self._durations(), label: round(seconds, 1)}))

    def _durations(self) -> dict[str, Any]:
        try:
            document = json.loads((self.folder / _DURATIONS_FILE).read_text(encoding='utf-8'))
        except (OSError, ValueError):
            return {}
        return document if isinstance(document, dict) else {}

    def _build(self, digest: str, key: EngineKey, build: Callable[[Path], BuildRecord]) -> None:
        with storage_errors(self.folder):
            # What an interrupted build left behind: nobody else has this name while the lock is held.
            for left in self.folder.glob(f'{_STAGING_MARK}{digest}-*'):
                shutil.rmtree(left)
            staging = Path(tempfile.mkdtemp(prefix=f'{_STAGING_MARK}{digest}-', dir=self.folder))
        try:
            entry = staging / 'entry'
            with storage_errors(self.folder):
                entry.mkdir()
            record = build(entry / PLAN_FILE)
            with storage_errors(self.folder):
                self._complete(entry, digest, key, record)
                entry.rename(self.folder / digest)
                _sync(self.folder)
        finally:
            shutil.rmtree(staging, ignore_errors=True)

    def _complete(self, entry: Path, digest: str, key: EngineKey, record: BuildRecord) -> None:
        plan = entry / PLAN_FILE
        sidecar = {
            'format': SIDECAR_FORMAT,
            'key': digest,
            'fields': key.fields(),
            'plan_sha256': _sha256(plan),
            'plan_bytes': plan.stat().st_size,
            **asdict(record),
            'parity': None,
        }
        _sync(plan)
        _write_whole(entry / SIDECAR_FILE, _json(sidecar))
        for other in entry.iterdir():
            if other.name not in (PLAN_FILE, SIDECAR_FILE):
                other.unlink()
        _sync(entry)

    def _load(
        self, digest: str, key: EngineKey, *, is_new: bool = False, is_removed_if_damaged: bool = True
    ) -> CachedEngine | None:
        entry = self.folder / digest
        if not entry.exists():
            return None
        with storage_errors(self.folder):
            plan = entry / PLAN_FILE
            try:
                _check_owner(plan)
                sidecar = json.loads((entry / SIDECAR_FILE).read_text(encoding='utf-8'))
                fields = {name: sidecar[name] for name in BuildRecord.__dataclass_fields__}
                fields['build_seconds'] = float(fields['build_seconds'])
                expected = (SIDECAR_FORMAT, digest, key.fields(), plan.stat().st_size, _sha256(plan))
                if tuple(sidecar[n] for n in ('format', 'key', 'fields', 'plan_bytes', 'plan_sha256')) == expected:
                    parity = sidecar['parity'] if isinstance(sidecar['parity'], dict) else None
                    return CachedEngine(digest, plan, expected[-1], BuildRecord(**fields), parity, is_new)
                problem = 'plan and sidecar do not fit each other'
            except (FileNotFoundError, KeyError, TypeError, ValueError) as error:
                problem = repr(error)
            if is_removed_if_damaged:
                _LOG.warning('the TensorRT engine in %s is damaged and is built anew: %s', entry, problem)
                _remove(entry)
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
                if not _try_lock(file):
                    continue
                _LOG.info('removing the TensorRT engine %s: all plans are larger than %d MiB', entry.name,
                          self.limit_bytes // _MIB)  # fmt: skip
                _remove(entry)
            total -= size

    @contextmanager
    def _locked(self, name: str, is_cancelled: Callable[[], bool] = lambda: False) -> Iterator[None]:
        """Hold the lock of a name; the kernel frees it when the process ends, however it ends."""
        with self._lock_file(name) as file:
            is_waiting = False
            while not _try_lock(file):
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


def _free_mib(folder: Path) -> int:
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    return shutil.disk_usage(existing).free // _MIB


def _check_owner(plan: Path) -> None:
    owner = plan.stat().st_uid
    if owner not in (os.geteuid(), 0):
        raise ValueError(f'it belongs to user {owner}, not to {os.geteuid()}')


def _try_lock(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _remove(entry: Path) -> None:
    """Remove a folder so that it is never seen in part."""
    if entry.exists():
        trash = Path(tempfile.mkdtemp(prefix=f'{_STAGING_MARK}{entry.name}-', dir=entry.parent))
        entry.rename(trash / 'entry')
        shutil.rmtree(trash)


def _write_whole(path: Path, text: str) -> None:
    """Write a file so that it is never seen in part, not even after a power cut."""
    part = path.with_name(f'{_STAGING_MARK}{path.name}')
    try:
        with part.open('w', encoding='utf-8') as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError:
        part.unlink(missing_ok=True)
        raise


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sha256(path: Path) -> str:
    with path.open('rb') as file:
        return hashlib.file_digest(file, 'sha256').hexdigest()


def _json(document: Mapping[str, Any]) -> str:
    return json.dumps(document, indent=1) + '\n'
