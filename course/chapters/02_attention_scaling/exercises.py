# %% [markdown]
# # 02 Attention and scaling: why the square root
# *Time: 3 hours. Builds on: the lesson 02_attention_scaling.*
#
# You will write attention from its first line to the form that serves long contexts: softmax, masks, many heads, shared
# heads, the cache, and the trick by which DeepSeek's latent attention never forms a key.
#
# After each exercise a cell runs `check(...)`. It tells in a second what is wrong and why. Run it as often as you like.
# Helper functions belong in the cell of the exercise that needs them.
#
# Conventions of the whole chapter:
#
# - Tensors are `(B, H, T, D)`: batch, heads, time, width of one head. `T` counts queries, `S` counts keys.
# - A mask is boolean and **True means "may attend"**. A query that may attend to nothing gets zeros.
# - Functions leave their inputs as they were, keep the input's dtype, and let gradients through.

# %% given="imports"
import math

import torch
from torch import Tensor

from grader import check, grade

# %% [markdown]
# ## 1. Softmax that survives
#
# $$\mathrm{softmax}(x)_i = \frac{e^{x_i}}{\sum_j e^{x_j}}$$
#
# In float32 $e^{89}$ is already infinite. Adding a constant to all of $x$ changes nothing (claim C02.05), so choose the
# constant well. Then think about a row in which everything is $-\infty$: a query that may look at nothing. Its sum is 0,
# and 0/0 is NaN. Here it must be zeros.
#
# Not allowed: torch's own softmax and log-softmax under any of their names, and `scaled_dot_product_attention`, which holds
# one. `exp`, `sum`, `amax` and `logsumexp` are fine.


# %% exercise="softmax"
def softmax(x: Tensor, dim: int = -1) -> Tensor:
    """The softmax of x along one dimension: weights of 0 or more that sum to 1 along `dim`.

    x: floating point, any shape with at least one dimension, any size of number; -inf is allowed.
    dim: any dimension of x, negative ones count from the end.

    Returns a tensor with the shape and dtype of x. Where every entry along `dim` is -inf, the weights are exactly 0
    (never NaN, and not a uniform average). Works for logits of any size, e.g. 10000. Does not change x.

    >>> softmax(torch.tensor([1000.0, 1000.0, -math.inf]))
    tensor([0.5000, 0.5000, 0.0000])
    """
    ### BEGIN SOLUTION
    largest = x.amax(dim, keepdim=True)
    largest = largest.masked_fill(largest == -math.inf, 0.0)  # -inf minus -inf would be NaN
    exponentials = torch.exp(x - largest)
    total = exponentials.sum(dim, keepdim=True)
    return exponentials / total.masked_fill(total == 0, 1.0)
    ### END SOLUTION


# %% check="softmax"
check(softmax)

# %% judge="softmax" points=4
grade(softmax)

# %% [markdown]
# ## 2. Attention
#
# $$\mathrm{attention}(Q, K, V) = \mathrm{softmax}\!\left(\frac{QK^\top}{\sqrt{d_k}}\right)V$$
#
# Row $t$ of the result is a weighted average of the rows of $V$; the weights say how much query $t$ looks at each key.
# A hidden key must get weight **exactly** 0, whatever the visible scores are: a fill of -1e4 is a bet on their size.
#
# You may use your `softmax` of exercise 1, or torch's. Not allowed, here and below: torch's own attention
# (`scaled_dot_product_attention`, `nn.MultiheadAttention` and its functional form, `flex_attention`, encoder layers).


