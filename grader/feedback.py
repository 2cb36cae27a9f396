"""What goes back to a learner, and the notebook that formgrader opens: made from verdicts, never from a learner's markup.

Text that came from a learner is capped, control characters are removed and it is escaped by the template; the page carries a content
security policy that runs no script.
"""

from __future__ import annotations

import os
import re
import unicodedata
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from grader import bridge
from grader.exercise import Outcome

MAX_TEXT = 4_000
SENTENCES = {
    Outcome.PASSED: "Passed.",
    Outcome.FAILED: "A wrong answer.",
    Outcome.ERROR: "It raised an error where an answer was wanted.",
    Outcome.NOT_ATTEMPTED: "Not attempted.",
    Outcome.MISSING: "Not found in what you handed in.",
    Outcome.TIMED_OUT: "It did not finish within its time limit.",
    Outcome.OUT_OF_MEMORY: "It asked for more memory than it is given.",
    Outcome.OUTPUT_LIMIT: "It printed too much and was stopped.",
    Outcome.CRASHED: "The process ended before it answered.",
    Outcome.INVALID: "What came back is no data that can be judged.",
    Outcome.POLICY: "It calls a routine that is itself the answer. Your instructor is shown this.",
    Outcome.INFRASTRUCTURE: "The grader failed, not you. Your instructor is told and will grade again.",
}
_BIDI = {chr(c) for c in (*range(0x202A, 0x202F), *range(0x2066, 0x206A), 0x200E, 0x200F, 0x061C)}


def clean(text: str, limit: int = MAX_TEXT) -> str:
    """`text` without control, bidirectional and surrogate characters, at most `limit` long.

    >>> clean("a\\x1b[31mb\\u202ec")
    'a[31mbc'
    """
    kept = [
        c
        for c in text[: limit * 2]
        if c in "\n\t" or (unicodedata.category(c) not in ("Cc", "Cs", "Co") and c not in _BIDI)
    ]
    short = "".join(kept)
    return short if len(short) <= limit else short[: limit - 3] + "..."


def sentence(entry: dict[str, Any]) -> str:
    """How an exercise ended, in one or two sentences."""
    said = SENTENCES[Outcome(entry["outcome"])]
    if entry["outcome"] != Outcome.PASSED and entry["points"] > 0:
        said += f" Partial credit: {entry['points']:g} of {entry['max_points']:g} points for the cases that are right."
    return said


def entry_text(entry: dict[str, Any]) -> str:
    """One exercise's result as plain text."""
    lines = [f"{entry['exercise']}: {entry['points']:g} of {entry['max_points']:g} points. {sentence(entry)}"]
    for name, key in (("case", "label"), ("what was wrong", "message")):
        if entry.get(key):
            lines.append(f"  {name}: {clean(entry[key], 600)}")
    if entry.get("diagnosis"):
        lines.append(f"  {entry['diagnosis']}. {entry['says']}")
    lines += [f"  {clean(note, 600)}" for note in entry.get("notes", [])]
    if entry.get("hint"):
        lines.append(f"  Hint: {entry['hint']}")
    return "\n".join(lines)


@cache
def _template() -> Any:
    from jinja2 import Environment, FileSystemLoader

    folder = Path(__file__).with_name("templates")
    environment = Environment(loader=FileSystemLoader(folder), autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters["clean"] = clean
    return environment.get_template("feedback.html")


@dataclass(frozen=True)
class Standing:
    """What persons and due dates made of a score, for the feedback page."""

    score: float
    max_score: float
    penalty: float = 0.0
    """Taken off because it came late."""
    overrides: dict[str, tuple[float, str]] = field(default_factory=dict)
    """(points, reason) by exercise or hand-graded cell."""
    waiting: bool = False
    """Something is still to be read by a person."""


def page(result: dict[str, Any], title: str, standing: Standing | None = None) -> str:
    """The feedback page of one submission."""
    overrides = standing.overrides if standing else {}
    entries = [
        dict(e, sentence=sentence(e), ok=e["outcome"] == Outcome.PASSED, override=overrides.get(e["exercise"]))
        for e in result["exercises"]
    ]
    total = sum(e["points"] for e in entries)
    possible = sum(e["max_points"] for e in entries)
    given = {name: overrides[name] for name in result["manual"] if name in overrides}
    return _template().render(
        result=result, title=title, entries=entries, total=total, possible=possible, standing=standing, given=given
    )


def write_page(root: Path, result: dict[str, Any], title: str, standing: Standing | None = None) -> Path:
    """Writes the feedback where nbgrader writes it: feedback/STUDENT/ASSIGNMENT/ASSIGNMENT.html."""
    path = root / "feedback" / result["student"] / result["assignment"] / f"{result['assignment']}.html"
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.part")
    temporary.write_text(page(result, title, standing), encoding="utf-8")
    os.replace(temporary, path)
    return path


def _fenced(text: str) -> str:
    """A learner's prose as a Markdown code block, so that no markup of theirs is rendered."""
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall(r"`+", text)), default=0))
    return f"{fence}text\n{text}\n{fence}"


def write_autograded(root: Path, result: dict[str, Any], cells: dict[str, str]) -> Path:
    """The notebook that formgrader and nbgrader's own feedback open: the released one, with this learner's sources and our outputs."""
    slug = result["assignment"]
    notebook = bridge.read_notebook(root / "release" / slug / f"{slug}.ipynb")
    entries = {f"judge_{e['exercise']}": e for e in result["exercises"]}
    for cell in notebook.cells:
        grade_id = cell.metadata.get("nbgrader", {}).get("grade_id", "")
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
        if grade_id in cells and cell.metadata["nbgrader"]["solution"]:
            text = clean(cells[grade_id], 200_000)
            cell.source = _fenced(text) if cell.cell_type == "markdown" else text
        if entry := entries.get(grade_id):
            cell.outputs = [{"output_type": "stream", "name": "stdout", "text": entry_text(entry) + "\n"}]
    path = root / "autograded" / result["student"] / slug / f"{slug}.ipynb"
    bridge.write_notebook(notebook, path)
    if result.get("submitted_at"):
        (path.parent / "timestamp.txt").write_text(result["submitted_at"], encoding="utf-8")
    return path
