"""Arguments of the command lines that run a model, and how they report."""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
import json
import sys
from typing import Any

from fisa_ros.core.errors import DataError, FisaError
from fisa_ros.core.thresholds import Thresholds
from fisa_ros.runtime.factory import BACKENDS, PRECISIONS

_THRESHOLDS = tuple(field.name for field in fields(Thresholds))


def add_model_arguments(
    parser: argparse.ArgumentParser, backend: str = 'auto', backends: Sequence[str] = BACKENDS
) -> None:
    """Add what names the model, where it runs (on one of `backends`, by default `backend`) and its thresholds."""
    parser.add_argument('--model', default='fisa-tiny', help='name or manifest of the model (default: %(default)s)')
    parser.add_argument('--backend', choices=backends, default=backend, help='(default: %(default)s)')
    parser.add_argument('--device', default='auto', help='auto, cpu or cuda:0 (default: %(default)s)')
    parser.add_argument('--precision', choices=PRECISIONS, default='auto', help='(default: %(default)s)')
    for name in _THRESHOLDS:
        option = f'--{name.replace("_", "-")}'
        if name != 'objectness_trust':
            option += '-threshold'
        parser.add_argument(option, dest=name, type=float, help='in [0, 1] (default: what fits the model)')


def chosen_thresholds(defaults: Thresholds, options: argparse.Namespace) -> Thresholds:
    """Return the thresholds of the model, but those that were given.

    Raises:
        DataError: One is not in [0, 1].
    """
    given = {name: getattr(options, name) for name in _THRESHOLDS}
    try:
        return replace(defaults, **{name: value for name, value in given.items() if value is not None})
    except ValueError as error:
        raise DataError(str(error)) from error


def report(
    make: Callable[[], dict[str, Any]], is_json: bool, show: Callable[[dict[str, Any]], None]
) -> dict[str, Any] | None:
    """Make a summary and print it.

    Args:
        make: Does the work.
        is_json: Print one JSON object alone on stdout.
        show: Prints it otherwise.

    Returns:
        The summary, or None after an error, which is on stderr.
    """
    try:
        summary = make()
    except (FisaError, OSError) as error:
        print(f'error: {error}', file=sys.stderr)
        return None
    if is_json:
        print(json.dumps(summary, allow_nan=False))
    else:
        show(summary)
    return summary
