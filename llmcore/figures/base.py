"""Style, still pictures, and interactive panels that store a still picture of themselves.

`interactive(draw, alt=..., d_k=(1, 512, 64))` draws a Matplotlib figure whenever a control moves. The one output that it
makes holds the live widget, the picture at the default values and the alternative text, so that a reader without a
kernel sees the still. Without ipywidgets, only the still is shown.
"""

import base64
import contextlib
import functools
import html
import io
import sys
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ParamSpec

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from llmcore._display import ShownOnce, show_bundle

# Okabe and Ito's palette, told apart under the common kinds of colour blindness (Color Universal Design, 2008).
BLACK = "#000000"
ORANGE = "#E69F00"
SKY = "#56B4E9"
GREEN = "#009E73"
YELLOW = "#F0E442"
BLUE = "#0072B2"
VERMILION = "#D55E00"
PURPLE = "#CC79A7"
GRAY = "#8C8C8C"
CYCLE = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY, BLACK)
"""Line colours in order; yellow is left for fills, it is too pale for lines on white."""

P = ParamSpec("P")

DPI = 120
CSS_DPI = 80
"""A figure inch is shown as this many CSS pixels, fewer than the picture has, so that it is sharp on dense screens."""
_PALETTE_COLORS = 256

STYLE: dict[str, Any] = {
    "figure.figsize": (8.0, 4.0),
    "figure.dpi": DPI,
    "figure.facecolor": "white",
    "figure.constrained_layout.use": True,
    "savefig.facecolor": "white",
    "axes.facecolor": "white",
    "axes.prop_cycle": mpl.cycler(color=CYCLE),
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.titlesize": 13,
    "axes.titlelocation": "left",
    "axes.labelsize": 13,
    "grid.color": "#E0E0E0",
    "grid.linewidth": 0.8,
    "font.size": 12,
    "xtick.labelsize": 12,
    "ytick.labelsize": 12,
    "legend.fontsize": 12,
    "legend.frameon": False,
    "lines.linewidth": 2.2,
    "lines.markersize": 7,
    "image.cmap": "cividis",
}
_CACHED_FRAMES = 64
_PLAY_INTERVAL_MS = 600


class use_style(contextlib.AbstractContextManager):
    """Set Matplotlib to the course's style at once; used in a `with`, put the former settings back on leaving.

    >>> with use_style():
    ...     mpl.rcParams["axes.labelsize"]
    13.0
    """

    def __init__(self) -> None:
        self._former = {name: mpl.rcParams[name] for name in STYLE}
        mpl.rcParams.update(STYLE)

    def __exit__(self, *error: object) -> None:
        mpl.rcParams.update(self._former)


def new_figure(rows: int = 1, columns: int = 1, *, width: float = 8.0, height: float = 4.0) -> tuple[Figure, Any]:
    """A figure in the course's style and its axes (one, or an array as `plt.subplots` gives), unknown to pyplot.

    Sizes are in inches. A notebook does not show it by itself: give it to `show` or return it from a `draw`.
    """
    with use_style():
        figure = Figure(figsize=(width, height))
        return figure, figure.subplots(rows, columns)


def styled(draw: Callable[P, Figure]) -> Callable[P, Figure]:
    """The drawing function, run in the course's style whatever Matplotlib is set to."""

    @functools.wraps(draw)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> Figure:
        with use_style():
            return draw(*args, **kwargs)

    return wrapped


def render_png(figure: Figure) -> bytes:
    """The figure as PNG bytes with a palette of 256 colours (a third of the size); pyplot forgets the figure.

    Equal figures give equal bytes.
    """
    buffer = io.BytesIO()
    with use_style():
        canvas = FigureCanvasAgg(figure)
        figure.set_dpi(DPI)
        canvas.draw()
    pixels = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
    pixels.quantize(_PALETTE_COLORS, method=Image.Quantize.MEDIANCUT).save(buffer, "png", optimize=True)
    pyplot = sys.modules.get("matplotlib.pyplot")
    if pyplot is not None:
        pyplot.close(figure)
    return buffer.getvalue()


def _still(png: bytes, figure_width: float, alt: str) -> tuple[dict[str, Any], dict[str, Any]]:
    data = {"image/png": base64.b64encode(png).decode("ascii"), "text/plain": alt}
    return data, {"image/png": {"alt": alt, "width": round(figure_width * CSS_DPI)}}


def show(figure: Figure, alt: str) -> None:
    """Display a still picture with its alternative text, which is also its text form.

    Raises: ValueError for an empty `alt`.
    """
    _require_alt(alt)
    show_bundle(*_still(render_png(figure), figure.get_figwidth(), alt))


def show_html(markup: str, alt: str) -> None:
    """Display a text figure (HTML whose author has escaped its text) with its alternative text.

    Raises: ValueError for an empty `alt`.
    """
    _require_alt(alt)
    show_bundle({"text/html": markup, "text/plain": alt})


