"""The running of the soak: the node as a process, cameras, words, thresholds and listeners around it."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import fields, replace
from itertools import cycle
import os
from pathlib import Path
import sys
import tempfile
import time

from fisa_ros.core.errors import FisaError
from fisa_ros.core.resources import cache_dir
from fisa_ros.node.pace import Pace
from fisa_ros.node.soak_probe import PassingNode, SoakProbe, SoakViews
from fisa_ros.simulation.camera import SceneCamera
from fisa_ros.tools.benchmark_machine import memory_mb
from fisa_ros.tools.demo_phases import demo_phases
from fisa_ros.tools.node_process import NodeProcess
from fisa_ros.tools.ros_domain import domain_environment, reserved_domain
from fisa_ros.tools.soak_record import COUNTS, SoakOptions, SoakRecord

_VIEWS = 24
_VIEW_STEP_S = 0.5
_SIZE_WH = (640, 480)
_START_TIMEOUT_S = 180.0
_SERVICE_TIMEOUT_S = 60.0
_SILENCE_TIMEOUT_S = 30.0
_DRAIN_S = 2.0
_POLL_S = 0.02
_WORDS_PERIOD_S, _THRESHOLD_PERIOD_S, _LISTENER_PERIOD_S, _PASSER_BY_PERIOD_S = 1.0, 2.0, 3.0, 20.0
_MEMORY_PERIOD_S, _PROGRESS_PERIOD_S = 2.0, 60.0
# Each tenth vocabulary has a word that was never there before, which must be encoded while frames flow.
_FRESH_WORD_EVERY = 10
_SCORE_THRESHOLDS = (0.25, 0.35, 0.45)
_MASK_THRESHOLDS = (0.3, 0.5)
_MODEL_STATUS = '/segment: model'


class SoakError(FisaError):
    """The soak cannot go on."""


def camera_names(count: int) -> list[str]:
    """Return the names of the cameras; the only one has none."""
    return [''] if count == 1 else [f'camera{number}' for number in range(1, count + 1)]


def render_views(seed: int, *, with_depth: bool) -> SoakViews:
    """Return what a camera sees on its way through the simulated room of `seed`."""
    camera = SceneCamera(seed, _SIZE_WH)
    colors, depths = [], []
    try:
        for _ in range(_VIEWS):
            camera.step(_VIEW_STEP_S)
            colors.append(camera.color())
            if with_depth:
                depths.append(camera.depth())
    finally:
        camera.close()
    return SoakViews(camera, colors, depths)


def run_soak(options: SoakOptions, record: SoakRecord) -> None:
    """Fill the record; whatever ends the soak, the node is stopped and the record is as full as it can be.

    Raises:
        FisaError: No ROS domain is free, or the rooms cannot be rendered.
    """
    names = camera_names(options.cameras)
    with_depth = bool(options.node.get('depth'))
    print(f'rendering {_VIEWS} views for each of {len(names)} cameras', file=sys.stderr)
    views = [render_views(options.seed + number, with_depth=with_depth) for number in range(len(names))]
    parameters = dict(options.node)
    if len(names) > 1:
        parameters['cameras'] = f'[{", ".join(names)}]'
    log = options.out / 'segment_node.log'
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix='fisa_ros_soak_')))
        os.environ.update(domain_environment(stack.enter_context(reserved_domain())))
        os.environ['ROS_LOG_DIR'] = str(folder / 'ros')
        probe = stack.enter_context(SoakProbe(names, views, options.rate_hz))
        cache = {'XDG_CACHE_HOME': str(_own_cache(folder))}
        node = stack.enter_context(NodeProcess('segment_node', parameters, log, cache, options.command))
        stage = _Stage(options, names, record, probe, node)
        try:
            stage.play()
        except KeyboardInterrupt:
            record.is_interrupted = True
        except FisaError as error:
            record.trouble = f'{error}; the last lines of {log}:\n{node.log_tail()}'
        stage.end()
    record.tracebacks = log.read_text(encoding='utf-8', errors='replace').count('Traceback')


def _own_cache(folder: Path) -> Path:
    """Return a cache in which every word is new, with what was made of the models before."""
    cache = folder / 'cache'
    own = cache / cache_dir().name
    own.mkdir(parents=True)
    for path in cache_dir().glob('*'):
        if path.name != 'text':
            (own / path.name).symlink_to(path)
    return cache


class _Chore:
    """Something to do now and then."""

    def __init__(self, period_s: float, act: Callable[[], None]) -> None:
        self._pace = Pace(1.0 / period_s)
        self._act = act

    def do_if_due(self) -> None:
        if self._pace.wait_s() <= 0.0:
            self._pace.advance()
            self._act()


class _Stage:
    """One soak, from the first sign of life to the last frame."""

    def __init__(
        self, options: SoakOptions, names: Sequence[str], record: SoakRecord, probe: SoakProbe, node: NodeProcess
    ) -> None:
        self._options, self._names = options, names
        self._record, self._probe, self._node = record, probe, node
        self._began_s = 0.0
        self._requests = cycle(phase.request for phase in demo_phases()[:2])
        self._words_number = self._version = self._inferences = 0
        self._thresholds = cycle(
            [('score_threshold', value) for value in _SCORE_THRESHOLDS]
            + [('mask_threshold', value) for value in _MASK_THRESHOLDS]
        )
        self._passer_by: PassingNode | None = None
        self._reported_ns: dict[str, int] = {}
        probe.watch = self._check_node

    def play(self) -> None:
        probe, record = self._probe, self._record
        self._wait(probe.is_active, _START_TIMEOUT_S, 'did not become active')
        record.start_s = time.monotonic() - self._node.started_s
        self._wait(probe.is_matched, _SILENCE_TIMEOUT_S, 'does not listen to the cameras')
        probe.learn(probe.vocabulary())
        self._version = 1
        self._began_s = time.monotonic()
        probe.start()
        chores = [
            _Chore(_WORDS_PERIOD_S, self._change_words),
            _Chore(_THRESHOLD_PERIOD_S, self._change_threshold),
            _Chore(_LISTENER_PERIOD_S, self._change_listener),
            _Chore(_PASSER_BY_PERIOD_S, self._change_passer_by),
            _Chore(_MEMORY_PERIOD_S, self._measure_memory),
            _Chore(_PROGRESS_PERIOD_S, self._tell_progress),
        ]
        while (stream_s := time.monotonic() - self._began_s) < self._options.minutes * 60.0:
            record.stream_s = stream_s
            for chore in chores:
                chore.do_if_due()
            self._pause()
            self._read_reports()
        record.stream_s = stream_s

    def end(self) -> None:
        """Let the last frames be answered, then stop the node and take stock."""
        probe, record = self._probe, self._record
        probe.stop()
        if self._passer_by is not None:
            self._passer_by.__exit__(None, None, None)
        with suppress(FisaError, KeyboardInterrupt):
            time.sleep(_DRAIN_S)
            since_ns = probe.now_ns()
            self._wait(lambda: self._is_reported_after(since_ns), _SILENCE_TIMEOUT_S, 'sent no diagnostics')
        self._read_reports()
        if self._node.exit_code is not None:
            record.is_crash = True
        record.exit_code = self._node.stop()
        record.sent, record.skipped, record.ages_ms = probe.sent, probe.skipped, list(probe.ages_ms)
        for check in probe.checks:
            check.finish()
            record.checked += check.checked
            record.incomplete += check.incomplete
            if self._options.node.get('depth'):
                record.points_in.append(check.points_in)
                record.points_checked.append(check.points_checked)
            for entry in fields(record.faults):
                total = getattr(record.faults, entry.name) + getattr(check.faults, entry.name)
                setattr(record.faults, entry.name, total)

    def _change_words(self) -> None:
        self._words_number += 1
        request = next(self._requests)
        if self._words_number % _FRESH_WORD_EVERY == 0:
            request = replace(request, classes=(*request.classes, f'item {self._words_number}'))
        answer = self._probe.change_vocabulary(request, _SERVICE_TIMEOUT_S)
        if not answer.success:
            self._record.vocabulary_refusals.append(answer.message)
            return
        self._record.vocabulary_changes += 1
        # The first request asks for the words that the node begins with.
        self._record.version_jumps += answer.version - self._version not in (
            (0, 1) if self._words_number == 1 else (1,)
        )
        self._version = answer.version

    def _change_threshold(self) -> None:
        name, value = next(self._thresholds)
        reason = self._probe.set_parameter(name, value, _SERVICE_TIMEOUT_S)
        if reason:
            self._record.threshold_refusals.append(reason)
        else:
            self._record.threshold_changes += 1

    def _change_listener(self) -> None:
        self._probe.change_passing_listener(self._record.listeners)
        self._record.listeners += 1

    def _change_passer_by(self) -> None:
        if self._passer_by is not None:
            self._passer_by.__exit__(None, None, None)
        self._passer_by = PassingNode(self._names[self._record.listeners % len(self._names)]).__enter__()
        self._record.listeners += 1

    def _measure_memory(self) -> None:
        now_s, memory = time.monotonic() - self._began_s, memory_mb(self._node.pid)
        if memory:
            self._record.memory_mb.append((now_s, memory['rss'] - memory['shared']))
            self._record.shared_mb.append((now_s, memory['shared']))

    def _tell_progress(self) -> None:
        record = self._record
        if record.memory_mb and record.stream_s >= 1.0:
            print(
                f'minute {record.stream_s / 60:.0f}: {record.counts["answered"]} frames answered, vocabulary version '
                f'{self._version}, {record.memory_mb[-1][1]:.1f} MB',
                file=sys.stderr,
            )

    def _read_reports(self) -> None:
        """Add up what the node has said since the last time."""
        diagnostics, record = self._probe.diagnostics, self._record
        record.node_values = dict(diagnostics[_MODEL_STATUS].values) if _MODEL_STATUS in diagnostics else {}
        statuses = [diagnostics[name] for name in self._statuses if name in diagnostics]
        answered = sum(int(status.values['answered']) for status in statuses)
        times_ms = [float(text) for status in statuses if (text := status.values['mean_inference_ms'])]
        # Reports come each second, this is called more often; what counts is one look at each.
        if answered > record.counts['answered'] and times_ms:
            fresh = answered - record.counts['answered']
            total_ms = record.inference_ms * self._inferences + fresh * sum(times_ms) / len(times_ms)
            self._inferences += fresh
            record.inference_ms = total_ms / self._inferences
        record.counts = {key: sum(int(status.values[key]) for status in statuses) for key in COUNTS}

    @property
    def _statuses(self) -> list[str]:
        return [f'/segment: {topic}' for topic in self._probe.topics]

    def _is_reported_after(self, since_ns: int) -> bool:
        diagnostics = self._probe.diagnostics
        return all(name in diagnostics and diagnostics[name].stamp_ns > since_ns for name in self._statuses)

    def _wait(self, condition: Callable[[], bool], timeout_s: float, what: str) -> None:
        deadline_s = time.monotonic() + timeout_s
        while not condition():
            if time.monotonic() > deadline_s:
                raise SoakError(f'the segment node {what} within {timeout_s:g} s')
            self._pause()

    def _pause(self) -> None:
        time.sleep(_POLL_S)
        self._check_node()

    def _check_node(self) -> None:
        if self._node.exit_code is not None:
            raise SoakError(f'the segment node ended with exit code {self._node.exit_code}')
