"""A class on the small course, all the way: release, hand in, collect, grade in the sandbox, gradebook, feedback."""

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from grader import bridge, course, exchange, grading
from grader.exercise import Outcome
from grader.sandbox import NoWalls, find_walls

SLUG = "01_sums"


def _walls_or_reason():
    try:
        find_walls()
    except NoWalls as missing:
        return str(missing)
    return ""


needs_walls = pytest.mark.skipif(bool(_walls_or_reason()), reason=_walls_or_reason() or "walls stand")
pytestmark = [needs_walls, pytest.mark.xdist_group("class")]


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    """The small course with its source notebook and its release, made once."""
    from tools.build import save, source
    from tools.chapter import Course

    root = tmp_path_factory.mktemp("released") / "course"
    shutil.copytree(Path(__file__).parent / "small_course", root, ignore=shutil.ignore_patterns("__pycache__"))
    here = Course(root.parent)
    save(source(here, SLUG, ["mean_square", "root_mean_square"]), here.source(SLUG))
    bridge.generate_release(root, SLUG)
    return root


@pytest.fixture
def root(released, tmp_path):
    target = tmp_path / "course"
    shutil.copytree(released, target)
    return target


def hand_in(root, student, cells, keep=lambda cell: True):
    """The released notebook with `cells` filled in, handed in and collected."""
    notebook = json.loads((root / "release" / SLUG / f"{SLUG}.ipynb").read_text())
    for cell in notebook["cells"]:
        grade_id = cell["metadata"].get("nbgrader", {}).get("grade_id")
        if grade_id in cells:
            cell["source"] = cells[grade_id]
    notebook["cells"] = [c for c in notebook["cells"] if keep(c)]
    path = root / f"{student}.ipynb"
    path.write_text(json.dumps(notebook))
    exchange.submit(root, SLUG, path, student)
    exchange.collect(root, SLUG)


def outcomes(root, student):
    return {e["exercise"]: e["outcome"] for e in grading.read_result(root, SLUG, student)["exercises"]}


def solutions(root):
    return dict(course.load(SLUG, root).solutions)


def test_scores_gradebook_and_feedback_of_a_small_class(root):
    right = solutions(root)
    hand_in(root, "ada", {**right, "why_squares": "They are never negative. <script>alert(1)</script>"})
    hand_in(root, "bao", {**right, "mean_square": right["mean_square"].replace(".mean(-1)", ".sum(-1)")})
    hand_in(root, "chi", {})
    hand_in(root, "dan", {**right, "mean_square": "import os\nos._exit(0)"})
    hand_in(root, "eve", {**right, "mean_square": "def mean_squares(x):\n    return x"})
    hand_in(root, "fay", right, keep=lambda c: c["metadata"].get("nbgrader", {}).get("grade_id") != "root_mean_square")
    hand_in(root, "gus", {**right, "root_mean_square": "def root_mean_square(x:\n    return"})
    (root / "submitted/hal" / SLUG).mkdir(parents=True)
    (root / "submitted/hal" / SLUG / f"{SLUG}.ipynb").write_text("{not json")
    (root / "submitted/ivy" / SLUG).mkdir(parents=True)
    report = grading.grade_assignment(root, SLUG)
    assert sorted(report.graded) == ["ada", "bao", "chi", "dan", "eve", "fay", "gus", "hal", "ivy"]
    assert report.flagged == []

    scores = {r.student: r.score for r in bridge.rows(root, SLUG)}
    assert scores == {"ada": 6, "bao": 2, "chi": 0, "dan": 2, "eve": 2, "fay": 4, "gus": 4, "hal": 0, "ivy": 0}
    assert outcomes(root, "dan") == {"mean_square": Outcome.CRASHED, "root_mean_square": Outcome.PASSED}
    assert outcomes(root, "eve")["mean_square"] == Outcome.MISSING
    assert outcomes(root, "fay")["root_mean_square"] == Outcome.MISSING
    assert outcomes(root, "gus")["root_mean_square"] == Outcome.ERROR
    assert set(outcomes(root, "hal").values()) == {Outcome.INVALID}

    bao = (root / "feedback/bao" / SLUG / f"{SLUG}.html").read_text()
    assert "sum for mean" in bao
    assert "Divide by the number of values." in bao
    rows = {r.student: r for r in bridge.rows(root, SLUG)}
    assert (rows["ada"].needs_manual, rows["chi"].needs_manual) == (True, False)
    autograded = (root / "autograded/ada" / SLUG / f"{SLUG}.ipynb").read_text()
    assert "```text\\n" in autograded


