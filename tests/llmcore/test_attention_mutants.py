"""Each mutant changes one line of the attention modules into a mistake that people make, and must fail the comparison.

The comparison is the one of test_attention.py on a few cases: float64, tolerance 1e-10, values, log-sum-exp, gradients.
"""

import importlib.util
import inspect
import sys
from functools import cache

import pytest
import torch
from attention_oracle import gradients, oracle, random_qkv

from llmcore.attention import cache as cache_module
from llmcore.attention import dispatch, masks, reference, tiled

TOLERANCE = {"atol": 1e-10, "rtol": 1e-10}

# Block sizes 2 and 3 against 7 and 8 tokens: several tiles, the last ones short, in both directions.
CASES = [
    {"causal": True},
    {"causal": True, "t_q": 5, "t_k": 8},
    {"causal": True, "t_q": 8, "t_k": 5},
    {"causal": True, "window": 2},
    {"softcap": 0.8},
    {"borders": [0, 3, 7], "causal": True},
    {"large": 300.0},
]

TILED_MUTANTS = {
    "accumulator not rescaled": ("accumulator * rescale[..., None] + weighted_v", "accumulator + weighted_v"),
    "sum not rescaled": ("l = l * rescale + weights.sum(-1)", "l = l + weights.sum(-1)"),
    "sum of the last tile only": ("l = l * rescale + weights.sum(-1)", "l = weights.sum(-1)"),
    "maximum of the last tile only": ("torch.maximum(m, scores.amax(-1))", "scores.amax(-1)"),
    "no maximum subtracted": ("shift = torch.where(new_m == -math.inf, 0, new_m)", "shift = torch.zeros_like(new_m)"),
    "empty row not guarded": ("shift = torch.where(new_m == -math.inf, 0, new_m)", "shift = new_m"),
    "no division by the sum": ("accumulator / safe_l[..., None]", "accumulator"),
    "division in every tile": (
        "                m = new_m\n",
        "                m = new_m; accumulator /= l[..., None]\n",
    ),
    "lse without the maximum": ("m + safe_l.log()", "safe_l.log()"),
    "lse in base 2": ("m + safe_l.log()", "m + safe_l.log2()"),
    "lse of an empty row is 0": (
        "torch.where(empty, -math.inf, m + safe_l.log())",
        "torch.where(empty, 0, m + safe_l.log())",
    ),
    "causal aligned at the top left": ("offset = k_end - q_end", "offset = k_start - q_start"),
    "diagonal tile dropped": ("last = min(k_end, high + offset)", "last = min(k_end, low + offset)"),
    "causal bound one short": ("last = min(k_end, high + offset)", "last = min(k_end, high + offset - 1)"),
    "causal mask lets the next token in": ("hidden_ts |= column_s > row_t1", "hidden_ts |= column_s > row_t1 + 1"),
    "partial tile taken for whole": ("end - 1 > low + offset", "end - 1 > high + offset"),
    "window one short": ("column_s < row_t1 - request.window", "column_s <= row_t1 - request.window"),
    "window bound one short": (
        "max(k_start, low + offset - request.window)",
        "max(k_start, low + offset - request.window + 1)",
    ),
    "window edge tile taken for whole": (
        "column < high - 1 + offset - request.window",
        "column < low + offset - request.window",
    ),
    "last query block dropped": (
        "range(q_start, q_end, request.block_q)",
        "range(q_start, q_end - 1, request.block_q)",
    ),
    "documents ignored": ("whole_text if request.segments is None else", "whole_text if True else"),
    "softcap missing in the backward": ("* (1 - (capped / request.softcap) ** 2)", "* 1"),
    "row term missing in the backward": ("d_weights - delta[..., rows, None]", "d_weights"),
    "gradient of the lse dropped": ("- grad_lse.unflatten(1, groups)", "- 0"),
    "scale missing in dk and dq": ("folded = _fold(d_scores) * request.scale", "folded = _fold(d_scores)"),
    "dq overwritten by each key tile": ("dq[..., rows, :] +=", "dq[..., rows, :] ="),
    "dk overwritten by each query block": ("dk[..., tile.k, :] +=", "dk[..., tile.k, :] ="),
    "query heads dealt to key heads in turn": (
        "unflatten(1, (kv_heads, x_BHTD.shape[1] // kv_heads))",
        "unflatten(1, (x_BHTD.shape[1] // kv_heads, kv_heads)).transpose(1, 2)",
    ),
}

