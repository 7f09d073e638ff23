from dataclasses import asdict, replace

import numpy as np
import pytest

from fisa_ros.core.placement import Resize
from fisa_ros.core.thresholds import Thresholds


@pytest.mark.parametrize('name', ['score', 'mask', 'overlap', 'objectness_trust'])
@pytest.mark.parametrize('value', [-0.01, 1.01, float('nan')])
def test_refuses_what_is_no_fraction(name, value):
    values = {'score': 0.0, 'mask': 0.5, 'overlap': 1.0} | {name: value}
    with pytest.raises(ValueError, match=rf'threshold {name} must be in \[0, 1\], got {value}'):
        Thresholds(**values)


@pytest.mark.parametrize('shown_hw', [(0.0, 1.0), (1.0, 1.01), (float('nan'), 1.0)])
def test_refuses_what_is_no_share_of_an_input(shown_hw):
    with pytest.raises(ValueError, match='shown_hw must be above 0 and at most 1'):
        Thresholds(0.0, 0.5, 1.0).placed(shown_hw)


def test_an_image_takes_a_share_of_the_input_and_users_set_none():
    whole = Thresholds(0.25, 0.5, 0.75)
    placed = whole.placed(Resize('pad').place((30, 80), (64, 64)).shown_hw)
    assert placed.shown_hw == (24 / 64, 1.0)
    np.testing.assert_array_equal(placed.array(), np.array([0.25, 0.5, 0.75, 0.5, 0.375, 1.0], np.float32))
    np.testing.assert_array_equal(whole.array()[4:], [1.0, 1.0])
    assert placed.placed((1.0, 1.0)) == replace(placed, shown_hw=(1.0, 1.0))
    assert set(asdict(whole)) == {'score', 'mask', 'overlap', 'objectness_trust'}
    with pytest.raises(ValueError, match='threshold score must be in'):
        replace(placed, score=2.0)
