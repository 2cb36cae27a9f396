"""Figures: stills with alternative text, panels driven without a browser, and what each picture says."""

import base64
import io
import json
import re
import sys
from html.parser import HTMLParser

import numpy as np
import pytest

matplotlib = pytest.importorskip("matplotlib")
from matplotlib.figure import Figure  # noqa: E402
from PIL import Image  # noqa: E402

from llmcore import figures  # noqa: E402
from llmcore.figures import attention, base, tokenizer  # noqa: E402


def line(n=3, steep=False, kind="a"):
    figure, axes = figures.new_figure(width=3, height=2)
    axes.plot(np.arange(n) * (5 if steep else 1), label=kind)
    axes.set(xlabel="x", ylabel="y", ylim=(0, 60))
    return figure


@pytest.fixture
def outputs(monkeypatch):
    """The bundles that would be displayed in a notebook."""
    shown = []
    monkeypatch.setattr(base, "show_bundle", lambda data, metadata=None: shown.append((data, metadata)))
    monkeypatch.setattr("llmcore._display.show_bundle", lambda data, metadata=None: shown.append((data, metadata)))
    return shown


def picture_of(panel):
    """The PNG bytes that a live panel shows."""
    return base64.b64decode(panel.view.value.partition("base64,")[2].partition('"')[0])


def pixels(png):
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))


def test_a_still_has_picture_text_and_alternative_text(outputs):
    figures.show(line(), "a line rising from 0 to 2")
    ((data, metadata),) = outputs
    assert base64.b64decode(data["image/png"]).startswith(b"\x89PNG")
    assert data["text/plain"] == "a line rising from 0 to 2"
    assert metadata["image/png"] == {"alt": "a line rising from 0 to 2", "width": 240}
    for call in (lambda: figures.show(line(), " "), lambda: figures.show_html("<p></p>", "")):
        with pytest.raises(ValueError, match="alt must say in words"):
            call()


def test_without_a_notebook_the_text_is_printed(capsys):
    figures.show(line(), "a line")
    assert capsys.readouterr().out == "a line\n"


def test_equal_figures_give_equal_bytes_and_pyplot_forgets_them():
    import matplotlib.pyplot as plt

    matplotlib.use("agg")
    assert figures.render_png(line()) == figures.render_png(line())
    figure = plt.figure()
    figures.render_png(figure)
    assert figure.number not in plt.get_fignums()


def test_style_is_put_back():
    before = dict(matplotlib.rcParams)
    with figures.use_style():
        assert matplotlib.rcParams["axes.labelsize"] == 13
    assert dict(matplotlib.rcParams) == before
    assert len(set(figures.CYCLE)) == 7


def test_a_slider_redraws_the_picture(outputs):
    pytest.importorskip("ipywidgets")
    drawn = []

    def draw(n, steep, kind):
        drawn.append((n, steep, kind))
        return line(n, steep, kind)

    panel = figures.interactive(
        draw,
        alt=lambda n, **_: f"{n} points",
        play="n",
        n=(2, 9, 3),
        steep=False,
        kind=["a", "b"],
        labels={"n": "points"},
    )
    first = panel.view.value
    assert picture_of(panel) == panel.still
    panel.controls["n"].value = 7
    assert panel.view.value != first
    assert pixels(picture_of(panel)).shape == pixels(panel.still).shape
    assert 'alt="7 points"' in panel.view.value
    assert panel.alt == "7 points"
    panel.controls["steep"].value = True
    panel.controls["kind"].value = "b"
    assert drawn == [(3, False, "a"), (7, False, "a"), (7, True, "a"), (7, True, "b")]
    panel.controls["n"].value = 9
    panel.controls["n"].value = 7
    assert len(drawn) == 5  # seen before: from the cache
    assert len(outputs) == 1


def test_one_output_holds_widget_still_and_text(outputs):
    pytest.importorskip("ipywidgets")
    panel = figures.interactive(line, alt="a line", n=(2, 9, 3))
    panel.controls["n"].value = 8
    ((data, metadata),) = outputs
    assert set(data) == {"application/vnd.jupyter.widget-view+json", "image/png", "text/plain"}
    assert data["text/plain"] == metadata["image/png"]["alt"] == "a line"
    assert base64.b64decode(data["image/png"]) == panel.still
    json.dumps(data)


def test_without_ipywidgets_the_still_remains(outputs, monkeypatch):
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    panel = figures.interactive(line, alt="a line", n=(2, 9, 3))
    assert set(outputs[0][0]) == {"image/png", "text/plain"}
    assert panel.controls == {}


