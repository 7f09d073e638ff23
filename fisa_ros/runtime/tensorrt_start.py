"""Starts the TensorRT back-end of a model behind one that serves until it is ready."""

from collections.abc import Callable
from dataclasses import dataclass
import functools
import importlib
from pathlib import Path
from typing import TYPE_CHECKING

from fisa_ros.core.errors import BackendUnavailableError, GpuFailedError
from fisa_ros.core.manifest import ModelManifest
from fisa_ros.runtime.backend import Backend
from fisa_ros.runtime.build_progress import BuildProgress
from fisa_ros.runtime.engine_cache import EngineCache
from fisa_ros.runtime.engine_inputs import MAX_CLASSES
from fisa_ros.runtime.engine_key import Machine
from fisa_ros.runtime.engine_supply import EngineSupply
from fisa_ros.runtime.graph_files import ENCODER_FILE, HEAD_FILE, HEAD_OUTPUTS, GraphsDescription, open_graphs
from fisa_ros.runtime.parity_gate import Arrays
from fisa_ros.runtime.precision_ladder import RUNGS, Attempt
from fisa_ros.runtime.switching_backend import SwitchingBackend
from fisa_ros.runtime.tensorrt_backend import TensorRtBackend
from fisa_ros.runtime.tensorrt_engine import TensorRtEngine, read_machine
from fisa_ros.runtime.text_graph import TextGraph

if TYPE_CHECKING:
    import onnxruntime

_NEEDED = {
    'tensorrt': 'on a Jetson apt install python3-libnvinfer (part of JetPack), elsewhere pip install tensorrt-cu13',
    'cuda.bindings.runtime': 'pip install cuda-bindings, of the CUDA version that the driver has',
    'onnxruntime': 'pip install onnxruntime',
    'tokenizers': 'pip install tokenizers',
    'ftfy': 'pip install ftfy',
}
# GPUs that failed in this process, and how: CUDA lets nothing run there until it is started again.
_lost_gpus: dict[int, str] = {}


@dataclass(frozen=True, slots=True)
class EnginesReport:
    """What came of `build_engines`.

    Attributes:
        attempts: The precisions that were tried, and what came of them; the last one passed.
        verdict: What the parity gate said of that one, in one line.
    """

    attempts: tuple[Attempt, ...]
    verdict: str


class TensorRtToolkit:
    """What needs a GPU, as `EngineSupply` wants it.

    Args:
        folder: The graphs.
        description: What they are.
        device: Number of the GPU.
    """

    def __init__(self, folder: Path, description: GraphsDescription, device: int) -> None:
        self._folder, self._description, self._device = folder, description, device

    def read_machine(self) -> Machine:
        """See `Toolkit.read_machine`."""
        return read_machine(self._device)

    def open_engine(self, plan: Path) -> TensorRtEngine:
        """See `Toolkit.open_engine`."""
        return TensorRtEngine(plan)

    def run_float32_head(self, inputs: Arrays) -> Arrays:
        """See `Toolkit.run_float32_head`; runs on ONNX Runtime."""
        found = self._float32_head.run(HEAD_OUTPUTS, dict(inputs))
        return dict(zip(HEAD_OUTPUTS, found, strict=True))

    @functools.cached_property
    def _float32_head(self) -> 'onnxruntime.InferenceSession':
        from fisa_ros.runtime.onnxruntime_backend import open_session, session_options

        return open_session(self._folder / HEAD_FILE, session_options(threads=1))

    def open_backend(self, encoder: TensorRtEngine, head: TensorRtEngine, precision: str) -> TensorRtBackend:
        """See `Toolkit.open_backend`."""
        try:
            text = TextGraph(self._folder, self._description)
        except BaseException:
            encoder.close()
            head.close()
            raise
        return TensorRtBackend(self._description, encoder, head, text, self._device, precision)


