"""Half precision for encoders, with float32 where half precision spoils the result.

TensorRT computes in the types that a graph names, so the types are chosen here, before the export; PyTorch runs the
same copy on a GPU.
"""

from collections.abc import Callable, Mapping, Sequence
import copy
from typing import Any

import torch
from torch import Tensor, nn
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

from fisa_ros.networks.segmentation_network import EncodedImage, SegmentationNetwork

# Nearly all of the work, and all of the weights.
_WEIGHTED = frozenset({F.linear, torch.conv2d, F.conv2d, torch.conv_transpose2d, F.conv_transpose2d})
_WEIGHTED_MODULES = (nn.Linear, nn.Conv2d, nn.ConvTranspose2d, nn.MultiheadAttention)
# Half where an operand is half: attention and masks, but not the averages over areas, which choose by thresholds.
_PRODUCTS = frozenset({
    torch.matmul, torch.Tensor.matmul, torch.Tensor.__matmul__, torch.Tensor.__rmatmul__, torch.bmm, torch.Tensor.bmm,
    torch.einsum, torch.functional.einsum, F.scaled_dot_product_attention,
})  # fmt: skip
# Sums of squares end beyond 65504.
_NORMALISATIONS = frozenset({F.layer_norm, torch.layer_norm, F.group_norm, torch.group_norm, F.batch_norm})
_NORMALISATION_MODULES = (nn.LayerNorm, nn.GroupNorm, nn.modules.batchnorm._BatchNorm)
# Probabilities and unit rows: eleven bits are too few of what thresholds are compared with.
_FLOAT32 = frozenset({
    torch.sigmoid, torch.Tensor.sigmoid, F.sigmoid, torch.softmax, torch.Tensor.softmax, F.softmax, torch.log,
    torch.Tensor.log, torch.exp, torch.Tensor.exp, F.normalize,
})  # fmt: skip


class HalfNetwork(nn.Module):
    """The encoder of a network in half precision; what it takes and gives is float32.

    Matrix products and convolutions are half; softmax, sigmoid, normalisations and unit rows are float32. The network
    that it is made of stays as it is and shares with the copy what is float32 in both.

    Args:
        network: The network, for inference.
        is_safe: Whether only convolutions and linear layers are half, and attention, residual sums and masks float32.
    """

    def __init__(self, network: SegmentationNetwork, *, is_safe: bool = False) -> None:
        super().__init__()
        self.network = _copy(network, is_safe=is_safe)
        self._types = _HalfTypes(is_safe=is_safe)

    def encode(self, image: Tensor, semantic_tokens: Tensor, token_mask: Tensor) -> EncodedImage:
        """Encode one image; see `SegmentationNetwork.encode`."""
        with self._types:
            encoded = self.network.encode(image, semantic_tokens, token_mask)
        return EncodedImage(*(tensor.float() for tensor in encoded))


class _HalfTypes(TorchFunctionMode):
    """Chooses the types of what a network calls, as autocast does, but the same on every device and in an export."""

    def __init__(self, *, is_safe: bool) -> None:
        super().__init__()
        self._is_safe = is_safe

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func in _WEIGHTED:
            output = _call(func, args, kwargs, torch.float16)
            return output.float() if self._is_safe else output
        if func in _PRODUCTS:
            return _call(func, args, kwargs, torch.float16 if _has_half((args, kwargs)) else torch.float32)
        if func in _NORMALISATIONS:
            return _call(func, args, kwargs, torch.float32).to(args[0].dtype)
        if func in _FLOAT32:
            return _call(func, args, kwargs, torch.float32)
        return func(*args, **kwargs)


def _copy(network: SegmentationNetwork, *, is_safe: bool) -> SegmentationNetwork:
    """Return a copy whose weights are half where that is wanted and shared where not."""
    tensors = (*network.parameters(), *network.buffers())
    known: dict[int, Any] = {id(tensor): tensor for tensor in tensors}
    for part in (network.generator, network.tower):
        for module in part.modules():
            is_kept = isinstance(module, _NORMALISATION_MODULES)
            if is_kept or (is_safe and not isinstance(module, _WEIGHTED_MODULES)):
                continue
            for parameter in module.parameters(recurse=False):
                known[id(parameter)] = nn.Parameter(parameter.detach().half(), requires_grad=False)
    # With what stands for each tensor told beforehand, no tensor is copied in float32.
    return copy.deepcopy(network, known)


def _call(func: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any], dtype: torch.dtype) -> Any:
    return func(*_cast(args, dtype), **_cast(dict(kwargs), dtype))


def _cast(value: Any, dtype: torch.dtype) -> Any:
    """Return a value with the floating point tensors in it in another type."""
    if isinstance(value, Tensor):
        return value.to(dtype) if value.is_floating_point() and value.dtype != dtype else value
    if isinstance(value, tuple | list):
        return type(value)(_cast(entry, dtype) for entry in value)
    if isinstance(value, dict):
        return {key: _cast(entry, dtype) for key, entry in value.items()}
    return value


def _has_half(value: Any) -> bool:
    if isinstance(value, Tensor):
        return value.dtype == torch.float16
    if isinstance(value, tuple | list):
        return any(_has_half(entry) for entry in value)
    return isinstance(value, dict) and any(_has_half(entry) for entry in value.values())
