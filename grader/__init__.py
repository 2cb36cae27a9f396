"""The grading engine: instant checks for the learner, safe official grading for the instructor.

`from grader import check, grade, progress` is all that a notebook needs. Nothing here knows a chapter:
exercises are loaded from a course folder (see `grader.course`).
"""

from __future__ import annotations

import importlib
from typing import Any

_PUBLIC = {"check": "grader.checking", "grade": "grader.checking", "progress": "grader.checking"}
__all__ = ["check", "grade", "progress"]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        value = getattr(importlib.import_module(_PUBLIC[name]), name)
        globals()[name] = value  # asked once
        return value
    raise AttributeError(f"module 'grader' has no attribute {name!r}; it offers {', '.join(__all__)}")
