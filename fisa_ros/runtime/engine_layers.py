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
    types = [
        [
            ' '.join(str(value) for key, value in output.items() if 'Format' in key or 'type' in key)
            for output in outputs
        ]
        for outputs in (layer.get('Outputs', []) for layer in layers if isinstance(layer, dict))
    ]
    typed = [names for names in types if any(names)]
    if not typed:
        return None
    halves = sum(any('half' in name.lower() or 'fp16' in name.lower() for name in names) for names in typed)
    return round(halves / len(typed), 4)


def _output_types(layer: Any) -> str:
    """Return what the inspector says of the types of a layer's outputs, in small letters."""
    outputs = layer.get('Outputs', []) if isinstance(layer, dict) else []
    return ' '.join(
        str(value) for output in outputs for key, value in output.items() if 'Format' in key or 'type' in key
    ).lower()
