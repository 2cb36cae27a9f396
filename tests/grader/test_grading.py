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
from grader.task import still_holds

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


def test_after_an_edit_to_one_exercises_checks_only_that_one_is_judged_again(root):
    right = solutions(root)
    hand_in(root, "ada", right)
    hand_in(
        root,
        "bao",
        {**right, "root_mean_square": "def root_mean_square(x):\n    return x.pow(2).mean(-1).sqrt() + 1e-3"},
    )
    first = grading.grade_assignment(root, SLUG)
    assert (first.judged, first.changed) == (4, [])
    records = len((root / "results/ledger.jsonl").read_text().splitlines())
    before = {s: grading.read_result(root, SLUG, s) for s in ("ada", "bao")}

    again = grading.grade_assignment(root, SLUG, regrade=True)
    assert (again.judged, again.graded, sorted(again.unchanged)) == (0, {}, ["ada", "bao"])
    assert len((root / "results/ledger.jsonl").read_text().splitlines()) == records

    checks = root / "chapters" / SLUG / "checks.py"
    loose = 'name="root_mean_square",\n        close=Close(atol=0.01, rtol=0.0),'
    checks.write_text(
        checks.read_text()
        .replace('name="root_mean_square",', loose)
        .replace("import Case,", "import Close, Case,")
        .replace('replace=(".sqrt()", ""))', 'replace=(".sqrt()", " * 9"))')
    )
    fixed = grading.grade_assignment(root, SLUG)
    assert [str(c) for c in fixed.changed] == ["bao, root_mean_square: 0 -> 2"]
    assert fixed.judged == 2
    after = {s: grading.read_result(root, SLUG, s) for s in ("ada", "bao")}
    for student in after:
        kept, new = (r[student]["exercises"][0] for r in (before, after))
        assert kept == new
    assert {r.student: r.score for r in bridge.rows(root, SLUG)} == {"ada": 6.0, "bao": 6.0}


def test_judging_everything_afresh_gives_the_same_and_adds_no_record(root):
    right = solutions(root)
    hand_in(root, "ada", right)
    hand_in(root, "bao", {**right, "mean_square": right["mean_square"].replace(".mean(-1)", ".sum(-1)")})
    grading.grade_assignment(root, SLUG)
    before = {p.name: p.read_bytes() for p in (root / "results" / SLUG).glob("*.json")}
    ledger = (root / "results/ledger.jsonl").read_bytes()
    fresh = grading.grade_assignment(root, SLUG, fresh=True)
    assert (fresh.judged, fresh.graded) == (4, {})
    assert {p.name: p.read_bytes() for p in (root / "results" / SLUG).glob("*.json")} == before
    assert (root / "results/ledger.jsonl").read_bytes() == ledger


def test_equal_answers_are_judged_once_and_a_new_point_scheme_judges_nothing(root):
    for student in ("ada", "bao", "chi"):
        hand_in(root, student, solutions(root))
        report = grading.grade_assignment(root, SLUG)
        assert report.judged == (2 if student == "ada" else 0)
    source = root / "chapters" / SLUG / "exercises.py"
    source.write_text(source.read_text().replace("points=2", "points=1"))
    report = grading.grade_assignment(root, SLUG)
    assert (report.judged, len(report.changed)) == (0, 3)
    assert {e["max_points"] for e in grading.read_result(root, SLUG, "bao")["exercises"]} == {4.0, 1.0}


def test_a_verdict_that_leans_on_another_exercise_holds_as_long_as_that_one_stands(root):
    hand_in(root, "ada", {**solutions(root), "mean_square": "def mean_square(x):\n    return (x * x).sum(-1)"})
    grading.grade_assignment(root, SLUG)
    entry = grading.read_result(root, SLUG, "ada")["exercises"][1]
    assert entry["outcome"] == Outcome.PASSED
    assert entry["leans_on"] == {"mean_square": False}
    assert "no points here" in entry["notes"][0]
    chapter = course.load(SLUG, root)
    assert still_holds(entry, entry["key"], chapter, passed=set())
    assert not still_holds(entry, entry["key"], chapter, passed={"mean_square"})
    assert not still_holds(entry, "another key", chapter, passed=set())
    assert not still_holds({**entry, "outcome": Outcome.INFRASTRUCTURE}, entry["key"], chapter, passed=set())


def test_workers_side_by_side_give_what_one_gives(root):
    right = solutions(root)
    for n in range(6):
        wrong = {**right, "root_mean_square": f"def root_mean_square(x):\n    return x * {n}"}
        hand_in(root, f"s{n}", right if n % 3 == 0 else wrong)
    other = root.parent / "other"
    shutil.copytree(root, other)
    (other / "results").mkdir()
    grading.run_secret(root)
    shutil.copy(root / "results/.secret", other / "results/.secret")
    one, two = grading.grade_assignment(root, SLUG), grading.grade_assignment(other, SLUG, workers=2)
    assert sorted(one.graded) == sorted(two.graded)
    for student in one.graded:
        assert grading.read_result(root, SLUG, student) == grading.read_result(other, SLUG, student)


def test_a_warm_worker_grades_one_after_the_other_and_notices_an_edit(root):
    for student in ("ada", "bao"):
        hand_in(root, student, solutions(root))
    with grading.Warm(root, SLUG) as warm:
        assert list(grading.grade_assignment(root, SLUG, students=["ada"], warm=warm).graded) == ["ada"]
        checks = root / "chapters" / SLUG / "checks.py"
        checks.write_text(checks.read_text().replace("lambda x: _mean_square(x).sqrt()", "lambda x: _mean_square(x)"))
        with pytest.raises(grading.CanaryFailed, match="root_mean_square"):
            grading.grade_assignment(root, SLUG, students=["bao"], warm=warm)
    assert grading.read_result(root, SLUG, "bao") is None


def test_a_second_grader_waits_for_the_first_or_says_that_it_is_there(root):
    hand_in(root, "ada", solutions(root))
    folder = root / "results" / SLUG
    folder.mkdir(parents=True)
    code = f"import fcntl, sys; f = open({str(folder / '.lock')!r}, 'a'); fcntl.flock(f, fcntl.LOCK_EX); print('held', flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(RuntimeError, match="another grader is at 01_sums"):
            grading.grade_assignment(root, SLUG, wait_s=0.2)
        said = []

        def say(sentence):
            said.append(sentence)
            other.stdin.close()  # the first grader is done

        report = grading.grade_assignment(root, SLUG, say=say)
    assert (list(report.graded), said) == (["ada"], ["another grader is at 01_sums; waiting for it"])


def test_a_chapter_cell_that_cannot_run_is_asked_once_and_flagged(root, monkeypatch):
    from grader import task

    hand_in(root, "ada", solutions(root))
    source = root / "chapters" / SLUG / "exercises.py"
    source.write_text(source.read_text().replace("from grader import check, grade", "raise OSError('no data')"))
    asked = []
    real = task._ask_once
    monkeypatch.setattr(task, "_ask_once", lambda *a: asked.append(1) or real(*a))
    with pytest.raises(grading.CanaryFailed, match="does not run in the sandbox: OSError: no data"):
        grading.grade_assignment(root, SLUG)
    assert len(asked) == 1
