"""Many recordings on many machines, as a Ray Data job: Ray places, counts and repeats, `segment_bag` does the work."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
import json
import logging
from pathlib import Path
from typing import Any, cast

import ray
import ray.data

from fisa_ros.core.errors import BagError, FisaError
from fisa_ros.node.bag_outputs import ModelOptions, OutputMaker
from fisa_ros.node.bag_parts import work_name
from fisa_ros.node.bag_segmentation import BagTask, plan_bag, run_here, segment_bag
from fisa_ros.sources.bag_paths import BAG_SUFFIXES, is_bag

_BAG_NAMES = ('metadata.yaml', *(f'*{suffix}' for suffix in BAG_SUFFIXES))


def connect(address: str | None) -> None:
    """Connect this process to a Ray cluster, unless it is connected.

    Args:
        address: Of the cluster; None for RAY_ADDRESS, and if there is none, for a Ray of its own on this machine.
    """
    if not ray.is_initialized():
        ray.init(address=address, logging_level=logging.WARNING)


def find_bags(paths: Sequence[Path], out: Path) -> dict[Path, Path]:
    """Return the recordings, each with the folder to make for it.

    Args:
        paths: Recordings, and folders that hold recordings at any depth; what is below `out` or a folder `*.work` of
            them is the work of earlier calls and is passed over.
        out: Folder for the results, which keep their names and their places below the folders that were given.

    Raises:
        BagError: A path holds no recording or is `out`, or two results would have one name.
    """
    found: dict[Path, Path] = {}
    for path in paths:
        root = path.absolute()
        if is_bag(root):
            mine = {root: Path(root.stem if root.is_file() else root.name)}
        elif root.resolve() == out.resolve():
            raise BagError(f'{path} is searched for recordings: name another folder to write to')
        else:
            found_here = [entry for name in _BAG_NAMES for entry in root.rglob(name) if not _is_made(entry, root, out)]
            bags = {entry.parent for entry in found_here if entry.name == 'metadata.yaml'}
            files = {entry for entry in found_here if entry.suffix in BAG_SUFFIXES and entry.parent not in bags}
            mine = {bag: bag.relative_to(root) for bag in bags}
            mine |= {file: file.relative_to(root).with_suffix('') for file in files}
        if not mine:
            raise BagError(f'{path} is no recording and holds none')
        found |= {bag: out.absolute() / name for bag, name in sorted(mine.items())}
    by_result: dict[Path, Path] = {}
    for bag, result in found.items():
        if (other := by_result.setdefault(result, bag)) != bag:
            raise BagError(f'{other} and {bag} would both be written to {result}: give them to two calls')
    return found


def _is_made(entry: Path, root: Path, out: Path) -> bool:
    """Tell whether an entry below `root` is a result, or a part of one in the making."""
    # What was given may itself be below the folder for the results.
    inside = root.resolve() in out.resolve().parents and out.resolve() in entry.resolve().parents
    return inside or any(parent.match(work_name('*')) for parent in entry.relative_to(root).parents)


class BagActor:
    """Segments one recording after the other with one model; Ray makes as many of these as it is told to."""

    def __init__(self, template: BagTask, load: Callable[[ModelOptions], OutputMaker]) -> None:
        """Remember what to do.

        Args:
            template: All but the recording and its result.
            load: Loads the model when the first recording needs it.
        """
        self._template = template
        self._load = load
        self._maker: OutputMaker | None = None

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Segment a recording; what a user can cause is in the answer, anything else is raised for Ray to handle."""
        source, out = Path(str(row['source'])), Path(str(row['out']))
        summary: dict[str, Any]
        try:
            plan = plan_bag(replace(self._template, source=source, out=out))
            summary = segment_bag(plan, run_here(self._model)) | {'error': ''}
        except FisaError as error:
            summary = {'source': str(source), 'out': str(out), 'error': str(error)}
        return {'summary': json.dumps(summary)}

    def _model(self) -> OutputMaker:
        if self._maker is None:
            self._maker = self._load(self._template.options)
        return self._maker


def segment_bags(
    bags: dict[Path, Path],
    template: BagTask,
    *,
    actors: int,
    cpus_per_actor: float,
    gpus_per_actor: float,
    load: Callable[[ModelOptions], OutputMaker] = OutputMaker.load,
) -> list[dict[str, Any]]:
    """Segment recordings on the Ray that this process is connected to.

    Finished ones are left alone and begun ones go on, so the same call can be repeated until all is done. An actor
    that dies with its machine is replaced, and its recording is taken up again.

    Args:
        bags: From `find_bags`; all machines must see these paths.
        template: All but the recording and its result.
        actors: How many recordings are worked on at once, each with a model of its own.
        cpus_per_actor: Cores that each of them is given.
        gpus_per_actor: GPUs that each of them is given, or a share of one.
        load: Loads the model.

    Returns:
        The summaries of `segment_bag` by name of the recording, each with its `error`, empty if there was none.
    """
    rows = [{'source': str(source), 'out': str(out)} for source, out in bags.items()]
    for result in bags.values():
        with suppress(OSError):
            result.parent.mkdir(parents=True, exist_ok=True)
    # A block for each recording: else one actor would get several in a row, and another nothing.
    dataset = ray.data.from_items(rows, override_num_blocks=len(rows)).map(
        cast('Any', BagActor),
        fn_constructor_kwargs={'template': template, 'load': load},
        compute=ray.data.ActorPoolStrategy(size=min(actors, len(rows)), max_tasks_in_flight_per_actor=1),
        num_cpus=cpus_per_actor,
        num_gpus=gpus_per_actor,
    )
    summaries = [json.loads(row['summary']) for row in dataset.take_all()]
    return sorted(summaries, key=lambda summary: str(summary['source']))
