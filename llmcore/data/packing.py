"""Packing: many documents of different length in few rows of one length, told apart by document ids.

First fit: each document goes into the first row that has room. A document longer than a row is cut into rows of its own and a rest.
Every token of every document lands in exactly one place; the label of a token is the next token of its own document, also across a
cut, so that every token but each document's first is predicted exactly once.
"""

# Shapes: N rows, T context.
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

IGNORED = -100
PADDING = -1


@dataclass(frozen=True)
class PackedRows:
    """Rows ready for `Transformer(ids, positions, doc_ids)` and a loss that ignores -100."""

    ids: Int[Tensor, "N T"]
    """Tokens; the pad id where there is none."""
    targets: Int[Tensor, "N T"]
    """The next token of the same document; -100 after its last token and on padding."""
    doc_ids: Int[Tensor, "N T"]
    """Index of the document in the list that was packed; -1 on padding."""
    positions: Int[Tensor, "N T"]
    """Place within the document's piece, from 0."""

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class PackingPlan:
    """Where each piece of each document goes; entry i of every array is about piece i."""

    document: np.ndarray
    """Index of the document."""
    start: np.ndarray
    """Place of the piece's first token in its document."""
    length: np.ndarray
    """Tokens in the piece."""
    row: np.ndarray
    """Row that it goes to."""
    column: np.ndarray
    """Column of its first token in that row."""
    n_rows: int
    """Rows in use."""


def plan_packing(lengths: Sequence[int] | np.ndarray, context: int) -> PackingPlan:
    """Where first-fit packing puts documents of these lengths, in O(n log n).

    >>> plan = plan_packing([3, 4, 2, 1], context=5)
    >>> plan.row.tolist(), plan.column.tolist(), plan.n_rows
    ([0, 1, 0, 1], [0, 0, 3, 4], 2)

    Raises: ValueError for a context below 1 or a negative length.
    """
    if context < 1:
        raise ValueError(f"context must be at least 1, got {context}")
    lengths = np.asarray(lengths, dtype=np.int64)
    if lengths.size and lengths.min() < 0:
        raise ValueError(f"lengths must not be negative, got {lengths.min()}")
    pieces = np.ceil(lengths / context).astype(np.int64)
    document = np.repeat(np.arange(len(lengths)), pieces)
    first_piece = np.repeat(np.cumsum(pieces) - pieces, pieces)
    start = (np.arange(len(document)) - first_piece) * context
    length = np.minimum(lengths[document] - start, context)
    row, column = np.empty_like(length), np.empty_like(length)
    rooms = _Rooms(len(length), context)
    for piece, size in enumerate(length.tolist()):
        row[piece], column[piece] = rooms.place(size)
    return PackingPlan(document, start, length, row, column, rooms.opened)


class _Rooms:
    """The room left in each row, in a tree whose every node knows the largest room below it."""

    def __init__(self, most_rows: int, context: int) -> None:
        self.context = context
        self.leaves = 1 << max(0, most_rows - 1).bit_length()
        self.room = [context] * (2 * self.leaves)
        self.opened = 0

    def place(self, size: int) -> tuple[int, int]:
        """(row, column) for a piece of that size in the first row with room."""
        room, node = self.room, 1
        while node < self.leaves:
            node = 2 * node if room[2 * node] >= size else 2 * node + 1
        row, column = node - self.leaves, self.context - room[node]
        self.opened = max(self.opened, row + 1)
        room[node] -= size
        while node > 1:
            node //= 2
            room[node] = max(room[2 * node], room[2 * node + 1])
        return row, column


def pack_documents(documents: Sequence[Sequence[int] | np.ndarray], context: int, *, pad_id: int = 0) -> PackedRows:
    """The documents packed first-fit into rows of `context` tokens; empty documents take no room.

    >>> rows = pack_documents([[1, 2, 3], [4, 5, 6, 7], [8, 9]], context=5)
    >>> rows.ids.tolist()
    [[1, 2, 3, 8, 9], [4, 5, 6, 7, 0]]
    >>> rows.targets.tolist()
    [[2, 3, -100, 9, -100], [5, 6, 7, -100, -100]]
    >>> rows.doc_ids.tolist()
    [[0, 0, 0, 2, 2], [1, 1, 1, 1, -1]]

    Raises: ValueError for a context below 1.
    Source: packing without contamination, arXiv:2107.02027.
    """
    arrays = [np.asarray(document, dtype=np.int64) for document in documents]
    plan = plan_packing([len(array) for array in arrays], context)
    pieces = range(len(plan.row))
    return fill_rows(plan, pieces, lambda index: arrays[index], np.arange(plan.n_rows), context, pad_id)


def fill_rows(plan: PackingPlan, pieces, document_of, rows: np.ndarray, context: int, pad_id: int = 0) -> PackedRows:
    """The given rows of a plan; `pieces` are those that lie in them and `document_of(index)` gives a document's ids."""
    shape = (len(rows), context)
    ids, targets = np.full(shape, pad_id, dtype=np.int64), np.full(shape, IGNORED, dtype=np.int64)
    doc_ids, positions = np.full(shape, PADDING, dtype=np.int64), np.zeros(shape, dtype=np.int64)
    place_of = {int(row): place for place, row in enumerate(rows)}
    for piece in pieces:
        start, size, column = int(plan.start[piece]), int(plan.length[piece]), int(plan.column[piece])
        place, span = place_of[int(plan.row[piece])], slice(column, column + size)
        document = document_of(int(plan.document[piece]))
        ids[place, span] = document[start : start + size]
        following = document[start + 1 : start + size + 1]
        targets[place, column : column + len(following)] = following
        doc_ids[place, span] = plan.document[piece]
        positions[place, span] = np.arange(size)
    return PackedRows(*(torch.from_numpy(array) for array in (ids, targets, doc_ids, positions)))


def document_starts(tokens: np.ndarray, end_of_text: int) -> np.ndarray:
    """Where each document of a token array starts, and the array's length last; a document includes its end-of-text token.

    >>> document_starts(np.array([5, 6, 0, 7, 0, 8]), end_of_text=0).tolist()
    [0, 3, 5, 6]
    """
    ends = np.concatenate(
        [
            np.flatnonzero(np.asarray(tokens[at : at + (1 << 24)]) == end_of_text) + at + 1
            for at in range(0, len(tokens), 1 << 24)
        ]
        or [np.empty(0, dtype=np.int64)]
    )
    bounds = np.concatenate(([0], ends))
    return bounds if len(bounds) > 1 and bounds[-1] == len(tokens) else np.append(bounds, len(tokens))
