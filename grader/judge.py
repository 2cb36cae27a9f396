"""Asks a learner's function the questions of an exercise and says what came of it.

`judge` works on any `Student`: a function in this process (`grader.checking`) or one behind a pipe in a sandbox
(`grader.worker`). Wanted values come from the reference, in this process. A wrong answer is compared with the exercise's known
misconceptions, which run here too (they are the author's code), so that the learner is told the mistake by name.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from grader.calling import Call, answer_of, copy_of, float_tensors
from grader.compare import brief, difference, kind_of
from grader.course import Chapter
from grader.exercise import (
    UNSET,
    Answer,
    Case,
    Close,
    Code,
    Exercise,
    Misconception,
    Mismatch,
    Outcome,
    Rng,
    Scenario,
    Student,
)

MAX_CALLS = 200
"""Calls that one scenario may make."""


@dataclass(frozen=True)
class Failure:
    """Why one question was not answered rightly, in the learner's words."""

    kind: str
    """type, shape, dtype, length, keys, nan, value, grad, inputs, raised, not_raised, holds, scenario, or an `Outcome` value."""
    label: str
    message: str
    call: str = ""
    got: str = ""
    want: str = ""
    error_lines: str = ""


@dataclass(frozen=True)
class Diagnosis:
    name: str
    says: str
    known: bool
    """True for a misconception of the exercise, False for a general reading of the symptom."""


@dataclass(kw_only=True)
class Verdict:
    exercise: str
    outcome: Outcome
    passed: int = 0
    total: int = 0
    cases: list[tuple[str, str]] = field(default_factory=list)
    """Each question in the order asked: its label, and "passed", the kind of its failure, or "not asked"."""
    share: float = 0.0
    """Of the questions that want a value, how many got the right one, 0 to 1. To raise where an error is wanted earns nothing here."""
    failure: Failure | None = None
    diagnosis: Diagnosis | None = None
    notes: list[str] = field(default_factory=list)
    seconds: float = 0.0
    seed: int = 0
    leans_on: dict[str, bool] = field(default_factory=dict)
    """Other exercises that an answer which did not pass by itself builds on, and whether those passed: the verdict holds as long as they do."""
    session: Any = field(default=None, repr=False, compare=False)
    """The sandbox session that answered (`grader.worker.SandboxStudent`), which knows what it cost; None in a notebook."""

    @property
    def ok(self) -> bool:
        return self.outcome is Outcome.PASSED


class LocalStudent:
    """A `Student` whose functions live in this process: a notebook's namespace, or the author's own code."""

    def __init__(self, namespace: dict[str, Any], guard: Callable[[], Any] | None = None) -> None:
        self.namespace, self.guard = namespace, guard

    def call(self, function: str, args: tuple, kwargs: dict[str, Any], grad: Any = (), cotangents: Any = ()) -> Answer:
        if function not in self.namespace:
            return Answer(error="NameError < Exception", error_text=f"name {function!r} is not defined")
        return self._guarded(self.namespace[function], copy_of(args), copy_of(kwargs), grad, cotangents)

    def method(self, handle: Any, name: str, args: tuple = (), kwargs: dict[str, Any] | None = None) -> Answer:
        return self._guarded(lambda *a, **k: getattr(handle, name)(*a, **k), copy_of(args), copy_of(kwargs or {}))

    def attribute(self, handle: Any, name: str) -> Answer:
        return self._guarded(lambda: getattr(handle, name), (), {})

    def _guarded(self, function: Any, args: tuple, kwargs: dict, grad: Any = (), cotangents: Any = ()) -> Answer:
        if self.guard is None:
            return answer_of(function, args, kwargs, grad, cotangents)
        with self.guard():
            return answer_of(function, args, kwargs, grad, cotangents)


@dataclass
class Response:
    """What one subject did with one question."""

    failure: Failure | None
    answers: list[Answer]


