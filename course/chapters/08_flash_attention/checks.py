"""Checks of chapter 08: softmax in pieces, merging, tiled attention forward and backward, traffic, decoding in splits, a kernel."""

import math

import torch

from grader.exercise import Case, Close, Code, Exercise, Misconception, Rng, Scenario, Variant

FLOAT32 = Close(1e-4, 1e-5)
"""Where float32 arithmetic on scores of hundreds is legal: one rounding of a score of 300 moves its exponential by 3e-5."""
ATTENTION_ROUTINES = (
    "torch.nn.functional.scaled_dot_product_attention",
    "torch.nn.functional.multi_head_attention_forward",
    "torch.nn.MultiheadAttention",
    "torch.nn.attention.flex_attention.flex_attention",
    "torch.ops.aten",
)
AUTOGRAD = (
    "torch.autograd.grad",
    "torch.Tensor.backward",
    "torch.autograd.backward",
    "torch.func.vjp",
    "torch.func.grad",
)
TRANSPOSED = "def make(x):\n    return x.transpose(-1, -2)\n"
EXPANDED = "def make(x, *shape):\n    return x.expand(*shape)\n"


def _wide(x):
    return x.detach().double()


# ---- online_softmax


def _online_softmax(blocks):
    if not blocks:
        raise ValueError("want at least one block")
    x = torch.cat([_wide(b) for b in blocks], dim=1)
    m = x.max(dim=1).values
    l = torch.where(x == -math.inf, 0.0, torch.exp(x - torch.where(m == -math.inf, 0.0, m)[:, None])).sum(1)
    return m.to(blocks[0].dtype), l.to(blocks[0].dtype)


def _online_cases(rng: Rng):
    yield Case(label="one block", args=([rng.normal(3, 5)],))
    yield Case(label="three blocks of different widths", args=([rng.normal(4, 3), rng.normal(4, 5), rng.normal(4, 2)],))
    x = rng.normal(3, 9).sort(dim=1).values
    yield Case(label="values rise: every block has a new maximum", args=(list(x.split(2, dim=1)),))
    yield Case(label="values fall: the first block holds the maximum", args=(list(x.flip(1).split(2, dim=1)),))
    x = rng.normal(3, 7, scale=1e-3)
    yield Case(label="tiny differences", args=([x[:, :4], x[:, 4:]],))
    x = rng.normal(4, 10, shift=-20.0)
    yield Case(label="all values are below 0", args=([x[:, :3], x[:, 3:]],))
    x = rng.normal(3, 8)
    x[1] += 1e4
    x[2] -= 2e4
    yield Case(label="one row shifted by 10000, one by -20000", args=([x[:, :3], x[:, 3:5], x[:, 5:]],))
    x = torch.cat([rng.normal(3, 4, dtype=torch.float32), 300 + rng.normal(3, 5, dtype=torch.float32)], dim=1)
    for label, row in {
        "values near 300 arrive late": x,
        "values near 300 arrive early": x.flip(1),
        "values near -300": -x,
    }.items():
        yield Case(label=f"float32, {label}", args=([row[:, :4], row[:, 4:7], row[:, 7:]],), close=FLOAT32)
    x = rng.normal(5, 9)
    x[0, :3] = -math.inf
    x[1, 6:] = -math.inf
    x[2, 2:7] = -math.inf
    yield Case(label="-inf in the first, the last and the middle block", args=([x[:, :3], x[:, 3:6], x[:, 6:]],))
    x[3] = -math.inf
    yield Case(label="a row of -inf alone", args=([x[:, :3], x[:, 3:6], x[:, 6:]],))
    yield Case(label="one row, one column", args=([rng.normal(1, 1)],))
    x = rng.normal(6, 4)
    yield Case(
        label="blocks that are transposed views",
        args=([Code(TRANSPOSED, (x,)), Code(TRANSPOSED, (rng.normal(3, 4),))],),
    )
    yield Case(label="equal values", args=([torch.full((2, 3), 1.5), torch.full((2, 4), 1.5)],))
    yield Case(label="no block at all", args=([],), raises=ValueError)


_RESCALE_L = "l = l * torch.exp(m - shift) + torch.exp(block - shift[:, None]).sum(dim=1)"
ONLINE_WRONG = (
    Misconception(
        name="the sum is not rescaled",
        replace=("l * torch.exp(m - shift)", "l"),
        says="When the maximum grows, the old sum was made with the old maximum. Multiply it by exp(old - new).",
    ),
    Misconception(
        name="the factor upside down",
        replace=("torch.exp(m - shift) +", "torch.exp(shift - m.masked_fill(m == -math.inf, 0.0)) +"),
        says="The old sum shrinks when the maximum grows: the factor is exp(old - new), not exp(new - old).",
    ),
    Misconception(
        name="each block with its own maximum",
        replace=(
            _RESCALE_L,
            "own = block.amax(dim=1)\n        l = l + torch.exp(block - own.masked_fill(own == -math.inf, 0.0)[:, None]).sum(dim=1)",
        ),
        says="Each block's exponentials are made with its own maximum, so the sums do not belong together. Bring them to one maximum before you add.",
    ),
    Misconception(
        name="the new block with its own maximum",
        replace=(
            _RESCALE_L,
            "own = block.amax(dim=1)\n        l = l * torch.exp(m - shift) + torch.exp(block - own.masked_fill(own == -math.inf, 0.0)[:, None]).sum(dim=1)",
        ),
        says="You rescale the old sum, but the new block's exponentials use the block's maximum instead of the running one.",
    ),
    Misconception(
        name="no maximum subtracted",
        code="def online_softmax(blocks):\n    if not blocks:\n        raise ValueError('empty')\n    m = torch.stack([b.amax(1) for b in blocks]).amax(0)\n    return m, sum(torch.exp(b).sum(1) for b in blocks)\n",
        says="The sum is of exp(x - maximum), not of exp(x). exp(89) is already infinite in float32.",
    ),
    Misconception(
        name="unsafe sum, shifted at the end",
        code="def online_softmax(blocks):\n    if not blocks:\n        raise ValueError('empty')\n    m = torch.stack([b.amax(1) for b in blocks]).amax(0)\n    l = sum(torch.exp(b).sum(1) for b in blocks)\n    return m, torch.where(m == -math.inf, 0.0, l * torch.exp(-m))\n",
        says="exp(x) overflows before exp(-maximum) can bring it back. Subtract the maximum inside the exponential.",
    ),
    Misconception(
        name="the first block's maximum for good",
        replace=(
            "new_m = torch.maximum(m, block.amax(dim=1))",
            "new_m = torch.where(m == -math.inf, block.amax(dim=1), m)",
        ),
        says="The maximum of the first block is kept for good. A later block can hold a larger value: take the larger of both.",
    ),
    Misconception(
        name="one maximum for all rows",
        replace=("block.amax(dim=1))", "block.amax().expand(len(m)))"),
        says="The maximum runs over all rows. Each row has its own.",
    ),
    Misconception(
        name="maximum starts at 0",
        replace=("blocks[0].new_full(blocks[0].shape[:1], -math.inf)", "blocks[0].new_zeros(blocks[0].shape[:1])"),
        says="Before the first block the maximum is -inf, not 0: a row of negative values would never get its own maximum.",
    ),
    Misconception(
        name="maximum starts at -10000",
        replace=("blocks[0].new_full(blocks[0].shape[:1], -math.inf)", "blocks[0].new_full(blocks[0].shape[:1], -1e4)"),
        says="-10000 is a legal value, so it is no start for a maximum. Start from -inf.",
    ),
    Misconception(
        name="maximum starts at the least float",
        replace=(
            "blocks[0].new_full(blocks[0].shape[:1], -math.inf)",
            "blocks[0].new_full(blocks[0].shape[:1], torch.finfo(blocks[0].dtype).min)",
        ),
        says="A row that holds nothing but -inf has the maximum -inf. Starting from the least float reports that float instead.",
    ),
    Misconception(
        name="NaN where everything is -inf",
        replace=("new_m.masked_fill(new_m == -math.inf, 0.0)", "new_m"),
        says="-inf - (-inf) is NaN. Where the maximum is still -inf, subtract 0 instead.",
    ),
    Misconception(
        name="NaN swept away at the end",
        code="def online_softmax(blocks):\n    if not blocks:\n        raise ValueError('empty')\n    m, l = torch.tensor(-math.inf), 0.0\n    for b in blocks:\n        new = torch.maximum(m, b.amax(1))\n        l = l * torch.exp(m - new) + torch.exp(b - new[:, None]).sum(1)\n        m = new\n    return m, l.nan_to_num(0.0)\n",
        says="Replacing NaN by 0 at the end is too late: a row that began with -inf and then saw numbers has lost them. Guard the subtraction.",
    ),
    Misconception(
        name="only the last block counts",
        replace=("l * torch.exp(m - shift) + torch.exp", "torch.exp"),
        says="The sum of the blocks before is thrown away. Rescale it and add.",
    ),
    Misconception(
        name="log-sum-exp instead of the sum",
        replace=("    return m, l", "    return m, m + torch.log(l)"),
        says="That is the log-sum-exp, m + ln l. Asked for is l itself.",
    ),
    Misconception(
        name="mean instead of sum",
        replace=("    return m, l", "    return m, l / sum(b.shape[1] for b in blocks)"),
        says="l is a sum over the columns, not a mean.",
    ),
    Misconception(
        name="returned in the wrong order",
        replace=("    return m, l", "    return l, m"),
        says="Return the maximum first, then the sum.",
    ),
    Misconception(
        name="over the rows",
        code="def online_softmax(blocks):\n    if not blocks:\n        raise ValueError('empty')\n    x = torch.cat(blocks, 1)\n    m = x.amax(0)\n    return m, torch.exp(x - m).sum(0)\n",
        says="You run down the columns. A block is (rows, columns), and each row is summed over its columns, dimension 1.",
    ),
    Misconception(
        name="a dimension too many",
        replace=("    return m, l", "    return m[:, None], l[:, None]"),
        says="m and l have one number for each row: shape (rows,), without a dimension of size 1.",
    ),
    Misconception(
        name="no ValueError",
        replace=("if not blocks:", "if blocks is None:"),
        says="An empty list must raise ValueError with a sentence that helps; an IndexError from deep inside does not.",
    ),
    Misconception(
        name="zeros for an empty list",
        replace=(
            'raise ValueError("want at least one block, got an empty list")',
            "return torch.zeros(0), torch.zeros(0)",
        ),
        says="Nobody knows how many rows an empty list has. Raise ValueError.",
    ),
    Misconception(
        name="blocks changed in place",
        replace=("torch.exp(block - shift[:, None])", "block.sub_(shift[:, None]).exp()"),
        says="sub_ changes the caller's block. Use block - shift.",
    ),
    Misconception(
        name="base 2",
        replace=("torch.exp(block - shift[:, None])", "torch.exp2(block - shift[:, None])"),
        says="The exponential is to base e. exp2 is only right when the scores were multiplied by log2(e) before.",
    ),
)
ONLINE_RIGHT = (
    Variant(
        name="two passes over the list",
        code="""def online_softmax(blocks):
    if len(blocks) == 0:
        raise ValueError("no blocks")
    m = blocks[0].max(dim=1).values
    for b in blocks[1:]:
        m = torch.max(m, b.max(dim=1).values)
    base = torch.where(torch.isinf(m), torch.zeros_like(m), m)
    l = sum((b - base.unsqueeze(1)).exp().sum(1) for b in blocks)
    return m, l
""",
    ),
    Variant(
        name="a state for each block, merged by logaddexp",
        code="""def online_softmax(blocks):
    if not blocks:
        raise ValueError("no blocks")
    lse = torch.logsumexp(blocks[0], 1)
    m = blocks[0].amax(1)
    for b in blocks[1:]:
        lse = torch.logaddexp(lse, torch.logsumexp(b, 1))
        m = torch.maximum(m, b.amax(1))
    return [m, torch.where(m == -math.inf, torch.zeros_like(m), torch.exp(lse - m))]
""",
    ),
    Variant(
        name="plain Python, number by number",
        code="""def online_softmax(blocks):
    if not blocks:
        raise ValueError("no blocks")
    ms, ls = [], []
    for r in range(blocks[0].shape[0]):
        m, l = -math.inf, 0.0
        for b in blocks:
            for x in b[r].tolist():
                if x == -math.inf:
                    continue
                if x > m:
                    l, m = l * math.exp(m - x) + 1.0, x
                else:
                    l += math.exp(x - m)
        ms.append(m)
        ls.append(l)
    return torch.tensor(ms, dtype=blocks[0].dtype), torch.tensor(ls, dtype=blocks[0].dtype)
""",
    ),
    Variant(
        name="NumPy",
        code="""def online_softmax(blocks):
    import numpy as np
    if not blocks:
        raise ValueError("no blocks")
    x = np.concatenate([b.numpy() for b in blocks], axis=1)
    m = x.max(1)
    safe = np.where(np.isneginf(m), 0, m).astype(x.dtype)
    return torch.from_numpy(m), torch.from_numpy(np.exp(x - safe[:, None]).sum(1))
""",
    ),
    Variant(
        name="nan_to_num on the difference",
        code="""def online_softmax(blocks):
    if not blocks:
        raise ValueError("no blocks")
    rows = blocks[0].shape[0]
    m = torch.full((rows,), float("-inf"), dtype=blocks[0].dtype)
    l = torch.zeros(rows, dtype=blocks[0].dtype)
    for b in blocks:
        new = torch.max(m, b.max(1)[0])
        old = torch.exp((m - new).nan_to_num(nan=-math.inf, neginf=-math.inf))
        l = l * old + torch.exp((b - new[:, None]).nan_to_num(nan=-math.inf, neginf=-math.inf)).sum(-1)
        m = new
    return m, l
""",
    ),
)

# ---- merge_states


def _merge_states(m1, l1, o1, m2, l2, o2):
    lse1, lse2 = _wide(m1) + _wide(l1).log(), _wide(m2) + _wide(l2).log()
    m, lse = torch.maximum(_wide(m1), _wide(m2)), torch.logaddexp(lse1, lse2)
    empty = lse == -math.inf
    share1, share2 = (torch.where(empty, 0.0, torch.exp(part - lse)) for part in (lse1, lse2))
    l = torch.where(empty, 0.0, torch.exp(lse - m))
    o = share1[..., None] * _wide(o1) + share2[..., None] * _wide(o2)
    return m.to(m1.dtype), l.to(l1.dtype), o.to(o1.dtype)


def _state(rng: Rng, *shape, d=4, dtype=torch.float64, scale=1.0, shift=0.0):
    return (
        rng.normal(*shape, dtype=dtype, scale=scale, shift=shift),
        rng.uniform(*shape, low=1.0, high=9.0, dtype=dtype),
        rng.normal(*shape, d, dtype=dtype),
    )


def _emptied(state, where):
    m, l, o = state
    return m.masked_fill(where, -math.inf), l.masked_fill(where, 0.0), o.masked_fill(where[..., None], 0.0)


