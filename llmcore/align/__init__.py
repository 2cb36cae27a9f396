"""Learning from examples, preferences and rewards: losses, rewards, rollouts and the trainers that use them.

- `losses`: DPO, IPO, PPO, GRPO and its variants, as functions of log-probabilities
- `rewards`: answers checked exactly, by number, by form; `sums`: a world to try them in
- `rollouts`: many answers to many prompts, batched, with their log-probabilities
- `chat`, `examples`: from messages and texts to ids and masks; `sequences`: ids as padded rows
- `logprobs`: log-probabilities of responses without logits of prompts; `reference`: the frozen model
- `sft`, `preference`, `reward_model`, `grpo`, `ppo`: the trainers; `base` and `exploration`: the loops they share
- `shared_prompts`: many responses behind one prompt, read once

>>> import torch
>>> from llmcore.align import dpo_loss
>>> zero = torch.zeros(2)
>>> round(dpo_loss(zero, zero, zero, zero)[0].item(), 4)  # ln 2
0.6931

Taught in: 07_dpo_grpo.
"""

import importlib

_LOSSES = (
    "VARIANTS", "bradley_terry_loss", "centre_in_groups", "clip_fraction", "clipped_terms", "dpo_loss", "gae", "group_advantages",
    "grpo_loss", "gspo_loss", "gspo_ratio", "ipo_loss", "keep_informative", "kl_penalty", "kl_shaped_rewards", "masked_mean",
    "overlong_penalty", "pass_at_k", "ppo_clip_loss", "response_nll", "sequence_logprob", "token_logprobs", "token_weights",
    "value_loss", "value_loss_terms", "weighted_sum",
)  # fmt: skip
_HOME_OF = dict.fromkeys(_LOSSES, "losses") | {
    "AlignConfig": "base",
    "AlignResult": "base",
    "ChatTemplate": "chat",
    "DPOConfig": "preference",
    "DPOTrainer": "preference",
    "Encoder": "examples",
    "GRPOConfig": "rollout_config",
    "GRPOTrainer": "grpo",
    "PPOConfig": "ppo",
    "PPOTrainer": "ppo",
    "Reference": "reference",
    "RewardConfig": "reward_model",
    "RewardModel": "reward_model",
    "RewardTrainer": "reward_model",
    "Rollout": "rollouts",
    "SFTTrainer": "sft",
    "Sequences": "sequences",
    "exact_reward": "rewards",
    "format_reward": "rewards",
    "linear_logprobs": "logprobs",
    "mean_reward": "experience",
    "numeric_reward": "rewards",
    "response_logprobs": "logprobs",
    "rollout": "rollouts",
}

__all__ = sorted(_HOME_OF)


def __getattr__(name: str) -> object:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME_OF])
