"""Grades the submissions of an assignment: intake, judging, records, gradebook, feedback. The supervisor's side of the trust boundary.

Every submission ends in one result file; a run that is killed goes on where it stopped. A score starts at 0 and rises only by the judge's
explicit pass. What is judged once is not judged again while the answer, what it builds on and its checks are the same.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from grader import bridge, course, exchange, feedback, fingerprint
from grader.course import Chapter
from grader.desk import canary_request, setup_for
from grader.exercise import Outcome
from grader.fingerprint import course_version
from grader.intake import Submission, read_submission
from grader.ledger import OWN_NAMES, Ledger
from grader.pool import Pool
from grader.sandbox import Walls, find_walls
from grader.task import (
    PAPERS,
    CanaryFailed,
    Papers,
    Task,
    class_digest,
    cost,
    earned,
    entry,
    exercise_keys,
    judge_exercise,
    judge_task,
    manifest,
    paper_of,
    reused,
    run_canaries,
    seed_for,
)
from grader.worker import WarmWorker

__all__ = [
    "CanaryFailed",
    "RunReport",
    "ScoreChange",
    "Warm",
    "code_versions",
    "cost",
    "course_version",
    "earned",
    "entry",
    "grade_assignment",
    "judge_exercise",
    "manifest",
    "read_result",
    "released",
    "result_file",
    "run_secret",
    "score",
]

WAIT_FOR_OTHERS_S = 600.0
"""How long a grader waits for another one that is at the same assignment."""

Answers = Iterator[tuple[Task, list[dict[str, Any]] | None, dict[str, str]]]
"""(task, its entries or None when nobody could judge it, versions of Python and torch in the sandbox)."""


@dataclass(frozen=True)
class ScoreChange:
    """A score that is not what it was before the run."""

    student: str
    exercise: str
    before: float
    after: float

    def __str__(self) -> str:
        return f"{self.student}, {self.exercise}: {self.before:g} -> {self.after:g}"


@dataclass
class RunReport:
    """What a run did: results by student, those left as they were, and those that the grader itself failed on."""

    graded: dict[str, dict[str, Any]] = field(default_factory=dict)
    unchanged: list[str] = field(default_factory=list)
    flagged: list[str] = field(default_factory=list)
    changed: list[ScoreChange] = field(default_factory=list)
    """Points of the same answers that came out otherwise than before, as after a fix to an exercise's checks."""
    judged: int = 0
    """Exercises that were put to the judge; the rest stood already."""


def code_versions(chapter: Chapter) -> dict[str, str]:
    """Sums of what decides a score besides the submission, by part, so that an audit can say which part has changed since."""
    code = hashlib.sha256(b"".join(path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py"))))
    parts = {name: hashlib.sha256((chapter.folder / name).read_bytes()) for name in ("checks.py", "exercises.py")}
    sums = {name: made.hexdigest()[:16] for name, made in {**parts, "grader": code}.items()}
    return {**sums, "judge_torch": torch.__version__}


def run_secret(root: Path) -> bytes:
    """The course's secret for drawing inputs; made once, readable by its owner alone."""
    path = root / "results" / ".secret"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".secret.{secrets.token_hex(4)}")
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(secrets.token_bytes(32))
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):
            os.link(part, path)  # of two graders that start together, one makes it
        part.unlink()
    return path.read_bytes()


def released(root: Path, slug: str) -> dict[str, str]:
    """Source of each cell of the student version by its id, as learners were given it."""
    notebook = json.loads((root / "release" / slug / f"{slug}.ipynb").read_text(encoding="utf-8"))
    cells = ((c["metadata"].get("nbgrader", {}).get("grade_id"), "".join(c["source"])) for c in notebook["cells"])
    return {grade_id: source.strip() for grade_id, source in cells if grade_id}


def result_file(root: Path, slug: str, student: str) -> Path:
    return root / "results" / slug / f"{student}.json"


def read_result(root: Path, slug: str, student: str) -> dict[str, Any] | None:
    """A stored result, or None when there is none or it was left half-written by another program."""
    try:
        return json.loads(result_file(root, slug, student).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _lasting(result: dict[str, Any]) -> dict[str, Any]:
    """A result without what differs from one run to the next."""
    return {**result, "exercises": [{k: v for k, v in e.items() if k != "cost"} for e in result["exercises"]]}


def _write_result(root: Path, result: dict[str, Any]) -> None:
    path = result_file(root, result["assignment"], result["student"])
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    with open(part, "w", encoding="utf-8") as file:
        file.write(json.dumps(_lasting(result), indent=1, sort_keys=True))
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, path)


