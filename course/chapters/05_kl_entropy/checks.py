"""Checks of chapter 05: references in float64, cases by rule, and the ways information measures go wrong.

The references share no formula with the worked solutions where there is a choice: losses are built position by position in
float64, divergences outcome by outcome. The chapter promises values, shapes and gradients, not dtypes: an answer that computes in
float32 inside is right, so tolerances are float32's everywhere, and the cases make every mistake larger than that.
"""

import math

import torch

from grader.exercise import Case, Close, Code, Exercise, Misconception, Scenario, Variant

INF = math.inf
NEAR = Close(2e-5, 2e-6)
"""Float32's rounding, in float64 cases too."""

DISTRIBUTIONS = ("torch.distributions", "scipy.stats", "scipy.special.rel_entr", "scipy.special.kl_div")
CROSS_ENTROPY_ROUTINES = (
    "torch.nn.functional.cross_entropy",
    "torch.nn.functional.nll_loss",
    "torch.nn.functional.multi_margin_loss",
    "torch.nn.CrossEntropyLoss",
    "torch.nn.NLLLoss",
    "torch.nn.AdaptiveLogSoftmaxWithLoss",
    "torch.nn.functional.kl_div",
    "torch.nn.KLDivLoss",
    *DISTRIBUTIONS,
)
KL_ROUTINES = ("torch.nn.functional.kl_div", "torch.kl_div", "torch.nn.KLDivLoss", *DISTRIBUTIONS)


def _log_softmax(x):
    """Of a vector in float64, from differences: ln of 1 / sum_j exp(x_j - x_i), without a maximum that gradients could miss."""
    return -torch.logsumexp(x[None, :] - x[:, None], dim=1)


def _entropy(p, base=2.0, dim=-1):
    rows = p.double().movedim(dim, -1)
    if bool((rows < 0).any()) or bool(((rows.sum(-1) - 1).abs() > 1e-3).any()):
        raise ValueError("no distribution")
    return torch.special.entr(rows).sum(-1) / math.log(base)


def _cross_entropy(logits, targets, ignore_index=-100):
    flat, labels = logits.double().reshape(-1, logits.shape[-1]), targets.reshape(-1).tolist()
    terms = [-_log_softmax(row)[label] for row, label in zip(flat, labels) if label != ignore_index]
    return torch.stack(terms).mean() if terms else 0.0 * flat.sum()


def _lm_loss(logits, input_ids, attention_mask=None):
    batch, time = input_ids.shape
    real = [[True] * time] * batch if attention_mask is None else attention_mask.tolist()
    terms = [
        -_log_softmax(logits[b, t].double())[input_ids[b, t + 1]]
        for b in range(batch)
        for t in range(time - 1)
        if real[b][t] and real[b][t + 1]
    ]
    return torch.stack(terms).mean() if terms else 0.0 * logits.double().sum()


def _kl_divergence(log_p, log_q, dim=-1):
    lp, lq = log_p.double().movedim(dim, -1), log_q.double().movedim(dim, -1)
    shape = lp.shape[:-1]
    sums = []
    for p_row, q_row in zip(lp.reshape(-1, lp.shape[-1]), lq.reshape(-1, lq.shape[-1])):
        live = torch.isfinite(p_row.detach())
        sums.append((p_row[live].exp() * (p_row[live] - q_row[live])).sum())
    return torch.stack(sums).reshape(shape)


def _gaussian_kl(mu0, var0, mu1, var1):
    s0, s1 = var0.double().sqrt(), var1.double().sqrt()
    return torch.log(s1) - torch.log(s0) + (s0**2 + (mu1.double() - mu0.double()) ** 2) / (2 * s1**2) - 0.5


def _kl_estimates(logp, logq):
    log_r = logq.double() - logp.double()
    return {"k1": -log_r, "k2": log_r**2 / 2, "k3": torch.exp(log_r) - 1 - log_r}


def _wasserstein_1d(x, y):
    if len(x) != len(y):
        raise ValueError("sizes differ")
    pairs = zip(sorted(x.tolist()), sorted(y.tolist()))
    return torch.tensor(math.fsum(abs(a - b) for a, b in pairs) / len(x), dtype=torch.float64)


def _perplexity(nll_sum, n_tokens):
    if not n_tokens > 0:
        raise ValueError("nothing measured")
    return math.e ** (nll_sum / n_tokens)


def _bits_per_byte(nll_sum, n_bytes):
    if not n_bytes > 0:
        raise ValueError("nothing measured")
    return math.log2(math.e) * nll_sum / n_bytes


def _z_loss(logits, coefficient=1e-4):
    rows = logits.double().reshape(-1, logits.shape[-1])
    log_z = [row[0] - _log_softmax(row)[0] for row in rows]  # x_0 - ln softmax(x)_0 is ln Z
    return coefficient * sum(z**2 for z in log_z) / len(log_z)


def _info_nce(queries, keys, temperature=0.07):
    q, k = queries.double(), keys.double()
    total = 0.0
    for i in range(len(q)):
        cosines = torch.stack([q[i] @ k[j] / (q[i] @ q[i]).sqrt() / (k[j] @ k[j]).sqrt() for j in range(len(k))])
        total = total - _log_softmax(cosines / temperature)[i]
    return total / len(q)


def _distillation_loss(student_logits, teacher_logits, temperature):
    width = student_logits.shape[-1]
    student, teacher = (x.double().reshape(-1, width) / temperature for x in (student_logits, teacher_logits.detach()))
    total = 0.0
    for s, t in zip(student, teacher):
        log_p = _log_softmax(t)
        total = total + (log_p.exp() * (log_p - _log_softmax(s))).sum()
    return total * temperature * temperature / len(student)


def _case(label, *args, close=None, **more):
    """A case in which the result may be float32 or float64."""
    return Case(label=label, args=args, exact_dtype=False, close=close, **more)


def _bad(label, *args, **kwargs):
    return Case(label=label, args=args, kwargs=kwargs, raises=ValueError)


def _turned(x):
    """The same values in another memory order: a view that is not contiguous."""
    return Code("def make(x):\n    return x.transpose(0, 1).contiguous().transpose(0, 1)", (x,))


def _probabilities(rng, *shape, scale=1.5):
    x = torch.exp(rng.normal(*shape, scale=scale))
    return x / x.sum(-1, keepdim=True)


def _log_probabilities(rng, *shape, scale=1.5):
    return torch.log_softmax(rng.normal(*shape, scale=scale), dim=-1)


def _whole(rng, *shape, low=-300, high=300, dtype=torch.float32):
    """Whole numbers as floats: large logits that float32 holds exactly."""
    return rng.integers(low, high + 1, *shape).to(dtype)


def _entropy_cases(rng):
    yield _case("a fair coin: 1 bit", torch.tensor([0.5, 0.5], dtype=torch.float64))
    yield _case("seven outcomes", _probabilities(rng, 7))
    p = _probabilities(rng, 2, 3, 7)
    yield _case("distributions along the last dimension of (2, 3, 7)", p)
    yield _case("base e: nats", p, math.e)
    yield _case("base 10, by name", p, kwargs={"base": 10.0})
    yield _case("base 0.5: the logarithm is negative", p, 0.5)
    yield _case("uniform over 8: 3 bits", torch.full((8,), 0.125, dtype=torch.float64))
    yield _case(
        "uniform over a vocabulary of 50,000: nothing is added inside the logarithm", torch.full((50_000,), 2e-5)
    )
    for dim in (0, 1, -2, -3):
        turned = _probabilities(rng, 3, 4, 5).movedim(-1, dim).contiguous()
        yield _case(f"dim={dim}", turned, kwargs={"dim": dim})
    square = _probabilities(rng, 4, 4).T.contiguous()
    yield _case("a square matrix whose columns are the distributions, dim=0", square, 2.0, 0)
    yield _bad("the same matrix along its rows, which do not sum to 1", square)
    both = torch.tensor([[0.7, 0.3, 0.0], [0.1, 0.2, 0.7], [0.2, 0.5, 0.3]], dtype=torch.float64)
    yield _case("rows and columns both sum to 1, dim=0", both, 2.0, 0)
    yield _case("certainty: 0 bits", torch.eye(4, dtype=torch.float64))
    zeros = torch.tensor([[0.5, 0.0, 0.25, 0.25], [0.0, 0.0, 0.3, 0.7]], dtype=torch.float64)
    yield _case("some outcomes never happen", zeros)
    yield _case("one outcome only", torch.ones(3, 1, dtype=torch.float64))
    yield _case("very sharp distributions, down to 1e-40", _probabilities(rng, 3, 7, scale=30.0))
    yield _case("almost uniform", _probabilities(rng, 3, 9, scale=1e-3), math.e)
    yield _case("float32 with zeros", zeros.float(), math.e)
    yield _case("distributions that are not contiguous in memory", _turned(p))
    for factor in (1.0005, 0.9995):
        yield _case(f"sums of {factor} are near enough to 1", p * factor, close=Close(3e-3, 1e-3))
    for factor in (1.003, 0.997, 1.2, 0.5):
        yield _bad(f"sums of {factor} are not 1", p * factor)
    first_off = p.clone()
    first_off[0, 0] *= 1.01
    yield _bad("the first distribution of six sums to 1.01", first_off)
    one_off = p.clone()
    one_off[1, 2] *= 1.01
    yield _bad("one distribution of six sums to 1.01", one_off)
    opposite = p.clone()
    opposite[0, 1] *= 1.01
    opposite[1, 0] *= 0.99
    yield _bad("one sums to 1.01, another to 0.99", opposite)
    yield _bad("a negative entry, although the sum is 1", torch.tensor([0.7, 0.5, -0.2], dtype=torch.float64))
    small = torch.tensor([[0.5, 0.5, 0.0], [0.6, 0.4005, -0.0005]], dtype=torch.float64)
    yield _bad("a small negative entry in one of two, sums are 1", small)
    yield _bad("logits instead of probabilities", rng.normal(3, 7))
    yield _bad("counts instead of probabilities", torch.tensor([3.0, 1.0, 4.0]))


def _targets(rng, *shape, classes=11, ignored=0.0, label=-100):
    targets = rng.integers(0, classes, *shape)
    return targets.masked_fill(rng.mask(*shape, keep=ignored), label) if ignored else targets


def _cross_entropy_cases(rng):
    V = 11
    yield _case("one position, three classes", rng.normal(1, 3), torch.tensor([2]))
    yield _case("five positions, eleven classes", rng.normal(5, V), _targets(rng, 5), grad=(0,))
    yield _case("as many positions as classes", rng.normal(4, 4), torch.tensor([1, 3, 0, 1]), grad=(0,))
    yield _case("logits (2, 3, 11)", rng.normal(2, 3, V), _targets(rng, 2, 3), grad=(0,))
    yield _case("logits (2, 3, 2, 5)", rng.normal(2, 3, 2, 5), _targets(rng, 2, 3, 2, classes=5), grad=(0,))
    logits, targets = rng.normal(2, 5, V, scale=2.0), _targets(rng, 2, 5)
    some = targets.clone()
    some[0, 1:] = -100
    some[1, 2] = -100
    yield _case("five of ten targets are -100", logits, some, grad=(0,))
    first = targets.clone()
    first[0] = -100
    yield _case("the first sequence is ignored altogether", logits, first, grad=(0,))
    lone = torch.full((2, 5), -100)
    lone[1, 3] = 4
    yield _case("one target of ten is kept", logits, lone, grad=(0,))
    for label in (0, 3, V - 1):
        mixed = targets.clone()
        mixed[:, 1] = label
        yield _case(f"ignore_index={label}: a class that does not count", logits, mixed, label, grad=(0,))
    minus = some.masked_fill(some == -100, -1)
    yield _case("ignore_index=-1, by name", logits, minus, kwargs={"ignore_index": -1}, grad=(0,))
    nothing = torch.full((2, 5), -100)
    yield _case("no target is kept: 0, and no NaN in the gradient", logits, nothing, grad=(0,))
    yield _case("no target is kept with ignore_index=2", logits, torch.full((2, 5), 2), 2, grad=(0,))
    yield _case("no positions at all: 0", torch.zeros(0, V), torch.zeros(0, dtype=torch.int64))
    yield _case("logits near 0.001: about ln 11", rng.normal(2, 3, V, scale=1e-3), _targets(rng, 2, 3), grad=(0,))
    yield _case("float32 logits between -300 and 300", _whole(rng, 2, 5, V), _targets(rng, 2, 5))
    lifted = _whole(rng, 2, 5, V, low=-3, high=3, dtype=torch.float64)
    lifted[0] += 1e4
    lifted[1, 2] -= 1e4
    yield _case("some rows shifted by 10000 up or down", lifted, _targets(rng, 2, 5), grad=(0,))
    peak = _whole(rng, 3, V, low=-3, high=3, dtype=torch.float64)
    peak[:, 2] += 2000.0
    yield _case("one wrong class is 2000 above the rest", peak, torch.tensor([1, 2, 5]), grad=(0,))
    loud = logits.clone()
    loud[some == -100] *= 1000.0
    yield _case("ignored positions hold logits in the thousands", loud, some, grad=(0,))
    yield _case("float32", logits.float(), some, grad=(0,))
    yield _case("logits and targets that are not contiguous", _turned(logits), _turned(some))


def _lm_cases(rng):
    B, T, V = 3, 6, 11
    logits, ids = rng.normal(B, T, V, scale=1.5), _targets(rng, B, T)
    yield _case("two tokens: one forecast", rng.normal(1, 2, 5), torch.tensor([[3, 1]]))
    yield _case("no mask: every token is real", logits, ids, grad=(0,))
    yield _case("B = T = V: every mix-up of axes fits", rng.normal(4, 4, 4), _targets(rng, 4, 4, classes=4), grad=(0,))

    def masked(label, *rows, **more):
        return _case(label, logits, ids, torch.tensor(rows), grad=(0,), **more)

    ones = [1] * T
    yield masked("a mask of ones", ones, ones, ones)
    yield masked("padding on the right", ones, [1, 1, 1, 0, 0, 0], [1, 1, 0, 0, 0, 0])
    yield masked("padding on the left", ones, [0, 0, 1, 1, 1, 1], [0, 0, 0, 0, 1, 1])
    yield masked("padding on both sides", [0, 1, 1, 1, 0, 0], ones, [0, 0, 1, 1, 1, 0])
    yield masked("padding in the middle: no pair across it", [1, 1, 0, 1, 1, 1], [1, 0, 1, 1, 0, 1], ones)
    yield masked("one sequence is all padding", ones, [0] * T, [1, 1, 1, 1, 0, 0])
    yield masked("a sequence of one real token has no pair", ones, [1, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 1])
    yield masked("no two real tokens are neighbours: 0", [1, 0, 1, 0, 1, 0], [0, 1, 0, 1, 0, 1], [0] * T)
    yield masked("everything is padding: 0, and no NaN in the gradient", [0] * T, [0] * T, [0] * T)
    right = torch.tensor([ones, [1, 1, 1, 1, 0, 0], [1, 1, 0, 0, 0, 0]])
    left = right.flip(1)
    yield _case("a boolean mask, padding on the left", logits, ids, left.bool(), grad=(0,))
    yield _case("a boolean mask, padding on the right, by name", logits, ids, kwargs={"attention_mask": right.bool()})
    for pad in (0, 7):
        filled = ids.masked_fill(right == 0, pad)
        filled[:, 1] = pad
        yield _case(f"padding has the id {pad}, and so have real tokens", logits, filled, right, grad=(0,))
    zero = ids.clone()
    zero[:, 2:4] = 0
    yield _case("no mask, and some real tokens have the id 0", logits, zero, grad=(0,))
    for mask, side in ((right, "right"), (left, "left")):
        loud = logits.masked_fill(mask[..., None] == 0, 0.0) + (mask[..., None] == 0) * _whole(rng, B, T, V).double()
        yield _case(f"padding on the {side} holds logits in the hundreds", loud, ids, mask, grad=(0,))
    yield _case("one token: nothing to forecast, 0", rng.normal(2, 1, V), _targets(rng, 2, 1), grad=(0,))
    yield _case(
        "one token and a mask: 0", rng.normal(2, 1, V), _targets(rng, 2, 1), torch.ones(2, 1, dtype=torch.int64)
    )
    sure = torch.full((2, 6, 5), 0.0, dtype=torch.float64)
    sure[0, :, 1] = 8.0
    lengths = torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 0, 0, 0, 0]])
    yield _case("a long easy and a short hard sequence", sure, torch.ones(2, 6, dtype=torch.int64), lengths, grad=(0,))
    yield _case("float32 logits between -300 and 300", _whole(rng, B, T, V), ids, right)
    shifted = _whole(rng, B, T, V, low=-3, high=3, dtype=torch.float64)
    shifted[:, 2] += 1e4
    yield _case("logits of one position shifted by 10000", shifted, ids, left, grad=(0,))
    yield _case("tensors that are not contiguous", _turned(logits), _turned(ids), _turned(right))

    def unused(ask):
        before = ask.call(logits, ids, attention_mask=right)
        other_logits, other_ids = logits.clone(), ids.clone()
        other_logits[:, -1] += 3.0 * rng.normal(B, V)
        ask.same(
            ask.call(other_logits, ids, attention_mask=right),
            before,
            "the logits of the last position changed the loss, but no token follows it",
        )
        other_ids[:, 0] = (ids[:, 0] + 1) % V
        ask.same(
            ask.call(logits, other_ids, attention_mask=right),
            before,
            "the first token changed the loss, but nothing forecasts it",
        )
        other_ids = torch.where(right == 1, ids, (ids + 3) % V)
        ask.same(ask.call(logits, other_ids, attention_mask=right), before, "the ids of padded tokens changed the loss")

    yield Scenario(label="last logits, first token and padding do not matter", run=unused)


