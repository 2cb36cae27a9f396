"""`DPOTrainer`: learn from pairs of answers, one preferred to the other, without a reward model.

Chosen and rejected responses of a batch go through the model together. The reference's log-probabilities are found
beside them at each step, or once for all pairs before the first.

Taught in: 07_dpo_grpo.
"""

# Shapes: P pairs, N response tokens.
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from llmcore.align.base import AlignConfig, AlignTrainer, at_least, rows_of_step
from llmcore.align.chat import ChatTemplate
from llmcore.align.examples import Encoder, Row, check_rows
from llmcore.align.logprobs import response_logprobs
from llmcore.align.losses.preference import dpo_loss, ipo_loss, response_nll
from llmcore.align.reference import Reference
from llmcore.align.sequences import Sequences
from llmcore.model.transformer import Transformer
from llmcore.train import setup


@dataclass(frozen=True, kw_only=True)
class DPOConfig(AlignConfig):
    """One run of DPO or IPO; batch_size counts pairs.

    Raises: ValueError naming the setting, its value and what to do.
    """

    loss: Literal["dpo", "ipo"] = "dpo"
    """dpo: log sigmoid of the margin; ipo: its squared distance from 1 / (2 beta), log-probabilities averaged over tokens."""
    beta: float = 0.1
    """How firmly the policy is tied to the reference."""
    label_smoothing: float = 0.0
    """Share of labels believed to be wrong; dpo only."""
    nll_weight: float = 0.0
    """Weight of the chosen answers' negative log-likelihood per token, which keeps them likely."""
    reference: Literal["each step", "once"] = "each step"
    """When the reference's log-probabilities are found; once pays when there are several epochs."""

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, "nll_weight", 0)
        if not self.beta > 0:
            raise ValueError(f"beta must be positive, got {self.beta}")
        if not 0 <= self.label_smoothing <= 0.5:
            raise ValueError(f"label_smoothing must be in [0, 0.5], got {self.label_smoothing}")
        if self.label_smoothing and self.loss == "ipo":
            raise ValueError("label_smoothing belongs to loss='dpo'; leave it out for ipo")


class PairData:
    """Rows with "prompt", "chosen" and "rejected", as ids.

    Raises: ValueError naming the row and field that are missing, or a pair whose two answers are the same.
    """

    def __init__(self, rows: Sequence[Row], encoder: Encoder) -> None:
        check_rows(rows, "learning from pairs")
        self.prompts, self.chosen, self.rejected = [], [], []
        for number, row in enumerate(rows):
            self.prompts.append(encoder.prompt(row, number))
            self.chosen.append(encoder.response(row, number, "chosen"))
            self.rejected.append(encoder.response(row, number, "rejected"))
            if self.chosen[-1] == self.rejected[-1]:
                raise ValueError(
                    f"row {number}: chosen and rejected are the same, so nothing is preferred; leave it out"
                )

    def __len__(self) -> int:
        return len(self.prompts)

    def sequences(self, chosen: Sequence[int]) -> Sequences:
        """The chosen answers of these rows, then the rejected ones."""
        prompts = [self.prompts[index] for index in chosen]
        responses = [self.chosen[index] for index in chosen] + [self.rejected[index] for index in chosen]
        return Sequences.of(prompts * 2, responses)


