"""The forward kernel: one program computes one block of query rows against all the keys that they may see.

It keeps a running maximum, a running sum and an accumulator in registers while tiles of keys and values stream by, and
writes the output and the log-sum-exp once. Plain twin: `tiled._TiledAttention.forward`, step for step.

Source: FlashAttention-2, arXiv:2307.08691, algorithm 1; online softmax: arXiv:1805.02867.
Taught in: 08_flash_attention.
"""

# Shapes: T queries, S keys, D width of queries and keys, DV width of values; BLOCK_* are powers of two that hold them.
import triton
import triton.language as tl

from llmcore.attention._tiles import (
    LN2,
    LOG2E,
    VARYING,
    is_seen,
    key_bounds,
    load_tile,
    scores_in_bits,
    store_tile,
    tile_of_program,
    visible_keys,
)


@triton.jit
def attend_tiles(q, accumulator, maximum, total, first, end, low, high, k, v, batch, kv_head, k_strides, v_strides, n_keys,
                 scale, softcap, D: tl.constexpr, DV: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_DV: tl.constexpr,
                 BLOCK_K: tl.constexpr, MASKED: tl.constexpr, LEFT: tl.constexpr, CAPPED: tl.constexpr,
                 TMA: tl.constexpr):  # fmt: skip
    """(accumulator, maximum, total) after the tiles of keys low .. high; maxima are in bits (times log2 e).

    MASKED: some keys of these tiles are hidden from some rows; LEFT: also keys at the start of the text.
    """
    for start in range(low, high, BLOCK_K):
        k_tile = load_tile(k, batch, kv_head, start, k_strides, n_keys, D, BLOCK_K, BLOCK_D, MASKED, TMA)
        products = tl.dot(q, tl.trans(k_tile), input_precision="ieee")
        if MASKED or CAPPED:
            scores = scores_in_bits(products, scale, softcap, CAPPED)
            if MASKED:
                key = start + tl.arange(0, BLOCK_K)
                seen = is_seen(key[None, :], first[:, None], end[:, None], LEFT)
                scores = tl.where(seen, scores, float("-inf"))
            new_maximum = tl.maximum(maximum, tl.max(scores, 1))
            # A row that has seen nothing so far must not compute -inf - -inf.
            shift = tl.where(new_maximum == float("-inf"), 0.0, new_maximum)
            weights = tl.exp2(scores - shift[:, None])
        else:
            # Scaling the maximum instead of the scores leaves one multiply-add per score before its exponential.
            factor = scale * LOG2E
            new_maximum = tl.maximum(maximum, tl.max(products, 1) * factor)
            shift = new_maximum
            weights = tl.exp2(products * factor - shift[:, None])
        rescale = tl.exp2(maximum - shift)
        accumulator = accumulator * rescale[:, None]
        v_tile = load_tile(v, batch, kv_head, start, v_strides, n_keys, DV, BLOCK_K, BLOCK_DV, MASKED, TMA)
        accumulator = tl.dot(weights.to(v_tile.dtype), v_tile, accumulator, input_precision="ieee")
        total = total * rescale + tl.sum(weights, 1)
        maximum = new_maximum
    return accumulator, maximum, total


@triton.jit(do_not_specialize=VARYING)
def forward_kernel(
    q, k, v, out, lse, doc_starts, doc_ends, q_strides, k_strides, v_strides, out_strides, doc_stride,
    n_heads, n_sequences, n_queries, n_keys, scale, softcap, window, heads_together,
    GROUP: tl.constexpr, D: tl.constexpr, DV: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_DV: tl.constexpr,
    BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr,
    CAUSAL: tl.constexpr, WINDOWED: tl.constexpr, PACKED: tl.constexpr, CAPPED: tl.constexpr, TMA: tl.constexpr,
):  # fmt: skip
    """out (B, H, T, DV) and natural lse (B, H, T) of rows block * BLOCK_Q onward of one head; needs scale >= 0."""
    block, sequence = tile_of_program(tl.cdiv(n_queries, BLOCK_Q), n_sequences, heads_together, CAUSAL)
    batch, head = sequence // n_heads, sequence % n_heads
    kv_head = head // GROUP  # grouped heads read the same keys; nothing is expanded
    if PACKED:
        doc_starts += batch * doc_stride
        doc_ends += batch * doc_stride
    LEFT: tl.constexpr = WINDOWED or PACKED  # only these hide keys at the start of the text
    row = block * BLOCK_Q
    rows = row + tl.arange(0, BLOCK_Q)
    first, end = visible_keys(rows, doc_starts, doc_ends, n_queries, n_keys, window, CAUSAL, WINDOWED, PACKED)
    low, whole_low, whole_high, high = key_bounds(
        row, BLOCK_Q, doc_starts, doc_ends, n_queries, n_keys, window, CAUSAL, WINDOWED, PACKED, BLOCK_K
    )

    q_tile = load_tile(q, batch, head, row, q_strides, n_queries, D, BLOCK_Q, BLOCK_D, True, TMA)
    accumulator = tl.zeros([BLOCK_Q, BLOCK_DV], tl.float32)
    maximum = tl.full([BLOCK_Q], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_Q], tl.float32)
    if LEFT:
        accumulator, maximum, total = attend_tiles(
            q_tile, accumulator, maximum, total, first, end, low, whole_low, k, v, batch, kv_head, k_strides, v_strides,
            n_keys, scale, softcap, D, DV, BLOCK_D, BLOCK_DV, BLOCK_K, True, LEFT, CAPPED, TMA,
        )  # fmt: skip
    accumulator, maximum, total = attend_tiles(
        q_tile, accumulator, maximum, total, first, end, whole_low, whole_high, k, v, batch, kv_head, k_strides,
        v_strides,
        n_keys, scale, softcap, D, DV, BLOCK_D, BLOCK_DV, BLOCK_K, False, LEFT, CAPPED, TMA,
    )  # fmt: skip
    accumulator, maximum, total = attend_tiles(
        q_tile, accumulator, maximum, total, first, end, whole_high, high, k, v, batch, kv_head, k_strides, v_strides,
        n_keys, scale, softcap, D, DV, BLOCK_D, BLOCK_DV, BLOCK_K, True, LEFT, CAPPED, TMA,
    )  # fmt: skip

    saw_nothing = total == 0
    total = tl.where(saw_nothing, 1.0, total)
    store_tile(out, accumulator / total[:, None], batch, head, row, out_strides, n_queries, DV, BLOCK_Q, BLOCK_DV)
    log_sum = tl.where(saw_nothing, float("-inf"), (maximum + tl.log2(total)) * LN2)
    tl.store(lse + tl.cast(sequence, tl.int64) * n_queries + rows, log_sum, mask=rows < n_queries)
