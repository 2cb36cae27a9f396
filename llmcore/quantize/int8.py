"""Eight-bit tensors: symmetric, one scale per row (absmax), or affine, with a zero point that makes 0 exact.

Taught in: 06_lora.
"""

import math

import torch
from jaxtyping import Float, Int8
from torch import Tensor

LARGEST = 127


def quantize_int8(x: Float[Tensor, "..."], dim: int = -1) -> tuple[Int8[Tensor, "..."], Float[Tensor, "..."]]:
    """(codes in -127..127, scale): each slice along `dim` is divided by max|x| / 127 and rounded, half to even.

    The scale keeps `dim` with length 1, in float32 (float64 for float64 input). A slice of zeros has scale 1 and stays
    zero. The error is at most scale / 2.

    >>> codes, scale = quantize_int8(torch.tensor([[1.0, -2.54], [0.0, 0.0]]))
    >>> codes.tolist(), scale[:, 0].tolist()
    ([[50, -127], [0, 0]], [0.019999999552965164, 1.0])

    Raises: ValueError when x is not floating point or has a value that is not finite.
    Source: LLM.int8(), arXiv:2208.07339, section 2.1.  Taught in: 06_lora.
    """
    check_finite(x)
    x = x if x.dtype == torch.float64 else x.float()
    if x.ndim and x.shape[dim] == 0:
        shape = list(x.shape)
        shape[dim] = 1
        return x.to(torch.int8), x.new_ones(shape)
    absmax = x.abs().amax(dim=dim, keepdim=True)
    scale = absmax / LARGEST
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))
    return (x / scale).round().clamp(-LARGEST, LARGEST).to(torch.int8), scale


def dequantize_int8(codes: Int8[Tensor, "..."], scale: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """codes * scale, in the scale's dtype.

    >>> dequantize_int8(torch.tensor([[50, -127]], dtype=torch.int8), torch.tensor([[0.5]])).tolist()
    [[25.0, -63.5]]

    Taught in: 06_lora.
    """
    return codes.to(scale.dtype) * scale


def affine_quantize(x: Float[Tensor, "..."], q_min: int = -128, q_max: int = 127) -> tuple[Tensor, float, int]:
    """(codes, scale, zero point) with codes = clamp(round(x / scale) + zero point): the whole of q_min..q_max is used.

    The range of x is widened to include 0, which is therefore exact. Codes are int8 when q_min..q_max fits, else int32.
    A constant tensor comes back as itself.

    >>> codes, scale, zero = affine_quantize(torch.tensor([0.0, 1.0, 5.1]), 0, 255)
    >>> codes.tolist(), round(scale, 4), zero
    ([0, 50, 255], 0.02, 0)

    Raises: ValueError when q_min is not below q_max, or x is not floating point or has a value that is not finite.
    Source: arXiv:1712.05877, section 2.1.  Taught in: 06_lora.
    """
    check_finite(x)
    if q_min >= q_max:
        raise ValueError(f"q_min must be below q_max, got {q_min} and {q_max}")
    low, high = (0.0, 0.0) if x.numel() == 0 else (min(0.0, x.min().item()), max(0.0, x.max().item()))
    scale = high / (q_max - q_min) - low / (q_max - q_min)  # no overflow on the way, as high - low might
    if x.numel() and (x == x.flatten()[0]).all():  # one step of the constant's own size brings it back
        value = abs(x.flatten()[0].item())
        scale = value or 1.0
        zero_point = q_max if low < 0 else q_min
    elif scale == 0 or not math.isfinite(scale):
        scale, zero_point = 1.0, min(max(0, q_min), q_max)
    else:
        zero_point = min(max(round(q_min - low / scale), q_min), q_max)
    fits = q_min >= -128 and q_max <= 127
    codes = ((x.double() / scale).round() + zero_point).clamp(q_min, q_max)
    return codes.to(torch.int8 if fits else torch.int32), scale, zero_point


def affine_dequantize(codes: Tensor, scale: float, zero_point: int) -> Float[Tensor, "..."]:
    """(codes - zero point) * scale, in float32.

    >>> affine_dequantize(torch.tensor([0, 50, 255]), 0.02, 0).tolist()
    [0.0, 1.0, 5.099999904632568]

    Taught in: 06_lora.
    """
    return ((codes.double() - zero_point) * scale).float()


def check_finite(x: Tensor) -> None:
    """Raise ValueError when x is not floating point or has a value that is not finite."""
    if not x.is_floating_point():
        raise ValueError(f"x must be floating point, got {x.dtype}; call .float() first")
    if not x.isfinite().all():
        raise ValueError("x has values that are not finite: they have no code; look for what made them")
