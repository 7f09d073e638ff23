"""Quality of service set by the user, where it fits and where it cannot."""

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
import pytest
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image

from fisa_ros.msg import SegmentArray
from fisa_ros.srv import SegmentImage

INPUT = 'qos_overrides./image.subscription.'


def subscription(client):
    client.spin_until(lambda: client.node.get_subscriptions_info_by_topic('/image'))
    return client.node.get_subscriptions_info_by_topic('/image')[0].qos_profile


def test_an_override_wins_over_what_the_publisher_offers(client, start_node, colours) -> None:
    start_node(**{'vocabulary': colours, f'{INPUT}reliability': 'best_effort'})
    client.connect()
    assert subscription(client).reliability == ReliabilityPolicy.BEST_EFFORT
    assert client.get_parameter(f'{INPUT}reliability') == 'best_effort'


def test_two_sides_that_cannot_match_are_both_named(client, start_node, colours) -> None:
    reports = client.listen('/diagnostics', DiagnosticArray, is_matched=False)
    client.node.destroy_publisher(client.images)
    best_effort = QoSProfile(depth=5, reliability=ReliabilityPolicy.BEST_EFFORT)
    client.images = client.node.create_publisher(Image, 'image', best_effort)
    node = start_node(**{'vocabulary': colours, f'{INPUT}reliability': 'reliable'})
    node.wait_for_log('no image on /image for')
    line = next(line for line in node.log.splitlines() if 'no image on' in line)
    assert '/test_client offers BEST_EFFORT, VOLATILE; this node asks for RELIABLE, VOLATILE' in line

    def is_reported():
        return any(
            status.level == DiagnosticStatus.ERROR and 'quality of service does not match' in status.message
            for report in reports
            for status in report.status
        )

    client.spin_until(is_reported)
    client.node.destroy_publisher(client.images)
    client.images = client.node.create_publisher(Image, 'image', QoSProfile(depth=5))
    client.connect()


def test_an_output_can_be_overridden(client, start_node, colours) -> None:
    name = 'qos_overrides./segmentation/segments.publisher.reliability'
    start_node(**{'vocabulary': colours, name: 'best_effort'})
    answers = client.listen(
        'segmentation/segments', SegmentArray, QoSProfile(depth=5, reliability=ReliabilityPolicy.BEST_EFFORT)
    )
    client.publish_until(lambda: answers)
    publishers = client.node.get_publishers_info_by_topic('/segmentation/segments')
    assert [info.qos_profile.reliability for info in publishers] == [ReliabilityPolicy.BEST_EFFORT]


def test_overrides_survive_a_round_trip(client, start_node, colours) -> None:
    start_node(**{'vocabulary': colours, f'{INPUT}reliability': 'best_effort', f'{INPUT}depth': '2'})
    for step in ('deactivate', 'cleanup', 'configure', 'activate'):
        assert client.change_state(step)
    assert subscription(client).reliability == ReliabilityPolicy.BEST_EFFORT


def test_an_activation_that_fails_leaves_nothing_running(client, start_node, colours) -> None:
    second = 'qos_overrides./rear/image.subscription.reliability'
    node = start_node(**{'vocabulary': colours, 'cameras': '[front, rear]', second: 'bogus', 'autostart': 'false'})
    assert client.change_state('configure')
    for _ in range(2):
        assert not client.change_state('activate')
        assert client.state() == 'inactive'
        client.spin_until(lambda: client.node.count_subscribers('/front/image') == 0)
    assert f'cannot activate: parameter {second} must be one of' in node.log
    answer = client.call('segment_image', SegmentImage.Request())
    assert answer.message == 'the node is not active'


@pytest.mark.parametrize(
    ('policy', 'value', 'text'),
    [
        ('reliability', 'always', 'must be one of system_default, reliable, best_effort, best_available'),
        ('depth', '0', 'must be a whole number of at least 1, got 0'),
        ('speed', 'high', "'speed' is none of reliability, durability, history, depth"),
    ],
)
def test_values_that_do_not_exist_are_refused(client, start_node, colours, policy, value, text) -> None:
    node = start_node(**{'vocabulary': colours, f'{INPUT}{policy}': value})
    assert node.wait() == 1
    assert f'{INPUT}{policy}' in node.log
    assert text in node.log
