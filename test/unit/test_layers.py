"""Who may import whom. Walks the syntax trees, so nothing has to be importable."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).absolute().parents[2]
PACKAGE = ROOT / 'fisa_ros'

RANK = {
    part: rank
    for rank, parts in enumerate(
        [
            {'core'},
            {'networks'},
            {'runtime'},
            {'pipeline'},
            {'training', 'evaluation', 'simulation', 'datasets', 'sources'},
            {'node'},
            {'tools'},
        ]
    )
    for part in parts
}

TORCH_RUNTIME = tuple(
    f'runtime/{name}.py'
    for name in (
        'crop_export',
        'frame_runner',
        'graph_export',
        'graph_modules',
        'half_precision',
        'torch_backend',
        'torch_cuda',
        'torch_device',
    )
)

# Library (or own part): where it may be imported, as paths below fisa_ros/.
ALLOWED = {
    'cuda': ('runtime',),
    'fisa_ros.msg': ('node',),
    'fisa_ros.networks': ('networks', *TORCH_RUNTIME, 'training', 'tools'),
    'fisa_ros.srv': ('node',),
    'launch': (),
    'mujoco': ('simulation',),
    'onnxruntime': ('runtime',),
    'open_clip': ('networks', 'training'),
    'ray': ('node',),
    'rclpy': ('node',),
    'requests': ('runtime',),
    'rosbags': ('sources', 'node'),
    'tensorrt': ('runtime',),
    'torch': ('networks', *TORCH_RUNTIME, 'training'),
    'torchvision': ('networks', 'training'),
    'transformers': ('networks', 'training'),
}
ROS_SUFFIXES = ('_msgs', '_srvs', '_interfaces', '_ros')


def imported_names(tree: ast.AST, package: str) -> Iterator[str]:
    """Yield the full name of everything that is imported; `package` resolves relative imports."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package.split('.')[: len(package.split('.')) - node.level + 1] if node.level else []
            module = '.'.join([*base, *([node.module] if node.module else [])])
            yield from (f'{module}.{alias.name}' for alias in node.names)


def violations(source: str, path: Path) -> list[str]:
    """List the forbidden imports of the module at `path`, which is relative to fisa_ros/."""
    found = []
    for name in imported_names(ast.parse(source), '.'.join(['fisa_ros', *path.parts[:-1]])):
        top, _, rest = name.partition('.')
        part = rest.partition('.')[0]
        if top == 'fisa_ros' and RANK.get(part, -1) > RANK[path.parts[0]]:
            found.append(f'{path} imports {name}, a higher layer')
        if top != 'fisa_ros' and top.endswith(ROS_SUFFIXES) and path.parts[0] != 'node':
            found.append(f'{path} imports {name}: only fisa_ros/node may import ROS')
        for library in (top, f'{top}.{part}'):
            places = ALLOWED.get(library)
            if places is not None and not any(path.is_relative_to(place) for place in places):
                found.append(f'{path} imports {name}: allowed in {", ".join(places) or "no module"}')
    return found


def test_every_part_has_a_layer():
    parts = {path.parent.name for path in PACKAGE.glob('*/__init__.py')}
    assert parts == set(RANK)


def test_imports_point_downwards():
    found = [
        violation
        for path in sorted(PACKAGE.glob('*/**/*.py'))
        for violation in violations(path.read_text(encoding='utf-8'), path.relative_to(PACKAGE))
    ]
    assert not found, '\n'.join(found)


@pytest.mark.parametrize(
    ('source', 'path', 'forbidden'),
    [
        ('from fisa_ros.core import errors', 'pipeline/segmenter.py', False),
        ('from ..core.errors import FisaError', 'pipeline/segmenter.py', False),
        ('from fisa_ros.evaluation.mean_iou import MeanIou', 'simulation/scene.py', False),
        ('from fisa_ros.networks import text', 'runtime/torch_backend.py', False),
        ('from sensor_msgs.msg import Image', 'node/conversions.py', False),
        ('from fisa_ros.pipeline import segmenter', 'core/results.py', True),
        ('from .. import pipeline', 'core/results.py', True),
        ('from ..pipeline.segmenter import Segmenter', 'core/results.py', True),
        ('def f():\n    import fisa_ros.node.latest', 'pipeline/segmenter.py', True),
        ('from fisa_ros.networks import text', 'pipeline/segmenter.py', True),
        ('from fisa_ros import networks', 'pipeline/segmenter.py', True),
        ('import torch.nn', 'runtime/factory.py', True),
        ('import rclpy.qos', 'tools/demo.py', True),
        ('from vision_msgs.msg import LabelInfo', 'pipeline/overlay.py', True),
        ('from fisa_ros.msg import Segment', 'core/results.py', True),
    ],
)
def test_the_rules_find_what_they_should(source, path, forbidden):
    assert bool(violations(source, Path(path))) is forbidden
