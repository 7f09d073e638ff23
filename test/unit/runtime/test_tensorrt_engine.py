"""The parts of the TensorRT calls that need no TensorRT; the rest is in test_tensorrt_api."""

import importlib
import json
import sys
import types

import pytest

from fisa_ros.core.errors import BackendUnavailableError, EngineError, EngineRefusedError, GpuMemoryError
from fisa_ros.runtime import tensorrt_start
from fisa_ros.runtime.engine_layers import half_layer_share
from fisa_ros.runtime.tensorrt_engine import TensorRtEngine, _fresh_logger, _required, _shared_logger, free_memory_bytes


def layer(*types_, key='Format/Datatype'):
    return {'Name': 'a', 'LayerType': 'b', 'Outputs': [{'Name': 'half of it', key: entry} for entry in types_]}


@pytest.mark.parametrize(
    ('layers', 'share'),
    [
        ([layer('Half'), layer('Float')], 0.5),
        ([layer('Row major linear FP16 format'), layer('Row major linear FP32')], 0.5),
        ([layer('Half', 'Float')], 1.0),
        ([layer('Half', key='Datatype'), layer('Float', key='Datatype'), layer('Int32', key='Datatype')], 0.3333),
        ([layer('Float')], 0.0),
        ([layer('Half'), layer(), {'Name': 'no outputs'}, 'names only'], 1.0),
        (['conv1', 'conv2'], None),
        ([], None),
    ],
)
def test_share_of_layers_in_half_precision(layers, share):
    assert half_layer_share(json.dumps({'Layers': layers, 'Bindings': []})) == share


@pytest.mark.parametrize('text', ['', '[]', '{}', 'null', '{"Layers": 3'])
def test_an_inspector_that_says_nothing(text):
    assert half_layer_share(text) is None


def test_free_memory(tmp_path):
    meminfo = tmp_path / 'meminfo'
    meminfo.write_text('MemTotal: 8000000 kB\nMemFree: 100 kB\nMemAvailable:    5000 kB\n')
    assert free_memory_bytes(7, is_integrated=True, meminfo=meminfo) == 5000 * 1024
    assert free_memory_bytes(10**9, is_integrated=True, meminfo=meminfo) == 10**9
    assert free_memory_bytes(7, is_integrated=False, meminfo=meminfo) == 7
    meminfo.write_text('MemTotal: 8000000 kB\n')
    assert free_memory_bytes(7, is_integrated=True, meminfo=meminfo) == 7
    assert free_memory_bytes(7, is_integrated=True, meminfo=tmp_path / 'none') == 7


@pytest.mark.parametrize(
    ('module', 'advice'),
    [
        ('tensorrt', 'on a Jetson apt install python3-libnvinfer'),
        ('cuda.bindings.runtime', 'pip install cuda-bindings'),
        ('onnxruntime', 'pip install onnxruntime'),
    ],
)
@pytest.mark.parametrize('error', [ImportError('not found'), OSError('libnvinfer.so.10: cannot open')])
def test_what_is_missing_is_named_with_what_to_install(monkeypatch, module, advice, error):
    asked = []

    def import_module(name):
        asked.append(name)
        if name == module:
            raise error

    monkeypatch.setattr(importlib, 'import_module', import_module)
    with pytest.raises(BackendUnavailableError, match=rf"'tensorrt' needs {module}, which .*\({error}\): {advice}"):
        tensorrt_start.require_tensorrt()
    assert asked[-1] == module


def test_all_that_is_needed_is_asked_for(monkeypatch):
    asked = []
    monkeypatch.setattr(importlib, 'import_module', asked.append)
    tensorrt_start.require_tensorrt()
    assert asked == ['tensorrt', 'cuda.bindings.runtime', 'onnxruntime', 'tokenizers', 'ftfy']


class FakeLogger:
    Severity = types.SimpleNamespace(INTERNAL_ERROR=0, ERROR=1, WARNING=2, INFO=3, VERBOSE=4)


class FakeRuntime:
    def __init__(self, logger):
        self.logger = logger

    def deserialize_cuda_engine(self, data):
        self.logger.log(1, 'Version tag does not match. Note: Current Version: 239, Serialized Engine Version: 238')


def test_a_plan_of_another_version_is_an_error_with_the_words_of_tensorrt(monkeypatch, tmp_path):
    fake = types.SimpleNamespace(ILogger=FakeLogger, Runtime=FakeRuntime, __version__='10.16.1.11')
    monkeypatch.setitem(sys.modules, 'tensorrt', fake)
    plan = tmp_path / 'engine.plan'
    plan.write_bytes(b'old')
    with pytest.raises(EngineError, match=rf'TensorRT 10\.16\.1\.11 cannot load {plan}: Version tag does not match'):
        TensorRtEngine(plan)


@pytest.fixture
def logger(monkeypatch):
    monkeypatch.setitem(sys.modules, 'tensorrt', types.SimpleNamespace(ILogger=FakeLogger))
    _shared_logger.cache_clear()
    yield _fresh_logger()
    _shared_logger.cache_clear()


ERROR, WARNING, INFO = 1, 2, 3


@pytest.mark.parametrize(
    ('messages', 'error'),
    [
        ([(ERROR, 'Error Code 9: Internal Error (Gelu: unsupported types)')], EngineRefusedError),
        ([(INFO, 'tactics'), (ERROR, 'Error Code 10: Could not find any implementation for node A.')],
         EngineRefusedError),
        ([(ERROR, 'Error Code 1: Cuda Runtime (out of memory)')], GpuMemoryError),
        ([(ERROR, 'Error Code 1: CUDA_ERROR_OUT_OF_MEMORY')], GpuMemoryError),
        ([(ERROR, 'Requested amount of GPU memory (4294967296 bytes) could not be allocated.')], GpuMemoryError),
        ([(ERROR, 'Error Code 1: Cuda Runtime (an illegal memory access was encountered)')], EngineError),
        ([(ERROR, 'CUDA initialization failure with error: 999')], EngineError),
        ([(ERROR, 'Could not find any implementation for node A due to insufficient workspace.')], EngineError),
        ([(WARNING, 'Skipping tactic 0 due to insuficient memory on requested size of 29147520.'),
          (ERROR, 'Error Code 10: Could not find any implementation for node A.')], EngineError),
        ([(WARNING, 'Tactic Device request: 34024MB Available: 24217MB. Device memory is insufficient to use tactic.'),
          (ERROR, 'Error Code 10: Could not find any implementation for node A.')], EngineError),
        ([], EngineError),
    ],
)  # fmt: skip
def test_only_what_would_fail_again_is_a_refusal(logger, messages, error):
    for severity, text in messages:
        logger.log(severity, text)
    with pytest.raises(error, match='TensorRT cannot build it') as caught:
        _required(None, 'TensorRT cannot build it', logger, is_final=True)
    assert caught.type is error
    # What is short of nothing but a GPU may be there at the next try.
    with pytest.raises(EngineError if error is EngineRefusedError else error) as caught:
        _required(None, 'TensorRT cannot start', logger)
    assert caught.type is not EngineRefusedError


def test_memory_of_an_earlier_build_is_forgotten(logger):
    logger.log(WARNING, 'insufficient memory')
    fresh = _fresh_logger()
    fresh.log(ERROR, 'unsupported types')
    with pytest.raises(EngineRefusedError):
        _required(None, 'cannot build', fresh, is_final=True)