def _merge_cases(rng: Rng):
    yield Case(label="two rows", args=(*_state(rng, 2, d=3), *_state(rng, 2, d=3)))
    yield Case(label="leading dims (2, 3), 5 rows, width 4", args=(*_state(rng, 2, 3, 5), *_state(rng, 2, 3, 5)))
    m, l, o = _state(rng, 3, 5)
    yield Case(label="equal maxima", args=(m, l, o, m.clone(), *_state(rng, 3, 5)[1:]))
    yield Case(label="maxima 10000 and 9999", args=(*_state(rng, 3, shift=1e4), *_state(rng, 3, shift=1e4 - 1)))
    near, far = _state(rng, 3, dtype=torch.float32, shift=300.0), _state(rng, 3, dtype=torch.float32, shift=298.0)
    yield Case(label="float32, maxima near 300", args=(*near, *far), close=FLOAT32)
    low = _state(rng, 3, dtype=torch.float32, shift=-300.0)
    yield Case(label="float32, maxima near 300 and -300", args=(*near, *low), close=FLOAT32)
    yield Case(label="float32, maxima near -300 and 300", args=(*low, *far), close=FLOAT32)
    yield Case(
        label="float32, maxima near -300 both",
        args=(*low, *_state(rng, 3, dtype=torch.float32, shift=-301.0)),
        close=FLOAT32,
    )
    where1, where2 = torch.tensor([True, False, False, True]), torch.tensor([False, True, False, False])
    yield Case(
        label="some rows saw nothing on one side",
        args=(*_emptied(_state(rng, 4), where1), *_emptied(_state(rng, 4), where2)),
    )
    both = torch.tensor([True, False, True, False])
    yield Case(
        label="some rows saw nothing on both sides",
        args=(*_emptied(_state(rng, 4), both | where1), *_emptied(_state(rng, 4), both)),
    )
    yield Case(
        label="neither saw anything", args=(*_emptied(_state(rng, 2, 3), torch.ones(2, 3, dtype=torch.bool)),) * 2
    )
    yield Case(label="as many rows as width", args=(*_state(rng, 4), *_state(rng, 4)))
    yield Case(label="one row, width 1", args=(*_state(rng, 1, d=1), *_state(rng, 1, d=1)))
    x, v = rng.normal(3, 11, scale=2.0), rng.normal(11, 4)

    def whole(ask):
        def state(part):
            m = x[:, part].amax(1)
            p = torch.exp(x[:, part] - m[:, None])
            return m, p.sum(1), p @ v[part] / p.sum(1)[:, None]

        got = ask.call(*state(slice(0, 4)), *state(slice(4, 11)))
        ask.same(got, state(slice(0, 11)), "two halves merged are not the whole row's attention")
        three = ask.call(*ask.call(*state(slice(0, 2)), *state(slice(2, 5))), *state(slice(5, 11)))
        ask.same(three, state(slice(0, 11)), "three parts merged one after the other are not the whole row's attention")

    yield Scenario(label="parts of a real row", run=whole)


_MERGE_O = "o = (weight1 / total)[..., None] * o1 + (weight2 / total)[..., None] * o2"
MERGE_WRONG = (
    Misconception(
        name="plain average",
        replace=(_MERGE_O, "o = (o1 + o2) / 2"),
        says="The two sides did not see equally much. Weigh each output by its sum, put on the common maximum.",
    ),
    Misconception(
        name="weights without the maxima",
        replace=("l1 * torch.exp(m1 - shift), l2 * torch.exp(m2 - shift)", "l1, l2"),
        says="The sums were made with different maxima. Multiply each by exp(its maximum - the common one) first.",
    ),
    Misconception(
        name="weights without the sums",
        replace=(
            "l1 * torch.exp(m1 - shift), l2 * torch.exp(m2 - shift)",
            "torch.exp(m1 - shift), torch.exp(m2 - shift)",
        ),
        says="A side's weight is its whole sum of exponentials, l * exp(m - m'), not its largest one alone.",
    ),
    Misconception(
        name="outputs taken as not yet divided",
        replace=(
            _MERGE_O,
            "o = (torch.exp(m1 - shift)[..., None] * o1 + torch.exp(m2 - shift)[..., None] * o2) / total[..., None]",
        ),
        says="The outputs are already divided by their sums. Multiply each by its own l again, or it is divided twice.",
    ),
    Misconception(
        name="not divided",
        replace=(_MERGE_O, "o = weight1[..., None] * o1 + weight2[..., None] * o2"),
        says="The merged output must be a mean again: divide by the merged sum.",
    ),
    Misconception(
        name="outputs simply added",
        replace=(_MERGE_O, "o = o1 + o2"),
        says="Each output is a mean over its own keys. A mean over all is a weighted mean of the two, not their sum.",
    ),
    Misconception(
        name="NaN where neither saw anything",
        replace=("m.masked_fill(m == -math.inf, 0.0)", "m"),
        says="-inf - (-inf) is NaN. Where both maxima are -inf, subtract 0 instead.",
    ),
    Misconception(
        name="0 divided by 0",
        replace=("l.masked_fill(l == 0, 1.0)", "l"),
        says="Where neither side saw anything the sum is 0, and 0 / 0 is NaN. Divide by 1 there.",
    ),
    Misconception(
        name="factors upside down",
        replace=(
            "l1 * torch.exp(m1 - shift), l2 * torch.exp(m2 - shift)",
            "l1 * torch.exp(shift - m1), l2 * torch.exp(shift - m2)",
        ),
        says="The side with the smaller maximum must shrink: exp(m1 - m), not exp(m - m1).",
    ),
    Misconception(
        name="exponentials of the maxima themselves",
        code="def merge_states(m1, l1, o1, m2, l2, o2):\n    m = torch.maximum(m1, m2)\n    w1, w2 = l1 * torch.exp(m1), l2 * torch.exp(m2)\n    s = w1 + w2\n    t = torch.where(s == 0, 1.0, s)\n    return m, torch.where(s == 0, 0.0, s * torch.exp(-m)), (w1[..., None] * o1 + w2[..., None] * o2) / t[..., None]\n",
        says="exp(m) overflows for m = 300 in float32 and is 0 for m = -300. Subtract the common maximum first.",
    ),
    Misconception(
        name="the larger maximum takes all",
        replace=(_MERGE_O, "o = torch.where((m1 >= m2)[..., None], o1, o2)"),
        says="The side with the larger maximum does not take all: the other side's keys have weight too.",
    ),
    Misconception(
        name="weights swapped",
        replace=(_MERGE_O, "o = (weight2 / total)[..., None] * o1 + (weight1 / total)[..., None] * o2"),
        says="Each output is weighted by the other side's sum.",
    ),
    Misconception(
        name="the merged sum without the maxima",
        replace=("    return m, l, o", "    return m, l1 + l2, o"),
        says="The output is right, but the sum is not: l must be made with the merged maximum, so rescale both sums before adding.",
    ),
    Misconception(
        name="the first maximum kept",
        replace=("    return m, l, o", "    return m1, l, o"),
        says="The maximum of the whole is the larger of the two.",
    ),
    Misconception(
        name="log-sum-exp in place of the maximum",
        replace=("    return m, l, o", "    return m + torch.log(l), l, o"),
        says="Return the maximum itself. m + ln l is the log-sum-exp.",
    ),
    Misconception(
        name="a small number in the denominator",
        replace=("total = l.masked_fill(l == 0, 1.0)", "total = l + 1e-6"),
        says="A small number in the denominator biases every row. Treat the rows with sum 0 apart.",
    ),
    Misconception(
        name="one empty row decides for all",
        replace=(
            "    m = torch.maximum(m1, m2)",
            "    if (l1 == 0).any():\n        return m2, l2, o2\n    if (l2 == 0).any():\n        return m1, l1, o1\n    m = torch.maximum(m1, m2)",
        ),
        says="Each row is empty or not by itself. One empty row must not decide for the others.",
    ),
    Misconception(
        name="weights along the width",
        replace=(_MERGE_O, "o = (weight1 / total) * o1 + (weight2 / total) * o2"),
        says="The weights are (..., rows) and the outputs (..., rows, d). Without [..., None] they line up with the last dimension, the width.",
    ),
    Misconception(
        name="inputs changed in place",
        replace=(
            "weight1, weight2 = l1 * torch.exp(m1 - shift), l2 * torch.exp(m2 - shift)",
            "weight1, weight2 = l1.mul_(torch.exp(m1 - shift)), l2.mul_(torch.exp(m2 - shift))",
        ),
        says="mul_ changes the caller's sums. Use *.",
    ),
)
MERGE_RIGHT = (
    Variant(
        name="through log-sum-exps",
        code="""def merge_states(m1, l1, o1, m2, l2, o2):
    a, b = m1 + l1.log(), m2 + l2.log()
    m, lse = torch.maximum(m1, m2), torch.logaddexp(a, b)
    nothing = torch.isinf(lse)
    s1 = torch.where(nothing, torch.zeros_like(a), (a - lse).exp())
    s2 = torch.where(nothing, torch.zeros_like(b), (b - lse).exp())
    l = torch.where(nothing, torch.zeros_like(lse), (lse - m).exp())
    return m, l, s1.unsqueeze(-1) * o1 + s2.unsqueeze(-1) * o2
""",
    ),
    Variant(
        name="stacked, with einsum and nan_to_num",
        code="""def merge_states(m1, l1, o1, m2, l2, o2):
    ms, ls, os = torch.stack([m1, m2]), torch.stack([l1, l2]), torch.stack([o1, o2])
    m = ms.amax(0)
    w = ls * (ms - m).exp()
    w = torch.where(ls == 0, torch.zeros_like(w), w)
    l = w.sum(0)
    return m, l, torch.einsum("n...r,n...rd->...rd", (w / l).nan_to_num(0.0), os)
""",
    ),
    Variant(
        name="row by row in Python",
        code="""def merge_states(m1, l1, o1, m2, l2, o2):
    m, l, o = m1.clone(), l1.clone(), o1.clone()
    flat = [t.reshape(-1) for t in (m1, l1, m2, l2)]
    fo, fo1, fo2 = o.view(-1, o.shape[-1]), o1.reshape(-1, o1.shape[-1]), o2.reshape(-1, o2.shape[-1])
    fm, fl = m.view(-1), l.view(-1)
    for r, (a, s, b, t) in enumerate(zip(*(f.tolist() for f in flat))):
        top = max(a, b)
        if top == -math.inf:
            fm[r], fl[r], fo[r] = -math.inf, 0.0, 0.0
            continue
        s, t = s * math.exp(a - top), t * math.exp(b - top)
        fm[r], fl[r] = top, s + t
        fo[r] = (s * fo1[r] + t * fo2[r]) / (s + t)
    return m, l, o
""",
    ),
    Variant(
        name="a sigmoid of the difference of log-sum-exps",
        code="""def merge_states(m1, l1, o1, m2, l2, o2):
    m = torch.maximum(m1, m2)
    gap = (m1 + l1.log()) - (m2 + l2.log())
    first = torch.sigmoid(gap)
    first = torch.where(l1 == 0, torch.zeros_like(first), torch.where(l2 == 0, torch.ones_like(first), first))
    e1 = torch.where(l1 == 0, torch.zeros_like(l1), l1 * torch.exp(m1 - m))
    e2 = torch.where(l2 == 0, torch.zeros_like(l2), l2 * torch.exp(m2 - m))
    return (m, e1 + e2, torch.lerp(o2, o1, first[..., None]))
""",
    ),
)

# ---- flash_forward


def _scores(q, k, causal):
    x = _wide(q) @ _wide(k).transpose(-1, -2) / math.sqrt(q.shape[-1])
    if causal:
        hidden = torch.arange(k.shape[-2]) > torch.arange(q.shape[-2])[:, None] + k.shape[-2] - q.shape[-2]
        x = x.masked_fill(hidden, -math.inf)
    return x


def _flash_forward(q, k, v, block_q=32, block_k=32, causal=False):
    x = _scores(q, k, causal)
    weights = torch.nan_to_num(torch.softmax(x, dim=-1), nan=0.0)
    lse = torch.logsumexp(x, dim=-1) if k.shape[-2] else torch.full(q.shape[:-1], -math.inf)
    return (weights @ _wide(v)).to(q.dtype), lse.float()


def _qkv(rng: Rng, lead=(2, 3), T=7, S=11, d=5, d_v=6, dtype=torch.float32, scale=1.0):
    q, k = rng.normal(*lead, T, d, dtype=dtype, scale=scale), rng.normal(*lead, S, d, dtype=dtype, scale=scale)
    return q, k, rng.normal(*lead, S, d_v, dtype=dtype)


def _rising(rng: Rng, S: int, top: float):
    """One leading dim of 2, 3 queries, keys whose scores rise from -top to top for the first query."""
    q = torch.cat([torch.ones(2, 3, 1), rng.normal(2, 3, 3, dtype=torch.float32, scale=0.1)], dim=-1)
    k = torch.cat(
        [torch.linspace(-2 * top, 2 * top, S).expand(2, S)[..., None], rng.normal(2, S, 3, dtype=torch.float32)], -1
    )
    return q, k, rng.normal(2, S, 6, dtype=torch.float32)


def _forward_cases(rng: Rng):
    yield Case(label="one tile", args=_qkv(rng, T=3, S=5), close=FLOAT32)
    yield Case(label="several tiles, none of them full at the end", args=(*_qkv(rng), 3, 4), close=FLOAT32)
    yield Case(label="blocks larger than the text", args=(*_qkv(rng), 50, 70), close=FLOAT32)
    yield Case(label="scores rise from key to key", args=(*_rising(rng, 13, 20.0), 2, 3), close=FLOAT32)
    q, k, v = _rising(rng, 13, 20.0)
    yield Case(label="scores fall from key to key", args=(q, k.flip(-2), v, 2, 3), close=FLOAT32)
    yield Case(label="scores from -300 to 300", args=(*_rising(rng, 13, 300.0), 2, 5), close=Close(1e-3, 1e-4))
    q, k, v = _rising(rng, 13, 300.0)
    yield Case(label="scores from 300 to -300", args=(q, k.flip(-2), v, 2, 5), close=Close(1e-3, 1e-4))
    q, k, v = _qkv(rng)
    shifted = torch.cat([k[..., :4], k[..., 4:] - 400.0], dim=-1)
    yield Case(label="all scores near -300", args=(q.abs() + 0.5, shifted, v, 3, 4), close=Close(1e-3, 1e-4))
    yield Case(label="tiny queries and keys", args=(*_qkv(rng, scale=1e-3), 3, 4), close=FLOAT32)
    yield Case(label="causal, as many queries as keys", args=(*_qkv(rng, T=9, S=9), 2, 4, True), close=FLOAT32)
    yield Case(
        label="causal, tiles wider than high",
        args=(*_qkv(rng, T=11, S=11), 2, 5),
        kwargs={"causal": True},
        close=FLOAT32,
    )
    yield Case(
        label="causal, tiles higher than wide",
        args=(*_qkv(rng, T=11, S=11), 5, 2),
        kwargs={"causal": True},
        close=FLOAT32,
    )
    yield Case(
        label="causal, fewer queries than keys: aligned at the bottom right",
        args=(*_qkv(rng, T=4, S=11), 3, 4, True),
        close=FLOAT32,
    )
    yield Case(
        label="causal, more queries than keys: the first see nothing",
        args=(*_qkv(rng, T=10, S=6), 3, 4, True),
        close=FLOAT32,
    )
    yield Case(label="causal, many empty rows within one tile", args=(*_qkv(rng, T=9, S=3), 7, 2, True), close=FLOAT32)
    yield Case(label="causal, one query", args=(*_qkv(rng, T=1, S=6), 3, 4, True), close=FLOAT32)
    for T in (5, 7):
        yield Case(label=f"{T} queries, blocks of 6", args=(*_qkv(rng, T=T), 6, 4), close=FLOAT32)
    for S in (5, 7):
        yield Case(label=f"{S} keys, blocks of 6", args=(*_qkv(rng, S=S), 4, 6), close=FLOAT32)
    yield Case(label="tiles of one query and one key, causal", args=(*_qkv(rng, (2,), 4, 5), 1, 1, True), close=FLOAT32)
    yield Case(label="one key", args=_qkv(rng, S=1), close=FLOAT32)
    yield Case(label="no leading dims", args=(*_qkv(rng, (), 4, 5), 3, 3), close=FLOAT32)
    yield Case(label="three leading dims", args=(*_qkv(rng, (2, 1, 3), 4, 5), 3, 3), close=FLOAT32)
    yield Case(label="no keys at all", args=(*_qkv(rng, T=3, S=0), 2, 2), close=FLOAT32)
    yield Case(label="no queries at all", args=(*_qkv(rng, T=0, S=3), 2, 2), close=FLOAT32)

    def keeps_its_dtype(value):
        o = value[0]
        return None if o.dtype == torch.float64 else f"o must have q's dtype, float64, got {o.dtype}"

    wide = Case(
        label="float64",
        args=(*_qkv(rng, dtype=torch.float64), 3, 4),
        close=FLOAT32,
        exact_dtype=False,
        holds=keeps_its_dtype,
    )
    yield wide
    yield Case(label="bfloat16, output and log-sum-exp", args=(*_qkv(rng, S=5, dtype=torch.bfloat16), 3, 2))
    yield Case(
        label="float16, 2000 keys: sums kept in float32", args=(*_qkv(rng, (2,), 3, 2000, dtype=torch.float16), 2, 300)
    )
    q, k, v = _qkv(rng, T=7, S=7, d=5, d_v=5)
    views = tuple(Code(TRANSPOSED, (x.transpose(-1, -2).contiguous(),)) for x in (q, k, v))
    yield Case(
        label="transposed views", args=(*views, 3, 4, True), expect=_flash_forward(q, k, v, causal=True), close=FLOAT32
    )
    shared = (Code(EXPANDED, (x, 3, *x.shape[1:])) for x in _qkv(rng, (1,)))
    yield Case(label="keys and values expanded over heads", args=(*shared, 3, 4), close=FLOAT32)
    for causal in (False, True):
        q, k, v = _qkv(rng, (2,), 60, 66)
        yield Case(
            label=f"{'causal, ' if causal else ''}no array as large as the table of scores",
            function="without_table",
            args=(60 * 66, "flash_forward", q, k, v, 9, 8, causal),
            expect=_flash_forward(q, k, v, causal=causal),
            close=FLOAT32,
        )
    q, k, v = _qkv(rng, (2,), 8, 8)

    def no_look_ahead(ask):
        before = ask.call(q, k, v, 3, 3, True)
        later_k, later_v = k.clone(), v.clone()
        later_k[:, 5:], later_v[:, 5:] = 1e3, 1e9
        after = ask.call(q, later_k, later_v, 3, 3, True)
        for a, b in zip(after, before):
            ask.same(a[:, :5], b[:, :5], "keys 5, 6 and 7 changed what queries 0 to 4 see", Close(1e-6, 1e-6))

    yield Scenario(label="causal: later keys change nothing for earlier queries", run=no_look_ahead)


