# %% [markdown]
# # 04 RoPE: positions as rotations
# *Time: 120 minutes. Builds on: 02_attention_scaling (queries, keys, masks), sines and cosines, matrix products.*
#
# Attention compares tokens as a bag: "dog bites man" and "man bites dog" look alike to it. This lesson is about the three
# ways in which models are told what came first, and about what happens when a text is longer than any that they were
# trained on.
#
# After this lesson you can
# - say why a sinusoid, a rotation and a penalty all encode distance, and what each of them costs;
# - derive RoPE from two requirements, and load a checkpoint in either of its two layouts;
# - read a model's wavelengths, and predict which pairs of columns break beyond the trained length;
# - choose among position interpolation, NTK-aware scaling, YaRN and dynamic scaling, and say what each slows down;
# - test a claim about long contexts on a model that you trained yourself, in a minute.
#
# Twelve claims from study notes are tested on the way. Each has a cell that computes its verdict from numbers.

# %% tags=["parameters"]
SCALE = "quick"  # "quick" under a minute; "full" and "gpu" train longer and from three seeds, on the CPU

# %%
import cmath
import functools
import math
from collections import Counter
from dataclasses import replace

import torch
import torch.nn.functional as F

from llmcore import claims, figures, positions, text
from llmcore.figures import positions as pictures
from llmcore.model import ModelConfig, Transformer
from llmcore.positions import RopeScaling, rope_angles, rope_frequencies, rotate

torch.set_num_threads(1)
LARGE = SCALE != "quick"


