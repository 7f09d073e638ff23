"""How many images are taken at once, and what to say where they use up the memory."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import torch

from fisa_ros.core.errors import DataError
from fisa_ros.runtime.torch_cuda import is_out_of_memory
from fisa_ros.training.settings import Phase, RunSettings

ALL_ELSE = 'close other programs that use it, or take a smaller model'
"""What to do where it does not matter how many images are taken at once."""
_MOST_BESIDE_STEPS = 8


def images_of_step(phases: Sequence[Phase], run: RunSettings, world_size: int) -> int:
    """Return how many images a process takes at once in the largest steps of a training."""
    return max((_part(phase, run, world_size) for phase in phases), default=1)


def images_beside_steps(phases: Sequence[Phase], run: RunSettings, world_size: int) -> int:
    """Return how many images a process takes at once beside the steps: if those fit the memory, these do."""
    return max(1, min([_MOST_BESIDE_STEPS, *(_part(phase, run, world_size) for phase in phases)]))


def memory_advice(
    phases: Sequence[Phase],
    run: RunSettings,
    world_size: int,
    images: Callable[[Sequence[Phase], RunSettings, int], int],
) -> str:
    """Return what to do where so many images use up the memory.

    Args:
        phases: Those of the training.
        run: How it is run.
        world_size: Number of processes.
        images: Says how many, as `images_of_step`.
    """
    now = images(phases, run, world_size)
    of_process = [phase.batch_size // world_size for phase in phases]
    splits = range(run.accumulate + 1, min(of_process, default=0) + 1)
    better = (
        parts
        for parts in splits
        if not any(count % parts for count in of_process)
        and images(phases, replace(run, accumulate=parts), world_size) < now
    )
    ways = []
    if (parts := next(better, None)) is not None:
        ways.append(f'take --accumulate {parts}, which leaves the result as it is')
    if now > 1:
        ways.append('lower batch_size in the recipe')
    return ', '.join([*ways, ALL_ELSE])


@contextmanager
def told_of_memory(device: torch.device, doing: str, advice: str) -> Iterator[None]:
    """Turn errors of too little memory into ones that say what to do.

    Args:
        device: Where it is too little.
        doing: What was done, such as "at step 3".
        advice: What to do.

    Raises:
        DataError: The memory is used up.
    """
    try:
        yield
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise DataError(f'out of memory on {device} {doing}: {advice} ({str(error).splitlines()[0]})') from error


def is_out_of_host_memory(error: Exception) -> bool:
    """Tell whether an error says that the memory of the machine itself is used up."""
    return isinstance(error, MemoryError) or 'DefaultCPUAllocator' in str(error)


def _part(phase: Phase, run: RunSettings, world_size: int) -> int:
    return phase.batch_size // (run.accumulate * world_size)
