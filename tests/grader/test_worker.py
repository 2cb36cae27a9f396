import gc
import os
import threading

import pytest
import torch

from grader import sandbox
from grader.exercise import Case, Code, Exercise, Misconception, Outcome, Rng, Scenario
from grader.inner import Limits
from grader.judge import judge
from grader.wire import Handle, WireError
from grader.worker import InfrastructureError, WarmWorker

GIVEN = ["import math\nimport torch\n"]
SCALE = """
def scale(x, k=2.0):
    return x * k

def spoil(x):
    x.zero_()
    return [1]

def nothing(x):
    return (x * 2).detach()

def broken(x):
    y = x + 1
    return y / 0

class Counter:
    step = 3
    def __init__(self, start):
        self.value = start
    def add(self, x):
        self.value = self.value + x
        return self.value
"""


@pytest.fixture(scope="module", params=["walls", "no walls"])
def worker(request):
    try:
        walls = sandbox.find_walls() if request.param == "walls" else sandbox.Walls.none()
    except sandbox.NoWalls as missing:
        pytest.skip(str(missing))
    with WarmWorker(walls) as worker:
        yield worker


@pytest.fixture
def student(worker):
    with worker.session(GIVEN, {"scale": SCALE}, functions=("scale", "gone")) as student:
        assert not student.errors
        yield student


def test_a_call_is_answered_with_data(student):
    x = torch.arange(6.0).reshape(2, 3)
    answer = student.call("scale", (x,), {"k": 3.0})
    assert answer.error is None
    assert answer.outcome is None
    assert torch.equal(answer.value, 3 * x)
    assert torch.equal(answer.args_after[0], x)
    assert answer.kwargs_after == {"k": 3.0}
    assert student.missing == ("gone",)


def test_gradients_come_back_and_are_none_where_none_arrives(student):
    x, cotangent = torch.randn(4, dtype=torch.float64), torch.randn(4, dtype=torch.float64)
    answer = student.call("scale", (x,), {"k": 3.0}, (0,), [cotangent])
    assert torch.allclose(answer.grads[0], 3 * cotangent)
    assert student.call("nothing", (x,), {}, (0,), [cotangent]).grads == [None]


def test_a_changed_input_shows_and_the_judge_keeps_its_own(student):
    x = torch.ones(3)
    answer = student.call("spoil", (x,), {})
    assert answer.args_after[0].tolist() == [0, 0, 0]
    assert x.tolist() == [1, 1, 1]


def test_an_exception_comes_with_its_bases_and_the_learners_own_lines(student):
    answer = student.call("broken", (1,), {})
    assert answer.error == "ZeroDivisionError < ArithmeticError < Exception"
    assert answer.error_text == "division by zero"
    assert answer.error_lines == "line 14, in broken: return y / 0"
    assert student.call("unknown", (), {}).error.startswith("NameError")


def test_objects_stay_inside_as_handles(student):
    counter = student.call("Counter", (5,), {}).value
    assert isinstance(counter, Handle)
    assert counter.type_name == "Counter"
    assert student.method(counter, "add", (2,)).value == 7
    assert student.attribute(counter, "value").value == 7
    assert student.attribute(counter, "step").value == 3
    assert student.attribute(counter, "gone").error.startswith("AttributeError")
    again = student.call("scale", (counter,), {})
    assert again.error.startswith("TypeError")


def test_a_handle_that_was_never_given_ends_the_session(worker):
    with worker.session(GIVEN, {"scale": SCALE}) as student:
        assert student.method(Handle(99, "Counter"), "add").outcome is Outcome.CRASHED


def test_code_is_made_inside(student):
    view = Code("def make(x):\n    return x.T", (torch.arange(6.0).reshape(2, 3),))
    assert student.call("scale", (view,), {}).value.shape == (3, 2)
    module = student.call(
        "scale", (Code("def make():\n    return torch.ones(1)"), Code("def make():\n    return 4")), {}
    )
    assert module.value.tolist() == [4]


def test_what_is_no_data_must_be_wrapped(student):
    with pytest.raises(WireError, match="wrap it in Code"):
        student.call("scale", (lambda: 1,), {})
    assert student.call("scale", (1,), {}).value == 2


