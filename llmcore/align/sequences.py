"""`Sequences`: prompts with their responses, padded on the right, where a causal model needs no mask.

A real token never sees the padding after it, and positions count from 0, so the plain causal forward is right for every
row.
"""

# Shapes: B rows, T tokens of prompt and response, N tokens of the longest response.
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor


@dataclass(frozen=True)
class Sequences:
    """Rows of prompt and response.

    >>> rows = Sequences.of([[5, 6], [7]], [[1], [2, 3]])
    >>> rows.ids.tolist(), rows.response_mask.int().tolist()
    ([[5, 6, 1], [7, 2, 3]], [[1, 0], [1, 1]])
    """

    ids: Int[Tensor, "B T"]
    """Prompt, response, padding."""
    prompt_lengths: Int[Tensor, "B"]
    """Tokens of each prompt, at least 1."""
    response_lengths: Int[Tensor, "B"]
    """Tokens of each response, the end token included; may be 0."""

    @classmethod
    def of(
        cls,
        prompts: Sequence[Sequence[int]],
        responses: Sequence[Sequence[int]],
        *,
        pad_id: int = 0,
        device: torch.device | str = "cpu",
    ) -> "Sequences":
        """Lists of ids as rows.

        Raises: ValueError for no rows, an empty prompt, or lists of different number.
        """
        if not prompts or len(prompts) != len(responses):
            raise ValueError(
                f"there must be as many responses as prompts, at least one, got {len(responses)} and {len(prompts)}"
            )
        for row, prompt in enumerate(prompts):
            if len(prompt) == 0:
                raise ValueError(f"row {row} has an empty prompt; start it with a token that begins every text")
        width = max(len(prompt) + len(response) for prompt, response in zip(prompts, responses))
        ids = [
            [*prompt, *response, *[pad_id] * (width - len(prompt) - len(response))]
            for prompt, response in zip(prompts, responses)
        ]
        lengths = [[len(row) for row in part] for part in (prompts, responses)]
        return cls(*(torch.tensor(values, device=device) for values in (ids, *lengths)))

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def response_mask(self) -> Bool[Tensor, "B N"]:
        """True at the tokens of each response, the first one in column 0."""
        n = int(self.response_lengths.max()) if len(self) else 0
        return torch.arange(n, device=self.ids.device) < self.response_lengths[:, None]

    @property
    def response_places(self) -> Int[Tensor, "B N"]:
        """Columns of `ids` where the response's tokens are; beyond a response's end, any column of the row."""
        n = int(self.response_lengths.max()) if len(self) else 0
        places = self.prompt_lengths[:, None] + torch.arange(n, device=self.ids.device)
        return places.clamp(max=self.ids.shape[1] - 1)

    def responses(self) -> list[list[int]]:
        """The ids of each response."""
        starts, sizes = self.prompt_lengths.tolist(), self.response_lengths.tolist()
        return [row[start : start + size] for row, start, size in zip(self.ids.tolist(), starts, sizes)]

    def rows(self, index: slice | Tensor) -> "Sequences":
        """These rows, cut to the longest among them."""
        parts: dict[str, Any] = {field.name: getattr(self, field.name)[index] for field in fields(self)}
        lengths = parts["prompt_lengths"] + parts["response_lengths"]
        if len(lengths):
            parts["ids"] = parts["ids"][:, : int(lengths.max())]
        longest = int(parts["response_lengths"].max()) if len(lengths) else 0
        for name, value in parts.items():
            if name != "ids" and value.ndim == 2:
                parts[name] = value[:, :longest]
        return type(self)(**parts)

    def as_dict(self) -> dict[str, Tensor]:
        """The fields by name, from which the same rows can be made."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def to(self, device: torch.device | str) -> "Sequences":
        """The same rows on another device."""
        return type(self)(**{name: value.to(device) for name, value in self.as_dict().items()})

    @classmethod
    def join(cls, parts: Sequence["Sequences"], pad_id: int = 0) -> "Sequences":
        """All rows of all parts, padded to the longest."""
        joined = {}
        for field in fields(cls):
            values = [getattr(part, field.name) for part in parts]
            if values[0].ndim == 2:
                width = max(value.shape[1] for value in values)
                fill = pad_id if field.name == "ids" else 0
                values = [torch.nn.functional.pad(value, (0, width - value.shape[1]), value=fill) for value in values]
            joined[field.name] = torch.cat(values)
        return cls(**joined)
