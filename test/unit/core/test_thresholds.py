import pytest

from fisa_ros.core.thresholds import Thresholds


@pytest.mark.parametrize('name', ['score', 'mask', 'overlap', 'objectness_trust'])
@pytest.mark.parametrize('value', [-0.01, 1.01, float('nan')])
def test_refuses_what_is_no_fraction(name, value):
    values = {'score': 0.0, 'mask': 0.5, 'overlap': 1.0} | {name: value}
    with pytest.raises(ValueError, match=rf'threshold {name} must be in \[0, 1\], got {value}'):
        Thresholds(**values)
