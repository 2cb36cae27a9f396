"""The layers that an update can be added to: torch's Linear, a quantized Linear of ours, and GPT-2's Conv1D in transformers.

Weights are handed out as (out, in), however the layer stores them.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from llmcore.quantize.linear import QuantizedLinear


def is_conv1d(module: nn.Module) -> bool:
    """Whether it is the Conv1D of transformers' GPT-2: a linear layer that stores its weight as (in, out)."""
    return type(module).__name__ == "Conv1D" and hasattr(module, "nf") and getattr(module, "weight", None) is not None


def is_adaptable(module: nn.Module) -> bool:
    """Whether an update can be added to the module."""
    return isinstance(module, (nn.Linear, QuantizedLinear)) or is_conv1d(module)


def layer_sizes(base: nn.Module) -> tuple[int, int]:
    """(inputs, outputs)."""
    if is_conv1d(base):
        return base.weight.shape[0], base.weight.shape[1]
    return base.in_features, base.out_features


def read_weight(base: nn.Module) -> Float[Tensor, "O I"]:
    """The layer's weight; a quantized one in float32."""
    return base.weight.t() if is_conv1d(base) else base.weight


def wide_dtype(base: nn.Module) -> torch.dtype:
    """The dtype in which the layer's update is added up: float32, float64 for a float64 layer."""
    stored = base.weight_dtype if isinstance(base, QuantizedLinear) else base.weight.dtype
    return torch.float64 if stored == torch.float64 else torch.float32


@torch.no_grad()
def write_weight(base: nn.Module, weight: Float[Tensor, "O I"]) -> None:
    """Store this weight in the layer, rounded or quantized as the layer does."""
    if isinstance(base, QuantizedLinear):
        base.set_weight(weight)
    else:
        read_weight(base).copy_(weight)


def stored_weight(base: nn.Module) -> Any:
    """A copy of what the layer stores, for `restore_weight`."""
    if isinstance(base, QuantizedLinear):
        return tuple(buffer.clone() for buffer in base.buffers_of_weight)
    return base.weight.detach().clone()


@torch.no_grad()
def restore_weight(base: nn.Module, kept: Any) -> None:
    """Put back what `stored_weight` took, to the last bit."""
    if isinstance(base, QuantizedLinear):
        for name, buffer in zip(base.store, kept, strict=True):
            setattr(base, name, buffer)
    else:
        base.weight.copy_(kept)
