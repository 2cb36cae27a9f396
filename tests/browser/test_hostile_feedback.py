"""A script that a student hands in does not run: not on our feedback pages, not in nbgrader's formgrader, where it would run as the instructor."""

import importlib.util
import json
import os
import secrets
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from grader import bridge, course, exchange, feedback, grading, sandbox
from tools.build import save, source
from tools.chapter import CODE_ROOT, Course

pytestmark = pytest.mark.browser
SLUG = "01_sums"
SMALL = Path(__file__).resolve().parents[1] / "grader" / "small_course"
# Each sets a mark on the window, or asks the server for an address that nothing else asks for.
PAYLOADS = (
    "<script>window.owned = 'script'; fetch('/owned')</script>",
    "<img src=/owned onerror=\"window.owned = 'img'\">",
    "<svg onload=\"window.owned = 'svg'\"><script>window.owned = 'svg script'</script></svg>",
    "<iframe srcdoc=\"<script>parent.owned = 'frame'</script>\"></iframe>",
    "</pre></div></textarea></title><script>window.owned = 'closed tags'</script>",
    "<details open ontoggle=\"window.owned = 'toggle'\"><style>@import '/owned';</style></details>",
    "<a href=\"javascript:window.owned = 'link'\" autofocus onfocus=\"window.owned = 'focus'\">look</a>",
    "<base href='//owned.invalid/'><meta http-equiv='refresh' content='0;url=/owned'>",
    "{{ ''.__class__ }} {% raw %} <b>${window.owned = 'template'}</b> `${1}`",
    "$\\\\href{javascript:window.owned='math'}{x}$ $$\\\\unicode{<img src=/owned onerror=window.owned=1>}$$",
    "[link](javascript:window.owned='markdown') ![x](/owned) <http://owned.invalid>\n\n```\n<script>window.owned = 'fence'</script>\n```\n",
    "\x1b]8;;javascript:window.owned='terminal'\x07x\x1b]8;;\x07\x1b[31m\u202e<script>window.owned = 'ansi'</script>",
)
ALL = "\n".join(PAYLOADS)
HOSTILE = f"""
class Error(ValueError):
    pass

Error.__name__ = Error.__qualname__ = {PAYLOADS[1]!r}
TEXT = {ALL!r}

def mean_square(x):
    print(TEXT)
    {PAYLOADS[0]!r}; raise Error(TEXT)  # {PAYLOADS[4]}
"""
LEAVES = f"def root_mean_square(x):\n    return {{ {ALL!r}: [{PAYLOADS[0]!r}] }}"


