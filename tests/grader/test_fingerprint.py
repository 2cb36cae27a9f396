"""What counts as a change of an exercise, and what does not."""

import os
import shutil

import pytest

from grader import course, fingerprint

SLUG = "01_sums"


@pytest.fixture
def versions(small_root):
    """Versions of the exercises after a passage of one of the chapter's files was replaced."""
    clock = iter(range(10**18, 10**18 + 100))

    def found(old="", new="", file="checks.py"):
        path = small_root / "chapters" / SLUG / file
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))
        os.utime(path, ns=(0, next(clock)))
        return fingerprint.exercise_versions(course.load(SLUG, small_root))

    return found


def changed(before, after):
    return {name for name in before if before[name] != after[name]}


@pytest.mark.parametrize(
    ("old", "new", "wants"),
    [
        ('label="one row"', 'label="a single row"', {"root_mean_square"}),
        ('label="no values"', 'label="nothing"', {"mean_square"}),
        ("shift=2.0", "shift=3.0", {"root_mean_square"}),
        ('"Then the root."', '"Then take the root."', {"root_mean_square"}),
        ("raise ValueError\n", "raise ValueError('no values')\n", {"mean_square", "root_mean_square"}),
        ('"""Checks of the small', '"""Other words on the small', set()),
        ('    yield Case(label="one row"', '    # a remark\n\n    yield Case(label="one row"', set()),
    ],
)
def test_an_edit_to_the_checks_changes_the_exercises_that_reach_it(versions, old, new, wants):
    assert changed(versions(), versions(old, new)) == wants


def test_the_worked_solution_and_given_cells_count(versions):
    before = versions()
    solution = versions("needs at least one value", "wants one", "exercises.py")
    assert changed(before, solution) == {"mean_square"}
    assert changed(solution, versions("from grader import check, grade", "import math", "exercises.py")) == set(before)


def test_a_file_that_cannot_be_taken_apart_counts_as_a_whole(versions):
    before = versions("EXERCISES = [", "EXERCISES = [*[], ")
    whole = versions("EXERCISES = [*[], ", "NAMES = globals()\nEXERCISES = [")
    assert changed(before, whole) == set(before)
    assert changed(whole, versions("shift=2.0", "shift=3.0")) == set(before)


def test_a_statement_that_may_do_anything_counts_for_all(versions):
    before = versions()
    assert changed(before, versions("EXERCISES = [", "print('x')\nEXERCISES = [")) == set(before)


def test_our_package_counts_where_checks_import_it(versions, monkeypatch):
    versions("import torch\n", "import torch\n\nimport llmcore\n")
    before = versions("sqrt()", "sqrt() * (llmcore is not None)")
    monkeypatch.setattr(fingerprint, "_package", lambda name: f"another {name}")
    assert changed(before, versions()) == {"root_mean_square"}


def test_the_environment_is_part_of_it(versions, monkeypatch):
    before = versions()
    monkeypatch.setattr(fingerprint, "environment", lambda: "another torch")
    assert changed(before, versions()) == set(before)


def test_every_exercise_of_the_course_has_a_version_of_its_own():
    for slug in course.slugs(course.find_root()):
        found = fingerprint.exercise_versions(course.load(slug))
        assert len(set(found.values())) == len(found)


def test_points_change_the_course_and_no_exercise(versions, small_root):
    before, whole = versions(), fingerprint.course_version(course.load(SLUG, small_root))
    assert changed(before, versions("points=4", "points=5", "exercises.py")) == set()
    assert fingerprint.course_version(course.load(SLUG, small_root)) != whole


def test_two_copies_of_a_course_are_equal(small_root, tmp_path):
    shutil.copytree(small_root, tmp_path / "other")
    one, other = (course.load(SLUG, root) for root in (small_root, tmp_path / "other"))
    assert fingerprint.course_version(one) == fingerprint.course_version(other)
