"""The rviz2 files against what rviz2 of Jazzy can load: it passes over what it does not know without a word."""

from copy import deepcopy

import pytest
import yaml

from fisa_ros.core.resources import share_dir
from fisa_ros.tools.rviz_config import main, rviz_config

SHIPPED = share_dir() / 'config' / 'segment.rviz'
RELIABILITY = {'System Default', 'Reliable', 'Best Effort'}
DURABILITY = {'System Default', 'Transient Local', 'Volatile'}
HISTORY = {'System Default', 'Keep Last', 'Keep All'}
NUMBER = (int, float)

# Properties with their types or choices, from the sources of rviz_common and rviz_default_plugins. A property with
# properties below has its own value under `Value`.
TOPIC = {
    'Value': str, 'Depth': int, 'History Policy': HISTORY, 'Reliability Policy': RELIABILITY,
    'Durability Policy': DURABILITY,
}  # fmt: skip
DISPLAY = {'Class': str, 'Name': str, 'Enabled': bool, 'Value': bool}
VECTOR = {'X': NUMBER, 'Y': NUMBER, 'Z': NUMBER}
DISPLAYS = {
    'rviz_common/Group': {'Displays': list},
    'rviz_default_plugins/Grid': {
        'Reference Frame': str, 'Plane Cell Count': int, 'Normal Cell Count': int, 'Cell Size': NUMBER,
        'Line Style': {'Value': {'Lines', 'Billboards'}, 'Line Width': NUMBER}, 'Color': str, 'Alpha': NUMBER,
        'Plane': {'XY', 'XZ', 'YZ'}, 'Offset': VECTOR,
    },
    'rviz_default_plugins/TF': {
        'Show Names': bool, 'Show Axes': bool, 'Show Arrows': bool, 'Marker Scale': NUMBER, 'Update Interval': NUMBER,
        'Frame Timeout': NUMBER, 'Frames': dict, 'Tree': dict,
    },
    'rviz_default_plugins/Image': {
        'Topic': TOPIC, 'Normalize Range': bool, 'Min Value': NUMBER, 'Max Value': NUMBER, 'Median window': int,
    },
    'rviz_default_plugins/PointCloud2': {
        'Topic': {**TOPIC, 'Filter size': int}, 'Selectable': bool, 'Size (m)': NUMBER, 'Size (Pixels)': NUMBER,
        'Style': {'Points', 'Squares', 'Flat Squares', 'Spheres', 'Boxes', 'Tiles'}, 'Alpha': NUMBER,
        'Decay Time': NUMBER, 'Position Transformer': {'XYZ'},
        'Color Transformer': {'Intensity', 'RGB8', 'RGBF32', 'AxisColor', 'FlatColor'},
        'Channel Name': str, 'Use rainbow': bool, 'Invert Rainbow': bool, 'Autocompute Intensity Bounds': bool,
    },
    'rviz_default_plugins/MarkerArray': {'Topic': TOPIC, 'Namespaces': dict},
}  # fmt: skip
VIEWS = {
    'rviz_default_plugins/Orbit': {
        'Class': str, 'Name': str, 'Value': str, 'Distance': NUMBER, 'Focal Point': VECTOR, 'Pitch': NUMBER,
        'Yaw': NUMBER, 'Near Clip Distance': NUMBER, 'Target Frame': str,
    }
}  # fmt: skip
TOOLS = {f'rviz_default_plugins/{name}' for name in ('Interact', 'MoveCamera', 'Select', 'FocusCamera', 'Measure')}
MESSAGE_TYPES = {
    'rviz_default_plugins/Image': 'sensor_msgs/msg/Image',
    'rviz_default_plugins/PointCloud2': 'sensor_msgs/msg/PointCloud2',
    'rviz_default_plugins/MarkerArray': 'visualization_msgs/msg/MarkerArray',
}
# As the README lists them.
OUTPUTS = {
    **dict.fromkeys(('overlay', 'mask', 'instances', 'confidence'), 'sensor_msgs/msg/Image'),
    'points': 'sensor_msgs/msg/PointCloud2',
    'markers': 'visualization_msgs/msg/MarkerArray',
}