def _kl_cases(rng):
    yield _case("seven outcomes", _log_probabilities(rng, 7), _log_probabilities(rng, 7), grad=(0, 1))
    log_p, log_q = _log_probabilities(rng, 2, 3, 7), _log_probabilities(rng, 2, 3, 7)
    yield _case("distributions along the last dimension of (2, 3, 7)", log_p, log_q, grad=(0, 1))
    yield _case("p = q: 0", log_p, log_p)
    for dim in (0, 1, -2, -3):
        pair = (_log_probabilities(rng, 3, 4, 5).movedim(-1, dim).contiguous() for _ in range(2))
        yield _case(f"dim={dim}", *pair, dim, grad=(0, 1))
    square = (_log_probabilities(rng, 4, 4).T.contiguous() for _ in range(2))
    yield _case("a square matrix, dim=0, by name", *square, kwargs={"dim": 0})
    yield _case("nearly equal", log_p, torch.log_softmax(log_p + rng.normal(2, 3, 7, scale=0.1), -1), grad=(0, 1))

    def with_zeros(log_x, *where):
        zeros = torch.zeros(log_x.shape, dtype=torch.bool)
        for index in where:
            zeros[index] = True
        return torch.log_softmax(log_x.masked_fill(zeros, -INF), -1)

    p_hole = with_zeros(log_p, (0, 0, 2), (1, 2, 0), (1, 2, 5))
    yield _case("p is 0 somewhere: the term is 0, gradients are finite", p_hole, log_q, grad=(0, 1))
    q_hole = with_zeros(log_q, (0, 0, 2), (1, 2, 5))
    yield _case("p and q are 0 at the same place: the term is 0, gradients are finite", p_hole, q_hole, grad=(0, 1))
    sure = torch.full((4, 4), -INF, dtype=torch.float64).fill_diagonal_(0.0)
    yield _case("p is certain", sure, _log_probabilities(rng, 4, 4), grad=(0, 1))
    yield _case("p and q are certain of the same", sure, sure, grad=(0, 1))
    yield _case("q is 0 where p is not: inf", log_p[0, 0], with_zeros(log_q, (0, 0, 3))[0, 0])
    yield _case("q is 0 where p is not, in one row of six", log_p, with_zeros(log_q, (1, 0, 3)))
    yield _case("some holes in both, some in one", p_hole, with_zeros(log_q, (0, 0, 2), (0, 1, 1), (1, 2, 0)))
    yield _case("supports without overlap: inf", sure, sure.flip(1))
    yield _case("p is uniform, q certain: inf", torch.full((4,), math.log(0.25), dtype=torch.float64), sure[1])
    faint = log_q.clone()
    faint[..., 1] = -50.0
    yield _case("q is e^-50 where p is not small", log_p, torch.log_softmax(faint, -1), grad=(0, 1))
    fainter = log_q.clone()
    fainter[..., 4] = -900.0
    yield _case("q is e^-900: 0 as a number, not as a logarithm", log_p, torch.log_softmax(fainter, -1), grad=(0, 1))
    big = tuple(torch.log_softmax(_whole(rng, 3, 7), -1) for _ in range(2))
    yield _case("float32 log-probabilities down to -600", *big)
    yield _case("float32", log_p.float(), log_q.float(), grad=(0, 1))
    yield _case("float32 with zeros in p", p_hole.float(), log_q.float(), grad=(0, 1))
    yield _case("inputs that are not contiguous", _turned(log_p), _turned(log_q))


def _gaussian_cases(rng):
    def some(*shape):
        return (
            rng.normal(*shape, scale=1.5),
            rng.uniform(*shape, low=0.3, high=3.0),
            rng.normal(*shape, scale=1.5),
            rng.uniform(*shape, low=0.3, high=3.0),
        )

    def numbers(*values):
        return tuple(torch.tensor(v, dtype=torch.float64) for v in values)

    yield _case("means 0 and 2, variances 1: 2 nats", *numbers(0.0, 1.0, 2.0, 1.0))
    yield _case("equal means, variances 1 and 4", *numbers(0.5, 1.0, 0.5, 4.0))
    yield _case("equal means, variances 4 and 1", *numbers(0.5, 4.0, 0.5, 1.0))
    yield _case("equal variances of 9", *numbers(1.0, 9.0, -2.0, 9.0))
    yield _case("seven pairs", *some(7))
    yield _case("shape (2, 3, 4): nothing is summed", *some(2, 3, 4))
    mu, var = rng.normal(5), rng.uniform(5, low=0.3, high=3.0)
    yield _case("the same bell twice: 0", mu, var, mu, var)
    yield _case("means 0 and 0.01, standard deviation 0.001: 50 nats", *numbers(0.0, 1e-6, 0.01, 1e-6))
    yield _case("means 0 and 0.01, variance 0.001: 0.05 nats", *numbers(0.0, 1e-3, 0.01, 1e-3))
    yield _case("a narrow and a wide bell", *numbers(1.0, 1e-4, 0.0, 100.0))
    yield _case("a wide and a narrow bell", *numbers(1.0, 100.0, 0.0, 1e-2))
    yield _case("one pair in a tensor of shape (1,)", *some(1))
    yield _case("float32", *(x.float() for x in some(3, 5)))
    yield _case("inputs that are not contiguous", *(_turned(x) for x in some(3, 5)))


def _estimate_cases(rng):
    def numbers(*values):
        return torch.tensor(values, dtype=torch.float64)

    yield _case("one sample that p likes better", numbers(-1.0), numbers(-1.5))
    yield _case("one sample that q likes better", numbers(-2.0), numbers(-0.7))
    logp = -rng.uniform(7, low=0.1, high=6.0)
    yield _case("seven samples", logp, logp + rng.normal(7))
    tokens = -rng.uniform(3, 5, low=0.1, high=6.0)
    yield _case("tokens of three answers, (3, 5): each by itself", tokens, tokens + rng.normal(3, 5, scale=0.7))
    yield _case("p and q agree: all 0", logp, logp)
    yield _case("p and q nearly agree", logp, logp + rng.normal(7, scale=0.05))
    yield _case("q is e^12 times p and the other way round", numbers(-20.0, -1.0, -8.0), numbers(-8.0, -13.0, -8.5))
    far = numbers(-800.0, -900.0, -1000.0)
    yield _case("whole answers: log-probabilities near -900", far, far + numbers(0.5, -2.0, 1.25))
    yield _case("densities: log-probabilities above 0", numbers(2.5, 0.3), numbers(1.0, 3.1))
    yield _case(
        "a tensor without dimensions", torch.tensor(-1.25, dtype=torch.float64), torch.tensor(-0.5, dtype=torch.float64)
    )
    small = (-rng.uniform(2, 7, low=0.1, high=6.0)).float()
    yield _case("float32", small, small + rng.normal(2, 7, dtype=torch.float32))
    yield _case("inputs that are not contiguous", _turned(tokens), _turned(tokens + rng.normal(3, 5)))

    def exact(ask):
        log_p, log_q = _log_probabilities(rng, 6), _log_probabilities(rng, 6)
        p, kl = log_p.exp(), _kl_divergence(log_p, log_q)
        got = ask.call(log_p, log_q)
        for name in ("k1", "k3"):
            if isinstance(got, dict) and isinstance(got.get(name), torch.Tensor) and got[name].shape == p.shape:
                mean = (p * got[name].double()).sum()
                ask.same(mean, kl, f"averaged exactly over p, {name} must be KL(p || q)")

    yield Scenario(label="the mean over every outcome, weighted by p, is the divergence", run=exact)


def _wasserstein_cases(rng):
    def numbers(*values):
        return torch.tensor(values, dtype=torch.float64)

    yield _case("two heaps, two holes, given in another order", numbers(0.0, 1.0), numbers(3.0, 2.0))
    yield _case("one value each", numbers(-1.5), numbers(2.0))
    yield _case("seven values each", rng.normal(7), rng.normal(7, shift=0.3))
    x = rng.normal(9, scale=2.0)
    yield _case("the same values in another order: 0", x, x[rng.permutation(9)])
    yield _case("shifted by 3 and shuffled: 3", x, x[rng.permutation(9)] + 3.0)
    yield _case("shifted by -3 and shuffled: 3", x, x[rng.permutation(9)] - 3.0)
    yield _case("equal means, unequal spread", numbers(-1.0, 1.0, 0.0), numbers(5.0, -5.0, 0.0))
    yield _case("one outlier", numbers(0.0, 0.0, 0.0, 0.0), numbers(0.0, 100.0, 0.0, 0.0))
    yield _case("ties", numbers(2.0, 1.0, 2.0, 1.0), numbers(1.0, 3.0, 1.0, 3.0))
    yield _case(
        "values near 0.01", rng.normal(8, scale=0.01), rng.normal(8, scale=0.01, shift=0.003), close=Close(1e-4, 0.0)
    )
    yield _case("values near 10,000", rng.normal(8, scale=1e4), rng.normal(8, scale=1e4))
    yield _case("a thousand values", rng.normal(1000), rng.normal(1000, scale=1.7))
    yield _case("float32", rng.normal(7, dtype=torch.float32), rng.normal(7, dtype=torch.float32))
    every = Code("def make(x):\n    return x[::2]", (rng.normal(14),))
    yield _case("inputs that are not contiguous", every, rng.normal(7))
    yield _bad("sizes 3 and 4", rng.normal(3), rng.normal(4))
    yield _bad("sizes 6 and 2", rng.normal(6), rng.normal(2))
    yield _bad("sizes 1 and 4: they would broadcast", rng.normal(1), rng.normal(4))
    yield _bad("sizes 4 and 1: they would broadcast", rng.normal(4), rng.normal(1))


def _perplexity_cases(rng):
    for nll_sum, n, why in (
        (3 * math.log(20), 3, "three tokens, a choice among 20 each: 20"),
        (2.0, 1, "one token"),
        (7.5, 5, "five tokens, 1.5 nats each"),
        (0.0, 4, "never surprised: 1"),
        (125.0, 5, "25 nats a token: e^25"),
        (1e-3, 2, "hardly surprised"),
        (4321.0, 1000, "a thousand tokens"),
        (3.2e6, 1_000_000, "a million tokens: the sum alone would overflow exp"),
        (-4.0, 5, "a density can give less than 0 nats"),
    ):
        yield Case(label=why, args=(nll_sum, n))
    total, n = float(rng.uniform(low=1.0, high=300.0)), rng.integer(50, 90)
    yield Case(label="random numbers", args=(total, n))
    parts = [(6.0, 2), (30.0, 8), (1.5, 5)]
    yield Case(
        label="three texts of unequal length together", args=(sum(a for a, _ in parts), sum(b for _, b in parts))
    )
    yield Case(label="by name", kwargs={"nll_sum": 9.0, "n_tokens": 6})
    yield _bad("no tokens", 3.0, 0)
    yield _bad("no tokens and no surprise", 0.0, 0)
    yield _bad("a negative count", 3.0, -2)


def _bits_cases(rng):
    for nll_sum, n, why in (
        (3 * math.log(2), 6, "3 bits over 6 bytes: 0.5"),
        (8 * math.log(2), 1, "8 bits over one byte: nothing compressed"),
        (2.0, 1, "2 nats over one byte"),
        (0.0, 4, "never surprised: 0"),
        (7.5, 5, "7.5 nats over five bytes"),
        (-3.0, 5, "a density can give less than 0 nats"),
        (3.2e6, 4_000_000, "a long text"),
    ):
        yield Case(label=why, args=(nll_sum, n))
    yield Case(label="random numbers", args=(float(rng.uniform(low=1.0, high=900.0)), rng.integer(90, 900)))
    yield Case(label="by name", kwargs={"nll_sum": 9.0, "n_bytes": 6})
    yield _bad("no bytes", 3.0, 0)
    yield _bad("no bytes and no surprise", 0.0, 0)
    yield _bad("a negative count", 3.0, -2)


def _z_cases(rng):
    V = 11
    yield _case("one position, four equal logits: ln 4 squared", torch.zeros(1, 4, dtype=torch.float64), 1.0)
    logits = rng.normal(2, 3, V, shift=0.4, scale=1.5)
    yield _case("coefficient 0.7, logits (2, 3, 11)", logits, 0.7, grad=(0,))
    yield _case("five positions (5, 11), coefficient 2", rng.normal(5, V), 2.0, grad=(0,))
    yield _case("as many positions as classes", rng.normal(4, 4), 0.7, grad=(0,))
    yield _case("logits (2, 3, 2, 5)", rng.normal(2, 3, 2, 5), 0.7, grad=(0,))
    yield _case("the default coefficient 1e-4", logits, close=Close(1e-4, 1e-9))
    yield _case("the coefficient by name", logits, kwargs={"coefficient": 0.3}, grad=(0,))
    yield _case("coefficient 0", logits, 0.0)
    yield _case("log-probabilities: Z is 1, the loss 0", torch.log_softmax(logits, -1), 3.0)
    yield _case("low logits: Z is below 1", logits - 6.0, 0.7, grad=(0,))
    mixed = logits.clone()
    mixed[0] += 5.0
    mixed[1] -= 9.0
    yield _case("Z above 1 here and below 1 there", mixed, 0.7, grad=(0,))
    yield _case("logits near 0.001: about (ln 11)^2", rng.normal(2, 3, V, scale=1e-3), 0.7, grad=(0,))
    yield _case("float32 logits between -300 and 300", _whole(rng, 2, 5, V), 0.7)
    yield _case("float32 logits near -300", _whole(rng, 2, 5, V, low=-310, high=-290), 0.7)
    shifted = _whole(rng, 3, V, low=-3, high=3, dtype=torch.float64)
    shifted[1] += 1e4
    yield _case("one position shifted by 10000", shifted, 0.7, grad=(0,), close=Close(1e-3, 1e-3))
    yield _case("float32", logits.float(), 0.7, grad=(0,))
    yield _case("logits that are not contiguous", _turned(logits), 0.7)


def _info_cases(rng):
    q, k = rng.normal(5, 7), rng.normal(5, 7)
    yield _case(
        "two pairs in the plane", torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.tensor([[3.0, 1.0], [1.0, 1.0]]), 0.5
    )
    yield _case("five pairs of width 7, temperature 0.5", q, k, 0.5, grad=(0, 1))
    yield _case("the default temperature 0.07", q, k, grad=(0, 1))
    yield _case("temperature 2, by name", q, k, kwargs={"temperature": 2.0}, grad=(0, 1))
    yield _case("more pairs than width", rng.normal(9, 4), rng.normal(9, 4), 0.3, grad=(0, 1))
    yield _case("as many pairs as width", rng.normal(6, 6), rng.normal(6, 6), 0.3, grad=(0, 1))
    yield _case("keys are noisy copies of the queries", q, q + rng.normal(5, 7, scale=0.3), 0.2, grad=(0, 1))
    yield _case("queries and keys are the same", q, q, 0.2)
    yield _case(
        "keys of very different lengths", q, k * torch.tensor([[0.01], [1.0], [100.0], [3.0], [0.2]]), 0.3, grad=(0,)
    )
    lengths = torch.tensor([[50.0], [0.1], [2.0], [0.02], [7.0]])
    yield _case("queries of very different lengths", q * lengths, k, 0.3, grad=(1,))
    yield _case("inputs near 0.001", q * 1e-3, k * 1e-3, 0.3, close=Close(3e-3, 1e-3))
    yield _case("one pair: no choice, 0", rng.normal(1, 7), rng.normal(1, 7), 0.3)
    yield _case("every key is the opposite of its query", q, -q, 0.5, grad=(0, 1))
    sharp = rng.normal(5, 7, dtype=torch.float32)
    hard = -sharp + rng.normal(5, 7, scale=0.1, dtype=torch.float32)
    yield _case("float32, temperature 0.003: logits of 333", sharp, hard, 0.003, close=Close(1e-3, 1e-2))
    yield _case("the same with keys that fit", sharp, -hard, 0.003, close=Close(1e-3, 1e-3))
    yield _case("float32", q.float(), k.float(), 0.3, grad=(0, 1))
    yield _case("inputs that are not contiguous", _turned(q), _turned(k), 0.3)


def _distillation_cases(rng):
    V = 11
    one = torch.zeros(1, 2, dtype=torch.float64)
    yield _case(
        "an undecided student, temperature 1", one, torch.tensor([[0.0, math.log(3.0)]], dtype=torch.float64), 1.0
    )
    student, teacher = rng.normal(5, V, scale=2.0), rng.normal(5, V, scale=2.0)
    yield _case("five positions, temperature 1", student, teacher, 1.0, grad=(0, 1))
    yield _case("temperature 2.5: no gradient reaches the teacher", student, teacher, 2.5, grad=(0, 1))
    yield _case("temperature 0.5, by name", student, teacher, kwargs={"temperature": 0.5}, grad=(0, 1))
    s3, t3 = rng.normal(2, 3, V, scale=2.0), rng.normal(2, 3, V, scale=2.0)
    yield _case("logits (2, 3, 11): the mean is over six positions", s3, t3, 2.5, grad=(0, 1))
    wide = rng.normal(2, 3, 2, 5, scale=2.0), rng.normal(2, 3, 2, 5, scale=2.0)
    yield _case("logits (2, 3, 2, 5)", *wide, 3.0, grad=(0, 1))
    yield _case("as many positions as classes", rng.normal(4, 4), rng.normal(4, 4), 1.5, grad=(0, 1))
    yield _case("student and teacher agree: 0", s3, s3, 2.0)
    yield _case("they differ by a constant: 0", s3, s3 + 5.0, 2.0)
    yield _case("temperature 20", 4 * s3, 4 * t3, 20.0, grad=(0, 1), close=Close(1e-4, 1e-5))
    sharp = 8 * t3
    yield _case("a teacher who is nearly certain", s3, sharp, 1.0, grad=(0, 1))
    yield _case("a student who is nearly certain", sharp, s3, 1.0, grad=(0, 1))
    yield _case("float32 logits between -300 and 300", _whole(rng, 2, 3, V), _whole(rng, 2, 3, V), 2.0)
    shifted = _whole(rng, 2, 3, V, low=-3, high=3, dtype=torch.float64)
    yield _case("logits shifted by 10000", shifted + 1e4, shifted.flip(2) - 1e4, 2.0, grad=(0,))
    yield _case("float32", s3.float(), t3.float(), 2.5, grad=(0, 1))
    yield _case("logits that are not contiguous", _turned(s3), _turned(t3), 2.5)


