# %% [markdown]
# # 02 Attention and scaling: why the square root
# *Time: 120 minutes. Builds on: 01_tokenizer_unicode (tokens), matrix products, the variance of a sum.*
#
# Attention compares every token with every other one. Everything that is hard about it follows from this: numbers that
# grow with the width, a softmax that stops learning, masks, and a cache that fills a GPU's memory.
#
# After this lesson you can
# - derive the factor $1/\sqrt{d_k}$, and say when its assumption fails;
# - build any mask, and name the ways in which masking goes wrong;
# - compute a model's KV cache in your head, and say why MQA, GQA and MLA exist;
# - place prefill and decoding on a roofline, and say which of them a faster chip helps;
# - read a model's health from the entropy and the rank of its attention.
#
# Seventeen claims from study notes are tested on the way. Each has a cell that computes its verdict from numbers:
# `confirmed`, `refuted`, or `depends`. Change the numbers and see whether the verdict stands.

# %% tags=["parameters"]
SCALE = "quick"  # "quick" under a minute; "full" and "gpu" train longer, on the CPU

# %%
import math
import time
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from torch.nn.utils import parametrize

from llmcore import accounting, claims, figures
from llmcore.attention import attention, attention_weights, causal_mask, softmax
from llmcore.figures import attention as pictures
from llmcore.information import attention_entropy, distance_to_rank_one
from llmcore.model import PRESETS, ModelConfig, Transformer
from llmcore.positions import apply_rope, rope_frequencies

torch.set_num_threads(1)


