"""`LoraConfig`: what an adapter is, stated once."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any


@dataclass(frozen=True, kw_only=True)
class LoraConfig:
    """An adapter: its rank, its strength, and the layers it stands in.

    >>> LoraConfig(rank=4, alpha=8).scale, LoraConfig(rank=4, alpha=8, rank_stabilized=True).scale
    (2.0, 4.0)

    Raises: ValueError naming the field, its value and what to do.
    Source: LoRA, arXiv:2106.09685; rank-stabilized, arXiv:2312.03732; DoRA, arXiv:2402.09353.
    """

    rank: int = 8
    """Inner width r of the update B @ A, at least 1."""
    alpha: int | float = 16.0
    """The update is multiplied by alpha / rank, or alpha / sqrt(rank) when rank_stabilized."""
    targets: str | list[str] | tuple[str, ...] = ("q_proj", "v_proj")
    """Layers by name: "q_proj", "attention.*", "blocks.[0-3].ffn.up_proj", "re:..." or "all-linear"; see `inject`."""
    dropout: int | float = 0.0
    """Share of the update's inputs that training sets to 0."""
    rank_stabilized: bool = False
    """Scale by alpha / sqrt(rank), which keeps the update's size as the rank grows."""
    dora: bool = False
    """Learn each output's magnitude apart from its direction."""

    def __post_init__(self) -> None:
        if isinstance(self.targets, list):
            object.__setattr__(self, "targets", tuple(self.targets))
        check_adapter(self.rank, self.alpha, self.dropout)

    @property
    def scale(self) -> float:
        """What the update is multiplied by."""
        return update_scale(self.rank, self.alpha, self.rank_stabilized)

    def to_dict(self) -> dict[str, Any]:
        """Plain values that JSON can hold and `from_dict` reads back."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "LoraConfig":
        """The config with these fields, defaults for the others.

        Raises: ValueError for a field that there is not, or a bad value.
        """
        known = [item.name for item in fields(cls)]
        unknown = sorted(set(values) - set(known))
        if unknown:
            raise ValueError(f"there is no LoRA setting {unknown[0]!r}; there are {', '.join(known)}")
        return cls(**values)


def check_adapter(rank: int, alpha: int | float, dropout: int | float) -> None:
    """Raise ValueError for a rank below 1, an alpha that is not positive and finite, or a dropout outside [0, 1)."""
    if not isinstance(rank, int) or isinstance(rank, bool) or rank < 1:
        raise ValueError(
            f"rank must be a whole number of at least 1, got {rank!r}; to train without LoRA, do not add it"
        )
    if not (alpha > 0 and math.isfinite(alpha)):
        raise ValueError(f"alpha must be positive, got {alpha}; twice the rank is a common start")
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout must be in [0, 1), got {dropout}")


def update_scale(rank: int, alpha: int | float, rank_stabilized: bool) -> float:
    """alpha / rank, or alpha / sqrt(rank).

    Source: A Rank Stabilization Scaling Factor for Fine-Tuning with LoRA, arXiv:2312.03732, theorem 3.2.
    """
    return alpha / (math.sqrt(rank) if rank_stabilized else rank)
