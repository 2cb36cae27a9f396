"""Checks of the tiny chapter."""

import math

from grader.exercise import Case, Exercise, Misconception, Rng, Variant


def _double(x):
    if math.isinf(x):
        raise ValueError
    return 2.0 * x


def _double_cases(rng: Rng):
    yield Case(label="a small number", args=(0.5,))
    yield Case(label="any number", args=(rng.python.uniform(5.0, 9.0),))
    yield Case(label="an infinite number", args=(math.inf,), raises=ValueError)


def _quadruple(x):
    return 4.0 * x


def _quadruple_cases(rng: Rng):
    yield Case(label="any number", args=(rng.python.uniform(5.0, 9.0),))


_HINTS = ("What is twice?", "Add it to itself.", "return x + x")
_SIX = tuple(
    Misconception(
        name=f"times {k}", code=f"def double(x):\n    return {k}.0 * x\n", says=f"That is {k} times x, not twice."
    )
    for k in (3, 4, 5, 6, 7)
) + (Misconception(name="infinity let through", replace=("math.isinf(x)", "False"), says="An infinite x must raise."),)
_THREE = tuple(
    Variant(
        name=name,
        code=f"import math\ndef double(x):\n    if math.isinf(x):\n        raise ValueError\n    return {formula}\n",
    )
    for name, formula in (("times two", "2 * x"), ("half's inverse", "x / 0.5"), ("a sum", "sum([x, x])"))
)

EXERCISES = [
    Exercise(name="double", reference=_double, cases=_double_cases, hints=_HINTS, misconceptions=_SIX, variants=_THREE),
    # lint: allow few-misconceptions, it is one call of another exercise
    # lint: allow few-variants, it is one call of another exercise
    Exercise(name="quadruple", reference=_quadruple, cases=_quadruple_cases, hints=_HINTS, uses=("double",)),
]
