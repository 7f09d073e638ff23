"""The words a robot looks for: what was asked for, what is in use, and which id each name has."""

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain
from pathlib import Path
import time
from typing import Self

from fisa_ros.core.class_names import name_key, parse_names
from fisa_ros.core.errors import VocabularyError
from fisa_ros.core.results import MAX_SEGMENT_ID
from fisa_ros.core.vocabulary_file import read_entries, shipped_stuff_words, shipped_vocabulary

MONO8_MAX_ID = 255 - 1
MONO16_MAX_ID = MAX_SEGMENT_ID


@dataclass(frozen=True, slots=True)
class VocabularyClass:
    """One class of a vocabulary.

    Attributes:
        id: 1..65535, the value of its pixels in the semantic map.
        names: The first name labels, the others are synonyms.
        is_thing: True for countable objects, False for stuff.
    """

    id: int
    names: tuple[str, ...]
    is_thing: bool

    @property
    def name(self) -> str:
        """Name that labels the class."""
        return self.names[0]

    @property
    def text(self) -> str:
        """All names as one string, as a request gives them: "sofa, couch"."""
        return ', '.join(self.names)


@dataclass(frozen=True)
class Vocabulary:
    """The classes in use from one moment to the next change; never altered.

    Attributes:
        version: 1 for the first one, one more with each real change.
        classes: In the order of the request.
    """

    version: int
    classes: tuple[VocabularyClass, ...]

    @cached_property
    def class_ids(self) -> tuple[int, ...]:
        """Id of each class, in the order of the classes."""
        return tuple(entry.id for entry in self.classes)

    def labels_as(self, other: Self) -> bool:
        """Tell whether both give the same ids, names and kinds; the order of classes and of synonyms does not count."""

        def content(vocabulary: Vocabulary) -> set[tuple[int, str, frozenset[str], bool]]:
            return {(c.id, c.name, frozenset(c.names), c.is_thing) for c in vocabulary.classes}

        return content(self) == content(other)


