"""All backends against a float64 oracle that loops over queries: values, log-sum-exp, gradients, edges, errors."""

import inspect
import itertools
import math
import re
from functools import cache

import pytest
import torch
from attention_oracle import gradients, oracle, random_qkv

from llmcore.attention import attention, attention_weights, dispatch, flash_attention, prefer, reference, softmax, tiled

PORTABLE = ("reference", "tiled", "sdpa", "auto")
# float64 sums of a dozen terms: rounding stays near 1e-15, and the mutants in test_attention_mutants.py are off by 1e-3.
EXACT = {"atol": 1e-12, "rtol": 1e-10}

CASES = {
    "plain": {},
    "causal, more keys than queries": {"causal": True},
    "causal, more queries than keys": {"causal": True, "t_q": 7, "t_k": 5},
    "sliding window": {"causal": True, "window": 2},
    "window 0 sees itself": {"causal": True, "window": 0},
    "window without causal": {"window": 1},
    "window longer than the text": {"causal": True, "window": 100},
    "one query": {"causal": True, "t_q": 1, "window": 3},
    "one key head": {"kv_heads": 1, "causal": True},
    "one head each": {"kv_heads": 6, "causal": True},
    "scale": {"scale": 0.3},
    "one by one": {"t_q": 1, "t_k": 1, "d": 1, "d_v": 1},
    "wide values": {"d": 3, "d_v": 11},
}
SOFTCAP_CASES = {"softcap": {"softcap": 0.7}, "softcap, window, grouped": {"softcap": 0.7, "causal": True, "window": 1}}
SIZES = ("batch", "heads", "kv_heads", "t_q", "t_k", "d", "d_v")


def split(case):
    sizes = {name: value for name, value in case.items() if name in SIZES}
    return sizes, {name: value for name, value in case.items() if name not in SIZES}


def assert_same(got, want):
    for have, expected in zip(got, want, strict=True):
        torch.testing.assert_close(have, expected, **EXACT)


@cache
def wanted(name):
    """(q, k, v), options, the oracle's (out, lse), gradients of out, and gradients of out and lse together."""
    sizes, options = split({**CASES, **SOFTCAP_CASES}[name])
    qkv = random_qkv(**sizes)
    want = oracle(*qkv, **options)
    return qkv, options, want, gradients([want[0]], qkv, retain_graph=True), gradients(list(want), qkv)


@pytest.mark.parametrize("backend", PORTABLE)
@pytest.mark.parametrize("name", CASES)
def test_values_and_gradients_equal_the_oracle(name, backend):
    qkv, options, want, want_gradients, _ = wanted(name)
    out = attention(*qkv, **options, backend=backend)
    assert_same([out], want[:1])
    assert_same(gradients([out], qkv), want_gradients)


@pytest.mark.parametrize("backend", ["reference", "tiled", "auto"])
@pytest.mark.parametrize("name", [*CASES, *SOFTCAP_CASES])
def test_lse_and_its_gradient_equal_the_oracle(name, backend):
    qkv, options, want, _, want_gradients = wanted(name)
    got = flash_attention(*qkv, **options, backend=backend, return_lse=True)
    assert_same(got, want)
    assert_same(gradients(list(got), qkv), want_gradients)


def a_mask(kind):
    generator = torch.Generator().manual_seed(3)
    shape = {"per batch": (2, 1, 5, 7), "per head": (6, 5, 7), "keys": (2, 1, 1, 7)}.get(kind, (5, 7))
    mask = torch.rand(shape, generator=generator) < 0.6
    if kind == "additive":
        mask = torch.randn(2, 6, 5, 7, generator=generator, dtype=torch.float64).masked_fill(~mask, -math.inf)
    if kind == "empty rows":
        mask[1] = mask[3] = False
    return mask


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("kind", ["per batch", "per head", "keys", "queries and keys", "additive", "empty rows"])
def test_masks_broadcast_and_add(kind, causal):
    qkv, mask = random_qkv(), a_mask(kind)
    want = oracle(*qkv, mask=mask, causal=causal)[0]
    want_gradients = gradients([want], qkv)
    for backend in PORTABLE:
        out = attention(*qkv, mask=mask, causal=causal, backend=backend)
        assert_same([out], [want])
        assert_same(gradients([out], qkv), want_gradients)


