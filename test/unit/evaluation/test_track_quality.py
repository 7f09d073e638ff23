import numpy as np
import pytest

from fisa_ros.core.errors import DataError
from fisa_ros.evaluation.track_quality import TrackQuality

CAT, DOG, GRASS = 1, 2, 3
# A thing, another thing and stuff: instances 10, 20 and 30.
TRUTH = np.array([[10, 10, 20, 20], [30, 30, 30, 30]], np.uint16)
IS_THING = {10: True, 20: True, 30: False}


def measured(*frames, frame_s=0.5):
    """Each frame is (class of the first thing's segment, its id, class of the stuff), None where not found."""
    quality = TrackQuality()
    for thing, track_id, stuff in frames:
        predicted = np.zeros_like(TRUTH)
        classes = {}
        if thing is not None:
            predicted[TRUTH == 10] = track_id
            classes[track_id] = thing
        if stuff is not None:
            predicted[TRUTH == 30] = 99
            classes[99] = stuff
        quality.update(predicted, classes, TRUTH, IS_THING, frame_s)
    return quality


def test_nothing_changes():
    quality = measured(*[(CAT, 7, GRASS)] * 4)
    assert quality.summary() == {
        'visible': 8,
        'matched': 4,
        'id_switches': 0,
        'id_transfers': 0,
        'fragmentations': 0,
        'track_ids': 1,
        'seen_s_things': 4.0,
        'label_changes_per_s_things': 0,
        'label_flickers_per_s_things': 0,
        'seen_s_stuff': 2.0,
        'label_changes_per_s_stuff': 0,
        'label_flickers_per_s_stuff': 0,
    }


def test_switches_and_gaps():
    quality = measured((CAT, 7, None), (CAT, 8, None), (None, 0, None), (CAT, 8, None), (None, 0, None), (CAT, 7, None))
    assert (quality.counts.id_switches, quality.counts.fragmentations, quality.counts.track_ids) == (2, 2, 2)
    assert quality.counts.id_transfers == 0


def test_label_changes():
    quality = measured((CAT, 7, GRASS), (DOG, 7, GRASS), (None, 0, DOG), (CAT, 7, None), (CAT, 7, DOG))
    assert (quality.thing_labels.changes, quality.thing_labels.flickers) == (2, 1)
    # Two things are in the image for 2.5 s each, found or not.
    assert quality.thing_labels.changes_per_s == pytest.approx(2 / 5)
    assert quality.thing_labels.flickers_per_s == pytest.approx(1 / 5)
    assert (quality.stuff_labels.changes, quality.stuff_labels.flickers_per_s) == (1, pytest.approx(1 / 2.5))


def test_an_id_that_goes_over_to_another_thing():
    quality = TrackQuality()
    for instance in (10, 20, 10):
        quality.update(np.where(instance == TRUTH, 5, 0), {5: CAT}, TRUTH, IS_THING, 1.0)
    assert (quality.counts.id_switches, quality.counts.id_transfers, quality.counts.fragmentations) == (0, 2, 1)


@pytest.mark.parametrize(('width', 'matched'), [(2, 0), (3, 1)])
def test_a_match_needs_more_than_half(width, matched):
    truth = np.array([[10] * 4], np.uint16)
    predicted = np.zeros_like(truth)
    predicted[0, :width] = 3
    quality = TrackQuality()
    assert quality.update(predicted, {3: CAT}, truth, {10: True}, 1.0) == ({10: 3} if matched else {})
    assert quality.counts.matched == matched


def test_sequences_share_no_ids():
    quality = TrackQuality()
    for track_id in (5, 6):
        quality.start_sequence()
        quality.update(np.where(TRUTH == 10, track_id, 0), {track_id: track_id}, TRUTH, IS_THING, 1.0)
    assert (quality.counts.id_switches, quality.thing_labels.changes, quality.counts.matched) == (0, 0, 2)
    assert quality.counts.visible == 4


def test_nothing_seen():
    assert TrackQuality().summary()['label_changes_per_s_things'] == 0


def test_an_id_that_is_not_listed():
    with pytest.raises(DataError, match='ids that are not listed'):
        TrackQuality().update(TRUTH, {1: CAT}, TRUTH, IS_THING, 1.0)
