"""Memory, streams and graphs of CUDA, freed when closed; every return code is checked.

CUDA is imported when the first of these is made, so that this module imports on machines without it.
"""

from collections.abc import Callable
import ctypes
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import DTypeLike, NDArray

from fisa_ros.core.errors import EngineError, GpuFailedError, GpuMemoryError

_MIB = 1 << 20
# After these, says the reference of CUDA, every further call fails until the process is started again.
_FATAL_CODES = frozenset(
    {
        'cudaErrorAssert',
        'cudaErrorHardwareStackError',
        'cudaErrorIllegalAddress',
        'cudaErrorIllegalInstruction',
        'cudaErrorInvalidAddressSpace',
        'cudaErrorInvalidPc',
        'cudaErrorLaunchFailure',
        'cudaErrorLaunchTimeout',
        'cudaErrorMisalignedAddress',
    }
)


class CudaStream:
    """An own queue of the GPU; the default one makes TensorRT wait for everything.

    Args:
        device: Number of the GPU.

    Raises:
        EngineError: There is no such GPU, or its driver does not fit.
    """

    def __init__(self, device: int) -> None:
        from cuda.bindings import runtime  # type: ignore[import-not-found, import-untyped, unused-ignore]

        self._device = device
        self.use_device()
        self._stream = _checked(runtime.cudaStreamCreateWithFlags(runtime.cudaStreamNonBlocking), 'making a stream')
        self._done: Any = None
        try:
            # A thread that waits by spinning takes a core from the ROS executor.
            flags = runtime.cudaEventBlockingSync | runtime.cudaEventDisableTiming
            self._done = _checked(runtime.cudaEventCreateWithFlags(flags), 'making an event')
        except BaseException:
            self.close()
            raise

    @property
    def handle(self) -> int:
        """The number that TensorRT takes."""
        return int(self._stream)

    def use_device(self) -> None:
        """Make the GPU that of the calling thread; each thread starts with GPU 0."""
        from cuda.bindings import runtime  # type: ignore[import-not-found, import-untyped, unused-ignore]

        _checked(runtime.cudaSetDevice(self._device), f'choosing GPU {self._device}')

    def upload(self, source: 'HostBuffer', target: 'DeviceBuffer', num_bytes: int) -> None:
        """Begin to copy the first bytes of a host buffer to the GPU; nothing is copied where they are the same."""
        from cuda.bindings import runtime  # type: ignore[import-not-found, import-untyped, unused-ignore]

        if target.address != source.device_address:
            kind = runtime.cudaMemcpyKind.cudaMemcpyHostToDevice
            code = runtime.cudaMemcpyAsync(target.address, source.address, num_bytes, kind, self._stream)
            _checked(code, 'copying to the GPU')

    def download(self, source: 'DeviceBuffer', target: 'HostBuffer', num_bytes: int) -> None:
        """Begin to copy the first bytes of a buffer of the GPU; nothing is copied where they are the same."""
        from cuda.bindings import runtime  # type: ignore[import-not-found, import-untyped, unused-ignore]

        if source.address != target.device_address:
            kind = runtime.cudaMemcpyKind.cudaMemcpyDeviceToHost
            code = runtime.cudaMemcpyAsync(target.address, source.address, num_bytes, kind, self._stream)
            _checked(code, 'copying from the GPU')

    def wait(self) -> None:
        """Wait until all that was begun has ended.

        Raises:
            EngineError: Something of it failed.
        """
        from cuda.bindings import runtime  # type: ignore[import-not-found, import-untyped, unused-ignore]

        _checked(runtime.cudaEventRecord(self._done, self._stream), 'recording an event')
        _checked(runtime.cudaEventSynchronize(self._done), 'running on the GPU')

    def capture(self, work: Callable[[], None]) -> 'CudaGraph':
        """Record what `work` begins on this stream, without running it.

        Shapes and addresses are frozen in the graph.
        """
        from cuda.bindings import runtime  # type: ignore[import-not-found, import-untyped, unused-ignore]

        # Other threads may use CUDA meanwhile: the back-end that serves until this one is ready.
        mode = runtime.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        _checked(runtime.cudaStreamBeginCapture(self._stream, mode), 'beginning a graph')
        try:
            work()
        except BaseException:
            # The stream must leave the capture whatever happened in it.
            _, *graphs = runtime.cudaStreamEndCapture(self._stream)
            if graphs and graphs[0] is not None and int(graphs[0]):
                runtime.cudaGraphDestroy(graphs[0])
            # Or the next call would report it as its own.
            runtime.cudaGetLastError()
            raise
        graph = _checked(runtime.cudaStreamEndCapture(self._stream), 'ending a graph')
        try:
            executable = _checked(runtime.cudaGraphInstantiate(graph, 0), 'preparing a graph')
        finally:
            runtime.cudaGraphDestroy(graph)
        return CudaGraph(executable, self._stream)

    def close(self) -> None:
        """Wait for what runs and free the stream; a second call does nothing."""
        from cuda.bindings import runtime  # type: ignore[import-not-found, import-untyped, unused-ignore]

        if self._stream is not None:
            runtime.cudaStreamSynchronize(self._stream)
            runtime.cudaStreamDestroy(self._stream)
            self._stream = None
        if self._done is not None:
            runtime.cudaEventDestroy(self._done)
            self._done = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class CudaEvent:
    """A moment on a stream, whose distance from another can be asked for once both have passed.

    Args:
        stream: The stream.
    """

    def __init__(self, stream: CudaStream) -> None:
        from cuda.bindings import runtime  # type: ignore[import-not-found, import-untyped, unused-ignore]

        self._stream = stream
        stream.use_device()
        flags = runtime.cudaEventBlockingSync
        self._event: Any = _checked(runtime.cudaEventCreateWithFlags(flags), 'making an event')

    def record(self) -> None:
        """Let the moment be when all that was begun so far has ended."""
        from cuda.bindings import runtime  # type: ignore[import-not-found, import-untyped, unused-ignore]

        _checked(runtime.cudaEventRecord(self._event, self._stream.handle), 'recording an event')

    def ms_since(self, earlier: 'CudaEvent') -> float:
        """Return the milliseconds from another moment to this one."""
        from cuda.bindings import runtime  # type: ignore[import-not-found, import-untyped, unused-ignore]

        return float(_checked(runtime.cudaEventElapsedTime(earlier._event, self._event), 'reading an event'))

    def close(self) -> None:
        """Free it; a second call does nothing."""
        from cuda.bindings import runtime  # type: ignore[import-not-found, import-untyped, unused-ignore]

        if self._event is not None:
            runtime.cudaEventDestroy(self._event)
            self._event = None


