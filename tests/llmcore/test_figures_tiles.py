"""The figures of lesson 08: what they show is what they are given, and they refuse what does not fit."""

import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from llmcore.figures import ORANGE, SKY, render_png
from llmcore.figures import tiles as pictures

TILES = [(0, 2, 0, 2), (2, 4, 0, 2), (2, 4, 2, 4)]


def _texts(figure: Figure) -> str:
    return " ".join(text.get_text() for axes in figure.axes for text in axes.texts)


def _player(step: int, **changes) -> Figure:
    options = {
        "maxima": [1.0, 2.0, -np.inf, -np.inf],
        "sums": [1.5, 1.2, 0.0, 0.0],
        "final_maxima": [1.0, 2.0, 3.0, 0.5],
        "final_sums": [1.5, 2.0, 3.0, 4.0],
        "moved": 24,
        "standard": 96,
    }
    return pictures.tile_player(4, TILES, step, **(options | changes))


def _boxes(axes, color: str) -> list[tuple[float, ...]]:
    patches = [p for p in axes.patches if isinstance(p, Rectangle) and to_hex(p.get_facecolor()).upper() == color]
    return [(*p.get_xy(), p.get_width(), p.get_height()) for p in patches]


@pytest.mark.parametrize("step", [0, 1, 2])
def test_the_player_fills_the_tiles_done_and_marks_the_one_in_fast_memory(step):
    table = _player(step).axes[0]
    assert len(_boxes(table, SKY.upper())) == step
    top, bottom, left, right = TILES[step]
    assert (left, top, right - left, bottom - top) in _boxes(table, ORANGE.upper())


def test_the_player_shows_maxima_of_reached_rows_only_and_the_traffic():
    figure = _player(1)
    _, running, traffic = figure.axes
    so_far = next(line for line in running.lines if line.get_label() == "maximum so far")
    np.testing.assert_allclose(so_far.get_xdata(), [1.0, 2.0])
    assert [bar.get_height() for bar in traffic.patches] == [96, 24]
    assert traffic.get_title(loc="left") == "step 2 of 3"


def test_the_player_refuses_a_step_that_is_none():
    with pytest.raises(ValueError, match="step must be 0 to 2, got 3"):
        _player(3)


def test_traffic_draws_a_line_for_each_formula_and_markers_where_it_was_counted():
    figure = pictures.traffic_curves(
        [2, 4, 8], {"v2": [8, 4, 2], "standard": [16, 16, 16]}, {"v2": {4: 4}}, chosen=4, limit=6, title="here"
    )
    axes = figure.axes[0]
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert labels == ["v2", "v2, counted", "standard"]
    counted = next(line for line in axes.lines if line.get_label() == "v2, counted")
    assert counted.get_xydata().tolist() == [[4, 4]]
    assert "too large" in _texts(figure)


def test_traffic_refuses_a_formula_of_another_length():
    with pytest.raises(ValueError, match="each of 2 blocks"):
        pictures.traffic_curves([2, 4], {"v2": [1, 2, 3]}, {}, chosen=2)


def test_growth_tells_the_values_at_the_marked_length_and_what_was_not_run():
    series = {"tiles": [1.0, 2.0], "table": [1.0, np.nan]}
    figure = pictures.growth_curves([256, 512], series, ylabel="MB", marked=512, slopes={"~ N": 1.0})
    labels = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert labels == ["tiles:\n2", "table:\nnot run"]
    assert "~ N" in _texts(figure)


def test_the_grid_numbers_the_programs_and_tells_whole_tiles_from_masked_ones():
    order = [(1, 0), (1, 1), (0, 0), (0, 1)]
    figure = pictures.program_grid(order, 1, n=8, block_q=4, tiles=[(0, 4, True), (4, 8, False)])
    grid, table = figure.axes
    np.testing.assert_array_equal(grid.images[0].get_array(), [[2, 3], [0, 1]])
    assert (0, 4, 4, 4) in _boxes(table, SKY.upper())
    assert (4, 4, 4, 4) in _boxes(table, ORANGE.upper())
    assert table.get_title(loc="left") == "program 1: block 1 of head 1"
    with pytest.raises(ValueError, match="program must be 0 to 3, got 4"):
        pictures.program_grid(order, 4, n=8, block_q=4, tiles=[])


def test_every_figure_renders():
    assert render_png(_player(0)).startswith(b"\x89PNG")
