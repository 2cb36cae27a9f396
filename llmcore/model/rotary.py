"""`Rotary`: the cosines and sines of one forward, from the config's base, fraction and scaling.

Taught in: 04_rope.
"""

# Shapes: B batch, T time, R rotated pairs.
from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from llmcore.model.config import ModelConfig
from llmcore.positions import angles_at, rope_attention_factor, rope_frequencies


class Rotary(nn.Module):
    """Holds RoPE's frequencies beside the model: they follow its device, but stay float32 whatever its dtype.

    Dynamic scaling depends on the longest position of each call, so a text beyond the original context is rotated
    otherwise when read at once than when read token by token; every other scaling is the same either way.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.dim, self.base, self.scaling = config.rotary_dim, config.rope_base, config.rope_scaling
        self.factor = rope_attention_factor(config.rope_scaling)
        self.register_buffer("inv_freq", rope_frequencies(self.dim, self.base, self.scaling), persistent=False)

    def forward(self, positions: Int[Tensor, "*B T"]) -> tuple[Float[Tensor, "... T R"], Float[Tensor, "... T R"]]:
        """(cos, sin), float32: (T, R) for shared positions, (B, 1, T, R) for positions of each row."""
        inv_freq = self.inv_freq
        if self.scaling is not None and self.scaling.kind == "dynamic":
            inv_freq = rope_frequencies(self.dim, self.base, self.scaling, int(positions.max()) + 1)
        angles = angles_at(positions, inv_freq)
        if positions.ndim == 2:
            angles = angles[:, None]
        cos, sin = angles.cos(), angles.sin()
        return (cos, sin) if self.factor == 1 else (cos * self.factor, sin * self.factor)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Rotary":
        """`model.to(torch.bfloat16)` must not round the frequencies: take the new device and nothing else."""
        device = fn(torch.empty(0, device=self.inv_freq.device)).device
        self.inv_freq = rope_frequencies(self.dim, self.base, self.scaling).to(device)
        return self
