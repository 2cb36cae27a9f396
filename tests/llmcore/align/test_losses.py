"""The losses against float64 loops over single numbers, their gradients, their edges, and mutants of their source."""

import itertools
import math

import pytest
import torch
from align_oracle import clipped, close, draw, expected_grpo, logprobs_by_hand, mutated
from refused import refused

from llmcore import align
from llmcore.align import losses

LN2 = math.log(2)
LENGTHS = (5, 2, 0, 3)


def a_batch(n_responses=4, n_tokens=5, seed=0, spread=0.3):
    """(logp, old, ref, advantages, mask) with lengths that all differ, one of them 0, and clips on both sides."""
    old = -draw(n_responses, n_tokens, seed=seed).abs()
    logp = old + spread * draw(n_responses, n_tokens, seed=seed + 1)
    ref = old + spread * draw(n_responses, n_tokens, seed=seed + 2)
    advantages = torch.tensor([1.7, -0.9, 0.4, -2.1], dtype=torch.float64)[:n_responses]
    mask = torch.arange(n_tokens) < torch.tensor(LENGTHS[:n_responses])[:, None]
    return logp, old, ref, advantages, mask


# Log-probabilities.


@pytest.mark.parametrize("scale", [1e-3, 1.0, 300.0])
def test_token_logprobs_are_those_of_the_next_token(scale):
    logits, ids = draw(2, 5, 11, scale=scale), torch.randint(11, (2, 5), generator=torch.Generator().manual_seed(1))
    close(align.token_logprobs(logits, ids), logprobs_by_hand(logits, ids))
    single = align.token_logprobs(logits.float(), ids)
    assert single.dtype == torch.float32
    close(single, logprobs_by_hand(logits.float(), ids), atol=1e-4, rtol=1e-5)
    assert align.token_logprobs(logits.bfloat16(), ids).dtype == torch.float32


def test_a_shift_of_all_logits_changes_nothing():
    logits, ids = draw(2, 4, 7).float(), torch.tensor([[1, 2, 3, 4], [6, 5, 0, 1]])
    close(align.token_logprobs(logits + 1e4, ids), align.token_logprobs(logits, ids), atol=2e-3, rtol=0)


def test_sequence_logprob_sums_what_the_mask_marks_and_nothing_else():
    logits, ids = draw(3, 6, 11), torch.randint(11, (3, 6), generator=torch.Generator().manual_seed(2))
    mask = torch.tensor([[1, 0, 0, 1, 1, 1], [0, 0, 1, 1, 0, 0], [1, 0, 0, 0, 0, 0]])
    rows = logprobs_by_hand(logits, ids).tolist()
    want = [sum(rows[0][2:5]), sum(rows[1][1:3]), 0.0]
    close(align.sequence_logprob(logits, ids, mask), want)
    logits[:, -1] = math.nan  # the last position predicts nothing
    logits[2] = -math.inf
    assert align.sequence_logprob(logits, ids, mask).isfinite().all()


def test_logprobs_of_one_token_are_empty_and_differentiable():
    logits = draw(2, 1, 7).requires_grad_()
    assert align.token_logprobs(logits, torch.tensor([[1], [2]])).shape == (2, 0)
    align.sequence_logprob(logits, torch.tensor([[1], [2]]), torch.ones(2, 1)).sum().backward()
    assert (logits.grad == 0).all()


def test_shapes_that_do_not_fit_are_refused():
    with refused("logits .B, T, V. and input_ids"):
        align.token_logprobs(torch.zeros(2, 3, 5), torch.zeros(2, 4, dtype=torch.long))
    with refused("response_mask must have the shape of input_ids"):
        align.sequence_logprob(torch.zeros(2, 3, 5), torch.zeros(2, 3, dtype=torch.long), torch.ones(2, 2))


# Pairs.


def test_bradley_terry_equals_the_closed_form_even_where_sigmoid_underflows():
    chosen, rejected = torch.tensor([1.5, -200.0, 3.0]), torch.tensor([0.5, 0.0, 3.0])
    close(align.bradley_terry_loss(chosen, rejected), (math.log1p(math.exp(-1)) + 200 + LN2) / 3, atol=1e-5, rtol=0)
    shifted = align.bradley_terry_loss(chosen + 7, rejected + 7)  # defined up to a constant only
    close(shifted, align.bradley_terry_loss(chosen, rejected), atol=1e-4, rtol=0)
    pulled = align.bradley_terry_loss(chosen[:1], rejected[:1], centre=0.1, margin=0.5)
    close(pulled, math.log1p(math.exp(-0.5)) + 0.1 * 4, atol=1e-6, rtol=0)
    assert align.bradley_terry_loss(torch.zeros(0), torch.zeros(0)) == 0


