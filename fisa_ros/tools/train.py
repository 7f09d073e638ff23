"""Trains a stage of a model: `python -m fisa_ros.tools.train --recipe tiny-fisa`."""

import argparse
import logging
import os
from pathlib import Path
import signal
import sys

from fisa_ros.core.errors import FisaError


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog='python -m fisa_ros.tools.train', description=__doc__)
    parser.add_argument('--recipe', required=True, help='name of a shipped recipe or path of a YAML file')
    parser.add_argument('--data', type=Path, default=Path('out/data/rooms'), help='folder of the data sets')
    parser.add_argument(
        '--out', type=Path, default=Path('out/train'), help='folder of all stages; continues what is there'
    )
    parser.add_argument('--stages', type=Path, help='folder of the stages that this one needs (default: --out)')
    parser.add_argument('--threads', type=int, default=os.cpu_count(), help='threads of PyTorch in each process')
    parser.add_argument(
        '--max-seconds', type=float, help='stop after so much wall time, to be continued by the same command'
    )
    parser.add_argument(
        '--steps-scale', type=float, default=1.0, help='multiplies the steps of all phases, for short trials'
    )
    parser.add_argument('--json', action='store_true', help='print the summary as one JSON object alone on stdout')
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format='%(message)s')

    from fisa_ros.training.loop import RunSettings, TrainingStoppedError
    from fisa_ros.training.progress import SUMMARY_NAME
    from fisa_ros.training.recipe import load_recipe
    from fisa_ros.training.stages import run_stage

    status = 0
    try:
        recipe = load_recipe(options.recipe).scaled(options.steps_scale)
        run = RunSettings(options.threads, options.max_seconds, recipe.precision, recipe.settings())
        run_stage(recipe, options.data, options.out, run, options.stages)
    except FisaError as error:
        print(f'error: {error}', file=sys.stderr)
        return 2
    except TrainingStoppedError as stop:
        print(stop, file=sys.stderr)
        if stop.summary.stopped_by in ('SIGINT', 'SIGTERM'):
            status = 128 + signal.Signals[stop.summary.stopped_by]
    if options.json and os.environ.get('RANK', '0') == '0':
        print((options.out / recipe.stage / SUMMARY_NAME).read_text(encoding='utf-8'), end='')
    return status


if __name__ == '__main__':
    sys.exit(main())