@pytest.mark.parametrize("backend", ["reference", "tiled"])
def test_softcap_comes_before_the_mask(backend):
    qkv = random_qkv()
    mask = torch.rand(5, 7, generator=torch.Generator().manual_seed(4)) < 0.5
    out = attention(*qkv, mask=mask, softcap=0.5, backend=backend)
    assert_same([out], [oracle(*qkv, mask=mask, softcap=0.5)[0]])


@pytest.mark.parametrize("backend", PORTABLE)
def test_a_row_that_sees_nothing_gives_zeros_and_finite_gradients(backend):
    qkv = random_qkv()
    for mask in (torch.zeros(5, 7, dtype=torch.bool), torch.full((5, 7), -math.inf, dtype=torch.float64)):
        out = attention(*qkv, mask=mask, backend=backend)
        assert out.eq(0).all()
        assert all(grad.eq(0).all() for grad in gradients([out], qkv))
    qkv = random_qkv(t_q=7, t_k=5)
    out = attention(*qkv, causal=True, backend=backend)
    assert out[:, :, :2].eq(0).all()
    assert out[:, :, 2:].ne(0).any(-1).all()


@pytest.mark.parametrize("options", [{"causal": True}, {}, {"causal": True, "window": 1}], ids=str)
@pytest.mark.parametrize("borders", [[0, 3, 4, 9], [0, 9], [0, 0, 5, 5, 9]])
def test_packed_documents_do_not_see_each_other(borders, options):
    qkv = random_qkv(t_q=9, t_k=9, batch=1, heads=4, kv_heads=2)
    want = oracle(*qkv, borders=borders, **options)[0]
    want_gradients = gradients([want], qkv)
    for backend in PORTABLE:
        out = flash_attention(*qkv, cu_seqlens=torch.tensor(borders), **options, backend=backend)
        assert_same([out], [want])
        assert_same(gradients([out], qkv), want_gradients)


@pytest.mark.parametrize("sizes", [(129, 257), (128, 256), (1, 300), (260, 3)])
def test_tiled_equals_reference_around_its_own_block_sizes(sizes):
    qkv = random_qkv(batch=1, heads=2, kv_heads=1, t_q=sizes[0], t_k=sizes[1], d=5)
    for options in ({"causal": True}, {"causal": True, "window": 130}, {"softcap": 2.0}):
        got = flash_attention(*qkv, **options, backend="tiled", return_lse=True)
        want = flash_attention(*qkv, **options, backend="reference", return_lse=True)
        assert_same(got, want)
        assert_same(gradients(list(got), qkv), gradients(list(want), qkv))


@pytest.mark.parametrize("backend", PORTABLE)
@pytest.mark.parametrize("order", ["rising", "falling"])
def test_logits_of_300_neither_overflow_nor_lose_the_winner(order, backend):
    q, k, v = random_qkv(dtype=torch.float32, t_q=9, t_k=9, d=1, d_v=3)
    scores = torch.linspace(-300, 300, 9)
    k = (scores if order == "rising" else scores.flip(0)).view(1, 1, 9, 1).expand_as(k)
    out = attention(torch.ones_like(q), k, v, scale=1.0, backend=backend)
    torch.testing.assert_close(
        out, v[:, :, 8 if order == "rising" else 0].repeat_interleave(2, 1)[:, :, None].expand_as(out)
    )


