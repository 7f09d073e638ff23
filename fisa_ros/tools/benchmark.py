"""Measure what each stage of a frame takes: `python -m fisa_ros.tools.benchmark --model M --backend B`."""

import argparse
from collections.abc import Sequence
import logging
from pathlib import Path
import sys
from typing import Any

from fisa_ros.core.resources import share_dir
from fisa_ros.tools.benchmark_backends import BACKEND_FACTORIES
from fisa_ros.tools.benchmark_configuration import KEYS, BenchmarkError, Configuration, parse_pairs, parse_sweep
from fisa_ros.tools.benchmark_machine import describe_machine
from fisa_ros.tools.benchmark_messages import measure_messages
from fisa_ros.tools.benchmark_options import BenchmarkOptions
from fisa_ros.tools.benchmark_report import report_against, report_single, report_sweep
from fisa_ros.tools.benchmark_ros import measure_through_ros, sweep_through_ros
from fisa_ros.tools.benchmark_session import BenchmarkSession
from fisa_ros.tools.benchmark_tables import show
from fisa_ros.tools.model_arguments import report

_LABELS = {'size': 'size of the images (pixels)', 'words': 'words', 'synonyms': 'synonyms of each word'}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return 0, or 2 if nothing could be done."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format='%(levelname)s: %(message)s', stream=sys.stderr)
    return 2 if report(lambda: _run(options), options.json, show) is None else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog='python -m fisa_ros.tools.benchmark',
        description='Measure what each stage of a frame takes, from the image message to the answer.',
    )
    of = Configuration()
    parser.add_argument('--model', help=f'name or manifest of the model (default: {of.model})')
    parser.add_argument('--backend', help=f'{", ".join(BACKEND_FACTORIES)} (default: {of.backend})')
    parser.add_argument('--device', help=f'auto, cpu or cuda:0 (default: {of.device})')
    parser.add_argument('--threads', help="threads of an operator on a CPU (default: the back-end's own choice)")
    parser.add_argument('--precision', help=f'auto or fp32 (default: {of.precision})')
    parser.add_argument('--masks', help='number of masks, at most those of the model (default: all of them)')
    parser.add_argument('--size', help=f'size of the images (default: {of.describe("size")})')
    parser.add_argument('--vocabulary', help=f'"cat; dog", a YAML file or a shipped name (default: {of.vocabulary})')
    parser.add_argument('--words', help='number of classes: the first of the vocabulary, then made-up words')
    parser.add_argument('--synonyms', help='names of each class besides its first, made up where there are too few')
    parser.add_argument(
        '--images', type=Path, default=share_dir() / 'models' / 'reference_frames', help='folder of the frames'
    )
    parser.add_argument('--frames', type=int, default=50, help='measured frames of each point (default: %(default)s)')
    parser.add_argument('--warm-up', type=int, default=5, help='frames before those (default: %(default)s)')
    several = parser.add_mutually_exclusive_group()
    several.add_argument(
        '--sweep', metavar='KEY=A,B,...', help=f'measure several values of one of {", ".join(KEYS)} in turn'
    )
    several.add_argument(
        '--against', nargs='+', metavar='KEY=VALUE', help='compare with a configuration that differs in these, in turn'
    )
    several.add_argument(
        '--messages', action='store_true', help='measure what messages cost a node, each kind apart, without networks'
    )
    parser.add_argument('--plot', type=Path, metavar='FILE.png', help='draw the sweep')
    parser.add_argument('--peak-gflops', type=float, help='what the machine computes (default: measured, or known)')
    parser.add_argument('--peak-gb-s', type=float, help='what the machine moves (default: measured, or known)')
    parser.add_argument('--ros', action='store_true', help='measure a segment node of its own from outside')
    parser.add_argument('--cameras', help=f'cameras that send images through ROS (default: {of.cameras})')
    parser.add_argument(
        '--rate', type=float, default=0.0, help='images per second and camera through ROS; 0: one after the other'
    )
    parser.add_argument('--json', action='store_true', help='print one JSON object instead of a table')
    return parser


def _run(given: argparse.Namespace) -> dict[str, Any]:
    base = Configuration().changed({key: text for key in KEYS if (text := getattr(given, key)) is not None})
    options = BenchmarkOptions(
        given.images, given.frames, given.warm_up, given.peak_gflops, given.peak_gb_s, given.rate
    )
    if given.plot and not given.sweep:
        raise BenchmarkError(f'--plot {given.plot} needs a --sweep to draw')
    if given.against and given.ros:
        raise BenchmarkError('--against compares within one process, which --ros does not')
    if given.messages and given.ros:
        raise BenchmarkError('--messages measures without a node, which --ros starts')
    if given.rate and not given.ros:
        raise BenchmarkError(f'--rate {given.rate:g} needs --ros')
    summary: dict[str, Any] = {'machine': describe_machine()}
    if given.sweep:
        summary |= _sweep(given, base, options)
    elif given.messages:
        summary |= measure_messages(base, options)
    elif given.against:
        changes = parse_pairs(given.against)
        with BenchmarkSession([base, base.changed(changes)], options) as session:
            session.measure()
            summary |= report_against(session, options, list(changes))
    elif given.ros:
        summary |= measure_through_ros(base, options)
    else:
        with BenchmarkSession([base], options) as session:
            session.measure()
            summary |= report_single(session, options)
    return summary


def _sweep(given: argparse.Namespace, base: Configuration, options: BenchmarkOptions) -> dict[str, Any]:
    key, values = parse_sweep(given.sweep)
    configurations = [base.changed({key: value}) for value in values]
    if given.plot and not given.plot.parent.is_dir():
        raise BenchmarkError(f'{given.plot.parent} is not a folder, the plot cannot be written there')
    if given.ros:
        swept = sweep_through_ros(configurations, options, key)
    else:
        with BenchmarkSession(configurations, options) as session:
            session.measure()
            swept = report_sweep(session, options, key)
    if given.plot:
        # Here, for loading matplotlib takes longer than all other modules.
        from fisa_ros.evaluation.timing_plots import plot_sweep

        plot_sweep(given.plot, swept['sweep'], key, _LABELS.get(key, key), _title(swept['sweep'][0], key))
    return swept


def _title(report: dict[str, Any], key: str) -> str:
    fixed = {
        'model': report['model'],
        'backend': f'{report["backend"]} on {report["device"]}',
        'size': f'{report["size"]} images',
        'words': f'{report["words"]} words',
    }
    return ', '.join(text for name, text in fixed.items() if name != key)


if __name__ == '__main__':
    sys.exit(main())
