"""How well the ids and labels of true instances persist through a sequence."""

from collections.abc import Mapping
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from fisa_ros.evaluation.id_map import count_pairs
from fisa_ros.evaluation.panoptic_quality import MATCH_IOU


@dataclass(slots=True)
class LabelChanges:
    """Label changes of true instances of one kind, things or stuff.

    Attributes:
        seen_s: Time for which they were in the image, over all of them.
        changes: Frames with another label than when the instance was matched last.
        flickers: Those of them where that was in the frame before.
    """

    seen_s: float = 0.0
    changes: int = 0
    flickers: int = 0

    @property
    def changes_per_s(self) -> float:
        """Changes in a second of an instance, 0 where none was seen."""
        return self.changes / self.seen_s if self.seen_s else 0.0

    @property
    def flickers_per_s(self) -> float:
        """Flickers in a second of an instance, 0 where none was seen."""
        return self.flickers / self.seen_s if self.seen_s else 0.0


@dataclass(slots=True)
class TrackCounts:
    """What happened to the ids of true things.

    Attributes:
        visible: Things in all frames.
        matched: Those of them that a segment matches.
        id_switches: Matches with another id than the thing had last, as in CLEAR MOT (Bernardin and Stiefelhagen,
            2008).
        id_transfers: Matches with an id that another thing had last: an id that lives on where its object does not.
        fragmentations: Matches of a thing that was matched before but not in the frame before.
        track_ids: Ids that ever matched a thing.
    """

    visible: int = 0
    matched: int = 0
    id_switches: int = 0
    id_transfers: int = 0
    fragmentations: int = 0
    track_ids: int = 0


@dataclass(slots=True)
class _Sighting:
    """The last match of an instance."""

    frame: int
    track_id: int
    class_id: int


class TrackQuality:
    """Collects sequences. A segment matches the true instance with which its IoU is above `MATCH_IOU`, of any class.

    Attributes:
        counts: Of the ids of things.
        thing_labels: Of their labels.
        stuff_labels: Of the labels of stuff.
    """

    def __init__(self) -> None:
        self.counts = TrackCounts()
        self.thing_labels = LabelChanges()
        self.stuff_labels = LabelChanges()
        self.start_sequence()

    def start_sequence(self) -> None:
        """Begin another sequence, whose ids have nothing to do with those before."""
        self._frame = 0
        self._sightings: dict[int, _Sighting] = {}
        self._owners: dict[int, int] = {}

    def update(
        self,
        predicted_map: NDArray[np.integer],
        predicted_classes: Mapping[int, int],
        truth_map: NDArray[np.integer],
        truth_is_thing: Mapping[int, bool],
        frame_s: float,
    ) -> dict[int, int]:
        """Add the next frame of the sequence; return the segment that matches, by id of instance.

        Args:
            predicted_map: `(H, W)` segment ids, 0 where unlabelled.
            predicted_classes: Class id by segment id.
            truth_map: `(H, W)` ids of instances, the same for the same instance in all frames, 0 where void.
            truth_is_thing: By id of instance, those in this frame.
            frame_s: Time to the next frame.

        Raises:
            DataError: The sizes differ or a map holds an id that is not listed.
        """
        matches = _matches(predicted_map, list(predicted_classes), truth_map, list(truth_is_thing))
        self._frame += 1
        for instance, is_thing in truth_is_thing.items():
            labels = self.thing_labels if is_thing else self.stuff_labels
            labels.seen_s += frame_s
            self.counts.visible += is_thing
            track_id = matches.get(instance)
            if track_id is None:
                continue
            last = self._sightings.get(instance)
            now = _Sighting(self._frame, track_id, predicted_classes[track_id])
            self._sightings[instance] = now
            if last is not None and last.class_id != now.class_id:
                labels.changes += 1
                labels.flickers += last.frame == self._frame - 1
            if is_thing:
                self._count(instance, now, last)
        return matches

    def _count(self, instance: int, now: _Sighting, last: _Sighting | None) -> None:
        counts = self.counts
        counts.matched += 1
        if last is not None:
            counts.id_switches += last.track_id != now.track_id
            counts.fragmentations += last.frame < now.frame - 1
        owner = self._owners.get(now.track_id)
        counts.track_ids += owner is None
        counts.id_transfers += owner is not None and owner != instance
        self._owners[now.track_id] = instance

    def summary(self) -> dict[str, float]:
        """Return all numbers by name."""
        summary: dict[str, float] = {field.name: getattr(self.counts, field.name) for field in fields(self.counts)}
        for kind, labels in (('things', self.thing_labels), ('stuff', self.stuff_labels)):
            summary[f'seen_s_{kind}'] = labels.seen_s
            summary[f'label_changes_per_s_{kind}'] = labels.changes_per_s
            summary[f'label_flickers_per_s_{kind}'] = labels.flickers_per_s
        return summary


def _matches(
    predicted_map: NDArray[np.integer], predicted: list[int], truth_map: NDArray[np.integer], truth: list[int]
) -> dict[int, int]:
    """Return the segment that matches, by true instance."""
    overlap = count_pairs(predicted_map, predicted, truth_map, truth)
    shared = overlap[1:, 1:]
    # Void is no part of the union, as in panoptic quality.
    union = overlap[1:, 1:].sum(axis=1)[:, None] + overlap[:, 1:].sum(axis=0)[None] - shared
    rows, columns = np.nonzero(shared > MATCH_IOU * union)
    return {truth[column]: predicted[row] for row, column in zip(rows.tolist(), columns.tolist(), strict=True)}
