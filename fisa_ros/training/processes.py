"""The processes of one training run, one or several: what they add up and share."""

from collections.abc import Mapping, Sequence
import os
from typing import Any

from accelerate import Accelerator
from accelerate.utils import broadcast, gather_object, send_to_device
import torch
from torch import Tensor, nn


class Processes:
    """This process among those that `torchrun` started, or `accelerate launch` on GPUs; alone without them.

    Attributes:
        device: Where this process computes.
        rank: Its number.
        world_size: How many there are.
    """

    def __init__(self) -> None:
        # Without `cpu`, Accelerate leaves several processes without a GPU unconnected.
        self._accelerator = Accelerator(cpu=not torch.cuda.is_available())
        self.device: torch.device = self._accelerator.device
        self.rank: int = self._accelerator.process_index
        self.world_size: int = self._accelerator.num_processes

    @property
    def is_main(self) -> bool:
        """Whether this is the first one: it alone shows, logs and writes."""
        return self.rank == 0

    @property
    def gpus(self) -> int:
        """Number of GPUs in use."""
        return self.world_size if self.device.type == 'cuda' else 0

    def autocast_type(self, precision: str) -> torch.dtype:
        """Return the type in which matrices are multiplied: of bf16, fp16 on a GPU that has no bf16."""
        if precision == 'bf16' and self.device.type == 'cuda' and not torch.cuda.is_bf16_supported(False):
            return torch.float16
        return {'fp32': torch.float32, 'bf16': torch.bfloat16, 'fp16': torch.float16}[precision]

    def loaders(self, wanted: int | None) -> int:
        """Return the number of threads that read images: as wanted, or by the processors where a GPU waits for them."""
        if wanted is not None or self.device.type != 'cuda':
            return wanted or 1
        local = int(os.environ.get('LOCAL_WORLD_SIZE', '1'))
        return max(1, len(os.sched_getaffinity(0)) // local)

    def to_device(self, value: Any) -> Any:
        """Move a tensor, or all tensors of a container, to this process's device."""
        return send_to_device(value, self.device)

    def sum(self, values: Sequence[Tensor | float]) -> list[float]:
        """Add up scalars over all processes, in float64."""
        own = torch.stack([torch.as_tensor(value, device=self.device).detach().double() for value in values])
        summed: list[float] = self._accelerator.reduce(own, reduction='sum').tolist()
        return summed

    def sum_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Add up the gradients over all processes, in place and in float32."""
        if self.world_size == 1:
            return
        owned = torch.tensor([float(entry.grad is not None) for entry in parameters], device=self.device)
        own = [
            (torch.zeros_like(entry) if entry.grad is None else entry.grad).flatten().float() for entry in parameters
        ]
        summed: Tensor = self._accelerator.reduce(torch.cat([*own, owned]), reduction='sum')
        *gradients, owners = summed.split([*(entry.numel() for entry in parameters), len(owned)])
        for parameter, gradient, count in zip(parameters, gradients, owners.tolist(), strict=True):
            # What has no gradient anywhere must keep none: AdamW would decay it.
            parameter.grad = gradient.view_as(parameter).to(parameter.dtype) if count else None

    def share_state(self, module: nn.Module) -> None:
        """Give every process the first one's parameters and buffers."""
        if self.world_size > 1:
            for tensor in module.state_dict().values():
                tensor.copy_(broadcast(tensor.contiguous()))

    def gather(self, value: Any) -> list[Any]:
        """Return the value of each process, by rank; tensors of it come on the CPU."""
        gathered: list[Any] = gather_object([send_to_device(value, 'cpu')])
        return gathered

    def wait(self) -> None:
        """Wait until every process is here."""
        self._accelerator.wait_for_everyone()

    def random_states(self) -> list[dict[str, Tensor]]:
        """Return the states of PyTorch's random generators, by rank."""
        own = {'cpu': torch.get_rng_state()}
        if self.device.type == 'cuda':
            own['cuda'] = torch.cuda.get_rng_state(self.device)
        return self.gather(own)

    def restore_random_state(self, states: Sequence[Mapping[str, Tensor]]) -> None:
        """Go on with this process's random numbers; those of another number of processes are left alone."""
        if len(states) != self.world_size:
            return
        own = states[self.rank]
        torch.set_rng_state(own['cpu'])
        if self.device.type == 'cuda' and 'cuda' in own:
            torch.cuda.set_rng_state(own['cuda'], self.device)
