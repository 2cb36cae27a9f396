"""Checks of chapter 03: references in float64, cases by rule, and the ways norms go wrong.

The references share no formula with the worked solutions where there is a choice: variances are means of squared differences of
all pairs, gradients come from autograd or from the whole Jacobian, scores from loops over heads. Where a norm must accumulate
in float32 and round once, a case counts how many results are the correctly rounded ones: an early rounding moves a third of them.
"""

import math

import torch

from grader.exercise import Case, Close, Code, Exercise, Misconception, Scenario, Variant

NEAR = Close(2e-5, 2e-6)
"""Float32's rounding, in float64 cases too, where the exercise allows float32 inside."""

NORM_ROUTINES = (
    "torch.nn.functional.layer_norm",
    "torch.nn.functional.rms_norm",
    "torch.nn.functional.batch_norm",
    "torch.nn.functional.group_norm",
    "torch.nn.functional.instance_norm",
    "torch.nn.functional.local_response_norm",
    "torch.nn.LayerNorm",
    "torch.nn.RMSNorm",
    "torch.nn.GroupNorm",
    "torch.nn.BatchNorm1d",
    "torch.nn.BatchNorm2d",
    "torch.nn.BatchNorm3d",
    "torch.nn.SyncBatchNorm",
    "torch.nn.LazyBatchNorm1d",
    "torch.nn.InstanceNorm1d",
    "torch.nn.InstanceNorm2d",
    "torch.layer_norm",
    "torch.native_layer_norm",
    "torch.rms_norm",
    "torch.batch_norm",
    "torch.native_batch_norm",
    "torch.group_norm",
    "torch.native_group_norm",
    "torch.instance_norm",
    "torch.batch_norm_stats",
    "torch._fused_rms_norm",
    "torch.ops",
    "torch._C",
)
AUTOGRAD_ROUTINES = (
    "torch.autograd",
    "torch.autograd.grad",
    "torch.autograd.backward",
    "torch.autograd.functional.vjp",
    "torch.autograd.functional.jacobian",
    "torch.autograd.functional.vhp",
    "torch.Tensor.backward",
    "torch.func",
    "torch.func.vjp",
    "torch.func.grad",
    "torch.func.jacrev",
    "torch.func.jacfwd",
    "torch.func.jvp",
)


def _variance(x64):
    """Biased: half the mean squared difference of all pairs, so that no mean has to be right first."""
    return 0.5 * (x64.unsqueeze(-1) - x64.unsqueeze(-2)).square().mean((-1, -2))


def _layer_norm(x, weight, bias, eps=1e-5):
    h = x.double()
    centred = (h.unsqueeze(-1) - h.unsqueeze(-2)).mean(-1)  # x_i less every x_j, averaged
    y = centred * (_variance(h) + eps).rsqrt().unsqueeze(-1)
    return (y * weight.double() + bias.double()).to(x.dtype)


def _rms_norm(x, weight, eps=1e-6):
    h = x.double()
    squares = torch.einsum("...e,...e->...", h, h) / h.shape[-1]
    return (h * weight.double() * (squares + eps).pow(-0.5).unsqueeze(-1)).to(x.dtype)


def _batch_norm_train(x, weight, bias, running_mean, running_var, momentum=0.1, eps=1e-5):
    rows = len(x)
    if rows < 2:
        raise ValueError("the variance of one row is not defined")
    columns = x.double().T
    variance = _variance(columns)
    centred = (columns.unsqueeze(-1) - columns.unsqueeze(-2)).mean(-1)
    y = (centred / (variance + eps).sqrt()[:, None] * weight.double()[:, None] + bias.double()[:, None]).T
    with torch.no_grad():
        new_mean = running_mean.double() + momentum * (columns.sum(-1) / rows - running_mean.double())
        new_var = running_var.double() + momentum * (variance * rows / (rows - 1) - running_var.double())
    return y.to(x.dtype), new_mean.to(running_mean.dtype), new_var.to(running_var.dtype)


def _rms_norm_backward(dy, x, weight, eps=1e-6):
    width = x.shape[-1]
    h, g = x.double().reshape(-1, width), (dy.double() * weight.double()).reshape(-1, width)
    dx, dweight = torch.zeros_like(h), torch.zeros(width, dtype=torch.float64)
    for row in range(len(h)):
        r = math.sqrt(h[row].pow(2).sum().item() / width + eps)
        jacobian = torch.eye(width, dtype=torch.float64) / r - torch.outer(h[row], h[row]) / (width * r**3)
        dx[row] = jacobian @ g[row]
        dweight += dy.double().reshape(-1, width)[row] * h[row] / r
    return dx.reshape(x.shape).to(x.dtype), dweight.to(weight.dtype)


def _residual(x, f, norm, style, alpha=1.0):
    steps = {
        "pre": lambda: f(norm(x)) + x,
        "post": lambda: norm(f(x) + x),
        "double": lambda: norm(f(norm(x))) + x,
        "deep": lambda: norm(f(x) + x * alpha),
    }
    if style not in steps:
        raise ValueError("unknown style")
    return steps[style]()


def _qk_norm_scores(q, k, q_weight, k_weight, softcap=None):
    q_hat, k_hat = (_rms_norm(x.double(), w) for x, w in ((q, q_weight), (k, k_weight)))
    scores = torch.einsum("...td,...sd->...ts", q_hat, k_hat) * q.shape[-1] ** -0.5
    if softcap is not None:  # tanh(z) = 1 - 2 / (e^2z + 1)
        scores = softcap * (1 - 2 / (torch.exp(2 * scores / softcap) + 1))
    return scores.to(q.dtype)


def _init_std(kind, fan_in, fan_out, gain=1.0):
    if kind == "kaiming":
        return gain * fan_in**-0.5
    if kind == "xavier":
        return gain / math.sqrt(0.5 * (fan_in + fan_out))
    raise ValueError("unknown kind")


def _residual_init_std(base_std, n_layers):
    return base_std * (n_layers + n_layers) ** -0.5


def _turned(x):
    """The same values in another memory order: a view that is not contiguous."""
    return Code("def make(x):\n    return x.transpose(0, -1).contiguous().transpose(0, -1)", (x,))


def _whole(rng, *shape, low=-4, high=4, dtype=torch.float32):
    """Whole numbers as floats, which a shift of 10,000 leaves exact."""
    return rng.integers(low, high + 1, *shape).to(dtype)


def _rounded_once(want, sentence):
    """A condition: nearly all results are the exact value rounded once; early rounding moves a third of them."""

    def holds(y):
        share = (y == want).double().mean().item()
        return None if share > 0.97 else f"{sentence} ({share:.0%} of the results are rounded correctly)"

    return holds


EARLY = (
    "the values are near, but not those of one rounding at the end: compute everything in float32, weight included, and "
    "convert once"
)


def _norm_inputs(rng, *shape, **how):
    """x, and a weight and a bias that hide nothing."""
    return rng.normal(*shape, **how), rng.normal(shape[-1], shift=1.5), rng.normal(shape[-1], shift=-0.7)


def _sixteen_bits(rng, reference, count, dtype, weight_dtype, scale, weight_shift):
    """Arguments in 16 bits, wide enough for statistics of rounding, and the condition on the result."""
    x = rng.normal(40, 53, scale=scale, shift=0.3 * scale, dtype=dtype)
    parameters = [
        rng.normal(53, shift=shift, dtype=torch.float32).to(weight_dtype) for shift in (weight_shift, 0.4)[:count]
    ]
    return (x, *parameters), _rounded_once(reference(x, *parameters), EARLY)


def _shared_norm_cases(rng, reference, count):
    """Cases that LayerNorm (count = 2 parameters) and RMSNorm (1) have in common."""

    def args(*shape, **how):
        return _norm_inputs(rng, *shape, **how)[: count + 1]

    every = tuple(range(count + 1))
    yield Case(label="one vector of 5 features", args=args(5))
    yield Case(label="three vectors of 7 features", args=args(3, 7), grad=every)
    yield Case(label="x of shape (2, 3, 7)", args=args(2, 3, 7), grad=every)
    yield Case(label="x of shape (7, 3, 2)", args=args(7, 3, 2))
    yield Case(label="x of shape (2, 3, 4, 5)", args=args(2, 3, 4, 5), grad=every)
    yield Case(label="as many vectors as features: every mix-up of axes fits", args=args(6, 6), grad=every)
    yield Case(label="(4, 4, 4)", args=args(4, 4, 4))
    yield Case(label="features whose mean is 3, not 0", args=args(3, 7, shift=3.0), grad=every)
    yield Case(label="eps = 0.1 tells inside from outside the root", args=(*args(3, 7, scale=0.4), 0.1), grad=every)
    yield Case(label="eps = 2, by name", args=args(2, 5), kwargs={"eps": 2.0}, grad=every)
    yield Case(label="eps = 0", args=args(2, 5), kwargs={"eps": 0.0})
    yield Case(label="features near 0.001, where the default eps shows", args=args(3, 7, scale=1e-3), grad=every)
    yield Case(label="features near 300", args=args(3, 7, scale=300.0), grad=every)
    x, *parameters = args(4, 7)
    sizes = x * torch.tensor([[0.01], [1.0], [300.0], [30.0]], dtype=torch.float64)
    yield Case(label="vectors of very different sizes do not act on each other", args=(sizes, *parameters), grad=every)
    flat = rng.normal(3, 7)
    flat[1] = 2.0
    yield Case(label="one vector has equal entries", args=(flat, *parameters), grad=every)
    flat = flat.clone()
    flat[1] = 0.0
    yield Case(label="one vector is all zeros", args=(flat, *parameters), grad=every)
    yield Case(label="one feature alone", args=args(3, 1), kwargs={"eps": 0.1}, grad=every)
    yield Case(label="one vector in a batch of one", args=args(1, 7))
    yield Case(label="no vectors: shape (0, 7)", args=(torch.zeros(0, 7, dtype=torch.float64), *parameters))
    yield Case(label="no vectors: shape (2, 0, 7)", args=(torch.zeros(2, 0, 7), *(p.float() for p in parameters)))
    yield Case(label="float32", args=tuple(p.float() for p in args(3, 7)), grad=every)
    x, *parameters = args(3, 7)
    yield Case(label="float64 x with float32 weight stays float64", args=(x, *(p.float() for p in parameters)))
    yield Case(
        label="float32 x with bfloat16 weight stays float32", args=(x.float(), *(p.bfloat16() for p in parameters))
    )
    lifted = _whole(rng, 3, 8) + 10000
    wide = Close(3e-3, 3e-3)
    yield Case(label="float32, every vector is 10,000 plus a little", args=(lifted, *args(1, 8)[1:]), close=wide)
    small = (rng.normal(3, 7, scale=2e-4, dtype=torch.float16), *(p.float() for p in parameters))
    yield Case(label="float16 near 0.0002, whose squares float16 does not hold", args=small)
    for dtype, weights, scale, shift, label in (
        (torch.bfloat16, torch.bfloat16, 1.0, 15.81, "bfloat16 with a weight near 15.81"),
        (torch.bfloat16, torch.float32, 1.0, 1.3, "bfloat16 with a float32 weight"),
        (torch.float16, torch.float16, 1.0, 1.3, "float16"),
        (torch.float16, torch.float32, 300.0, 1.3, "float16 near 300, whose squares overflow float16"),
    ):
        arguments, holds = _sixteen_bits(rng, reference, count, dtype, weights, scale, shift)
        close = Close(2e-2, 6e-2) if dtype == torch.bfloat16 else Close(4e-3, 4e-3)
        yield Case(label=f"{label}: one rounding, at the end", args=arguments, close=close, holds=holds)
    yield Case(label="x that is not contiguous in memory", args=(_turned(rng.normal(3, 2, 7)), *parameters))
    shared = Code("def make(x):\n    return x.expand(4, 3, 7)", (rng.normal(1, 3, 7),))
    yield Case(label="an expanded x", args=(shared, *parameters))


def _layer_norm_cases(rng):
    yield from _shared_norm_cases(rng, _layer_norm, 2)
    lifted = rng.normal(3, 7) + 1e4
    _, weight, bias = _norm_inputs(rng, 7)
    yield Case(label="float64, shifted by 10,000", args=(lifted, weight, bias), close=Close(1e-6, 1e-6))


def _rms_norm_cases(rng):
    yield from _shared_norm_cases(rng, _rms_norm, 1)


def _batch_inputs(rng, rows, features, dtype=torch.float64, **how):
    x = rng.normal(rows, features, **how).to(dtype)
    weight, bias, mean = rng.normal(features, shift=1.5), rng.normal(features, shift=-0.7), rng.normal(features)
    return (x, *(t.to(dtype) for t in (weight, bias, mean, rng.uniform(features, low=0.4, high=3.0))))


def _batch_norm_cases(rng):
    every = (0, 1, 2)
    yield Case(label="five rows of three features", args=_batch_inputs(rng, 5, 3), grad=every)
    yield Case(label="three rows of five features", args=_batch_inputs(rng, 3, 5), grad=every)
    yield Case(label="as many rows as features", args=_batch_inputs(rng, 4, 4), grad=every)
    yield Case(label="two rows: the fewest that there may be", args=_batch_inputs(rng, 2, 3), grad=every)
    for momentum in (0.3, 0.9, 0.0, 1.0):
        yield Case(label=f"momentum = {momentum}", args=(*_batch_inputs(rng, 5, 3), momentum))
    yield Case(label="momentum and eps by name", args=_batch_inputs(rng, 5, 3), kwargs={"eps": 0.02, "momentum": 0.25})
    yield Case(
        label="eps = 0.1: inside the root, and in y alone",
        args=(*_batch_inputs(rng, 6, 3, scale=0.4), 0.2, 0.1),
        grad=every,
    )
    yield Case(label="features with means near 3", args=_batch_inputs(rng, 6, 3, shift=3.0), grad=every)
    far = list(_batch_inputs(rng, 5, 3))
    far[3], far[4] = far[3] + 100.0, far[4] * 400.0
    yield Case(label="running statistics far from the batch's: y takes no notice", args=tuple(far), grad=every)
    flat = _batch_inputs(rng, 5, 3)
    flat[0][:, 1] = 2.0
    yield Case(label="one feature is the same in all rows", args=flat, grad=every)
    yield Case(
        label="features near 0.001, where eps shows",
        args=_batch_inputs(rng, 5, 3, scale=1e-3),
        grad=every,
        close=Close(2e-5, 1e-3),
    )
    yield Case(
        label="features near 300", args=_batch_inputs(rng, 5, 3, scale=300.0), grad=every, close=Close(1e-4, 1e-4)
    )
    sizes = _batch_inputs(rng, 6, 3)
    sizes[0].mul_(torch.tensor([0.05, 1.0, 40.0], dtype=torch.float64))
    yield Case(label="features of very different sizes", args=sizes)
    yield Case(label="one feature", args=_batch_inputs(rng, 7, 1), grad=every)
    yield Case(label="float32", args=_batch_inputs(rng, 5, 3, dtype=torch.float32), grad=every, close=Close(1e-4, 1e-5))
    lifted = list(_batch_inputs(rng, 8, 3, dtype=torch.float32))
    lifted[0] = _whole(rng, 8, 3) + 10000
    yield Case(label="float32, every feature is 10,000 plus a little", args=tuple(lifted), close=Close(3e-3, 3e-3))
    x, *rest = _batch_inputs(rng, 5, 3)
    yield Case(label="x that is not contiguous in memory", args=(_turned(x), *rest))
    for rows in (1, 0):
        yield Case(label=f"{rows} row{'s' * (rows != 1)}", args=(x[:rows], *rest), raises=ValueError)

    def three_steps(ask):
        weight, bias, mean, var = rest
        want = (mean, var)
        for step in range(3):
            batch = rng.normal(4 + step, 3, shift=step)
            y, mean, var = ask.call(batch, weight, bias, mean, var, 0.3)
            want_y, *want = _batch_norm_train(batch, weight, bias, *want, 0.3)
            ask.same(y, want_y, f"y of step {step + 1}")
            ask.same((mean, var), tuple(want), f"running statistics after step {step + 1}")

    yield Scenario(label="three steps, each with the statistics of the one before", run=three_steps)


