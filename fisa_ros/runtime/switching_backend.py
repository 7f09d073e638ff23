"""Serves with one back-end while a better one is made ready, and then with that one."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
import logging
import threading

import numpy as np
from numpy.typing import NDArray

from fisa_ros.core.errors import BuildCancelledError, EngineError, FisaError
from fisa_ros.core.thresholds import Thresholds
from fisa_ros.core.vocabulary_state import VocabularyState
from fisa_ros.runtime.backend import Backend, RawSegmentation, segment_timed
from fisa_ros.runtime.build_progress import BuildProgress, BuildState, BuildStatus

_LOG = logging.getLogger('fisa_ros.runtime')
_CLOSE_TIMEOUT_S = 30.0

# Makes the better back-end and says in a line why it can be trusted; asks its argument whether to stop.
Prepare = Callable[[Callable[[], bool]], tuple[Backend, str]]


@dataclass(frozen=True, slots=True)
class SwitchStatus:
    """What serves, and where the better back-end stands.

    Attributes:
        name: Name of the back-end that serves.
        device: Its device.
        build: Where the better one stands; its text is the verdict, or the reason why it will not come.
    """

    name: str
    device: str
    build: BuildStatus

    @property
    def is_degraded(self) -> bool:
        """Whether what serves is not what was asked for."""
        return self.build.state is not BuildState.READY

    def describe(self) -> str:
        """Say it in one line."""
        return f'{self.name} on {self.device} serves; {self.build.describe()}'


class _InUse:
    """A back-end, how many calls are in it, and whether it shall be closed when they have ended."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self.calls = 0
        self.is_retired = False


class SwitchingBackend:
    """A back-end that changes under its users: between two calls, never within one.

    Args:
        fallback: Serves from the start; owned from here on, and closed after the switch.
        prepare: Makes the better one, in a thread of its own, and has told `progress` that it verifies it.
        progress: Told how it ends.
    """

    def __init__(self, fallback: Backend, prepare: Prepare, progress: BuildProgress) -> None:
        self.image_size_hw = fallback.image_size_hw
        self.embedding_dim = fallback.embedding_dim
        self.num_semantic_tokens = fallback.num_semantic_tokens
        self._current = _InUse(fallback)
        self._prepare, self._progress = prepare, progress
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._make_ready, name='prepare back-end', daemon=True)
        self._thread.start()

    @property
    def name(self) -> str:
        """Name of the back-end that serves now."""
        return self._current.backend.name

    @property
    def device(self) -> str:
        """Device of the back-end that serves now."""
        return self._current.backend.device

    @property
    def precision(self) -> str:
        """Precision of the back-end that serves now."""
        return self._current.backend.precision

    @property
    def status(self) -> SwitchStatus:
        """What serves, and where the better one stands."""
        backend = self._current.backend
        return SwitchStatus(backend.name, backend.device, self._progress.status)

    def segment(self, image: NDArray[np.uint8], state: VocabularyState, thresholds: Thresholds) -> RawSegmentation:
        """See `Backend.segment`."""
        with self._borrowed() as backend:
            return backend.segment(image, state, thresholds)

    def segment_timed(
        self, image: NDArray[np.uint8], state: VocabularyState, thresholds: Thresholds
    ) -> tuple[RawSegmentation, Mapping[str, float]]:
        """See `TimedBackend.segment_timed`."""
        with self._borrowed() as backend:
            return segment_timed(backend, image, state, thresholds)

    def encode_text(self, sentences: Sequence[str]) -> NDArray[np.float32]:
        """See `Backend.encode_text`."""
        with self._borrowed() as backend:
            return backend.encode_text(sentences)

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until the better one is ready or will not come; return whether that is so."""
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def close(self) -> None:
        """Stop the making of the better one and free what serves; a second call does nothing."""
        self._stop.set()
        self._thread.join(_CLOSE_TIMEOUT_S)
        if self._thread.is_alive():
            _LOG.error('the making of a back-end did not stop within %.0f s', _CLOSE_TIMEOUT_S)
        self._retire(self._current)

    def _make_ready(self) -> None:
        try:
            backend, summary = self._prepare(self._stop.is_set)
        except BuildCancelledError as error:
            self._progress.enter(BuildState.CANCELLED, str(error))
            return
        except FisaError as error:
            self._give_up(str(error))
            return
        except Exception as error:
            _LOG.exception('unexpected error while a back-end was made ready')
            self._give_up(f'unexpected error, see the log: {error!r}')
            return
        try:
            self._check(backend)
        except EngineError as error:
            backend.close()
            self._give_up(str(error))
            return
        with self._lock:
            is_wanted = not self._stop.is_set()
            if is_wanted:
                self._progress.enter(BuildState.READY, summary)
                old, self._current = self._current, _InUse(backend)
            else:
                self._progress.enter(BuildState.CANCELLED, 'closed before it was ready')
                old = _InUse(backend)
        if is_wanted:
            _LOG.info('%s on %s serves from now on: %s', backend.name, backend.device, summary)
        self._retire(old)

    def _give_up(self, reason: str) -> None:
        backend = self._current.backend
        _LOG.warning('%s on %s goes on serving: %s', backend.name, backend.device, reason)
        self._progress.enter(BuildState.FAILED, reason)

    def _check(self, backend: Backend) -> None:
        for name in ('image_size_hw', 'embedding_dim', 'num_semantic_tokens'):
            found, expected = getattr(backend, name), getattr(self, name)
            if found != expected:
                raise EngineError(f'{name} of back-end {backend.name!r} is {found}, that of the other is {expected}')

    @contextmanager
    def _borrowed(self) -> Iterator[Backend]:
        with self._lock:
            used = self._current
            used.calls += 1
        try:
            yield used.backend
        finally:
            with self._lock:
                used.calls -= 1
                is_last = used.is_retired and not used.calls
            if is_last:
                used.backend.close()

    def _retire(self, used: _InUse) -> None:
        """Close a back-end as soon as no call is in it."""
        with self._lock:
            is_free = not used.is_retired and not used.calls
            used.is_retired = True
        if is_free:
            used.backend.close()
