"""Compares 3D boxes with the truth of simulated rooms: `python -m fisa_ros.tools.evaluate_depth --rooms 20`."""

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from itertools import pairwise
import sys
from typing import Any

import numpy as np

from fisa_ros.core.errors import DataError
from fisa_ros.core.results import PanopticResult
from fisa_ros.core.vocabulary import VocabularyRegistry, VocabularyRequest
from fisa_ros.pipeline.boxes_3d import find_boxes
from fisa_ros.pipeline.camera_model import CameraModel
from fisa_ros.pipeline.segmenter import Segmenter
from fisa_ros.simulation.splits import FIRST_SEED
from fisa_ros.tools.model_arguments import add_model_arguments, chosen_thresholds, report

_SIZE_WH = (640, 480)
_NEAR_2_M = (1.5, 2.5)
_SHADOW_SHARE = 0.25


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return 0, or 2 if nothing could be done."""
    options = _parser().parse_args(arguments)
    return 2 if report(lambda: _run(options), options.json, _print_table) is None else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog='python -m fisa_ros.tools.evaluate_depth', description=__doc__)
    parser.add_argument(
        '--rooms', type=int, default=20, help='number of rooms of the test split (default: %(default)s)'
    )
    parser.add_argument('--views', type=int, default=3, help='views of each room (default: %(default)s)')
    parser.add_argument('--masks', choices=('truth', 'model'), default='truth', help='(default: %(default)s)')
    parser.add_argument('--vocabulary', default='indoor', help='for the masks of a model (default: %(default)s)')
    add_model_arguments(parser)
    parser.add_argument(
        '--noise',
        type=float,
        default=0.0,
        metavar='M',
        help='of depth at 1 m, growing with its square; 0.0025 is usual',
    )
    parser.add_argument('--holes', type=float, default=0.0, metavar='SHARE', help='share of the image without depth')
    parser.add_argument('--flying', type=int, default=0, metavar='PX', help='width of flying pixels along edges')
    parser.add_argument('--seed', type=int, default=0, help='of the noise (default: %(default)s)')
    parser.add_argument('--json', action='store_true', help='print one JSON object')
    return parser


def _run(options: argparse.Namespace) -> dict[str, Any]:
    if options.rooms < 1 or options.views < 1:
        raise DataError(f'--rooms and --views must be at least 1, got {options.rooms} and {options.views}')
    if not (options.noise >= 0.0 and 0.0 <= options.holes < 1.0 and options.flying >= 0):
        raise DataError(
            f'--noise and --flying must be at least 0 and --holes in [0, 1), got {options.noise:g}, {options.flying} '
            f'and {options.holes:g}'
        )
    # Here, for without OpenGL this raises.
    from fisa_ros.evaluation.box_errors import DISTANCES_M, compare_boxes, summarize_errors
    from fisa_ros.simulation.camera import pixel_intrinsics
    from fisa_ros.simulation.depth_noise import DepthNoise

    fx, fy, cx, cy = pixel_intrinsics(_SIZE_WH)
    rays = CameraModel(_SIZE_WH, (fx, fy), (cx, cy)).rays
    noise = DepthNoise(options.noise, options.holes, options.flying)
    rng = np.random.default_rng(options.seed)
    errors = []
    for frame, result in _segmented_frames(options):
        boxes = find_boxes(noise.apply(frame.depth, rng), rays, result)
        errors += compare_boxes(boxes, result, frame.instance_map, frame.boxes)
    whole = [error for error in errors if error.is_whole]
    near = [error for error in whole if _NEAR_2_M[0] <= error.distance_m < _NEAR_2_M[1]]
    return {
        'rooms': options.rooms,
        'views': options.rooms * options.views,
        'masks': options.model if options.masks == 'model' else 'truth',
        'noise': asdict(noise),
        'all': summarize_errors(errors),
        'whole': summarize_errors(whole),
        'near_2_m': {
            name: summarize_errors([error for error in near if error.class_name == name]) for name in ('box', 'ball')
        },
        'by_distance': {
            (f'{low:g}-{high:g} m' if np.isfinite(high) else f'over {low:g} m'): summarize_errors(
                [error for error in whole if low <= error.distance_m < high]
            )
            for low, high in pairwise(DISTANCES_M)
        },
        'by_kind': {
            name: summarize_errors([error for error in whole if error.class_name == name])
            for name in sorted({error.class_name for error in whole})
        },
    }


def _segmented_frames(options: argparse.Namespace) -> Iterator[tuple[Any, PanopticResult]]:
    """Yield each view with its true segments, or with those that the model finds."""
    from fisa_ros.simulation.frames import view_frames

    segmenter = state = None
    if options.masks == 'model':
        segmenter = Segmenter.load(options.model, options.backend, options.device, options.precision)
        state = segmenter.prepare(VocabularyRegistry().propose(VocabularyRequest.parse(options.vocabulary)))
        thresholds = chosen_thresholds(segmenter.default_thresholds, options)
    try:
        for seed in range(FIRST_SEED['test'], FIRST_SEED['test'] + options.rooms):
            for frame in view_frames(
                seed, range(options.views), _SIZE_WH, shadow_share=_SHADOW_SHARE, with_depth=True, with_boxes=True
            ):
                if segmenter is None or state is None:
                    yield frame, PanopticResult(frame.instance_map, frame.segments, vocabulary_version=0)
                else:
                    yield frame, segmenter.segment(frame.color, state, thresholds)
    finally:
        if segmenter is not None:
            segmenter.close()


def _print_table(summary: dict[str, Any]) -> None:
    print(f'{summary["views"]} views of {summary["rooms"]} rooms, masks: {summary["masks"]}, noise: {summary["noise"]}')
    print(f'{"whole things":24} {"found":>9} {"centre: median":>15} {"p90":>7} {"size: median":>13}  (cm)')
    rows = [(f'{name}, 1.5-2.5 m', entry) for name, entry in summary['near_2_m'].items()]
    rows += [*summary['by_distance'].items(), *summary['by_kind'].items()]
    rows += [('all whole', summary['whole']), ('all, also hidden and cut', summary['all'])]
    for name, entry in rows:
        values = [entry[key] for key in ('center_median_m', 'center_p90_m', 'size_median_m')]
        median, p90, size = ('-' if value is None else f'{value * 100:.1f}' for value in values)
        print(f'{name:24} {entry["found"]:4}/{entry["n"]:<4} {median:>15} {p90:>7} {size:>13}')


if __name__ == '__main__':
    sys.exit(main())