def _backward_cases(rng):
    def args(*shape, **how):
        return rng.normal(*shape), rng.normal(*shape, **how), rng.normal(shape[-1], shift=1.5)

    yield Case(label="one vector of 5 features", args=args(5))
    yield Case(label="three vectors of 7 features", args=args(3, 7))
    yield Case(label="dy and x of shape (2, 3, 7)", args=args(2, 3, 7))
    yield Case(label="dy and x of shape (2, 3, 4, 5)", args=args(2, 3, 4, 5))
    yield Case(label="as many vectors as features: every mix-up of axes fits", args=args(6, 6))
    yield Case(label="features whose mean is 3, not 0", args=args(3, 7, shift=3.0))
    dy, x, weight = args(4, 7)
    yield Case(label="weights of 1", args=(dy, x, torch.ones(7, dtype=torch.float64)))
    yield Case(label="eps = 0", args=(dy, x, weight), kwargs={"eps": 0.0})
    yield Case(label="eps = 0.1", args=(*args(3, 7, scale=0.4), 0.1))
    yield Case(label="eps = 2: x / r has a root mean square well below 1", args=(*args(3, 7), 2.0))
    yield Case(label="features near 0.001", args=args(3, 7, scale=1e-3), close=Close(2e-5, 2e-3))
    yield Case(label="features near 300", args=args(3, 7, scale=300.0), close=Close(2e-5, 1e-7))
    sizes = x * torch.tensor([[0.01], [1.0], [300.0], [30.0]], dtype=torch.float64)
    yield Case(label="vectors of very different sizes", args=(dy, sizes, weight), close=Close(2e-5, 1e-4))
    empty = x.clone()
    empty[1] = 0.0
    yield Case(label="one vector is all zeros", args=(dy, empty, weight), close=Close(2e-5, 1e-4))
    yield Case(label="dy points along x / w: only eps lets anything through", args=(x / weight, x, weight, 0.5))
    yield Case(label="dy of ones: the loss is a sum", args=(torch.ones_like(x), x, weight))
    yield Case(label="one feature alone, eps = 0.3", args=(*args(3, 1), 0.3))
    yield Case(label="one vector in a batch of one", args=args(1, 7))
    yield Case(label="no vectors: dweight is 0", args=(dy[:0], x[:0], weight))
    yield Case(label="float32", args=tuple(t.float() for t in args(3, 7)), close=Close(1e-4, 1e-5))
    yield Case(
        label="tensors that are not contiguous",
        args=(_turned(rng.normal(2, 3, 7)), _turned(rng.normal(2, 3, 7)), weight),
    )
    ones = Code("def make():\n    return torch.ones(1, 1, dtype=torch.float64).expand(4, 7)")
    yield Case(label="an expanded dy", args=(ones, x, weight))

    def scaled(ask):
        dx, _ = ask.call(dy, x, weight, 0.0)
        along = (dx * x).sum(-1)
        ask.same(
            along, torch.zeros(4, dtype=torch.float64), "with eps = 0, dx must be perpendicular to x in each vector"
        )
        doubled, _ = ask.call(dy, 2 * x, weight, 0.0)
        ask.same(2 * doubled, dx, "with eps = 0, doubling x must halve dx")

    yield Scenario(label="the size of x does not matter when eps = 0", run=scaled)


_BRANCH = "def make(w, b):\n    return lambda x: torch.tanh(x @ w) + b"
_NORM = "def make(g):\n    return lambda x: x / (x.square().mean(-1, keepdim=True) + 0.3).sqrt() * g + 0.2"


def _residual_cases(rng):
    styles = ("pre", "post", "double", "deep")

    def parts(width):
        branch = Code(_BRANCH, (rng.normal(width, width), rng.normal(width)))
        return branch, Code(_NORM, (rng.normal(width, shift=1.5),))

    double, less = Code("def make():\n    return lambda x: 2 * x"), Code("def make():\n    return lambda x: x - 1")
    three = torch.tensor(3.0, dtype=torch.float64)
    for style in styles:
        yield Case(label=f"{style}: x = 3, f doubles, the norm takes off 1", args=(three, double, less, style))
    for style in styles:
        x, (f, norm) = rng.normal(2, 3, 5), parts(5)
        yield Case(label=f"{style}: a branch and a norm with weights", args=(x, f, norm, style), grad=(0,))
    for style in styles:
        x, (f, norm) = rng.normal(3, 7), parts(7)
        yield Case(label=f"{style} with alpha = 2.5", args=(x, f, norm, style, 2.5), grad=(0,))
    x, (f, norm) = rng.normal(3, 7), parts(7)
    for style in ("deep", "post"):
        yield Case(label=f"{style} with alpha = 0.3, by name", args=(x, f, norm, style), kwargs={"alpha": 0.3})
    yield Case(label="deep with alpha = 0: the stream is left out", args=(x, f, norm, "deep", 0.0))
    zero = Code("def make():\n    return lambda x: 0.0 * x")
    for style in styles:
        yield Case(label=f"{style}: a branch that adds nothing", args=(x, zero, norm, style, 1.7), grad=(0,))
    for style in styles:
        yield Case(label=f"{style}: a stream near 300", args=(300.0 * x, f, norm, style, 1.3))
    yield Case(label="float32", args=(x.float(), double, less, "double"))
    for wrong in ("prenorm", "", "sandwich", "none"):
        yield Case(label=f"style {wrong!r}", args=(x, f, norm, wrong), raises=ValueError)


def _qk_cases(rng):
    B, H, T, S, D = 2, 3, 5, 7, 6

    def args(t=T, s=S, d=D, lead=(B, H), dtype=torch.float64, **how):
        q, k = rng.normal(*lead, t, d, dtype=dtype, **how), rng.normal(*lead, s, d, dtype=dtype, **how)
        return q, k, rng.normal(d, shift=1.5).to(dtype), rng.normal(d, shift=0.8).to(dtype)

    every = (0, 1, 2, 3)
    q, k, q_weight, k_weight = args()
    yield Case(label="five queries, seven keys, no leading dimensions", args=args(lead=()))
    yield Case(label="(2, 3, 5, 6) and (2, 3, 7, 6)", args=(q, k, q_weight, k_weight), grad=every)
    yield Case(label="T = S = D: every mix-up of axes fits", args=args(4, 4, 4, (4, 4)), grad=every)
    yield Case(label="T = S = D, no leading dimensions", args=args(5, 5, 5, ()))
    yield Case(label="one leading dimension", args=args(lead=(3,)))
    yield Case(label="three leading dimensions", args=args(lead=(2, 1, 3)))
    yield Case(label="one query, one key", args=args(1, 1))
    yield Case(label="one feature for each head", args=args(3, 4, 1))
    yield Case(label="a wide head: D = 48", args=args(3, 4, 48))
    for cap in (2.0, 0.7, 50.0):
        yield Case(label=f"softcap = {cap:g}", args=(q, k, q_weight, k_weight, cap), grad=every)
    yield Case(label="softcap = 5, by name", args=args(lead=(2,)), kwargs={"softcap": 5.0})
    loud = (q, k, 20 * q_weight, 30 * k_weight)
    yield Case(label="large weights, no cap", args=loud, close=Close(1e-4, 1e-3))
    yield Case(label="large weights and softcap = 30", args=(*loud, 30.0), close=Close(1e-4, 1e-3))
    yield Case(label="queries and keys near 300", args=args(scale=300.0), grad=(2, 3))
    yield Case(
        label="queries and keys near 0.001, where eps shows", args=args(scale=1e-3), grad=every, close=Close(1e-4, 1e-2)
    )
    yield Case(label="queries near 30, keys near 0.03", args=(30 * q, 0.03 * k, q_weight, k_weight))
    yield Case(label="features whose mean is 2", args=args(shift=2.0), grad=every)
    uneven = q * torch.tensor([0.02, 1.0, 50.0], dtype=torch.float64)[:, None, None]
    yield Case(label="heads of very different sizes", args=(uneven, k, q_weight, k_weight))
    rows = k * torch.tensor([0.02, 1.0, 50.0, 1.0, 3.0, 9.0, 0.3], dtype=torch.float64)[:, None]
    yield Case(label="keys of very different sizes", args=(q, rows, q_weight, k_weight))
    empty = q.clone()
    empty[:, :, 2] = 0.0
    yield Case(label="a query of zeros scores 0", args=(empty, k, q_weight, k_weight))
    yield Case(label="float32", args=args(dtype=torch.float32), grad=every, close=Close(1e-4, 1e-5))
    for dtype, scale, cap in ((torch.bfloat16, 1.0, None), (torch.bfloat16, 1.0, 3.0), (torch.float16, 300.0, None)):
        half = args(29, 31, lead=(2,), dtype=dtype, scale=scale)
        want = _qk_norm_scores(*half, cap)
        name = f"{str(dtype)[6:]}{' near 300' if scale > 1 else ''}{'' if cap is None else ', softcap = 3'}"
        yield Case(
            label=f"{name}: float32 inside, rounded once",
            args=(*half, cap),
            close=Close(2e-2, 5e-2),
            holds=_rounded_once(want, EARLY),
        )
    mixed = args(29, 31, lead=(2,), dtype=torch.bfloat16)
    mixed = (*mixed[:2], *(w.float() + 0.003 for w in mixed[2:]))
    yield Case(
        label="bfloat16 with float32 weights: the scores are bfloat16",
        args=mixed,
        close=Close(2e-2, 5e-2),
        holds=_rounded_once(_qk_norm_scores(*mixed), EARLY),
    )
    yield Case(label="queries and keys that are not contiguous", args=(_turned(q), _turned(k), q_weight, k_weight))
    shared = Code("def make(k):\n    return k.expand(2, 3, 7, 6)", (rng.normal(2, 1, S, D),))
    yield Case(label="one key head shared by all (expanded)", args=(q, shared, q_weight, k_weight))


def _init_cases(rng):
    yield Case(label="xavier, 4 inputs, 28 outputs", args=("xavier", 4, 28))
    yield Case(label="kaiming, 4 inputs, 28 outputs", args=("kaiming", 4, 28))
    for kind in ("xavier", "kaiming"):
        yield Case(label=f"{kind}, 768 inputs, 3072 outputs", args=(kind, 768, 3072))
        yield Case(label=f"{kind}, 3072 inputs, 768 outputs", args=(kind, 3072, 768))
        yield Case(label=f"{kind}, a square map", args=(kind, 7, 7))
        yield Case(label=f"{kind}, one input, one output", args=(kind, 1, 1))
        yield Case(label=f"{kind}, gain sqrt(2)", args=(kind, 12, 5, math.sqrt(2)))
        yield Case(label=f"{kind}, gain 4, by name", args=(kind, 5, 12), kwargs={"gain": 4.0})
        yield Case(label=f"{kind}, gain 0.1", args=(kind, 33, 10, 0.1))
        fan_in, fan_out, gain = rng.integer(50, 900), rng.integer(1000, 5000), rng.python.uniform(0.3, 3.0)
        yield Case(label=f"{kind}, drawn sizes and gain", args=(kind, fan_in, fan_out, gain))
    for wrong in ("orthogonal", "", "normal", "lecun"):
        yield Case(label=f"kind {wrong!r}", args=(wrong, 4, 8), raises=ValueError)


def _residual_init_cases(rng):
    yield Case(label="0.02 over 2 layers", args=(0.02, 2))
    yield Case(label="one layer writes twice", args=(0.02, 1))
    yield Case(label="0.02 over 12 layers", args=(0.02, 12))
    yield Case(label="0.5 over 32 layers, by name", kwargs={"n_layers": 32, "base_std": 0.5})
    yield Case(label="1.0 over 7 layers", args=(1.0, 7))
    yield Case(label="3.0 over 96 layers", args=(3.0, 96))
    yield Case(label="drawn", args=(rng.python.uniform(0.1, 2.0), rng.integer(13, 99)))


_LN_VARIANCE = "centred.square().mean(dim=-1, keepdim=True)"
_LN_ROOT = "torch.sqrt(variance + eps)"
_LN_Y = "y = centred / torch.sqrt(variance + eps) * weight.to(wide) + bias.to(wide)"
_WIDE = "wide = torch.float64 if x.dtype == torch.float64 else torch.float32"
_LN_MEAN = "centred = h - h.mean(dim=-1, keepdim=True)"


def _own_dtype(body):
    return f"def layer_norm(x, weight, bias, eps=1e-5):\n{body}"


