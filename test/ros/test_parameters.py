"""Parameters of a running node."""

import numpy as np
import pytest
from sensor_msgs.msg import Image


@pytest.fixture
def node(client, start_node, colours):
    process = start_node(vocabulary=colours)
    client.spin_until(lambda: client.state() == 'active')
    return process


def test_bad_values_are_refused_with_the_reason(client, node) -> None:
    before = client.get_parameter('score_threshold')
    for value in (-0.1, 1.1, float('nan')):
        result = client.set_parameter('score_threshold', value)
        assert not result.successful, value
        assert 'score_threshold' in result.reason
    for name, value in (
        ('score_threshold', '0.5'),
        ('score_threshold', 1),
        ('mask_encoding', 'mono16'),
        ('model', 'fisa-tiny'),
        ('vocabulary', 'cat'),
        ('no_such', 1),
    ):
        assert not client.set_parameter(name, value).successful, name
    assert client.get_parameter('score_threshold') == before
    assert client.get_vocabulary().classes == ['red', 'green', 'blue']


def test_a_threshold_acts_on_the_next_frame(client, start_node, colours) -> None:
    start_node(vocabulary='"red; green; blue"')
    masks = client.listen('segmentation/mask', Image)
    client.connect()
    image = np.full((48, 64, 3), (200, 120, 0), np.uint8)
    client.publish_until(lambda: masks and set(masks[-1].data) == {1}, image)
    assert client.set_parameter('score_threshold', 0.95).successful
    client.publish_until(lambda: set(masks[-1].data) == {0}, image)
    assert client.set_parameter('score_threshold', 0.5).successful
    client.publish_until(lambda: set(masks[-1].data) == {1}, image)
