"""Policy gradients with a clipped ratio: PPO, GRPO, Dr. GRPO, DAPO, GSPO; and the KL penalties that go with them.

The ratio is pi / pi_old of a token (GSPO: of a whole response). Log-ratios are capped where exp would overflow, so that
an advantage of 0 times a huge ratio is 0 and not NaN.

Taught in: 07_dpo_grpo.
"""

# Shapes: B responses, T tokens.
import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from llmcore.align.losses.likelihood import wide

KlEstimator = Literal["k1", "k2", "k3"]
Average = Literal["response", "constant", "token"]


@dataclass(frozen=True)
class Variant:
    """What sets one kind of GRPO apart from the others."""

    average: Average
    """What divides the sum over tokens: each response's length, then their number; responses times max_tokens; or all tokens."""
    sequence_ratio: bool = False
    """One ratio for a whole response (GSPO) in place of one per token."""
    normalize_std: bool = True
    """Divide advantages by their group's standard deviation."""
    eps_low: float = 0.2
    """Published clip range below 1."""
    eps_high: float = 0.2
    """Published clip range above 1."""
    dynamic_sampling: bool = False
    """Sample again for groups whose rewards are all equal."""


VARIANTS: Mapping[str, Variant] = MappingProxyType(
    {
        "grpo": Variant("response"),
        "dr_grpo": Variant("constant", normalize_std=False),
        "dapo": Variant("token", eps_high=0.28, dynamic_sampling=True),
        "gspo": Variant("response", sequence_ratio=True, eps_low=3e-4, eps_high=4e-4),
    }
)
"""Source: arXiv:2402.03300, 2503.20783, 2503.14476, 2507.18071."""


def clipped_terms(
    logp: Float[Tensor, "B T"],
    old_logp: Float[Tensor, "B T"],
    advantages: Float[Tensor, "..."],
    mask: Shaped[Tensor, "B T"],
    eps_low: float = 0.2,
    eps_high: float = 0.2,
    *,
    sequence_ratio: bool = False,
) -> Float[Tensor, "B T"]:
    """-min(ratio A, clip(ratio, 1 - eps_low, 1 + eps_high) A) of each token: what the losses below average, each in its way.

    Advantages are (B, T), or (B,) for the same one at every token. With `sequence_ratio` a response has one ratio,
    `gspo_ratio`. Outside the mask the terms mean nothing.

    Raises: ValueError for shapes that do not fit or a negative clip range.
    """
    ratio = _ratio(logp, old_logp, mask, sequence_ratio)
    check_clip(eps_low, eps_high)
    advantages = _per_token(advantages, logp)
    terms = -torch.minimum(ratio * advantages, ratio.clamp(1 - eps_low, 1 + eps_high) * advantages)
    return terms.expand(mask.shape)


def ppo_clip_loss(
    logp: Float[Tensor, "B T"],
    old_logp: Float[Tensor, "B T"],
    advantages: Float[Tensor, "..."],
    mask: Shaped[Tensor, "B T"],
    eps_low: float = 0.2,
    eps_high: float = 0.2,
) -> Float[Tensor, ""]:
    """Mean over the mask's tokens of -min(ratio A, clip(ratio, 1 - eps_low, 1 + eps_high) A); an empty mask gives 0.

    Advantages are (B, T), or (B,) for the same one at every token of a response.

    >>> one = torch.ones(1, 1)
    >>> round(ppo_clip_loss(one.log() + 1.0, one.log(), torch.tensor([2.0]), one).item(), 4)  # 1.2 * 2: the ratio e is cut
    -2.4

    Raises: ValueError for shapes that do not fit or a negative clip range.
    Source: PPO, arXiv:1707.06347, eq. 7; two clip ranges, DAPO, arXiv:2503.14476, eq. 10.
    """
    return masked_mean(clipped_terms(logp, old_logp, advantages, mask, eps_low, eps_high), mask)