def test_one_broken_cell_costs_itself_alone(worker):
    cells = {"a": "def a(:", "b": "raise ValueError('no')", "c": "def c(): return 3", "d": "import sys; sys.exit()"}
    with worker.session(GIVEN, cells) as student:
        assert student.errors["a"].error.startswith("SyntaxError")
        assert student.errors["a"].lines == "line 1: def a(:"
        assert student.errors["b"].text == "no"
        assert student.errors["b"].lines.startswith("line 1, in <module>: raise ValueError")
        assert student.errors["d"].error.startswith("SystemExit")
        assert student.call("c", (), {}).value == 3


def test_our_solution_takes_the_place_of_a_used_exercise(worker):
    cells = {
        "double": "def double(x):\n    return x * 3\n\ndef helper(x):\n    return -x\n",
        "quadruple": "def quadruple(x):\n    return double(double(x))\n\ndef extra(x):\n    return 'theirs'\n",
    }
    ours = {"double": "def extra(x):\n    return 2 * x\n\ndef double(x):\n    return extra(x)\n"}
    with worker.session(GIVEN, cells, ours) as student:
        assert student.call("quadruple", (1,), {}).value == 4
        assert student.call("extra", (1,), {}).value == "theirs"
        assert student.call("helper", (1,), {}).value == -1
    with worker.session(GIVEN, cells) as student:
        assert student.call("quadruple", (1,), {}).value == 9


def test_forbidden_routines_are_withheld_in_cells_and_calls(worker):
    cells = {"f": "def f(x):\n    return torch.softmax(x, -1)\n", "g": "kept = torch.softmax(torch.zeros(2), -1)"}
    with worker.session(GIVEN, cells, forbids=("torch.softmax",)) as student:
        assert student.call("f", (torch.zeros(2),), {}).error.startswith("Forbidden")
        assert student.errors["g"].error.startswith("Forbidden")
    with worker.session(GIVEN, cells) as student:
        assert student.call("f", (torch.zeros(2),), {}).value.tolist() == [0.5, 0.5]


def test_what_a_notebook_has_is_there(worker):
    cell = "from grader import check, grade, progress\ndisplay('x')\ndef f(): return check(f), __name__\ncheck(f)\n"
    with worker.session(GIVEN, {"f": cell}) as student:
        assert not student.errors
        assert student.call("f", (), {}).value == (None, "__main__")


def test_prints_are_kept_up_to_a_limit(worker):
    cell = "def f(n):\n    print('x' * n)\n"
    with worker.session([], {"f": cell}) as student:
        student.call("f", (100_000,), {})
        student.call("f", (3,), {})
    assert len(student.printed) == 65536


def test_sessions_share_nothing_and_repeat_themselves(worker):
    cell = "import random\nimport torch\nseen = []\ndef f():\n    seen.append(1)\n    return len(seen), random.random(), float(torch.rand(())), hash('a')\n"
    answers = []
    for _ in range(2):
        with worker.session([], {"f": cell}) as student:
            answers.append(student.call("f", (), {}).value)
    assert answers[0] == answers[1]
    assert answers[0][0] == 1


@pytest.mark.parametrize(
    ("body", "outcome", "says"),
    [
        ("while True: pass", Outcome.TIMED_OUT, "in time"),
        ("import os; os._exit(3)", Outcome.CRASHED, "exit code 3"),
        ("import ctypes; ctypes.string_at(0)", Outcome.CRASHED, "SIGSEGV"),
        ("raise MemoryError", Outcome.OUT_OF_MEMORY, ""),
        ("while True: print('x' * 1000)", Outcome.OUTPUT_LIMIT, "printed more than"),
        ("import os; os.write(3, b'nonsense')", Outcome.OUTPUT_LIMIT, "no data"),
        ("import os; os.close(3)", Outcome.CRASHED, ""),
    ],
)
def test_every_end_has_its_name_and_costs_one_session(worker, body, outcome, says):
    before = worker._process.process.pid
    with worker.session([], {"f": f"def f():\n    {body}\n"}, limits=Limits(seconds=0.4)) as student:
        answer = student.call("f", (), {})
        assert answer.outcome is outcome, answer
        assert says in student.end_text
        if outcome is not Outcome.OUT_OF_MEMORY:
            assert student.call("f", (), {}).outcome is outcome
    with worker.session(GIVEN, {"scale": SCALE}) as student:
        assert student.call("scale", (2,), {}).value == 4.0
    assert worker._process.process.pid == before


