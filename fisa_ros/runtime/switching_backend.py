"""Serves with one back-end while a better one is made ready, then with that one, and again without it if it fails."""

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

# Frames in a row that the better back-end may fail; one alone may be a frame that it cannot take.
MAX_FAILED_FRAMES = 5
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

    @property
    def is_lost(self) -> bool:
        """Whether the better one served and failed."""
        return self.build.state is BuildState.LOST

    def describe(self) -> str:
        """Say it in one line."""
        return f'{self.name} on {self.device} serves; {self.build.describe()}'


class _InUse:
    """A back-end, how many calls are in it, and whether it shall be closed when they have ended."""

    def __init__(self, backend: Backend, *, is_better: bool = False) -> None:
        self.backend, self.is_better = backend, is_better
        self.calls = self.failed_frames = 0
        self.is_retired = self.is_lost = False

    def close(self) -> None:
        if self.is_lost:
            # What failed may not come back from being freed either.
            threading.Thread(target=self._close_lost, name='close lost back-end', daemon=True).start()
        else:
            self.backend.close()

    def _close_lost(self) -> None:
        try:
            self.backend.close()
        except Exception:
            _LOG.warning('%s, which failed, could not be freed', self.backend.name, exc_info=True)


class SwitchingBackend:
    """A back-end that changes under its users: between two calls, never within one.

    A better one that fails `MAX_FAILED_FRAMES` frames in a row with an `EngineError` is given up: the fallback is
    opened anew and answers the last of these frames. The better one is not used again.

    Args:
        open_fallback: Opens the back-end that serves from the start; it is closed after the switch.
        prepare: Makes the better one, in a thread of its own, and has told `progress` that it verifies it.
        progress: Told how it ends.
        max_classes: Most classes that the better one will take; None if there is no limit.
        on_lost: Told why the better one was given up.
    """

    def __init__(
        self,
        open_fallback: Callable[[], Backend],
        prepare: Prepare,
        progress: BuildProgress,
        *,
        max_classes: int | None = None,
        on_lost: Callable[[str], None] = lambda reason: None,
    ) -> None:
        fallback = open_fallback()
        self.image_size_hw = fallback.image_size_hw
        self.embedding_dim = fallback.embedding_dim
        self.num_semantic_tokens = fallback.num_semantic_tokens
        # Of both, so that no switch meets a vocabulary that it cannot serve.
        self.max_classes = min((limit for limit in (fallback.max_classes, max_classes) if limit), default=None)
        self._current = _InUse(fallback)
        self._open_fallback, self._prepare = open_fallback, prepare
        self._progress, self._on_lost = progress, on_lost
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
        return self._run_frame(lambda backend: backend.segment(image, state, thresholds))

    def segment_timed(
        self, image: NDArray[np.uint8], state: VocabularyState, thresholds: Thresholds
    ) -> tuple[RawSegmentation, Mapping[str, float]]:
        """See `TimedBackend.segment_timed`."""
        return self._run_frame(lambda backend: segment_timed(backend, image, state, thresholds))

    def encode_text(self, sentences: Sequence[str]) -> NDArray[np.float32]:
        """See `Backend.encode_text`."""
        with self._borrowed() as used:
            return used.backend.encode_text(sentences)

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
        if self._use(_InUse(backend, is_better=True), BuildState.READY, summary):
            _LOG.info('%s on %s serves from now on: %s', backend.name, backend.device, summary)
        else:
            self._progress.enter(BuildState.CANCELLED, 'closed before it was ready')

    def _give_up(self, reason: str) -> None:
        backend = self._current.backend
        _LOG.warning('%s on %s goes on serving: %s', backend.name, backend.device, reason)
        self._progress.enter(BuildState.FAILED, reason)

    def _check(self, backend: Backend) -> None:
        for name in ('image_size_hw', 'embedding_dim', 'num_semantic_tokens'):
            found, expected = getattr(backend, name), getattr(self, name)
            if found != expected:
                raise EngineError(f'{name} of back-end {backend.name!r} is {found}, that of the other is {expected}')

    def _run_frame[Found](self, work: Callable[[Backend], Found]) -> Found:
        with self._borrowed() as used:
            try:
                found = work(used.backend)
            except EngineError as error:
                used.failed_frames += used.is_better
                if used.failed_frames < MAX_FAILED_FRAMES or self._stop.is_set():
                    raise
                cause = error
            else:
                used.failed_frames = 0
                return found
        # No call is in it any more, so it can be closed.
        self._fall_back(used, f'{used.backend.name} failed {MAX_FAILED_FRAMES} frames in a row, at last so: {cause}')
        with self._borrowed() as used:
            return work(used.backend)

    def _fall_back(self, lost: _InUse, reason: str) -> None:
        """Serve without the better back-end from now on.

        Raises:
            EngineError: The fallback cannot be opened; that is tried again after as many frames as before.
        """
        lost.failed_frames, lost.is_lost = 0, True
        self._on_lost(reason)
        try:
            fallback = self._open_fallback()
        except Exception as error:
            reason = f'{reason}; and what could serve instead cannot be opened: {error}'
            _LOG.exception('%s', reason)
            self._progress.enter(BuildState.LOST, reason)
            raise EngineError(reason) from error
        if not self._use(_InUse(fallback), BuildState.LOST, reason):
            raise EngineError(reason)
        _LOG.error('%s on %s serves until the node is started again: %s', fallback.name, fallback.device, reason)

    def _use(self, new: _InUse, state: BuildState, reason: str) -> bool:
        """Serve with another back-end from now on, or close it if nobody wants it; return whether it serves."""
        with self._lock:
            is_wanted = not self._stop.is_set()
            old = new
            if is_wanted:
                self._progress.enter(state, reason)
                old, self._current = self._current, new
        self._retire(old)
        return is_wanted

    @contextmanager
    def _borrowed(self) -> Iterator[_InUse]:
        with self._lock:
            used = self._current
            used.calls += 1
        try:
            yield used
        finally:
            with self._lock:
                used.calls -= 1
                is_last = used.is_retired and not used.calls
            if is_last:
                used.close()

    def _retire(self, used: _InUse) -> None:
        """Close a back-end as soon as no call is in it."""
        with self._lock:
            is_free = not used.is_retired and not used.calls
            used.is_retired = True
        if is_free:
            used.close()
