"""Feed-forward networks against einsum formulas in float64."""

import math

import pytest
import torch
import torch.nn.functional as F
from refused import refused
from torch import nn

from llmcore.layers import (
    FFN_KINDS,
    Embedding,
    GatedMlp,
    Linear,
    Mlp,
    SwiGLU,
    feed_forward,
    ffn_parts,
    gelu_tanh,
    relu2,
    swiglu_width,
)

B, T, E, HIDDEN = 2, 3, 5, 11


def test_torchs_own_are_used_where_they_are_the_same():
    assert Linear is nn.Linear
    assert Embedding is nn.Embedding


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("kind", FFN_KINDS)
def test_every_kind_equals_its_formula(kind, bias):
    torch.manual_seed(0)
    activation, gated = ffn_parts(kind)
    ffn = feed_forward(E, HIDDEN, kind, bias).double()
    x = torch.randn(B, T, E, dtype=torch.float64)

    def linear(layer: nn.Linear, x: torch.Tensor) -> torch.Tensor:
        return torch.einsum("...i,oi->...o", x, layer.weight) + (layer.bias if bias else 0)

    hidden = (
        activation(linear(ffn.gate_proj, x)) * linear(ffn.up_proj, x) if gated else activation(linear(ffn.up_proj, x))
    )
    torch.testing.assert_close(ffn(x), linear(ffn.down_proj, hidden))
    assert sum(p.numel() for p in ffn.parameters()) == (2 + gated) * E * HIDDEN + bias * ((1 + gated) * HIDDEN + E)


def test_swiglu_gates_with_silu_and_not_the_other_factor():
    torch.manual_seed(0)
    ffn = SwiGLU(E, HIDDEN).double()
    x = torch.randn(T, E, dtype=torch.float64)
    gate, up = ffn.gate_proj(x), ffn.up_proj(x)
    torch.testing.assert_close(ffn(x), ffn.down_proj(gate * torch.sigmoid(gate) * up))
    swapped = ffn.down_proj(gate * up * torch.sigmoid(up))
    assert (swapped - ffn(x)).abs().max() > 1e-3


def test_activations():
    x = torch.linspace(-3, 3, 13, dtype=torch.float64)
    torch.testing.assert_close(relu2(x), torch.where(x > 0, x * x, 0))
    tanh_form = 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    torch.testing.assert_close(gelu_tanh(x), tanh_form)
    assert (gelu_tanh(x) - F.gelu(x)).abs().max() > 1e-4


def test_swiglu_width_keeps_the_parameter_count():
    assert swiglu_width(4096) == 10944 // 64 * 64 + (0 if 10944 % 64 == 0 else 64)
    for width in (64, 100, 768):
        assert swiglu_width(width) % 64 == 0
        assert 0 <= 3 * swiglu_width(width) - 8 * width < 3 * 64
    assert SwiGLU(48).up_proj.weight.shape == (128, 48)


def test_gradients_reach_every_weight():
    torch.manual_seed(0)
    ffn = GatedMlp(3, 4, "geglu", bias=True).double()
    x = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, *_: ffn(x), (x, *ffn.parameters()))


def test_wrong_kinds_are_refused():
    with refused(match=r"ffn must be one of relu, .* got 'swish'"):
        feed_forward(E, HIDDEN, "swish")
    with refused(match="use GatedMlp"):
        Mlp(E, HIDDEN, "swiglu")
    with refused(match="use Mlp"):
        GatedMlp(E, HIDDEN, "gelu")
