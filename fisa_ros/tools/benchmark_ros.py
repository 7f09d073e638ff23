"""Measures a segment node in a process of its own, from the stamp of an image to its mask."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from itertools import pairwise
import time
from typing import TYPE_CHECKING, Any

from tqdm import tqdm
import yaml

from fisa_ros.core.vocabulary import MONO8_MAX_ID
from fisa_ros.evaluation.frame_files import read_frames
from fisa_ros.evaluation.sized_vocabulary import SizedVocabulary
from fisa_ros.evaluation.timing_statistics import ratio_of_medians, summarize_times
from fisa_ros.runtime.build_progress import BuildState
from fisa_ros.tools.benchmark_configuration import BenchmarkError, Configuration
from fisa_ros.tools.benchmark_machine import cpu_seconds, memory_mb
from fisa_ros.tools.benchmark_masks import open_manifest
from fisa_ros.tools.benchmark_options import BenchmarkOptions
from fisa_ros.tools.benchmark_report import rounded
from fisa_ros.tools.node_process import NodeProcess
from fisa_ros.tools.ros_domain import own_domain

if TYPE_CHECKING:
    from fisa_ros.node.latency_probe import LatencyProbe, NodeReport

_START_TIMEOUT_S = 180.0
_BUILD_TIMEOUT_S = 3600.0
_SILENCE_TIMEOUT_S = 30.0
_POLL_S = 0.02
_MODEL_STATUS = '/segment: model'
_LOG_LINES = 10
_UNFINISHED = (BuildState.ABSENT, BuildState.BUILDING, BuildState.VERIFYING)


def measure_through_ros(configuration: Configuration, options: BenchmarkOptions) -> dict[str, Any]:
    """Return the numbers of one configuration.

    Raises:
        FisaError: The node cannot run it, did not start or did not answer.
    """
    summary, _ = _measure(configuration, options)
    return rounded(summary)


def sweep_through_ros(configurations: Sequence[Configuration], options: BenchmarkOptions, key: str) -> dict[str, Any]:
    """Return the numbers of configurations that differ in `key`, each in a node of its own, one after the other."""
    for configuration in configurations:
        _check(configuration)
    measured = [_measure(configuration, options) for configuration in configurations]
    base = measured[0][1]
    rows = [
        {
            **summary,
            key: configuration.describe(key),
            'ratio': asdict(ratio_of_medians(latencies, base, is_paired=False)),
        }
        for configuration, (summary, latencies) in zip(configurations, measured, strict=True)
    ]
    return rounded({'swept': key, 'sweep': rows})


def _check(configuration: Configuration) -> None:
    """Refuse what the node has no parameter for."""
    from fisa_ros.node.parameters import rules
    from fisa_ros.node.segment_parameters import SegmentParameters

    known = rules(SegmentParameters)
    if configuration.threads is not None:
        raise BenchmarkError(
            f'threads={configuration.threads} cannot be chosen through ROS: the node has no such parameter'
        )
    choices = known['backend'].choices
    if configuration.backend not in choices:
        raise BenchmarkError(
            f'back-end {configuration.backend!r} cannot be measured through ROS, choose one of {", ".join(choices)}'
        )


def _measure(configuration: Configuration, options: BenchmarkOptions) -> tuple[dict[str, Any], list[float]]:
    """Return the numbers of one configuration and each latency in milliseconds."""
    _check(configuration)
    vocabulary = SizedVocabulary.make(configuration.vocabulary, configuration.words, configuration.synonyms)
    frames = read_frames(options.images, configuration.size)
    cameras = [''] if configuration.cameras == 1 else [f'camera{number}' for number in range(configuration.cameras)]
    is_small = max(vocabulary.vocabulary.class_ids) <= MONO8_MAX_ID
    with own_domain() as folder, ExitStack() as stack:
        words = folder / 'words.yaml'
        words.write_text(yaml.safe_dump(vocabulary.document()), encoding='utf-8')
        parameters = {
            'model': open_manifest(configuration).argument,
            'backend': configuration.backend,
            'device': configuration.device,
            'precision': configuration.precision,
            'vocabulary': str(words),
            'mask_encoding': 'mono8' if is_small else 'mono16',
        }
        if configuration.cameras != 1:
            parameters['cameras'] = f'[{", ".join(cameras)}]'
        # Here, for the environment tells which domain it is in.
        from fisa_ros.node.latency_probe import LatencyProbe

        probe = stack.enter_context(LatencyProbe(frames, cameras, options.rate_hz))
        node = stack.enter_context(NodeProcess('segment_node', parameters, folder / 'segment_node.log'))
        summary, latencies = _Watch(probe, node, cameras).measure(options, configuration.backend)
    return {
        'model': summary.pop('model'),
        'backend': summary.pop('backend'),
        'device': summary.pop('device'),
        'precision': summary.pop('precision'),
        'threads': None,
        'masks': configuration.masks,
        'size': configuration.describe('size'),
        'words': len(vocabulary.vocabulary.classes),
        'names_per_word': vocabulary.num_names,
        'made_up_names': len(vocabulary.made_up),
        'cameras': configuration.cameras,
        'rate_hz': options.rate_hz,
        **summary,
    }, latencies


class _Watch:
    """Follows one node from its start to its last counted answer."""

    def __init__(self, probe: 'LatencyProbe', node: NodeProcess, cameras: Sequence[str]) -> None:
        self._probe, self._node = probe, node
        self._streams = [f'/segment: /{camera + "/" if camera else ""}image' for camera in cameras]

    def measure(self, options: BenchmarkOptions, backend: str) -> tuple[dict[str, Any], list[float]]:
        probe = self._probe
        self._wait(self._is_active, _START_TIMEOUT_S, 'did not become active')
        start_s = time.monotonic() - self._node.started_s
        self._wait_for_engines(is_required=backend == 'tensorrt')
        probe.start()
        # One more, for the first image may have waited for the node to find the camera.
        self._answers(options.warm_up + 1)
        first = self._next_report()
        before_s, began_s = cpu_seconds(self._node.pid), time.monotonic()
        self._answers(len(probe.answers) + options.frames)
        last = self._next_report()
        spent_s, seconds = cpu_seconds(self._node.pid) - before_s, time.monotonic() - began_s
        probe.stop()
        memory = memory_mb(self._node.pid)
        # Between two reports of the node, so that its own numbers are of the same frames.
        counted = [answer for answer in list(probe.answers) if first.stamp_ns < answer.arrived_ns <= last.stamp_ns]
        latencies = [answer.latency_ms for answer in counted]
        reports = [report for report in list(probe.reports) if first.stamp_ns < report.stamp_ns <= last.stamp_ns]
        latency, inference_ms = summarize_times(latencies), self._mean_inference_ms([first, *reports])
        model = last.values[_MODEL_STATUS]
        return {
            **{key: model[key] for key in ('model', 'backend', 'device', 'precision')},
            'seconds': (last.stamp_ns - first.stamp_ns) * 1e-9,
            'latency_ms': latency,
            'inference_ms': inference_ms,
            'overhead_ms': latency['mean'] - inference_ms,
            'frames_per_s': len(counted) / ((last.stamp_ns - first.stamp_ns) * 1e-9),
            'dropped': self._count('dropped', last) - self._count('dropped', first),
            'node_cpu_percent': 100.0 * spent_s / seconds,
            'node_rss_mb': memory['rss'],
            'node_peak_mb': memory['peak'],
            'node_start_s': start_s,
        }, latencies

    def _mean_inference_ms(self, reports: Sequence['NodeReport']) -> float:
        """Return the mean of all frames between the first and the last of reports that follow each other."""
        total_ms, frames = 0.0, 0
        for stream in self._streams:
            for earlier, later in pairwise(reports):
                answered = int(later.values[stream]['answered']) - int(earlier.values[stream]['answered'])
                if answered:
                    total_ms += answered * float(later.values[stream]['mean_inference_ms'])
                    frames += answered
        return total_ms / max(frames, 1)

    def _count(self, key: str, report: 'NodeReport') -> int:
        return sum(int(report.values[stream][key]) for stream in self._streams)

    def _is_active(self) -> bool:
        reports = self._probe.reports
        is_active = bool(reports) and reports[-1].values.get(_MODEL_STATUS, {}).get('state') == 'active'
        return is_active and all(stream in reports[-1].values for stream in self._streams)

    def _wait_for_engines(self, *, is_required: bool) -> None:
        """Wait while the node makes engines: what serves meanwhile is not what shall be measured."""

        def engines() -> str:
            return self._probe.reports[-1].values[_MODEL_STATUS].get('engines', '')

        self._wait(lambda: not engines().startswith(_UNFINISHED), _BUILD_TIMEOUT_S, 'made no engines')
        if is_required and not engines().startswith(BuildState.READY):
            raise BenchmarkError(f'the segment node has no TensorRT engines: {engines()}')

    def _answers(self, count: int) -> None:
        with tqdm(total=count, initial=len(self._probe.answers), unit='frame', leave=False, disable=None) as bar:
            answered, since_s = -1, time.monotonic()
            while len(self._probe.answers) < count:
                if len(self._probe.answers) != answered:
                    answered, since_s = len(self._probe.answers), time.monotonic()
                    bar.update(answered - bar.n)
                if time.monotonic() > since_s + _SILENCE_TIMEOUT_S:
                    raise BenchmarkError(f'the segment node answered nothing for {_SILENCE_TIMEOUT_S:g} s{self._log()}')
                self._pause()

    def _next_report(self) -> 'NodeReport':
        """Return a report that was made after all answers so far."""
        reports, since_ns = self._probe.reports, self._probe.answers[-1].arrived_ns
        self._wait(lambda: reports[-1].stamp_ns > since_ns, _SILENCE_TIMEOUT_S, 'sent no diagnostics')
        return reports[-1]

    def _wait(self, condition: Callable[[], bool], timeout_s: float, what: str) -> None:
        deadline_s = time.monotonic() + timeout_s
        while not condition():
            if time.monotonic() > deadline_s:
                raise BenchmarkError(f'the segment node {what} within {timeout_s:g} s{self._log()}')
            self._pause()

    def _pause(self) -> None:
        time.sleep(_POLL_S)
        if self._node.exit_code is not None:
            raise BenchmarkError(f'the segment node ended with exit code {self._node.exit_code}{self._log()}')

    def _log(self) -> str:
        return f'; its last lines:\n{self._node.log_tail(_LOG_LINES)}'
