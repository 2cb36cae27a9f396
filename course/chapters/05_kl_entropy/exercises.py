# %% [markdown]
# # 05 KL and entropy: surprise, and the distance between beliefs
# *Time: 3 hours. Builds on: the lesson 05_kl_entropy.*
#
# You will write the losses that language models are trained with, and the measures they are compared with. Each is a line
# or two of mathematics. The work is in what the line hides: numbers too large for `exp`, tokens that do not count,
# probabilities of exactly 0, and which of two distributions comes first.
#
# After each exercise a cell runs `check(...)`. It tells in a second what is wrong and why. Run it as often as you like.
# Helper functions belong in the cell of the exercise that needs them.
#
# Conventions of the whole chapter:
#
# - Logarithms are natural and losses in **nats**, unless a name or an argument says bits.
# - Logits are `(..., V)`: any leading dimensions, then one score for each of `V` classes. They may be of any size: 300 and
#   -10000 are legal, also in float32, where `exp(89)` is infinite.
# - KL(p‖q) means: samples come from p, surprise is measured by both.
# - Functions leave their inputs as they were. Losses are tensors without dimensions that gradients flow through.

# %% given="imports"
import math

import torch
from torch import Tensor

from grader import check, grade

# %% [markdown]
# ## 1. Entropy
#
# How many yes-no questions does it take, on average, to learn the outcome?
#
# $$H(p) = -\sum_i p_i \log p_i, \qquad 0 \log 0 = 0$$
#
# With the logarithm to base 2 the answer is in bits, with the natural one in nats. An outcome that never happens never
# surprises: its term is 0, although $\log 0$ is not a number that a computer likes.
#
# Refuse what is no distribution. The commonest mistake in using this function is to hand it logits.
#
# Not allowed: `torch.distributions` and `scipy.stats`.


# %% exercise="entropy"
def entropy(p: Tensor, base: float = 2.0, dim: int = -1) -> Tensor:
    """The entropy of each distribution along `dim`, in units of the base: bits for 2, nats for math.e.

    p: floating point, any shape (at least one dimension); along `dim` the entries are at least 0 and sum to 1. Exact zeros
        are legal and add nothing.
    base: of the logarithm, above 0 and not 1.
    dim: which dimension holds the distribution; it is summed away.

    >>> entropy(torch.tensor([0.5, 0.25, 0.25, 0.0]))
    tensor(1.5000)

    Raises: ValueError when any entry is negative, or when any of the distributions sums to a number that is off 1 by more than
    1e-3.
    """
    ### BEGIN SOLUTION
    if (p < 0).any():
        raise ValueError(f"probabilities must be at least 0, got {p.min().item():.4g}; apply a softmax to logits first")
    if ((p.sum(dim) - 1).abs() > 1e-3).any():
        raise ValueError("each distribution must sum to 1 within 1e-3; divide by the sum")
    logs = torch.log(p.masked_fill(p == 0, 1.0))  # log 1 = 0 stands in for log 0
    return -(p * logs).sum(dim) / math.log(base)
    ### END SOLUTION


# %% check="entropy"
check(entropy)

# %% judge="entropy" points=3
grade(entropy)

# %% [markdown]
# ## 2. Cross-entropy
#
# The loss of every classifier and every language model: the mean surprise at what happened, under what was predicted.
#
# $$\mathrm{loss} = -\frac{1}{n}\sum_{i\ \mathrm{kept}} \ln \mathrm{softmax}(z_i)_{t_i} = \frac{1}{n}\sum_{i\ \mathrm{kept}} \Big(\ln\sum_j e^{z_{ij}} - z_{i t_i}\Big)$$
#
# Targets that equal `ignore_index` do not count: neither in the sum **nor in n**. A batch in which nothing is kept happens
# in practice (a prompt without an answer). One NaN there ruins the weights for good, so the answer is 0 with gradient 0.
#
# You may use `torch.logsumexp` and `log_softmax`. Not allowed: torch's own cross-entropy and negative log-likelihood, and
# `torch.distributions`.


