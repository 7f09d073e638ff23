"""What training calls the categories of a data set, and which of them it may name."""

from pathlib import Path

from fisa_ros.core.class_names import parse_names
from fisa_ros.core.errors import DataError
from fisa_ros.core.resources import share_dir
from fisa_ros.core.vocabulary_file import read_entries
from fisa_ros.datasets.class_split import read_class_split
from fisa_ros.datasets.coco_panoptic import PanopticDataset
from fisa_ros.datasets.registry import vocabulary_of
from fisa_ros.datasets.synonyms import read_synonyms


def novel_categories(class_split: str, dataset: PanopticDataset) -> list[int]:
    """Return the ids of the novel categories that a file of a class split names; none without a file.

    Raises:
        DataError: The file is no class split, or it and the data set do not name the same categories.
    """
    if not class_split:
        return []
    path = _vocabulary_file(class_split)
    split = read_class_split(path)
    known = {category.name: category.id for category in dataset.categories.values()}
    differing = sorted({*split.base, *split.novel} ^ set(known))
    if differing:
        raise DataError(f'{path} and {dataset.path} must name the same categories; see {differing}')
    return [known[name] for name in split.novel]


def names_of_categories(synonyms: str, dataset: PanopticDataset) -> dict[int, list[str]]:
    """Return the names of each category: its own, then the training synonyms of a file, none without a file.

    Raises:
        DataError: The file cannot be read or lacks a category.
    """
    categories = dataset.categories.values()
    if not synonyms:
        return {category.id: [category.name] for category in categories}
    words = read_synonyms(_vocabulary_file(synonyms))
    if missing := [category.name for category in categories if category.name not in words]:
        raise DataError(f'{synonyms}: no training synonyms for {", ".join(map(repr, missing))}')
    return {category.id: [category.name, *words[category.name].training] for category in categories}


def published_names(name: str, dataset: PanopticDataset) -> dict[int, list[str]]:
    """Return the names of each category of a published data set, as its vocabulary has them.

    Args:
        name: Of the data set, one of `registry.DATASETS`.
        dataset: The data set, as `registry.open_dataset` returns it.
    """
    entries = read_entries(_vocabulary_file(vocabulary_of(name)))
    pairs = zip(dataset.categories, entries, strict=True)
    return {category: list(parse_names(entry['text'])) for category, entry in pairs}


def _vocabulary_file(name_or_path: str) -> Path:
    if name_or_path.endswith('.yaml'):
        return Path(name_or_path)
    return share_dir() / 'config' / 'vocabularies' / f'{name_or_path}.yaml'
