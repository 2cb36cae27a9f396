"""What an audit says of a score, and what it finds when somebody changed a file behind the grader's back."""

import json

import pytest

from grader import audit, bridge, course, grading, ledger
from grader.exercise import Exercise

SLUG = "01_sums"
pytestmark = pytest.mark.xdist_group("class")


def edit(path, change):
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


def test_a_sound_record_agrees_with_result_notebook_and_gradebook(graded):
    found = audit.audit(graded, "bao", SLUG)
    assert found.chain.ok
    assert (found.faults, found.changed, found.earlier, found.overrides) == ([], [], [], [])
    entry = found.record["exercises"][0]
    assert (entry["outcome"], entry["diagnosis"]) == ("failed", "sum for mean")
    assert entry["cost"]["seconds"] > 0
    assert entry["cost"]["cpu_seconds"] > 0
    assert entry["cost"]["peak_bytes"] > 1 << 20
    assert {"python", "torch", "checks.py", "exercises.py", "grader"} <= set(found.record["versions"])


def test_cases_are_told_one_by_one_with_what_was_asked(graded):
    found = audit.audit(graded, "bao", SLUG)
    chapter = course.load(SLUG, graded)
    lines = audit.case_lines(chapter, found.record["exercises"][0], same_checks=True)
    assert [line.label for line in lines][:2] == ["a batch of rows", "float32 in, float32 out"]
    assert [line.result for line in lines] == ["value", "value", "passed", "passed"]
    assert lines[0].asked.startswith("mean_square(tensor float64 (3, 5)")
    assert lines[3].asked == "several calls"
    assert [line.asked for line in audit.case_lines(chapter, found.record["exercises"][0], same_checks=False)] == [
        ""
    ] * 4


def test_cases_that_were_not_reached_are_told_too(graded):
    entry = audit.audit(graded, "dan", SLUG).record["exercises"][1]
    assert [result for _, result in entry["cases"]] == ["crashed", "not asked"]


@pytest.mark.parametrize("student", ["ada", "bao", "dan", "eve"])
def test_a_replay_gives_the_same_verdicts(graded, student):
    found = audit.audit(graded, student, SLUG)
    assert [(r.exercise, r.differences) for r in audit.replay(graded, found)] == [
        ("mean_square", ()),
        ("root_mean_square", ()),
    ]


def test_a_replay_says_what_differs_when_the_checks_have_changed(graded, monkeypatch):
    checks = graded / "chapters" / SLUG / "checks.py"
    checks.write_text(checks.read_text() + "\n# edited\n")
    chapter = course.load(SLUG, graded)
    old = chapter.exercises["mean_square"]
    kept = Exercise(**{**vars(old), "cases": lambda rng: list(old.cases(rng))[2:]})
    monkeypatch.setitem(chapter.exercises, "mean_square", kept)
    found = audit.audit(graded, "bao", SLUG)
    assert found.changed == ["The chapter's checks have changed since."]
    (replayed,) = audit.replay(graded, found, ["mean_square"])
    assert replayed.now == "passed"
    assert "outcome: 'failed' then, 'passed' in the replay" in replayed.differences
    assert "4 cases then, 2 in the replay" in replayed.differences


def test_what_was_changed_behind_the_graders_back_is_named(graded):
    def more(result):
        result["exercises"][0]["points"] = 4.0
        result["exercises"][0]["outcome"] = "passed"

    edit(grading.result_file(graded, SLUG, "bao"), more)
    notebook = graded / "submitted/ada" / SLUG / f"{SLUG}.ipynb"
    notebook.write_text(notebook.read_text().replace("(x * x)", "(x * 1)"))
    with bridge.gradebook(graded) as book:
        book.find_grade("judge_mean_square", SLUG, SLUG, "chi").auto_score = 4.0
        book.db.commit()
    assert "the result file says points 4.0, the ledger 0.0" in " ".join(audit.audit(graded, "bao", SLUG).faults)
    found = audit.audit(graded, "ada", SLUG)
    assert "not the one that was judged" in " ".join(found.faults)
    with pytest.raises(ValueError, match="cannot be replayed"):
        audit.replay(graded, found)
    assert audit.audit(graded, "chi", SLUG).faults == [
        "mean_square: the gradebook's automatic score is 4, the ledger's 0."
    ]


def test_a_damaged_chain_is_named_by_line_and_later_records_are_not_believed(graded):
    path = audit.ledger_path(graded)
    lines = path.read_bytes().splitlines(keepends=True)
    lines[3] = lines[3].replace(b'"walls":"bubblewrap"', b'"walls":"none"')
    path.write_bytes(b"".join(lines))
    order = [json.loads(line)["student"] for line in lines]
    assert "record 3 (line 4) was edited" in audit.audit(graded, order[0], SLUG).faults[0]
    with pytest.raises(ValueError, match=r"no record of 01_sums by '\w+'.*line 4"):
        audit.audit(graded, order[3], SLUG)


