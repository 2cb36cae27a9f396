"""The figures of lesson 03: what they show is what they are given, and they refuse what does not fit."""

import numpy as np
import pytest
from matplotlib.figure import Figure

from llmcore.figures import norms as pictures
from llmcore.figures import render_png


def _titles(figure: Figure) -> list[str]:
    return [axes.get_title(loc="left") for axes in figure.axes]


@pytest.mark.parametrize(
    ("kind", "count"),
    [
        ("LayerNorm or RMSNorm", 5),
        ("BatchNorm", 12),
        ("partial RMSNorm, first half", 3),
        ("QK-norm, one head of two", 3),
        ("all at once", 60),
    ],
)
def test_each_norm_shares_its_statistics_with_the_right_cells(kind, count):
    shared = pictures.shared_cells(kind, (3, 4, 5), (1, 2, 4))
    assert shared.sum() == count
    assert shared[1, 2].any()


def test_a_layer_norm_never_looks_at_another_token_and_a_batch_norm_never_at_another_feature():
    layer = pictures.shared_cells("LayerNorm or RMSNorm", (3, 4, 5), (1, 2, 4))
    batch = pictures.shared_cells("BatchNorm", (3, 4, 5), (1, 2, 4))
    assert layer[1, 2].all()
    assert batch[:, :, 4].all()
    assert (layer & batch).sum() == 1


def test_every_kind_in_the_menu_is_known_and_another_is_refused():
    for kind in pictures.NORM_KINDS:
        pictures.shared_cells(kind, (2, 3, 4), (0, 0, 0))
    with pytest.raises(ValueError, match="got 'GroupNorm'"):
        pictures.shared_cells("GroupNorm", (2, 3, 4), (0, 0, 0))


def test_the_cube_counts_its_cells_turns_and_renders():
    shared = pictures.shared_cells("BatchNorm", (2, 3, 4), (0, 1, 2))
    figure = pictures.averaging_cube(shared, (0, 1, 2), turn=75.0, title="BatchNorm")
    assert [figure.axes[0].get_title()] == ["BatchNorm\n6 of 24 numbers share one average"]
    assert figure.axes[0].azim == 75.0
    assert render_png(figure).startswith(b"\x89PNG")
    with pytest.raises(ValueError, match="batch, time, features"):
        pictures.averaging_cube(shared[0], (0, 1, 2))


def test_signals_keep_to_the_given_limits_and_count_layers_from_one():
    panels = {"gradient": {"pre": [1.0, 2.0, 4.0], "post": [1e-9, np.inf, 1.0]}}
    figure = pictures.signal_by_depth(panels, limits={"gradient": (1e-3, 1e3)}, title="at the start")
    pre, post = figure.axes[0].lines
    np.testing.assert_allclose(pre.get_xdata(), [1, 2, 3])
    np.testing.assert_allclose(pre.get_ydata(), [1, 2, 4])
    np.testing.assert_allclose(post.get_ydata(), [1e-3, 1e3, 1.0])
    assert figure.axes[0].get_yscale() == "log"
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["pre", "post"]


def test_signals_without_limits_are_drawn_as_they_are():
    figure = pictures.signal_by_depth({"size": {"a": [1.0, 10.0]}, "gradient": {"a": [3.0, 5.0]}})
    np.testing.assert_allclose(figure.axes[1].lines[0].get_ydata(), [3, 5])


def test_the_walk_ends_at_the_true_length_and_the_true_angle():
    figure = pictures.stream_walk([1.0, 2.0, 3.0], [30.0, 60.0], 2)
    path = figure.axes[0].lines[-1].get_xydata()
    np.testing.assert_allclose(np.hypot(*path.T), [1, 2, 3])
    np.testing.assert_allclose(path[-1], [0, 3], atol=1e-12)
    assert _titles(figure)[1] == "layer 2 turns it by 60 degrees"


def test_the_walk_starts_before_the_first_layer_and_refuses_a_layer_too_many():
    figure = pictures.stream_walk([1.0, 2.0], [30.0], 0)
    assert _titles(figure)[1] == "before the first layer"
    assert len(figure.axes[0].lines[-1].get_xdata()) == 1
    with pytest.raises(ValueError, match="layer 2"):
        pictures.stream_walk([1.0, 2.0], [30.0], 2)
    with pytest.raises(ValueError, match="got 1 lengths"):
        pictures.stream_walk([1.0], [30.0], 0)


def test_loss_curves_show_the_median_run_over_means_of_steps():
    runs = [[4.0, 2.0, 2.0, 0.0, 9.0], [5.0, 5.0, 5.0, 5.0, 9.0], [3.0, 1.0, 8.0, 8.0, 9.0]]
    figure = pictures.loss_curves({"post": runs}, smooth=2, guess=3.0, warmup=2)
    bold = next(line for line in figure.axes[0].lines if line.get_label() == "post")
    np.testing.assert_allclose(bold.get_ydata(), [3, 5])
    np.testing.assert_allclose(bold.get_xdata(), [1, 3])
    assert "warm-up ends" in [text.get_text() for text in figure.axes[0].get_legend().get_texts()]


def test_one_run_needs_no_thin_line():
    figure = pictures.loss_curves({"pre": [2.0, 2.0]}, smooth=1)
    assert len(figure.axes[0].lines) == 1


def test_errors_are_drawn_in_percent():
    figure = pictures.estimate_errors([0.25, 1.0], {"measured": [0.5, 0.0]}, marked=0.25)
    np.testing.assert_allclose(figure.axes[0].lines[0].get_xydata(), [[25, 50], [100, 0]])


def test_costs_are_shares_and_the_marked_part_is_written_out():
    figure = pictures.cost_shares(
        {"FLOPs": {"norm": 1.0, "matmul": 99.0}, "bytes": {"norm": 30, "matmul": 10}}, marked=["norm"]
    )
    widths = [bar.get_width() for bar in figure.axes[0].patches]
    np.testing.assert_allclose(widths, [1, 75, 99, 25])
    assert [text.get_text() for text in figure.axes[0].texts] == ["1 %", "75 %"]
    with pytest.raises(ValueError, match="above 0"):
        pictures.cost_shares({"time": {"norm": 0.0}})
