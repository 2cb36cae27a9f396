"""The figures of the attention lesson: scores and softmax, gradients, masks, caches, rooflines, layers.

Every function takes plain arrays (anything that `numpy.asarray` takes) and returns a Matplotlib figure. The measuring is
the lesson's.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import LogLocator
from numpy.typing import ArrayLike

from llmcore.figures.base import BLACK, BLUE, CYCLE, GRAY, GREEN, ORANGE, VERMILION, new_figure, styled

MARKERS = ("o", "s", "^", "D", "v", "P", "X")


@styled
def score_histogram(scores: ArrayLike, weights: ArrayLike, *, d_k: int, scaled: bool, limit: float = 40.0) -> Figure:
    """Left the scores' histogram on a fixed range of -limit..limit, right one row's softmax weights, largest first."""
    values, row = np.ravel(np.asarray(scores, dtype=float)), np.sort(np.ravel(np.asarray(weights, dtype=float)))[::-1]
    figure, (left, right) = new_figure(1, 2, width=9.0, height=3.8)
    color, name = (BLUE, "scaled by 1/sqrt(d_k)") if scaled else (VERMILION, "not scaled")
    left.hist(np.clip(values, -limit, limit), bins=61, range=(-limit, limit), density=True, color=color)
    left.set(xlabel="score q.k", ylabel="density", xlim=(-limit, limit))
    left.set_title(f"d_k = {d_k}, {name}\nstandard deviation {values.std():.3g}")
    right.bar(np.arange(1, len(row) + 1), row, color=color)
    right.set(xlabel="key, by weight", ylabel="softmax weight", ylim=(0, 1))
    right.set_title(f"one query's attention\nlargest weight {row[0]:.3f}")
    return figure


@styled
def gradient_norms(
    d_k: ArrayLike, norms: Mapping[str, ArrayLike], *, marked: float | None = None, ylabel: str = "gradient norm"
) -> Figure:
    """A line for each named series of gradient norms against d_k, both axes logarithmic; `marked` is a d_k to point at."""
    figure, axes = new_figure()
    for (name, values), color, marker in zip(norms.items(), CYCLE, MARKERS):
        axes.loglog(np.asarray(d_k), np.asarray(values, dtype=float), color=color, marker=marker, label=name)
    if marked is not None:
        axes.axvline(marked, color=GRAY, linestyle="--", label=f"d_k = {marked:g}")
    axes.set_xscale("log", base=2)
    axes.set_xticks(np.asarray(d_k), labels=[f"{value:g}" for value in np.asarray(d_k)])
    axes.minorticks_off()
    low, high = axes.get_ylim()
    if high / low < 1000:  # powers of ten alone would leave one or two labels
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter("{x:g}")
    axes.set(xlabel="head width d_k", ylabel=ylabel)
    axes.legend()
    return figure


MASK_KINDS = (
    "packed documents",
    "causal",
    "causal, keys cached before",
    "sliding window",
    "prefix",
    "padding on the left",
    "padding on the right",
)


def named_mask(kind: str, tokens: int, number: int) -> tuple[np.ndarray, str]:
    """A boolean mask (T, S) of one of `MASK_KINDS` over `tokens` keys, and a line that describes it.

    `number` is the window, the prefix, the padding, the first document's length or the keys cached before the queries.

    >>> named_mask("sliding window", 3, 1)[0].astype(int).tolist()
    [[1, 0, 0], [1, 1, 0], [0, 1, 1]]

    Raises: ValueError for another kind.
    """
    n = min(number, tokens - 1)
    query, key = np.arange(tokens)[:, None], np.arange(tokens)
    causal = key <= query
    if kind == "packed documents":
        return causal & ((query < n) == (key < n)), f"documents of {n} and {tokens - n} tokens"
    if kind == "causal":
        return causal, f"causal, {tokens} tokens"
    if kind == "causal, keys cached before":
        return causal[n:], f"{tokens - n} new queries, {n} keys cached before"
    if kind == "sliding window":
        return causal & (key >= query - n), f"itself and {n} tokens before"
    if kind == "prefix":
        return causal | (key < n), f"the first {n} tokens are seen by all"
    if kind == "padding on the left":
        return causal & (key >= n), f"{n} padding tokens, then text"
    if kind == "padding on the right":
        return causal & (key < tokens - n) & (query < tokens - n), f"text, then {n} padding tokens"
    raise ValueError(f"kind must be one of {', '.join(MASK_KINDS)}, got {kind!r}")


@styled
def mask_picture(
    mask: ArrayLike,
    *,
    title: str = "",
    query_labels: Sequence[str] | None = None,
    key_labels: Sequence[str] | None = None,
    weights: ArrayLike | None = None,
) -> Figure:
    """The (T, S) grid of a boolean mask: a filled square with a dot may attend, an empty one may not.

    Rows that may attend to nothing are marked. With `weights`, also (T, S), allowed squares are shaded by weight.
    """
    allowed = np.asarray(mask, dtype=bool)
    if allowed.ndim != 2:
        raise ValueError(f"mask must be (T, S), got shape {allowed.shape}; pick one batch entry and head")
    rows, columns = allowed.shape
    side = 0.36 if max(rows, columns) <= 18 else 6.5 / max(rows, columns)
    figure, axes = new_figure(width=max(4.2, columns * side + 2.2), height=max(2.4, rows * side + 1.2))
    if weights is None:
        axes.imshow(allowed, cmap=ListedColormap(["white", BLUE]), vmin=0, vmax=1)
    else:
        shaded = np.where(allowed, np.asarray(weights, dtype=float), np.nan)
        picture = axes.imshow(shaded, cmap="cividis", vmin=0, vmax=1)
        figure.colorbar(picture, label="weight", shrink=0.8)
    if weights is None and max(rows, columns) <= 32:
        query, key = np.nonzero(allowed)
        axes.plot(key, query, "o", color="white", markersize=30 * side / 0.36 / 8)
    for row in np.flatnonzero(~allowed.any(axis=1)):
        axes.text(
            (columns - 1) / 2, row, "sees nothing: output 0", ha="center", va="center", color=VERMILION, fontsize=11
        )
    if max(rows, columns) <= 40:
        axes.set_xticks(np.arange(columns + 1) - 0.5, minor=True)
        axes.set_yticks(np.arange(rows + 1) - 0.5, minor=True)
        axes.grid(which="minor", color="#BBBBBB", linewidth=0.8)
    axes.grid(which="major", visible=False)
    axes.tick_params(which="both", length=0)
    for spine in axes.spines.values():
        spine.set(visible=True, color="#BBBBBB")
    _label_ticks(axes.set_xticks, columns, key_labels)
    _label_ticks(axes.set_yticks, rows, query_labels)
    axes.set(xlabel="key position", ylabel="query position")
    axes.set_title(title or f"{int(allowed.sum())} of {allowed.size} pairs may attend")
    return figure


def _label_ticks(set_ticks, count: int, labels: Sequence[str] | None) -> None:
    step = next(size for size in (1, 2, 5, 10, 20, 50, count) if count <= 20 * size)
    chosen = np.arange(0, count, step)
    set_ticks(chosen, labels=[labels[index] for index in chosen] if labels else [str(index) for index in chosen])


@styled
def kv_cache_bars(bytes_by_name: Mapping[str, float], *, title: str = "", budget: float | None = None) -> Figure:
    """Horizontal bars of cache sizes in GiB (2^30 bytes), each with its figure; `budget` is a line, such as a card's memory."""
    names, gib = list(bytes_by_name), np.array([float(value) for value in bytes_by_name.values()]) / 2**30
    figure, axes = new_figure(height=1.3 + 0.52 * len(names))
    bars = axes.barh(names, gib, color=[CYCLE[index % len(CYCLE)] for index in range(len(names))])
    axes.bar_label(bars, labels=[f" {value:.3g} GiB" for value in gib])
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    if budget is not None:
        axes.axvline(budget / 2**30, color=BLACK, linestyle="--", label=f"budget {budget / 2**30:.3g} GiB")
        figure.legend(loc="outside lower right")
    axes.set_xlim(0, 1.2 * max(gib.max(initial=0.0), (budget or 0) / 2**30, 1e-9))
    axes.set_xlabel("KV cache, GiB")
    axes.set_title(title)
    return figure