_LSE = "(m + torch.log(l)).float()"
_DIVIDE = "(a / l.masked_fill(l == 0, 1.0)[..., None]).to(q.dtype)"
_UPDATE_A = "a = a * rescale[..., None] + p @ v[..., columns, :].to(wide)"
_SCORES_LINE = "scores = q_tile @ k[..., columns, :].to(wide).transpose(-1, -2)"
_LAST = "last = min(S, rows.stop + S - T) if causal else S"
_HIDE = "scores = scores.masked_fill(column > row + S - T, -math.inf)"
_WHOLE = """def flash_forward(q, k, v, block_q=32, block_k=32, causal=False):
    T, S = q.shape[-2], k.shape[-2]
    x = q.float() @ k.float().transpose(-1, -2) * q.shape[-1] ** -0.5
    if causal:
        x = x.masked_fill(torch.arange(S) > torch.arange(T)[:, None] + S - T, -math.inf)
    lse = torch.logsumexp(x, -1) if S else torch.full(q.shape[:-1], -math.inf)
    return (torch.softmax(x, -1).nan_to_num(0.0) @ v.float()).to(q.dtype), lse
"""
FORWARD_WRONG = (
    Misconception(
        name="the output is not rescaled",
        replace=("a * rescale[..., None]", "a"),
        says="When the maximum grows, the unfinished output was made with the old one. Multiply it by exp(old - new), as you do with the sum.",
    ),
    Misconception(
        name="the sum is not rescaled",
        replace=("l * rescale + p", "l + p"),
        says="When the maximum grows, the sum was made with the old one. Multiply it by exp(old - new), as you do with the output.",
    ),
    Misconception(
        name="neither is rescaled",
        replace=("rescale = torch.exp(m - shift)", "rescale = torch.ones_like(m)"),
        says="When the maximum grows, sum and output were made with the old one. Multiply both by exp(old - new).",
    ),
    Misconception(
        name="the factor upside down",
        replace=("rescale = torch.exp(m - shift)", "rescale = torch.exp(shift - m.masked_fill(m == -math.inf, 0.0))"),
        says="Old sums shrink when the maximum grows: the factor is exp(old - new), not exp(new - old).",
    ),
    Misconception(
        name="no maximum subtracted",
        replace=("new_m = torch.maximum(m, scores.amax(dim=-1))", "new_m = torch.zeros_like(m)"),
        says="Without the maximum exp overflows: exp(89) is infinite in float32, and 300 is a legal score.",
    ),
    Misconception(
        name="the first tile's maximum for good",
        replace=(
            "new_m = torch.maximum(m, scores.amax(dim=-1))",
            "new_m = torch.where(m == -math.inf, scores.amax(dim=-1), m)",
        ),
        says="You keep the maximum of the first tile. When scores rise from tile to tile, exp overflows. Take the larger of old and new.",
    ),
    Misconception(
        name="each tile with its own maximum",
        replace=("new_m = torch.maximum(m, scores.amax(dim=-1))", "new_m = scores.amax(dim=-1)"),
        says="The running maximum is the larger of the old one and the tile's. Yours forgets the old one: where a tile holds only small scores, exp(old - new) overflows.",
    ),
    Misconception(
        name="one maximum for the whole tile",
        replace=("scores.amax(dim=-1))", "scores.amax().expand(m.shape))"),
        says="Each row has its own maximum. With one for the whole tile, rows of small scores underflow to 0.",
    ),
    Misconception(
        name="not divided by the sum",
        replace=(_DIVIDE, "a.to(q.dtype)"),
        says="Divide by the sum at the end, or the weights do not sum to 1.",
    ),
    Misconception(
        name="divided at every tile",
        replace=(
            _UPDATE_A,
            "a = (a * rescale[..., None] + p @ v[..., columns, :].to(wide)) / l.masked_fill(l == 0, 1.0)[..., None]",
        ),
        says="You divide by the running sum at every tile and again at the end. Either keep the output unfinished and divide once, or undo the old division first.",
    ),
    Misconception(
        name="divided at every tile, not at the end",
        code="""def flash_forward(q, k, v, block_q=32, block_k=32, causal=False):
    T, S = q.shape[-2], k.shape[-2]
    o = torch.zeros(*q.shape[:-1], v.shape[-1])
    m = torch.full(q.shape[:-1], -math.inf)
    l = torch.zeros_like(m)
    for j in range(0, S, block_k):
        c = slice(j, min(j + block_k, S))
        x = q.float() @ k[..., c, :].float().transpose(-1, -2) * q.shape[-1] ** -0.5
        if causal:
            x = x.masked_fill(torch.arange(c.start, c.stop) > torch.arange(T)[:, None] + S - T, -math.inf)
        new = torch.maximum(m, x.amax(-1))
        base = torch.where(new == -math.inf, 0.0, new)
        p, r = torch.exp(x - base[..., None]), torch.exp(m - base)
        l = l * r + p.sum(-1)
        o = (o * r[..., None] + p @ v[..., c, :].float()) / torch.where(l == 0, 1.0, l)[..., None]
        m = new
    return o.to(q.dtype), torch.where(l == 0, -math.inf, m + torch.log(l))
""",
        says="The old output was already divided by the old sum. Multiply it by that sum before you add, or keep it unfinished and divide once at the end.",
    ),
    Misconception(
        name="log-sum-exp without the maximum",
        replace=(_LSE, "torch.log(l).float()"),
        says="The sum was made with exp(x - m), so the log-sum-exp is m + ln l.",
    ),
    Misconception(
        name="the maximum as log-sum-exp",
        replace=(_LSE, "m.float()"),
        says="The maximum alone is no log-sum-exp: add ln l.",
    ),
    Misconception(
        name="log-sum-exp without the logarithm",
        replace=(_LSE, "(m + l).masked_fill(l == 0, -math.inf).float()"),
        says="Add the logarithm of the sum to the maximum, not the sum.",
    ),
    Misconception(
        name="log-sum-exp to base 2",
        replace=(_LSE, "((m + torch.log(l)) / math.log(2)).float()"),
        says="The log-sum-exp is natural. Kernels use base 2 inside, and multiply by ln 2 on the way out.",
    ),
    Misconception(
        name="maximum natural, logarithm to base 2",
        replace=(_LSE, "(m + torch.log2(l)).float()"),
        says="m is natural and log2(l) is not. Use the natural logarithm of both.",
    ),
    Misconception(
        name="log-sum-exp of scores without the scale",
        replace=(_LSE, "(m / scale + torch.log(l)).float()"),
        says="The log-sum-exp is that of the scaled scores, so the maximum in it is the scaled one.",
    ),
    Misconception(
        name="last block of queries dropped",
        replace=("for top in range(0, T, block_q):", "for top in range(0, T - block_q + 1, block_q):"),
        says="The last block of queries is shorter than block_q and is left out. Walk on to T and cut the block short.",
    ),
    Misconception(
        name="last block of keys dropped",
        replace=("for left in range(0, last, block_k):", "for left in range(0, last // block_k * block_k, block_k):"),
        says="The last block of keys is shorter than block_k and is left out. Walk on to the end and cut the block short.",
    ),
    Misconception(
        name="causal at the top left",
        replace=(_HIDE, "scores = scores.masked_fill(column > row, -math.inf)"),
        says="You align at the top left: query i sees keys 0 .. i. Here the last query sees all keys: query i sees keys 0 .. i + S - T.",
    ),
    Misconception(
        name="causal shifted to the right only",
        replace=(_HIDE, "scores = scores.masked_fill(column > row + max(S - T, 0), -math.inf)"),
        says="With more queries than keys the shift S - T is negative: the first queries see nothing.",
    ),
    Misconception(
        name="a small number inside the logarithm",
        replace=(_LSE, "(m + torch.log(l + 1e-3)).float()"),
        says="A small number inside the logarithm biases every row's log-sum-exp. The sum is at least 1 where a row sees anything.",
    ),
    Misconception(
        name="causal with the shift reversed",
        replace=(_HIDE, "scores = scores.masked_fill(column > row + T - S, -math.inf)"),
        says="The shift has the wrong sign: query i sees the keys up to i + S - T.",
    ),
    Misconception(
        name="a query does not see itself",
        replace=(_HIDE, "scores = scores.masked_fill(column >= row + S - T, -math.inf)"),
        says="Hide keys that come strictly later. You hide the query's own key too.",
    ),
    Misconception(
        name="a query sees the next key",
        replace=(_HIDE, "scores = scores.masked_fill(column > row + S - T + 1, -math.inf)"),
        says="A query sees one key too many: the one after its own position.",
    ),
    Misconception(
        name="the diagonal of the tile instead of the table",
        replace=("column > row + S - T", "column - columns.start > row - rows.start"),
        says="Every tile gets the same triangle. What is hidden depends on where the tile stands: compare row and column numbers of the whole table.",
    ),
    Misconception(
        name="tile on the diagonal skipped",
        replace=(_LAST, "last = max(0, min(S, rows.start + S - T)) if causal else S"),
        says="You stop before the tile that holds the diagonal. The last row of the block sees keys up to its own position: go that far, and mask.",
    ),
    Misconception(
        name="causal ignored",
        replace=("            if causal:\n", "            if False:\n"),
        says="Tiles right of the diagonal are skipped but the tile on the diagonal is not masked: early rows of a block see later keys.",
    ),
    Misconception(
        name="-1000000 instead of -inf",
        replace=(_HIDE, "scores = scores.masked_fill(column > row + S - T, -1e6)"),
        says="A row in which all is hidden becomes a uniform average of what it must not see. Fill with -inf, and treat empty rows apart.",
    ),
    Misconception(
        name="NaN in empty rows",
        replace=("new_m.masked_fill(new_m == -math.inf, 0.0)", "new_m"),
        says="Where a row has seen nothing yet its maximum is -inf, and -inf - (-inf) is NaN. Subtract 0 there.",
    ),
    Misconception(
        name="0 divided by 0",
        replace=("l.masked_fill(l == 0, 1.0)", "l"),
        says="A row that sees nothing has the sum 0, and 0 / 0 is NaN. It must give 0.",
    ),
    Misconception(
        name="log-sum-exp 0 for empty rows",
        replace=(_LSE, "(m.masked_fill(l == 0, 0.0) + torch.log(l.masked_fill(l == 0, 1.0))).float()"),
        says="A row that sees nothing has the log-sum-exp -inf, ln 0. The backward pass relies on it.",
    ),
    Misconception(
        name="no scale",
        replace=(" * scale\n        m = ", "\n        m = "),
        says="Scores are divided by sqrt(D).",
    ),
    Misconception(
        name="scale 1/D",
        replace=("q.shape[-1] ** -0.5", "1.0 / q.shape[-1]"),
        says="Scores are divided by sqrt(D), not by D.",
    ),
    Misconception(
        name="scale from the width of the values",
        replace=("q.shape[-1] ** -0.5", "v.shape[-1] ** -0.5"),
        says="The scale comes from D, the width of queries and keys. The values' width may be another.",
    ),
    Misconception(
        name="scaled twice",
        replace=(_SCORES_LINE, _SCORES_LINE + " * scale"),
        says="Queries are already scaled when you scale the scores. Do it once.",
    ),
    Misconception(
        name="output as wide as the queries",
        replace=("v.shape[-1], dtype=q.dtype", "q.shape[-1], dtype=q.dtype"),
        says="The output has the width of the values, D_v.",
    ),
    Misconception(
        name="sums in the inputs' dtype",
        replace=("wide = torch.promote_types(q.dtype, torch.float32)", "wide = q.dtype"),
        says="In float16 and bfloat16 a sum over many keys loses its small terms. Keep scores and sums in float32.",
    ),
    Misconception(
        name="sum of rounded weights",
        replace=(
            "p = torch.exp(scores - shift[..., None])",
            "p = torch.exp(scores - shift[..., None]).to(q.dtype).to(wide)",
        ),
        says="You round the weights to the inputs' dtype before you sum them. Sum in float32; round for the product with the values, if you must.",
    ),
    Misconception(
        name="scores in the inputs' dtype",
        replace=(_SCORES_LINE, "scores = ((q[..., rows, :] @ k[..., columns, :].transpose(-1, -2)) * scale).to(wide)"),
        says="The scores were rounded to the inputs' dtype. Convert queries and keys to float32 before you multiply.",
    ),
    Misconception(
        name="log-sum-exp in the inputs' dtype",
        replace=(_LSE, "(m + torch.log(l)).to(q.dtype)"),
        says="The log-sum-exp is float32 whatever the dtype of q: in bfloat16 it would have three digits.",
    ),
    Misconception(
        name="output in float32",
        replace=("    return o, lse", "    return o.float(), lse"),
        says="The output has q's dtype.",
    ),
    Misconception(
        name="the whole table at once",
        code=_WHOLE,
        says="This is standard attention: it holds all T x S scores. Hold one tile at a time.",
        same_as=("the whole mask at once",),
    ),
    Misconception(
        name="the whole mask at once",
        replace=(
            "    for top in range(0, T, block_q):",
            "    hidden = torch.ones(T, S, dtype=torch.bool).triu(S - T + 1)\n    for top in range(0, T, block_q):",
        ),
        says="The mask is as large as the table of scores. Make each tile's mask from its row and column numbers.",
        same_as=("the whole table at once",),
    ),
    Misconception(
        name="four dimensions assumed",
        replace=(
            "    T, S, scale = q.shape[-2], k.shape[-2], q.shape[-1] ** -0.5",
            "    B, H, T, D = q.shape\n    S, scale = k.shape[2], D**-0.5",
        ),
        says="There may be any number of leading dims, none included. Address dimensions from the end.",
    ),
    Misconception(
        name="as many keys as queries assumed",
        replace=(_LAST, "S = T\n        last = min(S, rows.stop + S - T) if causal else S"),
        says="You take the number of keys from the queries. They may differ.",
    ),
    Misconception(
        name="queries scaled in place",
        replace=("q_tile = q[..., rows, :].to(wide) * scale", "q_tile = q[..., rows, :].mul_(scale).to(wide)"),
        says="mul_ changes the caller's queries. Use *.",
    ),
    Misconception(
        name="a small number in the denominator",
        replace=("l.masked_fill(l == 0, 1.0)", "(l + 1e-3)"),
        says="A small number in the denominator biases every row. Treat the rows with sum 0 apart.",
    ),
)
FORWARD_RIGHT = (
    Variant(
        name="float64 inside, merge_states, one tile's triangle",
        code="""def flash_forward(q, k, v, block_q=32, block_k=32, causal=False):
    T, S = q.shape[-2], k.shape[-2]
    o = torch.zeros(*q.shape[:-1], v.shape[-1], dtype=torch.float64)
    m, l = torch.full(q.shape[:-1], -math.inf, dtype=torch.float64), torch.zeros(q.shape[:-1], dtype=torch.float64)
    for i in range(0, T, block_q):
        rows = slice(i, min(T, i + block_q))
        for j in range(0, S, block_k):
            kj, vj = (x[..., j:j + block_k, :].double() for x in (k, v))
            x = torch.matmul(q[..., rows, :].double(), kj.transpose(-2, -1)) / math.sqrt(q.shape[-1])
            if causal:
                x = x.masked_fill(~torch.ones(x.shape[-2:], dtype=torch.bool).tril(diagonal=i + S - T - j), -math.inf)
            top = x.amax(-1)
            p = torch.exp(x - top.masked_fill(top.isneginf(), 0.0).unsqueeze(-1))
            part = top, p.sum(-1), p @ vj / p.sum(-1, keepdim=True).clamp(min=1e-300)
            m[..., rows], l[..., rows], o[..., rows, :] = merge_states(m[..., rows], l[..., rows], o[..., rows, :], *part)
    return o.to(q.dtype), (m + l.log()).float()
""",
    ),
    Variant(
        name="keys outside, queries inside, all statistics kept",
        code="""def flash_forward(q, k, v, block_q=32, block_k=32, causal=False):
    T, S = q.shape[-2], k.shape[-2]
    dt = torch.float64 if q.dtype == torch.float64 else torch.float32
    acc = torch.zeros(q.shape[:-1] + v.shape[-1:], dtype=dt)
    m = torch.full(q.shape[:-1], float("-inf"), dtype=dt)
    l = torch.zeros(q.shape[:-1], dtype=dt)
    for j0 in range(0, S, block_k):
        j1 = min(S, j0 + block_k)
        kj, vj = k[..., j0:j1, :].to(dt), v[..., j0:j1, :].to(dt)
        for i0 in range(0, T, block_q):
            i1 = min(T, i0 + block_q)
            if causal and j0 > i1 - 1 + S - T:
                continue
            s = torch.einsum("...td,...sd->...ts", q[..., i0:i1, :].to(dt), kj) / math.sqrt(q.shape[-1])
            if causal:
                ok = (torch.arange(i0, i1)[:, None] + (S - T)) >= torch.arange(j0, j1)[None]
                s = torch.where(ok, s, torch.full_like(s, float("-inf")))
            mi = m[..., i0:i1]
            new = torch.maximum(mi, s.max(-1).values)
            safe = torch.where(torch.isinf(new), torch.zeros_like(new), new)
            p = (s - safe.unsqueeze(-1)).exp()
            f = (mi - safe).exp()
            l[..., i0:i1] = l[..., i0:i1] * f + p.sum(-1)
            acc[..., i0:i1, :] = acc[..., i0:i1, :] * f.unsqueeze(-1) + p @ vj
            m[..., i0:i1] = new
    out = torch.where((l > 0).unsqueeze(-1), acc / l.clamp_min(1e-300 if dt == torch.float64 else 1e-38).unsqueeze(-1), torch.zeros_like(acc))
    return out.to(q.dtype), (m + l.log()).float()
""",
    ),
    Variant(
        name="finished outputs, merged by log-sum-exps",
        code="""def flash_forward(q, k, v, block_q=32, block_k=32, causal=False):
    T, S = q.shape[-2], k.shape[-2]
    dt = torch.promote_types(q.dtype, torch.float32)
    outs, lses = [], []
    for i in range(0, T, block_q):
        qi = q[..., i:i + block_q, :].to(dt) / q.shape[-1] ** 0.5
        o = torch.zeros(*qi.shape[:-1], v.shape[-1], dtype=dt)
        lse = torch.full(qi.shape[:-1], -math.inf, dtype=dt)
        for j in range(0, S, block_k):
            s = qi @ k[..., j:j + block_k, :].to(dt).mT
            if causal:
                r = torch.arange(i, i + s.shape[-2]) + S - T
                s = s + torch.where(torch.arange(j, j + s.shape[-1]) > r[:, None], -math.inf, 0.0)
            here = torch.logsumexp(s, -1)
            both = torch.logaddexp(lse, here)
            safe = both.masked_fill(both == -math.inf, 0.0)
            o = o * torch.exp(lse - safe)[..., None] + torch.exp(s - safe[..., None]) @ v[..., j:j + block_k, :].to(dt)
            lse = both
        outs.append(o)
        lses.append(lse)
    if not outs:
        return q.new_zeros(*q.shape[:-1], v.shape[-1]), torch.zeros(q.shape[:-1])
    return torch.cat(outs, -2).to(q.dtype), torch.cat(lses, -1).float()
""",
    ),
    Variant(
        name="leading dims flattened, one head after the other, base 2 inside",
        code="""def flash_forward(q, k, v, block_q=32, block_k=32, causal=False):
    lead, T, S, D, Dv = q.shape[:-2], q.shape[-2], k.shape[-2], q.shape[-1], v.shape[-1]
    n = math.prod(lead)
    Q, K, V = q.reshape(n, T, D), k.reshape(n, S, D), v.reshape(n, S, Dv)
    o, lse = torch.zeros(n, T, Dv, dtype=q.dtype), torch.full((n, T), -math.inf)
    c = math.log2(math.e) / math.sqrt(D)
    for h in range(n):
        for i in range(0, T, block_q):
            qi = Q[h, i:i + block_q].float() * c
            m, l, a = torch.full((len(qi),), -math.inf), torch.zeros(len(qi)), torch.zeros(len(qi), Dv)
            for j in range(0, S, block_k):
                kj, vj = K[h, j:j + block_k].float(), V[h, j:j + block_k].float()
                s = qi @ kj.T
                if causal:
                    s[torch.arange(j, j + len(kj))[None, :] - torch.arange(i, i + len(qi))[:, None] > S - T] = -math.inf
                new = torch.maximum(m, s.amax(1))
                use = torch.where(new == -math.inf, 0.0, new)
                p, f = torch.exp2(s - use[:, None]), torch.exp2(m - use)
                l, a, m = l * f + p.sum(1), a * f[:, None] + p @ vj, new
            seen = l > 0
            o[h, i:i + block_q] = torch.where(seen[:, None], a / torch.where(seen, l, 1.0)[:, None], 0.0).to(q.dtype)
            lse[h, i:i + block_q] = torch.where(seen, (m + torch.log2(l)) * math.log(2), -math.inf)
    return o.reshape(*lead, T, Dv), lse.reshape(*lead, T)
""",
    ),
    Variant(
        name="a block of queries against all keys it sees",
        code="""def flash_forward(q, k, v, block_q=32, block_k=32, causal=False):
    T, S = q.shape[-2], k.shape[-2]
    wide = torch.promote_types(q.dtype, torch.float32)
    o, lse = q.new_zeros(*q.shape[:-1], v.shape[-1]), torch.full(q.shape[:-1], -math.inf)
    for i in range(0, T, block_q):
        rows = slice(i, i + block_q)
        n = len(range(T)[rows])
        s = q[..., rows, :].to(wide) @ k.to(wide).transpose(-1, -2) * q.shape[-1] ** -0.5
        if causal:
            s = s.masked_fill(torch.arange(S) > torch.arange(i, i + n)[:, None] + S - T, -math.inf)
        if S == 0:
            continue
        lse[..., rows] = torch.logsumexp(s, -1).float()
        o[..., rows, :] = (torch.softmax(s, -1).nan_to_num(0.0) @ v.to(wide)).to(q.dtype)
    return o, lse
""",
    ),
    Variant(
        name="NumPy",
        code="""def flash_forward(q, k, v, block_q=32, block_k=32, causal=False):
    import numpy as np
    Q, K, V = (x.to(torch.promote_types(x.dtype, torch.float32)).numpy() for x in (q, k, v))
    T, S, D = Q.shape[-2], K.shape[-2], Q.shape[-1]
    out, lse = np.zeros(Q.shape[:-1] + V.shape[-1:], Q.dtype), np.full(Q.shape[:-1], -np.inf, np.float32)
    for i in range(0, T, block_q):
        i2 = min(i + block_q, T)
        m = np.full(Q.shape[:-2] + (i2 - i,), -np.inf, Q.dtype)
        l, a = np.zeros_like(m), np.zeros(m.shape + V.shape[-1:], Q.dtype)
        for j in range(0, S, block_k):
            j2 = min(j + block_k, S)
            s = Q[..., i:i2, :] @ np.swapaxes(K[..., j:j2, :], -1, -2) / np.asarray(D**0.5, Q.dtype)
            if causal:
                s = np.where(np.arange(j, j2) > np.arange(i, i2)[:, None] + S - T, np.asarray(-np.inf, Q.dtype), s)
            new = np.maximum(m, s.max(-1))
            safe = np.where(np.isinf(new), np.asarray(0, Q.dtype), new)
            p, f = np.exp(s - safe[..., None]), np.exp(m - safe)
            l, a, m = l * f + p.sum(-1), a * f[..., None] + p @ V[..., j:j2, :], new
        with np.errstate(divide="ignore"):
            out[..., i:i2, :] = a / np.where(l == 0, 1, l)[..., None]
            lse[..., i:i2] = m + np.log(l)
    return torch.from_numpy(out).to(q.dtype), torch.from_numpy(lse)
""",
    ),
)

