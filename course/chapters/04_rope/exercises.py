# %% [markdown]
# # 04 RoPE: positions as rotations
# *Time: 3 hours. Builds on: the lesson 04_rope.*
#
# Attention alone does not know which token came first. You will write the three ways in which models are told: added
# sinusoids, rotated queries and keys, and a penalty on distance. Then the tricks that let a model read further than it was
# trained for.
#
# After each exercise a cell runs `check(...)`. It tells in a second what is wrong and why. Run it as often as you like.
# Helper functions belong in the cell of the exercise that needs them.
#
# Conventions of the whole chapter:
#
# - **Positions count from 0**, pairs of columns too: the first pair is $i = 0$.
# - Positions are tensors of shape `(T,)`, whole or fractional numbers in any order. They need not be 0, 1, 2, ...: a decoding
#   step hands over `[4000]`, position interpolation hands over `[0.0, 0.25, 0.5]`.
# - Angles are in radians, in float32 whatever the model's dtype. In float16 there is no position 4001.
# - Functions leave their inputs as they were, and gradients flow through them.

# %% given="imports"
import math

import torch
from torch import Tensor

from grader import check, grade

# %% [markdown]
# ## 1. Sinusoids
#
# The first transformer added a vector to each embedding that says where the token stands. Each pair of columns is the hand
# of a clock, and each clock is slower than the one before:
#
# $$\mathrm{PE}(p)_{2i} = \sin\left(p \cdot b^{-2i/d}\right), \qquad \mathrm{PE}(p)_{2i+1} = \cos\left(p \cdot b^{-2i/d}\right), \qquad i = 0, 1, \dots, \tfrac d2 - 1$$
#
# Sine and cosine take turns: column 0 is a sine, column 1 the cosine of the **same** angle.


