"""Copies of a tiny course of one chapter, for tests to build and to break."""

import shutil
from pathlib import Path

from tools.chapter import Course

REPOSITORY = Path(__file__).resolve().parents[2]
TINY = "98_tiny"


def copy_of_tiny_course(folder: Path) -> Course:
    """A course in `folder`, with the pages and settings of the real one, not built."""
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(Path(__file__).parent / "fixture_course", folder / "tiny", ignore=ignore)
    for name in ("pages", "syllabus.md", "glossary.md", "nbgrader_config.py"):
        source, target = REPOSITORY / "course" / name, folder / "tiny" / "course" / name
        shutil.copytree(source, target) if source.is_dir() else shutil.copyfile(source, target)
    return Course(folder / "tiny")


def edit(path: Path, old: str, new: str) -> None:
    """Replace the first `old` in a file; it must be there."""
    text = path.read_text(encoding="utf-8")
    assert old in text, f"{old!r} is not in {path.name}"
    path.write_text(text.replace(old, new, 1), encoding="utf-8")
