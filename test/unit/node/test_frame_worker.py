"""What becomes of requests and cameras when something goes wrong beside them."""

import threading
from types import SimpleNamespace

from builtin_interfaces.msg import Time
import pytest

from fisa_ros.core.errors import FisaError
from fisa_ros.node.frame_worker import FrameWorker
from fisa_ros.node.segment_parameters import SegmentParameters
from fisa_ros.node.stream_counters import StreamCounters

WAIT_S = 10.0


class Stream:
    """Stands for a camera: serves numbers, and fails where it is told to."""

    is_holding = False

    def __init__(self, topic: str, fails_in: str = '') -> None:
        self.topic = topic
        self.counters = StreamCounters()
        self.served: list[int] = []
        self._fails_in = fails_in

    def announce(self, *_: object) -> None:
        self._maybe_fail('announce')

    def serve(self, frame: int, *_: object) -> None:
        self._maybe_fail('serve')
        self.served.append(frame)
        self.counters.add_answer(0.1, 0.1, None)

    def serve_waiting(self) -> None:
        self._maybe_fail('serve_waiting')

    def _maybe_fail(self, name: str) -> None:
        if name == self._fails_in:
            raise ZeroDivisionError(name)


@pytest.fixture
def start():
    workers = []

    def start_one(*streams: Stream) -> FrameWorker:
        worker = FrameWorker(
            streams, lambda: SimpleNamespace(), lambda: SegmentParameters(), Time, is_shut_down=lambda: False
        )
        workers.append(worker)
        worker.start()
        return worker

    yield start_one
    for worker in workers:
        worker.stop(WAIT_S)


@pytest.mark.parametrize('place', ['announce', 'serve', 'serve_waiting'])
def test_an_error_of_one_camera_is_charged_to_it_and_stops_no_other(start, place) -> None:
    broken, good = Stream('/broken/image', place), Stream('/good/image')
    worker = start(broken, good)
    for number in range(3):
        worker.put(broken, number)
        worker.put(good, number)
        # Requests come after what waited before them.
        worker.submit(lambda *_: None).result(WAIT_S)
        worker.submit(lambda *_: None).result(WAIT_S)
        worker.submit(lambda *_: None).result(WAIT_S)
    worker.stop(WAIT_S)
    assert good.counters.refused == 0
    assert good.counters.answered + good.counters.dropped == 3
    assert good.served
    assert broken.counters.refused > 0
    assert broken.counters.last_error == f"ZeroDivisionError('{place}')"


def test_at_the_end_of_the_process_the_frame_at_work_is_not_waited_for() -> None:
    at_work, is_done, is_shut_down = threading.Event(), threading.Event(), threading.Event()
    worker = FrameWorker(
        [], lambda: SimpleNamespace(), lambda: SegmentParameters(), Time, is_shut_down=is_shut_down.is_set
    )
    worker.start()
    try:
        answer = worker.submit(lambda *_: at_work.set() or is_done.wait(WAIT_S))
        assert at_work.wait(WAIT_S)
        is_shut_down.set()
        with pytest.raises(KeyboardInterrupt):
            worker.stop()
        assert worker.is_running
        assert not answer.done()
    finally:
        is_done.set()
        worker.stop(WAIT_S)
    assert answer.result() is True


def test_every_request_is_answered_when_the_worker_stops(start) -> None:
    worker = start(Stream('/image'))
    answers = [worker.submit(lambda *_: 1) for _ in range(10)]
    worker.stop(WAIT_S)
    for answer in answers:
        assert answer.done()
        if answer.exception() is not None:
            assert str(answer.exception()) == 'the node has been deactivated'
    with pytest.raises(FisaError, match='the node is not active'):
        worker.submit(lambda *_: 1)


def test_an_error_of_a_request_is_its_answer(start) -> None:
    worker = start(Stream('/image'))
    with pytest.raises(ZeroDivisionError):
        worker.submit(lambda *_: 1 / 0).result(WAIT_S)
    assert worker.submit(lambda *_: 7).result(WAIT_S) == 7


def test_frames_that_are_given_up_count_as_dropped(start) -> None:
    stream = Stream('/image')
    worker = start(stream)
    worker.stop(WAIT_S)
    worker.put(stream, 1)
    worker.clear()
    report = stream.counters.report()
    assert (report.received, report.dropped) == (1, 1)
    assert report.stuck_s == 0.0
