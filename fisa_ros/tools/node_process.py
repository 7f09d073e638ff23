"""Nodes as processes of their own, which are always ended."""

from collections.abc import Mapping, Sequence
import ctypes
import os
from pathlib import Path
import signal
import subprocess
import sys
import time
from types import TracebackType
from typing import Self

_PATIENCE_S = 5.0
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None)


class NodeProcess:
    """A running executable of this package that writes its log to a file; use it in a `with` block.

    Attributes:
        name: Name of the executable.
        log: Everything that the process prints.
        started_s: When it was started, on the monotonic clock.
        is_stopped: Whether it was asked to end.
    """

    def __init__(
        self,
        name: str,
        parameters: Mapping[str, object],
        log: Path,
        environment: Mapping[str, str] | None = None,
        command: Sequence[str] = (),
    ) -> None:
        """Start the executable.

        Args:
            name: Name of the executable.
            parameters: ROS parameters to start with.
            log: File to write.
            environment: Variables besides those of this process.
            command: What starts the executable; empty to find it by its name.
        """
        self.name = name
        self.log = log
        arguments = ['--ros-args', '--disable-external-lib-logs'] if parameters else []
        for key, value in parameters.items():
            arguments += ['-p', f'{key}:={str(value).lower() if isinstance(value, bool) else value}']
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open('w', encoding='utf-8') as file:
            self._process = subprocess.Popen(
                [*(command or _command(name)), *arguments],
                stdout=file,
                stderr=subprocess.STDOUT,
                env={**os.environ, 'PYTHONUNBUFFERED': '1', **(environment or {})},
                # Ctrl-C in a terminal goes to the whole group; a group of its own is ended by `stop` alone.
                start_new_session=True,
                preexec_fn=_die_with_parent,
            )
        self.started_s = time.monotonic()
        self.is_stopped = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        """Id of the process."""
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """Exit code, None while the process runs."""
        return self._process.poll()

    def stop(self, patience_s: float = _PATIENCE_S) -> int:
        """Interrupt the process, as Ctrl-C does, and kill it if that does not help; return its exit code."""
        self.is_stopped = True
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)
            try:
                self._process.wait(patience_s)
            except subprocess.TimeoutExpired:
                self._process.kill()
        return self._process.wait()

    def log_tail(self, lines: int = 20) -> str:
        """Return the last lines of the log."""
        return '\n'.join(self.log.read_text(encoding='utf-8', errors='replace').splitlines()[-lines:])


def _command(name: str) -> Sequence[str]:
    for prefix in filter(None, os.environ.get('AMENT_PREFIX_PATH', '').split(os.pathsep)):
        executable = Path(prefix) / 'lib' / 'fisa_ros' / name
        if executable.is_file():
            return sys.executable, str(executable)
    return sys.executable, '-m', f'fisa_ros.node.{name}'


def _die_with_parent() -> None:
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
