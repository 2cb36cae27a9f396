"""Information measures against plain float64 loops, edges by definition, gradients, and mutants of the source."""

import importlib.util
import inspect
import math

import pytest
import torch

from llmcore import information as info

EXACT = {"atol": 1e-10, "rtol": 1e-10}


def close(got, want, **tolerance):
    got, want = (torch.as_tensor(value, dtype=torch.float64) for value in (got, want))
    torch.testing.assert_close(got, want, **(tolerance or EXACT))


def draw(*shape, seed=0, scale=1.0):
    return scale * torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def entropy_by_hand(row, base=2.0):
    return sum(-p * math.log(p, base) for p in row if p > 0)


def test_entropy_equals_the_sum_by_hand_along_any_dim():
    p = draw(3, 5).softmax(-1)
    p[0] = torch.tensor([0.5, 0.5, 0, 0, 0])
    for base in (2.0, math.e, 10.0):
        close(info.entropy(p, base=base), [entropy_by_hand(row.tolist(), base) for row in p])
    close(info.entropy(p.T, dim=0), info.entropy(p))


def test_entropy_of_a_sure_thing_is_zero_with_finite_gradient():
    p = torch.tensor([[1.0, 0.0], [0.25, 0.75]], dtype=torch.float64, requires_grad=True)
    info.entropy(p).sum().backward()
    assert info.entropy(p)[0].item() == 0
    assert p.grad.isfinite().all()


@pytest.mark.parametrize(
    ("p", "base", "message"),
    [
        ([0.5, 0.6], 2.0, "sum to 1 along dim -1, got 1.1"),
        ([1.2, -0.2], 2.0, "at least 0, got -0.2"),
        ([float("nan"), 1.0], 2.0, "sum to 1"),
        ([0.5, 0.5], 1.0, "base must be positive and not 1"),
    ],
)
def test_entropy_refuses_what_is_no_distribution(p, base, message):
    with pytest.raises(ValueError, match=message):
        info.entropy(torch.tensor(p), base=base)
    info.entropy(torch.tensor([0.5, 0.5009]))


def test_attention_entropy_runs_from_zero_to_ln_s():
    weights = torch.stack([torch.eye(4)[1], torch.full((4,), 0.25), torch.zeros(4)])
    close(info.attention_entropy(weights), [0, math.log(4), 0], atol=1e-6, rtol=0)


def ce_by_hand(logits, targets, ignore=-100):
    kept = [(row, t) for row, t in zip(logits.flatten(0, -2).tolist(), targets.flatten().tolist()) if t != ignore]
    return sum(math.log(sum(math.exp(x - row[t]) for x in row)) for row, t in kept) / max(len(kept), 1)


def test_cross_entropy_is_the_mean_over_kept_targets():
    logits, targets = draw(2, 3, 7), torch.tensor([[0, 6, -100], [3, -100, 3]])
    close(info.cross_entropy(logits, targets), ce_by_hand(logits, targets))
    other = targets.clamp(min=0)
    close(info.cross_entropy(logits, other, ignore_index=3), ce_by_hand(logits, other, ignore=3))
    close(info.cross_entropy(logits[0, 0], torch.tensor(4)), ce_by_hand(logits[:1, 0], torch.tensor([4])))


def test_cross_entropy_of_nothing_is_zero_with_zero_gradient():
    logits = draw(2, 7).requires_grad_()
    loss = info.cross_entropy(logits, torch.tensor([-100, -100]))
    loss.backward()
    assert loss.item() == 0
    assert logits.grad.eq(0).all()


def test_cross_entropy_survives_large_logits_and_its_gradient_is_softmax_minus_onehot():
    logits = torch.tensor([[300.0, -300.0], [1e4, 1e4 + 1]], requires_grad=True)
    loss = info.cross_entropy(logits, torch.tensor([1, 0]))
    loss.backward()
    close(loss.detach(), (600 + math.log(1 + math.e)) / 2, atol=1e-3, rtol=1e-6)
    want = (logits.detach().softmax(-1) - torch.tensor([[0.0, 1], [1, 0]])) / 2
    torch.testing.assert_close(logits.grad, want)
    half = info.cross_entropy(logits.detach()[:1].half(), torch.tensor([1]))
    assert half.dtype == torch.float32
    assert half.item() == 600


