import socket

import pytest

from fisa_ros.tools import ros_domain


def test_two_at_once_get_different_domains():
    with ros_domain.reserved_domain() as first, ros_domain.reserved_domain() as second:
        assert first != second
        assert {first, second} <= set(range(1, 102))


def test_a_domain_in_use_is_left_alone(monkeypatch):
    monkeypatch.setattr(ros_domain, '_DOMAINS', range(77, 79))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(('', 7400 + 250 * 77 + 12))
        for _ in range(5):
            with ros_domain.reserved_domain() as domain:
                assert domain == 78
        with (
            ros_domain.reserved_domain(),
            pytest.raises(ros_domain.FisaError, match=r'no ROS domain in 77\.\.78 is free'),
            ros_domain.reserved_domain(),
        ):
            pass


def test_environment_stays_on_this_machine_and_carries_images():
    environment = ros_domain.domain_environment(12)
    assert environment['ROS_DOMAIN_ID'] == '12'
    assert environment['ROS_AUTOMATIC_DISCOVERY_RANGE'] == 'LOCALHOST'
    assert environment[ros_domain.profiles_variable()].endswith('config/fastdds.xml')


@pytest.mark.parametrize(
    ('sourced', 'wheels', 'name'),
    [
        ('', '', 'RTPS'),
        ('', 'jazzy', 'RTPS'),
        ('jazzy', '', 'RTPS'),
        ('', 'kilted', 'DDS'),
        ('kilted', '', 'DDS'),
        ('rolling', '', 'DDS'),
    ],
)
def test_fast_dds_finds_the_profiles(monkeypatch, sourced, wheels, name):
    monkeypatch.setenv('ROS_DISTRO', sourced)
    monkeypatch.setenv('WHEELS', wheels)
    assert ros_domain.profiles_variable() == f'FAST{name}_DEFAULT_PROFILES_FILE'
