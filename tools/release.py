"""Lets nbgrader's own `generate_assignment` make the learners' notebooks under `course/release/`, without a gradebook.

`llmcourse release` does the same with the gradebook, for a class. A release that stands for the present source is left alone.
"""

from __future__ import annotations

import contextlib
import io
import logging
import sys

from tools import build
from tools.build import METADATA_KEY
from tools.chapter import Course, skip_slow_import


def is_current(course: Course, slug: str) -> bool:
    """Whether the release was made, to its end, from the source as it lies there."""
    source, release = build.load(course.source(slug)), build.load(course.release(slug))
    if source is None or release is None or release["metadata"].get(METADATA_KEY) != source["metadata"][METADATA_KEY]:
        return False
    solved = [c for c in release["cells"] if c["metadata"].get("nbgrader", {}).get("solution")]
    return all("checksum" in c["metadata"]["nbgrader"] and "BEGIN SOLUTION" not in c["source"] for c in solved)


def make_release(course: Course, slugs: list[str], *, force: bool = False) -> int:
    """Make the release of each chapter that lacks one or has an older one; the exit status."""
    waiting = [slug for slug in slugs if course.source(slug).is_file() and (force or not is_current(course, slug))]
    for slug in slugs:
        if slug not in waiting:
            state = "up to date" if course.source(slug).is_file() else "no assignment; run make notebooks"
            print(f"{course.relative(course.release(slug))}: {state}")
    for slug in waiting:
        log = generate(course, slug)
        if not is_current(course, slug):
            print(f"failed: nbgrader made no sound release of {slug}; it says:\n{log}", file=sys.stderr)
            return 1
        print(f"{course.relative(course.release(slug))}: made by nbgrader")
    return 0


def generate(course: Course, slug: str) -> str:
    """Run nbgrader's converter on one assignment with the course's settings; what it logged."""
    skip_slow_import()
    from nbgrader.converters import GenerateAssignment
    from nbgrader.converters.base import NbGraderException
    from nbgrader.coursedir import CourseDirectory
    from traitlets.config import Config, PyFileConfigLoader

    settings = course.folder / "nbgrader_config.py"
    config = (
        PyFileConfigLoader(settings.name, path=str(settings.parent)).load_config() if settings.is_file() else Config()
    )
    config.CourseDirectory.root = str(course.folder)
    config.CourseDirectory.assignment_id = slug
    config.SaveCells.enabled, config.GenerateAssignment.no_database = False, True  # what --no-db sets
    converter = GenerateAssignment(coursedir=CourseDirectory(config=config), config=config)
    converter.force = True
    text = io.StringIO()
    converter.log = logging.Logger("release")
    converter.log.addHandler(logging.StreamHandler(text))
    with contextlib.suppress(NbGraderException, SystemExit):
        converter.start()
    return text.getvalue()
