"""Reads a submission as text and takes from it only what is asked for: the source of known exercises.

Nothing of a submission is executed, imported or believed here: no metadata but the ids of cells, no outputs, no test cells, no
points. Trouble that a student can cause becomes a `Problem` with one sentence for the student, never an exception.
"""

from __future__ import annotations

import ast
import difflib
import functools
import hashlib
import json
import os
import re
import stat
import unicodedata
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

MAX_BYTES = 20_000_000
MAX_ITEMS = 2_000_000
MAX_DEPTH = 100
MAX_CELLS = 5_000
MAX_SOURCE_CHARACTERS = 60_000
"""Of one cell: several times the longest honest answer, and what can be parsed in a second whatever it holds."""
MAX_FOLDER_ENTRIES = 1_000

FATAL = frozenset({"missing_file", "not_regular", "odd_name", "unreadable", "too_big", "not_json", "not_notebook"})
"""Kinds of problem after which there is nothing to grade."""


@dataclass(frozen=True)
class Manifest:
    """What an assignment asks for. It comes from the course, never from a submission."""

    assignment: str
    """Its name, e.g. "03_norms"; the notebook is called so too."""
    exercises: dict[str, tuple[str, ...]]
    """Functions that each exercise's cell must define, by exercise id."""
    manual: tuple[str, ...] = ()
    """Ids of hand-graded cells."""


@dataclass(frozen=True)
class Problem:
    """Something wrong with a submission, in one sentence for the student. `exercise` is None when it concerns the whole."""

    kind: str
    """missing_file, not_regular, odd_name, unreadable, too_big, not_json, not_notebook; or about one exercise: missing, refused
    (its source is not taken), and the notes duplicate, retyped, renamed, elsewhere, ignored."""
    sentence: str
    exercise: str | None = None


@dataclass
class Submission:
    """What was taken from one notebook. An exercise is in exactly one of `cells` and `absent`."""

    cells: dict[str, str] = field(default_factory=dict)
    """Canonical source by exercise id, in the manifest's order."""
    manual: dict[str, str] = field(default_factory=dict)
    """Text of hand-graded cells, as it stands."""
    absent: dict[str, str] = field(default_factory=dict)
    """Exercises without a source: "missing" or "refused"; the reason is among the problems."""
    problems: list[Problem] = field(default_factory=list)
    file_sha256: str = ""
    """Of the file's bytes, or empty when they were not read."""

    @property
    def invalid(self) -> bool:
        """Whether the notebook as a whole could not be read: there is nothing to grade."""
        return any(p.kind in FATAL for p in self.problems)

    @property
    def cell_problems(self) -> dict[str, str]:
        """What to tell about each exercise that has a problem, in one line."""
        told: dict[str, list[str]] = {}
        for problem in self.problems:
            if problem.exercise is not None:
                told.setdefault(problem.exercise, []).append(problem.sentence)
        return {exercise: " ".join(sentences) for exercise, sentences in told.items()}

    @property
    def sha256(self) -> str:
        """Of the canonical sources and hand-graded texts alone: equal answers have equal sums."""
        text = json.dumps([sorted(self.cells.items()), sorted(self.manual.items())])
        return hashlib.sha256(text.encode()).hexdigest()

    def cell_sha256(self, exercise: str) -> str:
        """Of one exercise's canonical source."""
        return hashlib.sha256(self.cells[exercise].encode()).hexdigest()


def read_submission(path: Path, manifest: Manifest) -> Submission:
    """What a submission holds of `manifest`. `path` is the notebook, or the folder it was handed in with.

    Links, devices, pipes and odd names are refused by name. Folders above `path` are taken as the grader's own.
    """
    submission = Submission()
    raw = _read_bytes(path, manifest, submission.problems)
    if raw is not None:
        submission.file_sha256 = hashlib.sha256(raw).hexdigest()
        notebook = _parse(raw, submission.problems)
        if notebook is not None:
            _take(notebook, manifest, submission)
    for exercise in manifest.exercises:
        if exercise not in submission.cells:
            submission.absent.setdefault(exercise, "missing")
    return submission


