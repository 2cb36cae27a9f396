"""The figures of the lesson on positions: clock hands, turned pairs, phases, scores against distance, wavelengths, perplexity.

Every function takes plain arrays (anything that `numpy.asarray` takes) and returns a Matplotlib figure. The measuring is
the lesson's.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle, Wedge
from numpy.typing import ArrayLike

from llmcore.figures.base import BLACK, BLUE, CYCLE, GRAY, ORANGE, SKY, VERMILION, new_figure, styled

MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DASHES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 1)), "-")
_TAU = 2 * np.pi
_MAX_CLOCKS = 12


def _arrow(axes: Axes, angle: float, length: float, color: str, *, dashed: bool = False, width: float = 3.0) -> None:
    """A line with a dot at its end from the centre; angle 0 points right and grows against the clock."""
    end = (length * np.cos(angle), length * np.sin(angle))
    axes.plot([0, end[0]], [0, end[1]], color=color, linestyle="--" if dashed else "-", linewidth=width)
    axes.plot(*end, "s" if dashed else "o", color=color, markersize=6)


def _bare(axes: Axes, limit: float) -> None:
    axes.set(xlim=(-limit, limit), ylim=(-limit, limit), xticks=[], yticks=[], aspect="equal")
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)


@styled
def clock_hands(
    frequencies: ArrayLike, query: float, key: float | None = None, *, trained: float | None = None, title: str = ""
) -> Figure:
    """One clock for each pair, its hand at query * frequency; a second, dashed hand for `key` with the angle between shaded.

    `frequencies` are radians per position, at most 12 of them. With `trained` a gray ring shows the part of the circle that
    positions up to it have covered; a hand off the ring stands where it never stood in training.
    """
    theta = np.atleast_1d(np.asarray(frequencies, dtype=float))
    if not 1 <= len(theta) <= _MAX_CLOCKS:
        raise ValueError(
            f"clock_hands draws 1 to {_MAX_CLOCKS} clocks, got {len(theta)} frequencies; pick some of them"
        )
    rows = 1 if len(theta) <= _MAX_CLOCKS // 2 else 2
    columns = -(-len(theta) // rows)
    figure, grid = new_figure(rows, columns, width=1.55 * columns, height=2.05 * rows + 0.5)
    places = np.atleast_1d(grid).reshape(-1)
    for place, speed in zip(places, theta):
        if trained is not None:
            arc = min(np.degrees(trained * speed), 360.0)
            place.add_patch(Wedge((0, 0), 1.14, 0, arc, width=0.14, facecolor=GRAY, alpha=0.55, linewidth=0))
        if key is not None:
            low, high = sorted(np.degrees([query * speed, key * speed]))
            opening = min(high - low, 360.0)
            place.add_patch(Wedge((0, 0), 0.6, low, low + opening, facecolor=SKY, alpha=0.45, linewidth=0))
        place.add_patch(Wedge((0, 0), 1.0, 0, 360, fill=False, edgecolor=BLACK, linewidth=1))
        _arrow(place, query * speed, 0.92, BLUE)
        if key is not None:
            _arrow(place, key * speed, 0.92, VERMILION, dashed=True)
        _bare(place, 1.2)
        turn = _TAU / speed
        place.set_title(f"one turn:\n{turn:,.{0 if turn >= 100 else 1}f} tokens", fontsize=12, loc="center")
    for place in places[len(theta) :]:
        place.set_visible(False)
    figure.suptitle(title, x=0.01, ha="left", fontsize=13)
    return figure


@styled
def turned_pair(q: ArrayLike, k: ArrayLike, theta: float, m: float, n: float) -> Figure:
    """Left one pair of columns of a query and a key as they are; right both turned by their positions m and n.

    The dot products stand in the titles; the right one depends on m - n alone.
    """
    pairs = {"q": np.asarray(q, dtype=float), "k": np.asarray(k, dtype=float)}
    figure, places = new_figure(1, 2, width=8.0, height=4.2)
    limit = 1.25 * max(float(np.linalg.norm(pair)) for pair in pairs.values())
    for place, turns in zip(places, ({"q": 0.0, "k": 0.0}, {"q": m, "k": n})):
        ends = []
        for (name, pair), color in zip(pairs.items(), (BLUE, VERMILION)):
            start, length = float(np.arctan2(pair[1], pair[0])), float(np.linalg.norm(pair))
            angle = start + turns[name] * theta
            _arrow(place, angle, length, color, dashed=name == "k")
            place.text(1.13 * length * np.cos(angle), 1.13 * length * np.sin(angle), name, color=color, ha="center")
            ends.append(length * np.array([np.cos(angle), np.sin(angle)]))
        dots = float(ends[0] @ ends[1])
        _bare(place, limit)
        place.axhline(0, color=GRAY, linewidth=0.8)
        place.axvline(0, color=GRAY, linewidth=0.8)
        where = "as projected" if not any(turns.values()) and place is places[0] else f"at positions {m:g} and {n:g}"
        place.set_title(f"{where}: q·k = {dots:.3f}")
    return figure


@styled
def paired_columns(pairs: Sequence[tuple[int, int]], angles: ArrayLike, *, title: str = "") -> Figure:
    """The columns of one head as boxes, each pair in its own colour and joined by an arc with the angle that turns it."""
    width = 2 * len(pairs)
    if sorted(column for pair in pairs for column in pair) != list(range(width)):
        raise ValueError(f"pairs must name each of {width} columns once, got {list(pairs)}")
    degrees = np.asarray(angles, dtype=float)
    figure, axes = new_figure(width=8.4, height=2.9)
    for number, ((first, second), color) in enumerate(zip(pairs, (*CYCLE, GRAY))):
        for column, member in ((first, "a"), (second, "b")):
            axes.add_patch(Rectangle((column - 0.42, -0.4), 0.84, 0.8, facecolor=color, linewidth=0))
            axes.text(column, 0, f"{member}{number}", ha="center", va="center", color="white", fontsize=13)
        span = np.linspace(0, np.pi, 40)
        middle, half = (first + second) / 2, abs(second - first) / 2
        axes.plot(middle + half * np.cos(span), 0.45 + 0.3 * half**0.7 * np.sin(span), color=color)
        axes.text(middle, 0.5 + 0.3 * half**0.7, f"{degrees[number]:.3g}", ha="center", va="bottom", fontsize=12)
    axes.set(xlim=(-0.7, width - 0.3), ylim=(-0.6, 1.75), yticks=[], xticks=range(width), xlabel="column of the head")
    axes.grid(visible=False)
    axes.spines["left"].set_visible(False)
    axes.set_title(title)
    return figure


@styled
def phase_map(positions: ArrayLike, frequencies: ArrayLike, *, trained: float | None = None, title: str = "") -> Figure:
    """The phase of every pair (rows, fastest on top) at every position (columns), in turns; a cyclic colour scale.

    Hatched: beyond `trained`, pairs that had not completed a turn by then, so phases never met in training.
    """
    place, theta = np.asarray(positions, dtype=float), np.asarray(frequencies, dtype=float)
    turns = (theta[:, None] * place[None, :] / _TAU) % 1.0
    figure, axes = new_figure(width=8.8, height=4.2)
    edges = (place[0], place[-1], len(theta) - 0.5, -0.5)
    picture = axes.imshow(turns, cmap="twilight", vmin=0, vmax=1, aspect="auto", extent=edges, interpolation="nearest")
    figure.colorbar(picture, ax=axes, label="phase, turns")
    if trained is not None:
        axes.axvline(trained, color=ORANGE, linewidth=2.5)
        slow = np.flatnonzero(theta * trained < _TAU)
        if len(slow) and place[-1] > trained:
            axes.fill_between(
                [trained, place[-1]], slow[0] - 0.5, len(theta) - 0.5, facecolor="none", edgecolor=ORANGE, hatch="//"
            )
    axes.grid(visible=False)
    axes.set(xlabel="position, tokens", ylabel="pair, fastest first", ylim=(len(theta) - 0.5, -0.5))
    axes.set_title(title)
    return figure


@styled
def score_against_distance(
    distances: ArrayLike,
    curves: Mapping[str, ArrayLike],
    *,
    spreads: Mapping[str, ArrayLike] | None = None,
    ylabel: str = "q·k",
    title: str = "",
    log_distance: bool = False,
    limits: tuple[float, float] | None = None,
) -> Figure:
    """One line for each named curve over the distance between query and key, with a band of one spread where given."""
    figure, axes = new_figure(width=8.8, height=3.9)
    x = np.asarray(distances, dtype=float)
    for (name, values), color, dash in zip(curves.items(), CYCLE, DASHES):
        y = np.asarray(values, dtype=float)
        axes.plot(x, y, color=color, linestyle=dash, label=name)
        if spreads and name in spreads:
            band = np.asarray(spreads[name], dtype=float)
            axes.fill_between(x, y - band, y + band, color=color, alpha=0.2, linewidth=0)
    axes.axhline(0, color=BLACK, linewidth=1)
    if log_distance:
        axes.set_xscale("symlog", linthresh=1)
        axes.set_xlim(0, None)
    if limits:
        axes.set_ylim(*limits)
    axes.set(xlabel="distance, tokens", ylabel=ylabel)
    axes.set_title(title)
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


@styled
def wavelength_spectrum(
    wavelengths: Mapping[str, ArrayLike], *, trained: float, target: float | None = None, title: str = ""
) -> Figure:
    """Tokens for one turn of each pair under each named scaling, on a log scale, with the trained (and target) length.

    A pair above the line of the trained length did not complete a turn in training.
    """
    figure, axes = new_figure(width=8.8, height=4.2)
    for (name, values), color, marker, dash in zip(wavelengths.items(), CYCLE, MARKERS, DASHES):
        y = np.asarray(values, dtype=float)
        axes.plot(np.arange(len(y)), y, color=color, marker=marker, markersize=5, linestyle=dash, label=name)
    axes.set_yscale("log")
    right = max(len(np.asarray(values)) for values in wavelengths.values()) - 1
    for length, text in ((trained, "trained"), (target, "wanted")):
        if length is not None and (text == "trained" or length != trained):
            axes.axhline(length, color=BLACK, linewidth=1.3, linestyle="-" if text == "trained" else ":")
            axes.annotate(f"{text}: {length:,g}", (0, length), xytext=(2, 4), textcoords="offset points", fontsize=12)
    axes.set(xlabel="pair, fastest first", ylabel="tokens for one turn", xlim=(-0.5, right + 0.5))
    axes.set_title(title)
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


@styled
def perplexity_by_length(
    lengths: ArrayLike,
    curves: Mapping[str, ArrayLike],
    *,
    trained: float,
    marked: float | None = None,
    limits: tuple[float, float] | None = None,
    title: str = "",
) -> Figure:
    """Perplexity of each method against the tokens in sight, the trained length as a line, `marked` as a dashed one."""
    figure, axes = new_figure(width=8.8, height=4.2)
    x = np.asarray(lengths, dtype=float)
    for (name, values), color, marker, dash in zip(curves.items(), CYCLE, MARKERS, DASHES):
        y = np.asarray(values, dtype=float)
        label = name
        if marked is not None and marked in x:
            label = f"{name}: {y[int(np.flatnonzero(x == marked)[0])]:.2f}"
        axes.plot(x, y, color=color, marker=marker, linestyle=dash, label=label)
    axes.axvline(trained, color=BLACK, linewidth=1.3)
    axes.annotate(" trained", (trained, 1), xycoords=("data", "axes fraction"), va="top", fontsize=12)
    if marked is not None:
        axes.axvline(marked, color=GRAY, linewidth=1.5, linestyle="--")
    axes.set_xscale("log", base=2)
    axes.set_xticks(x, labels=[f"{length:g}" for length in x])
    axes.minorticks_off()
    if limits:
        axes.set_ylim(*limits)
    axes.set(xlabel="tokens in sight", ylabel="perplexity of the last tokens")
    axes.set_title(title)
    heading = f"at {marked:g} tokens" if marked is not None else None
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), title=heading)
    return figure


@styled
def head_weights(weights: ArrayLike, labels: Sequence[str], *, title: str = "") -> Figure:
    """What each head gives to keys at growing distance (rows of `weights`, nearest key first), as filled curves."""
    rows = np.atleast_2d(np.asarray(weights, dtype=float))
    if len(rows) != len(labels):
        raise ValueError(f"want one label a head, got {len(rows)} heads and {len(labels)} labels")
    figure, axes = new_figure(width=8.8, height=3.9)
    for row, label, color, dash in zip(rows, labels, (*CYCLE, GRAY), (*DASHES, "--")):
        axes.plot(np.arange(len(row)), np.maximum(row, 1e-12), color=color, linestyle=dash, label=label)
    axes.set(xlabel="distance, tokens", ylabel="attention weight", yscale="log", ylim=(1e-5, 1.5))
    axes.set_title(title)
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), title="head")
    return figure


@styled
def reach_by_layer(reaches: ArrayLike, *, window: int, title: str = "") -> Figure:
    """Which tokens the last position can hear of after each layer (rows of bools, token 0 left), and after how many layers."""
    table = np.asarray(reaches, dtype=bool)
    if table.ndim != 2:
        raise ValueError(f"reaches must be (layers, tokens), got shape {table.shape}")
    figure, axes = new_figure(width=8.8, height=1.5 + 0.32 * len(table))
    axes.imshow(table, cmap="cividis_r", vmin=-0.2, vmax=1.2, aspect="auto", interpolation="nearest")
    for layer, row in enumerate(table):
        first = int(np.flatnonzero(row)[0])
        place = {"xycoords": ("axes fraction", "data"), "xytext": (6, 0), "textcoords": "offset points"}
        axes.annotate(f"{len(row) - 1 - first} back", (1, layer), va="center", fontsize=12, **place)
    axes.grid(visible=False)
    axes.set_yticks(range(len(table)), labels=[f"layer {layer + 1}" for layer in range(len(table))])
    axes.set(xlabel="token (the last one listens)")
    axes.set_title(title or f"window of {window}")
    return figure
