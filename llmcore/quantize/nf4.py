"""NF4: four bits a weight, for weights that are normally distributed, with scales that are quantized again.

Weights are cut into blocks of 64 in row-major order. A block is divided by its largest absolute value and every weight
becomes the index of the nearest of 16 fixed values: the quantiles of a normal distribution, moved so that 0 is one of
them. Double quantization stores each block's scale in 8 bits, 256 scales to a float32.

Two forms: `quantize_nf4` gives one code a byte, as a lesson shows it; `pack_nf4` stores two codes a byte, the first in
the high half, and the scales in 8 bits: what bitsandbytes stores, bit for bit.

Source: QLoRA, arXiv:2305.14314, section 3 and appendix E.  Taught in: 06_lora.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from llmcore.quantize.int8 import check_finite

BLOCK = 64
"""Weights that share a scale."""
SCALE_BLOCK = 256
"""Scales that share a scale of their own."""

# As published, arXiv:2305.14314, appendix E.
NF4_VALUES = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453,
    -0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0,
    0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
)  # fmt: skip


def nf4_codebook() -> Float[Tensor, "16"]:
    """The 16 values of NF4 in ascending order: -1 first, an exact 0 at index 7, 1 last.

    They are quantiles of the standard normal, eight above and seven below 0 at evenly spaced probabilities, 0 itself
    added, all divided by the largest; with eight on one side and seven on the other it is not symmetric.

    >>> nf4_codebook()[[0, 7, 8, 15]].tolist()
    [-1.0, 0.0, 0.07958029955625534, 1.0]

    Source: QLoRA, arXiv:2305.14314, equation 4 and appendix E.  Taught in: 06_lora.
    """
    return torch.tensor(NF4_VALUES)


@cache
def dynamic_codebook() -> Float[Tensor, "256"]:
    """The 256 values in which double quantization stores scales, ascending: seven decades, finest near 0, and 0 and 1.

    Decade e (1e-6 to 1) holds 2^e evenly spaced values of each sign.

    Source: 8-bit Optimizers via Block-wise Quantization, arXiv:2110.02861, section 2.2 (dynamic tree quantization).
    """
    values = [torch.tensor([0.0, 1.0])]
    for decade in range(7):
        edges = torch.linspace(0.1, 1, 2**decade + 1)
        middles = (edges[:-1] + edges[1:]) / 2 * 10.0 ** (decade - 6)
        values += [middles, -middles]
    return torch.cat(values).sort().values


def _nearest(x: Float[Tensor, "*shape"], codebook: Float[Tensor, "n"]) -> UInt8[Tensor, "*shape"]:
    """Index of the nearest value of an ascending code book; half-way, the lower one."""
    middles = ((codebook[:-1].double() + codebook[1:].double()) / 2).to(x.dtype).to(x.device)
    return torch.bucketize(x, middles, out_int32=True).to(torch.uint8)


def _blocks(x: Float[Tensor, "n"], block: int) -> Float[Tensor, "n_blocks block"]:
    """Cut into rows of `block` values, the last one filled up with zeros."""
    missing = -len(x) % block
    return torch.nn.functional.pad(x, (0, missing)).view(-1, block)


def quantize_nf4(w: Float[Tensor, "..."], block: int = BLOCK) -> tuple[UInt8[Tensor, "n"], Float[Tensor, "n_blocks"]]:
    """(codes 0..15, one a value, of the flattened tensor; float32 absmax of each block); the last block may be short.

    A block of zeros has absmax 0 and stays zero. Half-way between two values the lower code is taken.

    >>> codes, absmax = quantize_nf4(torch.tensor([3.0, 0.0, -1.0, 0.5]), block=2)
    >>> codes.tolist(), absmax.tolist()
    ([15, 7, 0, 12], [3.0, 1.0])

    Raises: ValueError for a block below 1, or w that is not floating point or not finite.
    Source: QLoRA, arXiv:2305.14314, section 3.  Taught in: 06_lora.
    """
    check_finite(w)
    _check_block(block)
    flat = w.reshape(-1).float()
    blocks = _blocks(flat, block)
    absmax = blocks.abs().amax(dim=1) if len(blocks) else flat.new_zeros(0)
    safe = torch.where(absmax > 0, absmax, torch.ones_like(absmax))
    codes = _nearest(blocks / safe[:, None], nf4_codebook())
    return codes.view(-1)[: len(flat)], absmax


def dequantize_nf4(
    codes: UInt8[Tensor, "n"], absmax: Float[Tensor, "n_blocks"], shape: Sequence[int], block: int = BLOCK
) -> Float[Tensor, "..."]:
    """Float32 tensor of that shape: the code's value times its block's absmax.

    >>> dequantize_nf4(torch.tensor([15, 7], dtype=torch.uint8), torch.tensor([3.0]), (2, 1), block=2).tolist()
    [[3.0], [0.0]]

    Raises: ValueError when codes, absmax and shape do not fit, or a code is above 15.
    Source: QLoRA, arXiv:2305.14314, section 3.  Taught in: 06_lora.
    """
    _check_block(block)
    count = math.prod(shape)
    if codes.numel() != count or absmax.numel() != -(-count // block):
        raise ValueError(
            f"shape {tuple(shape)} needs {count} codes and {-(-count // block)} blocks of {block}, "
            f"got {codes.numel()} and {absmax.numel()}"
        )
    if count and codes.max() > 15:
        raise ValueError(f"NF4 codes are 0..15, got {int(codes.max())}; packed codes go to unpack_codes first")
    values = _blocks(nf4_codebook().to(codes.device)[codes.reshape(-1).int()], block)
    return (values * absmax.reshape(-1, 1)).view(-1)[:count].reshape(tuple(shape))


def pack_codes(codes: UInt8[Tensor, "n"]) -> UInt8[Tensor, "half"]:
    """Two codes a byte, the first in the high four bits; an odd last one is alone, with a 0 beside it.

    >>> pack_codes(torch.tensor([1, 15, 7], dtype=torch.uint8)).tolist()
    [31, 112]

    Raises: ValueError for a code above 15.
    """
    codes = codes.reshape(-1)
    if codes.numel() and codes.max() > 15:
        raise ValueError(f"four-bit codes are 0..15, got {int(codes.max())}")
    pairs = torch.nn.functional.pad(codes, (0, len(codes) % 2)).view(-1, 2)
    return (pairs[:, 0] << 4) | pairs[:, 1]


def unpack_codes(packed: UInt8[Tensor, "half"], count: int) -> UInt8[Tensor, "n"]:
    """The first `count` codes of `pack_codes`' bytes.

    >>> unpack_codes(torch.tensor([31, 112], dtype=torch.uint8), 3).tolist()
    [1, 15, 7]

    Raises: ValueError when count does not fit the bytes.
    """
    if len(packed) != -(-count // 2):
        raise ValueError(f"{count} codes take {-(-count // 2)} bytes, got {len(packed)}")
    return torch.stack((packed >> 4, packed & 15), dim=1).view(-1)[:count]


@dataclass(frozen=True)
class PackedNf4:
    """A tensor in packed NF4. `scales` are 8-bit codes when `scale_max` is there, else the float32 absmax of each block."""

    packed: UInt8[Tensor, "half"]
    """Two codes a byte."""
    scales: Tensor
    """One a block."""
    scale_max: Float[Tensor, "n_groups"] | None
    """Absmax of each 256 scales, less their mean; None without double quantization."""
    scale_mean: Float[Tensor, ""] | None
    """What was taken from all scales before they were quantized."""
    shape: tuple[int, ...]
    """Of the tensor."""
    block: int = BLOCK
    """Weights that share a scale."""

    @property
    def nbytes(self) -> int:
        """Bytes that are stored."""
        parts = (self.packed, self.scales, self.scale_max, self.scale_mean)
        return sum(part.nbytes for part in parts if part is not None)

    def absmax(self) -> Float[Tensor, "n_blocks"]:
        """The scale of each block in float32."""
        if self.scale_max is None:
            return self.scales
        values = _blocks(dynamic_codebook().to(self.scales.device)[self.scales.int()], SCALE_BLOCK)
        return (values * self.scale_max[:, None]).view(-1)[: len(self.scales)] + self.scale_mean

    def dequantize(self, dtype: torch.dtype = torch.float32) -> Float[Tensor, "..."]:
        """The tensor, computed in float32 and rounded once to dtype."""
        count = math.prod(self.shape)
        # One look-up of 8 bytes for two values.
        pairs = _pair_table(self.packed.device).index_select(0, self.packed.int())
        flat = pairs.view(torch.float32)
        absmax = self.absmax()
        whole = count // self.block * self.block
        flat[:whole].view(-1, self.block).mul_(absmax[: whole // self.block, None])
        if whole < count:
            flat[whole:].mul_(absmax[-1])
        return flat[:count].view(self.shape).to(dtype)


@cache
def _pair_table(device: torch.device) -> Int64[Tensor, "256"]:
    """The two float32 values that a packed byte stands for, side by side in one integer's bits."""
    values = nf4_codebook()
    pairs = torch.stack((values.repeat_interleave(16), values.repeat(16)), dim=1)
    return pairs.view(torch.int64).view(-1).to(device)