ENTROPY_WRONG = (
    Misconception(
        name="zero times minus infinity",
        replace=("torch.log(p.masked_fill(p == 0, 1.0))", "torch.log(p)"),
        says="log(0) is -inf and 0 * -inf is NaN. An outcome that never happens adds 0: replace zeros by 1 inside the logarithm.",
    ),
    Misconception(
        name="a small number added inside the logarithm",
        replace=("torch.log(p.masked_fill(p == 0, 1.0))", "torch.log(p + 1e-8)"),
        says="+1e-8 is not small beside a probability of 2e-5, which is ordinary in a vocabulary of 50,000. Treat exact zeros by themselves and leave the rest alone.",
    ),
    Misconception(
        name="a larger number added inside the logarithm",
        replace=("torch.log(p.masked_fill(p == 0, 1.0))", "torch.log(p + 1e-6)"),
        says="+1e-6 changes every term: certainty gets an entropy below 0. Treat exact zeros by themselves and leave the rest alone.",
    ),
    Misconception(
        name="probabilities clamped at 1e-4",
        replace=("torch.log(p.masked_fill(p == 0, 1.0))", "torch.log(p.clamp(min=1e-4))"),
        says="Probabilities below 1e-4 are ordinary in a large vocabulary. A clamp that high changes their surprise. Treat exact zeros only.",
    ),
    Misconception(
        name="minus sign forgotten",
        replace=("return -(p * logs)", "return (p * logs)"),
        says="Logarithms of probabilities are negative. The minus sign in front makes surprise positive.",
    ),
    Misconception(
        name="nats whatever the base",
        replace=(" / math.log(base)\n", "\n"),
        says="torch.log is natural, so this is in nats. Divide by ln(base): one bit is 0.6931 nats.",
    ),
    Misconception(
        name="bits whatever the base",
        replace=("/ math.log(base)", "/ math.log(2)"),
        says="base is ignored: the result is always in bits. Divide by ln(base).",
    ),
    Misconception(
        name="multiplied by the logarithm of the base",
        replace=("/ math.log(base)", "* math.log(base)"),
        says="From nats to another base one divides by ln(base): log_b x = ln x / ln b.",
    ),
    Misconception(
        name="always the last dimension",
        replace=("if (p < 0).any():", "dim = -1\n    if (p < 0).any():"),
        says="dim is ignored. Check the sums and add the terms along dim.",
    ),
    Misconception(
        name="terms added along the last dimension",
        replace=("(p * logs).sum(dim)", "(p * logs).sum(-1)"),
        says="The sums are checked along dim, but the terms are added along the last dimension.",
    ),
    Misconception(
        name="sums checked along the last dimension",
        replace=("p.sum(dim) - 1", "p.sum(-1) - 1"),
        says="The terms are added along dim, but the check that sums are 1 looks along the last dimension.",
    ),
    Misconception(
        name="one number for everything",
        replace=("(p * logs).sum(dim)", "(p * logs).sum()"),
        says="Each distribution has its own entropy. Sum along dim alone.",
    ),
    Misconception(
        name="mean instead of sum",
        replace=("(p * logs).sum(dim)", "(p * logs).mean(dim)"),
        says="The probabilities are the weights of this average already. Sum the terms; do not divide by their number.",
    ),
    Misconception(
        name="surprise without its weight",
        replace=("(p * logs).sum(dim)", "logs.sum(dim)"),
        says="Each surprise -log p counts with its probability p. You added the surprises unweighted.",
    ),
    Misconception(
        name="nothing checked",
        code="def entropy(p, base=2.0, dim=-1):\n    return torch.special.entr(p.clamp(min=0)).sum(dim) / math.log(base)\n",
        says="The function must refuse what is no distribution: a negative entry or a sum off 1 by more than 1e-3 raises ValueError.",
    ),
    Misconception(
        name="negative entries accepted",
        replace=("if (p < 0).any():", "if False:"),
        says="0.7, 0.5, -0.2 sum to 1 and are no distribution. Check for entries below 0 as well.",
    ),
    Misconception(
        name="sums not checked",
        replace=("if ((p.sum(dim) - 1).abs() > 1e-3).any():", "if False:"),
        says="Entries that are not negative can still be no distribution: logits, counts. Check that they sum to 1 along dim.",
    ),
    Misconception(
        name="only the first distribution checked",
        replace=("((p.sum(dim) - 1).abs() > 1e-3).any()", "(p.sum(dim) - 1).abs().flatten()[0] > 1e-3"),
        says="One bad distribution among many must be refused too. Use .any() over all sums.",
    ),
    Misconception(
        name="refused only when all are bad",
        replace=("((p.sum(dim) - 1).abs() > 1e-3).any()", "((p.sum(dim) - 1).abs() > 1e-3).all()"),
        says="One bad distribution among many must be refused too. You refuse only when every one is bad: any, not all.",
    ),
    Misconception(
        name="the mean of the sums is checked",
        replace=("((p.sum(dim) - 1).abs() > 1e-3).any()", "abs(p.sum(dim).mean().item() - 1) > 1e-3"),
        says="One distribution too large and one too small cancel in the mean. Check each sum.",
    ),
    Misconception(
        name="only sums above 1 are refused",
        replace=("((p.sum(dim) - 1).abs() > 1e-3).any()", "(p.sum(dim) - 1 > 1e-3).any()"),
        says="A sum of 0.5 is no distribution either. Compare the absolute difference from 1.",
    ),
    Misconception(
        name="sums must be exactly 1",
        replace=("> 1e-3).any()", "> 0).any()"),
        says="Sums of floats are hardly ever exactly 1. The contract allows a difference of 1e-3.",
    ),
    Misconception(
        name="sums checked too strictly",
        replace=("> 1e-3).any()", "> 1e-6).any()"),
        says="The contract allows sums that are off 1 by up to 1e-3; half precision needs that. You refuse less.",
    ),
    Misconception(
        name="sums checked too loosely",
        replace=("> 1e-3).any()", "> 1e-2).any()"),
        says="A sum that is off by more than 1e-3 must be refused. You accept up to 1e-2.",
    ),
    Misconception(
        name="rescaled instead of refused",
        code="def entropy(p, base=2.0, dim=-1):\n    if (p < 0).any():\n        raise ValueError('negative')\n    p = p / p.sum(dim, keepdim=True)\n    return torch.special.entr(p).sum(dim) / math.log(base)\n",
        says="You divide by the sum and carry on. A sum that is not 1 means that the caller passed something else: raise ValueError.",
        same_as=("sums not checked",),
    ),
    Misconception(
        name="softmax applied first",
        replace=("logs = torch.log(", "p = torch.softmax(p, dim)\n    logs = torch.log("),
        says="The argument holds probabilities already. A softmax on top flattens them.",
    ),
    Misconception(
        name="exponential of the entropy",
        replace=("return -(p * logs).sum(dim) / math.log(base)", "return torch.exp(-(p * logs).sum(dim))"),
        says="That is the perplexity, the exponential of the entropy.",
    ),
)

ENTROPY_RIGHT = (
    Variant(
        name="xlogy",
        code="""def entropy(p, base=2.0, dim=-1):
    if p.min() < 0 or not torch.allclose(p.sum(dim), torch.ones_like(p.sum(dim)), rtol=0, atol=1e-3):
        raise ValueError("not a distribution")
    return -torch.xlogy(p, p).sum(dim) / math.log(base)
""",
    ),
    Variant(
        name="NaN replaced",
        code="""def entropy(p, base=2.0, dim=-1):
    total = p.sum(dim)
    if bool((p < 0).any()) or bool((abs(total - 1) > 1e-3).any()):
        raise ValueError("not a distribution")
    bits = -p * torch.log2(p)
    return torch.nan_to_num(bits, nan=0.0).sum(dim) / math.log2(base)
""",
    ),
    Variant(
        name="a loop over the outcomes, float32 inside",
        code="""def entropy(p, base=2.0, dim=-1):
    x = p.float().movedim(dim, 0)
    if (x < 0).any() or ((x.sum(0) - 1).abs() > 1e-3).any():
        raise ValueError("not a distribution")
    h = torch.zeros_like(x[0])
    if len(x) > 1000:
        return -(x * x.clamp(min=1e-30).log()).sum(0) / math.log(base)
    for row in x:
        h = h - torch.where(row > 0, row * torch.log(torch.where(row > 0, row, 1.0)), 0.0)
    return h / math.log(base)
""",
    ),
    Variant(
        name="tiny clamp inside the logarithm",
        code="""def entropy(p, base=2.0, dim=-1):
    if torch.any(p < 0) or torch.any(torch.abs(torch.sum(p, dim) - 1.0) > 1e-3):
        raise ValueError("not a distribution")
    return -torch.sum(p * torch.log(p.clamp(min=1e-12)), dim=dim) / torch.log(torch.tensor(base))
""",
    ),
    Variant(
        name="NumPy",
        code="""def entropy(p, base=2.0, dim=-1):
    import numpy as np
    x = p.detach().numpy()
    if (x < 0).any() or (np.abs(x.sum(axis=dim) - 1) > 1e-3).any():
        raise ValueError("not a distribution")
    logs = np.log(x, out=np.zeros_like(x), where=x > 0)
    return torch.as_tensor(-(x * logs).sum(axis=dim) / np.log(base))
""",
    ),
)

_SURPRISE = "surprise = torch.logsumexp(logits, dim=-1) - of_target"
_MEAN_KEPT = "return surprise.masked_fill(~kept, 0.0).sum() / kept.sum().clamp(min=1)"


def _cross_entropy_with(log_p, ending="    return torch.where(kept, -picked, 0.0).sum() / kept.sum().clamp(min=1)\n"):
    """Source of a wrong `cross_entropy` that is right but for how log_p comes about, or how it ends."""
    return (
        "def cross_entropy(logits, targets, ignore_index=-100):\n"
        "    kept = targets != ignore_index\n"
        f"    {log_p}\n"
        "    picked = log_p.gather(-1, torch.where(kept, targets, 0).unsqueeze(-1)).squeeze(-1)\n" + ending
    )


CROSS_ENTROPY_WRONG = (
    Misconception(
        name="logarithm of a softmax",
        code=_cross_entropy_with("log_p = torch.log(torch.softmax(logits, -1))"),
        says="Where a probability underflows to 0 its logarithm is -inf and the loss infinite. Use log_softmax or logsumexp, which never leave the logarithm.",
    ),
    Misconception(
        name="a small number inside the logarithm",
        code=_cross_entropy_with("log_p = torch.log(torch.softmax(logits, -1) + 1e-9)"),
        says="+1e-9 caps the loss at 20.7 nats, and the gradient of a sure and wrong answer vanishes. Use log_softmax or logsumexp.",
    ),
    Misconception(
        name="probabilities clamped",
        code=_cross_entropy_with("log_p = torch.softmax(logits, -1).clamp(min=1e-7).log()"),
        says="The clamp caps the loss at 16 nats, and behind it no gradient flows. Use log_softmax or logsumexp.",
    ),
    Misconception(
        name="exponentials without a shift",
        code=_cross_entropy_with("log_p = logits - logits.exp().sum(-1, keepdim=True).log()"),
        says="exp overflows at 89 in float32 and at 710 in float64, and underflows at the other end. Use logsumexp, which subtracts the maximum first.",
    ),
    Misconception(
        name="one maximum for all positions",
        code=_cross_entropy_with(
            "shifted = logits - (logits.max() if logits.numel() else 0.0)\n"
            "    log_p = shifted - shifted.exp().sum(-1, keepdim=True).log()"
        ),
        says="A position whose logits are 10000 below the largest of all underflows to log(0). Each position needs its own maximum: dim=-1, keepdim=True.",
    ),
    Misconception(
        name="logits taken for log-probabilities",
        code=_cross_entropy_with("log_p = logits"),
        says="The logits are not normalised. Subtract logsumexp over the classes, or take log_softmax.",
    ),
    Misconception(
        name="probability instead of its logarithm",
        code=_cross_entropy_with("log_p = torch.softmax(logits, -1)"),
        says="You average -p of the target. The loss is -ln p.",
    ),
    Misconception(
        name="softmax twice",
        code=_cross_entropy_with("log_p = torch.log_softmax(torch.softmax(logits, -1), -1)"),
        says="You apply softmax and then log_softmax on top. The argument of log_softmax is the logits.",
    ),
    Misconception(
        name="bits",
        replace=(_MEAN_KEPT, _MEAN_KEPT + " / math.log(2)"),
        says="The result is in bits, 1.4427 times too large. Losses are in nats: natural logarithms.",
    ),
    Misconception(
        name="sign forgotten",
        replace=(_SURPRISE, "surprise = of_target - torch.logsumexp(logits, dim=-1)"),
        says="That is the mean log-probability, which training would push down. The loss is its negative.",
    ),
    Misconception(
        name="sum instead of mean",
        replace=(_MEAN_KEPT, "return surprise.masked_fill(~kept, 0.0).sum()"),
        says="Divide by the number of kept targets, or the loss grows with the batch.",
    ),
    Misconception(
        name="ignored targets in the denominator",
        replace=(_MEAN_KEPT, "return surprise.masked_fill(~kept, 0.0).sum() / max(kept.numel(), 1)"),
        says="You divide by all positions. Ignored ones count neither in the sum nor in the denominator.",
    ),
    Misconception(
        name="mean of the sequences' means",
        replace=(
            _MEAN_KEPT,
            "surprise = surprise.masked_fill(~kept, 0.0).reshape(len(targets), -1)\n"
            "    n = kept.reshape(len(targets), -1).sum(-1)\n"
            "    each = surprise.sum(-1) / n.clamp(min=1)\n"
            "    return each.sum() / (n > 0).sum().clamp(min=1)",
        ),
        says="You average each row first. Then a target in a short row weighs more. One sum over everything, divided by one count.",
    ),
    Misconception(
        name="divided by the first dimension",
        replace=(_MEAN_KEPT, "return surprise.masked_fill(~kept, 0.0).sum() / max(len(targets), 1)"),
        says="You divide by the batch size. The mean is over all kept targets, in every leading dimension.",
    ),
    Misconception(
        name="divided by the number of classes too",
        replace=(_MEAN_KEPT, _MEAN_KEPT + " / logits.shape[-1]"),
        says="The mean runs over positions. The classes have been summed by the softmax; do not divide by V.",
    ),
    Misconception(
        name="NaN when nothing is kept",
        replace=("kept.sum().clamp(min=1)", "kept.sum()"),
        says="With no kept target this is 0/0 = NaN, and one NaN gradient ruins the weights. Divide by at least 1.",
    ),
    Misconception(
        name="mean of the selected, NaN when none is",
        code="def cross_entropy(logits, targets, ignore_index=-100):\n    kept = targets != ignore_index\n    return -torch.log_softmax(logits[kept], -1).gather(-1, targets[kept].unsqueeze(-1)).mean()\n",
        says="The mean of no numbers is NaN, and one NaN gradient ruins the weights. Return 0 when nothing is kept.",
        same_as=("NaN when nothing is kept",),
    ),
    Misconception(
        name="ignored targets counted as class 0",
        replace=(
            "kept = targets != ignore_index",
            "kept = torch.ones_like(targets, dtype=torch.bool)\n    targets = targets.masked_fill(targets == ignore_index, 0)",
        ),
        says="Ignored targets must not count at all. You look up class 0 for them and keep the result.",
    ),
    Misconception(
        name="negative targets ignored, ignore_index not read",
        replace=("kept = targets != ignore_index", "kept = targets >= 0"),
        says="ignore_index may name a class, such as 0 for padding. Compare targets with it.",
    ),
    Misconception(
        name="always -100",
        replace=("kept = targets != ignore_index", "kept = targets != -100"),
        says="ignore_index is a parameter. You compare with -100 whatever the caller asks for.",
    ),
    Misconception(
        name="ignore_index not read",
        code="def cross_entropy(logits, targets, ignore_index=-100):\n    return -torch.log_softmax(logits, -1).gather(-1, targets.unsqueeze(-1)).mean()\n",
        says="ignore_index is not used: -100 is looked up as a class. Leave those positions out of the sum and out of the count.",
    ),
    Misconception(
        name="negative targets count from the end",
        code="def cross_entropy(logits, targets, ignore_index=-100):\n    log_p = torch.log_softmax(logits, -1).reshape(-1, logits.shape[-1])\n    n = targets.numel()\n    return -log_p[torch.arange(n), targets.reshape(-1).clamp(min=-logits.shape[-1])].sum() / max(n, 1)\n",
        says="A target of -100 or -1 is no class. Indexing takes negative numbers from the end and hides the mistake. Mask first.",
    ),
    Misconception(
        name="softmax over the positions",
        code="def cross_entropy(logits, targets, ignore_index=-100):\n    kept = targets != ignore_index\n    log_p = torch.log_softmax(logits, 0 if logits.dim() < 3 else -2)\n    picked = log_p.gather(-1, torch.where(kept, targets, 0).unsqueeze(-1)).squeeze(-1)\n    return torch.where(kept, -picked, 0.0).sum() / kept.sum().clamp(min=1)\n",
        says="The softmax runs over positions. Each position has its own distribution over the V classes, the last dimension.",
    ),
    Misconception(
        name="only two dimensions",
        code="def cross_entropy(logits, targets, ignore_index=-100):\n    log_p = torch.log_softmax(logits, -1)\n    kept = targets != ignore_index\n    picked = log_p[torch.arange(len(targets)), torch.where(kept, targets, 0)]\n    return -(picked * kept).sum() / kept.sum().clamp(min=1)\n",
        says="Logits may have any number of leading dimensions. Gather along the last one, or flatten to (positions, V) first.",
    ),
    Misconception(
        name="gradient cut off",
        replace=("torch.logsumexp(logits, dim=-1)", "torch.logsumexp(logits.detach(), dim=-1)"),
        says="The normaliser is detached. The gradient of the loss is softmax minus one-hot; without the normaliser only the one-hot is left.",
    ),
    Misconception(
        name="a Python number returned",
        replace=(_MEAN_KEPT, _MEAN_KEPT.replace("return ", "return (") + ").item()"),
        says="Return a tensor: .item() cuts the loss off from the logits, and nothing can be trained.",
    ),
    Misconception(
        name="one loss for each position",
        replace=(_MEAN_KEPT, "return surprise.masked_fill(~kept, 0.0)"),
        says="Return one number: the mean over the kept targets.",
    ),
    Misconception(
        name="targets changed in place",
        replace=(
            "index = targets.masked_fill(~kept, 0)",
            "targets[~kept] = 0\n    index = targets",
        ),
        says="targets[...] = 0 writes into the caller's tensor. Use masked_fill or torch.where, which make a new one.",
    ),
    Misconception(
        name="squared error to the one-hot",
        code="def cross_entropy(logits, targets, ignore_index=-100):\n    kept = targets != ignore_index\n    hot = torch.zeros_like(logits).scatter(-1, torch.where(kept, targets, 0).unsqueeze(-1), 1.0)\n    each = (torch.softmax(logits, -1) - hot).square().sum(-1)\n    return torch.where(kept, each, 0.0).sum() / kept.sum().clamp(min=1)\n",
        says="That is the Brier score. A sure and wrong answer has nearly no gradient under it (claim C05.14). The loss here is -ln p of the target.",
    ),
    Misconception(
        name="smoothed labels",
        code=_cross_entropy_with(
            "log_p = torch.log_softmax(logits, -1)",
            "    return torch.where(kept, -0.9 * picked - 0.1 * log_p.mean(-1), 0.0).sum() / kept.sum().clamp(min=1)\n",
        ),
        says="You smooth the labels. The contract asks for the plain cross-entropy.",
    ),
)

