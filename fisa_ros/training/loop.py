"""The training loop that every stage shares: optimiser, schedule, processes, progress, checkpoints."""

from collections.abc import Callable, Iterator, Sequence
import dataclasses
import json
import logging
import math
from pathlib import Path
import signal
import time
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from fisa_ros.core.errors import DataError
from fisa_ros.core.stop_signals import noted_signals
from fisa_ros.runtime.torch_cuda import is_out_of_memory
from fisa_ros.training.checkpoint import differences, fingerprint, load_tensors, save_tensors
from fisa_ros.training.memory_errors import (
    ALL_ELSE,
    images_beside_steps,
    images_of_step,
    is_out_of_host_memory,
    memory_advice,
    told_of_memory,
)
from fisa_ros.training.processes import Processes
from fisa_ros.training.progress import Summary, TrainingLog
from fisa_ros.training.settings import Phase, RunSettings, learning_rate
from fisa_ros.training.terms import StepGradients, Term
from fisa_ros.training.weight_average import WeightAverage

CHECKPOINT_NAME = 'checkpoint.pt'
_LOG_STEPS = 100
_CHECKPOINT_SECONDS = 120.0
_MAX_GRADIENT_NORM = 1.0
_SMOOTHING = 0.98
_MIN_LOSS_SCALE = 1.0
_STOP_REASONS = ('time limit', 'SIGINT', 'SIGTERM')
_LOG = logging.getLogger('fisa_ros.training')


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
    saves_frozen: bool = True,
    step_advice: str | None = None,
) -> Summary:
    """Train `parameters` through all phases, resuming from `folder` where an earlier run stopped.

    Resuming is exact to the step: on a CPU the weights are those of a run that was never interrupted. The processes of
    `torchrun` (on GPUs also of `accelerate launch`) train one model, to the weights of one process up to rounding, and
    several batches per step do so too, as long as an item's loss depends on that item alone; batch normalisation in
    training mode breaks this.

    Args:
        module: What is saved in checkpoints; it is moved to the device. Holds all `parameters`.
        parameters: What is trained.
        phases: In this order.
        batches: Gives the batches of a phase, dataclasses, from one of its steps on: of so many equal parts of the
            images of each step, the part of one number.
        step_loss: Maps a batch, on the device, and the overall step to terms; the same names on every process.
        folder: Where checkpoint, summary, `log.jsonl` and TensorBoard's files are written, by the first process.
        run: How it is run.
        weight_decay: Of matrices; vectors have none.
        validate: Measures the module in the first process; called every `validate_every` steps and after each phase.
        validate_every: Steps between two validations.
        ema: Decay of an average of the weights that is kept and saved beside them, validated, and left in the module
            at the end; `None` for none.
        saves_frozen: Whether checkpoints hold the parameters too that are not trained; else `recipe` of `run` must tell
            those of two runs apart.
        step_advice: What to do where a step uses up the memory, by default `memory_advice`.

    Raises:
        DataError: The checkpoint is corrupt or of another recipe, a batch cannot be split or is too large for the GPU,
            or a loss or gradient is not finite; the last good checkpoint stays, and the batch is saved.
        TrainingStoppedError: SIGINT, SIGTERM or the time limit ended it early.
    """
    with told_of_memory(Processes().device, 'before the first step', ALL_ELSE):
        training = _Training(module, parameters, phases, folder, run, weight_decay, ema, saves_frozen)
    return training.run(batches, step_loss, validate, validate_every, step_advice)