def normal(*shape, seed, dtype=torch.float64):
    """Independent N(0, 1) numbers from their own seed."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


# %% [markdown]
# ## 1. Predict first
#
# One query looks at 32 keys. All numbers in query and keys are independent with variance 1; nothing is trained, no
# key is special. The query's weights are `softmax(q.k)`, without any scaling.
#
# With a width of $d_k = 4$ the largest of the 32 weights is about 0.3. **What will it be at $d_k = 256$?** Write a number
# down: 0.05, 0.3, 0.6, or 0.9? Then run the cell.

# %%
for d_k in (4, 256):
    q, keys = normal(2000, 1, d_k, seed=1), normal(2000, 32, d_k, seed=2)
    print(f"d_k = {d_k:3d}: the largest of 32 weights is {softmax((q * keys).sum(-1)).amax(-1).mean():.2f} on average")

# %% [markdown]
# Random keys, and yet one of them takes nearly everything. The width alone made the model certain. Why?
#
# ## 2. A dot product is a sum
#
# $$q \cdot k = q_1 k_1 + q_2 k_2 + \dots + q_d k_d$$
#
# Take independent entries with mean 0 and variance 1.
#
# 1. One term: $E[q_i k_i] = E[q_i]\,E[k_i] = 0$.
# 2. Its variance: $E[q_i^2 k_i^2] = E[q_i^2]\,E[k_i^2] = 1$.
# 3. Variances of independent terms add: $\mathrm{Var}(q \cdot k) = d$.
# 4. Dividing by $c$ divides the variance by $c^2$. To get 1, divide by $\sqrt{d}$. Not by $d$.
#
# **Claim C02.01: the variance is $d_k$; dividing by $\sqrt{d_k}$ makes it 1.** We measure it.

# %%
WIDTHS = [1, 4, 16, 64, 256, 1024]
products = [(normal(4000, d, seed=d) * normal(4000, d, seed=d + 1)).sum(-1) for d in WIDTHS]
variance = [p.var().item() for p in products]
scaled = [(p / math.sqrt(d)).var().item() for p, d in zip(products, WIDTHS)]
fits = all(abs(v / d - 1) < 0.15 and abs(s - 1) < 0.15 for v, s, d in zip(variance, scaled, WIDTHS))
evidence = {"d_k": WIDTHS, "variance of q.k": variance, "after dividing by sqrt(d_k)": scaled}
claims.judge("C02.01", confirmed=fits, evidence=evidence)

# %% [markdown]
# Move the slider and switch the scale on and off. Left: the scores. Right: what softmax makes of 32 of them. The scale
# keeps both pictures the same at every width. Without it the left one spreads and the right one collapses.


# %%
def draw_scores(d_k, scaled):
    scores = (normal(200, 1, d_k, seed=3) * normal(200, 32, d_k, seed=4)).sum(-1) * (d_k**-0.5 if scaled else 1.0)
    return pictures.score_histogram(scores, softmax(scores)[0], d_k=d_k, scaled=scaled)


LOOK = "Left a histogram of scores, right the weights that one query gives to 32 keys, largest first."
figures.interactive(draw_scores, alt=LOOK, d_k=figures.Steps(WIDTHS, default=64), scaled=False)
print(f"at d_k = 64 the scores' standard deviation is {variance[3] ** 0.5:.1f} unscaled, {scaled[3] ** 0.5:.1f} scaled")

# %% [markdown]
# ## 3. Why a certain softmax stops learning
#
# Let $p = \mathrm{softmax}(s)$. How does weight $i$ answer to score $j$?
#
# $$\frac{\partial p_i}{\partial s_j} = p_i\,(\delta_{ij} - p_j)$$
#
# Where $p_i$ is near 1 or near 0, the product $p_i(1 - p_i)$ is near 0. A softmax that is sure passes back no gradient,
# so it cannot learn that it is wrong. **Claim C02.02: without scaling the softmax saturates and its gradient vanishes.**

# %%
GRADIENT_WIDTHS = [2**n for n in range(2, 13)]
gradient = {"no scale": [], "1/sqrt(d_k)": [], "1/d_k": []}
for d in GRADIENT_WIDTHS:
    scores = (normal(200, 1, d, seed=d) * normal(200, 16, d, seed=d + 1)).sum(-1)
    for name, factor in zip(gradient, (1.0, d**-0.5, 1 / d)):
        p = softmax(factor * scores)
        jacobian = torch.diag_embed(p) - p[..., :, None] * p[..., None, :]
        gradient[name].append(torch.linalg.matrix_norm(jacobian).mean().item())
bare, rooted = gradient["no scale"], gradient["1/sqrt(d_k)"]
evidence = {"d_k": GRADIENT_WIDTHS[::5], "gradient norm, no scale": bare[::5], "1/sqrt(d_k)": rooted[::5]}
claims.judge("C02.02", confirmed=bare[-1] < 0.2 * max(bare) and rooted[-1] > 0.8 * max(rooted), evidence=evidence)
figures.interactive(
    lambda d_k: pictures.gradient_norms(GRADIENT_WIDTHS, gradient, marked=d_k, ylabel="norm of softmax's gradient"),
    alt="Norm of the softmax gradient against d_k: it falls without scale and stays level with 1/sqrt(d_k) and 1/d_k.",
    d_k=figures.Steps(GRADIENT_WIDTHS, default=64),
)
print(f"without scale, from d_k = 4 to 4096, the gradient falls by a factor of {bare[0] / bare[-1]:.0f}")

# %% [markdown]
# The line of $1/d_k$ keeps its gradient too. Its fault is another one: at the start every weight is nearly uniform, so all
# queries see the same average. (For vectors that are fully *aligned*, $q \cdot k$ grows like $d$, and $1/d$ is the right
# power. muP uses it for that reason.) The square root is an answer for independent vectors, that is, for the start.
#
# **Claim C02.03: the scale can be folded into $W_q$ and $W_k$ at the start, as T5 does.** Give each a factor $d^{-1/4}$.
# Predict: are the scores equal? Does it matter for training?

# %%
x, w_q, w_k = normal(6, 32, seed=5), normal(16, 32, seed=6), normal(16, 32, seed=7)
outside = (x @ w_q.T) @ (x @ w_k.T).T / math.sqrt(16)
folded = (x @ (w_q * 16**-0.25).T) @ (x @ (w_k * 16**-0.25).T).T
note = "Equal outputs, not equal training: a step of Adam has a fixed size, so it changes the smaller weights more."
gap = (outside - folded).abs().max().item()
claims.judge(
    "C02.03", confirmed=gap < 1e-12, evidence={"scores differ by": gap, "their size": outside.std()}, note=note
)

# %% [markdown]
# ## 4. Softmax, safely
#
# **Claim C02.05: adding a constant to all logits changes nothing, multiplying does.** The constant cancels:
# $e^{x+c} = e^c e^x$ above and below the line. Multiplying is a temperature.

# %%
x = normal(1000, 9, seed=8)
change = {what: (softmax(y) - softmax(x)).abs().max().item() for what, y in (("x + 50", x + 50), ("2x", 2 * x))}
claims.judge("C02.05", confirmed=change["x + 50"] < 1e-12 and change["2x"] > 0.01, evidence=change)

# %% [markdown]
# The first half gives a *stable* softmax. In float32 $e^{89}$ is infinite. So add $c = -\max x$: every exponent is then
# at most 0, and the largest term is $e^0 = 1$. Compare the formula as written with the shifted one.

# %%
x = torch.tensor([[1.0, 2.0, 3.0], [100.0, 200.0, 300.0], [-math.inf, -math.inf, -math.inf]])
print("as written", (x.exp() / x.exp().sum(-1, keepdim=True)).tolist())
print("shifted   ", softmax(x).tolist())

# %% [markdown]
# Look at the last row: a query that may look at nothing. Its maximum is $-\infty$, and $-\infty - (-\infty)$ is NaN. Our
# convention: **such a row gives zeros.** You will write this in exercise 1.
#
# **Claim C02.06: softmax applied twice moves the distribution toward uniform.** The second one sees numbers between 0 and
# 1. No two of them differ by more than 1, so no weight can be more than $e$ times another.

# %%
p, entropies = 3 * normal(1000, 9, seed=9), []
for _ in range(4):
    p = softmax(p)
    entropies.append(attention_entropy(p).mean().item())
rises = all(a < b for a, b in pairwise(entropies)) and math.log(9) - entropies[-1] < 1e-3
evidence = {"mean entropy after 1, 2, 3, 4 times, nats": entropies, "uniform: ln 9": math.log(9)}
claims.judge("C02.06", confirmed=rises, evidence=evidence)

# %% [markdown]
# ## 5. Masks: who may look at whom
#
# A mask is a table of booleans, one row for each query, one column for each key. **True means "may attend"**. Hidden
# scores become $-\infty$ before the softmax, so that their weight is exactly 0. Build some. Which masks have a row that
# sees nothing? What changes when there are more keys than queries? (`n` is the mask's number: the window, the prefix, the
# padding, the first document's length, or the keys that were cached before.)


# %%
def draw_mask(mask, tokens, n):
    grid, title = pictures.named_mask(mask, tokens, n)
    return pictures.mask_picture(grid, title=f"{title}\n{grid.sum()} of {grid.size} pairs may attend")


GRID = "Mask grid: a filled square where the query of that row may attend to the key of that column."
figures.interactive(draw_mask, alt=GRID, mask=list(pictures.MASK_KINDS), tokens=(2, 16, 10), n=(0, 15, 4))
print({kind: int(pictures.named_mask(kind, 10, 4)[0].sum()) for kind in pictures.MASK_KINDS}, "pairs of 10 tokens")

# %% [markdown]
# **Claim C02.16: filling hidden scores with a large negative number gives them zero weight.** Many codes use -10,000 or
# $-10^9$ in place of $-\infty$. Predict the weight of two hidden keys of five: with ordinary scores; with visible scores
# that happen to be low; in a row that sees nothing; and there again after a visit to float16, where $-10^9$ is $-\infty$.


# %%
def hidden_weight(fill, shift=0.0, hidden=2):
    """Weight of the first two keys of five when the scores of the first `hidden` are set to `fill`."""
    scores = normal(5, seed=10, dtype=torch.float32) + shift
    scores[:hidden] = fill
    return torch.softmax(scores, -1)[:2].sum().item()


evidence = {
    "-1e4, ordinary scores": hidden_weight(-1e4),
    "-1e4, visible scores near -20,000": hidden_weight(-1e4, shift=-2e4),
    "-1e9, a row that sees nothing": hidden_weight(-1e9, hidden=5),
    "-1e9 through float16, a row that sees nothing": hidden_weight(torch.tensor(-1e9).half().item(), hidden=5),
}
held, cases = [w == 0 for w in evidence.values()], "the visible scores, the dtype, and whether the row sees anything"
claims.judge("C02.16", confirmed=held[0], refuted=not all(held), on=cases, evidence=evidence)

# %% [markdown]
# So: fill with $-\infty$ **and** return zeros for rows that see nothing. One NaN row reaches every weight of the model.
#
# Padding on the left has one more trap. The mask hides the padding, but the text has moved: with learned positions its
# first word stands at position 3 in place of 0, and the model answers otherwise. Positions must start at the text.
#
# **Claim C02.07: a causal attention matrix always has full rank, a bidirectional one may not.** The argument: a causal
# matrix is lower triangular, its determinant is the product of its diagonal, and softmax weights are positive. True. Now
# ask a computer for the rank.

# %%
scores = normal(64, 64, seed=11) * 4
scores[:, 0] += 30  # many trained heads park their attention on the first token
scores = scores.masked_fill(~causal_mask(64), -math.inf)
log_determinant = torch.log_softmax(scores, -1).diagonal().sum().item() / math.log(10)
evidence = {"64 tokens, causal: log10 of the determinant (finite: rank 64)": log_determinant}
evidence["rank that float32 finds"] = numerical = torch.linalg.matrix_rank(softmax(scores).float()).item()
one_query = softmax(normal(1, 64, seed=12).expand(64, 64))
evidence["bidirectional, equal queries: rank"] = low = torch.linalg.matrix_rank(one_query).item()
exact = math.isfinite(log_determinant) and low < 64
why = "exact or floating-point arithmetic: the diagonal is positive, but may be too small to count"
claims.judge("C02.07", confirmed=exact, refuted=numerical < 64, on=why, evidence=evidence)

# %% [markdown]
# ## 6. Many heads for the price of one
#
# One softmax is one opinion. A head that averages two places blurs both. So cut the width $E$ into $H$ heads of $D = E/H$
# and let each have its own softmax. **Claim C02.04: this costs about what one head of full width costs, $O(n^2 d)$.**

# %%
n, E = 2048, 1024
cost = {H: accounting.attention_flops(1, H, n, n, E // H) + 4 * accounting.matmul_flops(n, E, E) for H in (1, 16)}
evidence = {f"{H} heads: GFLOPs, million exponentials": [cost[H] / 1e9, H * n * n / 1e6] for H in cost}
note = "The products cost the same. The softmax does not: each head has its own n x n weights."
claims.judge("C02.04", confirmed=abs(cost[16] / cost[1] - 1) < 0.01, evidence=evidence, note=note)

# %% [markdown]
# Why two projections, $W_q$ and $W_k$, and not one? **Claim C02.17: with $W_q = W_k$ the diagonal dominates.** A token's
# score with itself is then $|q|^2$, which grows like $d$; with others it only spreads like $\sqrt{d}$.

# %%
x, w_q, w_k = normal(64, 64, seed=13), normal(64, 64, seed=14) / 8, normal(64, 64, seed=15) / 8
itself = {}
for name, w in (("W_k = W_q", w_q), ("W_k independent", w_k)):
    q, k = ((x @ m.T).unflatten(-1, (4, -1)).transpose(0, 1)[None] for m in (w_q, w))  # (1, 4 heads, 64, 16)
    itself[name] = (attention_weights(q, k).argmax(-1) == torch.arange(64)).double().mean().item()
shares = {f"share of tokens that look most at themselves, {name}": share for name, share in itself.items()}
claims.judge("C02.17", confirmed=itself["W_k = W_q"] > 0.8 and itself["W_k independent"] < 0.1, evidence=shares)

# %% [markdown]
# ### A model to look into
#
# Random matrices teach little, so we train a real model, on a task that *needs* attention. A row is 16 random symbols and
# then the same 16 again. A head that looks 15 tokens back can predict the second half perfectly. Without attention
# nothing beats guessing, $\ln 32 = 3.47$ nats. `scores_of` is our stethoscope.

# %%
HALF, SYMBOLS, STEPS = 16, 32, 175 if SCALE == "quick" else 400


def copy_batch(generator, rows=16):
    return torch.randint(SYMBOLS, (rows, HALF), generator=generator).repeat(1, 2)


def scores_of(model, ids):
    """Each layer's scaled and masked scores (B, H, T, T) while the model reads `ids`."""
    kept, hooks = [], []
    for name, module in model.named_modules():
        if name.endswith(("q_proj", "k_proj")):
            hooks.append(module.register_forward_hook(lambda module, args, out: kept.append(out)))
    with torch.no_grad():
        model(ids)
    for hook in hooks:
        hook.remove()
    heads = [x.unflatten(-1, (-1, model.config.head_dim)).transpose(1, 2) for x in kept]
    scores = [q @ k.mT / math.sqrt(q.shape[-1]) for q, k in zip(heads[::2], heads[1::2])]
    return [s.masked_fill(~causal_mask(ids.shape[1]), -math.inf) for s in scores]