@contextlib.contextmanager
def _alone(root: Path, slug: str, say: Callable[[str], None], wait_s: float) -> Iterator[None]:
    """Holds the assignment for this grader. Waits for another one, and says so. Raises: RuntimeError when it takes too long."""
    try:
        import fcntl
    except ImportError:  # no advisory locks on this system
        yield
        return
    folder = root / "results" / slug
    folder.mkdir(parents=True, exist_ok=True)
    deadline, told = time.monotonic() + wait_s, False
    with open(folder / ".lock", "a+", encoding="utf-8") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                if time.monotonic() >= deadline:
                    raise RuntimeError(
                        f"another grader is at {slug} in {root} and did not finish within {wait_s:g} s; nothing was done, run the command again later"
                    ) from None
                if not told:
                    say(f"another grader is at {slug}; waiting for it")
                    told = True
                time.sleep(0.1)
        yield


@dataclass
class _Run:
    """What one run works on."""

    root: Path
    chapter: Chapter
    walls: Walls
    key: bytes
    version: str
    versions: dict[str, str]
    stubs: dict[str, str]
    code: dict[str, str]
    """`code_versions` of this run."""
    submissions: dict[str, Submission] = field(default_factory=dict)
    report: RunReport = field(default_factory=RunReport)

    @property
    def slug(self) -> str:
        return self.chapter.slug

    def submission(self, student: str) -> Submission:
        if student not in self.submissions:
            notebook = self.root / "submitted" / student / self.slug / f"{self.slug}.ipynb"
            self.submissions[student] = read_submission(notebook, manifest(self.chapter))
        return self.submissions[student]


class Warm:
    """A warm worker and the papers of one assignment, held ready so that a single submission is graded in a moment.

        with Warm(root, slug) as warm:
            grade_assignment(root, slug, students=["ada"], warm=warm)

    Canaries run before the first submission and again whenever the course has changed.

    Raises: NoWalls (see `grader.sandbox.find_walls`) when `walls` is None and this machine has none.
    """

    def __init__(self, root: Path, slug: str, walls: Walls | None = None) -> None:
        self.chapter = course.load(slug, root)
        self.worker = WarmWorker(walls or find_walls())
        self.papers = Papers(self.chapter)
        self._trusted = ""

    def __enter__(self) -> Warm:
        self.worker.start()
        self.worker.prepare_for(self.chapter)
        return self

    def __exit__(self, *error: object) -> None:
        self.worker.close()

    def answers(self, run: _Run, tasks: list[Task], seeds: dict[str, int]) -> Answers:
        """What is to be known of each task, canaries first where they are due."""
        if run.chapter is not self.chapter:  # its files have changed
            self.chapter, self.papers = run.chapter, Papers(run.chapter)
            self.worker.prepare_for(run.chapter)
        if self._trusted != run.version:
            run_canaries(run.chapter, self.worker, seeds, self.papers)
            self._trusted = run.version
        for task in tasks:
            yield task, judge_task(run.chapter, task, self.worker, self.papers), self.worker.versions


