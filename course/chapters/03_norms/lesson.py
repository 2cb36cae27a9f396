# %% [markdown]
# # 03 Norms: keeping signals in range
# *Time: 120 minutes. Builds on: 02_attention_scaling (blocks, softmax), variances of sums, the chain rule.*
#
# A model is a hundred maps in a row. If each makes its signal a tenth larger, the last one sees numbers 13,780 times as large; if
# each makes it a tenth smaller, nearly nothing. Norms, and the size at which weights start, keep this product near 1.
#
# After this lesson you can
# - choose the standard deviation of any weight matrix, and say what the choice keeps;
# - write LayerNorm, RMSNorm and BatchNorm, say what each averages over, and derive the backward pass of one;
# - say what pre-, post-, double and DeepNorm do to the stream, to gradients, and to the need for a warm-up;
# - tell why an operation that is a thousandth of the arithmetic can cost a tenth of the time.
#
# Fifteen claims from study notes are tested on the way. Each has a cell that computes its verdict from numbers.

# %% tags=["parameters"]
SCALE = "quick"  # "quick" under a minute; "full" and "gpu" go deeper and train longer, on the CPU

# %%
import math
import timeit
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from llmcore import accounting, claims, figures, norms
from llmcore.data.synthetic import stories
from llmcore.figures import norms as pictures
from llmcore.model import PRESETS, ModelConfig, Transformer
from llmcore.model.attention import Scene
from llmcore.optim import AdamW
from llmcore.optim.schedules import constant_schedule

torch.set_num_threads(1)
LARGE = SCALE != "quick"


def normal(*shape, seed, dtype=torch.float64):
    """Independent N(0, 1) numbers from their own seed."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def rms(x):
    """Root mean square of all of x."""
    return x.square().mean().sqrt().item()


# %% [markdown]
# ## 1. Predict first
#
# A vector of 256 numbers of size 1 passes through 100 random matrices. Their entries are drawn with standard deviation
# $1/\sqrt{256}$, 10 % less than that, or 10 % more. **How large are the numbers at the end?** Write down three guesses.

# %%
for factor in (0.9, 1.0, 1.1):
    x = normal(256, seed=1)
    for layer in range(100):
        x = normal(256, 256, seed=layer) @ x * (factor / math.sqrt(256))
    print(f"standard deviation {factor} / sqrt(256): {rms(x):.3g} after 100 layers")

# %% [markdown]
# Ten percent decide between nothing and thousands. In float16 the third run would overflow after 20 more layers.
#
# ## 2. How wide to start
#
# One output is a sum, $y_i = \sum_j w_{ij} x_j$ over `fan_in` terms. With independent weights of mean 0:
#
# 1. One term has variance $E[w^2]\,E[x^2]$.
# 2. Independent variances add: $E[y^2] = \text{fan\_in} \cdot E[w^2]\,E[x^2]$.
# 3. To keep $E[y^2] = E[x^2]$, take $E[w^2] = 1/\text{fan\_in}$. This is **Kaiming** with gain 1.
# 4. The gradient goes back through $w^\top$, a sum over `fan_out`. It wants $1/\text{fan\_out}$. **Xavier** takes the mean of both:
#    $E[w^2] = 2/(\text{fan\_in} + \text{fan\_out})$.
# 5. A ReLU sets half of the square to zero. The gain $\sqrt 2$ brings it back.
#
# **Claim C03.12: Xavier keeps the variance through linear layers; a sigmoid needs 16 times that variance.** Where could 16 come
# from? The sigmoid's slope at 0 is 1/4, and a variance is multiplied by the square of a slope. Predict: for signals of which size
# will that be right?


# %%
def through(activation, scale, gain=1.0, width=128, depth=8):
    """Factor by which the variance changes per layer, from an input of that size, under Xavier's start."""
    x = scale * normal(512, width, seed=2)
    first = x.var().item()
    for layer in range(depth):
        std = norms.init_std("xavier", width, width, gain)
        x = activation(x @ (std * normal(width, width, seed=10 + layer)).T)
    return (x.var().item() / first) ** (1 / depth)


RUNS = {
    "linear": (lambda x: x, 1.0),
    "sigmoid, small signals": (lambda x: x.sigmoid() - 0.5, 0.01),
    "sigmoid, 16 x variance, small signals": (lambda x: x.sigmoid() - 0.5, 0.01, 4.0),
    "sigmoid, 16 x variance, signals of size 1": (lambda x: x.sigmoid() - 0.5, 1.0, 4.0),
    "ReLU": (torch.relu, 1.0),
}
factors = {name: through(*run) for name, run in RUNS.items()}
linear, plain, sixteen, *_ = factors.values()
evidence = {f"variance, factor per layer: {name}": value for name, value in factors.items()}
note = "The slope is 1/4 near 0 only. Signals of size 1 saturate, and shrink in spite of the 16."
holds = all(abs(value - 1) < 0.1 for value in (linear, 16 * plain, sixteen))
claims.judge("C03.12", confirmed=holds, evidence=evidence, note=note)

# %% [markdown]
# Independent entries keep the length of a vector **on average**. An **orthogonal** matrix keeps it exactly: $|Qx| = |x|$ for
# every $x$. **Claim C03.13: orthogonal initialisation keeps norms through a deep linear network.** 200 layers; we follow one
# vector, and the ratio of the largest to the smallest stretch that the whole stack gives to any direction (its condition number).


# %%
def deep_linear(draw, depth, width=48):
    """The product of `depth` matrices made by draw(generator, width)."""
    generator, product = torch.Generator().manual_seed(3), torch.eye(width, dtype=torch.float64)
    for _ in range(depth):
        product = draw(generator, width) @ product
    return product


