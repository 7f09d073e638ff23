import pytest

from fisa_ros.training.memory_errors import images_beside_steps
from fisa_ros.training.settings import Phase, RunSettings


@pytest.mark.parametrize(
    ('batch_sizes', 'accumulate', 'world_size', 'expected'),
    [((32, 64), 1, 1, 8), ((32, 16), 4, 1, 4), ((32, 16), 2, 4, 2), ((32,), 32, 1, 1), ((4,), 1, 1, 4), ((), 1, 1, 8)],
)
def test_no_more_images_are_taken_beside_steps_than_in_them(batch_sizes, accumulate, world_size, expected):
    phases = [Phase(64, batch_size, 10, 1e-3) for batch_size in batch_sizes]
    assert images_beside_steps(phases, RunSettings(accumulate=accumulate), world_size) == expected
