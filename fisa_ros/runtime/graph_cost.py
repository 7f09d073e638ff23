"""Counts what a graph has to do, to tell how near to a machine's limits it runs (Williams et al., Roofline, 2009)."""

from collections.abc import Mapping
from dataclasses import dataclass
import math
from pathlib import Path

import onnx
from onnx import GraphProto, NodeProto, TensorProto, helper

from fisa_ros.core.errors import GraphsError


@dataclass(frozen=True, slots=True)
class GraphCost:
    """Work of one run.

    Attributes:
        flop: Floating point operations of convolutions and matrix products, two for each multiplication and addition.
        weight_bytes: Size of the constants.
        activation_bytes: Size of all that nodes read and write besides: what moves if nothing is fused.
    """

    flop: int
    weight_bytes: int
    activation_bytes: int


def count_cost(path: Path, sizes: Mapping[str, int] | None = None) -> GraphCost:
    """Count the work of a graph.

    Args:
        path: The ONNX file.
        sizes: Size of each named dynamic axis, such as `{'classes': 30}`.

    Raises:
        GraphsError: A dynamic axis has no size.
    """
    model = onnx.load(str(path), load_external_data=False)
    _fix_axes(model.graph, sizes or {}, path)
    graph = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    shapes, item_bytes = _shapes(graph)
    constants = {entry.name for entry in graph.initializer}
    activations = 0
    for node in graph.node:
        names = [name for name in (*node.input, *node.output) if name and name not in constants]
        activations += sum(_bytes(shapes.get(name), item_bytes.get(name, 0)) for name in names)
    return GraphCost(
        flop=sum(_flop(node, shapes) for node in graph.node),
        weight_bytes=sum(_bytes(tuple(entry.dims), _item_bytes(entry.data_type)) for entry in graph.initializer),
        activation_bytes=activations,
    )


def _fix_axes(graph: GraphProto, sizes: Mapping[str, int], path: Path) -> None:
    for entry in graph.input:
        for axis in entry.type.tensor_type.shape.dim:
            if axis.dim_param:
                if axis.dim_param not in sizes:
                    raise GraphsError(f'{path}: the size of axis {axis.dim_param!r} of {entry.name} must be given')
                axis.dim_value = sizes[axis.dim_param]
    # What the exporter inferred speaks of the names of the axes.
    del graph.value_info[:]
    for entry in graph.output:
        entry.type.tensor_type.ClearField('shape')


def _shapes(graph: GraphProto) -> tuple[dict[str, tuple[int, ...]], dict[str, int]]:
    shapes, item_bytes = {}, {}
    for entry in (*graph.input, *graph.value_info, *graph.output):
        kind = entry.type.tensor_type
        item_bytes[entry.name] = _item_bytes(kind.elem_type)
        if kind.HasField('shape') and all(axis.HasField('dim_value') for axis in kind.shape.dim):
            shapes[entry.name] = tuple(axis.dim_value for axis in kind.shape.dim)
    for tensor in graph.initializer:
        shapes[tensor.name] = tuple(tensor.dims)
    return shapes, item_bytes


def _item_bytes(kind: int) -> int:
    return 0 if kind in (TensorProto.UNDEFINED, TensorProto.STRING) else helper.tensor_dtype_to_np_dtype(kind).itemsize


def _bytes(shape: tuple[int, ...] | None, item_bytes: int) -> int:
    return 0 if shape is None else math.prod(shape) * item_bytes


def _flop(node: NodeProto, shapes: Mapping[str, tuple[int, ...]]) -> int:
    if node.op_type not in ('Conv', 'ConvTranspose', 'MatMul', 'Gemm', 'Einsum'):
        return 0
    left, right = shapes.get(node.input[0]), shapes.get(node.input[1])
    out = shapes.get(node.output[0])
    if left is None or right is None or out is None:
        raise GraphsError(f'the shape of {node.op_type} {node.name or node.output[0]} cannot be inferred')
    if node.op_type == 'Conv':
        return 2 * math.prod(out) * math.prod(right[1:])
    if node.op_type == 'ConvTranspose':
        return 2 * math.prod(left) * math.prod(right[1:])
    if node.op_type == 'Einsum':
        return 2 * _einsum_products(node, left, right)
    attributes = {entry.name: entry.i for entry in node.attribute}
    inner = left[0] if node.op_type == 'Gemm' and attributes.get('transA') else left[-1]
    return 2 * math.prod(out) * inner


def _einsum_products(node: NodeProto, left: tuple[int, ...], right: tuple[int, ...]) -> int:
    equation = helper.get_node_attr_value(node, 'equation').decode().replace(' ', '')
    terms = equation.partition('->')[0].split(',')
    if len(terms) != 2 or len(terms[0]) != len(left) or len(terms[1]) != len(right):
        raise GraphsError(f'products of Einsum {node.name or node.output[0]} with {equation!r} cannot be counted')
    return math.prod((dict(zip(terms[0], left, strict=True)) | dict(zip(terms[1], right, strict=True))).values())