DRAWS = {
    "Gaussian": lambda generator, w: nn.init.normal_(torch.empty(w, w).double(), 0, w**-0.5, generator=generator),
    "orthogonal": lambda generator, w: nn.init.orthogonal_(torch.empty(w, w).double(), generator=generator),
}
x, evidence = normal(48, seed=4), {}
for name, draw in DRAWS.items():
    evidence[f"{name}: length after 200 layers / before"] = ((deep_linear(draw, 200) @ x).norm() / x.norm()).item()
    evidence[f"{name}: largest / smallest stretch of 5 layers"] = torch.linalg.cond(deep_linear(draw, 5)).item()
kept, even, *_ = list(evidence.values())[2:]
note = "Linear is the word that matters: a ReLU between the layers bends it. And weights leave the start in training."
claims.judge("C03.13", confirmed=abs(kept - 1) < 1e-9 and abs(even - 1) < 1e-9, evidence=evidence, note=note)

# %% [markdown]
# A good start is kept for one step. Then training changes every matrix. So: do not hope for the size, **set** it. That is a norm.
#
# ## 3. What is averaged over what
#
# $$y = \frac{x - \text{mean}}{\sqrt{\text{variance} + \epsilon}} \cdot w + b$$
#
# All norms share this line. They differ in **which numbers share one average**. Turn the cube (samples, tokens, features) and
# switch between norms. The red cell is being normalised, the blue ones are averaged. Which of the norms lets one sample act on
# another? Which lets a later token act on an earlier one?

# %%
BLOCK, RED = (3, 4, 6), (0, 1, 1)
sliders = {"norm": list(pictures.NORM_KINDS), "turn": (-60, 120, -35, 5)}
figures.interactive(
    lambda norm, turn: pictures.averaging_cube(pictures.shared_cells(norm, BLOCK, RED), RED, turn=turn, title=norm),
    alt=lambda norm, turn: f"A cube of 3 samples, 4 tokens, 6 features, turned by {turn}: what {norm} averages over",
    play="turn",
    **sliders,
)
print({kind: int(pictures.shared_cells(kind, BLOCK, RED).sum()) for kind in pictures.NORM_KINDS}, "of 72 numbers")

# %% [markdown]
# **LayerNorm** averages over the features of one token. **RMSNorm** does the same without taking off the mean:
# $y = x / \mathrm{RMS}(x) \cdot w$. **Claim C03.01: it divides by $\sqrt{\sum x^2}$.** If so, vectors of any width would come out
# with length 1. Predict what `torch` does at widths 4 and 1024.

# %%
results = [F.rms_norm(normal(width, seed=width), (width,)) for width in (4, 64, 1024)]
lengths = [y.norm().item() for y in results]
evidence = {"widths": [4, 64, 1024], "length": lengths, "root mean square": [rms(y) for y in results]}
note = "Length sqrt(E), entries of size 1: the mean of squares is under the root, not their sum."
claims.judge("C03.01", confirmed=all(abs(length - 1) < 0.01 for length in lengths), evidence=evidence, note=note)

# %% [markdown]
# **Claim C03.09: LayerNorm depends on no other sample and behaves alike in training and inference.** We change all other samples
# of a batch and look at the first, with torch's own modules, in both modes.


# %%
def change(module, features):
    """How far sample 0 moves when the others are replaced, and when the module goes from train() to eval()."""
    x, other = normal(8, features, seed=5), 5 + 3 * normal(8, features, seed=6)
    other[0] = x[0]
    trained = module.train()(x)[0]
    return [(module(other)[0] - trained).abs().max().item(), (module.eval()(x)[0] - trained).abs().max().item()]


moved = {"LayerNorm": change(nn.LayerNorm(16).double(), 16), "BatchNorm": change(nn.BatchNorm1d(16).double(), 16)}
evidence = {f"{name}: change by other samples, by eval()": values for name, values in moved.items()}
claims.judge("C03.09", confirmed=max(moved["LayerNorm"]) == 0 and min(moved["BatchNorm"]) > 0.1, evidence=evidence)

# %% [markdown]
# **Claim C03.08: BatchNorm is unfit for variable-length text because padding enters its statistics.** A batch of texts is filled
# up to the longest one. The padding's vectors are all alike. The real tokens below are the same every time; only the number of
# padded places changes. A BatchNorm with a mask could leave them out. What would still be wrong with it?

# %%
real = normal(64, 16, seed=7) + 1.0
padding = 3 * normal(1, 16, seed=8)  # one embedding, repeated
unpadded = {}
for name, module in (("BatchNorm", nn.BatchNorm1d(16).double()), ("LayerNorm", nn.LayerNorm(16).double())):
    alone = module(real)
    shifts = [rms(module(torch.cat([real, padding.expand(n, 16)]))[:64] - alone) for n in (16, 64, 192)]
    unpadded[name] = [round(shift, 3) for shift in shifts]
short = nn.BatchNorm1d(16).double()(real[:4])  # masked, but few tokens are left
noisy = rms(short - nn.BatchNorm1d(16).double()(real)[:4])
evidence = {f"{name}: real tokens move by, with 20, 50, 75 % padding": m for name, m in unpadded.items()}
evidence["BatchNorm that masks padding, 4 real tokens left in place of 64"] = noisy
note = "Masking helps against padding, not against small batches, nor against looking at later tokens."
holds = min(unpadded["BatchNorm"]) > 0.1 and max(unpadded["LayerNorm"]) == 0
claims.judge("C03.08", confirmed=holds, evidence=evidence, note=note)

# %% [markdown]
# **Partial RMSNorm.** If features are alike, why look at all of them? Estimate the root mean square from the first $p$ %. **Claim
# C03.10: this estimates the full one.** The mean of $k$ squares of normal numbers has relative error $\sqrt{2/k}$, its root half
# of that: about $1/\sqrt{2k}$. Real activations are not like that: a few features are far larger than the rest. Slide.

