"""What the demo found, as numbers for programs and as a table for people."""

from collections.abc import Mapping
import math
from typing import Any

import numpy as np

from fisa_ros.evaluation.recording import AnsweredFrame
from fisa_ros.evaluation.recording_scorer import RecordingScorer, Scores
from fisa_ros.tools.demo_record import DemoRecord, PhaseRecord

_COLUMNS = ('words', 'frames', 'p50 ms', 'p95 ms', 'mIoU', 'PQ', 'SQ', 'RQ', 'PQ things', 'PQ stuff')


def summarize(record: DemoRecord, scorer: RecordingScorer) -> dict[str, Any]:
    """Return the content of `summary.json`; metrics are fractions, null where nothing could be measured."""
    faults = scorer.faults
    summary: dict[str, Any] = {
        'frames_in': record.frames_in,
        'frames_out': len(record.frames),
        'fps': round(len(record.frames) / record.seconds, 3),
        'camera_fps': round(record.frames_in / record.seconds, 3),
        'seconds': round(record.seconds, 3),
        'latency_ms': _latency_ms(record.frames),
        'dropped': record.dropped,
        'refused': record.refused,
        'camera_skipped': record.skipped,
        **record.node,
        'node_start_s': round(record.start_s, 3),
        'vocabulary_changes': [_change(phase) for phase in record.phases],
        **_scores(scorer.total),
        'phases': [
            {
                'name': phase.phase.name,
                'version': phase.vocabulary.version,
                'classes': len(phase.vocabulary.classes),
                'latency_ms': _latency_ms(_frames_of(phase, record)),
                **_scores(scorer.by_version.get(phase.vocabulary.version, Scores.empty(scorer.is_thing))),
            }
            for phase in record.phases
        ],
        'wrong_stamps': record.wrong_stamps,
        'mixed_vocabularies': faults.mixed_vocabularies + faults.unknown_versions,
        'contradictions': faults.contradictions,
        'frames_without_truth': faults.without_truth,
        'exit_codes': record.exit_codes,
    }
    summary['failures'] = _failures(summary)
    return summary


def table(summary: Mapping[str, Any]) -> str:
    """Return the summary for a person; metrics times 100."""
    rows = [('', *_COLUMNS), *(_row(phase['name'], phase['classes'], phase) for phase in summary['phases'])]
    rows.append(_row('all', '', summary))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ['  '.join(_aligned(row, widths)).rstrip() for row in rows]
    lines.insert(1, '-' * max(map(len, lines)))
    lines.insert(-1, lines[1])
    latency = summary['latency_ms']
    lines += [
        '',
        f'{summary["model"]}, {summary["backend"]} on {summary["device"]}: '
        f'{summary["fps"]:.1f} frames/s of {summary["camera_fps"]:.1f} from the camera, '
        f'latency p50 {_number(latency["p50"])}, p95 {_number(latency["p95"])}, p99 {_number(latency["p99"])} ms',
        f'{summary["frames_in"]} frames in, {summary["frames_out"]} out, {summary["dropped"]} dropped for newer ones; '
        f'wrong stamps {summary["wrong_stamps"]}, mixed vocabularies {summary["mixed_vocabularies"]}, '
        f'contradictions {summary["contradictions"]}',
    ]
    few = summary['phases'][-1]
    if few['absent_unlabeled'] is not None:
        share = 100 * few['absent_unlabeled']
        lines.append(f'{few["name"]}: {share:.0f} % of what has no word was left unlabelled')
    return '\n'.join(lines)


def _change(phase: PhaseRecord) -> dict[str, Any]:
    answer = phase.answer
    return {
        'version': answer.version,
        'classes': [entry.text for entry in phase.vocabulary.classes],
        'message': answer.message,
        'encode_ms': round(answer.encode_ms, 3),
        'answer_ms': round(phase.answer_ms, 3),
        'ms_to_first_frame': round(phase.ms_to_first_frame, 3),
    }


def _frames_of(phase: PhaseRecord, record: DemoRecord) -> list[AnsweredFrame]:
    return [frame for frame in record.frames if frame.vocabulary_version == phase.vocabulary.version]


def _latency_ms(frames: list[AnsweredFrame]) -> dict[str, float | None]:
    levels = (50, 95, 99)
    if not frames:
        return {f'p{level}': None for level in levels}
    values = np.percentile([frame.latency_ms for frame in frames], levels)
    return {f'p{level}': round(float(value), 3) for level, value in zip(levels, values, strict=True)}


def _scores(scores: Scores) -> dict[str, float | int | None]:
    quality = scores.quality.compute()
    absent = scores.absent_unlabeled_pixels / scores.absent_pixels if scores.absent_pixels else math.nan
    numbers = {
        'miou': scores.mean_iou.compute().mean_iou,
        'pq': quality.all.pq,
        'sq': quality.all.sq,
        'rq': quality.all.rq,
        'pq_things': quality.things.pq,
        'pq_stuff': quality.stuff.pq,
        'absent_unlabeled': absent,
    }
    rounded = {key: None if math.isnan(value) else round(value, 6) for key, value in numbers.items()}
    return {'frames_scored': scores.frames, **rounded}


def _failures(summary: Mapping[str, Any]) -> list[str]:
    failures = [
        f'no frame was scored with the vocabulary {phase["name"]!r}'
        for phase in summary['phases']
        if not phase['frames_scored']
    ]
    failures += [
        f'{key}: {summary[key]}' for key in ('wrong_stamps', 'mixed_vocabularies', 'contradictions') if summary[key]
    ]
    failures += [f'{name} ended with exit code {code}' for name, code in summary['exit_codes'].items() if code]
    return failures


def _row(name: str, words: object, numbers: Mapping[str, Any]) -> tuple[str, ...]:
    latency = numbers['latency_ms']
    return (
        name,
        str(words),
        str(numbers['frames_scored']),
        _number(latency['p50']),
        _number(latency['p95']),
        *(_percent(numbers[key]) for key in ('miou', 'pq', 'sq', 'rq', 'pq_things', 'pq_stuff')),
    )


def _aligned(row: tuple[str, ...], widths: list[int]) -> list[str]:
    return [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]


def _number(value: float | None) -> str:
    return '-' if value is None else f'{value:.0f}'


def _percent(value: float | None) -> str:
    return '-' if value is None else f'{100 * value:.1f}'
