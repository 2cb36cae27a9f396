"""The reports as an instructor types them, on the graded class; and what a page says of partial credit and of a person's decision."""

import pytest

from grader import audit, bridge, course, feedback, grading
from grader.exercise import Exercise, Outcome
from grader.judge import LocalStudent, judge

SLUG = "01_sums"
pytestmark = pytest.mark.xdist_group("class")


def test_statistics_as_a_table_and_a_figure(graded, llmcourse, tmp_path):
    code, text = llmcourse("statistics", SLUG, "--cases", "--figure", str(tmp_path / "f.svg"), "--course", str(graded))
    assert code == 0
    assert "everybody passes 2 of 4 cases: no values; rows are independent" in text
    assert "mean_square" in text
    assert "2 (50 %)" in text
    assert "2 sum for mean" in text
    assert "everybody passes" in text
    assert "Worth a look: dan: root_mean_square, line 3: os" in text
    assert (tmp_path / "f.svg").is_file()
    assert llmcourse("statistics", SLUG, "--figure", "f.gif", "--course", str(graded))[0] == 2


def test_similar_answers_are_a_list_for_a_person(graded, llmcourse):
    code, text = llmcourse("similar", SLUG, "--sources", "--course", str(graded))
    assert code == 0
    assert "0 pairs share at least 60 %" in text
    assert "read both answers before you ask anyone" in text


@pytest.mark.parametrize("command", ["audit ada", "statistics", "similar", "due", "override ada"])
def test_what_a_person_can_cause_is_one_sentence(small_root, llmcourse, command):
    name, *before = command.split()
    words = [name, *before, "01_sum", *(["mean_square", "1", "--reason", "x"] if name == "override" else [])]
    code, text = llmcourse(*words, "--course", str(small_root))
    assert code == 2
    assert "did you mean 01_sums?" in text
    assert len(text.strip().splitlines()) == 1


def test_feedback_shows_what_a_person_decided_and_escapes_it(graded, llmcourse):
    audit.override(graded, "bao", SLUG, "mean_square", 2, "<b>half</b> of it", by="prof")
    audit.override(graded, "bao", SLUG, "why_squares", 1, "too short", by="prof")
    assert llmcourse("feedback", SLUG, "--course", str(graded))[0] == 0
    page = (graded / "feedback/bao" / SLUG / f"{SLUG}.html").read_text()
    assert "Your instructor gave 2 points." in page
    assert "&lt;b&gt;half&lt;/b&gt; of it" in page
    assert "too short" in page
    assert "5 of 9 points" in page


def test_a_hand_given_score_is_kept_by_every_kind_of_regrade(graded, hand_in):
    audit.override(graded, "ada", SLUG, "why_squares", 3, "good", by="prof")
    for regrade in (False, True):
        grading.grade_assignment(graded, SLUG, regrade=regrade)
        row = next(r for r in bridge.rows(graded, SLUG) if r.student == "ada")
        assert (row.score, row.manuals["why_squares"], row.needs_manual) == (9.0, 3.0, False)
    right = course.load(SLUG, graded).solutions
    hand_in(graded, "ada", {**right, "why_squares": "Another text."})
    grading.grade_assignment(graded, SLUG)
    row = next(r for r in bridge.rows(graded, SLUG) if r.student == "ada")
    assert (row.manuals["why_squares"], row.needs_manual) == (3.0, True)  # kept, and to be read again


def test_partial_credit_only_where_the_exercise_says_so_and_only_for_values(small):
    plain = small.exercises["mean_square"]
    partial = Exercise(**{**vars(plain), "partial": True})
    half = "def mean_square(x):\n    return (x * x).mean(-1)"  # accepts an empty input
    always = "def mean_square(x):\n    raise ValueError"
    wrong = "def mean_square(x):\n    if x.shape[-1] == 0:\n        raise ValueError\n    return x.sum()"

    def points(exercise, source):
        namespace = {}
        exec(source, namespace)
        verdict = judge(small, exercise, LocalStudent(namespace), 7)
        assert verdict.outcome is not Outcome.PASSED
        return grading.earned(exercise, verdict, 4.0)

    assert [points(plain, source) for source in (half, always, wrong)] == [0, 0, 0]
    assert [points(partial, source) for source in (half, always, wrong)] == [3.75, 0, 0]
    entry = {"exercise": "mean_square", "outcome": "failed", "points": 2.5, "max_points": 4.0}
    assert feedback.sentence(entry).endswith("Partial credit: 2.5 of 4 points for the cases that are right.")