# %% exercise="cross_entropy"
def cross_entropy(logits: Tensor, targets: Tensor, ignore_index: int = -100) -> Tensor:
    """The mean of -ln softmax(logits)[target] over the targets that are kept, in nats, as a tensor without dimensions.

    logits: (..., V), floating point, any leading dimensions (one or more), numbers of any size.
    targets: (...), int64, each in 0 .. V-1 or equal to ignore_index.
    ignore_index: targets equal to it do not count. It may be any integer, also one that names a class, such as 0 when
        class 0 is padding.

    When no target is kept (or there are none) the result is 0.0 and the gradient of the logits is 0, never NaN.

    >>> cross_entropy(torch.tensor([[0.0, 0.0], [5.0, 9.0]]), torch.tensor([1, -100]))
    tensor(0.6931)
    """
    ### BEGIN SOLUTION
    kept = targets != ignore_index
    index = targets.masked_fill(~kept, 0)  # -100 is no column; what is looked up there is thrown away below
    of_target = logits.gather(-1, index.unsqueeze(-1)).squeeze(-1)
    surprise = torch.logsumexp(logits, dim=-1) - of_target
    return surprise.masked_fill(~kept, 0.0).sum() / kept.sum().clamp(min=1)
    ### END SOLUTION


# %% check="cross_entropy"
check(cross_entropy)

# %% judge="cross_entropy" points=6
grade(cross_entropy)

# %% [markdown]
# ## 3. The loss of a language model
#
# The logits at position $t$ are a forecast of token $t+1$. So the first token is never a target, and the last position
# has none.
#
# ```
# input_ids         The   cat   sat   <pad>
# attention_mask      1     1     1     0
# pairs             The->cat, cat->sat, and no more: sat-><pad> has a padded target
# ```
#
# A pair counts when **both** its ends are real: under left padding the first real token is predicted from padding, and
# that forecast means nothing. The mean runs over all counted pairs of the batch at once, not over sequences.
#
# You may use your `cross_entropy`, or torch's.


