import numpy as np
import onnx
from onnx import TensorProto, helper
import pytest

from fisa_ros.core.errors import GraphsError
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


@pytest.mark.parametrize(('index', 'is_refused'), [(-1, True), (0, False)])
def test_negative_indices_are_refused(index, is_refused):
    made = model(node('Gather', 'x', 'index', axis=1))
    made.graph.initializer.append(onnx.numpy_helper.from_array(np.array(index), 'index'))
    assert bool(lint(made)) is is_refused
    assert not is_refused or 'has a negative index' in lint(made)[0]


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


@pytest.mark.parametrize('attribute', [{'value_float': -np.inf}, {'value_floats': [0.0, -np.inf]}])
def test_masks_in_attributes_are_searched(attribute):
    made = model(helper.make_node('Constant', [], ['mask'], **attribute), node('Add', 'x', 'mask'))
    assert lint(made) == ['constant mask has infinities, use a finite number']


def test_masks_that_are_filled_are_searched():
    value = onnx.numpy_helper.from_array(np.array([-np.inf], np.float32))
    made = model(helper.make_node('ConstantOfShape', ['s'], ['mask'], value=value), node('Add', 'x', 'mask'))
    assert lint(made) == ['constant mask has infinities, use a finite number']


def test_constants_of_branches_are_searched():
    mask = onnx.numpy_helper.from_array(np.array([np.inf], np.float32), 'mask')
    inner = helper.make_graph(
        [node('Add', 'x', 'mask')], 'inner', [], [helper.make_empty_tensor_value_info('y')], [mask]
    )
    outer = helper.make_node('If', ['x'], ['z'], name='choice', then_branch=inner, else_branch=inner)
    assert 'constant mask has infinities, use a finite number' in lint(model(outer))


def save_outside(folder, values):
    folder.mkdir(exist_ok=True)
    path = folder / 'big.onnx'
    made = model(
        node('Add', 'x', 'mask'), constants=[('other', np.ones(3)), ('mask', values), ('empty', np.zeros((0, 4)))]
    )
    onnx.save_model(made, path, save_as_external_data=True, location='big.data', size_threshold=0)
    return path


def test_files_with_weights_beside_them(tmp_path):
    assert load_and_lint(save_outside(tmp_path, np.full(2048, -1e4))) == []
    assert load_and_lint(save_outside(tmp_path / 'inf', np.full(2048, np.inf))) == [
        'constant mask has infinities, use a finite number'
    ]


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (lambda path: path.unlink(), r'big\.data cannot be read'),
        (lambda path: path.write_bytes(path.read_bytes()[:-4]), r'big\.data has \d+ bytes, but mask ends at \d+'),
    ],
)
def test_weights_that_are_missing_beside_a_file_are_named(tmp_path, change, message):
    path = save_outside(tmp_path, np.ones(2048))
    change(tmp_path / 'big.data')
    with pytest.raises(GraphsError, match=message):
        load_and_lint(path)


def whole_model(nodes, inputs, output, opset=20, constants=(), rank=4):
    """A model that ONNX itself finds sound."""
    graph = helper.make_graph(
        nodes,
        'graph',
        [helper.make_tensor_value_info(name, kind, shape) for name, kind, shape in inputs],
        [helper.make_tensor_value_info('y', output, [None] * rank)],
        [onnx.numpy_helper.from_array(values, name) for name, values in constants],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid('', opset)])


IMAGE = ('x', FLOAT, [1, 2, 4, 4])
SCALES = ('scales', np.array([1, 1, 2, 2], np.float32))


def branches():
    made = [helper.make_node('Relu', ['x'], [name]) for name in ('a', 'b')]
    graphs = [
        helper.make_graph([entry], 'branch', [], [helper.make_tensor_value_info(entry.output[0], FLOAT, [None] * 4)])
        for entry in made
    ]
    return helper.make_node('If', ['c'], ['y'], then_branch=graphs[0], else_branch=graphs[1])


def loop():
    body = helper.make_graph(
        [helper.make_node('Identity', ['go'], ['on']), helper.make_node('Relu', ['state'], ['next'])],
        'body',
        [
            helper.make_tensor_value_info('i', TensorProto.INT64, []),
            helper.make_tensor_value_info('go', TensorProto.BOOL, []),
            helper.make_tensor_value_info('state', FLOAT, [None] * 4),
        ],
        [
            helper.make_tensor_value_info('on', TensorProto.BOOL, []),
            helper.make_tensor_value_info('next', FLOAT, [None] * 4),
        ],
    )
    return helper.make_node('Loop', ['n', 'c', 'x'], ['y'], body=body)


REFUSED = {
    'GridSample': whole_model(
        [helper.make_node('GridSample', ['x', 'grid'], ['y'])], [IMAGE, ('grid', FLOAT, [1, 3, 3, 2])], FLOAT
    ),
    'NonZero': whole_model([helper.make_node('NonZero', ['x'], ['y'])], [IMAGE], TensorProto.INT64, rank=2),
    'OneHot': whole_model(
        [helper.make_node('OneHot', ['i', 'depth', 'values'], ['y'])],
        [('i', TensorProto.INT64, [3]), ('depth', TensorProto.INT64, [])],
        FLOAT,
        rank=2,
        constants=[('values', np.array([0, 1], np.float32))],
    ),
    'If': whole_model([branches()], [IMAGE, ('c', TensorProto.BOOL, [])], FLOAT),
    'Loop': whole_model([loop()], [IMAGE, ('n', TensorProto.INT64, []), ('c', TensorProto.BOOL, [])], FLOAT),
    'has antialias': whole_model(
        [helper.make_node('Resize', ['x', '', 'scales'], ['y'], mode='linear', antialias=1)],
        [IMAGE], FLOAT, constants=[SCALES],
    ),
    "mode 'cubic'": whole_model(
        [helper.make_node('Resize', ['x', '', 'scales'], ['y'], mode='cubic')], [IMAGE], FLOAT, constants=[SCALES]
    ),
    # What is scattered into is known to be boolean by inference alone.
    'scatters booleans': whole_model(
        [
            helper.make_node('Greater', ['x', 'zero'], ['mask']),
            helper.make_node('ScatterND', ['mask', 'i', 'update'], ['y']),
        ],
        [IMAGE, ('i', TensorProto.INT64, [1, 4]), ('update', TensorProto.BOOL, [1])],
        TensorProto.BOOL,
        constants=[('zero', np.zeros(1, np.float32))],
    ),
    'has infinities': whole_model(
        [helper.make_node('Where', ['keep', 'x', 'hidden'], ['y'])],
        [IMAGE, ('keep', TensorProto.BOOL, [4])],
        FLOAT,
        constants=[('hidden', np.array([-np.inf], np.float32))],
    ),
    'opset 21 is above 20': whole_model([helper.make_node('Relu', ['x'], ['y'])], [IMAGE], FLOAT, opset=21),
}  # fmt: skip


@pytest.mark.parametrize('message', list(REFUSED))
def test_sound_files_that_tensorrt_does_not_take_are_refused(tmp_path, message):
    onnx.checker.check_model(REFUSED[message], full_check=True)
    onnx.save_model(REFUSED[message], tmp_path / 'graph.onnx')
    (problem,) = load_and_lint(tmp_path / 'graph.onnx')
    assert message in problem