def train(lr, seed=1, prepare=lambda model: None):
    """A model that learns to copy; its loss, and the entropy of its sharpest layer, every 25 steps."""
    generator = torch.Generator().manual_seed(seed)
    sizes = {"vocab_size": SYMBOLS, "context": 2 * HALF, "width": 64, "n_layers": 2, "n_heads": 4}
    model = Transformer(ModelConfig(**sizes, position="learned", ffn="gelu_tanh"), generator=generator)
    prepare(model)
    adam, losses, entropies = torch.optim.Adam(model.parameters(), lr=lr, betas=(0.9, 0.95)), [], []
    for step in range(STEPS):
        ids = copy_batch(generator)
        loss = F.cross_entropy(model(ids[:, :-1])[:, HALF - 1 :].flatten(0, 1), ids[:, HALF:].flatten())
        adam.zero_grad()
        loss.backward()
        adam.step()
        losses.append(loss.item())
        if step % 25 == 24:
            entropies.append(min(attention_entropy(softmax(s)).mean().item() for s in scores_of(model, ids)))
    return model, np.reshape(losses, (-1, 25)).mean(1), entropies


copier, losses, entropies = train(lr=0.003)
print(f"mean loss of the first 25 steps {losses[0]:.1f} nats, of the last 25 steps {losses[-1]:.1f} nats")

