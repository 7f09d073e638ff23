import numpy as np
import pytest

from fisa_ros.core.colors import class_color, segment_colors
from fisa_ros.core.results import Segment


def segments(*names):
    return [Segment(row, row, name, True, 1.0, 1, (0, 0, 1, 1)) for row, name in enumerate(names, start=1)]


@pytest.mark.parametrize(
    ('name', 'color'), [('sky', (122, 200, 245)), ('chair', (248, 110, 66)), ('zebra', (212, 118, 55))]
)
def test_colors_stay_the_same(name, color):
    assert class_color(name) == color


def test_spelling_does_not_matter():
    assert class_color('Straße') == class_color('STRASSE')


def test_colors_are_bright_enough_for_dark_letters():
    for number in range(500):
        red, green, blue = class_color(f'word {number}')
        assert 0.2126 * red + 0.7152 * green + 0.0722 * blue > 80


def test_most_classes_can_be_told_apart():
    colors = np.array([class_color(f'word {number}') for number in range(20)], float)
    distances = np.linalg.norm(colors[:, None] - colors, axis=-1)[np.triu_indices(20, 1)]
    assert np.mean(distances > 30) > 0.9


def test_the_first_instance_has_the_color_of_its_class():
    colors = segment_colors(segments('chair', 'cat', 'chair', 'Chair'))
    assert tuple(colors[0]) == class_color('chair')
    assert tuple(colors[1]) == class_color('cat')
    assert len({tuple(color) for color in colors}) == 4


def test_many_instances_and_none():
    assert segment_colors(segments(*['chair'] * 100)).shape == (100, 3)
    assert segment_colors([]).shape == (0, 3)