def grpo_loss(
    logp: Float[Tensor, "B T"],
    old_logp: Float[Tensor, "B T"],
    ref_logp: Float[Tensor, "B T"] | None,
    advantages: Float[Tensor, "B"],
    mask: Shaped[Tensor, "B T"],
    beta: float = 0.04,
    eps_low: float = 0.2,
    eps_high: float = 0.2,
    variant: str = "grpo",
    max_tokens: int | None = None,
    kl: KlEstimator = "k3",
) -> Float[Tensor, ""]:
    """The clipped loss plus beta times the KL penalty to the reference, averaged as the variant says.

    "grpo": mean over each response's tokens, then over responses; "dr_grpo": sum / (responses * max_tokens); "dapo":
    mean over all tokens. A response without tokens adds 0. With beta 0, ref_logp may be None. `kl` is the estimator in
    the loss; see `kl_penalty`.

    >>> logp, mask = torch.zeros(2, 3), torch.tensor([[1, 1, 1], [1, 0, 0]])
    >>> [round(grpo_loss(logp, logp, logp, torch.tensor([0.0, 1.0]), mask, variant=name).item(), 2) for name in ("grpo", "dapo")]
    [-0.5, -0.25]

    Raises: ValueError for another variant, a missing max_tokens or reference, shapes that do not fit, negative ranges
        or beta.
    Source: GRPO, arXiv:2402.03300, eq. 3; Dr. GRPO, arXiv:2503.20783, section 3.1; DAPO, arXiv:2503.14476, eq. 12.
    """
    if variant not in ("grpo", "dr_grpo", "dapo"):
        hint = "; its ratio is of whole responses: use gspo_loss" if variant == "gspo" else ""
        raise ValueError(f"variant must be grpo, dr_grpo or dapo, got {variant!r}{hint}")
    _check_advantages(advantages, logp)
    loss = clipped_terms(logp, old_logp, advantages, mask, eps_low, eps_high)
    weights = token_weights(mask, VARIANTS[variant].average, max_tokens, loss.dtype)
    return weighted_sum(loss + _penalty(logp, ref_logp, mask, beta, kl), weights)


def gspo_loss(
    logp: Float[Tensor, "B T"],
    old_logp: Float[Tensor, "B T"],
    ref_logp: Float[Tensor, "B T"] | None,
    advantages: Float[Tensor, "B"],
    mask: Shaped[Tensor, "B T"],
    beta: float = 0.0,
    eps_low: float = 3e-4,
    eps_high: float = 4e-4,
    kl: KlEstimator = "k3",
) -> Float[Tensor, ""]:
    """The clipped loss with one ratio per response, averaged over responses, plus beta times the mean KL penalty per token.

    >>> zero = torch.zeros(1, 2)
    >>> gspo_loss(zero, zero, None, torch.tensor([2.0]), torch.ones(1, 2)).item()
    -2.0

    Raises: ValueError for shapes that do not fit, a missing reference, negative ranges or beta.
    Source: arXiv:2507.18071, eq. 5 to 7.
    """
    _check_advantages(advantages, logp)
    loss = clipped_terms(logp, old_logp, advantages, mask, eps_low, eps_high, sequence_ratio=True)
    return weighted_sum(
        loss + _penalty(logp, ref_logp, mask, beta, kl), token_weights(mask, "response", dtype=loss.dtype)
    )


def gspo_ratio(
    logp: Float[Tensor, "B T"], old_logp: Float[Tensor, "B T"], mask: Shaped[Tensor, "B T"]
) -> Float[Tensor, "B"]:
    """exp of the mean log-ratio over each response's tokens, its geometric mean; 1 for a response without tokens.

    >>> gspo_ratio(torch.tensor([[1.0, 3.0]]), torch.tensor([[1.0, 3.0]]), torch.ones(1, 2)).tolist()
    [1.0]

    Raises: ValueError for shapes that differ.
    Source: arXiv:2507.18071, eq. 7.
    """
    return _ratio(logp, old_logp, mask, sequence_ratio=True)[:, 0]


