"""Pictures of how each class fares, as PNG."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
import numpy as np
from numpy.typing import NDArray

UNLABELED = 'unlabelled'
MAX_CLASSES = 150
"""Of more classes, only some are drawn."""
_PANELS = {
    'pq': ('PQ', 'C0'),
    'iou': ('IoU of segments', 'C2'),
    'iou_semantic': ('IoU of best classes', 'C4'),
    'mask_accuracy': ('accuracy on true masks', 'C1'),
}
_BEST = 40
_DPI = 110
_ROW_INCHES = 0.22
_CELL_INCHES = 0.17
_CELLS_WITH_NUMBERS = 40
_SHOWN_SHARE = 0.01
_TOP_CONFUSIONS = 40
_MIN_CLASS_SHARE = 1e-4


def plot_classes(path: Path, per_class: Mapping[str, Mapping[str, Any]], title: str) -> None:
    """Draw PQ, IoU and accuracy on true masks of each class, the best class on top.

    Classes never seen are left out, and so are metrics that no class has. Of more than `MAX_CLASSES` classes, the best
    and the worst are drawn.

    Args:
        path: PNG to write.
        per_class: By name: `pq`, `iou`, `iou_semantic` and `mask_accuracy` in [0, 1], None where there is nothing to
            measure.
        title: Text above the bars.
    """
    keys = [key for key in _PANELS if any(row[key] is not None for row in per_class.values())] or list(_PANELS)[:1]
    names = [name for name, row in per_class.items() if any(row[key] is not None for key in keys)]
    names.sort(key=lambda name: tuple(per_class[name][key] or 0.0 for key in keys))
    means = {key: [value for name in names if (value := per_class[name][key]) is not None] for key in keys}
    shown = names
    if len(names) > MAX_CLASSES:
        shown = [*names[:_BEST], *names[-_BEST:]]
        title += f'\n{_BEST} best and {_BEST} worst of {len(names)} classes'
    figure = Figure(figsize=(3 + 3.4 * len(keys), 1.4 + _ROW_INCHES * max(len(shown), 4)), layout='constrained')
    axes: Sequence[Axes] = figure.subplots(1, len(keys), sharey=True, squeeze=False)[0]
    for axis, key in zip(axes, keys, strict=True):
        axis_label, color = _PANELS[key]
        values = [per_class[name][key] for name in shown]
        axis.barh(range(len(shown)), [value or 0.0 for value in values], color=color)
        for row, value in enumerate(values):
            label = axis.text((value or 0.0) + 0.01, row, '-' if value is None else f'{value:.2f}', va='center')
            label.set(fontsize=7, in_layout=False)
        mean = f', mean {np.mean(means[key]):.3f}' if means[key] else ''
        axis.set(xlim=(0, 1.1), xlabel=axis_label + mean, ylim=(-0.6, len(shown) - 0.4))
        axis.grid(axis='x', alpha=0.3)
        if len(shown) < len(names):
            axis.axhline(_BEST - 0.5, color='black', linestyle='--', linewidth=1)
    axes[0].set_yticks(range(len(shown)), shown, fontsize=8)
    figure.suptitle(title)
    figure.savefig(path, dpi=_DPI)


def plot_confusion(path: Path, confusion: NDArray[np.integer], names: Sequence[str], title: str) -> None:
    """Draw which share of the pixels of each true class got which label; classes without pixels are left out.

    Of more than `MAX_CLASSES` classes, the confusions that matter most are listed instead.

    Args:
        path: PNG to write.
        confusion: `(C, C + 1)` pixels by true class and prediction, the first column unlabelled.
        names: Of the C classes.
        title: Text above the matrix.
    """
    seen = np.flatnonzero(confusion.sum(axis=1) + confusion[:, 1:].sum(axis=0))
    if not len(seen):
        seen = np.arange(len(names))
    if len(seen) > MAX_CLASSES:
        _plot_top_confusions(path, confusion, names, f'{title}\nthe largest confusions of {len(seen)} classes')
        return
    counts = confusion[np.ix_(seen, [0, *(seen + 1)])].astype(np.float64)
    total = counts.sum(axis=1, keepdims=True)
    shares = np.divide(counts, total, out=np.zeros_like(counts), where=total > 0)
    shown = [names[index] for index in seen.tolist()]
    has_numbers = len(seen) <= _CELLS_WITH_NUMBERS
    edge = 3.5 + max(len(seen), 8) * (2 * _CELL_INCHES if has_numbers else _CELL_INCHES)
    figure = Figure(figsize=(edge + 1, edge), layout='constrained')
    axis = figure.subplots()
    image = axis.imshow(shares, cmap='Blues', vmin=0, vmax=1, interpolation='nearest')
    axis.set_xticks(range(len(seen) + 1), [UNLABELED, *shown], rotation=90, fontsize=8)
    axis.set_yticks(range(len(seen)), shown, fontsize=8)
    axis.set(xlabel='label', ylabel='true class')
    axis.set_title(title)
    # Collections of lines: a grid of minor ticks takes longer than all the rest.
    between = np.arange(len(seen)) + 0.5
    axis.vlines(between, -0.5, len(seen) - 0.5, colors='0.9', linewidths=0.5)
    axis.hlines(between[:-1], -0.5, len(seen) + 0.5, colors='0.9', linewidths=0.5)
    if has_numbers:
        for row, column in zip(*np.nonzero(shares >= _SHOWN_SHARE), strict=True):
            share = shares[row, column]
            color = 'white' if share > 0.5 else 'black'
            label = axis.text(column, row, f'{100 * share:.0f}', ha='center', va='center', color=color)
            label.set(fontsize=7, in_layout=False)
    figure.colorbar(image, ax=axis, shrink=0.5, label='share of the pixels of the true class')
    figure.savefig(path, dpi=_DPI)


def _plot_top_confusions(path: Path, confusion: NDArray[np.integer], names: Sequence[str], title: str) -> None:
    wrong = confusion.astype(np.float64)
    rows = np.arange(len(names))
    wrong[rows, rows + 1] = 0
    of_class = confusion.sum(axis=1, keepdims=True).astype(np.float64)
    # A class of a few pixels is easily wrong as a whole.
    is_large = of_class >= _MIN_CLASS_SHARE * of_class.sum()
    panels = {
        'share of all pixels with a wrong label or none (%)': 100 * wrong / max(wrong.sum(), 1),
        f'share of the pixels of the true class (%), of\nclasses with at least {_MIN_CLASS_SHARE:.2%} of all pixels':
            100 * np.where(is_large, wrong / np.maximum(of_class, 1), 0),
    }  # fmt: skip
    figure = Figure(figsize=(16, 1.8 + _ROW_INCHES * _TOP_CONFUSIONS), layout='constrained')
    axes: Sequence[Axes] = figure.subplots(1, len(panels))
    for axis, (label, shares), color in zip(axes, panels.items(), ('C3', 'C5'), strict=True):
        top = np.argsort(-shares, axis=None, kind='stable')[:_TOP_CONFUSIONS]
        pairs = [(int(row), int(column)) for row, column in zip(*np.unravel_index(top, shares.shape), strict=True)]
        pairs = [pair for pair in pairs if shares[pair] > 0][::-1]
        axis.barh(range(len(pairs)), [shares[pair] for pair in pairs], color=color)
        texts = [f'{names[row]} → {names[column - 1] if column else UNLABELED}' for row, column in pairs]
        axis.set_yticks(range(len(pairs)), texts, fontsize=8)
        for place, pair in enumerate(pairs):
            axis.text(shares[pair], place, f' {shares[pair]:.1f}', va='center', fontsize=7)
        axis.set(xlabel=label, ylim=(-0.6, max(len(pairs), 1) - 0.4))
        axis.margins(x=0.12)
        axis.grid(axis='x', alpha=0.3)
    figure.suptitle(f'{title} (true class → label)')
    figure.savefig(path, dpi=_DPI)
