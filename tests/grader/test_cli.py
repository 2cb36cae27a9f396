"""The commands as a person types them; what grading itself does is tested in test_grading."""

import csv
import io

import pytest

from grader import cli
from grader.bridge import GradebookRow


@pytest.fixture
def run(monkeypatch, llmcourse, small_root, tmp_path):
    """Runs `llmcourse` with words in a folder of the learner's, and returns (exit code, what was printed)."""
    monkeypatch.setenv("LLM_COURSE_ROOT", str(small_root))
    monkeypatch.setenv("LLM_COURSE_USER", "ada")
    (tmp_path / "mine").mkdir()
    monkeypatch.chdir(tmp_path / "mine")
    return llmcourse


def test_handing_in_and_collecting(run, small_root, tmp_path):
    (tmp_path / "mine" / "01_sums.ipynb").write_text("{}")
    code, text = run("submit", "01_sums", "--notebook", "01_sums.ipynb")
    assert (code, "handed in 01_sums as ada" in text) == (0, True)
    assert run("collect") == (0, "01_sums: 1 collected, 0 had nothing newer\n")
    assert run("collect", "01_sums") == (0, "01_sums: 0 collected, 1 had nothing newer\n")


def test_the_learners_own_copy_is_found(run, tmp_path):
    (tmp_path / "mine/assignments/01_sums").mkdir(parents=True)
    (tmp_path / "mine/assignments/01_sums/01_sums.ipynb").write_text("{}")
    assert run("submit", "01_sums")[0] == 0


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["submit", "01_sum"], "did you mean 01_sums?"),
        (["submit", "01_sums"], "name it with --notebook"),
        (["feedback", "01_sums", "--student", "zoe"], "no result of 01_sums for 'zoe'"),
        (["export", "--format", "excel"], "plain, canvas or moodle"),
        (["release", "01_sums"], "make notebooks"),
        (["status", "--course", "nowhere"], "holds no folder chapters/"),
    ],
)
def test_what_a_person_can_cause_is_one_sentence_and_exit_code_2(run, words, says):
    code, text = run(*words)
    assert code == 2
    assert says in text
    assert "Traceback" not in text
    assert len(text.strip().splitlines()) == 1


def test_a_learner_without_feedback_is_told_when_it_comes(run, tmp_path):
    (tmp_path / "mine" / ".state.json").write_text("{}")
    code, text = run("feedback", "01_sums")
    assert (code, "no feedback on 01_sums for ada yet" in text) == (2, True)


def test_status_of_a_course_with_nothing_in_it(run):
    code, text = run("status")
    assert code == 0
    assert "01_sums" in text


def test_help_lists_every_command(run):
    code, text = run("--help")
    assert code == 0
    for command in ("release", "submit", "collect", "grade", "feedback", "export", "status"):
        assert command in text


def _rows(layout):
    row = GradebookRow(student="=cmd()", assignment="01_sums", score=4.5, max_score=6)
    text = cli.csv_text({"=cmd()": {"01_sums": row}, "bao": {}}, ["01_sums"], layout, {"01_sums": 9.0})
    return list(csv.reader(io.StringIO(text)))


def test_csv_layouts_and_formulas_in_names():
    assert _rows("plain") == [["student", "01_sums"], ["'=cmd()", "4.5"], ["bao", ""]]
    assert _rows("moodle")[0] == ["Username", "01_sums"]
    canvas = _rows("canvas")
    assert canvas[0][:5] == ["Student", "ID", "SIS User ID", "SIS Login ID", "Section"]
    assert canvas[1][-1] == "9"
