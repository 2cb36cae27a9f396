"""Surprise and distances between distributions: entropy, cross-entropy, KL and its estimators, losses of language models.

Natural logarithms and nats throughout, bits only where a name or `base` says so. KL(p || q) means samples from p. Half
precision inputs are widened to float32; float64 stays. Every function is finite wherever its value is.

Taught in: 05_kl_entropy; `attention_entropy` and the ranks in 02_attention_scaling.
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

_SUM_TOLERANCE = 1e-3


def _wide(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _p_log_p(p: Tensor) -> Tensor:
    """p ln p with 0 ln 0 = 0, and gradient 0 there."""
    positive = p > 0
    safe = torch.where(positive, p, 1)
    return torch.where(positive, safe * safe.log(), 0)


def entropy(p: Float[Tensor, "..."], base: float = 2.0, dim: int = -1) -> Float[Tensor, "..."]:
    """Entropy of the distributions along `dim`, in bits (base 2) or another base; 0 log 0 = 0.

    >>> entropy(torch.tensor([[0.5, 0.5, 0.0], [1.0, 0.0, 0.0]])).tolist()
    [1.0, 0.0]

    Raises: ValueError for a negative entry, a sum off 1 by more than 1e-3, or a base that is not above 0 and unlike 1.
    Source: Shannon, A Mathematical Theory of Communication, 1948.
    """
    if not base > 0 or base == 1:
        raise ValueError(f"base must be positive and not 1, got {base}; 2 gives bits, math.e nats")
    wide = _wide(p)
    if (wide < 0).any():
        raise ValueError(
            f"probabilities must be at least 0, got {wide.min().item():.4g}; apply softmax to logits first"
        )
    totals = wide.sum(dim)
    if totals.numel() and not ((totals - 1).abs() <= _SUM_TOLERANCE).all():
        worst = totals.flatten()[(totals - 1).abs().argmax()].item()
        raise ValueError(f"probabilities must sum to 1 along dim {dim}, got {worst:.4g}; divide by their sum")
    return (0 - _p_log_p(wide).sum(dim)) / math.log(base)


def attention_entropy(weights: Float[Tensor, "*rows S"]) -> Float[Tensor, "*rows"]:
    """Entropy of each row of attention weights in nats, from 0 (one key) to ln S (uniform); an all-zero row gives 0.

    >>> attention_entropy(torch.tensor([[1.0, 0.0], [0.0, 0.0]])).tolist()
    [0.0, 0.0]

    Source: entropy collapse: Zhai et al., arXiv:2303.06296.
    """
    return 0 - _p_log_p(_wide(weights)).sum(-1)


def cross_entropy(
    logits: Float[Tensor, "*positions V"], targets: Int[Tensor, "*positions"], ignore_index: int = -100
) -> Float[Tensor, ""]:
    """Mean of -ln softmax(logits)[target] over the targets that are not `ignore_index`; 0 with zero gradient if none is.

    >>> cross_entropy(torch.tensor([[0.0, 0.0], [9.0, 9.0]]), torch.tensor([1, -100])).exp().item()
    2.0

    Raises: ValueError when targets' shape is not that of logits without the last dim.
    """
    _check_targets(logits, targets)
    total = F.cross_entropy(
        _wide(logits).reshape(-1, logits.shape[-1]), targets.reshape(-1), ignore_index=ignore_index, reduction="sum"
    )
    return total / (targets != ignore_index).sum().clamp(min=1)


def label_smoothed_cross_entropy(
    logits: Float[Tensor, "*positions V"],
    targets: Int[Tensor, "*positions"],
    smoothing: float = 0.1,
    ignore_index: int = -100,
) -> Float[Tensor, ""]:
    """Mean cross-entropy against (1 - smoothing) on the target plus smoothing / V on every class, the target included.

    Raises: ValueError for smoothing outside 0..1 or shapes that do not fit.
    Source: Szegedy et al., arXiv:1512.00567, section 7; the same convention as torch.
    """
    _check_targets(logits, targets)
    if not 0 <= smoothing <= 1:
        raise ValueError(f"smoothing must be in 0..1, got {smoothing}; 0.1 is usual, 0 is plain cross-entropy")
    log_p = F.log_softmax(_wide(logits), dim=-1)
    kept = targets != ignore_index
    of_target = log_p.gather(-1, torch.where(kept, targets, 0)[..., None])[..., 0]
    # Without smoothing the mean over classes is left out: it is -inf when a class is impossible.
    loss = -(1 - smoothing) * of_target - (smoothing * log_p.mean(-1) if smoothing else 0)
    return torch.where(kept, loss, 0).sum() / kept.sum().clamp(min=1)


def _check_targets(logits: Tensor, targets: Tensor) -> None:
    if logits.shape[:-1] != targets.shape:
        raise ValueError(
            f"targets must have the shape of logits without its last dim {tuple(logits.shape[:-1])}, "
            f"got {tuple(targets.shape)}"
        )


def lm_loss(
    logits: Float[Tensor, "B T V"],
    input_ids: Int[Tensor, "B T"],
    attention_mask: Shaped[Tensor, "B T"] | None = None,
) -> Float[Tensor, ""]:
    """Mean surprise in nats of each next token, over all counted tokens of the batch; 0 if none counts.

    Position t predicts token t + 1. With a mask (1 or True = real) a target counts if it and its source are real.

    >>> ids = torch.tensor([[3, 1, 0]])
    >>> lm_loss(torch.zeros(1, 3, 4), ids, torch.tensor([[1, 1, 0]])).exp().item()
    4.0
    """
    targets = input_ids[:, 1:]
    if attention_mask is not None:
        real: Bool[Tensor, "B T"] = attention_mask.bool()
        targets = torch.where(real[:, 1:] & real[:, :-1], targets, -100)
    return cross_entropy(logits[:, :-1], targets)


def kl_divergence(log_p: Float[Tensor, "..."], log_q: Float[Tensor, "..."], dim: int = -1) -> Float[Tensor, "..."]:
    """KL(p || q) in nats from log-probabilities: 0 terms (and gradient 0) where p = 0, inf where q = 0 and p > 0.

    >>> log_p = torch.tensor([1.0, 0.0]).log(); log_q = torch.tensor([0.5, 0.5]).log()
    >>> round(kl_divergence(log_p, log_q).item() / math.log(2), 6), kl_divergence(log_q, log_p).item()
    (1.0, inf)

    Source: Kullback and Leibler, On Information and Sufficiency, 1951.
    """
    log_p, log_q = torch.broadcast_tensors(_wide(log_p), _wide(log_q))
    absent = log_p == -math.inf
    impossible = (log_q == -math.inf) & ~absent
    safe_p, safe_q = (x.masked_fill(absent | impossible, 0) for x in (log_p, log_q))
    terms = torch.where(absent, 0, safe_p.exp() * (safe_p - safe_q))
    return terms.masked_fill(impossible, math.inf).sum(dim)


def js_divergence(log_p: Float[Tensor, "..."], log_q: Float[Tensor, "..."], dim: int = -1) -> Float[Tensor, "..."]:
    """Jensen-Shannon divergence in nats from log-probabilities: symmetric, from 0 to ln 2 (disjoint supports).

    >>> a, b = torch.tensor([1.0, 0.0]).log(), torch.tensor([0.0, 1.0]).log()
    >>> round(js_divergence(a, b).item() / math.log(2), 6)
    1.0

    Source: Lin, Divergence Measures Based on the Shannon Entropy, 1991.
    """
    log_p, log_q = torch.broadcast_tensors(_wide(log_p), _wide(log_q))
    both_absent = (log_p == -math.inf) & (log_q == -math.inf)
    safe_p, safe_q = (x.masked_fill(both_absent, 0) for x in (log_p, log_q))
    log_mixture = torch.logaddexp(safe_p, safe_q).masked_fill(both_absent, -math.inf) - math.log(2)
    return 0.5 * kl_divergence(log_p, log_mixture, dim) + 0.5 * kl_divergence(log_q, log_mixture, dim)


def gaussian_kl(
    mu0: Float[Tensor, "..."] | float,
    var0: Float[Tensor, "..."] | float,
    mu1: Float[Tensor, "..."] | float,
    var1: Float[Tensor, "..."] | float,
) -> Float[Tensor, "..."]:
    """KL(N(mu0, var0) || N(mu1, var1)) in nats, elementwise; `var` is the variance, not the standard deviation.

    >>> gaussian_kl(0.0, 1.0, 2.0, 1.0).item()
    2.0

    Raises: ValueError for a negative variance or var1 of 0.
    """
    numbers = [mu0, var0, mu1, var1]
    dtype = None if any(isinstance(x, Tensor) for x in numbers) else torch.float64
    mu0, var0, mu1, var1 = (x if isinstance(x, Tensor) else torch.as_tensor(x, dtype=dtype) for x in numbers)
    if (var0 < 0).any() or (var1 <= 0).any():
        raise ValueError(f"variances must be positive, got {var0.min().item():.4g} and {var1.min().item():.4g}")
    return 0.5 * (var1.log() - var0.log() + (var0 + (mu0 - mu1) ** 2) / var1 - 1)


def kl_estimates(logp: Float[Tensor, "..."], logq: Float[Tensor, "..."]) -> dict[str, Float[Tensor, "..."]]:
    """Per-sample estimates of KL(p || q) from the log-probabilities of samples drawn from p, with d = logp - logq.

    "k1" d: unbiased, can be negative. "k2" d^2 / 2: biased, small variance. "k3" exp(-d) - 1 + d: unbiased, never negative.

    >>> {name: round(value.item(), 4) for name, value in kl_estimates(torch.tensor(-1.0), torch.tensor(-1.5)).items()}
    {'k1': 0.5, 'k2': 0.125, 'k3': 0.1065}

    Source: Schulman, Approximating KL Divergence, 2020 (joschu.net/blog/kl-approx.html).
    """
    d = _wide(logp) - _wide(logq)
    return {"k1": d, "k2": d**2 / 2, "k3": torch.expm1(-d) + d}


def wasserstein_1d(x: Float[Tensor, "n"], y: Float[Tensor, "m"]) -> Float[Tensor, ""]:
    """The earth mover's distance W1 between two samples of equal size: the mean distance of their sorted values.

    >>> wasserstein_1d(torch.tensor([0.0, 1.0]), torch.tensor([3.0, 2.0])).item()
    2.0

    Raises: ValueError when they are not one-dimensional, not of equal size, or empty.
    """
    if x.ndim != 1 or x.shape != y.shape or not len(x):
        raise ValueError(
            f"samples must be one-dimensional, of equal size and not empty, got {tuple(x.shape)} and {tuple(y.shape)}; "
            "resample the larger one"
        )
    return (_wide(x).sort().values - _wide(y).sort().values).abs().mean()


def perplexity(nll_sum: float | Float[Tensor, ""], n_tokens: int) -> float:
    """exp of the mean surprise: `nll_sum` nats over `n_tokens` tokens.

    >>> round(perplexity(2 * math.log(8), 2), 9)
    8.0

    Raises: ValueError when n_tokens is not positive.
    """
    if n_tokens <= 0:
        raise ValueError(f"n_tokens must be positive, got {n_tokens}")
    try:
        return math.exp(float(nll_sum) / n_tokens)
    except OverflowError:
        return math.inf


def bits_per_byte(nll_sum: float | Float[Tensor, ""], n_bytes: int) -> float:
    """Bits that the model needs for each byte of text: `nll_sum` nats over `n_bytes` UTF-8 bytes.

    >>> bits_per_byte(3 * math.log(2), 6)
    0.5

    Raises: ValueError when n_bytes is not positive.
    """
    if n_bytes <= 0:
        raise ValueError(f"n_bytes must be positive, got {n_bytes}; count the UTF-8 bytes of the text")
    return float(nll_sum) / math.log(2) / n_bytes


def z_loss(logits: Float[Tensor, "*positions V"], coefficient: float = 1e-4) -> Float[Tensor, ""]:
    """coefficient times the mean over positions of (ln sum exp logits)^2: it pulls the normaliser toward 1.

    Source: PaLM, arXiv:2204.02311, section 5.
    """
    squares = torch.logsumexp(_wide(logits), dim=-1) ** 2
    return coefficient * squares.sum() / max(squares.numel(), 1)


def info_nce(queries: Float[Tensor, "N E"], keys: Float[Tensor, "N E"], temperature: float = 0.07) -> Float[Tensor, ""]:
    """Mean cross-entropy of picking, by cosine similarity / temperature, each query's own key among the batch's.

    Row i of both belong together; rows are normalised here; one direction, queries to keys.

    Raises: ValueError for a temperature that is not positive or shapes that differ.
    Source: van den Oord et al., arXiv:1807.03748; the in-batch form of CLIP, arXiv:2103.00020.
    """
    if not temperature > 0:
        raise ValueError(f"temperature must be positive, got {temperature}; 0.07 is usual")
    if queries.ndim != 2 or queries.shape != keys.shape:
        raise ValueError(f"queries and keys must be (N, E) alike, got {tuple(queries.shape)} and {tuple(keys.shape)}")
    similarity = F.normalize(_wide(queries), dim=-1) @ F.normalize(_wide(keys), dim=-1).T
    return cross_entropy(similarity / temperature, torch.arange(len(queries), device=queries.device))


def distillation_loss(
    student_logits: Float[Tensor, "*positions V"], teacher_logits: Float[Tensor, "*positions V"], temperature: float
) -> Float[Tensor, ""]:
    """KL(teacher || student) of the softened distributions times temperature^2, mean over positions.

    The teacher gets no gradient. The factor keeps gradients of one size at any temperature.

    Raises: ValueError for a temperature that is not positive or shapes that differ.
    Source: Hinton et al., arXiv:1503.02531.
    """
    if not temperature > 0:
        raise ValueError(f"temperature must be positive, got {temperature}; 1 leaves the distributions as they are")
    if student_logits.shape != teacher_logits.shape:
        raise ValueError(
            f"student and teacher must share a shape, got {tuple(student_logits.shape)} and {tuple(teacher_logits.shape)}"
        )
    log_teacher = F.log_softmax(_wide(teacher_logits.detach()) / temperature, dim=-1)
    log_student = F.log_softmax(_wide(student_logits) / temperature, dim=-1)
    divergences = kl_divergence(log_teacher, log_student)
    return temperature**2 * divergences.sum() / max(divergences.numel(), 1)


def gumbel_softmax(
    logits: Float[Tensor, "*rows V"],
    temperature: float = 1.0,
    *,
    hard: bool = False,
    generator: torch.Generator | None = None,
) -> Float[Tensor, "*rows V"]:
    """A differentiable sample: softmax((logits + Gumbel noise) / temperature), near one-hot at low temperature.

    The largest entry falls on class i with probability softmax(logits)[i]. With `hard` the value is that one-hot vector and
    the gradient that of the soft one (straight-through).

    Raises: ValueError for a temperature that is not positive.
    Source: Jang et al., arXiv:1611.01144; Maddison et al., arXiv:1611.00712.
    """
    if not temperature > 0:
        raise ValueError(f"temperature must be positive, got {temperature}; toward 0 samples become one-hot")
    wide = _wide(logits)
    uniform = torch.rand(wide.shape, generator=generator, dtype=wide.dtype, device=wide.device)
    noise = -torch.log(-torch.log(uniform.clamp(torch.finfo(wide.dtype).tiny, 1 - torch.finfo(wide.dtype).eps / 2)))
    soft = torch.softmax((wide + noise) / temperature, dim=-1)
    if not hard:
        return soft
    one_hot = F.one_hot(soft.argmax(-1), soft.shape[-1]).to(soft.dtype)
    return one_hot + soft - soft.detach()


def effective_rank(matrix: Float[Tensor, "*batch rows columns"]) -> Float[Tensor, "*batch"]:
    """exp of the entropy of the normalised singular values: 1 for rank one, the full rank when all are equal; 0 for zeros.

    >>> round(effective_rank(torch.eye(3)).item(), 4)
    3.0

    Source: Roy and Vetterli, The Effective Rank, EUSIPCO 2007.
    """
    values = torch.linalg.svdvals(_wide(matrix))
    total = values.sum(-1)
    shares = values / torch.where(total == 0, 1, total)[..., None]
    return torch.where(total == 0, 0, torch.exp(-_p_log_p(shares).sum(-1)))


def stable_rank(matrix: Float[Tensor, "*batch rows columns"]) -> Float[Tensor, "*batch"]:
    """Squared Frobenius norm over squared spectral norm: at most the rank, and steady under small noise; 0 for zeros.

    >>> stable_rank(torch.diag(torch.tensor([2.0, 2.0, 0.0]))).item()
    2.0
    """
    squares = torch.linalg.svdvals(_wide(matrix)) ** 2
    largest = squares.amax(-1)
    return squares.sum(-1) / torch.where(largest == 0, 1, largest)


def distance_to_rank_one(x: Float[Tensor, "*batch T E"]) -> Float[Tensor, "*batch"]:
    """How far tokens are from being all the same: |x - mean over tokens| / |x| (Frobenius), 0 when collapsed.

    >>> distance_to_rank_one(torch.ones(4, 3)).item()
    0.0

    Source: Dong et al., arXiv:2103.03404, whose residual this is, with the Frobenius in place of the composite norm.
    """
    wide = _wide(x)
    residual = torch.linalg.matrix_norm(wide - wide.mean(-2, keepdim=True))
    norm = torch.linalg.matrix_norm(wide)
    return residual / torch.where(norm == 0, 1, norm)
