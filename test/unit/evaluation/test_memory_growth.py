import numpy as np
import pytest

from fisa_ros.evaluation.memory_growth import fit_growth


def samples(minutes: float, percent_per_hour: float, noise_mb: float = 0.0) -> list[tuple[float, float]]:
    times_s = np.arange(0.0, minutes * 60.0, 2.0)
    memory_mb = 500.0 * (1.0 + percent_per_hour / 100.0 * times_s / 3600.0)
    memory_mb += np.random.default_rng(1).normal(0.0, noise_mb, len(times_s))
    return list(zip(times_s.tolist(), memory_mb.tolist(), strict=True))


@pytest.mark.parametrize('percent_per_hour', [0.0, 10.0, -4.0])
def test_a_slope_is_found_in_noise(percent_per_hour) -> None:
    growth = fit_growth(samples(30.0, percent_per_hour, noise_mb=2.0))
    expected = 100.0 * percent_per_hour * growth.span_s / 3600.0 / (100.0 + percent_per_hour / 60.0)
    assert growth.percent == pytest.approx(expected, abs=0.1)


def test_the_first_minute_and_outliers_do_not_count() -> None:
    changed = [(t, m - 300.0 if t < 60.0 else m) for t, m in samples(10.0, 0.0)]
    changed[100] = (changed[100][0], 5000.0)
    changed[-1] = (changed[-1][0], 5000.0)
    assert fit_growth(changed).percent == pytest.approx(0.0, abs=0.01)


def test_a_step_is_growth() -> None:
    grown = fit_growth([(t, m + 50.0 * (t > 300.0)) for t, m in samples(10.0, 0.0)])
    assert grown.percent > 5.0


@pytest.mark.parametrize('given', [[], samples(0.5, 0.0), samples(1.9, 0.0)])
def test_too_little_time_says_nothing(given) -> None:
    assert fit_growth(given) is None
