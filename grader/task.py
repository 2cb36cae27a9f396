"""What judging one submission is: the same code in this process, in a worker process beside it and on a cluster.

A `Task` is plain data: canonical sources, a seed for each exercise, and verdicts that still hold from before. `judge_task` gives back plain data
as well, one entry an exercise. What decides a verdict is told by `exercise_keys`: equal keys, equal verdict, whoever handed it in.
"""

from __future__ import annotations

import ast
import hashlib
import hmac
import json
import secrets
from collections import OrderedDict
from collections.abc import Container, Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

from grader import feedback
from grader.course import Chapter
from grader.exercise import Exercise, Outcome
from grader.fingerprint import exercise_versions
from grader.inner import Limits
from grader.intake import Manifest, Submission
from grader.judge import ENDED, Failure, Paper, Verdict, judge
from grader.policy import scan
from grader.worker import InfrastructureError, SandboxStudent, WarmWorker

PAPERS = 4
"""Sets of questions that a run draws for each exercise. Each answer gets one, chosen by a secret; what the reference answers to it
is worked out once for all who get it."""
CANARY_MISTAKES = 2
"""Planted mistakes of each chapter that every run must catch before it touches a grade."""
_KEPT_PAPERS = 200


class CanaryFailed(RuntimeError):
    """The grader does not grade as it should; the run stops before any score is written."""


@dataclass(frozen=True)
class Task:
    """One submission to be judged. All of it is plain data."""

    student: str
    cells: dict[str, str]
    """Canonical source by exercise."""
    seeds: dict[str, int]
    keys: dict[str, str]
    known: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Entries of before by exercise that hold as long as what they lean on is as it was."""
    problems: dict[str, str] = field(default_factory=dict)
    """What intake has to tell about an exercise."""
    refused: tuple[str, ...] = ()
    """Exercises whose source was not taken."""

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @staticmethod
    def from_json(text: str) -> Task:
        data = json.loads(text)
        return Task(**{**data, "refused": tuple(data["refused"])})


class Papers:
    """The papers that one judging process has at hand, the latest of them."""

    def __init__(self, chapter: Chapter) -> None:
        self.chapter = chapter
        self._kept: OrderedDict[tuple[str, int], Paper] = OrderedDict()

    def get(self, exercise: Exercise, seed: int) -> Paper:
        key = (exercise.name, seed)
        paper = self._kept.get(key) or Paper(self.chapter, exercise, seed)
        self._kept[key] = paper
        self._kept.move_to_end(key)
        if len(self._kept) > _KEPT_PAPERS:
            self._kept.popitem(last=False)
        return paper


def manifest(chapter: Chapter) -> Manifest:
    """Which cells of a submission are looked at."""
    functions = {name: e.all_functions for name, e in chapter.exercises.items()}
    return Manifest(assignment=chapter.slug, exercises=functions, manual=tuple(chapter.manual))


def class_digest(submissions: dict[str, str]) -> str:
    """A hash of who handed in what (sums of the answers by student): it names a run's questions."""
    return hashlib.sha256(json.dumps(sorted(submissions.items())).encode()).hexdigest()


def paper_of(secret: bytes, exercise_key: str) -> int:
    """Which of a run's papers an answer gets: equal answers the same one. Not to be guessed without the secret."""
    mac = hmac.new(secret, f"paper/{exercise_key}".encode(), hashlib.sha256).digest()
    return int.from_bytes(mac[:8], "big") % PAPERS


def seed_for(key: bytes, digest: str, paper: int, exercise: str) -> int:
    """The seed of one exercise on one paper of a run; `key` is the course's secret.

    The same answers handed in by the same class give the same seeds again. One changed answer gives everyone who is judged anew other
    ones, so what somebody learned of earlier questions is worth nothing.
    """
    mac = hmac.new(key, f"{digest}/{paper}/{exercise}".encode(), hashlib.sha256).digest()
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


def _ours(chapter: Chapter, exercise: str, source: str, beside: Iterable[str]) -> dict[str, str]:
    """The worked solutions that stand in for what an answer builds on."""
    needed = {*beside, *dependencies(chapter, exercise, {**chapter.solutions, exercise: source})}
    return {name: chapter.solutions[name] for name in chapter.exercises if name in needed}


