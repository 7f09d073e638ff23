import numpy as np
import pytest

from fisa_ros.evaluation.timing_statistics import median_of_ratios, ratio_of_medians, summarize_times


def test_percentiles_of_known_numbers():
    summary = summarize_times(list(range(101)))
    assert summary == {'n': 101, 'mean': 50.0, 'p50': 50.0, 'p95': 95.0, 'p99': 99.0}
    assert summarize_times([3.0]) == {'n': 1, 'mean': 3.0, 'p50': 3.0, 'p95': 3.0, 'p99': 3.0}


@pytest.mark.parametrize('compare', [median_of_ratios, ratio_of_medians])
def test_an_exact_factor_has_no_spread(compare):
    base = [1.0, 2.0, 4.0, 8.0, 16.0]
    ratio = compare([3 * value for value in base], base)
    assert (ratio.value, ratio.low, ratio.high) == pytest.approx((3.0, 3.0, 3.0))


@pytest.mark.parametrize(
    ('compare', 'expected'),
    [(median_of_ratios, 2.0), (ratio_of_medians, 2.5), (lambda *times: ratio_of_medians(*times, is_paired=False), 2.5)],
)
def test_medians_of_few_numbers(compare, expected):
    ratio = compare([4.0, 5.0, 9.0], [2.0, 5.0, 1.0])
    assert ratio.value == expected
    assert ratio.low <= expected <= ratio.high


def test_the_interval_holds_the_truth_and_shrinks_with_the_rounds():
    rng = np.random.default_rng(3)
    widths = []
    for count in (20, 500):
        drift = rng.uniform(1.0, 3.0, count)
        base, times = drift * rng.normal(10, 0.5, count), 1.2 * drift * rng.normal(10, 0.5, count)
        paired = median_of_ratios(times, base)
        assert paired.low <= 1.2 <= paired.high
        apart = ratio_of_medians(times, base, is_paired=False)
        # Rounds cancel what changes on the machine over time.
        assert paired.high - paired.low < apart.high - apart.low
        widths.append(paired.high - paired.low)
    assert widths[1] < widths[0] / 2


def test_the_same_times_give_the_same_interval():
    times, base = np.random.default_rng(0).uniform(1, 2, (2, 30))
    assert ratio_of_medians(times, base) == ratio_of_medians(times, base)
