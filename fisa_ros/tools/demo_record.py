"""What the demo is asked for, and what it has seen."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fisa_ros.core.errors import FisaError
from fisa_ros.core.vocabulary import Vocabulary
from fisa_ros.evaluation.recording import AnsweredFrame
from fisa_ros.node.segment_client import VocabularyAnswer
from fisa_ros.tools.demo_phases import Phase


class DemoError(FisaError):
    """The demo could not be shown to its end."""


@dataclass(frozen=True, slots=True)
class DemoOptions:
    """What a user can choose.

    Attributes:
        seconds: Length of the stream.
        seed: Number of the simulated room.
        rate_hz: Camera images per second.
        size_wh: Size of the camera images.
        out: Folder to write to.
        node: Parameters of the segment node.
    """

    seconds: float
    seed: int
    rate_hz: float
    size_wh: tuple[int, int]
    out: Path
    node: dict[str, str]


@dataclass(frozen=True, slots=True)
class PhaseRecord:
    """One vocabulary and what happened when it was set.

    Attributes:
        phase: Name and words.
        answer: What the node answered.
        vocabulary: The vocabulary then in use, as the node tells it.
        first_answer_ns: When the first complete answer with it was here.
    """

    phase: Phase
    answer: VocabularyAnswer
    vocabulary: Vocabulary
    first_answer_ns: int

    def __str__(self) -> str:
        return (
            f'vocabulary version {self.answer.version}, {self.phase.name} ({len(self.vocabulary.classes)} classes): '
            f'answered after {self.answer_ms:.0f} ms, first frame {self.ms_to_first_frame:.0f} ms later'
        )

    @property
    def answer_ms(self) -> float:
        """Time from the request to the service's answer."""
        return (self.answer.answered_ns - self.answer.called_ns) * 1e-6

    @property
    def ms_to_first_frame(self) -> float:
        """Time from the service's answer to the first frame; 0 if the frame came sooner."""
        return max(0.0, (self.first_answer_ns - self.answer.answered_ns) * 1e-6)


@dataclass(frozen=True, slots=True)
class Picture:
    """An overlay as the node has published it.

    Attributes:
        stamp_ns: Time of the camera frame.
        version: Vocabulary version that the answer with this stamp states; None if no such answer came.
        image: `(H, W, 3)` uint8 rgb.
    """

    stamp_ns: int
    version: int | None
    image: NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class DemoRecord:
    """Everything seen while streaming.

    Attributes:
        phases: In order of time.
        frames: Complete answers to the camera frames of the window that `seconds` measures.
        frames_in: Frames that the camera sent in the window.
        seconds: From the first frame with the first vocabulary to the end.
        start_s: From the start of the segment node's process until it was active.
        dropped: Frames that the node dropped in the window, as it says itself.
        refused: Frames that the node refused in the window, as it says itself.
        skipped: Frames that the camera was too late for, in its whole life.
        wrong_stamps: Answers with the stamp of no camera frame, and second answers to one frame.
        node: Model, back-end and device, as the node says itself.
        pictures: Around the changes, by time.
        exit_codes: By name of the executable.
    """

    phases: tuple[PhaseRecord, ...]
    frames: list[AnsweredFrame]
    frames_in: int
    seconds: float
    start_s: float
    dropped: int
    refused: int
    skipped: int
    wrong_stamps: int
    node: dict[str, str]
    pictures: list[Picture]
    exit_codes: dict[str, int]
