import pytest
import torch

from grader.calling import answer_of, copy_of
from grader.exercise import Case, Close, Code, Exercise, Misconception, Mismatch, Outcome, Scenario, Variant
from grader.judge import LocalStudent, _values_alike, judge, questions
from grader.mutation import meets_targets, score_exercise


def verdict_of(small, source, name="mean_square", seed=5):
    exercise = small.exercises[name]
    return judge(small, exercise, LocalStudent(small.namespace(exercise, source)), seed)


def test_solution_and_variants_pass_and_every_misconception_is_caught_and_named(small):
    scores = [score_exercise(small, e, [1, 2]) for e in small.exercises.values()]
    assert [s.complaints for s in scores] == [[], []]
    assert meets_targets(scores)


def test_a_wrong_answer_that_passes_and_a_right_one_that_fails_miss_the_targets(small):
    exercise = small.exercises["mean_square"]
    harmless = Misconception(name="no mistake at all", says="", replace=("(x * x)", "(x ** 2)"))
    wrong = Variant(name="not right", replace=(".mean(-1)", ".sum(-1)"))
    for changed in ({"misconceptions": (harmless,)}, {"variants": (wrong,)}):
        broken = Exercise(**{**vars(exercise), **changed})
        assert not meets_targets([score_exercise(small, broken, [1])])


@pytest.mark.parametrize(
    ("body", "outcome", "told"),
    [
        ("raise NotImplementedError", Outcome.NOT_ATTEMPTED, None),
        ("return helper(x)", Outcome.ERROR, "a name from another cell"),
        ("pass", Outcome.FAILED, "nothing returned"),
        ("return (x * x).mean(-1) * 2 if x.shape[-1] else 1 / 0", Outcome.FAILED, "a constant factor"),
        ("return -(x * x).mean(-1) if x.shape[-1] else 1 / 0", Outcome.FAILED, "sign flipped"),
        ("return (x * x).mean(-1).double() if x.shape[-1] else int('a')", Outcome.FAILED, "wrong dtype"),
        ("return (x * x).mean(-1, keepdim=True)", Outcome.FAILED, "wrong shape"),
        ("return (x * x).mean(-1).tolist()", Outcome.FAILED, "another type"),
        ("return (x * x).mean(-1) + 1e-6 if x.shape[-1] else int('a')", Outcome.FAILED, "a constant offset"),
    ],
)
def test_outcomes_and_general_readings(small, body, outcome, told):
    verdict = verdict_of(small, f"def mean_square(x):\n    {body}")
    assert verdict.outcome is outcome
    assert (verdict.diagnosis.name if verdict.diagnosis else None) == told


def test_an_unknown_mistake_is_not_given_a_known_name(small):
    verdict = verdict_of(small, "def mean_square(x):\n    return (x * x).mean(-1).abs().pow(1.01)")
    assert verdict.outcome is Outcome.FAILED
    assert not verdict.diagnosis.known


def test_inputs_changed_in_place_fail_even_when_the_value_is_right(small):
    source = "def root_mean_square(x):\n    y = (x * x).mean(-1).sqrt()\n    x.zero_()\n    return y"
    assert verdict_of(small, source, "root_mean_square").failure.kind == "inputs"


def test_equal_seeds_ask_equal_questions_and_others_do_not(small):
    exercise = small.exercises["mean_square"]
    first, again, other = (
        [q.item.args[0] for q in questions(exercise, s) if isinstance(q.item, Case)] for s in (3, 3, 4)
    )
    assert all(torch.equal(a, b) for a, b in zip(first, again))
    assert not torch.equal(first[0], other[0])


def test_an_answer_made_for_the_visible_numbers_fails_on_fresh_ones(small):
    exercise = small.exercises["mean_square"]
    known = {
        tuple(q.item.args[0].flatten().tolist()): q.wanted(q.item)[0]
        for q in questions(exercise, 1)
        if isinstance(q.item, Case) and q.item.raises is None
    }
    student = LocalStudent({"mean_square": lambda x: known[tuple(x.flatten().tolist())]})
    assert judge(small, exercise, student, 2).outcome is Outcome.ERROR


def test_a_scenario_with_an_object_that_stays_where_it_was_made(small):
    def run(ask):
        made = ask.call(Code("def make(): return torch.nn.Linear(3, 2)"))
        ask.same(
            ask.method(made, "forward", torch.zeros(1, 3)), ask.attribute(made, "bias")[None], "zeros give the bias"
        )
        if ask.method_error(made, "forward", torch.zeros(1, 4)) != "RuntimeError":
            raise Mismatch("a wrong width must raise")

    exercise = Exercise(
        name="wrap", reference=lambda m: m, cases=lambda rng: [Scenario(label="life", run=run)], hints=("", "", "")
    )
    assert judge(small, exercise, LocalStudent({"wrap": lambda m: m}), 1).ok
    assert not judge(small, exercise, LocalStudent({"wrap": lambda m: torch.nn.Identity()}), 1).ok


def test_an_exercise_without_cases_never_passes(small):
    exercise = Exercise(name="f", reference=len, cases=lambda rng: [], hints=("", "", ""))
    assert not judge(small, exercise, LocalStudent({"f": len}), 1).ok


def test_copies_share_nothing_and_keep_strides():
    x = torch.arange(6.0).reshape(2, 3).t()
    y = copy_of((x, {"a": [x]}))
    y[0].zero_()
    assert x.sum() == 15
    assert y[1]["a"][0].stride() == x.stride()


def test_a_base_exception_is_an_answer_and_prints_are_swallowed(capsys):
    def leave():
        print("loud")
        raise SystemExit(0)

    assert answer_of(leave, (), {}).error.startswith("SystemExit")
    assert capsys.readouterr().out == ""


def test_arguments_are_alike_when_a_callable_among_them_is_told_by_its_kind():
    def given(value):
        return (torch.full((2,), value), lambda x: x)

    assert _values_alike(given(1.0), given(1.0), Close())
    assert not _values_alike(given(1.0), given(2.0), Close())
    assert not _values_alike(given(1.0), given(1.0)[:1], Close())
