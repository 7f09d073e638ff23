"""Score a model on data sets: `python -m fisa_ros.tools.evaluate --dataset ade20k-150 --root DIR`."""

import argparse
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
import logging
from pathlib import Path
import sys
from typing import TYPE_CHECKING, Any, Self, cast

from fisa_ros.core.errors import BackendUnavailableError, DataError, FisaError
from fisa_ros.core.manifest import load_manifest
from fisa_ros.core.stop_signals import noted_signals
from fisa_ros.core.thresholds import Thresholds
from fisa_ros.core.vocabulary import Vocabulary
from fisa_ros.datasets.class_split import read_class_split
from fisa_ros.evaluation.category_map import WORD_KINDS, CategoryMap
from fisa_ros.evaluation.evaluate_dataset import DatasetEvaluation, evaluate_dataset
from fisa_ros.evaluation.predictor import ORACLES
from fisa_ros.evaluation.published_results import PUBLISHED_METRICS, PUBLISHED_SPLIT, PublishedResults
from fisa_ros.pipeline.segmenter import Segmenter
from fisa_ros.tools.benchmark_backends import BACKEND_FACTORIES, open_segmenter
from fisa_ros.tools.dataset_arguments import ChosenDataset, add_dataset_arguments, open_datasets
from fisa_ros.tools.evaluation_tables import COMPARED, print_dataset, print_named_datasets
from fisa_ros.tools.model_arguments import chosen_thresholds, report

if TYPE_CHECKING:
    from fisa_ros.runtime.torch_backend import TorchBackend

_ALL = ('names', 'training', 'held_out')
_INTERRUPTED = 130
# At 2048, 200 masks take 3.4 GB.
_MAX_MERGE_SIZE = 2048

_log = logging.getLogger(__name__)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return 0, 2 after an error, or 130 if a signal ended it early."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format='%(levelname)s: %(message)s', stream=sys.stderr)
    show = print_named_datasets if options.dataset else print_dataset
    summary = report(lambda: _run(options), options.json, show)
    if summary is None or summary['error'] is not None:
        return 2
    return _INTERRUPTED if summary['is_interrupted'] else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog='python -m fisa_ros.tools.evaluate',
        description='Score a model on published data sets, or on one of your own in the COCO panoptic format. Metrics '
        'are fractions; beside published results they are percent. Ctrl-C, or an error in a later data set, ends with '
        'what was measured until then.',
    )
    add_dataset_arguments(parser, tuple(BACKEND_FACTORIES), takes_names=True)
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
    parser.add_argument(
        '--merge-size',
        type=int,
        metavar='PIXELS',
        help=f'merge masks in a square map of this edge, at most {_MAX_MERGE_SIZE}, instead of that of the model; '
        'back-end torch alone. Published results are merged in maps of the size of each image, which no size here '
        'repeats',
    )
    parser.add_argument('--split-file', type=Path, help='YAML lists base and novel of categories to score apart')
    parser.add_argument('--plots', type=Path, metavar='DIR', help='folder for plots as PNG')
    parser.add_argument('--json', action='store_true', help='print one JSON object instead of a table')
    return parser


def _run(options: argparse.Namespace) -> dict[str, Any]:
    published = PublishedResults.shipped()
    jobs = [_Job.of(chosen, options, published) for chosen in open_datasets(options)]
    if options.plots:
        for job in jobs:
            job.plots(options).mkdir(parents=True, exist_ok=True)
    segmenter = _open(options)
    try:
        thresholds = chosen_thresholds(segmenter.default_thresholds, options)
        summary = {
            'model': segmenter.manifest.name,
            'backend': segmenter.backend.name,
            'device': segmenter.backend.device,
            'precision': segmenter.backend.precision,
            'resize': segmenter.manifest.resize.kind,
            'merge_size': options.merge_size or segmenter.manifest.classifier.get('merge_size'),
            'words': options.words,
            'oracle': options.oracle,
            'thresholds': asdict(thresholds),
        }
        for job in jobs:
            for vocabulary in job.vocabularies.values():
                segmenter.check_size(vocabulary)
        with noted_signals() as received:
            scores, error = _score_all(jobs, segmenter, thresholds, options, received)
        end = {'is_interrupted': bool(received), 'error': error}
    finally:
        segmenter.close()
    if not options.dataset:
        return summary | {'panoptic': str(options.panoptic)} | scores[options.panoptic.stem] | end
    return summary | end | {'datasets': scores, 'published': _published(scores, published)}


def _open(options: argparse.Namespace) -> Segmenter:
    """Return the model, to be run as the options say.

    Raises:
        FisaError: There is no such model, it cannot be run, or its masks cannot be merged so.
    """
    manifest, size = load_manifest(options.model), options.merge_size
    if size is None:
        return open_segmenter(manifest, options.backend, options.device, precision=options.precision)
    if not 1 <= size <= _MAX_MERGE_SIZE:
        raise DataError(f'--merge-size must be in 1..{_MAX_MERGE_SIZE}, got {size}')
    if options.backend not in ('auto', 'torch'):
        raise BackendUnavailableError(
            f'--merge-size needs --backend torch, got {options.backend!r}: exported graphs merge at one size'
        )
    segmenter = open_segmenter(manifest, 'torch', options.device, precision=options.precision)
    # Not in the manifest: exported graphs, whose outputs half precision is compared with, are of that as it is.
    cast('TorchBackend', segmenter.backend).merge_size = size
    return segmenter


