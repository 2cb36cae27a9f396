"""Reading chapter texts: what cells mean, and that each mistake is named with its line."""

import pytest
from tiny_course import TINY, edit

from tools.chapter import BuildError, Course, check_exercises, parse_cells, read_cells, read_title


def test_cells_carry_their_key_name_points_and_line(course: Course):
    cells = read_cells(course.text(TINY, "exercises.py"))
    keyed = [(c.key, c.name, c.points, c.grade_id) for c in cells if c.key]
    assert keyed[:4] == [
        ("given", "imports", None, "given_imports"),
        ("exercise", "double", None, "double"),
        ("check", "double", None, "check_double"),
        ("judge", "double", 2, "judge_double"),
    ]
    assert keyed[-1] == ("manual", "why", 1, "why")
    lines = course.text(TINY, "exercises.py").read_text().splitlines()
    assert all(lines[c.line - 1].startswith("# %%") for c in cells)


def test_the_grader_reads_the_same_exercises_and_points(course: Course):
    from grader.course import load

    cells = read_cells(course.text(TINY, "exercises.py"))
    chapter = load(TINY, course.folder)
    assert list(chapter.solutions) == [c.name for c in cells if c.key == "exercise"]
    assert chapter.points == {c.name: float(c.points) for c in cells if c.key == "judge"}
    assert chapter.manual == {c.name: float(c.points) for c in cells if c.key == "manual"}


def test_a_title_holds_number_minutes_and_needs():
    cells = parse_cells(
        "# %% [markdown]\n# # 03 Norms: in range\n# *Time: 45 minutes. Builds on: 02_attention_scaling.*\n", "x.py"
    )
    title = read_title(cells, "x.py")
    assert (title.number, title.title, title.minutes, title.needs) == (
        "03",
        "Norms: in range",
        45,
        "02_attention_scaling",
    )


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("x = 1\n# %%\ny = 2\n", "must open with a cell marker"),
        ('# %% excercise="f"\nf = 1\n', "did you mean exercise?"),
        ('# %% exercise="f" check="f"\nf = 1\n', "one thing only"),
        ('# %% exercise="two words"\nf = 1\n', "wants a name"),
        ('# %% [markdown] judge="f" points=2\n# text\n', "must be code"),
        ('# %% judge="f"\ngrade(f)\n', "wants points above 0, got None"),
        ('# %% judge="f" points=0\ngrade(f)\n', "wants points above 0, got 0"),
        ('# %% exercise="f" points=2\nf = 1\n', "points stand on judge and manual cells only"),
    ],
)
def test_a_wrong_cell_is_named_with_its_line(text, says):
    with pytest.raises(BuildError, match=r"^x\.py:\d+: ") as error:
        parse_cells(text, "x.py")
    assert says in str(error.value)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('exercise="quadruple"', 'exercise="double"', "'double' is used 2 times"),
        ('judge="double"', 'judge="doubble"', "has no exercise; did you mean double?"),
        ('# %% judge="double" points=2\ngrade(double)\n', "", "has no judge cell"),
        ('# %% check="double"\ncheck(double)\n', "", "has no check cell"),
        ('manual="why"', 'manual="double"', "'double' is used 2 times"),
    ],
)
def test_cells_that_do_not_fit_together_are_refused(course: Course, old, new, says):
    path = course.text(TINY, "exercises.py")
    edit(path, old, new)
    with pytest.raises(BuildError, match=says):
        check_exercises(read_cells(path), path, ["double", "quadruple"])


@pytest.mark.parametrize(
    ("checked", "says"),
    [
        (["double"], "'quadruple' is not in checks.py"),
        (["double", "quadruple", "third"], "checks.py has 'third', exercises.py has not"),
        (["quadruple", "double"], "must follow exercises.py"),
    ],
)
def test_exercises_and_checks_must_name_the_same(course: Course, checked, says):
    path = course.text(TINY, "exercises.py")
    with pytest.raises(BuildError, match=says):
        check_exercises(read_cells(path), path, checked)


def test_an_unknown_chapter_names_the_nearest(course: Course):
    assert course.find("98") == course.find("98_tiny") == TINY
    with pytest.raises(ValueError, match="did you mean 98_tiny"):
        course.find("98_tny")
