"""Checks of chapter 02: references in float64, cases by rule, and the ways attention goes wrong.

The references share no formula with the worked solutions where there is a choice: masks come from loops, heads are computed one
at a time, scores with einsum.
"""

import math

import torch

from grader.exercise import Case, Close, Code, Exercise, Misconception, Mismatch, Scenario, Variant

INF = math.inf
HALVES = ((torch.float16, Close(1e-2, 1e-2)), (torch.bfloat16, Close(6e-2, 6e-2)))
"""Types of 16 bits with the tolerance for results of order 1: scores are rounded before the softmax too."""

ANY_SOFTMAX = Close(1e-5, 1e-6)
"""For whole attentions, in float64 too: a softmax computed in float32 inside, as Llama's own code does, is right."""

SOFTMAX_ROUTINES = tuple(
    f"{home}.{name}"
    for home in ("torch", "torch.Tensor", "torch.nn.functional", "torch.special", "torch.masked", "torch.sparse")
    for name in ("softmax", "log_softmax")
) + (
    "torch.nn.functional.softmin",
    "torch.nn.functional.gumbel_softmax",
    "torch.nn.Softmax",
    "torch.nn.Softmax2d",
    "torch.nn.LogSoftmax",
    "torch.nn.Softmin",
    "scipy.special.softmax",
    "torch._softmax",
    "torch._safe_softmax",
    "torch.ops",
    "torch._C",
)
ATTENTION_ROUTINES = (
    "torch.nn.functional.scaled_dot_product_attention",
    "torch.nn.functional.multi_head_attention_forward",
    "torch.nn.MultiheadAttention",
    "torch.nn.attention.flex_attention",
    "torch.nn.TransformerEncoderLayer",
    "torch.ops",
    "torch._C",
)


def _softmax(x, dim=-1):
    x64 = x.double()
    top = x64.detach().amax(dim, keepdim=True)
    weights = torch.exp(x64 - torch.where(top == -INF, 0.0, top))
    total = weights.sum(dim, keepdim=True)
    return (weights / torch.where(total == 0, 1.0, total)).to(x.dtype)


def _attention(q, k, v, mask=None, scale=None):
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    scores = torch.einsum("...td,...sd->...ts", q.double(), k.double()) * scale
    allowed = torch.ones_like(scores, dtype=torch.bool) if mask is None else mask.broadcast_to(scores.shape)
    weights = _softmax(torch.where(allowed, scores, -INF))
    return torch.einsum("...ts,...sv->...tv", weights, v.double()).to(q.dtype)


def _causal_mask(t_q, t_k):
    return torch.tensor([[t_k - 1 - j >= t_q - 1 - i for j in range(t_k)] for i in range(t_q)])


def _packed_mask(doc_ids):
    return torch.tensor(
        [
            [[row[i] == row[j] and row[i] != -1 and j <= i for j in range(len(row))] for i in range(len(row))]
            for row in doc_ids.tolist()
        ]
    )


def _multi_head_attention(x, w_q, w_k, w_v, w_o, n_heads, mask=None):
    x64, width, width_v = x.double(), w_q.shape[0] // n_heads, w_v.shape[0] // n_heads
    batch, time = x.shape[:2]
    allowed = None if mask is None else mask.broadcast_to(batch, n_heads, time, time)
    y = 0.0
    for h in range(n_heads):
        q, k = (x64 @ w.double()[h * width : (h + 1) * width].T for w in (w_q, w_k))
        v = x64 @ w_v.double()[h * width_v : (h + 1) * width_v].T
        mixed = _attention(q, k, v, None if allowed is None else allowed[:, h])
        y = y + mixed @ w_o.double()[:, h * width_v : (h + 1) * width_v].T
    return y.to(x.dtype)


