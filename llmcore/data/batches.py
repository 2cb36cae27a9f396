"""Batches from token arrays: `get_batch`, and the sources that the trainer draws from.

A source answers `batch(step, rows)`: these rows of the global batch of that step. Rows depend on the seed, the step and the row
only, so the data order is the same on one device and on many, and resuming needs nothing but the step.
"""

# Shapes: B rows, T context.
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from llmcore.data.packing import IGNORED, document_starts, fill_rows, plan_packing


@dataclass(frozen=True)
class Batch:
    """Tokens and what to predict; None for document ids and positions means one document per row."""

    ids: Int[Tensor, "B T"]
    """Tokens in."""
    targets: Int[Tensor, "B T"]
    """Tokens to predict, -100 where there is nothing to."""
    doc_ids: Int[Tensor, "B T"] | None = None
    """Documents, -1 on padding."""
    positions: Int[Tensor, "B T"] | None = None
    """Places within the documents."""

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "Batch":
        """This batch on another device."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin(self) -> "Batch":
        """This batch in page-locked memory, from which a GPU copies while it computes."""
        return self._map(Tensor.pin_memory)

    def rows(self, first: int, end: int) -> "Batch":
        """The rows first..end - 1."""
        return self._map(lambda tensor: tensor[first:end])

    def _map(self, change) -> "Batch":
        parts = (getattr(self, field.name) for field in fields(self))
        return Batch(*(None if part is None else change(part) for part in parts))


@runtime_checkable
class BatchSource(Protocol):
    """What the trainer asks of its data. `batch` is called once per step, steps in order."""

    def batch(self, step: int, rows: np.ndarray) -> Batch:
        """These rows of the global batch of that step (steps count from 0)."""

    def state(self) -> dict[str, Any]:
        """What `load_state` needs to go on from here; empty when the step says it all."""

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken."""


def get_batch(
    tokens: Any,
    batch_size: int,
    context: int,
    generator: torch.Generator | None = None,
    device: torch.device | str = "cpu",
) -> tuple[Int[Tensor, "B T"], Int[Tensor, "B T"]]:
    """Random windows of a token array and the same windows one token later, as int64 on `device`.

    `tokens` is a NumPy array or memory map, a TokenFile or a 1-D tensor. Every window is equally likely; starts are drawn on the CPU.

    >>> inputs, targets = get_batch(np.arange(100), 2, 5, torch.Generator().manual_seed(0))
    >>> inputs.shape, (targets - inputs).unique().tolist()
    (torch.Size([2, 5]), [1])

    Raises: ValueError when batch_size or context is below 1 or there are not more than `context` tokens.
    """
    if batch_size < 1 or context < 1:
        raise ValueError(f"batch_size and context must be at least 1, got {batch_size} and {context}")
    _need(len(tokens), context)
    starts = torch.randint(len(tokens) - context, (batch_size,), generator=generator)
    windows = _windows(tokens, starts.numpy(), context)
    device = torch.device(device)
    if device.type == "cuda":
        windows = windows.pin_memory()
    windows = windows.to(device, non_blocking=True)
    return windows[:, :-1], windows[:, 1:]


def _need(n_tokens: int, context: int) -> None:
    if n_tokens <= context:
        raise ValueError(
            f"a context of {context} needs at least {context + 1} tokens, got {n_tokens}; use more text or a shorter context"
        )


def _windows(tokens: Any, starts: np.ndarray, context: int) -> Int[Tensor, "B T_plus_1"]:
    places = starts[:, None] + np.arange(context + 1)
    if isinstance(tokens, Tensor):
        return tokens[torch.from_numpy(places)].long()
    return torch.from_numpy(np.asarray(tokens[places]).astype(np.int64))


def batch_of_windows(windows: Int[Tensor, "B T_plus_1"], end_of_text: int | None) -> Batch:
    """Windows cut into inputs and targets; with end_of_text, documents are told apart and the first token of each is not a target.

    >>> batch = batch_of_windows(torch.tensor([[5, 6, 0, 7, 8]]), end_of_text=0)
    >>> batch.targets.tolist(), batch.doc_ids.tolist()
    ([[6, 0, -100, 8]], [[0, 0, 0, 1]])
    """
    ids, targets = windows[:, :-1], windows[:, 1:]
    if end_of_text is None:
        return Batch(ids.contiguous(), targets.contiguous())
    ends = ids == end_of_text
    doc_ids = ends.cumsum(dim=1) - ends.long()
    return Batch(ids.contiguous(), targets.masked_fill(ends, IGNORED), doc_ids)


