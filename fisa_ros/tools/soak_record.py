"""What the soak is asked for, and what it has seen."""

from dataclasses import dataclass, field
from pathlib import Path

from fisa_ros.evaluation.answer_check import AnswerFaults

COUNTS = ('received', 'answered', 'dropped', 'refused')


@dataclass(frozen=True, slots=True)
class SoakOptions:
    """What a user can choose.

    Attributes:
        minutes: Length of the stream.
        cameras: Number of cameras.
        rate_hz: Images per second of each camera.
        seed: Number of the first simulated room.
        out: Folder for the log of the node.
        command: What starts the node; empty for the installed one.
        node: Parameters of the node.
    """

    minutes: float
    cameras: int
    rate_hz: float
    seed: int
    out: Path
    command: tuple[str, ...]
    node: dict[str, object]


@dataclass
class SoakRecord:
    """Grows while the soak runs, so that it tells what is known at any moment.

    Attributes:
        start_s: From the start of the node's process until it was active.
        stream_s: Since the first image.
        sent: Images sent.
        skipped: Images that the cameras of the soak were too late for.
        counts: Received, answered, dropped and refused frames, as the node counts them.
        faults: Of all cameras together.
        checked: Answers that were held against their vocabulary.
        incomplete: Answers of which a part did not arrive.
        points_in: Clouds that came for each camera, in order; empty without depth.
        points_checked: Those of them that were held against the mask with their stamp.
        ages_ms: From the stamp of each image to the arrival of its mask.
        inference_ms: Mean time in the model, as the node says.
        vocabulary_changes: Changes that the node made.
        vocabulary_refusals: Reasons for those that it did not make.
        version_jumps: Answers whose version is not the one after the last.
        threshold_changes: Changes that the node made.
        threshold_refusals: Reasons for those that it did not make.
        listeners: Subscriptions and nodes that came and went.
        memory_mb: Time in s since the first image, and resident memory of the node that is its own.
        shared_mb: The same of memory that it shares: segments of the transport, which belong to their publishers.
        node_values: What the node says of its model.
        tracebacks: In the log of the node.
        trouble: Why the soak could not go on; empty otherwise.
        is_crash: Whether the node ended by itself.
        is_interrupted: Whether the user ended the soak.
        exit_code: Of the node; None before its end.
    """

    start_s: float = 0.0
    stream_s: float = 0.0
    sent: int = 0
    skipped: int = 0
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(COUNTS, 0))
    faults: AnswerFaults = field(default_factory=AnswerFaults)
    checked: int = 0
    incomplete: int = 0
    points_in: list[int] = field(default_factory=list)
    points_checked: list[int] = field(default_factory=list)
    ages_ms: list[float] = field(default_factory=list)
    inference_ms: float = 0.0
    vocabulary_changes: int = 0
    vocabulary_refusals: list[str] = field(default_factory=list)
    version_jumps: int = 0
    threshold_changes: int = 0
    threshold_refusals: list[str] = field(default_factory=list)
    listeners: int = 0
    memory_mb: list[tuple[float, float]] = field(default_factory=list)
    shared_mb: list[tuple[float, float]] = field(default_factory=list)
    node_values: dict[str, str] = field(default_factory=dict)
    tracebacks: int = 0
    trouble: str = ''
    is_crash: bool = False
    is_interrupted: bool = False
    exit_code: int | None = None
