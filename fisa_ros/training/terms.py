"""Parts of a loss, and the gradients of their means over all batches and processes of one step."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from fisa_ros.training.processes import Processes


class Term(NamedTuple):
    """One part of a loss: its mean over the items of a step, of all processes, times a weight, is minimised.

    Attributes:
        total: Sum over the items of this batch, scalar.
        count: Number of these items; 0 is allowed.
        weight: Factor in the minimised loss; 0 only shows the mean.
    """

    total: Tensor
    count: Tensor | float  # type: ignore[assignment]  # hides tuple.count
    weight: float


class StepGradients:
    """Collects the gradients of one optimiser step, whose images may come in several batches.

    Each term is divided by its count over the whole step: so the step is the same however its images are split, up to
    rounding. The counts are known only after the last batch; until then every term has gradients of its own.

    Args:
        parameters: What is trained.
        processes: Those that share the step.
        scaler: Scales losses so that gradients in half precision do not vanish.
        batches: Number of batches of the step in each process.
    """

    def __init__(
        self, parameters: Sequence[nn.Parameter], processes: Processes, scaler: torch.amp.GradScaler, batches: int
    ) -> None:
        self._parameters, self._processes, self._scaler = parameters, processes, scaler
        self._is_split = batches > 1
        self._parts = batches * processes.world_size
        self._totals: dict[str, float] = {}
        self._counts: dict[str, float] = {}
        self._weights: dict[str, float] = {}
        self._gradients: dict[str, list[Tensor | None]] = {}

    def add(self, terms: Mapping[str, Term], asked: Sequence[bool]) -> list[bool]:
        """Take one batch's terms, the same names on every process; returns what any process asked for."""
        pairs = [value for term in terms.values() for value in (term.total, term.count)]
        summed = self._processes.sum([*pairs, *asked])
        for number, (name, term) in enumerate(terms.items()):
            total, count = summed[2 * number : 2 * number + 2]
            self._totals[name] = self._totals.get(name, 0.0) + total
            self._counts[name] = self._counts.get(name, 0.0) + count
            self._weights[name] = term.weight
        weighted = {name: term for name, term in terms.items() if term.weight and term.total.requires_grad}
        if self._is_split:
            self._differentiate_apart(weighted)
        elif weighted:
            loss = torch.stack([term.total * self._factor(name) for name, term in weighted.items()]).sum()
            self._scaler.scale(loss).backward()
        return [value > 0 for value in summed[2 * len(terms) :]]

    def means(self) -> dict[str, float]:
        """Return the mean of each term over what was added so far, and as 'total' what is minimised."""
        means = {name: total / (self._counts[name] or 1) for name, total in self._totals.items()}
        return {'total': sum(self._weights[name] * mean for name, mean in means.items()), **means}

    def finish(self) -> None:
        """Put the gradients of the step, added up over all processes, into the parameters."""
        if self._is_split:
            for parameter, *parts in zip(self._parameters, *self._gradients.values(), strict=True):
                owned = [
                    gradient * self._factor(name)
                    for name, gradient in zip(self._gradients, parts, strict=True)
                    if gradient is not None
                ]
                parameter.grad = torch.stack(owned).sum(0).to(parameter.dtype) if owned else None
        self._processes.sum_gradients(self._parameters)

    def _factor(self, name: str) -> float:
        return self._weights[name] / (self._counts[name] or 1)

    def _differentiate_apart(self, terms: Mapping[str, Term]) -> None:
        left = len(terms)
        for name, term in terms.items():
            left -= 1
            # As large as a share of the step's mean is; of the sum itself, half precision would overflow.
            share = term.weight / ((float(term.count) or 1.0) * self._parts)
            gradients = torch.autograd.grad(
                self._scaler.scale(term.total * share), self._parameters, retain_graph=left > 0, allow_unused=True
            )
            kept = self._gradients.setdefault(name, [None] * len(self._parameters))
            for index, gradient in enumerate(gradients):
                earlier = kept[index]
                if gradient is not None:
                    total = gradient.float() / share
                    kept[index] = total if earlier is None else earlier.add_(total)
