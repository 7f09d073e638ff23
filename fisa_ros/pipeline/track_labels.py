"""The label of a track: a vote over what the frames said, in which old frames count less."""

from collections.abc import Collection
import math
from typing import NamedTuple

_MIN_FRAMES = 1e-3


class Label(NamedTuple):
    """A class as a segment names it."""

    class_id: int
    class_name: str
    is_thing: bool


class LabelVote:
    """Weighs labels by their scores, which fade with time; the label changes only when another one is clearly ahead.

    Args:
        time_s: Time after which a frame counts 1/e of a new one.
        hysteresis: How many times the weight of the label in use another one must have to replace it, at least 1.
    """

    def __init__(self, time_s: float, hysteresis: float) -> None:
        self._time_s = time_s
        self._hysteresis = hysteresis
        self._weight: dict[Label, float] = {}
        self._frames: dict[Label, float] = {}
        self._label: Label | None = None

    @property
    def labels(self) -> Collection[Label]:
        """Every label that has a vote."""
        return self._weight.keys()

    @property
    def label(self) -> Label | None:
        """The label in use; None as long as there is no vote."""
        return self._label

    @property
    def score(self) -> float:
        """Mean score of the label in use, in [0, 1]; a frame that said something else counts as 0."""
        if self._label is None:
            return 0.0
        return min(self._weight[self._label] / sum(self._frames.values()), 1.0)

    def share(self, label: Label) -> float:
        """Return the share of a label in all votes, in [0, 1]."""
        total = sum(self._weight.values())
        return self._weight.get(label, 0.0) / total if total > 0.0 else 0.0

    def add(self, label: Label, score: float, elapsed_s: float) -> Label:
        """Count what a frame says, `elapsed_s` after the last one; return the label in use."""
        fade = math.exp(-elapsed_s / self._time_s) if self._time_s > 0.0 else float(elapsed_s <= 0.0)
        for votes, vote in ((self._weight, score), (self._frames, 1.0)):
            for voted in votes:
                votes[voted] *= fade
            votes[label] = votes.get(label, 0.0) + vote
        self.keep({voted for voted, frames in self._frames.items() if frames >= _MIN_FRAMES})
        best = max(self._weight, key=self._weight.__getitem__)
        if self._label is None or self._weight[best] > self._hysteresis * self._weight[self._label]:
            self._label = best
        return self._label

    def keep(self, labels: Collection[Label]) -> None:
        """Forget the votes for all others."""
        self._weight = {label: weight for label, weight in self._weight.items() if label in labels}
        self._frames = {label: frames for label, frames in self._frames.items() if label in labels}
        if self._label not in self._weight:
            self._label = max(self._weight, key=self._weight.__getitem__, default=None)
