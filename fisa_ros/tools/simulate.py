"""Writes data sets of simulated rooms: `python -m fisa_ros.tools.simulate --out DIR --split train --images 8000`.

The same command goes on where a run was stopped, and with more images continues a finished set.
"""

import argparse
import json
from pathlib import Path
import re
import sys
import time

from fisa_ros.core.errors import FisaError
from fisa_ros.simulation.room import ALL_STYLES, SITES
from fisa_ros.simulation.splits import SPLITS


def _size(text: str) -> tuple[int, int]:
    match = re.fullmatch(r'(\d+)x(\d+)', text)
    if match is None:
        raise argparse.ArgumentTypeError(f'must be WIDTHxHEIGHT such as 640x480, got {text!r}')
    return int(match[1]), int(match[2])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog='python -m fisa_ros.tools.simulate', description=__doc__)
    parser.add_argument('--out', type=Path, required=True, help='folder of the data set')
    parser.add_argument(
        '--split',
        required=True,
        choices=SPLITS,
        help='splits share no room, and draw shapes and colours from other slices of their ranges',
    )
    kind = parser.add_mutually_exclusive_group(required=True)
    kind.add_argument('--images', type=int, help='number of independent views')
    kind.add_argument('--sequences', type=int, help='number of sequences of a moving camera, each in a room of its own')
    parser.add_argument(
        '--style',
        choices=ALL_STYLES,
        help=f'of all rooms (default: any but {", ".join(SITES)}, which has objects that no shipped model knows)',
    )
    parser.add_argument('--views-per-room', type=int, default=4, help='of independent views (default: 4)')
    parser.add_argument('--frames', type=int, default=100, help='per sequence (default: 100)')
    parser.add_argument('--rate-hz', type=float, default=10.0, help='frames per second of sequences (default: 10)')
    parser.add_argument('--size', type=_size, default=(640, 480), metavar='WxH', help='default: 640x480')
    parser.add_argument('--shadows', type=float, default=0.25, help='share of rooms with shadows (default: 0.25)')
    parser.add_argument('--depth', action='store_true', help='write depth images too (16 bit, mm)')
    parser.add_argument('--processes', type=int, help='rendering processes (default: one per core)')
    parser.add_argument('--json', action='store_true', help='print one JSON object')
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    options = _parser().parse_args(arguments)
    is_sequence = options.sequences is not None
    images = options.sequences * options.frames if is_sequence else options.images
    started = time.monotonic()
    try:
        # Here, for without OpenGL this raises.
        from fisa_ros.simulation.dataset_writer import SimulationSettings, write_dataset

        settings = SimulationSettings(
            options.split,
            options.size,
            options.frames if is_sequence else options.views_per_room,
            options.rate_hz if is_sequence else None,
            options.shadows,
            options.depth,
            options.style,
        )
        rendered = write_dataset(options.out, settings, images, processes=options.processes)
    except FisaError as error:
        print(f'error: {error}', file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f'stopped; the same command goes on in {options.out}', file=sys.stderr)
        return 130
    seconds = time.monotonic() - started
    if options.json:
        print(json.dumps({'images': images, 'rendered': rendered, 'seconds': seconds, 'out': str(options.out)}))
    else:
        print(f'{options.out}: {images} images of split {options.split}, {rendered} rendered in {seconds:.1f} s')
    return 0


if __name__ == '__main__':
    sys.exit(main())