@styled
def roofline(
    points: Mapping[str, tuple[float, float]], *, peak_flops: float, bandwidth: float, title: str = ""
) -> Figure:
    """The roof min(peak, intensity * bandwidth) and named points (FLOPs per byte, FLOP/s) on logarithmic axes.

    `peak_flops` in FLOP/s, `bandwidth` in bytes/s.
    """
    ridge = peak_flops / bandwidth
    intensities = [intensity for intensity, _ in points.values()]
    low, high = min([ridge / 100, *intensities]) / 2, max([ridge * 10, *intensities]) * 2
    figure, axes = new_figure(width=8.8, height=4.4)
    x = np.geomspace(low, high, 200)
    axes.loglog(x, np.minimum(peak_flops, x * bandwidth) / 1e12, color=BLACK, label="roof")
    axes.axvline(ridge, color=GRAY, linestyle="--")
    axes.axvspan(low, ridge, color=ORANGE, alpha=0.12, linewidth=0)
    axes.axvspan(ridge, high, color=GREEN, alpha=0.12, linewidth=0)
    floor = min([low * bandwidth, *(flops for _, flops in points.values())]) / 1e12 / 2
    axes.set(xlim=(low, high), ylim=(floor, peak_flops / 1e12 * 5))
    for edge, text, align in ((0.02, "memory-bound", "left"), (0.98, "compute-bound", "right")):
        axes.text(edge, 0.97, text, transform=axes.transAxes, ha=align, va="top", fontsize=11)
    for (name, (intensity, flops)), color, marker in zip(points.items(), CYCLE, MARKERS):
        label = f"{name}:\n{_brief(intensity)} FLOP/byte"
        axes.plot(intensity, flops / 1e12, marker=marker, markersize=11, linestyle="none", color=color, label=label)
    axes.set(xlabel=f"arithmetic intensity, FLOP/byte (ridge at {_brief(ridge)})", ylabel="speed, TFLOP/s")
    axes.set_title(title)
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def _brief(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.2g}"


