"""`SFTTrainer`: learn answers from examples; only the answers' tokens are learned, and packed rows see themselves alone.

It is a `llmcore.train.Trainer` whose source is a list of examples: devices, precisions, checkpoints and exact resuming
are the trainer's.

Taught in: 07_dpo_grpo.
"""

# Shapes: N rows, T context.
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch

from llmcore.align.base import rows_of_step
from llmcore.align.chat import ChatTemplate
from llmcore.align.examples import Encoder, Row, check_rows, read_field
from llmcore.data.batches import Batch
from llmcore.data.packing import IGNORED, PackedRows, pack_documents
from llmcore.model.transformer import Transformer
from llmcore.train.config import TrainConfig
from llmcore.train.trainer import Trainer


class SFTTrainer(Trainer):
    """A run: `SFTTrainer(config, model, rows, tokenizer=..., end_id=...).fit()`; config.context is the length of a packed row.

    A row has "prompt" and "response", or, with a chat template, "messages"; then all answers of the assistant are
    learned. An epoch goes through all packed rows once, in an order drawn anew. With packed=False every example has a
    row of its own.

    Raises: ValueError for a row without its field, naming both, one longer than the context (unless too_long is
        "drop"), or data that teaches no token at all.
    Source: packing without contamination, arXiv:2107.02027.
    """

    def __init__(
        self,
        config: TrainConfig,
        model: Transformer,
        rows: Sequence[Row],
        *,
        tokenizer: Any = None,
        template: ChatTemplate | None = None,
        end_id: int | None = None,
        eval_rows: Sequence[Row] = (),
        packed: bool = True,
        too_long: Literal["refuse", "drop"] = "refuse",
    ) -> None:
        encoder = Encoder(tokenizer=tokenizer, template=template, end_id=end_id)
        options = {"context": config.context, "packed": packed, "too_long": too_long}
        source = ExampleSource(rows, encoder, batch_size=config.batch_size, seed=config.seed, **options)
        eval_source = ExampleSource(eval_rows, encoder, **options) if len(eval_rows) else None
        super().__init__(config, model, tokenizer=tokenizer, source=source, eval_source=eval_source)


class ExampleSource:
    """Packed examples, shuffled anew every epoch; without batch_size in their order, as evaluation wants them.

    Raises: ValueError as `SFTTrainer`.
    """

    def __init__(
        self,
        rows: Sequence[Row],
        encoder: Encoder,
        *,
        context: int,
        batch_size: int | None = None,
        seed: int = 0,
        packed: bool = True,
        too_long: Literal["refuse", "drop"] = "refuse",
    ) -> None:
        check_rows(rows, "supervised fine-tuning")
        if too_long not in ("refuse", "drop"):
            raise ValueError(f"too_long must be refuse or drop, got {too_long!r}")
        examples = []
        for number, row in enumerate(rows):
            ids, mask = encode_example(encoder, row, number)
            if len(ids) <= context:
                examples.append((ids, mask))
            elif too_long == "refuse":
                raise ValueError(
                    f"row {number} has {len(ids)} tokens and a row holds context={context}; shorten it, raise the context, "
                    'or leave such rows out with too_long="drop"'
                )
        if not any(any(mask[1:]) for _, mask in examples):
            raise ValueError("no token to learn: every answer is empty, or every row was too long")
        self.packed = pack_examples(examples, context, packed=packed)
        self.batch_size, self.seed = batch_size, seed
        self.n_rows = len(self.packed)

    def batch(self, step: int, rows: np.ndarray) -> Batch:
        """These rows of the batch of a step; in order, these rows of all."""
        if self.batch_size is not None:
            rows = rows_of_step(self.n_rows, self.batch_size, step, self.seed)[rows]
        index, packed = torch.from_numpy(np.asarray(rows)), self.packed
        return Batch(packed.ids[index], packed.targets[index], packed.doc_ids[index], packed.positions[index])

    def state(self) -> dict[str, Any]:
        """Nothing: the step says it all."""
        return {}

    def load_state(self, state: dict[str, Any]) -> None:
        """Nothing to do."""


def encode_example(encoder: Encoder, row: Row, number: int) -> tuple[list[int], list[bool]]:
    """(ids, mask) of one example, the mask True at the tokens to learn.

    Raises: ValueError naming the row and the field.
    """
    if encoder.template is not None and isinstance(row.get("messages"), (list, tuple)):
        try:
            return encoder.template.encode(encoder.tokenizer, read_field(row, number, "messages"))
        except ValueError as error:
            raise ValueError(f"row {number}, field 'messages': {error}") from None
    prompt, response = encoder.prompt(row, number), encoder.response(row, number)
    return prompt + response, [False] * len(prompt) + [True] * len(response)


def pack_examples(
    examples: Sequence[tuple[list[int], list[bool]]], context: int, *, packed: bool = True, pad_id: int = 0
) -> PackedRows:
    """Examples (ids, mask) first-fit into rows of `context` tokens; targets are -100 wherever the next token is not to be learned.

    >>> rows = pack_examples([([5, 6, 7], [False, True, True]), ([8, 9], [False, True])], context=6)
    >>> rows.targets.tolist()
    [[6, 7, -100, 9, -100, -100]]
    >>> rows.doc_ids.tolist()
    [[0, 0, 0, 1, 1, -1]]
    """
    documents = [ids for ids, _ in examples]
    if packed:
        rows = pack_documents(documents, context, pad_id=pad_id)
    else:
        rows = _one_by_one(documents, context, pad_id)
    starts = np.cumsum([0, *map(len, documents)])[:-1]
    learned = torch.tensor([counts for _, mask in examples for counts in (*mask[1:], False)])
    place = torch.from_numpy(starts)[rows.doc_ids.clamp(min=0)] + rows.positions
    keep = learned[place.clamp(max=len(learned) - 1)] & (rows.doc_ids >= 0)
    return PackedRows(rows.ids, rows.targets.masked_fill(~keep, IGNORED), rows.doc_ids, rows.positions)


def _one_by_one(documents: Sequence[list[int]], context: int, pad_id: int) -> PackedRows:
    rows = [pack_documents([document], context, pad_id=pad_id) for document in documents]
    doc_ids = [row.doc_ids + torch.where(row.doc_ids >= 0, number, 0) for number, row in enumerate(rows)]
    return PackedRows(
        torch.cat([row.ids for row in rows]),
        torch.cat([row.targets for row in rows]),
        torch.cat(doc_ids),
        torch.cat([row.positions for row in rows]),
    )
