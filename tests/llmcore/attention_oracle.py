"""Attention one query at a time in float64, written without anything from llmcore: what all backends are held against."""

import math

import torch
from torch import Tensor


def visible_keys(i: int, t_q: int, t_k: int, causal: bool, window: int | None, borders: list[int] | None) -> list[int]:
    position = i + t_k - t_q
    keys = range(t_k)
    if borders is not None:
        start = max(border for border in borders if border <= i)
        end = min(border for border in borders if border > i)
        keys = range(start, end)
    return [j for j in keys if (not causal or j <= position) and (window is None or position - j <= window)]


def oracle(q, k, v, *, mask=None, causal=False, scale=None, window=None, softcap=None, borders=None):
    """(out, lse) in float64, differentiable; rows that see nothing are exactly 0 and -inf."""
    q, k, v = q.double(), k.double(), v.double()
    (batch, heads, t_q, d), (_, kv_heads, t_k, _) = q.shape, k.shape
    scale = 1 / math.sqrt(d) if scale is None else scale
    full = None if mask is None else mask.expand(batch, heads, t_q, t_k)
    outs, sums = [], []
    for b in range(batch):
        for h in range(heads):
            key_head = h // (heads // kv_heads)
            for i in range(t_q):
                keys = visible_keys(i, t_q, t_k, causal, window, borders)
                if full is not None and full.dtype == torch.bool:
                    keys = [j for j in keys if full[b, h, i, j]]
                elif full is not None:
                    keys = [j for j in keys if full[b, h, i, j] > -math.inf]
                if not keys:
                    outs.append(v.new_zeros(v.shape[-1]))
                    sums.append(v.new_tensor(-math.inf))
                    continue
                scores = (k[b, key_head, keys] * q[b, h, i]).sum(-1) * scale
                if softcap is not None:
                    scores = softcap * torch.tanh(scores / softcap)
                if full is not None and full.dtype != torch.bool:
                    scores = scores + full[b, h, i, keys].double()
                top = scores.max().detach()
                parts = torch.exp(scores - top)
                outs.append((parts / parts.sum()) @ v[b, key_head, keys])
                sums.append(top + parts.sum().log())
    return torch.stack(outs).view(batch, heads, t_q, -1), torch.stack(sums).view(batch, heads, t_q)


def random_qkv(
    *, batch=2, heads=6, kv_heads=3, t_q=5, t_k=7, d=4, d_v=3, dtype=torch.float64, seed=0, requires_grad=True
) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = (batch, heads, t_q, d), (batch, kv_heads, t_k, d), (batch, kv_heads, t_k, d_v)
    made = [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for shape in shapes]
    return tuple(tensor.requires_grad_(requires_grad) for tensor in made)


def gradients(
    outputs: list[Tensor], inputs: tuple[Tensor, ...], seed: int = 1, retain_graph: bool = False
) -> tuple[Tensor, ...]:
    """Gradients of a random projection of the outputs (-inf entries left out)."""
    generator = torch.Generator().manual_seed(seed)
    total = 0.0
    for out in outputs:
        weights = torch.randn(out.shape, generator=generator, dtype=torch.float64).to(out.dtype)
        total = total + (torch.where(out == -math.inf, 0, out) * weights).sum()
    return torch.autograd.grad(total, inputs, retain_graph=retain_graph)
