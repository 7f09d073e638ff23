import cv2
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


def test_the_diagonal_is_dark_where_labels_are_right(tmp_path):
    right = np.concatenate([np.zeros((12, 1), int), 50 * np.eye(12, dtype=int)], axis=1)
    wrong = np.concatenate([np.full((12, 1), 50), np.zeros((12, 12), int)], axis=1)
    names = [f'class {number}' for number in range(12)]
    dark = []
    for confusion in (right, wrong):
        plot_confusion(tmp_path / 'x.png', confusion, names, 'title')
        picture = cv2.imread(str(tmp_path / 'x.png'))
        # Dark blue of the cells, not the black of the letters.
        is_blue = (picture[..., 0] > 90) & (picture[..., 2] < 30)
        dark.append(np.flatnonzero(is_blue.sum(axis=0) > 20))
    assert np.ptp(dark[0]) > 2 * np.ptp(dark[1][dark[1] < dark[0].max() * 0.8])
