"""Start the segment node, and rviz2 if asked for.

Every parameter of the node is an argument of the same name. An argument wins over `params_file`; left empty, it leaves
the value to the file. With several cameras the topics are lists, one entry for each:
`cameras:="[front, rear]" image:="[/front/image_raw, /rear/image_raw]"`.
"""

from dataclasses import asdict
from pathlib import Path
import tempfile

from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction, SetEnvironmentVariable
from launch.conditions import IfCondition
from launch.substitutions import EnvironmentVariable, LaunchConfiguration, TextSubstitution
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue
import yaml

from fisa_ros.core.resources import share_dir
from fisa_ros.node.parameters import rules
from fisa_ros.node.segment_parameters import SegmentParameters
from fisa_ros.tools.ros_domain import profiles_variable
from fisa_ros.tools.rviz_config import rviz_config

CONFIG = share_dir() / 'config'
PROFILES = profiles_variable()
ARGUMENTS = {
    'namespace': ('', 'Namespace of all topics and services.'),
    'image': ('', 'Topic of the camera images, also with compressed ones; a list for several cameras.'),
    'depth_image': ('', 'Topic of the depth images; a list for several cameras.'),
    'camera_info': ('', 'Topic of the calibration; a list for several cameras.'),
    'params_file': (str(CONFIG / 'fisa.yaml'), 'File with parameters of the node.'),
    'use_sim_time': ('', 'Take the time from /clock.'),
    'log_level': ('info', 'Least severity to log.'),
    'rviz': ('false', 'Start rviz2 too.'),
    'fixed_frame': ('map', 'Frame that rviz2 draws in.'),
    'respawn': ('false', 'Start the node again when it ends by itself.'),
    'respawn_delay': ('2.0', 'Seconds until then.'),
} | {name: ('', rule.description) for name, rule in rules(SegmentParameters).items()}


def generate_launch_description() -> LaunchDescription:
    return LaunchDescription(
        [
            *(
                DeclareLaunchArgument(name, default_value=default, description=description)
                for name, (default, description) in ARGUMENTS.items()
            ),
            # With the defaults of Fast DDS nearly all images are lost between two processes.
            SetEnvironmentVariable(PROFILES, EnvironmentVariable(PROFILES, default_value=str(CONFIG / 'fastdds.xml'))),
            OpaqueFunction(function=lambda context: [segment(context)]),
            OpaqueFunction(
                function=lambda context: [rviz(context)], condition=IfCondition(LaunchConfiguration('rviz'))
            ),
        ]
    )


def segment(context: LaunchContext) -> Node:
    cameras = camera_names(context)
    types = {name: type(default) for name, default in asdict(SegmentParameters()).items()} | {'use_sim_time': bool}
    given = {
        name: value(context, name, value_type)
        for name, value_type in types.items()
        if name != 'cameras' and LaunchConfiguration(name).perform(context)
    }
    if texts(context, 'cameras'):
        given['cameras'] = ParameterValue(
            TextSubstitution(text=yaml.safe_dump(cameras, default_flow_style=True)), value_type=list[str]
        )
    return Node(
        package='fisa_ros',
        executable='segment_node',
        name='segment',
        namespace=LaunchConfiguration('namespace'),
        output='screen',
        respawn=LaunchConfiguration('respawn'),
        respawn_delay=float(LaunchConfiguration('respawn_delay').perform(context)),
        ros_arguments=['--log-level', LaunchConfiguration('log_level')],
        remappings=[
            remapping
            for argument, name in (('image', 'image'), ('depth_image', 'depth'), ('camera_info', 'camera_info'))
            for remapping in remap(cameras, argument, name, texts(context, argument))
        ],
        parameters=[LaunchConfiguration('params_file'), *([given] if given else [])],
    )


def camera_names(context: LaunchContext) -> list[str]:
    """Return the names of the cameras: those of the argument, else those of the file of parameters."""
    path = Path(LaunchConfiguration('params_file').perform(context))
    # The launch system itself only warns, and starts the node with its defaults.
    if not path.is_file():
        raise ValueError(f'argument params_file: no file {path}')
    content = yaml.safe_load(path.read_text(encoding='utf-8')) or {}
    in_file = [
        parameters['cameras']
        for node, section in content.items()
        if node.rpartition('/')[2] in ('segment', '*', '**')
        and 'cameras' in (parameters := (section or {}).get('ros__parameters') or {})
    ]
    return texts(context, 'cameras') or (in_file[-1] if in_file else list(SegmentParameters.cameras))


def value(context: LaunchContext, argument: str, value_type: type) -> ParameterValue:
    """Return an argument as the value of a parameter; what has another type is an error that names it."""
    found = ParameterValue(LaunchConfiguration(argument), value_type=value_type)
    try:
        found.evaluate(context)
    except ValueError as error:
        raise ValueError(f'argument {argument}: {error}') from error
    return found


def texts(context: LaunchContext, argument: str) -> list[str]:
    """Return an argument as a list: written as one in YAML, or a single text; empty if it is not given."""
    written = LaunchConfiguration(argument).perform(context)
    try:
        content = yaml.safe_load(written or '[]')
    except yaml.YAMLError as error:
        raise ValueError(
            f"argument {argument} must be a name or a list like '[front, rear]', got '{written}'"
        ) from error
    return [str(entry) for entry in (content if isinstance(content, list) else [content])]


def remap(cameras: list[str], argument: str, name: str, topics: list[str]) -> list[tuple[str, str]]:
    """Return what leads the cameras' topics of one name to the given ones."""
    if topics and len(topics) != len(cameras):
        raise ValueError(f'argument {argument} has {len(topics)} topics, argument cameras {len(cameras)} names')
    return [(f'{camera}/{name}' if camera else name, topic) for camera, topic in zip(cameras, topics, strict=False)]


def rviz(context: LaunchContext) -> Node:
    config = CONFIG / 'segment.rviz'
    cameras = camera_names(context)
    if any(cameras):
        config = Path(tempfile.mkdtemp(prefix='fisa_ros_')) / 'segment.rviz'
        config.write_text(yaml.safe_dump(rviz_config(cameras), sort_keys=False))
    return Node(
        package='rviz2',
        executable='rviz2',
        namespace=LaunchConfiguration('namespace'),
        arguments=['-d', str(config), '-f', LaunchConfiguration('fixed_frame')],
        parameters=[{'use_sim_time': LaunchConfiguration('use_sim_time').perform(context) == 'true'}],
    )
