"""What the inspector of TensorRT says of the layers of an engine."""

import json
from typing import Any


def half_layer_share(layers_json: str) -> float | None:
    """Return the share of layers in [0, 1] with an output in half precision.

    Fused layers hide what is inside them, so a low share alone proves nothing. None if the inspector gave no layers
    with types, as it does for plans that were built without details.

    Args:
        layers_json: What the inspector of an engine says.
    """
    try:
        layers = json.loads(layers_json)['Layers']
    except (KeyError, TypeError, ValueError):
        return None
    typed = [types for types in map(_output_types, layers) if types]
    if not typed:
        return None
    return round(sum('half' in types or 'fp16' in types for types in typed) / len(typed), 4)


def _output_types(layer: Any) -> str:
    """Return what the inspector says of the types of a layer's outputs, in small letters."""
    outputs = layer.get('Outputs', []) if isinstance(layer, dict) else []
    return ' '.join(
        str(value) for output in outputs for key, value in output.items() if 'Format' in key or 'type' in key
    ).lower()
