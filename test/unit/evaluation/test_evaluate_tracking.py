from dataclasses import replace

import cv2
import numpy as np
import pytest

from fisa_ros.core.errors import DataError
from fisa_ros.core.results import PanopticResult
from fisa_ros.core.vocabulary import VocabularyRequest
from fisa_ros.evaluation.evaluate_tracking import (
    Match,
    SequenceFrame,
    TrackingScorer,
    evaluate_tracking,
    simulated_categories,
)
from fisa_ros.evaluation.tracking_plots import plot_timelines
from fisa_ros.simulation.frames import sequence_frames

SIZE_WH = (160, 120)
RATE_HZ = 10.0


def degraded(frame, categories, rng):
    """Return the truth as a model might say it: ids by area, 1 thing of 10 missed, 1 of 10 called something else."""
    vocabulary = categories.vocabulary
    entry_of = {
        number: entry for entry in vocabulary.classes for number in [categories.class_numbers.get(entry.id)] if number
    }
    things = [entry for entry in vocabulary.classes if entry.is_thing]
    segments = []
    table = np.zeros(int(frame.instance_map.max()) + 1, np.uint16)
    for segment in sorted(frame.segments, key=lambda segment: -segment.area):
        fate = rng.uniform() if segment.is_thing else 1.0
        if fate < 0.1:
            continue
        entry = entry_of[categories.numbers[segment.class_id]]
        if fate < 0.2:
            entry = things[int(rng.integers(len(things)))]
        table[segment.id] = len(segments) + 1
        segments.append(
            replace(segment, id=len(segments) + 1, class_id=entry.id, class_name=entry.name, score=rng.uniform(0.4, 1))
        )
    return PanopticResult(table.take(frame.instance_map), tuple(segments), vocabulary.version)


@pytest.fixture(scope='module')
def categories():
    return simulated_categories(VocabularyRequest.parse('indoor'))


@pytest.fixture(scope='module')
def sequences(categories):
    rng = np.random.default_rng(0)
    return [
        [
            SequenceFrame(frame.color, degraded(frame, categories, rng), frame.instance_map, frame.segments)
            for frame in sequence_frames(seed, range(50), SIZE_WH, rate_hz=RATE_HZ, shadow_share=0.0, with_depth=False)
        ]
        for seed in (5, 6)
    ]


def test_tracking_mends_what_was_degraded(sequences, categories):
    evaluation = evaluate_tracking(sequences, categories, RATE_HZ)
    without, tracked = evaluation.without.summary(), evaluation.tracked.summary()
    assert evaluation.frames == len(evaluation.update_ms) == 100
    assert without['matched'] > 200
    assert without['id_switches'] > 100
    assert tracked['id_switches'] < without['id_switches'] / 5
    assert tracked['id_transfers'] < without['id_transfers'] / 5
    assert without['label_flickers_per_s_things'] > 0.5
    assert tracked['label_flickers_per_s_things'] < without['label_flickers_per_s_things'] / 3
    assert tracked['pq'] > without['pq']
    # The masks are as they were.
    for name in ('visible', 'matched', 'fragmentations', 'seen_s_things'):
        assert tracked[name] == without[name]


def test_the_truth_itself_is_perfect(sequences, categories):
    scorer = TrackingScorer(categories)
    scorer.start_sequence()
    class_of = {categories.names[number - 1]: key for key, number in categories.class_numbers.items()}
    for frame in sequences[0]:
        segments = tuple(replace(segment, class_id=class_of[segment.class_name]) for segment in frame.truth_segments)
        scorer.add(PanopticResult(frame.truth_map, segments, 1), frame, 1 / RATE_HZ)
    summary = scorer.summary()
    assert summary['pq'] == summary['pq_things'] == summary['pq_stuff'] == 1
    assert summary['visible'] == summary['matched'] > 0
    assert summary['id_switches'] == summary['id_transfers'] == summary['label_changes_per_s_things'] == 0


def test_only_what_has_a_word_counts(sequences):
    """A wall is found; a door, for which there is no word, is called a unicorn, which no room has."""
    categories = simulated_categories(VocabularyRequest(('wall', 'unicorn')))
    wall_id, unicorn_id = categories.vocabulary.class_ids
    frame = sequences[0][0]
    wall = next(segment for segment in frame.truth_segments if segment.class_name == 'wall')
    thing = next(segment for segment in frame.truth_segments if segment.is_thing)
    segments = [replace(wall, class_id=wall_id), replace(thing, class_id=unicorn_id, class_name='unicorn')]
    shown = np.where(np.isin(frame.truth_map, [wall.id, thing.id]), frame.truth_map, 0).astype(np.uint16)
    result = PanopticResult(shown, tuple(sorted(segments, key=lambda segment: segment.id)), 1)
    scorer = TrackingScorer(categories)
    scorer.start_sequence()
    scorer.add(result, frame, 0.1)
    summary = scorer.summary()
    assert (summary['pq'], summary['pq_stuff'], summary['pq_things']) == (1, 1, None)
    assert (summary['visible'], summary['seen_s_things'], summary['seen_s_stuff']) == (0, 0, 0.1)


def test_words_for_nothing():
    with pytest.raises(DataError, match='in no class of the vocabulary'):
        simulated_categories(VocabularyRequest(('unicorn',)))


def test_timelines(tmp_path):
    steady = [{4: Match(1, 'cup'), 9: Match(2, 'book')}] * 10
    restless = [{4: Match(number, 'cup' if number % 2 else 'book')} for number in range(10)]
    plot_timelines(tmp_path / 'plot.png', {'one': restless, 'other': steady}, 5.0, 'title')
    picture = cv2.imread(str(tmp_path / 'plot.png')).astype(int)
    middle = picture.shape[1] // 2
    colors = [
        {tuple(color // 8) for color in half.reshape(-1, 3) if color.max() - color.min() > 60}
        for half in (picture[:, :middle], picture[:, middle:])
    ]
    assert len(colors[0]) > 2 * len(colors[1]) > 0


def test_a_timeline_of_nothing(tmp_path):
    plot_timelines(tmp_path / 'plot.png', {'one': [{}, {}], 'other': [{}, {}]}, 5.0, 'title')
    assert cv2.imread(str(tmp_path / 'plot.png')) is not None
