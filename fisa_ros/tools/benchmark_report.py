"""What was measured, as numbers for programs."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from fisa_ros.evaluation.timing_statistics import Ratio, median_of_ratios, ratio_of_medians, summarize_times
from fisa_ros.tools.benchmark_configuration import Configuration
from fisa_ros.tools.benchmark_machine import describe_gpu, memory_mb
from fisa_ros.tools.benchmark_options import BenchmarkOptions
from fisa_ros.tools.benchmark_roofline import find_peak, graph_costs, roofline
from fisa_ros.tools.benchmark_session import BenchmarkSession, Point


def report_single(session: BenchmarkSession, options: BenchmarkOptions) -> dict[str, Any]:
    """Return the numbers of the only configuration."""
    memory = _memory(session)
    (report,) = _reports(session, options)
    return rounded({**report, 'memory_mb': memory})


def report_sweep(session: BenchmarkSession, options: BenchmarkOptions, key: str) -> dict[str, Any]:
    """Return the numbers of each value of `key`, with the ratio of each to the first, round by round."""
    memory = _memory(session)
    base = session.points[0].total_ms
    rows = [
        {key: point.configuration.describe(key), **report, 'ratio': asdict(median_of_ratios(point.total_ms, base))}
        for point, report in zip(session.points, _reports(session, options), strict=True)
    ]
    return rounded({'swept': key, 'sweep': rows, 'memory_mb': memory})


def report_against(session: BenchmarkSession, options: BenchmarkOptions, keys: Sequence[str]) -> dict[str, Any]:
    """Return the numbers of two configurations, the ratio of the second to the first, and how far they agree."""
    memory = _memory(session)
    first, second = session.points
    reports = _reports(session, options)
    differing = [{key: point.configuration.describe(key) for key in keys} for point in session.points]
    stages = [stage for stage in reports[0]['stages_ms'] if stage in reports[1]['stages_ms']]
    stage_ratios = {stage: _stage_ratio(first, second, stage) for stage in stages}
    return rounded(
        {
            'compared': [{'changed': changed, **report} for changed, report in zip(differing, reports, strict=True)],
            'ratio': asdict(ratio_of_medians(second.total_ms, first.total_ms)),
            'stage_ratios': {stage: asdict(ratio) for stage, ratio in stage_ratios.items() if ratio is not None},
            'label_agreement': float(np.mean(second.agreement)) if second.agreement else None,
            'agreement_frames': len(second.agreement),
            'memory_mb': memory,
        }
    )


def rounded(report: Mapping[str, Any]) -> dict[str, Any]:
    """Return a report with all numbers to six significant digits."""
    return {key: _rounded(value) for key, value in report.items()}


def _rounded(value: Any) -> Any:
    if isinstance(value, Mapping):
        return rounded(value)
    if isinstance(value, list | tuple):
        return [_rounded(entry) for entry in value]
    return float(f'{value:.6g}') if isinstance(value, float) else value


def _description(configuration: Configuration, point: Point) -> dict[str, Any]:
    """Return what a configuration came to: model, back-end, sizes and words."""
    backend = point.segmenter.backend
    height, width = backend.image_size_hw
    return {
        'model': point.segmenter.manifest.name,
        'backend': backend.name,
        'device': backend.device,
        'threads': getattr(backend, 'threads', None),
        'precision': backend.precision,
        'masks': configuration.masks,
        'size': configuration.describe('size'),
        'network_size': f'{width}x{height}',
        'resize': point.segmenter.manifest.resize.kind,
        'words': len(point.vocabulary.vocabulary.classes),
        'names_per_word': point.vocabulary.num_names,
        'made_up_names': len(point.vocabulary.made_up),
    }


def _reports(session: BenchmarkSession, options: BenchmarkOptions) -> list[dict[str, Any]]:
    peaks: dict[tuple[str, int | None], Any] = {}
    reports = []
    for point in session.points:
        report = _description(point.configuration, point) | _times(point)
        costs = graph_costs(point.segmenter.manifest, point.segmenter.backend, point.runner.state)
        ran_on = (report['device'], report['threads'])
        if 'not_available' not in costs and ran_on not in peaks:
            # Only now, as it takes memory of its own.
            peaks[ran_on] = find_peak(*ran_on, options.peak_gflops, options.peak_gb_s)
        p50_ms = {stage: times['p50'] for stage, times in report['stages_ms'].items()}
        reports.append(report | {'roofline': roofline(costs, p50_ms, peaks.get(ran_on))})
    return reports


def _times(point: Point) -> dict[str, Any]:
    total = summarize_times(point.total_ms)
    # The last frame has them in order; a stage that not every frame has, such as words that go up, comes after them.
    stages = dict.fromkeys(
        [*point.timings[-1].stages_ms, *(name for entry in point.timings for name in entry.stages_ms)]
    )
    networks_ms = float(np.mean([timing.networks_ms for timing in point.timings]))
    return {
        'total_ms': total,
        'stages_ms': {
            stage: summarize_times([entry.stages_ms[stage] for entry in point.timings if stage in entry.stages_ms])
            for stage in stages
        },
        'frames_per_s': 1e3 / total['mean'],
        'around_graphs': 1.0 - networks_ms / total['mean'],
    }


def _stage_ratio(first: Point, second: Point, stage: str) -> Ratio | None:
    times = [[timing.stages_ms.get(stage, 0.0) for timing in point.timings] for point in (second, first)]
    # No time at all cannot be compared, such as that of copies on a CPU.
    return ratio_of_medians(*times) if min(map(min, times)) > 0.0 else None


def _memory(session: BenchmarkSession) -> dict[str, float | None]:
    memory: dict[str, float | None] = {**session.memory_mb, 'peak': memory_mb()['peak']}
    for device in sorted({point.segmenter.backend.device for point in session.points} - {'cpu'}):
        gpu = describe_gpu(device)
        memory[device] = gpu[1] if gpu else None
    return memory
