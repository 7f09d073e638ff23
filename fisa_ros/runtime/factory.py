"""From the name of a back-end to the back-end; libraries are imported only here, and only when asked for."""

import ctypes
import importlib.util
import logging
import re

from fisa_ros.core.errors import BackendUnavailableError, GraphsError
from fisa_ros.core.manifest import ModelManifest
from fisa_ros.runtime.backend import Backend
from fisa_ros.runtime.graph_files import graphs_folder

BACKENDS = ('auto', 'torch', 'onnxruntime', 'tensorrt')
_PACKAGES = {'torch': ('PyTorch', 'torch'), 'onnxruntime': ('ONNX Runtime', 'onnxruntime tokenizers')}
_LOG = logging.getLogger('fisa_ros.runtime')


def create_backend(manifest: ModelManifest, backend: str = 'auto', device: str = 'auto') -> Backend:
    """Load a model into a back-end.

    Args:
        manifest: The model.
        backend: One of `BACKENDS`. "auto" is, on a GPU, "tensorrt" where TensorRT and the exported model are there, or
            else "torch"; on a CPU "onnxruntime" where the exported model is there, or else "torch".
        device: "auto" (the first GPU if there is one, else the CPU), "cpu", "cuda" or "cuda:<number>".

    Raises:
        BackendUnavailableError: The library or the device is not there; the text says what to install or to choose.
        GraphsError: The exported graphs that were asked for are missing, damaged or of another model.
        WeightsError: The weights are missing or do not fit.
    """
    if backend not in BACKENDS:
        raise BackendUnavailableError(f'unknown back-end {backend!r}, choose one of {", ".join(BACKENDS)}')
    if not re.fullmatch(r'auto|cpu|cuda(:\d{1,3})?', device):
        raise BackendUnavailableError(f'unknown device {device!r}, choose auto, cpu, cuda or cuda:<number>')
    if backend != 'auto':
        return {'torch': _torch, 'onnxruntime': _onnxruntime, 'tensorrt': _tensorrt}[backend](manifest, device)
    preferred = _tensorrt if device.startswith('cuda') or (device == 'auto' and _count_gpus()) else _onnxruntime
    try:
        return preferred(manifest, device)
    except (BackendUnavailableError, GraphsError) as error:
        _LOG.warning('back-end torch is used, another would be faster: %s', error)
    return _torch(manifest, device)


def _onnxruntime(manifest: ModelManifest, device: str) -> Backend:
    if device not in ('auto', 'cpu'):
        raise BackendUnavailableError(f"back-end 'onnxruntime' runs on the CPU, got device {device!r}")
    _require('onnxruntime', 'onnxruntime', 'tokenizers')
    from fisa_ros.runtime.onnxruntime_backend import OnnxRuntimeBackend

    return OnnxRuntimeBackend(manifest, graphs_folder(manifest))


def _tensorrt(manifest: ModelManifest, device: str) -> Backend:
    index = int(device.partition(':')[2] or 0)
    num_gpus = _count_gpus()
    if device == 'cpu' or index >= num_gpus:
        raise BackendUnavailableError(
            f"back-end 'tensorrt' needs a GPU of NVIDIA: device is {device!r} and the driver has {num_gpus}"
        )
    from fisa_ros.runtime.tensorrt_start import require_tensorrt, start_tensorrt

    require_tensorrt()
    # On the CPU, as other work on the GPU would spoil what the builder measures there.
    fallback = _onnxruntime(manifest, 'cpu')
    try:
        return start_tensorrt(manifest, graphs_folder(manifest), fallback, index)
    except BaseException:
        fallback.close()
        raise


def _torch(manifest: ModelManifest, device: str) -> Backend:
    _require('torch', 'torch')
    from fisa_ros.runtime.torch_backend import TorchBackend
    from fisa_ros.runtime.torch_device import choose_device

    return TorchBackend(manifest, choose_device(device))


def _require(backend: str, *modules: str) -> None:
    if any(importlib.util.find_spec(module) is None for module in modules):
        library, packages = _PACKAGES[backend]
        raise BackendUnavailableError(
            f'back-end {backend!r} needs {library}, which is not installed: pip install {packages}'
        )


def _count_gpus() -> int:
    """Ask the driver, as importing PyTorch for that takes seconds."""
    try:
        driver = ctypes.CDLL('libcuda.so.1')
    except OSError:
        return 0
    count = ctypes.c_int(0)
    is_answered = driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0
    return count.value if is_answered else 0
