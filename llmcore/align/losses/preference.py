"""Losses of pairs: a chosen and a rejected response to one prompt.

Taught in: 07_dpo_grpo.
"""

# Shapes: P pairs.
import torch.nn.functional as F
from jaxtyping import Float, Shaped
from torch import Tensor

from llmcore.align.losses.likelihood import wide


def bradley_terry_loss(
    reward_chosen: Float[Tensor, "P"],
    reward_rejected: Float[Tensor, "P"],
    *,
    margin: float | Float[Tensor, "P"] = 0.0,
    centre: float = 0.0,
) -> Float[Tensor, ""]:
    """Mean over pairs of -log sigmoid(chosen - rejected - margin); no pairs give 0.

    Rewards are only defined up to a constant per prompt; `centre` times the mean of (chosen + rejected)^2 pulls it to
    0.

    >>> import torch
    >>> round(bradley_terry_loss(torch.tensor([1.0]), torch.tensor([1.0])).item(), 4)
    0.6931

    Raises: ValueError for shapes that differ or a negative coefficient.
    Source: InstructGPT, arXiv:2203.02155, eq. 1; margin, Llama 2, arXiv:2307.09288, eq. 2; centre, arXiv:2312.09244.
    """
    _check_alike(reward_chosen=reward_chosen, reward_rejected=reward_rejected)
    if centre < 0:
        raise ValueError(f"centre must be at least 0, got {centre}; 0 leaves the rewards where they are")
    chosen, rejected = wide(reward_chosen), wide(reward_rejected)
    loss = -F.logsigmoid(chosen - rejected - margin)
    if centre:
        loss = loss + centre * (chosen + rejected).square()
    return _mean(loss)


def dpo_loss(
    pi_chosen: Float[Tensor, "P"],
    pi_rejected: Float[Tensor, "P"],
    ref_chosen: Float[Tensor, "P"],
    ref_rejected: Float[Tensor, "P"],
    beta: float = 0.1,
    label_smoothing: float = 0.0,
) -> tuple[Float[Tensor, ""], Float[Tensor, "P"], Float[Tensor, "P"]]:
    """(mean loss, chosen rewards, rejected rewards) from log-probabilities of whole responses; rewards are detached.

    With h = beta ((pi - ref)(chosen) - (pi - ref)(rejected)): loss = -(1 - e) log sigmoid(h) - e log sigmoid(-h), where
    e, the label smoothing, is the share of labels believed to be wrong (the conservative form). Rewards are beta (pi -
    ref).

    >>> import torch
    >>> policy = torch.tensor([-3.0])
    >>> round(dpo_loss(policy, policy, policy, policy)[0].item(), 4)  # at step 0: ln 2
    0.6931

    Raises: ValueError for shapes that differ, beta that is not positive, or label_smoothing outside [0, 0.5].
    Source: arXiv:2305.18290, eq. 7; label smoothing, Mitchell, A note on DPO with noisy preferences, 2023.
    """
    chosen, rejected = _log_ratios(pi_chosen, pi_rejected, ref_chosen, ref_rejected, beta)
    if not 0 <= label_smoothing <= 0.5:
        raise ValueError(
            f"label_smoothing must be in [0, 0.5], got {label_smoothing}; at 0.5 the labels say nothing, beyond it swap them"
        )
    logit = beta * (chosen - rejected)
    loss = -(1 - label_smoothing) * F.logsigmoid(logit)
    if label_smoothing:
        loss = loss - label_smoothing * F.logsigmoid(-logit)
    return _mean(loss), beta * chosen.detach(), beta * rejected.detach()


def ipo_loss(
    pi_chosen: Float[Tensor, "P"],
    pi_rejected: Float[Tensor, "P"],
    ref_chosen: Float[Tensor, "P"],
    ref_rejected: Float[Tensor, "P"],
    beta: float = 0.1,
) -> tuple[Float[Tensor, ""], Float[Tensor, "P"], Float[Tensor, "P"]]:
    """(mean loss, chosen rewards, rejected rewards): the margin of log-ratios is pulled to 1 / (2 beta), not to infinity.

    The loss is ((pi - ref)(chosen) - (pi - ref)(rejected) - 1 / (2 beta))^2. Log-probabilities are sums over a
    response; where responses differ much in length, pass means per token instead, as IPO's authors advise.

    >>> import torch
    >>> zero = torch.zeros(1)
    >>> ipo_loss(zero, zero, zero, zero, beta=0.5)[0].item()
    1.0

    Raises: ValueError for shapes that differ or beta that is not positive.
    Source: arXiv:2310.12036, eq. 17.
    """
    chosen, rejected = _log_ratios(pi_chosen, pi_rejected, ref_chosen, ref_rejected, beta)
    loss = (chosen - rejected - 1 / (2 * beta)).square()
    return _mean(loss), beta * chosen.detach(), beta * rejected.detach()


def response_nll(logp: Float[Tensor, "P"], lengths: Shaped[Tensor, "P"]) -> Float[Tensor, ""]:
    """Mean over responses of -log-probability per token: added to DPO's loss it keeps the chosen answers likely.

    `logp` are sums over `lengths` tokens; a response without tokens adds 0.

    >>> import torch
    >>> response_nll(torch.tensor([-6.0, -1.0]), torch.tensor([3, 1])).item()
    1.5

    Source: iterative reasoning preference optimization, arXiv:2404.19733, eq. 1.
    """
    _check_alike(logp=logp, lengths=lengths)
    return -_mean(wide(logp) / lengths.clamp(min=1))


def _log_ratios(
    pi_chosen: Tensor, pi_rejected: Tensor, ref_chosen: Tensor, ref_rejected: Tensor, beta: float
) -> tuple[Tensor, Tensor]:
    _check_alike(pi_chosen=pi_chosen, pi_rejected=pi_rejected, ref_chosen=ref_chosen, ref_rejected=ref_rejected)
    if not beta > 0:
        raise ValueError(
            f"beta must be positive, got {beta}; a smaller beta lets the policy go further from the reference"
        )
    chosen = wide(pi_chosen) - wide(ref_chosen.detach())
    rejected = wide(pi_rejected) - wide(ref_rejected.detach())
    return chosen, rejected


def _check_alike(**tensors: Tensor) -> None:
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if len(set(shapes.values())) > 1:
        raise ValueError(
            f"{', '.join(shapes)} must have one shape, got {', '.join(map(str, shapes.values()))}; one number per pair"
        )


def _mean(values: Tensor) -> Tensor:
    return values.sum() / max(values.numel(), 1)