class DPOTrainer(AlignTrainer):
    """A run: `DPOTrainer(config, model, rows, tokenizer=..., end_id=...).fit()`; rows have "prompt", "chosen" and "rejected".

    Figures: loss, accuracy and margin of the implicit rewards, and the log-probabilities of both answers, summed over
    their tokens.

    Raises: ValueError for rows or a reference that cannot be used.
    Source: arXiv:2305.18290; IPO, arXiv:2310.12036; the NLL term, arXiv:2404.19733.
    """

    shown = ("accuracy", "margin", "logp_chosen", "logp_rejected")

    def __init__(
        self,
        config: DPOConfig,
        model: Transformer,
        rows: Sequence[Row],
        *,
        tokenizer: Any = None,
        template: ChatTemplate | None = None,
        end_id: int | None = None,
        reference: Transformer | None = None,
        eval_rows: Sequence[Row] = (),
    ) -> None:
        super().__init__(config, model)
        encoder = Encoder(tokenizer=tokenizer, template=template, end_id=end_id)
        self.data = PairData(rows, encoder)
        self.eval_data = PairData(eval_rows, encoder) if len(eval_rows) else None
        self.given_reference = reference
        self.known: Float[Tensor, "P 2"] | None = None

    def _prepare(self) -> None:
        self.reference = Reference(self.model, self.given_reference)
        if self.config.reference == "once":
            size = self.config.micro_batch or self.config.batch_size
            with setup.autocast(self.config, self.place):
                found = [self._reference_sums(self._pairs(self.data, part)) for part in in_order(len(self.data), size)]
            self.known = torch.cat(found, dim=1)

    def _losses(self, number: int) -> Iterator[tuple[Tensor, dict[str, Tensor | float]]]:
        config = self.config
        chosen = rows_of_step(len(self.data), config.batch_size, number - 1, config.seed).tolist()
        for part in self._micro_batches(config.batch_size):
            rows = chosen[part]
            loss, figures = self._loss(self.data, rows)
            share = len(rows) / config.batch_size
            yield share * loss, {name: share * value for name, value in figures.items()}

    def _loss(self, data: PairData, rows: list[int]) -> tuple[Tensor, dict[str, Tensor]]:
        """(mean loss, mean figures) of these pairs."""
        config = self.config
        pairs = self._pairs(data, rows)
        with setup.autocast(config, self.place):
            logp = response_logprobs(self.model, pairs)[0].sum(dim=1)
            is_known = self.known is not None and data is self.data
            ref = self.known[:, rows] if is_known else self._reference_sums(pairs)
        if torch.is_grad_enabled():
            self.tokens += int((pairs.prompt_lengths + pairs.response_lengths).sum())
        pi_chosen, pi_rejected = logp.chunk(2)
        lengths = pairs.response_lengths.view(2, -1)
        if config.loss == "ipo":
            scaled = [x / n.clamp(min=1) for x, n in zip((pi_chosen, pi_rejected, *ref), (*lengths, *lengths))]
            loss, reward_chosen, reward_rejected = ipo_loss(*scaled, beta=config.beta)
        else:
            loss, reward_chosen, reward_rejected = dpo_loss(
                pi_chosen, pi_rejected, *ref, config.beta, config.label_smoothing
            )
        if config.nll_weight:
            loss = loss + config.nll_weight * response_nll(pi_chosen, lengths[0])
        margin = reward_chosen - reward_rejected
        figures = {
            "accuracy": (margin > 0).float().mean(),
            "margin": margin.mean(),
            "reward_chosen": reward_chosen.mean(),
            "reward_rejected": reward_rejected.mean(),
            "logp_chosen": pi_chosen.detach().mean(),
            "logp_rejected": pi_rejected.detach().mean(),
        }
        return loss, figures

    def _pairs(self, data: PairData, rows: list[int]) -> Sequences:
        return data.sequences(rows).to(self.place.device)

    def _reference_sums(self, pairs: Sequences) -> Float[Tensor, "2 P"]:
        """The reference's log-probabilities of whole responses: the chosen ones, then the rejected."""
        return self.reference.logprobs(pairs).sum(dim=1).view(2, -1)

    def _evaluation(self) -> dict[str, float]:
        return evaluate_pairs(self.eval_data, self._loss, self.config.batch_size)


def in_order(total: int, size: int) -> Iterator[list[int]]:
    """The indices below `total`, `size` at a time."""
    for start in range(0, total, size):
        yield list(range(start, min(start + size, total)))


@torch.no_grad()
def evaluate_pairs(
    data: PairData | None, loss_of: Callable[[PairData, list[int]], tuple[Tensor, dict[str, Tensor]]], size: int
) -> dict[str, float]:
    """Mean loss and figures over all pairs; none when there are no pairs."""
    totals: dict[str, float] = {}
    for rows in in_order(0 if data is None else len(data), size):
        loss, figures = loss_of(data, rows)
        for name, value in {"loss": loss, **figures}.items():
            totals[name] = totals.get(name, 0.0) + len(rows) / len(data) * float(value)
    return totals