CROSS_ENTROPY_RIGHT = (
    Variant(
        name="one-hot and log_softmax",
        code="""def cross_entropy(logits, targets, ignore_index=-100):
    V = logits.shape[-1]
    log_p = torch.log_softmax(logits.reshape(-1, V), dim=-1)
    flat = targets.reshape(-1)
    kept = (flat != ignore_index)
    hot = torch.nn.functional.one_hot(torch.where(kept, flat, 0), V).to(log_p.dtype) * kept[:, None]
    return -(hot * log_p).sum() / max(int(kept.sum()), 1)
""",
    ),
    Variant(
        name="selected positions, shift by hand",
        code="""def cross_entropy(logits, targets, ignore_index=-100):
    z = logits.reshape(-1, logits.shape[-1])
    t = targets.reshape(-1)
    z, t = z[t != ignore_index], t[t != ignore_index]
    if len(t) == 0:
        return logits.sum() * 0.0
    z = z - z.max(dim=1, keepdim=True).values
    return (z.exp().sum(1).log() - z[torch.arange(len(t)), t]).mean()
""",
    ),
    Variant(
        name="a loop over positions",
        code="""def cross_entropy(logits, targets, ignore_index=-100):
    total, n = logits.new_zeros(()), 0
    for row, t in zip(logits.reshape(-1, logits.shape[-1]), targets.flatten().tolist()):
        if t != ignore_index:
            total = total + torch.logsumexp(row, 0) - row[t]
            n += 1
    return total / n if n else total
""",
    ),
    Variant(
        name="float32 inside, mask multiplied",
        code="""def cross_entropy(logits, targets, ignore_index=-100):
    mask = (targets != ignore_index).float()
    log_p = logits.float().log_softmax(-1)
    nll = -log_p.gather(-1, (targets * mask.long()).unsqueeze(-1))[..., 0]
    return (nll * mask).sum() / (mask.sum() + 1e-8)
""",
    ),
    Variant(
        name="take_along_dim, a tensor for nothing kept",
        code="""def cross_entropy(logits, targets, ignore_index=-100):
    kept = targets.ne(ignore_index)
    if not kept.any():
        return torch.zeros((), dtype=logits.dtype)
    log_p = logits - logits.logsumexp(-1, keepdim=True)
    picked = torch.take_along_dim(log_p, targets.clamp(min=0)[..., None], dim=-1).squeeze(-1)
    return -picked[kept].mean()
""",
    ),
)

_SHIFTED_MASK = "targets = targets.masked_fill(~(real[:, 1:] & real[:, :-1]), -100)"


def _lm_by_hand(average, kept="real[:, 1:] & real[:, :-1]"):
    """Source of an `lm_loss` with its surprises at hand: `average` makes the loss from nll and kept, both (B, T - 1)."""
    return (
        "def lm_loss(logits, input_ids, attention_mask=None):\n"
        "    real = torch.ones_like(input_ids).bool() if attention_mask is None else attention_mask.bool()\n"
        f"    kept = {kept}\n"
        "    log_p = torch.log_softmax(logits[:, :-1], -1)\n"
        "    nll = -log_p.gather(-1, input_ids[:, 1:].unsqueeze(-1)).squeeze(-1)\n"
        f"    {average}\n"
    )


LM_WRONG = (
    Misconception(
        name="no shift",
        code="def lm_loss(logits, input_ids, attention_mask=None):\n    targets = input_ids\n    if attention_mask is not None:\n        targets = targets.masked_fill(~attention_mask.bool(), -100)\n    return cross_entropy(logits, targets)\n",
        says="Position t must forecast token t + 1. You compare it with token t, which the model has just read.",
    ),
    Misconception(
        name="shifted the wrong way",
        code="def lm_loss(logits, input_ids, attention_mask=None):\n    targets = input_ids[:, :-1]\n    if attention_mask is not None:\n        real = attention_mask.bool()\n        targets = targets.masked_fill(~(real[:, 1:] & real[:, :-1]), -100)\n    return cross_entropy(logits[:, 1:], targets)\n",
        says="You forecast the previous token. Logits lose their last position, ids their first: logits[:, :-1] and input_ids[:, 1:].",
    ),
    Misconception(
        name="shifted by two",
        code="def lm_loss(logits, input_ids, attention_mask=None):\n    targets = input_ids[:, 2:]\n    if attention_mask is not None:\n        real = attention_mask.bool()\n        targets = targets.masked_fill(~(real[:, 2:] & real[:, :-2]), -100)\n    return cross_entropy(logits[:, :-2], targets)\n",
        says="You shift by two. Position t forecasts token t + 1.",
    ),
    Misconception(
        name="shifted along the batch",
        code="def lm_loss(logits, input_ids, attention_mask=None):\n    real = torch.ones_like(input_ids).bool() if attention_mask is None else attention_mask.bool()\n    targets = input_ids[1:].masked_fill(~(real[1:] & real[:-1]), -100)\n    return cross_entropy(logits[:-1], targets)\n",
        says="logits[:-1] cuts off a sequence. Time is the second dimension: logits[:, :-1].",
    ),
    Misconception(
        name="rolled around",
        code="def lm_loss(logits, input_ids, attention_mask=None):\n    targets = input_ids.roll(-1, 1)\n    if attention_mask is not None:\n        real = attention_mask.bool()\n        targets = targets.masked_fill(~(real & real.roll(-1, 1)), -100)\n    return cross_entropy(logits, targets)\n",
        says="roll brings the first token to the end, as the target of the last position. The last position has no target.",
    ),
    Misconception(
        name="mask ignored",
        replace=("if attention_mask is not None:", "if False:"),
        says="attention_mask is not used, so forecasts of padding count.",
    ),
    Misconception(
        name="only the target must be real",
        replace=("real[:, 1:] & real[:, :-1]", "real[:, 1:]"),
        says="Under left padding the first real token is forecast from padding. Its source must be real too.",
    ),
    Misconception(
        name="only the source must be real",
        replace=("real[:, 1:] & real[:, :-1]", "real[:, :-1]"),
        says="The last real token is asked to forecast padding. The mask must be shifted as the targets are: the target must be real too.",
    ),
    Misconception(
        name="source or target real",
        replace=("real[:, 1:] & real[:, :-1]", "real[:, 1:] | real[:, :-1]"),
        says="Both ends must be real. You keep a pair when one is: and, not or.",
    ),
    Misconception(
        name="mask inverted",
        replace=("~(real[:, 1:] & real[:, :-1])", "real[:, 1:] & real[:, :-1]"),
        says="1 in attention_mask means real. You keep what is padding.",
    ),
    Misconception(
        name="padding found by its id",
        replace=(
            _SHIFTED_MASK,
            "targets = targets.masked_fill(~(real[:, 1:] & real[:, :-1]) | (targets == 0), -100)",
        ),
        says="Real tokens may have id 0 too, such as an end token that also pads. The mask alone says what is real.",
    ),
    Misconception(
        name="tokens with id 0 never count",
        replace=(
            "return cross_entropy(logits[:, :-1], targets)",
            "return cross_entropy(logits[:, :-1], targets.masked_fill(targets == 0, -100))",
        ),
        says="Id 0 is an ordinary token. The mask alone says what is padding.",
    ),
    Misconception(
        name="mean of the sequences' means",
        code=_lm_by_hand(
            "n = kept.sum(1)\n    each = (nll * kept).sum(1) / n.clamp(min=1)\n    return each.sum() / (n > 0).sum().clamp(min=1)"
        ),
        says="You average each sequence and then the averages: a token in a short sequence weighs more. The contract weighs tokens alike: one sum, one count.",
    ),
    Misconception(
        name="mean of the sequences' means, empty ones too",
        code=_lm_by_hand("return ((nll * kept).sum(1) / kept.sum(1).clamp(min=1)).sum() / len(input_ids)"),
        says="You average each sequence and then over the batch. The contract weighs tokens alike: one sum over all counted tokens, one count.",
    ),
    Misconception(
        name="padding in the denominator",
        code=_lm_by_hand("return (nll * kept).sum() / max(nll.numel(), 1)"),
        says="You divide by all positions. Divide by the number of tokens that count.",
    ),
    Misconception(
        name="divided by the number of real tokens",
        code=_lm_by_hand("return (nll * kept).sum() / real.sum().clamp(min=1)"),
        says="You divide by the sum of the whole mask. The first token of each sequence is never a target, so fewer count.",
    ),
    Misconception(
        name="divided by the number of real targets",
        code=_lm_by_hand("return (nll * kept).sum() / real[:, 1:].sum().clamp(min=1)"),
        says="You divide by the number of real targets. Those whose source is padding are not in the sum, so they may not be in the count.",
    ),
    Misconception(
        name="divided by the batch size",
        code=_lm_by_hand("return (nll * kept).sum() / len(input_ids)"),
        says="That is the loss for each sequence. Divide by the number of tokens that count.",
    ),
    Misconception(
        name="sum instead of mean",
        code=_lm_by_hand("return (nll * kept).sum()"),
        says="Divide by the number of tokens that count.",
    ),
    Misconception(
        name="NaN when nothing counts",
        code=_lm_by_hand("return (nll * kept).sum() / kept.sum()"),
        says="With nothing to forecast this is 0/0 = NaN. Divide by at least 1.",
    ),
    Misconception(
        name="mean over the selected, NaN when none is",
        code=_lm_by_hand("return nll[kept].mean()"),
        says="The mean of no numbers is NaN. Return 0 when nothing counts.",
        same_as=("NaN when nothing counts",),
    ),
    Misconception(
        name="an error for one token",
        replace=(
            "targets = input_ids[:, 1:]\n",
            "if input_ids.shape[1] < 2:\n        raise ValueError('too short')\n    targets = input_ids[:, 1:]\n",
        ),
        says="A text of one token has nothing to forecast. The loss is 0.0 then, not an error.",
    ),
    Misconception(
        name="ids changed in place",
        replace=("targets = targets.masked_fill(", "targets.masked_fill_("),
        says="You write -100 into the caller's ids. A slice is a view: make a new tensor with masked_fill or clone.",
    ),
    Misconception(
        name="padded forecasts become uniform",
        code="def lm_loss(logits, input_ids, attention_mask=None):\n    if attention_mask is not None:\n        logits = logits * attention_mask.bool().unsqueeze(-1)\n        input_ids = input_ids * attention_mask.bool()\n    return cross_entropy(logits[:, :-1], input_ids[:, 1:])\n",
        says="You set the logits and ids of padding to 0. They still count, with ln V each. Leave those pairs out of sum and count.",
    ),
    Misconception(
        name="last logits dropped by the length of the first sequence",
        code=_lm_by_hand(
            "return (nll * kept).sum() / kept.sum().clamp(min=1)",
            kept="(torch.arange(real.shape[1] - 1) < real[:1].sum(1, keepdim=True) - 1).expand(len(real), -1)",
        ),
        says="Each sequence has its own padding. You use the first one's length for all.",
    ),
    Misconception(
        name="mask read as a length",
        code=_lm_by_hand(
            "return (nll * kept).sum() / kept.sum().clamp(min=1)",
            kept="torch.arange(real.shape[1] - 1) < real.sum(1, keepdim=True) - 1",
        ),
        says="You count the ones and take that many from the left. Padding may stand on the left or in between: use the mask position by position.",
    ),
    Misconception(
        name="unstable logarithm of a softmax",
        code="def lm_loss(logits, input_ids, attention_mask=None):\n    real = torch.ones_like(input_ids).bool() if attention_mask is None else attention_mask.bool()\n    kept = real[:, 1:] & real[:, :-1]\n    nll = -torch.softmax(logits[:, :-1], -1).log().gather(-1, input_ids[:, 1:].unsqueeze(-1)).squeeze(-1)\n    return torch.where(kept, nll, 0.0).sum() / kept.sum().clamp(min=1)\n",
        says="A probability that underflows to 0 has an infinite surprise. Use log_softmax, or your cross_entropy.",
    ),
    Misconception(
        name="gradient cut off",
        replace=("cross_entropy(logits[:, :-1], targets)", "cross_entropy(logits[:, :-1].detach(), targets)"),
        says="The loss is detached from the logits. Nothing can be trained with it.",
    ),
)

LM_RIGHT = (
    Variant(
        name="torch's cross-entropy",
        code="""def lm_loss(logits, input_ids, attention_mask=None):
    labels = input_ids.clone()
    if attention_mask is not None:
        labels[attention_mask == 0] = -100
        labels[:, 1:][attention_mask[:, :-1] == 0] = -100
    z, t = logits[:, :-1].reshape(-1, logits.shape[-1]), labels[:, 1:].reshape(-1)
    n = (t != -100).sum()
    return torch.nn.functional.cross_entropy(z, t, ignore_index=-100, reduction="sum") / n.clamp(min=1)
""",
    ),
    Variant(
        name="mask multiplied, float32 inside",
        code="""def lm_loss(logits, input_ids, attention_mask=None):
    if attention_mask is None:
        attention_mask = torch.ones_like(input_ids)
    m = attention_mask.float()
    w = m[:, 1:] * m[:, :-1]
    log_p = torch.log_softmax(logits[:, :-1].float(), dim=-1)
    nll = -log_p.gather(2, input_ids[:, 1:, None])[:, :, 0]
    return (w * nll).sum() / torch.clamp(w.sum(), min=1.0)
""",
    ),
    Variant(
        name="two loops",
        code="""def lm_loss(logits, input_ids, attention_mask=None):
    total, n = logits.sum() * 0, 0
    for b in range(input_ids.shape[0]):
        for t in range(input_ids.shape[1] - 1):
            if attention_mask is None or (attention_mask[b, t] and attention_mask[b, t + 1]):
                total = total + torch.logsumexp(logits[b, t], -1) - logits[b, t, input_ids[b, t + 1]]
                n += 1
    return total / max(n, 1)
""",
    ),
    Variant(
        name="pairs selected first",
        code="""def lm_loss(logits, input_ids, attention_mask=None):
    z, t = logits[:, :-1], input_ids[:, 1:]
    keep = torch.ones_like(t, dtype=torch.bool)
    if attention_mask is not None:
        keep = (attention_mask[:, :-1] == 1) & (attention_mask[:, 1:] == 1)
    if not keep.any():
        return logits.new_zeros(())
    z, t = z[keep], t[keep]
    return (z.logsumexp(-1) - z.gather(-1, t[:, None]).squeeze(-1)).mean()
""",
    ),
)

_SAFE = (
    "safe_p, safe_q = log_p.masked_fill(absent, 0.0), log_q.masked_fill(absent, 0.0)  # before exp and minus, not after"
)
_TERMS = "terms = safe_p.exp() * (safe_p - safe_q)"
_KL_END = "return terms.masked_fill(absent, 0.0).sum(dim)"

