"""Measures what messages cost the segment node, without the networks."""

from collections.abc import Sequence
from contextlib import ExitStack
import importlib.util
import sys
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from fisa_ros.core.vocabulary import MONO8_MAX_ID
from fisa_ros.evaluation.frame_files import read_frames
from fisa_ros.evaluation.frame_timing import in_turn
from fisa_ros.evaluation.sized_vocabulary import SizedVocabulary
from fisa_ros.evaluation.timing_statistics import summarize_times
from fisa_ros.tools.benchmark_backends import open_segmenter
from fisa_ros.tools.benchmark_configuration import BenchmarkError, Configuration
from fisa_ros.tools.benchmark_masks import open_manifest
from fisa_ros.tools.benchmark_options import BenchmarkOptions
from fisa_ros.tools.benchmark_report import rounded
from fisa_ros.tools.ros_domain import own_domain

if TYPE_CHECKING:
    from fisa_ros.node.message_timing import MessageTiming


def measure_messages(configuration: Configuration, options: BenchmarkOptions) -> dict[str, Any]:
    """Return what each message costs, by the kind of images that come in, measured in turn.

    The answers are those of the model to the frames.

    Raises:
        FisaError: The model cannot be loaded, or messages do not arrive.
    """
    if importlib.util.find_spec('rclpy') is None:
        raise BenchmarkError('--messages measures messages of ROS, which is not there')
    if configuration.cameras != 1:
        raise BenchmarkError(f'--messages measures one camera, got cameras={configuration.cameras}')
    frames = read_frames(options.images, configuration.size)
    vocabulary = SizedVocabulary.make(configuration.vocabulary, configuration.words, configuration.synonyms)
    manifest = open_manifest(configuration)
    segmenter = open_segmenter(
        manifest, configuration.backend, configuration.device, configuration.threads, configuration.precision
    )
    try:
        state = vocabulary.prepare(segmenter)
        results = [segmenter.segment(frame, state) for frame in frames]
    finally:
        segmenter.close()
    mask_encoding = 'mono8' if max(vocabulary.vocabulary.class_ids) <= MONO8_MAX_ID else 'mono16'
    with own_domain(), ExitStack() as stack:
        # Here, for the environment tells which domain it is in.
        from fisa_ros.node.message_timing import INPUT_KINDS, MessageTimer

        timers = [
            stack.enter_context(MessageTimer(kind, frames, results, mask_encoding, f'messages_{name}'))
            for name, kind in INPUT_KINDS.items()
        ]
        rounds = tqdm(
            in_turn([timer.run for timer in timers], options.warm_up + options.frames),
            total=options.warm_up + options.frames, unit='round', file=sys.stderr, leave=False, disable=None,
        )  # fmt: skip
        measured = list(rounds)[options.warm_up :]
    return rounded(
        {
            'model': manifest.name,
            'size': configuration.describe('size'),
            'mask_encoding': mask_encoding,
            'words': len(vocabulary.vocabulary.classes),
            'segments': sum(len(result.segments) for result in results) / len(results),
            'messages': {
                name: _summary(timings) for name, timings in zip(INPUT_KINDS, zip(*measured, strict=True), strict=True)
            },
        }
    )


def _summary(timings: 'Sequence[MessageTiming]') -> dict[str, Any]:
    outputs = timings[0].make_ms
    return {
        'receive_ms': summarize_times([timing.receive_ms for timing in timings]),
        'decode_ms': summarize_times([timing.decode_ms for timing in timings]),
        'make_ms': {name: summarize_times([timing.make_ms[name] for timing in timings]) for name in outputs},
        'publish_ms': {name: summarize_times([timing.publish_ms[name] for timing in timings]) for name in outputs},
        'conversion_ms': summarize_times([timing.conversion_ms for timing in timings]),
        'total_ms': summarize_times([timing.total_ms for timing in timings]),
    }
