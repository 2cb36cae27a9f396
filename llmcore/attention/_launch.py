"""Starting the Triton kernels: memory for results, strides, tile sizes, how many programs. No autograd here.

Twin: `tiled._TiledAttention`. The interpreter (TRITON_INTERPRET=1) has no bfloat16 arithmetic, its `tl.dot` of two bfloat16
tiles is silently wrong, so there bfloat16 inputs are computed in float32 and rounded at the end.

Taught in: 08_flash_attention.
"""

import contextlib
import functools
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import triton
from torch import Tensor
from triton.runtime.errors import OutOfResources
from triton.tools.tensor_descriptor import TensorDescriptor

from llmcore.attention import _backward_kernel, _decode_kernel, _forward_kernel
from llmcore.attention.kernel_configs import (
    Tiles,
    block_width,
    choose_tiles,
    next_power_of_2,
    no_larger_than,
    overridden,
    smaller,
)

INTERPRETED = not isinstance(_forward_kernel.forward_kernel, triton.JITFunction)
"""True where TRITON_INTERPRET=1 was set when the kernels were loaded: they then run on a CPU, in NumPy."""

interpreter_has_bfloat16 = False
"""Set by tests that have mended the interpreter."""

# A query block of this many tokens or fewer is decoded; its rows (tokens times heads per key head) must fit one tile.
DECODE_TOKENS, DECODE_ROWS, MAX_PARTS = 16, 64, 64


@dataclass(frozen=True)
class Plan:
    """What is to be computed, apart from q, k and v."""

    causal: bool
    scale: float
    window: int | None = None
    softcap: float | None = None
    doc_starts: Tensor | None = None
    doc_ends: Tensor | None = None


def forward(q: Tensor, k: Tensor, v: Tensor, plan: Plan) -> tuple[Tensor, Tensor]:
    """(out, lse): out (B, H, T, Dv) laid out as (B, T, H, Dv), as a model's output projection reads it; lse float32."""
    out, lse = empty_outputs(q, v)
    if out.numel() == 0 or k.shape[2] == 0:
        return out.zero_(), lse.fill_(-math.inf)
    if _must_widen(q):
        wide_out, wide_lse = forward(q.float(), k.float(), v.float(), plan)
        return out.copy_(wide_out), wide_lse
    q, k, v = (_unit_stride(x) for x in (q, k, v))
    with _on(q):
        if _is_decoding(q, k, plan):
            _run_decode(q, k, v, out, lse, plan)
        else:
            _run_forward(q, k, v, out, lse, plan)
    return out, lse


