"""What a training run shows and logs: progress bar, `log.jsonl`, TensorBoard, `summary.json`."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
import json
from pathlib import Path
import sys
import time
from types import TracebackType
from typing import Self

import numpy as np
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from fisa_ros.training.checkpoint import write_atomically

LOG_NAME = 'log.jsonl'
SUMMARY_NAME = 'summary.json'
_BAR = '{desc}{percentage:3.0f}%|{bar:20}| {n_fmt}/{total_fmt} [{elapsed}, {rate_fmt}{postfix}]'


@dataclass(frozen=True, slots=True)
class Summary:
    """What a run came to; times are those of all runs since step 0.

    Attributes:
        step: Steps done.
        steps: Steps of all phases.
        stopped_by: Why it ended before its last step, `None` if it did not.
        cpu_seconds: Processor time of all processes.
        gpu_seconds: Wall time of all GPUs.
        wall_seconds: Wall time.
        losses: Running means of the loss, 'total', and of its terms.
        scores: Of the last validation.
    """

    step: int
    steps: int
    stopped_by: str | None
    cpu_seconds: float
    gpu_seconds: float
    wall_seconds: float
    losses: dict[str, float]
    scores: dict[str, float]

    def write(self, folder: Path) -> None:
        """Write it to `summary.json` in `folder`."""
        text = json.dumps(asdict(self), indent=2) + '\n'
        write_atomically(folder / SUMMARY_NAME, lambda file: file.write(text.encode()))


class TrainingLog:
    """Shows and logs one run; in processes other than the first it does neither.

    What an earlier run logged after `first_step` is removed, as this run repeats it.

    Args:
        folder: Where the files are written.
        first_step: Steps that earlier runs did.
        step_costs: Of every step of the training, relative to each other.
        is_main: Whether this is the first process.
    """

    def __init__(self, folder: Path, first_step: int, step_costs: Sequence[float], is_main: bool) -> None:
        self._is_main = is_main
        self._path = folder / LOG_NAME
        self._first_step = first_step
        self._cost_until = np.concatenate([[0.0], np.cumsum(step_costs)])
        self._started = self._window_start = time.monotonic()
        self._window_images = 0
        if is_main:
            self._drop_later_lines(first_step)
            self._board = SummaryWriter(str(folder / 'tensorboard'), purge_step=first_step + 1 if first_step else None)
        self._bar = tqdm(
            total=len(step_costs),
            initial=first_step,
            bar_format=_BAR,
            unit=' steps',
            mininterval=5,
            disable=not is_main,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._bar.close()
        if self._is_main:
            self._board.close()

    def images_per_second(self) -> float:
        """Return the speed since the last call of `add_losses`, without pauses."""
        return self._window_images / max(time.monotonic() - self._window_start, 1e-9)

    def seconds_left(self, step: int) -> float:
        """Estimate the wall time from `step`, which this run has reached, to the end of all phases."""
        done = self._cost_until[step] - self._cost_until[self._first_step]
        return float((time.monotonic() - self._started) * (self._cost_until[-1] - self._cost_until[step]) / done)

    def show(self, step: int, images: int, losses: Mapping[str, float]) -> None:
        """Move the bar to `step`, which took so many images."""
        self._window_images += images
        parts = [f'{name} {value:.3f}' for name, value in losses.items()]
        parts += [f'{self.images_per_second():.1f} images/s', f'left {tqdm.format_interval(self.seconds_left(step))}']
        self._bar.set_postfix_str(', '.join(parts), refresh=False)
        self._bar.update()

    def add_losses(self, step: int, cpu_seconds: float, losses: Mapping[str, float], learning_rate: float) -> None:
        """Log running means of losses, the speed and the time left."""
        speed = {
            'images_per_second': round(self.images_per_second(), 2),
            'seconds_left': round(self.seconds_left(step)),
        }
        self._add(step, cpu_seconds, {**losses, 'learning_rate': learning_rate, **speed}, 'training')
        self._window_start, self._window_images = time.monotonic(), 0

    def add_scores(self, step: int, cpu_seconds: float, scores: Mapping[str, float]) -> None:
        """Log and show the scores of a validation."""
        self._add(step, cpu_seconds, scores, 'validation')
        if self._is_main:
            text = ', '.join(f'{name} {value:.3f}' for name, value in scores.items())
            self._bar.write(f'step {step}: {text}', file=sys.stderr)

    @contextmanager
    def pause(self) -> Iterator[None]:
        """Leave the time spent inside out of the speed."""
        started = time.monotonic()
        yield
        self._window_start += time.monotonic() - started

    def _add(self, step: int, cpu_seconds: float, values: Mapping[str, float], group: str) -> None:
        if not self._is_main:
            return
        with self._path.open('a', encoding='utf-8') as file:
            file.write(json.dumps({'step': step, 'cpu_seconds': round(cpu_seconds, 1), **values}) + '\n')
        for name, value in values.items():
            self._board.add_scalar(f'{group}/{name}', value, step)

    def _drop_later_lines(self, last_step: int) -> None:
        if not self._path.is_file():
            return
        kept = []
        for line in self._path.read_text(encoding='utf-8').splitlines():
            try:
                step = json.loads(line)['step']
            except ValueError:
                # A run that was killed may leave half a line.
                continue
            if step <= last_step:
                kept.append(f'{line}\n')
        write_atomically(self._path, lambda file: file.write(''.join(kept).encode()))