def test_text_panels_render_html(outputs):
    pytest.importorskip("ipywidgets")
    panel = figures.interactive_html(lambda text: f"<b>{base.escape(text)}</b>", alt="bold text", text="a<b")
    assert panel.view.value == "<b>a&lt;b</b>"
    panel.controls["text"].value = '<script>"'
    assert panel.view.value == "<b>&lt;script&gt;&quot;</b>"
    data = outputs[0][0]
    assert data["text/html"] == "<b>a&lt;b</b>"
    assert data["text/plain"] == "bold text"


@pytest.mark.parametrize(
    ("spec", "widget", "start"),
    [
        ((1, 512, 64), "IntSlider", 64),
        ((0, 10, 4, 2), "IntSlider", 4),
        ((0.0, 1.0, 0.5), "FloatSlider", 0.5),
        (True, "Checkbox", True),
        (["a", "b"], "Dropdown", "a"),
        ({"one": 1, "two": 2}, "Dropdown", 1),
        (base.Steps([1, 2, 4, 8], 4), "SelectionSlider", 4),
        ("text", "Text", "text"),
    ],
)
def test_controls_are_said_plainly_and_have_a_description(outputs, spec, widget, start):
    pytest.importorskip("ipywidgets")
    seen = []
    panel = figures.interactive(lambda the_control: seen.append(the_control) or line(), alt="x", the_control=spec)
    control = panel.controls["the_control"]
    assert type(control).__name__ == widget
    assert control.description == "the control"
    assert control.value == start == seen[0]


@pytest.mark.parametrize("spec", [(1, 2), (5, 1, 3), (1, 5, 9), [], {}, None, 3, ("a", "b", "c")])
def test_what_is_no_control_is_refused(spec):
    with pytest.raises(ValueError, match=r"control n must be \(low, high, start\)"):
        figures.interactive(line, alt="x", n=spec)


def test_wrong_panels_are_refused(outputs):
    pytest.importorskip("ipywidgets")
    with pytest.raises(ValueError, match="play must name a whole-number slider, got 'kind'"):
        figures.interactive(line, alt="x", play="kind", kind=["a"])
    with pytest.raises(ValueError, match="labels names m, got controls n"):
        figures.interactive(line, alt="x", labels={"m": "points"}, n=(1, 2, 1))
    with pytest.raises(ValueError, match="draw must return a Matplotlib Figure, got int"):
        figures.interactive(lambda n: n, alt="x", n=(1, 2, 1))
    with pytest.raises(ValueError, match="render must return HTML as str, got int"):
        figures.interactive_html(lambda n: n, alt="x", n=(1, 2, 1))
    with pytest.raises(ValueError, match="default must be one of the values"):
        base.Steps([1, 2], 3)


def attention_figures():
    scores, weights = np.linspace(-9, 9, 200), np.full(16, 1 / 16)
    causal = np.tril(np.ones((9, 9), bool))
    causal[4] = False
    return {
        "scores": attention.score_histogram(scores, weights, d_k=64, scaled=True),
        "gradients": attention.gradient_norms([1, 4, 16], {"scaled": [1, 1, 1], "not": [1, 0.1, 0.01]}, marked=4),
        "mask": attention.mask_picture(causal),
        "weights": attention.mask_picture(causal, weights=causal / 9, key_labels=list("abcdefghi")),
        "large mask": attention.mask_picture(np.ones((50, 70), bool)),
        "cache": attention.kv_cache_bars({"MHA": 4 * 2**30, "MQA": 2**27}, title="cache", budget=2**31),
        "roofline": attention.roofline({"a": (1, 1e12), "b": (500, 5e14)}, peak_flops=1e15, bandwidth=4e12),
        "layers": attention.by_layer({"entropy, nats": {"x": [1, 2], "y": [2, 1]}, "rank": {"x": [1, 0.1]}}, logarithmic=["rank"]),
    }  # fmt: skip


def tokenizer_figures():
    return {
        "bits": tokenizer.bit_layout(0x1F609),
        "curves": tokenizer.compression_curves([256, 512, 1024], {"en": [1, 2, 3], "zh": [1, 1, 2]}, marked=512),
        "zipf": tokenizer.zipf({"words": 1000 / np.arange(1, 300)}, ranks=(3, 200)),
    }


@pytest.mark.parametrize("make", [attention_figures, tokenizer_figures])
def test_pictures_are_small_labelled_and_not_blank(make):
    for name, figure in make().items():
        assert isinstance(figure, Figure)
        png = figures.render_png(figure)
        assert 3_000 < len(png) < 60_000, name
        assert pixels(png).std() > 5
        for axes in figure.axes:
            assert name == "bits" or (axes.get_xlabel() or axes.get_ylabel()), name