# ---- flash_backward


def _flash_backward(q, k, v, o, lse, do, block_q=32, block_k=32, causal=False):
    with torch.enable_grad():
        wide = [_wide(x).requires_grad_() for x in (q, k, v)]
        x = wide[0] @ wide[1].transpose(-1, -2) / math.sqrt(q.shape[-1])
        hidden = torch.zeros(q.shape[-2], k.shape[-2], dtype=torch.bool)
        if causal:
            hidden = torch.arange(k.shape[-2]) > torch.arange(q.shape[-2])[:, None] + k.shape[-2] - q.shape[-2]
        x = torch.where(hidden, -1e30, x)
        weights = torch.where(hidden.all(-1, keepdim=True), 0.0, torch.softmax(x, dim=-1))
        found = torch.autograd.grad((weights @ wide[2] * _wide(do)).sum(), wide)
    return tuple(g.to(x.dtype) for g, x in zip(found, (q, k, v)))


def _backward_args(rng: Rng, *sizes, causal=False, qkv=None, **options):
    q, k, v = qkv or _qkv(rng, *sizes, **options)
    o, lse = _flash_forward(q, k, v, causal=causal)
    return q, k, v, o, lse, rng.normal(*o.shape, dtype=o.dtype)


def _backward_cases(rng: Rng):
    yield Case(label="one tile", args=_backward_args(rng, T=3, S=5), close=FLOAT32)
    yield Case(label="several tiles, none of them full at the end", args=(*_backward_args(rng), 3, 4), close=FLOAT32)
    yield Case(label="three blocks of keys, one of queries", args=(*_backward_args(rng), 8, 4), close=FLOAT32)
    yield Case(label="three blocks of queries, one of keys", args=(*_backward_args(rng), 3, 20), close=FLOAT32)
    yield Case(label="blocks larger than the text", args=(*_backward_args(rng), 50, 70), close=FLOAT32)
    yield Case(
        label="values as wide as keys, as many keys as queries",
        args=(*_backward_args(rng, T=7, S=7, d=5, d_v=5), 3, 4),
        close=FLOAT32,
    )
    args = _backward_args(rng, T=9, S=9, causal=True)
    yield Case(label="causal, as many queries as keys", args=(*args, 2, 4, True), close=FLOAT32)
    yield Case(label="causal, tiles higher than wide", args=(*args, 5, 2, True), close=FLOAT32)
    args = _backward_args(rng, T=4, S=11, causal=True)
    yield Case(
        label="causal, fewer queries than keys: aligned at the bottom right",
        args=(*args, 3, 4),
        kwargs={"causal": True},
        close=FLOAT32,
    )
    args = _backward_args(rng, T=10, S=6, causal=True)
    yield Case(label="causal, more queries than keys: the first saw nothing", args=(*args, 3, 4, True), close=FLOAT32)
    args = _backward_args(rng, (2,), 4, 5, causal=True)
    yield Case(label="tiles of one query and one key, causal", args=(*args, 1, 1, True), close=FLOAT32)
    args = _backward_args(rng, qkv=_rising(rng, 13, 20.0))
    yield Case(label="scores rise from key to key", args=(*args, 2, 3), close=Close(1e-3, 1e-4))
    args = _backward_args(rng, qkv=_rising(rng, 13, 300.0))
    yield Case(label="scores from -300 to 300", args=(*args, 2, 5), close=Close(2e-3, 5e-2))
    args = _backward_args(rng, scale=1e-3)
    yield Case(label="tiny queries and keys", args=(*args, 3, 4), close=Close(1e-4, 1e-8))
    yield Case(label="one key", args=(*_backward_args(rng, S=1), 3, 4), close=FLOAT32)
    yield Case(label="no leading dims", args=(*_backward_args(rng, (), 4, 5), 3, 3), close=FLOAT32)
    yield Case(label="three leading dims", args=(*_backward_args(rng, (2, 1, 3), 4, 5), 3, 3), close=FLOAT32)
    yield Case(label="float64", args=(*_backward_args(rng, dtype=torch.float64), 3, 4), close=FLOAT32)
    q, k, v, o, lse, do = _backward_args(rng, T=7, S=7, d=5, d_v=5)
    views = tuple(Code(TRANSPOSED, (x.transpose(-1, -2).contiguous(),)) for x in (q, k, v, o))
    dout = Code(EXPANDED, (do[..., :1, :].contiguous(), *do.shape))
    want = _flash_backward(q, k, v, o, lse, do[..., :1, :].expand(do.shape))
    yield Case(
        label="transposed views, and an expanded gradient", args=(*views, lse, dout, 3, 4), expect=want, close=FLOAT32
    )
    for causal in (False, True):
        args = _backward_args(rng, (2,), 60, 66, causal=causal)
        yield Case(
            label=f"{'causal, ' if causal else ''}no array as large as the table of scores",
            function="without_table",
            args=(60 * 66, "flash_backward", *args, 9, 8, causal),
            expect=_flash_backward(*args, causal=causal),
            close=FLOAT32,
        )


