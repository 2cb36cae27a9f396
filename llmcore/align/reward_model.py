"""`RewardModel` and `RewardTrainer`: a number for each answer, learned from pairs.

Taught in: 07_dpo_grpo.
"""

# Shapes: B rows, P pairs, T tokens, N response tokens.
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from llmcore.align.base import AlignConfig, AlignTrainer, at_least, rows_of_step
from llmcore.align.chat import ChatTemplate
from llmcore.align.examples import Encoder, Row
from llmcore.align.losses.preference import bradley_terry_loss
from llmcore.align.preference import PairData, evaluate_pairs
from llmcore.align.sequences import Sequences
from llmcore.layers import Linear
from llmcore.model.transformer import Transformer
from llmcore.train import setup


class RewardModel(nn.Module):
    """A language model's body with one number on top of each token, read at a response's last token; it also serves PPO as critic.

    The body is the given model itself, not a copy; its own output head stays unused. The new head starts at zero: every
    reward is 0.

    >>> from llmcore.model import ModelConfig
    >>> model = RewardModel(Transformer(ModelConfig(vocab_size=7, width=8, n_layers=1, n_heads=2)))
    >>> model(Sequences.of([[1, 2]], [[3]])).tolist()
    [0.0]

    Source: InstructGPT, arXiv:2203.02155, section 3.5.
    """

    def __init__(self, body: Transformer) -> None:
        super().__init__()
        self.body = body
        self.score = Linear(body.config.width, 1, bias=False)
        nn.init.zeros_(self.score.weight)
        self.score.to(body.device, body.embedding.weight.dtype)

    @property
    def config(self) -> Any:
        """The body's."""
        return self.body.config

    def forward(self, rows: Sequences) -> Float[Tensor, "B"]:
        """The reward of each row, read at its last token: the end token, where the response has one."""
        last = rows.prompt_lengths + rows.response_lengths - 1
        hidden_BTE = self.body.hidden(rows.ids)
        picked = hidden_BTE[torch.arange(len(rows), device=rows.ids.device), last]
        return self.score(picked)[:, 0].float()

    def values(self, rows: Sequences) -> Float[Tensor, "B N"]:
        """The number at each position that predicts a response token: what is expected before that token; 0 beyond a response's end."""
        hidden_BTE = self.body.hidden(rows.ids)
        mask = rows.response_mask
        before = (rows.response_places - 1).clamp(min=0)[..., None].expand(-1, -1, hidden_BTE.shape[-1])
        return torch.where(mask, self.score(hidden_BTE.gather(1, before))[..., 0].float(), 0)


@dataclass(frozen=True, kw_only=True)
class RewardConfig(AlignConfig):
    """One run of a reward model; batch_size counts pairs.

    Raises: ValueError naming the setting, its value and what to do.
    """

    centre: float = 0.0
    """Weight of (chosen + rejected)^2, which pulls rewards toward 0; their constant is otherwise free."""

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, "centre", 0)


class RewardTrainer(AlignTrainer):
    """A run: `RewardTrainer(config, RewardModel(model), rows, ...).fit()`; rows have "prompt", "chosen" and "rejected".

    A `Transformer` is given a new head here; `trainer.model` is the reward model.

    Raises: ValueError for rows that cannot be used.
    Source: arXiv:2203.02155, eq. 1.
    """

    shown = ("accuracy", "margin")

    def __init__(
        self,
        config: RewardConfig,
        model: RewardModel | Transformer,
        rows: Sequence[Row],
        *,
        tokenizer: Any = None,
        template: ChatTemplate | None = None,
        end_id: int | None = None,
        eval_rows: Sequence[Row] = (),
    ) -> None:
        super().__init__(config, model if isinstance(model, RewardModel) else RewardModel(model))
        encoder = Encoder(tokenizer=tokenizer, template=template, end_id=end_id)
        self.data = PairData(rows, encoder)
        self.eval_data = PairData(eval_rows, encoder) if len(eval_rows) else None

    def _losses(self, number: int) -> Iterator[tuple[Tensor, dict[str, Tensor | float]]]:
        config = self.config
        chosen = rows_of_step(len(self.data), config.batch_size, number - 1, config.seed).tolist()
        for part in self._micro_batches(config.batch_size):
            loss, figures = self._loss(self.data, chosen[part])
            share = len(chosen[part]) / config.batch_size
            yield share * loss, {name: share * value for name, value in figures.items()}

    def _loss(self, data: PairData, rows: list[int]) -> tuple[Tensor, dict[str, Tensor]]:
        pairs = data.sequences(rows).to(self.place.device)
        with setup.autocast(self.config, self.place):
            chosen, rejected = self.model(pairs).chunk(2)
        if torch.is_grad_enabled():
            self.tokens += int((pairs.prompt_lengths + pairs.response_lengths).sum())
        loss = bradley_terry_loss(chosen, rejected, centre=self.config.centre)
        with torch.no_grad():
            figures = {
                "accuracy": (chosen > rejected).float().mean(),
                "margin": (chosen - rejected).mean(),
                "reward_chosen": chosen.mean(),
                "reward_rejected": rejected.mean(),
            }
        return loss, figures

    def _evaluation(self) -> dict[str, float]:
        return evaluate_pairs(self.eval_data, self._loss, self.config.batch_size)