def odd_name(name: str) -> str | None:
    """What is odd about a file name, or None.

    >>> odd_name("a.ipynb"), odd_name("-rf.ipynb")
    (None, 'starts with a dash')
    """
    if name in ("", ".", "..") or "/" in name or "\0" in name:
        return "is no name"
    if name.startswith("-"):
        return "starts with a dash"
    if len(name.encode("utf-8", "surrogateescape")) > 200:
        return "is longer than 200 bytes"
    if any(unicodedata.category(c)[0] == "C" for c in name):
        return "holds a character that cannot be seen"
    if any(c in '<>&"|:*?\\' for c in name):
        return 'holds one of < > & " | : * ? \\'
    return None


def _shown(name: str) -> str:
    return ascii(name if len(name) <= 80 else name[:77] + "...")


def _read_bytes(path: Path, manifest: Manifest, problems: list[Problem]) -> bytes | None:
    """The notebook's bytes. Opened once, without following links, and looked at through the descriptor."""
    try:
        found = os.lstat(path)
        if stat.S_ISDIR(found.st_mode):
            folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                _look_around(folder, manifest, problems)
                return _read_file(f"{manifest.assignment}.ipynb", folder, problems)
            finally:
                os.close(folder)
        return _read_file(path.name, os.fspath(path.parent), problems)
    except FileNotFoundError:
        problems.append(Problem("missing_file", f"There is no {_shown(path.name)}."))
    except (OSError, ValueError) as error:
        reason = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else "its name is no name"
        problems.append(Problem("unreadable", f"{_shown(path.name)} cannot be read: {reason}."))
    return None


def _read_file(name: str, folder: int | str, problems: list[Problem]) -> bytes | None:
    if why := odd_name(name):
        problems.append(Problem("odd_name", f"The name {_shown(name)} {why}; rename the file."))
        return None
    where = {"dir_fd": folder} if isinstance(folder, int) else {}
    target = name if isinstance(folder, int) else os.path.join(folder, name)
    if why := _not_plain(os.stat(target, follow_symlinks=False, **where)):
        problems.append(
            Problem("not_regular", f"{_shown(name)} is {why}, not a file of its own; hand in the notebook itself.")
        )
        return None
    descriptor = os.open(target, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, **where)
    with open(descriptor, "rb") as file:
        if why := _not_plain(os.fstat(descriptor)):  # what was opened may not be what was looked at
            problems.append(Problem("not_regular", f"{_shown(name)} is {why}, not a file of its own."))
            return None
        raw = file.read(MAX_BYTES + 1)
    if len(raw) > MAX_BYTES:
        problems.append(
            Problem(
                "too_big",
                f"{_shown(name)} is larger than {MAX_BYTES // 1_000_000} MB; clear the outputs and hand it in again.",
            )
        )
        return None
    return raw


def _not_plain(found: os.stat_result) -> str | None:
    kinds = {
        stat.S_IFLNK: "a symbolic link",
        stat.S_IFDIR: "a folder",
        stat.S_IFIFO: "a pipe",
        stat.S_IFSOCK: "a socket",
        stat.S_IFCHR: "a device",
        stat.S_IFBLK: "a device",
    }
    if not stat.S_ISREG(found.st_mode):
        return kinds.get(stat.S_IFMT(found.st_mode), "no regular file")
    return "a hard link" if found.st_nlink > 1 else None


def _look_around(folder: int, manifest: Manifest, problems: list[Problem]) -> None:
    """Notes what else lies in the folder and is left alone; links, devices and odd names are named."""
    with os.scandir(folder) as entries:
        for count, entry in enumerate(entries):
            if count >= MAX_FOLDER_ENTRIES:
                problems.append(
                    Problem(
                        "ignored", f"There are more than {MAX_FOLDER_ENTRIES} files beside the notebook; none is used."
                    )
                )
                return
            if entry.name == f"{manifest.assignment}.ipynb":
                continue
            why = _not_plain(entry.stat(follow_symlinks=False))
            if why in (None, "a folder"):
                why = odd_name(entry.name) and f"a file whose name {odd_name(entry.name)}"
            if why and len(problems) < 20:
                problems.append(Problem("ignored", f"{_shown(entry.name)} is {why}; it is ignored."))


