import threading

from fisa_ros.node.latest import LatestFrames


def test_a_waiting_frame_is_replaced() -> None:
    frames = LatestFrames[str, int]()
    assert [frames.put('front', number) for number in (1, 2, 3)] == [False, True, True]
    assert frames.take() == ('front', 3)


def test_the_camera_that_waited_longest_is_served_first() -> None:
    frames = LatestFrames[str, int]()
    for key, number in [('front', 1), ('rear', 2), ('front', 3)]:
        frames.put(key, number)
    assert [frames.take(), frames.take()] == [('front', 3), ('rear', 2)]


def test_wake_ends_a_wait_and_loses_no_frame() -> None:
    frames = LatestFrames[str, int]()
    frames.put('front', 1)
    frames.wake()
    assert frames.take() is None
    assert frames.take() == ('front', 1)


def test_take_waits_for_a_frame_of_another_thread() -> None:
    frames = LatestFrames[str, int]()
    taken = []
    thread = threading.Thread(target=lambda: taken.append(frames.take()))
    thread.start()
    frames.put('front', 7)
    thread.join(timeout=10)
    assert taken == [('front', 7)]


def test_cleared_frames_are_forgotten() -> None:
    frames = LatestFrames[str, int]()
    frames.put('front', 1)
    frames.clear()
    assert frames.put('front', 2) is False


def test_requests_come_in_order_and_take_turns_with_cameras() -> None:
    frames = LatestFrames[str, int]()
    assert [frames.put_request(number, limit=3) for number in (1, 2, 3, 4)] == [True, True, True, False]
    frames.put('front', 10)
    frames.put('rear', 20)
    taken = [frames.take() for _ in range(5)]
    assert taken == [(None, 1), ('front', 10), (None, 2), ('rear', 20), (None, 3)]


def test_forgotten_requests_are_returned() -> None:
    frames = LatestFrames[str, int]()
    frames.put_request(1, limit=3)
    frames.put('front', 10)
    assert frames.clear_requests() == [1]
    assert frames.take() == ('front', 10)


def test_a_wait_ends_when_nothing_comes_in_time() -> None:
    frames = LatestFrames[str, int]()
    assert frames.take(timeout_s=0.01) is None
    frames.put('front', 1)
    assert frames.take(timeout_s=0.01) == ('front', 1)