# %%
SHARES = [1 / 16, 1 / 8, 1 / 4, 1 / 2, 3 / 4, 1.0]


def partial_errors(width, outlier):
    """Root mean square of the relative error, for alike features and with one feature `outlier` times as large."""
    alike, result = normal(2000, width, seed=9), {}
    loud = alike.clone()
    loud[:, -1] *= outlier
    for name, x in (("all features alike", alike), (f"last feature {outlier} x larger", loud)):
        full = x.square().mean(-1).sqrt()
        part = [x[:, : math.ceil(p * width)].square().mean(-1).sqrt() for p in SHARES]
        result[name] = [rms(estimate / full - 1) for estimate in part]
    return result


sliders = {"width": figures.Steps([64, 256, 768], 256), "outlier": figures.Steps([1, 4, 16, 64], 16)}
figures.interactive(
    lambda width, outlier: pictures.estimate_errors(SHARES, partial_errors(width, outlier), title=f"{width} features"),
    alt="Error of the estimated root mean square against the share of features: falling for alike features, high with an outlier",
    **sliders,
)
print("256 features:", {name: [f"{e:.0%}" for e in errors] for name, errors in partial_errors(256, 16).items()})

# %%
alike, loud = partial_errors(256, 16).values()
on = "p, the width, and whether features are alike: the error is near 1/sqrt(2k) for k alike features, and large with an outlier"
evidence = {"error at p = 6, 12, 25, 50 %, features alike": alike[:4], "with one feature 16 x larger": loud[:4]}
evidence["1/sqrt(2k)"] = [(2 * p * 256) ** -0.5 for p in SHARES[:4]]
claims.judge("C03.10", confirmed=alike[1] < 0.2, refuted=loud[1] > 0.2, on=on, evidence=evidence)

# %% [markdown]
# ## 4. What a norm does to the matrix before it
#
# **Claim C03.11: a norm makes a layer invariant to the scale of its weights.** $\mathrm{norm}(cWx) = \mathrm{norm}(Wx)$. What
# happens to the gradient of $W$, then? The output does not move along $W$, so the gradient is **perpendicular** to $W$; and a $W$
# that is $c$ times as large needs a step $c$ times as large, so the gradient is $c$ times **smaller**. Steps at right angles make
# $W$ longer, and a longer $W$ learns more slowly: a hidden learning-rate schedule, unless weight decay holds it.

# %%
x, target, start = normal(64, 16, seed=10), normal(64, 16, seed=11), normal(16, 16, seed=12)
outputs, gradients, angles = [], [], []
for scale in (1.0, 1000.0):
    weight = (scale * start).requires_grad_()
    outputs.append(norms.layer_norm(x @ weight.T, None, None, eps=0.0))
    gradient = torch.autograd.grad((outputs[-1] - target).square().mean(), weight)[0]
    gradients.append(gradient.norm().item())
    angles.append(((gradient * weight).sum() / gradient.norm() / weight.norm()).item())
same = (outputs[0] - outputs[1]).abs().max().item()
evidence = {
    "output changes by less than 1e-9 when W is multiplied by 1000": same < 1e-9,
    "gradient at W over gradient at 1000 W": gradients[0] / gradients[1],
    "gradient perpendicular to W to 1e-9": max(map(abs, angles)) < 1e-9,
}
note = "With eps = 0. The gain that follows the norm, and a bias before it, still count."
holds = same < 1e-9 and abs(gradients[0] / gradients[1] / 1000 - 1) < 1e-6 and max(map(abs, angles)) < 1e-9
claims.judge("C03.11", confirmed=holds, evidence=evidence, note=note)

# %% [markdown]
# **Weight normalisation** uses the same idea on the weights themselves: $W = g \cdot v/|v|$ for each row, with $g$ learned. The
# signal is not measured at all, so it costs nothing for long inputs, and it promises nothing about their size.
#
# ### Backward through RMSNorm
#
# $\hat x = x/r$ and $r = \sqrt{\frac1E\sum_j x_j^2 + \epsilon}$. You get $g = \partial L/\partial \hat x$.
#
# 1. $r$ depends on every entry: $\partial r/\partial x_j = x_j/(E r) = \hat x_j / E$.
# 2. $\partial \hat x_i/\partial x_j = \delta_{ij}/r - x_i/r^2 \cdot \hat x_j/E = (\delta_{ij} - \hat x_i \hat x_j/E)/r$.
# 3. Multiply by $g_i$ and sum: $\partial L/\partial x = \frac1r\big(g - \hat x \cdot \mathrm{mean}(g\,\hat x)\big)$.
#
# In words: take off the part of $g$ that points along $x$, and divide by the size. A norm never asks for a longer $x$. You will
# write this in exercise 4. Against autograd:

# %%
x, dy, w = normal(5, 12, seed=13).requires_grad_(), normal(5, 12, seed=14), normal(12, seed=15)
by_hand = norms.rms_norm_backward(dy, x.detach(), w)[0]
by_torch = torch.autograd.grad((norms.rms_norm(x, w) * dy).sum(), x)[0]
print(f"largest difference to autograd below 1e-12: {(by_hand - by_torch).abs().max().item() < 1e-12}")
cosine = F.cosine_similarity(by_hand, x, dim=-1).abs().max().item()
print(f"largest cosine between dx and x below 1e-5: {cosine < 1e-5}")

# %% [markdown]
# ## 5. Where the norm stands
#
# | | one step | the stream |
# |---|---|---|
# | post | $x \leftarrow N(x + f(x))$ | normalised again and again |
# | pre | $x \leftarrow x + f(N(x))$ | never touched, only added to |
# | double | $x \leftarrow x + N(f(N(x)))$ | as pre, but each addition has a fixed size |
# | deep | $x \leftarrow N(\alpha x + f(x))$ | as post, but the stream weighs $\alpha > 1$ |
#
# **Claim C03.07: most large models use post-norm (GPT, GLM, T5).** The table is from the models' papers and published code.