def test_usage_is_known_when_the_session_has_ended(worker):
    with worker.session([], {"f": "def f():\n    x = bytearray(64 << 20)\n    return sum(range(10**6))\n"}) as student:
        student.call("f", (), {})
        assert student.usage is None
    assert student.usage.peak_bytes > 64 << 20
    assert student.usage.cpu_seconds > 0
    assert student.seconds > 0


def test_a_worker_that_dies_is_started_again_and_the_session_told(worker):
    with worker.session([], {"f": "def f():\n    while True: pass\n"}) as student:
        worker._process.process.kill()
        assert student.call("f", (), {}).outcome is Outcome.INFRASTRUCTURE
    with worker.session([], {"f": "def f(): return 1"}) as student:
        assert student.call("f", (), {}).value == 1


@pytest.mark.slow
def test_a_worker_is_replaced_after_its_forks():
    with WarmWorker(sandbox.Walls.none(), max_forks=1) as worker:
        pids = []
        for _ in range(2):
            with worker.session([], {"f": "def f(): return 1"}) as student:
                assert student.call("f", (), {}).value == 1
            pids.append(worker._process.process.pid)
    assert len(set(pids)) > 1


@pytest.mark.slow
def test_a_worker_that_cannot_start_says_why():
    with pytest.raises(InfrastructureError, match="no_such_module"):
        WarmWorker(sandbox.Walls.none(), modules=("no_such_module",)).start()


def test_failure_of_our_own_is_tried_three_times_and_then_named(monkeypatch):
    worker = WarmWorker(sandbox.Walls.none())
    tries = []

    def start(walls, modules):
        tries.append(1)
        raise OSError("no more processes")

    monkeypatch.setattr(sandbox, "start", start)
    with pytest.raises(InfrastructureError, match="no more processes"), worker.session([], {}):
        pass
    assert len(tries) == 3


@pytest.mark.slow
def test_a_worker_outlives_the_thread_that_started_it(worker):
    made = []

    def start():
        made.append(WarmWorker(worker.walls))
        made[0].start()

    thread = threading.Thread(target=start)
    thread.start()
    thread.join()
    with made[0] as other, other.session([], {"f": "def f(): return 1"}) as student:
        assert student.call("f", (), {}).value == 1


def test_no_descriptors_leak(worker):
    def count():
        gc.collect()
        return len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0

    counts = []
    for _ in range(4):
        with worker.session([], {"f": "def f(): return 1"}) as student:
            student.call("f", (), {})
        counts.append(count())
    assert counts[1] == counts[-1]


def _questions(rng: Rng):
    yield Case(label="values and gradient", args=(rng.normal(3, 5), 0.5), grad=(0,))
    yield Case(label="text", args=("a", 2), raises=TypeError, function="checked")

    def linear(ask):
        y = ask.call(rng.normal(4), 2.0)
        ask.same(ask.call(y, 0.5), ask.call(y, 0.5), "it must repeat itself")

    yield Scenario(label="repeats", run=linear)


EXERCISE = Exercise(
    name="scale",
    reference=lambda x, k: x * k,
    references={"checked": lambda x, k: x},
    functions=("scale", "checked"),
    cases=_questions,
    hints=("", "", ""),
    misconceptions=(Misconception(name="m", says="s", code="def scale(x, k): return x"),),
)


def test_the_judge_gives_its_verdict_through_the_pipe(worker):
    good = "def scale(x, k):\n    return x * k\n\ndef checked(x, k):\n    raise TypeError\n"
    for source, passes in ((good, True), (good.replace("x * k", "x + k"), False)):
        with worker.session(GIVEN, {"scale": source}, functions=EXERCISE.all_functions) as student:
            assert judge(None, EXERCISE, student, 3, diagnose=False).ok is passes
