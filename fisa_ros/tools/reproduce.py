"""Measures the claims of the paper in simulation: `python -m fisa_ros.tools.reproduce --markdown docs/claims.md`.

Trains FISA's variants with several seeds on one frozen generator and one frozen CLIP, evaluates each on rooms that
training never saw, and prints means and spreads. What an earlier run finished is not done again.
"""

import argparse
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
import json
import logging
import os
from pathlib import Path
import shutil
import subprocess
import sys
from typing import Any

import yaml

from fisa_ros.core.errors import DataError, FisaError
from fisa_ros.core.manifest import file_sha256
from fisa_ros.core.resources import share_dir
from fisa_ros.networks.build import build_network
from fisa_ros.networks.image_tower import Regions
from fisa_ros.training.recipe import load_recipe
from fisa_ros.training.simo import simo_parameters
from fisa_ros.training.stages import write_untuned_model

_LOG = logging.getLogger('fisa_ros.reproduce')
_RESULT = 'scores.json'
# The same for all rows and fitted to none, so that no row is favoured by what the shipped model was calibrated to.
_THRESHOLDS = ('--score-threshold', '0.2', '--mask-threshold', '0.4', '--overlap-threshold', '0.5')
_HEADINGS = {
    'pq': 'PQ', 'miou': 'mIoU', 'pq_base': 'PQ base', 'pq_novel': 'PQ novel', 'miou_base': 'mIoU base',
    'miou_novel': 'mIoU novel', 'mask_accuracy_base': 'accuracy base', 'mask_accuracy_novel': 'accuracy novel',
}  # fmt: skip
METRICS = tuple(_HEADINGS)


@dataclass(frozen=True, slots=True)
class Variant:
    """One row of the table.

    Attributes:
        title: What it is called.
        regions: What embeds a region, see `FisaImageTower`.
        simo: What is tuned; empty for a frozen baseline.
        fiser_weight: Weight of FiSeR's loss.
        from_scratch: Whether the row is the other paradigm: the generator is trained from nothing, CLIP stays frozen.
        oracle: Which half of the model an oracle takes over, `masks`, `classes` or neither.
    """

    title: str
    regions: Regions = 'mask_tokens'
    simo: tuple[str, ...] = ()
    fiser_weight: float = 0.0
    from_scratch: bool = False
    oracle: str = ''


FISA = Variant('FISA: queries + SEVE', simo=('queries', 'seve', 'void'))
VARIANTS = {
    'pooled-tokens': Variant('frozen CLIP, tokens pooled under masks', regions='tokens'),
    'pooled-values': Variant('frozen CLIP, values pooled under masks', regions='values'),
    'untrained': Variant('mask tokens, untrained'),
    'queries': Variant('+ SIMO queries', simo=('queries', 'void')),
    'seve': Variant('+ SEVE', simo=('seve', 'void')),
    'fisa': FISA,
    'fiser': replace(FISA, title='FISA + FiSeR', fiser_weight=0.5),
    'generator': Variant('generator trained from nothing, mask tokens untrained', from_scratch=True),
}
ORACLES = {
    'oracle-masks': replace(FISA, title='true masks, predicted classes', oracle='masks'),
    'oracle-classes': replace(FISA, title='predicted masks, true classes', oracle='classes'),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format='%(message)s')
    try:
        rows = _run(options)
        if options.markdown:
            options.markdown.parent.mkdir(parents=True, exist_ok=True)
            options.markdown.write_text(markdown(rows, options.seeds), encoding='utf-8')
    except (FisaError, OSError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 2
    text = markdown(rows, options.seeds)
    print(json.dumps(rows) if options.json else text)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog='python -m fisa_ros.tools.reproduce', description=__doc__)
    parser.add_argument('--data', type=Path, default=Path('out/data/rooms'), help='data sets made by tools.simulate')
    parser.add_argument(
        '--stages', type=Path, default=Path('out/train'), help='folder of the stages clip and generator'
    )
    parser.add_argument('--out', type=Path, default=Path('out/reproduce'))
    parser.add_argument('--seeds', type=int, default=3, help='runs of each trained variant (default: %(default)s)')
    parser.add_argument('--steps', type=int, default=250, help='steps of each FISA run (default: %(default)s)')
    parser.add_argument(
        '--generator-steps', type=int, default=1000, help='steps of the generator from nothing (default: %(default)s)'
    )
    parser.add_argument('--images', type=int, default=200, help='test images (default: %(default)s)')
    parser.add_argument('--variants', default=','.join([*VARIANTS, *ORACLES]), help='comma-separated, of %(default)s')
    parser.add_argument('--threads', type=int, default=os.cpu_count())
    parser.add_argument('--markdown', type=Path, help='write the tables to this file')
    parser.add_argument('--json', action='store_true', help='print all scores as one JSON object')
    return parser


