"""The child process of `engine_build`: `python -m fisa_ros.runtime.engine_build_process REQUEST RESULT`."""

from collections.abc import Callable
import contextlib
import ctypes
import importlib
import json
import logging
import os
from pathlib import Path
import signal
import sys
import threading
import traceback
from typing import Any

from fisa_ros.core.errors import BuildCancelledError, EngineError, FisaError
from fisa_ros.runtime.engine_build import STORAGE_FAILED, BuildRequest
from fisa_ros.runtime.engine_storage import storage_error

_PR_SET_PDEATHSIG = 1
# Where memory runs out, this process goes first and not the node.
_OOM_SCORE_ADJUSTMENT = '800'
_NICENESS = 5


def main(request_path: Path, result_path: Path) -> int:
    """Build what a request says and write a result: how it went, and the error or the facts."""
    request = BuildRequest.from_json(request_path.read_text(encoding='utf-8'))
    die_with_parent(request.parent)
    _give_way()
    logging.basicConfig(level=logging.INFO, format='%(levelname)s %(message)s')
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    result: dict[str, Any] = {}

    def work() -> None:
        result.update(_attempt(request, stop.is_set))

    # Handlers of signals run in the main thread only, and that one must not sit in the builder then.
    worker = threading.Thread(target=work, name='builder')
    worker.start()
    worker.join()
    part = result_path.with_suffix('.part')
    try:
        part.write_text(json.dumps(result), encoding='utf-8')
        part.replace(result_path)
    except OSError:
        return STORAGE_FAILED
    return 0 if result['status'] == 'built' else 1


def die_with_parent(parent: int) -> None:
    """Let the kernel end this process together with the thread that started it."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        raise SystemExit('the process that asked for the engine is gone')


def _attempt(request: BuildRequest, is_cancelled: Callable[[], bool]) -> dict[str, Any]:
    module, _, function = request.builder.partition(':')
    try:
        facts = getattr(importlib.import_module(module), function)(request.arguments, request.plan_path, is_cancelled)
        if facts is None:
            raise EngineError('the builder gave no engine and no reason')
        return {'status': 'built', 'facts': facts}
    except FisaError as error:
        failure: FisaError = error
    except OSError as error:
        # What was written of a plan fills the disk, and the result has to be written too.
        request.plan_path.unlink(missing_ok=True)
        failure = storage_error(request.plan_path.parent, error)
    except Exception as error:
        traceback.print_exc()
        failure = EngineError(f'unexpected error of the builder: {error!r}')
    if is_cancelled():
        failure = BuildCancelledError('the build of the TensorRT engine was cancelled')
    return {'status': 'failed', 'kind': type(failure).__name__, 'text': str(failure)}


def _give_way() -> None:
    os.nice(_NICENESS)
    with contextlib.suppress(OSError):
        Path('/proc/self/oom_score_adj').write_text(_OOM_SCORE_ADJUSTMENT, encoding='utf-8')


if __name__ == '__main__':
    status = main(Path(sys.argv[1]), Path(sys.argv[2]))
    if status == STORAGE_FAILED:
        # The log lies on the same disk, and a flush that fails would change the status.
        os._exit(status)
    sys.exit(status)