REFERENCE_MUTANTS = {
    "no scale": ("q.shape[-1] ** -0.5 if scale is None", "1.0 if scale is None"),
    "divided by d": ("q.shape[-1] ** -0.5 if scale is None", "1 / q.shape[-1] if scale is None"),
    "softmax over queries": ("softmax(scores_BHTS).reshape", "softmax(scores_BHTS, dim=-2).reshape"),
    "no maximum subtracted": (
        "return torch.where(largest == -math.inf, 0, largest)",
        "return torch.zeros_like(largest)",
    ),
    "empty row not guarded": ("return torch.where(largest == -math.inf, 0, largest)", "return largest"),
    "softcap without its factor": ("softcap * torch.tanh(scores_BHTS / softcap)", "torch.tanh(scores_BHTS / softcap)"),
    "hidden scores filled with -10": (
        "masked_fill(~visible_TS, -math.inf)",
        "masked_fill(~visible_TS, -10.0)",
    ),
}

MASK_MUTANTS = {
    "causal aligned at the top left": ("torch.arange(t_k - t_q, t_k", "torch.arange(t_q"),
    "hides itself": ("key_S <= position_T1", "key_S < position_T1"),
    "window one short": ("key_S >= position_T1 - window", "key_S > position_T1 - window"),
}


@cache
def expected(index):
    options = dict(CASES[index])
    sizes = {name: options.pop(name) for name in ("t_q", "t_k") if name in options}
    large = options.pop("large", None)
    q, k, v = random_qkv(batch=1, heads=4, kv_heads=2, **{"t_q": 7, "t_k": 7, **sizes}, d=3, d_v=2)
    if large:
        q, k = ((x * large**0.5).detach().requires_grad_() for x in (q, k))
    want = oracle(q, k, v, **options)
    return (q, k, v), options, want, gradients(list(want), (q, k, v))


def compare(run):
    """Assert that run(q, k, v, options) gives the oracle's output, log-sum-exp and gradients in all cases."""
    for index in range(len(CASES)):
        qkv, options, want, want_gradients = expected(index)
        got = run(*qkv, options)
        for have, wanted in zip((*got, *gradients(list(got), qkv)), (*want, *want_gradients)):
            torch.testing.assert_close(have, wanted, **TOLERANCE)


def run_tiled(module):
    def run(q, k, v, options):
        borders = options.get("borders")
        rest = {name: value for name, value in options.items() if name != "borders"}
        segments = None if borders is None else list(zip(borders, borders[1:]))  # noqa: RUF007
        request = module.Request(q.shape[-1] ** -0.5, segments=segments, block_q=2, block_k=3, **rest)
        return module.tiled_attention(q, k, v, request)

    return run


def run_reference(module):
    def run(q, k, v, options):
        borders = options.get("borders")
        rest = {name: value for name, value in options.items() if name != "borders"}
        mask = None
        if borders is not None:
            document = torch.bucketize(torch.arange(q.shape[2]), torch.tensor(borders), right=True)
            mask = document[:, None] == document
        return module.attention_with_lse(q, k, v, mask=mask, **rest)

    return run


def mutate(module, old, new, name):
    """A copy of the module with one piece of its source replaced."""
    source = inspect.getsource(module)
    assert source.count(old) >= 1, f"the mutant {name!r} no longer matches the source"
    spec = importlib.util.spec_from_loader(f"mutant_of_{module.__name__.replace('.', '_')}", loader=None)
    mutant = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = mutant
    try:
        exec(compile(source.replace(old, new), spec.name, "exec"), mutant.__dict__)
    finally:
        del sys.modules[spec.name]
    return mutant


