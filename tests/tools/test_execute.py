"""Running notebooks: stored outputs repeat, and what must not be stored fails the build with the cell's text."""

import pytest
from tiny_course import TINY, copy_of_tiny_course, edit

from tools import build, notebooks
from tools.chapter import Course
from tools.execute import INTERACTIVE, CellFailure, clean_output, execute, join_streams


def _cell(source: str) -> build.Notebook:
    return build.notebook([build.cell("code", source, "a")], "x.py")


def test_a_second_run_from_cold_stores_the_same_bytes(built: Course, tmp_path):
    again = copy_of_tiny_course(tmp_path)
    assert notebooks.main(["--root", str(again.root)]) == 0
    for place in ("lesson", "solution", "source"):
        lines = [getattr(one, place)(TINY).read_text().splitlines() for one in (built, again)]
        differing = [pair for pair in zip(*lines, strict=True) if pair[0] != pair[1]]
        assert differing == []


def test_what_is_built_is_found_as_it_should_be(built: Course, capsys):
    assert notebooks.main(["--root", str(built.root), "--check"]) == 0
    assert capsys.readouterr().out == ""


def test_a_built_course_is_not_run_again(built: Course, capsys):
    assert notebooks.main(["--root", str(built.root)]) == 0
    assert "executed" not in capsys.readouterr().out


def test_a_widget_leaves_its_still_picture_with_alternative_text(built: Course):
    outputs = [o for c in build.code_cells(build.load(built.lesson(TINY))) for o in c["outputs"]]
    pictures = [o for o in outputs if "image/png" in o.get("data", {})]
    assert len(pictures) == 4
    assert all(o["metadata"][INTERACTIVE] and o["metadata"]["image/png"]["alt"] for o in pictures)
    assert not any("widget" in mime for o in outputs for mime in o.get("data", {}))
    text = built.lesson(TINY).read_text()
    assert "application/vnd.llm-principles.claim+json" in text
    assert "iopub" not in text


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("import sys\nprint('careful', file=sys.stderr)", r"cell 1: it wrote to stderr \(careful\)"),
        ("import warnings\nwarnings.warn('old')", "it wrote to stderr"),
        ("1 / 0", "it raised ZeroDivisionError: division by zero"),
        ("object()", "its output holds 'at 0x|its output holds 'object"),
    ],
)
def test_a_cell_that_must_not_be_stored_fails_with_its_text(source, says, tmp_path):
    with pytest.raises(CellFailure, match=says) as failure:
        execute(_cell(source), "x.ipynb", tmp_path)
    assert source.splitlines()[-1] in str(failure.value)


def test_a_widget_without_a_still_picture_fails():
    data = {"text/plain": "IntSlider()", "application/vnd.jupyter.widget-view+json": {"model_id": "1"}}
    with pytest.raises(CellFailure, match="a widget without a still picture"):
        clean_output({"output_type": "display_data", "data": data, "metadata": {}}, "x", 0, "slider")


def test_plotly_data_is_dropped_and_an_output_of_nothing_else_too():
    data = {"application/vnd.plotly.v1+json": {"data": []}}
    assert clean_output({"output_type": "display_data", "data": dict(data), "metadata": {}}, "x", 0, "") is None
    kept = clean_output(
        {"output_type": "display_data", "data": {**data, "image/png": "aa"}, "metadata": {}}, "x", 0, ""
    )
    assert kept["data"] == {"image/png": "aa"}


def test_a_solution_that_earns_nothing_fails_the_build(course: Course, capsys):
    course.text(TINY, "lesson.py").unlink()
    edit(course.text(TINY, "exercises.py"), "return x + x", "return x + x + 1")
    assert notebooks.main(["--root", str(course.root), "98"]) == 1
    said = capsys.readouterr().err
    assert "solutions/98_tiny.ipynb, cell 6: it raised AssertionError" in said
    assert not course.solution(TINY).exists()


@pytest.mark.parametrize("result", ["False", "0.5", "'done'"])
def test_a_graded_cell_that_returns_less_than_its_points_fails(result, course: Course):
    cell = next(c for c in notebooks.read_cells(course.text(TINY, "exercises.py")) if c.key == "judge")
    output = {"output_type": "execute_result", "data": {"text/plain": result}, "metadata": {}}
    made = build.notebook([build.cell("code", f"grade(double)\n{result}", cell.grade_id)], "x.py")
    made["cells"][0]["outputs"] = [output]
    with pytest.raises(CellFailure, match=r"must earn 2 points|bare"):
        notebooks._check_judged(made, cell, "x.ipynb")


def test_pieces_of_one_stream_are_joined():
    pieces = [("stdout", "a"), ("stdout", "b"), ("stderr", "c"), ("stdout", "d")]
    joined = join_streams([{"output_type": "stream", "name": name, "text": text} for name, text in pieces])
    assert [(o["name"], o["text"]) for o in joined] == [("stdout", "ab"), ("stderr", "c"), ("stdout", "d")]


def test_an_oversize_notebook_fails(course: Course, capsys):
    edit(course.text(TINY, "lesson.py"), "print(sum(range(10)))", "print('12345678' * 130_000)")
    course.text(TINY, "exercises.py").unlink()
    assert notebooks.main(["--root", str(course.root), "98"]) == 1
    assert "want at most 1 MB" in capsys.readouterr().err


def test_a_hand_edited_notebook_is_found(built: Course, tmp_path, capsys):
    import shutil

    other = Course(tmp_path / "edited")
    shutil.copytree(built.root, other.root)
    edit(other.lesson(TINY), "a chapter for tests", "a chapter by hand")
    (other.root / "lessons" / "97_left.ipynb").write_text("{}")
    assert notebooks.main(["--root", str(other.root), "--check"]) == 1
    said = capsys.readouterr().out
    assert "lessons/98_tiny.ipynb: differs from its text course/chapters/98_tiny/lesson.py" in said
    assert "lessons/97_left.ipynb: no chapter builds it" in said
