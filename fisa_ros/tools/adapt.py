"""Adapt a model to your own site with a handful of images: `python -m fisa_ros.tools.adapt --images DIR`."""

import argparse
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
import json
import logging
import os
from pathlib import Path
import re
import signal
import sys
import threading
from typing import TYPE_CHECKING, Any

from fisa_ros.core.errors import DataError, FisaError
from fisa_ros.core.vocabulary import VocabularyRequest

if TYPE_CHECKING:
    from fisa_ros.training.adapt import Adaptation


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Returns:
        0, 1 if the model was not worth saving, 2 if nothing could be done, 130 if it was stopped.
    """
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format='%(message)s', stream=sys.stderr)
    adaptation = None
    try:
        with _sigterm_interrupts():
            adaptation = _adapt(options)
            report = _report(options, adaptation)
    except (FisaError, OSError) as error:
        print(f'error: {error}', file=sys.stderr)
        if adaptation and adaptation.manifest:
            print(f'{adaptation.manifest} was saved, report or pictures were not', file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        saved = adaptation.manifest if adaptation else None
        print(f'stopped; {f"{saved} was saved" if saved else "nothing was saved"}', file=sys.stderr)
        return 130
    if options.json:
        print(json.dumps(report, allow_nan=False))
    else:
        _print_table(report)
    if adaptation.refusal:
        print(f'refused: {adaptation.refusal}', file=sys.stderr)
        return 1
    return 0


@contextmanager
def _sigterm_interrupts() -> Iterator[None]:
    """Let SIGTERM stop the work as Ctrl-C does, so that nothing is left behind."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog='python -m fisa_ros.tools.adapt',
        description='Adapt a model to new kinds of things with a handful of images of them. Only the few parameters of '
        'FISA and the projection to the space of words are tuned. The base vocabulary is guarded: what forgets it is '
        'not saved.',
    )
    parser.add_argument('--images', type=Path, required=True, help='folder of images of the site, at most 2000')
    parser.add_argument(
        '--annotations',
        type=Path,
        help='their masks: COCO panoptic or COCO instances as JSON (default: the one in or beside the folder)',
    )
    parser.add_argument(
        '--names',
        default='',
        help='what is new, "forklift, lift truck; tire": where there are masks, which of their classes, and synonyms; '
        'elsewhere, what the model looks for itself. A file NAME.txt beside an image names what is in that one alone',
    )
    parser.add_argument('--model', default='fisa-tiny', help='name or manifest of the model (default: %(default)s)')
    parser.add_argument(
        '--vocabulary', default='indoor', help='base vocabulary that must not be forgotten (default: %(default)s)'
    )
    parser.add_argument(
        '--rehearsal',
        type=Path,
        metavar='DIR',
        help='other images with base classes, to keep them; 200 are drawn where there are more',
    )
    parser.add_argument(
        '--rehearsal-annotations', type=Path, metavar='FILE', help='their masks, if there are any (default: as above)'
    )
    parser.add_argument('--out', type=Path, default=Path('out/adapt'), help='folder (default: %(default)s)')
    parser.add_argument('--name', help='name of the adapted model (default: MODEL-FOLDER)')
    parser.add_argument('--steps', type=int, default=200, help='steps of tuning (default: %(default)s)')
    parser.add_argument(
        '--views',
        type=int,
        default=8,
        help='augmented views of each image, fewer where they were more than 2000 in all (default: %(default)s)',
    )
    parser.add_argument('--minutes', type=float, help='end the tuning after so many minutes at the latest')
    parser.add_argument(
        '--max-drop', type=float, default=1.0, metavar='POINTS',
        help='most that base classes may lose, in points of accuracy, for the model to be saved (default: %(default)g)',
    )  # fmt: skip
    parser.add_argument(
        '--sure', type=float, default=0.5, metavar='SCORE', help='with names alone: score of masks that are taken'
    )
    parser.add_argument('--force', action='store_true', help='save the model whatever was lost')
    parser.add_argument('--replace', action='store_true', help='replace an adapted model of the same name')
    parser.add_argument('--seed', type=int, default=0, help='(default: %(default)s)')
    parser.add_argument('--threads', type=int, default=os.cpu_count(), help='threads of PyTorch (default: all cores)')
    parser.add_argument(
        '--precision', choices=('bf16', 'fp32'), default='bf16', help='of the tuning (default: %(default)s)'
    )
    parser.add_argument('--json', action='store_true', help='print one JSON object instead of a table')
    return parser


