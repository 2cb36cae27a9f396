"""One layer with updates: values, gradients, the start, merging; and what each slip would cost."""

import copy

import pytest
import torch
import torch.nn.functional as F
from refused import refused
from torch import nn

from llmcore.lora import LoraLinear, best_rank_r

KINDS = {
    "lora": {},
    "rank-stabilized": {"rank_stabilized": True},
    "dora": {"dora": True},
    "dora, rank-stabilized": {"dora": True, "rank_stabilized": True},
}


def make_layer(
    kind: str = "lora", n_in: int = 7, n_out: int = 5, r: int = 3, alpha: float = 5.0, **options
) -> LoraLinear:
    """A float64 layer whose B, and magnitudes, have left their start."""
    generator = torch.Generator().manual_seed(0)
    linear = nn.Linear(n_in, n_out, bias=options.pop("bias", True), dtype=torch.float64)
    for parameter in linear.parameters():
        parameter.data.normal_(generator=generator)
    layer = LoraLinear(linear, r, alpha, **KINDS[kind], **options, generator=generator)
    for adapter in layer.adapters.values():
        adapter.lora_b.data.normal_(generator=generator)
        if adapter.dora:
            adapter.magnitude.data.mul_(1 + 0.3 * torch.rand(n_out, generator=generator))
    return layer


def oracle(layer: LoraLinear, x: torch.Tensor, kind: str, weight: torch.Tensor | None = None) -> torch.Tensor:
    """The formulas as the papers write them, B A formed."""
    adapter = layer.adapters["default"]
    weight = layer.base.weight if weight is None else weight
    scale = 5.0 / (3**0.5 if "stabilized" in kind else 3)
    updated = weight + scale * adapter.lora_b @ adapter.lora_a
    if "dora" in kind:
        updated = adapter.magnitude[:, None] * updated / updated.norm(dim=1, keepdim=True).detach()
    return F.linear(x, updated, layer.base.bias)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bias", [True, False])
