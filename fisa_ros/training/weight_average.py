"""A running average of the weights that are trained, kept beside them."""

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class WeightAverage:
    """An exponential average of parameters, and of the buffers of floating point beside them.

    Args:
        module: Whose weights are averaged.
        trained: Names of the parameters that change.
        decay: Share of the old average that stays at each step; `None` keeps no average.
        saved: Averages of an earlier run.
    """

    def __init__(
        self, module: nn.Module, trained: Collection[str], decay: float | None, saved: Mapping[str, Tensor]
    ) -> None:
        self._decay = decay
        names = {*trained, *(name for name, buffer in module.named_buffers() if buffer.is_floating_point())}
        state = {} if decay is None else module.state_dict()
        self._live = {name: tensor for name, tensor in state.items() if name in names}
        self.tensors = {name: saved.get(name, tensor).to(tensor, copy=True) for name, tensor in self._live.items()}

    def update(self, step: int) -> None:
        """Take in the weights that `step` made."""
        if self._decay is None:
            return
        # Early on the average forgets faster, or it would hold on to the initial weights.
        decay = min(self._decay, (1 + step) / (10 + step))
        for name, tensor in self._live.items():
            self.tensors[name].lerp_(tensor, 1 - decay)

    @torch.no_grad()
    def apply(self) -> None:
        """Put the averages into the module for good."""
        for name, tensor in self._live.items():
            tensor.copy_(self.tensors[name])

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Let the module have the averages inside the context."""
        own = {name: tensor.clone() for name, tensor in self._live.items()}
        self.apply()
        try:
            yield
        finally:
            with torch.no_grad():
                for name, tensor in self._live.items():
                    tensor.copy_(own[name])
