"""What happened to the frames of one camera, in total and since the last look."""

from dataclasses import dataclass, field
import threading
import time


@dataclass(frozen=True, slots=True)
class StreamReport:
    """The frames of one camera.

    Attributes:
        received: Frames that arrived.
        answered: Frames whose result was published.
        dropped: Frames replaced by a newer one before their turn.
        refused: Frames that could not be used.
        recently_answered: Frames answered since the last report.
        recently_refused: Frames refused since the last report.
        input_rate_hz: Frames received per second, since the last report.
        output_rate_hz: Frames answered per second, since the last report.
        max_latency_ms: Largest time from arrival to publication since the last report; None without frames.
        max_inference_ms: Largest time in the model since the last report; None without frames.
        mean_inference_ms: Mean time in the model since the last report; None without frames.
        max_age_ms: Largest age of an image's stamp at publication since the last report; None without frames.
        stuck_s: Seconds since a frame was answered or refused while others wait; 0 while none does.
        silent_s: Seconds since the last image, or since the node listens; 0 while it does not.
        is_mismatched: True if no publisher found can reach the node, for its quality of service.
        last_error: Why the last refused frame was refused; empty if there was none.
    """

    received: int
    answered: int
    dropped: int
    refused: int
    recently_answered: int
    recently_refused: int
    input_rate_hz: float
    output_rate_hz: float
    max_latency_ms: float | None
    max_inference_ms: float | None
    mean_inference_ms: float | None
    max_age_ms: float | None
    stuck_s: float
    silent_s: float
    is_mismatched: bool
    last_error: str


@dataclass
class StreamCounters:
    """Counts frames; any thread may count, one thread takes reports."""

    received: int = 0
    answered: int = 0
    dropped: int = 0
    refused: int = 0
    last_error: str = ''
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)
    _progress_s: float = 0.0
    _recent: list[tuple[float, float, float | None]] = field(default_factory=list, repr=False)
    _reported: tuple[int, int, int, float] = field(default_factory=lambda: (0, 0, 0, time.monotonic()), repr=False)

    @property
    def _pending(self) -> int:
        return self.received - self.answered - self.dropped - self.refused

    def add_received(self, is_drop: bool) -> None:
        """Count a frame that arrived; `is_drop` says that an older one was dropped for it."""
        with self._lock:
            if not self._pending:
                self._progress_s = time.monotonic()
            self.received += 1
            self.dropped += is_drop

    def add_dropped(self) -> None:
        """Count a frame that was received and given up."""
        with self._lock:
            self.dropped += 1

    def add_answer(self, latency_s: float, inference_s: float, age_s: float | None) -> None:
        """Count a frame whose result was published; `age_s` is None if the image had no stamp."""
        with self._lock:
            self._progress_s = time.monotonic()
            self.answered += 1
            self._recent.append((latency_s, inference_s, age_s))

    def add_refusal(self, reason: str) -> None:
        """Count a frame that could not be used."""
        with self._lock:
            self._progress_s = time.monotonic()
            self.refused += 1
            self.last_error = reason

    def report(self, silent_s: float = 0.0, is_mismatched: bool = False) -> StreamReport:
        """Return the totals and what happened since the last report, with what the input says of itself."""
        with self._lock:
            recent, self._recent = self._recent, []
            received, answered, refused, then_s = self._reported
            now_s = time.monotonic()
            self._reported = self.received, self.answered, self.refused, now_s
            elapsed_s = max(now_s - then_s, 1e-9)
            latency_ms, inference_ms, age_ms = (
                max((value * 1e3 for value in values if value is not None), default=None)
                for values in (zip(*recent, strict=True) if recent else ((), (), ()))
            )
            mean_inference_ms = sum(inference_s for _, inference_s, _ in recent) / len(recent) * 1e3 if recent else None
            return StreamReport(
                received=self.received,
                answered=self.answered,
                dropped=self.dropped,
                refused=self.refused,
                recently_answered=self.answered - answered,
                recently_refused=self.refused - refused,
                input_rate_hz=(self.received - received) / elapsed_s,
                output_rate_hz=(self.answered - answered) / elapsed_s,
                max_latency_ms=latency_ms,
                max_inference_ms=inference_ms,
                mean_inference_ms=mean_inference_ms,
                max_age_ms=age_ms,
                stuck_s=now_s - self._progress_s if self._pending else 0.0,
                silent_s=silent_s,
                is_mismatched=is_mismatched,
                last_error=self.last_error,
            )
