"""Segments images of a data set: with a model's own answers, or with the truth in place of a part of them."""

from collections.abc import Sequence
from dataclasses import dataclass
import logging
import math

import numpy as np
from numpy.typing import NDArray

from fisa_ros.core.errors import BackendUnavailableError
from fisa_ros.core.placement import Placement
from fisa_ros.core.results import PanopticResult
from fisa_ros.core.thresholds import Thresholds
from fisa_ros.core.vocabulary_state import VocabularyState
from fisa_ros.evaluation.category_map import CategoryMap
from fisa_ros.evaluation.image_truth import ImageTruth
from fisa_ros.evaluation.scored_masks import ScoredMasks, class_scores
from fisa_ros.pipeline.image_scaling import place_image
from fisa_ros.pipeline.segmenter import Segmenter
from fisa_ros.pipeline.segments import list_segments
from fisa_ros.runtime.backend import MaskClassifier, ProposedMasks, RawSegmentation, sure_mask_logits

ORACLES = ('masks', 'classes')
OBJECT_IOU = 0.5
"""A mask whose IoU with a true segment is larger lies on that object."""
STUFF_SHARE = 0.5
"""So does a mask on stuff with at least this share of its area: the head fuses the masks of one class of stuff."""

_log = logging.getLogger('fisa_ros.evaluation')


@dataclass(frozen=True, slots=True)
class Prediction:
    """What a model says about one image in one vocabulary.

    Attributes:
        result: The segmentation.
        mask_probabilities: `(T, K + 1)` float32 class probabilities of the true masks of `ImageTruth.masks`, the last
            column for void; None where the back-end cannot classify given masks.
        mask_categories: `(T,)` int64 category numbers of these masks.
        scored_masks: What the segmentation was merged from; None where the back-end merges by itself.
    """

    result: PanopticResult
    mask_probabilities: NDArray[np.float32] | None
    mask_categories: NDArray[np.int64]
    scored_masks: ScoredMasks | None = None


class Predictor:
    """Segments images, each in several vocabularies; where the stages of a back-end do it, masks are proposed once.

    Stages compute in float32. A back-end that has none, or whose `segment` is in another precision, segments by itself,
    so that what runs is what is scored.

    Args:
        segmenter: The model.
        categories: The categories whose segments are the truth.
        thresholds: What a segment must reach.
        oracle: None, 'masks' to take the true masks and predict their classes, or 'classes' to take the predicted
            masks and give each the class of the true segment that it lies on: by `OBJECT_IOU`, of stuff also by
            `STUFF_SHARE`.
        has_instances: Whether the truth tells things of one class apart; if not, that oracle takes them for stuff.

    Raises:
        BackendUnavailableError: The back-end cannot do what the oracle needs.
    """

    def __init__(
        self,
        segmenter: Segmenter,
        categories: CategoryMap,
        thresholds: Thresholds,
        oracle: str | None = None,
        *,
        has_instances: bool = True,
    ) -> None:
        self._segmenter = segmenter
        self._categories = categories
        self._thresholds = thresholds
        self._oracle = oracle
        self._has_instances = has_instances
        backend = segmenter.backend
        self._stages = backend if isinstance(backend, MaskClassifier) else None
        self._is_staged = self._stages is not None and (oracle is not None or backend.precision == 'fp32')
        if self._stages is None:
            if oracle is not None:
                raise BackendUnavailableError(
                    f'back-end {backend.name!r} cannot classify given masks, which --oracle {oracle} needs: '
                    'choose torch'
                )
            _log.warning('back-end %r cannot classify given masks: scores of true masks are left out', backend.name)

    def predict(
        self, image: NDArray[np.uint8], truth: ImageTruth, states: Sequence[VocabularyState]
    ) -> list[Prediction]:
        """Segment one image in each of the vocabularies.

        Args:
            image: `(H, W, 3)` uint8 rgb.
            truth: What is in it.
            states: The vocabularies.
        """
        if self._stages is None:
            return [Prediction(self._segment(image, state), None, np.zeros(0, np.int64)) for state in states]
        placement = self._segmenter.placement(truth.size_hw)
        thresholds = self._thresholds.placed(placement.shown_hw)
        scaled = place_image(image, placement)
        masks, categories = truth.masks(placement)
        if not self._is_staged:
            classify = self._stages.classify_masks
            return [
                Prediction(self._segment(image, state), classify(scaled, masks, state), categories) for state in states
            ]
        true_masks = ProposedMasks(sure_mask_logits(masks), np.ones(len(masks), np.float32))
        proposed = true_masks if self._oracle == 'masks' else self._stages.propose_masks(scaled)
        predictions = []
        for state in states:
            embeddings, true_embeddings = embed_together(
                self._stages, scaled, proposed.mask_logits, true_masks.mask_logits, state
            )
            if self._oracle == 'classes':
                raw, scored = self._merge_by_truth(self._stages, proposed, masks, categories, state, placement)
            else:
                has_masks = len(proposed.mask_logits) > 0
                raw = self._stages.merge_masks(proposed, embeddings, state, thresholds) if has_masks else _nothing()
                probabilities = self._stages.class_probabilities(embeddings, state)
                trust = self._thresholds.objectness_trust
                scores = class_scores(probabilities, proposed.objectness, trust)
                scored = ScoredMasks(proposed.mask_logits, scores, placement)
            predictions.append(
                Prediction(
                    list_segments(raw, state.vocabulary, placement),
                    self._stages.class_probabilities(true_embeddings, state),
                    categories,
                    scored,
                )
            )
        return predictions

    def _segment(self, image: NDArray[np.uint8], state: VocabularyState) -> PanopticResult:
        return self._segmenter.segment(image, state, self._thresholds)

    def _merge_by_truth(
        self,
        stages: MaskClassifier,
        proposed: ProposedMasks,
        masks: NDArray[np.float32],
        categories: NDArray[np.int64],
        state: VocabularyState,
        placement: Placement,
    ) -> tuple[RawSegmentation, ScoredMasks]:
        row_of = self._categories.rows_in(state.vocabulary)
        is_thing = self._categories.is_thing
        is_stuff = np.array([not (self._has_instances and is_thing[key]) for key in categories.tolist()], np.bool_)
        shown_logits, shown_masks = placement.shown(proposed.mask_logits), placement.shown(masks)
        index = segments_below(shown_logits, shown_masks, is_stuff, self._thresholds.mask)
        # Void, the last column, is what lies on nothing, index -1, or on a category that this vocabulary lacks.
        rows = np.array([*(row_of.get(category, -1) for category in categories.tolist()), -1], np.int64)
        # As if the classifier were as sure as it can be.
        probabilities = np.eye(len(state.vocabulary.classes) + 1, dtype=np.float32)[rows[index]]
        scores = class_scores(probabilities, proposed.objectness, self._thresholds.objectness_trust)
        class_index, score = scores.argmax(axis=1), scores.max(axis=1)
        raw = stages.merge_classified(
            proposed.mask_logits, class_index, score, state, self._thresholds.placed(placement.shown_hw)
        )
        return raw, ScoredMasks(proposed.mask_logits, scores, placement)