@dataclass(frozen=True, slots=True)
class VocabularyRequest:
    """A vocabulary as somebody asks for it, not yet checked.

    Attributes:
        classes: One string per class, "sofa, couch".
        stuff_classes: Those of the classes that are stuff, each by one of its names or by the whole string.
        class_ids: Empty, or per class the id it must get; None leaves the choice to the registry.
        thing_classes: Those that are things even if the list of stuff words has them.
    """

    classes: tuple[str, ...]
    stuff_classes: tuple[str, ...] = ()
    class_ids: tuple[int | None, ...] = ()
    thing_classes: tuple[str, ...] = ()

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a whole vocabulary from one string.

        Args:
            text: Classes separated by semicolons ("cat; dog; grass, lawn"), the path of a YAML file, or the name of a
                shipped vocabulary.

        Raises:
            VocabularyError: The text is empty or the file cannot be read.
        """
        text = text.strip()
        if not text:
            raise VocabularyError('the vocabulary is empty: give at least one class')
        shipped = shipped_vocabulary(text)
        if shipped is not None:
            return cls.from_file(shipped)
        if text.lower().endswith(('.yaml', '.yml')):
            return cls.from_file(Path(text).expanduser())
        return cls(tuple(part.strip() for part in text.removesuffix(';').split(';')))

    @classmethod
    def from_file(cls, path: Path) -> Self:
        """Read a vocabulary file.

        Raises:
            VocabularyError: The file cannot be read or does not have the form of a vocabulary.
        """
        entries = read_entries(path)
        ids = tuple(entry.get('id') for entry in entries)
        return cls(
            classes=tuple(entry['text'] for entry in entries),
            stuff_classes=tuple(entry['text'] for entry in entries if entry.get('stuff') is True),
            class_ids=ids if any(value is not None for value in ids) else (),
            thing_classes=tuple(entry['text'] for entry in entries if entry.get('stuff') is False),
        )


class VocabularyRegistry:
    """Hands out class ids and remembers them: the same name has the same id as long as the registry lives.

    A request is first proposed, which checks it whole and changes nothing, and later committed. Used from one thread.
    """

    def __init__(
        self,
        max_id: int = MONO8_MAX_ID,
        quarantine_s: float = 60.0,
        clock: Callable[[], float] = time.monotonic,
        stuff_words: Collection[str] | None = None,
    ) -> None:
        """Start without a vocabulary.

        Args:
            max_id: Largest id, 254 for masks in mono8 and 65535 for mono16.
            quarantine_s: Time for which the id of a removed name is given to no other name.
            clock: Seconds that never go back.
            stuff_words: Names that are stuff unless a request says otherwise; by default the shipped list.
        """
        if not 1 <= max_id <= MONO16_MAX_ID:
            raise ValueError(f'max_id must be in 1..{MONO16_MAX_ID}, got {max_id}')
        if not quarantine_s >= 0.0:
            raise ValueError(f'quarantine_s must be at least 0, got {quarantine_s}')
        self._max_id = max_id
        self._quarantine_s = quarantine_s
        self._clock = clock
        self._stuff_keys = shipped_stuff_words() if stuff_words is None else frozenset(map(name_key, stuff_words))
        self._current: Vocabulary | None = None
        self._id_of: dict[str, int] = {}
        self._owner_of: dict[int, str] = {}
        self._retired_at: dict[str, float] = {}

    @property
    def current(self) -> Vocabulary | None:
        """The vocabulary committed last."""
        return self._current

    def propose(self, request: VocabularyRequest) -> Vocabulary:
        """Check a request and return the vocabulary it would make; nothing changes.

        Raises:
            VocabularyError: The request breaks a rule; the text names the word or value and the limit.
        """
        classes = self._parse_classes(request.classes)
        stuff = _find_classes('stuff_classes', request.stuff_classes, classes)
        things = _find_classes('thing_classes', request.thing_classes, classes)
        if stuff & things:
            name = classes[min(stuff & things)][0]
            raise VocabularyError(f'class {name!r} is said to be both stuff and a thing')
        ids = self._choose_ids([names[0] for names in classes], request.class_ids)
        proposal = Vocabulary(
            version=1,
            classes=tuple(
                VocabularyClass(
                    id=class_id,
                    names=names,
                    is_thing=row in things or (row not in stuff and name_key(names[0]) not in self._stuff_keys),
                )
                for row, (class_id, names) in enumerate(zip(ids, classes, strict=True))
            ),
        )
        if self._current is None:
            return proposal
        is_new = not proposal.labels_as(self._current)
        return replace(proposal, version=self._current.version + is_new)

    def commit(self, vocabulary: Vocabulary) -> None:
        """Make a proposed vocabulary the current one.

        Raises:
            ValueError: Another vocabulary was committed after this one was proposed.
        """
        version = 0 if self._current is None else self._current.version
        is_repeated = self._current is not None and vocabulary.labels_as(self._current)
        if vocabulary.version != version + (not is_repeated):
            raise ValueError(f'vocabulary version {vocabulary.version} does not follow version {version}')
        now = self._clock()
        keys = {name_key(entry.name): entry.id for entry in vocabulary.classes}
        for entry in self._current.classes if self._current else ():
            self._retired_at.setdefault(name_key(entry.name), now)
        for key, class_id in keys.items():
            former = self._owner_of.get(class_id, key)
            if former != key:
                del self._id_of[former], self._retired_at[former]
            self._id_of[key] = class_id
            self._owner_of[class_id] = key
            self._retired_at.pop(key, None)
        self._current = vocabulary

    def _parse_classes(self, texts: tuple[str, ...]) -> list[tuple[str, ...]]:
        if not texts:
            raise VocabularyError('the vocabulary is empty: give at least one class')
        if len(texts) > self._max_id:
            advice = '; set `mask_encoding: mono16` for up to 65535' if self._max_id < MONO16_MAX_ID else ''
            raise VocabularyError(f'{len(texts)} classes, but masks have ids for {self._max_id}{advice}')
        classes = [parse_names(text) for text in texts]
        row_of: dict[str, int] = {}
        for row, names in enumerate(classes):
            for name in names:
                other = row_of.setdefault(name_key(name), row)
                if other != row:
                    raise VocabularyError(f'name {name!r} occurs in two classes, {texts[other]!r} and {texts[row]!r}')
        return classes

    def _choose_ids(self, labels: list[str], pins: tuple[int | None, ...]) -> list[int]:
        keys = [name_key(label) for label in labels]
        ids = self._check_pins(labels, keys, pins) | {key: self._id_of[key] for key in keys if key in self._id_of}
        taken = set(ids.values())
        unused = (i for i in range(1, self._max_id + 1) if i not in self._owner_of and i not in taken)
        rested = (i for _, i in sorted(self._resting()) if i not in taken and self._rest_s(i) <= 0.0)
        free = chain(unused, rested)
        for key in keys:
            if key not in ids:
                class_id = next(free, None)
                if class_id is None:
                    raise VocabularyError(self._no_id_free(taken))
                ids[key] = class_id
        return [ids[key] for key in keys]

    def _check_pins(self, labels: list[str], keys: list[str], pins: tuple[int | None, ...]) -> dict[str, int]:
        if pins and len(pins) != len(labels):
            raise VocabularyError(f'{len(pins)} class_ids for {len(labels)} classes: give none or one per class')
        label_of: dict[int, str] = {}
        for label, key, class_id in zip(labels, keys, pins, strict=False):
            if class_id is None:
                continue
            if not 1 <= class_id <= self._max_id:
                raise VocabularyError(f'id {class_id} of class {label!r} is not in 1..{self._max_id}')
            if class_id in label_of:
                raise VocabularyError(f'id {class_id} is given to both {label_of[class_id]!r} and {label!r}')
            known_id = self._id_of.get(key, class_id)
            if known_id != class_id:
                raise VocabularyError(f'class {label!r} has id {known_id} already, it cannot get {class_id}')
            owner = self._owner_of.get(class_id, key)
            if owner != key and (owner not in self._retired_at or owner in keys):
                raise VocabularyError(f'id {class_id} of class {label!r} belongs to {owner!r}')
            if owner != key and self._rest_s(class_id) > 0.0:
                rest = f'it rests for another {self._rest_s(class_id):.1f} s'
                raise VocabularyError(f'id {class_id} of class {label!r} belonged to {owner!r} until now: {rest}')
            label_of[class_id] = label
        return {name_key(label): class_id for class_id, label in label_of.items()}

    def _resting(self) -> list[tuple[float, int]]:
        return [(retired_at, self._id_of[key]) for key, retired_at in self._retired_at.items()]

    def _rest_s(self, class_id: int) -> float:
        return self._retired_at[self._owner_of[class_id]] + self._quarantine_s - self._clock()

    def _no_id_free(self, taken: set[int]) -> str:
        text = f'no id is free: all of 1..{self._max_id} are in use or rest for {self._quarantine_s:g} s after use'
        rests_s = [self._rest_s(class_id) for _, class_id in self._resting() if class_id not in taken]
        if rests_s:
            text += f'; the next one is free in {max(0.0, min(rests_s)):.1f} s'
        if self._max_id < MONO16_MAX_ID:
            text += f'; `mask_encoding: mono16` has {MONO16_MAX_ID} ids'
        return text


def _find_classes(field: str, texts: tuple[str, ...], classes: list[tuple[str, ...]]) -> set[int]:
    row_of = {name_key(name): row for row, names in enumerate(classes) for name in names}
    found: set[int] = set()
    for text in texts:
        rows = {row_of.get(name_key(name)) for name in parse_names(text)}
        row = rows.pop()
        if rows or row is None:
            raise VocabularyError(f'{field} has {text!r}, which names no class of the request')
        found.add(row)
    return found