# %% exercise="sinusoidal"
def sinusoidal(positions: Tensor, dim: int, base: float = 10000.0) -> Tensor:
    """The sinusoidal position vectors, (T, dim) float32: sin on even columns, cos on odd ones.

    positions: (T,), whole or fractional numbers of any dtype, in any order.
    dim: width of the vectors, even. Columns 2i and 2i + 1 share the angle position * base**(-2i / dim), i from 0.
    base: above 0.

    Computed in float32 or better: at position 4000 every value is right to about 0.001.

    >>> sinusoidal(torch.tensor([0, 1]), 4, base=100.0)
    tensor([[0.0000, 1.0000, 0.0000, 1.0000],
            [0.8415, 0.5403, 0.0998, 0.9950]])

    Raises: ValueError for an odd dim.
    """
    ### BEGIN SOLUTION
    if dim % 2:
        raise ValueError(f"sine and cosine come in pairs: dim must be even, got {dim}")
    pair = torch.arange(dim // 2, dtype=torch.float64)
    angles = positions.double()[:, None] * base ** (-2 * pair / dim)
    return torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(-2).float()
    ### END SOLUTION


# %% check="sinusoidal"
check(sinusoidal)

# %% judge="sinusoidal" points=4
grade(sinusoidal)

# %% [markdown]
# ## 2. The angles of RoPE
#
# RoPE uses the same clocks. But it does not add the hands to the embedding: it **turns** queries and keys by their angles.
# First the angles:
#
# $$\theta_i = b^{-2i/d}, \qquad \mathrm{angle}(p, i) = p \cdot \theta_i, \qquad i = 0, 1, \dots, \tfrac d2 - 1$$
#
# Here $d$ is the width of one **head**, not of the model. One angle for each pair of columns.


# %% exercise="rope_angles"
def rope_angles(positions: Tensor, head_dim: int, base: float = 10000.0) -> Tensor:
    """The rotation angles in radians, (T, head_dim / 2) float32: position * base**(-2i / head_dim) in column i, i from 0.

    positions: (T,), whole or fractional numbers of any dtype, in any order.
    head_dim: width of one head, even.
    base: above 0.

    Angles are not wrapped: at position 4000 the first column is 4000.

    >>> rope_angles(torch.tensor([0, 3]), 4, base=100.0)
    tensor([[0.0000, 0.0000],
            [3.0000, 0.3000]])

    Raises: ValueError for an odd head_dim.
    """
    ### BEGIN SOLUTION
    if head_dim % 2:
        raise ValueError(f"rotations need pairs of columns: head_dim must be even, got {head_dim}")
    inv_freq = base ** (-torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim)
    return positions.float()[:, None] * inv_freq.float()
    ### END SOLUTION


# %% check="rope_angles"
check(rope_angles)

# %% judge="rope_angles" points=3
grade(rope_angles)

# %% [markdown]
# ## 3. The rotation
#
# A pair of columns $(a, b)$ is a point in the plane. Turned by the angle $\varphi$ it becomes
#
# $$(a\cos\varphi - b\sin\varphi,\;\; b\cos\varphi + a\sin\varphi)$$
#
# Which columns make a pair? Two conventions live side by side, and a checkpoint that is loaded under the wrong one talks
# nonsense:
#
# ```
# "interleaved"   pairs (0, 1), (2, 3), (4, 5), ...         the paper, DeepSeek
# "half"          pairs (0, d/2), (1, d/2 + 1), ...         Llama, Qwen, Gemma as they are released
# ```
#
# Under both, pair $i$ turns by `angles[..., i]`, and **the result stays in the columns that it came from**.


# %% exercise="apply_rope"
def apply_rope(x: Tensor, angles: Tensor, layout: str = "interleaved") -> Tensor:
    """x with each pair of columns turned by its angle; shape, dtype and the length of every vector are those of x.

    x: (..., T, D), floating point, any leading dimensions (none, or batch and heads), D even.
    angles: (T, D/2), float32 radians: row t belongs to x[..., t, :], column i to pair i.
    layout: "interleaved" pairs columns 2i and 2i + 1, "half" pairs columns i and i + D/2.

    Does not change x. For float16 and bfloat16 x the cosines and sines are still those of the float32 angles.

    >>> apply_rope(torch.tensor([[1.0, 0.0, 0.0, 1.0]]), torch.tensor([[math.pi / 2, 0.0]]))
    tensor([[-4.3711e-08,  1.0000e+00,  0.0000e+00,  1.0000e+00]])

    Raises: ValueError for any other layout.
    """
    ### BEGIN SOLUTION
    cos, sin = angles.cos(), angles.sin()
    if layout == "interleaved":
        a, b = x[..., 0::2], x[..., 1::2]
        turned = torch.stack((a * cos - b * sin, b * cos + a * sin), dim=-1).flatten(-2)
    elif layout == "half":
        a, b = x.chunk(2, dim=-1)
        turned = torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1)
    else:
        raise ValueError(f"layout must be 'interleaved' or 'half', got {layout!r}")
    return turned.to(x.dtype)
    ### END SOLUTION


# %% check="apply_rope"
check(apply_rope)

# %% judge="apply_rope" points=6
grade(apply_rope)

# %% [markdown]
# ## 4. From one layout to the other
#
# The two layouts are one rotation in two orders of columns. Columns of queries and keys are **rows** of the projections
# that make them. So a model can change its layout: reorder the rows of `w_q` and `w_k`, once, head by head.
#
# In each head, the half layout keeps pair $i$ in rows $i$ and $i + d/2$; the interleaved one wants it in rows $2i$ and
# $2i + 1$. Write down where each of the rows 0, 1, 2, 3, 4, 5 of one head must go, before you write code.


