"""Where a token stands: sinusoids, rotary embeddings (RoPE) with the published context scalings, and ALiBi.

RoPE comes in two memory layouts that are the same rotation up to a permutation of the head dimension:
`half` pairs column i with column i + D/2 (Llama, Qwen, Gemma), `interleaved` pairs 2i with 2i + 1 (the paper, DeepSeek).
Angles are always computed in float32. Positions count from 0.

Left out on purpose: tables cached by length. A model computes its cosines once per forward and shares them between layers.

Taught in: 04_rope.
"""

# Shapes: B batch, H heads, T time, S key time, D head dim, R rotated dims / 2.
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

Layout = Literal["half", "interleaved"]
LAYOUTS: tuple[Layout, ...] = ("half", "interleaved")
ScalingKind = Literal["linear", "ntk", "dynamic", "yarn", "llama3"]
SCALING_KINDS: tuple[ScalingKind, ...] = ("linear", "ntk", "dynamic", "yarn", "llama3")


@dataclass(frozen=True, kw_only=True)
class RopeScaling:
    """How a model trained on `original_context` tokens is stretched to `factor` times that length."""

    kind: ScalingKind
    """linear (position interpolation), ntk, dynamic, yarn or llama3."""
    factor: float
    """How many times longer the context becomes; at least 1."""
    original_context: int | None = None
    """Tokens the model was trained on; dynamic, yarn and llama3 need it."""
    low_freq_factor: float = 1.0
    """llama3: wavelengths above original_context / low_freq_factor are divided by the factor in full."""
    high_freq_factor: float = 4.0
    """llama3: wavelengths below original_context / high_freq_factor stay as they are."""
    beta_fast: float = 32.0
    """yarn: a pair that turns at least this often within original_context stays as it is."""
    beta_slow: float = 1.0
    """yarn: a pair that turns at most this often is divided by the factor in full."""
    ramp: Literal["index", "turns"] = "index"
    """yarn: between the two the blend is linear in the pair's index (every released checkpoint) or in its turns (the paper's text)."""
    truncate: bool = True
    """yarn, ramp "index": round the ends of the ramp outwards to whole indices."""
    attention_factor: float | None = None
    """yarn: what cosines and sines are multiplied by; None derives it from factor, mscale and mscale_all_dim."""
    mscale: float | None = None
    """yarn as DeepSeek writes it: temperature of the rotated part, relative to mscale_all_dim."""
    mscale_all_dim: float | None = None
    """yarn as DeepSeek writes it: temperature of the whole score; its square multiplies the softmax scale."""

    def __post_init__(self) -> None:
        if self.kind not in SCALING_KINDS:
            raise ValueError(f"RoPE scaling kind must be one of {', '.join(SCALING_KINDS)}, got {self.kind!r}")
        if not self.factor >= 1:
            raise ValueError(
                f"RoPE scaling factor must be at least 1, got {self.factor}; to leave RoPE alone, pass scaling=None"
            )
        if self.kind in ("dynamic", "yarn", "llama3") and not self.original_context:
            raise ValueError(
                f"{self.kind} scaling needs original_context, the tokens the model was trained on; got {self.original_context}"
            )
        if self.kind == "llama3" and not self.low_freq_factor < self.high_freq_factor:
            raise ValueError(
                f"llama3 scaling needs low_freq_factor < high_freq_factor, got {self.low_freq_factor} and {self.high_freq_factor}; swap them"
            )
        if self.kind == "yarn" and not self.beta_slow < self.beta_fast:
            raise ValueError(
                f"yarn scaling needs beta_slow < beta_fast, got {self.beta_slow} and {self.beta_fast}; swap them"
            )

    @classmethod
    def from_dict(cls, parameters: Mapping[str, Any]) -> "RopeScaling | None":
        """The scaling that a Hugging Face `rope_scaling` or `rope_parameters` mapping describes; None for plain RoPE.

        >>> RopeScaling.from_dict({"rope_type": "linear", "factor": 4.0}).factor
        4.0
        """
        kind = parameters.get("rope_type") or parameters.get("type") or parameters.get("kind") or "default"
        if kind == "default":
            return None
        renamed = {"original_max_position_embeddings": "original_context"}
        names = {field.name for field in fields(cls)} - {"kind"}
        known = {renamed.get(key, key): value for key, value in parameters.items()}
        return cls(kind=kind, **{key: value for key, value in known.items() if key in names and value is not None})

    def to_dict(self) -> dict[str, Any]:
        """The same scaling under Hugging Face's key names, without what its kind does not use."""
        used = {
            "linear": ("factor",),
            "ntk": ("factor",),
            "dynamic": ("factor",),
            "llama3": ("factor", "original_context", "low_freq_factor", "high_freq_factor"),
            "yarn": (
                "factor", "original_context", "beta_fast", "beta_slow", "truncate",
                "attention_factor", "mscale", "mscale_all_dim",
            ),
        }[self.kind]  # fmt: skip
        renamed = {"original_context": "original_max_position_embeddings"}
        values = asdict(self)
        return {"rope_type": self.kind} | {
            renamed.get(key, key): values[key] for key in used if values[key] is not None
        }


