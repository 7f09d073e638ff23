import numpy as np
import pytest

from fisa_ros.evaluation.memory_growth import measure_growth


def samples(minutes: float, percent_per_hour: float, noise_mb: float = 0.0) -> list[tuple[float, float]]:
    times_s = np.arange(0.0, minutes * 60.0, 2.0)
    memory_mb = 500.0 * (1.0 + percent_per_hour / 100.0 * times_s / 3600.0)
    memory_mb += np.random.default_rng(1).normal(0.0, noise_mb, len(times_s))
    return list(zip(times_s.tolist(), memory_mb.tolist(), strict=True))


@pytest.mark.parametrize(('percent_per_hour', 'percent'), [(0.0, 0.0), (10.0, 4.81), (-4.0, -1.93)])
def test_a_slope_is_found_in_noise(percent_per_hour, percent) -> None:
    assert measure_growth(samples(30.0, percent_per_hour, noise_mb=1.0)).percent == pytest.approx(percent, abs=0.2)


def test_the_first_minute_and_outliers_do_not_count() -> None:
    changed = [(t, m - 300.0 if t < 60.0 else m) for t, m in samples(10.0, 0.0)]
    changed[100] = (changed[100][0], 5000.0)
    changed[-1] = (changed[-1][0], 5000.0)
    assert measure_growth(changed).percent == pytest.approx(0.0, abs=0.01)


@pytest.mark.parametrize('step_s', [150.0, 300.0, 500.0])
def test_a_step_is_growth_whenever_it_comes(step_s) -> None:
    grown = measure_growth([(t, m + 50.0 * (t > step_s)) for t, m in samples(10.0, 0.0)])
    assert 10.0 <= grown.percent < 12.0


@pytest.mark.parametrize('given', [[], samples(0.5, 0.0), samples(1.9, 0.0)])
def test_too_little_time_says_nothing(given) -> None:
    assert measure_growth(given) is None
