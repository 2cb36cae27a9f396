"""What the Triton kernels share: which keys a row may see, how a tile is read, and which tile a program computes.

One idea carries all masks. Causal order, a sliding window, packed documents and the end of the text each leave a query an
unbroken run of keys, from `first` up to (not including) `end`, and both grow from row to row. So the loop of a block of rows
falls into masked, whole and masked tiles, and a masked tile needs two comparisons.

The bounds of packed documents come as two int32 arrays, (1 or batch, tokens): first token and end of each token's document.

Left out on purpose: bfloat16 arithmetic outside `tl.dot` and casts (the interpreter has none), and any transpose of a
register value before `tl.dot` (Triton 3.4 to 3.7 is reported to give wrong results for that on Hopper).
Taught in: 08_flash_attention.
"""

import triton
import triton.language as tl

LOG2E = tl.constexpr(1.4426950408889634)
LN2 = tl.constexpr(0.6931471805599453)

VARYING = ("n_heads", "n_sequences", "n_keys", "n_parts", "window", "heads_together", "doc_stride")
"""Arguments whose value no kernel is compiled for: a longer cache or another batch must not mean waiting for the compiler."""


@triton.jit
def visible_keys(rows, doc_starts, doc_ends, n_queries, n_keys, window,
                 CAUSAL: tl.constexpr, WINDOWED: tl.constexpr, PACKED: tl.constexpr):  # fmt: skip
    """(first, end) of the keys that each row may see; `rows` is one row or a block. Twin: `masks.visible_mask`.

    A row past the last counts as the last, so that the bounds keep growing over a short block.
    """
    rows = tl.minimum(rows, n_queries - 1)
    position = rows + (n_keys - n_queries)  # causal order is aligned at the bottom right
    first = position * 0
    end = first + n_keys
    if PACKED:
        first = tl.load(doc_starts + rows)
        end = tl.load(doc_ends + rows)
    if CAUSAL:
        end = tl.minimum(end, position + 1)
    if WINDOWED:
        first = tl.maximum(first, position - window)
    return first, end


