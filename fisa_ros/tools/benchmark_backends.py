"""From the name of a back-end to one that is ready to be measured."""

from collections.abc import Callable
import functools
import importlib.util
import logging
import time

from fisa_ros.core.errors import BackendUnavailableError, EngineError
from fisa_ros.core.manifest import ModelManifest
from fisa_ros.core.resources import cache_dir
from fisa_ros.pipeline.segmenter import Segmenter
from fisa_ros.runtime.backend import Backend
from fisa_ros.runtime.factory import create_backend
from fisa_ros.runtime.graph_files import graphs_folder
from fisa_ros.runtime.switching_backend import SwitchingBackend

_log = logging.getLogger('fisa_ros.benchmark')
_REPORT_PERIOD_S = 15.0

# Makes a back-end of a model on a device with so many threads, None for its own choice, in a precision.
BackendFactory = Callable[[ModelManifest, str, int | None, str], Backend]


def open_backend(
    manifest: ModelManifest, name: str, device: str, threads: int | None, precision: str = 'auto'
) -> Backend:
    """Load a model into a back-end and wait until that one serves.

    Args:
        manifest: The model.
        name: One of `BACKEND_FACTORIES`.
        device: See `create_backend`.
        threads: Threads of an operator on a CPU; None is the back-end's own choice.
        precision: See `create_backend`.

    Raises:
        FisaError: The back-end is not there, does not get ready or cannot have a number of threads.
    """
    backend = BACKEND_FACTORIES[name](manifest, device, threads, precision)
    if isinstance(backend, SwitchingBackend):
        try:
            _wait(backend, is_required=name == 'tensorrt')
        except BaseException:
            backend.close()
            raise
    return backend


def open_segmenter(
    manifest: ModelManifest, name: str, device: str, threads: int | None = None, precision: str = 'auto'
) -> Segmenter:
    """Load a model as `open_backend` does, with the cache of words."""
    return Segmenter(open_backend(manifest, name, device, threads, precision), manifest, cache_dir())


def _wait(backend: SwitchingBackend, *, is_required: bool) -> None:
    """Wait for engines, whose build takes minutes the first time."""
    started_s = time.monotonic()
    while not backend.wait(_REPORT_PERIOD_S):
        _log.warning('%.0f s: %s', time.monotonic() - started_s, backend.status.describe())
    status = backend.status
    if status.is_degraded and is_required:
        raise EngineError(f"back-end 'tensorrt' did not get ready: {status.describe()}")


def _auto(manifest: ModelManifest, device: str, threads: int | None, precision: str) -> Backend:
    backend = create_backend(manifest, 'auto', device, precision)
    name = backend.name
    is_on_cpu = backend.device == 'cpu' and not isinstance(backend, SwitchingBackend)
    if threads is None and (name != 'torch' or not is_on_cpu):
        return backend
    backend.close()
    if not is_on_cpu:
        raise BackendUnavailableError(f'threads={threads} needs a back-end on the CPU, which auto did not choose')
    return BACKEND_FACTORIES[name](manifest, device, threads, precision)


def _torch(manifest: ModelManifest, device: str, threads: int | None, precision: str) -> Backend:
    if importlib.util.find_spec('torch') is None:
        # Which says what to install.
        return create_backend(manifest, 'torch', device, precision)
    from fisa_ros.runtime.torch_backend import TorchBackend
    from fisa_ros.runtime.torch_device import DEFAULT_THREADS, choose_device

    chosen = choose_device(device)
    if chosen != 'cpu':
        if threads is not None:
            raise BackendUnavailableError(f'threads={threads} needs device cpu, got {chosen!r}')
        return TorchBackend(manifest, chosen, precision=precision)
    # A number in any case: it belongs to the process, and another back-end beside this one may have set its own.
    return TorchBackend(manifest, chosen, threads or DEFAULT_THREADS, precision)


def _onnxruntime(manifest: ModelManifest, device: str, threads: int | None, precision: str) -> Backend:
    is_there = all(importlib.util.find_spec(module) for module in ('onnxruntime', 'tokenizers'))
    if threads is None or device not in ('auto', 'cpu') or not is_there:
        return create_backend(manifest, 'onnxruntime', device, precision)
    from fisa_ros.runtime.onnxruntime_backend import OnnxRuntimeBackend

    return OnnxRuntimeBackend(manifest, graphs_folder(manifest), threads, precision)


def _tensorrt(manifest: ModelManifest, device: str, threads: int | None, precision: str) -> Backend:
    if threads is not None:
        raise BackendUnavailableError(f"back-end 'tensorrt' has no threads to choose, got threads={threads}")
    return create_backend(manifest, 'tensorrt', device, precision)


def _crops(
    manifest: ModelManifest, device: str, threads: int | None, precision: str, crop_size: int | None = None
) -> Backend:
    if device not in ('auto', 'cpu'):
        raise BackendUnavailableError(f"'crops' runs on the CPU, got device {device!r}")
    if precision not in ('auto', 'fp32'):
        raise BackendUnavailableError(f"'crops' runs in fp32, got precision {precision!r}")
    from fisa_ros.runtime.crop_pipeline import open_crop_pipeline

    return open_crop_pipeline(manifest, threads, crop_size=crop_size)


BACKEND_FACTORIES: dict[str, BackendFactory] = {
    'auto': _auto,
    'torch': _torch,
    'onnxruntime': _onnxruntime,
    'tensorrt': _tensorrt,
    # What one would write without FISA; to compare with: crops of the classifier's own size, and small ones.
    'crops': _crops,
    'crops-96px': functools.partial(_crops, crop_size=96),
}
