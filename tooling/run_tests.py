"""Run the tests and add up the results; the last line on stdout is `N passed, N failed`.

With `--outcomes` those of earlier runs, which may have used another ROS, count too: the file holds them.

Each file below test/ros runs in a process and a ROS domain of its own, everything else together in one process.
"""

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
import json
import os
from pathlib import Path
import signal
import subprocess
import sys
import tempfile
import time
from xml.etree import ElementTree

from fisa_ros.tools.ros_domain import domain_environment, reserved_domain

ROOT = Path(__file__).absolute().parents[1]
TEST_TIMEOUT_S = 180
PROCESS_TIMEOUT_S = 1500
NOTHING_TO_RUN = 5  # pytest, when all tests are deselected or skipped
STOPPED = -1
ROS = f' ({os.environ["WHEELS"]})' if os.environ.get('WHEELS') else ''


@dataclass(frozen=True)
class Outcome:
    name: str
    passed: int
    failed: int
    skipped: int
    note: str


def split_into_processes(selected: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
    """Yield the name and the pytest arguments of each process."""
    together = []
    apart = []
    for item in selected or [str(path) for path in sorted(ROOT.glob('test/*/'))]:
        path = Path(item.partition('::')[0]).absolute()
        if not path.is_relative_to(ROOT / 'test' / 'ros'):
            together.append(item)
        elif path.is_dir():
            apart.extend(str(file) for file in sorted(path.rglob('test_*.py')))
        else:
            apart.append(item)
    if together:
        yield 'without ROS', together
    yield from ((Path(item).name, [item]) for item in apart)


def run_pytest(name: str, arguments: Sequence[str], markers: str, report: Path) -> Outcome:
    # Plugins are named because a sourced ROS brings some that do not start with this version of pytest.
    # -P keeps the source tree from hiding the install space.
    command = [sys.executable, '-P', '-m', 'pytest', '-q', '-ra', '-p', 'timeout', '-p', 'hypothesispytest']
    command += [f'--timeout={TEST_TIMEOUT_S}', '-m', markers, f'--junitxml={report}', *arguments]
    with reserved_domain() as domain_id:
        environment = os.environ | domain_environment(domain_id) | {'PYTEST_DISABLE_PLUGIN_AUTOLOAD': '1'}
        print(f'\n==== {name} ====', flush=True)
        start_s = time.monotonic()
        process = subprocess.Popen(command, cwd=ROOT, env=environment, start_new_session=True)
        try:
            status = process.wait(PROCESS_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            status = STOPPED
        finally:
            stop_group(process)
    return read_report(name, report, status, f'{time.monotonic() - start_s:.0f} s')


def stop_group(process: subprocess.Popen[bytes]) -> None:
    """End what the tests left behind; normally there is nothing."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    process.wait()


def read_report(name: str, report: Path, status: int, note: str) -> Outcome:
    suites = ElementTree.parse(report).getroot().iter('testsuite') if report.is_file() else ()
    counts = [[int(suite.get(key, '0')) for key in ('tests', 'failures', 'errors', 'skipped')] for suite in suites]
    total, failures, errors, skipped = (sum(column) for column in zip(*counts, strict=True)) if counts else (0, 0, 0, 0)
    failed = failures + errors
    passed = total - failed - skipped
    if status not in (0, NOTHING_TO_RUN) and not failed:
        return Outcome(name, passed, 1, skipped, f'{note}, pytest ended with status {status}')
    return Outcome(name, passed, failed, skipped, note)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('tests', nargs='*', help='files or folders; all of test/ by default')
    parser.add_argument('--slow', action='store_true', help='run the tests marked slow too')
    parser.add_argument('--outcomes', type=Path, help='file that collects the results of several runs')
    options = parser.parse_args()
    markers = '' if options.slow else 'not slow'
    outcomes = []
    if options.outcomes and options.outcomes.is_file():
        outcomes = [Outcome(**entry) for entry in json.loads(options.outcomes.read_text())]
    with tempfile.TemporaryDirectory(prefix='fisa_ros_tests_') as folder:
        outcomes += [
            run_pytest(f'{name}{ROS}', arguments, markers, Path(folder, f'{index}.xml'))
            for index, (name, arguments) in enumerate(split_into_processes(options.tests))
        ]
    if options.outcomes:
        options.outcomes.write_text(json.dumps([asdict(outcome) for outcome in outcomes]))
    print('\n==== summary ====')
    for outcome in outcomes:
        print(
            f'{outcome.name:32} {outcome.passed:5} passed {outcome.failed:3} failed {outcome.skipped:3} skipped'
            f'   {outcome.note}'
        )
    passed = sum(outcome.passed for outcome in outcomes)
    failed = sum(outcome.failed for outcome in outcomes)
    print(f'{passed} passed, {failed} failed', flush=True)
    return 1 if failed or not passed else 0


if __name__ == '__main__':
    sys.exit(main())
