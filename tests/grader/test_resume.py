"""A class graded under random `kill -9` equals the same class graded undisturbed: results, feedback, notebooks, gradebook and ledger."""

import json
import random
import shutil
from pathlib import Path

import pytest

from grader import course, exchange, grading, ledger, sandbox

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("class")]
SLUG = "01_sums"


@pytest.fixture(autouse=True)
def _walls():
    try:
        sandbox.find_walls()
    except sandbox.NoWalls as missing:
        pytest.skip(str(missing))


@pytest.fixture
def resume(monkeypatch):
    """The benchmark, whose thousand submissions and ten kills are thirty and three here."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    import grading_resume

    return grading_resume


def test_thirty_submissions_and_three_kills(resume, tmp_path):
    quiet, disturbed, slug = resume.prepare(tmp_path, "small", 30, seed=2)
    resume.grade(quiet, slug, 2)
    hit = resume.grade_disturbed(disturbed, slug, 2, 30, 3, random.Random(4))
    assert sum(hit.values()) == 3
    assert resume.differences(quiet, disturbed, slug) == []
    (disturbed / "feedback/s0003" / slug / f"{slug}.html").write_text("torn")
    assert resume.differences(quiet, disturbed, slug) == [f"feedback/s0003/{slug}/{slug}.html differs"]


@pytest.fixture
def root(released_course, hand_in, tmp_path):
    made = tmp_path / "course"
    shutil.copytree(released_course, made)
    for student in ("ada", "bao"):
        right = {name: f"{source}# {student}\n" for name, source in course.load(SLUG, made).solutions.items()}
        hand_in(made, student, {**right, "why_squares": f"Says {student}."})
    return made


class _Killed(BaseException):
    """Stands for the process's end."""


@pytest.mark.parametrize(
    "where", ["feedback.write_autograded", "feedback.write_page", "_write_result", "bridge.record", "os.replace"]
)
def test_a_run_that_ends_at_any_write_is_taken_up_without_judging_twice(root, monkeypatch, where):
    def end(*arguments, **options):
        raise _Killed

    with monkeypatch.context() as broken:
        broken.setattr(f"grader.grading.{where}", end)
        with pytest.raises(_Killed):
            grading.grade_assignment(root, SLUG)
    recorded = [r["student"] for r in ledger.read(root / "results/ledger.jsonl")[1]]
    report = grading.grade_assignment(root, SLUG)
    assert report.judged == 2 * (2 - len(recorded))
    assert sorted([*report.graded, *report.unchanged]) == ["ada", "bao"]
    found, records = ledger.read(root / "results/ledger.jsonl")
    assert found.ok
    assert sorted(r["student"] for r in records) == ["ada", "bao"]
    for student in ("ada", "bao"):
        assert grading.read_result(root, SLUG, student)["submitted_at"] == exchange.timestamp(root, student, SLUG)
        assert (root / "feedback" / student / SLUG / f"{SLUG}.html").is_file()
        assert json.loads((root / "autograded" / student / SLUG / f"{SLUG}.ipynb").read_text())["nbformat"] == 4


def test_a_result_from_the_record_is_the_one_that_was_lost(root):
    grading.grade_assignment(root, SLUG)
    path = grading.result_file(root, SLUG, "ada")
    before = path.read_bytes()
    path.unlink()
    report = grading.grade_assignment(root, SLUG)
    assert (report.judged, sorted(report.unchanged)) == (0, ["ada", "bao"])
    assert path.read_bytes() == before


def test_a_half_written_result_and_a_torn_record_are_no_results(root):
    grading.grade_assignment(root, SLUG, students=["ada"])
    book = root / "results/ledger.jsonl"
    whole = book.read_bytes()
    book.write_bytes(whole[:-20])
    path = grading.result_file(root, SLUG, "ada")
    path.write_bytes(path.read_bytes()[:100])
    report = grading.grade_assignment(root, SLUG)
    assert sorted(report.graded) == ["ada", "bao"]
    assert ledger.verify(book).records == 2


def test_what_stands_already_is_recorded_as_if_it_had_been_judged(released_course, hand_in, tmp_path):
    one, other = tmp_path / "one", tmp_path / "other"
    shutil.copytree(released_course, one)
    for student in ("ada", "bao"):
        hand_in(one, student, {})  # both leave everything open: equal answers
    grading.run_secret(one)
    shutil.copytree(one, other)
    grading.grade_assignment(one, SLUG)
    grading.grade_assignment(other, SLUG)
    grading.result_file(other, SLUG, "bao").unlink()
    (other / "results/ledger.jsonl").unlink()
    assert grading.grade_assignment(other, SLUG).judged == 0
    assert grading.read_result(one, SLUG, "bao") == grading.read_result(other, SLUG, "bao")
