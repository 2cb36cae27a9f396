# %% [markdown]
# # 03 Norms: keeping signals in range
# *Time: 2 hours. Builds on: the lesson 03_norms.*
#
# You will write the norms of a language model, the backward pass of one of them by hand, the four places where a norm can
# stand, and the two numbers that decide how weights start. Each is a line or two. The work is in what the line hides: which
# dimension is averaged, where epsilon goes, in which type the sum is made, and what is an estimate of what.
#
# After each exercise a cell runs `check(...)`. It tells in a second what is wrong and why. Run it as often as you like.
# Helper functions belong in the cell of the exercise that needs them.
#
# Conventions of the whole chapter:
#
# - `E` is the width of a feature vector, the **last** dimension. `...` stands for any leading dimensions, also none.
# - Norms **accumulate in float32** (in float64 for float64 input), the multiplication by the weight included. They round
#   once, at the very end, to the dtype of `x`. Sixteen-bit input is where most norms go wrong.
# - Functions leave their inputs as they were.

# %% given="imports"
import math
from collections.abc import Callable

import torch
from torch import Tensor

from grader import check, grade

# %% [markdown]
# ## 1. LayerNorm
#
# $$y = \frac{x - \mu}{\sqrt{\sigma^2 + \epsilon}} \cdot w + b, \qquad
# \mu = \frac1E\sum_i x_i, \qquad \sigma^2 = \frac1E\sum_i (x_i - \mu)^2$$
#
# Each vector is treated by itself: nothing is shared between tokens or samples. The variance is the **biased** one, with
# $1/E$. Epsilon stands **inside** the root.
#
# Two traps in the arithmetic. In float16, $300^2$ is already infinite, so widen first. And $E[x^2] - E[x]^2$ is the variance
# only on paper: at $x \approx 10^4$ in float32 the two terms agree in all their digits and their difference is noise.
#
# Not allowed in this chapter: torch's own layer, RMS, batch, group and instance norms.


# %% exercise="layer_norm"
def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float = 1e-5) -> Tensor:
    """x with mean 0 and variance 1 over its last dimension, times weight, plus bias.

    x: (..., E), floating point, any leading dimensions (also none, also of size 0).
    weight, bias: (E,), floating point, possibly of another dtype than x.
    eps: is added to the biased variance, inside the square root.

    Everything, weight and bias included, is computed in float32, or in float64 when x is float64. The result is rounded once,
    at the end. Returns the shape and the dtype of x.

    >>> layer_norm(torch.tensor([1.0, 3.0]), torch.tensor([2.0, 2.0]), torch.tensor([1.0, 1.0]), eps=0.0)
    tensor([-1.,  3.])
    """
    ### BEGIN SOLUTION
    wide = torch.float64 if x.dtype == torch.float64 else torch.float32
    h = x.to(wide)
    centred = h - h.mean(dim=-1, keepdim=True)
    variance = centred.square().mean(dim=-1, keepdim=True)
    y = centred / torch.sqrt(variance + eps) * weight.to(wide) + bias.to(wide)
    return y.to(x.dtype)
    ### END SOLUTION


# %% check="layer_norm"
check(layer_norm)

# %% judge="layer_norm" points=4
grade(layer_norm)

# %% [markdown]
# ## 2. RMSNorm
#
# LayerNorm does two things: it moves the vector to mean 0, and it sets its size. RMSNorm keeps only the second. Llama, Qwen,
# Gemma, DeepSeek and most others since use it.
#
# $$y = \frac{x}{\sqrt{\frac1E \sum_i x_i^2 + \epsilon}} \cdot w$$
#
# There is no mean and no bias. Mind the $1/E$: without it the entries of $y$ would be $\sqrt E$ times too small (claim C03.01).


