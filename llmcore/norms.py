"""Norms: LayerNorm, RMSNorm and their kin, where they sit in a residual block, and the initial scales that go with them.

Every norm accumulates in float32 (float64 for float64 input), the affine part included, and rounds once to the input's dtype.
PyTorch's fused routines are used where they are the same thing.

Taught in: 03_norms.
"""

import math
from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

ResidualStyle = Literal["pre", "post", "double", "deep"]
RESIDUAL_STYLES: tuple[ResidualStyle, ...] = ("pre", "post", "double", "deep")


def _wide(x: Tensor) -> Tensor:
    """x in the dtype that norms accumulate in."""
    return x if x.dtype == torch.float64 else x.float()


def _wide_or_none(x: Tensor | None, like: Tensor) -> Tensor | None:
    return None if x is None else x.to(like.dtype)


def layer_norm(
    x: Float[Tensor, "... E"], weight: Float[Tensor, "E"] | None, bias: Float[Tensor, "E"] | None, eps: float = 1e-5
) -> Float[Tensor, "... E"]:
    """(x - mean) / sqrt(variance + eps) * weight + bias over the last dim; biased variance.

    >>> layer_norm(torch.tensor([1.0, 3.0]), torch.tensor([2.0, 2.0]), torch.tensor([1.0, 1.0]), eps=0.0).tolist()
    [-1.0, 3.0]

    Source: Layer Normalization, arXiv:1607.06450, eq. 4.  Taught in: 03_norms.
    """
    if weight is not None and weight.dtype == x.dtype:  # torch's kernel widens inside and rounds once
        return F.layer_norm(x, (x.shape[-1],), weight, bias, eps).to(x.dtype)
    wide = _wide(x)
    y = F.layer_norm(wide, (x.shape[-1],), _wide_or_none(weight, wide), _wide_or_none(bias, wide), eps)
    return y.to(x.dtype)


def rms_norm(
    x: Float[Tensor, "... E"], weight: Float[Tensor, "E"] | None = None, eps: float = 1e-6, unit_offset: bool = False
) -> Float[Tensor, "... E"]:
    """x / sqrt(mean(x^2) + eps) * weight over the last dim; the mean is not removed.

    `unit_offset` multiplies by 1 + weight instead (Gemma), added in float32.

    >>> rms_norm(torch.tensor([3.0, 4.0]), torch.tensor([1.0, 2.0]), eps=0.0).tolist()
    [0.8485281467437744, 2.262741804122925]

    Source: Root Mean Square Layer Normalization, arXiv:1910.07467, eq. 4.  Taught in: 03_norms.
    """
    if x.is_cuda and weight is not None and weight.dtype == x.dtype and not unit_offset:
        return F.rms_norm(x, (x.shape[-1],), weight, eps).to(x.dtype)  # one kernel, which widens inside and rounds once
    wide = _wide(x)
    gain = _wide_or_none(weight, wide)
    if unit_offset and gain is not None:
        gain = 1 + gain
    # PyTorch has no fused RMSNorm for the CPU, and these five small operations beat its composite one twofold.
    y = wide * torch.rsqrt((wide * wide).mean(dim=-1, keepdim=True) + eps)
    return (y if gain is None else y * gain).to(x.dtype)


def partial_rms_norm(
    x: Float[Tensor, "... E"], weight: Float[Tensor, "E"], fraction: float, eps: float = 1e-6
) -> Float[Tensor, "... E"]:
    """RMSNorm whose root mean square is estimated from the first `fraction` of the features (rounded up).

    Raises: ValueError unless 0 < fraction <= 1.
    Source: Root Mean Square Layer Normalization, arXiv:1910.07467, section 4 (pRMSNorm).  Taught in: 03_norms.
    """
    if not 0 < fraction <= 1:
        raise ValueError(f"fraction of features must be in (0, 1], got {fraction}")
    wide = _wide(x)
    sample = wide[..., : math.ceil(fraction * x.shape[-1])]
    return (wide * torch.rsqrt(sample.square().mean(dim=-1, keepdim=True) + eps) * weight.to(wide.dtype)).to(x.dtype)


