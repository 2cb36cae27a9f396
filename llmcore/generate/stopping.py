"""When a row is finished: at a stop id, or once its new text holds a stop string."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Int
from torch import Tensor

Stop = int | str | Sequence[int | str] | None


@runtime_checkable
class Decodes(Protocol):
    """What stop strings need of a tokenizer."""

    def decode(self, ids: list[int]) -> str:
        """Text of the ids."""
        ...


class StopRule:
    """Stop ids and stop strings; strings need a tokenizer.

    Raises: ValueError for a stop string without a tokenizer, or an empty one.
    """

    def __init__(self, stop: Stop = None, tokenizer: Decodes | None = None) -> None:
        items = [] if stop is None else [stop] if isinstance(stop, int | str) else list(stop)
        self.ids = [item for item in items if not isinstance(item, str)]
        self.strings = [item for item in items if isinstance(item, str)]
        self.tokenizer = tokenizer
        if self.strings and tokenizer is None:
            raise ValueError(f"stop strings such as {self.strings[0]!r} need tokenizer=...; or pass the ids to stop at")
        if any(not string for string in self.strings):
            raise ValueError("a stop string must have at least one character")
        self._id_tensor = torch.tensor(self.ids, dtype=torch.long)
        # A token is at least one byte and a character at most four, so a string ending here began within these tokens.
        self._tail_tokens = max((4 * len(string) for string in self.strings), default=0) + 4

    @property
    def pad_id(self) -> int:
        """What fills a finished row: the first stop id, else 0."""
        return self.ids[0] if self.ids else 0

    def hits(self, token: Int[Tensor, "B"], new: Int[Tensor, "B N"]) -> Bool[Tensor, "B"]:
        """Which rows end with this token; `new` holds the row's new tokens, this one last."""
        if self.ids:
            done = torch.isin(token, self._id_tensor.to(token.device))
        else:
            done = torch.zeros_like(token, dtype=torch.bool)
        if self.strings:
            texts = [self.tokenizer.decode(row) for row in new[:, -self._tail_tokens :].tolist()]
            found = [any(string in text for string in self.strings) for text in texts]
            done = done | torch.tensor(found, device=token.device)
        return done
