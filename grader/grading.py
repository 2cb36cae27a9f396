"""Grades the submissions of an assignment: intake, sandbox, judge, records, gradebook, feedback. The supervisor's side of the trust boundary.

Every submission ends in one result file; a run that is killed goes on where it stopped. A score starts at 0 and rises only by the judge's
explicit pass.
"""

from __future__ import annotations

import ast
import hashlib
import hmac
import json
import os
import secrets
from collections.abc import Callable, Container, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from grader import bridge, course, exchange, feedback
from grader.course import Chapter
from grader.exercise import Exercise, Outcome
from grader.inner import Limits
from grader.intake import Manifest, Submission, read_submission
from grader.judge import ENDED, Failure, Verdict, judge
from grader.ledger import Ledger
from grader.policy import scan
from grader.sandbox import Walls, find_walls
from grader.worker import InfrastructureError, SandboxStudent, WarmWorker

INFRASTRUCTURE_TRIES = 3
"""How often one exercise is judged when the grader itself fails on it; then a person must look."""
CANARY_MISTAKES = 2
"""Planted mistakes of each chapter that every run must catch before it touches a grade."""


class CanaryFailed(RuntimeError):
    """The grader does not grade as it should; the run stops before any score is written."""


@dataclass(frozen=True)
class Job:
    """One submission to be judged; all that a worker process needs."""

    root: Path
    slug: str
    student: str
    key: bytes
    """Secret from which the random inputs of this submission are drawn."""
    walls: Walls


@dataclass
class RunReport:
    """What a run did: results by student, those left as they were, and those that the grader itself failed on."""

    graded: dict[str, dict[str, Any]] = field(default_factory=dict)
    unchanged: list[str] = field(default_factory=list)
    flagged: list[str] = field(default_factory=list)


def course_version(chapter: Chapter) -> str:
    """A hash of everything that decides a score besides the submission: checks, exercises, the grader's code, torch."""
    digest = hashlib.sha256(torch.__version__.encode())
    for path in [
        chapter.folder / "checks.py",
        chapter.folder / "exercises.py",
        *sorted(Path(__file__).parent.glob("*.py")),
    ]:
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def manifest(chapter: Chapter) -> Manifest:
    """Which cells of a submission are looked at."""
    functions = {name: e.all_functions for name, e in chapter.exercises.items()}
    return Manifest(assignment=chapter.slug, exercises=functions, manual=tuple(chapter.manual))


def run_secret(root: Path) -> bytes:
    """The course's secret for drawing inputs; made once, readable by its owner alone."""
    path = root / "results" / ".secret"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".secret.{secrets.token_hex(4)}")
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(secrets.token_bytes(32))
        os.replace(part, path)
    return path.read_bytes()


def seed_for(key: bytes, submission_sha: str, exercise: str) -> int:
    """The seed of one exercise of one submission: the same at every regrade, not to be guessed without the key."""
    mac = hmac.new(key, f"{submission_sha}/{exercise}".encode(), hashlib.sha256).digest()
    return int.from_bytes(mac[:7], "big")


def dependencies(chapter: Chapter, name: str, cells: dict[str, str]) -> tuple[str, ...]:
    """Other exercises whose functions the answer to `name` mentions, directly or through them, in the chapter's order.

    Only these cells run beside it: a cell that hangs costs the exercises that build on it nothing else.
    """
    owner = {f: e.name for e in chapter.exercises.values() for f in e.all_functions}
    found: set[str] = set()
    waiting = [name]
    while waiting:
        try:
            tree = ast.parse(cells.get(waiting.pop(), ""))
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            continue
        mentioned = {owner[n.id] for n in ast.walk(tree) if isinstance(n, ast.Name) and n.id in owner}
        waiting += mentioned - found - {name}
        found |= mentioned - {name}
    return tuple(e for e in chapter.exercises if e in found)


