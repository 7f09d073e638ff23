"""The live part of the demo: two node processes, and a third party that watches and changes the words."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
import os
import sys
import time
from types import TracebackType
from typing import Self

from tqdm import tqdm

from fisa_ros.node.segment_client import Status
from fisa_ros.node.stream_recorder import StreamRecorder
from fisa_ros.tools.demo_phases import Phase
from fisa_ros.tools.demo_record import DemoError, DemoOptions, DemoRecord, PhaseRecord, Picture
from fisa_ros.tools.node_process import NodeProcess
from fisa_ros.tools.ros_domain import domain_environment, reserved_domain

_START_TIMEOUT_S = 90.0
_SILENCE_TIMEOUT_S = 20.0
_DRAIN_TIMEOUT_S = 10.0
_DRAIN_S = 1.0
_PICTURES_S = 3.0
_POLL_S = 0.1
_RATE_PERIOD_S = 1.0

_CAMERA_STATUS = '/sim_camera: camera'
_MODEL_STATUS = '/segment: model'
_STREAM_STATUS = '/segment: /image'


def record_demo(options: DemoOptions, phases: Sequence[Phase]) -> DemoRecord:
    """Start everything, stream, and end everything.

    Raises:
        DemoError: A process ended, frames stayed away or words were refused.
        FisaError: No ROS domain is free, or a service did not answer.
    """
    logs = options.out / 'logs'
    width, height = options.size_wh
    camera_parameters = {'rate_hz': options.rate_hz, 'width': width, 'height': height, 'seed': options.seed}
    with ExitStack() as stack:
        os.environ.update(domain_environment(stack.enter_context(reserved_domain())))
        os.environ['ROS_LOG_DIR'] = str(logs / 'ros')
        recorder = stack.enter_context(StreamRecorder('demo'))
        camera = NodeProcess('sim_camera_node', camera_parameters, logs / 'sim_camera_node.log')
        stack.enter_context(camera)
        node = stack.enter_context(NodeProcess('segment_node', options.node, logs / 'segment_node.log'))
        return _Stage(options.seconds, recorder, camera, node).play(phases)


class _Stage:
    """One performance, from the first sign of life to the last frame."""

    def __init__(self, seconds: float, recorder: StreamRecorder, camera: NodeProcess, node: NodeProcess) -> None:
        self._seconds = seconds
        self._recorder = recorder
        self._camera = camera
        self._node = node
        recorder.watch = self._check_processes

    def play(self, phases: Sequence[Phase]) -> DemoRecord:
        recorder, frames = self._recorder, self._recorder.frames
        self._wait(recorder.is_active, _START_TIMEOUT_S, 'the segment node did not become active')
        start_s = time.monotonic() - self._node.started_s
        print(f'segment node active after {start_s:.1f} s')
        self._wait(lambda: frames.answered > 0, _SILENCE_TIMEOUT_S, 'no frame was answered')
        self._wait(lambda: frames.is_complete, _SILENCE_TIMEOUT_S, "the camera's truth did not arrive")
        records = [self._change(phases[0])]
        before, duplicates, began_s = self._read_status(), frames.duplicates, time.monotonic()
        with _Progress(self._seconds, lambda: frames.answered) as progress:
            for index, phase in enumerate(phases):
                if index:
                    records.append(self._change(phase))
                progress.say(str(records[-1]))
                end_s = began_s + self._seconds * (index + 1) / len(phases)
                self._stream(progress, end_s, is_first=index == 0, is_last=index == len(phases) - 1)
        after = self._read_status()
        # The camera sends the truth after the image: its last frame of the window shall be complete.
        time.sleep(_DRAIN_S)
        exit_codes = {self._camera.name: self._camera.stop()}
        self._drain()
        exit_codes[self._node.name] = self._node.stop()
        # The window lies between two reports of the node, so that its counts are those of the window.
        start_ns, end_ns = before.stamp_ns, after.stamp_ns
        return DemoRecord(
            phases=tuple(records),
            frames=frames.frames(start_ns, end_ns),
            frames_in=len(frames.camera_stamps(start_ns, end_ns)),
            seconds=(end_ns - start_ns) * 1e-9,
            start_s=start_s,
            dropped=int(after.values['dropped']) - int(before.values['dropped']),
            refused=int(after.values['refused']) - int(before.values['refused']),
            skipped=int(recorder.diagnostics[_CAMERA_STATUS].values['skipped']),
            wrong_stamps=len(frames.strangers(start_ns)) + frames.duplicates - duplicates,
            node={key: recorder.diagnostics[_MODEL_STATUS].values[key] for key in ('model', 'backend', 'device')},
            pictures=[Picture(stamp, frames.version_at(stamp), image) for stamp, image in recorder.overlays],
            exit_codes=exit_codes,
        )

    def _change(self, phase: Phase) -> PhaseRecord:
        answer = self._recorder.set_vocabulary(phase.request)
        if not answer.success:
            raise DemoError(f'the vocabulary {phase.name!r} was refused: {answer.message}')
        first_answer_ns = self._recorder.frames.first_answer_ns
        silence = f'no frame came with vocabulary version {answer.version} ({phase.name})'
        self._wait(lambda: answer.version in first_answer_ns, _SILENCE_TIMEOUT_S, silence)
        vocabulary = self._recorder.vocabulary()
        if vocabulary.version != answer.version:
            raise DemoError(f'vocabulary version {answer.version} was answered, but {vocabulary.version} is in use')
        return PhaseRecord(phase, answer, vocabulary, first_answer_ns[answer.version])

    def _stream(self, progress: '_Progress', end_s: float, *, is_first: bool, is_last: bool) -> None:
        """Let frames flow until `end_s`; keep the pictures close to a change, and one in any case."""
        recorder = self._recorder
        began_s, began_ns = time.monotonic(), recorder.now_ns()
        alive_s, answered = began_s, -1
        while True:
            now_s = time.monotonic()
            has_picture = any(stamp_ns > began_ns for stamp_ns, _ in recorder.overlays)
            if now_s >= end_s and has_picture:
                return
            is_after_change = not is_first and now_s < began_s + _PICTURES_S
            is_before_change = not is_last and now_s > end_s - _PICTURES_S
            recorder.collect_overlays(is_after_change or is_before_change or not has_picture)
            if recorder.frames.answered > answered:
                alive_s, answered = now_s, recorder.frames.answered
            if now_s > max(alive_s, end_s if not has_picture else alive_s) + _SILENCE_TIMEOUT_S:
                raise DemoError(f'no answered frame or picture for {_SILENCE_TIMEOUT_S:g} s')
            self._pause()
            progress.show()

    def _drain(self) -> None:
        """Wait until the frames that are on their way are answered."""
        answered, since_s = -1, time.monotonic()
        deadline_s = since_s + _DRAIN_TIMEOUT_S
        while time.monotonic() < min(since_s + _DRAIN_S, deadline_s):
            if self._recorder.frames.answered != answered:
                answered, since_s = self._recorder.frames.answered, time.monotonic()
            time.sleep(_POLL_S)

    def _read_status(self) -> Status:
        """Return the node's own counts, made after this call."""
        called_ns, diagnostics = self._recorder.now_ns(), self._recorder.diagnostics
        self._wait(
            lambda: _STREAM_STATUS in diagnostics and diagnostics[_STREAM_STATUS].stamp_ns > called_ns,
            _SILENCE_TIMEOUT_S,
            'the segment node sent no diagnostics',
        )
        return diagnostics[_STREAM_STATUS]

    def _wait(self, condition: Callable[[], bool], timeout_s: float, what: str) -> None:
        deadline_s = time.monotonic() + timeout_s
        while not condition():
            if time.monotonic() > deadline_s:
                raise DemoError(f'{what} within {timeout_s:g} s')
            self._pause()

    def _pause(self) -> None:
        time.sleep(_POLL_S)
        self._check_processes()

    def _check_processes(self) -> None:
        for process in (self._camera, self._node):
            if process.exit_code is not None and not process.is_stopped:
                raise DemoError(f'{process.name} ended with exit code {process.exit_code}')


class _Progress:
    """A bar that shows the time and the rate of answers."""

    def __init__(self, seconds: float, count: Callable[[], int]) -> None:
        self._count = count
        self._seconds = seconds
        self._bar = tqdm(
            total=round(seconds),
            bar_format='{desc} {bar:30} {n:.0f}/{total:.0f} s',
            disable=None,
        )
        self._began_s = self._since_s = time.monotonic()
        self._since = count()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._bar.close()

    def say(self, text: str) -> None:
        self._bar.write(text, file=sys.stdout)

    def show(self) -> None:
        now_s = time.monotonic()
        if now_s < self._since_s + _RATE_PERIOD_S:
            return
        answered = self._count()
        rate_hz = (answered - self._since) / (now_s - self._since_s)
        self._since, self._since_s = answered, now_s
        self._bar.set_description_str(f'{rate_hz:4.1f} frames/s', refresh=False)
        self._bar.update(min(now_s - self._began_s, self._seconds) - self._bar.n)
