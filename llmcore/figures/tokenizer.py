"""The figures of the tokenizer lesson: bits of an encoding, merges step by step, coloured tokens, compression, Zipf.

Characters that the drawing fonts lack (Chinese, emoji) appear in the HTML figures only; the pictures name code points.
"""

import unicodedata
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import ArrayLike

from llmcore.figures.base import BLUE, CYCLE, GRAY, ORANGE, SKY, VERMILION, YELLOW, escape, new_figure, styled, table

# Fills for neighbouring tokens: pale tints, so that black text keeps a contrast above 7.
TINTS = ("#CDE7F7", "#FBE3B5", "#C9EBDF", "#F4DCE8", "#FBF6C0")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")


def encoding_bits(code_point: int) -> dict[str, list[tuple[str, bool]]]:
    """For UTF-8, UTF-16 and UTF-32 (big-endian) the bits in order, each with True where it carries the code point.

    >>> "".join(bit for bit, carried in encoding_bits(0xE9)["UTF-8"] if carried)
    '00011101001'

    Raises: ValueError for a surrogate or a number outside 0..0x10FFFF.
    """
    if not 0 <= code_point <= 0x10FFFF or 0xD800 <= code_point <= 0xDFFF:
        raise ValueError(f"a code point is 0..0x10FFFF without D800..DFFF, got {code_point:#x}")
    if code_point < 0x80:
        fixed = [1]
    elif code_point < 0x800:
        fixed = [3, 2]
    elif code_point < 0x10000:
        fixed = [4, 2, 2]
    else:
        fixed = [5, 2, 2, 2]
    utf16_fixed = [0, 0] if code_point < 0x10000 else [6, 0, 6, 0]
    layouts = {"UTF-8": ("utf-8", fixed), "UTF-16": ("utf-16-be", utf16_fixed), "UTF-32": ("utf-32-be", [8, 3, 0, 0])}
    character, bits = chr(code_point), {}
    for name, (codec, prefixes) in layouts.items():
        data = character.encode(codec)
        bits[name] = [
            (bit, place >= prefix) for byte, prefix in zip(data, prefixes) for place, bit in enumerate(f"{byte:08b}")
        ]
    return bits