def check(values: dict, known: dict, where: str) -> None:
    for name, value in values.items():
        assert name in known, f'{where} has no property {name}'
        rule = known[name]
        if isinstance(rule, dict):
            check(value, rule, f'{where}/{name}')
        elif isinstance(rule, set):
            assert value in rule, f'{where}/{name}: {value}'
        else:
            assert isinstance(value, rule), f'{where}/{name}: {value!r}'
            assert not (isinstance(value, bool) and rule is not bool), f'{where}/{name}: {value!r}'


def check_display(display: dict) -> None:
    assert display['Class'] in DISPLAYS, display
    check(display, DISPLAY | DISPLAYS[display['Class']], display['Name'])
    assert display['Value'] == display['Enabled'], 'rviz takes the one or the other'


def flat(displays: list[dict]) -> list[dict]:
    return [inner for display in displays for inner in [display, *flat(display.get('Displays', []))]]


def displays_of(config: dict) -> list[dict]:
    return flat(config['Visualization Manager']['Displays'])


@pytest.fixture
def shipped() -> dict:
    return yaml.safe_load(SHIPPED.read_text())


def test_every_property_is_one_of_rviz(shipped) -> None:
    for display in displays_of(shipped):
        check_display(display)
    manager = shipped['Visualization Manager']
    assert set(manager) == {'Class', 'Displays', 'Enabled', 'Global Options', 'Name', 'Tools', 'Value', 'Views'}
    assert set(manager['Global Options']) == {'Background Color', 'Fixed Frame', 'Frame Rate'}
    assert {tool['Class'] for tool in manager['Tools']} <= TOOLS
    view = manager['Views']['Current']
    check(view, VIEWS[view['Class']], 'view')
    assert {panel['Class'] for panel in shipped['Panels']} <= {'rviz_common/Displays', 'rviz_common/Views'}
    assert {'Hide Left Dock', 'Hide Right Dock'} <= set(shipped['Window Geometry'])


def test_a_mistake_would_be_found(shipped) -> None:
    (overlay,) = [display for display in displays_of(shipped) if display['Name'] == 'Overlay']
    for name, value in (('Reliabilty', 'Reliable'), ('Reliability Policy', 'reliable'), ('Depth', '1')):
        wrong = deepcopy(overlay)
        wrong['Topic'][name] = value
        with pytest.raises(AssertionError, match=name):
            check_display(wrong)


def test_every_topic_has_the_type_of_its_display(shipped) -> None:
    shown = {}
    for display in displays_of(shipped):
        if 'Topic' in display:
            shown.setdefault(display['Topic']['Value'], set()).add(MESSAGE_TYPES[display['Class']])
    assert shown == {f'segmentation/{name}': {msg_type} for name, msg_type in OUTPUTS.items()}


def test_what_is_shown_at_first(shipped) -> None:
    enabled = {display['Name'] for display in displays_of(shipped) if display['Enabled']}
    assert enabled == {'Grid', 'TF', 'Overlay', 'Points', 'Markers'}
    transformers = {d['Name']: d['Color Transformer'] for d in displays_of(shipped) if 'Color Transformer' in d}
    assert transformers == {'Points': 'RGB8', 'Points by class': 'Intensity'}


def test_a_camera_without_a_name_changes_nothing(shipped) -> None:
    assert rviz_config(['']) == shipped


def test_each_camera_has_a_group(shipped, capsys) -> None:
    assert main(['front', 'rear']) == 0
    config = yaml.safe_load(capsys.readouterr().out)
    assert config == rviz_config(['front', 'rear'])
    groups = [d for d in config['Visualization Manager']['Displays'] if d['Class'] == 'rviz_common/Group']
    assert [group['Name'] for group in groups] == ['front', 'rear']
    for display in displays_of(config):
        check_display(display)
    single = [display for display in displays_of(shipped) if 'Topic' in display]
    for group in groups:
        assert [d['Topic']['Value'] for d in group['Displays']] == [
            f'{group["Name"]}/{d["Topic"]["Value"]}' for d in single
        ]
    names = [display['Name'] for display in displays_of(config)]
    assert len(names) == len(set(names))