# %% [markdown]
# ## 7. The cache
#
# To generate token 1000, a model needs the keys and values of tokens 0 to 999. They have not changed, so they are kept:
# the **KV cache**. Press Play. It is the copier at work: each step brings one query (a row) and one key (a column). Up to
# step 14 there is nothing to copy. From step 15 on, where does the head look?

# %%
row = copy_batch(torch.Generator().manual_seed(7), rows=1)
weights = torch.cat([softmax(s)[0] for s in scores_of(copier, row)])  # (layers * heads, T, T)
looks_back = weights[:, HALF - 1 :].diagonal(dim1=1, dim2=2).mean(-1)  # query t, key t - 15
best = int(looks_back.argmax())
TOKEN_BYTES = accounting.model_cache_bytes(copier.config, seq_len=1)
figures.interactive(
    lambda step: pictures.decoding_step(weights[best], step, bytes_per_token=TOKEN_BYTES),
    alt=lambda step: f"A head's causal weights up to step {step}. In the second half each query looks 15 tokens back.",
    play="step",
    step=(0, 2 * HALF - 1, 24),
)
print(f"mean weight on the token 15 back: {looks_back[best]:.1f}; a cached token costs {TOKEN_BYTES} bytes")

# %% [markdown]
# How large does it get? For each token, layer and key head: one key and one value of width $D$.
#
# $$\text{bytes} = 2 \cdot n_\text{layers} \cdot n_\text{kv heads} \cdot D \cdot n_\text{tokens} \cdot \text{batch} \cdot \text{bytes per value}$$
#
# **Claim C02.11: the cache of a GPT-3-like model** (96 layers, width 12,288 = 96 heads of 128, 2,048 tokens, fp16). The
# note multiplies by the number of heads *and* by the full width. Predict first: is it 9 MB, 9 GB, or 900 GB?

# %%
right, written = (accounting.kv_cache_bytes(96, 96, width, 2048, batch=1) for width in (128, 12288))
evidence = {"GiB, as the note multiplies": written / 2**30, "GiB": right / 2**30, "too large by": written / right}
note = "96 heads of width 128 are the full width. It may be counted once."
claims.judge("C02.11", confirmed=abs(written / right - 1) < 0.01, evidence=evidence, note=note)

# %% [markdown]
# Four designs of the same layer:
#
# | | kept for each token and layer | idea |
# |---|---|---|
# | MHA | $H$ keys and values | every query head has its own |
# | GQA | $K < H$ keys and values | query heads share them in groups |
# | MQA | 1 key and value | all heads share one |
# | MLA | one latent vector and a small rotary key | keys and values are rebuilt from the latent |
#
# **Claim C02.10: the cache takes $4 b\,l\,h\,(s + n)$ bytes in fp16**, with $h$ the model width and $s + n$ tokens.

# %%
share = {}
for name in ("gpt2-xl", "llama-3.1-8b", "qwen3-30b-a3b", "gemma-2-2b", "deepseek-v3"):
    formula = 4 * PRESETS[name].n_layers * PRESETS[name].width * 1000
    share[f"{name}: share of the formula"] = accounting.model_cache_bytes(PRESETS[name], 1000) / formula
fits = [abs(s - 1) < 0.01 for s in share.values()]
sharing = "the architecture: right for multi-head attention with H * D = width, too much where heads share or compress"
claims.judge("C02.10", confirmed=any(fits), refuted=not all(fits), on=sharing, evidence=share)

# %% [markdown]
# **Claim C02.13: one MLA layer caches about as much as 2.25 MQA layers.** DeepSeek-V2 and V3 keep a latent of 512 and a
# rotary key of 64. Compare with one key and one value of width 128.

# %%
mla = accounting.mla_cache_bytes(1, kv_rank=512, rope_dim=64, seq_len=1000)
ratio = mla / accounting.kv_cache_bytes(1, n_kv_heads=1, head_dim=128, seq_len=1000)
claims.judge("C02.13", confirmed=abs(ratio - 2.25) < 0.01, evidence={"MLA bytes / MQA bytes": ratio})

