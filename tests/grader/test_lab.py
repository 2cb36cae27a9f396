"""The launcher's settings, ports and messages; the server itself is started by the browser tests."""

import json
import socket
import sys

import pytest

from grader import lab


def test_learners_see_no_instructor_panels_and_nobody_sees_news(tmp_path):
    for instructor in (False, True):
        folder = lab.settings(tmp_path / str(instructor), instructor=instructor)
        page = json.loads((folder / "labconfig/page_config.json").read_text())["disabledExtensions"]
        notices = json.loads((folder / "labconfig/default_setting_overrides.json").read_text())
        servers = json.loads((folder / "jupyter_server_config.json").read_text())["ServerApp"]["jpserver_extensions"]
        assert page["@jupyterlab/apputils-extension:announcements"] is True
        assert ("@jupyter/nbgrader:formgrader" in page) is not instructor
        assert servers["nbgrader.server_extensions.formgrader"] is instructor
        assert notices["@jupyterlab/apputils-extension:notification"]["fetchNews"] == "false"


def test_a_taken_port_gives_the_next_one():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        found = lab.free_port("127.0.0.1", port)
    assert port < found < port + 20


def test_the_command_line_holds_the_folder_and_no_token(tmp_path):
    arguments = lab.command(tmp_path, ip="127.0.0.1", port=9, page="/lab/tree/lessons/00_start_here.ipynb")
    assert arguments[:3] == [sys.executable, "-m", "jupyterlab"]
    assert f"--ServerApp.root_dir={tmp_path}" in arguments
    assert "--LabApp.default_url=/lab/tree/lessons/00_start_here.ipynb" in arguments
    assert "token" not in " ".join(arguments).lower()


def test_without_lessons_it_says_what_to_do(tmp_path, monkeypatch, capsys):
    (tmp_path / "course" / "chapters" / "01_x").mkdir(parents=True)
    (tmp_path / "course" / "chapters" / "01_x" / "checks.py").write_text("")
    monkeypatch.setenv("LLM_COURSE_ROOT", str(tmp_path / "course"))
    assert lab.main(["--no-open", "--port", "0"]) == 1
    assert "run `make notebooks`" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("ip", "shown"),
    [("127.0.0.1", "127.0.0.1"), ("0.0.0.0", "127.0.0.1"), ("::", "127.0.0.1"), ("10.0.0.5", "10.0.0.5")],
)
def test_the_url_is_one_that_can_be_opened(ip, shown):
    assert lab.address(ip, 8888) == f"http://{shown}:8888"