def load_trained(folder: Path, *, allow_unfinished: bool = False) -> dict[str, Tensor]:
    """Return what was saved of the module trained in `folder`, on the CPU: its averaged weights if it has them.

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


def recipe_entry(folder: Path, name: str) -> Any:
    """Return an entry of the recipe that the module in `folder` was trained by, None if it has none of the name.

    Args:
        folder: That of `train`.
        name: Name of the entry; where it is in another one, after that one's and a dot.

    Raises:
        DataError: There is no checkpoint, or it is corrupt.
    """
    path = folder / CHECKPOINT_NAME
    try:
        return json.loads(load_tensors(path)['fingerprint'].get(name, 'null'))
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise DataError(f'{path} is no checkpoint: {error}') from error


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
        saves_frozen: bool,
    ) -> None:
        self.processes = Processes()
        self.device = self.processes.device
        if run.threads is not None:
            torch.set_num_threads(run.threads)
        self.module, self.parameters = module.to(self.device), list(parameters)
        self.phases, self.folder, self.settings = phases, folder, run
        self._check_split()
        self.autocast_type = self.processes.autocast_type(run.precision)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.autocast_type == torch.float16)
        owned = dict(module.named_parameters(remove_duplicate=False))
        trained = {id(parameter) for parameter in self.parameters}
        if trained - {id(parameter) for parameter in owned.values()}:
            raise ValueError('parameters must be parameters of module')
        groups = [
            {'params': [entry for entry in self.parameters if entry.ndim > 1], 'weight_decay': weight_decay},
            {'params': [entry for entry in self.parameters if entry.ndim <= 1], 'weight_decay': 0.0},
        ]
        self.unsaved: set[str] = set()
        if not saves_frozen:
            self.unsaved = {name for name, parameter in owned.items() if id(parameter) not in trained}
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
        self.average = WeightAverage(module, averaged, ema, averages)
        self.started, self.started_cpu = time.monotonic(), time.process_time()
        self.saved = self.started

    def run(
        self,
        batches: Callable[[Phase, int, int, int], Iterator[Any]],
        step_loss: Callable[[Any, int], dict[str, Term]],
        validate: Callable[[], dict[str, float]] | None,
        validate_every: int,
        step_advice: str | None,
    ) -> Summary:
        """Do the remaining steps; arguments and errors are those of `train`."""
        given = self.phases, self.settings, self.processes.world_size
        step_advice = step_advice or memory_advice(*given, images_of_step)
        validation_advice = memory_advice(*given, images_beside_steps)
        costs = [phase.size**2 * phase.batch_size for phase in self.phases for _ in range(phase.steps)]
        reason = None
        with noted_signals() as received, TrainingLog(self.folder, self.step, costs, self.processes.is_main) as log:
            for phase, step, sources in self._remaining(batches):
                rate = learning_rate(step, phase)
                for group in self.optimizer.param_groups:
                    group['lr'] = rate
                with told_of_memory(self.device, f'at step {self.step}', step_advice):
                    *stops, is_save_due = self._train_step(sources, step_loss, received)
                reason = next((name for name, asked in zip(_STOP_REASONS, stops, strict=True) if asked), None)
                is_last = step == phase.steps - 1
                self.step += 1
                log.show(self.step, phase.batch_size, self.losses)
                if self.step % _LOG_STEPS == 0:
                    log.add_losses(self.step, self._times()['cpu_seconds'], self.losses, rate)
                if validate is not None and (self.step % validate_every == 0 or is_last):
                    doing = f'in the validation after step {self.step}'
                    with log.pause(), told_of_memory(self.device, doing, validation_advice), self.average.applied():
                        self.scores = validate() if self.processes.is_main else {}
                    log.add_scores(self.step, self._times()['cpu_seconds'], self.scores)
                if is_last or is_save_due or reason:
                    doing = f'while saving after step {self.step}'
                    with log.pause(), told_of_memory(self.device, doing, ALL_ELSE):
                        self._save()
                if reason and self.step < self.steps:
                    break
        with told_of_memory(self.device, 'at the end', ALL_ELSE):
            return self._finish(reason if self.step < self.steps else None)

    def _remaining(
        self, batches: Callable[[Phase, int, int, int], Iterator[Any]]
    ) -> Iterator[tuple[Phase, int, list[Iterator[Any]]]]:
        first, parts = 0, self.processes.world_size * self.settings.accumulate
        for phase in self.phases:
            done = self.step - first
            first += phase.steps
            if done < phase.steps:
                # One after the other, the processes' batches hold the images of a step in their order.
                numbers = range(self.processes.rank, parts, self.processes.world_size)
                sources = [batches(phase, done, number, parts) for number in numbers]
                for step in range(done, phase.steps):
                    yield phase, step, sources

    def _train_step(
        self,
        sources: Sequence[Iterator[Any]],
        step_loss: Callable[[Any, int], dict[str, Term]],
        received: list[int],
    ) -> list[bool]:
        """Change the weights; returns which of `_STOP_REASONS`, and whether a checkpoint, some process asks for."""
        self.optimizer.zero_grad(set_to_none=True)
        gradients = StepGradients(self.parameters, self.processes, self.scaler, len(sources))
        requests = [False] * (len(_STOP_REASONS) + 1)
        for source in sources:
            batch = next(source)
            on_device = {name: self.processes.to_device(value) for name, value in _fields(batch).items()}
            batch = dataclasses.replace(batch, **on_device)
            enabled = self.autocast_type != torch.float32
            with torch.autocast(self.device.type, self.autocast_type if enabled else None, enabled=enabled):
                terms = step_loss(batch, self.step)
            requests = gradients.add(terms, self._requests(received))
            total = gradients.means()['total']
            if not math.isfinite(total):
                self._refuse('loss', total, batch)
        gradients.finish()
        for name, value in gradients.means().items():
            self.losses[name] = _SMOOTHING * self.losses.get(name, value) + (1 - _SMOOTHING) * value
        self._change_weights(batch)
        self.average.update(self.step)
        return requests

    def _change_weights(self, batch: Any) -> None:
        if all(parameter.grad is None for parameter in self.parameters):
            return
        self.scaler.unscale_(self.optimizer)
        norm = float(nn.utils.clip_grad_norm_(self.parameters, _MAX_GRADIENT_NORM))
        # A scaled gradient may overflow: then the step is left out and the scale is lowered, until it is at its end.
        is_overflow = self.scaler.is_enabled() and self.scaler.get_scale() > _MIN_LOSS_SCALE
        if not math.isfinite(norm) and not is_overflow:
            self._refuse('norm of the gradient', norm, batch)
        self.scaler.step(self.optimizer)
        self.scaler.update()

    def _requests(self, received: list[int]) -> list[bool]:
        """Return which of `_STOP_REASONS`, and whether a checkpoint, this process asks for."""
        now = time.monotonic()
        limit = math.inf if self.settings.max_seconds is None else self.settings.max_seconds
        return [
            self.processes.is_main and now - self.started >= limit,
            signal.SIGINT in received,
            signal.SIGTERM in received,
            self.processes.is_main and now - self.saved >= _CHECKPOINT_SECONDS,
        ]

    def _check_split(self) -> None:
        processes, accumulate = self.processes.world_size, self.settings.accumulate
        for phase in self.phases:
            if phase.batch_size % (processes * accumulate):
                raise DataError(
                    f'batch_size of a phase must be divisible by {processes} processes x {accumulate} batches of each, '
                    f'got {phase.batch_size}'
                )

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
                'module': {name: entry for name, entry in self.module.state_dict().items() if name not in self.unsaved},
                'average': self.average.tensors,
                'optimizer': self.optimizer.state_dict(),
                'scaler': self.scaler.state_dict(),
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
            found = self.module.load_state_dict(saved['module'], strict=False)
            if odd := sorted({*found.unexpected_keys, *found.missing_keys} - self.unsaved):
                raise KeyError(f'missing or surplus: {", ".join(odd[:3])}')
            self.optimizer.load_state_dict(saved['optimizer'])
            if saved['scaler'] and self.scaler.is_enabled():
                self.scaler.load_state_dict(saved['scaler'])
            self.step, self.losses, self.scores = saved['step'], saved['losses'], saved['scores']
            self.earlier = {name: saved[name] for name in self.earlier}
            average: dict[str, Tensor] = saved['average']
            self.processes.restore_random_state(saved['random'])
        except (KeyError, TypeError, AttributeError, RuntimeError, ValueError) as error:
            if isinstance(error, RuntimeError) and (is_out_of_memory(error) or is_out_of_host_memory(error)):
                raise
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
        self.average.apply()
        return summary


def _fields(batch: Any) -> dict[str, Any]:
    return {entry.name: getattr(batch, entry.name) for entry in dataclasses.fields(batch)}
