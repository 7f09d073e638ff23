import numpy as np

from fisa_ros.evaluation.frame_assembly import FrameAssembly

ZEROS = np.zeros((2, 2), np.uint8)


class Clock:
    now_ns = 100

    def __call__(self):
        return self.now_ns


def answer(assembly, stamp_ns, version=1):
    assembly.add_semantic_map(stamp_ns, ZEROS)
    assembly.add_panoptic_map(stamp_ns, ZEROS)
    assembly.add_segments(stamp_ns, (), version)


def test_latency_ends_with_the_last_part_in_any_order():
    clock = Clock()
    assembly = FrameAssembly(clock)
    assembly.add_camera_frame(10)
    assembly.add_segments(10, (), 4)
    assert assembly.version_at(10) == 4
    assembly.add_panoptic_map(10, ZEROS)
    assert assembly.answered == 0
    clock.now_ns = 5_000_010
    assembly.add_semantic_map(10, ZEROS)
    (frame,) = assembly.frames(0, 20)
    assert frame.latency_ms == 5.0
    assert frame.truth is None
    assert assembly.first_answer_ns == {4: 5_000_010}


def test_frames_are_those_of_the_window_that_the_camera_sent_and_the_node_answered():
    assembly = FrameAssembly(Clock())
    for stamp_ns in (10, 20, 30, 40):
        assembly.add_camera_frame(stamp_ns)
    for stamp_ns in (40, 20, 10, 25):
        answer(assembly, stamp_ns)
    assembly.add_semantic_map(30, ZEROS)
    assembly.add_true_map(20, ZEROS)
    assembly.add_true_segments(20, ())
    assert [frame.stamp_ns for frame in assembly.frames(15, 50)] == [20, 40]
    assert [frame.truth is not None for frame in assembly.frames(15, 50)] == [True, False]
    assert assembly.camera_stamps(10, 40) == {10, 20, 30}
    assert assembly.strangers(since_ns=0) == [25]


def test_old_answers_are_no_strangers():
    clock = Clock()
    assembly = FrameAssembly(clock)
    answer(assembly, 1)
    clock.now_ns = 200
    answer(assembly, 2)
    assert assembly.strangers(since_ns=150) == [2]


def test_second_answer_to_a_frame_is_counted_and_changes_no_time():
    clock = Clock()
    assembly = FrameAssembly(clock)
    assembly.add_camera_frame(10)
    answer(assembly, 10)
    clock.now_ns = 300
    answer(assembly, 10)
    assert assembly.duplicates == 3
    assert assembly.answered == 1
    assert assembly.first_answer_ns == {1: 100}


def test_unknown_stamp_has_no_version():
    assembly = FrameAssembly(Clock())
    assembly.add_semantic_map(10, ZEROS)
    assert assembly.version_at(10) is None
    assert assembly.version_at(11) is None
