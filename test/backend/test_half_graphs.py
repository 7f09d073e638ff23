import onnx
import onnxruntime
import pytest

from fisa_ros.core.manifest import load_manifest
from fisa_ros.runtime import graph_files
from fisa_ros.runtime.graph_precision import half_weight_share
from fisa_ros.runtime.onnx_lint import load_and_lint
from fisa_ros.runtime.parity_gate import ParityGate
from fisa_ros.runtime.tensorrt_start import TensorRtToolkit

HALF_FILES = (graph_files.FP16_ENCODER_FILE, graph_files.SAFE_FP16_ENCODER_FILE)


@pytest.fixture(scope='module')
def folder():
    manifest = load_manifest('fisa-tiny')
    folder = graph_files.graphs_folder(manifest)
    if not folder.exists():
        pytest.fail(f'not exported: {graph_files.export_command(manifest)}')
    missing = set(HALF_FILES) - set(description(folder).files)
    assert not missing, f'{folder} is of an older version: {graph_files.export_command(manifest)}'
    return folder


def description(folder):
    return graph_files.open_graphs(folder, load_manifest('fisa-tiny'))


def session(path):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, providers=['CPUExecutionProvider'])


def types(path):
    graph = onnx.load(str(path)).graph
    return {entry.name: entry.type.tensor_type.elem_type for entry in (*graph.input, *graph.output)}


@pytest.mark.parametrize('name', HALF_FILES)
def test_half_graphs_are_half_inside_and_float32_outside(folder, name):
    assert half_weight_share(folder / name) > 0.95
    assert types(folder / name) == types(folder / graph_files.ENCODER_FILE)
    assert load_and_lint(folder / name) == []
    sizes = [(folder / file).stat().st_size for file in (name, graph_files.ENCODER_FILE)]
    assert sizes[0] < 0.55 * sizes[1]


@pytest.mark.parametrize('name', HALF_FILES)
def test_half_graphs_pass_the_gate(folder, name):
    encoder, head = session(folder / name), session(folder / graph_files.HEAD_FILE)

    def run(inputs):
        encoder_inputs = {key: inputs[key] for key in graph_files.ENCODER_INPUTS}
        encoded = encoder.run(graph_files.ENCODER_OUTPUTS, encoder_inputs)
        outputs = dict(zip(graph_files.ENCODER_OUTPUTS, encoded, strict=True))
        head_inputs = {key: {**inputs, **outputs}[key] for key in graph_files.HEAD_INPUTS}
        segmented = head.run(graph_files.HEAD_OUTPUTS, head_inputs)
        return outputs | dict(zip(graph_files.HEAD_OUTPUTS, segmented, strict=True))

    float32_head = TensorRtToolkit(folder, description(folder), 0).run_float32_head
    verdict = ParityGate.open(folder / graph_files.REFERENCE_FILE, head=float32_head).judge(run)
    assert verdict.passed, verdict.describe()
    assert len(verdict.checks) == 5