LAYER_NORM_WRONG = (
    Misconception(
        name="unbiased variance",
        replace=(_LN_VARIANCE, "h.var(dim=-1, keepdim=True)"),
        says="var() divides by E - 1 by default. LayerNorm uses the biased variance, divided by E (and with one feature E - 1 is 0).",
    ),
    Misconception(
        name="eps outside the root",
        replace=(_LN_ROOT, "(torch.sqrt(variance) + eps)"),
        says="Epsilon is added to the variance, before the root. You add it to the standard deviation.",
    ),
    Misconception(
        name="unbiased standard deviation plus eps",
        replace=(_LN_ROOT, "(h.std(dim=-1, keepdim=True) + eps)"),
        says="Two things: std() divides by E - 1, and eps belongs inside the root. Take the biased variance, add eps, then the root.",
    ),
    Misconception(
        name="eps forgotten",
        replace=(_LN_ROOT, "torch.sqrt(variance)"),
        says="Where is eps? Without it a vector of equal entries is 0/0.",
    ),
    Misconception(
        name="eps fixed",
        replace=("variance + eps", "variance + 1e-5"),
        says="eps is an argument, and you use 1e-5 whatever is passed.",
    ),
    Misconception(
        name="eps as a lower bound",
        replace=("variance + eps", "variance.clamp(min=eps)"),
        says="eps is added to the variance. You use it as a lower bound, which is another function where the variance is small.",
    ),
    Misconception(
        name="divided by the variance",
        replace=(_LN_ROOT, "(variance + eps)"),
        says="Divide by the standard deviation, the root of the variance.",
    ),
    Misconception(
        name="mean not subtracted above the line",
        replace=(_LN_Y, _LN_Y.replace("centred /", "h /")),
        says="You divide x itself. The mean must be subtracted in the numerator too.",
    ),
    Misconception(
        name="RMSNorm with a bias",
        replace=(_LN_MEAN, "centred = h"),
        says="That is RMSNorm: the mean is never subtracted. LayerNorm centres first.",
    ),
    Misconception(
        name="weight forgotten",
        replace=(" * weight.to(wide)", ""),
        says="The result is not multiplied by weight. With weights of 1 that does not show, but weights learn.",
    ),
    Misconception(
        name="bias forgotten",
        replace=(" + bias.to(wide)", ""),
        says="The bias is not added.",
    ),
    Misconception(
        name="weight and bias forgotten",
        replace=(" * weight.to(wide) + bias.to(wide)", ""),
        says="Neither weight nor bias is used. They come last: normalise, multiply, add.",
    ),
    Misconception(
        name="bias inside the product",
        replace=(
            "/ torch.sqrt(variance + eps) * weight.to(wide) + bias.to(wide)",
            "/ torch.sqrt(variance + eps) * weight.to(wide) + bias.to(wide) * weight.to(wide)",
        ),
        says="You compute (x_hat + bias) * weight. The bias is added last and is not multiplied.",
    ),
    Misconception(
        name="weight and bias swapped",
        replace=("* weight.to(wide) + bias.to(wide)", "* bias.to(wide) + weight.to(wide)"),
        says="weight multiplies, bias is added. You have them the other way round.",
    ),
    Misconception(
        name="weight and bias before normalising",
        replace=(
            "h = x.to(wide)",
            "h = x.to(wide) * weight.to(wide) + bias.to(wide)\n    weight, bias = torch.ones_like(weight), torch.zeros_like(bias)",
        ),
        says="weight and bias are applied to the result. You apply them first, and the norm takes most of their work away again.",
    ),
    Misconception(
        name="weight around 1",
        replace=("* weight.to(wide)", "* (1 + weight.to(wide))"),
        says="Some models store weight - 1. Here weight is the factor itself.",
    ),
    Misconception(
        name="over the first dimension",
        replace=(
            _LN_MEAN,
            "centred = h - h.mean(dim=0, keepdim=True)\n    variance = centred.square().mean(dim=0, keepdim=True)\n    return (centred / torch.sqrt(variance + eps) * weight.to(wide) + bias.to(wide)).to(x.dtype)",
        ),
        says="You average over the batch (dim 0). LayerNorm averages over the features of each vector, the last dimension.",
    ),
    Misconception(
        name="over everything",
        replace=(
            _LN_MEAN,
            "centred = h - h.mean()\n    return (centred / torch.sqrt(centred.square().mean() + eps) * weight.to(wide) + bias.to(wide)).to(x.dtype)",
        ),
        says="One mean and one variance for the whole tensor: then a loud token changes all others. Use dim=-1, keepdim=True.",
    ),
    Misconception(
        name="over time and features together",
        code="""def layer_norm(x, weight, bias, eps=1e-5):
    wide = torch.float64 if x.dtype == torch.float64 else torch.float32
    h = x.to(wide)
    dims = (-2, -1) if x.dim() > 1 else (-1,)
    centred = h - h.mean(dims, keepdim=True)
    variance = centred.square().mean(dims, keepdim=True)
    return (centred / torch.sqrt(variance + eps) * weight.to(wide) + bias.to(wide)).to(x.dtype)
""",
        says="You average over the last two dimensions. Tokens must not share a mean: only the last dimension.",
    ),
    Misconception(
        name="over dimension 1",
        replace=(
            _LN_MEAN,
            "d = min(1, x.dim() - 1)\n    centred = h - h.mean(dim=d, keepdim=True)\n    variance = centred.square().mean(dim=d, keepdim=True)\n    return (centred / torch.sqrt(variance + eps) * weight.to(wide) + bias.to(wide)).to(x.dtype)",
        ),
        says="dim=1 is the last dimension of a matrix only. For (B, T, E) it is time. Use dim=-1.",
    ),
    Misconception(
        name="E[x^2] - E[x]^2",
        replace=(
            _LN_VARIANCE,
            "(h.square().mean(dim=-1, keepdim=True) - h.mean(dim=-1, keepdim=True) ** 2).clamp(min=0)",
        ),
        says="E[x^2] - E[x]^2 loses all digits when the mean is large: at 10,000 the two differ in the ninth. Subtract the mean, then square.",
    ),
    Misconception(
        name="computed in the dtype of x",
        replace=(_WIDE, "wide = x.dtype"),
        says="Everything happens in the dtype of x. Sixteen bits are too few for a sum of squares: 300 squared overflows float16. Widen to float32 first.",
    ),
    Misconception(
        name="rounded before the weight",
        replace=(
            _LN_Y,
            "y = (centred / torch.sqrt(variance + eps)).to(x.dtype) * weight.to(x.dtype) + bias.to(x.dtype)",
        ),
        says="You round to 16 bits before weight and bias, and twice more after. Keep float32 to the end and round once.",
    ),
    Misconception(
        name="rounded before the weight, then wide",
        replace=(_LN_Y, "y = (centred / torch.sqrt(variance + eps)).to(x.dtype) * weight.to(wide) + bias.to(wide)"),
        says="The normalised vector is rounded to the dtype of x before it is multiplied by the weight. Round once, after the bias.",
        same_as=("rounded before the weight",),
    ),
    Misconception(
        name="bias added after rounding",
        replace=(_LN_Y, "y = (centred / torch.sqrt(variance + eps) * weight.to(wide)).to(x.dtype) + bias.to(x.dtype)"),
        says="The bias is added in 16 bits, after the rounding. It belongs to the float32 part as well.",
        same_as=("rounded before the weight",),
    ),
    Misconception(
        name="wide statistics, narrow normalisation",
        replace=(
            _LN_MEAN,
            "mean = h.mean(dim=-1, keepdim=True)\n    std = torch.sqrt(h.var(dim=-1, keepdim=True, unbiased=False) + eps)\n    return (x - mean.to(x.dtype)) / std.to(x.dtype) * weight.to(x.dtype) + bias.to(x.dtype)\n    centred = h - mean",
        ),
        says="Mean and variance are in float32, but subtraction, division and affine part are done in the dtype of x. Widen x itself and round once.",
    ),
    Misconception(
        name="always float32",
        replace=(_WIDE, "wide = torch.float32"),
        says="float64 input loses half its digits on the way through float32. Compute in float64 when x is float64.",
    ),
    Misconception(
        name="result left wide",
        replace=("return y.to(x.dtype)", "return y"),
        says="The result must have the dtype of x. It comes back in float32.",
    ),
    Misconception(
        name="result in the dtype of the weight",
        replace=("return y.to(x.dtype)", "return y.to(weight.dtype)"),
        says="The result has the dtype of x, not that of the weight.",
    ),
    Misconception(
        name="variance detached",
        replace=(_LN_VARIANCE, _LN_VARIANCE + ".detach()"),
        says="The values are right. But the variance depends on x, and its share of the gradient is cut off.",
    ),
    Misconception(
        name="mean detached",
        replace=(_LN_MEAN, "centred = h - h.mean(dim=-1, keepdim=True).detach()"),
        says="The values are right. But the mean depends on x, and its share of the gradient is cut off.",
    ),
    Misconception(
        name="statistics without gradient",
        replace=(
            _LN_MEAN,
            "with torch.no_grad():\n        mean = h.mean(dim=-1, keepdim=True)\n        variance = h.var(dim=-1, keepdim=True, unbiased=False)\n    return ((h - mean) / torch.sqrt(variance + eps) * weight.to(wide) + bias.to(wide)).to(x.dtype)\n    centred = h - mean",
        ),
        says="The values are right, but mean and variance count as constants in the backward pass. They depend on x.",
    ),
    Misconception(
        name="x changed in place",
        replace=(
            "h = x.to(wide)",
            "x.data.sub_(x.to(wide).mean(dim=-1, keepdim=True).to(x.dtype))\n    h = x.to(wide)",
        ),
        says="You subtract the mean from x itself. The residual stream still needs x: work on a new tensor.",
    ),
    Misconception(
        name="mean absolute deviation",
        replace=(_LN_ROOT, "(centred.abs().mean(dim=-1, keepdim=True) + eps)"),
        says="You divide by the mean absolute deviation. It is the root of the mean squared deviation.",
    ),
    Misconception(
        name="sum of squares without 1/E",
        replace=(_LN_VARIANCE, "centred.square().sum(dim=-1, keepdim=True)"),
        says="The variance is a mean: the sum of squares must be divided by E.",
    ),
    Misconception(
        name="eps squared",
        replace=("variance + eps", "variance + eps**2"),
        says="eps is added as it is: variance + eps, not variance + eps squared.",
    ),
    Misconception(
        name="statistics in the dtype of x, widened too late",
        replace=(
            "h = x.to(wide)\n",
            "h = x.to(wide)\n    mean, var = x.mean(dim=-1, keepdim=True).to(wide), x.var(dim=-1, keepdim=True, unbiased=False).to(wide)\n    return ((h - mean) / torch.sqrt(var + eps) * weight.to(wide) + bias.to(wide)).to(x.dtype)\n",
        ),
        says="Mean and variance are taken in the dtype of x and only then widened; their rounding stays in them. Widen x first.",
    ),
    Misconception(
        name="variance without subtracting the mean",
        replace=(_LN_VARIANCE, "h.square().mean(dim=-1, keepdim=True)"),
        says="You divide by the root mean square. The variance is the mean square of what is left after subtracting the mean.",
    ),
)

LAYER_NORM_RIGHT = (
    Variant(
        name="torch.var with unbiased=False and rsqrt",
        code="""def layer_norm(x, weight, bias, eps=1e-5):
    h = x if x.dtype == torch.float64 else x.float()
    mean = h.mean(-1, keepdim=True)
    var = h.var(-1, keepdim=True, unbiased=False)
    return ((h - mean) * torch.rsqrt(var + eps) * weight + bias).to(x.dtype)
""",
    ),
    Variant(
        name="einsum, everything in float64",
        code="""def layer_norm(x, weight, bias, eps=1e-5):
    h = x.double()
    n = h.shape[-1]
    c = h - torch.einsum("...e->...", h)[..., None] / n
    v = torch.einsum("...e,...e->...", c, c)[..., None] / n
    return (c * (v + eps) ** -0.5 * weight.double() + bias.double()).type_as(x)
""",
    ),
    Variant(
        name="var_mean with correction=0, addcmul",
        code="""def layer_norm(x, weight, bias, eps=1e-5):
    acc = torch.promote_types(x.dtype, torch.float32)
    h = x.to(acc)
    var, mean = torch.var_mean(h, dim=-1, correction=0, keepdim=True)
    return torch.addcmul(bias.to(acc), (h - mean) / (var + eps).sqrt(), weight.to(acc)).to(x.dtype)
""",
    ),
    Variant(
        name="flattened, one vector at a time",
        code="""def layer_norm(x, weight, bias, eps=1e-5):
    kind = torch.float64 if x.dtype == torch.float64 else torch.float32
    width = x.size(-1)
    rows = []
    for row in x.reshape(-1, width).to(kind):
        d = row - row.sum() / width
        rows.append(d / (d.dot(d) / width + eps) ** 0.5 * weight.to(kind) + bias.to(kind))
    if not rows:
        return torch.empty_like(x)
    return torch.stack(rows).reshape(x.shape).to(x.dtype)
""",
    ),
    Variant(
        name="a centring matrix",
        code="""def layer_norm(x, weight, bias, eps=1e-5):
    h = x.to(torch.float64)
    E = h.shape[-1]
    centre = torch.eye(E, dtype=h.dtype) - torch.full((E, E), 1 / E, dtype=h.dtype)
    c = h @ centre
    norm = torch.sqrt((c * c).sum(-1, keepdim=True) / E + eps)
    return torch.add(c / norm * weight.to(h), bias.to(h)).to(x.dtype)
""",
    ),
)

_MS = "h.square().mean(dim=-1, keepdim=True)"
_RMS = "torch.sqrt(h.square().mean(dim=-1, keepdim=True) + eps)"
_RMS_Y = "return (h / root_mean_square * weight.to(wide)).to(x.dtype)"

