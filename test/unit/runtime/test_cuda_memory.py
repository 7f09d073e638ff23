"""Memory, streams and graphs on the real library of CUDA; on a real GPU where there is one."""

import numpy as np
import pytest

from fisa_ros.core.errors import EngineError, GpuMemoryError
from fisa_ros.runtime import cuda_memory
from fisa_ros.runtime.cuda_memory import CudaStream, DeviceBuffer, HostBuffer

pytest.importorskip('cuda.bindings.runtime', reason='cuda-bindings is not installed')


def has_gpu():
    try:
        return cuda_memory.count_gpus() > 0
    except EngineError:
        return False


def test_without_a_gpu_the_error_says_so():
    if has_gpu():
        pytest.skip('there is a GPU')
    with pytest.raises(EngineError, match=r'choosing GPU 0 failed: .+ \(cudaError\w+\)'):
        CudaStream(0)
    with pytest.raises(EngineError, match=r'counting GPUs failed: .+ \(cudaError\w+\)'):
        cuda_memory.count_gpus()


def test_the_runtime_tells_its_version():
    driver, runtime = cuda_memory.cuda_versions()
    assert runtime >= 12_000
    assert driver == 0 or driver >= 12_000


@pytest.fixture
def stream():
    if not has_gpu():
        pytest.skip('no GPU')
    with CudaStream(0) as stream:
        yield stream


@pytest.fixture
def buffers(stream):
    made = [HostBuffer(4096), DeviceBuffer(4096), DeviceBuffer(4096), HostBuffer(4096)]
    yield made
    for buffer in made:
        buffer.close()
        buffer.close()


@pytest.mark.gpu
def test_bytes_go_there_and_back(stream, buffers):
    up, there, _, down = buffers
    for seed in range(3):
        values = np.random.default_rng(seed).normal(size=1024).astype(np.float32)
        up.array((1024,), np.float32)[:] = values
        stream.upload(up, there, 4096)
        stream.download(there, down, 4096)
        stream.wait()
        np.testing.assert_array_equal(down.array((1024,), np.float32), values)


@pytest.mark.gpu
def test_a_graph_repeats_what_was_recorded(stream, buffers):
    up, there, _, down = buffers
    before = down.array((4096,), np.uint8).copy()
    graph = stream.capture(lambda: (stream.upload(up, there, 4096), stream.download(there, down, 4096)))
    stream.wait()
    np.testing.assert_array_equal(down.array((4096,), np.uint8), before)
    for value in (3, 7):
        up.array((4096,), np.uint8)[:] = value
        graph.launch()
        stream.wait()
        assert set(down.array((4096,), np.uint8)) == {value}
    graph.close()
    graph.close()


@pytest.mark.gpu
def test_a_capture_that_fails_leaves_the_stream_usable(stream, buffers):
    up, there, _, down = buffers

    def fail():
        stream.upload(up, there, 4096)
        raise RuntimeError('in the middle')

    with pytest.raises(RuntimeError, match='in the middle'):
        stream.capture(fail)
    up.array((4096,), np.uint8)[:] = 9
    stream.upload(up, there, 4096)
    stream.download(there, down, 4096)
    stream.wait()
    assert set(down.array((4096,), np.uint8)) == {9}


@pytest.mark.gpu
def test_mapped_memory_needs_no_copy(stream):
    host = HostBuffer(4096, is_mapped=True)
    seen = DeviceBuffer(4096, host)
    assert seen.address == host.device_address
    other = HostBuffer(4096)
    copy = DeviceBuffer(4096)
    host.array((4096,), np.uint8)[:] = 5
    stream.upload(host, seen, 4096)
    stream.download(seen, other, 4096)
    stream.wait()
    assert set(other.array((4096,), np.uint8)) == {5}
    for buffer in (seen, host, other, copy):
        buffer.close()


@pytest.mark.gpu
def test_too_much_memory_is_a_clear_error_and_the_next_call_works(stream):
    free, total = cuda_memory.memory_info()
    assert 0 < free <= total
    with pytest.raises(GpuMemoryError, match=r'taking \d+\.\d MiB of GPU memory failed: .*cudaErrorMemoryAllocation'):
        DeviceBuffer(2 * total)
    stream.wait()
    DeviceBuffer(1024).close()


@pytest.mark.gpu
def test_the_gpu_tells_what_it_is(stream):
    name, (major, minor), multiprocessors = cuda_memory.device_properties(0)
    assert name.isprintable()
    assert (major, minor) >= (7, 0)
    assert multiprocessors > 0
    assert cuda_memory.is_integrated(0) in (False, True)
