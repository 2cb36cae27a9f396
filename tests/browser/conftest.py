"""A JupyterLab on a fresh workspace, and a Chromium to look at it with; skipped with a reason where there is none.

Screenshots go to the folder that the variable SCREENSHOTS names, else to the test's temporary folder.
"""

import os
import secrets
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tools import release
from tools.chapter import CODE_ROOT, Course
from tools.execute import kernel_environment

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)


@dataclass(frozen=True)
class Lab:
    """A running JupyterLab: its address, its token, and the learner's folder that it serves."""

    url: str
    token: str
    workspace: Path

    def page(self, path: str) -> str:
        return f"{self.url}/lab/tree/{path}?token={self.token}&reset"


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    pytest.importorskip("jupyterlab", reason="JupyterLab is not installed")
    root = tmp_path_factory.mktemp("lab")
    course = Course(root)
    shutil.copytree(CODE_ROOT / "lessons", root / "lessons")
    ignored = shutil.ignore_patterns(
        "release", "submitted", "autograded", "feedback", "exchange", "gradebook.db*", "__pycache__"
    )
    shutil.copytree(CODE_ROOT / "course", course.folder, ignore=ignored)
    assert release.make_release(course, course.slugs()) == 0
    workspace, token = root / "my_course", secrets.token_hex(8)
    environment = kernel_environment(CODE_ROOT, root / "home") | {
        "LLM_COURSE_ROOT": str(course.folder),
        "JUPYTER_CONFIG_DIR": str(root / "home"),
        "JUPYTER_DATA_DIR": str(root / "home" / "data"),
    }
    environment.pop("LLM_COURSE_NO_PROGRESS")
    command = [
        sys.executable,
        "-m",
        "grader.lab",
        "--workspace",
        str(workspace),
        "--port",
        "0",
        "--token",
        token,
        "--no-open",
    ]
    with subprocess.Popen(command, cwd=CODE_ROOT, env=environment, stdout=subprocess.PIPE, text=True) as server:
        try:
            ready = next((line for line in server.stdout if "JupyterLab is ready: " in line), None)
            assert ready is not None, "JupyterLab did not start; its messages are above"
            yield Lab(ready.split("ready: ")[1].split("/lab/")[0], token, workspace)
        finally:
            server.terminate()
            server.wait(timeout=30)


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory):
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    if program is None:
        pytest.skip("no Chromium is installed; apt-get install chromium")
    profile = tmp_path_factory.mktemp("profile")
    with playwright.sync_playwright() as driver:
        context = driver.chromium.launch_persistent_context(
            str(profile),
            executable_path=program,
            headless=True,
            args=list(FLAGS),
            viewport={"width": 1280, "height": 1000},
        )
        yield context
        context.close()


@pytest.fixture(scope="session")
def screenshots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = Path(os.environ.get("SCREENSHOTS") or tmp_path_factory.mktemp("screenshots"))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture
def page(browser, screenshots: Path, request: pytest.FixtureRequest):
    """A fresh tab; what it showed last is kept as a picture, which tells most when a test fails."""
    opened = browser.new_page()
    opened.set_default_timeout(30_000)
    yield opened
    opened.screenshot(path=screenshots / f"last_{request.node.name}.png")
    opened.close()