@triton.jit
def key_bounds(row, ROWS: tl.constexpr, doc_starts, doc_ends, n_queries, n_keys, window,
             CAUSAL: tl.constexpr, WINDOWED: tl.constexpr, PACKED: tl.constexpr, BLOCK: tl.constexpr):  # fmt: skip
    """Where the key loop of rows row .. row + ROWS starts, where its whole tiles start and end, and where it ends.

    Tiles from `low` to `whole_low` and from `whole_high` to `high` need a mask; those between need none.
    """
    top_first, top_end = visible_keys(row, doc_starts, doc_ends, n_queries, n_keys, window, CAUSAL, WINDOWED, PACKED)
    bottom = row + ROWS - 1
    bottom_first, high = visible_keys(bottom, doc_starts, doc_ends, n_queries, n_keys, window, CAUSAL, WINDOWED, PACKED)
    low = tl.maximum(top_first, 0) // BLOCK * BLOCK
    high = tl.maximum(high, low)
    whole_low = tl.minimum(tl.cdiv(tl.maximum(bottom_first, 0), BLOCK), tl.cdiv(high, BLOCK)) * BLOCK
    whole_high = tl.maximum(tl.maximum(top_end, 0) // BLOCK * BLOCK, whole_low)
    return low, whole_low, whole_high, high


@triton.jit
def row_bounds(key, KEYS: tl.constexpr, doc_starts, doc_ends, n_queries, n_keys, window,
             CAUSAL: tl.constexpr, WINDOWED: tl.constexpr, PACKED: tl.constexpr, BLOCK: tl.constexpr):  # fmt: skip
    """`key_bounds` seen from the keys key .. key + KEYS: the bounds of the loop over the rows that see some of them."""
    last = tl.minimum(key + KEYS, n_keys) - 1
    shift = n_queries - n_keys
    low = key * 0
    whole_low = low
    high = low + n_queries
    whole_high = high
    if PACKED:  # as many queries as keys
        low = tl.load(doc_starts + key)
        whole_low = tl.load(doc_starts + last)
        high = tl.load(doc_ends + last)
        whole_high = tl.load(doc_ends + key)
    if CAUSAL:
        low = tl.maximum(low, key + shift)
        whole_low = tl.maximum(whole_low, last + shift)
    if WINDOWED:
        high = tl.minimum(high, last + shift + window + 1)
        whole_high = tl.minimum(whole_high, key + shift + window + 1)
    low = low // BLOCK * BLOCK
    high = tl.maximum(high, low)
    whole_low = tl.minimum(tl.cdiv(whole_low, BLOCK), tl.cdiv(high, BLOCK)) * BLOCK
    # Rows past the last read zeros, so they add nothing and need no mask.
    whole_high = (
        tl.where(whole_high >= n_queries, tl.cdiv(n_queries, BLOCK), tl.maximum(whole_high, 0) // BLOCK) * BLOCK
    )
    return low, whole_low, tl.maximum(whole_high, whole_low), high


@triton.jit
def row_start(source, batch, head, row, strides):
    """A pointer to a row of a head, in 64 bits: tensors may hold more than 2**31 elements, tiles do not."""
    place = tl.cast(batch, tl.int64) * strides[0] + tl.cast(head, tl.int64) * strides[1]
    return source + place + tl.cast(row, tl.int64) * strides[2]


@triton.jit
def load_tile(source, batch, head, start, strides, n_rows, WIDTH: tl.constexpr, ROWS: tl.constexpr,
              BLOCK_WIDTH: tl.constexpr, CHECKED: tl.constexpr, TMA: tl.constexpr):  # fmt: skip
    """Rows start .. start + ROWS of one head, (ROWS, BLOCK_WIDTH), zeros beyond the tensor.

    `source` is a pointer, or with TMA a descriptor (Hopper's copy engine: it computes addresses and checks bounds itself).
    Without CHECKED the rows are known to exist.
    """
    if TMA:
        tile = source.load([batch, head, start, 0]).reshape(ROWS, BLOCK_WIDTH)
    else:
        rows = tl.arange(0, ROWS)
        columns = tl.arange(0, BLOCK_WIDTH)
        base = row_start(source, batch, head, start, strides)
        pointers = base + rows[:, None] * strides[2] + columns[None, :]
        if CHECKED:
            tile = tl.load(pointers, mask=(start + rows < n_rows)[:, None] & (columns < WIDTH)[None, :], other=0.0)
        elif WIDTH < BLOCK_WIDTH:
            tile = tl.load(pointers, mask=(columns < WIDTH)[None, :] & (rows >= 0)[:, None], other=0.0)
        else:
            tile = tl.load(pointers)
    return tile


@triton.jit
def store_tile(target, tile, batch, head, start, strides, n_rows,
               WIDTH: tl.constexpr, ROWS: tl.constexpr, BLOCK_WIDTH: tl.constexpr):  # fmt: skip
    """The counterpart of `load_tile`, always by pointers and always checked."""
    rows = tl.arange(0, ROWS)
    columns = tl.arange(0, BLOCK_WIDTH)
    base = row_start(target, batch, head, start, strides)
    pointers = base + rows[:, None] * strides[2] + columns[None, :]
    seen = (start + rows < n_rows)[:, None] & (columns < WIDTH)[None, :]
    tl.store(pointers, tile.to(target.dtype.element_ty), mask=seen)


@triton.jit
def tile_of_program(n_blocks, n_heads, heads_together, LONGEST_LAST: tl.constexpr):
    """(block, head) of this program: the blocks of `heads_together` heads are dealt out side by side.

    Programs start in order of their number. Heads that run together share the second-level cache; within them the longest
    loops come first, so that no long one is left over at the end.
    """
    program = tl.program_id(0)
    section = program // (heads_together * n_blocks)
    within = program - section * heads_together * n_blocks
    heads_here = tl.minimum(heads_together, n_heads - section * heads_together)
    block = within // heads_here
    if LONGEST_LAST:
        block = n_blocks - 1 - block
    return block, section * heads_together + within % heads_here


@triton.jit
def is_seen(key, first, end, LEFT: tl.constexpr):
    """Whether a key lies in a row's run; shapes broadcast. Without LEFT every run starts at key 0."""
    seen = key < end
    if LEFT:
        seen = seen & (key >= first)
    return seen


@triton.jit
def tanh(x):
    """The hyperbolic tangent by one exponential, to about 1e-7; large x give exactly 1 or -1."""
    return 1 - 2 / (1 + tl.exp2(x * (2 * LOG2E)))


@triton.jit
def scores_in_bits(products, scale, softcap, CAPPED: tl.constexpr):
    """Scores times log2(e), so that exp2 (one instruction) does for exp; `products` are q k^T.

    Twin: `tiled._tile_scores`.
    """
    if CAPPED:
        scores = (softcap * LOG2E) * tanh(products * (scale / softcap))
    else:
        scores = products * (scale * LOG2E)
    return scores
