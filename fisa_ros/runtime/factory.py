"""From the name of a back-end to the back-end; libraries are imported only here, and only when asked for."""

from collections.abc import Callable, Sequence
import ctypes
import importlib.util
import logging
import re
from typing import NoReturn

from fisa_ros.core.errors import BackendUnavailableError, GraphsError
from fisa_ros.core.manifest import ModelManifest
from fisa_ros.runtime.backend import Backend
from fisa_ros.runtime.graph_files import graphs_folder

BACKENDS = ('auto', 'torch', 'onnxruntime', 'tensorrt')
PRECISIONS = ('auto', 'fp32')
_PACKAGES = {'torch': ('PyTorch', 'torch'), 'onnxruntime': ('ONNX Runtime', 'onnxruntime tokenizers ftfy')}
_LOG = logging.getLogger('fisa_ros.runtime')


def create_backend(
    manifest: ModelManifest, backend: str = 'auto', device: str = 'auto', precision: str = 'auto'
) -> Backend:
    """Load a model into a back-end.

    Args:
        manifest: The model.
        backend: One of `BACKENDS`. "auto" is, on a GPU, "tensorrt" where TensorRT and the exported model are there, or
            else "torch"; on a CPU "onnxruntime" where the exported model is there, or else "torch". "tensorrt" where
            it cannot be is "onnxruntime", with a warning that says what to install.
        device: "auto" (the first GPU if there is one, else the CPU), "cpu", "cuda" or "cuda:<number>".
        precision: "auto" is the fastest whose outputs stay close to those of fp32, by the limits of `parity_gate` and
            `graph_quantization`; or "fp32".

    Raises:
        BackendUnavailableError: The library or the device is not there; the text says what to install or to choose.
        GraphsError: The exported graphs that were asked for are missing, damaged or of another model.
        WeightsError: The weights are missing or do not fit.
    """
    if backend not in BACKENDS:
        raise BackendUnavailableError(f'unknown back-end {backend!r}, choose one of {", ".join(BACKENDS)}')
    if precision not in PRECISIONS:
        raise BackendUnavailableError(f'unknown precision {precision!r}, choose one of {", ".join(PRECISIONS)}')
    if not re.fullmatch(r'auto|cpu|cuda(:\d{1,3})?', device):
        raise BackendUnavailableError(f'unknown device {device!r}, choose auto, cpu, cuda or cuda:<number>')
    if backend != 'auto':
        make = {'torch': _torch, 'onnxruntime': _onnxruntime, 'tensorrt': _tensorrt}[backend]
        return make(manifest, device, precision)
    if device == 'cpu' or (device == 'auto' and not _count_gpus()):
        candidates = [_onnxruntime, _torch]
    else:
        candidates = [_installed_tensorrt, _torch]
        if device == 'auto':
            candidates.append(_onnxruntime)
    return _first_of(manifest, device, precision, candidates)


def _first_of(
    manifest: ModelManifest,
    device: str,
    precision: str,
    candidates: Sequence[Callable[[ModelManifest, str, str], Backend]],
) -> Backend:
    """Return the first that can be had, with a warning for each that cannot; the last one raises what it raises."""
    *better, last = candidates
    for make in better:
        try:
            return make(manifest, device, precision)
        except (BackendUnavailableError, GraphsError) as error:
            _LOG.warning('a slower back-end is used: %s', error)
    return last(manifest, device, precision)


def _onnxruntime(manifest: ModelManifest, device: str, precision: str) -> Backend:
    if device not in ('auto', 'cpu'):
        raise BackendUnavailableError(f"back-end 'onnxruntime' runs on the CPU, got device {device!r}")
    _require('onnxruntime', 'onnxruntime', 'tokenizers', 'ftfy')
    from fisa_ros.runtime.onnxruntime_backend import OnnxRuntimeBackend

    return OnnxRuntimeBackend(manifest, graphs_folder(manifest), precision=precision)


def _tensorrt(manifest: ModelManifest, device: str, precision: str) -> Backend:
    """Start TensorRT behind ONNX Runtime, which serves until engines are ready, and for good where they cannot be."""
    if device == 'cpu':
        raise BackendUnavailableError("back-end 'tensorrt' runs on a GPU, got device 'cpu'")

    def open_fallback() -> Backend:
        # On the CPU, as other work on the GPU would spoil what the builder measures there, and as the GPU may fail.
        return _onnxruntime(manifest, 'cpu', precision)

    try:
        return _start_tensorrt(manifest, device, precision, open_fallback)
    except BackendUnavailableError as error:
        return _unavailable(open_fallback, error)


def _installed_tensorrt(manifest: ModelManifest, device: str, precision: str) -> Backend:
    """Start TensorRT, or raise where its libraries are missing."""
    from fisa_ros.runtime.tensorrt_start import require_tensorrt

    require_tensorrt()
    return _tensorrt(manifest, device, precision)


def _start_tensorrt(
    manifest: ModelManifest, device: str, precision: str, open_fallback: Callable[[], Backend]
) -> Backend:
    from fisa_ros.runtime.tensorrt_start import start_tensorrt

    index = int(device.partition(':')[2] or 0)
    num_gpus = _count_gpus()
    if index >= num_gpus:
        raise BackendUnavailableError(
            f"back-end 'tensorrt' needs GPU {index} of NVIDIA, and its driver shows {num_gpus}: install or mend the "
            'driver, or choose another device or back-end'
        )
    return start_tensorrt(manifest, graphs_folder(manifest), open_fallback, index, precision)


def _unavailable(open_fallback: Callable[[], Backend], error: BackendUnavailableError) -> Backend:
    """Return a back-end that serves with the fallback and says why it is not the one that was asked for."""
    from fisa_ros.runtime.build_progress import BuildProgress
    from fisa_ros.runtime.switching_backend import SwitchingBackend

    def prepare(_: object) -> NoReturn:
        raise error

    return SwitchingBackend(open_fallback, prepare, BuildProgress())


def _torch(manifest: ModelManifest, device: str, precision: str) -> Backend:
    _require('torch', 'torch')
    from fisa_ros.runtime.torch_backend import TorchBackend
    from fisa_ros.runtime.torch_device import choose_device

    return TorchBackend(manifest, choose_device(device), precision=precision)


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
