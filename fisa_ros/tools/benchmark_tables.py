"""What was measured, as tables for people."""

from collections.abc import Mapping, Sequence
from typing import Any

_NAMES = {
    'decode': 'decode message',
    'resize': 'resize',
    'upload': 'upload',
    'words': 'upload new words',
    'encoder': 'encoder',
    'head': 'head',
    'networks': 'networks',
    'download': 'download',
    'segments': 'list segments',
    'messages': 'make messages',
}


def show(summary: Mapping[str, Any]) -> None:
    """Print a summary of any kind."""
    for line in _header(summary):
        print(line)
    print()
    if 'sweep' in summary:
        lines = _sweep(summary)
    elif 'messages' in summary:
        lines = _messages(summary)
    elif 'compared' in summary:
        lines = _compared(summary)
    elif 'latency_ms' in summary:
        lines = _ros(summary)
    else:
        lines = [*_stages(summary), '', *_conclusions(summary)]
    print('\n'.join(lines))
    if 'memory_mb' in summary:
        print(_memory(summary['memory_mb']))


def _header(summary: Mapping[str, Any]) -> list[str]:
    machine = summary['machine']
    versions = ', '.join(f'{name} {number}' for name, number in machine['versions'].items())
    lines = [f'{machine["cpu"]}, {_count(machine["cores"], "core")}; {versions}']
    if 'messages' in summary:
        return lines
    reports = summary.get('sweep') or summary.get('compared') or [summary]
    described = list(dict.fromkeys(map(_describe, reports)))
    return [*lines, *described]


def _describe(report: Mapping[str, Any]) -> str:
    threads = '' if report['threads'] is None else f', {_count(report["threads"], "thread")}'
    network = f' -> {report["network_size"]}' if report.get('network_size') else ''
    masks = '' if report['masks'] is None else f', {_count(report["masks"], "mask")}'
    made_up = f', {report["made_up_names"]} names made up' if report['made_up_names'] else ''
    return (
        f'{report["model"]} ({report["backend"]} on {report["device"]}, {report["precision"]}{threads}){masks}, '
        f'images {report["size"]}{network}, '
        f'{_count(report["words"], "word")} x {_count(report["names_per_word"], "name")}{made_up}'
    )


def _stages(report: Mapping[str, Any]) -> list[str]:
    total = report['total_ms']
    rows: list[tuple[str, ...]] = [('ms', 'mean', 'p50', 'p95', 'p99', '% of total')]
    for stage, times in report['stages_ms'].items():
        rows.append(_row(_NAMES.get(stage, stage), times, times['mean'] * times['n'] / total['n'] / total['mean']))
    rest_ms = total['mean'] - sum(entry['mean'] * entry['n'] for entry in report['stages_ms'].values()) / total['n']
    rows.append(('between stages', f'{rest_ms:.3f}', '', '', '', f'{100 * rest_ms / total["mean"]:.1f}'))
    rows.append(_row('total', total, 1.0))
    lines = align(rows)
    lines.insert(-1, '-' * max(map(len, lines)))
    return lines


def _row(name: str, times: Mapping[str, float], share: float) -> tuple[str, ...]:
    return name, *(f'{times[key]:.3f}' for key in ('mean', 'p50', 'p95', 'p99')), f'{100 * share:.1f}'


def _conclusions(report: Mapping[str, Any]) -> list[str]:
    lines = [
        f'{report["total_ms"]["n"]} frames, {report["frames_per_s"]:.2f} frames/s, '
        f'{100 * report["around_graphs"]:.1f} % of the time around the graphs'
    ]
    if 'decode' not in report['stages_ms']:
        lines.append('messages were not measured: ROS is not there')
    return [*lines, *_roofline(report['roofline'])]