# %% exercise="attention"
def attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, scale: float | None = None) -> Tensor:
    """Scaled dot-product attention: for each query the average of the values, weighted by softmax(scale * q.k).

    q: (..., T, D), k: (..., S, D), v: (..., S, Dv), one floating dtype, the same leading dimensions (any number of
        them, also none). T, S, D and Dv may all differ.
    mask: bool, broadcastable to (..., T, S); True = this query may attend to this key. None: all may.
    scale: what the scores are multiplied with, before the softmax. None: 1 / sqrt(D). Any number is legal, 0 and
        negative ones too.

    Returns (..., T, Dv) in the dtype of the inputs. A query that may attend to nothing gives exactly 0, and its gradients
    are 0, not NaN. What stands in hidden keys and values never matters.
    """
    ### BEGIN SOLUTION
    scale = 1.0 / math.sqrt(q.shape[-1]) if scale is None else scale
    scores = scale * (q @ k.transpose(-2, -1))
    if mask is not None:
        scores = scores.masked_fill(~mask, -math.inf)
    return softmax(scores, dim=-1) @ v
    ### END SOLUTION


# %% check="attention"
check(attention)

# %% judge="attention" points=6
grade(attention)

# %% [markdown]
# ## 3. The causal mask
#
# A language model's token may look at itself and at what came before. While it trains, queries and keys are the same
# tokens and the mask is a lower triangle. While it generates, there is **one** query, the newest token, and many cached
# keys: the newest query must see them all. So the two sequences are aligned at their ends: the last query goes with the
# last key.
#
# ```
# t_q = 2, t_k = 5        key 0 1 2 3 4
# query 0 (position 3)        x x x x .
# query 1 (position 4)        x x x x x
# ```
#
# Not allowed: `torch.nn.attention.bias`.


# %% exercise="causal_mask"
def causal_mask(t_q: int, t_k: int) -> Tensor:
    """The bool mask (t_q, t_k) of causal attention, aligned at the bottom right: True = may attend.

    t_q, t_k: numbers of queries and keys, at least 1. The last query goes with the last key, so query i stands at key
        position i + (t_k - t_q) and sees keys up to and including that position.

    With t_q > t_k the first t_q - t_k queries stand before all keys and see nothing.

    >>> causal_mask(2, 3).int()
    tensor([[1, 1, 0],
            [1, 1, 1]], dtype=torch.int32)
    """
    ### BEGIN SOLUTION
    position = torch.arange(t_q)[:, None] + (t_k - t_q)
    return torch.arange(t_k)[None, :] <= position
    ### END SOLUTION


# %% check="causal_mask"
check(causal_mask)

# %% judge="causal_mask" points=3
grade(causal_mask)

# %% [markdown]
# ## 4. Many documents in one row
#
# Training rows are packed: several short documents share one row of tokens so that no compute is spent on padding. A
# token must not read another document. `doc_ids` says which document each token belongs to; -1 marks padding.
#
# Two tokens belong to the same document exactly when their ids are equal, **also when other tokens stand between them**.
# Padding belongs to nothing: its row and its column are all False, the diagonal included.


# %% exercise="packed_mask"
def packed_mask(doc_ids: Tensor) -> Tensor:
    """The bool mask (batch, time, time) of packed documents: True where query i (row) may attend to key j (column).

    doc_ids: int64, (batch, time); equal ids mean one document wherever its tokens stand, -1 means padding.
        Ids are any other non-negative numbers in any order; 0 is an ordinary id.

    Token i may attend to token j when j <= i, both are of one document, and neither is padding.

    >>> packed_mask(torch.tensor([[4, 4, 0, -1]]))[0].int()
    tensor([[1, 0, 0, 0],
            [1, 1, 0, 0],
            [0, 0, 1, 0],
            [0, 0, 0, 0]], dtype=torch.int32)
    """
    ### BEGIN SOLUTION
    time = doc_ids.shape[1]
    same_document = doc_ids[:, :, None] == doc_ids[:, None, :]
    not_padding = doc_ids[:, :, None] != -1
    return same_document & not_padding & causal_mask(time, time).to(doc_ids.device)
    ### END SOLUTION


# %% check="packed_mask"
check(packed_mask)

# %% judge="packed_mask" points=4
grade(packed_mask)