def kl_penalty(
    logp: Float[Tensor, "*shape"], ref_logp: Float[Tensor, "*shape"], estimator: KlEstimator = "k3"
) -> Float[Tensor, "*shape"]:
    """Estimate of KL(policy || reference) at each token that the policy sampled, to be added to a loss.

    With d = logp - ref_logp: k1 is d, k2 is d^2 / 2, k3 is exp(-d) - 1 + d. All are right as values on average, but as
    a loss they differ: on samples of the policy the gradient of k1 is 0 on average, that of k2 is the KL's own, that of
    k3 is the reverse KL's. k1 belongs in the reward (`kl_shaped_rewards`), where the policy gradient turns it into the
    KL's.

    >>> round(kl_penalty(torch.tensor(-1.0), torch.tensor(-1.5)).item(), 4)
    0.1065

    Raises: ValueError for another estimator.
    Source: Schulman, Approximating KL Divergence, 2020; k3 in the loss, GRPO, arXiv:2402.03300, eq. 4.
    """
    d = wide(logp) - wide(ref_logp.detach())
    if estimator == "k1":
        return d
    if estimator == "k2":
        return d.square() / 2
    if estimator == "k3":
        return torch.expm1(_capped(-d)) + d
    raise ValueError(f"estimator must be k1, k2 or k3, got {estimator!r}")


def kl_shaped_rewards(
    rewards: Float[Tensor, "B"],
    logp: Float[Tensor, "B T"],
    ref_logp: Float[Tensor, "B T"],
    mask: Shaped[Tensor, "B T"],
    beta: float,
    estimator: KlEstimator = "k1",
) -> Float[Tensor, "B T"]:
    """Reward of each token: -beta times the KL estimate, and the response's own reward at its last token. No gradient.

    A response without tokens has no place for its reward: it gives zeros.

    >>> zero = torch.zeros(1, 3)
    >>> kl_shaped_rewards(torch.tensor([1.0]), zero, zero, torch.tensor([[1, 1, 0]]), beta=0.1).tolist()
    [[0.0, 1.0, 0.0]]

    Raises: ValueError for shapes that do not fit.
    Source: InstructGPT, arXiv:2203.02155, eq. 2; per token, arXiv:1909.08593, eq. 2.
    """
    mask = check_mask(mask, logp=logp, ref_logp=ref_logp)
    _check_advantages(rewards, logp, "rewards")
    logp, ref_logp = (torch.where(mask, wide(x.detach()), 0) for x in (logp, ref_logp))
    shaped = 0 - beta * kl_penalty(logp, ref_logp, estimator)
    places = torch.arange(mask.shape[1], device=mask.device)
    last = (
        torch.where(mask, places, -1).amax(dim=1, keepdim=True)
        if mask.shape[1]
        else places.new_full((len(mask), 1), -1)
    )
    return torch.where(places == last, shaped + wide(rewards)[:, None], torch.where(mask, shaped, 0))


def token_weights(
    mask: Shaped[Tensor, "B T"],
    average: Average,
    max_tokens: int | None = None,
    dtype: torch.dtype = torch.float32,
) -> Float[Tensor, "B T"]:
    """The weight of each token in a batch's loss; 0 outside the mask.

    "response": 1 / (its response's tokens * responses); "constant": 1 / (responses * max_tokens); "token": 1 / (all
    tokens). The rows of a micro-batch keep the weights of their batch, so that accumulated gradients are the whole
    batch's.

    >>> token_weights(torch.tensor([[1, 1], [1, 0]]), "response").tolist()
    [[0.25, 0.25], [0.5, 0.0]]

    Raises: ValueError for another average, or a missing or non-positive max_tokens for "constant".
    """
    weights = mask.bool().to(dtype)
    if average == "response":
        return weights / (weights.sum(dim=1, keepdim=True).clamp(min=1) * max(len(weights), 1))
    if average == "token":
        return weights / weights.sum().clamp(min=1)
    if average != "constant":
        raise ValueError(f"average must be response, constant or token, got {average!r}")
    if max_tokens is None or max_tokens < 1:
        raise ValueError(
            f"dr_grpo divides by max_tokens, the longest response allowed: pass at least 1, got {max_tokens}"
        )
    return weights / (max(len(weights), 1) * max_tokens)


def masked_mean(values: Float[Tensor, "*shape"], mask: Shaped[Tensor, "*shape"]) -> Float[Tensor, ""]:
    """Mean of the values where the mask is true; 0 when it is true nowhere."""
    mask = mask.bool()
    return torch.where(mask, wide(values), 0).sum() / mask.sum().clamp(min=1)


