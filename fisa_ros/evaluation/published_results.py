"""Results that others published, to be shown beside those measured here."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import yaml

from fisa_ros.core.resources import share_dir

PUBLISHED_METRICS = {'pq': 'pq', 'ap': 'ap_instances', 'miou': 'miou_semantic'}
"""What `DatasetScorer.summary` calls the metrics of published tables."""
PUBLISHED_SPLIT = 'val'
"""The split that published tables are about."""


@dataclass(frozen=True, slots=True)
class PublishedResult:
    """One row of a published table.

    Attributes:
        method: Name of the model.
        source: Where the numbers stand.
        scores: By data set: `pq`, `ap` and `miou` as fractions, as far as they are reported.
    """

    method: str
    source: str
    scores: Mapping[str, Mapping[str, float]]


@dataclass(frozen=True, slots=True)
class PublishedResults:
    """The published rows that are shipped.

    Attributes:
        images: By data set, the images that the rows are about: all of the split `val`.
        rows: The results.
    """

    images: Mapping[str, int]
    rows: tuple[PublishedResult, ...]

    @classmethod
    def shipped(cls) -> Self:
        """Read `config/published_results.yaml`, which has percent."""
        path = share_dir() / 'config' / 'published_results.yaml'
        document: dict[str, Any] = yaml.safe_load(path.read_text(encoding='utf-8'))
        rows = (
            PublishedResult(
                entry['method'],
                entry['source'],
                {
                    dataset: {metric: round(value / 100, 4) for metric, value in scores.items()}
                    for dataset, scores in entry['percent'].items()
                },
            )
            for entry in document['results']
        )
        return cls(document['images'], tuple(rows))

    def of(self, dataset: str) -> list[PublishedResult]:
        """Return the rows that have a number for a data set."""
        return [row for row in self.rows if dataset in row.scores]
