import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
import onnxruntime
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from fisa_ros.core.errors import GraphsError
from fisa_ros.networks.build import build_network
from fisa_ros.networks.conv_stem import fold_batch_norms
from fisa_ros.runtime import graph_files
from fisa_ros.runtime.graph_export import export_graphs
from fisa_ros.runtime.graph_modules import EncoderGraph
from fisa_ros.runtime.graph_precision import half_weight_share
from fisa_ros.runtime.half_precision import HalfNetwork, _HalfTypes
from fisa_ros.runtime.onnx_lint import load_and_lint
from fisa_ros.runtime.parity_gate import ParityGate

from .conftest import CLASSIFIER, GENERATOR, SIZE, toy_frames

EOMT = {
    'type': 'eomt',
    'config': {
        'image_size': SIZE, 'patch_size': 16, 'hidden_size': 32, 'num_hidden_layers': 3, 'num_attention_heads': 2,
        'num_blocks': 1, 'num_queries': 6, 'num_labels': 3, 'num_register_tokens': 1,
    },
}  # fmt: skip
CLIP = {
    'type': 'open_clip', 'model': 'ViT-S-32-alt', 'image_size': SIZE, 'seve_blocks': 1, 'seve_width': 32,
    'merge_size': 32,
}  # fmt: skip
POOLED = {'type': 'pooled', 'model': 'convnext_tiny', 'image_size': 32, 'merge_size': 32}
MASK2FORMER = {
    'type': 'mask2former',
    'image_size': SIZE,
    'config': {
        'feature_size': 32, 'hidden_dim': 32, 'mask_feature_size': 32, 'encoder_layers': 2, 'decoder_layers': 4,
        'encoder_feedforward_dim': 64, 'dim_feedforward': 64, 'num_attention_heads': 4, 'num_queries': 6,
        'backbone_config': {
            'model_type': 'swin', 'embed_dim': 16, 'depths': [2, 1, 1, 1], 'num_heads': [1, 1, 2, 4], 'window_size': 3,
            'out_features': ['stage1', 'stage2', 'stage3', 'stage4'],
        },
    },
}  # fmt: skip
KINDS = {
    'tiny': (GENERATOR, CLASSIFIER),
    'eomt': (EOMT, CLASSIFIER),
    'values': (GENERATOR, {**CLASSIFIER, 'regions': 'values'}),
    'open_clip': (GENERATOR, CLIP),
    'pooled': (EOMT, POOLED),
    'mask2former': (MASK2FORMER, CLASSIFIER),
}
HALF_FILES = (graph_files.FP16_ENCODER_FILE, graph_files.SAFE_FP16_ENCODER_FILE)


@pytest.fixture(scope='module', params=list(KINDS))
def network(request):
    torch.manual_seed(0)
    network = build_network(*KINDS[request.param])
    fold_batch_norms(network.eval())
    return network.requires_grad_(False)


def encoder_inputs(network):
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randn(32, network.head.void_embedding.shape[0], generator=generator)
    return torch.from_numpy(toy_frames(1)[0]), F.normalize(tokens, dim=-1), torch.arange(32) < 16


@pytest.mark.parametrize('is_safe', [False, True])
@torch.inference_mode()
def test_every_kind_of_network_gives_nearly_the_same_in_half(network, is_safe):
    inputs = encoder_inputs(network)
    expected = EncoderGraph(network)(*inputs)
    half = HalfNetwork(network, is_safe=is_safe)
    found = EncoderGraph(half)(*inputs)
    assert {tensor.dtype for tensor in found} == {torch.float32}
    assert F.cosine_similarity(found[1], expected[1]).min() > 0.9999
    torch.testing.assert_close(found[1].norm(dim=-1), torch.ones(len(found[1])), atol=1e-6, rtol=0)
    torch.testing.assert_close(found[2], expected[2], atol=2e-3, rtol=0)
    assert (found[0] - expected[0]).abs().max() < 0.01 * expected[0].abs().max()
    weights = [tensor for tensor in half.network.generator.parameters() if tensor.ndim > 1]
    assert sum(tensor.dtype == torch.float16 for tensor in weights) > len(weights) / 2


