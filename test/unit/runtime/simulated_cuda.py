# ruff: noqa: N802, N815
"""The part of `cuda.bindings.runtime` that `cuda_memory` uses, on the memory of the host.

Work on a stream runs only when somebody waits for it, and memory that is freed is gone: what relies on luck fails.
"""

from collections import deque
import ctypes
from enum import IntEnum
import types

import numpy as np


class Code(IntEnum):
    cudaSuccess = 0
    cudaErrorInvalidValue = 1
    cudaErrorMemoryAllocation = 2
    cudaErrorNoDevice = 100
    cudaErrorIllegalAddress = 700
    cudaErrorStreamCaptureUnsupported = 900


class Copy(IntEnum):
    cudaMemcpyHostToDevice = 1
    cudaMemcpyDeviceToHost = 2


class Handle:
    def __init__(self, number):
        self.number = number

    def __int__(self):
        return self.number


class SimulatedCuda(types.ModuleType):
    cudaError_t = Code
    cudaMemcpyKind = Copy
    cudaStreamCaptureMode = types.SimpleNamespace(cudaStreamCaptureModeThreadLocal=1)
    cudaDeviceAttr = types.SimpleNamespace(cudaDevAttrIntegrated=18)
    cudaStreamNonBlocking, cudaEventBlockingSync, cudaEventDisableTiming = 1, 1, 2
    cudaHostAllocDefault, cudaHostAllocMapped = 0, 2

    def __init__(self, *, is_integrated=False, gpus=1, limit=1 << 24):
        super().__init__('cuda.bindings.runtime')
        self.is_integrated, self.gpus, self.limit = is_integrated, gpus, limit
        self.device, self.host, self.streams, self.graphs = {}, {}, {}, {}
        self.capturing, self.copied, self.launches = {}, [], 0
        self.ended = 0
        self.can_capture, self.failure, self.is_failure_sticky = True, None, False

    # What a fake engine needs.

    def enqueue(self, stream, work):
        (self.capturing[stream] if stream in self.capturing else self.streams[stream]).append(work)

    def view(self, address, num_bytes):
        """Return bytes, or fail if they are not all in one living buffer."""
        for start, buffer in (*self.device.items(), *self.host.items()):
            if start <= address and address + num_bytes <= start + len(buffer):
                return np.frombuffer((ctypes.c_uint8 * num_bytes).from_address(address), np.uint8)
        raise AssertionError(f'{num_bytes} bytes at {address:#x} are not in living memory')

    @property
    def is_clean(self):
        return not (self.device or self.host or self.streams or self.graphs)

    # The calls, as cuda.bindings has them.

    def cudaGetDeviceCount(self):
        return Code.cudaSuccess, self.gpus

    def cudaSetDevice(self, device):
        if self.failure and self.is_failure_sticky:
            return (self.failure,)
        return (Code.cudaSuccess if device < self.gpus else Code.cudaErrorNoDevice,)

    def cudaDeviceGetAttribute(self, attr, device):
        return Code.cudaSuccess, int(self.is_integrated)

    def cudaMemGetInfo(self):
        return Code.cudaSuccess, self.limit - sum(map(len, self.device.values())), self.limit

    def cudaMalloc(self, size):
        if size > self.cudaMemGetInfo()[1]:
            return Code.cudaErrorMemoryAllocation, None
        return Code.cudaSuccess, self._take(self.device, size)

    def cudaHostAlloc(self, size, flags):
        return Code.cudaSuccess, self._take(self.host, size)

    def cudaHostGetDevicePointer(self, host, flags):
        return Code.cudaSuccess, host

    def cudaFree(self, address):
        del self.device[address]
        return (Code.cudaSuccess,)

    def cudaFreeHost(self, address):
        del self.host[address]
        return (Code.cudaSuccess,)

    def cudaMemcpyAsync(self, dst, src, count, kind, stream):
        self.copied.append((kind, count))

        def work():
            self.view(dst, count)[:] = self.view(src, count)

        self.enqueue(int(stream), work)
        return (Code.cudaSuccess,)

    def cudaStreamCreateWithFlags(self, flags):
        number = 1000 + len(self.streams)
        self.streams[number] = deque()
        return Code.cudaSuccess, Handle(number)

    def cudaStreamSynchronize(self, stream):
        queue = self.streams[int(stream)]
        while queue:
            queue.popleft()()
        code = self.failure or Code.cudaSuccess
        self.failure = self.failure if self.is_failure_sticky else None
        return (code,)

    def cudaStreamDestroy(self, stream):
        assert not self.streams.pop(int(stream)), 'work was dropped'
        return (Code.cudaSuccess,)

    def cudaEventCreateWithFlags(self, flags):
        return Code.cudaSuccess, Handle(5000)

    def cudaEventRecord(self, event, stream):
        event.stream = stream

        def work():
            self.ended += 1
            event.moment = self.ended

        self.enqueue(int(stream), work)
        return (Code.cudaSuccess,)

    def cudaEventElapsedTime(self, start, end):
        """One microsecond from each event to the next on the stream."""
        return Code.cudaSuccess, (end.moment - start.moment) * 1e-3

    def cudaEventSynchronize(self, event):
        return self.cudaStreamSynchronize(event.stream)

    def cudaEventDestroy(self, event):
        return (Code.cudaSuccess,)

    def cudaStreamBeginCapture(self, stream, mode):
        self.capturing[int(stream)] = []
        return (Code.cudaSuccess,)

    def cudaStreamEndCapture(self, stream):
        works = self.capturing.pop(int(stream))
        if not self.can_capture:
            return Code.cudaErrorStreamCaptureUnsupported, None
        handle = Handle(9000 + len(self.graphs))
        self.graphs[int(handle)] = works
        return Code.cudaSuccess, handle

    def cudaGraphInstantiate(self, graph, flags):
        handle = Handle(19_000 + len(self.graphs))
        self.graphs[int(handle)] = list(self.graphs[int(graph)])
        return Code.cudaSuccess, handle

    def cudaGraphLaunch(self, executable, stream):
        self.launches += 1
        self.streams[int(stream)].extend(self.graphs[int(executable)])
        return (Code.cudaSuccess,)

    def cudaGraphDestroy(self, graph):
        del self.graphs[int(graph)]
        return (Code.cudaSuccess,)

    def cudaGraphExecDestroy(self, executable):
        del self.graphs[int(executable)]
        return (Code.cudaSuccess,)

    def cudaGetErrorString(self, code):
        return Code.cudaSuccess, b'as simulated'

    def cudaGetLastError(self):
        return (Code.cudaSuccess,)

    @staticmethod
    def _take(buffers, size):
        buffer = ctypes.create_string_buffer(size)
        # Memory is not cleared.
        ctypes.memset(buffer, 0xA5, size)
        address = ctypes.addressof(buffer)
        buffers[address] = buffer
        return address


