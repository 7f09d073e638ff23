"""Configurations that are loaded side by side and measured in turn."""

from collections.abc import Sequence
from dataclasses import dataclass, field
import importlib.util
import sys
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from fisa_ros.core.manifest import ModelManifest
from fisa_ros.core.results import PanopticResult
from fisa_ros.core.vocabulary import MONO8_MAX_ID
from fisa_ros.evaluation.frame_files import read_frames
from fisa_ros.evaluation.frame_timing import FrameMessages, FrameTimer, FrameTiming, in_turn, label_agreement
from fisa_ros.evaluation.sized_vocabulary import SizedVocabulary
from fisa_ros.pipeline.segmenter import Segmenter
from fisa_ros.tools.benchmark_backends import open_segmenter
from fisa_ros.tools.benchmark_configuration import BenchmarkError, Configuration
from fisa_ros.tools.benchmark_machine import memory_mb
from fisa_ros.tools.benchmark_masks import open_manifest
from fisa_ros.tools.benchmark_options import BenchmarkOptions


@dataclass
class Point:
    """A configuration, ready to run, and what was measured of it.

    Attributes:
        configuration: What was asked for.
        vocabulary: Its words.
        runner: Runs its frames.
        timings: One for each round.
        agreement: For each of the first frames, the fraction of pixels labelled as by the first point.
    """

    configuration: Configuration
    vocabulary: SizedVocabulary
    runner: FrameTimer
    timings: list[FrameTiming] = field(default_factory=list)
    agreement: list[float] = field(default_factory=list)

    @property
    def segmenter(self) -> Segmenter:
        """The model."""
        return self.runner.segmenter

    @property
    def total_ms(self) -> list[float]:
        """Time of each frame."""
        return [timing.total_ms for timing in self.timings]


class BenchmarkSession:
    """Loads what configurations need, each thing once; use it in a `with` block.

    Attributes:
        points: The configurations, in order.
        memory_mb: `before` and `after_load`, memory of this process in 10^6 bytes.
        has_messages: Whether ROS is there, so that messages are measured too.

    Args:
        configurations: What to measure.
        options: How.

    Raises:
        FisaError: Something cannot be loaded.
    """

    def __init__(self, configurations: Sequence[Configuration], options: BenchmarkOptions) -> None:
        self._options = options
        self._manifests: dict[tuple[str, int | None], ModelManifest] = {}
        self._segmenters: dict[tuple[Any, ...], Segmenter] = {}
        self._frames: dict[tuple[int, int], list[NDArray[np.uint8]]] = {}
        self.has_messages = all(importlib.util.find_spec(name) for name in ('sensor_msgs', 'fisa_ros.msg'))
        self.points: list[Point] = []
        several = next((entry for entry in configurations if entry.cameras != 1), None)
        if several is not None:
            raise BenchmarkError(f'cameras={several.cameras} can be measured through ROS only: add --ros')
        vocabularies = [SizedVocabulary.make(entry.vocabulary, entry.words, entry.synonyms) for entry in configurations]
        frames = [self._frames_of(entry.size) for entry in configurations]
        for entry in configurations:
            # Before memory is looked at: to make a variant takes more than to run it.
            self._manifest_of(entry)
        self.memory_mb = {'before': memory_mb()['rss']}
        try:
            for entry, vocabulary, images in zip(configurations, vocabularies, frames, strict=True):
                segmenter = self._segmenter_of(entry)
                settles = len(configurations) > 1 and segmenter.backend.device != 'cpu'
                runner = FrameTimer(
                    segmenter,
                    vocabulary.prepare(segmenter),
                    images,
                    self._messages_of(images, vocabulary),
                    # On a GPU, words of another point have to go up first, which a robot does once.
                    settles=settles,
                )
                self.points.append(Point(entry, vocabulary, runner))
        except BaseException:
            self.close()
            raise
        self.memory_mb['after_load'] = memory_mb()['rss']

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def measure(self) -> None:
        """Run all rounds: one frame of each point in turn."""
        warm_up, rounds = self._options.warm_up, self._options.frames
        runs = [point.runner.run for point in self.points]
        num_frames = min(map(len, self._frames.values()))
        progress = tqdm(in_turn(runs, warm_up + rounds), total=warm_up + rounds, unit='round', file=sys.stderr,
                        leave=False, disable=None)  # fmt: skip
        for number, results in enumerate(progress):
            if number < warm_up:
                continue
            for point, (timing, _) in zip(self.points, results, strict=True):
                point.timings.append(timing)
            if number - warm_up < num_frames:
                self._compare([result for _, result in results])

    def close(self) -> None:
        """Free all back-ends."""
        while self._segmenters:
            self._segmenters.popitem()[1].close()

    def _compare(self, results: Sequence[PanopticResult]) -> None:
        for point, result in zip(self.points, results, strict=True):
            if result.panoptic_map.shape == results[0].panoptic_map.shape:
                point.agreement.append(label_agreement(results[0], result))

    def _segmenter_of(self, entry: Configuration) -> Segmenter:
        key = (entry.model, entry.masks, entry.backend, entry.device, entry.threads, entry.precision)
        if key not in self._segmenters:
            self._segmenters[key] = open_segmenter(
                self._manifest_of(entry), entry.backend, entry.device, entry.threads, entry.precision
            )
        return self._segmenters[key]

    def _manifest_of(self, entry: Configuration) -> ModelManifest:
        key = (entry.model, entry.masks)
        if key not in self._manifests:
            self._manifests[key] = open_manifest(entry)
        return self._manifests[key]

    def _frames_of(self, size_wh: tuple[int, int]) -> list[NDArray[np.uint8]]:
        if size_wh not in self._frames:
            self._frames[size_wh] = read_frames(self._options.images, size_wh)
        return self._frames[size_wh]

    def _messages_of(self, images: Sequence[NDArray[np.uint8]], vocabulary: SizedVocabulary) -> FrameMessages | None:
        if not self.has_messages:
            return None
        from fisa_ros.node.frame_messages import ImageMessages

        is_small = max(vocabulary.vocabulary.class_ids) <= MONO8_MAX_ID
        return ImageMessages(images, 'mono8' if is_small else 'mono16')
