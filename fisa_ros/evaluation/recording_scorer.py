"""Scores recorded frames, each with the vocabulary that it says it was made with."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self

import numpy as np
from numpy.typing import NDArray

from fisa_ros.core.class_names import name_key
from fisa_ros.core.vocabulary import Vocabulary
from fisa_ros.evaluation.mean_iou import MeanIou
from fisa_ros.evaluation.panoptic_quality import PanopticQuality
from fisa_ros.evaluation.recording import AnsweredFrame


@dataclass
class Scores:
    """Metrics over a set of frames.

    Attributes:
        frames: Frames scored.
        quality: PQ over the categories.
        mean_iou: mIoU over the categories.
        absent_pixels: Pixels of categories that the vocabulary did not have; they count in neither metric.
        absent_unlabeled_pixels: Those of them that were rightly left unlabelled.
    """

    quality: PanopticQuality
    mean_iou: MeanIou
    frames: int = 0
    absent_pixels: int = 0
    absent_unlabeled_pixels: int = 0

    @classmethod
    def empty(cls, is_thing: Mapping[int, bool]) -> Self:
        """Start without frames; `is_thing` by category id."""
        return cls(PanopticQuality(is_thing), MeanIou(is_thing))

    def merge(self, other: Self) -> None:
        """Add other frames."""
        self.quality.merge(other.quality)
        self.mean_iou.merge(other.mean_iou)
        self.frames += other.frames
        self.absent_pixels += other.absent_pixels
        self.absent_unlabeled_pixels += other.absent_unlabeled_pixels


@dataclass
class Faults:
    """Frames that contradict the interface.

    Attributes:
        unknown_versions: Made with a vocabulary that was never in use.
        mixed_vocabularies: A label that the vocabulary of the stated version does not have.
        contradictions: Mask, instances and segments of the same stamp disagree, or differ in size from the truth.
        without_truth: Could not be scored, because no truth of the same stamp arrived.
    """

    unknown_versions: int = 0
    mixed_vocabularies: int = 0
    contradictions: int = 0
    without_truth: int = 0


@dataclass
class RecordingScorer:
    """Maps answers and truth to categories and scores them.

    Attributes:
        category_of: Category id by key of a name (see `name_key`), for every first name in any vocabulary.
        is_thing: By category id.
        vocabularies: Every vocabulary that was in use, by version.
    """

    category_of: Mapping[str, int]
    is_thing: Mapping[int, bool]
    vocabularies: Mapping[int, Vocabulary]
    by_version: dict[int, Scores] = field(default_factory=dict, init=False)
    faults: Faults = field(default_factory=Faults, init=False)

    @property
    def total(self) -> Scores:
        """Over all frames scored."""
        total = Scores.empty(self.is_thing)
        for scores in self.by_version.values():
            total.merge(scores)
        return total

    def add(self, frame: AnsweredFrame) -> None:
        """Check one frame and score it; a frame that contradicts itself is counted as a fault and not scored."""
        vocabulary = self.vocabularies.get(frame.vocabulary_version)
        if vocabulary is None:
            self.faults.unknown_versions += 1
            return
        semantic_map, panoptic_map = frame.semantic_map.decode(), frame.panoptic_map.decode()
        labels = {entry.id: entry.name for entry in vocabulary.classes}
        if not (
            all(labels.get(segment.class_id) == segment.class_name for segment in frame.segments)
            and set(np.unique(frame.semantic_map.values).tolist()) <= {0, *labels}
        ):
            self.faults.mixed_vocabularies += 1
            return
        class_of = {segment.id: segment.class_id for segment in frame.segments}
        if not (
            set(np.unique(frame.panoptic_map.values).tolist()) - {0} == class_of.keys()
            and np.array_equal(_translate(panoptic_map, class_of), semantic_map)
        ):
            self.faults.contradictions += 1
            return
        if frame.truth is None:
            self.faults.without_truth += 1
            return
        truth_map = frame.truth.panoptic_map.decode()
        if truth_map.shape != panoptic_map.shape:
            self.faults.contradictions += 1
            return
        category_by_class = {class_id: self.category_of[name_key(name)] for class_id, name in labels.items()}
        present = set(category_by_class.values())
        true_category = {segment.id: segment.class_id for segment in frame.truth.segments}
        counted = {key: category for key, category in true_category.items() if category in present}
        absent = _translate(truth_map, dict.fromkeys(true_category.keys() - counted.keys(), 1)) > 0
        scores = self.by_version.setdefault(vocabulary.version, Scores.empty(self.is_thing))
        scores.frames += 1
        scores.absent_pixels += int(absent.sum())
        scores.absent_unlabeled_pixels += int((absent & (panoptic_map == 0)).sum())
        scores.quality.update(
            panoptic_map,
            {key: category_by_class[class_id] for key, class_id in class_of.items()},
            _translate(truth_map, {key: key for key in counted}),
            counted,
        )
        scores.mean_iou.update(_translate(semantic_map, category_by_class), _translate(truth_map, counted))


def _translate(id_map: NDArray[np.integer], table: Mapping[int, int]) -> NDArray[np.uint16]:
    """Return the map with other ids; what `table` does not list becomes 0."""
    lookup = np.zeros(max(int(id_map.max(initial=0)), *table, 0) + 1, np.uint16)
    lookup[list(table)] = list(table.values())
    translated: NDArray[np.uint16] = lookup[id_map]
    return translated
