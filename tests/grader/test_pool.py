"""Judging processes side by side: work is shared out, nothing is lost when one is killed, and one that never comes up is named."""

import json
import socket
import subprocess
from pathlib import Path

import pytest

from grader import desk, pool
from grader.pool import DEATHS, Pool, WorkersFailed, receive, send

ECHO = """
import json, os, socket, sys, time
sys.path.insert(0, {above!r})
from grader.pool import receive, send
pipe = socket.socket(fileno=int(sys.argv[1]))
setup = json.loads(receive(pipe))
while (request := receive(pipe)) is not None:
    data = json.loads(request)
    if data.get("die") and not os.path.exists(data["die"]):
        open(data["die"], "w").close()
        os.kill(os.getpid(), 9)
    if data.get("die_always"):
        os._exit(3)
    send(pipe, json.dumps([data["n"], os.getpid()]))
"""


@pytest.fixture
def echo(monkeypatch):
    """Processes that answer each request with its number, or die as it says."""
    real = subprocess.Popen
    source = ECHO.format(above=str(Path(pool.__file__).resolve().parent.parent))

    def start(command, **options):
        return real([*command[:3], source, command[4]], **options)

    monkeypatch.setattr(pool.subprocess, "Popen", start)


def numbers(answers):
    return {number: answer and json.loads(answer)[0] for number, answer in answers}


def test_every_request_is_answered_once_and_both_work(echo):
    with Pool(2, {}) as running:
        answers = list(running.run(json.dumps({"n": n}) for n in range(20)))
        again = list(running.run(json.dumps({"n": n}) for n in range(3)))
    assert numbers(answers) == {n: n for n in range(20)}
    assert len({json.loads(answer)[1] for _, answer in answers}) == 2
    assert numbers(again) == {0: 0, 1: 1, 2: 2}


def test_what_a_killed_process_had_in_hand_is_done_by_another(echo, tmp_path):
    with Pool(2, {}) as running:
        requests = [json.dumps({"n": n, "die": str(tmp_path / f"died{n}") if n in (0, 7) else ""}) for n in range(12)]
        assert numbers(running.run(requests)) == {n: n for n in range(12)}


def test_work_that_kills_every_process_is_given_up_and_the_rest_is_done(echo):
    with Pool(2, {}) as running:
        requests = [json.dumps({"n": n, "die_always": n == 4}) for n in range(9)]
        assert numbers(running.run(requests)) == {n: None if n == 4 else n for n in range(9)}


def test_processes_that_never_come_up_end_the_run_with_a_sentence(echo, tmp_path):
    with Pool(2, {}) as running, pytest.raises(WorkersFailed, match="exit code 3"):
        list(running.run([json.dumps({"n": n, "die_always": True}) for n in range(9 * DEATHS)]))


def test_texts_of_any_length_cross_the_pipe_and_its_end_is_none():
    one, other = socket.socketpair()
    send(one, "ü" * 10_000)
    assert receive(other) == "ü" * 10_000
    one.close()
    assert receive(other) is None


def test_a_desk_says_what_canary_is_off(small, monkeypatch):
    made = object.__new__(desk.Desk)
    made.chapter, made.worker, made.papers = small, None, None

    def fail(*arguments):
        from grader.task import CanaryFailed

        raise CanaryFailed("the worked solution of x does not pass")

    monkeypatch.setattr("grader.task.run_canaries", fail)
    assert json.loads(made.answer(desk.canary_request({}, ["x"]))) == {
        "canary": "the worked solution of x does not pass"
    }


def test_a_process_whose_supervisor_is_gone_ends(echo):
    running = Pool(1, {}).__enter__()
    (worker,) = running._workers
    worker.pipe.close()
    assert worker.process.wait(20) == 0
    running._selector.close()
