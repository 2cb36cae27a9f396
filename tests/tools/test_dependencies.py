"""What counts as a notebook's own code: followed imports, lazy packages, and nothing else."""

from pathlib import Path

import pytest

from tools import dependencies
from tools.chapter import CODE_ROOT


@pytest.fixture
def root(tmp_path: Path) -> Path:
    files = {
        "llmcore/__init__.py": "",
        "llmcore/a.py": "from llmcore.b import x\n",
        "llmcore/b.py": "x = 1\n",
        "llmcore/c.py": "from . import b\n",
        "llmcore/lazy/__init__.py": "NAMES = {'show': 'llmcore.lazy.base'}\n",
        "llmcore/lazy/base.py": "from llmcore import c\n",
        "llmcore/lazy/other.py": "",
        "grader/__init__.py": "",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


@pytest.mark.parametrize(
    ("code", "reached"),
    [
        ("import os", set()),
        ("import llmcore.b", {"b"}),
        ("from llmcore import a", {"a", "b"}),
        ("import llmcore as core\ncore.c.b", {"b", "c"}),
        ("from llmcore import lazy\nlazy.show()", {"lazy", "base", "c", "b"}),
        ("from llmcore import lazy\nlazy.other.draw()", {"lazy", "base", "other", "c", "b"}),
        ("%matplotlib inline", set()),
    ],
)
def test_imports_are_followed(root: Path, code: str, reached: set[str]):
    found = {p.parent.name if p.name == "__init__.py" else p.stem for p in dependencies.closure([code], root)}
    assert found - {"llmcore"} == reached


def test_a_change_in_a_module_that_is_reached_changes_the_hash(root: Path):
    before = dependencies.digest(["from llmcore import a"], root)
    (root / "llmcore/lazy/other.py").write_text("y = 1\n")
    assert dependencies.digest(["from llmcore import a"], root) == before
    (root / "llmcore/b.py").write_text("x = 2\n")
    assert dependencies.digest(["from llmcore import a"], root) != before


def test_extra_files_and_what_they_reach_count(root: Path, tmp_path: Path):
    checks = tmp_path / "checks.py"
    checks.write_text("import llmcore.b\n")
    before = dependencies.digest([], root, [checks])
    (root / "llmcore/b.py").write_text("x = 2\n")
    assert dependencies.digest([], root, [checks]) != before


def test_a_real_check_reaches_the_judge_and_not_the_command_line():
    found = {path.name for path in dependencies.closure(["from grader import check"], CODE_ROOT)}
    assert {"checking.py", "judge.py", "exercise.py"} <= found
    assert "cli.py" not in found