KL_WRONG = (
    Misconception(
        name="direction swapped",
        replace=("absent = log_p == -math.inf", "log_p, log_q = log_q, log_p\n    absent = log_p == -math.inf"),
        says="This is KL(q || p). Samples come from the first argument: weights p, and surprises compared as ln p - ln q.",
    ),
    Misconception(
        name="weighted by q",
        replace=(_TERMS, "terms = log_q.exp() * (safe_p - safe_q)"),
        says="The weights are q's. In KL(p || q) the samples come from p.",
    ),
    Misconception(
        name="difference turned round",
        replace=("(safe_p - safe_q)", "(safe_q - safe_p)"),
        says="The difference is ln p - ln q. Turned round the result is negative, and a divergence never is.",
    ),
    Misconception(
        name="cross-entropy",
        replace=("safe_p.exp() * (safe_p - safe_q)", "safe_p.exp() * -safe_q"),
        says="That is the cross-entropy H(p, q). The entropy of p is still in it: KL(p || q) = H(p, q) - H(p).",
    ),
    Misconception(
        name="bits",
        replace=(_KL_END, _KL_END + " / math.log(2)"),
        says="The result is in bits, 1.4427 times too large. It is wanted in nats.",
    ),
    Misconception(
        name="zeros not treated",
        code="def kl_divergence(log_p, log_q, dim=-1):\n    return (log_p.exp() * (log_p - log_q)).sum(dim)\n",
        says="Where p is 0 this is 0 * (-inf - ...), which is NaN. That term is 0.",
    ),
    Misconception(
        name="where hides the NaN from the value only",
        code="def kl_divergence(log_p, log_q, dim=-1):\n    terms = log_p.exp() * (log_p - log_q)\n    return torch.where(log_p == -math.inf, torch.zeros_like(terms), terms).sum(dim)\n",
        says="The value is right, but the gradient of the hidden branch is 0 * inf = NaN. Replace -inf before exp and minus, not after.",
    ),
    Misconception(
        name="NaN replaced at the end",
        code="def kl_divergence(log_p, log_q, dim=-1):\n    terms = log_p.exp() * (log_p - log_q)\n    return torch.where(torch.isnan(terms), torch.zeros_like(terms), terms).sum(dim)\n",
        says="A NaN that is replaced in the value comes back in the gradient: 0 * inf. Replace -inf before exp and minus.",
        same_as=("where hides the NaN from the value only",),
    ),
    Misconception(
        name="infinity made a large number",
        code="def kl_divergence(log_p, log_q, dim=-1):\n    lp, lq = (x.clamp(min=-1e30) for x in (log_p, log_q))\n    return (lp.exp() * (lp - lq)).sum(dim)\n",
        says="Where q is 0 and p is not, the divergence is inf, not a large finite number. Replace -inf only where p is 0.",
    ),
    Misconception(
        name="infinities replaced by 0",
        code="def kl_divergence(log_p, log_q, dim=-1):\n    gap = torch.nan_to_num(log_p - log_q, nan=0.0, posinf=0.0, neginf=0.0)\n    return (log_p.exp() * gap).sum(dim)\n",
        says="Where q is 0 and p is not, the divergence is infinite. You turned that infinity into 0.",
    ),
    Misconception(
        name="only the places where both are above 0",
        replace=(_SAFE, "absent = absent | (log_q == -math.inf)\n    " + _SAFE),
        says="Where q is 0 and p is not, the term is inf. Skip only the places where p is 0.",
        same_as=("infinities replaced by 0",),
    ),
    Misconception(
        name="q clamped",
        replace=(_TERMS, "safe_q = safe_q.clamp(min=-100.0)\n    " + _TERMS),
        says="You clamp ln q. What q holds impossible must give inf, and e^-900 is legal: it must not become e^-100.",
    ),
    Misconception(
        name="a small number added to both",
        code="def kl_divergence(log_p, log_q, dim=-1):\n    p, q = log_p.exp() + 1e-8, log_q.exp() + 1e-8\n    return (p * (p / q).log()).sum(dim)\n",
        says="+1e-8 makes an impossible outcome merely rare and caps the divergence. Stay with the log-probabilities that you are given.",
    ),
    Misconception(
        name="a small number inside the logarithms",
        code="def kl_divergence(log_p, log_q, dim=-1):\n    p, q = log_p.exp(), log_q.exp()\n    return (p * ((p + 1e-12).log() - (q + 1e-12).log())).sum(dim)\n",
        says="+1e-12 caps the surprise at 27.6 nats and hides what is impossible. Stay with the log-probabilities that you are given.",
    ),
    Misconception(
        name="through probabilities",
        code="def kl_divergence(log_p, log_q, dim=-1):\n    p, q = log_p.exp(), log_q.exp()\n    ratio = torch.where(p > 0, p, torch.ones_like(p)) / torch.where(p > 0, q, torch.ones_like(q))\n    return torch.where(p > 0, p * ratio.log(), torch.zeros_like(p)).sum(dim)\n",
        says="exp(-900) is 0, so a small probability becomes an impossible one. Subtract the logarithms; do not divide the probabilities.",
    ),
    Misconception(
        name="probabilities taken for log-probabilities",
        code="def kl_divergence(log_p, log_q, dim=-1):\n    ratio = torch.where(log_p == -math.inf, torch.ones_like(log_p), log_p / log_q)\n    return (torch.where(log_p == -math.inf, torch.zeros_like(log_p), log_p) * ratio.log()).sum(dim)\n",
        says="The arguments are logarithms already: the weight is exp(log_p), and nothing has to be divided.",
    ),
    Misconception(
        name="weights not exponentiated",
        replace=("safe_p.exp() * (safe_p - safe_q)", "safe_p * (safe_p - safe_q)"),
        says="The weight of a term is the probability, exp(log_p). You weigh with the logarithm.",
    ),
    Misconception(
        name="mean instead of sum",
        replace=("terms.masked_fill(absent, 0.0).sum(dim)", "terms.masked_fill(absent, 0.0).mean(dim)"),
        says="The probabilities are the weights of this average already. Sum the terms along dim.",
    ),
    Misconception(
        name="one number for everything",
        replace=("terms.masked_fill(absent, 0.0).sum(dim)", "terms.masked_fill(absent, 0.0).sum()"),
        says="Each pair of distributions has its own divergence. Sum along dim alone.",
    ),
    Misconception(
        name="always the last dimension",
        replace=("terms.masked_fill(absent, 0.0).sum(dim)", "terms.masked_fill(absent, 0.0).sum(-1)"),
        says="dim is ignored. Sum along it.",
    ),
    Misconception(
        name="absolute differences",
        replace=("(safe_p - safe_q)", "(safe_p - safe_q).abs()"),
        says="Terms may be negative; only their sum never is. No absolute values.",
    ),
    Misconception(
        name="symmetric",
        replace=(_TERMS, "terms = (safe_p.exp() - safe_q.exp().masked_fill(absent, 0.0)) * (safe_p - safe_q)"),
        says="You added KL(q || p). The divergence asked for has one direction.",
    ),
    Misconception(
        name="Jensen-Shannon",
        replace=(_TERMS, "safe_q = torch.logaddexp(safe_p, safe_q) - math.log(2)\n    " + _TERMS),
        says="You compare p with the mixture of both. That is half of the Jensen-Shannon divergence. Compare it with q.",
    ),
    Misconception(
        name="negative results clamped, terms one by one",
        replace=(_TERMS, "terms = (safe_p.exp() * (safe_p - safe_q)).clamp(min=0.0)"),
        says="Single terms may be negative; only their sum never is. Do not clamp.",
    ),
    Misconception(
        name="normalised again",
        replace=(
            "absent = log_p == -math.inf",
            "log_p = torch.softmax(log_p, dim).log_softmax(dim)\n    absent = log_p == -math.inf",
        ),
        says="The log-probabilities are normalised already. A softmax on top changes them.",
    ),
    Misconception(
        name="gradient of p cut off",
        replace=("safe_p.exp() * (safe_p - safe_q)", "safe_p.detach().exp() * (safe_p - safe_q)"),
        says="The value is right, but the weights are detached: p's gradient lacks a part. It matters when p is what is trained.",
    ),
    Misconception(
        name="nothing for q to learn",
        replace=("(safe_p - safe_q)", "(safe_p - safe_q.detach())"),
        says="The value is right, but no gradient reaches log_q.",
    ),
)

KL_RIGHT = (
    Variant(
        name="where before and after",
        code="""def kl_divergence(log_p, log_q, dim=-1):
    live = log_p > -math.inf
    lp = torch.where(live, log_p, torch.zeros_like(log_p))
    lq = torch.where(live, log_q, torch.zeros_like(log_q))
    return torch.where(live, lp.exp() * (lp - lq), torch.zeros_like(lp)).sum(dim)
""",
    ),
    Variant(
        name="row by row, live outcomes only",
        code="""def kl_divergence(log_p, log_q, dim=-1):
    a, b = log_p.movedim(dim, -1), log_q.movedim(dim, -1)
    out = []
    for p, q in zip(a.reshape(-1, a.shape[-1]), b.reshape(-1, b.shape[-1])):
        keep = torch.isfinite(p)
        out.append(torch.sum(torch.exp(p[keep]) * (p[keep] - q[keep])))
    return torch.stack(out).reshape(a.shape[:-1])
""",
    ),
    Variant(
        name="cross-entropy less entropy",
        code="""def kl_divergence(log_p, log_q, dim=-1):
    zero = torch.isneginf(log_p)
    lp, lq = log_p.masked_fill(zero, 0.0), log_q.masked_fill(zero, 0.0)
    p = torch.exp(log_p)
    own = (p * lp).sum(dim)
    cross = (p * lq).sum(dim)
    return own - cross
""",
    ),
    Variant(
        name="large finite number for -inf in p, float32 inside",
        code="""def kl_divergence(log_p, log_q, dim=-1):
    lp, lq = log_p.float(), log_q.float()
    dead = lp == float("-inf")
    lp = lp.clamp(min=-1e4)
    lq = torch.where(dead, lp.detach(), lq)
    return (lp.exp() * (lp - lq)).sum(dim=dim)
""",
    ),
)

_GAUSS = "0.5 * (torch.log(var1 / var0) + (var0 + (mu0 - mu1) ** 2) / var1 - 1)"

GAUSSIAN_WRONG = (
    Misconception(
        name="direction swapped",
        replace=(_GAUSS, "0.5 * (torch.log(var0 / var1) + (var1 + (mu0 - mu1) ** 2) / var0 - 1)"),
        says="This is KL(N1 || N0). The first bell is the one that samples come from: its variance stands above, the second's below.",
    ),
    Misconception(
        name="variance taken for standard deviation",
        replace=(_GAUSS, "torch.log(var1 / var0) + (var0**2 + (mu0 - mu1) ** 2) / (2 * var1**2) - 0.5"),
        says="You square var. It is the variance already, not the standard deviation.",
    ),
    Misconception(
        name="standard deviation taken where the variance belongs",
        replace=(_GAUSS, "0.5 * (torch.log(var1 / var0) + (var0.sqrt() + (mu0 - mu1) ** 2) / var1.sqrt() - 1)"),
        says="You take square roots. The formula wants the variances themselves.",
    ),
    Misconception(
        name="half forgotten",
        replace=(_GAUSS, "torch.log(var1 / var0) + (var0 + (mu0 - mu1) ** 2) / var1 - 1"),
        says="The half in front is missing: every value is twice too large.",
    ),
    Misconception(
        name="logarithm of variances not halved",
        replace=(_GAUSS, "torch.log(var1 / var0) + 0.5 * (var0 + (mu0 - mu1) ** 2) / var1 - 0.5"),
        says="ln(sigma1 / sigma0) is half of ln(var1 / var0). The half belongs to the logarithm too.",
    ),
    Misconception(
        name="minus one forgotten",
        replace=("/ var1 - 1)", "/ var1)"),
        says="The same bell twice must give 0. The -1 is missing.",
    ),
    Misconception(
        name="minus one outside the half",
        replace=("/ var1 - 1)", "/ var1) - 1"),
        says="The same bell twice must give 0. The -1 belongs inside the bracket that is halved.",
    ),
    Misconception(
        name="logarithm upside down",
        replace=("torch.log(var1 / var0)", "torch.log(var0 / var1)"),
        says="The logarithm is of var1 / var0. Upside down the result can be negative, and a divergence never is.",
    ),
    Misconception(
        name="logarithm forgotten",
        replace=("torch.log(var1 / var0) + ", ""),
        says="The term ln(var1 / var0) is missing. It is 0 only for equal variances.",
    ),
    Misconception(
        name="distance of means not squared",
        replace=("(mu0 - mu1) ** 2", "(mu0 - mu1).abs()"),
        says="The means' distance enters squared.",
    ),
    Misconception(
        name="sign of the distance kept",
        replace=("(mu0 - mu1) ** 2", "(mu0 - mu1)"),
        says="The means' distance enters squared, so that its sign does not matter.",
    ),
    Misconception(
        name="means forgotten",
        replace=("(var0 + (mu0 - mu1) ** 2)", "var0"),
        says="The distance of the means is missing.",
    ),
    Misconception(
        name="measured in the first bell's width",
        replace=("(var0 + (mu0 - mu1) ** 2) / var1", "(var0 / var1 + (mu0 - mu1) ** 2 / var0)"),
        says="The distance of the means is divided by the second variance: q is the one that is surprised.",
    ),
    Misconception(
        name="variances added in the denominator",
        replace=("(var0 + (mu0 - mu1) ** 2) / var1", "(var0 / var1 + (mu0 - mu1) ** 2 / (var0 + var1))"),
        says="The distance of the means is divided by var1 alone.",
    ),
    Misconception(
        name="against the standard bell",
        replace=(_GAUSS, "0.5 * (var0 + mu0**2 - 1 - torch.log(var0))"),
        says="That is the divergence from N(0, 1), as in a variational autoencoder. Here the second bell is given.",
    ),
    Misconception(
        name="logarithm of the variance as an argument",
        replace=(_GAUSS, "0.5 * (var1 - var0 + (var0.exp() + (mu0 - mu1) ** 2) / var1.exp() - 1)"),
        says="You read the arguments as log-variances. They are variances.",
    ),
    Misconception(
        name="summed",
        replace=("return " + _GAUSS, "return (" + _GAUSS + ").sum()"),
        says="The result is elementwise: one divergence for each pair.",
    ),
    Misconception(
        name="summed over the last dimension",
        replace=("return " + _GAUSS, "return (" + _GAUSS + ").sum(-1)"),
        says="The result is elementwise, of the shape of the inputs. You summed over the last dimension.",
    ),
    Misconception(
        name="bits",
        replace=("return " + _GAUSS, "return " + _GAUSS + " / math.log(2)"),
        says="The result is in bits, 1.4427 times too large. It is wanted in nats.",
    ),
    Misconception(
        name="both directions added",
        replace=(_GAUSS, "0.5 * ((var0 + (mu0 - mu1) ** 2) / var1 + (var1 + (mu0 - mu1) ** 2) / var0) - 1"),
        says="That is the sum of both directions. Only KL(N0 || N1) is asked for.",
    ),
)

GAUSSIAN_RIGHT = (
    Variant(
        name="standard deviations",
        code="""def gaussian_kl(mu0, var0, mu1, var1):
    s0, s1 = var0.sqrt(), var1.sqrt()
    return torch.log(s1 / s0) + (s0**2 + (mu0 - mu1).square()) / (2 * s1**2) - 0.5
""",
    ),
    Variant(
        name="ratio minus log1p",
        code="""def gaussian_kl(mu0, var0, mu1, var1):
    excess = var0 / var1 - 1
    return (excess - torch.log1p(excess)) / 2 + (mu1 - mu0) ** 2 / var1 / 2
""",
    ),
    Variant(
        name="one pair at a time",
        code="""def gaussian_kl(mu0, var0, mu1, var1):
    rows = zip(mu0.flatten().tolist(), var0.flatten().tolist(), mu1.flatten().tolist(), var1.flatten().tolist())
    out = [(math.log(d) - math.log(b) + (b + (a - c) ** 2) / d - 1) / 2 for a, b, c, d in rows]
    return torch.tensor(out, dtype=mu0.dtype).reshape(mu0.shape)
""",
    ),
    Variant(
        name="float32 inside",
        code="""def gaussian_kl(mu0, var0, mu1, var1):
    a, b, c, d = (x.float() for x in (mu0, var0, mu1, var1))
    return -0.5 * (1 + b.log() - d.log() - b / d - (a - c).pow(2) / d)
""",
    ),
)

_ESTIMATES = 'return {"k1": d, "k2": 0.5 * d.square(), "k3": torch.expm1(-d) + d}'

