"""A robot with another back-end has no torch, and core, pipeline and metrics run without ROS."""

from pathlib import Path
import subprocess
import sys

ROOT = Path(__file__).absolute().parents[2]
BLOCKED = (
    'cuda',
    'mujoco',
    'onnx',
    'onnxruntime',
    'open_clip',
    'rclpy',
    'sensor_msgs',
    'tensorrt',
    'tokenizers',
    'torch',
    'transformers',
    'vision_msgs',
)
PARTS = ('core', 'runtime', 'pipeline', 'evaluation')
NEED_THEIR_LIBRARY = {
    f'fisa_ros.runtime.{name}'
    for name in (
        'crop_export',
        'crop_pipeline',
        'frame_runner',
        'graph_cost',
        'graph_export',
        'graph_modules',
        'graph_precision',
        'graph_quantization',
        'half_precision',
        'onnx_lint',
        'onnxruntime_backend',
        'torch_backend',
        'torch_cuda',
        'torch_device',
    )
}


def test_modules_import_without_torch_and_ros():
    modules = [
        '.'.join(path.relative_to(ROOT).with_suffix('').parts)
        for part in PARTS
        for path in sorted((ROOT / 'fisa_ros' / part).rglob('*.py'))
    ]
    wanted = [module for module in modules if module not in NEED_THEIR_LIBRARY]
    script = (
        f'import importlib, sys\nfor name in {BLOCKED!r}:\n    sys.modules[name] = None\n'
        f'for name in {wanted!r}:\n    importlib.import_module(name)'
    )
    finished = subprocess.run([sys.executable, '-c', script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
