"""Takes submissions out of the zip that Canvas or Moodle offers for download, without believing it.

    llmcourse collect 03_norms --zip submissions.zip [--roster grades.csv]

Canvas names a file `lastfirst_LATE_1234_5678_03_norms-1.ipynb` (name, LATE or nothing, user id, file id, the student's own file name, a
number for a later attempt). Moodle puts files into `Full Name_1234_assignsubmission_file_/` or names them so. Students become
`lastfirst-1234`, unless a roster says their login: Canvas' gradebook export, or Moodle's grading worksheet.

Nothing is unpacked: members are read one by one, each bounded, and only a notebook's bytes are kept. A member whose name leads out of the
archive, a link, an encrypted or doubled name, or more than the bounds allow refuses the whole archive before anything is written.
"""

from __future__ import annotations

import csv
import os
import re
import shutil
import stat
import unicodedata
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from grader import exchange

MAX_ARCHIVE_BYTES = 4 << 30
MAX_MEMBERS = 20_000
MAX_NAME = 500
MAX_TOTAL_BYTES = 4 << 30
MAX_RATIO = 200
"""Unpacked over packed bytes of one member, above a megabyte: no notebook is packed so well."""

# The first place that fits counts: what comes before it the platform wrote, what comes after it the student may have chosen.
CANVAS = re.compile(r"(?P<name>[^/]+?)(?P<late>_LATE)?_(?P<id>\d+)_(?P<file>\d+)_(?P<own>[^/]+)", re.IGNORECASE)
MOODLE = re.compile(r"(?P<name>[^/]+?)_(?P<id>\d+)_assignsubmission_file_?[/_]?(?P<own>.+)")
ATTEMPT = re.compile(r"(?P<stem>.*?)(?:-(?P<canvas>\d+)| \((?P<copy>\d+)\))?\.ipynb", re.IGNORECASE)


class ArchiveRefused(ValueError):
    """The archive is not what a learning platform writes; nothing was taken from it."""


@dataclass(frozen=True)
class Member:
    """One notebook in the archive."""

    info: zipfile.ZipInfo
    platform: str
    name: str
    id: str
    """The platform's number of the user (Canvas) or participant (Moodle)."""
    own: str
    """The file's name as the student gave it."""
    late: bool = False


@dataclass
class Intake:
    """What came of an archive."""

    collected: list[str] = field(default_factory=list)
    unchanged: list[str] = field(default_factory=list)
    people: dict[str, tuple[str, str]] = field(default_factory=dict)
    """(the platform's number, the name as the archive writes it) by student."""
    late: list[str] = field(default_factory=list)
    """Marked late by Canvas; when they came is not in the archive."""
    notes: list[str] = field(default_factory=list)
    """What was left out and why, one sentence each."""


def collect(root: Path, slug: str, archive: Path, roster: Path | None = None) -> Intake:
    """Puts each student's notebook for `slug` into course/submitted. A student whose notebook is the same keeps it as it is.

    Raises: FileNotFoundError, ArchiveRefused, and ValueError for a roster that is none.
    """
    logins = read_roster(roster) if roster else {}
    intake = Intake()
    chosen: dict[str, Member] = {}
    for path in (archive, *([roster] if roster else [])):
        if not path.is_file():
            raise FileNotFoundError(f"there is no file {path}")
    if archive.stat().st_size > MAX_ARCHIVE_BYTES:
        raise ArchiveRefused(
            f"{archive.name} has more than {MAX_ARCHIVE_BYTES >> 30} GiB; download the assignment in parts"
        )
    try:
        with zipfile.ZipFile(archive) as file:
            for member in members(file, intake.notes):
                student = _student(member, logins)
                if student is None:
                    intake.notes.append(
                        f"{_shown(member.info.filename)}: no student's name can be made of {_shown(member.name)}."
                    )
                elif student not in chosen or _rank(member, slug) > _rank(chosen[student], slug):
                    chosen[student] = member
            for student, member in sorted(chosen.items()):
                _take(root, slug, file, student, member, intake)
    except (zipfile.BadZipFile, zipfile.LargeZipFile, NotImplementedError, EOFError, zlib.error) as error:
        raise ArchiveRefused(f"{archive.name} is no sound zip file: {error}") from None
    return intake


def members(file: zipfile.ZipFile, notes: list[str]) -> Iterator[Member]:
    """The notebooks of an archive that a platform wrote. Looks at every name before it gives the first.

    Raises: ArchiveRefused naming the first member that should not be there.
    """
    infos = file.infolist()
    if len(infos) > MAX_MEMBERS:
        raise ArchiveRefused(f"the archive has {len(infos):,} members, at most {MAX_MEMBERS:,} are read")
    seen: set[str] = set()
    for info in infos:
        if why := _refusal(info, seen):
            raise ArchiveRefused(f"the archive holds {_shown(info.filename)}, {why}; nothing was taken from it")
    if (total := sum(info.file_size for info in infos)) > MAX_TOTAL_BYTES:
        raise ArchiveRefused(f"the archive unpacks to {total:,} bytes, at most {MAX_TOTAL_BYTES:,} are read")
    for info in infos:
        if info.is_dir():
            continue
        found = _parsed(info)
        if found is None:
            notes.append(
                f"{_shown(info.filename)}: named neither as Canvas nor as Moodle names a submission; left out."
            )
        elif not found.own.lower().endswith(".ipynb"):
            notes.append(f"{_shown(info.filename)}: no notebook; left out.")
        else:
            yield found


