"""The outputs of each stretch of a recording, kept in a folder until all of them are there."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, astuple, dataclass
import fcntl
import json
import logging
from pathlib import Path
import shutil
from typing import Any

from rosbags.interfaces import Connection

from fisa_ros.core.errors import BagError, ImageError
from fisa_ros.core.unfinished_file import sync
from fisa_ros.core.weights_sum import sha256_of
from fisa_ros.node.bag_outputs import LATCHED_OUTPUTS, OUTPUT_TYPES, OutputMaker, output_types
from fisa_ros.sources.bag import Bag, BagMessage, BagWriter, reliable_qos
from fisa_ros.sources.message_definitions import definition_of

_PLAN_FILE = 'plan.json'
_REPORT_FILE = 'report.json'
_LOCK_FILE = 'lock'

_log = logging.getLogger(__name__)


class StoppedError(Exception):
    """The work was asked to stop; what is finished stays."""


@dataclass(frozen=True, slots=True)
class Part:
    """A stretch of a recording, from `start_ns` up to but without `stop_ns`; None for as far as it goes."""

    number: int
    start_ns: int | None
    stop_ns: int | None


@dataclass(frozen=True, slots=True)
class FailedImage:
    """An image without outputs, and why."""

    topic: str
    time_ns: int
    reason: str


@dataclass(frozen=True, slots=True)
class PartReport:
    """What came of a part.

    Attributes:
        images: Number of images in it.
        failed: Those that could not be used.
        method: The model and what it ran on.
        sha256: Of the file with the outputs.
    """

    images: int
    failed: tuple[FailedImage, ...]
    method: str
    sha256: str


def work_name(name: str) -> str:
    """Return the name of the work folder of a recording of this name."""
    return f'{name}.work'


class WorkFolder:
    """The folder beside a recording in the making; removed when that is finished.

    Attributes:
        path: The folder.
        merged: Folder in it for the recording itself.
    """

    def __init__(self, out: Path) -> None:
        """Name the folder without touching it.

        Args:
            out: The recording in the making.
        """
        self.path = out.with_name(work_name(out.name))
        self.merged = self.path / 'merged'

    @contextmanager
    def opened(self, plan: dict[str, Any], split: Callable[[], tuple[Part, ...]]) -> Iterator[tuple[Part, ...]]:
        """Keep everybody else out, check that the work was begun for the same plan, and give its parts.

        Args:
            plan: What decides about the result, as JSON has it.
            split: Makes the parts where no work was begun.

        Raises:
            BagError: Somebody else is at work here, the plan is another, or the folder cannot be written.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            with (self.path / _LOCK_FILE).open('w') as lock:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except OSError:
                    raise BagError(f'another process is at work in {self.path}') from None
                yield self._adopt(plan, split)
        except OSError as error:
            raise BagError(f'{self.path} cannot be used: {error}') from error

    def find_finished(self, part: Part) -> PartReport | None:
        """Return the report of a part that is there and whole; remove one that is not."""
        folder = self._folder(part)
        if not folder.exists():
            return None
        try:
            content = json.loads((folder / _REPORT_FILE).read_text(encoding='utf-8'))
            content['failed'] = tuple(FailedImage(**entry) for entry in content['failed'])
            report = PartReport(**content)
            if sha256_of(_messages_file(folder)) == report.sha256:
                return report
        except (OSError, ValueError, TypeError, KeyError):
            pass
        _log.warning(f'{folder} is damaged and is made again')
        shutil.rmtree(folder)
        return None

    def write(
        self,
        part: Part,
        bag: Bag,
        prefixes: dict[str, str],
        maker: OutputMaker,
        on_image: Callable[[], None],
        is_stopped: Callable[[], bool],
    ) -> None:
        """Make the outputs of a part and keep them if all of it was done.

        Args:
            part: The stretch.
            bag: The recording.
            prefixes: By image topic, what its outputs' topics begin with.
            maker: The model.
            on_image: Called after each image.
            is_stopped: Asked before each image.

        Raises:
            StoppedError: It was asked to stop.
            FisaError: The recording is damaged, the outputs cannot be written, or the model fails.
        """
        unfinished = self.path / 'unfinished' / self._folder(part).name
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.parent.mkdir(exist_ok=True)
        connections = [entry for entry in bag.connections if entry.topic in prefixes]
        failed: list[FailedImage] = []
        images = 0
        with BagWriter(unfinished, 'mcap') as writer:
            topics = add_output_topics(writer, prefixes)
            told: set[str] = set()
            for message in bag.messages(connections, part.start_ns, part.stop_ns) if connections else ():
                if is_stopped():
                    raise StoppedError('stopped')
                topic = message.connection.topic
                prefix = prefixes[topic]
                images += 1
                try:
                    outputs = maker.answer(message.data, message.connection.msgtype, prefix, topic not in told)
                except (BagError, ImageError) as error:
                    failed.append(FailedImage(topic, message.time_ns, str(error)))
                else:
                    told.add(topic)
                    for name, data in outputs:
                        writer.write(topics[f'{prefix}{name}'], message.time_ns, data)
                on_image()
        report = PartReport(images, tuple(failed), maker.method, sha256_of(_messages_file(unfinished)))
        (unfinished / _REPORT_FILE).write_text(json.dumps(asdict(report)), encoding='utf-8')
        _sync(unfinished)
        unfinished.rename(self._folder(part))

    def messages(self, parts: Sequence[Part]) -> Iterator[BagMessage]:
        """Yield the outputs of all parts in order; of the latched ones only the first of each topic."""
        told: set[str] = set()
        for part in parts:
            with Bag(self._folder(part)) as bag:
                for message in bag.messages() if bag.message_count else ():
                    topic = message.connection.topic
                    if topic.rpartition('/')[2] in LATCHED_OUTPUTS:
                        if topic in told:
                            continue
                        told.add(topic)
                    yield message

    def publish(self, result: Path, out: Path) -> None:
        """Put the finished recording in its place, at once and whole, and remove this folder."""
        _sync(result)
        result.rename(out)
        shutil.rmtree(self.path)

    def _adopt(self, plan: dict[str, Any], split: Callable[[], tuple[Part, ...]]) -> tuple[Part, ...]:
        path = self.path / _PLAN_FILE
        wanted = json.loads(json.dumps(plan))
        if path.is_file():
            try:
                begun = json.loads(path.read_text(encoding='utf-8'))
                parts = tuple(Part(*part) for part in begun['parts'])
            except (ValueError, TypeError, KeyError):
                raise BagError(f'{path} is damaged: remove {self.path} to begin anew') from None
            other = [key for key in wanted if begun.get(key) != wanted[key]]
            if other:
                raise BagError(
                    f'{self.path} was begun with other {", ".join(other)}: go on with those, or remove it to begin anew'
                )
            return parts
        parts = split()
        unfinished = path.with_suffix('.unfinished')
        content = wanted | {'parts': [astuple(part) for part in parts]}
        unfinished.write_text(json.dumps(content), encoding='utf-8')
        unfinished.rename(path)
        return parts

    def _folder(self, part: Part) -> Path:
        return self.path / f'part_{part.number:05}'


def add_output_topics(
    writer: BagWriter, prefixes: dict[str, str], outputs: tuple[str, ...] = ()
) -> dict[str, Connection]:
    """Add the topics of the outputs to a recording; return them by name.

    Args:
        writer: The recording.
        prefixes: By image topic, what its outputs' topics begin with.
        outputs: Names from `OUTPUT_TYPES`; empty for all.
    """
    types = output_types()
    return {
        f'{prefix}{name}': writer.add_topic(
            f'{prefix}{name}', msg_type, definition_of(msg_type, types), [reliable_qos(name in LATCHED_OUTPUTS)]
        )
        for prefix in prefixes.values()
        for name, msg_type in OUTPUT_TYPES.items()
        if name in outputs or not outputs
    }


def _messages_file(folder: Path) -> Path:
    return next(iter(sorted(folder.glob('*.mcap'))), folder / 'missing.mcap')


def _sync(folder: Path) -> None:
    """Write what a folder holds to the disk: a rename must not survive a power cut that its content does not."""
    for path in (*folder.iterdir(), folder):
        sync(path)
