"""The figures of the norms lesson: what a norm averages over, signals by depth, loss curves, costs.

Every function takes plain arrays (anything that `numpy.asarray` takes) and returns a Matplotlib figure. The measuring is
the lesson's.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter
from numpy.typing import ArrayLike

from llmcore.figures.base import BLACK, BLUE, CYCLE, GRAY, GREEN, ORANGE, VERMILION, new_figure, styled, use_style

MARKERS = ("o", "s", "^", "D", "v", "P", "X")
LINES = ("-", "--", "-.", ":")
NORM_KINDS = (
    "LayerNorm or RMSNorm",
    "BatchNorm",
    "partial RMSNorm, first half",
    "QK-norm, one head of two",
    "all at once",
)


def shared_cells(kind: str, shape: tuple[int, int, int], place: tuple[int, int, int]) -> np.ndarray:
    """Which cells of a (batch, time, features) block share their statistics with the cell at `place`, as booleans.

    >>> shared_cells("LayerNorm or RMSNorm", (2, 2, 3), (1, 0, 2)).astype(int).tolist()
    [[[0, 0, 0], [0, 0, 0]], [[1, 1, 1], [0, 0, 0]]]

    Raises: ValueError for a kind that is none of `NORM_KINDS`.
    """
    sample, token, feature = place
    width = shape[2]
    shared = np.zeros(shape, dtype=bool)
    if kind == "LayerNorm or RMSNorm":
        shared[sample, token] = True
    elif kind == "BatchNorm":
        shared[:, :, feature] = True
    elif kind == "partial RMSNorm, first half":
        shared[sample, token, : math.ceil(width / 2)] = True
    elif kind == "QK-norm, one head of two":
        head = width // 2
        shared[sample, token, slice(0, head) if feature < head else slice(head, width)] = True
    elif kind == "all at once":
        shared[:] = True
    else:
        raise ValueError(f"kind must be one of {', '.join(NORM_KINDS)}, got {kind!r}")
    return shared


@styled
def averaging_cube(
    shared: ArrayLike, place: tuple[int, int, int], *, turn: float = 40.0, elevation: float = 24.0, title: str = ""
) -> Figure:
    """A block of activations (batch, time, features) seen from `turn` degrees: the cell at `place` and those that share its statistics.

    Raises: ValueError unless `shared` has three dimensions.
    """
    cells = np.asarray(shared, dtype=bool)
    if cells.ndim != 3:
        raise ValueError(f"shared must be (batch, time, features), got shape {cells.shape}")
    colors = np.full(cells.shape, BLUE, dtype=object)
    colors[place] = VERMILION
    with use_style():
        figure = Figure(figsize=(6.6, 5.0))
        axes = figure.add_subplot(projection="3d")
    # Two calls: within one, faces between neighbouring cells are left out.
    axes.voxels(~cells, facecolors="#FFFFFF00", edgecolors="#00000022", linewidth=0.6, shade=False)
    axes.voxels(cells, facecolors=colors, edgecolors=BLACK, linewidth=0.9, shade=False)
    axes.view_init(elev=elevation, azim=turn)
    axes.set_box_aspect(cells.shape, zoom=0.78)
    for name, count in zip("xyz", cells.shape):
        getattr(axes, f"set_{name}ticks")(np.arange(count) + 0.5, labels=[str(n) for n in range(count)])
    axes.set(xlabel="sample", ylabel="token", zlabel="feature")
    axes.grid(visible=False)
    axes.set_title(f"{title}\n{int(cells.sum())} of {cells.size} numbers share one average")
    return figure


@styled
def signal_by_depth(
    panels: Mapping[str, Mapping[str, ArrayLike]],
    *,
    limits: Mapping[str, tuple[float, float]] | None = None,
    title: str = "",
    xlabel: str = "layer, from the input",
) -> Figure:
    """A panel for each measure, in it a line for each arm by layer, on a logarithmic axis.

    `limits` fixes a measure's axis, so that pictures at different settings can be compared; what lies outside is drawn at the edge.
    """
    figure, grid = new_figure(1, len(panels), width=4.7 * max(len(panels), 1) + 0.2, height=4.4)
    for axes, (measure, arms) in zip(np.atleast_1d(grid), panels.items()):
        low, high = (limits or {}).get(measure, (0.0, np.inf))
        for (name, values), color, marker, line in zip(arms.items(), CYCLE, MARKERS, LINES * 2):
            series = np.clip(np.nan_to_num(np.asarray(values, dtype=float), posinf=1e300), low or 1e-300, high)
            step = max(1, len(series) // 12)
            axes.plot(
                np.arange(1, len(series) + 1), series, line, color=color, marker=marker, markevery=step, label=name
            )
        axes.set_yscale("log")
        if limits and measure in limits:
            axes.set_ylim(low / 1.15, high * 1.15)
        _plain_log_labels(axes)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.set(xlabel=xlabel, ylabel=measure)
    handles, labels = np.atleast_1d(grid)[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4)
    figure.suptitle(title)
    return figure


def _plain_log_labels(axes) -> None:
    """0.1, 0.2, 0.5 on axes of up to three powers of ten, powers alone on longer ones."""
    low, high = axes.get_ylim()
    if high / low < 1e3:
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter(NullFormatter())


@styled
def stream_walk(lengths: ArrayLike, angles: ArrayLike, layer: int, *, title: str = "") -> Figure:
    """The residual stream unrolled in a plane: every state has its true length, and its true angle to the one before.

    `lengths` holds the stream before the first layer and after each, `angles` the turn that each layer makes, in degrees. Layers up to
    `layer` are drawn; right, the turns by layer.

    Raises: ValueError unless there is one length more than angles, and `layer` is one of them.
    """
    sizes, turns = np.asarray(lengths, dtype=float), np.asarray(angles, dtype=float)
    if len(sizes) != len(turns) + 1 or not 0 <= layer <= len(turns):
        raise ValueError(
            f"want one length more than angles and a layer in 0..{len(turns)}, got {len(sizes)} lengths and layer {layer}"
        )
    figure, (left, right) = new_figure(1, 2, width=9.4, height=4.2)
    heading = np.radians(np.concatenate([[0.0], np.cumsum(turns)]))
    x, y = sizes * np.cos(heading), sizes * np.sin(heading)
    for n in range(layer + 1):
        newest = n == layer
        left.plot([0, x[n]], [0, y[n]], color=BLUE if newest else GRAY, linewidth=2.6 if newest else 0.9)
    left.plot(x[: layer + 1], y[: layer + 1], "o-", color=VERMILION, linewidth=1.6, markersize=4)
    edge = 1.08 * max(sizes.max(), 1e-9)
    left.set(
        xlim=(min(-0.1 * edge, 1.1 * x.min()), edge),
        ylim=(min(-0.1 * edge, 1.1 * y.min()), 1.08 * max(y.max(), 0.3 * edge)),
    )
    left.set_aspect("equal")
    left.set(xlabel="root mean square of the stream", title=f"{title}after layer {layer}: {sizes[layer]:.2g}")
    colors = [ORANGE if n <= layer else "#E8E8E8" for n in range(1, len(turns) + 1)]
    right.bar(np.arange(1, len(turns) + 1), turns, color=colors)
    right.xaxis.get_major_locator().set_params(integer=True)
    right.set(xlabel="layer", ylabel="turn of the stream, degrees", ylim=(0, 1.1 * max(turns.max(), 1e-9)))
    shown = f"layer {layer} turns it by {turns[layer - 1]:.0f} degrees" if layer else "before the first layer"
    right.set_title(shown)
    return figure


@styled
def loss_curves(
    curves: Mapping[str, ArrayLike],
    *,
    smooth: int = 5,
    guess: float | None = None,
    warmup: int | None = None,
    title: str = "",
) -> Figure:
    """A bold line for each arm, the median over its runs (seeds, steps), and a thin one for each run; means of `smooth` steps.

    `guess` is the loss of knowing only how frequent each token is, `warmup` the step at which the warm-up ends.
    """
    figure, axes = new_figure(width=8.8, height=4.3)
    for (name, values), color, line in zip(curves.items(), CYCLE, LINES * 2):
        runs = np.atleast_2d(np.asarray(values, dtype=float))
        usable = runs.shape[1] // smooth * smooth
        means = runs[:, :usable].reshape(len(runs), -1, smooth).mean(-1)
        steps = (np.arange(means.shape[1]) + 0.5) * smooth
        for run in means if len(means) > 1 else ():
            axes.plot(steps, run, line, color=color, linewidth=0.8, alpha=0.6)
        axes.plot(steps, np.median(means, axis=0), line, color=color, label=name)
    if guess is not None:
        axes.axhline(guess, color=BLACK, linewidth=1, label="letter frequencies alone")
    if warmup is not None:
        axes.axvline(warmup, color=GRAY, linestyle="--", linewidth=1.5, label="warm-up ends")
    axes.set(xlabel="training step", ylabel="loss, nats a character", title=title)
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


@styled
def estimate_errors(
    fractions: ArrayLike, errors: Mapping[str, ArrayLike], *, marked: float | None = None, title: str = ""
) -> Figure:
    """The relative error of an estimated root mean square against the share of features that it looks at; `marked` is a share."""
    shares = np.asarray(fractions, dtype=float)
    figure, axes = new_figure(width=8.8, height=4.0)
    for (name, values), color, marker, line in zip(errors.items(), CYCLE, MARKERS, LINES * 2):
        axes.plot(100 * shares, 100 * np.asarray(values, dtype=float), line, color=color, marker=marker, label=name)
    if marked is not None:
        axes.axvline(100 * marked, color=GRAY, linestyle="--", linewidth=1.5)
    axes.set(xlabel="features looked at, %", ylabel="error of the estimate, %", ylim=(0, None), title=title)
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


@styled
def cost_shares(shares: Mapping[str, Mapping[str, float]], *, title: str = "", marked: Sequence[str] = ()) -> Figure:
    """A full bar for each measure (FLOPs, bytes, time), cut into the shares of its parts; parts in `marked` get their share written.

    Parts are amounts in any unit; each bar is scaled to 100 %.

    Raises: ValueError when a measure's amounts sum to 0.
    """
    names = list(next(iter(shares.values())))
    figure, axes = new_figure(width=8.8, height=1.6 + 0.62 * len(shares))
    left = np.zeros(len(shares))
    totals = np.array([sum(parts.values()) for parts in shares.values()], dtype=float)
    if (totals <= 0).any():
        raise ValueError(f"every measure needs an amount above 0, got totals {totals.tolist()}")
    for name, color in zip(names, (VERMILION, BLUE, "#B0B0B0", GREEN, ORANGE)):
        part = 100 * np.array([parts[name] for parts in shares.values()], dtype=float) / totals
        axes.barh(list(shares), part, left=left, color=color, label=name, edgecolor="white")
        for place, value in enumerate(part if name in marked else ()):
            wide = value >= 8  # a label that does not fit stands to the right of its part
            x, color = (left[place] + value / 2, BLACK) if wide else (left[place] + value + 1, "white")
            align = {"ha": "center" if wide else "left", "va": "center", "fontweight": "bold"}
            axes.text(x, place, f"{value:.2g} %", color=color, **align)
        left += part
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    axes.set(xlabel="share, %", xlim=(0, 100), title=title)
    figure.legend(loc="outside lower center", ncols=len(names))
    return figure
