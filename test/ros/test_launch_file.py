"""The launch file, where the launch system is installed; the wheels do not have it."""

from dataclasses import fields
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
import shutil

import pytest
import yaml

from fisa_ros.core.resources import share_dir
from fisa_ros.node.segment_parameters import SegmentParameters
from fisa_ros.tools.ros_domain import profiles_variable

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


@pytest.fixture
def started(description, monkeypatch):
    """Gives the context and the nodes of `ros2 launch` with some arguments."""
    from launch import LaunchContext
    from launch.actions import DeclareLaunchArgument, OpaqueFunction, SetEnvironmentVariable

    monkeypatch.delenv(profiles_variable(), raising=False)

    def start(**arguments: str):
        context = LaunchContext()
        context.launch_configurations.update(arguments)
        return context, [
            result
            for entity in description.entities
            if isinstance(entity, DeclareLaunchArgument | OpaqueFunction | SetEnvironmentVariable)
            for result in entity.visit(context) or []
        ]

    return start


@pytest.fixture
def command(started):
    """Gives the environment and the command line of the segment node."""

    def of(**arguments: str) -> tuple[dict[str, str], list[str]]:
        context, (node,) = started(**arguments)
        node._perform_substitutions(context)
        words = [''.join(part.perform(context) for part in word) for word in node.cmd if hasattr(word[0], 'text')]
        return context.environment, words

    return of


def after(words: list[str], option: str) -> list[str]:
    return [words[index + 1] for index, word in enumerate(words) if word == option]


def remappings(words: list[str]) -> set[str]:
    return {word for word in words if ':=' in word}


def given(words: list[str]) -> dict[str, object]:
    """The parameters that the last file on the command line gives to the node."""
    (content,) = yaml.safe_load(Path(after(words, '--params-file')[-1]).read_text()).values()
    return content['ros__parameters']


def test_every_parameter_is_an_argument(description) -> None:
    arguments = {argument.name: argument for argument in description.get_launch_arguments()}
    assert set(arguments) == CONVENTIONAL | {field.name for field in fields(SegmentParameters)}
    assert all(argument.description for argument in arguments.values())


def test_the_node_gets_the_profile_and_what_was_asked_for(command) -> None:
    environment, words = command(vocabulary="on; baker's rack", score_threshold='1')
    assert Path(environment[profiles_variable()]).samefile(share_dir() / 'config' / 'fastdds.xml')
    assert Path(after(words, '--params-file')[0]).samefile(share_dir() / 'config' / 'fisa.yaml')
    assert given(words) == {'vocabulary': "on; baker's rack", 'score_threshold': 1.0}


def test_without_arguments_nothing_is_remapped(command) -> None:
    _, words = command()
    assert len(after(words, '--params-file')) == 1
    assert remappings(words) == set()


def test_one_topic_of_one_camera(command) -> None:
    _, words = command(image='/head/image_raw', image_transport='compressed')
    assert given(words)['image_transport'] == 'compressed'
    assert remappings(words) == {'image:=/head/image_raw'}


def test_topics_of_several_cameras(command) -> None:
    _, words = command(
        cameras='[front, rear]',
        image='[/a/image_raw, /b/image_raw]',
        camera_info='[/a/camera_info, /b/camera_info]',
    )
    assert given(words)['cameras'] == ['front', 'rear']
    assert remappings(words) == {
        'front/image:=/a/image_raw',
        'rear/image:=/b/image_raw',
        'front/camera_info:=/a/camera_info',
        'rear/camera_info:=/b/camera_info',
    }


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ({'cameras': '[front, rear]', 'image': '/a'}, 'argument image has 1 topics, argument cameras 2 names'),
        ({'cameras': '[front'}, r"argument cameras must be a name or a list like '\[front, rear\]', got '\[front'"),
        ({'score_threshold': 'high'}, "argument score_threshold: .*'high'"),
        ({'depth': 'maybe'}, "argument depth: .*'maybe'"),
        ({'params_file': '/none.yaml'}, 'argument params_file: no file /none.yaml'),
    ],
)
def test_what_cannot_be_is_refused_by_name(command, arguments, message) -> None:
    with pytest.raises(ValueError, match=message):
        command(**arguments)


def test_rviz_is_started_for_one_camera(started) -> None:
    context, (_, node) = started(rviz='true')
    assert node.node_package == 'rviz2'
    option, path, frame_option, frame = node._Node__arguments
    assert (option, frame_option) == ('-d', '-f')
    assert Path(path).samefile(share_dir() / 'config' / 'segment.rviz')
    assert frame.perform(context) == 'map'


def test_rviz_shows_all_cameras(started) -> None:
    _, (_, node) = started(rviz='true', cameras='[front, rear]')
    path = Path(node._Node__arguments[1])
    text = path.read_text()
    shutil.rmtree(path.parent)
    assert 'front/segmentation/overlay' in text
    assert 'rear/segmentation/points' in text


@pytest.fixture
def params_file(tmp_path) -> str:
    path = tmp_path / 'robot.yaml'
    path.write_text('{"/**/segment": {ros__parameters: {use_sim_time: true, cameras: [front, rear]}}}')
    return str(path)


def test_what_a_file_says_holds_unless_an_argument_says_otherwise(command, params_file) -> None:
    _, words = command(params_file=params_file, depth='true')
    assert given(words) == {'depth': True}
    _, words = command(params_file=params_file, use_sim_time='false', cameras='front')
    assert given(words) == {'use_sim_time': False, 'cameras': ['front']}


def test_topics_belong_to_the_cameras_of_the_file(command, params_file) -> None:
    _, words = command(params_file=params_file, image='[/a, /b]')
    assert {'front/image:=/a', 'rear/image:=/b'} <= remappings(words)
    with pytest.raises(ValueError, match='argument image has 1 topics, argument cameras 2 names'):
        command(params_file=params_file, image='/a')
