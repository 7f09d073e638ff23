"""Interface files: the wire format of the generated vision_msgs, and a comment for every field."""

import json
import os
from pathlib import Path

import pytest

ROOT = Path(__file__).absolute().parents[2]

# Type hashes of vision_msgs 4.1.1 as released for ROS 2 Jazzy: nodes with other hashes do not talk to each other.
VISION_MSGS = {
    'BoundingBox2D': '008eacbb0cf8f26e83795547bed013eec3675485ef386ec056d80eaaf1c1ce2f',
    'BoundingBox3D': 'bbb73a65c163d7f9bb29009c7bde9f7faa576bd2d23299c4511d19230dab4698',
    'Detection2D': '0d12b69df5c593b3455b7346fac8205437a7d4bcb09b9e0e0b2dde787ded38ea',
    'Detection2DArray': '214274120007f4a683866481336b70310268cfa107aebe9d594a6acf75bda968',
    'Detection3D': 'ddd703be132ab0b69d33121f1bb034132bfbb3b0ac5f9fb1516005ba1c8a265b',
    'Detection3DArray': '793f5eab9595ac1c0da07873cc859db42eae51f0ee76056db8562515d830e018',
    'LabelInfo': '3d37df4015cdf660cc851c51897f2acd957e1ca6205ba0a99aebffb9406b0783',
    'ObjectHypothesis': '51da43cec11c01957a64d1e05a24acd18aae7745ec30b74348ad5f6d634f7f90',
    'ObjectHypothesisWithPose': '41c12344c0396c48b81df12467c192d99b2a0eb1463c5c37194e4223251c80bc',
    'Point2D': 'eab0e83f44ab4de92ceaf76dd7d0e7638f2bdd1d16ffbe16c7a136c48e407247',
    'Pose2D': 'b0b5d1d7b4c20dd4fcde3ed1d4b289a919290572007d67a97043814db25d3648',
    'VisionClass': '1e4a11f0fed50b5623cb8ff26ca0e37952a48a9c074d16f804b44e9164c2037a',
    'VisionInfo': '95d3116a17484ad91c9a2686e1d54890bbfc3ff6c6a2de137738c4950d45d284',
}


def installed_type_hash(package: str, name: str) -> str:
    for prefix in os.environ['AMENT_PREFIX_PATH'].split(':'):
        description = Path(prefix, 'share', package, 'msg', f'{name}.json')
        if description.is_file():
            hashes = json.loads(description.read_text(encoding='utf-8'))['type_hashes']
            return next(item['hash_string'] for item in hashes if item['type_name'] == f'{package}/msg/{name}')
    raise FileNotFoundError(f'{package}/msg/{name} is in no prefix of AMENT_PREFIX_PATH')


@pytest.mark.parametrize('name', VISION_MSGS)
def test_vision_msgs_has_the_released_wire_format(name):
    assert installed_type_hash('vision_msgs', name) == f'RIHS01_{VISION_MSGS[name]}'


def test_all_generated_vision_msgs_are_checked():
    generated = (ROOT / 'tooling' / 'interfaces' / 'vision_msgs' / 'msg').glob('*.msg')
    assert {path.stem for path in generated} == set(VISION_MSGS)


@pytest.mark.parametrize('path', sorted([*ROOT.glob('msg/*.msg'), *ROOT.glob('srv/*.srv')]), ids=lambda path: path.name)
def test_every_field_has_a_comment(path):
    lines = [line for line in path.read_text(encoding='utf-8').splitlines() if line and line != '---']
    bare = [line for above, line in zip(['', *lines], lines, strict=False) if not (line + above).count('#')]
    assert not bare