class Question:
    """A case or scenario with its own seed; the wanted value is computed once."""

    def __init__(self, exercise: Exercise, item: Case | Scenario, rng: Rng, seed: int) -> None:
        self.exercise, self.item, self.rng, self.seed = exercise, item, rng, seed
        self._want: tuple[Any, list[Tensor], list[Tensor | None]] | None = None
        self._call: Call | None = None

    @property
    def label(self) -> str:
        return self.item.label

    def put(self, student: Student) -> Response:
        """Asks `student`. The generator is set back first, so that every subject is asked the same."""
        self.rng.generator.manual_seed(self.seed)
        self.rng.python.seed(self.seed)
        if isinstance(self.item, Case):
            return self._case(student, self.item)
        return self._scenario(student, self.item)

    def _case(self, student: Student, case: Case) -> Response:
        call = self.call(case)
        return self.judged(case, student.call(call.function, call.args, call.kwargs, call.grad, call.cotangents))

    def call(self, case: Case) -> Call:
        """What a subject is asked, made once."""
        if self._call is None:
            function = case.function or self.exercise.name
            self._call = Call(function, case.args, case.kwargs, case.grad, self.wanted(case)[1])
        return self._call

    def judged(self, case: Case, answer: Answer) -> Response:
        """What an answer to `call` is worth."""
        want, _, grads = self.wanted(case)
        return Response(self._judge_case(case, self.call(case).function, answer, want, grads), [answer])

    def wanted(self, case: Case) -> tuple[Any, list[Tensor], list[Tensor | None]]:
        """(wanted value, cotangents, wanted gradients)."""
        if self._want is None:
            want: Any = case.expect
            cotangents: list[Tensor] = []
            grads: list[Tensor | None] = []
            if case.raises is None and (want is UNSET or case.grad):
                reference = self.exercise.reference_for(case.function or self.exercise.name)
                first = answer_of(reference, copy_of(case.args), copy_of(case.kwargs))
                if first.error:
                    raise ValueError(
                        f"{self.exercise.name}, case {case.label!r}: the reference raised {first.error}: {first.error_text}; correct the case"
                    )
                want = first.value if want is UNSET else want
                if case.grad:
                    noise = Rng(self.seed)
                    cotangents = [
                        noise.normal(*t.shape, dtype=torch.float64).to(t.dtype) for t in float_tensors(first.value)
                    ]
                    grads = answer_of(reference, copy_of(case.args), copy_of(case.kwargs), case.grad, cotangents).grads
            self._want = (want, cotangents, grads)
        return self._want

    def _judge_case(
        self, case: Case, function: str, answer: Answer, want: Any, grads: list[Tensor | None]
    ) -> Failure | None:
        def failure(kind: str, message: str, got: Any = UNSET, wanted: Any = UNSET) -> Failure:
            shown = ["" if v is UNSET else brief(v) for v in (got, wanted)]
            if shown[0] == shown[1]:  # the first values agree; the message says which do not
                shown = ["", ""]
            call = call_text(function, case.args, case.kwargs)
            return Failure(kind, case.label, message, call, *shown, error_lines=answer.error_lines)

        if answer.outcome:
            return failure(answer.outcome, ENDED.get(answer.outcome, "the process ended before it answered"))
        if case.raises is not None:
            name = case.raises.__name__
            if answer.error is None:
                return failure(
                    "not_raised", f"this call must raise {name}; it returned {kind_of(answer.value)}", answer.value
                )
            if name not in answer.error.split(" < "):
                return failure("raised", f"this call must raise {name}; it raised {error_line(answer)}")
            return self._inputs(case, answer, failure)
        if answer.error is not None:
            return failure("raised", f"it raised {error_line(answer)}", wanted=want)
        close = case.close or self.exercise.close
        if found := difference(answer.value, want, close, case.exact_dtype):
            return failure(found.kind, found.message, answer.value, want)
        if case.holds and (sentence := _held(case, answer.value)):
            return failure("holds", sentence, answer.value)
        if found := _gradients_differ(case, answer, grads, close):
            return failure("grad", found)
        return self._inputs(case, answer, failure)

    def _inputs(self, case: Case, answer: Answer, failure: Callable[..., Failure]) -> Failure | None:
        if case.may_change_inputs or answer.args_after is None:
            return None
        before = [*((f"argument {n + 1}", a) for n, a in enumerate(case.args)), *case.kwargs.items()]
        after = [*answer.args_after, *(answer.kwargs_after or {}).values()]
        for (name, was), now in zip(before, after):
            if now is not was and not _has_code(was) and (found := difference(now, was, Close(0.0, 0.0))):
                return failure(
                    "inputs",
                    f"the call changed its input ({name}): {found.message.replace('want', 'was')}; work on a copy",
                )
        return None

    def _scenario(self, student: Student, scenario: Scenario) -> Response:
        ask = Asking(student, self.exercise)
        try:
            scenario.run(ask)
        except Mismatch as wrong:
            return Response(self._mismatch(scenario, ask, wrong), ask.answers)
        except Exception as error:
            # The scenario handled the worked solution (canaries and tests see to that), so this answer has another form than promised.
            last = kind_of(ask.answers[-1].value) if ask.answers else "nothing"
            wrong = Mismatch(f"the answer ({last}) has another form than promised: {type(error).__name__}: {error}")
            return Response(self._mismatch(scenario, ask, wrong), ask.answers)
        return Response(None, ask.answers)

    def _mismatch(self, scenario: Scenario, ask: Asking, wrong: Mismatch) -> Failure:
        got, want = ("" if v is UNSET else brief(v) for v in (wrong.got, wrong.want))
        last = ask.answers[-1] if ask.answers else Answer()
        kind = last.outcome or ("raised" if wrong.message.startswith("it raised") else "scenario")
        return Failure(kind, scenario.label, wrong.message, ask.last_call, got, want, error_lines=last.error_lines)