_DELTA = "delta = (do * o).sum(dim=-1)"
_DX = "dx = p * (dp - delta[..., rows, None]) * scale"
_P = "p = torch.exp(scores - safe_lse[..., rows, None])"
_DV = "dv[..., columns, :] += p.transpose(-1, -2) @ do[..., rows, :]"
_DK = "dk[..., columns, :] += dx.transpose(-1, -2) @ q[..., rows, :]"
_DQ = "dq[..., rows, :] += dx @ k[..., columns, :]"
_SKIP = "if causal and columns.start > rows.stop - 1 + S - T:"
_BACK_SCORES = "scores = q[..., rows, :] @ k[..., columns, :].transpose(-1, -2) * scale"
BACKWARD_WRONG = (
    Misconception(
        name="no causal mask",
        replace=("            if causal:\n", "            if False:\n"),
        says="The forward pass hid later keys, so the backward pass must hide them too, on the tiles of the diagonal as well.",
    ),
    Misconception(
        name="causal at the top left",
        replace=(_HIDE, "scores = scores.masked_fill(column > row, -math.inf)"),
        says="You align at the top left. Query i saw keys 0 .. i + S - T.",
    ),
    Misconception(
        name="a query does not see itself",
        replace=(_HIDE, "scores = scores.masked_fill(column >= row + S - T, -math.inf)"),
        says="Hide keys that come strictly later. You hide the query's own key too.",
    ),
    Misconception(
        name="the diagonal of the tile instead of the table",
        replace=("column > row + S - T", "column - columns.start > row - rows.start"),
        says="Every tile gets the same triangle. What is hidden depends on where the tile stands: compare row and column numbers of the whole table.",
    ),
    Misconception(
        name="tile on the diagonal skipped",
        replace=(_SKIP, "if causal and columns.stop > rows.start + S - T:"),
        says="You skip tiles that hold visible pairs. A tile is hidden only when its first column lies right of the last row's position.",
    ),
    Misconception(
        name="delta missing",
        replace=(_DX, "dx = p * dp * scale"),
        says="The weights of a row sum to 1, so raising one lowers the others. That is the term delta = rowsum(do * o).",
    ),
    Misconception(
        name="delta averaged",
        replace=(_DELTA, "delta = (do * o).mean(dim=-1)"),
        says="Delta is a sum over the width, not a mean.",
    ),
    Misconception(
        name="delta from the values",
        replace=(_DELTA, "delta = (do * (v if v.shape == do.shape else v.mean(dim=-2, keepdim=True))).sum(dim=-1)"),
        says="Delta is the row sum of do * o, with the output, not with the values.",
    ),
    Misconception(
        name="delta added",
        replace=(_DX, "dx = p * (dp + delta[..., rows, None]) * scale"),
        says="Delta is subtracted: dX = P (dP - delta).",
    ),
    Misconception(
        name="delta outside the bracket",
        replace=(_DX, "dx = (p * dp - delta[..., rows, None]) * scale"),
        says="Delta is multiplied by the weights too: dX = P (dP - delta).",
    ),
    Misconception(
        name="delta of one tile only",
        replace=(_DX, "dx = p * (dp - (p * dp).sum(dim=-1, keepdim=True)) * scale"),
        says="The sum of P dP runs over all keys of the row, and you sum over one tile's. rowsum(do * o) is that whole sum.",
    ),
    Misconception(
        name="one delta for all rows",
        replace=(_DELTA, "delta = (do * o).sum(dim=(-1, -2), keepdim=True)[..., 0].expand(lse.shape)"),
        says="Every row has its own delta. You sum over the rows too.",
    ),
    Misconception(
        name="dq overwritten",
        replace=(_DQ, "dq[..., rows, :] = dx @ k[..., columns, :]"),
        says="A query's gradient is a sum over all blocks of keys. You keep the last one: add.",
    ),
    Misconception(
        name="dk overwritten",
        replace=(_DK, "dk[..., columns, :] = dx.transpose(-1, -2) @ q[..., rows, :]"),
        says="A key's gradient is a sum over all blocks of queries. You keep the last one: add.",
    ),
    Misconception(
        name="dv overwritten",
        replace=(_DV, "dv[..., columns, :] = p.transpose(-1, -2) @ do[..., rows, :]"),
        says="A value's gradient is a sum over all blocks of queries. You keep the last one: add.",
    ),
    Misconception(
        name="scale missing in dq and dk",
        replace=(_DX, "dx = p * (dp - delta[..., rows, None])"),
        says="The scores are q k / sqrt(D), so the gradients of q and k carry 1 / sqrt(D).",
    ),
    Misconception(
        name="scale missing in dq",
        replace=(_DQ, "dq[..., rows, :] += dx / scale @ k[..., columns, :]"),
        says="dq lacks the factor 1 / sqrt(D).",
    ),
    Misconception(
        name="scale missing in dk",
        replace=(_DK, "dk[..., columns, :] += (dx / scale).transpose(-1, -2) @ q[..., rows, :]"),
        says="dk lacks the factor 1 / sqrt(D).",
    ),
    Misconception(
        name="scaled twice",
        replace=(_DX, "dx = p * (dp - delta[..., rows, None]) * scale**2"),
        says="The factor 1 / sqrt(D) enters once.",
    ),
    Misconception(
        name="no scale in the scores",
        replace=(_BACK_SCORES, "scores = q[..., rows, :] @ k[..., columns, :].transpose(-1, -2)"),
        says="The scores made again must be the ones that lse belongs to: divided by sqrt(D).",
    ),
    Misconception(
        name="softmax of each tile",
        replace=(_P, "p = torch.softmax(scores, dim=-1).nan_to_num(0.0)"),
        says="A softmax of one tile normalises over its keys alone. exp(score - lse) is normalised over all keys.",
    ),
    Misconception(
        name="weights not normalised",
        replace=(_P, "p = torch.exp(scores - scores.amax(dim=-1, keepdim=True).nan_to_num(neginf=0.0))"),
        says="Subtract lse: it holds maximum and sum of the whole row, so that the weights come out normalised.",
    ),
    Misconception(
        name="lse not used",
        replace=(_P, "p = torch.exp(scores)"),
        says="exp(score) is no weight. Subtract the row's lse.",
    ),
    Misconception(
        name="lse taken for base 2",
        replace=(_P, "p = torch.exp2(scores - safe_lse[..., rows, None])"),
        says="lse is natural: use exp.",
    ),
    Misconception(
        name="NaN where a row saw nothing",
        replace=("lse.masked_fill(lse == -math.inf, math.inf)", "lse"),
        says="A row that saw nothing has lse = -inf, and exp(-inf + inf) is NaN. Its weights are 0.",
    ),
    Misconception(
        name="dv from the transposed side",
        replace=(_DV, "dv[..., columns, :] += p.transpose(-1, -2) @ o[..., rows, :]"),
        says="dV = P^T dO: the gradient of the output, not the output.",
    ),
    Misconception(
        name="dp from the output",
        replace=("dp = do[..., rows, :] @ v", "dp = o[..., rows, :] @ v"),
        says="dP = dO V^T: the gradient of the output, not the output.",
    ),
    Misconception(
        name="weights left out of the scores' gradient",
        replace=(_DX, "dx = (dp - delta[..., rows, None]) * scale * (p > 0)"),
        says="dX = P (dP - delta): multiply by the weights.",
    ),
    Misconception(
        name="returned in another order",
        replace=("    return dq, dk, dv", "    return dk, dq, dv"),
        says="Return the gradients in the order of the arguments: q, k, v.",
    ),
    Misconception(
        name="last block of keys dropped",
        replace=("for left in range(0, S, block_k):", "for left in range(0, S - block_k + 1, block_k):"),
        says="The last block of keys is shorter than block_k and is left out.",
    ),
    Misconception(
        name="last block of queries dropped",
        replace=("for top in range(0, T, block_q):", "for top in range(0, T - block_q + 1, block_q):"),
        says="The last block of queries is shorter than block_q and is left out.",
    ),
    Misconception(
        name="gradients in float32",
        replace=("    return dq, dk, dv", "    return dq.float(), dk.float(), dv.float()"),
        says="Each gradient has its tensor's dtype.",
    ),
    Misconception(
        name="the whole table at once",
        code="""def flash_backward(q, k, v, o, lse, do, block_q=32, block_k=32, causal=False):
    T, S, scale = q.shape[-2], k.shape[-2], q.shape[-1] ** -0.5
    x = q @ k.transpose(-1, -2) * scale
    if causal:
        x = x.masked_fill(torch.arange(S) > torch.arange(T)[:, None] + S - T, -math.inf)
    p = torch.exp(x - lse.masked_fill(lse == -math.inf, math.inf).to(q.dtype)[..., None])
    dx = p * (do @ v.transpose(-1, -2) - (do * o).sum(-1, keepdim=True)) * scale
    return dx @ k, dx.transpose(-1, -2) @ q, p.transpose(-1, -2) @ do
""",
        says="The formulas are right, but you hold all T x S weights. Make them tile by tile and throw them away.",
        same_as=("the whole mask at once",),
    ),
    Misconception(
        name="the whole mask at once",
        replace=(
            "    for left in range(0, S, block_k):",
            "    hidden = torch.ones(T, S, dtype=torch.bool).triu(S - T + 1)\n    for left in range(0, S, block_k):",
        ),
        says="The mask is as large as the table of scores. Make each tile's mask from its row and column numbers.",
        same_as=("the whole table at once",),
    ),
    Misconception(
        name="gradient of the output changed in place",
        replace=(_DELTA, "delta = do.mul_(o).sum(dim=-1)"),
        says="mul_ changes the caller's gradient, and then you use it again. Use *.",
    ),
)
BACKWARD_RIGHT = (
    Variant(
        name="0 in place of an empty row's lse, whose scores are all -inf",
        replace=("lse.masked_fill(lse == -math.inf, math.inf)", "lse.masked_fill(lse == -math.inf, 0.0)"),
    ),
    Variant(
        name="queries outside, keys inside, einsum",
        code="""def flash_backward(q, k, v, o, lse, do, block_q=32, block_k=32, causal=False):
    T, S, c = q.shape[-2], k.shape[-2], 1 / math.sqrt(q.shape[-1])
    D = torch.einsum("...td,...td->...t", do, o)
    dk, dv, dqs = torch.zeros(k.shape, dtype=k.dtype), torch.zeros(v.shape, dtype=v.dtype), []
    for i in range(0, T, block_q):
        qi, doi, di, li = q[..., i:i + block_q, :], do[..., i:i + block_q, :], D[..., i:i + block_q], lse[..., i:i + block_q]
        dqi = torch.zeros(qi.shape, dtype=q.dtype)
        for j in range(0, S, block_k):
            kj, vj = k[..., j:j + block_k, :], v[..., j:j + block_k, :]
            p = torch.exp(c * torch.einsum("...td,...sd->...ts", qi, kj) - li.unsqueeze(-1))
            p = torch.where(torch.isinf(li).unsqueeze(-1), torch.zeros_like(p), p)
            if causal:
                seen = torch.arange(j, j + kj.shape[-2])[None] <= torch.arange(i, i + qi.shape[-2])[:, None] + S - T
                p = torch.where(seen, p, torch.zeros_like(p))
            g = p * (torch.einsum("...td,...sd->...ts", doi, vj) - di.unsqueeze(-1))
            dqi = dqi + c * torch.einsum("...ts,...sd->...td", g, kj)
            dk[..., j:j + block_k, :] += c * torch.einsum("...ts,...td->...sd", g, qi)
            dv[..., j:j + block_k, :] += torch.einsum("...ts,...td->...sd", p, doi)
        dqs.append(dqi)
    return torch.cat(dqs, dim=-2).to(q.dtype), dk, dv
""",
    ),
    Variant(
        name="delta as the sum of P dP, in a first round",
        code="""def flash_backward(q, k, v, o, lse, do, block_q=32, block_k=32, causal=False):
    T, S, c = q.shape[-2], k.shape[-2], q.shape[-1] ** -0.5
    dead = torch.isneginf(lse)
    L = lse.masked_fill(dead, 0.0).to(q.dtype)

    def tile(i, j):
        x = q[..., i:i + block_q, :] @ k[..., j:j + block_k, :].mT * c
        hide = dead[..., i:i + block_q, None].expand(x.shape)
        if causal:
            r, s = torch.arange(i, i + x.shape[-2]), torch.arange(j, j + x.shape[-1])
            hide = hide | (s > r[:, None] + S - T)
        return torch.exp(x - L[..., i:i + block_q, None]).masked_fill(hide, 0.0), do[..., i:i + block_q, :] @ v[..., j:j + block_k, :].mT

    delta = torch.zeros_like(L)
    for i in range(0, T, block_q):
        for j in range(0, S, block_k):
            p, dp = tile(i, j)
            delta[..., i:i + block_q] += (p * dp).sum(-1)
    dq, dk, dv = torch.zeros_like(q), torch.zeros_like(k), torch.zeros_like(v)
    for j in range(0, S, block_k):
        for i in range(0, T, block_q):
            p, dp = tile(i, j)
            dx = c * p * (dp - delta[..., i:i + block_q, None])
            dv[..., j:j + block_k, :] += p.mT @ do[..., i:i + block_q, :]
            dk[..., j:j + block_k, :] += dx.mT @ q[..., i:i + block_q, :]
            dq[..., i:i + block_q, :] += dx @ k[..., j:j + block_k, :]
    return dq, dk, dv
""",
    ),
    Variant(
        name="two loops, one for dk and dv, one for dq, heads flattened",
        code="""def flash_backward(q, k, v, o, lse, do, block_q=32, block_k=32, causal=False):
    T, S, d, dv_ = q.shape[-2], k.shape[-2], q.shape[-1], v.shape[-1]
    Q, K, V = q.reshape(-1, T, d), k.reshape(-1, S, d), v.reshape(-1, S, dv_)
    O, G, L = o.reshape(-1, T, dv_), do.reshape(-1, T, dv_), lse.reshape(-1, T)
    delta = (O * G).sum(-1)
    dq, dk, dv = torch.zeros_like(Q), torch.zeros_like(K), torch.zeros_like(V)

    def weights(h, i, j):
        x = (Q[h, i] @ K[h, j].T) / math.sqrt(d)
        p = torch.exp(x - torch.where(L[h, i] == -math.inf, math.inf, L[h, i])[:, None].to(x.dtype))
        if causal:
            p = p * (torch.arange(S)[j] <= torch.arange(T)[i][:, None] + S - T)
        return p, p * (G[h, i] @ V[h, j].T - delta[h, i][:, None]) / math.sqrt(d)

    for h in range(len(Q)):
        for b in range(0, S, block_k):
            j = slice(b, b + block_k)
            for a in range(0, T, block_q):
                i = slice(a, a + block_q)
                p, dx = weights(h, i, j)
                dv[h, j] += p.T @ G[h, i]
                dk[h, j] += dx.T @ Q[h, i]
        for a in range(0, T, block_q):
            i = slice(a, a + block_q)
            for b in range(0, S, block_k):
                j = slice(b, b + block_k)
                dq[h, i] += weights(h, i, j)[1] @ K[h, j]
    return dq.reshape(q.shape), dk.reshape(k.shape), dv.reshape(v.shape)
""",
    ),
    Variant(
        name="NumPy in float64",
        code="""def flash_backward(q, k, v, o, lse, do, block_q=32, block_k=32, causal=False):
    import numpy as np
    Q, K, V, O, G = (x.double().numpy() for x in (q, k, v, o, do))
    L = lse.double().numpy()
    T, S, c = Q.shape[-2], K.shape[-2], Q.shape[-1] ** -0.5
    dq, dk, dv = np.zeros(Q.shape), np.zeros(K.shape), np.zeros(V.shape)
    delta = (O * G).sum(-1, keepdims=True)
    t = lambda x: np.swapaxes(x, -1, -2)
    for i in range(0, T, block_q):
        for j in range(0, S, block_k):
            I, J = np.s_[..., i:i + block_q, :], np.s_[..., j:j + block_k, :]
            rows, cols = np.arange(T)[i:i + block_q], np.arange(S)[j:j + block_k]
            li = L[..., i:i + block_q, None]
            see = np.isfinite(li) & ((cols <= rows[:, None] + S - T) if causal else True)
            x = Q[I] @ t(K[J]) * c - np.where(np.isfinite(li), li, 0)
            p = np.where(see, np.exp(np.where(see, x, 0)), 0)
            dx = p * (G[I] @ t(V[J]) - delta[I]) * c
            dq[I] += dx @ K[J]
            dk[J] += t(dx) @ Q[I]
            dv[J] += t(p) @ G[I]
    return tuple(torch.from_numpy(g).to(x.dtype) for g, x in ((dq, q), (dk, k), (dv, v)))
""",
    ),
)

# ---- hbm_bytes


def _hbm_bytes(n, d, block_q, block_k, algorithm, bytes_per_value=2):
    if algorithm not in ("standard", "flash_v1", "flash_v2"):
        raise ValueError(algorithm)
    once = {"standard": 4, "flash_v1": 2, "flash_v2": 2}[algorithm] * n * d
    again = {
        "standard": 4 * n * n,
        "flash_v1": sum(3 * n * d for _ in range(0, n, block_k)),
        "flash_v2": sum(2 * n * d for _ in range(0, n, block_q)),
    }[algorithm]
    return (once + again) * bytes_per_value


def _hbm_cases(rng: Rng):
    for algorithm in ("standard", "flash_v2", "flash_v1"):
        yield Case(label=f"{algorithm}, blocks that divide n", args=(600, 48, 40, 24, algorithm))
        yield Case(
            label=f"{algorithm}, a last block that is shorter", args=(rng.integer(700, 720), 48, 64, 96, algorithm)
        )
        yield Case(label=f"{algorithm}, 4 bytes a value", args=(130, 20, 32, 48, algorithm, 4))
        yield Case(
            label=f"{algorithm}, blocks larger than n", args=(7, 5, 11, 13, algorithm), kwargs={"bytes_per_value": 1}
        )
    yield Case(label="flash_v2, one token more than a block", args=(65, 8, 64, 16, "flash_v2"))
    yield Case(label="flash_v1, one token more than a block", args=(65, 8, 16, 64, "flash_v1"))
    yield Case(label="a million tokens: an exact int", args=(1_000_003, 128, 128, 96, "standard"))
    yield Case(label="one token", args=(1, 3, 1, 1, "flash_v1"))
    yield Case(label="an unknown algorithm", args=(600, 48, 40, 24, "flash_v4"), raises=ValueError)
    yield Case(label="no algorithm", args=(600, 48, 40, 24, ""), raises=ValueError)


