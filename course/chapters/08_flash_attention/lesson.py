# %% [markdown]
# # 08 Flash attention: tiles
# *Time: 120 minutes. Builds on: 02_attention_scaling (attention, masks, the roofline), 05_kl_entropy (log-sum-exp).*
#
# Flash attention computes what the formula says, does slightly more arithmetic, and is several times faster. It changes
# one thing: which numbers travel between slow and fast memory. This lesson counts that traffic, value by value.
#
# After this lesson you can
# - say whether bytes or FLOPs decide, for a machine and a job, and prove it on a roofline;
# - compute a softmax in one pass, and attention tile by tile, forward and backward;
# - count the traffic of the table, of FlashAttention 1 and of FlashAttention 2, before running anything;
# - say what a larger tile, a causal mask, a split of the keys or a recomputation costs and saves;
# - read a Triton kernel line by line.
#
# Ten claims from study notes are tested on the way. Each gets a cell that computes its verdict.

# %% tags=["parameters"]
SCALE = "quick"  # "quick" under a minute, "full" for a patient CPU, "gpu" for a GPU

# %%
import ast
import importlib.util
import itertools
import math
import os
from pathlib import Path

import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # before Triton is imported: its interpreter runs kernels on a CPU

from llmcore import accounting, claims, figures
from llmcore.attention import attention, dispatch, flash_attention, tiled
from llmcore.figures import attention as roofs
from llmcore.figures import tiles as pictures
from llmcore.meter import Meter, SlowMemory, blocks, flops_of, seconds_of

torch.set_num_threads(1)
torch.set_default_dtype(torch.float64)
LARGE = SCALE != "quick"


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def heads(n, d=64, batch=(1, 1), dtype=torch.float32):
    """Queries, keys and values (*batch, n, d)."""
    return [normal(*batch, n, d, seed=seed, dtype=dtype) for seed in (1, 2, 3)]


# %% [markdown]
# ## 1. Predict first
#
# A model with 32 heads reads a document of 16,384 tokens. One layer's queries, keys, values and outputs, width 128 for each
# head, take 537 MB in bf16. **How much do the tables of scores take?** Write down a number, then run the cell.

# %%
for n in (1_024, 16_384, 131_072):
    vectors, table = 2 * 4 * 32 * n * 128, 2 * 32 * n * n
    print(f"{n:7,} tokens: vectors {vectors / 1e9:6.2f} GB, tables of scores {table / 1e9:8.2f} GB")

# %% [markdown]
# Each number of the table is made, used twice, and thrown away. Yet standard attention writes all of them to memory and
# reads them again. The memory of a GPU is large and slow (141 GB at 4.8 TB/s on an H200). Beside each arithmetic unit stands
# a small and fast one (228 KB for each of 132 processors). Everything in this lesson is about staying in the small one.
#
# ## 2. Bytes and FLOPs
#
# A machine computes and moves bytes at the same time, so a job takes at least
# $\max(\text{FLOPs} / \text{peak},\ \text{bytes} / \text{bandwidth})$. What decides is the job's **intensity**, FLOPs per byte. The two
# terms are equal at the machine's ridge, peak / bandwidth. For one head of $n$ tokens and width $d$:
#
# - FLOPs: two products of $n \times d$ and $d \times n$ matrices, $4 n^2 d$ in all.
# - Values moved, standard: Q, K, V, O once, and the table four times (scores out, scores in, weights out, weights in):
#   $4nd + 4n^2$.
#
# For large $n$ the intensity in bf16 is $4n^2 d / 8n^2 = d/2$: 64 FLOPs per byte at $d = 128$. It does not grow with $n$.
#
# **Claim C08.01: standard attention is limited by memory traffic, not arithmetic.** Predict: on how many of these chips?

# %%
CHIPS = {name: chip for name, chip in accounting.HARDWARE.items() if "float16" in chip.flops}
RIDGE = {name: chip.flops["float16"] / chip.bandwidth for name, chip in CHIPS.items()}


def place(n, d, values, chip):
    """Where one head's forward pass stands under the chip's roof when it moves `values` numbers of 2 bytes."""
    flops, hardware = accounting.attention_flops(1, 1, n, n, d), CHIPS[chip]
    return accounting.roofline(flops, 2 * values, hardware.flops["float16"], hardware.bandwidth)


CASES = [(n, d) for n in (1024, 4096, 16_384) for d in (64, 128)]
spots = {(chip, n, d): place(n, d, 4 * n * d + 4 * n * n, chip) for chip in CHIPS for n, d in CASES}
claims.judge(
    "C08.01",
    confirmed=all(spot.bound == "memory" for spot in spots.values()),
    evidence={f"FLOPs per byte, {n:,} tokens, width {d}": spots["H200", n, d].intensity for n, d in CASES[2:]}
    | {f"ridge of {name}": ridge for name, ridge in RIDGE.items()},
    note="A processor core is another machine: the next cell measures yours.",
)

# %% tags=["nbval-ignore-output"]
square, long = normal(768, 768, dtype=torch.float32), normal(16_000_000, dtype=torch.float32)
my_flops = 2 * 768**3 / seconds_of(torch.mm, square, square)
my_bandwidth = 8 * len(long) / seconds_of(long.clone)
print(f"one core: {my_flops / 1e9:.0f} GFLOP/s, {my_bandwidth / 1e9:.1f} GB/s, ridge {my_flops / my_bandwidth:.0f}")

