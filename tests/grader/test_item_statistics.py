"""Item statistics, from results written by hand and from the graded class."""

import pytest

from grader import item_statistics
from grader.item_statistics import collect, figure, summarise


def entry(exercise, outcome, points=0.0, diagnosis="", cases=()):
    return {
        "exercise": exercise,
        "outcome": outcome,
        "points": points,
        "diagnosis": diagnosis,
        "cases": [list(c) for c in cases],
    }


def results():
    right, wrong = [("a", "passed"), ("b", "passed")], [("a", "passed"), ("b", "value"), ("b", "passed")]
    return [
        {"exercises": [entry("f", "passed", 4, cases=right), entry("g", "passed", 2)]},
        {"exercises": [entry("f", "passed", 4, cases=right), entry("g", "passed", 2)]},
        {"exercises": [entry("f", "failed", 0, "sum for mean", wrong), entry("g", "failed", 0)]},
        {"exercises": [entry("f", "failed", 0, "sum for mean", wrong), entry("g", "timed_out", 0)]},
        {"exercises": [entry("f", "error", 0, "NaN", [("a", "raised"), ("b", "not asked")]), entry("g", "missing")]},
        {"exercises": [entry("f", "not_attempted"), entry("g", "not_attempted")]},
    ]


def test_shares_points_and_mistakes_are_counted_over_the_right_people():
    f, g = summarise(results(), {"f": 4.0, "g": 2.0})
    assert (f.submissions, f.tried, f.right, f.ended) == (6, 5, 2, 0)
    assert f.share_right == pytest.approx(0.4)
    assert f.mean_points == pytest.approx(8 / 6)
    assert f.mistakes.most_common() == [("sum for mean", 2), ("NaN", 1)]
    assert (g.tried, g.right, g.ended) == (4, 2, 1)
    assert f.discrimination == pytest.approx(1.0)


def test_a_case_counts_as_passed_when_each_question_of_its_name_was():
    f, _ = summarise(results(), {"f": 4.0, "g": 2.0})
    assert f.cases == {"a": (4, 5), "b": (2, 4)}
    assert f.cases_that(everybody=False) == f.cases_that(everybody=True) == []


def test_cases_that_everybody_or_nobody_passes_need_enough_people():
    made = [{"exercises": [entry("f", "failed", cases=[("easy", "passed"), ("hard", "value")])]}] * 3
    (f,) = summarise(made, {"f": 1.0})
    assert (f.cases_that(everybody=True), f.cases_that(everybody=False)) == (["easy"], ["hard"])
    (f,) = summarise(made[:2], {"f": 1.0})
    assert (f.cases_that(everybody=True), f.cases_that(everybody=False)) == ([], [])


def test_nothing_can_be_told_of_an_exercise_that_nobody_tried():
    (f,) = summarise([{"exercises": [entry("f", "not_attempted")]}], {"f": 1.0})
    assert (f.share_right, f.discrimination, f.mean_points) == (None, None, 0.0)


def test_the_figure_is_written_in_the_format_of_its_name(tmp_path):
    items = summarise(results(), {"f": 4.0, "g": 2.0})
    svg = figure(items, "six submissions", tmp_path / "a.svg")
    assert svg.read_bytes().startswith(b"<?xml")
    assert figure(items, "six", tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    assert svg.read_bytes() == figure(items, "six submissions", tmp_path / "b.svg").read_bytes()
    with pytest.raises(ValueError, match=r"\.svg, \.png or \.pdf"):
        figure(items, "six", tmp_path / "a.gif")


@pytest.mark.xdist_group("class")
def test_of_the_graded_class(graded):
    square, root = collect(graded, "01_sums")
    assert (square.submissions, square.tried, square.right) == (5, 4, 2)
    assert square.mistakes.most_common(1) == [("sum for mean", 2)]
    assert (root.tried, root.right, root.ended) == (4, 2, 1)
    with pytest.raises(ValueError, match="llmcourse grade"):
        collect(graded, "01_sums", ["zoe"])


def test_untried_endings_are_those_that_say_nothing_of_the_exercise():
    assert {o.value for o in item_statistics.UNTRIED} == {"not_attempted", "missing", "invalid"}
