"""The plain layers of a Transformer: Linear and Embedding (PyTorch's own) and the feed-forward networks.

Taught in: 02_attention_scaling (where they stand in a block), 03_norms (how they start).
"""

from collections.abc import Callable
from typing import Literal

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

Linear = nn.Linear
Embedding = nn.Embedding

FfnKind = Literal["relu", "relu2", "gelu", "gelu_tanh", "silu", "reglu", "swiglu", "geglu", "geglu_tanh"]


def relu2(x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """max(x, 0)^2.

    >>> import torch
    >>> relu2(torch.tensor([-1.0, 3.0])).tolist()
    [0.0, 9.0]

    Source: Primer, arXiv:2109.08668.
    """
    return F.relu(x).square()


def gelu_tanh(x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """GELU by its tanh approximation, as GPT-2 and Gemma were trained with.

    Source: Gaussian Error Linear Units, arXiv:1606.08415, section 2.
    """
    return F.gelu(x, approximate="tanh")


# name -> (activation, gated)
FFN_KINDS: dict[str, tuple[Callable[[Tensor], Tensor], bool]] = {
    "relu": (F.relu, False),
    "relu2": (relu2, False),
    "gelu": (F.gelu, False),
    "gelu_tanh": (gelu_tanh, False),
    "silu": (F.silu, False),
    "reglu": (F.relu, True),
    "swiglu": (F.silu, True),
    "geglu": (F.gelu, True),
    "geglu_tanh": (gelu_tanh, True),
}


def ffn_parts(kind: str) -> tuple[Callable[[Tensor], Tensor], bool]:
    """(activation, whether a gate multiplies it) of a feed-forward kind.

    Raises: ValueError for an unknown kind.
    """
    if kind not in FFN_KINDS:
        raise ValueError(f"ffn must be one of {', '.join(FFN_KINDS)}, got {kind!r}")
    return FFN_KINDS[kind]


class Mlp(nn.Module):
    """down(activation(up(x))): two matrices, as in GPT-2.

    Source: Attention Is All You Need, arXiv:1706.03762, eq. 2.
    """

    def __init__(self, width: int, ffn_width: int, kind: str = "gelu", bias: bool = False) -> None:
        super().__init__()
        self.activation, gated = ffn_parts(kind)
        if gated:
            raise ValueError(f"Mlp takes an activation without a gate, got {kind!r}; use GatedMlp")
        self.up_proj = Linear(width, ffn_width, bias=bias)
        self.down_proj = Linear(ffn_width, width, bias=bias)

    def forward(self, x: Float[Tensor, "... E"]) -> Float[Tensor, "... E"]:
        return self.down_proj(self.activation(self.up_proj(x)))


class GatedMlp(nn.Module):
    """down(activation(gate(x)) * up(x)): three matrices.

    Source: GLU Variants Improve Transformer, arXiv:2002.05202, eq. 6.
    """

    def __init__(self, width: int, ffn_width: int, kind: str = "swiglu", bias: bool = False) -> None:
        super().__init__()
        self.activation, gated = ffn_parts(kind)
        if not gated:
            raise ValueError(f"GatedMlp takes a gated kind such as 'swiglu', got {kind!r}; use Mlp")
        self.gate_proj = Linear(width, ffn_width, bias=bias)
        self.up_proj = Linear(width, ffn_width, bias=bias)
        self.down_proj = Linear(ffn_width, width, bias=bias)

    def forward(self, x: Float[Tensor, "... E"]) -> Float[Tensor, "... E"]:
        return self.down_proj(self.activation(self.gate_proj(x)) * self.up_proj(x))


class SwiGLU(GatedMlp):
    """down(silu(gate(x)) * up(x)); ffn_width None takes `swiglu_width(width)`.

    >>> import torch
    >>> SwiGLU(8, 24)(torch.zeros(2, 8)).shape
    torch.Size([2, 8])

    Source: GLU Variants Improve Transformer, arXiv:2002.05202, eq. 6.
    """

    def __init__(self, width: int, ffn_width: int | None = None, bias: bool = False) -> None:
        super().__init__(width, swiglu_width(width) if ffn_width is None else ffn_width, "swiglu", bias)


def swiglu_width(width: int, multiple_of: int = 64) -> int:
    """8/3 of the model width, rounded up to a multiple, so that three matrices cost what two of 4x cost.

    >>> swiglu_width(768)
    2048

    Source: LLaMA, arXiv:2302.13971, section 2.2.
    """
    return -(-8 * width // (3 * multiple_of)) * multiple_of


def feed_forward(width: int, ffn_width: int, kind: str, bias: bool = False) -> Mlp | GatedMlp:
    """The feed-forward network of that kind.

    Raises: ValueError for an unknown kind.
    """
    return (GatedMlp if ffn_parts(kind)[1] else Mlp)(width, ffn_width, kind, bias)


__all__ = [
    "FFN_KINDS",
    "Embedding",
    "GatedMlp",
    "Linear",
    "Mlp",
    "SwiGLU",
    "feed_forward",
    "ffn_parts",
    "gelu_tanh",
    "relu2",
    "swiglu_width",
]
