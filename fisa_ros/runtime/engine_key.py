"""What a TensorRT engine depends on, and the sum of it that names the engine in the cache."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
import hashlib
import json
import math
from pathlib import Path
from typing import Any

from fisa_ros.runtime.graph_files import REFERENCE_FILE, TOKENIZER_FILE

# Raised whenever the same graph and options would be built to another engine.
RECIPE_VERSION = 1
_GIB = 1 << 30
_SMALL_BOARD_GIB = 8
_L4T_FILE = Path('/etc/nv_tegra_release')


@dataclass(frozen=True, slots=True)
class InputProfile:
    """An input of an engine and the shapes that it takes.

    Attributes:
        name: Name in the graph.
        dtype: Name of the numpy dtype.
        smallest: Smallest size of each axis.
        typical: Sizes that the engine is tuned for.
        largest: Largest size of each axis; an axis is fixed where all three agree.
    """

    name: str
    dtype: str
    smallest: tuple[int, ...]
    typical: tuple[int, ...]
    largest: tuple[int, ...]

    @classmethod
    def fixed(cls, name: str, dtype: str, shape: tuple[int, ...]) -> 'InputProfile':
        """Return the profile of an input of one shape."""
        return cls(name, dtype, shape, shape, shape)

    @property
    def is_fixed(self) -> bool:
        """Whether the input takes one shape only."""
        return self.smallest == self.largest


@dataclass(frozen=True, slots=True)
class OutputSpec:
    """An output of an engine: its name and the name of its numpy dtype."""

    name: str
    dtype: str


@dataclass(frozen=True, slots=True)
class BuildOptions:
    """What the builder is told.

    Attributes:
        optimization_level: 0 to 5; higher levels try more and build longer.
        workspace_limit_bytes: Most scratch memory of one layer.
        workspace_share: Most of the free memory, in (0, 1], that scratch may take. The rule stands here and not the
            bytes that come of it: free memory differs from one start to the next, and the engine need not.
        tactic_memory_share: Most of the free memory that trying kernels may take on a GPU that shares the host's.
        allows_tf32: Whether float32 products may be rounded to ten bits.
        flags: Names of further builder flags.
    """

    optimization_level: int = 3
    workspace_limit_bytes: int = 2 * _GIB
    workspace_share: float = 0.25
    tactic_memory_share: float = 0.5
    allows_tf32: bool = True
    flags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Machine:
    """What a plan is bound to.

    Attributes:
        tensorrt_version: All four numbers.
        parser_version: Version of the ONNX parser.
        cuda_driver_version: Newest CUDA of the driver, 13020 for 13.2.
        cuda_runtime_version: CUDA of the runtime library.
        gpu_name: Name of the GPU.
        compute_capability: Major and minor.
        multiprocessors: Number of them.
        memory_class_gib: Memory of the GPU, see `memory_class_gib`.
        is_integrated: Whether the GPU shares the memory of the host.
        l4t_release: First line of `/etc/nv_tegra_release`, empty elsewhere.
        cpu_architecture: `aarch64` or `x86_64`.
    """

    tensorrt_version: str
    parser_version: str
    cuda_driver_version: int
    cuda_runtime_version: int
    gpu_name: str
    compute_capability: tuple[int, int]
    multiprocessors: int
    memory_class_gib: int
    is_integrated: bool
    l4t_release: str
    cpu_architecture: str


@dataclass(frozen=True, slots=True)
class EngineKey:
    """All that decides what an engine computes and where it runs.

    Attributes:
        graph: File name of the ONNX graph.
        onnx_sha256: Sum of its bytes.
        external_data: Names and sums of the files that may hold its weights.
        inputs: Names, dtypes and shapes.
        outputs: Names and dtypes.
        recipe: Name of the precision.
        options: What the builder is told.
        machine: What the plan is bound to.
        recipe_version: `RECIPE_VERSION`.
    """

    graph: str
    onnx_sha256: str
    external_data: tuple[tuple[str, str], ...]
    inputs: tuple[InputProfile, ...]
    outputs: tuple[OutputSpec, ...]
    recipe: str
    options: BuildOptions
    machine: Machine
    recipe_version: int = RECIPE_VERSION

    def fields(self) -> dict[str, Any]:
        """Return all fields as JSON has them, for people to read beside the plan."""
        fields: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return fields

    def digest(self) -> str:
        """Return the sum of all fields, 64 hexadecimal digits."""
        return hashlib.sha256(json.dumps(self.fields(), sort_keys=True).encode()).hexdigest()


def external_data_sums(files: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """Return names and sums of all files of an export that may hold weights of a graph.

    Which graph they belong to is written inside the graphs. Counting them all rebuilds an engine now and then that
    need not be; counting too few would keep a stale one.

    Args:
        files: Sum of each file, as `GraphsDescription.files`.
    """
    others = {TOKENIZER_FILE, REFERENCE_FILE}
    return tuple(sorted((name, total) for name, total in files.items() if name not in others and name[-5:] != '.onnx'))


def default_options(machine: Machine, *, allows_tf32: bool) -> BuildOptions:
    """Return what the builder is told on a machine; small boards try less, as trying takes memory and minutes."""
    is_small = machine.is_integrated and machine.memory_class_gib <= _SMALL_BOARD_GIB
    return BuildOptions(optimization_level=2 if is_small else 3, allows_tf32=allows_tf32)


def memory_class_gib(total_bytes: int) -> int:
    """Return memory in GiB rounded to a power of two: carve-outs of a board differ between its releases."""
    return 1 << max(0, round(math.log2(max(total_bytes, 1) / _GIB)))


def l4t_release(path: Path = _L4T_FILE) -> str:
    """Return the first line of the file that names the release of a Jetson, empty where there is none."""
    try:
        return path.read_text(encoding='utf-8').partition('\n')[0].strip()
    except OSError:
        return ''