def test_the_same_again_changes_nothing_and_a_new_hand_in_is_graded(root):
    right = solutions(root)
    hand_in(root, "ada", right)
    grading.grade_assignment(root, SLUG)
    before = (root / "results" / SLUG / "ada.json").read_bytes()
    again = grading.grade_assignment(root, SLUG)
    assert (list(again.graded), again.unchanged) == ([], ["ada"])
    grading.grade_assignment(root, SLUG, regrade=True)
    assert (root / "results" / SLUG / "ada.json").read_bytes() == before
    hand_in(root, "ada", {**right, "mean_square": right["mean_square"].replace(".mean(-1)", ".sum(-1)")})
    assert list(grading.grade_assignment(root, SLUG).graded) == ["ada"]
    assert [(r.student, r.score) for r in bridge.rows(root, SLUG)] == [("ada", 2.0)]


def test_a_grade_given_by_a_person_is_kept(root):
    hand_in(root, "ada", {**solutions(root), "why_squares": "Because."})
    grading.grade_assignment(root, SLUG)
    with bridge.gradebook(root) as book:
        mark = book.find_grade("why_squares", SLUG, SLUG, "ada")
        mark.manual_score, mark.needs_manual_grade = 3, False
        book.db.commit()
    grading.grade_assignment(root, SLUG, regrade=True)
    row = bridge.rows(root, SLUG)[0]
    assert (row.score, row.needs_manual) == (9.0, False)


def test_a_run_killed_half_way_is_taken_up_again(root):
    right = solutions(root)
    for n in range(6):
        hand_in(root, f"s{n}", right if n % 2 else {**right, "root_mean_square": "def root_mean_square(x): return x"})
    code = (
        f"from pathlib import Path; from grader.grading import grade_assignment as g; g(Path({str(root)!r}), {SLUG!r})"
    )
    run = subprocess.Popen([sys.executable, "-c", code])
    deadline = time.monotonic() + 60
    while len(list((root / "results" / SLUG).glob("*.json"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    run.send_signal(signal.SIGKILL)
    run.wait()
    done = {p.stem for p in (root / "results" / SLUG).glob("*.json")}
    report = grading.grade_assignment(root, SLUG)
    assert set(report.unchanged) == done
    assert {r.student: r.score for r in bridge.rows(root, SLUG)} == {f"s{n}": 6.0 if n % 2 else 4.0 for n in range(6)}


def test_canaries_stop_a_run_whose_checks_are_broken(root, monkeypatch):
    hand_in(root, "ada", solutions(root))
    chapter = course.load(SLUG, root)
    monkeypatch.setitem(chapter.exercises, "mean_square", _with(chapter.exercises["mean_square"], cases=lambda rng: []))
    with pytest.raises(grading.CanaryFailed, match="worked solution of mean_square does not pass"):
        grading.grade_assignment(root, SLUG)
    assert not (root / "results" / SLUG / "ada.json").exists()


def _with(exercise, **changes):
    return type(exercise)(**{**vars(exercise), **changes})


def test_unknown_names_are_one_clear_sentence(root):
    with pytest.raises(ValueError, match="no submission of 01_sums by 'zoe'"):
        grading.grade_assignment(root, SLUG, students=["zoe"])
    with pytest.raises(ValueError, match="did you mean 01_sums"):
        grading.grade_assignment(root, "01_sum")
    shutil.rmtree(root / "release")
    with pytest.raises(FileNotFoundError, match="llmcourse release"):
        grading.grade_assignment(root, SLUG)
