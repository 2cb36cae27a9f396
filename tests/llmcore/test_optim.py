"""Optimizers against PyTorch's own, schedules at their corners, clipping and parameter groups."""

import contextlib
import math
from itertools import pairwise

import jaxtyping
import pytest
import torch
from torch import nn

from llmcore.optim import (
    AdamW,
    Muon,
    clip_gradients,
    constant_schedule,
    cosine_schedule,
    linear_schedule,
    orthogonalize,
    parameter_groups,
    wsd_schedule,
)

SCHEDULES = (constant_schedule, cosine_schedule, linear_schedule, wsd_schedule)
# Five updates of weights near 1 in float32: rounding stays below a few 1e-7; a mutant below moves them by more than 1e-4.
TOLERANCE = {"rtol": 0, "atol": 2e-6}


@contextlib.contextmanager
def unchecked_types():
    """Let a wrong argument reach the function where an import hook would refuse it first."""
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", before)


def make_parameters(seed: int = 0) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(seed)
    return [nn.Parameter(torch.randn(shape, generator=generator)) for shape in ((5, 7), (3,), (7, 2), ())]


def run_steps(optimizer: torch.optim.Optimizer, parameters: list[nn.Parameter], n_steps: int = 5) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    for _ in range(n_steps):
        for parameter in parameters:
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        optimizer.step()
    return [parameter.detach() for parameter in parameters]


def torch_adamw_result(**options) -> list[torch.Tensor]:
    parameters = make_parameters()
    return run_steps(torch.optim.AdamW(parameters, **options), parameters)


ADAMW = {"lr": 3e-2, "betas": (0.8, 0.95), "eps": 1e-6, "weight_decay": 0.3}


@pytest.mark.parametrize("implementation", ["plain", "foreach", "fused", "auto"])
def test_adamw_equals_torch(implementation):
    parameters = make_parameters()
    ours = run_steps(AdamW(parameters, **ADAMW, implementation=implementation), parameters)
    torch.testing.assert_close(ours, torch_adamw_result(**ADAMW), **TOLERANCE)


@pytest.mark.parametrize(
    "mutant",
    [{"eps": 1e-3}, {"weight_decay": 0.29}, {"betas": (0.8, 0.951)}, {"betas": (0.81, 0.95)}, {"lr": 3.01e-2}],
    ids=str,
)
def test_that_tolerance_catches_a_slightly_wrong_adamw(mutant):
    parameters = make_parameters()
    ours = run_steps(AdamW(parameters, **(ADAMW | mutant)), parameters)
    with pytest.raises(AssertionError):
        torch.testing.assert_close(ours, torch_adamw_result(**ADAMW), **TOLERANCE)


def test_adamw_goes_on_from_the_state_of_torch_and_back():
    theirs, ours = make_parameters(), make_parameters()
    their_optimizer, our_optimizer = torch.optim.AdamW(theirs, **ADAMW), AdamW(ours, **ADAMW)
    run_steps(their_optimizer, theirs)
    run_steps(our_optimizer, ours)
    crossed = AdamW(theirs, **ADAMW)
    crossed.load_state_dict(their_optimizer.state_dict())
    torch.testing.assert_close(run_steps(crossed, theirs), run_steps(our_optimizer, ours), **TOLERANCE)


def test_adamw_leaves_parameters_without_gradient_and_runs_a_closure():
    parameters = make_parameters()
    before = [parameter.detach().clone() for parameter in parameters]
    optimizer = AdamW(parameters, lr=0.1)

    def closure():
        optimizer.zero_grad()
        loss = parameters[0].square().sum()
        loss.backward()
        return loss

    assert optimizer.step(closure).item() == before[0].square().sum().item()
    assert not torch.equal(parameters[0], before[0])
    assert all(torch.equal(parameter, old) for parameter, old in zip(parameters[1:], before[1:]))


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"lr": -1.0}, "lr"),
        ({"betas": (1.0, 0.9)}, "betas"),
        ({"eps": -1e-8}, "eps"),
        ({"weight_decay": -1.0}, "decay"),
    ],
)
def test_adamw_refuses_values_out_of_range(options, text):
    with pytest.raises(ValueError, match=text):
        AdamW(make_parameters(), **options)


@pytest.mark.parametrize("shape", [(16, 16), (40, 9), (7, 33), (3, 12, 5)])
def test_orthogonalize_keeps_directions_and_sets_singular_values_near_one(shape):
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(2))
    result = orthogonalize(matrix)
    singular_values = torch.linalg.svdvals(result)
    assert (singular_values > 0.3).all()
    assert (singular_values < 1.25).all()
    u, _, vh = torch.linalg.svd(matrix, full_matrices=False)
    diagonal = u.mT @ result @ vh.mT
    off_diagonal = diagonal - torch.diag_embed(diagonal.diagonal(dim1=-2, dim2=-1))
    assert off_diagonal.abs().max() < 1e-4


