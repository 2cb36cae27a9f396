"""The same class on a Dask cluster of two processes, over TLS, one of them killed half-way: the results are those of one machine."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest

from grader import bridge, cluster, course, grading, sandbox
from grader.task import CanaryFailed, Task

pytest.importorskip("distributed", reason="these tests need Dask (the extra `cluster`)")
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("class")]

SLUG = "01_sums"
START_S = 120.0


@pytest.fixture(scope="module")
def tls(tmp_path_factory):
    """A certificate of our own, as Dask's configuration and as environment variables for other processes; none without openssl."""
    if shutil.which("openssl") is None:
        return {}, {}
    folder = tmp_path_factory.mktemp("tls")
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
        + ["-keyout", str(key), "-out", str(certificate)],
        check=True,
        capture_output=True,
    )
    names = {"ca-file": str(certificate)}
    for role in ("scheduler", "worker", "client"):
        names |= {f"{role}.key": str(key), f"{role}.cert": str(certificate)}
    settings = {f"distributed.comm.tls.{name}": value for name, value in names.items()}
    settings["distributed.comm.require-encryption"] = True
    variables = {f"DASK_{n.upper().replace('.', '__').replace('-', '_')}": str(v) for n, v in settings.items()}
    return settings, variables


@pytest.fixture
def dask_cluster(tls, tmp_path):
    """(address, the two worker processes)."""
    settings, variables = tls
    walls = {} if _has_walls() else {cluster.WITHOUT_WALLS: "1"}
    environment = {**os.environ, **variables, **walls, "OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = os.pathsep.join(
        [str(grading.Path(grading.__file__).parents[1]), environment.get("PYTHONPATH", "")]
    )
    note, protocol = tmp_path / "scheduler.json", "tls" if settings else "tcp"
    dask = [sys.executable, "-m", "dask"]
    words = ["scheduler", "--host", "127.0.0.1", "--port", "0", "--protocol", protocol, "--no-dashboard"]
    quiet = {"env": environment, "cwd": tmp_path, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    processes = [subprocess.Popen([*dask, *words, "--scheduler-file", str(note)], **quiet)]
    try:
        address = _when(lambda: json.loads(note.read_text())["address"], "the scheduler")
        words = [
            "worker",
            address,
            "--host",
            "127.0.0.1",
            "--nworkers",
            "1",
            "--nthreads",
            "1",
            "--no-nanny",
            "--no-dashboard",
        ]
        processes += [subprocess.Popen([*dask, *words], **quiet) for _ in range(2)]
        import dask as dask_package
        from distributed import Client

        with dask_package.config.set(settings):
            with Client(address, timeout=START_S, set_as_default=False) as client:
                client.wait_for_workers(2, timeout=START_S)
            yield address, processes[1:]
    finally:
        for process in processes:
            process.kill()
            process.wait()


def _has_walls():
    try:
        sandbox.find_walls()
    except sandbox.NoWalls:
        return False
    return True


def _when(read, what):
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError, ValueError, KeyError):
            return read()
        time.sleep(0.05)
    raise AssertionError(f"{what} did not come up")


def _class(root, hand_in, count):
    right = course.load(SLUG, root).solutions
    for n in range(count):
        cells = dict(right)
        if n % 3:
            cells["root_mean_square"] = f"def root_mean_square(x):\n    return mean_square(x) * {n}"
        cells["mean_square"] += f"\n# answer {n}\n"
        hand_in(root, f"s{n:02d}", cells)


