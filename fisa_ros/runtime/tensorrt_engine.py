"""The calls of TensorRT: building a plan, loading it, running it.

Works with TensorRT 10.3 to 11.x. Networks are strongly typed: the dtypes in the ONNX graph are the precision, and no
flag of the builder lowers it. TensorRT is imported when it is needed, so that this module imports without it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
import functools
import logging
import os
from pathlib import Path
import platform
import re
from typing import TYPE_CHECKING, Any, SupportsInt

import numpy as np

from fisa_ros.core.errors import BuildCancelledError, EngineError, EngineRefusedError, GpuMemoryError
from fisa_ros.runtime import cuda_memory
from fisa_ros.runtime.engine_key import Machine, l4t_release, memory_class_gib
from fisa_ros.runtime.engine_layers import half_layer_share

if TYPE_CHECKING:
    import tensorrt as trt  # type: ignore[import-not-found, unused-ignore]

_MEMINFO = Path('/proc/meminfo')
_REMEMBERED_ERRORS = 3
_NO_MEMORY = re.compile('out[ _]?of[ _]?memory|memory .*could not be allocated', re.IGNORECASE)
# Builders skip kernels for want of memory with no more than a warning, and find none in the end.
_SHORT_OF_MEMORY = re.compile('insuff?icient (memory|workspace)|memory is insufficient', re.IGNORECASE)
_OF_CUDA = re.compile('cuda|driver', re.IGNORECASE)
_LOG = logging.getLogger('fisa_ros.tensorrt')


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """An input or output of an engine.

    Attributes:
        name: Its name.
        dtype: Numpy dtype.
        shape: Size of each axis, -1 where it varies.
        is_input: Which of both.
    """

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    is_input: bool


class TensorRtEngine:
    """A plan in the memory of the GPU, with one context to run it.

    Args:
        plan: The file; it must come from the user's own cache.

    Raises:
        EngineError: TensorRT cannot load it: it is of another version or GPU, or damaged.
    """

    def __init__(self, plan: Path) -> None:
        import tensorrt as trt  # type: ignore[import-not-found, unused-ignore]

        self._logger = _fresh_logger()
        self._runtime = _start(trt.Runtime, self._logger)
        try:
            content = plan.read_bytes()
        except OSError as error:
            raise EngineError(f'{plan} cannot be read: {error}') from error
        engine = self._runtime.deserialize_cuda_engine(content)
        self._engine = _required(engine, f'TensorRT {trt.__version__} cannot load {plan}', self._logger)
        context = self._engine.create_execution_context()
        if context is None:
            # The plan is sound, or it had not loaded.
            raise GpuMemoryError(f'the GPU has too little memory to run {plan}{_last_errors(self._logger)}')
        self._context = context
        self.tensors = {info.name: info for info in self._describe()}

    def set_shape(self, name: str, shape: Sequence[int]) -> None:
        """Say which shape an input of varying shape has from now on.

        Raises:
            EngineError: The engine was not built for it.
        """
        if not self._context.set_input_shape(name, tuple(shape)):
            raise EngineError(f'the engine does not take {tuple(shape)} as {name!r}{_last_errors(self._logger)}')

    def output_shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of an output, for the inputs as they are set.

        Raises:
            EngineError: An input has no shape yet.
        """
        try:
            missing = self._context.infer_shapes()
        except RuntimeError as error:
            raise EngineError(f'the engine cannot tell its shapes: {error}') from error
        if missing:
            raise EngineError(f'the engine lacks shapes or addresses of {", ".join(missing)}')
        return tuple(self._context.get_tensor_shape(name))

    def set_address(self, name: str, address: int) -> None:
        """Say where an input or output lies; the memory must outlive the next runs."""
        if not self._context.set_tensor_address(name, address):
            raise EngineError(f'the engine does not take an address for {name!r}{_last_errors(self._logger)}')

    def run(self, stream: int) -> None:
        """Begin a run on a stream.

        Raises:
            EngineError: TensorRT refuses to.
        """
        if not self._context.execute_async_v3(stream):
            raise EngineError(f'TensorRT did not start the engine{_last_errors(self._logger)}')

    def close(self) -> None:
        """Free context, engine and runtime, in this order; a second call does nothing."""
        for name in ('_context', '_engine', '_runtime'):
            if hasattr(self, name):
                delattr(self, name)

    def _describe(self) -> list[TensorInfo]:
        import tensorrt as trt  # type: ignore[import-not-found, unused-ignore]

        dtypes: dict[Any, type[np.generic]] = {
            trt.DataType.FLOAT: np.float32,
            trt.DataType.HALF: np.float16,
            trt.DataType.INT32: np.int32,
            trt.DataType.INT64: np.int64,
            trt.DataType.UINT8: np.uint8,
            trt.DataType.BOOL: np.bool_,
        }
        found = []
        for index in range(self._engine.num_io_tensors):
            name = self._engine.get_tensor_name(index)
            dtype = self._engine.get_tensor_dtype(name)
            if dtype not in dtypes:
                raise EngineError(f'tensor {name!r} of the engine is of dtype {dtype}, which numpy does not have')
            shape = tuple(self._engine.get_tensor_shape(name))
            is_input = self._engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT
            found.append(TensorInfo(name, np.dtype(dtypes[dtype]), shape, is_input))
        return found


