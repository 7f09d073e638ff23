"""The training loop that every recipe shares: optimiser, schedule, progress, checkpoints."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
import json
import logging
import math
from pathlib import Path
import time

import torch
from torch import Tensor, nn
from tqdm import tqdm

from fisa_ros.core.errors import DataError
from fisa_ros.training.batches import Batch

_LOG = logging.getLogger('fisa_ros.training')


@dataclass(frozen=True, slots=True)
class Phase:
    """A stretch of training at one image size.

    Attributes:
        size: Edge of the square images in pixels.
        batch_size: Images per step.
        steps: Optimiser steps.
        learning_rate: Peak learning rate; it warms up linearly and falls along a cosine.
    """

    size: int
    batch_size: int
    steps: int
    learning_rate: float


StepLoss = Callable[[Batch, int], dict[str, Tensor]]
_WARM_UP_STEPS = 200
_CHECKPOINT_SECONDS = 120.0


def _rate(step: int, phase: Phase) -> float:
    warm = min(1.0, (step + 1) / min(_WARM_UP_STEPS, phase.steps))
    return phase.learning_rate * warm * (0.01 + 0.99 * (1 + math.cos(math.pi * step / phase.steps)) / 2)


def train(
    module: nn.Module,
    parameters: list[nn.Parameter],
    phases: list[Phase],
    batches: Callable[[Phase, int], Iterator[Batch]],
    loss: StepLoss,
    folder: Path,
    *,
    weight_decay: float = 0.05,
    validate: Callable[[], dict[str, float]] | None = None,
    validate_every: int = 1000,
) -> None:
    """Train `parameters` through all phases, resuming from `folder` where an earlier run stopped.

    Args:
        module: What is saved in checkpoints.
        parameters: What is trained.
        phases: In this order.
        batches: Gives the batches of a phase from a step of that phase on.
        loss: Maps a batch and the overall step to losses; 'loss' is minimised, the rest is shown.
        folder: Where `checkpoint.pt` and `log.jsonl` are written.
        weight_decay: Of matrices; vectors have none.
        validate: Measures the module; called every `validate_every` steps and at the end.
        validate_every: Steps between two validations.

    Raises:
        DataError: A loss is not finite; the checkpoint before it stays.
    """
    folder.mkdir(parents=True, exist_ok=True)
    matrices = [parameter for parameter in parameters if parameter.ndim > 1]
    vectors = [parameter for parameter in parameters if parameter.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [{'params': matrices, 'weight_decay': weight_decay}, {'params': vectors, 'weight_decay': 0.0}], lr=0.0
    )
    checkpoint = folder / 'checkpoint.pt'
    done = 0
    cpu_seconds = 0.0
    if checkpoint.is_file():
        saved = torch.load(checkpoint, weights_only=True)
        module.load_state_dict(saved['module'])
        optimizer.load_state_dict(saved['optimizer'])
        done, cpu_seconds = saved['step'], saved['cpu_seconds']
        _LOG.info('resuming at step %d', done)
    started_cpu = time.process_time() - cpu_seconds

    def save() -> None:
        cpu = time.process_time() - started_cpu
        state = {'module': module.state_dict(), 'optimizer': optimizer.state_dict(), 'step': done, 'cpu_seconds': cpu}
        torch.save(state, checkpoint.with_suffix('.tmp'))
        checkpoint.with_suffix('.tmp').replace(checkpoint)

    def record(values: dict[str, float]) -> None:
        with (folder / 'log.jsonl').open('a') as log:
            log.write(
                json.dumps({'step': done, 'cpu_seconds': round(time.process_time() - started_cpu), **values}) + '\n'
            )

    first = 0
    last_save = time.monotonic()
    shown: dict[str, float] = {}
    for phase in phases:
        local = done - first
        first += phase.steps
        if local >= phase.steps:
            continue
        source = batches(phase, local)
        with tqdm(total=phase.steps, initial=local, desc=f'{phase.size} px', unit='step', mininterval=5) as progress:
            for step in range(local, phase.steps):
                for group in optimizer.param_groups:
                    group['lr'] = _rate(step, phase)
                losses = loss(next(source), done)
                if not torch.isfinite(losses['loss']):
                    raise DataError(
                        f'loss is {losses["loss"].item()} at step {done}; {checkpoint} holds the last good one'
                    )
                optimizer.zero_grad(set_to_none=True)
                losses['loss'].backward()
                nn.utils.clip_grad_norm_(parameters, 1.0)
                optimizer.step()
                done += 1
                for name, value in losses.items():
                    shown[name] = 0.98 * shown.get(name, value.item()) + 0.02 * value.item()
                progress.update()
                progress.set_postfix({name: f'{value:.3f}' for name, value in shown.items()}, refresh=False)
                if done % 100 == 0:
                    record(shown)
                if time.monotonic() - last_save > _CHECKPOINT_SECONDS:
                    save()
                    last_save = time.monotonic()
                if validate is not None and (done % validate_every == 0 or step == phase.steps - 1):
                    scores = validate()
                    record(scores)
                    tqdm.write(f'step {done}: ' + ', '.join(f'{name} {value:.3f}' for name, value in scores.items()))
        save()