@dataclass(frozen=True)
class Steps:
    """A slider over given values, such as powers of two; it starts at `default` (the first value when left out)."""

    values: Sequence[Any]
    default: Any = None

    def __post_init__(self) -> None:
        if not self.values:
            raise ValueError("Steps needs at least one value, got none")
        if self.default is None:
            object.__setattr__(self, "default", self.values[0])
        elif self.default not in self.values:
            raise ValueError(f"default must be one of the values {list(self.values)}, got {self.default!r}")


def interactive(
    draw: Callable[..., Figure],
    *,
    alt: str | Callable[..., str],
    play: str | None = None,
    labels: Mapping[str, str] | None = None,
    slow: bool = False,
    **controls: Any,
) -> "Panel":
    """A panel that redraws `draw(**values)` as its controls move; it is displayed at once.

    Each control is a keyword of `draw`: `(low, high, start)` or `(low, high, start, step)` is a slider, whole numbers
    where all are whole; `Steps(values)` a slider over given values; a list or dict (label to value) a menu that starts
    with its first entry; a bool a switch; a str a text field. `labels` names controls for the reader. `play` names a
    whole-number slider that gets play buttons. `alt` says in words what the picture shows: a text, or a function of the
    same values. With `slow` the picture follows when the mouse is released rather than while it drags.

    Raises: ValueError for an empty `alt`, a control that is none of these, or `play` that names no whole-number slider.
    """
    return Panel(_FigureView(draw), alt, play, labels or {}, slow, controls)


def interactive_html(
    render: Callable[..., str],
    *,
    alt: str | Callable[..., str],
    play: str | None = None,
    labels: Mapping[str, str] | None = None,
    slow: bool = False,
    **controls: Any,
) -> "Panel":
    """As `interactive`, for text figures: `render(**values)` returns HTML, whose author has escaped its text."""
    return Panel(_HtmlView(render), alt, play, labels or {}, slow, controls)


class Panel(ShownOnce):
    """Controls above a picture. `controls[name].value = ...` moves one, `view.value` is what is drawn."""

    def __init__(
        self,
        view: "_FigureView | _HtmlView",
        alt: str | Callable[..., str],
        play: str | None,
        labels: Mapping[str, str],
        slow: bool,
        specs: Mapping[str, Any],
    ) -> None:
        unknown = set(labels) - set(specs)
        if unknown:
            raise ValueError(f"labels names {', '.join(sorted(unknown))}, got controls {', '.join(specs)}; rename one")
        self._drawer, self._alt = view, alt
        self.values = {name: _default(name, spec) for name, spec in specs.items()}
        self.alt = self._alt_text()
        _require_alt(self.alt)
        self.still = view.draw(self.values)
        self._frames = OrderedDict([(self._key(), (self.still, self.alt))])
        self.still_alt = self.alt
        self.controls: dict[str, Any] = {}
        self.view = self.widget = None
        with contextlib.suppress(ImportError):
            self._build(specs, labels, play, slow)
        self.show()

    def _build(self, specs: Mapping[str, Any], labels: Mapping[str, str], play: str | None, slow: bool) -> None:
        import ipywidgets as widgets

        for name, spec in specs.items():
            self.controls[name] = _control(widgets, name, spec, labels.get(name, name.replace("_", " ")), not slow)
            self.controls[name].observe(lambda change, name=name: self._move(name, change["new"]), names="value")
        row: list[Any] = list(self.controls.values())
        if play is not None:
            row.insert(0, _play_buttons(widgets, self.controls, play))
        self.view = self._drawer.widget(widgets, self.still, self.alt)
        bar = widgets.HBox(row, layout=widgets.Layout(flex_flow="row wrap"))
        self.widget = widgets.VBox([bar, self.view])

    def _alt_text(self) -> str:
        return self._alt(**self.values) if callable(self._alt) else self._alt

    def _key(self) -> tuple[Any, ...]:
        return tuple(repr(value) for value in self.values.values())

    def _move(self, name: str, value: Any) -> None:
        """Redraw for one changed control. The browser sends the next change only when this one is done, so a fast drag
        skips pictures instead of queueing them; frames seen before (a replay) come from a small cache."""
        self.values[name] = value
        key = self._key()
        if key not in self._frames:
            self._frames[key] = (self._drawer.draw(self.values), self._alt_text())
            if len(self._frames) > _CACHED_FRAMES:
                self._frames.popitem(last=False)
        content, self.alt = self._frames[key]
        self.view.value = self._drawer.shown(content, self.alt)

    def _bundle(self) -> tuple[dict[str, Any], dict[str, Any]]:
        data, metadata = self._drawer.bundle(self.still, self.still_alt)
        if self.widget is not None:
            data.update(self.widget._repr_mimebundle_())
            data["text/plain"] = self.still_alt
        return data, metadata


