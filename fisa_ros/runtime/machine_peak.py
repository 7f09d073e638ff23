"""The limits of a machine: how fast it computes and how fast it moves data."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
import importlib.util
import time

import numpy as np

from fisa_ros.core.errors import BackendUnavailableError

_MATRIX_SIZE = 1536
_COPY_BYTES = 1 << 27
_SECONDS = 0.5

# Dense FP16 tensor GFLOP/s with FP32 accumulation and GB/s by a part of the name, from NVIDIA's data sheets; those of
# Jetsons derived from the INT8 figures. More special names stand first.
_GPUS = {
    'H200': (989_000, 4800),
    'H100 80GB HBM3': (989_000, 3350),
    'A100-SXM4-80GB': (312_000, 2039),
    'RTX 4090': (165_000, 1008),
    'RTX 3090': (71_000, 936),
    'Thor': (258_000, 273),
    'AGX Orin': (42_500, 204.8),
    'Orin NX': (15_000, 102),
    'Orin Nano': (10_200, 68),
}


@dataclass(frozen=True, slots=True)
class MachinePeak:
    """What a machine can do at best.

    Attributes:
        gflops: 10^9 floating point operations in a second.
        gb_s: 10^9 bytes read or written in a second.
        source: Where the numbers come from.
    """

    gflops: float
    gb_s: float
    source: str


def known_gpu_peak(name: str) -> MachinePeak | None:
    """Return the limits of a GPU, None for one that is not in the table."""
    for part, (gflops, gb_s) in _GPUS.items():
        if part in name:
            return MachinePeak(gflops, gb_s, f'data sheet of {part}: dense FP16 tensor cores')
    return None


def measure_cpu_peak(threads: int) -> MachinePeak:
    """Measure the limits of the CPU by a float32 matrix product of ONNX Runtime and by copying arrays.

    Args:
        threads: How many threads do so.

    Raises:
        BackendUnavailableError: ONNX Runtime or onnx is not there.
    """
    for module in ('onnx', 'onnxruntime'):
        if importlib.util.find_spec(module) is None:
            raise BackendUnavailableError(f'the limits of this machine cannot be measured without {module}')
    flop = 2.0 * _MATRIX_SIZE**3
    gflops = flop / _shortest_s(_matrix_product(threads)) * 1e-9
    with ThreadPoolExecutor(threads) as pool:
        gb_s = 2.0 * _COPY_BYTES / _shortest_s(_copying(threads, pool)) * 1e-9
    source = (
        f'measured with {threads} thread{"" if threads == 1 else "s"}: '
        f'float32 product of {_MATRIX_SIZE}x{_MATRIX_SIZE} matrices, copy of {_COPY_BYTES >> 20} MiB'
    )
    return MachinePeak(gflops, gb_s, source)


def _matrix_product(threads: int) -> Callable[[], object]:
    from onnx import TensorProto, helper, numpy_helper
    import onnxruntime

    values = np.random.default_rng(0).normal(size=(_MATRIX_SIZE, _MATRIX_SIZE)).astype(np.float32)
    shape = list(values.shape)
    graph = helper.make_graph(
        [helper.make_node('MatMul', ['left', 'right'], ['product'])],
        'peak',
        [helper.make_tensor_value_info('left', TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info('product', TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(values, 'right')],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid('', 17)], ir_version=8)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=['CPUExecutionProvider'])
    return lambda: session.run(None, {'left': values})


def _copying(threads: int, pool: ThreadPoolExecutor) -> Callable[[], object]:
    source = np.ones(_COPY_BYTES // 8, np.float64)
    target = np.zeros_like(source)
    parts = list(zip(np.array_split(source, threads), np.array_split(target, threads), strict=True))
    return lambda: list(pool.map(lambda part: np.copyto(part[1], part[0]), parts))


def _shortest_s(work: Callable[[], object]) -> float:
    """Return the shortest time of several runs: whatever else runs on a machine makes others longer."""
    work()
    times: list[float] = []
    while sum(times) < _SECONDS or len(times) < 3:
        started_s = time.perf_counter()
        work()
        times.append(time.perf_counter() - started_s)
    return min(times)
