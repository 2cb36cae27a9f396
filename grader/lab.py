"""Opens JupyterLab for a learner (on `my_course/`) or an instructor (on `course/`): `python -m grader.lab --help`.

Settings are written into a folder of their own and named to Jupyter by its environment, so nothing of the user's is changed: no
news, no update notices, and for learners none of nbgrader's instructor panels.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import webbrowser
from pathlib import Path
from urllib.parse import quote

from grader.course import ROOT_VARIABLE, find_root
from grader.workspace import prepare, summary

START_PAGE = "lessons/00_start_here.ipynb"
_READY_TIMEOUT_S = 120.0
_INSTRUCTOR_PANELS = ("assignment-list", "course-list", "create-assignment", "formgrader", "menu")
_INSTRUCTOR_SERVERS = ("formgrader", "assignment_list", "course_list")


def settings(folder: Path, *, instructor: bool) -> Path:
    """Write Jupyter's settings under `folder` and return it, to be named in JUPYTER_CONFIG_PATH."""
    disabled = {"@jupyterlab/apputils-extension:announcements": True}
    servers = {"nbgrader.server_extensions.validate_assignment": True}
    if not instructor:
        disabled |= {f"@jupyter/nbgrader:{panel}": True for panel in _INSTRUCTOR_PANELS}
    servers |= {f"nbgrader.server_extensions.{name}": instructor for name in _INSTRUCTOR_SERVERS}
    notices = {"checkForUpdates": False, "doNotDisturbMode": True, "fetchNews": "false"}
    overrides = {
        "@jupyterlab/apputils-extension:notification": notices,
        # Cells out of sight stay on the page: scrolling does not jump, and a figure keeps the state of its sliders.
        "@jupyterlab/notebook-extension:tracker": {"windowingMode": "none"},
    }
    files = {
        "labconfig/page_config.json": {"disabledExtensions": disabled},
        "labconfig/default_setting_overrides.json": overrides,
        "jupyter_server_config.json": {"ServerApp": {"jpserver_extensions": servers}},
    }
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content, indent=1), encoding="utf-8")
    return folder


def command(root: Path, *, ip: str, port: int, page: str) -> list[str]:
    """The command line that serves `root`. The token travels in the environment, where other users cannot read it."""
    options = {
        "ServerApp.root_dir": str(root),
        "ServerApp.ip": ip,
        "ServerApp.port": str(port),
        "ServerApp.port_retries": "0",
        "ServerApp.open_browser": "False",
        "ServerApp.answer_yes": "True",
        "ServerApp.log_level": "ERROR",
        "LabApp.log_level": "ERROR",
        "LabApp.extension_manager": "readonly",
        "LabApp.default_url": page,
    }
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        options["ServerApp.allow_root"] = "True"
    return [sys.executable, "-m", "jupyterlab", *(f"--{name}={value}" for name, value in options.items())]


def free_port(ip: str, wanted: int) -> int:
    """`wanted`, or the next free port after it; any free one for 0.

    Raises: OSError when twenty in a row are taken.
    """
    for port in range(wanted, wanted + 20) if wanted else (0,):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((ip, port))
            return probe.getsockname()[1]
    raise OSError(f"ports {wanted} to {wanted + 19} are all taken; name another with --port")


def address(ip: str, port: int) -> str:
    """Where a browser on this machine finds a server that listens on `ip`."""
    return f"http://{'127.0.0.1' if ip in ('0.0.0.0', '', '::') else ip}:{port}"


def wait_until_ready(process: subprocess.Popen[bytes], url: str, token: str) -> bool:
    """Whether the server answered before it ended or the time was up."""
    request = urllib.request.Request(f"{url}/api/status", headers={"Authorization": f"token {token}"})
    end = time.monotonic() + _READY_TIMEOUT_S
    while process.poll() is None and time.monotonic() < end:
        with contextlib.suppress(urllib.error.URLError, OSError), urllib.request.urlopen(request, timeout=2) as answer:
            return answer.status == 200
        time.sleep(0.1)
    return False


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m grader.lab", description="Open JupyterLab on your copies of the course."
    )
    parser.add_argument("--port", type=int, default=8888, help="the first port to try (default 8888; 0 for any)")
    parser.add_argument("--ip", default="127.0.0.1", help="the address to listen on (default: this machine only)")
    parser.add_argument("--token", default="", help="the password in the URL (default: a new random one)")
    parser.add_argument("--no-open", action="store_true", help="print the URL and open no browser")
    parser.add_argument("--workspace", type=Path, help="the learner's folder (default: my_course beside the course)")
    parser.add_argument(
        "--instructor", action="store_true", help="serve the course folder itself, with nbgrader's formgrader"
    )
    return parser


def main(argv: list[str] | None = None) -> int:
    """Prepare the folder, serve it until interrupted, and return the exit status."""
    options = _parser().parse_args(argv)
    try:
        course = find_root()
        port = free_port(options.ip, options.port)
        if options.instructor:
            root, page = course, "/lab"
        else:
            root = (options.workspace or course.parent / "my_course").resolve()
            print(summary(prepare(root, course)), flush=True)
            page = f"/lab/tree/{START_PAGE}"
        config = settings(root / ".jupyter", instructor=options.instructor)
    except OSError as error:
        print(error, file=sys.stderr)
        return 1
    token = options.token or secrets.token_hex(16)
    paths = [str(config), os.environ.get("JUPYTER_CONFIG_PATH", "")]
    environment = os.environ | {
        ROOT_VARIABLE: str(course),
        "JUPYTER_TOKEN": token,
        "JUPYTER_CONFIG_PATH": os.pathsep.join(filter(None, paths)),
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]),
    }
    arguments = command(root, ip=options.ip, port=port, page=page)
    process = subprocess.Popen(arguments, cwd=root, env=environment)
    signal.signal(signal.SIGTERM, lambda *_: process.terminate())
    return _serve(process, options.ip, port, token, page, browse=not options.no_open)


def _serve(process: subprocess.Popen[bytes], ip: str, port: int, token: str, page: str, *, browse: bool) -> int:
    base = address(ip, port)
    try:
        if not wait_until_ready(process, base, token):
            process.terminate()
            print(
                f"JupyterLab did not answer at {base} within {_READY_TIMEOUT_S:.0f} s; its messages are above",
                file=sys.stderr,
            )
            return 1
        url = f"{base}{page}?token={quote(token)}"
        print(f"JupyterLab is ready: {url}", flush=True)
        if browse:
            webbrowser.open(url)
        return process.wait()
    except KeyboardInterrupt:
        process.terminate()
        process.wait()
        return 0


if __name__ == "__main__":
    sys.exit(main())
