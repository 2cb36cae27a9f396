"""What a chapter's `checks.py` says about an exercise: the vocabulary, and nothing that runs it.

An `Exercise` holds a reference, a generator of cases, the ways learners go wrong (`Misconception`), correct answers that look
different (`Variant`) and three hints. `grader.judge` asks the questions; `grader.checking` does so in the learner's notebook and
`grader.worker` in a sandbox. Points are not here: they stand once, in the judge cell of `exercises.py`, where nbgrader reads them.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol

import torch
from torch import Tensor


@dataclass(frozen=True)
class Close:
    """How near a number must come: |got - want| <= atol + rtol * |want|.

    With both left at None the tolerance follows the dtype of the wanted value (`DEFAULT_TOLERANCE`).
    """

    rtol: float | None = None
    atol: float | None = None


# (rtol, atol) by dtype: a few hundred rounding errors of the type, far below any mistake that the cases provoke.
DEFAULT_TOLERANCE: dict[torch.dtype, tuple[float, float]] = {
    torch.float64: (1e-9, 1e-11),
    torch.float32: (2e-5, 2e-6),
    torch.float16: (4e-3, 2e-3),
    torch.bfloat16: (2e-2, 1e-2),
}


@dataclass(frozen=True)
class Code:
    """An argument that is made where the learner's code runs: a callable, a module, a view.

    `source` defines a function `make`; the argument is `make(*args)`. The namespace holds `torch` and `math`.

    >>> Code("def make():\\n    return lambda x: 2 * x").build()(3)
    6
    """

    source: str
    args: tuple = ()

    def build(self) -> Any:
        namespace: dict[str, Any] = {"torch": torch, "math": math}
        exec(compile(self.source, "<case>", "exec"), namespace)
        return namespace["make"](*self.args)


class Outcome(StrEnum):
    """How the judging of one exercise ended. Only PASSED earns points; "the learner is wrong" and "we broke" never share a name."""

    PASSED = "passed"
    FAILED = "failed"
    """A wrong answer."""
    ERROR = "error"
    """The learner's code raised where it should have answered, or its cell does not run."""
    NOT_ATTEMPTED = "not_attempted"
    """The stub stands as it was released."""
    MISSING = "missing"
    """The submission holds no such cell, or the cell defines no such function."""
    TIMED_OUT = "timed_out"
    OUT_OF_MEMORY = "out_of_memory"
    OUTPUT_LIMIT = "output_limit"
    CRASHED = "crashed"
    INVALID = "invalid"
    """The submission cannot be read, or answered with something that is no data."""
    POLICY = "policy"
    """A routine that is itself the answer was called; a person should look."""
    INFRASTRUCTURE = "infrastructure"
    """The grader failed, not the learner: retried, then flagged for a person."""


UNSET: Any = type("Unset", (), {"__repr__": lambda self: "UNSET"})()


@dataclass(frozen=True, kw_only=True)
class Case:
    """One call of the learner's function and what must come of it.

    The wanted value is the reference's on the same arguments, unless `expect` or `raises` is given.
    """

    label: str
    """What this case is about, in a learner's words: "the last row may attend to nothing"."""
    args: tuple = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    raises: type[Exception] | None = None
    """The exception that must come (a subclass will do)."""
    expect: Any = UNSET
    close: Close | None = None
    """None: the exercise's tolerance."""
    grad: tuple[int | str, ...] = ()
    """Arguments (position or keyword) whose gradients are compared with the reference's."""
    holds: Callable[[Any], str | None] | None = None
    """A further condition on the result; returns a sentence when it does not hold."""
    may_change_inputs: bool = False
    function: str | None = None
    """Which function of the exercise is called; None: the one named as the exercise."""
    exact_dtype: bool = True
    """Whether a tensor's dtype must be the wanted one."""


class Student(Protocol):
    """Whatever answers the judge's calls: a function in this process, or one behind a pipe in a sandbox."""

    def call(
        self,
        function: str,
        args: tuple,
        kwargs: dict[str, Any],
        grad: Sequence[int | str] = (),
        cotangents: Sequence[Tensor] = (),
    ) -> Answer: ...

    def method(self, handle: Any, name: str, args: tuple = (), kwargs: dict[str, Any] | None = None) -> Answer: ...

    def attribute(self, handle: Any, name: str) -> Answer: ...


@dataclass
class Answer:
    """What came back from one call. Exactly one of `value` and `error` speaks: `error` is None when a value came."""

    value: Any = None
    error: str | None = None
    """Name of the exception's class and of its bases that matter, nearest first, joined by ' < ', e.g. "UnicodeDecodeError < ValueError"."""
    error_text: str = ""
    """The exception's message, capped."""
    error_lines: str = ""
    """The learner's own lines of the traceback, capped."""
    args_after: tuple | None = None
    """Positional arguments as they were after the call, or None when they cannot be sent."""
    kwargs_after: dict[str, Any] | None = None
    grads: list[Tensor | None] = field(default_factory=list)
    """Gradients of sum(output * cotangent), one per name in `grad`; None where no gradient arrived."""
    outcome: str | None = None
    """Set when the process ended or was ended instead of answering: an `Outcome` value such as "timed_out"."""


class Mismatch(Exception):
    """Raised inside a `Scenario` when the learner's answer is wrong. The text is what the learner reads."""

    def __init__(self, message: str, *, got: Any = UNSET, want: Any = UNSET) -> None:
        super().__init__(message)
        self.message, self.got, self.want = message, got, want