# %% [markdown]
# The calculator: one shape under three designs, and published models. Gemma 2 saves in another way: every second layer has
# a **sliding window** and keeps only the last 4,096 tokens, the layers between are global and carry far things across. At
# which context does the cache of plain MHA outgrow an 80 GB card? And at batch 1?

# %%
LLAMA, GEMMA = PRESETS["llama-3.1-8b"], PRESETS["gemma-2-2b"]
SHAPES = {
    "8B with MHA (32 key heads)": LLAMA.replace(n_kv_heads=32),
    "8B with GQA (8), as Llama 3.1": LLAMA,
    "8B with MQA (1)": LLAMA.replace(n_kv_heads=1),
    "Gemma 2 2B, all layers global": GEMMA.replace(window=None, full_attention_layers=()),
    "Gemma 2 2B, half with windows": GEMMA,
    "DeepSeek-V3 671B, MLA": PRESETS["deepseek-v3"],
}


def draw_caches(tokens, batch, value_bytes):
    sizes = {name: accounting.model_cache_bytes(c, tokens, batch, value_bytes) for name, c in SHAPES.items()}
    return pictures.kv_cache_bars(sizes, title=f"{tokens:,} tokens, batch {batch}", budget=80e9)


CONTEXTS, BATCHES = [2**n for n in range(10, 18)], [2**n for n in range(10)]
sliders = {"tokens": figures.Steps(CONTEXTS, default=2**15), "batch": figures.Steps(BATCHES, default=4)}
BARS = "Bars of KV cache sizes by architecture, with a line at 80 GB."
figures.interactive(draw_caches, alt=BARS, **sliders, value_bytes=[2, 1, 4])
print({name: f"{accounting.model_cache_bytes(c, 2**15, 4) / 2**30:.1f} GiB" for name, c in SHAPES.items()})

# %% [markdown]
# ### MLA without forming the keys
#
# With a cached latent $c_s$ a key would be $k_s = W^{UK} c_s$. Unpacking all of them at every step would cost more than it
# saves. But $q^\top (W^{UK} c) = (W^{UK\top} q)^\top c$: move the matrix to the query. **Claim C02.14: this works without
# RoPE, and not with RoPE inside.** With RoPE the key is turned by its position $s$, and a rotation stands between the two:
#
# $$q_t^\top k_s = (W^{UQ} c_t)^\top R_{s-t}\, W^{UK} c_s$$
#
# No single matrix can stand for all distances. We find the best one by least squares, and see how far it is off.

# %%
T, D = 48, 16
c_q, c_kv, w_uq, w_uk = normal(T, 6, seed=16), normal(T, 7, seed=17), normal(D, 6, seed=18), normal(D, 7, seed=19)


def best_single_matrix(scores):
    """Relative error of the best M in scores = c_q M c_kv^T."""
    features = torch.einsum("tr,sk->tsrk", c_q, c_kv).reshape(T * T, -1)
    solution = torch.linalg.lstsq(features, scores.reshape(-1, 1)).solution
    return ((features @ solution).view(T, T) - scores).norm().item() / scores.norm().item()


q, k, places, inv_freq = c_q @ w_uq.T, c_kv @ w_uk.T, torch.arange(T), rope_frequencies(D).double()
turned = apply_rope(q, places, inv_freq) @ apply_rope(k, places, inv_freq).T
gap = (c_q @ (w_uq.T @ w_uk) @ c_kv.T - q @ k.T).abs().max().item()
claims.judge(
    "C02.14",
    confirmed=gap < 1e-9 and best_single_matrix(q @ k.T) < 1e-9 and best_single_matrix(turned) > 0.1,
    evidence={
        "absorbed = plain to 1e-9": gap < 1e-9,
        "RoPE inside, error of the best matrix": best_single_matrix(turned),
    },
    note="So MLA splits the key: a latent part without positions, and a small shared part that RoPE turns.",
)

# %% [markdown]
# ## 8. What is a faster chip good for? The roofline
#
# A chip has two speeds: FLOPs per second, and bytes per second from memory. What a job *asks* of the two is its
# **arithmetic intensity**, FLOPs per byte. On an H200 they meet at 206: below that a job waits for memory.
#
# Reading a prompt (**prefill**) passes all its tokens through each weight that was loaded. Generating (**decode**) loads
# all weights for *one* token of each sequence. In bf16 a weight is 2 bytes and does 2 FLOPs for each token, so the
# intensity is about the number of tokens that share the load. **Claim C02.15: prefill is compute-bound and decode
# memory-bound.** An 8B model, prompts of 512 to 8,192 tokens, batches of 1 to 64:


# %%
def place(phase, tokens, batch, chip="H200", config=LLAMA):
    """Where one forward pass in bf16 stands under the chip's roof. Weights (not the embedding) and cache are read once."""
    matrices = accounting.count_parameters(config) - config.vocab_size * config.width
    new = tokens if phase == "prefill" else 1
    mixing = accounting.attention_flops(batch, config.n_heads, new, tokens, config.head_dim, causal=True)
    moved = 2 * matrices + accounting.model_cache_bytes(config, tokens, batch)
    hardware = accounting.HARDWARE[chip]
    flops = 2 * matrices * new * batch + mixing * config.n_layers
    return accounting.roofline(flops, moved, hardware.flops["bfloat16"], hardware.bandwidth)


