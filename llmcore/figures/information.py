"""The figures of the lesson on information: code lengths, fits, estimators of KL, temperature, averaging, calibration.

Every function takes plain arrays (anything that `numpy.asarray` takes) and returns a Matplotlib figure. The measuring is
the lesson's.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from llmcore.figures.base import BLACK, BLUE, CYCLE, GRAY, GREEN, ORANGE, VERMILION, new_figure, styled

MARKERS = ("o", "s", "^", "D", "v", "P", "X")


def _entropy_bits(p: np.ndarray) -> float:
    return float(-(p[p > 0] * np.log2(p[p > 0])).sum())


@styled
def code_lengths(probabilities: ArrayLike, lengths: ArrayLike, *, names: Sequence[str]) -> Figure:
    """Left each symbol's probability, length in bits and share of all codes, 2^-length; right the average against the entropy.

    Lengths whose shares add up to more than 1 belong to no code that can be told apart (Kraft), and the bar says so.
    """
    p, bits = np.asarray(probabilities, dtype=float), np.asarray(lengths, dtype=float)
    if p.shape != bits.shape or len(names) != len(p):
        raise ValueError(f"want one length and one name a symbol, got {len(p)}, {len(bits)} and {len(names)}")
    shares = 2.0**-bits
    figure, (left, right) = new_figure(1, 2, width=9.0, height=3.8)
    place = np.arange(len(p))
    left.bar(place - 0.2, p, 0.4, color=BLUE, label="probability")
    left.bar(place + 0.2, shares, 0.4, color=ORANGE, label="share of codes")
    left.set_xticks(
        place, labels=[f"{name}\n{length:g} bit{'' if length == 1 else 's'}" for name, length in zip(names, bits)]
    )
    left.set(ylabel="probability or share", ylim=(0, 1))
    left.legend()
    legal = shares.sum() <= 1 + 1e-9
    left.set_title(f"shares add up to {shares.sum():.3g}: {'a code exists' if legal else 'no such code'}")
    average, floor = float(p @ bits), _entropy_bits(p)
    bars = right.barh(["your code", "entropy"], [average, floor], color=[GREEN if legal else VERMILION, GRAY])
    right.bar_label(bars, labels=[f" {average:.3f}{'' if legal else ' (not possible)'}", f" {floor:.3f}"])
    right.set(xlabel="bits a symbol", xlim=(0, max(average, floor, 1.0) * 1.5))
    right.set_title(f"{average - floor:.3f} bits above the floor" if legal else "lengthen a code to pay for it")
    right.grid(axis="y", visible=False)
    return figure


@styled
def fitted_bell(
    x: ArrayLike,
    target: ArrayLike,
    fitted: ArrayLike,
    divergences: Mapping[str, ArrayLike],
    *,
    step: int,
    minimised: str,
    title: str = "",
) -> Figure:
    """Left the target's and the fitted density, right each named divergence over the steps with `step` marked."""
    figure, (left, right) = new_figure(1, 2, width=9.4, height=3.8)
    positions, p, q = (np.asarray(values, dtype=float) for values in (x, target, fitted))
    left.fill_between(positions, p, color=GRAY, alpha=0.35, linewidth=0, label="target p")
    left.plot(positions, q, color=VERMILION, label="fit q")
    left.set(xlabel="x", ylabel="density", ylim=(0, 2.0 * p.max()))
    left.set_title(title)
    left.legend()
    for (name, values), color, style in zip(divergences.items(), CYCLE, ("-", "--", ":")):
        series = np.asarray(values, dtype=float)
        label = f"{name}{' (minimised)' if name == minimised else ''}"
        right.plot(np.arange(len(series)), series, color=color, linestyle=style, label=label)
        right.plot(step, series[step], "o", color=color)
    right.axvline(step, color=GRAY, linewidth=1)
    right.set(xlabel="step of descent", ylabel="divergence, nats", yscale="log")
    everything = np.concatenate([np.asarray(values, dtype=float) for values in divergences.values()])
    low, high = max(everything.min(), 1e-3) / 1.5, 5 * everything.max()
    right.set_ylim(low, high)
    _plain_log_ticks(right, low, high)
    right.set_title(f"step {step}")
    right.legend(loc="upper right")
    return figure


def _plain_log_ticks(axes, low: float, high: float) -> None:
    """Labels 0.1, 0.2, 0.5, 1, ... instead of powers of ten; every third of them over long ranges."""
    ticks = [digit * 10.0**power for power in range(-4, 5) for digit in (1, 2, 5) if low <= digit * 10.0**power <= high]
    ticks = ticks if len(ticks) <= 9 else [tick for tick in ticks if f"{tick:e}"[0] == "1"]
    axes.set_yticks(ticks, labels=[f"{tick:g}" for tick in ticks])
    axes.minorticks_off()


@styled
def estimator_curves(
    divergences: ArrayLike,
    means: Mapping[str, ArrayLike],
    spreads: Mapping[str, ArrayLike],
    *,
    marked: float | None = None,
    title: str = "",
) -> Figure:
    """Left each estimator's mean over the exact divergence (1 is unbiased), right its spread over it, against the divergence."""
    exact = np.asarray(divergences, dtype=float)
    figure, (left, right) = new_figure(1, 2, width=9.4, height=3.9)
    for axes, series in ((left, means), (right, spreads)):
        for (name, values), color, marker in zip(series.items(), CYCLE, MARKERS):
            axes.plot(exact, np.asarray(values, dtype=float) / exact, color=color, marker=marker, label=name)
        axes.set_xscale("log")
        if marked is not None:
            axes.axvline(marked, color=GRAY, linestyle="--", linewidth=1.5)
        axes.set_xlabel("exact KL(p || q), nats")
        axes.legend()
    left.axhline(1.0, color=BLACK, linewidth=1)
    left.set(ylabel="mean / exact", ylim=(0, 2.5))
    left.set_title(title)
    right.set(ylabel="standard deviation / exact", yscale="log")
    _plain_log_ticks(right, *right.get_ylim())
    right.set_title("spread of one sample")
    return figure