class Asker(Protocol):
    """What a `Scenario` is handed. Every call is remembered, so that a wrong answer can be recognised."""

    def call(self, *args: Any, function: str | None = None, **kwargs: Any) -> Any:
        """The value that the learner's function returns; an exception it raises becomes a `Mismatch`."""

    def error(self, *args: Any, function: str | None = None, **kwargs: Any) -> str | None:
        """The name of the exception that the call raises, or None when it returns."""

    def method(self, handle: Any, name: str, *args: Any, **kwargs: Any) -> Any: ...

    def method_error(self, handle: Any, name: str, *args: Any, **kwargs: Any) -> str | None: ...

    def attribute(self, handle: Any, name: str) -> Any: ...

    def same(self, got: Any, want: Any, message: str, close: Close | None = None) -> None:
        """Raises `Mismatch(message)` unless got equals want as a case would compare them."""


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """Several calls that belong together: an invariant, or an object with a life (make, change, look).

    `run(ask)` makes the calls through `ask` and raises `Mismatch` (or uses `ask.same`) when an answer is wrong.
    """

    label: str
    run: Callable[[Asker], None]


@dataclass(frozen=True, kw_only=True)
class Misconception:
    """A plausible wrong answer. It must lose the points, and a learner whose answer behaves like it is told `says`.

    Give the whole source as `code`, or `replace=(old, new)`: the worked solution with one passage changed.
    """

    name: str
    says: str
    code: str = ""
    replace: tuple[str, str] | None = None
    same_as: tuple[str, ...] = ()
    """Other misconceptions that no input can tell from this one; being told theirs counts as diagnosed."""


@dataclass(frozen=True, kw_only=True)
class Variant:
    """A correct answer that looks different (loops, einsum, NumPy, another formula). It must keep its points."""

    name: str
    code: str = ""
    replace: tuple[str, str] | None = None


@dataclass(frozen=True, kw_only=True)
class Exercise:
    name: str
    reference: Callable[..., Any]
    """Independent of the worked solution, in float64 inside, returning the dtype that the exercise promises."""
    cases: Callable[[Rng], Iterable[Case | Scenario]]
    """Simple cases first: the first that fails is the one a learner sees."""
    hints: tuple[str, str, str]
    """From a nudge to nearly the answer."""
    misconceptions: tuple[Misconception, ...] = ()
    variants: tuple[Variant, ...] = ()
    functions: tuple[str, ...] = ()
    """Functions that the cell defines and the cases call; empty: the one named as the exercise."""
    references: dict[str, Callable[..., Any]] = field(default_factory=dict)
    """References of the further functions, by name."""
    uses: tuple[str, ...] = ()
    """Other exercises whose functions the answer may call; a mistake there costs no points here."""
    forbids: tuple[str, ...] = ()
    """Dotted names that would be the answer, e.g. "torch.softmax", "torch.Tensor.softmax", "str.encode"."""
    close: Close = Close()
    seconds: float = 10.0
    """Wall-clock limit for all cases together in official grading."""
    partial: bool = False
    """Whether a wrong answer earns a share of the points, by the cases that want a value and got the right one. False: all or nothing."""

    def __post_init__(self) -> None:
        names = [m.name for m in self.misconceptions]
        twice = sorted({n for n in names if names.count(n) > 1})
        if twice:
            raise ValueError(f"exercise {self.name}: misconception names must differ, got {', '.join(twice)} twice")
        if len(self.hints) != 3:
            raise ValueError(f"exercise {self.name}: want three hints, got {len(self.hints)}")
        for item in (*self.misconceptions, *self.variants):
            if bool(item.code) == (item.replace is not None):
                raise ValueError(f"exercise {self.name}, {item.name!r}: give either code or replace=(old, new)")

    @property
    def all_functions(self) -> tuple[str, ...]:
        return self.functions or (self.name,)

    def reference_for(self, function: str) -> Callable[..., Any]:
        return self.references.get(function, self.reference)


class Rng:
    """Fresh random inputs from one seed. Equal seeds give equal inputs on every machine.

    >>> Rng(1).normal(2, 3).shape
    torch.Size([2, 3])
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.generator = torch.Generator().manual_seed(seed & (2**63 - 1))
        self.python = random.Random(seed)

    def normal(self, *shape: int, dtype: torch.dtype = torch.float64, scale: float = 1.0, shift: float = 0.0) -> Tensor:
        x = torch.randn(shape, generator=self.generator, dtype=torch.float64)
        return (x * scale + shift).to(dtype)

    def uniform(self, *shape: int, low: float = 0.0, high: float = 1.0, dtype: torch.dtype = torch.float64) -> Tensor:
        x = torch.rand(shape, generator=self.generator, dtype=torch.float64)
        return (low + (high - low) * x).to(dtype)

    def integers(self, low: int, high: int, *shape: int) -> Tensor:
        """int64 values, low <= x < high."""
        return torch.randint(low, high, shape, generator=self.generator)

    def mask(self, *shape: int, keep: float = 0.6) -> Tensor:
        """Bool, True with probability `keep`."""
        return torch.rand(shape, generator=self.generator) < keep

    def permutation(self, n: int) -> Tensor:
        return torch.randperm(n, generator=self.generator)

    def integer(self, low: int, high: int) -> int:
        """One Python int, low <= x <= high."""
        return self.python.randint(low, high)

    def choice(self, items: Sequence[Any]) -> Any:
        return self.python.choice(items)

    def word(self, alphabet: str, low: int, high: int) -> str:
        return "".join(self.python.choice(alphabet) for _ in range(self.python.randint(low, high)))
