"""Explains a score from the record, asks the same questions again on demand, and records what a person decides otherwise.

The record is the ledger: hash-chained, only ever added to. `audit` checks the chain, then holds the last record of a submission against the
result file, the collected notebook and the gradebook, and names whatever does not agree. `replay` judges the submission again with the
recorded seeds. An override is a new record with a reason and a name; it takes effect in the gradebook as nbgrader's manual score.
"""

from __future__ import annotations

import getpass
import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from grader import bridge, course, exchange, feedback, grading, ledger
from grader.exercise import Case, Outcome
from grader.intake import Submission, read_submission
from grader.judge import call_text, questions
from grader.policy import scan
from grader.sandbox import Walls, find_walls
from grader.worker import WarmWorker

FORMGRADER = "formgrader"
"""Who gave an override that was found in the gradebook and not recorded before."""


# What answers to this course's exercises have no use for. Not forbidden: a person is shown where they stand.
UNUSUAL = (
    *("gc", "inspect", "ctypes", "marshal", "pickle", "importlib", "runpy", "subprocess", "multiprocessing", "socket"),
    *("grader", "sys._getframe", "sys.modules", "sys.settrace", "sys.setprofile", "sys.meta_path", "os", "signal"),
    *("exec", "eval", "compile", "__import__", "globals", "vars", "torch._C", "torch.ops", "torch.utils.cpp_extension"),
)


@dataclass
class Audit:
    """What is known about one submission. `faults` is empty when everything agrees."""

    student: str
    assignment: str
    chain: ledger.Verification
    record: dict[str, Any]
    """The last record of this submission."""
    earlier: list[dict[str, Any]] = field(default_factory=list)
    """Records of earlier gradings, oldest first."""
    overrides: list[dict[str, Any]] = field(default_factory=list)
    """What persons decided, oldest first."""
    faults: list[str] = field(default_factory=list)
    """What does not agree, one sentence each."""
    changed: list[str] = field(default_factory=list)
    """What the verdicts were reached with and is different today."""
    unusual: list[str] = field(default_factory=list)
    """Places in the answers that are worth a person's look, one sentence each."""
    standing: bridge.GradebookRow | None = None
    """The gradebook's row, penalties and manual scores included."""


@dataclass(frozen=True)
class CaseLine:
    """One question of an exercise: what it is about, how it was put, and what came of it."""

    label: str
    asked: str
    """The call, or "several calls" for a scenario; empty when the checks have changed since and it cannot be told."""
    result: str


@dataclass(frozen=True)
class Replayed:
    """One exercise judged again. `differences` is empty when the verdict is the recorded one, case by case."""

    exercise: str
    recorded: str
    now: str
    differences: tuple[str, ...]


def ledger_path(root: Path) -> Path:
    return root / "results" / "ledger.jsonl"


def audit(root: Path, student: str, slug: str) -> Audit:
    """Everything that the record says about a submission, held against result file, notebook and gradebook.

    Raises: FileNotFoundError when nothing was graded here, ValueError when the record knows no such submission.
    """
    chapter = course.load(slug, root)
    chain, records = _records(root)
    own = [r for r in records if r.get("student") == student and r.get("assignment") == slug]
    graded = [r for r in own if "exercises" in r]
    if not graded:
        known = sorted({r["student"] for r in records if r.get("assignment") == slug and "exercises" in r})
        broken = f" The ledger is damaged: {chain.bad}." if chain.bad else ""
        raise ValueError(
            f"the ledger has no record of {slug} by {student!r}; it has: {', '.join(known) or 'none'}.{broken}"
        )
    found = Audit(student, slug, chain, graded[-1], graded[:-1], [r for r in own if r.get("kind") == "override"])
    found.standing = next((row for row in bridge.rows(root, slug) if row.student == student), None)
    if chain.bad:
        found.faults.append(f"The ledger is damaged: {chain.bad}. Records after that place are not believed.")
    found.faults += _result_differs(root, found)
    found.faults += _notebook_differs(root, chapter, found)
    found.faults += _gradebook_differs(found)
    found.changed = changed_versions(chapter, found.record)
    found.unusual = unusual(_submission(root, chapter, student).cells)
    return found


