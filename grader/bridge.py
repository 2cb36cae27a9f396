"""The one file that knows nbgrader: the release, the gradebook, and where its tools expect their files.

nbgrader is imported inside the functions: it takes seconds, and a learner's `check` needs none of it.
"""

from __future__ import annotations

import functools
import json
import os
import random
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
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
    lms_id: str = ""
    """The learning platform's number of the student, where an archive or a roster told it."""
    name: str = ""
    timestamp: datetime | None = None
    due: datetime | None = None
    """With this student's extension; UTC without a zone, like `timestamp`."""
    seconds_late: float = 0.0
    cells: dict[str, float] = field(default_factory=dict)
    """Points by cell, whoever gave them."""
    autos: dict[str, float | None] = field(default_factory=dict)
    """What the grader gave, by cell."""
    manuals: dict[str, float | None] = field(default_factory=dict)
    """What a person gave, by cell; where there is one it counts."""


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


RECORD_TRIES = 5
FEW = 200
"""Of fewer submissions than this, only their own rows are read."""


def record(root: Path, slug: str, scores: Iterable[SubmissionScore]) -> None:
    """Writes scores in one transaction. The same scores again change nothing and add no row; manual scores are kept.

    When another grader got in between (the same student added twice, a lock that came late), it begins again.

    Raises: FileNotFoundError when the assignment was never released, RuntimeError when the database refuses again and again.
    """
    wanted = sorted(scores, key=lambda s: s.student)
    _prepare()
    from sqlalchemy.exc import IntegrityError, OperationalError

    for tries in range(1, RECORD_TRIES + 1):
        try:
            _record(root, slug, wanted)
            return
        except (IntegrityError, OperationalError) as error:
            if tries == RECORD_TRIES:
                raise RuntimeError(
                    f"the gradebook refuses ({str(error.orig).strip()}); the results are kept, run the command again"
                ) from None
            time.sleep(random.uniform(0.05, 0.2) * 2**tries)


def _record(root: Path, slug: str, scores: list[SubmissionScore]) -> None:
    from nbgrader.api import Student, SubmittedAssignment, SubmittedNotebook
    from nbgrader.utils import parse_utc
    from sqlalchemy.orm import selectinload

    with gradebook(root) as book, book.db.no_autoflush:
        assignment = _assignment(book, slug)
        notebook = assignment.notebooks[0]
        cells = {c.id: c.name for c in (*notebook.grade_cells, *notebook.solution_cells, *notebook.task_cells)}
        opened = selectinload(SubmittedAssignment.notebooks)
        rows = book.db.query(SubmittedAssignment).filter(SubmittedAssignment.assignment_id == assignment.id)
        rows = rows.options(
            opened.selectinload(SubmittedNotebook.grades), opened.selectinload(SubmittedNotebook.comments)
        )
        known = book.db.query(Student)
        if len(scores) < FEW:
            names = [score.student for score in scores]
            rows, known = rows.filter(SubmittedAssignment.student_id.in_(names)), known.filter(Student.id.in_(names))
        students, submissions = {s.id: s for s in known}, {s.student_id: s for s in rows}
        for score in scores:
            student = students.get(score.student)
            if student is None:
                student = students[score.student] = Student(id=score.student)
                book.db.add(student)
            submission = submissions.get(score.student) or _new_submission(book, assignment, notebook, student)
            submissions[score.student] = submission
            changed = submission.timestamp != (stamp := parse_utc(score.timestamp) if score.timestamp else None)
            if changed:
                submission.timestamp = stamp
            _fill(submission.notebooks[0], cells, score, changed)
        _assign_late_penalties(root, book, assignment, [submissions[score.student] for score in scores])
        book.db.commit()


