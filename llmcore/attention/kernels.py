"""Flash attention in Triton, as one operator that autograd and `torch.compile` know: `llmcore::flash_attention`.

- `_forward_kernel`, `_backward_kernel`, `_decode_kernel`: the kernels; `_tiles`: what they share
- `_launch`: starts them; `kernel_configs`, `kernel_table`: tile sizes
- here: what a request must fulfil, and the operator's registration

Any lengths, causal (bottom right), sliding window, packed documents, soft-cap, grouped heads without copies of K and V,
widths up to 256 (padded to a power of two), float16, bfloat16 and float32 (float32 products are exact, without TF32).
Sums are float32. The backward has no atomics: it is deterministic always, not on request. Needs a CUDA device of compute
capability 8.0 or newer, or TRITON_INTERPRET=1 set before triton is imported, which runs the same source on a CPU.

Plain twin: `tiled`.  Taught in: 08_flash_attention.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from llmcore.attention import _launch
from llmcore.attention._launch import INTERPRETED, Plan
from llmcore.attention.kernel_configs import MAX_HEAD_DIM, Tiles, use_tiles

__all__ = ["INTERPRETED", "Tiles", "document_bounds", "flash_attention", "is_available", "problem", "use_tiles"]

DTYPES = (torch.float16, torch.bfloat16, torch.float32)


def is_available() -> bool:
    """Whether the kernels can run in this process: on a GPU, or in the interpreter."""
    return INTERPRETED or (torch.cuda.is_available() and torch.cuda.get_device_capability() >= (8, 0))


def problem(q: Tensor, v: Tensor) -> str | None:
    """None where the kernels can take these tensors; otherwise one sentence that says why they cannot, and what to do."""
    if not INTERPRETED and not q.is_cuda:
        return (
            f"backend 'triton' needs tensors on a CUDA device, got {q.device}; move them with .to('cuda'), "
            "or use 'sdpa' or 'tiled'"
        )
    if q.dtype not in DTYPES:
        return f"backend 'triton' takes float16, bfloat16 and float32, got {q.dtype}; convert with .to, or use 'tiled'"
    if not 1 <= min(q.shape[3], v.shape[3]) <= max(q.shape[3], v.shape[3]) <= MAX_HEAD_DIM:
        return (
            f"backend 'triton' takes heads of width 1 to {MAX_HEAD_DIM}, got {q.shape[3]} for q and k and {v.shape[3]} for v; "
            "use 'sdpa' or 'tiled'"
        )
    return None


def flash_attention(
    q: Float[Tensor, "B H T D"],
    k: Float[Tensor, "B K S D"],
    v: Float[Tensor, "B K S Dv"],
    *,
    causal: bool = False,
    scale: float | None = None,
    window: int | None = None,
    softcap: float | None = None,
    cu_seqlens: Int[Tensor, "n"] | None = None,
) -> tuple[Float[Tensor, "B H T Dv"], Float[Tensor, "B H T"]]:
    """(out, natural log-sum-exp in float32), both differentiable; `dispatch.flash_attention` says and checks the options.

    A row that sees nothing gives zeros and -inf. Few queries against many keys are decoded: the keys are split among
    programs and the parts merged. Under autocast float32 inputs are cast, as torch's own attention does.

    Raises: ValueError for a device, dtype or width that the kernels do not take.
    Source: FlashAttention-2, arXiv:2307.08691.
    """
    if torch.is_autocast_enabled(q.device.type):
        dtype = torch.get_autocast_dtype(q.device.type)
        q, k, v = q.to(dtype), k.to(dtype), v.to(dtype)
    why_not = problem(q, v)
    if why_not is not None:
        raise ValueError(why_not)
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    if scale < 0:  # the kernels scale a maximum in place of the scores, which holds for scale >= 0
        q, scale = -q, -scale
    starts, ends = (None, None) if cu_seqlens is None else document_bounds(cu_seqlens, q.shape[2], q.device)
    return flash_attention_op(q, k, v, starts, ends, causal, float(scale), window, softcap)


def document_bounds(
    cu_seqlens: Int[Tensor, "n"], n_tokens: int, device: torch.device | None = None
) -> tuple[Int[Tensor, "1 T"], Int[Tensor, "1 T"]]:
    """For each token the first token of its document and one past its last, int32.

    >>> starts, ends = document_bounds(torch.tensor([0, 1, 3]), 3)
    >>> starts.tolist(), ends.tolist()
    ([[0, 1, 1]], [[1, 3, 3]])
    """
    borders = cu_seqlens.to(device=device or cu_seqlens.device, dtype=torch.int32)
    position = torch.arange(n_tokens, device=borders.device, dtype=torch.int32)
    after = torch.searchsorted(borders, position, right=True).clamp(1, max(len(borders) - 1, 1))
    return borders[after - 1][None], borders[after][None]


_OPTIONS = "Tensor? doc_starts, Tensor? doc_ends, bool causal, float scale, int? window, float? softcap"


@torch.library.custom_op(
    "llmcore::flash_attention",
    mutates_args=(),
    schema=f"(Tensor q, Tensor k, Tensor v, {_OPTIONS}) -> (Tensor, Tensor)",
)
def flash_attention_op(q, k, v, doc_starts, doc_ends, causal, scale, window, softcap):
    """(out, lse) by the kernels; torch sees one operator."""
    return _launch.forward(q, k, v, Plan(causal, scale, window, softcap, doc_starts, doc_ends))


@flash_attention_op.register_fake
def _(q, k, v, doc_starts, doc_ends, causal, scale, window, softcap):
    return _launch.empty_outputs(q, v)


@torch.library.custom_op(
    "llmcore::flash_attention_backward",
    mutates_args=(),
    schema="(Tensor d_out, Tensor d_lse, Tensor q, Tensor k, Tensor v, Tensor out, Tensor lse, "
    f"{_OPTIONS}) -> (Tensor, Tensor, Tensor)",
)
def flash_attention_backward_op(d_out, d_lse, q, k, v, out, lse, doc_starts, doc_ends, causal, scale, window, softcap):
    """(d_q, d_k, d_v) by the kernels."""
    plan = Plan(causal, scale, window, softcap, doc_starts, doc_ends)
    return _launch.backward(d_out, d_lse, q, k, v, out, lse, plan)


@flash_attention_backward_op.register_fake
def _(d_out, d_lse, q, k, v, *_rest):
    return tuple(_launch.empty_gradient(x) for x in (q, k, v))


def _keep_for_backward(ctx, inputs, output) -> None:
    q, k, v, doc_starts, doc_ends, *ctx.options = inputs
    ctx.save_for_backward(q, k, v, *output, doc_starts, doc_ends)


def _backward(ctx, d_out, d_lse):
    gradients = flash_attention_backward_op(d_out, d_lse, *ctx.saved_tensors, *ctx.options)
    return (*gradients, None, None, None, None, None, None)


flash_attention_op.register_autograd(_backward, setup_context=_keep_for_backward)
