"""Losses of learning from preferences and rewards: functions of tensors, nothing trained here.

- `likelihood`: log-probabilities of tokens and of responses
- `preference`: Bradley-Terry, DPO, IPO
- `policy`: the clipped losses of PPO, GRPO and its variants, the KL penalties; `critic`: GAE and the critic's loss
- `group`: advantages within a group, which groups teach, pass@k, the penalty of length

Half precision is widened to float32, float64 stays. Masks are True (or 1) where a token counts; what lies outside a
mask has no influence, NaN included. Old and reference log-probabilities, advantages and rewards are constants: no
gradient reaches them.

Taught in: 07_dpo_grpo.
"""

from llmcore.align.losses.critic import gae, value_loss, value_loss_terms
from llmcore.align.losses.group import (
    centre_in_groups,
    group_advantages,
    keep_informative,
    overlong_penalty,
    pass_at_k,
)
from llmcore.align.losses.likelihood import sequence_logprob, token_logprobs
from llmcore.align.losses.policy import (
    VARIANTS,
    clip_fraction,
    clipped_terms,
    grpo_loss,
    gspo_loss,
    gspo_ratio,
    kl_penalty,
    kl_shaped_rewards,
    masked_mean,
    ppo_clip_loss,
    token_weights,
    weighted_sum,
)
from llmcore.align.losses.preference import bradley_terry_loss, dpo_loss, ipo_loss, response_nll

__all__ = [
    "VARIANTS",
    "bradley_terry_loss",
    "centre_in_groups",
    "clip_fraction",
    "clipped_terms",
    "dpo_loss",
    "gae",
    "group_advantages",
    "grpo_loss",
    "gspo_loss",
    "gspo_ratio",
    "ipo_loss",
    "keep_informative",
    "kl_penalty",
    "kl_shaped_rewards",
    "masked_mean",
    "overlong_penalty",
    "pass_at_k",
    "ppo_clip_loss",
    "response_nll",
    "sequence_logprob",
    "token_logprobs",
    "token_weights",
    "value_loss",
    "value_loss_terms",
    "weighted_sum",
]