@pytest.mark.parametrize("backend", PORTABLE)
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float16, 1.5e-3), (torch.bfloat16, 1.2e-2)])
def test_half_precision_is_off_by_rounding_alone_over_2048_keys(dtype, bound, backend):
    q, k, v = random_qkv(batch=1, heads=2, kv_heads=1, t_q=3, t_k=2048, d=16, d_v=5, dtype=dtype, requires_grad=False)
    out = attention(q, k, v + 1, backend=backend)
    assert out.dtype == dtype
    assert (out.double() - oracle(q, k, v + 1)[0]).abs().max() < bound  # about one unit in the last place at 1


@pytest.mark.parametrize("backend", PORTABLE)
def test_inputs_may_be_strided_or_expanded_and_stay_unchanged(backend):
    q, k, v = random_qkv()
    strided = [x.detach().transpose(1, 2).contiguous().transpose(1, 2) for x in (q, k)]
    shared_v = v.detach()[:, :1].expand(-1, 3, -1, -1)
    before = [x.clone() for x in (*strided, shared_v)]
    out = attention(*strided, shared_v, causal=True, backend=backend)
    assert_same([out], [oracle(*before, causal=True)[0]])
    assert all(torch.equal(x, y) for x, y in zip((*strided, shared_v), before))


@pytest.mark.parametrize("backend", PORTABLE)
def test_no_keys_no_queries_no_batch(backend):
    q, k, v = random_qkv()
    out = attention(q, k[:, :, :0], v[:, :, :0], backend=backend)
    assert out.shape == (2, 6, 5, 3)
    assert out.eq(0).all()
    assert all(grad.eq(0).all() for grad in gradients([out], (q,)))
    assert attention(q[:, :, :0], k, v, causal=True, backend=backend).shape == (2, 6, 0, 3)
    assert attention(q[:0], k[:0], v[:0], backend=backend).shape == (0, 6, 5, 3)


@pytest.mark.parametrize("backend", PORTABLE)
def test_a_changed_token_leaves_outputs_before_it_alone(backend):
    q, k, v = random_qkv(t_q=7, t_k=7, requires_grad=False)
    changed_k, changed_v = k.clone(), v.clone()
    changed_k[:, :, 4] += 5
    changed_v[:, :, 4] = 1e9
    before, after = (attention(q, *kv, causal=True, backend=backend) for kv in ((k, v), (changed_k, changed_v)))
    assert torch.equal(before[:, :, :4], after[:, :, :4])
    assert before[:, :, 4:].ne(after[:, :, 4:]).all()


def test_gradcheck_of_the_written_backward():
    qkv = random_qkv(batch=1, heads=2, kv_heads=1, t_q=4, t_k=5, d=3, d_v=2)
    request = tiled.Request(0.4, causal=True, window=2, softcap=1.5, block_q=3, block_k=2)
    assert torch.autograd.gradcheck(lambda q, k, v: tiled.tiled_attention(q, k, v, request), qkv)


def test_parts_of_the_keys_merge_to_the_whole():
    q, k, v = random_qkv(t_k=11, requires_grad=False)
    borders = [0, 4, 4, 5, 11]  # one of them empty
    parts = [
        flash_attention(q, k[:, :, low:high], v[:, :, low:high], backend="tiled", return_lse=True)
        for low, high in itertools.pairwise(borders)
    ]
    outs, lses = (torch.stack(all_) for all_ in zip(*parts))
    assert_same(tiled.merge_parts(outs, lses), oracle(q, k, v))
    out, lse = tiled.merge_parts(outs[1:2], lses[1:2])
    assert out.eq(0).all()
    assert lse.eq(-math.inf).all()


def test_tiles_never_hold_all_scores_and_skip_the_hidden_half():
    request = tiled.Request(1.0, causal=True, block_q=4, block_k=4)
    visited = [(rows.start, tile.k.start) for rows, tiles in tiled.plan(16, 16, request) for tile in tiles]
    assert visited == [(row, column) for row in range(0, 16, 4) for column in range(0, row + 1, 4)]
    windowed = tiled.Request(1.0, causal=True, window=3, block_q=4, block_k=4)
    per_row = [sum(tile.k.stop - tile.k.start for tile in tiles) for _, tiles in tiled.plan(400, 400, windowed)]
    assert max(per_row) <= 4 + 3


