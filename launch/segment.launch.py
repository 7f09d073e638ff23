"""Start the segmentation node, and rviz2 if asked for."""

from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction, SetEnvironmentVariable, Shutdown
from launch.conditions import IfCondition
from launch.substitutions import EnvironmentVariable, LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue
from launch_ros.substitutions import FindPackageShare

# Parameters of the node that are launch arguments too; one that is not given leaves the word to the parameter file.
PARAMETERS = {
    'model': (str, 'name of a shipped model, or path of a manifest'),
    'backend': (str, 'auto, torch, onnxruntime or tensorrt'),
    'device': (str, 'auto, cpu or cuda:0'),
    'vocabulary': (str, '"cat; dog; grass, lawn", path of a YAML file, or name of a shipped vocabulary'),
    'mask_encoding': (str, 'mono8 or mono16'),
    'score_threshold': (float, 'drop segments whose class is less probable'),
    'mask_threshold': (float, 'drop pixels that belong less probably to their segment'),
    'overlap_threshold': (float, 'drop segments of which less remains visible behind others'),
    'id_quarantine_s': (float, 'time for which the id of a removed word rests'),
    'autostart': (bool, 'configure and activate at start'),
    'use_sim_time': (bool, 'take the time from /clock'),
}


def shared(*parts: str) -> PathJoinSubstitution:
    return PathJoinSubstitution([FindPackageShare('fisa_ros'), *parts])


def segment_node(context: LaunchContext) -> list[Node]:
    values = {name: LaunchConfiguration(name).perform(context) for name in PARAMETERS}
    given = {name: ParameterValue(text, value_type=PARAMETERS[name][0]) for name, text in values.items() if text}
    return [
        Node(
            package='fisa_ros',
            executable='segment_node',
            name='segment',
            namespace=LaunchConfiguration('namespace'),
            parameters=[LaunchConfiguration('params_file'), given],
            remappings=[('image', LaunchConfiguration('image'))],
            arguments=['--ros-args', '--log-level', LaunchConfiguration('log_level')],
            output='screen',
            on_exit=Shutdown(reason='the segmentation node has ended'),
        )
    ]


def generate_launch_description() -> LaunchDescription:
    return LaunchDescription(
        [
            DeclareLaunchArgument('namespace', default_value='', description='in front of node and topics'),
            DeclareLaunchArgument('image', default_value='image', description='topic of the camera images'),
            DeclareLaunchArgument('params_file', default_value=shared('config', 'fisa.yaml')),
            DeclareLaunchArgument('log_level', default_value='info', description='debug, info, warn or error'),
            DeclareLaunchArgument('rviz', default_value='false', description='start rviz2 as well'),
            *(
                DeclareLaunchArgument(name, default_value='', description=f'{text} (default: the parameter file)')
                for name, (_, text) in PARAMETERS.items()
            ),
            # Fast DDS's defaults lose nearly all images between two processes.
            SetEnvironmentVariable(
                'FASTRTPS_DEFAULT_PROFILES_FILE',
                EnvironmentVariable('FASTRTPS_DEFAULT_PROFILES_FILE', default_value=shared('config', 'fastdds.xml')),
            ),
            OpaqueFunction(function=segment_node),
            Node(
                package='rviz2',
                executable='rviz2',
                namespace=LaunchConfiguration('namespace'),
                arguments=['-d', shared('config', 'segment.rviz')],
                condition=IfCondition(LaunchConfiguration('rviz')),
            ),
        ]
    )