def sinusoidal(positions: Shaped[Tensor, "*T"], dim: int, base: float = 10000.0) -> Float[Tensor, "*T dim"]:
    """Absolute position vectors in float32: sine on even columns, cosine on odd ones.

    >>> sinusoidal(torch.tensor([0]), 4).tolist()
    [[0.0, 1.0, 0.0, 1.0]]

    Raises: ValueError for an odd dim.
    Source: Attention Is All You Need, arXiv:1706.03762, section 3.5.  Taught in: 04_rope.
    """
    angles_TR = angles_at(positions, rope_frequencies(dim, base))
    return torch.stack((angles_TR.sin(), angles_TR.cos()), dim=-1).flatten(-2)


def rope_frequencies(
    head_dim: int,
    base: float = 10000.0,
    scaling: RopeScaling | Mapping[str, Any] | None = None,
    length: int | None = None,
) -> Float[Tensor, "R"]:
    """Radians per position of each rotated pair, fastest first, float32: base^(-2i/head_dim), then scaled.

    `scaling` is a RopeScaling or a Hugging Face mapping. `length` is the tokens in sight, which only dynamic scaling
    asks for (None: the original context, so nothing is scaled yet). YaRN's temperature is `rope_attention_factor`.

    >>> rope_frequencies(4, base=100.0).tolist()
    [1.0, 0.10000000149011612]
    >>> rope_frequencies(4, base=100.0, scaling={"rope_type": "linear", "factor": 2.0}).tolist()
    [0.5, 0.05000000074505806]

    Raises: ValueError for an odd or non-positive head_dim, a base that is not positive, or an unknown scaling.
    Source: RoFormer, arXiv:2104.09864, eq. 15; the scalings cite their own.  Taught in: 04_rope.
    """
    if isinstance(scaling, Mapping):
        scaling = RopeScaling.from_dict(scaling)
    if scaling is None:
        return _plain_frequencies(head_dim, base).float()
    if scaling.kind == "linear":
        return (_plain_frequencies(head_dim, base) / scaling.factor).float()
    if scaling.kind == "ntk":
        return _plain_frequencies(head_dim, ntk_base(base, scaling.factor, head_dim)).float()
    if scaling.kind == "dynamic":
        seen = max(length or 0, scaling.original_context)
        stretch = scaling.factor * seen / scaling.original_context - (scaling.factor - 1)
        return _plain_frequencies(head_dim, ntk_base(base, stretch, head_dim)).float()
    if scaling.kind == "llama3":
        return llama3_inv_freq(
            head_dim, base, scaling.factor, scaling.original_context, scaling.low_freq_factor, scaling.high_freq_factor
        )
    return yarn_inv_freq(
        head_dim,
        base,
        scaling.factor,
        scaling.original_context,
        scaling.beta_fast,
        scaling.beta_slow,
        ramp=scaling.ramp,
        truncate=scaling.truncate,
    )


def _plain_frequencies(head_dim: int, base: float) -> Float[Tensor, "R"]:
    """base^(-2i/head_dim) in float64, checked; callers round to float32 once, at the end."""
    if head_dim < 2 or head_dim % 2:
        raise ValueError(f"rotary dimensions come in pairs: head_dim must be even and at least 2, got {head_dim}")
    if not base > 0:
        raise ValueError(f"RoPE base must be positive, got {base}")
    return base ** (-torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim)