def test_tiled_keeps_no_tensor_of_tokens_squared(monkeypatch):
    saved = []
    qkv = random_qkv(batch=1, heads=2, kv_heads=1, t_q=600, t_k=600, d=4, d_v=4, dtype=torch.float32)
    with torch.autograd.graph.saved_tensors_hooks(lambda x: saved.append(x.numel()) or x, lambda x: x):
        flash_attention(*qkv, causal=True, backend="tiled")
    assert max(saved) <= 2 * 600 * 4


def test_softmax_is_safe_and_its_gradient_finite():
    x = torch.tensor(
        [[1e4, 1e4 + 1], [-math.inf, -math.inf], [-math.inf, 0.0]], dtype=torch.float64, requires_grad=True
    )
    out = softmax(x)
    assert_same([out], [torch.tensor([[1 / (1 + math.e), math.e / (1 + math.e)], [0, 0], [0, 1]], dtype=torch.float64)])
    assert gradients([out], (x,))[0].isfinite().all()
    assert softmax(x.detach().T, dim=0).T.equal(out.detach())
    assert softmax(torch.zeros(3, 0)).shape == (3, 0)


def test_the_readable_parts_fit_together():
    q, k, v = random_qkv(kv_heads=6)
    scores = reference.attention_scores(q, k, causal=True)
    assert_same([softmax(scores) @ v], [reference.attention(q, k, v, causal=True)])
    assert_same([reference.log_sum_exp(scores)], [torch.logsumexp(scores, -1)])
    nothing = torch.full((2, 3), -math.inf, requires_grad=True)
    assert reference.log_sum_exp(nothing).eq(-math.inf).all()
    assert gradients([reference.log_sum_exp(nothing)], (nothing,))[0].eq(0).all()


def test_weights_of_a_visible_row_sum_to_one_and_hidden_ones_are_exactly_zero():
    q, k, _ = random_qkv(requires_grad=False)
    weights = attention_weights(q, k - 1e7, causal=True)
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 6, 5, dtype=torch.float64))
    assert weights.triu(3).eq(0).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"q": torch.zeros(2, 6, 5)}, "must be (batch, heads, time, width)"),
        ({"q": torch.zeros(3, 6, 5, 4)}, "one batch size"),
        ({"v": torch.zeros(2, 3, 8, 3)}, "same heads and time"),
        ({"q": torch.zeros(2, 6, 5, 8)}, "same width"),
        ({"q": torch.zeros(2, 7, 5, 4)}, "key heads must divide query heads, got 7 query and 3 key heads"),
        ({"q": torch.zeros(2, 6, 5, 4, dtype=torch.float16)}, "share a floating dtype"),
        ({"q": torch.zeros(2, 6, 5, 4, device="meta")}, "share a device"),
        ({"mask": torch.ones(5, 7, dtype=torch.long)}, "mask must be bool"),
        ({"mask": torch.ones(2, 5, 7, dtype=torch.bool)}, "needs a head axis"),
        ({"mask": torch.ones(7, 5, dtype=torch.bool)}, "mask must broadcast"),
        ({"mask": torch.ones(5, 7, dtype=torch.bool, device="meta")}, "mask must be on q's device"),
        ({"window": -1}, "window must be at least 0"),
        ({"softcap": 0.0}, "softcap must be positive"),
        ({"scale": math.inf}, "scale must be finite"),
        ({"backend": "flash"}, "backend must be one of auto, reference"),
        ({"backend": "sdpa", "softcap": 1.0}, "cannot do a soft-cap"),
        ({"backend": "triton", "mask": torch.ones(5, 7, dtype=torch.bool)}, "takes no mask"),
        ({"backend": "tiled", "mask": torch.zeros(5, 7, requires_grad=True)}, "no gradient"),
    ],
)
def test_errors_say_what_is_wrong(change, message):
    q, k, v = random_qkv(dtype=torch.float32, requires_grad=False)
    call = {"q": q, "k": k, "v": v, **change}
    with pytest.raises(ValueError, match=re.escape(message)):
        inspect.unwrap(attention)(**call)