def judge_exercise(
    chapter: Chapter,
    exercise: Exercise,
    cells: dict[str, str],
    worker: WarmWorker,
    seed: int,
    passed: Container[str] = (),
) -> Verdict:
    """The verdict on one exercise of a submission, in the sandbox.

    When it fails and builds on other exercises that did not pass, it is asked once more with the worked solutions of those: a
    mistake there costs no points here. `passed` names the exercises known to be right.
    """
    source = cells.get(exercise.name)
    if source is None:
        return Verdict(exercise=exercise.name, outcome=Outcome.MISSING, seed=seed)
    if uses := scan(source, exercise.forbids):
        return Verdict(exercise=exercise.name, outcome=Outcome.POLICY, seed=seed, notes=[f"{u}." for u in uses[:3]])
    beside = dependencies(chapter, exercise.name, cells)
    sources = {name: cells[name] for name in (*beside, exercise.name) if name in cells}
    verdict = _judge_with(chapter, exercise, sources, {}, worker, seed)
    doubtful = [name for name in beside if name not in passed]
    if verdict.ok or not doubtful or verdict.outcome in (Outcome.NOT_ATTEMPTED, Outcome.INFRASTRUCTURE):
        return verdict
    needed = {*beside, *dependencies(chapter, exercise.name, {**chapter.solutions, exercise.name: source})}
    ours = {name: chapter.solutions[name] for name in chapter.exercises if name in needed}
    second = _judge_with(chapter, exercise, {exercise.name: source}, ours, worker, seed)
    if second.ok:
        second.notes.append(f"Judged with our {' and '.join(doubtful)}: a mistake there costs no points here.")
        return second
    return verdict


def _judge_with(
    chapter: Chapter,
    exercise: Exercise,
    cells: dict[str, str],
    replace: dict[str, str],
    worker: WarmWorker,
    seed: int,
) -> Verdict:
    limits = Limits(seconds=exercise.seconds)
    verdict = Verdict(exercise=exercise.name, outcome=Outcome.INFRASTRUCTURE, seed=seed)
    for _ in range(INFRASTRUCTURE_TRIES):
        try:
            with worker.session(
                chapter.given, cells, replace, exercise.forbids, exercise.all_functions, limits
            ) as student:
                verdict = _did_not_load(exercise, student, seed) or judge(chapter, exercise, student, seed)
                if verdict.outcome in ENDED and student.end_text:
                    verdict.notes.append(f"{student.end_text}.")
        except InfrastructureError as error:
            verdict = Verdict(exercise=exercise.name, outcome=Outcome.INFRASTRUCTURE, seed=seed, notes=[str(error)])
        if verdict.outcome is not Outcome.INFRASTRUCTURE:
            break
    return verdict


def _did_not_load(exercise: Exercise, student: SandboxStudent, seed: int) -> Verdict | None:
    """What is wrong with the cell itself: it ended the process, it raised, or it defines no such function."""
    verdict = Verdict(exercise=exercise.name, outcome=Outcome.ERROR, seed=seed)
    if student.outcome is not None:
        verdict.outcome = student.outcome
        return verdict
    if ours := next((e for name, e in student.errors.items() if name.startswith(("given", "solution"))), None):
        verdict.outcome = Outcome.INFRASTRUCTURE
        verdict.notes.append(
            f"a cell of the chapter's own does not run in the sandbox: {ours.error.split(' < ')[0]}: {ours.text}"
        )
        return verdict
    if error := student.errors.get(exercise.name):
        kind = error.error.split(" < ")[0]
        message = f"the cell raised {kind}: {' '.join(error.text.split())[:300]}"
        verdict.failure = Failure("raised", "running your cell", message, error_lines=error.lines)
        if kind == "Forbidden":
            verdict.outcome = Outcome.POLICY
        if kind == "NotImplementedError":
            verdict.outcome = Outcome.NOT_ATTEMPTED
        return verdict
    if student.missing:
        verdict.outcome = Outcome.MISSING
        verdict.notes.append(
            f"Your cell defines no function {' or '.join(student.missing)}; keep the name that the assignment gave it."
        )
        return verdict
    return None


def judge_submission(chapter: Chapter, submission: Submission, worker: WarmWorker, key: bytes) -> list[dict[str, Any]]:
    """One entry per exercise, in the chapter's order. A passed exercise lets those that use it skip the second question."""
    entries, passed = [], set()
    for exercise in chapter.exercises.values():
        seed = seed_for(key, submission.sha256, exercise.name)
        verdict = judge_exercise(chapter, exercise, submission.cells, worker, seed, passed)
        if submission.absent.get(exercise.name) == "refused":
            verdict.outcome = Outcome.INVALID
        if problem := submission.cell_problems.get(exercise.name):
            verdict.notes.insert(0, problem)
        if verdict.ok:
            passed.add(exercise.name)
        entries.append(entry(chapter, exercise, verdict))
    return entries