@pytest.mark.parametrize(("beta", "smoothing"), [(0.3, 0.0), (2.0, 0.2)])
def test_dpo_equals_the_closed_form(beta, smoothing):
    pi_c, pi_r, ref_c, ref_r = draw(4, 7, scale=3.0)
    loss, chosen, rejected = align.dpo_loss(pi_c, pi_r, ref_c, ref_r, beta, smoothing)
    h = [beta * ((a - c) - (b - d)) for a, b, c, d in zip(*(x.tolist() for x in (pi_c, pi_r, ref_c, ref_r)))]
    want = [(1 - smoothing) * math.log1p(math.exp(-x)) + smoothing * math.log1p(math.exp(x)) for x in h]
    close(loss, sum(want) / len(want))
    close(chosen, beta * (pi_c - ref_c))
    close(rejected, beta * (pi_r - ref_r))


def test_dpo_starts_at_ln_2_survives_large_margins_and_keeps_its_reference_out_of_the_gradient():
    zero = torch.zeros(3)
    close(align.dpo_loss(zero, zero, zero, zero)[0], LN2, atol=1e-6, rtol=0)
    close(align.dpo_loss(zero - 200, zero, zero, zero, beta=1.0)[0], 200.0, atol=1e-4, rtol=0)
    tensors = [draw(5, seed=seed).requires_grad_() for seed in range(4)]
    loss, chosen, rejected = align.dpo_loss(*tensors)
    loss.backward()
    assert not chosen.requires_grad
    assert not rejected.requires_grad
    assert [tensor.grad is None for tensor in tensors] == [False, False, True, True]
    fixed = [tensor.detach() for tensor in tensors[2:]]
    assert torch.autograd.gradcheck(lambda c, r: align.dpo_loss(c, r, *fixed, 0.7, 0.1)[0], tensors[:2])
    assert torch.autograd.gradcheck(lambda c, r: align.ipo_loss(c, r, *fixed, 0.7)[0], tensors[:2])


def test_ipo_equals_the_closed_form():
    pi_c, pi_r, ref_c, ref_r = draw(4, 7)
    want = ((pi_c - ref_c) - (pi_r - ref_r) - 1 / (2 * 0.3)) ** 2
    close(align.ipo_loss(pi_c, pi_r, ref_c, ref_r, beta=0.3)[0], want.mean())


def test_response_nll_is_per_token_then_per_response():
    assert align.response_nll(torch.tensor([-6.0, -1.0, 0.0]), torch.tensor([3, 1, 0])).item() == 1.0


@pytest.mark.parametrize("beta", [0.0, -1.0, math.nan])
def test_pair_losses_refuse_what_cannot_be(beta):
    zero = torch.zeros(2)
    for loss in (align.dpo_loss, align.ipo_loss):
        with refused("beta must be positive"):
            loss(zero, zero, zero, zero, beta=beta)
        with refused("must have one shape"):
            loss(zero, zero, zero, torch.zeros(3))
    with refused(r"label_smoothing must be in \[0, 0.5\]"):
        align.dpo_loss(zero, zero, zero, zero, label_smoothing=0.6)
    with refused("must have one shape"):
        align.bradley_terry_loss(zero, torch.zeros(2, 1))


# Clipped losses.


@pytest.mark.parametrize(("advantage", "ratio"), list(itertools.product([2.0, -2.0], [0.5, 0.9, 1.1, 2.0])))
def test_one_token_is_clipped_on_the_right_side(advantage, ratio):
    logp = torch.tensor([[math.log(ratio)]], dtype=torch.float64, requires_grad=True)
    old, mask = torch.zeros(1, 1, dtype=torch.float64), torch.ones(1, 1)
    loss = align.ppo_clip_loss(logp, old, torch.tensor([advantage]).double(), mask, eps_low=0.2, eps_high=0.3)
    loss.backward()
    close(loss, -clipped(ratio, advantage, 0.2, 0.3))
    is_cut = (advantage > 0 and ratio > 1.3) or (advantage < 0 and ratio < 0.8)
    close(logp.grad[0, 0], 0.0 if is_cut else -ratio * advantage)
    assert align.clip_fraction(logp, old, torch.tensor([advantage]), mask, 0.2, 0.3).item() == float(is_cut)