ESTIMATES_WRONG = (
    Misconception(
        name="k3 with the inverse ratio",
        replace=("torch.expm1(-d) + d", "torch.expm1(d) - d"),
        says="k3 is r - 1 - ln r with r = q/p = exp(-d), for samples from p. You used p/q: that is right for samples from q.",
    ),
    Misconception(
        name="k3 with the sign of d turned in one place",
        replace=("torch.expm1(-d) + d", "torch.expm1(-d) - d"),
        says="k3 = exp(-d) - 1 + d. With -d at the end it can be negative, and its mean is not the divergence.",
    ),
    Misconception(
        name="k3 with exp(d)",
        replace=("torch.expm1(-d) + d", "torch.expm1(d) + d"),
        says="The exponent is -d: exp(-d) = q/p.",
    ),
    Misconception(
        name="d turned round",
        replace=("    d = logp - logq\n", "    d = logq - logp\n"),
        says="d is logp - logq for samples from p. Turned round, k1 estimates minus the divergence.",
    ),
    Misconception(
        name="k1 with the other sign",
        replace=('"k1": d', '"k1": -d'),
        says="k1 = d = logp - logq. On average it is the divergence, which is not negative.",
    ),
    Misconception(
        name="k1 as absolute value",
        replace=('"k1": d', '"k1": d.abs()'),
        says="k1 may be negative for single samples. Its absolute value is too large on average.",
    ),
    Misconception(
        name="k1 clamped at 0",
        replace=('"k1": d', '"k1": d.clamp(min=0.0)'),
        says="k1 may be negative for single samples. Clamped, it is too large on average.",
    ),
    Misconception(
        name="k1 weighted by p",
        replace=('"k1": d', '"k1": logp.exp() * d'),
        says="The samples were drawn from p, so their frequency is the weight. Do not multiply by p again.",
    ),
    Misconception(
        name="all weighted by p",
        replace=(
            _ESTIMATES,
            'p = logp.exp()\n    return {"k1": p * d, "k2": p * 0.5 * d.square(), "k3": p * (torch.expm1(-d) + d)}',
        ),
        says="The samples were drawn from p, so their frequency is the weight. Do not multiply by p again.",
    ),
    Misconception(
        name="k2 without the half",
        replace=("0.5 * d.square()", "d.square()"),
        says="k2 is half of d squared.",
    ),
    Misconception(
        name="k2 not squared",
        replace=("0.5 * d.square()", "0.5 * d.abs()"),
        says="k2 is half of d squared; you halved |d|.",
    ),
    Misconception(
        name="k2 as the square of a half",
        replace=("0.5 * d.square()", "(0.5 * d).square()"),
        says="k2 is half of the square, not the square of the half.",
    ),
    Misconception(
        name="k3 without minus one",
        replace=("torch.expm1(-d) + d", "torch.exp(-d) + d"),
        says="The -1 is missing: where p and q agree, k3 must be 0.",
    ),
    Misconception(
        name="k3 without d",
        replace=("torch.expm1(-d) + d", "torch.expm1(-d)"),
        says="exp(-d) - 1 is 0 on average, whatever the divergence is. d must be added.",
    ),
    Misconception(
        name="k3 weighted by the ratio",
        replace=("torch.expm1(-d) + d", "torch.exp(-d) * d"),
        says="exp(-d) * d reweights the samples to q. k3 is exp(-d) - 1 + d.",
    ),
    Misconception(
        name="ratio of probabilities",
        replace=("torch.expm1(-d) + d", "logq.exp() / logp.exp() - 1 + d"),
        says="The probability of a whole answer underflows to 0, and 0/0 is NaN. Take the difference of the logarithms first.",
    ),
    Misconception(
        name="everything through probabilities",
        replace=("    d = logp - logq\n", "    d = (logp.exp() / logq.exp()).log()\n"),
        says="The probability of a whole answer underflows to 0, and 0/0 is NaN. Subtract the logarithms.",
    ),
    Misconception(
        name="exponent clamped",
        replace=("torch.expm1(-d)", "torch.expm1(-d.clamp(-10.0, 10.0))"),
        says="You clamp the log-ratio. Rare samples with a large ratio are what makes k3 right on average.",
    ),
    Misconception(
        name="averaged",
        replace=(
            _ESTIMATES,
            'return {"k1": d.mean(), "k2": 0.5 * d.square().mean(), "k3": (torch.expm1(-d) + d).mean()}',
        ),
        says="The estimates are wanted for each sample, in the shape of the inputs. Averaging is the caller's.",
    ),
    Misconception(
        name="summed over the answer first",
        replace=(
            "    d = logp - logq\n",
            "    d = logp - logq\n    d = d.sum(-1, keepdim=True).expand_as(d).clone() if d.dim() > 1 else d\n",
        ),
        says="You sum the log-ratios of an answer first. The exponential of a sum is not the sum of exponentials: estimate token by token.",
    ),
    Misconception(
        name="a tuple",
        replace=(_ESTIMATES, "return d, 0.5 * d.square(), torch.expm1(-d) + d"),
        says='Return a dict with the keys "k1", "k2" and "k3".',
    ),
    Misconception(
        name="numbers as keys",
        replace=(_ESTIMATES, "return {1: d, 2: 0.5 * d.square(), 3: torch.expm1(-d) + d}"),
        says='The keys are the texts "k1", "k2" and "k3".',
    ),
)

ESTIMATES_RIGHT = (
    Variant(
        name="exp as written",
        code="""def kl_estimates(logp, logq):
    d = logp - logq
    return {"k1": d, "k2": d**2 / 2, "k3": torch.exp(-d) - 1 + d}
""",
    ),
    Variant(
        name="through the ratio r = q/p",
        code="""def kl_estimates(logp, logq):
    log_ratio = logq - logp
    ratio = log_ratio.exp()
    return dict(k3=(ratio - 1) - log_ratio, k1=-log_ratio, k2=0.5 * log_ratio * log_ratio)
""",
    ),
    Variant(
        name="one sample at a time",
        code="""def kl_estimates(logp, logq):
    ds = [a - b for a, b in zip(logp.flatten().tolist(), logq.flatten().tolist())]
    def back(values):
        return torch.tensor(values, dtype=logp.dtype).reshape(logp.shape)
    return {"k1": back(ds), "k2": back([x * x / 2 for x in ds]), "k3": back([math.exp(-x) - 1 + x for x in ds])}
""",
    ),
    Variant(
        name="float64 inside",
        code="""def kl_estimates(logp, logq):
    d = logp.double() - logq.double()
    return {"k1": d, "k2": torch.pow(d, 2).div(2), "k3": torch.exp(-d).sub(1).add(d)}
""",
    ),
)

_W1 = "return (x.sort().values - y.sort().values).abs().mean()"

WASSERSTEIN_WRONG = (
    Misconception(
        name="not sorted",
        replace=(_W1, "return (x - y).abs().mean()"),
        says="Samples have no order. The cheapest plan pairs the smallest with the smallest: sort both first.",
    ),
    Misconception(
        name="only x sorted",
        replace=(_W1, "return (x.sort().values - y).abs().mean()"),
        says="Both samples must be sorted.",
    ),
    Misconception(
        name="only y sorted",
        replace=(_W1, "return (x - y.sort().values).abs().mean()"),
        says="Both samples must be sorted.",
    ),
    Misconception(
        name="sorted in opposite orders",
        replace=("y.sort()", "y.sort(descending=True)"),
        says="Smallest to smallest. Pairing the smallest with the largest is the dearest plan.",
    ),
    Misconception(
        name="squared distances",
        replace=(".abs().mean()", ".square().mean()"),
        says="That is the square of W2. W1 counts the distance itself, not its square.",
    ),
    Misconception(
        name="root of squared distances",
        replace=(".abs().mean()", ".square().mean().sqrt()"),
        says="That is W2. W1 is the mean of the distances.",
    ),
    Misconception(
        name="sum instead of mean",
        replace=(".abs().mean()", ".abs().sum()"),
        says="Each of the n values carries 1/n of the probability. Take the mean.",
    ),
    Misconception(
        name="largest distance",
        replace=(".abs().mean()", ".abs().max()"),
        says="That is the worst single transport. W1 is the mean of all.",
    ),
    Misconception(
        name="median distance",
        replace=(".abs().mean()", ".abs().median()"),
        says="W1 is the mean of the distances, not their median.",
    ),
    Misconception(
        name="distance of the means",
        replace=(_W1, "return (x.mean() - y.mean()).abs()"),
        says="Two distributions with equal means can still differ. Pair the sorted values and average the distances.",
    ),
    Misconception(
        name="signed distances",
        replace=(".abs().mean()", ".mean()"),
        says="Moving left and moving right both cost. Take absolute values before the mean.",
    ),
    Misconception(
        name="absolute value last",
        replace=(".abs().mean()", ".mean().abs()"),
        says="Left and right cancel before you take the absolute value. Take it before the mean.",
        same_as=("distance of the means",),
    ),
    Misconception(
        name="all pairs",
        replace=(_W1, "return (x[:, None] - y[None, :]).abs().mean()"),
        says="That is the mean distance of all pairs. Two equal samples would not have distance 0.",
    ),
    Misconception(
        name="nearest neighbours",
        replace=(_W1, "return (x[:, None] - y[None, :]).abs().amin(1).mean()"),
        says="Each hole can be filled once. You send every value to its nearest neighbour.",
    ),
    Misconception(
        name="positions instead of values",
        replace=(_W1, "return (x.argsort() - y.argsort()).abs().to(x.dtype).mean()"),
        says="argsort gives places, not values. Use sort().values.",
    ),
    Misconception(
        name="sizes not checked",
        code="def wasserstein_1d(x, y):\n    return (x.sort().values - y.sort().values).abs().mean()\n",
        says="Unequal sizes must raise ValueError. Torch raises another error, and size 1 silently broadcasts.",
    ),
    Misconception(
        name="cut to the shorter",
        code="def wasserstein_1d(x, y):\n    n = min(len(x), len(y))\n    return (x.sort().values[:n] - y.sort().values[:n]).abs().mean()\n",
        says="Unequal sizes must raise ValueError. Cutting off the largest values changes the distribution.",
    ),
    Misconception(
        name="size 1 broadcasts",
        replace=("if x.shape != y.shape:", "if x.shape != y.shape and 1 not in (len(x), len(y)):"),
        says="A sample of size 1 against one of size 4 is unequal too, and must raise ValueError.",
    ),
    Misconception(
        name="another exception",
        replace=("raise ValueError(", "raise TypeError("),
        says="The exception wanted is ValueError.",
    ),
    Misconception(
        name="one distance for each value",
        replace=(".abs().mean()", ".abs()"),
        says="Return one number: the mean of the distances.",
    ),
)

WASSERSTEIN_RIGHT = (
    Variant(
        name="torch.sort and mean of a norm",
        code="""def wasserstein_1d(x, y):
    if x.numel() != y.numel():
        raise ValueError("unequal sizes")
    a, _ = torch.sort(x)
    b, _ = torch.sort(y)
    return torch.linalg.vector_norm(a - b, ord=1) / x.numel()
""",
    ),
    Variant(
        name="area between the distribution functions",
        code="""def wasserstein_1d(x, y):
    if len(x) != len(y):
        raise ValueError("unequal sizes")
    both = torch.cat([x, y]).sort().values
    gaps = both[1:] - both[:-1]
    f = torch.searchsorted(x.sort().values, both[:-1].contiguous(), right=True) / len(x)
    g = torch.searchsorted(y.sort().values, both[:-1].contiguous(), right=True) / len(y)
    return ((f - g).abs() * gaps).sum()
""",
    ),
    Variant(
        name="Python's sorted",
        code="""def wasserstein_1d(x, y):
    if len(x) != len(y):
        raise ValueError("unequal sizes")
    total = sum(abs(a - b) for a, b in zip(sorted(x.tolist()), sorted(y.tolist())))
    return torch.tensor(total / len(x), dtype=x.dtype)
""",
    ),
    Variant(
        name="topk",
        code="""def wasserstein_1d(x, y):
    if x.size(0) != y.size(0):
        raise ValueError("unequal sizes")
    n = x.size(0)
    return torch.mean(torch.abs(x.topk(n).values - y.topk(n).values))
""",
    ),
)

_PPL = "return math.exp(nll_sum / n_tokens)"

PERPLEXITY_WRONG = (
    Misconception(
        name="two to the power of nats",
        replace=(_PPL, "return 2.0 ** (nll_sum / n_tokens)"),
        says="2^x undoes bits. The sum is in nats, so it is e^x.",
    ),
    Misconception(
        name="exponential of the sum",
        replace=(_PPL, "return math.exp(min(nll_sum, 700.0))"),
        says="That is one over the probability of the whole text. Divide by the number of tokens first.",
    ),
    Misconception(
        name="exponential of the sum, then divided",
        replace=(_PPL, "return math.exp(min(nll_sum, 700.0)) / n_tokens"),
        says="Divide first, then exponentiate: the mean surprise goes into exp.",
    ),
    Misconception(
        name="mean surprise without exp",
        replace=(_PPL, "return nll_sum / n_tokens"),
        says="That is the mean surprise in nats. Perplexity is its exponential.",
    ),
    Misconception(
        name="minus sign",
        replace=(_PPL, "return math.exp(-nll_sum / n_tokens)"),
        says="That is the mean probability of a token (a geometric mean). The perplexity is one over it: the sum is negative log-likelihood already.",
    ),
    Misconception(
        name="converted to bits and raised to e",
        replace=(_PPL, "return math.exp(nll_sum / n_tokens / math.log(2))"),
        says="Either e to the power of nats or 2 to the power of bits. You mix the two.",
    ),
    Misconception(
        name="divided the wrong way round",
        replace=(_PPL, "return math.exp(min(n_tokens / nll_sum if nll_sum else 0.0, 700.0))"),
        says="The mean surprise is nll_sum / n_tokens, not the other way round.",
    ),
    Misconception(
        name="one token fewer",
        replace=(_PPL, "return math.exp(min(nll_sum / max(n_tokens - 1, 1), 700.0))"),
        says="n_tokens says how many were summed. Do not take one off again.",
    ),
    Misconception(
        name="capped",
        replace=(_PPL, "return math.exp(min(nll_sum / n_tokens, 20.0))"),
        says="A cap at e^20 hides how bad a model is.",
    ),
    Misconception(
        name="rounded mean",
        replace=(_PPL, "return math.exp(nll_sum // n_tokens)"),
        says="// rounds the mean down to a whole number. Use /.",
    ),
    Misconception(
        name="rounded to two digits",
        replace=(_PPL, "return round(math.exp(nll_sum / n_tokens), 2)"),
        says="Do not round the result; that is for whoever prints it.",
    ),
    Misconception(
        name="ZeroDivisionError",
        code="def perplexity(nll_sum, n_tokens):\n    return math.exp(nll_sum / n_tokens)\n",
        says="A count that is not positive must raise ValueError: 0 gives ZeroDivisionError here, and -2 gives a number.",
    ),
    Misconception(
        name="only 0 refused",
        replace=("if n_tokens <= 0:", "if n_tokens == 0:"),
        says="A negative count must raise ValueError too.",
    ),
    Misconception(
        name="only negative counts refused",
        replace=("if n_tokens <= 0:", "if n_tokens < 0:"),
        says="A count of 0 must raise ValueError too, not ZeroDivisionError.",
    ),
    Misconception(
        name="infinite for no tokens",
        replace=("if n_tokens <= 0:\n", "if n_tokens <= 0:\n        return math.inf\n    if n_tokens <= 0:\n"),
        says="No tokens, no perplexity: raise ValueError instead of returning a number.",
    ),
    Misconception(
        name="count raised to 1",
        replace=("if n_tokens <= 0:", "n_tokens = max(n_tokens, 1)\n    if n_tokens <= 0:"),
        says="A count of 0 must raise ValueError. You quietly make it 1.",
        same_as=("infinite for no tokens",),
    ),
    Misconception(
        name="negative sums refused",
        replace=("if n_tokens <= 0:", "if n_tokens <= 0 or nll_sum < 0:"),
        says="A sum below 0 is legal (densities may be above 1). Only the count is checked.",
    ),
    Misconception(
        name="a sum of 0 refused",
        replace=("if n_tokens <= 0:", "if n_tokens <= 0 or nll_sum == 0:"),
        says="A model that is never surprised has perplexity 1. Only the count is checked.",
    ),
)

PERPLEXITY_RIGHT = (
    Variant(
        name="a power of e",
        code="def perplexity(nll_sum, n_tokens):\n    if not n_tokens > 0:\n        raise ValueError('no tokens')\n    return math.e ** (nll_sum / n_tokens)\n",
    ),
    Variant(
        name="2 to the power of bits",
        code="def perplexity(nll_sum, n_tokens):\n    if n_tokens < 1:\n        raise ValueError('no tokens')\n    bits = nll_sum / n_tokens / math.log(2)\n    return 2.0 ** bits\n",
    ),
    Variant(
        name="torch, back to a float",
        code="def perplexity(nll_sum, n_tokens):\n    if n_tokens <= 0:\n        raise ValueError('no tokens')\n    return torch.exp(torch.tensor(nll_sum, dtype=torch.float64) / n_tokens).item()\n",
    ),
)

_BPB = "return nll_sum / math.log(2) / n_bytes"

