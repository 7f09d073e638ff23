"""Export a model to ONNX graphs: `python -m fisa_ros.tools.export --model fisa-tiny`."""

import argparse
from collections.abc import Sequence
import logging
from pathlib import Path
import sys
import time
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from fisa_ros.core.errors import ImageError
from fisa_ros.core.manifest import load_manifest
from fisa_ros.core.resources import share_dir
from fisa_ros.core.vocabulary import VocabularyRegistry, VocabularyRequest
from fisa_ros.pipeline.segmenter import Segmenter, scale_image
from fisa_ros.runtime.graph_files import graphs_folder
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
    parser.add_argument('--out', type=Path, help='folder to write, replaced if it exists (default: in the cache)')
    parser.add_argument(
        '--frames',
        type=Path,
        default=share_dir() / 'models' / 'reference_frames',
        help=f'folder of at least {_MIN_FRAMES} images like those the robot will see; back-ends are compared on them',
    )
    parser.add_argument('--vocabulary', default='indoor', help='words of the comparison (default: %(default)s)')
    parser.add_argument('--json', action='store_true', help='print one JSON object')
    return parser


def _run(options: argparse.Namespace) -> dict[str, Any]:
    # Here, for exporting is all that needs these.
    from fisa_ros.runtime.graph_export import export_graphs

    started = time.monotonic()
    manifest = load_manifest(options.model)
    request = VocabularyRequest.parse(options.vocabulary)
    frames = [scale_image(frame, manifest.image_size_hw) for frame in _read_frames(options.frames)]
    segmenter = Segmenter.load(options.model, 'torch', 'cpu')
    try:
        state = segmenter.prepare(VocabularyRegistry().propose(request))
    finally:
        segmenter.close()
    folder = options.out or graphs_folder(manifest)
    description = export_graphs(manifest, folder, frames, state)
    sizes = {name: (folder / name).stat().st_size for name in description.files}
    return {
        'model': manifest.name,
        'folder': str(folder),
        'files': sizes,
        'frames': len(frames),
        'made_with': dict(description.made_with),
        'seconds': round(time.monotonic() - started, 3),
    }


def _read_frames(folder: Path) -> list[NDArray[np.uint8]]:
    paths = sorted(path for path in folder.glob('*') if path.suffix.lower() in ('.jpg', '.jpeg', '.png'))
    if len(paths) < _MIN_FRAMES:
        raise ImageError(f'{folder} has {len(paths)} images (.jpg, .png), at least {_MIN_FRAMES} are needed')
    frames = []
    for path in paths:
        image = cv2.imread(str(path), cv2.IMREAD_COLOR)
        if image is None:
            raise ImageError(f'{path} is not an image that can be read')
        frames.append(np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), np.uint8))
    return frames


def _print_files(summary: dict[str, Any]) -> None:
    for name, size in summary['files'].items():
        print(f'{name:24}{size / 1e6:10.1f} MB')
    print(f'{summary["model"]} exported in {summary["seconds"]:.0f} s to {summary["folder"]}')


if __name__ == '__main__':
    sys.exit(main())
