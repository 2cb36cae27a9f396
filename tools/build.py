"""Notebooks as plain data made of a chapter's cells: ids, nbgrader metadata, and outputs kept where code did not change.

Everything is a function of the text, so two builds of the same text are equal byte for byte. Nothing is executed here
(`tools.execute` does that) and answers are not removed here: nbgrader's own `generate_assignment` does.
"""

from __future__ import annotations

import copy
import hashlib
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tools.chapter import BuildError, Cell, Course, check_exercises, read_cells, read_title

BUILDER_VERSION = 1
"""Part of what decides whether a notebook is executed again; raise it when the builder changes what outputs hold."""
METADATA_KEY = "llm_principles"
NBGRADER_SCHEMA = 3

# (grade, solution, locked) of nbgrader's schema, by what the cell is.
_NBGRADER = {
    "given": (False, False, True),
    "exercise": (False, True, False),
    "check": (False, False, True),
    "judge": (True, False, True),
    "manual": (True, True, False),
}
_SOLUTION_LINE = re.compile(r"^[ \t]*### (BEGIN|END) SOLUTION[ \t]*\n?", re.MULTILINE)

Notebook = dict[str, Any]


def notebook(cells: list[dict[str, Any]], source: str) -> Notebook:
    """A notebook of the given cells; `source` is the text that it is built from."""
    return {
        "cells": cells,
        "metadata": {
            "kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"},
            "language_info": {
                "codemirror_mode": {"name": "ipython", "version": 3},
                "file_extension": ".py",
                "mimetype": "text/x-python",
                "name": "python",
                "nbconvert_exporter": "python",
                "pygments_lexer": "ipython3",
            },
            METADATA_KEY: {"source": source},
        },
        "nbformat": 4,
        "nbformat_minor": 5,
    }


def cell(cell_type: str, source: str, cell_id: str, metadata: dict[str, Any] | None = None) -> dict[str, Any]:
    """One cell of a notebook, not executed."""
    made: dict[str, Any] = {"cell_type": cell_type, "id": cell_id, "metadata": metadata or {}, "source": source}
    if cell_type == "code":
        made |= {"execution_count": None, "outputs": []}
    return made


def cell_id(item: Cell, slug: str, index: int) -> str:
    """The cell's id: its grade id, or a hash of chapter and position."""
    return item.grade_id or position_id(slug, index)


def position_id(place: str, index: int) -> str:
    """An id for cell `index` of `place` ("03_norms/lesson"), the same in every build."""
    return f"{place[:2]}-" + hashlib.sha256(f"{place}/{index}".encode()).hexdigest()[:10]


def dump(made: Notebook) -> str:
    """The notebook's file: keys in a fixed order, one line of text a line, a newline at the end."""
    made = copy.deepcopy(made)
    for item in made["cells"]:
        item["source"] = item["source"].splitlines(keepends=True)
        for output in item.get("outputs", []):
            if "text" in output:
                output["text"] = output["text"].splitlines(keepends=True)
            for mime, value in output.get("data", {}).items():
                if isinstance(value, str) and mime.startswith("text/"):
                    output["data"][mime] = value.splitlines(keepends=True)
    return json.dumps(made, ensure_ascii=False, indent=1, sort_keys=True) + "\n"


def load(path: Path) -> Notebook | None:
    """The notebook at `path` with texts joined, or None where there is none that can be read."""
    try:
        made = json.loads(path.read_text(encoding="utf-8"))
        for item in made["cells"]:
            item["source"] = "".join(item["source"])
            for output in item.get("outputs", []):
                if "text" in output:
                    output["text"] = "".join(output["text"])
                data = output.get("data", {})
                data.update(
                    {mime: "".join(v) for mime, v in data.items() if mime.startswith("text/") and isinstance(v, list)}
                )
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return made


def save(made: Notebook, path: Path) -> bool:
    """Write the notebook unless the file holds it already; whether it was written. A half-written file never stays."""
    text = dump(made)
    if path.is_file() and path.read_text(encoding="utf-8") == text:
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    part.write_text(text, encoding="utf-8", newline="\n")
    part.replace(path)
    return True


def lesson(course: Course, slug: str) -> Notebook:
    """The lesson's notebook, not executed. Raises: BuildError when its text is not sound."""
    path = course.text(slug, "lesson.py")
    items = read_cells(path)
    keyed = next((item for item in items if item.key), None)
    if keyed is not None:
        raise BuildError(
            path,
            keyed.line,
            f"a lesson has no {keyed.key} cells, got {keyed.key}={keyed.name!r}; move it to exercises.py",
        )
    _check_number(course, slug, items, "lesson.py")
    cells = [cell(i.cell_type, i.source, cell_id(i, f"{slug}/lesson", n), _tags(i)) for n, i in enumerate(items)]
    _say_source(cells, course.relative(path), "Change and run anything in your own copy.")
    return notebook(cells, course.relative(path))


