"""Fit temperature and thresholds of a model: `python -m fisa_ros.tools.calibrate --images DIR --panoptic FILE.json`."""

import argparse
from collections.abc import Sequence
from dataclasses import asdict
import logging
import math
from pathlib import Path
import sys
from typing import Any

from fisa_ros.evaluation.calibrate_model import ModelCalibration
from fisa_ros.evaluation.manifest_values import check_values, write_values
from fisa_ros.evaluation.threshold_search import best_trial
from fisa_ros.pipeline.segmenter import Segmenter
from fisa_ros.tools.dataset_arguments import add_dataset_arguments, open_categories
from fisa_ros.tools.model_arguments import chosen_thresholds, report

# Held-out words measure how well new words work, so nothing may be chosen by them.
_WORDS = ('vocabulary', 'names', 'training')


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return 0, or 2 if nothing could be done."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format='%(levelname)s: %(message)s', stream=sys.stderr)
    return 2 if report(lambda: _run(options), options.json, _print_table) is None else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog='python -m fisa_ros.tools.calibrate',
        description='Fit the temperature of the class probabilities by their likelihood, then search the thresholds '
        'with the best panoptic quality. Use images that neither trained the model nor will test it.',
    )
    add_dataset_arguments(parser)
    parser.add_argument(
        '--words',
        choices=_WORDS,
        default='vocabulary',
        help='call each class by all its words in the vocabulary, by its first name, or by training words from '
        '--synonyms (default: %(default)s)',
    )
    parser.add_argument(
        '--max-mislabelled',
        type=float,
        metavar='SHARE',
        help='at most this share of the pixels of removed classes may get a label when half of the words are removed',
    )
    parser.add_argument('--write', type=Path, metavar='MANIFEST.yaml', help='write what was found into this manifest')
    parser.add_argument('--json', action='store_true', help='print one JSON object instead of a table')
    return parser


def _run(options: argparse.Namespace) -> dict[str, Any]:
    dataset, categories = open_categories(options)
    vocabulary = categories.words(options.words, options.synonyms)
    segmenter = Segmenter.load(options.model, options.backend, options.device, options.precision)
    try:
        start = chosen_thresholds(segmenter.default_thresholds, options)
        if options.write:
            check_values(options.write, segmenter.manifest.name, _values(1.0, asdict(start)))
        calibration = ModelCalibration(
            segmenter, dataset, categories, vocabulary, start, options.limit, options.max_mislabelled
        )
        measured_before = calibration.measure(start)
        before, after = calibration.fit_temperature()
        best = best_trial(calibration.search_thresholds()).thresholds
        measured_after = calibration.measure(best)
    finally:
        segmenter.close()
    thresholds = {name: round(value, 4) for name, value in asdict(best).items()}
    if options.write:
        write_values(options.write, _values(after.temperature, thresholds))
    return {
        'model': segmenter.manifest.name,
        'panoptic': str(options.panoptic),
        'images': calibration.images,
        'words': options.words,
        'before': _defined({**asdict(before), **asdict(start), **asdict(measured_before)}),
        'after': _defined({**asdict(after), **thresholds, **asdict(measured_after)}),
        'written': str(options.write) if options.write else None,
    }


def _values(temperature: float, thresholds: dict[str, float]) -> dict[str, dict[str, float]]:
    return {'classifier': {'temperature': temperature}, 'thresholds': thresholds}


def _defined(numbers: dict[str, float | None]) -> dict[str, float | None]:
    return {name: None if value is None or math.isnan(value) else value for name, value in numbers.items()}


def _print_table(summary: dict[str, Any]) -> None:
    print(f'{"":22}{"before":>10}{"after":>10}')
    for name, before in summary['before'].items():
        after = summary['after'][name]
        print(f'{name:22}' + ''.join(f'{"-" if value is None else f"{value:.3f}":>10}' for value in (before, after)))
    print(f'\n{summary["images"]} images, {summary["model"]}, words: {summary["words"]}')
    print(f'written to {summary["written"]}' if summary['written'] else 'nothing written (see --write)')


if __name__ == '__main__':
    sys.exit(main())
