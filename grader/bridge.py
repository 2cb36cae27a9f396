"""The one file that knows nbgrader: the release, the gradebook, and where its tools expect their files.

nbgrader is imported inside the functions: it takes seconds, and a learner's `check` needs none of it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

COURSE_ID = "llm_principles"
DB_VARIABLE = "LLM_COURSE_DB"


@dataclass(frozen=True)
class CellScore:
    """What the gradebook is told about one graded cell. `auto` None means that a person must look."""

    grade_id: str
    auto: float | None


@dataclass(frozen=True)
class SubmissionScore:
    student: str
    timestamp: str | None
    """UTC, as nbgrader writes it, or None when the submission carries none."""
    cells: tuple[CellScore, ...]
    unanswered: tuple[str, ...] = ()
    """Ids of solution cells without an answer."""


@dataclass
class GradebookRow:
    """One student's standing in one assignment, manual scores and penalties included."""

    student: str
    assignment: str
    score: float
    max_score: float
    penalty: float = 0.0
    needs_manual: bool = False
    timestamp: datetime | None = None
    cells: dict[str, float] = field(default_factory=dict)


def db_url(root: Path) -> str:
    """The gradebook's address: the variable LLM_COURSE_DB, else SQLite beside the course."""
    return os.environ.get(DB_VARIABLE) or f"sqlite:///{root / 'gradebook.db'}"


def _prepare() -> None:
    """What nbgrader needs before it is imported: no URI grammars (2 s to build), and `alembic` found beside this Python."""
    sys.modules.setdefault("rfc3987_syntax", None)  # type: ignore[arg-type]
    beside = str(Path(sys.executable).parent)
    if beside not in os.environ.get("PATH", "").split(os.pathsep):
        os.environ["PATH"] = os.pathsep.join([beside, os.environ.get("PATH", os.defpath)])


def generate_release(root: Path, slug: str) -> Path:
    """The student version of an assignment, made by nbgrader's own generate_assignment; its gradebook entries are made too.

    Raises: FileNotFoundError without a source notebook, RuntimeError with nbgrader's log when it refuses.
    """
    source = root / "source" / slug / f"{slug}.ipynb"
    if not source.is_file():
        raise FileNotFoundError(f"no source notebook {source}; run `make notebooks` to build it from exercises.py")
    _prepare()
    from nbgrader.apps.api import NbGraderAPI

    api = NbGraderAPI(config=_config(root))
    answer = api.generate_assignment(slug, force=True, create=True)
    if not answer["success"]:
        raise RuntimeError(
            f"nbgrader could not make the release of {slug}: {(answer.get('error') or answer.get('log') or '').strip()[-800:]}"
        )
    return root / "release" / slug / f"{slug}.ipynb"


def _config(root: Path) -> Any:
    from traitlets.config import Config

    config = Config()
    config.CourseDirectory.root = str(root)
    config.CourseDirectory.course_id = COURSE_ID
    config.CourseDirectory.db_url = db_url(root)
    return config


@contextmanager
def gradebook(root: Path) -> Iterator[Any]:
    """nbgrader's gradebook, closed at the end. SQLite waits for other writers up to 30 s instead of 5."""
    _prepare()
    from nbgrader.api import Gradebook
    from sqlalchemy import text

    book = Gradebook(db_url(root), course_id=COURSE_ID)
    try:
        if book.engine.dialect.name == "sqlite":
            book.db.execute(text("PRAGMA busy_timeout = 30000"))
        yield book
    finally:
        book.close()


def record(root: Path, slug: str, scores: Iterable[SubmissionScore]) -> None:
    """Writes scores in one transaction. The same scores again change nothing and add no row; manual scores are kept.

    Raises: FileNotFoundError when the assignment was never released.
    """
    from nbgrader.api import Comment, Grade, MissingEntry, Student, SubmittedAssignment, SubmittedNotebook
    from nbgrader.utils import parse_utc

    with gradebook(root) as book:
        try:
            assignment = book.find_assignment(slug)
        except MissingEntry:
            raise FileNotFoundError(
                f"the gradebook has no assignment {slug}; run `llmcourse release {slug}` first"
            ) from None
        notebook = assignment.notebooks[0]
        students = {s.id: s for s in book.db.query(Student)}
        submissions = {s.student_id: s for s in assignment.submissions}
        for score in scores:
            student = students.get(score.student)
            if student is None:
                student = students[score.student] = Student(id=score.student)
                book.db.add(student)
            submission = submissions.get(score.student)
            if submission is None:
                submission = SubmittedAssignment(assignment=assignment, student=student)
                book.db.add(submission)
                opened = SubmittedNotebook(notebook=notebook, assignment=submission)
                book.db.add(opened)
                book.db.add_all(
                    Grade(cell_id=cell.id, notebook=opened) for cell in (*notebook.grade_cells, *notebook.task_cells)
                )
                book.db.add_all(
                    Comment(cell_id=cell.id, notebook=opened)
                    for cell in (*notebook.solution_cells, *notebook.task_cells)
                )
                book.db.flush()
            changed = submission.timestamp != (stamp := parse_utc(score.timestamp) if score.timestamp else None)
            submission.timestamp = stamp
            _fill(submission.notebooks[0], score, changed)
        book.db.commit()


def _fill(notebook: Any, score: SubmissionScore, changed: bool) -> None:
    autos = {cell.grade_id: cell.auto for cell in score.cells}
    for grade in notebook.grades:
        if grade.cell.name not in autos:
            continue
        auto = autos[grade.cell.name]
        grade.auto_score = auto
        if auto is not None:
            grade.needs_manual_grade = False
        elif grade.manual_score is None or changed:
            grade.needs_manual_grade = True
    for comment in notebook.comments:
        comment.auto_comment = "No response." if comment.cell.name in score.unanswered else None


def rows(root: Path, slug: str | None = None) -> list[GradebookRow]:
    """The gradebook's rows, by assignment and student; empty before anything was released."""
    if db_url(root).startswith("sqlite") and not (root / "gradebook.db").exists() and DB_VARIABLE not in os.environ:
        return []
    found = []
    with gradebook(root) as book:
        for assignment in book.assignments:
            if slug not in (None, assignment.name):
                continue
            for submission in assignment.submissions:
                cells = {g.cell.name: float(g.score or 0.0) for n in submission.notebooks for g in n.grades}
                found.append(
                    GradebookRow(
                        student=submission.student_id,
                        assignment=assignment.name,
                        score=max(
                            0.0, float(submission.score or 0.0) - float(submission.late_submission_penalty or 0.0)
                        ),
                        max_score=float(assignment.max_score or 0.0),
                        penalty=float(submission.late_submission_penalty or 0.0),
                        needs_manual=bool(submission.needs_manual_grade),
                        timestamp=submission.timestamp,
                        cells=cells,
                    )
                )
    return sorted(found, key=lambda r: (r.assignment, r.student))


def read_notebook(path: Path) -> Any:
    """A trusted notebook of ours, as nbformat's version 4."""
    _prepare()
    import nbformat

    return nbformat.read(path, as_version=4)


def write_notebook(notebook: Any, path: Path) -> None:
    """Writes a notebook under a temporary name and renames it."""
    _prepare()
    import nbformat

    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.part")
    temporary.write_text(nbformat.writes(nbformat.from_dict(notebook)), encoding="utf-8")
    os.replace(temporary, path)