def start_tensorrt(
    manifest: ModelManifest,
    folder: Path,
    open_fallback: Callable[[], Backend],
    device: int = 0,
    precision: str = 'auto',
    cache: EngineCache | None = None,
) -> SwitchingBackend:
    """Return a back-end that serves with a fallback at once and with TensorRT when its engines are ready.

    Where the GPU fails while it serves, the fallback serves again, and in this process that GPU is not used any more.

    Args:
        manifest: The model.
        folder: Its exported graphs.
        open_fallback: Opens the fallback, now and after a failure of the GPU.
        device: Number of the GPU.
        precision: "auto" begins with half precision; "fp32" leaves it out.
        cache: Where engines are kept; the user's cache by default.

    Raises:
        BackendUnavailableError: TensorRT, CUDA or ONNX Runtime are missing, and the text says what to install; or the
            GPU has failed in this process.
        GraphsError: The graphs are missing, damaged or of another model.
    """
    if device in _lost_gpus:
        raise BackendUnavailableError(
            f'GPU {device} failed, and is not used until the process is started again: {_lost_gpus[device]}'
        )
    supply, progress = _supply(manifest, folder, device, precision, cache)

    def prepare(is_cancelled: Callable[[], bool]) -> tuple[Backend, str]:
        try:
            return supply.get(is_cancelled)
        except GpuFailedError as error:
            _lost_gpus[device] = str(error)
            raise

    return SwitchingBackend(
        open_fallback,
        prepare,
        progress,
        max_classes=MAX_CLASSES,
        on_lost=lambda reason: _lost_gpus.update({device: reason}),
    )


def build_engines(
    manifest: ModelManifest,
    folder: Path,
    device: int = 0,
    precision: str = 'auto',
    cache: EngineCache | None = None,
    *,
    retry: bool = False,
    tell: Callable[[BuildProgress], None] = lambda progress: None,
    is_cancelled: Callable[[], bool] = lambda: False,
) -> EnginesReport:
    """Build all engines that a model needs on this machine, or find them in the cache, and judge them.

    Args:
        manifest: The model.
        folder: Its exported graphs.
        device: Number of the GPU.
        precision: "auto" begins with half precision; "fp32" leaves it out.
        cache: Where engines are kept; the user's cache by default.
        retry: Whether precisions that could not be built, or did not pass, at an earlier time are tried once more.
        tell: Gets what can be asked for the progress.
        is_cancelled: Asked several times a second.

    Raises:
        BackendUnavailableError: As `start_tensorrt`.
        GraphsError: As `start_tensorrt`.
        EngineError: No precision gives the reference outputs, or an engine cannot be built; the text says why.
        EngineCacheError: The cache cannot be written, or the disk is full.
        GpuMemoryError: The GPU has too little memory.
        BuildCancelledError: `is_cancelled` said so.
    """
    supply, progress = _supply(manifest, folder, device, precision, cache)
    tell(progress)
    if retry:
        supply.forget_refusals()
    backend, verdict = supply.get(is_cancelled)
    backend.close()
    return EnginesReport(supply.attempts, verdict)


def _supply(
    manifest: ModelManifest, folder: Path, device: int, precision: str, cache: EngineCache | None
) -> tuple[EngineSupply[TensorRtEngine], BuildProgress]:
    require_tensorrt()
    description = open_graphs(folder, manifest)
    progress = BuildProgress()
    toolkit = TensorRtToolkit(folder, description, device)
    rungs = tuple(rung for rung in RUNGS if precision == 'auto' or rung.encoder_file == ENCODER_FILE)
    supply = EngineSupply(folder, description, toolkit, progress, cache or EngineCache(), device=device, rungs=rungs)
    return supply, progress


def require_tensorrt() -> None:
    """Check that all libraries of the back-end can be imported.

    Raises:
        BackendUnavailableError: One cannot; the text says what to install.
    """
    for module, advice in _NEEDED.items():
        try:
            importlib.import_module(module)
        except (ImportError, OSError) as error:
            raise BackendUnavailableError(
                f"back-end 'tensorrt' needs {module}, which cannot be imported ({error}): {advice}"
            ) from error