@pytest.mark.parametrize(
    ("borders", "message"),
    [
        ([0, 3, 8], "must rise from 0 to the 9 tokens"),
        ([1, 9], "must rise"),
        ([0, 5, 4, 9], "must rise"),
        ([[0, 9]], "whole numbers"),
        ([0.0, 9.0], "whole numbers"),
    ],
)
def test_borders_that_do_not_add_up_are_refused(borders, message):
    q, k, v = random_qkv(t_q=9, t_k=9)
    with pytest.raises(ValueError, match=message):
        inspect.unwrap(flash_attention)(q, k, v, cu_seqlens=torch.tensor(borders))
    with pytest.raises(ValueError, match="as many queries as keys"):
        flash_attention(q[:, :, :2], k, v, cu_seqlens=torch.tensor([0, 9]))


def test_sdpa_says_that_it_has_no_lse():
    with pytest.raises(ValueError, match="cannot do the log-sum-exp"):
        flash_attention(*random_qkv(), backend="sdpa", return_lse=True)


class Kernels:
    """Stands in for llmcore.attention.kernels."""

    available = True

    @classmethod
    def is_available(cls):
        return cls.available

    @staticmethod
    def flash_attention(q, k, v, **options):
        assert options.keys() == {"causal", "scale", "window", "softcap", "cu_seqlens"}
        return q + 1, q[..., 0] + 2


def test_triton_is_loaded_only_when_asked_for(monkeypatch):
    qkv = random_qkv()
    monkeypatch.setattr(dispatch, "_checked_triton", [])
    monkeypatch.setattr(dispatch, "_load_kernels", lambda: Kernels)
    attention(*qkv)
    assert dispatch._checked_triton == []
    out, lse = flash_attention(*qkv, causal=True, backend="triton", return_lse=True)
    assert_same([out, lse], [qkv[0] + 1, qkv[0][..., 0] + 2])


def test_triton_says_in_one_sentence_why_it_cannot(monkeypatch):
    def missing(name):
        raise ModuleNotFoundError(name=name)

    for load, available, reason in (
        (lambda: missing("llmcore.attention.kernels"), True, "is not part of this installation"),
        (lambda: missing("triton"), True, "needs the package triton, which is not installed"),
        (lambda: Kernels, False, "needs a CUDA device, or TRITON_INTERPRET=1"),
    ):
        monkeypatch.setattr(dispatch, "_checked_triton", [])
        monkeypatch.setattr(dispatch, "_load_kernels", load)
        monkeypatch.setattr(Kernels, "available", available)
        with pytest.raises(ValueError, match=rf"backend 'triton' {reason}.* use 'sdpa' or 'tiled'$"):
            flash_attention(*random_qkv(), backend="triton")


@pytest.mark.parametrize(
    ("options", "want"),
    [
        ({}, "sdpa"),
        ({"causal": True}, "sdpa"),
        ({"softcap": 1.0}, "reference"),
        ({"need_lse": True, "t": 300}, "tiled"),
        ({"softcap": 1.0, "t": 300}, "tiled"),
        ({"window": 5, "causal": True, "t": 5000}, "tiled"),
        ({"window": 5, "causal": True, "t": 500}, "sdpa"),
    ],
)
def test_auto_takes_torchs_own_where_it_can_say_the_request(options, want):
    t = options.pop("t", 9)
    q = torch.zeros(1, 1, 1, 1).expand(1, 1, t, 1)
    filled = {"causal": False, "scale": 1.0, "window": None, "softcap": None, **options}
    assert dispatch._choose(q, q, q, None, dispatch._Options(**filled)) == want