# %% exercise="rms_norm"
def rms_norm(x: Tensor, weight: Tensor, eps: float = 1e-6) -> Tensor:
    """x divided by its root mean square over the last dimension, times weight.

    x: (..., E), floating point, any leading dimensions (also none, also of size 0).
    weight: (E,), floating point, possibly of another dtype than x.
    eps: is added to the mean of the squares, inside the square root.

    Everything, weight included, is computed in float32, or in float64 when x is float64. The result is rounded once, at the
    end. Returns the shape and the dtype of x.

    >>> rms_norm(torch.tensor([1.0, 7.0]), torch.tensor([1.0, 2.0]), eps=0.0)
    tensor([0.2000, 2.8000])
    """
    ### BEGIN SOLUTION
    wide = torch.float64 if x.dtype == torch.float64 else torch.float32
    h = x.to(wide)
    root_mean_square = torch.sqrt(h.square().mean(dim=-1, keepdim=True) + eps)
    return (h / root_mean_square * weight.to(wide)).to(x.dtype)
    ### END SOLUTION


# %% check="rms_norm"
check(rms_norm)

# %% judge="rms_norm" points=4
grade(rms_norm)

# %% [markdown]
# ## 3. BatchNorm, one training step
#
# The elder sister averages over the **batch**: each feature gets the mean and variance that it has across the rows. At
# inference there may be only one row, so running averages are kept for that day.
#
# Three conventions, all of them PyTorch's:
#
# - $y$ uses the **biased** variance (divide by the number of rows $n$), the running variance takes the **unbiased** one
#   (divide by $n - 1$).
# - momentum is the weight of the **new** value: running ← (1 - momentum) · running + momentum · batch.
# - The running statistics are a record, not a part of the model: no gradient flows through them. Gradients do flow through
#   the batch's mean and variance inside $y$.