def _grouped_query_attention(q, k, v, mask=None):
    batch, n_heads, time, _ = q.shape
    group = n_heads // k.shape[1]
    allowed = None if mask is None else mask.broadcast_to(batch, n_heads, time, k.shape[2])
    heads = [
        _attention(q[:, h], k[:, h // group], v[:, h // group], None if allowed is None else allowed[:, h])
        for h in range(n_heads)
    ]
    return torch.stack(heads, dim=1)


def _attention_entropy(weights):
    w64 = weights.double()
    return torch.where(w64 > 0, -w64 * torch.log(torch.where(w64 > 0, w64, 1.0)), 0.0).sum(-1).to(weights.dtype)


def _kv_cache_bytes(n_layers, n_kv_heads, head_dim, seq_len, batch, bytes_per_value):
    return math.prod((n_layers, n_kv_heads, head_dim, seq_len, batch, bytes_per_value)) * 2


def _decode_step(q_t, k_t, v_t, cache):
    keys, values = (new if cache is None else torch.cat([old, new], 2) for old, new in zip(cache or (0, 0), (k_t, v_t)))
    return _attention(q_t, keys, values), (keys, values)


def _mla_absorbed_scores(c_q, c_kv, w_uq, w_uk):
    absorbed = w_uq.double().transpose(1, 2) @ w_uk.double()  # (H, Rq, Rkv)
    heads = [c_q.double() @ a @ c_kv.double().transpose(1, 2) for a in absorbed]
    return torch.stack(heads, dim=1).to(c_q.dtype)


def _turned(x):
    """The same values in another memory order: a view that is not contiguous."""
    return Code("def make(x):\n    return x.transpose(0, 1).contiguous().transpose(0, 1)", (x,))


def _zero_where(rows, sentence):
    """A condition: the result is exactly 0 where `rows` (broadcastable, bool) is True."""

    def holds(y):
        return None if bool((y.masked_select(rows.broadcast_to(y.shape)) == 0).all()) else sentence

    return holds


def _whole_numbers(rng, *shape, low=-3, high=3, dtype=torch.float64):
    """Integers as floats, so that dot products are exact and large scores carry no rounding error."""
    return rng.integers(low, high + 1, *shape).to(dtype)


def _softmax_cases(rng):
    yield Case(label="a row of five scores", args=(rng.normal(5),))
    x = rng.normal(2, 3, 5)
    yield Case(label="the last dimension by default", args=(x,), grad=(0,))
    for dim in (0, 1, 2, -2, -3):
        yield Case(label=f"dim={dim} of shape (2, 3, 5)", args=(x, dim), grad=(0,))
    yield Case(label="dim=1 of shape (2, 3, 4, 5)", args=(rng.normal(2, 3, 4, 5), 1), grad=(0,))
    yield Case(label="a square matrix, dim=0", args=(rng.normal(4, 4),), kwargs={"dim": 0})
    yield Case(label="a square matrix, default dim", args=(rng.normal(4, 4),))
    yield Case(label="one score alone has weight 1", args=(rng.normal(3, 1),))
    yield Case(label="scores near 0.001", args=(rng.normal(3, 7, scale=1e-3),), grad=(0,))
    lifted = rng.normal(3, 7)
    lifted[1] += 1e4
    yield Case(label="one row lifted by 10000, the others not", args=(lifted,), grad=(0,))
    yield Case(label="the same, with dim=0", args=(lifted.T.contiguous(), 0))
    yield Case(label="every score near -10000", args=(rng.normal(3, 7, shift=-1e4),))
    yield Case(label="every score near -1,000,000", args=(rng.normal(3, 7, shift=-1e6),))
    yield Case(label="every score near -1e31", args=(rng.normal(3, 7, scale=1e30, shift=-1e31),))
    yield Case(
        label="float32 scores between -300 and 300", args=(rng.uniform(5, 7, low=-300, high=300, dtype=torch.float32),)
    )
    peak = rng.normal(3, 7)
    peak[:, 2] += 2000.0
    yield Case(label="one score 2000 above the rest", args=(peak,), grad=(0,))
    near = rng.normal(3, 7, shift=250.0, scale=3.0, dtype=torch.float32)
    yield Case(label="float32 scores around 250 that differ by a little", args=(near,), close=Close(1e-4, 1e-6))
    part = rng.normal(4, 7).masked_fill(~rng.mask(4, 7), -INF)
    part[:, 3] = rng.normal(4)
    yield Case(
        label="some entries are -inf",
        args=(part,),
        grad=(0,),
        holds=_zero_where(part == -INF, "an entry of -inf must get weight exactly 0"),
    )
    deep = part.clone()
    deep[:, 3] -= 1e4
    yield Case(label="-inf beside scores of about -10000", args=(deep[:, 2:5],))
    empty = rng.normal(3, 5)
    empty[1] = -INF
    zeros = _zero_where(empty == -INF, "a row of all -inf must give exactly 0")
    yield Case(label="one row is all -inf", args=(empty,), holds=zeros)
    yield Case(label="one column is all -inf, dim=0", args=(empty.T.contiguous(), 0))
    yield Case(label="one row is all -inf, but the softmax runs over columns", args=(empty, 0))
    yield Case(label="everything is -inf", args=(torch.full((2, 3), -INF),))
    yield Case(label="float32", args=(rng.normal(3, 7, dtype=torch.float32),))
    for dtype, close in HALVES:
        half = rng.normal(3, 7, scale=2.0, dtype=dtype)
        half[1, 1:] = -INF
        yield Case(label=f"{str(dtype)[6:]} stays {str(dtype)[6:]}", args=(half,), close=close)
        wide = rng.uniform(4, 7, low=-300, high=300, dtype=dtype)
        wide[1], wide[2, 3] = -INF, -INF
        yield Case(label=f"{str(dtype)[6:]} scores between -300 and 300, one row all -inf", args=(wide,), close=close)
    yield Case(label="an input that is not contiguous", args=(_turned(rng.normal(3, 4, 5)), 1))
    yield Case(
        label="an expanded input", args=(Code("def make(x):\n    return x.expand(3, 4, 5)", (rng.normal(4, 1),)), 0)
    )


def _attention_cases(rng):
    B, H, T, S, D, V = 2, 3, 5, 7, 6, 4

    def qkv(t=T, s=S, lead=(B, H), **how):
        return rng.normal(*lead, t, D, **how), rng.normal(*lead, s, D, **how), rng.normal(*lead, s, V, **how)

    q, k, v = qkv()
    yield Case(label="T=5 queries, S=7 keys, D=6, Dv=4", args=(q, k, v), grad=(0, 1, 2))
    square = (rng.normal(B, H, D, D), rng.normal(B, H, D, D), rng.normal(B, H, D, D))
    yield Case(label="T = S = D = Dv: every mix-up of axes fits", args=square)
    tall_q, tall_k, wide_v = rng.normal(B, H, 7, 4), rng.normal(B, H, 5, 4), rng.normal(B, H, 5, 6)
    yield Case(label="T=7 queries, S=5 keys, D=4, Dv=6", args=(tall_q, tall_k, wide_v), grad=(0, 1, 2))
    yield Case(label="no batch and no heads: (T, D)", args=qkv(lead=()), grad=(0, 1, 2))
    yield Case(label="one leading dimension", args=qkv(lead=(3,)))
    yield Case(label="three leading dimensions", args=qkv(lead=(2, 1, 3)))
    yield Case(label="one query, one key: the value itself", args=qkv(1, 1))
    yield Case(label="one query, seven keys", args=qkv(1))
    yield Case(label="batch of one", args=qkv(lead=(1, 3)))
    yield Case(label="scale=0.3 given", args=(q, k, v), kwargs={"scale": 0.3}, grad=(0, 1, 2))
    yield Case(label="scale=0: a plain average of the values", args=(q, k, v), kwargs={"scale": 0.0})
    yield Case(label="scale=-0.7: unlike keys win", args=(q, k, v), kwargs={"scale": -0.7})
    mask = rng.mask(T, S)
    mask[:, 2] = True
    mask[0, 1] = False
    yield Case(label="mask (T, S)", args=(q, k, v, mask), grad=(0, 1, 2))
    flat = rng.mask(T, S)
    flat[:, 2] = True
    yield Case(label="mask (T, S) where B = T", args=(*qkv(lead=(T, H)), flat))
    yield Case(label="a mask of all True hides nothing", args=(q, k, v, torch.ones(T, S, dtype=torch.bool)))
    padding = torch.ones(B, 1, 1, S, dtype=torch.bool)
    padding[0, ..., 5:] = False
    padding[1, ..., :3] = False
    hidden = (~padding).transpose(-2, -1)
    k_pad, v_pad = k.masked_fill(hidden, 50.0), v.masked_fill(hidden, 1e9)
    yield Case(
        label="padded keys, mask (B, 1, 1, S); the padding holds huge values",
        args=(q, k_pad, v_pad, padding),
        grad=(0,),
    )
    yield Case(
        label="padded keys and values of 1e30",
        args=(q, k.masked_fill(hidden, 1e30), v.masked_fill(hidden, 1e30), padding),
        grad=(0,),
    )
    tall = (q, k[..., :T, :], v[..., :T, :], padding[..., 1 : 1 + T])
    yield Case(label="padded keys when T = S: the mask is about keys, not queries", args=tall)
    for shape in ((S,), (T, 1), (B, H, T, S), (B, 1, T, S), (H, 1, S)):
        yield Case(label=f"mask {shape}", args=(q, k, v, rng.mask(*shape)), grad=(0, 1, 2))
    yield Case(label="mask given by name together with a scale", args=(q, k, v), kwargs={"mask": mask, "scale": 1.3})
    yield Case(label="mask and scale=0: the average of the visible values", args=(q, k, v, mask), kwargs={"scale": 0.0})
    yield Case(label="mask and a negative scale", args=(q, k, v, mask), kwargs={"scale": -1.1})
    lower = torch.ones(T, T, dtype=torch.bool).tril()
    yield Case(label="causal mask, T = S", args=(q, k[..., :T, :], v[..., :T, :], lower), grad=(0, 1, 2))
    shut = mask.clone()
    shut[3] = False
    nothing = _zero_where(torch.arange(T)[:, None] == 3, "the query that may attend to nothing must give exactly 0")
    yield Case(label="query 3 may attend to nothing", args=(q, k, v, shut), grad=(0, 1, 2), holds=nothing)
    one_head = torch.ones(B, H, T, S, dtype=torch.bool)
    one_head[0, 1, 3] = False
    yield Case(label="query 3 may attend to nothing in one head only", args=(q, k, v, one_head), grad=(0, 1, 2))
    yield Case(
        label="nobody may attend to anything", args=(q, k, v, torch.zeros(T, S, dtype=torch.bool)), grad=(0, 1, 2)
    )
    q_n, k_n = _whole_numbers(rng, 2, T, D), _whole_numbers(rng, 2, S, D)
    seen = mask.clone()
    for depth, name in ((30.0, "30"), (1e3, "1,000"), (5e4, "50,000"), (5e5, "500,000"), (1e7, "10,000,000")):
        q_low, k_low = q_n.clone(), k_n.clone()
        q_low[..., 0], k_low[..., 0] = 1.0, torch.where(seen[0], -depth, 5.0)
        yield Case(
            label=f"visible scores are {name} below the hidden ones; hidden weights are still 0",
            args=(q_low, k_low, rng.normal(2, S, V), seen[:1]),
            kwargs={"scale": 1.0},
        )
    wide_q, wide_k = (
        _whole_numbers(rng, 2, T, 8, low=-9, high=9, dtype=torch.float32),
        _whole_numbers(rng, 2, S, 8, low=-9, high=9, dtype=torch.float32),
    )
    yield Case(
        label="float32 scores up to 300",
        args=(wide_q, wide_k, rng.normal(2, S, V, dtype=torch.float32)),
        kwargs={"scale": 1.0},
    )
    lifted = q_n.clone()
    k_one = k_n.clone()
    k_one[..., 0] = 1.0
    lifted[:, 1, 0] += 10000.0
    yield Case(
        label="every score of query 1 lifted by 10000", args=(lifted, k_one, rng.normal(2, S, V)), kwargs={"scale": 1.0}
    )
    yield Case(label="inputs near 0.001", args=qkv(scale=1e-3), grad=(0, 1, 2), close=Close(1e-4, 1e-8))
    yield Case(label="float32", args=qkv(dtype=torch.float32), close=Close(1e-4, 1e-5))
    for dtype, close in HALVES:
        args = (*qkv(dtype=dtype), shut)
        yield Case(label=f"{str(dtype)[6:]}, with a query that sees nothing", args=args, close=close, holds=nothing)
    views = tuple(_turned(x) for x in (q, k, v))
    yield Case(label="inputs that are not contiguous", args=(*views, mask))
    shared = Code("def make(k):\n    return k.expand(2, 3, 7, 6)", (rng.normal(2, 1, S, D),))
    yield Case(label="keys shared by all heads (expanded)", args=(q, shared, v, _turned(rng.mask(B, H, T, S))))


def _causal_mask_cases(rng):
    for t_q, t_k, why in (
        (4, 4, "a square: each token sees itself and the past"),
        (1, 1, "one token sees itself"),
        (2, 5, "two new queries, five keys"),
        (1, 6, "cached decoding: one query sees all keys"),
        (3, 4, "one cached key"),
        (6, 2, "more queries than keys: the first four see nothing"),
        (5, 1, "one key belongs to the last query"),
        (2, 4099, "a long cache"),
        (300, 301, "positions beyond 8 bits"),
    ):
        yield Case(label=f"t_q={t_q}, t_k={t_k}: {why}", args=(t_q, t_k))
    t_q, t_k = rng.integer(7, 12), rng.integer(13, 20)
    yield Case(label="longer", args=(t_q, t_k))
    yield Case(label="longer, by name", kwargs={"t_q": t_q, "t_k": t_q})


def _packed_mask_cases(rng):
    def case(label, *rows):
        return Case(label=label, args=(torch.tensor(rows),))

    yield case("one document", [3, 3, 3, 3])
    yield case("two documents of lengths 3 and 2", [0, 0, 0, 1, 1])
    yield case("a document with id 0 is an ordinary document", [1, 1, 0, 0, 0])
    yield case("padding at the end", [0, 0, 2, 2, -1, -1])
    yield case("padding at the start and in the middle", [-1, 5, 5, -1, 4, 4, -1])
    yield case("a batch of two", [0, 0, 1, 1, 1, -1, -1], [2, 2, 2, 2, 0, 0, 1])
    yield case("ids in falling order", [9, 9, 7, 7, 7, 2])
    yield case("equal ids that are not neighbours are one document", [4, 4, 6, 4, 6])
    yield case("the same, with padding between", [4, -1, 4, -1, 4])
    yield case("a row of padding only", [-1, -1, -1], [1, 1, 1])
    yield case("one token", [8])
    yield case("one token of padding", [-1])
    yield case("large neighbouring ids", [2**53, 2**53 + 1, 2**53 + 1, 2**24, 2**24 + 1])
    yield case("ids that differ beyond 32 bits", [2**40, 2**40 + 2**32, 5, 5 + 2**32])
    yield Case(label="random rows", args=(rng.integers(-1, 4, 3, 9),))
    yield Case(
        label="ids that are not contiguous in memory",
        args=(Code("def make(x):\n    return x.T", (rng.integers(-1, 3, 6, 2),)),),
    )


def _multi_head_cases(rng):
    B, T, E, H, D, out = 2, 5, 10, 3, 4, 9

    def weights(e=E, inner=H * D, e_out=out, **how):
        shapes = ((inner, e), (inner, e), (inner, e), (e_out, inner))
        return tuple(rng.normal(*shape, scale=0.6, **how) for shape in shapes)

    x = rng.normal(B, T, E)
    yield Case(
        label="one token: attention has nothing to choose, y = W_o W_v x", args=(rng.normal(B, 1, E), *weights(), H)
    )
    yield Case(
        label="E = H*D = E_out = 12: a transposed weight still fits",
        args=(rng.normal(B, T, 12), *weights(12, 12, 12), H),
        grad=(0, 1, 2, 3, 4),
    )
    w = weights()
    yield Case(label="E=10, H*D=12, E_out=9", args=(x, *w, H), grad=(0, 1, 2, 3, 4))
    yield Case(label="E_out=13: wider than the input", args=(x, *weights(e_out=13), H))
    yield Case(label="one head", args=(x, *w, 1))
    yield Case(label="heads of width 1", args=(x, *w, 12))
    yield Case(label="as many tokens as heads", args=(rng.normal(B, H, E), *w, H))
    yield Case(label="as many tokens as a head is wide", args=(rng.normal(B, D, E), *w, H))
    yield Case(label="batch of one", args=(rng.normal(1, T, E), *w, H))
    lower = torch.ones(T, T, dtype=torch.bool).tril()
    yield Case(label="causal mask (T, T)", args=(x, *w, H, lower), grad=(0, 1, 2, 3, 4))
    padding = torch.ones(B, 1, 1, T, dtype=torch.bool)
    padding[0, ..., 3:] = False
    padding[1, ..., :1] = False
    loud = x.masked_fill(~padding[:, 0, 0, :, None], 40.0)
    yield Case(label="padded tokens, mask (B, 1, 1, T); the padding holds large values", args=(loud, *w, H, padding))
    for shape in ((1, H, T, T), (B, H, T, T), (T,), (B, 1, T, T), (H, T, T)):
        yield Case(label=f"mask {shape}", args=(x, *w, H), kwargs={"mask": rng.mask(*shape)}, grad=(0,))
    yield Case(label="mask (H, T, T) where B = H", args=(rng.normal(H, T, E), *w, H, rng.mask(H, T, T)))
    flat = rng.mask(T, T)
    flat[:, 1] = True
    yield Case(label="mask (T, T) where B = T", args=(rng.normal(T, T, E), *w, H, flat))
    shut = lower.clone()
    shut[2] = False
    nothing = _zero_where(torch.arange(T)[:, None] == 2, "the token that may attend to nothing must give exactly 0")
    yield Case(label="token 2 may attend to nothing", args=(x, *w, H, shut), grad=(0, 1, 2, 3, 4), holds=nothing)
    yield Case(label="inputs near 0.001", args=(rng.normal(B, T, E, scale=1e-3), *w, H), close=Close(1e-4, 1e-8))
    xs = _whole_numbers(rng, B, T, E, dtype=torch.float32)
    ws = tuple(_whole_numbers(rng, *m.shape, low=-1, high=1, dtype=torch.float32) for m in w)
    yield Case(
        label="float32, scores in the hundreds",
        args=(xs, 3 * ws[0], 3 * ws[1], ws[2], ws[3], 3),
        close=Close(1e-3, 1e-3),
    )
    yield Case(label="float32", args=(x.float(), *(m.float() for m in w), H), close=Close(1e-4, 1e-4))
    yield Case(
        label="bfloat16 stays bfloat16",
        args=(x.bfloat16(), *((m / 2).bfloat16() for m in w), H),
        close=Close(0.1, 0.25),
    )
    yield Case(label="inputs that are not contiguous", args=(_turned(x), *(_turned(m) for m in w), H, lower))

    def causality(ask):
        before = ask.call(x, *w, H, mask=lower)
        changed = x.clone()
        changed[:, 3] += 5.0
        after = ask.call(changed, *w, H, mask=lower)
        ask.same(after[:, :3], before[:, :3], "token 3 changed and an output before it moved: the future leaks")

    yield Scenario(label="under a causal mask, changing token 3 moves no output before it", run=causality)


def _grouped_cases(rng):
    B, KV, G, T, S, D, V = 2, 2, 3, 5, 7, 6, 4
    H = KV * G

    def qkv(kv=KV, g=G, t=T, s=S, batch=B, **how):
        return (
            rng.normal(batch, kv * g, t, D, **how),
            rng.normal(batch, kv, s, D, **how),
            rng.normal(batch, kv, s, V, **how),
        )

    q, k, v = qkv()
    yield Case(label="6 query heads over 2 key heads", args=(q, k, v), grad=(0, 1, 2))
    yield Case(label="ordinary attention: every query head has its own keys", args=qkv(3, 1))
    yield Case(label="multi-query: one key head for all", args=qkv(1, 4), grad=(0, 1, 2))
    yield Case(label="3 key heads of 2 query heads", args=qkv(3, 2))
    yield Case(label="as many groups as heads in a group", args=qkv(2, 2))
    yield Case(label="T = S = D", args=qkv(t=D, s=D))
    narrow_q, narrow_k, wide_v = rng.normal(B, H, T, 4), rng.normal(B, KV, S, 4), rng.normal(B, KV, S, 9)
    yield Case(label="values wider than keys: Dv=9, D=4", args=(narrow_q, narrow_k, wide_v))
    yield Case(label="more queries than keys: T=7, S=5", args=qkv(t=7, s=5))
    yield Case(label="one query", args=qkv(t=1))
    yield Case(label="one key", args=qkv(s=1))
    yield Case(label="batch of one", args=qkv(batch=1))
    mask = rng.mask(T, S)
    mask[:, 2] = True
    yield Case(label="mask (T, S)", args=(q, k, v, mask), grad=(0, 1, 2))
    padding = torch.ones(B, 1, 1, S, dtype=torch.bool)
    padding[0, ..., 4:] = False
    padding[1, ..., :2] = False
    loud = v.masked_fill(~padding.transpose(-2, -1), 1e9)
    yield Case(label="padded keys, mask (B, 1, 1, S); the padding holds huge values", args=(q, k, loud, padding))
    for shape in ((B, 1, T, S), (1, H, T, S), (B, H, T, S), (H, 1, S), (S,), (T, 1)):
        yield Case(label=f"mask {shape}", args=(q, k, v), kwargs={"mask": rng.mask(*shape)}, grad=(0, 1, 2))
    shut = mask.clone()
    shut[3] = False
    nothing = _zero_where(torch.arange(T)[:, None] == 3, "the query that may attend to nothing must give exactly 0")
    yield Case(label="query 3 may attend to nothing", args=(q, k, v, shut), grad=(0, 1, 2), holds=nothing)
    lower = torch.ones(S, S, dtype=torch.bool).tril()[-T:]
    yield Case(label="causal, aligned at the bottom right", args=(q, k, v, lower))
    yield Case(label="inputs near 0.001", args=qkv(scale=1e-3), grad=(0, 1, 2), close=Close(1e-4, 1e-8))
    qs, ks = (_whole_numbers(rng, B, n, t, D, low=-9, high=9, dtype=torch.float32) for n, t in ((H, T), (KV, S)))
    yield Case(label="float32 scores in the hundreds", args=(qs, ks, v.float()), close=Close(1e-3, 1e-3))
    yield Case(label="float32", args=qkv(dtype=torch.float32), close=Close(1e-4, 1e-5))
    for dtype, close in HALVES:
        yield Case(label=f"{str(dtype)[6:]} stays {str(dtype)[6:]}", args=(*qkv(dtype=dtype), shut), close=close)
    yield Case(
        label="inputs that are not contiguous", args=(*(_turned(x) for x in (q, k, v)), _turned(rng.mask(B, H, T, S)))
    )


def _entropy_cases(rng):
    def case(label, weights, **more):  # log(w + 1e-10) is near enough, log(w + 1e-8) is not
        return Case(label=label, args=(weights,), close=Close(atol=3e-10), **more)

    w = _softmax(rng.normal(2, 3, 5, 7, scale=1.5))
    yield case("one row of weights", w[0, 0, 0])
    yield case("uniform over 7 keys: ln 7", torch.full((3, 7), 1 / 7, dtype=torch.float64))
    yield case("uniform over 3 of 5 keys: ln 3", torch.tensor([[1, 0, 1, 0, 1]], dtype=torch.float64) / 3)
    yield case("all attention on one key: 0", torch.eye(4, dtype=torch.float64))
    yield case("weights (B, H, T, S)", w, grad=(0,))
    yield case("T = S", _softmax(rng.normal(2, 5, 5)), grad=(0,))
    yield case("one key: no choice, 0", torch.ones(3, 1, dtype=torch.float64))
    causal = _softmax(rng.normal(2, 6, 6).masked_fill(~torch.ones(6, 6).tril().bool(), -INF))
    yield case("causal weights: many exact zeros", causal)
    blind = causal.clone()
    blind[0, 2] = 0.0
    yield case("a row of zeros (a query that sees nothing) has entropy 0", blind)
    sharp = _softmax(rng.normal(3, 7, scale=30.0))
    yield case("very sharp weights, down to 1e-40", sharp)
    flat = _softmax(rng.normal(3, 9, scale=1e-3))
    yield case("almost uniform weights", flat, grad=(0,))
    yield Case(label="float32", args=(w.float(),))
    yield Case(label="float32 with zeros", args=(causal.float(),))
    yield Case(label="float16 stays float16", args=(w.half(),), close=HALVES[0][1])
    yield Case(label="bfloat16 stays bfloat16", args=(causal.bfloat16(),), close=HALVES[1][1])
    rows = torch.tensor([[0.5, 0.5, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0], [0.0] * 4, [0.25] * 4])
    for dtype, close in HALVES:
        yield Case(label=f"{str(dtype)[6:]} with zeros", args=(rows.to(dtype),), close=close)
    yield Case(label="weights that are not contiguous", args=(_turned(w),))


def _cache_bytes_cases(rng):
    yield Case(label="one value pair of one head and layer, 2 bytes each", args=(1, 1, 1, 1, 1, 2))
    yield Case(label="all six numbers different primes", args=(3, 5, 7, 11, 13, 2))
    yield Case(label="float32 takes 4 bytes a value", args=(3, 5, 7, 11, 13, 4))
    yield Case(label="8-bit cache", args=(5, 3, 11, 7, 2, 1))
    yield Case(label="GPT-3's shape: 96 layers, 96 heads of 128, 2,048 tokens, fp16", args=(96, 96, 128, 2048, 1, 2))
    yield Case(
        label="Llama-3-8B's shape: 32 layers, 8 key heads of 128, 8,192 tokens, batch 4", args=(32, 8, 128, 8192, 4, 2)
    )
    yield Case(label="one key head (multi-query)", args=(32, 1, 128, 4096, 3, 2))
    sizes = tuple(rng.integer(2, 40) for _ in range(5))
    yield Case(label="random sizes", args=(*sizes, rng.choice((1, 2, 4))))
    names = ("n_layers", "n_kv_heads", "head_dim", "seq_len", "batch", "bytes_per_value")
    yield Case(label="given by name", kwargs=dict(zip(names, (7, 3, 10, 19, 6, 2))))
    yield Case(label="so large that a float would round it", args=(127, 127, 257, 1_000_003, 10_111, 3))
    yield Case(label="more bytes than 64 bits count", args=(127, 127, 257, 10**12 + 39, 10**6 + 3, 4))


def _decode_cases(rng):
    B, H, S, D = 2, 3, 5, 6

    def step(s, batch=B, **how):
        one = tuple(rng.normal(batch, H, 1, D, **how) for _ in range(3))
        return *one, (None if s == 0 else (rng.normal(batch, H, s, D, **how), rng.normal(batch, H, s, D, **how)))

    yield Case(label="first step: no cache, the output is the new value", args=step(0))
    args = step(S)
    yield Case(label="five cached tokens", args=args, grad=(0, 1, 2))
    yield Case(label="one cached token", args=step(1))
    yield Case(label="forty cached tokens", args=step(40), grad=(0, 1, 2))
    yield Case(label="as many cached tokens as heads", args=step(H), grad=(0, 1, 2))
    yield Case(label="S + 1 = D", args=step(D - 1))
    yield Case(label="batch of one", args=step(4, batch=1))
    yield Case(label="inputs near 0.001", args=step(S, scale=1e-3), close=Close(1e-4, 1e-8))
    yield Case(label="scores in the thousands", args=step(S, scale=60.0))
    q, k, v, (keys, values) = step(S)
    k = k.clone()
    k[..., :] = 20.0 * q
    yield Case(label="the query looks for its own token", args=(q, k, v, (keys, values)))
    yield Case(label="the query avoids its own token", args=(q, -k, v, (keys, values)))
    whole = [_whole_numbers(rng, B, H, n, D, low=-9, high=9, dtype=torch.float32) for n in (1, 1, S)]
    yield Case(
        label="float32 scores in the hundreds",
        args=(whole[0], whole[1], v.float(), (whole[2], values.float())),
        close=Close(1e-3, 1e-3),
    )
    yield Case(label="float32", args=step(S, dtype=torch.float32), close=Close(1e-4, 1e-5))
    for dtype, close in HALVES:
        yield Case(label=f"{str(dtype)[6:]} stays {str(dtype)[6:]}", args=step(S, dtype=dtype), close=close)
    yield Case(
        label="tensors that are not contiguous",
        args=(*(_turned(t) for t in args[:3]), tuple(_turned(t) for t in args[3])),
    )

    def generation(ask):
        q, k, v = (rng.normal(B, H, 7, D) for _ in range(3))
        want = _attention(q, k, v, _causal_mask(7, 7))
        cache = None
        for t in range(7):
            now = slice(t, t + 1)
            out, cache = _pair(ask.call(q[:, :, now], k[:, :, now], v[:, :, now], cache))
            ask.same(out, want[:, :, now], f"step {t} differs from position {t} of one causal pass over the whole text")
        ask.same(cache, (k, v), "after seven steps the cache must hold the seven keys and values, oldest first")

    yield Scenario(label="step by step equals one causal pass", run=generation)

    def branches(ask):
        first, left, right = step(0), step(0), step(0)
        _, cache = _pair(ask.call(*first[:3], None))
        for name, token in (("first", left), ("second", right)):
            out, grown = _pair(ask.call(*token[:3], cache))
            want = _decode_step(*token[:3], (first[1], first[2]))
            ask.same(out, want[0], f"the {name} of two texts continued from one cache: wrong output")
            ask.same(grown, want[1], f"the {name} of two texts continued from one cache: wrong new cache")
        ask.same(cache, (first[1], first[2]), "the cache that both texts started from has changed")

    yield Scenario(label="two texts continue from one cache", run=branches)


def _pair(value):
    if not (
        isinstance(value, list | tuple)
        and len(value) == 2
        and isinstance(value[1], list | tuple)
        and len(value[1]) == 2
    ):
        raise Mismatch("decode_step must return (output, (keys, values))")
    return value


def _mla_cases(rng):
    B, T, S, H, D, Rq, Rkv = 2, 3, 5, 4, 6, 7, 9

    def sizes(b=B, t=T, s=S, h=H, d=D, rq=Rq, rkv=Rkv, **how):
        return (
            rng.normal(b, t, rq, **how),
            rng.normal(b, s, rkv, **how),
            rng.normal(h, d, rq, **how),
            rng.normal(h, d, rkv, **how),
        )

    yield Case(label="all sizes different", args=sizes(), grad=(0, 1, 2, 3))
    yield Case(label="T = S: rows are queries, columns are cached tokens", args=sizes(t=5))
    yield Case(
        label="Rq = Rkv = D: every mix-up of axes fits", args=sizes(d=5, rq=5, rkv=5, t=5, h=5, b=5), grad=(0, 1, 2, 3)
    )
    yield Case(label="one query, a longer cache", args=sizes(t=1, s=11))
    yield Case(label="one head, batch of one", args=sizes(b=1, h=1))
    yield Case(label="one cached token", args=sizes(s=1))
    yield Case(label="latents near 0.001", args=sizes(scale=1e-3), close=Close(1e-9, 1e-20))
    yield Case(label="float32", args=sizes(dtype=torch.float32), close=Close(1e-4, 1e-4))
    low = [x / 2 for x in sizes()]
    yield Case(label="bfloat16 stays bfloat16", args=tuple(x.bfloat16() for x in low), close=Close(0.1, 0.4))
    yield Case(label="inputs that are not contiguous", args=tuple(_turned(x) for x in sizes()))

    def numbers(*shape, power=0):
        return _whole_numbers(rng, *shape, dtype=torch.float32) * 2.0**power

    big = (numbers(B, 2, Rq), numbers(B, 40, Rkv, power=70), numbers(H, D, Rq, power=-70), numbers(H, D, Rkv, power=70))
    yield Case(label="keys would overflow float32, scores do not: the keys may not be formed", args=big)
    huge = tuple(
        _whole_numbers(rng, *shape) * 2.0**power
        for shape, power in (((B, 2, Rq), 0), ((B, 40, Rkv), 520), ((H, D, Rq), -1000), ((H, D, Rkv), 520))
    )
    yield Case(label="the same in float64", args=huge)


def _nan_safe(body):
    """Source of a wrong `softmax` that handles rows of -inf rightly and differs in `body`, which must set e and total."""
    return f"def softmax(x, dim=-1):\n{body}\n    return e / total.masked_fill(total == 0, 1.0)\n"


SOFTMAX_WRONG = (
    Misconception(
        name="NaN for a row of -inf",
        code="def softmax(x, dim=-1):\n    e = torch.exp(x - x.amax(dim, keepdim=True))\n    return e / e.sum(dim, keepdim=True)\n",
        says="Where a whole row is -inf its maximum is -inf too, and -inf - (-inf) is NaN. Replace that maximum by 0 and divide by 1 where the sum is 0.",
    ),
    Misconception(
        name="no maximum subtracted",
        code="def softmax(x, dim=-1):\n    e = torch.exp(x)\n    return e / e.sum(dim, keepdim=True)\n",
        says="exp overflows at 89 in float32 and at 710 in float64. Subtract each row's maximum first: the result is the same and every exponent is at most 0.",
    ),
    Misconception(
        name="no maximum subtracted, sum guarded",
        code=_nan_safe("    e = torch.exp(x)\n    total = e.sum(dim, keepdim=True)"),
        says="exp overflows at 89 in float32 and at 710 in float64. Subtract each row's maximum first: the result is the same and every exponent is at most 0.",
    ),
    Misconception(
        name="uniform weights for a row of -inf",
        code="def softmax(x, dim=-1):\n    x = torch.nan_to_num(x, neginf=torch.finfo(x.dtype).min)\n    e = torch.exp(x - x.amax(dim, keepdim=True))\n    return e / e.sum(dim, keepdim=True)\n",
        says="A large finite number in place of -inf makes a row of them look like a tie, so every key gets 1/n. A row that sees nothing must give zeros.",
    ),
    Misconception(
        name="NaN turned into 1/n",
        code="def softmax(x, dim=-1):\n    e = torch.exp(x - x.amax(dim, keepdim=True))\n    return torch.nan_to_num(e / e.sum(dim, keepdim=True), nan=1.0 / x.shape[-1])\n",
        says="You caught the NaN of an empty row but filled in 1/n. Nothing to attend to means weight 0 everywhere.",
    ),
    Misconception(
        name="maximum of the whole tensor",
        code="def softmax(x, dim=-1):\n    top = x.max()\n    e = torch.exp(x - torch.where(top == -math.inf, torch.zeros_like(top), top))\n    total = e.sum(dim, keepdim=True)\n    return e / total.masked_fill(total == 0, 1.0)\n",
        says="One maximum for all rows lets the lower rows underflow: they all become exp(-10000) = 0. Take the maximum along dim, with keepdim=True.",
    ),
    Misconception(
        name="maximum of the whole tensor, empty rows NaN",
        code="def softmax(x, dim=-1):\n    e = torch.exp(x - x.max())\n    return e / e.sum(dim, keepdim=True)\n",
        says="One maximum for all rows lets the lower rows underflow to 0/0 = NaN. Take the maximum along dim, with keepdim=True, and think of rows that are all -inf.",
    ),
    Misconception(
        name="always the last dimension",
        replace=("largest = x.amax(dim, keepdim=True)", "dim = -1\n    largest = x.amax(dim, keepdim=True)"),
        says="dim is ignored: you normalise the last dimension whatever the caller asks for.",
    ),
    Misconception(
        name="always the first dimension",
        replace=("largest = x.amax(dim, keepdim=True)", "dim = 0\n    largest = x.amax(dim, keepdim=True)"),
        says="dim is ignored: you normalise the first dimension whatever the caller asks for.",
    ),
    Misconception(
        name="sum over everything",
        replace=("exponentials.sum(dim, keepdim=True)", "exponentials.sum()"),
        says="You divide by the sum of the whole tensor. Each row along dim must sum to 1 by itself.",
    ),
    Misconception(
        name="sum over the last dimension",
        replace=("exponentials.sum(dim, keepdim=True)", "exponentials.sum(-1, keepdim=True)"),
        says="The maximum runs along dim, the sum along the last dimension. Both must use dim.",
    ),
    Misconception(
        name="maximum over the last dimension",
        replace=("x.amax(dim, keepdim=True)", "x.amax(-1, keepdim=True)"),
        says="The maximum runs along the last dimension, the sum along dim. What is subtracted must be the same for all entries that are summed.",
    ),
    Misconception(
        name="keepdim forgotten",
        code="def softmax(x, dim=-1):\n    e = torch.exp(x - x.amax(dim))\n    return e / e.sum(dim)\n",
        says="Without keepdim=True the reduced tensor lines up with the wrong axis: an error for most shapes, silently wrong numbers for square ones.",
    ),
    Misconception(
        name="minimum subtracted",
        code=_nan_safe(
            "    low = x.amin(dim, keepdim=True)\n    e = torch.exp(x - low.masked_fill(low == -math.inf, 0.0))\n    total = e.sum(dim, keepdim=True)"
        ),
        says="Subtracting the minimum makes every exponent positive and as large as can be. Subtract the maximum.",
    ),
    Misconception(
        name="mean subtracted",
        code=_nan_safe(
            "    mean = x.mean(dim, keepdim=True)\n    e = torch.exp(x - mean.masked_fill(mean == -math.inf, 0.0))\n    total = e.sum(dim, keepdim=True)"
        ),
        says="The mean is a legal shift but no safe one: a score 2000 above the mean still overflows. Only the maximum bounds every exponent by 0.",
    ),
    Misconception(
        name="largest absolute value subtracted",
        code=_nan_safe(
            "    top = x.masked_fill(x == -math.inf, 0.0).abs().amax(dim, keepdim=True)\n    e = torch.exp(x - top)\n    total = e.sum(dim, keepdim=True)"
        ),
        says="You subtract the largest |x|. Where all scores are near -10000 that makes them -20000, and everything underflows to 0/0. Subtract the largest x.",
    ),
    Misconception(
        name="scores clamped",
        code=_nan_safe("    e = torch.exp(x.clamp(max=80.0))\n    total = e.sum(dim, keepdim=True)"),
        says="Clamping makes 200 and 300 equal, so the answer is wrong rather than infinite. Subtract the maximum instead; nothing is lost.",
    ),
    Misconception(
        name="epsilon in the denominator",
        code=_nan_safe(
            "    top = x.amax(dim, keepdim=True)\n    e = torch.exp(x - top.masked_fill(top == -math.inf, 0.0))\n    total = e.sum(dim, keepdim=True) + 1e-8"
        ),
        says="A +1e-8 in the denominator makes the weights sum to less than 1. After subtracting the maximum the sum is at least 1, so only a row of all -inf needs care.",
    ),
    Misconception(
        name="input changed in place",
        code=_nan_safe(
            "    top = x.amax(dim, keepdim=True)\n    x -= top.masked_fill(top == -math.inf, 0.0)\n    e = torch.exp(x)\n    total = e.sum(dim, keepdim=True)"
        ),
        says="x -= ... writes into the caller's tensor. Write x = x - ... or give the result a new name.",
    ),
    Misconception(
        name="result divided in place",
        code="def softmax(x, dim=-1):\n    top = x.amax(dim, keepdim=True)\n    e = torch.exp(x - top.masked_fill(top == -math.inf, 0.0))\n    total = e.sum(dim, keepdim=True)\n    e /= total.masked_fill(total == 0, 1.0)\n    return e\n",
        says="e /= ... overwrites the exponentials, and autograd needs them: the gradient of exp is exp itself. Write e / total.",
    ),
    Misconception(
        name="one dead row zeroes everything",
        code="def softmax(x, dim=-1):\n    if (x == -math.inf).all(dim).any():\n        return torch.zeros_like(x)\n    e = torch.exp(x - x.amax(dim, keepdim=True))\n    return e / e.sum(dim, keepdim=True)\n",
        says="One row of all -inf makes you return zeros for every row. Only that row is zero; the others keep their weights.",
    ),
    Misconception(
        name="log-softmax",
        code="def softmax(x, dim=-1):\n    return x - torch.logsumexp(x, dim, keepdim=True)\n",
        says="That is the logarithm of the softmax. Exponentiate it, and mind rows of all -inf.",
    ),
    Misconception(
        name="powers of two",
        replace=("torch.exp(x - largest)", "torch.exp2(x - largest)"),
        says="You used 2^x where the softmax has e^x. The weights come out too even.",
    ),
    Misconception(
        name="another dtype returned",
        code="def softmax(x, dim=-1):\n    x = x.double()\n    top = x.amax(dim, keepdim=True)\n    e = torch.exp(x - top.masked_fill(top == -math.inf, 0.0))\n    total = e.sum(dim, keepdim=True)\n    return e / total.masked_fill(total == 0, 1.0)\n",
        says="Computing in a wider type is fine. Convert back at the end: the result must have the dtype of x.",
    ),
    Misconception(
        name="float32 returned",
        code="def softmax(x, dim=-1):\n    x = x.float()\n    top = x.amax(dim, keepdim=True)\n    e = torch.exp(x - top.masked_fill(top == -math.inf, 0.0))\n    total = e.sum(dim, keepdim=True)\n    return e / total.masked_fill(total == 0, 1.0)\n",
        says="The result must have the dtype of x. float32 loses half the digits of a float64 input and doubles the size of a float16 one.",
    ),
    Misconception(
        name="gradient cut off",
        replace=("exponentials = torch.exp(x - largest)", "exponentials = torch.exp(x.detach() - largest.detach())"),
        says="The values are right but no gradient flows back. Drop detach, .data and NumPy on the path of x.",
    ),
)

SOFTMAX_RIGHT = (
    Variant(
        name="through logsumexp",
        code="def softmax(x, dim=-1):\n    lse = torch.logsumexp(x, dim, keepdim=True)\n    return torch.where(lse == -math.inf, torch.zeros_like(x), torch.exp(x - lse))\n",
    ),
    Variant(
        name="row by row in a loop",
        code="""def softmax(x, dim=-1):
    moved = x.movedim(dim, -1)
    rows = []
    for row in moved.reshape(-1, moved.shape[-1]):
        top = row.max()
        if top == -math.inf:
            rows.append(torch.zeros_like(row))
        else:
            e = (row - top).exp()
            rows.append(e / e.sum())
    return torch.stack(rows).reshape(moved.shape).movedim(-1, dim)
""",
    ),
    Variant(
        name="NaN replaced at the end",
        code="def softmax(x, dim=-1):\n    e = torch.exp(x - x.max(dim=dim, keepdim=True).values)\n    return torch.nan_to_num(e / e.sum(dim, keepdim=True), nan=0.0)\n",
    ),
    Variant(
        name="wider type inside, sum clamped",
        code="""def softmax(x, dim=-1):
    wide = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
    top = wide.detach().amax(dim, keepdim=True).clamp(min=torch.finfo(wide.dtype).min)
    e = (wide - top).exp()
    return (e / e.sum(dim, keepdim=True).clamp(min=1e-30)).to(x.dtype)
""",
    ),
    Variant(
        name="each weight from differences",
        code="""def softmax(x, dim=-1):
    moved = x.movedim(dim, -1)
    gap = moved.unsqueeze(-2) - moved.unsqueeze(-1)
    dead = (moved == -math.inf).unsqueeze(-1)
    gap = gap.masked_fill(dead, 0.0).clamp(max=80.0 if x.dtype != torch.float16 else 11.0)
    weights = 1 / gap.exp().sum(-1)
    return weights.masked_fill(dead.squeeze(-1), 0.0).movedim(-1, dim)
""",
    ),
)


def _naive_attention(body):
    """Source of an attention that computes scores as usual and then does `body`."""
    return (
        "def attention(q, k, v, mask=None, scale=None):\n"
        "    scale = q.shape[-1] ** -0.5 if scale is None else scale\n"
        "    scores = q @ k.transpose(-2, -1) * scale\n" + body
    )


NO_SQUARE_ROOT = "Divide by the square root of d_k: the variance of q.k is d_k, so its spread is sqrt(d_k). Dividing by d_k itself flattens the softmax."
FINITE_FILL = "A finite fill only hides a key while the visible scores are larger. Fill with -inf, which no shift can beat, and make rows that see nothing zero."
NO_SCALE = "The scores are not divided by sqrt(d_k). With d_k = 64 they spread over +-8 and the softmax saturates."
MASK_BEFORE = (
    "Hide keys before the softmax, in the scores. Zeroing weights afterwards leaves rows that do not sum to 1."
)


def _fill(value):
    return _naive_attention(
        f"    if mask is not None:\n        scores = scores.masked_fill(~mask, {value})\n    return torch.softmax(scores, dim=-1) @ v\n"
    )


ATTENTION_WRONG = (
    Misconception(name="no scale by default", replace=("1.0 / math.sqrt(q.shape[-1])", "1.0"), says=NO_SCALE),
    Misconception(
        name="never scaled",
        replace=("scores = scale * (q @ k.transpose(-2, -1))", "scores = q @ k.transpose(-2, -1)"),
        says=NO_SCALE + " A scale that the caller gives is ignored too.",
    ),
    Misconception(
        name="scale argument ignored",
        replace=("1.0 / math.sqrt(q.shape[-1]) if scale is None else scale", "1.0 / math.sqrt(q.shape[-1])"),
        says="The caller's scale is ignored. Only scale=None means 1 / sqrt(D).",
    ),
    Misconception(
        name="scale applied on top of the default",
        replace=(
            "1.0 / math.sqrt(q.shape[-1]) if scale is None else scale",
            "(1.0 if scale is None else scale) / math.sqrt(q.shape[-1])",
        ),
        says="A scale that is given replaces 1 / sqrt(D). You apply both.",
    ),
    Misconception(
        name="scale 0 taken for missing",
        replace=("1.0 / math.sqrt(q.shape[-1]) if scale is None else scale", "scale or 1.0 / math.sqrt(q.shape[-1])"),
        says="`scale or default` and `if not scale` also replace 0. Ask `scale is None`.",
    ),
    Misconception(
        name="divided by the given scale",
        replace=(
            "1.0 / math.sqrt(q.shape[-1]) if scale is None else scale",
            "1.0 / (math.sqrt(q.shape[-1]) if scale is None else scale)",
        ),
        says="scale multiplies the scores. You divide by it.",
    ),
    Misconception(
        name="divided by d_k", replace=("1.0 / math.sqrt(q.shape[-1])", "1.0 / q.shape[-1]"), says=NO_SQUARE_ROOT
    ),
    Misconception(
        name="multiplied by sqrt(d_k)",
        replace=("1.0 / math.sqrt(q.shape[-1])", "math.sqrt(q.shape[-1])"),
        says="You multiply by sqrt(d_k) where you should divide. The scores get larger still.",
    ),
    Misconception(
        name="square root of the value width",
        replace=("1.0 / math.sqrt(q.shape[-1])", "1.0 / math.sqrt(v.shape[-1])"),
        says="The scale belongs to q and k: use their last dimension, not that of v.",
    ),
    Misconception(
        name="square root of the number of keys",
        replace=("1.0 / math.sqrt(q.shape[-1])", "1.0 / math.sqrt(k.shape[-2])"),
        says="You took the square root of S, the number of keys. The variance of q.k comes from the D terms of the sum.",
    ),
    Misconception(
        name="square root of the number of queries",
        replace=("1.0 / math.sqrt(q.shape[-1])", "1.0 / math.sqrt(q.shape[-2])"),
        says="You took the square root of T, the number of queries. The variance of q.k comes from the D terms of the sum.",
    ),
    Misconception(
        name="square root of the model width",
        replace=("1.0 / math.sqrt(q.shape[-1])", "1.0 / math.sqrt(q.shape[-1] * (q.shape[-3] if q.dim() > 2 else 1))"),
        says="You divide by sqrt(d_model) = sqrt(H * D). Each head's dot product sums only D terms: use the width of one head.",
    ),
    Misconception(
        name="scaled after the softmax",
        code="""def attention(q, k, v, mask=None, scale=None):
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    scores = q @ k.transpose(-2, -1)
    if mask is not None:
        scores = scores.masked_fill(~mask, -math.inf)
    return scale * softmax(scores, -1) @ v
""",
        says="The scale must act before the softmax. Afterwards it cannot undo the saturation, and the weights no longer sum to 1.",
    ),
    Misconception(
        name="softmax over the queries",
        replace=("softmax(scores, dim=-1)", "softmax(scores, dim=-2)"),
        says="Each query's weights must sum to 1, so the softmax runs over the keys: the last dimension of (T, S).",
    ),
    Misconception(
        name="softmax over the heads",
        replace=("softmax(scores, dim=-1)", "softmax(scores, dim=1)"),
        says="dim=1 of (B, H, T, S) is the heads. The softmax runs over the keys, dim=-1.",
    ),
    Misconception(
        name="no softmax",
        replace=("softmax(scores, dim=-1) @ v", "scores.masked_fill(scores == -math.inf, 0.0) @ v"),
        says="The scores themselves are used as weights. They must pass through a softmax.",
    ),
    Misconception(
        name="softmax twice",
        replace=("softmax(scores, dim=-1) @ v", "softmax(softmax(scores, dim=-1), dim=-1) @ v"),
        says="Softmax is applied twice. The second one sees numbers between 0 and 1 and flattens them to almost uniform.",
    ),
    Misconception(
        name="mask the wrong way round",
        replace=("~mask", "mask"),
        says="True means may attend. You hide the keys that are True.",
    ),
    Misconception(
        name="mask ignored",
        replace=("if mask is not None:", "if False:"),
        says="The mask has no effect. Hidden keys must get weight 0.",
    ),
    Misconception(
        name="mask transposed",
        replace=("scores.masked_fill(~mask, -math.inf)", "scores.masked_fill(~mask.transpose(-2, -1), -math.inf)"),
        says="The mask is (T, S): rows are queries, columns are keys. A key padding mask (B, 1, 1, S) hides keys from every query, not queries.",
    ),
    Misconception(
        name="hidden scores set to 0",
        replace=("scores.masked_fill(~mask, -math.inf)", "scores * mask"),
        says="A score of 0 is an ordinary score: exp(0) = 1. A hidden key needs -inf.",
    ),
    Misconception(
        name="filled with +1e-9",
        same_as=("hidden scores set to 0",),
        code=_fill("1e-9"),
        says="1e-9 is a small positive number, not a large negative one. exp(1e-9) = 1: the key is visible. Fill with -inf.",
    ),
    Misconception(name="filled with -10", code=_fill("-10.0"), says=FINITE_FILL),
    Misconception(name="filled with -100", code=_fill("-100.0"), says=FINITE_FILL),
    Misconception(name="filled with -1e4", code=_fill("-1e4"), says=FINITE_FILL),
    Misconception(name="filled with -1e5", code=_fill("-1e5"), says=FINITE_FILL),
    Misconception(name="filled with -1e6", code=_fill("-1e6"), says=FINITE_FILL),
    Misconception(
        name="filled with -1e9", code=_fill("-1e9"), says=FINITE_FILL + " In float16 -1e9 does not even exist."
    ),
    Misconception(
        name="filled with the type's minimum",
        code=_fill("torch.finfo(scores.dtype).min"),
        says="finfo.min hides keys well, but a row that sees nothing becomes a tie and averages all values. It must give zeros.",
    ),
    Misconception(
        name="NaN where a query sees nothing",
        code=_fill("-math.inf"),
        says="A row of -inf gives 0/0 in torch's softmax. One such row turns the whole model's loss into NaN. Make those weights zero.",
    ),
    Misconception(
        name="NaN in the gradient",
        code=_naive_attention(
            "    if mask is not None:\n"
            "        bias = torch.zeros_like(scores).masked_fill(~mask, -math.inf)\n"
            "        scores = scores + bias\n"
            "    return torch.nan_to_num(torch.softmax(scores, dim=-1)) @ v\n"
        ),
        says="The forward zeros hide a NaN in the backward: 0 times NaN is NaN. Fill scores with masked_fill or where (they stop the gradient), or keep NaN from arising at all.",
    ),
    Misconception(
        name="weights zeroed after the softmax",
        code=_naive_attention(
            "    weights = softmax(scores, -1)\n    if mask is not None:\n        weights = weights * mask\n    return weights @ v\n"
        ),
        says=MASK_BEFORE,
    ),
    Misconception(
        name="weights zeroed and normalised again",
        code=_naive_attention(
            "    weights = softmax(scores, -1)\n"
            "    if mask is not None:\n"
            "        weights = weights * mask\n"
            "        total = weights.sum(-1, keepdim=True)\n"
            "        weights = weights / total.masked_fill(total == 0, 1.0)\n"
            "    return weights @ v\n"
        ),
        says="Hidden keys with high scores push the visible weights to 0 before you divide again, and 0/0 is left. Hide keys before the softmax.",
    ),
    Misconception(
        name="queries scaled in place",
        code="""def attention(q, k, v, mask=None, scale=None):
    q *= q.shape[-1] ** -0.5 if scale is None else scale
    scores = q @ k.transpose(-2, -1)
    if mask is not None:
        scores = scores.masked_fill(~mask, -math.inf)
    return softmax(scores, -1) @ v
""",
        says="q *= ... writes into the caller's tensor (and fails where a gradient is wanted). Scale into a new tensor.",
    ),
    Misconception(
        name="scaled after masking",
        code="""def attention(q, k, v, mask=None, scale=None):
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    scores = q @ k.transpose(-2, -1)
    if mask is not None:
        scores = scores.masked_fill(~mask, -math.inf)
    return softmax(scores * scale, -1) @ v
""",
        says="-inf * 0 is NaN and -inf times a negative number is +inf. Scale the scores first, hide keys after.",
    ),
    Misconception(
        name="softmax by hand without its maximum",
        code=_naive_attention(
            "    if mask is not None:\n"
            "        scores = scores.masked_fill(~mask, -math.inf)\n"
            "    weights = torch.exp(scores)\n"
            "    return torch.nan_to_num(weights / weights.sum(-1, keepdim=True)) @ v\n"
        ),
        says="exp(score) overflows or underflows once scores are far from 0. Use your softmax, which subtracts each row's maximum.",
    ),
    Misconception(
        name="no maximum subtracted, sum guarded",
        code=_naive_attention(
            "    if mask is not None:\n"
            "        scores = scores.masked_fill(~mask, -math.inf)\n"
            "    weights = torch.exp(scores)\n"
            "    total = weights.sum(-1, keepdim=True)\n"
            "    return weights / total.masked_fill(total == 0, 1.0) @ v\n"
        ),
        says="exp(score) overflows at 89 in float32 and at 710 in float64. Use your softmax, which subtracts each row's maximum.",
    ),
    Misconception(
        name="-1e4 added to hidden scores",
        code=_naive_attention(
            "    if mask is not None:\n        scores = scores + (1.0 - mask.to(scores.dtype)) * -1e4\n    return torch.softmax(scores, -1) @ v\n"
        ),
        says=FINITE_FILL,
    ),
    Misconception(
        name="-1e9 added to hidden scores",
        code=_naive_attention(
            "    if mask is not None:\n        scores = scores + (1.0 - mask.to(scores.dtype)) * -1e9\n    return torch.softmax(scores, -1) @ v\n"
        ),
        says=FINITE_FILL,
    ),
    Misconception(
        name="NaN replaced in the output only",
        code=_fill("-math.inf").replace(
            "return torch.softmax(scores, dim=-1) @ v", "return torch.nan_to_num(torch.softmax(scores, dim=-1) @ v)"
        ),
        says="The output looks right, but the NaN weights still reach the gradient of v. Replace them before they meet v.",
    ),
    Misconception(
        name="gradient cut off",
        replace=("softmax(scores, dim=-1) @ v", "softmax(scores, dim=-1).detach() @ v"),
        says="The values are right but no gradient reaches q and k. Drop detach, .data and NumPy on the way.",
    ),
    Misconception(
        name="always causal",
        replace=(
            "if mask is not None:",
            "time, keys = scores.shape[-2:]\n    scores = scores.masked_fill(torch.ones(time, keys).triu(keys - time + 1).bool(), -math.inf)\n    if mask is not None:",
        ),
        says="A causal mask is applied though nobody asked for one. Only the given mask hides keys.",
    ),
    Misconception(
        name="scores from q and q",
        replace=("k.transpose(-2, -1)", "q.transpose(-2, -1)"),
        says="The scores compare q with itself. They must compare each query with each key.",
    ),
    Misconception(
        name="keys used as values",
        replace=("softmax(scores, dim=-1) @ v", "softmax(scores, dim=-1) @ k"),
        says="You average the keys. The weights pick among the values, v.",
    ),
    Misconception(
        name="values used as keys",
        replace=("k.transpose(-2, -1)", "v.transpose(-2, -1)"),
        says="The scores compare queries with values. They must use the keys.",
    ),
    Misconception(
        name="weights returned",
        replace=("softmax(scores, dim=-1) @ v", "softmax(scores, dim=-1)"),
        says="You return the weights. The result is their product with v.",
    ),
    Misconception(
        name="weights returned as well",
        replace=(
            "return softmax(scores, dim=-1) @ v",
            "weights = softmax(scores, dim=-1)\n    return weights @ v, weights",
        ),
        says="You return a pair. Only the output is wanted.",
    ),
    Misconception(
        name="all leading dimensions but (B, H) fail",
        replace=("k.transpose(-2, -1)", "k.transpose(2, 3)"),
        says="transpose(2, 3) assumes four dimensions. Count from the end: transpose(-2, -1) works for any number of leading dimensions.",
    ),
    Misconception(
        name="transpose of the first axes",
        replace=("k.transpose(-2, -1)", "k.transpose(1, 2)"),
        says="transpose(1, 2) swaps heads and time here. The keys' last two dimensions must swap: transpose(-2, -1).",
    ),
)

ATTENTION_RIGHT = (
    Variant(
        name="einsum and torch's softmax, NaN replaced",
        code="""def attention(q, k, v, mask=None, scale=None):
    if scale is None:
        scale = q.size(-1) ** -0.5
    scores = torch.einsum("...td,...sd->...ts", q, k) * scale
    if mask is not None:
        scores = torch.where(mask, scores, float("-inf"))
    weights = torch.nan_to_num(torch.softmax(scores, dim=-1), nan=0.0)
    return torch.einsum("...ts,...sv->...tv", weights, v)
""",
    ),
    Variant(
        name="one query at a time",
        code="""def attention(q, k, v, mask=None, scale=None):
    if scale is None:
        scale = 1 / math.sqrt(q.shape[-1])
    shape = (*q.shape[:-1], k.shape[-2])
    allowed = torch.ones(shape, dtype=torch.bool) if mask is None else mask.expand(shape)
    rows = []
    for t in range(q.shape[-2]):
        scores = (k * q[..., t : t + 1, :]).sum(-1) * scale
        weights = softmax(scores.masked_fill(~allowed[..., t, :], -math.inf), -1)
        rows.append((weights[..., None] * v).sum(-2))
    return torch.stack(rows, dim=-2)
""",
    ),
    Variant(
        name="the type's minimum, then zeros",
        code="""def attention(q, k, v, mask=None, scale=None):
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    scores = torch.matmul(q * scale, k.mT)
    if mask is None:
        return scores.softmax(-1) @ v
    scores = scores.masked_fill(mask.logical_not(), torch.finfo(scores.dtype).min)
    return (scores.softmax(-1) * mask) @ v
""",
    ),
    Variant(
        name="softmax in float32, as in Llama's code",
        code="""def attention(q, k, v, mask=None, scale=None):
    scores = torch.matmul(q, k.transpose(-2, -1)) * (1 / math.sqrt(q.shape[-1]) if scale is None else scale)
    if mask is not None:
        scores = scores.masked_fill(mask == 0, float("-inf"))
    weights = torch.nn.functional.softmax(scores.float(), dim=-1).type_as(q)
    if mask is not None:
        weights = weights.masked_fill(~mask.any(-1, keepdim=True), 0.0)
    return torch.matmul(weights, v)
""",
    ),
    Variant(
        name="normalised last, as flash attention does",
        code="""def attention(q, k, v, mask=None, scale=None):
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    scores = (q.float() if q.dtype in (torch.float16, torch.bfloat16) else q) @ k.to(torch.promote_types(q.dtype, torch.float32)).transpose(-2, -1)
    scores = scores * scale
    if mask is not None:
        scores = scores.masked_fill(~mask, -math.inf)
    top = scores.amax(-1, keepdim=True)
    p = torch.exp(scores - torch.where(top.isinf(), torch.zeros_like(top), top))
    total = p.sum(-1, keepdim=True)
    out = (p @ v.to(p.dtype)) / torch.where(total > 0, total, torch.ones_like(total))
    return out.to(q.dtype)
""",
    ),
)

CAUSAL_WRONG = (
    Misconception(
        name="aligned at the top left",
        code="def causal_mask(t_q, t_k):\n    return torch.ones(t_q, t_k, dtype=torch.bool).tril()\n",
        says="With a cache the one new query would see only key 0. Align the ends: the diagonal starts at t_k - t_q.",
    ),
    Misconception(
        name="hides itself",
        code="def causal_mask(t_q, t_k):\n    return torch.ones(t_q, t_k, dtype=torch.bool).tril(t_k - t_q - 1)\n",
        says="A token may attend to itself. Here the first token of a square mask sees nothing at all.",
    ),
    Misconception(
        name="leaks the next token",
        code="def causal_mask(t_q, t_k):\n    return torch.ones(t_q, t_k, dtype=torch.bool).tril(t_k - t_q + 1)\n",
        says="Each query also sees the key after its own: the answer it is trained to predict. The loss will look wonderful.",
    ),
    Misconception(
        name="upper triangle",
        code="def causal_mask(t_q, t_k):\n    return torch.ones(t_q, t_k, dtype=torch.bool).triu(t_k - t_q)\n",
        says="You kept the future and hid the past. Keys at or before the query's position are True.",
    ),
    Misconception(
        name="True where hidden",
        code="def causal_mask(t_q, t_k):\n    return torch.ones(t_q, t_k, dtype=torch.bool).triu(t_k - t_q + 1)\n",
        says="In this course True means may attend. Yours marks the keys that are hidden.",
    ),
    Misconception(
        name="True where hidden, aligned at the top left",
        code="def causal_mask(t_q, t_k):\n    return torch.ones(t_q, t_k, dtype=torch.bool).triu(1)\n",
        says="Two things: True must mean may attend, and the mask is aligned at the bottom right.",
    ),
    Misconception(
        name="offset the wrong way",
        code="def causal_mask(t_q, t_k):\n    return torch.ones(t_q, t_k, dtype=torch.bool).tril(t_q - t_k)\n",
        says="The diagonal moves by t_k - t_q, not t_q - t_k: more keys than queries means more past to see.",
    ),
    Misconception(
        name="offset cut off at 0",
        code="def causal_mask(t_q, t_k):\n    return torch.ones(t_q, t_k, dtype=torch.bool).tril(max(t_k - t_q, 0))\n",
        says="With more queries than keys the offset is negative: the first queries stand before all keys and see nothing.",
    ),
    Misconception(
        name="square",
        code="def causal_mask(t_q, t_k):\n    return torch.ones(t_q, t_q, dtype=torch.bool).tril()\n",
        says="The mask is t_q by t_k: one column for each key.",
    ),
    Misconception(
        name="rows and columns swapped",
        code="def causal_mask(t_q, t_k):\n    return torch.ones(t_q, t_k, dtype=torch.bool).tril(t_k - t_q).T\n",
        says="Rows are queries and columns are keys: shape (t_q, t_k).",
    ),
    Misconception(
        name="0 and -inf",
        code="def causal_mask(t_q, t_k):\n    return torch.full((t_q, t_k), -math.inf).triu(t_k - t_q + 1)\n",
        says="That is an additive bias. A mask here is boolean, True = may attend.",
    ),
    Misconception(
        name="ones and zeros",
        code="def causal_mask(t_q, t_k):\n    return torch.ones(t_q, t_k).tril(t_k - t_q)\n",
        says="The pattern is right, the type is not: make it boolean. ~mask of a float mask is an error, and of an integer mask a silent one.",
    ),
    Misconception(
        name="batch and head axes added",
        code="def causal_mask(t_q, t_k):\n    return torch.ones(1, 1, t_q, t_k, dtype=torch.bool).tril(t_k - t_q)\n",
        says="The shape is (t_q, t_k). Broadcasting adds the other axes where they are needed.",
    ),
)

CAUSAL_RIGHT = (
    Variant(
        name="tril",
        code="def causal_mask(t_q, t_k):\n    return torch.tril(torch.ones(t_q, t_k, dtype=torch.bool), diagonal=t_k - t_q)\n",
    ),
    Variant(
        name="loops",
        code="""def causal_mask(t_q, t_k):
    mask = torch.zeros(t_q, t_k, dtype=torch.bool)
    for i in range(t_q):
        mask[i, : max(0, i + t_k - t_q + 1)] = True
    return mask
""",
    ),
    Variant(
        name="not triu",
        code="def causal_mask(t_q, t_k):\n    return ~torch.ones(t_q, t_k).triu(t_k - t_q + 1).bool()\n",
    ),
    Variant(
        name="the last rows of a larger triangle",
        code="def causal_mask(t_q, t_k):\n    n = max(t_q, t_k)\n    return torch.ones(n, n).tril()[n - t_q :, n - t_k :] > 0\n",
    ),
)

PACKED_WRONG = (
    Misconception(
        name="not causal",
        replace=(" & causal_mask(time, time).to(doc_ids.device)", ""),
        says="Tokens also see later tokens of their document. Combine with the causal mask.",
    ),
    Misconception(
        name="documents ignored",
        replace=("same_document & not_padding", "not_padding & not_padding.transpose(1, 2)"),
        says="Tokens read across document borders. i may attend to j only when their ids are equal.",
    ),
    Misconception(
        name="padding attends to padding",
        replace=("same_document & not_padding", "same_document"),
        says="-1 equals -1, so padding forms a document of its own. Padding rows and columns must be all False.",
    ),
    Misconception(
        name="padding sees itself",
        replace=(
            "causal_mask(time, time).to(doc_ids.device)",
            "causal_mask(time, time) | torch.eye(time, dtype=torch.bool)",
        ),
        says="You let padding tokens attend to themselves. It avoids NaN in some codes; here a row of padding is all False, and attention gives zeros for it.",
    ),
    Misconception(
        name="document 0 taken for padding",
        replace=("!= -1", "> 0"),
        says="0 is an ordinary document. Only -1 is padding.",
    ),
    Misconception(
        name="hides itself",
        replace=("causal_mask(time, time)", "torch.ones(time, time, dtype=torch.bool).tril(-1)"),
        says="A token may attend to itself: the diagonal of a document is True.",
    ),
    Misconception(
        name="leaks the next token",
        replace=("causal_mask(time, time)", "torch.ones(time, time, dtype=torch.bool).tril(1)"),
        says="Each token also sees the one after it. The upper triangle starts at the first diagonal above the main one.",
    ),
    Misconception(
        name="looks forward",
        replace=("causal_mask(time, time)", "causal_mask(time, time).T"),
        says="Rows are queries and columns are keys. Yours sees the future and not the past.",
    ),
    Misconception(
        name="neighbouring runs taken for documents",
        code="""def packed_mask(doc_ids):
    time = doc_ids.shape[1]
    new = torch.ones_like(doc_ids)
    new[:, 1:] = (doc_ids[:, 1:] != doc_ids[:, :-1]).long()
    run = new.cumsum(1)
    same = run[:, :, None] == run[:, None, :]
    return same & (doc_ids != -1)[:, :, None] & torch.ones(time, time, dtype=torch.bool).tril()
""",
        says="You number runs of equal ids. Here equal ids mean one document wherever the tokens stand; compare the ids themselves.",
    ),
    Misconception(
        name="later documents see earlier ones",
        code="""def packed_mask(doc_ids):
    time = doc_ids.shape[1]
    allowed = doc_ids[:, :, None] >= doc_ids[:, None, :]
    real = doc_ids != -1
    return allowed & real[:, :, None] & real[:, None, :] & torch.ones(time, time, dtype=torch.bool).tril()
""",
        says="`>=` lets a document read those with smaller ids. Ids are names, not an order: use ==.",
    ),
    Misconception(
        name="first row used for the whole batch",
        replace=("doc_ids[:, :, None] == doc_ids[:, None, :]", "doc_ids[:1, :, None] == doc_ids[:1, None, :]"),
        says="Every row of the batch has its own documents. You compare the first row's ids only.",
    ),
    Misconception(
        name="ids compared in float32",
        replace=(
            "doc_ids[:, :, None] == doc_ids[:, None, :]",
            "doc_ids.float()[:, :, None] == doc_ids.float()[:, None, :]",
        ),
        says="float32 cannot tell 16777216 from 16777217. Compare the integers.",
    ),
    Misconception(
        name="head axis added",
        replace=(
            "return same_document & not_padding & causal_mask(time, time).to(doc_ids.device)",
            "return (same_document & not_padding & causal_mask(time, time))[:, None]",
        ),
        says="The shape is (batch, time, time). The caller adds the head axis with mask[:, None].",
    ),
    Misconception(
        name="not boolean",
        replace=(
            "return same_document & not_padding & causal_mask(time, time).to(doc_ids.device)",
            "return (same_document & not_padding & causal_mask(time, time)).float()",
        ),
        says="The pattern is right, the type is not: a mask is boolean.",
    ),
    Misconception(
        name="True where hidden",
        replace=(
            "return same_document & not_padding & causal_mask(time, time).to(doc_ids.device)",
            "return ~(same_document & not_padding & causal_mask(time, time))",
        ),
        says="In this course True means may attend. Yours is the other way round.",
    ),
)

PACKED_RIGHT = (
    Variant(
        name="three loops",
        code="""def packed_mask(doc_ids):
    batch, time = doc_ids.shape
    mask = torch.zeros(batch, time, time, dtype=torch.bool)
    for b in range(batch):
        for i in range(time):
            for j in range(i + 1):
                mask[b, i, j] = bool(doc_ids[b, i] == doc_ids[b, j]) and bool(doc_ids[b, i] >= 0)
    return mask
""",
    ),
    Variant(
        name="both sides checked, tril of the product",
        code="""def packed_mask(doc_ids):
    real = doc_ids.ne(-1)
    same = doc_ids.unsqueeze(2).eq(doc_ids.unsqueeze(1))
    return torch.tril(same & real.unsqueeze(2) & real.unsqueeze(1))
""",
    ),
    Variant(
        name="each document by itself",
        code="""def packed_mask(doc_ids):
    batch, time = doc_ids.shape
    mask = torch.zeros(batch, time, time)
    for b in range(batch):
        for doc in doc_ids[b].unique():
            if doc != -1:
                here = (doc_ids[b] == doc).float()
                mask[b] += torch.outer(here, here)
    return (mask * torch.ones(time, time).tril()).bool()
""",
    ),
)


def _mha(body):
    """Source of a multi-head attention with q, k, v projected, D known and `body` after it."""
    return (
        "def multi_head_attention(x, w_q, w_k, w_v, w_o, n_heads, mask=None):\n"
        "    b, t, e = x.shape\n"
        "    d = w_q.shape[0] // n_heads\n"
        "    q, k, v = x @ w_q.T, x @ w_k.T, x @ w_v.T\n" + body
    )


SPLIT = "    q, k, v = (z.reshape(b, t, n_heads, d).transpose(1, 2) for z in (q, k, v))\n"
JOIN = "    return out.transpose(1, 2).reshape(b, t, -1) @ w_o.T\n"

MHA_WRONG = (
    Misconception(
        name="heads cut without a transpose",
        code=_mha(
            "    q, k, v = (z.reshape(b, n_heads, t, d) for z in (q, k, v))\n    out = attention(q, k, v, mask)\n"
            + JOIN
        ),
        says="view(B, H, T, D) reads memory in the wrong order: it mixes tokens with heads. View as (B, T, H, D), then transpose(1, 2).",
    ),
    Misconception(
        name="heads cut and joined without a transpose",
        code=_mha(
            "    q, k, v = (z.reshape(b, n_heads, t, d) for z in (q, k, v))\n    out = attention(q, k, v, mask)\n    return out.reshape(b, t, -1) @ w_o.T\n"
        ),
        says="view(B, H, T, D) reads memory in the wrong order: it mixes tokens with heads. View as (B, T, H, D), then transpose(1, 2), and undo both at the end.",
    ),
    Misconception(
        name="joined without transposing back",
        code=_mha(SPLIT + "    out = attention(q, k, v, mask)\n    return out.reshape(b, t, -1) @ w_o.T\n"),
        says="Before laying the heads side by side, bring time back in front: (B, H, T, D) -> (B, T, H, D) -> (B, T, H*D).",
    ),
    Misconception(
        name="features dealt out to the heads in turn",
        code=_mha(
            "    q, k, v = (z.reshape(b, t, d, n_heads).permute(0, 3, 1, 2) for z in (q, k, v))\n    out = attention(q, k, v, mask)\n    return out.permute(0, 2, 3, 1).reshape(b, t, -1) @ w_o.T\n"
        ),
        says="Head 0 owns the first D features, head 1 the next D. Yours deals them out like cards: view as (H, D), not (D, H).",
    ),
    Misconception(
        name="heads interleaved (D, H)",
        code=_mha(
            "    q, k, v = (z.reshape(b, t, d, n_heads).permute(0, 3, 1, 2) for z in (q, k, v))\n    out = attention(q, k, v, mask)\n"
            + JOIN
        ),
        says="Head 0 owns the first D rows of w_q, head 1 the next D. Yours takes every H-th row: view as (H, D), not (D, H).",
    ),
    Misconception(
        name="weights not transposed",
        code="""def multi_head_attention(x, w_q, w_k, w_v, w_o, n_heads, mask=None):
    b, t, e = x.shape
    q, k, v = ((x @ w).reshape(b, t, n_heads, -1).transpose(1, 2) for w in (w_q, w_k, w_v))
    out = attention(q, k, v, mask)
    return out.transpose(1, 2).reshape(b, t, -1) @ w_o
""",
        says="Weights are (out, in) as in nn.Linear: x @ w.T. With square weights the mistake gives no error.",
    ),
    Misconception(
        name="w_o not transposed",
        replace=("flatten(2) @ w_o.T", "flatten(2) @ w_o"),
        says="w_o is (out, in) too: multiply by w_o.T.",
    ),
    Misconception(
        name="output projection forgotten",
        replace=(".flatten(2) @ w_o.T", ".flatten(2)"),
        says="The heads lie side by side but nothing mixes them yet. Project with w_o at the end.",
    ),
    Misconception(
        name="head width taken from the model width",
        code=_mha(SPLIT + "    out = attention(q, k, v, mask, scale=(e / n_heads) ** -0.5)\n" + JOIN),
        says="D is the rows of w_q divided by the heads. E / H is the same only when the projection keeps the width.",
    ),
    Misconception(
        name="E // H features a head",
        code=_mha("    d = e // n_heads\n" + SPLIT + "    out = attention(q, k, v, mask)\n" + JOIN),
        says="D is the rows of w_q divided by the heads. E // H is the same only when the projection keeps the width.",
    ),
    Misconception(
        name="scaled by the model width",
        code=_mha(SPLIT + "    out = attention(q, k, v, mask, scale=e**-0.5)\n" + JOIN),
        says="You divide by sqrt(d_model). Each head's dot product sums only D terms: divide by sqrt(D).",
    ),
    Misconception(
        name="scaled by the width of all heads together",
        code=_mha(SPLIT + "    out = attention(q, k, v, mask, scale=w_q.shape[0] ** -0.5)\n" + JOIN),
        says="You divide by sqrt(H * D). Each head's dot product sums only D terms: divide by sqrt(D).",
    ),
    Misconception(
        name="no scale",
        code=_mha(SPLIT + "    out = attention(q, k, v, mask, scale=1.0)\n" + JOIN),
        says="The scores of each head must be divided by sqrt(D).",
    ),
    Misconception(
        name="one wide head",
        replace=("unflatten(-1, (n_heads, -1))", "unflatten(-1, (1, -1))"),
        says="n_heads is ignored: all features go into one head with one set of weights.",
    ),
    Misconception(
        name="mask ignored",
        replace=("heads(w_v), mask)", "heads(w_v))"),
        says="The mask has no effect. Pass it on to attention.",
    ),
    Misconception(
        name="mask the wrong way round",
        replace=("heads(w_v), mask)", "heads(w_v), None if mask is None else ~mask)"),
        says="True means may attend. You hide the tokens that are True.",
    ),
    Misconception(
        name="always causal",
        replace=(
            "heads(w_v), mask)",
            "heads(w_v), torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).tril() & (True if mask is None else mask))",
        ),
        says="A causal mask is applied though nobody asked for one. Only the given mask hides tokens.",
    ),
    Misconception(
        name="keys projected with w_q",
        replace=("heads(w_k)", "heads(w_q)"),
        says="The keys come from w_k. With w_q for both every token looks most at itself (claim C02.17).",
    ),
    Misconception(
        name="values projected with w_k",
        replace=("heads(w_v)", "heads(w_k)"),
        says="The values come from w_v.",
    ),
    Misconception(
        name="keys and values swapped",
        replace=("heads(w_k), heads(w_v)", "heads(w_v), heads(w_k)"),
        says="w_k makes the keys and w_v the values. You use them the other way round.",
    ),
    Misconception(
        name="mask transposed",
        replace=(
            "heads(w_v), mask)",
            "heads(w_v), mask.transpose(-2, -1) if mask is not None and mask.dim() > 1 else mask)",
        ),
        says="The mask is (T, T): rows are queries, columns are keys. Pass it on as it is.",
    ),
    Misconception(
        name="queries and keys swapped",
        replace=("heads(w_q), heads(w_k)", "heads(w_k), heads(w_q)"),
        says="w_q makes the queries and w_k the keys. Swapped, the score matrix is transposed.",
    ),
    Misconception(
        name="residual added",
        code=_mha(
            SPLIT
            + "    out = attention(q, k, v, mask)\n    y = out.transpose(1, 2).reshape(b, t, -1) @ w_o.T\n    return y + x if y.shape == x.shape else y\n"
        ),
        says="The residual x + ... belongs to the block around attention, not to attention.",
    ),
    Misconception(
        name="heads averaged",
        code=_mha(SPLIT + "    out = attention(q, k, v, mask).mean(1, keepdim=True).expand(b, n_heads, t, d)\n" + JOIN),
        says="Heads are laid side by side, not averaged. w_o decides how to mix them.",
    ),
    Misconception(
        name="heads attend to heads",
        code=_mha(
            "    q, k, v = (z.reshape(b, t, n_heads, d) for z in (q, k, v))\n    out = attention(q, k, v)\n    return out.reshape(b, t, -1) @ w_o.T\n"
        ),
        says="Without the transpose, each token's heads attend to one another and tokens never meet. The time axis must be second to last.",
    ),
    Misconception(
        name="NaN where a token sees nothing",
        code=_mha(
            SPLIT + "    scores = q @ k.transpose(-2, -1) / math.sqrt(d)\n"
            "    if mask is not None:\n        scores = scores.masked_fill(~mask, -math.inf)\n"
            "    out = torch.softmax(scores, dim=-1) @ v\n" + JOIN
        ),
        says="A row of -inf gives 0/0 in torch's softmax. Make the weights of such a row zero.",
    ),
    Misconception(
        name="a token that sees nothing gets the average",
        code=_mha(
            SPLIT + "    scores = q @ k.transpose(-2, -1) / math.sqrt(d)\n"
            "    if mask is not None:\n        scores = scores.masked_fill(~mask, -1e9)\n"
            "    out = torch.softmax(scores, dim=-1) @ v\n" + JOIN
        ),
        says="A finite fill turns a row that sees nothing into a tie: it averages all values. It must give zeros.",
    ),
    Misconception(
        name="softmax over the queries",
        code=_mha(
            SPLIT + "    scores = q @ k.transpose(-2, -1) / math.sqrt(d)\n"
            "    if mask is not None:\n        scores = scores.masked_fill(~mask, -math.inf)\n"
            "    out = softmax(scores, dim=-2) @ v\n" + JOIN
        ),
        says="Each token's weights over the keys must sum to 1: softmax over the last dimension.",
    ),
)

MHA_RIGHT = (
    Variant(
        name="one head at a time",
        code="""def multi_head_attention(x, w_q, w_k, w_v, w_o, n_heads, mask=None):
    outputs = []
    for h, (a, b, c) in enumerate(zip(w_q.chunk(n_heads), w_k.chunk(n_heads), w_v.chunk(n_heads))):
        own = None if mask is None else mask.expand(x.shape[0], n_heads, x.shape[1], x.shape[1])[:, h]
        outputs.append(attention(x @ a.T, x @ b.T, x @ c.T, own))
    return torch.cat(outputs, dim=-1) @ w_o.T
""",
    ),
    Variant(
        name="einsum throughout",
        code="""def multi_head_attention(x, w_q, w_k, w_v, w_o, n_heads, mask=None):
    d = w_q.shape[0] // n_heads
    q, k, v = (torch.einsum("bte,hde->bhtd", x, w.reshape(n_heads, d, -1)) for w in (w_q, w_k, w_v))
    scores = torch.einsum("bhtd,bhsd->bhts", q, k) / d**0.5
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    weights = torch.nan_to_num(scores.softmax(-1), nan=0.0)
    return torch.einsum("bhts,bhsd,ohd->bto", weights, v, w_o.reshape(-1, n_heads, d))
""",
    ),
    Variant(
        name="one fused projection",
        code="""def multi_head_attention(x, w_q, w_k, w_v, w_o, n_heads, mask=None):
    b, t, _ = x.shape
    q, k, v = torch.nn.functional.linear(x, torch.cat([w_q, w_k, w_v])).chunk(3, dim=-1)
    q, k, v = (z.contiguous().view(b, t, n_heads, -1).permute(0, 2, 1, 3) for z in (q, k, v))
    y = attention(q, k, v, mask=mask)
    return torch.nn.functional.linear(y.permute(0, 2, 1, 3).reshape(b, t, -1), w_o)
""",
    ),
)


def _gqa(k_line="k.repeat_interleave(g, 1)", v_line="v.repeat_interleave(g, 1)", end="return attention(q, k, v, mask)"):
    return (
        "def grouped_query_attention(q, k, v, mask=None):\n"
        f"    g = q.shape[1] // k.shape[1]\n    k = {k_line}\n    v = {v_line}\n    {end}\n"
    )


TILED = "Neighbouring query heads share a key head: 0,0,0,1,1,1. `repeat` lays the heads out as 0,1,0,1,0,1. Use repeat_interleave, or view the queries as (KV, g)."

GQA_WRONG = (
    Misconception(name="key heads tiled", code=_gqa("k.repeat(1, g, 1, 1)", "v.repeat(1, g, 1, 1)"), says=TILED),
    Misconception(
        name="only the keys tiled",
        code=_gqa("k.repeat(1, g, 1, 1)", "v.repeat_interleave(g, 1)"),
        says=TILED + " Your keys are tiled, your values are not.",
    ),
    Misconception(
        name="only the values tiled",
        code=_gqa("k.repeat_interleave(g, 1)", "v.repeat(1, g, 1, 1)"),
        says=TILED + " Your values are tiled, your keys are not.",
    ),
    Misconception(
        name="one key head for everyone",
        code=_gqa("k[:, :1].expand(-1, q.shape[1], -1, -1)", "v[:, :1].expand(-1, q.shape[1], -1, -1)"),
        says="Every query head reads key head 0. Head h must read key head h // g.",
    ),
    Misconception(
        name="key heads averaged",
        code=_gqa(
            "k.mean(1, keepdim=True).expand(-1, q.shape[1], -1, -1)",
            "v.mean(1, keepdim=True).expand(-1, q.shape[1], -1, -1)",
        ),
        says="The key heads are averaged into one. Each group reads its own key head.",
    ),
    Misconception(
        name="output heads in another order",
        code="""def grouped_query_attention(q, k, v, mask=None):
    b, h, t, d = q.shape
    kv = k.shape[1]
    g = h // kv
    grouped = q.reshape(b, kv, g, t, d)
    parts = [attention(grouped[:, :, i], k, v, None if mask is None else mask.expand(b, h, t, k.shape[2]).reshape(b, kv, g, t, -1)[:, :, i]) for i in range(g)]
    return torch.cat(parts, dim=1)
""",
        says="The heads come out as (g, KV) where q had (KV, g). Stack the groups on the inner axis before you flatten.",
    ),
    Misconception(
        name="queries averaged in a group",
        code="""def grouped_query_attention(q, k, v, mask=None):
    b, h, t, d = q.shape
    kv = k.shape[1]
    shared = q.reshape(b, kv, h // kv, t, d).mean(2).repeat_interleave(h // kv, 1)
    return attention(shared, k.repeat_interleave(h // kv, 1), v.repeat_interleave(h // kv, 1), mask)
""",
        says="Query heads of a group share keys and values, not their queries. Each keeps its own.",
    ),
    Misconception(
        name="groups returned apart",
        replace=(
            "return mixed.reshape(batch, n_heads, t_q, v.shape[-1])",
            "return mixed.reshape(batch, n_kv, n_heads // n_kv, t_q, v.shape[-1])",
        ),
        says="Return (B, H, T, Dv): flatten the two head axes into one.",
    ),
    Misconception(
        name="mask ignored",
        replace=("k, v, mask)\n", "k, v)\n"),
        says="The mask has no effect. Pass it on.",
    ),
    Misconception(
        name="mask the wrong way round",
        replace=("mask = mask.expand", "mask = (~mask).expand"),
        says="True means may attend. You hide the keys that are True.",
    ),
    Misconception(
        name="mask of head 0 for all heads",
        code=_gqa(
            end="mask = mask[:, :1] if mask is not None and mask.dim() == 4 else mask\n    return attention(q, k, v, mask)"
        ),
        says="Each query head may have its own mask. You use head 0's for all.",
    ),
    Misconception(
        name="per-head mask grouped the other way",
        replace=(
            "mask.expand(batch, n_heads, t_q, t_k).reshape(batch, n_kv, rows, t_k)",
            "mask.expand(batch, n_heads, t_q, t_k).reshape(batch, -1, n_kv, t_q, t_k).transpose(1, 2).reshape(batch, n_kv, rows, t_k)",
        ),
        says="The mask's heads must be grouped as the queries' are: (KV, g), head h in group h // g.",
    ),
    Misconception(
        name="batch and group axes mixed up in the mask",
        code="""def grouped_query_attention(q, k, v, mask=None):
    b, h, t, d = q.shape
    kv = k.shape[1]
    scores = q.reshape(b, kv, h // kv, t, d) @ k[:, :, None].transpose(-2, -1) / math.sqrt(d)
    if mask is not None:
        scores = scores.masked_fill(~mask, -math.inf)
    return (softmax(scores, -1) @ v[:, :, None]).reshape(b, h, t, -1)
""",
        says="Your scores have five axes (B, KV, g, T, S) and the mask has four: its batch lands on KV. Reshape the mask to (B, KV, g, T, S) as well.",
    ),
    Misconception(
        name="no scale",
        replace=("k, v, mask)\n", "k, v, mask, scale=1.0)\n"),
        says="The scores must be divided by sqrt(D).",
    ),
    Misconception(
        name="scaled by the group's width",
        replace=("k, v, mask)\n", "k, v, mask, scale=(d_k * (n_heads // n_kv)) ** -0.5)\n"),
        says="A group's heads do not add up to one wide head. The scale is 1 / sqrt(D), D the width of one head.",
    ),
    Misconception(
        name="always causal",
        code=_gqa(
            end="t, s = q.shape[2], k.shape[2]\n    lower = torch.ones(t, s, dtype=torch.bool).tril(s - t)\n    return attention(q, k, v, lower if mask is None else mask & lower)",
        ),
        says="A causal mask is applied though nobody asked for one. Only the given mask hides keys.",
    ),
    Misconception(
        name="NaN where a query sees nothing",
        code=_gqa(
            end="scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])\n    if mask is not None:\n        scores = scores.masked_fill(~mask, -math.inf)\n    return torch.softmax(scores, -1) @ v",
        ),
        says="A row of -inf gives 0/0 in torch's softmax. Make the weights of such a row zero.",
    ),
    Misconception(
        name="softmax over the queries",
        code=_gqa(
            end="scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])\n    if mask is not None:\n        scores = scores.masked_fill(~mask, -math.inf)\n    return softmax(scores, -2) @ v",
        ),
        says="Each query's weights over the keys must sum to 1: softmax over the last dimension.",
    ),
)

GQA_RIGHT = (
    Variant(
        name="repeat_interleave",
        code=_gqa("torch.repeat_interleave(k, g, dim=1)", "torch.repeat_interleave(v, g, dim=1)"),
    ),
    Variant(
        name="one head at a time",
        code="""def grouped_query_attention(q, k, v, mask=None):
    b, h, t, _ = q.shape
    g = h // k.shape[1]
    full = None if mask is None else torch.broadcast_to(mask, (b, h, t, k.shape[2]))
    return torch.stack([attention(q[:, i], k[:, i // g], v[:, i // g], None if full is None else full[:, i]) for i in range(h)], dim=1)
""",
    ),
    Variant(
        name="five axes and einsum",
        code="""def grouped_query_attention(q, k, v, mask=None):
    b, h, t, d = q.shape
    kv, s = k.shape[1], k.shape[2]
    scores = torch.einsum("bkgtd,bksd->bkgts", q.reshape(b, kv, h // kv, t, d), k) / math.sqrt(d)
    if mask is not None:
        scores = torch.where(mask.broadcast_to(b, h, t, s).reshape(scores.shape), scores, -math.inf)
    weights = torch.nan_to_num(torch.softmax(scores, dim=-1))
    return torch.einsum("bkgts,bksv->bkgtv", weights, v).flatten(1, 2)
""",
    ),
    Variant(
        name="expanded view",
        code="""def grouped_query_attention(q, k, v, mask=None):
    b, kv, s, d = k.shape
    g = q.shape[1] // kv
    k = k[:, :, None].expand(b, kv, g, s, d).reshape(b, kv * g, s, d)
    v = v[:, :, None].expand(b, kv, g, s, v.shape[-1]).reshape(b, kv * g, s, -1)
    return attention(q, k, v, mask)
""",
    ),
)

ZERO_LOG = "0 * log(0) is 0 * -inf = NaN for the computer. Give zeros their own branch before the logarithm."

ENTROPY_WRONG = (
    Misconception(
        name="NaN at zero weights",
        code="def attention_entropy(weights):\n    return -(weights * torch.log(weights)).sum(-1)\n",
        says=ZERO_LOG,
    ),
    Misconception(
        name="bits",
        replace=("torch.log(weights", "torch.log2(weights"),
        says="That is in bits. Nats use the natural logarithm; the two differ by the factor ln 2.",
    ),
    Misconception(
        name="bits, NaN at zero weights",
        code="def attention_entropy(weights):\n    return -(weights * torch.log2(weights)).sum(-1)\n",
        says="Two things: nats use the natural logarithm, and zeros need their own branch before it.",
    ),
    Misconception(
        name="base 10",
        replace=("torch.log(weights", "torch.log10(weights"),
        says="That is the logarithm to base 10. Nats use the natural logarithm.",
    ),
    Misconception(
        name="minus sign forgotten",
        replace=("-(weights * logs)", "(weights * logs)"),
        says="Logarithms of weights are negative, so the sum is too. Entropy has a minus in front.",
    ),
    Misconception(
        name="epsilon inside the logarithm",
        code="def attention_entropy(weights):\n    return -(weights * torch.log(weights + 1e-8)).sum(-1)\n",
        says="The +1e-8 avoids NaN but moves every term: a row with a single 1 no longer has entropy 0. Treat zeros on their own.",
    ),
    Misconception(
        name="large epsilon inside the logarithm",
        code="def attention_entropy(weights):\n    return -(weights * torch.log(weights + 1e-6)).sum(-1)\n",
        says="The +1e-6 avoids NaN but moves every term: a row with a single 1 no longer has entropy 0. Treat zeros on their own.",
    ),
    Misconception(
        name="NaN replaced after the sum",
        code="def attention_entropy(weights):\n    return torch.nan_to_num(-(weights * torch.log(weights)).sum(-1), nan=0.0)\n",
        says="The NaN of one zero weight has already swallowed the row's sum. Replace it in each term, before summing.",
    ),
    Misconception(
        name="keepdim",
        replace=(".sum(-1)", ".sum(-1, keepdim=True)"),
        says="The last dimension is summed away: no keepdim.",
    ),
    Misconception(
        name="mean over the keys",
        replace=(".sum(-1)", ".mean(-1)"),
        says="Entropy is a sum over the keys, not a mean: uniform weights over n keys must give ln n.",
    ),
    Misconception(
        name="one number for everything",
        replace=(".sum(-1)", ".sum()"),
        says="Each query has its own entropy. Sum over the last dimension only.",
    ),
    Misconception(
        name="average over the queries",
        replace=(".sum(-1)", ".sum(-1).mean(-1)"),
        says="Each query keeps its own entropy. Do not average.",
    ),
    Misconception(
        name="average of everything",
        replace=(".sum(-1)", ".sum(-1).mean()"),
        says="Each query keeps its own entropy. Do not average.",
    ),
    Misconception(
        name="summed over the queries",
        replace=(".sum(-1)", ".sum(-2 if weights.dim() > 1 else -1)"),
        says="A row of weights runs along the last dimension, the keys. You sum over the queries.",
    ),
    Misconception(
        name="divided by ln n",
        replace=(".sum(-1)", ".sum(-1) / math.log(max(2, weights.shape[-1]))"),
        says="You normalise by ln n, so that uniform gives 1. The plain entropy is wanted: uniform over n keys gives ln n.",
    ),
    Misconception(
        name="perplexity",
        replace=("return -(weights * logs).sum(-1)", "return torch.exp(-(weights * logs).sum(-1))"),
        says="That is exp(entropy), the effective number of keys. Return the entropy itself.",
    ),
    Misconception(
        name="softmax applied again",
        replace=("logs = torch.log(", "weights = torch.softmax(weights, -1)\n    logs = torch.log("),
        says="The input is weights already. A second softmax flattens them to almost uniform.",
    ),
    Misconception(
        name="information of the largest weight",
        code="def attention_entropy(weights):\n    top = weights.amax(-1)\n    return -torch.log(top.masked_fill(top == 0, 1.0))\n",
        says="-log of the largest weight is the min-entropy. Average -log w over all weights.",
    ),
    Misconception(
        name="weight missing in the sum",
        replace=("-(weights * logs).sum(-1)", "-logs.sum(-1)"),
        says="Each -log w counts with its weight w: -sum(w * log w).",
    ),
)

ENTROPY_RIGHT = (
    Variant(
        name="xlogy",
        code="def attention_entropy(weights):\n    return -torch.special.xlogy(weights, weights).sum(dim=-1)\n",
    ),
    Variant(
        name="where",
        code="def attention_entropy(weights):\n    safe = torch.where(weights > 0, weights, torch.ones_like(weights))\n    return (safe * -safe.log()).sum(-1)\n",
    ),
    Variant(
        name="clamped logarithm",
        code="def attention_entropy(weights):\n    wide = weights if weights.dtype == torch.float64 else weights.float()\n    return -(wide * wide.clamp_min(1e-30).log()).sum(-1).to(weights.dtype)\n",
    ),
    Variant(
        name="loop over rows",
        code="""def attention_entropy(weights):
    rows = [sum((-w * w.log() for w in row if w > 0), row.new_zeros(())) for row in weights.reshape(-1, weights.shape[-1])]
    return torch.stack(rows).reshape(weights.shape[:-1])
""",
    ),
    Variant(
        name="NaN replaced in each term",
        code="def attention_entropy(weights):\n    return -torch.nan_to_num(weights * torch.log(weights)).sum(-1)\n",
    ),
)


def _without(name):
    sentence = {
        "n_layers": "Every layer keeps its own keys and values. Multiply by n_layers.",
        "n_kv_heads": "Every key/value head keeps its own vectors. Multiply by n_kv_heads.",
        "head_dim": "A key is a vector of head_dim numbers. Multiply by head_dim.",
        "seq_len": "Every token leaves a key and a value. Multiply by seq_len.",
        "batch": "Every sequence of the batch has its own cache. Multiply by batch.",
        "bytes_per_value": "You counted numbers, not bytes. Multiply by bytes_per_value.",
    }[name]
    return Misconception(name=f"{name} left out", replace=(f" * {name}", ""), says=sentence)


CACHE_WRONG = (
    Misconception(
        name="only keys or only values",
        replace=("return 2 * ", "return "),
        says="Keys and values are both kept: there is a factor of 2.",
    ),
    *(_without(n) for n in ("n_layers", "n_kv_heads", "head_dim", "seq_len", "batch", "bytes_per_value")),
    Misconception(
        name="two bytes for every type",
        replace=(" * bytes_per_value", " * 2"),
        says="4 * b * l * h * s is the formula for fp16 only. Use bytes_per_value.",
    ),
    Misconception(
        name="a score for each pair of tokens",
        replace=("* seq_len", "* seq_len * seq_len"),
        says="The cache grows with the number of tokens, not with its square. Scores are not kept.",
    ),
    Misconception(
        name="bits",
        replace=("return 2 * ", "return 8 * 2 * "),
        says="That is in bits. A byte has 8 of them, and bytes are wanted.",
    ),
    Misconception(
        name="counted in float",
        replace=("return 2 * ", "return 2.0 * "),
        says="A float holds 53 bits and rounds larger counts. Keep to integers, and return an int.",
    ),
    Misconception(
        name="rounded through a float",
        replace=(
            "return 2 * n_layers * n_kv_heads * head_dim * seq_len * batch * bytes_per_value",
            "return int(2.0 * n_layers * n_kv_heads * head_dim * seq_len * batch * bytes_per_value)",
        ),
        says="A float on the way rounds counts above 2^53. Keep to integers.",
    ),
    Misconception(
        name="GiB",
        replace=("* bytes_per_value", "* bytes_per_value / 2**30"),
        says="Bytes are wanted, as an int, not GiB.",
    ),
    Misconception(
        name="KiB", replace=("* bytes_per_value", "* bytes_per_value // 1024"), says="Bytes are wanted, not KiB."
    ),
    Misconception(
        name="queries counted too",
        replace=("return 2 * ", "return 3 * "),
        says="Queries are used once and thrown away. Only keys and values are kept: 2, not 3.",
    ),
    Misconception(
        name="counted in 32 bits",
        code="def kv_cache_bytes(n_layers, n_kv_heads, head_dim, seq_len, batch, bytes_per_value):\n    sizes = torch.tensor([2, n_layers, n_kv_heads, head_dim, seq_len, batch, bytes_per_value], dtype=torch.int32)\n    return int(torch.cumprod(sizes, 0, dtype=torch.int32)[-1])\n",
        says="32 bits end at 2 GiB. Use Python's integers.",
    ),
    Misconception(
        name="one token more",
        replace=("* seq_len", "* (seq_len + 1)"),
        says="seq_len counts the tokens that are kept. Do not add one.",
    ),
)

CACHE_RIGHT = (
    Variant(
        name="math.prod",
        code="def kv_cache_bytes(n_layers, n_kv_heads, head_dim, seq_len, batch, bytes_per_value):\n    return math.prod([2, n_layers, n_kv_heads, head_dim, seq_len, batch, bytes_per_value])\n",
    ),
    Variant(
        name="per token first",
        code="def kv_cache_bytes(n_layers, n_kv_heads, head_dim, seq_len, batch, bytes_per_value):\n    key_bytes = n_kv_heads * head_dim * bytes_per_value\n    token_bytes = n_layers * (key_bytes + key_bytes)\n    return token_bytes * seq_len * batch\n",
    ),
    Variant(
        name="added up layer by layer",
        code="def kv_cache_bytes(n_layers, n_kv_heads, head_dim, seq_len, batch, bytes_per_value):\n    total = 0\n    for _ in range(n_layers):\n        for _ in ('keys', 'values'):\n            total += batch * n_kv_heads * seq_len * head_dim * bytes_per_value\n    return total\n",
    ),
)


def _decode(output, cache="(keys, values)", before=""):
    return (
        "def decode_step(q_t, k_t, v_t, cache):\n"
        "    keys, values = k_t, v_t\n"
        "    if cache is not None:\n"
        "        keys = torch.cat([cache[0], k_t], dim=2)\n"
        "        values = torch.cat([cache[1], v_t], dim=2)\n"
        f"{before}    return {output}, {cache}\n"
    )


DECODE_WRONG = (
    Misconception(
        name="attends to the new token only",
        code=_decode("attention(q_t, k_t, v_t)"),
        says="The query sees only its own key, so the output is v_t at every step. Attend to the whole cache.",
    ),
    Misconception(
        name="attends to the old tokens only",
        code=_decode("attention(q_t, k_t, v_t) if cache is None else attention(q_t, cache[0], cache[1])"),
        says="The new token must see itself too. Append first, attend after.",
    ),
    Misconception(
        name="new token put in front",
        replace=(
            "torch.cat([cache[0], k_t], dim=2)\n        values = torch.cat([cache[1], v_t], dim=2)",
            "torch.cat([k_t, cache[0]], dim=2)\n        values = torch.cat([v_t, cache[1]], dim=2)",
        ),
        says="The output does not mind the order, later positions do: the cache is oldest first, the new token last.",
    ),
    Misconception(
        name="keys in front, values behind",
        replace=("torch.cat([cache[0], k_t], dim=2)", "torch.cat([k_t, cache[0]], dim=2)"),
        says="Keys and values are in different orders, so each weight picks another token's value.",
    ),
    Misconception(
        name="old cache returned",
        code=_decode("attention(q_t, keys, values)", "cache if cache is not None else (keys, values)"),
        says="You return the cache without the new token: from the third step on tokens are missing.",
    ),
    Misconception(
        name="only the new token returned",
        code=_decode("attention(q_t, keys, values)", "(k_t, v_t)"),
        says="The returned cache holds only the newest token. Return all keys and values so far.",
    ),
    Misconception(
        name="keys and values swapped in the cache",
        code=_decode("attention(q_t, keys, values)", "(values, keys)"),
        says="The cache is (keys, values), in this order.",
    ),
    Misconception(
        name="keys pre-scaled in the cache",
        code=_decode("attention(q_t, keys, values)", "(keys / math.sqrt(q_t.shape[-1]), values)"),
        says="You cache keys divided by sqrt(D), and the next step scales them again. Cache the keys as they are and scale the scores.",
    ),
    Misconception(
        name="new key pre-scaled, scores not",
        code=_decode("attention(q_t, keys, values, scale=1.0)").replace(
            "    keys, values = k_t, v_t\n",
            "    k_t = k_t / math.sqrt(q_t.shape[-1])\n    keys, values = k_t, v_t\n",
        ),
        says="You cache keys divided by sqrt(D). The cache holds the keys as they are; scale the scores.",
    ),
    Misconception(
        name="softmax by hand without its maximum",
        code=_decode(
            "weights / weights.sum(-1, keepdim=True) @ values",
            before="    weights = torch.exp(q_t @ keys.transpose(-2, -1) / math.sqrt(q_t.shape[-1]))\n",
        ),
        says="exp(score) overflows at 89 in float32 and at 710 in float64. Use attention, whose softmax subtracts the maximum.",
    ),
    Misconception(
        name="values not appended",
        replace=("torch.cat([cache[1], v_t], dim=2)", "torch.cat([cache[1], cache[1][:, :, -1:]], dim=2)"),
        says="The new value is not in the cache. Append v_t as you append k_t.",
    ),
    Misconception(
        name="joined along the width",
        replace=(
            "torch.cat([cache[0], k_t], dim=2)\n        values = torch.cat([cache[1], v_t], dim=2)",
            "torch.cat([cache[0], k_t], dim=-1)\n        values = torch.cat([cache[1], v_t], dim=-1)",
        ),
        says="Time is dimension 2 of (B, H, S, D). You join along another one.",
    ),
    Misconception(
        name="joined along the heads",
        same_as=("joined along the width",),
        replace=(
            "torch.cat([cache[0], k_t], dim=2)\n        values = torch.cat([cache[1], v_t], dim=2)",
            "torch.cat([cache[0], k_t], dim=1)\n        values = torch.cat([cache[1], v_t], dim=1)",
        ),
        says="Time is dimension 2 of (B, H, S, D). You join along the heads.",
    ),
    Misconception(
        name="top-left causal mask",
        code=_decode("attention(q_t, keys, values, torch.ones(1, keys.shape[2], dtype=torch.bool).tril())"),
        says="A causal mask aligned at the top left lets the one query see only key 0. The newest query sees everything; no mask is needed.",
    ),
    Misconception(
        name="newest token hidden",
        same_as=("attends to the old tokens only",),
        code=_decode("attention(q_t, keys, values, torch.arange(keys.shape[2]) < max(1, keys.shape[2] - 1))"),
        says="The newest token is masked out. A token attends to itself.",
    ),
    Misconception(
        name="no scale",
        replace=("attention(q_t, keys, values)", "attention(q_t, keys, values, scale=1.0)"),
        says="The scores must be divided by sqrt(D), as in exercise 2.",
    ),
    Misconception(
        name="scaled by the cache length",
        replace=("attention(q_t, keys, values)", "attention(q_t, keys, values, scale=keys.shape[2] ** -0.5)"),
        says="The scale comes from the width D, not from the number of cached tokens.",
    ),
    Misconception(
        name="plain average",
        replace=("attention(q_t, keys, values)", "attention(q_t, keys, values, scale=0.0)"),
        says="Every token gets the same weight: the query plays no part.",
    ),
    Misconception(
        name="softmax over the single query",
        replace=(
            "attention(q_t, keys, values)",
            "softmax(q_t @ keys.transpose(-2, -1) / math.sqrt(q_t.shape[-1]), dim=-2) @ values",
        ),
        says="With one query the softmax over queries makes every weight 1, so the values are summed. Normalise over the keys.",
    ),
    Misconception(
        name="caller's cache overwritten",
        code="""def decode_step(q_t, k_t, v_t, cache):
    if cache is None:
        return attention(q_t, k_t, v_t), (k_t, v_t)
    keys = torch.cat([cache[0], k_t], dim=2)
    values = torch.cat([cache[1], v_t], dim=2)
    with torch.no_grad():
        cache[0].copy_(keys[:, :, 1:])
        cache[1].copy_(values[:, :, 1:])
    return attention(q_t, keys, values), (keys, values)
""",
        says="You write into the caller's tensors. Two texts cannot continue from one cache then. Build new tensors with torch.cat.",
    ),
    Misconception(
        name="a sliding cache",
        replace=(
            "torch.cat([cache[0], k_t], dim=2)\n        values = torch.cat([cache[1], v_t], dim=2)",
            "torch.cat([cache[0][:, :, 1:], k_t], dim=2)\n        values = torch.cat([cache[1][:, :, 1:], v_t], dim=2)",
        ),
        says="The oldest token is dropped at every step. The whole past is kept: S + 1 tokens after the step.",
    ),
    Misconception(
        name="output alone",
        replace=("return attention(q_t, keys, values), (keys, values)", "return attention(q_t, keys, values)"),
        says="Return a pair: the output and the new cache.",
    ),
    Misconception(
        name="three things returned",
        replace=(
            "return attention(q_t, keys, values), (keys, values)",
            "return attention(q_t, keys, values), keys, values",
        ),
        says="Return (output, (keys, values)): the cache is a pair of its own.",
    ),
    Misconception(
        name="cache first",
        replace=(
            "return attention(q_t, keys, values), (keys, values)",
            "return (keys, values), attention(q_t, keys, values)",
        ),
        says="The output comes first, the cache second.",
    ),
    Misconception(
        name="time axis dropped",
        replace=(
            "return attention(q_t, keys, values), (keys, values)",
            "return attention(q_t, keys, values).squeeze(2), (keys, values)",
        ),
        says="The output keeps its time axis: (B, H, 1, D).",
    ),
)

DECODE_RIGHT = (
    Variant(
        name="empty tensors to begin with",
        code="""def decode_step(q_t, k_t, v_t, cache):
    keys, values = cache if cache is not None else (k_t[:, :, :0], v_t[:, :, :0])
    keys, values = torch.cat((keys, k_t), -2), torch.cat((values, v_t), -2)
    weights = torch.softmax(q_t @ keys.mT / math.sqrt(q_t.size(-1)), dim=-1)
    return weights @ values, (keys, values)
""",
    ),
    Variant(
        name="einsum and a list",
        code="""def decode_step(q_t, k_t, v_t, cache):
    old = [] if cache is None else list(cache)
    keys = torch.cat([*old[:1], k_t], dim=2)
    values = torch.cat([*old[1:], v_t], dim=2)
    scores = torch.einsum("bhd,bhsd->bhs", q_t[:, :, 0], keys) * q_t.shape[-1] ** -0.5
    out = torch.einsum("bhs,bhsd->bhd", torch.softmax(scores, -1), values)
    return out.unsqueeze(2), [keys, values]
""",
    ),
    Variant(
        name="copied into a larger tensor",
        code="""def decode_step(q_t, k_t, v_t, cache):
    b, h, _, d = k_t.shape
    s = 0 if cache is None else cache[0].shape[2]
    keys, values = k_t.new_empty(b, h, s + 1, d), v_t.new_empty(b, h, s + 1, d)
    if s:
        keys[:, :, :s], values[:, :, :s] = cache
    keys[:, :, s:], values[:, :, s:] = k_t, v_t
    return attention(q_t, keys, values), (keys, values)
""",
    ),
    Variant(
        name="weights from a running sum, token by token",
        code="""def decode_step(q_t, k_t, v_t, cache):
    keys = k_t if cache is None else torch.cat([cache[0], k_t], 2)
    values = v_t if cache is None else torch.cat([cache[1], v_t], 2)
    scores = (q_t * keys).sum(-1, keepdim=True) / math.sqrt(q_t.shape[-1])
    p = torch.exp(scores - scores.amax(2, keepdim=True))
    return (p * values).sum(2, keepdim=True) / p.sum(2, keepdim=True), (keys.clone(), values.clone())
""",
    ),
)

MLA_WRONG = (
    Misconception(
        name="keys formed",
        code="""def mla_absorbed_scores(c_q, c_kv, w_uq, w_uk):
    q = torch.einsum("btr,hdr->bhtd", c_q, w_uq)
    k = torch.einsum("bsr,hdr->bhsd", c_kv, w_uk)
    return q @ k.transpose(-2, -1)
""",
        says="The numbers agree, but you unpack the whole cache into keys (B, H, S, D), which latent attention exists to avoid. Apply w_uk to the query instead, then meet c_kv as it is.",
    ),
    Misconception(
        name="scaled",
        replace=(
            'return torch.einsum("bhtk,bsk->bhts", latent_queries, c_kv)',
            'return torch.einsum("bhtk,bsk->bhts", latent_queries, c_kv) / math.sqrt(w_uq.shape[1])',
        ),
        says="The scores are wanted unscaled: no 1/sqrt(D) here.",
    ),
    Misconception(
        name="scaled by the latent width",
        replace=(
            'return torch.einsum("bhtk,bsk->bhts", latent_queries, c_kv)',
            'return torch.einsum("bhtk,bsk->bhts", latent_queries, c_kv) / math.sqrt(c_kv.shape[-1])',
        ),
        says="The scores are wanted unscaled: no division by the latent width.",
    ),
    Misconception(
        name="softmax applied",
        replace=(
            'return torch.einsum("bhtk,bsk->bhts", latent_queries, c_kv)',
            'return torch.softmax(torch.einsum("bhtk,bsk->bhts", latent_queries, c_kv), -1)',
        ),
        says="Scores are wanted, before any softmax.",
    ),
    Misconception(
        name="queries and keys transposed",
        replace=("bhtk,bsk->bhts", "bhtk,bsk->bhst"),
        says="Rows are queries, columns are cached tokens: (B, H, T, S).",
    ),
    Misconception(
        name="head axis behind time",
        replace=("bhtk,bsk->bhts", "bhtk,bsk->bths"),
        says="The head axis comes second: (B, H, T, S).",
    ),
    Misconception(
        name="heads summed",
        replace=("bhtk,bsk->bhts", "bhtk,bsk->bts"),
        says="Each head has its own scores. You added the heads up.",
    ),
    Misconception(
        name="heads first",
        replace=("bhtk,bsk->bhts", "bhtk,bsk->hbts"),
        says="The batch comes first: (B, H, T, S).",
    ),
    Misconception(
        name="one up-projection of keys for all heads",
        replace=("queries, w_uk)", "queries, w_uk[:1].expand_as(w_uk))"),
        says="Every head has its own w_uk. You use head 0's for all.",
    ),
    Misconception(
        name="one up-projection of queries for all heads",
        replace=("c_q, w_uq)", "c_q, w_uq[:1].expand_as(w_uq))"),
        says="Every head has its own w_uq. You use head 0's for all.",
    ),
    Misconception(
        name="absorbed matrix summed over the heads",
        code="""def mla_absorbed_scores(c_q, c_kv, w_uq, w_uk):
    absorbed = torch.einsum("hdr,hdk->rk", w_uq, w_uk)
    scores = torch.einsum("btr,rk,bsk->bts", c_q, absorbed, c_kv)
    return scores[:, None].expand(-1, w_uq.shape[0], -1, -1).clone()
""",
        says="The product W_uk^T W_uq is one matrix for each head. Keep h in the result: hdr,hdk->hrk.",
    ),
    Misconception(
        name="same token paired with itself in the batch",
        code="""def mla_absorbed_scores(c_q, c_kv, w_uq, w_uk):
    latent = torch.einsum("btr,hdr,hdk->bhtk", c_q, w_uq, w_uk)
    return torch.einsum("bhtk,sk->bhts", latent, c_kv[0])
""",
        says="Each sequence has its own cache. You compare all with that of sequence 0.",
    ),
    Misconception(
        name="w_uq used on both sides",
        code="""def mla_absorbed_scores(c_q, c_kv, w_uq, w_uk):
    latent = torch.einsum("btr,hdr,hdk->bhtk", c_q, w_uq, w_uq)
    return torch.einsum("bhtk,bsk->bhts", latent, c_kv)
""",
        says="The key's side is w_uk. With w_uq on both sides it fits only where Rq = Rkv.",
    ),
    Misconception(
        name="up-projections swapped",
        code="""def mla_absorbed_scores(c_q, c_kv, w_uq, w_uk):
    latent = torch.einsum("btr,hdr,hdk->bhtk", c_q, w_uk, w_uq)
    return torch.einsum("bhtk,bsk->bhts", latent, c_kv)
""",
        says="w_uq belongs to the query's latent and w_uk to the key's. Swapped, it fits only where Rq = Rkv.",
    ),
    Misconception(
        name="up-projections left out",
        code="""def mla_absorbed_scores(c_q, c_kv, w_uq, w_uk):
    return (c_q @ c_kv.transpose(1, 2))[:, None].expand(-1, w_uq.shape[0], -1, -1).clone()
""",
        says="The latents live in different spaces. W_uk^T W_uq leads from one to the other, one matrix for each head.",
    ),
    Misconception(
        name="up-projection not transposed",
        replace=('torch.einsum("bhtd,hdk->bhtk", queries, w_uk)', 'torch.einsum("bhtd,hkd->bhtk", queries, w_uk)'),
        says="w_uk is (H, D, Rkv): sum over D, its middle axis. Summing over the last one fits only where D = Rkv.",
    ),
)

MLA_RIGHT = (
    Variant(
        name="absorbed matrix first",
        code="""def mla_absorbed_scores(c_q, c_kv, w_uq, w_uk):
    absorbed = w_uq.transpose(1, 2) @ w_uk
    return c_q[:, None] @ absorbed[None] @ c_kv[:, None].transpose(2, 3)
""",
    ),
    Variant(
        name="one head at a time",
        code="""def mla_absorbed_scores(c_q, c_kv, w_uq, w_uk):
    heads = []
    for up_q, up_k in zip(w_uq, w_uk):
        heads.append(c_q @ up_q.T @ up_k @ c_kv.transpose(-2, -1))
    return torch.stack(heads, 1)
""",
    ),
    Variant(
        name="one einsum, left to right",
        code='def mla_absorbed_scores(c_q, c_kv, w_uq, w_uk):\n    return torch.einsum("btr,hdr,hdk,bsk->bhts", c_q, w_uq, w_uk, c_kv)\n',
    ),
)

EXERCISES = [
    Exercise(
        name="softmax",
        reference=_softmax,
        cases=_softmax_cases,
        forbids=(*SOFTMAX_ROUTINES, "torch.nn.functional.scaled_dot_product_attention"),
        hints=(
            "Which constant may you subtract from a row so that no exponent is ever large?",
            "Subtract the maximum along dim (keepdim=True). Then ask what happens when that maximum is -inf.",
            "m = x.amax(dim, keepdim=True), replace -inf in m by 0, e = exp(x - m), s = e.sum(dim, keepdim=True), and divide by 1 where s is 0.",
        ),
        misconceptions=SOFTMAX_WRONG,
        variants=SOFTMAX_RIGHT,
    ),
    Exercise(
        name="attention",
        reference=_attention,
        cases=_attention_cases,
        uses=("softmax",),
        forbids=ATTENTION_ROUTINES,
        close=ANY_SOFTMAX,
        hints=(
            "Write down the shapes: q (..., T, D), k (..., S, D). Which product gives (..., T, S)?",
            "Scale the scores, then fill hidden ones with -inf, then softmax over the last dimension, then multiply by v.",
            "scores = scale * (q @ k.transpose(-2, -1)); scores = scores.masked_fill(~mask, -inf); softmax(scores, -1) @ v. Your softmax of exercise 1 turns an empty row into zeros.",
        ),
        misconceptions=ATTENTION_WRONG,
        variants=ATTENTION_RIGHT,
    ),
    Exercise(
        name="causal_mask",
        reference=_causal_mask,
        cases=_causal_mask_cases,
        forbids=("torch.nn.attention.bias",),
        hints=(
            "The last query stands at the last key. At which key position does query i stand?",
            "Query i stands at i + (t_k - t_q) and sees keys j with j <= that.",
            "torch.ones(t_q, t_k, dtype=torch.bool).tril(diagonal=t_k - t_q)",
        ),
        misconceptions=CAUSAL_WRONG,
        variants=CAUSAL_RIGHT,
    ),
    Exercise(
        name="packed_mask",
        reference=_packed_mask,
        cases=_packed_mask_cases,
        uses=("causal_mask",),
        hints=(
            "Three conditions must hold at once. Write each as a boolean tensor that broadcasts to (batch, time, time).",
            "doc_ids[:, :, None] == doc_ids[:, None, :] compares every query with every key. -1 equals -1 too.",
            "Combine with &: equal ids, query's id != -1, and the causal mask.",
        ),
        misconceptions=PACKED_WRONG,
        variants=PACKED_RIGHT,
    ),
    Exercise(
        name="multi_head_attention",
        reference=_multi_head_attention,
        cases=_multi_head_cases,
        uses=("softmax", "attention", "causal_mask"),
        forbids=ATTENTION_ROUTINES,
        close=ANY_SOFTMAX,
        hints=(
            "Follow the shapes from (B, T, E) to (B, H, T, D) and back. Where must the head axis stand for attention?",
            "(x @ w.T) is (B, T, H*D). View it as (B, T, H, D), then transpose(1, 2).",
            "After attention: transpose(1, 2), reshape to (B, T, H*D), then @ w_o.T.",
        ),
        misconceptions=MHA_WRONG,
        variants=MHA_RIGHT,
    ),
    Exercise(
        name="grouped_query_attention",
        reference=_grouped_query_attention,
        cases=_grouped_cases,
        uses=("softmax", "attention", "causal_mask"),
        forbids=ATTENTION_ROUTINES,
        close=ANY_SOFTMAX,
        hints=(
            "With 6 query heads and 2 key heads, which key head does query head 2 read? And head 3?",
            "Head h reads key head h // g. Either repeat each key head g times in a row (repeat_interleave), or reshape q to (B, KV, g*T, D).",
            "q.reshape(B, KV, g*T, D) needs the mask as mask.expand(B, H, T, S).reshape(B, KV, g*T, S); reshape the result to (B, H, T, Dv).",
        ),
        misconceptions=GQA_WRONG,
        variants=GQA_RIGHT,
    ),
    Exercise(
        name="attention_entropy",
        reference=_attention_entropy,
        cases=_entropy_cases,
        forbids=("torch.distributions", "scipy.stats"),
        hints=(
            "What is 0 * log(0) for a computer, and what must it be here?",
            "Replace zeros by 1 inside the logarithm only: log 1 = 0.",
            "-(w * log(w.masked_fill(w == 0, 1))).sum(-1)",
        ),
        misconceptions=ENTROPY_WRONG,
        variants=ENTROPY_RIGHT,
    ),
    Exercise(
        name="kv_cache_bytes",
        reference=_kv_cache_bytes,
        cases=_cache_bytes_cases,
        hints=(
            "How many numbers does one token leave in one layer?",
            "Keys and values: 2 * n_kv_heads * head_dim numbers for each token and layer.",
            "2 * n_layers * n_kv_heads * head_dim * seq_len * batch * bytes_per_value",
        ),
        misconceptions=CACHE_WRONG,
        variants=CACHE_RIGHT,
    ),
    Exercise(
        name="decode_step",
        reference=_decode_step,
        cases=_decode_cases,
        uses=("softmax", "attention", "causal_mask"),
        forbids=ATTENTION_ROUTINES,
        close=ANY_SOFTMAX,
        hints=(
            "Which keys may the newest token see? Is a mask needed at all?",
            "Append k_t and v_t to the cache along the time axis with torch.cat (new tensors), then attend.",
            "keys = k_t if cache is None else torch.cat([cache[0], k_t], dim=2), the same for values; return attention(q_t, keys, values), (keys, values).",
        ),
        misconceptions=DECODE_WRONG,
        variants=DECODE_RIGHT,
    ),
    Exercise(
        name="mla_absorbed_scores",
        reference=_mla_absorbed_scores,
        cases=_mla_cases,
        hints=(
            "Matrix products may be bracketed as you like. Which bracket leaves c_kv untouched?",
            "First the queries (B, H, T, D) from c_q, then multiply by w_uk to get (B, H, T, Rkv).",
            'einsum "btr,hdr->bhtd", then "bhtd,hdk->bhtk", then "bhtk,bsk->bhts".',
        ),
        misconceptions=MLA_WRONG,
        variants=MLA_RIGHT,
    ),
]