def test_orthogonalize_leaves_zero_rows_and_zero_matrices_zero():
    matrix = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    padded = torch.cat((matrix, torch.zeros(3, 4)))
    torch.testing.assert_close(orthogonalize(padded)[:6], orthogonalize(matrix))
    assert orthogonalize(padded)[6:].abs().max() == 0
    assert orthogonalize(torch.zeros(3, 5)).abs().max() == 0


MUON = {"lr": 0.05, "momentum": 0.9, "weight_decay": 0.1}


def muon_parameters() -> list[nn.Parameter]:
    return [make_parameters()[0], make_parameters()[2], make_parameters(3)[0]]


def muon_result(**changes) -> list[torch.Tensor]:
    parameters = muon_parameters()
    return run_steps(Muon(parameters, **(MUON | changes)), parameters)


def muon_by_singular_values(scale: str, nesterov: bool) -> list[torch.Tensor]:
    """Muon in float64 without an iteration on matrices: the polynomial is applied to singular values of an SVD."""
    a, b, c = 3.4445, -4.7750, 2.0315
    generator = torch.Generator().manual_seed(1)
    weights = [parameter.detach().double() for parameter in muon_parameters()]
    buffers = [torch.zeros_like(weight) for weight in weights]
    for _ in range(5):
        for weight, buffer in zip(weights, buffers):
            gradient = torch.randn(weight.shape, generator=generator).double()
            buffer.copy_(0.9 * buffer + 0.1 * gradient)
            u, s, vh = torch.linalg.svd(0.9 * buffer + 0.1 * gradient if nesterov else buffer, full_matrices=False)
            s = s / s.square().sum().sqrt()
            for _ in range(5):
                s = a * s + b * s**3 + c * s**5
            rows, columns = weight.shape
            factor = 0.2 * max(rows, columns) ** 0.5 if scale == "rms" else max(1, rows / columns) ** 0.5
            weight.copy_(weight * (1 - 0.05 * 0.1) - 0.05 * factor * (u * s) @ vh)
    return [weight.float() for weight in weights]


# Float32 against float64 over five updates; the mutants below differ by more than 1e-3.
MUON_TOLERANCE = {"rtol": 0, "atol": 2e-5}


@pytest.mark.parametrize("scale", ["rms", "original"])
@pytest.mark.parametrize("nesterov", [True, False])
def test_muon_equals_the_polynomial_of_singular_values(scale, nesterov):
    ours = muon_result(scale=scale, nesterov=nesterov)
    torch.testing.assert_close(ours, muon_by_singular_values(scale, nesterov), **MUON_TOLERANCE)


@pytest.mark.parametrize(
    "mutant",
    [{"nesterov": False}, {"ns_steps": 4}, {"momentum": 0.899}, {"weight_decay": 0.11}, {"scale": "original"}],
    ids=str,
)
def test_that_tolerance_catches_a_wrong_muon(mutant):
    with pytest.raises(AssertionError):
        torch.testing.assert_close(muon_result(**mutant), muon_by_singular_values("rms", True), **MUON_TOLERANCE)


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="this torch has no Muon to compare with")
@pytest.mark.parametrize(("scale", "adjust"), [("rms", "match_rms_adamw"), ("original", "original")])
def test_muon_agrees_with_the_one_of_torch_as_far_as_its_bfloat16_goes(scale, adjust):
    theirs = muon_parameters()
    expected = run_steps(torch.optim.Muon(theirs, adjust_lr_fn=adjust, **MUON), theirs)
    torch.testing.assert_close(muon_result(scale=scale), expected, rtol=0, atol=3e-2)


def test_muon_updates_have_the_size_of_adamw_updates_whatever_the_shape():
    for shape in ((64, 64), (256, 64), (32, 128)):
        weight = nn.Parameter(torch.zeros(shape))
        weight.grad = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        Muon([weight], lr=1.0, weight_decay=0.0).step()
        assert 0.13 < weight.square().mean().sqrt().item() < 0.24


def test_muon_gives_everything_but_hidden_matrices_to_adamw():
    model = nn.Sequential(nn.Embedding(11, 6), nn.Linear(6, 6), nn.LayerNorm(6))
    model.add_module("head", nn.Linear(6, 11, bias=False))
    groups = parameter_groups(model, 0.1, muon=True)
    assert [group["muon"] for group in groups] == [True, False, False]
    assert [len(group["params"]) for group in groups] == [1, 2, 3]
    optimizer = Muon(groups, lr=0.01)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    assert set(optimizer.state[model[1].weight]) == {"momentum_buffer"}
    assert all(
        "exp_avg" in optimizer.state[parameter] for parameter in (model[0].weight, model.head.weight, model[1].bias)
    )


