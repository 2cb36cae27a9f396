"""Blockwise attention with an online softmax: exact, and never more than one tile of scores in memory.

The forward keeps, for each query row, the running maximum m, the running sum of exponentials l, and an accumulator that
is rescaled whenever m grows; it saves only the log-sum-exp. The backward recomputes each tile's weights from it. Tiles
outside the causal triangle or the window are skipped. Plain torch on any device; the Triton kernel follows the same steps.

Source: FlashAttention, arXiv:2205.14135, with the loop order of FlashAttention-2, arXiv:2307.08691.
Taught in: 08_flash_attention.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Shaped
from torch import Tensor
from torch.autograd.function import once_differentiable

# Shapes: B batch, K key/value heads, G query heads a key head serves, t and s the rows and columns of one tile.

BLOCK_Q, BLOCK_K = 128, 256


@dataclass(frozen=True)
class Request:
    """What is to be computed, apart from the tensors. `segments` are the (start, end) of documents, or None."""

    scale: float
    causal: bool = False
    window: int | None = None
    softcap: float | None = None
    segments: Sequence[tuple[int, int]] | None = None
    block_q: int = BLOCK_Q
    block_k: int = BLOCK_K


@dataclass(frozen=True)
class Tile:
    """Rows of queries against columns of keys. `offset` is the key position of query 0; `whole` if nothing is hidden."""

    q: slice
    k: slice
    offset: int
    whole: bool


def tiled_attention(
    q: Float[Tensor, "B H T D"],
    k: Float[Tensor, "B K S D"],
    v: Float[Tensor, "B K S Dv"],
    request: Request,
    mask: Shaped[Tensor, "..."] | None = None,
) -> tuple[Float[Tensor, "B H T Dv"], Float[Tensor, "B H T"]]:
    """The output in q's dtype and the log-sum-exp of each row (float32, or float64 for float64 inputs).

    `mask`, boolean or additive, is read tile by tile, so a broadcast one is never expanded; it gets no gradient.
    Rows that may attend to nothing give zeros and -inf.
    """
    if mask is not None:
        mask = mask.expand(q.shape[0], q.shape[1], q.shape[2], k.shape[2])
    return _TiledAttention.apply(q, k, v, mask, request)


def merge_parts(
    outs: Float[Tensor, "N B H T Dv"], lses: Float[Tensor, "N B H T"]
) -> tuple[Float[Tensor, "B H T Dv"], Float[Tensor, "B H T"]]:
    """The output and log-sum-exp over all keys from those over N parts of them: how split-K decoding ends.

    Each part's output is its own mean of the values; it counts as much as its sum of exponentials. Empty parts (-inf) do
    not count, and where all are empty so is the whole.

    >>> out, lse = merge_parts(torch.tensor([1.0, 4.0]).view(2, 1, 1, 1, 1), torch.tensor([2.0, 1.0]).log().view(2, 1, 1, 1))
    >>> round(out.item(), 4), round(lse.exp().item(), 4)
    (2.0, 3.0)
    """
    largest = lses.amax(0)
    shift = torch.where(largest == -math.inf, 0, largest)
    weights = torch.exp(lses - shift)
    total = weights.sum(0)
    empty = total == 0
    safe_total = torch.where(empty, 1, total)
    out = (weights[..., None] * outs).sum(0) / safe_total[..., None]
    return out.to(outs.dtype), torch.where(empty, -math.inf, shift + safe_total.log())


def plan(t_q: int, t_k: int, request: Request) -> Iterator[tuple[slice, list[Tile]]]:
    """The blocks of query rows, each with the tiles that hold a visible pair.

    >>> rows = plan(4, 4, Request(scale=1.0, causal=True, block_q=2, block_k=2))
    >>> [(r.start, [t.k.start for t in tiles]) for r, tiles in rows]
    [(0, [0]), (2, [0, 2])]
    """
    whole_text = [(0, t_q, 0, t_k)]
    parts = whole_text if request.segments is None else [(start, end, start, end) for start, end in request.segments]
    for q_start, q_end, k_start, k_end in parts:
        offset = k_end - q_end
        for low in range(q_start, q_end, request.block_q):
            high = min(low + request.block_q, q_end)
            first, last = k_start, k_end
            if request.causal:
                last = min(k_end, high + offset)
            if request.window is not None:
                first = max(k_start, low + offset - request.window)
            tiles = []
            for column in range(first, last, request.block_k):
                end = min(column + request.block_k, last)
                hidden_right = request.causal and end - 1 > low + offset
                hidden_left = request.window is not None and column < high - 1 + offset - request.window
                tiles.append(Tile(slice(low, high), slice(column, end), offset, not (hidden_right or hidden_left)))
            yield slice(low, high), tiles


def _tile_scores(q: Tensor, k: Tensor, mask: Tensor | None, tile: Tile, request: Request) -> tuple[Tensor, Tensor]:
    """A tile's scores (B, K, G, t, s) after soft-capping: without masks, and with -inf where attention is not allowed."""
    q_BKGtD, k_BKsD = q[..., tile.q, :], k[..., tile.k, :]
    scores = _fold(q_BKGtD) @ k_BKsD.transpose(-1, -2) * request.scale
    scores_BKGts = scores.unflatten(2, q_BKGtD.shape[2:4])
    if request.softcap is not None:
        scores_BKGts = request.softcap * torch.tanh(scores_BKGts / request.softcap)
    masked = scores_BKGts
    if mask is not None:
        part = mask[..., tile.q, tile.k]
        masked = masked.masked_fill(~part, -math.inf) if part.dtype == torch.bool else masked + part.to(masked.dtype)
    if not tile.whole:
        row_t1 = torch.arange(tile.q.start, tile.q.stop, device=q.device)[:, None] + tile.offset
        column_s = torch.arange(tile.k.start, tile.k.stop, device=q.device)
        hidden_ts = torch.zeros(row_t1.shape[0], column_s.shape[0], dtype=torch.bool, device=q.device)
        if request.causal:
            hidden_ts |= column_s > row_t1
        if request.window is not None:
            hidden_ts |= column_s < row_t1 - request.window
        masked = masked.masked_fill(hidden_ts, -math.inf)
    return scores_BKGts, masked