def _adapt(options: argparse.Namespace) -> 'Adaptation':
    # Here, for loading PyTorch takes seconds.
    from fisa_ros.core.manifest import load_manifest
    from fisa_ros.training.adapt import AdaptRequest, adapt
    from fisa_ros.training.adapt_stage import AdaptOptions
    from fisa_ros.training.loop import TrainingStoppedError
    from fisa_ros.training.pseudo_masks import SureRule
    from fisa_ros.training.settings import RunSettings

    if options.minutes is not None and not options.minutes > 0:
        raise DataError(f'--minutes must be above 0, got {options.minutes:g}')
    request = AdaptRequest(
        model=options.model,
        images=options.images,
        annotations=options.annotations,
        names=tuple(part.strip() for part in options.names.split(';') if part.strip()),
        base=VocabularyRequest.parse(options.vocabulary),
        out=options.out,
        name=options.name or _name(load_manifest(options.model).name, options.images),
        rehearsal=options.rehearsal,
        rehearsal_annotations=options.rehearsal_annotations,
        views=options.views,
        max_drop=options.max_drop / 100,
        is_forced=options.force,
        may_replace=options.replace,
        seed=options.seed,
        options=AdaptOptions(steps=options.steps),
        sure=SureRule(options.sure),
    )
    seconds = None if options.minutes is None else options.minutes * 60
    try:
        return adapt(request, RunSettings(options.threads, seconds, options.precision))
    except TrainingStoppedError as stopped:
        # By a signal: it leaves nothing behind.
        raise KeyboardInterrupt from stopped


def _report(options: argparse.Namespace, adaptation: 'Adaptation') -> dict[str, Any]:
    """Return what is printed; beside a model that was saved it is written too, with pictures."""
    from fisa_ros.tools.adapt_page import write_page

    report: dict[str, Any] = {**adaptation.report, 'saved': None}
    files = adaptation.files
    if files is not None:
        report |= {'saved': str(files.manifest), 'vocabulary': str(files.vocabulary), 'page': str(files.page)}
        files.report.write_text(json.dumps(report, indent=1, allow_nan=False), encoding='utf-8')
        write_page(files.page, options.model, files.manifest, files.vocabulary, adaptation.shown)
    return report


def _name(model: str, images: Path) -> str:
    site = re.sub(r'[^a-z0-9]+', '-', images.resolve().name.casefold()).strip('-')
    return f'{model}-{site or "site"}'


def _print_table(report: Mapping[str, Any]) -> None:
    before, after = report['before'], report['after']
    print(f'{"share of masks named right":40}{"before":>10}{"after":>10}{"masks":>8}{"views":>8}')
    for key, label, kind in (
        ('new', 'new classes', 'new'),
        ('base', 'base classes', 'base'),
        ('base_asked_together', 'base classes, asked with the new ones', 'base'),
    ):
        counts = f'{after[f"{kind}_masks"]:>8}{after[f"{kind}_views"]:>8}'
        print(f'{label:40}{_text(before[key]):>10}{_text(after[key]):>10}{counts}')
    for name in report['masks']:
        values = (_text(scores['per_class'].get(name)) for scores in (before, after))
        print(f'{"  " + name:40}' + ''.join(f'{value:>10}' for value in values))
    print(f'\n{report["images"]} images, masks from {report["masks_from"]}: {_counts(report["masks"])}')
    if report['masks_are_guessed']:
        print('the model named them by itself before, so these scores can show a loss of new classes and no gain')
    held = len(report['held_out_images'])
    print(
        f'new classes measured on {held} images kept out of the tuning' if held
        else 'new classes measured on the images of the tuning themselves: too few to keep any out'
    )  # fmt: skip
    print(f'base classes measured on {report["base_measured_on"]}')
    print(f'{report["steps"]} steps, {report["alpha"]:g} of the way to the tuned weights, {report["seconds"]:.0f} s')
    parts = report['alpha_of_parts']
    print(
        f'each of {len(parts)} parts measured at the step that the others choose: {", ".join(map(str, parts))}'
        if len(parts) > 1 else 'measured on the very images that chose the step: too few to part them'
    )  # fmt: skip
    if report['saved']:
        print(f'--model {report["saved"]} --vocabulary {report["vocabulary"]}; pictures: {report["page"]}')


def _counts(masks: Mapping[str, int]) -> str:
    return ', '.join(f'{name} {count}' for name, count in masks.items())


def _text(value: float | None) -> str:
    return '-' if value is None else f'{value:.3f}'


if __name__ == '__main__':
    sys.exit(main())