class Asking:
    """The `Asker` that a scenario is handed."""

    def __init__(self, student: Student, exercise: Exercise) -> None:
        self.student, self.exercise = student, exercise
        self.answers: list[Answer] = []
        self._last: tuple[str, tuple, dict[str, Any]] | None = None

    @property
    def last_call(self) -> str:
        """The last question as a learner could read it."""
        return call_text(*self._last) if self._last else ""

    def _keep(self, answer: Answer, name: str, args: tuple = (), kwargs: dict[str, Any] | None = None) -> Answer:
        self.answers.append(answer)
        self._last = (name, args, kwargs or {})
        if len(self.answers) > MAX_CALLS:
            raise ValueError(f"exercise {self.exercise.name}: a scenario may make {MAX_CALLS} calls; ask less")
        if answer.outcome:
            raise Mismatch(ENDED.get(answer.outcome, "the process ended before it answered"))
        return answer

    def _value(self, answer: Answer) -> Any:
        if answer.error is not None:
            raise Mismatch(f"it raised {error_line(answer)}")
        return answer.value

    def _ask(self, function: str | None, args: tuple, kwargs: dict[str, Any]) -> Answer:
        name = function or self.exercise.name
        return self._keep(self.student.call(name, args, kwargs), name, args, kwargs)

    def call(self, *args: Any, function: str | None = None, **kwargs: Any) -> Any:
        return self._value(self._ask(function, args, kwargs))

    def error(self, *args: Any, function: str | None = None, **kwargs: Any) -> str | None:
        return _first_name(self._ask(function, args, kwargs).error)

    def method(self, handle: Any, name: str, *args: Any, **kwargs: Any) -> Any:
        return self._value(self._keep(self.student.method(handle, name, args, kwargs), f".{name}", args, kwargs))

    def method_error(self, handle: Any, name: str, *args: Any, **kwargs: Any) -> str | None:
        answer = self._keep(self.student.method(handle, name, args, kwargs), f".{name}", args, kwargs)
        return _first_name(answer.error)

    def attribute(self, handle: Any, name: str) -> Any:
        return self._value(self._keep(self.student.attribute(handle, name), f".{name}"))

    def same(self, got: Any, want: Any, message: str, close: Close | None = None) -> None:
        if found := difference(got, want, close or self.exercise.close):
            raise Mismatch(f"{message} ({found.message})", got=got, want=want)


ENDED = {
    Outcome.TIMED_OUT: "it did not finish within its time limit; look for a loop that does not end or work that grows too fast",
    Outcome.OUT_OF_MEMORY: "it asked for more memory than it is given; look for an array far larger than the input",
    Outcome.OUTPUT_LIMIT: "it printed too much; remove the prints",
    Outcome.CRASHED: "the process ended before it answered (an exit, or a crash in native code)",
}


def questions(exercise: Exercise, seed: int) -> list[Question]:
    """The exercise's questions for one seed. Equal seeds give equal questions."""
    rng = Rng(seed)
    return [Question(exercise, item, rng, seed + 7919 * (n + 1)) for n, item in enumerate(exercise.cases(rng))]


