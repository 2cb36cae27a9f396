"""`LoraAdapter`, a low-rank update, and `LoraLinear`, a frozen layer that carries one or several.

y = x W^T + bias + scale (x A^T) B^T: the product B A is never formed but for merging. DoRA also gives every output a
magnitude m that is learned apart: y = bias + m / |W + scale B A| (x W^T + scale (x A^T) B^T), the norm of each row taken
as a constant in the backward pass, as the paper does (section 4.3).

Taught in: 06_lora.
"""

# Shapes: I inputs, O outputs, r rank.
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from llmcore.lora.bases import (
    is_adaptable,
    is_conv1d,
    layer_sizes,
    read_weight,
    restore_weight,
    stored_weight,
    wide_dtype,
    write_weight,
)  # fmt: skip
from llmcore.lora.config import check_adapter, update_scale
from llmcore.quantize.linear import QuantizedLinear

SMALLEST_NORM = 1e-12
DEFAULT = "default"


class LoraAdapter(nn.Module):
    """The update scale * B A of one layer: A (r, in) starts Gaussian with std 1 / sqrt(in), B (out, r) starts zero.

    Source: LoRA, arXiv:2106.09685, section 4.1; DoRA, arXiv:2402.09353, equation 5.
    """

    def __init__(
        self,
        base: nn.Module,
        rank: int,
        alpha: int | float,
        dropout: int | float = 0.0,
        rank_stabilized: bool = False,
        dora: bool = False,
        *,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        check_adapter(rank, alpha, dropout)
        n_in, n_out = layer_sizes(base)
        if rank > min(n_in, n_out):
            raise ValueError(
                f"rank must be at most {min(n_in, n_out)} for a layer of {n_in} inputs and {n_out} outputs, got {rank}; "
                "beyond that an update has no more freedom: use a lower rank, or train the layer itself"
            )
        self.rank, self.alpha, self.dropout, self.rank_stabilized = rank, alpha, dropout, rank_stabilized
        device, dtype = _place(base)
        self.lora_a = nn.Parameter(torch.empty(rank, n_in, device=device, dtype=dtype))
        self.lora_b = nn.Parameter(torch.zeros(n_out, rank, device=device, dtype=dtype))
        if device.type != "meta":
            start = torch.empty(rank, n_in, dtype=dtype).normal_(0, n_in**-0.5, generator=generator)
            self.lora_a.data.copy_(start)
        self.magnitude = None
        if dora:
            norms = read_weight(base).detach().to(dtype).norm(dim=1)
            self.magnitude = nn.Parameter(norms)

    @property
    def dora(self) -> bool:
        """Whether it learns magnitudes."""
        return self.magnitude is not None

    @property
    def scale(self) -> float:
        """What B A is multiplied by."""
        return update_scale(self.rank, self.alpha, self.rank_stabilized)

    def forward(self, x: Float[Tensor, "... I"], y: Float[Tensor, "... O"], base: nn.Module) -> Float[Tensor, "... O"]:
        """The base's output y for x, with the update added."""
        dropped = F.dropout(x, self.dropout, self.training) if self.dropout else x
        if self.magnitude is None:
            return add_update(y, dropped, self.lora_a, self.lora_b, self.scale)
        bias = base.bias
        plain = y if bias is None else y - bias
        gain = self.gain(read_weight(base)).to(y.dtype)
        if dropped is x:
            rescaled = gain * add_update(plain, x, self.lora_a, self.lora_b, self.scale)
            return rescaled if bias is None else rescaled + bias
        seen = base(dropped) if bias is None else base(dropped) - bias
        return y + gain * add_update(seen, dropped, self.lora_a, self.lora_b, self.scale) - seen

    def delta(self) -> Float[Tensor, "O I"]:
        """scale * B A, without DoRA's rescaling."""
        return self.scale * (self.lora_b @ self.lora_a)

    def gain(self, weight: Float[Tensor, "O I"]) -> Float[Tensor, "O"]:
        """m / |W + scale B A| of each output; the norm has no gradient.

        |W + s B A|^2 = |W|^2 + 2 s (W A^T) . B + s^2 (B A A^T) . B, row by row, so that B A need not be formed.
        """
        with torch.no_grad():
            a, b = self.lora_a, self.lora_b
            w = weight.to(a.dtype)
            mixed = 2 * self.scale * (w @ a.T) + self.scale**2 * (b @ (a @ a.T))
            squares = torch.linalg.vector_norm(w, dim=1).square() + (mixed * b).sum(dim=1)
            norms = squares.clamp_min(SMALLEST_NORM**2).sqrt()
        return self.magnitude / norms

    def apply_to(self, weight: Float[Tensor, "O I"]) -> Float[Tensor, "O I"]:
        """The weight with the update in it, in the weight's dtype, differentiable."""
        updated = weight + self.delta().to(weight.dtype)
        return updated if self.magnitude is None else self.gain(weight).to(weight.dtype)[:, None] * updated

    def extra_repr(self) -> str:
        kind = "dora, " if self.dora else ""
        return f"{kind}rank={self.rank}, scale={self.scale:.4g}" + (f", dropout={self.dropout}" if self.dropout else "")


def add_update(
    y: Float[Tensor, "... O"],
    x: Float[Tensor, "... I"],
    a: Float[Tensor, "r I"],
    b: Float[Tensor, "O r"],
    scale: int | float,
) -> Float[Tensor, "... O"]:
    """y + scale (x A^T) B^T in y's dtype; the product is taken in A's dtype, or autocast's where that is on."""
    if torch.is_autocast_enabled(x.device.type) or x.dtype == y.dtype == a.dtype:
        hidden = F.linear(x, a)
        # Scaling and adding happen inside the product.
        return torch.addmm(y.reshape(-1, len(b)), hidden.reshape(-1, len(a)), b.t(), alpha=scale).view(y.shape)
    return y + (F.linear(F.linear(x.to(a.dtype), a), b) * scale).to(y.dtype)


def _place(base: nn.Module) -> tuple[torch.device, torch.dtype]:
    """Where an adapter of this layer is made, and its dtype: float32, float64 beside a float64 weight."""
    held = base.buffers_of_weight[0] if isinstance(base, QuantizedLinear) else base.weight
    return held.device, wide_dtype(base)


class LoraLinear(nn.Module):
    """A frozen linear layer with adapters; those that are active add their updates.

    `weight` is what the layer multiplies by, updates included, so that code which reads a layer's weight instead of
    calling it (a tied head, an absorbed projection) sees the adapted one. Dropout is not part of it.

    >>> layer = LoraLinear(nn.Linear(4, 3), r=2, alpha=4)
    >>> x = torch.ones(1, 4)
    >>> torch.equal(layer(x), layer.base(x)), sorted(name for name, p in layer.named_parameters() if p.requires_grad)
    (True, ['adapters.default.lora_a', 'adapters.default.lora_b'])

    Raises: ValueError for r below 1 or above what the layer has, alpha that is not positive, dropout outside [0, 1), or a
        layer of another kind; RuntimeError for merging when merged, unmerging when not.
    Source: LoRA, arXiv:2106.09685.  Taught in: 06_lora.
    """

    def __init__(
        self,
        linear: nn.Module,
        r: int | None = None,
        alpha: int | float | None = None,
        dropout: int | float = 0.0,
        rank_stabilized: bool = False,
        *,
        dora: bool = False,
        adapter: str = DEFAULT,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if not is_adaptable(linear):
            raise ValueError(f"an adapter needs a linear layer, got {type(linear).__name__}")
        weight = getattr(linear, "weight_dtype", None) or linear.weight.dtype
        if not weight.is_floating_point:
            raise ValueError(
                f"the layer's weight is {weight}: quantized by another library; take its float weights, or llmcore.quantize"
            )
        self.in_features, self.out_features = layer_sizes(linear)
        self.base = linear
        self.adapters = nn.ModuleDict()
        self.active: tuple[str, ...] = ()
        self._merged: tuple[str, ...] | None = None
        self._kept: Any = None
        if r is not None:
            options = (r, 2.0 * r if alpha is None else alpha, dropout, rank_stabilized, dora)
            self.adapters[adapter] = LoraAdapter(linear, *options, generator=generator)
            self.active = (adapter,)
        for parameter in linear.parameters():
            parameter.requires_grad_(False)
        self.train(linear.training)

    @property
    def merged(self) -> tuple[str, ...] | None:
        """The adapters whose updates are in the base's weight; None when it is the base's own."""
        return self._merged

    @property
    def bias(self) -> Tensor | None:
        """The base's."""
        return self.base.bias

    @property
    def weight(self) -> Float[Tensor, "O I"]:
        """What the layer multiplies by, laid out as the base's weight is."""
        plain = self.base.weight
        if self._merged is not None or not self.active:
            return plain
        weight = self._updated(read_weight(self.base)).to(plain.dtype)
        return weight.t() if is_conv1d(self.base) else weight

    def _updated(self, weight: Tensor, dtype: torch.dtype | None = None) -> Float[Tensor, "O I"]:
        weight = weight.to(dtype or wide_dtype(self.base))
        for name in self.active:
            weight = self.adapters[name].apply_to(weight)
        return weight

    @property
    def lora_a(self) -> Float[Tensor, "r I"]:
        """A of the only active adapter."""
        return self._only().lora_a

    @property
    def lora_b(self) -> Float[Tensor, "O r"]:
        """B of the only active adapter."""
        return self._only().lora_b

    def _only(self) -> LoraAdapter:
        if len(self.active) != 1:
            raise RuntimeError(f"{len(self.active)} adapters are active: name the one you mean, layer.adapters[name]")
        return self.adapters[self.active[0]]

    def forward(self, x: Float[Tensor, "... I"]) -> Float[Tensor, "... O"]:
        y = self.base(x)
        if self._merged is None:
            for name in self.active:
                y = self.adapters[name](x, y, self.base)
        return y

    def set_active(self, names: tuple[str, ...]) -> None:
        """Let these adapters act and no others; names that this layer has not are passed over.

        Raises: RuntimeError while updates are merged; ValueError when a DoRA adapter would act beside another.
        """
        own = tuple(name for name in names if name in self.adapters)
        if self._merged is not None and own != self.active:
            raise RuntimeError(f"adapter {', '.join(self._merged)} is merged into the weight; unmerge it first")
        self.check_together(own)
        self.active = own

    def check_together(self, names: tuple[str, ...]) -> None:
        """Raise ValueError when these adapters cannot act together."""
        if len(names) > 1 and any(self.adapters[name].dora for name in names):
            raise ValueError(
                f"a DoRA adapter rescales the whole weight and acts alone, got {', '.join(names)}; merge one of them first"
            )

    @torch.no_grad()
    def merge(self, *, keep_base: bool = False) -> None:
        """Write the active updates into the base's weight, added in float32; `forward` then costs what the base costs.

        With `keep_base` a copy of the weight is kept, so that `unmerge` restores every bit. Of quantized weights and
        under DoRA it always is.

        Raises: RuntimeError when merged already; ValueError, nothing changed, when the result is not finite.
        """
        if self._merged is not None:
            raise RuntimeError("the layer is merged already; unmerge it first")
        updated = self._updated(read_weight(self.base))
        if not updated.isfinite().all():
            raise ValueError("the update is not finite, so it was not merged; load an earlier adapter")
        if self.active:
            always = isinstance(self.base, QuantizedLinear) or any(self.adapters[name].dora for name in self.active)
            self._kept = stored_weight(self.base) if keep_base or always else None
            write_weight(self.base, updated)
        self._merged = self.active

    @torch.no_grad()
    def unmerge(self) -> None:
        """Take the updates out of the base's weight again: to the last bit where a copy was kept, else up to rounding.

        Raises: RuntimeError when not merged.
        """
        if self._merged is None:
            raise RuntimeError("the layer is not merged; there is nothing to take out")
        if self._kept is not None:
            restore_weight(self.base, self._kept)
        elif self._merged:
            wide = read_weight(self.base).to(wide_dtype(self.base))
            write_weight(self.base, wide - sum(self.adapters[name].delta().to(wide.dtype) for name in self._merged))
        self._merged, self._kept = None, None

    @torch.no_grad()
    def merging_error(self) -> float:
        """How much of the update merging would lose: |stored - exact| / |update|, Frobenius; 0 without an update.

        float32 loses next to nothing; bfloat16 and 4-bit weights are coarser than a small update is long.
        """
        weight = read_weight(self.base)
        exact = self._updated(weight, torch.float64)
        size = (exact - weight).norm()
        if not size:
            return 0.0
        merged = self._updated(weight)
        if isinstance(self.base, QuantizedLinear):
            stored = self.base.decode(*self.base.encode(merged))
        else:
            stored = merged.to(self.base.weight.dtype)
        return ((stored - exact).norm() / size).item()

    def extra_repr(self) -> str:
        return f"active={list(self.active)}" + ("" if self._merged is None else ", merged")