def normal(*shape, seed):
    """Independent N(0, 1) numbers in float64 from their own seed."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# %% [markdown]
# ## 1. Predict first
#
# A transformer **without any positions** reads seven tokens. We shuffle the first six and look at what it makes of the
# seventh. Four models, all with random weights: attention that sees everything (bidirectional) or only the past (causal),
# with one layer or with two. **In which of the four does shuffling change the last token's output?** Write down four
# answers, then run the cell.
#
# **Claim C04.10: a causal model without any position encoding still knows order; a bidirectional one does not.**


# %%
def change_by_shuffling(causal, n_layers):
    sizes = {"vocab_size": 50, "width": 32, "n_layers": n_layers, "n_heads": 2, "context": 16, "init_std": 0.3}
    config = ModelConfig(**sizes, position="none", causal=causal)
    model = Transformer(config, generator=torch.Generator().manual_seed(1)).double()
    ids = torch.tensor([[11, 12, 13, 14, 15, 16, 17]])
    shuffled = ids[:, [3, 0, 5, 1, 4, 2, 6]]
    return (model.hidden(ids)[0, -1] - model.hidden(shuffled)[0, -1]).abs().max().item()


change = {(kind, n): change_by_shuffling(kind == "causal", n) for kind in ("bidirectional", "causal") for n in (1, 2)}
claims.judge(
    "C04.10",
    confirmed=change["causal", 2] > 0.01 and change["bidirectional", 2] < 1e-9,
    evidence={f"change, {kind}, layers: {n}": round(value, 9) for (kind, n), value in change.items()},
    note="The knowledge needs two layers. In one, the last token sees the same set in any order. In two, it sees tokens that "
    "have each seen another past, and the number of keys they averaged over tells them apart.",
)

# %% [markdown]
# The mask alone tells order, in a roundabout way. Most models are told outright. How?
#
# ## 2. Sinusoids: a clock with many hands
#
# A position is a number, and a network wants a vector of moderate numbers. A clock has the same problem: it shows the
# seconds of a whole day with three hands. The first transformer gave each position a vector of width $d$, a clock with
# $d/2$ hands. Hand $i$ turns by $\theta_i = 10000^{-2i/d}$ radians a token, and its sine and cosine go into two columns:
#
# $$\mathrm{PE}(p) = (\sin p\theta_0, \cos p\theta_0, \sin p\theta_1, \cos p\theta_1, \dots)$$
#
# Press play and watch the blue hands. The first goes round in 6.28 tokens. Which hand tells position 3 from position 4?
# Which one tells 30 from 300? The gray ring shows what a hand has covered after 64 tokens. Remember the slow ones.

# %%
SHOWN = rope_frequencies(16)
figures.interactive(
    lambda position: pictures.clock_hands(SHOWN, position, trained=64, title=f"position {position}"),
    alt=lambda position: f"Eight clocks at position {position}; one turn takes from 6.28 to 19,869 tokens",
    play="position",
    position=(0, 300, 40),
)
print("tokens for one turn:", [round(2 * math.pi / speed) for speed in SHOWN.tolist()])

# %% [markdown]
# Why sines **and** cosines? Multiply two such vectors. Each pair gives
# $\sin a \sin b + \cos a \cos b = \cos(a - b)$, and so
#
# $$\mathrm{PE}(m) \cdot \mathrm{PE}(n) = \sum_i \cos\left((m - n)\,\theta_i\right)$$
#
# **Claim C04.01: the dot product of two sinusoidal encodings depends on their distance alone and is symmetric.** And
# **claim C04.02: after $W_q^\top W_k$ that property is lost.** For attention does not multiply the vectors as they are: it
# multiplies $W_q\,\mathrm{PE}(m)$ with $W_k\,\mathrm{PE}(n)$. We look at all pairs of 200 positions, sort them by distance,
# and ask how much the products differ where the distance is equal.

# %%
WIDTH, PLACES = 64, torch.arange(200)
encodings = positions.sinusoidal(PLACES, WIDTH).double()


def spread_at_equal_distance(table):
    """Standard deviation within each diagonal of the table, averaged, over that of the whole table."""
    diagonals = [table.diagonal(offset) for offset in range(-150, 151)]
    return torch.stack([d.std(correction=0) for d in diagonals]).mean().item() / table.std().item()


w_q, w_k = normal(2, WIDTH, WIDTH, seed=2) / WIDTH**0.5
bare, projected = encodings @ encodings.T, (encodings @ w_q.T) @ (encodings @ w_k.T).T
spread = {"bare": spread_at_equal_distance(bare), "projected": spread_at_equal_distance(projected)}
skew = {n: ((t - t.T).abs().mean() / t.abs().mean()).item() for n, t in {"bare": bare, "projected": projected}.items()}
claims.judge(
    "C04.01",
    confirmed=spread["bare"] < 1e-4 and skew["bare"] < 1e-4,
    evidence={
        f"{n} / whole spread": round(v["bare"], 6)
        for n, v in {"spread at equal distance": spread, "asymmetry": skew}.items()
    }
    | {"products at distance 0, 1, 10": bare[0, [0, 1, 10]].tolist()},
    note="Symmetric also means: the product cannot tell left from right.",
)

# %%
claims.judge(
    "C04.02",
    confirmed=spread["projected"] > 0.5 and skew["projected"] > 0.2,
    evidence={"spread at equal distance / whole spread": spread["projected"], "asymmetry": skew["projected"]},
    note="Random projections, as at the start of training. A model may learn ones that keep it (such as turning and scaling "
    "each pair by itself), but nothing makes it.",
)

# %% [markdown]
# Adding has a second cost. The score of $x_m + p_m$ and $y_n + p_n$ has four terms: word with word, word with place, place
# with word, place with place. Words and places share the same columns, and every layer has to keep them apart.
#
# ## 3. RoPE from two requirements
#
# Turn it round. Say what we want, and look for what does it. We want a function $f(x, m)$ for queries and keys such that
#
# 1. $f(q, m) \cdot f(k, n)$ depends on $q$, $k$ and $m - n$, and on nothing else;
# 2. $f(x, 0) = x$.
#
# Take one pair of columns and write it as a complex number. The dot product is then $\mathrm{Re}(q\,\bar k)$. Try
# $f(x, m) = x\,e^{im\theta}$, a turn by $m\theta$:
#
# $$\mathrm{Re}\left(q e^{im\theta}\; \overline{k e^{in\theta}}\right) = \mathrm{Re}\left(q \bar k\; e^{i(m-n)\theta}\right)$$
#
# Both requirements hold. Nothing else is as simple: (1) with $q = k$, $m = n$ says that lengths stay, so $f$ can only turn;
# and turns that depend on differences alone must grow evenly with $m$. As a matrix it is
#
# $$\begin{pmatrix} a' \\ b' \end{pmatrix} = \begin{pmatrix} \cos m\theta & -\sin m\theta \\ \sin m\theta & \cos m\theta \end{pmatrix} \begin{pmatrix} a \\ b \end{pmatrix}$$
#
# Slide `both` (or press play): query and key turn together, and the product on the right stays. Then change the `distance`.

# %%
Q, K, SPEED = (1.0, 0.4), (0.5, 0.8), 0.2
figures.interactive(
    lambda both, distance: pictures.turned_pair(Q, K, SPEED, both + distance, both),
    alt=lambda both, distance: f"A query turned to position {both + distance} and a key to {both}, 0.2 radians a token",
    play="both",
    both=(0, 40, 6),
    distance=(-10, 10, 5),
)
for m, n in ((5, 0), (11, 6), (35, 30), (36, 30)):
    turned = [complex(*pair) * cmath.exp(1j * SPEED * p) for pair, p in ((Q, m), (K, n))]
    print(f"query at {m}, key at {n}: q·k = {(turned[0] * turned[1].conjugate()).real:.4f}")

# %% [markdown]
# A head has many pairs, each with its own $\theta_i = b^{-2i/d}$: the clock again. But RoPE adds nothing to the embeddings.
# It turns queries and keys, in every layer, just before they meet. Values are not turned.
#
# **Claim C04.03: RoPE's q·k depends on relative position alone and leaks no absolute position.** Two tests. A score, with
# both positions shifted by 4,000, in angles of several precisions. And a whole transformer, all positions shifted.

# %%
q, k = normal(2, 500, 64, seed=3)
ANGLE_TYPES = {"float64": torch.float64, "float32": torch.float32, "bfloat16": torch.bfloat16}


def score_at(m, n, dtype):
    frequencies = rope_frequencies(64).to(dtype)
    a, b = ((torch.tensor([float(p)], dtype=dtype) * frequencies).double() for p in (m, n))
    return (rotate(q, a.cos(), a.sin(), "half") * rotate(k, b.cos(), b.sin(), "half")).sum(-1)


moved = {n: (score_at(4010, 4003, t) - score_at(10, 3, t)).abs().max().item() for n, t in ANGLE_TYPES.items()}
small = ModelConfig(vocab_size=50, width=32, n_layers=2, n_heads=2, context=64, init_std=0.3)
model, ids = Transformer(small, generator=torch.Generator().manual_seed(1)).double(), torch.arange(20)[None]
whole = (model(ids) - model(ids, positions=torch.arange(20) + 1000)).abs().max().item()
claims.judge(
    "C04.03",
    confirmed=moved["float64"] < 1e-9 and whole < 1e-2,
    evidence={f"score moved by, {name} angles": round(value, 9) for name, value in moved.items()}
    | {"logits of a transformer moved by": round(whole, 5), "spread of its logits": model(ids).std().item()},
    note="In the mathematics. In bfloat16 angles the position leaks through rounding, so angles are kept in float32.",
)

# %% [markdown]
# ## 4. Two layouts, one rotation
#
# Which columns make a pair? The paper says neighbours: (0, 1), (2, 3), ... Most released checkpoints say: column $i$ and
# column $i + d/2$. Choose the layout and look at where the partners stand. The numbers on the arcs are the angles.

# %%
LAYOUTS = {"neighbours": [(2 * i, 2 * i + 1) for i in range(4)], "half": [(i, i + 4) for i in range(4)]}
figures.interactive(
    lambda layout, position: pictures.paired_columns(layout, position * rope_frequencies(8, 100.0)),
    alt=lambda layout, position: f"Eight columns in pairs {layout}; arcs show the angles at position {position}",
    layout=LAYOUTS,
    position=(0, 20, 3),
)
unit = torch.eye(8)[:1]
partner = {}
for name in ("interleaved", "half"):
    out = positions.apply_rope(unit, torch.tensor([1]), rope_frequencies(8), layout=name)[0]
    partner[name] = int(out[1:].abs().argmax()) + 1
print("column 0 is turned into column", partner)

# %% [markdown]
# **Claim C04.12: RoPE rotates adjacent pairs.** If the layouts are the same rotation in another order, then reordering the
# rows of $W_q$ and $W_k$ once must give the same scores. And **not** reordering must give nonsense.

# %%
x, w_q, w_k = normal(30, 24, seed=4), normal(32, 24, seed=5), normal(32, 24, seed=6)


def head_scores(w_q, w_k, layout, heads=2):
    q, k = ((x @ w.T).unflatten(-1, (heads, -1)).transpose(0, 1) for w in (w_q, w_k))
    angles = torch.arange(30).double()[:, None] * rope_frequencies(16).double()
    return rotate(q, angles.cos(), angles.sin(), layout) @ rotate(k, angles.cos(), angles.sin(), layout).mT


want = head_scores(w_q, w_k, "half")
reordered = head_scores(positions.half_to_interleaved(w_q, 2), positions.half_to_interleaved(w_k, 2), "interleaved")
careless = head_scores(w_q, w_k, "interleaved")
off = {"rows reordered": (reordered - want).abs().max().item(), "not reordered": (careless - want).abs().mean().item()}
claims.judge(
    "C04.12",
    confirmed=partner["interleaved"] == 1 and off["rows reordered"] < 1e-9,
    refuted=partner["half"] != 1 and off["not reordered"] > 0.1,
    evidence={f"partner of column 0 of 8, {name}": column for name, column in partner.items()}
    | {f"scores off by, {name}": round(value, 9) for name, value in off.items()}
    | {"spread of the scores": want.std().item()},
    on="the layout: interleaved pairs are neighbours, half-split pairs are d/2 apart; they differ by a permutation of rows",
)

# %% [markdown]
# A checkpoint under the wrong layout loads without an error and talks nonsense. Now you know where to look.
#
# ## 5. Does a score fade with distance?
#
# For one pair the score is a cosine of the distance: it comes back after each turn. Over many pairs the cosines fall out of
# step. Predict: a key that is **equal** to the query, 1,000 tokens away. Is the score near 0? And what if the key has
# nothing to do with the query?
#
# **Claim C04.04: RoPE dot products decay with distance, oscillating rather than reaching zero.**

# %%
DISTANCES, HEAD = torch.arange(0, 2001), 64


@functools.cache
def fading(kind, base):
    """Mean score and its spread over 400 pairs of a query and a key, at each distance, with |q| = |k| = sqrt(d)."""
    q, k = normal(2, 400, HEAD, seed=7)
    if kind == "key equals query":
        k = q
    elif kind == "key resembles query":
        k = (q + k) / 2**0.5
    z = torch.complex(q[:, ::2], q[:, 1::2]) * torch.complex(k[:, ::2], k[:, 1::2]).conj()
    angles = DISTANCES[:, None].double() * rope_frequencies(HEAD, base).double()
    scores = (torch.polar(torch.ones_like(angles), angles) @ z.T).real / HEAD**0.5
    return scores.mean(1), scores.std(1), scores.abs().mean(1)


KINDS = ("key equals query", "key resembles query", "key is unrelated")


def draw_fading(base, log_distance):
    curves = {kind: fading(kind, base)[0] for kind in KINDS}
    spreads = {kind: fading(kind, base)[1] for kind in KINDS[2:]}
    look = {"ylabel": "q·k / sqrt(d)", "title": f"base {base:,}", "log_distance": log_distance, "limits": (-3, 9)}
    return pictures.score_against_distance(DISTANCES, curves, spreads=spreads, **look)


figures.interactive(
    draw_fading,
    alt=lambda base, log_distance: (
        f"Scores by distance, base {base:,}: equal keys fall and oscillate, others stay at 0"
    ),
    base=figures.Steps([100, 1_000, 10_000, 500_000, 100_000_000], default=10_000),
    log_distance=True,
)
equal, unrelated = fading(KINDS[0], 10_000)[0], fading(KINDS[2], 10_000)[2]
near, far = equal[1].item(), equal[500:].mean().item()
print(f"equal key: {equal[0]:.1f} at distance 0, {near:.1f} at 1, {equal[100]:.1f} at 100, {equal[1000]:.1f} at 1000")

# %%
turnings = int((equal[500:].diff().sign().diff() != 0).sum())
steady = unrelated[500:].mean().item() / unrelated[:50].mean().item()
claims.judge(
    "C04.04",
    confirmed=far < 0.5 * near and turnings > 100,
    refuted=abs(steady - 1) < 0.1,
    evidence={"equal key, mean score at distance 1, 100, beyond 500": [near, equal[100].item(), far]}
    | {"lowest and highest beyond 500": [equal[500:].min().item(), equal[500:].max().item()]}
    | {"ups and downs beyond 500": turnings, "unrelated key, mean |score| beyond 500 over that below 50": steady},
    on="q and k: for keys like the query the mean score falls and oscillates; for unrelated keys its size is the same at any distance",
    note="It crosses 0 now and then and does not stay there: the slow pairs have hardly turned. A model can use either kind.",
)

# %% [markdown]
# ## 6. Wavelengths and the base
#
# Pair $i$ needs $\lambda_i = 2\pi\, b^{2i/d}$ tokens for one turn. A larger base $b$ makes the slow pairs slower. Look at the
# phases of all pairs. The top rows flicker (every eighth token is drawn, too few for them), the bottom ones hardly change
# colour. Hatched: pairs that had not gone round once within the 2,048 tokens of training. To the right of the line they
# show phases that the model never saw.

# %%
figures.interactive(
    lambda base: pictures.phase_map(
        range(0, 4096, 8), rope_frequencies(64, base), trained=2048, title=f"base {base:,}"
    ),
    alt=lambda base: f"Phases of 32 pairs over 4,096 tokens at base {base:,}: fast stripes on top, slow bands below",
    base=figures.Steps([100, 1_000, 10_000, 500_000, 100_000_000], default=10_000),
)
short_of_a_turn = {
    base: int((rope_frequencies(64, base) * 2048 < 2 * math.pi).sum()) for base in (100, 10_000, 500_000)
}
print("of 32 pairs, not once round in 2,048 tokens, by base:", short_of_a_turn)

# %% [markdown]
# So is a huge base the answer? Then hardly any pair would leave its arc.
#
# **Claim C04.08: a base that is too large makes neighbours' rotations nearly equal.** We count pairs that turn less than
# 0.01 radians from one token to the next, and ask how much the score of an equal key drops from distance 0 to 1.

# %%
BASES = (100.0, 1e4, 5e5, 1e8)
still = {b: (rope_frequencies(128, b) < 0.01).float().mean().item() for b in BASES}
drop = {b: (1 - rope_frequencies(128, b).cos()).mean().item() for b in BASES}
claims.judge(
    "C04.08",
    confirmed=still[1e8] > 0.7 > 0.6 > still[1e4] and drop[1e8] < 0.6 * drop[1e4],
    evidence={f"base {b:,.0f}: share of pairs that hardly turn, drop of the score": [still[b], drop[b]] for b in BASES},
    note="Nearly, not quite: the first pair turns by 1 radian at any base. A large base moves pairs from telling neighbours "
    "apart to telling far from farther. Long contexts need that; 8,192 tokens do not need 100,000,000.",
)

# %% [markdown]
# ## 7. A model that reads too far
#
# Enough geometry. We train a small transformer on Python's documentation, characters as tokens, **64 at a time**. Two layers,
# two heads of 32 columns, RoPE. Then we let it read up to 384. Beside it we train the same model with ALiBi, without any
# positions, and with RoPE in the first layer only; sections 9 and 10 are about those.
#
# The measure is fair to all lengths: the same 32 characters are forecast, as the end of windows of 64, 96, ... 384. More to
# see should not hurt. Perplexity is $e$ to the mean surprise in nats (chapter 05): at 6 the model is as unsure as among six
# equal characters. **Predict: what does it do beyond 64?** Up, down, or level?

# %%
TRAINED, LENGTHS, FACTOR = 64, (64, 96, 128, 192, 256, 384), 4.0
STEPS, SEEDS, WINDOWS = (1500, range(3), 192) if LARGE else (250, range(1), 72)
docs, V = text.python_documentation(), 64
number = {character: n for n, (character, _) in enumerate(Counter(docs).most_common(V - 1))}
ids = torch.tensor([number.get(character, V - 1) for character in docs])
learned, unseen = ids[: len(ids) * 9 // 10], ids[len(ids) * 9 // 10 :]


def windows(source, count, length, generator):
    starts = torch.randint(len(source) - length, (count,), generator=generator)
    return source[starts[:, None] + torch.arange(length + 1)]


def train(model, steps, length, rows, peak, seed):
    """The model after `steps` steps of AdamW on windows of `length` characters, the learning rate falling to a tenth."""
    generator = torch.Generator().manual_seed(seed)
    adam = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.95), weight_decay=0.01, fused=True)
    for step in range(steps):
        adam.param_groups[0]["lr"] = peak * min(1.0, (step + 1) / 20) * (1 - 0.9 * step / steps)
        batch = windows(learned, rows, length, generator)
        loss = F.cross_entropy(model(batch[:, :-1]).flatten(0, 1), batch[:, 1:].flatten())
        adam.zero_grad()
        loss.backward()
        adam.step()
    return model


@torch.no_grad()
def surprise(model):
    """For each length the mean nats at the same last 32 characters, one number for each window of unseen text."""
    batch = windows(unseen, WINDOWS, max(LENGTHS), torch.Generator().manual_seed(99))
    seen = {length: batch[:, -length - 1 :] for length in LENGTHS}
    last = {n: (model(b[:, :-1])[:, -32:].transpose(1, 2), b[:, -32:]) for n, b in seen.items()}
    return {n: F.cross_entropy(*pair, reduction="none").mean(1) for n, pair in last.items()}


MODELS = {"RoPE": {}, "ALiBi": {"position": "alibi"}, "no positions": {"position": "none"}}
MODELS["RoPE, then none"] = {"nope_layers": (1,)}
SIZES = ModelConfig(vocab_size=V, context=TRAINED, width=64, n_layers=2, n_heads=2, ffn="gelu_tanh", ffn_width=128)
trained = {}
for kind, difference in MODELS.items():
    config = replace(SIZES, **difference)
    fresh = [Transformer(config, generator=torch.Generator().manual_seed(seed)) for seed in SEEDS]
    trained[kind] = [train(model, STEPS, TRAINED, 16, 4e-3, seed) for model, seed in zip(fresh, SEEDS)]


# %%
def over_seeds(models):
    """Windows of all seeds side by side, for each length."""
    each = [surprise(model) for model in models]
    return {length: torch.cat([one[length] for one in each]) for length in LENGTHS}


def perplexities(nats):
    return [math.exp(nats[length].mean()) for length in LENGTHS]


nats = {kind: over_seeds(models) for kind, models in trained.items()}
curve = {kind: perplexities(values) for kind, values in nats.items()}
print("in sight      ", "".join(f"{length:7d}" for length in LENGTHS))
print("RoPE          ", "".join(f"{value:7.2f}" for value in curve["RoPE"]))

# %% [markdown]
# Up. The model was never asked to ignore what it does not understand. It sees angles of its slow pairs that it never saw,
# believes them, and gets worse with every token that should have helped.
#
# ## 8. Reading further without new angles
#
# **Position interpolation** divides all positions by the factor, here 4: token 256 stands where token 64 stood. Dividing
# positions is dividing frequencies.
#
# **Claim C04.05: dividing each θ by k extends the context k times.** First the angles: is there one beyond the trained range?
# Then the perplexity, as the model is, and after 100 more steps at 256 characters.


# %%
@torch.no_grad()
def scaled(model, scaling):
    """The same weights under another scaling of RoPE."""
    copy = Transformer(replace(model.config, rope_scaling=scaling))
    copy.load_state_dict(model.state_dict())
    return copy


LONG = int(FACTOR * TRAINED)
interpolation = RopeScaling(kind="linear", factor=FACTOR)
squeezed = rope_angles(positions.position_interpolation(torch.arange(LONG), TRAINED, LONG), 32)
divided = torch.arange(LONG)[:, None] * rope_frequencies(32, scaling=interpolation)
nats["interpolation"] = over_seeds([scaled(model, interpolation) for model in trained["RoPE"]])
tuned = [train(scaled(m, interpolation), 100, LONG, 4, 1e-3, seed=100 + s) for m, s in zip(trained["RoPE"], SEEDS)]
nats["interpolation, tuned"] = over_seeds(tuned)
curve = {kind: perplexities(values) for kind, values in nats.items()}
at = {length: place for place, length in enumerate(LENGTHS)}
home, as_it_is, after = curve["RoPE"][0], curve["interpolation"][at[256]], curve["interpolation, tuned"][at[256]]
claims.judge(
    "C04.05",
    confirmed=squeezed.max() < TRAINED and (squeezed - divided).abs().max() < 1e-4 and after < 1.2 * home,
    refuted=as_it_is > 1.2 * home,
    evidence={"largest angle of 256 positions, interpolated and plain": [squeezed.max().item(), LONG - 1.0]}
    | {"perplexity at 64, plain": home, "at 256, plain": curve["RoPE"][at[256]]}
    | {"at 256, interpolated": as_it_is, "at 256, interpolated and tuned for 100 steps": after},
    on="whether the model is trained on: all angles are in range at once, but neighbours stand four times closer than the model learned",
)

# %% [markdown]
# Position interpolation is level beyond 64, and bad everywhere, until the model gets used to it. It slowed down the fast
# pairs too, and those tell neighbours apart.
#
# **NTK-aware scaling** raises the base instead, to $b' = b \cdot k^{d/(d-2)}$.
#
# **Claim C04.06: NTK-aware base λ = k^(d/(d−2)) extrapolates high frequencies and interpolates low ones.** Divide the new
# wavelengths by the old ones. A pair that is left alone shows 1, one that is interpolated in full shows $k$.


# %%
def stretch(scaling, dim=128, base=10_000.0):
    return (rope_frequencies(dim, base) / rope_frequencies(dim, base, scaling)).tolist()


ratios = stretch(RopeScaling(kind="ntk", factor=8.0))
claims.judge(
    "C04.06",
    confirmed=abs(ratios[0] - 1) < 1e-4 and abs(ratios[-1] - 8) < 1e-3 and ratios == sorted(ratios),
    evidence={"new base for k = 8, d = 128": positions.ntk_base(10_000.0, 8.0, 128)}
    | {"new wavelength / old, pairs 0, 16, 32, 48, 63": [ratios[pair] for pair in (0, 16, 32, 48, 63)]},
    note="In between it does neither in full. Pairs that should be left alone are slowed, and pairs that should be divided by "
    "8 are divided by less, so some angles still run out of range.",
)

# %% [markdown]
# **YaRN** asks each pair how often it went round in training. Many times: leave it alone. Not once: interpolate in full. In
# between: blend. Choose a scaling and read the picture: which pairs lie **above** the solid line (never went round), and
# are they lifted by the full factor? Which pairs below it are lifted although they need not be?
#
# **Dynamic** scaling is NTK with the factor that the present text needs: nothing changes as long as the text is short.


# %%
def scaling_of(kind, factor, length, fast=32.0, temperature=None):
    if kind == "dynamic":
        return RopeScaling(kind="dynamic", factor=1.0, original_context=length)
    more = {"original_context": length, "beta_fast": fast, "ramp": "turns", "attention_factor": temperature}
    return RopeScaling(kind=kind, factor=factor, **(more if kind == "yarn" else {}))


METHODS = {"interpolation": "linear", "NTK-aware": "ntk", "YaRN": "yarn"}


def draw_spectrum(shown, factor, base):
    waves = {"plain RoPE": 2 * math.pi / rope_frequencies(64, base)}
    for name in shown:
        waves[name] = 2 * math.pi / rope_frequencies(64, base, scaling_of(METHODS[name], factor, 2048))
    return pictures.wavelength_spectrum(waves, trained=2048, target=2048 * factor, title=f"base {base:,}")


figures.interactive(
    draw_spectrum,
    alt=lambda shown, factor, base: f"Wavelengths, plain and {', '.join(shown)}, factor {factor:g}, base {base:,}",
    shown={"all three": (*METHODS,)} | {name: (name,) for name in METHODS},
    factor=figures.Steps([1.0, 2.0, 4.0, 8.0, 16.0], default=8.0),
    base=figures.Steps([1_000, 10_000, 500_000], default=10_000),
)
for name, kind in METHODS.items():
    print(f"{name:13s} slower by", *(f"{ratio:6.2f}" for ratio in stretch(scaling_of(kind, 8.0, 2048), 64)[::5]))

# %% [markdown]
# Back to our model. Its texts are so short that no pair turned 32 times, so we call a pair fast from 4 turns on. YaRN has a
# second part: more keys blur the attention, so queries and keys are multiplied by a **temperature** above 1.
#
# **Claim C04.07: YaRN's temperature sqrt(1/t) = 0.1 ln s + 1 lowers perplexity at long range.** We compare the same windows
# with and without it. The noise is known: the standard error of the differences over windows.

# %%
VARIANTS = {
    "NTK-aware": scaling_of("ntk", FACTOR, TRAINED),
    "dynamic": scaling_of("dynamic", FACTOR, TRAINED),
    "YaRN, no temperature": scaling_of("yarn", FACTOR, TRAINED, fast=4.0, temperature=1.0),
    "YaRN": scaling_of("yarn", FACTOR, TRAINED, fast=4.0),
}
nats |= {name: over_seeds([scaled(model, s) for model in trained["RoPE"]]) for name, s in VARIANTS.items()}
curve = {kind: perplexities(values) for kind, values in nats.items()}
gain = {length: nats["YaRN, no temperature"][length] - nats["YaRN"][length] for length in LENGTHS}
error = {length: (difference.std() / len(difference) ** 0.5).item() for length, difference in gain.items()}
gain = {length: difference.mean().item() for length, difference in gain.items()}
claims.judge(
    "C04.07",
    confirmed=gain[256] > 2 * error[256] and gain[384] > 2 * error[384],
    evidence={f"nats gained at {n}, and standard error": [gain[n], error[n]] for n in (64, 128, 256, 384)}
    | {"perplexity at 256, without and with": [curve[name][at[256]] for name in ("YaRN, no temperature", "YaRN")]}
    | {"the temperature at factor 4": positions.yarn_temperature(FACTOR)},
    note="A small gain that grows with the length, and it costs nothing: cosines and sines are multiplied once.",
)

# %%
GROUPS = {
    "scalings of RoPE": ("RoPE", "interpolation", "NTK-aware", "dynamic", "YaRN, no temperature", "YaRN"),
    "kinds of positions": ("RoPE", "ALiBi", "no positions", "RoPE, then none"),
    "the best of each": ("RoPE", "interpolation, tuned", "YaRN", "ALiBi"),
}


def draw_perplexity(show, at_length):
    chosen = {name: curve[name] for name in GROUPS[show]}
    return pictures.perplexity_by_length(LENGTHS, chosen, trained=TRAINED, marked=at_length, title=show)


figures.interactive(
    draw_perplexity,
    alt=lambda show, at_length: f"Perplexity against tokens in sight, {show}; {at_length} tokens marked, trained on 64",
    show=list(GROUPS),
    at_length=figures.Steps(list(LENGTHS), default=256),
)
for name, values in curve.items():
    print(f"{name:21s}", "".join(f"{value:7.2f}" for value in values))

# %% [markdown]
# Read the table row by row, from 64 to 256. Plain RoPE rises. Interpolation is level, at a high price. NTK pays little at 64
# and rises later: its slow pairs run out of range after all. Dynamic pays nothing at 64. YaRN rises least of those that keep
# the fast pairs. At 384, six times the trained length, a factor of 4 has run out.
#
# ## 9. ALiBi: a penalty instead
#
# ALiBi turns nothing and adds nothing to the embeddings. It takes $m_h \cdot |i - j|$ off each score, with a slope of its own
# in each head. Slide the number of heads. How far does the steepest head see, how far the flattest?


# %%
def draw_heads(heads):
    weights = torch.softmax(positions.alibi_bias(heads, 1, 512)[:, 0], dim=-1).flip(-1)
    labels = [f"slope 1/{1 / slope:g}" for slope in positions.alibi_slopes(heads).tolist()]
    return pictures.head_weights(weights, labels, title=f"number of heads: {heads}, all keys alike")


figures.interactive(
    draw_heads,
    alt=lambda heads: (
        f"Attention weight by distance in {heads} ALiBi heads: steep ones fade in tokens, flat ones in hundreds"
    ),
    heads=(1, 8, 6),
)
print("slopes of 6 heads:", positions.alibi_slopes(6).tolist())

# %% [markdown]
# A head with slope $m$ forgets within some $5/m$ tokens, whatever stands there. That is why ALiBi does not break at new
# distances: it hardly sees them.
#
# **Claim C04.09: ALiBi extrapolates stably but loses to RoPE inside long contexts.**

# %%
rows = {name: dict(zip(LENGTHS, curve[name])) for name in ("ALiBi", "RoPE", "YaRN")}
alibi, rope, yarn = rows.values()
rise = alibi[384] / alibi[64]
claims.judge(
    "C04.09",
    confirmed=rise < min(1.05, rope[384] / rope[64]) and alibi[64] > 1.05 * rope[64] and alibi[256] > 1.05 * yarn[256],
    evidence={f"{name} at 64, 256, 384": [row[n] for n in (64, 256, 384)] for name, row in rows.items()}
    | {"ALiBi at 384 / at 64, and plain RoPE": [rise, rope[384] / rope[64]]},
    note="In this experiment: a small model, trained briefly, on text where near characters matter most. The lead of unscaled "
    "RoPE shrinks with every token beyond the trained length; compare the last numbers.",
)

# %% [markdown]
# ## 10. No positions at all, and a mixture
#
# Section 1 said that a causal model can count without being told. The row "no positions" shows what that is worth here: the
# worst perplexity of the four trained kinds, and only a slow rise. Nothing runs out of range, but attention gets blurred.
#
# **iRoPE** (Llama 4) interleaves: RoPE in most layers, for near things, and no positions in every fourth, for content that
# may be anywhere. The row "RoPE, then none" is the smallest model of that kind. Compare it with RoPE at 64 and at 384.
#
# ## 11. Windows: how far does news travel?
#
# Many models look at a window only, in most layers. Mistral 7B: 4,096 tokens, 32 layers.
#
# **Claim C04.11: a sliding window W over L layers reaches about W·L tokens back (4096·32 ≈ 131K).** Slide, and count: in
# layer 1 the last token hears the window. In layer 2 it hears tokens that heard their windows.


# %%
def reach(window, layers, tokens=130):
    """Row l: which tokens the last position can hear of after l + 1 layers. `window` counts tokens before the query."""
    distance = torch.arange(tokens)[:, None] - torch.arange(tokens)[None, :]
    sees, heard, rows = ((distance >= 0) & (distance <= window)).double(), torch.eye(tokens).double(), []
    for _ in range(layers):
        heard = (sees @ heard > 0).double()
        rows.append(heard[-1] > 0)
    return torch.stack(rows)


figures.interactive(
    lambda window, layers: pictures.reach_by_layer(
        reach(window, layers), window=window, title=f"{window} tokens back a layer"
    ),
    alt=lambda window, layers: (
        f"Tokens that the last one hears of through {layers} layers of {window} tokens back each"
    ),
    window=(1, 16, 8),
    layers=(1, 8, 6),
)
print("4096 * 32 =", 4096 * 32)

# %% [markdown]
# It **can** hear. Does it? We ask for the gradient of the last output with respect to each input of a transformer with
# windows of 8: how much would a small change there be noticed?


# %%
def influence(window, layers, tokens=100):
    """Mean norm of the last output's gradient at each input embedding, nearest first, over 8 texts."""
    config = ModelConfig(
        vocab_size=50, width=64, n_layers=layers, n_heads=4, context=tokens, window=window, init_std=0.1
    )
    model, held = Transformer(config, generator=torch.Generator().manual_seed(5)), []
    model.embedding.register_forward_hook(lambda module, inputs, output: held.append(output))
    ids = torch.randint(50, (8, tokens), generator=torch.Generator().manual_seed(6))
    output = model.hidden(ids)[:, -1]
    probe = torch.randn(output.shape, generator=torch.Generator().manual_seed(7))
    return torch.autograd.grad((output * probe).sum(), held[0])[0].norm(dim=-1).mean(0).flip(0)


