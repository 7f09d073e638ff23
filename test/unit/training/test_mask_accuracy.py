import pytest

from fisa_ros.training.mask_accuracy import images_at_once
from fisa_ros.training.settings import Phase, RunSettings


@pytest.mark.parametrize(
    ('batch_sizes', 'accumulate', 'expected'), [((32, 64), 1, 8), ((32, 16), 4, 4), ((32,), 32, 1), ((4,), 1, 4)]
)
def test_a_validation_takes_no_more_images_at_once_than_a_step(batch_sizes, accumulate, expected):
    phases = [Phase(64, batch_size, 10, 1e-3) for batch_size in batch_sizes]
    assert images_at_once(phases, RunSettings(accumulate=accumulate)) == expected