def _roofline(report: Mapping[str, Any]) -> list[str]:
    if 'not_available' in report:
        return [f'roofline: not available, {report["not_available"]}']
    peak = report['peak']
    lines = []
    for stage in ('encoder', 'head'):
        if stage not in report:
            continue
        entry = report[stage]
        line = (
            f'{stage}: {entry["flop"] * 1e-9:.3f} GFLOP, weights {entry["weight_bytes"] * 1e-6:.1f} MB, '
            f'activations {entry["activation_bytes"] * 1e-6:.1f} MB if nothing is fused, '
            f'{entry["flop_per_byte"]:.1f} FLOP/byte, {entry["gflops"]:.1f} GFLOP/s'
        )
        if peak is not None:
            line += (
                f' = {100 * entry["share_of_peak_gflops"]:.0f} % of the limit and at most '
                f'{100 * entry["share_of_peak_gb_s"]:.0f} % of what the machine moves'
            )
        lines.append(line)
    known = f'{peak["gflops"]:.0f} GFLOP/s, {peak["gb_s"]:.1f} GB/s ({peak["source"]})' if peak else None
    advice = 'not known, give --peak-gflops and --peak-gb-s'
    return [*lines, f'limits, of float32 and so exceeded by int8 where a CPU has more for it: {known or advice}']


def _sweep(summary: Mapping[str, Any]) -> list[str]:
    key = summary['swept']
    is_ros = 'latency_ms' in summary['sweep'][0]
    times = 'latency_ms' if is_ros else 'total_ms'
    stages = [] if is_ros else [name for name in ('encoder', 'head') if name in summary['sweep'][0]['stages_ms']]
    rows = [(key, 'p50 ms', 'p95 ms', 'p99 ms', 'frames/s', *(f'{stage} p50' for stage in stages),
             *(['inference', 'overhead'] if is_ros else ['around %']), 'ratio', '95 % interval')]  # fmt: skip
    for report in summary['sweep']:
        ratio = report['ratio']
        more = (
            [f'{report["inference_ms"]:.1f}', f'{report["overhead_ms"]:.1f}']
            if is_ros
            else [f'{100 * report["around_graphs"]:.1f}']
        )
        rows.append((
            str(report[key]), *(f'{report[times][name]:.2f}' for name in ('p50', 'p95', 'p99')),
            f'{report["frames_per_s"]:.2f}', *(f'{report["stages_ms"][stage]["p50"]:.2f}' for stage in stages), *more,
            f'{ratio["value"]:.3f}', f'{ratio["low"]:.3f}..{ratio["high"]:.3f}',
        ))  # fmt: skip
    how = (
        'one after the other; ratio of medians to the first'
        if is_ros
        else f'{summary["sweep"][0][times]["n"]} rounds in turn; ratio to the first, median over the rounds'
    )
    return [*align(rows), '', how]


def _compared(summary: Mapping[str, Any]) -> list[str]:
    names = [', '.join(f'{key}={value}' for key, value in entry['changed'].items()) for entry in summary['compared']]
    first, second = summary['compared']
    rows = [('p50 ms', *names, 'ratio', '95 % interval')]
    for stage in dict.fromkeys([*first['stages_ms'], *second['stages_ms']]):
        values = [f'{entry["stages_ms"][stage]["p50"]:.3f}' if stage in entry['stages_ms'] else '-'
                  for entry in (first, second)]  # fmt: skip
        rows.append((_NAMES.get(stage, stage), *values, *_interval(summary['stage_ratios'].get(stage))))
    rows.append(
        ('total', *(f'{entry["total_ms"]["p50"]:.3f}' for entry in (first, second)), *_interval(summary['ratio']))
    )
    agreement = summary['label_agreement']
    lines = align(rows)
    lines.insert(-1, '-' * max(map(len, lines)))
    lines += ['', f'{first["total_ms"]["n"]} rounds in turn; ratio of the medians']
    lines.append(
        'labels cannot be compared: the images differ in size'
        if agreement is None
        else f'same label on {100 * agreement:.3f} % of the pixels of {_count(summary["agreement_frames"], "frame")}'
    )
    for name, entry in zip(names, summary['compared'], strict=True):
        lines += ['', f'{name}:', *_conclusions(entry)]
    return [*lines, '']