def _refusal(info: zipfile.ZipInfo, seen: set[str]) -> str | None:
    name = info.filename
    kind = stat.S_IFMT(info.external_attr >> 16)
    if not name or len(name) > MAX_NAME or name != info.orig_filename.split("\0")[0] or "\0" in info.orig_filename:
        return "whose name is empty, too long or cut off"
    if any(unicodedata.category(c) in ("Cc", "Cs") or c == "\\" for c in name):
        return "whose name holds characters that no file name should"
    if name.startswith("/") or ":" in name.split("/")[0] or ".." in name.split("/"):
        return "whose name leads out of the archive"
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "a link or a device"
    if info.flag_bits & 0x1:
        return "which is encrypted"
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return "packed in a way that no platform uses"
    if info.file_size > 1 << 20 and info.file_size > MAX_RATIO * max(1, info.compress_size):
        return "which unpacks to far more than any notebook"
    folded = unicodedata.normalize("NFC", name).casefold().rstrip("/")
    if folded in seen:
        return "a name that stands twice"
    seen.add(folded)
    return None


def _parsed(info: zipfile.ZipInfo) -> Member | None:
    parts = info.filename.split("/")
    for start in range(len(parts)):  # the whole may lie in a folder of its own
        tail = "/".join(parts[start:])
        found = [m for pattern in (MOODLE, CANVAS) if (m := pattern.fullmatch(tail))]
        if found:
            first = min(found, key=lambda m: m.start("id"))
            late = bool(first.groupdict().get("late"))
            platform = "moodle" if first.re is MOODLE else "canvas"
            return Member(info, platform, first["name"], first["id"], first["own"].split("/")[-1], late)
    return None


def _student(member: Member, logins: dict[str, str]) -> str | None:
    name = logins.get(member.id) or f"{_plain(member.name)[:40]}-{member.id}".lstrip("-")
    return name if exchange.STUDENT.fullmatch(name) else None


def _plain(name: str) -> str:
    """A person's name as a folder could be called: letters without accents, lower case."""
    ascii_only = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    return re.sub(r"[^a-z0-9]+", "", ascii_only.casefold())


def _rank(member: Member, slug: str) -> tuple[bool, int, tuple[int, ...]]:
    """Of several notebooks of one student the one that counts: named as the assignment, then the latest attempt."""
    found = ATTEMPT.fullmatch(member.own)
    stem = found["stem"] if found else member.own
    attempt = int((found["canvas"] or found["copy"] or "0")[:9]) if found else 0
    return (stem.casefold() == slug.casefold(), attempt, member.info.date_time)


def _take(root: Path, slug: str, file: zipfile.ZipFile, student: str, member: Member, intake: Intake) -> None:
    if member.info.file_size > exchange.MAX_NOTEBOOK_BYTES:
        intake.notes.append(f"{student}: the notebook has more than {exchange.MAX_NOTEBOOK_BYTES:,} bytes; left out.")
        return
    with file.open(member.info) as stream:  # a false size in the archive's list ends here too
        data = stream.read(exchange.MAX_NOTEBOOK_BYTES + 1)
    if len(data) > exchange.MAX_NOTEBOOK_BYTES:
        intake.notes.append(f"{student}: the notebook has more than {exchange.MAX_NOTEBOOK_BYTES:,} bytes; left out.")
        return
    if _rank(member, slug)[0] is False:
        intake.notes.append(f"{student}: the file is called {_shown(member.own)}, not {slug}.ipynb; taken as it is.")
    if member.late:
        intake.late.append(student)
    intake.people[student] = (member.id, member.name)
    folder = root / "submitted" / student / slug
    notebook = folder / f"{slug}.ipynb"
    if notebook.is_file() and not notebook.is_symlink() and notebook.read_bytes() == data:
        intake.unchanged.append(student)
        return
    part = folder.with_name(f".{slug}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    (part / f"{slug}.ipynb").write_bytes(data)
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(part, folder)
    intake.collected.append(student)


def read_roster(path: Path) -> dict[str, str]:
    """Logins by the platform's number, from Canvas' gradebook export or Moodle's grading worksheet.

    Canvas: columns `ID` and `SIS Login ID`. Moodle: `Identifier` ("Participant 1234") and `Username`, or `Email address`, of which
    the part before the @ is taken.

    Raises: ValueError when the columns are not there or two people would get one login, FileNotFoundError.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    with path.open(encoding="utf-8-sig", newline="", errors="replace") as file:
        rows = [row for row, _ in zip(csv.DictReader(file), range(100_000))]
    columns = set(rows[0]) if rows else set()
    number = "ID" if {"ID", "SIS Login ID"} <= columns else "Identifier"
    login = next((c for c in ("SIS Login ID", "Username", "Email address") if c in columns), "")
    if number not in columns or not login:
        raise ValueError(
            f"{path.name} is no roster: wanted Canvas' columns ID and SIS Login ID, or Moodle's Identifier and Username or Email address"
        )
    logins: dict[str, str] = {}
    for row in rows:
        digits, name = re.search(r"\d+", row[number] or ""), (row[login] or "").split("@")[0].strip()
        if digits and name:
            logins[digits[0]] = name
    if len(set(logins.values())) < len(logins):
        raise ValueError(f"{path.name} gives two people the same login in column {login!r}; use another roster")
    return logins


def _shown(name: str) -> str:
    return ascii(name if len(name) <= 80 else name[:77] + "...")
