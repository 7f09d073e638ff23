import importlib.util
import re

import pytest
import torch

from fisa_ros.core.errors import BackendUnavailableError, GraphsError
from fisa_ros.runtime.factory import create_backend
from fisa_ros.runtime.graph_files import graphs_folder


@pytest.mark.parametrize(
    ('backend', 'device', 'message'),
    [
        ('caffe', 'auto', "unknown back-end 'caffe', choose one of auto, torch, onnxruntime, tensorrt"),
        ('onnxruntime', 'cuda', "back-end 'onnxruntime' runs on the CPU, got device 'cuda'"),
        ('tensorrt', 'cpu', "back-end 'tensorrt' runs on a GPU, got device 'cpu'"),
        ('torch', 'gpu', "unknown device 'gpu', choose auto, cpu, cuda or cuda:<number>"),
        ('torch', '', "unknown device ''"),
        ('auto', 'cuda:x', "unknown device 'cuda:x'"),
        ('auto', 'cuda:99', "device 'cuda:99' is not there: PyTorch sees"),
    ],
)
def test_refuses(color_manifest, backend, device, message):
    with pytest.raises(BackendUnavailableError, match=re.escape(message)):
        create_backend(color_manifest, backend, device)


@pytest.fixture
def backends(monkeypatch):
    """Replace what is loaded by a note of it; TensorRT imports unless `without` names it."""
    monkeypatch.setattr(
        'fisa_ros.runtime.torch_backend.TorchBackend', lambda manifest, device, precision: ('torch', device)
    )
    monkeypatch.setattr('torch.cuda.device_count', lambda: 1)
    monkeypatch.setattr('fisa_ros.runtime.onnxruntime_backend.OnnxRuntimeBackend', Loaded)
    monkeypatch.setattr('fisa_ros.runtime.tensorrt_start.require_tensorrt', lambda: None)
    monkeypatch.setattr(
        'fisa_ros.runtime.tensorrt_start.start_tensorrt',
        lambda manifest, folder, open_fallback, device, precision: ('tensorrt', device, open_fallback().name),
    )


class Loaded:
    name, device = 'onnxruntime', 'cpu'
    image_size_hw, embedding_dim, num_semantic_tokens, max_classes = (8, 8), 4, 2, None

    def __init__(self, manifest, folder, precision):
        assert folder == graphs_folder(manifest)
        self.precision = precision
        self.is_closed = False
        loaded.append(self)

    def close(self):
        self.is_closed = True


loaded: list[Loaded] = []


@pytest.mark.parametrize(
    ('backend', 'device', 'num_gpus', 'chosen'),
    [
        ('auto', 'auto', 0, 'onnxruntime'),
        ('auto', 'cpu', 1, 'onnxruntime'),
        ('onnxruntime', 'auto', 1, 'onnxruntime'),
        ('auto', 'auto', 1, ('tensorrt', 0, 'onnxruntime')),
        ('auto', 'cuda:1', 2, ('tensorrt', 1, 'onnxruntime')),
        ('tensorrt', 'auto', 1, ('tensorrt', 0, 'onnxruntime')),
        ('torch', 'auto', 1, ('torch', 'cuda:0')),
    ],
)
@pytest.mark.usefixtures('backends')
def test_what_is_chosen(color_manifest, monkeypatch, backend, device, num_gpus, chosen):
    monkeypatch.setattr('fisa_ros.runtime.factory._count_gpus', lambda: num_gpus)
    made = create_backend(color_manifest, backend, device)
    assert (made if isinstance(made, tuple) else made.name) == chosen


@pytest.mark.usefixtures('backends')
def test_precision_reaches_the_backend(color_manifest):
    assert create_backend(color_manifest, 'onnxruntime').precision == 'auto'
    assert create_backend(color_manifest, 'auto', 'cpu', 'fp32').precision == 'fp32'
    with pytest.raises(BackendUnavailableError, match="unknown precision 'int4', choose one of auto, fp32"):
        create_backend(color_manifest, precision='int4')


def missing(error):
    def start(*_):
        raise error

    return start