spots = [(t, b) for t in (512, 2048, 8192) for b in (1, 8, 64)]
evidence = {f"decode, 2048 tokens, batch {b}: FLOPs per byte": place("decode", 2048, b).intensity for b in (1, 64)}
evidence["prefill, 2048 tokens, batch 1: FLOPs per byte"] = place("prefill", 2048, 1).intensity
prompts = (t for t in range(1, 999) if place("prefill", t, 1).bound == "compute")
evidence["prefill is compute-bound from tokens"] = next(prompts)
batches = (b for b in range(1, 9999) if place("decode", 512, b).bound == "compute")
evidence["decode at 512 tokens is compute-bound from batch"] = next(batches)
split = all(place("prefill", *s).bound == "compute" and place("decode", *s).bound == "memory" for s in spots)
claims.judge("C02.15", confirmed=split, evidence=evidence)


# %%
def draw_roofline(chip, batch, tokens):
    places = {"prefill": place("prefill", tokens, batch, chip), "decode": place("decode", tokens, batch, chip)}
    places["decode, batch 1"] = place("decode", tokens, 1, chip)
    points = {name: (spot.intensity, spot.flops_per_s) for name, spot in places.items()}
    peak, bandwidth = accounting.HARDWARE[chip].flops["bfloat16"], accounting.HARDWARE[chip].bandwidth
    title = f"{chip}, bf16, 8B model: {tokens:,} tokens, batch {batch}"
    return pictures.roofline(points, peak_flops=peak, bandwidth=bandwidth, title=title)


CHIPS = ["H200", "H100", "A100-SXM4-80GB", "RTX 4090", "B200"]
sliders = {"batch": figures.Steps(BATCHES, default=16), "tokens": figures.Steps([128, 512, *CONTEXTS], default=2048)}
figures.interactive(
    draw_roofline, alt="Roofline: prefill on its flat part, decoding on its slope.", chip=CHIPS, **sliders
)
intensities = [f"{place('decode', 2048, b).intensity:.2f}" for b in (1, 16, 256)]
print("decode at 2048 tokens, FLOPs per byte at batch 1, 16 and 256:", ", ".join(intensities))

# %% [markdown]
# Pull the batch up: decode climbs the slope, because more sequences share each weight. Pull the tokens up: it stops
# climbing, because every sequence brings its own cache and nobody shares that. This is why a smaller cache (GQA, MLA)
# makes generation *faster*, not only possible. It holds on your machine too. One weight matrix, more and more tokens:

# %% tags=["nbval-ignore-output"]
weight = normal(2048, 2048, seed=0, dtype=torch.float32)
for tokens in (1, 4, 16, 64, 256):
    x, seconds = normal(tokens, 2048, seed=1, dtype=torch.float32), []
    for _ in range(5):
        start = time.perf_counter()
        x @ weight
        seconds.append(time.perf_counter() - start)
    print(f"{tokens:4d} tokens: {2 * tokens * 2048**2 / min(seconds) / 1e9:6.1f} GFLOP/s")

# %% [markdown]
# ## 9. Depth: when all tokens become one
#
# A row of attention weights is an average. Averaging averages makes everything alike. **Claim C02.08: without skip
# connections and MLPs, stacked attention collapses to rank 1, doubly exponentially.** Why so fast? Let the tokens be a
# common vector plus small differences of size $r$. Only products of two differences make one query's weights differ from
# another's: size $r^2$. They act on values that differ by $r$. So $r \to c\,r^3$: each layer *triples* the zeros behind the point.
#
# Four arms, random weights, 48 tokens, nothing trained. We measure $|x - \text{mean}|/|x|$: 0 when all tokens are equal.


# %%
def deep_stack(skip, mlp, gain=3.0, depth=10, n=48, E=64):
    """Distance to rank one, attention entropy, and the tokens, layer by layer, in a stack of random layers."""
    generator = torch.Generator().manual_seed(0)

    def apply(x, to, gain=1.0):
        w = torch.randn(to, x.shape[-1], generator=generator, dtype=torch.float64) / math.sqrt(x.shape[-1])
        return x @ (gain * w).T

    x = torch.randn(n, E, generator=generator, dtype=torch.float64)
    distance, entropy, tokens = [], [], [x]
    for _ in range(depth):
        q, k, v = (apply(x, E, g).unflatten(-1, (4, -1)).transpose(0, 1)[None] for g in (gain, gain, 1.0))
        entropy.append(attention_entropy(attention_weights(q, k)).mean().item())
        x = apply(attention(q, k, v)[0].transpose(0, 1).flatten(1), E) + (x if skip else 0)
        if mlp:
            x = apply(torch.relu(apply(x, 4 * E, math.sqrt(2))), E) + (x if skip else 0)
        distance.append(distance_to_rank_one(x).item())
        tokens.append(x)
    return distance, entropy, tokens


ARMS = {"attention only": (False, False), "attention + MLP": (False, True)}
ARMS |= {"attention + skip": (True, False), "attention + MLP + skip": (True, True)}
distance = {name: deep_stack(*arm)[0] for name, arm in ARMS.items()}
zeros = [-math.log10(r) for r in distance["attention only"] if 1e-14 < r < 0.5]
order = max((c - b) / (b - a) for (a, b), (_, c) in pairwise(pairwise(zeros)))
evidence = {f"{name}, layers 1, 5, 9": [f"{r:.0e}" for r in rs[::4]] for name, rs in distance.items()}
claims.judge(
    "C02.08",
    confirmed=distance["attention only"][-1] < 1e-9 and order > 2 and distance["attention + MLP + skip"][-1] > 0.1,
    evidence=evidence | {"attention only: each layer multiplies the number of zeros by": order},
    note="The skip connection is what saves the rank. An MLP alone does not.",
)

# %% [markdown]
# Near the 3 of the argument; at $10^{-16}$ it ends, where float64 does. See it happen: each point is a token, seen along
# two fixed directions. Press Play.