def rms_norm_backward(
    dy: Float[Tensor, "... E"], x: Float[Tensor, "... E"], weight: Float[Tensor, "E"], eps: float = 1e-6
) -> tuple[Float[Tensor, "... E"], Float[Tensor, "E"]]:
    """(dx, dweight) of `rms_norm`, by hand: r depends on every feature, so dx loses its component along x.

    Taught in: 03_norms.
    """
    wide, dy_wide = _wide(x), _wide(dy)
    inv_rms = torch.rsqrt(wide.square().mean(dim=-1, keepdim=True) + eps)
    x_hat = wide * inv_rms
    g = dy_wide * weight.to(wide.dtype)
    dx = inv_rms * (g - x_hat * (g * x_hat).mean(dim=-1, keepdim=True))
    dweight = (dy_wide * x_hat).flatten(0, -2).sum(dim=0) if x.ndim > 1 else dy_wide * x_hat
    return dx.to(x.dtype), dweight.to(weight.dtype)


def batch_norm_train(
    x: Float[Tensor, "B E"],
    weight: Float[Tensor, "E"],
    bias: Float[Tensor, "E"],
    running_mean: Float[Tensor, "E"],
    running_var: Float[Tensor, "E"],
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> tuple[Float[Tensor, "B E"], Float[Tensor, "E"], Float[Tensor, "E"]]:
    """(y, new running mean, new running variance): each feature normalised over the batch.

    y uses the biased variance, the running one is unbiased; the running statistics carry no gradient and the arguments
    are left as they were.

    Raises: ValueError for fewer than two rows, whose variance is not defined.
    Source: Batch Normalization, arXiv:1502.03167, algorithm 1.  Taught in: 03_norms.
    """
    if x.ndim != 2 or x.shape[0] < 2:
        raise ValueError(f"batch norm needs x (batch, features) with at least two rows, got {tuple(x.shape)}")
    wide = _wide(x)
    mean, var = wide.mean(dim=0), wide.var(dim=0, unbiased=False)
    y = (wide - mean) * torch.rsqrt(var + eps) * weight.to(wide.dtype) + bias.to(wide.dtype)
    unbiased = var.detach() * (x.shape[0] / (x.shape[0] - 1))
    new_mean = running_mean + momentum * (mean.detach().to(running_mean.dtype) - running_mean)
    new_var = running_var + momentum * (unbiased.to(running_var.dtype) - running_var)
    return y.to(x.dtype), new_mean, new_var


def weight_norm(direction: Float[Tensor, "N E"], gain: Float[Tensor, "N"]) -> Float[Tensor, "N E"]:
    """A weight matrix (out, in) whose rows have the lengths `gain` and the directions of `direction`.

    Source: Weight Normalization, arXiv:1602.07868, eq. 2.  Taught in: 03_norms.
    """
    return gain[:, None] * direction / direction.norm(dim=1, keepdim=True)


def residual(
    x: Float[Tensor, "..."],
    f: Callable[[Tensor], Tensor],
    norm: Callable[[Tensor], Tensor],
    style: ResidualStyle,
    alpha: float = 1.0,
) -> Float[Tensor, "..."]:
    """One residual step: pre x + f(norm(x)), post norm(x + f(x)), double x + norm(f(norm(x))), deep norm(alpha x + f(x)).

    >>> residual(torch.tensor(3.0), lambda x: 2 * x, lambda x: x - 1, "pre").item()
    7.0

    Raises: ValueError for another style.
    Source: pre and post: arXiv:2002.04745; double: Gemma 2, arXiv:2408.00118; deep: arXiv:2203.00555.  Taught in: 03_norms.
    """
    if style == "pre":
        return x + f(norm(x))
    if style == "post":
        return norm(x + f(x))
    if style == "double":
        return x + norm(f(norm(x)))
    if style == "deep":
        return norm(alpha * x + f(x))
    raise ValueError(f"residual style must be one of {', '.join(RESIDUAL_STYLES)}, got {style!r}")


def qk_norm_scores(
    q: Float[Tensor, "... T D"],
    k: Float[Tensor, "... S D"],
    q_weight: Float[Tensor, "D"],
    k_weight: Float[Tensor, "D"],
    softcap: float | None = None,
) -> Float[Tensor, "... T S"]:
    """Attention scores of RMS-normalised queries and keys over sqrt(D), then softcap * tanh(scores / softcap).

    float32 inside, output in q's dtype, eps 1e-6.

    Source: Query-Key Normalization, arXiv:2010.04245; soft-cap: Gemma 2, arXiv:2408.00118.  Taught in: 03_norms.
    """
    wide_q, wide_k = rms_norm(_wide(q), q_weight), rms_norm(_wide(k), k_weight)
    scores = wide_q @ wide_k.transpose(-2, -1) / math.sqrt(q.shape[-1])
    return soft_cap(scores, softcap).to(q.dtype)


def soft_cap(x: Float[Tensor, "..."], cap: float | None) -> Float[Tensor, "..."]:
    """x squeezed into (-cap, cap) by cap * tanh(x / cap); x itself when cap is None.

    Source: Gemma 2, arXiv:2408.00118, section 2.  Taught in: 02_attention_scaling, 03_norms.
    """
    return x if cap is None else cap * torch.tanh(x / cap)


def init_std(kind: Literal["xavier", "kaiming"], fan_in: int, fan_out: int, gain: float = 1.0) -> float:
    """Standard deviation of a normal start: xavier gain * sqrt(2 / (fan_in + fan_out)), kaiming gain / sqrt(fan_in).

    >>> init_std("kaiming", 4, 100)
    0.5

    Raises: ValueError for another kind.
    Source: Glorot and Bengio 2010; He et al., arXiv:1502.01852.  Taught in: 03_norms.
    """
    if kind == "xavier":
        return gain * math.sqrt(2 / (fan_in + fan_out))
    if kind == "kaiming":
        return gain / math.sqrt(fan_in)
    raise ValueError(f"init kind must be 'xavier' or 'kaiming', got {kind!r}")


def residual_init_std(base_std: float, n_layers: int) -> float:
    """base_std / sqrt(2 n_layers): the start of the two projections per layer that write into the residual stream.

    >>> residual_init_std(0.02, 2)
    0.01

    Source: Language Models are Unsupervised Multitask Learners (GPT-2), section 2.3.  Taught in: 03_norms.
    """
    return base_std / math.sqrt(2 * n_layers)


def deepnorm_constants(n_layers: int) -> tuple[float, float]:
    """(alpha, beta) of DeepNorm for a decoder: the residual is multiplied by alpha, the start of v, o and FFN weights by beta.

    >>> deepnorm_constants(8)
    (2.0, 0.3535533905932738)

    Source: DeepNet, arXiv:2203.00555, figure 2 (decoder-only).  Taught in: 03_norms.
    """
    return (2 * n_layers) ** 0.25, (8 * n_layers) ** -0.25


class LayerNorm(nn.Module):
    """LayerNorm over the last dim with a weight and, unless bias=False, a bias; see `layer_norm`."""

    def __init__(self, width: int, eps: float = 1e-5, bias: bool = True) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width)) if bias else None

    def forward(self, x: Float[Tensor, "... E"]) -> Float[Tensor, "... E"]:
        return layer_norm(x, self.weight, self.bias, self.eps)

    def extra_repr(self) -> str:
        return f"{self.weight.numel()}, eps={self.eps}, bias={self.bias is not None}"


class RMSNorm(nn.Module):
    """RMSNorm over the last dim with a weight; see `rms_norm`. unit_offset stores the weight around 0 and applies 1 + weight."""

    def __init__(self, width: int, eps: float = 1e-6, unit_offset: bool = False) -> None:
        super().__init__()
        self.eps = eps
        self.unit_offset = unit_offset
        self.weight = nn.Parameter(torch.zeros(width) if unit_offset else torch.ones(width))

    def forward(self, x: Float[Tensor, "... E"]) -> Float[Tensor, "... E"]:
        return rms_norm(x, self.weight, self.eps, self.unit_offset)

    def extra_repr(self) -> str:
        return f"{self.weight.numel()}, eps={self.eps}" + (", unit_offset=True" if self.unit_offset else "")
