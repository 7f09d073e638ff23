"""The node's state as a diagnostics message."""

from collections.abc import Mapping, Sequence

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from std_msgs.msg import Header

from fisa_ros.node.camera_depth import DepthReport
from fisa_ros.node.stream_counters import StreamReport
from fisa_ros.node.vocabulary_holder import VocabularyInUse
from fisa_ros.runtime.switching_backend import SwitchingBackend

_STALE_S = 5.0


def build_diagnostics(
    node_name: str,
    state: str,
    is_enabled: bool,
    in_use: VocabularyInUse | None,
    reports: Sequence[tuple[str, StreamReport, DepthReport | None]],
    header: Header,
) -> DiagnosticArray:
    """Return one status for the node and one for each camera.

    Args:
        node_name: Full name of the node.
        state: State of its lifecycle.
        is_enabled: False while paused by `set_enabled`.
        in_use: The model and the vocabulary, if one is loaded.
        reports: For each camera the name of its input topic, its frames and its depth, if that is used.
        header: With the node's time.
    """
    is_running = state == 'active' and is_enabled
    message = 'paused' if state == 'active' and not is_enabled else state
    values = {'state': state, 'enabled': str(is_enabled).lower()}
    level, hardware_id = DiagnosticStatus.OK, ''
    if in_use is not None:
        backend = in_use.segmenter.backend
        hardware_id = backend.device
        values |= {
            'model': in_use.segmenter.manifest.name,
            'backend': backend.name,
            'device': backend.device,
            'precision': backend.precision,
            'vocabulary_version': str(in_use.vocabulary.version),
            'classes': str(len(in_use.vocabulary.classes)),
        }
        if isinstance(backend, SwitchingBackend):
            status = backend.status
            values['engines'] = status.build.describe()
            if status.is_degraded:
                level = DiagnosticStatus.ERROR if status.is_lost else DiagnosticStatus.WARN
                message = f'{message}; {status.describe()}'
    statuses = [_status(level, f'{node_name}: model', message, hardware_id, values)]
    for topic, report, depth in reports:
        level, message = _judge(report, is_running)
        values = _values(report)
        if depth is not None:
            values |= _depth_values(depth)
            if level == DiagnosticStatus.OK and is_running and (trouble := _depth_trouble(depth)):
                level, message = DiagnosticStatus.WARN, trouble
        statuses.append(_status(level, f'{node_name}: {topic}', message, topic, values))
    return DiagnosticArray(header=header, status=statuses)


def _judge(report: StreamReport, is_running: bool) -> tuple[bytes, str]:
    if not is_running:
        return DiagnosticStatus.OK, 'not running'
    if report.is_mismatched:
        return DiagnosticStatus.ERROR, 'no publisher can reach this node: their quality of service does not match'
    if report.silent_s >= _STALE_S:
        return DiagnosticStatus.STALE, f'no image for {report.silent_s:.0f} s'
    if report.stuck_s >= _STALE_S:
        return DiagnosticStatus.ERROR, f'stuck: no answer for {report.stuck_s:.0f} s while images wait'
    if not report.received:
        return DiagnosticStatus.WARN, 'no image'
    if report.recently_refused:
        level = DiagnosticStatus.WARN if report.recently_answered else DiagnosticStatus.ERROR
        return level, report.last_error
    return DiagnosticStatus.OK, f'{report.output_rate_hz:.1f} frames/s'


def _values(report: StreamReport) -> dict[str, str]:
    def text(value: float | None) -> str:
        return '' if value is None else f'{value:.1f}'

    return {
        'received': str(report.received),
        'answered': str(report.answered),
        'dropped': str(report.dropped),
        'refused': str(report.refused),
        'input_rate_hz': text(report.input_rate_hz),
        'output_rate_hz': text(report.output_rate_hz),
        'max_latency_ms': text(report.max_latency_ms),
        'max_inference_ms': text(report.max_inference_ms),
        'mean_inference_ms': text(report.mean_inference_ms),
        'max_age_ms': text(report.max_age_ms),
        'silent_s': text(report.silent_s),
        'last_error': report.last_error,
    }


def _depth_trouble(depth: DepthReport) -> str:
    if depth.silent_s >= _STALE_S:
        return f'no depth for {depth.silent_s:.0f} s'
    if depth.recently_refused:
        return depth.last_error
    if depth.recently_unpaired and not depth.recently_published:
        return (
            f'no depth within depth_tolerance_s of the images; the nearest was {depth.nearest_s:.3f} s away'
            if depth.nearest_s is not None
            else 'no depth comes while its images are remembered'
        )
    return ''


def _depth_values(depth: DepthReport) -> dict[str, str]:
    return {
        'depth_received': str(depth.received),
        'depth_published': str(depth.published),
        'depth_unpaired': str(depth.unpaired),
        'depth_refused': str(depth.refused),
        'depth_last_error': depth.last_error,
    }


def _status(level: bytes, name: str, message: str, hardware_id: str, values: Mapping[str, str]) -> DiagnosticStatus:
    pairs: Sequence[KeyValue] = [KeyValue(key=key, value=value) for key, value in values.items()]
    return DiagnosticStatus(level=level, name=name, message=message, hardware_id=hardware_id, values=pairs)