# %% exercise="lm_loss"
def lm_loss(logits: Tensor, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
    """The mean surprise in nats at each next token, over all counted tokens of the batch, as a tensor without dimensions.

    logits: (B, T, V), floating point; those at position t forecast the token at position t + 1.
    input_ids: (B, T), int64, each in 0 .. V-1, padding too. Any id may be used for padding, also one that real tokens use.
    attention_mask: (B, T), int64 or bool; 1 or True = a real token, 0 or False = padding, on either side or in between.
        None: all tokens are real.

    The token at t + 1 counts when it and the token at t are real. Every counted token weighs the same, whichever sequence
    it stands in. When none counts (all padding, or T = 1) the result is 0.0 and no gradient is NaN.

    >>> ids = torch.tensor([[3, 1, 0]])
    >>> lm_loss(torch.zeros(1, 3, 4), ids, torch.tensor([[1, 1, 0]])).exp()
    tensor(4.)
    """
    ### BEGIN SOLUTION
    targets = input_ids[:, 1:]
    if attention_mask is not None:
        real = attention_mask.bool()
        targets = targets.masked_fill(~(real[:, 1:] & real[:, :-1]), -100)
    return cross_entropy(logits[:, :-1], targets)
    ### END SOLUTION


# %% check="lm_loss"
check(lm_loss)

# %% judge="lm_loss" points=6
grade(lm_loss)

# %% [markdown]
# ## 4. Kullback-Leibler divergence
#
# Surprise has a floor: even who knows $p$ is surprised $H(p)$ on average. Who believes $q$ instead is surprised more. How
# much more is
#
# $$\mathrm{KL}(p\,\|\,q) = \sum_i p_i\,(\ln p_i - \ln q_i)$$
#
# Models hand out log-probabilities, and so the function takes them. Two corners matter:
#
# - $p_i = 0$: the term is 0, whatever $q_i$ is. In the computer it is $0 \cdot (-\infty)$ or $0 \cdot (-\infty + \infty)$,
#   both NaN. And a NaN that `torch.where` hides from the value comes back in the **gradient**.
# - $q_i = 0$ and $p_i > 0$: the impossible happened. The divergence is infinite, not a large number.
#
# Not allowed: `F.kl_div`, `nn.KLDivLoss`, `torch.distributions`.


# %% exercise="kl_divergence"
def kl_divergence(log_p: Tensor, log_q: Tensor, dim: int = -1) -> Tensor:
    """KL(p || q) along `dim`, in nats, from log-probabilities.

    log_p, log_q: one floating dtype and shape, natural logarithms of distributions along `dim`; -inf where the probability
        is 0.
    dim: which dimension holds the distribution; it is summed away.

    A term is 0 where log_p is -inf, whatever log_q is there, and the gradients of both are finite there (0, not NaN). The
    result is inf where log_q is -inf and p is above 0.

    >>> kl_divergence(torch.tensor([1.0, 0.0]).log(), torch.tensor([0.5, 0.5]).log())
    tensor(0.6931)
    """
    ### BEGIN SOLUTION
    absent = log_p == -math.inf
    safe_p, safe_q = log_p.masked_fill(absent, 0.0), log_q.masked_fill(absent, 0.0)  # before exp and minus, not after
    terms = safe_p.exp() * (safe_p - safe_q)
    return terms.masked_fill(absent, 0.0).sum(dim)
    ### END SOLUTION


# %% check="kl_divergence"
check(kl_divergence)

# %% judge="kl_divergence" points=6
grade(kl_divergence)

# %% [markdown]
# ## 5. Two bells
#
# For two normal distributions the sum becomes an integral that can be done:
#
# $$\mathrm{KL}(\mathcal N_0 \,\|\, \mathcal N_1) = \frac12\left(\ln\frac{\sigma_1^2}{\sigma_0^2} + \frac{\sigma_0^2 + (\mu_0-\mu_1)^2}{\sigma_1^2} - 1\right)$$
#
# The arguments are **variances** $\sigma^2$. Claim C05.02 shows what a mix-up costs: a factor of a thousand.
#
# Not allowed: `torch.distributions`.


# %% exercise="gaussian_kl"
def gaussian_kl(mu0: Tensor, var0: Tensor, mu1: Tensor, var1: Tensor) -> Tensor:
    """KL(N(mu0, var0) || N(mu1, var1)) in nats, elementwise.

    mu0, var0, mu1, var1: floating point, one shape (any); var is the variance, above 0, not the standard deviation.

    Returns that shape: one divergence for each pair of one-dimensional normal distributions, nothing summed.

    >>> gaussian_kl(torch.tensor(0.0), torch.tensor(1.0), torch.tensor(2.0), torch.tensor(1.0))
    tensor(2.)
    """
    ### BEGIN SOLUTION
    return 0.5 * (torch.log(var1 / var0) + (var0 + (mu0 - mu1) ** 2) / var1 - 1)
    ### END SOLUTION


# %% check="gaussian_kl"
check(gaussian_kl)

# %% judge="gaussian_kl" points=3
grade(gaussian_kl)

# %% [markdown]
# ## 6. Estimating KL from samples
#
# A language model's distribution over answers cannot be summed. But an answer can be drawn from it, and its probability
# under two models is easy to get. Let $x$ be drawn from $p$ and $d = \ln p(x) - \ln q(x)$. Three estimates of KL(p‖q)
# from one sample:
#
# $$k_1 = d \qquad k_2 = \tfrac12 d^2 \qquad k_3 = e^{-d} - 1 + d$$
#
# $k_1$ and $k_3$ are right on average, $k_3$ is never negative, $k_2$ is biased. GRPO's penalty is $k_3$. Mind the sign in
# its exponent: $e^{-d} = q(x)/p(x)$.
#
# Not allowed: `torch.distributions`, `F.kl_div`.


# %% exercise="kl_estimates"
def kl_estimates(logp: Tensor, logq: Tensor) -> dict[str, Tensor]:
    """Three estimates of KL(p || q), in nats, for each sample by itself.

    logp, logq: log-probabilities of the same samples under p and under q, floating point, one shape (any). The samples
        were drawn from p.

    Returns a dict with the keys "k1", "k2" and "k3", each a tensor of that shape: with d = logp - logq they are d, half the
    square of d, and exp(-d) less 1 plus d. Nothing is averaged.

    >>> {name: round(k.item(), 4) for name, k in kl_estimates(torch.tensor(-1.0), torch.tensor(-1.5)).items()}
    {'k1': 0.5, 'k2': 0.125, 'k3': 0.1065}
    """
    ### BEGIN SOLUTION
    d = logp - logq
    return {"k1": d, "k2": 0.5 * d.square(), "k3": torch.expm1(-d) + d}
    ### END SOLUTION


# %% check="kl_estimates"
check(kl_estimates)

# %% judge="kl_estimates" points=4
grade(kl_estimates)

# %% [markdown]
# ## 7. Moving earth
#
# KL does not know how far apart two outcomes are. Two spikes at 0 and 0.001 are infinitely far from each other in KL, and
# so are spikes at 0 and 1000. The Wasserstein distance asks how far probability must be carried: as if $x$ were heaps of
# earth and $y$ the holes. In one dimension the cheapest plan never crosses: smallest to smallest, next to next.
#
# $$W_1 = \frac1n \sum_i |x_{(i)} - y_{(i)}|$$
#
# where $x_{(i)}$ is the $i$-th smallest. Not allowed: `scipy.stats`.


# %% exercise="wasserstein_1d"
def wasserstein_1d(x: Tensor, y: Tensor) -> Tensor:
    """The Wasserstein-1 distance of two samples on the line, as a tensor without dimensions.

    x, y: (n,), floating point, n at least 1, in any order.

    >>> wasserstein_1d(torch.tensor([0.0, 1.0]), torch.tensor([3.0, 2.0]))
    tensor(2.)

    Raises: ValueError when x and y differ in size (also when one of them has size 1).
    """
    ### BEGIN SOLUTION
    if x.shape != y.shape:
        raise ValueError(f"samples must be of equal size, got {len(x)} and {len(y)}; draw as many of each")
    return (x.sort().values - y.sort().values).abs().mean()
    ### END SOLUTION


# %% check="wasserstein_1d"
check(wasserstein_1d)

# %% judge="wasserstein_1d" points=3
grade(wasserstein_1d)

# %% [markdown]
# ## 8. Perplexity
#
# The mean surprise of a model in nats is a number that few people feel. Its exponential they do: a perplexity of 20 says
# that the model is as unsure as if it had to choose among 20 equal words at every step.
#
# The function takes a **sum** and a count, because means of means are where wrong perplexities come from.


# %% exercise="perplexity"
def perplexity(nll_sum: float, n_tokens: int) -> float:
    """exp of the mean surprise.

    nll_sum: sum of the negative log-likelihoods of all tokens, in nats.
    n_tokens: how many tokens were summed.

    >>> round(perplexity(3 * math.log(20), 3), 6)
    20.0

    Raises: ValueError when n_tokens is not positive.
    """
    ### BEGIN SOLUTION
    if n_tokens <= 0:
        raise ValueError(f"n_tokens must be positive, got {n_tokens}; nothing was measured")
    return math.exp(nll_sum / n_tokens)
    ### END SOLUTION


# %% check="perplexity"
check(perplexity)

# %% judge="perplexity" points=2
grade(perplexity)

# %% [markdown]
# ## 9. Bits per byte
#
# Perplexity depends on the tokenizer: a model with longer tokens has fewer of them and is more surprised at each. Spread
# the same surprise over the **bytes** of the text, in bits, and models with different vocabularies can be compared. It is
# also the size of the text after compression by the model: 1.0 bits per byte is one eighth.


# %% exercise="bits_per_byte"
def bits_per_byte(nll_sum: float, n_bytes: int) -> float:
    """The bits that the model needs for each byte of the text.

    nll_sum: sum of the negative log-likelihoods of all tokens, in nats (not bits).
    n_bytes: UTF-8 bytes of the text.

    >>> round(bits_per_byte(3 * math.log(2), 6), 6)
    0.5

    Raises: ValueError when n_bytes is not positive.
    """
    ### BEGIN SOLUTION
    if n_bytes <= 0:
        raise ValueError(f"n_bytes must be positive, got {n_bytes}; count the UTF-8 bytes of the text")
    return nll_sum / math.log(2) / n_bytes
    ### END SOLUTION


# %% check="bits_per_byte"
check(bits_per_byte)

# %% judge="bits_per_byte" points=2
grade(bits_per_byte)

# %% [markdown]
# ## 10. z-loss
#
# Softmax does not care about a constant added to all logits, so nothing keeps them from drifting: to 200, to 2000, to
# where bfloat16 has a grid of 16. The z-loss (PaLM, arXiv:2204.02311) charges for the drift:
#
# $$\mathrm{z\_loss} = c \cdot \frac1n\sum_i (\ln Z_i)^2, \qquad Z_i = \sum_j e^{z_{ij}}$$
#
# It is smallest where every $Z_i$ is 1, and then the logits are log-probabilities already.


# %% exercise="z_loss"
def z_loss(logits: Tensor, coefficient: float = 1e-4) -> Tensor:
    """coefficient times the mean over positions of the squared log-normaliser, as a tensor without dimensions.

    logits: (..., V), floating point, any leading dimensions (one or more), numbers of any size.
    coefficient: the weight of the loss, 0 or more.

    Each position has its own normaliser Z, the sum of exp(logit) over its V entries. All positions count alike.

    >>> z_loss(torch.zeros(3, 4), coefficient=1.0).sqrt().exp()
    tensor(4.)
    """
    ### BEGIN SOLUTION
    log_z = torch.logsumexp(logits, dim=-1)
    return coefficient * log_z.square().mean()
    ### END SOLUTION


# %% check="z_loss"
check(z_loss)

# %% judge="z_loss" points=3
grade(z_loss)

# %% [markdown]
# ## 11. InfoNCE
#
# Texts and pictures, questions and answers: row $i$ of the queries belongs to row $i$ of the keys. The loss asks each
# query to pick its own key out of all keys of the batch. That is a classification with as many classes as rows:
#
# $$\mathrm{loss} = -\frac1N \sum_i \ln \frac{e^{s_{ii}/\tau}}{\sum_j e^{s_{ij}/\tau}}, \qquad s_{ij} = \frac{q_i \cdot k_j}{|q_i|\,|k_j|}$$
#
# The positive stands in the denominator too. A small temperature sharpens: at $\tau = 0.003$ the logits reach 333.
#
# You may use your `cross_entropy`, or torch's.


# %% exercise="info_nce"
def info_nce(queries: Tensor, keys: Tensor, temperature: float = 0.07) -> Tensor:
    """The mean surprise in nats at each query's own key among all keys of the batch, as a tensor without dimensions.

    queries, keys: (N, E), floating point, rows of any length but 0; row i of both belong together. Rows are normalised to
        length 1 here.
    temperature: above 0, however small; cosine similarities are divided by it.

    One direction only: each query chooses among the keys.

    >>> info_nce(torch.eye(2), torch.ones(2, 2))  # both keys look alike: ln 2
    tensor(0.6931)
    """
    ### BEGIN SOLUTION
    q = queries / queries.norm(dim=-1, keepdim=True)
    k = keys / keys.norm(dim=-1, keepdim=True)
    logits = q @ k.T / temperature
    return cross_entropy(logits, torch.arange(len(q), device=q.device))
    ### END SOLUTION


# %% check="info_nce"
check(info_nce)

# %% judge="info_nce" points=5
grade(info_nce)

# %% [markdown]
# ## 12. Distillation
#
# A small student learns from a large teacher's whole forecast, not from the one token that followed. Both are softened by
# a temperature, so that the teacher's small probabilities show.
#
# $$\mathrm{loss} = T^2 \cdot \frac1n \sum_{\mathrm{positions}} \mathrm{KL}\big(\mathrm{softmax}(z^{\mathrm{teacher}}/T)\,\big\|\,\mathrm{softmax}(z^{\mathrm{student}}/T)\big)$$
#
# Softening shrinks gradients by $1/T^2$; the factor undoes that. The teacher is a fact, not a parameter: no gradient may
# reach it, even if the caller forgot to switch its gradients off.
#
# You may use your `kl_divergence`, or `F.kl_div` if you trust yourself with its arguments.


# %% exercise="distillation_loss"
def distillation_loss(student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """KL(teacher || student) at a temperature, times the temperature squared, mean over all positions; no dimensions.

    student_logits, teacher_logits: (..., V), floating point, one shape with one or more leading dimensions, numbers of any
        size. Every leading position counts alike: with (B, T, V) there are B * T of them.
    temperature: above 0; logits are divided by it.

    Gradients flow to the student alone.

    >>> distillation_loss(torch.zeros(1, 2), torch.tensor([[0.0, math.log(3.0)]]), temperature=1.0)
    tensor(0.1308)
    """
    ### BEGIN SOLUTION
    log_teacher = torch.log_softmax(teacher_logits.detach() / temperature, dim=-1)
    log_student = torch.log_softmax(student_logits / temperature, dim=-1)
    return temperature**2 * kl_divergence(log_teacher, log_student).mean()
    ### END SOLUTION


# %% check="distillation_loss"
check(distillation_loss)

# %% judge="distillation_loss" points=5
grade(distillation_loss)

# %% [markdown]
# ## 13. Which way round? (in your own words)
#
# You train a small model $q$ to imitate a large model $p$. $p$ has two good ways to answer; $q$ is too small for both.
# Answer in at most 200 words and one or two formulas.
#
# 1. Minimising KL(p‖q) and minimising KL(q‖p): what does each make of $q$, and which term of the sum forces it to?
# 2. Ordinary training on text written by $p$ minimises one of the two. Which, and why does the entropy of $p$ not matter?
# 3. Reinforcement learning with a KL penalty draws its samples from the model in training. Which of the two is its penalty,
#    and why is the mean of $k_3$ over the samples right while the gradient of $k_3$ is not the gradient of the KL?

# %% [markdown] manual="which_way_round" points=4
# 1. KL(p‖q) charges $p\ln(p/q)$: where $p$ is large and $q$ near 0 the term explodes, so $q$ must put mass wherever $p$
#    has any. It covers both ways and the gap between them. KL(q‖p) charges $q\ln(q/p)$: where $q$ puts mass and $p$ has
#    none the term explodes, and where $q$ is 0 nothing is charged. $q$ settles on one way and leaves the other out.
# 2. $H(p,q) = H(p) + \mathrm{KL}(p\|q)$, and the text is drawn from $p$. $H(p)$ does not depend on $q$'s weights, so
#    both sides have one gradient: cross-entropy training minimises KL(p‖q), the covering one.
# 3. Samples come from the policy $\pi$, so the penalty is KL($\pi\|\pi_{\mathrm{ref}}$), the mode-seeking one. With
#    $r = \pi_{\mathrm{ref}}/\pi$ the mean of $k_3 = r - 1 - \ln r$ under $\pi$ is $\sum\pi_{\mathrm{ref}} - 1 + \mathrm{KL} = \mathrm{KL}$.
#    But the samples' distribution depends on the weights too. Differentiating $k_3$ alone treats the samples as fixed and
#    leaves out $\sum \nabla\pi \cdot k_3$. What is left is, on average, the gradient of the other direction,
#    KL($\pi_{\mathrm{ref}}\|\pi$).
