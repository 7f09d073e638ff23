import numpy as np
import onnx
from onnx import TensorProto, helper
import pytest

from fisa_ros.runtime.onnx_lint import lint, load_and_lint

FLOAT = TensorProto.FLOAT


def model(*nodes, opset=20, constants=(), inputs=('x',), kind=FLOAT, domains=()):
    made = [helper.make_tensor_value_info(name, kind, [1, 2, 4, 4]) for name in inputs]
    graph = helper.make_graph(
        list(nodes),
        'graph',
        made,
        [helper.make_empty_tensor_value_info(nodes[-1].output[0])],
        [onnx.numpy_helper.from_array(np.asarray(values, np.float32), name) for name, values in constants],
    )
    imports = [helper.make_opsetid('', opset), *(helper.make_opsetid(domain, 1) for domain in domains)]
    return helper.make_model(graph, opset_imports=imports)


def node(kind, *inputs, **attributes):
    return helper.make_node(kind, inputs or ['x'], ['y'], name=f'a_{kind}', **attributes)


@pytest.mark.parametrize(
    'made',
    [
        node('Relu'),
        node('Resize', 'x', '', 's', mode='linear'),
        node('Resize', 'x', '', 's', mode='nearest', antialias=0),
        node('ScatterND', 'x', 's', 's'),
        node('LayerNormalization', 'x', 's'),
        node('TopK', 'x', 's'),
    ],
)
def test_what_tensorrt_takes_passes(made):
    assert lint(model(made, constants=[('s', [1.0, -1e4])])) == []


@pytest.mark.parametrize(
    ('made', 'message'),
    [
        *((node(kind), kind) for kind in ('GridSample', 'NonZero', 'OneHot', 'Loop', 'Scan', 'Unique', 'Compress')),
        (node('Resize', mode='cubic'), "mode 'cubic'"),
        (node('Resize', mode='linear', antialias=1), 'has antialias'),
        (node('ScatterND', reduction='add'), 'reduction'),
        (node('TopK', sorted=0), 'sorted'),
        (helper.make_node('LayerNormalization', ['x'], ['y', 'mean'], name='a_norm'), 'only have its output Y'),
    ],
)
def test_what_tensorrt_does_not_take_is_named(made, message):
    (problem,) = lint(model(made))
    assert problem.startswith(f"{made.op_type} 'a_")
    assert message in problem


def test_scattered_booleans_are_refused():
    assert 'scatters booleans' in lint(model(node('ScatterND'), kind=TensorProto.BOOL))[0]


def test_bytes_may_only_be_cast():
    assert lint(model(node('Cast', to=FLOAT), kind=TensorProto.UINT8)) == []
    assert 'only cast' in lint(model(node('Transpose'), kind=TensorProto.UINT8))[0]


def test_branches_are_searched_too():
    inner = helper.make_graph([node('NonZero')], 'inner', [], [helper.make_empty_tensor_value_info('y')])
    outer = helper.make_node('If', ['x'], ['z'], name='choice', then_branch=inner, else_branch=inner)
    problems = lint(model(outer))
    assert [problem.split()[0] for problem in problems] == ['If', 'NonZero', 'NonZero']


@pytest.mark.parametrize(
    ('values', 'message'),
    [
        ([1.0, -np.inf], 'constant mask has infinities'),
        ([np.nan], 'constant mask has NaN'),
        ([-1e6], 'constant mask reaches 1e+06, half precision ends at 65504'),
    ],
)
def test_constants_that_half_precision_loses(values, message):
    as_initializer = lint(model(node('Add', 'x', 'mask'), constants=[('mask', values)]))
    value = onnx.numpy_helper.from_array(np.asarray(values, np.float32))
    as_node = lint(model(helper.make_node('Constant', [], ['mask'], value=value), node('Add', 'x', 'mask')))
    assert len(as_initializer) == len(as_node) == 1
    assert message in as_initializer[0]
    assert message in as_node[0]


def test_opsets_and_domains():
    assert lint(model(node('Relu'), opset=21)) == ['opset 21 is above 20']
    custom = helper.make_node('Gelu', ['x'], ['y'], domain='com.microsoft')
    assert lint(model(custom, domains=['com.microsoft'])) == ["operators of domain 'com.microsoft' are no standard"]
    assert lint(model(node('Relu'), domains=['com.microsoft'])) == []


def test_files_with_weights_beside_them(tmp_path):
    path = tmp_path / 'big.onnx'
    made = model(node('Add', 'x', 'mask'), constants=[('mask', np.full(2048, np.inf))])
    onnx.save_model(made, path, save_as_external_data=True, location='big.data', size_threshold=0)
    assert len(load_and_lint(path)) == 1