def test_a_lost_result_file_is_named_and_the_ledger_still_tells(graded):
    grading.result_file(graded, SLUG, "ada").unlink()
    found = audit.audit(graded, "ada", SLUG)
    assert sum(e["points"] for e in found.record["exercises"]) == 6
    assert "result file is gone" in found.faults[0]


def test_an_override_is_a_new_record_and_a_manual_score(graded):
    before = ledger.verify(audit.ledger_path(graded)).records
    written = audit.override(graded, "bao", SLUG, "mean_square", 3, "The text was\nunclear.", by="prof")
    assert (written["n"], written["before"], written["reason"]) == (before, 0.0, "The text was unclear.")
    found = audit.audit(graded, "bao", SLUG)
    assert found.faults == []
    assert found.standing.score == 5.0
    grading.grade_assignment(graded, SLUG, regrade=True)
    assert audit.audit(graded, "bao", SLUG).standing.score == 5.0
    audit.override(graded, "bao", SLUG, "mean_square", None, "A mistake of mine.", by="prof")
    found = audit.audit(graded, "bao", SLUG)
    assert (found.standing.score, found.faults) == (2.0, [])
    assert [o["points"] for o in found.overrides] == [3.0, None]
    assert audit.standings(graded, SLUG)["bao"].overrides == {}


def test_scores_given_in_formgrader_become_records(graded):
    with bridge.gradebook(graded) as book:
        for cell, points in (("judge_mean_square", 2.5), ("why_squares", 3)):
            mark = book.find_grade(cell, SLUG, SLUG, "bao")
            mark.manual_score, mark.needs_manual_grade = points, False
        book.db.commit()
    assert "holds a score of 2.5 given by hand" in audit.audit(graded, "bao", SLUG).faults[0]
    assert audit.note_manual_scores(graded, SLUG) == 2
    assert audit.note_manual_scores(graded, SLUG) == 0
    found = audit.audit(graded, "bao", SLUG)
    assert found.faults == []
    assert {(o["exercise"], o["points"], o["by"]) for o in found.overrides} == {
        ("mean_square", 2.5, "formgrader"),
        ("why_squares", 3, "formgrader"),
    }


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("bao", SLUG, "mean", 1, "x"), "it has: mean_square, root_mean_square, why_squares"),
        (("bao", SLUG, "mean_square", 5, "x"), "0 to 4 points, got 5"),
        (("bao", SLUG, "mean_square", float("nan"), "x"), "0 to 4 points, got nan"),
        (("bao", SLUG, "mean_square", 1, " "), "wants a reason"),
        (("zoe", SLUG, "mean_square", 1, "x"), "no submission of 01_sums by 'zoe'"),
    ],
)
def test_an_override_that_makes_no_sense_changes_nothing(graded, arguments, says):
    before = audit.ledger_path(graded).read_bytes()
    with pytest.raises(ValueError, match=says):
        audit.override(graded, *arguments)
    assert audit.ledger_path(graded).read_bytes() == before


def test_unknown_submissions_are_one_clear_sentence(graded, small_root):
    with pytest.raises(ValueError, match="no record of 01_sums by 'zoe'; it has: ada, bao, chi, dan, eve"):
        audit.audit(graded, "zoe", SLUG)
    with pytest.raises(FileNotFoundError, match="llmcourse grade"):
        audit.audit(small_root, "ada", SLUG)


def test_the_commands_say_it_all(graded, llmcourse):
    def run(*words):
        return llmcourse(*words, "--course", str(graded))

    code, text = run("audit", "bao", SLUG, "--exercise", "mean_square", "--replay")
    assert code == 0
    for part in ("2 of 6 points", "chain whole", "sum for mean", "a batch of rows", "1 verdicts are the same", "torch"):
        assert part in text
    assert run("override", "bao", SLUG, "mean_square", "1.5", "--reason", "[bold]x", "--by", "prof")[0] == 0
    code, text = run("audit", "bao", SLUG)
    assert (code, "mean_square 1.5 points. [bold]x" in text) == (0, True)
    with bridge.gradebook(graded) as book:
        book.find_grade("judge_mean_square", SLUG, SLUG, "bao").manual_score = None
        book.db.commit()
    code, text = run("audit", "bao", SLUG)
    assert (code, "Does not agree" in text) == (1, True)
    assert run("override", "bao", SLUG, "mean_square", "--reason", "x") == (
        2,
        "llmcourse: give the points, or --withdraw to take an earlier override back, not both\n",
    )
    assert run("audit", "bao", SLUG, "--exercise", "mean")[0] == 2