# %%
PLACEMENT = {
    "post": "Transformer 2017, GPT-1, BERT, RoBERTa",
    "deep": "GLM-130B",
    "pre": "GPT-2, GPT-3, T5, PaLM, OPT, BLOOM, ChatGLM2, Llama 1 to 3, Mistral, Mixtral, Qwen 1 to 3, DeepSeek-V3",
    "double": "Gemma 2, Gemma 3",
}
families = {style: len(names.split(", ")) for style, names in PLACEMENT.items()}
ours = [sum(config.norm_placement == style for config in PRESETS.values()) for style in PLACEMENT]
evidence = {f"{style}-norm: {names}": families[style] for style, names in PLACEMENT.items()}
evidence["presets of this library: post, deep, pre, double"] = ours
note = "Right for GPT-1 and GLM-130B. GPT-2 moved the norm to the input of each sub-layer; T5 and the rest followed."
holds = families["post"] + families["deep"] > families["pre"] + families["double"]
claims.judge("C03.07", confirmed=holds, evidence=evidence, note=note)

# %% [markdown]
# ### Signals through depth, before any training
#
# We build small Transformers (width 32) and read the stream and the gradient of each layer's weights. The text is a synthetic
# world of short stories, one token a character. `gain` multiplies Xavier's standard deviation; `scaled` divides the two matrices
# that write into the stream by $\sqrt{2L}$, as GPT-2 does for pre-norm.

# %%
TEXT = " ".join(story.text for story in stories(400, seed=0))
LETTERS = sorted(set(TEXT))
IDS = torch.tensor([LETTERS.index(letter) for letter in TEXT])
GUESS = torch.special.entr(torch.bincount(IDS) / len(IDS)).sum().item()  # loss of knowing the letters' frequencies
SMALL = {"vocab_size": len(LETTERS), "context": 32, "width": 32, "n_heads": 2, "position": "learned", "ffn": "relu"}


def text_batch(generator, rows=8):
    """Ids (rows, 32) from random places of the text, and the ids that follow."""
    starts = torch.randint(len(IDS) - 33, (rows, 1), generator=generator)
    window = IDS[starts + torch.arange(33)]
    return window[:, :-1], window[:, 1:]


def fresh_model(placement, depth, gain=1.0, scaled=True, seed=0):
    """A Transformer whose matrices start at gain times Xavier's standard deviation."""
    generator = torch.Generator().manual_seed(seed)
    config = ModelConfig(**SMALL, n_layers=depth, norm_placement=placement, tie_embeddings=False)
    model, beta = Transformer(config, generator), norms.deepnorm_constants(depth)[1]
    for path, module in model.named_modules():
        name = path.rpartition(".")[2]
        if isinstance(module, nn.Linear) and name != "head":
            std = norms.init_std("xavier", module.in_features, module.out_features, gain)
            if scaled and placement in ("pre", "double") and name in ("o_proj", "down_proj"):
                std = norms.residual_init_std(std, depth)
            if placement == "deep" and name in ("v_proj", "o_proj", "up_proj", "down_proj"):
                std *= beta
            nn.init.normal_(module.weight, 0, std, generator=generator)
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, 0, 1, generator=generator)
    return model


def outputs_of(model, ids, endings):
    """What the modules whose paths end so gave while the model read `ids`, in order, and the logits."""
    kept, modules = [], [module for path, module in model.named_modules() if path.endswith(endings)]
    hooks = [module.register_forward_hook(lambda module, args, out: kept.append(out)) for module in modules]
    logits = model(ids)
    for hook in hooks:
        hook.remove()
    return kept, logits


BLOCKS = tuple(f"blocks.{n}" for n in range(99))


def at_start(*arguments, seed=0, **how):
    """Size of the stream, gradient of the weights, and gradient of the stream, by layer."""
    model = fresh_model(*arguments, seed=seed, **how)
    ids, targets = text_batch(torch.Generator().manual_seed(100 + seed))
    states, logits = outputs_of(model, ids, BLOCKS)
    for x in states:
        x.retain_grad()
    F.cross_entropy(logits.flatten(0, 1), targets.flatten()).backward()
    weights = [torch.cat([p.grad.flatten() for p in b.parameters()]).norm().item() for b in model.blocks]
    return [rms(x.detach()) for x in states], weights, [x.grad.norm().item() for x in states]


LIMITS = {"size of the stream (RMS)": (0.3, 30.0), "gradient of weights (last = 1)": (0.05, 20.0)}


def draw_depth(depth, gain, scaled):
    runs = {style: at_start(style, depth, gain, scaled) for style in norms.RESIDUAL_STYLES}
    stream = {style: run[0] for style, run in runs.items()}
    gradient = {style: np.array(run[1]) / run[1][-1] for style, run in runs.items()}
    panels = dict(zip(LIMITS, (stream, gradient)))
    return pictures.signal_by_depth(panels, limits=LIMITS, title=f"{depth} layers, gain {gain:g}")


sliders = {"depth": figures.Steps([4, 8, 12, 24, 36], 24), "gain": figures.Steps([0.3, 0.5, 1.0, 1.5, 2.0], 1.0)}
SIGNALS = (
    "Size of the stream and gradient of the weights by layer for pre, post, double and deep norm, nothing trained."
)
figures.interactive(draw_depth, alt=SIGNALS, slow=True, **sliders, scaled=False)
grown = at_start("pre", 24, 1.0, False)[0]
print(f"pre, 24 layers, not scaled: the stream grows from {grown[0]:.2f} to {grown[-1]:.2f}")