def angles_at(positions: Shaped[Tensor, "*T"], inv_freq: Float[Tensor, "R"]) -> Float[Tensor, "*T R"]:
    """Rotation angles in radians, float32 whatever the model's dtype: bfloat16 cannot hold position 4,001."""
    return positions.to(torch.float32)[..., None] * inv_freq.to(positions.device)


def rope_angles(positions: Shaped[Tensor, "*T"], head_dim: int, base: float = 10000.0) -> Float[Tensor, "*T R"]:
    """Rotation angles of plain RoPE in radians, float32.

    >>> rope_angles(torch.tensor([0, 3]), 2).tolist()
    [[0.0], [3.0]]

    Raises: ValueError for an odd head_dim.  Taught in: 04_rope.
    """
    return angles_at(positions, rope_frequencies(head_dim, base))


def rotate(
    x: Float[Tensor, "... D"], cos: Float[Tensor, "..."], sin: Float[Tensor, "..."], layout: Layout
) -> Float[Tensor, "... D"]:
    """x with its first 2R columns rotated pairwise by the given cosines and sines (..., R); the rest passes through.

    The arithmetic is float32 (float64 for float64 x), the result has x's dtype.
    """
    num_rotated = 2 * cos.shape[-1]
    if num_rotated > x.shape[-1]:
        raise ValueError(
            f"cannot rotate {num_rotated} dims of a head of {x.shape[-1]}; pass frequencies of at most {x.shape[-1] // 2} pairs"
        )
    turned = x if num_rotated == x.shape[-1] else x[..., :num_rotated]
    if turned.dtype not in (torch.float32, torch.float64):
        turned = turned.float()
    if layout == "half":
        first, second = turned.chunk(2, dim=-1)
        turned = torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)
    elif layout == "interleaved":
        first, second = turned[..., 0::2], turned[..., 1::2]
        turned = torch.stack((first * cos - second * sin, second * cos + first * sin), dim=-1).flatten(-2)
    else:
        raise ValueError(f"RoPE layout must be 'half' or 'interleaved', got {layout!r}")
    turned = turned.to(x.dtype)
    return turned if num_rotated == x.shape[-1] else torch.cat((turned, x[..., num_rotated:]), dim=-1)


def apply_rope(
    x: Float[Tensor, "... T D"],
    positions: Shaped[Tensor, "*B T"],
    inv_freq: Float[Tensor, "R"],
    layout: Layout = "half",
) -> Float[Tensor, "... T D"]:
    """x rotated by its positions; x is (B, H, T, D) or any (..., T, D), positions are (T,) or (B, T).

    With fewer frequencies than D/2 only the first 2R columns turn (partial rotary). Norms and dtype are kept.

    >>> x = torch.tensor([[1.0, 0.0]])
    >>> apply_rope(x, torch.tensor([0]), rope_frequencies(2)).tolist()
    [[1.0, 0.0]]

    Raises: ValueError for another layout, positions that do not match x, or more frequencies than pairs.
    Source: RoFormer, arXiv:2104.09864, eq. 34.  Taught in: 04_rope.
    """
    time = x.shape[-2] if x.ndim > 1 else None
    batched = positions.ndim == 2 and x.ndim >= 3 and positions.shape[0] in (1, x.shape[0])
    if positions.shape[-1:] != (time,) or not (positions.ndim == 1 or batched):
        raise ValueError(
            f"positions must be (T,) or (B, T) for x (..., T, D), got positions {tuple(positions.shape)} and x {tuple(x.shape)}"
        )
    angles = angles_at(positions, inv_freq)
    if batched:  # one row of angles per sequence, shared by the heads between batch and time
        angles = angles.reshape(positions.shape[0], *(1,) * (x.ndim - 3), time, -1)
    return rotate(x, angles.cos(), angles.sin(), layout)


def half_to_interleaved(weight: Float[Tensor, "N ..."], n_heads: int) -> Float[Tensor, "N ..."]:
    """A query or key projection (or its bias) made for the half layout, its rows reordered for the interleaved one.

    Scores between queries and keys stay the same when both are reordered.

    >>> half_to_interleaved(torch.arange(4), n_heads=1).tolist()
    [0, 2, 1, 3]

    Raises: ValueError when the rows do not divide into heads of even width.  Taught in: 04_rope.
    """
    return _reorder_pairs(weight, n_heads, to_interleaved=True)