def exercise_keys(chapter: Chapter, submission: Submission, versions: dict[str, str] | None = None) -> dict[str, str]:
    """For each exercise, a hash of all that decides its verdict except whether what it builds on passed (`entry["leans_on"]`).

    `versions` are `grader.fingerprint.exercise_versions` of the chapter, where the caller has them.
    """
    versions = versions or exercise_versions(chapter)
    cells, problems, keys = submission.cells, submission.cell_problems, {}
    for name in chapter.exercises:
        source = cells.get(name)
        beside = dependencies(chapter, name, cells) if source is not None else ()
        ours = _ours(chapter, name, source, beside) if source is not None and beside else {}
        parts = [chapter.slug, name, versions[name], source, [(b, cells.get(b)) for b in beside], ours]
        parts += [problems.get(name, ""), submission.absent.get(name, "")]
        keys[name] = hashlib.sha256(json.dumps(parts).encode()).hexdigest()
    return keys


def still_holds(known: dict[str, Any] | None, key: str, chapter: Chapter, passed: Container[str]) -> bool:
    """Whether an entry of before is what judging would give again, now that `passed` is known of what comes before it."""
    if not known or known.get("key") != key or known["outcome"] == Outcome.INFRASTRUCTURE:
        return False
    return all((name in passed) is right for name, right in known["leans_on"].items())


def renewed(chapter: Chapter, known: dict[str, Any]) -> dict[str, Any]:
    """An entry of before with today's points."""
    exercise = chapter.exercises[known["exercise"]]
    worth = chapter.points[exercise.name]
    return {**known, "points": _earned(exercise, known["outcome"], known["share"], worth), "max_points": worth}


def earned(exercise: Exercise, verdict: Verdict, worth: float) -> float:
    """All points for a pass. For a wrong answer none, or in an exercise with partial credit its share, rounded down to quarters."""
    return _earned(exercise, verdict.outcome, verdict.share, worth)


def _earned(exercise: Exercise, outcome: str, share: float, worth: float) -> float:
    if outcome == Outcome.PASSED:
        return worth
    if exercise.partial and outcome in (Outcome.FAILED, Outcome.ERROR):
        return min(int(4 * worth * share) / 4, max(0.0, worth - 0.25))
    return 0.0


def reused(chapter: Chapter, task: Task) -> list[dict[str, Any]] | None:
    """All entries of a task when every one of them is known already, else None."""
    entries, passed = [], set()
    for name in chapter.exercises:
        known = task.known.get(name)
        if not still_holds(known, task.keys[name], chapter, passed):
            return None
        entries.append(renewed(chapter, known))  # type: ignore[arg-type]
        if known["outcome"] == Outcome.PASSED:  # type: ignore[index]
            passed.add(name)
    return entries


def judge_task(chapter: Chapter, task: Task, worker: WarmWorker, papers: Papers | None = None) -> list[dict[str, Any]]:
    """One entry per exercise, in the chapter's order. A passed exercise lets those that use it skip the second question.

    Nothing that a learner made raises here.
    """
    papers = papers or Papers(chapter)
    entries: list[dict[str, Any]] = []
    sessions: list[tuple[dict[str, Any], Verdict]] = []
    passed: set[str] = set()
    for exercise in chapter.exercises.values():
        name, known = exercise.name, task.known.get(exercise.name)
        if still_holds(known, task.keys[name], chapter, passed):
            item = renewed(chapter, known)  # type: ignore[arg-type]
        else:
            verdict = judge_exercise(chapter, exercise, task.cells, worker, task.seeds[name], passed, papers)
            if name in task.refused:
                verdict.outcome = Outcome.INVALID
            if problem := task.problems.get(name):
                verdict.notes.insert(0, problem)
            item = entry(chapter, exercise, verdict)
            item |= {"key": task.keys[name], "leans_on": verdict.leans_on}
            sessions.append((item, verdict))
        if item["outcome"] == Outcome.PASSED:
            passed.add(name)
        entries.append(item)
    for item, verdict in sessions:  # at the end, when the worker has long said what each session cost
        item["cost"] = cost(verdict)
    return entries