def test_ppo_is_the_mean_over_all_tokens_with_advantages_of_either_shape():
    logp, old, _, _, mask = a_batch()
    advantages = draw(4, 5, seed=9)
    terms = [
        -clipped(math.exp(logp[i, t] - old[i, t]), advantages[i, t].item(), 0.1, 0.3)
        for i in range(4)
        for t in range(LENGTHS[i])
    ]
    close(align.ppo_clip_loss(logp, old, advantages, mask, 0.1, 0.3), sum(terms) / len(terms))
    per_row = advantages[:, 0]
    spread = per_row[:, None].expand(4, 5)
    close(align.ppo_clip_loss(logp, old, per_row, mask), align.ppo_clip_loss(logp, old, spread, mask))


def test_one_advantage_per_response_is_never_taken_for_one_per_token():
    logp, old = draw(4, 4, seed=1), draw(4, 4, seed=2)
    advantages, mask = torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64), torch.ones(4, 4)
    close(
        align.ppo_clip_loss(logp, old, advantages, mask),
        align.ppo_clip_loss(logp, old, advantages[:, None].expand(4, 4), mask),
    )
    with refused(r"advantages must be \(B,\) or \(B, T\)"):
        align.ppo_clip_loss(logp, old, advantages[:, None], mask)
    with refused("one number per response"):
        align.grpo_loss(logp, old, None, advantages[:, None].expand(4, 4), mask, beta=0.0)


@pytest.mark.parametrize("kl", ["k1", "k2", "k3"])
@pytest.mark.parametrize("variant", ["grpo", "dr_grpo", "dapo"])
def test_grpo_equals_loops_over_tokens(variant, kl):
    batch = a_batch()
    options = {"beta": 0.3, "eps_low": 0.1, "eps_high": 0.25, "kl": kl}
    got = align.grpo_loss(*batch, variant=variant, max_tokens=7, **options)
    close(got, expected_grpo(*batch, LENGTHS, variant=variant, max_tokens=7, **options))
    without = align.grpo_loss(batch[0], batch[1], None, *batch[3:], variant=variant, max_tokens=7, beta=0.0)
    close(without, expected_grpo(*batch, LENGTHS, variant=variant, max_tokens=7, beta=0.0))


def test_gspo_has_one_ratio_per_response():
    logp, old, ref, advantages, mask = a_batch()
    means = [sum((logp - old)[i, : LENGTHS[i]].tolist()) / max(LENGTHS[i], 1) for i in range(4)]
    close(align.gspo_ratio(logp, old, mask), [math.exp(mean) for mean in means])
    want = [
        -clipped(math.exp(mean), advantages[i].item(), 0.05, 0.1) if LENGTHS[i] else 0.0 for i, mean in enumerate(means)
    ]
    got = align.gspo_loss(logp, old, None, advantages, mask, eps_low=0.05, eps_high=0.1)
    close(got, sum(want) / 4)
    penalty = align.grpo_loss(logp, logp, ref, torch.zeros(4).double(), mask, beta=0.5)
    with_kl = align.gspo_loss(logp, old, ref, advantages, mask, beta=0.5, eps_low=0.05, eps_high=0.1)
    close(with_kl, got + penalty)


LOSSES = {
    "ppo": lambda logp, old, ref, adv, mask: align.ppo_clip_loss(logp, old, adv, mask),
    "grpo": lambda *batch: align.grpo_loss(*batch, beta=0.2),
    "dr_grpo": lambda *batch: align.grpo_loss(*batch, beta=0.2, variant="dr_grpo", max_tokens=9),
    "dapo": lambda *batch: align.grpo_loss(*batch, beta=0.2, variant="dapo", eps_high=0.28),
    "gspo": lambda *batch: align.gspo_loss(*batch, beta=0.2, eps_low=0.05, eps_high=0.05),
}


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_agree_with_differences(name):
    logp, *rest = a_batch(spread=0.4)
    assert torch.autograd.gradcheck(lambda x: LOSSES[name](x, *rest), (logp.requires_grad_(),))


@pytest.mark.parametrize("name", LOSSES)
def test_what_lies_outside_the_mask_has_no_influence(name):
    logp, old, ref, advantages, mask = a_batch()
    want = LOSSES[name](logp, old, ref, advantages, mask)
    for bad in (math.nan, math.inf, -math.inf):
        x = logp.masked_fill(~mask, bad).requires_grad_()
        got = LOSSES[name](x, old.masked_fill(~mask, bad), ref.masked_fill(~mask, -bad), advantages, mask)
        got.backward()
        close(got, want)
        assert x.grad.isfinite().all()
        assert (x.grad[~mask] == 0).all()


