"""Norms against plain float64 formulas, torch's own layers, and gradients."""

import math

import pytest
import torch
from refused import refused
from torch import nn

from llmcore.norms import (
    LayerNorm,
    RMSNorm,
    batch_norm_train,
    deepnorm_constants,
    init_std,
    layer_norm,
    partial_rms_norm,
    qk_norm_scores,
    residual,
    residual_init_std,
    rms_norm,
    rms_norm_backward,
    soft_cap,
    weight_norm,
)

B, T, E = 2, 5, 7
DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
# One rounding to the output's dtype (relative), and float32's own.
ROUNDING = {torch.float64: 1e-12, torch.float32: 3e-6, torch.bfloat16: 2**-8, torch.float16: 2**-11}


def gen(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def inputs(dtype: torch.dtype = torch.float64, scale: float = 1.0, shift: float = 0.3):
    x = (torch.randn(B, T, E, generator=gen(), dtype=torch.float64) * scale + shift).to(dtype)
    weight = (torch.randn(E, generator=gen(1), dtype=torch.float64) + 2).to(dtype)
    bias = torch.randn(E, generator=gen(2), dtype=torch.float64).to(dtype)
    return x, weight, bias


def rms_oracle(x, weight, eps):
    x, weight = x.double(), weight.double()
    out = torch.empty_like(x)
    for index in range(x.numel() // E):
        row = x.view(-1, E)[index]
        out.view(-1, E)[index] = row / math.sqrt(sum(v * v for v in row.tolist()) / E + eps) * weight
    return out


def layer_oracle(x, weight, bias, eps):
    x, out = x.double(), torch.empty_like(x.double())
    for index in range(x.numel() // E):
        row = x.view(-1, E)[index]
        mean = sum(row.tolist()) / E
        variance = sum((v - mean) ** 2 for v in row.tolist()) / E
        out.view(-1, E)[index] = (row - mean) / math.sqrt(variance + eps) * weight.double() + bias.double()
    return out


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("scale", "eps"), [(1.0, 1e-6), (1e-3, 1e-6), (300.0, 0.1), (1.0, 0.1)])
def test_rms_norm_equals_the_formula_with_one_rounding(dtype, scale, eps):
    x, weight, _ = inputs(dtype, scale)
    got = rms_norm(x, weight, eps)
    assert got.dtype == dtype
    torch.testing.assert_close(got.double(), rms_oracle(x, weight, eps), rtol=ROUNDING[dtype], atol=1e-7)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("scale", "shift", "eps"), [(1.0, 0.3, 1e-5), (1e-3, 0.0, 1e-5), (1.0, 0.3, 0.1)])
def test_layer_norm_equals_the_formula_with_one_rounding(dtype, scale, shift, eps):
    x, weight, bias = inputs(dtype, scale, shift)
    got = layer_norm(x, weight, bias, eps)
    assert got.dtype == dtype
    # Sums that cancel keep float32's absolute error, hence the atol.
    torch.testing.assert_close(
        got.double(),
        layer_oracle(x, weight, bias, eps),
        rtol=ROUNDING[dtype],
        atol=1e-5 if dtype != torch.float64 else 1e-12,
    )


def test_that_tolerance_catches_the_usual_mistakes():
    x, weight, bias = inputs()
    eps = 0.1
    mean_square = x.square().mean(-1, keepdim=True)
    wrong = {
        "mean removed": (x - x.mean(-1, keepdim=True)) * torch.rsqrt(mean_square + eps) * weight,
        "eps outside the root": x / (mean_square.sqrt() + eps) * weight,
        "sum instead of mean": x * torch.rsqrt(x.square().sum(-1, keepdim=True) + eps) * weight,
        "no gain": x * torch.rsqrt(mean_square + eps),
        "over time": x * torch.rsqrt(x.square().mean(1, keepdim=True) + eps) * weight,
    }
    for name, got in wrong.items():
        assert (got - rms_oracle(x, weight, eps)).abs().max() > 0.01, name
    unbiased = (x - x.mean(-1, keepdim=True)) * torch.rsqrt(x.var(-1, keepdim=True) + eps) * weight + bias
    assert (unbiased - layer_oracle(x, weight, bias, eps)).abs().max() > 0.01


def test_the_gain_is_applied_before_the_only_rounding():
    # bfloat16 of (x_hat * w) and bfloat16(x_hat) * w differ at this gain in about half of all entries.
    x = torch.randn(500, 64, generator=gen()).bfloat16()
    weight = torch.full((64,), 15.8125, dtype=torch.bfloat16)
    exact = x.double() * torch.rsqrt(x.double().square().mean(-1, keepdim=True) + 1e-6) * weight.double()
    assert (rms_norm(x, weight) != exact.bfloat16()).float().mean() < 1e-3
    rounded_twice = (exact / weight.double()).bfloat16() * weight
    assert (rounded_twice != exact.bfloat16()).float().mean() > 0.1


def test_unit_offset_adds_one_in_float32():
    x, _, _ = inputs(torch.bfloat16)
    weight = torch.full((E,), 0.001, dtype=torch.bfloat16)  # 1 + 0.001 is 1 in bfloat16
    got = rms_norm(x.float(), weight, unit_offset=True) / rms_norm(x.float())
    torch.testing.assert_close(got, torch.full_like(got, 1 + weight[0].item()), rtol=1e-6, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_modules_equal_torch_and_keep_the_dtype_of_the_input_not_of_the_weight(dtype):
    x, weight, bias = inputs(torch.float32)
    ours, theirs = LayerNorm(E, eps=1e-3), nn.LayerNorm(E, eps=1e-3)
    rms, their_rms = RMSNorm(E, eps=1e-3), nn.RMSNorm(E, eps=1e-3)
    with torch.no_grad():
        for module in (ours, theirs, rms, their_rms):
            module.weight.copy_(weight)
        ours.bias.copy_(bias)
        theirs.bias.copy_(bias)
    x = x.to(dtype)
    assert ours(x).dtype == rms(x).dtype == dtype
    tolerance = ROUNDING[dtype]
    torch.testing.assert_close(ours(x), theirs(x.float()).to(dtype), rtol=tolerance, atol=1e-6)
    torch.testing.assert_close(rms(x), their_rms(x.float()).to(dtype), rtol=tolerance, atol=1e-6)
    assert LayerNorm(E, bias=False).bias is None


def test_variance_is_not_lost_on_a_large_mean():
    x = 1e4 + torch.randn(3, 64, generator=gen())
    exact = layer_oracle_rows(x)
    torch.testing.assert_close(layer_norm(x, None, None).double(), exact, atol=2e-2, rtol=0)
    naive = (x - x.mean(-1, keepdim=True)) * torch.rsqrt(
        (x.square().mean(-1, keepdim=True) - x.mean(-1, keepdim=True) ** 2).clamp(min=0) + 1e-5
    )
    assert (naive.double() - exact).abs().max() > 0.5


def layer_oracle_rows(x):
    x = x.double()
    return (x - x.mean(-1, keepdim=True)) / (x.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt()


def test_norms_pass_a_gradient_check():
    x, weight, bias = (tensor.requires_grad_() for tensor in inputs())
    assert torch.autograd.gradcheck(lambda x, w: rms_norm(x, w, 0.1), (x, weight))
    assert torch.autograd.gradcheck(lambda x, w: rms_norm(x, w, 0.1, unit_offset=True), (x, weight))
    assert torch.autograd.gradcheck(lambda x, w, b: layer_norm(x, w, b, 0.1), (x, weight, bias))
    assert torch.autograd.gradcheck(lambda x, w: partial_rms_norm(x, w, 0.5, 0.1), (x, weight))


@pytest.mark.parametrize("shape", [(B, T, E), (E,), (3, E)])
def test_the_hand_written_backward_equals_autograd(shape):
    x = torch.randn(shape, generator=gen(), dtype=torch.float64, requires_grad=True)
    weight = torch.randn(E, generator=gen(1), dtype=torch.float64, requires_grad=True)
    dy = torch.randn(shape, generator=gen(2), dtype=torch.float64)
    expected = torch.autograd.grad(rms_norm(x, weight, 0.1), (x, weight), dy)
    got = rms_norm_backward(dy, x.detach(), weight.detach(), 0.1)
    for mine, theirs in zip(got, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-12)
    sigma_constant = dy * weight * torch.rsqrt(x.square().mean(-1, keepdim=True) + 0.1)
    assert (sigma_constant - expected[0]).abs().max() > 1e-3


def test_inputs_are_left_as_they_were_and_rows_are_independent():
    x, weight, bias = inputs()
    before = x.clone()
    y = layer_norm(x, weight, bias)
    rms_norm(x, weight)
    assert torch.equal(x, before)
    x[0, 0] += 5
    assert torch.equal(layer_norm(x, weight, bias)[1:], y[1:])
    assert torch.equal(layer_norm(x, weight, bias)[0, 1:], y[0, 1:])


def test_partial_rms_norm_estimates_from_the_first_features():
    x, weight, _ = inputs()
    got = partial_rms_norm(x, weight, 3 / 7)
    torch.testing.assert_close(got, x * torch.rsqrt(x[..., :3].square().mean(-1, keepdim=True) + 1e-6) * weight)
    torch.testing.assert_close(partial_rms_norm(x, weight, 1.0), rms_norm(x, weight))
    with refused(match=r"\(0, 1\], got 0"):
        partial_rms_norm(x, weight, 0)


def test_batch_norm_equals_torch_over_three_steps():
    theirs = nn.BatchNorm1d(E, momentum=0.3, eps=0.1).double()
    mean, var = torch.zeros(E).double(), torch.ones(E).double()
    _, weight, bias = inputs()
    with torch.no_grad():
        theirs.weight.copy_(weight)
        theirs.bias.copy_(bias)
    for step in range(3):
        x = torch.randn(5, E, generator=gen(step), dtype=torch.float64) * 2 + 1
        kept = mean.clone()
        y, new_mean, new_var = batch_norm_train(x, weight, bias, mean, var, momentum=0.3, eps=0.1)
        torch.testing.assert_close(y, theirs(x))
        assert torch.equal(mean, kept)
        mean, var = new_mean, new_var
    torch.testing.assert_close(mean, theirs.running_mean)
    torch.testing.assert_close(var, theirs.running_var)
    x.requires_grad_()
    _, new_mean, new_var = batch_norm_train(x, weight, bias, mean, var)
    assert not new_mean.requires_grad
    assert not new_var.requires_grad
    with refused(match="at least two rows"):
        batch_norm_train(x[:1], weight, bias, mean, var)


def test_residual_styles():
    x, f, norm = torch.tensor(3.0), lambda v: 2 * v, lambda v: v - 1
    expected = {"pre": 3 + 2 * 2, "post": 3 + 6 - 1, "double": 3 + (2 * 2 - 1), "deep": 5 * 3 + 6 - 1}
    for style, value in expected.items():
        assert residual(x, f, norm, style, alpha=5.0).item() == value
    with refused(match="must be one of pre, post, double, deep, got 'sandwich'"):
        residual(x, f, norm, "sandwich")


def test_qk_norm_scores_equal_the_formula_and_keep_the_dtype():
    q, k = (
        torch.randn(2, 3, 5, 4, generator=gen(), dtype=torch.float64),
        torch.randn(2, 3, 6, 4, generator=gen(1), dtype=torch.float64),
    )
    q_weight, k_weight = torch.rand(2, 4, generator=gen(2), dtype=torch.float64) + 1
    q_hat = q / (q.square().mean(-1, keepdim=True) + 1e-6).sqrt() * q_weight
    k_hat = k / (k.square().mean(-1, keepdim=True) + 1e-6).sqrt() * k_weight
    scores = torch.einsum("bhtd,bhsd->bhts", q_hat, k_hat) / 2
    torch.testing.assert_close(qk_norm_scores(q, k, q_weight, k_weight), scores)
    torch.testing.assert_close(qk_norm_scores(q, k, q_weight, k_weight, softcap=1.5), 1.5 * torch.tanh(scores / 1.5))
    assert qk_norm_scores(q.bfloat16(), k.bfloat16(), q_weight.bfloat16(), k_weight.bfloat16()).dtype == torch.bfloat16


def test_soft_cap_bounds_and_leaves_small_values():
    x = torch.tensor([-1e4, -0.01, 0.01, 1e4])
    assert soft_cap(x, 5.0).tolist() == pytest.approx([-5.0, -0.01, 0.01, 5.0], abs=1e-6)
    assert soft_cap(x, None) is x


def test_initial_scales():
    assert init_std("xavier", 6, 12, gain=3.0) == pytest.approx(3 * math.sqrt(2 / 18))
    assert init_std("kaiming", 9, 4, gain=2.0) == pytest.approx(2 / 3)
    assert residual_init_std(0.02, 8) == pytest.approx(0.005)
    assert deepnorm_constants(6) == pytest.approx((12**0.25, 48**-0.25))
    with refused(match="'xavier' or 'kaiming', got 'he'"):
        init_std("he", 1, 1)


def test_weight_norm_rows_have_the_lengths_given():
    direction = torch.randn(3, 5, generator=gen())
    got = weight_norm(direction, torch.tensor([1.0, 2.0, 0.5]))
    assert got.norm(dim=1).tolist() == pytest.approx([1.0, 2.0, 0.5])
    torch.testing.assert_close(got[1] / got[1].norm(), direction[1] / direction[1].norm())
