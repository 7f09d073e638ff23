"""Ids that persist from frame to frame."""

import pytest

from fisa_ros.msg import SegmentArray


@pytest.fixture
def ask(client):
    """Publishes an image and returns the answer to it."""
    answers = client.listen('segmentation/segments', SegmentArray)

    def ask_once(image=None):
        sent = client.publish(image)
        client.spin_until(lambda: answers and (answers[-1].header.stamp.sec, answers[-1].header.stamp.nanosec) == sent)
        return answers[-1]

    return ask_once


def ids(answer) -> dict[str, int]:
    return {segment.class_name: segment.id for segment in answer.segments}


@pytest.mark.parametrize('tracking', [True, False])
def test_a_segment_keeps_its_id_when_others_leave(client, start_node, colours, stripes, tracking, request) -> None:
    start_node(vocabulary=colours, tracking=str(tracking).lower())
    ask = request.getfixturevalue('ask')
    client.connect()
    first = ids(ask())
    assert first.keys() == {'red', 'green', 'blue'}
    # Black belongs to no class.
    only_blue = stripes()
    only_blue[only_blue[..., 2] == 0] = 0
    alone = ids(ask(only_blue))
    assert alone.keys() == {'blue'}
    assert (alone == {'blue': first['blue']}) == tracking
    assert ids(ask()) == first


def test_a_new_vocabulary_relabels_the_tracks(client, start_node, colours, request) -> None:
    start_node(vocabulary=colours, tracking='true')
    ask = request.getfixturevalue('ask')
    client.connect()
    before = ids(ask())
    assert client.set_vocabulary('crimson', 'lime', 'navy').success
    answer = ask()
    assert answer.vocabulary_version == 2
    assert ids(answer).keys() == {'crimson', 'lime', 'navy'}
    assert set(ids(answer).values()) == set(before.values())