def empty_outputs(q: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Uninitialised (out, lse) for these inputs."""
    batch, heads, n_queries, _ = q.shape
    out = q.new_empty(batch, n_queries, heads, v.shape[-1]).transpose(1, 2)
    return out, q.new_empty(batch, heads, n_queries, dtype=torch.float32)


def empty_gradient(x: Tensor) -> Tensor:
    """An uninitialised tensor laid out like x, its last axis without gaps."""
    made = torch.empty_like(x)
    return made if made.stride(-1) == 1 else torch.empty_like(x, memory_format=torch.contiguous_format)


def backward(
    d_out: Tensor, d_lse: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, plan: Plan
) -> tuple[Tensor, Tensor, Tensor]:
    """(d_q, d_k, d_v), each laid out like its input; bitwise the same in every run."""
    gradients = tuple(empty_gradient(x) for x in (q, k, v))
    if q.numel() == 0 or k.numel() == 0 or v.numel() == 0:
        return tuple(x.zero_() for x in gradients)
    if _must_widen(q):
        wide = backward(d_out.float(), d_lse, q.float(), k.float(), v.float(), out.float(), lse, plan)
        return tuple(x.copy_(y) for x, y in zip(gradients, wide))
    q, k, v, out, d_out = (_unit_stride(x) for x in (q, k, v, out, d_out))
    with _on(q):
        _run_backward(q, k, v, out, lse, d_out, d_lse.contiguous(), gradients, plan)
    return gradients


def _must_widen(q: Tensor) -> bool:
    return INTERPRETED and q.dtype == torch.bfloat16 and not interpreter_has_bfloat16


def _unit_stride(x: Tensor) -> Tensor:
    """x with neighbouring elements along its last axis: copied only where they are not."""
    return x if x.stride(-1) == 1 else x.contiguous()


def _on(x: Tensor) -> contextlib.AbstractContextManager:
    return torch.cuda.device(x.device) if x.is_cuda else contextlib.nullcontext()


@functools.cache
def _processors_and_cache(device: torch.device) -> tuple[int, int]:
    """(multiprocessors, bytes of second-level cache); for the interpreter two small numbers."""
    if device.type != "cuda":
        return 4, 2**16
    found = torch.cuda.get_device_properties(device)
    return found.multi_processor_count, found.L2_cache_size


def _shape_arguments(q: Tensor, k: Tensor, v: Tensor, plan: Plan, tiles: Tiles) -> dict[str, object]:
    """The arguments that all kernels share, by name."""
    t_q, t_k, d, d_v = q.shape[2], k.shape[2], q.shape[3], v.shape[3]
    windowed = plan.window is not None and plan.window < t_k - 1
    return {
        "n_heads": q.shape[1],
        "GROUP": q.shape[1] // k.shape[1],
        "n_queries": t_q,
        "n_keys": t_k,
        "scale": plan.scale,
        "softcap": plan.softcap or 0.0,
        "window": plan.window if windowed else 0,
        "D": d,
        "DV": d_v,
        "BLOCK_D": block_width(d),
        "BLOCK_DV": block_width(d_v),
        "BLOCK_Q": tiles.block_q,
        "BLOCK_K": tiles.block_k,
        "CAUSAL": plan.causal and t_q > 1,
        "WINDOWED": windowed,
        "CAPPED": plan.softcap is not None,
        "num_warps": tiles.warps,
        "num_stages": tiles.stages,
        "enable_fp_fusion": True,  # multiply-adds; later versions of triton no longer make them by default
    }


def _document_arguments(plan: Plan) -> dict[str, object]:
    packed = plan.doc_starts is not None
    return {
        "doc_starts": plan.doc_starts,
        "doc_ends": plan.doc_ends,
        "doc_stride": plan.doc_starts.stride(0) if packed and plan.doc_starts.shape[0] > 1 else 0,
        "PACKED": packed,
    }


def _heads_together(streamed: Tensor, times: int, causal: bool) -> int:
    """How many programs' heads run side by side: as many as keep what they stream in half of the second-level cache."""
    if not causal:
        return times
    one_head = 2 * times * streamed.shape[2] * streamed.shape[3] * streamed.element_size()
    return max(1, _processors_and_cache(streamed.device)[1] // 2 // one_head)


def _sources(tiles: Tiles, tensors: dict[str, Tensor]) -> dict[str, object]:
    """The tensors as kernel arguments: copy-engine descriptors where `tiles` asks for them and all allow it, else as is."""
    if not (tiles.tma and all(_descriptor_fits(x) for x in tensors.values())):
        return {**tensors, "TMA": False}
    rows = {"q": tiles.block_q, "k": tiles.block_k, "v": tiles.block_k, "d_out": tiles.block_q}
    described = {
        name: TensorDescriptor(x, list(x.shape), list(x.stride()), [1, 1, rows[name], block_width(x.shape[3])])
        for name, x in tensors.items()
    }
    return {**described, "TMA": True}


@functools.cache
def _has_copy_engine(device: torch.device) -> bool:
    """Hopper or newer; the interpreter plays one."""
    return device.type != "cuda" or torch.cuda.get_device_capability(device)[0] >= 9


def _descriptor_fits(x: Tensor) -> bool:
    """Whether the copy engine can read x: 16-byte alignment throughout, no axis expanded from one."""
    if not _has_copy_engine(x.device):
        return False
    steps = [stride * x.element_size() for stride in x.stride()[:3]]
    return x.data_ptr() % 16 == 0 and all(step > 0 and step % 16 == 0 for step in steps)


_fitting: dict[tuple, Tiles] = {}


def _launch(kernel: str, sources: dict[str, Tensor], causal: bool, run: Callable[[Tiles], None]) -> None:
    """`run` with the table's tile sizes, or the next smaller ones that this device has room for; remembered."""
    q, k, v = sources["q"], sources["k"], sources["v"]
    width = max(q.shape[3], v.shape[3])
    tma = q.is_cuda and all(_descriptor_fits(x) for x in sources.values())
    wanted = choose_tiles(kernel, width, causal, k.shape[2], q.element_size(), tma)
    if overridden(kernel):
        return run(wanted)
    if (
        INTERPRETED
    ):  # compiled kernels keep the table's sizes, which have been checked, and save a compilation per length
        wanted = no_larger_than(wanted, q.shape[2], k.shape[2])
    key = (q.device, kernel, width, causal, q.element_size(), wanted)
    problem = None
    for tiles in smaller(_fitting.get(key, wanted)):
        try:
            run(tiles)
        except OutOfResources as error:
            problem = error
        else:
            _fitting[key] = tiles
            return None
    raise ValueError(f"no tile size of the {kernel} kernel fits this device: {problem}; use 'sdpa'") from problem


def _run_forward(q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, plan: Plan) -> None:
    sequences = q.shape[0] * q.shape[1]
    group = q.shape[1] // k.shape[1]
    sources = {"q": q, "k": k, "v": v}

    def run(tiles: Tiles) -> None:
        _forward_kernel.forward_kernel[(triton.cdiv(q.shape[2], tiles.block_q) * sequences,)](
            out=out,
            lse=lse,
            q_strides=q.stride()[:3],
            k_strides=k.stride()[:3],
            v_strides=v.stride()[:3],
            out_strides=out.stride()[:3],
            n_sequences=sequences,
            heads_together=group * _heads_together(k, 1, plan.causal),
            **_sources(tiles, sources),
            **_shape_arguments(q, k, v, plan, tiles),
            **_document_arguments(plan),
        )

    _launch("forward", sources, plan.causal, run)


def _run_backward(
    q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, d_out: Tensor, d_lse: Tensor,
    gradients: tuple[Tensor, Tensor, Tensor], plan: Plan,
) -> None:  # fmt: skip
    d_q, d_k, d_v = gradients
    delta = torch.empty_like(lse)
    sequences, kv_sequences = q.shape[0] * q.shape[1], k.shape[0] * k.shape[1]
    group = q.shape[1] // k.shape[1]
    sources = {"q": q, "k": k, "v": v, "d_out": d_out}
    strides = {f"{name}_strides": x.stride()[:3] for name, x in sources.items()}
    rows = min(64, max(16, next_power_of_2(q.shape[2])))
    _backward_kernel.delta_kernel[(sequences, triton.cdiv(q.shape[2], rows))](
        out, d_out, d_lse, delta, out.stride()[:3], d_out.stride()[:3], q.shape[1], q.shape[2],
        v.shape[3], block_width(v.shape[3]), rows,
    )  # fmt: skip

    def run_dkv(tiles: Tiles) -> None:
        _backward_kernel.dkv_kernel[(triton.cdiv(k.shape[2], tiles.block_k) * kv_sequences,)](
            lse=lse, delta=delta, d_k=d_k, d_v=d_v, d_k_strides=d_k.stride()[:3], d_v_strides=d_v.stride()[:3],
            n_sequences=kv_sequences, heads_together=_heads_together(q, group, plan.causal),
            **strides, **_sources(tiles, sources),
            **_shape_arguments(q, k, v, plan, tiles), **_document_arguments(plan),
        )  # fmt: skip

    def run_dq(tiles: Tiles) -> None:
        _backward_kernel.dq_kernel[(triton.cdiv(q.shape[2], tiles.block_q) * sequences,)](
            lse=lse, delta=delta, d_q=d_q, d_q_strides=d_q.stride()[:3],
            n_sequences=sequences, heads_together=group * _heads_together(k, 1, plan.causal),
            **strides, **_sources(tiles, sources),
            **_shape_arguments(q, k, v, plan, tiles), **_document_arguments(plan),
        )  # fmt: skip

    _launch("dkv" if group == 1 else "dkv_grouped", sources, plan.causal, run_dkv)
    _launch("dq", sources, plan.causal, run_dq)


def _is_decoding(q: Tensor, k: Tensor, plan: Plan) -> bool:
    n_queries, rows = q.shape[2], q.shape[1] // k.shape[1] * q.shape[2]
    long = k.shape[2] >= 8 * n_queries and k.shape[2] >= 64
    return plan.doc_starts is None and long and n_queries <= DECODE_TOKENS and rows <= DECODE_ROWS


def count_parts(kv_sequences: int, n_keys: int, block_k: int, processors: int) -> int:
    """How many programs share one head's keys: enough for two a processor, none with less than a tile of keys.

    >>> count_parts(kv_sequences=8, n_keys=16384, block_k=128, processors=132), count_parts(512, 16384, 128, 132)
    (33, 1)
    """
    return max(1, min(2 * processors // kv_sequences, triton.cdiv(n_keys, block_k), MAX_PARTS))


def _run_decode(
    q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, plan: Plan, n_parts: int | None = None
) -> None:
    batch, heads, n_queries, _ = q.shape
    kv_sequences, d_v = batch * k.shape[1], v.shape[3]
    block_q = max(16, next_power_of_2(heads // k.shape[1] * n_queries))

    def run(tiles: Tiles) -> None:
        n = n_parts or count_parts(kv_sequences, k.shape[2], tiles.block_k, _processors_and_cache(q.device)[0])
        part_out = q.new_empty(n, batch, heads, n_queries, d_v, dtype=torch.float32)
        part_lse = q.new_empty(n, batch, heads, n_queries, dtype=torch.float32)
        arguments = _shape_arguments(q, k, v, plan, tiles) | {"BLOCK_Q": block_q}
        _decode_kernel.part_kernel[(kv_sequences, n)](
            q, k, v, part_out, part_lse, q.stride()[:3], k.stride()[:3], v.stride()[:3], n_parts=n, **arguments
        )
        _decode_kernel.merge_kernel[(batch * heads * n_queries,)](
            part_out, part_lse, out, lse, out.stride()[:3], heads, n_queries, n,
            d_v, block_width(d_v), next_power_of_2(n),
        )  # fmt: skip

    _launch("decode", {"q": q, "k": k, "v": v}, plan.causal, run)
