"""`QLoRALinear`: a frozen 4-bit layer with a low-rank update in float."""

import torch
from torch import nn

from llmcore.lora.layers import LoraLinear
from llmcore.quantize.linear import Nf4Linear
from llmcore.quantize.nf4 import BLOCK


class QLoRALinear(LoraLinear):
    """A layer whose weight is stored in NF4, with double-quantized scales, and whose update B A learns in float32.

    The forward and the backward pass make the weight float for the length of one product; its gradient is never formed.
    Quantizing a whole model is `quantize_model` followed by `llmcore.lora.inject`.

    >>> layer = QLoRALinear(nn.Linear(64, 32), r=2, alpha=4)
    >>> layer.base.weight_bytes, sum(p.numel() for p in layer.parameters() if p.requires_grad)
    (1064, 192)

    Raises: ValueError as `LoraLinear` does, for a block below 1, and for weights that are not finite.
    Source: QLoRA, arXiv:2305.14314, equation 5.  Taught in: 06_lora.
    """

    def __init__(
        self,
        linear: nn.Linear,
        r: int = 8,
        alpha: int | float = 16.0,
        dropout: int | float = 0.0,
        rank_stabilized: bool = False,
        *,
        dora: bool = False,
        block: int = BLOCK,
        double: bool = True,
        generator: torch.Generator | None = None,
    ) -> None:
        if not isinstance(linear, nn.Linear):
            raise ValueError(f"QLoRALinear quantizes a torch Linear, got {type(linear).__name__}")
        base = Nf4Linear.from_linear(linear, block=block, double=double)
        super().__init__(base, r, alpha, dropout, rank_stabilized, dora=dora, generator=generator)
