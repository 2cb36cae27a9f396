"""Grades every hostile submission of `cases/` in the sandbox: none may pass, end otherwise than expected, or disturb the next.

Each case is the source of one exercise cell, `softmax`. Comments at its top say what it tries and what must come of it:
`expect` (one or more outcomes), and where it matters `seconds` (its time limit), `runs`, `machine`, `prints` (a text that shows
that the attack was really made) and `ends` (a text of the ending). Most attacks return the right answer only if they succeed.
"""

import os
import platform
import re
from pathlib import Path

import pytest
import torch

from grader import sandbox
from grader.exercise import Case, Exercise, Outcome, Rng
from grader.inner import Limits
from grader.judge import Verdict, judge
from grader.worker import WarmWorker

CASES = sorted((Path(__file__).parent / "cases").glob("*.py"))
CANARY = "canary-of-the-judge"
GIVEN = """
import torch

def right(x, dim):
    e = torch.exp(x - x.max(dim, keepdim=True).values)
    return e / e.sum(dim, keepdim=True)
"""


def _reference(x, dim=-1):
    return torch.softmax(x.double(), dim).to(x.dtype)


def _questions(rng: Rng):
    yield Case(label="the last dimension", args=(rng.normal(3, 5),))
    yield Case(label="another dimension", args=(rng.normal(3, 5, 2), 1))
    yield Case(label="large logits", args=(rng.normal(2, 7, scale=300.0),))


EXERCISE = Exercise(
    name="softmax",
    reference=_reference,
    cases=_questions,
    hints=("", "", ""),
    forbids=("torch.softmax", "torch.Tensor.softmax", "torch.nn.functional.softmax"),
)


def header(path: Path) -> dict[str, str]:
    """What the comments at the top of a case say.

    Raises: ValueError when one says nothing of what it expects.
    """
    said = dict(re.findall(r"^# (\w+): (.+)$", path.read_text(), re.MULTILINE))
    if not {"what", "expect"} <= set(said):
        raise ValueError(f"{path.name} must say `# what:` and `# expect:` at its top")
    return said


@pytest.fixture(scope="module")
def secret_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("secrets") / "gradebook.db"
    path.write_text("everyone's scores")
    path.chmod(0o644)
    return path


@pytest.fixture(scope="module")
def worker():
    os.environ["GRADER_SECRET_TOKEN"] = CANARY
    try:
        walls = sandbox.find_walls()
    except sandbox.NoWalls as missing:
        pytest.skip(str(missing))
    with WarmWorker(walls) as worker:
        yield worker
    del os.environ["GRADER_SECRET_TOKEN"]


def grade(worker: WarmWorker, source: str, given: str, seconds: float = 2.0):
    """(verdict, session): what the grader makes of one answer to the exercise."""
    limits = Limits(seconds=seconds, memory_bytes=512 << 20, disk_bytes=16 << 20, disk_files=1000)
    with worker.session([given], {"softmax": source}, {}, EXERCISE.forbids, ("softmax",), limits) as student:
        if student.outcome is not None:
            verdict = Verdict(exercise="softmax", outcome=student.outcome)
        elif error := student.errors.get("softmax"):
            outcome = Outcome.POLICY if error.error.startswith("Forbidden") else Outcome.ERROR
            verdict = Verdict(exercise="softmax", outcome=outcome)
        else:
            verdict = judge(None, EXERCISE, student, 7, diagnose=False)
    return verdict, student


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_a_case_ends_as_expected_and_disturbs_nobody(worker, secret_file, path):
    said = header(path)
    if said.get("machine", platform.machine()) != platform.machine():
        pytest.skip(f"only on {said['machine']}")
    expected = said["expect"].split()
    source = path.read_text()
    given = f"{GIVEN}\nSECRET_FILE = {str(secret_file)!r}\nCOURSE = {str(Path(__file__).parents[2])!r}\n"
    process = worker._process.process.pid
    for _ in range(int(said.get("runs", 1))):
        verdict, student = grade(worker, source, given, float(said.get("seconds", 2)))
        assert verdict.outcome in expected, (verdict, student.end_text, student.errors, student.printed[-300:])
        assert said.get("prints", "") in student.printed
        assert said.get("ends", "") in student.end_text
        assert len(student.printed) <= 64 << 10
    honest, student = grade(worker, (path.parent / "right.py").read_text(), given)
    assert honest.ok, (honest, student.end_text)
    assert worker._process.process.pid == process, "the warm worker had to be restarted"
    assert secret_file.read_text() == "everyone's scores"
    assert not Path("/tmp/owned-by-a-submission").exists()


def test_nothing_is_left_behind(worker):
    _, student = grade(worker, (CASES[0].parent / "right.py").read_text(), GIVEN)
    assert student.usage is not None  # its process has ended
    tree = _descendants(worker._process.process.pid)
    # bubblewrap, its process 1, the one that waits for the worker, the worker, and the next session's process
    assert len(tree) <= 5, tree


def _descendants(pid: int) -> list[int]:
    found = [pid]
    for process in found:
        for task in Path(f"/proc/{process}/task").glob("*/children"):
            found += [int(child) for child in task.read_text().split()]
    return found


def test_there_are_at_least_forty_cases_and_every_outcome_of_an_attack_occurs():
    assert len(CASES) >= 40
    outcomes = {outcome for path in CASES for outcome in header(path)["expect"].split()}
    wanted = {"failed", "error", "timed_out", "out_of_memory", "output_limit", "crashed", "invalid", "policy"}
    assert wanted <= outcomes
