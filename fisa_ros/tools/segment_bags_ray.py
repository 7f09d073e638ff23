"""Segment many recordings on a Ray cluster: `python -m fisa_ros.tools.segment_bags_ray RECORDINGS… --out FOLDER`."""

import argparse
from collections.abc import Sequence
import logging
from pathlib import Path
import sys
from typing import Any

from fisa_ros.core.errors import DataError
from fisa_ros.node.bag_segmentation import BagTask
from fisa_ros.tools.bag_arguments import add_bag_arguments, model_options
from fisa_ros.tools.model_arguments import report


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return 0, 1 if a recording failed or images were left out, 2 if nothing could be done."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format='%(levelname)s: %(message)s', stream=sys.stderr)
    summary = report(lambda: _run(options), options.json, _print_table)
    if summary is None:
        return 2
    return int(any(bag['error'] or bag['failed'] for bag in summary['bags']))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog='python -m fisa_ros.tools.segment_bags_ray',
        description='What fisa_ros.tools.segment_bag does, for many recordings at once, as a Ray Data job. '
        'Finished recordings are left alone: repeat the command until all is done.',
    )
    parser.add_argument('bags', metavar='BAG', nargs='+', type=Path, help='recordings, or folders that hold some')
    parser.add_argument('--out', type=Path, required=True, help='folder for the results; all machines must see it')
    add_bag_arguments(parser)
    parser.add_argument('--address', help='of the Ray cluster (default: RAY_ADDRESS, else a Ray of its own here)')
    parser.add_argument('--actors', type=int, default=1, help='recordings at once (default: %(default)s)')
    parser.add_argument('--cpus', type=float, default=1.0, help='for each of them (default: %(default)s)')
    parser.add_argument('--gpus', type=float, default=0.0, help='for each of them, such as 0.5 (default: %(default)s)')
    parser.add_argument('--json', action='store_true', help='print the summary as one JSON object')
    return parser


def _run(options: argparse.Namespace) -> dict[str, Any]:
    if options.actors < 1:
        raise DataError(f'--actors must be at least 1, got {options.actors}')
    try:
        from fisa_ros.node.bag_fleet import connect, find_bags, segment_bags
    except ImportError as error:
        raise DataError(f'Ray Data is needed: pip install "fisa_ros[fleet]" ({error})') from error
    bags = find_bags(options.bags, options.out)
    template = BagTask(
        source=Path(),
        out=Path(),
        options=model_options(options),
        topics=tuple(options.topics),
        storage=options.storage,
        outputs_only=options.outputs_only,
        part_images=options.part_images,
    )
    connect(options.address)
    summaries = segment_bags(
        bags, template, actors=options.actors, cpus_per_actor=options.cpus, gpus_per_actor=options.gpus
    )
    return {'bags': [{'images': 0, 'failed': [], 'was_finished': False} | summary for summary in summaries]}


def _print_table(summary: dict[str, Any]) -> None:
    print(f'{"images":>8} {"failed":>8}  recording')
    for bag in summary['bags']:
        note = bag['error'] or ('finished before' if bag['was_finished'] else '')
        print(f'{bag["images"]:>8} {len(bag["failed"]):>8}  {bag["source"]}{f": {note}" if note else ""}')


if __name__ == '__main__':
    sys.exit(main())