def _interval(ratio: Mapping[str, float] | None) -> tuple[str, str]:
    return ('-', '') if ratio is None else (f'{ratio["value"]:.3f}', f'{ratio["low"]:.3f}..{ratio["high"]:.3f}')


def _ros(report: Mapping[str, Any]) -> list[str]:
    rows: list[tuple[str, ...]] = [('ms', 'mean', 'p50', 'p95', 'p99')]
    rows.append(('stamp to mask', *(f'{report["latency_ms"][key]:.2f}' for key in ('mean', 'p50', 'p95', 'p99'))))
    rows.append(('inference in the node', f'{report["inference_ms"]:.2f}', '', '', ''))
    rows.append(('overhead', f'{report["overhead_ms"]:.2f}', '', '', ''))
    sent = 'as fast as answers come' if not report['rate_hz'] else f'{report["rate_hz"]:g} images/s from each camera'
    return [
        *align(rows),
        '',
        f'{report["latency_ms"]["n"]} frames in {report["seconds"]:.1f} s of {_count(report["cameras"], "camera")}, '
        f'{report["frames_per_s"]:.2f} frames/s, {sent}; {report["dropped"]} dropped for newer ones',
        f'node: {report["node_cpu_percent"]:.0f} % of a core, {report["node_rss_mb"]:.0f} MB, '
        f'at most {report["node_peak_mb"]:.0f} MB; active after {report["node_start_s"]:.1f} s',
    ]


def _messages(summary: Mapping[str, Any]) -> list[str]:
    lines = [
        f'answers of {summary["model"]} to images {summary["size"]}, {_count(summary["words"], "word")}, '
        f'{summary["segments"]:.1f} segments in a frame'
    ]
    for kind, report in summary['messages'].items():
        rows: list[tuple[str, ...]] = [(kind, 'p50 ms', 'p95 ms', 'publish p50', 'publish p95')]
        rows.append(('receive', *_middle_and_high(report['receive_ms']), '', ''))
        rows.append(('decode', *_middle_and_high(report['decode_ms']), '', ''))
        outputs = {name: (report['make_ms'][name], report['publish_ms'][name]) for name in report['make_ms']}
        for name, (made, published) in outputs.items():
            rows.append((f'{name} (not in the sums)' if name == 'overlay' else name,
                         *_middle_and_high(made), *_middle_and_high(published)))  # fmt: skip
        rows.append(('sum of decoding and making', *_middle_and_high(report['conversion_ms']), '', ''))
        rows.append(('sum with receiving and publishing', *_middle_and_high(report['total_ms']), '', ''))
        table = align(rows)
        table.insert(-2, '-' * max(map(len, table)))
        lines += ['', *table]
    frames = next(iter(summary['messages'].values()))['total_ms']['n']
    return [*lines, '', f'{frames} rounds in turn; the listeners are in this process and take nothing meanwhile']


def _middle_and_high(times: Mapping[str, float]) -> tuple[str, str]:
    return f'{times["p50"]:.3f}', f'{times["p95"]:.3f}'


def _memory(memory: Mapping[str, float | None]) -> str:
    text = (
        f'memory of this process: {memory["before"]:.0f} MB before the models, {memory["after_load"]:.0f} MB after, '
        f'at most {memory["peak"]:.0f} MB'
    )
    for device, used in memory.items():
        if device.startswith('cuda'):
            text += f'; {device}: ' + ('not known' if used is None else f'{used:.0f} MB, of all processes')
    return text


def align(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return lines of a table: the first column to the left, the others to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        '  '.join(cell.ljust(width) if not column else cell.rjust(width)
                  for column, (cell, width) in enumerate(zip(row, widths, strict=True))).rstrip()
        for row in rows
    ]  # fmt: skip


def _count(number: int, noun: str) -> str:
    return f'{number} {noun}{"" if number == 1 else "s"}'