def _new_submission(book: Any, assignment: Any, notebook: Any, student: Any) -> Any:
    from nbgrader.api import Comment, Grade, SubmittedAssignment, SubmittedNotebook

    submission = SubmittedAssignment(assignment=assignment, student=student)
    opened = SubmittedNotebook(notebook=notebook, assignment=submission)
    tasks = notebook.task_cells
    rows = [Grade(cell_id=cell.id, notebook=opened) for cell in (*notebook.grade_cells, *tasks)]
    rows += [Comment(cell_id=cell.id, notebook=opened) for cell in (*notebook.solution_cells, *tasks)]
    book.db.add_all([submission, opened, *rows])
    return submission


def _fill(notebook: Any, cells: dict[str, str], score: SubmissionScore, changed: bool) -> None:
    """Sets what is other than it stands; `cells` are the names of cells by their ids."""
    autos = {cell.grade_id: cell.auto for cell in score.cells}
    for grade in notebook.grades:
        name = cells.get(grade.cell_id)
        if name not in autos:
            continue
        auto = autos[name]
        if grade.auto_score != auto:
            grade.auto_score = auto
        if auto is not None:
            grade.needs_manual_grade = False
        elif grade.manual_score is None or changed:
            grade.needs_manual_grade = True
    for comment in notebook.comments:
        said = "No response." if cells.get(comment.cell_id) in score.unanswered else None
        if comment.auto_comment != said:
            comment.auto_comment = said


def _assign_late_penalties(root: Path, book: Any, assignment: Any, submissions: Iterable[Any]) -> None:
    """What nbgrader's autograde does about due dates, with the plugin that the course's nbgrader_config.py names."""
    book.db.flush()
    late = []
    for submission in submissions:
        if submission.timestamp and assignment.duedate and submission.total_seconds_late > 0:
            late.append(submission)
            continue
        for notebook in submission.notebooks:
            if notebook.late_submission_penalty is not None:
                notebook.late_submission_penalty = None
    if not late:
        return
    from nbgrader.preprocessors import AssignLatePenalties  # seconds to import, so only when someone is late

    assign = AssignLatePenalties(config=_course_config(root))
    assign.init_plugin()
    for submission in late:
        for notebook in submission.notebooks:
            book.db.refresh(notebook)
            points, seconds = float(notebook.score or 0.0), submission.total_seconds_late
            penalty = assign.plugin_inst.late_submission_penalty(submission.student_id, points, seconds)
            notebook.late_submission_penalty = (
                None if penalty is None else assign._check_late_penalty(notebook, penalty)
            )


def _course_config(root: Path) -> Any:
    """What the course's own nbgrader_config.py sets; it is the instructor's and is executed."""
    from traitlets.config import Config, PyFileConfigLoader

    if not (root / "nbgrader_config.py").is_file():
        return Config()
    return PyFileConfigLoader("nbgrader_config.py", path=str(root)).load_config()


def late_days(per_day: float, free_days: int = 0, most: float = 1.0) -> type:
    """A late-submission plugin for nbgrader_config.py: `per_day` of the score for each day begun after `free_days`, at most `most`.

    c.AssignLatePenalties.plugin_class = late_days(per_day=0.1, free_days=2)

    Raises: ValueError for shares outside 0 to 1 or negative days.
    """
    from nbgrader.plugins import LateSubmissionPlugin

    from grader.lateness import penalty

    penalty(0.0, 0.0, per_day=per_day, free_days=free_days, most=most)

    class LateDays(LateSubmissionPlugin):
        def late_submission_penalty(self, student_id: str, score: float, total_seconds_late: float) -> float | None:
            return penalty(score, total_seconds_late, per_day=per_day, free_days=free_days, most=most) or None

    return LateDays


def refresh_late_penalties(root: Path, slug: str) -> None:
    """Works the penalties out again, after scores, due dates or extensions were changed by hand."""
    with gradebook(root) as book:
        assignment = _assignment(book, slug)
        _assign_late_penalties(root, book, assignment, assignment.submissions)
        book.db.commit()


