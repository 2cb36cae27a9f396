"""Builds the course's notebooks from their text: `python -m tools.notebooks [--all] [--no-execute] [--check] [CHAPTER ...]`.

Of each chapter: `lessons/NN_slug.ipynb` and `solutions/NN_slug.ipynb`, executed, and `course/source/NN_slug/NN_slug.ipynb`, nbgrader's
source of the assignment. Beside them the start page and the page of claims. `--release` lets nbgrader make the assignment.
"""

from __future__ import annotations

import argparse
import ast
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tools import build, dependencies
from tools.build import METADATA_KEY, Notebook
from tools.chapter import CODE_ROOT, BuildError, Cell, Course, read_cells
from tools.execute import CellFailure, check_size, execute

EPILOG = """
what counts as changed: a notebook is executed again when its code cells, the modules of llmcore and grader that they reach (found by
reading imports), the chapter's checks.py (for solutions) or the builder's version differ from what its stored outputs were made with.
Not tracked: the interpreter, installed packages, data files, modules named only at run time; --all executes everything.
A changed text beside code never needs a run.
"""
FAILURES = (BuildError, CellFailure, ValueError, OSError)


@dataclass(frozen=True)
class Target:
    """A notebook to be built: where, the new text with the outputs that still hold, and what a run would stand for."""

    path: Path
    made: Notebook
    digest: str | None = None
    """None for notebooks that are never executed."""
    judged: tuple[Cell, ...] = ()

    @property
    def stale(self) -> bool:
        """Whether the stored outputs were made by other code."""
        return self.digest is not None and self.made["metadata"][METADATA_KEY].get("executed") != self.digest

    @property
    def unexecuted(self) -> bool:
        return self.digest is not None and any(c["execution_count"] is None for c in build.code_cells(self.made))


def exercise_names(course: Course, slug: str) -> list[str]:
    """The exercises of `checks.py`, in order. Raises: BuildError when it cannot be imported."""
    from grader.course import load

    path = course.text(slug, "checks.py")
    if not path.is_file():
        raise BuildError(path, 1, "the file is missing; list the chapter's exercises in EXERCISES")
    try:
        return list(load(slug, course.folder).exercises)
    except Exception as error:
        raise BuildError(path, 1, f"it cannot be imported ({type(error).__name__}: {error}); mend it first") from error


def targets(course: Course, slug: str, drop: tuple[str, ...] = ()) -> Iterator[Callable[[], Target]]:
    """What makes the lesson, the solution and the assignment of a chapter, each to be called for itself."""

    def lesson() -> Target:
        path = course.lesson(slug)
        made = build.with_outputs(build.lesson(course, slug), build.load(path))
        return Target(path, made, _digest(course, made))

    def solution() -> Target:
        path = course.solution(slug)
        made = build.with_outputs(build.solution(course, slug, exercise_names(course, slug)), build.load(path))
        judged = tuple(c for c in read_cells(course.text(slug, "exercises.py")) if c.key == "judge")
        return Target(path, made, _digest(course, made, course.text(slug, "checks.py")), judged)

    def source() -> Target:
        made = build.source(course, slug, exercise_names(course, slug))
        gone = [name for name in build.vanished(course, slug, made) if name not in drop]
        if gone:
            raise BuildError(
                course.text(slug, "exercises.py"),
                1,
                f"the ids {', '.join(gone)} were in the assignment and are gone, with any scores under them; restore them, or pass "
                + " ".join(f"--drop {name}" for name in gone),
            )
        return Target(course.source(slug), made)

    yield from (lesson, solution, source)


def pages(course: Course) -> Iterator[Callable[[], Target]]:
    """What makes the start page and the page of claims, from the lessons as they lie in `lessons/`."""
    from tools import pages

    yield lambda: Target(course.lesson("00_start_here"), pages.start_page(course))
    yield lambda: Target(course.lesson("claims"), pages.claims_page(course))


def run(target: Target, course: Course) -> tuple[Target, float]:
    """The target with the outputs of a fresh run, and its seconds. Raises: CellFailure, ValueError when it must not be stored."""
    name = course.relative(target.path)
    made, seconds = execute(target.made, name, course.root)
    for cell in target.judged:
        _check_judged(made, cell, name)
    made["metadata"][METADATA_KEY]["executed"] = target.digest
    check_size(build.dump(made), name)
    return Target(target.path, made, target.digest, target.judged), seconds