@pytest.mark.parametrize("run", [run_tiled(tiled), run_reference(reference)], ids=["tiled", "reference"])
def test_the_modules_pass(run):
    compare(run)


@pytest.mark.parametrize("name", TILED_MUTANTS)
def test_tiled_mutants_fail(name):
    mutant = mutate(tiled, *TILED_MUTANTS[name], name)
    with pytest.raises((AssertionError, RuntimeError, IndexError)):
        compare(run_tiled(mutant))


@pytest.mark.parametrize("name", REFERENCE_MUTANTS)
def test_reference_mutants_fail(name):
    mutant = mutate(reference, *REFERENCE_MUTANTS[name], name)
    with pytest.raises((AssertionError, RuntimeError)):
        compare(run_reference(mutant))


@pytest.mark.parametrize("name", MASK_MUTANTS)
def test_mask_mutants_fail(name, monkeypatch):
    monkeypatch.setattr(reference, "visible_mask", mutate(masks, *MASK_MUTANTS[name], name).visible_mask)
    with pytest.raises(AssertionError):
        compare(run_reference(reference))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("is_causal = causal and t_q == t_k and", "is_causal = causal and"),
        ("unseen = t_k - t_q - window", "unseen = t_k - t_q - window + 1"),
        ("folded = q.reshape(q.shape[0], k.shape[1]", "folded = q.transpose(1, 2).reshape(q.shape[0], k.shape[1]"),
    ],
    ids=["torch's top-left causal", "window trimmed one short", "heads and time mixed"],
)
def test_sdpa_mutants_fail(old, new):
    mutant = mutate(dispatch, old, new, old)

    def check(module):
        for sizes, options in (
            ({"t_q": 5, "t_k": 8}, {"causal": True}),
            ({"t_q": 8, "t_k": 5}, {"causal": True}),
            ({"t_q": 2, "t_k": 8}, {"causal": True, "window": 3}),
            ({"t_q": 3, "t_k": 5}, {}),
        ):
            qkv = random_qkv(**sizes)
            out, want = module.attention(*qkv, **options, backend="sdpa"), oracle(*qkv, **options)[0]
            for have, wanted in zip((out, *gradients([out], qkv)), (want, *gradients([want], qkv))):
                torch.testing.assert_close(have, wanted, **TOLERANCE)

    check(dispatch)
    with pytest.raises(AssertionError):
        check(mutant)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (
            "self.start = max(self.start, self.end - self.window)",
            "self.start = max(self.start, self.end - self.window + 1)",
        ),
        ("new[:, :, :held] = old[:, :, self.start : self.end]", "new[:, :, :held] = old[:, :, :held]"),
        ("buffer.index_select(0, rows.to(buffer.device))", "buffer"),
        ("layer.end -= layer.seen - length", "layer.end -= 0"),
    ],
    ids=["window one short", "first tokens kept when moving", "no reordering", "nothing cut"],
)
def test_cache_mutants_fail(old, new):
    def check(module):
        cache = module.KVCache(1, window=3)
        seen = torch.arange(40.0).view(1, 1, 40, 1).repeat(2, 1, 1, 1)
        seen[1] += 100
        for end in range(1, 36):
            k, _ = cache.append(0, seen[:, :, end - 1 : end], seen[:, :, end - 1 : end])
            assert torch.equal(k, seen[:, :, max(0, end - 4) : end])
        cache.truncate(35)
        cache.reorder(torch.tensor([1, 0]))
        k, _ = cache.append(0, seen[:, :, 35:36], seen[:, :, 35:36])
        assert k[0, 0, :3, 0].tolist() == [132, 133, 134]
        whole = module.KVCache(1)
        whole.append(0, seen, seen)
        whole.truncate(7)
        assert whole.append(0, seen[:, :, 7:9], seen[:, :, 7:9])[0].equal(seen[:, :, :9])

    check(cache_module)
    with pytest.raises((AssertionError, RuntimeError)):
        check(mutate(cache_module, old, new, old))