def _fold(x_BKGtD: Tensor) -> Tensor:
    """(B, K, G * t, D): the queries that share a key head as rows of one matrix, so that K and V are never repeated."""
    return x_BKGtD.flatten(2, 3)


def _group(x_BHTD: Tensor, kv_heads: int, dtype: torch.dtype) -> Tensor:
    return x_BHTD.to(dtype).unflatten(1, (kv_heads, x_BHTD.shape[1] // kv_heads))


class _TiledAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, request: Request) -> tuple[Tensor, Tensor]:
        wide = torch.promote_types(q.dtype, torch.float32)
        groups = (k.shape[1], q.shape[1] // k.shape[1])
        grouped_q, wide_k, wide_v = _group(q, k.shape[1], wide), k.to(wide), v.to(wide)
        grouped_mask = None if mask is None else mask.unflatten(1, groups)
        out = grouped_q.new_zeros(*grouped_q.shape[:-1], v.shape[-1])
        lse = grouped_q.new_full(grouped_q.shape[:-1], -math.inf)
        for rows, tiles in plan(q.shape[2], k.shape[2], request):
            m = lse[..., rows].clone()
            l = torch.zeros_like(m)
            accumulator = torch.zeros_like(out[..., rows, :])
            for tile in tiles:
                _, scores = _tile_scores(grouped_q, wide_k, grouped_mask, tile, request)
                new_m = torch.maximum(m, scores.amax(-1))
                shift = torch.where(new_m == -math.inf, 0, new_m)
                rescale = torch.exp(m - shift)
                weights = torch.exp(scores - shift[..., None])
                l = l * rescale + weights.sum(-1)
                weighted_v = _fold(weights) @ wide_v[..., tile.k, :]
                accumulator = accumulator * rescale[..., None] + weighted_v.unflatten(2, accumulator.shape[2:4])
                m = new_m
            empty = l == 0
            safe_l = torch.where(empty, 1, l)
            out[..., rows, :] = accumulator / safe_l[..., None]
            lse[..., rows] = torch.where(empty, -math.inf, m + safe_l.log())
        result, result_lse = out.flatten(1, 2).to(q.dtype), lse.flatten(1, 2)
        ctx.save_for_backward(q, k, v, mask, result, result_lse)
        ctx.request = request
        return result, result_lse

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_out: Tensor, grad_lse: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, mask, out, lse = ctx.saved_tensors
        request, wide = ctx.request, lse.dtype
        kv_heads, groups = k.shape[1], (k.shape[1], q.shape[1] // k.shape[1])
        grouped_q, wide_k, wide_v = _group(q, kv_heads, wide), k.to(wide), v.to(wide)
        grouped_mask = None if mask is None else mask.unflatten(1, groups)
        d_out = _group(grad_out, kv_heads, wide)
        # d(softmax) needs rowsum(weights * d_weights), which is rowsum(d_out * out); the log-sum-exp's own gradient
        # enters each score times its weight, so it joins the same term.
        delta = (d_out * _group(out, kv_heads, wide)).sum(-1) - grad_lse.unflatten(1, groups)
        # exp(score - inf) = 0: a row that saw nothing contributes nothing.
        shift = torch.where(lse == -math.inf, math.inf, lse).unflatten(1, groups)
        dq, dk, dv = torch.zeros_like(grouped_q), torch.zeros_like(wide_k), torch.zeros_like(wide_v)
        for rows, tiles in plan(q.shape[2], k.shape[2], request):
            row_q, row_d_out = _fold(grouped_q[..., rows, :]), _fold(d_out[..., rows, :])
            for tile in tiles:
                capped, scores = _tile_scores(grouped_q, wide_k, grouped_mask, tile, request)
                weights = torch.exp(scores - shift[..., rows, None])
                d_weights = (row_d_out @ wide_v[..., tile.k, :].transpose(-1, -2)).unflatten(2, weights.shape[2:4])
                d_scores = weights * (d_weights - delta[..., rows, None])
                if request.softcap is not None:
                    d_scores = d_scores * (1 - (capped / request.softcap) ** 2)
                folded = _fold(d_scores) * request.scale
                dv[..., tile.k, :] += _fold(weights).transpose(-1, -2) @ row_d_out
                dk[..., tile.k, :] += folded.transpose(-1, -2) @ row_q
                dq[..., rows, :] += (folded @ wide_k[..., tile.k, :]).unflatten(2, weights.shape[2:4])
        return dq.flatten(1, 2).to(q.dtype), dk.to(k.dtype), dv.to(v.dtype), None, None
