"""Text embeddings, kept in memory and on disk: encoding a name costs far more than reading it."""

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from contextlib import suppress
import hashlib
import json
import logging
import os
from pathlib import Path
import tempfile
import threading

import numpy as np
from numpy.typing import NDArray

from fisa_ros.core.manifest import ModelManifest

_log = logging.getLogger('fisa_ros.text_cache')
_FORMAT = 1
_DTYPE = np.dtype('<f4')
_DIGEST_BYTES = hashlib.sha256().digest_size


class TextEmbeddingCache:
    """Embeddings of names by one text encoder with one set of prompt templates; may be used by several threads.

    On disk there is one file for each name: its sha256, then the numbers. Files appear whole or not at all, so several
    processes may share a folder, and a file that does not fit its sum counts as absent.
    """

    def __init__(self, folder: Path | None, embedding_dim: int, max_in_memory: int = 8192) -> None:
        """Start with what the folder holds.

        Args:
            folder: Where the files are; None keeps embeddings in memory only.
            embedding_dim: Length D of an embedding.
            max_in_memory: Number of names kept in memory; the longest unused goes first.
        """
        self._folder = folder
        self._embedding_dim = embedding_dim
        self._max_in_memory = max_in_memory
        self._memory: OrderedDict[str, NDArray[np.float32]] = OrderedDict()
        self._lock = threading.Lock()
        self._is_writable = True

    def get(self, names: Iterable[str]) -> dict[str, NDArray[np.float32]]:
        """Return the `(D,)` float32 embeddings of those names that are known."""
        found: dict[str, NDArray[np.float32]] = {}
        for name in names:
            with self._lock:
                embedding = self._memory.get(name)
            if embedding is None:
                embedding = self._read(name)
            if embedding is not None:
                found[name] = embedding
        self._remember(found)
        return found

    def put(self, embeddings: Mapping[str, NDArray[np.float32]]) -> None:
        """Keep the `(D,)` float32 embeddings of names."""
        self._remember(embeddings)
        for name, embedding in embeddings.items():
            self._write(name, embedding)

    def _remember(self, embeddings: Mapping[str, NDArray[np.float32]]) -> None:
        with self._lock:
            for name, embedding in embeddings.items():
                self._memory[name] = embedding
                self._memory.move_to_end(name)
            while len(self._memory) > self._max_in_memory:
                self._memory.popitem(last=False)

    def _read(self, name: str) -> NDArray[np.float32] | None:
        folder = self._folder
        if folder is None:
            return None
        path = _path(folder, name)
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            _log.warning('cannot read text cache %s: %s; embeddings stay in memory', folder, error)
            self._folder = None
            return None
        digest, numbers = content[:_DIGEST_BYTES], content[_DIGEST_BYTES:]
        if digest != _digest(name, numbers) or len(numbers) != self._embedding_dim * _DTYPE.itemsize:
            _log.warning('text cache file %s is damaged, encoding %r again', path, name)
            return None
        return np.frombuffer(numbers, _DTYPE).astype(np.float32)

    def _write(self, name: str, embedding: NDArray[np.float32]) -> None:
        folder = self._folder
        if folder is None or not self._is_writable:
            return
        numbers = embedding.astype(_DTYPE).tobytes()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            _write_whole(_path(folder, name), _digest(name, numbers) + numbers)
        except OSError as error:
            self._is_writable = False
            _log.warning('cannot write text cache %s: %s; embeddings stay in memory', folder, error)


def text_cache_folder(cache_dir: Path, manifest: ModelManifest) -> Path:
    """Return the folder for the embeddings of a model; another one as soon as anything that shapes them changes."""
    description = {
        'format': _FORMAT,
        'text_encoder': manifest.text_encoder,
        'prompt_templates': manifest.prompt_templates,
        'weights': manifest.weights.sha256,
    }
    key = hashlib.sha256(json.dumps(description, sort_keys=True, default=str).encode()).hexdigest()
    return cache_dir / 'text' / key[:32]


def _path(folder: Path, name: str) -> Path:
    return folder / f'{hashlib.sha256(name.encode()).hexdigest()[:32]}.bin'


def _digest(name: str, numbers: bytes) -> bytes:
    return hashlib.sha256(name.encode() + b'\0' + numbers).digest()


def _write_whole(path: Path, content: bytes) -> None:
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix='.', suffix='.part')
    try:
        with os.fdopen(descriptor, 'wb') as file:
            file.write(content)
        Path(temporary).replace(path)
    except OSError:
        with suppress(OSError):
            Path(temporary).unlink()
        raise
