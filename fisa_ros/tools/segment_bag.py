"""Segment a whole recording: `python -m fisa_ros.tools.segment_bag IN OUT --vocabulary "cat; dog; grass, lawn"`."""

import argparse
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
import logging
from pathlib import Path
import sys
from typing import Any

from tqdm import tqdm

from fisa_ros.core.errors import DataError
from fisa_ros.core.stop_signals import noted_signals
from fisa_ros.node.bag_outputs import OutputMaker
from fisa_ros.node.bag_parts import StoppedError
from fisa_ros.node.bag_processes import run_in_processes
from fisa_ros.node.bag_segmentation import SEGMENTING, WRITING, BagPlan, BagTask, plan_bag, run_here, segment_bag
from fisa_ros.tools.bag_arguments import add_bag_arguments, model_options
from fisa_ros.tools.model_arguments import report

_SHOWN_FAILURES = 20


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return 0, 1 if images were left out, 2 after an error, 128 + N after signal N."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format='%(levelname)s: %(message)s', stream=sys.stderr)
    with noted_signals() as signals:
        try:
            summary = report(lambda: _run(options, lambda: bool(signals)), options.json, _print_summary)
        except StoppedError:
            print(f'stopped; the same command goes on with {options.out}', file=sys.stderr)
            return 128 + signals[0]
    return 2 if summary is None else int(bool(summary['failed']))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog='python -m fisa_ros.tools.segment_bag',
        description='Write a recording with the outputs of the segment node for each image, under the names that the '
        'node would give them: /front/image_raw gives /front/segmentation/mask and so on. An interrupted run goes on '
        'where it was when it is started again.',
    )
    parser.add_argument('source', metavar='IN', type=Path, help='rosbag2 folder, .mcap or .db3 file')
    parser.add_argument('out', metavar='OUT', type=Path, help='folder to make')
    add_bag_arguments(parser)
    parser.add_argument('--jobs', type=int, default=1, metavar='N', help='processes, each with a model of its own')
    parser.add_argument('--json', action='store_true', help='print the summary as one JSON object')
    return parser


def _run(options: argparse.Namespace, is_stopped: Callable[[], bool]) -> dict[str, Any]:
    if options.jobs < 1:
        raise DataError(f'--jobs must be at least 1, got {options.jobs}')
    model = model_options(options)
    task = BagTask(
        source=options.source,
        out=options.out,
        options=model,
        topics=tuple(options.topics),
        storage=options.storage,
        outputs_only=options.outputs_only,
        part_images=options.part_images,
        jobs=options.jobs,
    )
    plan = plan_bag(task)
    with ExitStack() as stack:
        bars = _Bars(stack, plan)
        if options.jobs == 1:
            runner = run_here(lambda: stack.enter_context(closing(OutputMaker.load(model))))
        else:
            runner = run_in_processes(options.jobs)
        return segment_bag(plan, runner, bars.advance, is_stopped)


class _Bars:
    """A progress bar for each stage, shown when it begins."""

    def __init__(self, stack: ExitStack, plan: BagPlan) -> None:
        self._stack = stack
        self._totals = {SEGMENTING: plan.images, WRITING: plan.messages}
        self._bars: dict[str, tqdm[Any]] = {}

    def advance(self, stage: str, count: int) -> None:
        if stage not in self._bars:
            unit = 'image' if stage == SEGMENTING else 'message'
            bar: tqdm[Any] = tqdm(desc=stage, total=self._totals[stage], unit=unit, file=sys.stderr, disable=None)
            self._bars[stage] = self._stack.enter_context(bar)
        self._bars[stage].update(count)


def _print_summary(summary: dict[str, Any]) -> None:
    failed = summary['failed']
    if summary['was_finished']:
        print(f'{summary["out"]} is finished already')
    for topic, prefix in summary['topics'].items():
        print(f'{topic} -> {prefix}*')
    print(f'{summary["images"] - len(failed)} images segmented, {len(failed)} failed; see {summary["out"]}')
    for entry in failed[:_SHOWN_FAILURES]:
        print(f'failed: {entry["topic"]} at {entry["time_ns"]}: {entry["reason"]}')
    if len(failed) > _SHOWN_FAILURES:
        print(f'and {len(failed) - _SHOWN_FAILURES} more; --json lists all')


if __name__ == '__main__':
    sys.exit(main())
