"""Fits the temperature and the thresholds of a model to a data set; each image is encoded once."""

from dataclasses import dataclass
import math
import sys

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from fisa_ros.core.errors import BackendUnavailableError, DataError
from fisa_ros.core.results import PanopticResult
from fisa_ros.core.thresholds import Thresholds
from fisa_ros.core.vocabulary import Vocabulary
from fisa_ros.core.vocabulary_state import VocabularyState
from fisa_ros.datasets.coco_panoptic import PanopticDataset
from fisa_ros.evaluation.calibration import CalibrationError, fit_temperature, negative_log_likelihood
from fisa_ros.evaluation.category_map import CategoryMap
from fisa_ros.evaluation.dataset_scorer import numbered_segments
from fisa_ros.evaluation.evaluate_dataset import count_images
from fisa_ros.evaluation.image_truth import ImageTruth
from fisa_ros.evaluation.panoptic_quality import PanopticQuality
from fisa_ros.evaluation.predictor import OBJECT_IOU, best_matches, embed_together
from fisa_ros.evaluation.threshold_search import MAX_TRIALS, Trial, best_trial, search_thresholds
from fisa_ros.evaluation.void_check import VoidCheck, halves
from fisa_ros.pipeline.image_scaling import place_image
from fisa_ros.pipeline.segmenter import Segmenter
from fisa_ros.pipeline.segments import list_segments
from fisa_ros.runtime.backend import MaskClassifier, ProposedMasks, sure_mask_logits

_SMALLEST = 1e-30
_MIN_TEMPERATURE = 0.01


@dataclass(frozen=True, slots=True)
class TemperatureFit:
    """What a temperature does to the probabilities of classes.

    Attributes:
        temperature: What class logits are divided by.
        nll: Mean negative log-likelihood over true masks and predicted masks that lie on an object.
        ece_masks: Expected calibration error on the true masks.
        ece_predicted_masks: On these predicted masks; NaN where there are none.
    """

    temperature: float
    nll: float
    ece_masks: float
    ece_predicted_masks: float


@dataclass(frozen=True, slots=True)
class Measurement:
    """What thresholds lead to.

    Attributes:
        pq: Panoptic quality over all categories.
        removed_mislabelled: Share of the pixels of removed classes that carry a label; None where it is not limited.
    """

    pq: float
    removed_mislabelled: float | None


@dataclass(frozen=True, slots=True)
class _EncodedMasks:
    """Masks that are rather something than void; float16 halves the memory."""

    mask_logits: NDArray[np.float16]
    objectness: NDArray[np.float32]
    embeddings: NDArray[np.float32]


