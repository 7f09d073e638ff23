import cv2
from matplotlib.axes import Axes
import numpy as np
import pytest

from fisa_ros.evaluation.plots import plot_classes, plot_confusion


def row(pq, iou, accuracy):
    return {'pq': pq, 'iou': iou, 'mask_accuracy': accuracy}


@pytest.mark.parametrize('count', [1, 60])
def test_plots_grow_with_the_classes(tmp_path, count):
    names = [f'class {number}' for number in range(count)]
    rng = np.random.default_rng(0)
    plot_classes(tmp_path / 'classes.png', {name: row(*rng.random(3)) for name in names}, 'title')
    plot_confusion(tmp_path / 'confusion.png', rng.integers(0, 9, (count, count + 1)), names, 'title')
    for name in ('classes', 'confusion'):
        picture = cv2.imread(str(tmp_path / f'{name}.png'))
        height = picture.shape[0]
        assert height >= 12 * count
        assert (picture < 128).any()


def test_what_was_never_seen(tmp_path):
    unseen = {'cat': row(None, None, None), 'dog': row(None, 0.5, None)}
    plot_classes(tmp_path / 'classes.png', unseen, 'title')
    plot_classes(tmp_path / 'nothing.png', {'cat': row(None, None, None)}, 'title')
    plot_confusion(tmp_path / 'confusion.png', np.zeros((2, 3), int), ['cat', 'dog'], 'title')
    assert len(list(tmp_path.glob('*.png'))) == 3


def test_the_matrix_has_the_share_of_each_label(tmp_path, monkeypatch):
    drawn = []
    imshow = Axes.imshow
    monkeypatch.setattr(
        Axes, 'imshow', lambda self, data, **options: drawn.append(data) or imshow(self, data, **options)
    )
    # Columns: unlabelled, cat, dog, cow. The dog was never there and nothing got its label.
    confusion = np.array([[10, 30, 0, 0], [0, 0, 0, 0], [0, 5, 0, 15]])
    plot_confusion(tmp_path / 'x.png', confusion, ['cat', 'dog', 'cow'], 'title')
    (shares,) = drawn
    np.testing.assert_allclose(shares, [[0.25, 0.75, 0], [0, 0.25, 0.75]])
