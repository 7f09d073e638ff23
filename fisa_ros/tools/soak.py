"""Keep a segment node busy for a long time and check everything it answers.

Cameras stream, the words change each second and the thresholds every other second, listeners come and go. Exits with 1
if the node crashed, answered with a wrong stamp, mixed two vocabularies, grew or fell behind; see `violations`.

`python -m fisa_ros.tools.soak --minutes 30 --json`
"""

import argparse
from collections.abc import Sequence
import json
from pathlib import Path
import shlex
import signal
import sys
from types import FrameType

from fisa_ros.core.errors import FisaError
from fisa_ros.runtime.factory import BACKENDS
from fisa_ros.tools.soak_record import SoakOptions, SoakRecord
from fisa_ros.tools.soak_report import summarize, table
from fisa_ros.tools.soak_stage import run_soak


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return 0, 1 if something is not as it must be, 130 if interrupted."""
    given = _parser().parse_args(arguments)
    options, record = _options(given), SoakRecord()
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        run_soak(options, record)
    except KeyboardInterrupt:
        record.is_interrupted = True
    except (FisaError, OSError) as error:
        record.trouble = str(error)
    summary = summarize(options, record)
    print(json.dumps(summary) if given.json else table(summary))
    for violation in summary['violations']:
        print(f'error: {violation}', file=sys.stderr)
    if record.is_interrupted:
        return 130
    return 1 if summary['violations'] else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog='python -m fisa_ros.tools.soak', description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--minutes', type=_minutes, default=30.0, help='length of the stream (default: %(default)s)')
    parser.add_argument('--cameras', type=int, choices=range(1, 9), default=2, help='how many (default: %(default)s)')
    parser.add_argument('--rate-hz', type=_rate_hz, default=15.0, help='of each camera (default: %(default)s)')
    parser.add_argument('--depth', action='store_true', help='send depth too and check the points')
    parser.add_argument('--tracking', action='store_true', help='let the node track')
    parser.add_argument(
        '--executable', type=shlex.split, default=[], help='command of the node (default: segment_node)'
    )
    parser.add_argument('--seed', type=int, default=1, help='number of the first room (default: %(default)s)')
    parser.add_argument('--out', type=Path, default=Path('out/soak'), help='folder for the log (default: %(default)s)')
    parser.add_argument('--model', default='fisa-tiny', help='name or manifest of the model (default: %(default)s)')
    parser.add_argument('--backend', choices=BACKENDS, default='auto')
    parser.add_argument('--device', default='auto', help='auto, cpu or cuda:0 (default: %(default)s)')
    parser.add_argument('--json', action='store_true', help='print one JSON object')
    return parser


def _options(given: argparse.Namespace) -> SoakOptions:
    node: dict[str, object] = {'model': given.model, 'backend': given.backend, 'device': given.device}
    for name in ('depth', 'tracking'):
        if getattr(given, name):
            node[name] = True
    return SoakOptions(
        minutes=given.minutes,
        cameras=given.cameras,
        rate_hz=given.rate_hz,
        seed=given.seed,
        out=given.out,
        command=tuple(given.executable),
        node=node,
    )


def _minutes(text: str) -> float:
    value = float(text)
    if not 0.05 <= value <= 10_000.0:
        raise argparse.ArgumentTypeError(f'{text} is not in 0.05..10000')
    return value


def _rate_hz(text: str) -> float:
    value = float(text)
    if not 0.1 <= value <= 200.0:
        raise argparse.ArgumentTypeError(f'{text} is not in 0.1..200')
    return value


def _interrupt(_: int, __: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == '__main__':
    sys.exit(main())
