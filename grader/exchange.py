"""Handing in and collecting on one machine: folders in nbgrader's exchange layout, so that nbgrader's own commands can read them too.

EXCHANGE/llm_principles/inbound/STUDENT+ASSIGNMENT+TIME+RANDOM/   what was handed in
course/submitted/STUDENT/ASSIGNMENT/                              what was collected, newest of each student
EXCHANGE/llm_principles/feedback/STUDENT/ASSIGNMENT/              what was returned
"""

from __future__ import annotations

import contextlib
import getpass
import itertools
import os
import re
import secrets
import shutil
import stat
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from grader.bridge import COURSE_ID

EXCHANGE_VARIABLE = "LLM_COURSE_EXCHANGE"
TIME_FORMAT = "%Y-%m-%d %H:%M:%S.%f %Z"
_TIME = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(\.\d+)? UTC")
MAX_NOTEBOOK_BYTES = 20_000_000
MAX_FILES = 1_001
"""Files of one hand-in that are copied; intake says when there are more than a thousand."""
STUDENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")


@dataclass(frozen=True)
class HandIn:
    """One folder of the inbound exchange."""

    folder: Path
    student: str
    assignment: str
    time: str


def exchange_root(root: Path) -> Path:
    """The exchange folder of this course: the variable LLM_COURSE_EXCHANGE, else course/exchange."""
    return Path(os.environ.get(EXCHANGE_VARIABLE) or root / "exchange") / COURSE_ID


def user_name() -> str:
    """The name under which this person hands in."""
    return os.environ.get("LLM_COURSE_USER") or getpass.getuser()


def check_student(student: str) -> str:
    """`student`, if it can be a folder's name. Raises ValueError otherwise."""
    if not STUDENT.fullmatch(student):
        raise ValueError(
            f"a student's name holds letters, digits, '.', '_', '@' and '-' (64 at most), got {student!r}; choose another with --student"
        )
    return student


def submit(root: Path, slug: str, notebook: Path, student: str) -> Path:
    """Copies a notebook into the inbound exchange and returns the new folder; earlier hand-ins stay.

    Raises: FileNotFoundError when the notebook is missing, ValueError when it is too large.
    """
    check_student(student)
    if not notebook.is_file():
        raise FileNotFoundError(
            f"no notebook {notebook}; hand in from the folder that holds it, or name it with --notebook"
        )
    if (size := notebook.stat().st_size) > MAX_NOTEBOOK_BYTES:
        raise ValueError(
            f"{notebook.name} has {size:,} bytes, at most {MAX_NOTEBOOK_BYTES:,} can be handed in; clear its outputs and save"
        )
    time = datetime.now(UTC).strftime(TIME_FORMAT)
    inbound = exchange_root(root) / "inbound"
    inbound.mkdir(parents=True, exist_ok=True)
    name = f"{student}+{slug}+{time}+{secrets.token_hex(6)}"
    part = inbound / f".{name}.part"
    part.mkdir()
    shutil.copyfile(notebook, part / f"{slug}.ipynb")
    (part / "timestamp.txt").write_text(time, encoding="utf-8")
    final = inbound / name
    os.replace(part, final)
    return final


def hand_ins(root: Path, slug: str) -> list[HandIn]:
    """What lies in the inbound exchange for one assignment, oldest first; names that nobody could have are left out."""
    found = []
    for folder in sorted((exchange_root(root) / "inbound").glob(f"*+{slug}+*")):
        parts = folder.name.split("+")
        if folder.is_dir() and not folder.is_symlink() and len(parts) >= 3 and STUDENT.fullmatch(parts[0]):
            found.append(HandIn(folder, parts[0], parts[1], _sound_time(parts[2], folder)))
    return sorted(found, key=lambda h: (h.student, h.time))


def _sound_time(text: str, folder: Path) -> str:
    """The time in a folder's name. When it is none, or is still to come, the time at which the file system last saw the folder change."""
    now = datetime.now(UTC).strftime(TIME_FORMAT)
    if _TIME.fullmatch(text) and text <= now:
        return text
    return datetime.fromtimestamp(folder.stat().st_ctime, UTC).strftime(TIME_FORMAT)


def collect(root: Path, slug: str) -> tuple[list[str], list[str]]:
    """Copies each student's newest hand-in to course/submitted. Returns (collected, already there)."""
    collected, kept = [], []
    for hand_in in {h.student: h for h in hand_ins(root, slug)}.values():
        target = root / "submitted" / hand_in.student / slug
        stamp = target / "timestamp.txt"
        if stamp.is_file() and stamp.read_text(encoding="utf-8").strip() >= hand_in.time:
            kept.append(hand_in.student)
            continue
        part = target.with_name(f".{slug}.part")
        shutil.rmtree(part, ignore_errors=True)
        part.parent.mkdir(parents=True, exist_ok=True)
        _copy(hand_in.folder, part)
        # The folder's name says when it came; the file inside could have been edited.
        (part / "timestamp.txt").unlink(missing_ok=True)
        (part / "timestamp.txt").write_text(hand_in.time, encoding="utf-8")
        shutil.rmtree(target, ignore_errors=True)
        os.replace(part, target)
        collected.append(hand_in.student)
    return sorted(collected), sorted(kept)


def _copy(source: Path, target: Path) -> None:
    """Copies what lies in a hand-in: files of its own, each cut off behind what is read of a notebook, and links as links.

    Folders, pipes, devices and files with a second name are left behind; intake then says that the notebook is not there.
    """
    target.mkdir()
    with os.scandir(source) as entries:
        for entry in itertools.islice(entries, MAX_FILES):
            found = entry.stat(follow_symlinks=False)
            if entry.is_symlink():
                os.symlink(os.readlink(entry.path), target / entry.name)
            elif stat.S_ISREG(found.st_mode) and found.st_nlink == 1:
                with contextlib.suppress(OSError):  # gone, or no longer what it was a moment ago
                    descriptor = os.open(entry.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
                    with open(descriptor, "rb") as file, open(target / entry.name, "xb") as copy:
                        if stat.S_ISREG(os.fstat(descriptor).st_mode):
                            copy.write(file.read(MAX_NOTEBOOK_BYTES + 1))


def submitted(root: Path, slug: str) -> list[str]:
    """Students with a collected submission of this assignment."""
    return sorted(
        p.parent.name for p in (root / "submitted").glob(f"*/{slug}") if p.is_dir() and STUDENT.fullmatch(p.parent.name)
    )


def timestamp(root: Path, student: str, slug: str) -> str | None:
    """When a collected submission was handed in, in nbgrader's words; None when no sound time is noted."""
    path = root / "submitted" / student / slug / "timestamp.txt"
    if path.is_symlink() or not path.is_file() or path.stat().st_size > 200:
        return None
    text = path.read_text(encoding="utf-8", errors="replace").strip()
    return text if _TIME.fullmatch(text) else None


def return_feedback(root: Path, slug: str, student: str) -> Path:
    """Puts a student's feedback where `llmcourse feedback` finds it for them. Raises FileNotFoundError when there is none."""
    source = root / "feedback" / student / slug
    if not source.is_dir():
        raise FileNotFoundError(f"no feedback for {student} on {slug}; run `llmcourse grade {slug}` first")
    target = exchange_root(root) / "feedback" / student / slug
    target.mkdir(parents=True, exist_ok=True)
    for page in source.iterdir():
        shutil.copyfile(page, target / page.name)
    return target