def grade_assignment(
    root: Path,
    slug: str,
    *,
    students: Iterable[str] | None = None,
    workers: int = 1,
    regrade: bool = False,
    fresh: bool = False,
    unsafe_local: bool = False,
    scheduler: str | None = None,
    warm: Warm | None = None,
    wait_s: float = WAIT_FOR_OTHERS_S,
    tell: Callable[[int, int, dict[str, Any] | None], None] = lambda done, total, result: None,
    say: Callable[[str], None] = lambda sentence: None,
) -> RunReport:
    """Grades what was collected for `slug` and writes results, ledger, gradebook, autograded notebooks and feedback.

    A submission whose result stands for the same sources and the same course version is left alone unless `regrade`; then too,
    only exercises are judged for which something changed, unless `fresh`. `workers` processes judge side by side, or those of the Dask
    cluster at `scheduler`, or the one that `warm` holds ready. `tell` is called after each submission.

    Raises: ValueError for an unknown assignment or student, FileNotFoundError before a release, CanaryFailed, RuntimeError when another
    grader holds the assignment for longer than `wait_s`, and `grader.sandbox.NoWalls` when there is no sandbox and `unsafe_local` was
    not asked for.
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
    walls = Walls.none() if unsafe_local else find_walls() if scheduler is None else Walls("cluster")
    with _alone(root, slug, say, wait_s):
        versions = fingerprint.exercise_versions(chapter)
        run = _Run(
            root,
            chapter,
            walls,
            run_secret(root),
            course_version(chapter, versions),
            versions,
            released(root, slug),
            code_versions(chapter),
        )
        with Ledger(root / "results" / "ledger.jsonl", wait_s=wait_s) as ledger:
            ledger.share()
            _restore(run, wanted, ledger)
            tasks = _tasks(run, wanted, regrade or fresh, fresh)
            if tasks:
                _write(run, ledger, _answers(run, tasks, workers, scheduler, warm), len(tasks), tell)
        # One writer and one transaction. Results of an interrupted run that never reached the gradebook come along.
        stored = [r for s in (wanted if students else everyone) if (r := read_result(root, slug, s))]
        bridge.record(root, slug, [score(chapter, r) for r in stored])
    return run.report


def _tasks(run: _Run, wanted: list[str], regrade: bool, fresh: bool) -> list[Task]:
    """What is to be looked at again. Reads the submissions and every result that is there."""
    sums = {student: run.submission(student).sha256 for student in wanted}
    digest = class_digest(sums)
    results = {s: r for s in exchange.submitted(run.root, run.slug) if (r := read_result(run.root, run.slug, s))}
    by_key = {(e["exercise"], e.get("key")): e for r in results.values() for e in r["exercises"]}
    made = []
    for student in wanted:
        if not regrade and _is_current(run, student, results.get(student)):
            run.report.unchanged.append(student)
            continue
        submission = run.submission(student)
        keys = exercise_keys(run.chapter, submission, run.versions)
        known = {name: e for name, key in keys.items() if (e := by_key.get((name, key)))}
        own = {(e["exercise"], e.get("key")): e for e in results.get(student, {}).get("exercises", ())}
        known |= {name: e for name, key in keys.items() if (e := own.get((name, key)))}
        seeds = {name: seed_for(run.key, digest, paper_of(run.key, key), name) for name, key in keys.items()}
        seeds |= {name: e["seed"] for name, e in known.items()}
        made.append(
            Task(
                student=student,
                cells=submission.cells,
                seeds=seeds,
                keys=keys,
                known={} if fresh else known,
                problems=submission.cell_problems,
                refused=tuple(n for n, why in submission.absent.items() if why == "refused"),
            )
        )
    return made


def _is_current(run: _Run, student: str, old: dict[str, Any] | None) -> bool:
    if (
        not old
        or old["course_version"] != run.version
        or any(e["outcome"] == Outcome.INFRASTRUCTURE for e in old["exercises"])
    ):
        return False
    present = run.submission(student)
    return (present.sha256, _whole(present)) == (old["submission_sha256"], old["problems"])


def _whole(submission: Submission) -> list[str]:
    """What concerns the submission as a whole; what concerns one exercise stands there."""
    return [p.sentence for p in submission.problems if p.exercise is None]


def _answers(run: _Run, tasks: list[Task], workers: int, scheduler: str | None, warm: Warm | None) -> Answers:
    """Entries for each task as they come. What stands already comes first; before anything is judged, canaries."""
    open_ = []
    for task in tasks:
        entries = reused(run.chapter, task)
        if entries is None:
            open_.append(task)
        else:
            yield task, entries, {}
    if not open_:
        return
    digest = class_digest({s: x.sha256 for s, x in run.submissions.items()})
    seeds = {name: seed_for(run.key, digest, secrets.randbelow(PAPERS), name) for name in run.chapter.exercises}
    if scheduler is not None:
        from grader.cluster import on_cluster

        yield from on_cluster(scheduler, run.chapter, open_, seeds)
    elif warm is not None or workers <= 1 or len(open_) == 1:
        with contextlib.nullcontext(warm) if warm else Warm(run.root, run.slug, run.walls) as held:
            yield from held.answers(run, open_, seeds)
    else:
        yield from _side_by_side(run, open_, seeds, min(workers, len(open_)))


def _side_by_side(run: _Run, tasks: list[Task], seeds: dict[str, int], workers: int) -> Answers:
    with Pool(workers, setup_for(run.root, run.slug, run.walls)) as pool:
        names = list(run.chapter.exercises)
        for _, text in pool.run([canary_request(seeds, names[n::workers]) for n in range(workers)]):
            if text is None:
                raise CanaryFailed("the judging processes died on the canaries; no score was written")
            if complaint := json.loads(text)["canary"]:
                raise CanaryFailed(complaint)
        for number, text in pool.run(task.to_json() for task in tasks):
            answer = json.loads(text) if text else {"entries": None, "versions": {}}
            yield tasks[number], answer["entries"], answer["versions"]


def _restore(run: _Run, students: list[str], ledger: Ledger) -> None:
    """Writes what a run recorded and was killed before it could write: it is not judged again."""
    recorded = {r["student"]: r for r in ledger if r.get("assignment") == run.slug and "exercises" in r}
    for student in students:
        record = recorded.get(student)
        if record is None or _is_current(run, student, read_result(run.root, run.slug, student)):
            continue
        if _is_current(run, student, record):
            result = {name: value for name, value in record.items() if name not in OWN_NAMES}
            _write_files(run, result)


def _write(
    run: _Run,
    ledger: Ledger,
    answers: Answers,
    total: int,
    tell: Callable[[int, int, dict[str, Any] | None], None],
) -> None:
    for done, (task, entries, versions) in enumerate(answers, start=1):
        result = _result(run, task, entries or _nobody_could(run, task), versions)
        before = read_result(run.root, run.slug, task.student)
        _note(run.report, before, result)
        if _as_kept(before) == _as_kept(result):
            run.report.unchanged.append(task.student)
        else:
            ledger.append(result)
            _write_files(run, result)
            run.report.graded[task.student] = result
        tell(done, total, result)


def _write_files(run: _Run, result: dict[str, Any]) -> None:
    """What stands beside the ledger. The result file comes last: whoever finds it knows that all the rest is there."""
    submission = run.submission(result["student"])
    feedback.write_autograded(run.root, result, {**submission.cells, **submission.manual})
    feedback.write_page(run.root, result, run.chapter.title)
    _write_result(run.root, result)


def _as_kept(result: dict[str, Any] | None) -> Any:
    return result and json.loads(json.dumps({**_lasting(result), "versions": None}))


def _result(run: _Run, task: Task, entries: list[dict[str, Any]], versions: dict[str, str]) -> dict[str, Any]:
    submission = run.submission(task.student)
    if submission.invalid:
        entries = [{**item, "outcome": Outcome.INVALID.value} for item in entries]
    walls = versions.get("walls", run.walls.kind)  # a cluster's machines have their own
    inside = {name: version for name, version in versions.items() if name != "walls"}
    # What stands from before was judged with these too: the environment is part of each exercise's key.
    inside = inside or {"python": sys.version.split()[0], "torch": str(torch.__version__)}
    return {
        "student": task.student,
        "assignment": run.slug,
        "submitted_at": exchange.timestamp(run.root, task.student, run.slug),
        "submission_sha256": submission.sha256,
        "course_version": run.version,
        "versions": {**run.code, **inside},
        "walls": walls,
        "problems": _whole(submission),
        "exercises": entries,
        "manual": {
            name: submission.manual.get(name, "").strip() not in ("", run.stubs.get(name))
            for name in run.chapter.manual
        },
    }


def _nobody_could(run: _Run, task: Task) -> list[dict[str, Any]]:
    """Entries of a submission on which judging processes died again and again: a person must look."""
    from grader.judge import Verdict

    made = []
    for exercise in run.chapter.exercises.values():
        note = "The processes that judged this submission died; nothing was decided about it."
        verdict = Verdict(exercise=exercise.name, outcome=Outcome.INFRASTRUCTURE, notes=[note])
        made.append({**entry(run.chapter, exercise, verdict), "key": "", "leans_on": {}})
    return made


def _note(report: RunReport, before: dict[str, Any] | None, result: dict[str, Any]) -> None:
    """Whether a person must look, what was judged, and which points of the same answers came out otherwise."""
    if any(e["outcome"] == Outcome.INFRASTRUCTURE for e in result["exercises"]):
        report.flagged.append(result["student"])
    report.judged += sum("cost" in e for e in result["exercises"])
    if before and before["submission_sha256"] == result["submission_sha256"]:
        old = {e["exercise"]: e["points"] for e in before["exercises"]}
        for item in result["exercises"]:
            was = old.get(item["exercise"], 0.0)
            if was != item["points"]:
                report.changed.append(ScoreChange(result["student"], item["exercise"], was, item["points"]))


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
