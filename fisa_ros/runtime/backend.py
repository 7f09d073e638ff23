"""What every back-end does, whatever library runs the networks."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from fisa_ros.core.thresholds import Thresholds as Thresholds
from fisa_ros.core.vocabulary_state import VocabularyState


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
    def image_size_hw(self) -> tuple[int, int]:
        """Size of the images that `segment` takes."""

    @property
    def embedding_dim(self) -> int:
        """Length D of a text embedding."""

    @property
    def num_semantic_tokens(self) -> int:
        """Number M of semantic tokens that `segment` takes."""

    def segment(self, image: NDArray[np.uint8], state: VocabularyState, thresholds: Thresholds) -> RawSegmentation:
        """Segment one image.

        Args:
            image: `(h, w, 3)` uint8 rgb, of size `image_size_hw`.
            state: The vocabulary.
            thresholds: What a segment must reach.
        """
        ...

    def encode_text(self, sentences: Sequence[str]) -> NDArray[np.float32]:
        """Return `(n, D)` float32 unit rows, one for each sentence."""
        ...

    def close(self) -> None:
        """Free what the back-end holds; it cannot be used afterwards."""
        ...
