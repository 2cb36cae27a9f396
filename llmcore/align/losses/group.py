"""Groups of responses to one prompt: advantages, which groups teach something, and how good the best of k is.

Groups are contiguous: the responses to prompt i are rows i * group_size to (i + 1) * group_size - 1.

Taught in: 07_dpo_grpo.
"""

# Shapes: B responses, G groups.
import math

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from llmcore.align.losses.likelihood import wide


def group_advantages(
    rewards: Shaped[Tensor, "B"], group_size: int, normalize_std: bool = True, eps: float = 1e-6
) -> Float[Tensor, "B"]:
    """(reward - group mean) / (group std + eps), std with n - 1; without normalize_std only centred (Dr. GRPO).

    A group of one, and a group of equal rewards, have exactly 0, whatever rounding does to their mean.

    >>> group_advantages(torch.tensor([1.0, 0.0, 5.0, 5.0]), group_size=2, normalize_std=False).tolist()
    [0.5, -0.5, 0.0, 0.0]

    Raises: ValueError when rewards are not (B,) or B is no multiple of group_size.
    Source: GRPO, arXiv:2402.03300, section 4.1; without the std, Dr. GRPO, arXiv:2503.20783, section 3.2.
    """
    centred, grouped = _centred(rewards, group_size)
    if normalize_std and group_size > 1 and len(grouped):
        centred = centred / (grouped.std(dim=1, keepdim=True) + eps)
    equal = (grouped == grouped[:, :1]).all(dim=1, keepdim=True)
    return centred.masked_fill(equal, 0).flatten()


def centre_in_groups(rewards: Shaped[Tensor, "B"], group_size: int) -> Float[Tensor, "B"]:
    """Rewards minus the mean of their group: `group_advantages` without the division."""
    return group_advantages(rewards, group_size, normalize_std=False)


def keep_informative(rewards: Shaped[Tensor, "B"], group_size: int) -> Bool[Tensor, "G"]:
    """True for each group whose rewards differ; the others have advantage 0 and teach nothing.

    >>> keep_informative(torch.tensor([1.0, 0.0, 1.0, 1.0]), group_size=2).tolist()
    [True, False]

    Raises: ValueError when rewards are not (B,) or B is no multiple of group_size.
    Source: dynamic sampling, DAPO, arXiv:2503.14476, section 3.2.
    """
    grouped = split_groups(rewards, group_size)
    return (grouped != grouped[:, :1]).any(dim=1)


def split_groups(rewards: Shaped[Tensor, "B"], group_size: int) -> Shaped[Tensor, "G n"]:
    """Rewards with one row per group.

    Raises: ValueError when rewards are not (B,) or B is no multiple of group_size.
    """
    if rewards.ndim != 1 or group_size < 1 or len(rewards) % group_size:
        raise ValueError(
            f"rewards must be (B,) with B a multiple of group_size, got {tuple(rewards.shape)} and group_size={group_size}; "
            "every prompt needs the same number of responses, one after another"
        )
    return rewards.reshape(-1, group_size)


def _centred(rewards: Tensor, group_size: int) -> tuple[Tensor, Tensor]:
    grouped = wide(split_groups(rewards.detach(), group_size))
    if not bool(torch.isfinite(grouped).all()):
        row = int((~torch.isfinite(rewards)).nonzero()[0])
        raise ValueError(f"rewards must be finite, got {rewards[row].item()} in row {row}; mend the reward function")
    return grouped - grouped.mean(dim=1, keepdim=True), grouped


def overlong_penalty(length: int, max_length: int, buffer: int) -> float:
    """0 up to max_length - buffer tokens, then linearly down to -1 at max_length, -1 beyond; added to the reward.

    With buffer 0: 0 up to max_length, -1 beyond.

    >>> [overlong_penalty(length, max_length=10, buffer=4) for length in (6, 8, 10, 11)]
    [0.0, -0.5, -1.0, -1.0]

    Raises: ValueError for a negative length or buffer.
    Source: DAPO, arXiv:2503.14476, eq. 13.
    """
    if length < 0 or buffer < 0:
        raise ValueError(f"length and buffer must be at least 0, got {length} and {buffer}; buffer 0 has no slope")
    if length <= max_length - buffer:
        return 0.0
    if length > max_length:
        return -1.0
    return (max_length - buffer - length) / buffer


def pass_at_k(n: int, c: int, k: int) -> float:
    """Probability that at least one of k answers, drawn without replacement from n of which c are right, is right.

    >>> pass_at_k(n=4, c=1, k=2)
    0.5

    Raises: ValueError unless 1 <= k <= n and 0 <= c <= n.
    Source: Codex, arXiv:2107.03374, eq. 1; unbiased, where 1 - (1 - c / n)^k is not.
    """
    if not 1 <= k <= n or not 0 <= c <= n:
        raise ValueError(f"pass@k needs 1 <= k <= n and 0 <= c <= n, got n={n}, c={c}, k={k}")
    return 1.0 - math.comb(n - c, k) / math.comb(n, k)
