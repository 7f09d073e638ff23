from dataclasses import asdict

import pytest

from fisa_ros.evaluation.answer_check import AnswerCheck

VOCABULARIES = {1: {1: 'floor', 2: 'chair'}, 2: {3: 'couch', 4: 'lamp'}}


@pytest.fixture
def check() -> AnswerCheck:
    check = AnswerCheck('front', VOCABULARIES)
    for stamp_ns in range(100, 200):
        check.add_sent(stamp_ns)
    return check


def answer(
    check, stamp_ns=100, version=1, class_ids=(0, 1, 2), segments=((1, 1, 'floor'), (2, 2, 'chair')), ids=(1, 2)
):
    check.add_class_ids(stamp_ns, class_ids)
    check.add_segment_ids(stamp_ns, ids)
    check.add_segments(stamp_ns, version, segments)
    check.add_announcement(version)


def faults(check) -> dict[str, int]:
    check.finish()
    found = check.faults
    return {name: number for name, number in asdict(found).items() if number}


def test_right_answers_have_no_faults(check) -> None:
    answer(check)
    answer(check, 101, 2, (3,), ((7, 3, 'couch'),), (7, 0))
    answer(check, 102, 2, (0,), (), (0,))
    check.add_labels({4: 'lamp', 3: 'couch'})
    assert faults(check) == {}
    assert check.checked == 3


@pytest.mark.parametrize(
    ('stamp_ns', 'frame_id', 'is_right'),
    [(150, 'front', True), (200, 'front', False), (150, 'rear', False), (120, 'front', False), (119, 'front', False)],
)
def test_stamps_and_frames_must_be_those_sent_in_order(check, stamp_ns, frame_id, is_right) -> None:
    assert check.add_message('mask', 120, 'front')
    assert check.add_message('mask', stamp_ns, frame_id) == is_right
    assert check.add_message('segments', 110, 'front')
    assert faults(check) == ({} if is_right else {'wrong_stamps': 1})


@pytest.mark.parametrize(
    ('changed', 'expected'),
    [
        (dict(version=2), 'mixed_vocabularies'),
        (dict(class_ids=(1, 2, 3), segments=((1, 1, 'floor'), (2, 2, 'chair'), (3, 3, 'couch')), ids=(1, 2, 3)),
         'mixed_vocabularies'),
        (dict(segments=((1, 1, 'floor'), (2, 2, 'couch'))), 'mixed_vocabularies'),
        (dict(class_ids=(1,)), 'contradictions'),
        (dict(ids=(1,)), 'contradictions'),
        (dict(ids=(1, 2, 3)), 'contradictions'),
    ],
)  # fmt: skip
def test_an_answer_must_agree_with_its_vocabulary_and_itself(check, changed, expected) -> None:
    answer(check, **changed)
    assert faults(check) == {expected: 1}


def test_a_vocabulary_may_become_known_after_the_answer() -> None:
    vocabularies: dict[int, dict[int, str]] = {}
    check = AnswerCheck('front', vocabularies)
    answer(check)
    assert (check.checked, check.incomplete) == (0, 1)
    vocabularies[1] = VOCABULARIES[1]
    assert faults(check) == {}
    assert check.checked == 1


def test_a_version_that_nobody_set_is_a_fault_whenever_it_is_noticed() -> None:
    check = AnswerCheck('front', VOCABULARIES, max_waiting=3)
    for stamp_ns in range(5):
        answer(check, stamp_ns, version=9)
    assert check.faults.mixed_vocabularies == 2
    assert faults(check) == {'mixed_vocabularies': 5}


def test_parts_that_stay_away_are_no_fault(check) -> None:
    check.add_class_ids(100, [9])
    assert faults(check) == {}
    assert check.incomplete == 1


def test_labels_must_be_those_of_a_version_and_every_version_announced(check) -> None:
    check.add_labels({1: 'floor'})
    check.add_class_ids(100, (1,)), check.add_segment_ids(100, (1,)), check.add_segments(100, 1, [(1, 1, 'floor')])
    assert faults(check) == {'mixed_vocabularies': 1, 'unannounced': 1}


def test_points_have_the_size_of_their_mask_whichever_comes_first(check) -> None:
    check.add_mask_size(100, (480, 640))
    check.add_points(100, (480, 640))
    check.add_points(101, (480, 640))
    check.add_mask_size(101, (480, 640))
    check.add_points(102, (480, 640))
    assert (check.points_in, check.points_checked, faults(check)) == (3, 2, {})
    check.add_mask_size(102, (640, 480))
    check.add_mask_size(103, (480, 640))
    check.add_points(103, (0, 0))
    assert (check.points_in, check.points_checked, faults(check)) == (4, 4, {'wrong_points': 2})


def test_masks_without_points_are_not_kept_for_ever() -> None:
    check = AnswerCheck('front', VOCABULARIES, max_waiting=3)
    for stamp_ns in range(100, 110):
        check.add_mask_size(stamp_ns, (480, 640))
    for stamp_ns in range(100, 110):
        check.add_points(stamp_ns, (480, 640))
    assert (check.points_in, check.points_checked, faults(check)) == (10, 3, {})