# %% [markdown]
# ## 5. Many heads
#
# One head can look at one place in one way. $H$ heads look in $H$ ways at the price of one wide head: project, cut the
# result into $H$ pieces of width $D$, attend in each, lay the pieces side by side, project once more.
#
# Shapes: `x (B, T, E)` → `q (B, T, H*D)` → `(B, T, H, D)` → `(B, H, T, D)` → attention → `(B, H, T, D)` → `(B, T, H*D)` →
# `y (B, T, E)`. Head 0 owns the first `D` features, head 1 the next `D`.
#
# You may use `attention`, `softmax` and `causal_mask`. Not allowed: torch's own attention, as in exercise 2.


# %% exercise="multi_head_attention"
def multi_head_attention(
    x: Tensor, w_q: Tensor, w_k: Tensor, w_v: Tensor, w_o: Tensor, n_heads: int, mask: Tensor | None = None
) -> Tensor:
    """Self-attention with several heads, without biases.

    x: (B, T, E), floating point.
    w_q, w_k, w_v: (H*D, E), and w_o: (E_out, H*D): (out, in) as in nn.Linear, so that x @ w.T projects x. H*D need not
        equal E. Row block h*D .. (h+1)*D - 1 belongs to head h.
    n_heads: H, a divisor of the rows of w_q.
    mask: bool, broadcastable to (B, H, T, T); True = may attend. (A mask of shape (B, T, T) gets its head axis by
        mask[:, None].) None: every token sees every token.

    Returns (B, T, E_out). The scale is 1 / sqrt(D), D the width of one head. A token that may attend to nothing gives
    exactly 0 and no NaN in any gradient.
    """

    ### BEGIN SOLUTION
    def heads(w: Tensor) -> Tensor:
        return (x @ w.T).unflatten(-1, (n_heads, -1)).transpose(1, 2)

    mixed = attention(heads(w_q), heads(w_k), heads(w_v), mask)
    return mixed.transpose(1, 2).flatten(2) @ w_o.T
    ### END SOLUTION


# %% check="multi_head_attention"
check(multi_head_attention)

# %% judge="multi_head_attention" points=6
grade(multi_head_attention)

# %% [markdown]
# ## 6. Fewer keys than queries
#
# While generating, every key and value of every head is read from memory for every token. Grouped-query attention lets
# `g` query heads share one key/value head: query heads `0 .. g-1` read key head 0, heads `g .. 2g-1` read key head 1, and
# so on. With one key head it is multi-query attention, with `g = 1` it is the ordinary kind.
#
# You need not copy K and V for every query head. Think of the `g` query heads of a group as `g` times as many queries.
#
# You may use `attention` and `softmax`. Not allowed: torch's own attention, as in exercise 2.


# %% exercise="grouped_query_attention"
def grouped_query_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """Attention in which each key/value head serves a group of neighbouring query heads.

    q: (B, H, T, D), k: (B, KV, S, D), v: (B, KV, S, Dv) with H = KV * g; query head h reads key head h // g.
    mask: bool, broadcastable to (B, H, T, S); True = may attend. Each query head may have its own. None: all may.

    Returns (B, H, T, Dv), heads in the order of q. The scale is 1 / sqrt(D). A query that may attend to nothing gives
    exactly 0, and its gradients are 0, not NaN.
    """
    ### BEGIN SOLUTION
    batch, n_heads, t_q, d_k = q.shape
    n_kv, t_k = k.shape[1], k.shape[2]
    rows = n_heads // n_kv * t_q  # the queries of a whole group, one head after the other
    if mask is not None:
        mask = mask.expand(batch, n_heads, t_q, t_k).reshape(batch, n_kv, rows, t_k)
    mixed = attention(q.reshape(batch, n_kv, rows, d_k), k, v, mask)
    return mixed.reshape(batch, n_heads, t_q, v.shape[-1])
    ### END SOLUTION


# %% check="grouped_query_attention"
check(grouped_query_attention)

# %% judge="grouped_query_attention" points=5
grade(grouped_query_attention)

