from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
import numpy as np

from fisa_ros.core.placement import STRETCH
from fisa_ros.core.vocabulary import Vocabulary, VocabularyClass
from fisa_ros.pipeline.segments import list_segments
from fisa_ros.pipeline.tracking import Tracker, TrackerOptions
from fisa_ros.runtime.backend import RawSegmentation

NUM_QUERIES = 6
SIZES_HW = [(8, 12), (24, 17), (1, 3)]
CLASSES = tuple(VocabularyClass(10 + i, (f'w{i}',), i % 2 == 0) for i in range(6))
VOCABULARIES = (Vocabulary(1, CLASSES[:4]), Vocabulary(2, CLASSES[2:]), Vocabulary(3, CLASSES[:1]))
OPTIONS = st.builds(
    TrackerOptions,
    max_missed_s=st.sampled_from([0.0, 0.5, 3.0]),
    id_quarantine_s=st.sampled_from([0.0, 2.0]),
    label_time_s=st.sampled_from([0.0, 1.0, 100.0]),
    label_hysteresis=st.sampled_from([1.0, 3.0]),
)


@st.composite
def frames(draw):
    """Draw (result, step in s, vocabulary, image or None)."""
    vocabulary = draw(st.sampled_from(VOCABULARIES))
    query_map = draw(hnp.arrays(np.int16, (4, 5), elements=st.integers(0, NUM_QUERIES), fill=st.integers(0, 3)))
    index = draw(hnp.arrays(np.int64, NUM_QUERIES, elements=st.integers(0, len(vocabulary.classes) - 1)))
    # The head gives all masks of one stuff class to one query.
    first: dict[int, int] = {}
    for query, row in enumerate(index.tolist()):
        owner = query if vocabulary.classes[row].is_thing else first.setdefault(row, query)
        query_map[query_map == query + 1] = owner + 1
    scores = draw(hnp.arrays(np.float32, NUM_QUERIES, elements=st.sampled_from([0.0, 0.25, 0.5, 1.0])))
    size_hw = draw(st.sampled_from([SIZES_HW[0], *SIZES_HW]))
    result = list_segments(RawSegmentation(query_map, index, scores), vocabulary, STRETCH.place(size_hw, size_hw))
    value = draw(st.integers(0, 2**32 - 1) | st.none())
    image = None if value is None else np.random.default_rng(value).integers(0, 256, (*size_hw, 3), np.uint8)
    return result, draw(st.sampled_from([0.0, 0.1, 0.1, 1.0, 10.0, -0.5, -5.0])), vocabulary, image


@given(OPTIONS, st.lists(frames(), min_size=1, max_size=8))
@settings(max_examples=150)
def test_any_sequence_gives_sound_results(options, sequence):
    tracker = Tracker(options)
    time_s = 0.0
    for result, step_s, vocabulary, image in sequence:
        time_s += step_s
        result.panoptic_map.setflags(write=False)
        tracked = tracker.update(result, time_s, vocabulary, image)
        check_the_list_describes_the_map(tracked)
        check_labels(tracked, vocabulary)
        check_partition(result, tracked)


def check_the_list_describes_the_map(result):
    assert set(np.unique(result.panoptic_map).tolist()) - {0} == {segment.id for segment in result.segments}
    for segment in result.segments:
        ys, xs = np.nonzero(result.panoptic_map == segment.id)
        assert segment.area == len(xs)
        assert segment.box_xyxy == (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1)


def check_labels(result, vocabulary):
    known = {(entry.id, entry.name, entry.is_thing) for entry in vocabulary.classes}
    assert result.vocabulary_version == vocabulary.version
    assert {(segment.class_id, segment.class_name, segment.is_thing) for segment in result.segments} <= known
    stuff = Counter(segment.class_id for segment in result.segments if not segment.is_thing)
    assert all(count == 1 for count in stuff.values())


def check_partition(plain, tracked):
    assert ((plain.panoptic_map == 0) == (tracked.panoptic_map == 0)).all()
    pairs = set(zip(plain.panoptic_map.ravel().tolist(), tracked.panoptic_map.ravel().tolist(), strict=True))
    assert len(pairs) == len({old for old, _ in pairs})
    parts = Counter(new for _, new in pairs)
    assert all(parts[segment.id] == 1 for segment in tracked.segments if segment.is_thing)