class CudaGraph:
    """Recorded work that is begun by one call; made by `CudaStream.capture`."""

    def __init__(self, executable: Any, stream: Any) -> None:
        self._executable, self._stream = executable, stream

    def launch(self) -> None:
        """Begin the work."""
        from cuda.bindings import runtime  # type: ignore[import-not-found, import-untyped, unused-ignore]

        _checked(runtime.cudaGraphLaunch(self._executable, self._stream), 'starting a graph')

    def close(self) -> None:
        """Free it; a second call does nothing."""
        from cuda.bindings import runtime  # type: ignore[import-not-found, import-untyped, unused-ignore]

        if self._executable is not None:
            runtime.cudaGraphExecDestroy(self._executable)
            self._executable = None


class DeviceBuffer:
    """Memory of the GPU.

    Args:
        num_bytes: How much.
        mapped: Memory of the host that the GPU sees; it is used instead, and belongs to whoever made it.

    Raises:
        GpuMemoryError: There is not enough.
    """

    def __init__(self, num_bytes: int, mapped: 'HostBuffer | None' = None) -> None:
        from cuda.bindings import runtime  # type: ignore[import-not-found, import-untyped, unused-ignore]

        self.num_bytes = num_bytes
        self._is_own = mapped is None or mapped.device_address is None
        if mapped is not None and mapped.device_address is not None:
            self.address = mapped.device_address
        else:
            self.address = int(_checked(runtime.cudaMalloc(num_bytes), f'taking {_mib(num_bytes)} of GPU memory'))

    def close(self) -> None:
        """Free it; a second call does nothing."""
        from cuda.bindings import runtime  # type: ignore[import-not-found, import-untyped, unused-ignore]

        if self.address and self._is_own:
            runtime.cudaFree(self.address)
        self.address = 0


