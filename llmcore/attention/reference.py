"""Attention as the formula says it: softmax(q k^T * scale) v, with every T x S score in memory.

Scores, softmax and sums are float32 (float64 for float64 inputs); the output has q's dtype. A row that may attend to
nothing gives zeros, and no gradient that is not finite. Left out on purpose: speed. `dispatch.attention` checks inputs.

Taught in: 02_attention_scaling.
"""

import math

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from llmcore.attention.masks import visible_mask


def softmax(x: Float[Tensor, "..."], dim: int = -1) -> Float[Tensor, "..."]:
    """exp(x) / sum(exp(x)) along `dim`, safe for any size of x; a row of -inf gives zeros.

    >>> softmax(torch.tensor([[1000.0, 1000.0], [-math.inf, -math.inf]])).tolist()
    [[0.5, 0.5], [0.0, 0.0]]
    """
    if x.shape[dim] == 0:
        return x.clone()
    shifted = (x - _safe_max(x, dim)).exp()
    total = shifted.sum(dim, keepdim=True)
    return shifted / torch.where(total == 0, 1, total)


def log_sum_exp(x: Float[Tensor, "..."], dim: int = -1) -> Float[Tensor, "..."]:
    """ln(sum(exp(x))) along `dim`; a row of -inf (or nothing) gives -inf with zero gradient."""
    if x.shape[dim] == 0:
        return x.new_full(x.sum(dim).shape, -math.inf)
    largest = _safe_max(x, dim)
    total = (x - largest).exp().sum(dim)
    empty = total == 0
    return torch.where(empty, -math.inf, torch.where(empty, 1, total).log() + largest.squeeze(dim))


def _safe_max(x: Tensor, dim: int) -> Tensor:
    """The maximum along `dim`, 0 where it is -inf: subtracting it never makes a NaN, and its gradient cancels."""
    largest = x.detach().amax(dim, keepdim=True)
    return torch.where(largest == -math.inf, 0, largest)


def attention_scores(
    q: Float[Tensor, "B H T D"],
    k: Float[Tensor, "B K S D"],
    *,
    mask: Shaped[Tensor, "..."] | None = None,
    causal: bool = False,
    scale: float | None = None,
    window: int | None = None,
    softcap: float | None = None,
) -> Float[Tensor, "B H T S"]:
    """The logits of the softmax: scaled, soft-capped, then -inf where attention is not allowed."""
    heads, kv_heads, t_q, t_k = q.shape[1], k.shape[1], q.shape[2], k.shape[2]
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    wide = torch.promote_types(q.dtype, torch.float32)
    # The queries that share a key head lie one after another, so that K is used as it is, never repeated.
    grouped_q = q.to(wide).reshape(q.shape[0], kv_heads, heads // kv_heads * t_q, q.shape[-1])
    scores_BHTS = (grouped_q @ k.to(wide).transpose(-1, -2)).reshape(q.shape[0], heads, t_q, t_k) * scale
    if softcap is not None:
        scores_BHTS = softcap * torch.tanh(scores_BHTS / softcap)
    if mask is not None and mask.dtype == torch.bool:
        scores_BHTS = scores_BHTS.masked_fill(~mask, -math.inf)
    elif mask is not None:
        scores_BHTS = scores_BHTS + mask.to(wide)
    if causal or window is not None:
        visible_TS = visible_mask(t_q, t_k, causal=causal, window=window, device=q.device)
        scores_BHTS = scores_BHTS.masked_fill(~visible_TS, -math.inf)
    return scores_BHTS


def attention_weights(
    q: Float[Tensor, "B H T D"], k: Float[Tensor, "B K S D"], **options: object
) -> Float[Tensor, "B H T S"]:
    """The softmax of `attention_scores(q, k, **options)`: each row sums to 1, or to 0 where nothing may be seen.

    >>> q = k = torch.eye(2)[None, None]
    >>> attention_weights(q, k, causal=True)[0, 0, 0].tolist()
    [1.0, 0.0]
    """
    return softmax(attention_scores(q, k, **options))


def attention(
    q: Float[Tensor, "B H T D"],
    k: Float[Tensor, "B K S D"],
    v: Float[Tensor, "B K S Dv"],
    **options: object,
) -> Float[Tensor, "B H T Dv"]:
    """Each query's weighted mean of the values; options as for `attention_scores`.

    Source: Attention Is All You Need, arXiv:1706.03762, equation 1; grouped heads: GQA, arXiv:2305.13245.
    """
    return attention_with_lse(q, k, v, **options)[0]


def attention_with_lse(
    q: Float[Tensor, "B H T D"],
    k: Float[Tensor, "B K S D"],
    v: Float[Tensor, "B K S Dv"],
    **options: object,
) -> tuple[Float[Tensor, "B H T Dv"], Float[Tensor, "B H T"]]:
    """`attention` and the natural log-sum-exp of each row's scores (float32, or float64 for float64 inputs)."""
    scores_BHTS = attention_scores(q, k, **options)
    grouped_rows = q.shape[1] // k.shape[1] * q.shape[2]
    grouped_weights = softmax(scores_BHTS).reshape(*k.shape[:2], grouped_rows, k.shape[2])
    out = (grouped_weights @ v.to(scores_BHTS.dtype)).reshape(*q.shape[:3], v.shape[-1])
    return out.to(q.dtype), log_sum_exp(scores_BHTS)