def build_plan(
    arguments: Mapping[str, Any], plan_path: Path, is_cancelled: Callable[[], bool]
) -> dict[str, float | int | str | None]:
    """Build a plan from an ONNX graph; runs in the child process of `engine_build`.

    Args:
        arguments: `onnx`, the path of the graph; `inputs` and `options`, fields of `InputProfile` and `BuildOptions`;
            `timing_cache`, a path; `device`, the number of the GPU.
        plan_path: Where the plan goes.
        is_cancelled: Asked from within the build.

    Returns:
        Facts for the sidecar: share of layers in half precision, workspace, version.

    Raises:
        EngineRefusedError: The graph cannot be parsed or built; the text is TensorRT's.
        EngineError: It cannot be now, for want of memory or because of the driver.
        GpuMemoryError: The GPU has too little memory.
        BuildCancelledError: `is_cancelled` said so.
    """
    import tensorrt as trt  # type: ignore[import-not-found, unused-ignore]

    options = arguments['options']
    with cuda_memory.CudaStream(arguments['device']):
        logger = _fresh_logger()
        builder = _start(trt.Builder, logger)
        flags = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
        network = _required(builder.create_network(flags), 'TensorRT cannot make a network', logger)
        parser = trt.OnnxParser(network, logger)
        if not parser.parse_from_file(arguments['onnx']):
            raise EngineRefusedError(f'TensorRT cannot parse {arguments["onnx"]}: {_parser_errors(parser)}')
        config = _required(builder.create_builder_config(), 'TensorRT cannot make a configuration', logger)
        config.builder_optimization_level = options['optimization_level']
        config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
        if options['allows_tf32']:
            config.set_flag(trt.BuilderFlag.TF32)
        else:
            config.clear_flag(trt.BuilderFlag.TF32)
        for name in options['flags']:
            config.set_flag(trt.BuilderFlag.__members__[name])
        integrated = cuda_memory.is_integrated(arguments['device'])
        free = free_memory_bytes(cuda_memory.memory_info()[0], is_integrated=integrated)
        workspace = min(options['workspace_limit_bytes'], int(free * options['workspace_share']))
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, workspace)
        if integrated:
            # Counts every allocation of the build there, and is three quarters of all memory if nobody says less.
            tactic_memory = int(free * options['tactic_memory_share'])
            config.set_memory_pool_limit(trt.MemoryPoolType.TACTIC_DRAM, tactic_memory)
        varying = [entry for entry in arguments['inputs'] if entry['smallest'] != entry['largest']]
        if varying:
            profile = _required(builder.create_optimization_profile(), 'TensorRT cannot make a profile', logger)
            for entry in varying:
                sizes = (tuple(entry[size]) for size in ('smallest', 'typical', 'largest'))
                profile.set_shape(entry['name'], *sizes)
            if config.add_optimization_profile(profile) < 0:
                raise EngineRefusedError(
                    f'the shapes of the inputs do not fit {arguments["onnx"]}{_last_errors(logger)}'
                )
        timing_cache = _open_timing_cache(config, Path(arguments['timing_cache']))
        # The monitor must live as long as the build does.
        monitor = _make_monitor(is_cancelled)
        config.progress_monitor = monitor
        built = builder.build_serialized_network(network, config)
        if is_cancelled():
            raise BuildCancelledError('the build of the TensorRT engine was cancelled')
        plan = _required(built, f'TensorRT cannot build {arguments["onnx"]}', logger, is_final=True)
        plan_path.write_bytes(plan)
        if timing_cache is not None:
            _save_timing_cache(timing_cache, Path(arguments['timing_cache']))
        return {
            'half_layer_share': half_layer_share(_layers_json(plan, logger)),
            'workspace_bytes': workspace,
            'tensorrt_version': trt.__version__,
        }


