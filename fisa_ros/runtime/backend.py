"""What every back-end does, whatever library runs the networks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
import time
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from fisa_ros.core.thresholds import Thresholds as Thresholds
from fisa_ros.core.vocabulary_state import VocabularyState

SURE_LOGIT = 8.0

# Stages of `TimedBackend.segment_timed` that are spent in the networks; any other is work around them.
NETWORK_STAGES = ('encoder', 'classifier', 'head', 'networks')


@dataclass(frozen=True, slots=True)
class RawSegmentation:
    """The segmentation of one image at the resolution of the merge.

    Attributes:
        query_map: `(hm, wm)` signed integers, 0 where nothing fits, q + 1 where query q is in front. All parts of a
            stuff class belong to one query.
        class_index: `(Q,)` int64, row of the vocabulary for each query; undefined for queries without pixels.
        score: `(Q,)` float32 in [0, 1], probability of that class; undefined for queries without pixels.
    """

    query_map: NDArray[np.signedinteger]
    class_index: NDArray[np.int64]
    score: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class ProposedMasks:
    """Masks of one image before they have classes.

    Attributes:
        mask_logits: `(N, h, w)` float32, before the sigmoid.
        objectness: `(N,)` float32 in [0, 1], 1 - P(no object).
    """

    mask_logits: NDArray[np.float32]
    objectness: NDArray[np.float32]


class Backend(Protocol):
    """Runs the networks of one model.

    `segment` and `encode_text` may be called at once from two threads, each of them from one thread at a time.
    """

    @property
    def name(self) -> str:
        """Name of the library, "torch"."""

    @property
    def device(self) -> str:
        """Name of the device, "cpu" or "cuda:0"."""

    @property
    def precision(self) -> str:
        """What most products are computed with: "fp32", "int8", or the name of a rung of the precision ladder."""

    @property
    def image_size_hw(self) -> tuple[int, int]:
        """Size of the images that `segment` takes."""

    @property
    def embedding_dim(self) -> int:
        """Length D of a text embedding."""

    @property
    def num_semantic_tokens(self) -> int:
        """Number M of semantic tokens that `segment` takes."""

    @property
    def max_classes(self) -> int | None:
        """Most classes K that `segment` takes; None if there is no limit."""

    def segment(self, image: NDArray[np.uint8], state: VocabularyState, thresholds: Thresholds) -> RawSegmentation:
        """Segment one image.

        Args:
            image: `(h, w, 3)` uint8 rgb, of size `image_size_hw`.
            state: The vocabulary.
            thresholds: What a segment must reach; where the image has padding, `Thresholds.placed`.
        """
        ...

    def encode_text(self, sentences: Sequence[str]) -> NDArray[np.float32]:
        """Return `(n, D)` float32 unit rows, one for each sentence."""
        ...

    def close(self) -> None:
        """Free what the back-end holds; it cannot be used afterwards."""
        ...


@runtime_checkable
class TimedBackend(Protocol):
    """What a back-end may do besides: tell how long each stage of `Backend.segment` takes."""

    def segment_timed(
        self, image: NDArray[np.uint8], state: VocabularyState, thresholds: Thresholds
    ) -> tuple[RawSegmentation, Mapping[str, float]]:
        """Segment one image as `Backend.segment` does, waiting for each stage to end.

        Returns:
            The segmentation, and milliseconds by stage in the order of the stages: "upload", "encoder", "head" and
            "download" where the back-end has no others. They add up to no more than the call took.
        """
        ...


@runtime_checkable
class MaskClassifier(Protocol):
    """What a back-end may do besides: `Backend.segment` stage by stage, for measuring and calibrating a model.

    Attributes:
        temperature: What class logits are divided by before the softmax; may be set.
    """

    temperature: float

    def propose_masks(self, image: NDArray[np.uint8]) -> ProposedMasks:
        """Return the masks of `(h, w, 3)` uint8 rgb of size `image_size_hw`; words have no part in it."""
        ...

    def embed_masks(
        self, image: NDArray[np.uint8], mask_logits: NDArray[np.float32], state: VocabularyState
    ) -> NDArray[np.float32]:
        """Return `(N, D)` float32 unit rows, one for each of the `(N, h, w)` masks."""
        ...

    def class_probabilities(self, mask_embeddings: NDArray[np.float32], state: VocabularyState) -> NDArray[np.float32]:
        """Return `(N, K + 1)` float32 in [0, 1], rows that sum to 1, the last column for void."""
        ...

    def classify_masks(
        self, image: NDArray[np.uint8], masks: NDArray[np.float32], state: VocabularyState
    ) -> NDArray[np.float32]:
        """Classify given masks of one image.

        Args:
            image: `(h, w, 3)` uint8 rgb, of size `image_size_hw`.
            masks: `(N, h, w)` float32 in [0, 1], the share of each cell that a mask covers; of any resolution.
            state: The vocabulary.

        Returns:
            `(N, K + 1)` as `class_probabilities`.
        """
        ...

    def merge_masks(
        self,
        masks: ProposedMasks,
        mask_embeddings: NDArray[np.float32],
        state: VocabularyState,
        thresholds: Thresholds,
    ) -> RawSegmentation:
        """Classify and merge N masks, of which `(N, D)` embeddings are known, as `Backend.segment` does."""
        ...

    def merge_classified(
        self,
        mask_logits: NDArray[np.float32],
        class_index: NDArray[np.int64],
        score: NDArray[np.float32],
        state: VocabularyState,
        thresholds: Thresholds,
    ) -> RawSegmentation:
        """Merge `(N, h, w)` masks whose classes `(N,)` and scores `(N,)` in [0, 1] are known."""
        ...


def segment_timed(
    backend: Backend, image: NDArray[np.uint8], state: VocabularyState, thresholds: Thresholds
) -> tuple[RawSegmentation, dict[str, float]]:
    """Segment one image and tell the milliseconds of each stage; it is all "networks" where stages are not known."""
    if isinstance(backend, TimedBackend):
        raw, stages_ms = backend.segment_timed(image, state, thresholds)
        return raw, dict(stages_ms)
    clock = StageClock()
    raw = backend.segment(image, state, thresholds)
    clock.end('networks')
    return raw, clock.stages_ms


class StageClock:
    """Takes the time of stages that follow each other without a gap.

    Attributes:
        stages_ms: Milliseconds of each stage so far, in order.
    """

    def __init__(self) -> None:
        """Begin the first stage."""
        self.stages_ms: dict[str, float] = {}
        self._since_ns = time.perf_counter_ns()

    def end(self, stage: str) -> None:
        """End a stage and begin the next; a stage that comes again is added to."""
        now_ns = time.perf_counter_ns()
        self.stages_ms[stage] = self.stages_ms.get(stage, 0.0) + (now_ns - self._since_ns) * 1e-6
        self._since_ns = now_ns


def sure_mask_logits(masks: NDArray[np.float32]) -> NDArray[np.float32]:
    """Turn masks in [0, 1], shares of cells, into mask logits as sure as those that classifiers are trained on."""
    return ((2 * masks - 1) * SURE_LOGIT).astype(np.float32)
