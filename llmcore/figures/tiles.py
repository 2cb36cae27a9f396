"""The figures of the lesson on tiled attention: a walk over tiles, traffic, growth with length, and a kernel's programs.

Every function takes plain arrays (anything that `numpy.asarray` takes) and returns a Matplotlib figure. The measuring is
the lesson's.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter, LogLocator
from numpy.typing import ArrayLike

from llmcore.figures.base import BLACK, BLUE, CYCLE, GRAY, GREEN, ORANGE, SKY, VERMILION, new_figure, styled

MARKERS = ("o", "s", "^", "D", "v", "P", "X")
Tile = tuple[int, int, int, int]
"""First row, end of rows, first column, end of columns."""


@styled
def tile_player(
    n: int,
    tiles: Sequence[Tile],
    step: int,
    *,
    maxima: ArrayLike,
    sums: ArrayLike,
    final_maxima: ArrayLike,
    final_sums: ArrayLike,
    moved: int,
    standard: int,
    lowest: float = 0.0,
    highest: float = 1.0,
    title: str = "",
) -> Figure:
    """The table of n x n scores with the tile at `step`, each row's running maximum and sum, and the traffic so far.

    `tiles` are visited in this order; pairs in none of them are never computed. `maxima` and `sums` are after the step,
    -inf and 0 in rows that no tile has reached; the final ones are drawn as outlines. `moved` and `standard` are values,
    `lowest` and `highest` what the axis of maxima and sums must hold at every step.

    Raises: ValueError for a step that is no index of `tiles`.
    """
    if not 0 <= step < len(tiles):
        raise ValueError(f"step must be 0 to {len(tiles) - 1}, got {step}")
    figure, (table, running, traffic) = new_figure(1, 3, width=11.0, height=4.4)
    _draw_table(table, n, tiles, step)
    table.set_title(title)

    m, l, last_m, last_l = (np.asarray(x, dtype=float) for x in (maxima, sums, final_maxima, final_sums))
    rows = np.arange(n)
    running.barh(rows, l, 0.8, color=SKY, label="sum so far")
    running.barh(rows, last_l, 0.8, facecolor="none", edgecolor=BLACK, linewidth=1, label="sum, at the end")
    reached = np.isfinite(m)
    running.plot(
        last_m, rows, linestyle="none", marker="o", markerfacecolor="none", color=BLACK, label="maximum, at the end"
    )
    running.plot(m[reached], rows[reached], linestyle="none", marker="o", color=VERMILION, label="maximum so far")
    low, high = min(0.0, lowest, np.min(last_m)), max(highest, np.max(last_l), np.max(last_m))
    running.set(xlim=(1.1 * low, 1.05 * high), ylim=(n - 0.4, -0.6), xlabel="maximum, sum", ylabel="query")
    running.legend(
        loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2, fontsize=9, handletextpad=0.4, columnspacing=1
    )
    running.set_title("carried along")

    bars = traffic.bar(["standard,\nin all", "tiles,\nso far"], [standard, moved], color=[GRAY, BLUE])
    traffic.bar_label(bars, labels=[f"{standard:,}", f"{moved:,}"])
    traffic.set(ylabel="values moved", ylim=(0, 1.15 * max(standard, moved)))
    traffic.grid(axis="x", visible=False)
    traffic.set_title(f"step {step + 1} of {len(tiles)}")
    return figure


def _draw_table(axes, n: int, tiles: Sequence[Tile], step: int) -> None:
    """Tiles done, the one in fast memory, those to come; what no tile covers stays hatched."""
    axes.add_patch(Rectangle((0, 0), n, n, facecolor="white", edgecolor=GRAY, hatch="///", linewidth=0.8))
    for number, (top, bottom, left, right) in enumerate(tiles):
        color = SKY if number < step else ORANGE if number == step else "white"
        axes.add_patch(
            Rectangle(
                (left, top), right - left, bottom - top, facecolor=color, edgecolor=BLACK, linewidth=0.8, zorder=2
            )
        )
    top, bottom, left, right = tiles[step]
    thick = 0.06 * n
    for start, length, name in ((left, right - left, "K, V"), (top, bottom - top, "Q, O")):
        across = name == "K, V"
        corner = (start, -2 * thick) if across else (-2 * thick, start)
        size = (length, thick) if across else (thick, length)
        axes.add_patch(Rectangle(corner, *size, facecolor=ORANGE, edgecolor=BLACK, clip_on=False))
        middle = start + length / 2
        place = (middle, -2.3 * thick) if across else (-2.3 * thick, middle)
        horizontal, vertical = ("center", "bottom") if across else ("right", "center")
        axes.text(*place, name, ha=horizontal, va=vertical, fontsize=11)
    axes.set(xlim=(-7 * thick, 1.02 * n), ylim=(1.02 * n, -4.2 * thick), aspect="equal", xticks=[], yticks=[])
    axes.set(xlabel="keys", ylabel="queries")
    axes.grid(visible=False)
    for spine in axes.spines.values():
        spine.set_visible(False)


@styled
def traffic_curves(
    blocks: ArrayLike,
    formulas: Mapping[str, ArrayLike],
    counted: Mapping[str, Mapping[int, int]],
    *,
    chosen: int,
    limit: int | None = None,
    title: str = "",
) -> Figure:
    """Values moved against the tile size: a line for each formula, markers where loads and stores were counted.

    `counted` maps a formula's name to {block: values}. `chosen` is marked; beyond `limit` a tile does not fit.
    """
    figure, axes = new_figure(width=8.8, height=4.4)
    x = np.asarray(blocks, dtype=float)
    for (name, values), color, marker in zip(formulas.items(), CYCLE, MARKERS):
        series = np.asarray(values, dtype=float)
        if series.shape != x.shape:
            raise ValueError(f"want a value of {name} for each of {len(x)} blocks, got {series.shape}")
        axes.loglog(x, series, color=color, label=name)
        points = counted.get(name, {})
        if points:
            axes.plot(
                [*points], [*points.values()], linestyle="none", marker=marker, color=color, label=f"{name}, counted"
            )
    axes.axvline(chosen, color=GRAY, linestyle="--", linewidth=1.5)
    if limit is not None:
        axes.axvspan(limit, x[-1] * 1.2, color=GRAY, alpha=0.25, linewidth=0)
        axes.text(limit, axes.get_ylim()[1], " too large", va="top", fontsize=11)
    _plain_ticks(axes)
    axes.set_xlim(x[0] / 1.2, x[-1] * 1.2)
    axes.set_xticks(x, labels=[f"{value:g}" for value in x])
    axes.minorticks_off()
    axes.set(xlabel="queries and keys of a tile", ylabel="values moved")
    axes.set_title(title)
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def _plain_ticks(axes) -> None:
    """Vertical labels 0.1, 0.2, 0.5, 1, ... or, over long ranges, powers of ten, written as plain numbers."""
    low, high = axes.get_ylim()
    digits = (1, 2, 5) if high / low < 1e3 else (1,)
    axes.yaxis.set_major_locator(LogLocator(subs=digits))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _brief(value)))


def _brief(value: float) -> str:
    """20000 as 20 k, 3e9 as 3 G."""
    for least, unit, name in ((1e9, 1e9, " G"), (1e6, 1e6, " M"), (1e4, 1e3, " k")):
        if value >= least:
            return f"{value / unit:g}{name}"
    return f"{value:,.0f}" if value >= 1 else f"{value:g}"


@styled
def growth_curves(
    lengths: ArrayLike,
    series: Mapping[str, ArrayLike],
    *,
    ylabel: str,
    marked: int | None = None,
    slopes: Mapping[str, float] | None = None,
    title: str = "",
) -> Figure:
    """Named measurements against the number of tokens, both axes logarithmic; NaN leaves a gap.

    `marked` names a length whose values stand in the legend. `slopes` draws thin guides ("~ N") with these exponents
    through the first length.
    """
    figure, axes = new_figure(width=8.8, height=4.4)
    x = np.asarray(lengths, dtype=float)
    everything = np.concatenate([np.asarray(values, dtype=float) for values in series.values()])
    low = np.nanmin(everything)
    for name, exponent in (slopes or {}).items():
        axes.loglog(x, low * (x / x[0]) ** exponent, color=GRAY, linewidth=1, linestyle=":")
        axes.text(x[-1], low * (x[-1] / x[0]) ** exponent, f" {name}", color=GRAY, va="center", fontsize=11)
    for (name, values), color, marker in zip(series.items(), CYCLE, MARKERS):
        y = np.asarray(values, dtype=float)
        label = name
        if marked is not None:
            here = y[list(x).index(marked)]
            label = f"{name}:\n{here:.3g}" if np.isfinite(here) else f"{name}:\nnot run"
        axes.loglog(x, y, color=color, marker=marker, label=label)
    if marked is not None:
        axes.axvline(marked, color=GRAY, linestyle="--", linewidth=1.5)
    _plain_ticks(axes)
    axes.set_xticks(x, labels=[f"{value:,.0f}" for value in x])
    axes.minorticks_off()
    axes.set(xlabel="tokens", ylabel=ylabel)
    axes.set_title(title)
    axes.legend(loc="center left", bbox_to_anchor=(1.06, 0.5))
    return figure


@styled
def program_grid(
    order: Sequence[tuple[int, int]],
    program: int,
    *,
    n: int,
    block_q: int,
    tiles: Sequence[tuple[int, int, bool]],
    title: str = "",
) -> Figure:
    """Left which program computes which block of queries of which head; right what the chosen program walks over.

    `order` gives (block, head) of each program. `tiles` are its (first key, end, whether nothing in it is hidden).
    """
    if not 0 <= program < len(order):
        raise ValueError(f"program must be 0 to {len(order) - 1}, got {program}")
    blocks = np.array([block for block, _ in order])
    heads = np.array([head for _, head in order])
    numbers = np.zeros((blocks.max() + 1, heads.max() + 1), dtype=int)
    numbers[blocks, heads] = np.arange(len(order))
    figure, (grid, table) = new_figure(1, 2, width=9.6, height=4.4)
    grid.imshow(numbers, cmap="cividis", aspect="auto")
    for (block, head), number in np.ndenumerate(numbers):
        light = number < 0.6 * len(order)
        grid.text(head, block, str(number), ha="center", va="center", color="white" if light else "black", fontsize=11)
    block, head = order[program]
    grid.add_patch(Rectangle((head - 0.5, block - 0.5), 1, 1, facecolor="none", edgecolor=VERMILION, linewidth=3.5))
    grid.set_xticks(range(numbers.shape[1]))
    grid.set_yticks(range(numbers.shape[0]))
    grid.set(xlabel="head", ylabel="block of queries")
    grid.grid(visible=False)
    grid.set_title(title)

    table.add_patch(Rectangle((0, 0), n, n, facecolor="white", edgecolor=GRAY, linewidth=0.8))
    top, bottom = block * block_q, min(n, (block + 1) * block_q)
    for left, right, whole in tiles:
        table.add_patch(
            Rectangle((left, top), right - left, bottom - top, facecolor=SKY if whole else ORANGE, edgecolor=BLACK,
                      hatch="" if whole else "//", zorder=2)
        )  # fmt: skip
    n_whole = sum(whole for *_, whole in tiles)
    for color, hatch, text in (
        (SKY, "", f"{n_whole} tiles without mask"),
        (ORANGE, "//", f"{len(tiles) - n_whole} with"),
    ):
        table.add_patch(Rectangle((0, 0), 0, 0, facecolor=color, hatch=hatch, edgecolor=BLACK, label=text))
    table.plot([0, n], [0, n], color=GREEN, linewidth=1.5, label="diagonal")
    table.set(xlim=(0, n), ylim=(n, 0), aspect="equal", xlabel="keys", ylabel="queries")
    table.set_title(f"program {program}: block {block} of head {head}")
    table.legend(loc="upper right", fontsize=10)
    table.grid(visible=False)
    return figure
