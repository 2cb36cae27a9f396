"""The figures of lesson 04: what they show is what they are given, and they refuse what does not fit."""

import math

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.patches import Wedge

from llmcore.figures import positions as pictures
from llmcore.figures import render_png


def _titles(figure: Figure) -> list[str]:
    return [axes.get_title(loc="left") for axes in figure.axes]


def _texts(figure: Figure) -> list[str]:
    return [text.get_text() for axes in figure.axes for text in axes.texts]


def test_a_clock_hand_stands_at_position_times_frequency():
    figure = pictures.clock_hands([1.0, 0.1], 3.0)
    for axes, angle in zip(figure.axes, (3.0, 0.3)):
        tip = axes.lines[1].get_xydata()[0]
        assert math.atan2(tip[1], tip[0]) == pytest.approx(angle)


def test_the_trained_ring_covers_the_arc_and_never_more_than_a_circle():
    figure = pictures.clock_hands([1.0, 0.01], 0.0, trained=64)
    rings = [next(p for p in axes.patches if isinstance(p, Wedge) and p.r > 1) for axes in figure.axes]
    assert [ring.theta2 for ring in rings] == pytest.approx([360.0, math.degrees(0.64)])


def test_a_key_gets_a_second_hand_and_the_angle_between_is_shaded():
    figure = pictures.clock_hands([0.2], 7.0, 2.0)
    shaded = next(p for p in figure.axes[0].patches if isinstance(p, Wedge) and p.r < 1)
    assert shaded.theta2 - shaded.theta1 == pytest.approx(math.degrees(1.0))


@pytest.mark.parametrize("count", [0, 13])
def test_clock_hands_refuse_too_few_and_too_many(count):
    with pytest.raises(ValueError, match=f"1 to 12 clocks, got {count}"):
        pictures.clock_hands(np.ones(count), 1.0)


def test_seven_clocks_fill_two_rows_and_hide_the_empty_place():
    figure = pictures.clock_hands(np.ones(7), 1.0)
    assert [axes.get_visible() for axes in figure.axes] == [True] * 7 + [False]


def test_turning_both_keeps_the_dot_product_and_turning_one_changes_it():
    products = []
    for m, n in ((5, 0), (25, 20), (6, 0)):
        title = _titles(pictures.turned_pair((1.0, 0.4), (0.5, 0.8), 0.2, m, n))[1]
        products.append(float(title.split("= ")[1]))
    assert products[0] == products[1] != products[2]


def test_the_left_picture_shows_the_pair_unturned():
    assert _titles(pictures.turned_pair((1.0, 0.0), (0.5, 0.8), 0.2, 5, 1))[0] == "as projected: q·k = 0.500"


def test_paired_columns_name_members_where_they_stand_and_tell_the_angles():
    texts = _texts(pictures.paired_columns([(0, 2), (1, 3)], [1.5, 0.25]))
    assert texts == ["a0", "b0", "1.5", "a1", "b1", "0.25"]


def test_paired_columns_refuse_a_column_named_twice():
    with pytest.raises(ValueError, match="each of 4 columns once"):
        pictures.paired_columns([(0, 1), (1, 2)], [1.0, 1.0])


def test_a_phase_map_shows_turns_and_hatches_only_slow_pairs_beyond_training():
    place, theta = np.arange(0, 100), np.array([2 * math.pi / 10, 2 * math.pi / 80])
    figure = pictures.phase_map(place, theta, trained=50)
    turns = figure.axes[0].images[0].get_array()
    np.testing.assert_allclose(turns[0, [5, 10, 13]] % 1.0, [0.5, 0.0, 0.3], atol=1e-9)
    corners = figure.axes[0].collections[0].get_paths()[0].vertices
    assert (corners[:, 0].min(), corners[:, 1].min(), corners[:, 1].max()) == (50, 0.5, 1.5)
    assert not pictures.phase_map(place, theta[:1], trained=50).axes[0].collections


def test_scores_have_a_band_only_where_a_spread_is_given():
    curves = {"equal": [1.0, 0.5], "unrelated": [0.0, 0.0]}
    figure = pictures.score_against_distance([0, 1], curves, spreads={"unrelated": [2.0, 2.0]}, limits=(-3, 3))
    (band,) = figure.axes[0].collections
    assert np.abs(band.get_paths()[0].vertices[:, 1]).max() == 2.0
    assert figure.axes[0].get_ylim() == (-3, 3)


def test_a_spectrum_marks_the_trained_and_the_wanted_length():
    figure = pictures.wavelength_spectrum({"plain": [6.3, 63.0, 630.0]}, trained=100, target=400)
    assert _texts(figure) == ["trained: 100", "wanted: 400"]
    assert figure.axes[0].get_yscale() == "log"
    assert _texts(pictures.wavelength_spectrum({"plain": [6.3]}, trained=100)) == ["trained: 100"]


def test_perplexity_tells_the_marked_length_in_the_legend():
    figure = pictures.perplexity_by_length([64, 256], {"RoPE": [8.0, 11.5]}, trained=64, marked=256)
    legend = figure.axes[0].get_legend()
    assert legend.get_title().get_text() == "at 256 tokens"
    assert [text.get_text() for text in legend.get_texts()] == ["RoPE: 11.50"]


def test_perplexity_without_a_mark_names_the_methods_alone():
    figure = pictures.perplexity_by_length([64, 256], {"RoPE": [8.0, 11.5]}, trained=64, limits=(7, 12))
    assert [text.get_text() for text in figure.axes[0].get_legend().get_texts()] == ["RoPE"]
    assert figure.axes[0].get_ylim() == (7, 12)


def test_head_weights_want_a_label_for_each_head():
    with pytest.raises(ValueError, match="got 2 heads and 1 labels"):
        pictures.head_weights([[1.0, 0.5], [1.0, 0.9]], ["steep"])
    assert len(pictures.head_weights([[1.0, 0.5]], ["steep"]).axes[0].lines) == 1


def test_reach_counts_back_from_the_last_token():
    rows = [[False, False, True, True], [True, True, True, True]]
    figure = pictures.reach_by_layer(rows, window=1)
    assert _texts(figure) == ["1 back", "3 back"]
    assert _titles(figure) == ["window of 1"]
    with pytest.raises(ValueError, match="layers, tokens"):
        pictures.reach_by_layer([True, False], window=1)


def test_the_pictures_render():
    assert render_png(pictures.clock_hands([1.0], 2.0, 1.0, trained=3)).startswith(b"\x89PNG")
