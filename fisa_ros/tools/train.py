"""Trains a stage of a model: `python -m fisa_ros.tools.train --recipe tiny-generator`."""

import argparse
import logging
import os
from pathlib import Path
import sys

from fisa_ros.core.errors import FisaError


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog='python -m fisa_ros.tools.train', description=__doc__)
    parser.add_argument('--recipe', required=True, help='name of a shipped recipe or path of a YAML file')
    parser.add_argument('--out', type=Path, default=Path('out/train'), help='folder for views, checkpoints and logs')
    parser.add_argument('--threads', type=int, default=os.cpu_count(), help='threads of PyTorch')
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format='%(message)s')

    from fisa_ros.training.recipe import load_recipe
    from fisa_ros.training.stages import run_stage

    try:
        run_stage(load_recipe(options.recipe), options.out, options.threads)
    except FisaError as error:
        print(f'error: {error}', file=sys.stderr)
        return 1
    return 0


if __name__ == '__main__':
    sys.exit(main())