def solution(course: Course, slug: str, checked: list[str] | None) -> Notebook:
    """The worked exercises as a notebook for readers: solutions kept, without nbgrader's metadata, not executed."""
    path = course.text(slug, "exercises.py")
    cells = [
        cell(i.cell_type, _SOLUTION_LINE.sub("", i.source).rstrip("\n"), cell_id(i, f"{slug}/solution", n), _tags(i))
        for n, i in enumerate(_exercise_cells(course, slug, checked))
    ]
    _say_source(cells, course.relative(path), "These are the worked solutions.")
    return notebook(cells, course.relative(path))


def source(course: Course, slug: str, checked: list[str] | None) -> Notebook:
    """nbgrader's source of the assignment: the worked exercises with full metadata, without outputs."""
    path = course.text(slug, "exercises.py")
    cells = []
    for number, item in enumerate(_exercise_cells(course, slug, checked)):
        metadata = _tags(item)
        if item.key:
            grade, solved, locked = _NBGRADER[item.key]
            metadata["nbgrader"] = {
                "grade": grade,
                "grade_id": item.grade_id,
                "locked": locked,
                "schema_version": NBGRADER_SCHEMA,
                "solution": solved,
                "task": False,
            } | ({"points": item.points} if grade else {})
        cells.append(cell(item.cell_type, item.source, cell_id(item, f"{slug}/source", number), metadata))
    _say_source(cells, course.relative(path), "Answer in the cells that say YOUR CODE HERE; only those are handed in.")
    made = notebook(cells, course.relative(path))
    # It travels into the release, so that a release made from other text is known as such.
    made["metadata"][METADATA_KEY]["text"] = hashlib.sha256(dump(made).encode()).hexdigest()
    return made


def vanished(course: Course, slug: str, made: Notebook) -> list[str]:
    """Ids of the assignment as last built that the new one no longer has."""
    before = load(course.source(slug))
    return [] if before is None else sorted(_grade_ids(before) - _grade_ids(made))


def with_outputs(made: Notebook, before: Notebook | None) -> Notebook:
    """The notebook with the outputs that an earlier build has for the same code, and the hash those stand for.

    Where all code cells are equal, every output is kept; else those of equal cells, and the notebook counts as stale.
    """
    if before is None:
        return made
    made = copy.deepcopy(made)
    new, old = code_cells(made), code_cells(before)
    if [c["source"] for c in new] == [c["source"] for c in old]:
        pairs: Iterable[tuple[dict, dict]] = zip(new, old)
    else:
        by_source = {c["source"]: c for c in old}
        pairs = [(c, by_source[c["source"]]) for c in new if c["source"] in by_source]
    for fresh, kept in pairs:
        fresh["outputs"], fresh["execution_count"] = kept["outputs"], kept["execution_count"]
    executed = before["metadata"].get(METADATA_KEY, {}).get("executed")
    if executed is not None:
        made["metadata"][METADATA_KEY]["executed"] = executed
    return made


def code_cells(made: Notebook) -> list[dict[str, Any]]:
    """The code cells that are not empty, in order."""
    return [c for c in made["cells"] if c["cell_type"] == "code" and c["source"].strip()]


def _exercise_cells(course: Course, slug: str, checked: list[str] | None) -> list[Cell]:
    path = course.text(slug, "exercises.py")
    items = read_cells(path)
    _check_number(course, slug, items, "exercises.py")
    check_exercises(items, path, checked)
    return items


def _check_number(course: Course, slug: str, items: list[Cell], name: str) -> None:
    path = course.text(slug, name)
    number = read_title(items, path).number
    if number != slug[:2]:
        raise BuildError(
            path, items[0].line, f"the title says chapter {number}, the folder {slug[:2]}; make them agree"
        )


def _tags(item: Cell) -> dict[str, Any]:
    return {"tags": list(item.tags)} if item.tags else {}


def _say_source(cells: list[dict[str, Any]], path: str, then: str) -> None:
    cells[0]["source"] += f"\n\n<sub>Built from `{path}`: edit that file and run `make notebooks`. {then}</sub>"


def _grade_ids(made: Notebook) -> set[str]:
    return {c["metadata"]["nbgrader"]["grade_id"] for c in made["cells"] if "nbgrader" in c["metadata"]}
