"""Mask2Former, small and with random weights: alone, and with each kind of classifier through the whole export."""

import numpy as np
import onnx
from onnx import TensorProto
import pytest
import torch

from fisa_ros.core.vocabulary import VocabularyRegistry, VocabularyRequest
from fisa_ros.networks.build import build_generator
from fisa_ros.pipeline.segmenter import Segmenter
from fisa_ros.runtime import graph_files
from fisa_ros.runtime.graph_cost import count_cost
from fisa_ros.runtime.graph_export import export_graph, export_graphs
from fisa_ros.runtime.onnx_lint import load_and_lint
from fisa_ros.runtime.onnxruntime_backend import OnnxRuntimeBackend, open_session, session_options
from fisa_ros.runtime.parity_gate import ParityGate
from fisa_ros.runtime.torch_backend import TorchBackend

from .clip_models import SIZE, random_model, register_configs

QUERIES = 12
GENERATOR = {
    'type': 'mask2former',
    'image_size': SIZE,
    'config': {
        'feature_size': 32, 'hidden_dim': 32, 'mask_feature_size': 32, 'encoder_layers': 1,
        'encoder_feedforward_dim': 64, 'decoder_layers': 4, 'dim_feedforward': 64, 'num_attention_heads': 4,
        'num_queries': QUERIES, 'num_labels': 5,
        'backbone_config': {
            'model_type': 'swin', 'image_size': 32, 'embed_dim': 16, 'depths': [2, 1, 1, 1], 'num_heads': [1, 2, 2, 4],
            'window_size': 3, 'out_features': ['stage1', 'stage2', 'stage3', 'stage4'],
        },
    },
}  # fmt: skip
WORDS = 'chair, seat, stool; table; bed, mattress; lamp; door; cup'
TOLERANCES = {'mask_logits': 2e-3, 'mask_embeddings': 1e-4, 'objectness': 1e-4}


def frames(count):
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (SIZE, SIZE, 3)).astype(np.uint8) for _ in range(count)]


@pytest.fixture(scope='module', params=['small-vit', 'small-convnext'])
def exported(request, tmp_path_factory):
    """A model, its graphs, torch's back-end and words."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        register_configs(monkeypatch)
        folder = tmp_path_factory.mktemp(request.param)
        manifest = random_model(folder, request.param, generator=GENERATOR)
        backend = TorchBackend(manifest, 'cpu')
        state = Segmenter(backend, manifest).prepare(VocabularyRegistry().propose(VocabularyRequest.parse(WORDS)))
        export_graphs(manifest, folder / 'graphs', frames(4), state)
        yield manifest, folder / 'graphs', backend, state
        backend.close()


def gate(folder):
    return ParityGate.open(folder / graph_files.REFERENCE_FILE)


def pair(folder, encoder_file):
    encoder, head = (open_session(folder / file, session_options(1)) for file in (encoder_file, graph_files.HEAD_FILE))

    def run(inputs):
        names = {entry.name for entry in encoder.get_inputs()}
        encoded = encoder.run(graph_files.ENCODER_OUTPUTS, {name: inputs[name] for name in names})
        outputs = dict(zip(graph_files.ENCODER_OUTPUTS, encoded, strict=True))
        head_inputs = {name: {**inputs, **outputs}[name] for name in graph_files.HEAD_INPUTS}
        return outputs | dict(
            zip(graph_files.HEAD_OUTPUTS, head.run(graph_files.HEAD_OUTPUTS, head_inputs), strict=True)
        )

    return run


def check_operators(path):
    """Nothing that TensorRT refuses or computes wrongly, by the lint and by name."""
    assert load_and_lint(path) == []
    model = onnx.shape_inference.infer_shapes(onnx.load(path))
    operators = {node.op_type for node in model.graph.node}
    refused = {'GridSample', 'NonZero', 'ScatterND', 'ScatterElements', 'GatherND', 'If', 'Loop', 'IsNaN'}
    assert not operators & refused
    kinds = {entry.type.tensor_type.elem_type for entry in model.graph.value_info}
    assert TensorProto.DOUBLE not in kinds | {entry.data_type for entry in model.graph.initializer}


@torch.inference_mode()
def test_the_generator_alone_is_the_same_on_onnx_runtime(tmp_path):
    torch.manual_seed(0)
    generator = build_generator(GENERATOR).eval().requires_grad_(False)
    for name, parameter in generator.named_parameters():
        if name.endswith(('sampling_offsets.weight', 'attention_weights.weight', 'relative_position_bias_table')):
            parameter.normal_(0, 0.1)
    image = torch.rand(1, 3, SIZE, SIZE)
    export_graph(generator, (image,), tmp_path / 'generator.onnx', ['image'], ['mask_logits', 'objectness'])
    check_operators(tmp_path / 'generator.onnx')
    session = open_session(tmp_path / 'generator.onnx', session_options(1))
    for tensor in (image, torch.rand(1, 3, SIZE, SIZE)):
        found = session.run(None, {'image': tensor.numpy()})
        for theirs, ours in zip(generator(tensor), found, strict=True):
            np.testing.assert_allclose(ours, theirs.numpy(), rtol=0, atol=1e-5)


@pytest.mark.slow
def test_float32_outputs_are_those_of_torch(exported):
    _, folder, *_ = exported
    reference = dict(np.load(folder / graph_files.REFERENCE_FILE))
    run = pair(folder, graph_files.ENCODER_FILE)
    for frame in range(len(reference['image'])):
        found = run(gate(folder).inputs(frame))
        for name, tolerance in TOLERANCES.items():
            np.testing.assert_allclose(found[name], reference[name][frame], rtol=0, atol=tolerance, err_msg=name)
    assert reference['mask_logits'].std(1).mean() > 0.1, 'masks that all look alike compare nothing'


@pytest.mark.slow
@pytest.mark.parametrize('name', graph_files.ENCODER_FILES)
def test_each_precision_passes_the_gate(exported, name):
    _, folder, *_ = exported
    verdict = gate(folder).judge(pair(folder, name))
    assert verdict.passed, verdict.describe()
    assert verdict.num_masks == 4 * QUERIES


@pytest.mark.slow
def test_back_ends_see_the_same_in_a_frame(exported):
    manifest, folder, torch_backend, state = exported
    backend = OnnxRuntimeBackend(manifest, folder, precision='fp32')
    for frame in frames(6)[4:]:
        ours = backend.segment(frame, state, manifest.thresholds)
        theirs = torch_backend.segment(frame, state, manifest.thresholds)
        np.testing.assert_array_equal(ours.query_map, theirs.query_map)
        np.testing.assert_array_equal(ours.class_index, theirs.class_index)
        np.testing.assert_allclose(ours.score, theirs.score, atol=1e-4)
        assert len(np.unique(theirs.query_map)) > 3
    backend.close()


@pytest.mark.slow
@pytest.mark.parametrize('name', graph_files.ENCODER_FILES)
def test_graphs_hold_nothing_that_tensorrt_computes_wrongly(exported, name):
    _, folder, *_ = exported
    check_operators(folder / name)


@pytest.mark.slow
def test_work_of_the_encoder_can_be_counted(exported):
    _, folder, *_ = exported
    assert count_cost(folder / graph_files.ENCODER_FILE).flop > 1e6
