"""What a critic is for: advantages from its values (GAE), and its own loss.

Taught in: 07_dpo_grpo.
"""

# Shapes: B responses, T tokens, S = T + 1.
import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from llmcore.align.losses.likelihood import wide
from llmcore.align.losses.policy import check_clip, check_mask, masked_mean


def gae(
    rewards: Float[Tensor, "*batch T"], values: Float[Tensor, "*batch S"], gamma: float = 1.0, lam: float = 0.95
) -> Float[Tensor, "*batch T"]:
    """Generalised advantage estimates; `values` has one more entry than rewards, what is expected after the last step.

    delta_t = r_t + gamma V_{t+1} - V_t and A_t = delta_t + gamma lam A_{t+1}. Targets, so no gradient. For responses
    padded on the right set rewards and values to 0 beyond the end: padding then adds nothing to what comes before it.

    >>> gae(torch.tensor([0.0, 1.0]), torch.tensor([0.5, 0.5, 0.0]), lam=1.0).tolist()
    [0.5, 0.5]

    Raises: ValueError when values is not one longer than rewards, or gamma or lam is outside [0, 1].
    Source: arXiv:1506.02438, eq. 16.
    """
    if values.shape[:-1] != rewards.shape[:-1] or values.shape[-1] != rewards.shape[-1] + 1:
        raise ValueError(
            f"values must have one entry more than rewards, got {tuple(values.shape)} and {tuple(rewards.shape)}; "
            "append the value after the last step, 0 where the text ended"
        )
    if not (0 <= gamma <= 1 and 0 <= lam <= 1):
        raise ValueError(f"gamma and lam must be in [0, 1], got {gamma} and {lam}")
    rewards, values = wide(rewards.detach()), wide(values.detach())
    delta = rewards + gamma * values[..., 1:] - values[..., :-1]
    advantages = torch.empty_like(delta)
    ahead = torch.zeros_like(delta[..., 0]) if delta.shape[-1] else None
    for t in range(delta.shape[-1] - 1, -1, -1):
        ahead = delta[..., t] + gamma * lam * ahead
        advantages[..., t] = ahead
    return advantages


def value_loss(
    values: Float[Tensor, "B T"],
    old_values: Float[Tensor, "B T"],
    returns: Float[Tensor, "B T"],
    mask: Shaped[Tensor, "B T"],
    clip: float | None = 0.2,
) -> Float[Tensor, ""]:
    """Half the mean squared error of the critic over the mask, the worse of the value and the value clipped around the old one.

    Without clip: plain squared error. An empty mask gives 0.

    >>> one = torch.ones(1, 1)
    >>> value_loss(one * 3, one, one, one, clip=None).item()
    2.0

    Raises: ValueError for shapes that differ or a negative clip.
    Source: PPO's public implementation; arXiv:2006.05990, section 3.2 (C13).
    """
    mask = check_mask(mask, values=values, old_values=old_values, returns=returns)
    check_clip(clip or 0.0, 0.0)
    return masked_mean(value_loss_terms(values, old_values, returns, clip), mask)


def value_loss_terms(
    values: Float[Tensor, "B T"],
    old_values: Float[Tensor, "B T"],
    returns: Float[Tensor, "B T"],
    clip: float | None = 0.2,
) -> Float[Tensor, "B T"]:
    """The critic's loss at each token: what `value_loss` averages."""
    values, old_values, returns = wide(values), wide(old_values.detach()), wide(returns.detach())
    error = (values - returns).square()
    if clip is not None:
        near = old_values + (values - old_values).clamp(-clip, clip)
        error = torch.maximum(error, (near - returns).square())
    return error / 2