class Paper:
    """The questions of one exercise for one seed, with what the reference and the known mistakes answer to them.

    It may be put to any number of subjects: what was worked out for one is there for the next. Nothing of a learner's is kept in it.
    """

    def __init__(self, chapter: Chapter, exercise: Exercise, seed: int) -> None:
        self.chapter, self.exercise, self.seed = chapter, exercise, seed
        self.questions = questions(exercise, seed)
        self._twins: dict[str, LocalStudent | None] = {}
        self._responses: dict[tuple[str, int], Response] = {}

    def responses(self, student: Student, ahead: bool) -> Iterator[Response]:
        """What `student` does with one question after the other. Ahead: cases that follow each other are asked together."""
        at = 0
        while at < len(self.questions):
            cases = list(itertools.takewhile(lambda q: isinstance(q.item, Case), self.questions[at:]))
            if len(cases) > 1 and ahead and hasattr(student, "calls"):
                answers = student.calls([q.call(q.item) for q in cases])
                yield from (q.judged(q.item, answer) for q, answer in zip(cases, answers))
                at += len(cases)
            else:
                yield self.questions[at].put(student)
                at += 1

    def twin_exists(self, item: Misconception) -> bool:
        """Whether the known mistake runs at all."""
        if item.name not in self._twins:
            self._twins[item.name] = None
            with suppress(Exception):
                source = self.chapter.source_of(self.exercise, item)
                self._twins[item.name] = LocalStudent(self.chapter.namespace(self.exercise, source))
        return self._twins[item.name] is not None

    def twin_response(self, item: Misconception, number: int) -> Response:
        """What the known mistake does with question `number`."""
        key = (item.name, number)
        if key not in self._responses:
            self._responses[key] = self.questions[number].put(self._twins[item.name])  # type: ignore[arg-type]
        return self._responses[key]


def judge(
    chapter: Chapter,
    exercise: Exercise,
    student: Student,
    seed: int,
    *,
    diagnose: bool = True,
    stop_early: bool = False,
    paper: Paper | None = None,
) -> Verdict:
    """The verdict on `student`. It starts as failed and becomes passed only when every question was answered rightly.

    `stop_early` ends at the first wrong answer (fewer questions for the diagnosis to go by). `paper` may hold the questions of this
    exercise and seed from an earlier subject.
    """
    start = time.perf_counter()
    paper = paper or Paper(chapter, exercise, seed)
    asked = paper.questions
    verdict = Verdict(exercise=exercise.name, outcome=Outcome.FAILED, total=len(asked), seed=seed)
    responses: list[Response] = []
    for response in paper.responses(student, ahead=not stop_early):
        responses.append(response)
        ended = next((a.outcome for a in response.answers if a.outcome), None)
        if response.failure and (ended or stop_early):
            break
    failed = [(q, r) for q, r in zip(asked, responses) if r.failure]
    verdict.passed = len(responses) - len(failed)
    verdict.cases = [(q.label, r.failure.kind if r.failure else "passed") for q, r in zip(asked, responses)]
    verdict.cases += [(q.label, "not asked") for q in asked[len(responses) :]]
    verdict.share = _share(asked, responses)
    if asked and not failed and len(responses) == len(asked):
        verdict.outcome = Outcome.PASSED
    elif failed:
        verdict.failure = failed[0][1].failure
        verdict.outcome = _outcome(failed[0][1])
        if diagnose and verdict.outcome in (Outcome.FAILED, Outcome.ERROR):
            verdict.diagnosis = recognise(paper, responses) or general_reading(failed[0][0], failed[0][1])
    verdict.seconds = time.perf_counter() - start
    return verdict


def _share(asked: list[Question], responses: list[Response]) -> float:
    wanted = [n for n, q in enumerate(asked) if not (isinstance(q.item, Case) and q.item.raises)]
    right = sum(n < len(responses) and responses[n].failure is None for n in wanted)
    return right / len(wanted) if wanted else 0.0


def _outcome(response: Response) -> Outcome:
    last = response.answers[-1] if response.answers else Answer()
    if last.outcome:
        return Outcome(last.outcome)
    if last.error and last.error.startswith("NotImplementedError"):
        return Outcome.NOT_ATTEMPTED
    if last.error and last.error.startswith("Forbidden"):
        return Outcome.POLICY
    return Outcome.ERROR if response.failure and response.failure.kind == "raised" else Outcome.FAILED


