"""What to say where the memory of the GPU is used up in training."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from fisa_ros.core.errors import DataError
from fisa_ros.runtime.torch_cuda import is_out_of_memory
from fisa_ros.training.settings import RunSettings


@contextmanager
def told_of_memory(device: torch.device, run: RunSettings, doing: str) -> Iterator[None]:
    """Turn errors of too little memory into ones that say what to lower.

    Args:
        device: Where it is too little.
        run: How the training is run.
        doing: What was done, such as "at step 3".

    Raises:
        DataError: The memory is used up.
    """
    try:
        yield
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        now = run.accumulate
        masks = 'keep the masks with --cache-masks' if run.mask_cache is None else 'leave out --cache-masks'
        raise DataError(
            f'out of memory on {device} {doing} with --accumulate {now}: take {2 * now}, which leaves the result as it '
            f'is, lower batch_size in the recipe, {masks} (stage fisa), or close other programs that use it '
            f'({str(error).splitlines()[0]})'
        ) from error
