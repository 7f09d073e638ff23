import pytest

from fisa_ros.datasets.registry import DATASETS
from fisa_ros.evaluation.published_results import PUBLISHED_METRICS, PublishedResults


def test_what_is_shipped_is_of_data_sets_that_can_be_opened():
    results = PublishedResults.shipped()
    assert set(results.images) == set(DATASETS)
    assert len({row.method for row in results.rows}) == len(results.rows) == 6
    for row in results.rows:
        assert row.source.startswith('https://')
        assert set(row.scores) <= set(DATASETS)
        for scores in row.scores.values():
            assert scores
            assert set(scores) <= set(PUBLISHED_METRICS)
            assert all(0.1 < score < 0.9 for score in scores.values())


def test_percent_becomes_fractions():
    rows = {row.method: row for row in PublishedResults.shipped().of('ade20k-150')}
    assert rows['FC-CLIP L'].scores['ade20k-150'] == pytest.approx({'pq': 0.268, 'ap': 0.168, 'miou': 0.341})
    assert rows['EOV-Seg L'].scores['ade20k-150']['ap'] == pytest.approx(0.137)


def test_rows_of_other_data_sets_are_left_out():
    methods = {row.method for row in PublishedResults.shipped().of('pascal-context-459')}
    assert methods == {'FC-CLIP L', 'FrozenSeg L', 'MAFT+ L', 'MAFT+ L with MaskCLIP++'}