def interleaved_to_half(weight: Float[Tensor, "N ..."], n_heads: int) -> Float[Tensor, "N ..."]:
    """The inverse of `half_to_interleaved`.

    >>> interleaved_to_half(torch.tensor([0, 2, 1, 3]), n_heads=1).tolist()
    [0, 1, 2, 3]
    """
    return _reorder_pairs(weight, n_heads, to_interleaved=False)


def _reorder_pairs(weight: Tensor, n_heads: int, *, to_interleaved: bool) -> Tensor:
    rows = weight.shape[0]
    if n_heads < 1 or rows % (2 * n_heads):
        raise ValueError(
            f"{rows} rows do not divide into {n_heads} heads of even width; pass the projection of the heads that are rotated"
        )
    pairs, members = rows // n_heads // 2, 2
    split = (n_heads, members, pairs) if to_interleaved else (n_heads, pairs, members)
    return weight.reshape(*split, *weight.shape[1:]).transpose(1, 2).reshape(weight.shape)


def position_interpolation(positions: Shaped[Tensor, "*T"], train_len: int, target_len: int) -> Float[Tensor, "*T"]:
    """Positions squeezed from target_len into train_len, float32; unchanged when target_len is not longer.

    >>> position_interpolation(torch.tensor([0, 6]), train_len=4, target_len=8).tolist()
    [0.0, 3.0]

    Raises: ValueError for lengths below 1.
    Source: Extending Context Window via Positional Interpolation, arXiv:2306.15595, eq. 4.  Taught in: 04_rope.
    """
    if train_len < 1 or target_len < 1:
        raise ValueError(f"lengths must be at least 1 token, got train_len={train_len} and target_len={target_len}")
    return positions.to(torch.float32) * min(1.0, train_len / target_len)


def ntk_base(base: float, scale: float, head_dim: int) -> float:
    """The base that divides the slowest frequency by `scale` and leaves the fastest alone: base * scale^(d/(d-2)).

    >>> ntk_base(10000.0, 1.0, 64)
    10000.0

    Raises: ValueError for head_dim <= 2, where slowest and fastest are the same pair.
    Source: bloc97, "NTK-aware scaled RoPE", 2023; YaRN, arXiv:2309.00071, eq. 16.  Taught in: 04_rope.
    """
    if head_dim <= 2:
        raise ValueError(f"NTK scaling needs head_dim above 2, got {head_dim}")
    return base * scale ** (head_dim / (head_dim - 2))


def llama3_inv_freq(
    head_dim: int,
    base: float,
    factor: float,
    original_context: int,
    low_freq_factor: float = 1.0,
    high_freq_factor: float = 4.0,
) -> Float[Tensor, "R"]:
    """Llama 3.1's frequencies, float32: short wavelengths kept, long ones divided by factor, a linear blend between.

    Source: The Llama 3 Herd of Models, arXiv:2407.21783, and its released code.  Taught in: 04_rope.
    """
    plain = _plain_frequencies(head_dim, base)
    turns = original_context * plain / (2 * math.pi)
    keep = ((turns - low_freq_factor) / (high_freq_factor - low_freq_factor)).clamp(0, 1)
    return (plain * (keep + (1 - keep) / factor)).float()