def test_shapes_that_do_not_fit_are_refused():
    for loss in (info.cross_entropy, info.label_smoothed_cross_entropy):
        with pytest.raises(ValueError, match=r"targets must have the shape .*\(2, 3\), got \(3, 2\)"):
            inspect.unwrap(loss)(draw(2, 3, 7), torch.zeros(3, 2, dtype=torch.long))


@pytest.mark.parametrize("smoothing", [0.0, 0.2, 1.0])
def test_label_smoothing_equals_torch(smoothing):
    logits, targets = draw(2, 3, 7), torch.tensor([[0, 6, -100], [3, -100, 3]])
    want = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), label_smoothing=smoothing)
    close(info.label_smoothed_cross_entropy(logits, targets, smoothing), want)
    nothing = info.label_smoothed_cross_entropy(logits, torch.full_like(targets, -100), smoothing)
    assert nothing.item() == 0
    with pytest.raises(ValueError, match=r"smoothing must be in 0\.\.1, got 1.5"):
        info.label_smoothed_cross_entropy(logits, targets, 1.5)


def test_label_smoothing_of_zero_allows_impossible_classes():
    logits = torch.tensor([[0.0, -math.inf, 0.0]])
    close(info.label_smoothed_cross_entropy(logits, torch.tensor([2]), 0.0), math.log(2), atol=1e-6, rtol=0)


def test_lm_loss_shifts_and_counts_only_pairs_of_real_tokens():
    logits, ids = draw(3, 5, 7), torch.randint(0, 7, (3, 5), generator=torch.Generator().manual_seed(1))
    close(info.lm_loss(logits, ids), ce_by_hand(logits[:, :-1], ids[:, 1:]))
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [0, 0, 1, 1, 1]])
    pairs = [(b, t) for b in range(3) for t in range(4) if mask[b, t] and mask[b, t + 1]]
    want = ce_by_hand(torch.stack([logits[p] for p in pairs]), torch.stack([ids[b, t + 1] for b, t in pairs]))
    close(info.lm_loss(logits, ids, mask), want)
    close(info.lm_loss(logits, ids, mask.bool()), want)
    assert info.lm_loss(logits[:, :1], ids[:, :1]).item() == 0
    assert info.lm_loss(logits, ids, torch.zeros(3, 5)).item() == 0


def test_left_and_right_padding_give_one_loss():
    logits, ids = draw(1, 4, 7), torch.tensor([[5, 1, 2, 6]])
    right = torch.cat((logits, draw(1, 2, 7, seed=1)), 1), torch.tensor([[5, 1, 2, 6, 0, 0]])
    left = torch.cat((draw(1, 2, 7, seed=2), logits), 1), torch.tensor([[0, 0, 5, 1, 2, 6]])
    close(info.lm_loss(*right, torch.tensor([[1, 1, 1, 1, 0, 0]])), info.lm_loss(logits, ids))
    close(info.lm_loss(*left, torch.tensor([[0, 0, 1, 1, 1, 1]])), info.lm_loss(logits, ids))


def kl_by_hand(p, q):
    return sum(a * math.log(a / b) for a, b in zip(p, q) if a > 0)


def test_kl_equals_the_sum_by_hand_and_is_not_symmetric():
    p, q = draw(4, 6).softmax(-1), draw(4, 6, seed=1).softmax(-1)
    want = [kl_by_hand(*rows) for rows in zip(p.tolist(), q.tolist())]
    close(info.kl_divergence(p.log(), q.log()), want)
    close(info.kl_divergence(p.log().T, q.log().T, dim=0), want)
    assert (info.kl_divergence(q.log(), p.log()) - info.kl_divergence(p.log(), q.log())).abs().max() > 0.01


def test_kl_where_one_side_has_no_mass():
    log_p = torch.tensor([[0.5, 0.5, 0.0], [1.0, 0.0, 0.0]]).log().requires_grad_()
    log_q = torch.tensor([[0.5, 0.0, 0.5], [0.5, 0.5, 0.0]]).log().requires_grad_()
    value = info.kl_divergence(log_p, log_q)
    assert value[0].item() == math.inf
    close(value[1].detach(), math.log(2), atol=1e-6, rtol=0)
    value[1].backward()
    assert log_p.grad.isfinite().all()
    assert log_q.grad.isfinite().all()
    assert log_q.grad[1, 1:].eq(0).all()