RMS_NORM_WRONG = (
    Misconception(
        name="mean subtracted",
        replace=("h = x.to(wide)", "h = x.to(wide)\n    h = h - h.mean(dim=-1, keepdim=True)"),
        says="RMSNorm does not centre. That is LayerNorm. Leave the mean in.",
    ),
    Misconception(
        name="divided by the standard deviation",
        replace=(_MS, "h.var(dim=-1, keepdim=True, unbiased=False)"),
        says="You divide by the standard deviation, in which the mean is subtracted. The root mean square keeps it.",
    ),
    Misconception(
        name="sum of squares without 1/E",
        replace=(_MS, "h.square().sum(dim=-1, keepdim=True)"),
        says="The mean of squares, not their sum: you are off by the root of E (claim C03.01).",
    ),
    Misconception(
        name="length instead of root mean square",
        replace=(_RMS, "(h.norm(dim=-1, keepdim=True) + eps)"),
        says="norm() is the root of the sum of squares, and eps is outside. RMS is the root of their mean, with eps inside.",
    ),
    Misconception(
        name="length over E",
        replace=(_RMS, "torch.sqrt((h.norm(dim=-1, keepdim=True) / x.shape[-1]).square() + eps)"),
        says="The sum of squares is divided by E under the root. You divide the length by E, that is the squares by E squared.",
    ),
    Misconception(
        name="divided by E - 1",
        replace=(_MS, "(h.square().sum(dim=-1, keepdim=True) / max(x.shape[-1] - 1, 1))"),
        says="The mean of E squares divides by E. There is no degree of freedom to take off: no mean was estimated.",
    ),
    Misconception(
        name="eps outside the root",
        replace=(_RMS, "torch.sqrt(h.square().mean(dim=-1, keepdim=True)) + eps"),
        says="Epsilon is added to the mean of squares, before the root.",
    ),
    Misconception(
        name="eps forgotten",
        replace=(" + eps)", ")"),
        says="Where is eps? Without it a vector of zeros is 0/0.",
    ),
    Misconception(
        name="eps fixed",
        replace=(" + eps)", " + 1e-6)"),
        says="eps is an argument, and you use 1e-6 whatever is passed.",
    ),
    Misconception(
        name="eps of LayerNorm",
        replace=(" + eps)", " + (1e-5 if eps == 1e-6 else eps))"),
        says="The default is 1e-6 here. 1e-5 is LayerNorm's.",
    ),
    Misconception(
        name="eps as a lower bound",
        replace=(
            "torch.sqrt(h.square().mean(dim=-1, keepdim=True) + eps)",
            "torch.sqrt(h.square().mean(dim=-1, keepdim=True).clamp(min=eps))",
        ),
        says="eps is added to the mean of squares. You use it as a lower bound.",
    ),
    Misconception(
        name="no square root",
        replace=(_RMS, "h.square().mean(dim=-1, keepdim=True) + eps"),
        says="You divide by the mean square. Take its root first.",
    ),
    Misconception(
        name="multiplied instead of divided",
        replace=("h / root_mean_square", "h * root_mean_square"),
        says="You multiply by the root mean square. Divide by it (or multiply by rsqrt).",
    ),
    Misconception(
        name="square of the mean",
        replace=(_MS, "h.mean(dim=-1, keepdim=True).square()"),
        says="You square the mean. Square first, then average.",
    ),
    Misconception(
        name="mean of absolute values",
        replace=(_RMS, "(h.abs().mean(dim=-1, keepdim=True) + eps)"),
        says="You divide by the mean absolute value. Root, mean, square: read from right to left.",
    ),
    Misconception(
        name="weight forgotten",
        replace=(" * weight.to(wide)", ""),
        says="The result is not multiplied by weight.",
    ),
    Misconception(
        name="weight around 1",
        replace=("* weight.to(wide)", "* (1 + weight.to(wide))"),
        says="Gemma stores weight - 1. Here weight is the factor itself.",
    ),
    Misconception(
        name="weight before normalising",
        replace=("h = x.to(wide)", "h = x.to(wide) * weight.to(wide)\n    weight = torch.ones_like(weight)"),
        says="The weight is applied to the result. Applied first, it changes the root mean square as well.",
    ),
    Misconception(
        name="over the first dimension",
        replace=(_MS, "h.square().mean(dim=0, keepdim=True)"),
        says="You average over the batch (dim 0). Average over the features of each vector, the last dimension.",
    ),
    Misconception(
        name="over everything",
        replace=(_MS, "h.square().mean()"),
        says="One root mean square for the whole tensor: then a loud token shrinks all others. Use dim=-1, keepdim=True.",
    ),
    Misconception(
        name="over time and features together",
        replace=(_MS, "h.square().mean(dim=(-2, -1) if x.dim() > 1 else -1, keepdim=True)"),
        says="You average over the last two dimensions. Tokens must not share a root mean square.",
    ),
    Misconception(
        name="over dimension 1",
        replace=(_MS, "h.square().mean(dim=min(1, x.dim() - 1), keepdim=True)"),
        says="dim=1 is the last dimension of a matrix only. For (B, T, E) it is time. Use dim=-1.",
    ),
    Misconception(
        name="computed in the dtype of x",
        replace=(_WIDE, "wide = x.dtype"),
        says="Everything happens in the dtype of x. In float16 300 squared is infinite, and the result is 0. Widen to float32 first.",
    ),
    Misconception(
        name="rounded before the weight",
        replace=(_RMS_Y, "return (h / root_mean_square).to(x.dtype) * weight.to(x.dtype)"),
        says="You round before the weight and again after it, as Llama's code does. Here: multiply in float32, round once.",
    ),
    Misconception(
        name="rounded before the weight, then wide",
        replace=(_RMS_Y, "return ((h / root_mean_square).to(x.dtype) * weight.to(wide)).to(x.dtype)"),
        says="The normalised vector is rounded to the dtype of x before it meets the weight. Round once, at the end.",
        same_as=("rounded before the weight",),
    ),
    Misconception(
        name="wide root mean square, narrow division",
        replace=(_RMS_Y, "return x / root_mean_square.to(x.dtype) * weight.to(x.dtype)"),
        says="The root mean square is in float32, but division and product are done in the dtype of x. Keep float32 to the end.",
        same_as=("rounded before the weight",),
    ),
    Misconception(
        name="squares in the dtype of x",
        replace=(_MS, "x.square().to(wide).mean(dim=-1, keepdim=True)"),
        says="You square in the dtype of x and widen afterwards: in float16 the square of 300 is already infinite. Widen first.",
    ),
    Misconception(
        name="dtype of the weight",
        replace=(_RMS_Y, "return (h / root_mean_square).to(x.dtype) * weight"),
        says="The product takes the wider of two dtypes, so 16-bit x with a float32 weight comes back in float32. Convert at the very end.",
    ),
    Misconception(
        name="always float32",
        replace=(_WIDE, "wide = torch.float32"),
        says="float64 input loses half its digits on the way through float32. Compute in float64 when x is float64.",
    ),
    Misconception(
        name="result left wide",
        replace=(".to(x.dtype)\n", "\n"),
        says="The result must have the dtype of x. It comes back in float32.",
    ),
    Misconception(
        name="root mean square detached",
        replace=(_RMS, _RMS + ".detach()"),
        says="The values are right, but the root mean square counts as a constant in the backward pass. It depends on every x.",
    ),
    Misconception(
        name="x changed in place",
        replace=(_RMS_Y, "x.data.div_(root_mean_square.to(x.dtype))\n    " + _RMS_Y),
        says="You divide x itself. The residual stream still needs x: work on a new tensor.",
    ),
    Misconception(
        name="weight added",
        replace=("* weight.to(wide)", "+ weight.to(wide)"),
        says="The weight multiplies; you add it.",
    ),
    Misconception(
        name="divided by the largest entry",
        replace=(_RMS, "(h.abs().amax(dim=-1, keepdim=True) + eps)"),
        says="You divide by the largest absolute value. RMS is the root of the mean of squares.",
    ),
    Misconception(
        name="eps squared",
        replace=(" + eps)", " + eps**2)"),
        says="eps is added as it is, not squared.",
    ),
)

RMS_NORM_RIGHT = (
    Variant(
        name="rsqrt and pow",
        code="""def rms_norm(x, weight, eps=1e-6):
    h = x if x.dtype == torch.float64 else x.float()
    return (h * torch.rsqrt(h.pow(2).mean(-1, keepdim=True) + eps) * weight).to(x.dtype)
""",
    ),
    Variant(
        name="einsum, float64 inside",
        code="""def rms_norm(x, weight, eps=1e-6):
    h = x.double()
    r = (torch.einsum("...i,...i->...", h, h) / x.shape[-1] + eps).sqrt()
    return torch.einsum("...i,...,i->...i", h, 1 / r, weight.double()).to(x.dtype)
""",
    ),
    Variant(
        name="length over root E",
        code="""def rms_norm(x, weight, eps=1e-6):
    acc = torch.promote_types(x.dtype, torch.float32)
    h = x.to(acc)
    total = (h * h).sum(dim=-1, keepdim=True)
    return (h * weight.to(acc) * math.sqrt(h.size(-1)) / torch.sqrt(total + eps * h.size(-1))).to(x.dtype)
""",
    ),
    Variant(
        name="one vector at a time",
        code="""def rms_norm(x, weight, eps=1e-6):
    kind = torch.float64 if x.dtype == torch.float64 else torch.float32
    if x.numel() == 0:
        return x.clone()
    rows = [row / (row.dot(row) / len(row) + eps) ** 0.5 * weight.to(kind) for row in x.to(kind).reshape(-1, x.shape[-1])]
    return torch.stack(rows).reshape_as(x).to(x.dtype)
""",
    ),
    Variant(
        name="features moved first",
        code="""def rms_norm(x, weight, eps=1e-6):
    h = (x if x.dtype == torch.float64 else x.to(torch.float32)).movedim(-1, 0)
    scale = 1.0 / ((h**2).mean(0) + eps).sqrt()
    return ((h * scale).movedim(0, -1) * weight.to(h.dtype)).to(dtype=x.dtype)
""",
    ),
)

_BN_VARIANCE = "variance = (x - mean).square().mean(dim=0)"
_BN_Y = "y = (x - mean) / torch.sqrt(variance + eps) * weight + bias"
_BN_MEAN = "new_mean = (1 - momentum) * running_mean + momentum * mean.detach()"
_BN_VAR = "new_var = (1 - momentum) * running_var + momentum * variance.detach() * rows / (rows - 1)"

BATCH_NORM_WRONG = (
    Misconception(
        name="over the features",
        replace=(
            "mean = x.mean(dim=0)\n    " + _BN_VARIANCE,
            "mean = x.mean(dim=1, keepdim=True)\n    variance = (x - mean).square().mean(dim=1, keepdim=True)",
        ),
        says="You average over the features of each row, which is LayerNorm. BatchNorm averages each feature over the rows, dim=0.",
    ),
    Misconception(
        name="over everything",
        replace=(
            "mean = x.mean(dim=0)\n    " + _BN_VARIANCE,
            "mean = x.mean().expand(x.shape[1])\n    variance = (x - mean).square().mean().expand(x.shape[1])",
        ),
        says="One mean and one variance for all features. Each feature has its own: average over dim 0 alone.",
    ),
    Misconception(
        name="unbiased variance in y",
        replace=("torch.sqrt(variance + eps)", "torch.sqrt(variance * rows / (rows - 1) + eps)"),
        says="y uses the biased variance, divided by n. The unbiased one is for the running variance only.",
    ),
    Misconception(
        name="biased running variance",
        replace=(" * rows / (rows - 1)", ""),
        says="The running variance takes the unbiased estimate, n / (n - 1) times the biased variance.",
    ),
    Misconception(
        name="biased and unbiased swapped",
        replace=(
            _BN_VARIANCE + "\n    " + _BN_Y + "\n    " + _BN_MEAN + "\n    " + _BN_VAR,
            "variance = x.var(dim=0)\n    "
            + _BN_Y
            + "\n    "
            + _BN_MEAN
            + "\n    new_var = (1 - momentum) * running_var + momentum * x.var(dim=0, unbiased=False).detach()",
        ),
        says="The two variances are swapped: biased in y, unbiased in the running variance.",
    ),
    Misconception(
        name="correction turned round",
        replace=("* rows / (rows - 1)", "* (rows - 1) / rows"),
        says="The unbiased estimate is larger than the biased one: multiply by n / (n - 1). You have the inverse.",
    ),
    Misconception(
        name="momentum inverted",
        replace=(
            _BN_MEAN + "\n    " + _BN_VAR,
            "new_mean = momentum * running_mean + (1 - momentum) * mean.detach()\n    new_var = momentum * running_var + (1 - momentum) * variance.detach() * rows / (rows - 1)",
        ),
        says="momentum is the weight of the new batch, not of the old value (PyTorch's convention). With 0.1 the old value keeps 0.9.",
    ),
    Misconception(
        name="momentum fixed",
        replace=("rows = x.shape[0]", "rows = x.shape[0]\n    momentum = 0.1"),
        says="momentum is an argument, and you use 0.1 whatever is passed.",
    ),
    Misconception(
        name="old value not faded",
        replace=(
            _BN_MEAN + "\n    " + _BN_VAR,
            "new_mean = running_mean + momentum * mean.detach()\n    new_var = running_var + momentum * variance.detach() * rows / (rows - 1)",
        ),
        says="The old value must be multiplied by 1 - momentum. Otherwise the running statistics grow for ever.",
    ),
    Misconception(
        name="batch statistics returned",
        replace=(
            _BN_MEAN + "\n    " + _BN_VAR,
            "new_mean = mean.detach()\n    new_var = variance.detach() * rows / (rows - 1)",
        ),
        says="You return this batch's statistics. The new running ones mix them with the old, by momentum.",
    ),
    Misconception(
        name="running statistics returned unchanged",
        replace=(_BN_MEAN + "\n    " + _BN_VAR, "new_mean, new_var = running_mean.clone(), running_var.clone()"),
        says="The running statistics come back as they were. Mix the batch's in, by momentum.",
    ),
    Misconception(
        name="y from the old running statistics",
        replace=(_BN_Y, "y = (x - running_mean) / torch.sqrt(running_var + eps) * weight + bias"),
        says="That is what BatchNorm does at inference. In training y uses the batch's own mean and variance.",
    ),
    Misconception(
        name="y from the new running statistics",
        replace=(
            "return y, new_mean, new_var",
            "y = (x - new_mean) / torch.sqrt(new_var + eps) * weight + bias\n    return y, new_mean, new_var",
        ),
        says="In training y uses the batch's own mean and variance, not the running ones.",
    ),
    Misconception(
        name="eps outside the root",
        replace=("torch.sqrt(variance + eps)", "(torch.sqrt(variance) + eps)"),
        says="Epsilon is added to the variance, before the root.",
    ),
    Misconception(
        name="eps forgotten",
        replace=("torch.sqrt(variance + eps)", "torch.sqrt(variance)"),
        says="Where is eps? Without it a feature that is the same in all rows gives 0/0.",
    ),
    Misconception(
        name="eps in the running variance",
        replace=(
            "momentum * variance.detach() * rows / (rows - 1)",
            "momentum * (variance.detach() * rows / (rows - 1) + eps)",
        ),
        says="eps guards the root in y. The running variance is a record of the data and takes none.",
    ),
    Misconception(
        name="standard deviation recorded",
        replace=(
            "momentum * variance.detach() * rows / (rows - 1)",
            "momentum * (variance.detach() * rows / (rows - 1)).sqrt()",
        ),
        says="running_var is a variance. You mix a standard deviation into it.",
    ),
    Misconception(
        name="running statistics changed in place",
        replace=(
            _BN_MEAN + "\n    " + _BN_VAR,
            "new_mean = running_mean.mul_(1 - momentum).add_(momentum * mean.detach())\n    new_var = running_var.mul_(1 - momentum).add_(momentum * variance.detach() * rows / (rows - 1))",
        ),
        says="The tensors that were passed in are overwritten. Return new ones.",
    ),
    Misconception(
        name="running mean not detached",
        replace=("momentum * mean.detach()", "momentum * mean"),
        says="The values are right, but gradients flow through the running mean. It would keep every past batch's graph alive.",
    ),
    Misconception(
        name="running variance not detached",
        replace=("variance.detach()", "variance"),
        says="The values are right, but gradients flow through the running variance.",
    ),
    Misconception(
        name="neither is detached",
        replace=(
            _BN_MEAN + "\n    " + _BN_VAR,
            _BN_MEAN.replace(".detach()", "") + "\n    " + _BN_VAR.replace(".detach()", ""),
        ),
        says="The values are right, but gradients flow through the running statistics. Detach what goes into them.",
    ),
    Misconception(
        name="batch statistics detached in y",
        replace=(
            "mean = x.mean(dim=0)\n    " + _BN_VARIANCE,
            "mean = x.mean(dim=0).detach()\n    " + _BN_VARIANCE + ".detach()",
        ),
        says="The values are right, but in y the batch's mean and variance depend on x and must pass gradients on.",
    ),
    Misconception(
        name="variance detached in y",
        replace=(_BN_VARIANCE, _BN_VARIANCE + ".detach()"),
        says="The values are right, but the variance in y depends on x and must pass gradients on.",
    ),
    Misconception(
        name="weight and bias forgotten",
        replace=(" * weight + bias", ""),
        says="weight and bias are not used. They come last: normalise, multiply, add.",
    ),
    Misconception(
        name="bias forgotten",
        replace=(" * weight + bias", " * weight"),
        says="The bias is not added.",
    ),
    Misconception(
        name="mean not subtracted",
        replace=("y = (x - mean)", "y = x"),
        says="The batch mean must be subtracted from x before the division.",
    ),
    Misconception(
        name="spread around the running mean",
        replace=(_BN_VARIANCE, "variance = (x - running_mean).square().mean(dim=0)"),
        says="The batch's variance is taken around the batch's own mean, not around the running mean.",
    ),
    Misconception(
        name="order of the results",
        replace=("return y, new_mean, new_var", "return y, new_var, new_mean"),
        says="The order is y, new mean, new variance.",
    ),
    Misconception(
        name="only y returned",
        replace=("return y, new_mean, new_var", "return y"),
        says="Return three things: y, the new running mean, the new running variance.",
    ),
    Misconception(
        name="no error for one row",
        replace=("if rows < 2", "if rows < 1"),
        says="One row has no unbiased variance: 0/0. Fewer than two rows must raise ValueError.",
    ),
    Misconception(
        name="no error at all",
        replace=("if rows < 2", "if rows < 0"),
        says="With fewer than two rows the unbiased variance is 0/0. Raise ValueError before you compute.",
    ),
    Misconception(
        name="two rows refused",
        replace=("if rows < 2", "if rows <= 2"),
        says="Two rows are enough for an unbiased variance. Refuse fewer than two.",
    ),
    Misconception(
        name="few features refused",
        replace=("rows = x.shape[0]", "rows = x.shape[0]\n    if x.shape[1] < 2:\n        raise ValueError"),
        says="The rows must be at least two. One feature is fine.",
    ),
    Misconception(
        name="E[x^2] - E[x]^2",
        replace=(_BN_VARIANCE, "variance = (x.square().mean(dim=0) - mean**2).clamp(min=0)"),
        says="E[x^2] - E[x]^2 loses all digits when the mean is large. Subtract the mean, then square.",
    ),
    Misconception(
        name="x changed in place",
        replace=("return y, new_mean, new_var", "x.data.copy_(y)\n    return y, new_mean, new_var"),
        says="You overwrite x. The caller still needs it: return a new tensor.",
    ),
    Misconception(
        name="statistics of y recorded",
        replace=(
            "return y, new_mean, new_var",
            "new_mean = (1 - momentum) * running_mean + momentum * y.detach().mean(dim=0)\n    new_var = (1 - momentum) * running_var + momentum * y.detach().var(dim=0)\n    return y, new_mean, new_var",
        ),
        says="You record mean and variance of the normalised y. The running statistics are those of x.",
    ),
    Misconception(
        name="running standard deviations mixed",
        replace=(_BN_VAR, "new_var = ((1 - momentum) * running_var.sqrt() + momentum * x.detach().std(dim=0)) ** 2"),
        says="You mix standard deviations and square the result. The running variance mixes variances.",
    ),
    Misconception(
        name="only the running mean's momentum inverted",
        replace=(_BN_MEAN, "new_mean = momentum * running_mean + (1 - momentum) * mean.detach()"),
        says="momentum weighs the new batch in both statistics. In the mean you have it the other way round.",
    ),
)