# Strings, also one that never ends, so that a scan is linear whatever the bytes are.
_JSON_STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"?', re.DOTALL)


def _parse(raw: bytes, problems: list[Problem]) -> dict[str, Any] | None:
    def refuse(kind: str, sentence: str) -> None:
        problems.append(Problem(kind, sentence))

    if not raw.strip():
        return refuse("not_json", "The file is empty.")
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\0" in raw[:4]:
        return refuse("not_json", "The file is not UTF-8 text; open it in Jupyter and save it again.")
    raw = raw.removeprefix(b"\xef\xbb\xbf")
    if raw.count(b",") + raw.count(b"[") + raw.count(b"{") > MAX_ITEMS:
        return refuse("too_big", "The notebook holds too many items; clear the outputs and hand it in again.")
    depth = 0
    for bracket in re.finditer(rb"[\[\]{}]", _JSON_STRING.sub(b"", raw)):
        depth += 1 if bracket[0] in b"[{" else -1
        if depth > MAX_DEPTH:
            return refuse("not_notebook", f"The file is nested deeper than {MAX_DEPTH} levels, which no notebook is.")
    try:
        notebook = json.loads(raw.decode("utf-8"), object_pairs_hook=_object)
    except UnicodeDecodeError:
        return refuse("not_json", "The file is not UTF-8 text; open it in Jupyter and save it again.")
    except (ValueError, RecursionError) as error:
        where = f" (line {error.lineno})" if isinstance(error, json.JSONDecodeError) else ""
        return refuse(
            "not_json", f"The file is not a notebook: it is no valid JSON{where}; open it in Jupyter and save it again."
        )
    if type(notebook) is not dict or type(notebook.get("cells")) is not list:
        old = type(notebook) is dict and "worksheets" in notebook
        return refuse(
            "not_notebook",
            "The notebook has an old format; open it in Jupyter and save it again."
            if old
            else "The file is no notebook: it has no list of cells.",
        )
    if notebook.get("nbformat") != 4:
        return refuse(
            "not_notebook",
            f"The notebook has format {_shown(str(notebook.get('nbformat')))}; format 4 is read. Open it in Jupyter and save it again.",
        )
    if len(notebook["cells"]) > MAX_CELLS:
        return refuse("too_big", f"The notebook has more than {MAX_CELLS} cells.")
    return notebook


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ValueError("a key twice in one object")
    return made


def _take(notebook: dict[str, Any], manifest: Manifest, submission: Submission) -> None:
    found: dict[str, list[tuple[str, str]]] = {}
    others: list[str] = []
    for cell in notebook["cells"]:
        if type(cell) is not dict:
            continue
        kind, text, grade_id = cell.get("cell_type"), _text_of(cell.get("source")), _grade_id(cell)
        if text is None:
            if grade_id in manifest.exercises:
                found.setdefault(grade_id, []).append(("unreadable", ""))
        elif grade_id in manifest.exercises or grade_id in manifest.manual:
            found.setdefault(grade_id, []).append((kind if type(kind) is str else "", text))
        elif kind == "code":
            others.append(text)
    for grade_id, functions in manifest.exercises.items():
        if grade_id in found:
            _take_exercise(grade_id, functions, found[grade_id], submission)
        else:
            _note_missing(grade_id, functions, others, submission.problems)
    for grade_id in manifest.manual:
        if grade_id in found:
            submission.manual[grade_id] = _canonical(found[grade_id][-1][1])[:MAX_SOURCE_CHARACTERS]


def _text_of(source: Any) -> str | None:
    if type(source) is str:
        return source
    if type(source) is list and all(type(line) is str for line in source):
        return "".join(source)
    return None


