import cv2
from matplotlib.axes import Axes
import numpy as np
import pytest

from fisa_ros.evaluation.plots import plot_classes, plot_confusion


def row(pq, iou, accuracy, iou_semantic=None):
    return {'pq': pq, 'iou': iou, 'iou_semantic': iou_semantic, 'mask_accuracy': accuracy}


@pytest.fixture
def drawn_bars(monkeypatch):
    """Names and values of the bars of each panel that is drawn, from below."""
    panels = []
    barh, set_yticks = Axes.barh, Axes.set_yticks
    monkeypatch.setattr(
        Axes, 'barh', lambda self, y, values, **style: panels.append([list(values)]) or barh(self, y, values, **style)
    )
    monkeypatch.setattr(
        Axes, 'set_yticks',
        lambda self, ticks, texts, **style: panels[-1].append(list(texts)) or set_yticks(self, ticks, texts, **style),
    )  # fmt: skip
    return panels


def test_of_very_many_classes_the_best_and_the_worst_are_drawn(tmp_path, drawn_bars):
    ious = np.random.default_rng(1).random(847)
    per_class = {f'class {number}': row(None, iou, None) for number, iou in enumerate(ious)}
    plot_classes(tmp_path / 'classes.png', per_class, 'title')
    ((values, names),) = drawn_bars
    np.testing.assert_array_equal(values, [*np.sort(ious)[:40], *np.sort(ious)[-40:]])
    assert names[-1] == f'class {ious.argmax()}'
    assert cv2.imread(str(tmp_path / 'classes.png')).shape[0] < 3000


def test_of_very_many_classes_the_largest_confusions_are_listed(tmp_path, drawn_bars):
    names = [f'class {number}' for number in range(847)]
    confusion = np.zeros((847, 848), np.int64)
    confusion[np.arange(847), np.arange(847) + 1] = 100
    # Columns are one to the right of the class, the first is unlabelled.
    confusion[3, 6], confusion[5, 0], confusion[7, 3] = 300, 60, 40
    plot_confusion(tmp_path / 'confusion.png', confusion, names, 'title')
    (shares, pairs), (class_shares, class_pairs) = drawn_bars
    assert pairs == ['class 7 → class 2', 'class 5 → unlabelled', 'class 3 → class 5']
    assert shares == pytest.approx([10, 15, 75])
    assert class_pairs == pairs
    assert class_shares == pytest.approx([100 * 40 / 140, 100 * 60 / 160, 75])
    assert cv2.imread(str(tmp_path / 'confusion.png')).shape[0] < 3000


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
