"""Frozen linear layers that store their weight quantized, and the swapping of a model's layers for them.

The weight becomes float for the length of one product, forward and again backward: nothing float is kept between the two,
so the memory is that of the codes and of the one layer at work. The weight has no gradient; the input has.

Left out on purpose: kernels that multiply in int8 or int4. These layers save memory, not time.

Taught in: 06_lora.
"""

# Shapes: I inputs, O outputs.
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from llmcore._targets import find_layers, replace_modules
from llmcore.quantize.int8 import quantize_int8
from llmcore.quantize.nf4 import BLOCK, SCALE_BLOCK, PackedNf4, pack_nf4

Method = Literal["nf4", "int8"]


class QuantizedLinear(nn.Module, ABC):
    """A linear layer with a frozen, quantized weight (out, in) and, where the original had one, a frozen float bias."""

    method: ClassVar[Method]
    """Its name in `quantize_model`."""
    store: ClassVar[tuple[str, ...]]
    """Names of the buffers that hold the weight."""
    exact: ClassVar[tuple[str, ...]]
    """Buffers that keep their dtype when the model is moved to another."""

    def __init__(self, in_features: int, out_features: int, bias: Tensor | None, **_: Any) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.bias = None if bias is None else nn.Parameter(bias.detach().clone(), requires_grad=False)

    @abstractmethod
    def encode(self, weight: Float[Tensor, "O I"]) -> tuple[Tensor, ...]:
        """The buffers that stand for this weight, in the order of `store`."""

    @abstractmethod
    def decode(self, *buffers: Tensor) -> Float[Tensor, "O I"]:
        """The float32 weight that the buffers stand for."""

    @abstractmethod
    def options(self) -> dict[str, Any]:
        """What its constructor was given besides the layer."""

    @property
    def buffers_of_weight(self) -> tuple[Tensor, ...]:
        """The weight as it is stored."""
        return tuple(getattr(self, name) for name in self.store)

    @property
    def weight(self) -> Float[Tensor, "O I"]:
        """The float32 weight, made anew at every call."""
        return self.decode(*self.buffers_of_weight)

    @property
    def weight_dtype(self) -> torch.dtype:
        """Of `weight`."""
        return torch.float32

    @property
    def weight_bytes(self) -> int:
        """Bytes that the stored weight takes."""
        return sum(buffer.nbytes for buffer in self.buffers_of_weight)

    def set_weight(self, weight: Float[Tensor, "O I"]) -> None:
        """Quantize this weight and store it instead."""
        for name, buffer in zip(self.store, self.encode(weight.detach().float()), strict=True):
            setattr(self, name, buffer)

    def forward(self, x: Float[Tensor, "... I"]) -> Float[Tensor, "... O"]:
        return _FrozenProduct.apply(x, self.bias, self.decode, *self.buffers_of_weight)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "QuantizedLinear":
        """`model.to(torch.bfloat16)` must not round the scales."""
        kept = {name: getattr(self, name) for name in self.exact}
        super()._apply(fn, recurse)
        for name, buffer in kept.items():
            moved = getattr(self, name)
            if moved.dtype != buffer.dtype:
                setattr(
                    self,
                    name,
                    buffer.to(moved.device) if not buffer.is_meta else torch.empty_like(buffer, device=moved.device),
                )
        return self

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}, bias={self.bias is not None}, {self.method}"


