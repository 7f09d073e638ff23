"""The training loop that every stage shares: optimiser, schedule, processes, progress, checkpoints."""

from collections.abc import Callable, Iterator, Mapping, Sequence
import dataclasses
from dataclasses import dataclass, field
import logging
import math
from pathlib import Path
import signal
import time
from typing import Any, Literal, NamedTuple, NoReturn

import torch
from torch import Tensor, nn

from fisa_ros.core.errors import DataError
from fisa_ros.core.stop_signals import noted_signals
from fisa_ros.training.checkpoint import differences, fingerprint, load_tensors, save_tensors
from fisa_ros.training.processes import Processes
from fisa_ros.training.progress import Summary, TrainingLog

Precision = Literal['fp32', 'bf16']
CHECKPOINT_NAME = 'checkpoint.pt'
_WARM_UP_STEPS = 200
_SEED_STRIDE = 1_000_003
_LOG_STEPS = 100
_CHECKPOINT_SECONDS = 120.0
_MAX_GRADIENT_NORM = 1.0
_SMOOTHING = 0.98
_STOP_REASONS = ('time limit', 'SIGINT', 'SIGTERM')
_LOG = logging.getLogger('fisa_ros.training')


@dataclass(frozen=True, slots=True)
class Phase:
    """A stretch of training at one image size.

    Attributes:
        size: Edge of the square images in pixels.
        batch_size: Images per batch, over all processes.
        steps: Optimiser steps.
        learning_rate: Peak learning rate; it warms up linearly and falls along a cosine to 1 %.
        accumulate: Batches per step. Each is divided by its own counts, so one step with two batches is not exactly
            one with a batch twice as large where the counts of the batches differ.
    """

    size: int
    batch_size: int
    steps: int
    learning_rate: float
    accumulate: int = 1

    def __post_init__(self) -> None:
        for name in ('size', 'batch_size', 'steps', 'accumulate'):
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
        precision: Of the forward pass.
        recipe: What a run must share with the one that it resumes, as plain values.
    """

    threads: int | None = None
    max_seconds: float | None = None
    precision: Precision = 'fp32'
    recipe: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.threads is not None and self.threads < 1:
            raise DataError(f'threads must be 1 or more, got {self.threads}')
        if self.max_seconds is not None and not self.max_seconds > 0:
            raise DataError(f'max_seconds must be above 0, got {self.max_seconds}')


class Term(NamedTuple):
    """One part of a loss: its mean over the items of all processes, times a weight, is minimised.

    Attributes:
        total: Sum over this process's items, scalar.
        count: Number of this process's items; 0 is allowed.
        weight: Factor in the minimised loss; 0 only shows the mean.
    """

    total: Tensor
    count: Tensor | float  # type: ignore[assignment]  # hides tuple.count
    weight: float


class TrainingStoppedError(Exception):
    """Training was asked to stop before its last step; the checkpoint holds all of it."""

    def __init__(self, summary: Summary) -> None:
        super().__init__(f'stopped by {summary.stopped_by} after step {summary.step} of {summary.steps}')
        self.summary = summary


def train[B](
    module: nn.Module,
    parameters: Sequence[nn.Parameter],
    phases: Sequence[Phase],
    batches: Callable[[Phase, int, int, int], Iterator[B]],
    step_loss: Callable[[B, int], dict[str, Term]],
    folder: Path,
    *,
    run: RunSettings,
    weight_decay: float = 0.05,
    validate: Callable[[], dict[str, float]] | None = None,
    validate_every: int = 1000,
    ema: float | None = None,
) -> Summary:
    """Train `parameters` through all phases, resuming from `folder` where an earlier run stopped.

    Resuming is exact to the step: on a CPU the weights are those of a run that was never interrupted. The processes of
    `torchrun` (on GPUs also of `accelerate launch`) train one model, to the weights of one process up to rounding, as
    long as an item's loss depends on that item alone; batch normalisation in training mode breaks this.

    Args:
        module: What is saved in checkpoints; it is moved to the device. Holds all `parameters`.
        parameters: What is trained.
        phases: In this order.
        batches: Gives the batches of a phase, dataclasses, from one of its batches on, for a process (rank) of so many.
        step_loss: Maps a batch, on the device, and the overall step to terms; the same names on every process.
        folder: Where checkpoint, summary, `log.jsonl` and TensorBoard's files are written, by the first process.
        run: How it is run.
        weight_decay: Of matrices; vectors have none.
        validate: Measures the module in the first process; called every `validate_every` steps and after each phase.
        validate_every: Steps between two validations.
        ema: Decay of an average of the weights that is kept and saved beside them; `None` for none.

    Raises:
        DataError: The checkpoint is corrupt or of another recipe, or a loss or gradient is not finite; the last good
            checkpoint stays, and the batch is saved.
        TrainingStoppedError: SIGINT, SIGTERM or the time limit ended it early.
    """
    return _Training(module, parameters, phases, folder, run, weight_decay, ema).run(
        batches, step_loss, validate, validate_every
    )


def phase_seed(seed: int, phases: Sequence[Phase], phase: Phase) -> int:
    """Return a seed for the batches of one of the phases, so that no two phases see the same ones."""
    index = next(index for index, other in enumerate(phases) if other is phase)
    return seed + phase.size + _SEED_STRIDE * index


def load_trained(folder: Path, *, allow_unfinished: bool = False) -> dict[str, Tensor]:
    """Return the state of the module that was trained in `folder`, on the CPU: its averaged weights if it has them.

    Raises:
        DataError: There is no checkpoint, it is corrupt, or training has not reached its last step.
    """
    path = folder / CHECKPOINT_NAME
    saved = load_tensors(path)
    try:
        step, steps, state = saved['step'], saved['steps'], {**saved['module'], **saved['average']}
    except (KeyError, TypeError) as error:
        raise DataError(f'{path} is no checkpoint: {error}') from error
    if step < steps and not allow_unfinished:
        raise DataError(f'{path} is at step {step} of {steps}: train to the end first')
    return state


def _learning_rate(step: int, phase: Phase) -> float:
    warm = min(1.0, (step + 1) / min(_WARM_UP_STEPS, phase.steps))
    return phase.learning_rate * warm * (0.01 + 0.99 * (1 + math.cos(math.pi * step / phase.steps)) / 2)


class _Training:
    """The state of one call of `train`."""

    def __init__(
        self,
        module: nn.Module,
        parameters: Sequence[nn.Parameter],
        phases: Sequence[Phase],
        folder: Path,
        run: RunSettings,
        weight_decay: float,
        ema: float | None,
    ) -> None:
        self.processes = Processes()
        self.device = self.processes.device
        if run.threads is not None:
            torch.set_num_threads(run.threads)
        self.module, self.parameters = module.to(self.device), list(parameters)
        self.phases, self.folder, self.settings, self.ema = phases, folder, run, ema
        owned = dict(module.named_parameters(remove_duplicate=False))
        trained = {id(parameter) for parameter in self.parameters}
        if trained - {id(parameter) for parameter in owned.values()}:
            raise ValueError('parameters must be parameters of module')
        groups = [
            {'params': [entry for entry in self.parameters if entry.ndim > 1], 'weight_decay': weight_decay},
            {'params': [entry for entry in self.parameters if entry.ndim <= 1], 'weight_decay': 0.0},
        ]
        self.optimizer = torch.optim.AdamW([group for group in groups if group['params']], lr=0.0)
        plain_phases = [dataclasses.asdict(phase) for phase in phases]
        method = {'phases': plain_phases, 'precision': run.precision, 'weight_decay': weight_decay, 'ema': ema}
        self.fingerprint = fingerprint({**run.recipe, **method})
        self.step, self.steps = 0, sum(phase.steps for phase in phases)
        self.losses: dict[str, float] = {}
        self.scores: dict[str, float] = {}
        self.earlier = {'cpu_seconds': 0.0, 'gpu_seconds': 0.0, 'wall_seconds': 0.0}
        self.checkpoint = folder / CHECKPOINT_NAME
        folder.mkdir(parents=True, exist_ok=True)
        averages: dict[str, Tensor] = {}
        if self.checkpoint.is_file():
            averages = self._resume()
        else:
            self.processes.share_state(module)
        averaged = {name for name, parameter in owned.items() if id(parameter) in trained}
        averaged |= {name for name, buffer in module.named_buffers() if buffer.is_floating_point()}
        state = {} if ema is None else module.state_dict()
        self.live = {name: tensor for name, tensor in state.items() if name in averaged}
        self.average = {name: averages.get(name, tensor).to(tensor, copy=True) for name, tensor in self.live.items()}
        self.started, self.started_cpu = time.monotonic(), time.process_time()
        self.saved = self.started

    def run(
        self,
        batches: Callable[[Phase, int, int, int], Iterator[Any]],
        step_loss: Callable[[Any, int], dict[str, Term]],
        validate: Callable[[], dict[str, float]] | None,
        validate_every: int,
    ) -> Summary:
        """Do the remaining steps; arguments and errors are those of `train`."""
        costs = [
            phase.size**2 * phase.batch_size * phase.accumulate for phase in self.phases for _ in range(phase.steps)
        ]
        reason = None
        with noted_signals() as received, TrainingLog(self.folder, self.step, costs, self.processes.is_main) as log:
            for phase, step, source in self._remaining(batches):
                rate = _learning_rate(step, phase)
                for group in self.optimizer.param_groups:
                    group['lr'] = rate
                *stops, is_save_due = self._train_step(source, phase.accumulate, step_loss, received)
                reason = next((name for name, asked in zip(_STOP_REASONS, stops, strict=True) if asked), None)
                is_last = step == phase.steps - 1
                self.step += 1
                log.show(self.step, phase.batch_size * phase.accumulate, self.losses)
                if self.step % _LOG_STEPS == 0:
                    log.add_losses(self.step, self._times()['cpu_seconds'], self.losses, rate)
                if validate is not None and (self.step % validate_every == 0 or is_last):
                    with log.pause():
                        self.scores = validate() if self.processes.is_main else {}
                    log.add_scores(self.step, self._times()['cpu_seconds'], self.scores)
                if is_last or is_save_due or reason:
                    with log.pause():
                        self._save()
                if reason and self.step < self.steps:
                    break
        return self._finish(reason if self.step < self.steps else None)

    def _remaining(
        self, batches: Callable[[Phase, int, int, int], Iterator[Any]]
    ) -> Iterator[tuple[Phase, int, Iterator[Any]]]:
        first = 0
        for phase in self.phases:
            done = self.step - first
            first += phase.steps
            if done < phase.steps:
                source = batches(phase, done * phase.accumulate, self.processes.rank, self.processes.world_size)
                for step in range(done, phase.steps):
                    yield phase, step, source

    def _train_step(
        self,
        source: Iterator[Any],
        accumulate: int,
        step_loss: Callable[[Any, int], dict[str, Term]],
        received: list[int],
    ) -> list[bool]:
        """Change the weights; returns which of `_STOP_REASONS`, and whether a checkpoint, some process asks for."""
        self.optimizer.zero_grad(set_to_none=True)
        requests = [False] * (len(_STOP_REASONS) + 1)
        for _ in range(accumulate):
            batch = next(source)
            on_device = {name: self.processes.to_device(value) for name, value in _fields(batch).items()}
            batch = dataclasses.replace(batch, **on_device)
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.settings.precision == 'bf16'):
                terms = step_loss(batch, self.step)
            loss, total, requests = self._combine(terms, received)
            if not math.isfinite(total):
                self._refuse('loss', total, batch)
            if loss.requires_grad:
                (loss / accumulate).backward()
        self.processes.sum_gradients(self.parameters)
        norm = float(nn.utils.clip_grad_norm_(self.parameters, _MAX_GRADIENT_NORM))
        if not math.isfinite(norm):
            self._refuse('norm of the gradient', norm, batch)
        self.optimizer.step()
        if self.ema is not None:
            # Early on the average forgets faster, or it would hold on to the initial weights.
            decay = min(self.ema, (1 + self.step) / (10 + self.step))
            for name, tensor in self.live.items():
                self.average[name].lerp_(tensor, 1 - decay)
        return requests

    def _combine(self, terms: Mapping[str, Term], received: list[int]) -> tuple[Tensor, float, list[bool]]:
        """Return what this process differentiates, the loss over all processes, and what they ask for."""
        now = time.monotonic()
        limit = math.inf if self.settings.max_seconds is None else self.settings.max_seconds
        asked = [
            self.processes.is_main and now - self.started >= limit,
            signal.SIGINT in received,
            signal.SIGTERM in received,
            self.processes.is_main and now - self.saved >= _CHECKPOINT_SECONDS,
        ]
        pairs = [value for term in terms.values() for value in (term.total, term.count)]
        summed = self.processes.sum([*pairs, *asked])
        loss = torch.zeros((), device=self.device)
        overall = 0.0
        means = {}
        for number, (name, term) in enumerate(terms.items()):
            total, count = summed[2 * number : 2 * number + 2]
            means[name] = total / count if count > 0 else total
            if term.weight:
                overall += term.weight * means[name]
                loss = loss + term.total * (term.weight / count if count > 0 else term.weight)
        for name, value in {'total': overall, **means}.items():
            self.losses[name] = _SMOOTHING * self.losses.get(name, value) + (1 - _SMOOTHING) * value
        return loss, overall, [value > 0 for value in summed[2 * len(terms) :]]

    def _times(self) -> dict[str, float]:
        """Add up what all runs took; every process has to call it."""
        wall = time.monotonic() - self.started
        (cpu,) = self.processes.sum([time.process_time() - self.started_cpu])
        spent = {'cpu_seconds': cpu, 'gpu_seconds': self.processes.gpus * wall, 'wall_seconds': wall}
        return {name: self.earlier[name] + value for name, value in spent.items()}

    def _save(self) -> None:
        times = self._times()
        states = self.processes.random_states()
        if self.processes.is_main:
            content = {
                'module': self.module.state_dict(),
                'average': self.average,
                'optimizer': self.optimizer.state_dict(),
                'step': self.step,
                'steps': self.steps,
                'random': states,
                'losses': self.losses,
                'scores': self.scores,
                'fingerprint': self.fingerprint,
                **times,
            }
            save_tensors(self.checkpoint, content)
        self.processes.wait()
        self.saved = time.monotonic()

    def _resume(self) -> dict[str, Tensor]:
        """Restore what `_save` wrote; returns the averaged weights."""
        saved = load_tensors(self.checkpoint)
        try:
            differing = differences(saved['fingerprint'], self.fingerprint)
            if differing:
                raise DataError(f'{self.checkpoint} is of another recipe: {differing}. Use another folder')
            self.module.load_state_dict(saved['module'])
            self.optimizer.load_state_dict(saved['optimizer'])
            self.step, self.losses, self.scores = saved['step'], saved['losses'], saved['scores']
            self.earlier = {name: saved[name] for name in self.earlier}
            average: dict[str, Tensor] = saved['average']
            self.processes.restore_random_state(saved['random'])
        except (KeyError, TypeError, AttributeError, RuntimeError, ValueError) as error:
            raise DataError(f'{self.checkpoint} does not fit: {error}') from error
        _LOG.info('resuming at step %d of %d', self.step, self.steps)
        return average

    def _refuse(self, what: str, value: float, batch: Any) -> NoReturn:
        parts = self.processes.gather(_fields(batch))
        path = self.folder / f'bad_batch_{self.step}.pt'
        if self.processes.is_main:
            save_tensors(path, {'step': self.step, 'parts': parts})
        self.processes.wait()
        kept = (
            f'{self.checkpoint} holds the last good one' if self.checkpoint.is_file() else 'there is no checkpoint yet'
        )
        raise DataError(f'{what} is {value} at step {self.step}; the batch is in {path}, {kept}')

    def _finish(self, reason: str | None) -> Summary:
        summary = Summary(
            step=self.step, steps=self.steps, stopped_by=reason, losses=self.losses, scores=self.scores, **self._times()
        )
        if self.processes.is_main:
            summary.write(self.folder)
            _LOG.info(
                '%d of %d steps, %.0f CPU-seconds, %.0f GPU-seconds, %.0f s of wall time',
                self.step, self.steps, summary.cpu_seconds, summary.gpu_seconds, summary.wall_seconds,
            )  # fmt: skip
        self.processes.wait()
        if reason is not None:
            raise TrainingStoppedError(summary)
        return summary


def _fields(batch: Any) -> dict[str, Any]:
    return {entry.name: getattr(batch, entry.name) for entry in dataclasses.fields(batch)}
