import errno
import os
import subprocess
import sys
import tempfile
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from grader import inner, sandbox
from grader.inner import Limits
from grader.sandbox import NoWalls, Walls, find_walls
from grader.worker import WarmWorker

REPOSITORY = Path(__file__).resolve().parents[2]
CASES = REPOSITORY / "tests" / "redteam" / "cases"


@pytest.fixture(scope="module")
def walls():
    try:
        return find_walls()
    except NoWalls as missing:
        pytest.skip(str(missing))


@pytest.fixture
def anew():
    find_walls.cache_clear()
    yield
    find_walls.cache_clear()


def test_the_walls_of_this_machine_are_named(walls):
    assert walls.kind == "bubblewrap"
    assert walls.detail.startswith("bubblewrap ")
    assert Walls.none().kind == "none"


def test_another_system_is_refused_with_a_way_out(anew, monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(NoWalls, match=r"needs Linux .* --unsafe-local"):
        find_walls()


def test_missing_bubblewrap_is_refused_with_the_command_that_installs_it(anew, monkeypatch):
    monkeypatch.setattr(sandbox.shutil, "which", lambda name: None)
    with pytest.raises(NoWalls, match="apt install bubblewrap"):
        find_walls()


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"kernel/apparmor_restrict_unprivileged_userns": "1"}, "apparmor_restrict_unprivileged_userns=0"),
        ({"kernel/unprivileged_userns_clone": "0"}, "unprivileged_userns_clone=1"),
        ({"user/max_user_namespaces": "0"}, "max_user_namespaces=15000"),
        ({}, "Nothing was graded"),
    ],
)
def test_namespaces_switched_off_are_refused_with_the_switch(anew, monkeypatch, settings, says):
    real = Path.read_text

    def read_text(path, *args, **kwargs):
        name = str(path).removeprefix("/proc/sys/")
        return settings.get(name, "") if name != str(path) else real(path, *args, **kwargs)

    def run(command, **kwargs):
        failed = "--version" not in command
        return subprocess.CompletedProcess(command, int(failed), "bubblewrap 0.8.0", "No permissions" if failed else "")

    monkeypatch.setattr(sandbox.shutil, "which", lambda name: "/usr/bin/bwrap")
    monkeypatch.setattr(sandbox.subprocess, "run", run)
    monkeypatch.setattr(Path, "read_text", read_text)
    monkeypatch.setattr(sys, "platform", "linux")
    with pytest.raises(NoWalls) as caught:
        find_walls()
    assert says in str(caught.value)
    assert "No permissions" in str(caught.value)


def test_only_the_runners_files_are_shown_of_this_repository(walls):
    arguments = sandbox._inside()
    shown = [Path(a) for a in arguments if a.startswith(str(REPOSITORY))]
    environment = [Path(sys.prefix), Path(sys.base_prefix)]
    # The repository's own folder is made empty where the environment lies inside it.
    ours = [p for p in shown if p != REPOSITORY and not any(p.is_relative_to(e) for e in environment)]
    assert str(REPOSITORY) not in [a for flag, a in pairwise(arguments) if flag.endswith("bind")]
    assert sorted(p.relative_to(REPOSITORY).as_posix() for p in ours) == sorted(
        f"grader/{n}" for n in sandbox.RUNNER_FILES
    )


def test_an_environment_that_holds_the_course_is_refused(walls, monkeypatch):
    monkeypatch.setattr(sandbox, "_environment_folders", lambda: ([REPOSITORY], []))
    with pytest.raises(NoWalls, match="holds the course"):
        sandbox._inside()
    monkeypatch.setattr(sandbox, "_environment_folders", lambda: ([Path.home()], []))
    with pytest.raises(NoWalls, match="too much to show"):
        sandbox._inside()


