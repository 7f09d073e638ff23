"""A model that needs no weights: a pixel belongs to the class whose word names the most similar colour."""

import argparse
from collections.abc import Sequence
from pathlib import Path
import sys
import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fisa_ros.core.errors import EngineError
from fisa_ros.core.manifest import ModelManifest, WeightsFile
from fisa_ros.core.results import PanopticResult
from fisa_ros.core.thresholds import Thresholds
from fisa_ros.core.vocabulary_state import VocabularyState
from fisa_ros.node import camera_outputs
from fisa_ros.node.segment_node import run
from fisa_ros.pipeline.segmenter import Segmenter
from fisa_ros.runtime.backend import RawSegmentation
from fisa_ros.runtime.build_progress import BuildProgress, BuildState
from fisa_ros.runtime.switching_backend import SwitchingBackend

# Two words for each colour, so that two vocabularies can see the same things.
COLORS = {
    'red': (255, 0, 0),
    'green': (0, 255, 0),
    'blue': (0, 0, 255),
    'crimson': (255, 0, 0),
    'lime': (0, 255, 0),
    'navy': (0, 0, 255),
}


class NearestColour:
    """Implements `Backend`."""

    name = 'nearest-colour'
    device = 'cpu'
    image_size_hw = (48, 64)
    embedding_dim = 3
    precision = 'fp32'
    num_semantic_tokens = 4
    max_classes = None

    def __init__(self, segment_s: float, encode_s: float) -> None:
        self._segment_s = segment_s
        self._encode_s = encode_s
        self._is_warm = False

    def segment(self, image: NDArray[np.uint8], state: VocabularyState, thresholds: Thresholds) -> RawSegmentation:
        if self._is_warm:
            time.sleep(self._segment_s)
        self._is_warm = True
        pixels = image.reshape(-1, 3).astype(np.float32)
        pixels /= np.maximum(np.linalg.norm(pixels, axis=1, keepdims=True), 1.0)
        similarity = (pixels @ state.text_embeddings.reshape(-1, 3).T).reshape(len(pixels), *state.synonym_mask.shape)
        similarity = similarity.max(axis=2)
        query_map = np.where(similarity.max(axis=1) >= thresholds.score, similarity.argmax(axis=1) + 1, 0)
        count = len(state.vocabulary.classes)
        return RawSegmentation(
            query_map.astype(np.int32).reshape(self.image_size_hw),
            np.arange(count, dtype=np.int64),
            np.full(count, 0.75, np.float32),
        )

    def encode_text(self, sentences: Sequence[str]) -> NDArray[np.float32]:
        if not COLORS.keys() >= set(sentences):
            time.sleep(self._encode_s)
        rows = np.array([COLORS.get(sentence, (1, 1, 1)) for sentence in sentences], np.float32)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    def close(self) -> None:
        pass


MANIFEST = ModelManifest(
    name='nearest-colour',
    description='Names colours.',
    licence='Apache-2.0',
    image_size_hw=NearestColour.image_size_hw,
    weights=WeightsFile(Path('none'), '0' * 64),
    generator={'type': 'none'},
    classifier={'type': 'none'},
    text_encoder={'type': 'none'},
    prompt_templates=('{}',),
    thresholds=Thresholds(0.5, 0.5, 0.8),
)


class FailingGpu(NearestColour):
    """Serves no frame after the one that warms it up."""

    name, device = 'nearest-colour-gpu', 'cuda:0'

    def segment(self, *args: Any) -> RawSegmentation:
        if self._is_warm:
            raise EngineError('running on the GPU failed')
        return super().segment(*args)


def make_switching(segment_s: float, encode_s: float) -> SwitchingBackend:
    """Return a back-end whose GPU is ready at once and fails with the second frame."""
    progress = BuildProgress()

    def prepare(_: object) -> tuple[FailingGpu, str]:
        progress.enter(BuildState.VERIFYING)
        return FailingGpu(segment_s, encode_s), 'passed'

    backend = SwitchingBackend(lambda: NearestColour(segment_s, encode_s), prepare, progress)
    assert backend.wait(10)
    return backend


class FailingSegmenter(Segmenter):
    """Breaks down on images of one width."""

    def __init__(
        self, segment_s: float, encode_s: float, broken_width: int | None, *, is_gpu_failing: bool = False
    ) -> None:
        make = make_switching if is_gpu_failing else NearestColour
        super().__init__(make(segment_s, encode_s), MANIFEST)
        self._broken_width = broken_width

    def segment(self, image: NDArray[np.uint8], *args: Any) -> PanopticResult:
        if image.shape[1] == self._broken_width:
            raise RuntimeError('this width is broken')
        return super().segment(image, *args)


def count_overlays() -> None:
    """Print a line whenever an overlay is drawn."""
    draw = camera_outputs.draw_overlay

    def draw_and_tell(*args: Any) -> Any:
        print('overlay drawn', flush=True)
        return draw(*args)

    camera_outputs.draw_overlay = draw_and_tell


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument('--load-s', type=float, default=0.0)
    parser.add_argument('--load-until', type=Path, help='load until this file exists')
    parser.add_argument('--segment-s', type=float, default=0.0)
    parser.add_argument('--encode-s', type=float, default=0.0)
    parser.add_argument('--fail-to-load', action='store_true')
    parser.add_argument('--fail-on-width', type=int)
    parser.add_argument('--fail-gpu', action='store_true')
    parser.add_argument('--max-classes', type=int)
    parser.add_argument('--count-overlays', action='store_true')
    options, ros_args = parser.parse_known_args()

    if options.count_overlays:
        count_overlays()

    def factory(_: object) -> Segmenter:
        time.sleep(options.load_s)
        while options.load_until and not options.load_until.exists():
            time.sleep(0.05)
        if options.fail_to_load:
            raise ZeroDivisionError
        segmenter = FailingSegmenter(
            options.segment_s, options.encode_s, options.fail_on_width, is_gpu_failing=options.fail_gpu
        )
        if options.max_classes:
            segmenter.backend.max_classes = options.max_classes
        return segmenter

    return run([sys.argv[0], *ros_args], factory)


if __name__ == '__main__':
    sys.exit(main())