def recognise(paper: Paper, responses: list[Response]) -> Diagnosis | None:
    """The misconception that behaves as the answers do: the same wrong values wherever they are wrong, right where they are right.

    When none does so everywhere, the one that gives the same wrong values to at least two questions and to half of those asked:
    two mistakes in one answer, of which the learner is told one.
    """
    failed = [(n, r) for n, r in enumerate(responses) if r.failure][:12]
    passed = [n for n, r in enumerate(responses) if not r.failure][:40]
    near: list[tuple[int, Misconception]] = []
    for item in paper.exercise.misconceptions:
        if not paper.twin_exists(item):
            continue

        def same(number: int, response: Response, item: Misconception = item) -> bool:
            return _alike(response, paper.twin_response(item, number), paper.exercise)

        first = [same(n, r) for n, r in failed[:3]]
        if not any(first):
            continue
        is_same = first + [same(n, r) for n, r in failed[3:]]
        if all(is_same) and all(paper.twin_response(item, n).failure is None for n in passed):
            return Diagnosis(item.name, item.says, known=True)
        # Answers that merely raise resemble each other by chance.
        near.append((sum(s and r.failure.kind != "raised" for s, (_, r) in zip(is_same, failed)), item))
    most = max((matches for matches, _ in near), default=0)
    if most < 2 or 2 * most < len(failed):
        return None
    # Of those that agree equally often, the one that is right most often where the answer is right.
    nearest = [item for matches, item in near if matches == most]
    item = min(nearest, key=lambda item: sum(paper.twin_response(item, n).failure is not None for n in passed))
    return Diagnosis(item.name, item.says, known=True)


def _alike(one: Response, other: Response, exercise: Exercise) -> bool:
    if not one.failure or not other.failure or one.failure.kind != other.failure.kind:
        return False
    return len(one.answers) == len(other.answers) and all(
        _answers_alike(a, b, exercise.close) for a, b in zip(one.answers, other.answers)
    )


def _answers_alike(one: Answer, other: Answer, close: Close) -> bool:
    if (one.error is None) != (other.error is None) or one.outcome != other.outcome:
        return False
    if one.error is not None:
        return _first_name(one.error) == _first_name(other.error)
    if not _values_alike(one.value, other.value, close):
        return False
    for a, b in zip(one.grads, other.grads):
        if (a is None) != (b is None) or (a is not None and not _values_alike(a, b, Close(1e-5, 1e-7))):
            return False
    return _values_alike(one.args_after, other.args_after, close)


def _values_alike(one: Any, other: Any, close: Close) -> bool:
    if isinstance(one, tuple) and isinstance(
        other, tuple
    ):  # arguments: a callable among them is told by its kind alone
        return len(one) == len(other) and all(_values_alike(a, b, close) for a, b in zip(one, other))
    with suppress(Exception):
        return difference(one, other, close) is None or (
            kind_of(one).startswith("an object") and kind_of(one) == kind_of(other)
        )
    return False


def _first_name(error: str | None) -> str | None:
    return error.split(" < ")[0] if error else None


def error_line(answer: Answer) -> str:
    """'ValueError: vocab_size must ...', one line."""
    text = " ".join(answer.error_text.split())
    return f"{_first_name(answer.error)}: {text[:300]}" if text else f"{_first_name(answer.error)}"


def call_text(function: str, args: tuple, kwargs: dict[str, Any]) -> str:
    """The call as a learner could read it: 'softmax(tensor float64 (2, 3) [...], dim=0)'."""
    parts = [_argument(a) for a in args] + [f"{k}={_argument(v)}" for k, v in kwargs.items()]
    return f"{function}({', '.join(parts)})"[:600]


def _argument(value: Any) -> str:
    if isinstance(value, Code):
        return next((line.strip() for line in reversed(value.source.splitlines()) if line.strip()), "").removeprefix(
            "return "
        )[:80]
    return brief(value, 120)


def _held(case: Case, value: Any) -> str | None:
    try:
        return case.holds(value) if case.holds else None
    except Exception as error:
        return f"the answer ({kind_of(value)}) has another form than promised: {type(error).__name__}: {error}"