def pack_nf4(w: Float[Tensor, "..."], block: int = BLOCK, *, double: bool = True) -> PackedNf4:
    """The tensor in packed NF4; `double` quantizes the scales too: 0.127 instead of 0.5 bits a weight for them.

    >>> w = torch.randn(64, 256, generator=torch.Generator().manual_seed(0))
    >>> 8 * pack_nf4(w, double=False).nbytes / w.numel(), round(8 * pack_nf4(w).nbytes / w.numel(), 3)
    (4.5, 4.129)

    Raises: ValueError for a block below 1, or w that is not floating point or not finite.
    Source: QLoRA, arXiv:2305.14314, section 3.  Taught in: 06_lora.
    """
    codes, absmax = quantize_nf4(w, block)
    packed, shape = pack_codes(codes), tuple(w.shape)
    if not double:
        return PackedNf4(packed, absmax, None, None, shape, block)
    mean = absmax.mean() if len(absmax) else absmax.new_zeros(())
    groups = _blocks(absmax - mean, SCALE_BLOCK)
    scale_max = groups.abs().amax(dim=1) if len(groups) else absmax
    safe = torch.where(scale_max > 0, scale_max, torch.ones_like(scale_max))
    scales = _nearest(groups / safe[:, None], dynamic_codebook()).view(-1)[: len(absmax)]
    return PackedNf4(packed, scales, scale_max, mean, shape, block)


def _check_block(block: int) -> None:
    if block < 1:
        raise ValueError(f"block must be at least 1, got {block}; QLoRA takes {BLOCK}")
