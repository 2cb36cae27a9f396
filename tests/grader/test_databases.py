"""Several graders and a person at one gradebook at once, on PostgreSQL and on SQLite: nobody is locked out and nothing is lost."""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from grader import bridge, course, grading, sandbox
from grader.bridge import CellScore, SubmissionScore

SLUG = "01_sums"
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("class")]
USER = "postgres"


def _programs() -> Path | None:
    """The folder of PostgreSQL's programs, newest version first, as Debian lays them out; else where `initdb` is found."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda p: int(p.parts[-3].split(".")[0]))
    if found:
        return found[-1].parent
    elsewhere = shutil.which("initdb")
    return Path(elsewhere).parent if elsewhere else None


@pytest.fixture(scope="module")
def postgresql():
    """The address of a PostgreSQL server of our own, reached over a socket in its folder alone; it refuses to run as root."""
    pytest.importorskip("psycopg", reason="PostgreSQL is reached with psycopg (the extra `cluster`)")
    programs = _programs()
    if programs is None:
        pytest.skip("PostgreSQL is not installed (apt install postgresql)")
    folder = Path(tempfile.mkdtemp(prefix="pg"))
    as_user: list[str] = []
    if os.geteuid() == 0:
        import pwd

        try:
            account = pwd.getpwnam(USER)
        except KeyError:
            pytest.skip(f"PostgreSQL refuses to run as root, and there is no user {USER}")
        if shutil.which("setpriv") is None:
            pytest.skip("PostgreSQL refuses to run as root, and setpriv is not installed")
        os.chown(folder, account.pw_uid, account.pw_gid)
        as_user = ["setpriv", f"--reuid={USER}", f"--regid={account.pw_gid}", "--clear-groups"]
    data = folder / "data"
    begin = [
        *as_user,
        str(programs / "initdb"),
        "-D",
        str(data),
        "-U",
        "grader",
        "-A",
        "trust",
        "--no-sync",
        "-E",
        "UTF8",
    ]
    made = subprocess.run(begin, capture_output=True, text=True, cwd="/")
    assert made.returncode == 0, made.stderr
    settings = {"listen_addresses": "", "unix_socket_directories": folder, "fsync": "off", "shared_buffers": "16MB"}
    options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
    server = subprocess.Popen(
        [*as_user, str(programs / "postgres"), "-D", str(data), *options],
        cwd="/",
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        _await(folder, server)
        yield f"postgresql+psycopg://grader@/postgres?host={folder}"
    finally:
        server.terminate()
        server.wait()
        shutil.rmtree(folder, ignore_errors=True)


def _await(folder, server):
    import psycopg

    deadline = time.monotonic() + 60
    while True:
        try:
            psycopg.connect(f"host={folder} user=grader dbname=postgres").close()
            return
        except psycopg.OperationalError:
            assert server.poll() is None, "the server ended"
            assert time.monotonic() < deadline, "the server did not come up"
            time.sleep(0.05)


@pytest.fixture(params=["postgresql", "sqlite"])
def root(request, released_course, tmp_path, monkeypatch):
    """A released course whose gradebook is empty, on either database."""
    target = tmp_path / "course"
    shutil.copytree(released_course, target)
    if request.param == "postgresql":
        address = request.getfixturevalue("postgresql")
        _empty(address)
        monkeypatch.setenv(bridge.DB_VARIABLE, address)
        (target / "gradebook.db").unlink()
        bridge.generate_release(target, SLUG)
    else:
        monkeypatch.setenv(bridge.DB_VARIABLE, f"sqlite:///{target / 'gradebook.db'}")
    return target


def _empty(address):
    import psycopg

    folder = address.partition("host=")[2]
    with psycopg.connect(f"host={folder} user=grader dbname=postgres") as connection:
        connection.execute("DROP SCHEMA public CASCADE")
        connection.execute("CREATE SCHEMA public")


def scores(students, points):
    cells = (CellScore("judge_mean_square", points), CellScore("judge_root_mean_square", 2.0))
    return [SubmissionScore(s, "2026-03-01 12:00:00.0 UTC", (*cells, CellScore("why_squares", None))) for s in students]


def test_writers_that_meet_at_the_same_new_students_lose_nothing(root):
    names = [f"s{n}" for n in range(12)]
    parts = [names[:8], names[4:], names, names[2:10]]
    with ThreadPoolExecutor(len(parts)) as pool:
        list(pool.map(lambda part: bridge.record(root, SLUG, scores(part, 4.0)), parts))
    assert {r.student: r.score for r in bridge.rows(root, SLUG)} == dict.fromkeys(names, 6.0)
    with bridge.gradebook(root) as book:
        assert len(book.find_assignment(SLUG).submissions) == len(names)


@pytest.fixture
def hand_in_class(hand_in):
    def made(root, names):
        right = course.load(SLUG, root).solutions
        for n, name in enumerate(names):
            mean = right["mean_square"] if n % 2 else right["mean_square"].replace(".mean(-1)", ".sum(-1)")
            hand_in(root, name, {**right, "mean_square": mean, "why_squares": f"Because, says {name}."})
        return {name: 6.0 if n % 2 else 2.0 for n, name in enumerate(names)}

    return made


def test_two_graders_and_a_person_at_one_gradebook_at_once(root, hand_in_class, tmp_path):
    try:
        sandbox.find_walls()
        unsafe = False
    except sandbox.NoWalls:
        unsafe = True
    first = hand_in_class(root, ["m0", "m1", "m2"])
    grading.grade_assignment(root, SLUG, unsafe_local=unsafe)
    others, wanted = [tmp_path / "one", tmp_path / "two"], dict(first)
    for n, other in enumerate(others):  # another machine's copy of the course, the same gradebook
        shutil.copytree(root, other, ignore=shutil.ignore_patterns("submitted", "exchange", "results", "gradebook.db"))
        wanted |= hand_in_class(other, [f"g{n}{k}" for k in range(4)] + ["both"])
    code = "import sys; from pathlib import Path; from grader.grading import grade_assignment as g; "
    code += f"g(Path(sys.argv[1]), {SLUG!r}, unsafe_local={unsafe})"
    graders = [subprocess.Popen([sys.executable, "-c", code, str(other)], stderr=subprocess.PIPE) for other in others]
    marks = 0
    while any(grader.poll() is None for grader in graders):  # a person at formgrader meanwhile
        for student in first:
            marks += 1
            bridge.set_manual_score(root, SLUG, student, "why_squares", float(marks % 4))
            assert {r.student for r in bridge.rows(root, SLUG)} >= set(first)
    assert [g.wait() for g in graders] == [0, 0], [g.stderr.read()[-800:] for g in graders]
    given = {student: float((marks - 2 + n) % 4) for n, student in enumerate(first)}
    got = {r.student: r.score for r in bridge.rows(root, SLUG)}
    assert got == {s: points + given.get(s, 0.0) for s, points in wanted.items()}


def test_a_gradebook_that_cannot_be_reached_keeps_the_results(root, hand_in_class, monkeypatch):
    hand_in_class(root, ["ada"])
    try:
        sandbox.find_walls()
    except sandbox.NoWalls as missing:
        pytest.skip(str(missing))
    from sqlalchemy.exc import OperationalError

    def refuse(*arguments):
        raise OperationalError("INSERT", {}, Exception("database is locked"))

    with monkeypatch.context() as broken:
        broken.setattr(bridge, "_record", refuse)
        broken.setattr(bridge.time, "sleep", lambda seconds: None)
        with pytest.raises(RuntimeError, match=r"database is locked.*results are kept"):
            grading.grade_assignment(root, SLUG)
    assert grading.read_result(root, SLUG, "ada") is not None
    report = grading.grade_assignment(root, SLUG)
    assert report.unchanged == ["ada"]
    assert [(r.student, r.score) for r in bridge.rows(root, SLUG)] == [("ada", 2.0)]