def embed_together(
    stages: MaskClassifier,
    image: NDArray[np.uint8],
    first: NDArray[np.float32],
    second: NDArray[np.float32],
    state: VocabularyState,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the embeddings of two sets of masks; of equal resolution, they cost little more than one.

    Args:
        stages: The back-end.
        image: `(h, w, 3)` uint8 rgb at its size.
        first: `(N, h, w)` mask logits, perhaps none.
        second: `(T, h, w)`, perhaps of another resolution; perhaps the same array.
        state: The vocabulary.
    """
    if first is second or not len(second):
        embeddings = stages.embed_masks(image, first, state)
        return embeddings, embeddings[: len(second)]
    if first.shape[1:] != second.shape[1:]:
        return stages.embed_masks(image, first, state), stages.embed_masks(image, second, state)
    embeddings = stages.embed_masks(image, np.concatenate([first, second]), state)
    return embeddings[: len(first)], embeddings[len(first) :]


def best_matches(
    mask_logits: NDArray[np.float32], masks: NDArray[np.float32], threshold: float
) -> tuple[NDArray[np.float64], NDArray[np.intp]]:
    """Return for each predicted mask the largest IoU with a true one, `(N,)` in [0, 1], and which that is, `(N,)`.

    Args:
        mask_logits: `(N, h, w)` float32.
        masks: `(T, h, w)` float32 in [0, 1], shares of cells.
        threshold: Probability in [0, 1] above which a cell belongs to a predicted mask.
    """
    if not len(masks):
        return np.zeros(len(mask_logits)), np.zeros(len(mask_logits), np.intp)
    iou, _ = _overlaps(mask_logits, masks, threshold)
    return iou.max(axis=1), iou.argmax(axis=1)


def segments_below(
    mask_logits: NDArray[np.float32], masks: NDArray[np.float32], is_stuff: NDArray[np.bool_], threshold: float
) -> NDArray[np.intp]:
    """Return which true segment each predicted mask lies on, `(N,)`, -1 where it lies on none.

    Args:
        mask_logits: `(N, h, w)` float32.
        masks: `(T, h, w)` float32 in [0, 1], shares of cells.
        is_stuff: `(T,)` bool.
        threshold: Probability in [0, 1] above which a cell belongs to a predicted mask.
    """
    if not len(masks):
        return np.full(len(mask_logits), -1, np.intp)
    iou, covered = _overlaps(mask_logits, masks, threshold)
    covered[:, ~is_stuff] = 0.0
    on_stuff = np.where(covered.max(axis=1) >= STUFF_SHARE, covered.argmax(axis=1), -1)
    return np.where(iou.max(axis=1) > OBJECT_IOU, iou.argmax(axis=1), on_stuff)


def _overlaps(
    mask_logits: NDArray[np.float32], masks: NDArray[np.float32], threshold: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the IoU of each predicted with each true mask, and the share of the predicted one, both `(N, T)`."""
    logit = math.log(threshold / (1 - threshold)) if 0 < threshold < 1 else math.copysign(math.inf, threshold - 0.5)
    predicted = (mask_logits > logit).reshape(len(mask_logits), -1).astype(np.float64)
    true = masks.reshape(len(masks), -1).astype(np.float64)
    shared = predicted @ true.T
    area = predicted.sum(axis=1)[:, None]
    union = area + true.sum(axis=1) - shared
    iou = np.divide(shared, union, out=np.zeros(shared.shape), where=union > 0)
    return iou, np.divide(shared, area, out=np.zeros(shared.shape), where=area > 0)


def _nothing() -> RawSegmentation:
    return RawSegmentation(np.zeros((1, 1), np.int32), np.zeros(0, np.int64), np.zeros(0, np.float32))