felt = {layers: influence(8, layers) for layers in (1, 2, 4, 8)}
farthest = {layers: int((norms > 0).nonzero().max()) for layers, norms in felt.items()}
beyond_half = {n: (norms[4 * n + 1 :].sum() / norms[1:].sum()).item() for n, norms in felt.items()}
claims.judge(
    "C04.11",
    confirmed=all(distance == 8 * layers for layers, distance in farthest.items()),
    refuted=beyond_half[8] < 0.05,
    evidence={"farthest token with any gradient, by layers (window 8)": [f"{n}: {d}" for n, d in farthest.items()]}
    | {f"share of the gradient beyond half the reach, layers: {n}": share for n, share in beyond_half.items()},
    on="reach or use: the receptive field is exactly W·L, but what arrives from its far half is a tiny share of all influence",
    note="An untrained model: paths of many hops are few, and each hop averages. Training can strengthen some paths, not all.",
)

# %% [markdown]
# ## What we found

# %%
for claim_number in range(1, 13):
    claim = claims.recorded()[f"C04.{claim_number:02d}"]
    print(f"{claim.id}  {claim.verdict:10s} {claim.text[:96]}")

# %% [markdown]
# ## Check yourself
#
# <details><summary>1. A head has 128 columns and base 10,000. How many tokens does its slowest pair need for one turn?</summary>
# The exponent of the last pair is 126/128, so 2π · 10000^(126/128) = 54,410 tokens.</details>
#
# <details><summary>2. You load a checkpoint; the logits look plausible for the first token, then it babbles. What first?</summary>
# The layout. At position 0 nothing turns, so the first token is right under both.</details>
#
# <details><summary>3. Why are values not turned?</summary>
# Only the score compares two positions. A turned value would carry its absolute position into the sum.</details>
#
# <details><summary>4. Why does position interpolation hurt on short texts, and dynamic scaling not?</summary>
# Interpolation slows all pairs, always. Dynamic scaling slows nothing while the text fits, but a pair's angle then changes as
# the text grows, so keys that were cached under the old angles no longer fit.</details>
#
# <details><summary>5. Which pairs does YaRN divide by the full factor, and why exactly those?</summary>
# Those that did not go round once in training: beyond it they would show phases that were never seen.</details>
#
# <details><summary>6. Why must the angles be float32 in a bfloat16 model?</summary>
# bfloat16 keeps 8 significant bits: positions 4,000 and 4,001 are the same number there.</details>
#
# ## Further reading
# - Attention Is All You Need (sinusoids), arXiv:1706.03762; RoFormer (RoPE), arXiv:2104.09864
# - Extending Context Window via Positional Interpolation, arXiv:2306.15595; YaRN, arXiv:2309.00071
# - Base of RoPE Bounds Context Length, arXiv:2405.14591; Round and Round We Go! (what RoPE's pairs do), arXiv:2410.06205
# - Train Short, Test Long (ALiBi), arXiv:2108.12409
# - The Impact of Positional Encoding on Length Generalization (NoPE), arXiv:2305.19466
# - Transformer Language Models without Positional Encodings Still Learn Positional Information, arXiv:2203.16634
# - Mistral 7B (sliding windows), arXiv:2310.06825; The Llama 3 Herd of Models, arXiv:2407.21783
#
# Next: the assignment. You will write all of this yourself, and be told within a second when it is wrong.
