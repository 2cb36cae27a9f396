"""Loads a course folder: chapters, their exercises, the worked solutions and points.

`exercises.py` is read as text (jupytext percent cells), `checks.py` is imported. Nothing is built and nothing of Jupyter is imported, so that a
first `check` in a notebook stays quick.
"""

from __future__ import annotations

import difflib
import functools
import importlib.util
import itertools
import linecache
import os
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from grader.exercise import Exercise, Misconception, Variant

ROOT_VARIABLE = "LLM_COURSE_ROOT"
_MARK = re.compile(r"^# %%(.*)$")
_KEY = re.compile(r"(\w+)=(\"[^\"]*\"|\[[^\]]*\]|[^\s]+)")
_SOLUTION = re.compile(r"^[ \t]*### (BEGIN|END) SOLUTION[ \t]*\n?", re.MULTILINE)


@dataclass(frozen=True)
class Cell:
    """One percent cell: `keys` after the mark, whether it is Markdown, its source and first line number."""

    keys: dict[str, str]
    markdown: bool
    source: str
    line: int


@dataclass(frozen=True)
class Chapter:
    """Everything of one chapter that grading needs."""

    slug: str
    folder: Path
    title: str
    given: tuple[str, ...]
    """Sources of the cells that every exercise may rely on, in order."""
    solutions: dict[str, str]
    """Worked solution by exercise, markers removed."""
    points: dict[str, float]
    exercises: dict[str, Exercise]
    manual: dict[str, float] = field(default_factory=dict)
    """Points of hand-graded cells by id."""

    def source_of(self, exercise: Exercise, item: Misconception | Variant) -> str:
        """The whole source of a wrong or different answer. ValueError when its passage does not stand exactly once."""
        if item.replace is None:
            return item.code
        old, new = item.replace
        solution = self.solutions[exercise.name]
        if solution.count(old) != 1:
            raise ValueError(
                f"{self.slug}, {exercise.name}, {item.name!r}: the passage {old!r} must stand once in the worked solution, "
                f"got {solution.count(old)} times; correct `replace`"
            )
        return solution.replace(old, new)

    def namespace(self, exercise: Exercise, source: str | None = None) -> dict[str, Any]:
        """Trusted code only: given cells, the solutions that `exercise` uses, then `source` (default: its solution), executed."""
        namespace: dict[str, Any] = {"__name__": f"answer_to_{exercise.name}"}
        for n, text in enumerate(self.given):
            _execute(text, f"given {n}", namespace)
        for name in exercise.uses:
            _execute(self.solutions[name], f"solution {name}", namespace)
        text = self.solutions[exercise.name] if source is None else source
        _execute(text, f"answer {exercise.name}", namespace)
        return namespace


def _execute(source: str, name: str, namespace: dict[str, Any]) -> None:
    """Runs trusted source, which `inspect.getsource` then finds: Triton compiles a kernel from its text."""
    filename = f"<{name} {zlib.crc32(source.encode()):08x}>"
    linecache.cache[filename] = (len(source), None, source.splitlines(keepends=True), filename)
    exec(compile(source, filename, "exec"), namespace)


def find_root(start: Path | None = None) -> Path:
    """The course folder (it holds `chapters/`): the variable LLM_COURSE_ROOT, else the nearest one above `start`, else beside this package.

    Raises: FileNotFoundError when there is none.
    """
    if named := os.environ.get(ROOT_VARIABLE):
        if (Path(named) / "chapters").is_dir():
            return Path(named).resolve()
        raise FileNotFoundError(
            f"{ROOT_VARIABLE} is {named}, which holds no folder chapters/; set it to the course folder"
        )
    here = (start or Path.cwd()).resolve()
    for folder in (here, *here.parents, Path(__file__).resolve().parent.parent):
        for candidate in (folder, folder / "course"):
            if (candidate / "chapters").is_dir() and any((candidate / "chapters").glob("*/checks.py")):
                return candidate
    raise FileNotFoundError(
        f"no course found from {here}; go into the cloned course, or set {ROOT_VARIABLE} to its course/ folder"
    )