def test_js_is_symmetric_and_bounded_by_ln_2():
    p, q = draw(4, 6).softmax(-1), draw(4, 6, seed=1).softmax(-1)
    middle = (p + q) / 2
    want = (info.kl_divergence(p.log(), middle.log()) + info.kl_divergence(q.log(), middle.log())) / 2
    close(info.js_divergence(p.log(), q.log()), want)
    close(info.js_divergence(q.log(), p.log()), want)
    apart = torch.tensor([[1.0, 0, 0], [0, 0.5, 0.5]]).log().requires_grad_()
    value = info.js_divergence(apart[0], apart[1])
    close(value.detach(), math.log(2), atol=1e-6, rtol=0)
    value.backward()
    assert apart.grad.isfinite().all()
    absent = torch.tensor([1.0, 0.0]).log()
    assert info.js_divergence(absent, absent).item() == 0


def test_gaussian_kl_equals_numerical_integration():
    mu0, var0, mu1, var1 = 0.3, 0.7, -0.4, 1.9
    x = torch.linspace(-12, 12, 200_001, dtype=torch.float64)
    log_p = -((x - mu0) ** 2) / (2 * var0) - 0.5 * math.log(2 * math.pi * var0)
    log_q = -((x - mu1) ** 2) / (2 * var1) - 0.5 * math.log(2 * math.pi * var1)
    close(info.gaussian_kl(mu0, var0, mu1, var1), torch.trapezoid(log_p.exp() * (log_p - log_q), x), atol=1e-9, rtol=0)
    assert info.gaussian_kl(torch.tensor([0.0, 1.0]), 1.0, 1.0, torch.tensor(2.0)).shape == (2,)
    close(info.gaussian_kl(0.0, 1e-6, 0.01, 1e-6), 50.0)  # claim C05.02: 0.001 as standard deviation
    for bad in ((0, -1, 0, 1), (0, 1, 0, 0)):
        with pytest.raises(ValueError, match="variances must be positive"):
            info.gaussian_kl(*map(float, bad))


def test_k1_and_k3_are_unbiased_over_exact_enumeration():
    log_p, log_q = draw(9).log_softmax(-1), draw(9, seed=1).log_softmax(-1)
    estimates, kl = info.kl_estimates(log_p, log_q), info.kl_divergence(log_p, log_q)
    close((log_p.exp() * estimates["k1"]).sum(), kl)
    close((log_p.exp() * estimates["k3"]).sum(), kl)
    assert abs((log_p.exp() * estimates["k2"]).sum() - kl) > 1e-3
    assert (estimates["k3"] >= 0).all()
    assert (estimates["k1"] < 0).any()


def test_k3_keeps_its_digits_for_tiny_differences():
    small = torch.tensor(1e-5)
    assert info.kl_estimates(small, torch.tensor(0.0))["k3"].item() == pytest.approx(5e-11, rel=0.05)


def test_wasserstein_is_the_mean_distance_of_sorted_values():
    x, y = draw(8), draw(8, seed=1)
    close(info.wasserstein_1d(x, y), (x.sort().values - y.sort().values).abs().mean())
    close(info.wasserstein_1d(x, x + 3), 3.0)
    for bad in ((x, y[:7]), (x[None], y[None]), (x[:0], y[:0])):
        with pytest.raises(ValueError, match="samples must be one-dimensional"):
            inspect.unwrap(info.wasserstein_1d)(*bad)


def test_perplexity_and_bits_per_byte():
    assert info.perplexity(3 * math.log(7), 3) == pytest.approx(7)
    assert info.perplexity(1e6, 1) == math.inf
    assert info.perplexity(torch.tensor(0.0), 5) == 1.0
    assert info.bits_per_byte(10 * math.log(2), 4) == pytest.approx(2.5)
    for function in (info.perplexity, info.bits_per_byte):
        for count in (0, -1):
            with pytest.raises(ValueError, match=f"must be positive, got {count}"):
                function(1.0, count)