def _has_code(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return any(_has_code(v) for v in value)
    return isinstance(value, Code)


def _gradients_differ(case: Case, answer: Answer, wanted: list[Tensor | None], close: Close) -> str | None:
    for name, got, want in zip(case.grad, answer.grads or [None] * len(wanted), wanted):
        label = f"argument {name + 1}" if isinstance(name, int) else name
        if want is None:
            want = torch.zeros_like(got) if got is not None else None
        if got is None and want is not None and bool((want != 0).any()):
            return f"no gradient reaches {label}; something on the way is detached, rounded to integers or rebuilt from Python numbers"
        if got is not None and want is not None and (found := difference(got, want, close)):
            return f"the values are right, the gradient of {label} is not: {found.message}"
    return None


def general_reading(question: Question, response: Response) -> Diagnosis | None:
    """What the symptom says when no known misconception fits."""
    failure, answer = response.failure, response.answers[-1] if response.answers else Answer()
    if failure is None:
        return None
    for reading in _readings(question, failure, answer):
        return Diagnosis(*reading, known=False)
    return None


def _readings(question: Question, failure: Failure, answer: Answer) -> Iterator[tuple[str, str]]:
    case = question.item if isinstance(question.item, Case) else None
    want = question.wanted(case)[0] if case and case.raises is None else UNSET
    if answer.error is None and answer.value is None and want is not None and failure.kind == "type":
        yield "nothing returned", "The function returns None. Is there a return at its end, on every path?"
    if failure.kind == "raised" and answer.error and answer.error.startswith("NameError"):
        yield (
            "a name from another cell",
            "A name is missing. Only the exercise's own cell is graded: put helper functions and imports in the same cell.",
        )
    if failure.kind == "raised" and answer.error:
        yield (
            "an error where a value was wanted",
            "Your own lines are shown. Make this very call by hand and look at the values just before that line.",
        )
    if failure.kind == "not_raised":
        yield "bad input accepted", "This input is not legal and must raise. Check it first, before any work."
    if failure.kind == "inputs":
        yield (
            "input changed in place",
            "The caller still needs its input. Copy before changing (clone, list(...), dict(...)), and avoid operations that end in _.",
        )
    if failure.kind == "grad":
        yield (
            "gradient wrong",
            "The forward value is right, the gradient is not. Look for detach, .item(), .data, torch.no_grad or a rebuilt tensor.",
        )
    if failure.kind == "nan":
        yield (
            "NaN",
            "A NaN comes from 0 * inf, inf - inf, 0 / 0 or log of a negative number. Which of them can happen on this input?",
        )
    if failure.kind == "dtype":
        yield (
            "wrong dtype",
            "The result has another dtype than promised. Convert once, at the end, to the input's dtype.",
        )
    if isinstance(answer.value, Tensor) and isinstance(want, Tensor):
        yield from _tensor_readings(failure, answer.value, want)
    if failure.kind == "type":
        yield "another type", "The docstring says what comes back. Compare the type you return with it."
    if failure.kind in ("length", "keys"):
        yield "items missing or too many", "Some items are missing or too many. Do the first and the last one by hand."


def _tensor_readings(failure: Failure, got: Tensor, want: Tensor) -> Iterator[tuple[str, str]]:
    if failure.kind == "shape":
        if sorted(got.shape) == sorted(want.shape):
            yield (
                "dimensions swapped",
                "The sizes are right but in another order: a transpose too many or too few, or a reduction over the wrong dimension.",
            )
        else:
            yield "wrong shape", "Write the shape beside each line of your function and compare it with the docstring."
        return
    if failure.kind != "value" or not want.is_floating_point() or not got.is_floating_point() or want.numel() < 2:
        return
    g, w = got.double().reshape(-1), want.double().reshape(-1)
    finite = g.isfinite() & w.isfinite()
    zero, keep = finite & (w.abs() <= 1e-9), finite & (w.abs() > 1e-9)
    if bool(zero.any()) and float(g[zero].abs().max()) > 1e-6:
        yield (
            "a value where 0 is wanted",
            "Some results must be exactly 0 and are not. Which positions should have no influence at all, and which rows are empty?",
        )
        return
    if int(keep.sum()) < 2:
        return
    ratio, gap = g[keep] / w[keep], g[keep] - w[keep]
    factor, offset = float(ratio.mean()), float(gap.mean())
    if float((ratio + 1).abs().max()) < 1e-4:
        yield "sign flipped", "Every value has the opposite sign."
    elif abs(factor - 1) > 1e-3 and float((ratio - factor).abs().max()) < 1e-4 * abs(factor):
        yield (
            "a constant factor",
            f"Every value is {factor:.5g} times the wanted one. Where could that factor come from?",
        )
    elif float((gap - offset).abs().max()) < 1e-3 * abs(offset):
        direction = "large" if offset > 0 else "small"
        yield (
            "a constant offset",
            f"Every value is {abs(offset):.5g} too {direction}. Something is added or taken off once too often.",
        )
    elif bool(finite[w.isfinite()].all()) and float(gap.abs().max()) < 1e-2 * float(w[keep].abs().max()):
        yield (
            "nearly right",
            "The values are close but not close enough: look for low precision inside, an epsilon in the wrong place, or a missing small term.",
        )