# %% [markdown]
# ## 7. How spread out is attention?
#
# The entropy of a query's weights says among how many keys it divides its attention: 0 for one key, $\ln n$ for $n$ keys
# alike. Training that is about to diverge shows in it (claim C02.09).
#
# $$H = -\sum_j w_j \ln w_j, \qquad 0 \ln 0 = 0$$
#
# Not allowed: `torch.distributions` and `scipy.stats`.


# %% exercise="attention_entropy"
def attention_entropy(weights: Tensor) -> Tensor:
    """The entropy of each row of attention weights, in nats.

    weights: (..., S), floating point, at least 0; each row along the last dimension sums to 1, or is all 0 (a query that
        sees nothing).

    Returns (...), the last dimension summed away, in the dtype of the weights. 0 * log(0) counts as 0: a row with one 1
    and zeros has entropy 0, and so has a row of zeros.

    >>> attention_entropy(torch.tensor([[0.5, 0.5, 0.0], [0.0, 1.0, 0.0]])).abs()
    tensor([0.6931, 0.0000])
    """
    ### BEGIN SOLUTION
    logs = torch.log(weights.masked_fill(weights == 0, 1.0))  # log 1 = 0 stands in for 0 * log 0
    return -(weights * logs).sum(-1)
    ### END SOLUTION


# %% check="attention_entropy"
check(attention_entropy)

# %% judge="attention_entropy" points=3
grade(attention_entropy)

# %% [markdown]
# ## 8. The bytes of a cache
#
# To generate a token, a model needs the keys and values of all tokens before it, in every layer. They are kept, and that
# is what fills the memory of a serving GPU. Count them.


# %% exercise="kv_cache_bytes"
def kv_cache_bytes(
    n_layers: int, n_kv_heads: int, head_dim: int, seq_len: int, batch: int, bytes_per_value: int
) -> int:
    """The bytes that the keys and the values of all layers take.

    n_kv_heads: heads of K and V (under grouped-query attention fewer than query heads).
    seq_len: tokens kept for each sequence; batch: sequences; bytes_per_value: 2 for bf16 and fp16, 4 for float32.

    Returns an int, in bytes (not GiB), exact also when it is very large.

    >>> kv_cache_bytes(n_layers=1, n_kv_heads=1, head_dim=128, seq_len=1, batch=1, bytes_per_value=2)
    512
    """
    ### BEGIN SOLUTION
    return 2 * n_layers * n_kv_heads * head_dim * seq_len * batch * bytes_per_value
    ### END SOLUTION


# %% check="kv_cache_bytes"
check(kv_cache_bytes)

# %% judge="kv_cache_bytes" points=2
grade(kv_cache_bytes)

# %% [markdown]
# ## 9. One step of generation
#
# The newest token brings one query, one key and one value. Append key and value to the cache, let the query attend to
# everything in it, **itself included**, and hand back a new cache. The cache that the caller passed stays as it was: a beam
# search continues two texts from one cache.
#
# Feeding a text step by step must give what one causal pass over the whole text gives. That is the test.
#
# You may use `attention` and `softmax`. Not allowed: torch's own attention, as in exercise 2.