class HostBuffer:
    """Memory of the host that the GPU copies from and to without help.

    Args:
        num_bytes: How much.
        is_mapped: Whether the GPU shall see it as its own, which saves the copy where both share their memory.

    Raises:
        GpuMemoryError: There is not enough.

    Attributes:
        device_address: Where the GPU sees it; None unless it is mapped.
    """

    def __init__(self, num_bytes: int, *, is_mapped: bool = False) -> None:
        from cuda.bindings import runtime  # type: ignore[import-not-found, import-untyped, unused-ignore]

        self.num_bytes = num_bytes
        self.device_address: int | None = None
        flags = runtime.cudaHostAllocMapped if is_mapped else runtime.cudaHostAllocDefault
        what = f'taking {_mib(num_bytes)} of pinned memory'
        self.address = int(_checked(runtime.cudaHostAlloc(num_bytes, flags), what))
        try:
            if is_mapped:
                seen = runtime.cudaHostGetDevicePointer(self.address, 0)
                self.device_address = int(_checked(seen, 'mapping pinned memory'))
        except BaseException:
            self.close()
            raise

    def array(self, shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
        """Return its beginning as an array, which must not be used once this is closed."""
        wanted = np.dtype(dtype)
        num_bytes = int(np.prod(shape, dtype=np.int64)) * wanted.itemsize
        if num_bytes > self.num_bytes:
            raise ValueError(f'a buffer of {self.num_bytes} bytes cannot hold {shape} {wanted}, {num_bytes} bytes')
        raw = (ctypes.c_uint8 * num_bytes).from_address(self.address)
        return np.frombuffer(raw, wanted).reshape(shape)

    def close(self) -> None:
        """Free it; a second call does nothing."""
        from cuda.bindings import runtime  # type: ignore[import-not-found, import-untyped, unused-ignore]

        if self.address:
            runtime.cudaFreeHost(self.address)
            self.address, self.device_address = 0, None


def count_gpus() -> int:
    """Return the number of GPUs.

    Raises:
        EngineError: The driver is missing or too old.
    """
    from cuda.bindings import runtime  # type: ignore[import-not-found, import-untyped, unused-ignore]

    return int(_checked(runtime.cudaGetDeviceCount(), 'counting GPUs'))


def memory_info() -> tuple[int, int]:
    """Return free and total bytes of the memory of the GPU of this thread."""
    from cuda.bindings import runtime  # type: ignore[import-not-found, import-untyped, unused-ignore]

    free, total = _checked(runtime.cudaMemGetInfo(), 'asking for free GPU memory')
    return int(free), int(total)


def is_integrated(device: int) -> bool:
    """Return whether the GPU shares the memory of the host."""
    from cuda.bindings import runtime  # type: ignore[import-not-found, import-untyped, unused-ignore]

    attribute = runtime.cudaDeviceAttr.cudaDevAttrIntegrated
    return bool(_checked(runtime.cudaDeviceGetAttribute(attribute, device), 'asking the GPU'))


def cuda_versions() -> tuple[int, int]:
    """Return the CUDA of the driver and of the runtime library, 13020 for 13.2."""
    from cuda.bindings import runtime  # type: ignore[import-not-found, import-untyped, unused-ignore]

    driver = _checked(runtime.cudaDriverGetVersion(), 'asking the driver')
    return int(driver), int(_checked(runtime.cudaRuntimeGetVersion(), 'asking the runtime'))


def device_properties(device: int) -> tuple[str, tuple[int, int], int]:
    """Return the name of a GPU, its compute capability and the number of its multiprocessors."""
    from cuda.bindings import runtime  # type: ignore[import-not-found, import-untyped, unused-ignore]

    found = _checked(runtime.cudaGetDeviceProperties(device), 'asking the GPU')
    return found.name.partition(b'\0')[0].decode(), (int(found.major), int(found.minor)), int(found.multiProcessorCount)


def _checked(result: tuple[Any, ...], what: str) -> Any:
    """Return what a call of CUDA gave: nothing, one value, or a tuple.

    Raises:
        GpuMemoryError: There was not enough memory.
        GpuFailedError: Something that ran on the GPU ended so that nothing else can run there.
        EngineError: Any other error.
    """
    from cuda.bindings import runtime  # type: ignore[import-not-found, import-untyped, unused-ignore]

    code, *values = result
    if code != runtime.cudaError_t.cudaSuccess:
        _, text = runtime.cudaGetErrorString(code)
        reason = f'{what} failed: {text.decode()} ({code.name})'
        # A call that fails leaves its error for the next one to report as its own.
        runtime.cudaGetLastError()
        if code == runtime.cudaError_t.cudaErrorMemoryAllocation:
            raise GpuMemoryError(f'{reason}; close other programs that use the GPU, or choose a smaller model')
        raise (GpuFailedError if code.name in _FATAL_CODES else EngineError)(reason)
    return values[0] if len(values) == 1 else tuple(values) or None


def _mib(num_bytes: int) -> str:
    return f'{num_bytes / _MIB:.1f} MiB'
