"""The release is nbgrader's own work, holds no answer, and is made again only when the source changed."""

import pytest
from tiny_course import TINY, edit

from tools import build, notebooks, release
from tools.chapter import Course

pytest.importorskip("nbgrader", reason="the release is made by nbgrader")


@pytest.fixture
def sourced(course: Course) -> Course:
    build.save(build.source(course, TINY, ["double", "quadruple"]), course.source(TINY))
    return course


def test_the_release_holds_stubs_and_no_answer(sourced: Course):
    assert notebooks.main(["--root", str(sourced.root), "--release"]) == 0
    cells = {c["id"]: c for c in build.load(sourced.release(TINY))["cells"]}
    assert cells["double"]["source"].endswith("# YOUR CODE HERE\n    raise NotImplementedError()")
    assert "Raises ValueError" in cells["double"]["source"]
    assert cells["judge_double"]["source"] == "grade(double)"
    assert cells["judge_double"]["metadata"]["editable"] is False
    assert "twice two" not in cells["why"]["source"]
    assert "return x + x" not in sourced.release(TINY).read_text()
    assert not (sourced.folder / "gradebook.db").exists()


def test_a_release_is_made_once_for_one_source(sourced: Course, capsys):
    options = ["--root", str(sourced.root), "--release"]
    assert notebooks.main(options) == 0
    assert notebooks.main(options) == 0
    assert capsys.readouterr().out.count("made by nbgrader") == 1
    edit(sourced.text(TINY, "exercises.py"), "Two functions", "Both functions")
    build.save(build.source(sourced, TINY, ["double", "quadruple"]), sourced.source(TINY))
    assert not release.is_current(sourced, TINY)
    assert notebooks.main(options) == 0
    assert "Both functions" in sourced.release(TINY).read_text()


def test_a_release_cut_short_is_not_taken_for_whole(sourced: Course):
    sourced.release(TINY).parent.mkdir(parents=True)
    sourced.release(TINY).write_bytes(sourced.source(TINY).read_bytes())
    assert not release.is_current(sourced, TINY)


def test_a_chapter_without_source_says_what_to_do(course: Course, capsys):
    assert notebooks.main(["--root", str(course.root), "--release"]) == 0
    assert "no assignment; run make notebooks" in capsys.readouterr().out