def judge_exercise(
    chapter: Chapter,
    exercise: Exercise,
    cells: dict[str, str],
    worker: WarmWorker,
    seed: int,
    passed: Container[str] = (),
    papers: Papers | None = None,
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
    paper = (papers or Papers(chapter)).get(exercise, seed)
    verdict = _judge_with(chapter, exercise, sources, {}, worker, paper)
    if verdict.ok or not beside or verdict.outcome in (Outcome.NOT_ATTEMPTED, Outcome.INFRASTRUCTURE):
        return verdict
    doubtful = [name for name in beside if name not in passed]
    verdict.leans_on = {name: name not in doubtful for name in beside}
    if not doubtful:
        return verdict
    ours = _ours(chapter, exercise.name, source, beside)
    second = _judge_with(chapter, exercise, {exercise.name: source}, ours, worker, paper)
    if second.ok:
        second.notes.append(f"Judged with our {' and '.join(doubtful)}: a mistake there costs no points here.")
        second.leans_on = verdict.leans_on
        return second
    if second.diagnosis and second.diagnosis.known and not (verdict.diagnosis and verdict.diagnosis.known):
        verdict.diagnosis = (
            second.diagnosis
        )  # the mistake in this answer shows once those in the others are out of the way
    return verdict


def _judge_with(
    chapter: Chapter,
    exercise: Exercise,
    cells: dict[str, str],
    replace: dict[str, str],
    worker: WarmWorker,
    paper: Paper,
) -> Verdict:
    """Asked once; once more when the machinery broke down in the middle. A start that fails the worker itself has tried again."""
    for _ in range(2):
        try:
            verdict, broke_down = _ask_once(chapter, exercise, cells, replace, worker, paper)
        except InfrastructureError as error:
            return Verdict(exercise=exercise.name, outcome=Outcome.INFRASTRUCTURE, seed=paper.seed, notes=[str(error)])
        if not broke_down:
            break
    return verdict


def _ask_once(
    chapter: Chapter,
    exercise: Exercise,
    cells: dict[str, str],
    replace: dict[str, str],
    worker: WarmWorker,
    paper: Paper,
) -> tuple[Verdict, bool]:
    """(the verdict, whether the session broke down through no fault of anyone's code)."""
    limits = Limits(seconds=exercise.seconds)
    with worker.session(chapter.given, cells, replace, exercise.forbids, exercise.all_functions, limits) as student:
        verdict = _did_not_load(exercise, student, paper.seed) or judge(
            chapter, exercise, student, paper.seed, paper=paper
        )
        if verdict.outcome in ENDED and student.end_text:
            verdict.notes.append(f"{student.end_text}.")
        verdict.session = student
    return verdict, student.outcome is Outcome.INFRASTRUCTURE


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


def cost(verdict: Verdict) -> dict[str, Any]:
    """What judging took: wall-clock and processor seconds, and the session's largest memory. Kept in the ledger alone."""
    usage = verdict.session.usage if verdict.session else None
    return {
        "seconds": round(verdict.seconds, 4),
        "cpu_seconds": round(usage.cpu_seconds, 4) if usage else None,
        "peak_bytes": usage.peak_bytes if usage else None,
    }


def entry(chapter: Chapter, exercise: Exercise, verdict: Verdict) -> dict[str, Any]:
    """A verdict as the plain record that is stored, shown and chained in the ledger."""
    worth = chapter.points[exercise.name]
    failure = verdict.failure if not verdict.ok else None
    diagnosis = verdict.diagnosis if not verdict.ok else None
    quiet = verdict.outcome in (Outcome.NOT_ATTEMPTED, Outcome.MISSING)
    return {
        "exercise": exercise.name,
        "outcome": verdict.outcome.value,
        "points": earned(exercise, verdict, worth),
        "max_points": worth,
        "share": verdict.share,
        "passed": verdict.passed,
        "total": verdict.total,
        "cases": [list(case) for case in verdict.cases],
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


def run_canaries(
    chapter: Chapter,
    worker: WarmWorker,
    seeds: dict[str, int] | None = None,
    papers: Papers | None = None,
    only: Iterable[str] | None = None,
) -> None:
    """The worked solutions must pass, an empty stub must not, planted mistakes must not. Raises CanaryFailed naming the first that is off.

    `seeds` are those of a paper of the run; `only` names the exercises to look at where several workers share the work.
    """
    names, planted = set(only if only is not None else chapter.exercises), 0
    for exercise in chapter.exercises.values():
        items = exercise.misconceptions[:1] if planted < CANARY_MISTAKES else ()
        planted += len(items)
        if exercise.name not in names:
            continue
        seed = seeds[exercise.name] if seeds else secrets.randbits(50)
        verdict = judge_exercise(chapter, exercise, chapter.solutions, worker, seed, (), papers)
        if not verdict.ok:
            why = verdict.failure.message if verdict.failure else "; ".join([verdict.outcome.value, *verdict.notes])
            raise CanaryFailed(
                f"the worked solution of {exercise.name} does not pass ({why}); no score was written. Run `make mutation`"
            )
        stub = "\n".join(f"def {f}(*args, **kwargs):\n    raise NotImplementedError" for f in exercise.all_functions)
        if judge_exercise(chapter, exercise, {exercise.name: stub}, worker, seed, (), papers).ok:
            raise CanaryFailed(f"an empty answer to {exercise.name} passes; no score was written. Run `make mutation`")
        for item in items:
            cells = {**chapter.solutions, exercise.name: chapter.source_of(exercise, item)}
            if judge_exercise(chapter, exercise, cells, worker, seed, chapter.exercises, papers).ok:
                raise CanaryFailed(
                    f"the wrong answer {item.name!r} to {exercise.name} passes; no score was written. Run `make mutation`"
                )