def unusual(cells: dict[str, str]) -> list[str]:
    r"""Where answers (source by exercise) use what no answer needs. An exercise can withhold a routine only so far; this is for a person.

    >>> unusual({"softmax": "import gc\ndef softmax(x):\n    return gc.get_objects()"})
    ['softmax, line 1: gc', 'softmax, line 3: gc']
    """
    return [f"{name}, line {use.line}: {use.name}" for name, source in cells.items() for use in scan(source, UNUSUAL)][
        :20
    ]


def unusual_in_class(root: Path, slug: str) -> dict[str, list[str]]:
    """What `unusual` finds, by student, for everyone whose answers hold something."""
    chapter = course.load(slug, root)
    found = {s: unusual(_submission(root, chapter, s).cells) for s in exchange.submitted(root, slug)}
    return {student: places for student, places in found.items() if places}


def _records(root: Path) -> tuple[ledger.Verification, list[dict[str, Any]]]:
    path = ledger_path(root)
    if not path.is_file():
        raise FileNotFoundError(f"there is no ledger {path}; `llmcourse grade` writes it")
    return ledger.read(path)


def _result_differs(root: Path, found: Audit) -> list[str]:
    stored = grading.read_result(root, found.assignment, found.student)
    if stored is None:
        return [
            "The result file is gone or cannot be read; the ledger still has the result. `llmcourse grade` writes it again."
        ]
    recorded = {e["exercise"]: e for e in found.record["exercises"]}
    wrong = []
    for entry in stored["exercises"]:
        one = recorded.get(entry["exercise"], {})
        for name in ("outcome", "points", "seed", "passed", "total"):
            if one.get(name) != entry.get(name):
                wrong.append(
                    f"{entry['exercise']}: the result file says {name} {entry.get(name)!r}, the ledger {one.get(name)!r}."
                )
    if stored.get("submission_sha256") != found.record["submission_sha256"]:
        wrong.append("The result file is about another submission than the ledger's last record.")
    return wrong


def _notebook_differs(root: Path, chapter: course.Chapter, found: Audit) -> list[str]:
    present = _submission(root, chapter, found.student)
    if present.sha256 == found.record["submission_sha256"]:
        return []
    return [
        "The collected notebook is not the one that was judged: its answers have another sum. A new hand-in is waiting "
        "for `llmcourse grade`, or the file was changed."
    ]


def _submission(root: Path, chapter: course.Chapter, student: str) -> Submission:
    notebook = root / "submitted" / student / chapter.slug / f"{chapter.slug}.ipynb"
    return read_submission(notebook, grading.manifest(chapter))


def _gradebook_differs(found: Audit) -> list[str]:
    if found.standing is None:
        return ["The gradebook has no row for this submission; `llmcourse grade` writes it."]
    wrong = []
    decided = {o["exercise"]: o["points"] for o in found.overrides}
    for entry in found.record["exercises"]:
        name = entry["exercise"]
        cell = f"judge_{name}"
        auto, manual = found.standing.autos.get(cell), found.standing.manuals.get(cell)
        want = None if entry["outcome"] == Outcome.INFRASTRUCTURE else entry["points"]
        if auto != want:
            wrong.append(f"{name}: the gradebook's automatic score is {_points(auto)}, the ledger's {_points(want)}.")
        if manual != decided.get(name):
            wrong.append(
                f"{name}: the gradebook holds a score of {_points(manual)} given by hand, the ledger records "
                f"{_points(decided.get(name))}. `llmcourse grade` or `llmcourse override` records it."
            )
    return wrong