HBM_WRONG = (
    Misconception(
        name="blocks rounded down",
        replace=("2 * -(-n // block_q) * n * d", "2 * (n // block_q) * n * d"),
        says="The last block of queries may be shorter, and it reads all keys all the same: round up.",
    ),
    Misconception(
        name="blocks rounded down in v1",
        replace=("3 * -(-n // block_k) * n * d", "3 * (n // block_k) * n * d"),
        says="The last block of keys may be shorter, and all queries pass by all the same: round up.",
    ),
    Misconception(
        name="no rounding",
        code="def hbm_bytes(n, d, block_q, block_k, algorithm, bytes_per_value=2):\n    v = {'standard': 4*n*d + 4*n*n, 'flash_v1': 2*n*d + 3*n*n*d/block_k, 'flash_v2': 2*n*d + 2*n*n*d/block_q}\n    if algorithm not in v:\n        raise ValueError(algorithm)\n    return int(v[algorithm] * bytes_per_value)\n",
        says="There are whole blocks only: ceil(n / block) of them.",
    ),
    Misconception(
        name="one block too many",
        replace=("2 * -(-n // block_q) * n * d", "2 * (n // block_q + 1) * n * d"),
        says="n // block + 1 counts a block too many where the block divides n.",
    ),
    Misconception(
        name="v1 and v2 swapped",
        replace=(
            'algorithm == "standard":',
            'algorithm == "standard" or (algorithm := {"flash_v1": "flash_v2", "flash_v2": "flash_v1"}.get(algorithm, algorithm)) == "standard":',
        ),
        says="v1 walks over keys outside and rewrites O for each block of keys; v2 walks over queries outside and writes O once.",
    ),
    Misconception(
        name="block_k in v2",
        replace=("2 * -(-n // block_q) * n * d", "2 * -(-n // block_k) * n * d"),
        says="In v2 the keys are read again for each block of queries, so block_q counts.",
    ),
    Misconception(
        name="block_q in v1",
        replace=("3 * -(-n // block_k) * n * d", "3 * -(-n // block_q) * n * d"),
        says="In v1 the queries are read again for each block of keys, so block_k counts.",
    ),
    Misconception(
        name="v1 rewrites O without reading it",
        replace=("3 * -(-n", "2 * -(-n"),
        says="In v1 each block of keys reads Q, reads O and writes O: three times n d.",
    ),
    Misconception(
        name="keys without values",
        replace=("2 * -(-n // block_q) * n * d", "-(-n // block_q) * n * d"),
        says="Keys and values both are read for each block of queries: two times n d.",
    ),
    Misconception(
        name="Q and O not counted",
        replace=("values = 2 * n * d + 2 * -(-n", "values = 2 * -(-n"),
        says="Q is read once and O written once: add 2 n d.",
    ),
    Misconception(
        name="K and V not counted in v1",
        replace=("values = 2 * n * d + 3 * -(-n", "values = 3 * -(-n"),
        says="K and V are read once: add 2 n d.",
    ),
    Misconception(
        name="table written and read once",
        replace=("4 * n * n", "2 * n * n"),
        says="The table makes four trips: scores written, scores read, weights written, weights read.",
    ),
    Misconception(
        name="table alone",
        replace=("4 * n * d + 4 * n * n", "4 * n * n"),
        says="Q, K, V and O move too: 4 n d.",
    ),
    Misconception(
        name="table times width",
        replace=("4 * n * n", "4 * n * n * d"),
        says="The table of scores has n x n numbers, whatever the width.",
    ),
    Misconception(
        name="values instead of bytes",
        replace=("return values * bytes_per_value", "return values"),
        says="That is the number of values. Multiply by the bytes of each.",
    ),
    Misconception(
        name="always two bytes",
        replace=("return values * bytes_per_value", "return values * 2"),
        says="Use bytes_per_value; 2 is only its default.",
    ),
    Misconception(
        name="a float",
        replace=("return values * bytes_per_value", "return float(values * bytes_per_value)"),
        says="Bytes are counted: return an int. A float also loses the last digits of large counts.",
    ),
    Misconception(
        name="anything else counts as v2",
        replace=('elif algorithm == "flash_v2":', "elif True:"),
        says="An unknown algorithm must raise ValueError, not be taken for another.",
    ),
    Misconception(
        name="0 for an unknown algorithm",
        replace=(
            'raise ValueError(f"algorithm must be standard, flash_v1 or flash_v2, got {algorithm!r}")',
            "values = 0",
        ),
        says="An unknown algorithm must raise ValueError: 0 bytes would look like the best of all.",
    ),
    Misconception(
        name="KeyError for an unknown algorithm",
        code="def hbm_bytes(n, d, block_q, block_k, algorithm, bytes_per_value=2):\n    return {'standard': 4*n*d + 4*n*n, 'flash_v1': 2*n*d + 3*-(-n//block_k)*n*d, 'flash_v2': 2*n*d + 2*-(-n//block_q)*n*d}[algorithm] * bytes_per_value\n",
        says="A KeyError says nothing to the caller. Raise ValueError with the names that are known.",
    ),
    Misconception(
        name="statistics counted",
        replace=("2 * -(-n // block_q) * n * d", "2 * -(-n // block_q) * n * d + n"),
        says="The log-sum-exps are not counted here.",
    ),
)
HBM_RIGHT = (
    Variant(
        name="math.ceil and a dict",
        code="""def hbm_bytes(n, d, block_q, block_k, algorithm, bytes_per_value=2):
    moved = {
        "standard": lambda: 4 * n * d + 4 * n**2,
        "flash_v1": lambda: 2 * n * d + 3 * math.ceil(n / block_k) * n * d,
        "flash_v2": lambda: 2 * n * d + 2 * math.ceil(n / block_q) * n * d,
    }
    if algorithm not in moved:
        raise ValueError(f"unknown algorithm {algorithm}")
    return moved[algorithm]() * bytes_per_value
""",
    ),
    Variant(
        name="counted block by block",
        code="""def hbm_bytes(n, d, block_q, block_k, algorithm, bytes_per_value=2):
    total = 0
    if algorithm == "standard":
        total = n * d * 4 + 4 * n * n
    elif algorithm == "flash_v2":
        for i in range(0, n, block_q):
            rows = min(block_q, n - i)
            total += rows * d
            for j in range(0, n, block_k):
                total += 2 * min(block_k, n - j) * d
            total += rows * d
    elif algorithm == "flash_v1":
        for j in range(0, n, block_k):
            total += 2 * min(block_k, n - j) * d
            for i in range(0, n, block_q):
                total += 3 * min(block_q, n - i) * d
    else:
        raise ValueError(algorithm)
    return total * bytes_per_value
""",
    ),
    Variant(
        name="match, with (n + b - 1) // b",
        code="""def hbm_bytes(n, d, block_q, block_k, algorithm, bytes_per_value=2):
    match algorithm:
        case "standard":
            return bytes_per_value * 4 * n * (n + d)
        case "flash_v1":
            return bytes_per_value * n * d * (2 + 3 * ((n + block_k - 1) // block_k))
        case "flash_v2":
            return bytes_per_value * n * d * (2 + 2 * ((n + block_q - 1) // block_q))
    raise ValueError("algorithm must be standard, flash_v1 or flash_v2")
""",
    ),
)

# ---- max_block_k


def _max_block_k(sram_bytes, d, block_q, bytes_per_value=2):
    fits = [b for b in range(1, 2000) if (2 * b * d + 2 * block_q * d + block_q * b) * bytes_per_value <= sram_bytes]
    if not fits:
        raise ValueError("nothing fits")
    return fits[-1]


def _need(b, d, block_q, size):
    return (2 * b * d + 2 * block_q * d + block_q * b) * size


def _max_block_cases(rng: Rng):
    yield Case(label="the docstring's example", args=(100_000, 64, 64))
    yield Case(label="an H100's 227 KB, width 128", args=(227 * 1024, 128, 80))
    yield Case(label="4 bytes a value", args=(163_840, 48, 40, 4))
    b, d, block_q = rng.integer(20, 60), rng.integer(17, 40), rng.integer(11, 50)
    for more, text in ((0, "exactly filled"), (-1, "one byte short"), (1, "one byte to spare")):
        yield Case(label=f"{text}, 2 bytes a value", args=(_need(b, d, block_q, 2) + more, d, block_q))
        yield Case(
            label=f"{text}, 4 bytes a value",
            args=(_need(b, d, block_q, 4) + more, d, block_q),
            kwargs={"bytes_per_value": 4},
        )
    yield Case(label="room for one key", args=(_need(1, 33, 10, 2), 33, 10))
    yield Case(label="one byte less than one key needs", args=(_need(1, 33, 10, 2) - 1, 33, 10), raises=ValueError)
    yield Case(label="queries and outputs alone are too large", args=(1000, 64, 64), raises=ValueError)
    yield Case(label="1 byte a value", args=(50_001, 40, 24, 1))


MAX_BLOCK_WRONG = (
    Misconception(
        name="bytes a value forgotten",
        replace=("sram_bytes // bytes_per_value - 2", "sram_bytes - 2"),
        says="The formula counts values; sram_bytes are bytes. Divide by bytes_per_value.",
    ),
    Misconception(
        name="keys without values",
        replace=("(2 * d + block_q)", "(d + block_q)"),
        says="A block of keys comes with its values: 2 b d numbers.",
    ),
    Misconception(
        name="scores left out",
        replace=("(2 * d + block_q)", "(2 * d)"),
        says="The scores of the tile, block_q x b, are held too.",
    ),
    Misconception(
        name="output left out",
        replace=("- 2 * block_q * d", "- block_q * d"),
        says="Queries and outputs of the block are both held: 2 block_q d.",
    ),
    Misconception(
        name="queries and output left out",
        replace=(" - 2 * block_q * d", ""),
        says="The block of queries and the block of outputs take 2 block_q d numbers before the first key.",
    ),
    Misconception(
        name="never quite full",
        replace=("sram_bytes // bytes_per_value", "(sram_bytes - 1) // bytes_per_value"),
        says="A tile may fill the memory to the last byte: at most, not less than.",
    ),
    Misconception(
        name="one too small",
        replace=("    return b", "    return max(1, b - 1)"),
        says="One more key would still fit.",
    ),
    Misconception(
        name="one too large",
        replace=("b = left // (2 * d + block_q)", "b = left // (2 * d + block_q) + 1"),
        says="That block does not fit any more. You return the first that is too large.",
    ),
    Misconception(
        name="rounded up",
        replace=("b = left // (2 * d + block_q)", "b = -(-left // (2 * d + block_q))"),
        says="Rounding up takes a key that does not fit.",
    ),
    Misconception(
        name="a power of two",
        replace=("    return b", "    return 1 << (b.bit_length() - 1)"),
        says="Kernels like powers of two, but the largest b is asked for.",
    ),
    Misconception(
        name="at least 1, fits or not",
        replace=("    if b < 1:", "    if b < 1:\n        return 1\n    if b < 1:"),
        says="When not even one key fits, raise ValueError: a 1 would be believed.",
    ),
    Misconception(
        name="0 when nothing fits",
        replace=("    if b < 1:", "    if b < 1:\n        return 0\n    if b < 1:"),
        says="When not even one key fits, raise ValueError.",
    ),
    Misconception(
        name="raises for 1",
        replace=("if b < 1:", "if b <= 1:"),
        says="b = 1 is legal: raise only when not even that fits.",
    ),
    Misconception(
        name="a float",
        replace=("left // (2 * d + block_q)", "left / (2 * d + block_q)"),
        says="A block has a whole number of keys: divide with //.",
    ),
    Misconception(
        name="always two bytes",
        replace=("sram_bytes // bytes_per_value", "sram_bytes // 2"),
        says="Use bytes_per_value; 2 is only its default.",
    ),
    Misconception(
        name="the first paper's rule",
        code="def max_block_k(sram_bytes, d, block_q, bytes_per_value=2):\n    b = sram_bytes // bytes_per_value // (4 * d)\n    if b < 1:\n        raise ValueError('nothing fits')\n    return b\n",
        says="M / 4d is the first paper's rule of thumb. Here the given formula counts, with block_q.",
    ),
)
MAX_BLOCK_RIGHT = (
    Variant(
        name="a loop upwards",
        code="""def max_block_k(sram_bytes, d, block_q, bytes_per_value=2):
    b = 0
    while (2 * (b + 1) * d + 2 * block_q * d + block_q * (b + 1)) * bytes_per_value <= sram_bytes:
        b += 1
    if b == 0:
        raise ValueError("no tile fits")
    return b
""",
    ),
    Variant(
        name="in bytes, by division",
        code="""def max_block_k(sram_bytes, d, block_q, bytes_per_value=2):
    fixed, each = 2 * block_q * d * bytes_per_value, (2 * d + block_q) * bytes_per_value
    if sram_bytes < fixed + each:
        raise ValueError("no tile fits")
    return int((sram_bytes - fixed) // each)
""",
    ),
    Variant(
        name="bisection",
        code="""def max_block_k(sram_bytes, d, block_q, bytes_per_value=2):
    fits = lambda b: (2 * b * d + 2 * block_q * d + block_q * b) * bytes_per_value <= sram_bytes
    if not fits(1):
        raise ValueError("no tile fits")
    low, high = 1, sram_bytes + 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low
""",
    ),
)

# ---- roofline_seconds


def _roofline_seconds(flops, bytes_moved, peak_flops, bandwidth):
    a, b = flops / peak_flops, bytes_moved / bandwidth
    return a if a > b else b


def _roofline_cases(rng: Rng):
    yield Case(label="traffic decides", args=(1e12, 6e9, 1e15, 3e12))
    yield Case(label="arithmetic decides", args=(5e15, 6e9, 1e15, 3e12))
    yield Case(label="slow machine, traffic decides", args=(3e9, 7e8, 4e10, 1.5e9))
    yield Case(label="slow machine, arithmetic decides", args=(7e9, 3e8, 2e9, 1.5e9))
    yield Case(label="no arithmetic: a copy", args=(0.0, 2e9, 1e15, 3e12))
    yield Case(label="no traffic", args=(2e12, 0.0, 1e15, 3e12))
    yield Case(label="whole numbers", args=(7_000_000, 3_000_000, 2_000, 5_000))
    a, b = rng.python.uniform(1, 9), rng.python.uniform(1, 9)
    yield Case(label="both about equal", args=(a * 1e12, b * 1e9, 1.1e12, 0.9e9))


ROOFLINE_WRONG = (
    Misconception(
        name="added",
        replace=("max(flops / peak_flops, bytes_moved / bandwidth)", "flops / peak_flops + bytes_moved / bandwidth"),
        says="Arithmetic and traffic overlap: the slower decides. Their sum is the time without overlap.",
    ),
    Misconception(
        name="the faster decides",
        replace=("max(flops", "min(flops"),
        says="The work is done when both are done: the slower decides.",
    ),
    Misconception(
        name="arithmetic alone",
        replace=("max(flops / peak_flops, bytes_moved / bandwidth)", "flops / peak_flops"),
        says="Traffic may take longer than arithmetic. Compare both.",
    ),
    Misconception(
        name="traffic alone",
        replace=("max(flops / peak_flops, bytes_moved / bandwidth)", "bytes_moved / bandwidth"),
        says="Arithmetic may take longer than traffic. Compare both.",
    ),
    Misconception(
        name="rates swapped",
        replace=(
            "max(flops / peak_flops, bytes_moved / bandwidth)",
            "max(flops / bandwidth, bytes_moved / peak_flops)",
        ),
        says="FLOPs are divided by FLOPs a second, bytes by bytes a second.",
    ),
    Misconception(
        name="speed instead of time",
        replace=(
            "max(flops / peak_flops, bytes_moved / bandwidth)",
            "flops / max(flops / peak_flops, bytes_moved / bandwidth)",
        ),
        says="That is the speed that the roof allows. Seconds are asked for.",
    ),
    Misconception(
        name="seconds upside down",
        replace=(
            "max(flops / peak_flops, bytes_moved / bandwidth)",
            "max(peak_flops / max(flops, 1e-9), bandwidth / max(bytes_moved, 1e-9))",
        ),
        says="Time is work divided by speed, not speed by work.",
    ),
    Misconception(
        name="milliseconds",
        replace=(
            "max(flops / peak_flops, bytes_moved / bandwidth)",
            "1e3 * max(flops / peak_flops, bytes_moved / bandwidth)",
        ),
        says="Return seconds, not milliseconds.",
    ),
    Misconception(
        name="whole seconds",
        replace=(
            "max(flops / peak_flops, bytes_moved / bandwidth)",
            "max(flops // peak_flops, bytes_moved // bandwidth)",
        ),
        says="// rounds to whole seconds. Use /.",
    ),
    Misconception(
        name="averaged",
        replace=(
            "max(flops / peak_flops, bytes_moved / bandwidth)",
            "(flops / peak_flops + bytes_moved / bandwidth) / 2",
        ),
        says="The slower decides, not the mean of both.",
    ),
)
ROOFLINE_RIGHT = (
    Variant(
        name="by intensity against the ridge",
        code="""def roofline_seconds(flops, bytes_moved, peak_flops, bandwidth):
    if bytes_moved == 0 or flops / bytes_moved >= peak_flops / bandwidth:
        return flops / peak_flops
    return bytes_moved / bandwidth
""",
    ),
    Variant(
        name="work over attainable speed",
        code="""def roofline_seconds(flops, bytes_moved, peak_flops, bandwidth):
    if not flops:
        return bytes_moved / bandwidth
    if not bytes_moved:
        return flops / peak_flops
    return flops / min(peak_flops, bandwidth * flops / bytes_moved)
""",
    ),
    Variant(
        name="sorted",
        code="def roofline_seconds(flops, bytes_moved, peak_flops, bandwidth):\n    return sorted((flops * peak_flops**-1, bytes_moved * bandwidth**-1))[-1]\n",
    ),
)

