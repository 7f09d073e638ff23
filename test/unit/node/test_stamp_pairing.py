from builtin_interfaces.msg import Time
from hypothesis import given
from hypothesis import strategies as st
import pytest

from fisa_ros.node.stamp_pairing import StampPairing

TOLERANCE_S = 0.02


def at(seconds: float) -> Time:
    return Time(sec=int(seconds), nanosec=round((seconds - int(seconds)) * 1e9))


@pytest.fixture
def pairing() -> StampPairing[str, str]:
    return StampPairing(TOLERANCE_S)


def taken(pairing) -> list[tuple[str, str]]:
    return [(pair.result, pair.depth) for pair in pairing.take_pairs()]


def test_depth_that_came_before_is_found(pairing) -> None:
    for number in range(5):
        assert not pairing.add_depth(at(1 + number / 10), f'd{number}')
    pairing.add_result(at(1.2), 'r')
    assert taken(pairing) == [('r', 'd2')]
    assert taken(pairing) == []


def test_a_result_waits_for_the_depth_of_its_moment(pairing) -> None:
    pairing.add_depth(at(0.99), 'before')
    pairing.add_result(at(1.0), 'r')
    assert taken(pairing) == []
    assert pairing.add_depth(at(1.0), 'd')
    assert taken(pairing) == [('r', 'd')]
    assert pairing.unpaired == 0


def test_the_nearest_depth_is_taken_once_no_better_one_can_come(pairing) -> None:
    pairing.add_depth(at(0.995), 'near')
    pairing.add_result(at(1.0), 'r')
    pairing.add_depth(at(1.011), 'far')
    assert taken(pairing) == [('r', 'near')]


def test_a_result_without_a_depth_in_reach_is_given_up(pairing) -> None:
    pairing.add_result(at(1.0), 'r')
    pairing.add_depth(at(1.03), 'd')
    assert taken(pairing) == []
    assert pairing.unpaired == 1
    assert pairing.nearest_s == pytest.approx(0.03)


def test_results_do_not_pile_up_without_depth(pairing) -> None:
    for number in range(10):
        pairing.add_result(at(1 + number), f'r{number}')
    assert pairing.unpaired == 7
    assert pairing.nearest_s is None
    pairing.add_depth(at(10), 'd')
    assert taken(pairing) == [('r9', 'd')]


@pytest.mark.parametrize('late', ['result', 'depth'])
@pytest.mark.parametrize('delay', [0, 6, 20, 45])
def test_whatever_is_late_up_to_a_second_and_a_half_is_paired(pairing, late, delay) -> None:
    pairs = []
    for number in range(150):
        now, then = number / 30, (number - delay) / 30
        if late == 'result':
            pairing.add_depth(at(1 + now), number)
            if number >= delay:
                pairing.add_result(at(1 + then), number - delay)
        else:
            pairing.add_result(at(1 + now), number)
            if number >= delay:
                pairing.add_depth(at(1 + then), number - delay)
        pairs += taken(pairing)
    if late == 'depth' and delay > 32:
        # So many images at once are too much to keep.
        assert pairs == []
    else:
        assert pairs == [(number, number) for number in range(150 - delay)]


def test_of_depth_without_stamps_the_newest_is_taken(pairing) -> None:
    for number in range(5):
        pairing.add_depth(Time(), f'd{number}')
    pairing.add_result(Time(), 'r')
    assert taken(pairing) == [('r', 'd4')]


def test_a_clock_that_jumps_back_leaves_nothing_stuck(pairing) -> None:
    pairing.add_depth(at(100.0), 'old')
    pairing.add_result(at(100.0), 'r-old')
    assert taken(pairing) == [('r-old', 'old')]
    pairing.add_result(at(100.1), 'lost')
    pairing.add_result(at(1.0), 'r')
    pairing.add_depth(at(1.0), 'd')
    assert taken(pairing) == [('r', 'd')]
    assert pairing.unpaired == 1


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 60)), max_size=60))
def test_pairs_are_within_reach_and_no_result_is_used_twice(events) -> None:
    pairing: StampPairing[tuple[int, int], int] = StampPairing(TOLERANCE_S)
    seen = []
    results = 0
    for is_depth, centiseconds in events:
        if is_depth:
            pairing.add_depth(at(centiseconds / 100), centiseconds)
        else:
            pairing.add_result(at(centiseconds / 100), (results, centiseconds))
            results += 1
        seen += pairing.take_pairs()
    assert all(abs(pair.result[1] - pair.depth) <= 2 for pair in seen)
    numbers = [pair.result[0] for pair in seen]
    assert len(set(numbers)) == len(numbers)
    assert len(seen) + pairing.unpaired <= results