def test_a_stack_of_matrices_goes_through_muon_matrix_by_matrix():
    stack = nn.Parameter(torch.zeros(3, 4, 6))
    single = [nn.Parameter(torch.zeros(4, 6)) for _ in range(3)]
    gradient = torch.randn(3, 4, 6, generator=torch.Generator().manual_seed(0))
    stack.grad = gradient
    for one, part in zip(single, gradient):
        one.grad = part.clone()
    Muon([stack]).step()
    Muon(single).step()
    torch.testing.assert_close(stack, torch.stack(list(single)))


def test_muon_refuses_a_vector_and_an_unknown_scale():
    with pytest.raises(ValueError, match=r"shape \(3,\)"):
        Muon([nn.Parameter(torch.zeros(3))])
    with unchecked_types(), pytest.raises(ValueError, match="scale"):
        Muon([nn.Parameter(torch.zeros(3, 3))], scale="rmsnorm")


def test_groups_decay_matrices_only_and_leave_out_frozen_and_shared_parameters():
    model = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 4), nn.LayerNorm(4), nn.Linear(4, 5, bias=False))
    model[3].weight = model[0].weight
    model[1].bias.requires_grad_(False)
    matrices, vectors = parameter_groups(model, 0.1)
    assert [parameter.ndim for parameter in matrices["params"]] == [2, 2]
    assert matrices["weight_decay"] == 0.1
    assert [parameter.ndim for parameter in vectors["params"]] == [1, 1]
    assert vectors["weight_decay"] == 0.0
    with pytest.raises(ValueError, match="no trainable"):
        parameter_groups(model.requires_grad_(False), 0.1)


def test_clipping_equals_torch_and_returns_the_norm_before_it():
    for max_norm in (0.5, 100.0):
        ours, theirs = make_parameters(), make_parameters()
        for one, other in zip(ours, theirs):
            one.grad, other.grad = one.detach().clone(), other.detach().clone()
        norm = clip_gradients(ours, max_norm)
        torch.testing.assert_close(norm, torch.nn.utils.clip_grad_norm_(theirs, max_norm))
        torch.testing.assert_close([p.grad for p in ours], [p.grad for p in theirs])


def test_clipping_without_a_limit_or_gradients_changes_nothing():
    parameter = nn.Parameter(torch.ones(4))
    assert clip_gradients([parameter], 1.0).item() == 0
    parameter.grad = torch.full((4,), 3.0)
    assert clip_gradients(parameter, None).item() == pytest.approx(6)
    assert parameter.grad.tolist() == [3.0] * 4
    with pytest.raises(ValueError, match=r"max_norm must be positive, got 0\.0"):
        clip_gradients([parameter], 0.0)


def test_the_norm_of_half_precision_gradients_is_taken_in_float32():
    parameter = nn.Parameter(torch.zeros(10_000, dtype=torch.float16))
    parameter.grad = torch.full((10_000,), 100.0, dtype=torch.float16)
    assert clip_gradients([parameter], None).item() == pytest.approx(10_000)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_schedules_at_their_corners(schedule):
    def lr(step, warmup=10, total=100):
        return schedule(step, 1.0, 0.1, warmup, total)

    assert lr(0) == 0
    assert lr(5) == 0.5
    assert lr(10) == 1.0
    last = 1.0 if schedule is constant_schedule else 0.1
    assert lr(100) == lr(1000) == last
    assert lr(0, warmup=0) == 1.0
    assert lr(100, warmup=100) == last
    values = [lr(step) for step in range(10, 101)]
    assert all(later <= earlier for earlier, later in pairwise(values))


def test_cosine_is_half_way_in_the_middle_and_linear_is_straight():
    assert cosine_schedule(60, 1.0, 0.2, 20, 100) == pytest.approx(0.6)
    assert cosine_schedule(40, 1.0, 0.0, 20, 100) == pytest.approx((1 + math.cos(math.pi / 4)) / 2)
    assert linear_schedule(40, 1.0, 0.0, 20, 100) == pytest.approx(0.75)


def test_wsd_is_flat_then_decays():
    assert [wsd_schedule(step, 1.0, 0.0, 0, 100, decay_steps=20) for step in (1, 50, 80)] == [1.0, 1.0, 1.0]
    assert wsd_schedule(85, 1.0, 0.0, 0, 100, decay_steps=20) == pytest.approx(0.75)
    assert wsd_schedule(85, 1.0, 0.0, 0, 100, decay_steps=20, decay="sqrt") == pytest.approx(0.5)
    assert wsd_schedule(95, 1.0, 0.0, 0, 100) == pytest.approx(0.5)
    assert wsd_schedule(100, 1.0, 0.5, 0, 100, decay_steps=0) == 0.5


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ((-1, 1.0, 0.0, 0, 10), "step"),
        ((0, 1.0, 2.0, 0, 10), "min_lr"),
        ((0, 1.0, 0.0, 11, 10), "warmup_steps"),
        ((0, 1.0, -1.0, 0, 10), "min_lr"),
    ],
)
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_schedules_refuse_what_cannot_be(schedule, arguments, text):
    with pytest.raises(ValueError, match=text):
        schedule(*arguments)
