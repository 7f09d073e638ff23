"""The model and the vocabulary in use, and how both change."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
import time

import numpy as np

from fisa_ros.core.errors import FisaError
from fisa_ros.core.vocabulary import Vocabulary, VocabularyRegistry, VocabularyRequest
from fisa_ros.core.vocabulary_state import VocabularyState
from fisa_ros.pipeline.segmenter import Segmenter

_WARM_UP_SIZE_HW = (480, 640)


@dataclass(frozen=True, slots=True)
class VocabularyInUse:
    """A model and a vocabulary encoded for it; a frame is made with one of these."""

    segmenter: Segmenter
    state: VocabularyState

    @property
    def vocabulary(self) -> Vocabulary:
        """The classes."""
        return self.state.vocabulary


@dataclass(frozen=True, slots=True)
class VocabularyChange:
    """What a request led to.

    Attributes:
        vocabulary: In the order of the request, with the version in use.
        is_new: False if it was in use before.
        encode_ms: Time that encoding its words took.
    """

    vocabulary: Vocabulary
    is_new: bool
    encode_ms: float


class VocabularyHolder:
    """Changes the vocabulary whole or not at all.

    `load`, `change` and `unload` are called from one thread; any thread may read `in_use` and `vocabulary` at any time.
    """

    def __init__(self, registry: VocabularyRegistry, on_change: Callable[[], None]) -> None:
        """Start without a model.

        Args:
            registry: Hands out the class ids; it outlives the model.
            on_change: Called after a new vocabulary came into use.
        """
        self._registry = registry
        self._on_change = on_change
        self._in_use: VocabularyInUse | None = None

    @property
    def in_use(self) -> VocabularyInUse | None:
        """The model and the vocabulary; None while no model is loaded."""
        return self._in_use

    @property
    def vocabulary(self) -> Vocabulary | None:
        """The vocabulary; kept while no model is loaded."""
        return self._registry.current

    def load(self, load_segmenter: Callable[[], Segmenter], start_text: str) -> VocabularyInUse:
        """Load a model, encode the vocabulary for it and warm up.

        Args:
            load_segmenter: Makes the model.
            start_text: Vocabulary to begin with; one that was set before is kept instead.

        Raises:
            FisaError: The model cannot be loaded or the vocabulary cannot be used.
        """
        start = self._registry.current or self._registry.propose(VocabularyRequest.parse(start_text))
        segmenter = load_segmenter()
        with ExitStack() as undo:
            undo.callback(segmenter.close)
            state = segmenter.prepare(start)
            segmenter.segment(np.zeros((*_WARM_UP_SIZE_HW, 3), np.uint8), state)
            undo.pop_all()
        self._registry.commit(start)
        self._in_use = VocabularyInUse(segmenter, state)
        return self._in_use

    def change(self, request: VocabularyRequest) -> VocabularyChange:
        """Put another vocabulary to use, or change nothing.

        Raises:
            FisaError: The request cannot be met; the text says why.
        """
        if self._in_use is None:
            raise FisaError('no model is loaded: configure the node first')
        proposal = self._registry.propose(request)
        if proposal.version == self._in_use.vocabulary.version:
            return VocabularyChange(proposal, is_new=False, encode_ms=0.0)
        started_s = time.perf_counter()
        state = self._in_use.segmenter.prepare(proposal)
        encode_ms = (time.perf_counter() - started_s) * 1e3
        self._registry.commit(proposal)
        self._in_use = VocabularyInUse(self._in_use.segmenter, state)
        self._on_change()
        return VocabularyChange(proposal, is_new=True, encode_ms=encode_ms)

    def unload(self) -> None:
        """Free the model; the vocabulary stays."""
        if self._in_use is not None:
            self._in_use.segmenter.close()
            self._in_use = None