def test_the_network_that_was_copied_stays_float32_and_lends_what_both_have(network):
    before = {name: (tensor.data_ptr(), tensor.dtype) for name, tensor in network.named_parameters()}
    half = HalfNetwork(network)
    assert {name: (tensor.data_ptr(), tensor.dtype) for name, tensor in network.named_parameters()} == before
    assert all(dtype == torch.float32 for _, dtype in before.values())
    for name, tensor in half.network.named_parameters():
        is_shared = tensor.data_ptr() == before[name][0]
        assert is_shared is (tensor.dtype == torch.float32), name


class CrossingSpy(TorchDispatchMode):
    """Notes each operator whose tensors are not all on one device."""

    def __init__(self):
        super().__init__()
        self.calls, self.crossings = 0, []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        output = func(*args, **(kwargs or {}))
        tensors = [leaf for leaf in tree_leaves((args, kwargs, output)) if isinstance(leaf, torch.Tensor)]
        self.calls += 1
        if {tensor.device.type for tensor in tensors} - {'cuda'}:
            self.crossings.append(str(func))
        return output


def test_no_encoder_copies_from_the_host_or_waits_for_the_gpu(network):
    """Either would end the recording of a CUDA graph; shapes and devices alone show it, without a GPU."""
    graph, fake = EncoderGraph(HalfNetwork(network)), FakeTensorMode()
    weights = {name: tensor.detach() for name, tensor in (*graph.named_parameters(), *graph.named_buffers())}
    weights = {name: fake.from_tensor(tensor) for name, tensor in weights.items()}
    inputs = [fake.from_tensor(tensor) for tensor in encoder_inputs(network)]
    with fake, torch.no_grad():
        on_gpu = {name: tensor.to('cuda') for name, tensor in weights.items()}
        inputs_on_gpu = tuple(tensor.to('cuda') for tensor in inputs)
        with CrossingSpy() as spy:
            outputs = torch.func.functional_call(graph, on_gpu, inputs_on_gpu)
    assert {output.device.type for output in outputs} == {'cuda'}
    assert spy.calls > 100
    assert spy.crossings == []


def half(*shape):
    return torch.full(shape, 300.0, dtype=torch.float16)


@pytest.mark.parametrize(
    ('call', 'fast', 'safe'),
    [
        (lambda: F.linear(torch.ones(2, 4), torch.ones(3, 4)), torch.float16, torch.float32),
        (lambda: F.conv2d(torch.ones(1, 2, 4, 4), torch.ones(3, 2, 1, 1)), torch.float16, torch.float32),
        (lambda: torch.ones(2, 4) @ torch.ones(4, 2), torch.float32, torch.float32),
        (lambda: half(2, 4) @ torch.ones(4, 2), torch.float16, torch.float16),
        (lambda: torch.einsum('ij,jk->ik', half(2, 4), torch.ones(4, 2)), torch.float16, torch.float16),
        (lambda: F.scaled_dot_product_attention(*[half(1, 1, 2, 4)] * 3), torch.float16, torch.float16),
        (lambda: F.layer_norm(half(2, 4), (4,), torch.ones(4), torch.ones(4)), torch.float16, torch.float16),
        (lambda: half(2, 4).softmax(-1), torch.float32, torch.float32),
        (lambda: half(2, 4).sigmoid(), torch.float32, torch.float32),
        (lambda: F.normalize(half(2, 4), dim=-1), torch.float32, torch.float32),
        (lambda: half(2, 4) + 1, torch.float16, torch.float16),
    ],
)
def test_which_functions_are_half(call, fast, safe):
    for is_safe, dtype in ((False, fast), (True, safe)):
        with _HalfTypes(is_safe=is_safe):
            output = call()
        assert output.dtype == dtype
        if dtype == torch.float16 and output.abs().max() > 60000:
            pytest.fail('the sample itself overflows')


@torch.inference_mode()
def test_normalisations_do_not_overflow():
    x = half(1, 64)
    x[0, 0] = -300
    with _HalfTypes(is_safe=False):
        normed, unit = F.layer_norm(x, (64,)), F.normalize(x, dim=-1)
    torch.testing.assert_close(normed.float(), F.layer_norm(x.float(), (64,)), atol=5e-3, rtol=0)
    torch.testing.assert_close(unit.norm(dim=-1), torch.ones(1))


def value_types(graph):
    return {entry.name: entry.type.tensor_type.elem_type for entry in (*graph.input, *graph.output)}