def _run(options: argparse.Namespace) -> dict[str, list[dict[str, Any]]]:
    known = {**VARIANTS, **ORACLES}
    chosen = options.variants.split(',')
    unknown = [name for name in chosen if name not in known]
    if unknown:
        raise DataError(f'unknown variants {", ".join(unknown)}, known are {", ".join(known)}')
    if options.seeds < 1 or options.steps < 1 or options.images < 1 or options.generator_steps < 1:
        raise DataError('--seeds, --steps, --generator-steps and --images must be 1 or more')
    rows = {}
    for name in chosen:
        variant = known[name]
        seeds = options.seeds if variant.simo or variant.from_scratch else 1
        rows[name] = [_measured(name, variant, seed, options) for seed in range(seeds)]
    return rows


def _measured(name: str, variant: Variant, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """Train and evaluate one variant with one seed, or read what an earlier run measured."""
    folder = options.out / f'{name}-{seed}'
    settings = _settings(variant, options)
    result = folder / _RESULT
    if result.is_file():
        saved: dict[str, Any] = json.loads(result.read_text(encoding='utf-8'))
        if saved['settings'] == settings:
            return saved
        shutil.rmtree(folder)
    _LOG.info('%s, seed %d', variant.title, seed)
    folder.mkdir(parents=True, exist_ok=True)
    manifest, cost = _trained(variant, seed, folder, options)
    scores = _evaluated(manifest, variant, options)
    row = {'settings': settings, **cost, **{key: scores.get(key) for key in METRICS}}
    result.with_suffix('.tmp').write_text(json.dumps(row), encoding='utf-8')
    result.with_suffix('.tmp').replace(result)
    return row


def _settings(variant: Variant, options: argparse.Namespace) -> dict[str, Any]:
    """Return all that decides what is measured; what was measured with other settings is measured again."""
    sources = [options.data / 'annotations' / f'panoptic_{split}.json' for split in ('train', 'test')]
    sources += [options.stages / stage / 'checkpoint.pt' for stage in ('generator', 'clip')]
    sources += [share_dir() / 'config' / 'recipes' / f'{recipe}.yaml' for recipe in ('tiny-fisa', 'tiny-generator')]
    sums = {'/'.join(path.parts[-2:]): file_sha256(path) for path in sources if path.is_file()}
    counts = {'steps': options.steps, 'images': options.images, 'generator_steps': options.generator_steps}
    plain_variant = json.loads(json.dumps(asdict(variant)))
    return {**counts, 'thresholds': list(_THRESHOLDS), 'variant': plain_variant, 'sources': sums}


def _trained(
    variant: Variant, seed: int, folder: Path, options: argparse.Namespace
) -> tuple[Path, dict[str, float | int]]:
    """Return the manifest of a variant, trained where it is, with its trained parameters and CPU-seconds."""
    recipe = load_recipe('tiny-fisa')
    network = build_network(recipe.generator or {}, recipe.classifier or {})
    trained = network.generator.parameters() if variant.from_scratch else simo_parameters(network, variant.simo)
    cost: dict[str, float | int] = {'cpu_seconds': 0.0, 'parameters': sum(entry.numel() for entry in trained)}
    if variant.oracle:
        return options.out / f'fisa-{seed}' / 'fisa' / 'fisa-tiny.yaml', cost
    stages = options.stages
    if variant.from_scratch:
        coarse = options.generator_steps // 2
        phases = [
            {'size': 192, 'batch_size': 8, 'steps': max(1, coarse), 'learning_rate': 7.0e-4},
            {'size': 320, 'batch_size': 6, 'steps': options.generator_steps - coarse, 'learning_rate': 4.0e-4},
        ]
        changes: dict[str, Any] = {'seed': seed, 'initial': None, 'phases': phases, 'options': {}}
        cost |= _train('tiny-generator', changes, folder, folder, options)
        (folder / 'clip').unlink(missing_ok=True)
        (folder / 'clip').symlink_to((options.stages / 'clip').resolve())
        stages = folder
    if not variant.simo:
        return write_untuned_model(folder / 'fisa', recipe, stages, regions=variant.regions), cost
    phases = [{'size': 320, 'batch_size': 8, 'steps': options.steps, 'learning_rate': 1.0e-3}]
    tuning = {'simo': list(variant.simo), 'fiser_weight': variant.fiser_weight}
    cost |= _train('tiny-fisa', {'seed': seed, 'phases': phases, 'options': tuning}, folder, stages, options)
    return folder / 'fisa' / 'fisa-tiny.yaml', cost


def _train(
    recipe: str, changes: dict[str, Any], folder: Path, stages: Path, options: argparse.Namespace
) -> dict[str, float]:
    document = yaml.safe_load((share_dir() / 'config' / 'recipes' / f'{recipe}.yaml').read_text(encoding='utf-8'))
    tuned = changes.pop('options')
    document.update(changes)
    document['options'] = {**document['options'], **tuned} if tuned else {}
    path = folder / f'{recipe}.yaml'
    path.write_text(yaml.safe_dump({key: value for key, value in document.items() if value is not None}))
    summary = _command(
        'train', '--recipe', str(path), '--data', str(options.data), '--out', str(folder), '--stages', str(stages),
        '--threads', str(options.threads), '--json',
    )  # fmt: skip
    return {'cpu_seconds': float(summary['cpu_seconds'])}


def _evaluated(manifest: Path, variant: Variant, options: argparse.Namespace) -> dict[str, Any]:
    oracle = ['--oracle', variant.oracle] if variant.oracle else []
    return _command(
        'evaluate', '--model', str(manifest), '--backend', 'torch', '--images', str(options.data / 'test'),
        '--panoptic', str(options.data / 'annotations' / 'panoptic_test.json'), '--limit', str(options.images),
        '--split-file', str(share_dir() / 'config' / 'vocabularies' / 'indoor_split.yaml'), '--json', *_THRESHOLDS,
        *oracle,
    )  # fmt: skip


def _command(tool: str, *arguments: str) -> dict[str, Any]:
    """Run a tool in a process of its own, so that its processor time is its own, and return what it printed."""
    done = subprocess.run(
        [sys.executable, '-m', f'fisa_ros.tools.{tool}', *arguments], stdout=subprocess.PIPE, text=True, check=False
    )
    if done.returncode:
        raise DataError(f'tools.{tool} ended with {done.returncode}: {" ".join(arguments)}')
    printed: dict[str, Any] = json.loads(done.stdout)
    return printed


def markdown(rows: dict[str, list[dict[str, Any]]], seeds: int) -> str:
    """Return the tables: each cell is the mean over the seeds, and half the range where there are several."""
    known = {**VARIANTS, **ORACLES}
    lines = [
        '| | trained parameters | CPU-seconds | ' + ' | '.join(_HEADINGS[key] for key in METRICS) + ' |',
        '|' + '---|' * (3 + len(METRICS)),
    ]
    for name, runs in rows.items():
        cost = [f'{runs[0]["parameters"]:,}', _cell([run['cpu_seconds'] for run in runs], 0)]
        cells = ['', ''] if known[name].oracle else cost
        cells += [_cell([run[key] for run in runs], 3) for key in METRICS]
        lines.append(f'| {known[name].title} | ' + ' | '.join(cells) + ' |')
    return '\n'.join(lines) + f'\n\nMean of {seeds} seeds and half their range; one run where nothing is trained.\n'


def _cell(values: Sequence[float | None], digits: int) -> str:
    numbers = [value for value in values if value is not None]
    if not numbers:
        return ''
    mean = f'{sum(numbers) / len(numbers):.{digits}f}'
    return mean if len(numbers) == 1 else f'{mean} ± {(max(numbers) - min(numbers)) / 2:.{digits}f}'


if __name__ == '__main__':
    sys.exit(main())
