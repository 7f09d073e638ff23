"""From the name of a back-end to the back-end; libraries are imported only here, and only when asked for."""

import importlib.util
import re

from fisa_ros.core.errors import BackendUnavailableError
from fisa_ros.core.manifest import ModelManifest
from fisa_ros.runtime.backend import Backend

BACKENDS = ('auto', 'torch', 'onnxruntime', 'tensorrt')
_AVAILABLE = ('auto', 'torch')


def create_backend(manifest: ModelManifest, backend: str = 'auto', device: str = 'auto') -> Backend:
    """Load a model into a back-end.

    Args:
        manifest: The model.
        backend: One of `BACKENDS`; "auto" is "torch".
        device: "auto" (the first GPU if there is one, else the CPU), "cpu", "cuda" or "cuda:<number>".

    Raises:
        BackendUnavailableError: The library or the device is not there; the text says what to install or to choose.
        WeightsError: The weights are missing or do not fit.
    """
    if backend not in BACKENDS:
        raise BackendUnavailableError(f'unknown back-end {backend!r}, choose one of {", ".join(BACKENDS)}')
    if backend not in _AVAILABLE:
        raise BackendUnavailableError(
            f'back-end {backend!r} is not part of this version, choose one of {", ".join(_AVAILABLE)}'
        )
    if not re.fullmatch(r'auto|cpu|cuda(:\d{1,3})?', device):
        raise BackendUnavailableError(f'unknown device {device!r}, choose auto, cpu, cuda or cuda:<number>')
    if importlib.util.find_spec('torch') is None:
        raise BackendUnavailableError("back-end 'torch' needs PyTorch, which is not installed: pip install torch")
    from fisa_ros.runtime.torch_backend import TorchBackend
    from fisa_ros.runtime.torch_device import choose_device

    return TorchBackend(manifest, choose_device(device))
