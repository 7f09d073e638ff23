"""Holds the answers about one camera against what the camera sent and against the vocabularies they were made with."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field


@dataclass
class AnswerFaults:
    """What was wrong with answers.

    Attributes:
        wrong_stamps: Messages with a stamp or a frame that the camera did not send, or out of order, or sent twice.
        mixed_vocabularies: Frames with an id or a name that is not of the vocabulary version they state.
        contradictions: Frames whose maps and list of segments do not tell the same.
        wrong_points: Clouds whose size is not that of the mask with their stamp.
        unannounced: Vocabulary versions that frames were made with and whose names were never published.
    """

    wrong_stamps: int = 0
    mixed_vocabularies: int = 0
    contradictions: int = 0
    wrong_points: int = 0
    unannounced: int = 0


@dataclass
class _Answer:
    """The parts of one answer, as they come."""

    class_ids: frozenset[int] | None = None
    segment_ids: frozenset[int] | None = None
    version: int | None = None
    names: dict[int, str] = field(default_factory=dict)
    listed_ids: frozenset[int] = frozenset()

    @property
    def is_complete(self) -> bool:
        return None not in (self.class_ids, self.segment_ids, self.version)


class AnswerCheck:
    """Checks the answers about one camera; all calls come from one thread but `add_sent`.

    Attributes:
        faults: What was found so far.
        checked: Complete answers that were held against their vocabulary.
        points_in: Clouds that came.
        points_checked: Those that were held against their mask.
    """

    def __init__(self, frame_id: str, vocabularies: Mapping[int, Mapping[int, str]], max_waiting: int = 200) -> None:
        """Start without answers.

        Args:
            frame_id: Of the camera's images.
            vocabularies: The name of each class id, by version; may grow, and later than the answers come.
            max_waiting: Answers that may wait for their parts, or to be told their vocabulary. Only the newest message
                of a topic is kept for a slow listener, so parts may be missing; such an answer is not checked.
        """
        self.faults = AnswerFaults()
        self.checked = 0
        self.points_in = 0
        self.points_checked = 0
        self._frame_id = frame_id
        self._vocabularies = vocabularies
        self._max_waiting = max_waiting
        self._sent: set[int] = set()
        self._last_ns: dict[str, int] = {}
        self._waiting: dict[int, _Answer] = {}
        self._mask_sizes: dict[int, tuple[int, int]] = {}
        self._points_sizes: dict[int, tuple[int, int]] = {}
        self._labels: list[dict[int, str]] = []
        self._used_versions: set[int] = set()
        self._announced_versions: set[int] = set()

    @property
    def incomplete(self) -> int:
        """Answers that wait for a part or for their vocabulary."""
        return len(self._waiting)

    def add_sent(self, stamp_ns: int) -> None:
        """Note an image before it is sent."""
        self._sent.add(stamp_ns)

    def add_message(self, output: str, stamp_ns: int, frame_id: str) -> bool:
        """Check the header of any answer; return True if it is right."""
        is_right = (
            stamp_ns in self._sent and frame_id == self._frame_id and stamp_ns > self._last_ns.get(output, -(1 << 62))
        )
        self._last_ns[output] = max(stamp_ns, self._last_ns.get(output, stamp_ns))
        self.faults.wrong_stamps += not is_right
        return is_right

    def add_class_ids(self, stamp_ns: int, class_ids: Collection[int]) -> None:
        """Note the values of a mask."""
        self._answer(stamp_ns).class_ids = frozenset(class_ids) - {0}
        self._settle()

    def add_mask_size(self, stamp_ns: int, size_hw: tuple[int, int]) -> None:
        """Note the size of a mask, which its cloud must have."""
        self._mask_sizes[stamp_ns] = size_hw
        self._compare_sizes()

    def add_points(self, stamp_ns: int, size_hw: tuple[int, int]) -> None:
        """Note the size of a cloud; it may come before its mask."""
        self.points_in += 1
        self._points_sizes[stamp_ns] = size_hw
        self._compare_sizes()

    def add_segment_ids(self, stamp_ns: int, segment_ids: Collection[int]) -> None:
        """Note the values of a map of segments."""
        self._answer(stamp_ns).segment_ids = frozenset(segment_ids) - {0}
        self._settle()

    def add_segments(self, stamp_ns: int, version: int, segments: Collection[tuple[int, int, str]]) -> None:
        """Note a list of segments, each with its id, the id of its class and the name of that."""
        answer = self._answer(stamp_ns)
        answer.version = version
        answer.names = {class_id: name for _, class_id, name in segments}
        answer.listed_ids = frozenset(segment_id for segment_id, _, _ in segments)
        self._settle()

    def add_labels(self, names: Mapping[int, str]) -> None:
        """Note the published names of the class ids; they must be those of a version."""
        self._labels.append(dict(names))

    def add_announcement(self, version: int) -> None:
        """Note a version that was announced."""
        self._announced_versions.add(version)

    def finish(self) -> None:
        """Judge what had to wait for the end: nothing more comes."""
        self._settle()
        for answer in self._waiting.values():
            self.faults.mixed_vocabularies += answer.is_complete
        self.faults.unannounced += len(self._used_versions - self._announced_versions)
        known = [dict(names) for names in self._vocabularies.values()]
        self.faults.mixed_vocabularies += sum(names not in known for names in self._labels)
        self._labels.clear()

    def _compare_sizes(self) -> None:
        for stamp_ns in self._mask_sizes.keys() & self._points_sizes.keys():
            self.points_checked += 1
            self.faults.wrong_points += self._points_sizes.pop(stamp_ns) != self._mask_sizes.pop(stamp_ns)
        for sizes in (self._mask_sizes, self._points_sizes):
            if len(sizes) > self._max_waiting:
                del sizes[next(iter(sizes))]

    def _answer(self, stamp_ns: int) -> _Answer:
        if stamp_ns not in self._waiting and len(self._waiting) >= self._max_waiting:
            oldest = self._waiting.pop(next(iter(self._waiting)))
            # Complete, it waited for a vocabulary that nobody ever set.
            self.faults.mixed_vocabularies += oldest.is_complete
        return self._waiting.setdefault(stamp_ns, _Answer())

    def _settle(self) -> None:
        known = self._vocabularies
        for stamp_ns in [s for s, answer in self._waiting.items() if answer.is_complete and answer.version in known]:
            self._judge(self._waiting.pop(stamp_ns))

    def _judge(self, answer: _Answer) -> None:
        version, class_ids = answer.version or 0, answer.class_ids or frozenset()
        vocabulary = self._vocabularies[version]
        self.checked += 1
        self._used_versions.add(version)
        is_mixed = not vocabulary.keys() >= class_ids or not vocabulary.items() >= answer.names.items()
        self.faults.mixed_vocabularies += is_mixed
        agrees = answer.names.keys() == class_ids and answer.listed_ids == answer.segment_ids
        self.faults.contradictions += not agrees
