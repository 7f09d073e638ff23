"""Export a model to ONNX graphs: `python -m fisa_ros.tools.export --model fisa-tiny`."""

import argparse
from collections.abc import Sequence
import logging
from pathlib import Path
import shlex
import sys
import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fisa_ros.core.manifest import ModelManifest, load_manifest
from fisa_ros.core.resources import cache_dir, share_dir
from fisa_ros.core.vocabulary import VocabularyRegistry, VocabularyRequest
from fisa_ros.evaluation.frame_files import read_frames
from fisa_ros.pipeline.segmenter import Segmenter
from fisa_ros.runtime.graph_files import GraphsDescription, graphs_folder
from fisa_ros.tools.model_arguments import report

_MIN_FRAMES = 8


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return 0, or 2 if nothing could be done."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format='%(levelname)s: %(message)s', stream=sys.stderr)
    logging.getLogger('fisa_ros').setLevel(logging.INFO)
    return 2 if report(lambda: _run(options), options.json, _print_files) is None else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog='python -m fisa_ros.tools.export',
        description='Write text.onnx with its tokenizer, encoder.onnx in float32 and twice in half precision, '
        'head.onnx and reference outputs, where the back-ends onnxruntime and tensorrt look for them. Needs PyTorch; '
        'the graphs may be copied to a robot without.',
    )
    parser.add_argument('--model', default='fisa-tiny', help='name or manifest of the model (default: %(default)s)')
    parser.add_argument(
        '--out',
        type=Path,
        help='folder to write, replaced if it exists; with --random-weights, that of the model (default: in the cache)',
    )
    parser.add_argument(
        '--random-weights',
        type=int,
        nargs='?',
        const=0,
        metavar='SEED',
        help='first make a model of random numbers, to measure size and speed: weights and a manifest, whose path is '
        'printed and which other tools take as --model',
    )
    parser.add_argument(
        '--frames',
        type=Path,
        default=share_dir() / 'models' / 'reference_frames',
        help='folder of images like those the robot will see, on which back-ends are compared: '
        f'at least {_MIN_FRAMES}, or 1 with --random-weights',
    )
    parser.add_argument('--vocabulary', default='indoor', help='words of the comparison (default: %(default)s)')
    parser.add_argument('--json', action='store_true', help='print one JSON object')
    return parser


def _run(options: argparse.Namespace) -> dict[str, Any]:
    started = time.monotonic()
    manifest = _random_model(options) if options.random_weights is not None else load_manifest(options.model)
    least = 1 if options.random_weights is not None else _MIN_FRAMES
    height, width = manifest.image_size_hw
    frames = read_frames(options.frames, (width, height), least, manifest.resize)
    # Back-ends look in the cache.
    folder = graphs_folder(manifest) if options.random_weights is not None else options.out or graphs_folder(manifest)
    description = export_model(manifest, folder, frames, options.vocabulary)
    sizes = {name: (folder / name).stat().st_size for name in description.files}
    return {
        'model': manifest.name,
        'manifest': str(manifest.path),
        'folder': str(folder),
        'files': sizes,
        'frames': len(frames),
        'made_with': dict(description.made_with),
        'seconds': round(time.monotonic() - started, 3),
    }


def export_model(
    manifest: ModelManifest, folder: Path, frames: Sequence[NDArray[np.uint8]], vocabulary: str
) -> GraphsDescription:
    """Export a model into `folder`, see `export_graphs`.

    Args:
        manifest: The model; it must have been read from a file.
        folder: Where the graphs go.
        frames: Images `(H, W, 3)` uint8 rgb of the size that the model takes, on which back-ends are compared.
        vocabulary: Words of the comparison, as `VocabularyRequest.parse` takes them.

    Raises:
        FisaError: The words cannot be read, or the model cannot be loaded or exported.
    """
    # Here, for exporting is all that needs it.
    from fisa_ros.runtime.graph_export import export_graphs

    request = VocabularyRequest.parse(vocabulary)
    segmenter = Segmenter.load(manifest.argument, 'torch', 'cpu')
    try:
        state = segmenter.prepare(VocabularyRegistry().propose(request))
    finally:
        segmenter.close()
    del segmenter
    return export_graphs(manifest, folder, frames, state)


def _random_model(options: argparse.Namespace) -> ModelManifest:
    from fisa_ros.networks.random_model import write_random_model

    manifest = load_manifest(options.model)
    folder = options.out or cache_dir() / 'random' / f'{manifest.name}-{options.random_weights}'
    return load_manifest(write_random_model(manifest, folder.absolute(), options.random_weights))


def _print_files(summary: dict[str, Any]) -> None:
    for name, size in summary['files'].items():
        print(f'{name:24}{size / 1e6:10.1f} MB')
    print(f'{summary["model"]} exported in {summary["seconds"]:.0f} s to {summary["folder"]}')
    print(f'for other tools: --model {shlex.quote(summary["manifest"])}')


if __name__ == '__main__':
    sys.exit(main())
