"""How much of a graph is in half precision."""

from collections import Counter
import math
from pathlib import Path

import onnx
from onnx import NodeProto, TensorProto

_WEIGHTED = ('Conv', 'ConvTranspose', 'Gemm', 'MatMul')
# What gives a constant another form, but no other type.
_FORMS = ('Identity', 'Reshape', 'Slice', 'Squeeze', 'Transpose', 'Unsqueeze')


def half_weight_share(path: Path) -> float:
    """Return the share in [0, 1] of the weights of convolutions and linear layers that are stored and used as float16.

    A weight that is cast on its way does not count, whatever it is stored as.

    Args:
        path: The ONNX file; its external data need not be there.
    """
    graph = onnx.load(str(path), load_external_data=False).graph
    constants = {entry.name: entry for entry in graph.initializer}
    makers = {name: node for node in graph.node for name in node.output}
    numbers: Counter[bool] = Counter()
    for node in graph.node:
        if node.op_type in _WEIGHTED:
            for name in node.input[:2]:
                found = _constant(name, constants, makers)
                if found is not None:
                    tensor, is_cast = found
                    numbers[tensor.data_type == TensorProto.FLOAT16 and not is_cast] += math.prod(tensor.dims)
    return numbers[True] / max(numbers.total(), 1)


def _constant(
    name: str, constants: dict[str, TensorProto], makers: dict[str, NodeProto]
) -> tuple[TensorProto, bool] | None:
    """Return the constant that a value is made of and whether it was cast; None if it is no constant."""
    is_cast = False
    while name not in constants:
        node = makers.get(name)
        if node is None or node.op_type not in (*_FORMS, 'Cast'):
            return None
        is_cast = is_cast or node.op_type == 'Cast'
        name = node.input[0]
    return constants[name], is_cast
