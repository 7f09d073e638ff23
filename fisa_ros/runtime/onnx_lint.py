"""Refuses what TensorRT cannot take, or takes and then computes wrongly, before a robot meets it.

Limits of TensorRT 10.3 to 11: its operator list, and defects that users reported of graphs that built without a word.
"""

from collections.abc import Iterator
import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper
from onnx.external_data_helper import ExternalDataInfo, uses_external_data

from fisa_ros.core.errors import GraphsError

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


def lint(model: ModelProto, folder: Path | None = None) -> list[str]:
    """Return what is wrong with a graph for TensorRT, a sentence each; empty if nothing is.

    Args:
        model: The graph with shapes inferred.
        folder: Where the files of its external data are, which are read a constant at a time.

    Raises:
        GraphsError: External data are missing or end too early.
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
    types: dict[str, int] = {}
    for graph in _graphs(model.graph):
        types |= _element_types(graph)
    for node in _nodes(model.graph):
        problems += [f'{_where(node)} {problem}' for problem in _node_problems(node, types)]
    gathered = {node.input[1]: node for node in _nodes(model.graph) if node.op_type == 'Gather'}
    for name, tensor in _constants(model.graph):
        if name in gathered and (_values(tensor, folder) < 0).any():
            problems.append(
                f'{_where(gathered[name])} has a negative index, which TensorRT leaves undefined on an axis of varying '
                'length: slice'
            )
        if tensor.data_type in (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE):
            problems += _constant_problems(name, _values(tensor, folder))
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


def _constant_problems(name: str, values: NDArray[Any]) -> Iterator[str]:
    # Without copies, as a constant may have hundreds of millions of bytes; NaN is both the least and the largest.
    reach = float(max(-values.min(), values.max())) if values.size else 0.0
    if np.isnan(reach):
        yield f'constant {name} has NaN'
    elif np.isinf(reach):
        yield f'constant {name} has infinities, use a finite number'
    elif reach > _MAX_FINITE:
        yield f'constant {name} reaches {reach:g}, half precision ends at {_MAX_FINITE:g}'


def _constants(graph: GraphProto) -> Iterator[tuple[str, TensorProto]]:
    for inner in _graphs(graph):
        yield from ((entry.name, entry) for entry in inner.initializer)
    for node in _nodes(graph):
        if node.op_type not in ('Constant', 'ConstantOfShape'):
            continue
        for attribute in node.attribute:
            if attribute.name == 'value':
                yield node.output[0], attribute.t
            elif attribute.name in ('value_float', 'value_floats'):
                numbers = np.atleast_1d(np.asarray(helper.get_attribute_value(attribute), np.float32))
                yield node.output[0], numpy_helper.from_array(numbers)


def _values(tensor: TensorProto, folder: Path | None) -> NDArray[Any]:
    if folder is None or not uses_external_data(tensor):
        return numpy_helper.to_array(tensor)
    info = ExternalDataInfo(tensor)
    path = folder / info.location
    dtype = helper.tensor_dtype_to_np_dtype(tensor.data_type)
    count = math.prod(tensor.dims)
    if not count:
        return np.zeros(0, dtype)
    offset = info.offset or 0
    try:
        size = path.stat().st_size
        if size < offset + count * dtype.itemsize:
            raise GraphsError(f'{path} has {size} bytes, but {tensor.name} ends at {offset + count * dtype.itemsize}')
        return np.memmap(path, dtype, 'r', offset, (count,))
    except OSError as error:
        raise GraphsError(f'{path} cannot be read: {error}') from error


def _graphs(graph: GraphProto) -> Iterator[GraphProto]:
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in [attribute.g, *attribute.graphs]:
                yield from _graphs(inner)


def _nodes(graph: GraphProto) -> Iterator[NodeProto]:
    for inner in _graphs(graph):
        yield from inner.node


def _element_types(graph: GraphProto) -> dict[str, int]:
    known = {entry.name: entry.type.tensor_type.elem_type for entry in (*graph.input, *graph.value_info, *graph.output)}
    return known | {entry.name: entry.data_type for entry in graph.initializer}


def _where(node: NodeProto) -> str:
    name = node.name or node.output[0]
    return f'{node.op_type} {name!r}'


def load_and_lint(path: Path) -> list[str]:
    """Return `lint` of a file, inferred shapes and external data included; of the latter a constant is read at a time.

    Raises:
        GraphsError: External data are missing or end too early.
    """
    model = onnx.load(str(path), load_external_data=False)
    return lint(onnx.shape_inference.infer_shapes(model), path.parent)
