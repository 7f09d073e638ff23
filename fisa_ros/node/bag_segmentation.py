"""From a recording to one with the outputs of the segment node in it; interrupted work goes on where it was."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
import heapq
from itertools import pairwise
import json
from pathlib import Path
import shutil
from typing import Any, Protocol

from rosbags.interfaces import Connection, ConnectionExtRosbag2
import yaml

from fisa_ros.core.errors import BagError
from fisa_ros.core.manifest import load_manifest
from fisa_ros.node.bag_outputs import LATCHED_OUTPUTS, ModelOptions, OutputMaker
from fisa_ros.node.bag_parts import Part, StoppedError, WorkFolder, add_output_topics
from fisa_ros.node.bag_topics import choose_topics, output_prefixes
from fisa_ros.sources.bag import Bag, BagMessage, BagWriter
from fisa_ros.sources.message_definitions import recorded_definition

_NOTE = 'fisa_ros'
SEGMENTING = 'segmenting'
WRITING = 'writing'


@dataclass(frozen=True, slots=True)
class BagTask:
    """One recording to segment.

    Attributes:
        source: Folder or file of the recording.
        out: Folder to make.
        options: The model.
        topics: Image topics; empty for all that show colours.
        storage: Of what is made; None for that of the source.
        outputs_only: Leave the messages of the source out.
        part_images: An interruption loses the work on about as many images, for each process.
        jobs: How many processes are to have something to do.
    """

    source: Path
    out: Path
    options: ModelOptions
    topics: tuple[str, ...] = ()
    storage: str | None = None
    outputs_only: bool = False
    part_images: int = 100
    jobs: int = 1


@dataclass(frozen=True, slots=True)
class BagPlan:
    """What is to be done for a task; the same each time for the same recording.

    Attributes:
        task: The task.
        prefixes: By image topic, what its outputs' topics begin with.
        storage: Of what is made.
        images: Number of images.
        messages: Number of messages of what is made, if no image fails.
        fingerprint: What decides about the result.
    """

    task: BagTask
    prefixes: dict[str, str]
    storage: str
    images: int
    messages: int
    fingerprint: dict[str, Any]


class Runner(Protocol):
    """Makes parts."""

    def __call__(
        self, plan: BagPlan, parts: Sequence[Part], on_images: Callable[[int], None], is_stopped: Callable[[], bool]
    ) -> None:
        """Make these parts in the plan's work folder; see `WorkFolder.write` for the rest."""


def plan_bag(task: BagTask) -> BagPlan:
    """Look into the recording and say what is to be done.

    Raises:
        FisaError: The recording cannot be read or has no such images, or there is no such model.
    """
    if task.out.resolve() == task.source.resolve():
        raise BagError(f'{task.out} is the recording itself: name another folder to write to')
    with Bag(task.source) as bag:
        topics = choose_topics(bag, task.topics)
        prefixes = output_prefixes(topics)
        recorded = {connection.topic for connection in bag.connections}
        taken = sorted(
            topic
            for topic in (f'{prefix}{name}' for prefix in prefixes.values() for name in task.options.outputs)
            if topic in recorded
        )
        if taken and not task.outputs_only:
            raise BagError(f'{task.source} has {", ".join(taken)} already: write the outputs alone (--outputs-only)')
        images = sum(connection.msgcount for connection in bag.connections if connection.topic in prefixes)
        storage = task.storage or bag.storage
        return BagPlan(
            task=task,
            prefixes=prefixes,
            storage=storage,
            images=images,
            messages=(0 if task.outputs_only else bag.message_count) + _count_outputs(task, images, len(prefixes)),
            fingerprint={
                'recording': [[path.name, path.stat().st_size, path.stat().st_mtime_ns] for path in bag.files],
                'topics': prefixes,
                'model': [task.options.model, load_manifest(task.options.model).weights.sha256],
                'runtime': [task.options.backend, task.options.device, task.options.precision],
                'vocabulary': [asdict(entry) for entry in task.options.vocabulary.classes],
                'thresholds': task.options.thresholds and asdict(task.options.thresholds),
                'outputs': task.options.outputs,
                'mask_encoding': task.options.mask_encoding,
                'storage': storage,
                'outputs_only': task.outputs_only,
                'part_images': task.part_images,
            },
        )


def run_here(maker: Callable[[], OutputMaker]) -> Runner:
    """Return a runner that makes parts one after the other in this process.

    Args:
        maker: Loads the model, or returns the one that is loaded; not called when nothing is left to do.
    """

    def run(
        plan: BagPlan, parts: Sequence[Part], on_images: Callable[[int], None], is_stopped: Callable[[], bool]
    ) -> None:
        work = WorkFolder(plan.task.out)
        model = maker()
        with Bag(plan.task.source) as bag:
            for part in parts:
                work.write(part, bag, plan.prefixes, model, lambda: on_images(1), is_stopped)

    return run