# ---- flash_decode


def _flash_decode(q, k, v, n_splits):
    return _flash_forward(q, k, v)[0]


def _decode_args(rng: Rng, B=2, H=3, S=17, D=6, dtype=torch.float32, scale=1.0):
    return tuple(rng.normal(B, H, length, D, dtype=dtype, scale=scale) for length in (1, S, S))


def _decode_cases(rng: Rng):
    yield Case(label="one split", args=(*_decode_args(rng), 1), close=FLOAT32)
    yield Case(label="three splits of 17 keys", args=(*_decode_args(rng), 3), close=FLOAT32)
    yield Case(label="five splits of 20 keys", args=(*_decode_args(rng, S=20), 5), close=FLOAT32)
    yield Case(label="as many splits as keys", args=(*_decode_args(rng, S=7), 7), close=FLOAT32)
    yield Case(label="more splits than keys", args=(*_decode_args(rng, S=5), 8), close=FLOAT32)
    yield Case(label="seven splits of 9 keys", args=(*_decode_args(rng, S=9), 7), close=FLOAT32)
    yield Case(label="one key, four splits", args=(*_decode_args(rng, S=1), 4), close=FLOAT32)
    q, k, v = _decode_args(rng, S=15)
    rising = (
        torch.cat([q.abs() + 0.5, torch.ones(2, 3, 1, 1)], -1),
        torch.cat([torch.zeros(2, 3, 15, 6), torch.linspace(-20, 60, 15).expand(2, 3, 15)[..., None]], -1),
    )
    wide_v = torch.cat([v, v[..., :1].square()], -1)
    yield Case(label="scores rise from key to key", args=(*rising, wide_v, 4), close=FLOAT32)
    yield Case(label="scores fall from key to key", args=(rising[0], rising[1].flip(-2), wide_v, 4), close=FLOAT32)
    for sign, text in ((1.0, "near 300"), (-1.0, "near -300")):
        shifted = torch.cat([rng.normal(2, 3, 15, 6, dtype=torch.float32), torch.full((2, 3, 15, 1), sign * 800.0)], -1)
        yield Case(label=f"all scores {text}", args=(rising[0], shifted, wide_v, 4), close=Close(1e-3, 1e-4))
    yield Case(label="tiny queries and keys", args=(*_decode_args(rng, scale=1e-3), 3), close=FLOAT32)
    q, k, v = _decode_args(rng, S=13, dtype=torch.float64)
    yield Case(label="float64", args=(q, k, v, 4), close=FLOAT32)
    yield Case(label="bfloat16", args=(*_decode_args(rng, S=13, dtype=torch.bfloat16), 4))
    for dtype in (torch.bfloat16, torch.float16):
        q, k, v = _decode_args(rng, S=13, dtype=dtype)
        q, k = (
            torch.cat([q, torch.full_like(q[..., :1], 8.0)], -1),
            torch.cat([k, torch.full_like(k[..., :1], 24.0)], -1),
        )
        args = (q, k, torch.cat([v, v[..., :1]], -1), 4)
        yield Case(label=f"{str(dtype)[6:]}, scores near 70: kept in float32", args=args)
    q, k, v = _decode_args(rng, S=13)
    heads = torch.tensor([-300.0, 0.0, 300.0])[None, :, None, None].expand(2, 3, 13, 1)
    unlike = torch.cat([k, heads], dim=-1)
    one = torch.cat([q, torch.ones(2, 3, 1, 1)], dim=-1)
    wide_v = torch.cat([v, v[..., :1].square()], dim=-1)
    yield Case(label="heads whose scores are far apart", args=(one, unlike, wide_v, 4), close=Close(1e-3, 1e-4))
    cache = [x.transpose(1, 2).contiguous() for x in _decode_args(rng, S=11)]
    views = tuple(Code("def make(x):\n    return x.transpose(1, 2)\n", (x,)) for x in cache)
    yield Case(
        label="views of a cache kept as (B, S, H, D)",
        args=(*views, 3),
        expect=_flash_decode(*(x.transpose(1, 2) for x in cache), 3),
        close=FLOAT32,
    )
    yield Case(label="one head, one sequence", args=(*_decode_args(rng, 1, 1, 6, 3), 4), close=FLOAT32)
    q, k, v = _decode_args(rng, S=12)

    def splits_do_not_matter(ask):
        once = ask.call(q, k, v, 1)
        for n in (2, 5, 12, 30):
            ask.same(ask.call(q, k, v, n), once, f"{n} splits give another result than one", FLOAT32)
        ask.same(ask.call(q, k.flip(-2), v.flip(-2), 5), once, "the order of the keys must not matter", FLOAT32)

    yield Scenario(label="the number of splits does not matter", run=splits_do_not_matter)


_DECODE_MERGE = "m, l, o = merge_states(m, l, o, part_m, part_l, part_o)"
_DECODE_BORDERS = "start, end = n * S // n_splits, (n + 1) * S // n_splits"
_DECODE_SCORES = "scores = q.to(wide) @ k[..., start:end, :].to(wide).transpose(-1, -2) * q.shape[-1] ** -0.5"
DECODE_WRONG = (
    Misconception(
        name="plain average of the parts",
        replace=(_DECODE_MERGE, "o = o + part_o / min(n_splits, S)"),
        says="The parts did not see equally much. Weigh each by its sum on a common maximum: that is merge_states.",
    ),
    Misconception(
        name="empty parts counted in an average",
        replace=(_DECODE_MERGE, "o = o + part_o / n_splits"),
        says="You average the parts, and empty ones count. Weigh each by its sum on a common maximum: that is merge_states.",
    ),
    Misconception(
        name="weighted by the number of keys",
        replace=(_DECODE_MERGE, "o = o + part_o * (end - start) / S"),
        says="How many keys a part has says nothing about how much weight they get. Use the sums of exponentials.",
    ),
    Misconception(
        name="weights without the maxima",
        replace=(
            _DECODE_MERGE,
            "o = (l[..., None] * o + part_l[..., None] * part_o) / (l + part_l)[..., None]\n        l = l + part_l",
        ),
        says="The parts' sums were made with different maxima. Bring them to one before you add.",
    ),
    Misconception(
        name="parts simply added",
        replace=(_DECODE_MERGE, "o = o + part_o"),
        says="Each part's output is a mean already. Their sum is no mean.",
    ),
    Misconception(
        name="only the last part",
        replace=(_DECODE_MERGE, "o = part_o"),
        says="You keep the last part alone. Merge it with what came before.",
    ),
    Misconception(
        name="only the first part",
        replace=(_DECODE_MERGE, "o = o if start else part_o"),
        says="You keep the first part alone. Merge the others into it.",
    ),
    Misconception(
        name="part with the largest score takes all",
        replace=(
            _DECODE_MERGE,
            "o = torch.where((part_m > m)[..., None], part_o, o)\n        m = torch.maximum(m, part_m)",
        ),
        says="The part with the largest score does not take all. Merge by sums.",
    ),
    Misconception(
        name="the remainder dropped",
        replace=(
            _DECODE_BORDERS,
            "size = max(1, S // n_splits)\n        start, end = min(S, n * size), min(S, (n + 1) * size)",
        ),
        says="S // n_splits keys for each part leave the last keys out. The parts must cover all S keys.",
    ),
    Misconception(
        name="parts of size 0",
        replace=(
            _DECODE_BORDERS,
            "start, end = n * (S // n_splits), (n + 1) * (S // n_splits) if n + 1 < n_splits or n_splits > S else S",
        ),
        says="With more splits than keys, S // n_splits is 0 and no key is seen. Near-equal borders are n * S // n_splits.",
    ),
    Misconception(
        name="empty parts not skipped",
        replace=("        if start == end:\n            continue\n", ""),
        says="A part without keys has no maximum: torch raises. Skip it, or give it m = -inf, l = 0, o = 0.",
    ),
    Misconception(
        name="more splits than keys refused",
        replace=(
            "    S = k.shape[-2]\n",
            "    S = k.shape[-2]\n    if n_splits > S:\n        raise ValueError('too many splits')\n",
        ),
        says="n_splits may exceed S. Some parts are then empty.",
    ),
    Misconception(
        name="parts overlap",
        replace=(_DECODE_BORDERS, _DECODE_BORDERS + "\n        end = min(S, end + 1)"),
        says="Neighbouring parts share a key, which then counts twice.",
    ),
    Misconception(
        name="a gap between parts",
        replace=(_DECODE_BORDERS, _DECODE_BORDERS + "\n        start = min(end, start + (n > 0))"),
        says="The first key of each later part is left out.",
    ),
    Misconception(
        name="no scale",
        replace=(" * q.shape[-1] ** -0.5", ""),
        says="Scores are divided by sqrt(D).",
    ),
    Misconception(
        name="scale 1/D",
        replace=("q.shape[-1] ** -0.5", "1 / q.shape[-1]"),
        says="Scores are divided by sqrt(D), not by D.",
    ),
    Misconception(
        name="no maximum subtracted",
        code="def flash_decode(q, k, v, n_splits):\n    wide = torch.promote_types(q.dtype, torch.float32)\n    top = bottom = 0\n    for kp, vp in zip(k.to(wide).tensor_split(n_splits, 2), v.to(wide).tensor_split(n_splits, 2)):\n        p = torch.exp(q.to(wide) @ kp.transpose(-1, -2) / math.sqrt(q.shape[-1]))\n        top, bottom = top + p @ vp, bottom + p.sum(-1, keepdim=True)\n    return (top / bottom).to(q.dtype)\n",
        says="Without the maximum exp overflows: exp(89) is infinite in float32. And for scores near -300 all sums are 0.",
    ),
    Misconception(
        name="one maximum for the whole part",
        replace=("part_m = scores.amax(dim=-1)", "part_m = scores.amax().expand(m.shape)"),
        says="Each head of each sequence has its own maximum.",
    ),
    Misconception(
        name="sums in the inputs' dtype",
        replace=("wide = torch.promote_types(q.dtype, torch.float32)", "wide = q.dtype"),
        says="In float16 and bfloat16 long sums lose their small terms. Keep them in float32.",
    ),
    Misconception(
        name="output in float32",
        replace=("return o.to(q.dtype)", "return o.float()"),
        says="The output has q's dtype.",
    ),
    Misconception(
        name="the query's dimension lost",
        replace=("return o.to(q.dtype)", "return o.to(q.dtype).squeeze(-2)"),
        says="The output is (B, H, 1, D): keep the dimension of the one query.",
    ),
    Misconception(
        name="split along the width",
        replace=(
            _DECODE_SCORES,
            "scores = (q[..., : end - start].to(wide) @ k[..., start:end, : end - start].to(wide).transpose(-1, -2)) * q.shape[-1] ** -0.5",
        ),
        says="The keys are split, along the third dimension. The width of a key stays whole.",
    ),
    Misconception(
        name="values not split",
        replace=("p @ v[..., start:end, :].to(wide)", "p @ v[..., : end - start, :].to(wide)"),
        says="Each part of the keys goes with the same part of the values. You use the first values for every part.",
    ),
    Misconception(
        name="softmax over the parts' maxima",
        replace=(
            _DECODE_MERGE,
            "w, u = torch.exp(m - torch.maximum(m, part_m)), torch.exp(part_m - torch.maximum(m, part_m))\n        o = (w[..., None] * o + u[..., None] * part_o) / (w + u)[..., None]\n        m = torch.maximum(m, part_m)",
        ),
        says="A part's weight is its sum of exponentials, not its largest one alone.",
    ),
)
DECODE_RIGHT = (
    Variant(
        name="flash_forward for each part",
        code="""def flash_decode(q, k, v, n_splits):
    edges = torch.linspace(0, k.shape[2], n_splits + 1).round().long().tolist()
    out, lse = None, None
    for a, b in zip(edges[:-1], edges[1:]):
        if a == b:
            continue
        o, new = flash_forward(q, k[:, :, a:b], v[:, :, a:b], 1, 64)
        if out is None:
            out, lse = o.float(), new
        else:
            out = out + (o.float() - out) * torch.sigmoid(new - lse)[..., None]
            lse = torch.logaddexp(lse, new)
    return out.to(q.dtype)
""",
    ),
    Variant(
        name="tensor_split and log-sum-exps",
        code="""def flash_decode(q, k, v, n_splits):
    outs, lses = [], []
    for kp, vp in zip(torch.tensor_split(k, n_splits, dim=2), torch.tensor_split(v, n_splits, dim=2)):
        if kp.shape[2] == 0:
            continue
        s = (q.float() @ kp.float().mT) / math.sqrt(q.shape[-1])
        lse = torch.logsumexp(s, -1, keepdim=True)
        lses.append(lse)
        outs.append(torch.exp(s - lse) @ vp.float())
    lses, outs = torch.cat(lses, 2), torch.cat(outs, 2)
    return (torch.softmax(lses, dim=2) * outs).sum(2, keepdim=True).to(q.dtype)
""",
    ),
    Variant(
        name="padded, all parts at once",
        code="""def flash_decode(q, k, v, n_splits):
    B, H, S, D = k.shape
    dt = torch.promote_types(q.dtype, torch.float32)
    n = -(-S // n_splits)
    pad = n * n_splits - S
    kp = torch.cat([k.to(dt), torch.zeros(B, H, pad, D, dtype=dt)], 2).view(B, H, n_splits, n, D)
    vp = torch.cat([v.to(dt), torch.zeros(B, H, pad, D, dtype=dt)], 2).view(B, H, n_splits, n, D)
    s = torch.einsum("bhqd,bhnsd->bhns", q.to(dt), kp) / D**0.5
    real = (torch.arange(n_splits * n) < S).view(n_splits, n)
    s = s.masked_fill(~real, -math.inf)
    m = s.amax(-1)
    p = torch.exp(s - m.masked_fill(m == -math.inf, 0.0)[..., None])
    l = p.sum(-1)
    w = torch.exp(m - m.amax(-1, keepdim=True))
    top = torch.einsum("bhn,bhns,bhnsd->bhd", w, p, vp)
    return (top / (w * l).sum(-1, keepdim=True))[:, :, None].to(q.dtype)
""",
    ),
    Variant(
        name="merge_states over finished parts, larger ones first",
        code="""def flash_decode(q, k, v, n_splits):
    S, dt = k.size(2), torch.promote_types(q.dtype, torch.float32)
    base, extra = divmod(S, n_splits)
    sizes = [base + (n < extra) for n in range(n_splits)]
    state, at = None, 0
    for size in sizes:
        if size == 0:
            continue
        x = torch.einsum("bhqd,bhsd->bhqs", q.to(dt), k[:, :, at:at + size].to(dt)) / q.size(-1) ** 0.5
        m = x.max(-1).values
        e = (x - m.unsqueeze(-1)).exp()
        part = (m, e.sum(-1), torch.softmax(x, -1) @ v[:, :, at:at + size].to(dt))
        state = part if state is None else merge_states(*state, *part)
        at += size
    return state[2].to(q.dtype)
""",
    ),
    Variant(
        name="NumPy, one sum and one maximum carried along",
        code="""def flash_decode(q, k, v, n_splits):
    import numpy as np
    Q, K, V = (x.double().numpy() for x in (q, k, v))
    S = K.shape[2]
    m, l, a = np.full(Q.shape[:2] + (1,), -np.inf), 0.0, 0.0
    for part in np.array_split(np.arange(S), n_splits):
        if len(part) == 0:
            continue
        s = (Q @ K[:, :, part].swapaxes(-1, -2))[..., 0, :] / np.sqrt(Q.shape[-1])
        new = np.maximum(m, s.max(-1, keepdims=True))
        p, f = np.exp(s - new), np.exp(m - new)
        l, a, m = l * f + p.sum(-1, keepdims=True), a * f + (p[..., None, :] @ V[:, :, part])[..., 0, :], new
    return torch.from_numpy((a / l)[..., None, :]).to(q.dtype)
""",
    ),
)