BITS_WRONG = (
    Misconception(
        name="nats per byte",
        replace=(_BPB, "return nll_sum / n_bytes"),
        says="That is nats per byte. One nat is 1.4427 bits: divide by ln 2.",
    ),
    Misconception(
        name="multiplied by ln 2",
        replace=(_BPB, "return nll_sum * math.log(2) / n_bytes"),
        says="One bit is 0.6931 nats, so nats divided by ln 2 are bits. You multiply.",
    ),
    Misconception(
        name="logarithm of the sum",
        replace=(_BPB, "return math.log2(abs(nll_sum) + 1e-300) / n_bytes"),
        says="The sum holds logarithms already. Change their base by dividing by ln 2; take no further logarithm.",
    ),
    Misconception(
        name="bits, not for each byte",
        replace=(_BPB, "return nll_sum / math.log(2)"),
        says="Those are the bits of the whole text. Divide by the number of bytes.",
    ),
    Misconception(
        name="bytes for each bit",
        replace=(_BPB, "return n_bytes * math.log(2) / nll_sum if nll_sum else 0.0"),
        says="Upside down: bits over bytes, not bytes over bits.",
    ),
    Misconception(
        name="bytes counted as bits",
        replace=(_BPB, "return nll_sum / math.log(2) / (8 * n_bytes)"),
        says="You divide by 8 as well: that is the compressed size as a share of the original. Bits per byte may go up to 8.",
    ),
    Misconception(
        name="multiplied by 8",
        replace=(_BPB, "return 8 * nll_sum / math.log(2) / n_bytes"),
        says="The factor 8 does not belong here: bits of the code, for each byte of the text.",
    ),
    Misconception(
        name="exponential taken",
        replace=(_BPB, "return math.exp(nll_sum / n_bytes)"),
        says="That is a perplexity for each byte. Bits per byte are surprise: no exponential.",
    ),
    Misconception(
        name="power of two taken",
        replace=(_BPB, "return 2 ** (nll_sum / math.log(2) / n_bytes)"),
        says="That is a perplexity. Bits per byte are surprise: no exponential.",
        same_as=("exponential taken",),
    ),
    Misconception(
        name="base 10",
        replace=(_BPB, "return nll_sum / math.log(10) / n_bytes"),
        says="You divide by ln 10. Bits are logarithms to base 2.",
    ),
    Misconception(
        name="rounded down",
        replace=(_BPB, "return nll_sum / math.log(2) // n_bytes"),
        says="// rounds down to a whole number. Use /.",
    ),
    Misconception(
        name="sign turned",
        replace=(_BPB, "return -nll_sum / math.log(2) / n_bytes"),
        says="The sum is negative log-likelihood already. No further minus.",
    ),
    Misconception(
        name="ZeroDivisionError",
        code="def bits_per_byte(nll_sum, n_bytes):\n    return nll_sum / math.log(2) / n_bytes\n",
        says="A count that is not positive must raise ValueError: 0 gives ZeroDivisionError here, and -2 gives a number.",
    ),
    Misconception(
        name="only 0 refused",
        replace=("if n_bytes <= 0:", "if n_bytes == 0:"),
        says="A negative count must raise ValueError too.",
    ),
    Misconception(
        name="only negative counts refused",
        replace=("if n_bytes <= 0:", "if n_bytes < 0:"),
        says="A count of 0 must raise ValueError too, not ZeroDivisionError.",
    ),
    Misconception(
        name="0 for no bytes",
        replace=("if n_bytes <= 0:\n", "if n_bytes <= 0:\n        return 0.0\n    if n_bytes <= 0:\n"),
        says="No bytes, no figure: raise ValueError instead of returning a number.",
    ),
    Misconception(
        name="never below 0",
        replace=(_BPB, "return max(nll_sum / math.log(2) / n_bytes, 0.0)"),
        says="A sum below 0 is legal (densities may be above 1). Do not cut it off.",
    ),
)

BITS_RIGHT = (
    Variant(
        name="times log2 of e",
        code="def bits_per_byte(nll_sum, n_bytes):\n    if not n_bytes > 0:\n        raise ValueError('no bytes')\n    return nll_sum * math.log2(math.e) / n_bytes\n",
    ),
    Variant(
        name="nats per byte first",
        code="def bits_per_byte(nll_sum, n_bytes):\n    if n_bytes < 1:\n        raise ValueError('no bytes')\n    nats = nll_sum / n_bytes\n    return nats / math.log(2.0)\n",
    ),
    Variant(
        name="a constant",
        code="def bits_per_byte(nll_sum, n_bytes):\n    if n_bytes <= 0:\n        raise ValueError('no bytes')\n    return nll_sum / (0.6931471805599453 * n_bytes)\n",
    ),
)

_LOG_Z = "log_z = torch.logsumexp(logits, dim=-1)"
_Z_END = "return coefficient * log_z.square().mean()"

Z_WRONG = (
    Misconception(
        name="square of the mean",
        replace=("log_z.square().mean()", "log_z.mean().square()"),
        says="Square first, then average. Otherwise a position at +5 and one at -5 cancel.",
    ),
    Misconception(
        name="not squared",
        replace=("log_z.square().mean()", "log_z.mean()"),
        says="Without the square the loss falls without end as the logits go down. It pulls log Z to 0 from both sides.",
    ),
    Misconception(
        name="absolute value",
        replace=("log_z.square().mean()", "log_z.abs().mean()"),
        says="The z-loss squares log Z. The absolute value pulls with the same force however far away it is.",
    ),
    Misconception(
        name="only above 0",
        replace=("log_z.square().mean()", "log_z.clamp(min=0.0).square().mean()"),
        says="A log Z below 0 is charged too.",
    ),
    Misconception(
        name="half of the square",
        replace=("coefficient * log_z", "0.5 * coefficient * log_z"),
        says="There is no half in the z-loss.",
    ),
    Misconception(
        name="sum instead of mean",
        replace=("log_z.square().mean()", "log_z.square().sum()"),
        says="Average over positions, or the loss grows with the batch.",
    ),
    Misconception(
        name="summed over time, averaged over the batch",
        replace=("log_z.square().mean()", "log_z.square().sum() / len(logits)"),
        says="You divide by the batch size alone. Every position counts as one.",
    ),
    Misconception(
        name="divided by the number of classes",
        replace=("log_z.square().mean()", "log_z.square().mean() / logits.shape[-1]"),
        says="Each position has one Z. Do not divide by V.",
    ),
    Misconception(
        name="mean of exponentials",
        replace=(_LOG_Z, _LOG_Z + " - math.log(logits.shape[-1])"),
        says="You averaged the exponentials. Z is their sum.",
    ),
    Misconception(
        name="over the positions",
        replace=("dim=-1", "dim=0"),
        says="The log-sum-exp runs over the first dimension. Each position's Z sums over its classes, the last dimension.",
    ),
    Misconception(
        name="one Z for the whole tensor",
        replace=(_LOG_Z, "log_z = torch.logsumexp(logits.flatten(), dim=0)"),
        says="Each position has its own Z. You summed over everything.",
    ),
    Misconception(
        name="exponentials without a shift",
        replace=(_LOG_Z, "log_z = logits.exp().sum(-1).log()"),
        says="exp overflows at 89 in float32. Use torch.logsumexp, which subtracts the maximum first.",
    ),
    Misconception(
        name="maximum not added back",
        replace=(_LOG_Z, "log_z = torch.logsumexp(logits - logits.amax(-1, keepdim=True), dim=-1)"),
        says="You subtracted the maximum for safety and did not add it back. Softmax forgets such a shift, log Z does not: the shift is what this loss is about.",
    ),
    Misconception(
        name="Z itself",
        replace=(_LOG_Z, "log_z = logits.exp().sum(-1)"),
        says="You square Z. The loss squares ln Z.",
    ),
    Misconception(
        name="softmax first",
        replace=(_LOG_Z, "log_z = torch.logsumexp(torch.log_softmax(logits, -1), dim=-1)"),
        says="After a softmax Z is always 1 and the loss always 0. Take the logits as they are.",
    ),
    Misconception(
        name="logits squared",
        replace=("log_z.square().mean()", "logits.square().mean()"),
        says="That is weight decay on the logits. The z-loss squares one number for each position, ln Z.",
    ),
    Misconception(
        name="largest logit squared",
        replace=(_LOG_Z, "log_z = logits.amax(-1)"),
        says="The largest logit is only a lower bound of ln Z. Use logsumexp.",
    ),
    Misconception(
        name="coefficient forgotten",
        replace=("coefficient * log_z", "log_z"),
        says="Multiply by the coefficient.",
    ),
    Misconception(
        name="coefficient fixed",
        replace=("coefficient * log_z", "1e-4 * log_z"),
        says="The coefficient is a parameter. You use 1e-4 whatever the caller asks for.",
    ),
    Misconception(
        name="coefficient squared too",
        replace=("coefficient * log_z.square()", "(coefficient * log_z).square()"),
        says="The coefficient stands before the square.",
    ),
    Misconception(
        name="bits",
        replace=(_LOG_Z, _LOG_Z + " / math.log(2)"),
        says="The logarithm is natural.",
    ),
    Misconception(
        name="gradient cut off",
        replace=("torch.logsumexp(logits, dim=-1)", "torch.logsumexp(logits.detach(), dim=-1)"),
        says="The loss is detached from the logits, so it pulls at nothing.",
    ),
    Misconception(
        name="one loss for each position",
        replace=("log_z.square().mean()", "log_z.square()"),
        says="Return one number: the mean over positions.",
    ),
)

Z_RIGHT = (
    Variant(
        name="maximum subtracted and added",
        code="""def z_loss(logits, coefficient=1e-4):
    top = logits.max(dim=-1, keepdim=True).values
    log_z = (logits - top).exp().sum(-1).log() + top.squeeze(-1)
    return coefficient * (log_z**2).mean()
""",
    ),
    Variant(
        name="logits less log-probabilities",
        code="""def z_loss(logits, coefficient=1e-4):
    log_z = (logits - torch.log_softmax(logits, dim=-1))[..., 0]
    return coefficient * torch.mean(log_z * log_z)
""",
    ),
    Variant(
        name="float32 inside, flattened, sum over count",
        code="""def z_loss(logits, coefficient=1e-4):
    z = torch.logsumexp(logits.float().reshape(-1, logits.shape[-1]), 1)
    return coefficient * z.pow(2).sum() / z.numel()
""",
    ),
    Variant(
        name="a loop over positions",
        code="""def z_loss(logits, coefficient=1e-4):
    rows = logits.flatten(0, -2)
    total = 0.0
    for row in rows:
        total = total + torch.logsumexp(row, 0) ** 2
    return coefficient * total / len(rows)
""",
    ),
)

_NCE_Q = "q = queries / queries.norm(dim=-1, keepdim=True)"
_NCE_K = "k = keys / keys.norm(dim=-1, keepdim=True)"
_NCE_LOGITS = "logits = q @ k.T / temperature"
_NCE_END = "return cross_entropy(logits, torch.arange(len(q), device=q.device))"

INFO_WRONG = (
    Misconception(
        name="not normalised",
        replace=(_NCE_LOGITS, "logits = queries @ keys.T / temperature"),
        says="Similarity is the cosine: divide each row of both by its length. Otherwise long vectors win.",
    ),
    Misconception(
        name="queries not normalised",
        replace=(_NCE_LOGITS, "logits = queries @ k.T / temperature"),
        says="The queries' rows must have length 1 too.",
    ),
    Misconception(
        name="keys not normalised",
        replace=(_NCE_LOGITS, "logits = q @ keys.T / temperature"),
        says="The keys' rows must have length 1 too.",
    ),
    Misconception(
        name="columns normalised",
        code="def info_nce(queries, keys, temperature=0.07):\n    q = queries / queries.norm(dim=0, keepdim=True)\n    k = keys / keys.norm(dim=0, keepdim=True)\n    return cross_entropy(q @ k.T / temperature, torch.arange(len(q)))\n",
        says="You divided each column by its length. A query is a row: dim=-1.",
    ),
    Misconception(
        name="divided by the length of everything",
        code="def info_nce(queries, keys, temperature=0.07):\n    q, k = queries / queries.norm(), keys / keys.norm()\n    return cross_entropy(q @ k.T / temperature, torch.arange(len(q)))\n",
        says="Each row is divided by its own length: dim=-1, keepdim=True.",
    ),
    Misconception(
        name="divided by the squared length",
        code="def info_nce(queries, keys, temperature=0.07):\n    q = queries / queries.square().sum(-1, keepdim=True)\n    k = keys / keys.square().sum(-1, keepdim=True)\n    return cross_entropy(q @ k.T / temperature, torch.arange(len(q)))\n",
        says="The length is the root of the sum of squares. You left out the root.",
    ),
    Misconception(
        name="multiplied by the temperature",
        replace=("q @ k.T / temperature", "q @ k.T * temperature"),
        says="A small temperature sharpens: divide by it.",
    ),
    Misconception(
        name="temperature ignored",
        replace=("q @ k.T / temperature", "q @ k.T"),
        says="The temperature is not used.",
    ),
    Misconception(
        name="always 0.07",
        replace=("q @ k.T / temperature", "q @ k.T / 0.07"),
        says="The temperature is a parameter. You use 0.07 whatever the caller asks for.",
    ),
    Misconception(
        name="divided by the root of the temperature",
        replace=("q @ k.T / temperature", "q @ k.T / temperature**0.5"),
        says="Divide by the temperature itself.",
    ),
    Misconception(
        name="temperature applied to both",
        replace=("q @ k.T / temperature", "(q / temperature) @ (k / temperature).T"),
        says="You divide queries and keys by the temperature, so similarities are divided by its square.",
    ),
    Misconception(
        name="divided by the root of the width too",
        replace=("q @ k.T / temperature", "q @ k.T / temperature / queries.shape[-1] ** 0.5"),
        says="The 1/sqrt(d) of attention does not belong here. Cosines are divided by the temperature alone.",
    ),
    Misconception(
        name="keys choose among queries",
        replace=("q @ k.T / temperature", "k @ q.T / temperature"),
        says="The direction is turned: each query chooses among the keys, so rows are queries.",
    ),
    Misconception(
        name="both directions",
        replace=(
            _NCE_END,
            "t = torch.arange(len(q), device=q.device)\n    return (cross_entropy(logits, t) + cross_entropy(logits.T, t)) / 2",
        ),
        says="That is CLIP's symmetric loss. One direction is asked for: queries choose among keys.",
    ),
    Misconception(
        name="positive left out of the denominator",
        replace=(
            _NCE_END,
            "others = logits.masked_fill(torch.eye(len(q), dtype=torch.bool), -1e9)\n    return (torch.logsumexp(others, 1) - logits.diagonal()).mean()",
        ),
        says="The denominator runs over all keys, the query's own included. It is a cross-entropy.",
    ),
    Misconception(
        name="only the positive",
        replace=(_NCE_END, "return -logits.diagonal().mean()"),
        says="Without negatives all vectors may collapse to one point. The denominator is missing.",
    ),
    Misconception(
        name="queries against themselves",
        replace=("q @ k.T / temperature", "q @ q.T / temperature"),
        says="You compare queries with queries. The keys are not used.",
    ),
    Misconception(
        name="negatives from queries and keys",
        replace=(
            _NCE_LOGITS,
            "own = (q @ q.T / temperature).masked_fill(torch.eye(len(q), dtype=torch.bool), -1e9)\n    logits = torch.cat([q @ k.T / temperature, own], dim=1)",
        ),
        says="That is SimCLR's loss with the other queries as further negatives. Here the negatives are the batch's keys alone.",
    ),
    Misconception(
        name="sum instead of mean",
        replace=(_NCE_END, _NCE_END + " * len(q)"),
        says="Take the mean over the queries.",
    ),
    Misconception(
        name="divided by N twice",
        replace=(_NCE_END, _NCE_END + " / len(q)"),
        says="The mean is over N queries. You divide by N twice, as if over all pairs.",
    ),
    Misconception(
        name="softmax before the cross-entropy",
        replace=("cross_entropy(logits,", "cross_entropy(torch.softmax(logits, -1),"),
        says="The cross-entropy takes logits and does the softmax itself.",
    ),
    Misconception(
        name="exponentials without a shift",
        replace=(_NCE_END, "e = logits.exp()\n    return -(e.diagonal() / e.sum(1)).log().mean()"),
        says="At temperature 0.003 the logits reach 333 and exp overflows in float32. Use a cross-entropy or logsumexp.",
    ),
    Misconception(
        name="a small number in the logarithm",
        replace=(_NCE_END, "return -(torch.softmax(logits, 1).diagonal() + 1e-6).log().mean()"),
        says="+1e-6 caps the loss at 13.8 nats, where the hardest pairs are. Use a cross-entropy or logsumexp.",
    ),
    Misconception(
        name="independent yes-no questions",
        replace=(
            _NCE_END,
            "yes = torch.nn.functional.logsigmoid(logits).diagonal()\n    no = torch.nn.functional.logsigmoid(-logits).masked_fill(torch.eye(len(q), dtype=torch.bool), 0.0)\n    return -(yes + no.sum(1)).mean()",
        ),
        says="That is SigLIP's loss: each pair by itself. InfoNCE is one choice among all keys.",
    ),
    Misconception(
        name="bits",
        replace=(_NCE_END, _NCE_END + " / math.log(2)"),
        says="The result is in bits. Losses are in nats.",
    ),
    Misconception(
        name="keys detached",
        replace=(_NCE_K, "k = (keys / keys.norm(dim=-1, keepdim=True)).detach()"),
        says="No gradient reaches the keys. Both encoders learn.",
    ),
    Misconception(
        name="lengths detached",
        code="def info_nce(queries, keys, temperature=0.07):\n    q = queries / queries.norm(dim=-1, keepdim=True).detach()\n    k = keys / keys.norm(dim=-1, keepdim=True).detach()\n    return cross_entropy(q @ k.T / temperature, torch.arange(len(q)))\n",
        says="The value is right, but the lengths are detached: the gradient then has a part along the vector, which changes no cosine.",
    ),
)

INFO_RIGHT = (
    Variant(
        name="F.normalize and torch's cross-entropy",
        code="""def info_nce(queries, keys, temperature=0.07):
    import torch.nn.functional as F
    q, k = F.normalize(queries, dim=-1), F.normalize(keys, dim=-1)
    return F.cross_entropy(q @ k.T / temperature, torch.arange(q.shape[0]))
""",
    ),
    Variant(
        name="logsumexp less the diagonal",
        code="""def info_nce(queries, keys, temperature=0.07):
    dots = queries @ keys.transpose(0, 1)
    s = dots / (queries.norm(dim=1)[:, None] * keys.norm(dim=1)[None, :]) / temperature
    return (torch.logsumexp(s, dim=1) - torch.diagonal(s)).mean()
""",
    ),
    Variant(
        name="a loop over queries, float32 inside",
        code="""def info_nce(queries, keys, temperature=0.07):
    keys = keys.float()
    losses = []
    for i, q in enumerate(queries.float()):
        s = torch.cosine_similarity(q[None], keys, dim=-1) / temperature
        losses.append(-torch.log_softmax(s, 0)[i])
    return torch.stack(losses).mean()
""",
    ),
    Variant(
        name="einsum, trace",
        code="""def info_nce(queries, keys, temperature=0.07):
    q = queries * queries.square().sum(-1, keepdim=True).rsqrt()
    k = keys * keys.square().sum(-1, keepdim=True).rsqrt()
    log_p = torch.log_softmax(torch.einsum("ie,je->ij", q, k) / temperature, dim=1)
    return -torch.trace(log_p) / len(q)
""",
    ),
)

