"""Runs encoder and head of a network frame by frame with buffers that stay where they are, as a GPU wants it."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
import logging
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
import torch
from torch import Tensor

from fisa_ros.core.thresholds import Thresholds
from fisa_ros.core.vocabulary_state import NUM_SEMANTIC_TOKENS, VocabularyState
from fisa_ros.networks.panoptic_head import PanopticHead
from fisa_ros.runtime.backend import RawSegmentation, StageClock
from fisa_ros.runtime.graph_files import ENCODER_OUTPUTS, HEAD_OUTPUTS
from fisa_ros.runtime.graph_modules import Encoder, EncoderGraph, HeadGraph
from fisa_ros.runtime.parity_gate import Arrays, ParityGate

_TOKENS = ('semantic_tokens', 'token_mask')
_WORDS = ('text_embeddings', 'synonym_mask', 'is_thing')
# Libraries choose their algorithms, and take the memory for these, in the first runs.
_WARM_UP_RUNS = 3
_LOG = logging.getLogger('fisa_ros.torch')


class Queue(Protocol):
    """Where work runs in the order in which it was begun."""

    @property
    def device(self) -> torch.device:
        """Device of the work."""
        ...

    def active(self) -> AbstractContextManager[object]:
        """Begin all that PyTorch does inside of it here."""
        ...

    def host_tensor(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """Return memory of the host from and to which copies need not wait."""
        ...

    def record(self, work: Callable[[], tuple[Tensor, ...]]) -> Callable[[], tuple[Tensor, ...]]:
        """Return what repeats `work` into the same tensors at less cost; raises RuntimeError if that cannot be."""
        ...

    def wait(self) -> None:
        """Wait until all that was begun has ended."""
        ...


class FrameRunner:
    """Encoder and head behind one another: an image goes up, a map of segments comes back.

    The encoder, whose shapes are fixed, is recorded once and repeated. The head, whose shapes follow the vocabulary, is
    called for the first frame of each and recorded for those that follow: a record costs more than a call saves. Only
    one thread may use it.

    Args:
        encoder: The encoder, on the device of the queue.
        head: The head, there too; always float32.
        image_size_hw: Size of the images.
        queue: Where the work runs.

    Attributes:
        is_recorded: Whether the encoder is repeated instead of called anew for each frame.
    """

    @torch.inference_mode()
    def __init__(self, encoder: Encoder, head: PanopticHead, image_size_hw: tuple[int, int], queue: Queue) -> None:
        self._queue = queue
        self._encoder, self._head = EncoderGraph(encoder).eval(), HeadGraph(head).eval()
        self._on_host: dict[str, Tensor] = {}
        self._words: list[Tensor] = []
        # What the words on the device were made of; held so that another state never has the same identity.
        self._state: VocabularyState | None = None
        device = queue.device
        with queue.active():
            self._on_device = {
                'image': torch.zeros(*image_size_hw, 3, dtype=torch.uint8, device=device),
                'thresholds': torch.zeros(6, device=device),
                'semantic_tokens': torch.zeros(NUM_SEMANTIC_TOKENS, head.void_embedding.shape[0], device=device),
                'token_mask': torch.zeros(NUM_SEMANTIC_TOKENS, dtype=torch.bool, device=device),
            }
            self._encode, self.is_recorded = self._recorded(self._call_encoder, 'encoder')
            # The tensors into which the encoder is repeated, behind which the head can be recorded.
            self._encoded = self._encode() if self.is_recorded else ()
        self._repeat_head: Callable[[], tuple[Tensor, ...]] | None = None
        self._constants = self._head_constants()

    def segment(self, image: NDArray[np.uint8], state: VocabularyState, thresholds: Thresholds) -> RawSegmentation:
        """See `Backend.segment`."""
        self._use_words(state)
        outputs = self._run(image, thresholds.array())
        found = self._download({name: outputs[name] for name in HEAD_OUTPUTS})
        return RawSegmentation(found['query_map'], found['class_index'], found['score'])

    def segment_timed(
        self, image: NDArray[np.uint8], state: VocabularyState, thresholds: Thresholds
    ) -> tuple[RawSegmentation, Mapping[str, float]]:
        """See `TimedBackend.segment_timed`; it waits after each stage, which `segment` does not."""
        clock = StageClock()

        def end(stage: str) -> None:
            self._queue.wait()
            clock.end(stage)

        self._use_words(state)
        outputs = self._run(image, thresholds.array(), end)
        found = self._download({name: outputs[name] for name in HEAD_OUTPUTS})
        clock.end('download')
        return RawSegmentation(found['query_map'], found['class_index'], found['score']), clock.stages_ms

    def run_graphs(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
        """Run one frame and return the outputs of both graphs, see `ParityGate.judge`."""
        self._state = None
        self._set_words(inputs)
        return self._download(self._run(inputs['image'], inputs['thresholds']))

    def _recorded(
        self, call: Callable[[], tuple[Tensor, ...]], name: str
    ) -> tuple[Callable[[], tuple[Tensor, ...]], bool]:
        for _ in range(_WARM_UP_RUNS):
            call()
        self._queue.wait()
        try:
            return self._queue.record(call), True
        except RuntimeError as error:
            reason = str(error).partition('\n')[0]
            _LOG.warning('the %s cannot be recorded and is called for each frame, which is slower: %s', name, reason)
            return call, False

    def _call_encoder(self) -> tuple[Tensor, ...]:
        inputs = (self._on_device[name] for name in ('image', *_TOKENS))
        encoded: tuple[Tensor, ...] = self._encoder(*inputs)
        return encoded

    def _call_head(self, encoded: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        segmented: tuple[Tensor, ...] = self._head(*encoded, *self._words, self._on_device['thresholds'])
        return segmented

    def _use_words(self, state: VocabularyState) -> None:
        if state is not self._state:
            # Words that go up only in part, for want of memory, belong to no state.
            self._state = None
            self._set_words({name: getattr(state, name) for name in (*_TOKENS, *_WORDS)})
            self._state = state
        elif self.is_recorded and (self._repeat_head is None or self._constants != self._head_constants()):
            self._record_head()

    @torch.inference_mode()
    def _set_words(self, arrays: Arrays) -> None:
        self._repeat_head = None
        with self._queue.active():
            for name in _TOKENS:
                self._on_device[name].copy_(torch.from_numpy(arrays[name]))
            self._words = [torch.from_numpy(arrays[name]).to(self._queue.device) for name in _WORDS]

    @torch.inference_mode()
    def _record_head(self) -> None:
        # Freed before the next one takes memory.
        self._repeat_head = None
        self._constants = self._head_constants()
        with self._queue.active():
            self._repeat_head, _ = self._recorded(lambda: self._call_head(self._encoded), 'head')

    def _head_constants(self) -> tuple[float, int]:
        """Return what a record of the head holds as constants."""
        return self._head.head.temperature, self._head.head.merge_size

    @torch.inference_mode()
    def _run(
        self,
        image: NDArray[np.uint8],
        thresholds: NDArray[np.float32],
        end: Callable[[str], None] = lambda stage: None,
    ) -> dict[str, Tensor]:
        """Begin a frame and return the outputs of both graphs on the device; `end` is called after each stage."""
        with self._queue.active():
            for name, values in (('image', image), ('thresholds', thresholds)):
                device = self._on_device[name]
                if values.shape != device.shape:
                    raise ValueError(f'{name} must be {tuple(device.shape)}, got {values.shape}')
                host = self._host(name, device)
                np.copyto(host.numpy(), values, casting='no')
                device.copy_(host, non_blocking=True)
            end('upload')
            encoded = self._encode()
            end('encoder')
            segmented = self._call_head(encoded) if self._repeat_head is None else self._repeat_head()
            end('head')
        return dict(zip((*ENCODER_OUTPUTS, *HEAD_OUTPUTS), (*encoded, *segmented), strict=True))

    @torch.inference_mode()
    def _download(self, tensors: Mapping[str, Tensor]) -> dict[str, NDArray[Any]]:
        """Wait for the frame and return copies of what it gave."""
        hosts = {name: self._host(name, tensor) for name, tensor in tensors.items()}
        with self._queue.active():
            for name, host in hosts.items():
                host.copy_(tensors[name], non_blocking=True)
        self._queue.wait()
        return {name: host.numpy().copy() for name, host in hosts.items()}

    def _host(self, name: str, like: Tensor) -> Tensor:
        if name not in self._on_host or self._on_host[name].shape != like.shape:
            self._on_host[name] = self._queue.host_tensor(like.shape, like.dtype)
        return self._on_host[name]


def first_that_passes(
    candidates: Iterable[tuple[str, Callable[[], FrameRunner]]], gate: ParityGate | None
) -> tuple[str, FrameRunner]:
    """Open one precision after the other until one passes the gate.

    Args:
        candidates: Name of each precision, with what opens it, the best first; the last is taken as it is.
        gate: The gate; the first precision is taken as it is without one.
    """
    *others, (last_name, open_last) = candidates
    for name, open_runner in others:
        runner = open_runner()
        if gate is None:
            return name, runner
        verdict = gate.judge(runner.run_graphs)
        if verdict.passed:
            _LOG.info('precision %s: %s', name, verdict.describe())
            return name, runner
        # Freed before the next one is opened.
        del runner
        _LOG.warning('precision %s is not used: %s', name, verdict.describe())
    return last_name, open_last()