def test_packages_that_hold_answers_are_covered(walls, monkeypatch, tmp_path):
    (tmp_path / "llmcore").mkdir()
    monkeypatch.setattr(sandbox, "_environment_folders", lambda: ([tmp_path], [tmp_path]))
    arguments = sandbox._inside()
    covered = arguments.index("--tmpfs")
    assert arguments[covered + 1] == str(tmp_path / "llmcore")
    assert covered > arguments.index(str(tmp_path))


def test_what_a_session_sees(walls):
    look = (
        "import os\ndef look():\n"
        "    return sorted(os.listdir('/')), os.listdir('/proc'), os.listdir('/box'), sorted(os.listdir('/dev')), os.getcwd(), os.getuid(), os.getpid(), sorted(os.environ)\n"
    )
    with WarmWorker(walls) as worker, worker.session([], {"look": look}) as student:
        root, proc, box, dev, folder, uid, pid, environment = student.call("look", (), {}).value
    allowed = {"bin", "box", "dev", "etc", "lib", "lib32", "lib64", "libx32", "nix", "proc", "runner", "sbin", "usr"}
    prefixes = {Path(p).parts[1] for p in (sys.prefix, sys.base_prefix)}
    assert set(root) <= allowed | prefixes
    assert proc == box == []
    assert set(dev) == {"null", "zero", "random", "urandom"}
    assert (folder, uid, pid) == ("/box", 1000, 1)
    assert "SSH_AUTH_SOCK" not in environment
    assert len(environment) < 20


def test_without_walls_the_same_attacks_succeed():
    # Else the red team would prove nothing: its cases must see the difference that a wall makes.
    given = "def right(x, dim):\n    return 'escaped'\n"
    with WarmWorker(Walls.none()) as worker:
        for case in ("network", "proc", "socketpair_to_listen"):
            source = (CASES / f"{case}.py").read_text()
            with worker.session([given], {"softmax": source}) as student:
                answer = student.call("softmax", (torch.zeros(2),), {})
            assert answer.value == "escaped", case


class _Bpf:
    """Runs a filter on one system call, as the kernel would."""

    def __init__(self, machine: str) -> None:
        import struct

        self.code = list(struct.iter_unpack("=HBBI", inner.filter_program(machine)))
        self.arch = inner._ARCHITECTURES[machine][1]

    def __call__(self, number: int, *arguments: int, arch: int | None = None) -> int:
        words = {0: number, 4: self.arch if arch is None else arch}
        for n, argument in enumerate((*arguments, 0, 0)[:2]):
            words[16 + 8 * n] = argument & 0xFFFFFFFF
        at, accumulator = 0, 0
        while True:
            code, if_true, if_false, k = self.code[at]
            at += 1
            if code == inner._RETURN:
                return k
            if code == inner._LOAD:
                accumulator = words[k]
                continue
            test = {
                inner._EQUAL: accumulator == k,
                inner._AT_LEAST: accumulator >= k,
                inner._ANY_BIT: bool(accumulator & k),
            }[code]
            at += if_true if test else if_false


REFUSED = inner._ERRNO | errno.EPERM
ABSENT = inner._ERRNO | errno.ENOSYS


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_the_filter_decides_as_written(machine):
    decide = _Bpf(machine)
    column = inner._ARCHITECTURES[machine][0]
    for name, numbers in inner._REFUSED.items():
        if numbers[column] is not None:
            assert decide(numbers[column]) == REFUSED, name
    clone, ioctl = inner._CLONE[column], inner._IOCTL[column]
    assert decide(clone, 17) == REFUSED
    assert decide(clone, 0x10000000) == REFUSED
    assert decide(clone, 0x3D0F00) == inner._ALLOW  # the flags of a POSIX thread
    assert decide(ioctl, 0, inner._TIOCSTI) == REFUSED
    assert decide(ioctl, 0, 0x5401) == inner._ALLOW
    assert decide(435) == ABSENT
    assert decide(425) == ABSENT
    assert decide(460) == ABSENT
    assert decide(436) == inner._ALLOW
    assert decide(0 if column == 0 else 63, arch=0x40000003) == inner._KILL
    ordinary = {0: (0, 1, 9, 11, 13, 35, 53, 202, 231, 257), 1: (63, 64, 98, 101, 115, 199, 214, 215, 222, 94)}[column]
    assert all(decide(number) == inner._ALLOW for number in ordinary)
    if column == 0:
        assert decide(0x40000000 + 39) == inner._KILL


