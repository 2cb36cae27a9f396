# %% [markdown]
# # 05 KL and entropy: surprise, and the distance between beliefs
# *Time: 120 minutes. Builds on: 01_tokenizer_unicode (tokens), 02_attention_scaling (softmax), gradients.*
#
# A language model is trained by one number: how surprised it was. The same number says how good it is, how well it
# compresses, how far it has drifted from another model. This lesson takes that number apart.
#
# After this lesson you can
# - measure surprise in bits and nats, and say what entropy, cross-entropy and KL are as lengths of codes;
# - tell forward from reverse KL by the fits that they make, and say which one a training method minimises;
# - estimate KL from samples in three ways, and know what each estimate costs;
# - write the loss of a language model with its shift, its mask and its mean, and say whom the mean listens to;
# - keep logits in range, probabilities honest, and a loss finite.
#
# Fourteen claims from study notes are tested on the way. Each gets a cell that computes its verdict.

# %% tags=["parameters"]
SCALE = "quick"  # "quick" under a minute, "full" for a patient CPU, "gpu" the same as "full" here

# %%
import functools
import math
from collections import Counter

import torch
from torch import nn
from torch.nn.functional import normalize, one_hot

from llmcore import claims, figures, text
from llmcore import information as info
from llmcore.figures import information as pictures
from llmcore.tokenizer import BPETokenizer

torch.set_num_threads(1)
torch.set_default_dtype(torch.float64)  # so that what we compare is not rounding
LARGE = SCALE != "quick"