# %% [markdown]
# **Claim C03.05: with pre-norm the gradient norm is nearly independent of depth, with post-norm it decays toward the input.** The
# usual argument: each norm of a post-norm stack divides by $\sqrt{1 + 1} = \sqrt 2$, so 24 of them leave little. But the gradient
# also comes back **twice**, through the stream and through $f$: $(1 + 1)/2 = 1$. Which of the two is right? Predict, then
# measure: first layer over last, five starts, for gradients of the stream and of the weights; with branches as loud as the
# stream, and quieter.

# %%
ARMS = {"pre, 1/sqrt(2L)": ("pre", 24, 1.0, True), "pre, not scaled": ("pre", 24, 1.0, False)}
ARMS |= {"post, Xavier": ("post", 24, 1.0), "post, 0.3 x Xavier": ("post", 24, 0.3)}
first_over_last = {}
for name, arm in ARMS.items():
    runs = [at_start(*arm, seed=seed) for seed in range(5)]
    first_over_last[name] = [float(np.median([run[part][0] / run[part][-1] for run in runs])) for part in (1, 2)]
weights = {name: ratio[0] for name, ratio in first_over_last.items()}
on = "the size of the start: post-norm decays where branches are as loud as the stream, not where they are quiet"
evidence = {f"{name}: first layer / last, weights and stream": ratio for name, ratio in first_over_last.items()}
note = "The gradient of the stream itself hardly decays. Unscaled pre-norm rises toward the input: late layers write into a larger stream."
holds = 0.5 < weights["pre, 1/sqrt(2L)"] < 2 and weights["post, Xavier"] < 0.6
fails = weights["post, 0.3 x Xavier"] > 0.8
claims.judge("C03.05", confirmed=holds, refuted=fails, on=on, evidence=evidence, note=note)

# %% [markdown]
# Why the weights' gradient, if not the stream's? It is a sum over tokens. From Xavier's size, post-norm makes the tokens more alike
# from layer to layer (section 6 measures the worst case), so the terms add up in late layers and hardly do in early ones.
#
# Now look at pre-norm's stream. Each layer reads a normalised copy, so each adds a term of about the same size. The terms are
# nearly independent: after $l$ layers their sum is $\sqrt{l}$ times one of them, and a new one turns it by less and less. Press
# Play. Each arrow has its true length and its true angle to the one before.


# %%
@torch.no_grad()
def plain_states(model):
    """The stream before the first block and after each, on one batch."""
    ids, _ = text_batch(torch.Generator().manual_seed(99))
    return [model.embedding(ids) + model.position_embedding.weight, *outputs_of(model, ids, BLOCKS)[0]]


def walk(placement, depth=16):
    """Size of the stream, the turn that each layer makes (degrees, mean over tokens), and the size of what it adds."""
    states = plain_states(fresh_model(placement, depth, scaled=False))
    pairs = list(pairwise(states))
    turns = [torch.rad2deg(torch.acos(F.cosine_similarity(a, b, dim=-1))).mean().item() for a, b in pairs]
    return [rms(x) for x in states], turns, [rms(b - a) for a, b in pairs]


WALKS = {style: walk(style) for style in ("pre", "post", "deep")}
sliders = {"placement": list(WALKS), "layer": (0, 16, 16)}
figures.interactive(
    lambda placement, layer: pictures.stream_walk(*WALKS[placement][:2], layer, title=f"{placement}-norm, "),
    alt=lambda placement, layer: f"The stream of {placement}-norm up to layer {layer} as arrows; pre turns ever less",
    play="layer",
    **sliders,
)
print("turn in degrees, layers 1, 2, 8, 16:", {n: [round(w[1][i]) for i in (0, 1, 7, 15)] for n, w in WALKS.items()})

# %% [markdown]
# **Claim C03.06: pre-norm adds terms of like size, so depth acts like width.** If a layer hardly turns the stream, the next layer
# reads nearly what it read. Then the two could as well run **side by side**, like one layer of twice the width. We try: two
# neighbours on the same input, against one after the other. How far is the sum of their terms off?


# %%
def side_by_side(placement, first, depth=16):
    """Relative error when blocks `first` and `first + 1` read the same stream."""
    model = fresh_model(placement, depth, scaled=False)
    start, _, after = plain_states(model)[first : first + 3]
    both = sum(model.blocks[first + n](start, Scene()) - start for n in (0, 1))
    return ((both - (after - start)).norm() / (after - start).norm()).item()


sizes, turns, added = WALKS["pre"]
growth = math.log((sizes[16] ** 2 - sizes[0] ** 2) / (sizes[4] ** 2 - sizes[0] ** 2)) / (2 * math.log(16 / 4))
parallel = {style: [side_by_side(style, first) for first in (0, 14)] for style in ("pre", "post")}
evidence = {
    "pre: size of the added term, layers 1, 8, 16": [added[i] for i in (0, 7, 15)],
    "pre: turn in degrees, layers 1, 8, 16": [turns[i] for i in (0, 7, 15)],
    "pre: what was added grows like depth to the power": growth,
} | {f"{style}: error of running layers 1-2, 15-16 side by side": errors for style, errors in parallel.items()}
note = "At the start, without the factor 1/sqrt(2L). Post-norm goes on turning: there depth stays depth."
holds = max(added) < 2 * min(added) and turns[-1] < 0.6 * turns[0] and 0.3 < growth < 0.8
claims.judge("C03.06", confirmed=holds, evidence=evidence, note=note)