def _check_judged(made: Notebook, cell: Cell, name: str) -> None:
    """The worked solution must earn all points of its judge cell, in the way nbgrader reads them."""
    index, item = next((n, c) for n, c in enumerate(made["cells"]) if c["id"] == cell.grade_id)
    last = ast.parse(item["source"]).body[-1]
    if isinstance(last, ast.Expr) and isinstance(last.value, ast.Constant):
        raise CellFailure(
            name,
            index,
            f"its last expression is a bare {last.value.value}, which nbgrader scores without looking",
            item["source"],
        )
    results = [o["data"]["text/plain"] for o in item["outputs"] if o["output_type"] == "execute_result"]
    for text in results:
        try:
            earned = float(text)
        except ValueError:
            earned = None
        if text in ("True", "False") or earned is None or abs(earned - float(cell.points or 0)) > 1e-9:
            reason = f"the worked solution must earn {cell.points} points here, got {text}; nbgrader reads the last value as the score"
            raise CellFailure(name, index, reason, item["source"])


def _digest(course: Course, made: Notebook, *extra: Path) -> str:
    code = [c["source"] for c in build.code_cells(made)]
    return dependencies.digest(code, CODE_ROOT, extra, salt=str(build.BUILDER_VERSION))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tools.notebooks",
        description="Build the course's notebooks from their text; execute those whose code changed.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "chapters", nargs="*", metavar="CHAPTER", help="chapters by slug or number (default: all of them)"
    )
    parser.add_argument("--all", action="store_true", help="execute every notebook, changed or not")
    parser.add_argument(
        "--no-execute",
        action="store_true",
        help="write texts, keep the outputs of cells that did not change, run nothing",
    )
    parser.add_argument(
        "--check", action="store_true", help="write nothing; name what differs from its text and exit with 1"
    )
    parser.add_argument(
        "--release",
        action="store_true",
        help="let nbgrader make the assignments under course/release/, and nothing else",
    )
    parser.add_argument(
        "--drop", action="append", default=[], metavar="ID", help="let this id vanish from its assignment"
    )
    parser.add_argument("--root", type=Path, default=CODE_ROOT, help="the folder that holds course/ and lessons/")
    return parser


def main(argv: list[str] | None = None) -> int:
    """The exit status: 0 when all is built (or, with --check, as its text says)."""
    options = _parser().parse_args(argv)
    course = Course(options.root.resolve())
    try:
        slugs = [course.find(wanted) for wanted in options.chapters] or course.slugs()
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    if options.release:
        from tools.release import make_release

        return make_release(course, slugs, force=options.all)
    failures = 0
    makers = [maker for slug in slugs for maker in targets(course, slug, tuple(options.drop))]
    for maker in [*makers, *pages(course)]:
        try:
            failures += _handle(maker(), course, options)
        except FAILURES as error:
            failures += 1
            print(f"failed: {str(error).replace(f'{course.root}/', '')}", file=sys.stderr)
    if options.check:
        for path in orphans(course):
            failures += 1
            print(f"{course.relative(path)}: no chapter builds it; delete it")
    return int(failures > 0)


def orphans(course: Course) -> list[Path]:
    """Notebooks in the built folders that no chapter stands behind."""
    slugs = course.slugs()
    known = {course.lesson("00_start_here"), course.lesson("claims")}
    known |= {place(slug) for slug in slugs for place in (course.lesson, course.solution, course.source)}
    globs = (("lessons", "*.ipynb"), ("solutions", "*.ipynb"), ("course/source", "*/*.ipynb"))
    return [
        path for folder, pattern in globs for path in sorted((course.root / folder).glob(pattern)) if path not in known
    ]


def _handle(target: Target, course: Course, options: argparse.Namespace) -> int:
    """Build or check one notebook, say so in a line, and return 1 for a finding."""
    name = course.relative(target.path)
    if options.check:
        return compare(target, name)
    if not options.no_execute and target.digest is not None and (options.all or target.stale or target.unexecuted):
        done, seconds = run(target, course)
        build.save(done.made, target.path)
        print(f"{name}: executed in {seconds:.1f} s, {target.path.stat().st_size / 1e3:.0f} kB", flush=True)
        return 0
    check_size(build.dump(target.made), name)
    written = build.save(target.made, target.path)
    print(
        f"{name}: {'written' if written else 'unchanged'}{', outputs not renewed' if target.stale else ''}", flush=True
    )
    return 0


def compare(target: Target, name: str) -> int:
    """1 when the file differs from what its text gives, and 0 when it does not; says so in a line."""
    text = build.dump(target.made)
    if not target.path.is_file():
        print(f"{name}: not built; run make notebooks")
        return 1
    if target.path.read_text(encoding="utf-8") != text:
        print(
            f"{name}: differs from its text {target.made['metadata'][METADATA_KEY]['source']}; edit the text, then run make notebooks"
        )
        return 1
    if target.unexecuted:
        print(f"{name}: holds code that was never run; run make notebooks")
        return 1
    if target.stale:
        print(f"note: {name}: code that it rests on changed since it was run; make notebooks runs it again")
    return 0


if __name__ == "__main__":
    sys.exit(main())
