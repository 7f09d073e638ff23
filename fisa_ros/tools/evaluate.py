"""Score a model on a data set: `python -m fisa_ros.tools.evaluate --images DIR --panoptic FILE.json`."""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import asdict
import logging
from pathlib import Path
import sys
from typing import Any

from fisa_ros.core.manifest import load_manifest
from fisa_ros.datasets.class_split import read_class_split
from fisa_ros.evaluation.category_map import WORD_KINDS, CategoryMap
from fisa_ros.evaluation.evaluate_dataset import DatasetEvaluation, evaluate_dataset
from fisa_ros.evaluation.predictor import ORACLES
from fisa_ros.tools.benchmark_backends import BACKEND_FACTORIES, open_segmenter
from fisa_ros.tools.dataset_arguments import add_dataset_arguments, open_categories
from fisa_ros.tools.model_arguments import chosen_thresholds, report

_ALL = ('names', 'training', 'held_out')
_COMPARED = ('pq', 'miou', 'ap', 'mask_accuracy')
_SHOWN = (
    'pq', 'sq', 'rq', 'pq_things', 'pq_stuff', 'pq_class_agnostic', 'miou', 'pixel_accuracy', 'ap', 'ap50',
    'mask_accuracy', 'ece_masks', 'ece_segments', 'pq_base', 'pq_novel', 'miou_base', 'miou_novel',
    'mask_accuracy_base', 'mask_accuracy_novel', 'removed_mislabelled',
)  # fmt: skip
_COLUMNS = ('pq', 'sq', 'rq', 'iou', 'ap', 'mask_accuracy')


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return 0, or 2 if nothing could be done."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format='%(levelname)s: %(message)s', stream=sys.stderr)
    return 2 if report(lambda: _run(options), options.json, _print_table) is None else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog='python -m fisa_ros.tools.evaluate',
        description='Score a model on a data set in the COCO panoptic format. All metrics are fractions.',
    )
    add_dataset_arguments(parser, tuple(BACKEND_FACTORIES))
    parser.add_argument(
        '--words',
        choices=(*WORD_KINDS, 'all'),
        default='vocabulary',
        help='call each class by all its words in the vocabulary, by its first name, by other words from --synonyms, '
        f'or once each by {", ".join(_ALL)} (default: %(default)s)',
    )
    parser.add_argument(
        '--oracle',
        choices=ORACLES,
        help='take the true masks, or give predicted masks the classes they lie on: of a true segment with an IoU '
        'above 0.5, or of stuff that at least half of the mask is on',
    )
    parser.add_argument(
        '--removed-words', choices=('half',), help='also count what gets a label when half of the words are removed'
    )
    parser.add_argument('--split-file', type=Path, help='YAML lists base and novel of categories to score apart')
    parser.add_argument('--plots', type=Path, metavar='DIR', help='folder for plots as PNG')
    parser.add_argument('--json', action='store_true', help='print one JSON object instead of a table')
    return parser


def _run(options: argparse.Namespace) -> dict[str, Any]:
    dataset, categories = open_categories(options)
    parts = {}
    if options.split_file:
        names = asdict(read_class_split(options.split_file))
        parts = {part: categories.numbered(listed, f'{options.split_file}: {part}') for part, listed in names.items()}
    kinds = _ALL if options.words == 'all' else (options.words,)
    vocabularies = {kind: categories.words(kind, options.synonyms) for kind in kinds}
    if options.plots:
        options.plots.mkdir(parents=True, exist_ok=True)
    segmenter = open_segmenter(
        load_manifest(options.model), options.backend, options.device, precision=options.precision
    )
    try:
        thresholds = chosen_thresholds(segmenter.default_thresholds, options)
        evaluation = evaluate_dataset(
            segmenter, dataset, categories, vocabularies, thresholds,
            oracle=options.oracle,
            removed_words_of=vocabularies[kinds[0]] if options.removed_words else None,
            limit=options.limit,
        )  # fmt: skip
        summary = {
            'model': segmenter.manifest.name,
            'backend': segmenter.backend.name,
            'device': segmenter.backend.device,
            'precision': segmenter.backend.precision,
            'panoptic': str(options.panoptic),
            'images': evaluation.images,
            'seconds': round(evaluation.seconds, 3),
            'words': options.words,
            'oracle': options.oracle,
            'thresholds': asdict(thresholds),
        }
    finally:
        segmenter.close()
    summary |= _scores(evaluation, parts)
    if options.plots:
        title = f'{summary["model"]} on {options.panoptic.stem}, {evaluation.images} images'
        _plot(options.plots, evaluation, categories, summary, title)
    return summary


def _scores(evaluation: DatasetEvaluation, parts: Mapping[str, frozenset[int]]) -> dict[str, Any]:
    """Return the numbers of the first way of naming at the top, and all of them below `by_words` if there are more."""
    by_words = {kind: scorer.summary(parts) for kind, scorer in evaluation.scorers.items()}
    first = next(iter(by_words.values()))
    scores: dict[str, Any] = dict(first)
    if evaluation.void_check is not None:
        check = evaluation.void_check
        scores['removed_mislabelled'] = check.compute() if check.pixels else None
        scores['removed_pixels'] = check.pixels
    if len(by_words) > 1:
        for numbers in by_words.values():
            numbers['relative_to_names'] = {
                key: numbers[key] / first[key] if first[key] and numbers[key] is not None else None for key in _COMPARED
            }
        scores['by_words'] = by_words
    return scores


def _plot(
    folder: Path, evaluation: DatasetEvaluation, categories: CategoryMap, summary: Mapping[str, Any], title: str
) -> None:
    # Here, for loading matplotlib takes longer than all other modules.
    from fisa_ros.evaluation.plots import plot_classes, plot_confusion

    summaries = summary.get('by_words', {next(iter(evaluation.scorers)): summary})
    for kind, scorer in evaluation.scorers.items():
        plot_classes(folder / f'classes_{kind}.png', summaries[kind]['per_class'], f'{title}, words: {kind}')
        plot_confusion(
            folder / f'confusion_{kind}.png', scorer.mean_iou.confusion, categories.names, f'{title}, words: {kind}'
        )


def _print_table(summary: Mapping[str, Any]) -> None:
    width = max(len(name) for name in summary['per_class'])
    print(f'{"":{width}}' + ''.join(f'{name:>15}' for name in _COLUMNS))
    for name, row in summary['per_class'].items():
        print(f'{name:{width}}' + ''.join(f'{_text(row[key]):>15}' for key in _COLUMNS))
    by_words = summary.get('by_words', {summary['words']: summary})
    print(f'\n{"":22}' + ''.join(f'{kind:>12}' for kind in by_words))
    for key in _SHOWN:
        if key in summary:
            print(f'{key:22}' + ''.join(f'{_text(numbers.get(key)):>12}' for numbers in _columns(summary, by_words)))
    if 'by_words' in summary:
        for key in _COMPARED:
            ratios = (numbers['relative_to_names'][key] for numbers in by_words.values())
            print(f'{key + " / names":22}' + ''.join(f'{_text(ratio):>12}' for ratio in ratios))
    print(f'\n{summary["images"]} images in {summary["seconds"]:.1f} s with {summary["model"]} ({summary["backend"]})')


def _columns(summary: Mapping[str, Any], by_words: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the numbers of each way of naming; what is measured once stands in the first."""
    columns = [dict(numbers) for numbers in by_words.values()]
    columns[0]['removed_mislabelled'] = summary.get('removed_mislabelled')
    return columns


def _text(value: float | None) -> str:
    return '-' if value is None else f'{value:.3f}'


if __name__ == '__main__':
    sys.exit(main())