# %% exercise="decode_step"
def decode_step(
    q_t: Tensor, k_t: Tensor, v_t: Tensor, cache: tuple[Tensor, Tensor] | None
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """One step of cached decoding: (output, new cache).

    q_t, k_t, v_t: (B, H, 1, D), of the newest token.
    cache: (keys, values) of the tokens before it, each (B, H, S, D), oldest first; None at the first step.

    Returns the output (B, H, 1, D) of attending with scale 1 / sqrt(D) to all cached tokens and the new one, and the new
    cache (keys, values), each (B, H, S + 1, D), the new token last, in the dtype of the inputs. The tensors of the old
    cache are not changed and stay usable, and nothing is remembered between calls except in the cache.
    """
    ### BEGIN SOLUTION
    keys, values = k_t, v_t
    if cache is not None:
        keys = torch.cat([cache[0], k_t], dim=2)
        values = torch.cat([cache[1], v_t], dim=2)
    return attention(q_t, keys, values), (keys, values)
    ### END SOLUTION


# %% check="decode_step"
check(decode_step)

# %% judge="decode_step" points=5
grade(decode_step)

# %% [markdown]
# ## 10. Scores from the latent
#
# Multi-head latent attention (DeepSeek-V2, arXiv:2405.04434) caches one short vector $c^{KV}_s$ for each token instead of
# keys and values. Head $h$'s key would be $k_{hs} = W^{UK}_h c^{KV}_s$ and its query is $q_{ht} = W^{UQ}_h c^Q_t$. The
# score is a product of matrices, and products may be bracketed as we like:
#
# $$q_{ht}^\top k_{hs} = (W^{UQ}_h c^Q_t)^\top (W^{UK}_h c^{KV}_s) = \big((W^{UK}_h)^\top W^{UQ}_h\, c^Q_t\big)^\top c^{KV}_s$$
#
# The right-hand side meets the cache as it is. Write that. Forming the keys first gives the same numbers in exact
# arithmetic and loses the point: with S = 100,000 cached tokens it would unpack the whole cache at every step. One case has
# keys too large for float32 and scores that fit, so the bracket shows.


# %% exercise="mla_absorbed_scores"
def mla_absorbed_scores(c_q: Tensor, c_kv: Tensor, w_uq: Tensor, w_uk: Tensor) -> Tensor:
    """Attention scores between latent queries and latent keys, without forming the keys.

    c_q: (B, T, Rq), query latents; c_kv: (B, S, Rkv), the cache.
    w_uq: (H, D, Rq) and w_uk: (H, D, Rkv), the up-projections of each head.

    Returns (B, H, T, S), unscaled (no 1/sqrt(D)) and before any softmax, in the dtype of the inputs. No array with one
    entry for each cached token, head and head dimension (the keys, B, H, S, D) may be formed: w_uk is applied to
    the query's side.
    """
    ### BEGIN SOLUTION
    queries = torch.einsum("btr,hdr->bhtd", c_q, w_uq)
    latent_queries = torch.einsum("bhtd,hdk->bhtk", queries, w_uk)  # W_uk absorbed on the query's side
    return torch.einsum("bhtk,bsk->bhts", latent_queries, c_kv)
    ### END SOLUTION


# %% check="mla_absorbed_scores"
check(mla_absorbed_scores)

# %% judge="mla_absorbed_scores" points=5
grade(mla_absorbed_scores)

# %% [markdown]
# ## 11. Why the square root? (in your own words)
#
# Answer in at most 200 words and one or two formulas.
#
# 1. Which assumptions on $q$ and $k$ make the variance of $q \cdot k$ equal to $d_k$? Derive it.
# 2. Training breaks one of them. Which, and what does that say about dividing by $\sqrt{d_k}$ in a trained model?
# 3. Name one remedy that does not rest on the assumption.

# %% [markdown] manual="why_the_square_root" points=4
# 1. Let the $2d$ entries of $q$ and $k$ be independent with mean 0 and variance 1. Each product has mean
#    $E[q_i]E[k_i] = 0$ and variance $E[q_i^2]E[k_i^2] = 1$. The $d$ products are independent, so their variances add:
#    $\mathrm{Var}(q \cdot k) = d$, and $\mathrm{Var}(q \cdot k/\sqrt{d}) = 1$ at every width.
# 2. Independence goes first: $W_q$ and $W_k$ learn to align the queries with the keys they seek, and then
#    $q \cdot k$ has a mean that grows like $d$, not a spread that grows like $\sqrt{d}$. Their entries need not keep variance
#    1 either. So $1/\sqrt{d}$ is right at the start of training, where it keeps softmax out of saturation; it promises
#    nothing later. (For fully aligned vectors $1/d$ is the factor that keeps the size, which is what muP uses.)
# 3. QK-norm: normalise each query and key, so that a learned gain bounds the logits whatever the projections do. Others:
#    soft-capping the logits with a tanh, or bounding the spectral norms of $W_q$ and $W_k$.