@pytest.fixture(scope="module")
def graded(tmp_path_factory):
    """A course in which one hostile student was graded."""
    try:
        sandbox.find_walls()
    except sandbox.NoWalls as missing:
        pytest.skip(str(missing))
    root = tmp_path_factory.mktemp("hostile") / "course"
    shutil.copytree(SMALL, root, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copyfile(CODE_ROOT / "course" / "nbgrader_config.py", root / "nbgrader_config.py")
    here = Course(root.parent)
    save(source(here, SLUG, ["mean_square", "root_mean_square"]), here.source(SLUG))
    bridge.generate_release(root, SLUG)
    notebook = json.loads((root / "release" / SLUG / f"{SLUG}.ipynb").read_text())
    answers = {"mean_square": HOSTILE, "root_mean_square": LEAVES, "why_squares": f"```text\n{ALL}\n````\n{ALL}"}
    for cell in notebook["cells"]:
        cell["source"] = answers.get(cell["metadata"].get("nbgrader", {}).get("grade_id"), cell["source"])
        cell.setdefault("metadata", {})["tags"] = [PAYLOADS[0]]
        if cell["cell_type"] == "code":
            html = {
                "output_type": "display_data",
                "metadata": {},
                "data": {"text/html": ALL, "application/javascript": "window.owned=1"},
            }
            cell["outputs"] = [html, {"output_type": "stream", "name": "stdout", "text": ALL}]
        else:
            cell["attachments"] = {"x.svg": {"image/svg+xml": PAYLOADS[2]}}
    path = root / "hostile.ipynb"
    path.write_text(json.dumps(notebook))
    exchange.submit(root, SLUG, path, "mallory")
    exchange.collect(root, SLUG)
    grading.grade_assignment(root, SLUG)
    return root


@pytest.fixture
def watched(page):
    """The page, and a list of what it should not have done: dialogs, and requests for /owned."""
    seen = []
    page.on("dialog", lambda dialog: (seen.append(f"dialog {dialog.message}"), dialog.dismiss()))
    page.on("request", lambda request: seen.append(request.url) if "owned" in request.url else None)
    return page, seen


def settle(page):
    page.wait_for_load_state("load")
    page.wait_for_timeout(700)  # what is late: handlers, refreshes, typeset mathematics
    return page.evaluate("window.owned")


def test_these_scripts_would_run_on_a_careless_page(watched, tmp_path):
    page, seen = watched
    path = tmp_path / "careless.html"
    staying = "\n".join(text for text in PAYLOADS if "refresh" not in text)
    path.write_text(f"<!doctype html><meta charset=utf-8><div>{staying}</div>")
    page.goto(path.as_uri())
    assert settle(page) is not None
    assert seen
    path.write_text(f"<!doctype html><meta charset=utf-8><div>{ALL}</div>")
    page.goto(path.as_uri())
    page.wait_for_timeout(700)
    assert page.url != path.as_uri(), "the refresh leads away"


def test_no_script_of_a_student_runs_on_a_feedback_page(graded, watched, screenshots):
    page, seen = watched
    path = graded / "feedback/mallory" / SLUG / f"{SLUG}.html"
    page.goto(path.as_uri())
    assert settle(page) is None
    assert seen == []
    shown = page.inner_text("body")
    assert "<script>window.owned = 'script'" in shown  # it is there to be read, as text
    assert "0 of 6 points" in shown
    assert page.locator("script, iframe, svg, img, a, base, object, details").count() == 0
    page.screenshot(path=screenshots / "hostile_feedback.png", full_page=True)


def test_the_policy_of_the_page_stops_a_script_even_where_escaping_failed(graded, watched, tmp_path):
    page, seen = watched
    text = (graded / "feedback/mallory" / SLUG / f"{SLUG}.html").read_text()
    path = tmp_path / "escaping_failed.html"
    path.write_text(text.replace("</body>", f"{PAYLOADS[0]}{PAYLOADS[1]}{PAYLOADS[2]}</body>"))
    page.goto(path.as_uri())
    assert page.locator("body > script").count() == 1
    assert settle(page) is None
    assert [url for url in seen if url.startswith("http")] == []


@pytest.fixture(scope="module")
def formgrader(graded, tmp_path_factory):
    """(address, token) of a JupyterLab with nbgrader's formgrader on the graded course."""
    if importlib.util.find_spec("nbgrader") is None:
        pytest.skip("nbgrader is not installed")
    home, token = tmp_path_factory.mktemp("instructor"), secrets.token_hex(8)
    environment = {k: v for k, v in os.environ.items() if not k.startswith("JUPYTER")} | {
        "LLM_COURSE_ROOT": str(graded),
        "HOME": str(home),
        "JUPYTER_CONFIG_DIR": str(home / "config"),
        "JUPYTER_DATA_DIR": str(home / "data"),
        "JUPYTER_RUNTIME_DIR": str(home / "runtime"),
        "PYTHONPATH": str(CODE_ROOT),
    }
    command = [sys.executable, "-m", "grader.lab", "--instructor", "--port", "0", "--token", token, "--no-open"]
    with subprocess.Popen(command, cwd=graded, env=environment, stdout=subprocess.PIPE, text=True) as server:
        try:
            ready = next((line for line in server.stdout if "JupyterLab is ready: " in line), None)
            assert ready is not None, "JupyterLab did not start; its messages are above"
            yield ready.split("ready: ")[1].split("/lab")[0], token
        finally:
            server.terminate()
            server.wait(timeout=30)


def test_no_script_of_a_student_runs_in_formgrader(graded, formgrader, watched, screenshots):
    page, seen = watched
    url, token = formgrader
    with bridge.gradebook(graded) as book:
        number = book.find_submission_notebook(SLUG, SLUG, "mallory").id
    page.goto(f"{url}/formgrader/submissions/{number}/?index=0&token={token}")
    page.wait_for_selector("text=mean_square", timeout=60_000)
    assert settle(page) is None
    assert seen == []
    shown = page.content()
    assert "&lt;script&gt;window.owned = 'script'" in shown
    assert "&lt;script&gt;window.owned = 'fence'" in shown
    page.screenshot(path=screenshots / "hostile_formgrader.png", full_page=True)


def test_no_script_of_a_student_runs_in_the_feedback_that_nbgrader_makes(graded, watched, tmp_path):
    page, seen = watched
    root = tmp_path / "course"
    shutil.copytree(graded, root)
    shutil.rmtree(root / "feedback")
    bridge._prepare()
    api = importlib.import_module("nbgrader.apps.api").NbGraderAPI(config=bridge._config(root))
    made = api.generate_feedback(SLUG, "mallory")
    assert made["success"], made
    page.goto((root / "feedback/mallory" / SLUG / f"{SLUG}.html").as_uri())
    assert settle(page) is None
    assert [url for url in seen if url.startswith("http") or "file:///owned" in url] == []
    assert "window.owned = 'script'" in page.content()


def test_a_person_sees_the_answer_in_formgrader_as_it_was_written(graded):
    autograded = json.loads((graded / "autograded/mallory" / SLUG / f"{SLUG}.ipynb").read_text())
    cells = {c["metadata"].get("nbgrader", {}).get("grade_id"): c for c in autograded["cells"]}
    assert "".join(cells["why_squares"]["source"]).startswith("`````text\n")
    assert "mean_square" in "".join(cells["mean_square"]["source"])
    assert course.load(SLUG, graded).manual.keys() <= cells.keys()
    assert all(
        "attachments" not in c and "text/html" not in json.dumps(c.get("outputs", [])) for c in autograded["cells"]
    )
    assert len(feedback.clean(ALL)) < len(ALL)