# %% [markdown]
# ## 6. Training: who needs a warm-up?
#
# Now these models learn the stories. A **warm-up** raises the learning rate from 0 over the first steps. Adam's first steps have
# full size in every weight, whatever the gradient. In post-norm each of them passes through all the norms that follow.
#
# **Claim C03.04: pre-norm needs no warm-up where post-norm does.** Four layers, learning rate 0.01, all matrices at
# $1/\sqrt{32}$, two seeds. Predict which of the four curves never gets below the black line, the loss of knowing only how
# frequent each letter is.


# %%
def train(placement="pre", depth=4, lr=0.01, steps=100, warmup=0, seed=1, watch=None, **how):
    """The loss of each step; `watch(model)` is called every 20 steps."""
    generator, losses = torch.Generator().manual_seed(seed), []
    how = {"norm": "layer", "init_std": 32**-0.5} | how
    model = Transformer(ModelConfig(**SMALL, n_layers=depth, norm_placement=placement, **how), generator)
    optimizer = AdamW(model.parameters(), lr=lr, betas=(0.9, 0.98), weight_decay=0.0)
    for step in range(1, steps + 1):
        optimizer.param_groups[0]["lr"] = constant_schedule(step, lr, 0.0, warmup, steps)
        ids, targets = text_batch(generator)
        loss = F.cross_entropy(model(ids).flatten(0, 1), targets.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        if watch and step % 20 == 0:
            watch(model)
    return losses


def final(runs, last=20):
    """Mean loss of the last steps of each run, and the median of these."""
    ends = [round(float(np.mean(run[-last:])), 2) for run in np.atleast_2d(runs)]
    return float(np.median(ends)), ends


SEEDS = (1, 2, 3, 4, 5) if LARGE else (1, 2)
warm, models = {}, {}
for name, steps in (("no warm-up", 0), ("warm-up", 60)):
    for placement in ("pre", "post"):
        seen = models[f"{placement}, {name}"] = []
        warm[f"{placement}, {name}"] = [train(placement, warmup=steps, seed=n, watch=seen.append) for n in SEEDS]
ends = {name: final(runs) for name, runs in warm.items()}
others = {"letter frequencies": GUESS, "post, no warm-up, start at 0.06": final(train("post", init_std=0.06))[1]}
evidence = {f"{name}: loss of the last 20 steps by seed": values for name, (_, values) in ends.items()} | others
note = "The last line: a quieter start does for post-norm, at this depth, what the warm-up does."
costs = {p: ends[f"{p}, no warm-up"][0] - ends[f"{p}, warm-up"][0] for p in ("pre", "post")}
holds = costs["pre"] < 0.15 and costs["post"] > 0.3
claims.judge("C03.04", confirmed=holds, evidence=evidence, note=note)

# %%
SHOWN = {"all": list(warm)} | {placement: [n for n in warm if n.startswith(placement)] for placement in ("post", "pre")}
sliders = {"placement": list(SHOWN), "smooth": figures.Steps([1, 3, 5, 10], 5)}
figures.interactive(
    lambda placement, smooth: pictures.loss_curves(
        {name: warm[name] for name in SHOWN[placement]}, smooth=smooth, guess=GUESS, warmup=60, title="four layers"
    ),
    alt="Loss curves: pre-norm falls with and without warm-up; post-norm without one stays at the loss of letter frequencies",
    **sliders,
)
print("loss of the last 20 steps:", {name: round(value, 1) for name, (value, _) in ends.items()})

# %% [markdown]
# What went wrong without the warm-up? There are no infinities. We ask after each layer: which part of the stream still differs from
# token to token?

# %%
for name in ("post, no warm-up", "post, warm-up"):
    states = [x.flatten(0, 1) for x in plain_states(models[name][-1])[1:]]
    differ = [((x - x.mean(0)).square().sum() / x.square().sum()).item() for x in states]
    print(f"{name}, after layers 1 to 4: {[round(share, 2) for share in differ]}")

# %% [markdown]
# All tokens have become one vector. From one vector only one forecast can be made, that of the letter frequencies, and no gradient
# tells the tokens apart again. It is the rank collapse of chapter 02, made by training.
#
# **Claim C03.15: DeepNorm trains far deeper stacks than post-norm.** It multiplies the stream by $\alpha = (2L)^{1/4}$ and starts
# the branches at $\beta = (8L)^{-1/4}$ times Xavier. Both make a branch quiet beside the stream: here by $\beta/\alpha$. So there
# is a question to ask: is it the $\alpha$, or would quiet branches alone have done? A third arm: post-norm that starts at 0.05.

# %%
DEPTH, STEPS = (24, 240) if LARGE else (10, 160)
arms = {"DeepNorm": ("deep", 32**-0.5), "post, Xavier-like": ("post", 32**-0.5), "post, start at 0.05": ("post", 0.05)}
deep = {n: train(p, DEPTH, 0.002, STEPS, STEPS // 4, init_std=std) for n, (p, std) in arms.items()}
reached = {name: final(run)[0] for name, run in deep.items()}
on = "how post-norm starts: from Xavier's size it fails at this depth, from quiet branches it trains as well"
evidence = {f"final loss, {DEPTH} layers, {name}": loss for name, loss in reached.items()} | {"letters": GUESS}
note = "DeepNorm gives the quietness as a formula of the depth; our 0.05 was found by trying. Its 1,000 layers are beyond this machine."
holds = reached["DeepNorm"] < reached["post, Xavier-like"] - 0.2
fails = reached["post, start at 0.05"] < reached["DeepNorm"] + 0.1
claims.judge("C03.15", confirmed=holds, refuted=fails, on=on, evidence=evidence, note=note)
figures.show(
    pictures.loss_curves(deep, guess=GUESS, smooth=10, warmup=STEPS // 4, title=f"{DEPTH} layers"),
    alt="Loss of DeepNorm and of post-norm from two starts: DeepNorm and quiet post-norm learn, Xavier-like post-norm does not",
)
print("loss of the last 20 steps:", {name: round(loss, 1) for name, loss in reached.items()})

# %% [markdown]
# **Claim C03.02: RMSNorm drops the mean subtraction and keeps LayerNorm's quality.** The same pre-norm model, with the one and
# with the other. Is there a mean to subtract? In the trained model we ask which part of the stream's mean square is its mean.

# %%
trained = []
with_rms = [train("pre", norm="rms", seed=seed, watch=trained.append) for seed in SEEDS]
quality = {"LayerNorm": ends["pre, no warm-up"], "RMSNorm": final(with_rms)}
in_mean = [(x.mean(-1).square().mean() / x.square().mean()).item() for x in plain_states(trained[-1])[1:]]
evidence = {f"{name}: final loss by seed": values for name, (_, values) in quality.items()}
evidence["share of the mean in the stream's mean square, by layer"] = in_mean
note = "No more mean than in a random vector, 1/32. Short runs cannot see small differences; the paper agrees at scale."
claims.judge("C03.02", confirmed=abs(np.diff([q for q, _ in quality.values()])) < 0.1, evidence=evidence, note=note)

# %% [markdown]
# **Claim C03.14: QK-norm and logit soft-capping bound the logits and stabilise training at a high learning rate.** Two layers,
# learning rate 0.06, six times that of above. We look at the largest attention score of the whole run, and at the loss.


# %%
def score_watcher(sizes):
    """A function that appends the largest attention score of a model to `sizes`."""

    @torch.no_grad()
    def watch(model):
        names, n_heads = ("q_norm", "k_norm") if model.config.qk_norm else ("q_proj", "k_proj"), model.config.n_heads
        kept, _ = outputs_of(model, text_batch(torch.Generator().manual_seed(5))[0], names)
        kept = [x if x.ndim == 4 else x.unflatten(-1, (n_heads, -1)).transpose(1, 2) for x in kept]
        scores = [q @ k.mT / math.sqrt(q.shape[-1]) for q, k in zip(kept[::2], kept[1::2])]
        sizes.append(max(norms.soft_cap(s, model.config.attention_softcap).abs().max().item() for s in scores))

    return watch


GUARDS = {"plain": {}, "QK-norm": {"qk_norm": True}, "soft-cap at 10": {"attention_softcap": 10.0}}
bounded, largest = {}, {}
for name, guard in GUARDS.items():
    sizes: list[float] = []
    runs = [train(depth=2, lr=0.06, seed=seed, watch=score_watcher(sizes), **guard) for seed in SEEDS]
    bounded[name], largest[name] = final(runs), max(sizes)
evidence = {f"{n}: largest score, final loss by seed": [round(largest[n]), *v] for n, (_, v) in bounded.items()}
note = "QK-norm's bound is sqrt(D) times two learned weights, so it can grow. The cap's cannot, but beyond it the gradient is small."
guarded = list(GUARDS)[1:]
holds = all(largest[n] < 0.2 * largest["plain"] and bounded[n][0] < bounded["plain"][0] - 0.03 for n in guarded)
claims.judge("C03.14", confirmed=holds, evidence=evidence, note=note)

# %% [markdown]
# ## 7. What a norm costs
#
# **Claim C03.03: norms are 0.17 % of the FLOPs and a quarter of the time.** How can that be? A matrix product does many operations
# with each number that it loads. A norm does a few: its time is the time of moving bytes. Count for one layer of width $E$ and $N$
# tokens, in 16 bits. Then move the width, and switch between one fused kernel and separate operations.
#
# - products: $24 N E^2$ FLOPs; bytes: $24 E^2$ for the weights, and about $36 N E$ for what goes in and out;
# - two norms: about $2 \cdot 8 N E$ FLOPs; bytes: read and write, $2 \cdot 4 N E$, **in one pass**. Written as separate operations
#   in float32, it is about ten passes of four bytes.


# %%
def layer_costs(width, fused, chip="A100-SXM4-80GB", tokens=4096):
    """FLOPs, bytes, and microseconds at a chip's peaks, of the products and the two norms of one layer."""
    hardware = accounting.HARDWARE[chip]
    flops = {"norms": 2 * 8 * tokens * width, "products": 24 * tokens * width**2}
    moved = {"norms": 2 * tokens * width * (4 if fused else 40), "products": 24 * width**2 + 36 * tokens * width}
    peaks = {"norms": hardware.flops["float32"], "products": hardware.flops["bfloat16"]}
    micros = {n: 1e6 * max(flops[n] / peaks[n], moved[n] / hardware.bandwidth) for n in flops}
    return {"FLOPs": flops, "bytes": moved, "time": micros}


sliders = {"width": figures.Steps([256, 512, 1024, 2048, 4096, 8192], 1024), "fused": False}
figures.interactive(
    lambda width, fused, chip: pictures.cost_shares(
        layer_costs(width, fused, chip), marked=["norms"], title=f"{chip}, width {width:,}"
    ),
    alt="Shares of norms and products in FLOPs, bytes and time: a sliver of the FLOPs, a visible part of the time",
    **sliders,
    chip=["A100-SXM4-80GB", "H100", "H200", "B200"],
)


kinds = [(width, fused) for width in (1024, 4096) for fused in (True, False)]
times = {f"{w}, {'one kernel' if f else 'separate'}": layer_costs(w, f)["time"] for w, f in kinds}
on_paper = {name: micros["norms"] / sum(micros.values()) for name, micros in times.items()}
print("norms' share of the time, by width:", {name: f"{share:.0%}" for name, share in on_paper.items()})

# %% [markdown]
# These are peaks on paper. Your machine, measured: the products of one layer, its two norms in one kernel, and as separate steps.

# %% tags=["nbval-ignore-output"]
TOKENS, WIDTH = 512, 512
x, gain = normal(TOKENS, WIDTH, seed=16, dtype=torch.float32), torch.ones(WIDTH)
matrices = [normal(a * WIDTH, b * WIDTH, seed=17, dtype=torch.float32) for a, b in ((3, 1), (1, 1), (4, 1), (1, 4))]
inputs = [normal(TOKENS, m.shape[1], seed=18, dtype=torch.float32) for m in matrices]
products = min(timeit.repeat(lambda: [F.linear(i, m) for i, m in zip(inputs, matrices)], number=1, repeat=7))
fused_s = 2 * min(timeit.repeat(lambda: F.layer_norm(x, (WIDTH,), gain, gain), number=1, repeat=7))
spread = {"dim": -1, "keepdim": True}
by_hand = lambda: (x - x.mean(**spread)) / (x.var(**spread) + 1e-5).sqrt() * gain + gain  # noqa: E731
separate_s = 2 * min(timeit.repeat(by_hand, number=1, repeat=7))
measured = {"one kernel": fused_s / (fused_s + products), "separate": separate_s / (separate_s + products)}
flops_share = 2 * 8 / (2 * 8 + 24 * 1024)
on = "the hardware, the width, and whether the norm is one kernel"
evidence = {f"share of the time, A100 on paper, width {name}": share for name, share in on_paper.items()}
evidence |= {f"share of the time, this machine, {name}": round(share, 3) for name, share in measured.items()}
evidence["share of the FLOPs, width 1024"] = flops_share
note = "The figures of the notes are for BERT in separate operations, softmax counted as a norm."
holds = flops_share < 0.005 and max(on_paper.values()) > 0.2
fails = min(*on_paper.values(), *measured.values()) < 0.1
claims.judge("C03.03", confirmed=holds, refuted=fails, on=on, evidence=evidence, note=note)

# %% [markdown]
# A faster chip makes products faster than memory, so the share of norms grows. This is why norms are fused with their neighbours,
# why RMSNorm's missing pass counts, and why models dropped their **biases**: each is one more vector to load and add.

# %%
block = Transformer(PRESETS["gpt2-124m"].replace(n_layers=1, vocab_size=2)).blocks[0]
vectors, matrices = ([p.numel() for p in block.parameters() if p.ndim == n] for n in (1, 2))
print(f"a GPT-2 layer: {len(vectors)} vectors hold {sum(vectors) / sum(vectors + matrices):.2%} of the parameters")

# %% [markdown]
# And **one rounding**. Norms stand where numbers of all sizes meet, so they compute in float32 and round once, at the end.

# %%
x, w = normal(2000, 64, seed=19, dtype=torch.float32).bfloat16(), (15.81 + normal(64, seed=20)).bfloat16()
twice = norms.rms_norm(x, torch.ones(64)) * w
print(f"rounded before the weight: {(twice != norms.rms_norm(x, w)).double().mean():.0%} of the results differ")
big = torch.full((1, 4), 300.0, dtype=torch.float16)
print("mean square of 300s, float16:", big.square().mean().item(), " float32:", big.float().square().mean().item())

# %% [markdown]
# ## What we found

# %%
for number in range(1, 16):
    claim = claims.recorded()[f"C03.{number:02d}"]
    print(f"{claim.id}  {claim.verdict:10s} {claim.text[:96]}")

# %% [markdown]
# ## Check yourself
#
# <details><summary>1. A layer has 1,024 inputs, 4,096 outputs and a ReLU behind it. Which standard deviation keeps the forward signal?</summary>
# sqrt(2) / sqrt(1024) = 0.044. fan_out does not enter; Xavier with the same gain would give 0.028.</details>
# <details><summary>2. A 48-layer GPT-2 starts its matrices at 0.02. At what do those that write into the stream start?</summary>
# 0.02 / sqrt(96) = 0.0020: two writes a layer.</details>
# <details><summary>3. You replace LayerNorm by RMSNorm in a trained model. What must be true for the outputs to stay?</summary>
# Every vector that reaches a norm has mean 0, and the bias is 0. Centre what writes into the stream, and it is so.</details>
# <details><summary>4. A post-norm model of 12 layers sits at the loss of token frequencies. Name three things to try.</summary>
# A warm-up or a lower learning rate, a smaller start of the branches (or DeepNorm), pre-norm.</details>
# <details><summary>5. Why does pre-norm need one more norm, before the head?</summary>
# The stream is never normalised on the way; after many additions it is large, and the logits would be too.</details>
# <details><summary>6. Does weight decay matter for a matrix that is followed by a norm?</summary>
# Its size does not change the output, but sets how far a step turns it. Decay keeps the effective learning rate up.</details>
#
# ## Further reading
# - Layer Normalization, arXiv:1607.06450; Root Mean Square Layer Normalization, arXiv:1910.07467; Batch Normalization, arXiv:1502.03167
# - On Layer Normalization in the Transformer Architecture (pre and post, warm-up), arXiv:2002.04745
# - Understanding the Difficulty of Training Transformers (it is not vanishing gradients), arXiv:2004.08249
# - DeepNet, arXiv:2203.00555; Weight Normalization, arXiv:1602.07868; L2 Regularization versus Batch and Weight Normalization, arXiv:1706.05350
# - Delving Deep into Rectifiers (Kaiming), arXiv:1502.01852; Exact solutions to deep linear networks (orthogonal), arXiv:1312.6120
# - Query-Key Normalization, arXiv:2010.04245; Scaling Vision Transformers to 22 Billion Parameters, arXiv:2302.05442; Gemma 2, arXiv:2408.00118
# - Data Movement Is All You Need (where the 0.17 % come from), arXiv:2007.00072; PowerNorm (BatchNorm for text), arXiv:2003.07845
#
# Next: the assignment. You will write all of this yourself, and be told within a second when it is wrong.
