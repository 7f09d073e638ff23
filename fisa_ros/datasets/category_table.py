"""The categories of published data sets, as they are shipped in `config/datasets/`."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from fisa_ros.core.class_names import name_key
from fisa_ros.core.errors import DataError
from fisa_ros.core.resources import share_dir
from fisa_ros.datasets.coco_panoptic import DatasetCategory, read_category, read_json


@dataclass(frozen=True)
class CategoryTable:
    """The categories of a data set.

    Attributes:
        published: By id, in the order of the data set, with the names that the data set gives them.
        spoken: The same, each with the name that its class has in the vocabulary of the data set.
    """

    published: Mapping[int, DatasetCategory]
    spoken: Mapping[int, DatasetCategory]

    @classmethod
    def shipped(cls, name: str) -> Self:
        """Read the table of a data set that `registry.DATASETS` has."""
        path = share_dir() / 'config' / 'datasets' / f'{name}.json'
        published, spoken = {}, {}
        for entry in read_json(path)['categories']:
            category = read_category(entry)
            published[category.id] = category
            spoken[category.id] = DatasetCategory(category.id, entry.get('spoken', category.name), category.is_thing)
        return cls(published, spoken)

    def check(self, categories: Iterable[DatasetCategory], used_ids: Collection[int], path: Path) -> None:
        """Check that a file means the same categories; it may lack some, and list others that no segment has.

        Args:
            categories: Of the file.
            used_ids: Ids of the categories that its segments have.
            path: The file, for the text of errors.

        Raises:
            DataError: A segment has another category, or one has another name or kind.
        """
        for entry in categories:
            known = self.published.get(entry.id)
            if known is None:
                if entry.id not in used_ids:
                    continue
                raise DataError(
                    f'{path}: category {entry.id}, {entry.name!r}, is none of the {len(self.published)} categories of '
                    f'this data set, whose ids are {min(self.published)}..{max(self.published)}'
                )
            if name_key(known.name.strip()) != name_key(entry.name.strip()):
                raise DataError(f'{path}: category {entry.id} is {entry.name!r}, in this data set it is {known.name!r}')
            if known.is_thing != entry.is_thing:
                kinds = ('stuff', 'a thing')
                raise DataError(
                    f'{path}: category {entry.id}, {entry.name!r}, is {kinds[entry.is_thing]}, in this data set it is '
                    f'{kinds[known.is_thing]}'
                )