def read_machine(device: int) -> Machine:
    """Return what a plan built here is bound to.

    Raises:
        EngineError: There is no such GPU, or its driver does not fit.
    """
    import tensorrt as trt  # type: ignore[import-not-found, unused-ignore]

    with cuda_memory.CudaStream(device):
        driver, runtime = cuda_memory.cuda_versions()
        name, capability, multiprocessors = cuda_memory.device_properties(device)
        _, total = cuda_memory.memory_info()
        return Machine(
            tensorrt_version=trt.__version__,
            parser_version=str(trt.get_nv_onnx_parser_version()),
            cuda_driver_version=driver,
            cuda_runtime_version=runtime,
            gpu_name=name,
            compute_capability=capability,
            multiprocessors=multiprocessors,
            memory_class_gib=memory_class_gib(total),
            is_integrated=cuda_memory.is_integrated(device),
            l4t_release=l4t_release(),
            cpu_architecture=platform.machine(),
        )


def free_memory_bytes(cuda_free_bytes: int, *, is_integrated: bool, meminfo: Path = _MEMINFO) -> int:
    """Return the memory that a build may take.

    CUDA counts as free only what nobody uses; where the GPU shares the host's memory, the caches of the system can
    be had as well.
    """
    if not is_integrated:
        return cuda_free_bytes
    try:
        lines = meminfo.read_text(encoding='ascii').splitlines()
        kib = next(int(line.split()[1]) for line in lines if line.startswith('MemAvailable:'))
    except (OSError, StopIteration, ValueError):
        return cuda_free_bytes
    return max(cuda_free_bytes, kib * 1024)


@functools.cache
def _shared_logger() -> 'trt.ILogger':
    """Return the logger of this process: TensorRT takes the first one that it gets and ignores others.

    It forwards to Python's and remembers the last errors.
    """
    import tensorrt as trt  # type: ignore[import-not-found, unused-ignore]

    levels = {
        trt.ILogger.Severity.INTERNAL_ERROR: logging.ERROR,
        trt.ILogger.Severity.ERROR: logging.ERROR,
        trt.ILogger.Severity.WARNING: logging.WARNING,
        trt.ILogger.Severity.INFO: logging.DEBUG,
        trt.ILogger.Severity.VERBOSE: logging.DEBUG,
    }

    class Logger(trt.ILogger):  # type: ignore[misc, unused-ignore]
        def __init__(self) -> None:
            super().__init__()
            self.errors: list[str] = []
            self.is_memory_short = False

        def log(self, severity: trt.ILogger.Severity, msg: str) -> None:
            level = levels.get(severity, logging.DEBUG)
            if severity != trt.ILogger.Severity.VERBOSE:
                _LOG.log(level, '%s', msg)
            self.is_memory_short |= _SHORT_OF_MEMORY.search(msg) is not None
            if level == logging.ERROR:
                self.errors = [*self.errors, msg][-_REMEMBERED_ERRORS:]

    return Logger()


