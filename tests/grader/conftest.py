import json
import shutil
from pathlib import Path

import pytest

from grader import course, exchange

SMALL = Path(__file__).parent / "small_course"


@pytest.fixture(autouse=True)
def _no_progress_outside(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.delenv("LLM_COURSE_NO_PROGRESS", raising=False)


@pytest.fixture
def small(monkeypatch):
    """The small chapter, found by `check` as the only course."""
    monkeypatch.setenv(course.ROOT_VARIABLE, str(SMALL))
    return course.load("01_sums", SMALL)


@pytest.fixture
def small_root(tmp_path):
    """A copy of the small course in which a class can be graded."""
    root = tmp_path / "course"
    shutil.copytree(SMALL, root, ignore=shutil.ignore_patterns("__pycache__"))
    return root


@pytest.fixture(scope="session")
def released_course(tmp_path_factory):
    """The small course with its source notebook and its release, made once; copy it before writing."""
    from grader import bridge
    from tools.build import save, source
    from tools.chapter import Course

    root = tmp_path_factory.mktemp("released_course") / "course"
    shutil.copytree(SMALL, root, ignore=shutil.ignore_patterns("__pycache__"))
    here = Course(root.parent)
    save(source(here, "01_sums", ["mean_square", "root_mean_square"]), here.source("01_sums"))
    bridge.generate_release(root, "01_sums")
    return root


def fill_in(root, student, cells):
    """The released notebook with `cells` filled in, handed in and collected for `student`."""
    notebook = json.loads((root / "release/01_sums/01_sums.ipynb").read_text())
    for cell in notebook["cells"]:
        grade_id = cell["metadata"].get("nbgrader", {}).get("grade_id")
        if grade_id in cells:
            cell["source"] = cells[grade_id]
    path = root / f"{student}.ipynb"
    path.write_text(json.dumps(notebook))
    exchange.submit(root, "01_sums", path, student)
    exchange.collect(root, "01_sums")


CLASS = {
    "ada": {},
    "bao": {"mean_square": (".mean(-1)", ".sum(-1)")},
    "chi": {"mean_square": (".mean(-1)", ".sum(-1)"), "root_mean_square": (".sqrt()", "")},
    "dan": {"root_mean_square": ("return", "import os; os._exit(0); return")},
    "eve": None,
}
"""What each student of the graded class changed in the worked solutions; None hands in the stubs."""


@pytest.fixture(scope="session")
def graded_once(released_course, tmp_path_factory):
    from grader import grading, sandbox

    try:
        sandbox.find_walls()
    except sandbox.NoWalls as missing:
        pytest.skip(str(missing))
    root = tmp_path_factory.mktemp("graded") / "course"
    shutil.copytree(released_course, root)
    right = course.load("01_sums", root).solutions
    for student, changes in CLASS.items():
        cells = {} if changes is None else {**right, "why_squares": f"Because, says {student}."}
        for name, (old, new) in (changes or {}).items():
            cells[name] = cells[name].replace(old, new)
        fill_in(root, student, cells)
    grading.grade_assignment(root, "01_sums")
    return root


@pytest.fixture
def graded(graded_once, tmp_path):
    """A course in which the class of `CLASS` was graded; a copy, to be changed at will."""
    root = tmp_path / "graded"
    shutil.copytree(graded_once, root)
    return root


@pytest.fixture
def hand_in():
    """`hand_in(root, student, cells)`; see `fill_in`."""
    return fill_in


@pytest.fixture
def llmcourse(monkeypatch, capsys):
    """`llmcourse(*words)` runs the command line wide, and returns (exit code, all that was printed)."""
    import sys

    from rich.console import Console

    from grader import cli, cli_reports

    for module in (cli, cli_reports):  # a console takes its width from the environment once, when it is made
        monkeypatch.setattr(module, "out", Console(highlight=False, soft_wrap=True, width=200))

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["llmcourse", *words])
        try:
            cli.main()
            code = 0
        except SystemExit as end:
            code = end.code or 0
        printed = capsys.readouterr()
        return code, printed.out + printed.err

    return run