BATCH_NORM_RIGHT = (
    Variant(
        name="torch.var twice, lerp",
        code="""def batch_norm_train(x, weight, bias, running_mean, running_var, momentum=0.1, eps=1e-5):
    if len(x) < 2:
        raise ValueError("need two rows")
    mu, var = x.mean(0), x.var(0, unbiased=False)
    y = weight * (x - mu) * torch.rsqrt(var + eps) + bias
    with torch.no_grad():
        return y, torch.lerp(running_mean, mu, momentum), torch.lerp(running_var, x.var(0), momentum)
""",
    ),
    Variant(
        name="old plus momentum times the difference, var_mean",
        code="""def batch_norm_train(x, weight, bias, running_mean, running_var, momentum=0.1, eps=1e-5):
    n = x.size(0)
    if not n > 1:
        raise ValueError(f"batch norm over {n} rows")
    unbiased, mu = torch.var_mean(x, dim=0)
    y = (x - mu).div((unbiased * (n - 1) / n + eps).sqrt()).mul(weight).add(bias)
    new_mean = running_mean + momentum * (mu.detach() - running_mean)
    new_var = running_var + momentum * (unbiased.detach() - running_var)
    return [y, new_mean, new_var]
""",
    ),
    Variant(
        name="feature by feature",
        code="""def batch_norm_train(x, weight, bias, running_mean, running_var, momentum=0.1, eps=1e-5):
    n, width = x.shape
    if n in (0, 1):
        raise ValueError("the variance needs two rows")
    columns, means, variances = [], [], []
    for j in range(width):
        column = x[:, j]
        m = column.sum() / n
        squares = ((column - m) ** 2).sum()
        columns.append((column - m) / (squares / n + eps) ** 0.5 * weight[j] + bias[j])
        means.append((1 - momentum) * running_mean[j].detach() + momentum * m.detach())
        variances.append((1 - momentum) * running_var[j].detach() + momentum * squares.detach() / (n - 1))
    return torch.stack(columns, dim=1), torch.stack(means), torch.stack(variances)
""",
    ),
    Variant(
        name="float64 inside",
        code="""def batch_norm_train(x, weight, bias, running_mean, running_var, momentum=0.1, eps=1e-5):
    if x.shape[0] < 2:
        raise ValueError("two rows at least")
    h = x.double()
    mean = h.mean(0, keepdim=True)
    var = torch.mean((h - mean) ** 2, 0, keepdim=True)
    y = ((h - mean) / torch.sqrt(var + eps) * weight.double() + bias.double()).to(x.dtype)
    bessel = x.shape[0] / (x.shape[0] - 1)
    stats = [(1 - momentum) * old.double() + momentum * new[0] for old, new in ((running_mean, mean), (running_var, var * bessel))]
    return (y, *(s.detach().to(x.dtype) for s in stats))
""",
    ),
)

_DX = "dx = (g - x_hat * (g * x_hat).mean(dim=-1, keepdim=True)) / r"
_DW = "dweight = (dy * x_hat).reshape(-1, x.shape[-1]).sum(dim=0)"

BACKWARD_WRONG = (
    Misconception(
        name="r taken for a constant",
        replace=(_DX, "dx = g / r"),
        says="r depends on every x. Its share is the second term: x_hat times the mean of g * x_hat must be taken off.",
    ),
    Misconception(
        name="sum instead of mean",
        replace=("(g * x_hat).mean(", "(g * x_hat).sum("),
        says="The derivative of r brings a 1/E: the projection is a mean over the features, not a sum.",
    ),
    Misconception(
        name="plus instead of minus",
        replace=("(g - x_hat", "(g + x_hat"),
        says="The derivative of 1/r is negative: the second term is taken off.",
    ),
    Misconception(
        name="weight forgotten in dx",
        replace=("g = dy * weight", "g = dy"),
        says="The gradient passes the weight on its way to x: start from g = dy * weight.",
    ),
    Misconception(
        name="weight forgotten in the projection",
        replace=("(g * x_hat).mean(", "(dy * x_hat).mean("),
        says="Both terms of dx contain g = dy * weight. In the second you use dy alone.",
    ),
    Misconception(
        name="weight applied at the end",
        replace=(_DX, "dx = weight * (dy - x_hat * (dy * x_hat).mean(dim=-1, keepdim=True)) / r"),
        says="The weight is multiplied in before the projection, not after: the projection mixes features with different weights.",
    ),
    Misconception(
        name="weight forgotten in the first term",
        replace=("dx = (g - x_hat", "dx = (dy - x_hat"),
        says="Both terms of dx contain g = dy * weight. In the first you use dy alone.",
    ),
    Misconception(
        name="x instead of x / r in the second term",
        replace=("x_hat * (g * x_hat)", "x * (g * x)"),
        says="The second term contains x / r twice. You use x itself.",
    ),
    Misconception(
        name="x once, x / r once",
        replace=("x_hat * (g * x_hat)", "x_hat * (g * x)"),
        says="Both factors of the second term are x / r. One of yours is x itself.",
    ),
    Misconception(
        name="not divided by r",
        replace=("keepdim=True)) / r", "keepdim=True))"),
        says="dx must be divided by r at the end: the larger x, the less a step of fixed size moves the result.",
    ),
    Misconception(
        name="only the first term divided by r",
        replace=(_DX, "dx = g / r - x_hat * (g * x_hat).mean(dim=-1, keepdim=True)"),
        says="Both terms are divided by r.",
        same_as=("x once, x / r once",),
    ),
    Misconception(
        name="divided by r squared",
        replace=("keepdim=True)) / r", "keepdim=True)) / r**2"),
        says="One r too many: dx is divided by r once, x / r has the others.",
    ),
    Misconception(
        name="multiplied by r",
        replace=("keepdim=True)) / r", "keepdim=True)) * r"),
        says="You multiply by r. Divide: y is x / r.",
    ),
    Misconception(
        name="LayerNorm's backward",
        replace=("dx = (g - x_hat", "dx = (g - g.mean(dim=-1, keepdim=True) - x_hat"),
        says="That is LayerNorm's backward: its mean of g comes from the centring. RMSNorm does not centre.",
    ),
    Misconception(
        name="mean of g as the projection",
        replace=("(g * x_hat).mean(dim=-1, keepdim=True)", "g.mean(dim=-1, keepdim=True)"),
        says="The projection is the mean of g * x_hat, the part of g that points along x. You take the mean of g.",
    ),
    Misconception(
        name="projection exactly perpendicular",
        replace=(
            "(g * x_hat).mean(dim=-1, keepdim=True)",
            "(g * x_hat).sum(dim=-1, keepdim=True) / (x_hat * x_hat).sum(dim=-1, keepdim=True).clamp(min=1e-30)",
        ),
        says="You take off all of g along x, as if eps were 0. With eps the root mean square of x / r is below 1, and a little of g stays: divide by E.",
    ),
    Misconception(
        name="eps forgotten",
        replace=("keepdim=True) + eps)", "keepdim=True) + 1e-30)"),
        says="r contains eps, in the backward pass too.",
    ),
    Misconception(
        name="eps fixed",
        replace=("keepdim=True) + eps)", "keepdim=True) + 1e-6)"),
        says="eps is an argument, and you use 1e-6 whatever is passed.",
    ),
    Misconception(
        name="eps outside the root",
        replace=(
            "r = torch.sqrt(x.square().mean(dim=-1, keepdim=True) + eps)",
            "r = torch.sqrt(x.square().mean(dim=-1, keepdim=True)) + eps",
        ),
        says="Epsilon is added to the mean of squares, before the root.",
    ),
    Misconception(
        name="length instead of root mean square",
        replace=("x.square().mean(", "x.square().sum("),
        says="r is the root of the mean of squares, not of their sum.",
    ),
    Misconception(
        name="mean subtracted in r",
        replace=("x.square().mean(dim=-1, keepdim=True)", "x.var(dim=-1, keepdim=True, unbiased=False)"),
        says="r is the root mean square, without subtracting the mean.",
    ),
    Misconception(
        name="dweight from x",
        replace=("(dy * x_hat).reshape", "(dy * x).reshape"),
        says="weight multiplies x / r, so its gradient is the sum of dy * x / r. You use x itself.",
    ),
    Misconception(
        name="dweight with the weight in it",
        replace=("(dy * x_hat).reshape", "(g * x_hat).reshape"),
        says="y is linear in weight, so weight does not appear in its own gradient. Use dy, not dy * weight.",
    ),
    Misconception(
        name="dweight averaged",
        replace=(_DW, "dweight = (dy * x_hat).reshape(-1, x.shape[-1]).mean(dim=0).nan_to_num()"),
        says="The gradient of a shared weight is the sum over all its uses, not the mean.",
    ),
    Misconception(
        name="dweight not summed",
        replace=(_DW, "dweight = dy * x_hat"),
        says="weight has shape (E,), so its gradient has too: sum over all leading dimensions.",
    ),
    Misconception(
        name="dweight summed over the first dimension only",
        replace=(_DW, "dweight = (dy * x_hat).sum(dim=0) if x.dim() > 1 else dy * x_hat"),
        says="Sum over all leading dimensions, not only the first: with (B, T, E) you are left with (T, E).",
    ),
    Misconception(
        name="dweight of one vector summed up",
        replace=(_DW, "dweight = (dy * x_hat).sum(dim=tuple(range(max(x.dim() - 1, 1))))"),
        says="With x of shape (E,) there is no leading dimension to sum over; you sum over the features.",
    ),
    Misconception(
        name="dweight summed over the features",
        replace=(_DW, "dweight = (dy * x_hat).sum(dim=-1)"),
        says="You sum over the features. Keep those, and sum over all the vectors.",
    ),
    Misconception(
        name="projection over the whole tensor",
        replace=("(g * x_hat).mean(dim=-1, keepdim=True)", "(g * x_hat).mean()"),
        says="One projection for the whole tensor. Each vector has its own: dim=-1, keepdim=True.",
    ),
    Misconception(
        name="projection over the batch",
        replace=("(g * x_hat).mean(dim=-1, keepdim=True)", "(g * x_hat).mean(dim=0, keepdim=True)"),
        says="The projection runs over the features of each vector, not over the batch.",
    ),
    Misconception(
        name="order of the results",
        replace=("return dx, dweight", "return dweight, dx"),
        says="The order is dx, then dweight.",
    ),
    Misconception(
        name="only dx returned",
        replace=("return dx, dweight", "return dx"),
        says="Return both: dx and dweight.",
    ),
    Misconception(
        name="always float32",
        replace=("return dx, dweight", "return dx.float(), dweight.float()"),
        says="The results must have the dtype of the arguments. float64 comes back as float32.",
    ),
    Misconception(
        name="dy changed in place",
        replace=("return dx, dweight", "dy.mul_(weight)\n    return dx, dweight"),
        says="You overwrite dy. Somebody else may need it: use a new tensor for dy * weight.",
    ),
    Misconception(
        name="dx and dy multiplied by x",
        replace=(_DX, "dx = (g - x_hat * (g * x_hat).mean(dim=-1, keepdim=True)) / r * x_hat"),
        says="dx is multiplied by x / r once too often.",
    ),
    Misconception(
        name="projection taken off twice",
        replace=("(g - x_hat", "(g - 2 * x_hat"),
        says="The part along x is taken off once. You take it off twice.",
    ),
    Misconception(
        name="dweight divided by the weight",
        replace=(_DW, _DW + " / weight"),
        says="weight does not appear in its own gradient: it is the sum of dy * x / r.",
    ),
    Misconception(
        name="dweight from two sums",
        replace=(_DW, "dweight = dy.reshape(-1, x.shape[-1]).sum(dim=0) * x_hat.reshape(-1, x.shape[-1]).sum(dim=0)"),
        says="Multiply first, then sum: the sum of products is not the product of sums.",
    ),
    Misconception(
        name="x left out of the projection",
        replace=("x_hat * (g * x_hat)", "(g * x_hat)"),
        says="What is taken off points along x: x / r times the mean. You take off the mean alone.",
    ),
)

