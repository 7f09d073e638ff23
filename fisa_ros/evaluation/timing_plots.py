"""Pictures of what frames take, as PNG."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
import numpy as np

_DPI = 110
_HIDDEN_SHARE = 0.005


def plot_sweep(path: Path, rows: Sequence[Mapping[str, Any]], key: str, label: str, title: str) -> None:
    """Draw the time of a frame by stage for each point of a sweep, and its ratio to the first point.

    Args:
        path: PNG to write.
        rows: One for each point: its value under `key`; `total_ms` or `latency_ms` with p50, p95 and p99; perhaps
            `stages_ms` with the same for each stage; `ratio` with `value`, `low` and `high`.
        key: What was varied.
        label: Name of that, with its unit.
        title: Text above.
    """
    is_latency = 'latency_ms' in rows[0]
    totals = [row['latency_ms' if is_latency else 'total_ms'] for row in rows]
    places = np.arange(len(rows))
    figure = Figure(figsize=(11, 4.8), layout='constrained')
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    if is_latency:
        left.bar(places, [entry['p50'] for entry in totals], 0.6, label='p50')
    else:
        _stack_stages(left, rows, places)
    for name, marker in (('p50', 'o'), ('p95', '^'), ('p99', 'x')):
        if not is_latency or name != 'p50':
            left.plot(places, [entry[name] for entry in totals], marker, color='black', ms=6, label=f'total, {name}')
    left.set(ylabel='latency (ms)' if is_latency else 'time of a frame (ms)', ylim=(0, None))
    values = [row['ratio']['value'] for row in rows]
    ends = [
        [value - row['ratio']['low'], row['ratio']['high'] - value] for value, row in zip(values, rows, strict=True)
    ]
    right.axhline(1.0, color='0.6', lw=1)
    right.errorbar(places, values, np.maximum(np.transpose(ends), 0.0), fmt='o', color='C0', capsize=5)
    for place, value in zip(places.tolist(), values, strict=True):
        right.annotate(f'{value:.2f}', (place, value), xytext=(8, 4), textcoords='offset points', fontsize=9)
    right.set(
        ylabel=f'time relative to {key} = {rows[0][key]} (95 % interval)', ylim=(0, 1.15 * max(map(_highest, rows)))
    )
    for axis in (left, right):
        axis.set_xticks(places, [str(row[key]) for row in rows])
        axis.set(xlabel=label, xlim=(-0.6, len(rows) - 0.4))
        axis.grid(axis='y', alpha=0.3)
        axis.set_axisbelow(True)
    handles, names = left.get_legend_handles_labels()
    figure.legend(handles, names, loc='outside lower center', ncols=6, fontsize=9, frameon=False)
    figure.suptitle(title)
    figure.savefig(path, dpi=_DPI)


def _stack_stages(axis: Axes, rows: Sequence[Mapping[str, Any]], places: np.ndarray[Any, Any]) -> None:
    """Draw the mean of each stage on top of those before it; what nobody could see is left out."""
    stages = dict.fromkeys(stage for row in rows for stage in row['stages_ms'])
    largest = max(row['total_ms']['mean'] for row in rows)
    below = np.zeros(len(rows))
    for number, stage in enumerate(stages):
        taken = np.array([row['stages_ms'].get(stage, {}).get('mean', 0.0) for row in rows])
        if taken.max() < _HIDDEN_SHARE * largest:
            continue
        axis.bar(places, taken, 0.6, below, color=f'C{number}', label=f'{stage}, mean')
        below += taken


def _highest(row: Mapping[str, Any]) -> float:
    return float(row['ratio']['high'])