def entry(chapter: Chapter, exercise: Exercise, verdict: Verdict) -> dict[str, Any]:
    """A verdict as the plain record that is stored, shown and chained in the ledger."""
    worth = chapter.points[exercise.name]
    failure = verdict.failure if not verdict.ok else None
    diagnosis = verdict.diagnosis if not verdict.ok else None
    quiet = verdict.outcome in (Outcome.NOT_ATTEMPTED, Outcome.MISSING)
    return {
        "exercise": exercise.name,
        "outcome": verdict.outcome.value,
        "points": worth if verdict.ok else 0.0,
        "max_points": worth,
        "passed": verdict.passed,
        "total": verdict.total,
        "label": failure.label if failure and not quiet else "",
        "message": feedback.clean(failure.message, 600) if failure and not quiet else "",
        "error_lines": feedback.clean(failure.error_lines, 1500) if failure and not quiet else "",
        "diagnosis": diagnosis.name if diagnosis else "",
        "says": diagnosis.says if diagnosis else "",
        "known_misconception": bool(diagnosis and diagnosis.known),
        "hint": "" if verdict.ok else exercise.hints[0],
        "notes": [feedback.clean(note, 600) for note in verdict.notes],
        "seed": verdict.seed,
    }


def released(root: Path, slug: str) -> dict[str, str]:
    """Source of each cell of the student version by its id, as learners were given it."""
    notebook = json.loads((root / "release" / slug / f"{slug}.ipynb").read_text(encoding="utf-8"))
    cells = ((c["metadata"].get("nbgrader", {}).get("grade_id"), "".join(c["source"])) for c in notebook["cells"])
    return {grade_id: source.strip() for grade_id, source in cells if grade_id}


def grade_job(job: Job, worker: WarmWorker) -> tuple[dict[str, Any], dict[str, str]]:
    """The result of one submission and the sources it was judged on. Nothing that a learner made raises here."""
    chapter = course.load(job.slug, job.root)
    notebook = job.root / "submitted" / job.student / job.slug / f"{job.slug}.ipynb"
    submission, stubs = read_submission(notebook, manifest(chapter)), released(job.root, job.slug)
    entries = judge_submission(chapter, submission, worker, job.key)
    if submission.invalid:
        for item in entries:
            item["outcome"] = Outcome.INVALID.value
    result = {
        "student": job.student,
        "assignment": job.slug,
        "submitted_at": exchange.timestamp(job.root, job.student, job.slug),
        "submission_sha256": submission.sha256,
        "course_version": course_version(chapter),
        "walls": worker.walls.kind,
        "problems": _whole(submission),
        "exercises": entries,
        "manual": {
            name: submission.manual.get(name, "").strip() not in ("", stubs.get(name)) for name in chapter.manual
        },
    }
    return result, {**submission.cells, **submission.manual}


_worker: WarmWorker | None = None


def _whole(submission: Submission) -> list[str]:
    """What concerns the submission as a whole; what concerns one exercise stands there."""
    return [p.sentence for p in submission.problems if p.exercise is None]


def _in_pool(job: Job) -> tuple[dict[str, Any], dict[str, str]]:
    global _worker
    if _worker is None:
        torch.set_num_threads(1)
        _worker = WarmWorker(job.walls)
    return grade_job(job, _worker)


def run_canaries(chapter: Chapter, worker: WarmWorker) -> None:
    """The worked solutions must pass, an empty stub must not, planted mistakes must not. Raises CanaryFailed naming the first that is off."""
    planted = 0
    for exercise in chapter.exercises.values():
        seed = secrets.randbits(50)
        verdict = judge_exercise(chapter, exercise, chapter.solutions, worker, seed)
        if not verdict.ok:
            why = verdict.failure.message if verdict.failure else verdict.outcome.value
            raise CanaryFailed(
                f"the worked solution of {exercise.name} does not pass ({why}); no score was written. Run `make mutation`"
            )
        names = "\n".join(f"def {f}(*args, **kwargs):\n    raise NotImplementedError" for f in exercise.all_functions)
        if judge_exercise(chapter, exercise, {exercise.name: names}, worker, seed).ok:
            raise CanaryFailed(f"an empty answer to {exercise.name} passes; no score was written. Run `make mutation`")
        for item in exercise.misconceptions[:1] if planted < CANARY_MISTAKES else ():
            planted += 1
            cells = {**chapter.solutions, exercise.name: chapter.source_of(exercise, item)}
            if judge_exercise(chapter, exercise, cells, worker, seed, passed=chapter.exercises).ok:
                raise CanaryFailed(
                    f"the wrong answer {item.name!r} to {exercise.name} passes; no score was written. Run `make mutation`"
                )


def result_file(root: Path, slug: str, student: str) -> Path:
    return root / "results" / slug / f"{student}.json"