BACKWARD_RIGHT = (
    Variant(
        name="three terms with r cubed",
        code="""def rms_norm_backward(dy, x, weight, eps=1e-6):
    E = x.shape[-1]
    ms = (x * x).sum(-1, keepdim=True) / E + eps
    inner = (dy * weight * x).sum(-1, keepdim=True)
    dx = dy * weight * ms**-0.5 - x * inner / E * ms**-1.5
    dweight = torch.einsum("ne,ne->e", dy.reshape(-1, E), (x * ms**-0.5).reshape(-1, E))
    return dx, dweight
""",
    ),
    Variant(
        name="the Jacobian of each vector",
        code="""def rms_norm_backward(dy, x, weight, eps=1e-6):
    E = x.size(-1)
    flat_dy, flat_x = dy.reshape(-1, E), x.reshape(-1, E)
    r = (flat_x.pow(2).mean(1) + eps).sqrt()
    eye = torch.eye(E, dtype=x.dtype)
    J = eye / r[:, None, None] - torch.einsum("ni,nj->nij", flat_x, flat_x) / (E * r**3)[:, None, None]
    dx = torch.einsum("ni,i,nij->nj", flat_dy, weight, J)
    return dx.view(x.shape), (flat_dy * flat_x / r[:, None]).sum(0)
""",
    ),
    Variant(
        name="a loop, dweight added up",
        code="""def rms_norm_backward(dy, x, weight, eps=1e-6):
    width = x.shape[-1]
    dweight = torch.zeros_like(weight)
    dx = torch.empty(x.shape, dtype=x.dtype).reshape(-1, width)
    for i, (d, v) in enumerate(zip(dy.reshape(-1, width), x.reshape(-1, width))):
        inv = 1 / math.sqrt(float((v * v).sum()) / width + eps)
        n = v * inv
        dweight = dweight + d * n
        g = d * weight
        dx[i] = inv * (g - n * torch.dot(g, n) / width)
    return dx.reshape(x.shape), dweight
""",
    ),
    Variant(
        name="float64 inside, rsqrt",
        code="""def rms_norm_backward(dy, x, weight, eps=1e-6):
    h, d, w = x.double(), dy.double(), weight.double()
    inv = torch.rsqrt(h.pow(2).mean(-1, keepdim=True) + eps)
    n = h * inv
    g = d * w
    dx = inv * (g - n * (g * n).mean(-1, keepdim=True))
    dw = (d * n).flatten(0, -2).sum(0) if x.ndim > 1 else d * n
    return [dx.to(x.dtype), dw.to(weight.dtype)]
""",
    ),
)

_PRE, _POST = "return x + f(norm(x))", "return norm(x + f(x))"
_DOUBLE, _DEEP = "return x + norm(f(norm(x)))", "return norm(alpha * x + f(x))"
_STYLE_ERROR = """raise ValueError(f"style must be 'pre', 'post', 'double' or 'deep', got {style!r}")"""

RESIDUAL_WRONG = (
    Misconception(
        name="pre and post swapped",
        replace=(
            'if style == "pre":\n        ' + _PRE + '\n    if style == "post":\n        ' + _POST,
            'if style == "post":\n        ' + _PRE + '\n    if style == "pre":\n        ' + _POST,
        ),
        says="pre and post are swapped. Pre: the norm stands before the sub-layer, inside the branch. Post: after the addition.",
    ),
    Misconception(
        name="pre adds to the normalised stream",
        replace=(_PRE, "x = norm(x)\n        return x + f(x)"),
        says="The stream itself must pass unchanged. You add to norm(x); the free way through the stack is gone.",
    ),
    Misconception(
        name="pre without the stream",
        replace=(_PRE, "return f(norm(x))"),
        says="The stream is missing: x is added to what the branch gives.",
    ),
    Misconception(
        name="pre with the norm after f",
        replace=(_PRE, "return x + norm(f(x))"),
        says="In pre the norm comes before f. You normalise what f gives.",
    ),
    Misconception(
        name="pre without a norm",
        replace=(_PRE, "return x + f(x)"),
        says="In pre the sub-layer reads norm(x), not x.",
    ),
    Misconception(
        name="post with a norm on the branch only",
        replace=(_POST, "return x + norm(f(x))"),
        says="In post the sum is normalised, the stream included. You normalise the branch alone.",
    ),
    Misconception(
        name="post without the stream",
        replace=(_POST, "return norm(f(x))"),
        says="The stream is missing: norm(x + f(x)).",
    ),
    Misconception(
        name="post without a norm",
        replace=(_POST, "return x + f(x)"),
        says="In post the sum passes through the norm.",
    ),
    Misconception(
        name="post with a norm before f as well",
        replace=(_POST, "return norm(x + f(norm(x)))"),
        says="In post the sub-layer reads x as it is. There is one norm, after the sum.",
    ),
    Misconception(
        name="post normalises the parts",
        replace=(_POST, "return norm(x) + norm(f(x))"),
        says="The norm of a sum is not the sum of norms: add first.",
    ),
    Misconception(
        name="double with a norm after the sum",
        replace=(_DOUBLE, "return norm(x + f(norm(x)))"),
        says="In double both norms stand inside the branch, before and after f. The stream is not normalised.",
    ),
    Misconception(
        name="double is pre",
        replace=(_DOUBLE, "return x + f(norm(x))"),
        says="The second norm is missing: what f gives is normalised before it is added.",
    ),
    Misconception(
        name="double normalises twice before f",
        replace=(_DOUBLE, "return x + f(norm(norm(x)))"),
        says="One norm stands before f and one after it. You have both before.",
    ),
    Misconception(
        name="double without the inner norm",
        replace=(_DOUBLE, "return x + norm(f(x))"),
        says="The first norm is missing: f reads norm(x).",
    ),
    Misconception(
        name="double without the stream",
        replace=(_DOUBLE, "return norm(f(norm(x)))"),
        says="The stream is missing: x is added to what the branch gives.",
    ),
    Misconception(
        name="deep without alpha",
        replace=("alpha * x + f(x)", "x + f(x)"),
        says="alpha is not used. In deep the stream is multiplied by it.",
    ),
    Misconception(
        name="alpha on the branch",
        replace=("alpha * x + f(x)", "x + alpha * f(x)"),
        says="alpha makes the stream louder, not the branch: alpha * x + f(x).",
    ),
    Misconception(
        name="alpha on the sum",
        replace=("alpha * x + f(x)", "alpha * (x + f(x))"),
        says="alpha multiplies x alone. On the whole sum the norm would take it away again.",
    ),
    Misconception(
        name="alpha inside f",
        replace=("alpha * x + f(x)", "alpha * x + f(alpha * x)"),
        says="f reads x, not alpha * x.",
    ),
    Misconception(
        name="alpha after the norm",
        replace=(_DEEP, "return alpha * norm(x + f(x))"),
        says="alpha multiplies the stream before the sum, inside the norm.",
    ),
    Misconception(
        name="deep without a norm",
        replace=(_DEEP, "return alpha * x + f(x)"),
        says="DeepNorm is post-norm with a louder stream: the sum passes through the norm.",
    ),
    Misconception(
        name="deep as a pre-norm",
        replace=(_DEEP, "return alpha * x + f(norm(x))"),
        says="DeepNorm is post-norm: norm(alpha * x + f(x)), and f reads x.",
    ),
    Misconception(
        name="alpha divides",
        replace=("alpha * x + f(x)", "x + f(x) / alpha if alpha else f(x)"),
        says="alpha * x + f(x) and x + f(x) / alpha differ by a factor, which eps and a bias in the norm can see. Multiply x.",
    ),
    Misconception(
        name="alpha in every style",
        replace=('if style == "pre":', 'if style != "deep":\n        x = alpha * x\n    if style == "pre":'),
        says="alpha belongs to deep alone. The other styles take no notice of it.",
    ),
    Misconception(
        name="alpha on the stream of pre and double",
        replace=(
            'if style == "pre":',
            'if style == "pre":\n        return alpha * x + f(norm(x))\n    if style == "double":\n        return alpha * x + norm(f(norm(x)))\n    if style == "pre":',
        ),
        says="alpha belongs to deep alone: pre and double add x as it is.",
    ),
    Misconception(
        name="alpha in post",
        replace=(_POST, "return norm(alpha * x + f(x))"),
        says="alpha belongs to deep alone: post is norm(x + f(x)).",
    ),
    Misconception(
        name="unknown styles are deep",
        replace=(_STYLE_ERROR, _DEEP),
        says="Any other style must raise ValueError. A misspelt one would silently train another model.",
    ),
    Misconception(
        name="unknown styles are pre",
        replace=(_STYLE_ERROR, _PRE),
        says="Any other style must raise ValueError. A misspelt one would silently train another model.",
    ),
    Misconception(
        name="unknown styles give nothing",
        replace=(_STYLE_ERROR, "return None"),
        says="Any other style must raise ValueError. None would only fail far from the misspelling.",
    ),
    Misconception(
        name="KeyError for unknown styles",
        replace=(_STYLE_ERROR, "raise KeyError(style)"),
        says="A dict gives KeyError. Promised is ValueError: catch it, or ask first.",
    ),
    Misconception(
        name="assert for unknown styles",
        replace=(_STYLE_ERROR, 'raise AssertionError("style")'),
        says="assert gives AssertionError, and none at all under python -O. Raise ValueError.",
    ),
    Misconception(
        name="stream changed in place",
        replace=(_PRE, "x.data.add_(f(norm(x)).detach())\n        return x"),
        says="x += ... changes the caller's stream. Write x + ...",
    ),
    Misconception(
        name="stream detached",
        replace=(_PRE, "return x.detach() + f(norm(x))"),
        says="The values are right, but no gradient passes through the stream. That is the way that pre-norm keeps free.",
    ),
    Misconception(
        name="branch subtracted",
        replace=(_PRE, "return x - f(norm(x))"),
        says="The branch is added to the stream, not taken off.",
    ),
    Misconception(
        name="deep normalises the branch",
        replace=(_DEEP, "return alpha * x + norm(f(x))"),
        says="DeepNorm normalises the sum. You normalise the branch and leave the stream as it is.",
    ),
    Misconception(
        name="double normalises the stream too",
        replace=(_DOUBLE, "return norm(x) + norm(f(norm(x)))"),
        says="In double the stream passes as it is; you add to norm(x).",
    ),
)

RESIDUAL_RIGHT = (
    Variant(
        name="match",
        code="""def residual(x, f, norm, style, alpha=1.0):
    match style:
        case "pre":
            y = f(norm(x)).add(x)
        case "post":
            y = norm(f(x) + x)
        case "double":
            y = torch.add(x, norm(f(norm(x))))
        case "deep":
            y = norm(f(x) + x * alpha)
        case _:
            raise ValueError(style)
    return y
""",
    ),
    Variant(
        name="a dict of functions",
        code="""def residual(x, f, norm, style, alpha=1.0):
    branches = {
        "pre": lambda: x + f(norm(x)),
        "post": lambda: norm(x + f(x)),
        "double": lambda: x + norm(f(norm(x))),
        "deep": lambda: norm(torch.add(f(x), x, alpha=alpha)),
    }
    try:
        step = branches[style]
    except KeyError as error:
        raise ValueError(f"no such style: {style}") from error
    return step()
""",
    ),
    Variant(
        name="inner and outer norms chosen first",
        code="""def residual(x, f, norm, style, alpha=1.0):
    if style not in ("pre", "post", "double", "deep"):
        raise ValueError("style")
    identity = lambda t: t
    before = norm if style in ("pre", "double") else identity
    after = norm if style == "double" else identity
    outside = norm if style in ("post", "deep") else identity
    stream = alpha * x if style == "deep" else x
    return outside(stream + after(f(before(x))))
""",
    ),
)

_QK_HAT = "q_hat, k_hat = rms_norm(q.float(), q_weight), rms_norm(k.float(), k_weight)"
_QK_SCORES = "scores = q_hat @ k_hat.transpose(-2, -1) / math.sqrt(q.shape[-1])"
_QK_CAP = "scores = softcap * torch.tanh(scores / softcap)"
_QK_IF = "if softcap is not None:\n        "


def _qk(q_hat, k_hat):
    return f"q_hat, k_hat = {q_hat}, {k_hat}"