@pytest.mark.parametrize('name', HALF_FILES)
def test_exported_graphs_are_half_inside_and_float32_outside(toy_graphs, name):
    graph = onnx.load(str(toy_graphs / name)).graph
    assert value_types(graph) == value_types(onnx.load(str(toy_graphs / graph_files.ENCODER_FILE)).graph)
    assert half_weight_share(toy_graphs / name) > 0.9
    assert load_and_lint(toy_graphs / name) == []
    casts = sum(node.op_type == 'Cast' for node in graph.node)
    assert casts < (0.15 if name == graph_files.FP16_ENCODER_FILE else 0.3) * len(graph.node)
    softmaxes = [node for node in graph.node if node.op_type == 'Softmax']
    assert softmaxes


def test_a_float32_graph_is_not_half(toy_graphs):
    assert half_weight_share(toy_graphs / graph_files.ENCODER_FILE) == 0


@pytest.mark.parametrize('name', HALF_FILES)
def test_half_graphs_pass_the_gate_on_onnx_runtime(toy_graphs, name):
    encoder, head = (
        onnxruntime.InferenceSession(str(toy_graphs / file), providers=['CPUExecutionProvider'])
        for file in (name, graph_files.HEAD_FILE)
    )

    def run(inputs):
        images = {key: inputs[key] for key in graph_files.ENCODER_INPUTS}
        encoded = dict(zip(graph_files.ENCODER_OUTPUTS, encoder.run(graph_files.ENCODER_OUTPUTS, images), strict=True))
        words = {key: inputs[key] for key in graph_files.HEAD_INPUTS if key not in encoded}
        segmented = head.run(graph_files.HEAD_OUTPUTS, {**encoded, **words})
        return {**encoded, **dict(zip(graph_files.HEAD_OUTPUTS, segmented, strict=True))}

    verdict = ParityGate.open(toy_graphs / graph_files.REFERENCE_FILE).judge(run)
    assert verdict.passed, verdict.describe()


def linear_graph(path, dtype, *between):
    """Write a graph of one matrix product, with operators between the weight and the product."""
    nodes, name = [], 'weight'
    for kind, attributes in between:
        nodes.append(helper.make_node(kind, [name], [f'{name}_'], **attributes))
        name += '_'
    nodes.append(helper.make_node('MatMul', ['x', name], ['y']))
    weight = numpy_helper.from_array(np.ones((4, 4), dtype), 'weight')
    graph = helper.make_graph(
        nodes,
        'graph',
        [helper.make_tensor_value_info('x', TensorProto.FLOAT16, [1, 4])],
        [helper.make_tensor_value_info('y', TensorProto.FLOAT16, [1, 4])],
        [weight],
    )
    onnx.save(helper.make_model(graph), path)
    return path


@pytest.mark.parametrize(
    ('dtype', 'between', 'share'),
    [
        (np.float16, [], 1),
        (np.float16, [('Transpose', {'perm': [1, 0]})], 1),
        (np.float32, [], 0),
        (np.float32, [('Cast', {'to': TensorProto.FLOAT16})], 0),
        (np.float16, [('Transpose', {'perm': [1, 0]}), ('Cast', {'to': TensorProto.FLOAT})], 0),
        (np.float16, [('Relu', {})], 0),
    ],
)
def test_weights_that_are_cast_do_not_count_as_half(tmp_path, dtype, between, share):
    assert half_weight_share(linear_graph(tmp_path / 'linear.onnx', dtype, *between)) == share


def test_an_export_that_is_silently_float32_is_refused(toy_manifest, toy_state, tmp_path, monkeypatch):
    def export_float32(network, manifest, folder):
        for name in (*graph_files.ENCODER_FILES, graph_files.HEAD_FILE):
            linear_graph(folder / name, np.float32)
        return 6, 16, 16

    monkeypatch.setattr('fisa_ros.runtime.graph_export._export_network', export_float32)
    monkeypatch.setattr('fisa_ros.runtime.graph_export._export_text', lambda *_: True)
    monkeypatch.setattr('fisa_ros.runtime.graph_export.load_and_lint', lambda path: [])
    with pytest.raises(GraphsError, match=r'encoder_fp16\.onnx is not half: 0\.0% of its weights are, at least 80%'):
        export_graphs(toy_manifest, tmp_path / 'graphs', toy_frames(1), toy_state)
    assert not (tmp_path / 'graphs').exists()