def _fresh_logger() -> 'trt.ILogger':
    """Return the logger of this process, without what it remembers of earlier work."""
    logger = _shared_logger()
    vars(logger).update(errors=[], is_memory_short=False)
    return logger


def _make_monitor(is_cancelled: Callable[[], bool]) -> 'trt.IProgressMonitor':
    """Return a monitor that stops the build; its steps say too little about progress to be shown."""
    import tensorrt as trt  # type: ignore[import-not-found, unused-ignore]

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc, unused-ignore]
        def __init__(self) -> None:
            super().__init__()

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: SupportsInt) -> None:
            pass

        def step_complete(self, phase_name: str, step: SupportsInt) -> bool:
            return not is_cancelled()

        def phase_finish(self, phase_name: str) -> None:
            pass

    return Monitor()


def _start[Started](make: Callable[['trt.ILogger'], Started], logger: 'trt.ILogger') -> Started:
    """Make a builder or a runtime.

    Raises:
        EngineError: TensorRT has no GPU to work with.
    """
    try:
        return make(logger)
    except TypeError as error:
        # What the binding makes of a null pointer.
        raise EngineError(f'TensorRT cannot start: {error}{_last_errors(logger)}') from error


def _required[Made](made: Made | None, problem: str, logger: 'trt.ILogger', *, is_final: bool = False) -> Made:
    """Return what TensorRT made, or raise: it returns None where other libraries raise.

    Args:
        made: What it made.
        problem: What to say if that is None.
        logger: Remembers why.
        is_final: Whether another try would end so too, unless memory or driver were to blame.
    """
    if made is not None:
        return made
    reasons = _last_errors(logger)
    if _NO_MEMORY.search(reasons):
        raise GpuMemoryError(f'{problem}{reasons}')
    is_passing = getattr(logger, 'is_memory_short', False) or _OF_CUDA.search(reasons)
    raise (EngineRefusedError if is_final and reasons and not is_passing else EngineError)(f'{problem}{reasons}')


def _last_errors(logger: 'trt.ILogger') -> str:
    errors: list[str] = getattr(logger, 'errors', [])
    return f': {" | ".join(errors)}' if errors else ''


def _parser_errors(parser: 'trt.OnnxParser') -> str:
    errors = [parser.get_error(index) for index in range(parser.num_errors)]
    texts = [f'{error.desc()} (node {error.node()}, {error.code()})' for error in errors if error is not None]
    return ' | '.join(texts) or 'no reason given'


def _open_timing_cache(config: 'trt.IBuilderConfig', path: Path) -> 'trt.ITimingCache | None':
    """Let the builder use earlier measurements; returns None where they are of no use to it."""
    try:
        data = path.read_bytes()
    except OSError:
        data = b''
    # Measurements of another version or GPU are refused; then the builder starts with none.
    for content in (data, b''):
        cache = config.create_timing_cache(content)
        if cache is not None and config.set_timing_cache(cache, False):
            return cache
    return None


def _save_timing_cache(cache: 'trt.ITimingCache', path: Path) -> None:
    part = path.with_name(f'{path.name}.{os.getpid()}')
    data = cache.serialize()
    if data is None:
        return
    try:
        part.write_bytes(data)
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        _LOG.warning('the timing cache %s cannot be written, the next build takes longer: %s', path, error)


def _layers_json(plan: 'trt.IHostMemory', logger: 'trt.ILogger') -> str:
    """Load a plan once, which shows that it can be, and return what the inspector says of its layers."""
    import tensorrt as trt  # type: ignore[import-not-found, unused-ignore]

    runtime = _start(trt.Runtime, logger)
    problem = 'TensorRT cannot load the plan that it has just built'
    engine = _required(runtime.deserialize_cuda_engine(plan), problem, logger, is_final=True)
    inspector = _required(engine.create_engine_inspector(), 'TensorRT cannot inspect an engine', logger)
    text: str = inspector.get_engine_information(trt.LayerInformationFormat.JSON)
    return text
