"""The backward kernels: weights are recomputed tile by tile from the log-sum-exp, never stored.

- `delta_kernel`: one number a row, rowsum(d_out * out) minus the gradient of the log-sum-exp
- `dkv_kernel`: one program owns a block of keys and walks over the rows that see it, for every query head it serves
- `dq_kernel`: one program owns a block of rows and walks over its keys, as the forward does

No two programs write one place, so there are no atomics and two runs agree to the last bit. The price is seven matrix
products where a single pass with atomics needs five. Plain twin: `tiled._TiledAttention.backward`.

`dkv_kernel` computes transposed scores, keys by queries: weights and their gradients then enter the next product as they
are. The other way, `tl.dot(tl.trans(weights), d_out)`, transposes the cast result of a product, which Triton 3.4 to 3.7 is
reported to compile wrongly on Hopper at some block shapes (wrong gradients, no error); the ptxas 12.8.93 that Triton 3.6
brings is under the same suspicion. Only tiles that come from memory are transposed here, and the GPU tests compare every
tuned configuration's gradients with float64.

Source: FlashAttention-2, arXiv:2307.08691, algorithm 2, with the loop split in two.
Taught in: 08_flash_attention.
"""

# Shapes: T queries, S keys, D width of queries and keys, DV width of values; transposed tiles are (keys, queries).
import triton
import triton.language as tl

from llmcore.attention._tiles import (
    LOG2E,
    VARYING,
    is_seen,
    key_bounds,
    load_tile,
    row_bounds,
    scores_in_bits,
    store_tile,
    tile_of_program,
    visible_keys,
)


@triton.jit
def load_row_values(values, sequence, rows, n_queries):
    """One number per row from a (B, H, T) array, 0 for rows past the last: their d_out is 0 too, so they add nothing."""
    return tl.load(values + tl.cast(sequence, tl.int64) * n_queries + rows, mask=rows < n_queries, other=0.0)


@triton.jit(do_not_specialize=VARYING)
def delta_kernel(out, d_out, d_lse, delta, out_strides, d_out_strides, n_heads, n_queries,
                 DV: tl.constexpr, BLOCK_DV: tl.constexpr, BLOCK_Q: tl.constexpr):  # fmt: skip
    """delta (B, H, T) = rowsum(d_out * out) - d_lse: what softmax's gradient subtracts from each weight's gradient."""
    sequence = tl.program_id(0)
    row = tl.program_id(1) * BLOCK_Q
    batch, head = sequence // n_heads, sequence % n_heads
    rows = row + tl.arange(0, BLOCK_Q)
    out_tile = load_tile(out, batch, head, row, out_strides, n_queries, DV, BLOCK_Q, BLOCK_DV, True, False)
    d_out_tile = load_tile(d_out, batch, head, row, d_out_strides, n_queries, DV, BLOCK_Q, BLOCK_DV, True, False)
    total = tl.sum(out_tile.to(tl.float32) * d_out_tile.to(tl.float32), 1)
    total -= load_row_values(d_lse, sequence, rows, n_queries)
    tl.store(delta + tl.cast(sequence, tl.int64) * n_queries + rows, total, mask=rows < n_queries)


@triton.jit
def weights_and_slope(products, lse_bits, scale, softcap, CAPPED: tl.constexpr):
    """(weights, d score / d capped score) of a tile; the slope is 1 without a soft-cap.

    Where a row saw nothing its log-sum-exp is -inf and its weights are inf, until the mask makes them 0.
    """
    if CAPPED:
        capped = scores_in_bits(products, scale, softcap, CAPPED)
        ratio = capped / (softcap * LOG2E)
        weights = tl.exp2(capped - lse_bits)
        slope = 1 - ratio * ratio
    else:
        weights = tl.exp2(products * (scale * LOG2E) - lse_bits)
        slope = 1.0
    return weights, slope


@triton.jit
def add_rows(d_k, d_v, k_tile, v_tile, keys, low, high, q, d_out, lse, delta, batch, head, sequence, doc_starts, doc_ends,
             q_strides, d_out_strides, n_queries, n_keys, scale, softcap, window, D: tl.constexpr, DV: tl.constexpr,
             BLOCK_D: tl.constexpr, BLOCK_DV: tl.constexpr, BLOCK_Q: tl.constexpr, CAUSAL: tl.constexpr,
             WINDOWED: tl.constexpr, PACKED: tl.constexpr, MASKED: tl.constexpr, CAPPED: tl.constexpr,
             TMA: tl.constexpr):  # fmt: skip
    """(d_k, d_v) of one block of keys with the share of rows low .. high of one query head added; d_k lacks `scale`."""
    for row in range(low, high, BLOCK_Q):
        rows = row + tl.arange(0, BLOCK_Q)
        q_tile = load_tile(q, batch, head, row, q_strides, n_queries, D, BLOCK_Q, BLOCK_D, True, TMA)
        products_T = tl.dot(k_tile, tl.trans(q_tile), input_precision="ieee")
        lse_bits = load_row_values(lse, sequence, rows, n_queries) * LOG2E
        weights_T, slope_T = weights_and_slope(products_T, lse_bits[None, :], scale, softcap, CAPPED)
        if MASKED:
            first, end = visible_keys(rows, doc_starts, doc_ends, n_queries, n_keys, window, CAUSAL, WINDOWED, PACKED)
            seen_T = is_seen(keys[:, None], first[None, :], end[None, :], WINDOWED or PACKED)
            weights_T = tl.where(seen_T, weights_T, 0.0)
        d_out_tile = load_tile(d_out, batch, head, row, d_out_strides, n_queries, DV, BLOCK_Q, BLOCK_DV, True, TMA)
        d_v = tl.dot(weights_T.to(d_out_tile.dtype), d_out_tile, d_v, input_precision="ieee")
        d_weights_T = tl.dot(v_tile, tl.trans(d_out_tile), input_precision="ieee")
        row_delta = load_row_values(delta, sequence, rows, n_queries)
        d_scores_T = weights_T * (d_weights_T - row_delta[None, :]) * slope_T
        d_k = tl.dot(d_scores_T.to(q_tile.dtype), q_tile, d_k, input_precision="ieee")
    return d_k, d_v


