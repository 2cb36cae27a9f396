"""Checks of chapter 04: references in float64, cases by rule, and the ways positions go wrong.

The references share no formula with the worked solutions where there is a choice: rotations are products of complex numbers,
pair by pair, slopes and biases are built entry by entry. Angles are promised in float32, so two right answers differ by some
1e-7 of the position; tolerances leave room for that, and the cases make every mistake larger.
"""

import cmath
import math

import torch

from grader.exercise import Case, Close, Code, Exercise, Misconception, Rng, Scenario, Variant

NEAR = Close(2e-5, 2e-6)
"""Float32's rounding, in float64 cases too: inside, float32 is allowed."""
WAVES = Close(2e-5, 3e-5)
"""Sines and cosines of float32 angles up to about 60."""
FAR = Close(0.0, 2e-3)
"""Sines and cosines of float32 angles up to about 5,000."""
EXACT = Close(1e-6, 0.0)
"""Slopes: powers of two, right to the last digits in float32."""


def _theta(i, dim, base):
    return math.exp(-math.log(base) * (2 * i) / dim)


def _sinusoidal(positions, dim, base=10000.0):
    if dim % 2 == 1:
        raise ValueError("odd")
    rows = []
    for p in positions.tolist():
        hands = [cmath.exp(1j * p * _theta(i, dim, base)) for i in range(dim // 2)]
        rows.append([part for hand in hands for part in (hand.imag, hand.real)])
    return torch.tensor(rows, dtype=torch.float64).float()


def _rope_angles(positions, head_dim, base=10000.0):
    if head_dim % 2 == 1:
        raise ValueError("odd")
    rows = [[p * _theta(i, head_dim, base) for i in range(head_dim // 2)] for p in positions.tolist()]
    return torch.tensor(rows, dtype=torch.float64).float()


def _apply_rope(x, angles, layout="interleaved"):
    if layout not in ("interleaved", "half"):
        raise ValueError("layout")
    width = x.shape[-1]
    pairs = [(2 * i, 2 * i + 1) if layout == "interleaved" else (i, width // 2 + i) for i in range(width // 2)]
    columns = [None] * width
    for i, (real, imaginary) in enumerate(pairs):
        point = torch.complex(x[..., real].double(), x[..., imaginary].double())
        turned = point * torch.exp(1j * angles[:, i].double())
        columns[real], columns[imaginary] = turned.real, turned.imag
    return torch.stack(columns, dim=-1).to(x.dtype)


def _half_to_interleaved(weight, n_heads):
    width = weight.shape[0] // n_heads
    source = [h * width + m * (width // 2) + i for h in range(n_heads) for i in range(width // 2) for m in (0, 1)]
    return torch.stack([weight[row] for row in source])


def _position_interpolation(positions, train_len, target_len):
    squeeze = train_len / target_len if target_len > train_len else 1.0
    return torch.tensor([float(p) * squeeze for p in positions.tolist()], dtype=torch.float32)


def _ntk_base(base, scale, head_dim):
    if head_dim <= 2:
        raise ValueError("one pair")
    slowest = math.log(base) * (head_dim - 2) / head_dim + math.log(scale)  # -ln of the wanted slowest frequency
    return math.exp(slowest * head_dim / (head_dim - 2))


def _yarn_inv_freq(head_dim, base, scale, train_len, beta_fast=32.0, beta_slow=1.0):
    out = []
    for i in range(head_dim // 2):
        theta = _theta(i, head_dim, base)
        turns = train_len * theta / math.tau
        if turns >= beta_fast:
            out.append(theta)
        elif turns <= beta_slow:
            out.append(theta / scale)
        else:
            share = (turns - beta_slow) / (beta_fast - beta_slow)
            out.append(share * theta + (1 - share) * theta / scale)
    return torch.tensor(out, dtype=torch.float64).float()


def _yarn_temperature(scale):
    return 1.0 + math.log(max(scale, 1.0)) / 10


def _slope(n_heads, head):
    lower = 2 ** (n_heads.bit_length() - 1)
    exponent = 8 * (head + 1) / lower if head < lower else 8 * (2 * (head - lower) + 1) / (2 * lower)
    return 2.0**-exponent


def _alibi_slopes(n_heads):
    return torch.tensor([_slope(n_heads, h) for h in range(n_heads)], dtype=torch.float64).float()


def _alibi_bias(n_heads, t_q, t_k):
    rows = [[abs(t_k - t_q + i - j) for j in range(t_k)] for i in range(t_q)]
    distance = torch.tensor(rows, dtype=torch.float64)
    return torch.stack([-_slope(n_heads, h) * distance for h in range(n_heads)]).float()


def _case(label, *args, close=None, **more):
    return Case(label=label, args=args, close=close, **more)


def _free(label, *args, close=None, **more):
    """A case in which the result may have any floating dtype."""
    return Case(label=label, args=args, exact_dtype=False, close=close, **more)


def _bad(label, *args, **kwargs):
    return Case(label=label, args=args, kwargs=kwargs, raises=ValueError)


def _turned(x):
    """The same values in another memory order: a view that is not contiguous."""
    return Code("def make(x):\n    return x.transpose(-1, -2).contiguous().transpose(-1, -2)", (x,))


def _every_other(x):
    """The same values as a view with stride 2."""
    return Code("def make(x):\n    return x.repeat_interleave(2)[::2]", (x,))


def _scattered(rng: Rng, count, low=0, high=60):
    """Positions in no order, one of them twice."""
    positions = rng.integers(low, high, count)
    positions[-1] = positions[0]
    return positions


def _position_cases(rng, odd):
    """What sinusoids and angles have in common: (label, positions, dim, more arguments, far)."""
    yield "positions 0 to 4", torch.arange(5), 6, (), False
    yield "position 0 alone", torch.tensor([0]), 4, (), False
    yield "position 1 alone: the frequencies", torch.tensor([1]), 10, (), False
    yield "width 2: one pair", torch.arange(3), 2, (), False
    yield "as many positions as columns", torch.arange(8), 8, (), False
    yield "half as many positions as columns", torch.arange(3), 6, (), False
    yield "width 14", torch.arange(9), 14, (), False
    yield "width 128", torch.tensor([3, 50]), 128, (), False
    yield "positions that start at 17", torch.arange(17, 22), 6, (), False
    yield "positions in no order, one of them twice", _scattered(rng, 7), 10, (), False
    yield "a decoding step: one position, 41", torch.tensor([41]), 6, (), False
    yield (
        "fractional positions, as position interpolation makes them",
        torch.tensor([0.0, 0.25, 0.5, 2.75]),
        6,
        (),
        False,
    )
    yield "positions in float64", rng.uniform(5, high=50.0), 6, (), False
    yield "positions in int32", rng.integers(0, 50, 5).int(), 6, (), False
    yield "positions that are not contiguous", _every_other(torch.arange(5)), 6, (), False
    yield "base 100", torch.arange(7), 6, (100.0,), False
    yield "base 500000", torch.arange(7), 12, (500000.0,), False
    yield "base 7, a whole number", torch.arange(7), 6, (7,), False
    yield "positions near 4000", torch.tensor([4000, 4001, 3999, 2049]), 12, (), True
    yield "positions near 4000, base 500000", torch.tensor([4095.0, 4001.5]), 16, (500000.0,), True


def _sinusoidal_cases(rng):
    for label, positions, dim, more, far in _position_cases(rng, "dim"):
        yield _case(label, positions, dim, *more, close=FAR if far else None)
    yield _case("arguments by name", kwargs={"positions": torch.arange(4), "dim": 6, "base": 50.0})
    for dim in (1, 3, 7, 65):
        yield _bad(f"dim={dim} is odd", torch.arange(4), dim)
    yield _bad("odd dim with a base", torch.arange(4), 5, 100.0)

    def shift(ask):
        positions = torch.tensor([3, 9, 20])
        dots = [ask.call(positions + lift, 12).double() for lift in (0, 7, 31)]
        tables = [dot @ dot.transpose(0, 1) for dot in dots]
        for table in tables[1:]:
            ask.same(table, tables[0], "dot products of two rows must depend on their distance alone", Close(0.0, 1e-3))

    yield Scenario(label="dot products depend on the distance alone", run=shift)


def _rope_angles_cases(rng):
    for label, positions, dim, more, _ in _position_cases(rng, "head_dim"):
        yield _case(label, positions, dim, *more)
    yield _case("arguments by name", kwargs={"positions": torch.arange(4), "head_dim": 6, "base": 50.0})
    for dim in (1, 3, 7, 65):
        yield _bad(f"head_dim={dim} is odd", torch.arange(4), dim)
    yield _bad("odd head_dim with a base", torch.arange(4), 5, 100.0)


def _angles(rng, time, pairs, scale=2.0):
    return rng.normal(time, pairs, dtype=torch.float32, scale=scale)


LAYOUTS = ("interleaved", "half")


def _apply_rope_cases(rng):
    quarter = torch.full((1, 2), math.pi / 2)
    yield _case("one token, a quarter turn, default layout", torch.tensor([[1.0, 2.0, 3.0, 4.0]]), quarter)
    for layout in LAYOUTS:
        one = torch.tensor([[1.0, 2.0, 3.0, 4.0]], dtype=torch.float64)
        yield _case(f"{layout}: one token, one angle other than 0", one, torch.tensor([[0.5, 0.0]]), layout)
        yield _case(f"{layout}: width 2, where the layouts agree", rng.normal(5, 2), _angles(rng, 5, 1), layout)
        yield _case(f"{layout}: (T, D)", rng.normal(5, 6), _angles(rng, 5, 3), layout, grad=(0,))
        yield _case(f"{layout}: (H, T, D)", rng.normal(3, 5, 10), _angles(rng, 5, 5), layout, grad=(0,))
        yield _case(f"{layout}: (B, H, T, D)", rng.normal(2, 3, 5, 6), _angles(rng, 5, 3), layout, grad=(0,))
        yield _case(
            f"{layout}: as many heads as tokens and pairs",
            rng.normal(4, 4, 4, 8),
            _angles(rng, 4, 4),
            layout,
            grad=(0,),
        )
        yield _case(f"{layout}: five leading dimensions", rng.normal(2, 1, 3, 2, 5, 6), _angles(rng, 5, 3), layout)
        yield _case(f"{layout}: angles of 0 turn nothing", rng.normal(3, 5, 6), torch.zeros(5, 3), layout)
        yield _case(f"{layout}: small angles", rng.normal(3, 5, 6), _angles(rng, 5, 3, 1e-2), layout)
        yield _case(
            f"{layout}: one new token at position 41",
            rng.normal(2, 3, 1, 6),
            41.0 * torch.tensor([[1.0, 0.2, 0.04]]),
            layout,
        )
        yield _case(
            f"{layout}: x near 1e-3",
            rng.normal(3, 5, 6, scale=1e-3),
            _angles(rng, 5, 3),
            layout,
            close=Close(2e-5, 1e-8),
        )
        yield _case(
            f"{layout}: x near 300",
            rng.normal(3, 5, 6, scale=300.0),
            _angles(rng, 5, 3),
            layout,
            close=Close(2e-5, 1e-3),
        )
        yield _case(
            f"{layout}: float32", rng.normal(2, 3, 5, 6, dtype=torch.float32), _angles(rng, 5, 3), layout, grad=(0,)
        )
        near_4000 = torch.tensor([4000.0, 3999.0, 2049.0, 4001.0, 3001.0])[:, None] * torch.tensor([1.0, 0.31, 0.1])
        for dtype in (torch.bfloat16, torch.float16):
            x = rng.normal(2, 3, 5, 6, dtype=dtype)
            yield _case(
                f"{layout}: {str(dtype)[6:]} at positions near 4000", x, near_4000, layout, close=Close(2e-2, 2e-2)
            )
        swapped = Code("def make(x):\n    return x.transpose(1, 2)", (rng.normal(2, 5, 3, 6),))
        yield _case(f"{layout}: heads and time swapped by a transpose", swapped, _angles(rng, 5, 3), layout)
        expanded = Code("def make(x):\n    return x.expand(4, 3, 5, 6)", (rng.normal(1, 3, 5, 6),))
        yield _case(f"{layout}: one sequence expanded to a batch", expanded, _angles(rng, 5, 3), layout)
    yield _case("layout by name", rng.normal(3, 5, 6), _angles(rng, 5, 3), kwargs={"layout": "half"})
    yield _case("no layout given: interleaved", rng.normal(3, 5, 6), _angles(rng, 5, 3))
    for layout in ("neox", "", "Half", "split", "interleave", None):
        yield _bad(f"layout={layout!r} does not exist", rng.normal(3, 5, 6), _angles(rng, 5, 3), layout)

    def invariants(ask):
        for layout in LAYOUTS:
            q, k, theta = rng.normal(1, 6), rng.normal(1, 6), torch.tensor([[1.0, 0.3, 0.01]])
            score = {}
            for m, n in ((7, 3), (24, 20), (4, 0)):
                score[m, n] = (ask.call(q, m * theta, layout) * ask.call(k, n * theta, layout)).sum()
            first = score[7, 3]
            for other in score.values():
                ask.same(
                    other, first, f"{layout}: q at m and k at n must score the same for equal m - n", Close(1e-4, 1e-4)
                )
            x = rng.normal(3, 5, 6)
            length = ask.call(x, _angles(rng, 5, 3), layout).norm(dim=-1)
            ask.same(length, x.norm(dim=-1), f"{layout}: the length of every vector must stay", Close(1e-4, 1e-5))

    yield Scenario(label="scores depend on m - n alone, lengths stay", run=invariants)


def _half_to_interleaved_cases(rng):
    yield _case("a bias of one head of width 4", torch.tensor([10, 20, 11, 21]), 1)
    yield _case("a bias of one head of width 6", torch.arange(6), 1)
    yield _case("a bias of two heads of width 6", torch.arange(12), 2)
    yield _case("one head of width 2: nothing moves", rng.normal(2, 5), 1)
    yield _case("three heads of width 2: nothing moves", rng.normal(6, 5), 3)
    yield _case("one head of width 10", rng.normal(10, 7), 1, grad=(0,))
    yield _case("three heads of width 6, E = 11", rng.normal(18, 11), 3, grad=(0,))
    yield _case("six heads of width 4", rng.normal(24, 7), 6)
    yield _case("two heads of width 14", rng.normal(28, 5), 2)
    yield _case("four heads of width 8, E = 32: a square matrix", rng.normal(32, 32), 4, grad=(0,))
    yield _case("more columns than rows", rng.normal(12, 30), 3)
    yield _case("a bias in float32", rng.normal(18, dtype=torch.float32), 3, grad=(0,))
    yield _case("bfloat16", rng.normal(18, 5, dtype=torch.bfloat16), 3)
    yield _case("one column only", rng.normal(18, 1), 3)
    yield _case("a matrix that is not contiguous", _turned(rng.normal(18, 11)), 3)
    yield _case("arguments by name", kwargs={"weight": rng.normal(18, 7), "n_heads": 3})

    def same_scores(ask):
        time, width, heads, kv_heads, dim = 5, 7, 4, 2, 6
        x, w_q, w_k = rng.normal(time, width), rng.normal(heads * dim, width), rng.normal(kv_heads * dim, width)
        angles = torch.arange(time).float()[:, None] * torch.tensor([1.0, 0.3, 0.01])

        def scores(queries, keys, layout):
            q = _apply_rope((x @ queries.T).reshape(time, heads, dim).transpose(0, 1), angles, layout)
            k = _apply_rope((x @ keys.T).reshape(time, kv_heads, dim).transpose(0, 1), angles, layout)
            return q @ k.repeat_interleave(heads // kv_heads, 0).transpose(-1, -2)

        want = scores(w_q, w_k, "half")
        got = scores(ask.call(w_q, heads).reshape(w_q.shape), ask.call(w_k, kv_heads).reshape(w_k.shape), "interleaved")
        ask.same(got, want, "q·k in the interleaved layout must be what it was in the half layout")

    yield Scenario(label="scores of four query heads and two key heads stay the same", run=same_scores)


def _position_interpolation_cases(rng):
    yield _case("twice as long", torch.arange(8), 4, 8)
    yield _case("four times as long", torch.arange(10), 16, 64)
    yield _case("2.5 times as long", torch.arange(10), 4, 10)
    yield _case("1.5 times as long: the factor is not rounded", torch.arange(6), 4, 6)
    yield _case("a little longer, 100 to 101", torch.arange(95, 101), 100, 101)
    yield _case("equally long: nothing changes", torch.arange(6), 6, 6)
    yield _case("a shorter text is not stretched", torch.arange(4), 16, 4)
    yield _case("much shorter", torch.tensor([0, 3, 7]), 2048, 8)
    yield _case("a text of one token", torch.tensor([0]), 16, 1)
    yield _case("train_len = 1", torch.arange(3), 1, 3)
    yield _case("positions in no order, one of them twice", _scattered(rng, 7, high=40), 12, 40)
    yield _case("the last tokens of a long text", torch.arange(8190, 8192), 2048, 8192)
    yield _case("a decoding step: one position of a long text", torch.tensor([5000]), 2048, 8192)
    yield _case("all positions below train_len, in a long text", torch.arange(5), 2048, 8192)
    yield _case("positions of a text of 131072 tokens", torch.tensor([131071, 70001, 3]), 4096, 131072)
    yield _case("fractional positions", torch.tensor([0.5, 2.25, 7.75]), 4, 8)
    yield _case("float64 positions become float32", rng.uniform(5, high=30.0), 10, 30)
    yield _case("float64 positions of a short text", rng.uniform(5, high=9.0), 10, 9)
    yield _case("float32 positions of a short text", torch.tensor([0.5, 2.25, 7.75]), 40, 8)
    yield _case("int32 positions", torch.arange(6).int(), 4, 6)
    yield _case("positions that are not contiguous", _every_other(torch.arange(6)), 4, 6)
    yield _case("arguments by name", kwargs={"positions": torch.arange(6), "train_len": 4, "target_len": 6})


def _ntk_base_cases(rng):
    yield _case("head_dim 4, twice as long", 10000.0, 2.0, 4)
    yield _case("head_dim 128, four times as long", 10000.0, 4.0, 128)
    yield _case("head_dim 6, eight times as long", 10000.0, 8.0, 6)
    yield _case("head_dim 10, 2.5 times as long", 500000.0, 2.5, 10)
    yield _case("head_dim 64, base 100", 100.0, 16.0, 64)
    yield _case("scale 1: the base stays", 10000.0, 1.0, 64)
    yield _case("scale 32", 10000.0, 32.0, 80)
    yield _case("whole numbers", 10000, 3, 8)
    yield _case(
        "other numbers", rng.uniform(1, low=50.0, high=5000.0).item(), 1.0 + rng.uniform(1, high=9.0).item(), 14
    )
    yield _case("arguments by name", kwargs={"base": 1000.0, "scale": 3.0, "head_dim": 12})
    for head_dim in (2, 1, 0, -4):
        yield _bad(f"head_dim={head_dim}", 10000.0, 4.0, head_dim)
    yield _bad("head_dim=2 and scale 1", 10000.0, 1.0, 2)

    def slowest(ask):
        for dim, scale in ((4, 2.0), (10, 5.0), (128, 8.0)):
            ratio = ask.call(10000.0, scale, dim) / 10000.0
            ask.same(
                float(ratio) ** ((dim - 2) / dim),
                scale,
                "the slowest frequency must become exactly `scale` times slower",
            )

    yield Scenario(label="the slowest frequency is divided by scale", run=slowest)


def _yarn_cases(rng):
    yield _free("a head of 16, four times as long", 16, 10000.0, 4.0, 2048)
    yield _free("a head of 128 as in Llama 2", 128, 10000.0, 16.0, 4096)
    yield _free("a head of 6: one pair in each part", 6, 1000.0, 4.0, 500)
    yield _free("scale 1 changes nothing", 16, 10000.0, 1.0, 2048)
    yield _free("scale 2.5", 20, 10000.0, 2.5, 1000)
    yield _free("scale 32 with base 500000", 64, 500000.0, 32.0, 8192)
    yield _free("a short training length: every pair below 32 turns", 16, 10000.0, 4.0, 64)
    yield _free("a shorter one: no pair turns once", 8, 100.0, 4.0, 5)
    yield _free("a long training length: every pair turns often", 8, 10.0, 4.0, 100_000)
    yield _free("width 2: one pair", 2, 10000.0, 4.0, 100)
    yield _free("beta_fast=16, beta_slow=2", 24, 10000.0, 8.0, 1024, 16.0, 2.0)
    yield _free("beta_fast=5.5, beta_slow=0.25", 24, 10000.0, 8.0, 300, 5.5, 0.25)
    yield _free("beta_slow=0: only a clock that stands still is divided in full", 24, 10000.0, 8.0, 300, 20.0, 0.0)
    yield _free("beta_fast by name", 24, 10000.0, 8.0, 300, kwargs={"beta_fast": 9.0})
    yield _free("beta_slow by name", 24, 10000.0, 8.0, 300, kwargs={"beta_slow": 4.0})
    yield _free("a ramp as narrow as one turn", 32, 10000.0, 8.0, 300, 3.0, 2.0)
    yield _free("whole numbers", 24, 1000, 3, 512, 10, 2)
    yield _free(
        "other numbers",
        26,
        rng.uniform(1, low=500.0, high=50000.0).item(),
        1.5 + rng.uniform(1, high=8.0).item(),
        rng.integer(200, 3000),
    )

    def bounds(ask):
        got = ask.call(64, 10000.0, 8.0, 2048).double()
        plain = torch.tensor([_theta(i, 64, 10000.0) for i in range(32)], dtype=torch.float64)
        ask.same(
            got[0], plain[0], "the fastest pair turns 326 times in training and must be left alone", Close(1e-4, 1e-6)
        )
        ask.same(
            got[-1], plain[-1] / 8, "the slowest pair never turns once and must be divided by scale", Close(1e-4, 1e-9)
        )

    yield Scenario(label="fast pairs stay, slow pairs are divided by scale", run=bounds)


def _yarn_temperature_cases(rng):
    yield _case("scale 4", 4.0)
    yield _case("scale e: 1.1", math.e)
    yield _case("scale 32", 32.0)
    yield _case("scale 1: 1", 1.0)
    yield _case("scale 1.5", 1.5)
    yield _case("scale 1.01", 1.01)
    yield _case("scale 1000", 1000.0)
    yield _case("a whole number", 16)
    yield _case("scale 0.5: 1", 0.5)
    yield _case("scale 0.01: 1", 0.01)
    yield _case("scale 0: 1", 0.0)
    yield _case("a negative scale: 1", -2.0)
    yield _case("another scale", 1.0 + rng.uniform(1, high=60.0).item())
    yield _case("by name", kwargs={"scale": 8.0})


def _alibi_slopes_cases(rng):
    for n_heads in (8, 1, 2, 4, 16, 32, 64):
        yield _free(f"{n_heads} head{'s' * (n_heads > 1)}: a power of two", n_heads)
    for n_heads in (3, 6, 12, 5, 7, 9, 13, 20, 40, 71):
        yield _free(f"{n_heads} heads", n_heads)
    yield _free("by name", kwargs={"n_heads": 24})


def _alibi_bias_cases(rng):
    yield _case("one head, one query, three keys", 1, 1, 3)
    yield _case("two heads, three tokens", 2, 3, 3)
    yield _case("four heads, five tokens", 4, 5, 5)
    yield _case("as many heads as tokens", 4, 4, 4)
    yield _case("two queries, seven keys: aligned at the end", 4, 2, 7)
    yield _case("five queries, six keys", 2, 5, 6)
    yield _case("a decoding step: one query, nine keys", 8, 1, 9)
    yield _case("one token", 4, 1, 1)
    yield _case("six heads: not a power of two", 6, 3, 5)
    yield _case("three heads, as many as queries", 3, 3, 4)
    yield _case("three heads, five queries", 3, 5, 5)
    yield _case("twelve heads", 12, 4, 7)
    yield _case("distances up to 4200", 3, 2, 4201)
    yield _case("eight heads, sixteen tokens", 8, 16, 16)
    yield _case("by name", kwargs={"n_heads": 4, "t_q": 2, "t_k": 3})
    yield _case("other sizes", rng.integer(1, 9), 3, 3 + rng.integer(1, 6))


def wrong(name, says, *replace, code="", same_as=()):
    """A misconception from two replacement texts, or from whole code."""
    return Misconception(name=name, says=says, code=code, replace=replace or None, same_as=same_as)


def right(name, code):
    return Variant(name=name, code=code)


_S_PAIR = "pair = torch.arange(dim // 2, dtype=torch.float64)"
_S_ANGLES = "angles = positions.double()[:, None] * base ** (-2 * pair / dim)"
_S_END = "torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(-2).float()"

SINUSOIDAL_WRONG = (
    wrong(
        "sines first, then cosines",
        "All your sines stand on the left, all cosines on the right. Here they take turns: sin on even columns, cos on odd ones.",
        _S_END,
        "torch.cat((angles.sin(), angles.cos()), dim=-1).float()",
    ),
    wrong(
        "cosine on even columns",
        "Sine and cosine are swapped: even columns hold the sine. At position 0 the first column must be 0.",
        "(angles.sin(), angles.cos())",
        "(angles.cos(), angles.sin())",
    ),
    wrong(
        "exponent i / d",
        "Your clocks slow down half as fast as they should: the exponent of pair i is 2i / dim, not i / dim.",
        "-2 * pair / dim",
        "-pair / dim",
    ),
    wrong(
        "exponent over all columns",
        "Sine and cosine of one pair must have the same angle. You give each column its own frequency: the exponent of columns 2i and 2i + 1 is 2i / dim for both.",
        code="def sinusoidal(positions, dim, base=10000.0):\n    if dim % 2:\n        raise ValueError('odd')\n    column = torch.arange(dim, dtype=torch.float64)\n    angles = positions.double()[:, None] * base ** (-column / dim)\n    out = angles.sin()\n    out[:, 1::2] = angles[:, 1::2].cos()\n    return out.float()\n",
    ),
    wrong(
        "exponent 4i / d",
        "The factor 2 is in the exponent twice: arange(0, dim, 2) already counts in twos.",
        "-2 * pair / dim",
        "-4 * pair / dim",
    ),
    wrong(
        "exponent over half the width",
        "The exponent is 2i / dim with the full dim. You divide by dim / 2 and 2i: the clocks slow down twice too fast.",
        "-2 * pair / dim",
        "-2 * pair / (dim // 2)",
        same_as=("exponent 4i / d",),
    ),
    wrong(
        "exponent with d - 2",
        "You divide by dim - 2, so that the last frequency is exactly 1 / base. In the formula it is dim.",
        "-2 * pair / dim",
        "-2 * pair / max(dim - 2, 1)",
    ),
    wrong(
        "pairs counted from 1",
        "Pairs count from 0: the first one turns by 1 radian a position. Yours begins one step too slow.",
        _S_PAIR,
        "pair = torch.arange(1, dim // 2 + 1, dtype=torch.float64)",
    ),
    wrong(
        "positions counted from 1",
        "Position 0 must give sin 0 = 0 and cos 0 = 1. You add 1 to each position.",
        "positions.double()[:, None]",
        "(positions.double()[:, None] + 1)",
    ),
    wrong(
        "positions ignored",
        "You count 0, 1, 2, ... yourself. Use the positions that are handed over: they may start at 17, repeat, or be out of order.",
        "positions.double()[:, None]",
        "torch.arange(len(positions)).double()[:, None]",
    ),
    wrong(
        "table looked up by whole positions",
        "You turn positions into whole numbers. Position interpolation hands over 0.25 and 0.5, and they must stay what they are.",
        "positions.double()[:, None]",
        "positions.long().double()[:, None]",
    ),
    wrong("base ignored", "Your base is always 10000. Use the argument.", "base ** (", "10000.0 ** ("),
    wrong(
        "frequencies above 1",
        "The sign of the exponent is missing: each pair must turn more slowly than the one before, not faster.",
        "(-2 * pair / dim)",
        "(2 * pair / dim)",
    ),
    wrong(
        "divided by 2 pi",
        "The angles are radians already. There is no 2 pi in the formula.",
        _S_ANGLES,
        _S_ANGLES + " / (2 * math.pi)",
    ),
    wrong(
        "multiplied by 2 pi",
        "The angles are radians already. There is no 2 pi in the formula.",
        _S_ANGLES,
        _S_ANGLES + " * 2 * math.pi",
    ),
    wrong(
        "whole division in the exponent",
        "-2 * i // dim is a whole number, so all pairs get the same few frequencies. Use / for the exponent.",
        "-2 * pair / dim",
        "-2 * pair // dim",
    ),
    wrong(
        "odd dim accepted",
        "An odd width has one column without a partner. Raise ValueError.",
        "if dim % 2:",
        "if False:",
        same_as=("odd dim cut off",),
    ),
    wrong(
        "odd dim cut off",
        "An odd dim must raise ValueError. You return a table of another width.",
        "if dim % 2:",
        "if dim < 2:",
    ),
    wrong(
        "angles in bfloat16",
        "bfloat16 cannot tell position 4000 from 4001. Compute angles in float32 or better.",
        _S_ANGLES,
        "angles = (positions.bfloat16()[:, None] * (base ** (-2 * pair / dim)).bfloat16()).double()",
    ),
    wrong(
        "angles in float16",
        "float16 has 11 significant bits: at position 4000 the angle is off by a radian. Compute angles in float32 or better.",
        _S_ANGLES,
        "angles = (positions.half()[:, None] * (base ** (-2 * pair / dim)).half()).double()",
    ),
    wrong("float64 returned", "The table must be float32. Convert at the end.", ".flatten(-2).float()", ".flatten(-2)"),
    wrong("transposed", "You return (dim, T). Rows are positions, columns are dimensions.", _S_END, _S_END + ".T"),
    wrong(
        "a batch dimension in front",
        "You return (1, T, dim). No leading dimension is asked for.",
        _S_END,
        _S_END + "[None]",
    ),
    wrong(
        "logarithm to base 10",
        "exp needs the natural logarithm of the base. log10 makes every clock but the first too fast.",
        "base ** (-2 * pair / dim)",
        "torch.exp(-2 * pair / dim * math.log10(base))",
    ),
    wrong(
        "cosine of the next position",
        "Sine and cosine of a pair belong to the same angle. Your cosine stands one position further.",
        "(angles.sin(), angles.cos())",
        "(angles.sin(), (positions.double()[:, None] + 1).mul(base ** (-2 * pair / dim)).cos())",
    ),
    wrong(
        "scaled by the width",
        "No factor stands before sine and cosine: each pair has length 1.",
        _S_END,
        _S_END + " * math.sqrt(2 / dim)",
    ),
    wrong(
        "divided by the largest position",
        "You divide by the largest position. Then the same position looks different in another text.",
        "positions.double()[:, None]",
        "positions.double()[:, None] / positions.max().clamp(min=1)",
    ),
)

SINUSOIDAL_RIGHT = (
    right(
        "exp of a logarithm, filled in",
        """def sinusoidal(positions, dim, base=10000.0):
    if dim % 2 != 0:
        raise ValueError(f"dim must be even, got {dim}")
    pe = torch.zeros(len(positions), dim)
    div_term = torch.exp(torch.arange(0, dim, 2).float() * (-math.log(base) / dim))
    pe[:, 0::2] = torch.sin(positions.unsqueeze(1) * div_term)
    pe[:, 1::2] = torch.cos(positions.unsqueeze(1) * div_term)
    return pe.float()
""",
    ),
    right(
        "loops and the math module",
        """def sinusoidal(positions, dim, base=10000.0):
    if dim % 2:
        raise ValueError("dim must be even")
    rows = []
    for p in positions.tolist():
        row = []
        for column in range(dim):
            angle = p / base ** (2 * (column // 2) / dim)
            row.append(math.cos(angle) if column % 2 else math.sin(angle))
        rows.append(row)
    return torch.tensor(rows, dtype=torch.float32)
""",
    ),
    right(
        "NumPy, outer product",
        """def sinusoidal(positions, dim, base=10000.0):
    import numpy as np
    if dim % 2 == 1:
        raise ValueError("dim must be even")
    angles = np.outer(positions.numpy().astype(np.float64), 1.0 / np.power(float(base), np.arange(0, dim, 2) / dim))
    table = np.empty((len(angles), dim), dtype=np.float32)
    table[:, 0::2], table[:, 1::2] = np.sin(angles), np.cos(angles)
    return torch.from_numpy(table)
""",
    ),
    right(
        "a sine with a phase of a quarter turn",
        """def sinusoidal(positions, dim, base=10000.0):
    if dim % 2:
        raise ValueError("dim must be even")
    column = torch.arange(dim)
    inv_freq = torch.pow(torch.tensor(float(base)), -(column - column % 2).float() / dim)
    return torch.sin(torch.einsum("t,d->td", positions.float(), inv_freq).double() + (column % 2) * math.pi / 2).float()
""",
    ),
)

_A_FREQ = "inv_freq = base ** (-torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim)"
_A_END = "positions.float()[:, None] * inv_freq.float()"

ROPE_ANGLES_WRONG = (
    wrong(
        "exponent i / d",
        "The exponent of pair i is 2i / head_dim. Yours is i / head_dim, so the clocks slow down half as fast.",
        _A_FREQ,
        "inv_freq = base ** (-torch.arange(head_dim // 2, dtype=torch.float64) / head_dim)",
    ),
    wrong(
        "exponent 4i / d",
        "The factor 2 is in the exponent twice: arange(0, head_dim, 2) already counts in twos.",
        "/ head_dim)\n",
        "* 2 / head_dim)\n",
    ),
    wrong(
        "exponent with d - 2",
        "You divide by head_dim - 2, so that the last frequency is exactly 1 / base. In the formula it is head_dim.",
        "/ head_dim)\n",
        "/ max(head_dim - 2, 1))\n",
    ),
    wrong(
        "pairs counted from 1",
        "Pairs count from 0: the angles of the first pair are the positions themselves.",
        _A_FREQ,
        "inv_freq = base ** (-2 * torch.arange(1, head_dim // 2 + 1, dtype=torch.float64) / head_dim)",
    ),
    wrong(
        "positions counted from 1",
        "Position 0 must not turn at all. You add 1 to each position. Tests of relative positions cannot see it, a checkpoint can.",
        "positions.float()[:, None]",
        "(positions.float()[:, None] + 1)",
    ),
    wrong(
        "positions ignored",
        "You count 0, 1, 2, ... yourself. Use the positions that are handed over: in a decoding step there is one, and it is not 0.",
        "positions.float()[:, None]",
        "torch.arange(len(positions)).float()[:, None]",
    ),
    wrong(
        "whole positions",
        "You turn positions into whole numbers. Position interpolation hands over fractions.",
        "positions.float()[:, None]",
        "positions.long().float()[:, None]",
    ),
    wrong(
        "positions measured from the first",
        "You subtract the first position. A decoding step at position 41 would then stand at 0.",
        "positions.float()[:, None]",
        "(positions - positions[0]).float()[:, None]",
    ),
    wrong(
        "positions sorted",
        "You sort the positions. Row t belongs to positions[t], in whatever order they come.",
        "positions.float()[:, None]",
        "positions.float().sort().values[:, None]",
    ),
    wrong(
        "each angle twice, side by side",
        "One angle for each pair of columns: (T, head_dim / 2). You repeat each of them.",
        _A_END,
        "(" + _A_END + ").repeat_interleave(2, dim=-1)",
    ),
    wrong(
        "all angles twice",
        "One angle for each pair of columns: (T, head_dim / 2). You append a copy, as released code does for its cosines.",
        _A_END,
        "(" + _A_END + ").repeat(1, 2)",
    ),
    wrong("base ignored", "Your base is always 10000. Use the argument.", "base ** (", "10000.0 ** ("),
    wrong(
        "frequencies above 1",
        "The sign of the exponent is missing: each pair must turn more slowly than the one before.",
        "(-torch.arange(",
        "(torch.arange(",
    ),
    wrong(
        "slowest first",
        "Your frequencies are in reversed order. The first pair is the fastest: 1 radian a position.",
        "* inv_freq.float()",
        "* inv_freq.float().flip(0)",
    ),
    wrong(
        "wrapped into one turn",
        "You reduce the angles modulo 2 pi. The rotation would be the same, but here the plain angles are asked for.",
        _A_END,
        "(" + _A_END + ") % (2 * math.pi)",
    ),
    wrong("degrees", "Angles are in radians; yours are in degrees.", _A_END, "torch.rad2deg(" + _A_END + ")"),
    wrong("divided by 2 pi", "You return turns. Angles are in radians: no 2 pi.", _A_END, _A_END + " / (2 * math.pi)"),
    wrong("cosines", "You return the cosines. The angles themselves are asked for.", _A_END, "(" + _A_END + ").cos()"),
    wrong(
        "frequencies in bfloat16",
        "You round to bfloat16, which keeps 8 significant bits. At position 4000 the angle is then off by several radians.",
        _A_END,
        "(positions.bfloat16()[:, None] * inv_freq.bfloat16()).float()",
    ),
    wrong(
        "frequencies in float16",
        "You round to float16. At position 4000 the angle is off by a radian, and small frequencies lose most of their digits.",
        "inv_freq.float()",
        "inv_freq.half().float()",
    ),
    wrong(
        "float64 returned",
        "The angles must be float32.",
        "positions.float()[:, None] * inv_freq.float()",
        "positions.double()[:, None] * inv_freq",
    ),
    wrong(
        "dtype of the positions",
        "Whole positions give whole angles in your code. Compute in float32 and return float32.",
        _A_END,
        "(" + _A_END + ").to(positions.dtype)",
    ),
    wrong(
        "odd head_dim accepted",
        "An odd head has one column without a partner. Raise ValueError.",
        "if head_dim % 2:",
        "if False:",
    ),
    wrong(
        "odd head_dim fails another way",
        "An odd head_dim must raise ValueError. An assert raises AssertionError, which callers do not expect.",
        "if head_dim % 2:",
        "assert head_dim % 2 == 0\n    if False:",
    ),
    wrong("transposed", "You return (pairs, T). Rows are positions.", _A_END, "(" + _A_END + ").T"),
    wrong(
        "straight line instead of powers",
        "Frequencies form a geometric series: each is the same factor slower than the one before. Yours fall in equal steps.",
        _A_FREQ,
        "inv_freq = 1 - torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim * (1 - 1 / base)",
    ),
    wrong(
        "cut off at 2048",
        "Positions beyond your table are all taken for its end. Compute angles from the positions themselves.",
        "positions.float()[:, None]",
        "positions.float().clamp(max=2048)[:, None]",
    ),
    wrong(
        "positions plus frequencies",
        "The angle is the product of position and frequency, not the sum.",
        _A_END,
        "positions.float()[:, None] + inv_freq.float()",
    ),
)

ROPE_ANGLES_RIGHT = (
    right(
        "torch.outer",
        """def rope_angles(positions, head_dim, base=10000.0):
    if head_dim % 2 != 0:
        raise ValueError("head_dim must be even")
    inv_freq = 1.0 / (base ** (torch.arange(0, head_dim, 2).float() / head_dim))
    return torch.outer(positions.float(), inv_freq)
""",
    ),
    right(
        "einsum, exp of a logarithm",
        """def rope_angles(positions, head_dim, base=10000.0):
    half, odd = divmod(head_dim, 2)
    if odd:
        raise ValueError("head_dim must be even")
    inv_freq = torch.exp(-math.log(base) * torch.arange(half, dtype=torch.float32) / half)
    return torch.einsum("t,r->tr", positions.to(torch.float32), inv_freq)
""",
    ),
    right(
        "loops",
        """def rope_angles(positions, head_dim, base=10000.0):
    if head_dim % 2:
        raise ValueError("head_dim must be even")
    out = torch.zeros(len(positions), head_dim // 2)
    for t in range(len(positions)):
        for i in range(head_dim // 2):
            out[t, i] = float(positions[t]) * base ** (-2 * i / head_dim)
    return out
""",
    ),
    right(
        "a running product",
        """def rope_angles(positions, head_dim, base=10000.0):
    if head_dim & 1:
        raise ValueError("head_dim must be even")
    step, theta, columns = base ** (-2 / head_dim), 1.0, []
    for _ in range(head_dim // 2):
        columns.append(positions.double() * theta)
        theta *= step
    return torch.stack(columns, 1).float()
""",
    ),
)

_R_INTER = "torch.stack((a * cos - b * sin, b * cos + a * sin), dim=-1).flatten(-2)"
_R_HALF = "torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1)"


def _rope_code(interleaved, half, head="", tail="return turned.to(x.dtype)", default="interleaved"):
    """apply_rope with one expression for each layout in place of the solution's."""
    return f'''def apply_rope(x, angles, layout="{default}"):
    {head or "pass"}
    cos, sin = angles.cos(), angles.sin()
    if layout == "interleaved":
        a, b = x[..., 0::2], x[..., 1::2]
        turned = {interleaved}
    elif layout == "half":
        a, b = x.chunk(2, dim=-1)
        turned = {half}
    else:
        raise ValueError("layout")
    {tail}
'''


def _both(formula_a, formula_b):
    return _rope_code(
        f"torch.stack(({formula_a}, {formula_b}), dim=-1).flatten(-2)", f"torch.cat(({formula_a}, {formula_b}), dim=-1)"
    )


APPLY_ROPE_WRONG = (
    wrong(
        "layouts swapped",
        "Your two layouts are swapped: interleaved pairs columns 2i and 2i + 1, half pairs i and i + D/2.",
        code=_rope_code(
            _R_INTER, _R_HALF, 'layout = {"interleaved": "half", "half": "interleaved"}.get(layout, layout)'
        ),
    ),
    wrong(
        "half layout for both",
        "You pair columns i and i + D/2 whatever the layout says. The default is interleaved: pairs (0, 1), (2, 3), ...",
        code=_rope_code(_R_HALF, _R_HALF, "a, b = x.chunk(2, dim=-1)").replace(
            "a, b = x[..., 0::2], x[..., 1::2]", "a, b = x.chunk(2, dim=-1)"
        ),
    ),
    wrong(
        "interleaved layout for both",
        "You pair neighbours whatever the layout says. The half layout pairs columns i and i + D/2.",
        code=_rope_code(_R_INTER, _R_INTER).replace("a, b = x.chunk(2, dim=-1)", "a, b = x[..., 0::2], x[..., 1::2]"),
    ),
    wrong(
        "default is half",
        "Without a layout the interleaved one is asked for. Yours defaults to half.",
        code=_rope_code(_R_INTER, _R_HALF, default="half"),
    ),
    wrong(
        "interleaved pairs, result in halves",
        "Your interleaved rotation is right, but you write the results into two halves. Each must stay in the columns that it came from: stack and flatten, not cat.",
        _R_INTER,
        _R_HALF,
    ),
    wrong(
        "half pairs, result interleaved",
        "Your half rotation is right, but you write the results side by side. Each must stay in its half: cat, not stack.",
        _R_HALF,
        _R_INTER,
    ),
    wrong(
        "turned the other way",
        "You turn by minus the angle: the sines have the opposite sign. Scores do not see it, checkpoints do.",
        code=_both("a * cos + b * sin", "b * cos - a * sin"),
    ),
    wrong(
        "both sines with plus",
        "A rotation has one minus: a cos - b sin. With two plus signs lengths do not stay.",
        code=_both("a * cos + b * sin", "b * cos + a * sin"),
    ),
    wrong(
        "both sines with minus",
        "The second member gets plus a sin. With two minus signs lengths do not stay.",
        code=_both("a * cos - b * sin", "b * cos - a * sin"),
    ),
    wrong(
        "cosines and sines swapped",
        "Sines and cosines are swapped: an angle of 0 must turn nothing.",
        code=_both("a * sin - b * cos", "b * sin + a * cos"),
    ),
    wrong(
        "only the cosines",
        "You scale each column by a cosine. A rotation also mixes in the partner, with the sine.",
        code=_both("a * cos", "b * cos"),
    ),
    wrong(
        "the partner is missing",
        "The sine must multiply the partner's column, not the same one.",
        code=_both("a * cos - a * sin", "b * cos + b * sin"),
    ),
    wrong(
        "second member from the turned first",
        "You overwrite a before b has used it. Compute both new values from the old ones.",
        code=_both("a * cos - b * sin", "b * cos + (a * cos - b * sin) * sin"),
    ),
    wrong(
        "second member unchanged",
        "Both columns of a pair turn. You return the second one as it was.",
        code=_both("a * cos - b * sin", "b"),
    ),
    wrong(
        "sinusoids added", "You add the sinusoids to x. RoPE multiplies: it turns x.", code=_both("a + sin", "b + cos")
    ),
    wrong(
        "another angle in each half of the columns",
        "cat((angles, angles)) belongs to the half layout. In the interleaved one columns 2i and 2i + 1 share angle i: repeat_interleave.",
        code=_rope_code(
            "x * torch.cat((cos, cos), -1) + torch.stack((-b, a), -1).flatten(-2) * torch.cat((sin, sin), -1)", _R_HALF
        ),
    ),
    wrong(
        "angles repeated side by side for halves",
        "repeat_interleave belongs to the interleaved layout. In the half layout columns i and i + D/2 share angle i: cat((angles, angles)).",
        code=_rope_code(
            _R_INTER, "x * cos.repeat_interleave(2, -1) + torch.cat((-b, a), -1) * sin.repeat_interleave(2, -1)"
        ),
    ),
    wrong(
        "rotate_half with the sign on the wrong half",
        "rotate_half is (-second, first). You negate the first half, which turns the other way.",
        code=_rope_code(_R_INTER, "x * torch.cat((cos, cos), -1) + torch.cat((b, -a), -1) * torch.cat((sin, sin), -1)"),
    ),
    wrong(
        "rotate_half without a swap",
        "rotate_half swaps the halves: (-second, first). You negate without swapping.",
        code=_rope_code(_R_INTER, "x * torch.cat((cos, cos), -1) + torch.cat((-a, b), -1) * torch.cat((sin, sin), -1)"),
    ),
    wrong(
        "angles by head",
        "Row t of the angles belongs to token t, the second dimension from the end. You use it for the heads.",
        code=_rope_code(
            _R_INTER, _R_HALF, "angles = angles[:, None, :] if x.dim() > 2 and x.shape[-3] == len(angles) else angles"
        ),
    ),
    wrong(
        "one angle for all tokens",
        "Every token has its own angles. You use the first row for all.",
        code=_rope_code(_R_INTER, _R_HALF, "angles = angles[:1]"),
    ),
    wrong(
        "one angle for all pairs",
        "Every pair has its own angle. You use the first column for all.",
        code=_rope_code(_R_INTER, _R_HALF, "angles = angles[:, :1]"),
    ),
    wrong(
        "pairs in reversed order",
        "Pair i turns by angles[..., i]. You use them from the last to the first.",
        code=_rope_code(_R_INTER, _R_HALF, "angles = angles.flip(-1)"),
    ),
    wrong(
        "angles in x's dtype",
        "You round the angles to x's dtype before the cosine. bfloat16 cannot tell position 4000 from 4001. Take cosines of the float32 angles, then convert.",
        code=_rope_code(_R_INTER, _R_HALF, "angles = angles.to(x.dtype)"),
    ),
    wrong(
        "always float32",
        "The result must have x's dtype. For bfloat16 x it is float32 here.",
        "turned.to(x.dtype)",
        "turned.float()",
    ),
    wrong(
        "promoted to float32",
        "bfloat16 times float32 gives float32. Convert the result back to x's dtype.",
        "turned.to(x.dtype)",
        "turned",
    ),
    wrong(
        "unknown layouts pass as half",
        "A layout that does not exist must raise ValueError. You take everything else for half.",
        code=_rope_code(_R_INTER, _R_HALF).replace('elif layout == "half":', "elif True:"),
    ),
    wrong(
        "unknown layouts pass as interleaved",
        "A layout that does not exist must raise ValueError. You take everything else for interleaved.",
        code=_rope_code(_R_INTER, _R_HALF).replace('if layout == "interleaved":', 'if layout != "half":'),
    ),
    wrong(
        "unknown layouts return x",
        "A layout that does not exist must raise ValueError. A model that is silently not rotated is hard to find.",
        code=_rope_code(_R_INTER, _R_HALF).replace('raise ValueError("layout")', "turned = x"),
    ),
    wrong(
        "x overwritten",
        "You write into x. The caller still needs it: work on a copy.",
        code="""def apply_rope(x, angles, layout="interleaved"):
    cos, sin = angles.cos(), angles.sin()
    if layout == "interleaved":
        a, b = x[..., 0::2], x[..., 1::2]
    elif layout == "half":
        a, b = x.chunk(2, dim=-1)
    else:
        raise ValueError("layout")
    new_a, new_b = a * cos - b * sin, b * cos + a * sin
    with torch.no_grad():
        a.copy_(new_a)
        b.copy_(new_b)
    return x
""",
    ),
    wrong(
        "detached",
        "The values are right, but no gradient reaches x. Take out detach, .data and torch.no_grad.",
        code=_rope_code(_R_INTER, _R_HALF, "x = x.detach()"),
    ),
    wrong(
        "only the first half of the pairs turns",
        "All D/2 pairs turn. You turn every other one only.",
        code=_rope_code(
            _R_INTER, _R_HALF, "angles = angles * (torch.arange(angles.shape[-1]) < (angles.shape[-1] + 1) // 2)"
        ),
    ),
    wrong(
        "turned by half the angle",
        "You turn by half of the angle.",
        code=_rope_code(_R_INTER, _R_HALF, "angles = angles / 2"),
    ),
    wrong(
        "angles taken for degrees",
        "The angles are radians already. Do not convert them.",
        code=_rope_code(_R_INTER, _R_HALF, "angles = torch.deg2rad(angles)"),
    ),
    wrong(
        "scaled by 1/sqrt(D)",
        "Lengths must stay. The scale of the scores belongs to attention, not to the rotation.",
        code=_rope_code(_R_INTER, _R_HALF, "x = x / x.shape[-1] ** 0.5"),
    ),
    wrong(
        "small-angle formula",
        "cos is not 1 - a*a/2 and sin is not a, unless the angle is small. Position 4000 is not.",
        code=_rope_code(_R_INTER, _R_HALF).replace("angles.cos(), angles.sin()", "1 - angles**2 / 2, angles"),
    ),
    wrong(
        "sine of another token",
        "Cosine and sine of a pair come from the same angle. Yours come from different tokens, so lengths do not stay.",
        code=_rope_code(_R_INTER, _R_HALF).replace("angles.sin()", "angles.roll(1, 0).sin()"),
    ),
    wrong(
        "vectors normalised",
        "Each vector keeps its own length. You scale them all to 1.",
        code=_rope_code(_R_INTER, _R_HALF, "x = x / x.norm(dim=-1, keepdim=True)"),
    ),
    wrong(
        "angles modulo pi",
        "Half a turn is not a full turn: angles repeat after 2 pi, not after pi.",
        code=_rope_code(_R_INTER, _R_HALF, "angles = torch.remainder(angles, math.pi)"),
    ),
    wrong(
        "dimensions of size 1 dropped",
        "squeeze drops dimensions of size 1, such as a batch or a decoding step of one. The shape must be that of x.",
        "turned.to(x.dtype)",
        "turned.to(x.dtype).squeeze()",
    ),
)

APPLY_ROPE_RIGHT = (
    right(
        "complex numbers",
        """def apply_rope(x, angles, layout="interleaved"):
    if layout not in {"interleaved", "half"}:
        raise ValueError(f"unknown layout {layout}")
    wide = x if x.dtype == torch.float64 else x.float()
    turn = torch.polar(torch.ones_like(angles), angles)
    if layout == "interleaved":
        z = torch.view_as_complex(wide.reshape(*x.shape[:-1], -1, 2))
        return torch.view_as_real(z * turn).flatten(-2).to(x.dtype)
    half = x.shape[-1] // 2
    z = torch.complex(wide[..., :half].contiguous(), wide[..., half:].contiguous()) * turn
    return torch.cat((z.real, z.imag), dim=-1).to(x.dtype)
""",
    ),
    right(
        "rotate_half as in released code, tables in x's dtype",
        """def apply_rope(x, angles, layout="interleaved"):
    if layout == "half":
        cos, sin = torch.cat((angles, angles), -1).cos(), torch.cat((angles, angles), -1).sin()
        x1, x2 = x[..., : x.shape[-1] // 2], x[..., x.shape[-1] // 2 :]
        rotated = torch.cat((-x2, x1), dim=-1)
    elif layout == "interleaved":
        cos, sin = angles.repeat_interleave(2, -1).cos(), angles.repeat_interleave(2, -1).sin()
        rotated = torch.stack((-x[..., 1::2], x[..., ::2]), dim=-1).reshape(x.shape)
    else:
        raise ValueError(layout)
    return x * cos.to(x.dtype) + rotated * sin.to(x.dtype)
""",
    ),
    right(
        "rotation matrices",
        """def apply_rope(x, angles, layout="interleaved"):
    if layout not in ("interleaved", "half"):
        raise ValueError("layout must be 'interleaved' or 'half'")
    c, s = angles.cos().double(), angles.sin().double()
    R = torch.stack((torch.stack((c, -s), -1), torch.stack((s, c), -1)), -2)  # T, pairs, 2, 2
    if layout == "interleaved":
        pairs = x.unflatten(-1, (-1, 2))
        return torch.einsum("tpij,...tpj->...tpi", R, pairs.double()).flatten(-2).to(x.dtype)
    pairs = x.unflatten(-1, (2, -1))
    return torch.einsum("tpij,...tjp->...tip", R, pairs.double()).flatten(-2).to(x.dtype)
""",
    ),
    right(
        "half through the interleaved one, a loop over pairs",
        """def apply_rope(x, angles, layout="interleaved"):
    D = x.shape[-1]
    if layout == "interleaved":
        order = list(range(D))
    elif layout == "half":
        order = [c for i in range(D // 2) for c in (i, i + D // 2)]
    else:
        raise ValueError("no such layout")
    columns = [None] * D
    for i in range(D // 2):
        a, b = x[..., order[2 * i]], x[..., order[2 * i + 1]]
        c, s = torch.cos(angles[:, i]), torch.sin(angles[:, i])
        columns[order[2 * i]], columns[order[2 * i + 1]] = a * c - b * s, a * s + b * c
    return torch.stack(columns, dim=-1).type_as(x)
""",
    ),
    right(
        "a copy written into",
        """def apply_rope(x, angles, layout="interleaved"):
    c, s, n = angles.cos(), angles.sin(), x.size(-1) // 2
    slices = {"interleaved": (slice(0, None, 2), slice(1, None, 2)), "half": (slice(0, n), slice(n, None))}
    if layout not in slices:
        raise ValueError(f"layout {layout!r}; want one of {list(slices)}")
    first, second = slices[layout]
    out = torch.empty_like(x)
    out[..., first] = (x[..., first] * c - x[..., second] * s).to(x.dtype)
    out[..., second] = (x[..., second] * c + x[..., first] * s).to(x.dtype)
    return out
""",
    ),
)

_H_SPLIT = "by_head = weight.reshape(n_heads, 2, -1, *weight.shape[1:])"
_H_END = "by_head.transpose(1, 2).reshape(weight.shape)"

HALF_WRONG = (
    wrong(
        "the other direction",
        "You go from interleaved to half. Rows i and i + d/2 must come to stand side by side.",
        _H_SPLIT,
        "by_head = weight.reshape(n_heads, -1, 2, *weight.shape[1:])",
    ),
    wrong(
        "all heads as one",
        "You reorder across heads. Each head keeps its own block of rows; the reordering happens inside it.",
        _H_SPLIT,
        "by_head = weight.reshape(1, 2, -1, *weight.shape[1:])",
    ),
    wrong(
        "columns reordered",
        "You reorder the columns, which belong to the input. The head's dimensions are the rows: weights are (out, in).",
        code="def half_to_interleaved(weight, n_heads):\n    if weight.dim() == 1 or weight.shape[1] % (2 * n_heads):\n        return weight.reshape(n_heads, 2, -1, *weight.shape[1:]).transpose(1, 2).reshape(weight.shape)\n    return weight.reshape(len(weight), n_heads, 2, -1).transpose(2, 3).reshape(weight.shape)\n",
    ),
    wrong(
        "nothing reordered",
        "You return the rows as they are. Only a head of width 2 has the same order in both layouts.",
        _H_END,
        "weight.clone()",
    ),
    wrong(
        "reshaped without a transpose",
        "reshape alone moves nothing. Split each head into (2, d/2), swap those two, then flatten.",
        _H_END,
        "by_head.reshape(weight.shape)",
        same_as=("nothing reordered",),
    ),
    wrong(
        "heads and pairs swapped",
        "You swap heads with members of pairs. Inside each head, swap (2, d/2) to (d/2, 2).",
        _H_END,
        "by_head.transpose(0, 1).reshape(weight.shape)",
    ),
    wrong(
        "members of pairs swapped",
        "Of each pair the first member must come first. Yours stand the other way round, which turns them backwards.",
        _H_END,
        "by_head.flip(1).transpose(1, 2).reshape(weight.shape)",
    ),
    wrong(
        "halves swapped",
        "You swap the two halves of each head. They have to be dealt out in turns: 0, d/2, 1, d/2 + 1, ...",
        _H_END,
        "by_head.flip(1).reshape(weight.shape)",
    ),
    wrong(
        "second half negated",
        "That is rotate_half. Rows only change their places; no sign changes.",
        _H_END,
        "torch.stack((by_head[:, 0], -by_head[:, 1]), 2).reshape(weight.shape)",
    ),
    wrong(
        "interleaved across the heads",
        "Rows of different heads come to stand beside each other. Head h owns rows h * head_dim up to (h + 1) * head_dim, before and after.",
        _H_END,
        "by_head.permute(2, 0, 1, *range(3, by_head.dim())).reshape(weight.shape)",
    ),
    wrong(
        "head_dim taken for n_heads",
        "The second argument is the number of heads, not their width.",
        _H_SPLIT,
        "by_head = weight.reshape(len(weight) // n_heads, 2, -1, *weight.shape[1:]) if n_heads % 2 == 0 else weight.reshape(1, 2, -1, *weight.shape[1:])",
    ),
    wrong(
        "result keeps the split",
        "You return (n_heads, d/2, 2, ...). Flatten back to the shape of weight.",
        _H_END,
        "by_head.transpose(1, 2)",
    ),
    wrong(
        "pairs from the two ends",
        "You pair row i with row d - 1 - i. The half layout pairs i with i + d/2.",
        _H_END,
        "torch.stack((by_head[:, 0], by_head[:, 1].flip(1)), 2).reshape(weight.shape)",
    ),
    wrong(
        "biases left alone",
        "A bias is added to queries and keys too: its entries must be reordered as the rows are.",
        _H_SPLIT,
        "if weight.dim() == 1:\n        return weight\n    " + _H_SPLIT,
    ),
    wrong(
        "biases fail",
        "A bias has one dimension only. Do not ask for weight.shape[1].",
        _H_SPLIT,
        "by_head = weight.reshape(n_heads, 2, -1, weight.shape[1])",
    ),
    wrong(
        "float32 returned",
        "Reordering needs no arithmetic: keep the dtype of weight.",
        _H_END,
        "by_head.transpose(1, 2).reshape(weight.shape).float()",
    ),
    wrong(
        "only the first head",
        "Every head is reordered in itself. Only your first one is.",
        _H_END,
        "torch.cat((by_head[:1].transpose(1, 2).reshape(-1, *weight.shape[1:]), weight[len(weight) // n_heads :]))",
    ),
    wrong(
        "detached",
        "No gradient reaches weight. Reorder the tensor itself, not its .data.",
        _H_SPLIT,
        _H_SPLIT.replace("weight.reshape", "weight.detach().reshape"),
    ),
    wrong(
        "weight overwritten",
        "You write into the caller's weight. Return a new tensor.",
        _H_END,
        "weight.detach().copy_(by_head.transpose(1, 2).reshape(weight.shape).clone())",
    ),
    wrong(
        "transposed matrix taken for granted",
        "You treat weight as (in, out). Linear weights are (out, in): the heads lie along the rows.",
        code="def half_to_interleaved(weight, n_heads):\n    if weight.dim() == 1:\n        return weight.reshape(n_heads, 2, -1).transpose(1, 2).reshape(-1)\n    return weight.reshape(len(weight), n_heads, 2, -1).transpose(2, 3).reshape(weight.shape)\n",
        same_as=("columns reordered",),
    ),
    wrong(
        "swapped twice",
        "Reordering twice is another order again. Apply it once.",
        _H_END,
        "by_head.transpose(1, 2).reshape(n_heads, 2, -1, *weight.shape[1:]).transpose(1, 2).reshape(weight.shape)",
    ),
    wrong(
        "rows overwritten before they are read",
        "You write row 2i while rows still have to be read from there. Read from weight, write to another tensor.",
        code="def half_to_interleaved(weight, n_heads):\n    d = weight.shape[0] // n_heads\n    out = weight.clone()\n    for b in range(0, len(weight), d):\n        for i in range(d // 2):\n            out[b + 2 * i] = out[b + i]\n            out[b + 2 * i + 1] = out[b + i + d // 2]\n    return out\n",
    ),
    wrong(
        "evens first, odds second",
        "You sort even rows before odd ones, over the whole matrix: that is the other direction, and across heads.",
        _H_END,
        "torch.cat((weight[0::2], weight[1::2]))",
    ),
    wrong(
        "the first head for all",
        "You reorder the first head and repeat it. Every head has rows of its own.",
        _H_END,
        "torch.cat([by_head[0].transpose(0, 1).reshape(-1, *weight.shape[1:])] * n_heads)",
    ),
)

HALF_RIGHT = (
    right(
        "an index, head by head",
        """def half_to_interleaved(weight, n_heads):
    d = weight.shape[0] // n_heads
    rows = []
    for h in range(n_heads):
        for i in range(d // 2):
            rows += [h * d + i, h * d + i + d // 2]
    return weight[rows]
""",
    ),
    right(
        "filled into an empty tensor",
        """def half_to_interleaved(weight, n_heads):
    heads = weight.unflatten(0, (n_heads, -1))
    out = torch.empty_like(heads)
    half = heads.shape[1] // 2
    out[:, 0::2] = heads[:, :half]
    out[:, 1::2] = heads[:, half:]
    return out.flatten(0, 1)
""",
    ),
    right(
        "chunks stacked",
        """def half_to_interleaved(weight, n_heads):
    pieces = []
    for head in weight.chunk(n_heads, dim=0):
        first, second = head.chunk(2, dim=0)
        pieces.append(torch.stack((first, second), dim=1).flatten(0, 1))
    return torch.cat(pieces)
""",
    ),
    right(
        "index_select with an argsort of the inverse",
        """def half_to_interleaved(weight, n_heads):
    n = weight.size(0)
    inverse = torch.arange(n).view(n_heads, -1, 2).transpose(1, 2).reshape(-1)
    return weight.index_select(0, torch.argsort(inverse))
""",
    ),
    right(
        "a permutation matrix",
        """def half_to_interleaved(weight, n_heads):
    n = weight.shape[0]
    d = n // n_heads
    out = torch.zeros_like(weight)
    for new in range(n):
        h, place = divmod(new, d)
        i, member = divmod(place, 2)
        out[new] = weight[h * d + member * (d // 2) + i]
    return out
""",
    ),
)

_P_FACTOR = "min(1.0, train_len / target_len)"
_P_END = "positions.to(torch.float32) * min(1.0, train_len / target_len)"


def _p_code(*lines):
    return "def position_interpolation(positions, train_len, target_len):\n    " + "\n    ".join(lines) + "\n"


INTERPOLATION_WRONG = (
    wrong(
        "multiplied by the factor",
        "You stretch: positions are multiplied by target_len / train_len. They must shrink.",
        _P_FACTOR,
        "max(1.0, target_len / train_len)",
    ),
    wrong(
        "short texts stretched",
        "A text that fits is left alone. You multiply by train_len / target_len although that is above 1.",
        _P_FACTOR,
        "(train_len / target_len)",
    ),
    wrong(
        "never squeezed",
        "min and max are mixed up: a longer text must be squeezed, a shorter one left alone.",
        _P_FACTOR,
        "max(1.0, train_len / target_len)",
    ),
    wrong(
        "whole division",
        "train_len // target_len is 0 for a longer text. Use /.",
        _P_FACTOR,
        "min(1.0, train_len // target_len)",
    ),
    wrong(
        "factor rounded down to a whole number",
        "target_len // train_len is a whole number. 1.5 times as long must divide by 1.5.",
        _P_FACTOR,
        "(1.0 / max(1, target_len // train_len))",
    ),
    wrong(
        "factor rounded up to a whole number",
        "You round the factor up. 1.5 times as long must divide by 1.5.",
        _P_FACTOR,
        "(1.0 / max(1, -(-target_len // train_len)))",
    ),
    wrong(
        "positions rounded",
        "You round to whole positions, so neighbours fall together. RoPE takes fractions.",
        _P_END,
        "(" + _P_END + ").round()",
    ),
    wrong(
        "positions rounded down",
        "You cut the fractions off, so neighbours fall together. RoPE takes fractions.",
        _P_END,
        "(" + _P_END + ").floor()",
    ),
    wrong(
        "cut off at the end",
        "You clamp positions to train_len - 1: all tokens beyond would stand at one place. Squeeze all of them evenly.",
        _P_END,
        "positions.to(torch.float32).clamp(max=train_len - 1)",
    ),
    wrong(
        "wrapped around",
        "You start again at 0 after train_len. Then far and near tokens share positions.",
        _P_END,
        "positions.to(torch.float32) % train_len",
    ),
    wrong(
        "only what lies beyond",
        "You squeeze only positions from train_len on. All positions are multiplied by one factor, so that distances keep their proportions.",
        _P_END,
        "torch.where(positions >= train_len, positions.float() * min(1.0, train_len / target_len), positions.float())",
    ),
    wrong(
        "last positions matched",
        "You map target_len - 1 to train_len - 1. The factor is train_len / target_len.",
        _P_FACTOR,
        "min(1.0, (train_len - 1) / max(target_len - 1, 1))",
    ),
    wrong(
        "length taken from the positions",
        "You look at the largest position. A decoding step hands over one position only; the length is the argument.",
        _P_FACTOR,
        "min(1.0, train_len / (float(positions.max()) + 1))",
    ),
    wrong(
        "number of positions as the length",
        "You take the number of positions for the length. A decoding step hands over one position; the length is target_len.",
        _P_FACTOR,
        "min(1.0, train_len / len(positions))",
    ),
    wrong(
        "positions counted anew",
        "You make positions 0, 1, 2, ... yourself. Use those handed over.",
        "positions.to(torch.float32)",
        "torch.arange(len(positions)).to(torch.float32)",
    ),
    wrong(
        "spread from 0 to train_len",
        "linspace spreads whatever positions there are over the training length. Each position is multiplied by one factor.",
        _P_END,
        "torch.linspace(0, train_len - 1, len(positions)) if target_len > train_len else positions.float()",
    ),
    wrong(
        "normalised to 1",
        "You return shares of the text. They must reach up to train_len.",
        _P_END,
        "positions.to(torch.float32) / max(target_len, train_len)",
    ),
    wrong(
        "short texts keep their dtype",
        "The result must be float32 also when nothing is squeezed.",
        "return " + _P_END,
        "return positions if target_len <= train_len else " + _P_END,
    ),
    wrong(
        "dtype of the positions",
        "Whole positions give whole results in your code, so fractions are lost. Return float32.",
        _P_END,
        "(" + _P_END + ").to(positions.dtype)",
    ),
    wrong(
        "float64 returned", "The result must be float32.", "positions.to(torch.float32)", "positions.to(torch.float64)"
    ),
    wrong(
        "dtype left to torch",
        "float64 positions stay float64 in your code. The result must be float32.",
        "positions.to(torch.float32)",
        "positions",
    ),
    wrong(
        "float16",
        "float16 cannot tell position 4000 from 4001. Return float32.",
        _P_END,
        "(positions.half() * min(1.0, train_len / target_len)).float()",
    ),
    wrong(
        "squeezed by the square root",
        "The factor is train_len / target_len itself, not its square root.",
        _P_FACTOR,
        "min(1.0, train_len / target_len) ** 0.5",
    ),
    wrong(
        "input changed",
        "float32 positions are changed in place. Make a new tensor.",
        "return " + _P_END,
        "return positions.to(torch.float32).mul_(min(1.0, train_len / target_len))",
    ),
    wrong(
        "arguments swapped",
        "train_len and target_len are swapped: you squeeze short texts and leave long ones alone.",
        _P_FACTOR,
        "min(1.0, target_len / train_len)",
    ),
    wrong(
        "counted from 1",
        "You add 1 to the positions. They count from 0.",
        "positions.to(torch.float32)",
        "(positions.to(torch.float32) + 1)",
    ),
    wrong(
        "logarithm of the positions",
        "Positions are squeezed evenly, by one factor. A logarithm squeezes far ones more.",
        _P_END,
        "torch.log1p(positions.to(torch.float32)) if target_len > train_len else positions.to(torch.float32)",
    ),
    wrong(
        "sorted",
        "You sort the positions. Each result belongs to the position in its place.",
        "positions.to(torch.float32)",
        "positions.to(torch.float32).sort().values",
    ),
    wrong(
        "moved instead of squeezed",
        "You subtract the surplus. Positions are multiplied by a factor; 0 stays 0.",
        _P_END,
        "positions.to(torch.float32) - max(0, target_len - train_len)",
    ),
)

INTERPOLATION_RIGHT = (
    right(
        "divided by the factor", _p_code("scale = max(target_len / train_len, 1)", "return positions.float() / scale")
    ),
    right(
        "multiplied first",
        _p_code(
            "if target_len <= train_len:",
            "    return positions.clone().float()",
            "return (positions.double() * train_len / target_len).to(torch.float32)",
        ),
    ),
    right(
        "a list",
        _p_code(
            "f = train_len / target_len if target_len > train_len else 1",
            "return torch.tensor([p * f for p in positions.tolist()], dtype=torch.float)",
        ),
    ),
    right(
        "NumPy",
        _p_code(
            "import numpy as np",
            "out = np.asarray(positions, dtype=np.float64) * np.minimum(1.0, train_len / target_len)",
            "return torch.from_numpy(out.astype(np.float32))",
        ),
    ),
)

_N_END = "base * scale ** (head_dim / (head_dim - 2))"

NTK_WRONG = (
    wrong(
        "no exponent",
        "You multiply the base by scale. Then the slowest frequency is divided by less: the exponent d / (d - 2) makes it exact.",
        _N_END,
        "base * scale",
    ),
    wrong(
        "exponent upside down",
        "The exponent is d / (d - 2), a little above 1. Yours is its inverse.",
        "head_dim / (head_dim - 2)",
        "(head_dim - 2) / head_dim",
    ),
    wrong(
        "whole division in the exponent",
        "head_dim // (head_dim - 2) is 1 for every head_dim above 4. Use /.",
        "head_dim / (head_dim - 2)",
        "head_dim // (head_dim - 2)",
    ),
    wrong(
        "exponent with d - 1",
        "The slowest pair has exponent (d - 2) / d: there are d / 2 pairs, and the last one is i = d/2 - 1. You use d - 1.",
        "(head_dim - 2)",
        "(head_dim - 1)",
    ),
    wrong("exponent with d + 2", "It is d - 2, not d + 2.", "(head_dim - 2)", "(head_dim + 2)"),
    wrong(
        "exponent of one pair less",
        "You count pairs where columns are meant: the exponent is d / (d - 2), not d / (d - 4).",
        "(head_dim - 2)",
        "max(head_dim - 4, 1)",
    ),
    wrong(
        "the pairs for d",
        "You use d/2 for d: (d/2) / (d/2 - 2). The exponent is d / (d - 2).",
        "head_dim / (head_dim - 2)",
        "(head_dim / 2) / max(head_dim / 2 - 2, 0.5)",
        same_as=("exponent of one pair less",),
    ),
    wrong(
        "the exponent on the base too",
        "Only scale gets the exponent. The base is a plain factor.",
        _N_END,
        "(base * scale) ** (head_dim / (head_dim - 2))",
    ),
    wrong(
        "the exponent on the base",
        "The exponent belongs to scale, not to the base.",
        _N_END,
        "scale * base ** (head_dim / (head_dim - 2))",
    ),
    wrong(
        "divided",
        "A longer context needs slower clocks, so a larger base. Yours is smaller.",
        _N_END,
        "base / scale ** (head_dim / (head_dim - 2))",
    ),
    wrong(
        "only the factor",
        "You return the factor. The new base is asked for: multiply by base.",
        _N_END,
        "scale ** (head_dim / (head_dim - 2))",
    ),
    wrong(
        "scale times the exponent",
        "scale is raised to the power d / (d - 2), not multiplied by it.",
        _N_END,
        "base * scale * (head_dim / (head_dim - 2))",
    ),
    wrong("square of the scale", "The exponent is d / (d - 2), not 2.", "head_dim / (head_dim - 2)", "2"),
    wrong(
        "2d in the exponent",
        "The exponent is d / (d - 2). The factor 2 of the frequencies is already in the 2 below.",
        "head_dim / (head_dim - 2)",
        "2 * head_dim / (head_dim - 2)",
    ),
    wrong("rounded base", "The base need not be whole. Do not round it.", _N_END, "float(round(" + _N_END + "))"),
    wrong("the base as an int", "The base need not be whole. Do not cut it off.", _N_END, "int(" + _N_END + ")"),
    wrong(
        "head_dim 2 divides by zero",
        "head_dim = 2 must raise ValueError; here it divides by zero, and 1 or less gives numbers without meaning.",
        "if head_dim <= 2:",
        "if False:",
    ),
    wrong(
        "head_dim 2 accepted",
        "head_dim = 2 must raise ValueError too: there is one pair, at once fastest and slowest.",
        "if head_dim <= 2:",
        "if head_dim == 2:\n        return base\n    if head_dim < 2:",
    ),
    wrong(
        "only head_dim 2 refused",
        "Every head_dim of 2 or less must raise ValueError, also 1 and 0.",
        "if head_dim <= 2:",
        "if head_dim == 2:",
    ),
    wrong("head_dim 4 refused", "head_dim = 4 is legal: it has two pairs.", "if head_dim <= 2:", "if head_dim <= 4:"),
    wrong(
        "frequencies returned",
        "One number is asked for: the new base.",
        _N_END,
        "(" + _N_END + ") ** (-torch.arange(0, head_dim, 2) / head_dim)",
    ),
    wrong("scale 1 added", "At scale 1 the base must stay as it is.", "base * scale **", "base * (1 + scale) **"),
    wrong(
        "logarithm of the scale",
        "No logarithm here. That is in YaRN's temperature.",
        _N_END,
        "base * (1 + math.log(scale)) ** (head_dim / (head_dim - 2))",
    ),
    wrong(
        "base fixed",
        "Your base is always 10000. Use the argument.",
        _N_END,
        "10000.0 * scale ** (head_dim / (head_dim - 2))",
    ),
    wrong(
        "added to the base",
        "The power of scale multiplies the base.",
        _N_END,
        "base + scale ** (head_dim / (head_dim - 2))",
    ),
    wrong(
        "scale cut to a whole number",
        "The scale need not be whole: 2.5 is legal.",
        _N_END,
        "base * int(scale) ** (head_dim / (head_dim - 2))",
    ),
)

NTK_RIGHT = (
    right(
        "pairs",
        "def ntk_base(base, scale, head_dim):\n    pairs = head_dim / 2\n    if pairs <= 1:\n        raise ValueError('need two pairs')\n    return base * math.pow(scale, pairs / (pairs - 1))\n",
    ),
    right(
        "logarithms",
        "def ntk_base(base, scale, head_dim):\n    if not head_dim > 2:\n        raise ValueError('head_dim must be above 2')\n    return math.exp(math.log(base) + math.log(scale) * (1 + 2 / (head_dim - 2)))\n",
    ),
    right(
        "from the slowest frequency, a 0-d tensor",
        "def ntk_base(base, scale, head_dim):\n    if head_dim < 3:\n        raise ValueError('head_dim must be above 2')\n    slowest = torch.tensor(float(base), dtype=torch.float64) ** (-(head_dim - 2) / head_dim) / scale\n    return (slowest ** (-head_dim / (head_dim - 2))).item()\n",
    ),
    right(
        "NumPy",
        "def ntk_base(base, scale, head_dim):\n    import numpy as np\n    if head_dim <= 2:\n        raise ValueError('head_dim must be above 2')\n    return base * np.power(float(scale), head_dim / (head_dim - 2))\n",
    ),
)

_Y_FREQ = "inv_freq = base ** (-torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim)"
_Y_TURNS = "turns = train_len * inv_freq / (2 * math.pi)"
_Y_KEEP = "keep = ((turns - beta_slow) / (beta_fast - beta_slow)).clamp(0, 1)"
_Y_END = "(inv_freq * (keep + (1 - keep) / scale)).float()"

YARN_WRONG = (
    wrong(
        "everything divided",
        "That is position interpolation: all frequencies are divided by scale. YaRN spares the fast ones.",
        _Y_END,
        "(inv_freq / scale).float()",
    ),
    wrong(
        "nothing divided",
        "Your frequencies are those of plain RoPE. Slow pairs must be divided by scale.",
        _Y_END,
        "inv_freq.float()",
    ),
    wrong(
        "the ramp the wrong way round",
        "You divide the fast pairs and spare the slow ones. keep is 1 for pairs that turn often.",
        _Y_END,
        "(inv_freq * ((1 - keep) + keep / scale)).float()",
    ),
    wrong(
        "no clamp", "Above beta_fast and below beta_slow the blend must stay at 1 and 0. Clamp it.", ".clamp(0, 1)", ""
    ),
    wrong(
        "clamped below only",
        "Above beta_fast turns the blend must stay at 1. Clamp on both sides.",
        ".clamp(0, 1)",
        ".clamp(min=0)",
    ),
    wrong(
        "clamped above only",
        "Below beta_slow turns the blend must stay at 0. Clamp on both sides.",
        ".clamp(0, 1)",
        ".clamp(max=1)",
    ),
    wrong("2 pi forgotten", "Turns are radians over 2 pi. You compare radians with beta.", " / (2 * math.pi)", ""),
    wrong("pi for 2 pi", "A full turn is 2 pi radians.", "(2 * math.pi)", "math.pi"),
    wrong(
        "wavelengths for turns",
        "You compare wavelengths with beta. Turns are train_len / wavelength.",
        _Y_TURNS,
        "turns = 2 * math.pi / inv_freq",
    ),
    wrong(
        "turns upside down",
        "Turns are train_len divided by the wavelength. Yours is the inverse.",
        _Y_TURNS,
        "turns = 2 * math.pi / (train_len * inv_freq)",
    ),
    wrong(
        "turns within the longer context",
        "Count turns within the training length: that is what the model has seen. You use train_len * scale.",
        _Y_TURNS,
        "turns = train_len * scale * inv_freq / (2 * math.pi)",
    ),
    wrong(
        "turns of the divided frequencies",
        "Count the turns of the plain frequencies, before anything is divided.",
        _Y_TURNS,
        "turns = train_len * inv_freq / scale / (2 * math.pi)",
    ),
    wrong(
        "training length minus one",
        "Turns are counted within train_len positions, not train_len - 1.",
        _Y_TURNS,
        "turns = (train_len - 1) * inv_freq / (2 * math.pi)",
    ),
    wrong(
        "turns rounded down",
        "Turns need not be whole. You cut the fractions off.",
        _Y_TURNS,
        _Y_TURNS + "\n    turns = turns.floor()",
    ),
    wrong(
        "multiplied by the scale",
        "Slow pairs get slower: divide by scale. You multiply.",
        "(1 - keep) / scale",
        "(1 - keep) * scale",
    ),
    wrong(
        "the temperature folded in",
        "The temperature of exercise 8 is not part of the frequencies.",
        _Y_END,
        "(inv_freq * (keep + (1 - keep) / scale) * (0.1 * math.log(scale) + 1)).float()",
    ),
    wrong(
        "linear in the pair's index",
        "Your blend is linear in i, as in released code. Here it is linear in the turns.",
        _Y_KEEP,
        "index = torch.arange(head_dim // 2, dtype=torch.float64)\n    low, high = (head_dim * math.log(train_len / (b * 2 * math.pi)) / (2 * math.log(base)) if b > 0 else head_dim - 1.0 for b in (beta_fast, beta_slow))\n    low, high = max(math.floor(low), 0), min(math.ceil(high), head_dim - 1)\n    keep = 1 - ((index - low) / max(high - low, 0.001)).clamp(0, 1)",
    ),
    wrong(
        "linear in the logarithm of the turns",
        "Your blend is linear in the logarithm of the turns. The formula is linear in the turns themselves.",
        _Y_KEEP,
        "keep = ((turns.log() - math.log(max(beta_slow, 1e-9))) / (math.log(beta_fast) - math.log(max(beta_slow, 1e-9)))).clamp(0, 1)",
    ),
    wrong(
        "linear in the wavelength",
        "Your blend is linear in the wavelength. The formula is linear in the turns.",
        _Y_KEEP,
        "waves = 2 * math.pi / inv_freq\n    short, long = train_len / beta_fast, train_len / max(beta_slow, 1e-9)\n    keep = 1 - ((waves - short) / (long - short)).clamp(0, 1)",
    ),
    wrong(
        "smooth step",
        "You smooth the ramp. It is a straight line between 0 and 1.",
        _Y_KEEP,
        _Y_KEEP + "\n    keep = keep * keep * (3 - 2 * keep)",
    ),
    wrong(
        "a step at beta_slow",
        "Between beta_slow and beta_fast there is a blend. You switch at beta_slow.",
        _Y_KEEP,
        "keep = (turns > beta_slow).double()",
    ),
    wrong(
        "a step at beta_fast",
        "Between beta_slow and beta_fast there is a blend. You switch at beta_fast.",
        _Y_KEEP,
        "keep = (turns >= beta_fast).double()",
    ),
    wrong(
        "ramp divided by beta_fast alone",
        "The ramp begins at beta_slow and ends at beta_fast: divide by their difference.",
        "(beta_fast - beta_slow)",
        "beta_fast",
    ),
    wrong(
        "ramp without beta_slow above",
        "The ramp begins at beta_slow: subtract it from the turns.",
        "(turns - beta_slow)",
        "turns",
    ),
    wrong(
        "betas fixed",
        "You use 32 and 1 whatever is asked for. Use the arguments.",
        _Y_KEEP,
        "keep = ((turns - 1.0) / 31.0).clamp(0, 1)",
    ),
    wrong(
        "beta_slow fixed",
        "You use 1 for beta_slow whatever is asked for. Use the argument.",
        _Y_KEEP,
        "keep = ((turns - 1.0) / (beta_fast - 1.0)).clamp(0, 1)",
    ),
    wrong(
        "beta_fast fixed",
        "You use 32 for beta_fast whatever is asked for. Use the argument.",
        _Y_KEEP,
        "keep = ((turns - beta_slow) / (32.0 - beta_slow)).clamp(0, 1)",
    ),
    wrong(
        "betas swapped",
        "beta_fast and beta_slow are swapped: many turns means fast, and fast pairs are kept.",
        _Y_KEEP,
        "keep = ((turns - beta_fast) / (beta_fast - beta_slow)).clamp(0, 1)",
    ),
    wrong(
        "wavelengths blended",
        "You blend wavelengths. The formula blends frequencies; between the ends that is not the same.",
        _Y_END,
        "(inv_freq / (keep + (1 - keep) * scale)).float()",
    ),
    wrong(
        "blended geometrically",
        "You blend the logarithms: inv_freq / scale**(1 - keep). The formula blends the frequencies themselves.",
        _Y_END,
        "(inv_freq / scale ** (1 - keep)).float()",
    ),
    wrong(
        "blended with NTK frequencies",
        "The slow side is divided by scale. You use the NTK-aware base there.",
        _Y_END,
        "(inv_freq * keep + (1 - keep) * (base * scale ** (head_dim / max(head_dim - 2, 1))) ** (-torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim)).float()",
    ),
    wrong(
        "exponent i / d",
        "The plain frequency of pair i is base**(-2i / head_dim), not base**(-i / head_dim).",
        _Y_FREQ,
        "inv_freq = base ** (-torch.arange(head_dim // 2, dtype=torch.float64) / head_dim)",
    ),
    wrong(
        "pairs counted from 1",
        "Pairs count from 0: the fastest plain frequency is 1.",
        _Y_FREQ,
        "inv_freq = base ** (-torch.arange(2, head_dim + 1, 2, dtype=torch.float64) / head_dim)",
    ),
    wrong("base fixed", "Your base is always 10000. Use the argument.", "base ** (", "10000.0 ** ("),
    wrong("each frequency twice", "One frequency for each pair: (head_dim / 2,).", _Y_END, _Y_END + ".repeat(2)"),
    wrong("slowest first", "The fastest frequency comes first.", _Y_END, _Y_END + ".flip(0)"),
    wrong(
        "wavelengths returned",
        "You return wavelengths. Frequencies in radians per position are asked for.",
        _Y_END,
        "(2 * math.pi / (inv_freq * (keep + (1 - keep) / scale))).float()",
    ),
    wrong(
        "only the blend returned",
        "You return the blend. The frequencies are asked for: multiply by it.",
        _Y_END,
        "(keep + (1 - keep) / scale).float()",
    ),
    wrong(
        "rounded to bfloat16",
        "You round to bfloat16. Frequencies are multiplied by positions in the thousands: keep float32.",
        _Y_END,
        "(inv_freq * (keep + (1 - keep) / scale)).bfloat16().float()",
    ),
    wrong(
        "scale forgotten on one side",
        "What is not kept is divided by scale, not dropped: keep + (1 - keep) / scale.",
        _Y_END,
        "(inv_freq * keep).float()",
    ),
    wrong(
        "square root of the scale",
        "Slow pairs are divided by scale itself.",
        "(1 - keep) / scale",
        "(1 - keep) / math.sqrt(scale)",
    ),
    wrong(
        "training length fixed",
        "You use 2048 for the training length whatever is asked for. Use the argument.",
        "turns = train_len *",
        "turns = 2048 *",
    ),
)

YARN_RIGHT = (
    right(
        "a loop and the math module",
        """def yarn_inv_freq(head_dim, base, scale, train_len, beta_fast=32.0, beta_slow=1.0):
    out = []
    for i in range(head_dim // 2):
        f = 1 / base ** (2 * i / head_dim)
        wavelength = 2 * math.pi / f
        ramp = (train_len / wavelength - beta_slow) / (beta_fast - beta_slow)
        ramp = min(1.0, max(0.0, ramp))
        out.append((1 - ramp) * f / scale + ramp * f)
    return torch.tensor(out)
""",
    ),
    right(
        "torch.where and lerp, float64 returned",
        """def yarn_inv_freq(head_dim, base, scale, train_len, beta_fast=32.0, beta_slow=1.0):
    i = torch.arange(head_dim // 2, dtype=torch.float64)
    f = torch.exp(-2 * i / head_dim * math.log(base))
    r = train_len * f / math.tau
    ramp = (r - beta_slow) / (beta_fast - beta_slow)
    ramp = torch.where(ramp < 0, 0.0, torch.where(ramp > 1, 1.0, ramp))
    return torch.lerp(f / scale, f, ramp)
""",
    ),
    right(
        "NumPy interp",
        """def yarn_inv_freq(head_dim, base, scale, train_len, beta_fast=32.0, beta_slow=1.0):
    import numpy as np
    f = float(base) ** -(np.arange(0, head_dim, 2) / head_dim)
    keep = np.interp(f * train_len / (2 * np.pi), [beta_slow, beta_fast], [0.0, 1.0])
    return torch.from_numpy(f * (keep + (1 - keep) / scale)).float()
""",
    ),
    right(
        "masks for the three parts, float32",
        """def yarn_inv_freq(head_dim, base, scale, train_len, beta_fast=32.0, beta_slow=1.0):
    f = 1.0 / (base ** (torch.arange(0, head_dim, 2).float() / head_dim))
    r = train_len / (2 * math.pi / f)
    out = f.clone()
    out[r <= beta_slow] /= scale
    middle = (r > beta_slow) & (r < beta_fast)
    g = (r[middle] - beta_slow) / (beta_fast - beta_slow)
    out[middle] = f[middle] * g + f[middle] * (1 - g) / scale
    return out
""",
    ),
)

_T_END = "0.1 * math.log(scale) + 1.0 if scale > 1 else 1.0"

TEMPERATURE_WRONG = (
    wrong(
        "t itself",
        "You return t. Queries and keys are multiplied by sqrt(1/t) = 0.1 ln(scale) + 1.",
        _T_END,
        "1 / (0.1 * math.log(scale) + 1.0) ** 2 if scale > 1 else 1.0",
    ),
    wrong(
        "the inverse",
        "You return the inverse: scores would shrink. Attention is to be sharpened.",
        _T_END,
        "1 / (0.1 * math.log(scale) + 1.0) if scale > 1 else 1.0",
    ),
    wrong(
        "squared",
        "That is the factor of the scores. q and k each get 0.1 ln(scale) + 1, so the scores get its square by themselves.",
        _T_END,
        "(0.1 * math.log(scale) + 1.0) ** 2 if scale > 1 else 1.0",
    ),
    wrong(
        "square root taken",
        "0.1 ln(scale) + 1 is already the square root of 1/t. Do not take another.",
        _T_END,
        "math.sqrt(0.1 * math.log(scale) + 1.0) if scale > 1 else 1.0",
    ),
    wrong("logarithm to base 10", "ln is the natural logarithm: math.log.", "math.log(scale)", "math.log10(scale)"),
    wrong("logarithm to base 2", "ln is the natural logarithm: math.log.", "math.log(scale)", "math.log2(scale)"),
    wrong("no logarithm", "It grows with the logarithm of scale, not with scale itself.", "math.log(scale)", "scale"),
    wrong(
        "logarithm of 1 + scale",
        "It is ln(scale), so that scale 1 gives exactly 1.",
        "math.log(scale)",
        "math.log1p(scale)",
    ),
    wrong(
        "0.1 inside the logarithm",
        "The 0.1 stands before the logarithm, not in it.",
        "0.1 * math.log(scale)",
        "math.log(0.1 * scale)",
    ),
    wrong("0.1 forgotten", "The logarithm is multiplied by 0.1.", "0.1 * math.log(scale)", "math.log(scale)"),
    wrong(
        "1 forgotten",
        "1 is added. Without it a scale just above 1 would switch attention off.",
        "math.log(scale) + 1.0",
        "math.log(scale)",
    ),
    wrong(
        "0.1 times all of it",
        "0.1 multiplies the logarithm only, not the 1.",
        "0.1 * math.log(scale) + 1.0",
        "0.1 * (math.log(scale) + 1.0)",
    ),
    wrong(
        "small scales not held at 1",
        "For a scale of 1 or less the answer is 1. Below 1 the logarithm is negative, and at 0 it does not exist.",
        _T_END,
        "0.1 * math.log(scale) + 1.0",
    ),
    wrong(
        "only scale 1 held at 1",
        "Every scale below 1 gives 1 too, also 0 and negative ones.",
        "scale > 1",
        "scale != 1",
        same_as=("small scales not held at 1",),
    ),
    wrong(
        "only scales of 0 or less held at 1",
        "Every scale of 1 or less gives 1. Between 0 and 1 yours is below 1.",
        "scale > 1",
        "scale > 0",
    ),
    wrong("held at 1 up to 2", "Any scale above 1 sharpens, also 1.5.", "scale > 1", "scale > 2"),
    wrong(
        "size of the scale",
        "You take the absolute value of scale. A negative scale gives 1.",
        _T_END,
        "0.1 * math.log(abs(scale)) + 1.0 if abs(scale) > 1 else 1.0",
    ),
    wrong(
        "inverse below 1",
        "A scale below 1 gives 1: it is not the same as its inverse.",
        _T_END,
        "0.1 * abs(math.log(scale)) + 1.0 if scale > 0 else 1.0",
    ),
    wrong("rounded scale", "The scale need not be whole. Do not round it.", "math.log(scale)", "math.log(int(scale))"),
    wrong("0 for small scales", "It is a factor: no change means 1, not 0.", "else 1.0", "else 0.0"),
    wrong(
        "minus",
        "The logarithm is added to 1, not taken off.",
        "0.1 * math.log(scale) + 1.0",
        "1.0 - 0.1 * math.log(scale)",
    ),
    wrong(
        "small scales refused",
        "A scale of 1 or less is legal and gives 1.",
        "return " + _T_END,
        "if scale <= 1:\n        raise ValueError('scale')\n    return 0.1 * math.log(scale) + 1.0",
    ),
    wrong(
        "never above 1",
        "min and max are mixed up: the factor is at least 1.",
        _T_END,
        "min(1.0, 0.1 * math.log(scale) + 1.0) if scale > 0 else 1.0",
    ),
    wrong(
        "square root of the scale",
        "It grows with the logarithm of scale, far more slowly than its square root.",
        _T_END,
        "math.sqrt(scale) if scale > 1 else 1.0",
    ),
    wrong(
        "a power of the scale",
        "scale**0.1 is nearly the same for small scales only: it is 0.1 ln(scale) + 1.",
        _T_END,
        "scale**0.1 if scale > 1 else 1.0",
    ),
    wrong(
        "0.07 for 0.1",
        "The factor before the logarithm is 0.1. (Some released models use another.)",
        "0.1 * math.log(scale)",
        "0.07 * math.log(scale)",
    ),
    wrong("rounded", "Do not round the result.", _T_END, "round(0.1 * math.log(scale) + 1.0, 2) if scale > 1 else 1.0"),
)

TEMPERATURE_RIGHT = (
    right("max", "def yarn_temperature(scale):\n    return 1.0 + 0.1 * math.log(max(1.0, scale))\n"),
    right(
        "early return, log10 converted",
        "def yarn_temperature(scale):\n    if scale <= 1.0:\n        return 1\n    return math.log10(scale) * math.log(10) / 10 + 1\n",
    ),
    right(
        "a 0-d tensor",
        "def yarn_temperature(scale):\n    s = torch.tensor(float(scale), dtype=torch.float64).clamp(min=1.0)\n    return (0.1 * s.log() + 1).item()\n",
    ),
    right(
        "NumPy, float32",
        "def yarn_temperature(scale):\n    import numpy as np\n    return float(np.float32(0.1) * np.log(np.float32(max(scale, 1))) + 1)\n",
    ),
)

_L_POWERS = "return [2.0 ** (-8 * i / n) for i in range(1, n + 1)]"
_L_END = "torch.tensor(powers(lower) + powers(2 * lower)[0::2][: n_heads - lower])"

SLOPES_WRONG = (
    wrong(
        "equal steps",
        "Slopes form a geometric series: each is the same factor below the one before. Yours fall in equal steps.",
        _L_POWERS,
        "return [1 - i / (n + 1) for i in range(1, n + 1)]",
    ),
    wrong(
        "counted from 0",
        "i runs from 1 to n. Yours begins at 0, so the first slope is 1.",
        "range(1, n + 1)",
        "range(n)",
    ),
    wrong(
        "halved at each head",
        "The factor between heads is 2**(-8/n), so that the last slope is always 1/256. Yours is 1/2 for any n.",
        "-8 * i / n",
        "-i",
    ),
    wrong("8 forgotten", "The exponent is -8i / n. Yours is -i / n.", "-8 * i / n", "-i / n"),
    wrong("exponent of e", "The base of the powers is 2.", "2.0 ** (-8 * i / n)", "math.exp(-8 * i / n)"),
    wrong(
        "whole division in the exponent",
        "-8 * i // n is whole, so heads share slopes beyond 8 heads. Use /.",
        "-8 * i / n",
        "-8 * i // n",
    ),
    wrong("negative slopes", "The slopes are positive. The minus sign stands in the bias.", _L_END, "-" + _L_END),
    wrong(
        "slopes above 1",
        "The minus sign of the exponent is missing: the slopes run from 2**(-8/n) down to 1/256.",
        "2.0 ** (-8 * i / n)",
        "2.0 ** (8 * i / n)",
    ),
    wrong(
        "flattest head first",
        "The steepest slope comes first. Yours are in reversed order.",
        _L_POWERS,
        "return [2.0 ** (-8 * i / n) for i in range(n, 0, -1)]",
    ),
    wrong(
        "one formula for all numbers of heads",
        "For numbers that are not powers of two the released code does otherwise: the lower power's slopes, then every other of the next.",
        _L_END,
        "torch.tensor(powers(n_heads))",
    ),
    wrong(
        "next power of two cut off",
        "You take the first slopes of the next power of two. Take the lower power's slopes, then every other of the next.",
        _L_END,
        "torch.tensor(powers(n_heads) if n_heads == lower else powers(2 * lower)[:n_heads])",
    ),
    wrong(
        "without every other",
        "Of the next power take every other slope: the first, the third, ... You take them one by one.",
        "[0::2]",
        "",
    ),
    wrong(
        "every other, from the second",
        "Begin with the first slope of the next power. You begin with the second, and these are there already.",
        "[0::2]",
        "[1::2]",
    ),
    wrong(
        "sorted",
        "The order is: the lower power's slopes, then those taken from the next. You sort them all.",
        _L_END,
        "torch.tensor(sorted(powers(lower) + powers(2 * lower)[0::2][: n_heads - lower], reverse=True))",
    ),
    wrong(
        "the extra ones first",
        "The lower power's slopes come first, then those taken from the next.",
        _L_END,
        "torch.tensor(powers(2 * lower)[0::2][: n_heads - lower] + powers(lower))",
    ),
    wrong(
        "too many heads",
        "You return the next power of two's number of slopes. n_heads slopes are asked for.",
        "[: n_heads - lower]",
        "[: n_heads]",
    ),
    wrong(
        "missing heads",
        "You return the lower power of two's slopes only. n_heads slopes are asked for.",
        _L_END,
        "torch.tensor(powers(lower))",
    ),
    wrong(
        "slopes repeated",
        "Missing heads are filled from the next power of two. You repeat the first slopes.",
        _L_END,
        "torch.tensor((powers(lower) * 2)[:n_heads])",
        same_as=("every other, from the second",),
    ),
    wrong(
        "filled from the end of the next power",
        "Every other slope of the next power from its beginning. You take the last ones.",
        "[0::2][: n_heads - lower]",
        "[0::2][2 * lower // 2 - (n_heads - lower) :]",
    ),
    wrong(
        "nearest power instead of the lower",
        "Start from the lower power of two, also when the next is nearer.",
        "while 2 * lower <= n_heads:",
        "while 1.5 * lower <= n_heads:",
    ),
    wrong(
        "lower power strictly below",
        "For a power of two its own slopes are asked for. You start from half of it.",
        "while 2 * lower <= n_heads:",
        "while 2 * lower < n_heads:",
    ),
    wrong(
        "shape for broadcasting",
        "(n_heads,) is asked for. You return (n_heads, 1, 1).",
        _L_END,
        _L_END + "[:, None, None]",
    ),
    wrong("a list", "Return a tensor, not a list.", "return torch.tensor(", "return list("),
    wrong(
        "half precision",
        "float16 rounds slopes of 3 significant digits. Return float32.",
        _L_END,
        _L_END + ".bfloat16().float()",
    ),
    wrong(
        "harmonic series",
        "Slopes are powers, 2**(-8i/n), not fractions 1/i.",
        _L_END,
        "torch.tensor([1 / i for i in range(1, n_heads + 1)])",
    ),
    wrong(
        "extra slopes in reversed order",
        "Those taken from the next power begin with its first, the steepest.",
        "[0::2][: n_heads - lower]",
        "[0::2][: n_heads - lower][::-1]",
    ),
    wrong(
        "lower power's slopes halved",
        "The missing heads take slopes of the next power of two, not halves of those that are there.",
        "powers(2 * lower)[0::2][: n_heads - lower]",
        "[s / 2 for s in powers(lower)][: n_heads - lower]",
    ),
)

SLOPES_RIGHT = (
    right(
        "as in the released code",
        """def alibi_slopes(n_heads):
    def get_slopes(n):
        def power_of_2(n):
            start = 2 ** (-(2 ** -(math.log2(n) - 3)))
            return [start * start**i for i in range(n)]
        if math.log2(n).is_integer():
            return power_of_2(n)
        closest = 2 ** math.floor(math.log2(n))
        return power_of_2(closest) + get_slopes(2 * closest)[0::2][: n - closest]
    return torch.tensor(get_slopes(n_heads))
""",
    ),
    right(
        "torch.pow, float64",
        """def alibi_slopes(n_heads):
    n = 2 ** (n_heads.bit_length() - 1)
    first = torch.pow(2.0, -8.0 * torch.arange(1, n + 1, dtype=torch.float64) / n)
    extra = torch.pow(2.0, -4.0 * (2 * torch.arange(n_heads - n, dtype=torch.float64) + 1) / n)
    return torch.cat((first, extra))
""",
    ),
    right(
        "NumPy exp2",
        """def alibi_slopes(n_heads):
    import numpy as np
    lower = 1 << int(np.log2(n_heads))
    exponents = [8 * (i + 1) / lower for i in range(lower)] + [8 * (2 * j + 1) / (2 * lower) for j in range(n_heads - lower)]
    return torch.from_numpy(np.exp2(-np.array(exponents))).float()
""",
    ),
    right(
        "a product, head by head",
        """def alibi_slopes(n_heads):
    lower = max(p for p in (2**k for k in range(20)) if p <= n_heads)
    out = torch.ones(n_heads)
    ratio = 0.5 ** (8 / lower)
    for h in range(n_heads):
        out[h] = ratio ** (h + 1) if h < lower else ratio ** (h - lower + 0.5)
    return out
""",
    ),
)

_B_QUERY = "query = torch.arange(t_q) + (t_k - t_q)"
_B_DISTANCE = "distance = (query[:, None] - torch.arange(t_k)[None, :]).abs()"
_B_SLOPES = "alibi_slopes(n_heads)[:, None, None]"
_B_END = "-alibi_slopes(n_heads)[:, None, None] * distance"

BIAS_WRONG = (
    wrong(
        "a reward for distance",
        "The sign is missing: distant keys are favoured. The bias is negative.",
        "return -alibi",
        "return alibi",
    ),
    wrong(
        "no absolute value",
        "Keys in the future get a positive bias in your code. The penalty is on |distance|; hiding the future is the mask's job.",
        ".abs()",
        "",
    ),
    wrong(
        "the future left alone",
        "Keys in the future get 0 in your code. They get the same penalty as keys equally far in the past.",
        ".abs()",
        ".clamp(min=0)",
    ),
    wrong(
        "the past left alone",
        "Keys in the past get 0 in your code. They are the ones that count.",
        ".abs()",
        ".clamp(max=0).abs()",
    ),
    wrong(
        "the future hidden",
        "You put -inf into the future. The mask does that; here all values are finite.",
        "return " + _B_END,
        "bias = " + _B_END + "\n    return bias.masked_fill(query[:, None] < torch.arange(t_k)[None, :], -math.inf)",
    ),
    wrong(
        "a large negative number in the future",
        "You hide the future with a large number. The mask does that; here keys in the future get -slope * |distance|.",
        "return " + _B_END,
        "bias = " + _B_END + "\n    return bias.masked_fill(query[:, None] < torch.arange(t_k)[None, :], -1e9)",
    ),
    wrong(
        "aligned at the top left",
        "With a cache the last query stands at the last key. You let the first query stand at the first key.",
        _B_QUERY,
        "query = torch.arange(t_q)",
    ),
    wrong(
        "shifted the wrong way",
        "Query i stands at i + (t_k - t_q). You subtract the difference.",
        _B_QUERY,
        "query = torch.arange(t_q) - (t_k - t_q)",
    ),
    wrong(
        "one position too far",
        "The last query stands at the last key, at distance 0. Yours stands one further.",
        _B_QUERY,
        "query = torch.arange(t_q) + (t_k - t_q) + 1",
    ),
    wrong(
        "all queries at the end",
        "You give every query the position of the last one.",
        _B_QUERY,
        "query = torch.full((t_q,), t_k - 1)",
    ),
    wrong(
        "the distance from the beginning",
        "You penalise by the key's position. The distance between query and key counts.",
        _B_DISTANCE,
        "distance = torch.arange(t_k)[None, :].expand(t_q, t_k)",
    ),
    wrong(
        "rows shifted by a constant",
        "Your rows differ by a constant from the wanted ones, as in Bloom's code. The softmax does not see it, but here -slope * |distance| is asked for.",
        _B_DISTANCE,
        "distance = -torch.arange(t_k)[None, :].expand(t_q, t_k)",
    ),
    wrong(
        "squared distance", "The penalty grows in proportion to the distance, not to its square.", ".abs()", ".square()"
    ),
    wrong(
        "logarithm of the distance",
        "The penalty grows in proportion to the distance. No logarithm.",
        ".abs()",
        ".abs().float().log1p()",
    ),
    wrong("distance plus one", "A token's distance to itself is 0.", ".abs()", ".abs() + 1"),
    wrong(
        "transposed",
        "Queries are rows, keys are columns: (n_heads, t_q, t_k).",
        "return " + _B_END,
        "return (" + _B_END + ").transpose(1, 2)",
    ),
    wrong(
        "slopes along the queries",
        "Each head has its slope. You let the slopes run along the queries.",
        _B_END,
        "(-alibi_slopes(n_heads)[None, :, None] * distance if n_heads == t_q else -alibi_slopes(n_heads)[:, None, None] * distance)",
    ),
    wrong(
        "one slope for all heads",
        "Each head has its own slope. You use the first for all.",
        _B_END,
        "(-alibi_slopes(n_heads)[:1, None, None] * distance).repeat(n_heads, 1, 1)",
    ),
    wrong(
        "slopes of the power-of-two formula",
        "For 6 heads the slopes are not 2**(-8i/6). Use alibi_slopes.",
        _B_SLOPES,
        "(2.0 ** (-8 * torch.arange(1, n_heads + 1) / n_heads))[:, None, None]",
    ),
    wrong(
        "slopes in reversed order",
        "Head h has the slope alibi_slopes(n_heads)[h]. Yours are in reversed order.",
        _B_SLOPES,
        "alibi_slopes(n_heads).flip(0)[:, None, None]",
    ),
    wrong(
        "slopes sorted",
        "Keep the order of alibi_slopes. You sort the slopes, which mixes the heads up when their number is not a power of two.",
        _B_SLOPES,
        "alibi_slopes(n_heads).sort(descending=True).values[:, None, None]",
    ),
    wrong(
        "a batch dimension in front",
        "(n_heads, t_q, t_k) is asked for. You return one dimension more.",
        _B_END,
        "(" + _B_END + ")[None]",
    ),
    wrong(
        "the heads last",
        "(n_heads, t_q, t_k) is asked for. Yours has the heads last.",
        "return " + _B_END,
        "return (" + _B_END + ").permute(1, 2, 0)",
    ),
    wrong("float64", "The bias is float32.", "return " + _B_END, "return (" + _B_END + ").double()"),
    wrong(
        "half precision",
        "float16 cannot count beyond 2048 one by one. Compute in float32.",
        "return " + _B_END,
        "return (-alibi_slopes(n_heads)[:, None, None].half() * distance.half()).float()",
    ),
    wrong("distance only", "The slopes are missing.", _B_END, "-distance.float().expand(n_heads, t_q, t_k)"),
    wrong(
        "distance over the length",
        "You divide the distance by the number of keys. ALiBi does not know how long the text is.",
        _B_END,
        "-alibi_slopes(n_heads)[:, None, None] * distance / t_k",
    ),
    wrong(
        "exponential of the bias",
        "You return what the softmax makes of it. The bias is added before the softmax.",
        "return " + _B_END,
        "return (" + _B_END + ").exp()",
    ),
    wrong(
        "distance capped",
        "The penalty grows without end. You cap the distance at 128.",
        ".abs()",
        ".abs().clamp(max=128)",
    ),
    wrong(
        "mean slope for all heads",
        "Each head has its own slope. You use their mean.",
        _B_SLOPES,
        "alibi_slopes(n_heads).mean().expand(n_heads)[:, None, None]",
    ),
)

BIAS_RIGHT = (
    right(
        "loops",
        """def alibi_bias(n_heads, t_q, t_k):
    m = alibi_slopes(n_heads)
    out = torch.empty(n_heads, t_q, t_k, dtype=torch.float32)
    for h in range(n_heads):
        for i in range(t_q):
            for j in range(min(t_k, 10**9)):
                if j > 50 and t_k > 1000:
                    out[h, i, j:] = -m[h].float() * (i + t_k - t_q - torch.arange(j, t_k)).abs()
                    break
                out[h, i, j] = -float(m[h]) * abs(i + t_k - t_q - j)
    return out
""",
    ),
    right(
        "the last rows of a square",
        """def alibi_bias(n_heads, t_q, t_k):
    place = torch.arange(t_k)
    square = -(place[None, -t_q:, None] - place[None, None, :]).abs().float()
    return (square * alibi_slopes(n_heads).float().reshape(-1, 1, 1)).contiguous()
""",
    ),
    right(
        "einsum, keys counted backwards",
        """def alibi_bias(n_heads, t_q, t_k):
    q = torch.arange(t_q - 1, -1, -1)  # tokens after the query
    k = torch.arange(t_k - 1, -1, -1)
    distance = (k.unsqueeze(0) - q.unsqueeze(1)).abs().to(torch.float32)
    return torch.einsum("h,qk->hqk", alibi_slopes(n_heads).to(torch.float32), distance).neg()
""",
    ),
    right(
        "NumPy, slopes of its own",
        """def alibi_bias(n_heads, t_q, t_k):
    import numpy as np
    low = 2 ** int(math.floor(math.log2(n_heads)))
    m = [2 ** (-8 * (h + 1) / low) for h in range(low)] + [2 ** (-4 * (2 * e + 1) / low) for e in range(n_heads - low)]
    distance = np.abs(np.subtract.outer(np.arange(t_k - t_q, t_k), np.arange(t_k)))
    return torch.tensor(-np.array(m)[:, None, None] * distance, dtype=torch.float32)
""",
    ),
)

EXERCISES = [
    Exercise(
        name="sinusoidal",
        reference=_sinusoidal,
        cases=_sinusoidal_cases,
        close=WAVES,
        hints=(
            "Write the first four columns for position 1 by hand. Which two of them share an angle?",
            "dim / 2 frequencies base**(-2i / dim), i from 0; angles (T, dim / 2) by broadcasting; then sines and cosines in turns.",
            "angles = positions.double()[:, None] * base ** (-2 * torch.arange(dim // 2) / dim); torch.stack((angles.sin(), angles.cos()), -1).flatten(-2).float()",
        ),
        misconceptions=SINUSOIDAL_WRONG,
        variants=SINUSOIDAL_RIGHT,
    ),
    Exercise(
        name="rope_angles",
        reference=_rope_angles,
        cases=_rope_angles_cases,
        close=Close(2e-5, 1e-9),
        hints=(
            "What are the angles at position 0, and what is the first column always?",
            "torch.arange(0, head_dim, 2) is 2i for every pair. An outer product of positions and frequencies does the rest.",
            "torch.outer(positions.float(), base ** (-torch.arange(0, head_dim, 2).float() / head_dim)), after a ValueError for odd head_dim",
        ),
        misconceptions=ROPE_ANGLES_WRONG,
        variants=ROPE_ANGLES_RIGHT,
    ),
    Exercise(
        name="apply_rope",
        reference=_apply_rope,
        cases=_apply_rope_cases,
        close=NEAR,
        hints=(
            "Take x = [1, 0, 0, 0] and a quarter turn. Where does the 1 go in each layout?",
            "Get a and b, the first and second members of all pairs, (..., T, D/2) each: by strides x[..., 0::2] or by halves x.chunk(2, -1). Turn them. Put them back the way you took them.",
            "new_a = a * cos - b * sin; new_b = b * cos + a * sin; torch.stack((new_a, new_b), -1).flatten(-2) or torch.cat((new_a, new_b), -1); .to(x.dtype)",
        ),
        misconceptions=APPLY_ROPE_WRONG,
        variants=APPLY_ROPE_RIGHT,
    ),
    Exercise(
        name="half_to_interleaved",
        reference=_half_to_interleaved,
        cases=_half_to_interleaved_cases,
        close=NEAR,
        hints=(
            "One head of width 6 in the half layout has the rows a0 a1 a2 b0 b1 b2. How must they stand?",
            "Split the rows into (n_heads, 2, d/2). Which two of these dimensions change places?",
            "weight.reshape(n_heads, 2, -1, *weight.shape[1:]).transpose(1, 2).reshape(weight.shape)",
        ),
        misconceptions=HALF_WRONG,
        variants=HALF_RIGHT,
    ),
    Exercise(
        name="position_interpolation",
        reference=_position_interpolation,
        cases=_position_interpolation_cases,
        close=Close(2e-6, 1e-7),
        hints=(
            "Which number do you multiply by when 8,192 tokens must fit into 2,048? And when 500 tokens must?",
            "The factor is train_len / target_len, but never above 1.",
            "positions.float() * min(1.0, train_len / target_len)",
        ),
        misconceptions=INTERPOLATION_WRONG,
        variants=INTERPOLATION_RIGHT,
    ),
    Exercise(
        name="ntk_base",
        reference=_ntk_base,
        cases=_ntk_base_cases,
        close=Close(1e-5, 0.0),
        hints=(
            "What is the exponent of the slowest pair, i = d/2 - 1?",
            "Solve new**(-(d - 2) / d) = base**(-(d - 2) / d) / scale for new. And which head_dim has no solution?",
            "base * scale ** (head_dim / (head_dim - 2)), after a ValueError for head_dim <= 2",
        ),
        misconceptions=NTK_WRONG,
        variants=NTK_RIGHT,
    ),
    Exercise(
        name="yarn_inv_freq",
        reference=_yarn_inv_freq,
        cases=_yarn_cases,
        close=Close(2e-5, 0.0),
        hints=(
            "How often does the fastest pair turn within 2,048 tokens? And the slowest, with base 10000?",
            "turns = train_len * inv_freq / (2 pi). A share keep, 1 at beta_fast turns and more, 0 at beta_slow and fewer, says how much of the plain frequency stays.",
            "keep = ((turns - beta_slow) / (beta_fast - beta_slow)).clamp(0, 1); inv_freq * (keep + (1 - keep) / scale)",
        ),
        misconceptions=YARN_WRONG,
        variants=YARN_RIGHT,
    ),
    Exercise(
        name="yarn_temperature",
        reference=_yarn_temperature,
        cases=_yarn_temperature_cases,
        close=Close(1e-5, 0.0),
        hints=(
            "What must come out when the context does not grow at all?",
            "math.log is the natural logarithm. Look at scale before you take it: 0 has none.",
            "0.1 * math.log(scale) + 1 if scale > 1 else 1.0",
        ),
        misconceptions=TEMPERATURE_WRONG,
        variants=TEMPERATURE_RIGHT,
    ),
    Exercise(
        name="alibi_slopes",
        reference=_alibi_slopes,
        cases=_alibi_slopes_cases,
        close=Close(1e-5, 0.0),
        hints=(
            "Write the slopes for 4 and for 8 heads. Which ones of the 8 are not among the 4?",
            "lower = the largest power of two that is not above n_heads. Then its slopes, and (n_heads - lower) of the next power's: the first, the third, ...",
            "torch.tensor(powers(lower) + powers(2 * lower)[0::2][: n_heads - lower]) with powers(n) = [2 ** (-8 * i / n) for i in range(1, n + 1)]",
        ),
        misconceptions=SLOPES_WRONG,
        variants=SLOPES_RIGHT,
    ),
    Exercise(
        name="alibi_bias",
        reference=_alibi_bias,
        cases=_alibi_bias_cases,
        uses=("alibi_slopes",),
        close=Close(1e-5, 1e-9),
        hints=(
            "One new query, nine cached keys: how far is the query from the first key, and how far from the last?",
            "Query i stands at i + (t_k - t_q). The table of distances is (t_q, t_k); the slopes need two more dimensions.",
            "-alibi_slopes(n_heads)[:, None, None] * (query[:, None] - torch.arange(t_k)[None, :]).abs()",
        ),
        misconceptions=BIAS_WRONG,
        variants=BIAS_RIGHT,
    ),
]