# %%
three = ("attention only", "attention + MLP", "attention + MLP + skip")
CLOUDS = {name: [2.5 * x[:, :2] / x.norm(dim=-1).mean() for x in deep_stack(*ARMS[name])[2]] for name in three}
figures.interactive(
    lambda layer: pictures.token_clouds({a: c[layer] for a, c in CLOUDS.items()}, title=f"tokens after {layer} layers"),
    alt=lambda layer: f"Tokens after {layer} layers: without skip connections they shrink to one point, with them not.",
    play="layer",
    layer=(0, 10, 8),
)
print("spread of the cloud after 8 layers:", {name: f"{c[8].std(0).max():.0e}" for name, c in CLOUDS.items()})

# %% [markdown]
# Entropy tells the other half. Low gain of $W_q$ and $W_k$: every query averages over everything, and the tokens merge in
# few layers. High gain: each query picks few keys, which delays the collapse and starves the softmax of gradient. At
# which gain does "attention only" survive longest? (With skips the vectors grow, and attention sharpens from layer to layer.
# Norms, the next chapter, are there for that.)


# %%
def draw_layers(gain):
    runs = {name: deep_stack(*arm, gain=gain) for name, arm in ARMS.items()}
    far, entropy = ({name: run[part] for name, run in runs.items()} for part in (0, 1))
    panels = {"distance to rank one": far, "entropy, nats": entropy}
    return pictures.by_layer(panels, logarithmic=["distance to rank one"])


SINK = "Distance to rank one and attention entropy by layer: only the arms with skip connections keep their distance."
figures.interactive(draw_layers, alt=SINK, slow=True, gain=figures.Steps([0.5, 1.0, 2.0, 3.0, 4.0, 6.0], default=2.0))
print("attention only at gain 2, distance by layer:", [f"{r:.0e}" for r in deep_stack(False, False, gain=2.0)[0][:4]])

# %% [markdown]
# ## 10. Training: when attention becomes too sure
#
# Now the other end: entropy near 0. **Claim C02.09: low attention entropy goes with failing training, and bounding the
# spectral norm of the projections prevents it.** The spectral norm $\sigma(W)$ is how much $W$ can stretch a vector, so a
# bound on $\sigma(W_q)$ and $\sigma(W_k)$ bounds every score. The copier again, at a learning rate eight times as high,
# without a bound and with $\sigma \le 2$. Predict what the unbounded runs' entropy does in the first 25 steps.


# %% tags=["nbval-ignore-output"]
# lint: allow ignore-output, training that fails is chaotic: another processor gives other digits
class SpectralBound(torch.nn.Module):
    """W, shrunk to spectral norm 2 where its own is larger."""

    def forward(self, weight):
        sigma = torch.linalg.matrix_norm(weight.detach(), 2)
        return weight * (2.0 / sigma).clamp(max=1.0)


def bound_projections(model):
    for block in model.blocks:
        for projection in (block.attention.q_proj, block.attention.k_proj):
            parametrize.register_parametrization(projection, "weight", SpectralBound())


SEEDS = (4, 5) if SCALE == "quick" else (1, 2, 3, 4, 5)
CURES = {"unbounded": lambda model: None, "bounded": bound_projections}
runs = {arm: [train(0.025, seed, prepare)[1:] for seed in SEEDS] for arm, prepare in CURES.items()}
last = {arm: [round(float(loss[-1]), 1) for loss, _ in run] for arm, run in runs.items()}
least = {arm: [round(min(entropy), 1) for _, entropy in run] for arm, run in runs.items()}
claims.judge(
    "C02.09",
    confirmed=np.median(last["unbounded"]) > 2 * np.median(last["bounded"]) and max(least["unbounded"]) <= 0.1,
    evidence={f"{arm}: last loss by seed; lowest entropy": [*last[arm], *least[arm]] for arm in runs},
    note="Guessing costs 3.47 nats. Here a failing run stays there; in larger models its loss rises.",
)

# %% tags=["nbval-ignore-output"]
# lint: allow ignore-output, as above
shown = {"lr 0.003": (losses, entropies)} | {f"lr 0.025, {arm}": run[-1] for arm, run in runs.items()}
names = ("loss, nats", "entropy of the sharpest layer")
panels = {name: {arm: run[n] for arm, run in shown.items()} for n, name in enumerate(names)}
BOTH = "Loss and entropy of the copier: at the high rate entropy drops to 0 and the loss stays; bounded, it learns."
figures.show(pictures.by_layer(panels, xlabel="steps / 25"), alt=BOTH)
print("unbounded: entropy of the sharpest layer after 25 steps", f"{runs['unbounded'][-1][1][0]:.1f} nats")

# %% [markdown]
# The unbounded run becomes certain before it knows anything. From then on its softmax passes no gradient (section 3), and it
# never finds out. Low entropy by itself is no illness: the healthy copier is sharp too, *after* it has learned to look.
#
# The same idea in today's models, without a spectral norm. **QK-norm** normalises each query and key, so a score is at
# most $\sqrt{d}$ times two learned gains. **Soft-capping** sends scores through $c \tanh(s/c)$. The largest scores:

# %%
x = normal(64, 32, seed=20)
w_q, w_k = normal(32, 32, seed=21) / 32**0.5, normal(32, 32, seed=22) / 32**0.5
for growth in (1, 4, 16):
    q, k = x @ (growth * w_q).T, x @ (growth * w_k).T
    plain, normed = q @ k.T / 32**0.5, F.rms_norm(q, (32,)) @ F.rms_norm(k, (32,)).T / 32**0.5
    sizes = [s.abs().max().item() for s in (plain, normed, 50 * torch.tanh(plain / 50))]
    print(f"weights x {growth:2d}: plain {sizes[0]:7.1f}, with QK-norm {sizes[1]:.1f}, capped at 50 {sizes[2]:.1f}")

