"""`ModelCache`: what a `Transformer` needs to go on reading: keys and values, and padding or documents if there were any.

The keys and values themselves are kept by `llmcore.attention.KVCache`.

Taught in: 02_attention_scaling.
"""

# Shapes: B batch, T new tokens, S tokens read so far.
import torch
from jaxtyping import Int
from torch import Tensor

from llmcore.attention.cache import KVCache
from llmcore.model.config import ModelConfig


class ModelCache(KVCache):
    """The cache of a model with this config: static (allocated once) with max_tokens, growing without.

    Layers with a sliding window keep what later queries can see. `keep_all` makes them keep every token, so that
    `truncate` can go back any distance.

    >>> ModelCache(ModelConfig(n_layers=1, width=4, n_heads=2, vocab_size=5)).length
    0

    Raises: ValueError for max_tokens below 1.
    """

    def __init__(self, config: ModelConfig, max_tokens: int | None = None, *, keep_all: bool = False) -> None:
        windows = [None if keep_all else config.window_of(layer) for layer in range(config.n_layers)]
        super().__init__(config.n_layers, max_length=max_tokens, window=windows)
        self.doc_ids: Int[Tensor, "B S"] | None = None
        self.next_positions: Int[Tensor, B] | None = None

    def extend(
        self, num_tokens: int, positions: Int[Tensor, "*B T"] | None, doc_ids: Int[Tensor, "B T"] | None
    ) -> tuple[Int[Tensor, "*B T"] | None, Int[Tensor, "B T"] | None, Int[Tensor, "B S"] | None]:
        """(positions, document ids, document ids of all keys) of the next num_tokens, None where they are plain.

        Without doc_ids the last document goes on. The layers append their keys afterwards.

        Raises: ValueError when a static cache is full, or when doc_ids come after tokens that had none.
        """
        if self.max_length is not None and self.length + num_tokens > self.max_length:
            raise ValueError(
                f"the cache holds {self.max_length} tokens and has read {self.length}; {num_tokens} more do not fit, "
                "make it with a larger max_tokens or let it grow with max_tokens=None"
            )
        if doc_ids is not None and self.doc_ids is None and self.length:
            raise ValueError("doc_ids must be given from the first call on; this cache holds tokens without them")
        if doc_ids is None and self.doc_ids is None:
            return positions, None, None
        if doc_ids is None:
            doc_ids = self.doc_ids[:, -1:].expand(-1, num_tokens)
            if positions is None:
                positions = self.next_positions[:, None] + torch.arange(num_tokens, device=doc_ids.device)
        self.doc_ids = doc_ids if self.doc_ids is None else torch.cat((self.doc_ids, doc_ids), dim=1)
        if positions is None:
            positions = restart_positions(self.doc_ids)[:, -num_tokens:]
        self.next_positions = positions[..., -1].expand(len(doc_ids)) + 1
        return positions, doc_ids, self.doc_ids

    def reset(self) -> None:
        """Forget all tokens and keep the buffers for the next text."""
        super().reset()
        self.doc_ids = self.next_positions = None

    def truncate(self, length: int) -> None:
        """Forget the tokens from index `length` on, as after a rejected draft; they must be of the last document.

        Raises: ValueError when length is not in 0..`length`, or a window has dropped what queries there would see.
        """
        dropped = self.length - length
        super().truncate(length)
        if self.doc_ids is not None:
            self.doc_ids, self.next_positions = self.doc_ids[:, :length], self.next_positions - dropped

    def reorder(self, rows: Int[Tensor, "n"]) -> None:
        """Make row i what row `rows[i]` was; rows may repeat, or be more or fewer than before."""
        super().reorder(rows)
        if self.doc_ids is not None:
            self.doc_ids, self.next_positions = self.doc_ids[rows], self.next_positions[rows]


def restart_positions(doc_ids: Int[Tensor, "B T"]) -> Int[Tensor, "B T"]:
    """Positions that restart at 0 wherever the document changes.

    >>> restart_positions(torch.tensor([[-1, 4, 4, 7, 7, 7]])).tolist()
    [[0, 0, 1, 0, 1, 2]]
    """
    index = torch.arange(doc_ids.shape[1], device=doc_ids.device).expand_as(doc_ids)
    starts = torch.ones_like(doc_ids, dtype=torch.bool)
    starts[:, 1:] = doc_ids[:, 1:] != doc_ids[:, :-1]
    return index - torch.where(starts, index, 0).cummax(dim=1).values