def read_result(root: Path, slug: str, student: str) -> dict[str, Any] | None:
    """A stored result, or None when there is none or it was left half-written by another program."""
    try:
        return json.loads(result_file(root, slug, student).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _write_result(root: Path, result: dict[str, Any]) -> None:
    path = result_file(root, result["assignment"], result["student"])
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    part.write_text(json.dumps(result, indent=1, sort_keys=True), encoding="utf-8")
    os.replace(part, path)


def _is_current(root: Path, job: Job, version: str, chapter: Chapter) -> bool:
    old = read_result(root, job.slug, job.student)
    if (
        not old
        or old["course_version"] != version
        or any(e["outcome"] == Outcome.INFRASTRUCTURE for e in old["exercises"])
    ):
        return False
    notebook = root / "submitted" / job.student / job.slug / f"{job.slug}.ipynb"
    present = read_submission(notebook, manifest(chapter))
    return (present.sha256, _whole(present)) == (old["submission_sha256"], old["problems"])


def grade_assignment(
    root: Path,
    slug: str,
    *,
    students: Iterable[str] | None = None,
    workers: int = 1,
    regrade: bool = False,
    unsafe_local: bool = False,
    tell: Callable[[int, int, dict[str, Any] | None], None] = lambda done, total, result: None,
) -> RunReport:
    """Grades what was collected for `slug` and writes results, ledger, gradebook, autograded notebooks and feedback.

    A submission whose result stands for the same sources and the same course version is left alone unless `regrade`. `tell` is called after each.

    Raises: ValueError for an unknown assignment or student, FileNotFoundError before a release, CanaryFailed, and
    `grader.sandbox.NoWalls` when there is no sandbox and `unsafe_local` was not asked for.
    """
    chapter = course.load(slug, root)
    everyone = exchange.submitted(root, slug)
    wanted = list(students) if students else everyone
    for student in wanted:
        if student not in everyone:
            raise ValueError(
                f"no submission of {slug} by {student!r}; there are: {', '.join(everyone) or 'none, run `llmcourse collect`'}"
            )
    if not (root / "release" / slug / f"{slug}.ipynb").is_file():
        raise FileNotFoundError(f"{slug} was never released; run `llmcourse release {slug}` first")
    walls = Walls.none() if unsafe_local else find_walls()
    version, key = course_version(chapter), run_secret(root)
    report = RunReport()
    jobs = []
    for student in wanted:
        job = Job(root, slug, student, key, walls)
        if not regrade and _is_current(root, job, version, chapter):
            report.unchanged.append(student)
        else:
            jobs.append(job)
    with Ledger(root / "results" / "ledger.jsonl") as ledger:
        for done, (result, cells) in enumerate(_results(chapter, jobs, workers, walls) if jobs else (), start=1):
            # The result file comes last: whoever finds it knows that all the rest is there.
            feedback.write_autograded(root, result, cells)
            feedback.write_page(root, result, chapter.title)
            ledger.append(result)
            _write_result(root, result)
            report.graded[result["student"]] = result
            if any(e["outcome"] == Outcome.INFRASTRUCTURE for e in result["exercises"]):
                report.flagged.append(result["student"])
            tell(done, len(jobs), result)
    # One writer and one transaction. Results of an interrupted run that never reached the gradebook come along.
    stored = [r for s in everyone if (r := read_result(root, slug, s))]
    bridge.record(root, slug, [score(chapter, r) for r in stored])
    return report


def score(chapter: Chapter, result: dict[str, Any]) -> bridge.SubmissionScore:
    """A result in the gradebook's terms."""
    broken = Outcome.INFRASTRUCTURE  # never a silent zero: a person must look
    cells = [
        bridge.CellScore(f"judge_{e['exercise']}", None if e["outcome"] == broken else e["points"])
        for e in result["exercises"]
    ]
    cells += [bridge.CellScore(name, None if answered else 0.0) for name, answered in result["manual"].items()]
    unanswered = [
        e["exercise"] for e in result["exercises"] if e["outcome"] in (Outcome.MISSING, Outcome.NOT_ATTEMPTED)
    ]
    unanswered += [name for name, answered in result["manual"].items() if not answered]
    return bridge.SubmissionScore(result["student"], result["submitted_at"], tuple(cells), tuple(unanswered))


def _results(
    chapter: Chapter, jobs: list[Job], workers: int, walls: Walls
) -> Iterator[tuple[dict[str, Any], dict[str, str]]]:
    with WarmWorker(walls) as worker:
        run_canaries(chapter, worker)
        if workers <= 1 or len(jobs) == 1:
            for job in jobs:
                yield grade_job(job, worker)
            return
    with ProcessPoolExecutor(min(workers, len(jobs)), mp_context=get_context("spawn")) as pool:
        waiting = {pool.submit(_in_pool, job) for job in jobs}
        while waiting:
            finished, waiting = wait(waiting, return_when=FIRST_COMPLETED)
            for future in finished:
                yield future.result()
