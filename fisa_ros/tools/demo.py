"""See it work: simulated camera and segmentation node as two processes, words changed while frames flow.

`python -m fisa_ros.tools.demo` prints a table and writes `out/demo/`: overlays, an animation and `summary.json`.
"""

import argparse
from collections.abc import Sequence
import json
from pathlib import Path
import signal
import sys
from types import FrameType

from tqdm import tqdm

from fisa_ros.core.errors import FisaError
from fisa_ros.evaluation.recording_scorer import RecordingScorer
from fisa_ros.runtime.factory import BACKENDS
from fisa_ros.simulation.categories import CATEGORIES
from fisa_ros.tools.demo_phases import category_ids, demo_phases
from fisa_ros.tools.demo_pictures import write_animation, write_pictures
from fisa_ros.tools.demo_record import DemoOptions, DemoRecord
from fisa_ros.tools.demo_report import summarize, table
from fisa_ros.tools.demo_stream import record_demo

SECONDS, SHORT_SECONDS = 66.0, 20.0
_LOG_LINES = 15


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return 0, 1 if something went wrong, 130 if interrupted."""
    options = _options(_parser().parse_args(arguments))
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        _clear(options.out)
        record = record_demo(options, demo_phases())
        failures = _report(record, options.out)
    except (FisaError, OSError) as error:
        failures = [str(error)]
    except KeyboardInterrupt:
        print('interrupted', file=sys.stderr)
        return 130
    if failures:
        _show_logs(options.out / 'logs')
    for failure in failures:
        print(f'error: {failure}', file=sys.stderr)
    return 1 if failures else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog='python -m fisa_ros.tools.demo', description=__doc__)
    parser.add_argument('--short', action='store_true', help=f'stream for {SHORT_SECONDS:.0f} s only')
    parser.add_argument('--seconds', type=_seconds, help=f'length of the stream (default: {SECONDS:.0f})')
    parser.add_argument('--seed', type=int, default=1, help='number of the simulated room (default: %(default)s)')
    parser.add_argument('--rate-hz', type=float, default=7.0, help='images per second (default: %(default)s)')
    parser.add_argument('--size', type=_size_wh, default='640x480', help='of the images (default: %(default)s)')
    parser.add_argument('--out', type=Path, default=Path('out/demo'), help='folder to write (default: %(default)s)')
    parser.add_argument('--model', default='fisa-tiny', help='name or manifest of the model (default: %(default)s)')
    parser.add_argument('--backend', choices=BACKENDS, default='auto')
    parser.add_argument('--device', default='auto', help='auto, cpu or cuda:0 (default: %(default)s)')
    return parser


def _options(given: argparse.Namespace) -> DemoOptions:
    return DemoOptions(
        seconds=given.seconds or (SHORT_SECONDS if given.short else SECONDS),
        seed=given.seed,
        rate_hz=given.rate_hz,
        size_wh=given.size,
        out=given.out,
        node={'model': given.model, 'backend': given.backend, 'device': given.device},
    )


def _seconds(text: str) -> float:
    value = float(text)
    if not 1.0 <= value <= 3600.0:
        raise argparse.ArgumentTypeError(f'{text} is not in 1..3600')
    return value


def _size_wh(text: str) -> tuple[int, int]:
    width, _, height = text.partition('x')
    if not (width.isdecimal() and height.isdecimal()):
        raise argparse.ArgumentTypeError(f'{text!r} is not of the form 640x480')
    return int(width), int(height)


def _clear(out: Path) -> None:
    """Remove what an earlier demo wrote: nothing old may be taken for a result of this one."""
    out.mkdir(parents=True, exist_ok=True)
    for pattern in ('change_[0-9]_*.png', 'demo.gif', 'summary.json', 'logs/*_node.log'):
        for path in out.glob(pattern):
            path.unlink()


def _report(record: DemoRecord, out: Path) -> list[str]:
    scorer = RecordingScorer(
        category_of=category_ids(),
        is_thing={category.id: category.is_thing for category in CATEGORIES},
        vocabularies={phase.vocabulary.version: phase.vocabulary for phase in record.phases},
    )
    for frame in tqdm(record.frames, desc='scoring', unit='frame', leave=False, disable=None):
        scorer.add(frame)
    summary = summarize(record, scorer)
    written = write_pictures(record.pictures, record.phases, out)
    if write_animation(record.pictures, record.phases, out / 'demo.gif'):
        written.append(out / 'demo.gif')
    summary['files'] = [path.name for path in written]
    (out / 'summary.json').write_text(json.dumps(summary, indent=1) + '\n', encoding='utf-8')
    print(f'\n{table(summary)}\n\nwritten to {out}/: summary.json, {", ".join(summary["files"])}')
    return list(summary['failures'])


def _show_logs(folder: Path) -> None:
    for path in sorted(folder.glob('*_node.log')):
        lines = path.read_text(encoding='utf-8', errors='replace').splitlines()[-_LOG_LINES:]
        print(f'--- end of {path}', *lines, sep='\n', file=sys.stderr)


def _interrupt(_: int, __: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == '__main__':
    sys.exit(main())
