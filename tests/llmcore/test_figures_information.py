"""The figures of lesson 05: what they show is what they are given, and they refuse what does not fit."""

import numpy as np
import pytest
from matplotlib.figure import Figure

from llmcore.figures import information as pictures
from llmcore.figures import render_png

HALVES = [0.5, 0.25, 0.125, 0.125]


def _titles(figure: Figure) -> list[str]:
    return [axes.get_title(loc="left") for axes in figure.axes]


def _texts(figure: Figure) -> str:
    return " ".join(text.get_text() for axes in figure.axes for text in axes.texts)


def test_the_best_code_stands_on_the_floor():
    figure = pictures.code_lengths(HALVES, [1, 2, 3, 3], names="ABCD")
    assert _titles(figure) == ["shares add up to 1: a code exists", "0.000 bits above the floor"]
    assert "1.750" in _texts(figure)


def test_lengths_that_break_krafts_rule_are_called_impossible():
    figure = pictures.code_lengths(HALVES, [1, 1, 3, 3], names="ABCD")
    assert "no such code" in _titles(figure)[0]
    assert "not possible" in _texts(figure)


def test_code_lengths_refuse_a_missing_name():
    with pytest.raises(ValueError, match="one name a symbol, got 4, 4 and 3"):
        pictures.code_lengths(HALVES, [2, 2, 2, 2], names="ABC")


def test_a_fit_marks_the_step_on_both_curves_and_names_what_was_minimised():
    x = np.linspace(-3, 3, 61)
    curves = {"forward": np.linspace(2.0, 0.5, 11), "reverse": np.linspace(1.0, 3.0, 11)}
    bell = np.exp(-(x**2))
    figure = pictures.fitted_bell(x, bell, bell, curves, step=4, minimised="forward", title="here")
    right = figure.axes[1]
    points = [line.get_xydata()[0].tolist() for line in right.lines if line.get_marker() == "o"]
    assert points == [[4, curves["forward"][4]], [4, curves["reverse"][4]]]
    assert [text.get_text() for text in right.get_legend().get_texts()] == ["forward (minimised)", "reverse"]
    assert right.get_ylim()[1] > curves["reverse"].max()


def test_estimators_are_drawn_relative_to_the_exact_divergence():
    exact = np.array([0.1, 1.0])
    figure = pictures.estimator_curves(exact, {"k1": exact}, {"k1": 3 * exact}, marked=0.1, title="q is shifted")
    left, right = figure.axes
    np.testing.assert_allclose(left.lines[0].get_ydata(), [1, 1])
    np.testing.assert_allclose(right.lines[0].get_ydata(), [3, 3])


def test_temperature_bars_tell_the_entropy_of_the_chosen_temperature():
    figure = pictures.temperature_bars("ab", [0.9, 0.1], [0.5, 0.5], temperature=50.0)
    assert _titles(figure) == ["entropy 1.00 bits: like 2.0 equal choices"]


def test_averaging_weights_sum_each_sequence_and_leave_padding_out():
    weights = [[0.25, 0.25, 0.25], [0.25, np.nan, np.nan]]
    figure = pictures.averaging_weights(weights, largest=0.5, title="token mean")
    assert "75%" in _texts(figure)
    assert "25%" in _texts(figure)
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["3 tokens", "1 tokens"]
    assert figure.axes[0].images[0].get_clim() == (0, 0.5)
    with pytest.raises(ValueError, match="sequences, tokens"):
        pictures.averaging_weights([0.5, 0.5])


def test_reliability_puts_each_bin_at_its_own_confidence_and_skips_empty_ones():
    figure = pictures.reliability([0.15, 0.95, 0.97, 1.0], [0, 1, 1, 0], bins=10)
    model = figure.axes[0].lines[1]
    np.testing.assert_allclose(model.get_xdata(), [0.15, (0.95 + 0.97 + 1.0) / 3])
    np.testing.assert_allclose(model.get_ydata(), [0, 2 / 3])
    np.testing.assert_allclose(
        [bar.get_height() for bar in figure.axes[1].patches], [0, 0.25, 0, 0, 0, 0, 0, 0, 0, 0.75]
    )


def test_normaliser_curves_band_is_one_spread_wide_and_the_picture_renders():
    figure = pictures.normaliser_curves(
        [0, 10], {"plain": [4.0, 6.0]}, {"plain": [0.0, 1.0], "other": [9, 9]}, marked=10
    )
    band = figure.axes[0].collections[0].get_paths()[0].vertices[:, 1]
    assert (band.min(), band.max()) == (4.0, 7.0)
    assert render_png(figure).startswith(b"\x89PNG")
