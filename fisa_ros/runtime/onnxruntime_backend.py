"""Runs exported graphs on ONNX Runtime: no torch, any CPU."""

from collections.abc import Mapping, Sequence
import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
import onnxruntime

from fisa_ros.core.errors import GraphsError
from fisa_ros.core.manifest import ModelManifest
from fisa_ros.core.thresholds import Thresholds
from fisa_ros.core.vocabulary_state import VocabularyState
from fisa_ros.runtime import graph_files
from fisa_ros.runtime.backend import RawSegmentation, StageClock
from fisa_ros.runtime.text_graph import TextGraph

# As Linux names them in /proc/cpuinfo: of x86, and of Arm.
_INT8_FLAGS = frozenset({'avx512_vnni', 'avx_vnni', 'amx_int8', 'asimddp', 'i8mm'})


class OnnxRuntimeBackend:
    """Encoder, head and text graph on the CPU.

    Args:
        manifest: The model.
        folder: Its exported graphs.
        threads: Threads of an operator; by default one per core of this process.
        precision: "auto" is int8 where that was exported and the CPU has instructions for it, else "fp32".

    Attributes:
        precision: "int8" or "fp32", of the products in the encoder.
        threads: Threads of an operator.

    Raises:
        GraphsError: The graphs are missing, damaged or of another model.
    """

    name = 'onnxruntime'
    device = 'cpu'
    max_classes = None

    def __init__(
        self, manifest: ModelManifest, folder: Path, threads: int | None = None, precision: str = 'auto'
    ) -> None:
        description = graph_files.open_graphs(folder, manifest)
        self.image_size_hw = description.image_size_hw
        self.embedding_dim = description.embedding_dim
        self.num_semantic_tokens = description.num_semantic_tokens
        self.threads = threads or len(os.sched_getaffinity(0))
        options = session_options(self.threads)
        is_int8 = precision == 'auto' and graph_files.INT8_ENCODER_FILE in description.files and has_int8_products()
        self.precision = 'int8' if is_int8 else 'fp32'
        encoder_file = graph_files.INT8_ENCODER_FILE if is_int8 else graph_files.ENCODER_FILE
        self._encoder = open_session(folder / encoder_file, options)
        self._head = open_session(folder / graph_files.HEAD_FILE, options)
        self._text = TextGraph(folder, description)

    def segment(self, image: NDArray[np.uint8], state: VocabularyState, thresholds: Thresholds) -> RawSegmentation:
        """See `Backend.segment`."""
        return self._run_head(self._run_encoder(image, state), state, thresholds)

    def segment_timed(
        self, image: NDArray[np.uint8], state: VocabularyState, thresholds: Thresholds
    ) -> tuple[RawSegmentation, Mapping[str, float]]:
        """See `TimedBackend.segment_timed`; nothing has to be moved."""
        clock = StageClock()
        encoded = self._run_encoder(image, state)
        clock.end('encoder')
        raw = self._run_head(encoded, state, thresholds)
        clock.end('head')
        return raw, {'upload': 0.0, **clock.stages_ms, 'download': 0.0}

    def encode_text(self, sentences: Sequence[str]) -> NDArray[np.float32]:
        """See `Backend.encode_text`."""
        return self._text.encode(sentences)

    def close(self) -> None:
        """Free the sessions."""
        self._text.close()
        del self._encoder, self._head

    def _run_encoder(self, image: NDArray[np.uint8], state: VocabularyState) -> dict[str, NDArray[Any]]:
        encoded = self._encoder.run(
            graph_files.ENCODER_OUTPUTS,
            {'image': image, 'semantic_tokens': state.semantic_tokens, 'token_mask': state.token_mask},
        )
        return dict(zip(graph_files.ENCODER_OUTPUTS, encoded, strict=True))

    def _run_head(
        self, encoded: Mapping[str, NDArray[Any]], state: VocabularyState, thresholds: Thresholds
    ) -> RawSegmentation:
        inputs = {
            **encoded,
            'text_embeddings': state.text_embeddings,
            'synonym_mask': state.synonym_mask,
            'is_thing': state.is_thing,
            'thresholds': thresholds.array(),
        }
        return RawSegmentation(*self._head.run(graph_files.HEAD_OUTPUTS, inputs))


def has_int8_products(cpuinfo: Path = Path('/proc/cpuinfo')) -> bool:
    """Return whether the CPU adds products of eight-bit integers to 32 bits in one instruction.

    Without it int8 is no faster on x86, and ONNX Runtime adds pairs of products in 16 bits, which overflow.
    """
    try:
        words = set(cpuinfo.read_text(encoding='utf-8', errors='replace').split())
    except OSError:
        return False
    return not words.isdisjoint(_INT8_FLAGS)


def session_options(threads: int) -> onnxruntime.SessionOptions:
    """Return options for `threads` threads of an operator."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = 3
    # Threads that wait by spinning take the core from the ROS executor.
    options.add_session_config_entry('session.intra_op.allow_spinning', '0')
    return options


def open_session(path: Path, options: onnxruntime.SessionOptions) -> onnxruntime.InferenceSession:
    """Load a graph on the CPU.

    Raises:
        GraphsError: ONNX Runtime cannot load it.
    """
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=['CPUExecutionProvider'])
    except Exception as error:
        # ONNX Runtime raises classes of its extension module, without a common base.
        raise GraphsError(f'{path} cannot be loaded by ONNX Runtime: {error}') from error