def test_z_loss_is_the_mean_square_of_log_z():
    logits = draw(2, 3, 7, scale=50.0)
    want = sum(math.log(sum(math.exp(x) for x in row)) ** 2 for row in logits.flatten(0, 1).tolist()) / 6
    close(info.z_loss(logits, 0.01), 0.01 * want)
    assert info.z_loss(torch.tensor([[300.0, -300.0]])).item() == pytest.approx(9.0)
    assert info.z_loss(torch.zeros(0, 7)).item() == 0


def test_info_nce_is_cross_entropy_over_cosines():
    queries, keys = draw(5, 3, scale=4.0), draw(5, 3, seed=1)
    cosine = torch.nn.functional.cosine_similarity(queries[:, None], keys[None], dim=-1)
    close(info.info_nce(queries, keys, 0.2), ce_by_hand(cosine / 0.2, torch.arange(5)))
    close(info.info_nce(3 * queries, keys, 0.2), info.info_nce(queries, keys, 0.2))
    with pytest.raises(ValueError, match="temperature must be positive"):
        info.info_nce(queries, keys, 0.0)
    with pytest.raises(ValueError, match=r"\(5, 3\) and \(4, 3\)"):
        inspect.unwrap(info.info_nce)(queries, keys[:4])


def test_distillation_is_scaled_kl_and_spares_the_teacher():
    student, teacher = draw(2, 3, 7).requires_grad_(), draw(2, 3, 7, seed=1).requires_grad_()
    loss = info.distillation_loss(student, teacher, 2.5)
    log_t, log_s = (teacher / 2.5).log_softmax(-1), (student / 2.5).log_softmax(-1)
    close(loss.detach(), (2.5**2 * (log_t.exp() * (log_t - log_s)).sum(-1).mean()).detach())
    loss.backward()
    assert teacher.grad is None
    assert torch.autograd.gradcheck(lambda s: info.distillation_loss(s, teacher.detach(), 2.5), (student,))
    with pytest.raises(ValueError, match="temperature must be positive"):
        info.distillation_loss(student, teacher, 0)
    with pytest.raises(ValueError, match="must share a shape"):
        inspect.unwrap(info.distillation_loss)(student, teacher[:1], 1.0)


def test_gumbel_softmax_samples_the_softmax():
    logits = torch.tensor([0.0, 1.0, 2.0])
    samples = info.gumbel_softmax(logits.expand(20_000, 3), 0.5, hard=True, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(samples.mean(0), logits.softmax(0), atol=0.012, rtol=0)  # 3.5 standard errors
    assert samples.sum(-1).sub(1).abs().max() < 1e-6
    soft = info.gumbel_softmax(logits.requires_grad_(), 0.5, generator=torch.Generator().manual_seed(0))
    assert torch.autograd.grad(soft[0], logits)[0].ne(0).all()
    with pytest.raises(ValueError, match="temperature must be positive"):
        info.gumbel_softmax(logits, 0)


def test_ranks():
    u, v = draw(6, 1), draw(1, 5, seed=1)
    close([info.effective_rank(u @ v), info.stable_rank(u @ v)], [1, 1], atol=1e-6, rtol=0)
    close([info.effective_rank(torch.eye(4)), info.stable_rank(torch.eye(4))], [4, 4], atol=1e-5, rtol=0)
    close([info.effective_rank(torch.zeros(3, 4)), info.stable_rank(torch.zeros(3, 4))], [0, 0])
    spectrum = torch.diag(torch.tensor([3.0, 1.0], dtype=torch.float64))
    close(info.effective_rank(spectrum), math.exp(entropy_by_hand([0.75, 0.25], math.e)))
    close(info.stable_rank(spectrum), 10 / 9)
    assert info.effective_rank(draw(2, 3, 6, 5)).shape == (2, 3)


def test_distance_to_rank_one():
    row = draw(1, 5)
    close(info.distance_to_rank_one(row.expand(4, 5)), 0, atol=1e-9, rtol=0)
    x = draw(4, 5)
    close(info.distance_to_rank_one(x - x.mean(0)), 1)
    close(info.distance_to_rank_one(torch.zeros(4, 5)), 0)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: info.cross_entropy(x, torch.tensor([[1, -100, 3], [0, 2, 4]])),
        lambda x: info.label_smoothed_cross_entropy(x, torch.tensor([[1, -100, 3], [0, 2, 4]]), 0.3),
        lambda x: info.kl_divergence(x.log_softmax(-1), x.flip(0).log_softmax(-1)),
        lambda x: info.js_divergence(x.log_softmax(-1), x.flip(0).log_softmax(-1)),
        lambda x: info.z_loss(x, 0.5),
        lambda x: info.info_nce(x[0], x[1]),
        lambda x: info.entropy(x.softmax(-1)),
        lambda x: info.kl_estimates(x, x.flip(0))["k3"],
        lambda x: info.stable_rank(x),
    ],
)
def test_gradients_check(function):
    assert torch.autograd.gradcheck(function, (draw(2, 3, 5).requires_grad_(),))


