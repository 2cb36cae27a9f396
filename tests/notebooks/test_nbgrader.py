"""nbgrader itself, used as its manual says in a copy of `course/`: list, generate, release, autograde, feedback."""

import shutil
import subprocess
import sys

import pytest

from tools import build
from tools.chapter import CODE_ROOT, Course

pytest.importorskip("nbgrader", reason="these tests are about nbgrader")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def copy(tmp_path_factory) -> Course:
    made = Course(tmp_path_factory.mktemp("nbgrader"))
    ignored = shutil.ignore_patterns(
        "release", "submitted", "autograded", "feedback", "exchange", "gradebook.db*", "__pycache__"
    )
    shutil.copytree(CODE_ROOT / "course", made.folder, ignore=ignored)
    return made


@pytest.fixture
def nbgrader(copy, environment):
    def run(*arguments: str) -> str:
        command = [sys.executable, "-m", "nbgrader", *arguments]
        place = {"LLM_COURSE_ROOT": str(copy.folder)}
        done = subprocess.run(
            command, cwd=copy.folder, env=environment | place, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        return done.stdout + done.stderr

    return run


def test_the_whole_round_for_one_assignment(slug, copy, nbgrader):
    """The solution earns all points but those of hand-graded cells, the stub none."""
    nbgrader("generate_assignment", slug)
    nbgrader("release_assignment", slug)
    assert slug in nbgrader("list")
    for student, source in (("ada", copy.source(slug)), ("nil", copy.release(slug))):
        folder = copy.folder / "submitted" / student / slug
        folder.mkdir(parents=True)
        shutil.copyfile(source, folder / f"{slug}.ipynb")
    nbgrader("autograde", slug)
    nbgrader("generate_feedback", slug)
    cells = [c["metadata"]["nbgrader"] for c in build.load(copy.source(slug))["cells"] if "nbgrader" in c["metadata"]]
    judged = sum(c["points"] for c in cells if c["grade"] and not c["solution"])
    assert _scores(copy, slug) == {"ada": judged, "nil": 0.0}
    for student in ("ada", "nil"):
        assert (copy.folder / "feedback" / student / slug / f"{slug}.html").stat().st_size > 1000


def _scores(copy: Course, slug: str) -> dict[str, float]:
    from nbgrader.api import Gradebook

    with Gradebook(f"sqlite:///{copy.folder / 'gradebook.db'}", course_id="llm_principles") as book:
        return {
            s.student_id: sum(g.auto_score or 0.0 for n in s.notebooks for g in n.grades)
            for s in book.assignment_submissions(slug)
        }
