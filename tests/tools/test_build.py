"""Notebooks made from text: metadata, ids, equality of two builds, and outputs that survive what does not change code."""

import json

import pytest
from tiny_course import TINY, edit

from tools import build, notebooks
from tools.chapter import BuildError, Course

NAMES = ["double", "quadruple"]


def test_the_source_carries_nbgraders_metadata(course: Course):
    made = build.source(course, TINY, NAMES)
    found = {c["metadata"]["nbgrader"]["grade_id"]: c["metadata"]["nbgrader"] for c in made["cells"] if c["metadata"]}
    common = {"schema_version": 3, "task": False}
    assert found["given_imports"] == common | {
        "grade": False,
        "grade_id": "given_imports",
        "locked": True,
        "solution": False,
    }
    assert found["double"] == common | {"grade": False, "grade_id": "double", "locked": False, "solution": True}
    assert found["check_double"] == common | {
        "grade": False,
        "grade_id": "check_double",
        "locked": True,
        "solution": False,
    }
    assert found["judge_double"] == common | {
        "grade": True,
        "grade_id": "judge_double",
        "locked": True,
        "solution": False,
        "points": 2,
    }
    assert found["why"] == common | {"grade": True, "grade_id": "why", "locked": False, "solution": True, "points": 1}
    assert len(found) == 8


def test_nbgrader_and_nbformat_accept_the_source(course: Course):
    import nbformat
    from nbgrader.preprocessors import CheckCellMetadata

    made = nbformat.from_dict(build.source(course, TINY, NAMES))
    nbformat.validate(made)
    CheckCellMetadata().preprocess(made, {})


@pytest.mark.parametrize("kind", ["lesson", "solution", "source"])
def test_two_builds_of_the_same_text_are_equal(course: Course, kind):
    make = {"lesson": lambda: build.lesson(course, TINY)}.get(kind, lambda: getattr(build, kind)(course, TINY, NAMES))
    text = build.dump(make())
    assert text == build.dump(make())
    assert text.endswith("}\n")
    ids = [c["id"] for c in json.loads(text)["cells"]]
    assert len(set(ids)) == len(ids)


def test_a_saved_notebook_reads_back_the_same(course: Course, tmp_path):
    made = build.lesson(course, TINY)
    assert build.save(made, tmp_path / "a.ipynb")
    assert not build.save(made, tmp_path / "a.ipynb")
    assert build.load(tmp_path / "a.ipynb") == made


def test_the_first_cell_says_which_file_to_edit(course: Course):
    for made, name in ((build.lesson(course, TINY), "lesson.py"), (build.source(course, TINY, NAMES), "exercises.py")):
        assert f"`course/chapters/98_tiny/{name}`" in made["cells"][0]["source"]


def test_the_solution_keeps_answers_and_drops_markers(course: Course):
    text = build.dump(build.solution(course, TINY, NAMES))
    assert "return x + x" in text
    assert "SOLUTION" not in text
    assert "nbgrader" not in {key for c in json.loads(text)["cells"] for key in c["metadata"]}


def test_a_graded_cell_in_a_lesson_is_refused(course: Course):
    edit(course.text(TINY, "lesson.py"), "# %%\nprint", '# %% exercise="f"\nprint')
    with pytest.raises(BuildError, match="a lesson has no exercise cells"):
        build.lesson(course, TINY)


def test_a_chapter_in_the_wrong_folder_is_refused(course: Course):
    edit(course.text(TINY, "exercises.py"), "# # 98 Tiny", "# # 97 Tiny")
    with pytest.raises(BuildError, match="the title says chapter 97, the folder 98"):
        build.source(course, TINY, NAMES)


def test_an_id_that_vanishes_stops_the_build_until_it_is_dropped(course: Course, capsys):
    build.save(build.source(course, TINY, NAMES), course.source(TINY))
    edit(course.text(TINY, "exercises.py"), 'manual="why"', 'manual="because"')
    options = ["--root", str(course.root), "--no-execute"]
    assert notebooks.main(options) == 1
    assert "the ids why were in the assignment and are gone" in capsys.readouterr().err
    assert notebooks.main([*options, "--drop", "why"]) == 0


def test_outputs_stay_when_only_prose_changes(built: Course, course: Course):
    before = build.load(built.lesson(TINY))
    edit(course.text(TINY, "lesson.py"), "a chapter for tests", "a chapter for nobody")
    kept = build.with_outputs(build.lesson(course, TINY), before)
    assert [c["outputs"] for c in build.code_cells(kept)] == [c["outputs"] for c in build.code_cells(before)]
    assert kept["metadata"] == before["metadata"]


def test_only_the_changed_cell_loses_its_output(built: Course, course: Course):
    before = build.load(built.lesson(TINY))
    edit(course.text(TINY, "lesson.py"), "sum(range(10))", "sum(range(11))")
    kept = build.with_outputs(build.lesson(course, TINY), before)
    bare = [c["source"] for c in build.code_cells(kept) if c["execution_count"] is None]
    assert bare == ["print(sum(range(11)))"]