@pytest.mark.parametrize("name", LOSSES)
def test_an_empty_mask_and_zero_advantages_give_zero_and_no_gradient(name):
    logp, old, _, advantages, mask = a_batch()
    for adv, some in ((advantages, torch.zeros_like(mask)), (torch.zeros(4).double(), mask)):
        x = logp.clone().requires_grad_()
        loss = LOSSES[name](x, old, x.detach(), adv, some)
        loss.backward()
        assert loss.item() == 0
        assert x.grad.abs().max() == 0


@pytest.mark.parametrize("name", LOSSES)
def test_constants_get_no_gradient_and_old_may_be_the_policy_itself(name):
    logp, _, ref, advantages, mask = a_batch()
    x, ref, advantages = logp.requires_grad_(), ref.requires_grad_(), advantages.requires_grad_()
    LOSSES[name](x, x, ref, advantages, mask).backward()
    assert x.grad.abs().sum() > 0
    assert ref.grad is None
    assert advantages.grad is None


def test_a_huge_ratio_with_no_advantage_is_zero_and_not_nan():
    logp, old = torch.tensor([[500.0, 0.0]]), torch.zeros(1, 2)
    assert align.ppo_clip_loss(logp, old, torch.zeros(1), torch.ones(1, 2)).item() == 0
    assert align.grpo_loss(logp, old, old, torch.ones(1), torch.ones(1, 2)).isfinite()
    assert align.ppo_clip_loss(logp, old, -torch.ones(1), torch.ones(1, 2)).isfinite()


def test_dapo_gives_every_token_one_weight_and_grpo_every_response():
    mask = torch.arange(100) < torch.tensor([10, 100])[:, None]
    per_response = align.token_weights(mask, "response").sum(dim=1)
    per_token = align.token_weights(mask, "token").sum(dim=1)
    fixed = align.token_weights(mask, "constant", 200).sum(dim=1)
    close(per_response, [0.5, 0.5], atol=1e-6, rtol=0)
    close(per_token, [10 / 110, 100 / 110], atol=1e-6, rtol=0)
    close(fixed, [10 / 400, 100 / 400], atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"variant": "ppo2"}, "variant must be grpo, dr_grpo or dapo, got 'ppo2'"),
        ({"variant": "gspo"}, "use gspo_loss"),
        ({"variant": "dr_grpo"}, "dr_grpo divides by max_tokens"),
        ({"ref_logp": None}, "beta=0.04 needs ref_logp"),
        ({"beta": -0.1}, "beta must be at least 0"),
        ({"eps_low": -0.1}, "clip ranges must be at least 0"),
        ({"mask": torch.ones(4, 3)}, "logp must be .B, T. as the mask"),
        ({"ref_logp": torch.zeros(4, 1)}, "ref_logp must be .B, T. as the mask"),
        ({"kl": "k4"}, "estimator must be k1, k2 or k3"),
    ],
)
def test_grpo_refuses_what_cannot_be(change, message):
    names = ("logp", "old_logp", "ref_logp", "advantages", "mask")
    with refused(message):
        align.grpo_loss(**(dict(zip(names, a_batch())) | change))


# KL.


def test_kl_penalties_as_values_and_as_losses():
    """By enumeration over three outcomes: k1 and k3 average to the KL; the gradient of k1 is 0, of k2 the KL's, of k3 the reverse KL's."""
    policy, ref = draw(3, seed=3).requires_grad_(), draw(3, seed=4)
    log_p, log_ref = policy.log_softmax(0), ref.log_softmax(0)
    forward = (log_p.exp() * (log_p - log_ref)).sum()
    reverse = (log_ref.exp() * (log_ref - log_p)).sum()
    for name in ("k1", "k3"):
        close((log_p.exp() * align.kl_penalty(log_p, log_ref, name)).sum(), forward)
    gradients = {}
    for name in ("k1", "k2", "k3"):
        as_loss = (log_p.exp().detach() * align.kl_penalty(log_p, log_ref, name)).sum()
        gradients[name] = torch.autograd.grad(as_loss, policy, retain_graph=True)[0]
    close(gradients["k1"], torch.zeros(3))
    close(gradients["k2"], torch.autograd.grad(forward, policy, retain_graph=True)[0])
    close(gradients["k3"], torch.autograd.grad(reverse, policy)[0])


