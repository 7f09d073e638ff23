"""Recordings of ROS 2, read and written without ROS."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from copy import copy
import heapq
from itertools import chain
from pathlib import Path
import sqlite3
from types import TracebackType
from typing import TYPE_CHECKING, NamedTuple, Self

from rosbags.interfaces import (
    Connection,
    Qos,
    QosDurability,
    QosHistory,
    QosLiveliness,
    QosReliability,
    QosTime,
)
from rosbags.rosbag2 import CompressionFormat, CompressionMode, Reader, StoragePlugin, Writer
from rosbags.rosbag2.reader import DirectoryReader

from fisa_ros.core.errors import BagError
from fisa_ros.sources.bag_paths import BAG_SUFFIXES, is_bag
from fisa_ros.sources.message_definitions import Definition

if TYPE_CHECKING:
    from rosbags.rosbag2.reader import ReaderProtocol

STORAGES = ('mcap', 'sqlite3')
_FOREVER = QosTime(9_223_372_036, 854_775_807)


class BagMessage(NamedTuple):
    """A message as it was recorded.

    Attributes:
        connection: Its topic and type.
        time_ns: When it was recorded, since 1970.
        data: CDR with its four bytes of encapsulation.
    """

    connection: Connection
    time_ns: int
    data: bytes


class Bag:
    """An open recording; use it in a `with` block."""

    def __init__(self, path: Path) -> None:
        """Open a rosbag2 folder, or one of its files.

        Raises:
            BagError: It is missing, damaged or of a kind that is not known.
        """
        self.path = path
        if path.is_dir() and not is_bag(path):
            raise BagError(f'{path} is no recording: it has no metadata.yaml (`ros2 bag reindex` makes one)')
        # The library raises what the damaged bytes happen to trigger.
        try:
            self._reader = Reader(path)
            self._reader.open()
        except Exception as error:
            raise BagError(f'{path} cannot be read as a recording: {_text(error)}') from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    @property
    def connections(self) -> list[Connection]:
        """Topics with their types; a topic that was published in two ways is here twice."""
        return list(self._reader.connections)

    @property
    def message_count(self) -> int:
        """Number of messages."""
        return int(self._reader.message_count)

    @property
    def start_ns(self) -> int:
        """Time of the first message."""
        return int(self._reader.start_time)

    @property
    def stop_ns(self) -> int:
        """Time right after the last message."""
        return int(self._reader.end_time)

    @property
    def files(self) -> list[Path]:
        """The files that hold the messages."""
        if not self.path.is_dir():
            return [self.path]
        return sorted(entry for entry in self.path.iterdir() if set(entry.suffixes) & set(BAG_SUFFIXES))

    @property
    def storage(self) -> str:
        """One of `STORAGES`."""
        return 'mcap' if any('.mcap' in path.suffixes for path in self.files) else 'sqlite3'

    def messages(
        self, connections: Sequence[Connection] = (), start_ns: int | None = None, stop_ns: int | None = None
    ) -> Iterator[BagMessage]:
        """Yield messages in the order of their times, also where the files of a recording overlap.

        Args:
            connections: Only those of these topics; empty for all.
            start_ns: Only those not before this time.
            stop_ns: Only those before this time.

        Raises:
            BagError: The recording is damaged.
        """
        try:
            lanes = [
                chain.from_iterable(
                    reader.messages(connections or self._reader.connections, start_ns, stop_ns) for reader in lane
                )
                for lane in self._lanes()
            ]
            for message in heapq.merge(*lanes, key=lambda message: message[1]):
                yield BagMessage(*message)
        except Exception as error:
            raise BagError(f'{self.path} is damaged: {_text(error)}') from error

    def _lanes(self) -> 'list[list[ReaderProtocol]]':
        """Return readers of the files, in groups of those that follow each other without an overlap.

        So a recording of many files is open at few places at once.
        """
        whole = self._reader.storage
        if not isinstance(whole, DirectoryReader):
            return [[whole]]
        lanes: list[tuple[int, list[ReaderProtocol]]] = []
        for storage in sorted(whole.storages, key=lambda storage: storage.metadata.start_time):
            # What the metadata of the folder say of topics and compression holds for each of its files.
            reader = copy(whole)
            reader.storages = [storage]
            fitting = (row for row, (end_ns, _) in enumerate(lanes) if end_ns <= storage.metadata.start_time)
            row = next(fitting, len(lanes))
            lane = lanes.pop(row)[1] if row < len(lanes) else []
            lanes.append((storage.metadata.end_time, [*lane, reader]))
        return [lane for _, lane in lanes]

    def close(self) -> None:
        """Close the files."""
        with suppress(Exception):
            self._reader.close()


class BagWriter:
    """A recording in the making; use it in a `with` block. What an error interrupts has no metadata and is no bag."""

    def __init__(self, path: Path, storage: str) -> None:
        """Create the folder.

        Args:
            path: Must not exist.
            storage: One of `STORAGES`.

        Raises:
            BagError: It exists.
        """
        self.path = path
        if path.exists():
            raise BagError(f'{path} exists already')
        self._writer = Writer(path, version=Writer.VERSION_LATEST, storage_plugin=StoragePlugin[storage.upper()])
        if storage == 'mcap':
            # Masks are nearly all repetition; every reader of the format takes this.
            self._writer.set_compression(CompressionMode.STORAGE, CompressionFormat.ZSTD)
        self._topics: dict[tuple[str, str, str], Connection] = {}

    def __enter__(self) -> Self:
        with _translated(self.path):
            self._writer.open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is None:
            with _translated(self.path):
                self._writer.__exit__(None, None, None)
        else:
            self._writer.__exit__(kind, error, traceback)

    def add_topic(self, topic: str, msg_type: str, definition: Definition, qos: Sequence[Qos]) -> Connection:
        """Add a topic, or return the one that is there with the same type and quality of service."""
        key = (topic, msg_type, repr(qos))
        if key not in self._topics:
            with _translated(self.path):
                self._topics[key] = self._writer.add_connection(
                    topic, msg_type, msgdef=definition.text, rihs01=definition.type_hash, offered_qos_profiles=qos
                )
        return self._topics[key]

    def set_note(self, name: str, text: str) -> None:
        """Put a text into the custom data of the metadata."""
        self._writer.set_custom_data(name, text)

    def write(self, connection: Connection, time_ns: int, data: bytes) -> None:
        """Write one message.

        Raises:
            BagError: The storage refuses, for instance because the disk is full.
        """
        with _translated(self.path):
            self._writer.write(connection, time_ns, data)


@contextmanager
def _translated(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, sqlite3.Error) as error:
        raise BagError(f'{path} cannot be written: {_text(error)}') from error


def reliable_qos(is_latched: bool) -> Qos:
    """Return what the node offers for its outputs: reliable, depth 1; transient local if latched."""
    return Qos(
        history=QosHistory.KEEP_LAST,
        depth=1,
        reliability=QosReliability.RELIABLE,
        durability=QosDurability.TRANSIENT_LOCAL if is_latched else QosDurability.VOLATILE,
        deadline=_FOREVER,
        lifespan=_FOREVER,
        liveliness=QosLiveliness.AUTOMATIC,
        liveliness_lease_duration=_FOREVER,
        avoid_ros_namespace_conventions=False,
    )


def _text(error: BaseException) -> str:
    return str(error) or type(error).__name__
