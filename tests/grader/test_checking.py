import json

import pytest

from grader import check, grade, progress
from grader.checking import progress_file
from grader.exercise import Outcome

RIGHT = "def mean_square(x):\n    if x.shape[-1] == 0:\n        raise ValueError('no values')\n    return (x * x).mean(-1)\n"
WRONG = RIGHT.replace(".mean(-1)", ".sum(-1)")


def defined(source, **extra):
    import torch

    namespace = {"torch": torch, "__name__": "__main__", **extra}
    exec(compile(source, "<cell 1>", "exec"), namespace)
    return namespace


def test_a_right_answer_gets_a_card_that_says_passed(small, capsys):
    card = check(defined(RIGHT)["mean_square"])
    assert card.ok
    assert capsys.readouterr().out == "mean_square: passed, 4 of 4 cases\n"


def test_a_wrong_answer_is_told_the_case_the_mistake_and_where_the_hints_are(small, capsys):
    card = check(defined(WRONG)["mean_square"])
    text = capsys.readouterr().out
    assert not card.ok
    for part in (
        "a batch of rows",
        "sum for mean. Divide by the number of values.",
        "hint=1) shows hint 1 of 3",
        "got",
        "want",
    ):
        assert part in text
    assert "Square first." not in text


def test_hints_come_one_at_a_time(small, capsys):
    function = defined(WRONG)["mean_square"]
    check(function, hint=2)
    text = capsys.readouterr().out
    assert "Hint 1: Square first." in text
    assert "Hint 2: Then average" in text
    assert "(x * x).mean(-1)" not in text


def test_the_card_escapes_what_a_learner_wrote(small):
    source = "def mean_square(x):\n    raise RuntimeError('<script>alert(1)</script>')\n"
    card = check(defined(source)["mean_square"])
    assert "<script>" not in card.html()
    assert "&lt;script&gt;" in card.html()


def test_a_name_that_is_no_exercise_gets_the_nearest(small):
    card = check(defined("def mean_sqare(x): return x")["mean_sqare"])
    assert card.verdict.outcome is Outcome.MISSING
    assert "did you mean mean_square?" in card.text()


def test_the_stub_is_not_attempted_rather_than_wrong(small):
    card = check(defined("def mean_square(x): raise NotImplementedError()")["mean_square"])
    assert card.verdict.outcome is Outcome.NOT_ATTEMPTED


def test_a_withheld_routine_is_named(small):
    source = "def mean_square(x):\n    return getattr(torch.nn.functional, 'mse_' + 'loss')(x, 0 * x)\n"
    card = check(defined(source)["mean_square"])
    assert card.verdict.outcome is Outcome.POLICY
    assert "withheld" in card.text()


def test_an_answer_that_uses_a_broken_one_is_sent_there_first(small):
    namespace = defined(WRONG + "def root_mean_square(x):\n    return mean_square(x).sqrt()\n")
    card = check(namespace["root_mean_square"])
    assert "yours does not pass its own check yet" in card.text()


def test_a_helper_from_another_cell_is_pointed_out(small):
    namespace = defined("def helper(x):\n    return x * x\n")
    exec(compile(RIGHT.replace("(x * x)", "helper(x)"), "<cell 2>", "exec"), namespace)
    assert "helper is defined in another cell" in check(namespace["mean_square"]).text()


def test_check_without_a_function_says_what_to_write():
    with pytest.raises(ValueError, match=r"write check\(softmax\)"):
        check()
    with pytest.raises(ValueError, match="without calling it"):
        check(3)


def test_grade_is_silent_on_a_right_answer_and_raises_the_card_on_a_wrong_one(small, capsys):
    grade(defined(RIGHT)["mean_square"])
    assert capsys.readouterr().out == ""
    with pytest.raises(AssertionError, match="sum for mean"):
        grade(defined(WRONG)["mean_square"])


def test_progress_is_kept_and_a_later_failure_does_not_take_it_back(small, capsys):
    check(defined(RIGHT)["mean_square"])
    check(defined(WRONG)["mean_square"])
    capsys.readouterr()
    assert progress().chapters == {"01_sums": (["mean_square"], ["root_mean_square"])}
    assert capsys.readouterr().out == "01_sums                  [######......]  1 of 2  next: root_mean_square\n"
    assert json.loads(progress_file().read_text())["01_sums"]["mean_square"] == {"attempts": 2, "passed": True}


def test_a_damaged_progress_file_costs_nothing_but_itself(small):
    progress_file().parent.mkdir(parents=True)
    progress_file().write_text("{half")
    assert check(defined(RIGHT)["mean_square"]).ok
    assert progress().chapters["01_sums"][0] == ["mean_square"]


def test_nothing_is_written_while_notebooks_are_built_or_graded(small, monkeypatch):
    monkeypatch.setenv("LLM_COURSE_NO_PROGRESS", "1")
    assert progress_file() is None
    assert check(defined(RIGHT)["mean_square"]).ok