def test_kl_shaped_rewards_stand_at_each_response_s_last_token():
    logp, _, ref, _, mask = a_batch()
    rewards = torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64)
    shaped = align.kl_shaped_rewards(rewards, logp.masked_fill(~mask, math.nan), ref, mask, beta=0.5)
    for i, n in enumerate(LENGTHS):
        for t in range(5):
            want = -0.5 * (logp - ref)[i, t].item() * (t < n) + rewards[i].item() * (t == n - 1)
            close(shaped[i, t], want)


# Advantages.


def test_gae_equals_the_sum_of_discounted_deltas():
    rewards, values, gamma, lam = draw(7, seed=1), draw(8, seed=2), 0.9, 0.8
    deltas = [rewards[t] + gamma * values[t + 1] - values[t] for t in range(7)]
    want = [sum((gamma * lam) ** (k - t) * deltas[k] for k in range(t, 7)) for t in range(7)]
    close(align.gae(rewards, values, gamma, lam), torch.stack(want))
    both = align.gae(torch.stack([rewards, 2 * rewards]), torch.stack([values, 2 * values]), gamma, lam)
    close(both, torch.stack([torch.stack(want), 2 * torch.stack(want)]))
    assert not align.gae(rewards.requires_grad_(), values.requires_grad_()).requires_grad
    assert align.gae(torch.zeros(0), torch.zeros(1)).shape == (0,)
    with refused("values must have one entry more"):
        align.gae(rewards, values[:-1])
    with refused("gamma and lam must be in"):
        align.gae(rewards, values, lam=1.5)


def test_value_loss_takes_the_worse_of_clipped_and_plain():
    values, old, returns = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.5, 0.1]]), torch.tensor([[2.0, 5.0]])
    mask = torch.tensor([[1, 0]])
    assert align.value_loss(values, old, returns, mask, clip=None).item() == 0.5
    close(align.value_loss(values, old, returns, mask, clip=0.2), 0.5 * 1.3**2, atol=1e-6, rtol=0)


@pytest.mark.parametrize("normalize", [True, False])
def test_group_advantages_with_groups_side_by_side(normalize):
    rewards = torch.tensor([1.0, 4.0, 2.0, 0.0, 0.0, 9.0], dtype=torch.float64)
    got = align.group_advantages(rewards, 3, normalize_std=normalize, eps=0.1)
    want = []
    for group in ([1.0, 4.0, 2.0], [0.0, 0.0, 9.0]):
        mean = sum(group) / 3
        std = math.sqrt(sum((r - mean) ** 2 for r in group) / 2)
        want += [(r - mean) / (std + 0.1) if normalize else r - mean for r in group]
    close(got, want)
    close(align.centre_in_groups(rewards, 3), align.group_advantages(rewards, 3, normalize_std=False))


@pytest.mark.parametrize("value", [0.1, 1 / 3, -7.3, 1e8])
def test_equal_rewards_have_exactly_no_advantage_however_their_mean_rounds(value):
    rewards = torch.full((6,), value)
    for normalize in (True, False):
        assert (align.group_advantages(rewards, 3, normalize) == 0).all()
        assert (align.group_advantages(torch.tensor([value, 1.0]), 1, normalize) == 0).all()
    assert align.keep_informative(rewards, 3).tolist() == [False, False]
    assert align.keep_informative(torch.tensor([0, 0, 1, 2, 2, 2]), 3).tolist() == [True, False]
    assert align.group_advantages(torch.zeros(0), 4).shape == (0,)


def test_groups_that_do_not_divide_are_refused():
    for function in (align.group_advantages, align.keep_informative):
        with refused("multiple of group_size, got .5,. and group_size=2"):
            function(torch.zeros(5), 2)
        with refused("group_size=0"):
            function(torch.zeros(4), 0)
    with refused("rewards must be finite, got nan in row 1"):
        align.group_advantages(torch.tensor([0.0, math.nan]), 2)


def test_overlong_penalty_and_pass_at_k():
    assert [align.overlong_penalty(n, 20, 5) for n in (0, 15, 17, 20, 21)] == [0, 0, -0.4, -1, -1]
    assert [align.overlong_penalty(n, 20, 0) for n in (20, 21)] == [0, -1]
    for n, c, k in ((5, 2, 3), (4, 0, 2), (4, 4, 1), (3, 2, 2)):
        hits = [any(i < c for i in chosen) for chosen in itertools.combinations(range(n), k)]
        close(align.pass_at_k(n, c, k), sum(hits) / len(hits))
    for n, c, k in ((3, 1, 4), (3, 1, 0), (3, 4, 1), (3, -1, 1)):
        with refused("pass@k needs"):
            align.pass_at_k(n, c, k)
    with refused("at least 0"):
        align.overlong_penalty(-1, 5, 2)