def _grade_id(cell: dict[str, Any]) -> str | None:
    metadata = cell.get("metadata")
    own = metadata.get("nbgrader") if type(metadata) is dict else None
    grade_id = own.get("grade_id") if type(own) is dict else None
    return grade_id if type(grade_id) is str else None


def _canonical(text: str) -> str:
    """One newline at the end, none of the carriage returns, no blanks at line ends: equal answers, equal sums."""
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    return "\n".join(line.rstrip(" \t") for line in lines).strip("\n") + "\n"


def _take_exercise(
    exercise: str, functions: tuple[str, ...], copies: list[tuple[str, str]], submission: Submission
) -> None:
    problems = submission.problems
    kind, text = copies[-1]
    if len(copies) > 1:
        problems.append(Problem("duplicate", f"{exercise} has {len(copies)} cells; the last one is graded.", exercise))
    if kind not in ("code", "unreadable"):
        problems.append(
            Problem(
                "retyped", f"The cell of {exercise} is no longer a code cell; its text is graded as code.", exercise
            )
        )
    source = _canonical(text)
    if sentence := _unacceptable(kind, source):
        problems.append(Problem("refused", f"{exercise}: {sentence}", exercise))
        submission.absent[exercise] = "refused"
        return
    submission.cells[exercise] = source
    if sentence := _renamed(source, functions):
        problems.append(Problem("renamed", f"{exercise}: {sentence}", exercise))


def _unacceptable(kind: str, source: str) -> str | None:
    if kind == "unreadable":
        return "the cell's source is not text."
    if len(source) > MAX_SOURCE_CHARACTERS:
        return f"the cell is longer than {MAX_SOURCE_CHARACTERS} characters."
    if "\0" in source or any("\ud800" <= c <= "\udfff" for c in source):
        return "the cell holds characters that are no text (NUL, or half of a pair)."
    if magic := _magic_line(source):
        return f"line {magic} is a notebook command (it begins with % or !), which grading does not run; take it out of this cell."
    return None


def _magic_line(source: str) -> int | None:
    """The line of an IPython command. Only asked of a source that is no Python, so a continuation `% n` is none."""
    if _tree(source) is not None:
        return None
    lines = source.splitlines()
    return next((n for n, line in enumerate(lines, 1) if re.match(r"[ \t]*(!|%%?[A-Za-z])", line)), None)


@functools.lru_cache(maxsize=2)  # the same source is asked about several times in a row
def _tree(source: str) -> ast.Module | None:
    try:
        return ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _defined(source: str) -> set[str] | None:
    """Names that a source binds at its top level, or None when it is no Python."""
    tree = _tree(source)
    if tree is None:
        return None
    names: set[str] = set()
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names |= {(a.asname or a.name).split(".")[0] for a in node.names}
        else:
            names |= {n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    return names


def _renamed(source: str, functions: tuple[str, ...]) -> str | None:
    names = _defined(source)
    if names is None or "*" in names:
        return None
    absent = [f for f in functions if f not in names]
    if not absent:
        return None
    shown = ", ".join(sorted(names)[:6])
    near = difflib.get_close_matches(absent[0], names, n=1, cutoff=0.5)
    hint = f" Did you mean {near[0]}? Its name must be {absent[0]}." if near else ""
    return f"the cell does not define {', '.join(absent)}; it defines {shown or 'nothing'}.{hint}"


def _note_missing(exercise: str, functions: tuple[str, ...], others: list[str], problems: list[Problem]) -> None:
    sentence = f"{exercise}: its cell is not in the notebook."
    # Blanks are counted, and none crosses a line: with \s the search would be quadratic in a cell of empty lines.
    pattern = re.compile(rf"^[ \t]{{0,40}}def[ \t]{{1,40}}({'|'.join(map(re.escape, functions))})\b", re.MULTILINE)
    if functions and any(pattern.search(text) for text in others):
        sentence += (
            " Another cell defines it; move that code into the exercise's own cell of a fresh copy of the assignment."
        )
        problems.append(Problem("elsewhere", sentence, exercise))
    else:
        problems.append(Problem("missing", sentence, exercise))
