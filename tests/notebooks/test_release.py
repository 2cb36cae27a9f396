"""What learners get: every graded cell fails on the stub and passes on the solution, and nothing gives the answer away."""

import doctest
import linecache
import re

import pytest

from tools import build, release
from tools.chapter import CODE_ROOT, Course

pytest.importorskip("nbgrader", reason="nbgrader makes the release")


@pytest.fixture(scope="module")
def released(tmp_path_factory) -> Course:
    """A course folder elsewhere, released by nbgrader from the committed sources."""
    import shutil

    made = Course(tmp_path_factory.mktemp("released"))
    shutil.copytree(CODE_ROOT / "course" / "source", made.folder / "source")
    shutil.copyfile(CODE_ROOT / "course" / "nbgrader_config.py", made.folder / "nbgrader_config.py")
    slugs = Course(CODE_ROOT).slugs()
    assert release.make_release(made, slugs) == 0
    return made


def _run(cells: list[dict], namespace: dict) -> dict:
    """Execute cells as a notebook would; sources can be found, as `check` wants them."""
    for cell in cells:
        name = f"<cell {cell['id']} {id(namespace)}>"
        linecache.cache[name] = (len(cell["source"]), None, cell["source"].splitlines(keepends=True), name)
        exec(compile(cell["source"], name, "exec"), namespace)
    return namespace


def _by_id(path) -> dict[str, dict]:
    return {c["id"]: c for c in build.load(path)["cells"] if c["cell_type"] == "code"}


def test_each_graded_cell_fails_on_the_stub_and_passes_on_the_solution(slug, repository, released, monkeypatch):
    monkeypatch.setenv("LLM_COURSE_NO_PROGRESS", "1")
    monkeypatch.setenv("LLM_COURSE_ROOT", str(repository.folder))
    solved, stubs = _by_id(repository.source(slug)), _by_id(released.release(slug))
    assert list(solved) == list(stubs)
    judged = [name.removeprefix("judge_") for name in solved if name.startswith("judge_")]
    assert judged
    given = [cell for name, cell in solved.items() if name.startswith("given_")]
    answers = [solved[name] for name in judged]
    whole = _run([*given, *answers], {"__name__": "__main__"})
    for name in judged:
        _run([solved[f"judge_{name}"]], whole)
        with_stub = _run([*given, *answers, stubs[name]], {"__name__": "__main__"})
        with pytest.raises(AssertionError):
            _run([stubs[f"judge_{name}"]], with_stub)


def test_the_release_holds_no_answer(slug, repository, released):
    text = released.release(slug).read_text(encoding="utf-8")
    assert "BEGIN SOLUTION" not in text
    for name, cell in _by_id(repository.source(slug)).items():
        answer = "".join(re.findall(r"### BEGIN SOLUTION\n(.*?)### END SOLUTION", cell["source"], re.DOTALL))
        shown = "\n".join(c["source"] for c in build.load(released.release(slug))["cells"])
        lines = [
            line.strip()
            for line in answer.splitlines()
            if len(line.strip()) > 40 and not line.strip().startswith(("raise", "#"))
        ]
        assert [line for line in lines if line in shown] == [], name


def test_the_examples_in_the_docstrings_hold(slug, repository, monkeypatch):
    solved = _by_id(repository.source(slug))
    code = [cell for name, cell in solved.items() if not name.startswith(("check_", "judge_"))]
    namespace = _run(code, {"__name__": "__main__"})
    names = [name for name in solved if not name.startswith(("check_", "judge_", "given_")) and name in namespace]
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
    for name in names:
        for test in doctest.DocTestFinder().find(namespace[name], name, module=False, globs=namespace):
            runner.run(test)
    assert runner.failures == 0
    assert runner.tries > 0


def test_the_graders_manifest_has_the_same_ids_and_points(slug, repository, released):
    from grader.course import load

    chapter = load(slug, repository.folder)
    cells = [
        c["metadata"]["nbgrader"] for c in build.load(released.release(slug))["cells"] if "nbgrader" in c["metadata"]
    ]
    graded = {c["grade_id"]: c["points"] for c in cells if c["grade"]}
    assert graded == {f"judge_{name}": points for name, points in chapter.points.items()} | chapter.manual
    assert [c["grade_id"] for c in cells if c["solution"] and not c["grade"]] == list(chapter.exercises)