class ModelCalibration:
    """A data set, encoded by a model.

    Args:
        segmenter: The model.
        dataset: Images with truth.
        categories: Which of its categories count.
        vocabulary: The words for them.
        thresholds: Where the search starts; the mask threshold also decides which cells a predicted mask covers.
        limit: At most so many images.
        max_mislabelled: Largest share of the pixels of removed classes that may carry a label when half of the words
            are removed; None lets them carry any.

    Raises:
        BackendUnavailableError: The back-end cannot classify given masks.
        DataError: `max_mislabelled` is not in [0, 1], there are no images or no true masks, or an image cannot be read
            or contradicts the annotations.
    """

    def __init__(
        self,
        segmenter: Segmenter,
        dataset: PanopticDataset,
        categories: CategoryMap,
        vocabulary: Vocabulary,
        thresholds: Thresholds,
        limit: int | None = None,
        max_mislabelled: float | None = None,
    ) -> None:
        if max_mislabelled is not None and not 0.0 <= max_mislabelled <= 1.0:
            raise DataError(f'--max-mislabelled must be in [0, 1], got {max_mislabelled}')
        if not isinstance(segmenter.backend, MaskClassifier):
            raise BackendUnavailableError(
                f'back-end {segmenter.backend.name!r} cannot classify given masks, as calibration must: choose torch'
            )
        self._stages = segmenter.backend
        self._placement = segmenter.placement
        self._categories = categories
        self._thresholds = thresholds
        self._max_mislabelled = max_mislabelled
        parts = () if max_mislabelled is None else halves(vocabulary)
        self._states = [segmenter.prepare(part) for part in (vocabulary, *parts)]
        row_of = categories.rows_in(vocabulary)
        self._row_of_number = np.array([row_of.get(number, -1) for number in range(len(categories.names) + 1)])
        self._truths: list[ImageTruth] = []
        self._encoded: list[list[_EncodedMasks]] = []
        # Of true masks and of predicted masks on an object: logarithms of probabilities (n, K + 1) and rows (n,).
        self._answers: tuple[list[tuple[NDArray[np.float32], NDArray[np.int64]]], ...] = ([], [])
        for index in tqdm(range(count_images(dataset, limit)), unit='image', file=sys.stderr, disable=None):
            self._encode(dataset.image(index), ImageTruth.read(dataset, index, categories))
        self._true, self._predicted = (
            (np.concatenate([log for log, _ in answers]), np.concatenate([rows for _, rows in answers]))
            for answers in self._answers
        )
        if not len(self._true[0]):
            raise DataError(f'{dataset.path} has no segment that is large enough to be classified')

    @property
    def images(self) -> int:
        """Number of images."""
        return len(self._encoded)

    def fit_temperature(self) -> tuple[TemperatureFit, TemperatureFit]:
        """Return the calibration as it is and with the best temperature of 0.01 or more, which is put to use."""
        former = self._stages.temperature
        log_probabilities, rows = (np.concatenate(both) for both in zip(self._true, self._predicted, strict=True))
        factor = fit_temperature(log_probabilities, rows)
        self._stages.temperature = max(round(former * factor, 3), _MIN_TEMPERATURE)
        fits = (self._fit(temperature, former) for temperature in (former, self._stages.temperature))
        before, after = fits
        return before, after

    def search_thresholds(self) -> list[Trial]:
        """Return all thresholds tried at the present temperature.

        Their score is the panoptic quality; where too much of the removed classes is labelled, it is minus that share.

        Raises:
            DataError: `max_mislabelled` is reached nowhere.
        """
        with tqdm(total=MAX_TRIALS, unit='trial', file=sys.stderr, disable=None) as progress:

            def score(thresholds: Thresholds) -> float:
                progress.update()
                measured = self.measure(thresholds)
                mislabelled = measured.removed_mislabelled or 0.0
                is_allowed = self._max_mislabelled is None or mislabelled <= self._max_mislabelled
                return measured.pq if is_allowed else -mislabelled

            trials = search_thresholds(score, self._thresholds)
        best = best_trial(trials).score
        if best < 0:
            # Rounded up, so that the value that is named can be reached.
            least = math.ceil(-best * 1e4) / 1e4
            raise DataError(
                f'--max-mislabelled {self._max_mislabelled} cannot be reached: the least that was found is {least}'
            )
        return trials

    def measure(self, thresholds: Thresholds) -> Measurement:
        """Return what these thresholds lead to at the present temperature."""
        quality, void_check = PanopticQuality(self._categories.is_thing), VoidCheck(self._categories)
        for truth, encoded in zip(self._truths, self._encoded, strict=True):
            result, *without_words = (
                self._segment(masks, state, thresholds, truth.size_hw)
                for masks, state in zip(encoded, self._states, strict=True)
            )
            quality.update(
                *numbered_segments(result, self._categories),
                truth.panoptic_map,
                truth.category_of,
                truth.crowds,
            )
            for other, state in zip(without_words, self._states[1:], strict=True):
                void_check.add(other, truth, state.vocabulary.class_ids)
        mislabelled = void_check.compute() if void_check.pixels else None
        return Measurement(quality.compute().all.pq, mislabelled)

    def _segment(
        self, masks: _EncodedMasks, state: VocabularyState, thresholds: Thresholds, size_hw: tuple[int, int]
    ) -> PanopticResult:
        proposed = ProposedMasks(masks.mask_logits.astype(np.float32), masks.objectness)
        placement = self._placement(size_hw)
        raw = self._stages.merge_masks(proposed, masks.embeddings, state, thresholds.placed(placement.shown_hw))
        return list_segments(raw, state.vocabulary, placement)

    def _encode(self, image: NDArray[np.uint8], truth: ImageTruth) -> None:
        placement = self._placement(truth.size_hw)
        scaled = place_image(image, placement)
        masks, categories = truth.masks(placement)
        rows = self._row_of_number[categories]
        proposed = self._stages.propose_masks(scaled)
        best, index = best_matches(placement.shown(proposed.mask_logits), placement.shown(masks), self._thresholds.mask)
        is_matched = best > OBJECT_IOU
        encoded = []
        for state in self._states:
            embeddings, true_embeddings = embed_together(
                self._stages, scaled, proposed.mask_logits, sure_mask_logits(masks), state
            )
            probabilities = self._stages.class_probabilities(embeddings, state)
            if state is self._states[0]:
                true_probabilities = self._stages.class_probabilities(true_embeddings, state)
                self._answers[0].append((_log(true_probabilities), rows))
                self._answers[1].append((_log(probabilities[is_matched]), rows[index[is_matched]]))
            # The head drops the others at any temperature and any threshold; one stays, as it wants at least one.
            is_kept = probabilities[:, :-1].max(axis=1) > probabilities[:, -1]
            is_kept[:1] = True
            encoded.append(
                _EncodedMasks(
                    proposed.mask_logits[is_kept].astype(np.float16), proposed.objectness[is_kept], embeddings[is_kept]
                )
            )
        self._truths.append(truth)
        self._encoded.append(encoded)

    def _fit(self, temperature: float, former: float) -> TemperatureFit:
        factor = temperature / former
        log_probabilities, rows = (np.concatenate(both) for both in zip(self._true, self._predicted, strict=True))
        return TemperatureFit(
            temperature=temperature,
            nll=negative_log_likelihood(log_probabilities, rows, factor),
            ece_masks=_ece(*self._true, factor),
            ece_predicted_masks=_ece(*self._predicted, factor),
        )


def _log(probabilities: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.log(np.maximum(probabilities, np.float32(_SMALLEST)))


def _ece(log_probabilities: NDArray[np.float32], rows: NDArray[np.int64], factor: float) -> float:
    scaled = log_probabilities.astype(np.float64) / factor
    probabilities = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    confidence = 1 / probabilities.sum(axis=1)
    error = CalibrationError()
    error.update(confidence, scaled.argmax(axis=1) == rows)
    return error.compute()
