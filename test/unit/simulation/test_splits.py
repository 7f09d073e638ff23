import numpy as np
import pytest

from fisa_ros.simulation.splits import FIRST_SEED, SPLITS, SplitGenerator, split_of

SLICES = 40
HELD_OUT = {'validation': {3}, 'test': {7}}


@pytest.mark.parametrize('split', SPLITS)
def test_numbers_come_from_slices_of_the_split_all_over_the_range(split):
    drawn = SplitGenerator(5, split).uniform(0, 1, 10000)
    phases = set((np.floor(drawn * SLICES).astype(int) % 10).tolist())
    assert phases == HELD_OUT.get(split, set(range(10)) - {3, 7})
    slices = set(np.floor(drawn * SLICES).astype(int).tolist())
    assert slices == {number for number in range(SLICES) if number % 10 in phases}
    assert 0 <= drawn.min() < drawn.max() < 1
    assert np.ptp(drawn) > 0.77


@pytest.mark.parametrize(
    ('seed', 'split'),
    [
        (0, 'test'),
        (999_999, 'test'),
        (1_000_000, 'train'),
        (1_999_999, 'train'),
        (2_000_000, 'validation'),
        (2_999_999, 'validation'),
        (3_000_000, 'test'),
        (3_999_999, 'test'),
        (4_000_000, 'test'),
    ],
)
def test_every_seed_has_its_split(seed, split):
    assert split_of(seed) == split
    assert (seed in FIRST_SEED.values()) is (seed % 1_000_000 == 0 and 0 < seed < 4_000_000)


def test_one_number_is_a_float_as_in_numpy():
    drawn = [SplitGenerator(seed, 'test').uniform(-2, 6) for seed in range(200)]
    assert all(type(value) is float for value in drawn)
    positions = (np.array(drawn) + 2) / 8 * SLICES
    assert set((np.floor(positions).astype(int) % 10).tolist()) == {7}
    assert 0 <= SplitGenerator(0, 'test').uniform() < 1


@pytest.mark.parametrize('size', [3, (), (4, 5)])
def test_sizes_are_those_of_numpy(size):
    drawn = SplitGenerator(1, 'train').uniform(2.0, 3.0, size)
    assert np.shape(drawn) == np.empty(size).shape
    assert ((np.asarray(drawn) >= 2) & (np.asarray(drawn) < 3)).all()


def test_bounds_may_be_arrays():
    low, high = np.array([[0.0], [10.0]]), np.array([1.0, 2.0, 3.0])
    drawn = SplitGenerator(2, 'validation').uniform(low, high)
    assert drawn.shape == (2, 3)
    positions = (drawn - low) / (high - low)
    assert set((np.floor(positions * SLICES).astype(int) % 10).ravel().tolist()) == {3}
    assert len(set(positions.ravel().tolist())) == 6
    assert SplitGenerator(2, 'validation').uniform(low, high, (4, 2, 3)).shape == (4, 2, 3)


def test_a_seed_gives_the_same_numbers_again():
    first, second = (SplitGenerator(9, 'train').uniform(0, 1, 5) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert not np.array_equal(first, SplitGenerator(10, 'train').uniform(0, 1, 5))
