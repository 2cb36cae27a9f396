"""A class of twelve, graded before your eyes: `make demo`, or `python -m grader.demo`.

Builds a small course folder of its own, hands in twelve notebooks per assignment (the worked solution, right answers that look different,
planted mistakes, an empty one, one that exits, one that never ends), grades them in the sandbox, writes feedback and prints the gradebook.
Ends with exit code 1 when any score is not what was planted.
"""

from __future__ import annotations

import argparse
import copy
import json
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from grader import bridge, course, exchange
from grader.course import Chapter
from grader.exercise import Outcome
from grader.grading import grade_assignment, read_result
from grader.sandbox import NoWalls, find_walls

out = Console(highlight=False, soft_wrap=True)


@dataclass(frozen=True)
class Plant:
    """One submission of the class: its sources by exercise, and what must come of it."""

    student: str
    what: str
    cells: dict[str, str]
    loses: str | None = None
    """The one exercise that must lose its points; "all" for every one; None for none."""
    named: tuple[str, ...] = ()
    """Diagnoses of which feedback must give one."""
    outcome: Outcome | None = None


def plants(chapter: Chapter) -> list[Plant]:
    """Twelve submissions: four whole kinds, eight with one planted fault each, spread over the exercises."""
    right = dict(chapter.solutions)
    exercises = list(chapter.exercises.values())
    variants = {e.name: chapter.source_of(e, e.variants[0]) for e in exercises if e.variants}
    first, last = exercises[0].name, exercises[-1].name
    made = [
        Plant("ada", "the worked solutions", right),
        Plant("bao", "right, but different", {**right, **variants}),
        Plant("chidi", "nothing answered", {}, loses="all"),
        Plant(
            "dana",
            f"{first} never ends",
            {**right, first: _body(chapter, first, "while True: pass")},
            loses=first,
            outcome=Outcome.TIMED_OUT,
        ),
        Plant(
            "emil",
            f"{last} exits",
            {**right, last: _body(chapter, last, "import os; os._exit(0)")},
            loses=last,
            outcome=Outcome.CRASHED,
        ),
    ]
    for n, student in enumerate(("fay", "gus", "hana", "ivo", "jun", "kofi", "lena")):
        exercise = exercises[n % len(exercises)]
        item = exercise.misconceptions[n % len(exercise.misconceptions)]
        cells = {**right, exercise.name: chapter.source_of(exercise, item)}
        made.append(Plant(student, f"{exercise.name}: {item.name}", cells, exercise.name, (item.name, *item.same_as)))
    return made


def _body(chapter: Chapter, exercise: str, statement: str) -> str:
    return "\n".join(f"def {f}(*args, **kwargs):\n    {statement}" for f in chapter.exercises[exercise].all_functions)


def hand_in(root: Path, chapter: Chapter, plant: Plant, folder: Path) -> None:
    """Fills the released notebook with the plant's sources, as a learner would, and hands it in."""
    release = json.loads((root / "release" / chapter.slug / f"{chapter.slug}.ipynb").read_text(encoding="utf-8"))
    notebook: dict[str, Any] = copy.deepcopy(release)
    for cell in notebook["cells"]:
        grade_id = cell["metadata"].get("nbgrader", {}).get("grade_id")
        if grade_id in plant.cells:
            cell["source"] = plant.cells[grade_id]
    path = folder / f"{chapter.slug}.ipynb"
    path.write_text(json.dumps(notebook), encoding="utf-8")
    exchange.submit(root, chapter.slug, path, plant.student)


def judge_plant(chapter: Chapter, plant: Plant, result: dict[str, Any]) -> list[str]:
    """What is not as planted, in sentences; empty when all is."""
    wrong = []
    for entry in result["exercises"]:
        name = entry["exercise"]
        should_pass = plant.loses not in ("all", name)
        if (entry["outcome"] == Outcome.PASSED) is not should_pass:
            wrong.append(
                f"{plant.student}, {name}: want {'passed' if should_pass else 'not passed'}, got {entry['outcome']}"
            )
        if name == plant.loses and plant.named and entry["diagnosis"] not in plant.named:
            wrong.append(f"{plant.student}, {name}: feedback names {entry['diagnosis']!r}, want {plant.named[0]!r}")
        if name == plant.loses and plant.outcome and entry["outcome"] != plant.outcome:
            wrong.append(f"{plant.student}, {name}: want {plant.outcome}, got {entry['outcome']}")
    return wrong


def make_course(source: Path, target: Path) -> Path:
    """A course folder of its own: the chapters and their source notebooks, nothing of a real class."""
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    for name in ("chapters", "source"):
        shutil.copytree(source / name, target / name, ignore=shutil.ignore_patterns("__pycache__"))
    return target


def run(source: Path, target: Path, workers: int, say: Callable[[str], None]) -> list[str]:
    """The whole class on every assignment. Returns what was not as planted."""
    try:
        walls = find_walls().kind
        unsafe = False
    except NoWalls as missing:
        say(f"No sandbox here: {missing}\nThe demo goes on without one, since these submissions are its own.")
        walls, unsafe = "no sandbox", True
    root = make_course(source, target)
    faults: list[str] = []
    for slug in course.slugs(root):
        chapter = course.load(slug, root)
        bridge.generate_release(root, slug)
        inbox = target / "desk"
        inbox.mkdir(exist_ok=True)
        class_ = plants(chapter)
        for plant in class_:
            hand_in(root, chapter, plant, inbox)
        exchange.collect(root, slug)
        start = time.perf_counter()
        grade_assignment(root, slug, workers=workers, unsafe_local=unsafe)
        seconds = time.perf_counter() - start
        rows = {r.student: r for r in bridge.rows(root, slug)}
        possible = sum(chapter.points.values())
        table = Table(
            "student",
            "handed in",
            "score",
            "%",
            "feedback names",
            title=f"{slug}: {len(class_)} submissions in {seconds:.1f} s, {walls}",
            title_justify="left",
        )
        for plant in class_:
            result = read_result(root, slug, plant.student) or {"exercises": []}
            faults += judge_plant(chapter, plant, result)
            exchange.return_feedback(root, slug, plant.student)
            lost = [e for e in result["exercises"] if e["outcome"] != Outcome.PASSED]
            told = (
                f"{lost[0]['exercise']}: {lost[0]['diagnosis'] or lost[0]['outcome']}"
                if len(lost) == 1
                else f"{len(lost)} open"
                if lost
                else ""
            )
            score = sum(points for name, points in rows[plant.student].cells.items() if name.startswith("judge_"))
            table.add_row(
                plant.student, plant.what, f"{score:g} of {possible:g}", f"{100 * score / possible:.0f}", told
            )
        out.print(table)
        if chapter.manual:
            out.print(
                f"{sum(chapter.manual.values()):g} points more are for a person to give: {', '.join(chapter.manual)}"
            )
    say(f"Feedback pages: {root / 'feedback'}; gradebook: {root / 'gradebook.db'} (nbgrader's own format)")
    return faults


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m grader.demo", description=__doc__.split("\n")[0])
    parser.add_argument(
        "--folder", type=Path, default=Path(".demo"), help="where the demonstration course is made (it is replaced)"
    )
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args(arguments)
    faults = run(course.find_root(), options.folder.resolve() / "course", options.workers, out.print)
    for fault in faults:
        out.print(f"not as planted: {fault}", markup=False)
    if not faults:
        out.print(
            "Every score is as planted: right answers kept their points, each mistake lost exactly its exercise and was named."
        )
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