def test_values_and_gradients_equal_the_oracle(kind, bias):
    layer = make_layer(kind, bias=bias)
    x = torch.randn(2, 4, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    results = []
    for run in (layer, lambda x: oracle(layer, x, kind)):
        leaf = x.clone().requires_grad_()
        y = run(leaf)
        gradients = torch.autograd.grad(y.tanh().sum(), [leaf, *layer.adapters.parameters()])
        results.append([y.detach(), *gradients])
    for got, expected in zip(*results, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-11, atol=1e-11)
    assert layer.base.weight.grad is None


def slips(layer: LoraLinear, x: torch.Tensor) -> dict[str, torch.Tensor]:
    a, b, base = layer.lora_a, layer.lora_b, layer.base
    return {
        "alpha, not alpha / r": base(x) + 5.0 * (x @ a.T) @ b.T,
        "alpha / sqrt(r)": base(x) + 5.0 / 3**0.5 * (x @ a.T) @ b.T,
        "no scale": base(x) + (x @ a.T) @ b.T,
        "no bias": F.linear(x, base.weight) + 5 / 3 * (x @ a.T) @ b.T,
    }


@pytest.mark.parametrize("slip", ["alpha, not alpha / r", "alpha / sqrt(r)", "no scale", "no bias"])
def test_that_tolerance_catches_a_slip(slip):
    layer, x = make_layer(), torch.randn(4, 7, dtype=torch.float64)
    assert (slips(layer, x)[slip] - layer(x)).abs().max() > 1e-2


def test_doras_norm_has_no_gradient():
    layer = make_layer("dora")
    x = torch.randn(4, 7, dtype=torch.float64)
    adapter = layer.adapters["default"]
    (got,) = torch.autograd.grad(layer(x).tanh().sum(), adapter.lora_b)
    updated = layer.base.weight + 5 / 3 * adapter.lora_b @ adapter.lora_a
    through = F.linear(x, adapter.magnitude[:, None] * updated / updated.norm(dim=1, keepdim=True), layer.bias)
    (wrong,) = torch.autograd.grad(through.tanh().sum(), adapter.lora_b)
    assert (got - wrong).abs().max() > 1e-2


@pytest.mark.parametrize("kind", KINDS)
def test_it_starts_where_the_base_is(kind):
    linear = nn.Linear(40, 30)
    layer = LoraLinear(linear, 4, 8, **KINDS[kind], generator=torch.Generator().manual_seed(0))
    x = torch.randn(6, 40)
    torch.testing.assert_close(layer(x), F.linear(x, linear.weight, linear.bias), rtol=1e-5, atol=1e-6)
    assert not layer.lora_b.any()
    assert layer.lora_a.std().item() == pytest.approx(40**-0.5, rel=0.2)
    assert {name.rpartition(".")[2] for name, p in layer.named_parameters() if p.requires_grad} == (
        {"lora_a", "lora_b", "magnitude"} if "dora" in kind else {"lora_a", "lora_b"}
    )
    again = LoraLinear(linear, 4, 8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(again.lora_a, layer.lora_a)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("keep_base", [False, True])
def test_merge_and_unmerge(kind, keep_base):
    layer = make_layer(kind)
    x = torch.randn(4, 7, dtype=torch.float64)
    before, weight = layer(x), layer.base.weight.clone()
    layer.merge(keep_base=keep_base)
    torch.testing.assert_close(layer(x), before, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(F.linear(x, layer.base.weight, layer.bias), before, rtol=1e-12, atol=1e-12)
    assert (layer.base.weight - weight).abs().max() > 0.1
    with pytest.raises(RuntimeError, match="merged already"):
        layer.merge()
    layer.unmerge()
    torch.testing.assert_close(layer.base.weight, weight, rtol=1e-12, atol=1e-12)
    if keep_base or "dora" in kind:
        assert torch.equal(layer.base.weight, weight)
    with pytest.raises(RuntimeError, match="not merged"):
        layer.unmerge()
    torch.testing.assert_close(layer(x), before, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_weight_is_what_the_layer_multiplies_by(kind):
    layer = make_layer(kind, bias=False)
    x = torch.randn(4, 7, dtype=torch.float64)
    torch.testing.assert_close(F.linear(x, layer.weight), layer(x))
    for run in (layer, lambda x: F.linear(x, layer.weight)):
        got = torch.autograd.grad(run(x).tanh().sum(), list(layer.adapters.parameters()))
        if run is layer:
            expected = got
    torch.testing.assert_close(got, expected)
    layer.set_active(())
    assert torch.equal(layer.weight, layer.base.weight)


def test_float32_merging_is_exact_to_rounding_and_half_precision_is_not():
    torch.manual_seed(0)
    errors = {}
    for dtype in (torch.float32, torch.bfloat16):
        layer = LoraLinear(nn.Linear(64, 48, dtype=dtype), 4, 8)
        assert layer.lora_a.dtype == torch.float32
        nn.init.normal_(layer.lora_b, std=0.01)
        errors[dtype] = layer.merging_error()
        exact = layer.base.weight.double() + (2 * layer.lora_b @ layer.lora_a).double()
        plain = layer.base.weight.float().clone()
        layer.merge()
        lost = ((layer.base.weight.double() - exact).norm() / (exact - plain).norm()).item()
        assert lost == pytest.approx(errors[dtype], rel=1e-3)
    assert 0 < errors[torch.float32] < 1e-5
    assert errors[torch.bfloat16] > 1e-3


@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_dropout_acts_on_the_update_alone_and_in_training_only(kind):
    layer = make_layer(kind, n_in=50, dropout=0.5)
    x = torch.randn(3000, 50, dtype=torch.float64)
    layer.eval()
    expected = layer(x)
    torch.testing.assert_close(expected, oracle(layer, x, kind))
    layer.train()
    torch.manual_seed(0)
    got = layer(x)
    assert (got - expected).abs().max() > 0.1
    torch.testing.assert_close((got - expected).mean(), torch.zeros((), dtype=torch.float64), atol=0.05, rtol=0)
    with torch.no_grad():
        layer.set_active(())
        assert torch.equal(layer(x), layer.base(x))


def test_under_autocast_and_over_half_precision_weights_the_output_has_the_bases_dtype():
    torch.manual_seed(0)
    layer = LoraLinear(nn.Linear(16, 12), 3, 5)
    nn.init.normal_(layer.lora_b)
    x = torch.randn(4, 16)
    exact = layer(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = layer(x)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), exact, atol=0.1, rtol=0.05)
    half = LoraLinear(copy.deepcopy(layer.base).bfloat16(), 3, 5)
    half.adapters.load_state_dict(layer.adapters.state_dict())
    y = half(x.bfloat16())
    assert y.dtype == torch.bfloat16
    y.sum().backward()
    assert half.lora_b.grad.dtype == torch.float32
    torch.testing.assert_close(y.float(), exact, atol=0.1, rtol=0.05)


def test_the_product_of_b_and_a_is_never_formed():
    layer = LoraLinear(nn.Linear(64, 64), 2, 4)
    sizes = []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            result = function(*args, **(kwargs or {}))
            if isinstance(result, torch.Tensor) and result.untyped_storage().data_ptr() != layer.base.weight.data_ptr():
                sizes.append(result.numel())
            return result

    with Watch():
        layer(torch.randn(3, 64)).sum().backward()
    assert max(sizes) <= 3 * 64


def test_empty_and_single_inputs():
    layer = make_layer()
    assert layer(torch.zeros(0, 7, dtype=torch.float64)).shape == (0, 5)
    assert layer(torch.zeros(2, 0, 7, dtype=torch.float64)).shape == (2, 0, 5)
    x = torch.randn(7, dtype=torch.float64)
    torch.testing.assert_close(layer(x), layer(x[None])[0])
    wide = torch.randn(7, 4, dtype=torch.float64).t()
    torch.testing.assert_close(layer(wide), layer(wide.contiguous()))


def test_a_row_of_zeros_keeps_doras_gain_finite():
    linear = nn.Linear(4, 3)
    linear.weight.data[1] = 0
    layer = LoraLinear(linear, 2, 4, dora=True)
    assert layer(torch.randn(2, 4)).isfinite().all()


def test_several_adapters_add_up_and_dora_acts_alone():
    layer = make_layer()
    other = make_layer(alpha=9.0)
    layer.adapters["other"] = other.adapters["default"]
    layer.set_active(("default", "other"))
    x = torch.randn(4, 7, dtype=torch.float64)
    expected = layer.base(x) + F.linear(x, layer.adapters["default"].delta() + layer.adapters["other"].delta())
    torch.testing.assert_close(layer(x), expected)
    layer.merge()
    torch.testing.assert_close(layer(x), expected)
    with pytest.raises(RuntimeError, match="is merged into the weight; unmerge it first"):
        layer.set_active(("default",))
    layer.unmerge()
    layer.adapters["third"] = make_layer("dora").adapters["default"]
    with refused("acts alone, got default, third"):
        layer.set_active(("default", "third"))
    assert layer.active == ("default", "other")


def test_what_makes_no_sense_is_refused():
    with refused("rank must be a whole number of at least 1, got 0; to train without LoRA, do not add it"):
        LoraLinear(nn.Linear(4, 3), 0, 1)
    with refused("rank must be at most 3 for a layer of 4 inputs and 3 outputs, got 4"):
        LoraLinear(nn.Linear(4, 3), 4, 1)
    with refused("alpha must be positive, got -1"):
        LoraLinear(nn.Linear(4, 3), 2, -1)
    with refused(r"dropout must be in \[0, 1\), got 1.0"):
        LoraLinear(nn.Linear(4, 3), 2, 1, 1.0)
    with refused("needs a linear layer, got Conv2d"):
        LoraLinear(nn.Conv2d(1, 1, 1), 2)
    layer = make_layer()
    layer.lora_b.data[0, 0] = float("inf")
    weight = layer.base.weight.clone()
    with refused("not finite, so it was not merged"):
        layer.merge()
    assert layer.merged is None
    assert torch.equal(layer.base.weight, weight)


@pytest.mark.parametrize("r", [1, 2, 3])
def test_best_rank_r_is_the_truncated_svd(r):
    w = torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    b, a = best_rank_r(w, r)
    assert (b.shape, a.shape) == ((5, r), (r, 3))
    singular = torch.linalg.svdvals(w)
    torch.testing.assert_close((w - b @ a).norm(), singular[r:].norm(), atol=1e-12, rtol=1e-9)
    for seed in range(20):  # no other pair of thin matrices does better
        torch.manual_seed(seed)
        nudged = (b + 1e-2 * torch.randn_like(b)) @ (a + 1e-2 * torch.randn_like(a))
        assert (w - nudged).norm() >= (w - b @ a).norm()
    torch.testing.assert_close(b.norm(dim=0), a.norm(dim=1))


def test_best_rank_r_refuses_ranks_that_there_are_not():
    for r in (0, 4):
        with refused(rf"r must be in 1..3 for a matrix of shape \(5, 3\), got {r}"):
            best_rank_r(torch.zeros(5, 3), r)
    with refused("must be a matrix"):
        best_rank_r(torch.zeros(5), 1)
    assert best_rank_r(torch.randn(4, 6, dtype=torch.bfloat16), 2)[0].dtype == torch.bfloat16
