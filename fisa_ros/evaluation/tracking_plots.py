"""Pictures of how ids and labels persist, as PNG."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
import numpy as np

from fisa_ros.evaluation.evaluate_tracking import Match

_DPI = 110
_ROW_INCHES = 0.26
_COLORS = np.concatenate([colormaps[name](np.arange(20)) for name in ('tab20', 'tab20b')])[:, :3]


def plot_timelines(
    path: Path, histories: Mapping[str, Sequence[Mapping[int, Match]]], rate_hz: float, title: str
) -> None:
    """Draw one row per true thing, in the colour of the id that it has; a dash marks where its label changes.

    Args:
        path: PNG to write.
        histories: By the name of the panel: for each frame of a sequence, the match of each true thing.
        rate_hz: Frames per second.
        title: Text above.
    """
    things = sorted({thing for history in histories.values() for frame in history for thing in frame})
    figure = Figure(figsize=(13, 1.6 + _ROW_INCHES * max(len(things), 4)), layout='constrained')
    panels: Sequence[Axes] = figure.subplots(1, len(histories), sharey=True, squeeze=False)[0]
    for axis, (name, history) in zip(panels, histories.items(), strict=True):
        picture = np.ones((max(len(things), 1), len(history), 3))
        changes: list[tuple[float, int]] = []
        for row, thing in enumerate(things):
            label = None
            for column, frame in enumerate(history):
                match = frame.get(thing)
                if match is None:
                    continue
                picture[row, column] = _COLORS[match.track_id % len(_COLORS)]
                if label not in (None, match.class_name):
                    changes.append((column / rate_hz, row))
                label = match.class_name
        axis.imshow(
            picture,
            extent=(0, len(history) / rate_hz, len(picture) - 0.5, -0.5),
            aspect='auto',
            interpolation='nearest',
        )
        axis.vlines(
            [time_s for time_s, _ in changes],
            [row - 0.5 for _, row in changes],
            [row + 0.5 for _, row in changes],
            colors='black',
        )
        axis.hlines(np.arange(len(things)) - 0.5, 0, len(history) / rate_hz, colors='white', linewidths=2)
        axis.set(xlabel='time (s)', title=f'{name}: {len(changes)} label changes', yticks=[])
    panels[0].set_ylabel('true things; colour: id, white: not found')
    figure.suptitle(title)
    figure.savefig(path, dpi=_DPI)