def weighted_sum(values: Float[Tensor, "B T"], weights: Float[Tensor, "B T"]) -> Float[Tensor, ""]:
    """Sum of values times weights; a value at weight 0 has no influence, whatever it is."""
    return (torch.where(weights != 0, values, 0) * weights).sum()


def clip_fraction(
    logp: Float[Tensor, "B T"],
    old_logp: Float[Tensor, "B T"],
    advantages: Float[Tensor, "..."],
    mask: Shaped[Tensor, "B T"],
    eps_low: float = 0.2,
    eps_high: float = 0.2,
    *,
    sequence_ratio: bool = False,
) -> Float[Tensor, ""]:
    """Share of the mask's tokens that the clip leaves without gradient; 0 for an empty mask."""
    ratio = _ratio(logp, old_logp, mask, sequence_ratio)
    advantages = _per_token(advantages, logp)
    cut = ((advantages > 0) & (ratio > 1 + eps_high)) | ((advantages < 0) & (ratio < 1 - eps_low))
    return masked_mean(cut.float().expand(mask.shape), mask)


def _capped(log_ratio: Tensor) -> Tensor:
    return log_ratio.clamp(max=math.log(torch.finfo(log_ratio.dtype).max) / 2)


def _ratio(logp: Tensor, old_logp: Tensor, mask: Tensor, sequence_ratio: bool) -> Tensor:
    """Ratios (B, T), or (B, 1) of whole responses; 1 outside the mask."""
    mask = check_mask(mask, logp=logp, old_logp=old_logp)
    log_ratio = torch.where(mask, wide(logp) - wide(old_logp.detach()), 0)
    if sequence_ratio:
        log_ratio = log_ratio.sum(dim=1, keepdim=True) / mask.sum(dim=1, keepdim=True).clamp(min=1)
    return _capped(log_ratio).exp()


def _penalty(logp: Tensor, ref_logp: Tensor | None, mask: Tensor, beta: float, kl: KlEstimator) -> Tensor | float:
    if not beta >= 0:
        raise ValueError(f"beta must be at least 0, got {beta}; 0 goes without a reference")
    if beta == 0:
        return 0.0
    if ref_logp is None:
        raise ValueError(f"beta={beta} needs ref_logp, the reference's log-probabilities; pass them, or beta=0")
    mask = check_mask(mask, logp=logp, ref_logp=ref_logp)
    at_zero = torch.where(mask, wide(logp), 0), torch.where(mask, wide(ref_logp.detach()), 0)
    return beta * kl_penalty(*at_zero, kl)


def _per_token(advantages: Tensor, logp: Tensor) -> Tensor:
    """Advantages that broadcast over (B, T): which axis (B,) means never depends on sizes."""
    if advantages.shape not in (logp.shape, logp.shape[:1]):
        raise ValueError(
            f"advantages must be (B,) or (B, T) for log-probabilities {tuple(logp.shape)}, got {tuple(advantages.shape)}"
        )
    advantages = wide(advantages.detach())
    return advantages[:, None] if advantages.ndim == 1 else advantages


def _check_advantages(advantages: Tensor, logp: Tensor, name: str = "advantages") -> None:
    if advantages.shape != logp.shape[:1]:
        raise ValueError(
            f"{name} must be (B,), one number per response, for log-probabilities {tuple(logp.shape)}, "
            f"got {tuple(advantages.shape)}"
        )


def check_mask(mask: Tensor, **tensors: Tensor) -> Tensor:
    """The mask as bool, once all shapes are (B, T) alike."""
    for name, tensor in tensors.items():
        if tensor.ndim != 2 or tensor.shape != mask.shape:
            raise ValueError(f"{name} must be (B, T) as the mask {tuple(mask.shape)}, got {tuple(tensor.shape)}")
    return mask.bool()


def check_clip(eps_low: float, eps_high: float) -> None:
    """Raise ValueError for a negative clip range."""
    if not (eps_low >= 0 and eps_high >= 0):
        raise ValueError(f"clip ranges must be at least 0, got {eps_low} and {eps_high}; 0.2 is usual")
