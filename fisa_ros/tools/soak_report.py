"""What the soak found, as numbers and as reasons to fail."""

from typing import Any

import numpy as np

from fisa_ros.evaluation.memory_growth import measure_growth
from fisa_ros.tools.soak_record import SoakOptions, SoakRecord

MAX_GROWTH_PERCENT = 2.0
MAX_AGE_PERIODS = 2.0
_DIGITS = 3
_REASONS_SHOWN = 3


def summarize(options: SoakOptions, record: SoakRecord) -> dict[str, Any]:
    """Return the numbers and, as `violations`, what is not as it must be.

    `inference_period_ms` is the mean time from one answered frame of a camera to its next, `inference_ms` that of one
    frame in the model. With several cameras a frame may wait for its turn, but never in a queue.

    The growth is that of the node's own memory. Whatever a publisher has in flight at the worst moment lies in pages of
    its shared-memory segment; having read them once, the node counts as their user for good, up to the segment's size.
    """
    counts = record.counts
    ages_ms = np.array(record.ages_ms or [np.nan])
    growth, shared = measure_growth(record.memory_mb), measure_growth(record.shared_mb)
    summary: dict[str, Any] = {
        'minutes': record.stream_s / 60.0,
        'minutes_asked': options.minutes,
        'cameras': options.cameras,
        'rate_hz': options.rate_hz,
        'start_s': record.start_s,
        **{key: record.node_values.get(key) for key in ('model', 'backend', 'device', 'precision')},
        'frames_sent': record.sent,
        'frames_in': counts['received'],
        'frames_out': counts['answered'],
        'frames_dropped': counts['dropped'],
        'frames_refused': counts['refused'],
        'frames_waiting': counts['received'] - counts['answered'] - counts['dropped'] - counts['refused'],
        'sender_skipped': record.skipped,
        'answers_received': len(record.ages_ms),
        'answers_checked': record.checked,
        'points_in': record.points_in,
        'points_checked': record.points_checked,
        'wrong_stamps': record.faults.wrong_stamps,
        'mixed_vocabularies': record.faults.mixed_vocabularies,
        'contradictions': record.faults.contradictions,
        'wrong_points': record.faults.wrong_points,
        'unannounced_versions': record.faults.unannounced,
        'crashes': int(record.is_crash),
        'tracebacks': record.tracebacks,
        'exit_code': record.exit_code,
        'vocabulary_changes': record.vocabulary_changes,
        'vocabulary_refusals': len(record.vocabulary_refusals),
        'version_jumps': record.version_jumps,
        'threshold_changes': record.threshold_changes,
        'threshold_refusals': len(record.threshold_refusals),
        'listeners': record.listeners,
        'memory_mb': {
            'start': growth.start_mb if growth else None,
            'end': growth.end_mb if growth else None,
            'last': record.memory_mb[-1][1] if record.memory_mb else None,
            'shared_start': shared.start_mb if shared else None,
            'shared_end': shared.end_mb if shared else None,
        },
        'memory_growth_percent': growth.percent if growth else None,
        'age_ms': {
            'p50': float(np.percentile(ages_ms, 50)) if record.ages_ms else None,
            'p95': float(np.percentile(ages_ms, 95)) if record.ages_ms else None,
            'max': float(ages_ms.max()) if record.ages_ms else None,
        },
        'inference_period_ms': options.cameras * record.stream_s * 1e3 / counts['answered']
        if counts['answered']
        else None,
        'inference_ms': record.inference_ms,
        'interrupted': record.is_interrupted,
    }
    summary = _rounded(summary)
    summary['violations'] = _violations(summary, record)
    return summary


def table(summary: dict[str, Any]) -> str:
    """Return the numbers for people."""
    lines = []
    for key, value in summary.items():
        if key != 'violations':
            shown = ', '.join(f'{name} {entry}' for name, entry in value.items()) if isinstance(value, dict) else value
            lines.append(f'{key:22} {shown}')
    return '\n'.join(lines)


def _violations(summary: dict[str, Any], record: SoakRecord) -> list[str]:
    found = [record.trouble] if record.trouble else []
    for key in (
        'crashes',
        'tracebacks',
        'exit_code',
        'wrong_stamps',
        'mixed_vocabularies',
        'contradictions',
        'wrong_points',
        'unannounced_versions',
        'version_jumps',
        'frames_refused',
        'frames_waiting',
        'vocabulary_refusals',
        'threshold_refusals',
    ):
        if summary[key]:
            found.append(f'{key} is {summary[key]}, must be 0')
    found += [
        f'refused: {reason}' for reason in (record.vocabulary_refusals + record.threshold_refusals)[:_REASONS_SHOWN]
    ]
    for key in ('answers_checked', 'vocabulary_changes', 'threshold_changes'):
        if not summary[key]:
            found.append(f'{key} is 0')
    if 0 in summary['points_checked']:
        found.append(f'points_checked is {summary["points_checked"]}, must be above 0 for each camera')
    growth = summary['memory_growth_percent']
    if growth is not None and growth >= MAX_GROWTH_PERCENT:
        found.append(f'memory_growth_percent is {growth}, must be below {MAX_GROWTH_PERCENT}')
    age_ms, period_ms = summary['age_ms']['p95'], summary['inference_period_ms']
    if age_ms is not None and period_ms and age_ms >= MAX_AGE_PERIODS * period_ms:
        found.append(f'age_ms p95 is {age_ms}, must be below {MAX_AGE_PERIODS:g} x inference_period_ms {period_ms}')
    return found


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(entry) for key, entry in value.items()}
    return round(value, _DIGITS) if isinstance(value, float) else value
