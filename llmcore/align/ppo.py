"""`PPOTrainer`: reinforcement learning with a critic, which says at every token what reward is to be expected.

The reward of a response stands at its last token; the KL to the reference is taken from the reward of each token
(`kl_in="reward"`) or added to the loss. Advantages are GAE's, whitened over the batch; the critic is a model of its
own, a copy of the policy unless one is given.

Taught in: 07_dpo_grpo.
"""

# Shapes: B responses, N response tokens.
import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from llmcore.align.base import at_least
from llmcore.align.examples import Row
from llmcore.align.experience import Experience
from llmcore.align.exploration import ExplorationTrainer
from llmcore.align.logprobs import response_logprobs
from llmcore.align.losses.critic import gae, value_loss_terms
from llmcore.align.losses.policy import (
    clip_fraction,
    clipped_terms,
    kl_penalty,
    kl_shaped_rewards,
    masked_mean,
    token_weights,
    weighted_sum,
)
from llmcore.align.reward_model import RewardModel
from llmcore.align.rewards import Reward
from llmcore.align.rollout_config import RolloutConfig
from llmcore.model.transformer import Transformer
from llmcore.train import setup


@dataclass(frozen=True, kw_only=True)
class PPOConfig(RolloutConfig):
    """One run of PPO.

    Raises: ValueError naming the setting, its value and what to do.
    """

    beta: float = 0.05
    """Weight of the KL penalty; 0 needs no reference."""
    kl: Literal["k1", "k2", "k3"] = "k1"
    """Its estimator."""
    kl_in: Literal["loss", "reward"] = "reward"
    """Where it goes: out of the reward of each token, or into the loss."""
    epochs: int = 2
    """Times that each rollout is gone through."""
    gamma: float = 1.0
    """What a reward one token later is worth."""
    lam: float = 0.95
    """GAE's: 0 trusts the critic, 1 the rewards alone."""
    eps_low: float = 0.2
    """Clip range below 1."""
    eps_high: float = 0.2
    """Clip range above 1."""
    value_weight: float = 0.5
    """Of the critic's loss."""
    value_clip: float | None = 0.2
    """How far the critic's values may move in one rollout and still count; None for any distance."""
    whiten: bool = True
    """Scale a rollout's advantages to mean 0 and variance 1."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("eps_low", "eps_high", "value_weight"):
            at_least(self, name, 0)
        if not (0 <= self.gamma <= 1 and 0 <= self.lam <= 1):
            raise ValueError(f"gamma and lam must be in [0, 1], got {self.gamma} and {self.lam}")


@dataclass(frozen=True)
class PPOExperience(Experience):
    """A rollout with what the policy and the critic learn from."""

    token_advantages: Float[Tensor, "B N"]
    """GAE's."""
    values: Float[Tensor, "B N"]
    """What the critic expected before the first update."""
    returns: Float[Tensor, "B N"]
    """What it should have expected."""


class PPOTrainer(ExplorationTrainer):
    """A run: `PPOTrainer(config, model, rows, reward, tokenizer=..., end_id=...).fit()`.

    What rows, rewards and reference may be, `ExplorationTrainer` says. `critic` starts from the given model; a trained
    reward model serves well.

    Raises: ValueError for rows, rewards or a reference that cannot be used.
    Source: arXiv:1707.06347; for language models, arXiv:1909.08593 and 2203.02155.
    """

    config: PPOConfig
    experience_type = PPOExperience

    def __init__(
        self,
        config: PPOConfig,
        model: Transformer,
        rows: Sequence[Row],
        reward: Reward | Mapping[str, Any],
        *,
        critic: RewardModel | None = None,
        **options: Any,
    ) -> None:
        super().__init__(config, model, rows, reward, **options)
        self.critic = RewardModel(copy.deepcopy(model)) if critic is None else critic
        self.both = nn.ModuleDict({"policy": self.model, "critic": self.critic})

    @property
    def trained(self) -> nn.Module:
        """Policy and critic."""
        return self.both

    def _explore(self, round_number: int, generator: torch.Generator) -> tuple[PPOExperience, dict[str, float]]:
        config = self.config
        rows, figures = super()._explore(round_number, generator)
        mask = rows.response_mask
        beta = config.beta if config.kl_in == "reward" else 0.0
        rewards = kl_shaped_rewards(rows.rewards, rows.logp, rows.ref_logp, mask, beta, config.kl)
        size = config.micro_batch or len(rows)
        with torch.no_grad():
            parts = [self.critic.values(rows.rows(slice(at, at + size))) for at in range(0, len(rows), size)]
        values = torch.cat([F.pad(part, (0, mask.shape[1] - part.shape[1])) for part in parts])
        advantages = gae(rewards, F.pad(values, (0, 1)), config.gamma, config.lam)
        returns = advantages + values
        if config.whiten:
            advantages = whitened(advantages, mask)
        experience = PPOExperience(**rows.as_dict(), token_advantages=advantages, values=values, returns=returns)
        return experience, figures

    def _weights(self, rows: Experience) -> Float[Tensor, "B N"]:
        return token_weights(rows.response_mask, "token")

    def _loss(self, rows: PPOExperience, weights: Float[Tensor, "B N"]) -> tuple[Tensor, dict[str, Tensor]]:
        config, mask = self.config, rows.response_mask
        with setup.autocast(config, self.place):
            logp, entropy = response_logprobs(self.model, rows, config.temperature)
            values = self.critic.values(rows)
        old_logp = logp.detach() if config.updates_per_rollout == 1 else rows.old_logp
        clip = (config.eps_low, config.eps_high)
        terms = clipped_terms(logp, old_logp, rows.token_advantages, mask, *clip)
        if config.beta and config.kl_in == "loss":
            terms = terms + config.beta * kl_penalty(logp, rows.ref_logp, config.kl)
        value_terms = value_loss_terms(values, rows.values, rows.returns, config.value_clip)
        value_loss = weighted_sum(value_terms, weights)
        with torch.no_grad():
            figures = {
                "entropy": masked_mean(entropy, mask),
                "clip_fraction": clip_fraction(logp, old_logp, rows.token_advantages, mask, *clip),
                "value_loss": masked_mean(value_terms, mask),
            }
            if config.beta:
                figures["kl"] = masked_mean(kl_penalty(logp, rows.ref_logp), mask)
        return weighted_sum(terms, weights) + config.value_weight * value_loss, figures


def whitened(advantages: Float[Tensor, "B N"], mask: Tensor, eps: float = 1e-6) -> Float[Tensor, "B N"]:
    """Advantages with mean 0 and variance 1 over the mask's tokens; zeros where they are all equal.

    >>> whitened(torch.tensor([[1.0, 3.0]]), torch.ones(1, 2, dtype=torch.bool)).round(decimals=4).tolist()
    [[-1.0, 1.0]]
    """
    centred = advantages - masked_mean(advantages, mask)
    return torch.where(mask, centred / (masked_mean(centred.square(), mask).sqrt() + eps), 0)