# Mutants: each is a mistake that the tests above must see at their tolerance of 1e-10.

MUTANTS = {
    "max for min": ("policy", "-torch.minimum(", "-torch.maximum("),
    "the ratio upside down": ("policy", "wide(logp) - wide(old_logp.detach()), 0)", "wide(old_logp.detach()) - wide(logp), 0)"),
    "clip above only": ("policy", "ratio.clamp(1 - eps_low, 1 + eps_high)", "ratio.clamp(max=1 + eps_high)"),
    "clip ranges swapped": ("policy", "ratio.clamp(1 - eps_low, 1 + eps_high)", "ratio.clamp(1 - eps_high, 1 + eps_low)"),
    "k3 inverted": ("policy", "torch.expm1(_capped(-d)) + d", "torch.expm1(_capped(d)) - d"),
    "the penalty subtracted": ("policy", "    return beta * kl_penalty", "    return -beta * kl_penalty"),
    "dapo per response": ("policy", '"dapo": Variant("token"', '"dapo": Variant("response"'),
    "dr_grpo per token": ("policy", '"dr_grpo": Variant("constant"', '"dr_grpo": Variant("token"'),
    "max_tokens left out": ("policy", "(max(len(weights), 1) * max_tokens)", "max(len(weights), 1)"),
    "sum for mean in gspo": ("policy", " / mask.sum(dim=1, keepdim=True).clamp(min=1)", ""),
    "gae without lambda": ("critic", "gamma * lam * ahead", "gamma * ahead"),
    "biased std": ("group", "grouped.std(dim=1, keepdim=True)", "grouped.std(dim=1, keepdim=True, correction=0)"),
    "groups interleaved": ("group", "rewards.reshape(-1, group_size)", "rewards.reshape(group_size, -1).T"),
    "beta outside the sigmoid": ("preference", "logit = beta * (chosen - rejected)", "logit = chosen - rejected"),
    "smoothing of the wrong sign": ("preference", "F.logsigmoid(-logit)", "F.logsigmoid(logit)"),
    "rewards without beta": ("preference", "beta * chosen.detach()", "chosen.detach()"),
    "mask not shifted": ("likelihood", "response_mask[:, 1:]", "response_mask[:, :-1]"),
    "labels not shifted": ("likelihood", "targets = input_ids[:, 1:]", "targets = input_ids[:, :-1]"),
}  # fmt: skip


@pytest.mark.parametrize("name", MUTANTS)
def test_the_tolerance_catches(name):
    """A difference of 1e-3 in any of these figures would be a mistake; rounding in float64 is a millionth of a millionth."""
    module_name, line, change = MUTANTS[name]
    mutant = mutated(f"llmcore.align.losses.{module_name}", line, change)
    right = getattr(losses, module_name)
    assert max_difference(right, mutant) > 1e-3


def max_difference(right, mutant) -> float:
    figures = {
        "policy": (
            lambda m: m.grpo_loss(*a_batch(), beta=0.3, eps_low=0.1, eps_high=0.25),
            lambda m: m.grpo_loss(*a_batch(), beta=0.3, variant="dapo"),
            lambda m: m.grpo_loss(*a_batch(), beta=0.3, variant="dr_grpo", max_tokens=7),
            lambda m: m.gspo_loss(*a_batch()[:2], None, *a_batch()[3:], eps_low=0.05, eps_high=0.1),
        ),
        "critic": (lambda m: m.gae(draw(7, seed=1), draw(8, seed=2), 0.9, 0.8).sum(),),
        "group": (lambda m: m.group_advantages(torch.tensor([1.0, 4.0, 2.0, 0.0, 0.0, 9.0]), 3)[0],),
        "preference": (
            lambda m: m.dpo_loss(*draw(4, 7), 0.3, 0.2)[0],
            lambda m: m.dpo_loss(*draw(4, 7), 0.3)[1].sum(),
        ),
        "likelihood": (
            lambda m: m.sequence_logprob(draw(1, 4, 7), torch.tensor([[1, 2, 3, 4]]), torch.tensor([[0, 0, 0, 1]]))[0],
        ),
    }
    name = right.__name__.rpartition(".")[2]
    return max(abs(figure(right).item() - figure(mutant).item()) for figure in figures[name])
