"""Pictures of how each class fares, as PNG."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
import numpy as np
from numpy.typing import NDArray

UNLABELED = 'unlabelled'
_DPI = 110
_ROW_INCHES = 0.22
_CELL_INCHES = 0.17
_CELLS_WITH_NUMBERS = 40
_SHOWN_SHARE = 0.01


def plot_classes(path: Path, per_class: Mapping[str, Mapping[str, Any]], title: str) -> None:
    """Draw PQ, IoU and accuracy on true masks of each class, the best class on top; classes never seen are left out.

    Args:
        path: PNG to write.
        per_class: By name: `pq`, `iou` and `mask_accuracy` in [0, 1], None where there is nothing to measure.
        title: Text above the bars.
    """
    panels = {'pq': 'PQ', 'iou': 'IoU', 'mask_accuracy': 'accuracy on true masks'}
    names = [name for name, row in per_class.items() if any(row[key] is not None for key in panels)]
    names.sort(key=lambda name: (per_class[name]['pq'] or 0.0, per_class[name]['iou'] or 0.0))
    figure = Figure(figsize=(13, 1.4 + _ROW_INCHES * max(len(names), 4)), layout='constrained')
    axes: Sequence[Axes] = figure.subplots(1, len(panels), sharey=True)
    for axis, (key, axis_label), color in zip(axes, panels.items(), ('C0', 'C2', 'C1'), strict=True):
        values = [per_class[name][key] for name in names]
        known = [value for value in values if value is not None]
        axis.barh(range(len(names)), [value or 0.0 for value in values], color=color)
        for row, value in enumerate(values):
            label = axis.text((value or 0.0) + 0.01, row, '-' if value is None else f'{value:.2f}', va='center')
            label.set(fontsize=7, in_layout=False)
        mean = f', mean {np.mean(known):.3f}' if known else ''
        axis.set(xlim=(0, 1.1), xlabel=axis_label + mean, ylim=(-0.6, len(names) - 0.4))
        axis.grid(axis='x', alpha=0.3)
    axes[0].set_yticks(range(len(names)), names, fontsize=8)
    figure.suptitle(title)
    figure.savefig(path, dpi=_DPI)


def plot_confusion(path: Path, confusion: NDArray[np.integer], names: Sequence[str], title: str) -> None:
    """Draw which share of the pixels of each true class got which label; classes without pixels are left out.

    Args:
        path: PNG to write.
        confusion: `(C, C + 1)` pixels by true class and prediction, the first column unlabelled.
        names: Of the C classes.
        title: Text above the matrix.
    """
    seen = np.flatnonzero(confusion.sum(axis=1) + confusion[:, 1:].sum(axis=0))
    if not len(seen):
        seen = np.arange(len(names))
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
