import numpy as np
import onnx
from onnx import TensorProto, helper
import pytest

from fisa_ros.core.errors import GraphsError
from fisa_ros.runtime.graph_cost import GraphCost, count_cost

FLOAT = TensorProto.FLOAT


def write(folder, made, inputs, constants=(), **options):
    path = folder / 'graph.onnx'
    graph = helper.make_graph(
        [made],
        'graph',
        [helper.make_tensor_value_info(name, FLOAT, shape) for name, shape in inputs],
        [helper.make_tensor_value_info('y', FLOAT, None)],
        [onnx.numpy_helper.from_array(np.zeros(shape, np.float32), name) for name, shape in constants],
    )
    onnx.save_model(helper.make_model(graph, opset_imports=[helper.make_opsetid('', 20)]), path, **options)
    return path


def node(kind, **attributes):
    return helper.make_node(kind, ['x', 'w'], ['y'], **attributes)


@pytest.mark.parametrize(
    ('made', 'left', 'right', 'products'),
    [
        (node('MatMul'), [2, 5, 3], [3, 7], 2 * 5 * 3 * 7),
        (node('Gemm', transA=1), [3, 5], [3, 7], 5 * 3 * 7),
        (node('Conv', pads=[1, 1, 1, 1]), [1, 4, 6, 6], [8, 4, 3, 3], 6 * 6 * 8 * 4 * 9),
        (node('Conv', group=4), [1, 4, 6, 6], [4, 1, 3, 3], 4 * 4 * 4 * 9),
        (node('ConvTranspose', strides=[2, 2]), [1, 4, 6, 6], [4, 8, 2, 2], 6 * 6 * 4 * 8 * 4),
        (node('Einsum', equation='bqc, bchw -> bqhw'), [1, 5, 3], [1, 3, 4, 6], 5 * 3 * 4 * 6),
    ],
)
def test_a_multiplication_and_an_addition_are_two(tmp_path, made, left, right, products):
    cost = count_cost(write(tmp_path, made, [('x', left)], [('w', right)]))
    assert cost.flop == 2 * products
    assert cost.weight_bytes == 4 * np.prod(right)


def test_weights_beside_the_file_are_counted_without_them(tmp_path):
    options = {'save_as_external_data': True, 'location': 'graph.data', 'size_threshold': 0}
    path = write(tmp_path, node('MatMul'), [('x', ['n', 30])], [('w', [30, 70])], **options)
    (tmp_path / 'graph.data').unlink()
    assert count_cost(path, {'n': 2}) == GraphCost(2 * 2 * 30 * 70, 4 * 30 * 70, 4 * 2 * (30 + 70))


def test_what_cannot_be_counted_is_named(tmp_path):
    path = write(tmp_path, node('MatMul'), [('x', ['n', 30])], [('w', [30, 70])])
    with pytest.raises(GraphsError, match=r"the size of axis 'n' of x must be given"):
        count_cost(path)
    path = write(tmp_path, node('Einsum', equation='...i,ij->...j'), [('x', [2, 3])], [('w', [3, 4])])
    with pytest.raises(GraphsError, match=r'products of Einsum y with .* cannot be counted'):
        count_cost(path)