# %% exercise="half_to_interleaved"
def half_to_interleaved(weight: Tensor, n_heads: int) -> Tensor:
    """A projection made for the half layout, its rows reordered for the interleaved one; same shape and dtype.

    weight: (n_heads * head_dim, E), or a bias (n_heads * head_dim,), any dtype; head_dim is even, and head h owns the rows
        h * head_dim up to (h + 1) * head_dim. E may be any width, also one that equals the number of rows.
    n_heads: heads that the projection makes: query heads for w_q, key heads for w_k.

    When w_q and w_k are both reordered, q·k with RoPE in the interleaved layout is what it was in the half layout. Does not
    change weight.

    >>> half_to_interleaved(torch.tensor([10, 20, 11, 21]), n_heads=1)
    tensor([10, 11, 20, 21])
    """
    ### BEGIN SOLUTION
    by_head = weight.reshape(n_heads, 2, -1, *weight.shape[1:])  # head, member of the pair, pair
    return by_head.transpose(1, 2).reshape(weight.shape)
    ### END SOLUTION


# %% check="half_to_interleaved"
check(half_to_interleaved)

# %% judge="half_to_interleaved" points=4
grade(half_to_interleaved)

# %% [markdown]
# ## 5. Position interpolation
#
# A model trained on 2,048 tokens has never seen the angles of position 5,000. Position interpolation does not let it: for a
# text of 8,192 tokens it divides every position by 4, so that the last one is below 2,048 again. Whole positions become
# fractions, which RoPE does not mind.
#
# A text that fits needs no squeezing, and must not be **stretched**.


# %% exercise="position_interpolation"
def position_interpolation(positions: Tensor, train_len: int, target_len: int) -> Tensor:
    """Positions of a text of target_len tokens, squeezed evenly into train_len; float32, the shape of positions.

    positions: (T,), whole or fractional numbers of any dtype, in any order.
    train_len, target_len: tokens the model was trained on, and tokens it must read; at least 1.

    All positions are multiplied by train_len / target_len. When target_len is not above train_len they keep their values
    (as float32).

    >>> position_interpolation(torch.tensor([0, 3, 6]), train_len=4, target_len=8)
    tensor([0.0000, 1.5000, 3.0000])
    """
    ### BEGIN SOLUTION
    return positions.to(torch.float32) * min(1.0, train_len / target_len)
    ### END SOLUTION


# %% check="position_interpolation"
check(position_interpolation)

# %% judge="position_interpolation" points=3
grade(position_interpolation)

# %% [markdown]
# ## 6. A base for longer texts
#
# Position interpolation slows every clock, also the fast ones that tell neighbours apart. The NTK-aware rule changes the
# base instead: the fastest clock stays as it is, and the **slowest** becomes exactly `scale` times slower. Which base does
# that? The slowest frequency is $b^{-(d-2)/d}$. Demand
#
# $$b'^{-(d-2)/d} = \frac{b^{-(d-2)/d}}{\mathrm{scale}} \qquad\Rightarrow\qquad b' = b \cdot \mathrm{scale}^{d/(d-2)}$$


# %% exercise="ntk_base"
def ntk_base(base: float, scale: float, head_dim: int) -> float:
    """The base that makes the slowest of RoPE's frequencies `scale` times slower and leaves the fastest alone.

    base: RoPE's base, above 0.
    scale: how many times longer the context becomes, at least 1; need not be whole.
    head_dim: width of one head, above 2.

    >>> round(ntk_base(10000.0, 4.0, 4), 3)
    160000.0

    Raises: ValueError for a head_dim of 2 or less: with one pair, slowest and fastest are the same.
    """
    ### BEGIN SOLUTION
    if head_dim <= 2:
        raise ValueError(f"head_dim must be above 2, got {head_dim}; one pair has no slowest and fastest")
    return base * scale ** (head_dim / (head_dim - 2))
    ### END SOLUTION


# %% check="ntk_base"
check(ntk_base)

# %% judge="ntk_base" points=2
grade(ntk_base)

