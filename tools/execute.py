"""Runs a notebook in a cold kernel and cleans its outputs, so that a second run stores the same bytes.

A cell that fails, writes to stderr, or leaves an output that cannot repeat (a memory address, a widget without a still
picture) fails the build with its text. Outputs are those of the kernel otherwise; nothing is invented.
"""

from __future__ import annotations

import copy
import os
import re
import tempfile
import time
from pathlib import Path
from typing import Any

from tools.build import Notebook, notebook
from tools.chapter import CODE_ROOT, skip_slow_import

MAX_NOTEBOOK_BYTES = 1_000_000
CELL_TIMEOUT_S = 600
_ANSI = re.compile(r"\x1b\[[0-9;]*m")
_ADDRESS = re.compile(r"(?:at|object) 0x[0-9a-fA-F]{6,}")
_WIDGET = ("application/vnd.jupyter.widget-view+json", "application/vnd.jupyter.widget-state+json")
_DROPPED = (*_WIDGET, "application/vnd.plotly.v1+json")
INTERACTIVE = "llm_principles_interactive"
"""Metadata of an output whose live widget is not stored, so that it is known to have one."""
_STILL = ("image/png", "image/jpeg", "image/svg+xml", "text/html")


class CellFailure(Exception):
    """A cell whose run must not be stored. The text holds the reason and the cell."""

    def __init__(self, name: str, index: int, reason: str, source: str) -> None:
        body = "\n".join(f"    {line}" for line in source.splitlines())
        super().__init__(f"{name}, cell {index + 1}: {reason}\n{body}")
        self.index, self.reason = index, reason


def kernel_environment(root: Path, home: Path) -> dict[str, str]:
    """The environment of a kernel whose outputs repeat: fixed hashes, one thread, no personal settings or progress."""
    return os.environ | {
        "PYTHONHASHSEED": "0",
        "OMP_NUM_THREADS": "1",
        "OMP_WAIT_POLICY": "PASSIVE",
        "PYTHONPATH": os.pathsep.join(filter(None, [str(CODE_ROOT), os.environ.get("PYTHONPATH")])),
        "LLM_COURSE_ROOT": str(root / "course"),
        "LLM_COURSE_NO_PROGRESS": "1",
        "IPYTHONDIR": str(home / "ipython"),
        "COLUMNS": "100",
        "TZ": "UTC",
    }


def execute(made: Notebook, name: str, root: Path) -> tuple[Notebook, float]:
    """The notebook with the outputs of a run in a fresh kernel, and the seconds that took.

    The working folder is empty and temporary. Raises: CellFailure for a cell that fails or must not be stored.
    """
    skip_slow_import()
    import nbformat
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

    node = nbformat.from_dict(copy.deepcopy(made))
    start = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="notebook-") as folder:
        work = Path(folder, "work")
        work.mkdir()
        client = NotebookClient(
            node,
            timeout=CELL_TIMEOUT_S,
            kernel_name="python3",
            store_widget_state=False,
            record_timing=False,
            allow_errors=True,
            shutdown_kernel="immediate",
            extra_arguments=["--HistoryManager.enabled=False", "--IPKernelApp.log_level=ERROR"],
            resources={"metadata": {"path": str(work)}},
        )
        try:
            client.execute(env=kernel_environment(root, Path(folder)))
        except (CellTimeoutError, DeadKernelError, CellExecutionError) as error:
            index = next(
                (n for n, c in enumerate(node.cells) if c.cell_type == "code" and c.execution_count is None), 0
            )
            reason = str(error).strip().splitlines()[0]
            raise CellFailure(
                name, index, f"the run ended here ({reason}); make the cell shorter", node.cells[index].source
            ) from None
    seconds = time.perf_counter() - start
    cells = [_plain(c) for c in node.cells]
    for index, item in enumerate(cells):
        if item["cell_type"] == "code":
            outputs = join_streams(item["outputs"])
            item["outputs"] = [kept for o in outputs if (kept := clean_output(o, name, index, item["source"]))]
    before = made["metadata"]
    done = notebook(cells, "")
    done["metadata"] = before
    return done, seconds


def join_streams(outputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The outputs with neighbouring pieces of one stream joined: where a kernel cuts its text depends on the clock.

    nbclient's own `coalesce_streams` takes minutes on a long line.
    """
    joined: list[dict[str, Any]] = []
    for output in outputs:
        last = joined[-1] if joined else {}
        if output["output_type"] == "stream" and last.get("name") == output["name"]:
            last["text"] += output["text"]
        else:
            joined.append(dict(output))
    return joined


def clean_output(output: dict[str, Any], name: str, index: int, source: str) -> dict[str, Any] | None:
    """The output without widget views and plotly data, or None when nothing remains.

    Raises: CellFailure for an error, stderr, a widget without a still picture, or text with a memory address.
    """
    kind = output["output_type"]
    if kind == "error":
        trace = _ANSI.sub("", "\n".join(output.get("traceback", [])))[-2000:]
        raise CellFailure(name, index, f"it raised {output['ename']}: {output['evalue']}\n{trace}\n", source)
    if kind == "stream" and output["name"] == "stderr":
        text = _ANSI.sub("", output["text"]).strip()[:500]
        raise CellFailure(name, index, f"it wrote to stderr ({text}); nbgrader scores that 0: mend what warns", source)
    output = copy.deepcopy(output)
    data = output.get("data")
    if data is not None:
        live = any(mime in data for mime in _WIDGET)
        for mime in _DROPPED:
            data.pop(mime, None)
        if live and not any(mime in data for mime in _STILL):
            raise CellFailure(
                name, index, "it shows a widget without a still picture; use llmcore.figures.interactive", source
            )
        if not data:
            return None
        if live:
            output["metadata"][INTERACTIVE] = True
    for text in (output.get("text", ""), *(str((data or {}).get(m, "")) for m in ("text/plain", "text/html"))):
        if found := _ADDRESS.search(text):
            raise CellFailure(
                name,
                index,
                f"its output holds {found[0]!r}, which changes from run to run; print something else",
                source,
            )
    return output


def check_size(text: str, name: str) -> None:
    """Raises: ValueError when the notebook's file would be above `MAX_NOTEBOOK_BYTES`, naming the largest cells."""
    size = len(text.encode("utf-8"))
    if size > MAX_NOTEBOOK_BYTES:
        raise ValueError(
            f"{name} would be {size / 1e6:.2f} MB, want at most {MAX_NOTEBOOK_BYTES / 1e6:.0f} MB; show fewer or smaller pictures"
        )


def _plain(value: Any) -> Any:
    """nbformat's nodes as ordinary dicts and lists, timing left out."""
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items() if k != "execution"}
    return [_plain(v) for v in value] if isinstance(value, list) else value
