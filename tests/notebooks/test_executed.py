"""Every lesson and solution runs from a cold kernel, twice: with papermill's parameters, and compared cell by cell with nbval."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tools import build
from tools.chapter import CODE_ROOT

pytestmark = pytest.mark.notebook
BUILT_WITH = (3, 11)
"""Stored outputs hold numbers of Python's own documentation and sources, which differ between its versions."""
TARGET_S = 60.0
LIMIT_S = 300.0
"""A noisy machine may take longer than the target, which is for two quiet cores; a notebook that hangs must still end."""


def _has_code(path: Path) -> bool:
    return bool(build.code_cells(build.load(path)))


def test_papermill_runs_it_at_quick_scale(executed_notebook: Path, environment, tmp_path, monkeypatch, capsys):
    papermill = pytest.importorskip("papermill", reason="papermill sets the scale")
    if not _has_code(executed_notebook):
        assert executed_notebook.stem == "claims"
        return
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "work").mkdir()
    tagged = any("parameters" in c["metadata"].get("tags", []) for c in build.load(executed_notebook)["cells"])
    start = time.perf_counter()
    papermill.execute_notebook(
        executed_notebook,
        tmp_path / "out.ipynb",
        parameters={"SCALE": "quick"} if tagged else {},
        kernel_name="python3",
        cwd=tmp_path / "work",
        progress_bar=False,
        execution_timeout=LIMIT_S,
    )
    seconds = time.perf_counter() - start
    with capsys.disabled():
        note = "" if seconds < TARGET_S else f"  above the target of {TARGET_S:.0f} s"
        print(f"\n{executed_notebook.parent.name}/{executed_notebook.stem}: {seconds:.1f} s from a cold kernel{note}")
    assert list((tmp_path / "work").iterdir()) == [], "the notebook left files in its working folder"


def test_its_stored_outputs_repeat(executed_notebook: Path, environment):
    """nbval compares text, HTML and claim records; pictures and live widgets are not compared, their numbers are printed."""
    pytest.importorskip("nbval", reason="nbval compares the outputs")
    if sys.version_info[:2] != BUILT_WITH or sys.platform != "linux":
        pytest.skip(f"outputs are compared where they were made: Python {BUILT_WITH[0]}.{BUILT_WITH[1]} on Linux")
    if executed_notebook.stem in ("00_start_here", "claims"):
        assert all(c["execution_count"] is None for c in build.code_cells(build.load(executed_notebook)))
        return
    command = [sys.executable, "-m", "pytest", "--nbval", "--nbval-current-env", f"--nbval-cell-timeout={LIMIT_S:.0f}"]
    options = ["-q", "-p", "no:cacheprovider", "-p", "no:xdist", str(executed_notebook.relative_to(CODE_ROOT))]
    done = subprocess.run(
        [*command, *options], cwd=CODE_ROOT, env=environment, capture_output=True, text=True, timeout=4 * LIMIT_S
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    cells = len([c for c in build.load(executed_notebook)["cells"] if c["cell_type"] == "code"])
    assert f"{cells} passed" in done.stdout


def test_nbval_catches_one_changed_digit(environment, tmp_path):
    """The mutant of the comparison: a stored output that is off by one digit must fail."""
    pytest.importorskip("nbval", reason="nbval compares the outputs")
    made = build.notebook([build.cell("code", "print(41.5)", "a")], "x.py")
    made["cells"][0] |= {
        "execution_count": 1,
        "outputs": [{"output_type": "stream", "name": "stdout", "text": "41.6\n"}],
    }
    build.save(made, tmp_path / "x.ipynb")
    command = [
        sys.executable,
        "-m",
        "pytest",
        "--nbval",
        "--nbval-current-env",
        "-q",
        "-p",
        "no:cacheprovider",
        "x.ipynb",
    ]
    done = subprocess.run(
        command, cwd=tmp_path, env=os.environ | environment, capture_output=True, text=True, timeout=LIMIT_S
    )
    assert done.returncode == 1
    assert "41.6" in done.stdout
