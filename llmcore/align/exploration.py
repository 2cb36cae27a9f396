"""`ExplorationTrainer`: what GRPO and PPO share: rounds of answers, and updates that learn from them.

Taught in: 07_dpo_grpo.
"""

# Shapes: B responses, N response tokens.
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from llmcore.align.base import AlignTrainer
from llmcore.align.chat import ChatTemplate
from llmcore.align.examples import Encoder, Row, check_rows
from llmcore.align.experience import Experience, Explorer, mean_reward
from llmcore.align.reference import Reference
from llmcore.align.rewards import Reward, RewardParts
from llmcore.align.rollout_config import RolloutConfig
from llmcore.model.transformer import Transformer
from llmcore.train import setup


class ExplorationTrainer(AlignTrainer):
    """Learns from its own answers; a subclass says how, in `_weights` and `_loss`.

    `rows` have a "prompt" and what the reward looks at. `reward` is a function (row, response text) -> float, or a
    mapping of name to function or to (weight, function): their weighted sum is the reward, and each part is logged.
    Without a tokenizer responses are lists of ids. The reference, where beta asks for one, is the model given, else the
    model without its adapters, else a copy of it before training.
    """

    shown = ("reward", "kl", "entropy", "length")
    experience_type: type[Experience] = Experience
    """What `_explore` gives."""

    def __init__(
        self,
        config: RolloutConfig,
        model: Transformer,
        rows: Sequence[Row],
        reward: Reward | Mapping[str, Any],
        *,
        tokenizer: Any = None,
        template: ChatTemplate | None = None,
        end_id: int | None = None,
        reference: Transformer | None = None,
        eval_rows: Sequence[Row] = (),
    ) -> None:
        super().__init__(config, model)
        check_rows(rows, "learning from rewards")
        encoder = Encoder(tokenizer=tokenizer, template=template, end_id=end_id)
        self.explorer = Explorer(config, model, rows, RewardParts(reward), encoder)
        self.eval_rows = eval_rows
        self.given_reference = reference
        self.reference: Reference | None = None
        self._experience: Experience | None = None
        self._figures: dict[str, float] = {}

    def _prepare(self) -> None:
        if self.config.beta > 0:
            self.reference = Reference(self.model, self.given_reference)

    def _losses(self, number: int) -> Iterator[tuple[Tensor, dict[str, Tensor | float]]]:
        config = self.config
        round_number, turn = divmod(number - 1, config.updates_per_rollout)
        if turn == 0:
            with setup.autocast(config, self.place):
                self._experience, self._figures = self._explore(round_number, self._generator(number))
        rows = self._minibatch(round_number, turn)
        self.tokens += int((rows.prompt_lengths + rows.response_lengths).sum())
        weights, figures = self._weights(rows), self._figures
        for part in self._micro_batches(len(rows)):
            some = rows.rows(part)
            loss, found = self._loss(some, weights[part, : some.logp.shape[1]])
            share = len(some) / len(rows)
            yield loss, {name: share * value for name, value in found.items()} | figures
            figures = {}

    def _explore(self, round_number: int, generator: torch.Generator) -> tuple[Experience, dict[str, float]]:
        """What a round's updates learn from, and figures."""
        return self.explorer(round_number, generator, self.reference)

    def _minibatch(self, round_number: int, turn: int) -> Experience:
        """The rows of update `turn` of a rollout; several minibatches are drawn anew for every epoch."""
        config = self.config
        if config.minibatches == 1:
            return self._experience
        epoch, place = divmod(turn, config.minibatches)
        order = np.random.default_rng((config.seed, round_number, epoch)).permutation(len(self._experience))
        chosen = np.sort(order[place * config.batch_size : (place + 1) * config.batch_size])
        return self._experience.rows(torch.from_numpy(chosen).to(self.place.device))

    def _evaluation(self) -> dict[str, float]:
        if not len(self.eval_rows):
            return {}
        explorer = self.explorer
        found = mean_reward(
            self.model, self.eval_rows, explorer.reward, explorer.encoder, max_tokens=self.config.max_tokens
        )
        return {"reward": found}

    def _state(self) -> dict[str, Any]:
        if self.step % self.config.updates_per_rollout == 0:
            return {}
        experience = self._experience.to("cpu")
        return {"experience": experience.as_dict(), "figures": self._figures}

    def _load_state(self, state: dict[str, Any]) -> None:
        if state:
            self._experience = self.experience_type(**state["experience"]).to(self.place.device)
            self._figures = state["figures"]

    def _weights(self, rows: Experience) -> Float[Tensor, "B N"]:
        """The weight of each token of a batch in its loss."""
        raise NotImplementedError

    def _loss(self, rows: Experience, weights: Float[Tensor, "B N"]) -> tuple[Tensor, dict[str, Tensor]]:
        """(loss, mean figures) of a micro-batch, `weights` being its rows of the batch's weights."""
        raise NotImplementedError
