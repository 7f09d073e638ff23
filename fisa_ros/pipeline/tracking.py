"""Follows segments from frame to frame, so that ids persist and labels do not flicker."""

from collections.abc import Sequence
from dataclasses import dataclass
import math

import numpy as np
from numpy.typing import NDArray

from fisa_ros.core.results import MAX_SEGMENT_ID, PanopticResult
from fisa_ros.core.vocabulary import Vocabulary
from fisa_ros.pipeline.image_motion import ImageMotion
from fisa_ros.pipeline.track_ids import IdPool
from fisa_ros.pipeline.track_labels import Label, LabelVote
from fisa_ros.pipeline.track_matching import Cells, Track, match
from fisa_ros.pipeline.track_renaming import renamed

_MAX_MISSED_TRACKS = 128
# Frames of one camera that come in the wrong order are this close; a clock that was set back is further off.
_MAX_STEP_BACK_S = 1.0


@dataclass(frozen=True, slots=True)
class TrackerOptions:
    """How long things are remembered.

    Attributes:
        max_missed_s: A segment that comes back within this time has its id again; longer than the time between frames.
        id_quarantine_s: The id of a track that ended means nothing else for this time.
        label_time_s: A frame counts 1/e in the vote on the label after this time; 0 to take every frame's own label.
        label_hysteresis: How many times the votes of the label in use another one needs, at least 1.
    """

    max_missed_s: float = 2.0
    id_quarantine_s: float = 60.0
    label_time_s: float = 0.5
    label_hysteresis: float = 2.0

    def __post_init__(self) -> None:
        for name, low in (('max_missed_s', 0), ('id_quarantine_s', 0), ('label_time_s', 0), ('label_hysteresis', 1)):
            value = getattr(self, name)
            if not low <= value < math.inf:
                raise ValueError(f'{name} must be at least {low} and finite, got {value}')


class Tracker:
    """Follows the segments of one camera; used from one thread.

    Things and stuff are followed alike, by the regions that they cover. Pixels do not change their segment, but stuff
    of one class is one segment: regions whose labels become the same stuff are joined.
    """

    def __init__(self, options: TrackerOptions | None = None) -> None:
        self._options = options or TrackerOptions()
        self._ids = IdPool(self._options.id_quarantine_s)
        self._motion = ImageMotion()
        self._tracks: list[Track] = []
        self._time_s: float | None = None
        self._size_hw = (0, 0)
        self._vocabulary: Vocabulary | None = None

    def reset(self) -> None:
        """End all tracks; their ids rest."""
        self._end(self._tracks)
        self._motion.reset()
        self._time_s = None

    def update(
        self, result: PanopticResult, time_s: float, vocabulary: Vocabulary, image: NDArray[np.uint8] | None = None
    ) -> PanopticResult:
        """Return a frame's result with the ids and labels of the tracks.

        The score of a segment becomes the mean score of its label, where frames that said something else count as 0.
        A time of 1 s or more before the latest one, or another image size, ends all tracks; at less than that no time
        has passed. After a change of the vocabulary no label of the old one is used.

        Args:
            result: The segmentation of the frame.
            time_s: When the image was taken.
            vocabulary: The one the result was made with.
            image: `(H, W, 3)` uint8 rgb, to tell how the camera moved; without it, it is taken to stand still.

        Raises:
            ValueError: The time is not finite, or the result was made with another vocabulary.
        """
        if not math.isfinite(time_s):
            raise ValueError(f'time_s must be finite, got {time_s}')
        if result.vocabulary_version != vocabulary.version:
            raise ValueError(f'result of vocabulary {result.vocabulary_version} with vocabulary {vocabulary.version}')
        size_hw = (result.panoptic_map.shape[0], result.panoptic_map.shape[1])
        if size_hw != self._size_hw or (self._time_s is not None and self._time_s - time_s >= _MAX_STEP_BACK_S):
            self.reset()
        if self._time_s is None:
            self._ids.restart_clock(time_s)
        else:
            time_s = max(time_s, self._time_s)
        self._time_s, self._size_hw = time_s, size_hw
        self._use(vocabulary)
        horizon_s = time_s - self._options.max_missed_s
        self._end([track for track in self._tracks if track.seen_s < horizon_s])
        cells = Cells(result)
        self._move(image, cells)
        tracks = self._assign(cells, time_s)
        for position, (track, segment) in enumerate(zip(tracks, result.segments, strict=True)):
            track.vote.add(cells.labels[position], segment.score, time_s - track.seen_s)
            track.see(cells, position, time_s)
        return renamed(result, tracks)

    def _use(self, vocabulary: Vocabulary) -> None:
        if vocabulary is not self._vocabulary:
            labels = {Label(entry.id, entry.name, entry.is_thing) for entry in vocabulary.classes}
            for track in self._tracks:
                track.vote.keep(labels)
            self._vocabulary = vocabulary

    def _move(self, image: NDArray[np.uint8] | None, cells: Cells) -> None:
        if image is None:
            self._motion.reset()
            return
        step = np.array(self._motion.step(image)) * cells.index_map.shape[::-1]
        for track in self._tracks:
            track.shift = track.shift + step

    def _assign(self, cells: Cells, time_s: float) -> list[Track]:
        """Return the track of each segment, new ones among them."""
        pairs = match(self._tracks, cells)
        track_of = {position: self._tracks[row] for row, position in pairs}
        seen = {row for row, _ in pairs}
        missed = [track for row, track in enumerate(self._tracks) if row not in seen]
        # A track more than ids, or than time to look for it, would be one too many.
        room = min(_MAX_MISSED_TRACKS, MAX_SEGMENT_ID - len(cells.labels))
        missed.sort(key=lambda track: track.seen_s)
        self._end(missed[: max(0, len(missed) - room)])
        for position in range(len(cells.labels)):
            if position not in track_of:
                vote = LabelVote(self._options.label_time_s, self._options.label_hysteresis)
                track_of[position] = Track(self._ids.take(time_s), vote, time_s)
                self._tracks.append(track_of[position])
        return [track_of[position] for position in range(len(cells.labels))]

    def _end(self, ended: Sequence[Track]) -> None:
        ids = {track.id for track in ended}
        self._tracks = [track for track in self._tracks if track.id not in ids]
        for track in sorted(ended, key=lambda track: track.seen_s):
            self._ids.release(track.id, track.seen_s)
