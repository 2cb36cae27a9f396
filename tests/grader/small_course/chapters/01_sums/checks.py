"""Checks of the small chapter that the grader's tests use."""

import torch

from grader.exercise import Case, Exercise, Misconception, Rng, Scenario, Variant


def _mean_square(x):
    if x.shape[-1] == 0:
        raise ValueError
    return x.double().pow(2).mean(-1).to(x.dtype)


def _cases(rng: Rng):
    yield Case(label="a batch of rows", args=(rng.normal(3, 5),), grad=(0,))
    yield Case(label="float32 in, float32 out", args=(rng.normal(7, dtype=torch.float32),))
    yield Case(label="no values", args=(torch.zeros(2, 0),), raises=ValueError)

    def rows(ask):
        x = rng.normal(4, 3)
        ask.same(ask.call(x)[1:], ask.call(x[1:]), "a row must not depend on the others")

    yield Scenario(label="rows are independent", run=rows)


def _root_cases(rng: Rng):
    yield Case(label="a batch of rows", args=(rng.normal(3, 5),))
    yield Case(label="one row", args=(rng.normal(6, shift=2.0),))


EXERCISES = [
    Exercise(
        name="mean_square",
        reference=_mean_square,
        cases=_cases,
        forbids=("torch.nn.functional.mse_loss",),
        hints=("Square first.", "Then average over the last dim.", "(x * x).mean(-1)"),
        misconceptions=(
            Misconception(
                name="sum for mean", says="Divide by the number of values.", replace=(".mean(-1)", ".sum(-1)")
            ),
            Misconception(
                name="mean over everything", says="Average over the last dim only.", replace=(".mean(-1)", ".mean()")
            ),
            Misconception(name="gradient cut", says="Something is detached.", replace=("(x * x)", "(x * x.detach())")),
            Misconception(
                name="input squared in place",
                says="Work on a copy.",
                replace=("(x * x)", "x.detach().mul_(x.detach())"),
            ),
            Misconception(
                name="empty accepted", says="Check for no values.", replace=("if x.shape[-1] == 0:", "if False:")
            ),
        ),
        variants=(
            Variant(name="pow", replace=("(x * x)", "x.pow(2)")),
            Variant(name="sum over count", replace=("(x * x).mean(-1)", "(x * x).sum(-1) / x.shape[-1]")),
        ),
    ),
    Exercise(
        name="root_mean_square",
        reference=lambda x: _mean_square(x).sqrt(),
        cases=_root_cases,
        uses=("mean_square",),
        hints=("Use mean_square.", "Then the root.", "mean_square(x).sqrt()"),
        misconceptions=(Misconception(name="no root", says="Take the square root.", replace=(".sqrt()", "")),),
        variants=(Variant(name="power", replace=(".sqrt()", "** 0.5")),),
    ),
]
