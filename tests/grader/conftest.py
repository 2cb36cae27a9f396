import shutil
from pathlib import Path

import pytest

from grader import course

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
