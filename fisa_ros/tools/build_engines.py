"""Build the TensorRT engines of a model ahead of time: `ros2 run fisa_ros build_engines --model fisa-tiny`."""

import argparse
from collections.abc import Callable, Sequence
import logging
from pathlib import Path
import signal
import sys
import threading
import time
from typing import Any

from fisa_ros.core.errors import DataError
from fisa_ros.core.manifest import load_manifest
from fisa_ros.runtime.build_progress import BuildProgress, BuildState
from fisa_ros.runtime.factory import PRECISIONS
from fisa_ros.runtime.graph_files import graphs_folder
from fisa_ros.runtime.tensorrt_start import build_engines
from fisa_ros.tools.model_arguments import report

_PERIOD_S = 0.2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return 0, or 2 if there are no engines that can be trusted."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format='%(levelname)s: %(message)s', stream=sys.stderr)
    logging.getLogger('fisa_ros').setLevel(logging.INFO)
    return 2 if report(lambda: _run(options), options.json, _print_report) is None else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog='build_engines',
        description='Build the TensorRT engines of an exported model for the GPU of this machine, check them against '
        'the reference outputs and keep them in the cache, so that the node need not do it when it starts.',
    )
    parser.add_argument('--model', default='fisa-tiny', help='name or manifest of the model (default: %(default)s)')
    parser.add_argument('--graphs', type=Path, help='folder of the exported graphs (default: in the cache)')
    parser.add_argument('--gpu', type=int, default=0, help='number of the GPU (default: %(default)s)')
    parser.add_argument('--precision', choices=PRECISIONS, default='auto', help='(default: %(default)s)')
    parser.add_argument(
        '--retry', action='store_true', help='try again what could not be built or did not pass at an earlier time'
    )
    parser.add_argument('--json', action='store_true', help='print one JSON object')
    return parser


def _run(options: argparse.Namespace) -> dict[str, Any]:
    if options.gpu < 0:
        raise DataError(f'--gpu must be 0 or more, got {options.gpu}')
    manifest = load_manifest(options.model)
    stop = threading.Event()
    # A second Ctrl-C ends the process at once, and the build with it.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stopper(stop, number))
    started = time.monotonic()
    teller = _Teller()
    try:
        found = build_engines(
            manifest,
            options.graphs or graphs_folder(manifest),
            options.gpu,
            options.precision,
            retry=options.retry,
            tell=teller.start,
            is_cancelled=stop.is_set,
        )
    finally:
        teller.stop()
    return {
        'model': manifest.name,
        'verdict': found.verdict,
        'attempts': [
            {'precision': attempt.rung.name, 'outcome': str(attempt.outcome), 'reason': attempt.reason}
            for attempt in found.attempts
        ],
        'seconds': round(time.monotonic() - started, 3),
    }


def _stopper(stop: threading.Event, number: int) -> Callable[..., None]:
    def ask(*_: object) -> None:
        signal.signal(number, signal.SIG_DFL)
        stop.set()

    return ask


class _Teller:
    """Says on stderr what is being done: in place on a terminal, once for each engine elsewhere."""

    def __init__(self) -> None:
        self._is_over = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self, progress: BuildProgress) -> None:
        """Begin to say where `progress` stands."""
        self._thread = threading.Thread(target=self._tell, args=(progress,), name='tell progress', daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End it."""
        self._is_over.set()
        if self._thread is not None:
            self._thread.join()

    def _tell(self, progress: BuildProgress) -> None:
        is_terminal = sys.stderr.isatty()
        shown = None
        while not self._is_over.wait(_PERIOD_S):
            status = progress.status
            if status.state is BuildState.ABSENT:
                continue
            if is_terminal:
                print(f'\r\x1b[K{status.describe()}', end='', file=sys.stderr, flush=True)
            elif (status.state, status.what) != shown:
                print(status.describe(), file=sys.stderr, flush=True)
            shown = (status.state, status.what)
        if is_terminal and shown:
            print(file=sys.stderr)


def _print_report(summary: dict[str, Any]) -> None:
    for attempt in summary['attempts']:
        print(f'{attempt["precision"]:10} {attempt["outcome"]:10} {attempt["reason"]}')
    print(f'engines of {summary["model"]} ready after {summary["seconds"]:.0f} s')


if __name__ == '__main__':
    sys.exit(main())