@triton.jit(do_not_specialize=VARYING)
def dkv_kernel(
    q, k, v, d_out, lse, delta, d_k, d_v, doc_starts, doc_ends,
    q_strides, k_strides, v_strides, d_out_strides, d_k_strides, d_v_strides, doc_stride,
    n_heads, n_sequences, n_queries, n_keys, scale, softcap, window, heads_together,
    GROUP: tl.constexpr, D: tl.constexpr, DV: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_DV: tl.constexpr,
    BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr,
    CAUSAL: tl.constexpr, WINDOWED: tl.constexpr, PACKED: tl.constexpr, CAPPED: tl.constexpr, TMA: tl.constexpr,
):  # fmt: skip
    """d_k and d_v of keys block * BLOCK_K onward of one key head, summed over the query heads that read it."""
    block, kv_sequence = tile_of_program(tl.cdiv(n_keys, BLOCK_K), n_sequences, heads_together, False)
    n_kv_heads = n_heads // GROUP
    batch, kv_head = kv_sequence // n_kv_heads, kv_sequence % n_kv_heads
    if PACKED:
        doc_starts += batch * doc_stride
        doc_ends += batch * doc_stride
    key = block * BLOCK_K
    keys = key + tl.arange(0, BLOCK_K)
    low, whole_low, whole_high, high = row_bounds(
        key, BLOCK_K, doc_starts, doc_ends, n_queries, n_keys, window, CAUSAL, WINDOWED, PACKED, BLOCK_Q
    )
    k_tile = load_tile(k, batch, kv_head, key, k_strides, n_keys, D, BLOCK_K, BLOCK_D, True, TMA)
    v_tile = load_tile(v, batch, kv_head, key, v_strides, n_keys, DV, BLOCK_K, BLOCK_DV, True, TMA)
    d_k_sum = tl.zeros([BLOCK_K, BLOCK_D], tl.float32)
    d_v_sum = tl.zeros([BLOCK_K, BLOCK_DV], tl.float32)
    for member in range(GROUP):
        head = kv_head * GROUP + member
        sequence = batch * n_heads + head
        if CAUSAL or PACKED:  # only these hide keys from the first rows
            d_k_sum, d_v_sum = add_rows(
                d_k_sum, d_v_sum, k_tile, v_tile, keys, low, whole_low, q, d_out, lse, delta, batch, head, sequence,
                doc_starts, doc_ends,
                q_strides, d_out_strides, n_queries, n_keys, scale, softcap, window,
                D, DV, BLOCK_D, BLOCK_DV, BLOCK_Q, CAUSAL, WINDOWED, PACKED, True, CAPPED, TMA,
            )  # fmt: skip
        d_k_sum, d_v_sum = add_rows(
            d_k_sum, d_v_sum, k_tile, v_tile, keys, whole_low, whole_high, q, d_out, lse, delta, batch, head,
            sequence, doc_starts, doc_ends,
            q_strides, d_out_strides, n_queries, n_keys, scale, softcap, window,
            D, DV, BLOCK_D, BLOCK_DV, BLOCK_Q, CAUSAL, WINDOWED, PACKED, False, CAPPED, TMA,
        )  # fmt: skip
        if WINDOWED or PACKED:  # and only these from the last
            d_k_sum, d_v_sum = add_rows(
                d_k_sum, d_v_sum, k_tile, v_tile, keys, whole_high, high, q, d_out, lse, delta, batch, head, sequence,
                doc_starts, doc_ends,
                q_strides, d_out_strides, n_queries, n_keys, scale, softcap, window,
                D, DV, BLOCK_D, BLOCK_DV, BLOCK_Q, CAUSAL, WINDOWED, PACKED, True, CAPPED, TMA,
            )  # fmt: skip
    store_tile(d_k, d_k_sum * scale, batch, kv_head, key, d_k_strides, n_keys, D, BLOCK_K, BLOCK_D)
    store_tile(d_v, d_v_sum, batch, kv_head, key, d_v_strides, n_keys, DV, BLOCK_K, BLOCK_DV)