MUTANTS = {
    "perplexity in base 2": ("math.exp(float(nll_sum) / n_tokens)", "2 ** (float(nll_sum) / n_tokens)"),
    "KL turned round": ("safe_p.exp() * (safe_p - safe_q)", "safe_q.exp() * (safe_q - safe_p)"),
    "k3 with the inverse ratio": ("torch.expm1(-d) + d", "torch.expm1(d) - d"),
    "JS mixture not halved": ("- math.log(2)\n    return 0.5", "\n    return 0.5"),
    "JS without its halves": ("0.5 * kl_divergence(log_p, log_mixture", "kl_divergence(log_p, log_mixture"),
    "ignored targets in the denominator": ("(targets != ignore_index).sum().clamp(min=1)", "targets.numel()"),
    "no shift": ("cross_entropy(logits[:, :-1], targets)", "cross_entropy(logits[:, 1:], targets)"),
    "source padding counted": ("real[:, 1:] & real[:, :-1]", "real[:, 1:]"),
    "smoothing over the other classes only": ("log_p.mean(-1)", "(log_p.sum(-1) - of_target) / (log_p.shape[-1] - 1)"),
    "distillation without T squared": ("return temperature**2 * divergences", "return divergences"),
    "keys not normalised": ("F.normalize(_wide(keys), dim=-1).T", "_wide(keys).T"),
    "bits for nats": ("_p_log_p(wide).sum(dim)) / math.log(base)", "_p_log_p(wide).sum(dim))"),
    "z-loss without the square": (
        "torch.logsumexp(_wide(logits), dim=-1) ** 2",
        "torch.logsumexp(_wide(logits), dim=-1)",
    ),
    "standard deviation for variance": ("(var0 + (mu0 - mu1) ** 2) / var1", "(var0**2 + (mu0 - mu1) ** 2) / var1**2"),
}
CHECKS = {
    "perplexity": test_perplexity_and_bits_per_byte,
    "KL": test_kl_equals_the_sum_by_hand_and_is_not_symmetric,
    "k3": test_k1_and_k3_are_unbiased_over_exact_enumeration,
    "JS": test_js_is_symmetric_and_bounded_by_ln_2,
    "ignored": test_cross_entropy_is_the_mean_over_kept_targets,
    "no": test_lm_loss_shifts_and_counts_only_pairs_of_real_tokens,
    "source": test_lm_loss_shifts_and_counts_only_pairs_of_real_tokens,
    "smoothing": lambda: test_label_smoothing_equals_torch(0.2),
    "distillation": test_distillation_is_scaled_kl_and_spares_the_teacher,
    "keys": test_info_nce_is_cross_entropy_over_cosines,
    "bits": test_entropy_equals_the_sum_by_hand_along_any_dim,
    "z-loss": test_z_loss_is_the_mean_square_of_log_z,
    "standard": test_gaussian_kl_equals_numerical_integration,
}


@pytest.mark.parametrize("name", MUTANTS)
def test_mutants_fail(name, monkeypatch):
    old, new = MUTANTS[name]
    source = inspect.getsource(info)
    assert source.count(old) == 1
    mutant = importlib.util.module_from_spec(importlib.util.spec_from_loader("mutant", loader=None))
    exec(compile(source.replace(old, new), "mutant", "exec"), mutant.__dict__)
    check = CHECKS[name.split()[0]]
    check()
    monkeypatch.setitem(globals(), "info", mutant)
    with pytest.raises(AssertionError):
        check()
