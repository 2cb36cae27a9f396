"""`GRPOTrainer`: reinforcement learning from verifiable rewards, with groups of answers in place of a critic.

Each round: sample a group of answers to each prompt, reward them, turn rewards into advantages within the group, and
update. With one update per rollout the old log-probabilities are the current ones: no forward pass is spent on them.
With more, they are the sampler's own, or those of one forward before the first update, as `old_logprobs` says.
Log-probabilities are taken at the temperature of the sampling.

Taught in: 07_dpo_grpo.
"""

# Shapes: B responses, N response tokens, M response tokens of the longest in the batch.
import torch
from jaxtyping import Float
from torch import Tensor

from llmcore.align.experience import Experience
from llmcore.align.exploration import ExplorationTrainer
from llmcore.align.logprobs import response_logprobs
from llmcore.align.losses.policy import (
    clip_fraction,
    clipped_terms,
    kl_penalty,
    masked_mean,
    token_weights,
    weighted_sum,
)
from llmcore.align.rollout_config import GRPOConfig
from llmcore.train import setup


class GRPOTrainer(ExplorationTrainer):
    """A run: `GRPOTrainer(config, model, rows, reward, tokenizer=..., end_id=...).fit()`; the variant is the config's.

    What rows, rewards and reference may be, `ExplorationTrainer` says.

    Raises: ValueError for rows, rewards or a reference that cannot be used.
    Source: arXiv:2402.03300; variants: see `llmcore.align.losses.VARIANTS`.
    """

    config: GRPOConfig

    def _weights(self, rows: Experience) -> Float[Tensor, "B N"]:
        config = self.config
        learns = rows.response_mask & rows.ended[:, None] if config.mask_truncated else rows.response_mask
        return token_weights(learns, config.published.average, config.max_tokens)

    def _loss(self, rows: Experience, weights: Float[Tensor, "B N"]) -> tuple[Tensor, dict[str, Tensor]]:
        config, mask = self.config, rows.response_mask
        with setup.autocast(config, self.place):
            logp, entropy = response_logprobs(self.model, rows, config.temperature)
        old_logp = logp.detach() if config.updates_per_rollout == 1 else rows.old_logp
        options = dict(zip(("eps_low", "eps_high"), config.clip)) | {"sequence_ratio": config.published.sequence_ratio}
        terms = clipped_terms(logp, old_logp, rows.advantages, mask, **options)
        if config.beta and config.kl_in == "loss":
            terms = terms + config.beta * kl_penalty(logp, rows.ref_logp, config.kl)
        with torch.no_grad():
            figures = {
                "entropy": masked_mean(entropy, mask),
                "clip_fraction": clip_fraction(logp, old_logp, rows.advantages, mask, **options),
            }
            if config.beta:
                figures["kl"] = masked_mean(kl_penalty(logp, rows.ref_logp), mask)
        return weighted_sum(terms, weights), figures
