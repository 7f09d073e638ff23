"""The int8 encoder: what is in it, when it is kept, and when it is used."""

import logging

import numpy as np
import onnx
from onnx import TensorProto
import pytest

from fisa_ros.core.manifest import load_manifest
from fisa_ros.runtime import graph_quantization
from fisa_ros.runtime.graph_files import ENCODER_FILE, INT8_ENCODER_FILE, graphs_folder, open_graphs
from fisa_ros.runtime.graph_quantization import add_int8_encoder, quantize
from fisa_ros.runtime.onnxruntime_backend import OnnxRuntimeBackend, has_int8_products
from fisa_ros.runtime.parity_gate import Limits, ParityGate


@pytest.fixture
def folder(toy_graphs, tmp_path):
    """Encoder, head and reference outputs of the toy, to be changed."""
    for name in (ENCODER_FILE, 'head.onnx', 'reference.npz'):
        (tmp_path / name).write_bytes((toy_graphs / name).read_bytes())
    return tmp_path


def test_products_are_of_bytes_and_the_outside_stays(folder, capfd):
    gate = ParityGate.open(folder / 'reference.npz')
    quantize(folder / ENCODER_FILE, folder / 'small.onnx', [gate.inputs(0), gate.inputs(1)])
    before, after = (onnx.load(str(folder / name)) for name in (ENCODER_FILE, 'small.onnx'))
    assert [(entry.name, entry.type) for entry in after.graph.input] == [
        (entry.name, entry.type) for entry in before.graph.input
    ]
    assert [entry.name for entry in after.graph.output] == [entry.name for entry in before.graph.output]
    constants = {entry.name: entry.data_type for entry in after.graph.initializer}
    products = [node for node in after.graph.node if node.op_type in ('MatMulInteger', 'Conv')]
    assert any(node.op_type == 'MatMulInteger' for node in products)
    makers = {name: node for node in after.graph.node for name in node.output}
    weights = [makers[node.input[1]] for node in products if node.op_type == 'Conv']
    assert weights
    assert all(constants[node.input[0]] == TensorProto.INT8 for node in weights)
    assert 'histogram' not in capfd.readouterr().out


@pytest.mark.parametrize(('limit', 'is_kept'), [(0.0, True), (1.01, False)])
def test_is_kept_only_if_it_agrees(folder, monkeypatch, caplog, limit, is_kept):
    monkeypatch.setattr(graph_quantization, 'INT8_LIMITS', Limits(limit, limit, limit))
    with caplog.at_level(logging.INFO):
        add_int8_encoder(folder)
    assert (folder / INT8_ENCODER_FILE).exists() is is_kept
    assert ('no encoder_int8.onnx is kept: parity failed' in caplog.text) is not is_kept
    assert sorted(path.name for path in folder.iterdir() if path.name.startswith('.')) == []


def test_a_quantiser_that_fails_leaves_no_graph(folder, monkeypatch, caplog):
    def fail(*_, **__):
        raise ValueError('an operator that I do not know')

    monkeypatch.setattr(graph_quantization, 'quantize_static', fail)
    add_int8_encoder(folder)
    assert not (folder / INT8_ENCODER_FILE).exists()
    assert 'no encoder_int8.onnx is made: an operator that I do not know' in caplog.text


def test_weights_may_lie_beside_the_graph(folder):
    model = onnx.load(str(folder / ENCODER_FILE))
    (folder / ENCODER_FILE).unlink()
    onnx.save_model(
        model, str(folder / ENCODER_FILE), save_as_external_data=True, location='encoder.onnx.data', size_threshold=0
    )
    quantize(folder / ENCODER_FILE, folder / 'small.onnx', [ParityGate.open(folder / 'reference.npz').inputs(0)])
    assert onnx.load(str(folder / 'small.onnx')).graph.initializer


def test_is_not_tried_on_large_models(folder, monkeypatch):
    monkeypatch.setattr(graph_quantization, '_MAX_BYTES', 1000)
    add_int8_encoder(folder)
    assert not (folder / INT8_ENCODER_FILE).exists()


@pytest.mark.parametrize(
    ('text', 'expected'),
    [
        ('flags : fpu avx2 avx512_vnni sse', True),
        ('flags\t\t: fpu avx2 avx_vnni', True),
        ('Features\t: fp asimd asimddp', True),
        ('flags : fpu avx2 avx512f', False),
        ('Features\t: fp asimd', False),
        ('', False),
    ],
)
def test_cpus_with_products_of_bytes(tmp_path, text, expected):
    path = tmp_path / 'cpuinfo'
    path.write_text(text)
    assert has_int8_products(path) is expected


def test_cpus_that_say_nothing(tmp_path):
    assert not has_int8_products(tmp_path / 'nothing')


@pytest.mark.parametrize(
    ('precision', 'has_products', 'expected'),
    [('auto', True, 'int8'), ('auto', False, 'fp32'), ('fp32', True, 'fp32')],
)
def test_what_the_shipped_model_computes_with(monkeypatch, precision, has_products, expected):
    monkeypatch.setattr('fisa_ros.runtime.onnxruntime_backend.has_int8_products', lambda: has_products)
    manifest = load_manifest('fisa-tiny')
    backend = OnnxRuntimeBackend(manifest, graphs_folder(manifest), precision=precision)
    assert backend.precision == expected
    backend.close()


def test_the_shipped_model_agrees_in_int8():
    manifest = load_manifest('fisa-tiny')
    folder = graphs_folder(manifest)
    files = open_graphs(folder, manifest).files
    assert INT8_ENCODER_FILE in files
    assert (folder / INT8_ENCODER_FILE).stat().st_size < 0.3 * (folder / ENCODER_FILE).stat().st_size
    gate = ParityGate.open(folder / 'reference.npz', graph_quantization.INT8_LIMITS)
    pair = graph_quantization._GraphPair(folder / INT8_ENCODER_FILE, folder / 'head.onnx')
    verdict = gate.judge(pair.run)
    print(verdict.describe())
    assert verdict.passed
    exact = graph_quantization._GraphPair(folder / ENCODER_FILE, folder / 'head.onnx').run(gate.inputs(0))
    assert not np.array_equal(exact['mask_logits'], pair.run(gate.inputs(0))['mask_logits'])