class SimulatedEngine:
    """Computes with numpy what a plan would, on memory of `SimulatedCuda`; interface of `TensorRtEngine`.

    Args:
        cuda: Whose memory.
        tensors: `TensorInfo` by name.
        function: Inputs by name to outputs by name.
    """

    def __init__(self, cuda, tensors, function):
        self.cuda, self.tensors, self.function = cuda, tensors, function
        self.shapes = {name: info.shape for name, info in tensors.items()}
        self.addresses = {}
        self.runs, self.is_closed = 0, False

    def set_shape(self, name, shape):
        assert all(known in (-1, size) for known, size in zip(self.tensors[name].shape, shape, strict=True))
        self.shapes[name] = tuple(shape)

    def output_shape(self, name):
        assert not any(-1 in shape for shape in self.shapes.values()), 'a shape was not set'
        return self.shapes[name]

    def set_address(self, name, address):
        self.addresses[name] = address

    def run(self, stream):
        self.runs += 1
        shapes, addresses = dict(self.shapes), dict(self.addresses)

        def view(name):
            dtype = self.tensors[name].dtype
            num_bytes = int(np.prod(shapes[name])) * dtype.itemsize
            return self.cuda.view(addresses[name], num_bytes).view(dtype).reshape(shapes[name])

        def work():
            assert not self.is_closed
            inputs = {name: view(name).copy() for name, info in self.tensors.items() if info.is_input}
            for name, values in self.function(**inputs).items():
                view(name)[:] = values

        self.cuda.enqueue(stream, work)

    def close(self):
        self.is_closed = True