def slugs(root: Path | None = None) -> list[str]:
    """Chapters that have exercises, in order."""
    folder = (root or find_root()) / "chapters"
    return sorted(p.parent.name for p in folder.glob("*/exercises.py") if (p.parent / "checks.py").is_file())


def read_cells(path: Path) -> Iterator[Cell]:
    """The percent cells of a file, as jupytext would split them. Text before the first mark is left out."""
    lines = path.read_text(encoding="utf-8").splitlines()
    marks = [n for n, line in enumerate(lines) if _MARK.match(line)] + [len(lines)]
    for start, end in itertools.pairwise(marks):
        head = _MARK.match(lines[start]).group(1)  # type: ignore[union-attr]
        keys = {k: v.strip('"') for k, v in _KEY.findall(head)}
        body = lines[start + 1 : end]
        markdown = "[markdown]" in head
        if markdown:
            body = [line[2:] if line.startswith("# ") else line.lstrip("#") for line in body]
        yield Cell(keys, markdown, "\n".join(body).strip("\n") + "\n", start + 2)


def load(slug: str, root: Path | None = None) -> Chapter:
    """One chapter, read again when its files have changed. Raises ValueError for an unknown slug, naming the nearest."""
    root = root or find_root()
    folder = root / "chapters" / slug
    if slug not in slugs(root):
        near = difflib.get_close_matches(slug, slugs(root), n=1, cutoff=0.4)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ValueError(f"no chapter is called {slug!r}{hint} There are: {', '.join(slugs(root)) or 'none'}")
    return _load(slug, folder, tuple((folder / name).stat().st_mtime_ns for name in ("exercises.py", "checks.py")))


@functools.lru_cache(maxsize=64)
def _load(slug: str, folder: Path, changed_ns: tuple[int, ...]) -> Chapter:
    cells = list(read_cells(folder / "exercises.py"))
    title = next(
        (c.source.splitlines()[0].lstrip("# ").strip() for c in cells if c.markdown and c.source.strip()), slug
    )
    return Chapter(
        slug=slug,
        folder=folder,
        title=title,
        given=tuple(c.source for c in cells if "given" in c.keys),
        solutions={c.keys["exercise"]: _SOLUTION.sub("", c.source) for c in cells if "exercise" in c.keys},
        points={c.keys["judge"]: float(c.keys.get("points", "1")) for c in cells if "judge" in c.keys},
        exercises={e.name: e for e in _import_checks(folder / "checks.py").EXERCISES},
        manual={c.keys["manual"]: float(c.keys.get("points", "1")) for c in cells if "manual" in c.keys},
    )


load.cache_clear = _load.cache_clear  # type: ignore[attr-defined]


def _import_checks(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(f"course_checks_{path.parent.name}", path)
    module = importlib.util.module_from_spec(spec)  # type: ignore[arg-type]
    spec.loader.exec_module(module)  # type: ignore[union-attr]
    return module


def find(function: str, root: Path | None = None) -> tuple[Chapter, Exercise]:
    """The chapter and exercise that ask for `function`. Raises ValueError naming the nearest when none does."""
    root = root or find_root()
    names: dict[str, str] = {}
    for slug in slugs(root):
        for cell in read_cells(root / "chapters" / slug / "exercises.py"):
            if "exercise" in cell.keys:
                names[cell.keys["exercise"]] = slug
    if function in names:
        chapter = load(names[function], root)
        return chapter, chapter.exercises[function]
    for slug in dict.fromkeys(names.values()):
        chapter = load(slug, root)
        for exercise in chapter.exercises.values():
            if function in exercise.all_functions:
                return chapter, exercise
    near = difflib.get_close_matches(function, names, n=1)
    raise ValueError(
        f"no exercise is called {function!r}"
        + (f"; did you mean {near[0]}?" if near else f"; there are: {', '.join(names)}")
    )
