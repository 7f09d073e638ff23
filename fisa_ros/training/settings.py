"""What a recipe says of a training and what a user says of one run of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
import math
from pathlib import Path
from typing import Any, Literal

from fisa_ros.core.errors import DataError

Precision = Literal['fp32', 'bf16', 'fp16']
_WARM_UP_STEPS = 200
_SEED_STRIDE = 1_000_003


@dataclass(frozen=True, slots=True)
class Phase:
    """A stretch of training at one image size.

    Attributes:
        size: Edge of the square images in pixels.
        batch_size: Images per optimiser step, over all processes, however they are split.
        steps: Optimiser steps.
        learning_rate: Peak learning rate; it warms up linearly and falls along a cosine to 1 %.
    """

    size: int
    batch_size: int
    steps: int
    learning_rate: float

    def __post_init__(self) -> None:
        for name in ('size', 'batch_size', 'steps'):
            if getattr(self, name) < 1:
                raise DataError(f'{name} of a phase must be 1 or more, got {getattr(self, name)}')
        if not 0 < self.learning_rate < math.inf:
            raise DataError(f'learning_rate of a phase must be above 0, got {self.learning_rate}')


@dataclass(frozen=True, slots=True)
class RunSettings:
    """How a stage is run.

    Attributes:
        threads: Threads of PyTorch in each process; `None` leaves them as they are.
        max_seconds: Wall time after which training stops, to be continued later; `None` for no limit.
        precision: Of the forward pass; a GPU that has no bf16 takes fp16 instead.
        recipe: What a run must share with the one that it resumes, as plain values.
        accumulate: In how many batches, one after the other, each process works off its images of a step: more need
            less memory, and the weights stay the same up to rounding.
        loaders: Threads that read images in each process; `None` for one where there is no GPU, or else for one per
            processor of the process.
        mask_cache: Folder where the masks of the frozen generator are kept; `None` has it run in every step.
    """

    threads: int | None = None
    max_seconds: float | None = None
    precision: Precision = 'fp32'
    recipe: Mapping[str, Any] = field(default_factory=dict)
    accumulate: int = 1
    loaders: int | None = None
    mask_cache: Path | None = None

    def __post_init__(self) -> None:
        for name in ('threads', 'accumulate', 'loaders'):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise DataError(f'{name} must be 1 or more, got {value}')
        if self.max_seconds is not None and not self.max_seconds > 0:
            raise DataError(f'max_seconds must be above 0, got {self.max_seconds}')


def phase_seed(seed: int, phases: Sequence[Phase], phase: Phase) -> int:
    """Return a seed for the batches of one of the phases, so that no two phases see the same ones."""
    index = next(index for index, other in enumerate(phases) if other is phase)
    return seed + phase.size + _SEED_STRIDE * index


def learning_rate(step: int, phase: Phase) -> float:
    """Return the rate of a step of a phase: a linear warm-up, then a cosine down to 1 %."""
    warm = min(1.0, (step + 1) / min(_WARM_UP_STEPS, phase.steps))
    return phase.learning_rate * warm * (0.01 + 0.99 * (1 + math.cos(math.pi * step / phase.steps)) / 2)