# %% [markdown]
# ## 7. YaRN, frequency by frequency
#
# YaRN asks of each pair: how many full turns did it make within the training length?
#
# $$r_i = \frac{\mathrm{train\_len} \cdot \theta_i}{2\pi}$$
#
# - Many turns ($r \ge \beta_\mathrm{fast}$): the model has seen every angle of this clock. Leave it alone.
# - Not even one ($r \le \beta_\mathrm{slow}$): beyond the training length come angles that it never saw. Interpolate:
#   divide the frequency by `scale`.
# - In between: a blend, linear in $r$.
#
# $$\gamma = \mathrm{clamp}\left(\frac{r - \beta_\mathrm{slow}}{\beta_\mathrm{fast} - \beta_\mathrm{slow}},\, 0,\, 1\right), \qquad \theta_i' = \theta_i\left(\gamma + \frac{1 - \gamma}{\mathrm{scale}}\right)$$


# %% exercise="yarn_inv_freq"
def yarn_inv_freq(
    head_dim: int, base: float, scale: float, train_len: int, beta_fast: float = 32.0, beta_slow: float = 1.0
) -> Tensor:
    """YaRN's frequencies in radians per position, (head_dim / 2,) floating point, fastest first.

    head_dim: width of one head, even; plain frequencies are base**(-2i / head_dim), i from 0.
    base: RoPE's base, above 1.
    scale: how many times longer the context becomes, at least 1.
    train_len: tokens the model was trained on (not the longer context).
    beta_fast, beta_slow: turns within train_len from which a pair is kept, and up to which it is divided by scale;
        beta_slow < beta_fast. Neither needs to be whole.

    The blend is the formula above, linear in the turns. (Released code makes it linear in i. That is another ramp.) The
    temperature of exercise 8 is not part of this.

    >>> yarn_inv_freq(4, 100.0, 2.0, 63, beta_fast=6.0, beta_slow=2.0)
    tensor([1.0000, 0.0500])
    """
    ### BEGIN SOLUTION
    inv_freq = base ** (-torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim)
    turns = train_len * inv_freq / (2 * math.pi)
    keep = ((turns - beta_slow) / (beta_fast - beta_slow)).clamp(0, 1)
    return (inv_freq * (keep + (1 - keep) / scale)).float()
    ### END SOLUTION


# %% check="yarn_inv_freq"
check(yarn_inv_freq)

# %% judge="yarn_inv_freq" points=6
grade(yarn_inv_freq)

# %% [markdown]
# ## 8. YaRN's temperature
#
# More keys means more scores to compete with, and attention gets blurred. YaRN sharpens it: queries **and** keys are each
# multiplied by
#
# $$\sqrt{1/t} = 0.1 \ln(\mathrm{scale}) + 1$$
#
# so that scores grow by its square. A context that does not grow needs none of it.


# %% exercise="yarn_temperature"
def yarn_temperature(scale: float) -> float:
    """What YaRN multiplies q with, and k with: 0.1 * ln(scale) + 1, and 1 for every scale of 1 or less.

    scale: how many times longer the context becomes, any real number.

    >>> round(yarn_temperature(4.0), 4)
    1.1386
    """
    ### BEGIN SOLUTION
    return 0.1 * math.log(scale) + 1.0 if scale > 1 else 1.0
    ### END SOLUTION


# %% check="yarn_temperature"
check(yarn_temperature)

# %% judge="yarn_temperature" points=2
grade(yarn_temperature)

# %% [markdown]
# ## 9. ALiBi's slopes
#
# ALiBi has no rotation at all. It subtracts from each score a number that grows with the distance, at another rate in each
# head: a steep head reads the last few tokens, a flat one reads everything. For $n$ heads, $n$ a power of two, the rates are
#
# $$m_i = 2^{-8i/n}, \qquad i = 1, \dots, n$$
#
# For other $n$ the released code does this: take the slopes of the **lower** power of two, then fill up with **every other**
# slope of the next power of two, beginning with its first.
#
# ```
# 6 heads:  4 heads give    1/4, 1/16, 1/64, 1/256
#           8 heads have    1/2, 1/4, 1/8, 1/16, ...      take 1/2 and 1/8
# ```


