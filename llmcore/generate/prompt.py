"""`Prompt`: token ids however they come, as one tensor padded on the left."""

# Shapes: B batch, T prompt tokens.
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor

PromptIds = Tensor | Sequence[int] | Sequence[Sequence[int]]


@dataclass(frozen=True)
class Prompt:
    """A batch of prompts, and the form in which they came."""

    ids: Int[Tensor, "B T"]
    real: Bool[Tensor, "B T"] | None
    """False at padding, which is on the left; None when there is none."""
    form: str
    """tensor (B, T), row (T,), list (one list of ids) or lists."""

    @classmethod
    def of(cls, ids: PromptIds, device: torch.device | str = "cpu") -> "Prompt":
        """The prompt of a tensor (T,) or (B, T), a list of ids, or lists of ids of any lengths.

        >>> Prompt.of([[5, 6, 7], [8]]).ids.tolist()
        [[5, 6, 7], [0, 0, 8]]

        Raises: ValueError for no prompts, an empty prompt, or ids that are not integers.
        """
        if isinstance(ids, Tensor):
            if ids.ndim not in (1, 2) or ids.is_floating_point() or ids.numel() == 0:
                raise ValueError(
                    f"ids must be integers (T,) or (B, T) with at least one token, got {ids.dtype} {tuple(ids.shape)}; "
                    "start from the model's first token when there is no prompt"
                )
            return cls(ids.to(device).reshape(-1, ids.shape[-1]), None, "row" if ids.ndim == 1 else "tensor")
        rows = [ids] if ids and isinstance(ids[0], int) else ids
        if not rows or any(len(row) == 0 for row in rows):
            raise ValueError(
                "every prompt must have at least one token; start from the model's first token when there is none"
            )
        longest = max(len(row) for row in rows)
        padded = torch.tensor([[0] * (longest - len(row)) + list(row) for row in rows], device=device)
        lengths = torch.tensor([len(row) for row in rows], device=device)
        real = torch.arange(longest, device=device) >= longest - lengths[:, None]
        return cls(padded, None if bool(real.all()) else real, "list" if rows is not ids else "lists")

    def with_padding(self, real: Bool[Tensor, "B T"] | None) -> "Prompt":
        """The same prompt, told where its padding is.

        Raises: ValueError when `real` has another shape, or padding is not on the left.
        """
        if real is None:
            return self
        real = real.to(self.ids.device).reshape(-1, real.shape[-1]).bool()
        if real.shape != self.ids.shape:
            raise ValueError(f"prompt_mask must have the shape of ids {tuple(self.ids.shape)}, got {tuple(real.shape)}")
        if bool((real.long().diff(dim=1) < 0).any()) or not bool(real[:, -1].all()):
            raise ValueError(
                "padding must be on the left of every prompt: prompt_mask must be False, then True to the end"
            )
        return Prompt(self.ids, None if bool(real.all()) else real, self.form)

    def hand_back(self, new: Int[Tensor, "B N"], lengths: Int[Tensor, "B"]) -> Tensor | list:
        """Prompt and continuation in the form in which the prompt came; lists end where each row ended."""
        whole = torch.cat((self.ids, new), dim=1)
        if self.form in ("tensor", "row"):
            return whole[0] if self.form == "row" else whole
        width = self.ids.shape[1]
        starts = [0] * len(whole) if self.real is None else (width - self.real.sum(dim=1)).tolist()
        rows = [row[start : width + n].tolist() for row, start, n in zip(whole, starts, lengths.tolist(), strict=True)]
        return rows[0] if self.form == "list" else rows
