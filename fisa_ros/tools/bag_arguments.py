"""Arguments of the command lines that segment recordings."""

import argparse

from fisa_ros.core.errors import DataError
from fisa_ros.core.manifest import load_manifest
from fisa_ros.core.vocabulary import VocabularyRegistry, VocabularyRequest
from fisa_ros.node.bag_outputs import DEFAULT_OUTPUTS, OUTPUT_TYPES, ModelOptions
from fisa_ros.node.segment_parameters import MASK_ENCODINGS
from fisa_ros.sources.bag import STORAGES
from fisa_ros.tools.model_arguments import add_model_arguments, chosen_thresholds


def add_bag_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what says how recordings are segmented and what is written."""
    parser.add_argument(
        '--vocabulary',
        default='indoor',
        help='"cat; dog; grass, lawn", a YAML file, or the name of a shipped vocabulary (default: %(default)s)',
    )
    add_model_arguments(parser)
    parser.add_argument(
        '--mask-encoding', choices=tuple(MASK_ENCODINGS), default='mono8', help='(default: %(default)s)'
    )
    parser.add_argument(
        '--topics', nargs='+', default=(), metavar='TOPIC', help='image topics (default: all that show colours)'
    )
    parser.add_argument(
        '--outputs',
        default=','.join(DEFAULT_OUTPUTS),
        metavar='NAMES',
        help=f'with commas, of {", ".join(OUTPUT_TYPES)} (default: all but overlay)',
    )
    parser.add_argument('--outputs-only', action='store_true', help='leave the messages of the recording out')
    parser.add_argument('--storage', choices=STORAGES, help='of what is written (default: as the recording has it)')
    parser.add_argument(
        '--part-images',
        type=int,
        default=100,
        metavar='N',
        help='what is finished is kept after about as many images (default: %(default)s)',
    )


def model_options(options: argparse.Namespace) -> ModelOptions:
    """Return what the arguments say of the model.

    Raises:
        FisaError: There is no such model, or a value cannot be used.
    """
    outputs = [name.strip() for name in options.outputs.split(',') if name.strip()]
    unknown = [name for name in outputs if name not in OUTPUT_TYPES]
    if unknown or not outputs:
        wrong = f'there is no {", ".join(unknown)}' if unknown else 'none is named'
        raise DataError(f'--outputs: {wrong}; there are {", ".join(OUTPUT_TYPES)}')
    if options.part_images < 1:
        raise DataError(f'--part-images must be at least 1, got {options.part_images}')
    registry = VocabularyRegistry(max_id=MASK_ENCODINGS[options.mask_encoding])
    return ModelOptions(
        model=options.model,
        backend=options.backend,
        device=options.device,
        precision=options.precision,
        vocabulary=registry.propose(VocabularyRequest.parse(options.vocabulary)),
        thresholds=chosen_thresholds(load_manifest(options.model).thresholds, options),
        outputs=tuple(name for name in OUTPUT_TYPES if name in outputs),
        mask_encoding=options.mask_encoding,
    )
