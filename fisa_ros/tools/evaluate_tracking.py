"""Score tracking on simulated sequences: `python -m fisa_ros.tools.evaluate_tracking --rooms 4 --seconds 10`."""

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
import logging
import math
from pathlib import Path
import sys
import time
from typing import Any

import numpy as np
from tqdm import tqdm

from fisa_ros.core.errors import DataError
from fisa_ros.core.thresholds import Thresholds
from fisa_ros.core.vocabulary import VocabularyRequest
from fisa_ros.core.vocabulary_state import VocabularyState
from fisa_ros.evaluation.evaluate_tracking import (
    SequenceFrame,
    TrackingEvaluation,
    evaluate_tracking,
    simulated_categories,
)
from fisa_ros.pipeline.segmenter import Segmenter
from fisa_ros.pipeline.tracking import TrackerOptions
from fisa_ros.simulation.splits import FIRST_SEED, SPLITS
from fisa_ros.tools.model_arguments import add_model_arguments, chosen_thresholds, report

_SIZE_WH = (640, 480)
_SHADOW_SHARE = 0.25


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return 0, or 2 if nothing could be done."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format='%(levelname)s: %(message)s', stream=sys.stderr)
    return 2 if report(lambda: _run(options), options.json, _print_table) is None else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog='python -m fisa_ros.tools.evaluate_tracking',
        description='Score a model on images of a camera that walks through simulated rooms, without and with '
        'tracking of the same answers.',
    )
    parser.add_argument('--rooms', type=int, default=4, help='number of sequences (default: %(default)s)')
    parser.add_argument('--seconds', type=float, default=10.0, help='length of each (default: %(default)s)')
    parser.add_argument('--rate-hz', type=float, default=10.0, help='frames per second (default: %(default)s)')
    parser.add_argument('--split', choices=SPLITS, default='test', help='of the rooms (default: %(default)s)')
    parser.add_argument('--vocabulary', default='indoor', help='its words (default: %(default)s)')
    add_model_arguments(parser)
    parser.add_argument('--plot', type=Path, metavar='FILE', help='PNG of the ids over time in the first room')
    parser.add_argument('--json', action='store_true', help='print one JSON object instead of a table')
    return parser


def _run(options: argparse.Namespace) -> dict[str, Any]:
    for name in ('rooms', 'seconds', 'rate_hz'):
        value = getattr(options, name)
        if not 0 < value < math.inf:
            raise DataError(f'--{name.replace("_", "-")} must be above 0 and finite, got {value}')
    categories = simulated_categories(VocabularyRequest.parse(options.vocabulary))
    start_s = time.monotonic()
    segmenter = Segmenter.load(options.model, options.backend, options.device, options.precision)
    try:
        thresholds = chosen_thresholds(segmenter.default_thresholds, options)
        sequences = _sequences(options, segmenter, segmenter.prepare(categories.vocabulary), thresholds)
        evaluation = evaluate_tracking(sequences, categories, options.rate_hz)
        summary = {
            'model': segmenter.manifest.name,
            'backend': segmenter.backend.name,
            'device': segmenter.backend.device,
            'split': options.split,
            'rooms': options.rooms,
            'rate_hz': options.rate_hz,
            'frames': evaluation.frames,
            'seconds': round(time.monotonic() - start_s, 3),
            'thresholds': asdict(thresholds),
            'tracker': asdict(TrackerOptions()),
            'update_ms': {f'p{part}': float(np.percentile(evaluation.update_ms, part)) for part in (50, 95)},
            'without': evaluation.without.summary(),
            'tracked': evaluation.tracked.summary(),
        }
    finally:
        segmenter.close()
    if options.plot:
        _plot(options.plot, evaluation, summary)
    return summary


def _sequences(
    options: argparse.Namespace, segmenter: Segmenter, state: VocabularyState, thresholds: Thresholds
) -> Iterator[Iterator[SequenceFrame]]:
    # Here, for without OpenGL this raises; and after the model, for LLVM of triton has to start before the renderer's.
    from fisa_ros.simulation.frames import sequence_frames

    count = max(1, round(options.seconds * options.rate_hz))
    with tqdm(total=options.rooms * count, unit='frame', file=sys.stderr, disable=None) as progress:

        def segmented(seed: int) -> Iterator[SequenceFrame]:
            for frame in sequence_frames(
                seed, range(count), _SIZE_WH, rate_hz=options.rate_hz, shadow_share=_SHADOW_SHARE, with_depth=False
            ):
                result = segmenter.segment(frame.color, state, thresholds)
                yield SequenceFrame(frame.color, result, frame.instance_map, frame.segments)
                progress.update()

        for room in range(options.rooms):
            yield segmented(FIRST_SEED[options.split] + room)


def _plot(path: Path, evaluation: TrackingEvaluation, summary: Mapping[str, Any]) -> None:
    # Here, for loading matplotlib takes longer than all other modules.
    from fisa_ros.evaluation.tracking_plots import plot_timelines

    path.parent.mkdir(parents=True, exist_ok=True)
    histories = {'without tracking': evaluation.without.history[0], 'with tracking': evaluation.tracked.history[0]}
    plot_timelines(path, histories, summary['rate_hz'], f'{summary["model"]}, first room of split {summary["split"]}')


def _print_table(summary: Mapping[str, Any]) -> None:
    print(f'{"":30}{"without":>12}{"tracked":>12}{"ratio":>9}')
    for name, without in summary['without'].items():
        tracked = summary['tracked'][name]
        ratio = f'{tracked / without:9.3f}' if without and tracked is not None else f'{"-":>9}'
        print(f'{name:30}{_text(without):>12}{_text(tracked):>12}{ratio}')
    print(
        f'\n{summary["frames"]} frames of {summary["rooms"]} rooms of split {summary["split"]} at '
        f'{summary["rate_hz"]:g} Hz in {summary["seconds"]:.1f} s with {summary["model"]} ({summary["backend"]}); '
        f'tracking takes {summary["update_ms"]["p50"]:.2f} ms a frame (median)'
    )


def _text(value: float | None) -> str:
    if value is None:
        return '-'
    return str(value) if isinstance(value, int) else f'{value:.3f}'


if __name__ == '__main__':
    sys.exit(main())