def _assignment(book: Any, slug: str) -> Any:
    from nbgrader.api import MissingEntry

    try:
        return book.find_assignment(slug)
    except MissingEntry:
        raise FileNotFoundError(
            f"the gradebook has no assignment {slug}; run `llmcourse release {slug}` first"
        ) from None


def set_due(root: Path, slug: str, due: datetime | None) -> None:
    """Sets when an assignment is due (UTC without a zone, as nbgrader keeps it), or with None that it never is."""
    with gradebook(root) as book:
        _assignment(book, slug).duedate = due
        book.db.commit()


def due_date(root: Path, slug: str) -> datetime | None:
    """When an assignment is due, UTC without a zone; None when it never is."""
    with gradebook(root) as book:
        return _assignment(book, slug).duedate


def extend(root: Path, slug: str, student: str, days: float) -> None:
    """Gives one student more days for an assignment; a second extension replaces the first. The submission must be there.

    Raises: ValueError when the gradebook has no submission of theirs.
    """
    from nbgrader.api import MissingEntry

    with gradebook(root) as book:
        _assignment(book, slug)
        try:
            submission = book.find_submission(slug, student)
        except MissingEntry:
            raise ValueError(
                f"the gradebook has no submission of {slug} by {student!r}; an extension is given after `llmcourse grade`"
            ) from None
        submission.extension = timedelta(days=days) if days else None
        book.db.commit()


def note_people(root: Path, people: dict[str, tuple[str, str]]) -> None:
    """Keeps (the platform's number, the name) of each student in the gradebook, where exports find them."""
    from nbgrader.api import Student

    with gradebook(root) as book:
        known = {student.id: student for student in book.db.query(Student)}
        for student, (number, name) in people.items():
            entry = known.get(student) or Student(id=student)
            entry.lms_user_id, entry.last_name = number, name[:128]
            book.db.add(entry)
        book.db.commit()


def set_manual_score(root: Path, slug: str, student: str, cell: str, points: float | None) -> None:
    """Sets, or with None takes back, the score that a person gives a cell, as formgrader would.

    Raises: ValueError when the gradebook has no such cell or submission.
    """
    with gradebook(root) as book:
        from nbgrader.api import MissingEntry

        try:
            grade = book.find_grade(cell, slug, slug, student)
        except MissingEntry:
            raise ValueError(f"the gradebook has no cell {cell} of {slug} by {student}") from None
        grade.manual_score = points
        grade.needs_manual_grade = points is None and grade.auto_score is None
        book.db.commit()


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
                grades = [g for n in submission.notebooks for g in n.grades]
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
                        lms_id=submission.student.lms_user_id or "",
                        name=submission.student.last_name or "",
                        timestamp=submission.timestamp,
                        due=submission.duedate if assignment.duedate else None,
                        seconds_late=float(submission.total_seconds_late) if assignment.duedate else 0.0,
                        cells={g.cell.name: float(g.score or 0.0) for g in grades},
                        autos={g.cell.name: g.auto_score for g in grades},
                        manuals={g.cell.name: g.manual_score for g in grades},
                    )
                )
    return sorted(found, key=lambda r: (r.assignment, r.student))


def read_notebook(path: Path) -> Any:
    """A trusted notebook of ours, as nbformat's version 4."""
    _prepare()
    import nbformat

    return nbformat.from_dict(json.loads(_notebook_text(path, path.stat().st_mtime_ns)))


@functools.lru_cache(maxsize=8)
def _notebook_text(path: Path, changed_ns: int) -> str:
    import nbformat

    return json.dumps(nbformat.read(path, as_version=4))


def write_notebook(notebook: Any, path: Path) -> None:
    """Writes a notebook under a temporary name and renames it. It is ours, so it is not validated once more."""
    _prepare()
    from nbformat import from_dict, v4

    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.part")
    temporary.write_text(v4.writes(from_dict(notebook)), encoding="utf-8")
    os.replace(temporary, path)
