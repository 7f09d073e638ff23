import math

import pytest

from fisa_ros.pipeline.track_labels import Label, LabelVote

CHAIR, STOOL, WALL = Label(1, 'chair', True), Label(2, 'stool', True), Label(3, 'wall', False)


def vote(*said, time_s=1.0, hysteresis=2.0, step_s=0.1):
    made = LabelVote(time_s, hysteresis)
    for label, score in said:
        made.add(label, score, step_s)
    return made


def test_nothing_said():
    empty = LabelVote(1, 2)
    assert (empty.label, empty.score, empty.share(CHAIR), list(empty.labels)) == (None, 0, 0, [])


def test_one_label():
    chair = vote((CHAIR, 0.5), (CHAIR, 0.7))
    fade = math.exp(-0.1)
    assert chair.label == CHAIR
    assert chair.score == pytest.approx((0.5 * fade + 0.7) / (fade + 1))
    assert chair.share(CHAIR) == 1
    assert chair.share(STOOL) == 0


def test_a_single_flip_changes_nothing_but_the_score():
    flipped = vote(*[(CHAIR, 0.6)] * 5, (STOOL, 0.9))
    assert flipped.label == CHAIR
    assert 0.4 < flipped.score < 0.6
    assert 0.5 < flipped.share(CHAIR) < 1
    assert flipped.share(CHAIR) + flipped.share(STOOL) == pytest.approx(1)


def test_a_lasting_change_wins():
    assert vote(*[(CHAIR, 0.6)] * 20, *[(STOOL, 0.6)] * 20).label == STOOL


@pytest.mark.parametrize(('hysteresis', 'label'), [(1.0, STOOL), (1.5, STOOL), (2.5, CHAIR)])
def test_hysteresis(hysteresis, label):
    assert vote((CHAIR, 0.4), (STOOL, 0.8), hysteresis=hysteresis, step_s=0.0).label == label


def test_time_not_frames_decides():
    slow, fast = (vote(*[(CHAIR, 0.6)] * 10, (STOOL, 0.6), step_s=step_s) for step_s in (2.0, 0.02))
    assert (slow.label, fast.label) == (STOOL, CHAIR)


def test_without_memory_each_frame_counts_alone():
    assert vote(*[(CHAIR, 0.9)] * 9, (STOOL, 0.2), time_s=0.0).label == STOOL
    assert vote(*[(CHAIR, 0.9)] * 9, (STOOL, 0.2), time_s=0.0).score == pytest.approx(0.2)


def test_keep():
    kept = vote(*[(CHAIR, 0.6)] * 9, (STOOL, 0.4))
    kept.keep({STOOL, WALL})
    assert kept.label == STOOL
    assert kept.score == pytest.approx(0.4)
    kept.keep({WALL})
    assert (kept.label, kept.score) == (None, 0)
    assert kept.add(WALL, 0.3, 0.1) == WALL
    assert kept.score == pytest.approx(0.3)


def test_what_was_said_long_ago_is_forgotten():
    assert set(vote((STOOL, 0.9), *[(CHAIR, 0.5)] * 20).labels) == {CHAIR, STOOL}
    assert set(vote((STOOL, 0.9), *[(CHAIR, 0.5)] * 80).labels) == {CHAIR}


def test_scores_of_zero():
    nothing = vote((CHAIR, 0.0), (STOOL, 0.0))
    assert (nothing.label, nothing.score, nothing.share(CHAIR)) == (CHAIR, 0, 0)
    assert vote((CHAIR, 0.0), (STOOL, 0.0), time_s=0.0).label == STOOL