@triton.jit
def add_keys(d_q, q_tile, d_out_tile, lse_bits, row_delta, first, end, low, high, k, v, batch, kv_head, k_strides, v_strides,
             n_keys, scale, softcap, D: tl.constexpr, DV: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_DV: tl.constexpr,
             BLOCK_K: tl.constexpr, MASKED: tl.constexpr, LEFT: tl.constexpr, CAPPED: tl.constexpr,
             TMA: tl.constexpr):  # fmt: skip
    """d_q of one block of rows with the share of keys low .. high added; it lacks `scale`."""
    for start in range(low, high, BLOCK_K):
        k_tile = load_tile(k, batch, kv_head, start, k_strides, n_keys, D, BLOCK_K, BLOCK_D, MASKED, TMA)
        v_tile = load_tile(v, batch, kv_head, start, v_strides, n_keys, DV, BLOCK_K, BLOCK_DV, MASKED, TMA)
        products = tl.dot(q_tile, tl.trans(k_tile), input_precision="ieee")
        weights, slope = weights_and_slope(products, lse_bits[:, None], scale, softcap, CAPPED)
        if MASKED:
            key = start + tl.arange(0, BLOCK_K)
            seen = is_seen(key[None, :], first[:, None], end[:, None], LEFT)
            weights = tl.where(seen, weights, 0.0)
        d_weights = tl.dot(d_out_tile, tl.trans(v_tile), input_precision="ieee")
        d_scores = weights * (d_weights - row_delta[:, None]) * slope
        d_q = tl.dot(d_scores.to(k_tile.dtype), k_tile, d_q, input_precision="ieee")
    return d_q


@triton.jit(do_not_specialize=VARYING)
def dq_kernel(
    q, k, v, d_out, lse, delta, d_q, doc_starts, doc_ends,
    q_strides, k_strides, v_strides, d_out_strides, d_q_strides, doc_stride,
    n_heads, n_sequences, n_queries, n_keys, scale, softcap, window, heads_together,
    GROUP: tl.constexpr, D: tl.constexpr, DV: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_DV: tl.constexpr,
    BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr,
    CAUSAL: tl.constexpr, WINDOWED: tl.constexpr, PACKED: tl.constexpr, CAPPED: tl.constexpr, TMA: tl.constexpr,
):  # fmt: skip
    """d_q of rows block * BLOCK_Q onward of one query head."""
    block, sequence = tile_of_program(tl.cdiv(n_queries, BLOCK_Q), n_sequences, heads_together, CAUSAL)
    batch, head = sequence // n_heads, sequence % n_heads
    kv_head = head // GROUP
    if PACKED:
        doc_starts += batch * doc_stride
        doc_ends += batch * doc_stride
    row = block * BLOCK_Q
    rows = row + tl.arange(0, BLOCK_Q)
    first, end = visible_keys(rows, doc_starts, doc_ends, n_queries, n_keys, window, CAUSAL, WINDOWED, PACKED)
    low, whole_low, whole_high, high = key_bounds(
        row, BLOCK_Q, doc_starts, doc_ends, n_queries, n_keys, window, CAUSAL, WINDOWED, PACKED, BLOCK_K
    )
    q_tile = load_tile(q, batch, head, row, q_strides, n_queries, D, BLOCK_Q, BLOCK_D, True, TMA)
    d_out_tile = load_tile(d_out, batch, head, row, d_out_strides, n_queries, DV, BLOCK_Q, BLOCK_DV, True, TMA)
    lse_bits = load_row_values(lse, sequence, rows, n_queries) * LOG2E
    row_delta = load_row_values(delta, sequence, rows, n_queries)
    d_q_sum = tl.zeros([BLOCK_Q, BLOCK_D], tl.float32)
    LEFT: tl.constexpr = WINDOWED or PACKED
    if LEFT:
        d_q_sum = add_keys(
            d_q_sum, q_tile, d_out_tile, lse_bits, row_delta, first, end, low, whole_low, k, v, batch, kv_head,
            k_strides, v_strides,
            n_keys, scale, softcap, D, DV, BLOCK_D, BLOCK_DV, BLOCK_K, True, LEFT, CAPPED, TMA,
        )  # fmt: skip
    d_q_sum = add_keys(
        d_q_sum, q_tile, d_out_tile, lse_bits, row_delta, first, end, whole_low, whole_high, k, v, batch, kv_head,
        k_strides, v_strides,
        n_keys, scale, softcap, D, DV, BLOCK_D, BLOCK_DV, BLOCK_K, False, LEFT, CAPPED, TMA,
    )  # fmt: skip
    d_q_sum = add_keys(
        d_q_sum, q_tile, d_out_tile, lse_bits, row_delta, first, end, whole_high, high, k, v, batch, kv_head,
        k_strides, v_strides,
        n_keys, scale, softcap, D, DV, BLOCK_D, BLOCK_DV, BLOCK_K, True, LEFT, CAPPED, TMA,
    )  # fmt: skip
    store_tile(d_q, d_q_sum * scale, batch, head, row, d_q_strides, n_queries, D, BLOCK_Q, BLOCK_D)
