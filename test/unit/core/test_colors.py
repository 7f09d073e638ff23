from itertools import combinations

import numpy as np
import pytest

from fisa_ros.core.colors import class_color, segment_colors
from fisa_ros.core.results import Segment
from fisa_ros.core.vocabulary import VocabularyRequest


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


def to_oklab(color):
    """Bjorn Ottosson's Oklab, from sRGB of 0..255."""
    encoded = np.array(color) / 255
    linear = np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)
    to_cones = [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ]
    to_lab = [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ]
    return to_lab @ np.cbrt(to_cones @ linear)


def test_the_words_of_the_indoor_vocabulary_can_be_told_apart():
    names = VocabularyRequest.parse('indoor').classes
    colors = {name: to_oklab(class_color(name.split(',')[0])) for name in names}
    distances = {pair: np.linalg.norm(colors[pair[0]] - colors[pair[1]]) for pair in combinations(names, 2)}
    assert min(distances.values()) > 0.1, min(distances, key=distances.__getitem__)


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