class WindowSource:
    """Random windows of a token array, drawn anew for every row of every step (with replacement)."""

    def __init__(
        self, tokens: Any, batch_size: int, context: int, *, seed: int = 0, end_of_text: int | None = None
    ) -> None:
        _need(len(tokens), context)
        self.tokens, self.batch_size, self.context = tokens, batch_size, context
        self.seed, self.end_of_text = seed, end_of_text

    def batch(self, step: int, rows: np.ndarray) -> Batch:
        generator = np.random.default_rng((self.seed, step))
        starts = generator.integers(len(self.tokens) - self.context, size=self.batch_size)
        return batch_of_windows(_windows(self.tokens, starts[rows], self.context), self.end_of_text)

    def state(self) -> dict[str, Any]:
        return {}

    def load_state(self, state: dict[str, Any]) -> None:
        pass


class _EpochSource:
    """Rows 0..n_rows - 1 in an order shuffled anew every epoch; each comes once per epoch."""

    def __init__(self, n_rows: int, batch_size: int, seed: int, shuffle: bool) -> None:
        self.n_rows, self.batch_size, self.seed, self.shuffle = n_rows, batch_size, seed, shuffle
        self._epoch, self._order = -1, np.empty(0, dtype=np.int64)

    def indices(self, step: int, rows: np.ndarray) -> np.ndarray:
        """Which of the n_rows the given rows of that step's batch are."""
        return np.array([self._at(step * self.batch_size + int(row)) for row in rows], dtype=np.int64)

    def _at(self, count: int) -> int:
        epoch, place = divmod(count, self.n_rows)
        if not self.shuffle:
            return place
        if epoch != self._epoch:
            self._epoch = epoch
            self._order = np.random.default_rng((self.seed, epoch)).permutation(self.n_rows)
        return int(self._order[place])

    def state(self) -> dict[str, Any]:
        return {}

    def load_state(self, state: dict[str, Any]) -> None:
        pass


class ShuffledSource(_EpochSource):
    """Windows side by side, every token a target once per epoch (the rest that fills no window left out)."""

    def __init__(
        self,
        tokens: Any,
        batch_size: int,
        context: int,
        *,
        seed: int = 0,
        end_of_text: int | None = None,
        shuffle: bool = True,
    ) -> None:
        _need(len(tokens), context)
        super().__init__((len(tokens) - 1) // context, batch_size, seed, shuffle)
        self.tokens, self.context, self.end_of_text = tokens, context, end_of_text

    def batch(self, step: int, rows: np.ndarray) -> Batch:
        starts = self.indices(step, rows) * self.context
        return batch_of_windows(_windows(self.tokens, starts, self.context), self.end_of_text)


class PackedSource(_EpochSource):
    """Whole documents of a token array, packed first-fit into rows; every row comes once per epoch.

    Documents end with `end_of_text`, which is part of them.

    Raises: ValueError for a token array without tokens.
    """

    def __init__(
        self, tokens: Any, batch_size: int, context: int, *, end_of_text: int, seed: int = 0, shuffle: bool = True
    ) -> None:
        if not len(tokens):
            raise ValueError("there are no tokens to pack; is the token file empty?")
        self.tokens, self.context = tokens, context
        self.starts = document_starts(tokens, end_of_text)
        self.plan = plan_packing(np.diff(self.starts), context)
        self._by_row = np.argsort(self.plan.row, kind="stable")
        self._row_ends = np.cumsum(np.bincount(self.plan.row, minlength=self.plan.n_rows))
        super().__init__(self.plan.n_rows, batch_size, seed, shuffle)

    @classmethod
    def from_documents(
        cls,
        documents: Sequence[Sequence[int] | np.ndarray],
        batch_size: int,
        context: int,
        *,
        end_of_text: int,
        seed: int = 0,
    ) -> "PackedSource":
        """A source of documents in memory; end_of_text is added to each."""
        tokens = np.concatenate(
            [np.append(np.asarray(document, dtype=np.int64), end_of_text) for document in documents]
        )
        return cls(tokens, batch_size, context, end_of_text=end_of_text, seed=seed)

    def batch(self, step: int, rows: np.ndarray) -> Batch:
        indices = self.indices(step, rows)
        unique, back = np.unique(indices, return_inverse=True)
        pieces = [piece for row in unique for piece in self._pieces(int(row))]
        packed = fill_rows(self.plan, pieces, self._document, unique, self.context)
        order = torch.from_numpy(back)
        return Batch(packed.ids[order], packed.targets[order], packed.doc_ids[order], packed.positions[order])

    def _pieces(self, row: int) -> np.ndarray:
        return self._by_row[self._row_ends[row - 1] if row else 0 : self._row_ends[row]]

    def _document(self, index: int) -> np.ndarray:
        return np.asarray(self.tokens[self.starts[index] : self.starts[index + 1]])