_TEACHER = "log_teacher = torch.log_softmax(teacher_logits.detach() / temperature, dim=-1)"
_STUDENT = "log_student = torch.log_softmax(student_logits / temperature, dim=-1)"
_DISTILL_END = "return temperature**2 * kl_divergence(log_teacher, log_student).mean()"

DISTILLATION_WRONG = (
    Misconception(
        name="direction swapped",
        replace=("kl_divergence(log_teacher, log_student)", "kl_divergence(log_student, log_teacher)"),
        says="This is KL(student || teacher). The teacher's forecast is the truth here, so it stands first.",
    ),
    Misconception(
        name="arguments of F.kl_div mixed up",
        replace=(
            _DISTILL_END,
            "kl = torch.nn.functional.kl_div(log_teacher, log_student.exp(), reduction='none').sum(-1)\n    return temperature**2 * kl.mean()",
        ),
        says="F.kl_div(input, target) is KL(target || input): the student's log-probabilities come first, the teacher's probabilities second.",
        same_as=("direction swapped",),
    ),
    Misconception(
        name="batchmean over three dimensions",
        replace=(
            _DISTILL_END,
            "kl = torch.nn.functional.kl_div(log_student, log_teacher.exp(), reduction='batchmean')\n    return temperature**2 * kl",
        ),
        says="batchmean divides by the first dimension alone. With (B, T, V) the mean runs over B * T positions.",
    ),
    Misconception(
        name="mean over the classes too",
        replace=(
            "kl_divergence(log_teacher, log_student).mean()",
            "torch.nn.functional.kl_div(log_student, log_teacher.exp(), reduction='none').mean()",
        ),
        says="A plain mean, like reduction='mean', divides by V as well. Sum over the classes, average over the positions.",
    ),
    Misconception(
        name="sum over positions",
        replace=("kl_divergence(log_teacher, log_student).mean()", "kl_divergence(log_teacher, log_student).sum()"),
        says="Average over the positions, or the loss grows with the batch.",
    ),
    Misconception(
        name="factor T squared forgotten",
        replace=("temperature**2 * kl", "kl"),
        says="Softening shrinks gradients by 1/T^2. Multiply by the temperature squared.",
    ),
    Misconception(
        name="factor T",
        replace=("temperature**2 * kl", "temperature * kl"),
        says="The factor is the temperature squared.",
    ),
    Misconception(
        name="divided by T squared",
        replace=("temperature**2 * kl", "temperature**-2 * kl"),
        says="Multiply by the temperature squared; you divide.",
    ),
    Misconception(
        name="student not softened",
        replace=("student_logits / temperature", "student_logits"),
        says="Both sides are softened by the same temperature. The student's logits must be divided too.",
    ),
    Misconception(
        name="teacher not softened",
        replace=("teacher_logits.detach() / temperature", "teacher_logits.detach()"),
        says="Both sides are softened by the same temperature. The teacher's logits must be divided too.",
    ),
    Misconception(
        name="multiplied by the temperature",
        code="def distillation_loss(student_logits, teacher_logits, temperature):\n    t = torch.log_softmax(teacher_logits.detach() * temperature, -1)\n    s = torch.log_softmax(student_logits * temperature, -1)\n    return temperature**2 * (t.exp() * (t - s)).sum(-1).mean()\n",
        says="A high temperature flattens: divide the logits by it.",
    ),
    Misconception(
        name="probabilities divided instead of logits",
        code="def distillation_loss(student_logits, teacher_logits, temperature):\n    t = torch.log_softmax(teacher_logits.detach(), -1)\n    s = torch.log_softmax(student_logits, -1)\n    p = t.exp() / temperature\n    return temperature**2 * (p * (t - s)).sum(-1).mean()\n",
        says="The temperature divides the logits, before the softmax (claim C05.06). You divide the probabilities.",
    ),
    Misconception(
        name="cross-entropy with the teacher",
        replace=("kl_divergence(log_teacher, log_student).mean()", "-(log_teacher.exp() * log_student).sum(-1).mean()"),
        says="That is the cross-entropy. Its gradient is the same, but the teacher's entropy is still in its value: equal models must give 0.",
    ),
    Misconception(
        name="hard labels",
        replace=(
            "kl_divergence(log_teacher, log_student).mean()",
            "-log_student.gather(-1, log_teacher.argmax(-1, keepdim=True)).mean()",
        ),
        says="You learn the teacher's first choice only. Distillation passes on the whole distribution.",
    ),
    Misconception(
        name="squared difference of logits",
        code="def distillation_loss(student_logits, teacher_logits, temperature):\n    return temperature**2 * (student_logits / temperature - teacher_logits.detach() / temperature).square().mean()\n",
        says="That is the limit of high temperature, up to a factor. The loss asked for is the divergence of the softened distributions.",
    ),
    Misconception(
        name="gradient to the teacher",
        replace=("teacher_logits.detach() / temperature", "teacher_logits / temperature"),
        says="The values are right, but the teacher gets a gradient: it would be trained to be imitated. Detach its logits.",
    ),
    Misconception(
        name="student detached instead",
        code="def distillation_loss(student_logits, teacher_logits, temperature):\n    t = torch.log_softmax(teacher_logits / temperature, -1)\n    s = torch.log_softmax(student_logits.detach() / temperature, -1)\n    return temperature**2 * (t.exp() * (t - s)).sum(-1).mean()\n",
        says="You detached the student. The student learns, the teacher does not.",
    ),
    Misconception(
        name="everything detached",
        replace=("student_logits / temperature", "student_logits.detach() / temperature"),
        says="No gradient reaches the student, so nothing is learned.",
    ),
    Misconception(
        name="arguments swapped",
        replace=(_TEACHER, "student_logits, teacher_logits = teacher_logits, student_logits\n    " + _TEACHER),
        says="The student's logits are the first argument. You use them as the teacher's.",
        same_as=("direction swapped",),
    ),
    Misconception(
        name="logarithm of a softmax",
        code="def distillation_loss(student_logits, teacher_logits, temperature):\n    p = torch.softmax(teacher_logits.detach() / temperature, -1)\n    q = torch.softmax(student_logits / temperature, -1)\n    return temperature**2 * (p * (p.log() - q.log())).sum(-1).mean()\n",
        says="Where a probability underflows to 0 its logarithm is -inf, and 0 * inf is NaN. Use log_softmax on both sides.",
    ),
    Misconception(
        name="a small number in the logarithms",
        code="def distillation_loss(student_logits, teacher_logits, temperature):\n    p = torch.softmax(teacher_logits.detach() / temperature, -1)\n    q = torch.softmax(student_logits / temperature, -1)\n    return temperature**2 * (p * ((p + 1e-8).log() - (q + 1e-8).log())).sum(-1).mean()\n",
        says="+1e-8 caps what a sure and wrong student has to pay. Use log_softmax on both sides.",
    ),
    Misconception(
        name="softmax over the positions",
        code="def distillation_loss(student_logits, teacher_logits, temperature):\n    t = torch.log_softmax(teacher_logits.detach() / temperature, 0)\n    s = torch.log_softmax(student_logits / temperature, 0)\n    return temperature**2 * (t.exp() * (t - s)).sum(-1).mean()\n",
        says="The softmax runs over the first dimension. Each position has a distribution over the V classes, the last one.",
    ),
    Misconception(
        name="bits",
        replace=(_DISTILL_END, _DISTILL_END + " / math.log(2)"),
        says="The result is in bits. Losses are in nats.",
    ),
    Misconception(
        name="one loss for each position",
        replace=("kl_divergence(log_teacher, log_student).mean()", "kl_divergence(log_teacher, log_student)"),
        says="Return one number: the mean over positions.",
    ),
    Misconception(
        name="both directions averaged",
        replace=(
            "kl_divergence(log_teacher, log_student).mean()",
            "0.5 * (kl_divergence(log_teacher, log_student) + kl_divergence(log_student, log_teacher)).mean()",
        ),
        says="You average both directions. Only KL(teacher || student) is asked for.",
    ),
)

DISTILLATION_RIGHT = (
    Variant(
        name="F.kl_div, flattened, batchmean",
        code="""def distillation_loss(student_logits, teacher_logits, temperature):
    import torch.nn.functional as F
    V = student_logits.size(-1)
    s = F.log_softmax(student_logits.reshape(-1, V) / temperature, dim=-1)
    t = F.softmax(teacher_logits.detach().reshape(-1, V) / temperature, dim=-1)
    return F.kl_div(s, t, reduction="batchmean") * temperature**2
""",
    ),
    Variant(
        name="F.kl_div with logarithms on both sides",
        code="""def distillation_loss(student_logits, teacher_logits, temperature):
    import torch.nn.functional as F
    with torch.no_grad():
        t = F.log_softmax(teacher_logits / temperature, dim=-1)
    s = F.log_softmax(student_logits / temperature, dim=-1)
    return F.kl_div(s, t, reduction="none", log_target=True).sum(-1).mean() * (temperature * temperature)
""",
    ),
    Variant(
        name="cross-entropy less the teacher's entropy, float32 inside",
        code="""def distillation_loss(student_logits, teacher_logits, temperature):
    s = (student_logits.float() / temperature).log_softmax(-1)
    t = (teacher_logits.float().detach() / temperature).log_softmax(-1)
    p = t.exp()
    return temperature**2 * ((p * t).sum(-1) - (p * s).sum(-1)).mean()
""",
    ),
    Variant(
        name="a loop over positions, logsumexp by hand",
        code="""def distillation_loss(student_logits, teacher_logits, temperature):
    total, n = 0.0, 0
    pairs = zip(student_logits.flatten(0, -2), teacher_logits.data.flatten(0, -2))
    for s, t in pairs:
        s, t = s / temperature, t / temperature
        p = torch.softmax(t, 0)
        gap = (t - torch.logsumexp(t, 0)) - (s - torch.logsumexp(s, 0))
        total = total + (p * gap).sum()
        n += 1
    return total / n * temperature**2
""",
    ),
)

EXERCISES = [
    Exercise(
        name="entropy",
        reference=_entropy,
        cases=_entropy_cases,
        close=NEAR,
        forbids=DISTRIBUTIONS,
        hints=(
            "What is 0 * log(0) for a computer, and what must it be here? And what should a caller who passes logits be told?",
            "Check p < 0 and |p.sum(dim) - 1| > 1e-3 with .any(). Replace zeros by 1 inside the logarithm only: log 1 = 0.",
            "-(p * log(p.masked_fill(p == 0, 1))).sum(dim) / math.log(base)",
        ),
        misconceptions=ENTROPY_WRONG,
        variants=ENTROPY_RIGHT,
    ),
    Exercise(
        name="cross_entropy",
        reference=_cross_entropy,
        cases=_cross_entropy_cases,
        close=NEAR,
        forbids=CROSS_ENTROPY_ROUTINES,
        hints=(
            "-ln softmax(z)_t is a difference of two numbers that never overflow. Which?",
            "logsumexp(z) - z_t for each position. gather needs a legal index everywhere, so replace ignored targets by 0 and throw the result away.",
            "kept = targets != ignore_index; surprise = logsumexp(logits, -1) - logits.gather(-1, index[..., None])[..., 0]; sum over kept / kept.sum().clamp(min=1)",
        ),
        misconceptions=CROSS_ENTROPY_WRONG,
        variants=CROSS_ENTROPY_RIGHT,
    ),
    Exercise(
        name="lm_loss",
        reference=_lm_loss,
        cases=_lm_cases,
        uses=("cross_entropy",),
        close=NEAR,
        hints=(
            "Write a text of four tokens and, below it, what each position forecasts. Which logits and which ids are left over?",
            "logits[:, :-1] belongs with input_ids[:, 1:]. A pair counts when mask[:, :-1] and mask[:, 1:] are both 1.",
            "Turn mask into bool, set targets of pairs that do not count to -100, and call cross_entropy(logits[:, :-1], targets).",
        ),
        misconceptions=LM_WRONG,
        variants=LM_RIGHT,
    ),
    Exercise(
        name="kl_divergence",
        reference=_kl_divergence,
        cases=_kl_cases,
        close=NEAR,
        forbids=KL_ROUTINES,
        hints=(
            "Which of p and q weighs the terms? And what does your formula give where p is 0?",
            "Where log_p is -inf, put something harmless in place of both logarithms before you subtract, and 0 in place of the term.",
            "absent = log_p == -inf; a, b = log_p.masked_fill(absent, 0), log_q.masked_fill(absent, 0); (a.exp() * (a - b)).masked_fill(absent, 0).sum(dim)",
        ),
        misconceptions=KL_WRONG,
        variants=KL_RIGHT,
    ),
    Exercise(
        name="gaussian_kl",
        reference=_gaussian_kl,
        cases=_gaussian_cases,
        close=NEAR,
        forbids=DISTRIBUTIONS,
        hints=(
            "Try the same bell twice. Your formula must give 0.",
            "Three terms, halved together: the logarithm of the variances' ratio, (var0 + distance of means squared) / var1, and -1.",
            "0.5 * (log(var1 / var0) + (var0 + (mu0 - mu1)**2) / var1 - 1)",
        ),
        misconceptions=GAUSSIAN_WRONG,
        variants=GAUSSIAN_RIGHT,
    ),
    Exercise(
        name="kl_estimates",
        reference=_kl_estimates,
        cases=_estimate_cases,
        close=NEAR,
        forbids=DISTRIBUTIONS,
        hints=(
            "For a sample that p likes much better than q, d is large. Is exp(-d) then large or small?",
            "All three are made from d = logp - logq, elementwise, without any probability.",
            'd = logp - logq; {"k1": d, "k2": d**2 / 2, "k3": torch.exp(-d) - 1 + d}',
        ),
        misconceptions=ESTIMATES_WRONG,
        variants=ESTIMATES_RIGHT,
    ),
    Exercise(
        name="wasserstein_1d",
        reference=_wasserstein_1d,
        cases=_wasserstein_cases,
        close=NEAR,
        forbids=("scipy.stats",),
        hints=(
            "Three heaps at 0, 5, 9 and three holes at 1, 4, 9. Which heap goes into which hole?",
            "The cheapest plan never crosses: sort both. Then it is a mean of distances.",
            "Raise ValueError for unequal sizes; then (x.sort().values - y.sort().values).abs().mean()",
        ),
        misconceptions=WASSERSTEIN_WRONG,
        variants=WASSERSTEIN_RIGHT,
    ),
    Exercise(
        name="perplexity",
        reference=_perplexity,
        cases=_perplexity_cases,
        close=NEAR,
        hints=(
            "A model that chooses among 20 equal words at every step is surprised by ln 20 each time. What brings you back to 20?",
            "Divide first, then exponentiate. And think of a count of 0.",
            "if n_tokens <= 0: raise ValueError(...); return math.exp(nll_sum / n_tokens)",
        ),
        misconceptions=PERPLEXITY_WRONG,
        variants=PERPLEXITY_RIGHT,
    ),
    Exercise(
        name="bits_per_byte",
        reference=_bits_per_byte,
        cases=_bits_cases,
        close=NEAR,
        hints=(
            "How many nats is one bit?",
            "One bit is ln 2 nats, so dividing nats by ln 2 gives bits.",
            "if n_bytes <= 0: raise ValueError(...); return nll_sum / math.log(2) / n_bytes",
        ),
        misconceptions=BITS_WRONG,
        variants=BITS_RIGHT,
    ),
    Exercise(
        name="z_loss",
        reference=_z_loss,
        cases=_z_cases,
        close=NEAR,
        hints=(
            "How many Z are there for logits (B, T, V)?",
            "torch.logsumexp over the last dimension gives ln Z for each position, safely.",
            "coefficient * torch.logsumexp(logits, dim=-1).square().mean()",
        ),
        misconceptions=Z_WRONG,
        variants=Z_RIGHT,
    ),
    Exercise(
        name="info_nce",
        reference=_info_nce,
        cases=_info_cases,
        uses=("cross_entropy",),
        close=Close(1e-4, 1e-5),
        hints=(
            "Draw the N x N table of similarities. Where in each row is the right answer?",
            "Divide each row of both by its length, multiply, divide by the temperature: those are logits. The targets are 0, 1, 2, ...",
            "cross_entropy(q @ k.T / temperature, torch.arange(N)) with normalised q and k",
        ),
        misconceptions=INFO_WRONG,
        variants=INFO_RIGHT,
    ),
    Exercise(
        name="distillation_loss",
        reference=_distillation_loss,
        cases=_distillation_cases,
        uses=("kl_divergence",),
        close=NEAR,
        forbids=DISTRIBUTIONS,
        hints=(
            "Who is p and who is q? And which of the two may learn?",
            "log_softmax of both logits divided by the temperature, the teacher's detached. Sum over classes, mean over positions.",
            "temperature**2 * kl_divergence(log_teacher, log_student).mean()",
        ),
        misconceptions=DISTILLATION_WRONG,
        variants=DISTILLATION_RIGHT,
    ),
]
