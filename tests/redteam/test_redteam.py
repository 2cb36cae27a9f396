"""Grades every hostile submission of `cases/` in the sandbox: none may pass, end otherwise than expected, or disturb the next.

Each case is the source of one exercise cell, `softmax`. Comments at its top say what it tries and what must come of it:
`expect` (one or more outcomes), and where it matters `seconds` (its time limit), `runs`, `machine`, `prints` (a text that shows
that the attack was really made), `ends` (a text of the ending) and `asks` (gradient: the gradient is asked for too). Most attacks
return the right answer only if they succeed. The files of `hand_ins/` do the same to whole submissions.
"""

import copy
import dataclasses
import importlib.util
import json
import os
import platform
import re
from pathlib import Path

import pytest
import torch

from grader import sandbox
from grader.exercise import Case, Exercise, Outcome, Rng
from grader.feedback import clean
from grader.inner import Limits
from grader.intake import Manifest, read_submission
from grader.judge import Verdict, judge
from grader.policy import scan
from grader.worker import WarmWorker

HERE = Path(__file__).parent
CASES = sorted((HERE / "cases").glob("*.py"))
HAND_INS = sorted((HERE / "hand_ins").glob("*.py"))
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
    forbids=("torch.softmax", "torch.Tensor.softmax", "torch.nn.functional.softmax", "torch.nn.Softmax", "torch.ops"),
)


def _gradient(rng: Rng):
    yield Case(label="the gradient", args=(rng.normal(3, 5),), grad=(0,))


ASKS = {"": EXERCISE, "gradient": dataclasses.replace(EXERCISE, cases=_gradient)}


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


def grade(worker: WarmWorker, source: str, given: str, seconds: float = 2.0, exercise: Exercise = EXERCISE):
    """(verdict, session): what the grader makes of one answer to the exercise."""
    limits = Limits(seconds=seconds, memory_bytes=512 << 20, disk_bytes=16 << 20, disk_files=1000)
    with worker.session([given], {"softmax": source}, {}, EXERCISE.forbids, ("softmax",), limits) as student:
        if student.outcome is not None:
            verdict = Verdict(exercise="softmax", outcome=student.outcome)
        elif error := student.errors.get("softmax"):
            outcome = Outcome.POLICY if error.error.startswith("Forbidden") else Outcome.ERROR
            verdict = Verdict(exercise="softmax", outcome=outcome)
        else:
            verdict = judge(None, exercise, student, 7, diagnose=False)
    if scan(source, EXERCISE.forbids):  # official grading reads first, and asks nothing then
        verdict = Verdict(exercise="softmax", outcome=Outcome.POLICY)
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
        verdict, student = grade(worker, source, given, float(said.get("seconds", 2)), ASKS[said.get("asks", "")])
        assert verdict.outcome in expected, (verdict, student.end_text, student.errors, student.printed[-300:])
        assert said.get("prints", "") in student.printed
        assert said.get("ends", "") in student.end_text
        assert len(student.printed) <= 64 << 10
        assert _harmless(verdict)
    honest, student = grade(worker, (path.parent / "right.py").read_text(), given)
    assert honest.ok, (honest, student.end_text)
    assert worker._process.process.pid == process, "the warm worker had to be restarted"
    assert secret_file.read_text() == "everyone's scores"
    assert not Path("/tmp/owned-by-a-submission").exists()


def _harmless(verdict: Verdict) -> bool:
    """Whether what a person will read of it is text of bounded length, without codes that move a cursor."""
    if verdict.failure is None:
        return True
    shown = clean(verdict.failure.message, 600) + clean(verdict.failure.error_lines, 1500)
    return len(shown) <= 2100 and not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", shown)


MANIFEST = Manifest(assignment="01_softmax", exercises={"softmax": ("softmax",)}, manual=("why",))


def notebook(source: str) -> dict:
    """A released notebook with `source` filled in, as JupyterLab saves it."""

    def cell(kind, text, grade_id="", **flags):
        own = {"nbgrader": {"grade_id": grade_id, "schema_version": 3, "locked": False, **flags}} if grade_id else {}
        made = {"cell_type": kind, "id": grade_id or "text", "metadata": own, "source": text.splitlines(keepends=True)}
        return made | ({"outputs": [], "execution_count": None} if kind == "code" else {})

    cells = [
        cell("markdown", "# Softmax"),
        cell("code", source, "softmax", solution=True, grade=False),
        cell("code", "grade(softmax)", "judge_softmax", solution=False, grade=True, points=4),
        cell("markdown", "Because.", "why", solution=True, grade=True, points=2),
    ]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    return {"nbformat": 4, "nbformat_minor": 5, "metadata": kernel, "cells": cells}


@pytest.mark.parametrize("path", HAND_INS, ids=lambda path: path.stem)
def test_a_hand_in_ends_as_expected(worker, secret_file, tmp_path, path):
    said = header(path)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    folder = tmp_path / "ada" / "01_softmax"
    folder.mkdir(parents=True)
    answers = {name: (HERE / "cases" / f"{name}.py").read_text() for name in ("right", "one_guess_for_all")}
    honest, wrong = (notebook(answers[name]) for name in ("right", "one_guess_for_all"))
    target = folder / "01_softmax.ipynb"
    made = module.hand_in(target, copy.deepcopy(honest), copy.deepcopy(wrong), secret_file)
    if made is not None:
        target.write_bytes(made if isinstance(made, bytes) else json.dumps(made).encode())
    submission = read_submission(folder, MANIFEST)
    if submission.invalid:
        outcome = "invalid"
    elif "softmax" in submission.absent:
        outcome = submission.absent["softmax"]
    else:
        verdict, _ = grade(worker, submission.cells["softmax"], GIVEN)
        outcome = verdict.outcome.value
    assert outcome in said["expect"].split(), submission.problems
    sentences = " ".join(p.sentence for p in submission.problems)
    assert said.get("says", "") in sentences
    assert sentences.isprintable()
    assert len(sentences) < 2000
    assert secret_file.read_text() == "everyone's scores"


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


def test_there_are_enough_cases_and_every_outcome_of_an_attack_occurs():
    assert len(CASES) + len(HAND_INS) >= 190
    outcomes = {outcome for path in CASES for outcome in header(path)["expect"].split()}
    wanted = {"failed", "error", "timed_out", "out_of_memory", "output_limit", "crashed", "invalid", "policy"}
    assert wanted <= outcomes


def test_only_right_answers_are_expected_to_pass():
    passing = {path.stem for path in CASES if "passed" in header(path)["expect"].split()}
    assert passing == {path.stem for path in CASES if path.stem.startswith("right") and "def" in path.read_text()} - {
        "right_at_the_visible_sizes_only",
        "right_the_first_time_only",
        "right_by_the_last_digit_of_the_clock",
        "right_values_of_another_type",
    }
