"""`Explorer`: answers to prompts, their rewards, and what rewards make of them: advantages.

Taught in: 07_dpo_grpo.
"""

# Shapes: B responses, N response tokens, G groups.
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from llmcore.align.base import rows_of_step
from llmcore.align.examples import Encoder, Row
from llmcore.align.logprobs import response_logprobs
from llmcore.align.losses.group import group_advantages, keep_informative, overlong_penalty
from llmcore.align.losses.policy import kl_penalty
from llmcore.align.reference import Reference
from llmcore.align.rewards import Reward, RewardParts
from llmcore.align.rollout_config import RolloutConfig
from llmcore.align.rollouts import Rollout, rollout
from llmcore.model.transformer import Transformer


@dataclass(frozen=True)
class Experience(Rollout):
    """A rollout with what its updates need."""

    rewards: Float[Tensor, "B"]
    """Of each response, the penalty of its length included, that of the KL not."""
    advantages: Float[Tensor, "B"]
    """Within the group, from rewards less the KL where that is in the reward."""
    old_logp: Float[Tensor, "B N"]
    """Log-probabilities before the first update."""
    ref_logp: Float[Tensor, "B N"]
    """The reference's; zeros where there is none."""


class Explorer:
    """Makes the experience of one round.

    Raises: ValueError for a prompt that is missing or no text.
    """

    def __init__(
        self, config: RolloutConfig, model: Transformer, rows: Sequence[Row], reward: RewardParts, encoder: Encoder
    ) -> None:
        self.config, self.model, self.rows, self.reward, self.encoder = config, model, rows, reward, encoder
        self.prompts = [encoder.prompt(row, number) for number, row in enumerate(rows)]

    def __call__(
        self, round_number: int, generator: torch.Generator, reference: Reference | None
    ) -> tuple[Experience, dict[str, float]]:
        """(experience, figures) of a round; rounds count from 0."""
        config, needs_old = self.config, self.config.updates_per_rollout > 1
        sampled, rewards, parts, kept = self._sample_groups(round_number, generator)
        figures = {f"reward_{name}": values.mean().item() for name, values in parts.items()} if len(parts) > 1 else {}
        figures |= {
            "reward": rewards.mean().item(),
            "reward_std": _mean_group_std(rewards, config.group_size),
            "informative": kept,
            "length": sampled.response_lengths.float().mean().item(),
            "ended": sampled.ended.float().mean().item(),
        }
        zeros = torch.zeros_like(sampled.logp)
        ref_logp = self._forward(reference.logprobs, sampled) if reference is not None else zeros
        rewards = rewards + self._length_penalties(sampled)
        shaped = rewards
        if config.beta and config.kl_in == "reward":
            drift = torch.where(sampled.response_mask, kl_penalty(sampled.logp, ref_logp, config.kl), 0)
            shaped = rewards - config.beta * drift.sum(dim=1)
        advantages = group_advantages(shaped, config.group_size, config.scales_by_std)
        old_logp = sampled.logp if needs_old else zeros
        if needs_old and config.old_logprobs == "forward":
            old_logp = self._forward(self._own_logprobs, sampled)
        return Experience(
            **sampled.as_dict(), rewards=rewards, advantages=advantages, old_logp=old_logp, ref_logp=ref_logp
        ), figures

    def _sample_groups(
        self, round_number: int, generator: torch.Generator
    ) -> tuple[Rollout, Float[Tensor, "B"], dict[str, Tensor], float]:
        """(rows, rewards, their parts, share of the first groups that were informative)."""
        config = self.config
        n_groups = config.batch_size * config.minibatches // config.group_size
        chosen = rows_of_step(len(self.rows), n_groups, round_number, config.seed)
        sampled, scores = self._answers(chosen, generator)
        informative = keep_informative(scores[:, 0], config.group_size)
        share = informative.float().mean().item()
        if not config.resamples:
            return sampled, *self._split(scores), share
        good, spare = [(sampled, scores, informative)], (sampled, scores, ~informative)
        missing = n_groups - int(informative.sum())
        for attempt in range(config.resamples):
            if missing <= 0:
                break
            random = np.random.default_rng((config.seed, round_number, attempt))
            further, more = self._answers(random.integers(len(self.rows), size=missing), generator)
            informative = keep_informative(more[:, 0], config.group_size)
            good.append((further, more, informative))
            missing -= int(informative.sum())
        pieces, values = zip(*(self._groups(*group) for group in [*good, spare]))
        n = config.batch_size * config.minibatches
        return Rollout.join(pieces).rows(slice(0, n)), *self._split(torch.cat(values)[:n]), share

    def _groups(self, rows: Rollout, scores: Tensor, wanted: Bool[Tensor, "G"]) -> tuple[Rollout, Tensor]:
        chosen = wanted.repeat_interleave(self.config.group_size).nonzero()[:, 0]
        return rows.rows(chosen), scores[chosen]

    def _answers(self, chosen: np.ndarray, generator: torch.Generator) -> tuple[Rollout, Float[Tensor, "B parts"]]:
        """(group_size responses to each chosen row, their rewards: the sum, then each part)."""
        config = self.config
        sampled = rollout(
            self.model, [self.prompts[index] for index in chosen], config.max_tokens, samples=config.group_size,
            temperature=config.temperature, end_id=self.encoder.end_id, generator=generator,
        )  # fmt: skip
        scores = []
        for place, response in enumerate(sampled.responses()):
            number = int(chosen[place // config.group_size])
            total, parts = self.reward(self.rows[number], self.encoder.text(response), number)
            scores.append([total, *parts.values()])
        return sampled, torch.tensor(scores, device=sampled.ids.device)

    def _split(self, scores: Tensor) -> tuple[Float[Tensor, "B"], dict[str, Tensor]]:
        return scores[:, 0], dict(zip(self.reward.parts, scores[:, 1:].unbind(dim=1)))

    def _length_penalties(self, rows: Rollout) -> Float[Tensor, "B"] | float:
        config = self.config
        if config.overlong_buffer is None:
            return 0.0
        lengths = rows.response_lengths.tolist()
        values = [overlong_penalty(length, config.max_tokens, config.overlong_buffer) for length in lengths]
        return torch.tensor(values, device=rows.ids.device)

    def _own_logprobs(self, rows: Rollout, temperature: float) -> Float[Tensor, "B N"]:
        return response_logprobs(self.model, rows, temperature)[0]

    @torch.no_grad()
    def _forward(self, logprobs: Any, rows: Rollout) -> Float[Tensor, "B N"]:
        """Log-probabilities of all rows, micro-batch by micro-batch."""
        size = self.config.micro_batch or len(rows)
        found = torch.zeros_like(rows.logp)
        for start in range(0, len(rows), size):
            part = slice(start, start + size)
            values = logprobs(rows.rows(part), self.config.temperature)
            found[part, : values.shape[1]] = values
        return found


def mean_reward(
    model: Transformer,
    rows: Sequence[Row],
    reward: Reward | RewardParts,
    encoder: Encoder,
    *,
    max_tokens: int,
    temperature: float = 0.0,
    samples: int = 1,
    generator: torch.Generator | None = None,
    at_once: int = 512,
) -> float:
    """Mean reward of the model's responses to all rows; greedy ones unless a temperature is given."""
    reward = reward if isinstance(reward, RewardParts) else RewardParts(reward)
    total = 0.0
    for start in range(0, len(rows), at_once):
        some = rows[start : start + at_once]
        prompts = [encoder.prompt(row, start + index) for index, row in enumerate(some)]
        found = rollout(
            model,
            prompts,
            max_tokens,
            samples=samples,
            temperature=temperature,
            end_id=encoder.end_id,
            generator=generator,
        )
        for place, response in enumerate(found.responses()):
            index = place // samples
            total += reward(some[index], encoder.text(response), start + index)[0]
    return total / (len(rows) * samples)


def _mean_group_std(rewards: Float[Tensor, "B"], group_size: int) -> float:
    """Mean over groups of the standard deviation with n - 1; 0 for groups of one."""
    return rewards.view(-1, group_size).std(dim=1).mean().item() if group_size > 1 else 0.0
