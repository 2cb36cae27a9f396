"""Rules on built notebooks: what their stored outputs hold. Findings are reported at the line of the cell's text."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tools import build
from tools.chapter import Cell
from tools.execute import INTERACTIVE, MAX_NOTEBOOK_BYTES
from tools.lint_text import Finding, machine_path

MIN_INTERACTIVE = 4
RULES = {
    "notebook-size": f"a built notebook stays under {MAX_NOTEBOOK_BYTES / 1e6:.0f} MB",
    "output-error": "no stored output is an error or stderr",
    "figure-alt": "every stored picture has alternative text",
    "figure-numbers": "a cell with a picture also prints a line of the numbers it shows",
    "few-figures": f"a lesson has at least {MIN_INTERACTIVE} interactive figures",
    "claims-output": "a claim's verdict is stored once in the lesson's outputs",
    "output-path": "no stored output holds a path of one machine",
}


def notebook(built: Path, cells: list[Cell], text: Path, *, is_lesson: bool) -> list[Finding]:
    """The findings in one built notebook; none where it does not exist or has other cells than its text."""
    made = build.load(built)
    if made is None or len(made["cells"]) != len(cells):
        return []
    found = []
    if (size := built.stat().st_size) > MAX_NOTEBOOK_BYTES:
        found.append(
            Finding(text, 1, "notebook-size", f"{built.name} has {size / 1e6:.2f} MB; show fewer or smaller pictures")
        )
    for item, cell in zip(made["cells"], cells):
        found += [Finding(text, cell.line, rule, message) for rule, message in _cell(item)]
    if is_lesson:
        found += list(_lesson(made, cells, text))
    return found


def _cell(item: dict[str, Any]) -> Iterator[tuple[str, str]]:
    outputs = item.get("outputs", [])
    pictures = [o for o in outputs if any(mime.startswith("image/") for mime in o.get("data", {}))]
    printed = "".join(o["text"] for o in outputs if o["output_type"] == "stream" and o["name"] == "stdout")
    for output in outputs:
        if output["output_type"] == "error" or output.get("name") == "stderr":
            yield "output-error", "the stored output holds an error or stderr; mend the cell and run make notebooks"
        for text in (
            output.get("text", ""),
            *(output.get("data", {}).get(mime, "") for mime in ("text/plain", "text/html")),
        ):
            if place := machine_path(text):
                yield "output-path", f"the stored output holds {place!r}, a path of one machine; print something else"
    for output in pictures:
        if not any(isinstance(m, dict) and m.get("alt", "").strip() for m in output.get("metadata", {}).values()):
            yield (
                "figure-alt",
                "the picture has no alternative text; show it with llmcore.figures.show(figure, alt=...)",
            )
    if pictures and not re.search(r"\d", printed):
        yield (
            "figure-numbers",
            "print one line of the numbers that the picture shows, so that the tests can compare them",
        )


def _lesson(made: build.Notebook, cells: list[Cell], text: Path) -> Iterator[Finding]:
    from llmcore.claims import MIME

    outputs = [(o, cell.line) for item, cell in zip(made["cells"], cells) for o in item.get("outputs", [])]
    live = sum(INTERACTIVE in o.get("metadata", {}) for o, _ in outputs)
    executed = any(c["execution_count"] for c in build.code_cells(made))
    if executed and live < MIN_INTERACTIVE:
        yield Finding(
            text,
            1,
            "few-figures",
            f"it has {live} interactive figures, want at least {MIN_INTERACTIVE}; add some with llmcore.figures.interactive",
        )
    claims = [(o["data"][MIME]["id"], line) for o, line in outputs if MIME in o.get("data", {})]
    for name, count in Counter(name for name, _ in claims).items():
        if count > 1:
            line = [line for n, line in claims if n == name][-1]
            yield Finding(text, line, "claims-output", f"{name} is shown {count} times; record it once")
