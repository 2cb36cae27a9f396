# %% [markdown]
# # 08 Flash attention: tiles
# *Time: 4 hours. Builds on: the lesson 08_flash_attention.*
#
# You will write attention that never holds the table of scores: forward, backward, decoding, and its cost. The whole trick
# is that a softmax can be computed piece by piece, if one number is corrected whenever a larger one turns up. The last
# exercise is a kernel in Triton.
#
# After each exercise a cell runs `check(...)`. It tells in a second what is wrong and why. Run it as often as you like.
# Helper functions belong in the cell of the exercise that needs them.
#
# Conventions of the whole chapter:
#
# - T queries, S keys, D the width of queries and keys, D_v the width of values. Scores are $q \cdot k / \sqrt{D}$.
# - **Causal is aligned at the bottom right**: the last query sees all keys, query $i$ sees keys $0 \ldots i + S - T$.
# - A row that may attend to nothing gives zeros, and its log-sum-exp is $-\infty$. Never NaN.
# - Logarithms are natural. Scores may be of any size: exp(89) is infinite in float32, and 300 is a legal score.
# - Functions leave their inputs as they were.

# %% given="imports"
import contextlib
import math
import warnings
from types import SimpleNamespace

import torch
from torch import Tensor

from grader import check, grade

try:
    import triton
    import triton.language as tl
except ImportError:  # stand-ins, so that everything but the last exercise works without Triton
    triton, tl = SimpleNamespace(jit=lambda kernel: kernel), SimpleNamespace(constexpr=int)

# %% [markdown]
# ## 1. A softmax in pieces
#
# A row of scores arrives block by block, and nobody may look back. A safe softmax needs two numbers of the row: its
# maximum $m$ and the sum $l = \sum_j e^{x_j - m}$. Keep both for what has been seen so far. When a block raises the
# maximum from $m$ to $m'$, every term of $l$ was made with the wrong $m$. One factor mends them all:
#
# $$\sum_j e^{x_j - m'} = e^{m - m'} \sum_j e^{x_j - m}$$
#
# Two corners: before the first block the maximum is $-\infty$, and a masked row may stay there. $-\infty - (-\infty)$ is NaN.


# %% exercise="online_softmax"
def online_softmax(blocks: list[Tensor]) -> tuple[Tensor, Tensor]:
    """The maximum of each row and its sum of exp(x - maximum), over all blocks side by side.

    blocks: tensors (rows, columns) in float32 or float64, of one dtype and one number of rows; the number of columns may
        differ from block to block and is at least 1. Entries may be of any size, and -inf.

    Returns (m, l), each (rows,), in the dtype of the blocks. A row whose entries are all -inf has m = -inf and l = 0.

    >>> m, l = online_softmax([torch.tensor([[1.0, 3.0]]), torch.tensor([[3.0]])])
    >>> m, round(l.item(), 4)  # exp(1 - 3) + 1 + 1
    (tensor([3.]), 2.1353)

    Raises: ValueError for an empty list.
    """
    ### BEGIN SOLUTION
    if not blocks:
        raise ValueError("want at least one block, got an empty list")
    m = blocks[0].new_full(blocks[0].shape[:1], -math.inf)
    l = torch.zeros_like(m)
    for block in blocks:
        new_m = torch.maximum(m, block.amax(dim=1))
        shift = new_m.masked_fill(new_m == -math.inf, 0.0)  # -inf - 0 is -inf; -inf - -inf would be NaN
        l = l * torch.exp(m - shift) + torch.exp(block - shift[:, None]).sum(dim=1)
        m = new_m
    return m, l
    ### END SOLUTION


# %% check="online_softmax"
check(online_softmax)

# %% judge="online_softmax" points=4
grade(online_softmax)

# %% [markdown]
# ## 2. Merging two halves
#
# Two workers each saw half of the keys. Each hands over its maximum $m$, its sum $l$ and its **finished** output
# $o = \frac1l \sum_j e^{x_j - m} v_j$. The whole is a weighted mean of the two outputs. The weights are the sums, put on a
# common maximum. This one function is what decoding in splits, ring attention and prefix caching are made of.
#
# A worker may have seen nothing: then $m = -\infty$, $l = 0$, $o = 0$. Both may have.


