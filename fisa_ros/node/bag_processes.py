"""Several processes at one recording, each with a model of its own."""

from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
import multiprocessing
from multiprocessing.connection import wait as wait_for_sentinels
import os
import signal
import threading
from typing import Any

from fisa_ros.core.errors import BagError
from fisa_ros.node.bag_outputs import OutputMaker
from fisa_ros.node.bag_parts import Part, StoppedError
from fisa_ros.node.bag_segmentation import BagPlan, Runner, run_here

_POLL_S = 0.1


class _Shared:
    """What all processes of a run have in common."""

    def __init__(self, context: Any, processes: int) -> None:
        self.is_stopped = context.Event()
        self.images = context.Value('Q', 0)
        self.started = context.Value('I', 0)
        self.processes = processes


class _Worker:
    """State of one process of the pool."""

    shared: _Shared
    maker: OutputMaker | None = None


def run_in_processes(processes: int, load: Callable[[Any], OutputMaker] = OutputMaker.load) -> Runner:
    """Return a runner that shares the parts out among processes, and the processor's cores likewise.

    Args:
        processes: How many.
        load: Loads the model from `ModelOptions`, in each of them.
    """

    def run(
        plan: BagPlan, parts: Sequence[Part], on_images: Callable[[int], None], is_stopped: Callable[[], bool]
    ) -> None:
        # A fork would take threads and locks of this process along.
        context = multiprocessing.get_context('spawn')
        shared = _Shared(context, min(processes, len(parts)))
        with ProcessPoolExecutor(shared.processes, context, _start_worker, (shared,)) as pool:
            waiting: set[Future[None]] = {pool.submit(_make_part, plan, part, load) for part in parts}
            told = 0
            try:
                while waiting:
                    done, waiting = wait(waiting, _POLL_S, FIRST_EXCEPTION)
                    for future in done:
                        future.result()
                    count = shared.images.value
                    on_images(count - told)
                    told = count
                    if is_stopped():
                        raise StoppedError('stopped')
            except BrokenProcessPool as error:
                raise BagError(
                    'a process ended without a word, perhaps for want of memory: run again, with fewer of them'
                ) from error
            finally:
                shared.is_stopped.set()
                pool.shutdown(cancel_futures=True)

    return run


def _start_worker(shared: _Shared) -> None:
    _Worker.shared = shared
    # Ctrl-C in a terminal reaches all processes; the first one tells the others.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with shared.started.get_lock():
        number = shared.started.value
        shared.started.value += 1
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, cores[number % len(cores) :: shared.processes])
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait_for_sentinels([parent.sentinel])
        os._exit(1)


def _make_part(plan: BagPlan, part: Part, load: Callable[[Any], OutputMaker]) -> None:
    shared = _Worker.shared
    if _Worker.maker is None:
        _Worker.maker = load(plan.task.options)
    maker = _Worker.maker

    def count(images: int) -> None:
        with shared.images.get_lock():
            shared.images.value += images

    run_here(lambda: maker)(plan, [part], count, shared.is_stopped.is_set)