def yarn_inv_freq(
    head_dim: int,
    base: float,
    scale: float,
    train_len: int,
    beta_fast: float = 32.0,
    beta_slow: float = 1.0,
    *,
    ramp: Literal["turns", "index"] = "turns",
    truncate: bool = True,
) -> Float[Tensor, "R"]:
    """YaRN's frequencies, float32: pairs that turn often within train_len kept, rare ones divided by scale, a blend between.

    The paper writes the blend as linear in the number of turns (ramp "turns", the default here and in the exercise);
    its released code, and so every checkpoint, makes it linear in the pair's index (ramp "index", `truncate` rounding
    the ends outwards). `RopeScaling` therefore defaults to "index".

    Source: YaRN, arXiv:2309.00071, eqs. 18-23.  Taught in: 04_rope.
    """
    plain = _plain_frequencies(head_dim, base)
    if ramp == "turns":
        turns = train_len * plain / (2 * math.pi)
        keep = ((turns - beta_slow) / (beta_fast - beta_slow)).clamp(0, 1)
    else:
        first, last = (_index_of_turns(turns, head_dim, base, train_len) for turns in (beta_fast, beta_slow))
        if truncate:
            first, last = math.floor(first), math.ceil(last)
        first, last = max(first, 0), min(last, head_dim - 1)
        span = last - first if last != first else 0.001  # a ramp of no width is a step
        keep = 1 - ((torch.arange(head_dim // 2, dtype=torch.float64) - first) / span).clamp(0, 1)
    return (plain * (keep + (1 - keep) / scale)).float()


def _index_of_turns(turns: float, head_dim: int, base: float, train_len: int) -> float:
    """The (fractional) pair index whose frequency makes that many turns within train_len."""
    return head_dim * math.log(train_len / (turns * 2 * math.pi)) / (2 * math.log(base))


def yarn_temperature(scale: float) -> float:
    """What YaRN multiplies both q and k by: 0.1 ln(scale) + 1, and 1 for scale <= 1.

    >>> yarn_temperature(1.0)
    1.0

    Source: YaRN, arXiv:2309.00071, eq. 22 (its sqrt(1/t)).  Taught in: 04_rope.
    """
    return 0.1 * math.log(scale) + 1.0 if scale > 1 else 1.0


def rope_attention_factor(scaling: RopeScaling | None) -> float:
    """What cosines and sines are multiplied by under this scaling: YaRN's temperature, 1 for every other kind.

    DeepSeek's mscale / mscale_all_dim pair replaces the plain temperature where both are given.
    """
    if scaling is None or scaling.kind != "yarn":
        return 1.0
    if scaling.attention_factor is not None:
        return scaling.attention_factor
    if scaling.mscale and scaling.mscale_all_dim:
        return _mscale(scaling.factor, scaling.mscale) / _mscale(scaling.factor, scaling.mscale_all_dim)
    return yarn_temperature(scaling.factor)


def score_factor(scaling: RopeScaling | None) -> float:
    """What the softmax scale of latent attention is multiplied by: DeepSeek's squared mscale_all_dim temperature."""
    if scaling is None or not scaling.mscale_all_dim:
        return 1.0
    return _mscale(scaling.factor, scaling.mscale_all_dim) ** 2


def _mscale(factor: float, mscale: float) -> float:
    return 0.1 * mscale * math.log(factor) + 1.0 if factor > 1 else 1.0


def alibi_slopes(n_heads: int) -> Float[Tensor, "H"]:
    """One slope per head, float32: 2^(-8i/n) for a power of two, else the next lower power's and every other of the next.

    >>> alibi_slopes(2).tolist()
    [0.0625, 0.00390625]
    >>> alibi_slopes(3).tolist()
    [0.0625, 0.00390625, 0.25]

    Raises: ValueError for n_heads < 1.
    Source: Train Short, Test Long, arXiv:2108.12409, and its released code.  Taught in: 04_rope.
    """
    if n_heads < 1:
        raise ValueError(f"n_heads must be at least 1, got {n_heads}")
    power = 2 ** int(math.log2(n_heads))
    slopes = [2.0 ** (-8 * (i + 1) / power) for i in range(power)]
    extra = [2.0 ** (-8 * (i + 1) / (2 * power)) for i in range(0, 2 * (n_heads - power), 2)]
    return torch.tensor(slopes + extra)


def alibi_bias(n_heads: int, t_q: int, t_k: int) -> Float[Tensor, "H T S"]:
    """What ALiBi adds to the scores, float32: -slope * |distance|, aligned at the bottom right.

    Hiding the future is the mask's job.

    >>> alibi_bias(1, 1, 3).tolist()
    [[[-0.0078125, -0.00390625, -0.0]]]

    Raises: ValueError when t_k < t_q.
    Source: Train Short, Test Long, arXiv:2108.12409.  Taught in: 04_rope.
    """
    if t_k < t_q:
        raise ValueError(f"alibi_bias needs at least as many keys as queries, got t_q={t_q} and t_k={t_k}")
    distance_TS = (torch.arange(t_k - t_q, t_k)[:, None] - torch.arange(t_k)[None, :]).abs()
    return -alibi_slopes(n_heads)[:, None, None] * distance_TS