# ---- triton_softmax_kernel


def _triton_softmax(x):
    return torch.softmax(_wide(x), dim=-1).to(x.dtype)


def _triton_cases(rng: Rng):
    run = {"function": "triton_softmax", "close": Close()}
    yield Case(label="rows as long as a block: 8 values", args=(rng.normal(3, 8, dtype=torch.float32),), **run)
    yield Case(label="rows of 5 values, shorter than a block", args=(rng.normal(4, 5, dtype=torch.float32),), **run)
    yield Case(label="one row", args=(rng.normal(1, 11, dtype=torch.float32),), **run)
    yield Case(label="one column: all 1", args=(rng.normal(3, 1, dtype=torch.float32),), **run)
    yield Case(label="rows of 33 values", args=(rng.normal(5, 33, dtype=torch.float32),), **run)
    yield Case(label="all values below -50", args=(rng.normal(3, 6, dtype=torch.float32, shift=-60.0),), **run)
    yield Case(
        label="all values near -2000",
        args=(rng.normal(3, 6, dtype=torch.float32, shift=-2000.0),),
        function="triton_softmax",
        close=FLOAT32,
    )
    yield Case(
        label="values near 300",
        args=(rng.normal(3, 7, dtype=torch.float32, shift=300.0),),
        function="triton_softmax",
        close=FLOAT32,
    )
    yield Case(
        label="values from -300 to 300",
        args=(rng.normal(3, 7, dtype=torch.float32, scale=100.0),),
        function="triton_softmax",
        close=FLOAT32,
    )
    x = rng.normal(4, 9, dtype=torch.float32)
    x[0, 2:6], x[1, :4], x[2, 5:] = -math.inf, -math.inf, -math.inf
    yield Case(label="some values are -inf", args=(x,), **run)
    yield Case(label="tiny differences", args=(rng.normal(3, 6, dtype=torch.float32, scale=1e-3),), **run)
    yield Case(
        label="float16, 700 values",
        args=(rng.normal(2, 700, dtype=torch.float16, scale=2.0),),
        function="triton_softmax",
        close=Close(1e-3, 1e-7),
    )


_LOAD = 'mask=inside, other=-float("inf")'
_STORE = "e / tl.sum(e, axis=0), mask=inside"
TRITON_WRONG = (
    Misconception(
        name="masked lanes load 0",
        replace=(_LOAD, "mask=inside, other=0.0"),
        says="Lanes outside the row load 0 and take part in maximum and sum. The value that changes neither is -inf.",
        same_as=("masked lanes load whatever they load",),
    ),
    Misconception(
        name="masked lanes load whatever they load",
        replace=(_LOAD, "mask=inside"),
        says="Without other=, lanes outside the row hold no defined value, and they take part in maximum and sum. Give other=-inf.",
        same_as=("masked lanes load 0",),
    ),
    Misconception(
        name="masked lanes load -100",
        replace=(_LOAD, "mask=inside, other=-100.0"),
        says="-100 is a legal value of a row. Only -inf adds nothing for certain.",
    ),
    Misconception(
        name="no mask on the load",
        replace=(', mask=inside, other=-float("inf")', ""),
        says="Lanes outside the row read what belongs to others. Give tl.load the mask, and other=-inf.",
    ),
    Misconception(
        name="no mask on the store",
        replace=("axis=0), mask=inside)", "axis=0))"),
        says="Lanes outside the row write over what belongs to others. Give tl.store the mask.",
        same_as=(
            "mask one lane too long",
            "columns in place of the output's stride",
            "the input's stride for the output",
        ),
    ),
    Misconception(
        name="mask one lane too long",
        replace=("column < n_columns", "column <= n_columns"),
        says="Columns run from 0 to n_columns - 1: the mask is column < n_columns.",
        same_as=(
            "no mask on the store",
            "columns in place of the output's stride",
            "the input's stride for the output",
        ),
    ),
    Misconception(
        name="mask one lane too short",
        replace=("column < n_columns", "column < n_columns - 1"),
        says="The last column is masked away: the mask is column < n_columns.",
    ),
    Misconception(
        name="maximum not subtracted",
        replace=("tl.exp(x - tl.max(x, axis=0))", "tl.exp(x)"),
        says="exp(89) is infinite in float32. Subtract the row's maximum first.",
    ),
    Misconception(
        name="minimum subtracted",
        replace=("tl.max(x, axis=0)", 'tl.min(tl.where(inside, x, float("inf")), axis=0)'),
        says="Subtract the maximum: then no exponent is above 0. With the minimum the largest overflows.",
    ),
    Misconception(
        name="columns in place of the strides",
        replace=("x_ptr + row * x_row_stride + column", "x_ptr + row * n_columns + column"),
        says="The next row starts x_row_stride values further, which need not be n_columns.",
        same_as=(
            "BLOCK as the stride",
            "the output's stride for the input",
        ),
    ),
    Misconception(
        name="columns in place of the output's stride",
        replace=("out_ptr + row * out_row_stride + column", "out_ptr + row * n_columns + column"),
        says="The next row of the output starts out_row_stride values further, which need not be n_columns.",
        same_as=("no mask on the store", "mask one lane too long", "the input's stride for the output"),
    ),
    Misconception(
        name="the input's stride for the output",
        replace=("row * out_row_stride", "row * x_row_stride"),
        says="The output has a row stride of its own.",
        same_as=("no mask on the store", "mask one lane too long", "columns in place of the output's stride"),
    ),
    Misconception(
        name="the output's stride for the input",
        replace=("row * x_row_stride", "row * out_row_stride"),
        says="The input has a row stride of its own.",
    ),
    Misconception(
        name="BLOCK as the stride",
        replace=("x_ptr + row * x_row_stride", "x_ptr + row * BLOCK"),
        says="BLOCK is the length of what one program handles, not the distance between rows.",
        same_as=(
            "columns in place of the strides",
            "the output's stride for the input",
        ),
    ),
    Misconception(
        name="every program takes row 0",
        replace=("row = tl.program_id(0)", "row = 0"),
        says="Every program works on row 0. tl.program_id(0) says which row is whose.",
        same_as=("the wrong axis of the grid",),
    ),
    Misconception(
        name="the wrong axis of the grid",
        replace=("row = tl.program_id(0)", "row = tl.program_id(1)"),
        says="The grid has one axis, number 0. Along axis 1 every program has the number 0.",
        same_as=("every program takes row 0",),
    ),
    Misconception(
        name="every program reads row 0",
        replace=("x_ptr + row * x_row_stride + column", "x_ptr + column"),
        says="Each program must read its own row: add row * x_row_stride to the address.",
    ),
    Misconception(
        name="every program writes row 0",
        replace=("out_ptr + row * out_row_stride + column", "out_ptr + column"),
        says="Each program must write its own row: add row * out_row_stride to the address.",
    ),
    Misconception(
        name="one value to every column",
        replace=("out_ptr + row * out_row_stride + column", "out_ptr + row * out_row_stride + column * 0"),
        says="All lanes store to the first column. Add the column numbers to the address.",
    ),
    Misconception(
        name="not divided by the sum",
        replace=(_STORE, "e, mask=inside"),
        says="Divide by the sum of the exponentials.",
        same_as=("divided by the maximum",),
    ),
    Misconception(
        name="divided by the maximum",
        replace=("e / tl.sum(e, axis=0)", "e / tl.max(e, axis=0)"),
        says="Divide by the sum of the exponentials, not by the largest of them.",
        same_as=("not divided by the sum",),
    ),
    Misconception(
        name="divided by the number of columns",
        replace=("e / tl.sum(e, axis=0)", "e / n_columns"),
        says="Divide by the sum of the exponentials.",
    ),
    Misconception(
        name="logarithm of the softmax",
        replace=("e / tl.sum(e, axis=0)", "x - tl.max(x, axis=0) - tl.log(tl.sum(e, axis=0))"),
        says="That is the log-softmax. Store the probabilities.",
    ),
    Misconception(
        name="written over the input",
        replace=("tl.store(out_ptr + row * out_row_stride", "tl.store(x_ptr + row * x_row_stride"),
        says="You store into x. The result belongs into out.",
    ),
    Misconception(
        name="base 2",
        replace=("tl.exp(x", "tl.exp2(x"),
        says="exp2 is only right when the values were multiplied by log2(e) before.",
    ),
)
TRITON_RIGHT = (
    Variant(
        name="tl.where after the load, exp2",
        code="""@triton.jit
def triton_softmax_kernel(x_ptr, out_ptr, x_row_stride, out_row_stride, n_columns, BLOCK: tl.constexpr):
    r = tl.program_id(axis=0)
    c = tl.arange(0, BLOCK)
    v = tl.load(x_ptr + r * x_row_stride + c, mask=c < n_columns, other=0.0).to(tl.float32)
    v = tl.where(c < n_columns, v, -float("inf")) * 1.4426950408889634
    p = tl.exp2(v - tl.max(v, 0))
    y = p / tl.sum(p, 0)
    tl.store(out_ptr + r * out_row_stride + c, y.to(out_ptr.dtype.element_ty), mask=c < n_columns)
""",
    ),
    Variant(
        name="row pointers moved first, zeros put into the exponentials",
        code="""@triton.jit
def triton_softmax_kernel(x_ptr, out_ptr, x_row_stride, out_row_stride, n_columns, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    x_ptr += row * x_row_stride
    out_ptr += row * out_row_stride
    columns = tl.arange(0, BLOCK)
    valid = columns < n_columns
    x = tl.load(x_ptr + columns, mask=valid, other=float("-inf"))
    x = tl.cast(x, tl.float32)
    shifted = x - tl.max(x, axis=0)
    e = tl.where(valid, tl.exp(shifted), 0.0)
    total = tl.sum(e, axis=0)
    tl.store(out_ptr + columns, e * (1.0 / total), mask=valid)
""",
    ),
    Variant(
        name="a log-sum-exp",
        code="""@triton.jit
def triton_softmax_kernel(x_ptr, out_ptr, x_row_stride, out_row_stride, n_columns, BLOCK: tl.constexpr):
    row, col = tl.program_id(0), tl.arange(0, BLOCK)
    ok = col < n_columns
    x = tl.load(x_ptr + row * x_row_stride + col, ok, -float("inf")).to(tl.float32)
    m = tl.max(x, axis=0)
    s = tl.log(tl.sum(tl.exp(x - m), axis=0))
    tl.store(out_ptr + row * out_row_stride + col, tl.exp((x - m) - s), ok)
""",
    ),
)

EXERCISES = [
    Exercise(
        name="online_softmax",
        reference=_online_softmax,
        cases=_online_cases,
        hints=(
            "You kept a maximum and a sum, and a larger value turns up. What is the old sum worth under the new maximum?",
            "new = maximum(m, block's row maximum); l = l * exp(m - new) + exp(block - new).sum(1). Then ask what -inf - (-inf) is.",
            "shift = new with -inf replaced by 0; l = l * exp(m - shift) + exp(block - shift[:, None]).sum(1); m = new. Start: m = -inf, l = 0.",
        ),
        misconceptions=ONLINE_WRONG,
        variants=ONLINE_RIGHT,
    ),
    Exercise(
        name="merge_states",
        reference=_merge_states,
        cases=_merge_cases,
        hints=(
            "How much of the total weight does the first half hold? It is not one half.",
            "On the common maximum m = maximum(m1, m2), the halves weigh l1 * exp(m1 - m) and l2 * exp(m2 - m).",
            "w1, w2 as above (with -inf in m replaced by 0); l = w1 + w2; o = (w1 * o1 + w2 * o2) / l, with l = 1 in the denominator where it is 0, and w[..., None].",
        ),
        misconceptions=MERGE_WRONG,
        variants=MERGE_RIGHT,
    ),
    Exercise(
        name="flash_forward",
        reference=_flash_forward,
        cases=_forward_cases,
        uses=("merge_states",),
        forbids=ATTENTION_ROUTINES,
        hints=(
            "Write it for one row and two tiles first. Which three things do you carry from tile to tile, and which of them change when the maximum grows?",
            "Carry m, l and a. For each tile: new maximum, factor exp(m - new) on l and on a, then add the tile's sum and p @ v. Divide a by l once, at the end.",
            "scores = q_tile @ k_tile^T / sqrt(D), hidden ones -inf; p = exp(scores - shift); l = l * f + p.sum(-1); a = a * f[..., None] + p @ v_tile; o = a / l, lse = m + log(l).",
        ),
        misconceptions=FORWARD_WRONG,
        variants=FORWARD_RIGHT,
    ),
    Exercise(
        name="flash_backward",
        reference=_flash_backward,
        cases=_backward_cases,
        forbids=(*ATTENTION_ROUTINES, *AUTOGRAD),
        hints=(
            "Write the gradients for one tile that is the whole table. Which of the sums run over keys, which over queries?",
            "p = exp(scores - lse), dp = do @ v^T, dx = p * (dp - delta) / sqrt(D) with delta = (do * o).sum(-1). Every gradient is a sum over tiles: add.",
            "For each tile: dv[keys] += p^T @ do[rows]; dk[keys] += dx^T @ q[rows]; dq[rows] += dx @ k[keys]. Where lse is -inf, let p be 0.",
        ),
        misconceptions=BACKWARD_WRONG,
        variants=BACKWARD_RIGHT,
    ),
    Exercise(
        name="hbm_bytes",
        reference=_hbm_bytes,
        cases=_hbm_cases,
        hints=(
            "How often is the first key read in each of the three?",
            "The three formulas stand in the table above. Blocks are counted with ceil, also the last, shorter one.",
            "-(-n // block) is ceil for whole numbers. Multiply the values by bytes_per_value, and raise ValueError for any other name.",
        ),
        misconceptions=HBM_WRONG,
        variants=HBM_RIGHT,
    ),
    Exercise(
        name="max_block_k",
        reference=_max_block_k,
        cases=_max_block_cases,
        hints=(
            "Which part of the sum grows with b, and which is there before the first key?",
            "b (2d + block_q) values are left after 2 block_q d. Solve for b and round down.",
            "b = (sram_bytes // bytes_per_value - 2 * block_q * d) // (2 * d + block_q); ValueError when b < 1.",
        ),
        misconceptions=MAX_BLOCK_WRONG,
        variants=MAX_BLOCK_RIGHT,
    ),
    Exercise(
        name="roofline_seconds",
        reference=_roofline_seconds,
        cases=_roofline_cases,
        hints=(
            "Two workers start together, and the work is done when both are done.",
            "One needs flops / peak_flops seconds, the other bytes_moved / bandwidth.",
            "max of the two.",
        ),
        misconceptions=ROOFLINE_WRONG,
        variants=ROOFLINE_RIGHT,
    ),
    Exercise(
        name="flash_decode",
        reference=_flash_decode,
        cases=_decode_cases,
        uses=("merge_states", "flash_forward"),
        forbids=ATTENTION_ROUTINES,
        hints=(
            "What would you have to hand over from each part, so that somebody else can merge them?",
            "For each part: maximum, sum of exponentials, output divided by that sum. merge_states does the rest. Borders n * S // n_splits.",
            "Start with m = -inf, l = 0, o = 0; skip parts with start == end; m, l, o = merge_states(m, l, o, *part).",
        ),
        misconceptions=DECODE_WRONG,
        variants=DECODE_RIGHT,
    ),
    Exercise(
        name="triton_softmax_kernel",
        reference=_triton_softmax,
        references={"triton_softmax": _triton_softmax},
        cases=_triton_cases,
        forbids=(
            "triton.language.softmax",
            "torch.softmax",
            "torch.nn.functional.softmax",
            "torch.Tensor.softmax",
            "torch.special.softmax",
        ),
        hints=(
            "Write down the addresses that program 2 reads when n_columns is 5, BLOCK is 8 and the row stride is 13.",
            "Address: x_ptr + row * x_row_stride + tl.arange(0, BLOCK). Mask: tl.arange(0, BLOCK) < n_columns. Masked lanes load -inf: exp(-inf) adds nothing.",
            "x = tl.load(address, mask=inside, other=-float('inf')).to(tl.float32); e = tl.exp(x - tl.max(x, axis=0)); store e / tl.sum(e, axis=0) with the same mask.",
        ),
        misconceptions=TRITON_WRONG,
        variants=TRITON_RIGHT,
        seconds=30.0,
    ),
]
