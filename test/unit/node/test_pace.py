import pytest

from fisa_ros.node.pace import Pace, RecordedPace


class Clock:
    now_s = 50.0

    def __call__(self):
        return self.now_s


@pytest.fixture
def clock():
    return Clock()


def test_ticks_lie_on_a_grid_however_late_they_are_taken(clock):
    pace = Pace(10.0, clock)
    assert pace.wait_s() == 0.0
    assert pace.advance() == 0.0
    for tick, late_s in enumerate((0.0, 0.03, 0.09, 0.0), start=1):
        assert pace.wait_s() > 0.0
        clock.now_s = 50.0 + tick * 0.1 + late_s + 1e-9
        assert pace.wait_s() <= 0.0
        assert pace.advance() == pytest.approx(0.1)
    assert pace.skipped == 0
    assert pace.wait_s() == pytest.approx(0.1)


def test_missed_ticks_are_skipped_counted_and_part_of_the_step(clock):
    pace = Pace(10.0, clock)
    pace.advance()
    clock.now_s = 50.35
    assert pace.advance() == pytest.approx(0.3)
    assert pace.skipped == 2
    assert pace.wait_s() == pytest.approx(0.05)


def test_time_before_the_first_tick_is_not_missed(clock):
    pace = Pace(10.0, clock)
    clock.now_s = 52.0
    assert pace.advance() == 0.0
    assert pace.skipped == 0


def test_steps_add_up_to_the_time_that_passed(clock):
    pace = Pace(30.0, clock)
    total_s = pace.advance()
    for late_s in (0.01, 0.2, 0.0, 0.05, 1.3, 0.0, 0.02):
        clock.now_s += max(0.0, pace.wait_s()) + late_s
        total_s += pace.advance()
    assert total_s == pytest.approx(clock.now_s - 50.0, abs=pace.period_s)


def test_recorded_moments_are_due_at_their_distances(clock):
    pace = RecordedPace(clock)
    pace.start(1_000_000_000_000, in_s=0.5)
    assert pace.wait_s(1_000_000_000_000) == pytest.approx(0.5)
    clock.now_s += 0.75
    assert pace.now_ns() == pytest.approx(1_000_250_000_000, abs=1000)
    assert pace.wait_s(1_000_100_000_000) == pytest.approx(-0.15)
    # What was late does not delay what follows.
    assert pace.wait_s(1_001_000_000_000) == pytest.approx(0.75)
