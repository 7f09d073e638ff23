"""Builds an engine in a process of its own.

A builder takes gigabytes, minutes, and now and then the whole process with it. In a child its memory goes back to the
system when it ends, a crash is an error like any other, and it can be stopped at any moment.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
import json
import logging
import os
from pathlib import Path
import signal
import subprocess
import sys
import time
from typing import Any

from fisa_ros.core import errors
from fisa_ros.core.errors import (
    BuildCancelledError,
    EngineCacheError,
    EngineError,
    EngineRefusedError,
    GpuMemoryError,
)
from fisa_ros.runtime.engine_cache import BuildRecord
from fisa_ros.runtime.engine_storage import storage_errors

CHILD_MODULE = 'fisa_ros.runtime.engine_build_process'
TENSORRT_BUILDER = 'fisa_ros.runtime.tensorrt_engine:build_plan'
DEFAULT_TIMEOUT_S = 3600.0
# A builder is silent for minutes and saves nothing when it stops.
DEFAULT_GRACE_S = 1.0
# Status of a child that could not write its result.
STORAGE_FAILED = 74
_POLL_S = 0.05
_LOG_TAIL_LINES = 6
_LOG_TAIL_CHARS = 800
_PACKAGE_ROOT = Path(__file__).absolute().parents[2]
# What a child may raise here; other classes come as `EngineError`.
_KINDS = (BuildCancelledError, EngineCacheError, EngineError, EngineRefusedError, GpuMemoryError)
_LOG = logging.getLogger('fisa_ros.tensorrt')


@dataclass(frozen=True, slots=True)
class BuildRequest:
    """What a child builds.

    Attributes:
        builder: `module:function`. The function takes the arguments, the path of the plan and a function that tells
            whether to stop; it writes the plan and returns facts about it, as JSON has them.
        arguments: What the builder needs, as JSON has it.
        plan_path: Where the plan goes.
        parent: Process without which the child is not wanted.
    """

    builder: str
    arguments: Mapping[str, Any]
    plan_path: Path
    parent: int

    def to_json(self) -> str:
        """Return what `from_json` reads."""
        return json.dumps({**asdict(self), 'plan_path': str(self.plan_path)})

    @classmethod
    def from_json(cls, text: str) -> 'BuildRequest':
        """Read what `to_json` wrote."""
        document = json.loads(text)
        return cls(**{**document, 'plan_path': Path(document['plan_path'])})


def build_in_child(
    arguments: Mapping[str, Any],
    plan_path: Path,
    is_cancelled: Callable[[], bool] = lambda: False,
    *,
    builder: str = TENSORRT_BUILDER,
    timeout_s: float = DEFAULT_TIMEOUT_S,
    grace_s: float = DEFAULT_GRACE_S,
) -> BuildRecord:
    """Build an engine in a child process.

    The calling thread must live until this returns: the kernel ends the child together with the thread.

    Args:
        arguments: What the builder needs, as JSON has it.
        plan_path: Where the plan goes; request, result and log of the build lie beside it.
        is_cancelled: Asked several times a second.
        builder: See `BuildRequest.builder`.
        timeout_s: Seconds after which the build has failed.
        grace_s: Seconds that a child has to stop by itself before it is killed.

    Raises:
        EngineError: The builder failed, crashed, wrote nothing or took too long; the text holds the end of its log.
        GpuMemoryError: The GPU has too little memory for it.
        EngineCacheError: The folder of the plan cannot be written, or the disk is full.
        BuildCancelledError: `is_cancelled` said so.
    """
    folder = plan_path.parent
    request_path, result_path, log_path = folder / 'request.json', folder / 'result.json', folder / 'build.log'
    begun_s = time.monotonic()
    with storage_errors(folder):
        result_path.unlink(missing_ok=True)
        request = BuildRequest(builder, arguments, plan_path, os.getpid())
        request_path.write_text(request.to_json(), encoding='utf-8')
        log = log_path.open('wb')
    with log:
        # -P keeps the current folder from hiding modules of the same names.
        process = subprocess.Popen(
            [sys.executable, '-P', '-m', CHILD_MODULE, str(request_path), str(result_path)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=_child_environment(),
            start_new_session=True,
        )
    try:
        _wait(process, is_cancelled, begun_s + timeout_s, timeout_s)
    except BuildCancelledError:
        _stop(process, grace_s)
        raise
    except EngineError as error:
        _stop(process, grace_s)
        raise EngineError(f'{error}{_tail(log_path)}') from None
    finally:
        # Whatever came, no builder outlives this call.
        if process.poll() is None:
            process.kill()
            process.wait()
    _LOG.debug('log of the build of %s:\n%s', plan_path, log_path.read_text(encoding='utf-8', errors='replace'))
    facts = _result(process.returncode, result_path, log_path)
    if not plan_path.is_file() or not plan_path.stat().st_size:
        raise EngineError('the builder of the engine said that all went well, but wrote no plan')
    share = facts.pop('half_layer_share', None)
    return BuildRecord(round(time.monotonic() - begun_s, 1), share, facts)


def _wait(
    process: subprocess.Popen[bytes], is_cancelled: Callable[[], bool], deadline_s: float, timeout_s: float
) -> None:
    while process.poll() is None:
        if is_cancelled():
            raise BuildCancelledError('the build of the TensorRT engine was cancelled')
        if time.monotonic() > deadline_s:
            raise EngineError(f'the build of the engine took longer than {timeout_s:.0f} s and was stopped')
        time.sleep(_POLL_S)


def _stop(process: subprocess.Popen[bytes], grace_s: float) -> None:
    process.terminate()
    try:
        process.wait(grace_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _result(status: int, result_path: Path, log_path: Path) -> dict[str, Any]:
    """Return the facts that a child told, or raise what it failed with."""
    try:
        result = json.loads(result_path.read_text(encoding='utf-8'))
    except (FileNotFoundError, ValueError):
        if status == STORAGE_FAILED:
            folder = result_path.parent
            raise EngineCacheError(f'the builder of the engine cannot write to {folder}: is the disk full?') from None
        text = f'the builder of the engine {_end(status)}{_tail(log_path)}'
        raise (GpuMemoryError if status == -signal.SIGKILL else EngineError)(text) from None
    if result['status'] == 'built':
        facts: dict[str, Any] = result['facts']
        return facts
    kind = getattr(errors, result['kind'], EngineError)
    raise (kind if kind in _KINDS else EngineError)(result['text'])


def _end(status: int) -> str:
    if status == -signal.SIGKILL:
        return 'was killed, as the system does when memory runs out: close other programs, or add swap'
    if status < 0:
        return f'crashed with {signal.Signals(-status).name}'
    return f'ended with status {status} and without a result'


def _tail(log_path: Path) -> str:
    lines = log_path.read_text(encoding='utf-8', errors='replace').strip().splitlines()[-_LOG_TAIL_LINES:]
    return f'; its log ends: {" | ".join(lines)[-_LOG_TAIL_CHARS:]}' if lines else '; its log is empty'


def _child_environment() -> dict[str, str]:
    """Return an environment in which a child finds the same package as this process."""
    paths = [str(_PACKAGE_ROOT), *filter(None, os.environ.get('PYTHONPATH', '').split(os.pathsep))]
    return {**os.environ, 'PYTHONPATH': os.pathsep.join(paths)}
