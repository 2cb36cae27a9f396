"""A chapter's text files as lists of cells, and where everything of a course lies.

jupytext reads the percent text; this module adds what the course means by the short keys (`exercise="rms_norm"`), the line
on which each cell starts, and clear errors. It writes nothing: `tools.build` makes notebooks of what is read here.
"""

from __future__ import annotations

import difflib
import re
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

KEYS = ("given", "exercise", "check", "judge", "manual")
"""What a cell of `exercises.py` can be; a cell without a key is free text or code."""
SLUG = re.compile(r"\d\d_[a-z0-9]+(_[a-z0-9]+)*")
_GRADED = ("judge", "manual")
_PROSE = ("manual", "fill")
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
_MARKER = re.compile(r"# %%(?!%)")
_TITLE = re.compile(r"# (?P<number>\d\d) (?P<title>\S.*)")
_TIME = re.compile(r"\*Time: (?P<number>\d+) (?P<unit>minutes?|hours?)\.(?: Builds on: (?P<needs>[^*]+?)\.?)?\*")


CODE_ROOT = Path(__file__).resolve().parent.parent
"""Where `llmcore` and `grader` lie; a course elsewhere (a test's) is built with them too."""


class BuildError(Exception):
    """What is wrong with a chapter, where, and what to do about it; the text is for the chapter's author."""

    def __init__(self, where: Path | str, line: int, message: str) -> None:
        super().__init__(f"{where}:{line}: {message}")
        self.where, self.line, self.message = where, line, message


