"""Arguments of the command lines that run a model over a data set."""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fisa_ros.core.errors import DataError
from fisa_ros.core.vocabulary import VocabularyRequest
from fisa_ros.datasets.coco_panoptic import PanopticDataset
from fisa_ros.datasets.registry import DATASETS, SPLITS, open_dataset, vocabulary_of
from fisa_ros.datasets.synonyms import shipped_synonyms
from fisa_ros.evaluation.category_map import CategoryMap
from fisa_ros.runtime.factory import BACKENDS
from fisa_ros.tools.model_arguments import add_model_arguments


@dataclass(frozen=True, slots=True)
class ChosenDataset:
    """A data set that the command line asks for.

    Attributes:
        name: One of `DATASETS`, or the name of the JSON of a data set of the user's own.
        split: One of `SPLITS`; None for a data set of the user's own.
        dataset: The data set.
        categories: Its categories, and the words for them.
    """

    name: str
    split: str | None
    dataset: PanopticDataset
    categories: CategoryMap


def add_dataset_arguments(
    parser: argparse.ArgumentParser, backends: Sequence[str] = BACKENDS, *, takes_names: bool = False
) -> None:
    """Add what names the model, where it runs, the data set and its words.

    Args:
        parser: What to add to.
        backends: Back-ends to choose from.
        takes_names: Whether published data sets may be named instead; see `open_datasets`.
    """
    # It alone can classify given masks.
    add_model_arguments(parser, 'torch', backends)
    parser.add_argument('--images', type=Path, required=not takes_names, help='folder of the images')
    parser.add_argument(
        '--panoptic',
        type=Path,
        required=not takes_names,
        help='COCO panoptic JSON; its PNGs lie in the folder of that name',
    )
    default_words = 'names of the data set'
    if takes_names:
        default_words += ', with synonyms where --dataset names it'
        _add_name_arguments(parser)
    parser.add_argument(
        '--vocabulary', help=f'"cat; dog; grass, lawn", a YAML file, or a shipped name (default: {default_words})'
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
    """Open the data set of --images and --panoptic, and find the words for its categories.

    Raises:
        FisaError: Something is missing or does not fit.
    """
    dataset = PanopticDataset.open(options.images, options.panoptic)
    return dataset, _categories(dataset, options.vocabulary, options)


def open_datasets(options: argparse.Namespace) -> list[ChosenDataset]:
    """Open the data sets of --dataset, or that of --images and --panoptic.

    The words for those of --dataset are by default those of the vocabulary that is shipped for each.

    Raises:
        FisaError: Something is missing, given twice or does not fit.
    """
    names: list[str] = options.dataset or []
    for option in ('root', 'split', 'semantic') if not names else ('images', 'panoptic'):
        if getattr(options, option):
            raise DataError(f'--{option} {"cannot be given with" if names else "needs"} --dataset')
    if not names:
        if not options.images or not options.panoptic:
            raise DataError('give --dataset and --root, or --images and --panoptic')
        return [ChosenDataset(options.panoptic.stem, None, *open_categories(options))]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise DataError(f'--dataset is given twice: {", ".join(twice)}')
    roots = _roots(names, options.root or [])
    split = options.split or SPLITS[-1]
    chosen = []
    for name in names:
        dataset = open_dataset(name, roots[name], split, semantic=options.semantic)
        words = options.vocabulary if options.vocabulary is not None else vocabulary_of(name)
        chosen.append(ChosenDataset(name, split, dataset, _categories(dataset, words, options)))
    return chosen


def _add_name_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        '--dataset',
        action='append',
        choices=DATASETS,
        metavar='NAME',
        help=f'a published data set in its own layout, instead of --images and --panoptic: {", ".join(DATASETS)}; may '
        'be given several times',
    )
    parser.add_argument(
        '--root',
        action='append',
        metavar='[NAME=]DIR',
        help='folder that holds the data sets; with NAME= that of one of them; may be given several times',
    )
    parser.add_argument('--split', choices=SPLITS, help=f'of --dataset (default: {SPLITS[-1]})')
    parser.add_argument(
        '--semantic',
        action='store_true',
        help='read maps of classes alone where a data set has them besides its instances: mIoU is published for these',
    )


def _roots(names: Sequence[str], texts: Sequence[str]) -> Mapping[str, Path]:
    """Return the folder of each data set."""
    roots: dict[str, Path] = {}
    for text in texts:
        name, _, folder = text.partition('=')
        key, path = (name, folder) if name in DATASETS and folder else ('', text)
        if key and key not in names:
            raise DataError(f'--root {text}: there is no --dataset {key}')
        if key in roots:
            raise DataError(f'--root is given twice{f" for {key}" if key else ""}: {roots[key]} and {path}')
        roots[key] = Path(path).expanduser()
    missing = [name for name in names if name not in roots and '' not in roots]
    if missing:
        raise DataError(f'--root is missing for {", ".join(missing)}: give --root DIR or --root {missing[0]}=DIR')
    return {name: roots[name] if name in roots else roots[''] for name in names}


def _categories(dataset: PanopticDataset, words: str | None, options: argparse.Namespace) -> CategoryMap:
    categories = dataset.categories.values()
    if words is None:
        return CategoryMap.from_names(categories)
    request = VocabularyRequest.parse(words)
    return CategoryMap.from_vocabulary(categories, request, ignore_unmapped=options.ignore_unmapped)
