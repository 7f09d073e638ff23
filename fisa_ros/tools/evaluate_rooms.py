"""Scores a model on simulated rooms that no training saw: `python -m fisa_ros.tools.evaluate_rooms --rooms 50`."""

import argparse
from collections.abc import Iterator
from dataclasses import asdict
import json
import logging
import sys

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm
import yaml

from fisa_ros.core.errors import FisaError
from fisa_ros.core.resources import share_dir
from fisa_ros.core.results import PanopticResult, Segment
from fisa_ros.core.thresholds import Thresholds
from fisa_ros.core.vocabulary import VocabularyRegistry, VocabularyRequest
from fisa_ros.evaluation.mean_iou import MeanIou
from fisa_ros.evaluation.panoptic_quality import PanopticQuality
from fisa_ros.pipeline.segmenter import Segmenter
from fisa_ros.simulation.camera import SceneRenderer, free_positions, view_pose
from fisa_ros.simulation.categories import CATEGORIES
from fisa_ros.simulation.room import make_room
from fisa_ros.simulation.scene import build_scene
from fisa_ros.simulation.views import FIRST_SEED

WORDS = ('names', 'training', 'held_out')
_SIZE_WH = (640, 480)
_VIEWS_PER_ROOM = 2

View = tuple[NDArray[np.uint8], NDArray[np.uint16], tuple[Segment, ...]]


def room_views(split: str, rooms: int) -> Iterator[View]:
    """Yield image, instance map and segments of views of the first `rooms` rooms of a split."""
    for seed in range(FIRST_SEED[split], FIRST_SEED[split] + rooms):
        room = make_room(seed)
        rng = np.random.default_rng([seed, 3])
        renderer = SceneRenderer(build_scene(room, _SIZE_WH), _SIZE_WH)
        positions = free_positions(room)
        for _ in range(_VIEWS_PER_ROOM):
            renderer.look(*view_pose(rng, room, positions))
            instance_map = renderer.instances()
            yield renderer.color(), instance_map, renderer.segments(instance_map)
        renderer.close()


def words_for(kind: str) -> VocabularyRequest:
    """Return a vocabulary of all categories: their names, or only synonyms of one list of indoor_synonyms.yaml."""
    synonyms = yaml.safe_load((share_dir() / 'config' / 'vocabularies' / 'indoor_synonyms.yaml').read_text())
    lines = [entry.name if kind == 'names' else ', '.join(synonyms[entry.name][kind]) for entry in CATEGORIES]
    stuff = tuple(line.split(',')[0] for line, entry in zip(lines, CATEGORIES, strict=True) if not entry.is_thing)
    return VocabularyRequest(tuple(lines), stuff, tuple(entry.id for entry in CATEGORIES))


def add_view(quality: PanopticQuality, mean_iou: MeanIou, result: PanopticResult, view: View) -> None:
    """Score one answer; class ids are category ids."""
    _, instance_map, segments = view
    quality.update(
        result.panoptic_map,
        {segment.id: segment.class_id for segment in result.segments},
        instance_map,
        {segment.id: segment.class_id for segment in segments},
    )
    table = np.zeros(int(instance_map.max()) + 1, np.uint16)
    for segment in segments:
        table[segment.id] = segment.class_id
    mean_iou.update(result.semantic_map, table[instance_map])


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog='python -m fisa_ros.tools.evaluate_rooms', description=__doc__)
    parser.add_argument('--model', default='fisa-tiny', help='name of a shipped model or path of a manifest')
    parser.add_argument('--backend', default='auto')
    parser.add_argument('--device', default='auto')
    parser.add_argument('--split', default='test', choices=sorted(FIRST_SEED))
    parser.add_argument('--rooms', type=int, default=50, help=f'rooms, {_VIEWS_PER_ROOM} views each')
    parser.add_argument('--words', default='names', choices=WORDS, help='what the categories are called')
    for name in ('score', 'mask', 'overlap', 'objectness-trust'):
        parser.add_argument(f'--{name}', type=float, help='threshold; by default what fits the model')
    parser.add_argument('--json', action='store_true', help='print one JSON object')
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr)
    try:
        segmenter = Segmenter.load(options.model, options.backend, options.device)
        given = {key: getattr(options, key) for key in asdict(segmenter.default_thresholds)}
        chosen = {key: value for key, value in given.items() if value is not None}
        thresholds = Thresholds(**{**asdict(segmenter.default_thresholds), **chosen})
        registry = VocabularyRegistry()
        state = segmenter.prepare(registry.propose(words_for(options.words)))
    except (FisaError, ValueError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 1
    is_thing = {entry.id: entry.is_thing for entry in CATEGORIES}
    quality, mean_iou = PanopticQuality(is_thing), MeanIou(is_thing)
    count = options.rooms * _VIEWS_PER_ROOM
    for view in tqdm(room_views(options.split, options.rooms), total=count, unit='view', file=sys.stderr):
        add_view(quality, mean_iou, segmenter.segment(view[0], state, thresholds), view)
    scores, ious = quality.compute(), mean_iou.compute()
    summary = {
        'images': count,
        'pq': scores.all.pq,
        'sq': scores.all.sq,
        'rq': scores.all.rq,
        'pq_things': scores.things.pq,
        'pq_stuff': scores.stuff.pq,
        'miou': ious.mean_iou,
        'pixel_accuracy': ious.pixel_accuracy,
        'words': options.words,
        'thresholds': asdict(thresholds),
        'per_class': {
            entry.name: {'pq': scores.per_class[entry.id].pq, 'iou': ious.per_class.get(entry.id)}
            for entry in CATEGORIES
            if entry.id in scores.per_class
        },
    }
    if options.json:
        print(json.dumps(summary))
        return 0
    for name, row in summary['per_class'].items():
        print(f'{name:20} PQ {row["pq"]:.3f}  IoU {row["iou"]:.3f}')
    print(f'PQ {summary["pq"]:.3f}  SQ {summary["sq"]:.3f}  RQ {summary["rq"]:.3f}  '
          f'things {summary["pq_things"]:.3f}  stuff {summary["pq_stuff"]:.3f}')  # fmt: skip
    print(f'mIoU {summary["miou"]:.3f}  pixel accuracy {summary["pixel_accuracy"]:.3f}  ({count} views)')
    return 0


if __name__ == '__main__':
    sys.exit(main())