# %% exercise="alibi_slopes"
def alibi_slopes(n_heads: int) -> Tensor:
    """ALiBi's slopes, (n_heads,) floating point, all positive, in the order given above.

    n_heads: at least 1.

    >>> alibi_slopes(2)
    tensor([0.0625, 0.0039])
    >>> alibi_slopes(3)
    tensor([0.0625, 0.0039, 0.2500])
    """
    ### BEGIN SOLUTION

    def powers(n):
        return [2.0 ** (-8 * i / n) for i in range(1, n + 1)]

    lower = 1
    while 2 * lower <= n_heads:
        lower *= 2
    return torch.tensor(powers(lower) + powers(2 * lower)[0::2][: n_heads - lower])
    ### END SOLUTION


# %% check="alibi_slopes"
check(alibi_slopes)

# %% judge="alibi_slopes" points=4
grade(alibi_slopes)

# %% [markdown]
# ## 10. ALiBi's bias
#
# What is added to the scores of head $h$ between a query at position $i$ and a key at position $j$ is $-m_h\,|i - j|$. With a
# cache there are fewer queries than keys. As everywhere in this course the two are aligned at their ends: the last query
# stands at the last key.
#
# ```
# t_q = 2, t_k = 4, slope m       key 0   1    2    3
# query 0 (position 2)              -2m  -m    0   -m
# query 1 (position 3)              -3m  -2m  -m    0
# ```
#
# The bias says how far. Hiding the future is the mask's job.
#
# You may use your `alibi_slopes`.


# %% exercise="alibi_bias"
def alibi_bias(n_heads: int, t_q: int, t_k: int) -> Tensor:
    """What ALiBi adds to the scores, (n_heads, t_q, t_k) float32: -slope * |distance|, aligned at the bottom right.

    n_heads: at least 1; head h has the slope alibi_slopes(n_heads)[h].
    t_q, t_k: numbers of queries and keys, 1 <= t_q <= t_k. Query i stands at key position i + (t_k - t_q).

    All values are finite: keys in the future get the same penalty as keys equally far in the past.

    >>> 256 * alibi_bias(1, 2, 3)
    tensor([[[-1., -0., -1.],
             [-2., -1., -0.]]])
    """
    ### BEGIN SOLUTION
    query = torch.arange(t_q) + (t_k - t_q)
    distance = (query[:, None] - torch.arange(t_k)[None, :]).abs()
    return -alibi_slopes(n_heads)[:, None, None] * distance
    ### END SOLUTION


# %% check="alibi_bias"
check(alibi_bias)

# %% judge="alibi_bias" points=4
grade(alibi_bias)

# %% [markdown]
# ## 11. Why a rotation? (in your own words)
#
# Answer in at most 200 words and one or two formulas.
#
# 1. We want functions $f(q, m)$ and $f(k, n)$ whose dot product depends on $q$, $k$ and $m - n$ only, and $f(x, 0) = x$.
#    Show for one pair of columns that turning by $m\theta$ does it, and say which property of rotations you used.
# 2. A model was trained on 2,048 tokens and reads token 5,000. Which of its pairs of columns see something that they have
#    never seen, and which do not? What does position interpolation do for the one group, and to the other?

# %% [markdown] manual="why_a_rotation" points=4
# 1. Let $R(\varphi)$ turn a pair by $\varphi$, and $f(x, m) = R(m\theta)\,x$. Then $f(x, 0) = x$, and
#    $f(q, m)^\top f(k, n) = q^\top R(m\theta)^\top R(n\theta)\,k = q^\top R((n - m)\theta)\,k$. Used: the transpose of a
#    rotation is the rotation back, and angles of rotations about one centre add.
# 2. A pair whose wavelength $2\pi/\theta$ is below 2,048 has been all the way round in training: every angle is known. A pair
#    with a longer wavelength has seen an arc only, and beyond 2,048 comes the unseen rest. Interpolation divides all
#    angles by the factor: the slow pairs are back on their arc. But the fast pairs are slowed as well: neighbours, which
#    used to differ by a whole radian in the fastest pair, differ by a fraction, so that near words are harder to tell
#    apart. NTK-aware scaling and YaRN slow the one group and spare the other.