# %% exercise="merge_states"
def merge_states(
    m1: Tensor, l1: Tensor, o1: Tensor, m2: Tensor, l2: Tensor, o2: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The state of attention over two disjoint sets of keys, from the states of each.

    m1, m2: maxima of the scores, (..., rows), any leading dims, float32 or float64; -inf where nothing was seen.
    l1, l2: sums of exp(score - maximum), (..., rows); 0 where nothing was seen.
    o1, o2: outputs, already divided by their sums, (..., rows, d); 0 where nothing was seen.

    Returns (m, l, o) in the same form and dtype. Where neither saw anything they are -inf, 0 and 0.

    >>> one, two = torch.tensor([1.0]), torch.tensor([2.0])
    >>> merge_states(one, one, one[:, None], one, 3 * one, two[:, None])  # weights 1 and 3
    (tensor([1.]), tensor([4.]), tensor([[1.7500]]))
    """
    ### BEGIN SOLUTION
    m = torch.maximum(m1, m2)
    shift = m.masked_fill(m == -math.inf, 0.0)
    weight1, weight2 = l1 * torch.exp(m1 - shift), l2 * torch.exp(m2 - shift)
    l = weight1 + weight2
    total = l.masked_fill(l == 0, 1.0)
    o = (weight1 / total)[..., None] * o1 + (weight2 / total)[..., None] * o2
    return m, l, o
    ### END SOLUTION


# %% check="merge_states"
check(merge_states)

# %% judge="merge_states" points=4
grade(merge_states)


# %% given="without_table"
class TableHeld(RuntimeError):
    """An array was made that holds as many values as the table of scores."""


def without_table(limit: int, name: str, *arguments):
    """What your function called `name` returns, unless it makes an array of `limit` values or more: that raises TableHeld."""

    class Watch(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, function, types, args=(), kwargs=None):
            result = function(*args, **(kwargs or {}))
            for made in result if isinstance(result, tuple | list) else [result]:
                if isinstance(made, Tensor) and made.untyped_storage().nbytes() // made.element_size() >= limit:
                    raise TableHeld(f"an array {tuple(made.shape)} was made; the table of scores holds {limit} values")
            return result

    with Watch():
        return globals()[name](*arguments)


# %% [markdown]
# ## 3. The forward pass
#
# Now with values, tile by tile. For a block of queries, walk over the blocks of keys and carry three things: the maximum
# $m$, the sum $l$, and the unfinished output $a = \sum_j e^{x_j - m} v_j$. When the maximum grows, **both** sums are
# rescaled. Divide once, at the end. What is saved for the backward pass is $L = m + \ln l$, one number for each row.
#
# The table of scores is never held, and no mask of its size either: a tile's mask is made from its row and column numbers.
# `without_table` above is how the check finds out.
#
# Not allowed: torch's attention routines.


# %% exercise="flash_forward"
def flash_forward(
    q: Tensor, k: Tensor, v: Tensor, block_q: int = 32, block_k: int = 32, causal: bool = False
) -> tuple[Tensor, Tensor]:
    """Attention, softmax(q k^T / sqrt(D)) v, computed in tiles of block_q queries and block_k keys.

    q: (..., T, D), k: (..., S, D), v: (..., S, D_v), one floating dtype and the same leading dims, of which there may be
        none. T and S are any lengths from 0 on, shorter or longer than a block, and need not be multiples of it.
    block_q, block_k: rows and columns of a tile, at least 1.
    causal: query i sees the keys 0 .. i + S - T only (aligned at the bottom right).

    Returns (o, lse): o (..., T, D_v) in q's dtype, and the natural log-sum-exp of each row's scaled scores, (..., T), in
    float32. Scores and sums are kept in float32 at least, whatever the dtype of q. A row that sees no key gives 0 and -inf.

    No array, masks included, holds as many values as the T x S table of scores (once tiles are smaller than the table).

    >>> o, lse = flash_forward(torch.zeros(1, 4), torch.zeros(2, 4), torch.tensor([[1.0], [3.0]]))
    >>> o, round(lse.item(), 4)  # the mean of the values, and ln 2
    (tensor([[2.]]), 0.6931)
    """
    ### BEGIN SOLUTION
    T, S, scale = q.shape[-2], k.shape[-2], q.shape[-1] ** -0.5
    wide = torch.promote_types(q.dtype, torch.float32)
    o = torch.zeros(*q.shape[:-1], v.shape[-1], dtype=q.dtype, device=q.device)
    lse = torch.full(q.shape[:-1], -math.inf, dtype=torch.float32, device=q.device)
    for top in range(0, T, block_q):
        rows = slice(top, min(top + block_q, T))
        q_tile = q[..., rows, :].to(wide) * scale
        m = torch.full(q_tile.shape[:-1], -math.inf, dtype=wide, device=q.device)
        l = torch.zeros_like(m)
        a = torch.zeros(*m.shape, v.shape[-1], dtype=wide, device=q.device)
        last = min(S, rows.stop + S - T) if causal else S  # tiles from here on are hidden from all rows
        for left in range(0, last, block_k):
            columns = slice(left, min(left + block_k, last))
            scores = q_tile @ k[..., columns, :].to(wide).transpose(-1, -2)
            if causal:
                row = torch.arange(rows.start, rows.stop, device=q.device)[:, None]
                column = torch.arange(columns.start, columns.stop, device=q.device)
                scores = scores.masked_fill(column > row + S - T, -math.inf)
            new_m = torch.maximum(m, scores.amax(dim=-1))
            shift = new_m.masked_fill(new_m == -math.inf, 0.0)
            p = torch.exp(scores - shift[..., None])
            rescale = torch.exp(m - shift)
            l = l * rescale + p.sum(dim=-1)
            a = a * rescale[..., None] + p @ v[..., columns, :].to(wide)
            m = new_m
        o[..., rows, :] = (a / l.masked_fill(l == 0, 1.0)[..., None]).to(q.dtype)
        lse[..., rows] = (m + torch.log(l)).float()  # -inf + log 0 = -inf
    return o, lse
    ### END SOLUTION


# %% check="flash_forward"
check(flash_forward)

# %% judge="flash_forward" points=10
grade(flash_forward)

# %% [markdown]
# ## 4. The backward pass
#
# The weights were thrown away. But one number for each row is enough to make any tile of them again, already normalised:
#
# $$P_{ij} = e^{x_{ij} - L_i}, \qquad x_{ij} = q_i \cdot k_j / \sqrt D$$
#
# With $\mathrm{d}O$ given, and $\Delta_i = \sum_c \mathrm{d}O_{ic} O_{ic}$ for each row:
#
# $$\mathrm{d}V = P^\top \mathrm{d}O \qquad \mathrm{d}X_{ij} = P_{ij}\big((\mathrm{d}O\, V^\top)_{ij} - \Delta_i\big) \qquad
# \mathrm{d}Q = \mathrm{d}X\, K / \sqrt D \qquad \mathrm{d}K = \mathrm{d}X^\top Q / \sqrt D$$
#
# Why $\Delta$ is what it is: the softmax's gradient needs $\sum_j P_{ij} (\mathrm{d}O\,V^\top)_{ij}$, and that sum over all
# keys is $\mathrm{d}O_i \cdot \sum_j P_{ij} V_j$, a product of two rows that we have.
#
# Not allowed: torch's attention routines, and autograd.


# %% exercise="flash_backward"
def flash_backward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    o: Tensor,
    lse: Tensor,
    do: Tensor,
    block_q: int = 32,
    block_k: int = 32,
    causal: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of sum(flash_forward(q, k, v)[0] * do), tile by tile, with the weights made again from lse.

    q: (..., T, D), k: (..., S, D), v: (..., S, D_v), as for the forward pass; float32 or float64.
    o, lse: what the forward pass returned: (..., T, D_v) in q's dtype and (..., T) in float32, -inf for rows that saw nothing.
    do: the gradient of o, of o's shape and dtype.
    block_q, block_k, causal: as for the forward pass; causal is aligned at the bottom right.

    Returns (dq, dk, dv) in the shapes and dtypes of q, k, v. A row that saw nothing adds nothing.

    No array, masks included, holds as many values as the T x S table of scores (once tiles are smaller than the table).

    >>> q, k, v = torch.zeros(1, 4), torch.zeros(2, 4), torch.tensor([[1.0], [3.0]])
    >>> o, lse = torch.tensor([[2.0]]), torch.tensor([math.log(2)])
    >>> flash_backward(q, k, v, o, lse, torch.ones(1, 1))[2]  # each value got half of the weight
    tensor([[0.5000],
            [0.5000]])
    """
    ### BEGIN SOLUTION
    T, S, scale = q.shape[-2], k.shape[-2], q.shape[-1] ** -0.5
    dq, dk, dv = torch.zeros_like(q), torch.zeros_like(k), torch.zeros_like(v)
    delta = (do * o).sum(dim=-1)
    safe_lse = lse.masked_fill(lse == -math.inf, math.inf).to(q.dtype)  # exp(x - inf) = 0
    for left in range(0, S, block_k):
        columns = slice(left, min(left + block_k, S))
        for top in range(0, T, block_q):
            rows = slice(top, min(top + block_q, T))
            if causal and columns.start > rows.stop - 1 + S - T:
                continue
            scores = q[..., rows, :] @ k[..., columns, :].transpose(-1, -2) * scale
            if causal:
                row = torch.arange(rows.start, rows.stop, device=q.device)[:, None]
                column = torch.arange(columns.start, columns.stop, device=q.device)
                scores = scores.masked_fill(column > row + S - T, -math.inf)
            p = torch.exp(scores - safe_lse[..., rows, None])
            dp = do[..., rows, :] @ v[..., columns, :].transpose(-1, -2)
            dx = p * (dp - delta[..., rows, None]) * scale
            dv[..., columns, :] += p.transpose(-1, -2) @ do[..., rows, :]
            dk[..., columns, :] += dx.transpose(-1, -2) @ q[..., rows, :]
            dq[..., rows, :] += dx @ k[..., columns, :]
    return dq, dk, dv
    ### END SOLUTION


# %% check="flash_backward"
check(flash_backward)

# %% judge="flash_backward" points=8
grade(flash_backward)

# %% [markdown]
# ## 5. Counting traffic
#
# Arithmetic happens in fast memory (registers, SRAM). Every value must first come from slow memory (HBM) and results go
# back. For one head of $n$ tokens and width $d$, in values:
#
# | | moved | why |
# |---|---|---|
# | `"standard"` | $4nd + 4n^2$ | Q, K, V and O once; the table of scores written, read, written as weights, read |
# | `"flash_v2"` | $2nd + 2\lceil n/b_q\rceil\, nd$ | Q and O once; for each block of queries all of K and V |
# | `"flash_v1"` | $2nd + 3\lceil n/b_k\rceil\, nd$ | K and V once; for each block of keys all of Q read, O read and written |
#
# The statistics ($m$, $l$, $L$) are a few numbers for each row and are not counted.


# %% exercise="hbm_bytes"
def hbm_bytes(n: int, d: int, block_q: int, block_k: int, algorithm: str, bytes_per_value: int = 2) -> int:
    """The bytes that one head's attention moves between slow and fast memory, forward pass, without mask.

    n: tokens, queries as many as keys. d: width of queries, keys and values.
    block_q, block_k: queries and keys of a tile. A last, shorter block counts as one.
    algorithm: "standard", "flash_v1" or "flash_v2".
    bytes_per_value: 2 for bfloat16.

    >>> hbm_bytes(1024, 64, 128, 64, "flash_v2")
    2359296

    Raises: ValueError for another algorithm.
    """
    ### BEGIN SOLUTION
    if algorithm == "standard":
        values = 4 * n * d + 4 * n * n
    elif algorithm == "flash_v1":
        values = 2 * n * d + 3 * -(-n // block_k) * n * d
    elif algorithm == "flash_v2":
        values = 2 * n * d + 2 * -(-n // block_q) * n * d
    else:
        raise ValueError(f"algorithm must be standard, flash_v1 or flash_v2, got {algorithm!r}")
    return values * bytes_per_value
    ### END SOLUTION


# %% check="hbm_bytes"
check(hbm_bytes)

# %% judge="hbm_bytes" points=3
grade(hbm_bytes)

# %% [markdown]
# ## 6. How large may a tile be?
#
# A program holds a tile of keys and one of values ($2 b d$ numbers), a tile of queries and one of outputs ($2 b_q d$), and
# the scores between them ($b_q b$). All of it must fit.


# %% exercise="max_block_k"
def max_block_k(sram_bytes: int, d: int, block_q: int, bytes_per_value: int = 2) -> int:
    """The largest b, at least 1, for which (2 b d + 2 block_q d + block_q b) * bytes_per_value is at most sram_bytes.

    sram_bytes: bytes of fast memory; a tile may fill it to the last byte.
    d: width of queries, keys and values. block_q: queries of a tile. bytes_per_value: 2 for bfloat16.

    >>> max_block_k(sram_bytes=100_000, d=64, block_q=64)  # 99,840 bytes; one more key takes 384
    217

    Raises: ValueError when not even b = 1 fits.
    """
    ### BEGIN SOLUTION
    left = sram_bytes // bytes_per_value - 2 * block_q * d
    b = left // (2 * d + block_q)
    if b < 1:
        raise ValueError(f"a tile of {block_q} queries of width {d} leaves no room for a key in {sram_bytes} bytes")
    return b
    ### END SOLUTION


# %% check="max_block_k"
check(max_block_k)

# %% judge="max_block_k" points=2
grade(max_block_k)

# %% [markdown]
# ## 7. The roof
#
# A machine does arithmetic and moves bytes at the same time. The slower of the two decides.


# %% exercise="roofline_seconds"
def roofline_seconds(flops: float, bytes_moved: float, peak_flops: float, bandwidth: float) -> float:
    """The least time that the work can take, in seconds, when arithmetic and traffic overlap.

    flops: floating-point operations of the work. bytes_moved: its traffic in bytes.
    peak_flops: operations each second that the machine can do, above 0. bandwidth: bytes each second, above 0.

    >>> roofline_seconds(flops=1e12, bytes_moved=6e9, peak_flops=1e15, bandwidth=3e12)
    0.002
    """
    ### BEGIN SOLUTION
    return max(flops / peak_flops, bytes_moved / bandwidth)
    ### END SOLUTION


# %% check="roofline_seconds"
check(roofline_seconds)

# %% judge="roofline_seconds" points=1
grade(roofline_seconds)

# %% [markdown]
# ## 8. Decoding in splits
#
# When a model writes, there is **one** query and a long cache. One block of queries means one program for each head, and
# most of a GPU idles. So the keys are split among programs, each finishes its part, and the parts are merged.
#
# You may use your `merge_states` and `flash_forward`. Not allowed: torch's attention routines.


# %% exercise="flash_decode"
def flash_decode(q: Tensor, k: Tensor, v: Tensor, n_splits: int) -> Tensor:
    """Attention of one query for each head over a cache, from n_splits parts of the keys, each softmaxed by itself and merged.

    q: (B, H, 1, D), k and v: (B, H, S, D), one floating dtype; S is at least 1. The query sees all keys.
    n_splits: how many near-equal parts, at least 1; it may exceed S, and then some parts are empty.

    Returns (B, H, 1, D) in q's dtype; sums are kept in float32 at least. The result does not depend on n_splits, up to
    rounding.

    >>> q, k = torch.zeros(1, 1, 1, 2), torch.zeros(1, 1, 3, 2)
    >>> v = torch.tensor([[0.0, 0.0], [1.0, 2.0], [2.0, 7.0]])[None, None]
    >>> flash_decode(q, k, v, n_splits=2)  # parts of 2 keys and 1 key
    tensor([[[[1., 3.]]]])
    """
    ### BEGIN SOLUTION
    S = k.shape[-2]
    wide = torch.promote_types(q.dtype, torch.float32)
    m = torch.full(q.shape[:-1], -math.inf, dtype=wide, device=q.device)
    l, o = torch.zeros_like(m), torch.zeros(q.shape, dtype=wide, device=q.device)
    for n in range(n_splits):
        start, end = n * S // n_splits, (n + 1) * S // n_splits
        if start == end:
            continue
        scores = q.to(wide) @ k[..., start:end, :].to(wide).transpose(-1, -2) * q.shape[-1] ** -0.5
        part_m = scores.amax(dim=-1)
        p = torch.exp(scores - part_m[..., None])
        part_l = p.sum(dim=-1)
        part_o = p @ v[..., start:end, :].to(wide) / part_l[..., None]
        m, l, o = merge_states(m, l, o, part_m, part_l, part_o)
    return o.to(q.dtype)
    ### END SOLUTION


# %% check="flash_decode"
check(flash_decode)

# %% judge="flash_decode" points=5
grade(flash_decode)


# %% given="launch"
@contextlib.contextmanager
def interpreted():
    """Within it Triton's own functions, such as tl.max, run in its interpreter: no GPU, no compiler, only NumPy."""
    from triton.runtime.interpreter import InterpretedFunction

    compiled = {name: part for name, part in vars(tl).items() if isinstance(part, triton.JITFunction)}
    for name, part in compiled.items():
        setattr(tl, name, InterpretedFunction(part.fn))
    try:
        with warnings.catch_warnings(action="ignore"):  # NumPy warns of every overflow
            yield InterpretedFunction
    finally:
        for name, part in compiled.items():
            setattr(tl, name, part)


def triton_softmax(x: Tensor) -> Tensor:
    """The softmax of each row of x (rows, columns), computed by `triton_softmax_kernel`, one program for each row.

    Runs on a GPU where there is one, else in the interpreter.

    Raises: ImportError where Triton is not installed; IndexError when the kernel wrote outside its row.
    """
    if not hasattr(triton, "next_power_of_2"):
        raise ImportError(
            "this exercise needs Triton, which runs on Linux: pip install triton; all others work without it"
        )
    device = "cuda" if torch.cuda.is_available() else "cpu"
    rows, columns = x.shape
    block, border = triton.next_power_of_2(columns), 77.0
    around_x = torch.full((rows + 1, columns + block), math.nan, dtype=x.dtype, device=device)
    around_out = torch.full((rows + 1, columns + block + 3), border, dtype=x.dtype, device=device)
    around_x[:rows, :columns] = x
    arguments = around_x, around_out, around_x.stride(0), around_out.stride(0), columns, block
    try:
        if device == "cuda":
            triton_softmax_kernel[(rows,)](*arguments)
        else:
            with interpreted() as interpret:
                interpret(triton_softmax_kernel.fn)[(rows,)](*arguments)
    except Exception as error:  # the interpreter wraps what went wrong
        while error.__cause__ is not None:
            error = error.__cause__
        raise error from None
    out = around_out[:rows, :columns].clone()
    around_out[:rows, :columns] = border
    if (around_out != border).any():
        raise IndexError(
            "the kernel wrote outside its row; give tl.store the mask, and use the output's own row stride"
        )
    return out.to(x.device)


# %% [markdown]
# ## 9. A kernel
#
# A Triton kernel is a program that runs many times at once, each time with another `tl.program_id(0)`. Here one program
# does the softmax of one row. It computes addresses, loads a block of values, and stores a block. Three rules:
#
# - A block's length is a power of two, `BLOCK`, known when the kernel is compiled. A row has `n_columns` values, fewer or as
#   many. `mask=` says which lanes are real. A masked load gives `other` in the rest: what must it be, for a maximum and for
#   a sum of exponentials?
# - A row starts `row_stride` values after the one before, which need not be `n_columns`.
# - Nothing stops a kernel that reads or writes outside its row. `triton_softmax` above, which launches your kernel, surrounds
#   the rows with NaN and looks afterwards whether anything around the output was touched.
#
# You need `tl.program_id`, `tl.arange`, `tl.load`, `tl.max`, `tl.exp`, `tl.sum` and `tl.store`. Without a GPU the kernel runs
# in Triton's interpreter. Triton itself runs on Linux (`pip install triton`); elsewhere this one exercise is for later.
#
# Not allowed: `tl.softmax` and torch's softmax.


# %% exercise="triton_softmax_kernel"
@triton.jit
def triton_softmax_kernel(x_ptr, out_ptr, x_row_stride, out_row_stride, n_columns, BLOCK: tl.constexpr):
    """Writes the softmax of row `tl.program_id(0)` of x to the same row of out.

    x_ptr, out_ptr: addresses of the first values of x and out. Values of a row lie side by side.
    x_row_stride, out_row_stride: how many values after a row's start the next row starts, in x and in out.
    n_columns: values in a row, at least 1. What lies behind them belongs to others: it is neither used nor changed.
    BLOCK: a power of two, n_columns or more.

    The maximum is subtracted first. Values may be -inf, though not all of a row. Exponentials and their sum are float32
    (`x.to(tl.float32)`), whatever the dtype in memory, which is float32 or float16.
    """
    ### BEGIN SOLUTION
    row = tl.program_id(0)
    column = tl.arange(0, BLOCK)
    inside = column < n_columns
    x = tl.load(x_ptr + row * x_row_stride + column, mask=inside, other=-float("inf")).to(tl.float32)
    e = tl.exp(x - tl.max(x, axis=0))
    tl.store(out_ptr + row * out_row_stride + column, e / tl.sum(e, axis=0), mask=inside)
    ### END SOLUTION


# %% check="triton_softmax_kernel"
check(triton_softmax_kernel)

# %% judge="triton_softmax_kernel" points=5
grade(triton_softmax_kernel)
