"""Takes the time of each stage of a frame, of several configurations in turn."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
import time
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from fisa_ros.core.results import PanopticResult
from fisa_ros.core.vocabulary_state import VocabularyState
from fisa_ros.pipeline.image_scaling import place_image
from fisa_ros.pipeline.segmenter import Segmenter, check_image
from fisa_ros.pipeline.segments import list_segments
from fisa_ros.runtime.backend import NETWORK_STAGES, StageClock, segment_timed

_BACKEND = 'back-end'


class FrameMessages(Protocol):
    """The same frames as messages of a robot's middleware."""

    def decode(self, number: int) -> NDArray[np.uint8]:
        """Return frame `number` as `(H, W, 3)` uint8 rgb."""
        ...

    def write(self, number: int, result: PanopticResult) -> None:
        """Make all messages that answer frame `number`."""
        ...


@dataclass(frozen=True, slots=True)
class FrameTiming:
    """Times of one frame.

    Attributes:
        total_ms: From the message, or the image where there are no messages, to the answer.
        stages_ms: By stage, in order; together at most the total.
    """

    total_ms: float
    stages_ms: dict[str, float]

    @property
    def networks_ms(self) -> float:
        """Time in the networks."""
        return sum(self.stages_ms.get(stage, 0.0) for stage in NETWORK_STAGES)


class FrameTimer:
    """Segments frames with one configuration as a node does, stage by stage.

    Args:
        segmenter: The model.
        state: The vocabulary.
        frames: Images `(H, W, 3)` uint8 rgb, all of one size.
        messages: The same frames as messages; None leaves out what is done with those.
        settles: Run each frame once more before it is measured, because something else ran in between.
    """

    def __init__(
        self,
        segmenter: Segmenter,
        state: VocabularyState,
        frames: Sequence[NDArray[np.uint8]],
        messages: FrameMessages | None = None,
        *,
        settles: bool = False,
    ) -> None:
        self.segmenter, self.state = segmenter, state
        self._frames, self._messages, self._settles = frames, messages, settles

    def run(self, index: int) -> tuple[FrameTiming, PanopticResult]:
        """Segment frame `index`, counted on from the first one after the last."""
        number = index % len(self._frames)
        if self._settles:
            self._run(number)
        return self._run(number)

    def _run(self, number: int) -> tuple[FrameTiming, PanopticResult]:
        segmenter, messages = self.segmenter, self._messages
        started_ns = time.perf_counter_ns()
        clock = StageClock()
        image = self._frames[number]
        if messages is not None:
            image = messages.decode(number)
            clock.end('decode')
        check_image(image)
        placement = segmenter.placement((image.shape[0], image.shape[1]))
        scaled = place_image(image, placement)
        clock.end('resize')
        thresholds = segmenter.default_thresholds.placed(placement.shown_hw)
        raw, stages_ms = segment_timed(segmenter.backend, scaled, self.state, thresholds)
        clock.end(_BACKEND)
        result = list_segments(raw, self.state.vocabulary, placement)
        clock.end('segments')
        if messages is not None:
            messages.write(number, result)
            clock.end('messages')
        total_ms = (time.perf_counter_ns() - started_ns) * 1e-6
        in_order = [
            pair
            for stage, taken_ms in clock.stages_ms.items()
            for pair in (stages_ms.items() if stage == _BACKEND else [(stage, taken_ms)])
        ]
        return FrameTiming(total_ms, dict(in_order)), result


def in_turn[T](runs: Sequence[Callable[[int], T]], rounds: int) -> Iterator[list[T]]:
    """Call each of `runs` once in every round, always in this order, and yield what a round gave.

    Whatever changes on the machine over time then changes for all of them.

    Args:
        runs: Called with the number of the round, from 0.
        rounds: How many.
    """
    for number in range(rounds):
        yield [run(number) for run in runs]


def label_agreement(first: PanopticResult, second: PanopticResult) -> float:
    """Return the fraction of pixels with the same class name, or with none in both; the sizes must be equal."""
    codes: dict[str, int] = {}

    def coded(result: PanopticResult) -> NDArray[np.int64]:
        table = np.zeros(1 + max((segment.class_id for segment in result.segments), default=0), np.int64)
        for segment in result.segments:
            table[segment.class_id] = codes.setdefault(segment.class_name, len(codes) + 1)
        return table[result.semantic_map]

    return float(np.mean(coded(first) == coded(second)))