QK_WRONG = (
    Misconception(
        name="no normalisation",
        replace=(_QK_HAT, _qk("q.float() * q_weight.float()", "k.float() * k_weight.float()")),
        says="Queries and keys are multiplied by the weights but not normalised.",
    ),
    Misconception(
        name="keys not normalised",
        replace=(_QK_HAT, _qk("rms_norm(q.float(), q_weight)", "k.float()")),
        says="Only the queries are normalised. A large key would still give a large score.",
    ),
    Misconception(
        name="queries not normalised",
        replace=(_QK_HAT, _qk("q.float()", "rms_norm(k.float(), k_weight)")),
        says="Only the keys are normalised. A large query would still give large scores.",
    ),
    Misconception(
        name="one weight for both",
        replace=(_QK_HAT, _qk("rms_norm(q.float(), q_weight)", "rms_norm(k.float(), q_weight)")),
        says="Queries and keys have a weight each. You use q_weight for both.",
    ),
    Misconception(
        name="weights forgotten",
        replace=(
            _QK_HAT,
            _qk("rms_norm(q.float(), torch.ones_like(q_weight))", "rms_norm(k.float(), torch.ones_like(k_weight))"),
        ),
        says="The learned weights are not used. Without them a score could never leave -sqrt(D)..sqrt(D).",
    ),
    Misconception(
        name="weights around 1",
        replace=(_QK_HAT, _qk("rms_norm(q.float(), 1 + q_weight)", "rms_norm(k.float(), 1 + k_weight)")),
        says="Gemma stores weight - 1. Here the weights are the factors themselves.",
    ),
    Misconception(
        name="length 1 instead of root mean square 1",
        replace=(
            _QK_HAT,
            _qk(
                "q.float() / (q.float().square().sum(-1, keepdim=True) + 1e-6).sqrt() * q_weight",
                "k.float() / (k.float().square().sum(-1, keepdim=True) + 1e-6).sqrt() * k_weight",
            ),
        ),
        says="You scale to length 1 (cosine similarity). RMSNorm scales to length sqrt(D): the mean of squares, not their sum.",
    ),
    Misconception(
        name="cosine similarity, not divided by sqrt(D)",
        replace=(
            _QK_HAT + "\n    " + _QK_SCORES,
            _qk(
                "torch.nn.functional.normalize(q.float(), dim=-1) * q_weight",
                "torch.nn.functional.normalize(k.float(), dim=-1) * k_weight",
            )
            + "\n    scores = q_hat @ k_hat.transpose(-2, -1)",
        ),
        says="That is cosine similarity. RMS-normalised vectors have length sqrt(D), and the scores are divided by sqrt(D).",
    ),
    Misconception(
        name="LayerNorm on queries and keys",
        replace=(
            _QK_HAT,
            _qk(
                "rms_norm(q.float() - q.float().mean(-1, keepdim=True), q_weight)",
                "rms_norm(k.float() - k.float().mean(-1, keepdim=True), k_weight)",
            ),
        ),
        says="You subtract the mean first. RMSNorm does not centre.",
    ),
    Misconception(
        name="normalised over time",
        replace=(
            _QK_HAT,
            _qk(
                "q.float() * torch.rsqrt(q.float().square().mean(-2, keepdim=True) + 1e-6) * q_weight",
                "k.float() * torch.rsqrt(k.float().square().mean(-2, keepdim=True) + 1e-6) * k_weight",
            ),
        ),
        says="You average over time (dim -2). Each query and each key is normalised by itself, over its D features.",
    ),
    Misconception(
        name="normalised over all heads together",
        replace=(
            _QK_HAT,
            "dims = (-3, -1) if q.dim() > 3 else (-1,)\n    "
            + _qk(
                "q.float() * torch.rsqrt(q.float().square().mean(dims, keepdim=True) + 1e-6) * q_weight",
                "k.float() * torch.rsqrt(k.float().square().mean(dims, keepdim=True) + 1e-6) * k_weight",
            ),
        ),
        says="You normalise over all heads at once, as if over d_model. Each head is normalised by itself.",
    ),
    Misconception(
        name="eps forgotten",
        replace=(
            _QK_HAT,
            _qk(
                "q.float() * torch.rsqrt(q.float().square().mean(-1, keepdim=True)) * q_weight",
                "k.float() * torch.rsqrt(k.float().square().mean(-1, keepdim=True)) * k_weight",
            ),
        ),
        says="Without eps a query of zeros is 0/0.",
    ),
    Misconception(
        name="eps of LayerNorm",
        replace=(_QK_HAT, _qk("rms_norm(q.float(), q_weight, 1e-5)", "rms_norm(k.float(), k_weight, 1e-5)")),
        says="eps is 1e-6 here; 1e-5 is LayerNorm's.",
    ),
    Misconception(
        name="not divided by sqrt(D)",
        replace=(" / math.sqrt(q.shape[-1])", ""),
        says="The scores must be divided by sqrt(D), normalised or not.",
    ),
    Misconception(
        name="divided by D",
        replace=("/ math.sqrt(q.shape[-1])", "/ q.shape[-1]"),
        says="Divide by the square root of D. Divided by D, the scores would be cosines, too small to choose with.",
    ),
    Misconception(
        name="divided by the root of another size",
        replace=("/ math.sqrt(q.shape[-1])", "/ math.sqrt(q.shape[-2])"),
        says="You divide by the root of the number of queries. D is the last dimension.",
    ),
    Misconception(
        name="divided by the root of the number of keys",
        replace=("/ math.sqrt(q.shape[-1])", "/ math.sqrt(k.shape[-2])"),
        says="You divide by the root of the number of keys. D is the last dimension.",
    ),
    Misconception(
        name="weights normalised away",
        replace=(
            _QK_HAT,
            _qk(
                "rms_norm(q.float() * q_weight, torch.ones_like(q_weight).float())",
                "rms_norm(k.float() * k_weight, torch.ones_like(k_weight).float())",
            ),
        ),
        says="The weights multiply before the norm, which takes their size away. They come after it.",
    ),
    Misconception(
        name="no cap",
        replace=(_QK_IF + _QK_CAP, "pass"),
        says="softcap is not used.",
    ),
    Misconception(
        name="cap without division inside",
        replace=(_QK_CAP, "scores = softcap * torch.tanh(scores)"),
        says="softcap * tanh(s / softcap): without the division small scores are multiplied by the cap.",
    ),
    Misconception(
        name="cap without multiplication outside",
        replace=(_QK_CAP, "scores = torch.tanh(scores / softcap)"),
        says="tanh leaves a number between -1 and 1. Multiply by softcap again, so that small scores pass unchanged.",
    ),
    Misconception(
        name="cap upside down",
        replace=(_QK_CAP, "scores = torch.tanh(scores * softcap) / softcap"),
        says="Divide by softcap inside the tanh and multiply outside. You have it the other way round.",
    ),
    Misconception(
        name="clamped",
        replace=(_QK_CAP, "scores = scores.clamp(-softcap, softcap)"),
        says="A clamp has no gradient beyond the cap. Soft-capping bends smoothly: softcap * tanh(s / softcap).",
    ),
    Misconception(
        name="capped before the scale",
        replace=(
            _QK_SCORES + "\n    " + _QK_IF + _QK_CAP,
            "scores = q_hat @ k_hat.transpose(-2, -1)\n    "
            + _QK_IF
            + _QK_CAP
            + "\n    scores = scores / math.sqrt(q.shape[-1])",
        ),
        says="The cap comes last: dot product, divide by sqrt(D), then cap.",
    ),
    Misconception(
        name="queries and keys capped",
        replace=(
            _QK_SCORES + "\n    " + _QK_IF + _QK_CAP,
            _QK_IF
            + "q_hat, k_hat = softcap * torch.tanh(q_hat / softcap), softcap * torch.tanh(k_hat / softcap)\n    "
            + _QK_SCORES,
        ),
        says="You cap queries and keys. The scores are capped.",
    ),
    Misconception(
        name="sigmoid instead of tanh",
        replace=(_QK_CAP, "scores = softcap * torch.sigmoid(scores / softcap)"),
        says="A sigmoid makes all scores positive. tanh keeps the sign, and 0 stays 0.",
    ),
    Misconception(
        name="softmax applied",
        replace=("return scores.to(q.dtype)", "return scores.softmax(-1).to(q.dtype)"),
        says="You return attention weights. The scores are asked for, before the softmax.",
    ),
    Misconception(
        name="causal mask applied",
        replace=(
            "return scores.to(q.dtype)",
            'return scores.masked_fill(torch.ones_like(scores).triu(1).bool(), float("-inf")).to(q.dtype)',
        ),
        says="No mask is asked for: that is the caller's job.",
    ),
    Misconception(
        name="keys times queries",
        replace=(_QK_SCORES, "scores = k_hat @ q_hat.transpose(-2, -1) / math.sqrt(q.shape[-1])"),
        says="The result is transposed. A row belongs to a query, a column to a key: (..., T, S).",
    ),
    Misconception(
        name="all dimensions reversed",
        replace=("k_hat.transpose(-2, -1)", "k_hat.permute(*reversed(range(k.dim())))"),
        says=".T and permute reverse all dimensions. Only the last two change places: transpose(-2, -1).",
    ),
    Misconception(
        name="computed in the dtype of q",
        replace=(_QK_HAT, _qk("rms_norm(q, q_weight).to(q.dtype)", "rms_norm(k, k_weight).to(q.dtype)")),
        says="Normalised vectors, products and scores are rounded to 16 bits on the way. Widen q and k first and round once.",
    ),
    Misconception(
        name="scores rounded before the cap",
        replace=(_QK_SCORES, _QK_SCORES.replace("scores = ", "scores = (") + ").to(q.dtype)"),
        says="The scores are rounded before they are capped. float32 up to the end.",
    ),
    Misconception(
        name="result left in float32",
        replace=("return scores.to(q.dtype)", "return scores"),
        says="The result must have the dtype of q.",
    ),
    Misconception(
        name="norms detached",
        replace=(
            _QK_HAT,
            _qk(
                "q.float() * torch.rsqrt(q.float().square().mean(-1, keepdim=True) + 1e-6).detach() * q_weight",
                "k.float() * torch.rsqrt(k.float().square().mean(-1, keepdim=True) + 1e-6).detach() * k_weight",
            ),
        ),
        says="The values are right, but the root mean square counts as a constant in the backward pass.",
    ),
    Misconception(
        name="queries changed in place",
        replace=("return scores.to(q.dtype)", "q.data.copy_(q_hat)\n    return scores.to(q.dtype)"),
        says="You overwrite q. The caller still needs it: use a new tensor.",
    ),
    Misconception(
        name="multiplied by sqrt(D)",
        replace=("/ math.sqrt(q.shape[-1])", "* math.sqrt(q.shape[-1])"),
        says="Divide by the root of D. You multiply.",
    ),
    Misconception(
        name="softsign instead of tanh",
        replace=(_QK_CAP, "scores = scores / (1 + scores.abs() / softcap)"),
        says="s / (1 + |s| / c) bends earlier than tanh. Use softcap * tanh(s / softcap).",
    ),
    Misconception(
        name="scores normalised instead of queries and keys",
        replace=(
            _QK_HAT + "\n    " + _QK_SCORES,
            "scores = (q.float() * q_weight.float()) @ (k.float() * k_weight.float()).transpose(-2, -1) / math.sqrt(q.shape[-1])\n    scores = scores * torch.rsqrt(scores.square().mean(-1, keepdim=True) + 1e-6)",
        ),
        says="You normalise the scores. Queries and keys are normalised, before the product.",
    ),
    Misconception(
        name="a cap of 50 when none is asked for",
        replace=("if softcap is not None:", "softcap = softcap or 50.0\n    if softcap is not None:"),
        says="With softcap None the scores stay as they are.",
    ),
)

QK_RIGHT = (
    Variant(
        name="einsum and rsqrt, without rms_norm",
        code="""def qk_norm_scores(q, k, q_weight, k_weight, softcap=None):
    def unit(x, w):
        x = x.float()
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * w.float()

    s = torch.einsum("...td,...sd->...ts", unit(q, q_weight), unit(k, k_weight)) * q.size(-1) ** -0.5
    if softcap:
        s = torch.tanh(s / softcap) * softcap
    return s.type_as(q)
""",
    ),
    Variant(
        name="float64 inside",
        code="""def qk_norm_scores(q, k, q_weight, k_weight, softcap=None):
    a, b = rms_norm(q.double(), q_weight), rms_norm(k.double(), k_weight)
    s = torch.matmul(a, b.mT) / a.shape[-1] ** 0.5
    return (s if softcap is None else softcap * (s / softcap).tanh()).to(q.dtype)
""",
    ),
    Variant(
        name="scores divided by the sizes afterwards",
        code="""def qk_norm_scores(q, k, q_weight, k_weight, softcap=None):
    qf, kf = q.to(torch.float64), k.to(torch.float64)
    d = q.shape[-1]
    raw = (qf * q_weight.to(torch.float64) * k_weight.to(torch.float64)) @ kf.swapaxes(-1, -2)
    q_size = torch.sqrt(qf.square().sum(-1) / d + 1e-6)
    k_size = torch.sqrt(kf.square().sum(-1) / d + 1e-6)
    s = raw / q_size.unsqueeze(-1) / k_size.unsqueeze(-2) / math.sqrt(d)
    if softcap is not None:
        s = softcap * torch.tanh(s / softcap)
    return s.to(q.dtype)
""",
    ),
    Variant(
        name="one query at a time",
        code="""def qk_norm_scores(q, k, q_weight, k_weight, softcap=None):
    keys = k.float()
    keys = keys / (keys.square().mean(-1, keepdim=True) + 1e-6).sqrt() * k_weight.float()
    rows = []
    for t in range(q.shape[-2]):
        one = q[..., t, :].float()
        one = one / (one.square().mean(-1, keepdim=True) + 1e-6).sqrt() * q_weight.float()
        rows.append((one.unsqueeze(-2) * keys).sum(-1) / math.sqrt(q.shape[-1]))
    scores = torch.stack(rows, dim=-2)
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    return scores.to(dtype=q.dtype)
""",
    ),
)

_XAVIER, _KAIMING = "return gain * math.sqrt(2 / (fan_in + fan_out))", "return gain / math.sqrt(fan_in)"
_KIND_ERROR = """raise ValueError(f"kind must be 'xavier' or 'kaiming', got {kind!r}")"""

