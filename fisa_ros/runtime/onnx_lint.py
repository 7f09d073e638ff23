"""Refuses what TensorRT cannot take, or takes and then computes wrongly, before a robot meets it.

Limits of TensorRT 10.3 to 11: its operator list, and defects that users reported of graphs that built without a word.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

MAX_OPSET = 20
_REFUSED = {
    'GridSample': 'is computed wrongly by TensorRT 10.14 and later',
    'NonZero': 'has outputs whose size depends on the data',
    'OneHot': 'needs a depth that is known when the engine is built',
    'If': 'has branches, which TensorRT computes wrongly around Resize',
    'Loop': 'cannot be part of a CUDA graph',
    'Scan': 'cannot be part of a CUDA graph',
    'Unique': 'has outputs whose size depends on the data',
    'Compress': 'has outputs whose size depends on the data',
    'NonMaxSuppression': 'has outputs whose size depends on the data',
}
# Half precision ends at 65504; a mask beyond that is an infinity on the device.
_MAX_FINITE = 65504.0


def lint(model: ModelProto) -> list[str]:
    """Return what is wrong with a graph for TensorRT, a sentence each; empty if nothing is.

    Args:
        model: The graph with shapes inferred and without external data, or with it loaded.
    """
    problems = [
        f'opset {entry.version} is above {MAX_OPSET}'
        for entry in model.opset_import
        if entry.domain in ('', 'ai.onnx') and entry.version > MAX_OPSET
    ]
    problems += [
        f'operators of domain {entry.domain!r} are no standard'
        for entry in model.opset_import
        if entry.domain not in ('', 'ai.onnx') and any(node.domain == entry.domain for node in _nodes(model.graph))
    ]
    types = _element_types(model.graph)
    constants = {entry.name: entry for entry in model.graph.initializer}
    for node in _nodes(model.graph):
        problems += [f'{_where(node)} {problem}' for problem in _node_problems(node, types)]
        if node.op_type == 'Constant':
            constants |= {name: entry.t for name in node.output for entry in node.attribute if entry.name == 'value'}
    for name, tensor in constants.items():
        if tensor.data_type in (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE):
            problems += _constant_problems(name, numpy_helper.to_array(tensor))
    return problems


def _node_problems(node: NodeProto, types: dict[str, int]) -> Iterator[str]:
    if node.op_type != 'Cast' and any(types.get(name) == TensorProto.UINT8 for name in node.input):
        yield 'computes with bytes, which TensorRT can only cast'
    if node.op_type in _REFUSED:
        yield _REFUSED[node.op_type]
    attributes = {entry.name: helper.get_attribute_value(entry) for entry in node.attribute}
    if node.op_type == 'Resize':
        mode = attributes.get('mode', b'nearest').decode()
        if mode not in ('nearest', 'linear'):
            yield f'has mode {mode!r}, TensorRT has nearest and linear'
        if attributes.get('antialias', 0):
            yield 'has antialias, which TensorRT does not have'
    if node.op_type == 'ScatterND':
        if types.get(node.input[0]) == TensorProto.BOOL:
            yield 'scatters booleans'
        if attributes.get('reduction', b'none') != b'none':
            yield 'has a reduction'
    if node.op_type == 'TopK' and not attributes.get('sorted', 1):
        yield 'must be sorted'
    if node.op_type == 'LayerNormalization' and len([name for name in node.output if name]) > 1:
        yield 'may only have its output Y'


def _constant_problems(name: str, values: np.ndarray) -> Iterator[str]:
    if np.isnan(values).any():
        yield f'constant {name} has NaN'
    elif values.size and not np.isfinite(values).all():
        yield f'constant {name} has infinities, use a finite number'
    elif values.size and np.abs(values).max() > _MAX_FINITE:
        yield f'constant {name} reaches {np.abs(values).max():g}, half precision ends at {_MAX_FINITE:g}'


def _nodes(graph: GraphProto) -> Iterator[NodeProto]:
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in [attribute.g, *attribute.graphs]:
                yield from _nodes(inner)


def _element_types(graph: GraphProto) -> dict[str, int]:
    known = {entry.name: entry.type.tensor_type.elem_type for entry in (*graph.input, *graph.value_info, *graph.output)}
    return known | {entry.name: entry.data_type for entry in graph.initializer}


def _where(node: NodeProto) -> str:
    name = node.name or node.output[0]
    return f'{node.op_type} {name!r}'


def load_and_lint(path: Path) -> list[str]:
    """Return `lint` of a file, external data and inferred shapes included."""
    return lint(onnx.shape_inference.infer_shapes(onnx.load(str(path))))