def skip_slow_import() -> None:
    """Keep nbformat from building 35 grammars at its import, which take two seconds and check only URIs in schemas."""
    sys.modules.setdefault("rfc3987_syntax", None)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Course:
    """A course by its root folder: the one that holds `course/`, `lessons/` and `solutions/`."""

    root: Path

    @property
    def folder(self) -> Path:
        return self.root / "course"

    def slugs(self) -> list[str]:
        """The chapters that exist, in order."""
        chapters = self.folder / "chapters"
        if not chapters.is_dir():
            return []
        return sorted(path.name for path in chapters.iterdir() if path.is_dir() and SLUG.fullmatch(path.name))

    def text(self, slug: str, name: str) -> Path:
        """`lesson.py`, `exercises.py` or `checks.py` of a chapter."""
        return self.folder / "chapters" / slug / name

    def lesson(self, slug: str) -> Path:
        return self.root / "lessons" / f"{slug}.ipynb"

    def solution(self, slug: str) -> Path:
        return self.root / "solutions" / f"{slug}.ipynb"

    def source(self, slug: str) -> Path:
        return self.folder / "source" / slug / f"{slug}.ipynb"

    def release(self, slug: str) -> Path:
        return self.folder / "release" / slug / f"{slug}.ipynb"

    def relative(self, path: Path) -> str:
        """The path from the root, with forward slashes."""
        return path.relative_to(self.root).as_posix()

    def find(self, wanted: str) -> str:
        """The chapter that `wanted` names, in full or by its number.

        Raises: ValueError when there is none.
        """
        slugs = self.slugs()
        for slug in slugs:
            if wanted.strip("/").split("/")[-1] in (slug, slug[:2]):
                return slug
        near = difflib.get_close_matches(wanted, slugs, n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are: {', '.join(slugs) or 'none yet'}"
        raise ValueError(f"no chapter is called {wanted!r}; {hint}")


@dataclass(frozen=True)
class Cell:
    """One cell of a chapter's text. `key` is one of `KEYS`, or "" for a free cell; `name` is the key's value."""

    cell_type: str
    source: str
    line: int
    """The line of the `# %%` marker, from 1."""
    key: str = ""
    name: str = ""
    points: float | int | None = None
    tags: tuple[str, ...] = ()

    @property
    def grade_id(self) -> str:
        """The id under which nbgrader knows the cell, or "" for a free cell.

        >>> Cell("code", "", 1, "judge", "rms_norm", 4).grade_id, Cell("code", "", 1, "exercise", "rms_norm").grade_id
        ('judge_rms_norm', 'rms_norm')
        """
        return grade_id(self.key, self.name)


def grade_id(key: str, name: str) -> str:
    """nbgrader's id for a keyed cell: the bare name for what a learner answers, the key before it for the others."""
    if not key:
        return ""
    return name if key in ("exercise", "manual") else f"{key}_{name}"


@dataclass(frozen=True)
class Title:
    """What the first cell of a lesson says: number, title, and the line about time and needs."""

    number: str
    title: str
    minutes: int | None
    needs: str


def read_title(cells: list[Cell], path: Path | str) -> Title:
    """The title line `# 03 Norms: ...`, and the line `*Time: 45 minutes. Builds on: ...*` where there is one.

    Raises: BuildError when the first cell does not open with such a title.
    """
    first = cells[0]
    lines = first.source.splitlines()
    title = _TITLE.fullmatch(lines[0].strip()) if first.cell_type == "markdown" and lines else None
    if title is None:
        raise BuildError(
            path, first.line, "the first cell must be Markdown and open with a title such as `# 03 Norms: ...`"
        )
    time = next(filter(None, (_TIME.fullmatch(line.strip()) for line in lines[1:])), None)
    minutes = int(time["number"]) * (60 if time["unit"].startswith("hour") else 1) if time else None
    needs = (time["needs"] or "") if time else ""
    return Title(title["number"], title["title"].strip(), minutes, needs)


def read_cells(path: Path, keys: tuple[str, ...] = KEYS) -> list[Cell]:
    """The cells of a percent text, in order.

    Raises: BuildError when the file is missing, does not start with a cell marker, or holds a key that means nothing.
    """
    if not path.is_file():
        raise BuildError(path, 1, "the file is missing; a chapter has lesson.py, exercises.py and checks.py")
    return parse_cells(path.read_text(encoding="utf-8"), path, keys)


def parse_cells(text: str, path: Path | str, keys: tuple[str, ...] = KEYS) -> list[Cell]:
    """As `read_cells`, for text at hand; `path` is only named in errors.

    >>> [(c.key, c.name, c.points) for c in parse_cells('# %% judge="f" points=2\\ngrade(f)\\n', "x.py")]
    [('judge', 'f', 2)]
    """
    skip_slow_import()
    import jupytext

    lines = text.splitlines()
    starts = [number for number, line in enumerate(lines, 1) if _MARKER.match(line)]
    if not starts or any(line.strip() for line in lines[: starts[0] - 1]):
        raise BuildError(path, 1, "the file must open with a cell marker; begin it with `# %% [markdown]`")
    raw = jupytext.reads(text, fmt="py:percent").cells
    if len(raw) != len(starts):
        raise BuildError(
            path, 1, f"got {len(starts)} cell markers but {len(raw)} cells; is there a `# %%` inside a string?"
        )
    return [_cell(cell, line, path, keys) for cell, line in zip(raw, starts)]


def _cell(raw: dict, line: int, path: Path | str, known: tuple[str, ...]) -> Cell:
    metadata = {key: value for key, value in raw["metadata"].items() if key != "lines_to_next_cell"}
    tags = tuple(metadata.pop("tags", ()))
    points = metadata.pop("points", None)
    keys = [key for key in known if key in metadata]
    unknown = sorted(set(metadata) - set(known))
    if unknown:
        near = difflib.get_close_matches(unknown[0], (*known, "points", "tags"), n=1)
        hint = f"did you mean {near[0]}?" if near else f"the keys are {', '.join(known)}, points and tags"
        raise BuildError(path, line, f"a cell has the unknown key {unknown[0]!r}; {hint}")
    if len(keys) > 1:
        raise BuildError(path, line, f"a cell is one thing only, got {' and '.join(keys)}; make two cells of it")
    key = keys[0] if keys else ""
    name = metadata.get(key, "")
    if key and not (isinstance(name, str) and _NAME.fullmatch(name)):
        raise BuildError(
            path, line, f'{key} wants a name of letters, digits and _, got {name!r}; write {key}="rms_norm"'
        )
    if raw["cell_type"] == "raw" or (key and key not in _PROSE and raw["cell_type"] != "code"):
        raise BuildError(
            path, line, f"a {key or 'raw'} cell must be code, got {raw['cell_type']}; drop the [{raw['cell_type']}]"
        )
    _check_points(key, points, line, path)
    return Cell(raw["cell_type"], raw["source"], line, key, name, points, tags)


def _check_points(key: str, points: object, line: int, path: Path | str) -> None:
    if key not in _GRADED and points is not None:
        raise BuildError(
            path, line, f"points stand on judge and manual cells only, got them on {key or 'a free cell'}; move them"
        )
    if key in _GRADED and (isinstance(points, bool) or not isinstance(points, int | float) or not 0 < points < 1000):
        raise BuildError(path, line, f'a {key} cell wants points above 0, got {points!r}; write {key}="..." points=4')


def check_exercises(cells: list[Cell], path: Path, checked: list[str] | None) -> None:
    """Hold the cells of an `exercises.py` against the rules that grading rests on.

    `checked` names the exercises of `checks.py` in order; None where the chapter has none.

    Raises: BuildError for an id given twice, a check or judge of nothing, an exercise without one, or names that differ
    from those of `checks.py`.
    """
    line_of = {cell.grade_id: cell.line for cell in reversed(cells)}
    counts = Counter(cell.grade_id for cell in cells if cell.key)
    for name, count in counts.items():
        if count > 1:
            raise BuildError(
                path, line_of[name], f"the id {name!r} is used {count} times; each cell needs a name of its own"
            )
    names = {key: [cell.name for cell in cells if cell.key == key] for key in KEYS}
    exercises = names["exercise"]
    for key in ("check", "judge"):
        for name in names[key]:
            if name not in exercises:
                near = difflib.get_close_matches(name, exercises, n=1)
                hint = f"did you mean {near[0]}?" if near else "there is no exercise of that name"
                raise BuildError(path, line_of[grade_id(key, name)], f"{key}={name!r} has no exercise; {hint}")
        for name in exercises:
            if name not in names[key]:
                raise BuildError(path, line_of[name], f'exercise {name!r} has no {key} cell; add `# %% {key}="{name}"`')
    if checked is None:
        return
    for name in exercises:
        if name not in checked:
            raise BuildError(
                path, line_of[name], f"exercise {name!r} is not in checks.py; add an Exercise of that name to EXERCISES"
            )
    for name in checked:
        if name not in exercises:
            raise BuildError(
                path.with_name("checks.py"),
                1,
                f'checks.py has {name!r}, exercises.py has not; add `# %% exercise="{name}"`',
            )
    if checked != exercises:
        raise BuildError(
            path.with_name("checks.py"), 1, f"EXERCISES must follow exercises.py, want {exercises}, got {checked}"
        )
