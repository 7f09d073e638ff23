"""Prints what `tools.evaluate` measured."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from fisa_ros.evaluation.published_results import PUBLISHED_METRICS, PUBLISHED_SPLIT

COMPARED = ('pq', 'miou', 'ap', 'mask_accuracy')
_SHOWN = (
    'pq', 'sq', 'rq', 'pq_things', 'sq_things', 'rq_things', 'pq_stuff', 'sq_stuff', 'rq_stuff', 'pq_class_agnostic',
    'miou', 'pixel_accuracy', 'miou_semantic', 'pixel_accuracy_semantic', 'ap', 'ap50', 'ap_instances',
    'ap50_instances', 'mask_accuracy', 'ece_masks', 'ece_segments', 'pq_base', 'pq_novel', 'miou_base', 'miou_novel',
    'mask_accuracy_base', 'mask_accuracy_novel', 'removed_mislabelled',
)  # fmt: skip
_CLASS_COLUMNS = ('pq', 'sq', 'rq', 'iou', 'ap', 'mask_accuracy')
_PUBLISHED_HEADS = {'pq': 'PQ', 'ap': 'AP', 'miou': 'mIoU'}
_KEY_WIDTH = 26


def print_dataset(summary: Mapping[str, Any]) -> None:
    """Print the metrics of each class of one data set, then those of all, as fractions."""
    width = max(len(name) for name in summary['per_class'])
    print(f'{"":{width}}' + ''.join(f'{name:>15}' for name in _CLASS_COLUMNS))
    for name, row in summary['per_class'].items():
        print(f'{name:{width}}' + ''.join(f'{_fraction(row[key]):>15}' for key in _CLASS_COLUMNS))
    print()
    columns = _by_words(summary, summary['words'])
    _print_metrics(columns)
    if 'by_words' in summary:
        for key in COMPARED:
            ratios = (numbers['relative_to_names'][key] for numbers in summary['by_words'].values())
            print(f'{key + " / names":{_KEY_WIDTH}}' + ''.join(f'{_fraction(ratio):>12}' for ratio in ratios))
    images = f'{summary["images"]} of {summary["of_images"]} images' if summary['is_interrupted'] else ''
    images = f'interrupted: {images}' if images else f'{summary["images"]} images'
    print(f'\n{images} in {summary["seconds"]:.1f} s with {summary["model"]} ({summary["backend"]})')


def print_named_datasets(summary: Mapping[str, Any]) -> None:
    """Print the metrics of published data sets side by side, as fractions, then beside published ones, in percent."""
    columns: dict[str, Mapping[str, Any]] = {}
    for name, numbers in summary['datasets'].items():
        by_words = _by_words(numbers, summary['words'])
        images = {'scored images': f'{numbers["images"]} of {numbers["of_images"]}'}
        for kind, column in by_words.items():
            columns[name if len(by_words) == 1 else f'{name}, {kind}'] = column | images
    _print_metrics(columns)
    seconds = sum(numbers['seconds'] for numbers in summary['datasets'].values())
    print(f'\n{summary["model"]} ({summary["backend"]}, {summary["device"]}, {summary["precision"]}), {seconds:.1f} s')
    _print_beside_published(summary)
    if summary['is_interrupted']:
        print('\nInterrupted: these are the images up to then.')
    if summary['error'] is not None:
        print(f'\nEnded by an error, these are the numbers up to then: {summary["error"]}')


def _by_words(summary: Mapping[str, Any], words: str) -> dict[str, dict[str, Any]]:
    """Return the numbers of each way of naming; what is measured once stands in the first."""
    columns = {kind: dict(numbers) for kind, numbers in summary.get('by_words', {words: summary}).items()}
    next(iter(columns.values()))['removed_mislabelled'] = summary.get('removed_mislabelled')
    return columns


def _print_metrics(columns: Mapping[str, Mapping[str, Any]]) -> None:
    widths = [max(12, len(name) + 2) for name in columns]
    print(f'{"":{_KEY_WIDTH}}' + ''.join(f'{name:>{width}}' for name, width in zip(columns, widths, strict=True)))
    for key in ('scored images', *_SHOWN):
        if any(numbers.get(key) is not None for numbers in columns.values()):
            cells = [_fraction(numbers.get(key)) for numbers in columns.values()]
            print(
                f'{key:{_KEY_WIDTH}}' + ''.join(f'{cell:>{width}}' for cell, width in zip(cells, widths, strict=True))
            )


def _print_beside_published(summary: Mapping[str, Any]) -> None:
    blocks: dict[str, list[tuple[str, list[str]]]] = {}
    sources: dict[str, str] = {}
    for name, numbers in summary['datasets'].items():
        blocks[name] = [
            _measured_row(summary, name, kind, column) for kind, column in _by_words(numbers, summary['words']).items()
        ]
        for row in summary['published'][name]:
            blocks[name].append((row['method'], [_percent(row[metric]) for metric in PUBLISHED_METRICS]))
            sources[row['method']] = row['source']
    width = max(len(label) for rows in blocks.values() for label, _ in rows) + 2
    print('\nBeside published results, in percent')
    for name, rows in blocks.items():
        print(f'{name:{width}}' + ''.join(f'{head:>9}' for head in _PUBLISHED_HEADS.values()))
        for label, cells in rows:
            print(f'  {label:{width - 2}}' + ''.join(f'{cell:>9}' for cell in cells))
    print()
    for note in _notes(summary):
        print(note)
    for method, source in sources.items():
        print(f'{method}: {source}')


def _measured_row(summary: Mapping[str, Any], name: str, kind: str, column: Mapping[str, Any]) -> tuple[str, list[str]]:
    """Return the label and the cells of a row of ours; what is not to be compared is in brackets."""
    numbers = summary['datasets'][name]
    images, of_images = numbers['images'], numbers['of_images']
    label = f'{summary["model"]}, measured here, ' + (
        f'all {images} images' if images == of_images else f'{images} of {of_images} images'
    )
    if numbers['split'] != PUBLISHED_SPLIT:
        label += f' of {numbers["split"]}'
    if kind != 'vocabulary':
        label += f', words: {kind}'
    if summary['oracle']:
        label += f', oracle {summary["oracle"]}'
    cells = {metric: _percent(column[key]) for metric, key in PUBLISHED_METRICS.items()}
    # mIoU is published for another form of such a data set, in which nothing is hidden.
    apart: Collection[str] = ('miou',) if numbers['may_hide_segments'] else ()
    if not numbers['is_comparable']:
        apart = cells
    for metric in apart:
        if cells[metric] != '-':
            cells[metric] = f'({cells[metric]})'
    return label, list(cells.values())


def _notes(summary: Mapping[str, Any]) -> Sequence[str]:
    datasets = summary['datasets']
    notes = ['AP and mIoU are ap_instances and miou_semantic from above. Published rows are of models trained on COCO.']
    if any(numbers['miou_semantic'] is None for numbers in datasets.values()):
        notes.append('They need --backend torch --precision fp32: other back-ends merge their masks by themselves.')
    if any(numbers['has_instances'] for numbers in datasets.values()):
        notes.append(
            "PQ is that of the node's output, whose masks are merged at a quarter of the network's size; in published "
            'rows they are merged at the size of the image.'
        )
    if not all(numbers['is_comparable'] for numbers in datasets.values()):
        notes.append(
            'In brackets: not measured on all images and categories of val, or with an oracle; do not compare.'
        )
    if 'coco-panoptic' in datasets:
        notes.append(
            'coco-panoptic: the published models were trained on its split train. AP is published for '
            'instances_val2017.json, measured here on the panoptic maps.'
        )
    notes += (
        f'{name}: mIoU, in brackets, is published for its maps of classes, see --semantic.'
        for name, numbers in datasets.items()
        if numbers['may_hide_segments']
    )
    if 'cityscapes' in datasets:
        notes.append('cityscapes: AP is published by the rules of Cityscapes, measured here by those of COCO.')
    return notes


def _fraction(value: float | str | None) -> str:
    if isinstance(value, str):
        return value
    return '-' if value is None else f'{value:.3f}'


def _percent(value: float | None) -> str:
    return '-' if value is None else f'{100 * value:.1f}'