@styled
def by_layer(
    panels: Mapping[str, Mapping[str, ArrayLike]], *, logarithmic: Sequence[str] = (), xlabel: str = "layer"
) -> Figure:
    """A panel for each measure ("attention entropy, nats", "residual rank", ...), in it a line per arm against the layer.

    Measures named in `logarithmic` get a logarithmic axis. The horizontal axis counts from 1.
    """
    figure, grid = new_figure(1, len(panels), width=4.6 * max(len(panels), 1) + 0.4, height=4.3)
    for axes, (measure, arms) in zip(np.atleast_1d(grid), panels.items()):
        for (name, values), color, marker in zip(arms.items(), CYCLE, MARKERS):
            series = np.asarray(values, dtype=float)
            axes.plot(np.arange(1, len(series) + 1), series, color=color, marker=marker, label=name)
        if measure in logarithmic:
            axes.set_yscale("log")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.set(xlabel=xlabel, ylabel=measure)
    handles, labels = np.atleast_1d(grid)[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4)
    return figure


@styled
def decoding_step(weights: ArrayLike, step: int, *, bytes_per_token: float) -> Figure:
    """Cached generation at one step: `weights` (T, T) of a whole text; the new query's row stands out, earlier rows are pale.

    Left the rows up to `step` (from 0), right the new row alone and what the cache holds, `bytes_per_token` for each token.
    """
    whole = np.asarray(weights, dtype=float)
    count = len(whole)
    if not 0 <= step < count:
        raise ValueError(f"step must be in 0..{count - 1}, got {step}; the weights are of {count} tokens")
    seen = np.where(np.tri(count, dtype=bool), whole, np.nan)
    seen[step + 1 :] = np.nan
    figure, (left, right) = new_figure(1, 2, width=9.0, height=4.2)
    left.imshow(seen, cmap="Blues", vmin=-0.15, vmax=1, alpha=0.45)
    newest = np.full_like(seen, np.nan)
    newest[step] = seen[step]
    left.imshow(newest, cmap="Blues", vmin=-0.15, vmax=1)
    left.add_patch(Rectangle((-0.5, step - 0.5), step + 1, 1, fill=False, edgecolor=VERMILION, linewidth=2))
    left.grid(visible=False)
    left.set(xlabel="key position (cached)", ylabel="query position", title="each step adds one row and one column")
    right.bar(np.arange(step + 1), whole[step, : step + 1], color=BLUE, width=0.9)
    right.set(xlabel="key position", ylabel="attention weight", xlim=(-0.6, count - 0.4), ylim=(0, 1))
    right.set_title(f"query {step}: {step + 1} keys in the cache\n{(step + 1) * bytes_per_token:,.0f} bytes")
    return figure


@styled
def token_clouds(clouds: Mapping[str, ArrayLike], *, title: str = "") -> Figure:
    """A panel for each named arm: its tokens as points (T, 2) on the fixed square -1..1, coloured by their place in the text."""
    figure, grid = new_figure(1, len(clouds), width=3.6 * max(len(clouds), 1) + 0.4, height=4.2)
    for axes, (name, points) in zip(np.atleast_1d(grid), clouds.items()):
        places = np.asarray(points, dtype=float)
        axes.axhline(0, color=GRAY, linewidth=0.8)
        axes.axvline(0, color=GRAY, linewidth=0.8)
        axes.scatter(places[:, 0], places[:, 1], c=np.arange(len(places)), cmap="cividis", s=36, alpha=0.8)
        axes.set(xlim=(-1, 1), ylim=(-1, 1), xticks=(-1, 0, 1), yticks=(-1, 0, 1), xlabel="first direction", title=name)
        axes.set_aspect("equal")
    np.atleast_1d(grid)[0].set_ylabel("second direction")
    figure.suptitle(title)
    return figure


@styled
def entropy_by_length(
    lengths: ArrayLike, entropies: Mapping[str, ArrayLike], *, trained: float | None = None, title: str = ""
) -> Figure:
    """A line for each named rule: attention entropy in nats against the context length (logarithmic); `trained` is a length."""
    sizes = np.asarray(lengths, dtype=float)
    figure, axes = new_figure(width=8.6, height=4.0)
    for (name, values), color, marker in zip(entropies.items(), CYCLE, MARKERS):
        axes.plot(sizes, np.asarray(values, dtype=float), color=color, marker=marker, label=name)
    axes.plot(sizes, np.log(sizes), color=GRAY, linestyle=":", label="uniform: ln n")
    if trained is not None:
        axes.axvline(trained, color=GRAY, linestyle="--", label=f"trained at {trained:g}")
    axes.set_xscale("log", base=2)
    axes.set_xticks(sizes, labels=[f"{size:,.0f}" for size in sizes])
    axes.minorticks_off()
    axes.set(xlabel="context length n, tokens", ylabel="attention entropy, nats", title=title)
    axes.set_ylim(bottom=0)
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure
