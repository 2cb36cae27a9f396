"""The outer wall: a warm worker process inside bubblewrap, which sees a read-only system and nothing of the course.

`find_walls` says what this machine offers, or refuses with what to do. `start` starts a worker behind them. Inside, the worker has
its own user, process, network, mount, IPC, UTS and cgroup namespaces, an empty environment, no home, no terminal, no /tmp; it sees
/usr, the Python environment and the few files of this package that it runs. The submission's own process stands behind a second wall, `grader.inner`.

`Walls.none()` starts the same worker as a plain subprocess: for one's own machine, never for other people's code.
"""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import signal
import site
import socket
import subprocess
import sys
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO

RUNNER_FILES = ("__init__.py", "exercise.py", "wire.py", "calling.py", "policy.py", "inner.py", "runner.py")
HIDDEN_PACKAGES = ("llmcore", "grader", "course")
"""Packages that hold answers: covered by an empty folder where the environment has them installed."""
INSIDE = "/runner"
_PACKAGE_FOLDERS = ("site-packages", "dist-packages")
_ETC = ("/etc/ld.so.cache", "/etc/alternatives", "/etc/localtime")
_DEVICES = ("/dev/null", "/dev/zero", "/dev/random", "/dev/urandom")


class NoWalls(RuntimeError):
    """Official grading refuses on this machine; the text says why and what to do."""


@dataclass(frozen=True)
class Walls:
    """What stands around a worker. `kind` is recorded with every result."""

    kind: str
    """ "bubblewrap" or "none"."""
    detail: str = ""
    bwrap: str = ""
    as_root: bool = False
    """Root starts bubblewrap with its own rights, and the worker becomes nobody at once."""

    @staticmethod
    def none() -> Walls:
        """No walls: `--unsafe-local`."""
        return Walls("none", "a plain subprocess with resource limits; recorded as unsafe")


@functools.cache
def find_walls() -> Walls:
    """The walls of this machine, tried out.

    Raises: NoWalls with what to install or switch on.
    """
    if not sys.platform.startswith("linux"):
        raise NoWalls(
            f"official grading needs Linux (a virtual machine, WSL 2 or CI); this is {sys.platform}. "
            "For your own work on this machine use --unsafe-local."
        )
    bwrap = shutil.which("bwrap")
    if bwrap is None:
        raise NoWalls(
            "bubblewrap is not installed; official grading runs submissions inside it. Install it: `apt install bubblewrap` "
            "(Debian, Ubuntu), `dnf install bubblewrap` (Fedora), `pacman -S bubblewrap` (Arch)."
        )
    version = subprocess.run([bwrap, "--version"], capture_output=True, text=True).stdout.strip()
    complaints = []
    for as_root in (True, False) if os.geteuid() == 0 else (False,):
        walls = Walls("bubblewrap", version, bwrap, as_root)
        inside = _inside()
        trial = f"import sys; sys.path.insert(0, {INSIDE!r}); from grader import inner; inner.try_out()"
        command = [*_outer(walls), *inside, "--", sys.executable, "-I", "-S", "-B", "-c", trial]
        tried = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=30)
        if tried.returncode == 0:
            return walls
        complaints.append(tried.stderr.strip()[-300:])
    raise NoWalls(_refusal(complaints[-1]))


def _refusal(complaint: str) -> str:
    def setting(path: str) -> str:
        try:
            return Path("/proc/sys", path).read_text().strip()
        except OSError:
            return ""

    if setting("kernel/apparmor_restrict_unprivileged_userns") == "1":
        do = (
            "Ubuntu's AppArmor forbids user namespaces to ordinary programs: `sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0`, "
            "or run the grader as root (it gives up its rights before it runs a submission)."
        )
    elif setting("kernel/unprivileged_userns_clone") == "0":
        do = "Switch user namespaces on: `sudo sysctl -w kernel.unprivileged_userns_clone=1`."
    elif setting("user/max_user_namespaces") == "0":
        do = "Switch user namespaces on: `sudo sysctl -w user.max_user_namespaces=15000`."
    elif Path("/.dockerenv").exists() or os.environ.get("KUBERNETES_SERVICE_HOST"):
        do = (
            "This is a container that may not make namespaces: start it with `--security-opt seccomp=unconfined --security-opt "
            "apparmor=unconfined --security-opt systempaths=unconfined`, or grade on the host."
        )
    else:
        do = "Grade on a machine, virtual machine or CI runner that allows user namespaces."
    return f"bubblewrap cannot make its namespaces here ({complaint or 'no message'}). {do} Nothing was graded."


def _outer(walls: Walls) -> list[str]:
    """bubblewrap's arguments that do not depend on the environment: namespaces, system, devices."""
    spaces = ["--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try"]
    rights = ["--cap-drop", "ALL"]
    if walls.as_root:
        rights += ["--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"]
    else:
        spaces += ["--unshare-user", "--uid", "65534", "--gid", "65534"]
    arguments = [
        *(walls.bwrap, *spaces, *rights),
        *("--die-with-parent", "--new-session", "--clearenv", "--hostname", "sandbox"),
    ]
    arguments += ["--ro-bind", "/usr", "/usr"]
    project = Path(__file__).resolve().parent.parent
    if project.is_relative_to("/usr") and project.name not in _PACKAGE_FOLDERS:
        arguments += ["--tmpfs", str(project), "--remount-ro", str(project)]
    for folder in ("/bin", "/sbin", "/lib", "/lib32", "/lib64"):
        path = Path(folder)
        if path.is_symlink():
            arguments += ["--symlink", os.readlink(path), folder]
        elif path.is_dir():
            arguments += ["--ro-bind", folder, folder]
    for folder in ("/dev", "/etc", "/box", INSIDE, f"{INSIDE}/grader"):
        arguments += ["--perms", "0755", "--dir", folder]
    for name in (*_ETC, "/nix/store"):
        arguments += ["--ro-bind-try", name, name]
    for name in _DEVICES:
        arguments += ["--dev-bind-try", name, name]
    return [*arguments, "--proc", "/proc", "--chdir", "/"]


def _environment_folders() -> tuple[list[Path], list[Path]]:
    """(folders of this Python to be mounted, its package folders), parents first, none inside another or inside /usr."""
    packages = {Path(p) for p in (*site.getsitepackages(), site.getusersitepackages()) if Path(p).is_dir()}
    packages = {p for p in packages if str(p) in sys.path}
    wanted = {Path(sys.prefix), Path(sys.base_prefix), Path(sys.exec_prefix), *packages}
    wanted |= {p.resolve() for p in wanted} | {Path(os.path.realpath(sys.executable)).parent.parent}
    folders: list[Path] = []
    for folder in sorted(wanted, key=lambda p: len(p.parts)):
        if not any(folder.is_relative_to(f) for f in (*folders, Path("/usr"))):
            folders.append(folder)
    return folders, sorted(packages)


def _inside() -> list[str]:
    """bubblewrap's arguments for the Python environment and our files."""
    folders, packages = _environment_folders()
    arguments: list[str] = []
    here = Path(__file__).resolve().parent
    for folder in folders:
        if folder in (Path("/"), Path.home()):
            raise NoWalls(
                f"Python's own folder is {folder}, too much to show to a submission; make a virtual environment"
            )
        if here.is_relative_to(folder) and here.parent.name not in _PACKAGE_FOLDERS:
            raise NoWalls(
                f"Python's own folder {folder} holds the course; make a virtual environment beside it, or inside it"
            )
        for parent in [*reversed(folder.parents)][
            1:
        ]:  # made readable: the worker is no longer root when it looks there
            arguments += ["--perms", "0755", "--dir", str(parent)]
        arguments += ["--ro-bind", str(folder), str(folder)]
    for folder in packages:
        for name in HIDDEN_PACKAGES:
            if (folder / name).is_dir():
                arguments += ["--tmpfs", str(folder / name), "--remount-ro", str(folder / name)]
    for name in RUNNER_FILES:
        arguments += ["--ro-bind", str(here / name), f"{INSIDE}/grader/{name}"]
    return [*arguments, "--remount-ro", "/"]


def _variables(packages: list[Path], home: str) -> dict[str, str]:
    """The worker's whole environment. Hashes are fixed, so that the same submission gives the same answers."""
    outside = [str(p) for p in packages if not p.is_relative_to(sys.prefix)]
    variables = {
        "PATH": "/usr/bin:/bin",
        "HOME": home,
        "TMPDIR": home,
        "USER": "student",
        "LANG": "C.UTF-8",
        "PYTHONHASHSEED": "0",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONPATH": os.pathsep.join(outside),
        "MALLOC_ARENA_MAX": "2",
        "MPLBACKEND": "Agg",
        "TOKENIZERS_PARALLELISM": "false",
    }
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS"), "1")
    return {k: v for k, v in {**variables, **threads}.items() if v}


@dataclass
class Process:
    """A worker process that was started: its control socket, and where its complaints go."""

    process: subprocess.Popen
    control: socket.socket
    complaints: IO[bytes]
    walls: bool

    def last_words(self) -> str:
        """The end of what it wrote to stderr."""
        self.complaints.seek(0)
        return self.complaints.read()[-1500:].decode(errors="replace").strip()

    def close(self) -> None:
        """Ends the worker and everything inside it."""
        self.control.close()
        if not self.walls:  # nothing takes its children along, so it is given time to end them itself
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(2)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.complaints.close()


# bubblewrap dies with the *thread* that started it, so workers are started by one that lasts as long as this process.
_starter: tuple[int, ThreadPoolExecutor] | None = None
_starter_lock = threading.Lock()


def _lasting_thread() -> ThreadPoolExecutor:
    global _starter
    with _starter_lock:
        if _starter is None or _starter[0] != os.getpid():
            _starter = (os.getpid(), ThreadPoolExecutor(1, thread_name_prefix="grader-starter"))
        return _starter[1]


def start(walls: Walls, modules: tuple[str, ...] = ()) -> Process:
    """Starts a warm worker that imports torch and `modules`. It reports over `control` when it is ready."""
    ours, theirs = socket.socketpair()
    complaints = tempfile.TemporaryFile()  # noqa: SIM115 - Process.close closes it
    _, packages = _environment_folders()
    if walls.kind == "none":
        where, before = str(Path(__file__).resolve().parent.parent), []
        variables = _variables(packages, tempfile.gettempdir())
    else:
        arguments, where = _inside(), INSIDE
        variables = _variables(packages, "/box")
        settings = [word for name, value in variables.items() for word in ("--setenv", name, value)]
        before = [*_outer(walls), *arguments, *settings, "--"]
    kind = "walls" if walls.kind != "none" else "open"
    # Some packages ask for a temporary folder while they are imported; the worker itself can write nowhere, its forks to their box.
    box = "import tempfile; tempfile.tempdir = '/box'; "
    settle = "" if walls.kind == "none" else f"from grader import inner; inner.settle(); {box}"
    begin = f"import sys; sys.path.insert(0, {where!r}); {settle}from grader.runner import main; main(sys.argv[1:])"
    command = [*before, sys.executable, "-P", "-c", begin, str(theirs.fileno()), kind, *modules]
    try:
        process = (
            _lasting_thread()
            .submit(
                subprocess.Popen,
                command,
                stdin=subprocess.DEVNULL,
                stdout=complaints,
                stderr=complaints,
                pass_fds=(theirs.fileno(),),
                env=variables if walls.kind == "none" else {},
                cwd="/",
                start_new_session=True,
            )
            .result()
        )
    finally:
        theirs.close()
    return Process(process, ours, complaints, kind == "walls")
