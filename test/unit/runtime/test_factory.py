import importlib.util
import re

import pytest
import torch

from fisa_ros.core.errors import BackendUnavailableError
from fisa_ros.runtime.factory import create_backend


@pytest.mark.parametrize(
    ('backend', 'device', 'message'),
    [
        ('caffe', 'auto', "unknown back-end 'caffe', choose one of auto, torch, onnxruntime, tensorrt"),
        ('onnxruntime', 'auto', "back-end 'onnxruntime' is not part of this version, choose one of auto, torch"),
        ('tensorrt', 'auto', "back-end 'tensorrt' is not part of this version"),
        ('torch', 'gpu', "unknown device 'gpu', choose auto, cpu, cuda or cuda:<number>"),
        ('torch', '', "unknown device ''"),
        ('auto', 'cuda:x', "unknown device 'cuda:x'"),
        ('auto', 'cuda:99', "device 'cuda:99' is not there: PyTorch sees"),
    ],
)
def test_refuses(color_manifest, backend, device, message):
    with pytest.raises(BackendUnavailableError, match=re.escape(message)):
        create_backend(color_manifest, backend, device)


def test_names_the_package_to_install(color_manifest, monkeypatch):
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
    with pytest.raises(BackendUnavailableError, match='pip install torch'):
        create_backend(color_manifest)


@pytest.mark.parametrize(
    ('device', 'num_gpus', 'chosen'),
    [
        ('auto', 0, 'cpu'),
        ('auto', 2, 'cuda:0'),
        ('cpu', 2, 'cpu'),
        ('cuda', 1, 'cuda:0'),
        ('cuda:1', 2, 'cuda:1'),
    ],
)
def test_devices(color_manifest, monkeypatch, device, num_gpus, chosen):
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: num_gpus)
    monkeypatch.setattr('fisa_ros.runtime.torch_backend.TorchBackend', lambda manifest, device: (manifest, device))
    assert create_backend(color_manifest, 'torch', device) == (color_manifest, chosen)


@pytest.mark.parametrize(('device', 'num_gpus', 'seen'), [('cuda', 0, '0 GPUs'), ('cuda:1', 1, '1 GPU;')])
def test_absent_gpus(color_manifest, monkeypatch, device, num_gpus, seen):
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: num_gpus)
    with pytest.raises(BackendUnavailableError, match=f"device '{device}' is not there: PyTorch sees {seen}"):
        create_backend(color_manifest, 'torch', device)