@styled
def temperature_bars(
    names: Sequence[str], at_one: ArrayLike, at_temperature: ArrayLike, *, temperature: float
) -> Figure:
    """The probabilities at temperature 1 (outlines) and at the chosen one (bars), whose entropy stands in the title."""
    figure, axes = new_figure(width=8.4, height=3.8)
    place, soft = np.arange(len(names)), np.asarray(at_temperature, dtype=float)
    bits = _entropy_bits(soft)
    axes.bar(place, soft, color=BLUE, label=f"temperature {temperature:g}")
    axes.bar(place, np.asarray(at_one, dtype=float), fill=False, edgecolor=BLACK, linewidth=1.6, label="temperature 1")
    axes.set_xticks(place, labels=names)
    axes.set(xlabel="next character", ylabel="probability", ylim=(0, 1))
    axes.set_title(f"entropy {bits:.2f} bits: like {2**bits:.1f} equal choices")
    axes.legend()
    return figure


@styled
def averaging_weights(weights: ArrayLike, *, largest: float | None = None, title: str = "") -> Figure:
    """Left each token's weight in the loss, a row a sequence (NaN is padding); right each sequence's share of all weight.

    `largest` ends the colour scale, so that pictures can be compared; by default it is the largest weight.
    """
    table = np.asarray(weights, dtype=float)
    if table.ndim != 2:
        raise ValueError(f"weights must be (sequences, tokens), got shape {table.shape}")
    figure, (left, right) = new_figure(1, 2, width=9.4, height=1.6 + 0.62 * len(table))
    top = largest or max(np.nanmax(table), 1e-12)
    picture = left.imshow(table, cmap="cividis", vmin=0, vmax=top, aspect="auto")
    figure.colorbar(picture, ax=left, label="weight of a token")
    left.grid(visible=False)
    left.set_yticks(np.arange(len(table)), labels=[f"{np.isfinite(row).sum()} tokens" for row in table])
    left.set_xlabel("token (white: padding)")
    left.set_title(title)
    shares = np.nansum(table, axis=1)
    bars = right.barh(np.arange(len(table)), shares, color=BLUE)
    right.bar_label(bars, labels=[f" {share:.0%}" for share in shares])
    right.set_yticks(np.arange(len(table)), labels=[f"sequence {n + 1}" for n in range(len(table))])
    right.invert_yaxis()
    right.grid(axis="y", visible=False)
    right.set(xlabel="share of the loss's weight", xlim=(0, 1.15))
    right.set_title("who is listened to")
    return figure


@styled
def reliability(confidence: ArrayLike, correct: ArrayLike, *, bins: int = 10, title: str = "") -> Figure:
    """Left the share of right forecasts against confidence, in bins (the diagonal is honest); right how full each bin is.

    confidence is each forecast's largest probability, correct whether it was right.
    """
    sure, right_or_not = np.asarray(confidence, dtype=float), np.asarray(correct, dtype=float)
    which = np.minimum((sure * bins).astype(int), bins - 1)
    number = np.bincount(which, minlength=bins)
    filled = number > 0
    middle, share = (np.bincount(which, v, minlength=bins)[filled] / number[filled] for v in (sure, right_or_not))
    figure, (left, right) = new_figure(1, 2, width=9.0, height=3.9)
    left.plot([0, 1], [0, 1], color=BLACK, linewidth=1, label="honest")
    left.plot(middle, share, "o-", color=BLUE, label="model")
    left.fill_between(middle, share, middle, color=ORANGE, alpha=0.4, linewidth=0, label="gap")
    left.set(xlabel="confidence (largest probability)", ylabel="share that was right", xlim=(0, 1), ylim=(0, 1))
    left.set_title(title)
    left.legend(loc="upper left")
    right.bar((np.arange(bins) + 0.5) / bins, number / max(len(sure), 1), 0.9 / bins, color=BLUE)
    right.set(xlabel="confidence", ylabel="share of forecasts", xlim=(0, 1))
    right.set_title("how often it is that sure")
    return figure


@styled
def normaliser_curves(
    steps: ArrayLike, means: Mapping[str, ArrayLike], spreads: Mapping[str, ArrayLike], *, marked: int | None = None
) -> Figure:
    """The mean of log Z over positions against the step for each run, with a band of one standard deviation."""
    figure, axes = new_figure(width=8.4, height=3.9)
    x = np.asarray(steps, dtype=float)
    for (name, values), color, marker in zip(means.items(), CYCLE, MARKERS):
        middle, spread = np.asarray(values, dtype=float), np.asarray(spreads[name], dtype=float)
        axes.plot(x, middle, color=color, marker=marker, label=name)
        axes.fill_between(x, middle - spread, middle + spread, color=color, alpha=0.18, linewidth=0)
    if marked is not None:
        axes.axvline(marked, color=GRAY, linestyle="--", linewidth=1.5)
    axes.axhline(0.0, color=BLACK, linewidth=1)
    axes.set(xlabel="training step", ylabel="log Z, nats")
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure
