"""Runs encoder and head as TensorRT engines: no torch, and only labels leave the GPU."""

from collections.abc import Callable, Mapping, Sequence
import contextlib
import logging
import time
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fisa_ros.core.errors import EngineError
from fisa_ros.core.thresholds import Thresholds
from fisa_ros.core.vocabulary_state import VocabularyState
from fisa_ros.runtime import cuda_memory
from fisa_ros.runtime.backend import RawSegmentation, StageClock
from fisa_ros.runtime.cuda_memory import CudaEvent, CudaGraph, CudaStream, DeviceBuffer, HostBuffer
from fisa_ros.runtime.engine_inputs import (
    ENCODER_OUTPUT_SPECS,
    HEAD_OUTPUT_SPECS,
    MAX_CLASSES,
    check_vocabulary_size,
    encoder_inputs,
    head_inputs,
)
from fisa_ros.runtime.engine_key import InputProfile, OutputSpec
from fisa_ros.runtime.graph_files import ENCODER_OUTPUTS, HEAD_OUTPUTS, GraphsDescription
from fisa_ros.runtime.tensorrt_engine import TensorRtEngine

_EACH_FRAME = ('image', 'thresholds')
_WORDS = ('text_embeddings', 'synonym_mask', 'is_thing')
_TOKENS = ('semantic_tokens', 'token_mask')
_STAGES = ('upload', 'encoder', 'head')
_LOG = logging.getLogger('fisa_ros.tensorrt')


class TextEncoder(Protocol):
    """What turns sentences to embeddings."""

    def encode(self, sentences: Sequence[str]) -> NDArray[np.float32]:
        """See `Backend.encode_text`."""
        ...

    def close(self) -> None:
        """Free what it holds."""
        ...


class TensorRtBackend:
    """Encoder and head on one stream of one GPU.

    Image and thresholds go up through pinned memory, `query_map`, `class_index` and `score` come back; what the
    encoder gives stays on the GPU, where the head takes it. The encoder, whose shapes are fixed, is one CUDA graph.
    The back-end owns engines and text encoder from here on, also if an error is raised.

    Args:
        description: The graphs of which the engines were built.
        encoder: Engine of the encoder.
        head: Engine of the head.
        text: Encoder of sentences.
        device: Number of the GPU.
        precision: Of the engines; name of a rung.

    Raises:
        EngineError: The engines do not fit the description or each other, or CUDA fails.
        GpuMemoryError: The GPU has too little memory.
    """

    name = 'tensorrt'
    max_classes = MAX_CLASSES

    def __init__(
        self,
        description: GraphsDescription,
        encoder: TensorRtEngine,
        head: TensorRtEngine,
        text: TextEncoder,
        device: int = 0,
        precision: str = 'fp32',
    ) -> None:
        self.device, self.precision = f'cuda:{device}', precision
        self.image_size_hw = description.image_size_hw
        self.embedding_dim = description.embedding_dim
        self.num_semantic_tokens = description.num_semantic_tokens
        self._encoder, self._head, self._text = encoder, head, text
        self._stream: CudaStream | None = None
        self._graph: CudaGraph | None = None
        self._on_device: dict[str, DeviceBuffer] = {}
        self._on_host: dict[str, HostBuffer] = {}
        self._views: dict[str, NDArray[Any]] = {}
        # What the words on the GPU were made of; held so that another state never has the same identity.
        self._state: VocabularyState | None = None
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._dtypes: dict[str, np.dtype[Any]] = {}
        self._is_closed = False
        try:
            _check_tensors('encoder', encoder, encoder_inputs(description), ENCODER_OUTPUT_SPECS)
            _check_tensors('head', head, head_inputs(description), HEAD_OUTPUT_SPECS)
            self._stream = CudaStream(device)
            self._allocate(is_mapped=cuda_memory.is_integrated(device))
            self._graph = self._capture_encoder()
        except BaseException:
            self.close()
            raise

    def segment(self, image: NDArray[np.uint8], state: VocabularyState, thresholds: Thresholds) -> RawSegmentation:
        """See `Backend.segment`.

        Raises:
            EngineError: A score is no number, the vocabulary is too large, or CUDA failed; this frame is lost.
            GpuMemoryError: The GPU has too little memory for the words.
        """
        self._use_words(state)
        self._run(image, thresholds.array())
        return self._finish_frame()

    def segment_timed(
        self, image: NDArray[np.uint8], state: VocabularyState, thresholds: Thresholds
    ) -> tuple[RawSegmentation, Mapping[str, float]]:
        """See `TimedBackend.segment_timed`; takes its times from the GPU, "words" is the upload of a new vocabulary."""
        clock = StageClock()
        if state is not self._state:
            self._use_words(state)
            clock.end('words')
        stream = self._open_stream()
        with contextlib.ExitStack() as stack:
            events = [stack.enter_context(contextlib.closing(CudaEvent(stream))) for _ in range(len(_STAGES) + 1)]
            marks = iter(events)
            started_s = time.perf_counter()
            self._run(image, thresholds.array(), lambda: next(marks).record())
            raw = self._finish_frame()
            frame_ms = (time.perf_counter() - started_s) * 1e3
            times_ms = {stage: events[number + 1].ms_since(events[number]) for number, stage in enumerate(_STAGES)}
        return raw, clock.stages_ms | times_ms | {'download': max(0.0, frame_ms - sum(times_ms.values()))}

    def _use_words(self, state: VocabularyState) -> None:
        self._open_stream()
        if state is not self._state:
            self._upload_words({name: getattr(state, name) for name in (*_TOKENS, *_WORDS)})
            self._state = state

    def _finish_frame(self) -> RawSegmentation:
        stream = self._open_stream()
        outputs = self._download(HEAD_OUTPUTS, self._on_host, stream)
        score = outputs['score']
        bad = len(score) - np.count_nonzero(np.isfinite(score))
        if bad:
            raise EngineError(f'{bad} of {len(score)} scores of the TensorRT engine are NaN or infinite: frame dropped')
        return RawSegmentation(outputs['query_map'], outputs['class_index'], score)

    def run_graphs(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Run one frame and return the outputs of both graphs, for the parity gate.

        Args:
            inputs: See `ParityGate.judge`.
        """
        stream = self._open_stream()
        self._state = None
        self._upload_words({name: inputs[name] for name in (*_TOKENS, *_WORDS)})
        self._run(inputs['image'], inputs['thresholds'])
        with contextlib.ExitStack() as stack:
            hosts = dict(self._on_host)
            for name in ENCODER_OUTPUTS:
                hosts[name] = HostBuffer(self._on_device[name].num_bytes)
                stack.callback(hosts[name].close)
            return self._download((*ENCODER_OUTPUTS, *HEAD_OUTPUTS), hosts, stream)

    def encode_text(self, sentences: Sequence[str]) -> NDArray[np.float32]:
        """See `Backend.encode_text`; runs on ONNX Runtime."""
        return self._text.encode(sentences)

    def close(self) -> None:
        """Free everything on the GPU; a second call does nothing."""
        if self._is_closed:
            return
        self._is_closed = True
        if self._stream is not None:
            # After an error of the GPU every call fails, and what is left to free goes with the process.
            with contextlib.suppress(EngineError):
                self._stream.use_device()
        self._views.clear()
        self._state = None
        if self._graph is not None:
            self._graph.close()
        if self._stream is not None:
            self._stream.close()
        # Contexts before the memory that they point to.
        self._encoder.close()
        self._head.close()
        for memory in self._on_device.values():
            memory.close()
        for pinned in self._on_host.values():
            pinned.close()
        self._text.close()

    def _open_stream(self) -> CudaStream:
        if self._stream is None or self._is_closed:
            raise EngineError('the TensorRT back-end is closed')
        self._stream.use_device()
        return self._stream

    def _allocate(self, *, is_mapped: bool) -> None:
        """Take memory for all that has a fixed shape, and tell the engines where it is."""
        sizes = {'text_embeddings': (1, 1, self.embedding_dim), 'synonym_mask': (1, 1), 'is_thing': (1,)}
        for name, shape in sizes.items():
            self._head.set_shape(name, shape)
        shapes = {info.name: info.shape for info in (*self._encoder.tensors.values(), *self._head.tensors.values())}
        shapes |= sizes | {name: self._head.output_shape(name) for name in HEAD_OUTPUTS}
        dtypes = {name: info.dtype for engine in (self._encoder, self._head) for name, info in engine.tensors.items()}
        for name, shape in shapes.items():
            num_bytes = _num_bytes(shape, dtypes[name])
            host = None
            if name in (*_EACH_FRAME, *HEAD_OUTPUTS):
                # One pass each way: where GPU and host share their memory there is nothing to copy.
                host = self._on_host[name] = HostBuffer(num_bytes, is_mapped=is_mapped)
                self._views[name] = host.array(shape, dtypes[name])
            self._on_device[name] = DeviceBuffer(num_bytes, host)
            self._bind(name)
        self._shapes, self._dtypes = shapes, dtypes

    def _bind(self, name: str) -> None:
        for engine in (self._encoder, self._head):
            if name in engine.tensors:
                engine.set_address(name, self._on_device[name].address)

    def _capture_encoder(self) -> CudaGraph | None:
        """Return the encoder as one launch; None where CUDA refuses, and the engine is started part by part."""
        stream = self._open_stream()
        tokens = np.zeros((self.num_semantic_tokens, self.embedding_dim), np.float32)
        no_token = np.zeros(self.num_semantic_tokens, np.bool_)
        words = (np.zeros((1, 1, self.embedding_dim), np.float32), np.ones((1, 1), np.bool_), np.ones(1, np.bool_))
        self._upload_words(dict(zip((*_TOKENS, *_WORDS), (tokens, no_token, *words), strict=True)))
        # The first run of a context takes memory, which no graph may do.
        self._run(np.zeros((*self.image_size_hw, 3), np.uint8), Thresholds(0.5, 0.5, 0.5).array())
        stream.wait()
        try:
            return stream.capture(lambda: self._encoder.run(stream.handle))
        except EngineError as error:
            _LOG.warning('the encoder runs without a CUDA graph, which takes longer: %s', error)
            return None

    def _upload_words(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Bring semantic tokens and words to the GPU; those there are gone, whatever happens here."""
        stream = self._open_stream()
        self._state = None
        check_vocabulary_size(*arrays['synonym_mask'].shape)
        stream.wait()
        with contextlib.ExitStack() as stagings:
            try:
                for name, array in arrays.items():
                    if name in self._on_device:
                        # An encoder that does not look at the words has no semantic tokens.
                        self._stage(name, array, stream, stagings)
            finally:
                # Before the staging memory is freed.
                stream.wait()

    def _stage(self, name: str, array: NDArray[Any], stream: CudaStream, stagings: contextlib.ExitStack) -> None:
        values = np.ascontiguousarray(array, self._dtypes[name])
        if name in _WORDS:
            self._make_room(name, values.nbytes)
            self._head.set_shape(name, values.shape)
        elif values.shape != self._shapes[name]:
            raise ValueError(f'{name} must be of shape {self._shapes[name]}, got {values.shape}')
        staging = HostBuffer(values.nbytes)
        stagings.callback(staging.close)
        np.copyto(staging.array(values.shape, values.dtype), values)
        stream.upload(staging, self._on_device[name], values.nbytes)

    def _make_room(self, name: str, num_bytes: int) -> None:
        if num_bytes > self._on_device[name].num_bytes:
            # The old one stays until there is a new one: after an error, the engine still has a valid address.
            grown = DeviceBuffer(num_bytes)
            old, self._on_device[name] = self._on_device[name], grown
            self._bind(name)
            old.close()

    def _run(
        self, image: NDArray[np.uint8], thresholds: NDArray[np.float32], mark: Callable[[], None] | None = None
    ) -> None:
        """Begin a frame; `mark` is called before the first and after each of `_STAGES`."""
        mark = mark or _no_mark
        mark()
        stream = self._open_stream()
        frame: dict[str, NDArray[Any]] = dict(zip(_EACH_FRAME, (image, thresholds), strict=True))
        for name, values in frame.items():
            view = self._views[name]
            if values.shape != view.shape or values.dtype != view.dtype:
                raise ValueError(f'{name} must be {view.shape} {view.dtype}, got {values.shape} {values.dtype}')
            np.copyto(view, values)
            stream.upload(self._on_host[name], self._on_device[name], values.nbytes)
        mark()
        if self._graph is not None:
            self._graph.launch()
        else:
            self._encoder.run(stream.handle)
        mark()
        self._head.run(stream.handle)
        mark()

    def _download(
        self, names: Sequence[str], hosts: Mapping[str, HostBuffer], stream: CudaStream
    ) -> dict[str, NDArray[Any]]:
        """Wait for the frame and return copies of what it gave."""
        for name in names:
            stream.download(self._on_device[name], hosts[name], _num_bytes(self._shapes[name], self._dtypes[name]))
        stream.wait()
        return {name: hosts[name].array(self._shapes[name], self._dtypes[name]).copy() for name in names}


def _no_mark() -> None:
    pass


def _check_tensors(
    what: str, engine: TensorRtEngine, inputs: Sequence[InputProfile], outputs: Sequence[OutputSpec]
) -> None:
    """Refuse an engine whose inputs or outputs are not those of the graphs."""
    found = {info.name: info for info in engine.tensors.values()}
    expected = {entry.name: (entry.dtype, True) for entry in inputs}
    expected |= {entry.name: (entry.dtype, False) for entry in outputs}
    unknown = sorted(set(found) - set(expected)) + sorted({entry.name for entry in outputs} - set(found))
    if unknown:
        raise EngineError(f'the {what} engine has unknown or lacks known inputs and outputs: {", ".join(unknown)}')
    for name, info in found.items():
        dtype, is_input = expected[name]
        if info.dtype != np.dtype(dtype) or info.is_input != is_input:
            kind = 'input' if info.is_input else 'output'
            raise EngineError(f'{kind} {name!r} of the {what} engine is {info.dtype}, expected {dtype}')
    for entry in inputs:
        if entry.name in found:
            shape = tuple(
                size if size == largest else -1 for size, largest in zip(entry.smallest, entry.largest, strict=True)
            )
            if found[entry.name].shape != shape:
                raise EngineError(
                    f'input {entry.name!r} of the {what} engine is {found[entry.name].shape}, not {shape}'
                )


def _num_bytes(shape: Sequence[int], dtype: np.dtype[Any]) -> int:
    return int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
