"""What the notebook tests share: the repository's course, and an environment in which outputs repeat."""

import os
from pathlib import Path

import pytest

from tools.chapter import CODE_ROOT, Course
from tools.execute import kernel_environment

COURSE = Course(CODE_ROOT)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "slug" in metafunc.fixturenames:
        metafunc.parametrize("slug", COURSE.slugs())
    if "executed_notebook" in metafunc.fixturenames:
        found = [*sorted((CODE_ROOT / "lessons").glob("*.ipynb")), *sorted((CODE_ROOT / "solutions").glob("*.ipynb"))]
        metafunc.parametrize("executed_notebook", found, ids=lambda path: f"{path.parent.name}/{path.stem}")


@pytest.fixture
def repository() -> Course:
    return COURSE


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """The environment of kernels and commands, with the interpreter's own programs first on the path."""
    import sys

    programs = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    return kernel_environment(CODE_ROOT, tmp_path) | {"PATH": programs}
