"""Scores a model's answers to simulated sequences with and without tracking."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
import time

import numpy as np
from numpy.typing import NDArray

from fisa_ros.core.results import PanopticResult, Segment
from fisa_ros.core.vocabulary import VocabularyRequest
from fisa_ros.datasets.coco_panoptic import DatasetCategory
from fisa_ros.evaluation.category_map import CategoryMap
from fisa_ros.evaluation.panoptic_quality import PanopticQuality
from fisa_ros.evaluation.track_quality import TrackQuality
from fisa_ros.pipeline.tracking import Tracker, TrackerOptions
from fisa_ros.simulation.categories import CATEGORIES


@dataclass(frozen=True, slots=True)
class SequenceFrame:
    """One frame of a sequence and what a model says about it.

    Attributes:
        image: `(H, W, 3)` uint8 rgb.
        result: What the model says about this frame alone.
        truth_map: `(H, W)` uint16, the same number for the same object in all frames, 0 where void.
        truth_segments: One per object; `class_id` is the id of its simulated category.
    """

    image: NDArray[np.uint8]
    result: PanopticResult
    truth_map: NDArray[np.uint16]
    truth_segments: tuple[Segment, ...]


@dataclass(frozen=True, slots=True)
class Match:
    """The segment that a true thing has in one frame."""

    track_id: int
    class_name: str


class TrackingScorer:
    """Scores one way of making results over sequences.

    Attributes:
        tracks: Of ids and labels.
        quality: Of each frame.
        history: For each sequence and frame of it, the match of each true thing that has one.
    """

    def __init__(self, categories: CategoryMap) -> None:
        """Score classes that are `simulated_categories`."""
        self._categories = categories
        self.tracks = TrackQuality()
        self.quality = PanopticQuality(categories.is_thing)
        self.history: list[list[dict[int, Match]]] = []

    def start_sequence(self) -> None:
        """Begin another sequence."""
        self.tracks.start_sequence()
        self.history.append([])

    def add(self, result: PanopticResult, frame: SequenceFrame, frame_s: float) -> None:
        """Add a frame that lasts `frame_s`; what is of no category does not count, truth of no class is void."""
        class_numbers, numbers = self._categories.class_numbers, self._categories.numbers
        segments = {segment.id: segment for segment in result.segments if segment.class_id in class_numbers}
        truth = {segment.id: segment for segment in frame.truth_segments if segment.class_id in numbers}
        panoptic_map, truth_map = _only(result.panoptic_map, segments), _only(frame.truth_map, truth)
        classes = {key: class_numbers[segment.class_id] for key, segment in segments.items()}
        is_thing = {key: segment.is_thing for key, segment in truth.items()}
        matches = self.tracks.update(panoptic_map, classes, truth_map, is_thing, frame_s)
        self.history[-1].append(
            {key: Match(value, segments[value].class_name) for key, value in matches.items() if is_thing[key]}
        )
        truth_classes = {key: numbers[segment.class_id] for key, segment in truth.items()}
        self.quality.update(panoptic_map, classes, truth_map, truth_classes)

    def summary(self) -> dict[str, float | None]:
        """Return all numbers by name; PQ is a fraction, None where there is nothing to measure."""
        quality = self.quality.compute()
        means = {'pq': quality.all, 'pq_things': quality.things, 'pq_stuff': quality.stuff}
        shares = {name: mean.pq if mean.num_classes else None for name, mean in means.items()}
        return shares | self.tracks.summary()


@dataclass(frozen=True)
class TrackingEvaluation:
    """What `evaluate_tracking` yields.

    Attributes:
        without: Scores of the results as they are.
        tracked: Scores with tracking.
        frames: Number of frames.
        update_ms: `(frames,)` time of each update of the tracker.
    """

    without: TrackingScorer
    tracked: TrackingScorer
    frames: int
    update_ms: NDArray[np.float64]


def simulated_categories(request: VocabularyRequest) -> CategoryMap:
    """Return the classes of a vocabulary as simulated categories; categories without a class are void.

    Raises:
        DataError: No category has a class.
        VocabularyError: The request breaks a rule.
    """
    categories = [DatasetCategory(entry.id, entry.name, entry.is_thing) for entry in CATEGORIES]
    return CategoryMap.from_vocabulary(categories, request, ignore_unmapped=True)


def evaluate_tracking(
    sequences: Iterable[Iterable[SequenceFrame]],
    categories: CategoryMap,
    rate_hz: float,
    options: TrackerOptions | None = None,
) -> TrackingEvaluation:
    """Score sequences: each frame's result as it is, and as a tracker makes it.

    Args:
        sequences: Frames of each sequence.
        categories: See `simulated_categories`; the results were made with its vocabulary.
        rate_hz: Frames per second.
        options: Of the tracker, which starts anew in each sequence.
    """
    without, tracked = TrackingScorer(categories), TrackingScorer(categories)
    update_ms: list[float] = []
    for sequence in sequences:
        tracker = Tracker(options)
        without.start_sequence()
        tracked.start_sequence()
        for number, frame in enumerate(sequence):
            start_s = time.perf_counter()
            result = tracker.update(frame.result, number / rate_hz, categories.vocabulary, frame.image)
            update_ms.append((time.perf_counter() - start_s) * 1e3)
            without.add(frame.result, frame, 1 / rate_hz)
            tracked.add(result, frame, 1 / rate_hz)
    return TrackingEvaluation(without, tracked, len(update_ms), np.array(update_ms))


def _only(id_map: NDArray[np.uint16], ids: Collection[int]) -> NDArray[np.uint16]:
    """Return the map with 0 in place of all other ids."""
    kept = np.zeros(int(id_map.max(initial=0)) + 1, np.uint16)
    kept[list(ids)] = list(ids)
    return kept.take(id_map)
