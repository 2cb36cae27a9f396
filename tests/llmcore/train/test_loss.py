"""Chunked cross-entropy: equal to the plain one, gradients included, without holding all logits."""

import jaxtyping
import pytest
import torch
import torch.nn.functional as F

from llmcore.train import linear_cross_entropy
from llmcore.train import loss as loss_module

OPTIONS = [
    {},
    {"softcap": 4.0},
    {"label_smoothing": 0.1},
    {"z_loss": 1e-2},
    {"softcap": 3.0, "label_smoothing": 0.2, "z_loss": 0.1},
]
# Float32 against float64 over 101 classes: rounding is near 1e-6; the mutants below are off by more than 1e-4.
TOLERANCE = {"rtol": 1e-5, "atol": 1e-5}


def make_case(seed: int = 0, dtype: torch.dtype = torch.float32):
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(5, 9, 16, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
    head = torch.randn(101, 16, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
    targets = torch.randint(0, 101, (5, 9), generator=generator)
    targets[:, ::4] = -100
    return hidden, head, targets


def plain(hidden, head, targets, softcap=None, label_smoothing=0.0, z_loss=0.0):
    """Everything at once, in float64."""
    logits = (hidden.double() @ head.double().T).flatten(0, 1)
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
    flat = targets.flatten()
    loss = F.cross_entropy(logits, flat, ignore_index=-100, reduction="sum", label_smoothing=label_smoothing)
    return loss + z_loss * (logits.logsumexp(-1).square() * (flat != -100)).sum()


def value_and_gradients(function, *arguments, **options):
    hidden, head, targets = arguments
    result = function(hidden, head, targets, **options)
    result = result[0] if isinstance(result, tuple) else result
    return [part.float() for part in (result, *torch.autograd.grad(result / 7, (hidden, head)))]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("chunk_tokens", [1, 7, 45, 1000])
def test_it_equals_plain_cross_entropy_and_so_do_its_gradients(options, chunk_tokens):
    case = make_case()
    ours = value_and_gradients(linear_cross_entropy, *case, chunk_tokens=chunk_tokens, **options)
    torch.testing.assert_close(ours, value_and_gradients(plain, *case, **options), **TOLERANCE)


@pytest.mark.parametrize(
    ("options", "mutant"),
    [
        ({"softcap": 4.0}, {"softcap": 4.001}),
        ({"label_smoothing": 0.1}, {"label_smoothing": 0.1001}),
        ({"z_loss": 1e-2}, {"z_loss": 1.001e-2}),
    ],
)
def test_that_tolerance_catches_a_slightly_wrong_loss(options, mutant):
    case = make_case()
    ours = value_and_gradients(linear_cross_entropy, *case, **mutant)
    with pytest.raises(AssertionError):
        torch.testing.assert_close(ours, value_and_gradients(plain, *case, **options), **TOLERANCE)


def test_that_tolerance_catches_a_forgotten_chunk(monkeypatch):
    case = make_case()
    monkeypatch.setattr(loss_module, "_plus_product", lambda total, left, right: left @ right)
    ours = value_and_gradients(linear_cross_entropy, *case, chunk_tokens=40)
    with pytest.raises(AssertionError):
        torch.testing.assert_close(ours, value_and_gradients(plain, *case), **TOLERANCE)


def test_the_second_sum_is_the_plain_cross_entropy_whatever_the_options():
    hidden, head, targets = make_case()
    _, cross_entropy = linear_cross_entropy(hidden, head, targets, label_smoothing=0.1, z_loss=0.1)
    torch.testing.assert_close(cross_entropy.double(), plain(hidden, head, targets), **TOLERANCE)
    assert not cross_entropy.requires_grad


def test_numerical_gradients_agree():
    hidden, head, targets = make_case()
    direction = torch.randn(head.shape, generator=torch.Generator().manual_seed(5))
    (gradient,) = torch.autograd.grad(linear_cross_entropy(hidden, head, targets, z_loss=0.01)[0], head)
    step = 1e-3
    ends = [plain(hidden, (head + sign * step * direction), targets, z_loss=0.01) for sign in (1, -1)]
    slope = ((ends[0] - ends[1]) / (2 * step)).item()
    assert (gradient * direction).sum().item() == pytest.approx(slope, rel=1e-3)


def test_large_logits_do_not_overflow():
    hidden = torch.tensor([[200.0], [-200.0]], requires_grad=True)
    head = torch.tensor([[1.0], [-1.0]], requires_grad=True)
    loss, _ = linear_cross_entropy(hidden, head, torch.tensor([0, 0]))
    assert loss.item() == pytest.approx(400)
    loss.backward()
    assert torch.isfinite(hidden.grad).all()


def test_only_ignored_targets_give_zero_and_zero_gradients():
    hidden, head, targets = make_case()
    loss, _ = linear_cross_entropy(hidden, head, torch.full_like(targets, -100), z_loss=0.1)
    assert loss.item() == 0
    loss.backward()
    assert hidden.grad.abs().max() == 0
    assert head.grad.abs().max() == 0


def test_without_gradients_only_sums_are_computed():
    hidden, head, targets = make_case()
    with torch.no_grad():
        loss, _ = linear_cross_entropy(hidden, head, targets)
    assert not loss.requires_grad
    (gradient,) = torch.autograd.grad(linear_cross_entropy(hidden.detach(), head, targets)[0], head)
    assert gradient.shape == head.shape


def test_a_second_backward_is_refused_rather_than_wrong():
    hidden, head, targets = make_case()
    loss, _ = linear_cross_entropy(hidden, head, targets)
    loss.backward(torch.tensor(0.5), retain_graph=True)
    with pytest.raises(RuntimeError, match="inplace"):
        loss.backward()


def test_under_autocast_products_are_in_bfloat16_and_sums_in_float32():
    hidden, head, targets = make_case()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss, _ = linear_cross_entropy(hidden, head, targets, chunk_tokens=8)
    assert loss.dtype == torch.float32
    gradients = torch.autograd.grad(loss, (hidden, head))
    assert [gradient.dtype for gradient in gradients] == [torch.float32] * 2
    expected = value_and_gradients(plain, hidden, head, targets)[0]
    assert loss.item() == pytest.approx(expected.item(), rel=1e-2)


def test_never_more_than_a_chunk_of_logits_is_alive(monkeypatch):
    sizes = []
    original = loss_module._chunk_loss
    monkeypatch.setattr(
        loss_module,
        "_chunk_loss",
        lambda logits, *rest: (sizes.append(tuple(logits.shape)), original(logits, *rest))[1],
    )
    hidden, head, targets = make_case()
    linear_cross_entropy(hidden, head, targets, chunk_tokens=20)
    assert sizes == [(20, 101), (20, 101), (5, 101)]


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"targets": torch.zeros(5, 8, dtype=torch.long)}, "must fit"),
        ({"head": torch.zeros(101, 15)}, "must fit"),
        ({"label_smoothing": 1.0}, "label_smoothing"),
        ({"z_loss": -1.0}, "z_loss"),
        ({"chunk_tokens": 0}, "chunk_tokens must be at least 1"),
    ],
)
def test_what_does_not_fit_is_refused(change, text, request):
    checked = jaxtyping.config.jaxtyping_disable
    request.addfinalizer(lambda: jaxtyping.config.update("jaxtyping_disable", checked))
    jaxtyping.config.update("jaxtyping_disable", True)  # an import hook would refuse the shapes first
    hidden, head, targets = make_case()
    with pytest.raises(ValueError, match=text):
        linear_cross_entropy(**({"hidden": hidden, "head": head, "targets": targets} | change))