def segment_bag(
    plan: BagPlan,
    runner: Runner,
    on_progress: Callable[[str, int], None] = lambda stage, count: None,
    is_stopped: Callable[[], bool] = lambda: False,
) -> dict[str, Any]:
    """Do what is left of a plan.

    Args:
        plan: From `plan_bag`.
        runner: Makes the parts.
        on_progress: Called with `SEGMENTING` or `WRITING` and how many more images or messages are done.
        is_stopped: Asked often.

    Returns:
        The summary: source, out, topics, images, how many of them were kept from an interrupted run, failed, methods;
        and whether all `was_finished` before.

    Raises:
        StoppedError: It was asked to stop; the same call goes on later.
        FisaError: It failed; what is finished is kept, and the same call goes on from there.
    """
    out = plan.task.out
    if out.exists():
        return _finished_before(plan)
    work = WorkFolder(out)
    with work.opened(plan.fingerprint, lambda: _split(plan)) as parts:
        reports = {part: work.find_finished(part) for part in parts}
        kept = sum(report.images for report in reports.values() if report)
        on_progress(SEGMENTING, kept)
        missing = [part for part, report in reports.items() if report is None]
        if missing:
            runner(plan, missing, lambda count: on_progress(SEGMENTING, count), is_stopped)
            reports |= {part: work.find_finished(part) for part in missing}
        made = [report for report in reports.values() if report]
        if len(made) < len(parts):
            raise BagError(f'{len(parts) - len(made)} parts in {work.path} did not survive: run again')
        if (images := sum(report.images for report in made)) != plan.images:
            raise BagError(
                f'{work.path} has the outputs of {images} images, {plan.task.source} has {plan.images}: '
                'remove it to begin anew'
            )
        summary = {
            'source': str(plan.task.source),
            'out': str(out),
            'topics': plan.prefixes,
            'images': images,
            'kept': kept,
            'failed': [asdict(failed) for report in made for failed in report.failed],
            'methods': sorted({report.method for report in made}),
        }
        with ExitStack() as undo:
            # On a disk that is full, half a result would be in the way of everything else.
            undo.callback(shutil.rmtree, work.merged, ignore_errors=True)
            _merge(plan, work, parts, summary, on_progress, is_stopped)
            undo.pop_all()
        work.publish(work.merged / out.name, out)
    return summary | {'was_finished': False}


def _split(plan: BagPlan) -> tuple[Part, ...]:
    """Return parts of as many images each, and some for every process."""
    images = plan.images
    with Bag(plan.task.source) as bag:
        connections = [entry for entry in bag.connections if entry.topic in plan.prefixes]
        times_ns = sorted(message.time_ns for message in bag.messages(connections)) if images else []
    if len(times_ns) != images:
        raise BagError(
            f'{plan.task.source} holds {len(times_ns)} images and says that it has {images}: '
            '`ros2 bag reindex` writes its metadata.yaml anew'
        )
    count = max(-(-images // plan.task.part_images), min(plan.task.jobs, images))
    edges_ns = {times_ns[images * number // count] for number in range(1, count)} - set(times_ns[:1])
    # Open to both sides: nothing is lost where a recording is wrong about its own beginning or end.
    edges = [None, *sorted(edges_ns), None]
    return tuple(Part(number, *edge) for number, edge in enumerate(pairwise(edges)))


def _count_outputs(task: BagTask, images: int, topics: int) -> int:
    latched = len(set(task.options.outputs) & set(LATCHED_OUTPUTS))
    return images * (len(task.options.outputs) - latched) + topics * latched


def _merge(
    plan: BagPlan,
    work: WorkFolder,
    parts: Sequence[Part],
    summary: dict[str, Any],
    on_progress: Callable[[str, int], None],
    is_stopped: Callable[[], bool],
) -> None:
    """Write source and outputs by time, an output after all that was recorded at its moment."""
    shutil.rmtree(work.merged, ignore_errors=True)
    work.merged.mkdir()
    with Bag(plan.task.source) as bag, BagWriter(work.merged / plan.task.out.name, plan.storage) as writer:
        made = {name: summary[name] for name in ('images', 'failed', 'methods')}
        writer.set_note(_NOTE, json.dumps({'plan': plan.fingerprint, 'summary': made}))
        recorded: Iterator[BagMessage] = iter(())
        carried: dict[int, Connection] = {}
        if not plan.task.outputs_only and bag.message_count:
            recorded = bag.messages()
            for entry in bag.connections:
                qos = entry.ext.offered_qos_profiles if isinstance(entry.ext, ConnectionExtRosbag2) else []
                carried[entry.id] = writer.add_topic(entry.topic, entry.msgtype, recorded_definition(entry), qos)
        topics = add_output_topics(writer, plan.prefixes, plan.task.options.outputs)
        for message in heapq.merge(recorded, work.messages(parts), key=lambda message: message.time_ns):
            if is_stopped():
                raise StoppedError('stopped')
            topic = message.connection.topic
            connection = topics[topic] if topic in topics else carried[message.connection.id]
            writer.write(connection, message.time_ns, message.data)
            on_progress(WRITING, 1)


def _finished_before(plan: BagPlan) -> dict[str, Any]:
    out = plan.task.out
    try:
        content = yaml.safe_load((out / 'metadata.yaml').read_text(encoding='utf-8'))
        note = json.loads(content['rosbag2_bagfile_information']['custom_data'][_NOTE])
        made, summary = note['plan'], note['summary']
    except (OSError, ValueError, TypeError, KeyError, yaml.YAMLError):
        raise BagError(f'{out} exists and was not made by this command: name another folder') from None
    wanted = json.loads(json.dumps(plan.fingerprint))
    if other := [key for key in wanted if made.get(key) != wanted[key]]:
        raise BagError(f'{out} exists and was made with other {", ".join(other)}: name another folder, or remove it')
    return {
        'source': str(plan.task.source),
        'out': str(out),
        'topics': plan.prefixes,
        **summary,
        'kept': summary['images'],
        'was_finished': True,
    }
