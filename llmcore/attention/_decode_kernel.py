"""Split-K decoding: few queries against a long cache, with the keys dealt out to many programs.

One query gives the forward kernel one program a head, and most of the GPU would wait. Here each head's keys are cut into
parts, a program a part, and the parts' outputs are merged by their log-sum-exps. The query heads that share a key head ride
in one tile, so the cache is read once for all of them. Twins: `tiled` for a part, `tiled.merge_parts` for the merge.

Source: Flash-Decoding (Dao, Haziza, Massa, Sizov 2023); the merge is that of FlashAttention's blocks, arXiv:2205.14135.
Taught in: 08_flash_attention.
"""

# Shapes: T queries a head, S keys, G query heads a key head serves, N parts; the rows of a tile are the G * T queries.
import triton
import triton.language as tl

from llmcore.attention._forward_kernel import attend_tiles
from llmcore.attention._tiles import LN2, LOG2E, VARYING, key_bounds, row_start, visible_keys


@triton.jit(do_not_specialize=VARYING)
def part_kernel(
    q, k, v, part_out, part_lse, q_strides, k_strides, v_strides,
    n_heads, n_queries, n_keys, n_parts, scale, softcap, window,
    GROUP: tl.constexpr, D: tl.constexpr, DV: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_DV: tl.constexpr,
    BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr, CAUSAL: tl.constexpr, WINDOWED: tl.constexpr, CAPPED: tl.constexpr,
):  # fmt: skip
    """part_out (N, B, H, T, DV) and part_lse (N, B, H, T), both float32: the queries against one part of the keys."""
    kv_sequence, part = tl.program_id(0), tl.program_id(1)
    n_kv_heads = n_heads // GROUP
    batch, kv_head = kv_sequence // n_kv_heads, kv_sequence % n_kv_heads
    member = tl.arange(0, BLOCK_Q)
    real = member < GROUP * n_queries
    head, row = kv_head * GROUP + member // n_queries, member % n_queries
    first, end = visible_keys(row, None, None, n_queries, n_keys, window, CAUSAL, WINDOWED, False)
    low, whole_low, whole_high, high = key_bounds(
        part * 0, BLOCK_Q, None, None, n_queries, n_keys, window, CAUSAL, WINDOWED, False, BLOCK_K
    )
    part_keys = tl.cdiv(tl.cdiv(high - low, n_parts), BLOCK_K) * BLOCK_K
    low = tl.minimum(low + part * part_keys, high)
    high = tl.minimum(low + part_keys, high)
    whole_low = tl.minimum(tl.maximum(whole_low, low), high)
    whole_high = tl.minimum(tl.maximum(whole_high, whole_low), high)

    column = tl.arange(0, BLOCK_D)
    q_rows = row_start(q, batch, head, row, q_strides)
    q_tile = tl.load(q_rows[:, None] + column[None, :], mask=real[:, None] & (column < D)[None, :], other=0.0)
    accumulator = tl.zeros([BLOCK_Q, BLOCK_DV], tl.float32)
    maximum = tl.full([BLOCK_Q], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_Q], tl.float32)
    if WINDOWED:
        accumulator, maximum, total = attend_tiles(
            q_tile, accumulator, maximum, total, first, end, low, whole_low, k, v, batch, kv_head, k_strides, v_strides,
            n_keys, scale, softcap, D, DV, BLOCK_D, BLOCK_DV, BLOCK_K, True, WINDOWED, CAPPED, False,
        )  # fmt: skip
    accumulator, maximum, total = attend_tiles(
        q_tile, accumulator, maximum, total, first, end, whole_low, whole_high, k, v, batch, kv_head, k_strides, v_strides,
        n_keys, scale, softcap, D, DV, BLOCK_D, BLOCK_DV, BLOCK_K, False, WINDOWED, CAPPED, False,
    )  # fmt: skip
    accumulator, maximum, total = attend_tiles(
        q_tile, accumulator, maximum, total, first, end, whole_high, high, k, v, batch, kv_head, k_strides, v_strides,
        n_keys, scale, softcap, D, DV, BLOCK_D, BLOCK_DV, BLOCK_K, True, WINDOWED, CAPPED, False,
    )  # fmt: skip

    saw_nothing = total == 0
    total = tl.where(saw_nothing, 1.0, total)
    n_rows = tl.num_programs(0) * GROUP * n_queries  # B * H * T
    place = tl.cast(part, tl.int64) * n_rows + kv_sequence * GROUP * n_queries + member
    column_v = tl.arange(0, BLOCK_DV)
    tl.store(
        part_out + place[:, None] * DV + column_v[None, :], accumulator / total[:, None],
        mask=real[:, None] & (column_v < DV)[None, :],
    )  # fmt: skip
    log_sum = tl.where(saw_nothing, float("-inf"), (maximum + tl.log2(total)) * LN2)
    tl.store(part_lse + place, log_sum, mask=real)


@triton.jit(do_not_specialize=VARYING)
def merge_kernel(part_out, part_lse, out, lse, out_strides, n_heads, n_queries, n_parts,
                 DV: tl.constexpr, BLOCK_DV: tl.constexpr, BLOCK_PARTS: tl.constexpr):  # fmt: skip
    """One row of out and lse: the parts' means, weighted by their sums of exponentials."""
    place, n_rows = tl.program_id(0), tl.num_programs(0)
    row, sequence = place % n_queries, place // n_queries
    parts, columns = tl.arange(0, BLOCK_PARTS), tl.arange(0, BLOCK_DV)
    places = tl.cast(parts, tl.int64) * n_rows + place
    log_sums = tl.load(part_lse + places, mask=parts < n_parts, other=float("-inf"))
    largest = tl.max(log_sums, 0)
    shift = tl.where(largest == float("-inf"), 0.0, largest)
    weights = tl.exp2((log_sums - shift) * LOG2E)
    total = tl.sum(weights, 0)
    outs = tl.load(
        part_out + places[:, None] * DV + columns[None, :],
        mask=(parts < n_parts)[:, None] & (columns < DV)[None, :], other=0.0,
    )  # fmt: skip
    saw_nothing = total == 0
    total = tl.where(saw_nothing, 1.0, total)
    merged = tl.sum(outs * weights[:, None], 0) / total
    target = row_start(out, sequence // n_heads, sequence % n_heads, row, out_strides)
    tl.store(target + columns, merged.to(out.dtype.element_ty), mask=columns < DV)
    tl.store(lse + place, tl.where(saw_nothing, float("-inf"), shift + tl.log2(total) * LN2))
