"""Puts the parts of answered frames together as they arrive, by the stamp of the camera frame."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fisa_ros.core.results import Segment
from fisa_ros.evaluation.recording import AnsweredFrame, PanopticTruth, RunLengthMap


@dataclass(slots=True)
class _Parts:
    """What has arrived of one frame."""

    semantic_map: RunLengthMap | None = None
    panoptic_map: RunLengthMap | None = None
    segments: tuple[Segment, ...] | None = None
    vocabulary_version: int = 0
    true_map: RunLengthMap | None = None
    true_segments: tuple[Segment, ...] | None = None
    arrived_ns: int = 0
    latency_ms: float = 0.0
    is_answered: bool = False


class FrameAssembly:
    """Collects frames; one thread adds parts, others may read the counts.

    Attributes:
        duplicates: Parts that arrived a second time for the same stamp.
        first_answer_ns: By vocabulary version, when its first complete answer was here.
        answered: Number of complete answers so far.
    """

    def __init__(self, clock_ns: Callable[[], int]) -> None:
        """`clock_ns` is the clock that made the stamps."""
        self._clock_ns = clock_ns
        self._parts: dict[int, _Parts] = {}
        self._camera_stamps: set[int] = set()
        self.duplicates = 0
        self.answered = 0
        self.first_answer_ns: dict[int, int] = {}

    def add_camera_frame(self, stamp_ns: int) -> None:
        """Note that the camera sent a frame."""
        self._camera_stamps.add(stamp_ns)

    def add_semantic_map(self, stamp_ns: int, semantic_map: NDArray[np.integer]) -> None:
        """Add the class ids of an answer."""
        parts = self._answer_of(stamp_ns, lambda parts: parts.semantic_map)
        parts.semantic_map = RunLengthMap.encode(semantic_map)
        self._check_complete(parts, stamp_ns)

    def add_panoptic_map(self, stamp_ns: int, panoptic_map: NDArray[np.integer]) -> None:
        """Add the segment ids of an answer."""
        parts = self._answer_of(stamp_ns, lambda parts: parts.panoptic_map)
        parts.panoptic_map = RunLengthMap.encode(panoptic_map)
        self._check_complete(parts, stamp_ns)

    def add_segments(self, stamp_ns: int, segments: tuple[Segment, ...], vocabulary_version: int) -> None:
        """Add the segments of an answer."""
        parts = self._answer_of(stamp_ns, lambda parts: parts.segments)
        parts.segments, parts.vocabulary_version = segments, vocabulary_version
        self._check_complete(parts, stamp_ns)

    def add_true_map(self, stamp_ns: int, true_map: NDArray[np.integer]) -> None:
        """Add the true segment ids; they prove that the camera sent the frame, should its own message be lost."""
        self.add_camera_frame(stamp_ns)
        self._of(stamp_ns).true_map = RunLengthMap.encode(true_map)

    def add_true_segments(self, stamp_ns: int, segments: tuple[Segment, ...]) -> None:
        """Add the true segments; they prove that the camera sent the frame."""
        self.add_camera_frame(stamp_ns)
        self._of(stamp_ns).true_segments = segments

    def camera_stamps(self, start_ns: int, end_ns: int) -> set[int]:
        """Return the stamps of the camera frames sent in this time."""
        return {stamp for stamp in self._camera_stamps if start_ns <= stamp < end_ns}

    def version_at(self, stamp_ns: int) -> int | None:
        """Return the vocabulary version of the answer with this stamp, None while it is not known."""
        parts = self._parts.get(stamp_ns)
        return parts.vocabulary_version if parts and parts.segments is not None else None

    def frames(self, start_ns: int, end_ns: int) -> list[AnsweredFrame]:
        """Return the complete answers to camera frames of this time, in order."""
        return [
            _assemble(stamp_ns, self._parts[stamp_ns])
            for stamp_ns in sorted(self.camera_stamps(start_ns, end_ns))
            if stamp_ns in self._parts and self._parts[stamp_ns].is_answered
        ]

    @property
    def is_complete(self) -> bool:
        """Whether all kinds of parts arrive: a camera frame was answered whose truth is known."""
        return any(
            parts.is_answered
            and parts.true_map is not None
            and parts.true_segments is not None
            and stamp_ns in self._camera_stamps
            for stamp_ns, parts in list(self._parts.items())
        )

    def strangers(self, since_ns: int) -> list[int]:
        """Return the stamps of answers that arrived since then and answer no camera frame."""
        return [
            stamp_ns
            for stamp_ns, parts in self._parts.items()
            if parts.arrived_ns > since_ns and stamp_ns not in self._camera_stamps
        ]

    def _of(self, stamp_ns: int) -> _Parts:
        return self._parts.setdefault(stamp_ns, _Parts())

    def _answer_of(self, stamp_ns: int, part: Callable[[_Parts], object]) -> _Parts:
        parts = self._of(stamp_ns)
        parts.arrived_ns = parts.arrived_ns or self._clock_ns()
        self.duplicates += part(parts) is not None
        return parts

    def _check_complete(self, parts: _Parts, stamp_ns: int) -> None:
        if parts.is_answered or parts.semantic_map is None or parts.panoptic_map is None or parts.segments is None:
            return
        now_ns = self._clock_ns()
        parts.latency_ms = (now_ns - stamp_ns) * 1e-6
        parts.is_answered = True
        self.first_answer_ns.setdefault(parts.vocabulary_version, now_ns)
        self.answered += 1


def _assemble(stamp_ns: int, parts: _Parts) -> AnsweredFrame:
    truth = None
    if parts.true_map is not None and parts.true_segments is not None:
        truth = PanopticTruth(parts.true_map, parts.true_segments)
    assert parts.segments is not None
    assert parts.semantic_map is not None
    assert parts.panoptic_map is not None
    return AnsweredFrame(
        stamp_ns=stamp_ns,
        latency_ms=parts.latency_ms,
        vocabulary_version=parts.vocabulary_version,
        segments=parts.segments,
        semantic_map=parts.semantic_map,
        panoptic_map=parts.panoptic_map,
        truth=truth,
    )