def noise(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def rounded(x, digits=2):
    return [round(v, digits) + 0.0 for v in x.tolist()]


# %% [markdown]
# ## 1. Predict first
#
# A friend draws a letter: A half of the time, B a quarter, C and D an eighth each. You ask yes-no questions until you
# know the letter. Write down three numbers, then run the cell.
#
# 1. How many questions do you need on average, if you ask as cleverly as you can?
# 2. Somebody believes that all four letters are equally likely and asks accordingly. How many does he need?
# 3. Somebody has the table upside down (A and B an eighth, C a quarter, D half). How many does she need?

# %%
p = torch.tensor([1 / 2, 1 / 4, 1 / 8, 1 / 8])
for name, q in {"knows": p, "thinks all are equal": torch.full((4,), 1 / 4), "has it upside down": p.flip(0)}.items():
    print(f"{name:21s} {-(p * q.log2()).sum():.3f} questions on average")

# %% [markdown]
# Who knows the table asks "is it A?" first, then "is it B?". A costs 1 question, B 2, C and D 3 each: 1.75 on average.
# The other two ask about the wrong things first. They pay 0.25 and 0.875 questions more **for their beliefs**. The first
# number is an entropy, the others are cross-entropies, the surplus is KL. That is the whole chapter.

# %% [markdown]
# ## 2. Surprise, and its mean
#
# What should the surprise $s(p)$ at an event of probability $p$ be? Two wishes are enough.
#
# 1. What is certain does not surprise: $s(1) = 0$.
# 2. Surprises at independent events add: $s(p \cdot q) = s(p) + s(q)$.
#
# Only a logarithm turns products into sums: $s(p) = -\log p$. To base 2 the unit is the **bit**, one fair yes-no question.
# To base $e$ it is the **nat**, and 1 nat is 1.4427 bits. Training uses nats, because derivatives of $\ln$ are clean.
# **Entropy** is the mean surprise of somebody who knows the probabilities:
#
# $$H(p) = -\sum_i p_i \log p_i$$
#
# Bits are also lengths. A code gives each letter a word of 0s and 1s. Words can only be told apart in a stream if
# $\sum_i 2^{-\ell_i} \le 1$ (Kraft): a word of length 1 uses up half of all codes, one of length 2 a quarter.
#
# Play: start from 2 bits for each letter. Can you reach 1.75 on average? What does the left title say if you are greedy?

# %%
figures.interactive(
    lambda **bits: pictures.code_lengths(p, [*bits.values()], names="ABCD"),
    alt=lambda **bits: f"Codes of {[*bits.values()]} bits for A, B, C, D; their average beside the entropy, 1.75 bits",
    **dict.fromkeys("ABCD", (1, 5, 2)),
)
print(f"entropy {info.entropy(p):.3f} bits; lengths 1, 2, 3, 3 average {p @ torch.tensor([1.0, 2, 3, 3]):.3f}")

# %% [markdown]
# The best length of a word is the surprise at its letter, $-\log_2 p$. Now real letters. Predict: with 96 symbols a
# thoughtless code takes $\log_2 96 = 6.58$ bits. How many does Python's documentation need, if you know the frequency of
# each character? And if you also see the character before?

# %%
docs = text.python_documentation()
V = 96  # the 95 commonest characters, and one symbol for all others
number = {character: n for n, (character, _) in enumerate(Counter(docs).most_common(V - 1))}


def frequencies(ids, vocab=V):
    return torch.bincount(ids, minlength=vocab) / len(ids)


ids = torch.tensor([number.get(character, V - 1) for character in docs])
alone, of_pairs = info.entropy(frequencies(ids)), info.entropy(frequencies(ids[:-1] * V + ids[1:], V * V))
print(f"one character: {alone:.2f} bits; given the one before: {of_pairs - alone:.2f} bits")

# %% [markdown]
# A model that sees more context gets lower. Where it ends nobody knows; good models stand below 1 bit for a character.
#
# ## 3. The price of a wrong belief
#
# Letters come from $p$. You believe $q$ and so use the lengths $-\log q_i$. Your mean length is the **cross-entropy**. The
# surplus over the entropy is the **Kullback-Leibler divergence**:
#
# $$H(p, q) = -\sum_i p_i \log q_i \qquad \mathrm{KL}(p\,\|\,q) = \sum_i p_i \log\frac{p_i}{q_i}$$
#
# It is never negative. Since $\ln x \le x - 1$: $-\mathrm{KL} = \sum p_i \ln\frac{q_i}{p_i} \le \sum p_i\left(\frac{q_i}{p_i} - 1\right) \le 1 - 1 = 0$,
# with equality only where $q_i = p_i$ everywhere.
#
# **Claim C05.01: H(P,Q) = H(P) + KL(P‖Q).** One line of algebra says so. Here it is on real letters (the documentation,
# coded with the frequencies of Python's sources) and on a thousand random pairs.

# %%
code_ids = torch.tensor([number.get(character, V - 1) for character in text.standard_library_sources(300_000)])
p_docs, q_code = frequencies(ids), frequencies(torch.cat([code_ids, torch.arange(V)]))  # no symbol has probability 0
entropy_bits, cross_bits = info.entropy(p_docs).item(), -(p_docs * q_code.log2()).sum().item()
kl_bits = info.kl_divergence(p_docs.log(), q_code.log()).item() / math.log(2)
a, b = torch.log_softmax(2 * noise(2, 1000, 50, seed=1), -1)
off = (-(a.exp() * b).sum(-1) - info.entropy(a.exp(), base=math.e) - info.kl_divergence(a, b)).abs().max().item()
claims.judge(
    "C05.01",
    confirmed=abs(cross_bits - entropy_bits - kl_bits) < 1e-9 and off < 1e-9,
    evidence={"H(docs), KL(docs || code), H(docs, code), in bits": [entropy_bits, kl_bits, cross_bits]}
    | {"largest difference over 1,000 random pairs": round(off, 9)},
)

# %% [markdown]
# ## 4. Two directions
#
# KL is no distance: its directions differ. Predict: $p$ is a fair coin, $q$ always shows heads. Which KL is infinite?

# %%
fair, heads = torch.tensor([0.5, 0.5]).log(), torch.tensor([1.0, 0.0]).log()
for name, (a, b) in {"KL(fair || heads)": (fair, heads), "KL(heads || fair)": (heads, fair)}.items():
    print(name, "=", round(info.kl_divergence(a, b).item(), 3))

# %% [markdown]
# Who believes in heads only is ruined by the first tails. Who believes in a fair coin loses 1 bit (0.693 nats) a throw.
# So forward KL(p‖q) punishes $q$ for **missing** what $p$ does, reverse KL(q‖p) punishes it for **doing** what $p$ does not.
#
# What that means for learning: $p$ has two bumps, $q$ is one bell. Gradient descent on the bell's mean and width minimises
# one direction or the other. Press play. Then change the direction, and move the bumps together.
#
# **Claim C05.03: reverse KL seeks a mode, forward KL covers mass.** The cell after the picture asks how much of $p$ lies
# within two widths of each fit.

# %%
x, SPACING = torch.linspace(-9, 9, 721), 18 / 720


def log_bell(mean, width):
    return torch.log_softmax(-0.5 * ((x - mean) / width) ** 2, -1)  # probabilities of the points of the grid


def two_bumps(distance):
    return torch.logaddexp(log_bell(-distance / 2, 0.5) + math.log(0.6), log_bell(distance / 2, 0.5) + math.log(0.4))


@functools.cache
def descend(distance, direction, start):
    """Mean, width, forward and reverse divergence after each step."""
    log_p, rows = two_bumps(distance), []
    mean, log_width = torch.tensor(start).requires_grad_(), torch.tensor(0.0).requires_grad_()
    optimizer = torch.optim.Adam([mean, log_width], lr=0.12)
    for _ in range(61):
        log_q = log_bell(mean, log_width.exp())
        both = {"forward": info.kl_divergence(log_p, log_q), "reverse": info.kl_divergence(log_q, log_p)}
        rows.append(torch.stack([mean, log_width.exp(), *both.values()]).detach())
        optimizer.zero_grad()
        both[direction].backward()
        optimizer.step()
    return torch.stack(rows)


WAYS = {
    "forward, KL(p || q)": ("forward", 1.0),
    "reverse, KL(q || p)": ("reverse", 1.0),
    "reverse, from the left": ("reverse", -1.0),  # direction, and where the bell starts
}


def draw_fit(step, minimise, distance):
    mean, width, *_ = descend(distance, *minimise)[step].tolist()
    p, q = two_bumps(distance).exp() / SPACING, log_bell(mean, width).exp() / SPACING
    curves = dict(zip(("forward", "reverse"), descend(distance, *minimise)[:, 2:].T))
    title = f"mean {mean:.2f}, width {width:.2f}"
    return pictures.fitted_bell(x, p, q, curves, step=step, minimised=minimise[0], title=title)


figures.interactive(
    draw_fit,
    alt=lambda step, minimise, distance: f"Two bumps {distance:g} apart and a bell, step {step} on {minimise[0]} KL",
    play="step",
    step=(0, 60, 60),
    minimise=WAYS,
    distance=figures.Steps([1.0, 2.0, 3.0, 4.0, 5.0], default=4.0),
)
fits = {name: descend(4.0, *way)[-1, :2].tolist() for name, way in WAYS.items()}
print({name: f"mean {mean:.2f}, width {width:.2f}" for name, (mean, width) in fits.items()})

# %%
covered = [two_bumps(4.0).exp()[(x - m).abs() < 2 * width].sum().item() for m, width in fits.values()]
at_modes = [abs(abs(m) - 2) < 0.2 and abs(width - 0.5) < 0.1 for m, width in fits.values()]
widths = {way: [descend(float(d), way, 1.0)[-1, 1].item() for d in range(1, 6)] for way in ("forward", "reverse")}
claims.judge(
    "C05.03",
    confirmed=covered[0] > 0.9 and at_modes == [False, True, True],
    evidence={f"covered, {name}": share for name, share in zip(WAYS, covered)}
    | {f"width of the {way} fit at distance 1 to 5": values for way, values in widths.items()},
    note="The bumps are 0.5 wide. Reverse KL takes the bump that it reaches first, even the smaller one. But it needs a valley "
    "to avoid: up to a distance of 3, six widths, the same start ends in a bell over both bumps.",
)

# %% [markdown]
# Which direction does training minimise? Ordinary training draws text from the data $p$ and measures the surprise of the
# model $q$: that is $H(p, q)$. The data's entropy does not depend on the model, so the gradient is that of forward KL. In
# reinforcement learning the **model** draws. The entropy is then the model's own, and leaving it out changes the goal.
#
# **Claim C05.05: minimising cross-entropy equals minimising KL when the data are fixed, and not when the model samples.**
# Predict: a model over six outcomes minimises $H(q, p)$, samples from itself. What does it become?

# %%
log_p = torch.log_softmax(noise(6, seed=5), -1)
OBJECTIVES = {
    "H(p, q)": lambda log_q: -(log_p.exp() * log_q).sum(),
    "KL(p || q)": lambda log_q: info.kl_divergence(log_p, log_q),
    "H(q, p)": lambda log_q: -(log_q.exp() * log_p).sum(),
    "KL(q || p)": lambda log_q: info.kl_divergence(log_q, log_p),
}
slope, ending = {}, {}
for name, objective in OBJECTIVES.items():
    logits = noise(6, seed=6).requires_grad_()
    for _ in range(400):
        gradient = torch.autograd.grad(objective(torch.log_softmax(logits, -1)), logits)[0]
        slope.setdefault(name, gradient)  # the first one
        logits = (logits - gradient).requires_grad_()
    ending[name] = torch.softmax(logits.detach(), -1)
    print(f"{name:10s} ends at", rounded(ending[name]))
print(f"{'p':18s}", rounded(log_p.exp()))

# %%
slopes = torch.stack([*slope.values()])
fixed, sampled = (slopes[::2] - slopes[1::2]).norm(dim=1).tolist()  # H(p, q) and KL(p || q); H(q, p) and KL(q || p)
claims.judge(
    "C05.05",
    confirmed=fixed < 1e-9 and sampled > 0.01,
    evidence={"gradients differ by, data fixed": round(fixed, 9), "gradients differ by, model samples": sampled}
    | {f"entropy where {name} ends": info.entropy(ending[name], math.e) for name in ("KL(q || p)", "H(q, p)")},
    note="Without its own entropy the model bets all on one outcome. That is why RL needs a KL or an entropy term.",
)

# %% [markdown]
# ## 5. Bells, and where KL misleads
#
# For two normal distributions the divergence has a closed form (exercise 5). Shifted bells of equal width $\sigma$ have
# $\mathrm{KL} = (\mu_0-\mu_1)^2 / 2\sigma^2$: it measures shifts **in widths**.
#
# **Claim C05.02: for N(0, 0.001) and N(0.01, 0.001) KL is about 50 while the distance between them is about 0.01.** The
# notes do not say what 0.001 is. The distance is Wasserstein's: how far must the mass be carried? Sort both samples,
# pair them, average.

# %%
zero, shift = torch.tensor([0.0, 0.01])
KINDS = {"a standard deviation": torch.tensor(1e-6), "a variance": torch.tensor(1e-3)}
kl_of = {kind: info.gaussian_kl(zero, var, shift, var).item() for kind, var in KINDS.items()}
a, b = noise(2, 20_000, seed=2)
w1_of = {kind: info.wasserstein_1d(var.sqrt() * a, shift + var.sqrt() * b).item() for kind, var in KINDS.items()}
claims.judge(
    "C05.02",
    confirmed=abs(kl_of["a standard deviation"] - 50) < 1,
    refuted=abs(kl_of["a variance"] - 50) > 1,
    evidence={f"KL and W1 if 0.001 is {kind}": [kl_of[kind], round(w1_of[kind], 4)] for kind in KINDS},
    on="what 0.001 is: as the standard deviation KL is 50, as the variance (the usual reading of N) it is 0.05",
)

# %% [markdown]
# The point of the claim stands: the narrower the bells, the larger KL, while the mass is always carried 0.01.
# **Jensen-Shannon** compares both with their mixture and is never above $\ln 2$, but once the bells are apart it is flat
# there: no gradient to follow. Only W1 still says how far.

# %%
still = log_bell(0.0, 0.5)
for carried in (0.5, 2.0, 6.0):
    moved = log_bell(carried, 0.5)
    w1, js = SPACING * (moved.exp() - still.exp()).cumsum(0).abs().sum(), info.js_divergence(still, moved)
    print(f"shift {carried}: W1 {w1:.2f}   JS {js:.4f}   KL {info.kl_divergence(still, moved):.2f}")

# %% [markdown]
# ## 6. Estimating KL from samples
#
# Nobody can sum over all answers of a language model. We can draw $x$ from $p$ and look at $d = \ln p(x) - \ln q(x)$. With
# $r = q(x)/p(x) = e^{-d}$ there are three estimates of KL(p‖q):
#
# $$k_1 = d \qquad k_2 = \tfrac12 d^2 \qquad k_3 = r - 1 - \ln r = e^{-d} - 1 + d$$
#
# $k_1$ is right on average by definition, and negative for many samples. $k_2$ is never negative. $k_3$ adds to $k_1$ the
# term $r - 1$, whose mean is $\sum p\,\frac{q}{p} - 1 = 0$: still right on average, and never negative because
# $\ln r \le r - 1$. Here are bells whose divergence we know exactly, and 100,000 samples each.
#
# **Claim C05.04: the squared log-ratio is never negative and has lower variance, but is biased.** Look at the right
# picture before you read the verdict. Where do the lines cross?

# %%
samples = noise(400_000 if LARGE else 100_000, seed=3)
EXACT = torch.tensor([0.01, 0.03, 0.1, 0.3, 1.0, 2.0])
CASES = {  # means and variances of q; p is N(0, 1)
    "q is shifted": ((2 * EXACT).sqrt(), torch.ones(6)),
    "q is wider": (torch.zeros(6), torch.tensor([1.25, 1.5, 2.0, 4.0, 10.0, 40.0])),
    "q is narrower": (torch.zeros(6), torch.tensor([0.85, 0.75, 0.6, 0.45, 0.28, 0.18])),
}


@functools.cache
def study(case):
    """Exact KL(p || q) for each q of a case, then mean and spread of each estimate from samples of p."""
    mean, var = (values[:, None] for values in CASES[case])
    log_q = -0.5 * ((samples - mean) ** 2 / var + torch.log(2 * math.pi * var))
    estimates = info.kl_estimates(-0.5 * (samples**2 + math.log(2 * math.pi)), log_q)
    exact = info.gaussian_kl(torch.zeros(6), torch.ones(6), *CASES[case])
    return exact, {k: e.mean(1) for k, e in estimates.items()}, {k: e.std(1) for k, e in estimates.items()}


figures.interactive(
    lambda case, mark_nats: pictures.estimator_curves(*study(case), marked=mark_nats, title=case),
    alt=lambda case, mark_nats: f"Mean and spread of k1, k2, k3 over the exact KL, {case}; {mark_nats} nats marked",
    case=list(CASES),
    mark_nats=figures.Steps(EXACT.tolist(), default=0.1),
)
_, means, spreads = study("q is shifted")
for n in (0, 2, 4):
    print(f"exact {EXACT[n]:.2f}:", {k: f"{means[k][n]:.3f} +- {spreads[k][n]:.2f}" for k in means})

# %%
claims.judge(
    "C05.04",
    confirmed=spreads["k2"][0] < spreads["k1"][0] and means["k2"][5] - 2 > 10 * spreads["k2"][5] / len(samples) ** 0.5,
    refuted=spreads["k2"][5] > spreads["k1"][5],
    evidence={f"spread of {k} at KL 0.01, 0.1, 2": spreads[k][[0, 2, 5]].tolist() for k in spreads}
    | {"means of k1, k2, k3 at KL 2": [round(mean[5].item(), 2) for mean in means.values()]},
    on="how far apart the two are: never negative and biased always, but of lower variance, for a shifted q, only below 0.6 nats",
    note="k3 is unbiased, never negative, and at small divergences as steady as k2. But choose 'q is wider' in the picture: "
    "where q is much wider than p, k3 has no finite variance, and the mean of 100,000 samples still comes out too small.",
)

# %% [markdown]
# One more trap. A good estimate of the value need not give a good **gradient** when it is used as a loss, because the
# samples depend on the model too. Let the model $q$ draw, as in reinforcement learning. Six outcomes can be summed exactly.
# The first line is the true gradient. Which of $k_1$, $k_2$, $k_3$ gives it?

# %%
theta = noise(6, seed=8).requires_grad_()
log_q = torch.log_softmax(theta, -1)  # q is the model
drawn = log_q.exp().detach()  # how often each outcome is drawn: a loss on drawn samples does not see theta here
losses = {"KL(q || p)": info.kl_divergence(log_q, log_p), "KL(p || q)": info.kl_divergence(log_p, log_q)}
losses |= {f"mean of {k}": (drawn * e).sum() for k, e in info.kl_estimates(log_q, log_p).items()}
for name, value in losses.items():
    print(f"gradient of {name:10s}", rounded(torch.autograd.grad(value, theta, retain_graph=True)[0], 3))

# %% [markdown]
# $k_1$ as a loss pushes nowhere: its mean gradient is 0. $k_2$ is right. $k_3$ pushes along the **other** direction's
# gradient. Chapter 07 meets this again in GRPO.
#
# ## 7. From logits to probabilities
#
# $\mathrm{softmax}(z)_i = e^{z_i} / Z$ with $Z = \sum_j e^{z_j}$, and so $-\ln \mathrm{softmax}(z)_t = \ln Z - z_t$.
#
# **Claim C05.09: the log-sum-exp shift removes overflow.** $\ln \sum e^{z_j} = m + \ln \sum e^{z_j - m}$ for any $m$; with
# $m$ the maximum no exponent is above 0. Predict what the naive formula gives for logits near 300, and near -300.

# %%
rows, wobble = {}, torch.tensor([0.0, 0.5, -1.0, 0.25])
for middle in (3.0, 300.0, -300.0, 30_000.0):
    z = (wobble + middle).float()
    shifted = z.max() + (z - z.max()).exp().sum().log()
    rows[middle] = [z.exp().sum().log().item(), shifted.item(), middle + wobble.exp().sum().log().item()]
claims.judge(
    "C05.09",
    confirmed=any(math.isinf(naive) for naive, _, _ in rows.values())
    and all(math.isclose(shifted, true, rel_tol=1e-6) for _, shifted, true in rows.values()),
    evidence={f"logits near {middle:g}: naive, shifted, exact": row for middle, row in rows.items()},
)

# %% [markdown]
# The shift saves the sum, not the logits. bfloat16 keeps 8 significant bits, so its grid is coarse where numbers are large.
#
# **Claim C05.12: logits beyond about 200 in bf16 collapse distinct values into one.** Count the values on the grid.

# %%
low_ends, two = (2.0, 20.0, 200.0, 2000.0), torch.tensor([200.0, 200.4])
grid = {low: len(torch.linspace(low, low + 7.999, 100_000).bfloat16().unique()) / 8 for low in low_ends}
claims.judge(
    "C05.12",
    confirmed=bool(two.bfloat16()[0] == two.bfloat16()[1]) and grid[200.0] < 1.5 < 4 < grid[20.0],
    evidence={f"bf16 values for each unit at {low:g}": n for low, n in grid.items()}
    | {"softmax of 200 and 200.4": rounded(two.softmax(0)), "from bf16": rounded(two.bfloat16().double().softmax(0))},
    note="A step of 1 is a factor of 2.7 in probability. Keep logits small (z-loss, soft-capping) or in float32.",
)

# %% [markdown]
# **Temperature.** Take the character that follows two given ones in the documentation, and slide.
#
# **Claim C05.06: temperature divides the softmax output.** If it did, what would the probabilities sum to at temperature 2?
#
# **Claim C05.07: temperature → 0 is greedy, → ∞ is uniform.**


# %%
@functools.cache
def next_characters(pair):  # the nine commonest, and the logarithms of their counts
    counts = Counter(docs[at + 2] for at in range(len(docs) - 2) if docs.startswith(pair, at)).most_common(9)
    return ["space" if c == " " else c for c, _ in counts], torch.tensor([float(n) for _, n in counts]).log()


def draw_temperature(temperature, pair):
    names, z = next_characters(pair)
    return pictures.temperature_bars(names, z.softmax(-1), torch.softmax(z / temperature, -1), temperature=temperature)


figures.interactive(
    draw_temperature,
    alt=lambda temperature, pair: f"Probabilities of characters after '{pair}' at temperatures {temperature:g} and 1",
    temperature=figures.Steps([0.1, 0.2, 0.5, 0.7, 1.0, 1.5, 2.0, 5.0, 20.0], default=0.5),
    pair={f"after '{pair}'": pair for pair in ("in", " a", "th")},
)
z = next_characters("in")[1]
print({t: round(info.entropy(torch.softmax(z / t, -1)).item(), 2) for t in (0.1, 0.5, 1.0, 2.0, 20.0)}, "bits")

# %%
right, wrong = torch.softmax(z / 2, -1), torch.softmax(z, -1) / 2
claims.judge(
    "C05.06",
    confirmed=torch.allclose(right, wrong, atol=1e-3),
    evidence={"sum of softmax(z) / 2 and of softmax(z / 2)": [wrong.sum().item(), right.sum().item()]},
    note="It divides the logits. The divided output is no distribution, and normalising it undoes the division.",
)

# %%
cold, hot = torch.softmax(z / 1e-3, -1), torch.softmax(z / 1e4, -1)
tie = torch.softmax(torch.tensor([2.0, 2.0, 1.0]) / 1e-3, -1)
claims.judge(
    "C05.07",
    confirmed=cold[z.argmax()] > 0.999 and (hot - 1 / len(hot)).abs().max() < 1e-3,
    evidence={"largest probability at T = 0.001": cold.max().item(), "logits 2, 2, 1 at T = 0.001": tie.tolist()}
    | {"largest and smallest at T = 10,000": [hot.max().item(), hot.min().item()]},
    note="A tie is shared, not broken. T = 0 itself is a division by 0: samplers take the argmax.",
)

# %% [markdown]
# ## 8. The loss of a language model
#
# Position $t$ forecasts token $t + 1$. So logits lose their last position and ids their first. With padding, a pair counts
# when both ends are real. Here are two sequences, the second padded on the right. The model knows nothing: every counted
# token costs $\ln 5$, and a wrong mask would still give $\ln 5$. Predict which of three losses change when the model becomes
# sure of the **padding**.

# %%
rows, real = torch.tensor([[3, 1, 4, 1], [2, 0, 0, 0]]), torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
clueless, sure_of_padding = torch.zeros(2, 2, 4, 5)
sure_of_padding[1, 1:, 0] = 8.0
for name, z in {"clueless": clueless, "sure of padding": sure_of_padding}.items():
    losses = info.lm_loss(z, rows, real), info.lm_loss(z, rows), info.cross_entropy(z, rows)
    print("{:16s} masked {:.3f}   no mask {:.3f}   no shift {:.3f}".format(name, *losses))

# %% [markdown]
# Only the masked loss is not fooled. Padding is easy to learn, and a loss that counts it looks better every day.
#
# **The mean matters too.** Three answers, one of them long. Token mean: one sum over all tokens, divided by their number.
# Sample mean: average each answer, then the answers. A third rule divides by a constant (batch times greatest length).
# Slide the length. Whom does each rule listen to?
#
# **Claim C05.13: token-mean over the batch weights long samples more than sample-mean does.**

# %%
RULES = {
    "token mean": lambda nll, real: (nll * real).sum() / real.sum(),
    "sample mean": lambda nll, real: ((nll * real).sum(1) / real.sum(1)).mean(),
    "constant divisor": lambda nll, real: (nll * real).sum() / real.numel(),
}


def token_weights(rule, length):
    """What each token's surprise adds to the loss (the rule's gradient) for answers of length, 6 and 3; NaN on padding."""
    real = torch.arange(40) < torch.tensor([length, 6, 3])[:, None]
    nll = torch.ones(3, 40, requires_grad=True)
    return torch.where(real, torch.autograd.grad(RULES[rule](nll, real), nll)[0], math.nan)


figures.interactive(
    lambda rule, length: pictures.averaging_weights(token_weights(rule, length), largest=1 / 9, title=rule),
    alt=lambda rule, length: f"Weights of tokens and shares of answers of {length}, 6 and 3 tokens under the {rule}",
    rule=list(RULES),
    length=(3, 40, 30),
)
shares = {rule: rounded(token_weights(rule, 30).nansum(1)) for rule in RULES}
print(shares)

# %%
claims.judge(
    "C05.13",
    confirmed=shares["token mean"][0] > shares["sample mean"][0] + 0.1,
    evidence={f"shares of answers of 30, 6, 3 tokens, {rule}": share for rule, share in shares.items()}
    | {"weight of one token in each, sample mean": token_weights("sample mean", 30)[:, 0].tolist()},
    note="The other side: under the sample mean one token of the shortest answer weighs ten times one of the longest.",
)

# %% [markdown]
# ## 9. Perplexity and bits per byte
#
# $e^{\text{mean nats}}$ is the **perplexity**: the number of equal choices that would surprise as much. It belongs to one
# tokenizer. A model with longer tokens makes fewer, harder forecasts. Spread over the bytes of the text, surprises can
# be compared. We count pairs of neighbours under three vocabularies and forecast new text. Predict: which perplexity is the
# largest, and which vocabulary compresses best?

# %%
train_text, new_text = docs[:300_000], docs[-60_000:]
large = BPETokenizer.train([train_text], vocab_size=1024)


def pair_model_nats(learned, new, vocab, prior=30.0):
    """Surprise at `new` in nats, from counts of neighbours in `learned`, each token backed by `prior` counts of single ones."""
    single = (torch.bincount(learned, minlength=vocab) + 1) / (len(learned) + vocab)
    counts = torch.bincount(learned[:-1] * vocab + learned[1:], minlength=vocab**2).reshape(vocab, vocab)
    forecast = (counts + prior * single) / (counts.sum(1, keepdim=True) + prior)
    return -forecast[new[:-1], new[1:]].log().sum().item()


for size in (256, 512, 1024):
    tokenizer = BPETokenizer.from_merges({i: t for i, t in large.vocab.items() if i < size}, large.merges[: size - 256])
    learned, new = (torch.tensor(tokenizer.encode(sample)) for sample in (train_text, new_text))
    nats = pair_model_nats(learned, new, size)
    perplexity, bits = info.perplexity(nats, len(new) - 1), info.bits_per_byte(nats, len(new_text.encode()))
    print(f"{size:5d} tokens: perplexity {perplexity:5.1f}, {bits:.2f} bits per byte")

# %% [markdown]
# The larger vocabulary has the worst perplexity and the best compression. Never compare perplexities across tokenizers.
#
# ## 10. A small model, and three ways to change its loss
#
# Now we train. A network reads four characters and forecasts the fifth: an embedding, one hidden layer, 96 logits. It gets
# only 8,000 characters, so it will learn them by heart and become **over-confident**. The loss is a parameter.

# %%
NUM_STEPS = 2000 if LARGE else 500
windows = ids.unfold(0, 5, 1)  # four characters and the one to forecast
learned, unseen, truth = windows[:8_000], windows[100_000:108_000, :-1], windows[100_000:108_000, -1]


def train(loss_of):
    """Logits on unseen text, and (step, mean, spread) of log Z during training with loss_of(logits, targets)."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(V, 12), nn.Flatten(), nn.Linear(48, 64), nn.ReLU(), nn.Linear(64, V)).float()
    optimizer = torch.optim.AdamW(model.parameters(), lr=8e-3, weight_decay=0.0)
    history = []
    for step in range(NUM_STEPS + 1):
        rows = learned[torch.randint(len(learned), (128,))]
        logits = model(rows[:, :-1])
        if step % (NUM_STEPS // 10) == 0:
            log_z = torch.logsumexp(logits.detach(), -1)
            history.append((step, log_z.mean().item(), log_z.std().item()))
        optimizer.zero_grad()
        loss_of(logits, rows[:, -1]).backward()
        optimizer.step()
    return model(unseen).detach(), history


# %%
LOSSES = {
    "plain": info.cross_entropy,
    "smoothing 0.1": lambda z, t: info.label_smoothed_cross_entropy(z, t, 0.1),
    "smoothing 0.3": lambda z, t: info.label_smoothed_cross_entropy(z, t, 0.3),
    "z-loss 0.01": lambda z, t: info.cross_entropy(z, t) + info.z_loss(z, 0.01),
    "squared error": lambda z, t: (z.softmax(-1) - one_hot(t, V)).square().sum(-1).mean(),
}
runs = {name: train(loss_of) for name, loss_of in LOSSES.items()}
sure = {name: logits.softmax(-1).amax(-1) for name, (logits, _) in runs.items()}
right = {name: (logits.argmax(-1) == truth).double() for name, (logits, _) in runs.items()}
surprise = {name: info.cross_entropy(logits, truth).item() for name, (logits, _) in runs.items()}
for n in runs:
    print(f"{n:14s} sure {sure[n].mean():.2f}, right {right[n].mean():.2f}; surprise {surprise[n]:.2f} nats")

# %% [markdown]
# All are right about equally often. The plain model is far more sure than it is right. **Label smoothing** asks for $1 - \epsilon$
# on the target and $\epsilon / V$ on every class. The logits need not run to infinity any more.
#
# **Claim C05.08: label smoothing lowers over-confidence.** Over-confidence is mean confidence less accuracy.

# %%
figures.interactive(
    lambda loss: pictures.reliability(sure[loss], right[loss], title=f"trained with loss: {loss}"),
    alt=lambda loss: f"Share right against confidence on unseen text, trained with {loss}; the diagonal is honest",
    loss=["plain", "smoothing 0.1", "smoothing 0.3", "squared error"],
)
very = sure["plain"] > 0.5
print(f"plain, where over 50 % sure: {sure['plain'][very].mean():.0%} sure, {right['plain'][very].mean():.0%} right")

# %%
excess = {name: (sure[name] - right[name]).mean().item() for name in ("plain", "smoothing 0.1", "smoothing 0.3")}
claims.judge(
    "C05.08",
    confirmed=abs(excess["smoothing 0.1"]) < 0.7 * excess["plain"],
    evidence={f"confidence less accuracy, {name}": round(value, 2) for name, value in excess.items()},
    note="Too much of it goes past the goal: with smoothing 0.3 the model is less sure than it is right.",
)

# %% [markdown]
# **z-loss.** Cross-entropy does not see a constant added to all logits, so nothing holds $\ln Z$ in place. The z-loss adds
# $c\,(\ln Z)^2$. Before you look: at the start the logits are near 0. What is $\ln Z$ then, with 96 symbols?
#
# **Claim C05.10: z-loss pulls log Z toward 0 and steadies the output softmax.** Steady means two things here: $\ln Z$ varies
# less from position to position, and rounding the logits to bf16 moves the probabilities less.

# %%
steps, means, spreads = ({name: [row[n] for row in history] for name, (_, history) in runs.items()} for n in range(3))
figures.interactive(
    lambda show, step: pictures.normaliser_curves(steps["plain"], {n: means[n] for n in show}, spreads, marked=step),
    alt="Log Z over training: the plain run starts at 4.6 and drifts up while its band widens; with z-loss it falls to 0",
    show={"z-loss": ("plain", "z-loss 0.01"), "smoothing": ("plain", "smoothing 0.1", "smoothing 0.3")},
    step=(0, NUM_STEPS, NUM_STEPS, NUM_STEPS // 10),
)
for name in ("plain", "z-loss 0.01"):
    print(f"{name:12s} log Z from {means[name][0]:.2f} to {means[name][-1]:.2f} +- {spreads[name][-1]:.2f}")

# %%
steady = {}
for name in ("plain", "z-loss 0.01"):
    z = runs[name][0]
    log_z, moved = torch.logsumexp(z, -1), (z.bfloat16().float().softmax(-1) - z.softmax(-1)).abs().sum(-1)
    steady[name] = [log_z.mean().item(), log_z.std().item(), moved.mean().item(), surprise[name]]
plain, with_z = steady.values()
measures = ("mean log Z", "spread of log Z", "probability moved by rounding to bf16", "surprise at unseen text")
claims.judge(
    "C05.10",
    confirmed=abs(with_z[0]) < 0.3 * abs(plain[0]) and with_z[1] < plain[1] and with_z[2] < plain[2],
    evidence={f"{m}, plain and with z-loss": [round(a, 4), round(b, 4)] for m, a, b in zip(measures, plain, with_z)},
    note="Here c = 0.01, because the run is short. PaLM used 1e-4 over hundreds of thousands of steps.",
)

# %% [markdown]
# **Claim C05.14: squared error is the wrong loss for classification.** Two tests. First: the model is sure and wrong, by a
# margin of $m$ logits. How hard does each loss push? Second: how often is the model above right that never saw another loss?

# %%
push = {}
for name in ("plain", "squared error"):
    for margin in (0.0, 5.0, 10.0, 20.0):
        z = (margin * one_hot(torch.tensor([7]), V)).requires_grad_()  # sure of symbol 7; the truth is 3
        push.setdefault(name, []).append(torch.autograd.grad(LOSSES[name](z, torch.tensor([3])), z)[0].norm().item())
claims.judge(
    "C05.14",
    confirmed=push["squared error"][3] < 1e-3 * push["plain"][3],
    refuted=right["squared error"].mean() > right["plain"].mean() - 0.03,
    evidence={f"gradient at margin 0, 5, 10, 20, {name}": norms for name, norms in push.items()}
    | {f"accuracy and surprise, {n}": [round(right[n].mean().item(), 2), round(surprise[n], 2)] for n in push},
    on="where training stands: a sure and wrong answer gets no push from squared error; from small first logits it "
    "learns to classify as well, but its probabilities are worse",
)

# %% [markdown]
# ## 11. InfoNCE: choose your partner
#
# Row $i$ of the queries belongs to row $i$ of the keys. Each query must pick its key among all keys of the batch, by cosine
# over temperature $\tau$. The gradient pushes each wrong key away in proportion to the probability that it takes.
#
# **Claim C05.11: InfoNCE is cross-entropy over one positive and the batch's negatives, and a small τ makes it hunt hard
# negatives.** Of 63 negatives, what share of the push goes to the 3 nearest?

# %%
queries = noise(64, 24, seed=11)
keys = queries + 0.8 * noise(64, 24, seed=12)
cosine = normalize(queries, dim=-1) @ normalize(keys, dim=-1).T
differ = (info.info_nce(queries, keys, 0.07) - info.cross_entropy(cosine / 0.07, torch.arange(64))).abs().item()
hard_share = {}
for tau in (1.0, 0.2, 0.07, 0.02):
    negatives = torch.softmax(cosine / tau, -1).fill_diagonal_(0.0)
    hard_share[tau] = (negatives.topk(3).values.sum(-1) / negatives.sum(-1)).mean().item()
claims.judge(
    "C05.11",
    confirmed=differ < 1e-9 and hard_share[0.02] > 2 * hard_share[1.0],
    evidence={"InfoNCE less cross-entropy": round(differ, 9), "3 of 63, if all were pushed alike": 3 / 63}
    | {f"share of the 3 hardest at tau {tau:g}": share for tau, share in hard_share.items()},
)

# %% [markdown]
# ## 12. Distillation, and sampling with a gradient
#
# **Distillation** trains a small model on a large one's whole forecast, softened by $T$: $T^2 \cdot \mathrm{KL}$(teacher‖student).
# Why $T^2$? Softened logits differ by $1/T$, and the chain rule brings another $1/T$. Watch the gradient.
#
# **Gumbel-softmax.** Add Gumbel noise to logits and take the largest: an exact sample. Take a softmax instead of the
# largest: nearly a sample, and a gradient flows through it.

# %%
teacher, student = noise(2, 64, V, seed=13).requires_grad_()
for temperature in (1.0, 2.0, 4.0, 8.0):
    norm = torch.autograd.grad(info.distillation_loss(student, teacher, temperature), student)[0].norm()
    print(f"T = {temperature:g}: gradient {norm:.4f} with the factor, {norm / temperature**2:.5f} without")
z = torch.tensor([2.0, 1.0, 0.0])
draws = info.gumbel_softmax(z.expand(20_000, 3), temperature=0.5, generator=torch.Generator().manual_seed(14))
print("softmax:", rounded(z.softmax(-1)), " how often largest:", rounded(frequencies(draws.argmax(-1), 3)))
print("draws at T = 0.5:", *(rounded(row) for row in draws[:3]))

# %% [markdown]
# ## What we found

# %%
for number in range(1, 15):
    claim = claims.recorded()[f"C05.{number:02d}"]
    print(f"{claim.id}  {claim.verdict:10s} {claim.text[:96]}")

# %% [markdown]
# ## Check yourself
#
# <details><summary>1. Your model's loss is 2.77 nats a token. What are its perplexity and its bits a token?</summary>
# e to the power 2.77 is about 16, and 2.77 / 0.693 = 4 bits: as unsure as among 16 equal tokens.</details>
#
# <details><summary>2. A fresh model with 50,257 tokens starts at a loss of 14.2. Is that right?</summary>
# Knowing nothing costs ln 50,257 = 10.8. It is worse than that, so confidently wrong: its first logits are too large.</details>
#
# <details><summary>3. A student is scored by its teacher on text that the student wrote. Which KL, and which danger?</summary>
# Reverse, KL(student‖teacher), as long as the student's own entropy is kept in. It seeks a mode: fluent, less diverse.</details>
#
# <details><summary>4. You change the tokenizer and the perplexity falls from 20 to 12. What do you ask?</summary>
# The bits per byte. Shorter tokens are easier to forecast, and there are more of them.</details>
#
# <details><summary>5. Half of your targets are -100, and you divide by all positions. What happens?</summary>
# The loss and its gradient are half as large, and they change with the share of prompts: a hidden learning rate.</details>
#
# ## Further reading
# - Shannon, A Mathematical Theory of Communication, 1948; Schulman, Approximating KL Divergence, 2020 (joschu.net)
# - Rethinking the Inception Architecture (label smoothing), arXiv:1512.00567; PaLM (z-loss), arXiv:2204.02311
# - On Calibration of Modern Neural Networks, arXiv:1706.04599; When Does Label Smoothing Help?, arXiv:1906.02629
# - Contrastive Predictive Coding (InfoNCE), arXiv:1807.03748; Wasserstein GAN, arXiv:1701.07875
# - Distilling the Knowledge in a Neural Network, arXiv:1503.02531; MiniLLM (reverse KL), arXiv:2306.08543
# - Categorical Reparameterization with Gumbel-Softmax, arXiv:1611.01144; Square Loss vs Cross-Entropy, arXiv:2006.07322
