"""A tiny course of one chapter, copied for each test that changes it and built once for those that look at it."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from tiny_course import copy_of_tiny_course


@pytest.fixture
def course(tmp_path: Path):
    """A course of the test's own, not built."""
    from grader.course import load

    load.cache_clear()
    return copy_of_tiny_course(tmp_path)


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory):
    """The course with its notebooks executed; tests only read it."""
    from tools import notebooks

    made = copy_of_tiny_course(tmp_path_factory.mktemp("built"))
    assert notebooks.main(["--root", str(made.root)]) == 0
    return made