def test_the_filter_refuses_a_machine_that_it_does_not_know():
    with pytest.raises(inner.WallError, match="riscv64"):
        inner.filter_program("riscv64")


@pytest.mark.skipif(not os.path.exists("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"), reason="no kernel headers")
def test_the_numbers_of_system_calls_are_those_of_the_kernel_headers():
    import re

    pattern = re.compile(r"#define __NR(?:3264)?_(\w+)\s+(\d+)$", re.MULTILINE)
    tables = [
        dict(pattern.findall(Path(path).read_text()))
        for path in ("/usr/include/x86_64-linux-gnu/asm/unistd_64.h", "/usr/include/asm-generic/unistd.h")
    ]
    for name, numbers in {**inner._REFUSED, "clone": inner._CLONE, "ioctl": inner._IOCTL}.items():
        for number, table in zip(numbers, tables):
            assert table.get(name) == (None if number is None else str(number)), name


def test_limits_are_counted_in_whole_processor_seconds():
    assert Limits(seconds=0.3).cpu_seconds == 2
    assert Limits(seconds=10).cpu_seconds == 12


def _as_nobody(command: list[str]) -> list[str]:
    """`command` run by user nobody, who is shown this Python and this repository wherever they lie."""
    needed = [Path(sys.prefix), Path(sys.base_prefix).resolve(), REPOSITORY]
    closed = set()
    for path in needed:
        for parent in reversed([path, *path.parents]):
            if not parent.stat().st_mode & 0o001:
                closed.add(parent)
                break
    arguments = ["bwrap", "--dev-bind", "/", "/", "--cap-add", "ALL"]
    for folder in closed:
        arguments += ["--tmpfs", str(folder), "--chmod", "0755", str(folder)]
    for path in needed:
        if any(path.is_relative_to(folder) for folder in closed):
            for parent in [*reversed(path.parents)][1:]:
                if any(parent.is_relative_to(folder) for folder in closed):
                    arguments += ["--perms", "0755", "--dir", str(parent)]
            arguments += ["--ro-bind", str(path), str(path)]
    become = "import os, sys; os.setgroups([]); os.setresgid(*[65534] * 3); os.setresuid(*[65534] * 3); os.execv(sys.argv[1], sys.argv[1:])"
    return [*arguments, "--", sys.executable, "-c", become, *command]


@pytest.mark.slow
@pytest.mark.skipif(
    os.geteuid() != 0, reason="only root can become somebody else; without root the whole suite runs unprivileged"
)
def test_the_red_team_fails_against_an_unprivileged_grader_too(walls):
    with tempfile.TemporaryDirectory() as folder:  # pytest's own belongs to root alone
        os.chown(folder, 65534, 65534)
        environment = {"PATH": os.environ["PATH"], "HOME": folder, "OMP_NUM_THREADS": "1"}
        who = _as_nobody([sys.executable, "-c", "import os; print(os.getuid(), os.geteuid())"])
        assert subprocess.run(who, capture_output=True, text=True, env=environment).stdout.split() == ["65534"] * 2
        quiet = ["-q", "-x", "-p", "no:cacheprovider", f"--basetemp={folder}/pytest"]
        done = subprocess.run(
            _as_nobody([sys.executable, "-B", "-m", "pytest", "tests/redteam", *quiet]),
            cwd=REPOSITORY,
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
        )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    assert " passed" in done.stdout
    assert "skipped" not in done.stdout or "only on" in done.stdout