# %% exercise="batch_norm_train"
def batch_norm_train(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> tuple[Tensor, Tensor, Tensor]:
    """(y, new running mean, new running variance): each feature normalised over the rows of the batch.

    x: (N, E), N rows (samples) of E features. weight, bias, running_mean, running_var: (E,). All of one dtype, float32
        or float64, which the three results have too.
    momentum: weight of this batch's statistics in the new running ones, between 0 and 1.
    eps: is added to the biased variance, inside the square root, in y only.

    y: (N, E), with the biased variance over the rows; gradients flow through mean and variance.
    new running mean and variance: (E,), new tensors without gradient, the variance from the unbiased estimate. The running
    statistics that were passed in stay as they were, and y does not depend on them.

    >>> x = torch.tensor([[1.0], [3.0]])
    >>> one, zero = torch.ones(1), torch.zeros(1)
    >>> batch_norm_train(x, one, zero, zero, one, momentum=0.5, eps=0.0)
    (tensor([[-1.],
            [ 1.]]), tensor([1.]), tensor([1.5000]))

    Raises: ValueError for fewer than two rows, whose unbiased variance would be 0/0.
    """
    ### BEGIN SOLUTION
    rows = x.shape[0]
    if rows < 2:
        raise ValueError(f"batch norm needs at least two rows, got {rows}; make the batch larger")
    mean = x.mean(dim=0)
    variance = (x - mean).square().mean(dim=0)
    y = (x - mean) / torch.sqrt(variance + eps) * weight + bias
    new_mean = (1 - momentum) * running_mean + momentum * mean.detach()
    new_var = (1 - momentum) * running_var + momentum * variance.detach() * rows / (rows - 1)
    return y, new_mean, new_var
    ### END SOLUTION


# %% check="batch_norm_train"
check(batch_norm_train)

# %% judge="batch_norm_train" points=5
grade(batch_norm_train)

# %% [markdown]
# ## 4. The backward pass of RMSNorm
#
# Let $r = \sqrt{\frac1E\sum_i x_i^2 + \epsilon}$, $\hat x = x/r$ and $y = \hat x \cdot w$. Somebody hands you
# $\bar y = \partial L / \partial y$. You want $\partial L / \partial x$ and $\partial L / \partial w$.
#
# The catch: $r$ depends on **every** $x_j$. So $x_j$ acts on all of $y$, through its own entry and through $r$. Start with
#
# $$\frac{\partial r}{\partial x_j} = \frac{x_j}{E\,r}, \qquad
# \frac{\partial \hat x_i}{\partial x_j} = \frac{\delta_{ij}}{r} - \frac{x_i}{r^2}\frac{\partial r}{\partial x_j}$$
#
# multiply by $g_i = \bar y_i w_i$, and sum over $i$. A test of the result: with $\epsilon = 0$ the size of $x$ does not
# matter, so moving along $x$ must change nothing, and $\sum_j \partial L/\partial x_j \cdot x_j = 0$.
#
# Write it with plain tensor operations: no autograd.


# %% exercise="rms_norm_backward"
def rms_norm_backward(dy: Tensor, x: Tensor, weight: Tensor, eps: float = 1e-6) -> tuple[Tensor, Tensor]:
    """(dx, dweight): the gradients of a loss, given its gradient dy at the output of rms_norm(x, weight, eps).

    dy, x: (..., E), one shape, any leading dimensions (also none). weight: (E,). One floating dtype, float32 or float64.
    eps: as in rms_norm, inside the root; it may be large.

    Returns dx of the shape of x, and dweight of shape (E,), summed over all leading dimensions, both in the dtype of the
    arguments.

    >>> dx, dweight = rms_norm_backward(torch.tensor([1.0, 0.0]), torch.tensor([3.0, 4.0]), torch.ones(2), eps=0.0)
    >>> [round(value, 4) for value in (*dx.tolist(), *dweight.tolist())]
    [0.181, -0.1358, 0.8485, 0.0]
    """
    ### BEGIN SOLUTION
    r = torch.sqrt(x.square().mean(dim=-1, keepdim=True) + eps)
    x_hat = x / r
    g = dy * weight
    dx = (g - x_hat * (g * x_hat).mean(dim=-1, keepdim=True)) / r
    dweight = (dy * x_hat).reshape(-1, x.shape[-1]).sum(dim=0)
    return dx, dweight
    ### END SOLUTION


# %% check="rms_norm_backward"
check(rms_norm_backward)

# %% judge="rms_norm_backward" points=6
grade(rms_norm_backward)

# %% [markdown]
# ## 5. Where the norm stands
#
# A sub-layer $f$ (attention or feed-forward), a norm $N$, and a stream $x$. Four designs, all of them in use:
#
# | style | result | seen in |
# |---|---|---|
# | `"pre"` | $x + f(N(x))$ | GPT-2, Llama: the way through the stream is free |
# | `"post"` | $N(x + f(x))$ | the first Transformer, BERT: the norm stands on the way |
# | `"double"` | $x + N(f(N(x)))$ | Gemma 2: the branch is normalised on its way in and out |
# | `"deep"` | $N(\alpha x + f(x))$ | DeepNet: post, with a louder stream |


# %% exercise="residual"
def residual(
    x: Tensor, f: Callable[[Tensor], Tensor], norm: Callable[[Tensor], Tensor], style: str, alpha: float = 1.0
) -> Tensor:
    """One residual step around the sub-layer f, with the norm where `style` says.

    x: the stream, a floating tensor of any shape (...), which stays as it is.
    f, norm: functions from a tensor to a tensor of the same shape.
    style: "pre", "post", "double" or "deep", as in the table above.
    alpha: multiplies the stream in style "deep"; the other styles take no notice of it.

    Returns a tensor of the shape of x.

    >>> residual(torch.tensor(3.0), lambda x: 2 * x, lambda x: x - 1, "pre")
    tensor(7.)

    Raises: ValueError for any other style.
    """
    ### BEGIN SOLUTION
    if style == "pre":
        return x + f(norm(x))
    if style == "post":
        return norm(x + f(x))
    if style == "double":
        return x + norm(f(norm(x)))
    if style == "deep":
        return norm(alpha * x + f(x))
    raise ValueError(f"style must be 'pre', 'post', 'double' or 'deep', got {style!r}")
    ### END SOLUTION


# %% check="residual"
check(residual)

# %% judge="residual" points=4
grade(residual)

# %% [markdown]
# ## 6. Scores that cannot explode
#
# Attention scores are products of two learned things, so they can grow without bound, and then the softmax is certain and
# stops learning. Two bounds are in use, and some models take both:
#
# - **QK-norm**: each head's query and key pass through an RMSNorm with a weight of its own, **before** the dot product. A
#   score is then at most $\sqrt D$ times the learned weights.
# - **soft-capping**: $s \mapsto c \tanh(s/c)$. Small scores pass nearly unchanged, no score leaves $(-c, c)$.
#
# The order: norm both, dot product, divide by $\sqrt D$, cap. All in float32, rounded once at the end.
#
# You may use your `rms_norm`. Mind that it returns the dtype of its input.


# %% exercise="qk_norm_scores"
def qk_norm_scores(q: Tensor, k: Tensor, q_weight: Tensor, k_weight: Tensor, softcap: float | None = None) -> Tensor:
    """Attention scores of RMS-normalised queries and keys, divided by sqrt(D), then capped: no mask, no softmax.

    q: (..., T, D), k: (..., S, D), one floating dtype, the same leading dimensions (any number, usually batch and heads).
    q_weight, k_weight: (D,), the weights of the two norms, possibly of another dtype. Both norms run over the last
        dimension, D, the width of one head, with eps 1e-6 inside the root.
    softcap: a positive number c; the scores s become c * tanh(s / c). None: they stay as they are.

    Everything is computed in float32 (float64 will do too). Returns (..., T, S) in the dtype of q.

    >>> one = torch.ones(2)
    >>> qk_norm_scores(torch.tensor([[3.0, 3.0]]), torch.tensor([[0.5, 0.5], [9.0, -9.0]]), one, one)
    tensor([[1.4142, 0.0000]])
    """
    ### BEGIN SOLUTION
    q_hat, k_hat = rms_norm(q.float(), q_weight), rms_norm(k.float(), k_weight)
    scores = q_hat @ k_hat.transpose(-2, -1) / math.sqrt(q.shape[-1])
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    return scores.to(q.dtype)
    ### END SOLUTION


# %% check="qk_norm_scores"
check(qk_norm_scores)

# %% judge="qk_norm_scores" points=5
grade(qk_norm_scores)

# %% [markdown]
# ## 7. How wide to start
#
# A linear map sums `fan_in` products. With weights of variance $s^2$ the output has `fan_in` times $s^2$ times the input's
# variance. The gradient comes back through `fan_out` products. So:
#
# - **Kaiming**: $s = \text{gain}/\sqrt{\text{fan\_in}}$ keeps the forward signal. A ReLU throws half of the square away; the
#   gain $\sqrt 2$ brings it back, and the caller passes it.
# - **Xavier**: $s = \text{gain}\sqrt{2/(\text{fan\_in} + \text{fan\_out})}$, a compromise between forward and backward.
#
# These are standard deviations of a **normal** start, not the bounds of a uniform one.


# %% exercise="init_std"
def init_std(kind: str, fan_in: int, fan_out: int, gain: float = 1.0) -> float:
    """The standard deviation from which the weights of a linear map are drawn.

    kind: "xavier" for gain * sqrt(2 / (fan_in + fan_out)), "kaiming" for gain / sqrt(fan_in).
    fan_in, fan_out: how many inputs and outputs the map has, at least 1.
    gain: a factor for the standard deviation, chosen by the caller for the nonlinearity that follows.

    >>> init_std("xavier", 4, 28), init_std("kaiming", 4, 28)
    (0.25, 0.5)

    Raises: ValueError for any other kind.
    """
    ### BEGIN SOLUTION
    if kind == "xavier":
        return gain * math.sqrt(2 / (fan_in + fan_out))
    if kind == "kaiming":
        return gain / math.sqrt(fan_in)
    raise ValueError(f"kind must be 'xavier' or 'kaiming', got {kind!r}")
    ### END SOLUTION


# %% check="init_std"
check(init_std)

# %% judge="init_std" points=2
grade(init_std)

# %% [markdown]
# ## 8. A stream that many write into
#
# Each of $L$ layers adds to the residual stream twice: once from attention, once from the feed-forward network. $2L$
# independent terms of variance $s^2$ sum to $2L s^2$. GPT-2 therefore starts the last matrix of each branch smaller, so that
# the stream leaves the stack as wide as if a single term had been added.


# %% exercise="residual_init_std"
def residual_init_std(base_std: float, n_layers: int) -> float:
    """The standard deviation at which the matrices that write into the residual stream start: base_std / sqrt(2 n_layers).

    base_std: the standard deviation of the other matrices, such as 0.02.
    n_layers: layers of the model, at least 1; each writes into the stream twice.

    >>> residual_init_std(0.02, 2)
    0.01
    """
    ### BEGIN SOLUTION
    return base_std / math.sqrt(2 * n_layers)
    ### END SOLUTION


# %% check="residual_init_std"
check(residual_init_std)

# %% judge="residual_init_std" points=2
grade(residual_init_std)