def _points(value: float | None) -> str:
    return "none" if value is None else f"{value:g}"


def changed_versions(chapter: course.Chapter, record: dict[str, Any]) -> list[str]:
    """What a verdict was reached with and is different today, one sentence each."""
    then = record.get("versions", {})
    now = {**grading.code_versions(chapter), "python": sys.version.split()[0], "torch": torch.__version__}
    said = {
        "checks.py": "The chapter's checks have changed since.",
        "exercises.py": "The chapter's exercises have changed since.",
        "grader": "The grader's own code has changed since.",
    }
    changed = [name for name in sorted(then) if name in now and now[name] != then[name]]
    return [said.get(name, f"{name}: {then[name]} then, {now[name]} today.") for name in changed]


def case_lines(chapter: course.Chapter, entry: dict[str, Any], same_checks: bool) -> list[CaseLine]:
    """The cases of one recorded exercise. How each was put is drawn again from the seed while the checks are the same."""
    exercise = chapter.exercises.get(entry["exercise"])
    asked: list[str] = []
    if exercise and same_checks:
        for question in questions(exercise, entry["seed"]):
            item = question.item
            one = isinstance(item, Case)
            asked.append(call_text(item.function or exercise.name, item.args, item.kwargs) if one else "several calls")
    lines = []
    for n, (label, result) in enumerate(entry.get("cases", [])):
        lines.append(CaseLine(label, asked[n] if n < len(asked) else "", result))
    return lines


def replay(
    root: Path, found: Audit, exercises: list[str] | None = None, *, walls: Walls | None = None
) -> list[Replayed]:
    """Judges the submission again in the sandbox, with the recorded seeds, and says what comes out otherwise.

    Raises: ValueError when the notebook that was judged is no longer there or the exercise is unknown, `grader.sandbox.NoWalls`.
    """
    chapter = course.load(found.assignment, root)
    submission = _submission(root, chapter, found.student)
    if submission.sha256 != found.record["submission_sha256"]:
        raise ValueError(
            f"{found.student}'s {found.assignment} cannot be replayed: the collected notebook is not the one that was judged; "
            "put that one back, or grade the new one"
        )
    entries = {e["exercise"]: e for e in found.record["exercises"]}
    if unknown := [name for name in exercises or () if name not in entries]:
        raise ValueError(f"the record has no exercise {unknown[0]!r}; it has: {', '.join(entries)}")
    passed = {name for name, e in entries.items() if e["outcome"] == Outcome.PASSED}
    out = []
    with WarmWorker(walls or find_walls()) as worker:
        for name in exercises or list(entries):
            if name not in chapter.exercises:
                out.append(
                    Replayed(name, entries[name]["outcome"], "gone", ("The course no longer has this exercise.",))
                )
                continue
            verdict = grading.judge_exercise(
                chapter, chapter.exercises[name], submission.cells, worker, entries[name]["seed"], passed - {name}
            )
            if submission.absent.get(name) == "refused":
                verdict.outcome = Outcome.INVALID
            now = grading.entry(chapter, chapter.exercises[name], verdict)
            out.append(
                Replayed(name, entries[name]["outcome"], now["outcome"], tuple(_differences(entries[name], now)))
            )
    return out


def _differences(then: dict[str, Any], now: dict[str, Any]) -> list[str]:
    out = []
    for name in ("outcome", "points", "max_points", "diagnosis"):
        if then.get(name) != now.get(name):
            out.append(f"{name}: {then.get(name)!r} then, {now.get(name)!r} in the replay")
    before, after = then.get("cases", []), now["cases"]
    if len(before) != len(after):
        out.append(f"{len(before)} cases then, {len(after)} in the replay")
    for n, (one, other) in enumerate(zip(before, after), 1):
        if list(one) != list(other):
            out.append(f"case {n}: {one[0]!r} {one[1]} then, {other[0]!r} {other[1]} in the replay")
    return out[:12]


