"""Arguments of the command lines that run a model over a data set."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from fisa_ros.core.vocabulary import VocabularyRequest
from fisa_ros.datasets.coco_panoptic import PanopticDataset
from fisa_ros.datasets.synonyms import shipped_synonyms
from fisa_ros.evaluation.category_map import CategoryMap
from fisa_ros.runtime.factory import BACKENDS
from fisa_ros.tools.model_arguments import add_model_arguments


def add_dataset_arguments(parser: argparse.ArgumentParser, backends: Sequence[str] = BACKENDS) -> None:
    """Add what names the model, where it runs, the data set and its words."""
    # It alone can classify given masks.
    add_model_arguments(parser, 'torch', backends)
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
