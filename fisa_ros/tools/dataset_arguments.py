"""Arguments of the command lines that run a model over a data set."""

import argparse
from dataclasses import fields, replace
from pathlib import Path

from fisa_ros.core.errors import DataError
from fisa_ros.core.thresholds import Thresholds
from fisa_ros.core.vocabulary import VocabularyRequest
from fisa_ros.datasets.coco_panoptic import PanopticDataset
from fisa_ros.datasets.synonyms import shipped_synonyms
from fisa_ros.evaluation.category_map import CategoryMap
from fisa_ros.runtime.factory import BACKENDS

_THRESHOLDS = tuple(field.name for field in fields(Thresholds))


def add_dataset_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what names the model, the data set and its words."""
    parser.add_argument('--model', default='fisa-tiny', help='name or manifest of the model (default: %(default)s)')
    parser.add_argument('--backend', choices=BACKENDS, default='auto')
    parser.add_argument('--device', default='auto', help='auto, cpu or cuda:0 (default: %(default)s)')
    parser.add_argument('--images', type=Path, required=True, help='folder of the images')
    parser.add_argument(
        '--panoptic', type=Path, required=True, help='COCO panoptic JSON; its PNGs lie in the folder of that name'
    )
    parser.add_argument(
        '--vocabulary', help='"cat; dog; grass, lawn", a YAML file, or a shipped name (default: names of the data set)'
    )
    parser.add_argument(
        '--ignore-unmapped', action='store_true', help='categories that the vocabulary does not have are void'
    )
    parser.add_argument(
        '--synonyms',
        type=Path,
        default=shipped_synonyms(),
        help='YAML file: name: {training: [...], held_out: [...]} (default: %(default)s)',
    )
    parser.add_argument('--limit', type=int, help='use the first so many images')
    for name in _THRESHOLDS:
        parser.add_argument(
            f'--{name.replace("_", "-")}', type=float, help='threshold in [0, 1] (default: what fits the model)'
        )


def open_categories(options: argparse.Namespace) -> tuple[PanopticDataset, CategoryMap]:
    """Open the data set and find the words for its categories.

    Raises:
        FisaError: Something is missing or does not fit.
    """
    dataset = PanopticDataset.open(options.images, options.panoptic)
    categories = dataset.categories.values()
    if options.vocabulary is None:
        return dataset, CategoryMap.from_names(categories)
    request = VocabularyRequest.parse(options.vocabulary)
    return dataset, CategoryMap.from_vocabulary(categories, request, ignore_unmapped=options.ignore_unmapped)


def chosen_thresholds(defaults: Thresholds, options: argparse.Namespace) -> Thresholds:
    """Return the thresholds of the model, but those that were given.

    Raises:
        DataError: One is not in [0, 1].
    """
    given = {name: getattr(options, name) for name in _THRESHOLDS}
    try:
        return replace(defaults, **{name: value for name, value in given.items() if value is not None})
    except ValueError as error:
        raise DataError(str(error)) from error
