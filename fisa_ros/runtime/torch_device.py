"""Which device PyTorch can run on."""

import torch

from fisa_ros.core.errors import BackendUnavailableError

# What PyTorch chose before anybody set another number.
DEFAULT_THREADS: int = torch.get_num_threads()


def choose_device(device: str) -> str:
    """Return "cpu" or "cuda:<number>" for a device that may be "auto" or "cuda".

    Raises:
        BackendUnavailableError: The GPU is not there.
    """
    num_gpus = torch.cuda.device_count()
    if device == 'auto':
        return 'cuda:0' if num_gpus else 'cpu'
    if device == 'cpu':
        return device
    index = int(device.partition(':')[2] or 0)
    if index >= num_gpus:
        seen = f'{num_gpus} GPU' + ('' if num_gpus == 1 else 's')
        raise BackendUnavailableError(f'device {device!r} is not there: PyTorch sees {seen}; choose auto or cpu')
    return f'cuda:{index}'