@styled
def bit_layout(code_point: int) -> Figure:
    """One row of bits for each encoding, a box for each bit: coloured ones carry the code point, white ones are fixed.

    UTF-16 surrogates carry the code point less 0x10000.

    Raises: ValueError for a surrogate or a number outside 0..0x10FFFF.
    """
    rows = encoding_bits(code_point)
    figure, axes = new_figure(width=9.0, height=3.3)
    for height, (name, bits) in enumerate(rows.items()):
        top = -1.75 * height
        axes.text(-0.6, top + 0.5, f"{name}\n{len(bits) // 8} byte{'s' * (len(bits) > 8)}", ha="right", va="center")
        for index, (bit, carried) in enumerate(bits):
            x = index + 0.6 * (index // 8)
            fill = (SKY, YELLOW, ORANGE, "#7FCDB5")[index // 8 % 4] if carried else "white"
            axes.add_patch(Rectangle((x, top), 1, 1, facecolor=fill, edgecolor="#555555", linewidth=0.8))
            axes.text(x + 0.5, top + 0.48, bit, ha="center", va="center", family="monospace", fontsize=11)
        for byte in range(len(bits) // 8):
            value = int("".join(bit for bit, _ in bits[8 * byte : 8 * byte + 8]), 2)
            axes.text(
                8.6 * byte + 4, top - 0.12, f"{value:02X}", ha="center", va="top", family="monospace", fontsize=12
            )
    axes.set(xlim=(-4.4, 34.6), ylim=(-4.3, 1.2))
    axes.axis("off")
    name = unicodedata.name(chr(code_point), "unnamed")
    axes.set_title(f"U+{code_point:04X} {name[:60].lower()}: coloured bits carry it, white bits are fixed")
    return figure


def show_token(token: bytes | str) -> str:
    """A token as readable text: spaces and line ends as signs, bytes that are no whole character as \\xNN.

    >>> show_token(b"caf"), show_token(b"\\xe6\\xb1"), ascii(show_token(" a"))
    ('caf', '\\\\xe6\\\\xb1', "'\\\\xb7a'")
    """
    text = token.decode("utf-8", errors="backslashreplace") if isinstance(token, bytes) else token
    signs = {" ": "\u00b7", "\n": "\u21b5", "\t": "\u2192", "\r": "\u240d"}
    return "".join(signs.get(char, char if char.isprintable() else f"\\u{ord(char):04x}") for char in text)


def colored_tokens(rows: Mapping[str, Sequence[bytes | str]], *, ids: Mapping[str, Sequence[int]] | None = None) -> str:
    """HTML with a line for each named tokenizer: its tokens in alternating tints, boxed so that edges need no colour.

    `ids`, by the same names, become the tokens' hover text.
    """
    lines = []
    for name, tokens in rows.items():
        numbers = ids[name] if ids and name in ids else None
        lines.append(
            f'<p style="margin:0.4em 0 0.1em"><strong>{escape(name)}</strong>: {len(tokens):,} tokens</p>'
            f'<p style="line-height:2;margin:0">{_boxes(tokens, numbers)}</p>'
        )
    return "<div>" + "".join(lines) + "</div>"


def _boxes(tokens: Iterable[bytes | str], ids: Sequence[int] | None = None, marked: Sequence[bytes] = ()) -> str:
    boxes = []
    for index, token in enumerate(tokens):
        border = f"2px solid {VERMILION}" if token in marked else f"1px solid {GRAY}"
        style = f"background:{TINTS[index % len(TINTS)]};color:#000;border:{border};border-radius:3px;padding:1px 3px"
        title = f' title="{escape(f"id {ids[index]}")}"' if ids is not None else ""
        boxes.append(f'<code style="{style}"{title}>{escape(show_token(token))}</code>')
    return " ".join(boxes)


def merge_frame(
    words: Sequence[tuple[Sequence[bytes], int]],
    pairs: Sequence[tuple[tuple[bytes, bytes], int]],
    *,
    step: int,
    merged: tuple[bytes, bytes] | None = None,
) -> str:
    """HTML for one step of byte-pair training: the words (tokens and count) and the most frequent pairs with counts.

    `merged` is the pair that this step joined; the tokens that it made are outlined. The best pair of the next step
    is the first of `pairs`.
    """
    joined = (merged[0] + merged[1],) if merged else ()
    headline = f"step {step}: " + (
        f"joined <code>{escape(show_token(merged[0]))}</code> and <code>{escape(show_token(merged[1]))}</code>"
        if merged
        else "single bytes, nothing joined yet"
    )
    corpus = table(
        ("count", "word, in tokens"), ((f"{count:,}", _boxes(tokens, marked=joined)) for tokens, count in words)
    )
    ranking = table(("count", "pair"), ((f"{count:,}", _boxes(pair)) for pair, count in pairs))
    side = '<div style="flex:1 1 14em">'
    return (
        f'<div><p><strong>{headline}</strong></p><div style="display:flex;flex-wrap:wrap;gap:2em;align-items:flex-start">'
        f"{side}<p>corpus</p>{corpus}</div>{side}<p>most frequent pairs (the first is joined next)</p>{ranking}</div></div></div>"
    )


@styled
def compression_curves(
    vocab_sizes: ArrayLike,
    values: Mapping[str, ArrayLike],
    *,
    marked: float | None = None,
    ylabel: str = "compression, bytes per token",
) -> Figure:
    """A line for each language: a value, by default UTF-8 bytes per token, against the vocabulary size (logarithmic).

    `marked` is a size; the legend then also gives each line's value there.
    """
    sizes = np.asarray(vocab_sizes, dtype=float)
    figure, axes = new_figure(width=8.6, height=4.2)
    for (name, series), color, marker in zip(values.items(), CYCLE, MARKERS):
        series = np.asarray(series, dtype=float)
        at_mark = "" if marked is None else f": {np.interp(marked, sizes, series):.3g}"
        axes.plot(sizes, series, color=color, marker=marker, label=name + at_mark)
    if marked is not None:
        axes.axvline(marked, color=GRAY, linestyle="--", label=f"{marked:,.0f} tokens")
    axes.set_xscale("log", base=2)
    axes.set_xticks(sizes, labels=[f"{size:,.0f}" for size in sizes], rotation=30 if len(sizes) > 6 else 0)
    axes.set(xlabel="vocabulary size, tokens", ylabel=ylabel)
    axes.set_ylim(bottom=0)
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def zipf_slope(frequencies: ArrayLike, *, ranks: tuple[int, int] | None = None) -> tuple[float, float]:
    """Slope and intercept of log10 frequency against log10 rank, by least squares over the ranks first..last (from 1).

    >>> slope, intercept = zipf_slope([1000 / rank for rank in range(1, 50)])
    >>> round(slope, 6), round(intercept, 6)
    (-1.0, 3.0)

    Raises: ValueError when fewer than two positive frequencies lie in the range.
    """
    ordered = np.sort(np.ravel(np.asarray(frequencies, dtype=float)))[::-1]
    ordered = ordered[ordered > 0]
    first, last = ranks or (1, len(ordered))
    used = ordered[first - 1 : last]
    if first < 1 or len(used) < 2:
        raise ValueError(f"a slope needs two frequencies, got {len(used)} in ranks {first}..{last}; widen the range")
    slope, intercept = np.polyfit(np.log10(np.arange(first, first + len(used))), np.log10(used), 1)
    return float(slope), float(intercept)


@styled
def zipf(frequencies: Mapping[str, ArrayLike], *, ranks: tuple[int, int] | None = None) -> Figure:
    """Frequency against rank on logarithmic axes for each named series, with the fitted line and its slope."""
    figure, axes = new_figure(width=8.0, height=4.2)
    for (name, values), color in zip(frequencies.items(), (BLUE, VERMILION, *CYCLE[2:])):
        ordered = np.sort(np.ravel(np.asarray(values, dtype=float)))[::-1]
        ordered = ordered[ordered > 0]
        slope, intercept = zipf_slope(ordered, ranks=ranks)
        shown = np.unique(np.geomspace(1, len(ordered), 400).astype(int))
        axes.loglog(shown, ordered[shown - 1], ".", color=color, markersize=6)
        first, last = ranks or (1, len(ordered))
        ends = np.array([first, min(last, len(ordered))])
        axes.loglog(ends, 10**intercept * ends**slope, color=color, linestyle="--", label=f"{name}: slope {slope:.2f}")
    axes.set(xlabel="rank", ylabel="occurrences")
    axes.legend()
    return figure