def test_a_cluster_gives_what_one_machine_gives_though_a_worker_is_killed(
    dask_cluster, released_course, hand_in, tmp_path, monkeypatch
):
    address, workers = dask_cluster
    monkeypatch.setattr(cluster, "CHUNK", 2)
    here, there = tmp_path / "here", tmp_path / "there"
    shutil.copytree(released_course, here)
    _class(here, hand_in, 12)
    grading.run_secret(here)
    shutil.copytree(here, there)

    def kill_one(done, total, result):
        if done == 2:
            workers[0].send_signal(signal.SIGKILL)

    walls = not _has_walls()
    on_cluster = grading.grade_assignment(there, SLUG, scheduler=address, unsafe_local=walls, tell=kill_one)
    alone = grading.grade_assignment(here, SLUG, unsafe_local=walls)
    assert workers[0].wait(20) == -signal.SIGKILL
    assert sorted(on_cluster.graded) == sorted(alone.graded)
    assert on_cluster.flagged == []
    for student in alone.graded:
        assert grading.read_result(there, SLUG, student) == grading.read_result(here, SLUG, student)
    assert [(r.student, r.score) for r in bridge.rows(there, SLUG)] == [
        (r.student, r.score) for r in bridge.rows(here, SLUG)
    ]


def test_student_code_never_runs_in_the_dask_process(dask_cluster, released_course, hand_in, tmp_path):
    if not _has_walls():
        pytest.skip("without walls a submission sees this machine's processes")
    address, workers = dask_cluster
    root = tmp_path / "course"
    shutil.copytree(released_course, root)
    ours = [os.getpid(), *(w.pid for w in workers)]
    cell = f"import os\nassert os.getpid() not in {ours}\nfor pid in {ours}:\n    try:\n        os.kill(pid, 9)\n    except OSError:\n        pass\nos._exit(0)"
    hand_in(root, "ada", {**course.load(SLUG, root).solutions, "mean_square": cell})
    grading.grade_assignment(root, SLUG, scheduler=address)
    assert [e["outcome"] for e in grading.read_result(root, SLUG, "ada")["exercises"]] == ["crashed", "passed"]
    assert [w.poll() for w in workers] == [None, None]
    assert grading.read_result(root, SLUG, "ada")["walls"] == "bubblewrap"


def test_a_machine_with_other_code_is_refused(small, monkeypatch):
    told = {**cluster.shipped(small), "environment": "another grader"}
    with pytest.raises(RuntimeError, match="another version of the grader"):
        cluster.run_chunk(json.dumps(told), [])


def test_no_scheduler_is_one_clear_sentence(small):
    monkeypatched = "tcp://127.0.0.1:9"
    with pytest.raises(RuntimeError, match="no Dask scheduler answers"):
        list(cluster.on_cluster(monkeypatched, small, [], {}))


class _Client:
    """A cluster whose every task fails as told."""

    def __init__(self, answers):
        self.answers, self.asked = answers, []

    def submit(self, function, setup, requests, key, **options):
        from concurrent.futures import Future

        self.asked.append([json.loads(r)["student"] for r in requests])
        future = Future()
        future.status = self.answers(json.loads(r)["student"] for r in requests)
        future.set_result(json.dumps([{"entries": [], "versions": {}} for _ in requests]))
        return future


def test_what_takes_machines_down_is_given_up_alone(monkeypatch):
    def tasks_in_order(futures):
        class Queue(list):
            add = list.append

            def __iter__(self):
                while self:
                    yield self.pop(0)

        return Queue(futures)

    monkeypatch.setattr("distributed.as_completed", tasks_in_order)
    client = _Client(lambda students: "error" if "bad" in list(students) else "finished")
    tasks = [Task(student=s, cells={}, seeds={}, keys={}) for s in ("a", "bad", "c")]
    got = {task.student: entries for task, entries, _ in cluster._chunks(client, "{}", tasks)}
    assert got == {"a": [], "bad": None, "c": []}
    assert client.asked[0] == ["a", "bad", "c"]
    assert client.asked.count(["bad"]) == cluster.TRIES - 1


def test_canaries_that_fail_on_the_cluster_stop_the_run(small, monkeypatch):
    class Failing:
        def submit(self, *arguments, **options):
            raise_later = type(
                "Future", (), {"result": lambda self: json.dumps([{"canary": "the worked solution ..."}])}
            )
            return raise_later()

    with pytest.raises(CanaryFailed, match="worked solution"):
        cluster._canaries(Failing(), "{}", small, {})