def test_no_text_of_a_figure_overlaps_another_or_leaves_the_page():
    for name, figure in {**attention_figures(), **tokenizer_figures()}.items():
        figures.render_png(figure)
        renderer = figure.canvas.get_renderer()
        page = figure.bbox
        texts = [text for axes in figure.axes for text in axes.texts if text.get_text().strip()]
        texts += [
            label for axes in figure.axes if axes.axison for label in (axes.xaxis.label, axes.yaxis.label, axes.title)
        ]
        boxes = [(text.get_text(), text.get_window_extent(renderer)) for text in texts if text.get_text()]
        for index, (label, box) in enumerate(boxes):
            assert box.x0 >= -1 and box.x1 <= page.x1 + 1, (name, label)  # noqa: PT018
            for other_label, other in boxes[index + 1 :]:
                assert not (box.shrunk(0.9, 0.8)).overlaps(other.shrunk(0.9, 0.8)), (name, label, other_label)


def test_bits_of_every_encoding_carry_the_code_point():
    for code_point in (0x00, 0x41, 0x7F, 0x80, 0x7FF, 0x800, 0xFFFD, 0x10000, 0x1F609, 0x10FFFF):
        for name, bits in tokenizer.encoding_bits(code_point).items():
            carried = int("".join(bit for bit, carries in bits if carries), 2)
            shift = 0x10000 if name == "UTF-16" and code_point >= 0x10000 else 0
            assert carried == code_point - shift, (name, hex(code_point))
    for bad in (-1, 0xD800, 0xDFFF, 0x110000):
        with pytest.raises(ValueError, match=r"a code point is 0\.\.0x10FFFF"):
            tokenizer.bit_layout(bad)


class Text(HTMLParser):
    def __init__(self, markup):
        super().__init__()
        self.words, self.open = [], []
        self.feed(markup)

    def handle_starttag(self, tag, attrs):
        self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


def test_coloured_tokens_escape_and_show_what_is_invisible():
    markup = tokenizer.colored_tokens({"<b>": [b"<i>", b" a", b"\xe6", b"\n"]}, ids={"<b>": [1, 2, 3, 4]})
    parsed = Text(markup)
    assert parsed.open == []
    assert parsed.words[:2] == ["<b>", ": 4 tokens"]
    assert [word for word in parsed.words[2:] if word.strip()] == ["<i>", "\u00b7a", "\\xe6", "\u21b5"]
    assert 'title="id 3"' in markup


def test_a_merge_frame_shows_step_words_pairs_and_outlines_the_new_token():
    words = [((b"h", b"ug"), 10), ((b"p", b"ug", b"s"), 5)]
    markup = tokenizer.merge_frame(words, [((b"h", b"ug"), 10)], step=2, merged=(b"u", b"g"))
    parsed = Text(markup)
    assert parsed.open == []
    assert "step 2: joined " in parsed.words
    assert len(re.findall(rf"2px solid {base.VERMILION}", markup)) == 2
    assert "nothing joined yet" in tokenizer.merge_frame(words, [], step=0)


def test_zipf_slope_is_least_squares_over_the_ranks():
    frequencies = [5e4 / rank**1.3 for rank in range(1, 500)]
    assert tokenizer.zipf_slope(frequencies, ranks=(10, 200))[0] == pytest.approx(-1.3)
    with pytest.raises(ValueError, match=r"a slope needs two frequencies, got 1 in ranks 5\.\.5"):
        tokenizer.zipf_slope(frequencies, ranks=(5, 5))


def test_a_mask_must_be_a_grid():
    with pytest.raises(ValueError, match=r"mask must be \(T, S\), got shape \(1, 3, 3\)"):
        attention.mask_picture(np.ones((1, 3, 3), bool))


def test_unknown_names_are_attribute_errors():
    with pytest.raises(AttributeError, match="no attribute or chapter module 'sculpture'"):
        _ = figures.sculpture
    assert "interactive" in dir(figures)


@pytest.mark.slow
@pytest.mark.notebook
def test_a_notebook_stores_one_output_a_figure_and_a_claim():
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    pytest.importorskip("ipywidgets")
    sources = [
        "from llmcore import claims, figures\n"
        "def draw(n):\n    figure, axes = figures.new_figure()\n    axes.plot(range(n))\n    return figure\n"
        "panel = figures.interactive(draw, alt='a line', play='n', n=(2, 9, 3))\npanel",
        "claims.judge('C02.05', confirmed=True, evidence={'n': 1})",
        "panel.controls['n'].value = 5",
    ]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in sources])
    nbclient.NotebookClient(notebook, timeout=120, kernel_name="python3").execute()
    panel, claim, moved = (cell.outputs for cell in notebook.cells)
    assert [set(output.data) for output in panel] == [
        {"application/vnd.jupyter.widget-view+json", "image/png", "text/plain"}
    ]
    assert panel[0].metadata["image/png"]["alt"] == "a line"
    assert [set(output.data) for output in claim] == [
        {"text/plain", "text/html", "application/vnd.llm-principles.claim+json"}
    ]
    assert moved == []
