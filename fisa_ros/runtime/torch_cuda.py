"""Runs a network on a GPU of NVIDIA without TensorRT: half precision, CUDA graphs, pinned memory."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
import functools
import logging
from pathlib import Path
import re

import torch
from torch import Tensor

from fisa_ros.core.errors import GpuMemoryError, GraphsError
from fisa_ros.core.manifest import ModelManifest
from fisa_ros.networks.segmentation_network import SegmentationNetwork
from fisa_ros.runtime.frame_runner import FrameRunner, first_that_passes
from fisa_ros.runtime.graph_files import REFERENCE_FILE, export_command, graphs_folder
from fisa_ros.runtime.half_precision import HalfNetwork
from fisa_ros.runtime.parity_gate import ParityGate

_LOG = logging.getLogger('fisa_ros.torch')


class CudaQueue:
    """An own stream of a GPU; see `frame_runner.Queue`.

    Args:
        device: The GPU.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._stream = torch.cuda.Stream(device)
        # A thread that waits by spinning takes a core from the ROS executor.
        self._done = torch.cuda.Event(blocking=True)
        # What was begun on the stream of the caller, weights on their way among it, comes first.
        self._stream.wait_stream(torch.cuda.current_stream(device))

    @contextmanager
    def active(self) -> Iterator[None]:
        """See `Queue.active`."""
        with torch.cuda.device(self.device), torch.cuda.stream(self._stream):
            yield

    def host_tensor(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """See `Queue.host_tensor`."""
        return torch.empty(tuple(shape), dtype=dtype, pin_memory=True)

    def record(self, work: Callable[[], tuple[Tensor, ...]]) -> Callable[[], tuple[Tensor, ...]]:
        """See `Queue.record`; the record is a CUDA graph."""
        graph = torch.cuda.CUDAGraph()
        # Other threads may use the GPU meanwhile, to encode text.
        with torch.cuda.graph(graph, stream=self._stream, capture_error_mode='thread_local'):
            outputs = work()

        def replay() -> tuple[Tensor, ...]:
            graph.replay()
            return outputs

        return replay

    def wait(self) -> None:
        """See `Queue.wait`."""
        self._done.record(self._stream)
        self._done.synchronize()


def open_on_gpu(
    network: SegmentationNetwork, manifest: ModelManifest, device: str, precision: str = 'auto'
) -> tuple[str, FrameRunner]:
    """Return the fastest precision that gives the reference outputs of the exported model, and what runs it.

    Without reference outputs half precision is taken unchecked.

    Args:
        network: The network in float32, on the GPU and for inference; it is not changed.
        manifest: What it is of.
        device: "cuda:<number>".
        precision: "auto", or "fp32" to leave half precision out.
    """
    place = torch.device(device)

    def open_runner(*, is_half: bool, is_safe: bool = False) -> FrameRunner:
        encoder = HalfNetwork(network, is_safe=is_safe) if is_half else network
        return FrameRunner(encoder, network.head, manifest.image_size_hw, CudaQueue(place))

    half = (
        ('fp16', functools.partial(open_runner, is_half=True)),
        ('fp16-safe', functools.partial(open_runner, is_half=True, is_safe=True)),
    )
    candidates = (*(half if precision == 'auto' else ()), ('fp32', functools.partial(open_runner, is_half=False)))
    chosen, runner = first_that_passes(candidates, find_gate(graphs_folder(manifest), export_command(manifest)))
    how = 'as a CUDA graph' if runner.is_recorded else 'without a CUDA graph'
    _LOG.info('PyTorch runs the encoder in %s on %s, %s', chosen, device, how)
    return chosen, runner


def find_gate(folder: Path, command: str) -> ParityGate | None:
    """Return the gate of an exported model; None, and a line in the log, where there is none.

    Args:
        folder: Where the graphs lie, if they were exported.
        command: What makes them.
    """
    if not (folder / REFERENCE_FILE).exists():
        _LOG.info('half precision is not checked, the reference outputs are made by: %s', command)
        return None
    try:
        return ParityGate.open(folder / REFERENCE_FILE)
    except GraphsError as error:
        _LOG.warning('half precision is not checked: %s', error)
        return None


def is_out_of_memory(error: RuntimeError) -> bool:
    """Tell whether an error of PyTorch, or of a library below it, says that the memory of the GPU is used up."""
    text = str(error)
    return isinstance(error, torch.OutOfMemoryError) or 'out of memory' in text or 'STATUS_ALLOC_FAILED' in text


@contextmanager
def gpu_memory_errors() -> Iterator[None]:
    """Raise `GpuMemoryError` where PyTorch says that the memory of the GPU is used up."""
    try:
        yield
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        text = str(error)
        needed, free = (re.search(rf'{before} ([\d.]+ \w+)', text) for before in ('Tried to allocate', 'of which'))
        amounts = [
            f'{match[1]} {what}' for match, what in ((needed, 'are needed'), (free, 'are free')) if match is not None
        ]
        raise GpuMemoryError(
            f'the GPU has too little memory{": " + ", ".join(amounts) if amounts else ""}; '
            'close other programs that use it, or choose a smaller model'
        ) from error