INIT_WRONG = (
    Misconception(
        name="xavier: variance instead of standard deviation",
        replace=(_XAVIER, "return gain * 2 / (fan_in + fan_out)"),
        says="2 / (fan_in + fan_out) is the variance. The standard deviation is its root.",
    ),
    Misconception(
        name="kaiming: variance instead of standard deviation",
        replace=(_KAIMING, "return gain / fan_in"),
        says="1 / fan_in is the variance. The standard deviation is its root.",
    ),
    Misconception(
        name="variances",
        replace=(
            _XAVIER + '\n    if kind == "kaiming":\n        ' + _KAIMING,
            'return gain**2 * 2 / (fan_in + fan_out)\n    if kind == "kaiming":\n        return gain**2 / fan_in',
        ),
        says="You return variances. The standard deviations are their roots.",
    ),
    Misconception(
        name="xavier without the 2",
        replace=(_XAVIER, _XAVIER.replace("2 / (fan_in + fan_out)", "1 / (fan_in + fan_out)")),
        says="Xavier divides by the mean of the two fans, (fan_in + fan_out) / 2: there is a 2 above the line.",
    ),
    Misconception(
        name="xavier: bound of the uniform start",
        replace=(_XAVIER, _XAVIER.replace("2 / (fan_in + fan_out)", "6 / (fan_in + fan_out)")),
        says="sqrt(6 / (fan_in + fan_out)) is the bound of the uniform version. The standard deviation has a 2.",
    ),
    Misconception(
        name="kaiming: bound of the uniform start",
        replace=(_KAIMING, "return gain * math.sqrt(3 / fan_in)"),
        says="sqrt(3 / fan_in) is the bound of the uniform version. The standard deviation is 1 / sqrt(fan_in).",
    ),
    Misconception(
        name="kaiming with sqrt(2) built in",
        replace=(_KAIMING, "return gain * math.sqrt(2 / fan_in)"),
        says="The sqrt(2) is the gain for a ReLU. The caller passes it; with gain 1 it is not there.",
    ),
    Misconception(
        name="kaiming over fan_out",
        replace=(_KAIMING, "return gain / math.sqrt(fan_out)"),
        says="You use fan_out. To keep the forward signal, the sum over fan_in inputs counts.",
    ),
    Misconception(
        name="xavier over fan_in alone",
        replace=(_XAVIER, "return gain * math.sqrt(1 / fan_in)"),
        says="That is Kaiming's. Xavier takes the mean of fan_in and fan_out.",
    ),
    Misconception(
        name="xavier: product of the fans",
        replace=(_XAVIER, _XAVIER.replace("2 / (fan_in + fan_out)", "1 / math.sqrt(fan_in * fan_out)")),
        says="You take the geometric mean of the fans. Xavier takes the arithmetic mean.",
    ),
    Misconception(
        name="kinds swapped",
        replace=(
            _XAVIER + '\n    if kind == "kaiming":\n        ' + _KAIMING,
            _KAIMING + '\n    if kind == "kaiming":\n        ' + _XAVIER,
        ),
        says="The two kinds are swapped: Xavier has both fans, Kaiming fan_in alone.",
    ),
    Misconception(
        name="xavier: gain inside the root",
        replace=(_XAVIER, "return math.sqrt(gain * 2 / (fan_in + fan_out))"),
        says="gain multiplies the standard deviation, outside the root.",
    ),
    Misconception(
        name="kaiming: gain inside the root",
        replace=(_KAIMING, "return math.sqrt(gain / fan_in)"),
        says="gain multiplies the standard deviation, outside the root.",
    ),
    Misconception(
        name="gain inside both roots",
        replace=(
            _XAVIER + '\n    if kind == "kaiming":\n        ' + _KAIMING,
            'return math.sqrt(gain * 2 / (fan_in + fan_out))\n    if kind == "kaiming":\n        return math.sqrt(gain / fan_in)',
        ),
        says="gain multiplies the standard deviation, outside the root.",
    ),
    Misconception(
        name="xavier without gain",
        replace=(_XAVIER, "return math.sqrt(2 / (fan_in + fan_out))"),
        says="gain is not used for Xavier.",
    ),
    Misconception(
        name="kaiming without gain",
        replace=(_KAIMING, "return 1 / math.sqrt(fan_in)"),
        says="gain is not used for Kaiming.",
    ),
    Misconception(
        name="gain ignored",
        replace=('if kind == "xavier":', 'gain = 1.0\n    if kind == "xavier":'),
        says="gain is an argument, and you do not use it.",
    ),
    Misconception(
        name="gain divides",
        replace=('if kind == "xavier":', 'gain = 1 / gain\n    if kind == "xavier":'),
        says="A larger gain means larger weights: multiply.",
    ),
    Misconception(
        name="multiplied by the root of fan_in",
        replace=(_KAIMING, "return gain * math.sqrt(fan_in)"),
        says="More inputs, smaller weights: divide by the root of fan_in.",
    ),
    Misconception(
        name="unknown kinds are kaiming",
        replace=(_KIND_ERROR, _KAIMING),
        says="Any other kind must raise ValueError.",
    ),
    Misconception(
        name="unknown kinds are xavier",
        replace=(_KIND_ERROR, _XAVIER),
        says="Any other kind must raise ValueError.",
    ),
    Misconception(
        name="unknown kinds give nothing",
        replace=(_KIND_ERROR, "return None"),
        says="Any other kind must raise ValueError; None would only fail later.",
    ),
    Misconception(
        name="KeyError for unknown kinds",
        replace=(_KIND_ERROR, "raise KeyError(kind)"),
        says="A dict gives KeyError. Promised is ValueError: catch it, or ask first.",
    ),
    Misconception(
        name="assert for unknown kinds",
        replace=(_KIND_ERROR, "raise AssertionError(kind)"),
        says="assert gives AssertionError, and none at all under python -O. Raise ValueError.",
    ),
    Misconception(
        name="xavier: whole-number division",
        replace=(_XAVIER, _XAVIER.replace("2 /", "2 //")),
        says="2 // (fan_in + fan_out) is 0 for any real layer. Use /.",
    ),
    Misconception(
        name="kaiming over both fans",
        replace=(_KAIMING, "return gain * math.sqrt(2 / (fan_in + fan_out))"),
        says="That is Xavier's mean of the fans. Kaiming uses fan_in alone.",
    ),
    Misconception(
        name="xavier upside down",
        replace=(_XAVIER, "return gain * math.sqrt((fan_in + fan_out) / 2)"),
        says="The sum of the fans stands below the line: more connections, smaller weights.",
    ),
)

INIT_RIGHT = (
    Variant(
        name="a dict of fans",
        code="""def init_std(kind, fan_in, fan_out, gain=1.0):
    fans = {"xavier": (fan_in + fan_out) / 2, "kaiming": fan_in}
    if kind not in fans:
        raise ValueError(kind)
    return gain * fans[kind] ** -0.5
""",
    ),
    Variant(
        name="torch, float64",
        code="""def init_std(kind, fan_in, fan_out, gain=1.0):
    if kind == "xavier":
        variance = 2.0 / float(fan_in + fan_out)
    elif kind == "kaiming":
        variance = 1.0 / fan_in
    else:
        raise ValueError(f"unknown kind {kind}")
    return gain * torch.tensor(variance, dtype=torch.float64).sqrt().item()
""",
    ),
    Variant(
        name="from the bound of the uniform start",
        code="""def init_std(kind, fan_in, fan_out, gain=1.0):
    match kind:
        case "xavier":
            bound = gain * math.sqrt(6 / (fan_in + fan_out))
        case "kaiming":
            bound = gain * math.sqrt(3 / fan_in)
        case _:
            raise ValueError("xavier or kaiming")
    return bound / math.sqrt(3)
""",
    ),
    Variant(
        name="numpy",
        code="""def init_std(kind, fan_in, fan_out, gain=1.0):
    import numpy as np
    if kind not in ("xavier", "kaiming"):
        raise ValueError(kind)
    fan = np.mean([fan_in, fan_out]) if kind == "xavier" else np.float64(fan_in)
    return gain / np.sqrt(fan)
""",
    ),
)

_STD = "return base_std / math.sqrt(2 * n_layers)"

RESIDUAL_INIT_WRONG = (
    Misconception(
        name="one write for each layer",
        replace=("2 * n_layers", "n_layers"),
        says="Each layer writes twice, once from attention and once from the feed-forward network: 2 n terms.",
    ),
    Misconception(
        name="no square root",
        replace=(_STD, "return base_std / (2 * n_layers)"),
        says="Variances add, not standard deviations. So the standard deviation shrinks with the root.",
    ),
    Misconception(
        name="the 2 outside the root",
        replace=(_STD, "return base_std / (2 * math.sqrt(n_layers))"),
        says="The 2 counts writes, so it stands under the root with n_layers.",
    ),
    Misconception(
        name="root of everything",
        replace=(_STD, "return math.sqrt(base_std / (2 * n_layers))"),
        says="base_std is a standard deviation already. Only 2 n_layers is under the root.",
    ),
    Misconception(
        name="multiplied",
        replace=(_STD, _STD.replace("/", "*")),
        says="More layers, smaller starts: divide by the root.",
    ),
    Misconception(
        name="2 over n",
        replace=(_STD, "return base_std * math.sqrt(2 / n_layers)"),
        says="The 2 stands below the line with n_layers: there are 2 n writes.",
    ),
    Misconception(
        name="fourth root (DeepNorm)",
        replace=(_STD, "return base_std * (8 * n_layers) ** -0.25"),
        says="That is DeepNorm's constant beta. GPT-2 divides by sqrt(2 n_layers).",
    ),
    Misconception(
        name="variance",
        replace=(_STD, "return base_std**2 / (2 * n_layers)"),
        says="You return the variance. Its root is asked for.",
    ),
    Misconception(
        name="one more layer",
        replace=("2 * n_layers", "2 * n_layers + 1"),
        says="The embedding is not counted: 2 n writes.",
    ),
    Misconception(
        name="base ignored",
        replace=(_STD, _STD.replace("base_std", "0.02")),
        says="base_std is an argument, and you use 0.02 whatever is passed.",
    ),
    Misconception(
        name="whole-number division",
        replace=(_STD, "return base_std / int(math.sqrt(2 * n_layers))"),
        says="The root must not be rounded down to a whole number.",
    ),
)

RESIDUAL_INIT_RIGHT = (
    Variant(
        name="a power",
        code="def residual_init_std(base_std, n_layers):\n    return base_std * (2 * n_layers) ** -0.5\n",
    ),
    Variant(
        name="through the variance",
        code="""def residual_init_std(base_std, n_layers):
    variance = base_std**2 / (n_layers + n_layers)
    return math.sqrt(variance)
""",
    ),
    Variant(
        name="torch",
        code="""def residual_init_std(base_std, n_layers):
    writes = torch.tensor(2.0 * n_layers, dtype=torch.float64)
    return float(base_std * torch.rsqrt(writes))
""",
    ),
    Variant(
        name="numpy",
        code="""def residual_init_std(base_std, n_layers):
    import numpy as np
    return np.float64(base_std) / np.sqrt(2.0) / np.sqrt(n_layers)
""",
    ),
)

EXERCISES = [
    Exercise(
        name="layer_norm",
        reference=_layer_norm,
        cases=_layer_norm_cases,
        forbids=NORM_ROUTINES,
        hints=(
            "Which numbers share a mean? And what happens to 300 squared in float16?",
            "Widen x to float32 (float64 stays). Subtract the mean over dim=-1 with keepdim=True; the variance is the mean of what you get, squared.",
            "h = x.float(); c = h - h.mean(-1, keepdim=True); y = c / sqrt(c.square().mean(-1, keepdim=True) + eps) * weight + bias; return y.to(x.dtype)",
        ),
        misconceptions=LAYER_NORM_WRONG,
        variants=LAYER_NORM_RIGHT,
    ),
    Exercise(
        name="rms_norm",
        reference=_rms_norm,
        cases=_rms_norm_cases,
        forbids=NORM_ROUTINES,
        hints=(
            "Root, mean, square: read it from right to left. What is not in the name?",
            "mean(x**2) over the last dimension, plus eps, under the root. No mean is subtracted. Multiply by the weight before you round.",
            "h = x.float(); return (h / sqrt(h.square().mean(-1, keepdim=True) + eps) * weight.float()).to(x.dtype), in float64 for float64",
        ),
        misconceptions=RMS_NORM_WRONG,
        variants=RMS_NORM_RIGHT,
    ),
    Exercise(
        name="batch_norm_train",
        reference=_batch_norm_train,
        cases=_batch_norm_cases,
        close=NEAR,
        forbids=NORM_ROUTINES,
        hints=(
            "Which two variances are there, and which of them goes where? Whom does momentum weigh?",
            "Mean and biased variance over dim=0 make y. The running variance takes n / (n - 1) times it, detached. New = (1 - momentum) * old + momentum * batch.",
            "y = (x - x.mean(0)) / sqrt(x.var(0, unbiased=False) + eps) * weight + bias; new_var = (1 - momentum) * running_var + momentum * x.var(0).detach()",
        ),
        misconceptions=BATCH_NORM_WRONG,
        variants=BATCH_NORM_RIGHT,
    ),
    Exercise(
        name="rms_norm_backward",
        reference=_rms_norm_backward,
        cases=_backward_cases,
        close=NEAR,
        forbids=NORM_ROUTINES + AUTOGRAD_ROUTINES,
        hints=(
            "If you make all of x a little longer, the result does not change. What does that say about dx?",
            "Let g = dy * weight and x_hat = x / r. dx is g less its part along x_hat, over r; the part is x_hat * mean(g * x_hat).",
            "dx = (g - x_hat * (g * x_hat).mean(-1, keepdim=True)) / r; dweight = (dy * x_hat) summed over everything but the last dimension",
        ),
        misconceptions=BACKWARD_WRONG,
        variants=BACKWARD_RIGHT,
    ),
    Exercise(
        name="residual",
        reference=_residual,
        cases=_residual_cases,
        close=NEAR,
        hints=(
            "Draw the stream as a straight line. Which designs put something on the line itself?",
            "pre and double leave x alone and normalise inside the branch; post and deep normalise the sum. alpha appears once.",
            "Four lines of the table, one for each style, and a raise ValueError below them.",
        ),
        misconceptions=RESIDUAL_WRONG,
        variants=RESIDUAL_RIGHT,
    ),
    Exercise(
        name="qk_norm_scores",
        reference=_qk_norm_scores,
        cases=_qk_cases,
        uses=("rms_norm",),
        close=Close(5e-5, 1e-5),
        forbids=NORM_ROUTINES,
        hints=(
            "Four steps in a fixed order. Which of them needs the width of a head, and which one may be left out?",
            "rms_norm(q.float(), q_weight) and the same for k; matrix product with the last two dimensions of k swapped; / sqrt(D); then the cap if there is one.",
            "s = rms_norm(q.float(), q_weight) @ rms_norm(k.float(), k_weight).transpose(-2, -1) / sqrt(D); s = softcap * tanh(s / softcap); s.to(q.dtype)",
        ),
        misconceptions=QK_WRONG,
        variants=QK_RIGHT,
    ),
    Exercise(
        name="init_std",
        reference=_init_std,
        cases=_init_cases,
        close=NEAR,
        hints=(
            "Is a variance asked for, or its root? A normal start, or a uniform one?",
            "Xavier divides by the mean of both fans under the root, Kaiming by fan_in. gain stands outside.",
            "gain * sqrt(2 / (fan_in + fan_out)), gain / sqrt(fan_in), and raise ValueError for anything else",
        ),
        misconceptions=INIT_WRONG,
        variants=INIT_RIGHT,
    ),
    Exercise(
        name="residual_init_std",
        reference=_residual_init_std,
        cases=_residual_init_cases,
        close=NEAR,
        hints=(
            "How often does one layer add something to the stream?",
            "2 n independent terms: their variances add up. So each variance is divided by 2 n.",
            "base_std / sqrt(2 * n_layers)",
        ),
        misconceptions=RESIDUAL_INIT_WRONG,
        variants=RESIDUAL_INIT_RIGHT,
    ),
]