# %% [markdown]
# ## 11. Longer contexts: does attention blur?
#
# More keys share the same total weight of 1. With scores that spread by a moderate $\sigma$, the entropy is about
# $\ln n - \sigma^2/2$: it grows with $\ln n$, and attention blurs. The remedy proposed is to multiply scores by
# $\ln n / \ln n_\text{train}$. **Claim C02.12: this keeps the entropy stable as the context grows.** Put it in:
#
# $$H \approx \ln n - \frac{\sigma^2}{2}\left(\frac{\ln n}{\ln n_\text{train}}\right)^2$$
#
# The two terms balance at one spread only, near $\sigma = \sqrt{\ln n_\text{train}}$: 2.5 for 512 tokens. Fresh models
# have $\sigma = 1$. Predict the verdict before you run the cell.

# %%
TRAINED, LENGTHS = 512, [2**n for n in range(7, 14)]


def entropy_curves(sigma):
    curves = {"no change": [], "times ln n / ln 512": [], "times sqrt of that": []}
    for n in LENGTHS:
        noise = sigma * normal(128, n, seed=n, dtype=torch.float32)
        for name, power in zip(curves, (0.0, 1.0, 0.5)):
            factor = (math.log(n) / math.log(TRAINED)) ** power
            curves[name].append(attention_entropy(softmax(factor * noise)).mean().item())
    return curves


drift = {s: [c[-1] - c[2] for c in list(entropy_curves(s).values())[:2]] for s in (1.0, 1.5, 2.5, 3.5)}
stable = [abs(log_n) < abs(bare) / 3 for bare, log_n in drift.values()]
own = [round(s[s.isfinite()].std().item(), 1) for s in scores_of(copier, row)]
evidence = {f"spread {s}: change of entropy from 512 to 8,192 tokens, without and with": d for s, d in drift.items()}
spread = "the spread of the scores: stable near sqrt(ln n), too weak for a smaller spread"
evidence |= {"spread at which the terms balance": math.log(TRAINED) ** 0.5, "spread in our copier's two layers": own}
claims.judge("C02.12", confirmed=any(stable), refuted=not all(stable), on=spread, evidence=evidence)

# %%
figures.interactive(
    lambda spread: pictures.entropy_by_length(
        LENGTHS, entropy_curves(spread), trained=TRAINED, title=f"spread {spread}"
    ),
    alt="Entropy against context length: rising without a rule, less with log-n scaling.",
    slow=True,
    spread=figures.Steps([0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0], default=2.5),
)
print(f"spread 2.5, 512 to 8,192 tokens: {drift[2.5][0]:+.1f} nats without, {drift[2.5][1]:+.1f} with log-n scaling")

# %% [markdown]
# The other answer to long contexts is not to look at all of it: sliding windows in most layers, a global layer now and
# then. You saw in the calculator what that saves. Through $L$ layers with window $W$, news can travel about $L \cdot W$
# tokens. Whether it is used is another question (chapter 04).
#
# ## What we found

# %%
for number in range(1, 18):
    claim = claims.recorded()[f"C02.{number:02d}"]
    print(f"{claim.id}  {claim.verdict:10s} {claim.text[:96]}")

# %% [markdown]
# ## Check yourself
#
# <details><summary>1. The head width goes from 64 to 256 and you forget to change the scale 1/8. What happens?</summary>
# The scores have variance 256/64 = 4 in place of 1, a spread of 2. Attention starts sharper and learns more slowly.</details>
# <details><summary>2. During cached decoding of one token, which causal mask do you need?</summary>
# None: the newest query may see every key. A mask aligned at the top left would let it see key 0 only.</details>
# <details><summary>3. A padded batch gives NaN in the loss, although padding is masked. Where do you look first?</summary>
# At rows that see nothing: -inf everywhere, 0/0 in the softmax. Check the gradient too, not only the value.</details>
# <details><summary>4. 32 layers, 8 key heads of 128, bf16. How many bytes does one token cost, and how many 8,192 tokens?</summary>
# 2 * 32 * 8 * 128 * 2 = 131,072 bytes = 128 KiB; 8,192 of them are 1 GiB for each sequence.</details>
# <details><summary>5. You double the batch in decoding. When does the throughput nearly double, and when not?</summary>
# While loading weights dominates, it does. At long contexts the caches dominate; they double as well.</details>
# <details><summary>6. A run's loss stops falling early and attention entropy is 0.02 nats in layer 1. What would you try?</summary>
# A lower learning rate or a warm-up, and QK-norm or a bound on the spectral norms: the softmax is saturated.</details>
#
# ## Further reading
# - Attention Is All You Need, arXiv:1706.03762 (the scale is in section 3.2.1, footnote 4)
# - Fast Transformer Decoding (multi-query attention), arXiv:1911.02150; GQA, arXiv:2305.13245
# - DeepSeek-V2 (multi-head latent attention), arXiv:2405.04434
# - Attention Is Not All You Need: pure attention loses rank doubly exponentially with depth, arXiv:2103.03404
# - Stabilizing Transformer Training by Preventing Attention Entropy Collapse, arXiv:2303.06296
# - Query-Key Normalization, arXiv:2010.04245; Gemma 2 (soft-capping, windows), arXiv:2408.00118
# - Overcoming a Theoretical Limitation of Self-Attention (log-n scaling), arXiv:2202.12172
# - Tensor Programs V (muP), arXiv:2203.03466; T5, arXiv:1910.10683; Efficiently Scaling Transformer Inference, arXiv:2211.05102
#
# Next: the assignment. You will write all of this yourself, and be told within a second when it is wrong.