class _FigureView:
    """Draws figures to PNG, shown as an image in an HTML widget."""

    def __init__(self, draw: Callable[..., Figure]) -> None:
        self._draw, self.figure_width = draw, 0.0

    def draw(self, values: Mapping[str, Any]) -> bytes:
        with use_style():
            figure = self._draw(**values)
        if not isinstance(figure, Figure):
            raise ValueError(
                f"draw must return a Matplotlib Figure, got {type(figure).__name__}; end it with `return figure`"
            )
        self.figure_width = figure.get_figwidth()
        return render_png(figure)

    def widget(self, widgets: Any, content: bytes, alt: str) -> Any:
        return widgets.HTML(value=self.shown(content, alt))

    def shown(self, content: bytes, alt: str) -> str:
        """The picture as an image element: unlike an Image widget, it can carry its alternative text."""
        width, source = round(self.figure_width * CSS_DPI), base64.b64encode(content).decode("ascii")
        return f'<img alt="{html.escape(alt)}" style="width:{width}px;max-width:100%" src="data:image/png;base64,{source}">'

    def bundle(self, content: bytes, alt: str) -> tuple[dict[str, Any], dict[str, Any]]:
        return _still(content, self.figure_width, alt)


class _HtmlView:
    """Renders HTML for an HTML widget."""

    def __init__(self, render: Callable[..., str]) -> None:
        self._render = render

    def draw(self, values: Mapping[str, Any]) -> str:
        markup = self._render(**values)
        if not isinstance(markup, str):
            raise ValueError(f"render must return HTML as str, got {type(markup).__name__}")
        return markup

    def widget(self, widgets: Any, content: str, alt: str) -> Any:
        return widgets.HTML(value=self.shown(content, alt))

    def shown(self, content: str, alt: str) -> str:
        return content

    def bundle(self, content: str, alt: str) -> tuple[dict[str, Any], dict[str, Any]]:
        return {"text/html": content, "text/plain": alt}, {}


def _require_alt(alt: str) -> None:
    if not isinstance(alt, str) or not alt.strip():
        raise ValueError(f"alt must say in words what the picture shows, got {alt!r}")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _default(name: str, spec: Any) -> Any:
    """The value that a control starts with.

    Raises: ValueError when `spec` says no control.
    """
    if isinstance(spec, bool | str):
        return spec
    if isinstance(spec, Steps):
        return spec.default
    if isinstance(spec, dict) and spec:
        return next(iter(spec.values()))
    if isinstance(spec, list) and spec:
        return spec[0]
    if isinstance(spec, tuple) and len(spec) in (3, 4) and all(map(_is_number, spec)) and spec[0] <= spec[2] <= spec[1]:
        return spec[2]
    raise ValueError(
        f"control {name} must be (low, high, start) or (low, high, start, step) with low <= start <= high, Steps, a list "
        f"or dict that is not empty, a bool or a str, got {spec!r}"
    )


def _control(widgets: Any, name: str, spec: Any, label: str, live: bool) -> Any:
    common = {"description": label, "style": {"description_width": "initial"}}
    wide = {**common, "continuous_update": live, "layout": widgets.Layout(width="22em")}
    start = _default(name, spec)
    if isinstance(spec, bool):
        return widgets.Checkbox(value=spec, indent=False, **common)
    if isinstance(spec, str):
        return widgets.Text(value=spec, **{**wide, "continuous_update": True})
    if isinstance(spec, Steps):
        return widgets.SelectionSlider(options=list(spec.values), value=start, **wide)
    if isinstance(spec, dict | list):
        return widgets.Dropdown(options=spec if isinstance(spec, list) else list(spec.items()), value=start, **common)
    low, high = spec[:2]
    if all(isinstance(number, int) for number in spec):
        return widgets.IntSlider(value=start, min=low, max=high, step=spec[3] if len(spec) == 4 else 1, **wide)
    step = spec[3] if len(spec) == 4 else (high - low) / 100
    return widgets.FloatSlider(value=start, min=low, max=high, step=step, readout_format=".3g", **wide)


def _play_buttons(widgets: Any, controls: Mapping[str, Any], name: str) -> Any:
    slider = controls.get(name)
    if not isinstance(slider, widgets.IntSlider):
        raise ValueError(
            f"play must name a whole-number slider, got {name!r} among {', '.join(controls) or 'no controls'}"
        )
    buttons = widgets.Play(
        value=slider.value, min=slider.min, max=slider.max, step=slider.step, interval=_PLAY_INTERVAL_MS, tooltip="Play"
    )
    widgets.jslink((buttons, "value"), (slider, "value"))
    return buttons


def escape(text: object) -> str:
    """Text made safe for HTML, quotes included."""
    return html.escape(str(text), quote=True)


def table(header: Iterable[object], rows: Iterable[Iterable[str]]) -> str:
    """An HTML table; header cells are escaped, body cells are HTML already."""
    head = "".join(f'<th scope="col" style="text-align:left">{escape(name)}</th>' for name in header)
    body = "".join(
        "<tr>" + "".join(f'<td style="text-align:left">{cell}</td>' for cell in row) + "</tr>" for row in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