class _FrozenProduct(torch.autograd.Function):
    """x @ W.T + bias; backward makes W float a second time instead of keeping it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, bias: Tensor | None, decode: Callable[..., Tensor], *buffers: Tensor) -> Tensor:
        kind = x.device.type
        work = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
        ctx.decode, ctx.work, ctx.dtype = decode, work, x.dtype
        ctx.save_for_backward(*buffers)
        with torch.autocast(kind, enabled=False):
            return F.linear(x.to(work), decode(*buffers).to(work), None if bias is None else bias.to(work))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        buffers = ctx.saved_tensors
        nothing = (None,) * (2 + len(buffers))
        if not ctx.needs_input_grad[0]:
            return None, *nothing
        with torch.autocast(grad.device.type, enabled=False):
            grad_x = grad.to(ctx.work) @ ctx.decode(*buffers).to(ctx.work)
        return grad_x.to(ctx.dtype), *nothing


class Nf4Linear(QuantizedLinear):
    """A frozen layer of NF4 weights, two to a byte, by default with double-quantized scales.

    >>> linear = nn.Linear(64, 32, bias=False)
    >>> Nf4Linear.from_linear(linear).weight_bytes, linear.weight.nbytes  # 0.5 + 1/64 bytes a weight, 8 for 32 blocks
    (1064, 8192)

    Raises: ValueError for a block below 1 or weights that are not finite.
    Source: QLoRA, arXiv:2305.14314, section 3.
    """

    method = "nf4"

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: Tensor | None = None,
        *,
        weight: Tensor | None = None,
        block: int = BLOCK,
        double: bool = True,
    ) -> None:
        super().__init__(in_features, out_features, bias)
        self.block, self.double = block, double
        for name, buffer in zip(self.store, self._start() if weight is None else self.encode(weight.detach())):
            self.register_buffer(name, buffer)

    @property
    def store(self) -> tuple[str, ...]:
        return ("packed", "scales", "scale_max", "scale_mean") if self.double else ("packed", "scales")

    @property
    def exact(self) -> tuple[str, ...]:
        return self.store[2:] if self.double else ("scales",)

    def options(self) -> dict[str, Any]:
        return {"block": self.block, "double": self.double}

    def _start(self) -> tuple[Tensor, ...]:
        """Buffers of the right size for weights that are yet to be loaded."""
        count = self.in_features * self.out_features
        n_blocks = -(-count // self.block)
        packed = torch.zeros(-(-count // 2), dtype=torch.uint8)
        if not self.double:
            return packed, torch.zeros(n_blocks)
        n_groups = -(-n_blocks // SCALE_BLOCK)
        return packed, torch.zeros(n_blocks, dtype=torch.uint8), torch.zeros(n_groups), torch.zeros(())

    def encode(self, weight: Tensor) -> tuple[Tensor, ...]:
        made = pack_nf4(weight, self.block, double=self.double)
        return (
            (made.packed, made.scales, made.scale_max, made.scale_mean) if self.double else (made.packed, made.scales)
        )

    def decode(
        self, packed: Tensor, scales: Tensor, scale_max: Tensor | None = None, mean: Tensor | None = None
    ) -> Tensor:
        shape = (self.out_features, self.in_features)
        return PackedNf4(packed, scales, scale_max, mean, shape, self.block).dequantize()

    @classmethod
    def from_linear(cls, linear: nn.Linear, *, block: int = BLOCK, double: bool = True) -> "Nf4Linear":
        """The layer's weights, quantized where they are; its bias, copied."""
        made = cls(
            linear.in_features, linear.out_features, linear.bias, weight=linear.weight, block=block, double=double
        )
        return made.train(linear.training)


class Int8Linear(QuantizedLinear):
    """A frozen layer of int8 weights with one float32 scale per output.

    >>> linear = nn.Linear(64, 32, bias=False)
    >>> Int8Linear.from_linear(linear).weight_bytes
    2176

    Source: LLM.int8(), arXiv:2208.07339, section 2.1, without the outliers' 16-bit part.
    """

    method = "int8"
    store = ("codes", "scales")
    exact = ("scales",)

    def __init__(
        self, in_features: int, out_features: int, bias: Tensor | None = None, *, weight: Tensor | None = None
    ) -> None:
        super().__init__(in_features, out_features, bias)
        if weight is None:
            buffers = torch.zeros(out_features, in_features, dtype=torch.int8), torch.ones(out_features, 1)
        else:
            buffers = self.encode(weight.detach())
        for name, buffer in zip(self.store, buffers):
            self.register_buffer(name, buffer)

    def options(self) -> dict[str, Any]:
        return {}

    def encode(self, weight: Tensor) -> tuple[Tensor, ...]:
        return quantize_int8(weight.float())

    def decode(self, codes: Tensor, scales: Tensor) -> Tensor:
        return codes * scales

    @classmethod
    def from_linear(cls, linear: nn.Linear) -> "Int8Linear":
        """The layer's weights, quantized where they are; its bias, copied."""
        made = cls(linear.in_features, linear.out_features, linear.bias, weight=linear.weight)
        return made.train(linear.training)


METHODS: dict[str, type[QuantizedLinear]] = {"nf4": Nf4Linear, "int8": Int8Linear}


def quantize_model(
    model: nn.Module, targets: str | Sequence[str] = "all-linear", method: Method = "nf4", **options: Any
) -> list[str]:
    """Swap the matching linear layers, in place, for frozen quantized ones; their paths.

    Targets are named as for `llmcore.lora.inject`; "all-linear" is every linear layer but the output head. Norms,
    embeddings and the head keep their dtype. `options` are the layer's: block and double for NF4.

    >>> model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))
    >>> quantize_model(model, ["0"])
    ['0']

    Raises: ValueError, the model untouched, for an unknown method, a target that matches nothing, a layer whose weight is
        shared, or weights that are not finite.
    Source: QLoRA, arXiv:2305.14314.  Taught in: 06_lora.
    """
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got {method!r}")
    found = find_layers(model, targets, lambda module: isinstance(module, nn.Linear))
    made = {path: METHODS[method].from_linear(layer, **options) for path, layer in found.items()}
    replace_modules(model, {id(found[path]): layer for path, layer in made.items()})
    return list(found)


__all__ = ["METHODS", "Int8Linear", "Method", "Nf4Linear", "QuantizedLinear", "quantize_model"]
