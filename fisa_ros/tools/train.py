"""Trains a stage of a model: `python -m fisa_ros.tools.train --recipe tiny-fisa`."""

import argparse
from dataclasses import asdict
import json
import logging
import os
from pathlib import Path
import signal
import sys
from typing import TYPE_CHECKING

from fisa_ros.core.errors import FisaError

if TYPE_CHECKING:
    from fisa_ros.training.recipe import Recipe


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format='%(message)s')

    from fisa_ros.training.loop import TrainingStoppedError
    from fisa_ros.training.progress import SUMMARY_NAME
    from fisa_ros.training.recipe import load_recipe
    from fisa_ros.training.settings import RunSettings
    from fisa_ros.training.stages import run_stage

    status = 0
    try:
        recipe = load_recipe(options.recipe).scaled(options.steps_scale)
        if options.estimate:
            _print_estimate(recipe, is_json=options.json)
            return 0
        run = RunSettings(
            options.threads, options.max_seconds, recipe.precision, recipe.settings(), options.accumulate,
            options.loaders, options.cache_masks,
        )  # fmt: skip
        run_stage(recipe, options.data, options.out, run, options.stages)
    except FisaError as error:
        print(f'error: {error}', file=sys.stderr)
        return 2
    except TrainingStoppedError as stop:
        print(stop, file=sys.stderr)
        if stop.summary.stopped_by in ('SIGINT', 'SIGTERM'):
            status = 128 + signal.Signals[stop.summary.stopped_by]
    except KeyboardInterrupt:
        # Before the first step, such as while masks are cached; what is on the disk is whole.
        print('stopped; the same command goes on', file=sys.stderr)
        return 128 + signal.SIGINT
    if options.json and os.environ.get('RANK', '0') == '0':
        print((options.out / recipe.stage / SUMMARY_NAME).read_text(encoding='utf-8'), end='')
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog='python -m fisa_ros.tools.train', description=__doc__)
    parser.add_argument('--recipe', required=True, help='name of a shipped recipe or path of a YAML file')
    parser.add_argument('--data', type=Path, default=Path('out/data/rooms'), help='folder of the data sets')
    parser.add_argument(
        '--out', type=Path, default=Path('out/train'), help='folder of all stages; continues what is there'
    )
    parser.add_argument('--stages', type=Path, help='folder of the stages that this one needs (default: --out)')
    parser.add_argument('--threads', type=int, default=os.cpu_count(), help='threads of PyTorch in each process')
    parser.add_argument(
        '--accumulate', type=int, default=1,
        help='work off each step in so many batches, for less memory and the same result',
    )  # fmt: skip
    parser.add_argument(
        '--loaders',
        type=int,
        help='threads of each process that read images (default: with a GPU all processors)',
    )
    parser.add_argument(
        '--cache-masks', type=Path, metavar='DIR',
        help="stage fisa: keep the frozen generator's masks there and train from them",
    )  # fmt: skip
    parser.add_argument(
        '--estimate', action='store_true', help='stage fisa: print parameters, memory and GPU-hours, and train nothing'
    )
    parser.add_argument(
        '--max-seconds', type=float, help='stop after so much wall time, to be continued by the same command'
    )
    parser.add_argument(
        '--steps-scale', type=float, default=1.0, help='multiplies the steps of all phases, for short trials'
    )
    parser.add_argument('--json', action='store_true', help='print the summary as one JSON object alone on stdout')
    return parser


def _print_estimate(recipe: 'Recipe', *, is_json: bool) -> None:
    from fisa_ros.training.estimate import GPUS, UTILISATION, estimate_training

    estimate = estimate_training(recipe)
    hours = {
        gpu: {
            'without_cache': estimate.gpu_hours(gpu, is_cached=False),
            'with_cache': estimate.gpu_hours(gpu, is_cached=True),
        }
        for gpu in GPUS
    }
    if is_json:
        print(json.dumps({**asdict(estimate), 'utilisation': UTILISATION, 'gpu_hours': hours}))
        return
    print(f'{estimate.trained_parameters:,} of {estimate.parameters:,} parameters learn')
    print(
        f'an image takes {estimate.image_gflop:.0f} GFLOP, with cached masks {estimate.classifier_gflop:.0f} '
        f'(the classifier, forward and backward; generator {estimate.generator_gflop:.0f})'
    )
    print(
        f'memory: {estimate.fixed_mb / 1e3:.1f} GB, and {estimate.image_mb / 1e3:.2f} GB for each image of a batch, '
        'besides what kernels need'
    )
    print(f'{estimate.images:,} images, at {UTILISATION:.0%} of the speed of the data sheet, without waiting for data:')
    for gpu, entry in hours.items():
        print(f'  {gpu}: {entry["without_cache"]:.1f} GPU-hours, with cached masks {entry["with_cache"]:.1f}')


if __name__ == '__main__':
    sys.exit(main())
