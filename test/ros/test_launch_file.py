"""The launch file, where the launch system is installed; the wheels do not have it."""

from dataclasses import fields
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
import shutil

import pytest

from fisa_ros.core.resources import share_dir
from fisa_ros.node.segment_parameters import SegmentParameters

pytest.importorskip('launch_ros')

CONVENTIONAL = {
    'namespace', 'params_file', 'use_sim_time', 'log_level', 'image', 'depth_image', 'camera_info', 'rviz',
    'fixed_frame', 'respawn', 'respawn_delay',
}  # fmt: skip


@pytest.fixture
def description():
    spec = spec_from_file_location('segment_launch', share_dir() / 'launch' / 'segment.launch.py')
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.generate_launch_description()


def test_every_parameter_is_an_argument(description) -> None:
    arguments = {argument.name: argument for argument in description.get_launch_arguments()}
    assert set(arguments) == CONVENTIONAL | {field.name for field in fields(SegmentParameters)}
    assert all(argument.description for argument in arguments.values())


def started(description, context) -> list:
    """Return the nodes that the file would start."""
    from launch.actions import DeclareLaunchArgument, OpaqueFunction, SetEnvironmentVariable

    return [
        result
        for entity in description.entities
        if isinstance(entity, DeclareLaunchArgument | OpaqueFunction | SetEnvironmentVariable)
        for result in entity.visit(context) or []
    ]


def command(node, context) -> str:
    node._perform_substitutions(context)
    return ' '.join(sub.perform(context) for part in node.cmd for sub in part if hasattr(sub, 'text'))


def test_the_node_gets_the_profile_and_what_was_asked_for(description, monkeypatch) -> None:
    from launch import LaunchContext

    monkeypatch.delenv('FASTRTPS_DEFAULT_PROFILES_FILE', raising=False)
    context = LaunchContext()
    context.launch_configurations.update({'vocabulary': "on; baker's rack", 'score_threshold': '1'})
    (node,) = started(description, context)
    profiles = Path(context.environment['FASTRTPS_DEFAULT_PROFILES_FILE'])
    assert profiles.samefile(share_dir() / 'config' / 'fastdds.xml')
    text = command(node, context)
    files = [Path(part) for part in text.split() if part.endswith('.yaml') or 'launch_params' in part]
    assert files[0].samefile(share_dir() / 'config' / 'fisa.yaml')
    content = files[1].read_text()
    assert "on; baker's rack" in content
    assert 'score_threshold: 1.0' in content
    assert 'model' not in content


def test_rviz_is_started_for_one_camera(description) -> None:
    from launch import LaunchContext
    from launch.substitutions import LaunchConfiguration

    context = LaunchContext()
    context.launch_configurations['rviz'] = 'true'
    node = started(description, context)[1]
    assert node.node_package == 'rviz2'
    option, path, frame_option, frame = node._Node__arguments
    assert (option, frame_option) == ('-d', '-f')
    assert Path(path).samefile(share_dir() / 'config' / 'segment.rviz')
    assert isinstance(frame, LaunchConfiguration)
    assert frame.perform(context) == 'map'


def test_rviz_shows_all_cameras(description) -> None:
    from launch import LaunchContext

    context = LaunchContext()
    context.launch_configurations.update({'rviz': 'true', 'cameras': '[front, rear]'})
    path = Path(started(description, context)[-1]._Node__arguments[1])
    text = path.read_text()
    shutil.rmtree(path.parent)
    assert 'front/segmentation/overlay' in text
    assert 'rear/segmentation/points' in text
