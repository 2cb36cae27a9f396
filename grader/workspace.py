"""A learner's own copies: `my_course/`, which git ignores, filled and kept up to date without ever losing work.

What the learner did not edit is renewed; what they edited stays, and the new version is placed beside it. Every file is
written under a temporary name and renamed, and the record of what was delivered is written last, so that a stop at any point
leaves nothing half-done: the next run finds each file either old or new. Running cells is not editing: what counts is cells' text.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

STATE_FILE = ".state.json"
PAGES = ("syllabus.md", "glossary.md", "conventions.md")
_BACKUP = ".before_update"
_STALE_PART_S = 3600.0


@dataclass
class Prepared:
    """What `prepare` did, as paths inside the workspace."""

    placed: list[str] = field(default_factory=list)
    """New, or deleted by the learner and placed again."""
    renewed: list[str] = field(default_factory=list)
    """Not edited by the learner, replaced by the new version."""
    beside: list[str] = field(default_factory=list)
    """Edited by the learner and kept; the new version lies in this file."""
    kept: list[str] = field(default_factory=list)
    """Edited by the learner, nothing new."""
    messages: list[str] = field(default_factory=list)
    """One line for each thing that the learner should know."""


def prepare(workspace: Path, course_root: Path) -> Prepared:
    """Fill or update `workspace` from the course whose folder (it holds `chapters/`) is `course_root`.

    Lessons come from `lessons/` beside that folder, assignments from its `release/`, which must be built.

    Raises: FileNotFoundError when there are no lessons to deliver.
    """
    wanted = _wanted(course_root)
    if not any(name.startswith("lessons/") for name in wanted):
        raise FileNotFoundError(f"no lessons in {course_root.parent / 'lessons'}; run `make notebooks` to build them")
    workspace.mkdir(parents=True, exist_ok=True)
    done = Prepared()
    state = _read_state(workspace, done)
    _remove_old_parts(workspace)
    for name, path in wanted.items():
        _deliver(workspace, name, path.read_bytes(), state.setdefault(name, {}), done)
    _write(workspace / STATE_FILE, json.dumps({"version": 1, "files": state}, indent=1, sort_keys=True).encode())
    return done


def _wanted(course_root: Path) -> dict[str, Path]:
    """The files to deliver, by their place in the workspace."""
    lessons = {f"lessons/{path.name}": path for path in sorted((course_root.parent / "lessons").glob("*.ipynb"))}
    release = sorted((course_root / "release").glob("*/*.ipynb"))
    assignments = {
        f"assignments/{path.parent.name}/{path.name}": path for path in release if path.stem == path.parent.name
    }
    pages = {name: course_root / name for name in PAGES if (course_root / name).is_file()}
    return lessons | assignments | pages


def _deliver(workspace: Path, name: str, new: bytes, record: dict[str, str], done: Prepared) -> None:
    """Bring one file up to date. `record` holds the fingerprints of what was delivered and what was last offered beside it."""
    path = workspace / name
    fresh = fingerprint(new)
    if not path.exists():
        _write(path, new)
        record |= {"delivered": fresh, "bytes": _sha(new)}
        done.placed.append(name)
        return
    old = path.read_bytes()
    mine = fingerprint(old)
    if mine == fresh:
        if _sha(old) == record.get("bytes"):
            _write(path, new)  # the same text with other outputs, and the learner ran nothing
            record["bytes"] = _sha(new)
        record["delivered"] = fresh
    elif mine == record.get("delivered"):
        if _sha(old) != record.get("bytes"):
            _write(workspace / _BACKUP / name, old)  # it was run: its outputs may have taken an hour
        _write(path, new)
        record |= {"delivered": fresh, "bytes": _sha(new)}
        done.renewed.append(name)
    elif fresh in (record.get("delivered"), record.get("offered")):
        done.kept.append(name)
    else:
        beside = _place_beside(path, new, record.get("offered"))
        record["offered"] = fresh
        done.beside.append(beside.relative_to(workspace).as_posix())
        done.messages.append(f"{name} has your changes and stays; the new version is beside it as {beside.name}")


def _place_beside(path: Path, new: bytes, offered: str | None) -> Path:
    """Write the new version as NAME.updated.ipynb, or under the next number where the learner edited that one too."""
    number = 1
    while True:
        mark = "updated" if number == 1 else f"updated-{number}"
        beside = path.with_name(f"{path.stem}.{mark}{path.suffix}")
        if not beside.exists() or fingerprint(beside.read_bytes()) in (offered, fingerprint(new)):
            _write(beside, new)
            return beside
        number += 1


def fingerprint(content: bytes) -> str:
    """A hash of what a learner edits: kind, text and attachments of a notebook's cells, or all bytes of any other file.

    >>> empty = b'{"cells": [], "nbformat": 4}'
    >>> fingerprint(empty) == fingerprint(empty.replace(b" ", b"")), fingerprint(b"a") == fingerprint(b"b")
    (True, False)
    """
    try:
        cells = json.loads(content)["cells"]
        text = [[c["cell_type"], "".join(c["source"]), c.get("attachments", {})] for c in cells]
        return _sha(json.dumps(text, sort_keys=True).encode())
    except (ValueError, TypeError, KeyError, RecursionError):
        return _sha(content)


def _sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _read_state(workspace: Path, done: Prepared) -> dict[str, dict[str, str]]:
    """What was delivered earlier; empty when nothing was or the record is damaged, so that every file counts as edited."""
    path = workspace / STATE_FILE
    if not path.exists():
        return {}
    try:
        data: Any = json.loads(path.read_text(encoding="utf-8"))
        return {str(name): {str(k): str(v) for k, v in record.items()} for name, record in data["files"].items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        done.messages.append(f"{STATE_FILE} cannot be read; files that differ from the course are kept as yours")
        return {}


def _write(path: Path, content: bytes) -> None:
    """The file with this content, or as it was: never part of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, part = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(part, 0o644)
        os.replace(part, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(part)
        raise


def _remove_old_parts(workspace: Path) -> None:
    """Delete what a killed run left behind; a run that goes on beside this one is not disturbed."""
    for folder in (workspace, workspace / "lessons", *(workspace / "assignments").glob("*")):
        for part in folder.glob(".*.part"):
            with contextlib.suppress(OSError):
                if time.time() - part.stat().st_mtime > _STALE_PART_S:
                    part.unlink()


def main(argv: list[str] | None = None) -> int:
    """`python -m grader.workspace [WORKSPACE]`: prepare it and say what changed; the exit status."""
    from grader.course import find_root

    parser = argparse.ArgumentParser(prog="python -m grader.workspace", description=main.__doc__)
    parser.add_argument("workspace", nargs="?", type=Path, help="default: my_course beside the course")
    options = parser.parse_args(argv)
    try:
        root = find_root()
        done = prepare(options.workspace or root.parent / "my_course", root)
    except OSError as error:
        print(error, file=sys.stderr)
        return 1
    print(summary(done))
    return 0


def summary(done: Prepared) -> str:
    """What the learner reads: a line of counts, then the messages."""
    counts = [(len(done.placed), "new"), (len(done.renewed), "renewed"), (len(done.beside), "new version beside yours")]
    line = ", ".join(f"{count} {word}" for count, word in counts if count) or "everything up to date"
    return "\n".join([f"your copies: {line}", *done.messages])


if __name__ == "__main__":
    sys.exit(main())