def test_prefer_changes_what_auto_takes_where_it_can(monkeypatch):
    asked = []
    for name in ("reference", "tiled", "sdpa"):
        run = dispatch._RUNNERS[name]
        monkeypatch.setitem(
            dispatch._RUNNERS, name, lambda *arguments, name=name, run=run: asked.append(name) or run(*arguments)
        )
    q, k, v = random_qkv()
    with prefer("tiled"):
        attention(q, k, v, causal=True)
        with prefer("sdpa"):
            attention(q, k, v)
            flash_attention(q, k, v, softcap=1.0)  # which sdpa cannot do
        attention(q, k, v)
        attention(q, k, v, backend="reference")
        attention(q, k, v, mask=torch.zeros(5, 7, dtype=torch.float64, requires_grad=True))  # nor tiles a learned mask
    attention(q, k, v)
    assert asked == ["tiled", "sdpa", "reference", "tiled", "reference", "sdpa", "sdpa"]


def test_prefer_refuses_what_is_not_there(monkeypatch):
    monkeypatch.setattr(dispatch, "_checked_triton", ["backend 'triton' needs a CUDA device"])
    with pytest.raises(ValueError, match="needs a CUDA device"), prefer("triton"):
        pass
    with pytest.raises(ValueError, match="backend must be one of auto"), prefer("flash"):
        pass
    with pytest.raises(KeyError), prefer("tiled"):
        raise KeyError
    assert dispatch._preferred == "auto"


def test_borders_are_read_once_and_again_when_they_change():
    q, k, v = random_qkv(t_q=9, t_k=9, requires_grad=False)
    borders = torch.tensor([0, 3, 9])
    first = flash_attention(q, k, v, cu_seqlens=borders, backend="tiled")
    remembered = dispatch._last_borders
    flash_attention(q, k, v, cu_seqlens=borders, backend="tiled")
    assert dispatch._last_borders is remembered
    borders[1] = 5
    second = flash_attention(q, k, v, cu_seqlens=borders, backend="tiled")
    assert_same([second], [oracle(q, k, v, borders=[0, 5, 9])[0]])
    assert not torch.equal(first, second)
    with torch.inference_mode():  # such tensors do not count their changes
        frozen = torch.tensor([0, 3, 9])
        assert_same([flash_attention(q, k, v, cu_seqlens=frozen, backend="tiled")], [first])


def test_a_learned_bias_gets_its_gradient_from_auto():
    qkv = random_qkv()
    bias = torch.randn(6, 5, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(5)).requires_grad_()
    got, want = attention(*qkv, mask=bias, causal=True), oracle(*qkv, mask=bias, causal=True)[0]
    assert_same(gradients([got], (bias,)), gradients([want], (bias,)))


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["reference", "sdpa", "auto"])
def test_compiles_without_a_graph_break(backend):
    q, k, v = random_qkv(t_q=7, t_k=7, requires_grad=False)
    mask = torch.rand(2, 1, 1, 7, generator=torch.Generator().manual_seed(6)) < 0.6

    def step(q, k, v):
        return attention(q, k, v, causal=True, mask=mask, window=3, backend=backend)

    assert_same([torch.compile(step, fullgraph=True, backend="eager")(q, k, v)], [step(q, k, v)])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("backend", PORTABLE)
def test_cuda_equals_the_oracle(backend):
    for name in CASES:
        qkv, options, want, want_gradients, _ = wanted(name)
        on_device = [x.detach().float().cuda().requires_grad_() for x in qkv]
        out = attention(*on_device, **options, backend=backend).double().cpu()
        # float32 without TF32: rounding of a dozen terms near 1, well below the 1e-2 of a wrong weight.
        torch.testing.assert_close(out, want[0], atol=1e-5, rtol=1e-5)
        for have, wants in zip(gradients([out], tuple(on_device)), want_gradients):
            torch.testing.assert_close(have.double().cpu(), wants, atol=1e-4, rtol=1e-4)