def override(
    root: Path, student: str, slug: str, exercise: str, points: float | None, reason: str, by: str = ""
) -> dict[str, Any]:
    """Records that a person gives an exercise other points, and sets them in the gradebook. Returns the new record.

    `points` None takes an earlier override back. The record is written first: a gradebook that was not reached shows in the next audit.

    Raises: ValueError for an unknown student or exercise, points outside 0 and the exercise's worth, or an empty reason;
    FileNotFoundError, and `grader.ledger.LedgerError` while a grader is writing.
    """
    chapter = course.load(slug, root)
    worth = {**chapter.points, **chapter.manual}
    if exercise not in worth:
        raise ValueError(f"{slug} has no exercise {exercise!r}; it has: {', '.join(worth)}")
    if points is not None and not 0 <= points <= worth[exercise]:
        raise ValueError(f"{exercise} is worth 0 to {worth[exercise]:g} points, got {points:g}")
    if not reason.strip():
        raise ValueError("an override wants a reason, which the student and an auditor can read: --reason TEXT")
    cell = f"judge_{exercise}" if exercise in chapter.points else exercise
    before = next((r for r in bridge.rows(root, slug) if r.student == student), None)
    if before is None:
        raise ValueError(
            f"the gradebook has no submission of {slug} by {student!r}; run `llmcourse grade {slug}` first"
        )
    record = {
        "kind": "override",
        "student": student,
        "assignment": slug,
        "exercise": exercise,
        "points": points,
        "before": before.cells.get(cell),
        "reason": " ".join(reason.split())[:1000],
        "by": by or os.environ.get("LLM_COURSE_USER") or getpass.getuser(),
    }
    with ledger.Ledger(ledger_path(root)) as book:
        (written,) = book.append(record)
    bridge.set_manual_score(root, slug, student, cell, points)
    return written


def note_manual_scores(root: Path, slug: str) -> int:
    """Records every score that was given by hand in the gradebook (formgrader) and is not in the ledger. Returns how many."""
    if not ledger_path(root).is_file():
        return 0
    chapter = course.load(slug, root)
    with ledger.Ledger(ledger_path(root)) as book:
        known = latest_overrides(book.records, slug)
        new = []
        for row in bridge.rows(root, slug):
            for cell, manual in row.manuals.items():
                exercise = cell.removeprefix("judge_") if cell.removeprefix("judge_") in chapter.points else cell
                last = known.get((row.student, exercise))
                if manual == (last["points"] if last else None):
                    continue
                new.append(
                    {
                        "kind": "override",
                        "student": row.student,
                        "assignment": slug,
                        "exercise": exercise,
                        "points": manual,
                        "before": row.autos.get(cell),
                        "reason": "given in formgrader",
                        "by": FORMGRADER,
                    }
                )
        if new:
            book.append(*new)
    return len(new)


def latest_overrides(records: list[dict[str, Any]], slug: str) -> dict[tuple[str, str], dict[str, Any]]:
    """The last override of each (student, exercise) of an assignment; one whose points are None was taken back."""
    chosen = [r for r in records if r.get("kind") == "override" and r.get("assignment") == slug]
    return {(r["student"], r["exercise"]): r for r in chosen}


def standings(root: Path, slug: str) -> dict[str, feedback.Standing]:
    """What the gradebook makes of each submission of an assignment, by student: overrides and lateness included."""
    marks: dict[str, dict[str, tuple[float, str]]] = {}
    records = _records(root)[1] if ledger_path(root).is_file() else []
    for (student, exercise), record in latest_overrides(records, slug).items():
        if record["points"] is not None:
            marks.setdefault(student, {})[exercise] = (record["points"], record["reason"])
    return {
        row.student: feedback.Standing(
            row.score, row.max_score, row.penalty, marks.get(row.student, {}), row.needs_manual
        )
        for row in bridge.rows(root, slug)
    }
