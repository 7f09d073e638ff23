"""Segment image files without ROS: `python -m fisa_ros.tools.segment IN --vocabulary "cat; dog; grass, lawn"`."""

import argparse
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
import json
import logging
from pathlib import Path
import sys
import time
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from fisa_ros.core.errors import ImageError
from fisa_ros.core.results import PanopticResult
from fisa_ros.core.vocabulary import MONO8_MAX_ID, MONO16_MAX_ID, VocabularyRegistry, VocabularyRequest
from fisa_ros.core.vocabulary_state import VocabularyState
from fisa_ros.pipeline.overlay import draw_overlay
from fisa_ros.pipeline.segmenter import Segmenter
from fisa_ros.runtime.backend import Thresholds
from fisa_ros.sources.image_folder import IMAGE_SUFFIXES, read_image
from fisa_ros.tools.model_arguments import add_model_arguments, chosen_thresholds, report

_log = logging.getLogger('fisa_ros.segment')
_OUTPUTS = ('_overlay.png', '_semantic.png', '_instances.png')
_MASK_DTYPES: dict[str, type[np.unsignedinteger]] = {'mono8': np.uint8, 'mono16': np.uint16}
_MAX_IDS = {'mono8': MONO8_MAX_ID, 'mono16': MONO16_MAX_ID}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return 0, 1 if an image was skipped, 2 if nothing could be done."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format='%(levelname)s: %(message)s', stream=sys.stderr)
    summary = report(lambda: _run(options), options.json, lambda made: _print_counts(made, options.out))
    return 2 if summary is None else int(bool(summary['failed']))


def _print_counts(summary: dict[str, Any], out: Path) -> None:
    print(f'{len(summary["images"])} images segmented, {len(summary["failed"])} failed; see {out}')


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog='python -m fisa_ros.tools.segment',
        description='Write NAME_overlay.png, NAME_semantic.png (class ids), NAME_instances.png (segment ids, 16 bit) '
        'and NAME.json for each image.',
    )
    parser.add_argument('input', metavar='IN', type=Path, help='image file, or folder of image files')
    parser.add_argument(
        '--out', type=Path, default=Path('out/segment'), help='folder to write to (default: %(default)s)'
    )
    parser.add_argument(
        '--vocabulary',
        default='indoor',
        help='"cat; dog; grass, lawn", a YAML file, or the name of a shipped vocabulary (default: %(default)s)',
    )
    add_model_arguments(parser)
    parser.add_argument('--mask-encoding', choices=tuple(_MAX_IDS), default='mono8', help='of NAME_semantic.png')
    parser.add_argument('--json', action='store_true', help='print one JSON object instead of a line per image')
    return parser


@dataclass(frozen=True, slots=True)
class _Job:
    """Everything that is the same for all images."""

    segmenter: Segmenter
    state: VocabularyState
    thresholds: Thresholds
    out: Path
    mask_dtype: type[np.unsignedinteger]


def _run(options: argparse.Namespace) -> dict[str, Any]:
    paths = _image_paths(options.input, options.out)
    registry = VocabularyRegistry(max_id=_MAX_IDS[options.mask_encoding])
    vocabulary = registry.propose(VocabularyRequest.parse(options.vocabulary))
    options.out.mkdir(parents=True, exist_ok=True)
    segmenter = Segmenter.load(options.model, options.backend, options.device, options.precision)
    try:
        job = _Job(
            segmenter=segmenter,
            state=segmenter.prepare(vocabulary),
            thresholds=chosen_thresholds(segmenter.default_thresholds, options),
            out=options.out,
            mask_dtype=_MASK_DTYPES[options.mask_encoding],
        )
        images, failed = _segment_all(job, paths, is_quiet=options.json)
    finally:
        segmenter.close()
    return {
        'model': segmenter.manifest.name,
        'backend': segmenter.backend.name,
        'device': segmenter.backend.device,
        'thresholds': asdict(job.thresholds),
        'classes': [asdict(entry) for entry in vocabulary.classes],
        'images': images,
        'failed': failed,
    }


def _image_paths(source: Path, out: Path) -> list[Path]:
    if source.is_file():
        return [source]
    if not source.is_dir():
        raise ImageError(f'{source} is neither a file nor a folder')
    is_own_output = _OUTPUTS if out.resolve() == source.resolve() else ()
    paths = [
        path
        for path in sorted(source.iterdir())
        if path.is_file() and path.suffix.lower() in IMAGE_SUFFIXES and not path.name.endswith(is_own_output)
    ]
    if not paths:
        raise ImageError(f'no image in {source}: looked for {", ".join(IMAGE_SUFFIXES)}')
    return paths


def _segment_all(job: _Job, paths: list[Path], is_quiet: bool) -> tuple[list[dict[str, Any]], list[dict[str, str]]]:
    images: list[dict[str, Any]] = []
    failed: list[dict[str, str]] = []
    num_files = Counter(path.stem for path in paths)
    with tqdm(paths, unit='image', file=sys.stderr, disable=None) as progress:
        for path in progress:
            name = path.stem if num_files[path.stem] == 1 else path.name.replace('.', '_')
            try:
                report = _segment_file(job, path, name)
            except ImageError as error:
                _log.error('%s', error)
                failed.append({'image': str(path), 'error': str(error)})
                continue
            images.append(report)
            if not is_quiet:
                progress.write(_line(report), file=sys.stdout)
    return images, failed


def _segment_file(job: _Job, path: Path, name: str) -> dict[str, Any]:
    image = read_image(path)
    start_s = time.perf_counter()
    result = job.segmenter.segment(image, job.state, job.thresholds)
    latency_ms = (time.perf_counter() - start_s) * 1e3
    _write_png(job.out / f'{name}_overlay.png', draw_overlay(image, result)[..., ::-1])
    _write_png(job.out / f'{name}_semantic.png', result.semantic_map.astype(job.mask_dtype))
    _write_png(job.out / f'{name}_instances.png', result.panoptic_map)
    report = _report(path, result, latency_ms)
    (job.out / f'{name}.json').write_text(json.dumps(report, indent=1) + '\n', encoding='utf-8')
    return report


def _report(path: Path, result: PanopticResult, latency_ms: float) -> dict[str, Any]:
    return {
        'image': str(path),
        'size_hw': list(result.panoptic_map.shape),
        'latency_ms': round(latency_ms, 3),
        'labeled': round(np.count_nonzero(result.panoptic_map) / result.panoptic_map.size, 6),
        'segments': [asdict(segment) for segment in result.segments],
    }


def _line(report: dict[str, Any]) -> str:
    counts = Counter(segment['class_name'] for segment in report['segments'])
    names = ', '.join(name if count == 1 else f'{name} x{count}' for name, count in counts.items())
    return f'{report["image"]}: {names or "nothing found"} ({report["latency_ms"]:.0f} ms)'


def _write_png(path: Path, image: NDArray[np.unsignedinteger]) -> None:
    path.write_bytes(cv2.imencode('.png', np.ascontiguousarray(image))[1].tobytes())


if __name__ == '__main__':
    sys.exit(main())