# %% [markdown]
# Play: pull the tile up and watch flash attention climb the slope while the table stays where it is. The traffic of flash
# attention is derived in section 6. For now: with $b$ queries in a tile its intensity is about $b$.


# %%
def draw_roof(chip, tokens, tile):
    spots = {
        "standard": place(tokens, 128, 4 * tokens * (128 + tokens), chip),
        f"flash, tiles of {tile}": place(tokens, 128, 256 * tokens * (1 + tokens // tile), chip),
    }
    points = {name: (spot.intensity, spot.flops_per_s) for name, spot in spots.items()}
    before, after = (spot.seconds for spot in spots.values())
    chip = CHIPS[chip]
    title = f"{chip.name}, width 128: {before / after:.1f} times faster"
    return roofs.roofline(points, peak_flops=chip.flops["float16"], bandwidth=chip.bandwidth, title=title)


figures.interactive(
    draw_roof,
    alt=lambda chip, tile, **_: f"Roofline of {chip}: standard attention low on the slope, tiles of {tile} above",
    chip=["H200", "A100-SXM4-80GB", "RTX 4090", "B200"],
    tokens=figures.Steps([1024, 4096, 16_384], default=4096),
    tile=figures.Steps([16, 32, 64, 128, 256, 512], default=128),
)
climb = {tile: round(place(4096, 128, 256 * 4096 * (1 + 4096 // tile), "H200").intensity) for tile in (16, 128, 256)}
print("4,096 tokens, FLOPs per byte by tile:", climb)

# %% [markdown]
# On paper a tile of 128 doubles the speed at width 128. Real gains are larger: a plain implementation makes more trips than our
# four (scaling, mask, a softmax's passes), and keys that several programs read at once come from a cache in between.
#
# ## 3. A softmax in three passes, two, and one
#
# To count traffic we need a memory that counts. `SlowMemory` holds matrices. They can only be loaded and stored, block by
# block, and every value that passes is written down.
# One query, 4,096 scores $x_j$, and what attention wants of them: $\sum_j \mathrm{softmax}(x)_j v_j$. The fast memory holds 256
# scores at a time. A safe softmax needs the maximum $m$, then the sum $l = \sum_j e^{x_j - m}$, then the weights: **three passes**.
#
# Two of them merge. Keep $m$ and $l$ of what was seen so far. A block with a larger maximum $m'$ arrives: every old term
# $e^{x - m}$ should have been $e^{x - m'}$, and one factor mends them all, $l \leftarrow l \cdot e^{m - m'} + \sum_{\text{block}} e^{x_j - m'}$.
# Try it: of 1 and 3 you keep $m = 3$, $l = e^{-2} + 1 = 1.135$. A 5 arrives: $l = 1.135\,e^{-2} + 1 = 1.154$, as if all three came at once.
# That leaves **two passes**. Now the last one: the weights are only needed to sum values. Let $a = \sum_j e^{x_j - m} v_j$ over what was
# seen. The same factor mends it. At the end $a / l$ is the answer: **one pass**.
#
# **Claim C08.02: safe softmax's three passes become two, and with V folded in, one.** Predict: how far will the three
# results be apart, in float64?


# %%
def three_passes(memory, parts):
    m = max(memory.load("x", part).max() for part in parts)
    l = sum((memory.load("x", part) - m).exp().sum() for part in parts)
    return sum(((memory.load("x", part) - m).exp() / l) @ memory.load("V", part) for part in parts)


def two_passes(memory, parts):
    m, l = torch.tensor(-math.inf), 0.0
    for part in parts:
        x = memory.load("x", part)
        new = torch.maximum(m, x.max())
        m, l = new, l * (m - new).exp() + (x - new).exp().sum()
    return sum(((memory.load("x", part) - m).exp() / l) @ memory.load("V", part) for part in parts)


def one_pass(memory, parts):
    m, l, a = torch.tensor(-math.inf), 0.0, 0.0
    for part in parts:
        x = memory.load("x", part)
        new = torch.maximum(m, x.max())
        rescale, p = (m - new).exp(), (x - new).exp()
        m, l, a = new, l * rescale + p.sum(), a * rescale + p @ memory.load("V", part)
    return a / l


x, V = 20 * normal(4096, seed=1), normal(4096, 8, seed=2)
reads, results = {}, {}
for way in (three_passes, two_passes, one_pass):
    memory = SlowMemory(x=x, V=V)
    results[way.__name__] = way(memory, blocks(4096, 256))
    reads[f"times each score is read, {way.__name__}"] = memory.moved["load x"] / 4096
want = torch.softmax(x, 0) @ V
apart = max((result - want).abs().max().item() for result in results.values())
claims.judge(
    "C08.02",
    confirmed=[*reads.values()] == [3, 2, 1] and apart < 1e-12,
    evidence=reads | {"largest difference from torch.softmax, float64": f"{apart:.0e}"},
    note="Not bit for bit: a sum in another order rounds in another way. In float64 that shows in the 16th digit.",
)

# %% [markdown]
# ## 4. Tiles
#
# Now $n$ queries. Cut the table of scores into tiles of $b_q$ queries and $b_k$ keys. Each row carries its own $m$, $l$ and $a$. For
# one block of queries, walk over the blocks of keys. One step looks like this; it is the whole of flash attention.


# %%
def one_tile(q, k, v, m, l, a, hidden=None):
    """(m, l, a) of a block of queries after one more block of keys; every row must see a key of its first block."""
    x = q @ k.T / math.sqrt(q.shape[1])
    if hidden is not None:
        x = x.masked_fill(hidden, -math.inf)
    new = torch.maximum(m, x.amax(1))
    rescale, p = torch.exp(m - new), torch.exp(x - new[:, None])
    return new, l * rescale + p.sum(1), a * rescale[:, None] + p @ v


def start(rows, d):
    return torch.full((rows,), -math.inf), torch.zeros(rows), torch.zeros(rows, d)


def flash_v2(memory, block_q, block_k, causal=False, after_tile=lambda *_: None):
    """Queries outside, keys inside: Q and O pass once, K and V once for each block of queries."""
    n, d = memory.matrices["Q"].shape
    for rows in blocks(n, block_q):
        q, state = memory.load("Q", rows), start(len(range(n)[rows]), d)
        for columns in blocks(n, block_k):
            if causal and columns.start >= rows.stop:
                break  # all of this tile, and of those to its right, is hidden
            hidden = torch.arange(n)[columns] > torch.arange(n)[rows, None] if causal else None
            state = one_tile(q, memory.load("K", columns), memory.load("V", columns), *state, hidden)
            after_tile(rows, columns, *state)
        memory.store("O", state[2] / state[1][:, None], rows)


def flash_v1(memory, block_q, block_k, causal=False, after_tile=lambda *_: None):
    """Keys outside, queries inside: K and V pass once, Q, and O in both directions, once for each block of keys."""
    n, d = memory.matrices["Q"].shape
    m, l, _ = start(n, d)
    for columns in blocks(n, block_k):
        k, v = memory.load("K", columns), memory.load("V", columns)
        for rows in blocks(n, block_q):
            if causal and columns.start >= rows.stop:
                continue
            hidden = torch.arange(n)[columns] > torch.arange(n)[rows, None] if causal else None
            unfinished = memory.load("O", rows) * l[rows, None]  # O is kept finished; m and l are few, not counted
            m[rows], l[rows], a = one_tile(memory.load("Q", rows), k, v, m[rows], l[rows], unfinished, hidden)
            memory.store("O", a / l[rows, None], rows)
            after_tile(rows, columns, m[rows], l[rows], a)


def standard(memory, *_, **__):
    x = memory.load("Q") @ memory.load("K").T / math.sqrt(memory.matrices["Q"].shape[1])
    memory.store("X", x)
    memory.store("P", torch.softmax(memory.load("X"), -1))
    memory.store("O", memory.load("P") @ memory.load("V"))


def new_memory(n, d, seed=0):
    names = {name: normal(n, d, seed=seed + i) for i, name in enumerate("QKV")}
    return SlowMemory(**names, O=torch.zeros(n, d), X=torch.zeros(n, n), P=torch.zeros(n, n))


ALGORITHMS = {"standard": standard, "flash v1": flash_v1, "flash v2": flash_v2}
for name, algorithm in ALGORITHMS.items():
    memory = new_memory(96, 16)
    algorithm(memory, 24, 32)
    Q, K, V, O, *_ = memory.matrices.values()
    off = (O - torch.softmax(Q @ K.T / 4, -1) @ V).abs().max()
    print(f"{name:9s} moved {memory.total:6,} values, off by {off:.0e}")

# %% [markdown]
# Press play and watch one walk. Orange is in fast memory. What happens to the sums when a row's maximum jumps? Switch the
# order to v1 and look at which blocks come again and again. Switch the mask on and look at what is never computed.


# %%
def walk(order, causal, n=12, d=4):
    """The tiles in their order, and after each the statistics of all rows and the values moved by then."""
    memory, m, l, _ = new_memory(n, d, seed=30), *start(n, d)
    memory.matrices["Q"] *= 2
    tiles, states = [], []

    def note(rows, columns, row_m, row_l, _):
        m[rows], l[rows] = row_m, row_l
        tiles.append((rows.start, rows.stop, columns.start, columns.stop))
        states.append({"maxima": m.clone(), "sums": l.clone(), "moved": memory.total})

    ALGORITHMS[f"flash {order}"](memory, 4, 3, causal, note)
    final = {"final_maxima": m, "final_sums": l, "standard": 4 * n * d + 4 * n * n, "lowest": -5.0, "highest": 8.0}
    return tiles, [state | final for state in states], memory.total


def draw_walk(step, order, causal):
    tiles, states, _ = walk(order, causal)
    step = min(step, len(tiles) - 1)
    return pictures.tile_player(12, tiles, step, **states[step], title=f"order of {order}")


figures.interactive(
    draw_walk,
    alt=lambda step, order, causal: (
        f"Tile {step + 1} of the walk of {order}, {'causal' if causal else 'no mask'}: "
        "which is in fast memory, each row's maximum and sum so far, values moved"
    ),
    play="step",
    step=(0, 11, 5),
    order=["v2", "v1"],
    causal=False,
)
for order, causal in itertools.product(("v2", "v1"), (False, True)):
    print(
        f"{order}, {'causal' if causal else 'no mask'}: {len(walk(order, causal)[0])} tiles, {walk(order, causal)[2]} values"
    )

# %% [markdown]
# ## 5. Exact
#
# Many fast attentions approximate: windows, low ranks, hashing. **Claim C08.06: the result is exact, not an approximation.**
# Exact cannot mean equal bits: floating-point sums depend on their order. A fair test: compute in float32, compare with
# float64, and see whether tiles are further off than the table is. Then change only the order of the keys, which changes
# nothing in mathematics. A window of 128 keys stands for a true approximation.

# %%
q, k, v = heads(512, batch=(1, 2), dtype=torch.float64)
q *= 4
single = [x.float() for x in (q, k, v)]
shuffle = torch.randperm(512, generator=torch.Generator().manual_seed(6))
shuffled = [single[0], single[1][:, :, shuffle], single[2][:, :, shuffle]]
outs = {
    "table in float32": attention(*single, backend="reference"),
    "tiles in float32": attention(*single, backend="tiled"),
    "tiles, keys in another order": attention(*shuffled, backend="tiled"),
    "a window of 128 keys": attention(q, k, v, window=64, backend="reference"),
}
truth = attention(q, k, v, backend="reference")
off = {name: (out - truth).abs().max().item() for name, out in outs.items()}
moved = (outs["tiles in float32"] - outs["tiles, keys in another order"]).abs().max()
tiles_off = off["tiles in float32"]
claims.judge(
    "C08.06",
    confirmed=tiles_off < 5 * off["table in float32"] and tiles_off < 1e-3 * off["a window of 128 keys"],
    evidence={f"off by, {name}": f"{error:.0e}" for name, error in off.items()}
    | {"the order of the keys changes the result by": f"{moved:.0e}"},
    note="Exact up to rounding, and the rounding is that of the table. The order of the keys alone changes as much.",
)

# %% [markdown]
# ## 6. Counting traffic
#
# Count the walks of section 4 on paper, in values for one head.
#
# - **v2**: Q and O once, $2nd$. For each of $n / b_q$ blocks of queries all of K and V: $2nd \cdot n/b_q$.
# - **v1**: K and V once, $2nd$. For each of $n / b_k$ blocks of keys all of Q, and O in and out: $3nd \cdot n/b_k$.
#
# A fast memory of $M$ values holds four blocks of $b$ vectors (Q, K, V, O): $b \approx M / 4d$. Put it in:
# $2nd \cdot n / b = 8 n^2 d^2 / M$. **Claim C08.04: traffic falls from O(Nd+N²) to O(N²d²/M).** We hold the counters against the
# formulas. Then double N, d and M, one at a time. Predict the three factors.

# %%
FORMULAS = {
    "standard": lambda n, d, bq, bk: 4 * n * d + 4 * n * n,
    "flash v1": lambda n, d, bq, bk: 2 * n * d + 3 * (n // bk) * n * d,
    "flash v2": lambda n, d, bq, bk: 2 * n * d + 2 * (n // bq) * n * d,
}


def counted(name, n, d, block_q, block_k):
    memory = new_memory(n, d)
    ALGORITHMS[name](memory, block_q, block_k)
    return memory.total


grid = [(128, 16, 32, 16), (128, 16, 16, 64), (192, 8, 48, 24), (256, 32, 64, 128)]
equal = [counted(name, *case) == FORMULAS[name](*case) for name in FORMULAS for case in grid]
doubled = {"": (512, 8, 1024), "N doubled": (1024, 8, 1024), "d doubled": (512, 16, 1024), "M doubled": (512, 8, 2048)}
traffic = {what: counted("flash v2", n, d, M // (4 * d), M // (4 * d)) for what, (n, d, M) in doubled.items()}
factor = {what: values / traffic[""] for what, values in traffic.items() if what}
asked = {"N doubled": 4, "d doubled": 4, "M doubled": 1 / 2}
gain = {b: FORMULAS["standard"](16_384, 128, b, b) / FORMULAS["flash v2"](16_384, 128, b, b) for b in (64, 128, 256)}
claims.judge(
    "C08.04",
    confirmed=all(equal) and all(abs(factor[name] / asked[name] - 1) < 0.1 for name in asked),
    evidence={"counters equal to the formulas": f"{sum(equal)} of {len(equal)}"}
    | {f"traffic, {name}": f"times {value:.2f}" for name, value in factor.items()}
    | {f"standard over v2, 16,384 tokens, width 128, tiles of {b}": value for b, value in gain.items()},
    note="The gain is M / 2d^2, which is 2b / d: a tile half as long as a vector is wide gains nothing.",
)


# %%
def draw_traffic(tile, width, tokens):
    sizes = [8, 16, 32, 64, 128, 256]
    lines = {name: [formula(tokens, width, b, b) for b in sizes] for name, formula in FORMULAS.items()}
    few = tokens == 256  # counting walks through all tiles
    markers = {name: {b: counted(name, tokens, width, b, b) for b in (16, 64, 256)} for name in FORMULAS} if few else {}
    times = FORMULAS["standard"](tokens, width, 1, 1) / FORMULAS["flash v2"](tokens, width, tile, tile)
    title = f"{tokens:,} tokens, width {width}, tiles of {tile}: standard / v2 = {times:.2f}"
    return pictures.traffic_curves(sizes, lines, markers, chosen=tile, title=title)


figures.interactive(
    draw_traffic,
    alt=lambda tile, width, tokens: f"Values moved against tile size, {tokens} tokens of width {width}; {tile} marked",
    tile=figures.Steps([8, 16, 32, 64, 128, 256], default=64),
    width=figures.Steps([16, 64, 128], default=16),
    tokens=figures.Steps([256, 4096, 16_384], default=256),
)
print("standard / v2 at width 128, 16,384 tokens, by tile:", {b: round(value, 2) for b, value in gain.items()})

# %% [markdown]
# **Claim C08.07: looping over K/V inside Q (v2) writes O once where v1 rewrites it each outer step.** The counter knows. There is
# a second gain that it does not see: in v2 each block of queries is a job of its own, so one head can keep many processors
# busy. In v1 all blocks of keys write to the same O.

# %%
passes, elementwise, result = {}, {}, {}
for name in ("flash v1", "flash v2"):
    memory = new_memory(256, 16)
    with Meter() as meter:  # counts the numbers that each operator makes; claim C08.08 asks for it
        ALGORITHMS[name](memory, 32, 32)
    passes[name] = [memory.moved["load O"] / (256 * 16), memory.moved["store O"] / (256 * 16)]
    elementwise[name], result[name] = meter.made["mul"] + meter.made["div"], memory.matrices["O"]
claims.judge(
    "C08.07",
    confirmed=passes["flash v2"] == [0, 1] and passes["flash v1"] == [8, 8],
    evidence={f"times that O is read and written, {name}, 8 blocks of keys": times for name, times in passes.items()},
)

# %% [markdown]
# **Claim C08.05: larger tiles cut traffic until ~256, after which compute balances it.** Traffic falls as $1/b$ and FLOPs
# stay. The two times are equal where the intensity, $b$ in bf16, meets the ridge. So the claim is a claim about chips. Predict:
# is 256 right for an A100, whose ridge is 153?

# %%
near_256 = {name: 192 <= tile <= 320 for name, tile in RIDGE.items()}
claims.judge(
    "C08.05",
    confirmed=any(near_256.values()),
    refuted=not all(near_256.values()),
    evidence={f"tile at which traffic and arithmetic balance, {name}": round(tile) for name, tile in RIDGE.items()},
    on=f"the chip's FLOPs per byte: the balance lies between tiles of {min(RIDGE.values()):.0f} and {max(RIDGE.values()):.0f}",
    note="Kernels take 64 to 128 all the same. Neighbouring programs read the same keys at about the same time, and the "
    "second-level cache serves them; and a larger tile does not fit into the registers.",
)

# %% [markdown]
# ## 7. What else the order saves
#
# **Claim C08.08: deferring the division to the end saves work.** v1 divides the output by $l$ after every tile and
# multiplies it back at the next. v2 keeps it unfinished. That is no matrix product, so it does not look expensive. But a
# tensor core does matrix products 16 times faster than other units do anything else: on an A100 312 against 19.5 TFLOP/s.
#
# **Claim C08.09: causal tiles above the diagonal can be skipped: about half the work.** With $n/b$ blocks a side,
# $\frac12 (n/b)(n/b + 1)$ of $(n/b)^2$ tiles are left. We count the library's FLOPs, not tiles.


# %%
apart = (result["flash v1"] - result["flash v2"]).abs().max()
claims.judge(
    "C08.08",
    confirmed=apart < 1e-12 and elementwise["flash v2"] < 0.8 * elementwise["flash v1"],
    evidence={f"multiplications and divisions outside products, {name}": count for name, count in elementwise.items()}
    | {"share saved": 1 - elementwise["flash v2"] / elementwise["flash v1"], "results differ by": f"{apart:.0e}"},
)

# %%
request = {causal: tiled.Request(scale=0.125, causal=causal, block_q=64, block_k=64) for causal in (False, True)}
share = {}
for n in (128, 512, 2048):
    q, k, v = heads(n)
    full, half = (flops_of(tiled.tiled_attention, q, k, v, request[causal]) for causal in (False, True))
    share[n] = half / full
causal_out = tiled.tiled_attention(q, k, v, request[True])[0]
right = (causal_out - attention(q, k, v, causal=True, backend="reference")).abs().max() < 1e-5
claims.judge(
    "C08.09",
    confirmed=right and 0.5 < share[2048] < 0.55,
    evidence={f"share of the FLOPs left, {n} tokens, tiles of 64": value for n, value in share.items()},
    note="A little more than half, because the tiles on the diagonal are computed whole. Short texts save less.",
)

# %% [markdown]
# ## 8. Memory, and the backward pass
#
# Training needs the weights again for the gradients. Standard attention keeps the table of each head of each layer until
# then. Flash attention keeps one number for each row, the log-sum-exp $L_i = m_i + \ln l_i$, and makes any tile of
# weights again, already normalised: $P_{ij} = e^{x_{ij} - L_i} = e^{x_{ij} - m_i} / l_i$.
#
# With $\mathrm{d}O$ given, follow the chain back. $O = PV$ gives $\mathrm{d}V = P^\top \mathrm{d}O$ and $\mathrm{d}P = \mathrm{d}O\,V^\top$. The softmax of a row has
# $\partial P_j / \partial x_i = P_j(\delta_{ij} - P_i)$, so $\mathrm{d}x_{i} = P_i (\mathrm{d}P_i - \sum_j P_j\,\mathrm{d}P_j)$. That sum runs over the whole row, which no
# tile sees. But $\sum_j P_j\,\mathrm{d}P_j = \sum_j P_j\,(\mathrm{d}O \cdot v_j) = \mathrm{d}O \cdot \sum_j P_j v_j = \mathrm{d}O \cdot O$: a product of two rows that are there. Then
# $\mathrm{d}Q = \mathrm{d}X\,K/\sqrt d$ and $\mathrm{d}K = \mathrm{d}X^\top Q/\sqrt d$, tile by tile.
#
# **Claim C08.03: memory falls from O(N²) to O(N).** Measured: the most bytes alive at once. If twice the tokens take twice
# the memory, the exponent is 1; if four times, 2.

# %%
LENGTHS = [256, 512, 1024, 2048] + [4096] * LARGE


def peak_mb(backend, n, backward):
    q, k, v = (x.requires_grad_(backward) for x in heads(n))
    with Meter() as meter:
        out = attention(q, k, v, causal=True, backend=backend)
        if backward:
            out.sum().backward()
    return meter.peak_bytes / 1e6


WAYS = {"table": "reference", "tiles": "tiled"}
training = {name: [peak_mb(backend, n, True) for n in LENGTHS] for name, backend in WAYS.items()}
forward = {name: [peak_mb(backend, n, False) for n in LENGTHS] for name, backend in WAYS.items()}
exponent = {name: math.log2(mb[3] / mb[2]) for name, mb in training.items()}
claims.judge(
    "C08.03",
    confirmed=exponent["table"] > 1.8 and exponent["tiles"] < 1.2,
    evidence={f"MB at 512, 1,024 and 2,048 tokens, {name}": mb[1:4] for name, mb in training.items()}
    | {f"exponent of N, {name}": value for name, value in exponent.items()},
    note="One head of width 64 in float32, forward and backward, inputs and gradients included.",
)

# %%
figures.interactive(
    lambda tokens, what: pictures.growth_curves(LENGTHS, what, ylabel="most MB alive at once", marked=tokens),
    alt="Peak memory against the number of tokens: the table grows with the square, tiles in proportion",
    tokens=figures.Steps(LENGTHS, default=2048),
    what={"forward and backward": training, "forward alone": forward},
)
print({name: f"{mb[3]:.1f} MB" for name, mb in training.items()}, "at 2,048 tokens")

# %% [markdown]
# **Claim C08.10: recomputing in the backward pass costs FLOPs and saves time.** The backward pass has five products instead of
# four. Against that stands the table: written once in the forward pass and read once, at the very least. In bf16 that is
# 4 bytes for each score; making it again costs $2d$ FLOPs. Recomputing wins when $2d / \text{peak} < 4 / \text{bandwidth}$, that is, when the
# ridge is above $d/2$. So the claim is about machines again. Beside the chips stands a processor core as they are today.


# %%
def train_step(q, k, v, backend):
    attention(q, k, v, backend=backend).sum().backward()


q, k, v = (x.requires_grad_() for x in heads(512))
spent = {backend: flops_of(train_step, q, k, v, backend) for backend in ("reference", "tiled")}
machines = RIDGE | {"a CPU core, 100 GFLOP/s, 10 GB/s": 100 / 10}
wins = {name: ridge > 128 / 2 for name, ridge in machines.items()}
claims.judge(
    "C08.10",
    confirmed=spent["tiled"] > spent["reference"] and any(wins.values()),
    refuted=not all(wins.values()),
    evidence={"FLOPs forward and backward, tiles over table": spent["tiled"] / spent["reference"]}
    | {f"ridge of {name}, width 128: {'saves' if won else 'costs'} time": machines[name] for name, won in wins.items()},
    on=f"the machine: it saves time where the ridge is above half the width, which {sum(wins.values())} of these "
    f"{len(wins)} machines have; the CPU core has not",
)

# %% [markdown]
# ## 9. Decoding, packing, and what came after
#
# **Split the keys.** When a model writes, there is one query. One block of queries for each head of each sequence is all the
# parallelism that v2 has. So the *keys* are split among programs; each finishes its part, and parts are merged by their
# log-sum-exps: $o = \sum_i e^{L_i - L}\, o_i$ with $L = \ln \sum_i e^{L_i}$. An H200 has 132 processors. Predict how many of them one
# sequence of a model with 8 key heads keeps busy without splits.

# %%
q, k, v = normal(1, 8, 1, 64, seed=1), normal(1, 8, 4096, 64, seed=2), normal(1, 8, 4096, 64, seed=3)
whole = attention(q, k, v, backend="reference")
for n_parts in (1, 4, 16):
    parts = zip(k.chunk(n_parts, 2), v.chunk(n_parts, 2))
    states = [flash_attention(q, k_part, v_part, backend="tiled", return_lse=True) for k_part, v_part in parts]
    outs, lses = (torch.stack(several) for several in zip(*states))
    off = ((torch.softmax(lses, 0)[..., None] * outs).sum(0) - whole).abs().max()
    print(f"{n_parts:2d} parts: {8 * n_parts:3d} programs for 132 processors, off by {off:.0e}")

# %% [markdown]
# **Pack documents.** A batch of texts of unequal length is padded to the longest, or laid end to end with a list of borders
# (`cu_seqlens`). A tile that lies in two different documents everywhere is skipped like one above the diagonal.

# %%
documents = [700, 90, 300, 40, 510, 120]
borders = [0, *torch.tensor(documents).cumsum(0).tolist()]
packed = tiled.Request(scale=1.0, causal=True, segments=[*itertools.pairwise(borders)], block_q=64, block_k=64)
alone = tiled.Request(scale=1.0, causal=True, block_q=64, block_k=64)
n_packed = sum(len(tiles) for _, tiles in tiled.plan(borders[-1], borders[-1], packed))
n_longest = sum(len(tiles) for _, tiles in tiled.plan(max(documents), max(documents), alone))
print(f"tiles: padded {len(documents) * n_longest}, packed {n_packed}")

# %% [markdown]
# **Overlap.** On an H100 or H200 another unit becomes the limit. The exponentials of a softmax run on a special-function unit, 16 a
# clock for each processor. At width 64 they take about as long as the products. Version 3 lets one group of warps compute exponentials
# while another multiplies (ping-pong), copies tiles by a separate engine (TMA) in the background, and can use 8-bit
# products. What overlap is worth, from a matmul rate of 790 TFLOP/s (measured on an H200) and 3.7e12 exponentials a second:

# %%
products = 790.0  # TFLOP/s of matrix products alone
for d in (64, 128):
    exponentials = 3.7 * 4 * d  # TFLOP/s if exponentials were all: one of them for each 4d FLOPs
    in_turn, overlapped = 1 / (1 / products + 1 / exponentials), min(products, exponentials)
    print(f"width {d:3d}: one after the other {in_turn:.0f} TFLOP/s, overlapped at most {overlapped:.0f}")

# %% [markdown]
# ## 10. Our kernel, line by line
#
# `llmcore` holds a Triton kernel. A **program** is one copy of it; programs run at once and differ by their number. A program
# loads tiles with addresses that it computes, and what it keeps is in registers. This is its inner loop, the `one_tile` of section
# 4, as it stands in the library:


# %%
def source_of(module, name):
    text = Path(importlib.util.find_spec(module).origin).read_text(encoding="utf-8")
    found = (node for node in ast.walk(ast.parse(text)) if getattr(node, "name", "") == name)
    return ast.get_source_segment(text, next(found))


print(source_of("llmcore.attention._forward_kernel", "attend_tiles"))

# %% [markdown]
# | in the kernel | in `one_tile` | why it looks different |
# |---|---|---|
# | `for start in range(low, high, BLOCK_K)` | the loop of `flash_v2` | `low` and `high` leave out hidden tiles |
# | `load_tile(k, ...)` | `memory.load("K", columns)` | addresses: batch, head and row times their strides |
# | `tl.dot(q, tl.trans(k_tile))` | `q @ k.T` | `"ieee"`: exact float32 products instead of TF32 |
# | `seen`, `tl.where(..., -inf)` | `masked_fill` | only where `MASKED`: whole tiles need no mask |
# | `shift` | no twin | a row that saw nothing must not compute -inf - (-inf) |
# | `tl.exp2(products * factor - shift)` | `torch.exp(x - new)` | one instruction does 2 to the x; $\log_2 e$ is folded into the scale |
# | `rescale`, `accumulator * rescale` | `rescale`, `a * rescale` | the same |
# | `tl.dot(weights.to(v.dtype), v_tile, accumulator)` | `+ p @ v` | bf16 factors, float32 sums |
# | `total = total * rescale + ...` | `l * rescale + ...` | float32, from weights that were not rounded |
#
# Names in capitals are known when the kernel is compiled: for `MASKED = False` the mask's lines do not exist. After the
# loop the program divides once and stores its block of outputs and the log-sum-exps. Here it runs, on a GPU if there is one, else in
# Triton's interpreter, which takes the same source and computes with NumPy.

# %% tags=["nbval-ignore-output"]
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
problem = dispatch.triton_problem()
if problem is None:
    q, k, v = (x.to(DEVICE) for x in heads(100, d=32, batch=(1, 2)))
    out = attention(q, k, v, causal=True, backend="triton")
    want = attention(q.double(), k.double(), v.double(), causal=True)
    print(f"100 tokens on the {DEVICE}: off by {(out - want).abs().max():.0e}")
else:
    print(problem)

# %% [markdown]
# **Who computes what.** Programs start in the order of their number, as many at once as fit. Causal rows have unequal work: the last
# block of queries sees all keys, the first only its own tile. So the longest come first: a long job that starts last keeps all
# others waiting. Blocks of a few heads are dealt out side by side, so that programs that run together read the same
# keys from the cache. This is `tile_of_program` of the kernel, in Python. Slide the program's number.


# %%
def programs(n_blocks, n_heads, heads_together, causal):
    """(block, head) of each program, in the order in which they start."""
    order = []
    for program in range(n_blocks * n_heads):
        section, within = divmod(program, heads_together * n_blocks)
        block, head = divmod(within, min(heads_together, n_heads - section * heads_together))
        order.append((n_blocks - 1 - block if causal else block, section * heads_together + head))
    return order


def draw_programs(program, heads_together, causal):
    order = programs(8, 6, heads_together, causal)
    asked = tiled.Request(scale=1.0, causal=causal, block_q=64, block_k=64)
    tiles = list(tiled.plan(512, 512, asked))[order[program][0]][1]
    walked = [(tile.k.start, tile.k.stop, tile.whole) for tile in tiles]
    title = "longest first" if causal else "in order"
    return pictures.program_grid(order, program, n=512, block_q=64, tiles=walked, title=title)


figures.interactive(
    draw_programs,
    alt=lambda program, **_: f"8 blocks by 6 heads with program numbers; program {program} and the tiles it walks over",
    play="program",
    program=(0, 47, 9),
    heads_together=figures.Steps([1, 2, 3, 6], default=3),
    causal=True,
)
print("the first programs (block, head):", programs(8, 6, 3, True)[:4])

# %% [markdown]
# **And the speed.** The same attention from this device's own candidates, timed here and now. Predict the order before
# you run it. On a CPU our tiles are Python loops over torch operators, and the interpreter is no candidate: it is for finding
# mistakes. What counts there is torch's own flash attention (SDPA). On a GPU look at the kernel beside SDPA. The last
# lines ask about claim C08.10 on this machine: does recomputing save time here?

# %% tags=["nbval-ignore-output"]
GPU = DEVICE == "cuda"
CANDIDATES = {"table": "reference", "tiles": "tiled", "torch SDPA": "sdpa"}
if GPU and problem is None:
    CANDIDATES["our Triton kernel"] = "triton"
TIMED = [512, 1024, 2048, 4096, 8192, 16_384] if GPU else [256, 512, 1024, 2048]
dtype, batch, repeats = (torch.bfloat16, (4, 16), 20) if GPU else (torch.float32, (1, 2), 3)


def milliseconds(backend, n, causal):
    """The least time of one forward pass; NaN where a table would not fit."""
    q, k, v = (x.to(DEVICE, dtype) for x in heads(n, batch=batch))
    fits = n <= 4096 or backend in ("sdpa", "triton")
    return 1e3 * seconds_of(attention, q, k, v, causal=causal, backend=backend, repeats=repeats) if fits else math.nan


ms = {
    mask: {name: [milliseconds(backend, n, causal) for n in TIMED] for name, backend in CANDIDATES.items()}
    for mask, causal in {"causal": True, "no mask": False}.items()
}
figures.interactive(
    lambda tokens, mask: pictures.growth_curves(TIMED, mask, ylabel="milliseconds", marked=tokens, title=DEVICE),
    alt="Measured milliseconds of attention against tokens on this device, a line for each implementation",
    tokens=figures.Steps(TIMED, default=TIMED[-1]),
    mask=ms,
)
for name, values in ms["causal"].items():
    print(f"{name:18s}", "  ".join(f"{n}: {t:.2f} ms" for n, t in zip(TIMED, values)))
for name in ("reference", "tiled"):
    took = seconds_of(train_step, *(x.to(DEVICE).requires_grad_() for x in heads(1024)), name, repeats=3)
    print(f"forward and backward, 1,024 tokens, {name}: {1e3 * took:.1f} ms")

# %% [markdown]
# ## What we found

# %%
for number in range(1, 11):
    claim = claims.recorded()[f"C08.{number:02d}"]
    print(f"{claim.id}  {claim.verdict:10s} {claim.text[:96]}")

# %% [markdown]
# ## Check yourself
#
# <details><summary>1. A chip gets twice the FLOPs and the same bandwidth. How much faster is standard attention?</summary>
# Not at all. It stood on the slope before, and the slope is bandwidth. Its ridge has moved further away.</details>
#
# <details><summary>2. Halve the width d and keep the fast memory. By how much does flash attention's traffic fall?</summary>
# To a quarter: half as much for each pass, and tiles of twice as many vectors need half as many passes.</details>
#
# <details><summary>3. Why can the forward pass not save l and m rounded to bf16 and drop the log-sum-exp?</summary>
# P = exp(x - L). An error of 0.05 in L is an error of 5 % in every weight of the row, and bf16 has steps of 0.06 near 10.</details>
#
# <details><summary>4. A row's first tile is wholly masked. What are m, l and a after it, and what must not be computed?</summary>
# -inf, 0 and 0. exp(m - new) with both -inf is NaN: subtract 0 instead.</details>
#
# ## Further reading
# - Online normalizer calculation for softmax, arXiv:1805.02867; Self-attention Does Not Need O(n²) Memory, arXiv:2112.05682
# - FlashAttention, arXiv:2205.14135; FlashAttention-2, arXiv:2307.08691; FlashAttention-3, arXiv:2407.08608
# - Williams, Waterman and Patterson, Roofline: an insightful visual performance model, CACM 2009
# - Flash-Decoding for long-context inference, 2023 (crfm.stanford.edu); Ring Attention, arXiv:2310.01889
# - Triton: an intermediate language and compiler for tiled neural network computations, MAPL 2019