@pytest.mark.usefixtures('backends')
def test_auto_on_a_gpu_without_tensorrt_is_torch_and_says_why(color_manifest, monkeypatch, caplog):
    monkeypatch.setattr('fisa_ros.runtime.factory._count_gpus', lambda: 1)
    monkeypatch.setattr(
        'fisa_ros.runtime.tensorrt_start.require_tensorrt', missing(BackendUnavailableError('no tensorrt here'))
    )
    assert create_backend(color_manifest) == ('torch', 'cuda:0')
    assert 'no tensorrt here' in caplog.text


@pytest.mark.usefixtures('backends')
def test_auto_on_a_gpu_without_tensorrt_and_torch_is_onnxruntime(color_manifest, monkeypatch, caplog):
    monkeypatch.setattr('fisa_ros.runtime.factory._count_gpus', lambda: 1)
    for what in ('tensorrt_start.require_tensorrt', 'torch_device.choose_device'):
        monkeypatch.setattr(f'fisa_ros.runtime.{what}', missing(BackendUnavailableError(f'no {what}')))
    assert create_backend(color_manifest).name == 'onnxruntime'
    assert len(caplog.records) == 2
    with pytest.raises(BackendUnavailableError, match='choose_device'):
        create_backend(color_manifest, device='cuda')


@pytest.mark.parametrize(
    ('num_gpus', 'device', 'reason'), [(1, 'auto', 'no tensorrt here'), (0, 'auto', 'GPU 0'), (1, 'cuda:1', 'GPU 1')]
)
@pytest.mark.usefixtures('backends')
def test_tensorrt_that_cannot_be_is_onnxruntime_and_says_why(
    color_manifest, monkeypatch, caplog, num_gpus, device, reason
):
    monkeypatch.setattr('fisa_ros.runtime.factory._count_gpus', lambda: num_gpus)
    error = BackendUnavailableError('no tensorrt here')
    monkeypatch.setattr('fisa_ros.runtime.tensorrt_start.start_tensorrt', missing(error))
    backend = create_backend(color_manifest, 'tensorrt', device)
    assert backend.wait(5.0)
    assert backend.name == 'onnxruntime'
    assert backend.status.is_degraded
    assert reason in backend.status.describe()
    warnings = [record.getMessage() for record in caplog.records]
    assert len(warnings) == 1
    assert reason in warnings[0]
    backend.close()


@pytest.mark.usefixtures('backends')
def test_no_fallback_is_left_open_when_tensorrt_does_not_start(color_manifest, monkeypatch):
    monkeypatch.setattr('fisa_ros.runtime.factory._count_gpus', lambda: 1)
    monkeypatch.setattr('fisa_ros.runtime.tensorrt_start.start_tensorrt', missing(GraphsError('no graphs')))
    loaded.clear()
    with pytest.raises(GraphsError, match='no graphs'):
        create_backend(color_manifest, 'tensorrt')
    assert all(entry.is_closed for entry in loaded)


def test_auto_without_exported_graphs_is_torch_and_says_how_to_export(color_manifest, monkeypatch, caplog):
    monkeypatch.setattr(
        'fisa_ros.runtime.torch_backend.TorchBackend', lambda manifest, device, precision: ('torch', device)
    )
    assert create_backend(color_manifest, device='cpu') == ('torch', 'cpu')
    assert 'python -m fisa_ros.tools.export --model color' in caplog.text


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
    monkeypatch.setattr(
        'fisa_ros.runtime.torch_backend.TorchBackend', lambda manifest, device, precision: (manifest, device)
    )
    assert create_backend(color_manifest, 'torch', device) == (color_manifest, chosen)


@pytest.mark.parametrize(('device', 'num_gpus', 'seen'), [('cuda', 0, '0 GPUs'), ('cuda:1', 1, '1 GPU;')])
def test_absent_gpus(color_manifest, monkeypatch, device, num_gpus, seen):
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: num_gpus)
    with pytest.raises(BackendUnavailableError, match=f"device '{device}' is not there: PyTorch sees {seen}"):
        create_backend(color_manifest, 'torch', device)