@dataclass(frozen=True)
class _Job:
    """A data set, the images that all of it has, the ways of naming its categories, and those to average apart."""

    chosen: ChosenDataset
    of_images: int
    vocabularies: Mapping[str, Vocabulary]
    parts: Mapping[str, frozenset[int]]

    @classmethod
    def of(cls, chosen: ChosenDataset, options: argparse.Namespace, published: PublishedResults) -> Self:
        categories, where = chosen.categories, options.split_file
        kinds = _ALL if options.words == 'all' else (options.words,)
        names = asdict(read_class_split(where)) if where else {}
        # Not all of a data set may be there.
        published_images = published.images[chosen.name] if chosen.split == PUBLISHED_SPLIT else 0
        return cls(
            chosen,
            max(len(chosen.dataset), published_images),
            {kind: categories.words(kind, options.synonyms) for kind in kinds},
            {part: categories.numbered(listed, f'{where}: {part}') for part, listed in names.items()},
        )

    def plots(self, options: argparse.Namespace) -> Path:
        folder: Path = options.plots
        return folder / self.chosen.name if options.dataset else folder


def _score_all(
    jobs: Sequence[_Job], segmenter: Segmenter, thresholds: Thresholds, options: argparse.Namespace,
    received: Sequence[int],
) -> tuple[dict[str, dict[str, Any]], str | None]:  # fmt: skip
    """Return the numbers of each data set up to a signal or an error, and draw them; and the text of the error.

    Raises:
        FisaError, OSError: There was an error, and there are no numbers.
    """
    scores: dict[str, dict[str, Any]] = {}
    try:
        for job in jobs:
            if received and scores:
                break
            evaluation = evaluate_dataset(
                segmenter, job.chosen.dataset, job.chosen.categories, job.vocabularies, thresholds,
                oracle=options.oracle,
                removed_words_of=next(iter(job.vocabularies.values())) if options.removed_words else None,
                limit=options.limit,
                title=job.chosen.name,
                received=received,
            )  # fmt: skip
            numbers = scores[job.chosen.name] = _numbers(job, evaluation, options)
            if options.plots and evaluation.images:
                of_images = f'{evaluation.images} of {job.of_images} images'
                title = f'{segmenter.manifest.name} on {job.chosen.name}, {of_images}'
                _plot(job.plots(options), evaluation, job.chosen.categories, numbers, title)
    except (FisaError, OSError) as error:
        if not scores:
            raise
        _log.error('%s: %s', job.chosen.name, error)
        return scores, f'{job.chosen.name}: {error}'
    return scores, None


def _numbers(job: _Job, evaluation: DatasetEvaluation, options: argparse.Namespace) -> dict[str, Any]:
    """Return the numbers of one data set."""
    chosen, dataset = job.chosen, job.chosen.dataset
    numbers: dict[str, Any] = {
        'images': evaluation.images,
        'of_images': job.of_images,
        'seconds': round(evaluation.seconds, 3),
        'is_interrupted': evaluation.is_interrupted,
    }
    if chosen.split is not None:
        is_whole = chosen.split == PUBLISHED_SPLIT and evaluation.images == job.of_images
        has_all_categories = len(chosen.categories.names) == len(dataset.categories)
        numbers |= {
            'split': chosen.split,
            'path': str(dataset.path),
            'has_instances': dataset.has_instances,
            'may_hide_segments': dataset.may_hide_segments,
            'is_comparable': is_whole and has_all_categories and options.oracle is None,
        }
    return numbers | _metrics(evaluation, job.parts)


def _published(names: Iterable[str], results: PublishedResults) -> dict[str, list[dict[str, Any]]]:
    """Return the published rows of each data set, as fractions."""
    return {
        name: [
            {'method': row.method, 'source': row.source}
            | {metric: row.scores[name].get(metric) for metric in PUBLISHED_METRICS}
            for row in results.of(name)
        ]
        for name in names
    }


def _metrics(evaluation: DatasetEvaluation, parts: Mapping[str, frozenset[int]]) -> dict[str, Any]:
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
                key: numbers[key] / first[key] if first[key] and numbers[key] is not None else None for key in COMPARED
            }
        scores['by_words'] = by_words
    return scores


def _plot(
    folder: Path, evaluation: DatasetEvaluation, categories: CategoryMap, numbers: Mapping[str, Any], title: str
) -> None:
    # Here, for loading matplotlib takes longer than all other modules.
    from fisa_ros.evaluation.plots import plot_classes, plot_confusion

    summaries = numbers.get('by_words', {next(iter(evaluation.scorers)): numbers})
    for kind, scorer in evaluation.scorers.items():
        plot_classes(folder / f'classes_{kind}.png', summaries[kind]['per_class'], f'{title}, words: {kind}')
        plot_confusion(
            folder / f'confusion_{kind}.png', scorer.mean_iou.confusion, categories.names, f'{title}, words: {kind}'
        )


if __name__ == '__main__':
    sys.exit(main())
